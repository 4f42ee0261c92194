/*
 * json.c - unescaping, slices over jsmn, and the writer.
 *
 * jsmn is a tokeniser and no validator: it accepts keys without values,
 * values without commas and more. So nothing here trusts a token's `size`; a
 * node is looked at only through its type, its bounds and its parent, and a
 * thing that does not fit is absent.
 *
 * Invariant: every index into the pool is below the slice's token count, and
 * the slice is the one opened last; both are checked in one place (node_of).
 *
 * May include: olla.h, str.h, json.h, and, as the only file, jsmn.h.
 */
#include "json.h"

#include <limits.h>
#include <string.h>

#define JSMN_STATIC
#define JSMN_PARENT_LINKS
#define JSMN_STRICT
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#include <jsmn.h>
#pragma GCC diagnostic pop

/* ---- unescaping ----------------------------------------------------------- */

#define REPLACEMENT 0xfffdu

static size_t put_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    const unsigned n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (unsigned i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (c & 0x3f));
        c >>= 6;
    }
    out[0] = (char)((0xf00u >> n & 0xf0u) | c);
    return n;
}

static size_t flush_high(struct json_unescape *u, char *out)
{
    if (u->high == 0) {
        return 0;
    }
    u->high = 0;
    return put_utf8(REPLACEMENT, out);
}

