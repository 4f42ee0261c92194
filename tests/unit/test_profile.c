/*
 * test_profile.c - backend types of one's own: what is refused, what they become, and what a reload does.
 *
 * Sections are read as the program reads them. Messages are compared without the name of the file, so
 * ":1: ..." is its first line.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/route.h"
#include "fleet.h"

static struct conf conf;
static char messages[8][640];
static int message_count;

static void collect(bool error, const char *line)
{
    const char *colon = strchr(line, ':');
    assert_true(error && colon && message_count < (int)OLLA_COUNT(messages));
    assert_true(str_copy(messages[message_count++], sizeof(messages[0]), str_of(colon)));
}

/* Reads the text, which the configuration itself has nothing against, and checks its profiles. */
static int check(const char *text)
{
    message_count = 0;
    assert_int_equal(fleet_load(&conf, text, complain), OLLA_OK);
    assert_int_equal(conf.warnings, 0);
    return profile_check(&conf, collect);
}

static void accepted(const char *text)
{
    int rc = check(text);
    for (int i = 0; i < message_count; i++) {
        print_error("%s\n", messages[i]);
    }
    assert_int_equal(rc, OLLA_OK);
    assert_int_equal(message_count, 0);
}

/* Refused for one reason. */
static void refused(const char *text, const char *message)
{
    assert_int_equal(check(text), OLLA_ERR);
    assert_string_equal(messages[0], message);
    assert_int_equal(message_count, 1);
}

static void both_refused(const char *text, const char *first, const char *second)
{
    assert_int_equal(check(text), OLLA_ERR);
    assert_int_equal(message_count, 2);
    assert_string_equal(messages[0], first);
    assert_string_equal(messages[1], second);
}

static void apply(const char *text)
{
    accepted(text);
    profile_apply(&conf);
}

static int no_own(void **state)
{
    (void)state;
    apply("");
    return 0;
}

static const struct profile *type(const char *name)
{
    return profile_by_type(str_of(name));
}

static const struct profile *prefix(const char *segment)
{
    return profile_by_prefix(str_of(segment));
}

/* n times the byte c, in one of a few rooms. */
static const char *many(char c, size_t n)
{
    static char room[4][300];
    static unsigned turn;
    char *p = room[turn++ % OLLA_COUNT(room)];
    assert_true(n < sizeof(room[0]));
    memset(p, c, n);
    p[n] = '\0';
    return p;
}

static const char *format(const char *pattern, const char *a, const char *b)
{
    static char room[2][800];
    static unsigned turn;
    char *p = room[turn++ % OLLA_COUNT(room)];
    assert_true(snprintf(p, sizeof(room[0]), pattern, a, b, a, b) < (int)sizeof(room[0]));
    return p;
}

/* ---- built in ------------------------------------------------------------------------ */

static void test_built_in(void **state)
{
    static const struct {
        const char *name, *spelling, *prefix;
    } types[] = {
        {"ollama", "OLLAMA", "ollama"},
        {"llamacpp", "llama.cpp", "llamacpp"},
        {"llamacpp", "Llama-Cpp", "llamacpp"},
        {"vllm", "vLLM", "vllm"},
        {"vllm-mlx", "vllm_mlx", "vllm-mlx"},
        {"omlx", "omlx", "omlx"},
        {"sglang", "SGLang", "sglang"},
        {"lmdeploy", "lmdeploy", "lmdeploy"},
        {"lm-studio", "LM_Studio", "lmstudio"},
        {"lm-studio", "lmstudio", "lm-studio"},
        {"lm-studio", "lm-studio", "lm_studio"},
        {"lemonade", "lemonade", "lemonade"},
        {"litellm", "LiteLLM", "litellm"},
        {"docker-model-runner", "dmr", "dmr"},
        {"docker-model-runner", "docker", "dmr"},
        {"localai", "local-ai", "localai"},
        {"gpustack", "gpustack", "gpustack"},
        {"openai-compatible", "openai", "openai"},
        {"openai-compatible", "OpenAI_Compatible", "openai-compatible"},
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(types); i++) {
        assert_non_null(type(types[i].name));
        assert_string_equal(type(types[i].name)->name, types[i].name);
        assert_ptr_equal(type(types[i].spelling), type(types[i].name));
        assert_ptr_equal(prefix(types[i].prefix), type(types[i].name));
        assert_true(profile_is_known(&conf, str_of(types[i].spelling)));
        assert_false(profile_is_auto(type(types[i].name)));
        assert_true(profile_same(type(types[i].name), type(types[i].name)));
    }
    assert_true(profile_is_auto(type("")) && profile_is_auto(type("Auto")));
    assert_int_equal(type("auto")->apis, 0); /* nothing is routed to what is not known yet */
    assert_true(profile_is_known(&conf, STR("")) && profile_is_known(&conf, STR("AUTO")));
    assert_null(type("ollama2"));
    assert_null(type("ollam"));
    assert_null(type("lmstudio lm-studio")); /* not the words of the table as one */
    assert_false(profile_is_known(&conf, STR("ollama2")));
    assert_null(prefix("Ollama"));
    assert_null(prefix("docker"));
    assert_null(prefix("auto"));
    assert_null(prefix(""));
}

