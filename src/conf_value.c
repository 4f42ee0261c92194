/*
 * conf_value.c - level 3: text to value, driven by a row of the table.
 *
 * Nothing here knows a key: type, range, choices and place come from the row.
 * A URL that is accepted here can be put into a Host header and a request line
 * without another look at it; whether its host exists is the resolver's business.
 *
 * May include: conf.h, str.h, platform.h, tls.h.
 */
#include <string.h>

#include "../platform/platform.h"
#include "../platform/tls.h"
#include "conf_internal.h"

#define HTTP_PORT  80
#define HTTPS_PORT 443

/* ---- the rest of a line -------------------------------------------------- */

struct str conf_unquote(struct str s)
{
    bool quoted = s.n >= 2 && strchr("\"'", s.p[0]) && s.p[s.n - 1] == s.p[0];

    return quoted ? (struct str){s.p + 1, s.n - 2} : s;
}

/* Where the comment starts, or s.n: a ';' or '#' at the start or after a blank, and not in quotes at the start. */
static size_t find_comment(struct str s)
{
    size_t i = s.n > 0 && strchr("\"'", s.p[0]) ? str_find(str_skip(s, 1), s.p[0]) + 1 : 0;

    i = i < s.n ? i : 0;
    while (i < s.n && !(strchr(";#", s.p[i]) && (i == 0 || strchr(" \t", s.p[i - 1])))) {
        i++;
    }
    return i;
}

void conf_store_raw(struct conf_loader *ld, const struct conf_row *row, struct str raw)
{
    struct str cut = str_trim((struct str){raw.p, find_comment(raw)});
    struct str value = conf_unquote(cut);
    bool quoted = value.n < cut.n;

    if ((row->type == CONF_FREE || row->type == CONF_HEADER) && !quoted && cut.n < raw.n) {
        /* Only what stands in quotes ends for certain before the comment. */
        value = raw;
        CONF_SAY(ld, .key = row->type == CONF_HEADER ? ld->key : row->path, .warning = true,
                 .what = "all of the line belongs to this text, comments too; put the text in quotes");
    }
    /* Nothing at all stands for the default, but an empty list is a list, and a URL has none. */
    if (value.n > 0 || quoted || row->type == CONF_STATUSES || row->type == CONF_CHOICES || row->type == CONF_WORDS ||
        row->type == CONF_CIDRS || row->type == CONF_URL) {
        conf_store(ld, row, value);
    }
}

/* ---- URLs: what is wrong with one, or NULL -------------------------------- */

struct url_parts {
    struct str host;      /* without brackets */
    struct str authority; /* without the default port */
    struct str path;      /* with query */
    uint64_t port;
    bool tls;
};

/* What must not stand in a URL; path and query go into a request line as they are. */
static const char *check_text(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] <= ' ' || s.p[i] >= 0x7f) {
            return "blanks and other than visible ASCII characters have to be percent-encoded";
        }
        if (s.p[i] == '#') {
            return "a fragment (#...) is not accepted";
        }
    }
    return NULL;
}

static const char *split_authority(struct url_parts *u)
{
    struct str all = u->authority;
    bool bracket = str_starts(all, STR("["));
    size_t end = str_find(all, bracket ? ']' : ':');
    struct str rest = str_skip(all, bracket ? end + 1 : end);

    if (str_find(all, '@') < all.n) {
        return "user name and password are not accepted in a URL";
    }
    if (bracket && end == all.n) {
        return "the ] of the IPv6 address is missing";
    }
    u->host = bracket ? (struct str){all.p + 1, end - 1} : (struct str){all.p, end};
    if (u->host.n == 0) {
        return "the host is missing";
    }
    u->port = u->tls ? HTTPS_PORT : HTTP_PORT;
    if (rest.n > 0 && (rest.p[0] != ':' || str_to_u64(str_skip(rest, 1), 65535, &u->port) != OLLA_OK || u->port == 0)) {
        return "the port is not a number from 1 to 65535";
    }
    if (u->port == (u->tls ? HTTPS_PORT : HTTP_PORT)) {
        u->authority.n -= rest.n;
    }
    return NULL;
}

