/*
 * test_breaker.c - when a failing endpoint gets no requests, and how it gets them again.
 *
 * Time is a number here. Random histories are compared with a reference that keeps every outcome.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/breaker.h"
#include "fleet.h"

static const struct breaker_rules by_row = {.row = 3, .window = 32, .percent = 100, .open_ms = 100, .max_open_ms = 350};
static const struct breaker_rules by_share = {
    .row = 0, .window = 16, .percent = 50, .open_ms = 100, .max_open_ms = 350};

/*
 * Requests and health checks one after the other, each of them alone: 'g' and 'b' are outcomes of requests, 'n' says
 * nothing, 'G' and 'B' are health checks. Returns how many were over when it opened, -1 if it did not.
 */
static int run(struct breaker *b, const struct breaker_rules *rules, const char *outcomes, uint64_t now)
{
    for (int i = 0; outcomes[i]; i++) {
        char c = outcomes[i];
        bool changed;
        if (c == 'G' || c == 'B') {
            changed = breaker_probe(b, rules, c == 'G', now);
        } else {
            assert_false(breaker_begin(b, now));
            changed = breaker_end(b, rules, false,
                                  c == 'g'   ? OUTCOME_GOOD
                                  : c == 'b' ? OUTCOME_BAD
                                             : OUTCOME_NONE,
                                  now);
        }
        assert_int_equal(changed, b->open);
        if (changed) {
            return i + 1;
        }
    }
    return -1;
}

/* The same from the start. */
static int opens_after(const struct breaker_rules *rules, const char *outcomes)
{
    struct breaker b;
    breaker_reset(&b);
    return run(&b, rules, outcomes, 1000);
}

static void open_at(struct breaker *b, const struct breaker_rules *rules, uint64_t now)
{
    breaker_reset(b);
    assert_int_equal(run(b, rules, "bbbbbbbb", now), rules->row > 0 ? (int)rules->row : 8);
}

/* ---- opening ------------------------------------------------------------------------ */

static void test_closed(void **state)
{
    struct breaker b;
    (void)state;
    memset(&b, 0xff, sizeof(b));
    breaker_reset(&b);
    assert_true(breaker_allows(&b, 0));
    assert_true(breaker_allows(&b, UINT64_MAX));
    assert_string_equal(breaker_state(&b, 0), "closed");
    assert_false(breaker_begin(&b, 0));
    assert_false(breaker_begin(&b, 0)); /* any number at one time */
    assert_true(breaker_allows(&b, 0));
}

static void test_row(void **state)
{
    struct breaker_rules one = by_row, never = by_row;
    (void)state;
    one.row = 1;
    never.row = 0;
    never.window = 32;
    assert_int_equal(opens_after(&by_row, "bbb"), 3);
    assert_int_equal(opens_after(&by_row, "bb"), -1);
    assert_int_equal(opens_after(&by_row, "bbgbbgbb"), -1);
    assert_int_equal(opens_after(&by_row, "gggbbb"), 6);
    assert_int_equal(opens_after(&by_row, "bnbnnnb"), 7); /* those that say nothing are not there */
    assert_int_equal(opens_after(&by_row, "nnnnnnnnnnnnnnn"), -1);
    assert_int_equal(opens_after(&one, "gb"), 2);
    assert_int_equal(opens_after(&never, "gbbbbbbbbbbbbbbbbbbbbbb"), -1); /* any number is fine */
}

static void test_share(void **state)
{
    struct breaker_rules r = by_share;
    (void)state;
    /* A share of fewer than 8 says nothing. */
    assert_int_equal(opens_after(&r, "bbbbbbb"), -1);
    assert_int_equal(opens_after(&r, "bbbbbbbb"), 8);
    assert_int_equal(opens_after(&r, "bnbnbnbbbbb"), 11);
    /* Exactly the percentage, and one failure less. */
    assert_int_equal(opens_after(&r, "ggggbbbb"), 8);
    assert_int_equal(opens_after(&r, "gggggbbb"), -1);
    assert_int_equal(opens_after(&r, "gggggbbbb"), -1);
    assert_int_equal(opens_after(&r, "gggggbbbbb"), 10);
    /* Only a failure opens it, though the share was reached before. */
    assert_int_equal(opens_after(&r, "bbbbbbbgb"), 9);
    assert_int_equal(opens_after(&r, "bbbbbbbgg"), -1);
    /* What fell out of the window does not count. */
    assert_int_equal(opens_after(&r, "bbbgbgbggggggggggggggggggggbbbbbbb"), -1);
    assert_int_equal(opens_after(&r, "ggggggggggggggggggggggggggggggggbbbbbbbb"), 40);
    r.percent = 100;
    assert_int_equal(opens_after(&r, "gbbbbbbbbbbbbbbb"), -1);
    assert_int_equal(opens_after(&r, "gbbbbbbbbbbbbbbbb"), 17);
    r.percent = 1;
    assert_int_equal(opens_after(&r, "bggggggg"), -1);
    assert_int_equal(opens_after(&r, "gggggggb"), 8);
    /* 33 % of 9 is 2.97: three of nine are enough, three of ten are not. */
    r.percent = 33;
    assert_int_equal(opens_after(&r, "ggggggbbb"), 9);
    assert_int_equal(opens_after(&r, "gggggggbbb"), -1);
}

