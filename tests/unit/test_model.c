/*
 * test_model.c - the catalogue: which endpoint serves which model.
 *
 * Single tests name the rules; a reference of plain arrays is compared over thousands of random steps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/pool.h"
#include "fleet.h"

#define ALL FLEET_ALL

static const char config[] = "[endpoint:alpha]\nurl = http://127.0.0.1:1\ntype = ollama\n"
                             "[endpoint:beta]\nurl = http://127.0.0.1:2\ntype = vllm\n"
                             "[endpoint:gamma]\nurl = http://127.0.0.1:3\ntype = ollama\n"
                             "[endpoint:delta]\nurl = http://127.0.0.1:4\ntype = lm-studio\n";
enum { ENDPOINTS = 4 };
#define alpha  endpoint_at(0)
#define beta   endpoint_at(1)
#define gamma_ endpoint_at(2)
#define delta  endpoint_at(3)

static int setup(void **state)
{
    (void)state;
    return fleet_start(config, ENDPOINTS);
}

/* ---- words for tests -------------------------------------------------------------- */

static bool offer(const struct endpoint *e, const char *entry)
{
    return fleet_offer(e, str_of(entry));
}

static unsigned list(const struct endpoint *e, const char *entries)
{
    return fleet_list(e, entries);
}

static int clean(void **state)
{
    (void)state;
    for (int i = 0; i < ENDPOINTS; i++) {
        model_forget(endpoint_at(i));
    }
    assert_int_equal(model_count(), 0);
    assert_int_equal(pool_stats(POOL_MODEL)->used, 0);
    return 0;
}

/* The first entry behind a name ("" = from the start) that one of `usable` serves, or NULL. */
static const struct model *model_after(const char *name, endpoint_set usable)
{
    const struct model *m;
    for (size_t i = model_index(str_of(name), false); (m = model_at(i)) != NULL; i++) {
        if (strcmp(m->facts.name, name) != 0 && (m->now.serves & usable)) {
            return m;
        }
    }
    return NULL;
}

/* What a listing shows, blanks between the names. */
static const char *shown(endpoint_set usable)
{
    static char mem[4096];
    struct text t = text_in(mem, sizeof(mem));
    const char *at = "";
    for (const struct model *m; (m = model_after(at, usable)) != NULL; at = m->facts.name) {
        text_addz(&t, t.n > 0 ? " " : "");
        text_addz(&t, m->facts.name);
    }
    assert_false(t.full);
    return text_z(&t);
}

static void check_find(const char *name, endpoint_set usable, endpoint_set want, endpoint_set want_known)
{
    endpoint_set known = 12345;
    endpoint_set got = model_find(str_of(name), usable, &known);
    if (got != want || known != want_known) {
        fail_msg("'%s': found %llx, known %llx", name, (unsigned long long)got, (unsigned long long)known);
    }
}

#define BIT(e) endpoint_bit(e)

/* ---- lists ------------------------------------------------------------------------ */

static void test_empty(void **state)
{
    (void)state;
    check_find("x", ALL, 0, 0);
    assert_null(model_spelling(STR("x"), alpha));
    assert_null(model_after("x", ALL));
    assert_int_equal(list(alpha, ""), 0);
    assert_int_equal(model_list_end(alpha, true), 0);
    assert_string_equal(shown(ALL), "");
}

static void test_list_replaces(void **state)
{
    (void)state;
    assert_int_equal(list(alpha, "c a b a"), 3); /* twice in one list counts once */
    assert_string_equal(shown(ALL), "a b c");
    assert_int_equal(list(beta, "b d"), 2);
    assert_string_equal(shown(ALL), "a b c d");
    assert_string_equal(shown(BIT(beta)), "b d");
    assert_int_equal(model_count(), 4);
    assert_int_equal(list(alpha, "b e"), 2);
    assert_string_equal(shown(ALL), "b d e");
    assert_int_equal(list(alpha, ""), 0);
    assert_string_equal(shown(ALL), "b d");
    assert_string_equal(shown(0), "");
}

static void test_failed_list_changes_nothing(void **state)
{
    (void)state;
    list(alpha, "a b");
    model_list_begin(alpha);
    assert_true(offer(alpha, "b"));
    assert_true(offer(alpha, "c"));
    for (int ended = 0; ended < 2; ended++) { /* until the end the old list is in force, and a failed end keeps it */
        assert_string_equal(shown(ALL), "a b");
        check_find("a", ALL, BIT(alpha), BIT(alpha));
        check_find("c", ALL, 0, 0);
        assert_null(model_spelling(STR("c"), alpha));
        assert_true(ended || model_list_end(alpha, false) == 2);
    }
    assert_int_equal(model_count(), 2);
    /* What the broken list offered does not come with the next one. */
    assert_int_equal(list(alpha, "a"), 1);
    assert_string_equal(shown(ALL), "a");
    /* Nor what a list offered that was never ended. */
    model_list_begin(alpha);
    assert_true(offer(alpha, "x"));
    assert_int_equal(list(alpha, "a y"), 2);
    assert_string_equal(shown(ALL), "a y");
}

