/*
 * json_scan.c - reads documents that are never held as a whole: the model a
 * request body names, and the elements of a backend's model list.
 *
 * A body may be 100 MB, nearly all of it one base64 string, so the inside of
 * strings is crossed with memchr and only the top level is looked at byte by
 * byte. Nesting is a counter, never a stack.
 *
 * Invariants: the result does not depend on how the document is cut into
 * feeds; nothing is kept of it but one captured string and the element being
 * collected; once `broken`, no result changes any more. This is no validator:
 * what the reader behind will refuse anyway may pass, what could make two
 * parsers see different facts may not.
 *
 * May include: olla.h, str.h, json.h.
 */
#include "json.h"

#include <string.h>

#define KEY_MAX 32 /* no key that is wanted is longer */

/*
 * What a byte means outside strings: 'a' in a number or literal, '_' blank,
 * ',' between values, '"', '{' opens, '}' closes, '!' has no place in JSON.
 */
static char class_of(char c)
{
    static const char classes[] = "!!!!!!!!!__!!_!!!!!!!!!!!!!!!!!!"  /* tab, LF, CR */
                                  "_!\"!!!!!!!!a,aa!aaaaaaaaaa,!!!!!" /* space " + , - . 0-9 : */
                                  "!aaaaaaaaaaaaaaaaaaaaaaaaaa{!}!!"  /* A-Z [ ] */
                                  "!aaaaaaaaaaaaaaaaaaaaaaaaaa{!}!!"; /* a-z { } */
    const unsigned char at = (unsigned char)c;

    return at < 0x80 ? classes[at] : '!';
}

/* ---- strings ---------------------------------------------------------------- */

static void begin_capture(struct json_top *t)
{
    t->in_string = true;
    t->capture = true;
    t->n = 0;
    memset(&t->unescape, 0, sizeof t->unescape);
}

/* Returns how many of them it took: all, or those up to the first that has no room. */
static size_t keep(struct json_top *t, const char *p, size_t n)
{
    const char *const from = p;
    const size_t room = t->state == JSON_COLON ? KEY_MAX : sizeof t->text - 1;

    /* Trimmed here, so that blanks in front of a value do not use up the room. */
    while (n > 0 && t->state == JSON_AFTER && t->n == 0 && class_of(*p) == '_') {
        p++;
        n--;
    }
    t->capture = n <= room - t->n;
    n = t->capture ? n : room - t->n;
    memcpy(t->text + t->n, p, n);
    t->n = (uint16_t)(t->n + n);
    return (size_t)(p - from) + n + !t->capture;
}

const char *json_plain_end(const char *p, const char *end)
{
#ifdef JSON_EIGHTS
    for (; end - p >= 8; p += 8) {
        const uint64_t stops = json_stops(p);
        if (stops) {
            return p + ((unsigned)__builtin_ctzll(stops) >> 3);
        }
    }
#endif
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20) {
        p++;
    }
    return p;
}

/* Takes a wanted string, from inside it; returns early when it turns out not to be wanted. */
static const char *take_string(struct json_top *t, const char *p, const char *end)
{
    char out[8];

    while (p < end && t->in_string && t->capture && !t->broken) {
        const char *to = t->unescape.left == 0 && t->unescape.high == 0 ? json_plain_end(p, end) : p;
        if (to > p) {
            p += keep(t, p, (size_t)(to - p));
            continue;
        }
        t->in_string = *p != '"' || t->unescape.left == JSON_SLASH;
        keep(t, out, json_unescape(&t->unescape, *p++, out));
        t->broken = t->unescape.bad; /* parsers differ in what they make of it */
    }
    return p;
}

const char *json_skip_string(const char *p, const char *end, bool *in_string, bool *escaped)
{
    if (*escaped && p < end) {
        *escaped = false;
        p++;
    }
    while (*in_string && p < end) {
        const char *quote = memchr(p, '"', (size_t)(end - p));
        const char *stop = quote ? quote : end;
        const char *run = stop;

        while (run > p && run[-1] == '\\') {
            run--;
        }
        const bool odd = ((stop - run) & 1) != 0;
        *escaped = odd && !quote;
        *in_string = odd || !quote;
        p = quote ? quote + 1 : end;
    }
    return p;
}

