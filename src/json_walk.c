/*
 * json_walk.c - level 2: see json_walk.h.
 *
 * A source gives its bytes in windows. A window is not kept from one call to
 * the next, because the bytes of another document may take its place.
 *
 * May include: olla.h, str.h, json.h, json_walk.h.
 */
#include "json_walk.h"

#include <string.h>

#define SHORT 32 /* as most keys are */

struct cursor {
    const struct json_source *s;
    uint64_t at;
    struct str window;
};

static bool next_window(struct cursor *c)
{
    c->window = c->s->at(c->s->of, c->at);
    *c->s->failed = *c->s->failed || c->window.n == 0;
    return c->window.p && c->window.n > 0;
}

/* Makes sure that there is a byte. */
static inline bool has_byte(struct cursor *c)
{
    return c->window.n > 0 || next_window(c);
}

static inline void skip(struct cursor *c, size_t n)
{
    c->window.p += n;
    c->window.n -= n;
    c->at += n;
}

/* Behind blanks and bytes `past`; the byte that follows, or '\0'. */
static char next_byte(struct cursor *c, char past)
{
    while (has_byte(c)) {
        char b = *c->window.p;
        if (b != ' ' && b != '\n' && b != '\t' && b != '\r' && b != past) {
            return b;
        }
        skip(c, 1);
    }
    return '\0';
}

/* Up to the closing quote of a short string without escapes; 0: it is none, or begins with that quote. */
static size_t short_string(const struct cursor *c)
{
    const char *p = c->window.p, *end = p + (c->window.n < SHORT ? c->window.n : SHORT), *to = json_plain_end(p, end);

    return to < end && *to == '"' ? (size_t)(to - p) : 0;
}

/* From behind the opening quote to behind the closing one. */
static void skip_string(struct cursor *c)
{
    bool escaped = false;
    size_t whole = has_byte(c) ? short_string(c) : 0;

    if (whole > 0) {
        skip(c, whole + 1);
        return;
    }
    while (has_byte(c)) {
        if (escaped) {
            escaped = false;
            skip(c, 1);
            continue;
        }
        const char *quote = memchr(c->window.p, '"', c->window.n);
        size_t n = quote ? (size_t)(quote - c->window.p) : c->window.n, slashes = 0;
        while (slashes < n && c->window.p[n - 1 - slashes] == '\\') {
            slashes++;
        }
        escaped = slashes % 2 != 0;
        skip(c, n);
        if (quote && !escaped) {
            skip(c, 1);
            return;
        }
    }
}

static void skip_brackets(struct cursor *c)
{
    unsigned depth = 0;
    do {
        size_t i = 0;
        if (!has_byte(c)) {
            return;
        }
        struct str w = c->window;
        for (; i < w.n && w.p[i] != '"'; i++) {
            depth += w.p[i] == '{' || w.p[i] == '[';
            if ((w.p[i] == '}' || w.p[i] == ']') && --depth == 0) {
                skip(c, i + 1);
                return;
            }
        }
        bool quote = i < w.n;
        skip(c, quote ? i + 1 : i);
        if (quote) {
            skip_string(c);
        }
    } while (depth > 0);
}

/* Of a number or a literal. */
static bool is_of_word(char b)
{
    return (b >= '0' && b <= '9') || (b >= 'a' && b <= 'z') || b == '-' || b == '+' || b == '.' || b == 'E';
}

/* The value that begins here. */
static struct json_value take_value(struct cursor *c)
{
    char b = has_byte(c) ? *c->window.p : '\0';
    struct json_value v = {c->at, 0, (b >= '0' && b <= '9') || b == '-' ? '0' : b};

    if (b == '"') {
        skip(c, 1);
        skip_string(c);
    } else if (b == '{' || b == '[') {
        skip_brackets(c);
    } else {
        while (has_byte(c) && is_of_word(*c->window.p)) {
            skip(c, 1);
        }
    }
    v.to = c->at;
    return v;
}

/* A key; one that is longer than any that is wanted becomes "". */
static void take_key(struct cursor *c, char key[JSON_KEY_CAP])
{
    size_t n = 0, whole = has_byte(c) ? short_string(c) : 0;
    bool escaped = false;

    if (whole > 0) {
        n = whole < JSON_KEY_CAP - 1 ? whole : 0;
        memcpy(key, c->window.p, n);
        key[n] = '\0';
        skip(c, whole + 1);
        return;
    }
    while (has_byte(c)) {
        char b = *c->window.p;
        skip(c, 1);
        if (b == '"' && !escaped) {
            break;
        }
        escaped = b == '\\' && !escaped;
        if (n < JSON_KEY_CAP - 1) {
            key[n] = b;
        }
        n++;
    }
    json_unescape_key(key, n < JSON_KEY_CAP - 1 ? n : 0);
}

/* From the '{' of an object to behind its '}'. */
static void collect(struct cursor *c, const char *const *keys, struct json_value *found)
{
    char key[JSON_KEY_CAP];

    skip(c, 1);
    while (next_byte(c, ',') == '"') {
        skip(c, 1);
        take_key(c, key);
        next_byte(c, ':');
        struct json_value v = take_value(c);
        for (size_t i = 0; keys[i]; i++) {
            if (keys[i][0] == key[0] && strcmp(keys[i], key) == 0) {
                found[i] = v;
            }
        }
    }
    skip(c, has_byte(c) ? 1 : 0);
}

