/*
 * test_sse.c - streams of events, taken apart.
 *
 * Every stream is read whole, byte by byte and cut in two at every place, each piece lying flush against a page that
 * must not be touched. What comes out is written down in short: the bytes of data as they are, '|' at the end of a line
 * of data, '#' and the event's name at the end of an event.
 */
#include "../../src/sse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

static void read_piece(struct sse *s, const char *p, size_t n, struct text *log)
{
    struct str in = {guard_copy(p, n), n}, data = {NULL, 0};
    enum sse_got got;

    while ((got = sse_next(s, &in, &data)) != SSE_MORE) {
        if (got == SSE_DATA) {
            assert_true(data.n > 0);
            text_add(log, data);
        } else if (got == SSE_LINE) {
            text_char(log, '|');
        } else {
            text_char(log, '#');
            text_addz(log, s->event);
            text_char(log, ' ');
        }
    }
    assert_int_equal(in.n, 0);
}

static const char *read_cut(const char *p, size_t n, size_t cut, size_t piece)
{
    static char mem[2048];
    struct text t = text_in(mem, sizeof mem);
    struct sse s;

    memset(&s, 0, sizeof s);
    for (size_t i = 0; i < n;) {
        size_t len = cut > i ? cut - i : n - i;
        len = piece && piece < len ? piece : len;
        read_piece(&s, p + i, len, &t);
        i += len;
    }
    assert_false(t.full);
    return text_z(&t);
}

static void check(const char *p, size_t n, const char *expected)
{
    assert_string_equal(read_cut(p, n, 0, 0), expected);
    for (size_t piece = 1; piece < 8; piece++) {
        assert_string_equal(read_cut(p, n, 0, piece), expected);
    }
    for (size_t cut = 1; cut < n; cut++) {
        assert_string_equal(read_cut(p, n, cut, 0), expected);
    }
}

/* '~' stands for the end of a line, whichever that is; others are written as they are. */
static const struct {
    const char *stream, *expected;
} cases[] = {
    {"", ""},
    {"data: x~~", "x|# "},
    {"data:x~~", "x|# "},
    {"data:  x~~", " x|# "},
    {"data: x ~~", "x |# "},
    {"data:\tx~~", "\tx|# "},
    {"data: {\"a\":\"b: c\"}~~", "{\"a\":\"b: c\"}|# "},
    {"data: a~~data: b~~", "a|# b|# "},
    {"data: a~data: b~~", "a|b|# "},
    {"data:~data: ~data~~", "|||# "},
    {"~~~data: x~~~", "# # # x|# # "},
    {"data: x", "x"},
    {"data: x~", "x|"},
    {"data: [DONE]~~", "[DONE]|# "},
    /* a byte order mark, at the start only */
    {"\xef\xbb\xbf"
     "data: x~~",
     "x|# "},
    {"data: x~\xef\xbb\xbf"
     "data: y~~",
     "x|# "},
    /* names of events are forgotten at their end */
    {"event: ping~data: x~~data: y~~", "x|#ping y|# "},
    {"data: x~event:late~~~", "x|#late # "},
    {"event: a~event: bc~~", "#bc "},
    {"event: a~event~~", "# "},
    {"event:~~event: ~~", "# # "},
    {"event:  two words ~~", "#two words  "},
    {"event: 0123456789012345678~~", "#012345678901234 "},
    {"event: error~data: {}~~", "{}|#error "},
    /* what is no field of ours */
    {": comment~:~data: x~: data: y~~", "x|# "},
    {"id: 7~retry: 10~data: x~~", "x|# "},
    {"datax: 1~dat: 2~Data: 3~data : 4~ data: 5~~", "# "},
    {"data0123456789012345: x~event0123456789012345: y~~", "# "},
    {"x~datax~~", "# "},
    {"HTTP: {~~", "# "},
    /* what some servers write instead */
    {"error: {\"message\":\"m\"}~~", "{\"message\":\"m\"}|#error "},
    {"error:{~~data: x~~", "{|#error x|# "},
    {"error~~", "|#error "},
    {"errors: {~~", "# "},
    {"{\"a\":1}~~", "{\"a\":1}|# "},
    {"{\"a\":1}~{\"b\":2}~", "{\"a\":1}|{\"b\":2}|"},
    {"{~", "{|"},
    {" {\"a\":1}~", ""},
    {"data: {~{}~~", "{|{}|# "},
    {"event: e~{\"data: x\"}~~", "{\"data: x\"}|#e "},
};

