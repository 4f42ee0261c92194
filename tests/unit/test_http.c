/*
 * test_http.c - heads, bodies, paths and small tables of http*.c.
 *
 * Every message is fed whole, byte by byte, and cut in two at every place, and must
 * always give the same result. All input lies flush against a guard page.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/http.h"
#include "guard.h"

#define HOST "Host: a\r\n"
#define END  "\r\n"

/* A string literal that may hold NUL. */
#define BYTES(lit)           \
    {                        \
        lit, sizeof(lit) - 1 \
    }

/* ---- feeding heads ------------------------------------------------------------ */

/* Feeds the first cut bytes, then all; with step 1 every length in between. */
static long find_end(struct str s, size_t cut, bool bytewise, struct http_error *err)
{
    size_t scanned = 0;
    long rc = OLLA_AGAIN;

    for (size_t n = bytewise ? 0 : cut; rc == OLLA_AGAIN; n = bytewise ? n + 1 : s.n) {
        /* A copy per step: no byte behind those that have arrived may be looked at. */
        rc = http_find_end((struct str){guard_copy(s.p, n), n}, &scanned, err);
        assert_true(scanned <= n);
        if (n == s.n) {
            break;
        }
    }
    return rc;
}

/* The end by all ways of feeding. */
static long find_end_all_ways(struct str s, struct http_error *err)
{
    struct http_error again = {0, NULL};
    long rc = find_end(s, s.n, false, err);

    assert_int_equal(find_end(s, 0, true, &again), rc);
    for (size_t cut = 0; cut <= s.n; cut++) {
        assert_int_equal(find_end(s, cut, false, &again), rc);
        if (rc == OLLA_ERR) {
            assert_int_equal(again.status, err->status);
        }
    }
    return rc;
}

static int parse_request(struct str s, struct http_request *out, struct http_error *err)
{
    struct http_error ignored = {0, NULL};
    long n = find_end_all_ways(s, err);

    if (n == OLLA_ERR) {
        /* The parser proper must not be weaker than the search for the end. */
        assert_int_equal(http_parse_request((struct str){guard_copy(s.p, s.n), s.n}, out, &ignored), OLLA_ERR);
        return OLLA_ERR;
    }
    assert_true(n > 0);
    /* A head that is not whole must never pass. */
    for (size_t cut = 0; cut < (size_t)n; cut++) {
        assert_int_equal(http_parse_request((struct str){guard_copy(s.p, cut), cut}, out, &ignored), OLLA_ERR);
        assert_non_null(ignored.why);
    }
    return http_parse_request((struct str){guard_copy(s.p, (size_t)n), (size_t)n}, out, err);
}

static int parse_response(struct str s, const char *method, struct http_response *out, struct http_error *err)
{
    struct http_error ignored = {0, NULL};
    long n = find_end_all_ways(s, err);

    if (n == OLLA_ERR) {
        err->status = 502;
        assert_int_equal(http_parse_response((struct str){guard_copy(s.p, s.n), s.n}, str_of(method), out, &ignored),
                         OLLA_ERR);
        assert_int_equal(ignored.status, 502);
        return OLLA_ERR;
    }
    assert_true(n > 0);
    for (size_t cut = 0; cut < (size_t)n; cut++) {
        assert_int_equal(http_parse_response((struct str){guard_copy(s.p, cut), cut}, str_of(method), out, &ignored),
                         OLLA_ERR);
        assert_int_equal(ignored.status, 502);
    }
    return http_parse_response((struct str){guard_copy(s.p, (size_t)n), (size_t)n}, str_of(method), out, err);
}

static void assert_str(struct str s, const char *z)
{
    if (!str_eq(s, str_of(z))) {
        print_error("got '%.*s', wanted '%s'\n", (int)s.n, s.p ? s.p : "", z);
        fail();
    }
}

/* ---- finding the end ------------------------------------------------------------- */

static void test_find_end(void **state)
{
    static const struct {
        struct str in;
        long want;
        int status;
    } cases[] = {
        {BYTES(""), OLLA_AGAIN, 0},
        {BYTES("G"), OLLA_AGAIN, 0},
        {BYTES("GET / HTTP/1.1\r"), OLLA_AGAIN, 0},
        {BYTES("GET / HTTP/1.1\r\n"), OLLA_AGAIN, 0},
        {BYTES("GET / HTTP/1.1\r\n\r"), OLLA_AGAIN, 0},
        {BYTES("GET / HTTP/1.1\r\n\r\n"), 18, 0},
        {BYTES("GET / HTTP/1.1\r\nA: b\r\n\r\nbody"), 24, 0},
        {BYTES("GET / HTTP/1.1\r\n\r\n\n\r\0"), 18, 0}, /* what follows is not looked at */
        {BYTES("\r\n"), 2, 0},
        {BYTES("\r"), OLLA_AGAIN, 0},
        {BYTES("\n"), OLLA_ERR, 400},
        {BYTES("\r\r"), OLLA_ERR, 400},
        {BYTES("G\n"), OLLA_ERR, 400},
        {BYTES("G\0"), OLLA_ERR, 400},
        {BYTES("G\rx"), OLLA_ERR, 400},
        {BYTES("G\r\n\n"), OLLA_ERR, 400},
        {BYTES("G\r\n\r\r\n"), OLLA_ERR, 400},
        {BYTES("G\r\nA: b\n\r\n"), OLLA_ERR, 400},
        {BYTES("\x16\x03\x01\x00\xa5"), OLLA_ERR, 400}, /* TLS on the plain port */
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        struct http_error err = {0, NULL};
        if (find_end_all_ways(cases[i].in, &err) != cases[i].want || err.status != cases[i].status) {
            fail_msg("case %zu: status %d", i, err.status);
        }
    }
}

static void test_find_end_null(void **state)
{
    struct http_error err;
    size_t scanned = 0;
    (void)state;

    assert_int_equal(http_find_end((struct str){NULL, 0}, &scanned, &err), OLLA_AGAIN);
    assert_int_equal(scanned, 0);
}

static void test_skip_blank_lines(void **state)
{
    (void)state;
    assert_int_equal(http_skip_blank_lines(STR("")), 0);
    assert_int_equal(http_skip_blank_lines((struct str){guard_copy("\r", 1), 1}), 0);
    assert_int_equal(http_skip_blank_lines(STR("\r\n")), 2);
    assert_int_equal(http_skip_blank_lines(STR("\r\n\r\nGET")), 2);
    assert_int_equal(http_skip_blank_lines(STR("\nGET")), 0);
    assert_int_equal(http_skip_blank_lines(STR("GET")), 0);
}

/* A head of about size bytes with lines of 200; returns its exact length. */
static size_t make_head(char *to, size_t size)
{
    struct text t = text_in(to, size);
    unsigned i = 0;

    text_addz(&t, "GET /big HTTP/1.1\r\nHost: a\r\n");
    while (t.n + 202 <= size) {
        text_addz(&t, "X-Line-");
        text_padded(&t, i++, 4);
        text_addz(&t, ": ");
        while (t.n % 200 != 0) {
            text_char(&t, 'v');
        }
        text_addz(&t, "\r\n");
    }
    text_addz(&t, "\r\n");
    assert_false(t.full);
    return t.n;
}

static void test_big_head_bytewise(void **state)
{
    static char head[14000];
    size_t n = make_head(head, sizeof(head));
    size_t scanned = 0;
    struct http_error err;
    struct http_request r;
    char *p = guard_room(n);
    (void)state;

    for (size_t i = 1; i < n; i++) {
        memcpy(p, head, i);
        size_t before = scanned;
        assert_int_equal(http_find_end((struct str){p, i}, &scanned, &err), OLLA_AGAIN);
        /* All but a CR at the end is settled, so nothing is looked at more than twice. */
        assert_true(scanned >= before && scanned + 1 >= i);
    }
    memcpy(p, head, n);
    assert_int_equal(http_find_end((struct str){p, n}, &scanned, &err), n);
    assert_int_equal(http_parse_request((struct str){p, n}, &r, &err), OLLA_OK);
    assert_str(r.path, "/big");
    assert_int_equal(http_get(r.fields, STR("x-line-0050")).n, 185);
}

static void test_head_too_large(void **state)
{
    static char head[OLLA_MAX_HEAD + 10];
    struct http_error err;
    size_t scanned = 0;
    (void)state;

    memset(head, 'a', sizeof(head));
    assert_int_equal(http_find_end((struct str){head, OLLA_MAX_HEAD - 1}, &scanned, &err), OLLA_AGAIN);
    assert_int_equal(http_find_end((struct str){head, OLLA_MAX_HEAD}, &scanned, &err), OLLA_ERR);
    assert_int_equal(err.status, 431);
    scanned = 0;
    assert_int_equal(http_find_end((struct str){head, sizeof(head)}, &scanned, &err), OLLA_ERR);
    assert_int_equal(err.status, 431);

    /* Exactly as large as allowed, and one byte more. */
    memcpy(head + OLLA_MAX_HEAD - 4, "\r\n\r\n", 4);
    scanned = 0;
    assert_int_equal(http_find_end((struct str){head, sizeof(head)}, &scanned, &err), OLLA_MAX_HEAD);
    memcpy(head + OLLA_MAX_HEAD - 4, "a\r\n\r\n", 5);
    scanned = 0;
    assert_int_equal(http_find_end((struct str){head, sizeof(head)}, &scanned, &err), OLLA_ERR);
    assert_int_equal(err.status, 431);
}

