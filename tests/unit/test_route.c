/*
 * test_route.c - where a request goes: paths to routes, candidates to one endpoint.
 *
 * States and loads of endpoints are set by hand. The choice is compared with a reference over random fleets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/net.h"
#include "../../src/route.h"
#include "fleet.h"

static const struct tally_event GOOD_EVENT = {.served = true, .ms = 1, .bytes = 1}, BAD_EVENT = {.ms = 1, .bytes = 1};

static const char config[] = "[endpoint:a]\nurl = http://127.0.0.1:1\ntype = ollama\npriority = 200\n"
                             "[endpoint:b]\nurl = http://127.0.0.1:2\ntype = ollama\npriority = 200\n"
                             "[endpoint:c]\nurl = http://127.0.0.1:3\ntype = vllm\npriority = 100\n"
                             "[endpoint:d]\nurl = http://127.0.0.1:4\ntype = LM_Studio\npriority = 100\n"
                             "[endpoint:e]\nurl = http://127.0.0.1:5\ntype = openai\npriority = 0\n";
enum { FLEET = 5 };

static int setup(void **state)
{
    (void)state;
    net_tick();
    sticky_init();
    return fleet_start(config, FLEET);
}

/* ---- paths ----------------------------------------------------------------------- */

#define NONE                    \
    {                           \
        .kind = ROUTE_NOT_FOUND \
    }
#define LOCAL(page_)                                                         \
    {                                                                        \
        .kind = ROUTE_LOCAL, .page = LOCAL_##page_, .dialect = DIALECT_PLAIN \
    }
/* One of olla's models; its name is the target. */
#define ENTRY(target_)                                                   \
    {                                                                    \
        .kind = ROUTE_LOCAL, .page = LOCAL_OLLA_MODEL, .target = target_ \
    }
#define NAMED(target_)                                                                                  \
    {                                                                                                   \
        .kind = ROUTE_LOCAL, .page = LOCAL_MODEL, .listing = LISTING_OPENAI, .dialect = DIALECT_OPENAI, \
        .target = target_                                                                               \
    }
#define LIST(listing_, dialect_)                                                                                \
    {                                                                                                           \
        .kind = ROUTE_LOCAL, .page = LOCAL_MODELS, .listing = LISTING_##listing_, .dialect = DIALECT_##dialect_ \
    }
#define REDIRECT               \
    {                          \
        .kind = ROUTE_REDIRECT \
    }
#define PROXY(target_, dialect_, api_)                                                       \
    {                                                                                        \
        .kind = ROUTE_PROXY, .target = target_, .dialect = DIALECT_##dialect_, .api = (api_) \
    }
#define A_NAMED(target_)                                                                                      \
    {                                                                                                         \
        .kind = ROUTE_LOCAL, .page = LOCAL_MODEL, .listing = LISTING_ANTHROPIC, .dialect = DIALECT_ANTHROPIC, \
        .target = target_                                                                                     \
    }
/* Below a provider: `prefix` as typed and the type that it means. */
#define P_LIST(listing_, prefix_, only_)                                                                     \
    {                                                                                                        \
        .kind = ROUTE_LOCAL, .page = LOCAL_MODELS, .listing = LISTING_##listing_, .dialect = DIALECT_OPENAI, \
        .prefix = prefix_, .only = only_                                                                     \
    }
#define P_NAMED(target_, prefix_, only_)                                                                \
    {                                                                                                   \
        .kind = ROUTE_LOCAL, .page = LOCAL_MODEL, .listing = LISTING_OPENAI, .dialect = DIALECT_OPENAI, \
        .target = target_, .prefix = prefix_, .only = only_                                             \
    }
#define P_PROXY(target_, dialect_, prefix_, only_)                                                              \
    {                                                                                                           \
        .kind = ROUTE_PROXY, .target = target_, .dialect = DIALECT_##dialect_, .prefix = prefix_, .only = only_ \
    }
#define P_PROXY_API(target_, dialect_, prefix_, only_, api_)                                                     \
    {                                                                                                            \
        .kind = ROUTE_PROXY, .target = target_, .dialect = DIALECT_##dialect_, .prefix = prefix_, .only = only_, \
        .api = (api_)                                                                                            \
    }

struct expectation {
    enum route_kind kind;
    enum local_page page;
    enum listing listing;
    enum dialect dialect;
    unsigned api;
    bool pinnable;
    const char *target, *prefix, *only;
};

enum when { ALWAYS = 0, ROOT }; /* ROOT: only with server.root_api, else not found */

