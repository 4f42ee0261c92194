/*
 * test_pool.c - fixed-size pools and the linear buffer that lives in one of them.
 *
 * The probe pool (few elements) is bound to storage of this test, the buffer pool by
 * buf_init. A reference of twenty lines says which element every get must return.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/buf.h"
#include "../../src/pool.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define IS_POISONED(p) (__asan_address_is_poisoned(p) != 0)
#endif

#define N            ((size_t)OLLA_MAX_PROBES)
#define NEW_WORK_MAX ((size_t)(OLLA_MAX_BUFS - OLLA_RESERVED_BUFS))

struct thing {
    unsigned char bytes[48];
    uint64_t last;
};

POOL_STORAGE(PROBE, struct thing, thing_pool)

static uint32_t seed = 20240607;

static uint32_t chance(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % below;
}

static void check_stats(enum pool_id id, size_t used, size_t max_used, uint64_t failed)
{
    const struct pool_stats *s = pool_stats(id);
    assert_int_equal(s->used, used);
    assert_int_equal(s->max_used, max_used);
    assert_true(s->failed == failed);
    assert_int_equal(pool_free_count(id), s->count - used);
    assert_true(s->used <= s->max_used && s->max_used <= s->count);
}

/* ---- the table ------------------------------------------------------------------- */

static void test_table_before_binding(void **state)
{
    (void)state;
    assert_int_equal(pool_stats(POOL_CLIENT)->count, OLLA_MAX_CLIENTS);
    assert_int_equal(pool_stats(POOL_BUF)->count, OLLA_MAX_BUFS);
    assert_int_equal(POOL_SIZE_MODEL, OLLA_MAX_MODELS);
    assert_string_equal(pool_stats(POOL_PROBE)->name, "probes");
    for (int id = 0; id < POOL_COUNT; id++) {
        const struct pool_stats *s = pool_stats((enum pool_id)id);
        assert_true(s->name[0] != '\0' && s->when_empty[0] != '\0' && s->count > 0);
        assert_int_equal(s->size, 0);
        check_stats((enum pool_id)id, 0, 0, 0);
    }
}

/* ---- one pool -------------------------------------------------------------------- */

/* The first test with elements: memory that was never needed is never touched. */
static void test_fresh_elements(void **state)
{
    (void)state;
    thing_pool();
    assert_int_equal(pool_stats(POOL_PROBE)->size, sizeof(struct thing));
    for (int round = 0; round < 5; round++) {
        struct thing *a = pool_get(POOL_PROBE);
        struct thing *b = pool_get_raw(POOL_PROBE);
        assert_int_equal(pool_index(POOL_PROBE, a), 0);
        assert_int_equal(pool_index(POOL_PROBE, b), 1);
        pool_put(POOL_PROBE, b);
        pool_put(POOL_PROBE, a);
    }
    check_stats(POOL_PROBE, 0, 2, 0);
    assert_true(thing_pool_storage == (void *)pool_get(POOL_PROBE));
    pool_put(POOL_PROBE, thing_pool_storage);
}

static void test_put_null(void **state)
{
    (void)state;
    pool_put(POOL_PROBE, NULL);
    check_stats(POOL_PROBE, 0, 2, 0);
}

static void test_poison(void **state)
{
    (void)state;
#ifdef IS_POISONED
    struct thing *a = pool_get(POOL_PROBE);
    assert_false(IS_POISONED(&a->bytes[0]));
    assert_false(IS_POISONED(&a->last));
    pool_put(POOL_PROBE, a);
    assert_true(IS_POISONED(&a->bytes[0]));
    assert_true(IS_POISONED(&a->last));
    assert_true(IS_POISONED(&thing_pool_storage[N - 1].last));
#else
    skip();
#endif
}

/* All out, one refused, all back in the order that `order` gives; the next gets return them last-in first-out. */
static void all_out_and_back(const size_t order[])
{
    static struct thing *got[OLLA_MAX_PROBES];
    bool seen[OLLA_MAX_PROBES] = {false};
    uint64_t failed = pool_stats(POOL_PROBE)->failed;

    for (size_t i = 0; i < N; i++) {
        struct thing *t = pool_get(POOL_PROBE);
        assert_non_null(t);
        size_t at = pool_index(POOL_PROBE, t);
        assert_true(at < N && !seen[at]);
        assert_ptr_equal(t, &thing_pool_storage[at]);
        seen[at] = true;
        got[at] = t;
    }
    assert_null(pool_get(POOL_PROBE));
    assert_null(pool_get_raw(POOL_PROBE));
    check_stats(POOL_PROBE, N, N, failed + 2);
    for (size_t i = 0; i < N; i++) {
        pool_put(POOL_PROBE, got[order[i]]);
        assert_int_equal(pool_free_count(POOL_PROBE), i + 1);
    }
    check_stats(POOL_PROBE, 0, N, failed + 2);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(pool_index(POOL_PROBE, pool_get(POOL_PROBE)), order[N - 1 - i]);
    }
    for (size_t i = 0; i < N; i++) {
        pool_put(POOL_PROBE, got[i]);
    }
}

