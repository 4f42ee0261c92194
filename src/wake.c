/*
 * wake.c - level 6: see wake.h.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, hooks.h, wake.h.
 */
#include "wake.h"

#include <string.h>

#include "hooks.h"
#include "log.h"

/* Packets get lost, and a machine that is just going to sleep does not hear them: again after 1, 2, 4, 8, 10, 10 ... s. */
#define PACKET_FIRST_MS 1000
#define PACKET_LAST_MS  10000
/* One that is up but does not tell its models by then is taken at its old word. */
#define LIST_MS 10000
/* A guess for the first time. */
#define EXPECTED_MS 30000
#define NETWORKS    16

struct wake_stats wake_stats;

static struct exchange *held[OLLA_MAX_CLIENTS]; /* in the order of coming */
static uint32_t seen_news;

/* ---- packets ------------------------------------------------------------------------ */

void wake_packet(const uint8_t mac[6], unsigned char to[WAKE_PACKET])
{
    memset(to, 0xff, 6);
    for (size_t at = 6; at < WAKE_PACKET; at += 6) {
        memcpy(to + at, mac, 6);
    }
}

/* The socket for that kind of address, opened when it is first needed. */
static int socket_for(const struct plat_addr *to)
{
    static struct {
        int fd;
        uint8_t len;
    } known[2] = {{-1, 0}, {-1, 0}}; /* IPv4 and IPv6 */
    size_t i = known[0].len != 0 && known[0].len != to->len;

    if (known[i].fd < 0) {
        known[i].fd = plat_udp_open(to);
        known[i].len = to->len;
    }
    return known[i].fd;
}

static void send_packet(struct endpoint *e)
{
    unsigned char packet[WAKE_PACKET];
    struct plat_addr more[NETWORKS];
    int fd = socket_for(&e->wake.to), count = 0, sent;

    wake_packet(e->wake.mac, packet);
    sent = fd < 0 ? fd : plat_udp_send(fd, &e->wake.to, packet, sizeof(packet));
    if (fd >= 0 && plat_addr_is_everybody(&e->wake.to)) {
        /* That one leaves by one interface only, on a router perhaps the wrong one. */
        count = plat_broadcasts(fd, plat_addr_port(&e->wake.to), more, NETWORKS);
    }
    for (int i = 0; i < count; i++) {
        sent = plat_udp_send(fd, &more[i], packet, sizeof(packet)) == OLLA_OK ? OLLA_OK : sent;
    }
    if (sent != OLLA_OK && e->wake.packets == 0) {
        log_line(LOG_WARN, "magic packet cannot be sent", "endpoint", str_of(e->name), "error",
                 str_of(plat_error_text()));
    }
    uint64_t gap = UINT64_C(1) << (e->wake.packets < 10 ? e->wake.packets : 10);
    gap = gap * PACKET_FIRST_MS < PACKET_LAST_MS ? gap * PACKET_FIRST_MS : PACKET_LAST_MS;
    e->wake.packets++;
    e->wake.next_packet = net_now() + gap;
}

/* Of several endpoints on one machine that are woken at the same time the first one's packets do. */
static bool sends(const struct endpoint *e)
{
    const struct endpoint *other;
    for (int i = 0; (other = endpoint_at(i)) != NULL; i++) {
        if (other != e && other->wake.active && endpoint_same_machine(e, other) &&
            (other->wake.started < e->wake.started ||
             (other->wake.started == e->wake.started && other->slot < e->slot))) {
            return false;
        }
    }
    return true;
}

/* ---- wakes ---------------------------------------------------------------------------- */

static unsigned waiting_for(const struct endpoint *e)
{
    unsigned n = 0;
    for (unsigned i = 0; i < wake_stats.waiting; i++) {
        n += held[i]->wake.slot == e->slot;
    }
    return n;
}

static void prolong(struct endpoint *e)
{
    e->wake.until = net_now() + (uint64_t)e->wake.timeout;
    e->eager_until = e->wake.until;
}

bool wake_start(struct endpoint *e, const char *why)
{
    if (!e->wake.can || !e->enabled) {
        return false;
    }
    if (e->wake.active || endpoint_is_up(e)) {
        return true;
    }
    e->wake.active = true;
    e->wake.started = e->wake.next_packet = net_now();
    e->wake.packets = 0;
    e->wake.wakes++;
    endpoint_expect(e, (uint64_t)e->wake.timeout);
    prolong(e);
    endpoint_tell();
    if (log_begin(LOG_INFO, "waking")) {
        log_z("endpoint", e->name);
        log_z("reason", why);
        log_u64("timeout_ms", (uint64_t)e->wake.timeout);
        log_end();
    }
    hooks_event(HOOK_WAKE, e, why);
    return true;
}

/* It serves: it is up, and has told its models since. */
static bool is_ready(const struct endpoint *e)
{
    bool up = endpoint_is_up(e) && e->state != ENDPOINT_WARMING;
    bool never_away = e->since < e->wake.started;
    bool listed = !conf_now->discovery.model_discovery.enabled || e->last_discovery >= e->wake.started;

    return up && (never_away || listed || net_now() - e->since >= LIST_MS);
}

