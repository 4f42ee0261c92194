/*
 * test_pieces.c - texts of words and parts, written with every room.
 *
 * Each text is put together anew and taken with every room from 8 bytes up, from windows of several sizes; the room is
 * flush against a page that must not be touched. The bytes are always the same, and as many as pieces_count says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guard.h"
#include "windows.h"

#include "../../src/pieces.h"

static const size_t sizes[] = {0, 1, 2, 3, 7};

static struct pieces p;
static struct windows window;
static struct json_source source;

static void open_source(const char *doc, size_t size)
{
    window = (struct windows){doc, strlen(doc), size, 0, false};
    source = windows_source(&window);
    memset(&p, 0, sizeof p);
}

/* Takes all of it with so much room at a time. */
static const char *take(size_t room)
{
    static char all[8192];
    char *mem = guard_room(room);
    size_t n = 0, some;

    while (!pieces_empty(&p)) {
        some = pieces_take(&p, mem, room);
        assert_true(some <= room && n + some < sizeof all);
        assert_true(some > 0 || pieces_empty(&p)); /* nobody waits in vain */
        memcpy(all + n, mem, some);
        n += some;
    }
    assert_int_equal(pieces_take(&p, mem, room), 0);
    all[n] = '\0';
    return all;
}

/* ---- one part ----------------------------------------------------------------- */

#define FFFD "\xef\xbf\xbd"

static const struct {
    const char *doc;
    enum piece_how how;
    const char *text;
} parts[] = {
    {"", PIECE_RAW, ""},
    {"abc", PIECE_RAW, "abc"},
    {"{\"a\":\"\\u0041\n\"}", PIECE_RAW, "{\"a\":\"\\u0041\n\"}"},
    {"0123456789012345678901234567890123456789", PIECE_RAW, "0123456789012345678901234567890123456789"},
    {"", PIECE_QUOTED, ""},
    {"{\"a\": \"\\n\"}", PIECE_QUOTED, "{\\\"a\\\": \\\"\\\\n\\\"}"},
    {"\"\"\"\"\"\"\"\"\"\"", PIECE_QUOTED, "\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\""},
    {"[1,\n\t2,\r\n3]", PIECE_QUOTED, "[1,\\n\\t2,\\r\\n3]"},
    {"\xc3\xa9\\\\", PIECE_QUOTED, "\xc3\xa9\\\\\\\\"},
    {"", PIECE_UNQUOTED, ""},
    {"abc", PIECE_UNQUOTED, "abc"},
    {"{\\\"a\\\":\\\"\\\\n\\\"}", PIECE_UNQUOTED, "{\"a\":\"\\n\"}"},
    {"\\n\\t\\/\\u0041", PIECE_UNQUOTED, "\n\t/A"},
    {"\\ud83d\\ude00\\ud83d\\ude00\\ud83d\\ude00", PIECE_UNQUOTED, "\xf0\x9f\x98\x80\xf0\x9f\x98\x80\xf0\x9f\x98\x80"},
    {"\\ud83d", PIECE_UNQUOTED, FFFD},
    {"x\\ud83d", PIECE_UNQUOTED, "x" FFFD},
    {"\\ude00y", PIECE_UNQUOTED, FFFD "y"},
    {"\\ud83d\\ud83dz", PIECE_UNQUOTED, FFFD FFFD "z"},
    {"\\ud83d\\u20ac", PIECE_UNQUOTED, FFFD "\xe2\x82\xac"},
    {"\\u0000", PIECE_UNQUOTED, FFFD},
};

static void put_part(size_t i, size_t size)
{
    open_source(parts[i].doc, size);
    pieces_part(&p, &source, 0, strlen(parts[i].doc), parts[i].how);
}

