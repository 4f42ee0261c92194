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
static struct endpoint *alpha, *beta, *gamma_, *delta;

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
    print_error("%s: %s\n", error ? "error" : "warning", line);
}

static int setup(void **state)
{
    static struct conf conf;
    char path[] = "/tmp/olla-model-XXXXXX";
    int fd = mkstemp(path);
    (void)state;

    if (fd == -1 || write(fd, config, sizeof(config) - 1) != (ssize_t)sizeof(config) - 1) {
        return -1;
    }
    close(fd);
    int rc = conf_load(&conf, path, complain);
    unlink(path);
    if (rc != OLLA_OK || endpoint_check(&conf, complain) != OLLA_OK) {
        return -1;
    }
    log_setup(LOG_ERROR, true);
    model_init();
    endpoint_apply(&conf);
    alpha = endpoint_at(0);
    beta = endpoint_at(1);
    gamma_ = endpoint_at(2);
    delta = endpoint_at(3);
    return endpoint_count() == ENDPOINTS ? 0 : -1;
}

/* ---- words for tests -------------------------------------------------------------- */

static bool offer(const struct endpoint *e, const char *name)
{
    static struct model_facts facts;
    memset(&facts, 0, sizeof(facts));
    assert_true(str_copy(facts.name, sizeof(facts.name), str_of(name)));
    return model_offer(e, &facts);
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

static void forget_all(void)
{
    for (int i = 0; i < ENDPOINTS; i++) {
        model_forget(endpoint_at(i));
    }
    assert_int_equal(model_count(), 0);
    assert_int_equal(pool_stats(POOL_MODEL)->used, 0);
}

static int clean(void **state)
{
    (void)state;
    forget_all();
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
    char mem[64];
    struct text t = text_in(mem, sizeof(mem));
    (void)state;

    check_find("x", ALL, 0, 0);
    assert_null(model_spelling(STR("x"), alpha));
    assert_null(model_after("", ALL));
    assert_null(model_after("x", ALL));
    assert_int_equal(model_near(STR("something"), &t), 0);
    assert_int_equal(t.n, 0);
    assert_int_equal(list(alpha, ""), 0);
    model_forget(alpha);
    assert_int_equal(model_list_end(alpha, true), 0);
    assert_int_equal(model_count(), 0);
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
    assert_string_equal(shown(BIT(alpha)), "b e");
    assert_int_equal(list(alpha, ""), 0);
    assert_string_equal(shown(ALL), "b d");
    assert_string_equal(shown(BIT(alpha)), "");
    assert_string_equal(shown(0), "");
}

static void test_open_list_is_not_in_force(void **state)
{
    (void)state;
    list(alpha, "a b");
    model_list_begin(alpha);
    assert_true(offer(alpha, "b"));
    assert_true(offer(alpha, "c"));
    assert_string_equal(shown(ALL), "a b");
    check_find("a", ALL, BIT(alpha), BIT(alpha));
    check_find("c", ALL, 0, 0);
    assert_null(model_spelling(STR("c"), alpha));
    assert_int_equal(model_list_end(alpha, true), 2);
    assert_string_equal(shown(ALL), "b c");
}

static void test_failed_list_changes_nothing(void **state)
{
    (void)state;
    list(alpha, "a b");
    model_list_begin(alpha);
    assert_true(offer(alpha, "b"));
    assert_true(offer(alpha, "c"));
    assert_int_equal(model_list_end(alpha, false), 2);
    assert_string_equal(shown(ALL), "a b");
    assert_int_equal(model_count(), 2);
    check_find("c", ALL, 0, 0);
    /* What the broken list offered does not come with the next one. */
    assert_int_equal(list(alpha, "a"), 1);
    assert_string_equal(shown(ALL), "a");
    /* Nor what a list offered that was never ended. */
    model_list_begin(alpha);
    assert_true(offer(alpha, "x"));
    assert_int_equal(list(alpha, "a y"), 2);
    assert_string_equal(shown(ALL), "a y");
}

static void test_two_lists_at_once(void **state)
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
}

static void test_forget(void **state)
{
    (void)state;
    list(alpha, "a b");
    list(beta, "b c");
    model_forget(alpha);
    assert_string_equal(shown(ALL), "b c");
    check_find("b", ALL, BIT(beta), BIT(beta));
    model_forget(alpha);
    model_forget(beta);
    assert_int_equal(model_count(), 0);
}

/* ---- facts ------------------------------------------------------------------------ */

static void offer_size(const struct endpoint *e, const char *name, uint64_t size)
{
    static struct model_facts facts;
    memset(&facts, 0, sizeof(facts));
    assert_true(str_copy(facts.name, sizeof(facts.name), str_of(name)));
    assert_true(str_copy(facts.family, sizeof(facts.family), str_of("llama")));
    facts.size = size;
    assert_true(model_offer(e, &facts));
}

static uint64_t size_of(const char *name)
{
    const struct model *m = model_after("", ALL);
    while (m && strcmp(m->facts.name, name) != 0) {
        m = model_after(m->facts.name, ALL);
    }
    assert_non_null(m);
    assert_string_equal(m->facts.family, "llama");
    return m->facts.size;
}

