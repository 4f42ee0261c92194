/*
 * test_json.c - the model of a request body, elements of lists, members of objects.
 *
 * Every document is fed whole, byte by byte and cut in two at every place,
 * each piece lying flush against a page that must not be touched. All ways
 * have to give the same result.
 */
#include "../../src/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "fleet.h"
#include "guard.h"

/* ---- scanner ------------------------------------------------------------------ */

static void feed(struct json_scan *s, const char *p, size_t n)
{
    json_scan_feed(s, guard_copy(p, n), n);
}

static void same_facts(const struct json_scan *a, const struct json_scan *b)
{
    assert_string_equal(a->model, b->model);
    assert_int_equal(a->model_too_long, b->model_too_long);
    assert_int_equal(a->model_twice, b->model_twice);
    assert_int_equal(a->top.broken, b->top.broken);
    assert_int_equal(a->top.state, b->top.state);
    assert_int_equal(a->model_from, b->model_from);
    assert_int_equal(a->model_to, b->model_to);
    assert_int_equal(a->at, b->at);
    assert_int_equal(a->user_id, b->user_id);
    assert_int_equal(a->cache_key, b->cache_key);
    assert_int_equal(a->conversation, b->conversation);
    assert_int_equal(a->prefix, b->prefix);
    assert_int_equal(a->prompt_n, b->prompt_n);
    assert_int_equal(a->stream, b->stream);
    assert_int_equal(a->no_stream, b->no_stream);
}

static bool is_complete(const struct json_scan *s)
{
    return s->top.state == JSON_DONE && !s->top.broken;
}

static bool take_name;      /* for the scans to come */
static uint64_t prefix_max; /* likewise */

static void begin(struct json_scan *s)
{
    memset(s, 0, sizeof *s);
    s->take_name = take_name;
    s->prefix_max = prefix_max;
}

/* Scans in all ways; the facts are in *whole. */
static void scan_all_ways(const char *doc, size_t n, struct json_scan *whole)
{
    static struct json_scan s;

    begin(whole);
    feed(whole, doc, n);
    begin(&s);
    for (size_t i = 0; i < n; i++) {
        feed(&s, doc + i, 1);
    }
    same_facts(whole, &s);
    for (size_t cut = 0; cut <= n; cut++) {
        begin(&s);
        feed(&s, doc, cut);
        feed(&s, doc + cut, n - cut);
        same_facts(whole, &s);
    }
}

