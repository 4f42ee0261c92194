/*
 * usage.c - level 2: see usage.h.
 *
 * A byte automaton that looks into the few objects figures are in and crosses everything else: strings with memchr,
 * nested values eight bytes at a time. In streams, a line that is at hand as a whole and holds none of the names is not
 * even started on (may_tell); all others go through the automaton, which alone decides.
 *
 * May include: olla.h, str.h, json.h, sse.h, usage.h.
 */
#include "usage.h"

#include <string.h>

enum state {
    START = 0, /* before the '{' of a document */
    KEY,       /* before a key, or a '}' */
    IN_KEY,
    COLON,
    VALUE, /* before a value */
    MODEL, /* in the model's name */
    NUMBER,
    SKIP,  /* in a string, or in brackets */
    AFTER, /* in a literal, or behind a value */
    BROKEN /* no JSON object */
};

/* ---- what the names mean --------------------------------------------------------- */

/* The objects that are looked into. */
enum place { TOP = 0, INNER, USAGE, DETAILS, TIMINGS, STATS };

enum meaning { NONE = 0, ENTER, NAME, COUNT, NANOSECONDS, THOUSANDTHS };

/*
 * What has been told under one name is only replaced by what is told under one that ranks as high. Input and cached
 * tokens of the same rank below HIGH are Anthropic's or those of "timings", which count the two apart.
 */
enum rank { TIMED = 1, MIDDLE, HIGH };

#define KEY_OF(text) (text), sizeof(text) - 1

/* may_tell, below, has to know each key at the top that is a figure or opens an object with figures. */
struct row {
    const char *key;
    uint8_t n;
    uint8_t meaning;
    uint8_t what; /* the place that opens, or the figure */
    uint8_t rank;
};

static const struct row in_top[] = {
    {KEY_OF("model"), NAME, 0, 0},
    {KEY_OF("usage"), ENTER, USAGE, 0},
    {KEY_OF("response"), ENTER, INNER, 0},
    {KEY_OF("message"), ENTER, INNER, 0},
    {KEY_OF("timings"), ENTER, TIMINGS, 0},
    {KEY_OF("stats"), ENTER, STATS, 0},
    {KEY_OF("prompt_eval_count"), COUNT, USAGE_INPUT, MIDDLE},
    {KEY_OF("eval_count"), COUNT, USAGE_OUTPUT, MIDDLE},
    {KEY_OF("prompt_eval_duration"), NANOSECONDS, USAGE_PROMPT_TIME, MIDDLE},
    {KEY_OF("eval_duration"), NANOSECONDS, USAGE_GENERATION_TIME, MIDDLE},
    {KEY_OF("tokens_evaluated"), COUNT, USAGE_INPUT, MIDDLE},
    {KEY_OF("tokens_predicted"), COUNT, USAGE_OUTPUT, MIDDLE},
};

static const struct row in_inner[] = {
    {KEY_OF("model"), NAME, 0, 0},
    {KEY_OF("usage"), ENTER, USAGE, 0},
};

static const struct row in_usage[] = {
    {KEY_OF("prompt_tokens"), COUNT, USAGE_INPUT, HIGH},
    {KEY_OF("completion_tokens"), COUNT, USAGE_OUTPUT, HIGH},
    {KEY_OF("total_tokens"), COUNT, USAGE_TOTAL, HIGH},
    {KEY_OF("input_tokens"), COUNT, USAGE_INPUT, MIDDLE},
    {KEY_OF("output_tokens"), COUNT, USAGE_OUTPUT, MIDDLE},
    {KEY_OF("cache_read_input_tokens"), COUNT, USAGE_CACHED, MIDDLE},
    {KEY_OF("cache_creation_input_tokens"), COUNT, USAGE_CACHE_WRITTEN, MIDDLE},
    {KEY_OF("prompt_tokens_details"), ENTER, DETAILS, 0},
    {KEY_OF("completion_tokens_details"), ENTER, DETAILS, 0},
    {KEY_OF("input_tokens_details"), ENTER, DETAILS, 0},
    {KEY_OF("output_tokens_details"), ENTER, DETAILS, 0},
    {KEY_OF("cached_tokens"), COUNT, USAGE_CACHED, HIGH},
};

static const struct row in_details[] = {
    {KEY_OF("cached_tokens"), COUNT, USAGE_CACHED, HIGH},
    {KEY_OF("reasoning_tokens"), COUNT, USAGE_REASONING, HIGH},
};

