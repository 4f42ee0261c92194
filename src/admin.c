/*
 * admin.c - level 7: see admin.h. The listings are in listing.c.
 *
 * A page is written in elements. Each call adds whole elements while they
 * fit and remembers where it stopped: in x->cursor (parts, endpoints) or in
 * x->spelling (the last model's name). So a page of any length needs one
 * buffer, and a catalogue that changes meanwhile cannot tear an element.
 *
 * May include: olla.h, levels 1 to 6, admin.h.
 */
#include "admin.h"

#include <string.h>

#include "dashboard.h"
#include "gather.h"
#include "listing.h"
#include "log.h"
#include "messages.h"
#include "model_status.h"
#include "pool.h"
#include "queue.h"
#include "stats.h"

#ifndef OLLA_PLATFORM
#define OLLA_PLATFORM "unknown" /* the Makefile knows */
#endif

static uint64_t start_ms;
static int64_t start_wall;

/* ---- values as the reference writes them (http-surface.md 7) ------------------------- */

void admin_bytes_text(struct text *t, uint64_t n)
{
    static const char *const units[] = {"KB", "MB", "GB", "TB", "PB"};
    unsigned u = 0;
    if (n < 1024) {
        text_u64(t, n);
        text_addz(t, " B");
        return;
    }
    while (u + 1 < OLLA_COUNT(units) && n >> (10 * (u + 2)) > 0) {
        u++;
    }
    uint64_t unit = UINT64_C(1) << (10 * (u + 1)), hundredths = n / unit * 100 + (n % unit * 100 + unit / 2) / unit;
    text_u64(t, hundredths / 100);
    text_char(t, '.');
    text_padded(t, hundredths % 100, 2);
    text_char(t, ' ');
    text_addz(t, units[u]);
}

void admin_percent_text(struct text *t, uint64_t part, uint64_t whole)
{
    if (whole == 0 || part == 0) {
        text_addz(t, "0%");
    } else if (part == whole) {
        text_addz(t, "100%");
    } else {
        uint64_t tenths = (part * 1000 + whole / 2) / whole;
        text_u64(t, tenths / 10);
        text_char(t, '.');
        text_u64(t, tenths % 10);
        text_char(t, '%');
    }
}

void admin_latency_text(struct text *t, uint64_t ms)
{
    if (ms >= 1000) {
        uint64_t tenths = (ms + 50) / 100;
        text_u64(t, tenths / 10);
        text_char(t, '.');
        text_u64(t, tenths % 10);
        text_char(t, 's');
    } else {
        text_u64(t, ms);
        text_addz(t, "ms");
    }
}

static void span_text(struct text *t, uint64_t ms)
{
    uint64_t s = ms / 1000;
    if (s < 60) {
        text_u64(t, s);
        text_char(t, 's');
    } else if (s < 3600) {
        text_u64(t, (s + 30) / 60);
        text_char(t, 'm');
    } else if (s < 86400) {
        text_u64(t, (s + 1800) / 3600);
        text_char(t, 'h');
    } else {
        text_u64(t, (s + 43200) / 86400);
        text_char(t, 'd');
    }
}

void admin_ago_text(struct text *t, uint64_t at)
{
    if (at == 0) {
        text_addz(t, "never");
        return;
    }
    span_text(t, net_now() - at);
    text_addz(t, " ago");
}

static void until_text(struct text *t, uint64_t at)
{
    if (at <= net_now()) {
        text_addz(t, at == 0 ? "unknown" : "now");
        return;
    }
    text_addz(t, "in ");
    span_text(t, at - net_now());
}

static void uptime_text(struct text *t, uint64_t ms)
{
    uint64_t s = ms / 1000;
    if (s < 3600) {
        text_u64(t, s < 60 ? s : (s + 30) / 60);
        text_char(t, s < 60 ? 's' : 'm');
    } else if (s < 86400) {
        text_u64(t, s / 3600);
        text_addz(t, "h ");
        text_u64(t, s / 60 % 60);
        text_char(t, 'm');
    } else {
        text_u64(t, s / 86400);
        text_addz(t, "d ");
        text_u64(t, s / 3600 % 24);
        text_char(t, 'h');
    }
}

void admin_time_text(struct text *t, int64_t wall_ms)
{
    struct plat_time at;
    plat_time_of(wall_ms, false, &at);
    log_time(t, &at, 'T');
    text_char(t, 'Z');
}