/* Takes one UTF-16 unit. */
static size_t put_unit(struct json_unescape *u, uint16_t code, char *out)
{
    if (u->high != 0 && (code & 0xfc00u) == 0xdc00u) {
        const uint32_t c = 0x10000u + ((uint32_t)(u->high & 0x3ffu) << 10 | (code & 0x3ffu));
        u->high = 0;
        return put_utf8(c, out);
    }
    const size_t n = flush_high(u, out);
    if ((code & 0xfc00u) == 0xd800u) {
        u->high = code;
        return n;
    }
    if (code == 0 || (code & 0xfc00u) == 0xdc00u) {
        return n + put_utf8(REPLACEMENT, out + n);
    }
    return n + put_utf8(code, out + n);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    const char low = str_lower(c);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* The letter behind the backslash. */
static size_t put_escape(struct json_unescape *u, char c, char *out)
{
    static const char letter[] = "\"\\/bfnrt";
    static const char meaning[] = "\"\\/\b\f\n\r\t";

    if (c == 'u') {
        u->hex = 4;
        u->code = 0;
        return 0;
    }
    const char *at = memchr(letter, c, sizeof letter - 1);
    if (!at) {
        u->bad = true;
        return 0;
    }
    return put_unit(u, (uint16_t)meaning[at - letter], out);
}

size_t json_unescape_byte(struct json_unescape *u, char c, char out[8])
{
    if (u->slash) {
        u->slash = false;
        return put_escape(u, c, out);
    }
    if (u->hex > 0) {
        const int v = hex_value(c);
        if (v < 0) {
            u->bad = true;
            u->hex = 0;
            return 0;
        }
        u->code = (uint16_t)((u->code & 0xfffu) << 4 | (unsigned)v);
        u->hex--;
        return u->hex > 0 ? 0 : put_unit(u, u->code, out);
    }
    if (c == '\\') {
        u->slash = true;
        return 0;
    }
    if (c == '\0') {
        return put_unit(u, 0, out);
    }
    const size_t n = flush_high(u, out);
    out[n] = c; /* bytes of UTF-8 sequences pass as they are */
    return n + 1;
}

size_t json_unescape_end(struct json_unescape *u, char out[8])
{
    if (u->slash || u->hex > 0) {
        u->bad = true;
    }
    return flush_high(u, out);
}

/* ---- slices ----------------------------------------------------------------- */

static jsmntok_t pool[OLLA_MAX_TOKENS];
static uint32_t pool_turn;

struct json_slice json_open(struct str object)
{
    struct json_slice s = {str_trim(object), 0, ++pool_turn};
    jsmn_parser parser;

    if (s.text.n == 0 || s.text.n > INT_MAX || s.text.p[0] != '{') {
        return s;
    }
    jsmn_init(&parser);
    const int n = jsmn_parse(&parser, s.text.p, s.text.n, pool, OLLA_MAX_TOKENS);
    if (n > 0 && n <= OLLA_MAX_TOKENS && pool[0].type == JSMN_OBJECT && pool[0].end == (int)s.text.n) {
        s.tokens = n;
    }
    return s;
}

static const jsmntok_t *node_of(const struct json_slice *s, int node, jsmntype_t type)
{
    if (s->turn != pool_turn || node < 0 || node >= s->tokens || pool[node].type != type) {
        return NULL;
    }
    return &pool[node];
}

static struct str node_text(const struct json_slice *s, const jsmntok_t *t)
{
    return (struct str){s->text.p + t->start, (size_t)(t->end - t->start)};
}

static struct str primitive(const struct json_slice *s, int node)
{
    const jsmntok_t *t = node_of(s, node, JSMN_PRIMITIVE);
    return t ? node_text(s, t) : (struct str){NULL, 0};
}

/*
 * The next child of `parent` behind node `from`, or -1. Only descendants of
 * `from` lie in between, so walking all children costs one pass.
 */
static int next_child(const struct json_slice *s, int parent, int from)
{
    for (int i = from + 1; i < s->tokens && pool[i].start < pool[parent].end; i++) {
        if (pool[i].parent == parent) {
            return i;
        }
    }
    return -1;
}

enum key_match { KEY_DIFFERS = 0, KEY_SAME_LETTERS, KEY_SAME };

static enum key_match match_key(struct str raw, struct str key)
{
    struct json_unescape u = {0, 0, 0, false, false};
    enum key_match match = KEY_SAME;
    char out[8];
    size_t at = 0;

    for (size_t i = 0; i <= raw.n; i++) {
        const size_t n = i < raw.n ? json_unescape_byte(&u, raw.p[i], out) : json_unescape_end(&u, out);
        for (size_t k = 0; k < n; k++, at++) {
            if (at == key.n || str_lower(out[k]) != str_lower(key.p[at])) {
                return KEY_DIFFERS;
            }
            if (out[k] != key.p[at]) {
                match = KEY_SAME_LETTERS;
            }
        }
    }
    return at == key.n && !u.bad ? match : KEY_DIFFERS;
}

int json_get(const struct json_slice *s, int object, const char *key)
{
    const struct str want = str_of(key);
    int any_case = -1;

    if (!node_of(s, object, JSMN_OBJECT)) {
        return -1;
    }
    for (int i = next_child(s, object, object); i != -1; i = next_child(s, object, i)) {
        if (pool[i].type != JSMN_STRING || i + 1 >= s->tokens || pool[i + 1].parent != i) {
            continue; /* a key without a value */
        }
        const enum key_match match = match_key(node_text(s, &pool[i]), want);
        if (match == KEY_SAME) {
            return i + 1;
        }
        if (match == KEY_SAME_LETTERS && any_case == -1) {
            any_case = i + 1;
        }
    }
    return any_case;
}

int json_root(const struct json_slice *s)
{
    return node_of(s, 0, JSMN_OBJECT) ? 0 : -1;
}

bool json_is_null(const struct json_slice *s, int node)
{
    return node == -1 || str_eq(primitive(s, node), STR("null"));
}

bool json_string(const struct json_slice *s, int node, char *to, size_t cap)
{
    const jsmntok_t *t = node_of(s, node, JSMN_STRING);
    struct json_unescape u = {0, 0, 0, false, false};
    char out[8];
    size_t at = 0;

    if (cap == 0) {
        return false;
    }
    to[0] = '\0';
    if (!t) {
        return false;
    }
    const struct str raw = node_text(s, t);
    for (size_t i = 0; i <= raw.n; i++) {
        const size_t n = i < raw.n ? json_unescape_byte(&u, raw.p[i], out) : json_unescape_end(&u, out);
        if (u.bad || n >= cap - at) {
            to[0] = '\0';
            return false;
        }
        memcpy(to + at, out, n);
        at += n;
    }
    to[at] = '\0';
    return true;
}

bool json_u64(const struct json_slice *s, int node, uint64_t *out)
{
    const struct str digits = primitive(s, node);
    return digits.n > 0 && str_to_u64(digits, UINT64_MAX, out) == OLLA_OK;
}

bool json_bool(const struct json_slice *s, int node, bool *out)
{
    const struct str word = primitive(s, node);
    const bool yes = str_eq(word, STR("true"));

    if (!yes && !str_eq(word, STR("false"))) {
        return false;
    }
    *out = yes;
    return true;
}

int json_first(const struct json_slice *s, int array)
{
    return node_of(s, array, JSMN_ARRAY) ? next_child(s, array, array) : -1;
}

int json_next(const struct json_slice *s, int array, int item)
{
    return item > array && node_of(s, array, JSMN_ARRAY) ? next_child(s, array, item) : -1;
}

/* ---- writing ------------------------------------------------------------------ */

/* Length of the valid UTF-8 sequence at the start of s, which is not empty; 0 if there is none (Unicode, table 3-7). */
static size_t utf8_length(struct str s)
{
    static const struct {
        unsigned char from, to;  /* first byte */
        unsigned char low, high; /* second byte */
        unsigned char n;
    } forms[] = {
        {0x00, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    const unsigned char *p = (const unsigned char *)s.p;

    for (size_t i = 0; i < OLLA_COUNT(forms); i++) {
        if (p[0] < forms[i].from || p[0] > forms[i].to) {
            continue;
        }
        if (forms[i].n > s.n || (forms[i].n > 1 && (p[1] < forms[i].low || p[1] > forms[i].high))) {
            return 0;
        }
        for (size_t k = 2; k < forms[i].n; k++) {
            if ((p[k] & 0xc0) != 0x80) {
                return 0;
            }
        }
        return forms[i].n;
    }
    return 0;
}

static bool needs_escape(unsigned char c)
{
    return c < 0x20 || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&';
}

static void put_escaped(struct text *t, char c)
{
    static const char raw[] = "\"\\\b\f\n\r\t";
    static const char letter[] = "\"\\bfnrt";
    const char *at = memchr(raw, c, sizeof raw - 1);

    if (at) {
        text_char(t, '\\');
        text_char(t, letter[at - raw]);
    } else {
        text_addz(t, "\\u");
        text_hex(t, (unsigned char)c, 4);
    }
}

void json_text(struct text *t, struct str s)
{
    text_char(t, '"');
    while (s.n > 0 && !t->full) {
        size_t plain = 0;
        size_t n = 0;

        while (plain < s.n && !needs_escape((unsigned char)s.p[plain])) {
            n = utf8_length(str_skip(s, plain));
            if (n == 0) {
                break;
            }
            plain += n;
        }
        text_add(t, (struct str){s.p, plain});
        s = str_skip(s, plain);
        if (s.n == 0) {
            break;
        }
        if (needs_escape((unsigned char)s.p[0])) {
            put_escaped(t, s.p[0]);
        } else {
            text_addz(t, "\xef\xbf\xbd");
        }
        s = str_skip(s, 1);
    }
    text_char(t, '"');
}

static void member_key(struct text *t, const char *key)
{
    if (t->n > 0 && t->p[t->n - 1] != '{') {
        text_char(t, ',');
    }
    json_text(t, str_of(key));
    text_char(t, ':');
}

void json_member(struct text *t, const char *key, struct str value)
{
    member_key(t, key);
    json_text(t, value);
}

void json_member_u64(struct text *t, const char *key, uint64_t value)
{
    member_key(t, key);
    text_u64(t, value);
}