static void test_two_lists_and_forget(void **state)
{
    (void)state;
    list(alpha, "old");
    model_list_begin(alpha);
    assert_true(offer(alpha, "x"));
    model_list_begin(beta);
    assert_true(offer(beta, "x"));
    assert_true(offer(beta, "y"));
    assert_int_equal(model_list_end(alpha, false), 1);
    assert_string_equal(shown(ALL), "old");
    assert_int_equal(model_list_end(beta, true), 2);
    assert_string_equal(shown(ALL), "old x y");
    check_find("x", ALL, BIT(beta), BIT(beta));

    model_list_begin(alpha);
    assert_true(offer(alpha, "y"));
    model_list_begin(beta);
    assert_true(offer(beta, "z"));
    model_forget(alpha); /* a reload removed it half-way */
    assert_int_equal(model_list_end(beta, true), 1);
    assert_int_equal(model_list_end(alpha, true), 0);
    assert_string_equal(shown(ALL), "z");

    list(alpha, "a z");
    model_forget(beta);
    assert_string_equal(shown(ALL), "a z");
    check_find("z", ALL, BIT(alpha), BIT(alpha));
}

/* ---- facts ------------------------------------------------------------------------ */

/* Begins a list of one model, "m", with these facts. */
static void tell(const struct endpoint *e, uint64_t size, uint32_t context)
{
    struct model_facts *facts = fleet_facts(STR("m"));
    facts->size = size;
    facts->context = context;
    model_list_begin(e);
    assert_true(model_offer(e, facts, MODEL_UNKNOWN));
}

static void told(const struct endpoint *e, uint64_t size, uint32_t context)
{
    tell(e, size, context);
    (void)model_list_end(e, true);
}

static void check_facts(uint64_t size, uint32_t context)
{
    assert_non_null(model_at(0));
    assert_int_equal(model_at(0)->facts.size, size);
    assert_int_equal(model_at(0)->facts.context, context);
}

static void test_facts_of_one(void **state)
{
    (void)state;
    told(alpha, 1, 10);
    check_facts(1, 10);
    told(alpha, 2, 0); /* while there is only one, it is believed in what it does not tell any more, too */
    check_facts(2, 0);
}

/* What shows does not depend on who answered first. */
static void test_facts_of_several(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        const struct endpoint *first = round ? gamma_ : alpha, *second = round ? alpha : gamma_;
        told(first, round ? 3 : 1, round ? 30 : 0);
        told(second, round ? 1 : 3, round ? 0 : 30);
        check_facts(1, 30); /* the one that is configured first wins, the other fills in */
        told(beta, 2, 20);
        check_facts(1, 30);
        told(alpha, 5, 50);
        check_facts(5, 50);
        (void)clean(NULL);
    }
    told(beta, 2, 20);
    told(alpha, 1, 0);
    model_forget(beta);
    told(alpha, 4, 0); /* beta's word went with it */
    check_facts(4, 0);
}

/* A list that breaks off half-way changes nothing. */
static void test_facts_of_a_failed_list(void **state)
{
    (void)state;
    told(alpha, 1, 0);
    tell(alpha, 2, 20);
    check_facts(1, 0);
    assert_int_equal(model_list_end(alpha, false), 1);
    check_facts(1, 0);
    told(gamma_, 3, 30);
    tell(gamma_, 4, 40);
    check_facts(1, 30);
    assert_int_equal(model_list_end(gamma_, false), 1);
    check_facts(1, 30);
    assert_int_equal(pool_stats(POOL_MODEL)->used, 1);
}

/* Nor does it change what another list tells that is read at the same time. */
static void test_facts_of_two_lists(void **state)
{
    (void)state;
    told(alpha, 1, 0);
    tell(alpha, 2, 20);
    told(beta, 9, 0);
    check_facts(1, 0); /* alpha's list is not complete */
    assert_int_equal(model_list_end(alpha, false), 1);
    check_facts(1, 0);
    (void)clean(NULL);

    told(alpha, 1, 0);
    tell(alpha, 2, 0);
    tell(beta, 9, 90);
    (void)model_list_end(beta, false);
    (void)model_list_end(alpha, true); /* beta's failure is not alpha's */
    check_facts(2, 0);
    (void)clean(NULL);

    tell(beta, 1, 10); /* nobody serves it yet */
    tell(alpha, 2, 0);
    (void)model_list_end(beta, true);
    check_facts(1, 10);
    (void)model_list_end(alpha, false);
    check_facts(1, 10);
}

