/*
 * test_json_check.c - what is JSON and what is not, and where wanted members stand.
 *
 * Every document is fed whole, byte by byte and cut in two at every place, each piece lying flush against a page that
 * must not be touched. All ways have to give the same result.
 */
#include "../../src/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

enum { A = 0, B, LONG, KEYS };
/* The longest key that can be wanted. */
#define KEY_30 "012345678901234567890123456789"
static const char *const keys[KEYS + 1] = {"a", "b", KEY_30, NULL};

struct facts {
    struct json_check c;
    struct json_value v[KEYS];
};

static void begin(struct facts *f)
{
    memset(f, 0x55, sizeof *f);
    json_check_start(&f->c, keys, f->v);
}

static void feed(struct facts *f, const char *p, size_t n)
{
    json_check_feed(&f->c, guard_copy(p, n), n);
}

static void same(const struct facts *a, const struct facts *b)
{
    assert_int_equal(a->c.bad, b->c.bad);
    assert_true(a->c.bad || a->c.done == b->c.done);
    for (size_t i = 0; i < KEYS && !a->c.bad; i++) {
        assert_int_equal(a->v[i].kind, b->v[i].kind);
        assert_int_equal(a->v[i].from, b->v[i].from);
        assert_int_equal(a->v[i].to, b->v[i].to);
    }
}

static const struct facts *check_all_ways(const char *doc, size_t n)
{
    static struct facts whole, f;

    begin(&whole);
    feed(&whole, doc, n);
    begin(&f);
    for (size_t i = 0; i < n; i++) {
        feed(&f, doc + i, 1);
    }
    same(&whole, &f);
    for (size_t cut = 0; cut <= n; cut++) {
        begin(&f);
        feed(&f, doc, cut);
        feed(&f, doc + cut, n - cut);
        same(&whole, &f);
    }
    return &whole;
}

/* 'g' it is JSON, 'b' it is not, 'm' it may become so. */
static char verdict(const char *doc, size_t n)
{
    const struct facts *f = check_all_ways(doc, n);
    return f->c.bad ? 'b' : f->c.done ? 'g' : 'm';
}

static void expect(const char *doc, char what)
{
    char got = verdict(doc, strlen(doc));
    if (got != what) {
        fail_msg("%s: %c, not %c", doc, got, what);
    }
}

/* Values: each stands as a member and as an element. */
static void check_value(const char *value, char what)
{
    char doc[160];
    struct text t = text_in(doc, sizeof doc);
    text_addz(&t, "{\"x\":");
    text_addz(&t, value);
    text_addz(&t, "}");
    expect(text_z(&t), what);
    t = text_in(doc, sizeof doc);
    text_addz(&t, "{\"x\":[");
    text_addz(&t, value);
    text_addz(&t, " ,0]}");
    expect(text_z(&t), what);
    assert_false(t.full);
}

