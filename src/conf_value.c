/*
 * conf_value.c - level 3: text to value and back, driven by a row of the table.
 *
 * Nothing here knows a key: type, range, choices and place come from the row.
 * No message is written here either; the caller knows file and line.
 *
 * May include: conf.h, str.h.
 */
#include <string.h>

#include "conf_internal.h"

static bool is_blank(char ch)
{
    return ch == ' ' || ch == '\t';
}

static bool is_quote(char ch)
{
    return ch == '"' || ch == '\'';
}

/* ---- cleaning ----------------------------------------------------------- */

/* True if position i of s starts a comment: ';' or '#' at the start or after a blank. */
static bool comment_at(struct str s, size_t i)
{
    return (s.p[i] == ';' || s.p[i] == '#') && (i == 0 || is_blank(s.p[i - 1]));
}

/*
 * Where the trailing comment starts, or s.n. A quote counts only where an
 * item can start, so that an apostrophe inside a word does not open one.
 */
static size_t find_comment(struct str s)
{
    bool item_start = true;
    char quote = 0;

    for (size_t i = 0; i < s.n; i++) {
        if (quote) {
            if (s.p[i] == quote) {
                quote = 0;
            }
        } else if (item_start && is_quote(s.p[i])) {
            quote = s.p[i];
            item_start = false;
        } else if (comment_at(s, i)) {
            return i;
        } else if (!is_blank(s.p[i])) {
            item_start = s.p[i] == ',' || s.p[i] == '[';
        }
    }
    return s.n;
}

struct str conf_unquote(struct str s, bool *quoted)
{
    *quoted = s.n >= 2 && is_quote(s.p[0]) && s.p[s.n - 1] == s.p[0];
    return *quoted ? (struct str){s.p + 1, s.n - 2} : s;
}

struct str conf_clean(enum conf_type type, struct str raw, bool *quoted, bool *odd)
{
    struct str cut = str_trim((struct str){raw.p, find_comment(raw)});
    struct str s = conf_unquote(raw, quoted);

    *odd = false;
    if (type == CONF_FREE) {
        if (!*quoted && cut.n < raw.n) {
            /* Only what stands in quotes ends for certain before the comment. */
            s = conf_unquote(cut, quoted);
            *odd = !*quoted;
            s = *quoted ? s : raw;
        }
        return s;
    }
    s = conf_unquote(cut, quoted);
    if (*quoted && type == CONF_STATUSES && str_find(s, cut.p[0]) < s.n) {
        /* A quoted item at both ends, not one pair around the list. */
        *quoted = false;
        return cut;
    }
    return s;
}

/* ---- storing ------------------------------------------------------------ */

/* The types of the fields differ in size only; all values are 0 or more. */
static void put_number(void *to, size_t size, uint64_t v)
{
    uint8_t v8 = (uint8_t)v;
    uint16_t v16 = (uint16_t)v;
    uint32_t v32 = (uint32_t)v;

    switch (size) {
    case sizeof(v8):
        memcpy(to, &v8, sizeof(v8));
        break;
    case sizeof(v16):
        memcpy(to, &v16, sizeof(v16));
        break;
    case sizeof(v32):
        memcpy(to, &v32, sizeof(v32));
        break;
    case sizeof(v):
        memcpy(to, &v, sizeof(v));
        break;
    default: /* not kept */
        break;
    }
}

static int parse_enum(const struct conf_row *row, struct str s, int64_t *out)
{
    for (const struct conf_choice *ch = row->choice; ch->name; ch++) {
        if (str_ieq(str_of(ch->name), s)) {
            *out = ch->value;
            return OLLA_OK;
        }
    }
    return OLLA_ERR;
}

/* Every type that ends as one number. */
static int parse_number(const struct conf_row *row, struct str s, int64_t *out)
{
    bool yes = false;
    uint64_t u = 0;

    switch (row->type) {
    case CONF_BOOL:
        if (str_to_bool(s, &yes) != OLLA_OK) {
            return OLLA_ERR;
        }
        *out = yes;
        return OLLA_OK;
    case CONF_DURATION:
        return str_to_duration(s, out);
    case CONF_ENUM:
        return parse_enum(row, s, out);
    case CONF_SIZE:
        if (str_to_size(s, &u) != OLLA_OK) {
            return OLLA_ERR;
        }
        break;
    default:
        if (str_to_u64(s, INT64_MAX, &u) != OLLA_OK) {
            return OLLA_ERR;
        }
        break;
    }
    *out = u > INT64_MAX ? INT64_MAX : (int64_t)u;
    return OLLA_OK;
}

