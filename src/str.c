/*
 * str.c - level 1: see str.h.
 *
 * May include: olla.h, str.h.
 */
#include "str.h"

#include <string.h>

/* ---- slices --------------------------------------------------------------- */

int str_hex_value(char c)
{
    char lower = str_lower(c);

    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* Eight bytes, ASCII letters among them in lower case. */
static uint64_t eight_lower(const char *p)
{
    uint64_t x, low, letters;

    memcpy(&x, p, sizeof(x));
    /* With the top bits away no sum carries: the top bit of each byte says "from A on", then "above Z". */
    low = x & EACH(0x7f);
    letters = (low + EACH(0x80 - 'A')) & ~(low + EACH(0x7f - 'Z')) & ~x & EACH(0x80);
    return x | letters >> 2;
}

bool str_ieq(struct str a, struct str b)
{
    size_t i = 0;

    if (a.n != b.n) {
        return false;
    }
    for (; a.n - i > 8; i += 8) {
        if (eight_lower(a.p + i) != eight_lower(b.p + i)) {
            return false;
        }
    }
    if (a.n >= 8) { /* the last eight, some of them a second time */
        return eight_lower(a.p + a.n - 8) == eight_lower(b.p + b.n - 8);
    }
    if (a.n >= 4) { /* the first four and the last four */
        char both[2][8];
        memcpy(both[0], a.p, 4);
        memcpy(both[0] + 4, a.p + a.n - 4, 4);
        memcpy(both[1], b.p, 4);
        memcpy(both[1] + 4, b.p + b.n - 4, 4);
        return eight_lower(both[0]) == eight_lower(both[1]);
    }
    for (; i < a.n; i++) {
        if (str_lower(a.p[i]) != str_lower(b.p[i])) {
            return false;
        }
    }
    return true;
}

bool str_istarts(struct str s, struct str prefix)
{
    return s.n >= prefix.n && str_ieq((struct str){s.p, prefix.n}, prefix);
}

bool str_ends(struct str s, struct str suffix)
{
    return s.n >= suffix.n && str_eq(str_skip(s, s.n - suffix.n), suffix);
}

static bool is_blank(char c)
{
    return (unsigned char)c <= ' ' && (c == ' ' || c == '\t' || c == '\r' || c == '\n');
}

struct str str_trim(struct str s)
{
    if (s.n == 0) {
        return s;
    }
    const char *p = s.p, *end = s.p + s.n;
    while (p < end && is_blank(*p)) {
        p++;
    }
    while (end > p && is_blank(end[-1])) {
        end--;
    }
    return (struct str){p, (size_t)(end - p)};
}

bool str_ihas(struct str s, struct str part)
{
    for (; s.n >= part.n; s = str_skip(s, 1)) {
        if (str_istarts(s, part)) {
            return true;
        }
        if (s.n == 0) {
            break;
        }
    }
    return false;
}

struct str str_split(struct str *rest, char sep)
{
    size_t at = str_find(*rest, sep);
    struct str item = str_trim((struct str){rest->p, at});
    *rest = at < rest->n ? str_skip(*rest, at + 1) : (struct str){NULL, 0};
    return item;
}

bool str_list_has(struct str list, struct str item)
{
    for (struct str rest = list; rest.p != NULL;) {
        if (str_ieq(str_split(&rest, ','), item)) {
            return true;
        }
    }
    return false;
}

/* What stands between the stars. */
static struct str pattern_core(struct str p, bool *open_start, bool *open_end)
{
    *open_start = p.n > 0 && p.p[0] == '*';
    p = str_skip(p, *open_start);
    *open_end = p.n > 0 && p.p[p.n - 1] == '*';
    p.n -= *open_end;
    return p;
}

bool str_is_pattern(struct str pattern)
{
    bool start, end;
    struct str core = pattern_core(pattern, &start, &end);
    bool blank = str_trim(pattern).n == 0;
    return !blank && str_find(core, '*') == core.n && (core.n > 0 || pattern.n == 1);
}

bool str_matches(struct str s, struct str pattern)
{
    bool start, end;
    struct str core = pattern_core(pattern, &start, &end);
    size_t last = s.n < core.n ? 0 : s.n - core.n, from = end && !start ? 0 : last;

    if (s.n < core.n || (!start && !end && s.n != core.n)) {
        return false;
    }
    if (start && end) {
        from = 0;
    } else {
        last = from;
    }
    for (; from <= last; from++) {
        if (str_ieq((struct str){s.p + from, core.n}, core)) {
            return true;
        }
    }
    return false;
}

uint64_t str_hash64_number(uint64_t h, uint64_t n)
{
    return (h ^ n) * UINT64_C(1099511628211);
}

uint64_t str_hash64(uint64_t h, struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        h = str_hash64_number(h, (unsigned char)s.p[i]);
    }
    return h;
}

