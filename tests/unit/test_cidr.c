/*
 * test_cidr.c - addresses and ranges of them: every form that is taken, and many that are not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../platform/platform.h"
#include "../../src/cidr.h"
#include "guard.h"

static void test_addresses(void **state)
{
    static const struct {
        const char *text, *shown;
    } good[] = {
        {"0.0.0.0", "0.0.0.0"},
        {"127.0.0.1", "127.0.0.1"},
        {"255.255.255.255", "255.255.255.255"},
        {"::", "::"},
        {"::1", "::1"},
        {"1::", "1::"},
        {"2001:DB8::a", "2001:db8::a"},
        {"2001:db8:0:0:0:0:0:1", "2001:db8::1"},
        {"1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"},
        {"1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"},
        {"::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"},
        {"0001:02:003:4::", "1:2:3:4::"},
        {"::ffff:10.1.2.3", "10.1.2.3"},
        {"::ffff:a01:203", "10.1.2.3"},
        {"64:ff9b::192.0.2.33", "64:ff9b::c000:221"},
        {"1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"},
    };

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(good); i++) {
        struct cidr_addr a;
        char text[48];
        char *copy = guard_copy(good[i].text, strlen(good[i].text));

        assert_int_equal(cidr_parse_addr((struct str){copy, strlen(good[i].text)}, &a), OLLA_OK);
        plat_bytes_text(a.b, text, sizeof(text));
        assert_string_equal(text, good[i].shown);
        struct plat_addr p;
        unsigned char bytes[16];
        assert_int_equal(plat_addr_parse(good[i].text, 1, &p), OLLA_OK);
        plat_addr_bytes(&p, bytes);
        assert_memory_equal(bytes, a.b, sizeof(bytes));
    }
}

static void test_no_addresses(void **state)
{
    static const char *const bad[] = {
        "",
        " ",
        "1",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.",
        ".1.2.3",
        "1..2.3",
        "256.1.1.1",
        "01.2.3.4",
        "1.2.3.04",
        "1.2.3.4 ",
        " 1.2.3.4",
        "1.2.3.x",
        "0x1.2.3.4",
        "-1.2.3.4",
        "+1.2.3.4",
        "1.2.3.999",
        "1.2.3.4444",
        "1,2,3,4",
        ":",
        ":::",
        "1:",
        ":1",
        "1:2",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7:8::",
        "::1:2:3:4:5:6:7:8",
        "1::2::3",
        "1:::2",
        "12345::",
        "g::",
        "::1%eth0",
        "[::1]",
        "::1.2.3",
        "1.2.3.4::",
        "::1.2.3.4:5",
        "::1.2.3.256",
        "1:2:3:4:5:6:7:1.2.3.4",
        "::1/64",
        "localhost",
        "unknown",
        "_hidden",
        "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000",
    };

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(bad); i++) {
        struct cidr_addr a;

        if (cidr_parse_addr(str_of(bad[i]), &a) != OLLA_ERR) {
            fail_msg("\"%s\" was taken for an address", bad[i]);
        }
    }
    assert_int_equal(cidr_parse_addr((struct str){NULL, 0}, &(struct cidr_addr){{0}}), OLLA_ERR);
}

static void test_ranges(void **state)
{
    static const struct {
        const char *range, *address;
        bool in;
    } rows[] = {
        {"10.0.0.0/8", "10.255.0.1", true},
        {"10.0.0.0/8", "11.0.0.0", false},
        {"10.1.2.3/8", "10.9.9.9", true}, /* bits beyond do not count */
        {"192.168.4.0/22", "192.168.7.255", true},
        {"192.168.4.0/22", "192.168.8.0", false},
        {"192.168.4.0/22", "192.168.3.255", false},
        {"192.0.2.7/32", "192.0.2.7", true},
        {"192.0.2.7/32", "192.0.2.6", false},
        {"192.0.2.6/31", "192.0.2.7", true},
        {"128.0.0.0/1", "255.0.0.1", true},
        {"128.0.0.0/1", "127.255.255.255", false},
        {"0.0.0.0/0", "8.8.8.8", true},
        {"0.0.0.0/0", "::1", false},
        {"0.0.0.0/0", "2001:db8::1", false},
        {"::/0", "2001:db8::1", true},
        {"::/0", "::1", true},
        {"::/0", "10.0.0.1", false},
        {"::/0", "::ffff:10.0.0.1", false},
        {"::ffff:0:0/95", "10.0.0.1", false},
        {"10.0.0.0/8", "::ffff:10.0.0.1", true},
        {"::ffff:10.0.0.0/104", "10.2.3.4", true},
        {"::ffff:10.0.0.0/104", "11.2.3.4", false},
        {"::ffff:0:0/96", "8.8.8.8", true},
        {"::1/128", "::1", true},
        {"::1/128", "::2", false},
        {"2001:db8::/32", "2001:db8:ffff::1", true},
        {"2001:db8::/32", "2001:db9::1", false},
        {"2001:db8::/33", "2001:db8:7fff::", true},
        {"2001:db8::/33", "2001:db8:8000::", false},
        {"2001:db8::8/125", "2001:db8::f", true},
        {"2001:db8::8/125", "2001:db8::10", false},
    };

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        struct cidr range;
        struct cidr_addr a;

        assert_int_equal(cidr_parse(str_of(rows[i].range), &range), OLLA_OK);
        assert_int_equal(cidr_parse_addr(str_of(rows[i].address), &a), OLLA_OK);
        if (cidr_has(&range, &a) != rows[i].in) {
            fail_msg("%s in %s: %d", rows[i].address, rows[i].range, !rows[i].in);
        }
        assert_int_equal(cidr_any(&range, 1, &a), rows[i].in);
        assert_false(cidr_any(&range, 0, &a));
    }
}

static void test_no_ranges(void **state)
{
    static const char *const bad[] = {
        "",
        "/",
        "/8",
        "10.0.0.0",
        "::1",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/8 ",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/8/8",
        "10.0.0/8",
        "10/8",
        "::/129",
        "::/1000",
        "::/",
        "x/8",
        "10.0.0.0/x",
        "10.0.0.0 /8",
        "10.0.0.0/255.0.0.0",
        "all",
        "*",
        "[::]/0",
    };

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(bad); i++) {
        struct cidr range;

        if (cidr_parse(str_of(bad[i]), &range) != OLLA_ERR) {
            fail_msg("\"%s\" was taken for a range", bad[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_no_addresses),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_no_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