static void test_parts(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(parts); i++) {
        for (size_t k = 0; k < OLLA_COUNT(sizes); k++) {
            for (size_t room = 8; room < 64; room++) {
                put_part(i, sizes[k]);
                assert_string_equal(take(room), parts[i].text);
                assert_false(window.failed);
            }
            put_part(i, sizes[k]);
            assert_int_equal(pieces_count(&p), strlen(parts[i].text));
            assert_true(pieces_empty(&p));
        }
    }
}

/* Two parts, one behind the other: what is held back of the first one does not get into the second. */
static void test_pairs(void **state)
{
    char both[512];
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(parts); i++) {
        for (size_t j = 0; j < OLLA_COUNT(parts); j++) {
            struct windows other = {parts[j].doc, strlen(parts[j].doc), 1, 0, false};
            struct json_source from = windows_source(&other);
            for (size_t room = 8; room < 24; room++) {
                put_part(i, 2);
                pieces_part(&p, &from, 0, other.n, parts[j].how);
                struct text t = text_in(both, sizeof both);
                text_addz(&t, parts[i].text);
                text_addz(&t, parts[j].text);
                assert_string_equal(take(room), text_z(&t));
            }
            put_part(i, 3);
            pieces_part(&p, &from, 0, other.n, parts[j].how);
            assert_int_equal(pieces_count(&p), strlen(parts[i].text) + strlen(parts[j].text));
        }
    }
}

/* ---- together ----------------------------------------------------------------------- */

static const char all_doc[] = "{\"x\\\"y\":[1, 2],\"z\":\"\\u00e9\\ud83d\"}";
static const char all_text[] =
    "{\"a\":0,\"b\":18446744073709551615,\"c\":\"q\\\"\\u003c\",\"d\":[1, 2],\"e\":\"\\\"x\\\\"
    "\\\"y\\\"\",\"f\":\"\xc3\xa9" FFFD "\"}tail";

static void put_all(size_t size)
{
    open_source(all_doc, size);
    pieces_words(&p, "{\"a\":");
    pieces_number(&p, 0);
    pieces_words(&p, ",\"b\":");
    pieces_number(&p, UINT64_MAX);
    pieces_words(&p, "");
    pieces_words(&p, ",\"c\":");
    pieces_string(&p, STR("q\"<"));
    pieces_words(&p, ",\"d\":");
    pieces_part(&p, &source, 8, 14, PIECE_RAW);
    pieces_words(&p, ",\"e\":\"");
    pieces_part(&p, &source, 1, 7, PIECE_QUOTED);
    pieces_words(&p, "\",\"f\":\"");
    pieces_part(&p, &source, 20, 32, PIECE_UNQUOTED);
    pieces_part(&p, &source, 5, 5, PIECE_RAW); /* nothing */
    pieces_words(&p, "\"}");
    pieces_words(&p, "tail");
}

static void test_together(void **state)
{
    (void)state;
    for (size_t k = 0; k < OLLA_COUNT(sizes); k++) {
        for (size_t room = 8; room < 160; room++) {
            put_all(sizes[k]);
            assert_false(pieces_empty(&p));
            assert_string_equal(take(room), all_text);
            assert_false(p.full);
            assert_false(window.failed);
        }
        put_all(sizes[k]);
        assert_int_equal(pieces_count(&p), sizeof all_text - 1);
        assert_true(pieces_empty(&p));
        assert_int_equal(pieces_count(&p), 0);
    }
}

/* What was taken already is not counted. */
static void test_count_the_rest(void **state)
{
    (void)state;
    for (size_t room = 8; room < 120; room++) {
        put_all(1);
        size_t n = pieces_take(&p, guard_room(room), room);
        assert_int_equal(n + pieces_count(&p), sizeof all_text - 1);
    }
}