struct scan_case {
    const char *doc;
    const char *model;
    const char *flags; /* C complete, B broken, L too long, 2 twice */
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
    {"{\"model\":true,\"stream\":true}", "", "C"},
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
    {"{\"a_key_of_32_bytes_and_a_bad_escap\\q\":1,\"model\":\"x\"}", "x", "C"}, /* too long to be looked at */
    {"{\"a_shorter_key_with_a_bad_escape\\q\":1,\"model\":\"x\"}", "", "B"},
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
    {"{\"model\":\"" NAME_127 NAME_127 NAME_127 "\\\\\",\"stream\":true}", "", "CL"},
    /* numbers and literals in front of it */
    {"{\"stream\":true,\"n\" : -1.5 ,\"x\":null,\"model\":\"x\"}", "x", "C"},
    {"{\"a\":truex,\"model\":\"x\"}", "x", "C"},
    {"{\"a\":true", "", ""},
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
    if (strcmp(s.model, c->model) != 0 || is_complete(&s) != (strchr(c->flags, 'C') != NULL) ||
        s.top.broken != (strchr(c->flags, 'B') != NULL) || s.model_too_long != (strchr(c->flags, 'L') != NULL) ||
        s.model_twice != (strchr(c->flags, '2') != NULL)) {
        print_error("%s\n  model '%s' complete %d broken %d long %d twice %d\n", c->doc, s.model, is_complete(&s),
                    s.top.broken, s.model_too_long, s.model_twice);
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

/* The same documents with and without the flag. */
static const struct {
    const char *doc;
    const char *model, *flags;   /* with it */
    const char *model_, *flags_; /* without */
} name_cases[] = {
    {"{\"name\":\"a:1b\",\"x\":1}", "a:1b", "C", "", "C"},
    {"{\"model\":\"m\"}", "m", "C", "m", "C"},
    {"{\"N\\u0061me\":\" \\u0061\\n\"}", "a", "C", "", "C"},
    {"{\"x\":{\"name\":\"a\"},\"names\":\"b\"}", "", "C", "", "C"},
    {"{\"name\":\"" NAME_127 "x\"}", "", "CL", "", "C"},
    {"{\"name\":\"a\\x\"}", "", "B", "", "C"},
    /* no string: no model */
    {"{\"name\":1}", "", "C", "", "C"},
    {"{\"name\":[\"a\"],\"model\":\"m\",\"name\":null}", "m", "C", "m", "C"},
    /* both */
    {"{\"model\":\"a\",\"name\":\"a\"}", "a", "C", "a", "C"},
    {"{\"name\":\"a\",\"model\":\" \\u0061 \"}", "a", "C", "a", "C"},
    {"{\"model\":\"a\",\"name\":\"b\"}", "a", "C2", "a", "C"},
    {"{\"name\":\"b\",\"model\":\"a\"}", "b", "C2", "a", "C"},
    {"{\"model\":\"a\",\"name\":\"A\"}", "a", "C2", "a", "C"},
    {"{\"model\":\"a\",\"name\":\"a\",\"name\":\"a\"}", "a", "C2", "a", "C"},
    {"{\"name\":\"a\",\"name\":\"a\"}", "a", "C2", "", "C"},
    {"{\"model\":\"a\",\"model\":\"a\",\"name\":\"a\"}", "a", "C2", "a", "C2"},
    {"{\"model\":\"a\",\"name\":\"" NAME_127 "x\"}", "a", "C2", "a", "C"},
    {"{\"name\":\"" NAME_127 "x\",\"model\":\"a\"}", "", "CL2", "a", "C"},
    {"{\"name\":\"" NAME_127 "x\",\"model\":\"" NAME_127 "x\"}", "", "CL2", "", "CL"},
    /* clients that know both keys leave one of them empty */
    {"{\"model\":\"a\",\"name\":\"\"}", "a", "C", "a", "C"},
    {"{\"model\":\"\",\"name\":\"a\"}", "a", "C", "", "C"},
    {"{\"name\":\" \",\"model\":\"a\"}", "a", "C", "a", "C"},
    {"{\"name\":\"\",\"model\":\"\"}", "", "C", "", "C"},
    {"{\"model\":null,\"name\":\"a\"}", "a", "C", "", "C"},
    /* the second one does not fit: where that is seen does not depend on how it arrives */
    {"{\"name\":\"m\",\"model\":\" " NAME_127 "89\",\"x\":1}", "m", "C2", "", "CL"},
};

static void test_scan_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(name_cases); i++) {
        take_name = true;
        check_scan(&(struct scan_case){name_cases[i].doc, name_cases[i].model, name_cases[i].flags});
        take_name = false;
        check_scan(&(struct scan_case){name_cases[i].doc, name_cases[i].model_, name_cases[i].flags_});
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
    /* of two keys, the one that says something */
    take_name = true;
    scan_all_ways("{\"model\":\"\",\"name\":\"VALUE\"}", 27, &s);
    assert_int_equal(s.model_from, 19);
    assert_int_equal(s.model_to, 26);
    scan_all_ways("{\"model\":\"VALUE\",\"name\":\"\"}", 27, &s);
    assert_int_equal(s.model_from, 9);
    assert_int_equal(s.model_to, 16);
    take_name = false;
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
        assert_false(s.top.broken);
        assert_int_equal(is_complete(&s), n == sizeof doc - 1);
        assert_string_equal(s.model, doc + n < model_end ? "" : "name");
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
    assert_true(is_complete(&s));
    assert_string_equal(s.model, "b\xef\xbf\xbd"
                                 "c");
    scan_all_ways(outside, sizeof outside - 1, &s);
    assert_true(s.top.broken);
    scan_all_ways(nested, sizeof nested - 1, &s);
    assert_true(s.top.broken);
    scan_all_ways(behind, sizeof behind - 1, &s);
    assert_true(s.top.broken);
    assert_false(is_complete(&s));
}

static void feed_pieces(struct json_scan *s, const char *p, size_t n, size_t piece)
{
    begin(s);
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
        assert_true(is_complete(&s));
        assert_false(s.top.broken);
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
    begin(&s);
    json_scan_feed(&s, big, 100000);
    assert_false(is_complete(&s));
    assert_false(s.top.broken);
}

/* Random documents over the bytes that matter: all cuts must agree. */
static void test_scan_random(void **state)
{
    static const char *const words[] = {
        "{",       "}",   "[",        "]",         "\"",       "\"",      "\\",
        ":",       ",",   " ",        "\"model\"", "\"name\"", "true",    "false",
        "null",    "\\u", "00",       "6d",        "\\ud83d",  "\\ude00", "\"model\":\"x\"",
        "\"k\":1", "x",   "\xc3\xbc", "{\"a\":",   ",\"b\":",  "\\\"",
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
        take_name = round % 2 != 0;
        feed_pieces(&a, doc, t.n, sizeof doc);
        for (size_t piece = 1; piece < 8; piece++) {
            feed_pieces(&b, doc, t.n, piece);
            same_facts(&a, &b);
        }
    }
    take_name = false;
}

/* ---- list --------------------------------------------------------------------- */

/* What came out of a list, as text: elements one a line, then the flags. */
static void list_pieces(const char *doc, size_t n, size_t cut, size_t piece, const char *const *keys, struct text *log)
{
    static char element[64];
    static struct json_list l;
    int rc = 0;

    json_list_start(&l, keys[0], keys[1], element, sizeof element);
    for (size_t i = 0; i < n && rc >= 0;) {
        size_t len = cut > i ? cut - i : n - i;
        len = piece && piece < len ? piece : len;
        const char *p = guard_copy(doc + i, len);
        size_t left = len;
        do {
            size_t used = 0;
            rc = json_list_feed(&l, p, left, &used);
            assert_true(used <= left);
            p += used;
            left -= used;
            if (rc == 1) {
                text_add(log, (struct str){element, l.n});
                text_char(log, '\n');
            }
        } while (rc == 1);
        assert_true(rc == OLLA_ERR || left == 0);
        i += len;
    }
    assert_int_equal(l.top.broken, rc == OLLA_ERR);
    text_addz(log, l.found ? "found " : "");
    text_addz(log, l.array_done ? "done " : "");
    text_addz(log, l.top.broken ? "broken " : "");
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
     "{\"name\":\"a\",\"details\":{\"f\":[\"x\"]}}\n{\"name\":\"b]}\"}\nfound done 0"},
    {"{\"object\":\"list\",\"data\":[{\"id\":\"a\",\"parent\":null}]}\n", "models", "data",
     "{\"id\":\"a\",\"parent\":null}\nfound done 0"},
    /* both arrays, as llama.cpp sends them: the first that is asked for */
    {"{\"models\":[{\"name\":\"q\"}],\"object\":\"list\",\"data\":[{\"id\":\"q\",\"meta\":{\"n\":1}}]}", "models",
     "data", "{\"name\":\"q\"}\nfound done 0"},
    {"{\"models\":[{\"name\":\"q\"}],\"object\":\"list\",\"data\":[{\"id\":\"q\"}]}", "data", NULL,
     "{\"id\":\"q\"}\nfound done 0"},
    {"[{}]", "data", NULL, "broken 0"},
    /* nothing there */
    {"", "data", NULL, "0"},
    {"null", "data", NULL, "broken 0"},
    {"{}", "data", NULL, "0"},
    {"{\"error\":\"no such path\"}", "models", "data", "0"},
    {"{\"data\":null}", "data", NULL, "0"},
    {"{\"data\":{\"data\":[{}]}}", "data", NULL, "0"},
    {"{\"x\":{\"data\":[{}]}}", "data", NULL, "0"},
    {"{\"x\":\"data\",\"y\":[{\"a\":1}]}", "data", NULL, "0"},
    {"{\"data\":[],\"object\":\"list\"}", "data", NULL, "found done 0"},
    {"<html>\"", "data", NULL, "broken 0"},
    {"\"data\"", "data", NULL, "broken 0"},
    {"17", "data", NULL, "broken 0"},
    /* keys */
    {"{\"DATA\":[{\"a\":1}]}", "models", "data", "{\"a\":1}\nfound done 0"},
    {"{\"d\\u0061ta\":[{\"a\":1}]}", "data", NULL, "{\"a\":1}\nfound done 0"},
    {"{\"datadatadatadatadata\":[{\"a\":1}],\"dat\":[{}]}", "data", NULL, "0"},
    {BOM "{\"data\":[{\"a\":1}]}", "data", NULL, "{\"a\":1}\nfound done 0"},
    /* entries that are no objects, malformed entries, structure */
    {"{\"data\":[1,\"x]}\",null,[{\"no\":1}],{\"a\":1},true,{}]}", "data", NULL, "{\"a\":1}\n{}\nfound done 0"},
    {"{\"data\":[{\"a\":},{\"b\" 1},{,}]}", "data", NULL, "{\"a\":}\n{\"b\" 1}\n{,}\nfound done 0"},
    {"{\"data\":[{\"a\":\"\\\\\"},{\"b\":\"\\\"}\"}]}", "data", NULL,
     "{\"a\":\"\\\\\"}\n{\"b\":\"\\\"}\"}\nfound done 0"},
    {"{\"data\":[{\"a\":1]]}", "data", NULL, "found broken 0"},
    {"{\"data\":[{\"a\":1}}", "data", NULL, "{\"a\":1}\nfound broken 0"},
    {"{\"data\":[{\"a\":1},#]}", "data", NULL, "{\"a\":1}\nfound broken 0"},
    {"{\"data\":[{\"a\":1}]}}", "data", NULL, "{\"a\":1}\nfound done 0"},
    {"{\"data\":[{\"a\":1}],\"x\":1", "data", NULL, "{\"a\":1}\nfound done 0"},
    {"{\"data\":[{\"a\":1},{\"b", "data", NULL, "{\"a\":1}\nfound 0"},
    {"{\"data\"[{\"a\":1}]}", "data", NULL, "broken 0"},
    {"{\"x\":,\"data\":[{}]}", "data", NULL, "broken 0"},
    {"{\"a\":1.5 ,\"b\":-2e9,\"data\":[{}]}", "data", NULL, "{}\nfound done 0"},
    /* size */
    {"{\"data\":[" E64 "," E65 ",{\"a\":1}," E65 "]}", "data", NULL, E64 "\n{\"a\":1}\nfound done 2"},
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
    static const char doc[] = "{\"d\":[{\"abc\":12}]}";
    char out[10];
    struct json_list l;
    size_t used = 0;