static void test_paths_of_types(void **state)
{
    (void)state;
    assert_true(profile_has_path(type("llamacpp"), STR("/infill")));
    assert_false(profile_has_path(type("llamacpp"), STR("/infil")));
    assert_false(profile_has_path(type("llamacpp"), STR("/infill/")));
    assert_false(profile_has_path(type("llamacpp"), STR("/Infill")));
    assert_false(profile_has_path(type("llamacpp"), STR("")));
    assert_false(profile_has_path(type("vllm"), STR("/infill")));
    assert_true(profile_has_path(type("vllm"), STR("/score")));
    assert_true(profile_has_path(type("ollama"), STR("/")));
    assert_false(profile_has_path(type("lm-studio"), STR("/infill"))); /* has no path of its own */
}

static void test_serves(void **state)
{
    (void)state;
    assert_true(profile_serves(type("vllm"), type("vllm")));
    assert_false(profile_serves(type("vllm"), type("sglang")));
    assert_true(profile_serves(type("vllm"), type("openai")));
    assert_false(profile_serves(type("openai"), type("vllm")));
    assert_false(profile_serves(type("auto"), type("openai")));
    apply("[profile:a]\n[profile:b]\nopenai_compatible = false\n");
    assert_true(profile_serves(type("a"), type("a")));
    assert_false(profile_serves(type("a"), type("b")));
    assert_true(profile_serves(type("a"), type("openai")));
    assert_false(profile_serves(type("b"), type("openai")));
    assert_true(profile_serves(type("b"), type("b")));
}

/* ---- what is refused ------------------------------------------------------------------- */

#define NAME_RULE   "(at most 31 letters, digits, - _ . and not auto)"
#define SEGMENT     "(letters, digits, - _ . only; 255 bytes for all prefixes)"
#define PATH_RULE   "(a path begins with / and has at most 127 bytes)"
#define BASE_RULE   "(empty, or a path of at most 63 bytes without a slash at its end)"
#define TOO_MESSAGE "(empty, or a path of at most 63 bytes that ends in /v1/messages)"

static void test_names(void **state)
{
    (void)state;
    accepted("[profile:My-Type_2.0]\n");
    accepted(format("[profile:%s]\n", many('n', 31), ""));
    refused(format("[profile:%s]\n", many('n', 32), ""),
            format(":1: profile \"%s\": name: \"%s\" " NAME_RULE, many('n', 32), many('n', 32)));
    refused("\n[profile:auto]\n", ":2: profile \"auto\": name: \"auto\" " NAME_RULE);
    refused("[profile:AuTo]\nprefixes = x\n", ":1: profile \"AuTo\": name: \"AuTo\" " NAME_RULE);
    refused("[profile:a b]\nprefixes = x\n", ":1: profile \"a b\": name: \"a b\" " NAME_RULE);
    refused("[profile:a/b]\nprefixes = x\n", ":1: profile \"a/b\": name: \"a/b\" " NAME_RULE);
    refused("[profile:\xc3\xa4]\nprefixes = x\n", ":1: profile \"\xc3\xa4\": name: \"\xc3\xa4\" " NAME_RULE);
    assert_int_equal(check("[profile:a b]\n"), OLLA_ERR); /* neither a name nor a prefix */
    assert_int_equal(message_count, 2);
}

