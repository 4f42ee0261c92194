/*
 * test_json.c - request facts, list elements, slices and the writer.
 *
 * Every document is fed whole, byte by byte and cut in two at every place,
 * each piece lying flush against a page that must not be touched. All ways
 * have to give the same result.
 */
#include "../../src/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

/* ---- input against a guard page ----------------------------------------------- */

#define ROOM  (8u * 1024u * 1024u)
#define GUARD 65536u /* a multiple of every page size in use */

static char room[ROOM + 2 * GUARD];
static char *room_end; /* first byte of the guard */

static int open_room(void **state)
{
    (void)state;
    room_end = room + ROOM + (GUARD - (uintptr_t)(room + ROOM) % GUARD);
    return mprotect(room_end, GUARD, PROT_NONE);
}

/* A leak checker looks at all static memory on the way out. */
static int close_room(void **state)
{
    (void)state;
    return mprotect(room_end, GUARD, PROT_READ | PROT_WRITE);
}

static const char *flush_right(const char *p, size_t n)
{
    assert_true(n <= ROOM);
    if (n == 0) {
        return room_end;
    }
    return memmove(room_end - n, p, n);
}

/* ---- scanner ------------------------------------------------------------------ */

static void feed(struct json_scan *s, const char *p, size_t n)
{
    json_scan_feed(s, flush_right(p, n), n);
}

static void same_facts(const struct json_scan *a, const struct json_scan *b)
{
    assert_string_equal(a->model, b->model);
    assert_int_equal(a->model_too_long, b->model_too_long);
    assert_int_equal(a->model_twice, b->model_twice);
    assert_int_equal(a->complete, b->complete);
    assert_int_equal(a->broken, b->broken);
    assert_int_equal(a->stream, b->stream);
    assert_int_equal(a->model_from, b->model_from);
    assert_int_equal(a->model_to, b->model_to);
    assert_int_equal(a->at, b->at);
}

/* Scans in all ways; the facts are in *whole. */
static void scan_all_ways(const char *doc, size_t n, struct json_scan *whole)
{
    static struct json_scan s;

    memset(whole, 0, sizeof *whole);
    feed(whole, doc, n);
    memset(&s, 0, sizeof s);
    for (size_t i = 0; i < n; i++) {
        feed(&s, doc + i, 1);
    }
    same_facts(whole, &s);
    for (size_t cut = 0; cut <= n; cut++) {
        memset(&s, 0, sizeof s);
        feed(&s, doc, cut);
        feed(&s, doc + cut, n - cut);
        same_facts(whole, &s);
    }
}

struct scan_case {
    const char *doc;
    const char *model;
    const char *flags; /* C complete, B broken, L too long, 2 twice, T/F stream */
};

#define NAME_127                                                       \
    "0123456789012345678901234567890123456789012345678901234567890123" \
    "012345678901234567890123456789012345678901234567890123456789012"
#define BOM "\xef\xbb\xbf"