static const char *split_url(struct str url, struct url_parts *u)
{
    struct str rest = str_skip(url, str_find(url, '/') + 2);
    size_t end = 0;
    const char *why;

    u->tls = str_istarts(url, STR("https://"));
    if (!u->tls && !str_istarts(url, STR("http://"))) {
        return "does not start with http:// or https://";
    }
    if (u->tls && !tls_library()) {
        return "https needs TLS, and this olla was built without it (TLS=none)";
    }
    while (end < rest.n && !strchr("/?#", rest.p[end])) {
        end++;
    }
    u->authority = (struct str){rest.p, end};
    u->path = str_skip(rest, end);
    why = split_authority(u);
    return why ? why : check_text(rest);
}

/* path: of a probe, a target may be "/path?query" too, or a URL with it; host of a plain path stays NULL. */
static const char *parse_url(struct conf_loader *ld, struct str s, struct conf_url *out, const char **path)
{
    char space[1024];
    struct text t = text_in(space, sizeof(space));
    struct url_parts u = {.path = s};
    size_t colon = str_find(s, ':');
    /* "scheme://", but a path may have a URL in its query. */
    bool absolute = str_starts(str_skip(s, colon), STR("://")) && str_find(s, '/') > colon && str_find(s, '?') > colon;
    const char *why = absolute || !path ? split_url(s, &u) : check_text(s);

    if (why) {
        return why;
    }
    if (path) {
        text_addz(&t, s.n == 0 || str_starts(u.path, STR("/")) ? "" : "/");
        text_add(&t, u.path);
        *path = conf_keep(ld, text_str(&t));
    } else if (str_find(u.path, '?') < u.path.n) {
        return "a query (?...) is not accepted";
    }
    while (str_ends(u.path, STR("/"))) {
        u.path.n--;
    }
    if (u.host.n > 0) {
        out->text = conf_keep(ld, s);
        out->host = conf_keep(ld, u.host);
        out->authority = conf_keep(ld, u.authority);
        out->path = conf_keep(ld, u.path);
        out->port = (uint16_t)u.port;
        out->tls = u.tls;
    }
    return NULL;
}

/* ---- values -------------------------------------------------------------- */

static void *place(struct conf_loader *ld, const struct conf_row *row, size_t offset)
{
    return (char *)(conf_kind_of(row) != CONF_SETTINGS ? ld->item : ld->c) + offset;
}

static void say_wrong(struct conf_loader *ld, const struct conf_row *row, const char *why, struct str value)
{
    bool url = row->type == CONF_URL || row->type == CONF_TARGET;

    if ((url && str_find(value, '@') < value.n) || (row->flags & CONF_UNSHOWN)) {
        value.p = NULL; /* it may hold a password */
    }
    CONF_SAY(ld, .key = row->path, .what = why, .value = value, .allowed = row->allowed);
}

/* The place of s among the words of an enum. */
static int parse_enum(struct str words, struct str s, int64_t *v)
{
    for (*v = 0; words.p; (*v)++) {
        for (struct str same = str_split(&words, ','); same.p;) {
            if (str_ieq(str_split(&same, '/'), s)) {
                return OLLA_OK;
            }
        }
    }
    return OLLA_ERR;
}

/* Every type that ends as one number. */
static int parse_number(const struct conf_row *row, struct str s, int64_t *v)
{
    bool yes = false;
    uint64_t u = 0;
    int rc;

    switch (row->type) {
    case CONF_ENUM:
        return parse_enum(str_of(row->allowed), s, v);
    case CONF_DURATION:
        return str_to_duration(s, v);
    case CONF_NOTHING:
        return str_eq(s, STR("[]")) ? OLLA_OK : OLLA_ERR;
    case CONF_BOOL:
        rc = str_to_bool(s, &yes);
        u = yes;
        break;
    case CONF_SIZE:
        rc = str_to_size(s, &u); /* never more than INT64_MAX */
        break;
    default:
        rc = str_to_u64(s, INT64_MAX, &u);
        break;
    }
    *v = (int64_t)u;
    return rc;
}