/* Pieces can be used again and again, also when they were forgotten in the middle of an escape. */
static void test_again(void **state)
{
    char mem[16];
    (void)state;
    open_source("\\ud83d\\u0041\\u0042\\u0043\\u0044\\u0045\\u0046", 3);
    pieces_part(&p, &source, 0, 8, PIECE_UNQUOTED); /* not to the end of the second escape */
    pieces_words(&p, "#");
    (void)pieces_take(&p, mem, 8);
    pieces_clear(&p);
    assert_true(pieces_empty(&p));
    pieces_part(&p, &source, 6, window.n, PIECE_UNQUOTED);
    assert_string_equal(take(8), "ABCDEF");
    for (int i = 0; i < 1000; i++) {
        pieces_words(&p, "some words");
        pieces_number(&p, 7);
        assert_string_equal(take(9), "some words7");
    }
    assert_false(p.full);
}

/* Room below 8 bytes may be left unused by what is changed; words and raw parts use it. */
static void test_small_room(void **state)
{
    (void)state;
    open_source("abc", 0);
    pieces_words(&p, "xy");
    pieces_part(&p, &source, 0, 3, PIECE_RAW);
    for (size_t room = 1; room < 8; room++) {
        assert_true(pieces_take(&p, guard_room(0), 0) == 0);
    }
    assert_string_equal(take(1), "xyabc");
    pieces_part(&p, &source, 0, 3, PIECE_QUOTED);
    for (size_t room = 0; room < 8; room++) {
        assert_int_equal(pieces_take(&p, guard_room(room), room), 0);
        assert_false(pieces_empty(&p));
    }
    assert_string_equal(take(8), "abc");
}

/* ---- too much --------------------------------------------------------------------------- */

static void test_too_many(void **state)
{
    char expected[PIECES_MAX + 1];
    (void)state;
    open_source("x", 0);
    for (int i = 0; i < PIECES_MAX; i++) {
        pieces_part(&p, &source, 0, 1, PIECE_RAW);
        assert_false(p.full);
    }
    pieces_part(&p, &source, 0, 1, PIECE_RAW);
    assert_true(p.full);
    memset(expected, 'x', PIECES_MAX);
    expected[PIECES_MAX] = '\0';
    assert_string_equal(take(8), expected);

    open_source("x", 0);
    for (int i = 0; i < PIECES_MAX; i++) {
        pieces_part(&p, &source, 0, 1, PIECE_RAW);
    }
    pieces_words(&p, "no piece for these");
    assert_true(p.full);
    assert_string_equal(take(8), expected);
}

static void test_too_many_words(void **state)
{
    static char words[PIECES_TEXT];
    (void)state;
    memset(words, 'w', sizeof words - 1);
    open_source("x", 0);
    pieces_words(&p, words);
    pieces_words(&p, "x");
    assert_false(p.full);
    pieces_words(&p, "y");
    assert_true(p.full);
    assert_int_equal(pieces_count(&p), PIECES_TEXT);
}

/* ---- a source that fails -------------------------------------------------------------------- */

static void test_failing(void **state)
{
    char mem[64];
    (void)state;
    for (int how = PIECE_RAW; how <= PIECE_UNQUOTED; how++) {
        for (size_t at = 1; at < 20; at++) {
            open_source("01234567890123456789", 4);
            window.fails_at = at;
            pieces_part(&p, &source, 0, 20, (enum piece_how)how);
            pieces_words(&p, "end");
            for (int i = 0; !pieces_empty(&p); i++) {
                assert_true(i < 20);
                (void)pieces_take(&p, mem, sizeof mem);
            }
            assert_true(window.failed);
            if (how == PIECE_RAW) {
                continue; /* counting reads nothing of it */
            }
            open_source("01234567890123456789", 4);
            window.fails_at = at;
            pieces_part(&p, &source, 0, 20, (enum piece_how)how);
            (void)pieces_count(&p);
            assert_true(window.failed && pieces_empty(&p));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),          cmocka_unit_test(test_pairs),          cmocka_unit_test(test_together),
        cmocka_unit_test(test_count_the_rest), cmocka_unit_test(test_again),          cmocka_unit_test(test_small_room),
        cmocka_unit_test(test_too_many),       cmocka_unit_test(test_too_many_words), cmocka_unit_test(test_failing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