static void test_values(void **state)
{
    static const char *const good[] = {"0", "-0", "1", "-1", "10", "1234567890", "0.0", "-0.5", "1.25", "0e0", "0E0",
                                       "1e5", "1e+5", "1e-5", "1E+05", "1.5e10", "-1.5E-10",
                                       "123456789012345678901234567890.123456789012345678901234567890e999",
                                       /* words */
                                       "true", "false", "null",
                                       /* strings */
                                       "\"\"", "\"a\"", "\"\\\"\"", "\"\\\\\"", "\"\\/\\b\\f\\n\\r\\t\"", "\"\\u0000\"",
                                       "\"\\uABCD\\uabcd\"", "\"\\ud800\"", "\"\\udc00\\ud83d\\ude00\"", "\"{[,:]}\"",
                                       "\"\x7f\"", "\"\xc3\xa9\xf0\x9f\x98\x80\"", "\"\xff\xfe\"", "\"'\"",
                                       "\"\\u0022\"",
                                       /* brackets */
                                       "[]", "{}", "[ ]", "{ }", "[[]]", "[{}]", "{\"\":{}}", "[1,2,3]", "[1 , 2]",
                                       "{\"a\":1,\"a\":2}", "[\"a\",\"b\"]", "[true,false,null]", "\t\r\n 1",
                                       "1 \t\r\n"};
    static const char *const bad[] = {"", "+1", "-", "01", "-01", "00", "1.", ".5", "1.e5", "-.5", "1e", "1e+", "1e-",
                                      "1.5e", "0x10", "1e5.5", "1_0", "--1", "1-", "1+1", "1e1e1", "0.1.2", "NaN",
                                      "Infinity", "-Infinity", "1a", "0 1", "1 2", "- 1", "1 .5",
                                      /* words */
                                      "True", "tru", "truee", "nul", "nulll", "fals", "falsee", "t", "undefined", "nan",
                                      "true false", "truefalse", "TRUE",
                                      /* strings */
                                      "'a'", "a", "\"\\x41\"", "\"\\a\"", "\"\\0\"", "\"\\v\"", "\"\\'\"", "\"\\u12\"",
                                      "\"\\u123g\"", "\"\\u 123\"", "\"\\U0041\"", "\"\\u-123\"", "\"a\nb\"",
                                      "\"a\tb\"", "\"\x01\"", "\"\x1f\"", "\"a\"b", "\"a\" \"b\"", "\"\\\n\"",
                                      "\"\\ \"", "\"\\\"\\\"\"\"",
                                      /* brackets */
                                      "[1,]", "[,1]", "[,]", "[1,,2]", "[1 2]", "[1:2]", "{\"a\":1,}", "{,}", "{\"a\"}",
                                      "{\"a\":}", "{\"a\",1}", "{\"a\":1 \"b\":2}", "{\"a\" 1}", "{\"a\"::1}", "{a:1}",
                                      "{1:1}", "{null:1}", "{[]:1}", "{\"a\":1:2}", "[1}", "{]", "[}", "{\"a\":1]", "]",
                                      "[]]", "{}}", ":", ",", "1,", "\x0b", "\x0c", "\xc2\xa0", "//x\n1", "/**/1", "#"};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(good); i++) {
        check_value(good[i], 'g');
    }
    for (size_t i = 0; i < OLLA_COUNT(bad); i++) {
        check_value(bad[i], 'b');
    }
    expect("{\"x\":]}", 'b');
    expect("{\"x\":1,}", 'b');
    expect("{\"x\":[]]}", 'b');
    expect("{\"x\":{}}}", 'b');
    expect("{\"x\":[1 2]}", 'b');
    expect("{\"x\":}", 'b');
}

static void test_documents(void **state)
{
    static const char *const good[] = {"{}",         " {} ",          "\t\r\n{\t\r\n}\t\r\n", "{ \"x\" : 1 }",
                                       "{\"x\":{}}", "{\"x\":1}\n\n", "{\"\":\"\"}",          "{\"\\u0000\":1}"};
    static const char *const bad[] = {"[]",
                                      "1",
                                      "\"x\"",
                                      "null",
                                      "true",
                                      "-",
                                      "x",
                                      "}",
                                      "{}{}",
                                      "{},",
                                      "{}x",
                                      "{} 1",
                                      "{}\x01",
                                      "{}}",
                                      "{}]",
                                      ",{}",
                                      "\xef\xbb\xbf{}",
                                      "{}\xef\xbb\xbf",
                                      "{{}}",
                                      "{[]}",
                                      "{\"x\"}",
                                      "data: {}",
                                      "\x0b{}"};
    static const char *const more[] = {"",         " ",         "{",          "{ ",         "{\"",       "{\"x",
                                       "{\"x\\",   "{\"x\\u00", "{\"x\"",     "{\"x\":",    "{\"x\":t",  "{\"x\":-",
                                       "{\"x\":1", "{\"x\":1.", "{\"x\":1e",  "{\"x\":1e-", "{\"x\":1 ", "{\"x\":1,",
                                       "{\"x\":[", "{\"x\":[1", "{\"x\":[1,", "{\"x\":[]",  "{\"x\":\"", "{\"x\":null"};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(good); i++) {
        expect(good[i], 'g');
    }
    for (size_t i = 0; i < OLLA_COUNT(bad); i++) {
        expect(bad[i], 'b');
    }
    for (size_t i = 0; i < OLLA_COUNT(more); i++) {
        expect(more[i], 'm');
    }
}