/* Without room for news the old facts stay, and nothing leaks. */
static void test_no_room_for_news(void **state)
{
    (void)state;
    told(alpha, 1, 0);
    pool_fail_at(POOL_MODEL, 1);
    told(alpha, 2, 0);
    check_facts(1, 0);
    told(alpha, 3, 0);
    check_facts(3, 0);
    tell(alpha, 4, 0);
    model_forget(alpha);
    assert_int_equal(pool_stats(POOL_MODEL)->used, 0);
}

/* News are a convenience, models are not: vLLM tells another time of creation with each list. */
static void test_news_leave_room_for_models(void **state)
{
    enum { OLD = OLLA_MAX_MODELS - 8 };
    char name[32];
    (void)state;
    for (uint64_t round = 1; round < 3; round++) {
        model_list_begin(alpha);
        for (int i = 0; i < (round == 1 ? OLD : OLLA_MAX_MODELS); i++) {
            struct model_facts *facts;
            (void)snprintf(name, sizeof(name), "model-%05d", i);
            facts = fleet_facts(str_of(name));
            facts->created = round;
            assert_true(model_offer(alpha, facts, MODEL_UNKNOWN));
        }
        assert_int_equal(model_list_end(alpha, true), round == 1 ? OLD : OLLA_MAX_MODELS);
    }
    (void)snprintf(name, sizeof(name), "model-%05d", OLLA_MAX_MODELS - 1);
    check_find(name, ALL, BIT(alpha), BIT(alpha));
}

/* ---- digests ---------------------------------------------------------------------- */

static void test_digests(void **state)
{
    (void)state;
    list(alpha, "m|d1 other");
    list(beta, "m|d2");
    list(gamma_, "m|d1");
    list(delta, "m");
    assert_int_equal(model_count(), 4);
    check_find("m", ALL, BIT(alpha) | BIT(beta) | BIT(gamma_) | BIT(delta),
               BIT(alpha) | BIT(beta) | BIT(gamma_) | BIT(delta)); /* one name for those who ask */
    endpoint_set seen = 0;
    for (size_t i = model_index(STR("m"), false); i < 3; i++) {
        const struct model *m = model_at(i);
        endpoint_set want = !m->facts.digest[0]                  ? BIT(delta)
                            : strcmp(m->facts.digest, "d1") == 0 ? BIT(alpha) | BIT(gamma_)
                                                                 : BIT(beta);
        assert_string_equal(m->facts.name, "m");
        assert_true(m->now.serves == want);
        seen |= want;
    }
    assert_true(seen == (BIT(alpha) | BIT(beta) | BIT(gamma_) | BIT(delta)));
    assert_string_equal(model_spelling(STR("M"), beta), "m");

    list(alpha, "m|d2"); /* pulled anew */
    list(gamma_, "");
    assert_int_equal(model_count(), 2);
    assert_true(model_at(0)->now.serves == BIT(delta) || model_at(1)->now.serves == BIT(delta));
    assert_int_equal(list(alpha, "m|d1 m|d2 m|d2"), 2);
}

/* ---- states ----------------------------------------------------------------------- */

static void offer_state(const struct endpoint *e, enum model_state state)
{
    assert_true(model_offer(e, fleet_facts(STR("m")), state));
}

static void check_state(const struct endpoint *e, enum model_state state)
{
    assert_non_null(model_at(0));
    assert_int_equal(model_state_at(model_at(0), e), state);
}

static void test_states(void **state)
{
    static const enum model_state all[] = {MODEL_LOADED, MODEL_AVAILABLE, MODEL_UNKNOWN, MODEL_NOT_LOADED};
    (void)state;
    for (int i = 0; i < ENDPOINTS; i++) { /* each its own */
        model_list_begin(endpoint_at(i));
        offer_state(endpoint_at(i), all[i]);
        assert_int_equal(model_list_end(endpoint_at(i), true), 1);
    }
    assert_int_equal(model_count(), 1);
    for (int i = 0; i < ENDPOINTS; i++) {
        check_state(endpoint_at(i), all[i]);
    }
    model_list_begin(alpha);
    offer_state(alpha, MODEL_NOT_LOADED);
    check_state(alpha, MODEL_LOADED); /* only the end counts */
    assert_int_equal(model_list_end(alpha, false), 1);
    check_state(alpha, MODEL_LOADED);
    model_list_begin(alpha);
    offer_state(alpha, MODEL_LOADED);
    offer_state(alpha, MODEL_AVAILABLE); /* twice in a list: the last word counts, not the sum of both */
    model_list_begin(beta);
    assert_int_equal(model_list_end(alpha, true), 1);
    assert_int_equal(model_list_end(beta, true), 0);
    check_state(alpha, MODEL_AVAILABLE);
    check_state(beta, MODEL_UNKNOWN);
    check_state(gamma_, MODEL_UNKNOWN);
    check_state(delta, MODEL_NOT_LOADED);
    model_forget(delta);
    check_state(delta, MODEL_UNKNOWN);
    check_state(alpha, MODEL_AVAILABLE);
}