static void test_bad_prefixes(void **state)
{
    static const char *const bad[] = {"a/b", "a b", "/", "a?b", "a%20b", "\xc3\xa4", "a:b"};
    (void)state;
    accepted("[profile:a]\nprefixes = A, b-2, c_3, d.4\n");
    for (size_t i = 0; i < OLLA_COUNT(bad); i++) {
        refused(format("[profile:a]\nprefixes = ok, %s\n", bad[i], ""),
                format(":1: profile \"a\": not a path segment: \"%s\" " SEGMENT, bad[i], ""));
    }
}

/* All prefixes of one type have to fit into 255 bytes, with the blanks between them. */
static void test_long_prefixes(void **state)
{
    const char *first = many('a', 127);
    (void)state;
    accepted(format("[profile:a]\nprefixes = %s\nprefixes = %s\n", first, many('b', 126)));
    refused(format("[profile:a]\nprefixes = %s\nprefixes = %s\n", first, many('b', 127)),
            format(":1: profile \"a\": not a path segment: \"%s\" " SEGMENT, many('b', 127), ""));
    apply(format("[profile:a]\nprefixes = %s\nprefixes = %s\n", first, many('b', 126)));
    assert_ptr_equal(prefix(many('b', 126)), type("a"));
    assert_ptr_equal(prefix(first), type("a"));
}

static void test_taken_prefixes(void **state)
{
    static const char *const taken[][2] = {
        {"ollama", "ollama"},
        {"lm_studio", "lm-studio"},
        {"dmr", "docker-model-runner"},
        {"openai", "openai-compatible"},
        {"proxy", "a route of olla's own"},
        {"models", "a route of olla's own"},
        {"anthropic", "a route of olla's own"},
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(taken); i++) {
        refused(format("[profile:a]\nprefixes = mine, %s\n", taken[i][0], ""),
                format(":1: profile \"a\": the prefix is taken: \"%s\" %s", taken[i][0], taken[i][1]));
    }
    refused("[profile:proxy]\n", ":1: profile \"proxy\": the prefix is taken: \"proxy\" a route of olla's own");
    accepted("[profile:proxy]\nprefixes = x\n");
    accepted("[profile:a]\nprefixes = OLLAMA, docker\n"); /* not the same segment; a spelling that is no prefix */

    /* Between two sections each of them is told; a name is a prefix where none is given. */
    both_refused("[profile:a]\n[profile:b]\nprefixes = c, a\n", ":1: profile \"a\": the prefix is taken: \"a\" b",
                 ":2: profile \"b\": the prefix is taken: \"a\" a");
    both_refused("[profile:b]\nprefixes = a\n[profile:c]\n[profile:a]\n",
                 ":1: profile \"b\": the prefix is taken: \"a\" a", ":4: profile \"a\": the prefix is taken: \"a\" b");
    both_refused("[profile:a]\nprefixes = x\n[profile:b]\nprefixes = x\n",
                 ":1: profile \"a\": the prefix is taken: \"x\" b", ":3: profile \"b\": the prefix is taken: \"x\" a");
    accepted("[profile:a]\nprefixes = x\n[profile:b]\nprefixes = a\n");
}

static void test_prefixes_of_changed_types(void **state)
{
    (void)state;
    accepted("[profile:vllm]\n");
    accepted("[profile:vllm]\nprefixes = vllm, fast\n");
    accepted("[profile:LMStudio]\nprefixes = lm_studio\n");
    refused("[profile:vllm]\nprefixes = sglang\n", ":1: profile \"vllm\": the prefix is taken: \"sglang\" sglang");
    refused("[profile:vllm]\n[profile:a]\nprefixes = vllm\n", ":2: profile \"a\": the prefix is taken: \"vllm\" vllm");
    accepted("[profile:vllm]\nprefixes = fast\n[profile:a]\nprefixes = vllm\n"); /* given away */
    accepted("[profile:a]\nprefixes = dmr\n[profile:docker]\nprefixes = containers\n");
    assert_int_equal(check("[profile:vllm]\nprefixes = fast, vllm\n[profile:a]\nprefixes = vllm\n"), OLLA_ERR);
}

