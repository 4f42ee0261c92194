/*
 * test_limits.c - requests per minute and connections by address, and whose address it is behind proxies.
 *
 * Time is a number that the tests hand in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/limits.h"
#include "fleet.h"

#define START 1000000

static struct limits_figures figures;
static uint64_t wait_ms;

/* The texts in force take turns, as the program's do. */
static void apply(const char *text)
{
    static struct conf both[2];
    static unsigned turn;
    struct conf *c = &both[turn++ % 2];

    assert_int_equal(fleet_load(c, text, complain), OLLA_OK);
    conf_now = c;
}

static void begin(const char *text)
{
    log_setup(LOG_ERROR, true);
    apply(text);
    limits_init();
    memset(&limits_totals, 0, sizeof(limits_totals));
}

static struct cidr_addr addr(const char *text)
{
    struct cidr_addr a;

    assert_int_equal(cidr_parse_addr(str_of(text), &a), OLLA_OK);
    return a;
}

static enum limits_answer take(const char *who, uint64_t now)
{
    struct cidr_addr a = addr(who);

    return limits_take(&a, now, &figures, &wait_ms);
}

/* So many in a row pass at that time, and the next does not. */
static void expect_passes(const char *who, uint64_t now, int count, enum limits_answer then)
{
    for (int i = 0; i < count; i++) {
        assert_int_equal(take(who, now), LIMITS_PASS);
    }
    assert_int_equal(take(who, now), then);
}

#define RATES(all, ip, burst)                                                                           \
    "[server.rate_limits]\nglobal_requests_per_minute = " all "\nper_ip_requests_per_minute = " ip "\n" \
    "burst_size = " burst "\n"

static void test_off(void **state)
{
    (void)state;
    begin(RATES("0", "0", "1"));
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(take("10.0.0.1", START), LIMITS_NONE);
    }
    assert_int_equal(figures.limit, 0);
    assert_int_equal(limits_totals.requests, 0);
    assert_int_equal(limits_limited(START), 0);
}

static void test_bucket_of_one(void **state)
{
    (void)state;
    begin(RATES("0", "60", "3")); /* one each second */
    expect_passes("10.0.0.1", START, 3, LIMITS_CLIENT);
    assert_int_equal(wait_ms, 1000);
    assert_int_equal(take("10.0.0.1", START + 999), LIMITS_CLIENT);
    assert_int_equal(wait_ms, 1);
    expect_passes("10.0.0.1", START + 1000, 1, LIMITS_CLIENT);
    expect_passes("10.0.0.1", START + 3500, 2, LIMITS_CLIENT);
    assert_int_equal(wait_ms, 500); /* what was left over is not lost */
    expect_passes("10.0.0.1", START + 4000, 1, LIMITS_CLIENT);
    expect_passes("10.0.0.1", START + 1000000, 3, LIMITS_CLIENT); /* and never more than the burst */
    expect_passes("10.0.0.1", UINT64_MAX / 2, 3, LIMITS_CLIENT);
    assert_int_equal(limits_totals.requests, 7);
}

static void test_rate_over_a_minute(void **state)
{
    int passed = 0;

    (void)state;
    begin(RATES("0", "100", "7"));
    for (uint64_t now = START; now < START + 60000; now += 10) {
        passed += take("10.0.0.1", now) == LIMITS_PASS;
    }
    assert_int_equal(passed, 7 + 99);
    begin(RATES("0", "1000000", "1000000"));
    expect_passes("10.0.0.1", START, 1000, LIMITS_PASS);
}

static void test_clients_are_apart(void **state)
{
    (void)state;
    begin(RATES("0", "60", "2"));
    expect_passes("10.0.0.1", START, 2, LIMITS_CLIENT);
    expect_passes("10.0.0.2", START, 2, LIMITS_CLIENT);
    expect_passes("::ffff:10.0.0.3", START, 2, LIMITS_CLIENT);
    expect_passes("10.0.0.3", START, 0, LIMITS_CLIENT); /* the same one */
    expect_passes("2001:db8::1", START, 2, LIMITS_CLIENT);
    expect_passes("2001:db8::ffff:1:2:3", START, 0, LIMITS_CLIENT); /* the same network */
    expect_passes("2001:db8:0:1::1", START, 2, LIMITS_CLIENT);
    expect_passes("::1", START, 2, LIMITS_CLIENT); /* not that of 10.0.0.1, although it begins with zeros too */
    assert_int_equal(limits_limited(START), 6);
    assert_int_equal(limits_limited(START + 3599999), 6);
    assert_int_equal(limits_limited(START + 3600000), 0);
}

