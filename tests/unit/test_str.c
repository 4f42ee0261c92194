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
#define BYTES(lit)           \
    {                        \
        lit, sizeof(lit) - 1 \
    }

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
        {BYTES("@"), BYTES("`"), false, false}, /* differ in bit 5 only, but are no letters */
        {BYTES("["), BYTES("{"), false, false},
        {BYTES("\xc4"), BYTES("\xe4"), false, false},      /* letters of Latin-1, not of ASCII */
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
        {{NULL, 0}, ',', 0, {NULL}},           {BYTES(""), ',', 1, {""}},
        {BYTES("   "), ',', 1, {""}},          {BYTES("a"), ',', 1, {"a"}},
        {BYTES("a,b"), ',', 2, {"a", "b"}},    {BYTES(" a ,\tb c\r\n"), ',', 2, {"a", "b c"}},
        {BYTES(","), ',', 2, {"", ""}},        {BYTES("a,"), ',', 2, {"a", ""}},
        {BYTES(",a"), ',', 2, {"", "a"}},      {BYTES("a,,b"), ',', 3, {"a", "", "b"}},
        {BYTES(" , ,"), ',', 3, {"", "", ""}}, {BYTES("a b  c"), ' ', 4, {"a", "b", "", "c"}},
        {BYTES("a;b"), ',', 1, {"a;b"}},       {BYTES("x\0y"), '\0', 2, {"x", "y"}},
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
            assert_int_equal(strlen(to), n < cap ? n : 0);
            assert_memory_equal(to, "abcdef", n < cap ? n : 0);
        }
    }
    assert_true(str_copy(guard_room(1), 1, (struct str){NULL, 0}));
}

/* ---- numbers --------------------------------------------------------------------- */

static void test_u64(void **state)
{
    static const struct {
        struct str in;
        uint64_t max;
        int rc;
        uint64_t want;
    } cases[] = {
        {BYTES("0"), UINT64_MAX, OLLA_OK, 0},
        {BYTES("0"), 0, OLLA_OK, 0},
        {BYTES("1"), 0, OLLA_ERR, 0},
        {BYTES("65535"), 65535, OLLA_OK, 65535},
        {BYTES("65536"), 65535, OLLA_ERR, 0},
        {BYTES("18446744073709551614"), UINT64_MAX, OLLA_OK, UINT64_MAX - 1},
        {BYTES("18446744073709551615"), UINT64_MAX, OLLA_OK, UINT64_MAX},
        {BYTES("18446744073709551615"), UINT64_MAX - 1, OLLA_ERR, 0},
        {BYTES("18446744073709551616"), UINT64_MAX, OLLA_ERR, 0},
        {BYTES("18446744073709551620"), UINT64_MAX, OLLA_ERR, 0},
        {BYTES("99999999999999999999"), UINT64_MAX, OLLA_ERR, 0},
        {BYTES("184467440737095516150"), UINT64_MAX, OLLA_ERR, 0},
        {BYTES("000000000000000000000000000007"), 7, OLLA_OK, 7},
        {BYTES(""), UINT64_MAX, OLLA_ERR, 0},
        {{NULL, 0}, UINT64_MAX, OLLA_ERR, 0},
        {BYTES("+1"), UINT64_MAX, OLLA_ERR, 0},
        {BYTES("-1"), UINT64_MAX, OLLA_ERR, 0},
        {BYTES(" 1"), UINT64_MAX, OLLA_ERR, 0},
        {BYTES("1 "), UINT64_MAX, OLLA_ERR, 0},
        {BYTES("0x1"), UINT64_MAX, OLLA_ERR, 0},
        {BYTES("1\0"), UINT64_MAX, OLLA_ERR, 0},
        {BYTES("\xb2"), UINT64_MAX, OLLA_ERR, 0},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        uint64_t got = 77;
        assert_int_equal(str_to_u64(guarded(cases[i].in), cases[i].max, &got), cases[i].rc);
        assert_true(got == (cases[i].rc == OLLA_OK ? cases[i].want : 77));
    }
}

struct value {
    struct str in;
    int64_t want;
};

