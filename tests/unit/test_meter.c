/*
 * test_meter.c - the table behind usage.file when it is full: written earlier, and nothing is lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../src/conf.h"
#include "../../src/meter.h"
#include "../../src/net.h"

#define PAIRS (2 * OLLA_MAX_METER + 3)

static struct conf conf;
static char dir[] = "/tmp/olla-meter-XXXXXX", path[64];
static const struct tally_event one = {.served = true, .input = 1, .output = 2};

static unsigned lines(void)
{
    FILE *f = fopen(path, "r");
    unsigned n = 0;
    int c;

    while (f && (c = fgetc(f)) != EOF) {
        n += c == '\n';
    }
    if (f) {
        assert_int_equal(fclose(f), 0);
    }
    return n;
}

static void add(unsigned from, unsigned to)
{
    char model[32];

    for (unsigned i = from; i < to; i++) {
        (void)snprintf(model, sizeof(model), "model-%u", i);
        meter_add(STR("key"), str_of(model), &one);
    }
}

static void test_full_table_is_written(void **state)
{
    (void)state;
    add(0, OLLA_MAX_METER);
    assert_int_equal(lines(), 0);
    add(0, OLLA_MAX_METER); /* the same again take no more room */
    assert_int_equal(lines(), 0);
    add(OLLA_MAX_METER, PAIRS);
    assert_int_equal(lines(), 2 * OLLA_MAX_METER);
    meter_flush();
    assert_int_equal(lines(), PAIRS);
    meter_flush();
    assert_int_equal(lines(), PAIRS);
    assert_true(meter_tick() == UINT64_MAX);
}

/* A full table that cannot be written takes no more, and keeps what it has. */
static void test_full_and_stuck(void **state)
{
    (void)state;
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    add(0, PAIRS);
    assert_int_equal(rmdir(path), 0);
    meter_flush();
    assert_int_equal(lines(), OLLA_MAX_METER);
}

static void test_long_names_fit_a_line(void **state)
{
    char key[OLLA_KEY_NAME], model[OLLA_MODEL_NAME];
    (void)state;
    memset(key, 1, sizeof(key) - 1); /* each becomes six bytes */
    memset(model, 2, sizeof(model) - 1);
    key[sizeof(key) - 1] = model[sizeof(model) - 1] = '\0';
    unsigned before = lines();
    for (unsigned i = 0; i < 40; i++) {
        key[0] = (char)('a' + i % 26);
        model[0] = (char)('a' + i / 26);
        meter_add(str_of(key), str_of(model), &(struct tally_event){.bytes = UINT64_MAX, .input = UINT64_MAX});
    }
    meter_flush();
    assert_int_equal(lines(), before + 40);
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) {
        return -1;
    }
    (void)snprintf(path, sizeof(path), "%s/used", dir);
    conf.usage.file = path;
    conf.usage.interval = 1000;
    conf_now = &conf;
    net_tick();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_table_is_written),
        cmocka_unit_test(test_full_and_stuck),
        cmocka_unit_test(test_long_names_fit_a_line),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
