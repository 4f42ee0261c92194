/*
 * test_route.c - where a request goes: paths to routes, candidates to one endpoint.
 *
 * Endpoints come from a temporary configuration through conf_load and endpoint_apply; their
 * states and loads are set by hand. The choice is compared with a reference over random fleets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../src/log.h"
#include "../../src/route.h"

static const char config[] = "[endpoint:a]\nurl = http://127.0.0.1:1\ntype = ollama\npriority = 200\n"
                             "[endpoint:b]\nurl = http://127.0.0.1:2\ntype = ollama\npriority = 200\n"
                             "[endpoint:c]\nurl = http://127.0.0.1:3\ntype = vllm\npriority = 100\n"
                             "[endpoint:d]\nurl = http://127.0.0.1:4\ntype = LM_Studio\npriority = 100\n"
                             "[endpoint:e]\nurl = http://127.0.0.1:5\ntype = openai\npriority = 0\n";
enum { FLEET = 5 };

static uint32_t seed = 4711;

static uint32_t chance(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % below;
}

static void complain(bool error, const char *line)
{
    print_error("%d %s\n", error, line);
}

static int setup(void **state)
{
    static struct conf conf;
    char path[] = "/tmp/olla-route-XXXXXX";
    int fd = mkstemp(path);
    (void)state;

    if (fd == -1 || write(fd, config, sizeof(config) - 1) != (ssize_t)sizeof(config) - 1 || close(fd) == -1) {
        return -1;
    }
    int rc = conf_load(&conf, path, complain);
    conf_now = &conf;
    unlink(path);
    log_setup(LOG_ERROR, true);
    model_init();
    endpoint_apply(&conf);
    return rc == OLLA_OK && endpoint_count() == FLEET ? 0 : -1;
}

/* ---- paths ----------------------------------------------------------------------- */

#define NONE                    \
    {                           \
        .kind = ROUTE_NOT_FOUND \
    }
#define LOCAL(page_, dialect_)                                                    \
    {                                                                             \
        .kind = ROUTE_LOCAL, .page = LOCAL_##page_, .dialect = DIALECT_##dialect_ \
    }
#define REDIRECT               \
    {                          \
        .kind = ROUTE_REDIRECT \
    }
#define PROXY(target_, dialect_, api_)                                                       \
    {                                                                                        \
        .kind = ROUTE_PROXY, .target = target_, .dialect = DIALECT_##dialect_, .api = (api_) \
    }
#define REFUSED(target_)                                                                       \
    {                                                                                          \
        .kind = ROUTE_REFUSED, .target = target_, .dialect = DIALECT_OLLAMA, .api = API_OLLAMA \
    }