static void check_durations(const struct value *v, size_t n)
{
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t got = 77;
        int rc = str_to_duration(guarded(v[i].in), &got);
        if (rc != (v[i].want == BAD ? OLLA_ERR : OLLA_OK) || got != (v[i].want == BAD ? 77 : v[i].want)) {
            print_error("'%.*s': code %d, %lld ms\n", (int)v[i].in.n, v[i].in.p, rc, (long long)got);
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

static void test_duration(void **state)
{
    static const struct value cases[] = {
        /* the vectors of the reference */
        {BYTES("30s"), 30000},
        {BYTES("1h30m"), 5400000},
        {BYTES("1.5h"), 5400000},
        {BYTES(".5s"), 500},
        {BYTES("1s500ms"), 1500},
        {BYTES("-5s"), -5000},
        {BYTES("0"), 0},
        {BYTES(""), BAD},
        {BYTES("30"), BAD},
        {BYTES("5 m"), BAD},
        {BYTES("5M"), BAD},
        {BYTES("1d"), BAD},
        {BYTES("s"), BAD},
        /* signs */
        {BYTES("+5s"), 5000},
        {BYTES("+0"), 0},
        {BYTES("-0"), 0},
        {BYTES("-1h30m"), -5400000},
        {BYTES("-.5s"), -500},
        {BYTES("+"), BAD},
        {BYTES("-"), BAD},
        {BYTES("--5s"), BAD},
        {BYTES("1h-30m"), BAD},
        {BYTES("5s-"), BAD},
        /* units */
        {BYTES("1h"), 3600000},
        {BYTES("1m"), 60000},
        {BYTES("1ms"), 1},
        {BYTES("250ms"), 250},
        {BYTES("1h1h"), 7200000},
        {BYTES("1m1h"), 3660000},
        {BYTES("1h1m1s1ms"), 3661001},
        {BYTES("0s"), 0},
        {BYTES("0h0ms"), 0},
        {BYTES("00s"), 0},
        {BYTES("1S"), BAD},
        {BYTES("1Ms"), BAD},
        {BYTES("1w"), BAD},
        {BYTES("ms"), BAD},
        {BYTES("1s1"), BAD},
        {BYTES("00"), BAD},
        {BYTES("1s "), BAD},
        {BYTES(" 1s"), BAD},
        {BYTES("1s\0"), BAD},
        {BYTES("1,5s"), BAD},
        {BYTES("1e3s"), BAD},
        {BYTES("0x1s"), BAD},
        {BYTES("1\xc2s"), BAD},
        {BYTES("1\xc2\xb5"), BAD},
        {BYTES("1n"), BAD},
        {BYTES("1u"), BAD},
        /* below a millisecond: rounded up, once at the end */
        {BYTES("1ns"), 1},
        {BYTES("1us"), 1},
        {BYTES("1\xc2\xb5s"), 1},
        {BYTES("1\xce\xbcs"), 1},
        {BYTES("999999ns"), 1},
        {BYTES("1000000ns"), 1},
        {BYTES("1000001ns"), 2},
        {BYTES("1000us"), 1},
        {BYTES("1001us"), 2},
        {BYTES("500us500us"), 1},
        {BYTES("1ms1ns"), 2},
        {BYTES("0ns"), 0},
        /* fractions */
        {BYTES("1.5ms"), 2},
        {BYTES("0.1ms"), 1},
        {BYTES("2.000ms"), 2},
        {BYTES("1.5m"), 90000},
        {BYTES("0.001s"), 1},
        {BYTES("1.0001s"), 1001},
        {BYTES("1.000001s"), 1001},
        {BYTES("0.25h"), 900000},
        {BYTES("1.s"), 1000},
        {BYTES("0.0000000000s"), 0},
        {BYTES("1.50000000000000000000000000000000s"), 1500},
        {BYTES("1.5us"), 1},
        {BYTES("."), BAD},
        {BYTES(".s"), BAD},
        {BYTES("-.s"), BAD},
        {BYTES("1.2.3s"), BAD},
        {BYTES("1..s"), BAD},
        /* range: about 292 years in the reference */
        {BYTES("2400000h"), INT64_C(8640000000000)},
        {BYTES("-2400000h"), INT64_C(-8640000000000)},
        {BYTES("2562048h"), BAD},
        {BYTES("2400000h2400000h"), BAD},
        {BYTES("3000000h"), BAD},
        {BYTES("99999999999999999999h"), BAD},
        {BYTES("18446744073709551616s"), BAD},
        {BYTES("18446744073709551617ns"), BAD},
    };
    (void)state;
    check_durations(cases, OLLA_COUNT(cases));
}

/* A small positive value must never become 0, and rounding goes up, however the value is written. */
static void test_duration_small_fractions(void **state)
{
    static const struct value cases[] = {
        {BYTES("0.0000001h"), 1},    /* 360 us */
        {BYTES("0.0000009m"), 1},    /* 54 us */
        {BYTES("0.0000019h"), 7},    /* 6.84 ms */
        {BYTES("0.000000001s"), 1},  /* 1 ns */
        {BYTES("1.0000001s"), 1001}, /* 1 s and 100 ns */
    };
    (void)state;
    check_durations(cases, OLLA_COUNT(cases));
}

/* Long numbers of a small unit are inside the range as well. */
static void test_duration_many_digits(void **state)
{
    static const struct value cases[] = {
        {BYTES("9999999999999ns"), 10000000},
        {BYTES("99999999999999ns"), 100000000},
        {BYTES("604800000000000ns"), 604800000}, /* a week */
    };
    (void)state;
    check_durations(cases, OLLA_COUNT(cases));
}

static void check_sizes(const struct value *v, size_t n)
{
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t got = 77;
        int rc = str_to_size(guarded(v[i].in), &got);
        if (rc != (v[i].want == BAD ? OLLA_ERR : OLLA_OK) || got != (v[i].want == BAD ? 77 : (uint64_t)v[i].want)) {
            print_error("'%.*s': code %d, %llu bytes, wanted %lld\n", (int)v[i].in.n, v[i].in.p, rc,
                        (unsigned long long)got, (long long)v[i].want);
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

static void test_size(void **state)
{
    static const struct value cases[] = {
        /* the vectors of the reference */
        {BYTES("100"), 100},
        {BYTES("1024B"), 1024},
        {BYTES("1k"), 1024},
        {BYTES("1KB"), 1024},
        {BYTES("1KiB"), 1024},
        {BYTES("100mb"), 104857600},
        {BYTES("2.5GB"), INT64_C(2684354560)},
        {BYTES("0.5KB"), 512},
        {BYTES("100 MB"), 104857600},
        {BYTES(""), BAD},
        {BYTES("invalid"), BAD},
        {BYTES("100XB"), BAD},
        {BYTES("-100MB"), BAD},
        {BYTES("MB100"), BAD},
        {BYTES("10BB"), BAD},
        /* units */
        {BYTES("0"), 0},
        {BYTES("0kb"), 0},
        {BYTES("1m"), 1 << 20},
        {BYTES("1G"), 1 << 30},
        {BYTES("1tIb"), INT64_C(1) << 40},
        {BYTES("1p"), INT64_C(1) << 50},
        {BYTES("7 b"), 7},
        {BYTES("7B"), 7},
        {BYTES(" \t1k \n"), 1024},
        {BYTES("0007"), 7},
        {BYTES("1ki"), BAD},
        {BYTES("1ib"), BAD},
        {BYTES("1i"), BAD},
        {BYTES("b"), BAD},
        {BYTES("1kk"), BAD},
        {BYTES("1bk"), BAD},
        {BYTES("1k b"), BAD},
        {BYTES("1  kb"), BAD},
        {BYTES("1\tkb"), BAD},
        {BYTES("1kbx"), BAD},
        {BYTES("1k\0"), BAD},
        {BYTES("1e"), BAD},
        {BYTES("1x"), BAD},
        {BYTES("0x10"), BAD},
        {BYTES("1,5k"), BAD},
        {BYTES(" "), BAD},
        /* fractions are cut */
        {BYTES("0.5"), 0},
        {BYTES("1.9"), 1},
        {BYTES("1.9b"), 1},
        {BYTES("1."), 1},
        {BYTES(".5k"), 512},
        {BYTES("1.0005k"), 1024},
        {BYTES("2.5 MiB"), 2621440},
        {BYTES("0.1MB"), 104857},
        {BYTES("1.5t"), INT64_C(1649267441664)},
        {BYTES("."), BAD},
        {BYTES(".k"), BAD},
        {BYTES("1.2.3k"), BAD},
        /* range */
        {BYTES("8191p"), INT64_C(8191) << 50},
        {BYTES("8192p"), BAD},
        {BYTES("18446744073709551616"), BAD},
        {BYTES("99999999999999999999999"), BAD},
        {BYTES("18446744073709551617k"), BAD},
    };
    (void)state;
    check_sizes(cases, OLLA_COUNT(cases));
}

/* The result is the exact product without what is behind the point. */
static void test_size_large_fractions(void **state)
{
    static const struct value cases[] = {
        {BYTES("0.1GB"), 107374182},
        {BYTES("0.3GB"), 322122547},
        {BYTES("1.1TB"), INT64_C(1209462790553)},
        {BYTES("0.0000001GB"), 107},
    };
    (void)state;
    check_sizes(cases, OLLA_COUNT(cases));
}

/* Ten TiB written out as bytes. */
static void test_size_many_digits(void **state)
{
    static const struct value cases[] = {
        {BYTES("9999999999999"), INT64_C(9999999999999)},
        {BYTES("10995116277760"), INT64_C(10995116277760)},
    };
    (void)state;
    check_sizes(cases, OLLA_COUNT(cases));
}

static void test_bool(void **state)
{
    static const struct value cases[] = {
        {BYTES("true"), 1},     {BYTES("TRUE"), 1},    {BYTES("True"), 1},  {BYTES("t"), 1},     {BYTES("T"), 1},
        {BYTES("yes"), 1},      {BYTES("y"), 1},       {BYTES("Y"), 1},     {BYTES("on"), 1},    {BYTES("oN"), 1},
        {BYTES("1"), 1},        {BYTES("false"), 0},   {BYTES("FALSE"), 0}, {BYTES("f"), 0},     {BYTES("F"), 0},
        {BYTES("no"), 0},       {BYTES("No"), 0},      {BYTES("n"), 0},     {BYTES("off"), 0},   {BYTES("OFF"), 0},
        {BYTES("0"), 0},        {BYTES(""), BAD},      {BYTES("2"), BAD},   {BYTES("tru"), BAD}, {BYTES("truee"), BAD},
        {BYTES(" true"), BAD},  {BYTES("true "), BAD}, {BYTES("-1"), BAD},  {BYTES("00"), BAD},  {BYTES("o"), BAD},
        {BYTES("true\0"), BAD}, {{NULL, 0}, BAD},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        for (int before = 0; before < 2; before++) {
            bool got = before;
            assert_int_equal(str_to_bool(guarded(cases[i].in), &got), cases[i].want == BAD ? OLLA_ERR : OLLA_OK);
            assert_int_equal(got, cases[i].want == BAD ? before : cases[i].want);
        }
    }
}

/* ---- text builder ---------------------------------------------------------------- */

/* One addition of every kind, and what each adds. INT64_MIN counts as two, because it may be cut between them. */
static const char *const pieces[] = {
    "abc",  "",  "z-text",           "!",  "0", "18446744073709551615", "-", "9223372036854775808", "42", "00ff",
    "0007", "0", "deadbeefdeadbeef", "end"};

static void add_piece(struct text *t, size_t i)
{
    switch (i) {
    case 0:
        text_add(t, STR("abc"));
        break;
    case 1:
        text_add(t, (struct str){NULL, 0});
        break;
    case 2:
        text_addz(t, "z-text");
        break;
    case 3:
        text_char(t, '!');
        break;
    case 4:
        text_u64(t, 0);
        break;
    case 5:
        text_u64(t, UINT64_MAX);
        break;
    case 6:
        text_i64(t, INT64_MIN);
        break; /* both parts */
    case 7:
        break;
    case 8:
        text_i64(t, 42);
        break;
    case 9:
        text_hex(t, 255, 4);
        break;
    case 10:
        text_padded(t, 7, 4);
        break;
    case 11:
        text_hex(t, 0, 1);
        break;
    case 12:
        text_hex(t, UINT64_C(0xdeadbeefdeadbeef), 1);
        break;
    default:
        text_addz(t, "end");
        break;
    }
}

static void test_overflow_at_every_size(void **state)
{
    static char want[256];
    (void)state;

    for (size_t cap = 0; cap <= 100; cap++) {
        char *mem = guard_room(cap + 8) + 8; /* the 8 bytes before must stay as well */
        struct text t = text_in(mem, cap);
        size_t n = 0;
        bool full = false;

        memset(mem - 8, '#', cap + 8);
        for (size_t i = 0; i < OLLA_COUNT(pieces); i++) {
            add_piece(&t, i);
            size_t len = strlen(pieces[i]);
            full = full || len > cap - n;
            if (!full) {
                memcpy(want + n, pieces[i], len);
                n += len;
            }
            if (i == 6) {
                continue; /* its second part is the next row */
            }
            assert_int_equal(t.full, full);
            assert_int_equal(t.n, n);
            assert_memory_equal(mem, want, n);
        }
        assert_int_equal(text_str(&t).n, n);
        assert_ptr_equal(text_str(&t).p, mem);
        for (size_t i = n; i < cap; i++) {
            assert_int_equal(mem[i], '#');
        }
        if (cap > 0) {
            size_t shown = n < cap ? n : cap - 1;
            assert_ptr_equal(text_z(&t), mem);
            assert_int_equal(mem[shown], '\0');
            assert_memory_equal(mem, want, shown);
            assert_int_equal(t.n, n);
        }
        assert_memory_equal(mem - 8, "########", 8);
    }
}

/* Once full, not even something that would fit is added. */
static void test_full_stays(void **state)
{
    char mem[4];
    struct text t = text_in(mem, sizeof(mem));
    (void)state;

    text_addz(&t, "abcde");
    assert_true(t.full);
    text_char(&t, 'x');
    text_addz(&t, "");
    assert_int_equal(t.n, 0);
    assert_true(t.full);
    assert_string_equal(text_z(&t), "");

    t = text_in(mem, sizeof(mem));
    text_addz(&t, "abcd");
    assert_false(t.full);
    text_add(&t, STR(""));
    assert_false(t.full);
    assert_string_equal(text_z(&t), "abc"); /* the NUL takes the last byte */
}

static void check_number(const char *want, void (*add)(struct text *, uint64_t, unsigned), uint64_t v, unsigned digits)
{
    char mem[64];
    struct text t = text_in(mem, sizeof(mem));
    add(&t, v, digits);
    assert_string_equal(text_z(&t), want);
}

static void add_i64(struct text *t, uint64_t v, unsigned digits)
{
    (void)digits;
    text_i64(t, (int64_t)v);
}

static void test_numbers(void **state)
{
    (void)state;
    check_number("0", text_padded, 0, 0);
    check_number("0", text_padded, 0, 1);
    check_number("00000", text_padded, 0, 5);
    check_number("12345", text_padded, 12345, 3);
    check_number("0012345", text_padded, 12345, 7);
    check_number("18446744073709551615", text_padded, UINT64_MAX, 1);
    check_number("000018446744073709551615", text_padded, UINT64_MAX, 24);
    check_number("0", text_hex, 0, 0);
    check_number("00", text_hex, 0, 2);
    check_number("abcdef", text_hex, 0xabcdef, 2);
    check_number("ffffffffffffffff", text_hex, UINT64_MAX, 1);
    check_number("000000000000000a", text_hex, 10, 16);
    check_number("-9223372036854775808", add_i64, (uint64_t)INT64_MIN, 0);
    check_number("9223372036854775807", add_i64, INT64_MAX, 0);
    check_number("-1", add_i64, UINT64_MAX, 0);
    check_number("0", add_i64, 0, 0);
}

/* RFC 4648, 10 */
static void test_base64(void **state)
{
    static const char *const rows[][2] = {{"", ""},
                                          {"f", "Zg=="},
                                          {"fo", "Zm8="},
                                          {"foo", "Zm9v"},
                                          {"foob", "Zm9vYg=="},
                                          {"fooba", "Zm9vYmE="},
                                          {"foobar", "Zm9vYmFy"},
                                          {"\xff\xfe\xfb\xef", "//777w=="},
                                          {"alice:s3cret", "YWxpY2U6czNjcmV0"}};
    char mem[32];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        struct text t = text_in(mem, sizeof(mem));
        text_base64(&t, str_of(rows[i][0]));
        assert_string_equal(text_z(&t), rows[i][1]);
    }
    struct text t = text_in(mem, 7);
    text_base64(&t, STR("foobar"));
    assert_true(t.full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of),
        cmocka_unit_test(test_lower),
        cmocka_unit_test(test_compare),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_skip_find_trim),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_list_has),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_u64),
        cmocka_unit_test(test_duration),
        cmocka_unit_test(test_duration_small_fractions),
        cmocka_unit_test(test_duration_many_digits),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_size_large_fractions),
        cmocka_unit_test(test_size_many_digits),
        cmocka_unit_test(test_bool),
        cmocka_unit_test(test_overflow_at_every_size),
        cmocka_unit_test(test_full_stays),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_base64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
