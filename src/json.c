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

/* What stands behind a backslash, and for what. The writer leaves the last one as it is. */
static const char letters[] = "\"\\bfnrt/";
static const char meanings[] = "\"\\\b\f\n\r\t/";
#define LETTERS (sizeof letters - 1)

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
    const bool waiting = u->high != 0;

    u->high = 0;
    return waiting ? put_utf8(REPLACEMENT, out) : 0;
}

/* Takes one UTF-16 unit. */
static size_t put_unit(struct json_unescape *u, uint16_t code, char *out)
{
    const bool low = (code & 0xfc00u) == 0xdc00u;

    if (u->high != 0 && low) {
        const uint32_t c = 0x10000u + ((uint32_t)(u->high & 0x3ffu) << 10 | (code & 0x3ffu));
        u->high = 0;
        return put_utf8(c, out);
    }
    const size_t n = flush_high(u, out);
    if ((code & 0xfc00u) == 0xd800u) {
        u->high = code;
        return n;
    }
    return n + put_utf8(code == 0 || low ? REPLACEMENT : code, out + n);
}

/* The next byte of an escape. */
static size_t put_escape(struct json_unescape *u, char c, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const bool letter = u->left == JSON_SLASH;

    if (letter && c == 'u') {
        u->left--;
        return 0;
    }
    const char *at = letter ? memchr(letters, c, LETTERS) : memchr(digits, str_lower(c), 16);
    u->left = letter || !at ? 0 : (uint8_t)(u->left - 1);
    if (!at) {
        u->bad = true;
        return 0;
    }
    u->code = (uint16_t)(letter ? meanings[at - letters] : u->code << 4 | (int)(at - digits));
    return u->left > 0 ? 0 : put_unit(u, u->code, out);
}

size_t json_unescape(struct json_unescape *u, char c, char out[8])
{
    if (u->left > 0) {
        return put_escape(u, c, out);
    }
    if (c == '\\') {
        u->left = JSON_SLASH;
        return 0;
    }
    if (c == '\0') {
        return put_unit(u, 0, out);
    }
    size_t n = flush_high(u, out);
    if (c != '"') {
        out[n++] = c; /* bytes of UTF-8 sequences pass as they are */
    }
    return n;
}

void json_unescape_key(char *key, size_t n)
{
    struct json_unescape u = {0, 0, 0, false};
    char out[8];
    size_t to = 0;

    if (!memchr(key, '\\', n)) {
        key[n] = '\0';
        return;
    }
    for (size_t i = 0; i < n; i++) {
        size_t some = json_unescape(&u, key[i], out);
        memcpy(key + to, out, some); /* no text gets longer */
        to += some;
    }
    key[to] = '\0';
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
    const bool good = s->turn == pool_turn && node >= 0 && node < s->tokens && pool[node].type == type;

    return good ? &pool[node] : NULL;
}

int json_get(const struct json_slice *s, int object, const char *key)
{
    const struct str want = str_of(key);
    char name[64]; /* no key that is asked for is longer */
    int any_case = -1;

    if (!node_of(s, object, JSMN_OBJECT)) {
        return -1;
    }
    for (int i = object + 1; i + 1 < s->tokens && pool[i].start < pool[object].end; i++) {
        const size_t n = (size_t)(pool[i].end - pool[i].start);
        /* A key of this object that has a value; unescaping makes no text longer. */
        if (pool[i].parent != object || pool[i + 1].parent != i || n < want.n ||
            (n > want.n && !memchr(s->text.p + pool[i].start, '\\', n)) || !json_string(s, i, name, sizeof name)) {
            continue;
        }
        if (str_eq(str_of(name), want)) {
            return i + 1;
        }
        if (any_case == -1 && str_ieq(str_of(name), want)) {
            any_case = i + 1;
        }
    }
    return any_case;
}

int json_root(const struct json_slice *s)
{
    return node_of(s, 0, JSMN_OBJECT) ? 0 : -1;
}

bool json_string(const struct json_slice *s, int node, char *to, size_t cap)
{
    const jsmntok_t *t = node_of(s, node, JSMN_STRING);
    struct json_unescape u = {0, 0, 0, false};
    char out[8];
    size_t at = 0;

    for (int i = t ? t->start : 0; t && i <= t->end; i++) { /* with the closing quote */
        const size_t n = json_unescape(&u, s->text.p[i], out);
        if (u.bad || n >= cap - at) {
            t = NULL;
            break;
        }
        memcpy(to + at, out, n);
        at += n;
    }
    if (cap > 0) {
        to[t ? at : 0] = '\0';
    }
    return t != NULL;
}

