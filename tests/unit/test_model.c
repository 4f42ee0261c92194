/*
 * test_model.c - the catalogue: which endpoint serves which model.
 *
 * Endpoints come from a temporary configuration through conf_load and endpoint_apply. Single
 * tests name the rules; a reference of plain arrays is compared over thousands of random steps.
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
#include "../../src/model.h"
#include "../../src/pool.h"

#define ALL (~(endpoint_set)0)

static const char config[] = "[endpoint:alpha]\nurl = http://127.0.0.1:1\ntype = ollama\n"
                             "[endpoint:beta]\nurl = http://127.0.0.1:2\ntype = vllm\n"
                             "[endpoint:gamma]\nurl = http://127.0.0.1:3\ntype = ollama\n"
                             "[endpoint:delta]\nurl = http://127.0.0.1:4\ntype = lm-studio\n";
enum { ENDPOINTS = 4 };
#define alpha  endpoint_at(0)
#define beta   endpoint_at(1)
#define gamma_ endpoint_at(2)
#define delta  endpoint_at(3)

static uint32_t seed = 77777;

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
    char path[] = "/tmp/olla-model-XXXXXX";
    int fd = mkstemp(path);
    (void)state;
    if (fd == -1 || write(fd, config, sizeof(config) - 1) != (ssize_t)sizeof(config) - 1 || close(fd) == -1) {
        return -1;
    }
    int rc = conf_load(&conf, path, complain);
    unlink(path);
    log_setup(LOG_ERROR, true);
    model_init();
    endpoint_apply(&conf);
    return rc == OLLA_OK && endpoint_count() == ENDPOINTS ? 0 : -1;
}

/* ---- words for tests -------------------------------------------------------------- */

static bool offer_size(const struct endpoint *e, const char *name, uint64_t size)
{
    static struct model_facts facts;
    memset(&facts, 0, sizeof(facts));
    assert_true(str_copy(facts.name, sizeof(facts.name), str_of(name)));
    facts.size = size;
    return model_offer(e, &facts);
}

static bool offer(const struct endpoint *e, const char *name)
{
    return offer_size(e, name, 0);
}

/* A whole list: names with blanks between them. */
static unsigned list(const struct endpoint *e, const char *names)
{
    char name[OLLA_MODEL_NAME];
    model_list_begin(e);
    for (struct str rest = str_of(names); rest.p;) {
        struct str item = str_split(&rest, ' ');
        if (item.n > 0) {
            assert_true(str_copy(name, sizeof(name), item));
            assert_true(offer(e, name));
        }
    }
    return model_list_end(e, true);
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

/* A list of one model. */
static void list_size(const struct endpoint *e, uint64_t size, bool ok)
{
    model_list_begin(e);
    assert_true(offer_size(e, "m", size));
    (void)model_list_end(e, ok);
}

static void test_facts(void **state)
{
    (void)state;
    list_size(alpha, 1, true);
    assert_int_equal(model_after("", ALL)->facts.size, 1);
    list_size(beta, 2, true); /* who told first is believed ... */
    assert_int_equal(model_after("", ALL)->facts.size, 1);
    list_size(alpha, 3, true);
    assert_int_equal(model_after("", ALL)->facts.size, 1);
    model_forget(beta);
    list_size(alpha, 4, true); /* ... and while there is only one, its news are taken */
    assert_int_equal(model_after("", ALL)->facts.size, 4);
}

/* A list that breaks off half-way changes nothing. */
static void test_facts_of_a_failed_list(void **state)
{
    (void)state;
    list_size(alpha, 1, true);
    list_size(alpha, 2, false);
    assert_int_equal(model_after("", ALL)->facts.size, 1);
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

/* ---- against the reference -------------------------------------------------------- */

static const char *const universe[] = {
    "llama3",
    "Llama3",
    "LLAMA3",
    "llama3:latest",
    "Llama3:Latest",
    "llama3:8b",
    "llama3:LATEST",
    "qwen",
    "Qwen",
    "qwen:latest",
    "a",
    "A",
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
    "mistral",
};
enum { NAMES = OLLA_COUNT(universe) };

static endpoint_set serves[NAMES], coming[NAMES];

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
        *exact |= strcmp(universe[i], name) == 0 ? serves[i] : 0;
        if (str_ieq(str_of(universe[i]), str_of(name))) {
            *known |= serves[i];
        }
        if (!strchr(name, ':') && str_ieq(str_of(universe[i]), str_of(latest))) {
            *known |= serves[i] & (BIT(alpha) | BIT(gamma_));
        }
    }
}