/* A NUL is never JSON, wherever it stands. */
static void test_nul(void **state)
{
    static const char doc[] = "{\"a\\u0041\\n\":[1.5e+1,true,\"x\"]} ";
    char changed[sizeof doc];
    (void)state;
    for (size_t i = 0; i <= sizeof doc - 1; i++) {
        memcpy(changed, doc, i);
        changed[i] = '\0';
        memcpy(changed + i + 1, doc + i, sizeof doc - 1 - i);
        assert_int_equal(verdict(changed, sizeof doc), 'b');
        /* ... nor instead of a byte */
        memcpy(changed, doc, sizeof doc);
        changed[i] = '\0';
        assert_int_equal(verdict(changed, i + 1), 'b');
    }
}

/* No control may stand in a string, whichever it is; all other bytes may. */
static void test_bytes_of_strings(void **state)
{
    (void)state;
    for (int b = 0; b < 256; b++) {
        char doc[] = "{\"x\":\"?\"}";
        doc[6] = (char)b;
        assert_int_equal(verdict(doc, sizeof doc - 1), b == '\\' ? 'm' : b < 0x20 || b == '"' ? 'b' : 'g');
        char key[] = "{\"?\":1}";
        key[2] = (char)b;
        assert_int_equal(verdict(key, sizeof key - 1), b == '\\' ? 'm' : b < 0x20 || b == '"' ? 'b' : 'g');
        char escape[] = "{\"x\":\"\\?\"}";
        escape[7] = (char)b;
        assert_int_equal(verdict(escape, sizeof escape - 1), b && strchr("\"\\/bfnrt", b) ? 'g' : 'b');
    }
}

/* So many brackets in the object, all arrays, all objects, or by turns. */
static char nested(size_t depth, const char *kinds)
{
    static char doc[2048];
    size_t n = 0, k = strlen(kinds);
    for (size_t i = 0; i < depth; i++) {
        bool object = kinds[i % k] == '{';
        memcpy(doc + n, object ? "{\"\":" : "[", object ? 4 : 1);
        n += object ? 4 : 1;
    }
    doc[n++] = '0';
    for (size_t i = depth; i-- > 0;) {
        doc[n++] = kinds[i % k] == '{' ? '}' : ']';
    }
    return verdict(doc, n);
}

static void test_depth(void **state)
{
    static const char *const kinds[] = {"{", "{[", "{[[", "{{["};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(kinds); i++) {
        assert_int_equal(nested(1, kinds[i]), 'g');
        assert_int_equal(nested(63, kinds[i]), 'g');
        assert_int_equal(nested(64, kinds[i]), 'g');
        assert_int_equal(nested(65, kinds[i]), 'g');
        assert_int_equal(nested(JSON_DEPTH - 1, kinds[i]), 'g');
        assert_int_equal(nested(JSON_DEPTH, kinds[i]), 'g');
        assert_int_equal(nested(JSON_DEPTH + 1, kinds[i]), 'b');
        assert_int_equal(nested(JSON_DEPTH + 100, kinds[i]), 'b');
    }
}

