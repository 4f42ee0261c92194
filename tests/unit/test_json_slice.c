/*
 * test_json_slice.c - slices and the writer. Every input lies flush against
 * a page that must not be touched.
 */
#include "../../src/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

/* ---- slices ------------------------------------------------------------------- */

static struct json_slice open_z(const char *z)
{
    return json_open((struct str){guard_copy(z, strlen(z)), strlen(z)});
}

static void is_string(const struct json_slice *s, int node, const char *expected)
{
    char to[64];

    assert_int_equal(json_string(s, node, to, sizeof to), expected != NULL);
    assert_string_equal(to, expected ? expected : "");
}

static void test_slice_ollama(void **state)
{
    const struct json_slice s = open_z(
        " {\"name\":\"llama3.2:3b\",\"size\":2019393189,\"details\":{\"parent_model\":\"\",\"families\":[\"llama\","
        "\"clip\"],\"quantization_level\":\"Q4_K_M\"},\"ID\":\"x\",\"id\":\"y\",\"Up\":true,\"no\":false,"
        "\"nil\":null}\n");
    const int details = json_get(&s, json_root(&s), "details");
    const int families = json_get(&s, details, "families");
    uint64_t size = 0;

    (void)state;
    is_string(&s, json_get(&s, 0, "name"), "llama3.2:3b");
    is_string(&s, json_get(&s, 0, "quantization_level"), NULL); /* not at the top */
    is_string(&s, json_get(&s, details, "quantization_level"), "Q4_K_M");
    is_string(&s, json_get(&s, details, "parent_model"), "");
    is_string(&s, json_get(&s, 0, "id"), "y");
    is_string(&s, json_get(&s, 0, "Id"), "x");
    is_string(&s, json_get(&s, 0, "size"), NULL);
    is_string(&s, details, NULL);
    is_string(&s, -1, NULL);
    assert_true(json_u64(&s, json_get(&s, 0, "size"), &size));
    assert_int_equal(size, 2019393189);
    assert_false(json_u64(&s, json_get(&s, 0, "name"), &size));
    assert_int_equal(json_get(&s, families, "llama"), -1);
}

static void test_slice_numbers(void **state)
{
    static const struct {
        const char *text;
        bool good;
        uint64_t value;
    } cases[] = {
        {"0", true, 0},
        {"32768", true, 32768},
        {"18446744073709551615", true, UINT64_MAX},
        {"18446744073709551616", false, 0},
        {"-1", false, 0},
        {"1.0", false, 0},
        {"1e3", false, 0},
        {"\"1\"", false, 0},
        {"null", false, 0},
        {"true", false, 0},
        {"[1]", false, 0},
    };
    char doc[64];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        uint64_t v = 0;
        assert_true(snprintf(doc, sizeof doc, "{\"n\":%s}", cases[i].text) < (int)sizeof doc);
        const struct json_slice s = open_z(doc);
        assert_int_equal(json_u64(&s, json_get(&s, 0, "n"), &v), cases[i].good);
        if (cases[i].good) {
            assert_true(v == cases[i].value);
        }
    }
}