static const struct {
    const char *path;
    enum when when;
    struct expectation want;
} paths[] = {
    /* olla's own */
    {"/internal/health", ALWAYS, LOCAL(HEALTH)},
    {"/internal/status", ALWAYS, LOCAL(STATUS)},
    {"/internal/status/models", ALWAYS, LOCAL(STATUS_MODELS)},
    {"/version", ALWAYS, LOCAL(VERSION)},
    {"/internal/ui", ALWAYS, LOCAL(DASHBOARD)},
    {"/internal/ui/", ALWAYS, LOCAL(DASHBOARD)},
    {"/internal/ui/olla.js", ALWAYS, LOCAL(DASHBOARD)},
    {"/internal/uix", ALWAYS, NONE},
    {"/internal/health/", ALWAYS, NONE},
    {"/internal/healthz", ALWAYS, NONE},
    {"/internal/status/", ALWAYS, NONE},
    {"/internal/status/models/", ALWAYS, NONE},
    {"/internal/status/models/x", ALWAYS, NONE},
    {"/internal/status/endpoints", ALWAYS, LOCAL(STATUS_ENDPOINTS)},
    {"/internal/status/endpoints/", ALWAYS, NONE},
    {"/internal/stats/models", ALWAYS, LOCAL(STATS_MODELS)},
    {"/internal/stats/", ALWAYS, NONE},
    {"/internal/process", ALWAYS, LOCAL(PROCESS)},
    {"/internal/metrics", ALWAYS, LOCAL(METRICS)},
    {"/internal/metrics/", ALWAYS, NONE},
    {"/Internal/Health", ALWAYS, NONE},
    {"/internal", ALWAYS, NONE},
    {"/internal/", ALWAYS, NONE},
    {"/version/", ALWAYS, NONE},
    {"/", ROOT, LOCAL(ROOT)},
    {"/olla", ALWAYS, NONE},
    {"/olla/", ALWAYS, NONE},
    {"/favicon.ico", ALWAYS, NONE},
    /* the catalogue */
    {"/olla/models", ALWAYS, LIST(UNIFIED, PLAIN)},
    {"/olla/models/", ALWAYS, ENTRY("")},
    {"/olla/models/llama3:8b", ALWAYS, ENTRY("llama3:8b")},
    {"/olla/models/qwen/Qwen3-8B", ALWAYS, ENTRY("qwen/Qwen3-8B")},
    {"/olla/models/x/", ALWAYS, ENTRY("x/")},
    {"/olla/modelsx", ALWAYS, NONE},
    {"/olla/Models", ALWAYS, NONE},
    {"/olla/anthropic/v1/models", ALWAYS, LIST(ANTHROPIC, ANTHROPIC)},
    {"/olla/anthropic/v1/models/", ALWAYS, A_NAMED("")},
    {"/olla/anthropic/v1/models/qwen/Qwen3-8B", ALWAYS, A_NAMED("qwen/Qwen3-8B")},
    {"/olla/anthropic/v1/messages", ALWAYS, PROXY("/v1/messages", ANTHROPIC, API_ANTHROPIC)},
    {"/olla/anthropic/v1/messages/count_tokens", ALWAYS, PROXY("/v1/messages/count_tokens", ANTHROPIC, API_ANTHROPIC)},
    {"/internal/stats/translators", ALWAYS, LOCAL(STATS_TRANSLATORS)},
    {"/olla/anthropic", ALWAYS, NONE},
    /* the root API; what Ollama's paths there do is in test_ollama_on_a_fleet */
    {"/v1/models", ROOT, LIST(OPENAI, OPENAI)},
    {"/v1/models/", ROOT, NAMED("")},
    {"/v1/models/llama3", ROOT, NAMED("llama3")},
    {"/v1/models/qwen/Qwen3-8B", ROOT, NAMED("qwen/Qwen3-8B")},
    {"/v1/chat/completions", ROOT, PROXY("/v1/chat/completions", OPENAI, API_OPENAI)},
    {"/v1/embeddings", ROOT, PROXY("/v1/embeddings", OPENAI, API_OPENAI)},
    {"/v1/", ROOT, PROXY("/v1/", OPENAI, API_OPENAI)},
    {"/v1/messages", ROOT, PROXY("/v1/messages", ANTHROPIC, API_ANTHROPIC)},
    {"/v1/messages/count_tokens", ROOT, PROXY("/v1/messages/count_tokens", ANTHROPIC, API_ANTHROPIC)},
    {"/v1/messagesx", ROOT, PROXY("/v1/messagesx", OPENAI, API_OPENAI)},
    {"/api/v0/models", ROOT, PROXY("/api/v0/models", OPENAI, API_LM_STUDIO)},
    {"/api/v1/models", ROOT, PROXY("/api/v1/models", OPENAI, API_LEMONADE)},
    {"/api/v1/chat/completions", ROOT, PROXY("/api/v1/chat/completions", OPENAI, API_LEMONADE)},
    {"/api/v1/pull", ROOT, PROXY("/api/v1/pull", OPENAI, API_LEMONADE)},
    {"/api/", ROOT, PROXY("/api/", OLLAMA, API_OLLAMA)},
    {"/v1", ALWAYS, NONE},
    {"/api", ALWAYS, NONE},
    {"/v2/models", ALWAYS, NONE},
    {"/V1/models", ALWAYS, NONE},
    /* the universal proxy */
    {"/olla/proxy", ALWAYS, REDIRECT},
    {"/olla/proxy/", ALWAYS, PROXY("/", PLAIN, 0)},
    {"/olla/proxy/v1/models", ALWAYS, LIST(OPENAI, OPENAI)},
    {"/olla/proxy/v1/models/", ALWAYS, NAMED("")},
    {"/olla/proxy/v1/models/x", ALWAYS, NAMED("x")},
    {"/olla/proxy/v1/chat/completions", ALWAYS, PROXY("/v1/chat/completions", OPENAI, API_OPENAI)},
    {"/olla/proxy/v1/messages", ALWAYS, PROXY("/v1/messages", ANTHROPIC, API_ANTHROPIC)},
    {"/olla/proxy/api/chat", ALWAYS, PROXY("/api/chat", OLLAMA, API_OLLAMA)},
    {"/olla/proxy/chat/completions", ALWAYS, PROXY("/chat/completions", OPENAI, 0)},
    {"/olla/proxy/completions", ALWAYS, PROXY("/completions", OPENAI, 0)},
    {"/olla/proxy/embeddings", ALWAYS, PROXY("/embeddings", OPENAI, 0)},
    {"/olla/proxy/engines/x", ALWAYS, PROXY("/engines/x", OPENAI, API_DMR)},
    {"/olla/proxy/anything/else", ALWAYS, PROXY("/anything/else", PLAIN, 0)},
    {"/olla/proxy/olla/proxy/", ALWAYS, PROXY("/olla/proxy/", PLAIN, 0)},
    {"/olla/proxyx", ALWAYS, NONE},
    {"/olla/proxyx/v1/models", ALWAYS, NONE},
    /* providers */
    {"/olla/ollama", ALWAYS, REDIRECT},
    {"/olla/ollama/", ALWAYS, P_PROXY("/", PLAIN, "ollama", "ollama")},
    {"/olla/ollama/v1/models", ALWAYS, P_LIST(OPENAI, "ollama", "ollama")},
    {"/olla/ollama/v1/models/x/y:1", ALWAYS, P_NAMED("x/y:1", "ollama", "ollama")},
    {"/olla/ollama/api/v0/models", ALWAYS, P_PROXY("/api/v0/models", OPENAI, "ollama", "ollama")},
    {"/olla/ollama/v1/messages", ALWAYS, P_PROXY("/v1/messages", ANTHROPIC, "ollama", "ollama")},
    {"/olla/openai", ALWAYS, REDIRECT},
    {"/olla/openai/v1/models", ALWAYS, P_LIST(OPENAI, "openai", "openai-compatible")},
    {"/olla/openai/v1/models/x", ALWAYS, P_NAMED("x", "openai", "openai-compatible")},
    {"/olla/openai/api/v1/models", ALWAYS,
     P_PROXY_API("/api/v1/models", OPENAI, "openai", "openai-compatible", API_LEMONADE)},
    {"/olla/openai/v1/completions", ALWAYS,
     P_PROXY_API("/v1/completions", OPENAI, "openai", "openai-compatible", API_OPENAI)},
    {"/olla/openai-compatible/x", ALWAYS, P_PROXY("/x", PLAIN, "openai-compatible", "openai-compatible")},
    {"/olla/vllm/v1/models", ALWAYS, P_LIST(OPENAI, "vllm", "vllm")},
    {"/olla/vllm/api/tags", ALWAYS, P_PROXY("/api/tags", OLLAMA, "vllm", "vllm")},
    {"/olla/vllm/api/pull", ALWAYS, P_PROXY("/api/pull", OLLAMA, "vllm", "vllm")},
    {"/olla/vllm/api/v1/models", ALWAYS, P_PROXY("/api/v1/models", OPENAI, "vllm", "vllm")},
    {"/olla/llamacpp/completion", ALWAYS, P_PROXY("/completion", PLAIN, "llamacpp", "llamacpp")},
    {"/olla/llamacpp/models", ALWAYS, P_PROXY("/models", PLAIN, "llamacpp", "llamacpp")},
    {"/olla/llamacpp/v1/models", ALWAYS, P_LIST(OPENAI, "llamacpp", "llamacpp")},
    {"/olla/lmstudio/v1/models", ALWAYS, P_LIST(OPENAI, "lmstudio", "lm-studio")},
    {"/olla/lm-studio/api/v1/models", ALWAYS, P_LIST(OPENAI, "lm-studio", "lm-studio")},
    {"/olla/lm_studio/api/v0/models", ALWAYS, P_LIST(LM_STUDIO, "lm_studio", "lm-studio")},
    {"/olla/lm_studio", ALWAYS, REDIRECT},
    {"/olla/lmstudio/api/v0/models/x", ALWAYS, P_PROXY("/api/v0/models/x", OPENAI, "lmstudio", "lm-studio")},
    {"/olla/lmstudio/api/tags", ALWAYS, P_PROXY("/api/tags", OLLAMA, "lmstudio", "lm-studio")},
    {"/olla/lemonade/v1/models", ALWAYS, P_LIST(OPENAI, "lemonade", "lemonade")},
    {"/olla/lemonade/api/v1/models", ALWAYS, P_LIST(LEMONADE, "lemonade", "lemonade")},
    {"/olla/lemonade/api/v1/pull", ALWAYS, P_PROXY("/api/v1/pull", OPENAI, "lemonade", "lemonade")},
    {"/olla/lemonade/api/v0/models", ALWAYS, P_PROXY("/api/v0/models", OPENAI, "lemonade", "lemonade")},
    {"/olla/dmr/engines/v1/models", ALWAYS, P_LIST(DMR, "dmr", "docker-model-runner")},
    {"/olla/dmr/v1/models", ALWAYS, P_LIST(OPENAI, "dmr", "docker-model-runner")},
    {"/olla/dmr/engines/llama.cpp/v1/chat/completions", ALWAYS,
     P_PROXY("/engines/llama.cpp/v1/chat/completions", OPENAI, "dmr", "docker-model-runner")},
    {"/olla/vllm/engines/v1/models", ALWAYS, P_PROXY("/engines/v1/models", OPENAI, "vllm", "vllm")},
    /* not registered */
    {"/olla/llama-cpp/", ALWAYS, NONE},
    {"/olla/llama_cpp/v1/models", ALWAYS, NONE},
    {"/olla/vllmmlx/", ALWAYS, NONE},
    {"/olla/OLLAMA/api/tags", ALWAYS, NONE},
    {"/olla/auto/v1/models", ALWAYS, NONE},
    {"/olla/nobody", ALWAYS, NONE},
    {"/ollama/api/tags", ALWAYS, NONE},
    {"/olla/ollama2/", ALWAYS, NONE},
    {"/olla/olla", ALWAYS, NONE},
};

static bool same(struct str s, const char *z)
{
    return str_eq(s, str_of(z));
}

static bool is_as_wanted(const struct route *r, const struct expectation *w)
{
    bool local = w->kind == ROUTE_LOCAL, proxied = w->kind == ROUTE_PROXY || w->kind == ROUTE_REFUSED || w->pinnable;
    const char *only = r->only ? r->only->name : NULL;

    if (r->kind != w->kind || (local && r->page != w->page) || r->dialect != w->dialect || r->pinnable != w->pinnable) {
        return false;
    }
    if (local && (w->page == LOCAL_MODELS || w->page == LOCAL_MODEL) && r->listing != w->listing) {
        return false;
    }
    if ((proxied && r->api != w->api) || r->has_type != (w->only != NULL) || !same(str_of(only), w->only)) {
        return false;
    }
    if (w->kind == ROUTE_REFUSED && (r->status != 501 || !r->text || !r->text[0])) {
        return false;
    }
    bool has_target = proxied || (local && (w->page == LOCAL_MODEL || w->page == LOCAL_OLLA_MODEL));
    return (!has_target || same(r->target, w->target)) && same(r->prefix, w->prefix);
}

static void check_path(const char *path, bool root, const struct expectation *want)
{
    struct route r = route_find(str_of(path), root);
    if (!is_as_wanted(&r, want)) {
        fail_msg("%s (root_api %d): kind %d page %d listing %d dialect %d api %u pinnable %d target '%.*s' type %s",
                 path, root, r.kind, r.page, r.listing, r.dialect, r.api, r.pinnable, (int)r.target.n,
                 r.target.p ? r.target.p : "", r.only ? r.only->name : "-");
    }
    if (want->target && strlen(want->target) > 1) { /* a part of the path given, not a copy */
        assert_ptr_equal(r.target.p, path + strlen(path) - r.target.n);
    }
}