/* Two sections that change one type: only one of them could be in force. */
static void test_one_type_twice(void **state)
{
    (void)state;
    assert_int_equal(check("[profile:lmstudio]\nopenai_base = /a\n[profile:lm-studio]\nopenai_base = /b\n"), OLLA_ERR);
    assert_int_equal(message_count, 1);
    assert_true(str_starts(str_of(messages[0]), STR(":3: profile \"lm-studio\": ")) ||
                str_starts(str_of(messages[0]), STR(":1: profile \"lmstudio\": ")));
}

static void test_paths(void **state)
{
    static const char *const keys[] = {"health_check_path", "model_discovery_path"};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(keys); i++) {
        accepted(format("[profile:a]\n%s = /\n", keys[i], ""));
        accepted(format("[profile:a]\n%s = /%s\n", keys[i], many('p', 126)));
        refused(format("[profile:a]\n%s = p%s\n", keys[i], ""),
                format(":1: profile \"a\": %s: \"p\" " PATH_RULE, keys[i], ""));
        refused(format("[profile:a]\n%s = \"%s\"\n", keys[i], ""),
                format(":1: profile \"a\": %s: \"\" " PATH_RULE, keys[i], ""));
        refused(format("[profile:a]\n%s = /%s\n", keys[i], many('p', 127)),
                format(":1: profile \"a\": %s: \"/%s\" " PATH_RULE, keys[i], many('p', 127)));
    }
    accepted("[profile:a]\nopenai_base = \"\"\nmessages_path = \"\"\n");
    accepted(format("[profile:a]\nopenai_base = /%s\n", many('b', 62), ""));
    refused(format("[profile:a]\nopenai_base = /%s\n", many('b', 63), ""),
            format(":1: profile \"a\": openai_base: \"/%s\" " BASE_RULE, many('b', 63), ""));
    refused("[profile:a]\nopenai_base = api\n", ":1: profile \"a\": openai_base: \"api\" " BASE_RULE);
    refused("[profile:a]\nopenai_base = /api/\n", ":1: profile \"a\": openai_base: \"/api/\" " BASE_RULE);
    refused("[profile:a]\nopenai_base = /\n", ":1: profile \"a\": openai_base: \"/\" " BASE_RULE);
    accepted("[profile:a]\nmessages_path = /v1/messages\n");
    accepted(format("[profile:a]\nmessages_path = /%s/v1/messages\n", many('m', 50), ""));
    refused(format("[profile:a]\nmessages_path = /%s/v1/messages\n", many('m', 51), ""),
            format(":1: profile \"a\": messages_path: \"/%s/v1/messages\" " TOO_MESSAGE, many('m', 51), ""));
    refused("[profile:a]\nmessages_path = /messages\n", ":1: profile \"a\": messages_path: \"/messages\" " TOO_MESSAGE);
    refused("[profile:a]\nmessages_path = x/v1/messages\n",
            ":1: profile \"a\": messages_path: \"x/v1/messages\" " TOO_MESSAGE);
    refused("[profile:a]\nmessages_path = /v1/messages/\n",
            ":1: profile \"a\": messages_path: \"/v1/messages/\" " TOO_MESSAGE);
}

static void test_all_faults_are_told(void **state)
{
    (void)state;
    assert_int_equal(check("[profile:a]\nprefixes = /, ollama\nhealth_check_path = x\nmodel_discovery_path = y\n"
                           "[profile:b]\n[profile:c]\nopenai_base = x\nmessages_path = x\n"),
                     OLLA_ERR);
    assert_int_equal(message_count, 6);
}

/* ---- what they become -------------------------------------------------------------------- */

static void check_text(const char *got, const char *want)
{
    assert_int_equal(got == NULL, want == NULL);
    if (want) {
        assert_string_equal(got, want);
    }
}