/* Crosses a string nobody wants. */
static const char *skip_string(struct json_top *t, const char *p, const char *end)
{
    return json_skip_string(p, end, &t->in_string, &t->escaped);
}

/* ---- the top level ------------------------------------------------------------ */

/* One byte below the top level and outside strings: only quotes and brackets matter there. */
static void nested_byte(struct json_top *t, char c)
{
    const char class = class_of(c);

    t->in_string = class == '"';
    t->depth += class == '{';
    t->depth -= class == '}';
    t->broken = class == '!' || t->depth == UINT32_MAX;
}

/* To the end of the string and of all brackets deeper than `depth`. */
static const char *cross(struct json_top *t, uint32_t depth, const char *p, const char *end)
{
    while (p < end && !t->broken && (t->in_string || t->depth > depth)) {
        if (t->in_string) {
            p = skip_string(t, p, end);
        } else {
            nested_byte(t, *p++);
        }
    }
    return p;
}

/* One byte outside strings. true: it is the first one of a value, whose key is in `text`. */
static bool top_byte(struct json_top *t, char c)
{
    /* What may stand in each state, and the state behind it. */
    static const struct {
        char c[2];
        uint8_t next[2];
    } steps[] = {
        [JSON_START] = {"{\xef", {JSON_KEY, JSON_MARK_2}},
        [JSON_MARK_2] = {"\xbb", {JSON_MARK_3}},
        [JSON_MARK_3] = {"\xbf", {JSON_OPEN}},
        [JSON_OPEN] = {"{", {JSON_KEY}},
        [JSON_KEY] = {"\"}", {JSON_COLON, JSON_DONE}},
        [JSON_COLON] = {":", {JSON_VALUE}},
        [JSON_VALUE] = {"", {0}},
        [JSON_AFTER] = {",}", {JSON_KEY, JSON_DONE}},
        [JSON_DONE] = {"", {0}},
    };
    const char class = class_of(c);

    if (class == '_' || (class == 'a' && t->state == JSON_AFTER)) {
        t->state = t->state == JSON_START ? JSON_OPEN : t->state;
        return false;
    }
    if (t->state == JSON_VALUE) {
        t->state = JSON_AFTER;
        t->in_string = class == '"';
        t->depth = class == '{';
        t->broken = class != '"' && class != '{' && class != 'a';
        return !t->broken;
    }
    const unsigned which = c == steps[t->state].c[1];
    if (c == '\0' || c != steps[t->state].c[which]) {
        t->broken = true;
        return false;
    }
    t->state = steps[t->state].next[which];
    if (c == '"') {
        begin_capture(t);
    }
    return false;
}

enum event {
    EVENT_NONE = 0, /* the input is used up, or broken */
    EVENT_VALUE,    /* the byte before *p is the first one of a value */
    EVENT_TEXT      /* a captured value has ended before *p, or does not fit */
};

/*
 * Most documents are written alike, "key": and a value, and are at hand as a whole: then no state is needed in between.
 * At the quote of a key: where the value begins, the key in `text`; NULL: it has to be read byte by byte.
 */
static const char *take_key(struct json_top *t, const char *p, const char *end)
{
    const char *const key = p + 1, *const to = json_short_end(key, end);
    const size_t n = (size_t)(to - key);

    if (end - to < 4 || n > KEY_MAX || to[0] != '"' || to[1] != ':') {
        return NULL;
    }
    p = to + 2 + (to[2] == ' ');
    const char class = class_of(*p);
    if (class != '"' && class != '{' && class != 'a') {
        return NULL;
    }
    memcpy(t->text, key, n);
    t->n = (uint16_t)n;
    t->in_string = class == '"';
    t->depth = class == '{';
    t->escaped = t->capture = false;
    t->state = JSON_AFTER;
    return p + 1;
}

static enum event next_event(struct json_top *t, const char **p, const char *end)
{
    const char *value;