static const struct row in_timings[] = {
    {KEY_OF("cache_n"), COUNT, USAGE_CACHED, TIMED},
    {KEY_OF("prompt_n"), COUNT, USAGE_INPUT, TIMED},
    {KEY_OF("predicted_n"), COUNT, USAGE_OUTPUT, TIMED},
    {KEY_OF("prompt_ms"), THOUSANDTHS, USAGE_PROMPT_TIME, MIDDLE},
    {KEY_OF("predicted_ms"), THOUSANDTHS, USAGE_GENERATION_TIME, MIDDLE},
    {KEY_OF("predicted_per_second"), THOUSANDTHS, USAGE_RATE, MIDDLE},
};

static const struct row in_stats[] = {
    {KEY_OF("tokens_per_second"), THOUSANDTHS, USAGE_RATE, MIDDLE},
};

static const struct {
    const struct row *rows;
    size_t n;
} places[] = {
    [TOP] = {in_top, OLLA_COUNT(in_top)},
    [INNER] = {in_inner, OLLA_COUNT(in_inner)},
    [USAGE] = {in_usage, OLLA_COUNT(in_usage)},
    [DETAILS] = {in_details, OLLA_COUNT(in_details)},
    [TIMINGS] = {in_timings, OLLA_COUNT(in_timings)},
    [STATS] = {in_stats, OLLA_COUNT(in_stats)},
};

/* Of each place: the first row, from 1, of a key of that length. Most keys of a reply have a length that none has. */
#define LONGEST 27
static uint8_t first_rows[OLLA_COUNT(places)][LONGEST + 1];

static void note_lengths(void)
{
    for (size_t i = 0; i < OLLA_COUNT(places); i++) {
        for (size_t k = places[i].n; k > 0; k--) {
            first_rows[i][places[i].rows[k - 1].n] = (uint8_t)k;
        }
    }
}

/* Of at least four bytes, as all keys that mean something. */
static bool same(const char *a, const char *b, size_t n)
{
    uint64_t x, y;
    uint32_t v, w;

    if (n < sizeof x) {
        memcpy(&v, a, sizeof v);
        memcpy(&w, b, sizeof w);
        return v == w && memcmp(a + n - sizeof v, b + n - sizeof v, sizeof v) == 0;
    }
    for (size_t i = 0; i + sizeof x < n; i += sizeof x) {
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        if (x != y) {
            return false;
        }
    }
    return memcmp(a + n - sizeof x, b + n - sizeof x, sizeof x) == 0;
}

static uint8_t find_row(uint8_t place, uint8_t first, const char *key, size_t n)
{
    const struct row *const rows = places[place].rows, *const end = rows + places[place].n;

    for (const struct row *row = rows + first - 1; row < end; row++) {
        if (row->n == n && same(row->key, key, n)) {
            return (uint8_t)(row - rows + 1);
        }
    }
    return 0;
}

/* A key has been read, and its colon comes. */
static inline void end_key(struct usage *u, const char *key, size_t n)
{
    const uint8_t place = u->path[u->level - 1], first = n <= LONGEST ? first_rows[place][n] : 0;

    u->state = COLON;
    u->row = first > 0 ? find_row(place, first, key, n) : 0;
}

/* What the value means that is being read; it is of that key. */
static const struct row *row_of(const struct usage *u)
{
    static const struct row none = {"", 0, NONE, 0, 0};

    return u->row > 0 ? &places[u->path[u->level - 1]].rows[u->row - 1] : &none;
}

/* ---- a cheap look -------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Of a number, or of true, false and null. */
static bool is_literal(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '.';
}

/* The bytes before `at` are the key of an object with figures, its colon and blanks. */
static bool opens_figures(const char *p, const char *at)
{
    static const struct str keys[] = {{"\"usage\"", 7}, {"\"timings\"", 9}, {"\"stats\"", 7}};

    while (at > p && is_blank(at[-1])) {
        at--;
    }
    if (at == p || *--at != ':') {
        return false;
    }
    while (at > p && is_blank(at[-1])) {
        at--;
    }
    for (size_t i = 0; i < OLLA_COUNT(keys); i++) {
        const size_t n = keys[i].n; /* most differ in the last letter already */
        if ((size_t)(at - p) >= n && at[-2] == keys[i].p[n - 2] && memcmp(at - n, keys[i].p, n) == 0) {
            return true;
        }
    }
    return false;
}