static void test_state_names(void **state)
{
    (void)state;
    assert_string_equal(model_state_name(MODEL_UNKNOWN), "unknown");
    assert_string_equal(model_state_name(MODEL_AVAILABLE), "available");
    assert_string_equal(model_state_name(MODEL_NOT_LOADED), "not-loaded");
    assert_string_equal(model_state_name(MODEL_LOADED), "loaded");
}

/* ---- versions --------------------------------------------------------------------- */

static bool is_new_version(void)
{
    static uint32_t last;
    bool other = model_version() != last;
    last = model_version();
    return other;
}

static void test_version(void **state)
{
    (void)state;
    (void)is_new_version();
    assert_false(is_new_version());
    list(alpha, "a b");
    assert_true(is_new_version());
    list(alpha, "a");
    assert_true(is_new_version());
    list(alpha, "a|d");
    assert_true(is_new_version());
    list(beta, "a|d");
    assert_true(is_new_version());
    told(gamma_, 1, 0);
    assert_true(is_new_version());
    told(gamma_, 2, 0);
    assert_true(is_new_version());
    model_list_begin(gamma_);
    offer_state(gamma_, MODEL_LOADED);
    (void)is_new_version(); /* what is not in force yet may count, or not */
    assert_int_equal(model_list_end(gamma_, true), 1);
    assert_true(is_new_version());
    model_forget(beta);
    assert_true(is_new_version());
    model_touch();
    assert_true(is_new_version());
    (void)model_find(STR("a"), ALL, &(endpoint_set){0});
    assert_non_null(model_at(0));
    assert_false(is_new_version()); /* looking changes nothing */
}

/* ---- look-up ---------------------------------------------------------------------- */

static void test_exact_before_any_case(void **state)
{
    (void)state;
    list(alpha, "qwen/qwen3-8b");
    list(beta, "Qwen/Qwen3-8B");
    list(delta, "Qwen/Qwen3-8B QWEN/qwen3-8b");
    const endpoint_set all = BIT(alpha) | BIT(beta) | BIT(delta);

    check_find("qwen/qwen3-8b", ALL, BIT(alpha), all);
    check_find("Qwen/Qwen3-8B", ALL, BIT(beta) | BIT(delta), all);
    check_find("QWEN/QWEN3-8B", ALL, all, all);
    check_find("qwen/qwen3-8b", BIT(beta), BIT(beta), all); /* nobody usable has exactly this */
    check_find("qwen/qwen3-8b", BIT(gamma_), 0, all);
    check_find("qwen/qwen3-8", ALL, 0, 0);
    check_find("qwen/qwen3-8b:latest", ALL, 0, 0);

    assert_string_equal(model_spelling(STR("QWEN/QWEN3-8B"), alpha), "qwen/qwen3-8b");
    assert_string_equal(model_spelling(STR("qwen/qwen3-8b"), beta), "Qwen/Qwen3-8B");
    assert_string_equal(model_spelling(STR("QWEN/qwen3-8b"), delta), "QWEN/qwen3-8b"); /* of two, the exact one */
    assert_string_equal(model_spelling(STR("Qwen/Qwen3-8B"), delta), "Qwen/Qwen3-8B");
    assert_null(model_spelling(STR("qwen/qwen3-8b"), gamma_));
}

static void test_latest(void **state)
{
    (void)state;
    list(alpha, "llama3:latest mistral:7b");
    list(beta, "llama3:latest");
    list(gamma_, "Llama3:Latest");

    check_find("llama3", ALL, BIT(alpha) | BIT(gamma_), BIT(alpha) | BIT(gamma_)); /* the tag is Ollama's idea */
    check_find("llama3:latest", ALL, BIT(alpha) | BIT(beta), BIT(alpha) | BIT(beta) | BIT(gamma_));
    check_find("LLAMA3", ALL, BIT(alpha) | BIT(gamma_), BIT(alpha) | BIT(gamma_));
    check_find("llama3:", ALL, 0, 0);
    check_find("mistral", ALL, 0, 0);
    check_find("llama3:latest:latest", ALL, 0, 0);
    assert_string_equal(model_spelling(STR("llama3"), alpha), "llama3:latest");
    assert_string_equal(model_spelling(STR("llama3"), gamma_), "Llama3:Latest");

    list(beta, "llama3");
    check_find("llama3", ALL, BIT(beta), BIT(alpha) | BIT(beta) | BIT(gamma_)); /* exact comes first */
    check_find("llama3", BIT(alpha), BIT(alpha), BIT(alpha) | BIT(beta) | BIT(gamma_));
    list(alpha, "llama3 llama3:latest");
    assert_string_equal(model_spelling(STR("llama3"), alpha), "llama3");
    assert_string_equal(model_spelling(STR("LLAMA3"), alpha), "llama3"); /* any case before another tag */
}

