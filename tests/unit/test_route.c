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

#include "../../src/route.h"
#include "fleet.h"

static const char config[] = "[endpoint:a]\nurl = http://127.0.0.1:1\ntype = ollama\npriority = 200\n"
                             "[endpoint:b]\nurl = http://127.0.0.1:2\ntype = ollama\npriority = 200\n"
                             "[endpoint:c]\nurl = http://127.0.0.1:3\ntype = vllm\npriority = 100\n"
                             "[endpoint:d]\nurl = http://127.0.0.1:4\ntype = LM_Studio\npriority = 100\n"
                             "[endpoint:e]\nurl = http://127.0.0.1:5\ntype = openai\npriority = 0\n";
enum { FLEET = 5 };

static int setup(void **state)
{
    (void)state;
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
    {"/internal/health/", ALWAYS, NONE},
    {"/internal/healthz", ALWAYS, NONE},
    {"/internal/status/", ALWAYS, NONE},
    {"/internal/status/models/", ALWAYS, NONE},
    {"/internal/status/models/x", ALWAYS, NONE},
    {"/internal/status/endpoints", ALWAYS, NONE},
    {"/Internal/Health", ALWAYS, NONE},
    {"/internal", ALWAYS, NONE},
    {"/internal/", ALWAYS, NONE},
    {"/version/", ALWAYS, NONE},
    {"/", ALWAYS, NONE},
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
    {"/olla/anthropic/v1/models/", ALWAYS, NONE},
    {"/olla/anthropic/v1/models/x", ALWAYS, NONE},
    {"/olla/anthropic/v1/messages", ALWAYS, NONE}, /* translation is not built yet */
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
    assert_int_equal(route_dialect(STR("/v1/chat/completions")), DIALECT_OPENAI);
    assert_int_equal(route_dialect(STR("/v1/messages")), DIALECT_ANTHROPIC);
    assert_int_equal(route_dialect(STR("/v1/messages/batches")), DIALECT_ANTHROPIC);
    assert_int_equal(route_dialect(STR("/api/chat")), DIALECT_OLLAMA);
    assert_int_equal(route_dialect(STR("/api/v0/models")), DIALECT_OPENAI);
    assert_int_equal(route_dialect(STR("/api")), DIALECT_PLAIN);
    assert_int_equal(route_dialect(STR("/")), DIALECT_PLAIN);
    assert_int_equal(route_dialect(STR("")), DIALECT_PLAIN);
    assert_int_equal(route_dialect(STR("/health")), DIALECT_PLAIN);
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
        E(i)->inflight = 0;
        E(i)->picked = E(i)->pass = 0;
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
    static const struct endpoint_use use = {false, false};
    endpoint_end(e, &use, OUTCOME_GOOD, true, 1, 1);
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
    check_choice(choose(&ollama_api, "big", 0, LC), '-', 503, "rejected", "model_unavailable");
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
        endpoint_set tried = chance(2) ? chance(32) : 0, up = 0;
        struct route r = route_find(str_of(where[w]), true);
        for (int i = 0; i < FLEET; i++) {
            E(i)->state = chance(4) ? ENDPOINT_HEALTHY : ENDPOINT_OFFLINE;
            E(i)->enabled = chance(8) > 0;
            E(i)->inflight = chance(3);
            E(i)->picked = chance(4);
            E(i)->pass = 0; /* nobody's turn */
            up |= E(i)->state == ENDPOINT_HEALTHY && E(i)->enabled ? BIT(i) : 0;
        }
        endpoint_set good = up & fits[w], left = good & has[m] & ~tried;
        struct route_choice c = choose(&r, models[m], tried, how);
        assert_true((c.e ? endpoint_bit(c.e) : 0) == naive_best(left, how));
        assert_false(c.starting);
        if (!c.e) {
            bool empty_type = good == 0 && r.has_type;
            assert_int_equal(c.status, empty_type || (m > 0 && has[m] == 0) ? 404 : 503);
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
        CASE(test_random_fleets),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