static void test_slice_scaled(void **state)
{
    static const struct {
        const char *text;
        unsigned digits;
        bool good;
        uint64_t value;
    } cases[] = {
        {"1.5", 9, true, 1500000000},
        {"1.5", 1, true, 15},
        {"1.59", 1, true, 15}, /* cut off, not rounded */
        {"1.5", 0, true, 1},
        {"0", 3, true, 0},
        {"0.001", 3, true, 1},
        {"0.0009", 3, true, 0},
        {"7", 0, true, 7},
        {"7", 2, true, 700},
        {"2.", 2, true, 200},
        {"18446744073.709551615", 9, true, UINT64_MAX},
        {"18446744073.709551616", 9, false, 0},
        {"18446744073709551615", 0, true, UINT64_MAX},
        {"18446744073709551615", 1, false, 0},
        {"1844674407370955161.5", 1, true, UINT64_MAX},
        {"100000000000000000000000000000", 0, false, 0},
        {"-1.5", 1, false, 0},
        {"-0", 1, false, 0},
        {"1e3", 0, false, 0},
        {"1e3", 3, false, 0},
        {"1.5e3", 3, false, 0},
        {"\"1.5\"", 1, false, 0},
        {"null", 1, false, 0},
        {"true", 0, false, 0},
        {"[1]", 1, false, 0},
        {"{}", 1, false, 0},
    };
    char doc[64];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        uint64_t v = 0;
        assert_true(snprintf(doc, sizeof doc, "{\"n\":%s}", cases[i].text) < (int)sizeof doc);
        const struct json_slice s = open_z(doc);
        if (json_scaled(&s, json_get(&s, 0, "n"), cases[i].digits, &v) != cases[i].good ||
            (cases[i].good && v != cases[i].value)) {
            fail_msg("%s with %u digits: %llu", cases[i].text, cases[i].digits, (unsigned long long)v);
        }
    }
    const struct json_slice s = open_z("{}");
    assert_false(json_scaled(&s, -1, 1, &(uint64_t){0}));
}

/* The digits that are wanted end before the exponent: it counts all the same. */
static void test_slice_scaled_exponent(void **state)
{
    static const char *const bad[] = {"1.5e3", "1.5E+3", "1.55e-1", "1.5.5"};
    char doc[64];
    uint64_t v = 0;

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(bad); i++) {
        for (unsigned digits = 0; digits < 3; digits++) {
            assert_true(snprintf(doc, sizeof doc, "{\"n\":%s}", bad[i]) < (int)sizeof doc);
            const struct json_slice s = open_z(doc);
            assert_false(json_scaled(&s, json_get(&s, 0, "n"), digits, &v));
        }
    }
}

static void test_slice_true(void **state)
{
    const struct json_slice s = open_z(
        "{\"t\":true,\"f\":false,\"n\":null,\"one\":1,\"s\":\"true\",\"a\":[true],\"o\":{\"t\":true}}");

    (void)state;
    assert_true(json_true(&s, json_get(&s, 0, "t")));
    assert_true(json_true(&s, json_get(&s, json_get(&s, 0, "o"), "t")));
    assert_false(json_true(&s, json_get(&s, 0, "f")));
    assert_false(json_true(&s, json_get(&s, 0, "n")));
    assert_false(json_true(&s, json_get(&s, 0, "one")));
    assert_false(json_true(&s, json_get(&s, 0, "s")));
    assert_false(json_true(&s, json_get(&s, 0, "a")));
    assert_false(json_true(&s, json_get(&s, 0, "missing")));
    assert_false(json_true(&s, json_root(&s)));
}

static void is_item(const struct json_slice *s, int array, unsigned i, const char *expected)
{
    char to[8] = "before";

    assert_int_equal(json_item(s, array, i, to, sizeof to), expected != NULL);
    if (expected) {
        assert_string_equal(to, expected);
    }
}

static void test_slice_items(void **state)
{
    const struct json_slice s = open_z("{\"a\":[\"x\",1,\"y\\u0041\",[\"inner\"],{\"k\":\"v\"},\"\",null,\"1234567\","
                                       "\"12345678\",\"z\"],\"e\":[],\"o\":{\"s\":\"t\"},\"s\":\"text\"}");
    const int a = json_get(&s, 0, "a");

    (void)state;
    is_item(&s, a, 0, "x");
    is_item(&s, a, 1, "yA"); /* only strings count */
    is_item(&s, a, 2, "");
    is_item(&s, a, 3, "1234567");
    is_item(&s, a, 4, NULL); /* too long */
    is_item(&s, a, 5, "z");  /* ... which ends nothing */
    is_item(&s, a, 6, NULL);
    is_item(&s, json_get(&s, 0, "e"), 0, NULL);
    is_item(&s, json_get(&s, 0, "o"), 0, NULL);
    is_item(&s, json_get(&s, 0, "s"), 0, NULL);
    is_item(&s, json_root(&s), 0, NULL);
    is_item(&s, -1, 0, NULL);
}