/*
 * false: no figure can be told by a document that is a part of these bytes. It is exact in that direction only: every
 * figure is at the top and ends as one of `ends`, or is in an object whose key opens_figures knows, or has an escape
 * for a letter or '_' in one of the names.
 */
static bool may_tell(struct str line)
{
    static const struct str ends[] = {{"_count", 6}, {"_duration", 9}, {"_evaluated", 10}, {"_predicted", 10}};
    const char *const end = line.p + line.n;

    for (const char *p = line.p; (p = memchr(p, '{', (size_t)(end - p))) != NULL; p++) {
        if (opens_figures(line.p, p)) {
            return true;
        }
    }
    for (const char *p = line.p; (p = memchr(p, '_', (size_t)(end - p))) != NULL; p++) {
        for (size_t i = 0; i < OLLA_COUNT(ends) && end - p > 1; i++) {
            if (p[1] == ends[i].p[1] && str_starts((struct str){p, (size_t)(end - p)}, ends[i])) {
                return true;
            }
        }
    }
    for (const char *p = line.p; (p = memchr(p, '\\', (size_t)(end - p))) != NULL; p++) {
        if (end - p > 4 && memcmp(p + 1, "u00", 3) == 0 && p[4] >= '5' && p[4] <= '7') {
            return true;
        }
    }
    return false;
}

/* ---- values that are not looked into --------------------------------------------------- */

#define SHORT 24

/* Behind a short string, from inside it, if it is at hand as a whole and has no escapes; else NULL. */
static inline const char *cross_short(const char *p, const char *end)
{
#ifdef JSON_EIGHTS
    if (end - p >= SHORT) {
        for (int i = 0; i < SHORT / 8; i++, p += 8) {
            uint64_t w, stops;
            memcpy(&w, p, sizeof w);
            stops = json_any_zero(w ^ JSON_EACH('"')) | json_any_zero(w ^ JSON_EACH('\\'));
            if (stops) {
                p += (unsigned)__builtin_ctzll(stops) >> 3;
                return *p == '"' ? p + 1 : NULL;
            }
        }
        return NULL;
    }
#endif
    const char *const far = end - p > SHORT ? p + SHORT : end;
    while (p < far && *p != '"' && *p != '\\') {
        p++;
    }
    return p < far && *p == '"' ? p + 1 : NULL;
}

/* A quote, a bracket or one of six other bytes is among these eight. */
static bool any_special(const char *p)
{
    uint64_t w;

    memcpy(&w, p, sizeof w);
    const uint64_t quote = w ^ JSON_EACH(0x22),
                   bracket = (w & JSON_EACH(0xd9)) ^ JSON_EACH(0x59); /* [ ] { } are alike in these bits */
    return (((quote - JSON_EACH(0x01)) & ~quote) | ((bracket - JSON_EACH(0x01)) & ~bracket)) & JSON_EACH(0x80);
}

static const char *skip_nested(struct usage *u, const char *p, const char *end)
{
    uint32_t depth = u->depth;

    while (p < end && depth > 0) {
        const char c = *p++;
        if (c == '"') {
            const char *const behind = cross_short(p, end);
            if (behind) { /* most keys are short */
                p = behind;
                continue;
            }
            u->in_string = true;
            break;
        }
        if (c == ',' || c == ':') {
            continue;
        }
        if (c == '{' || c == '[') {
            depth++;
            if (depth == UINT32_MAX) {
                u->state = BROKEN;
                break;
            }
        } else if (c == '}' || c == ']') {
            depth--;
        } else { /* in a number, a literal or blanks */
            while (end - p >= 8 && !any_special(p)) {
                p += 8;
            }
        }
    }
    u->depth = depth;
    return p;
}

static const char *skip(struct usage *u, const char *p, const char *end)
{
    while (p < end && u->state == SKIP) {
        p = u->in_string ? json_skip_string(p, end, &u->in_string, &u->escaped) : skip_nested(u, p, end);
        if (!u->in_string && u->depth == 0) {
            u->state = AFTER;
        }
    }
    return p;
}

/* ---- values that are ---------------------------------------------------------------------- */

static void begin_text(struct usage *u, enum state state)
{
    u->state = (uint8_t)state;
    u->text_n = 0;
    u->cut = false;
    memset(&u->unescape, 0, sizeof u->unescape);
}