/* An endpoint has a spelling for a name if and only if model_find knows it for that name. */
static void test_spelling_agrees_with_find(void **state)
{
    (void)state;
    list(beta, "llama3:latest"); /* not of Ollama's kind: there this is another model than llama3 */
    check_find("llama3", ALL, 0, 0);
    assert_null(model_spelling(STR("llama3"), beta));
}

static void test_odd_names(void **state)
{
    static char longest[OLLA_MODEL_NAME], huge[5000];
    (void)state;
    memset(longest, 'n', sizeof(longest) - 1);
    memset(huge, 'n', sizeof(huge) - 1);
    assert_int_equal(list(alpha, longest), 1);
    check_find(longest, ALL, BIT(alpha), BIT(alpha));
    assert_string_equal(model_spelling(str_of(longest), alpha), longest);
    check_find(huge, ALL, 0, 0);
    assert_null(model_spelling(str_of(huge), alpha));
    list(alpha, "a\xc3\xa4 \xff b/c@d");
    assert_string_equal(shown(ALL), "a\xc3\xa4 b/c@d \xff"); /* bytes are unsigned */
    assert_null(model_spelling((struct str){"b/c@d\0", 6}, alpha));
}

/* The entry for a name is one that has it in the best way, and is served by one that counts. */
static void test_named(void **state)
{
    static const char *const names[] = {"m", "M", "M:Latest"};
    (void)state;
    assert_null(model_named(STR("m"), ALL));
    for (int i = 2; i >= 0; i--) { /* a better way comes to the others */
        list(endpoint_at(i), names[i]);
        assert_non_null(model_named(STR("m"), ALL));
        assert_string_equal(model_named(STR("m"), ALL)->facts.name, names[i]);
    }
    assert_string_equal(model_named(STR("M"), ALL)->facts.name, "M");
    assert_string_equal(model_named(STR("m"), BIT(beta) | BIT(gamma_))->facts.name, "M");
    assert_string_equal(model_named(STR("m"), BIT(gamma_))->facts.name, "M:Latest");
    assert_null(model_named(STR("m"), BIT(delta)));
    assert_null(model_named(STR("m"), 0));
    assert_null(model_named(STR("m:latest:latest"), ALL));
    list(alpha, "M");
    list(beta, "m");
    assert_string_equal(model_named(STR("m"), ALL)->facts.name,
                        "m"); /* exact counts more than the order of endpoints */
    model_list_begin(delta);
    assert_true(offer(delta, "x")); /* not in force yet */
    assert_null(model_named(STR("x"), ALL));
}

static void test_named_with_digests(void **state)
{
    static const char *const entries[] = {"m|d1", "m|d2", "m", "m|d3"};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(entries); i++) {
        list(gamma_, entries[(i + 1) % 4]);
        list(beta, entries[i]);
        assert_true(model_named(STR("m"), ALL)->now.serves == BIT(beta)); /* it is configured before gamma */
        assert_true(model_named(STR("M"), ALL)->now.serves == BIT(beta));
        assert_true(model_named(STR("m"), BIT(gamma_))->now.serves == BIT(gamma_));
    }
}

static void test_compare(void **state)
{
    (void)state;
    assert_true(model_compare(STR("a"), STR("B"), false) < 0);
    assert_true(model_compare(STR("b"), STR("A"), false) > 0);
    assert_true(model_compare(STR("a"), STR("a0"), true) < 0);
    assert_true(model_compare(STR("A0"), STR("a"), true) > 0);
    assert_true(model_compare(STR("a"), STR("\xff"), true) < 0);
    assert_int_equal(model_compare(STR("aB"), STR("Ab"), true), 0);
    assert_true(model_compare(STR("aB"), STR("Ab"), false) > 0);
    assert_int_equal(model_compare(STR("aB"), STR("aB"), false), 0);
    assert_int_equal(model_compare(STR(""), STR(""), false), 0);
    assert_true(model_compare(STR(""), STR("a"), false) < 0);

    list(alpha, "b C c|d1 c|d2 d");
    assert_int_equal(model_index(STR(""), false), 0);
    assert_int_equal(model_index(STR("B"), true), 0);
    assert_int_equal(model_index(STR("C"), false), 1);
    assert_int_equal(model_index(STR("c"), true), 1);
    assert_int_equal(model_index(STR("c"), false), 2);
    assert_int_equal(model_index(STR("c0"), true), 4);
    assert_int_equal(model_index(STR("d"), false), 4);
    assert_int_equal(model_index(STR("e"), false), 5);
}