/* As with json_string, nothing old is left where there is no item. */
static void test_slice_no_item_leaves_nothing(void **state)
{
    const struct json_slice s = open_z("{\"a\":[\"x\"]}");
    char to[8] = "before";

    (void)state;
    assert_false(json_item(&s, json_get(&s, 0, "a"), 1, to, sizeof to));
    assert_string_equal(to, "");
}

/* A short key is not found in a longer one, an escaped one is found by what it says. */
static void test_slice_keys(void **state)
{
    const struct json_slice s = open_z("{\"ab\":\"1\",\"a\":\"2\",\"\\u0061bc\":\"3\",\"A\\u0062\":\"4\"}");

    (void)state;
    is_string(&s, json_get(&s, 0, "a"), "2");
    is_string(&s, json_get(&s, 0, "ab"), "1");
    is_string(&s, json_get(&s, 0, "abc"), "3");
    is_string(&s, json_get(&s, 0, "Ab"), "4");
    is_string(&s, json_get(&s, 0, "ABC"), "3");
    assert_int_equal(json_get(&s, 0, "abcd"), -1);
}

static void test_slice_strings(void **state)
{
    struct json_slice s = open_z("{\"a\\u0062\":\"\\ud83d\\ude00\\n\\u0000\",\"\\u0061c\":\"12345\"}");
    char to[6];

    (void)state;
    is_string(&s, json_get(&s, 0, "ab"), "\xf0\x9f\x98\x80\n\xef\xbf\xbd");
    assert_true(json_string(&s, json_get(&s, 0, "AC"), to, 6));
    assert_string_equal(to, "12345");
    assert_false(json_string(&s, json_get(&s, 0, "ac"), to, 5));
    assert_string_equal(to, "");
    assert_false(json_string(&s, json_get(&s, 0, "ac"), to, 0));
    assert_int_equal(json_get(&s, 0, "a"), -1);
    assert_int_equal(json_get(&s, 0, "abc"), -1);
    assert_int_equal(json_get(&s, 0, ""), -1);
}

/* A key of one object is not found in another, nor in what it holds. */
static void test_slice_nested(void **state)
{
    const struct json_slice s = open_z(
        "{\"l\":[{\"a\":1}],\"o\":{\"b\":{\"a\":2},\"c\":3},\"p\":{\"a\":4},\"c\":\"a\"}");
    const int o = json_get(&s, 0, "o");
    uint64_t v = 0;

    (void)state;
    assert_int_equal(json_get(&s, 0, "a"), -1);
    assert_int_equal(json_get(&s, o, "a"), -1);
    assert_int_equal(json_get(&s, json_get(&s, 0, "l"), "a"), -1);
    assert_true(json_u64(&s, json_get(&s, json_get(&s, o, "b"), "a"), &v));
    assert_int_equal(v, 2);
    assert_true(json_u64(&s, json_get(&s, o, "c"), &v));
    assert_int_equal(v, 3);
}