/* A monotonic instant as wall time; 0 = never. */
void admin_instant_text(struct text *t, uint64_t at)
{
    /* Between the clocks; kept, so that the same instant is always the same text, until the wall clock is set. */
    static int64_t offset;
    int64_t now = plat_wall_ms() - (int64_t)net_now();

    if (at == 0) {
        text_addz(t, "0001-01-01T00:00:00Z");
        return;
    }
    offset = now - offset > 1000 || offset - now > 1000 ? now : offset;
    admin_time_text(t, offset + (int64_t)at);
}

uint64_t admin_last_seen(endpoint_set set)
{
    uint64_t last = 0;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if ((set & endpoint_bit(e)) && e->last_discovery > last) {
            last = e->last_discovery;
        }
    }
    return last;
}

/* "key":"..." around what a value function writes. */
#define MEMBER(t, key, call)             \
    do {                                 \
        text_addz(t, ",\"" key "\":\""); \
        call;                            \
        text_char(t, '"');               \
    } while (0)

/* ---- elements -------------------------------------------------------------------------- */

/*
 * Adds parts first, first + 1, ... of a page while they fit; part(x, t, i) returns false when there is no part i.
 */
static int parts(struct exchange *x, struct text *t, bool (*part)(struct exchange *, struct text *, uint32_t))
{
    for (;;) {
        struct text before = *t;
        bool any = part(x, t, x->cursor);
        if (t->full && before.n == 0) {
            /* A piece has room for all that olla writes; if not, a hole is better than an endless loop. */
            log_line(LOG_ERROR, "a part of a page does not fit", "path", str_of(x->path), NULL, STR(""));
            *t = before;
            return 0;
        }
        if (t->full) {
            *t = before;
            return 1;
        }
        if (!any) {
            return 0;
        }
        x->cursor++;
    }
}

static bool page_health(struct exchange *x, struct text *t, uint32_t i)
{
    (void)x;
    text_addz(t, i == 0 ? "{\"status\":\"healthy\"}" : "");
    return i == 0;
}

static bool page_version(struct exchange *x, struct text *t, uint32_t i)
{
    (void)x;
    if (i > 0) {
        return false;
    }
    text_addz(
        t,
        "{\"name\":\"Olla\",\"version\":\"" OLLA_VERSION "\",\"edition\":\"C\","
        "\"description\":\"The AI Proxy for your LLMs\","
        "\"build\":{\"commit\":\"none\",\"date\":\"\",\"go_version\":\"\",\"platform\":\"" OLLA_PLATFORM "\"},"
        "\"capabilities\":[\"load_balancing\",\"health_checking\",\"model_unification\",\"endpoint_discovery\"],"
        "\"capabilities_experimental\":[],"
        "\"supported_backends\":[\"ollama\",\"lemonade\",\"litellm\",\"llamacpp\",\"lmdeploy\",\"lm_studio\",\"omlx\","
        "\"sglang\",\"vllm\",\"vllm-mlx\",\"openai_compatible\",\"docker-model-runner\",\"localai\",\"gpustack\"],"
        "\"api\":{\"version\":\"v1\",\"endpoints\":{\"health\":\"/internal/health\",\"status\":\"/internal/status\","
        "\"version\":\"/version\"}}}\n");
    return true;
}

/* -1, 0, 1: number by number. */
static int compare_versions(struct str a, struct str b)
{
    while (a.p || b.p) {
        struct str x = str_split(&a, '.'), y = str_split(&b, '.');
        uint64_t m = 0, n = 0;
        for (size_t i = 0; i < x.n && x.p[i] >= '0' && x.p[i] <= '9'; i++) {
            m = m * 10 + (uint64_t)(x.p[i] - '0');
        }
        for (size_t i = 0; i < y.n && y.p[i] >= '0' && y.p[i] <= '9'; i++) {
            n = n * 10 + (uint64_t)(y.p[i] - '0');
        }
        if (m != n) {
            return m < n ? -1 : 1;
        }
    }
    return 0;
}

/* Clients go by it to know what they may ask for: what the oldest of the machines can do. */
static bool page_ollama_version(struct exchange *x, struct text *t, uint32_t i)
{
    const char *lowest = NULL;
    endpoint_set set = route_listed(x->route.only, API_OLLAMA, true);
    struct endpoint *e;

    for (int k = 0; (e = endpoint_at(k)) != NULL; k++) {
        const char *version = e->extra.version;
        if ((set & endpoint_bit(e)) && version[0] &&
            (!lowest || compare_versions(str_of(version), str_of(lowest)) < 0)) {
            lowest = version;
        }
    }
    if (i == 0) {
        text_addz(t, "{\"version\":");
        json_text(t, str_of(lowest ? lowest : OLLA_VERSION));
        text_addz(t, "}\n");
    }
    return i == 0;
}