/* What a bracket was is known at every depth: closing it with the other one is found. */
static void test_closing(void **state)
{
    char doc[JSON_DEPTH * 6];
    (void)state;
    for (size_t wrong = 0; wrong < JSON_DEPTH; wrong += 7) {
        size_t n = 0;
        for (size_t i = 0; i < JSON_DEPTH; i++) {
            memcpy(doc + n, i % 2 ? "[" : "{\"\":", i % 2 ? 1 : 4);
            n += i % 2 ? 1 : 4;
        }
        doc[n++] = '1';
        for (size_t i = JSON_DEPTH; i-- > 0;) {
            doc[n++] = (i % 2 != 0) != (i == wrong) ? ']' : '}';
        }
        assert_int_equal(verdict(doc, n), 'b');
    }
}

/* Once bad, always bad; and it says so at the first byte that is wrong. */
static void test_stays_bad(void **state)
{
    struct facts f;
    (void)state;
    begin(&f);
    feed(&f, "{\"x\":1,", 7);
    assert_false(f.c.bad);
    feed(&f, "}", 1);
    assert_true(f.c.bad);
    feed(&f, "\"y\":1}", 6);
    feed(&f, "{}", 2);
    assert_true(f.c.bad);
    assert_false(f.c.done);
    json_check_start(&f.c, NULL, NULL);
    feed(&f, "{}", 2);
    assert_true(f.c.done && !f.c.bad);
    feed(&f, "x", 1);
    assert_true(f.c.bad);
}

/* ---- members ------------------------------------------------------------------- */

static const struct {
    const char *doc;
    const char *a, *b; /* as they are written; NULL = there is none */
} members[] = {
    {"{}", NULL, NULL},
    {"{\"a\":1,\"b\":2}", "1", "2"},
    {"{\"a\":-1.5e3 ,\"b\":0}", "-1.5e3", "0"},
    {"{\"a\":true,\"b\":false}", "true", "false"},
    {"{\"a\":null,\"c\":1}", "null", NULL},
    {"{ \"a\" : \"x\\\"y\" , \"b\" : \"\" }", "\"x\\\"y\"", "\"\""},
    {"{\"a\":[1,[2],{\"b\":3}],\"b\":{\"a\":[]}}", "[1,[2],{\"b\":3}]", "{\"a\":[]}"},
    {"{\"a\":[ ],\"b\":{ }}", "[ ]", "{ }"},
    /* of a key that comes twice the last one counts, whatever it is */
    {"{\"a\":1,\"a\":22}", "22", NULL},
    {"{\"a\":\"long text\",\"a\":1}", "1", NULL},
    {"{\"a\":1,\"b\":2,\"a\":null}", "null", "2"},
    {"{\"a\":1,\"\\u0061\":2}", "2", NULL},
    {"{\"a\":{\"a\":1},\"a\":{\"b\":2}}", "{\"b\":2}", NULL},
    /* only those of the object itself */
    {"{\"x\":{\"a\":1,\"b\":2}}", NULL, NULL},
    {"{\"x\":[{\"a\":1}],\"b\":[{\"b\":3}]}", NULL, "[{\"b\":3}]"},
    {"{\"a\":{\"a\":1,\"b\":2},\"x\":{\"b\":3}}", "{\"a\":1,\"b\":2}", NULL},
    {"{\"x\":\"a\",\"y\":[\"a\",\"b\"]}", NULL, NULL},
    {"{\"x\":\"a\",\"b\":\"a\"}", NULL, "\"a\""},
    /* keys are what they are when unescaped, and nothing else is */
    {"{\"\\u0061\":1,\"\\u0062\":2}", "1", "2"},
    {"{\"A\":1,\"B\":2}", NULL, NULL},
    {"{\"a \":1,\" b\":2}", NULL, NULL},
    {"{\"a\\n\":1,\"\\tb\":2}", NULL, NULL},
    {"{\"a\\u0000\":1,\"b\\u0020\":2}", NULL, NULL},
    {"{\"aa\":1,\"\":2,\"ab\":3}", NULL, NULL},
    {"{\"\\a\":1}", NULL, NULL},
};