    while (*p < end && !t->broken && !(t->inner && t->state == JSON_DONE)) {
        if (t->in_string && t->capture) {
            *p = take_string(t, *p, end);
            if (t->state == JSON_AFTER && !t->broken && !(t->in_string && t->capture)) {
                return EVENT_TEXT;
            }
        } else if (t->in_string || t->depth > 0) {
            *p = cross(t, 0, *p, end);
        } else if (t->state == JSON_KEY && **p == '"' && (value = take_key(t, *p, end)) != NULL) {
            *p = value;
            return EVENT_VALUE;
        } else if (top_byte(t, *(*p)++)) {
            t->capture = false;
            return EVENT_VALUE;
        }
    }
    return EVENT_NONE;
}

static bool key_is(const struct json_top *t, struct str key)
{
    return t->n == key.n && str_ieq((struct str){t->text, t->n}, key);
}

/* ---- the model of a request ------------------------------------------------------ */

enum { SEEN_MODEL = 1, SEEN_NAME = 2 };

/* What is looked into. */
enum {
    INSIDE_NOTHING = 0,
    INSIDE_PROMPT,
    INSIDE_METADATA,
    INSIDE_USER_ID, /* of the metadata */
    INSIDE_CACHE_KEY,
    INSIDE_CONVERSATION,
    INSIDE_CONVERSATION_ID
};

static void mix(struct json_scan *s, const char eight[8])
{
    uint64_t w;

    memcpy(&w, eight, sizeof w);
    s->hash = (s->hash ^ w) * UINT64_C(0x9e3779b97f4a7c15);
    s->hash ^= s->hash >> 32;
}

/* Prompts may be megabytes: eight bytes at a time, the same however they arrive. */
static void hash_prompt(struct json_scan *s, const char *p, size_t n)
{
    size_t have = s->hashed % 8;

    s->hashed += n;
    if (have > 0) {
        const size_t some = n < 8 - have ? n : 8 - have;
        memcpy(s->tail + have, p, some);
        p += some;
        n -= some;
        have += some;
        if (have == 8) {
            mix(s, s->tail);
        }
    }
    for (; n >= 8; p += 8, n -= 8) {
        mix(s, p);
    }
    if (n > 0) {
        memcpy(s->tail, p, n); /* none is left of before */
    }
}

static void end_prefix(struct json_scan *s)
{
    memset(s->tail + s->hashed % 8, 0, 8 - s->hashed % 8);
    mix(s, s->tail);
    s->prefix = s->filled ? s->hash | 1 : s->prefix; /* an empty list begins nothing */
    s->inside = INSIDE_NOTHING;
}

/* The value of one of the keys that hold a prompt begins with c; of several the one with the highest rank counts. */
static void begin_prompt(struct json_scan *s, uint8_t rank, char c, uint64_t at)
{
    if ((c != '[' && c != '"') || (s->prefix != 0 && rank <= s->prompt_rank)) {
        return;
    }
    s->inside = INSIDE_PROMPT;
    s->prompt_rank = rank;
    s->prompt_text = c == '"';
    s->element = s->user = s->filled = s->list_string = false;
    s->hash = STR_HASH_START;
    s->hashed = 0;
    hash_prompt(s, &c, 1);
    s->prompt_at = at - 1;
    s->prompt_open = true;
}

static void begin_text(struct json_scan *s, uint8_t inside)
{
    s->inside = inside;
    s->hash = STR_HASH_START;
    s->hashed = 0;
    s->matched = 0;
    memset(&s->unescape, 0, sizeof s->unescape);
}

/* Behind the '{' of an object inside the document. */
static void begin_inner(struct json_top *t)
{
    memset(t, 0, offsetof(struct json_top, text));
    t->state = JSON_KEY;
    t->inner = true;
}

/* Values besides the model that are looked into. */
static void begin_other(struct json_scan *s, char c, uint64_t at)
{
    static const struct {
        struct str key;
        char first;
        uint8_t inside, rank;
    } rows[] = {
        {{"messages", 8}, 0, INSIDE_PROMPT, 3},
        {{"prompt", 6}, 0, INSIDE_PROMPT, 2},
        {{"input", 5}, 0, INSIDE_PROMPT, 1},
        {{"metadata", 8}, '{', INSIDE_METADATA, 0},
        {{"prompt_cache_key", 16}, '"', INSIDE_CACHE_KEY, 0},
        {{"conversation", 12}, '"', INSIDE_CONVERSATION, 0},
        {{"conversation_id", 15}, '"', INSIDE_CONVERSATION_ID, 0},
    };

    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        if ((rows[i].first != 0 && rows[i].first != c) || !key_is(&s->top, rows[i].key)) {
            continue;
        }
        if (rows[i].inside == INSIDE_PROMPT) {
            begin_prompt(s, rows[i].rank, c, at);
        } else if (rows[i].inside == INSIDE_METADATA) {
            begin_inner(&s->sub);
            s->inside = INSIDE_METADATA;
        } else {
            begin_text(s, rows[i].inside);
        }
        return;
    }
    if (key_is(&s->top, STR("stream"))) {
        s->stream = c == 't';
        s->no_stream = c == 'f';
    }
}