static void test_facts(void **state)
{
    (void)state;
    model_list_begin(alpha);
    offer_size(alpha, "m", 1);
    model_list_end(alpha, true);
    assert_int_equal(size_of("m"), 1);
    /* Who told first is believed ... */
    model_list_begin(beta);
    offer_size(beta, "m", 2);
    model_list_end(beta, true);
    assert_int_equal(size_of("m"), 1);
    model_list_begin(alpha);
    offer_size(alpha, "m", 3);
    model_list_end(alpha, true);
    assert_int_equal(size_of("m"), 1);
    /* ... and while there is only one, its news are taken. */
    model_forget(beta);
    model_list_begin(alpha);
    offer_size(alpha, "m", 4);
    model_list_end(alpha, true);
    assert_int_equal(size_of("m"), 4);
}

static void test_facts_of_a_failed_list(void **state)
{
    (void)state;
    model_list_begin(alpha);
    offer_size(alpha, "m", 1);
    model_list_end(alpha, true);
    model_list_begin(alpha);
    offer_size(alpha, "m", 2);
    assert_int_equal(size_of("m"), 1); /* until the end the old list is in force */
    model_list_end(alpha, false);
    assert_int_equal(size_of("m"), 1);
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
    check_find("", ALL, 0, 0);
    assert_null(model_spelling(str_of(huge), alpha));
    list(alpha, "a\xc3\xa4 \xff b/c@d");
    assert_string_equal(shown(ALL), "a\xc3\xa4 b/c@d \xff"); /* bytes are unsigned */
    assert_null(model_spelling((struct str){"b/c@d\0", 6}, alpha));
}

/* ---- listings --------------------------------------------------------------------- */

static void test_order(void **state)
{
    (void)state;
    list(alpha, "b B a A aa Aa aA AA a:1 _ Z 9");
    assert_string_equal(shown(ALL), "9 _ A a a:1 AA Aa aA aa B b Z");
    assert_string_equal(model_after("a", ALL)->facts.name, "a:1");
    assert_string_equal(model_after("a0", ALL)->facts.name, "a:1"); /* the name itself need not be there */
    assert_string_equal(model_after("0", ALL)->facts.name, "9");
    assert_null(model_after("Z", ALL));
    assert_null(model_after("zzz", ALL));
}

/* A listing is written piece by piece while lists come and go: what stays is shown once, in order. */
static void test_listing_while_changing(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        bool seen[30] = {false};
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
            if (str_ends(str_of(last), STR("stays"))) {
                assert_false(seen[atoi(last + 1)]);
                seen[atoi(last + 1)] = true;
            }
            /* Others appear and go, on both sides of the reader and where it stands. */
            model_list_begin(beta);
            for (uint32_t i = chance(20); i > 0; i--) {
                (void)snprintf(name, sizeof(name), "m%02u-%u", (unsigned)chance(30), (unsigned)chance(100));
                assert_true(offer(beta, name));
            }
            (void)model_list_end(beta, chance(4) > 0);
        }
        for (int i = 0; i < 30; i++) {
            assert_true(seen[i]);
        }
        forget_all();
    }
}

/* ---- full ------------------------------------------------------------------------- */

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
    assert_int_equal(pool_stats(POOL_MODEL)->used, OLLA_MAX_MODELS);

    model_list_begin(beta);
    assert_false(offer(beta, "one-more"));
    assert_true(offer(beta, "model-00003"));
    assert_int_equal(model_list_end(beta, true), 1);
    check_find("one-more", ALL, 0, 0);
    check_find("model-00003", ALL, BIT(alpha) | BIT(beta), BIT(alpha) | BIT(beta));
    check_find("MODEL-01023", ALL, BIT(alpha), BIT(alpha));

    assert_int_equal(list(alpha, "model-00003"), 1);
    assert_int_equal(model_count(), 1);
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
        forget_all();
    }
}

/* ---- near names ------------------------------------------------------------------- */

static int near(const char *name, const char **got)
{
    static char mem[400];
    struct text t = text_in(mem, sizeof(mem));
    int n = model_near(str_of(name), &t);
    assert_false(t.full);
    *got = text_z(&t);
    return n;
}

static void test_near(void **state)
{
    static char long_name[2000];
    const char *got;
    (void)state;

    list(alpha, "llama3.2:3b llama3.1:8b qwen2.5-coder:7b mistral phi");
    assert_int_equal(near("llama3.2", &got), 2);
    assert_string_equal(got, "llama3.2:3b, llama3.1:8b"); /* the best first */
    assert_int_equal(near("LLAMA3.1", &got), 2);
    assert_string_equal(got, "llama3.1:8b, llama3.2:3b");
    assert_int_equal(near("coder:7b", &got), 1); /* a common part in the middle */
    assert_string_equal(got, "qwen2.5-coder:7b");
    assert_int_equal(near("zzz", &got), 0);
    assert_string_equal(got, "");
    assert_int_equal(near("", &got), 0);
    memset(long_name, 'm', sizeof(long_name) - 1);
    assert_int_equal(near(long_name, &got), 0);
    memcpy(long_name, "mistral", 7);
    assert_int_equal(near(long_name, &got), 1);
    assert_string_equal(got, "mistral");

    list(beta, "llama3.3:70b llama4:scout llama2");
    assert_int_equal(near("llama3.3", &got), 3); /* three at most */
    assert_true(strncmp(got, "llama3.3:70b, ", 14) == 0);
    model_list_begin(gamma_);
    assert_true(offer(gamma_, "mistral-nemo")); /* not in force yet */
    assert_int_equal(near("mistral-nemo", &got), 1);
    assert_string_equal(got, "mistral");
}

