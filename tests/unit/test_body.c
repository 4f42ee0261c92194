/*
 * test_body.c - request bodies: behind the head, in a block, in a file of the spool.
 *
 * Byte i of every body is a function of i, so that what is read back is checked at every
 * offset. Descriptors and blocks are counted around every test: none may be lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../../platform/platform.h"
#include "../../src/body.h"
#include "../../src/log.h"
#include "../../src/pool.h"

#define BLOCK   ((size_t)OLLA_BODY_BLOCK)
#define MOST    ((size_t)BODY_MOST)
#define LARGEST (MOST + 2 * BLOCK + 100)
#define SPOOL   "/tmp"

static char bytes[LARGEST]; /* what every body begins with */

static void fill(void)
{
    for (size_t i = 0; i < LARGEST; i++) {
        bytes[i] = (char)(i * 31 + (i >> 8) * 7 + (i >> 16));
    }
}

/* Open descriptors; the same -1 before and after where there is no /proc. */
static int open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    if (!d) {
        return -1;
    }
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

static int fds_before;

static int before(void **state)
{
    (void)state;
    fds_before = open_fds();
    return pool_stats(POOL_BODY)->used == 0 ? 0 : -1;
}

static int after(void **state)
{
    (void)state;
    assert_int_equal(open_fds(), fds_before);
    assert_int_equal(pool_stats(POOL_BODY)->used, 0);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    fill();
    log_setup(LOG_ERROR, true);
    body_init();
    plat_random(&(char){0}, 1); /* keeps a descriptor from the first call on */
    return 0;
}

/* The bytes from `at` on are right: all to the end of a block, or of a buffer; of a file a part. */
static void check_at(const struct body *b, uint64_t at)
{
    struct str s = body_at(b, at);
    uint64_t left = b->n - at;
    assert_non_null(s.p);
    if (b->home == BODY_FILE) {
        assert_in_range(s.n, 1, left < BLOCK ? left : BLOCK);
    } else if (b->home == BODY_BLOCKS) {
        assert_int_equal(s.n, left < BLOCK - at % BLOCK ? left : BLOCK - at % BLOCK);
    } else {
        assert_int_equal(s.n, left);
    }
    assert_memory_equal(s.p, bytes + at, s.n);
}

/* Near every boundary, at odd places, and once through from the start. */
static void check_all(const struct body *b)
{
    for (uint64_t edge = 0; edge <= LARGEST; edge += BLOCK / 4) {
        for (uint64_t at = edge > 2 ? edge - 2 : 0; at <= edge + 2 && at < b->n; at++) {
            check_at(b, at);
        }
    }
    for (uint64_t at = 0; at < b->n; at += 7919) {
        check_at(b, at);
    }
    if (b->n > 0) {
        check_at(b, b->n - 1);
    }
    uint64_t at = 0;
    while (at < b->n) {
        struct str s = body_at(b, at);
        assert_true(s.n > 0 && s.n <= b->n - at);
        assert_memory_equal(s.p, bytes + at, s.n);
        at += s.n;
    }
    assert_true(at == b->n);
}

static struct body inline_body(size_t n)
{
    return (struct body){.home = BODY_INLINE, .n = n, .mem = bytes};
}

/* Adds the bytes up to size in parts. */
static void append_to(struct body *b, size_t size, size_t part)
{
    while (b->n < size) {
        size_t n = size - (size_t)b->n < part ? size - (size_t)b->n : part;
        assert_int_equal(body_append(b, bytes + b->n, n, SPOOL), BODY_OK);
    }
}

static const size_t sizes[] = {0,         1,         2,        100,  OLLA_BUF_SIZE, BLOCK - 1,    BLOCK,
                               BLOCK + 1, 2 * BLOCK, MOST - 1, MOST, MOST + 1,      MOST + BLOCK, LARGEST};

/* At least one, once it is not inline. */
static size_t blocks_for(size_t n)
{
    return n > 0 ? (n + BLOCK - 1) / BLOCK : 1;
}

/* ---- homes ----------------------------------------------------------------------- */