uint32_t str_hash(struct str s)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < s.n; i++) {
        h = (h ^ (unsigned char)s.p[i]) * 16777619u;
    }
    return h;
}

uint32_t str_ihash(struct str s)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < s.n; i++) {
        h = (h ^ (unsigned char)str_lower(s.p[i])) * 16777619u;
    }
    return h;
}

bool str_copy(char *to, size_t cap, struct str s)
{
    if (s.n >= cap) {
        if (cap > 0) {
            to[0] = '\0';
        }
        return false;
    }
    if (s.n > 0) {
        memcpy(to, s.p, s.n);
    }
    to[s.n] = '\0';
    return true;
}

/* ---- numbers --------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

int str_to_u64(struct str s, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    if (s.n == 0) {
        return OLLA_ERR;
    }
    for (size_t i = 0; i < s.n; i++) {
        if (!is_digit(s.p[i])) {
            return OLLA_ERR;
        }
        uint64_t d = (uint64_t)(s.p[i] - '0');
        if (v > (UINT64_MAX - d) / 10) {
            return OLLA_ERR;
        }
        v = v * 10 + d;
    }
    if (v > max) {
        return OLLA_ERR;
    }
    *out = v;
    return OLLA_OK;
}

#define BILLION UINT64_C(1000000000)

/* A decimal number with optional fraction, eaten off *s: whole + nanos / 10^9, rounded up. */
static int take_decimal(struct str *s, uint64_t *whole, uint64_t *nanos)
{
    size_t digits = 0;
    uint64_t scale = BILLION / 10, dust = 0;
    *whole = 0;
    *nanos = 0;
    for (; s->n > 0 && is_digit(s->p[0]); *s = str_skip(*s, 1), digits++) {
        if (*whole > (UINT64_MAX >> 1) / 10 - 1) {
            return OLLA_ERR;
        }
        *whole = *whole * 10 + (uint64_t)(s->p[0] - '0');
    }
    if (s->n > 0 && s->p[0] == '.') {
        *s = str_skip(*s, 1);
        for (; s->n > 0 && is_digit(s->p[0]); *s = str_skip(*s, 1), digits++) {
            *nanos += (uint64_t)(s->p[0] - '0') * scale;
            dust |= scale == 0 && s->p[0] != '0';
            scale /= 10;
        }
    }
    *nanos += dust;
    return digits > 0 ? OLLA_OK : OLLA_ERR;
}

/* nanos / 10^9 of a unit, in ns, rounded up. Units are parts or multiples of a second, so that it fits 64 bits. */
static uint64_t part_of(uint64_t nanos, uint64_t unit_ns)
{
    return unit_ns >= BILLION ? nanos * (unit_ns / BILLION) : (nanos * unit_ns + BILLION - 1) / BILLION;
}

int str_to_duration(struct str s, int64_t *ms)
{
    static const struct {
        struct str name;
        uint64_t ns;
    } units[] = {
        {STR("ns"), 1},
        {STR("us"), 1000},
        {STR("\xc2\xb5s"), 1000}, /* both micro signs of Unicode */
        {STR("\xce\xbcs"), 1000},
        {STR("ms"), 1000000},
        {STR("s"), 1000000000},
        {STR("m"), UINT64_C(60000000000)},
        {STR("h"), UINT64_C(3600000000000)},
    };
    uint64_t total = 0;
    bool negative = false;

    if (s.n > 0 && (s.p[0] == '-' || s.p[0] == '+')) {
        negative = s.p[0] == '-';
        s = str_skip(s, 1);
    }
    if (str_eq(s, STR("0"))) {
        *ms = 0;
        return OLLA_OK;
    }
    if (s.n == 0) {
        return OLLA_ERR;
    }
    while (s.n > 0) {
        uint64_t whole, nanos;
        size_t i;
        if (take_decimal(&s, &whole, &nanos) != OLLA_OK) {
            return OLLA_ERR;
        }
        for (i = 0; i < OLLA_COUNT(units); i++) {
            if (str_starts(s, units[i].name)) {
                break;
            }
        }
        if (i == OLLA_COUNT(units) || whole > UINT64_C(9000000000000000000) / units[i].ns) {
            return OLLA_ERR;
        }
        s = str_skip(s, units[i].name.n);
        total += whole * units[i].ns + part_of(nanos, units[i].ns);
        if (total > UINT64_C(9000000000000000000)) {
            return OLLA_ERR;
        }
    }
    *ms = (int64_t)((total + 999999) / 1000000);
    if (negative) {
        *ms = -*ms;
    }
    return OLLA_OK;
}