static void test_defaults(void **state)
{
    const struct profile *p;
    (void)state;
    apply("[profile:House]\n");
    p = type("HOUSE");
    assert_non_null(p);
    assert_string_equal(p->name, "House");
    assert_ptr_equal(prefix("House"), p);
    assert_null(prefix("house"));
    check_text(p->prefixes, "House");
    check_text(p->health_path, "/v1/models");
    check_text(p->models_path, "/v1/models");
    check_text(p->extra_path, NULL);
    check_text(p->record, NULL);
    check_text(p->weights, NULL);
    check_text(p->v1_base, NULL);
    check_text(p->messages_base, NULL);
    assert_int_equal(p->list, LIST_OPENAI);
    assert_int_equal(p->apis, API_OPENAI);
    assert_int_equal(p->idle_ms, 4000);
    assert_false(p->drop_origin || p->check_models || p->any || profile_is_auto(p));
    assert_false(profile_has_path(p, STR("/health")));
    assert_ptr_equal(prefix("ollama"), type("ollama")); /* the others are as they were */
}

static void test_every_key(void **state)
{
    const struct profile *p;
    (void)state;
    apply("[profile:house]\nprefixes = hut, mansion\nhealth_check_path = /alive?x=1\nmodel_discovery_path = /list\n"
          "response_format = lemonade\nopenai_compatible = true\nopenai_base = /api\n"
          "messages_path = /x/v1/messages\nidle_timeout = 1m30s\n[profile:other]\n");
    p = type("house");
    check_text(p->prefixes, "hut mansion");
    check_text(p->health_path, "/alive?x=1");
    check_text(p->models_path, "/list");
    check_text(p->v1_base, "/api");
    check_text(p->messages_base, "/x");
    assert_int_equal(p->list, LIST_LEMONADE);
    assert_int_equal(p->apis, API_OPENAI | API_ANTHROPIC);
    assert_int_equal(p->idle_ms, 90000);
    assert_ptr_equal(prefix("hut"), p);
    assert_ptr_equal(prefix("mansion"), p);
    assert_null(prefix("house")); /* the name is a prefix only where none is given */
    assert_ptr_equal(prefix("other"), type("other"));
}

static void test_apis(void **state)
{
    static const struct {
        const char *keys;
        unsigned apis;
    } cases[] = {
        {"", API_OPENAI},
        {"openai_compatible = false\n", 0},
        {"messages_path = /v1/messages\n", API_OPENAI | API_ANTHROPIC},
        {"messages_path = /v1/messages\nopenai_compatible = false\n", API_ANTHROPIC},
        {"messages_path = \"\"\n", API_OPENAI},
        {"response_format = ollama\n", API_OPENAI | API_OLLAMA}, /* what has its lists has its calls */
        {"response_format = ollama\nopenai_compatible = no\n", API_OLLAMA},
        {"response_format = llamacpp\n", API_OPENAI},
        {"response_format = lm-studio\n", API_OPENAI},
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        apply(format("[profile:a]\n%s", cases[i].keys, ""));
        assert_int_equal(type("a")->apis, cases[i].apis);
    }
    apply("[profile:a]\nmessages_path = /v1/messages\nopenai_base = /api\n");
    check_text(type("a")->messages_base, ""); /* at the root, although the rest is not */
    apply("[profile:a]\nidle_timeout = 0\n");
    assert_int_equal(type("a")->idle_ms, 0);
    apply("[profile:a]\nidle_timeout = 87600h\n");
    assert_int_equal(type("a")->idle_ms, INT32_MAX);
}