static void test_paths(void **state)
{
    static const struct expectation not_found = NONE;
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(paths); i++) {
        for (int root = 0; root < 2; root++) {
            check_path(paths[i].path, root, paths[i].when == ROOT && !root ? &not_found : &paths[i].want);
        }
    }
}

/* Where a fleet looks like one Ollama: what stands before its paths, and whom they go to. */
static const struct {
    const char *before, *prefix, *only;
    unsigned api;
    enum when when;
} places[] = {
    {"", NULL, NULL, API_OLLAMA, ROOT},
    {"/olla/proxy", NULL, NULL, API_OLLAMA, ALWAYS},
    {"/olla/ollama", "ollama", "ollama", 0, ALWAYS},
    {"/olla/openai", "openai", "openai-compatible", API_OLLAMA, ALWAYS},
    {"/olla/openai-compatible", "openai-compatible", "openai-compatible", API_OLLAMA, ALWAYS},
};

#define ABOUT_ALL(page_)                                                                        \
    {                                                                                           \
        .kind = ROUTE_LOCAL, .page = LOCAL_##page_, .listing = LISTING_OLLAMA, .pinnable = true \
    }
#define FOR_ONE                                 \
    {                                           \
        .kind = ROUTE_REFUSED, .pinnable = true \
    }
#define BY_MODEL            \
    {                       \
        .kind = ROUTE_PROXY \
    }

static const struct {
    const char *path;
    struct expectation want;
} ollama_paths[] = {
    {"/api/tags", ABOUT_ALL(MODELS)},
    {"/api/version", ABOUT_ALL(OLLAMA_VERSION)},
    {"/api/ps", ABOUT_ALL(OLLAMA_PS)},
    {"/api/list", FOR_ONE},
    {"/api/pull", FOR_ONE},
    {"/api/push", FOR_ONE},
    {"/api/create", FOR_ONE},
    {"/api/copy", FOR_ONE},
    {"/api/delete", FOR_ONE},
    {"/api/blobs/sha256:12", FOR_ONE},
    {"/api/blobs/", FOR_ONE},
    {"/api/show", BY_MODEL},
    {"/api/chat", BY_MODEL},
    {"/api/generate", BY_MODEL},
    {"/api/embed", BY_MODEL},
    {"/api/embeddings", BY_MODEL},
    {"/api/tags/", BY_MODEL},
    {"/api/tags/x", BY_MODEL},
    {"/api/Tags", BY_MODEL},
    {"/api/versions", BY_MODEL},
    {"/api/psx", BY_MODEL},
    {"/api/pull/x", BY_MODEL},
    {"/api/pulls", BY_MODEL},
    {"/api/lists", BY_MODEL},
    {"/api/blobs", BY_MODEL},
};

static void test_ollama_on_a_fleet(void **state)
{
    static const struct expectation not_found = NONE;
    char path[128];
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(places) * OLLA_COUNT(ollama_paths); i++) {
        size_t place = i / OLLA_COUNT(ollama_paths), k = i % OLLA_COUNT(ollama_paths);
        struct expectation want = ollama_paths[k].want;
        want.dialect = DIALECT_OLLAMA;
        want.api = places[place].api;
        want.target = ollama_paths[k].path; /* the backend's, as it may go to a machine after all */
        want.prefix = places[place].prefix;
        want.only = places[place].only;
        (void)snprintf(path, sizeof(path), "%s%s", places[place].before, ollama_paths[k].path);
        check_path(path, true, &want);
        check_path(path, false, places[place].when == ROOT ? &not_found : &want);
    }
}

static void check_refusal(const char *path, const char *words)
{
    struct route r = route_find(str_of(path), true);
    assert_int_equal(r.kind, ROUTE_REFUSED);
    assert_true(str_starts(str_of(r.text), str_of(words)));
    assert_non_null(strstr(r.text, "X-Olla-Endpoint")); /* what to do instead */
}

static void test_refusals(void **state)
{
    (void)state;
    check_refusal("/api/list", "running models list not supported in multi-instance proxy");
    check_refusal("/olla/ollama/api/list", "running models list not supported in multi-instance proxy");
    check_refusal("/api/pull", "model management operations are not supported by the proxy");
    check_refusal("/olla/proxy/api/blobs/sha256:1", "model management operations are not supported by the proxy");
}

static void test_dialects(void **state)
{
    (void)state;
    assert_int_equal(route_find(STR("/olla/proxy/v1/chat/completions"), false).dialect, DIALECT_OPENAI);
    assert_int_equal(route_find(STR("/olla/proxy/v1/messages"), false).dialect, DIALECT_ANTHROPIC);
    assert_int_equal(route_find(STR("/olla/proxy/v1/messages/batches"), false).dialect, DIALECT_ANTHROPIC);
    assert_int_equal(route_find(STR("/olla/proxy/api/chat"), false).dialect, DIALECT_OLLAMA);
    assert_int_equal(route_find(STR("/olla/proxy/api/v0/models"), false).dialect, DIALECT_OPENAI);
    assert_int_equal(route_find(STR("/olla/proxy/api"), false).dialect, DIALECT_PLAIN);
    assert_int_equal(route_find(STR("/olla/proxy/"), false).dialect, DIALECT_PLAIN);
    assert_int_equal(route_find(STR("/olla/proxy/health"), false).dialect, DIALECT_PLAIN);
}

/* ---- the fleet ------------------------------------------------------------------- */

#define E(i)   endpoint_at(i)
#define BIT(i) endpoint_bit(endpoint_at(i))

static const struct route any_route = {.kind = ROUTE_PROXY};

/* Everything up, idle and never picked; a to e in this order. */
static int fresh(void **state)
{
    static const char *const models[FLEET] = {"shared tiny:latest", "shared", "shared big", "big", "own"};
    (void)state;
    for (int i = 0; i < FLEET; i++) {
        E(i)->enabled = E(i)->probed = E(i)->discovered = true;
        E(i)->state = ENDPOINT_HEALTHY;
        E(i)->inflight = E(i)->serving = 0;
        E(i)->picked = E(i)->pass = 0;
        E(i)->weight = 1;
        E(i)->max_concurrent = 0;
        E(i)->serves = 0;
        E(i)->health = HEALTH_HTTP;
        E(i)->priority = (const int[]){200, 200, 100, 100, 0}[i];
        E(i)->max_context = E(i)->only_context = E(i)->extra.context = 0;
        E(i)->load.known = E(i)->load.busy = false;
        E(i)->limited_until = 0;
        breaker_reset(&E(i)->breaker);
        E(i)->profile = profile_by_type(str_of(E(i)->type));
        (void)fleet_list(E(i), models[i]);
    }
    return 0;
}

static struct route_choice choose(const struct route *r, const char *model, endpoint_set tried, enum conf_balancer how)
{
    struct route_query q = {.route = r, .model = str_of(model), .tried = tried, .balancer = how};
    return route_choose(&q);
}

static void finish(struct endpoint *e)
{
    static const struct endpoint_use use = {0};
    endpoint_end(e, &use, OUTCOME_GOOD, &GOOD_EVENT);
}

/* Picks n times, as requests do, and says who was picked: "abc...", '-' for nobody. */
static const char *picks(const struct route *r, const char *model, enum conf_balancer how, int n, bool keep)
{
    static char names[64];
    for (int i = 0; i < n; i++) {
        struct route_choice c = choose(r, model, 0, how);
        names[i] = c.e ? c.e->name[0] : '-';
        names[i + 1] = '\0';
        if (c.e) {
            struct endpoint_use use;
            endpoint_begin(c.e, &use, false, c.turn);
            if (!keep) {
                finish(c.e);
            }
        }
    }
    return names;
}

#define RR   BALANCE_ROUND_ROBIN
#define LC   BALANCE_LEAST_CONNECTIONS
#define PRIO BALANCE_PRIORITY

static void test_round_robin(void **state)
{
    (void)state;
    assert_string_equal(picks(&any_route, "", RR, 11, false), "abcdeabcdea");
    assert_string_equal(picks(&any_route, "shared", RR, 5, false), "bcabc"); /* a was picked last */
    E(1)->state = ENDPOINT_OFFLINE;
    assert_string_equal(picks(&any_route, "", RR, 5, true), "deacd"); /* load does not matter */
    E(1)->state = ENDPOINT_HEALTHY;
    assert_string_equal(picks(&any_route, "", RR, 5, false), "beacd"); /* who waited longest is next */
    assert_string_equal(picks(&any_route, "own", RR, 3, false), "eee");
    assert_string_equal(picks(&any_route, "nobody has this", RR, 2, false), "--");
}

static void test_least_connections(void **state)
{
    (void)state;
    assert_string_equal(picks(&any_route, "", LC, 7, false), "abcdeab"); /* all idle: ties rotate */
    (void)fresh(NULL);
    assert_string_equal(picks(&any_route, "", LC, 10, true), "abcdeabcde");
    finish(E(3));
    assert_string_equal(picks(&any_route, "", LC, 2, true), "da"); /* d has least, then all are equal again */
    finish(E(2));
    finish(E(1));
    assert_string_equal(picks(&any_route, "", LC, 2, true), "bc");     /* equal: b was picked longer ago */
    assert_string_equal(picks(&any_route, "big", LC, 3, true), "dcd"); /* equal again: d was picked longer ago */
}