static void test_bucket_of_all(void **state)
{
    (void)state;
    begin(RATES("120", "60", "3"));
    expect_passes("10.0.0.1", START, 2, LIMITS_PASS); /* that was three */
    assert_int_equal(figures.remaining, 57);
    assert_int_equal(take("10.0.0.2", START), LIMITS_ALL);
    assert_int_equal(wait_ms, 500);
    assert_int_equal(figures.limit, 60);
    assert_int_equal(figures.remaining, 0);
    /* Who is refused takes nothing from the others. */
    for (int i = 0; i < 100; i++) {
        assert_int_equal(take("10.0.0.1", START + 500), LIMITS_CLIENT);
    }
    expect_passes("10.0.0.2", START + 500, 1, LIMITS_ALL);
}

static void test_no_burst(void **state)
{
    (void)state;
    log_setup(LOG_ERROR, true);
    begin(RATES("0", "60", "1"));
    expect_passes("10.0.0.1", START, 1, LIMITS_CLIENT);
    ((struct conf *)(uintptr_t)conf_now)->server.rate_limits.burst_size = 0;
    expect_passes("10.0.0.1", START + 100000, 0, LIMITS_CLIENT);
    assert_int_equal(wait_ms, 1000);
}

static void test_figures(void **state)
{
    (void)state;
    begin(RATES("0", "5", "3"));
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(take("10.0.0.1", START), LIMITS_PASS);
        assert_int_equal(figures.limit, 5);
        assert_int_equal(figures.remaining, 4 - i);
    }
    assert_int_equal(take("10.0.0.1", START), LIMITS_CLIENT);
    assert_int_equal(figures.remaining, 2); /* of the minute, not of the burst */
    assert_int_equal(take("10.0.0.1", START + 59999), LIMITS_PASS);
    assert_int_equal(figures.remaining, 1);
    assert_int_equal(take("10.0.0.1", START + 60000), LIMITS_PASS); /* another minute */
    assert_int_equal(figures.remaining, 4);
    begin(RATES("0", "2", "50"));
    expect_passes("10.0.0.1", START, 10, LIMITS_PASS);
    assert_int_equal(figures.remaining, 0); /* the burst may be more than the minute has */
}

static void test_reload(void **state)
{
    (void)state;
    begin(RATES("0", "60", "2"));
    expect_passes("10.0.0.1", START, 2, LIMITS_CLIENT);
    apply(RATES("0", "60", "50")); /* what was used stays used */
    expect_passes("10.0.0.1", START + 1000, 1, LIMITS_CLIENT);
    apply(RATES("0", "600", "50"));
    expect_passes("10.0.0.1", START + 2000, 10, LIMITS_CLIENT);
    apply(RATES("0", "0", "50"));
    assert_int_equal(take("10.0.0.1", START + 2000), LIMITS_NONE);
    apply(RATES("0", "600", "50"));
    expect_passes("10.0.0.1", START + 12000, 50, LIMITS_CLIENT);
    apply(RATES("0", "600", "4"));
    expect_passes("10.0.0.1", START + 100000, 4, LIMITS_CLIENT);
}

static const char *numbered(unsigned i)
{
    static char text[32];

    (void)snprintf(text, sizeof(text), "10.%u.%u.%u", i >> 16, i >> 8 & 255, i & 255);
    return text;
}