static void test_inline(void **state)
{
    (void)state;
    for (size_t n = 1; n <= OLLA_BUF_SIZE; n = n * 3 + 1) {
        struct body b = inline_body(n);
        check_all(&b);
        body_free(&b); /* the memory is the client's */
        assert_int_equal(b.home, BODY_NONE);
        assert_true(b.n == 0 && b.mem == NULL);
    }
}

static void test_move_out_by_expected_size(void **state)
{
    static const size_t had[] = {0, 1, 100, OLLA_BUF_SIZE};
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(sizes); i++) {
        for (size_t k = 0; k < OLLA_COUNT(had); k++) {
            struct body b = inline_body(had[k]);
            assert_int_equal(body_move_out(&b, sizes[i], SPOOL), BODY_OK);
            const size_t wanted = sizes[i] > had[k] ? sizes[i] : had[k];
            assert_int_equal(b.home, wanted <= MOST ? BODY_BLOCKS : BODY_FILE);
            assert_true(b.n == had[k] && b.mem != bytes);
            check_all(&b);
            assert_int_equal(pool_stats(POOL_BODY)->used, b.home == BODY_BLOCKS ? blocks_for(wanted) : 0);
            body_free(&b);
            assert_int_equal(b.home, BODY_NONE);
        }
    }
}

/* All sizes, by parts of many sizes, from an unknown length and from the true one. */
static void test_growth(void **state)
{
    static const size_t parts[] = {997, 4096, BLOCK - 1, BLOCK, BLOCK + 1, LARGEST};
    static const size_t had[] = {0, 1, 5000};
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(sizes); i++) {
        for (size_t k = 0; k < OLLA_COUNT(parts) * OLLA_COUNT(had) * 2; k++) {
            size_t start = had[k % 3], part = parts[k / 3 % OLLA_COUNT(parts)];
            bool known = k >= OLLA_COUNT(parts) * OLLA_COUNT(had);
            if (start > sizes[i]) {
                continue;
            }
            struct body b = inline_body(start);
            assert_int_equal(body_move_out(&b, known ? sizes[i] : 0, SPOOL), BODY_OK);
            append_to(&b, sizes[i], part);
            assert_true(b.n == sizes[i]);
            assert_int_equal(b.home, sizes[i] <= MOST ? BODY_BLOCKS : BODY_FILE);
            assert_int_equal(pool_stats(POOL_BODY)->used, b.home == BODY_BLOCKS ? blocks_for(sizes[i]) : 0);
            check_all(&b);
            body_free(&b);
        }
    }
}

/* What was read of one body is never taken for another one's, nor for what it was before more was added. */
static void test_one_after_the_other(void **state)
{
    struct body a = inline_body(0), b = inline_body(0);
    (void)state;

    assert_int_equal(body_move_out(&a, LARGEST, SPOOL), BODY_OK);
    append_to(&a, BLOCK + 100, 4096);
    check_at(&a, 50);
    int fd = a.fd;
    body_free(&a);
    assert_int_equal(body_move_out(&b, LARGEST, SPOOL), BODY_OK);
    assert_int_equal(b.fd, fd);
    assert_int_equal(body_append(&b, bytes + 7, 1000, SPOOL), BODY_OK);
    assert_memory_equal(body_at(&b, 50).p, bytes + 57, 950);
    assert_int_equal(body_append(&b, bytes + 1007, 1000, SPOOL), BODY_OK);
    struct str s = body_at(&b, 50);
    assert_int_equal(s.n, 1950);
    assert_memory_equal(s.p, bytes + 57, 1950);
    body_free(&b);
}

/* Byte by byte over the boundaries, read back after every step. */
static void test_over_the_boundary(void **state)
{
    (void)state;
    struct body b = inline_body(0);
    assert_int_equal(body_move_out(&b, 0, SPOOL), BODY_OK);
    for (size_t edge = BLOCK; edge <= MOST + BLOCK; edge += BLOCK) {
        append_to(&b, edge - 5, BLOCK);
        while (b.n < edge + 5) {
            append_to(&b, (size_t)b.n + 1, 1);
            assert_int_equal(b.home,
                             b.n <= MOST ? BODY_BLOCKS : BODY_FILE); /* it only moves upwards, and not too early */
            assert_int_equal(pool_stats(POOL_BODY)->used, b.home == BODY_BLOCKS ? blocks_for((size_t)b.n) : 0);
            check_at(&b, 0);
            check_at(&b, b.n - 1);
            check_at(&b, b.n / 2);
            assert_int_equal(body_at(&b, b.n).n, 0);
        }
    }
    check_all(&b);
    body_free(&b);
}