/* What the tokeniser lets pass must do no harm; what is no object gives nothing. */
static void test_slice_malformed(void **state)
{
    static const char *const refused[] = {
        "",
        " ",
        "[]",
        "\"x\"",
        "1",
        "{",
        "{]",
        "}",
        "{\"a\":1",
        "{\"a\":\"x}",
        "{\"a\":1}x",
        "{\"a\":1} {}",
        "{\"a\":tru",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "{1:2}",
        "{{}}",
        "{\"a\"",
        "{\"a\":\"\\",
        "{\"a\":\"\\u00",
    };
    static const char *const lenient[] = {
        "{\"a\"}",     "{\"a\":}",         "{\"a\":,\"k\":\"v\"}", "{\"a\" \"b\"}",  "{:}", "{,}", "{\"a\":1 \"b\":2}",
        "{\"a\":1:2}", "{\"a\":[1 2,,3]}", "{\"a\":{\"b\":1}:2}",  "{\"k\":\"v\",}",
    };
    char to[8];
    uint64_t v = 0;

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(refused); i++) {
        const struct json_slice s = open_z(refused[i]);
        assert_int_equal(s.tokens, 0);
        assert_int_equal(json_root(&s), -1);
        assert_int_equal(json_get(&s, json_root(&s), "a"), -1);
    }
    for (size_t i = 0; i < OLLA_COUNT(lenient); i++) {
        const struct json_slice s = open_z(lenient[i]);
        for (int node = -2; node < 12; node++) {
            json_string(&s, node, to, sizeof to);
            json_u64(&s, node, &v);
            json_get(&s, node, "a");
            json_get(&s, node, "k");
        }
    }
    const struct json_slice s = open_z("{\"x\",\"y\":,\"k\":\"v\"}");
    is_string(&s, json_get(&s, 0, "k"), "v");
    assert_int_equal(json_get(&s, 0, "x"), -1);
    assert_int_equal(json_get(&s, 0, "y"), -1);
}

static void test_slice_limits(void **state)
{
    static char doc[4096];
    struct text t = text_in(doc, sizeof doc);

    (void)state;
    text_addz(&t, "{\"a\":[");
    for (int i = 0; i < OLLA_MAX_TOKENS - 3; i++) {
        text_addz(&t, i ? ",1" : "1");
    }
    const size_t items_end = t.n;
    text_addz(&t, "]}");
    struct json_slice s = json_open(text_str(&t));
    assert_int_equal(s.tokens, OLLA_MAX_TOKENS);
    assert_int_not_equal(json_get(&s, 0, "A"), -1);
    t.n = items_end;
    text_addz(&t, ",1]}");
    struct json_slice more = json_open(text_str(&t));
    assert_int_equal(more.tokens, 0);
    /* the tokens belong to the slice opened last */
    assert_int_equal(json_root(&s), -1);
    assert_int_equal(json_get(&s, 0, "a"), -1);
}

/* ---- writer ------------------------------------------------------------------- */

static void writes(struct str in, const char *expected)
{
    char to[256];
    struct text t = text_in(to, sizeof to);

    json_text(&t, (struct str){guard_copy(in.p, in.n), in.n});
    assert_string_equal(text_z(&t), expected);
}