static void test_priority(void **state)
{
    (void)state;
    assert_string_equal(picks(&any_route, "", PRIO, 5, true), "ababa"); /* the highest tier only, balanced inside */
    E(0)->state = ENDPOINT_UNHEALTHY;
    assert_string_equal(picks(&any_route, "", PRIO, 3, true), "bbb"); /* load does not lead out of the tier */
    E(1)->state = ENDPOINT_OFFLINE;
    assert_string_equal(picks(&any_route, "", PRIO, 4, false), "cdcd");
    E(2)->state = E(3)->state = ENDPOINT_UNHEALTHY;
    assert_string_equal(picks(&any_route, "", PRIO, 2, false), "ee");
    E(4)->enabled = false;
    assert_string_equal(picks(&any_route, "", PRIO, 1, false), "-");
}

static void check_choice(struct route_choice c, char who, int status, const char *decision, const char *reason)
{
    assert_int_equal(c.e ? c.e->name[0] : '-', who);
    if (!c.e) {
        assert_int_equal(c.status, status);
    }
    assert_int_equal(c.decision == NULL, decision == NULL);
    assert_int_equal(c.reason == NULL, reason == NULL);
    if (decision) {
        assert_string_equal(c.decision, decision);
        assert_string_equal(c.reason, reason);
    }
}

static void test_strict(void **state)
{
    const struct route ollama_api = {.kind = ROUTE_PROXY, .api = API_OLLAMA};
    (void)state;

    check_choice(choose(&any_route, "", 0, LC), 'a', 0, NULL, NULL);
    check_choice(choose(&any_route, "big", 0, LC), 'c', 0, "routed", "model_found");
    check_choice(choose(&any_route, "tiny", 0, LC), 'a', 0, "routed", "model_found");
    check_choice(choose(&any_route, "BIG", 0, LC), 'c', 0, "routed", "model_found");
    check_choice(choose(&any_route, "none", 0, LC), '-', 404, "rejected", "model_not_found");
    check_choice(choose(&ollama_api, "shared", 0, LC), 'a', 0, "routed", "model_found");
    /* Those that have it do not speak this API. */
    check_choice(choose(&ollama_api, "big", 0, LC), '-', 404, "rejected", "model_unavailable");
    assert_int_equal(choose(&ollama_api, "big", 0, LC).instead, E(2)->profile->apis | E(3)->profile->apis);
    assert_int_equal(choose(&any_route, "big", 0, LC).instead, 0);
    E(2)->enabled = E(3)->enabled = false; /* nobody's now */
    check_choice(choose(&ollama_api, "big", 0, LC), '-', 503, "rejected", "model_unavailable");
    E(2)->enabled = E(3)->enabled = true;
    E(0)->state = E(1)->state = ENDPOINT_OFFLINE; /* these would have served it */
    check_choice(choose(&ollama_api, "shared", 0, LC), '-', 503, "rejected", "model_unavailable");
    E(0)->state = E(1)->state = ENDPOINT_HEALTHY;
    for (int s = ENDPOINT_UNKNOWN; s <= ENDPOINT_RATE_LIMITED; s++) {
        E(2)->state = E(3)->state = (enum endpoint_state)s;
        if (s == ENDPOINT_HEALTHY || s == ENDPOINT_BUSY || s == ENDPOINT_WARMING) {
            check_choice(choose(&any_route, "big", 0, LC), 'c', 0, "routed", "model_found");
        } else {
            check_choice(choose(&any_route, "big", 0, LC), '-', 503, "rejected", "model_unavailable");
        }
    }
    for (int i = 0; i < FLEET; i++) {
        E(i)->state = ENDPOINT_OFFLINE;
    }
    check_choice(choose(&any_route, "", 0, LC), '-', 503, NULL, NULL);
    check_choice(choose(&any_route, "none", 0, LC), '-', 404, "rejected", "model_not_found");
    check_choice(choose(&any_route, "big", 0, LC), '-', 503, "rejected", "model_unavailable");
    for (int i = 0; i < FLEET; i++) {
        model_forget(E(i));
    }
    check_choice(choose(&any_route, "big", 0, LC), '-', 404, "rejected", "model_not_found");
}

static void test_tried(void **state)
{
    endpoint_set tried = 0;
    (void)state;

    for (int i = 0; i < 3; i++) {
        struct route_choice c = choose(&any_route, "shared", tried, LC);
        check_choice(c, "abc"[i], 0, "routed", "model_found");
        tried |= endpoint_bit(c.e);
    }
    check_choice(choose(&any_route, "shared", tried, LC), '-', 503, "routed", "model_found");
    assert_false(choose(&any_route, "shared", tried, LC).starting);
    tried |= BIT(3);
    check_choice(choose(&any_route, "", tried, LC), 'e', 0, NULL, NULL);
    check_choice(choose(&any_route, "", ~(endpoint_set)0, LC), '-', 503, NULL, NULL);
    check_choice(choose(&any_route, "own", BIT(0), LC), 'e', 0, "routed", "model_found");
}

static void test_providers(void **state)
{
    struct route ollama = route_find(STR("/olla/ollama/api/chat"), true);
    struct route vllm = route_find(STR("/olla/vllm/v1/chat/completions"), true);
    struct route lms = route_find(STR("/olla/lmstudio/v1/completions"), true);
    struct route llama = route_find(STR("/olla/llamacpp/completion"), true);
    struct route openai = route_find(STR("/olla/openai/v1/completions"), true);
    (void)state;

    assert_string_equal(picks(&ollama, "", RR, 4, false), "abab");
    assert_string_equal(picks(&lms, "", RR, 2, false), "dd");
    assert_string_equal(picks(&openai, "", RR, 5, false), "ceabd"); /* takes all that speak it */
    check_choice(choose(&vllm, "big", 0, LC), 'c', 0, "routed", "model_found");
    check_choice(choose(&vllm, "own", 0, LC), '-', 503, "rejected", "model_unavailable"); /* only on another type */
    check_choice(choose(&vllm, "none", 0, LC), '-', 404, "rejected", "model_not_found");
    /* No endpoint of the type: 404, whatever the model. */
    check_choice(choose(&llama, "", 0, LC), '-', 404, NULL, NULL);
    check_choice(choose(&llama, "big", 0, LC), '-', 404, NULL, NULL);
    E(2)->state = ENDPOINT_OFFLINE;
    check_choice(choose(&vllm, "big", 0, LC), '-', 404, NULL, NULL);
    check_choice(choose(&vllm, "", 0, LC), '-', 404, NULL, NULL);
}

static void test_listed(void **state)
{
    const struct profile *ollama = profile_by_type(STR("ollama")), *vllm = profile_by_type(STR("vllm"));
    const struct profile *openai = profile_by_type(STR("openai"));
    const endpoint_set all = BIT(0) | BIT(1) | BIT(2) | BIT(3) | BIT(4);
    static const struct profile speechless = {.name = "x", .models_path = "/x"}; /* a type of one's own may be so */
    (void)state;

    assert_true(route_listed(NULL, API_OPENAI, true) == all);
    assert_true(route_listed(NULL, API_OLLAMA, true) == (BIT(0) | BIT(1)));
    assert_true(route_listed(NULL, API_ANTHROPIC, true) == (all & ~BIT(4)));
    assert_true(route_listed(NULL, API_OLLAMA | API_LM_STUDIO, true) == (BIT(0) | BIT(1) | BIT(3)));
    assert_true(route_listed(NULL, API_DMR, true) == 0);
    assert_true(route_listed(NULL, 0, true) == 0);
    assert_true(route_listed(ollama, API_OPENAI, true) == (BIT(0) | BIT(1)));
    assert_true(route_listed(vllm, API_OPENAI, true) == BIT(2));
    assert_true(route_listed(vllm, API_OLLAMA, true) == 0);
    assert_true(route_listed(openai, API_OPENAI, true) == all);
    assert_true(route_listed(openai, API_OLLAMA, true) == (BIT(0) | BIT(1)));

    E(0)->enabled = false; /* is not there at all */
    for (int s = ENDPOINT_UNKNOWN; s <= ENDPOINT_RATE_LIMITED; s++) {
        E(2)->state = (enum endpoint_state)s;
        bool well = s == ENDPOINT_HEALTHY || s == ENDPOINT_BUSY || s == ENDPOINT_WARMING;
        assert_true(route_listed(NULL, API_OPENAI, false) == (all & ~BIT(0)));
        assert_true(route_listed(NULL, API_OPENAI, true) == (all & ~BIT(0) & ~(well ? 0 : BIT(2))));
        assert_true(route_listed(vllm, API_OPENAI, false) == BIT(2));
        assert_true(route_listed(vllm, API_OPENAI, true) == (well ? BIT(2) : 0));
    }
    E(3)->profile = profile_by_type(STR("auto")); /* nobody knows yet what it speaks */
    E(4)->profile = &speechless;
    assert_true(route_listed(NULL, ROUTE_ANY_API, false) == (BIT(1) | BIT(2) | BIT(4)));
    assert_true(route_listed(NULL, API_OPENAI | API_OLLAMA, false) == (BIT(1) | BIT(2)));
}