/* Two files at once share one window: each read gives the bytes of its own file. */
static void test_two_files(void **state)
{
    struct body a = inline_body(0), b = inline_body(0);
    (void)state;

    assert_int_equal(body_move_out(&a, LARGEST, SPOOL), BODY_OK);
    assert_int_equal(body_move_out(&b, LARGEST, SPOOL), BODY_OK);
    assert_int_not_equal(a.fd, b.fd);
    append_to(&a, LARGEST, 5000);
    static char other[2 * OLLA_BODY_BLOCK];
    memset(other, 'b', sizeof(other));
    assert_int_equal(body_append(&b, other, sizeof(other), SPOOL), BODY_OK);
    for (uint64_t at = 0; at < sizeof(other); at += 9999) {
        check_at(&a, at);
        struct str s = body_at(&b, at);
        assert_true(s.n > 0);
        assert_memory_equal(s.p, other, s.n);
    }
    body_free(&a);
    check_at(&(struct body){.home = BODY_INLINE, .n = 5, .mem = bytes}, 0);
    assert_int_equal(body_at(&b, 1).n, BLOCK);
    body_free(&b);
}

/* ---- no room --------------------------------------------------------------------- */

static void test_blocks_all_taken(void **state)
{
    static struct body all[OLLA_MAX_BODY_BLOCKS];
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        all[i] = inline_body(i);
        assert_int_equal(body_move_out(&all[i], 0, ""), BODY_OK);
        assert_int_equal(all[i].home, BODY_BLOCKS);
    }
    struct body b = inline_body(10);
    assert_int_equal(body_move_out(&b, 0, ""), BODY_BUSY);
    assert_int_equal(body_move_out(&b, BLOCK, ""), BODY_BUSY);
    assert_int_equal(body_move_out(&b, MOST, ""), BODY_BUSY);
    assert_int_equal(body_move_out(&b, MOST + 1, ""), BODY_NO_SPOOL);
    assert_int_equal(b.home, BODY_INLINE);
    check_all(&b);
    assert_int_equal(body_move_out(&b, 0, SPOOL), BODY_OK); /* small as it is, the file takes it */
    assert_int_equal(b.home, BODY_FILE);
    append_to(&b, 1000, 10);
    check_all(&b);
    body_free(&b);
    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        check_all(&all[i]);
        body_free(&all[i]);
    }
    b = inline_body(10);
    assert_int_equal(body_move_out(&b, 0, ""), BODY_OK);
    body_free(&b);
}

/* More than one block only while half of all are free: a large body does not take the last ones. */
static void test_many_blocks_for_few(void **state)
{
    struct body large = inline_body(10), second = inline_body(10), third = inline_body(10), small = inline_body(10);
    (void)state;

    assert_int_equal(body_move_out(&large, MOST, ""), BODY_OK);
    assert_int_equal(pool_stats(POOL_BODY)->used, BODY_MOST_BLOCKS);
    assert_int_equal(body_move_out(&second, BLOCK + 1, ""), BODY_BUSY);
    assert_int_equal(second.home, BODY_INLINE);
    assert_int_equal(body_move_out(&second, BLOCK + 1, SPOOL), BODY_OK);
    assert_int_equal(second.home, BODY_FILE);
    assert_int_equal(body_move_out(&third, 0, ""), BODY_OK);
    append_to(&third, BLOCK, 5000);
    assert_int_equal(third.home, BODY_BLOCKS);
    assert_int_equal(body_append(&third, bytes + BLOCK, 1, ""), BODY_BUSY);
    check_all(&third);
    append_to(&third, BLOCK + 1, 1);
    assert_int_equal(third.home, BODY_FILE);
    check_all(&third);
    assert_int_equal(body_move_out(&small, BLOCK, ""), BODY_OK);
    assert_int_equal(pool_stats(POOL_BODY)->used, BODY_MOST_BLOCKS + 1);
    body_free(&large);
    append_to(&small, MOST, 5000);
    assert_int_equal(small.home, BODY_BLOCKS);
    check_all(&small);
    body_free(&second);
    body_free(&third);
    body_free(&small);
}