    (void)state;
    json_list_start(&l, "d", NULL, out, 10);
    assert_int_equal(json_list_feed(&l, doc, sizeof doc - 1, &used), 1);
    assert_int_equal(l.n, 10);
    assert_int_equal(used, 16);
    assert_memory_equal(out, doc + 6, 10);
    assert_int_equal(json_list_feed(&l, doc + used, sizeof doc - 1 - used, &used), 0);
    assert_true(l.array_done);
    json_list_start(&l, "d", NULL, out, 9);
    assert_int_equal(json_list_feed(&l, doc, sizeof doc - 1, &used), 0);
    assert_int_equal(l.skipped, 1);
    json_list_start(&l, "d", NULL, NULL, 0);
    assert_int_equal(json_list_feed(&l, doc, sizeof doc - 1, &used), 0);
    assert_int_equal(l.skipped, 1);
}

/* ---- what tells conversations apart --------------------------------------------- */

/* The facts of a document, which all ways of cutting it agree on. */
static struct json_scan facts(const char *doc)
{
    static struct json_scan s;
    scan_all_ways(doc, strlen(doc), &s);
    return s;
}

static uint64_t user_id(const char *doc)
{
    return facts(doc).user_id;
}

static uint64_t conversation(const char *doc)
{
    return facts(doc).conversation;
}

static uint64_t prefix(const char *doc)
{
    return facts(doc).prefix;
}

#define USER(text) "{\"metadata\":{\"user_id\":\"" text "\"}}"

static void test_user_id(void **state)
{
    uint64_t plain = user_id(USER("abcdefgh")), session = user_id(USER("session_12345678"));
    (void)state;

    assert_true(plain != 0 && session != 0 && plain != session);
    assert_true(user_id(USER("abcdefgi")) != plain);
    assert_true(user_id(USER("abcdefgh ")) != plain);
    /* Too short a text tells nobody from anybody. */
    assert_int_equal(user_id(USER("abcdefg")), 0);
    assert_int_equal(user_id(USER("")), 0);
    assert_int_equal(user_id(USER("user_1_account_2_session_1234567")), 0);
    assert_int_equal(user_id(USER("user_1_account_2_session_")), 0);
    /* From behind the mark, whoever the user is. */
    assert_int_equal(user_id(USER("user_1_account_2_session_12345678")), session);
    assert_int_equal(user_id(USER("12345678")), session);
    assert_true(user_id(USER("user_1_account_2_session_12345679")) != session);
    assert_int_equal(user_id(USER("session_87654321_session_12345678")), session);
    assert_int_equal(user_id(USER("ssession_12345678")), session);
    assert_int_equal(user_id(USER("sesssession_12345678")), session);
    assert_true(user_id(USER("Session_12345678")) != session); /* as it is written */
    assert_true(user_id(USER("session-12345678")) != session);
    /* The text, however it is written. */
    assert_int_equal(user_id(USER("\\u0073ession\\u005f1234567\\u0038")), session);
    assert_int_equal(user_id("{\"METADATA\":{\"User\\u005fid\":\"abcdefgh\"}}"), plain);
    assert_int_equal(user_id(USER("abc\\\"\\\\fgh")), user_id(USER("abc\\u0022\\u005cfgh")));
    assert_int_equal(user_id(USER("1234567\\ud83d\\ude00")), user_id(USER("1234567\xf0\x9f\x98\x80")));
    /* At other places, and beside others. */
    assert_int_equal(user_id(" {\"model\":\"m\",\"metadata\" : { \"a\":[{\"user_id\":\"no_no_no_no\"}],\"user_id\" :\n"
                             "\"abcdefgh\", \"z\":{}} ,\"stream\":true}"),
                     plain);
    assert_string_equal(facts("{\"metadata\":{\"model\":\"x\",\"user_id\":\"abcdefgh\"},\"model\":\"m\"}").model, "m");
    assert_int_equal(user_id("{\"user_id\":\"abcdefgh\"}"), 0);
    assert_int_equal(user_id("{\"x\":" USER("abcdefgh") "}"), 0);
    assert_int_equal(user_id("{\"metadata\":{\"x\":{\"user_id\":\"abcdefgh\"}}}"), 0);
    assert_int_equal(user_id("{\"metadata\":[{\"user_id\":\"abcdefgh\"}]}"), 0);
    assert_int_equal(user_id("{\"metadata\":\"{\\\"user_id\\\":\\\"abcdefgh\\\"}\"}"), 0);
    assert_int_equal(user_id("{\"metadata\":{\"user_id\":[\"abcdefgh\"]}}"), 0);
    assert_int_equal(user_id("{\"metadata\":{\"user_id\":12345678}}"), 0);
    assert_int_equal(user_id("{\"metadata\":{\"user_idx\":\"abcdefgh\",\"user_i\":\"abcdefgh\"}}"), 0);
    assert_int_equal(user_id("{\"metadata\":{\"x\":\"user_id\",\"y\":\"abcdefgh\"}}"), 0);
    assert_int_equal(user_id("{\"metadata\":{\"user_id\":\"abcdefgh"), 0); /* not its end */
    assert_int_equal(user_id("{\"metadata\":{\"user_id\":\"abcdefgh\""), plain);
}