/* ---- paths that only some types have ----------------------------------------------- */

static void test_native_paths(void **state)
{
    struct route infill = route_find(STR("/olla/proxy/infill"), true);
    struct route openai = route_find(STR("/olla/openai/infill"), true);
    struct route ollama = route_find(STR("/olla/ollama/infill"), true);
    struct route chat = route_find(STR("/olla/proxy/v1/chat/completions"), true);
    struct route other = route_find(STR("/olla/proxy/infill/x"), true);
    struct route pooling = route_find(STR("/olla/proxy/pooling"), true);
    struct route rerank = route_find(STR("/v1/rerank"), true);
    (void)state;

    assert_string_equal(picks(&infill, "", RR, 5, false), "abcde"); /* nobody knows it */
    (void)fresh(NULL);
    E(1)->profile = E(3)->profile = profile_by_type(STR("llamacpp"));
    assert_string_equal(picks(&infill, "", RR, 4, false), "bdbd");
    assert_string_equal(picks(&infill, "shared", RR, 3, false), "bbb"); /* a and c have it too */
    assert_string_equal(picks(&infill, "big", LC, 3, true), "ddd");     /* c has it, and has less to do */
    assert_string_equal(picks(&infill, "own", RR, 2, false), "ee"); /* none of those that know it: the model decides */
    assert_string_equal(picks(&infill, "none", RR, 1, false), "-");
    finish(E(3));
    finish(E(3));
    finish(E(3));

    (void)fresh(NULL);
    E(1)->profile = E(3)->profile = profile_by_type(STR("llamacpp"));
    assert_string_equal(picks(&openai, "", RR, 4, false), "bdbd");      /* shared by all that speak OpenAI's API */
    assert_string_equal(picks(&ollama, "", RR, 2, false), "aa");        /* of one type only */
    assert_string_equal(picks(&other, "", RR, 3, false), "ceb");        /* another path: who waited longest */
    assert_string_equal(picks(&pooling, "", RR, 2, false), "cc");       /* vLLM's */
    assert_string_equal(picks(&rerank, "shared", RR, 3, false), "bcb"); /* not Ollama's, though it is below /v1/ */
    assert_string_equal(picks(&chat, "shared", RR, 3, false), "acb");   /* everybody has that */

    /* Whoever does not know the path would deny that it exists: not tried behind one that failed. */
    check_choice(choose(&infill, "shared", BIT(1), RR), '-', 503, "routed", "model_found");
    E(1)->state = ENDPOINT_OFFLINE;
    check_choice(choose(&infill, "shared", 0, PRIO), 'a', 0, "routed", "model_found");
    check_choice(choose(&infill, "", 0, PRIO), 'd', 0, NULL, NULL); /* more than priority */
}

/* ---- one machine that is wanted ---------------------------------------------------- */

static struct route_choice pin(const struct route *r, const char *name, const char *model, endpoint_set tried)
{
    struct route_query q = {.route = r, .model = str_of(model), .tried = tried, .balancer = LC, .pin = str_of(name)};
    return route_choose(&q);
}

static void test_pinned(void **state)
{
    struct route vllm = route_find(STR("/olla/vllm/v1/completions"), true);
    struct route pull = route_find(STR("/api/pull"), true);
    (void)state;

    check_choice(pin(&any_route, "d", "", 0), 'd', 0, NULL, NULL);
    check_choice(pin(&any_route, "a", "own", 0), 'a', 0, NULL, NULL); /* the model does not count */
    check_choice(pin(&pull, "b", "", 0), 'b', 0, NULL, NULL);
    assert_true(pin(&pull, "c", "", 0).no_such_pin); /* speaks another API */
    assert_true(pin(&vllm, "a", "", 0).no_such_pin);
    assert_true(pin(&any_route, "A", "", 0).no_such_pin);
    assert_true(pin(&any_route, "ab", "", 0).no_such_pin);
    check_choice(pin(&any_route, "ab", "", 0), '-', 404, NULL, NULL);
    check_choice(pin(&any_route, "d", "", BIT(3)), '-', 503, NULL, NULL);
    assert_false(pin(&any_route, "d", "", BIT(3)).no_such_pin);
    E(3)->state = ENDPOINT_UNHEALTHY;
    check_choice(pin(&any_route, "d", "", 0), '-', 503, NULL, NULL);
    assert_false(pin(&any_route, "d", "", 0).starting);
    E(3)->probed = false;
    assert_true(pin(&any_route, "d", "", 0).starting);
    E(3)->enabled = false;
    check_choice(pin(&any_route, "d", "", 0), '-', 404, NULL, NULL);
    assert_true(pin(&any_route, "d", "", 0).no_such_pin);
}

/* ---- start-up -------------------------------------------------------------------- */

static void test_pending(void **state)
{
    (void)state;
    assert_false(endpoint_any_pending());
    for (int i = 0; i < FLEET; i++) {
        E(i)->probed = false;
        assert_true(endpoint_any_pending());
        check_choice(choose(&any_route, "none", 0, LC), '-', 404, "rejected", "model_not_found");
        assert_true(choose(&any_route, "none", 0, LC).starting);
        assert_false(choose(&any_route, "shared", 0, LC).starting);
        E(i)->enabled = false; /* nobody waits for it */
        assert_false(endpoint_any_pending());
        (void)fresh(NULL);
        E(i)->discovered = false;
        assert_true(endpoint_any_pending());
        E(i)->state = ENDPOINT_OFFLINE; /* it will not tell its models: do not wait */
        assert_false(endpoint_any_pending());
        check_choice(choose(&any_route, "none", 0, LC), '-', 404, "rejected", "model_not_found");
        assert_false(choose(&any_route, "none", 0, LC).starting);
        (void)fresh(NULL);
    }
}

/* ---- weights -------------------------------------------------------------------------- */

/* How often each of a, b, c was picked, "30 10 10". */
static const char *shares(const char *names)
{
    static char counts[48];
    int n[3] = {0};
    for (; *names; names++) {
        assert_in_range(*names, 'a', 'c');
        n[*names - 'a']++;
    }
    (void)snprintf(counts, sizeof(counts), "%d %d %d", n[0], n[1], n[2]);
    return counts;
}

static void weigh(void)
{
    (void)fresh(NULL);
    E(0)->weight = 3;
    E(2)->priority = 200;
}

static void test_weights(void **state)
{
    static const enum conf_balancer all[] = {RR, LC, PRIO};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        weigh();
        assert_string_equal(shares(picks(&any_route, "shared", all[i], 50, false)), "30 10 10");
        /* In all five of them, not in one piece. */
        weigh();
        for (int k = 0; k < 10; k++) {
            assert_string_equal(shares(picks(&any_route, "shared", all[i], 5, false)), "3 1 1");
        }
        weigh();
        assert_string_equal(shares(picks(&any_route, "shared", all[i], 50, true)), "30 10 10"); /* nobody is done */
    }
    /* Load is measured by weight, unless turns are all that counts. */
    weigh();
    E(0)->inflight = 5;
    E(1)->inflight = E(2)->inflight = 2;
    assert_string_equal(picks(&any_route, "shared", LC, 1, true), "a");
    assert_string_equal(picks(&any_route, "shared", PRIO, 2, true), "bc"); /* six thirds are no less than two */
}

/* Who was away gets its share from now on, not what it missed. */
static void test_weights_after_absence(void **state)
{
    static const enum conf_balancer all[] = {RR, LC, PRIO};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        weigh();
        E(1)->state = ENDPOINT_OFFLINE;
        assert_string_equal(shares(picks(&any_route, "shared", all[i], 40, false)), "30 0 10");
        E(1)->state = ENDPOINT_HEALTHY;
        const char *names = picks(&any_route, "shared", all[i], 50, false);
        int b = 0;
        for (const char *c = names; *c; c++) {
            b += *c == 'b';
        }
        assert_in_range(b, 10, 12);
    }
}

/* ---- limits ------------------------------------------------------------------------------ */

static struct route_query query(const char *model)
{
    return (struct route_query){.route = &any_route, .model = str_of(model), .balancer = LC, .counts = true};
}

static void test_max_concurrent(void **state)
{
    struct route_query q = query("shared");
    struct route_choice c;
    (void)state;

    for (int i = 0; i < 3; i++) {
        E(i)->max_concurrent = 2;
    }
    E(0)->serving = 2;
    E(1)->serving = 3; /* a reload made it less */
    E(2)->serving = 1;
    c = route_choose(&q);
    check_choice(c, 'c', 0, "routed", "model_found");
    assert_true(c.full == 0 && c.candidates == (BIT(0) | BIT(1) | BIT(2)));
    E(2)->serving = 2;
    c = route_choose(&q);
    check_choice(c, '-', 503, "routed", "model_found");
    assert_true(c.full == (BIT(0) | BIT(1) | BIT(2)) && c.candidates == c.full);
    assert_false(c.closed || c.limited || c.starting);
    q.tried = BIT(0);
    assert_true(route_choose(&q).full == (BIT(1) | BIT(2)));
    E(1)->state = ENDPOINT_OFFLINE;
    assert_true(route_choose(&q).full == BIT(2));
    q.tried = FLEET_ALL;
    assert_true(route_choose(&q).full == 0);
    /* Other kinds of requests are not counted, and find room everywhere. */
    q.tried = 0;
    q.counts = false;
    check_choice(route_choose(&q), 'a', 0, "routed", "model_found");
    q.counts = true;
    q.pin = STR("c");
    c = route_choose(&q);
    check_choice(c, '-', 503, NULL, NULL);
    assert_true(c.full == BIT(2));
    E(2)->serving = 1;
    check_choice(route_choose(&q), 'c', 0, NULL, NULL);
    assert_true(route_choose(&q).full == 0);
}

