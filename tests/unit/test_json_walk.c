/*
 * test_json_walk.c - parts of a document that is read through windows.
 *
 * Everything is read with windows of 1, 2, 3 and 7 bytes and in one; each window is gone with the next. Then once more
 * from a source that fails at every place: it must say so, and come to an end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "windows.h"

static const size_t sizes[] = {0, 1, 2, 3, 7};

static struct windows window;

static struct json_source open_source(const char *doc, size_t size)
{
    window = (struct windows){doc, strlen(doc), size, 0, false};
    return windows_source(&window);
}

static struct json_value whole(const char *doc)
{
    return (struct json_value){0, strlen(doc), doc[0] >= '0' && doc[0] <= '9' ? '0' : doc[0]};
}

static void check_text(const char *doc, struct json_value v, const char *expected)
{
    if (!expected) {
        assert_int_equal(v.kind, 0);
        return;
    }
    assert_int_equal(v.to - v.from, strlen(expected));
    assert_memory_equal(doc + v.from, expected, strlen(expected));
    assert_int_equal(v.kind, strchr("-0123456789", expected[0]) ? '0' : expected[0]);
}

/* ---- members -------------------------------------------------------------------- */

static const char *const keys[] = {"a", "b", NULL};

static const struct {
    const char *doc, *a, *b;
} members[] = {
    {"{}", NULL, NULL},
    {"{ }", NULL, NULL},
    {"{\"a\":1,\"b\":-2.5e7}", "1", "-2.5e7"},
    {"{\"b\":true , \"a\" : null }", "null", "true"},
    {"{\n\t\"a\" : \"x\" ,\r\n\"b\":\"\"\n}", "\"x\"", "\"\""},
    {"{\"a\":\"\\\"\",\"b\":\"\\\\\"}", "\"\\\"\"", "\"\\\\\""},
    {"{\"a\":\"\\\\\\\"\\\\\",\"b\":\"\\\\\\\\\"}", "\"\\\\\\\"\\\\\"", "\"\\\\\\\\\""},
    {"{\"x\":\"\\\\\\\\\\\\\\\"\",\"a\":\"}{][,:\",\"b\":false}", "\"}{][,:\"", "false"},
    {"{\"a\":{\"b\":[{\"a\":1}]},\"b\":[[],{}]}", "{\"b\":[{\"a\":1}]}", "[[],{}]"},
    {"{\"a\":{\"}\":\"]\"},\"b\":[\"]\\\"]\"]}", "{\"}\":\"]\"}", "[\"]\\\"]\"]"},
    /* the last one of each counts, and those of others do not */
    {"{\"a\":1,\"a\":2}", "2", NULL},
    {"{\"a\":1,\"a\":{}}", "{}", NULL},
    {"{\"x\":{\"a\":1},\"b\":{\"b\":2}}", NULL, "{\"b\":2}"},
    {"{\"x\":\"a\",\"y\":[\"b\",1]}", NULL, NULL},
    /* keys */
    {"{\"\\u0061\":1,\"\\u0062\":2}", "1", "2"},
    {"{\"a\\n\":1,\"a\\\\\":2,\"\\\"b\":3,\"A\":4,\"\":5}", NULL, NULL},
    {"{\"0123456789012345678901234567890\":1,\"0123456789012345678901234567890\\\"a\":1,\"a\":2}", "2", NULL},
    /* no object */
    {"[\"a\",1]", NULL, NULL},
    {"\"a\"", NULL, NULL},
    {"12", NULL, NULL},
    {"null", NULL, NULL},
};

static void test_collect(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(members); i++) {
        for (size_t k = 0; k < OLLA_COUNT(sizes); k++) {
            struct json_source s = open_source(members[i].doc, sizes[k]);
            struct json_value v[2] = {{9, 9, 'x'}, {9, 9, 'x'}};
            json_collect(&s, whole(members[i].doc), keys, v);
            check_text(members[i].doc, v[0], members[i].a);
            check_text(members[i].doc, v[1], members[i].b);
            assert_false(window.failed);
        }
    }
}

/* The end of an object may be unknown: what counts is the bracket. Nothing behind it is looked at. */
static void test_collect_inner(void **state)
{
    static const char doc[] = "[{\"a\":1},{\"a\":2,\"b\":3}]";
    (void)state;
    for (size_t k = 0; k < OLLA_COUNT(sizes); k++) {
        struct json_source s = open_source(doc, sizes[k]);
        struct json_value v[2];
        json_collect(&s, (struct json_value){1, UINT64_MAX, '{'}, keys, v);
        check_text(doc, v[0], "1");
        check_text(doc, v[1], NULL);
        json_collect(&s, (struct json_value){0, 0, 0}, keys, v);
        check_text(doc, v[0], NULL);
        assert_false(window.failed);
    }
}