static void test_changed_type(void **state)
{
    const struct profile *plain = type("lm-studio"), *p;
    (void)state;
    apply("[profile:LMStudio]\nhealth_check_path = /alive\nidle_timeout = 9s\n");
    p = type("lm-studio");
    assert_ptr_not_equal(p, plain);
    assert_string_equal(p->name, "lm-studio"); /* its own name, its spellings, its prefixes */
    assert_ptr_equal(type("LMStudio"), p);
    assert_ptr_equal(type("lm_studio"), p);
    assert_ptr_equal(prefix("lmstudio"), p);
    assert_ptr_equal(prefix("lm-studio"), p);
    assert_ptr_equal(prefix("lm_studio"), p);
    check_text(p->health_path, "/alive");
    assert_int_equal(p->idle_ms, 9000);
    check_text(p->models_path, plain->models_path); /* and all that was not given */
    check_text(p->v1_base, plain->v1_base);
    check_text(p->messages_base, plain->messages_base);
    assert_int_equal(p->list, plain->list);
    assert_int_equal(p->apis, plain->apis);
    assert_true(p->drop_origin && p->check_models);
    assert_false(profile_same(p, plain));

    apply("[profile:docker]\nopenai_base = \"\"\nmessages_path = \"\"\nopenai_compatible = false\nprefixes = box\n");
    p = type("dmr");
    assert_string_equal(p->name, "docker-model-runner");
    check_text(p->v1_base, "");
    check_text(p->messages_base, NULL);
    assert_int_equal(p->apis, API_DMR);
    assert_ptr_equal(prefix("box"), p);
    assert_null(prefix("dmr"));
    assert_ptr_equal(type("lm-studio"), plain); /* as built in, now that nothing changes it */
    assert_ptr_equal(prefix("lmstudio"), plain);

    apply("[profile:openai]\nidle_timeout = 1s\n[profile:llama.cpp]\nopenai_base = /x\n");
    assert_true(type("openai-compatible")->any);
    assert_true(profile_serves(type("vllm"), prefix("openai")));
    assert_true(profile_serves(type("llamacpp"), prefix("openai")));
    assert_true(profile_has_path(type("llamacpp"), STR("/infill")));
    check_text(type("llamacpp")->extra_path, "/props");
    check_text(type("llamacpp")->weights, "gguf");
    check_text(type("dmr")->v1_base, "/engines");
}

/* A prefix that a built-in type no longer has may belong to another. */
static void test_moved_prefix(void **state)
{
    (void)state;
    apply("[profile:a]\nprefixes = vllm\n[profile:vllm]\nprefixes = fast\n");
    assert_ptr_equal(prefix("vllm"), type("a"));
    assert_ptr_equal(prefix("fast"), type("vllm"));
    assert_string_equal(type("vllm")->name, "vllm");
    apply("");
    assert_ptr_equal(prefix("vllm"), type("vllm"));
    assert_null(prefix("fast"));
}

/* ---- reloads ------------------------------------------------------------------------------ */

static void test_reload(void **state)
{
    const struct profile *first, *second;
    (void)state;
    apply("[profile:a]\nhealth_check_path = /1\nprefixes = one\n");
    first = type("a");
    accepted("[profile:a]\nhealth_check_path = /2\nprefixes = two\n[profile:b]\n");
    assert_ptr_equal(type("a"), first); /* a check puts nothing in force */
    assert_null(type("b"));
    assert_true(profile_is_known(&conf, STR("B")));
    profile_apply(&conf);
    second = type("a");
    check_text(second->health_path, "/2");
    check_text(first->health_path, "/1"); /* for the requests that began before */
    check_text(first->prefixes, "one");
    assert_null(prefix("one"));
    assert_ptr_equal(prefix("two"), second);
    assert_non_null(type("b"));
    apply("");
    assert_null(type("a"));
    assert_null(type("b"));
    assert_null(prefix("two"));
    assert_false(profile_is_known(&conf, STR("a")));
    check_text(second->health_path, "/2");
}