static const struct scan_case scan_cases[] = {
    /* place and kind of the model */
    {"{\"model\":\"a:1b\",\"messages\":[]}", "a:1b", "C"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi \\\"x\\\" \\\\\"}],\"model\":\"last\"}", "last", "C"},
    {" \t\r\n{ \"model\" : \"blanks\" , \"n\" : 1 } \r\n", "blanks", "C"},
    {"{\"options\":{\"model\":\"inner\"}}", "", "C"},
    {"{\"options\":{\"model\":\"inner\"},\"model\":\"outer\"}", "outer", "C"},
    {"{\"m\":[{\"model\":\"inner\"},[\"model\"]],\"x\":\"model\",\"model\":\"outer\"}", "outer", "C"},
    {"{\"x\":\"\\\"model\\\":\\\"no\\\"\"}", "", "C"},
    {"{\"model\":null}", "", "C"},
    {"{\"model\":12}", "", "C"},
    {"{\"model\":{\"model\":\"x\"}}", "", "C"},
    {"{\"model\":[\"x\"]}", "", "C"},
    {"{\"model\":true,\"stream\":true}", "", "CT"},
    {"{\"model\":\"\"}", "", "C"},
    {"{\"model\":\"  \\t\"}", "", "C"},
    {"{\"models\":\"x\",\"mode\":\"y\",\"model \":\"z\",\"xmodel\":\"w\"}", "", "C"},
    {"{}", "", "C"},
    {"{ }", "", "C"},
    /* twice */
    {"{\"model\":\"a\",\"model\":\"b\"}", "a", "C2"},
    {"{\"model\":\"a\",\"MODEL\":\"a\"}", "a", "C2"},
    {"{\"model\":\"\",\"model\":\"b\"}", "", "C2"},
    {"{\"model\":null,\"model\":\"b\"}", "b", "C2"},
    {"{\"model\":\"a\",\"model\":1}", "a", "C2"},
    {"{\"model\":\"a\",\"model\":\"b", "a", "2"},
    {"{\"model\":\"" NAME_127 "x\",\"model\":\"b\"}", "", "CL2"},
    /* letters and escapes of the key */
    {"{\"Model\":\"x\"}", "x", "C"},
    {"{\"mOdEL\":\"x\"}", "x", "C"},
    {"{\"\\u006dodel\":\"x\"}", "x", "C"},
    {"{\"\\u004d\\u006F\\u0064\\u0065\\u006c\":\"x\"}", "x", "C"},
    {"{\"mode\\u006\":\"x\"}", "", "B"},
    {"{\"mod\\el\":\"x\"}", "", "B"},
    {"{\"a_long_key_with_a_bad_escape\\q\":1,\"model\":\"x\"}", "x", "C"},
    {"{\"model\\u0000\":\"x\"}", "", "C"},
    /* the name itself */
    {"{\"model\":\"  Qwen2.5:7B \"}", "Qwen2.5:7B", "C"},
    {"{\"model\":\"qw\\u0041\\/\\\"\\\\\"}", "qwA/\"\\", "C"},
    {"{\"model\":\"\\u00fc\\u20ac\\ud83d\\ude00\"}", "\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", "C"},
    {"{\"model\":\"\xc3\xbc\xe2\x82\xac\"}", "\xc3\xbc\xe2\x82\xac", "C"},
    {"{\"model\":\"a\\ud83d\"}", "a\xef\xbf\xbd", "C"},
    {"{\"model\":\"\\ud83dx\"}", "\xef\xbf\xbdx", "C"},
    {"{\"model\":\"\\ud83d\\n\\ude00\\ud83d\\ud83d\\ude00\"}", "\xef\xbf\xbd?\xef\xbf\xbd\xef\xbf\xbd\xf0\x9f\x98\x80",
     "C"},
    {"{\"model\":\"a\\u0000b\\r\\nc\\u007f\"}",
     "a\xef\xbf\xbd"
     "b??c?",
     "C"},
    {"{\"model\":\"a\\x41\"}", "", "B"},
    {"{\"model\":\"a\\u12\"}", "", "B"},
    {"{\"model\":\"a\\u12g4\"}", "", "B"},
    {"{\"model\":\"" NAME_127 "\"}", NAME_127, "C"},
    {"{\"model\":\"   " NAME_127 "\"}", NAME_127, "C"},
    {"{\"model\":\"" NAME_127 "8\"}", "", "CL"},
    {"{\"model\":\"" NAME_127 "\\\"\\\\\"}", "", "CL"},
    {"{\"model\":\"" NAME_127 NAME_127 NAME_127 "\\\\\",\"stream\":true}", "", "CLT"},
    /* stream */
    {"{\"stream\":true}", "", "CT"},
    {"{\"stream\" : false }", "", "CF"},
    {"{\"Stream\":true,\"x\":1}", "", "CT"},
    {"{\"stream\":true,\"stream\":false}", "", "CF"},
    {"{\"stream\":\"true\"}", "", "C"},
    {"{\"stream\":null}", "", "C"},
    {"{\"stream\":truex}", "", "C"},
    {"{\"stream\":tru}", "", "C"},
    {"{\"stream\":falsehood}", "", "C"},
    {"{\"stream\":1}", "", "C"},
    {"{\"stream_options\":{\"stream\":true}}", "", "C"},
    {"{\"a\":[true],\"stream\":[true]}", "", "C"},
    {"{\"stream\":true", "", ""},
    {"{\"stream\":true,", "", "T"},
    /* byte order mark */
    {BOM "{\"model\":\"x\"}", "x", "C"},
    {BOM " {\"model\":\"x\"}", "x", "C"},
    {" " BOM "{\"model\":\"x\"}", "", "B"},
    {BOM BOM "{\"model\":\"x\"}", "", "B"},
    {"\xef\xbb{\"model\":\"x\"}", "", "B"},
    {"\xef{\"model\":\"x\"}", "", "B"},
    {BOM, "", ""},
    {"\xef", "", ""},
    /* not an object */
    {"", "", ""},
    {" \n", "", ""},
    {"[{\"model\":\"x\"}]", "", "B"},
    {"\"model\"", "", "B"},
    {"null", "", "B"},
    {"model=x", "", "B"},
    {"--boundary\r\n", "", "B"},
    {"<html>", "", "B"},
    {"}", "", "B"},
    /* structure */
    {"{\"model\":\"x\"}}", "x", "B"},
    {"{\"model\":\"x\"} {", "x", "B"},
    {"{\"model\":\"x\"}x", "x", "B"},
    {"{\"model\":\"x\"]", "x", "B"},
    {"{\"model\":\"x\",}", "x", "C"},
    {"{,\"model\":\"x\"}", "", "B"},
    {"{\"a\" \"model\":\"x\"}", "", "B"},
    {"{\"a\":,\"model\":\"x\"}", "", "B"},
    {"{\"model\" \"x\"}", "", "B"},
    {"{\"a\":1 \"model\":\"x\"}", "", "B"},
    {"{\"a\":1:2,\"model\":\"x\"}", "", "B"},
    {"{model:\"x\"}", "", "B"},
    {"{'model':\"x\"}", "", "B"},
    {"{/* \" */\"model\":\"x\"}", "", "B"},
    {"{\"a\":[/* \" */],\"model\":\"x\"}", "", "B"},
    {"{\"a\":-1.5e+3,\"b\":NaN,\"model\":\"x\"}", "x", "C"},
    {"{\"a\":tr\"ue,\"model\":\"x\"}", "", "B"},
    {"{\"a\":\"\\\\\\\\\\\"\\\\\",\"model\":\"x\"}", "x", "C"},
    {"{\"a\":[\"\\\\\",\"]\",\"\\\"]\",{\"}\":\"{[\"}],\"model\":\"x\"}", "x", "C"},
};