/* ---- elements ----------------------------------------------------------------------- */

static const struct {
    const char *doc;
    const char *elements[6];
} arrays[] = {
    {"[]", {NULL}},
    {"[ \n]", {NULL}},
    {"[1]", {"1"}},
    {"[1,-2,3e5]", {"1", "-2", "3e5"}},
    {"[ 1 , \"a,b\" ,true\n,null\t, false ]", {"1", "\"a,b\"", "true", "null", "false"}},
    {"[[],[1],[[2]],{},{\"]\":\"[\"}]", {"[]", "[1]", "[[2]]", "{}", "{\"]\":\"[\"}"}},
    {"[\"\",\"\\\"\",\"\\\\\",\"\\\\\\\"]\"]", {"\"\"", "\"\\\"\"", "\"\\\\\"", "\"\\\\\\\"]\""}},
    {"[0],1", {"0"}},
};

static void test_next(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(arrays); i++) {
        for (size_t k = 0; k < OLLA_COUNT(sizes); k++) {
            struct json_source s = open_source(arrays[i].doc, sizes[k]);
            struct json_value v;
            uint64_t at = json_first(whole(arrays[i].doc));
            size_t n = 0;
            while (json_next(&s, &at, &v)) {
                assert_non_null(arrays[i].elements[n]);
                check_text(arrays[i].doc, v, arrays[i].elements[n++]);
                assert_int_equal(at, v.to);
            }
            assert_null(arrays[i].elements[n]);
            assert_false(json_next(&s, &at, &v)); /* and stays so */
            assert_false(window.failed);
        }
    }
}

/* ---- strings ---------------------------------------------------------------------------- */

#define FFFD "\xef\xbf\xbd"

static const struct {
    const char *doc, *text;
} strings[] = {
    {"\"\"", ""},
    {"\"abc\"", "abc"},
    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
    {"\"a\\u0041\\u00e9\\u20ac\"", "aA\xc3\xa9\xe2\x82\xac"},
    {"\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80"},
    {"\"x\\ud83d\\ude00y\"", "x\xf0\x9f\x98\x80y"},
    {"\"\\uD83D\"", FFFD},
    {"\"\\uDE00\"", FFFD},
    {"\"\\ud83dx\"", FFFD "x"},
    {"\"\\ud83d\\n\"", FFFD "\n"},
    {"\"\\ud83d\\ud83d\\ude00\"", FFFD "\xf0\x9f\x98\x80"},
    {"\"\\ude00\\ud83d\"", FFFD FFFD},
    {"\"\\u0000\"", FFFD},
    {"\"\xc3\xa9\\\\\xe2\x82\xac\"", "\xc3\xa9\\\xe2\x82\xac"},
    {"\"\\\\\\\\\"", "\\\\"},
};

static void test_read(void **state)
{
    char to[64];
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(strings); i++) {
        size_t n = strlen(strings[i].text);
        for (size_t k = 0; k < OLLA_COUNT(sizes); k++) {
            struct json_source s = open_source(strings[i].doc, sizes[k]);
            struct json_value v = whole(strings[i].doc);
            assert_true(json_read(&s, v, to, sizeof to));
            assert_string_equal(to, strings[i].text);
            assert_int_equal(json_read_length(&s, v), n);
            /* just so much room, and one byte less */
            memset(to, '#', sizeof to);
            assert_true(json_read(&s, v, to, n + 1));
            assert_string_equal(to, strings[i].text);
            assert_int_equal(to[n + 1], '#');
            memset(to, '#', sizeof to);
            assert_int_equal(json_read(&s, v, to, n > 0 ? n : 1), n == 0);
            assert_string_equal(to, "");
            assert_int_equal(to[n > 0 ? n : 1], '#');
            assert_false(window.failed);
        }
    }
}

static void test_read_others(void **state)
{
    static const char *const docs[] = {"12", "true", "null", "{\"a\":1}", "[\"a\"]"};
    char to[8];
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(docs); i++) {
        struct json_source s = open_source(docs[i], 0);
        struct json_value inner = json_inner(whole(docs[i]));
        memset(to, '#', sizeof to);
        assert_false(json_read(&s, whole(docs[i]), to, sizeof to));
        assert_string_equal(to, "");
        assert_int_equal(json_read_length(&s, whole(docs[i])), 0);
        assert_true(inner.from == inner.to);
    }
    struct json_source s = open_source("", 0);
    assert_false(json_read(&s, (struct json_value){0, 0, 0}, to, sizeof to));
    assert_int_equal(json_read_length(&s, (struct json_value){0, 0, 0}), 0);
    struct json_value inner = json_inner((struct json_value){5, 9, '"'});
    assert_int_equal(inner.from, 6);
    assert_int_equal(inner.to, 8);
    assert_false(window.failed);
}