static void test_cache_key(void **state)
{
    uint64_t key = facts("{\"prompt_cache_key\":\"abcdefgh\"}").cache_key;
    (void)state;
    assert_true(key != 0);
    assert_int_equal(facts("{\"a\":{},\"Prompt_Cache_Key\" : \"abcdefg\\u0068\",\"b\":1}").cache_key, key);
    assert_true(facts("{\"prompt_cache_key\":\"abcdefgi\"}").cache_key != key);
    assert_int_equal(facts("{\"prompt_cache_key\":\"abcdefg\"}").cache_key, 0);
    assert_int_equal(facts("{\"prompt_cache_key\":12345678}").cache_key, 0);
    assert_int_equal(facts("{\"prompt_cache_key\":[\"abcdefgh\"]}").cache_key, 0);
    assert_int_equal(facts("{\"metadata\":{\"prompt_cache_key\":\"abcdefgh\"}}").cache_key, 0);
    assert_int_equal(facts("{\"messages\":[{\"prompt_cache_key\":\"abcdefgh\"}]}").cache_key, 0);
    /* The mark means something in user_id only. */
    assert_true(facts("{\"prompt_cache_key\":\"a_session_12345678\"}").cache_key !=
                facts("{\"prompt_cache_key\":\"b_session_12345678\"}").cache_key);
}

static void test_conversation(void **state)
{
    uint64_t one = conversation("{\"conversation\":\"conv_001\"}");
    (void)state;
    assert_true(one != 0);
    assert_int_equal(conversation("{\"conversation_id\":\"conv_001\"}"), one);
    assert_int_equal(conversation("{\"conversation\":\"conv_002\",\"conversation_id\":\"conv_001\"}"), one);
    assert_int_equal(conversation("{\"conversation_id\":\"conv_001\",\"conversation\":\"conv_002\"}"), one);
    assert_int_equal(conversation("{\"conversation_id\":\"\",\"conversation\":\"conv_001\"}"), one);
    assert_int_equal(conversation("{\"conversation\":{\"id\":\"conv_001\"}}"), 0); /* not a text */
    assert_int_equal(conversation("{\"conversation\":null,\"conversation_id\":1}"), 0);
    assert_int_equal(conversation("{\"conversation\":\"conv_00\"}"), 0);
    assert_int_equal(conversation("{\"conversations\":\"conv_001\"}"), 0);
}

/* All of them, and the model, out of one document. */
static void test_session_together(void **state)
{
    struct json_scan s = facts("{\"prompt_cache_key\":\"key_key_\",\"conversation\":\"conv_001\",\"stream\":true,"
                               "\"metadata\":{\"user_id\":\"abcdefgh\"},\"messages\":[{\"role\":\"user\"}],"
                               "\"model\":\"m:1\"}");
    (void)state;
    assert_string_equal(s.model, "m:1");
    assert_int_equal(s.user_id, user_id(USER("abcdefgh")));
    assert_int_equal(s.cache_key, facts("{\"prompt_cache_key\":\"key_key_\"}").cache_key);
    assert_int_equal(s.conversation, conversation("{\"conversation\":\"conv_001\"}"));
    assert_int_equal(s.prefix, prefix("{\"messages\":[{\"role\":\"user\"}]}"));
    assert_true(s.stream);
}

#define SYSTEM   "{\"role\":\"system\",\"content\":\"be {brief} [\\\"\"}"
#define ASK      "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi } \\\\\"}]}"
#define ANSWER   "{\"role\":\"assistant\",\"content\":\"hello\"}"
#define MORE     "{\"role\":\"user\",\"content\":\"and?\"}"
#define CHAT(in) "{\"messages\":[" in "]}"

static void test_prefix(void **state)
{
    uint64_t one = prefix(CHAT(SYSTEM "," ASK));
    (void)state;

    assert_true(one != 0);
    /* A conversation that grows begins as before; what stands around does not matter. */
    assert_int_equal(prefix(CHAT(SYSTEM "," ASK "," ANSWER "," MORE)), one);
    assert_int_equal(prefix(CHAT(SYSTEM "," ASK " , 1,\"x\",[{}]")), one);
    assert_int_equal(prefix("{\"model\":\"x\",\"MESSAGES\" : [" SYSTEM "," ASK "," ANSWER "] , \"n\":1}"), one);
    assert_int_equal(prefix("{\"n\":{\"messages\":[1]},\"messages\":[" SYSTEM "," ASK "],\"model\":\"y\"}"), one);
    assert_int_equal(prefix("{\"messages\":[" SYSTEM "," ASK), one); /* the rest is on its way */
    assert_int_equal(prefix("{\"messages\":[" SYSTEM "," SYSTEM), 0);
    /* Another beginning. */
    assert_true(prefix(CHAT(ASK)) != one);
    assert_true(prefix(CHAT(SYSTEM "," MORE)) != one);
    assert_true(prefix(CHAT(SYSTEM "," SYSTEM "," ASK)) != one);
    assert_true(prefix(CHAT(SYSTEM ", " ASK)) != one); /* as it was written */
    assert_true(prefix(CHAT(ANSWER "," ASK)) != one);
    /* Who a message is of, wherever it says so. */
    assert_int_equal(prefix(CHAT("{\"content\":\"a\",\"role\":\"user\"}")),
                     prefix(CHAT("{\"content\":\"a\",\"role\":\"user\"}," MORE)));
    assert_int_equal(prefix(CHAT("{\"Role\":\"\\u0075ser\",\"content\":\"a\"}," ANSWER)),
                     prefix(CHAT("{\"Role\":\"\\u0075ser\",\"content\":\"a\"}")));
    assert_true(prefix(CHAT("{\"x\":{\"role\":\"user\"}}," MORE)) != prefix(CHAT("{\"x\":{\"role\":\"user\"}}," ASK)));
    assert_true(prefix(CHAT("{\"content\":\"role\",\"x\":\"user\"}," MORE)) !=
                prefix(CHAT("{\"content\":\"role\",\"x\":\"user\"}," ASK)));
    assert_true(prefix(CHAT("{\"role\":[\"user\"]}," MORE)) != prefix(CHAT("{\"role\":[\"user\"]}," ASK)));
    /* Nobody asks: all of it. */
    assert_true(prefix(CHAT(SYSTEM)) != 0);
    assert_true(prefix(CHAT(SYSTEM "," ANSWER)) != prefix(CHAT(SYSTEM)));
}