static void test_order(void **state)
{
    (void)state;
    list(alpha, "b B a A aa Aa aA AA a:1 _ Z 9");
    assert_string_equal(shown(ALL), "9 _ A a a:1 AA Aa aA aa B b Z");
    assert_string_equal(model_after("a", ALL)->facts.name, "a:1");
    assert_string_equal(model_after("a0", ALL)->facts.name, "a:1"); /* the name itself need not be there */
    assert_null(model_after("Z", ALL));
}

/* A listing is written piece by piece while lists come and go: what stays is shown once, in order. */
static void test_listing_while_changing(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        int stayed = 0;
        char name[OLLA_MODEL_NAME] = "", last[OLLA_MODEL_NAME] = "";
        model_list_begin(alpha);
        for (int i = 0; i < 30; i++) {
            (void)snprintf(name, sizeof(name), "m%02d-stays", i);
            assert_true(offer(alpha, name));
        }
        assert_int_equal(model_list_end(alpha, true), 30);
        for (const struct model *m; (m = model_after(last, ALL)) != NULL;) {
            assert_true(strcmp(m->facts.name, last) > 0);
            assert_true(str_copy(last, sizeof(last), str_of(m->facts.name)));
            stayed += str_ends(str_of(last), STR("stays"));
            /* Others appear and go, on both sides of the reader and where it stands. */
            model_list_begin(beta);
            for (uint32_t i = chance(20); i > 0; i--) {
                (void)snprintf(name, sizeof(name), "m%02u-%u", (unsigned)chance(30), (unsigned)chance(100));
                assert_true(offer(beta, name));
            }
            (void)model_list_end(beta, chance(4) > 0);
        }
        assert_int_equal(stayed, 30);
        (void)clean(NULL);
    }
}

/* ---- no room ---------------------------------------------------------------------- */

static void test_full(void **state)
{
    char name[OLLA_MODEL_NAME];
    (void)state;
    model_list_begin(alpha);
    for (int i = 0; i < OLLA_MAX_MODELS; i++) {
        (void)snprintf(name, sizeof(name), "model-%05d", (i * 7) % OLLA_MAX_MODELS);
        assert_true(offer(alpha, name));
    }
    assert_false(offer(alpha, "one-more"));
    assert_true(offer(alpha, "model-00000")); /* known names still pass */
    assert_int_equal(model_list_end(alpha, true), OLLA_MAX_MODELS);
    assert_int_equal(model_count(), OLLA_MAX_MODELS);
    model_list_begin(beta);
    assert_false(offer(beta, "one-more"));
    assert_true(offer(beta, "model-00003"));
    assert_int_equal(model_list_end(beta, true), 1);
    check_find("one-more", ALL, 0, 0);
    check_find("model-00003", ALL, BIT(alpha) | BIT(beta), BIT(alpha) | BIT(beta));
    check_find("MODEL-01023", ALL, BIT(alpha), BIT(alpha));

    assert_int_equal(list(alpha, "model-00003"), 1);
    assert_int_equal(list(beta, "one-more"), 1);
    assert_string_equal(shown(ALL), "model-00003 one-more");
}

/* The n-th new name finds no room: the others are there, and nothing leaks. */
static void test_no_room_at_every_place(void **state)
{
    static const char *const names[] = {"d", "b", "e", "a", "c"};
    (void)state;
    for (unsigned n = 1; n <= OLLA_COUNT(names); n++) {
        model_list_begin(alpha);
        pool_fail_at(POOL_MODEL, n);
        for (unsigned i = 0; i < OLLA_COUNT(names); i++) {
            assert_int_equal(offer(alpha, names[i]), i + 1 != n);
        }
        assert_int_equal(model_list_end(alpha, true), OLLA_COUNT(names) - 1);
        for (unsigned i = 0; i < OLLA_COUNT(names); i++) {
            endpoint_set want = i + 1 == n ? 0 : BIT(alpha);
            check_find(names[i], ALL, want, want);
        }
        (void)clean(NULL);
    }
}

static void check_near(const char *name, int n, const char *want)
{
    static char mem[400];
    struct text t = text_in(mem, sizeof(mem));
    assert_int_equal(model_near(str_of(name), &t), n);
    assert_string_equal(text_z(&t), want);
}