static void store_number(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    void *to = place(ld, row, row->offset);
    int64_t v = 0;
    bool parsed = parse_number(row, s, &v) == OLLA_OK;

    if (parsed && v == 0 && (row->flags & CONF_ZERO_IS_DEFAULT)) {
        (void)parse_number(row, str_of(row->def), &v);
    } else if (parsed && (row->flags & CONF_CLAMP) && (v < row->min || v > row->max)) {
        v = v < row->min ? row->min : row->max;
        if (s.p != row->def) { /* that one is nobody's mistake: this build has less than others */
            CONF_SAY(ld, .key = row->path, .warning = true, .what = "out of range, taken as ", .number = v, .value = s,
                     .allowed = row->allowed);
        }
    } else if (!parsed || v < row->min || v > row->max) {
        say_wrong(ld, row, "wrong value", s);
        return;
    }
    switch (row->size) { /* 0 = not kept */
    case sizeof(bool):
        *(bool *)to = v != 0;
        break;
    case sizeof(uint16_t):
        *(uint16_t *)to = (uint16_t)v;
        break;
    case sizeof(int):
        *(int *)to = (int)v; /* enums too */
        break;
    case sizeof(int64_t):
        *(int64_t *)to = v; /* sizes are unsigned, and never negative */
        break;
    }
}

/* The next item of a list; brackets and quotes may stand around the list or an item, as YAML has them. */
static struct str next_item(struct str *list)
{
    struct str one = str_split(list, ',');
    while (one.n > 0 && strchr("[\"' ", one.p[0])) {
        one = str_skip(one, 1);
    }
    while (one.n > 0 && strchr("]\"' ", one.p[one.n - 1])) {
        one.n--;
    }
    return one;
}

static const char too_many[] = "more items than OLLA_MAX_LIST_ITEMS, the limit of this build";

static void store_choices(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    uint8_t *item = place(ld, row, row->offset);
    int *count = place(ld, row, row->second);

    *count = ld->seen[row - conf_rows] ? *count : 0;
    while (s.p) {
        struct str one = next_item(&s);
        int64_t v = 0;
        bool again = false;

        if (one.n == 0) {
            continue;
        }
        if (parse_enum(str_of(row->allowed), one, &v) != OLLA_OK) {
            say_wrong(ld, row, "not one of the words", one);
            continue;
        }
        for (int i = 0; i < *count; i++) {
            again = again || item[i] == v;
        }
        if (!again && *count < (int)row->size) {
            item[(*count)++] = (uint8_t)v;
        }
    }
}

static void store_statuses(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    uint16_t *item = place(ld, row, row->offset);
    int *count = place(ld, row, row->second);

    *count = ld->seen[row - conf_rows] ? *count : 0;
    while (s.p) {
        struct str one = next_item(&s);
        int64_t v = 0;

        if (one.n == 0) {
            continue;
        }
        if (parse_number(row, one, &v) != OLLA_OK || v < row->min || v > row->max) {
            say_wrong(ld, row, "not a status code", one);
        } else if (*count == OLLA_MAX_LIST_ITEMS) {
            say_wrong(ld, row, too_many, one);
        } else {
            item[(*count)++] = (uint16_t)v;
        }
    }
}

void conf_store_names(struct conf_loader *ld, const char *key, struct str list, struct conf_list *out, bool patterns)
{
    while (list.p) {
        struct str one = next_item(&list);
        if (one.n == 0) {
            continue;
        }
        if (patterns && !str_is_pattern(one)) {
            CONF_SAY(ld, .key = key, .what = "not a pattern", .value = one,
                     .allowed = "text with * at its start, its end or both");
        } else if (out->n == OLLA_MAX_LIST_ITEMS) {
            CONF_SAY(ld, .key = key, .what = too_many, .value = one);
        } else {
            out->item[out->n++] = conf_keep(ld, one);
        }
    }
}

/* In the place of what the default or, for the environment, the file said. They go into headers, so they are visible. */
static void store_words(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    struct conf_list *list = place(ld, row, row->offset);

    list->n = ld->seen[row - conf_rows] && !ld->env ? list->n : 0;
    while (s.p) {
        struct str one = next_item(&s);
        bool visible = true;
        for (size_t i = 0; i < one.n; i++) {
            visible = visible && (unsigned char)one.p[i] > ' ' && (unsigned char)one.p[i] < 0x7f;
        }
        if (visible) {
            conf_store_names(ld, row->path, one, list, false);
        } else {
            say_wrong(ld, row, "not visible ASCII characters without blanks", one);
        }
    }
}

static void store_cidrs(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    struct conf_cidrs *list = place(ld, row, row->offset);

    list->n = ld->seen[row - conf_rows] && !ld->env ? list->n : 0;
    while (s.p) {
        struct str one = next_item(&s);
        struct cidr range;

        if (one.n == 0) {
            continue;
        }
        if (cidr_parse(one, &range) != OLLA_OK) {
            say_wrong(ld, row, "not a range of addresses", one);
        } else if (list->n == OLLA_MAX_LIST_ITEMS) {
            say_wrong(ld, row, too_many, one);
        } else {
            list->item[list->n++] = range;
        }
    }
}