/* ---- /internal/status -------------------------------------------------------------------- */

void admin_endpoint_id(struct text *t, const struct endpoint *e)
{
    char digits[8];
    size_t n = sizeof(digits);
    uint32_t h = str_hash(str_of(e->url));
    int same = 0, before = 0;
    struct endpoint *other;

    do {
        digits[--n] = "0123456789abcdefghijklmnopqrstuvwxyz"[h % 36];
        h /= 36;
    } while (h > 0 && n > 0);
    text_add(t, (struct str){digits + n, sizeof(digits) - n});
    for (int i = 0; (other = endpoint_at(i)) != NULL; i++) {
        if (strcmp(other->url, e->url) == 0) {
            same++;
            before += strcmp(other->name, e->name) < 0;
        }
    }
    if (same > 1) {
        text_char(t, '-');
        text_u64(t, (uint64_t)before);
    }
}

/* Priority descending, healthy first, then by name. */
static bool shown_before(const struct endpoint *a, const struct endpoint *b)
{
    bool ha = a->state == ENDPOINT_HEALTHY, hb = b->state == ENDPOINT_HEALTHY;
    if (a->priority != b->priority) {
        return a->priority > b->priority;
    }
    return ha != hb ? ha : strcmp(a->name, b->name) < 0;
}

static struct endpoint *shown_at(uint32_t place)
{
    struct endpoint *e, *other;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        uint32_t before = 0;
        for (int k = 0; (other = endpoint_at(k)) != NULL; k++) {
            before += other != e && shown_before(other, e);
        }
        if (before == place) {
            return e;
        }
    }
    return NULL;
}

static void issues_text(struct text *t, const struct endpoint *e)
{
    const struct {
        bool is;
        const char *name;
    } rows[] = {
        {e->failures > 3, "consecutive failures"},
        {e->sum.requests > 10 && tally_served(&e->sum) * 100 < e->sum.requests * 90, "low success rate"},
        {tally_average(&e->sum) > 5000, "high latency"},
        {e->state == ENDPOINT_OFFLINE || e->state == ENDPOINT_UNHEALTHY, "unavailable"},
    };
    bool first = true;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        if (rows[i].is) {
            text_addz(t, first ? "" : ", ");
            text_addz(t, rows[i].name);
            first = false;
        }
    }
}

static void status_endpoint(struct text *t, const struct endpoint *e, bool first, bool hashing)
{
    uint64_t served = tally_served(&e->sum), average = tally_average(&e->sum);

    text_addz(t, first ? "{\"name\":" : ",{\"name\":");
    json_text(t, str_of(e->name));
    json_member(t, "type", str_of(e->type));
    json_member(t, "detected_type", str_of(e->profile->name));
    json_member(t, "status", str_of(e->enabled ? endpoint_state_name(e->state) : "disabled"));
    json_member(t, "reason", str_of(e->why));
    if (e->extra.version[0]) {
        json_member(t, "version", str_of(e->extra.version));
    }
    if (e->priority < 0) {
        text_addz(t, ",\"priority\":");
        text_i64(t, e->priority);
    } else {
        json_member_u64(t, "priority", (uint64_t)e->priority);
    }
    json_member_u64(t, "connections", e->inflight);
    json_member_u64(t, "weight", e->weight);
    json_member_u64(t, "max_concurrent", e->max_concurrent);
    json_member_u64(t, "serving", e->serving);
    if (!hashing) {
        json_member_u64(t, "limited_for_ms", e->limited_until > net_now() ? e->limited_until - net_now() : 0);
        text_addz(t, ",\"breaker\":{\"state\":");
        json_text(t, str_of(breaker_state(&e->breaker, net_now())));
        json_member_u64(t, "failures", e->breaker.row);
        json_member_u64(t, "open_for_ms", e->breaker.until > net_now() ? e->breaker.until - net_now() : 0);
        text_char(t, '}');
    }
    json_member_u64(t, "requests", e->sum.requests);
    MEMBER(t, "success_rate", admin_percent_text(t, served, e->sum.requests));
    MEMBER(t, "avg_latency", admin_latency_text(t, average));
    MEMBER(t, "traffic", admin_bytes_text(t, e->sum.bytes));
    if (!hashing) {
        MEMBER(t, "last_check", admin_ago_text(t, e->last_check));
        MEMBER(t, "next_check", until_text(t, e->next_check));
    }
    MEMBER(t, "issues", issues_text(t, e));
    text_addz(t, ",\"models\":{\"last_updated\":\"");
    admin_instant_text(t, e->last_discovery);
    text_addz(t, "\",\"count\":");
    text_u64(t, e->models);
    text_char(t, '}');
    json_member(t, "url", str_of(e->url));
    MEMBER(t, "id", admin_endpoint_id(t, e));
    json_member_u64(t, "min_latency_ms", e->latency_ms_min);
    json_member_u64(t, "max_latency_ms", e->latency_ms_max);
    if (served > 0) {
        json_member_u64(t, "avg_latency_ms", average);
    }
    if (e->last_check > 0 && !hashing) {
        MEMBER(t, "health_check_at", admin_instant_text(t, e->last_check));
        MEMBER(t, "next_check_at", admin_instant_text(t, e->next_check));
    }
    text_char(t, '}');
}