static void test_near(void **state)
{
    static char long_name[2000];
    (void)state;
    list(alpha, "llama3.2:3b llama3.1:8b qwen2.5-coder:7b mistral phi");
    check_near("llama3.2", 2, "llama3.2:3b, llama3.1:8b"); /* the best first */
    check_near("LLAMA3.1", 2, "llama3.1:8b, llama3.2:3b");
    check_near("coder:7b", 1, "qwen2.5-coder:7b"); /* a common part in the middle */
    check_near("zzz", 0, "");
    check_near("", 0, "");
    memset(long_name, 'm', sizeof(long_name) - 1);
    check_near(long_name, 0, "");
    memcpy(long_name, "mistral", 7);
    check_near(long_name, 1, "mistral");
    list(beta, "llama3.1:70b llama3.1:80b llama3 llama2");
    check_near("llama3.1:8", 3, "llama3.1:80b, llama3.1:8b, llama3.1:70b"); /* three at most */
    model_list_begin(gamma_);
    assert_true(offer(gamma_, "mistral-nemo")); /* not in force yet */
    check_near("mistral-nemo", 1, "mistral");
}

/* Each name once, however many entries it has and whichever of them are in force. */
static void test_near_with_digests(void **state)
{
    (void)state;
    list(alpha, "mistral|d1");
    list(beta, "mistral|d2 mistral|d3");
    check_near("mistral", 1, "mistral");
    list(beta, "mistral|d3");
    model_list_begin(gamma_);
    assert_true(offer(gamma_, "mistral|d2"));
    check_near("mistral", 1, "mistral");
    assert_true(offer(gamma_, "mistral|d0"));
    check_near("mistral", 1, "mistral");
}

/* ---- against the reference -------------------------------------------------------- */

static const char *const universe[] = {
    "llama3",
    "llama3|d1",
    "llama3|d2",
    "Llama3",
    "Llama3|d1",
    "LLAMA3",
    "llama3:latest",
    "llama3:latest|d1",
    "Llama3:Latest",
    "llama3:8b",
    "llama3:LATEST",
    "qwen",
    "Qwen",
    "qwen:latest",
    "a",
    "A",
    "A|d9",
    "a:latest",
    "aa",
    "AA",
    "b",
    "a-b",
    "a_b",
    "a:b",
    "Z",
    "z:latest",
    "phi",
    "phi:latest",
    "PHI:latest",
    "mistral:7b",
    "mistral|d1",
    "mistral|d2",
};
enum { NAMES = OLLA_COUNT(universe) };

static char names[NAMES][32], digests[NAMES][8]; /* the same in two parts */
static endpoint_set serves[NAMES], coming[NAMES];
static enum model_state states[NAMES][ENDPOINTS], coming_states[NAMES][ENDPOINTS];

static void split_universe(void)
{
    for (size_t i = 0; i < NAMES; i++) {
        struct str rest = str_of(universe[i]);
        assert_true(str_copy(names[i], sizeof(names[i]), str_split(&rest, '|')));
        assert_true(str_copy(digests[i], sizeof(digests[i]), rest));
    }
}

static void naive_drop(endpoint_set set[], const struct endpoint *e)
{
    for (size_t i = 0; i < NAMES; i++) {
        set[i] &= ~BIT(e);
    }
}

/* Who has `name`: exactly so, and in any way. */
static void naive_find(const char *name, endpoint_set *exact, endpoint_set *known)
{
    char latest[64];
    (void)snprintf(latest, sizeof(latest), "%s:latest", name);
    *exact = *known = 0;
    for (size_t i = 0; i < NAMES; i++) {
        *exact |= strcmp(names[i], name) == 0 ? serves[i] : 0;
        if (str_ieq(str_of(names[i]), str_of(name))) {
            *known |= serves[i];
        }
        if (!strchr(name, ':') && str_ieq(str_of(names[i]), str_of(latest))) {
            *known |= serves[i] & (BIT(alpha) | BIT(gamma_));
        }
    }
}

static void check_names(void)
{
    for (size_t i = 0; i < NAMES; i++) {
        endpoint_set usable = chance(16), exact, known;
        naive_find(names[i], &exact, &known);
        check_find(names[i], usable, (exact & usable) ? exact & usable : known & usable, known);
        for (int k = 0; k < ENDPOINTS; k++) {
            const struct endpoint *e = endpoint_at(k);
            const char *own = model_spelling(str_of(names[i]), e);
            endpoint_set own_exact, own_known;
            if (!(known & BIT(e))) {
                /* test_spelling_agrees_with_find is about the one thing that is let pass here. */
                assert_true(own == NULL || str_ieq(str_skip(str_of(own), strlen(names[i])), STR(":latest")));
                continue;
            }
            assert_non_null(own);
            assert_true(str_istarts(str_of(own), str_of(names[i])));
            assert_true(!(exact & BIT(e)) || strcmp(own, names[i]) == 0);
            naive_find(own, &own_exact, &own_known);
            assert_true(own_exact & BIT(e));
        }
    }
}