static void test_same(void **state)
{
    static const char *const changes[] = {
        "[profile:a]\nprefixes = b\n",
        "[profile:a]\nhealth_check_path = /x\n",
        "[profile:a]\nmodel_discovery_path = /x\n",
        "[profile:a]\nresponse_format = llamacpp\n",
        "[profile:a]\nopenai_compatible = false\n",
        "[profile:a]\nopenai_base = /x\n",
        "[profile:a]\nmessages_path = /v1/messages\n",
        "[profile:a]\nmessages_path = /x/v1/messages\n",
        "[profile:a]\nidle_timeout = 5s\n",
        "[profile:A]\n",
    };
    const struct profile *first;
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(changes); i++) {
        apply("[profile:a]\n");
        first = type("a");
        apply("[profile:b]\n[profile:a]\nprefixes = a\nhealth_check_path = /v1/models\nopenai_base = \"\"\n"
              "messages_path = \"\"\nidle_timeout = 4s\nopenai_compatible = yes\nresponse_format = openai\n");
        assert_ptr_not_equal(type("a"), first);
        assert_true(profile_same(type("a"), first)); /* the defaults in words, at another place */
        assert_true(profile_same(first, type("a")));
        first = type("a");
        apply(changes[i]);
        assert_false(profile_same(type("a"), first));
        assert_false(profile_same(first, type("a")));
    }
    apply("[profile:a]\nmessages_path = /v1/messages\n");
    first = type("a");
    apply("[profile:a]\nmessages_path = /x/v1/messages\n");
    assert_false(profile_same(type("a"), first));
    first = type("vllm");
    apply("[profile:vllm]\n");
    assert_true(profile_same(first, type("vllm")));
    assert_false(profile_same(first, type("sglang")));
}

/* A request that waits while a reload changes nothing about its type still finds the endpoints of that type. */
static void test_route_across_a_reload(void **state)
{
    struct route own, changed;
    (void)state;
    apply("[profile:a]\n[profile:vllm]\nidle_timeout = 1s\n");
    own = route_find(STR("/olla/a/x"), true);
    changed = route_find(STR("/olla/vllm/x"), true);
    assert_true(profile_serves(type("a"), own.only));
    apply("[profile:a]\n[profile:vllm]\nidle_timeout = 1s\n");
    assert_true(profile_serves(type("a"), own.only));
    assert_true(profile_serves(type("vllm"), changed.only));
    assert_false(profile_serves(type("vllm"), own.only));
    assert_false(profile_serves(type("a"), changed.only));
}

/* ---- words for messages ---------------------------------------------------------------------- */

static void test_known_types(void **state)
{
    static char text[64 * OLLA_MAX_PROFILES];
    int n = 0;
    (void)state;
    accepted("");
    assert_string_equal(profile_known_types(&conf),
                        "ollama, llamacpp, vllm, vllm-mlx, omlx, sglang, lmdeploy, lm-studio, lemonade, litellm, "
                        "docker-model-runner, localai, gpustack, openai-compatible, auto");
    accepted("[profile:House]\n[profile:b]\n");
    assert_true(str_starts(str_of(profile_known_types(&conf)), STR("House, b, ollama, ")));
    assert_null(type("House"));                   /* only asked about */
    for (int i = 0; i < OLLA_MAX_PROFILES; i++) { /* the longest names that there can be */
        char name[32];
        memcpy(name, many((char)('a' + i), sizeof(name) - 1), sizeof(name));
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "[profile:%s]\n", name);
    }
    accepted(text);
    for (struct str rest = str_of(profile_known_types(&conf)); rest.p; n++) {
        (void)str_split(&rest, ',');
    }
    assert_int_equal(n, OLLA_MAX_PROFILES + 15);
    assert_true(str_ends(str_of(profile_known_types(&conf)), STR("openai-compatible, auto")));
}

/* A changed type is no further one. */
static void test_known_types_once(void **state)
{
    int n = 0;
    (void)state;
    accepted("[profile:vllm]\n");
    for (struct str rest = str_of(profile_known_types(&conf)); rest.p;) {
        n += str_eq(str_split(&rest, ','), STR("vllm"));
    }
    assert_int_equal(n, 1);
}

