/*
 * upstream.c - level 4: see upstream.h.
 *
 * May include: olla.h, net.h, buf.h, pool.h, endpoint.h, upstream.h.
 */
#include "upstream.h"

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

/* Whatever happens on an idle connection, it is of no use any more. */
static void idle_ready(struct stream *s, short events)
{
    struct upstream *u = s->owner;
    (void)events;
    unlink_idle(u);
    upstream_close(u, NET_CLOSE);
}

static void idle_expired(struct stream *s)
{
    idle_ready(s, 0);
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
    net_deadline(&u->s, 0);
    return u;
}

/* An idle connection makes room for work: the one that its endpoint used longest ago. */
static bool evict_one(void)
{
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        struct endpoint *e = endpoint_slot(i);
        struct upstream *u = e ? e->idle : NULL;
        if (u) {
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

struct upstream *upstream_connect(struct endpoint *e, int which, unsigned keepalive_s, const struct stream_ops *ops,
                                  void *owner, bool *no_slot)
{
    *no_slot = false;
    struct upstream *u = pool_get(POOL_UPSTREAM);
    if (!u && evict_one()) {
        u = pool_get(POOL_UPSTREAM);
    }
    if (!u) {
        *no_slot = true;
        return NULL;
    }
    int fd = plat_connect(&e->at[TARGET_MAIN].addr[which], keepalive_s);
    if (fd < 0 && plat_error() == PLAT_FAIL_NO_FDS) {
        /* An idle connection is worth less than a request. */
        if (evict_one()) {
            fd = plat_connect(&e->at[TARGET_MAIN].addr[which], keepalive_s);
        }
        *no_slot = fd < 0 && plat_error() == PLAT_FAIL_NO_FDS;
    }
    if (fd < 0) {
        pool_put(POOL_UPSTREAM, u);
        return NULL;
    }
    u->e = e;
    u->which = which;
    u->generation = e->generation;
    net_open(&u->s, fd, ops, owner);
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