/* Below a provider: `prefix` as typed and the type that it means. */
#define P_LOCAL(page_, dialect_, prefix_, only_)                                                                    \
    {                                                                                                               \
        .kind = ROUTE_LOCAL, .page = LOCAL_##page_, .dialect = DIALECT_##dialect_, .prefix = prefix_, .only = only_ \
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
#define P_REFUSED(target_)                                                                                        \
    {                                                                                                             \
        .kind = ROUTE_REFUSED, .target = target_, .dialect = DIALECT_OLLAMA, .prefix = "ollama", .only = "ollama" \
    }

struct expectation {
    enum route_kind kind;
    enum local_page page;
    enum dialect dialect;
    unsigned api;
    const char *target, *prefix, *only;
};

enum when { ALWAYS = 0, ROOT }; /* ROOT: only with server.root_api, else not found */

static const struct {
    const char *path;
    enum when when;
    struct expectation want;
} paths[] = {
    /* olla's own */
    {"/internal/health", ALWAYS, LOCAL(HEALTH, PLAIN)},
    {"/internal/status", ALWAYS, LOCAL(STATUS, PLAIN)},
    {"/version", ALWAYS, LOCAL(VERSION, PLAIN)},
    {"/internal/health/", ALWAYS, NONE},
    {"/internal/healthz", ALWAYS, NONE},
    {"/Internal/Health", ALWAYS, NONE},
    {"/internal", ALWAYS, NONE},
    {"/internal/", ALWAYS, NONE},
    {"/version/", ALWAYS, NONE},
    {"/", ALWAYS, NONE},
    {"/olla", ALWAYS, NONE},
    {"/olla/", ALWAYS, NONE},
    {"/favicon.ico", ALWAYS, NONE},
    /* the root API */
    {"/v1/models", ROOT, LOCAL(MODELS_OPENAI, OPENAI)},
    {"/api/tags", ROOT, LOCAL(MODELS_OLLAMA, OLLAMA)},
    {"/api/version", ROOT, LOCAL(OLLAMA_VERSION, OLLAMA)},
    {"/v1/chat/completions", ROOT, PROXY("/v1/chat/completions", OPENAI, API_OPENAI)},
    {"/v1/embeddings", ROOT, PROXY("/v1/embeddings", OPENAI, API_OPENAI)},
    {"/v1/models/", ROOT, LOCAL(MODEL_OPENAI, OPENAI)},
    {"/v1/models/llama3", ROOT, LOCAL(MODEL_OPENAI, OPENAI)},
    {"/v1/", ROOT, PROXY("/v1/", OPENAI, API_OPENAI)},
    {"/v1/messages", ROOT, PROXY("/v1/messages", ANTHROPIC, API_ANTHROPIC)},
    {"/v1/messages/count_tokens", ROOT, PROXY("/v1/messages/count_tokens", ANTHROPIC, API_ANTHROPIC)},
    {"/v1/messagesx", ROOT, PROXY("/v1/messagesx", OPENAI, API_OPENAI)},
    {"/api/chat", ROOT, PROXY("/api/chat", OLLAMA, API_OLLAMA)},
    {"/api/generate", ROOT, PROXY("/api/generate", OLLAMA, API_OLLAMA)},
    {"/api/show", ROOT, PROXY("/api/show", OLLAMA, API_OLLAMA)},
    {"/api/ps", ROOT, PROXY("/api/ps", OLLAMA, API_OLLAMA)},
    {"/api/v0/models", ROOT, PROXY("/api/v0/models", OPENAI, API_LM_STUDIO)},
    {"/api/v1/chat/completions", ROOT, PROXY("/api/v1/chat/completions", OPENAI, API_LEMONADE)},
    {"/api/pull", ROOT, REFUSED("/api/pull")},
    {"/api/push", ROOT, REFUSED("/api/push")},
    {"/api/create", ROOT, REFUSED("/api/create")},
    {"/api/copy", ROOT, REFUSED("/api/copy")},
    {"/api/delete", ROOT, REFUSED("/api/delete")},
    {"/api/pull/x", ROOT, PROXY("/api/pull/x", OLLAMA, API_OLLAMA)},
    {"/api/pulls", ROOT, PROXY("/api/pulls", OLLAMA, API_OLLAMA)},
    {"/api/", ROOT, PROXY("/api/", OLLAMA, API_OLLAMA)},
    {"/v1", ALWAYS, NONE},
    {"/api", ALWAYS, NONE},
    {"/v2/models", ALWAYS, NONE},
    {"/V1/models", ALWAYS, NONE},
    /* the universal proxy */
    {"/olla/proxy", ALWAYS, REDIRECT},
    {"/olla/proxy/", ALWAYS, PROXY("/", PLAIN, 0)},
    {"/olla/proxy/v1/models", ALWAYS, LOCAL(MODELS_OPENAI, OPENAI)},
    {"/olla/proxy/v1/models/x", ALWAYS, LOCAL(MODEL_OPENAI, OPENAI)},
    {"/olla/proxy/v1/chat/completions", ALWAYS, PROXY("/v1/chat/completions", OPENAI, API_OPENAI)},
    {"/olla/proxy/v1/messages", ALWAYS, PROXY("/v1/messages", ANTHROPIC, API_ANTHROPIC)},
    {"/olla/proxy/api/chat", ALWAYS, PROXY("/api/chat", OLLAMA, API_OLLAMA)},
    {"/olla/proxy/api/tags", ALWAYS, PROXY("/api/tags", OLLAMA, API_OLLAMA)},
    {"/olla/proxy/api/pull", ALWAYS, PROXY("/api/pull", OLLAMA, API_OLLAMA)}, /* not intercepted here */
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
    {"/olla/ollama/v1/models", ALWAYS, P_LOCAL(MODELS_OPENAI, OPENAI, "ollama", "ollama")},
    {"/olla/ollama/api/tags", ALWAYS, P_LOCAL(MODELS_OLLAMA, OLLAMA, "ollama", "ollama")},
    {"/olla/ollama/api/tags/", ALWAYS, P_PROXY("/api/tags/", OLLAMA, "ollama", "ollama")},
    {"/olla/ollama/api/chat", ALWAYS, P_PROXY("/api/chat", OLLAMA, "ollama", "ollama")},
    {"/olla/ollama/api/version", ALWAYS, P_PROXY("/api/version", OLLAMA, "ollama", "ollama")},
    {"/olla/ollama/api/ps", ALWAYS, P_PROXY("/api/ps", OLLAMA, "ollama", "ollama")},
    {"/olla/ollama/api/blobs/sha256:1", ALWAYS, P_REFUSED("/api/blobs/sha256:1")},
    {"/olla/ollama/api/pull", ALWAYS, P_REFUSED("/api/pull")},
    {"/olla/ollama/api/push", ALWAYS, P_REFUSED("/api/push")},
    {"/olla/ollama/api/create", ALWAYS, P_REFUSED("/api/create")},
    {"/olla/ollama/api/copy", ALWAYS, P_REFUSED("/api/copy")},
    {"/olla/ollama/api/delete", ALWAYS, P_REFUSED("/api/delete")},
    {"/olla/ollama/api/pull/x", ALWAYS, P_PROXY("/api/pull/x", OLLAMA, "ollama", "ollama")},
    {"/olla/ollama/v1/messages", ALWAYS, P_PROXY("/v1/messages", ANTHROPIC, "ollama", "ollama")},
    {"/olla/openai", ALWAYS, REDIRECT},
    {"/olla/openai/v1/models", ALWAYS, P_LOCAL(MODELS_OPENAI, OPENAI, "openai", "openai-compatible")},
    {"/olla/openai/v1/completions", ALWAYS,
     P_PROXY_API("/v1/completions", OPENAI, "openai", "openai-compatible", API_OPENAI)},
    {"/olla/openai/api/delete", ALWAYS, P_PROXY_API("/api/delete", OLLAMA, "openai", "openai-compatible", API_OLLAMA)},
    {"/olla/openai-compatible/x", ALWAYS, P_PROXY("/x", PLAIN, "openai-compatible", "openai-compatible")},
    {"/olla/vllm/v1/models", ALWAYS, P_LOCAL(MODELS_OPENAI, OPENAI, "vllm", "vllm")},
    {"/olla/vllm/api/tags", ALWAYS, P_PROXY("/api/tags", OLLAMA, "vllm", "vllm")},
    {"/olla/vllm/api/v1/models", ALWAYS, P_PROXY("/api/v1/models", OPENAI, "vllm", "vllm")},
    {"/olla/llamacpp/completion", ALWAYS, P_PROXY("/completion", PLAIN, "llamacpp", "llamacpp")},
    {"/olla/llamacpp/v1/models", ALWAYS, P_LOCAL(MODELS_OPENAI, OPENAI, "llamacpp", "llamacpp")},
    {"/olla/lmstudio/v1/models", ALWAYS, P_LOCAL(MODELS_OPENAI, OPENAI, "lmstudio", "lm-studio")},
    {"/olla/lm-studio/api/v1/models", ALWAYS, P_LOCAL(MODELS_OPENAI, OPENAI, "lm-studio", "lm-studio")},
    {"/olla/lm_studio/api/v0/models", ALWAYS, P_LOCAL(MODELS_LM_STUDIO, OPENAI, "lm_studio", "lm-studio")},
    {"/olla/lm_studio", ALWAYS, REDIRECT},
    {"/olla/lmstudio/api/v0/models/x", ALWAYS, P_PROXY("/api/v0/models/x", OPENAI, "lmstudio", "lm-studio")},
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
    bool proxied = w->kind == ROUTE_PROXY || w->kind == ROUTE_REFUSED;
    if (r->kind != w->kind || (w->kind == ROUTE_LOCAL && r->page != w->page) || r->dialect != w->dialect) {
        return false;
    }
    const char *only = r->only ? r->only->name : NULL;
    if (r->api != w->api || r->has_type != (w->only != NULL) || !same(str_of(only), w->only)) {
        return false;
    }
    if (w->kind == ROUTE_REFUSED && (r->status != 501 || !r->text || !r->text[0])) {
        return false;
    }
    return (!proxied || same(r->target, w->target)) && same(r->prefix, w->prefix);
}

static void test_paths(void **state)
{
    static const struct expectation not_found = NONE;
    (void)state;

    assert_true(OLLA_COUNT(paths) >= 60);
    for (size_t i = 0; i < OLLA_COUNT(paths); i++) {
        for (int root = 0; root < 2; root++) {
            struct route r = route_find(str_of(paths[i].path), root);
            if (!is_as_wanted(&r, paths[i].when == ROOT && !root ? &not_found : &paths[i].want)) {
                fail_msg("%s (root_api %d): kind %d page %d dialect %d api %u target '%.*s' type %s", paths[i].path,
                         root, r.kind, r.page, r.dialect, r.api, (int)r.target.n, r.target.p ? r.target.p : "",
                         r.only ? r.only->name : "-");
            }
            if (r.kind == ROUTE_PROXY && r.target.n > 1) { /* a part of the path given, not a copy */
                assert_ptr_equal(r.target.p, paths[i].path + strlen(paths[i].path) - r.target.n);
            }
        }
    }
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

static void list(int i, const char *names)
{
    static struct model_facts facts;
    model_list_begin(E(i));
    for (struct str rest = str_of(names); rest.p;) {
        memset(&facts, 0, sizeof(facts));
        assert_true(str_copy(facts.name, sizeof(facts.name), str_split(&rest, ' ')));
        assert_true(facts.name[0] == '\0' || model_offer(E(i), &facts));
    }
    (void)model_list_end(E(i), true);
}

/* Everything up, idle and never picked; a to e in this order. */
static int fresh(void **state)
{
    static const char *const models[FLEET] = {"shared tiny:latest", "shared", "shared big", "big", "own"};
    (void)state;
    for (int i = 0; i < FLEET; i++) {
        E(i)->enabled = E(i)->probed = E(i)->discovered = true;
        E(i)->state = ENDPOINT_HEALTHY;
        E(i)->inflight = 0;
        E(i)->picked = 0;
        list(i, models[i]);
    }
    return 0;
}

static struct route_choice choose(const struct route *r, const char *model, endpoint_set tried, enum conf_balancer how)
{
    struct route_query q = {.route = r, .model = str_of(model), .tried = tried, .balancer = how};
    return route_choose(&q);
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
            endpoint_begin(c.e);
            if (!keep) {
                endpoint_end(c.e, true, 1, 1);
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
    endpoint_end(E(3), true, 1, 1);
    assert_string_equal(picks(&any_route, "", LC, 2, true), "da"); /* d has least, then all are equal again */
    endpoint_end(E(2), true, 1, 1);
    endpoint_end(E(1), true, 1, 1);
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
    E(2)->state = E(3)->state = ENDPOINT_BUSY;
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
    for (int s = ENDPOINT_UNKNOWN; s <= ENDPOINT_RATE_LIMITED; s++) { /* healthy means exactly healthy */
        E(2)->state = E(3)->state = (enum endpoint_state)s;
        if (s != ENDPOINT_HEALTHY) {
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

    assert_true(route_listed(NULL) == (BIT(0) | BIT(1) | BIT(3) | BIT(4)));
    assert_true(route_listed(ollama.only) == (BIT(0) | BIT(1)));
    assert_true(route_listed(openai.only) == route_listed(NULL));
    assert_true(route_listed(vllm.only) == 0);
    E(0)->enabled = false;
    assert_true(route_listed(ollama.only) == BIT(1));
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
        cmocka_unit_test(test_dialects),
        CASE(test_round_robin),
        CASE(test_least_connections),
        CASE(test_priority),
        CASE(test_strict),
        CASE(test_tried),
        CASE(test_providers),
        CASE(test_pending),
        CASE(test_random_fleets),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