int str_to_size(struct str s, uint64_t *bytes)
{
    static const char letters[] = "kmgtp";
    uint64_t whole, nanos;
    unsigned shift = 0;

    s = str_trim(s);
    if (take_decimal(&s, &whole, &nanos) != OLLA_OK) {
        return OLLA_ERR;
    }
    if (s.n > 0 && s.p[0] == ' ') {
        s = str_skip(s, 1);
    }
    if (s.n > 0) {
        const char *hit = memchr(letters, str_lower(s.p[0]), sizeof(letters) - 1);
        if (hit) {
            shift = 10u * (unsigned)(hit - letters + 1);
            s = str_skip(s, 1);
            if (s.n == 2 && str_lower(s.p[0]) == 'i') {
                s = str_skip(s, 1);
            }
        }
        if (s.n == 1 && str_lower(s.p[0]) == 'b') {
            s = str_skip(s, 1);
        }
    }
    if (s.n > 0 || whole > (UINT64_MAX >> 1 >> shift)) {
        return OLLA_ERR;
    }
    /* The fraction of 2^shift in two steps, so that it fits 64 bits. */
    unsigned low = shift < 30 ? shift : 30, high = shift - low;
    uint64_t part = (nanos << low) / BILLION, rest = (nanos << low) % BILLION;
    *bytes = (whole << shift) + (part << high) + (rest << high) / BILLION;
    return OLLA_OK;
}

int str_to_bool(struct str s, bool *out)
{
    static const struct {
        struct str word;
        bool value;
    } words[] = {
        {STR("true"), true}, {STR("false"), false}, {STR("yes"), true}, {STR("no"), false},
        {STR("on"), true},   {STR("off"), false},   {STR("1"), true},   {STR("0"), false},
        {STR("t"), true},    {STR("f"), false},     {STR("y"), true},   {STR("n"), false},
    };
    for (size_t i = 0; i < OLLA_COUNT(words); i++) {
        if (str_ieq(s, words[i].word)) {
            *out = words[i].value;
            return OLLA_OK;
        }
    }
    return OLLA_ERR;
}

/* ---- text builder ------------------------------------------------------------ */

void text_add(struct text *t, struct str s)
{
    if (t->full || s.n > t->cap - t->n) {
        t->full = true;
        return;
    }
    if (s.n > 0) {
        memcpy(t->p + t->n, s.p, s.n);
        t->n += s.n;
    }
}

void text_line(struct text *t, struct str a, struct str b)
{
    char *p = t->p + t->n;

    if (t->full || a.n + b.n + 2 > t->cap - t->n) {
        t->full = true;
        return;
    }
    memcpy(p, a.p, a.n);
    if (b.n > 0) {
        memcpy(p + a.n, b.p, b.n);
    }
    p[a.n + b.n] = '\r';
    p[a.n + b.n + 1] = '\n';
    t->n += a.n + b.n + 2;
}

void text_padded(struct text *t, uint64_t v, unsigned digits)
{
    char tmp[24];
    size_t at = sizeof(tmp);
    do {
        tmp[--at] = (char)('0' + v % 10);
        v /= 10;
    } while ((v > 0 || sizeof(tmp) - at < digits) && at > 0);
    text_add(t, (struct str){tmp + at, sizeof(tmp) - at});
}

void text_u64(struct text *t, uint64_t v)
{
    text_padded(t, v, 1);
}

void text_i64(struct text *t, int64_t v)
{
    if (v < 0) {
        text_char(t, '-');
        text_u64(t, (uint64_t)0 - (uint64_t)v);
    } else {
        text_u64(t, (uint64_t)v);
    }
}

void text_hex(struct text *t, uint64_t v, unsigned digits)
{
    static const char hex[] = "0123456789abcdef";
    char tmp[16];
    size_t at = sizeof(tmp);
    do {
        tmp[--at] = hex[v & 15];
        v >>= 4;
    } while ((v > 0 || sizeof(tmp) - at < digits) && at > 0);
    text_add(t, (struct str){tmp + at, sizeof(tmp) - at});
}

void text_base64(struct text *t, struct str s)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (; s.n > 0; s = str_skip(s, 3)) {
        uint32_t v = (uint32_t)(unsigned char)s.p[0] << 16;
        v |= s.n > 1 ? (uint32_t)(unsigned char)s.p[1] << 8 : 0;
        v |= s.n > 2 ? (unsigned char)s.p[2] : 0;
        text_char(t, digits[v >> 18]);
        text_char(t, digits[v >> 12 & 63]);
        text_char(t, s.n > 1 ? digits[v >> 6 & 63] : '=');
        text_char(t, s.n > 2 ? digits[v & 63] : '=');
    }
}

struct str text_str(const struct text *t)
{
    return (struct str){t->p, t->n};
}

const char *text_z(struct text *t)
{
    size_t end = t->n < t->cap ? t->n : t->cap - 1;
    t->p[end] = '\0';
    return t->p;
}