static void check_scan(const struct scan_case *c)
{
    static struct json_scan s;

    scan_all_ways(c->doc, strlen(c->doc), &s);
    if (strcmp(s.model, c->model) != 0 || s.complete != (strchr(c->flags, 'C') != NULL) ||
        s.broken != (strchr(c->flags, 'B') != NULL) || s.model_too_long != (strchr(c->flags, 'L') != NULL) ||
        s.model_twice != (strchr(c->flags, '2') != NULL) ||
        (s.stream == JSON_STREAM_TRUE) != (strchr(c->flags, 'T') != NULL) ||
        (s.stream == JSON_STREAM_FALSE) != (strchr(c->flags, 'F') != NULL)) {
        print_error("%s\n  model '%s' complete %d broken %d long %d twice %d stream %d\n", c->doc, s.model, s.complete,
                    s.broken, s.model_too_long, s.model_twice, (int)s.stream);
        fail();
    }
}

static void test_scan_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(scan_cases); i++) {
        check_scan(&scan_cases[i]);
    }
}

/* The range must be what a splice would replace. */
static void test_scan_range(void **state)
{
    static const char *const docs[] = {
        "{\"model\":\"VALUE\"}",
        BOM " {\"x\":[1,{}],\"model\" : \"VALUE\" ,\"y\":2}",
        "{\"model\":1,\"model\":\"VALUE\",\"model\":\"other\"}",
        "{\"a\":\"\\\\\",\"MODEL\":\n\"VALUE\"",
    };
    static struct json_scan s;

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(docs); i++) {
        const char *at = strstr(docs[i], "\"VALUE\"");
        scan_all_ways(docs[i], strlen(docs[i]), &s);
        assert_int_equal(s.model_from, at - docs[i]);
        assert_int_equal(s.model_to - s.model_from, 7);
    }
    scan_all_ways("{\"model\":\"\"}", 12, &s);
    assert_int_equal(s.model_from, 9);
    assert_int_equal(s.model_to, 11);
    scan_all_ways("{\"model\":\"unfinished", 20, &s);
    assert_int_equal(s.model_to, 0);
}