/* Each byte in front of the end of the first question counts, none behind it does. */
static void test_prefix_bytes(void **state)
{
    static const char doc[] = "{\"messages\":[{\"role\":\"system\",\"content\":\"aaaa\"},"
                              "{\"role\":\"user\",\"content\":\"bbbb\"},{\"role\":\"user\",\"content\":\"cccc\"}],"
                              "\"x\":\"dddd\"}";
    char changed[sizeof doc];
    uint64_t one = prefix(doc);
    size_t last = (size_t)(strstr(doc, "bbbb") - doc) + 3;
    (void)state;

    for (size_t i = 0; i < sizeof doc - 1; i++) {
        if (strchr("abcd", doc[i]) == NULL || (doc[i] != doc[i + 1] && doc[i] != doc[i - 1])) {
            continue; /* not one of the texts */
        }
        memcpy(changed, doc, sizeof doc);
        changed[i] = 'X';
        if ((prefix(changed) == one) != (i > last)) {
            fail_msg("byte %zu of %s", i, doc);
        }
    }
}

static void test_prompts(void **state)
{
    (void)state;
    /* Older requests have a text, or a list of them. */
    assert_true(prefix("{\"prompt\":\"abc\"}") != 0);
    assert_int_equal(prefix("{\"prompt\":\"abc\"}"), prefix("{\"x\":1,\"prompt\" : \"abc\",\"stream\":false}"));
    assert_true(prefix("{\"prompt\":\"abc\"}") != prefix("{\"prompt\":\"abd\"}"));
    assert_true(prefix("{\"prompt\":\"abc\"}") != prefix("{\"prompt\":[\"abc\"]}"));
    assert_true(prefix("{\"prompt\":\"a\\\"c\"}") != prefix("{\"prompt\":\"a\\\"d\"}"));
    assert_true(prefix("{\"prompt\":[\"abc\",\"d\"]}") != prefix("{\"prompt\":[\"abc\",\"e\"]}"));
    assert_true(prefix("{\"prompt\":[1,2]}") != prefix("{\"prompt\":[1,3]}"));
    assert_true(prefix("{\"input\":\"abc\"}") != 0);
    assert_true(prefix("{\"input\":[{\"role\":\"user\",\"content\":\"a\"}]}") != 0);
    assert_int_equal(prefix("{\"input\":[" ASK "]}"), prefix("{\"input\":[" ASK "," ANSWER "]}"));
    /* The one that counts most. */
    assert_int_equal(prefix("{\"input\":\"b\",\"prompt\":\"a\"}"), prefix("{\"prompt\":\"a\"}"));
    assert_int_equal(prefix("{\"prompt\":\"a\",\"input\":\"b\"}"), prefix("{\"prompt\":\"a\"}"));
    assert_int_equal(prefix("{\"prompt\":\"a\",\"messages\":[" ASK "]}"), prefix(CHAT(ASK)));
    assert_int_equal(prefix("{\"messages\":[" ASK "],\"prompt\":\"a\",\"input\":[]}"), prefix(CHAT(ASK)));
    assert_int_equal(prefix("{\"messages\":[" ASK "],\"messages\":[" MORE "]}"), prefix(CHAT(ASK)));
    assert_int_equal(prefix("{\"messages\":[],\"prompt\":\"a\"}"), prefix("{\"prompt\":\"a\"}"));
    assert_int_equal(prefix("{\"messages\":null,\"input\":\"a\"}"), prefix("{\"input\":\"a\"}"));
    /* Nothing begins nothing. */
    assert_int_equal(prefix("{\"prompt\":\"\"}"), 0);
    assert_int_equal(prefix("{\"prompt\":\"\",\"stream\":false}"), 0);
    assert_int_equal(prefix("{\"messages\":[]}"), 0);
    assert_int_equal(prefix("{\"messages\":[ \n ],\"x\":[1]}"), 0);
    assert_int_equal(prefix("{\"messages\":{\"role\":\"user\"}}"), 0);
    assert_int_equal(prefix("{\"prompt\":12}"), 0);
    assert_int_equal(prefix("{}"), 0);
    assert_int_equal(prefix("{\"x\":{\"prompt\":\"a\"},\"y\":[{\"messages\":[1]}],\"z\":\"prompt\"}"), 0);
    assert_int_equal(prefix("{\"prompt\":\"abc"), 0);
}

/* Brackets inside the texts of a list are texts. */
static void test_prompt_list_brackets(void **state)
{
    (void)state;
    assert_true(prefix("{\"prompt\":[\"f() { return 1; }\"]}") != prefix("{\"prompt\":[\"f() { return 2; }\"]}"));
    assert_true(prefix("{\"input\":[\"{a\"]}") != prefix("{\"input\":[\"{b\"]}"));
}

/* The mark, where it begins inside of what looked like it. */
static void test_user_id_overlap(void **state)
{
    (void)state;
    assert_int_equal(user_id(USER("sesession_12345678")), user_id(USER("session_12345678")));
    assert_int_equal(user_id(USER("sessession_12345678")), user_id(USER("session_12345678")));
}

