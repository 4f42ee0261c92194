/*
 * test_tally.c - histograms against exact percentiles, tallies, and the table of what models were used for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/account.h"
#include "../../src/endpoint.h"
#include "../../src/ledger.h"
#include "../../src/meter.h"
#include "../../src/tally.h"

/* ---- histograms ------------------------------------------------------------------------ */

static void test_powers_are_exact(void **state)
{
    (void)state;
    for (unsigned power = 1; power <= 22; power++) {
        struct histogram h = {0};
        uint64_t limit = UINT64_C(1) << power;

        histogram_add(&h, 0);
        histogram_add(&h, 1);
        histogram_add(&h, limit - 1);
        histogram_add(&h, limit);
        assert_int_equal(histogram_upto(&h, power), 4);
        histogram_add(&h, limit + 1);
        histogram_add(&h, UINT64_MAX / 2);
        assert_int_equal(histogram_upto(&h, power), 4);
        assert_int_equal(h.n, 6);
    }
}

static void test_sum(void **state)
{
    struct histogram h = {0};
    (void)state;
    histogram_add(&h, 3);
    histogram_add(&h, 40000);
    assert_true(h.sum == 40003 && h.n == 2);
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* At most an eighth off, for even, skewed and two-humped times. */
static void test_percentiles(void **state)
{
    static uint64_t times[5000];
    static const unsigned percents[] = {1, 50, 90, 95, 99, 100};
    uint64_t seed = 88172645463325252u;
    (void)state;
    for (int shape = 0; shape < 3; shape++) {
        struct histogram h = {0};
        for (size_t i = 0; i < OLLA_COUNT(times); i++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            uint64_t r = seed % 10000;
            times[i] = shape == 0 ? r : shape == 1 ? r * r / 1000 : r % 2 ? 20 + r % 7 : 60000 + r;
            histogram_add(&h, times[i]);
        }
        qsort(times, OLLA_COUNT(times), sizeof(times[0]), ascending);
        for (size_t i = 0; i < OLLA_COUNT(percents); i++) {
            uint64_t exact = times[(OLLA_COUNT(times) * percents[i] + 99) / 100 - 1];
            uint64_t got = histogram_percentile(&h, percents[i]);
            uint64_t off = got > exact ? got - exact : exact - got;
            if (off > exact / 8 + 1) {
                fail_msg("shape %d, p%u: %llu for %llu", shape, percents[i], (unsigned long long)got,
                         (unsigned long long)exact);
            }
        }
    }
}

static void test_percentiles_of_few(void **state)
{
    struct histogram h = {0};
    (void)state;
    assert_int_equal(histogram_percentile(&h, 95), 0);
    histogram_add(&h, 7);
    assert_int_equal(histogram_percentile(&h, 1), 7);
    assert_int_equal(histogram_percentile(&h, 100), 7);
    assert_int_equal(histogram_percentile(&h, 0), 7);
    memset(&h, 0, sizeof(h));
    histogram_add(&h, UINT64_MAX); /* beyond the last bucket */
    assert_true(histogram_percentile(&h, 50) >= UINT64_C(1) << 22);
}

/* ---- tallies --------------------------------------------------------------------------- */

static void test_tally(void **state)
{
    struct tally t = {0};
    (void)state;
    assert_int_equal(tally_average(&t), 0);
    tally_add(&t, &(struct tally_event){.served = true, .ms = 10, .bytes = 5, .input = 3, .output = 4});
    tally_add(&t, &(struct tally_event){.served = false, .ms = 999, .bytes = 1});
    tally_add(&t, &(struct tally_event){.served = true, .ms = 21, .estimated = true, .output = 1});
    assert_int_equal(t.requests, 3);
    assert_int_equal(t.failed, 1);
    assert_int_equal(tally_served(&t), 2);
    assert_int_equal(tally_average(&t), 15); /* what failed does not count */
    assert_int_equal(t.bytes, 6);
    assert_int_equal(t.input, 3);
    assert_int_equal(t.output, 5);
    assert_int_equal(t.estimated, 1);
}

/* ---- models ---------------------------------------------------------------------------- */

static const struct tally_event fine = {.served = true, .ms = 100, .bytes = 10, .input = 2, .output = 3};

static void test_ledger(void **state)
{
    (void)state;
    assert_null(ledger_at(0));
    ledger_miss(STR("llama")); /* nobody knows it: it takes no place */
    assert_null(ledger_at(0));
    ledger_add(STR(""), &fine, LEDGER_HIT, 1, 5);
    assert_null(ledger_at(0));

    ledger_add(STR("Llama:8B"), &fine, LEDGER_HIT, 1, 1000);
    ledger_add(STR("llama:8b"), &fine, LEDGER_FALLBACK, 2, 2000);
    ledger_add(STR("LLAMA:8b"), &(struct tally_event){.served = false}, LEDGER_HIT, 1, 3000);
    ledger_miss(STR("llama:8B"));
    ledger_add(STR("zeta"), &fine, LEDGER_HIT, 1, 4000);
    ledger_add(STR("alpha"), &fine, LEDGER_HIT, 1, 500);

    const struct ledger_model *m = ledger_at(0);
    assert_string_equal(m->name, "llama:8b");
    assert_int_equal(m->sum.requests, 3);
    assert_int_equal(m->sum.failed, 1);
    assert_int_equal(m->sum.input, 4);
    assert_int_equal(m->hits, 2);
    assert_int_equal(m->fallbacks, 1);
    assert_int_equal(m->misses, 1);
    assert_int_equal(m->clients_n, 2);
    assert_int_equal(m->last, 3000);
    assert_int_equal(m->latency.n, 2);
    assert_string_equal(ledger_at(1)->name, "alpha"); /* as many: by name */
    assert_string_equal(ledger_at(2)->name, "zeta");
    assert_null(ledger_at(3));

    struct ledger_totals all = ledger_totals(0), late = ledger_totals(3000);
    assert_int_equal(all.models, 3);
    assert_int_equal(all.sum.requests, 5);
    assert_int_equal(all.sum.output, 12);
    assert_int_equal(late.models, 2);
}

static void test_ledger_forgets_the_oldest(void **state)
{
    char name[OLLA_MODEL_NAME];
    (void)state;
    for (unsigned i = 0; i < OLLA_MAX_LEDGER; i++) { /* one after the other, so that the three above go */
        (void)snprintf(name, sizeof(name), "m%u", i);
        ledger_add(str_of(name), &fine, LEDGER_HIT, i, 10000 + i);
    }
    assert_int_equal(ledger_totals(0).models, OLLA_MAX_LEDGER);
    ledger_add(STR("m0"), &fine, LEDGER_HIT, 9, 20000);
    ledger_add(STR("new"), &fine, LEDGER_HIT, 9, 20001); /* in the place of m1 */
    assert_string_equal(ledger_at(0)->name, "m0");
    bool m1 = false, new = false;
    for (unsigned i = 0; ledger_at(i); i++) {
        m1 = m1 || strcmp(ledger_at(i)->name, "m1") == 0;
        new = new || strcmp(ledger_at(i)->name, "new") == 0;
    }
    assert_true(new && !m1);
    memset(name, 'x', sizeof(name));
    ledger_add((struct str){name, sizeof(name)}, &fine, LEDGER_HIT, 1, 30000); /* no name here is so long */
    assert_int_equal(ledger_totals(30000).models, 0);
}

static void test_clients_are_bounded(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 3 * LEDGER_CLIENTS; i++) {
        ledger_add(STR("busy"), &fine, LEDGER_HIT, i / 2, 40000 + i);
    }
    assert_string_equal(ledger_at(0)->name, "busy");
    assert_int_equal(ledger_at(0)->clients_n, LEDGER_CLIENTS);
}

/* ---- memory ------------------------------------------------------------------------------- */

/* All that is remembered to be seen later: at most a page for each endpoint there is room for. */
static void test_a_page_for_each_endpoint(void **state)
{
    const struct endpoint *e = NULL;
    const size_t own = sizeof e->sum + sizeof e->rate + sizeof e->latency_ms_min + sizeof e->latency_ms_max +
                       sizeof e->first + sizeof e->whole,
                 shared = ledger_cost() * OLLA_MAX_LEDGER + meter_cost() * OLLA_MAX_METER + account_cost();

    (void)state;
    assert_true(ledger_cost() > 0 && meter_cost() > 0 && account_cost() > 0);
    assert_in_range(own * OLLA_MAX_ENDPOINTS + shared, 1, 4096 * OLLA_MAX_ENDPOINTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_powers_are_exact),
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_percentiles),
        cmocka_unit_test(test_percentiles_of_few),
        cmocka_unit_test(test_tally),
        cmocka_unit_test(test_ledger),
        cmocka_unit_test(test_ledger_forgets_the_oldest),
        cmocka_unit_test(test_clients_are_bounded),
        cmocka_unit_test(test_a_page_for_each_endpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