static void keep(struct usage *u, char *text, size_t cap, char c)
{
    if (u->text_n < cap - 1 && !u->cut) {
        text[u->text_n++] = c;
        return;
    }
    if (!u->cut && ((unsigned char)c & 0xc0) == 0x80) { /* no part of a character is left */
        while (u->text_n > 0 && ((unsigned char)text[u->text_n - 1] & 0xc0) == 0x80) {
            u->text_n--;
        }
        u->text_n = (uint8_t)(u->text_n - (u->text_n > 0));
    }
    u->cut = true;
}

/* Takes a string, from inside it, into text[cap], as much as fits. true: that was its end. */
static bool take_text(struct usage *u, char *text, size_t cap, const char **p, const char *end)
{
    while (*p < end) {
        const bool plain = u->unescape.left == 0 && u->unescape.high == 0;
        const char *to = plain ? json_plain_end(*p, end) : *p;
        for (; *p < to; (*p)++) {
            keep(u, text, cap, **p);
        }
        if (*p == end) {
            break;
        }
        char out[8], c = *(*p)++;
        const bool over = c == '"' && u->unescape.left != JSON_SLASH;
        const size_t n = json_unescape(&u->unescape, c, out);
        for (size_t i = 0; i < n; i++) {
            keep(u, text, cap, out[i]);
        }
        if (u->unescape.bad) {
            u->state = BROKEN;
            return false;
        }
        if (over) {
            text[u->text_n] = '\0';
            return true;
        }
    }
    return false;
}

/* A key that is at hand as a whole and has no escapes is looked at where it stands; others are put together. */
static const char *take_key(struct usage *u, const char *p, const char *end)
{
    if (u->text_n == 0 && !u->cut && u->unescape.left == 0 && u->unescape.high == 0) {
        const char *to = json_plain_end(p, end);
        if (to < end && *to == '"') {
            end_key(u, p, (size_t)(to - p));
            return to + 1;
        }
    }
    if (take_text(u, u->key, sizeof u->key, &p, end)) {
        end_key(u, u->key, u->cut ? 0 : u->text_n);
    }
    return p;
}

/* It will stand in log lines. */
static char harmless(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f ? '?' : c;
}

static void end_model(struct usage *u)
{
    for (char *c = u->model; *c != '\0'; c++) {
        *c = harmless(*c);
    }
    u->named = u->text_n > 0;
    u->state = AFTER;
}

#define NUMBER_MAX (UINT64_C(1) << 53)

static void end_number(struct usage *u)
{
    const struct row *row = row_of(u);

    if (row->rank >= u->ranks[row->what]) {
        u->ranks[row->what] = row->rank;
        u->figures[row->what] = row->meaning == COUNT         ? u->number
                                : row->meaning == NANOSECONDS ? u->number / 1000
                                                              : u->number * 1000 + u->fraction;
    }
}

static const char *take_number(struct usage *u, const char *p, const char *end)
{
    static const uint8_t worth[] = {0, 100, 10, 1};

    for (; p < end; p++) {
        const unsigned digit = (unsigned)(unsigned char)*p - '0';
        if (digit > 9 && (*p != '.' || u->digits > 0)) {
            if (is_blank(*p) || *p == ',' || *p == '}') {
                end_number(u);
            }
            u->state = AFTER;
            return p;
        }
        if (*p == '.') {
            u->digits = 1;
        } else if (u->digits > 0 && u->digits < sizeof worth) {
            u->fraction = (uint16_t)(u->fraction + digit * worth[u->digits++]);
        } else if (u->digits == 0) {
            u->number = u->number * 10 + digit;
        }
        if (u->number > NUMBER_MAX) {
            u->state = AFTER;
            return p;
        }
    }
    return p;
}

/* ---- documents ------------------------------------------------------------------------------ */

static void begin_document(struct usage *u)
{
    u->state = START;
    u->level = 0;
    u->depth = 0;
    u->in_string = u->escaped = false;
}

static void enter(struct usage *u, uint8_t place)
{
    u->path[u->level++] = place; /* rows do not nest deeper than this has room */
    u->state = KEY;
}

static void leave(struct usage *u)
{
    u->level--;
    u->state = u->level > 0 ? AFTER : START;
}

static void begin_value(struct usage *u, char c)
{
    const struct row *row = row_of(u);

    if (c == '{' && row->meaning == ENTER) {
        enter(u, row->what);
    } else if (c == '{' || c == '[') {
        u->depth = 1;
        u->state = SKIP;
    } else if (c == '"' && row->meaning == NAME && !u->named) {
        begin_text(u, MODEL);
    } else if (c == '"') {
        u->in_string = true;
        u->state = SKIP;
    } else if (c >= '0' && c <= '9' && row->meaning >= COUNT) {
        u->number = (uint64_t)(c - '0');
        u->fraction = 0;
        u->digits = 0;
        u->state = NUMBER;
    } else {
        u->state = c == ',' || c == ':' || c == '}' || c == ']' ? BROKEN : AFTER;
    }
}