static void store_text(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    const char **to = place(ld, row, row->offset);

    for (size_t i = 0; (row->type == CONF_WORD || row->type == CONF_HOST) && i < s.n; i++) {
        if ((unsigned char)s.p[i] <= ' ' || s.p[i] == 0x7f) {
            say_wrong(ld, row, "blanks or control characters", s);
            return;
        }
    }
    *to = conf_keep(ld, s);
}

/* With ':' or '-' between the bytes, or nothing. */
static const char *store_mac(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    uint8_t *to = place(ld, row, row->offset), mac[6] = {0};
    char between = s.n > 2 && (s.p[2] == ':' || s.p[2] == '-') ? s.p[2] : '\0';
    size_t step = between ? 3 : 2, some = 0;

    if (s.n != 6 * step - (between != '\0')) {
        return "not the address of a network card";
    }
    for (size_t i = 0; i < 6; i++) {
        const char *at = s.p + i * step;
        int high = str_hex_value(at[0]), low = str_hex_value(at[1]);
        if (high < 0 || low < 0 || (between && i < 5 && at[2] != between)) {
            return "not the address of a network card";
        }
        mac[i] = (uint8_t)(high << 4 | low);
        some |= mac[i];
    }
    if (some == 0 || (mac[0] & 1)) {
        return "not the address of one network card";
    }
    memcpy(to, mac, sizeof(mac));
    return NULL;
}

static const char *store_address(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    char space[64];
    struct plat_addr a;

    if (!str_copy(space, sizeof(space), s) || plat_addr_parse(space, 0, &a) != OLLA_OK) {
        return "not an address";
    }
    store_text(ld, row, s);
    return NULL;
}

static const char *store_host(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    size_t colon = str_find(s, ':');
    bool bracket = str_starts(s, STR("["));

    /* An IPv6 address has two and more. */
    if ((colon < s.n && str_find(str_skip(s, colon + 1), ':') == s.n - colon - 1) ||
        (bracket && !str_ends(s, STR("]")))) {
        return "no host alone: the port is a setting of its own, server.port";
    }
    store_text(ld, row, s);
    return NULL;
}

/* Without the path a program of the same name could be found elsewhere. */
static const char *store_program(struct conf_loader *ld, const struct conf_row *row, struct str s)
{
    if (s.n > 0 && s.p[0] != '/') {
        return "does not begin with /";
    }
    store_text(ld, row, s);
    return NULL;
}

void conf_store(struct conf_loader *ld, const struct conf_row *row, struct str value)
{
    const char *why = NULL;

    switch (row->type) {
    case CONF_WORD:
    case CONF_FREE:
        store_text(ld, row, value);
        break;
    case CONF_MAC:
        why = store_mac(ld, row, value);
        break;
    case CONF_HOST:
        why = store_host(ld, row, value);
        break;
    case CONF_ADDRESS:
        why = store_address(ld, row, value);
        break;
    case CONF_PROGRAM:
        why = store_program(ld, row, value);
        break;
    case CONF_URL:
        why = parse_url(ld, value, place(ld, row, row->offset), NULL);
        break;
    case CONF_TARGET:
        why = parse_url(ld, value, place(ld, row, row->second), place(ld, row, row->offset));
        break;
    case CONF_SECRET:
    case CONF_FILE:
    case CONF_DIGEST:
        conf_store_secret(ld, row, value);
        break;
    case CONF_STATUSES:
        store_statuses(ld, row, value);
        break;
    case CONF_CHOICES:
        store_choices(ld, row, value);
        break;
    case CONF_CIDRS:
        store_cidrs(ld, row, value);
        break;
    case CONF_PATTERNS:
    case CONF_NAMES:
        conf_store_names(ld, row->path, value, place(ld, row, row->offset), row->type == CONF_PATTERNS);
        break;
    case CONF_WORDS:
        store_words(ld, row, value);
        break;
    case CONF_HEADER:
        conf_store_header(ld, value);
        break;
    default:
        store_number(ld, row, value);
        break;
    }
    if (why) {
        say_wrong(ld, row, why, value);
    }
}