static void test_windows(void **state)
{
    struct breaker_rules r = by_share;
    (void)state;
    /* A window below 8 is full before. */
    r.window = 1;
    assert_int_equal(opens_after(&r, "gggb"), 4);
    assert_int_equal(opens_after(&r, "b"), 1);
    assert_int_equal(opens_after(&r, "gnGn"), -1);
    r.window = 3;
    r.percent = 67; /* two of three are 66.7 % */
    assert_int_equal(opens_after(&r, "bb"), -1);
    assert_int_equal(opens_after(&r, "gbb"), -1);
    assert_int_equal(opens_after(&r, "gbbb"), 4);
    /* All 32 bits. */
    r.window = 32;
    r.percent = 100;
    assert_int_equal(opens_after(&r, "gbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"), -1);
    assert_int_equal(opens_after(&r, "gbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"), 33);
    r.percent = 50;
    assert_int_equal(opens_after(&r, "ggggggggggggggggggggggggggggggggbbbbbbbbbbbbbbbb"), 48);
}

/* 32 outcomes are counted as 32, not as one less. */
static void test_full_window(void **state)
{
    struct breaker_rules r = by_share;
    (void)state;
    r.window = 32;
    r.percent = 48; /* 15 of 32 are 46.9 %, of 31 they would be 48.4 % */
    assert_int_equal(opens_after(&r, "gggggggggggggggggggggggggggggggggggggggg"
                                     "bbbbbbbbbbbbbbb"),
                     -1);
    assert_int_equal(opens_after(&r, "gggggggggggggggggggggggggggggggggggggggg"
                                     "bbbbbbbbbbbbbbbb"),
                     56);
}

/* Health checks are outcomes, too; but a good one does not prove that requests work. */
static void test_probes(void **state)
{
    (void)state;
    assert_int_equal(opens_after(&by_row, "BBB"), 3);
    assert_int_equal(opens_after(&by_row, "bBb"), 3);
    assert_int_equal(opens_after(&by_row, "bGbGGGb"), 7);
    assert_int_equal(opens_after(&by_row, "bGbgb"), -1); /* a good request does */
    assert_int_equal(opens_after(&by_row, "BBgBB"), -1);
    assert_int_equal(opens_after(&by_share, "GGGGbbbb"), 8);
    assert_int_equal(opens_after(&by_share, "GGGGGbbb"), -1);
    assert_int_equal(opens_after(&by_share, "ggggBBBB"), 8);
    assert_int_equal(opens_after(&by_share, "BBBBBBBGGGGGGGGG"), -1);
}

/* ---- trials ------------------------------------------------------------------------- */

static void test_trial(void **state)
{
    struct breaker b;
    (void)state;
    open_at(&b, &by_row, 1000);
    assert_string_equal(breaker_state(&b, 1000), "open");
    assert_string_equal(breaker_state(&b, 1099), "open");
    assert_string_equal(breaker_state(&b, 1100), "half_open");
    assert_false(breaker_allows(&b, 1000));
    assert_false(breaker_allows(&b, 1099));
    assert_true(breaker_allows(&b, 1100));
    assert_true(breaker_allows(&b, 1100)); /* asking takes nothing */
    assert_true(breaker_begin(&b, 1150));
    assert_false(breaker_allows(&b, 1150)); /* one at a time, however long it takes */
    assert_false(breaker_allows(&b, 999999));
    assert_string_equal(breaker_state(&b, 1150), "half_open");
    assert_true(breaker_end(&b, &by_row, true, OUTCOME_GOOD, 1200));
    assert_string_equal(breaker_state(&b, 1200), "closed");
    assert_true(breaker_allows(&b, 1200));
    assert_false(breaker_begin(&b, 1200));
    /* Everything before is forgotten. */
    assert_int_equal(run(&b, &by_row, "bb", 1200), -1);
    assert_int_equal(run(&b, &by_row, "b", 1200), 1);
    assert_int_equal(b.length, 100);
}