/* One byte that is in no string, number or value that is crossed. */
static inline void structure_byte(struct usage *u, char c)
{
    if (is_blank(c)) {
        return;
    }
    switch (u->state) {
    case START:
        if (c == '{') {
            enter(u, TOP);
        } else if (c != '\xef' && c != '\xbb' && c != '\xbf') { /* of a byte order mark */
            u->state = BROKEN;
        }
        return;
    case KEY:
        if (c == '"') {
            begin_text(u, IN_KEY);
        } else if (c == '}') {
            leave(u);
        } else {
            u->state = BROKEN;
        }
        return;
    case COLON:
        u->state = c == ':' ? VALUE : BROKEN;
        return;
    case VALUE:
        begin_value(u, c);
        return;
    default: /* AFTER: the letters of a literal stand here, too */
        if (c == ',') {
            u->state = KEY;
        } else if (c == '}') {
            leave(u);
        } else if (c == '"' || c == ':' || c == '{' || c == '[' || c == ']') {
            u->state = BROKEN;
        }
        return;
    }
}

/* A string that is at hand as a whole, is short and has no escapes. true: it is crossed. */
static bool take_string(struct usage *u, const char **p, const char *end)
{
    const char *const text = *p + 1, *const behind = cross_short(text, end);

    if (!behind) {
        return false;
    }
    if (!u->named && u->row > 0 && row_of(u)->meaning == NAME) {
        const size_t n = (size_t)(behind - 1 - text);
        for (size_t i = 0; i < n; i++) {
            if (text[i] == '\0') {
                return false;
            }
            u->model[i] = harmless(text[i]);
        }
        u->model[n] = '\0';
        u->named = n > 0;
    }
    *p = behind;
    return true;
}

/* A small count that is at hand as a whole. true: it is taken. */
static bool take_count(struct usage *u, const char **p, const char *end)
{
    const char *to = *p;
    uint64_t number = 0;

    if (u->row == 0 || row_of(u)->meaning != COUNT) {
        return false;
    }
    for (; to < end && to - *p < 15 && *to >= '0' && *to <= '9'; to++) {
        number = number * 10 + (unsigned)(*to - '0');
    }
    if (to == *p || to == end || (*to != ',' && *to != '}')) {
        return false;
    }
    u->number = number;
    end_number(u);
    *p = to;
    return true;
}

/*
 * A member whose key is at hand as a whole, and its value as far as that is short; the rest is left to the automaton.
 * NULL: the key is not.
 */
static const char *take_member(struct usage *u, const char *p, const char *end)
{
    const char *const key = p + 1, *const behind = cross_short(key, end);

    if (!behind || end - behind < 3 || *behind != ':') {
        return NULL;
    }
    end_key(u, key, (size_t)(behind - 1 - key));
    p = behind + 1 + (behind[1] == ' ');
    u->state = VALUE;
    if (*p == '"' ? take_string(u, &p, end) : take_count(u, &p, end)) {
        u->state = AFTER;
    } else {
        structure_byte(u, *p++);
        if (u->state == SKIP) {
            p = skip(u, p, end);
        }
        while (u->state == AFTER && p < end && is_literal(*p)) {
            p++;
        }
    }
    if (u->state == AFTER && p < end && *p == ',') {
        u->state = KEY;
        p++;
    }
    return p;
}

/* The bytes between strings, numbers and values that are crossed; also members that are at hand. */
static const char *take_structure(struct usage *u, const char *p, const char *end)
{
    const unsigned structure = 1u << START | 1u << KEY | 1u << COLON | 1u << VALUE | 1u << AFTER;

    while (p < end && (1u << u->state & structure)) {
        const char *behind = u->state == KEY && *p == '"' ? take_member(u, p, end) : NULL;
        if (behind) {
            p = behind;
        } else {
            structure_byte(u, *p++);
        }
    }
    return p;
}

