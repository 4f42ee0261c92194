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
#include "metrics.h"
#include "model_status.h"
#include "presence.h"
#include "stats.h"
#include "status.h"

#ifndef OLLA_PLATFORM
#define OLLA_PLATFORM "unknown" /* the Makefile knows */
#endif

static uint64_t start_ms;
static int64_t start_wall;

/* ---- values as the reference writes them ---------------------------------------------- */

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

void admin_until_text(struct text *t, uint64_t at)
{
    if (at <= net_now()) {
        text_addz(t, at == 0 ? "unknown" : "now");
        return;
    }
    text_addz(t, "in ");
    span_text(t, at - net_now());
}

void admin_uptime_text(struct text *t, uint64_t ms)
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

/* Ollama's program asks for this first, and gives up without a 200. */
static bool page_root(struct exchange *x, struct text *t, uint32_t i)
{
    (void)x;
    text_addz(t, i == 0 ? "olla is running\n" : "");
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
        "\"capabilities\":[\"load_balancing\",\"health_checking\",\"rate_limiting\",\"model_unification\","
        "\"endpoint_discovery\",\"message_translation\",\"translation_anthropic\",\"passthrough_anthropic\"],"
        "\"capabilities_experimental\":[],"
        "\"supported_backends\":[\"ollama\",\"lemonade\",\"litellm\",\"llamacpp\",\"lmdeploy\",\"lm_studio\",\"omlx\","
        "\"sglang\",\"vllm\",\"vllm-mlx\",\"openai_compatible\",\"docker-model-runner\",\"localai\",\"gpustack\"],"
        "\"api\":{\"version\":\"v1\",\"endpoints\":{\"health\":\"/internal/health\",\"metrics\":\"/internal/metrics\","
        "\"status\":\"/internal/status\",\"process\":\"/internal/process\",\"version\":\"/version\"}},"
        "\"links\":{\"homepage\":\"\",\"documentation\":\"\",\"releases\":\"\"}}\n");
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

/* ---- table ----------------------------------------------------------------------------------- */

/* clang-format off */
static int write_health(struct exchange *x, struct text *t) { return parts(x, t, page_health); }
static int write_version(struct exchange *x, struct text *t) { return parts(x, t, page_version); }
static int write_root(struct exchange *x, struct text *t) { return parts(x, t, page_root); }
static int write_sticky(struct exchange *x, struct text *t) { return parts(x, t, stats_sticky_page); }
static int write_translators(struct exchange *x, struct text *t) { return parts(x, t, stats_translators_page); }
static int write_action(struct exchange *x, struct text *t) { return parts(x, t, presence_page); }
static int write_tokens(struct exchange *x, struct text *t) { return parts(x, t, stats_tokens_page); }
static int write_status(struct exchange *x, struct text *t) { return parts(x, t, status_page); }
static int write_endpoints(struct exchange *x, struct text *t) { return parts(x, t, status_endpoints_page); }
static int write_stats_models(struct exchange *x, struct text *t) { return parts(x, t, stats_models_page); }
static int write_process(struct exchange *x, struct text *t) { return parts(x, t, stats_process_page); }
static int write_metrics(struct exchange *x, struct text *t) { return parts(x, t, metrics_page); }
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
    [LOCAL_ROOT] = {.write = write_root, .type = "text/plain; charset=utf-8"},
    [LOCAL_STATUS] = {.write = write_status, .etag = true},
    [LOCAL_STATUS_ENDPOINTS] = {.write = write_endpoints, .etag = true},
    [LOCAL_STATS_MODELS] = {.write = write_stats_models},
    [LOCAL_PROCESS] = {.write = write_process},
    [LOCAL_METRICS] = {.write = write_metrics, .type = "text/plain; version=0.0.4; charset=utf-8"},
    [LOCAL_STATS_STICKY] = {.write = write_sticky},
    [LOCAL_STATS_TRANSLATORS] = {.write = write_translators},
    [LOCAL_DASHBOARD] = {.write = dashboard_write, .check = dashboard_check, .own = dashboard_own},
    [LOCAL_ACTION] = {.write = write_action, .check = presence_check},
    [LOCAL_TOKENS] = {.write = write_tokens, .ready = messages_counted, .check = messages_check_count},
    [LOCAL_STATUS_MODELS] = {.write = write_status_models, .etag = true, .state = model_status_state},
    [LOCAL_MODELS] = {.write = write_listing, .check = listing_check},
    [LOCAL_MODEL] = {.write = write_model, .check = listing_one_check},
    [LOCAL_OLLA_MODEL] = {.write = write_entry, .check = listing_entry_check},
    [LOCAL_OLLAMA_VERSION] = {.write = write_ollama_version},
    [LOCAL_OLLAMA_PS] = {.write = write_gathered, .ready = gather_ready, .check = gather_check},
};

uint64_t admin_start(void)
{
    return start_ms;
}

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
