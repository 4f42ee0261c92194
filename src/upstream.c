/*
 * upstream.c - level 4: see upstream.h.
 *
 * May include: olla.h, net.h, buf.h, pool.h, log.h, endpoint.h, upstream.h.
 */
#include "upstream.h"

#include "log.h"
#include "pool.h"

POOL_STORAGE(UPSTREAM, struct upstream, upstream_pool)

static unsigned idle_total;

void upstream_init(void)
{
    upstream_pool();
}

static void unlink_idle(struct upstream *u)
{
    struct upstream **at = &u->e->idle;
    while (*at != u) {
        at = &(*at)->next;
    }
    *at = u->next;
    u->next = NULL;
    u->e->idle_n--;
    idle_total--;
}

static void idle_expired(struct stream *s)
{
    struct upstream *u = s->owner;
    unlink_idle(u);
    upstream_close(u, NET_CLOSE);
}

/* Whatever happens on an idle connection, it is of no use any more: but TLS has messages of its own, like tickets. */
static void idle_ready(struct stream *s, short events)
{
    char byte;
    if (!s->tls || (events & (POLLERR | POLLHUP)) || net_take(s, &byte, 1) != OLLA_AGAIN) {
        idle_expired(s);
    }
}

static const struct stream_ops idle_ops = {idle_ready, idle_expired};

struct upstream *upstream_take(struct endpoint *e, const struct stream_ops *ops, void *owner)
{
    struct upstream *u = e->idle;
    if (!u) {
        return NULL;
    }
    unlink_idle(u);
    u->s.ops = ops;
    u->s.owner = owner;
    u->reused = true;
    u->got_bytes = false;
    net_heat(&u->s, NET_HOT);
    net_deadline(&u->s, 0);
    return u;
}

/* An idle connection makes room for work: the one that its endpoint used longest ago. tls: only one that has it. */
static bool evict_one(bool tls)
{
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        struct endpoint *e = endpoint_slot(i);
        struct upstream *u = e ? e->idle : NULL;
        if (u && (u->s.tls || !tls)) {
            while (u->next) {
                u = u->next;
            }
            unlink_idle(u);
            upstream_close(u, NET_CLOSE);
            return true;
        }
    }
    return false;
}

bool upstream_tls_room(void)
{
    return tls_can_connect() || evict_one(true);
}

struct upstream *upstream_connect(struct endpoint *e, int which, unsigned keepalive_s, const struct stream_ops *ops,
                                  void *owner, bool *no_slot)
{
    bool tls = e->at[TARGET_MAIN].tls;
    static struct log_limit hit;
    static uint64_t warned;

    if (pool_free_count(POOL_UPSTREAM) == 0) {
        evict_one(false);
    }
    struct upstream *u = pool_get(POOL_UPSTREAM);
    *no_slot = !u || (tls && !upstream_tls_room());
    if (*no_slot) {
        if (u) {
            log_limit(&hit, net_now(), "no TLS connection to a backend is free, answered with 503",
                      "OLLA_MAX_TLS_UPSTREAMS", OLLA_MAX_TLS_UPSTREAMS);
        }
        pool_put(POOL_UPSTREAM, u);
        return NULL;
    }
    int fd = plat_connect(&e->at[TARGET_MAIN].addr[which], keepalive_s);
    if (fd < 0 && plat_error() == PLAT_FAIL_NO_FDS) {
        /* An idle connection is worth less than a request. */
        if (evict_one(false)) {
            fd = plat_connect(&e->at[TARGET_MAIN].addr[which], keepalive_s);
        }
        *no_slot = fd < 0 && plat_error() == PLAT_FAIL_NO_FDS;
        if (*no_slot && log_allowed(&warned, net_now())) {
            log_line(LOG_WARN, "a backend cannot be connected to, answered with 503", "error",
                     str_of(plat_error_text()), "remedy", STR("raise the limit of open files (ulimit -n)"));
        }
    }
    if (fd < 0) {
        pool_put(POOL_UPSTREAM, u);
        return NULL;
    }
    u->e = e;
    u->which = which;
    u->generation = e->generation;
    net_open(&u->s, fd, ops, owner);
    if (tls) {
        net_connect_tls(&u->s, endpoint_peer(e, TARGET_MAIN));
    }
    return u;
}

void upstream_keep(struct upstream *u, unsigned limit_s)
{
    struct endpoint *e = u->e;
    uint64_t idle_ms = e->profile->idle_ms;

    if (limit_s > 0 && (uint64_t)limit_s * 1000 - 500 < idle_ms) {
        idle_ms = (uint64_t)limit_s * 1000 - 500; /* ours must end before theirs */
    }
    if (e->removed || u->generation != e->generation || e->idle_n >= OLLA_MAX_IDLE_PER_ENDPOINT ||
        buf_len(&u->in) > 0 || buf_len(&u->out) > 0) {
        upstream_close(u, NET_CLOSE);
        return;
    }
    buf_drop(&u->in);
    buf_drop(&u->out);
    u->s.ops = &idle_ops;
    u->s.owner = u;
    u->next = e->idle;
    e->idle = u;
    e->idle_n++;
    idle_total++;
    net_want(&u->s, true, false);
    net_heat(&u->s, NET_COLD);
    net_deadline(&u->s, net_now() + idle_ms);
}

void upstream_close(struct upstream *u, enum net_how how)
{
    net_close(&u->s, how);
    buf_drop(&u->in);
    buf_drop(&u->out);
    pool_put(POOL_UPSTREAM, u);
}

void upstream_drop_idle(struct endpoint *e)
{
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        struct endpoint *each = endpoint_slot(i);
        while (each && each->idle && (!e || e == each)) {
            struct upstream *u = each->idle;
            unlink_idle(u);
            upstream_close(u, NET_CLOSE);
        }
    }
}

unsigned upstream_idle_count(void)
{
    return idle_total;
}