static void test_scan_truncated(void **state)
{
    static const char doc[] = BOM "{\"messages\":[{\"c\":\"a\\\\\\\"\\u00e4\"}],"
                                  "\"model\":\"na\\u006de\",\"stream\":true}";
    static struct json_scan s;
    const char *model_end = strstr(doc, "e\",\"stream") + 2;

    (void)state;
    for (size_t n = 0; n < sizeof doc; n++) {
        scan_all_ways(doc, n, &s);
        assert_false(s.broken);
        assert_int_equal(s.complete, n == sizeof doc - 1);
        assert_string_equal(s.model, doc + n < model_end ? "" : "name");
        assert_int_equal(s.stream, n == sizeof doc - 1 ? JSON_STREAM_TRUE : JSON_STREAM_UNSAID);
    }
}

static void test_scan_nul_bytes(void **state)
{
    static const char inside[] = "{\"a\":\"x\0y\",\"model\":\"b\0c\"}";
    static const char outside[] = "{\"a\":1,\0\"model\":\"b\"}";
    static const char nested[] = "{\"a\":[\0],\"model\":\"b\"}";
    static const char behind[] = "{\"model\":\"b\"}\0";
    static struct json_scan s;

    (void)state;
    scan_all_ways(inside, sizeof inside - 1, &s);
    assert_true(s.complete);
    assert_string_equal(s.model, "b\xef\xbf\xbd"
                                 "c");
    scan_all_ways(outside, sizeof outside - 1, &s);
    assert_true(s.broken);
    scan_all_ways(nested, sizeof nested - 1, &s);
    assert_true(s.broken);
    scan_all_ways(behind, sizeof behind - 1, &s);
    assert_true(s.broken);
    assert_false(s.complete);
}

static void feed_pieces(struct json_scan *s, const char *p, size_t n, size_t piece)
{
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < n; i += piece) {
        json_scan_feed(s, p + i, n - i < piece ? n - i : piece);
    }
}

static char big[6u * 1024u * 1024u];

static void check_big(size_t n, const char *model)
{
    static const size_t pieces[] = {sizeof big, 16384, 4097, 3, 1};
    static struct json_scan s;

    for (size_t i = 0; i < OLLA_COUNT(pieces); i++) {
        feed_pieces(&s, big, n, pieces[i]);
        assert_string_equal(s.model, model);
        assert_true(s.complete);
        assert_false(s.broken);
        assert_int_equal(s.at, n);
    }
}

static void test_scan_big_string(void **state)
{
    static const char tail[] = "\"}],\"model\":\"behind\"}";
    const size_t fill = 5u * 1024u * 1024u;
    struct text t = text_in(big, sizeof big);

    (void)state;
    text_addz(&t, "{\"messages\":[{\"content\":\"");
    memset(big + t.n, 'A', fill);
    t.n += fill;
    text_addz(&t, tail);
    check_big(t.n, "behind");
    /* nothing but backslashes and escaped quotes */
    for (size_t i = 25; i < 25 + fill; i += 2) {
        big[i] = '\\';
        big[i + 1] = i % 6 == 1 ? '"' : '\\';
    }
    check_big(t.n - fill % 2, "behind");
}

static void test_scan_deep(void **state)
{
    struct text t = text_in(big, sizeof big);
    static struct json_scan s;

    (void)state;
    text_addz(&t, "{\"a\":");
    memset(big + t.n, '[', 100000);
    memset(big + t.n + 100000, ']', 100000);
    t.n += 200000;
    text_addz(&t, ",\"model\":\"under\"}");
    check_big(t.n, "under");
    /* brackets that never close */
    memset(&s, 0, sizeof s);
    json_scan_feed(&s, big, 100000);
    assert_false(s.complete);
    assert_false(s.broken);
}

/* Random documents over the bytes that matter: all cuts must agree. */
static void test_scan_random(void **state)
{
    static const char *const words[] = {
        "{",       "}",   "[",        "]",         "\"",         "\"",      "\\",
        ":",       ",",   " ",        "\"model\"", "\"stream\"", "true",    "false",
        "null",    "\\u", "00",       "6d",        "\\ud83d",    "\\ude00", "\"model\":\"x\"",
        "\"k\":1", "x",   "\xc3\xbc", "{\"a\":",   ",\"b\":",    "\\\"",
    };
    static struct json_scan a;
    static struct json_scan b;
    char doc[256];
    uint32_t seed = 12345;

    (void)state;
    for (int round = 0; round < 30000; round++) {
        struct text t = text_in(doc, sizeof doc);
        text_char(&t, '{');
        for (int i = 0; i < 24; i++) {
            seed = seed * 1664525u + 1013904223u;
            text_addz(&t, words[(seed >> 16) % OLLA_COUNT(words)]);
        }
        feed_pieces(&a, doc, t.n, sizeof doc);
        for (size_t piece = 1; piece < 8; piece++) {
            feed_pieces(&b, doc, t.n, piece);
            same_facts(&a, &b);
        }
    }
}

