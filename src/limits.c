/*
 * limits.c - level 5: see limits.h.
 *
 * May include: olla.h, str.h, bucket.h, cidr.h, http.h, conf.h, log.h, platform.h, limits.h.
 */
#include "limits.h"

#include <string.h>

#include "bucket.h"
#include "conf.h"
#include "log.h"

#define WINDOW_MS 60000
#define HOUR_MS   3600000

#define NONE   UINT16_MAX
#define CHAINS (2 * OLLA_MAX_RATE_CLIENTS + 1)

struct entry {
    struct cidr_addr who;
    struct bucket bucket;
    uint64_t window;       /* when the minute began that X-RateLimit-Remaining is about */
    uint64_t limited;      /* the last 429, 0 = none */
    uint32_t passed;       /* requests in that minute */
    uint16_t newer, older; /* in the order of use */
    uint16_t next;         /* in its chain */
};

static struct entry entries[OLLA_MAX_RATE_CLIENTS];
static uint16_t chains[CHAINS];
static uint16_t newest, oldest, used;
static struct bucket shared;
struct limits_totals limits_totals;

/* ---- the table ----------------------------------------------------------------------- */

void limits_init(void)
{
    for (size_t i = 0; i < CHAINS; i++) {
        chains[i] = NONE;
    }
    newest = oldest = NONE;
    used = 0;
    memset(&shared, 0, sizeof(shared));
}

struct cidr_addr limits_addr(const struct plat_addr *a)
{
    struct cidr_addr out;

    plat_addr_bytes(a, out.b);
    return out;
}

/* What tells one client from another. */
static struct cidr_addr client_of(const struct cidr_addr *a)
{
    struct cidr_addr c = *a;

    if (!cidr_is_v4(a)) {
        memset(c.b + 8, 0, 8);
    }
    return c;
}

bool limits_same_client(const struct cidr_addr *a, const struct cidr_addr *b)
{
    struct cidr_addr x = client_of(a), y = client_of(b);

    return memcmp(&x, &y, sizeof(x)) == 0;
}

static uint16_t *chain_of(const struct cidr_addr *c)
{
    return &chains[str_hash((struct str){(const char *)c->b, sizeof(c->b)}) % CHAINS];
}

static void unlink_use(uint16_t at)
{
    struct entry *e = &entries[at];

    *(e->newer == NONE ? &newest : &entries[e->newer].older) = e->older;
    *(e->older == NONE ? &oldest : &entries[e->older].newer) = e->newer;
}

static void make_newest(uint16_t at)
{
    entries[at].older = newest;
    entries[at].newer = NONE;
    *(newest == NONE ? &oldest : &entries[newest].newer) = at;
    newest = at;
}

/* A place of nobody: an unused one, or that of the client that was idle longest. */
static uint16_t free_place(uint64_t now_ms)
{
    static struct log_limit hit;

    if (used < OLLA_MAX_RATE_CLIENTS) {
        return used++;
    }
    if (now_ms - entries[oldest].window < WINDOW_MS) {
        log_limit(&hit, now_ms, "clients are forgotten, and with them what they have used of server.rate_limits",
                  "OLLA_MAX_RATE_CLIENTS", OLLA_MAX_RATE_CLIENTS);
    }
    uint16_t at = oldest, *link = chain_of(&entries[at].who);
    while (*link != at) {
        link = &entries[*link].next;
    }
    *link = entries[at].next;
    unlink_use(at);
    return at;
}

static struct entry *entry_of(const struct cidr_addr *who, uint64_t now_ms)
{
    struct cidr_addr c = client_of(who);
    uint16_t *chain = chain_of(&c), at = *chain;

    while (at != NONE && memcmp(&entries[at].who, &c, sizeof(c)) != 0) {
        at = entries[at].next;
    }
    if (at == NONE) {
        at = free_place(now_ms);
        memset(&entries[at], 0, sizeof(entries[at]));
        entries[at].who = c;
        entries[at].next = *chain; /* read again: the place may have come from this chain */
        *chain = at;
    } else {
        unlink_use(at);
    }
    make_newest(at);
    return &entries[at];
}

/* ---- requests -------------------------------------------------------------------------- */

static void say_limited(const char *text, uint64_t now_ms, enum limits_answer answer)
{
    static uint64_t warned;

    if (log_allowed(&warned, now_ms) && log_begin(LOG_WARN, "requests over server.rate_limits are answered with 429")) {
        log_z("client", text);
        log_z("limit", answer == LIMITS_ALL ? "global_requests_per_minute" : "per_ip_requests_per_minute");
        log_u64("limited_so_far", limits_totals.requests);
        log_end();
    }
}

enum limits_answer limits_take(const struct cidr_addr *who, uint64_t now_ms, struct limits_figures *f,
                               uint64_t *wait_ms)
{
    uint64_t rate = (uint64_t)conf_now->server.rate_limits.per_ip_requests_per_minute;
    uint64_t all = (uint64_t)conf_now->server.rate_limits.global_requests_per_minute;
    uint64_t burst = (uint64_t)conf_now->server.rate_limits.burst_size;
    enum limits_answer answer = LIMITS_PASS;
    char text[48];

    *f = (struct limits_figures){0, 0};
    *wait_ms = 0;
    if (rate == 0 && all == 0) {
        return LIMITS_NONE;
    }
    struct entry *e = entry_of(who, now_ms);
    uint64_t own_wait = rate > 0 ? bucket_wait(&e->bucket, rate, burst, now_ms) : 0;
    uint64_t shared_wait = all > 0 ? bucket_wait(&shared, all, burst, now_ms) : 0;
    if (e->window == 0 || now_ms - e->window >= WINDOW_MS) {
        e->window = now_ms;
        e->passed = 0;
    }
    if (own_wait > 0) {
        answer = LIMITS_CLIENT;
        *wait_ms = own_wait;
    } else if (shared_wait > 0) {
        answer = LIMITS_ALL;
        *wait_ms = shared_wait;
    } else {
        if (rate > 0) {
            bucket_take(&e->bucket);
        }
        if (all > 0) {
            bucket_take(&shared);
        }
        e->passed++;
    }
    f->limit = (uint32_t)(rate > 0 ? rate : all);
    f->remaining = rate == 0                                   ? (uint32_t)bucket_left(&shared)
                   : answer == LIMITS_ALL || e->passed >= rate ? 0
                                                               : (uint32_t)rate - e->passed;
    if (answer != LIMITS_PASS) {
        e->limited = now_ms;
        limits_totals.requests++;
        plat_bytes_text(who->b, text, sizeof(text));
        say_limited(text, now_ms, answer);
    }
    return answer;
}