static void test_eviction(void **state)
{
    (void)state;
    begin(RATES("0", "60", "1"));
    uint64_t now = START;
    for (unsigned i = 0; i < OLLA_MAX_RATE_CLIENTS; i++) {
        assert_int_equal(take(numbered(i), now), LIMITS_PASS);
    }
    assert_int_equal(take(numbered(0), now), LIMITS_CLIENT); /* the newest again */
    assert_int_equal(take(numbered(OLLA_MAX_RATE_CLIENTS), now), LIMITS_PASS);
    assert_int_equal(take(numbered(0), now), LIMITS_CLIENT);
    assert_int_equal(take(numbered(OLLA_MAX_RATE_CLIENTS), now), LIMITS_CLIENT);
    assert_int_equal(take(numbered(1), now), LIMITS_PASS); /* it was forgotten, and now 2 is */
    assert_int_equal(take(numbered(3), now), LIMITS_CLIENT);
    assert_int_equal(take(numbered(2), now), LIMITS_PASS);
    assert_int_equal(take(numbered(OLLA_MAX_RATE_CLIENTS - 1), now), LIMITS_CLIENT);
    /* Many more than there is room for, in any order: nothing is lost or found twice. */
    for (int i = 0; i < 200000; i++) {
        (void)take(numbered(chance(OLLA_MAX_RATE_CLIENTS * 3)), now + (unsigned)i / 100);
    }
    now += 1000000;
    for (unsigned i = 0; i < OLLA_MAX_RATE_CLIENTS; i++) {
        assert_int_equal(take(numbered(i), now), LIMITS_PASS);
    }
    for (unsigned i = 0; i < OLLA_MAX_RATE_CLIENTS; i++) {
        assert_int_equal(take(numbered(i), now), LIMITS_CLIENT);
    }
}

/* ---- proxies ------------------------------------------------------------------------- */

#define TRUST \
    "[server.rate_limits]\ntrust_proxy_headers = true\ntrusted_proxy_cidrs = 127.0.0.0/8, 10.0.0.0/8, ::1/128\n"

static void test_trust(void **state)
{
    struct cidr_addr local = addr("127.0.0.1"), six = addr("::1"), far = addr("192.0.2.1"), lan = addr("192.168.1.2");

    (void)state;
    begin(TRUST);
    assert_true(limits_trusts(&local));
    assert_true(limits_trusts(&six));
    assert_false(limits_trusts(&far));
    assert_false(limits_trusts(&lan));
    apply("[server.rate_limits]\ntrust_proxy_headers = true\n");
    assert_true(limits_trusts(&lan));
    assert_false(limits_trusts(&six));
    apply("[server.rate_limits]\ntrust_proxy_headers = true\ntrusted_proxy_cidrs =\n");
    assert_false(limits_trusts(&local));
    apply("");
    assert_false(limits_trusts(&local));
}

static void test_client_behind_proxies(void **state)
{
    static const struct {
        const char *fields, *client; /* NULL = the peer */
    } rows[] = {
        {"", NULL},
        {"Forwarded: for=192.0.2.1\r\n", NULL},
        {"X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"},
        {"x-forwarded-for:  192.0.2.1 \r\n", "192.0.2.1"},
        {"X-Forwarded-For: 192.0.2.1, 10.0.0.1\r\n", "192.0.2.1"},
        {"X-Forwarded-For: 192.0.2.1, 10.0.0.1, 127.0.0.1\r\n", "192.0.2.1"},
        {"X-Forwarded-For: 198.51.100.9, 192.0.2.1\r\n", "192.0.2.1"}, /* the first one is what the client says */
        {"X-Forwarded-For: 198.51.100.9, 10.0.0.1, 192.0.2.1, 10.0.0.2\r\n", "192.0.2.1"},
        {"X-Forwarded-For: 198.51.100.9\r\nX-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"},
        {"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 10.0.0.7\r\n", "192.0.2.1"},
        {"X-Forwarded-For: 2001:DB8:0::1\r\n", "2001:db8::1"},
        {"X-Forwarded-For: ::ffff:192.0.2.1\r\n", "192.0.2.1"},
        {"X-Forwarded-For: 192.0.2.1:5123\r\n", "192.0.2.1"},
        {"X-Forwarded-For: [2001:db8::1]:5123\r\n", "2001:db8::1"},
        {"X-Forwarded-For: [2001:db8::1]\r\n", "2001:db8::1"},
        {"X-Forwarded-For: ,192.0.2.1,, ,\r\n", "192.0.2.1"},
        {"X-Forwarded-For: nonsense, 192.0.2.1\r\n", "192.0.2.1"},
        /* all of them ours: where it began */
        {"X-Forwarded-For: 10.0.0.5\r\n", "10.0.0.5"},
        {"X-Forwarded-For: 10.0.0.5, 10.0.0.6\r\n", "10.0.0.5"},
        {"X-Forwarded-For: 10.0.0.5\r\nX-Real-IP: 192.0.2.8\r\n", "192.0.2.8"},
        {"X-Real-IP: 192.0.2.8\r\n", "192.0.2.8"},
        {"X-Real-IP: 10.0.0.8\r\n", "10.0.0.8"},
        {"X-Real-IP: 192.0.2.8\r\nX-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"},
        /* not to be read */
        {"X-Forwarded-For: nonsense\r\n", NULL},
        {"X-Forwarded-For: unknown\r\n", NULL},
        {"X-Forwarded-For: 192.0.2.1, unknown\r\n", NULL},
        {"X-Forwarded-For: 192.0.2.1, unknown, 10.0.0.1\r\n", NULL},
        {"X-Forwarded-For: 192.0.2.1; 10.0.0.1\r\n", NULL},
        {"X-Forwarded-For: 192.0.2.1:\r\n", NULL},
        {"X-Forwarded-For: 192.0.2.1:99999\r\n", NULL},
        {"X-Forwarded-For: 192.0.2.1:x\r\n", NULL},
        {"X-Forwarded-For: [192.0.2.1\r\n", NULL},
        {"X-Forwarded-For: [2001:db8::1]x\r\n", NULL},
        {"X-Forwarded-For: fe80::1%eth0\r\n", NULL},
        {"X-Forwarded-For: \"192.0.2.1\"\r\n", NULL},
        {"X-Forwarded-For: nonsense\r\nX-Real-IP: 192.0.2.8\r\n", NULL},
        {"X-Forwarded-For:\r\n", NULL},
        {"X-Real-IP: nonsense\r\n", NULL},
        {"X-Real-IP:\r\n", NULL},
        {"X-Real-IP: 192.0.2.8, 192.0.2.9\r\n", NULL},
        {"X-Real-IP: 192.0.2.8\r\nX-Real-IP: 192.0.2.9\r\n", NULL},
    };

    (void)state;
    begin(TRUST);
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        struct cidr_addr a;
        char text[48] = "";
        bool told = limits_client(str_of(rows[i].fields), &a, text, sizeof(text));

        if (told != (rows[i].client != NULL) || strcmp(text, told ? rows[i].client : "") != 0) {
            fail_msg("%s gave \"%s\"", rows[i].fields, text);
        }
        if (told) {
            struct cidr_addr wanted = addr(rows[i].client);
            assert_memory_equal(&a, &wanted, sizeof(a));
        }
    }
}

