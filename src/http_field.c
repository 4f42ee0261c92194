/*
 * http_field.c - walking the lines of a head that http_parse_* has accepted.
 *
 * Invariant: for lines that were not checked the answers may be senseless, but no
 * byte outside the slice is read.
 *
 * May include: http.h, str.h, standard C headers.
 */
#include "http.h"

#include <string.h>

/* Length of the first line with its LF; all there is if it has none. */
static size_t line_length(struct str fields)
{
    const char *lf = memchr(fields.p, '\n', fields.n);
    return lf ? (size_t)(lf - fields.p) + 1 : fields.n;
}

bool http_next_field(struct str *rest, struct http_field *out)
{
    if (rest->n == 0) {
        return false;
    }
    size_t n = line_length(*rest);
    out->line = (struct str){rest->p, n};
    *rest = (struct str){rest->p + n, rest->n - n};

    size_t colon = str_find(out->line, ':');
    out->name = (struct str){out->line.p, colon};
    out->value = str_trim(str_skip(out->line, colon + 1));
    return true;
}

/* Takes the value of the next field of that name off *rest. */
static bool next_value(struct str *rest, struct str name, struct str *value)
{
    while (rest->n > 0) {
        struct str at = *rest;
        size_t n = line_length(at);
        *rest = (struct str){at.p + n, at.n - n};
        if (n > name.n && at.p[name.n] == ':' && str_ieq((struct str){at.p, name.n}, name)) {
            *value = str_trim((struct str){at.p + name.n + 1, n - name.n - 1});
            return true;
        }
    }
    return false;
}

struct str http_get(struct str fields, struct str name)
{
    struct str value;
    return next_value(&fields, name, &value) ? value : (struct str){NULL, 0};
}

#define HOP(lit)             \
    {                        \
        lit, sizeof(lit) - 1 \
    }

/* "close" is a connection option, and for that reason no field may have this name. Having it
 * here makes a plain "Connection: close" one that names no field. */
static const struct str hop_names[] = {
    HOP("te"),
    HOP("close"),
    HOP("trailer"),
    HOP("upgrade"),
    HOP("connection"),
    HOP("keep-alive"),
    HOP("http2-settings"),
    HOP("proxy-connection"),
    HOP("transfer-encoding"),
    HOP("proxy-authenticate"),
    HOP("proxy-authorization"),
};

/* Bit n is set if one of the names above has n characters: most other names end here. */
#define HOP_LENGTHS (1u << 2 | 1u << 5 | 1u << 7 | 1u << 10 | 1u << 14 | 1u << 16 | 1u << 17 | 1u << 18 | 1u << 19)

bool http_always_hop_by_hop(struct str name)
{
    if (name.n > 19 || !(HOP_LENGTHS >> name.n & 1u)) {
        return false;
    }
    for (size_t i = 0; i < OLLA_COUNT(hop_names); i++) {
        if (hop_names[i].n == name.n && str_lower(name.p[0]) == hop_names[i].p[0] && str_ieq(hop_names[i], name)) {
            return true;
        }
    }
    return false;
}

bool http_hop_by_hop(struct str fields, struct str name)
{
    struct str list;

    if (http_always_hop_by_hop(name)) {
        return true;
    }
    while (next_value(&fields, STR("connection"), &list)) {
        if (str_list_has(list, name)) {
            return true;
        }
    }
    return false;
}