/* Only those that are counted when they begin take room, until they end. */
static void test_serving(void **state)
{
    struct endpoint_use counted, other;
    (void)state;
    E(4)->max_concurrent = 1;
    endpoint_begin(E(4), &other, false, 0);
    assert_false(endpoint_is_full(E(4)));
    endpoint_begin(E(4), &counted, true, 0);
    assert_true(endpoint_is_full(E(4)));
    endpoint_end(E(4), &other, OUTCOME_GOOD, &GOOD_EVENT);
    assert_true(endpoint_is_full(E(4)));
    endpoint_unused(E(4), &counted);
    assert_false(endpoint_is_full(E(4)));
    assert_int_equal(E(4)->inflight, 0);
}

/* Opens the breaker as failing requests do. */
static void open_breaker(struct endpoint *e)
{
    for (int i = 0; i < 3; i++) {
        struct endpoint_use use;
        endpoint_begin(e, &use, true, 0);
        endpoint_end(e, &use, OUTCOME_BAD, &BAD_EVENT);
    }
    assert_false(endpoint_is_open(e));
}

static void test_closed(void **state)
{
    struct route_query q = query("shared");
    struct route_choice c;
    (void)state;

    net_tick();
    open_breaker(E(0));
    c = route_choose(&q);
    check_choice(c, 'b', 0, "routed", "model_found");
    assert_true(c.candidates == (BIT(1) | BIT(2)));
    assert_false(c.closed || c.limited);
    endpoint_limit(E(1), 5000);
    endpoint_limit(E(2), 3000);
    c = route_choose(&q);
    check_choice(c, '-', 503, "routed", "model_found"); /* not all of them because of limits */
    assert_true(c.closed && !c.limited && c.candidates == 0 && c.full == 0);
    assert_int_equal(c.closed_ms, 3000);
    q.tried = BIT(0);
    c = route_choose(&q);
    check_choice(c, '-', 429, "routed", "model_found");
    assert_true(c.closed && c.limited);
    assert_int_equal(c.closed_ms, 3000);
    q.tried = BIT(1) | BIT(2);
    c = route_choose(&q);
    check_choice(c, '-', 503, "routed", "model_found");
    assert_int_equal(c.closed_ms, 10000);
    q.tried = FLEET_ALL; /* nobody is left at all */
    c = route_choose(&q);
    check_choice(c, '-', 503, "routed", "model_found");
    assert_false(c.closed || c.limited);
    assert_int_equal(c.closed_ms, 0);
    /* One that is wanted by name. */
    q.tried = 0;
    q.pin = STR("b");
    c = route_choose(&q);
    check_choice(c, '-', 429, NULL, NULL);
    assert_true(c.closed && c.limited);
    assert_int_equal(c.closed_ms, 5000);
    q.pin = STR("a");
    c = route_choose(&q);
    check_choice(c, '-', 503, NULL, NULL);
    assert_true(c.closed && !c.limited);
    /* The longer of both counts; a shorter limit does not replace a longer one. */
    endpoint_limit(E(0), 20000);
    endpoint_limit(E(0), 10);
    c = route_choose(&q);
    assert_true(c.limited && c.status == 429);
    assert_int_equal(c.closed_ms, 20000);
    /* A model that nobody has is that first. */
    q = query("none");
    check_choice(route_choose(&q), '-', 404, "rejected", "model_not_found");
}

/* One trial at a time: while it is under way the endpoint is closed. */
static void test_trial(void **state)
{
    struct route_query q = query("own");
    struct endpoint_use trial, late;
    (void)state;

    endpoint_begin(E(4), &late, true, 0);
    open_breaker(E(4));
    assert_true(route_choose(&q).closed);
    E(4)->breaker.until = net_now();
    struct route_choice c = route_choose(&q);
    check_choice(c, 'e', 0, "routed", "model_found");
    endpoint_begin(E(4), &trial, true, c.turn);
    assert_true(trial.trial && !late.trial);
    c = route_choose(&q);
    check_choice(c, '-', 503, "routed", "model_found");
    assert_true(c.closed && c.closed_ms == 0); /* nobody knows how long it takes */
    endpoint_end(E(4), &late, OUTCOME_GOOD, &GOOD_EVENT);
    assert_true(route_choose(&q).closed);
    endpoint_end(E(4), &trial, OUTCOME_GOOD, &GOOD_EVENT);
    check_choice(route_choose(&q), 'e', 0, "routed", "model_found");
    /* One whose health is not a matter of failures has none. */
    open_breaker(E(4));
    E(4)->health = HEALTH_NONE;
    check_choice(route_choose(&q), 'e', 0, "routed", "model_found");
    E(4)->health = HEALTH_HTTP;
    assert_true(route_choose(&q).closed);
}

/* A reload may take the breaker away while its trial is under way: with the breaker back there is another trial. */
static void test_trial_without_breaker(void **state)
{
    struct endpoint_use trial;
    (void)state;

    open_breaker(E(4));
    E(4)->breaker.until = net_now();
    endpoint_begin(E(4), &trial, true, 0);
    assert_true(trial.trial);
    E(4)->health = HEALTH_NONE;
    endpoint_end(E(4), &trial, OUTCOME_GOOD, &GOOD_EVENT);
    E(4)->health = HEALTH_HTTP;
    assert_true(endpoint_is_open(E(4)));
}

static void test_serves(void **state)
{
    struct route kind = {.kind = ROUTE_PROXY, .inference = SERVES_EMBEDDINGS}, other = {.inference = -1};
    struct route_query q = query("shared");
    (void)state;

    other.kind = ROUTE_PROXY;
    q.route = &kind;
    E(0)->serves = 1u << SERVES_CHAT;
    E(1)->serves = 1u << SERVES_CHAT | 1u << SERVES_EMBEDDINGS;
    check_choice(route_choose(&q), 'b', 0, "routed", "model_found");
    assert_true(route_choose(&q).candidates == (BIT(1) | BIT(2)));
    kind.inference = SERVES_RERANK;
    check_choice(route_choose(&q), 'c', 0, "routed", "model_found");
    E(2)->serves = 1u << SERVES_IMAGES;
    check_choice(route_choose(&q), '-', 503, "rejected", "model_unavailable");
    q.pin = STR("a");
    check_choice(route_choose(&q), '-', 503, NULL, NULL);
    assert_false(route_choose(&q).no_such_pin);
    q.pin = STR("");
    q.route = &other; /* something else */
    check_choice(route_choose(&q), 'a', 0, "routed", "model_found");
}

static void test_context(void **state)
{
    struct route_query q = query("shared");
    (void)state;

    E(0)->max_context = 1000;
    E(1)->max_context = 4000;
    q.tokens = 1000;
    check_choice(route_choose(&q), 'a', 0, "routed", "model_found");
    q.tokens = 1001;
    check_choice(route_choose(&q), 'b', 0, "routed", "model_found");
    assert_true(route_choose(&q).candidates == (BIT(1) | BIT(2))); /* c does not say: it may be large enough */
    q.tokens = 4001;
    check_choice(route_choose(&q), 'c', 0, "routed", "model_found");
    E(2)->only_context = 2000;
    check_choice(route_choose(&q), 'a', 0, "routed", "model_found"); /* nowhere: the estimate may be wrong */
    assert_true(route_choose(&q).candidates == (BIT(0) | BIT(1) | BIT(2)));
    E(2)->extra.context = 8000; /* what is loaded tells more than the list */
    check_choice(route_choose(&q), 'c', 0, "routed", "model_found");
    E(2)->max_context = 100; /* and the configuration more than that */
    check_choice(route_choose(&q), 'a', 0, "routed", "model_found");
    q.tokens = 0;
    check_choice(route_choose(&q), 'a', 0, "routed", "model_found");
    /* Where there is no choice, the size does not matter; nor for one that is wanted. */
    q.tokens = 500000;
    q.tried = BIT(1) | BIT(2);
    check_choice(route_choose(&q), 'a', 0, "routed", "model_found");
    q.tried = 0;
    q.pin = STR("a");
    check_choice(route_choose(&q), 'a', 0, NULL, NULL);
    /* A smaller one does not take what waits for the larger one. */
    q = query("shared");
    q.tokens = 3000;
    q.tried = BIT(2);
    E(1)->max_concurrent = E(1)->serving = 1;
    check_choice(route_choose(&q), '-', 503, "routed", "model_found");
    assert_true(route_choose(&q).full == BIT(1));
}