static void test_all_orders(void **state)
{
    size_t order[OLLA_MAX_PROBES];
    (void)state;

    for (size_t i = 0; i < N; i++) {
        order[i] = i;
    }
    all_out_and_back(order);
    for (size_t i = 0; i < N; i++) {
        order[i] = N - 1 - i;
    }
    all_out_and_back(order);
    for (size_t i = 0; i < N; i++) { /* even ones, then odd ones */
        order[i] = 2 * i < N ? 2 * i : 2 * (i - (N + 1) / 2) + 1;
    }
    all_out_and_back(order);
    for (int round = 0; round < 200; round++) {
        for (size_t i = N - 1; i > 0; i--) {
            size_t k = chance((uint32_t)i + 1), keep = order[i];
            order[i] = order[k];
            order[k] = keep;
        }
        all_out_and_back(order);
    }
}

static void test_zero_filling(void **state)
{
    static struct thing *got[OLLA_MAX_PROBES];
    static const struct thing zero;
    (void)state;

    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < N; i++) {
            got[i] = pool_get(POOL_PROBE);
            assert_memory_equal(got[i], &zero, sizeof(zero));
            memset(got[i], 0xff, sizeof(*got[i]));
        }
        for (size_t i = 0; i < N; i++) {
            pool_put(POOL_PROBE, got[i]);
        }
    }
}

/* A stack of free elements over elements that were never used: every get is predicted. */
static void test_random_against_reference(void **state)
{
    static struct thing *out[OLLA_MAX_PROBES];
    size_t free_stack[OLLA_MAX_PROBES], frees = 0, outs = 0;
    uint64_t failed = pool_stats(POOL_PROBE)->failed;
    (void)state;

    for (size_t i = 0; i < N; i++) { /* a known order to begin with */
        out[i] = pool_get(POOL_PROBE);
    }
    for (size_t i = 0; i < N; i++) {
        free_stack[frees++] = pool_index(POOL_PROBE, out[i]);
        pool_put(POOL_PROBE, out[i]);
    }
    for (int step = 0; step < 20000; step++) {
        /* Leans to getting for a while, then to putting, so that both ends are reached. */
        if (chance(10) < (step / 100 % 2 ? 3u : 7u)) {
            struct thing *t = chance(2) ? pool_get(POOL_PROBE) : pool_get_raw(POOL_PROBE);
            if (frees == 0) {
                assert_null(t);
                failed++;
            } else {
                assert_int_equal(pool_index(POOL_PROBE, t), free_stack[--frees]);
                memset(t, (int)chance(256), sizeof(*t));
                out[outs++] = t;
            }
        } else if (outs > 0) {
            size_t k = chance((uint32_t)outs);
            free_stack[frees++] = pool_index(POOL_PROBE, out[k]);
            pool_put(POOL_PROBE, out[k]);
            out[k] = out[--outs];
        }
        check_stats(POOL_PROBE, outs, N, failed);
    }
    while (outs > 0) {
        pool_put(POOL_PROBE, out[--outs]);
    }
}

static void test_fail_at_every_place(void **state)
{
    static struct thing *got[OLLA_MAX_PROBES];
    (void)state;

    for (unsigned n = 1; n <= N; n++) {
        uint64_t failed = pool_stats(POOL_PROBE)->failed;
        size_t have = 0;
        pool_fail_at(POOL_PROBE, n);
        for (unsigned i = 1; i <= N; i++) {
            struct thing *t = (i + n) % 2 ? pool_get(POOL_PROBE) : pool_get_raw(POOL_PROBE);
            assert_int_equal(t == NULL, i == n);
            if (t) {
                got[have++] = t;
            }
        }
        check_stats(POOL_PROBE, N - 1, N, failed + 1);
        got[have++] = pool_get(POOL_PROBE); /* once only */
        assert_non_null(got[N - 1]);
        check_stats(POOL_PROBE, N, N, failed + 1);
        while (have > 0) {
            pool_put(POOL_PROBE, got[--have]);
        }
    }
    pool_fail_at(POOL_PROBE, 1);
    pool_fail_at(POOL_PROBE, 0); /* taken back */
    got[0] = pool_get(POOL_PROBE);
    assert_non_null(got[0]);
    pool_put(POOL_PROBE, got[0]);
}