/* Empty values say as little behind others as in front of them. */
static void test_empty_conversation(void **state)
{
    (void)state;
    assert_int_equal(conversation("{\"conversation\":\"conv_001\",\"conversation_id\":\"\"}"),
                     conversation("{\"conversation_id\":\"\",\"conversation\":\"conv_001\"}"));
}

static void test_empty_messages(void **state)
{
    (void)state;
    assert_int_equal(prefix("{\"prompt\":\"a\",\"messages\":[]}"), prefix("{\"messages\":[],\"prompt\":\"a\"}"));
}

/* With a limit: no more than that; a shorter beginning is not filled up. */
static void test_prefix_max(void **state)
{
    static const struct {
        const char *doc;
        size_t n; /* of its beginning */
    } docs[] = {
        {CHAT(ASK), sizeof "[" ASK - 1},
        {CHAT(SYSTEM "," ASK "," ANSWER), sizeof "[" SYSTEM "," ASK - 1},
        {"{\"prompt\":\"abcdefgh\"}", 10},
        {"{\"input\":[\"abcd\",\"efgh\"]}", 15},
    };
    static const size_t limits[] = {2, 3, 5, 8, 9, 10, 13, 20, 200};
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(docs); i++) {
        const char *value = strchr(docs[i].doc, ':') + 1;
        uint64_t all = prefix(docs[i].doc);
        for (size_t k = 0; k < OLLA_COUNT(limits); k++) {
            char other[256];
            size_t at = (size_t)(value - docs[i].doc) + limits[k];
            prefix_max = limits[k];
            uint64_t some = prefix(docs[i].doc);
            assert_true(some != 0);
            assert_int_equal(some == all, limits[k] >= docs[i].n);
            /* Up to there and not one byte more. */
            if (at < strlen(docs[i].doc) && strchr("abcdefgh", docs[i].doc[at - 1]) &&
                strchr("abcdefgh", docs[i].doc[at])) {
                (void)memcpy(other, docs[i].doc, strlen(docs[i].doc) + 1);
                other[at] = 'X';
                assert_int_equal(prefix(other), some);
                other[at - 1] = 'X';
                assert_true(prefix(other) != some);
            }
            prefix_max = 0;
        }
    }
    prefix_max = 5;
    assert_int_equal(prefix("{\"messages\":[]}"), 0);
    assert_int_equal(prefix("{\"prompt\":\"\"}"), 0);
    assert_int_equal(prefix("{\"prompt\":\"abcdX\"}"), prefix("{\"prompt\":\"abcd\"}"));
    prefix_max = 0;
}

/* It is for an estimate: the value, and at most what is around it up to the next one. */
static void test_prompt_n(void **state)
{
    (void)state;
    assert_int_equal(facts("{}").prompt_n, 0);
    assert_int_equal(facts("{\"x\":\"abc\"}").prompt_n, 0);
    assert_in_range(facts("{\"prompt\":\"abc\"}").prompt_n, 5, 6);
    assert_in_range(facts("{\"prompt\":\"abc\",\"n\":[1,2,3,4,5,6,7,8,9,10,11,12]}").prompt_n, 5, 11);
    assert_in_range(facts("{\"n\":[1,2,3,4,5,6],\"messages\":[" ASK "," ANSWER "],\"n\":1}").prompt_n,
                    sizeof("[" ASK "," ANSWER "]") - 1, sizeof("[" ASK "," ANSWER "]") + 7);
    assert_in_range(facts("{\"messages\":[{},1],\"prompt\":\"12345678901234567890\"}").prompt_n, 6, 20);
    assert_in_range(facts("{\"prompt\":\"12345678901234567890\",\"messages\":[{},1]}").prompt_n, 6, 7);
    assert_int_equal(facts("{\"prompt\":\"1234").prompt_n, 5); /* so far */
}

static void check_stream(const char *doc, bool stream, bool no_stream)
{
    struct json_scan s = facts(doc);
    assert_int_equal(s.stream, stream);
    assert_int_equal(s.no_stream, no_stream);
}

static void test_stream(void **state)
{
    (void)state;
    check_stream("{\"stream\":true}", true, false);
    check_stream("{\"stream\":false}", false, true);
    check_stream("{\"STREAM\" :\ttrue}", true, false);
    check_stream("{\"model\":\"m\",\"str\\u0065am\":false,\"x\":1}", false, true);
    check_stream("{}", false, false);
    check_stream("{\"stream\":null}", false, false);
    check_stream("{\"stream\":\"true\"}", false, false);
    check_stream("{\"stream\":1}", false, false);
    check_stream("{\"stream\":[true]}", false, false);
    check_stream("{\"stream\":{\"stream\":true}}", false, false);
    check_stream("{\"options\":{\"stream\":true},\"x\":\"stream\",\"streams\":true,\"stream_\":false}", false, false);
    check_stream("{\"stream\":true,\"stream\":false}", false, true); /* as most parsers have it */
    check_stream("{\"messages\":[{\"stream\":true}],\"metadata\":{\"stream\":true},\"stream\":false}", false, true);
}

/* Faults in what is looked into: the model is what it would be without anybody looking. */
static void test_session_broken(void **state)
{
    static const struct scan_case cases[] = {
        {"{\"messages\":[{\"role\":\"user\" 1}],\"model\":\"x\"}", "x", "C"},
        {"{\"messages\":[{role:1}],\"model\":\"x\"}", "x", "C"},
        {"{\"messages\":[{]}],\"model\":\"x\"}", "", "B"},
        {"{\"messages\":[{\"\\q\":1}],\"model\":\"x\"}", "x", "C"},
        {"{\"messages\":[{\"role\":\"\\q\"}],\"model\":\"x\"}", "x", "C"},
        {"{\"messages\":[1 2 ,,],\"model\":\"x\"}", "x", "C"},
        {"{\"messages\":[\x01],\"model\":\"x\"}", "", "B"},
        {"{\"messages\":[{\x01}],\"model\":\"x\"}", "", "B"},
        {"{\"metadata\":{\"user_id\":\"\\q_______\"},\"model\":\"x\"}", "x", "C"},
        {"{\"metadata\":{\"user_id\" 1},\"model\":\"x\"}", "x", "C"},
        {"{\"metadata\":{\"user_id\":\"12345678\"],\"model\":\"x\"}", "x", "C"},
        {"{\"metadata\":{1:2,\"user_id\":\"12345678\"},\"model\":\"x\"}", "x", "C"},
        {"{\"metadata\":{\x01},\"model\":\"x\"}", "", "B"},
        {"{\"prompt_cache_key\":\"\\u12\",\"model\":\"x\"}", "x", "C"},
        {"{\"prompt_cache_key\":\"12345678\" 1,\"model\":\"x\"}", "x", "C"},
        {"{\"prompt_cache_key\":\"12345678\" \"\",\"model\":\"x\"}", "", "B"},
        {"{\"prompt\":\"\\q\",\"model\":\"x\"}", "x", "C"},
        {"{\"prompt\":\"a\" b,\"model\":\"x\"}", "x", "C"},
        {"{\"prompt\":\"a\"]", "", "B"},
        {"{\"prompt\":\"a\"}}", "", "B"},
        {"{\"prompt\":,\"model\":\"x\"}", "", "B"},
        {"{\"messages\":[{\"role\":\"user\"", "", ""},
        {"{\"metadata\":{\"user_id\":\"\\", "", ""},
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        /* A bracket of the wrong kind closes, too: this is no validator. */
        check_scan(&cases[i]);
    }
}

