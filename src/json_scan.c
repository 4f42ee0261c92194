/*
 * json_scan.c - facts of a request body: which model, stream or not.
 *
 * A body may be 100 MB, nearly all of it one base64 string, so the inside of
 * strings is crossed with memchr and only the keys and scalars of the top
 * level are looked at byte by byte. Nesting is a counter, never a stack.
 *
 * Invariants: the result does not depend on how the body is cut into feeds;
 * nothing is kept of the body but `cap`; once `broken`, nothing changes any
 * more except `at`. This is no validator: what a backend will refuse anyway
 * may pass, what could make two parsers see different facts may not.
 *
 * May include: olla.h, str.h, json.h.
 */
#include "json.h"

#include <string.h>

enum scan_state {
    SCAN_START = 0, /* nothing seen yet; a byte order mark may come */
    SCAN_BOM_2,
    SCAN_BOM_3,
    SCAN_OPEN,     /* before the '{' */
    SCAN_KEY,      /* before a key, or before the '}' */
    SCAN_KEY_TEXT, /* in a key */
    SCAN_COLON,
    SCAN_VALUE,  /* before or, with in_string or depth > 1, in a value */
    SCAN_SCALAR, /* in a number or literal */
    SCAN_AFTER,  /* behind a value */
    SCAN_DONE
};

enum scan_key { KEY_OTHER = 0, KEY_MODEL, KEY_STREAM };

static const struct {
    struct str name;
    uint8_t key;
} wanted[] = {
    {{"model", 5}, KEY_MODEL},
    {{"stream", 6}, KEY_STREAM},
};

#define WANTED_MAX 6 /* length of the longest of them */

#define P JSON_PLAIN
const uint8_t json_byte_class[256] = {
    [' '] = JSON_BLANK, ['\t'] = JSON_BLANK, ['\r'] = JSON_BLANK, ['\n'] = JSON_BLANK, [','] = JSON_PUNCT,
    [':'] = JSON_PUNCT, ['"'] = JSON_QUOTE,  ['{'] = JSON_OPEN,   ['['] = JSON_OPEN,   ['}'] = JSON_CLOSE,
    [']'] = JSON_CLOSE, ['+'] = P,           ['-'] = P,           ['.'] = P,           ['0'] = P,
    ['1'] = P,          ['2'] = P,           ['3'] = P,           ['4'] = P,           ['5'] = P,
    ['6'] = P,          ['7'] = P,           ['8'] = P,           ['9'] = P,           ['A'] = P,
    ['B'] = P,          ['C'] = P,           ['D'] = P,           ['E'] = P,           ['F'] = P,
    ['G'] = P,          ['H'] = P,           ['I'] = P,           ['J'] = P,           ['K'] = P,
    ['L'] = P,          ['M'] = P,           ['N'] = P,           ['O'] = P,           ['P'] = P,
    ['Q'] = P,          ['R'] = P,           ['S'] = P,           ['T'] = P,           ['U'] = P,
    ['V'] = P,          ['W'] = P,           ['X'] = P,           ['Y'] = P,           ['Z'] = P,
    ['a'] = P,          ['b'] = P,           ['c'] = P,           ['d'] = P,           ['e'] = P,
    ['f'] = P,          ['g'] = P,           ['h'] = P,           ['i'] = P,           ['j'] = P,
    ['k'] = P,          ['l'] = P,           ['m'] = P,           ['n'] = P,           ['o'] = P,
    ['p'] = P,          ['q'] = P,           ['r'] = P,           ['s'] = P,           ['t'] = P,
    ['u'] = P,          ['v'] = P,           ['w'] = P,           ['x'] = P,           ['y'] = P,
    ['z'] = P,
};
#undef P

static bool is_blank(char c)
{
    return json_byte_class[(unsigned char)c] == JSON_BLANK;
}

/* ---- strings ---------------------------------------------------------------- */

static void begin_string(struct json_scan *s, bool capture)
{
    s->in_string = true;
    s->escaped = false;
    s->capture = capture;
    s->overflow = false;
    s->cap_n = 0;
    memset(&s->unescape, 0, sizeof s->unescape);
}