static void test_endpoints_of_own_types(void **state)
{
    static const char start[] = ":3: endpoint \"e\": type: \"mansion\" is not known; allowed are hut, ollama, ";
    (void)state;
    message_count = 0;
    assert_int_equal(fleet_load(&conf, "[endpoint:e]\nurl = http://127.0.0.1:1\ntype = HUT\n[profile:hut]\n", complain),
                     OLLA_OK);
    assert_int_equal(endpoint_check(&conf, collect), OLLA_OK); /* whichever stands first */
    assert_int_equal(fleet_load(&conf, "[endpoint:e]\nurl = http://127.0.0.1:1\ntype = mansion\n[profile:hut]\n",
                                complain),
                     OLLA_OK);
    assert_int_equal(endpoint_check(&conf, collect), OLLA_ERR);
    assert_int_equal(message_count, 1);
    assert_true(str_starts(str_of(messages[0]), str_of(start)));
    message_count = 0;
    assert_int_equal(fleet_load(&conf, "[endpoint:e]\nurl = http://127.0.0.1:1\n[profile:auto]\n", complain), OLLA_OK);
    assert_int_equal(endpoint_check(&conf, collect), OLLA_ERR); /* profiles are checked with the endpoints */
    assert_int_equal(message_count, 1);
}

/* ---- routes below their prefixes ---------------------------------------------------------------- */

static void check_list(const char *path, enum listing listing, enum dialect dialect)
{
    struct route r = route_find(str_of(path), true);
    assert_int_equal(r.kind, ROUTE_LOCAL);
    assert_int_equal(r.page, LOCAL_MODELS);
    assert_int_equal(r.listing, listing);
    assert_int_equal(r.dialect, dialect);
    assert_ptr_equal(r.only, type("a"));
    assert_true(r.has_type);
}

static void test_routes(void **state)
{
    (void)state;
    apply("[profile:a]\nprefixes = one, two\nmodel_discovery_path = /list\nresponse_format = lm-studio\n");
    check_list("/olla/one/list", LISTING_LM_STUDIO, DIALECT_OPENAI);
    check_list("/olla/two/list", LISTING_LM_STUDIO, DIALECT_OPENAI);
    check_list("/olla/two/v1/models", LISTING_OPENAI, DIALECT_OPENAI);
    assert_int_equal(route_find(STR("/olla/one/v1/completions"), true).kind, ROUTE_PROXY);
    assert_ptr_equal(route_find(STR("/olla/one/v1/completions"), true).only, type("a"));
    assert_int_equal(route_find(STR("/olla/one/api/tags"), true).kind, ROUTE_PROXY);
    assert_int_equal(route_find(STR("/olla/one"), true).kind, ROUTE_REDIRECT);
    assert_int_equal(route_find(STR("/olla/a/list"), true).kind, ROUTE_NOT_FOUND);
    assert_int_equal(route_find(STR("/olla/a"), true).kind, ROUTE_NOT_FOUND);

    apply("[profile:a]\nresponse_format = ollama\nmodel_discovery_path = /list\n");
    check_list("/olla/a/list", LISTING_OLLAMA, DIALECT_OLLAMA);
    apply("[profile:a]\nresponse_format = ollama\nmodel_discovery_path = /api/tags\nopenai_compatible = no\n");
    check_list("/olla/a/api/tags", LISTING_OLLAMA, DIALECT_OLLAMA);
    assert_true(route_find(STR("/olla/a/api/tags"), true).pinnable);
    assert_int_equal(route_find(STR("/olla/a/api/pull"), true).kind, ROUTE_REFUSED);
    assert_int_equal(route_find(STR("/olla/a/api/ps"), true).page, LOCAL_OLLAMA_PS);
    assert_int_equal(route_find(STR("/olla/a/api/chat"), true).kind, ROUTE_PROXY);
    assert_int_equal(route_find(STR("/olla/a/v1/models"), true).kind, ROUTE_PROXY); /* does not speak it */
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, no_own, no_own)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_built_in),
        CASE(test_paths_of_types),
        CASE(test_serves),
        CASE(test_names),
        CASE(test_bad_prefixes),
        CASE(test_long_prefixes),
        CASE(test_taken_prefixes),
        CASE(test_prefixes_of_changed_types),
        CASE(test_one_type_twice),
        CASE(test_paths),
        CASE(test_all_faults_are_told),
        CASE(test_defaults),
        CASE(test_every_key),
        CASE(test_apis),
        CASE(test_changed_type),
        CASE(test_moved_prefix),
        CASE(test_reload),
        CASE(test_same),
        CASE(test_route_across_a_reload),
        CASE(test_known_types),
        CASE(test_known_types_once),
        CASE(test_endpoints_of_own_types),
        CASE(test_routes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