static size_t random_message(char *to, size_t cap, const char *role, bool pretty)
{
    static const char letters[] = "abc{}[],: \\\"";
    char text[32];
    size_t n = 0;
    for (uint32_t k = 1 + chance(10); k > 0; k--) {
        char c = letters[chance(sizeof letters - 1)];
        if (c == '\\' || c == '"') {
            text[n++] = '\\';
        }
        text[n++] = c;
    }
    text[n] = '\0';
    return (size_t)snprintf(to, cap,
                            chance(2) ? "%s{\"role\":%s\"%s\",\"content\":\"%s\"}"
                                      : "%s{\"c\":[{}],\"role\":%s\"%s\",\"x\":\"%s\"}",
                            pretty ? "\n  " : "", pretty ? " " : "", role, text);
}

/* Conversations of all kinds, each of them twice: once it has just begun, once it has grown, with other things around. */
static void test_prefix_random(void **state)
{
    static char head[2048], young[4096], old[4096];
    static struct json_scan s;
    (void)state;

    for (int round = 0; round < 300; round++) {
        bool pretty = chance(2);
        size_t n = 0;
        head[0] = '\0';
        for (uint32_t k = chance(3); k > 0; k--) {
            n += random_message(head + n, sizeof head - n, chance(2) ? "system" : "assistant", pretty);
            n += (size_t)snprintf(head + n, sizeof head - n, ",");
        }
        n += random_message(head + n, sizeof head - n, "user", pretty);
        (void)snprintf(young, sizeof young, "{\"messages\":[%s],\"stream\":true}", head);
        for (uint32_t k = chance(4); k > 0; k--) {
            n += (size_t)snprintf(head + n, sizeof head - n, ",");
            n += random_message(head + n, sizeof head - n, chance(2) ? "user" : "assistant", pretty);
        }
        (void)snprintf(old, sizeof old, "{\"x\":{\"messages\":[]},\"messages\":[%s],\"model\":\"m\"}", head);
        scan_all_ways(young, strlen(young), &s);
        uint64_t one = s.prefix;
        assert_true(one != 0 && s.stream);
        scan_all_ways(old, strlen(old), &s);
        if (s.prefix != one || strcmp(s.model, "m") != 0) {
            fail_msg("%s\n%s", young, old);
        }
    }
}

/* ---- members ------------------------------------------------------------------ */

enum { MEMBER_CAP = 16 };

/* Feeds one piece; what comes out goes to the log, KEY=VALUE a line. */
static int members_piece(struct json_members *m, const char *p, size_t n, struct text *log)
{
    const char *at = guard_copy(p, n);
    int rc;
    do {
        size_t used = n + 1;
        rc = json_members_feed(m, at, n, &used);
        assert_true(used <= n);
        assert_true(rc != 0 || used == n);
        at += used;
        n -= used;
        if (rc == 1) {
            assert_true(m->n > 0 && m->n <= m->cap);
            text_addz(log, m->key);
            text_char(log, '=');
            text_add(log, (struct str){m->out, m->n});
            text_char(log, '\n');
        }
    } while (rc == 1);
    return rc;
}

/* In two pieces if cut > 0, or in pieces of that size. */
static const char *members_pieces(const char *doc, size_t n, size_t cut, size_t piece, struct text *log)
{
    static char out[MEMBER_CAP];
    struct json_members m;
    int rc = 0;

    json_members_start(&m, out, sizeof out);
    for (size_t i = 0; i < n && rc == 0;) {
        size_t len = cut > i ? cut - i : n - i;
        len = piece && piece < len ? piece : len;
        rc = members_piece(&m, doc + i, len, log);
        i += len;
    }
    assert_int_equal(rc, m.top.broken ? OLLA_ERR : 0);
    text_addz(log, rc == OLLA_ERR ? "broken" : m.top.state == JSON_DONE ? "done" : "more");
    if (rc == OLLA_ERR) { /* and stays so */
        size_t used = 0;
        assert_int_equal(json_members_feed(&m, "{\"a\":1}", 7, &used), OLLA_ERR);
    }
    assert_false(log->full);
    return text_z(log);
}

static void check_members(const char *doc, size_t n, const char *expected)
{
    static char mem[1024];
    struct text t = text_in(mem, sizeof mem);

    assert_string_equal(members_pieces(doc, n, 0, 0, &t), expected);
    for (size_t piece = 1; piece < 5; piece++) {
        t = text_in(mem, sizeof mem);
        assert_string_equal(members_pieces(doc, n, 0, piece, &t), expected);
    }
    for (size_t cut = 1; cut < n; cut++) {
        t = text_in(mem, sizeof mem);
        assert_string_equal(members_pieces(doc, n, cut, 0, &t), expected);
    }
}

#define KEY_32 "01234567890123456789012345678901"