static bool before(const char *a, const char *b)
{
    size_t i = 0;
    while (a[i] && str_lower(a[i]) == str_lower(b[i])) {
        i++;
    }
    int d = (unsigned char)str_lower(a[i]) - (unsigned char)str_lower(b[i]);
    return d < 0 || (d == 0 && strcmp(a, b) < 0);
}

/* The entries are the right ones, in order, and each is where it should be. */
static size_t check_entries(void)
{
    size_t want = 0, got = 0;
    const struct model *last = NULL, *m;
    for (size_t i = 0; i < NAMES; i++) {
        want += serves[i] != 0;
    }
    for (size_t at = 0; (m = model_at(at)) != NULL; at++) {
        size_t i = 0;
        while (i < NAMES && (strcmp(names[i], m->facts.name) != 0 || strcmp(digests[i], m->facts.digest) != 0)) {
            i++;
        }
        assert_true(i < NAMES && m->now.serves == serves[i]);
        assert_true(!last || strcmp(last->facts.name, m->facts.name) == 0 || before(last->facts.name, m->facts.name));
        for (int k = 0; k < ENDPOINTS; k++) {
            if (serves[i] & BIT(endpoint_at(k))) {
                assert_int_equal(model_state_at(m, endpoint_at(k)), states[i][k]);
            }
        }
        got += serves[i] != 0;
        last = m;
    }
    assert_int_equal(got, want);
    return got;
}

static void end_list(int k, bool ok)
{
    const struct endpoint *e = endpoint_at(k);
    unsigned n = 0;
    for (size_t i = 0; i < NAMES; i++) {
        if (ok) {
            serves[i] = (serves[i] & ~BIT(e)) | (coming[i] & BIT(e));
            states[i][k] = coming_states[i][k];
        }
        coming[i] &= ~BIT(e);
        n += (serves[i] & BIT(e)) != 0;
    }
    assert_int_equal(model_list_end(e, ok), n);
}

static void offer_one(int k, size_t i)
{
    struct model_facts *facts = fleet_facts(str_of(names[i]));
    assert_true(str_copy(facts->digest, sizeof(facts->digest), str_of(digests[i])));
    coming[i] |= BIT(endpoint_at(k));
    coming_states[i][k] = (enum model_state)chance(4);
    assert_true(model_offer(endpoint_at(k), facts, coming_states[i][k]));
}

static void test_random_against_reference(void **state)
{
    bool open[ENDPOINTS] = {false};
    (void)state;
    split_universe();
    for (int step = 0; step < 8000; step++) {
        int k = (int)chance(ENDPOINTS);
        const struct endpoint *e = endpoint_at(k);
        uint32_t what = chance(100), version = model_version();
        if (what < 70 && open[k]) {
            offer_one(k, chance(NAMES));
        } else if (what < 80) {
            model_list_begin(e);
            open[k] = true;
            naive_drop(coming, e);
        } else if (what < 97 && open[k]) {
            end_list(k, chance(4) > 0);
            open[k] = false;
            assert_int_not_equal(model_version(), version);
        } else if (what == 99) {
            model_forget(e);
            naive_drop(serves, e);
            naive_drop(coming, e);
            assert_int_not_equal(model_version(), version);
        }
        if (step % 5 == 0) {
            check_names();
            (void)check_entries();
        }
    }
    for (int k = 0; k < ENDPOINTS; k++) {
        end_list(k, false);
    }
    assert_int_equal(model_count(), check_entries());
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, clean, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_empty),
        CASE(test_list_replaces),
        CASE(test_failed_list_changes_nothing),
        CASE(test_two_lists_and_forget),
        CASE(test_facts_of_one),
        CASE(test_facts_of_several),
        CASE(test_facts_of_a_failed_list),
        CASE(test_facts_of_two_lists),
        CASE(test_no_room_for_news),
        CASE(test_news_leave_room_for_models),
        CASE(test_digests),
        CASE(test_states),
        CASE(test_state_names),
        CASE(test_version),
        CASE(test_exact_before_any_case),
        CASE(test_latest),
        CASE(test_spelling_agrees_with_find),
        CASE(test_odd_names),
        CASE(test_named),
        CASE(test_named_with_digests),
        CASE(test_compare),
        CASE(test_order),
        CASE(test_listing_while_changing),
        CASE(test_full),
        CASE(test_no_room_at_every_place),
        CASE(test_near),
        CASE(test_near_with_digests),
        CASE(test_random_against_reference),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