static void end(struct endpoint *e, bool awake)
{
    uint64_t took = net_now() - e->wake.started;
    struct endpoint *other;

    e->wake.active = false;
    e->wake.failed_at = awake ? 0 : net_now();
    e->wake.failures += !awake;
    e->wake.took_ms = awake && took < UINT32_MAX ? (uint32_t)took : e->wake.took_ms;
    e->eager_until = 0;
    endpoint_tell();
    for (int i = 0; awake && (other = endpoint_at(i)) != NULL; i++) {
        if (other != e && other->state == ENDPOINT_ASLEEP && endpoint_same_machine(e, other)) {
            endpoint_expect(other, (uint64_t)other->wake.timeout);
        }
    }
    if (log_begin(awake ? LOG_INFO : LOG_WARN, awake ? "awake" : "machine did not wake up")) {
        log_z("endpoint", e->name);
        log_u64("took_ms", took);
        log_u64("packets", e->wake.packets);
        if (!awake) {
            log_z("reason", e->why);
        }
        log_end();
    }
}

uint64_t wake_expected(const struct endpoint *e)
{
    uint64_t took = e->wake.took_ms > 0 ? e->wake.took_ms : EXPECTED_MS;
    uint64_t at = (e->wake.active ? e->wake.started : net_now()) + took;
    return at > net_now() + 1000 ? at - net_now() : 1000;
}

struct wake_view wake_view(const struct endpoint *e)
{
    uint64_t now = net_now();
    struct wake_view v = {.state = "asleep", .since_ms = now - e->since, .waiting = waiting_for(e)};

    if (e->wake.active) {
        v.state = "waking";
        v.since_ms = now - e->wake.started;
        v.left_ms = e->wake.until > now ? e->wake.until - now : 0;
    } else if (e->wake.quiet) {
        v.state = "suspending";
    } else if (e->state != ENDPOINT_ASLEEP) {
        v.state = "awake";
    } else if (e->wake.failed_at > 0) {
        v.state = "failed";
        v.since_ms = now - e->wake.failed_at;
    }
    return v;
}

/* ---- requests that wait ------------------------------------------------------------------ */

bool wake_enter(struct exchange *x, struct endpoint *e)
{
    if (!x->wake.waits && wake_stats.waiting >= (unsigned)conf_now->proxy.queue.max_waiting) {
        wake_stats.refused++;
        return false;
    }
    if (!x->wake.waits) {
        x->wake.since = net_now();
        held[wake_stats.waiting++] = x;
        wake_stats.max = wake_stats.waiting > wake_stats.max ? wake_stats.waiting : wake_stats.max;
        if (e->wake.active) {
            prolong(e); /* as long as the last one's patience */
        }
    }
    x->wake.waits = true;
    x->wake.slot = (uint8_t)e->slot;
    (void)wake_start(e, "a request waits for it");
    return true;
}

void wake_leave(struct exchange *x)
{
    if (!x->wake.waits) {
        return;
    }
    unsigned at = 0;
    while (held[at] != x) {
        at++;
    }
    memmove(&held[at], &held[at + 1], (wake_stats.waiting - at - 1) * sizeof(held[0]));
    wake_stats.waiting--;
    x->wake.waits = false;
    x->wake.ms += net_now() - x->wake.since;
}

void wake_story(const struct exchange *x, struct text *t)
{
    const struct endpoint *e = endpoint_slot(x->wake.slot);

    wake_stats.timed_out++;
    text_addz(t, "the machine of endpoint \"");
    text_addz(t, e ? e->name : "");
    text_addz(t, "\" did not wake up in time (wake.timeout): in ");
    text_u64(t, (net_now() - x->wake.since + 500) / 1000);
    text_addz(t, " s of waiting ");
    text_u64(t, e ? e->wake.packets : 0);
    text_addz(t, e && e->wake.packets == 1 ? " magic packet was sent, and it " : " magic packets were sent, and it ");
    text_addz(t, e && e->why ? e->why : "");
}

static void go_on(void)
{
    for (unsigned at = 0; at < wake_stats.waiting;) {
        struct exchange *x = held[at];
        x->c->run(x->c); /* goes on, is answered, or waits again */
        if (at < wake_stats.waiting && held[at] == x) {
            at++;
        }
    }
}

uint64_t wake_tick(void)
{
    uint64_t now = net_now(), next = UINT64_MAX;
    struct endpoint *e;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (!e->wake.active) {
            continue;
        }
        bool over = now >= e->wake.until && waiting_for(e) == 0;
        bool ready = is_ready(e);
        if (!e->enabled) {
            e->wake.active = false; /* by hand */
            endpoint_tell();
            continue;
        }
        if (ready || over) {
            end(e, ready);
            continue;
        }
        e->eager_until = endpoint_is_up(e) ? e->eager_until : e->wake.until; /* it may come and go while it boots */
        if (!e->wake.quiet && e->wake.next_packet <= now && sends(e)) {
            if (!endpoint_is_up(e)) {
                send_packet(e);
            } else {
                e->wake.next_packet = now + PACKET_FIRST_MS;
            }
        }
        uint64_t at = !e->wake.quiet && sends(e) && e->wake.next_packet < e->wake.until ? e->wake.next_packet
                                                                                        : e->wake.until;
        at = endpoint_is_up(e) && e->since + LIST_MS < at ? e->since + LIST_MS : at;
        at = at > now ? at : now + 1; /* those who wait are told of their deadlines in this turn */
        next = at < next ? at : next;
    }
    if (wake_stats.waiting > 0 && seen_news != endpoint_news()) {
        seen_news = endpoint_news();
        go_on();
        return seen_news != endpoint_news() ? now : next;
    }
    return next;
}