static void test_trial_without_outcome(void **state)
{
    struct breaker b;
    (void)state;
    open_at(&b, &by_row, 1000);
    for (uint64_t now = 1100; now < 1105; now++) {
        assert_true(breaker_begin(&b, now));
        assert_false(breaker_allows(&b, now));
        assert_false(breaker_end(&b, &by_row, true, OUTCOME_NONE, now));
        assert_true(breaker_allows(&b, now)); /* the next one is the trial */
        assert_string_equal(breaker_state(&b, now), "half_open");
    }
    assert_true(breaker_begin(&b, 1200));
    assert_true(breaker_end(&b, &by_row, true, OUTCOME_BAD, 1200));
    assert_int_equal(b.length, 200); /* not doubled by those that said nothing */
}

static void test_doubling(void **state)
{
    static const uint64_t lengths[] = {100, 200, 350, 350, 350};
    struct breaker_rules low = by_row;
    struct breaker b;
    uint64_t now = 1000;
    (void)state;

    open_at(&b, &by_row, now);
    for (size_t i = 0; i < OLLA_COUNT(lengths); i++) {
        assert_int_equal(b.length, lengths[i]);
        assert_false(breaker_allows(&b, now + lengths[i] - 1));
        now += lengths[i];
        assert_true(breaker_allows(&b, now));
        assert_true(breaker_begin(&b, now));
        now += 7; /* it counts from the end of the trial */
        assert_true(breaker_end(&b, &by_row, true, OUTCOME_BAD, now));
        assert_string_equal(breaker_state(&b, now), "open");
    }
    assert_true(breaker_begin(&b, now + 350));
    assert_true(breaker_end(&b, &by_row, true, OUTCOME_GOOD, now + 350));
    assert_int_equal(run(&b, &by_row, "bbb", now + 350), 3);
    assert_int_equal(b.length, 100); /* from the start again */
    low.max_open_ms = 40;
    open_at(&b, &low, 0);
    assert_int_equal(b.length, 40);
    assert_true(breaker_allows(&b, 40));
}

/* ---- what does not fit into the order -------------------------------------------------- */

/* Requests that began before it opened tell what is known already, whatever their outcome. */
static void test_late_ends(void **state)
{
    static const enum outcome outcomes[] = {OUTCOME_NONE, OUTCOME_GOOD, OUTCOME_BAD};
    struct breaker b, was;
    (void)state;

    open_at(&b, &by_row, 1000);
    for (size_t i = 0; i < OLLA_COUNT(outcomes); i++) {
        was = b;
        assert_false(breaker_end(&b, &by_row, false, outcomes[i], 1050));
        assert_false(breaker_end(&b, &by_row, false, outcomes[i], 1100)); /* half open: no trial either */
        assert_memory_equal(&b, &was, sizeof(b));
    }
    assert_true(breaker_begin(&b, 1100));
    for (size_t i = 0; i < OLLA_COUNT(outcomes); i++) { /* while the trial is under way */
        was = b;
        assert_false(breaker_end(&b, &by_row, false, outcomes[i], 1110));
        assert_memory_equal(&b, &was, sizeof(b));
        assert_false(breaker_allows(&b, 1110));
    }
    assert_true(breaker_end(&b, &by_row, true, OUTCOME_GOOD, 1120));
}

/* Only a request shows that requests work again. */
static void test_probes_while_open(void **state)
{
    struct breaker b, was;
    (void)state;
    open_at(&b, &by_row, 1000);
    was = b;
    for (int i = 0; i < 40; i++) {
        assert_false(breaker_probe(&b, &by_row, i % 3 > 0, 1000 + (uint64_t)i * 10));
        assert_memory_equal(&b, &was, sizeof(b));
    }
    assert_true(breaker_begin(&b, 1400));
    assert_false(breaker_probe(&b, &by_row, true, 1400));
    assert_false(breaker_allows(&b, 1400));
    assert_true(breaker_end(&b, &by_row, true, OUTCOME_BAD, 1400));
    assert_int_equal(b.length, 200);
}