bool json_u64(const struct json_slice *s, int node, uint64_t *out)
{
    const jsmntok_t *t = node_of(s, node, JSMN_PRIMITIVE);

    return t && str_to_u64((struct str){s->text.p + t->start, (size_t)(t->end - t->start)}, UINT64_MAX, out) == OLLA_OK;
}

bool json_scaled(const struct json_slice *s, int node, unsigned digits, uint64_t *out)
{
    const jsmntok_t *t = node_of(s, node, JSMN_PRIMITIVE);
    char mem[24];
    struct text whole = text_in(mem, sizeof mem);

    if (!t) {
        return false;
    }
    struct str rest = {s->text.p + t->start, (size_t)(t->end - t->start)};
    text_add(&whole, str_split(&rest, '.'));
    for (size_t i = digits; i < rest.n; i++) { /* what is cut off has to be digits, too */
        if (rest.p[i] < '0' || rest.p[i] > '9') {
            return false;
        }
    }
    for (unsigned i = 0; i < digits; i++) {
        text_char(&whole, i < rest.n ? rest.p[i] : '0');
    }
    return !whole.full && str_to_u64(text_str(&whole), UINT64_MAX, out) == OLLA_OK;
}

bool json_true(const struct json_slice *s, int node)
{
    const jsmntok_t *t = node_of(s, node, JSMN_PRIMITIVE);

    return t && s->text.p[t->start] == 't';
}

bool json_item(const struct json_slice *s, int array, unsigned i, char *to, size_t cap)
{
    const jsmntok_t *t = node_of(s, array, JSMN_ARRAY);

    for (int at = array + 1; t && at < s->tokens && pool[at].start < t->end; at++) {
        if (pool[at].parent == array && pool[at].type == JSMN_STRING && i-- == 0) {
            return json_string(s, at, to, cap);
        }
    }
    if (cap > 0) {
        to[0] = '\0';
    }
    return false;
}

/* ---- writing ------------------------------------------------------------------ */

size_t json_utf8_length(struct str s)
{
    static const struct {
        unsigned char mask, lead; /* first byte */
        uint32_t least;           /* less has a shorter form */
    } forms[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    const unsigned char *p = (const unsigned char *)s.p;
    size_t n = 0;

    while (n < OLLA_COUNT(forms) && (p[0] & forms[n].mask) != forms[n].lead) {
        n++;
    }
    if (n >= OLLA_COUNT(forms) || n >= s.n) {
        return 0;
    }
    uint32_t c = p[0] & ~(uint32_t)forms[n].mask;
    for (size_t i = 1; i <= n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
        c = c << 6 | (p[i] & 0x3f);
    }
    const bool surrogate = c >= 0xd800 && c <= 0xdfff;
    return c >= forms[n].least && c <= 0x10ffff && !surrogate ? n + 1 : 0;
}

/* false: c stands for itself. */
static bool put_escaped(struct text *t, char c)
{
    const char *at = memchr(meanings, c, LETTERS - 1);

    if (at) {
        text_char(t, '\\');
        text_char(t, letters[at - meanings]);
        return true;
    }
    if ((unsigned char)c >= 0x20 && c != 0x7f && c != '<' && c != '>' && c != '&') {
        return false;
    }
    text_addz(t, "\\u");
    text_hex(t, (unsigned char)c, 4);
    return true;
}

/* Bytes at the start that stand for themselves: nearly all there are. */
static size_t plain_length(struct str s)
{
    /* A bit for each of ASCII, without controls and " & < > \. */
    static const uint64_t plain[2] = {UINT64_C(0xafffffbb00000000), UINT64_C(0x7fffffffefffffff)};
    size_t n = 0;

    while (n < s.n && (unsigned char)s.p[n] < 0x80 && (plain[s.p[n] >> 6] >> (s.p[n] & 63) & 1)) {
        n++;
    }
    return n;
}

/* U+0080 to U+009F: JSON may hold them as they are, but terminals take them for commands. */
static bool is_c1(struct str s)
{
    return s.n > 1 && s.p[0] == '\xc2' && (unsigned char)s.p[1] >= 0x80 && (unsigned char)s.p[1] < 0xa0;
}

void json_text(struct text *t, struct str s)
{
    text_char(t, '"');
    while (s.n > 0 && !t->full) {
        size_t n = plain_length(s);
        if (n > 0) {
            text_add(t, (struct str){s.p, n});
            s = str_skip(s, n);
            continue;
        }
        n = 1;
        if (is_c1(s)) {
            n = 2;
            text_addz(t, "\\u");
            text_hex(t, (unsigned char)s.p[1], 4);
        } else if (!put_escaped(t, s.p[0])) {
            n = json_utf8_length(s);
            text_add(t, n > 0 ? (struct str){s.p, n} : STR("\xef\xbf\xbd"));
        }
        s = str_skip(s, n > 0 ? n : 1);
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
