/*
 * json.c - any bytes as JSON.
 *
 * The check agrees with a plain recursive reader of RFC 8259, however the bytes are cut, and jsmn takes what it takes.
 * Walking through what was accepted finds the members that the check found, whatever the windows are.
 */
#include "../unit/telling.h"

#include "../../src/pieces.h"

#define JSMN_STATIC
#define JSMN_PARENT_LINKS
#define JSMN_STRICT
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#include <jsmn.h>
#pragma GCC diagnostic pop

/* ---- the plain reader ------------------------------------------------------------- */

struct reader {
    const char *p, *end;
    unsigned depth;
};

static void skip_blanks(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r')) {
        r->p++;
    }
}

static bool take(struct reader *r, char b)
{
    bool there = r->p < r->end && *r->p == b;
    r->p += there;
    return there;
}

static bool read_string(struct reader *r)
{
    if (!take(r, '"')) {
        return false;
    }
    while (r->p < r->end) {
        unsigned char b = (unsigned char)*r->p++;
        if (b == '"') {
            return true;
        }
        if (b < 0x20) {
            return false;
        }
        if (b != '\\') {
            continue;
        }
        if (take(r, 'u')) {
            for (int i = 0; i < 4; i++, r->p++) {
                if (r->p == r->end || !*r->p || !strchr("0123456789abcdefABCDEF", *r->p)) {
                    return false;
                }
            }
        } else if (r->p == r->end || !*r->p || !strchr("\"\\/bfnrt", *r->p++)) {
            return false;
        }
    }
    return false;
}

static bool read_digits(struct reader *r)
{
    const char *from = r->p;
    while (r->p < r->end && *r->p >= '0' && *r->p <= '9') {
        r->p++;
    }
    return r->p > from;
}

static bool read_number(struct reader *r)
{
    take(r, '-');
    if (!take(r, '0') && !read_digits(r)) {
        return false;
    }
    if (take(r, '.') && !read_digits(r)) {
        return false;
    }
    if (take(r, 'e') || take(r, 'E')) {
        if (!take(r, '+')) {
            take(r, '-');
        }
        return read_digits(r);
    }
    return true;
}

static bool read_value(struct reader *r)
{
    static const char *const words[] = {"true", "false", "null"};
    char open = r->p < r->end ? *r->p : '\0', close = open == '{' ? '}' : ']';

    for (size_t i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(r->end - r->p) >= n && memcmp(r->p, words[i], n) == 0) {
            r->p += n;
            return true;
        }
    }
    if (open != '{' && open != '[') {
        return open == '"' ? read_string(r) : read_number(r);
    }
    r->p++;
    if (++r->depth > JSON_DEPTH) {
        return false;
    }
    skip_blanks(r);
    for (bool first = true; !take(r, close); first = false) {
        if (!first && !take(r, ',')) {
            return false;
        }
        skip_blanks(r);
        if (open == '{') {
            if (!read_string(r)) {
                return false;
            }
            skip_blanks(r);
            if (!take(r, ':')) {
                return false;
            }
            skip_blanks(r);
        }
        if (!read_value(r)) {
            return false;
        }
        skip_blanks(r);
    }
    r->depth--;
    return true;
}

static bool read_document(const char *p, size_t n)
{
    struct reader r = {p, p + n, 0};
    skip_blanks(&r);
    bool good = r.p < r.end && *r.p == '{' && read_value(&r);
    skip_blanks(&r);
    return good && r.p == r.end;
}

/* ---- walking ------------------------------------------------------------------------ */

enum { KEYS = 3 };
static const char *const keys[KEYS + 1] = {"a", "b", "model", NULL};

static bool same(struct json_value a, struct json_value b)
{
    return a.kind == b.kind && (a.kind == 0 || (a.from == b.from && a.to == b.to));
}