/* ---- connections --------------------------------------------------------------------- */

static void test_peers(void **state)
{
    struct cidr_addr local = addr("127.0.0.1"), lan = addr("192.168.1.2"), six = addr("::1"), far = addr("192.0.2.1");

    (void)state;
    begin("");
    assert_true(limits_admits(&far, "x", START));
    apply("[server.access]\nallowed_cidrs = 127.0.0.0/8, 192.168.0.0/16\nallowed_cidrs = ::1/128\n");
    assert_true(limits_admits(&local, "x", START));
    assert_true(limits_admits(&lan, "x", START));
    assert_true(limits_admits(&six, "x", START));
    assert_false(limits_admits(&far, "x", START));
    assert_int_equal(limits_totals.peers, 1);
    apply("[server.access]\nallowed_cidrs =\n");
    assert_true(limits_admits(&far, "x", START));
    assert_int_equal(limits_totals.peers, 1);
}

static void test_connections(void **state)
{
    struct cidr_addr a = addr("10.0.0.1"), b = addr("10.0.0.2"), mapped = addr("::ffff:10.0.0.1");
    struct cidr_addr six = addr("2001:db8::1"), same = addr("2001:db8::2"), other = addr("2001:db8:0:1::1");

    (void)state;
    begin("");
    assert_true(limits_admits_more(30000, "x", START));
    apply("[server.access]\nmax_connections_per_client = 2\n");
    assert_true(limits_admits_more(0, "x", START));
    assert_true(limits_admits_more(1, "x", START));
    assert_false(limits_admits_more(2, "x", START));
    assert_int_equal(limits_totals.connections, 1);
    assert_true(limits_same_client(&a, &mapped));
    assert_false(limits_same_client(&a, &b));
    assert_true(limits_same_client(&six, &same));
    assert_false(limits_same_client(&six, &other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_bucket_of_one),
        cmocka_unit_test(test_rate_over_a_minute),
        cmocka_unit_test(test_clients_are_apart),
        cmocka_unit_test(test_bucket_of_all),
        cmocka_unit_test(test_no_burst),
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_eviction),
        cmocka_unit_test(test_trust),
        cmocka_unit_test(test_client_behind_proxies),
        cmocka_unit_test(test_peers),
        cmocka_unit_test(test_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