/* What a model's list says of it, where the server says nothing of itself. */
static void test_context_of_list(void **state)
{
    struct route_query q = query("shared");
    (void)state;
    struct model_facts *facts = fleet_facts(STR("shared"));
    facts->context = 2048;
    (void)str_copy(facts->digest, sizeof(facts->digest), STR("abc")); /* not the one that b and c have */
    model_list_begin(E(0));
    assert_true(model_offer(E(0), facts, MODEL_UNKNOWN));
    (void)model_list_end(E(0), true);
    q.tokens = 2048;
    check_choice(route_choose(&q), 'a', 0, "routed", "model_found");
    q.tokens = 2049;
    assert_false(route_choose(&q).candidates & BIT(0));
}

/* ---- order of states and loads --------------------------------------------------------- */

static void test_states(void **state)
{
    static const enum conf_balancer all[] = {RR, LC, PRIO};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        (void)fresh(NULL);
        E(0)->state = ENDPOINT_WARMING;
        E(1)->state = ENDPOINT_BUSY;
        E(2)->inflight = 100; /* and of a lower tier */
        assert_string_equal(picks(&any_route, "shared", all[i], 4, false), "cccc");
        E(2)->state = ENDPOINT_OFFLINE;
        assert_string_equal(picks(&any_route, "shared", all[i], 4, false), "bbbb");
        E(1)->state = ENDPOINT_WARMING;
        assert_string_equal(picks(&any_route, "shared", all[i], 4, false), "abab");
    }
}

/* Of those that tell: loaded and idle, idle, loaded and busy, busy. */
static void test_loads(void **state)
{
    static const enum conf_balancer all[] = {RR, LC, PRIO};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        (void)fresh(NULL);
        E(1)->load.known = true; /* Ollama's: b has not loaded it */
        assert_string_equal(picks(&any_route, "shared", all[i], 2, false), all[i] == PRIO ? "aa" : "ac");
        model_set_loaded(E(1), STR("shared\n"), MODEL_NOT_LOADED);
        E(0)->load.known = true;
        model_set_loaded(E(0), STR(""), MODEL_NOT_LOADED);
        E(2)->state = ENDPOINT_OFFLINE;
        assert_string_equal(picks(&any_route, "shared", all[i], 3, false), "bbb");
        E(1)->inflight = 1; /* idle beats loaded and busy */
        assert_string_equal(picks(&any_route, "shared", all[i], 2, false), "aa");
        E(0)->inflight = 1; /* loaded beats not loaded */
        assert_string_equal(picks(&any_route, "shared", all[i], 2, false), "bb");
        E(1)->inflight = E(0)->inflight = 0;
    }
}

static void test_tiers(void **state)
{
    struct route_query q = query("");
    (void)state;
    q.balancer = PRIO;
    E(0)->max_concurrent = E(0)->serving = 1;
    check_choice(route_choose(&q), 'b', 0, NULL, NULL);
    endpoint_limit(E(1), 1000);
    check_choice(route_choose(&q), 'c', 0, NULL, NULL); /* a full tier passes requests on */
    E(2)->state = E(3)->state = ENDPOINT_BUSY;
    check_choice(route_choose(&q), 'e', 0, NULL, NULL);
}

/* ---- conversations --------------------------------------------------------------------------- */

static uint64_t next_key = 1000;

static void check_sticky(const struct route_query *q, char who, enum sticky_outcome outcome, bool pinned)
{
    struct route_choice c = route_choose(q);
    assert_int_equal(c.e ? c.e->name[0] : '-', who);
    assert_string_equal(sticky_word(c.sticky), sticky_word(outcome));
    assert_int_equal(c.pin, pinned);
}

static struct route_query turn_of(uint64_t key)
{
    struct route_query q = query("shared");
    q.key = key;
    return q;
}

static void test_sticky_hit(void **state)
{
    struct route_query q = turn_of(next_key++);
    (void)state;

    sticky_pin(q.key, E(2));
    check_sticky(&q, 'c', STICKY_HIT, true);
    E(2)->inflight = 2; /* as many more as load_slack allows */
    check_sticky(&q, 'c', STICKY_HIT, true);
    q.balancer = RR;
    E(0)->picked = E(1)->picked = 1;
    E(2)->picked = 2;
    E(2)->pass = 1u << 20;
    check_sticky(&q, 'c', STICKY_HIT, true); /* turns do not count */
    E(0)->load.known = true;
    model_set_loaded(E(0), STR("shared\n"), MODEL_NOT_LOADED);
    check_sticky(&q, 'c', STICKY_HIT, true); /* nor does a warm model elsewhere */
    q.key = 0;
    check_sticky(&q, 'a', STICKY_OFF, false);
    q.key = 1;
    q.pin = STR("b");
    check_sticky(&q, 'b', STICKY_OFF, false);
}

/* A spike passes: another one serves this turn, and the pin stays. */
static void test_sticky_overloaded(void **state)
{
    struct route_query q = turn_of(next_key++);
    bool had;
    (void)state;

    sticky_pin(q.key, E(2));
    E(2)->inflight = 3;
    check_sticky(&q, 'a', STICKY_MISS, false);
    E(0)->inflight = 1;
    check_sticky(&q, 'b', STICKY_MISS, false);
    E(1)->inflight = 1;
    check_sticky(&q, 'c', STICKY_HIT, true); /* the others have as much to do, nearly */
    E(0)->state = E(1)->state = ENDPOINT_BUSY;
    E(2)->inflight = 50;
    check_sticky(&q, 'c', STICKY_HIT, true); /* those that are not well are no relief */
    E(0)->state = E(1)->state = ENDPOINT_HEALTHY;
    E(2)->inflight = 0;
    E(2)->max_concurrent = E(2)->serving = 4;
    check_sticky(&q, 'a', STICKY_MISS, false); /* no room */
    assert_ptr_equal(sticky_peek(q.key, &had), E(2));
    /* All are full: nobody yet. */
    E(0)->max_concurrent = E(1)->max_concurrent = E(0)->serving = E(1)->serving = 1;
    check_sticky(&q, '-', STICKY_OFF, false);
    assert_true(route_choose(&q).full == (BIT(0) | BIT(1) | BIT(2)));
}

static void test_sticky_lower(void **state)
{
    struct route_query q = turn_of(next_key++);
    (void)state;

    sticky_pin(q.key, E(2));
    q.balancer = PRIO;
    struct endpoint *placed = sticky_place(q.key, BIT(0) | BIT(1));
    check_sticky(&q, placed->name[0], STICKY_REPIN, true); /* the better tier is back */
    E(0)->max_concurrent = E(1)->max_concurrent = E(0)->serving = E(1)->serving = 1;
    check_sticky(&q, 'c', STICKY_HIT, true); /* it has no room */
    E(0)->serving = E(1)->serving = 0;
    sticky_pin(q.key, E(0));
    check_sticky(&q, 'a', STICKY_HIT, true);
    E(0)->inflight = 50;
    E(1)->inflight = 48;
    check_sticky(&q, 'a', STICKY_HIT, true); /* lower tiers are no relief */
    E(1)->inflight = 47;
    check_sticky(&q, 'b', STICKY_MISS, false);
    E(1)->inflight = E(0)->inflight = 0;
    /* One that does not answer health checks is as good as a lower tier. */
    E(0)->state = ENDPOINT_BUSY;
    check_sticky(&q, 'b', STICKY_REPIN, true);
    q.balancer = LC;
    placed = sticky_place(q.key, BIT(1) | BIT(2));
    check_sticky(&q, placed->name[0], STICKY_REPIN, true);
    E(1)->state = E(2)->state = ENDPOINT_BUSY;
    check_sticky(&q, 'a', STICKY_HIT, true);
}

static void test_sticky_gone(void **state)
{
    struct route_query q = turn_of(next_key++);
    (void)state;

    sticky_pin(q.key, E(2));
    char other = sticky_place(q.key, BIT(0) | BIT(1))->name[0];
    E(2)->state = ENDPOINT_OFFLINE;
    check_sticky(&q, other, STICKY_REPIN, true);
    E(2)->state = ENDPOINT_HEALTHY;
    q.tried = BIT(2);
    check_sticky(&q, other, STICKY_REPIN, true);
    q.tried = 0;
    endpoint_limit(E(2), 1000);
    check_sticky(&q, other, STICKY_REPIN, true);
    E(2)->limited_until = 0;
    q.tokens = 2000;
    E(2)->max_context = 1000; /* the conversation has grown out of it */
    check_sticky(&q, other, STICKY_REPIN, true);
    q.tokens = 0;
    check_sticky(&q, 'c', STICKY_HIT, true);
    q.model = STR("own"); /* not there */
    check_sticky(&q, 'e', STICKY_REPIN, true);
    q.model = STR("shared");
    E(2)->generation++; /* another server since then */
    check_sticky(&q, sticky_place(q.key, BIT(0) | BIT(1) | BIT(2))->name[0], STICKY_REPIN, true);
    E(2)->generation--;
}