static bool has_range(enum conf_type type)
{
    return type != CONF_BOOL && type != CONF_ENUM;
}

static const char *why_not(enum conf_type type)
{
    switch (type) {
    case CONF_BOOL:
        return "neither true nor false";
    case CONF_DURATION:
        return "not a duration";
    case CONF_SIZE:
        return "not a size";
    case CONF_ENUM:
        return "unknown value";
    case CONF_STATUSES:
        return "not a status code";
    default:
        return "not a whole number";
    }
}

static int fail(struct conf_problem *bad, const char *why, struct str value)
{
    bad->why = why;
    bad->value = value;
    return OLLA_ERR;
}

static int store_number(void *base, const struct conf_row *row, struct str s, struct conf_problem *bad)
{
    int64_t v = 0;

    if (parse_number(row, s, &v) != OLLA_OK) {
        return fail(bad, why_not(row->type), s);
    }
    if (v == 0 && (row->flags & CONF_ZERO_IS_DEFAULT)) {
        (void)parse_number(row, str_of(row->def), &v);
    } else if (has_range(row->type) && (v < row->min || v > row->max)) {
        (void)fail(bad, "out of range", s);
        if (!(row->flags & CONF_CLAMP)) {
            return OLLA_ERR;
        }
        bad->clamped = true;
        v = v < row->min ? row->min : row->max;
    }
    put_number((char *)base + row->offset, row->size, (uint64_t)v);
    return OLLA_OK;
}

static int store_statuses(void *base, const struct conf_row *row, struct str s, bool append, struct conf_problem *bad)
{
    uint16_t *item = (uint16_t *)(void *)((char *)base + row->offset);
    int *count = (int *)(void *)((char *)base + row->count_offset);

    *count = append ? *count : 0;
    if (s.n >= 2 && s.p[0] == '[' && s.p[s.n - 1] == ']') {
        s = (struct str){s.p + 1, s.n - 2};
    }
    for (struct str rest = s; rest.p;) {
        bool quoted = false;
        struct str one = str_trim(conf_unquote(str_split(&rest, ','), &quoted));
        int64_t v = 0;

        if (one.n == 0) {
            continue;
        }
        if (parse_number(row, one, &v) != OLLA_OK || v < row->min || v > row->max) {
            return fail(bad, why_not(row->type), one);
        }
        if (*count == OLLA_MAX_LIST_ITEMS) {
            return fail(bad, "more items than OLLA_MAX_LIST_ITEMS, the limit of this build", one);
        }
        item[(*count)++] = (uint16_t)v;
    }
    return OLLA_OK;
}

const char *conf_keep(struct conf *c, struct str s)
{
    char *to = c->text + c->text_n;

    if (s.n == 0) {
        return "";
    }
    if (s.n >= sizeof(c->text) - c->text_n || !str_copy(to, sizeof(c->text) - c->text_n, s)) {
        return NULL;
    }
    c->text_n += s.n + 1;
    return to;
}

static bool has_unprintable(struct str s, bool blanks_too)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char b = (unsigned char)s.p[i];

        if ((b < ' ' && b != '\t') || b == 0x7f || (blanks_too && is_blank(s.p[i]))) {
            return true;
        }
    }
    return false;
}

static int store_text(struct conf *c, void *base, const struct conf_row *row, struct str s, struct conf_problem *bad)
{
    const char **to = (const char **)(void *)((char *)base + row->offset);
    const char *why = NULL;
    const char *text;

    if (has_unprintable(s, row->type == CONF_WORD)) {
        return fail(bad, "blanks or control characters", s);
    }
    if (row->type == CONF_TARGET && conf_check_target(s, &why) != OLLA_OK) {
        return fail(bad, why, s);
    }
    text = conf_keep(c, s);
    if (!text) {
        bad->full = true;
        return OLLA_ERR;
    }
    *to = text;
    return OLLA_OK;
}

static int store_url(struct conf *c, void *base, const struct conf_row *row, struct str s, struct conf_problem *bad)
{
    struct conf_url *to = (struct conf_url *)(void *)((char *)base + row->offset);
    const char *why = NULL;

    if (conf_parse_url(c, s, to, &why) == OLLA_OK) {
        return OLLA_OK;
    }
    bad->full = why == conf_no_room;
    return fail(bad, why, s);
}

