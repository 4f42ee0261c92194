/*
 * test_str.c - slices, checked numbers and the text builder of str.c.
 *
 * Duration and size vectors are those of the reference's rules; durations come out
 * in milliseconds, rounded up. All input and all built text lies flush against a guard page.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/str.h"
#include "guard.h"

#define BAD INT64_MIN /* in tables: must be refused */
#define BYTES(lit) {lit, sizeof(lit) - 1}

/* The same bytes with nothing readable behind them. */
static struct str guarded(struct str s)
{
    return (struct str){guard_copy(s.p, s.n), s.n};
}

static void assert_str(struct str s, const char *z)
{
    if (!str_eq(s, str_of(z))) {
        print_error("got '%.*s', wanted '%s'\n", (int)s.n, s.p ? s.p : "", z);
        fail();
    }
}

/* ---- slices ---------------------------------------------------------------------- */

static void test_of(void **state)
{
    (void)state;
    assert_null(str_of(NULL).p);
    assert_int_equal(str_of(NULL).n, 0);
    assert_int_equal(str_of("").n, 0);
    assert_int_equal(str_of("abc").n, 3);
    assert_int_equal(STR("").n, 0);
    assert_int_equal(STR("a\0b").n, 3);
}

static void test_lower(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        int want = c >= 'A' && c <= 'Z' ? c + 32 : c;
        assert_int_equal((unsigned char)str_lower((char)c), want);
    }
}

static void test_compare(void **state)
{
    static const struct {
        struct str a, b;
        bool eq, ieq;
    } cases[] = {
        {BYTES(""), BYTES(""), true, true},
        {{NULL, 0}, BYTES(""), true, true},
        {{NULL, 0}, {NULL, 0}, true, true},
        {BYTES("a"), BYTES(""), false, false},
        {BYTES("abc"), BYTES("abc"), true, true},
        {BYTES("abc"), BYTES("abd"), false, false},
        {BYTES("abc"), BYTES("ab"), false, false},
        {BYTES("aBc"), BYTES("AbC"), false, true},
        {BYTES("a\0b"), BYTES("a\0b"), true, true},
        {BYTES("a\0b"), BYTES("a\0c"), false, false},
        {BYTES("@"), BYTES("`"), false, false},  /* differ in bit 5 only, but are no letters */
        {BYTES("["), BYTES("{"), false, false},
        {BYTES("\xc4"), BYTES("\xe4"), false, false}, /* letters of Latin-1, not of ASCII */
        {BYTES("K"), BYTES("\xe2\x84\xaa"), false, false}, /* the Kelvin sign */
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        assert_int_equal(str_eq(cases[i].a, cases[i].b), cases[i].eq);
        assert_int_equal(str_eq(cases[i].b, cases[i].a), cases[i].eq);
        assert_int_equal(str_ieq(cases[i].a, cases[i].b), cases[i].ieq);
        assert_int_equal(str_ieq(cases[i].b, cases[i].a), cases[i].ieq);
    }
}

static void test_ends(void **state)
{
    struct str s = guarded(STR("Content-Type"));
    (void)state;

    assert_true(str_starts(s, STR("")));
    assert_true(str_starts(s, (struct str){NULL, 0}));
    assert_true(str_starts(s, STR("Content")));
    assert_true(str_starts(s, STR("Content-Type")));
    assert_false(str_starts(s, STR("Content-Type ")));
    assert_false(str_starts(s, STR("content")));
    assert_true(str_istarts(s, STR("cONTENT-")));
    assert_false(str_istarts(s, STR("content_")));
    assert_false(str_istarts(STR("con"), s));
    assert_true(str_ends(s, STR("")));
    assert_true(str_ends(s, STR("Type")));
    assert_true(str_ends(s, STR("Content-Type")));
    assert_false(str_ends(s, STR("type")));
    assert_false(str_ends(s, STR("XContent-Type")));
    assert_true(str_starts((struct str){NULL, 0}, STR("")));
    assert_true(str_ends((struct str){NULL, 0}, STR("")));
    assert_false(str_ends((struct str){NULL, 0}, STR("x")));
}