static void feed(struct usage *u, const char *p, size_t n)
{
    const char *const end = p + n;

    while (p < end && u->state != BROKEN) {
        switch (u->state) {
        case SKIP:
            p = skip(u, p, end);
            break;
        case IN_KEY:
            p = take_key(u, p, end);
            break;
        case MODEL:
            if (take_text(u, u->model, sizeof u->model, &p, end)) {
                end_model(u);
            }
            break;
        case NUMBER:
            p = take_number(u, p, end);
            break;
        default:
            p = take_structure(u, p, end);
            break;
        }
    }
}

/* ---- streams ---------------------------------------------------------------------------------- */

/* The automaton would take nothing from the line, which is a whole one, if it is in front of a document. */
static bool idle(const struct usage *u, struct str line)
{
    return u->state == START && u->named && !may_tell(line);
}

static void feed_lines(struct usage *u, struct str in)
{
    while (in.n > 0) {
        const size_t n = str_find(in, '\n');
        const struct str line = {in.p, n};
        const bool whole = n < in.n;
        if (!whole || !idle(u, line)) {
            feed(u, line.p, line.n);
        }
        if (whole) {
            u->events++;
            feed(u, "\n", 1);
            begin_document(u);
        }
        in = str_skip(in, n + whole);
    }
}

/* What follows a line of data begins with its end and an empty line. */
static bool ends_event(struct str rest)
{
    const size_t n = rest.n > 1 && rest.p[0] == '\r' && rest.p[1] == '\n' ? 2 : 1;

    return rest.n > n && (rest.p[n] == '\n' || rest.p[n] == '\r');
}

static void feed_events(struct usage *u, struct str in)
{
    struct str data;
    enum sse_got got;

    while ((got = sse_next(&u->sse, &in, &data)) != SSE_MORE) {
        if (got == SSE_EVENT) {
            u->events++;
            begin_document(u);
        } else if (got == SSE_LINE) {
            feed(u, "\n", 1);
        } else if (!ends_event(in) || !idle(u, data)) {
            feed(u, data.p, data.n);
        }
    }
}

/* ---- the way in and out ---------------------------------------------------------------------------- */

void usage_start(struct usage *u, enum usage_kind kind)
{
    static bool noted;

    if (!noted) {
        note_lengths();
        noted = true;
    }
    memset(u, 0, sizeof *u);
    u->kind = (uint8_t)kind;
}

void usage_feed(struct usage *u, const char *p, size_t n)
{
    switch (u->kind) {
    case USAGE_LINES:
        feed_lines(u, (struct str){p, n});
        break;
    case USAGE_EVENTS:
        feed_events(u, (struct str){p, n});
        break;
    default:
        feed(u, p, n);
        break;
    }
}

/* Thousandths per second. */
static uint64_t rate(uint64_t tokens, uint64_t us)
{
    const uint64_t scale = UINT64_C(1000000000);

    return tokens <= UINT64_MAX / scale ? tokens * scale / us : tokens / us * scale;
}

struct usage_figures usage_figures(const struct usage *u)
{
    const uint64_t *f = u->figures;
    const uint8_t *ranks = u->ranks;
    struct usage_figures t = {
        .model = u->named ? u->model : "",
        .input = f[USAGE_INPUT],
        .output = f[USAGE_OUTPUT],
        .total = f[USAGE_TOTAL],
        .cached = f[USAGE_CACHED],
        .cache_written = f[USAGE_CACHE_WRITTEN],
        .reasoning = f[USAGE_REASONING],
        .prompt_us = f[USAGE_PROMPT_TIME],
        .generation_us = f[USAGE_GENERATION_TIME],
        .events = u->events,
        .rate = f[USAGE_RATE],
    };

    for (unsigned i = 0; i < USAGE_FIGURES; i++) {
        t.told |= ranks[i] > 0 ? 1u << i : 0;
    }
    if (ranks[USAGE_INPUT] < HIGH && ranks[USAGE_INPUT] == ranks[USAGE_CACHED]) {
        t.input += t.cached;
    }
    if (ranks[USAGE_INPUT] == MIDDLE) {
        t.input += t.cache_written;
    }
    if (ranks[USAGE_TOTAL] == 0 && (ranks[USAGE_INPUT] | ranks[USAGE_OUTPUT]) != 0) {
        t.told |= 1u << USAGE_TOTAL;
        t.total = t.input + t.output;
    }
    if (ranks[USAGE_RATE] == 0 && ranks[USAGE_OUTPUT] != 0 && t.generation_us > 0) {
        t.told |= 1u << USAGE_RATE;
        t.rate = rate(t.output, t.generation_us);
    }
    return t;
}