int conf_store(struct conf *c, void *base, const struct conf_row *row, struct str value, bool append,
               struct conf_problem *bad)
{
    int rc = OLLA_OK;

    memset(bad, 0, sizeof(*bad));
    switch (row->type) {
    case CONF_INERT:
        break;
    case CONF_NOTHING:
        if (value.n > 0 && !str_eq(value, STR("[]"))) {
            rc = fail(bad, "only the empty list is possible here", value);
        }
        break;
    case CONF_WORD:
    case CONF_FREE:
    case CONF_TARGET:
        rc = store_text(c, base, row, value, bad);
        break;
    case CONF_URL:
        rc = store_url(c, base, row, value, bad);
        break;
    case CONF_STATUSES:
        rc = store_statuses(base, row, value, append, bad);
        break;
    default:
        rc = store_number(base, row, value, bad);
        break;
    }
    if ((row->type == CONF_URL || row->type == CONF_TARGET) && bad->value.p &&
        str_find(bad->value, '@') < bad->value.n) {
        bad->value.p = NULL; /* it may hold a password */
    }
    return rc;
}

void conf_store_defaults(struct conf *c, void *base, const struct conf_row *rows)
{
    struct conf_problem bad;

    for (const struct conf_row *row = rows; row->path; row++) {
        if (row->size == 0 || row->type == CONF_URL) {
            continue;
        }
        if (row->type == CONF_WORD || row->type == CONF_FREE || row->type == CONF_TARGET) {
            *(const char **)(void *)((char *)base + row->offset) = row->def;
        } else {
            (void)conf_store(c, base, row, str_of(row->def), false, &bad);
        }
    }
}

/* ---- and back ----------------------------------------------------------- */

void conf_put_duration(struct text *t, int64_t ms)
{
    static const struct {
        int64_t ms;
        const char *unit;
    } units[] = {{3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};

    if (ms <= 0) {
        text_char(t, '0');
        return;
    }
    for (size_t i = 0; i < OLLA_COUNT(units); i++) {
        if (ms >= units[i].ms) {
            text_i64(t, ms / units[i].ms);
            text_addz(t, units[i].unit);
            ms %= units[i].ms;
        }
    }
}

static void put_limit(struct text *t, const struct conf_row *row, int64_t v)
{
    if (row->type == CONF_DURATION) {
        conf_put_duration(t, v);
    } else {
        text_i64(t, v);
    }
}

static void put_range(struct text *t, const struct conf_row *row)
{
    bool open = row->max == (row->type == CONF_DURATION ? CONF_LONGEST : INT64_MAX);

    text_addz(t, open ? " of " : " from ");
    put_limit(t, row, row->min);
    if (open) {
        text_addz(t, " or more");
    } else {
        text_addz(t, " to ");
        put_limit(t, row, row->max);
    }
}

static void put_choices(struct text *t, const struct conf_row *row)
{
    for (const struct conf_choice *ch = row->choice; ch->name; ch++) {
        if (ch > row->choice) {
            text_addz(t, ", ");
        }
        text_addz(t, ch->name);
    }
}

void conf_put_allowed(struct text *t, const struct conf_row *row)
{
    static const char *const kind[] = {
        [CONF_BOOL] = "true or false",
        [CONF_INT] = "a whole number",
        [CONF_DURATION] = "a duration",
        [CONF_SIZE] = "a size",
        [CONF_ENUM] = "",
        [CONF_WORD] = "text without blanks",
        [CONF_FREE] = "text",
        [CONF_URL] = "http://host[:port][/path]",
        [CONF_TARGET] = "/path or http://host[:port]/path",
        [CONF_STATUSES] = "a list of status codes",
        [CONF_NOTHING] = "nothing; endpoints are written as [endpoint:NAME] sections",
        [CONF_INERT] = "anything",
    };

    text_addz(t, kind[row->type]);
    switch (row->type) {
    case CONF_INT:
    case CONF_DURATION:
    case CONF_SIZE:
    case CONF_STATUSES:
        put_range(t, row);
        break;
    case CONF_ENUM:
        put_choices(t, row);
        break;
    default:
        break;
    }
    if ((row->flags & CONF_ZERO_IS_DEFAULT) && row->min > 0) {
        text_addz(t, ", or 0 for the default");
    }
    if (row->type == CONF_DURATION) {
        text_addz(t, " (like 300ms, 30s, 1h30m)");
    } else if (row->type == CONF_SIZE) {
        text_addz(t, " (bytes, or like 64KB, 100MB)");
    }
}