static void test_bound_once(void **state)
{
    struct thing *t = pool_get(POOL_PROBE);
    (void)state;

    memset(t, 7, sizeof(*t));
    thing_pool(); /* a second start: elements in use stay valid */
    assert_int_equal(pool_stats(POOL_PROBE)->used, 1);
    assert_int_equal(t->bytes[0], 7);
    pool_put(POOL_PROBE, t);
    check_stats(POOL_PROBE, 0, N, pool_stats(POOL_PROBE)->failed);
}

/* ---- buffers --------------------------------------------------------------------- */

static struct buf bufs[OLLA_MAX_BUFS + 1];

static void check_buf(const struct buf *b)
{
    if (!b->mem) {
        assert_true(b->off == 0 && b->end == 0);
        assert_null(buf_str(b).p);
        assert_int_equal(buf_room(b), 0);
    } else {
        assert_true(b->off <= b->end && b->end <= OLLA_BUF_SIZE);
        assert_ptr_equal(buf_str(b).p, b->mem + b->off);
        assert_int_equal(buf_room(b), OLLA_BUF_SIZE - b->end);
    }
    assert_int_equal(buf_len(b), b->end - b->off);
    assert_int_equal(buf_str(b).n, buf_len(b));
}

static int buf_setup(void **state)
{
    (void)state;
    buf_init();
    return 0;
}

static void test_buf_without_block(void **state)
{
    struct buf b = {NULL, 0, 0};
    (void)state;

    check_buf(&b);
    buf_compact(&b);
    buf_drop_if_empty(&b);
    buf_drop(&b);
    buf_consume(&b, 0);
    check_buf(&b);
    assert_null(b.mem);
    check_stats(POOL_BUF, 0, 0, 0);
}

static void test_buf_classes(void **state)
{
    size_t n = 0;
    (void)state;

    while (n <= OLLA_MAX_BUFS && buf_hold(&bufs[n], BUF_NEW_WORK)) {
        n++;
    }
    assert_int_equal(n, NEW_WORK_MAX);
    assert_null(bufs[n].mem);
    assert_int_equal(pool_free_count(POOL_BUF), OLLA_RESERVED_BUFS);
    while (n <= OLLA_MAX_BUFS && buf_hold(&bufs[n], BUF_CLIENT)) {
        n++;
        assert_false(buf_hold(&bufs[n], BUF_NEW_WORK));
    }
    assert_int_equal(n, OLLA_MAX_BUFS);
    assert_null(bufs[n].mem);
    assert_int_equal(pool_free_count(POOL_BUF), 0);
    assert_true(pool_stats(POOL_BUF)->failed >= 1);

    /* Who holds a block keeps it, whatever the class. */
    assert_true(buf_hold(&bufs[0], BUF_NEW_WORK));
    assert_true(buf_hold(&bufs[1], BUF_CLIENT));

    /* New work waits until more than the reserve is free, running work does not. */
    for (size_t i = 0; i <= OLLA_RESERVED_BUFS; i++) {
        assert_false(buf_hold(&bufs[OLLA_MAX_BUFS], BUF_NEW_WORK));
        buf_drop(&bufs[i]);
    }
    assert_true(buf_hold(&bufs[0], BUF_NEW_WORK));
    assert_false(buf_hold(&bufs[1], BUF_NEW_WORK));
    assert_true(buf_hold(&bufs[1], BUF_CLIENT));
    for (size_t i = 0; i <= OLLA_MAX_BUFS; i++) {
        buf_drop(&bufs[i]);
        check_buf(&bufs[i]);
    }
    check_stats(POOL_BUF, 0, OLLA_MAX_BUFS, pool_stats(POOL_BUF)->failed);
}

static void test_buf_failed_get(void **state)
{
    struct buf b = {NULL, 0, 0};
    (void)state;

    for (int class_ = BUF_NEW_WORK; class_ <= BUF_CLIENT; class_++) {
        pool_fail_at(POOL_BUF, 1);
        assert_false(buf_hold(&b, (enum buf_class)class_));
        check_buf(&b);
        assert_null(b.mem);
        assert_true(buf_hold(&b, (enum buf_class)class_));
        buf_drop(&b);
    }
}