static const struct {
    const char *doc, *expected;
} members_cases[] = {
    /* every kind of value, as it was written */
    {"{\"a\":\"x\",\"b\":-1.5e+3,\"c\":true,\"d\":false,\"e\":null,\"f\":{},\"g\":[]}",
     "a=\"x\"\nb=-1.5e+3\nc=true\nd=false\ne=null\nf={}\ng=[]\ndone"},
    {"{\"a\":{\"b\":[1,{}]},\"c\":[{ } , 2]}", "a={\"b\":[1,{}]}\nc=[{ } , 2]\ndone"},
    {"{\"a\":\"\\\"}\\\\\",\"b\":\"\\u0022,\"}", "a=\"\\\"}\\\\\"\nb=\"\\u0022,\"\ndone"},
    {"{\"a\":[\"]\\\"\"],\"b\":{\"}\":1}}", "a=[\"]\\\"\"]\nb={\"}\":1}\ndone"},
    {" \n{ \"a\" : 1 , \"b\" :\t\"x y\" ,\"c\": 0 } \n", "a=1\nb=\"x y\"\nc=0\ndone"},
    {BOM "{\"a\":\"\"}", "a=\"\"\ndone"},
    {"{\"a\":1}", "a=1\ndone"},
    {"{}", "done"},
    /* keys */
    {"{\"\":1,\"\\u0061\\n\":2,\"a\":3,\"a\":4}", "=1\na\n=2\na=3\na=4\ndone"},
    {"{\"" KEY_32 "\":1,\"" KEY_32 "2\":2,\"" KEY_32 "\\\"" KEY_32 "\":3,\"b\":4}",
     KEY_32 "=1\n" KEY_32 "=2\n" KEY_32 "=3\nb=4\ndone"},
    {"{\"a\":{\"inner\":1},\"b\":\"a\"}", "a={\"inner\":1}\nb=\"a\"\ndone"},
    /* what is larger than 16 bytes is passed over */
    {"{\"a\":\"23456789012345\",\"b\":\"234567890123456\",\"c\":1}", "a=\"23456789012345\"\nc=1\ndone"},
    {"{\"a\":1234567890123456,\"b\":12345678901234567,\"c\":1}", "a=1234567890123456\nc=1\ndone"},
    {"{\"a\":[3,5,7,9,1,3,56],\"b\":[3,5,7,9,1,3,567],\"c\":1}", "a=[3,5,7,9,1,3,56]\nc=1\ndone"},
    {"{\"b\":{\"x\":\"}}}}}}}}}}}}}}}}}}}}\"}}", "done"},
    /* behind the end comes nothing */
    {"{\"a\":1}{\"b\":2}", "a=1\ndone"},
    {"{\"a\":1}}]\"x", "a=1\ndone"},
    /* not there yet: the end of a number shows only behind it */
    {"", "more"},
    {"{\"a\":12", "more"},
    {"{\"a\":1,\"b\":\"x", "a=1\nmore"},
    {"{\"a\":{}", "a={}\nmore"},
    {"{\"a\"", "more"},
    /* broken */
    {"[1]", "broken"},
    {"null", "broken"},
    {"{\"a\":1,b:2}", "a=1\nbroken"},
    {"{\"a\":1 \"b\":2}", "a=1\nbroken"},
    {"{\"a\":1;\"b\":2}", "a=1\nbroken"},
    {"{\"a\":,\"b\":2}", "broken"},
    {"{\"a\":}", "broken"},
    {"{\"a\":[1;2],\"b\":2}", "broken"},
    {"{\"a\":{\"b\":\x01}}", "broken"},
    {"{\"\\q\":1}", "broken"},
};

static void test_members_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(members_cases); i++) {
        check_members(members_cases[i].doc, strlen(members_cases[i].doc), members_cases[i].expected);
    }
}

/* A NUL is a byte like others in a string, and none of JSON's outside. */
static void test_members_nul(void **state)
{
    static const char inside[] = "{\"a\":\"x\0y\",\"b\":1}", outside[] = "{\"a\":[\0],\"b\":1}";
    char out[8];
    struct json_members m;
    size_t used = 0;

    (void)state;
    json_members_start(&m, out, sizeof out);
    assert_int_equal(json_members_feed(&m, inside, sizeof inside - 1, &used), 1);
    assert_int_equal(m.n, 5);
    assert_memory_equal(out, "\"x\0y\"", 5);
    check_members(outside, sizeof outside - 1, "broken");
}

/* The largest value that fits, and one byte less room; no room at all. */
static void test_members_room(void **state)
{
    static const char doc[] = "{\"k\":[12345],\"l\":1}";
    char out[8];
    struct json_members m;
    size_t used = 0;

    (void)state;
    memset(out, '#', sizeof out);
    json_members_start(&m, out, 7);
    assert_int_equal(json_members_feed(&m, doc, sizeof doc - 1, &used), 1);
    assert_string_equal(m.key, "k");
    assert_int_equal(used, 12);
    assert_memory_equal(out, "[12345]#", 8);
    json_members_start(&m, out, 6);
    assert_int_equal(json_members_feed(&m, doc, sizeof doc - 1, &used), 1);
    assert_string_equal(m.key, "l");
    assert_int_equal(m.n, 1);
    assert_memory_equal(out, "1", 1);
    assert_int_equal(out[7], '#');
    json_members_start(&m, NULL, 0);
    assert_int_equal(json_members_feed(&m, doc, sizeof doc - 1, &used), 0);
    assert_int_equal(used, sizeof doc - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members_cases),    cmocka_unit_test(test_members_nul),
        cmocka_unit_test(test_members_room),     cmocka_unit_test(test_scan_cases),
        cmocka_unit_test(test_scan_name),        cmocka_unit_test(test_scan_range),
        cmocka_unit_test(test_scan_truncated),   cmocka_unit_test(test_scan_nul_bytes),
        cmocka_unit_test(test_scan_big_string),  cmocka_unit_test(test_scan_deep),
        cmocka_unit_test(test_scan_random),      cmocka_unit_test(test_list_cases),
        cmocka_unit_test(test_list_room),        cmocka_unit_test(test_user_id),
        cmocka_unit_test(test_cache_key),        cmocka_unit_test(test_conversation),
        cmocka_unit_test(test_session_together), cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_prefix_bytes),     cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_prefix_max),       cmocka_unit_test(test_prompt_n),
        cmocka_unit_test(test_stream),           cmocka_unit_test(test_session_broken),
        cmocka_unit_test(test_prefix_random),    cmocka_unit_test(test_prompt_list_brackets),
        cmocka_unit_test(test_user_id_overlap),  cmocka_unit_test(test_empty_conversation),
        cmocka_unit_test(test_empty_messages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