/* A value begins with c, which is the byte before `at`. */
static void begin_value(struct json_scan *s, char c, uint64_t at)
{
    const bool name = s->take_name && c == '"' && key_is(&s->top, STR("name"));
    const uint8_t key = name ? SEEN_NAME : key_is(&s->top, STR("model")) ? SEEN_MODEL : 0;

    if (s->prompt_open) {
        s->prompt_n = at - s->prompt_at;
        s->prompt_open = false;
    }
    /* Twice whatever the values are: parsers differ in which of the two they take. */
    s->model_twice = s->model_twice || (s->seen & key) != 0;
    s->seen |= key;
    s->key = key;
    if (key != 0 && c == '"') {
        s->quote_at = at - 1;
        begin_capture(&s->top);
    } else if (key == 0) {
        begin_other(s, c, at);
    }
}

/* ---- values that are looked into ---------------------------------------------------- */

/* One byte of the list, outside its objects. */
static void look_between(struct json_scan *s, char c)
{
    if (s->list_string) {
        s->list_string = s->list_escape || c != '"';
        s->list_escape = !s->list_escape && c == '\\';
    } else if (c == '"') {
        s->list_string = true;
        s->list_escape = false;
    } else if (c == '{') {
        s->element = true;
        begin_inner(&s->sub);
    }
}

/* How many of n more bytes of the prompt count. */
static size_t counted(const struct json_scan *s, size_t n)
{
    const uint64_t left = s->prefix_max > s->hashed ? s->prefix_max - s->hashed : 0;

    return s->prefix_max == 0 || n < left ? n : (size_t)left;
}

/* Bytes of the prompt; those behind the user's first message are not looked at any more. */
static void look_at_prompt(struct json_scan *s, const char *p, size_t n)
{
    const char *const end = p + n, *const from = p;

    while (p < end) {
        if (s->prompt_text) {
            s->filled = s->filled || *p != '"';
            p = end;
        } else if (!s->element) {
            s->filled = s->filled || (class_of(*p) != '_' && *p != ']');
            look_between(s, *p++);
        } else {
            const enum event event = next_event(&s->sub, &p, end);
            if (event == EVENT_VALUE && key_is(&s->sub, STR("role")) && p[-1] == '"') {
                begin_capture(&s->sub);
            } else if (event == EVENT_TEXT) {
                s->user = str_eq((struct str){s->sub.text, s->sub.n}, STR("user"));
            }
        }
        const size_t take = (size_t)(p - from);
        /* As long as nothing but blanks has come it may still be empty. */
        if (s->prefix_max > 0 && s->filled && s->hashed + take >= s->prefix_max) {
            hash_prompt(s, from, counted(s, take));
            end_prefix(s);
            return;
        }
        if (s->element && (s->sub.state == JSON_DONE || s->sub.broken)) {
            s->element = false;
            if (s->user || s->sub.broken) {
                hash_prompt(s, from, counted(s, take));
                end_prefix(s);
                return;
            }
        }
    }
    hash_prompt(s, from, counted(s, n));
}