static void check_names(void)
{
    for (size_t i = 0; i < NAMES; i++) {
        endpoint_set usable = chance(16), exact, known;
        naive_find(universe[i], &exact, &known);
        check_find(universe[i], usable, (exact & usable) ? exact & usable : known & usable, known);
        for (int k = 0; k < ENDPOINTS; k++) {
            const struct endpoint *e = endpoint_at(k);
            const char *own = model_spelling(str_of(universe[i]), e);
            endpoint_set own_exact, own_known;
            if (!(known & BIT(e))) {
                /* test_spelling_agrees_with_find is about the one thing that is let pass here. */
                assert_true(own == NULL || str_ieq(str_skip(str_of(own), strlen(universe[i])), STR(":latest")));
                continue;
            }
            assert_non_null(own);
            assert_true(str_istarts(str_of(own), str_of(universe[i])));
            assert_true(!(exact & BIT(e)) || strcmp(own, universe[i]) == 0);
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

/* A listing has the right names, each once, and is in order. */
static size_t check_listing(endpoint_set usable)
{
    size_t want = 0, got = 0;
    const struct model *last = NULL, *m;
    for (size_t i = 0; i < NAMES; i++) {
        want += (serves[i] & usable) != 0;
    }
    for (const char *at = ""; (m = model_after(at, usable)) != NULL; at = m->facts.name, last = m, got++) {
        size_t i = 0;
        for (; i < NAMES && strcmp(universe[i], m->facts.name) != 0; i++) {
        }
        assert_true(i < NAMES && (serves[i] & usable) && m->serves == serves[i]);
        assert_true(!last || before(last->facts.name, m->facts.name));
    }
    assert_int_equal(got, want);
    return got;
}

static void end_list(const struct endpoint *e, bool ok)
{
    unsigned n = 0;
    for (size_t i = 0; i < NAMES; i++) {
        if (ok) {
            serves[i] = (serves[i] & ~BIT(e)) | (coming[i] & BIT(e));
        }
        coming[i] &= ~BIT(e);
        n += (serves[i] & BIT(e)) != 0;
    }
    assert_int_equal(model_list_end(e, ok), n);
}

static void test_random_against_reference(void **state)
{
    bool open[ENDPOINTS] = {false};
    (void)state;
    for (int step = 0; step < 6000; step++) {
        int k = (int)chance(ENDPOINTS);
        const struct endpoint *e = endpoint_at(k);
        uint32_t what = chance(100);
        if (what < 70 && open[k]) {
            size_t i = chance(NAMES);
            assert_true(offer(e, universe[i]));
            coming[i] |= BIT(e);
        } else if (what < 80) {
            model_list_begin(e);
            open[k] = true;
            naive_drop(coming, e);
        } else if (what < 97 && open[k]) {
            end_list(e, chance(4) > 0);
            open[k] = false;
        } else if (what == 99) {
            model_forget(e);
            naive_drop(serves, e);
            naive_drop(coming, e);
        }
        if (step % 5 == 0) {
            check_names();
            (void)check_listing(chance(16));
        }
    }
    for (int k = 0; k < ENDPOINTS; k++) {
        end_list(endpoint_at(k), false);
    }
    assert_int_equal(model_count(), check_listing(ALL));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, clean, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_empty),
        CASE(test_list_replaces),
        CASE(test_failed_list_changes_nothing),
        CASE(test_two_lists_and_forget),
        CASE(test_facts),
        CASE(test_facts_of_a_failed_list),
        CASE(test_exact_before_any_case),
        CASE(test_latest),
        CASE(test_spelling_agrees_with_find),
        CASE(test_odd_names),
        CASE(test_order),
        CASE(test_listing_while_changing),
        CASE(test_full),
        CASE(test_no_room_at_every_place),
        CASE(test_near),
        CASE(test_random_against_reference),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