static void check_member(const char *doc, struct json_value v, const char *expected)
{
    if (!expected) {
        assert_int_equal(v.kind, 0);
        return;
    }
    assert_int_equal(v.to - v.from, strlen(expected));
    assert_memory_equal(doc + v.from, expected, strlen(expected));
    assert_int_equal(v.kind, strchr("-0123456789", expected[0]) ? '0' : expected[0]);
}

static void test_members(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(members); i++) {
        const struct facts *f = check_all_ways(members[i].doc, strlen(members[i].doc));
        check_member(members[i].doc, f->v[A], members[i].a);
        check_member(members[i].doc, f->v[B], members[i].b);
    }
}

/* A key as long as can be, and longer ones that begin alike, or would if they were cut. */
static void test_long_keys(void **state)
{
    static const struct {
        const char *key;
        bool equal;
    } rows[] = {{KEY_30, true},
                {KEY_30 "0", false},
                {KEY_30 "01", false},
                {KEY_30 "\\u0030", false},
                {KEY_30 "\\n", false},
                {KEY_30 KEY_30, false},
                {"01234567890123456789012345678\\u0039", false}}; /* too long as it is written */
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        char doc[128];
        struct text t = text_in(doc, sizeof doc);
        text_addz(&t, "{\"");
        text_addz(&t, rows[i].key);
        text_addz(&t, "\":true,\"x\":false}");
        text_z(&t);
        const struct facts *f = check_all_ways(doc, strlen(doc));
        check_member(doc, f->v[LONG], rows[i].equal ? "true" : NULL);
    }
    /* Six bytes for each letter: it is the text that counts, not how much there is of it. */
    static const char *const one[] = {"abcde", NULL};
    struct json_value v;
    struct json_check c;
    json_check_start(&c, one, &v);
    json_check_feed(&c, "{\"\\u0061\\u0062\\u0063\\u0064\\u0065\":1}", 36);
    assert_true(c.done);
    assert_int_equal(v.kind, '0');
    json_check_start(&c, one, &v);
    json_check_feed(&c, "{\"\\u0061\\u0062\\u0063\\u0064\\u0065\\u0066\":1}", 42);
    assert_true(c.done);
    assert_int_equal(v.kind, 0);
}

/* Starting again forgets what was found before. */
static void test_start_again(void **state)
{
    struct facts f;
    (void)state;
    begin(&f);
    feed(&f, "{\"a\":1}", 7);
    assert_int_equal(f.v[A].kind, '0');
    json_check_start(&f.c, keys, f.v);
    feed(&f, "{\"b\":1", 6);
    assert_int_equal(f.v[A].kind, 0);
    assert_int_equal(f.v[B].kind, '0');
    assert_false(f.c.done);
}

/* Positions are those of the whole document, far beyond one feed. */
static void test_far(void **state)
{
    static char blanks[1000];
    struct facts f;
    (void)state;
    memset(blanks, ' ', sizeof blanks);
    begin(&f);
    for (int i = 0; i < 5000; i++) {
        json_check_feed(&f.c, blanks, sizeof blanks);
    }
    feed(&f, "{\"a\":\"", 6);
    memset(blanks, 'x', sizeof blanks);
    for (int i = 0; i < 5000; i++) {
        json_check_feed(&f.c, blanks, sizeof blanks);
    }
    feed(&f, "\"}", 2);
    assert_true(f.c.done && !f.c.bad);
    assert_int_equal(f.v[A].from, 5000005);
    assert_int_equal(f.v[A].to, 10000007);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),           cmocka_unit_test(test_documents), cmocka_unit_test(test_nul),
        cmocka_unit_test(test_bytes_of_strings), cmocka_unit_test(test_depth),     cmocka_unit_test(test_closing),
        cmocka_unit_test(test_stays_bad),        cmocka_unit_test(test_members),   cmocka_unit_test(test_long_keys),
        cmocka_unit_test(test_start_again),      cmocka_unit_test(test_far),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