static void test_write_text(void **state)
{
    (void)state;
    writes(STR(""), "\"\"");
    writes(STR("plain ~/"), "\"plain ~/\"");
    writes(STR("\x7f\xc2\x80\xc2\x9f\xc2\xa0\xc2"),
           "\"\\u007f\\u0080\\u009f\xc2\xa0\xef\xbf\xbd\""); /* terminals obey */
    writes(STR("\"\\\b\f\n\r\t"), "\"\\\"\\\\\\b\\f\\n\\r\\t\"");
    writes(STR("\x01\x1f\0x"), "\"\\u0001\\u001f\\u0000x\"");
    writes(STR("<a&b>"), "\"\\u003ca\\u0026b\\u003e\"");
    writes(STR("\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80"), "\"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80\"");
    /* lone, overlong, surrogate, beyond the last, cut at the end */
    writes(STR("a\x80z"), "\"a\xef\xbf\xbdz\"");
    writes(STR("\xc0\xaf"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    writes(STR("\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    writes(STR("\xf4\x90\x80\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    writes(STR("\xe2\x82"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    writes(STR("\xf0\x9f\x98x"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdx\"");
    writes(STR("\xc3\"\xff<"), "\"\xef\xbf\xbd\\\"\xef\xbf\xbd\\u003c\"");
}

/* Runs of plain bytes around what is escaped: each piece at each place, and the room ending at each byte. */
static void test_write_runs(void **state)
{
    static const struct {
        const char *in, *out;
    } pieces[] = {
        {"\"", "\\\""},
        {"\\", "\\\\"},
        {"\n", "\\n"},
        {"<", "\\u003c"},
        {">", "\\u003e"},
        {"&", "\\u0026"},
        {"\x1f", "\\u001f"},
        {"\x7f", "\\u007f"},
        {"\xc2\x9b", "\\u009b"},
        {"\xc2\xa0", "\xc2\xa0"},
        {"\xc3\xbc", "\xc3\xbc"},
        {"\xff", "\xef\xbf\xbd"},
        {"\xc3", "\xef\xbf\xbd"},
        {" ", " "},
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
    };
    static const char plain[] = "abcdefgh";
    char in[64], want[64], got[64];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(pieces) * 9 * 9; i++) {
        const size_t k = i / 81, from = i / 9 % 9, to = i % 9; /* at one place, or at two */
        struct text a = text_in(in, sizeof in), b = text_in(want, sizeof want);
        text_char(&b, '"');
        for (size_t at = 0; at <= 8; at++) {
            if (at == from || at == to) {
                text_addz(&a, pieces[k].in);
                text_addz(&b, pieces[k].out);
            }
            if (at < 8) {
                text_char(&a, plain[at]);
                text_char(&b, plain[at]);
            }
        }
        text_char(&b, '"');
        writes(text_str(&a), text_z(&b));
        for (size_t cap = 0; cap < b.n; cap++) { /* one byte less than it takes, and much less */
            struct text t = text_in(got, cap);
            json_text(&t, text_str(&a));
            assert_true(t.full && t.n <= cap);
            assert_memory_equal(got, want, t.n);
        }
        struct text t = text_in(got, b.n);
        json_text(&t, text_str(&a));
        assert_false(t.full);
        assert_int_equal(t.n, b.n);
    }
}

static void test_write_members(void **state)
{
    char to[64];
    struct text t = text_in(to, sizeof to);

    (void)state;
    text_char(&t, '{');
    json_member(&t, "a", STR("x\"y"));
    json_member_u64(&t, "n", UINT64_MAX);
    json_member(&t, "b", STR(""));
    text_char(&t, '}');
    assert_string_equal(text_z(&t), "{\"a\":\"x\\\"y\",\"n\":18446744073709551615,\"b\":\"\"}");
    for (size_t cap = 1; cap < 8; cap++) {
        t = text_in(to, cap);
        json_text(&t, STR("\n<\xff"));
        assert_true(t.full);
        assert_true(t.n <= cap);
    }
}

/* What the writer makes, the slices read back. */
static void test_write_and_read(void **state)
{
    char all[256];
    char doc[1024];
    char back[256];
    struct text t = text_in(doc, sizeof doc);

    (void)state;
    for (int i = 1; i < 128; i++) {
        all[i - 1] = (char)i;
    }
    text_char(&t, '{');
    json_member(&t, "all", (struct str){all, 127});
    text_char(&t, '}');
    const struct json_slice s = json_open(text_str(&t));
    assert_true(json_string(&s, json_get(&s, 0, "all"), back, sizeof back));
    assert_memory_equal(back, all, 127);
    assert_int_equal(back[127], '\0');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slice_ollama),
        cmocka_unit_test(test_slice_numbers),
        cmocka_unit_test(test_slice_strings),
        cmocka_unit_test(test_slice_nested),
        cmocka_unit_test(test_slice_malformed),
        cmocka_unit_test(test_slice_limits),
        cmocka_unit_test(test_write_text),
        cmocka_unit_test(test_write_members),
        cmocka_unit_test(test_write_and_read),
        cmocka_unit_test(test_write_runs),
        cmocka_unit_test(test_slice_scaled),
        cmocka_unit_test(test_slice_scaled_exponent),
        cmocka_unit_test(test_slice_true),
        cmocka_unit_test(test_slice_items),
        cmocka_unit_test(test_slice_no_item_leaves_nothing),
        cmocka_unit_test(test_slice_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