static void keep(struct json_scan *s, const char *p, size_t n)
{
    const bool value = s->state == SCAN_VALUE;
    const size_t limit = value ? sizeof s->cap - 1 : WANTED_MAX;

    for (size_t i = 0; i < n && s->capture; i++) {
        if (value && s->cap_n == 0 && is_blank(p[i])) {
            continue; /* trimmed here, so that blanks in front do not use up the room */
        }
        if (s->cap_n == limit) {
            s->overflow = true;
            s->capture = false;
        } else {
            s->cap[s->cap_n++] = p[i];
        }
    }
}

/* Crosses a string nobody wants, from inside it. */
static const char *skip_string(struct json_scan *s, const char *p, const char *end)
{
    if (s->escaped && p < end) {
        s->escaped = false;
        p++;
    }
    for (;;) {
        const char *quote = memchr(p, '"', (size_t)(end - p));
        const char *stop = quote ? quote : end;
        const char *run = stop;

        while (run > p && run[-1] == '\\') {
            run--;
        }
        const bool odd = ((stop - run) & 1) != 0;
        if (!quote) {
            s->escaped = odd;
            return end;
        }
        p = quote + 1;
        if (!odd) {
            s->in_string = false;
            return p;
        }
    }
}

/* The same for a wanted one; returns early when it turns out not to be wanted. */
static const char *take_string(struct json_scan *s, const char *p, const char *end)
{
    char out[8];

    while (p < end && s->capture) {
        const char c = *p++;
        if (s->escaped) {
            s->escaped = false;
        } else if (c == '\\') {
            s->escaped = true;
        } else if (c == '"') {
            s->in_string = false;
            break;
        }
        keep(s, out, json_unescape_byte(&s->unescape, c, out));
    }
    return p;
}

static void end_model(struct json_scan *s)
{
    if (s->model_to != 0) {
        return;
    }
    s->model_from = s->quote_at;
    s->model_to = s->at;
    if (s->overflow) {
        s->model_too_long = true;
        return;
    }
    const struct str name = str_trim((struct str){s->cap, s->cap_n});
    for (size_t i = 0; i < name.n; i++) {
        const unsigned char c = (unsigned char)name.p[i];
        s->model[i] = (c < 0x20 || c == 0x7f) ? '?' : (char)c; /* it will stand in headers and log lines */
    }
    s->model[name.n] = '\0';
}

/* A top-level string has ended, `at` is behind its quote. */
static void end_string(struct json_scan *s)
{
    const bool key = s->state == SCAN_KEY_TEXT;

    if (s->capture) {
        char out[8];
        keep(s, out, json_unescape_end(&s->unescape, out));
        if (s->unescape.bad) {
            s->broken = true; /* parsers differ in what they make of it */
            return;
        }
    }
    if (!key) {
        if (s->key == KEY_MODEL) {
            end_model(s);
        }
        s->state = SCAN_AFTER;
        return;
    }
    s->key = KEY_OTHER;
    for (size_t i = 0; !s->overflow && i < OLLA_COUNT(wanted); i++) {
        if (str_ieq((struct str){s->cap, s->cap_n}, wanted[i].name)) {
            s->key = wanted[i].key;
        }
    }
    if (s->key == KEY_MODEL) {
        /* Whatever the values are: parsers differ in which of the two they take. */
        s->model_twice = s->model_twice || s->model_seen;
        s->model_seen = true;
    }
    s->state = SCAN_COLON;
}

/* ---- outside strings ---------------------------------------------------------- */

/* Below the top level nothing matters but strings and brackets. */
static const char *skip_nested(struct json_scan *s, const char *p, const char *end)
{
    while (p < end) {
        switch (json_byte_class[(unsigned char)*p++]) {
        case JSON_QUOTE:
            s->in_string = true;
            p = skip_string(s, p, end);
            break;
        case JSON_OPEN:
            if (++s->depth == UINT32_MAX) {
                s->broken = true;
                return p;
            }
            break;
        case JSON_CLOSE:
            if (--s->depth == 1) {
                s->state = SCAN_AFTER;
                return p;
            }
            break;
        case JSON_BAD:
            s->broken = true;
            return p;
        default:
            break;
        }
    }
    return p;
}