/* Bytes of a string, with the quote that ends it. */
static void look_at_text(struct json_scan *s, const char *p, size_t n)
{
    static const char mark[] = "session_";                  /* Claude Code: user_..._account_..._session_... */
    static const uint8_t back[] = {0, 0, 0, 1, 1, 0, 0, 0}; /* so much of the mark is at the end of its first n bytes */
    char out[8];

    for (size_t i = 0; i < n; i++) {
        const size_t got = json_unescape(&s->unescape, p[i], out);
        for (size_t k = 0; k < got; k++) {
            while (s->matched > 0 && out[k] != mark[s->matched]) {
                s->matched = back[s->matched];
            }
            s->matched = (uint8_t)(s->matched + (out[k] == mark[s->matched]));
            s->hash = str_hash64(s->hash, (struct str){&out[k], 1});
            s->hashed++;
            if (s->matched == sizeof mark - 1) {
                s->matched = 0;
                s->hash = s->inside == INSIDE_USER_ID ? STR_HASH_START : s->hash;
                s->hashed = s->inside == INSIDE_USER_ID ? 0 : s->hashed;
            }
        }
    }
}

/* Too short a text tells nobody from anybody. */
static void end_text(struct json_scan *s)
{
    const uint64_t h = s->hash | 1;

    if (s->hashed < JSON_SESSION_MIN) {
        return;
    }
    switch (s->inside) {
    case INSIDE_USER_ID:
        s->user_id = h;
        break;
    case INSIDE_CACHE_KEY:
        s->cache_key = h;
        break;
    case INSIDE_CONVERSATION_ID:
        s->conversation = h;
        break;
    default:
        s->conversation = s->conversation ? s->conversation : h;
        break;
    }
}

static void look_at_metadata(struct json_scan *s, const char *p, size_t n)
{
    const char *const end = p + n;

    while (p < end) {
        if (s->inside == INSIDE_USER_ID) {
            const char *from = p;
            p = skip_string(&s->sub, p, end);
            look_at_text(s, from, (size_t)(p - from));
            if (!s->sub.in_string) {
                end_text(s);
                s->inside = INSIDE_METADATA;
            }
        } else if (s->sub.state == JSON_DONE || s->sub.broken) {
            return;
        } else if (next_event(&s->sub, &p, end) == EVENT_VALUE && key_is(&s->sub, STR("user_id")) && p[-1] == '"') {
            begin_text(s, INSIDE_USER_ID);
        }
    }
}

/* Takes the bytes of the value that is looked into, as far as it goes. */
static const char *look_inside(struct json_scan *s, const char *p, const char *end)
{
    /* The main reader finds the end of the value, this one looks at what it passed. */
    const char *const to = cross(&s->top, 0, p, end);
    const bool over = !s->top.in_string && s->top.depth == 0;

    if (s->inside == INSIDE_PROMPT) {
        look_at_prompt(s, p, (size_t)(to - p));
        if (over && s->inside == INSIDE_PROMPT) {
            end_prefix(s);
        }
    } else if (s->inside >= INSIDE_CACHE_KEY) {
        look_at_text(s, p, (size_t)(to - p));
        if (over) {
            end_text(s);
        }
    } else {
        look_at_metadata(s, p, (size_t)(to - p));
    }
    s->inside = over ? INSIDE_NOTHING : s->inside;
    return to;
}

static void end_model(struct json_scan *s, uint64_t at)
{
    char *text = s->top.text;
    const struct str name = str_trim((struct str){text, s->top.n}); /* begins where text does */

    for (size_t i = 0; i < name.n; i++) {
        const unsigned char c = (unsigned char)text[i];
        text[i] = (c < 0x20 || c == 0x7f) ? '?' : (char)c; /* it will stand in headers and log lines */
    }
    if (s->model_to != 0 || s->model_too_long) { /* one has come before; an empty one names nothing */
        if (s->model_twice || name.n == 0) {
            return;
        }
        if (s->model[0] != '\0' || s->model_too_long) {
            s->model_twice = !s->top.capture || !str_eq(name, str_of(s->model));
            if (s->key == SEEN_MODEL) { /* the same in "name" before: servers go by "model" */
                s->model_from = s->quote_at;
                s->model_to = at;
            }
            return;
        }
    }
    s->model_too_long = !s->top.capture;
    if (!s->model_too_long) {
        str_copy(s->model, sizeof s->model, name);
        s->model_from = s->quote_at;
        s->model_to = at;
    }
}