/* ---- list --------------------------------------------------------------------- */

/* What came out of a list, as text: elements one a line, marked with their array, then the flags. */
static void list_pieces(const char *doc, size_t n, size_t cut, size_t piece, const char *const *keys, struct text *log)
{
    static char element[64];
    static struct json_list l;
    int rc = 0;

    json_list_start(&l, keys[0], keys[1], element, sizeof element);
    for (size_t i = 0; i < n && rc >= 0;) {
        size_t len = cut > i ? cut - i : n - i;
        len = piece && piece < len ? piece : len;
        const char *p = flush_right(doc + i, len);
        size_t left = len;
        do {
            size_t used = 0;
            rc = json_list_feed(&l, p, left, &used);
            assert_true(used <= left);
            p += used;
            left -= used;
            if (rc == 1) {
                text_char(log, l.second ? '2' : '1');
                text_add(log, (struct str){element, l.n});
                text_char(log, '\n');
            }
        } while (rc == 1);
        assert_true(rc == OLLA_ERR || left == 0);
        i += len;
    }
    assert_int_equal(l.broken, rc == OLLA_ERR);
    text_addz(log, l.found ? "found " : "");
    text_addz(log, l.array_done ? "done " : "");
    text_addz(log, l.complete ? "complete " : "");
    text_addz(log, l.broken ? "broken " : "");
    text_u64(log, l.skipped);
    assert_false(log->full);
}

static void check_list(const char *doc, const char *a, const char *b, const char *expected)
{
    const char *const keys[2] = {a, b};
    const size_t n = strlen(doc);
    static char whole[2048];
    static char other[2048];
    struct text t = text_in(whole, sizeof whole);

    list_pieces(doc, n, 0, 0, keys, &t);
    assert_string_equal(text_z(&t), expected);
    for (size_t piece = 1; piece < 4; piece++) {
        t = text_in(other, sizeof other);
        list_pieces(doc, n, 0, piece, keys, &t);
        assert_string_equal(text_z(&t), expected);
    }
    for (size_t cut = 1; cut < n; cut++) {
        t = text_in(other, sizeof other);
        list_pieces(doc, n, cut, 0, keys, &t);
        assert_string_equal(text_z(&t), expected);
    }
}

#define E64 "{\"id\":\"0123456789012345678901234567890123456789012345678901234\"}"
#define E65 "{\"id\":\"01234567890123456789012345678901234567890123456789012345\"}"

