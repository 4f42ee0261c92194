/*
 * sticky.c - level 5: see sticky.h.
 *
 * May include: olla.h, str.h, conf.h, net.h, endpoint.h, sticky.h.
 */
#include "sticky.h"

#include "log.h"
#include "net.h"

#define NONE  UINT16_MAX
#define SLOTS (2 * OLLA_MAX_SESSIONS + 1)

struct session {
    uint64_t key;
    uint64_t used; /* ms */
    uint32_t generation;
    uint16_t newer, older; /* in the order of use */
    uint16_t next;         /* in its chain, or in the list of free ones */
    uint8_t slot;          /* of the endpoint */
};

static struct session sessions[OLLA_MAX_SESSIONS];
static uint16_t chains[SLOTS];
static uint16_t newest = NONE, oldest = NONE, unused = NONE;
static uint16_t fresh; /* from here on none was ever used, nor touched */
static struct sticky_stats stats;

const char *sticky_word(enum sticky_outcome outcome)
{
    static const char *const words[] = {"", "disabled", "hit", "miss", "repin"};
    return words[outcome];
}

void sticky_init(void)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        chains[i] = NONE;
    }
    fresh = 0;
    unused = NONE;
}

/* ---- lists --------------------------------------------------------------------------- */

static void unlink_use(uint16_t at)
{
    struct session *s = &sessions[at];
    *(s->newer == NONE ? &newest : &sessions[s->newer].older) = s->older;
    *(s->older == NONE ? &oldest : &sessions[s->older].newer) = s->newer;
}

static void make_newest(uint16_t at)
{
    sessions[at].older = newest;
    sessions[at].newer = NONE;
    *(newest == NONE ? &oldest : &sessions[newest].newer) = at;
    newest = at;
}

static uint16_t *chain_of(uint64_t key)
{
    return &chains[key % SLOTS];
}

static uint16_t find(uint64_t key)
{
    uint16_t at = *chain_of(key);
    while (at != NONE && sessions[at].key != key) {
        at = sessions[at].next;
    }
    return at;
}

static void forget(uint16_t at)
{
    uint16_t *link = chain_of(sessions[at].key);
    while (*link != at) {
        link = &sessions[*link].next;
    }
    *link = sessions[at].next;
    unlink_use(at);
    sessions[at].next = unused;
    unused = at;
    stats.active--;
    stats.evictions++;
}

/* Those whose time is over; they are the oldest. */
static void expire(void)
{
    uint64_t ttl = (uint64_t)conf_now->proxy.sticky_sessions.idle_ttl_seconds * 1000;
    while (ttl > 0 && oldest != NONE && sessions[oldest].used + ttl <= net_now()) {
        forget(oldest);
    }
}

/* ---- pins ---------------------------------------------------------------------------- */

static struct endpoint *endpoint_of(const struct session *s)
{
    struct endpoint *e = endpoint_slot(s->slot);
    return e && !e->removed && e->generation == s->generation ? e : NULL;
}

struct endpoint *sticky_peek(uint64_t key, bool *had)
{
    expire();
    uint16_t at = find(key);
    *had = at != NONE;
    return at != NONE ? endpoint_of(&sessions[at]) : NULL;
}

struct endpoint *sticky_find(uint64_t key, bool *had)
{
    expire();
    uint16_t at = find(key);
    *had = at != NONE;
    if (at == NONE) {
        return NULL;
    }
    sessions[at].used = net_now();
    unlink_use(at);
    make_newest(at);
    return endpoint_of(&sessions[at]);
}

void sticky_pin(uint64_t key, const struct endpoint *e)
{
    expire();
    uint16_t at = find(key);
    if (at == NONE) {
        while ((unused == NONE && fresh == OLLA_MAX_SESSIONS) ||
               stats.active >= (unsigned)conf_now->proxy.sticky_sessions.max_sessions) {
            static struct log_limit hit;
            forget(oldest);
            log_limit(&hit, net_now(), "conversations are forgotten before their time",
                      "proxy.sticky_sessions.max_sessions", (uint64_t)conf_now->proxy.sticky_sessions.max_sessions);
        }
        if (unused != NONE) {
            at = unused;
            unused = sessions[at].next;
        } else {
            at = fresh++;
        }
        sessions[at].key = key;
        sessions[at].next = *chain_of(key);
        *chain_of(key) = at;
        stats.active++;
        stats.insertions++;
    } else {
        unlink_use(at);
    }
    sessions[at].used = net_now();
    sessions[at].slot = (uint8_t)e->slot;
    sessions[at].generation = e->generation;
    make_newest(at);
}

void sticky_count(enum sticky_outcome outcome)
{
    stats.hits += outcome == STICKY_HIT;
    stats.misses += outcome == STICKY_MISS;
}

const struct sticky_stats *sticky_stats(void)
{
    expire();
    return &stats;
}

/* ---- placing --------------------------------------------------------------------------- */

static uint32_t mix(uint64_t key, uint32_t name)
{
    uint64_t h = key ^ (uint64_t)name * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ h >> 32) * UINT64_C(0xd6e8feb86659fd93);
    h = (h ^ h >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return (uint32_t)(h >> 32);
}

/* 65536 x -log2((h + 1) / 2^32), never 0: small for large h. In whole numbers, so that all machines place alike. */
static uint32_t minus_log2(uint32_t h)
{
    uint64_t v = (uint64_t)h + 1;
    uint32_t whole = 0, part = 0;
    while (v < UINT64_C(1) << 32) {
        v <<= 1;
        whole++;
    }
    /* v is in [2^32, 2^33): its logarithm bit by bit */
    uint64_t m = v >> 1; /* [2^31, 2^32): as a fraction [1, 2) */
    for (int bit = 15; bit >= 0; bit--) {
        m = m * m >> 31;
        if (m >= UINT64_C(1) << 32) {
            m >>= 1;
            part |= UINT32_C(1) << bit;
        }
    }
    return (whole << 16) - part + 1;
}

struct endpoint *sticky_place(uint64_t key, endpoint_set equal)
{
    struct endpoint *best = NULL, *e;
    uint64_t least = 0;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (!(equal & endpoint_bit(e))) {
            continue;
        }
        /* Weighted rendezvous: the one with the least of -log(hash) / weight. */
        uint64_t score = (uint64_t)minus_log2(mix(key, str_hash(str_of(e->name)))) * 1000 / e->weight;
        if (!best || score < least) {
            best = e;
            least = score;
        }
    }
    return best;
}

size_t sticky_cost(void)
{
    return sizeof(sessions[0]);
}