/* Whichever block of several cannot be had: all that were taken are given back, or hold what they held. */
static void test_failed_get_of_several(void **state)
{
    (void)state;

    for (unsigned i = 1; i <= BODY_MOST_BLOCKS; i++) {
        struct body b = inline_body(10);
        pool_fail_at(POOL_BODY, i);
        assert_int_equal(body_move_out(&b, MOST, ""), BODY_BUSY);
        assert_int_equal(pool_stats(POOL_BODY)->used, 0);
        check_all(&b);
        pool_fail_at(POOL_BODY, i);
        assert_int_equal(body_move_out(&b, MOST, SPOOL), BODY_OK);
        assert_int_equal(b.home, BODY_FILE);
        body_free(&b);
        b = inline_body(10);
        assert_int_equal(body_move_out(&b, 0, SPOOL), BODY_OK);
        if (i < BODY_MOST_BLOCKS) {
            append_to(&b, i * BLOCK - 1, 997);
            pool_fail_at(POOL_BODY, 1);
            append_to(&b, i * BLOCK + 1, 2);
            assert_int_equal(b.home, BODY_FILE);
        }
        append_to(&b, MOST, 10000);
        check_all(&b);
        body_free(&b);
    }
}

static void test_failed_get(void **state)
{
    struct body b = inline_body(10);
    (void)state;

    pool_fail_at(POOL_BODY, 1);
    assert_int_equal(body_move_out(&b, 0, ""), BODY_BUSY);
    check_all(&b);
    pool_fail_at(POOL_BODY, 1);
    assert_int_equal(body_move_out(&b, 0, SPOOL), BODY_OK);
    assert_int_equal(b.home, BODY_FILE);
    check_all(&b);
    body_free(&b);
}

/* Without a usable spool the blocks fill up to the last byte; what is there stays readable. */
static void no_spool(const char *dir, enum body_error want)
{
    struct body b = inline_body(100);
    assert_int_equal(body_move_out(&b, MOST + 1, dir), want);
    assert_int_equal(b.home, BODY_INLINE);
    assert_int_equal(body_move_out(&b, 0, dir), BODY_OK);
    while (b.n < MOST) {
        size_t n = MOST - (size_t)b.n < 5000 ? MOST - (size_t)b.n : 5000;
        assert_int_equal(body_append(&b, bytes + b.n, n, dir), BODY_OK);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(body_append(&b, bytes, 1, dir), want);
        assert_int_equal(b.home, BODY_BLOCKS);
        assert_true(b.n == MOST);
        check_all(&b);
    }
    assert_int_equal(body_append(&b, bytes + MOST, 1, SPOOL), BODY_OK); /* a reload has named a directory */
    check_all(&b);
    body_free(&b);
}

static void test_no_spool(void **state)
{
    (void)state;
    no_spool("", BODY_NO_SPOOL);
    no_spool("/nonexistent-olla-spool/x", BODY_SPOOL_ERROR);
    no_spool("/dev/null", BODY_SPOOL_ERROR); /* not a directory */
}

static void test_no_descriptor_left(void **state)
{
    struct rlimit was, none;
    (void)state;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = was;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    struct body b = inline_body(100);
    enum body_error err = body_move_out(&b, MOST + 1, SPOOL);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(err, BODY_SPOOL_ERROR);
    assert_int_equal(b.home, BODY_INLINE);
    check_all(&b);
    body_free(&b);
}