void json_scan_feed(struct json_scan *s, const char *p, size_t n)
{
    const char *const end = p + n;

    s->at += n;
    while (p < end && !s->top.broken) {
        if (s->inside != INSIDE_NOTHING) {
            p = look_inside(s, p, end);
            continue;
        }
        const enum event event = next_event(&s->top, &p, end);
        const uint64_t at = s->at - (uint64_t)(end - p);
        if (event == EVENT_VALUE) {
            begin_value(s, p[-1], at);
        } else if (event == EVENT_TEXT) {
            end_model(s, at);
        }
    }
    if (s->prompt_open) {
        s->prompt_n = s->at - s->prompt_at; /* so far */
    }
}

/* ---- elements of a long array ---------------------------------------------------- */

void json_list_start(struct json_list *l, const char *key_a, const char *key_b, char *out, size_t cap)
{
    *l = (struct json_list){.key_a = key_a, .key_b = key_b, .out = out, .cap = cap};
}

/* Between the elements, at depth 1. */
static void array_byte(struct json_list *l, char c)
{
    nested_byte(&l->top, c);
    l->top.broken = l->top.broken || c == '}';
    l->array_done = c == ']';
    l->collect = c == '{';
    if (l->collect) {
        l->n = 0;
    }
}

/* The next n bytes of an element. true: it is complete, and fits. */
static bool collect(struct json_list *l, const char *p, size_t n)
{
    if (l->n + n <= l->cap) {
        memcpy(l->out + l->n, p, n);
    }
    l->n += n;
    if (l->top.in_string || l->top.depth > 1) {
        return false;
    }
    l->collect = false;
    l->top.broken = p[n - 1] != '}';
    l->skipped += l->n > l->cap;
    return !l->top.broken && l->n <= l->cap;
}

int json_list_feed(struct json_list *l, const char *p, size_t n, size_t *used)
{
    struct json_top *const t = &l->top;
    const char *const end = p + n;

    *used = n;
    while (p < end && !t->broken && !l->array_done) {
        const char *from = p;

        if (!l->found) {
            l->found = next_event(t, &p, end) == EVENT_VALUE && p[-1] == '[' &&
                       (key_is(t, str_of(l->key_a)) || (l->key_b && key_is(t, str_of(l->key_b))));
        } else if (t->in_string || t->depth > 1) {
            p = cross(t, 1, p, end);
        } else {
            array_byte(l, *p++);
        }
        if (l->collect && collect(l, from, (size_t)(p - from))) {
            *used = n - (size_t)(end - p);
            return 1;
        }
    }
    return t->broken ? OLLA_ERR : 0;
}

/* ---- members of a long object ---------------------------------------------------- */

void json_members_start(struct json_members *m, char *out, size_t cap)
{
    *m = (struct json_members){.out = out, .cap = cap};
}

static void begin_member(struct json_members *m, char first)
{
    str_copy(m->key, sizeof m->key, (struct str){m->top.text, m->top.n});
    m->collect = true;
    m->n = 1;
    if (m->cap > 0) {
        m->out[0] = first;
    }
}

/* The next n bytes of a value; those that do not fit are only counted. */
static void add_to_member(struct json_members *m, const char *p, size_t n)
{
    if (m->n + n <= m->cap) {
        memcpy(m->out + m->n, p, n);
    }
    m->n += n;
}

int json_members_feed(struct json_members *m, const char *p, size_t n, size_t *used)
{
    struct json_top *const t = &m->top;
    const char *const end = p + n;

    *used = n;
    while (p < end && !t->broken && t->state != JSON_DONE) {
        const char *from = p;

        if (!m->collect) {
            if (next_event(t, &p, end) == EVENT_VALUE) {
                begin_member(m, p[-1]);
            }
            t->broken = t->broken && t->state != JSON_DONE; /* what follows the object is not looked at */
            continue;
        }
        const bool simple = !t->in_string && t->depth == 0;
        if (simple) {
            while (p < end && class_of(*p) == 'a') {
                p++;
            }
        } else {
            p = cross(t, 0, p, end);
        }
        add_to_member(m, from, (size_t)(p - from));
        if (simple ? p < end : !t->in_string && t->depth == 0) {
            m->collect = false;
            if (m->n <= m->cap && !t->broken) {
                *used = n - (size_t)(end - p);
                return 1;
            }
        }
    }
    return t->broken ? OLLA_ERR : 0;
}