static void test_compact_length(void **state)
{
    static const struct {
        const char *doc;
        uint64_t n;
    } rows[] = {
        {"{}", 2},
        {"{\"type\":\"object\"}", 17},
        {" { \"type\" :\n\t\"object\"\r} ", 17},
        {"[1 , 2 , 3]", 7},
        {"{\"a\":\"<>\"}", 20},
        {"{\"a\" : \"< >\" }", 21},
        {"\"a b\\\" c \\\\\"", 12},
        {"[ \" \\\\\" , \" \" ]", 11},
        {"\"&\"", 8},
        {"", 0},
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        for (size_t k = 0; k < OLLA_COUNT(sizes); k++) {
            struct json_source s = open_source(rows[i].doc, sizes[k]);
            assert_int_equal(json_compact_length(&s, whole(rows[i].doc)), rows[i].n);
            assert_false(window.failed);
        }
    }
}

static void test_copy(void **state)
{
    static const char doc[] = "0123456789";
    char to[16];
    (void)state;
    for (size_t k = 0; k < OLLA_COUNT(sizes); k++) {
        struct json_source s = open_source(doc, sizes[k]);
        for (size_t from = 0; from <= 10; from++) {
            for (size_t end = from; end <= 10; end++) {
                for (size_t cap = 0; cap <= 10; cap++) {
                    size_t n = end - from < cap ? end - from : cap;
                    memset(to, '#', sizeof to);
                    assert_int_equal(json_copy(&s, from, end, to, cap), n);
                    assert_memory_equal(to, doc + from, n);
                    assert_int_equal(to[n], '#');
                }
            }
        }
        assert_false(window.failed);
        assert_int_equal(json_copy(&s, 8, 20, to, sizeof to), 2); /* as many as there are */
        assert_true(window.failed);
    }
}

/* ---- a source that fails -------------------------------------------------------------------- */

static const char failing[] =
    "{\"x\":[1,{\"y\":\"\\\"z\\\\\"}],\"a\":[\"one\",{\"b\":[2]},3.5,null],\"b\":\"tw\\u006f \\ud83d\\ude00\"}";

/* Reads all there is, in all ways. */
static void read_all(const struct json_source *s)
{
    struct json_value v[2], top = {0, sizeof failing - 1, '{'}, element;
    char to[32];

    json_collect(s, top, keys, v);
    uint64_t at = json_first(v[0]);
    for (int i = 0; v[0].kind == '[' && json_next(s, &at, &element); i++) {
        assert_true(i < 4);
        (void)json_read(s, element, to, sizeof to);
    }
    (void)json_read(s, v[1], to, sizeof to);
    (void)json_read(s, (struct json_value){5, sizeof failing - 1, '"'}, to, sizeof to);
    (void)json_read_length(s, (struct json_value){5, sizeof failing - 1, '"'});
    (void)json_compact_length(s, top);
    (void)json_copy(s, 3, sizeof failing - 1, to, sizeof to);
}

static void test_failing(void **state)
{
    (void)state;
    for (size_t k = 0; k < OLLA_COUNT(sizes); k++) {
        for (size_t at = 1; at < sizeof failing - 1; at++) {
            struct json_source s = open_source(failing, sizes[k]);
            window.fails_at = at;
            windows_asked = 0;
            read_all(&s);
            assert_true(window.failed);
            assert_true(windows_asked < 20 * sizeof failing);
        }
    }
}

/* A failure is kept: what is read afterwards does not take it back. */
static void test_failed_stays(void **state)
{
    struct json_source s = open_source(failing, 3);
    struct json_value v[2], element;
    uint64_t at = 6;
    (void)state;
    window.failed = true;
    json_collect(&s, (struct json_value){0, sizeof failing - 1, '{'}, keys, v);
    assert_true(window.failed);
    assert_false(json_next(&s, &at, &element)); /* nobody goes on with it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_collect), cmocka_unit_test(test_collect_inner), cmocka_unit_test(test_next),
        cmocka_unit_test(test_read),    cmocka_unit_test(test_read_others),   cmocka_unit_test(test_compact_length),
        cmocka_unit_test(test_copy),    cmocka_unit_test(test_failing),       cmocka_unit_test(test_failed_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