/* A limit on the size of files stands for a full disk. */
static void test_spool_full(void **state)
{
    const size_t limits[] = {0, 50, BLOCK, BLOCK + 500};
    struct rlimit was, small;
    (void)state;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    for (size_t i = 0; i < OLLA_COUNT(limits); i++) {
        struct body b = inline_body(100);
        int fds = open_fds();
        small = was;
        small.rlim_cur = limits[i];
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        enum body_error moved = body_move_out(&b, MOST + 1, SPOOL), added = BODY_OK;
        while (moved == BODY_OK && added == BODY_OK && b.n < LARGEST - 1000) {
            added = body_append(&b, bytes + b.n, 1000, SPOOL);
        }
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        if (limits[i] < 100) {
            assert_int_equal(moved, BODY_SPOOL_FULL);
            assert_int_equal(b.home, BODY_INLINE);
            assert_int_equal(open_fds(), fds); /* the new file is closed again */
        } else {
            assert_int_equal(added, BODY_SPOOL_FULL);
            assert_true(b.n <= limits[i] && b.n + 1000 > limits[i]);
        }
        check_all(&b);
        body_free(&b);
    }
    signal(SIGXFSZ, SIG_DFL);
}

/* Blocks that cannot move to a full disk are still blocks. */
static void test_spool_full_from_block(void **state)
{
    struct rlimit was, small;
    struct body b = inline_body(0);
    (void)state;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(body_move_out(&b, 0, SPOOL), BODY_OK);
    append_to(&b, MOST, 8192);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    small = was;
    small.rlim_cur = 4096;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum body_error err = body_append(&b, bytes + MOST, 10, SPOOL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(err, BODY_SPOOL_FULL);
    assert_int_equal(b.home, BODY_BLOCKS);
    assert_true(b.n == MOST);
    check_all(&b);
    append_to(&b, LARGEST, 4096); /* and can go on when there is room again */
    check_all(&b);
    body_free(&b);
}

static void test_spool_read_fails(void **state)
{
    struct body b = inline_body(100);
    (void)state;

    assert_int_equal(body_move_out(&b, MOST + 1, SPOOL), BODY_OK);
    append_to(&b, MOST + 1, BLOCK);
    assert_int_equal(ftruncate(b.fd, 50), 0);
    assert_int_equal(body_at(&b, 0).n, 50); /* what there is */
    assert_null(body_at(&b, 50).p);
    assert_null(body_at(&b, BLOCK).p);
    body_free(&b);
}

/* Freed twice is freed once. */
static void test_freed_twice(void **state)
{
    struct body b = inline_body(10);
    struct body none = {.home = BODY_NONE};
    (void)state;

    body_free(&none);
    for (int file = 0; file < 2; file++) {
        assert_int_equal(body_move_out(&b, file ? MOST + 1 : 0, SPOOL), BODY_OK);
        assert_int_equal(open_fds(), fds_before == -1 ? -1 : fds_before + file);
        body_free(&b);
        body_free(&b);
        assert_int_equal(open_fds(), fds_before);
        b = inline_body(10);
    }
}

/* Many at once, all homes, freed in another order. */
static void test_many(void **state)
{
    static struct body all[60];
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        all[i] = inline_body(i);
        if (i % 4 > 0) {
            assert_int_equal(body_move_out(&all[i], i % 4 == 3 ? MOST + 1 : 0, SPOOL), BODY_OK);
            append_to(&all[i], i % 4 == 2 ? BLOCK + i : 1000 + i, 40000);
        }
    }
    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        struct body *b = &all[(i * 7) % OLLA_COUNT(all)];
        if (b->n > 0) {
            check_at(b, 0);
            check_at(b, b->n - 1);
        }
        body_free(b);
    }
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, before, after)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_inline),
        CASE(test_move_out_by_expected_size),
        CASE(test_growth),
        CASE(test_one_after_the_other),
        CASE(test_over_the_boundary),
        CASE(test_two_files),
        CASE(test_blocks_all_taken),
        CASE(test_many_blocks_for_few),
        CASE(test_failed_get_of_several),
        CASE(test_failed_get),
        CASE(test_no_spool),
        CASE(test_no_descriptor_left),
        CASE(test_spool_full),
        CASE(test_spool_full_from_block),
        CASE(test_spool_read_fails),
        CASE(test_freed_twice),
        CASE(test_many),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