/* A new conversation goes to one of the best, the same for all instances, and spreads over them. */
static void test_sticky_placed(void **state)
{
    unsigned count[FLEET] = {0};
    (void)state;
    for (int i = 0; i < 3000; i++) {
        struct route_query q = turn_of(next_key++);
        struct endpoint *placed = sticky_place(q.key, BIT(0) | BIT(1) | BIT(2));
        check_sticky(&q, placed->name[0], STICKY_MISS, true);
        count[placed->order]++;
    }
    for (int i = 0; i < 3; i++) {
        assert_in_range(count[i], 850, 1150);
    }
    struct route_query q = turn_of(next_key++);
    E(0)->inflight = E(2)->inflight = 1; /* b alone is the best */
    check_sticky(&q, 'b', STICKY_MISS, true);
    q.balancer = RR; /* load does not matter: all of them are equal */
    check_sticky(&q, sticky_place(q.key, BIT(0) | BIT(1) | BIT(2))->name[0], STICKY_MISS, true);
    q.balancer = PRIO;
    check_sticky(&q, 'b', STICKY_MISS, true);
    q.model = STR("none");
    check_sticky(&q, '-', STICKY_OFF, false);
}

/* ---- reasons ------------------------------------------------------------------------------------ */

static const char *reasons(const struct route_query *q)
{
    static char mem[512];
    struct text t = text_in(mem, sizeof(mem));
    route_reasons(q, &t);
    assert_false(t.full);
    return text_z(&t);
}

static void test_reasons(void **state)
{
    struct route vllm = route_find(STR("/olla/vllm/v1/embeddings"), true);
    struct route_query q = query("shared");
    (void)state;

    assert_string_equal(reasons(&q), "; endpoints: d (does not serve the model), e (does not serve the model)");
    q.model = STR("");
    assert_string_equal(reasons(&q), "");
    E(0)->enabled = false;
    E(1)->state = ENDPOINT_UNKNOWN;
    E(2)->state = ENDPOINT_OFFLINE;
    endpoint_limit(E(3), 1000);
    open_breaker(E(3)); /* the limit says more */
    open_breaker(E(4));
    assert_string_equal(reasons(&q), "; endpoints: a (disabled), b (not probed yet), c (offline), d (rate limited), "
                                     "e (breaker open)");
    (void)fresh(NULL);
    q.tried = BIT(1);
    E(0)->max_concurrent = E(0)->serving = 1;
    E(3)->state = ENDPOINT_CONFIG_ERROR;
    E(4)->state = ENDPOINT_RATE_LIMITED;
    assert_string_equal(reasons(&q), "; endpoints: a (at its limit of requests), b (already tried), d (config_error), "
                                     "e (rate_limited)");
    q.counts = false; /* has room then */
    assert_string_equal(reasons(&q), "; endpoints: b (already tried), d (config_error), e (rate_limited)");
    (void)fresh(NULL);
    q.tried = 0;
    q.route = &vllm;
    E(2)->serves = 1u << SERVES_CHAT;
    assert_string_equal(reasons(&q), "; endpoints: a (wrong type), b (wrong type), c (does not serve this kind), "
                                     "d (wrong type), e (wrong type)");
    /* A wanted endpoint: its models do not count. */
    q = query("own");
    q.pin = STR("a");
    assert_string_equal(reasons(&q), "");
}

/* In any room: whole entries, and dots for those that do not fit. */
static void test_reasons_room(void **state)
{
    static const char head[] = "no endpoint", first[] = "; endpoints: a (disabled)";
    struct route_query q = query("");
    char mem[160];
    (void)state;

    for (int i = 0; i < FLEET; i++) {
        E(i)->enabled = false;
    }
    for (size_t cap = sizeof(head); cap < sizeof(mem); cap++) {
        struct text t = text_in(mem, cap);
        text_addz(&t, head);
        route_reasons(&q, &t);
        assert_false(t.full);
        assert_true(t.n < cap);
        mem[t.n] = '\0';
        size_t n = strlen(head);
        assert_memory_equal(mem, head, n);
        if (t.n == n) {
            assert_true(cap < n + sizeof(first) + sizeof(", ..."));
            continue;
        }
        assert_memory_equal(mem + n, first, sizeof(first) - 1);
        n += sizeof(first) - 1;
        char name = 'b';
        for (; str_starts(str_of(mem + n), STR(", ")) && mem[n + 2] == name; name++) {
            assert_memory_equal(mem + n + 3, " (disabled)", 11);
            n += 14;
        }
        assert_string_equal(mem + n, name <= 'e' ? ", ..." : "");
        assert_true(name > 'e' || cap < n + 14 + 2 * sizeof(", ...")); /* not sooner than has to be */
    }
}

/* ---- against a reference --------------------------------------------------------- */

/* The best of the candidates, by looking at all of them again for each rule in turn. */
static endpoint_set naive_best(endpoint_set set, enum conf_balancer how)
{
    for (int rule = 0; rule < 3; rule++) {
        uint64_t least = UINT64_MAX;
        endpoint_set keep = 0;
        if ((rule == 0 && how != PRIO) || (rule == 1 && how == RR)) {
            continue;
        }
        for (int i = 0; i < FLEET; i++) {
            uint64_t v = rule == 0 ? 1000u - (uint64_t)E(i)->priority : rule == 1 ? E(i)->inflight : E(i)->picked;
            if ((set & BIT(i)) && v <= least) {
                keep = v < least ? BIT(i) : keep | BIT(i);
                least = v;
            }
        }
        set = keep;
    }
    return set & (~set + 1); /* the lowest bit: slots are in configuration order here */
}

static void test_random_fleets(void **state)
{
    static const char *const models[] = {"", "shared", "big", "own", "none"};
    static const endpoint_set has[] = {31, 7, 12, 16, 0};
    static const char *const where[] = {"/olla/proxy/x",  "/olla/ollama/x", "/olla/vllm/x",
                                        "/olla/openai/x", "/api/chat",      "/v1/messages"};
    static const endpoint_set fits[] = {31, 3, 4, 31, 3, 15};
    (void)state;

    for (int step = 0; step < 5000; step++) {
        size_t m = chance(OLLA_COUNT(models)), w = chance(OLLA_COUNT(where));
        enum conf_balancer how = (enum conf_balancer)chance(3);
        endpoint_set tried = chance(2) ? chance(32) : 0, up = 0, limited = 0, full = 0, enabled = 0;
        struct route r = route_find(str_of(where[w]), true);
        for (int i = 0; i < FLEET; i++) {
            E(i)->state = chance(4) ? ENDPOINT_HEALTHY : ENDPOINT_OFFLINE;
            E(i)->enabled = chance(8) > 0;
            E(i)->inflight = chance(3);
            E(i)->picked = chance(4);
            E(i)->pass = 0; /* nobody's turn */
            E(i)->max_concurrent = chance(3);
            E(i)->serving = chance(3);
            E(i)->limited_until = chance(4) ? 0 : net_now() + 1 + chance(9);
            full |= E(i)->max_concurrent > 0 && E(i)->serving >= E(i)->max_concurrent ? BIT(i) : 0;
            limited |= E(i)->limited_until > 0 ? BIT(i) : 0;
            enabled |= E(i)->enabled ? BIT(i) : 0;
            up |= E(i)->state == ENDPOINT_HEALTHY && E(i)->enabled ? BIT(i) : 0;
        }
        endpoint_set good = up & fits[w], left = good & has[m] & ~tried;
        struct route_query q = {&r, str_of(models[m]), .tried = tried, .balancer = how, .counts = chance(4) > 0};
        struct route_choice c = route_choose(&q);
        endpoint_set open = left & ~limited, room = q.counts ? open & ~full : open;
        assert_true((c.e ? endpoint_bit(c.e) : 0) == naive_best(room, how));
        assert_true(c.candidates == open && c.full == (room ? 0 : open));
        assert_true(c.closed == (left && !open) && c.limited == c.closed && (c.closed_ms > 0) == c.closed);
        assert_false(c.starting);
        if (!c.e) {
            bool empty_type = good == 0 && r.has_type;
            bool elsewhere = m > 0 && r.api && (has[m] & enabled) && !(has[m] & enabled & fits[w]);
            bool nowhere = empty_type || (m > 0 && has[m] == 0) || elsewhere;
            assert_int_equal(c.status, nowhere ? 404 : c.closed ? 429 : 503);
            assert_int_equal(c.instead != 0, elsewhere);
            assert_int_equal(c.decision == NULL, empty_type || m == 0);
        }
    }
}

#define CASE(f) cmocka_unit_test_setup(f, fresh)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_ollama_on_a_fleet),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_dialects),
        CASE(test_round_robin),
        CASE(test_least_connections),
        CASE(test_priority),
        CASE(test_strict),
        CASE(test_tried),
        CASE(test_providers),
        CASE(test_listed),
        CASE(test_native_paths),
        CASE(test_pinned),
        CASE(test_pending),
        CASE(test_weights),
        CASE(test_weights_after_absence),
        CASE(test_max_concurrent),
        CASE(test_serving),
        CASE(test_closed),
        CASE(test_trial),
        CASE(test_trial_without_breaker),
        CASE(test_serves),
        CASE(test_context),
        CASE(test_context_of_list),
        CASE(test_states),
        CASE(test_loads),
        CASE(test_tiers),
        CASE(test_sticky_hit),
        CASE(test_sticky_overloaded),
        CASE(test_sticky_lower),
        CASE(test_sticky_gone),
        CASE(test_sticky_placed),
        CASE(test_reasons),
        CASE(test_reasons_room),
        CASE(test_random_fleets),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