static void test_skip_find_trim(void **state)
{
    struct str s = guarded(STR("abc"));
    (void)state;

    assert_str(str_skip(s, 0), "abc");
    assert_str(str_skip(s, 1), "bc");
    assert_str(str_skip(s, 3), "");
    assert_str(str_skip(s, 4), "");
    assert_ptr_equal(str_skip(s, SIZE_MAX).p, s.p + 3);
    assert_null(str_skip((struct str){NULL, 0}, 5).p);

    assert_int_equal(str_find(s, 'a'), 0);
    assert_int_equal(str_find(s, 'c'), 2);
    assert_int_equal(str_find(s, 'd'), 3);
    assert_int_equal(str_find(s, '\0'), 3);
    assert_int_equal(str_find(STR("a\0b"), '\0'), 1);
    assert_int_equal(str_find((struct str){NULL, 0}, 'a'), 0);

    assert_str(str_trim(guarded(STR(" \t\r\n a b \n\r\t "))), "a b");
    assert_str(str_trim(guarded(STR("   "))), "");
    assert_str(str_trim(guarded(STR("x"))), "x");
    assert_str(str_trim(guarded(STR("\v\fx\f"))), "\v\fx\f"); /* no blanks in HTTP */
    assert_int_equal(str_trim(STR(" \0 ")).n, 1);
    assert_int_equal(str_trim((struct str){NULL, 0}).n, 0);
}

static void test_split(void **state)
{
    static const struct {
        struct str in;
        char sep;
        int n;
        const char *items[5];
    } cases[] = {
        {{NULL, 0}, ',', 0, {NULL}},
        {BYTES(""), ',', 1, {""}},
        {BYTES("   "), ',', 1, {""}},
        {BYTES("a"), ',', 1, {"a"}},
        {BYTES("a,b"), ',', 2, {"a", "b"}},
        {BYTES(" a ,\tb c\r\n"), ',', 2, {"a", "b c"}},
        {BYTES(","), ',', 2, {"", ""}},
        {BYTES("a,"), ',', 2, {"a", ""}},
        {BYTES(",a"), ',', 2, {"", "a"}},
        {BYTES("a,,b"), ',', 3, {"a", "", "b"}},
        {BYTES(" , ,"), ',', 3, {"", "", ""}},
        {BYTES("a b  c"), ' ', 4, {"a", "b", "", "c"}},
        {BYTES("a;b"), ',', 1, {"a;b"}},
        {BYTES("x\0y"), '\0', 2, {"x", "y"}},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        int n = 0;
        struct str rest = cases[i].in.p ? guarded(cases[i].in) : cases[i].in;
        while (rest.p) {
            struct str item = str_split(&rest, cases[i].sep);
            assert_true(n < cases[i].n);
            assert_str(item, cases[i].items[n++]);
        }
        assert_int_equal(n, cases[i].n);
        assert_int_equal(rest.n, 0);
        assert_int_equal(str_split(&rest, cases[i].sep).n, 0); /* past the end: empty, and again the end */
        assert_null(rest.p);
    }
}

static void test_list_has(void **state)
{
    struct str list = guarded(STR("close, Keep-Alive ,\tupgrade,,x y"));
    (void)state;

    assert_true(str_list_has(list, STR("close")));
    assert_true(str_list_has(list, STR("keep-alive")));
    assert_true(str_list_has(list, STR("UPGRADE")));
    assert_true(str_list_has(list, STR("x y")));
    assert_false(str_list_has(list, STR("keep")));
    assert_false(str_list_has(list, STR("closed")));
    assert_false(str_list_has(list, STR("y")));
    assert_false(str_list_has((struct str){NULL, 0}, STR("close")));
    assert_false(str_list_has(STR(""), STR("close")));
}

static void test_hash(void **state)
{
    (void)state;
    assert_true(str_hash(STR("")) == 0x811c9dc5u);
    assert_true(str_hash((struct str){NULL, 0}) == 0x811c9dc5u);
    assert_true(str_hash(STR("a")) == 0xe40c292cu);
    assert_true(str_hash(STR("foobar")) == 0xbf9cf968u);
    assert_true(str_hash(STR("\xff")) == (0x811c9dc5u ^ 0xffu) * 16777619u); /* bytes are unsigned */
    assert_true(str_ihash(STR("FooBAR")) == 0xbf9cf968u);
    assert_true(str_ihash(STR("foobar")) == str_hash(STR("foobar")));
    assert_true(str_hash(STR("Foobar")) != str_hash(STR("foobar")));
}

static void test_copy(void **state)
{
    (void)state;
    for (size_t n = 0; n <= 6; n++) {
        for (size_t cap = 1; cap <= 8; cap++) {
            char *to = guard_room(cap);
            struct str s = {"abcdef", n};
            memset(to, '#', cap);
            assert_int_equal(str_copy(to, cap, s), n < cap);
            assert_str(str_of(to), n < cap ? &"abcdef\0\0"[6 - 6] + 0 == NULL ? "" : (n == 6 ? "abcdef" : NULL) : "");
        }
    }
}