static void test_buf_hold_keeps(void **state)
{
    struct buf b = {NULL, 0, 0};
    (void)state;

    assert_true(buf_hold(&b, BUF_CLIENT));
    memcpy(buf_tail(&b), "hello", 5);
    buf_added(&b, 5);
    buf_consume(&b, 1);
    assert_true(buf_hold(&b, BUF_CLIENT));
    assert_true(str_eq(buf_str(&b), STR("ello")));
    buf_drop_if_empty(&b);
    assert_non_null(b.mem);
    buf_consume(&b, 4);
    assert_true(b.off == 0 && b.end == 0); /* all the room is back */
    assert_non_null(b.mem);
    buf_drop_if_empty(&b);
    assert_null(b.mem);
    check_buf(&b);
    /* A buffer dropped with bytes in it starts empty again. */
    assert_true(buf_hold(&b, BUF_CLIENT));
    buf_added(&b, 10);
    buf_drop(&b);
    assert_true(buf_hold(&b, BUF_CLIENT));
    assert_int_equal(buf_len(&b), 0);
    buf_drop(&b);
}

static void test_buf_text(void **state)
{
    struct buf b = {NULL, 0, 0};
    (void)state;

    assert_true(buf_hold(&b, BUF_CLIENT));
    buf_added(&b, OLLA_BUF_SIZE - 5);
    buf_consume(&b, OLLA_BUF_SIZE - 6);
    struct text t = buf_text(&b);
    assert_int_equal(t.cap, 5);
    text_addz(&t, "abc");
    text_addz(&t, "too long");
    assert_true(t.full);
    buf_text_done(&b, &t);
    check_buf(&b);
    assert_int_equal(buf_len(&b), 4);
    assert_int_equal(buf_room(&b), 2);
    t = buf_text(&b);
    text_addz(&t, "de");
    assert_false(t.full);
    buf_text_done(&b, &t);
    assert_int_equal(buf_room(&b), 0);
    buf_consume(&b, 1);
    assert_true(str_eq(buf_str(&b), STR("abcde")));
    buf_compact(&b);
    assert_int_equal(b.off, 0);
    assert_int_equal(buf_room(&b), OLLA_BUF_SIZE - 5);
    assert_true(str_eq(buf_str(&b), STR("abcde")));
    buf_drop(&b);
}

/* Random additions and removals against a plain array. */
static void test_buf_random(void **state)
{
    static char want[OLLA_BUF_SIZE];
    struct buf b = {NULL, 0, 0};
    size_t n = 0;
    (void)state;

    for (int step = 0; step < 4000; step++) {
        size_t part;
        switch (chance(8)) {
        case 0:
        case 1:
        case 2:
            assert_true(buf_hold(&b, BUF_CLIENT));
            part = chance(4) == 0 ? buf_room(&b) : chance((uint32_t)buf_room(&b) / 2 + 1);
            for (size_t i = 0; i < part; i++) {
                want[n + i] = (char)chance(256);
            }
            memcpy(buf_tail(&b), want + n, part);
            buf_added(&b, part);
            n += part;
            break;
        case 3:
        case 4:
        case 5:
            part = chance(8) == 0 ? n : chance((uint32_t)n + 1);
            buf_consume(&b, part);
            n -= part;
            memmove(want, want + part, n);
            break;
        case 6:
            buf_compact(&b);
            assert_int_equal(b.off, 0);
            break;
        default:
            buf_drop_if_empty(&b);
            assert_int_equal(b.mem == NULL, n == 0);
            break;
        }
        check_buf(&b);
        assert_int_equal(buf_len(&b), n);
        if (n > 0) {
            assert_memory_equal(buf_str(&b).p, want, n);
        } else {
            assert_true(b.off == 0 && b.end == 0);
        }
    }
    buf_drop(&b);
    assert_int_equal(pool_stats(POOL_BUF)->used, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_before_binding), /* the order of these three matters */
        cmocka_unit_test(test_fresh_elements),
        cmocka_unit_test(test_put_null),
        cmocka_unit_test(test_poison),
        cmocka_unit_test(test_all_orders),
        cmocka_unit_test(test_zero_filling),
        cmocka_unit_test(test_random_against_reference),
        cmocka_unit_test(test_fail_at_every_place),
        cmocka_unit_test(test_bound_once),
        cmocka_unit_test_setup(test_buf_without_block, buf_setup),
        cmocka_unit_test_setup(test_buf_classes, buf_setup),
        cmocka_unit_test_setup(test_buf_failed_get, buf_setup),
        cmocka_unit_test_setup(test_buf_hold_keeps, buf_setup),
        cmocka_unit_test_setup(test_buf_text, buf_setup),
        cmocka_unit_test_setup(test_buf_random, buf_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