/* Reads a value in all ways. Returns something that depends on all that was read. */
static uint64_t walk(const struct json_source *s, struct json_value v, unsigned depth)
{
    struct json_value members[KEYS], element;
    uint64_t sum = v.from * 31 + v.to * 7 + (uint64_t)v.kind, at = json_first(v);
    char text[64];

    json_collect(s, v, keys, members);
    if (json_read(s, v, text, sizeof text)) {
        ENSURE(v.kind == '"');
        ENSURE(json_read_length(s, v) >= strlen(text));
        sum += (uint64_t)text[0];
    }
    sum += json_read_length(s, v) + json_compact_length(s, v);
    ENSURE(json_compact_length(s, v) <= 6 * (v.to - v.from));
    for (size_t i = 0; i < KEYS && v.kind == '{'; i++) {
        sum += members[i].kind ? walk(s, members[i], depth + 1) : 0;
    }
    for (unsigned i = 0; v.kind == '[' && json_next(s, &at, &element); i++) {
        ENSURE(element.from < element.to && element.to <= v.to && at == element.to);
        sum += walk(s, element, depth + 1);
    }
    ENSURE(depth <= JSON_DEPTH);
    return sum;
}

/* A part in all ways of writing; what is taken is as long as was counted. */
static uint64_t write_parts(const struct json_source *s, struct json_value v)
{
    static struct pieces p, q;
    static char out[64];
    struct json_value inner = json_inner(v);
    uint64_t n = 0, hash = 7;

    for (int how = PIECE_RAW; how <= PIECE_UNQUOTED; how++) {
        struct json_value part = how == PIECE_UNQUOTED ? inner : v;
        pieces_clear(&p);
        pieces_words(&p, "<");
        pieces_part(&p, s, part.from, part.to, (enum piece_how)how);
        q = p;
        uint64_t all = pieces_count(&q), some = 0;
        for (size_t k; (k = pieces_take(&p, out, sizeof out)) > 0; some += k) {
            for (size_t i = 0; i < k; i++) {
                hash = (hash ^ (unsigned char)out[i]) * 1099511628211u;
            }
        }
        ENSURE(pieces_empty(&p) && some == all);
        ENSURE(how != PIECE_UNQUOTED || all == 1 + json_read_length(s, v));
        n += all;
    }
    return n + hash;
}

static void look(const char *p, size_t n, const struct json_value *found)
{
    static const size_t sizes[] = {0, 1, 2, 3, 7};
    uint64_t sum = 0;

    for (size_t i = 0; i < OLLA_COUNT(sizes); i++) {
        struct windows w = {p, n, sizes[i], 0, false};
        struct json_source s = windows_source(&w);
        struct json_value top = {0, n, '{'}, again[KEYS];
        while (p[top.from] != '{') {
            top.from++;
        }
        while (p[top.to - 1] != '}') {
            top.to--;
        }
        json_collect(&s, top, keys, again);
        for (size_t k = 0; k < KEYS; k++) {
            ENSURE(same(found[k], again[k]));
        }
        uint64_t one = walk(&s, top, 1) + write_parts(&s, top);
        for (size_t k = 0; k < KEYS; k++) {
            one += found[k].kind ? write_parts(&s, found[k]) : 0;
        }
        ENSURE(!w.failed && (i == 0 || one == sum));
        sum = one;
    }
}

/* What accepts only JSON here may not have a colon, and so on; but what is JSON is JSON there. */
static void ask_jsmn(const char *p, size_t n)
{
    static jsmntok_t tokens[4096];
    jsmn_parser parser;
    jsmn_init(&parser);
    int got = jsmn_parse(&parser, p, n, tokens, OLLA_COUNT(tokens));
    ENSURE(got > 0 || got == JSMN_ERROR_NOMEM);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const char *p = (const char *)bytes;
    struct json_value found[KEYS], cut_found[KEYS];
    struct json_check whole, cut;
    size_t piece = n > 0 ? 1 + bytes[n - 1] % 5 : 1;

    json_check_start(&whole, keys, found);
    json_check_feed(&whole, p, n);
    json_check_start(&cut, keys, cut_found);
    for (size_t i = 0; i < n; i += piece) {
        json_check_feed(&cut, p + i, n - i < piece ? n - i : piece);
    }
    bool good = whole.done && !whole.bad;
    ENSURE(whole.bad == cut.bad && good == (cut.done && !cut.bad));
    ENSURE(good == read_document(p, n));
    if (good) {
        for (size_t i = 0; i < KEYS; i++) {
            ENSURE(same(found[i], cut_found[i]));
        }
        ask_jsmn(p, n);
        look(p, n, found);
    }
    return 0;
}