static void end_scalar(struct json_scan *s)
{
    const struct str word = {s->cap, s->cap_n};

    if (s->key == KEY_STREAM && str_eq(word, STR("true"))) {
        s->stream = JSON_STREAM_TRUE;
    } else if (s->key == KEY_STREAM && str_eq(word, STR("false"))) {
        s->stream = JSON_STREAM_FALSE;
    }
    s->state = SCAN_AFTER;
}

static void keep_scalar(struct json_scan *s, char c)
{
    if (s->cap_n < WANTED_MAX) { /* long enough to differ from every literal */
        s->cap[s->cap_n++] = c;
    }
}

/* The first byte of a top-level value. */
static void begin_value(struct json_scan *s, char c)
{
    switch (json_byte_class[(unsigned char)c]) {
    case JSON_QUOTE:
        s->quote_at = s->at;
        begin_string(s, s->key == KEY_MODEL);
        break;
    case JSON_OPEN:
        s->depth = 2;
        break;
    case JSON_PLAIN:
        s->state = SCAN_SCALAR;
        s->cap_n = 0;
        keep_scalar(s, c);
        break;
    default:
        s->broken = true;
        break;
    }
}

static void close_object(struct json_scan *s)
{
    s->depth = 0;
    s->state = SCAN_DONE;
    s->complete = true;
}

/* What may stand between the values of the top level; c is no blank. */
static void top_byte(struct json_scan *s, char c)
{
    if (s->state == SCAN_OPEN && c == '{') {
        s->depth = 1;
        s->state = SCAN_KEY;
    } else if (s->state == SCAN_KEY && c == '"') {
        s->state = SCAN_KEY_TEXT;
        begin_string(s, true);
    } else if (s->state == SCAN_COLON && c == ':') {
        s->state = SCAN_VALUE;
    } else if (s->state == SCAN_VALUE) {
        begin_value(s, c);
    } else if (s->state == SCAN_AFTER && c == ',') {
        s->state = SCAN_KEY;
    } else if ((s->state == SCAN_KEY || s->state == SCAN_AFTER) && c == '}') {
        close_object(s);
    } else {
        s->complete = false;
        s->broken = true;
    }
}

/* One byte of the top level outside strings; `at` is its position. */
static void scan_top(struct json_scan *s, char c)
{
    const uint8_t class = json_byte_class[(unsigned char)c];

    if (s->state == SCAN_START) {
        s->state = (c == '\xef') ? SCAN_BOM_2 : SCAN_OPEN;
        if (s->state == SCAN_BOM_2) {
            return;
        }
    } else if (s->state == SCAN_BOM_2 || s->state == SCAN_BOM_3) {
        s->broken = c != (s->state == SCAN_BOM_2 ? '\xbb' : '\xbf');
        s->state++;
        return;
    } else if (s->state == SCAN_SCALAR) {
        if (class == JSON_PLAIN) {
            keep_scalar(s, c);
            return;
        }
        end_scalar(s);
    }
    if (class != JSON_BLANK) {
        top_byte(s, c);
    }
}

void json_scan_feed(struct json_scan *s, const char *p, size_t n)
{
    const char *const end = p + n;
    const uint64_t after = s->at + n;

    while (p < end && !s->broken) {
        if (s->in_string) {
            p = s->capture ? take_string(s, p, end) : skip_string(s, p, end);
            if (!s->in_string && s->depth == 1) {
                s->at = after - (uint64_t)(end - p);
                end_string(s);
            }
        } else if (s->depth > 1) {
            p = skip_nested(s, p, end);
        } else {
            s->at = after - (uint64_t)(end - p);
            scan_top(s, *p++);
        }
    }
    s->at = after;
}