static const struct {
    const char *doc, *a, *b, *expected;
} list_cases[] = {
    {"{\"models\":[{\"name\":\"a\",\"details\":{\"f\":[\"x\"]}},{\"name\":\"b]}\"}]}", "models", NULL,
     "1{\"name\":\"a\",\"details\":{\"f\":[\"x\"]}}\n1{\"name\":\"b]}\"}\nfound done complete 0"},
    {"{\"object\":\"list\",\"data\":[{\"id\":\"a\",\"parent\":null}]}\n", "models", "data",
     "2{\"id\":\"a\",\"parent\":null}\nfound done complete 0"},
    /* both arrays, as llama.cpp sends them */
    {"{\"models\":[{\"name\":\"q\"}],\"object\":\"list\",\"data\":[{\"id\":\"q\",\"meta\":{\"n\":1}}]}", "models",
     "data", "1{\"name\":\"q\"}\n2{\"id\":\"q\",\"meta\":{\"n\":1}}\nfound done complete 0"},
    {"{\"models\":[{\"name\":\"q\"}],\"object\":\"list\",\"data\":[{\"id\":\"q\"}]}", "data", NULL,
     "1{\"id\":\"q\"}\nfound done complete 0"},
    /* the array is the document */
    {" [{\"id\":0,\"n_ctx\":16384},{\"id\":1}] ", NULL, NULL,
     "1{\"id\":0,\"n_ctx\":16384}\n1{\"id\":1}\nfound done complete 0"},
    {"[]", NULL, NULL, "found done complete 0"},
    {"{\"data\":[{}]}", NULL, NULL, "broken 0"},
    {"[{}]", "data", NULL, "broken 0"},
    /* nothing there */
    {"", "data", NULL, "0"},
    {"null", "data", NULL, "complete 0"},
    {" null\n", NULL, NULL, "complete 0"},
    {"nul", "data", NULL, "0"},
    {"nu ll", "data", NULL, "broken 0"},
    {"nullx", "data", NULL, "broken 0"},
    {"{}", "data", NULL, "complete 0"},
    {"{\"error\":\"no such path\"}", "models", "data", "complete 0"},
    {"{\"data\":null}", "data", NULL, "complete 0"},
    {"{\"data\":{\"data\":[{}]}}", "data", NULL, "complete 0"},
    {"{\"x\":{\"data\":[{}]}}", "data", NULL, "complete 0"},
    {"{\"x\":\"data\",\"y\":[{\"a\":1}]}", "data", NULL, "complete 0"},
    {"{\"data\":[],\"object\":\"list\"}", "data", NULL, "found done complete 0"},
    {"<html>\"", "data", NULL, "broken 0"},
    {"\"data\"", "data", NULL, "broken 0"},
    {"17", "data", NULL, "broken 0"},
    /* keys */
    {"{\"DATA\":[{\"a\":1}]}", "models", "data", "2{\"a\":1}\nfound done complete 0"},
    {"{\"d\\u0061ta\":[{\"a\":1}]}", "data", NULL, "1{\"a\":1}\nfound done complete 0"},
    {"{\"datadatadatadatadata\":[{\"a\":1}],\"dat\":[{}]}", "data", NULL, "complete 0"},
    {BOM "{\"data\":[{\"a\":1}]}", "data", NULL, "1{\"a\":1}\nfound done complete 0"},
    /* entries that are no objects, malformed entries, structure */
    {"{\"data\":[1,\"x]}\",null,[{\"no\":1}],{\"a\":1},true,{}]}", "data", NULL,
     "1{\"a\":1}\n1{}\nfound done complete 0"},
    {"{\"data\":[{\"a\":},{\"b\" 1},{,}]}", "data", NULL, "1{\"a\":}\n1{\"b\" 1}\n1{,}\nfound done complete 0"},
    {"{\"data\":[{\"a\":\"\\\\\"},{\"b\":\"\\\"}\"}]}", "data", NULL,
     "1{\"a\":\"\\\\\"}\n1{\"b\":\"\\\"}\"}\nfound done complete 0"},
    {"{\"data\":[{\"a\":1]]}", "data", NULL, "found broken 0"},
    {"{\"data\":[{\"a\":1}}", "data", NULL, "1{\"a\":1}\nfound done broken 0"},
    {"{\"data\":[{\"a\":1},#]}", "data", NULL, "1{\"a\":1}\nfound broken 0"},
    {"{\"data\":[{\"a\":1}]}}", "data", NULL, "1{\"a\":1}\nfound done broken 0"},
    {"{\"data\":[{\"a\":1}],\"x\":1", "data", NULL, "1{\"a\":1}\nfound done 0"},
    {"{\"data\":[{\"a\":1},{\"b", "data", NULL, "1{\"a\":1}\nfound 0"},
    {"{\"data\"[{\"a\":1}]}", "data", NULL, "broken 0"},
    {"{\"x\":,\"data\":[{}]}", "data", NULL, "broken 0"},
    {"{\"a\":1.5 ,\"b\":-2e9,\"data\":[{}]}", "data", NULL, "1{}\nfound done complete 0"},
    /* size */
    {"{\"data\":[" E64 "," E65 ",{\"a\":1}," E65 "]}", "data", NULL, "1" E64 "\n1{\"a\":1}\nfound done complete 2"},
};

static void test_list_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(list_cases); i++) {
        check_list(list_cases[i].doc, list_cases[i].a, list_cases[i].b, list_cases[i].expected);
    }
}