/* The trial of an opening that was forgotten (the machine came back anew) is a request like others. */
static void test_reset_during_trial(void **state)
{
    struct breaker b;
    (void)state;
    open_at(&b, &by_row, 1000);
    assert_true(breaker_begin(&b, 1100));
    breaker_reset(&b);
    assert_true(breaker_allows(&b, 1100));
    assert_false(breaker_end(&b, &by_row, true, OUTCOME_BAD, 1100));
    assert_int_equal(run(&b, &by_row, "bb", 1100), 2);
}

/* ---- against a reference ------------------------------------------------------------------ */

/* Every outcome since it was closed, and what was said of it then. */
struct reference {
    char history[4096]; /* g, b: requests; G, B: health checks */
    size_t n;
    bool open, trial;
    uint64_t until, length;
};

static bool reference_opens(struct reference *r, const struct breaker_rules *rules, char c, uint64_t now)
{
    unsigned row = 0, bad = 0, seen = 0, enough = rules->window < 8 ? rules->window : 8;

    r->history[r->n++] = c;
    for (size_t i = r->n; i-- > 0 && r->history[i] != 'g';) {
        row += r->history[i] != 'G';
    }
    for (size_t i = r->n; i-- > 0 && seen < rules->window; seen++) {
        bad += r->history[i] == 'b' || r->history[i] == 'B';
    }
    r->open = (c == 'b' || c == 'B') && ((rules->row > 0 && row >= rules->row) ||
                                         (seen >= enough && bad * 100.0 / seen >= (double)rules->percent));
    if (r->open) {
        r->length = rules->open_ms < rules->max_open_ms ? rules->open_ms : rules->max_open_ms;
        r->until = now + r->length;
    }
    return r->open;
}

static bool reference_end(struct reference *r, const struct breaker_rules *rules, bool trial, char c, uint64_t now)
{
    if (r->open && trial) {
        r->trial = false;
        if (c == 'g') {
            r->open = false;
            r->n = 0;
        } else if (c == 'b') {
            r->length = r->length * 2 < rules->max_open_ms ? r->length * 2 : rules->max_open_ms;
            r->until = now + r->length;
        }
        return c != 'n';
    }
    return !r->open && c != 'n' && reference_opens(r, rules, c, now);
}

static void random_history(const struct breaker_rules *rules, unsigned bad_percent)
{
    static struct reference r;
    struct breaker b;
    unsigned plain = 0; /* requests under way besides the trial */
    bool trial = false;
    uint64_t now = 5;

    memset(&r, 0, sizeof(r));
    breaker_reset(&b);
    for (int step = 0; step < 400; step++) {
        char c = chance(10) == 0 ? 'n' : chance(100) < bad_percent ? 'b' : 'g';
        enum outcome o = c == 'n' ? OUTCOME_NONE : c == 'b' ? OUTCOME_BAD : OUTCOME_GOOD;
        bool allowed;

        now += chance(30);
        allowed = !r.open || (now >= r.until && !r.trial);
        assert_int_equal(breaker_allows(&b, now), allowed);
        assert_string_equal(breaker_state(&b, now), !r.open ? "closed" : now < r.until ? "open" : "half_open");
        switch (chance(5)) {
        case 0:
        case 1:
            if (allowed) {
                assert_int_equal(breaker_begin(&b, now), r.open);
                r.trial = trial = r.open;
                plain += !trial;
            }
            break;
        case 2:
            assert_int_equal(breaker_probe(&b, rules, c == 'g', now),
                             !r.open && reference_opens(&r, rules, c == 'g' ? 'G' : 'B', now));
            break;
        case 3:
            if (plain > 0) {
                plain--;
                assert_int_equal(breaker_end(&b, rules, false, o, now), reference_end(&r, rules, false, c, now));
            }
            break;
        default:
            if (trial) {
                trial = false;
                assert_int_equal(breaker_end(&b, rules, true, o, now), reference_end(&r, rules, true, c, now));
            }
            break;
        }
    }
}

static void test_random(void **state)
{
    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct breaker_rules rules = {.row = chance(6), .window = 1 + chance(32), .percent = 1 + chance(100)};
        rules.open_ms = 1 + chance(50);
        rules.max_open_ms = 1 + chance(300);
        random_history(&rules, chance(101));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_closed),
        cmocka_unit_test(test_row),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_full_window),
        cmocka_unit_test(test_probes),
        cmocka_unit_test(test_trial),
        cmocka_unit_test(test_trial_without_outcome),
        cmocka_unit_test(test_doubling),
        cmocka_unit_test(test_late_ends),
        cmocka_unit_test(test_probes_while_open),
        cmocka_unit_test(test_reset_during_trial),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
