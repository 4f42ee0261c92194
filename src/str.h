/*
 * str.h - level 1: (pointer, length) slices, checked number parsing and a
 * bounded text builder.
 *
 * Text from the network is always a struct str and never NUL-terminated.
 * A slice owns nothing: it lives as long as the bytes it points into.
 *
 * The smallest of them are here whole: they are asked for some hundred times in
 * each request, mostly with a literal, whose length the compiler then knows.
 *
 * May include: olla.h, string.h.
 */
#ifndef OLLA_STR_H
#define OLLA_STR_H

#include <string.h>

#include "../olla.h"

struct str {
    const char *p;
    size_t n;
};

/* A slice of a string literal. */
#define STR(lit) ((struct str){(lit), sizeof(lit) - 1})

/* z may be NULL: the empty slice. */
static inline struct str str_of(const char *z)
{
    return (struct str){z, z ? strlen(z) : 0};
}

static inline bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* ASCII only. */
static inline char str_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

/* Without the first n bytes; n may exceed s.n. */
static inline struct str str_skip(struct str s, size_t n)
{
    n = n < s.n ? n : s.n;
    return (struct str){n ? s.p + n : s.p, s.n - n};
}

/* Position of c, or s.n if there is none. */
static inline size_t str_find(struct str s, char c)
{
    const char *hit = s.n ? (const char *)memchr(s.p, c, s.n) : NULL;
    return hit ? (size_t)(hit - s.p) : s.n;
}

static inline bool str_starts(struct str s, struct str prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

bool str_ieq(struct str a, struct str b); /* ASCII case ignored */
bool str_istarts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
struct str str_trim(struct str s); /* without blanks (space, tab, CR, LF) at both ends */
int str_hex_value(char c);         /* 0..15, or -1 */

/* True if part stands somewhere in s, ASCII case ignored. */
bool str_ihas(struct str s, struct str part);

/*
 * Splits *rest at the first sep: returns the part before it, trimmed, and
 * leaves the part after it in *rest (with p == NULL when there is none left).
 * Loop: for (rest = list; rest.p;) { item = str_split(&rest, ','); ... }
 */
struct str str_split(struct str *rest, char sep);

/* Case-insensitive search for an item in a comma-separated header value (RFC 9110, 5.6.1). */
bool str_list_has(struct str list, struct str item);

/* A name against a pattern with '*' at its start, its end, both or nowhere; ASCII case ignored. */
bool str_matches(struct str s, struct str pattern);
bool str_is_pattern(struct str pattern); /* not blank, and no '*' but at the ends */

/* FNV-1a with 64 bits, begun with STR_HASH_START and continued over parts; and over a number as one step. */
#define STR_HASH_START UINT64_C(14695981039346656037)
uint64_t str_hash64(uint64_t h, struct str s);
uint64_t str_hash64_number(uint64_t h, uint64_t n);

/* FNV-1a with 32 bits; the second one over the lower-cased bytes. */
uint32_t str_hash(struct str s);
uint32_t str_ihash(struct str s);

/* Copies s and a NUL into to[cap]; returns false (and an empty string) if it does not fit. */
bool str_copy(char *to, size_t cap, struct str s);

/*
 * Checked parsing: the whole slice must be consumed. OLLA_OK or OLLA_ERR.
 *   u64       decimal digits only, not above max
 *   duration  Go style, "1h30m", "500ms", "1.5s", "0"; result in milliseconds, rounded
 *             up so that a small positive value never becomes 0
 *   size      plain bytes or "64KB", "2.5 MiB", multiples of 1024
 *   bool      true/false yes/no on/off y/n 1/0 t/f, any case
 */
int str_to_u64(struct str s, uint64_t max, uint64_t *out);
int str_to_duration(struct str s, int64_t *ms);
int str_to_size(struct str s, uint64_t *bytes);
int str_to_bool(struct str s, bool *out);

/*
 * Text builder over caller-owned memory. Once something did not fit, `full`
 * stays set and nothing more is added: check it once at the end.
 */
struct text {
    char *p;
    size_t cap;
    size_t n;
    bool full;
};

static inline struct text text_in(char *p, size_t cap)
{
    return (struct text){p, cap, 0, false};
}

void text_add(struct text *t, struct str s);

static inline void text_addz(struct text *t, const char *z)
{
    text_add(t, str_of(z));
}

static inline void text_char(struct text *t, char c)
{
    if (t->full || t->n == t->cap) {
        t->full = true;
    } else {
        t->p[t->n++] = c;
    }
}

void text_line(struct text *t, struct str a, struct str b); /* both and CRLF, or nothing: a field of a head */
void text_u64(struct text *t, uint64_t v);
void text_i64(struct text *t, int64_t v);
void text_hex(struct text *t, uint64_t v, unsigned digits);    /* zero-padded, lower case */
void text_padded(struct text *t, uint64_t v, unsigned digits); /* decimal, zero-padded */
void text_base64(struct text *t, struct str s);                /* RFC 4648, 4, padded */
struct str text_str(const struct text *t);
const char *text_z(struct text *t); /* NUL-terminates (cutting the last byte if full) */

#endif