static void test_cases(void **state)
{
    static const char *const ends[] = {"\n", "\r", "\r\n"};
    char stream[256];
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        for (size_t e = 0; e < OLLA_COUNT(ends); e++) {
            struct text t = text_in(stream, sizeof stream);
            for (const char *c = cases[i].stream; *c; c++) {
                text_add(&t, *c == '~' ? str_of(ends[e]) : (struct str){c, 1});
            }
            assert_false(t.full);
            check(t.p, t.n, cases[i].expected);
        }
    }
}

/* All three ends in one stream; an LF belongs to a CR before it only if nothing is between them. */
static void test_mixed_ends(void **state)
{
    static const char stream[] = "data: a\rdata: b\ndata: c\r\n\ndata: d\r\r\n\r\n\n\rdata: e\n\r";
    (void)state;
    check(stream, sizeof stream - 1, "a|b|c|# d|# # # # e|# ");
}

/* Bytes of any kind are data, a NUL too. */
static void test_bytes(void **state)
{
    (void)state;
    for (int b = 1; b < 256; b++) {
        char stream[] = "data: x?y\n\n", expected[] = "x?y|# ";
        stream[7] = expected[1] = (char)b;
        if (b != '\n' && b != '\r') {
            check(stream, sizeof stream - 1, expected);
        }
    }
    struct sse s;
    struct str in = STR("data: a\0b\n"), data;
    memset(&s, 0, sizeof s);
    assert_int_equal(sse_next(&s, &in, &data), SSE_DATA);
    assert_int_equal(data.n, 3);
    assert_memory_equal(data.p, "a\0b", 3);
    assert_int_equal(sse_next(&s, &in, &data), SSE_LINE);
}

/* A line of any length: its data comes in as many parts as it arrives in, and none is held. */
static void test_long_line(void **state)
{
    static char part[1000];
    struct sse s;
    struct str in = STR("data: "), data;
    size_t n = 0;
    (void)state;
    memset(part, ':', sizeof part);
    memset(&s, 0, sizeof s);
    assert_int_equal(sse_next(&s, &in, &data), SSE_MORE);
    for (int i = 0; i < 3000; i++) {
        in = (struct str){guard_copy(part, sizeof part), sizeof part};
        assert_int_equal(sse_next(&s, &in, &data), SSE_DATA);
        n += data.n;
        assert_int_equal(sse_next(&s, &in, &data), SSE_MORE);
    }
    assert_int_equal(n, 3000000);
    in = STR("\r\n\r\n");
    assert_int_equal(sse_next(&s, &in, &data), SSE_LINE);
    assert_int_equal(sse_next(&s, &in, &data), SSE_EVENT);
    assert_int_equal(sse_next(&s, &in, &data), SSE_MORE);
}

/* Ends of lines are found wherever they stand, also if the next one is of another kind and near or far. */
static void test_far_ends(void **state)
{
    static const char ends[] = "\r\n";
    static char stream[4096], log[4096];
    (void)state;
    for (size_t n = 1; n < 1600; n += n % 512 < 2 || n % 512 > 509 ? 1 : 127) {
        for (size_t e = 0; e < 4; e++) {
            struct text t = text_in(stream, sizeof stream), got = text_in(log, sizeof log);
            struct sse s;
            text_addz(&t, e & 1 ? "data:" : "other:");
            for (size_t i = 0; i < n; i++) {
                text_char(&t, 'x');
            }
            text_char(&t, ends[e / 2]);
            text_addz(&t, "data: y");
            text_char(&t, ends[1 - e / 2]);
            text_char(&t, ends[1 - e / 2]);
            memset(&s, 0, sizeof s);
            assert_false(t.full);
            read_piece(&s, t.p, t.n, &got);
            assert_false(got.full);
            assert_int_equal(got.n, (e & 1 ? n + 1 : 0) + 4);
            assert_memory_equal(got.p + got.n - 4, "y|# ", 4);
        }
    }
}

/* The name stays readable until the next call, and is gone then, also when there is nothing to read. */
static void test_name(void **state)
{
    struct sse s;
    struct str in = STR("event: one\n\n"), data;
    (void)state;
    memset(&s, 0, sizeof s);
    assert_int_equal(sse_next(&s, &in, &data), SSE_EVENT);
    assert_string_equal(s.event, "one");
    in.n = 0;
    assert_int_equal(sse_next(&s, &in, &data), SSE_MORE);
    assert_string_equal(s.event, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),     cmocka_unit_test(test_mixed_ends), cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_long_line), cmocka_unit_test(test_far_ends),   cmocka_unit_test(test_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