unsigned limits_limited(uint64_t now_ms)
{
    unsigned count = 0;

    for (unsigned i = 0; i < used; i++) {
        count += entries[i].limited != 0 && now_ms - entries[i].limited < HOUR_MS;
    }
    return count;
}

/* ---- who asks ------------------------------------------------------------------------ */

static bool is_proxy(const struct cidr_addr *a)
{
    return cidr_any(conf_now->server.rate_limits.trusted_proxy_cidrs.item,
                    conf_now->server.rate_limits.trusted_proxy_cidrs.n, a);
}

bool limits_trusts(const struct cidr_addr *peer)
{
    return conf_now->server.rate_limits.trust_proxy_headers && is_proxy(peer);
}

/* ADDRESS, ADDRESS:PORT of IPv4, [ADDRESS] or [ADDRESS]:PORT: some proxies write the port, too. */
static int parse_hop(struct str s, struct cidr_addr *out)
{
    bool bracket = str_starts(s, STR("["));
    size_t end = str_find(s, bracket ? ']' : ':');
    struct str rest = str_skip(s, bracket ? end + 1 : end), host = {s.p, end};
    uint64_t port;

    if (bracket) {
        if (end == s.n) {
            return OLLA_ERR;
        }
        host = (struct str){s.p + 1, end - 1};
    } else if (str_find(str_skip(rest, 1), ':') < str_skip(rest, 1).n) {
        return cidr_parse_addr(s, out); /* two colons: IPv6 as it is */
    }
    if (rest.n > 0 && (rest.p[0] != ':' || str_to_u64(str_skip(rest, 1), 65535, &port) != OLLA_OK)) {
        return OLLA_ERR;
    }
    return cidr_parse_addr(host, out);
}

/* What X-Forwarded-For has said so far, from left to right; the last that is no proxy of ours counts. */
struct hops {
    enum { HOPS_NONE = 0, HOPS_PROXIES, HOPS_CLIENT, HOPS_BAD } state;
    struct cidr_addr first, client;
};

static void read_hops(struct hops *h, struct str list)
{
    while (list.p) {
        struct str one = str_split(&list, ',');
        struct cidr_addr a;

        if (one.n == 0) {
            continue;
        }
        if (parse_hop(one, &a) != OLLA_OK) {
            h->state = HOPS_BAD;
        } else if (!is_proxy(&a)) {
            h->state = HOPS_CLIENT;
            h->client = a;
        } else if (h->state == HOPS_NONE) {
            h->state = HOPS_PROXIES;
            h->first = a;
        }
    }
}

bool limits_client(struct str fields, struct cidr_addr *out, char *text, size_t cap)
{
    struct hops h = {.state = HOPS_NONE};
    struct str real = {NULL, 0};
    unsigned reals = 0;
    struct http_field f;

    while (http_next_field(&fields, &f)) {
        if (f.id == HTTP_X_FORWARDED_FOR) {
            read_hops(&h, f.value);
        } else if (f.id == HTTP_X_REAL_IP) {
            real = f.value;
            reals++;
        }
    }
    if (h.state == HOPS_BAD || (h.state == HOPS_NONE && reals == 0)) {
        return false;
    }
    if (h.state == HOPS_CLIENT) {
        *out = h.client;
    } else if (reals == 0) {
        *out = h.first; /* all of them are ours: then it began with one of ours */
    } else if (reals > 1 || parse_hop(real, out) != OLLA_OK) {
        return false;
    }
    plat_bytes_text(out->b, text, cap);
    return true;
}

/* ---- connections --------------------------------------------------------------------- */

bool limits_admits(const struct cidr_addr *peer, const char *text, uint64_t now_ms)
{
    static uint64_t warned;
    const struct conf_cidrs *list = &conf_now->server.access.allowed_cidrs;

    if (list->n == 0 || cidr_any(list->item, list->n, peer)) {
        return true;
    }
    limits_totals.peers++;
    if (log_allowed(&warned, now_ms) && log_begin(LOG_WARN, "connection closed, its peer may not connect")) {
        log_z("client", text);
        log_z("setting", "server.access.allowed_cidrs");
        log_u64("closed_so_far", limits_totals.peers);
        log_end();
    }
    return false;
}

bool limits_admits_more(unsigned connections, const char *text, uint64_t now_ms)
{
    static uint64_t warned;
    unsigned most = (unsigned)conf_now->server.access.max_connections_per_client;

    if (most == 0 || connections < most) {
        return true;
    }
    limits_totals.connections++;
    if (log_allowed(&warned, now_ms) && log_begin(LOG_WARN, "connection closed, its peer has too many")) {
        log_z("client", text);
        log_z("setting", "server.access.max_connections_per_client");
        log_u64("closed_so_far", limits_totals.connections);
        log_end();
    }
    return false;
}

size_t limits_cost(void)
{
    return sizeof(entries[0]);
}