static void find_nothing(const char *const *keys, struct json_value *found)
{
    for (size_t i = 0; keys[i]; i++) {
        found[i] = (struct json_value){0, 0, 0};
    }
}

void json_collect(const struct json_source *s, struct json_value object, const char *const *keys,
                  struct json_value *found)
{
    struct cursor c = {s, object.from, {NULL, 0}};

    find_nothing(keys, found);
    if (object.kind == '{' && has_byte(&c)) {
        collect(&c, keys, found);
    }
}

uint64_t json_first(struct json_value array)
{
    return array.from + 1;
}

bool json_next(const struct json_source *s, uint64_t *at, struct json_value *element)
{
    struct cursor c = {s, *at, {NULL, 0}};
    char b = next_byte(&c, ',');
    if (b == ']' || b == '\0') {
        return false;
    }
    *element = take_value(&c);
    *at = c.at;
    return !*s->failed;
}

bool json_next_object(const struct json_source *s, uint64_t *at, struct json_value *element, const char *const *keys,
                      struct json_value *found)
{
    struct cursor c = {s, *at, {NULL, 0}};
    char b = next_byte(&c, ',');

    find_nothing(keys, found);
    if (b == ']' || b == '\0') {
        return false;
    }
    if (b == '{') {
        *element = (struct json_value){c.at, 0, b};
        collect(&c, keys, found);
        element->to = c.at;
    } else {
        *element = take_value(&c);
    }
    *at = c.at;
    return !*s->failed;
}

struct json_value json_inner(struct json_value v)
{
    return v.kind == '"' ? (struct json_value){v.from + 1, v.to - 1, v.kind} : (struct json_value){0, 0, 0};
}

bool json_read(const struct json_source *s, struct json_value v, char *to, size_t cap)
{
    struct cursor c = {s, v.from + 1, {NULL, 0}};
    struct json_unescape u = {0, 0, 0, false};
    char out[8];
    size_t n = 0;
    bool fits = v.kind == '"';

    while (fits && c.at < v.to && has_byte(&c)) { /* with the closing quote */
        uint64_t left = v.to - c.at;
        const char *end = c.window.p + (c.window.n < left ? c.window.n : (size_t)left);
        size_t run = u.left == 0 && u.high == 0 ? (size_t)(json_plain_end(c.window.p, end) - c.window.p) : 0;
        if (run > 0) {
            fits = run < cap - n;
            run = fits ? run : 0;
            memcpy(to + n, c.window.p, run);
            n += run;
            skip(&c, run);
            continue;
        }
        size_t more = json_unescape(&u, *c.window.p, out);
        fits = more < cap - n;
        if (fits) {
            memcpy(to + n, out, more);
            n += more;
        }
        skip(&c, 1);
    }
    to[fits ? n : 0] = '\0';
    return fits;
}

uint64_t json_read_number(const struct json_source *s, struct json_value v)
{
    char number[24];
    uint64_t n = 0;
    size_t length = v.kind == '0' ? json_copy(s, v.from, v.to, number, sizeof(number)) : 0;
    return str_to_u64((struct str){number, length}, UINT32_MAX, &n) == OLLA_OK ? n : 0;
}

uint64_t json_read_length(const struct json_source *s, struct json_value v)
{
    struct cursor c = {s, v.from + 1, {NULL, 0}};
    struct json_unescape u = {0, 0, 0, false};
    char out[8];
    uint64_t n = 0;

    while (v.kind == '"' && c.at < v.to && has_byte(&c)) {
        uint64_t left = v.to - c.at;
        size_t whole = c.window.n < left ? c.window.n : (size_t)left;
        const char *slash = u.left > 0 || u.high ? c.window.p : memchr(c.window.p, '\\', whole);
        if (slash == c.window.p) {
            n += json_unescape(&u, *slash, out);
            skip(&c, 1);
        } else {
            size_t plain = slash ? (size_t)(slash - c.window.p) : whole;
            n += plain - (plain == left); /* not the closing quote */
            skip(&c, plain);
        }
    }
    return n;
}

uint64_t json_compact_length(const struct json_source *s, struct json_value v)
{
    struct cursor c = {s, v.from, {NULL, 0}};
    uint64_t n = 0;
    bool string = false, escaped = false;

    while (c.at < v.to && has_byte(&c)) {
        char b = *c.window.p;
        bool html = b == '<' || b == '>' || b == '&', blank = b == ' ' || b == '\n' || b == '\t' || b == '\r';
        n += html ? 6 : string || !blank;
        string = b == '"' && !escaped ? !string : string;
        escaped = string && b == '\\' && !escaped;
        skip(&c, 1);
    }
    return n;
}

size_t json_copy(const struct json_source *s, uint64_t from, uint64_t to, char *bytes, size_t cap)
{
    struct cursor c = {s, from, {NULL, 0}};
    size_t n = 0;
    while (c.at < to && n < cap && has_byte(&c)) {
        uint64_t left = to - c.at < cap - n ? to - c.at : cap - n;
        size_t some = c.window.n < left ? c.window.n : (size_t)left;
        memcpy(bytes + n, c.window.p, some);
        n += some;
        skip(&c, some);
    }
    return n;
}