static void status_head(struct text *t, bool hashing)
{
    static const char *const balancers[] = {"least-connections", "round-robin", "priority"};
    text_addz(t, "{\"timestamp\":\"");
    if (!hashing) {
        admin_time_text(t, plat_wall_ms());
    }
    text_addz(t, "\",\"proxy\":{\"engine\":");
    json_text(t, str_of(conf_now->proxy.engine == ENGINE_OLLA ? "olla" : "sherpa"));
    static const char *const profiles[] = {"auto", "streaming", "standard"};
    json_member(t, "profile", str_of(profiles[conf_now->proxy.profile]));
    json_member(t, "balancer", str_of(balancers[conf_now->proxy.load_balancer]));
    text_addz(t, "},\"endpoints\":[");
}

/* healthy ratio h and success rate decide (http-surface.md 7.2). */
static const char *system_status(unsigned up, unsigned all, uint64_t served, uint64_t requests)
{
    uint64_t rate = requests > 0 ? served * 100 / requests : 100;
    if (all == 0 || up * 2 < all || rate < 90) {
        return "critical";
    }
    return up * 5 < all * 4 || rate < 95 ? "degraded" : "healthy";
}

/* The last two are of connections, which the reference does not limit. */
static void status_security(struct text *t)
{
    const struct limits_totals *l = &limits_totals;
    uint64_t sizes = exchange_totals.size_limited;
    unsigned limited = limits_limited(net_now());

    text_addz(t, "\"security\":{\"status\":");
    json_text(t, str_of(sizes + l->requests > 100 || limited > 10 ? "elevated" : "normal"));
    json_member_u64(t, "blocked_ips", limited);
    text_addz(t, ",\"violations\":{\"rate_limits\":");
    text_u64(t, l->requests);
    json_member_u64(t, "size_limits", sizes);
    json_member_u64(t, "refused_peers", l->peers);
    json_member_u64(t, "refused_connections", l->connections);
    text_addz(t, "}}");
}

static void status_system(struct text *t, bool hashing)
{
    const struct exchange_totals *n = &exchange_totals;
    uint64_t served = tally_served(&n->sum);
    unsigned up = 0, all = 0;
    struct endpoint *e;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        all++;
        up += e->state == ENDPOINT_HEALTHY;
    }
    text_addz(t, "],");
    status_security(t);
    text_addz(t, ",\"system\":{\"status\":");
    json_text(t, str_of(system_status(up, all, served, n->sum.requests)));
    text_addz(t, ",\"endpoints_up\":\"");
    text_u64(t, up);
    text_char(t, '/');
    text_u64(t, all);
    text_addz(t, "\",\"success_rate\":\"");
    if (n->sum.requests > 0) {
        admin_percent_text(t, served, n->sum.requests);
    } else {
        text_addz(t, "N/A");
    }
    text_char(t, '"');
    MEMBER(t, "avg_latency", admin_latency_text(t, tally_average(&n->sum)));
    MEMBER(t, "total_traffic", admin_bytes_text(t, n->sum.bytes));
    if (!hashing) {
        MEMBER(t, "uptime", uptime_text(t, net_now() - start_ms));
    }
    MEMBER(t, "start_time", admin_time_text(t, start_wall));
    json_member(t, "version", STR(OLLA_VERSION));
    json_member(t, "commit", STR("none"));
    json_member_u64(t, "active_connections", n->active);
    json_member_u64(t, "security_violations", n->size_limited + limits_totals.requests);
    json_member_u64(t, "total_requests", n->sum.requests);
    json_member_u64(t, "total_failures", n->sum.failed);
    text_addz(t, n->sum.requests > 0 ? ",\"has_traffic\":true}" : ",\"has_traffic\":false}");
}

