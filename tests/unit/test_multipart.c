/*
 * test_multipart.c - the model field of multipart bodies: fed whole, byte by byte and at every split.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/multipart.h"
#include "guard.h"

#define TYPE              "multipart/form-data; boundary=XyZ"
#define PART(head, value) "--XyZ\r\n" head "\r\n\r\n" value "\r\n"
#define MODEL(value)      PART("Content-Disposition: form-data; name=\"model\"", value)
#define FILE_PART(value)                                                         \
    PART("Content-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n" \
         "Content-Type: audio/wav",                                              \
         value)
#define END "--XyZ--\r\n"

static const struct {
    const char *body, *model;
    bool twice, too_long;
} cases[] = {
    {MODEL("whisper-1") END, "whisper-1", false, false},
    {FILE_PART("RIFF....") MODEL("whisper-1") END, "whisper-1", false, false},
    {MODEL("whisper-1") FILE_PART("RIFF\r\n--XyW\r\n--Xy\r") END, "whisper-1", false, false},
    {FILE_PART("--XyZ inside a line") MODEL("a") END, "a", false, false},
    {"\r\n\r\n" MODEL("a") END, "a", false, false},
    /* RFC 2046 has a preamble, which nobody sends in a form: servers differ in what they make of it. */
    {"ignored\r\n" MODEL("a") END, "", false, false},
    {"--Xy\r\n" MODEL("a") END, "", false, false},
    {"-" MODEL("a") END, "", false, false},
    {MODEL("a\r\n--Xy") END, "a\r\n--Xy", false, false},
    {MODEL("a\r") END, "a\r", false, false},
    {MODEL("") END, "", false, false},
    {MODEL("a") MODEL("b") END, "a", true, false},
    {PART("content-disposition:form-data;NAME=model", "a") END, "a", false, false},
    {PART("Content-Disposition: form-data; name=\"models\"", "a") END, "", false, false},
    {PART("Content-Disposition: form-data; filename=\"x\"; name=\"model\"", "a") END, "a", false, false},
    {END MODEL("a") END, "", false, false},
    {MODEL("0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
           "0123456789012345678901234567890") END,
     NULL, false, true},
    {"no parts at all", "", false, false},
    {"", "", false, false},
};

static void check(size_t i, const struct multipart_scan *s)
{
    size_t n = strlen(cases[i].body);
    assert_int_equal(s->twice, cases[i].twice);
    assert_int_equal(s->too_long, cases[i].too_long);
    if (cases[i].model) {
        assert_string_equal(s->model, cases[i].model);
    }
    if (cases[i].model && cases[i].model[0]) {
        assert_true(s->to <= n && s->to - s->from == strlen(cases[i].model));
        assert_memory_equal(cases[i].body + s->from, cases[i].model, strlen(cases[i].model));
    }
}

static void test_splits(void **state)
{
    struct multipart_scan s;
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        size_t n = strlen(cases[i].body);
        const char *body = guard_copy(cases[i].body, n);
        for (size_t cut = 0; cut <= n; cut++) {
            assert_true(multipart_start(&s, STR(TYPE)));
            multipart_feed(&s, body, cut);
            multipart_feed(&s, body + cut, n - cut);
            check(i, &s);
        }
        assert_true(multipart_start(&s, STR(TYPE)));
        for (size_t at = 0; at < n; at++) {
            multipart_feed(&s, body + at, 1);
        }
        check(i, &s);
    }
}

static void test_types(void **state)
{
    static const struct {
        const char *type;
        bool ok;
    } types[] = {
        {TYPE, true},
        {"Multipart/Form-Data;boundary=\"a b\"", true},
        {"multipart/form-data; charset=utf-8; Boundary=x", true},
        {"multipart/form-data", false},
        {"multipart/form-data; boundary=", false},
        {"multipart/mixed; boundary=x", false},
        {"application/json", false},
        {"", false},
        {"multipart/form-data; boundary=0123456789012345678901234567890123456789012345678901234567890123456789", true},
        {"multipart/form-data; boundary=0123456789012345678901234567890123456789012345678901234567890123456789012",
         false},
    };
    struct multipart_scan s;
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(types); i++) {
        assert_int_equal(multipart_start(&s, str_of(types[i].type)), types[i].ok);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