/* ---- against the reference -------------------------------------------------------- */

static const char *const universe[] = {
    "llama3", "Llama3", "LLAMA3", "llama3:latest", "Llama3:Latest", "llama3:8b", "llama3:LATEST", "qwen", "Qwen", "qwen:latest", "a",
    "A", "a:latest", "aa", "AA", "b", "a-b", "a_b", "a:b", "Z", "z:latest", "phi", "phi:latest", "PHI:latest", "mistral:7b", "mistral",
};
enum { NAMES = OLLA_COUNT(universe) };

static endpoint_set serves[NAMES], coming[NAMES];

static bool same_any_case(const char *a, const char *b)
{
    for (; *a && str_lower(*a) == str_lower(*b); a++, b++) {
    }
    return *a == *b;
}

/* Who has `name`: exactly so, and in any way. */
static void naive_find(const char *name, endpoint_set *exact, endpoint_set *known)
{
    char latest[64];
    (void)snprintf(latest, sizeof(latest), "%s:latest", name);
    *exact = *known = 0;
    for (size_t i = 0; i < NAMES; i++) {
        if (strcmp(universe[i], name) == 0) {
            *exact |= serves[i];
        }
        if (same_any_case(universe[i], name)) {
            *known |= serves[i];
        }
        if (!strchr(name, ':') && same_any_case(universe[i], latest)) {
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
            if (!(known & BIT(e))) {
                /* test_spelling_agrees_with_find is about the one thing that is let pass here. */
                assert_true(own == NULL || str_ends(str_of(own), STR("latest")) || str_ends(str_of(own), STR("LATEST")) ||
                            str_ends(str_of(own), STR("Latest")));
                continue;
            }
            assert_non_null(own);
            if (exact & BIT(e)) {
                assert_string_equal(own, universe[i]);
            }
            assert_true(str_istarts(str_of(own), str_of(universe[i])));
            endpoint_set own_exact, own_known;
            naive_find(own, &own_exact, &own_known);
            assert_true(own_exact & BIT(e));
        }
    }
}

/* A listing has the right names, each once, and is in order. */
static void check_listing(endpoint_set usable)
{
    size_t want = 0, got = 0;
    const struct model *last = NULL, *m;
    for (size_t i = 0; i < NAMES; i++) {
        want += (serves[i] & usable) != 0;
    }
    for (const char *at = ""; (m = model_after(at, usable)) != NULL; at = m->facts.name, last = m, got++) {
        size_t i = 0;
        while (i < NAMES && strcmp(universe[i], m->facts.name) != 0) {
            i++;
        }
        assert_true(i < NAMES && (serves[i] & usable) && m->serves == serves[i]);
        if (last) {
            char a[64], b[64];
            size_t k;
            for (k = 0; last->facts.name[k]; k++) { a[k] = str_lower(last->facts.name[k]); }
            a[k] = '\0';
            for (k = 0; m->facts.name[k]; k++) { b[k] = str_lower(m->facts.name[k]); }
            b[k] = '\0';
            int d = strcmp(a, b);
            assert_true(d < 0 || (d == 0 && strcmp(last->facts.name, m->facts.name) < 0));
        }
    }
    assert_int_equal(got, want);
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

    memset(serves, 0, sizeof(serves));
    memset(coming, 0, sizeof(coming));
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
            for (size_t i = 0; i < NAMES; i++) {
                coming[i] &= ~BIT(e);
            }
        } else if (what < 97 && open[k]) {
            end_list(e, chance(4) > 0);
            open[k] = false;
        } else if (what == 99) {
            model_forget(e);
            for (size_t i = 0; i < NAMES; i++) {
                serves[i] &= ~BIT(e);
                coming[i] &= ~BIT(e);
            }
        }
        if (step % 5 == 0) {
            check_names();
            check_listing(chance(16));
        }
    }
    for (int k = 0; k < ENDPOINTS; k++) {
        end_list(endpoint_at(k), false);
    }
    size_t want = 0;
    for (size_t i = 0; i < NAMES; i++) {
        want += serves[i] != 0;
    }
    assert_int_equal(model_count(), want);
    check_listing(ALL);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, clean, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_empty),
        CASE(test_list_replaces),
        CASE(test_open_list_is_not_in_force),
        CASE(test_failed_list_changes_nothing),
        CASE(test_two_lists_at_once),
        CASE(test_forget),
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
