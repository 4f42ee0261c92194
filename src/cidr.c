/*
 * cidr.c - level 2: see cidr.h.
 *
 * The texts come from strangers (X-Forwarded-For), so they are read here: getaddrinfo allocates, and knows more forms
 * than anybody should write there.
 *
 * May include: olla.h, str.h, cidr.h.
 */
#include "cidr.h"

#include <string.h>

#define V4_BITS 96 /* of the beginning that all IPv4 addresses have */

static const unsigned char v4_start[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* ---- texts ------------------------------------------------------------------------- */

/* "07" is 7 for some and an error for others: it is an error. */
static int number(struct str s, uint64_t max, uint64_t *v)
{
    bool leading = s.n > 1 && s.p[0] == '0';

    return s.n > 0 && s.n <= 3 && !leading ? str_to_u64(s, max, v) : OLLA_ERR;
}

static int parse_v4(struct str s, unsigned char *to)
{
    int count = 0;

    while (s.p) {
        uint64_t v = 0;
        size_t n = str_find(s, '.');
        if (count == 4 || number((struct str){s.p, n}, 255, &v) != OLLA_OK) {
            return OLLA_ERR;
        }
        to[count++] = (unsigned char)v;
        s = n < s.n ? str_skip(s, n + 1) : (struct str){NULL, 0};
    }
    return count == 4 ? OLLA_OK : OLLA_ERR;
}

static int hex_group(struct str s, unsigned char *to)
{
    unsigned v = 0;

    if (s.n < 1 || s.n > 4) {
        return OLLA_ERR;
    }
    for (size_t i = 0; i < s.n; i++) {
        int digit = str_hex_value(s.p[i]);
        if (digit < 0) {
            return OLLA_ERR;
        }
        v = v * 16 + (unsigned)digit;
    }
    to[0] = (unsigned char)(v >> 8);
    to[1] = (unsigned char)(v & 0xff);
    return OLLA_OK;
}

/* Groups between colons, the last of which may be an IPv4 address: how many bytes they are, or OLLA_ERR. */
static int parse_groups(struct str s, bool last, unsigned char *to, int room)
{
    int count = 0;

    while (s.n > 0) {
        size_t n = str_find(s, ':');
        struct str one = {s.p, n};
        bool v4 = last && n == s.n && str_find(one, '.') < n;
        int need = v4 ? 4 : 2;
        if (count + need > room || (v4 ? parse_v4(one, to + count) : hex_group(one, to + count)) != OLLA_OK) {
            return OLLA_ERR;
        }
        count += need;
        if (n + 1 == s.n) {
            return OLLA_ERR; /* a colon with nothing behind it */
        }
        s = str_skip(s, n + 1);
    }
    return count;
}

/* Where "::" begins, or s.n. */
static size_t find_gap(struct str s)
{
    size_t i = 0;

    while (i + 1 < s.n && !(s.p[i] == ':' && s.p[i + 1] == ':')) {
        i++;
    }
    return i + 1 < s.n ? i : s.n;
}

static int parse_v6(struct str s, unsigned char *to)
{
    unsigned char tail[16];
    size_t gap = find_gap(s);
    bool has_gap = gap < s.n;
    int head_n = parse_groups((struct str){s.p, gap}, !has_gap, to, has_gap ? 14 : 16);

    if (head_n < 0 || !has_gap) {
        return head_n == 16 ? OLLA_OK : OLLA_ERR;
    }
    /* The gap stands for one group at least. */
    int tail_n = parse_groups(str_skip(s, gap + 2), true, tail, 14 - head_n);
    if (tail_n < 0) {
        return OLLA_ERR;
    }
    memcpy(to + 16 - tail_n, tail, (size_t)tail_n);
    return OLLA_OK;
}

int cidr_parse_addr(struct str s, struct cidr_addr *out)
{
    memset(out, 0, sizeof(*out));
    if (s.n == 0 || s.n > 45) {
        return OLLA_ERR;
    }
    if (str_find(s, ':') < s.n) {
        return parse_v6(s, out->b);
    }
    memcpy(out->b, v4_start, sizeof(v4_start));
    return parse_v4(s, out->b + sizeof(v4_start));
}

int cidr_parse(struct str s, struct cidr *out)
{
    size_t slash = str_find(s, '/');
    bool v4 = str_find(s, ':') == s.n;
    uint64_t bits = 0;

    if (slash == s.n || cidr_parse_addr((struct str){s.p, slash}, &out->base) != OLLA_OK ||
        number(str_skip(s, slash + 1), v4 ? 32 : 128, &bits) != OLLA_OK) {
        return OLLA_ERR;
    }
    out->bits = (uint8_t)(v4 ? V4_BITS + bits : bits);
    return OLLA_OK;
}

/* ---- ranges ------------------------------------------------------------------------ */

bool cidr_is_v4(const struct cidr_addr *a)
{
    return memcmp(a->b, v4_start, sizeof(v4_start)) == 0;
}

bool cidr_has(const struct cidr *range, const struct cidr_addr *a)
{
    size_t whole = range->bits / 8u;
    unsigned rest = range->bits % 8u, mask = 0xff00u >> rest & 0xffu;

    if (range->bits < V4_BITS && cidr_is_v4(a)) {
        return false;
    }
    return memcmp(range->base.b, a->b, whole) == 0 && (rest == 0 || ((range->base.b[whole] ^ a->b[whole]) & mask) == 0);
}

bool cidr_any(const struct cidr *list, int n, const struct cidr_addr *a)
{
    for (int i = 0; i < n; i++) {
        if (cidr_has(&list[i], a)) {
            return true;
        }
    }
    return false;
}