static void test_header_count(void **state)
{
    static char head[OLLA_MAX_HEAD];
    struct http_error err;
    struct http_request r;
    (void)state;

    for (unsigned extra = 0; extra < 2; extra++) {
        struct text t = text_in(head, sizeof(head));
        text_addz(&t, "GET / HTTP/1.0\r\n");
        for (unsigned i = 0; i < OLLA_MAX_HEADERS + extra; i++) {
            text_addz(&t, "A: b\r\n");
        }
        text_addz(&t, "\r\n");
        assert_int_equal(http_parse_request(text_str(&t), &r, &err), extra ? OLLA_ERR : OLLA_OK);
    }
    assert_int_equal(err.status, 431);
}

/* ---- requests ------------------------------------------------------------------------ */

struct refused {
    int status;
    struct str in;
};

#define NO(status, lit)    \
    {                      \
        status, BYTES(lit) \
    }
#define GET11        \
    "GET / HTTP/1.1" \
    "\r\n" HOST
#define POST11        \
    "POST / HTTP/1.1" \
    "\r\n" HOST

static const struct refused refused_requests[] = {
    /* request line */
    NO(400, "\r\n"),
    NO(400, " \r\n\r\n"),
    NO(400, "GET\r\n" HOST END),
    NO(400, "GET \r\n" HOST END),
    NO(400, "GET /\r\n" HOST END),
    NO(400, "GET / \r\n" HOST END),
    NO(400, " GET / HTTP/1.1\r\n" HOST END),
    NO(400, "GET  / HTTP/1.1\r\n" HOST END),
    NO(400, "GET /  HTTP/1.1\r\n" HOST END),
    NO(400, "GET / HTTP/1.1 \r\n" HOST END),
    NO(400, "GET\t/ HTTP/1.1\r\n" HOST END),
    NO(400, "GET /\tHTTP/1.1\r\n" HOST END),
    NO(400, "GET / x HTTP/1.1\r\n" HOST END),
    NO(400, "G@T / HTTP/1.1\r\n" HOST END),
    NO(400, "G\xc3T / HTTP/1.1\r\n" HOST END),
    NO(400, "GET: / HTTP/1.1\r\n" HOST END),
    NO(400, "GET / http/1.1\r\n" HOST END),
    NO(400, "GET / HTTP/1\r\n" HOST END),
    NO(400, "GET / HTTP/1.\r\n" HOST END),
    NO(400, "GET / HTTP/1.10\r\n" HOST END),
    NO(400, "GET / HTTP/01.1\r\n" HOST END),
    NO(400, "GET / HTTP/1,1\r\n" HOST END),
    NO(400, "GET / HTTP/x.1\r\n" HOST END),
    NO(400, "GET / HTTPS/1.1\r\n" HOST END),
    NO(505, "GET / HTTP/2.0\r\n" HOST END),
    NO(505, "GET / HTTP/0.9\r\n" HOST END),
    NO(505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    /* target */
    NO(400, "GET foo HTTP/1.1\r\n" HOST END),
    NO(400, "GET * HTTP/1.1\r\n" HOST END),
    NO(400, "OPTIONS *x HTTP/1.1\r\n" HOST END),
    NO(400, "GET ?a=b HTTP/1.1\r\n" HOST END),
    NO(400, "GET /a#b HTTP/1.1\r\n" HOST END),
    NO(400, "GET http://a/#b HTTP/1.1\r\n" HOST END),
    NO(400, "GET /a\tb HTTP/1.1\r\n" HOST END),
    NO(400, "GET /a\x7f HTTP/1.1\r\n" HOST END),
    NO(400, "GET /a\x01 HTTP/1.1\r\n" HOST END),
    NO(400, "GET /\0 HTTP/1.1\r\n" HOST END),
    NO(400, "GET http:// HTTP/1.1\r\n" HOST END),
    NO(400, "GET http:///a HTTP/1.1\r\n" HOST END),
    NO(400, "GET http://:80/a HTTP/1.1\r\n" HOST END),
    NO(400, "GET http://u@h/a HTTP/1.1\r\n" HOST END),
    NO(400, "GET http://h:x/a HTTP/1.1\r\n" HOST END),
    NO(400, "GET http:/h/a HTTP/1.1\r\n" HOST END),
    NO(400, "GET ftp://h/a HTTP/1.1\r\n" HOST END),
    NO(400, "CONNECT a:443 HTTP/1.1\r\n" HOST END),
    NO(400, "CONNECT / HTTP/1.1\r\n" HOST END),
    /* line discipline */
    NO(400, "GET / HTTP/1.1\n" HOST END),
    NO(400, "GET / HTTP/1.1\r\nHost: a\n" END),
    NO(400, "GET / HTTP/1.1\r\r\n" HOST END),
    NO(400, GET11 "A: b\r\r\n" END),
    NO(400, GET11 "A: b\rc\r\n" END),
    NO(400, GET11 "A: b\nc: d\r\n" END),
    NO(400, GET11 "A: b\0\r\n" END),
    NO(400, GET11 "A: b\x01\r\n" END),
    NO(400, GET11 "A: b\x0b\r\n" END),
    NO(400, GET11 "A: a long value before a \x7f, and more\r\n" END),
    NO(400, GET11 "A: a long value with a tab\t before a \x1f\r\n" END),
    NO(400, GET11 "A: b\r\n c\r\n" END),
    NO(400, GET11 "A: b\r\n\tc\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n Host: a\r\n" END),
    NO(400, GET11 "A : b\r\n" END),
    NO(400, GET11 "A\t: b\r\n" END),
    NO(400, GET11 ": b\r\n" END),
    NO(400, GET11 "A\r\n" END),
    NO(400, GET11 "A b: c\r\n" END),
    NO(400, GET11 "A\xe4: c\r\n" END),
    NO(400, GET11 "A(b): c\r\n" END),
    NO(400, GET11 "A\0: c\r\n" END),
    /* Host */
    NO(400, "GET / HTTP/1.1\r\n\r\n"),
    NO(400, "GET / HTTP/1.1\r\nHosts: a\r\n" END),
    NO(400, GET11 HOST END),
    NO(400, GET11 "host: b\r\n" END),
    NO(400, "GET http://a/ HTTP/1.1\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a/b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a,b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: u@a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a:b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a:1:2\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a:65536\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: ::1\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: [::1\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: []\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: [::1]x\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: [a.example]\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a\xc3\xa4\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: <a>\r\n" END),
    NO(400, "GET http://b/ HTTP/1.1\r\nHost: a?\r\n" END),
    /* Content-Length */
    NO(400, POST11 "Content-Length:\r\n" END),
    NO(400, POST11 "Content-Length: -1\r\n" END),
    NO(400, POST11 "Content-Length: +1\r\n" END),
    NO(400, POST11 "Content-Length: 1 2\r\n" END),
    NO(400, POST11 "Content-Length: 0x10\r\n" END),
    NO(400, POST11 "Content-Length: 1e3\r\n" END),
    NO(400, POST11 "Content-Length: 1.0\r\n" END),
    NO(400, POST11 "Content-Length: \"1\"\r\n" END),
    NO(400, POST11 "Content-Length: 1;\r\n" END),
    NO(400, POST11 "Content-Length: \xd9\xa1\r\n" END),
    NO(400, POST11 "Content-Length: 9223372036854775808\r\n" END),
    NO(400, POST11 "Content-Length: 18446744073709551617\r\n" END),
    NO(400, POST11 "Content-Length: 100000000000000000000000\r\n" END),
    NO(400, POST11 "Content-Length: 5, 5\r\n" END),
    NO(400, POST11 "Content-Length: 5,\r\n" END),
    NO(400, POST11 "Content-Length: 5\r\nContent-Length: 5\r\n" END),
    NO(400, POST11 "Content-Length: 5\r\ncontent-length: 6\r\n" END),
    NO(400, POST11 "Content-Length : 5\r\n" END),
    /* Transfer-Encoding */
    NO(400, POST11 "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" END),
    NO(400, POST11 "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n" END),
    NO(400, POST11 "Transfer-Encoding: gzip\r\nContent-Length: 5\r\n" END),
    NO(400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" END),
    NO(400, "POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n" END),
    NO(400, POST11 "Transfer-Encoding:\r\n" END),
    NO(400, POST11 "Transfer-Encoding: ,chunked\r\n" END),
    NO(400, POST11 "Transfer-Encoding: chunked,\r\n" END),
    NO(400, POST11 "Transfer-Encoding: chunked, chunked\r\n" END),
    NO(400, POST11 "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" END),
    NO(400, POST11 "Transfer-Encoding: chunked, gzip\r\n" END),
    NO(400, POST11 "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" END),
    NO(400, POST11 "Transfer-Encoding: chunked\x0b\r\n" END),
    NO(400, POST11 "Transfer-Encoding:\r\n chunked\r\n" END),
    NO(501, POST11 "Transfer-Encoding: gzip\r\n" END),
    NO(501, POST11 "Transfer-Encoding: identity\r\n" END),
    NO(501, POST11 "Transfer-Encoding: gzip, chunked\r\n" END),
    NO(501, POST11 "Transfer-Encoding: xchunked\r\n" END),
    NO(501, POST11 "Transfer-Encoding: chunked;q=1\r\n" END),
    NO(501, POST11 "Transfer-Encoding: \"chunked\"\r\n" END),
    NO(501, POST11 "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n" END),
};

static void test_refused_requests(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(refused_requests); i++) {
        struct http_error err = {0, NULL};
        struct http_request r;
        const struct refused *c = &refused_requests[i];
        int rc = parse_request(c->in, &r, &err);
        if (rc != OLLA_ERR || err.status != c->status || !err.why) {
            fail_msg("case %zu, rc %d, status %d: %.*s", i, rc, err.status, (int)c->in.n, c->in.p);
        }
    }
}

static void test_why_missing_and_malformed_host(void **state)
{
    struct http_error err;
    struct http_request r;
    (void)state;

    assert_int_equal(http_parse_request(STR("GET / HTTP/1.1\r\n\r\n"), &r, &err), OLLA_ERR);
    assert_string_equal(err.why, "missing required Host header");
    assert_int_equal(http_parse_request(STR("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), &r, &err), OLLA_ERR);
    assert_string_equal(err.why, "malformed Host header");
    assert_int_equal(http_parse_request(STR(GET11 "A : b\r\n\r\n"), &r, &err), OLLA_ERR);
    assert_string_equal(err.why, "invalid header name");
    assert_int_equal(http_parse_request(STR("GET / HTTP/1.0\r\ncontent_LENGTH: 1\r\n\r\n"), &r, &err), OLLA_ERR);
    assert_int_equal(http_parse_request(STR("GET / HTTP/1.0\r\nTransfer_Encoding:\r\n\r\n"), &r, &err), OLLA_ERR);
    assert_string_equal(err.why, "a header that frames the body, written with an underscore");
    assert_int_equal(http_parse_request(STR("GET / HTTP/1.0\r\nContent_Lengths: 1\r\nContent_Type: a\r\n\r\n"), &r,
                                        &err),
                     OLLA_OK);
    assert_int_equal(http_parse_request(STR("GET / HTTP/3.0\r\n\r\n"), &r, &err), OLLA_ERR);
    assert_string_equal(err.why, "unsupported protocol version");
    assert_int_equal(http_parse_request(STR("CONNECT a:1 HTTP/1.1\r\n\r\n"), &r, &err), OLLA_ERR);
    assert_string_equal(err.why, "CONNECT is not supported");
}

struct target_case {
    struct str in;
    const char *path;
    const char *query;
    const char *host;
};

static void test_targets(void **state)
{
    static const struct target_case cases[] = {
        {BYTES(GET11 END), "/", "", "a"},
        {BYTES("FOO /x HTTP/1.1\r\n" HOST END), "/x", "", "a"},
        {BYTES("GET /a?b=c?d HTTP/1.1\r\n" HOST END), "/a", "?b=c?d", "a"},
        {BYTES("GET /a? HTTP/1.1\r\n" HOST END), "/a", "", "a"},
        {BYTES("GET //x/../y HTTP/1.1\r\n" HOST END), "//x/../y", "", "a"},
        {BYTES("GET /%2e%zz\"<>|{} HTTP/1.1\r\n" HOST END), "/%2e%zz\"<>|{}", "", "a"},
        {BYTES("GET /\xc3\xa4 HTTP/1.1\r\n" HOST END), "/\xc3\xa4", "", "a"},
        {BYTES("GET http://h/a HTTP/1.1\r\n" HOST END), "/a", "", "h"},
        {BYTES("GET HTTPS://h:1/a?b HTTP/1.1\r\n" HOST END), "/a", "?b", "h:1"},
        {BYTES("GET http://h HTTP/1.1\r\n" HOST END), "/", "", "h"},
        {BYTES("GET http://[::1]:80?x HTTP/1.1\r\n" HOST END), "/", "?x", "[::1]:80"},
        {BYTES("OPTIONS * HTTP/1.1\r\n" HOST END), "*", "", "a"},
        {BYTES("OPTIONS /a HTTP/1.1\r\n" HOST END), "/a", "", "a"},
        {BYTES("GET / HTTP/1.1\r\nHost:\r\n" END), "/", "", ""},
        {BYTES("GET / HTTP/1.1\r\nHost: \t a.b-c_d:8080 \t \r\n" END), "/", "", "a.b-c_d:8080"},
        {BYTES("GET / HTTP/1.1\r\nHost: a:\r\n" END), "/", "", "a:"},
        {BYTES("GET / HTTP/1.1\r\nhOST: [fe80::1.2.3.4]:1\r\n" END), "/", "", "[fe80::1.2.3.4]:1"},
        {BYTES("GET / HTTP/1.0\r\n" END), "/", "", ""},
        {BYTES("GET / HTTP/1.9\r\n" HOST END), "/", "", "a"},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        struct http_error err = {0, NULL};
        struct http_request r;
        if (parse_request(cases[i].in, &r, &err) != OLLA_OK) {
            fail_msg("case %zu refused: %s", i, err.why);
        }
        assert_str(r.path, cases[i].path);
        assert_str(r.query, cases[i].query);
        assert_str(r.host, cases[i].host);
    }
}

enum { KEEP = 1, EXPECT = 2, JSON = 4, BODY = 8 };

struct accepted {
    struct str in;
    unsigned flags;
    enum http_framing framing;
    uint64_t length;
};

static const struct accepted accepted_requests[] = {
    {BYTES(GET11 END), KEEP, HTTP_NO_BODY, 0},
    {BYTES(GET11 "Connection: close\r\n" END), 0, HTTP_NO_BODY, 0},
    {BYTES(GET11 "Connection: x,  Close ,y\r\n" END), 0, HTTP_NO_BODY, 0},
    {BYTES(GET11 "Connection: keep-alive\r\nConnection: close\r\n" END), 0, HTTP_NO_BODY, 0},
    {BYTES(GET11 "Connection: closed\r\n" END), KEEP, HTTP_NO_BODY, 0},
    {BYTES("GET / HTTP/1.0\r\n" END), 0, HTTP_NO_BODY, 0},
    {BYTES("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n" END), KEEP, HTTP_NO_BODY, 0},
    {BYTES("GET / HTTP/1.0\r\nConnection: Keep-Alive, close\r\n" END), 0, HTTP_NO_BODY, 0},
    {BYTES(POST11 "Content-Length: 5\r\n" END "hello"), KEEP | BODY, HTTP_LENGTH, 5},
    {BYTES(POST11 "content-length:0\r\n" END), KEEP, HTTP_LENGTH, 0},
    {BYTES(POST11 "Content-Length: 007\r\n" END), KEEP | BODY, HTTP_LENGTH, 7},
    {BYTES(POST11 "Content-Length: 9223372036854775807 \r\n" END), KEEP | BODY, HTTP_LENGTH, INT64_MAX},
    {BYTES("POST / HTTP/1.0\r\nContent-Length: 5\r\n" END), BODY, HTTP_LENGTH, 5},
    {BYTES(POST11 "Transfer-Encoding: chunked\r\n" END), KEEP | BODY, HTTP_CHUNKED, 0},
    {BYTES(POST11 "transfer-encoding:\tCHUNKED\t\r\n" END), KEEP | BODY, HTTP_CHUNKED, 0},
    {BYTES(POST11 "Transfer-Encodings: gzip\r\n" END), KEEP, HTTP_NO_BODY, 0},
    {BYTES(POST11 "Expect: 100-Continue\r\nContent-Length: 1\r\n" END), KEEP | EXPECT | BODY, HTTP_LENGTH, 1},
    {BYTES("POST / HTTP/1.0\r\nExpect: 100-continue\r\n" END), 0, HTTP_NO_BODY, 0},
    {BYTES(GET11 "Connection: Upgrade\r\nUpgrade: websocket\r\n" END), KEEP, HTTP_NO_BODY, 0},
    {BYTES(GET11 "Upgrade: h2c, WebSocket\r\nConnection: a\r\nConnection: b, UPGRADE\r\n" END), KEEP, HTTP_NO_BODY, 0},
    {BYTES(GET11 "Upgrade: websocket\r\n" END), KEEP, HTTP_NO_BODY, 0},
    {BYTES(GET11 "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" END), KEEP, HTTP_NO_BODY, 0},
    {BYTES(POST11 "Content-Type: application/json; charset=utf-8\r\n" END), KEEP | JSON, HTTP_NO_BODY, 0},
    {BYTES(POST11 "Content-Type: text/x, Application/JSON\r\n" END), KEEP | JSON, HTTP_NO_BODY, 0},
    {BYTES(POST11 "Content-Type: application/jso\r\n" END), KEEP, HTTP_NO_BODY, 0},
    {BYTES(GET11 "A:\r\nB: \t \r\nC: x\ty\xff\x80\r\n" END), KEEP, HTTP_NO_BODY, 0},
    {BYTES(GET11 "!#$%&'*+-.^_`|~09azAZ: x\r\n" END), KEEP, HTTP_NO_BODY, 0},
};

static void test_accepted_requests(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(accepted_requests); i++) {
        const struct accepted *c = &accepted_requests[i];
        struct http_error err = {0, NULL};
        struct http_request r;
        if (parse_request(c->in, &r, &err) != OLLA_OK) {
            fail_msg("case %zu refused: %s", i, err.why);
        }
        unsigned flags = (r.keep_alive ? KEEP : 0u) | (r.expect_continue ? EXPECT : 0u) | (r.json ? JSON : 0u) |
                         (r.has_body ? BODY : 0u);
        if (flags != c->flags || r.framing != c->framing || r.length != c->length) {
            fail_msg("case %zu: flags %u, framing %d", i, flags, (int)r.framing);
        }
    }
}

static void test_request_slices(void **state)
{
    struct http_error err;
    struct http_request r;
    struct http_field f;
    (void)state;

    assert_int_equal(http_parse_request(STR("POST /p?q HTTP/1.1\r\nHost: h\r\nX-A:  one \r\nConnection: close, x-a\r\n"
                                            "X-A: two\r\nEmpty:\r\n\r\n"),
                                        &r, &err),
                     OLLA_OK);
    assert_str(r.method, "POST");
    assert_int_equal(r.minor, 1);

    struct str rest = r.fields;
    assert_true(http_next_field(&rest, &f));
    assert_str(f.line, "Host: h\r\n");
    assert_true(http_next_field(&rest, &f));
    assert_str(f.name, "X-A");
    assert_str(f.value, "one");
    assert_str(f.line, "X-A:  one \r\n");
    assert_true(http_next_field(&rest, &f) && http_next_field(&rest, &f) && http_next_field(&rest, &f));
    assert_str(f.name, "Empty");
    assert_str(f.value, "");
    assert_false(http_next_field(&rest, &f));

    assert_str(http_get(r.fields, STR("x-a")), "one");
    assert_str(http_get(r.fields, STR("EMPTY")), "");
    assert_non_null(http_get(r.fields, STR("EMPTY")).p);
    assert_null(http_get(r.fields, STR("X")).p);
    assert_null(http_get((struct str){NULL, 0}, STR("X")).p);
}

static void test_unchecked_lines_are_safe(void **state)
{
    static const char junk[] = "A: b\r\nno colon\r\n:\n\nlast: no end";
    (void)state;

    for (size_t n = 0; n < sizeof(junk); n++) {
        struct str rest = {guard_copy(junk, n), n};
        struct http_field f;
        (void)http_get(rest, STR("last"));
        (void)http_hop_by_hop(rest, STR("last"));
        size_t seen = 0;
        while (http_next_field(&rest, &f)) {
            seen += f.line.n;
        }
        assert_int_equal(seen, n);
    }
}

static void test_hop_by_hop(void **state)
{
    static const char *const always[] = {
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "HTTP2-Settings",
        "te",
        "KEEP-ALIVE",
        "http2-settings",
    };
    static const char *const never[] = {
        "", "T", "TX", "Host", "Content-Length", "Trailers", "Upgrades", "Connections", "Authorization", "Keep_Alive",
    };
    struct http_error err;
    struct http_request r;
    (void)state;

    assert_int_equal(http_parse_request(STR(GET11 "Connection: keep-alive, Upgrade, TE\r\nTE: trailers\r\n\r\n"), &r,
                                        &err),
                     OLLA_OK);
    assert_int_equal(r.hop_fields.n, 0);
    for (size_t i = 0; i < OLLA_COUNT(always); i++) {
        assert_true(http_hop_by_hop(r.fields, str_of(always[i])));
        assert_true(http_hop_by_hop(r.hop_fields, str_of(always[i])));
    }
    for (size_t i = 0; i < OLLA_COUNT(never); i++) {
        assert_false(http_hop_by_hop(r.fields, str_of(never[i])));
        assert_false(http_hop_by_hop(r.hop_fields, str_of(never[i])));
    }

    assert_int_equal(http_parse_request(STR("GET / HTTP/1.1\r\nConnection: x-one\r\nX-One: 1\r\nHost: a\r\nX-Two: 2\r\n"
                                            "connection: close ,\tX-TWO\r\nConnection: close\r\n\r\n"),
                                        &r, &err),
                     OLLA_OK);
    struct str both[] = {r.fields, r.hop_fields};
    assert_true(r.hop_fields.n > 0 && r.hop_fields.n < r.fields.n);
    for (size_t i = 0; i < OLLA_COUNT(both); i++) {
        assert_true(http_hop_by_hop(both[i], STR("X-One")));
        assert_true(http_hop_by_hop(both[i], STR("x-two")));
        assert_false(http_hop_by_hop(both[i], STR("X-Three")));
        assert_false(http_hop_by_hop(both[i], STR("Host")));
    }
}

/* ---- responses ------------------------------------------------------------------------- */

#define OK11 "HTTP/1.1 200 OK\r\n"

static void test_refused_responses(void **state)
{
    static const struct str cases[] = {
        BYTES("\r\n"),
        BYTES("HTTP/1.1\r\n\r\n"),
        BYTES("HTTP/1.1 \r\n\r\n"),
        BYTES("HTTP/1.1 20\r\n\r\n"),
        BYTES("HTTP/1.1 2000 OK\r\n\r\n"),
        BYTES("HTTP/1.1 200OK\r\n\r\n"),
        BYTES("HTTP/1.1 200\tOK\r\n\r\n"),
        BYTES("HTTP/1.1  200 OK\r\n\r\n"),
        BYTES("HTTP/1.1 2x0 OK\r\n\r\n"),
        BYTES("HTTP/1.1 099 OK\r\n\r\n"),
        BYTES("HTTP/1.1 -20 OK\r\n\r\n"),
        BYTES("HTTP/1.1 200 O\x01K\r\n\r\n"),
        BYTES("HTTP/1.1 200 O\0K\r\n\r\n"),
        BYTES("HTTP/2.0 200 OK\r\n\r\n"),
        BYTES("HTTP/1 200 OK\r\n\r\n"),
        BYTES("http/1.1 200 OK\r\n\r\n"),
        BYTES("ICY 200 OK\r\n\r\n"),
        BYTES(" HTTP/1.1 200 OK\r\n\r\n"),
        BYTES("HTTP/1.1 200 OK\n\r\n"),
        BYTES(OK11 "A: b\n\r\n"),
        BYTES(OK11 "A: b\rc\r\n\r\n"),
        BYTES(OK11 "A: b\0\r\n\r\n"),
        BYTES(OK11 "A: b\r\n c\r\n\r\n"),
        BYTES(OK11 "A : b\r\n\r\n"),
        BYTES(OK11 "A\r\n\r\n"),
        BYTES(OK11 "A: \x1b[2J\r\n\r\n"),
        BYTES(OK11 "Content-Length: \r\n\r\n"),
        BYTES(OK11 "Content-Length: x\r\n\r\n"),
        BYTES(OK11 "Content-Length: -5\r\n\r\n"),
        BYTES(OK11 "Content-Length: 5, 6\r\n\r\n"),
        BYTES(OK11 "Content-Length: 5,\r\n\r\n"),
        BYTES(OK11 "Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
        BYTES(OK11 "Content-Length: 18446744073709551616\r\n\r\n"),
        BYTES(OK11 "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
        BYTES(OK11 "Transfer-Encoding: gzip\r\n\r\n"),
        BYTES(OK11 "Transfer-Encoding: gzip, chunked\r\n\r\n"),
        BYTES(OK11 "Transfer-Encoding: chunked, chunked\r\n\r\n"),
        BYTES(OK11 "Transfer-Encoding: chunked, identity\r\n\r\n"),
        BYTES(OK11 "Transfer-Encoding:\r\n\r\n"),
        BYTES("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        struct http_error err = {0, NULL};
        struct http_response r;
        if (parse_response(cases[i], "GET", &r, &err) != OLLA_ERR || err.status != 502 || !err.why) {
            fail_msg("case %zu, status %d: %.*s", i, err.status, (int)cases[i].n, cases[i].p);
        }
    }
}

static void test_accepted_responses(void **state)
{
    static const struct {
        const char *method;
        struct str in;
        int status;
        const char *reason;
        bool keep;
        enum http_framing framing;
        uint64_t length;
    } cases[] = {
        {"GET", BYTES(OK11 "Content-Length: 5\r\n\r\n"), 200, "OK", true, HTTP_LENGTH, 5},
        {"GET", BYTES(OK11 "Content-Length: 0\r\n\r\n"), 200, "OK", true, HTTP_LENGTH, 0},
        {"GET", BYTES(OK11 "Content-Length: 5, 5\r\n\r\n"), 200, "OK", true, HTTP_LENGTH, 5},
        {"GET", BYTES(OK11 "Content-Length: 5\r\nContent-Length: 05\r\n\r\n"), 200, "OK", true, HTTP_LENGTH, 5},
        {"GET", BYTES(OK11 "Transfer-Encoding: Chunked\r\n\r\n"), 200, "OK", true, HTTP_CHUNKED, 0},
        {"GET", BYTES(OK11 "\r\n"), 200, "OK", false, HTTP_TO_CLOSE, 0},
        {"GET", BYTES(OK11 "Connection: keep-alive\r\n\r\n"), 200, "OK", false, HTTP_TO_CLOSE, 0},
        {"GET", BYTES("HTTP/1.1 200\r\n\r\n"), 200, "", false, HTTP_TO_CLOSE, 0},
        {"GET", BYTES("HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n"), 200, "", true, HTTP_LENGTH, 1},
        {"GET", BYTES("HTTP/1.1 404 Not  F\xc3\xb6und\t!\r\nContent-Length: 1\r\n\r\n"), 404, "Not  F\xc3\xb6und\t!",
         true, HTTP_LENGTH, 1},
        {"GET", BYTES("HTTP/1.9 999 x\r\nContent-Length: 1\r\n\r\n"), 999, "x", true, HTTP_LENGTH, 1},
        {"GET", BYTES("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n"), 200, "OK", false, HTTP_LENGTH, 1},
        {"GET", BYTES("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n"), 200, "OK", true,
         HTTP_LENGTH, 1},
        {"GET", BYTES(OK11 "Content-Length: 1\r\nConnection: close\r\n\r\n"), 200, "OK", false, HTTP_LENGTH, 1},
        {"GET", BYTES(OK11 "Content-Length: 1\r\nHost: a b\r\n\r\n"), 200, "OK", true, HTTP_LENGTH, 1},
        {"HEAD", BYTES(OK11 "Content-Length: 5\r\n\r\n"), 200, "OK", true, HTTP_NO_BODY, 5},
        {"HEAD", BYTES(OK11 "Transfer-Encoding: chunked\r\n\r\n"), 200, "OK", true, HTTP_NO_BODY, 0},
        {"HEAD", BYTES(OK11 "\r\n"), 200, "OK", true, HTTP_NO_BODY, 0},
        {"head", BYTES(OK11 "Content-Length: 5\r\n\r\n"), 200, "OK", true, HTTP_LENGTH, 5},
        {"GET", BYTES("HTTP/1.1 204 No Content\r\n\r\n"), 204, "No Content", true, HTTP_NO_BODY, 0},
        {"GET", BYTES("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n"), 204, "x", true, HTTP_NO_BODY, 0},
        {"GET", BYTES("HTTP/1.1 204 x\r\nContent-Length: 3\r\n\r\n"), 204, "x", false, HTTP_NO_BODY, 3},
        {"GET", BYTES("HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n"), 204, "x", false, HTTP_NO_BODY, 0},
        {"GET", BYTES("HTTP/1.1 304 x\r\nContent-Length: 30\r\n\r\n"), 304, "x", true, HTTP_NO_BODY, 30},
        {"GET", BYTES("HTTP/1.1 100 Continue\r\n\r\n"), 100, "Continue", true, HTTP_NO_BODY, 0},
        {"GET", BYTES("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), 103, "Early Hints", true, HTTP_NO_BODY, 0},
        {"GET", BYTES("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"), 101, "x", false,
         HTTP_NO_BODY, 0},
        {"GET", BYTES(OK11 "Content-Length: 1\r\nKeep-Alive: timeout=0\r\n\r\n"), 200, "OK", false, HTTP_LENGTH, 1},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        struct http_error err = {0, NULL};
        struct http_response r;
        if (parse_response(cases[i].in, cases[i].method, &r, &err) != OLLA_OK) {
            fail_msg("case %zu refused: %s", i, err.why);
        }
        assert_str(r.reason, cases[i].reason);
        if (r.status != cases[i].status || r.keep_alive != cases[i].keep || r.framing != cases[i].framing ||
            r.length != cases[i].length) {
            fail_msg("case %zu: status %d, keep %d, framing %d", i, r.status, r.keep_alive, (int)r.framing);
        }
    }
}

static void test_response_details(void **state)
{
    struct http_error err;
    struct http_response r;
    (void)state;

    assert_int_equal(http_parse_response(STR(OK11 "Content-Type: text/event-stream\r\nKeep-Alive: max=5, Timeout=15\r\n"
                                                  "Content-Length: 1\r\nConnection: keep-alive, X-Y\r\n\r\n"),
                                         STR("GET"), &r, &err),
                     OLLA_OK);
    assert_str(r.content_type, "text/event-stream");
    assert_int_equal(r.keep_alive_s, 15);
    assert_true(http_hop_by_hop(r.hop_fields, STR("x-y")));
    assert_false(http_hop_by_hop(r.hop_fields, STR("content-type")));

    assert_int_equal(http_parse_response(STR(OK11 "Keep-Alive: timeout=99999999999\r\n\r\n"), STR("GET"), &r, &err),
                     OLLA_OK);
    assert_int_equal(r.keep_alive_s, 86400);
    assert_int_equal(http_parse_response(STR(OK11 "Keep-Alive: timeout=soon\r\n\r\n"), STR("GET"), &r, &err), OLLA_OK);
    assert_int_equal(r.keep_alive_s, 0);
}

/* ---- bodies ------------------------------------------------------------------------------ */

struct decoded {
    long used; /* or OLLA_ERR */
    size_t n;
    bool done;
    char data[512];
};

/* Feeds s in the pieces [0, cut) and [cut, end), or byte by byte. */
static void decode(struct str s, size_t cut, bool bytewise, enum http_framing framing, uint64_t length,
                   struct decoded *out)
{
    struct http_body b;
    size_t at = 0;

    memset(out, 0, sizeof(*out));
    memset(&b, 0xa5, sizeof(b));
    http_body_start(&b, framing, length);
    while (at < s.n) {
        size_t piece = bytewise ? 1 : at < cut ? cut - at : s.n - at;
        char *p = guard_copy(s.p + at, piece);
        size_t got = 0;
        long used = http_body_decode(&b, p, piece, &got);
        assert_true(got <= piece && out->n + got <= sizeof(out->data));
        memcpy(out->data + out->n, p, got);
        out->n += got;
        if (used == OLLA_ERR) {
            assert_int_equal(http_body_decode(&b, p, 1, &got), OLLA_ERR);
            assert_int_equal(got, 0);
            out->used = OLLA_ERR;
            break;
        }
        out->used += used;
        assert_true(used == (long)piece || b.done);
        if (used < (long)piece) {
            break;
        }
        at += piece;
    }
    out->done = b.done;
    assert_true(http_body_at_eof(&b) == (out->done || framing == HTTP_TO_CLOSE));
}

static void decode_all_ways(struct str s, enum http_framing framing, uint64_t length, struct decoded *whole)
{
    static struct decoded other;

    decode(s, 0, false, framing, length, whole);
    for (size_t cut = 0; cut <= s.n; cut++) {
        decode(s, cut, cut == 0, framing, length, &other);
        if (memcmp(&other, whole, sizeof(other)) != 0) {
            fail_msg("cut at %zu differs: %.*s", cut, (int)s.n, s.p);
        }
    }
}

static void test_good_chunks(void **state)
{
    static const struct {
        struct str in;
        const char *out;
        size_t left_over;
    } cases[] = {
        {BYTES("0\r\n\r\n"), "", 0},
        {BYTES("000\r\n\r\n"), "", 0},
        {BYTES("0\r\n\r\nGET / HTTP/1.1\r\n"), "", 16},
        {BYTES("0\r\n\r\n\r\n"), "", 2},
        {BYTES("5\r\nhello\r\n0\r\n\r\n"), "hello", 0},
        {BYTES("00000005\r\nhello\r\n0\r\n\r\n"), "hello", 0},
        {BYTES("000000000000005\r\nhello\r\n0\r\n\r\n"), "hello", 0},
        {BYTES("1\r\na\r\n1\r\nb\r\n2\r\ncd\r\n0\r\n\r\nX"), "abcd", 1},
        {BYTES("A\r\n0123456789\r\n0\r\n\r\n"), "0123456789", 0},
        {BYTES("a\r\n0123456789\r\n0\r\n\r\n"), "0123456789", 0},
        {BYTES("10\r\n0123456789abcdef\r\n0\r\n\r\n"), "0123456789abcdef", 0},
        {BYTES("4\r\n\r\n\r\n\r\n0\r\n\r\n"), "\r\n\r\n", 0},
        {BYTES("5;a=b\r\nhello\r\n0;c\r\n\r\n"), "hello", 0},
        {BYTES("5;\r\nhello\r\n0\r\n\r\n"), "hello", 0},
        {BYTES("5 \t;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"), "hello", 0},
        {BYTES("5;\t\x80\xff\r\nhello\r\n0\r\n\r\n"), "hello", 0},
        {BYTES("0\r\nX-Trailer: 1\r\n\r\nrest"), "", 4},
        {BYTES("1\r\nz\r\n0\r\nA: b\r\nC:\r\nD:\t\xe4\r\n\r\n"), "z", 0},
    };
    static struct decoded d;
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        decode_all_ways(cases[i].in, HTTP_CHUNKED, 0, &d);
        if (!d.done || d.used != (long)(cases[i].in.n - cases[i].left_over)) {
            fail_msg("case %zu: used %ld, done %d", i, d.used, d.done);
        }
        assert_str((struct str){d.data, d.n}, cases[i].out);
    }
}

static void test_unfinished_chunks(void **state)
{
    static const struct str whole = BYTES("3;x=y\r\nabc\r\nff");
    static const struct str to_trailer = BYTES("1\r\na\r\n0\r\nA: b\r\n\r");
    static struct decoded d;
    (void)state;

    for (size_t n = 0; n <= whole.n; n++) {
        decode_all_ways((struct str){whole.p, n}, HTTP_CHUNKED, 0, &d);
        assert_true(!d.done && d.used == (long)n);
    }
    for (size_t n = 0; n <= to_trailer.n; n++) {
        decode_all_ways((struct str){to_trailer.p, n}, HTTP_CHUNKED, 0, &d);
        assert_true(!d.done && d.used == (long)n);
    }
}

static void test_bad_chunks(void **state)
{
    static const struct str cases[] = {
        BYTES("\r\n"),
        BYTES("\n"),
        BYTES(" 5\r\nhello\r\n"),
        BYTES("\t5\r\nhello\r\n"),
        BYTES("+5\r\nhello\r\n"),
        BYTES("-5\r\nhello\r\n"),
        BYTES("-0\r\n\r\n"),
        BYTES("0x5\r\nhello\r\n"),
        BYTES("5h\r\nhello\r\n"),
        BYTES("g\r\n"),
        BYTES("5_0\r\n"),
        BYTES("5.0\r\n"),
        BYTES("5,\r\n"),
        BYTES(";a=b\r\n"),
        BYTES("5\nhello\r\n"),
        BYTES("5\rhello\r\n"),
        BYTES("5\r\r\nhello"),
        BYTES("5 \r\nhello\r\n"),
        BYTES("5\t\r\nhello\r\n"),
        BYTES("5 5\r\nhello\r\n"),
        BYTES("5\0\r\nhello\r\n"),
        BYTES("0000000000000005\r\nhello\r\n"),
        BYTES("1000000000000000\r\n"),
        BYTES("ffffffffffffffff\r\n"),
        BYTES("10000000000000005\r\nhello\r\n"),
        BYTES("5;a\nhello\r\n"),
        BYTES("5;a\rb\r\nhello\r\n"),
        BYTES("5;a\0\r\nhello\r\n"),
        BYTES("5;a\x01\r\nhello\r\n"),
        BYTES("5;a\x7f\r\nhello\r\n"),
        BYTES("5 \n;\r\nhello\r\n"),
        BYTES("5\r\nhello0\r\n"),
        BYTES("5\r\nhello\n0\r\n\r\n"),
        BYTES("5\r\nhello\r0\r\n\r\n"),
        BYTES("5\r\nhello\r\r\n0"),
        BYTES("5\r\nhello \r\n0\r\n"),
        BYTES("5\r\nhell\r\n0\r\n\r\n"),
        BYTES("5\r\nhello!\r\n0\r\n\r\n"),
        BYTES("5\r\nhello\r\n\r\n"),
        BYTES("5\r\nhello\r\n 0\r\n\r\n"),
        BYTES("0\n\n"),
        BYTES("0\r\n\n"),
        BYTES("0\r\n\rX"),
        BYTES("0\r\n\r\r"),
        BYTES("0\r\n A: b\r\n"),
        BYTES("0\r\n: b\r\n"),
        BYTES("0\r\nA b: c\r\n"),
        BYTES("0\r\nA : c\r\n"),
        BYTES("0\r\nA\r\n\r\n"),
        BYTES("0\r\nA: b\n\r\n"),
        BYTES("0\r\nA: b\rc\r\n"),
        BYTES("0\r\nA: b\0\r\n"),
        BYTES("0\r\nA: b\x1b\r\n"),
        BYTES("0\r\nA: b\r\n c\r\n\r\n"),
        BYTES("0\r\nA: b\r\n\tc\r\n\r\n"),
        BYTES("0\r\nA: b\r\n\n"),
        BYTES("0\r\n\0"),
        BYTES("0\r\n\xe4: x\r\n"),
    };
    static struct decoded d;
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        decode_all_ways(cases[i], HTTP_CHUNKED, 0, &d);
        if (d.used != OLLA_ERR || d.done) {
            fail_msg("case %zu: used %ld: %.*s", i, d.used, (int)cases[i].n, cases[i].p);
        }
    }
}

/* Feeds a string n times; false once it was refused. */
static bool feed(struct http_body *b, const char *z, unsigned times)
{
    size_t n = strlen(z);

    for (unsigned i = 0; i < times; i++) {
        size_t got;
        if (http_body_decode(b, guard_copy(z, n), n, &got) == OLLA_ERR) {
            return false;
        }
    }
    return true;
}

static void test_overhead(void **state)
{
    struct http_body b;
    (void)state;

    /* One endless extension. */
    http_body_start(&b, HTTP_CHUNKED, 0);
    assert_true(feed(&b, "5;", 1) && feed(&b, "x", HTTP_MAX_OVERHEAD - 1));
    assert_false(feed(&b, "x", 1));

    /* Small chunks with long extensions. */
    http_body_start(&b, HTTP_CHUNKED, 0);
    assert_true(feed(&b, "1;0123456789\r\nx\r\n", HTTP_MAX_OVERHEAD / 11));
    assert_false(feed(&b, "1;0123456789\r\nx\r\n", 2));

    /* Blanks count as well. */
    http_body_start(&b, HTTP_CHUNKED, 0);
    assert_true(feed(&b, "1", 1));
    assert_false(feed(&b, " ", HTTP_MAX_OVERHEAD + 1));

    /* Small chunks without, and larger ones with moderate extensions, may go on for ever. */
    http_body_start(&b, HTTP_CHUNKED, 0);
    assert_true(feed(&b, "1\r\nx\r\n", 20000));
    assert_true(feed(&b, "28;a=1234567\r\n0123456789012345678901234567890123456789\r\n", 20000));

    /* Trailers: endless names, values, and lines. */
    http_body_start(&b, HTTP_CHUNKED, 0);
    assert_true(feed(&b, "0\r\n", 1));
    assert_false(feed(&b, "n", HTTP_MAX_OVERHEAD + 1));
    http_body_start(&b, HTTP_CHUNKED, 0);
    assert_true(feed(&b, "0\r\nA:", 1) && feed(&b, "v", HTTP_MAX_OVERHEAD - 2));
    assert_false(feed(&b, "v", 1));
    http_body_start(&b, HTTP_CHUNKED, 0);
    assert_true(feed(&b, "0\r\n", 1) && feed(&b, "A:\r\n", HTTP_MAX_OVERHEAD / 2));
    assert_false(feed(&b, "A:\r\n", 1));
}

static void test_many_small_chunks_in_one_read(void **state)
{
    enum { CHUNKS = 2000 };
    struct http_body b;
    struct text t = text_in(guard_room(CHUNKS * 7 + 5), CHUNKS * 7 + 5);
    size_t got;
    (void)state;

    for (unsigned i = 0; i < CHUNKS; i++) {
        text_addz(&t, "2\r\n");
        text_char(&t, (char)('a' + i % 26));
        text_addz(&t, "!\r\n");
    }
    text_addz(&t, "0\r\n\r\n");
    assert_false(t.full);
    http_body_start(&b, HTTP_CHUNKED, 0);
    assert_int_equal(http_body_decode(&b, t.p, t.n, &got), t.n);
    assert_true(b.done);
    assert_int_equal(got, CHUNKS * 2);
    for (unsigned i = 0; i < CHUNKS; i++) {
        assert_true(t.p[2 * i] == (char)('a' + i % 26) && t.p[2 * i + 1] == '!');
    }
}

static void test_huge_chunk(void **state)
{
    struct http_body b;
    char in[] = "fffffffffffffff\r\nabc";
    size_t got;
    (void)state;

    http_body_start(&b, HTTP_CHUNKED, 0);
    assert_int_equal(http_body_decode(&b, in, sizeof(in) - 1, &got), sizeof(in) - 1);
    assert_int_equal(got, 3);
    assert_true(b.left == (UINT64_C(1) << 60) - 1 - 3);
}

static void test_other_framings(void **state)
{
    static struct decoded d;
    static const struct str in = BYTES("0123456789");
    (void)state;

    decode_all_ways(in, HTTP_LENGTH, 4, &d);
    assert_true(d.done && d.used == 4);
    assert_str((struct str){d.data, d.n}, "0123");
    decode_all_ways(in, HTTP_LENGTH, 10, &d);
    assert_true(d.done && d.used == 10);
    decode_all_ways(in, HTTP_LENGTH, UINT64_MAX, &d);
    assert_true(!d.done && d.used == 10);
    decode_all_ways(in, HTTP_LENGTH, 0, &d);
    assert_true(d.done && d.used == 0 && d.n == 0);
    decode_all_ways(in, HTTP_NO_BODY, 7, &d);
    assert_true(d.done && d.used == 0 && d.n == 0);
    decode_all_ways(in, HTTP_TO_CLOSE, 0, &d);
    assert_true(!d.done && d.used == 10);
    assert_str((struct str){d.data, d.n}, "0123456789");
}

/* ---- paths --------------------------------------------------------------------------------- */

static void test_unescape(void **state)
{
    static const struct {
        const char *in;
        const char *out; /* NULL: refused */
    } cases[] = {
        {"", ""},
        {"/api/chat", "/api/chat"},
        {"/a%2Fb", "/a/b"},
        {"/a%2fb%20c", "/a/b c"},
        {"/%2e%2e/x", "/../x"},
        {"/a+b", "/a+b"},
        {"/%3F%25", "/?%"},
        {"/%252e", "/%2e"},
        {"/%C3%A4", "/\xc3\xa4"},
        {"/\xc3\xa4", "/\xc3\xa4"},
        {"%41", "A"},
        {"/%", NULL},
        {"/%4", NULL},
        {"/%zz", NULL},
        {"/%4z", NULL},
        {"/%z4", NULL},
        {"/% 4", NULL},
        {"/%%41", NULL},
        {"/%00", NULL},
        {"/a%00b", NULL},
        {"/%u0041", NULL},
    };
    char to[64];
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        size_t n = strlen(cases[i].in);
        struct str in = {guard_copy(cases[i].in, n), n};
        long got = http_unescape(in, to, sizeof(to));
        if (!cases[i].out) {
            assert_int_equal(got, OLLA_ERR);
            continue;
        }
        assert_true(got >= 0);
        assert_str((struct str){to, (size_t)got}, cases[i].out);
        /* Exactly enough room, one byte too little, and in place. */
        assert_int_equal(http_unescape(str_of(cases[i].in), guard_room((size_t)got), (size_t)got), got);
        if (got > 0) {
            assert_int_equal(http_unescape(str_of(cases[i].in), to, (size_t)got - 1), OLLA_ERR);
        }
        char *p = guard_copy(cases[i].in, n);
        assert_int_equal(http_unescape((struct str){p, n}, p, n), got);
        assert_str((struct str){p, (size_t)got}, cases[i].out);
    }
}

/* ---- queries -------------------------------------------------------------------- */

/* want: the value, NULL = none; raw: how it was sent, NULL = as want. */
static void check_query(const char *query, const char *key, const char *want, const char *raw)
{
    struct str q = {guard_copy(query, strlen(query)), strlen(query)}, place = {NULL, 0};
    char to[16] = "before";

    if (http_query(q, str_of(key), to, sizeof(to), &place) != (want != NULL)) {
        fail_msg("'%s' in '%s': '%s'", key, query, to);
    }
    assert_string_equal(to, want ? want : "");
    if (want) {
        assert_str(place, raw ? raw : want);
        assert_true(place.p >= q.p && place.p + place.n <= q.p + q.n); /* a part of the query, also when empty */
    }
    memset(to, 'x', sizeof(to));
    assert_int_equal(http_query(q, str_of(key), to, sizeof(to), NULL), want != NULL);
    assert_string_equal(to, want ? want : "");
}

static void test_query(void **state)
{
    static const struct {
        const char *query, *key, *want, *raw;
    } cases[] = {
        {"?a=1", "a", "1", NULL},
        {"?a=1&b=2", "b", "2", NULL},
        {"?a=1&a=2", "a", "1", NULL}, /* the first of several */
        {"?a=&a=2", "a", "", NULL},
        {"?a&a=2", "a", "", NULL},
        {"?a", "a", "", NULL},
        {"?b&a", "a", "", NULL},
        {"?a=", "a", "", NULL},
        {"?&&a=1&", "a", "1", NULL},
        {"?a==1=", "a", "=1=", NULL},
        {"?a=b?c", "a", "b?c", NULL},
        {"?b=a=1", "a", NULL, NULL},
        {"?ab=1&ba=2&A=3", "a", NULL, NULL},
        {"?a=1", "ab", NULL, NULL},
        {"?%61=1", "a", NULL, NULL}, /* names are taken as they are written */
        {"?a%3D1", "a", NULL, NULL},
        {"?a=%41%62c", "a", "Abc", "%41%62c"},
        {"?a=%2f%C3%BC", "a", "/\xc3\xbc", "%2f%C3%BC"},
        {"?a=%26b%3D1", "a", "&b=1", "%26b%3D1"},
        {"?a=x+y+", "a", "x y ", "x+y+"},
        {"?a=+", "a", " ", "+"},
        {"?a+b=1", "a b", NULL, NULL},
        {"?a=%4", "a", NULL, NULL},
        {"?a=%", "a", NULL, NULL},
        {"?a=%4&b=1", "a", NULL, NULL},
        {"?a=%4g", "a", NULL, NULL},
        {"?a=x%00y", "a", NULL, NULL},
        {"?a=%zz&a=1", "a", NULL, NULL}, /* the first one is it, for better or worse */
        {"?b=%zz&a=1", "a", "1", NULL},
        {"?a=123456789012345", "a", "123456789012345", NULL},
        {"?a=1234567890123456", "a", NULL, NULL}, /* one more than there is room for */
        {"?a=%31234567890%312345", "a", "123456789012345", "%31234567890%312345"},
        {"?a=1;b=2", "a", "1;b=2", NULL},
        {"?", "a", NULL, NULL},
        {"?=1", "a", NULL, NULL},
        {"", "a", NULL, NULL},
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        check_query(cases[i].query, cases[i].key, cases[i].want, cases[i].raw);
    }
    assert_false(http_query((struct str){NULL, 0}, STR("a"), &(char){'x'}, 1, NULL));
}

/* An encoded plus is a plus: "C++" comes as C%2B%2B. */
static void test_query_encoded_plus(void **state)
{
    (void)state;
    check_query("?a=C%2B%2b", "a", "C++", "C%2B%2b");
    check_query("?a=1+%2B+2", "a", "1 + 2", "1+%2B+2");
}

static void test_query_count(void **state)
{
    static const struct {
        const char *query;
        unsigned count;
    } cases[] = {
        {"", 0},
        {"?", 0},
        {"?x=model", 0},
        {"?model=", 1},
        {"?model", 1},
        {"?model=a&model=b", 2},
        {"?model=a&&x&model", 2},
        {"?m%6fdel=a", 1},
        {"?%6D%6f%64%65%6c=a&model=a", 2},
        {"?m%6=a&mod%00el=a&%=a&model%=a", 0},
        {"?models=a&mode=b&Model=c&=model", 0},
        {"?=&=model&&", 0},
    };
    char longer[400];
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        size_t n = strlen(cases[i].query);
        assert_int_equal(http_query_count((struct str){guard_copy(cases[i].query, n), n}, STR("model")),
                         cases[i].count);
    }
    memset(longer, 'm', sizeof(longer));
    longer[0] = '?';
    assert_int_equal(http_query_count((struct str){longer, sizeof(longer)}, STR("model")), 0);
}

/* Room for the NUL only: an empty value fits, any other does not. */
static void test_query_without_room(void **state)
{
    char to[2] = {'x', '#'};
    (void)state;
    assert_true(http_query(STR("?a="), STR("a"), to, 1, NULL));
    assert_int_equal(to[0], '\0');
    to[0] = 'x';
    assert_false(http_query(STR("?a=1"), STR("a"), to, 1, NULL));
    assert_int_equal(to[0], '\0');
    assert_int_equal(to[1], '#');
}

static void test_escape(void **state)
{
    static const struct {
        const char *in;
        const char *out;
    } cases[] = {
        {"", ""},
        {"/", "/"},
        {"/api/chat", "/api/chat"},
        {"/a b", "/a%20b"},
        {"/a+b&c=d;e,f:g@h!i$j'k(l)m*n", "/a+b&c=d;e,f:g@h!i$j'k(l)m*n"},
        {"/a-._~Z9", "/a-._~Z9"},
        {"/?#%", "/%3F%23%25"},
        {"/\xc3\xa4", "/%C3%A4"},
        {"/\x01\x1f\x7f\t", "/%01%1F%7F%09"},
        {"/\"<>[\\]^`{|}", "/%22%3C%3E%5B%5C%5D%5E%60%7B%7C%7D"},
    };
    char to[64];
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        size_t n = strlen(cases[i].in);
        struct text t = text_in(to, sizeof(to));
        http_escape_path(&t, (struct str){guard_copy(cases[i].in, n), n});
        assert_false(t.full);
        assert_str(text_str(&t), cases[i].out);
    }
    struct text small = text_in(to, 5);
    http_escape_path(&small, STR("/a b"));
    assert_true(small.full);
}

static void test_escape_reverses(void **state)
{
    char all[256];
    char escaped[800];
    char back[256];
    struct text t = text_in(escaped, sizeof(escaped));
    (void)state;

    for (unsigned i = 0; i < 255; i++) {
        all[i] = (char)(i + 1);
    }
    http_escape_path(&t, (struct str){all, 255});
    assert_false(t.full);
    for (size_t i = 0; i < t.n; i++) {
        assert_true(t.p[i] > 0x20 && t.p[i] < 0x7f);
    }
    assert_int_equal(http_unescape(text_str(&t), back, sizeof(back)), 255);
    assert_memory_equal(all, back, 255);
}

static void test_clean_path(void **state)
{
    static const struct {
        const char *in;
        const char *kept;    /* with keep_slash */
        const char *dropped; /* without */
    } cases[] = {
        {"/", "/", "/"},
        {"//", "/", "/"},
        {"///a", "/a", "/a"},
        {"/a", "/a", "/a"},
        {"/a/", "/a/", "/a"},
        {"/a//b///", "/a/b/", "/a/b"},
        {"/.", "/", "/"},
        {"/./", "/", "/"},
        {"/..", "/", "/"},
        {"/../", "/", "/"},
        {"/../../x", "/x", "/x"},
        {"/a/./b", "/a/b", "/a/b"},
        {"/a/.", "/a/", "/a"},
        {"/a/..", "/", "/"},
        {"/a/b/..", "/a/", "/a"},
        {"/a/b/../", "/a/", "/a"},
        {"/a/b/../../..", "/", "/"},
        {"/a/b/c/./../../g", "/a/g", "/a/g"},
        {"/mid/content=5/../6", "/mid/6", "/mid/6"},
        {"/a/../../b/", "/b/", "/b"},
        {"/.../..a/a../.a", "/.../..a/a../.a", "/.../..a/a../.a"},
        {"/a//../b", "/b", "/b"},
        {"/base//v1/x", "/base/v1/x", "/base/v1/x"},
        {"/base/../x", "/x", "/x"},
        {"/api/chat", "/api/chat", "/api/chat"},
        {"", "", ""},
        {"*", "*", "*"},
        {"a/../..", "a/../..", "a/../.."},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        size_t n = strlen(cases[i].in);
        char *p = guard_copy(cases[i].in, n);
        assert_str((struct str){p, http_clean_path(p, n, true)}, cases[i].kept);
        p = guard_copy(cases[i].in, n);
        assert_str((struct str){p, http_clean_path(p, n, false)}, cases[i].dropped);
    }
}

/* ---- small tables ---------------------------------------------------------------------------- */

static void test_classes(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 256; c++) {
        char ch = (char)c;
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        bool token = alnum || (c != 0 && c < 128 && strchr("!#$%&'*+-.^_`|~", ch));
        bool path = alnum || (c != 0 && c < 128 && strchr("-._~!$&'()*+,;=:@/", ch));
        bool host = alnum || (c != 0 && c < 128 && strchr("-._~!$&'()*+;=%", ch));
        if (!!(http_class[c] & HTTP_IS_TOKEN) != token || !!(http_class[c] & HTTP_IS_PATH) != path ||
            !!(http_class[c] & HTTP_IS_HOST) != host) {
            fail_msg("byte %u", c);
        }
    }
}

static void test_reason(void **state)
{
    (void)state;
    assert_string_equal(http_reason(200), "OK");
    assert_string_equal(http_reason(502), "Bad Gateway");
    assert_string_equal(http_reason(431), "Request Header Fields Too Large");
    assert_string_equal(http_reason(299), "Unknown");
    assert_string_equal(http_reason(-1), "Unknown");
}

static void test_date(void **state)
{
    static const struct {
        int64_t s;
        const char *want;
    } cases[] = {
        {784111777, "Sun, 06 Nov 1994 08:49:37 GMT"},    {0, "Thu, 01 Jan 1970 00:00:00 GMT"},
        {86399, "Thu, 01 Jan 1970 23:59:59 GMT"},        {951782400, "Tue, 29 Feb 2000 00:00:00 GMT"},
        {951868800, "Wed, 01 Mar 2000 00:00:00 GMT"},    {1709164800, "Thu, 29 Feb 2024 00:00:00 GMT"},
        {1735689599, "Tue, 31 Dec 2024 23:59:59 GMT"},   {1735689600, "Wed, 01 Jan 2025 00:00:00 GMT"},
        {2147483648, "Tue, 19 Jan 2038 03:14:08 GMT"},   {4107542400, "Mon, 01 Mar 2100 00:00:00 GMT"},
        {253402300799, "Fri, 31 Dec 9999 23:59:59 GMT"}, {253402300800, "Fri, 31 Dec 9999 23:59:59 GMT"},
        {-5, "Thu, 01 Jan 1970 00:00:00 GMT"},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        assert_str(http_date(cases[i].s * 1000), cases[i].want);
        assert_str(http_date(cases[i].s * 1000 + 1), cases[i].want);
    }
}

/* ---- Retry-After --------------------------------------------------------------- */

#define NOW INT64_C(784111777) /* Sun, 06 Nov 1994 08:49:37 GMT */

/* ms, or -1 for nothing. */
static int64_t retry_after(const char *value, int64_t wall_ms)
{
    uint64_t ms = 77;
    size_t n = strlen(value);
    return http_retry_after((struct str){guard_copy(value, n), n}, wall_ms, &ms) ? (int64_t)ms : -1;
}

static void test_retry_after_seconds(void **state)
{
    static const struct {
        const char *value;
        int64_t ms;
    } cases[] = {
        {"0", 0},
        {"1", 1000},
        {"120", 120000},
        {"007", 7000},
        {"1994", 1994000}, /* not a year */
        {"2147483647", INT64_C(2147483647000)},
        {"", -1},
        {"-1", -1},
        {"+1", -1},
        {"1.5", -1},
        {"1s", -1},
        {"0x10", -1},
        {"1,2", -1},
        {"1 2", -1},
        {"soon", -1},
        {",", -1},
        {":::", -1},
        {"99999999999999999999999999", -1},
        {"18446744073709551616", -1}, /* 2^64 */
        {"18446744073709551617", -1},
    };
    uint64_t ms;
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        assert_int_equal(retry_after(cases[i].value, NOW * 1000), cases[i].ms);
        assert_int_equal(retry_after(cases[i].value, 0), cases[i].ms);
    }
    assert_false(http_retry_after((struct str){NULL, 0}, 0, &ms)); /* no such field */
}

static void test_retry_after_dates(void **state)
{
    static const struct {
        const char *value;
        int64_t s; /* since 1970; -1: none */
    } cases[] = {
        /* the three forms of RFC 9110 (5.6.7) */
        {"Sun, 06 Nov 1994 08:49:37 GMT", 784111777},
        {"Sunday, 06-Nov-94 08:49:37 GMT", 784111777},
        {"Sun Nov  6 08:49:37 1994", 784111777},
        {"Sun Nov 16 08:49:37 1994", 784975777},
        {"Wednesday, 01-Mar-00 00:00:00 GMT", 951868800}, /* 2000 */
        {"Tuesday, 19-Jan-38 03:14:08 GMT", 2147483648},  /* not so far away as 1938 */
        {"Thursday, 01-Jan-70 00:00:01 GMT", 1},
        /* edges of days, months and years */
        {"Thu, 01 Jan 1970 00:00:00 GMT", 0},
        {"Thu, 01 Jan 1970 00:00:01 GMT", 1},
        {"Tue, 29 Feb 2000 00:00:00 GMT", 951782400},
        {"Tue, 29 Feb 2000 23:59:59 GMT", 951868799},
        {"Wed, 01 Mar 2000 00:00:00 GMT", 951868800},
        {"Thu, 29 Feb 2024 00:00:00 GMT", 1709164800},
        {"Tuesday, 29-Feb-00 00:00:00 GMT", 951782400},
        {"Thu Feb 29 00:00:00 2024", 1709164800},
        {"Sun, 28 Feb 2100 23:59:59 GMT", 4107542399}, /* no leap year */
        {"Mon, 01 Mar 2100 00:00:00 GMT", 4107542400},
        {"Tue, 31 Dec 2024 23:59:59 GMT", 1735689599},
        {"Tue, 31 Dec 2024 23:59:60 GMT", 1735689600}, /* a leap second */
        {"Wed, 01 Jan 2025 00:00:00 GMT", 1735689600},
        {"Fri, 31 Dec 9999 23:59:59 GMT", 253402300799},
        {"sun, 06 nov 1994 08:49:37 gmt", 784111777},
        /* nonsense */
        {"Wed, 31 Dec 1969 23:59:59 GMT", -1},
        {"Sun, 06 Nov 0094 08:49:37 GMT", -1},
        {"Sun, 06 Nov 10000 08:49:37 GMT", -1},
        {"Sun, 06 Nov 1994", -1},
        {"Sun, 06 1994 08:49:37 GMT", -1},
        {"Sun, Nov 1994 08:49:37 GMT", -1},
        {"06 Nov 08:49:37", -1},
        {"Sun, 00 Nov 1994 08:49:37 GMT", -1},
        {"Sun, 32 Nov 1994 08:49:37 GMT", -1},
        {"Sun, 06 Nov 1994 24:00:00 GMT", -1},
        {"Sun, 06 Nov 1994 08:60:37 GMT", -1},
        {"Sun, 06 Nov 1994 08:49:61 GMT", -1},
        {"Sun, 06 Nov 1994 08:49 GMT", -1},
        {"Sun, 06 Nov 1994 08:49:37:11 GMT", -1},
        {"Sun, 06 Nov 1994 8::37 GMT", -1},
        {"Sun, 06 Foo 1994 08:49:37 GMT", -1},
        {"Sun, 06 Nove 1994 08:49:37 GMT", -1},
        {"Sun, 06 99999999999999999999 1994 08:49:37 GMT", -1},
        {"1994-11-06T08:49:37Z", -1},
        {"Sun", -1},
        {"GMT", -1},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        int64_t s = cases[i].s;
        int64_t got = retry_after(cases[i].value, 0);
        if (got != (s < 0 ? -1 : s * 1000)) {
            fail_msg("%s: %lld", cases[i].value, (long long)got);
        }
        if (s >= 0) { /* from then on it is over */
            assert_int_equal(retry_after(cases[i].value, s * 1000), 0);
            assert_int_equal(retry_after(cases[i].value, s * 1000 + 1), 0);
            assert_int_equal(retry_after(cases[i].value, INT64_C(253402300800000)), 0);
        }
        if (s > 0) {
            assert_int_equal(retry_after(cases[i].value, s * 1000 - 1), 1);
            assert_int_equal(retry_after(cases[i].value, s * 1000 - 90000), 90000);
        }
    }
}

/* What http_date writes is read as the same time, in any second and on any day. */
static void test_retry_after_reverses_date(void **state)
{
    (void)state;
    for (int64_t s = 0; s < INT64_C(253402300800); s += INT64_C(86400) * 37 + 3607) {
        char value[64];
        struct str date = http_date(s * 1000);
        assert_true(str_copy(value, sizeof value, date));
        assert_int_equal(retry_after(value, 0), s * 1000);
        value[date.n / 2] = '\0'; /* and half of one is none */
        assert_int_equal(retry_after(value, 0), -1);
    }
}

static void test_replace_fields(void **state)
{
    static const struct {
        const char *head, *lines, *wanted;
    } rows[] = {
        {"A: 1\r\nB: 2\r\n", "", "A: 1\r\nB: 2\r\n"},
        {"A: 1\r\nB: 2\r\n", "b: 3\r\n", "A: 1\r\nb: 3\r\n"},
        {"A: 1\r\nB: 2\r\na:4\r\n", "A: \r\nC: 5\r\n", "B: 2\r\nA: \r\nC: 5\r\n"},
        {"A: 1\r\n", "A: 2\r\nA-B: 3\r\n", "A: 2\r\nA-B: 3\r\n"},
        {"AB: 1\r\n", "A: 2\r\n", "AB: 1\r\nA: 2\r\n"},
        {"", "A: 2\r\n", "A: 2\r\n"},
    };
    char mem[64];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        struct text t = text_in(mem, sizeof(mem));
        text_addz(&t, "GET A: HTTP/1.1\r\n");
        size_t from = t.n;
        text_addz(&t, rows[i].head);
        http_replace_fields(&t, from, str_of(rows[i].lines));
        assert_string_equal(text_z(&t) + from, rows[i].wanted);
        assert_memory_equal(mem, "GET A: HTTP/1.1\r\n", from);
    }
    struct text t = text_in(mem, 10);
    text_addz(&t, "A: 1\r\n");
    http_replace_fields(&t, 0, STR("B: 123\r\n"));
    assert_true(t.full);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_end),
        cmocka_unit_test(test_find_end_null),
        cmocka_unit_test(test_skip_blank_lines),
        cmocka_unit_test(test_big_head_bytewise),
        cmocka_unit_test(test_head_too_large),
        cmocka_unit_test(test_header_count),
        cmocka_unit_test(test_refused_requests),
        cmocka_unit_test(test_why_missing_and_malformed_host),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_accepted_requests),
        cmocka_unit_test(test_request_slices),
        cmocka_unit_test(test_unchecked_lines_are_safe),
        cmocka_unit_test(test_hop_by_hop),
        cmocka_unit_test(test_refused_responses),
        cmocka_unit_test(test_accepted_responses),
        cmocka_unit_test(test_response_details),
        cmocka_unit_test(test_good_chunks),
        cmocka_unit_test(test_unfinished_chunks),
        cmocka_unit_test(test_bad_chunks),
        cmocka_unit_test(test_overhead),
        cmocka_unit_test(test_many_small_chunks_in_one_read),
        cmocka_unit_test(test_huge_chunk),
        cmocka_unit_test(test_other_framings),
        cmocka_unit_test(test_unescape),
        cmocka_unit_test(test_query),
        cmocka_unit_test(test_query_count),
        cmocka_unit_test(test_query_encoded_plus),
        cmocka_unit_test(test_query_without_room),
        cmocka_unit_test(test_escape),
        cmocka_unit_test(test_escape_reverses),
        cmocka_unit_test(test_clean_path),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_reason),
        cmocka_unit_test(test_date),
        cmocka_unit_test(test_retry_after_seconds),
        cmocka_unit_test(test_retry_after_dates),
        cmocka_unit_test(test_retry_after_reverses_date),
        cmocka_unit_test(test_replace_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