static void status_pools(struct text *t)
{
    text_addz(t, ",\"queue\":{\"waiting\":");
    text_u64(t, queue_stats.waiting);
    json_member_u64(t, "max", queue_stats.max);
    json_member_u64(t, "served", queue_stats.served);
    json_member_u64(t, "timed_out", queue_stats.timed_out);
    json_member_u64(t, "refused", queue_stats.refused);
    json_member_u64(t, "left", queue_stats.left);
    text_char(t, '}');
    text_addz(t, ",\"idle_upstreams\":");
    text_u64(t, upstream_idle_count());
    text_addz(t, ",\"pools\":[");
    for (int i = 0; i < POOL_COUNT; i++) {
        const struct pool_stats *p = pool_stats((enum pool_id)i);
        text_addz(t, i > 0 ? ",{\"name\":" : "{\"name\":");
        json_text(t, str_of(p->name));
        json_member_u64(t, "size", p->size);
        json_member_u64(t, "count", p->count);
        json_member_u64(t, "used", p->used);
        json_member_u64(t, "max", p->max_used);
        json_member_u64(t, "failed", p->failed);
        text_char(t, '}');
    }
    text_addz(t, "]}");
}

static bool page_status(struct exchange *x, struct text *t, uint32_t i)
{
    uint32_t n = (uint32_t)endpoint_count();
    if (i == 0) {
        status_head(t, x->hashing);
    } else if (i <= n) {
        struct endpoint *e = shown_at(i - 1);
        if (e) {
            status_endpoint(t, e, i == 1, x->hashing);
        }
    } else if (i == n + 1) {
        status_system(t, x->hashing);
    } else if (i == n + 2) {
        status_pools(t);
    }
    return i <= n + 2;
}

/* ---- table ----------------------------------------------------------------------------------- */

/* clang-format off */
static int write_health(struct exchange *x, struct text *t) { return parts(x, t, page_health); }
static int write_version(struct exchange *x, struct text *t) { return parts(x, t, page_version); }
static int write_sticky(struct exchange *x, struct text *t) { return parts(x, t, stats_sticky_page); }
static int write_translators(struct exchange *x, struct text *t) { return parts(x, t, stats_translators_page); }
static int write_tokens(struct exchange *x, struct text *t) { return parts(x, t, stats_tokens_page); }
static int write_status(struct exchange *x, struct text *t) { return parts(x, t, page_status); }
static int write_listing(struct exchange *x, struct text *t) { return parts(x, t, listing_page); }
static int write_model(struct exchange *x, struct text *t) { return parts(x, t, listing_one_page); }
static int write_entry(struct exchange *x, struct text *t) { return parts(x, t, listing_entry_page); }
static int write_status_models(struct exchange *x, struct text *t) { return parts(x, t, model_status_page); }
static int write_gathered(struct exchange *x, struct text *t) { return parts(x, t, gather_page); }
static int write_ollama_version(struct exchange *x, struct text *t) { return parts(x, t, page_ollama_version); }
/* clang-format on */

static const struct exchange_local pages[LOCAL_COUNT] = {
    [LOCAL_HEALTH] = {.write = write_health},
    [LOCAL_VERSION] = {.write = write_version},
    [LOCAL_STATUS] = {.write = write_status, .etag = true},
    [LOCAL_STATS_STICKY] = {.write = write_sticky},
    [LOCAL_STATS_TRANSLATORS] = {.write = write_translators},
    [LOCAL_DASHBOARD] = {.write = dashboard_write, .check = dashboard_check, .own = dashboard_own},
    [LOCAL_TOKENS] = {.write = write_tokens, .ready = messages_counted, .check = messages_check_count},
    [LOCAL_STATUS_MODELS] = {.write = write_status_models, .etag = true, .state = model_status_state},
    [LOCAL_MODELS] = {.write = write_listing, .check = listing_check},
    [LOCAL_MODEL] = {.write = write_model, .check = listing_one_check},
    [LOCAL_OLLA_MODEL] = {.write = write_entry, .check = listing_entry_check},
    [LOCAL_OLLAMA_VERSION] = {.write = write_ollama_version},
    [LOCAL_OLLAMA_PS] = {.write = write_gathered, .ready = gather_ready, .check = gather_check},
};

int64_t admin_start_wall(void)
{
    return start_wall;
}

const struct exchange_local *admin_pages(void)
{
    start_ms = net_now();
    start_wall = plat_wall_ms();
    dashboard_init(start_wall);
    return pages;
}