/* The largest element that fits, and one byte less room. */
static void test_list_room(void **state)
{
    static const char doc[] = "[{\"abc\":12}]";
    char out[10];
    struct json_list l;
    size_t used = 0;

    (void)state;
    json_list_start(&l, NULL, NULL, out, 10);
    assert_int_equal(json_list_feed(&l, doc, sizeof doc - 1, &used), 1);
    assert_int_equal(l.n, 10);
    assert_int_equal(used, 11);
    assert_memory_equal(out, doc + 1, 10);
    assert_int_equal(json_list_feed(&l, doc + used, sizeof doc - 1 - used, &used), 0);
    assert_true(l.complete);
    json_list_start(&l, NULL, NULL, out, 9);
    assert_int_equal(json_list_feed(&l, doc, sizeof doc - 1, &used), 0);
    assert_int_equal(l.skipped, 1);
    json_list_start(&l, NULL, NULL, NULL, 0);
    assert_int_equal(json_list_feed(&l, doc, sizeof doc - 1, &used), 0);
    assert_int_equal(l.skipped, 1);
}

/* ---- slices ------------------------------------------------------------------- */

static struct json_slice open_z(const char *z)
{
    return json_open((struct str){flush_right(z, strlen(z)), strlen(z)});
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
    bool yes = false;

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
    assert_true(json_bool(&s, json_get(&s, 0, "up"), &yes));
    assert_true(yes);
    assert_true(json_bool(&s, json_get(&s, 0, "no"), &yes));
    assert_false(yes);
    assert_false(json_bool(&s, json_get(&s, 0, "nil"), &yes));
    assert_true(json_is_null(&s, json_get(&s, 0, "nil")));
    assert_true(json_is_null(&s, json_get(&s, 0, "absent")));
    assert_false(json_is_null(&s, json_get(&s, 0, "no")));
    int item = json_first(&s, families);
    is_string(&s, item, "llama");
    item = json_next(&s, families, item);
    is_string(&s, item, "clip");
    assert_int_equal(json_next(&s, families, item), -1);
    assert_int_equal(json_first(&s, details), -1);
    assert_int_equal(json_first(&s, -1), -1);
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

/* Arrays of objects, and that a node of one item is not found in another. */
static void test_slice_nested(void **state)
{
    const struct json_slice s = open_z("{\"l\":[{\"a\":1},[],{\"b\":[{\"a\":2}]},{\"a\":3},4]}");
    const int list = json_get(&s, 0, "l");
    uint64_t sum = 0;
    int count = 0;

    (void)state;
    for (int i = json_first(&s, list); i != -1; i = json_next(&s, list, i)) {
        uint64_t v = 0;
        count++;
        sum += json_u64(&s, json_get(&s, i, "a"), &v) ? v : 0;
    }
    assert_int_equal(count, 5);
    assert_int_equal(sum, 4);
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
            int rounds = 0;
            for (int item = json_first(&s, node); item != -1; item = json_next(&s, node, item)) {
                assert_true(++rounds < 12);
            }
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
    int count = 0;
    const int list = json_get(&s, 0, "A");
    for (int i = json_first(&s, list); i != -1; i = json_next(&s, list, i)) {
        count++;
    }
    assert_int_equal(count, OLLA_MAX_TOKENS - 3);
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

    json_text(&t, (struct str){flush_right(in.p, in.n), in.n});
    assert_string_equal(text_z(&t), expected);
}

static void test_write_text(void **state)
{
    (void)state;
    writes(STR(""), "\"\"");
    writes(STR("plain ~\x7f/"), "\"plain ~\x7f/\"");
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
        cmocka_unit_test(test_scan_cases),      cmocka_unit_test(test_scan_range),
        cmocka_unit_test(test_scan_truncated),  cmocka_unit_test(test_scan_nul_bytes),
        cmocka_unit_test(test_scan_big_string), cmocka_unit_test(test_scan_deep),
        cmocka_unit_test(test_scan_random),     cmocka_unit_test(test_list_cases),
        cmocka_unit_test(test_list_room),       cmocka_unit_test(test_slice_ollama),
        cmocka_unit_test(test_slice_numbers),   cmocka_unit_test(test_slice_strings),
        cmocka_unit_test(test_slice_nested),    cmocka_unit_test(test_slice_malformed),
        cmocka_unit_test(test_slice_limits),    cmocka_unit_test(test_write_text),
        cmocka_unit_test(test_write_members),   cmocka_unit_test(test_write_and_read),
    };

    return cmocka_run_group_tests(tests, open_room, close_room);
}
