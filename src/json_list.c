/*
 * json_list.c - takes the elements of one array out of a document that is
 * never held as a whole (the model list of a backend).
 *
 * Invariants: the result does not depend on how the document is cut into
 * feeds; out[] is written only while an element is collected and stays as it
 * is until the next one begins; nesting is a counter. An element that is
 * handed out has balanced brackets, but it may still be bad JSON: whoever
 * opens it as a slice finds out.
 *
 * May include: olla.h, str.h, json.h.
 */
#include "json.h"

#include <string.h>

enum list_state {
    LIST_START = 0, /* nothing seen yet; a byte order mark may come */
    LIST_BOM_2,
    LIST_BOM_3,
    LIST_OPEN,   /* before the document */
    LIST_NULL_2, /* in a document that is just `null` */
    LIST_NULL_3,
    LIST_NULL_4,
    LIST_KEY, /* before a key, or before the '}' */
    LIST_COLON,
    LIST_VALUE,
    LIST_AFTER, /* in a scalar or behind a value */
    LIST_DONE
};

void json_list_start(struct json_list *l, const char *key_a, const char *key_b, char *out, size_t cap)
{
    memset(l, 0, sizeof *l);
    l->key_a = key_a;
    l->key_b = key_b;
    l->out = out;
    l->cap = cap;
}

static void put(struct json_list *l, char c)
{
    if (l->n < l->cap) {
        l->out[l->n++] = c;
    } else {
        l->overflow = true;
    }
}

static bool key_is(const struct json_list *l, const char *key)
{
    return key && !l->overflow && str_ieq((struct str){l->key, l->key_n}, str_of(key));
}

static void keep_key(struct json_list *l, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (l->key_n == sizeof l->key) {
            l->overflow = true;
            return;
        }
        l->key[l->key_n++] = p[i];
    }
}

static void begin_string(struct json_list *l, bool is_key)
{
    l->in_string = true;
    l->is_key = is_key;
    if (is_key) {
        l->overflow = false;
        l->key_n = 0;
        memset(&l->unescape, 0, sizeof l->unescape);
    }
}

static void string_byte(struct json_list *l, char c)
{
    char out[8];

    if (l->escaped) {
        l->escaped = false;
    } else if (c == '\\') {
        l->escaped = true;
    } else if (c == '"') {
        l->in_string = false;
        if (l->is_key) {
            keep_key(l, out, json_unescape_end(&l->unescape, out));
            l->broken = l->unescape.bad;
            l->state = LIST_COLON;
        }
        return;
    }
    if (l->is_key) {
        keep_key(l, out, json_unescape_byte(&l->unescape, c, out));
    }
}

/* Inside an element or a value nobody wants, `floor` being the depth outside it. True: an element is complete. */
static bool nested_byte(struct json_list *l, char c, uint32_t floor)
{
    switch (json_byte_class[(unsigned char)c]) {
    case JSON_QUOTE:
        begin_string(l, false);
        return false;
    case JSON_OPEN:
        l->broken = ++l->depth == UINT32_MAX;
        return false;
    case JSON_CLOSE:
        break;
    default:
        return false;
    }
    if (--l->depth > floor) {
        return false;
    }
    if (!l->in_array) {
        l->state = LIST_AFTER;
    }
    if (!l->collect) {
        return false;
    }
    l->collect = false;
    if (c != '}') {
        l->broken = true;
        return false;
    }
    if (l->overflow) {
        l->skipped++;
        l->n = 0;
    }
    return !l->overflow;
}

/* Between the elements. */
static void array_byte(struct json_list *l, char c)
{
    switch (json_byte_class[(unsigned char)c]) {
    case JSON_QUOTE:
        begin_string(l, false);
        break;
    case JSON_OPEN:
        l->depth++;
        if (c == '{') {
            l->collect = true;
            l->overflow = false;
            l->n = 0;
            put(l, c);
        }
        break;
    case JSON_CLOSE:
        l->broken = c != ']';
        l->in_array = false;
        l->array_done = true;
        l->depth--;
        l->state = l->depth == 0 ? LIST_DONE : LIST_AFTER;
        l->complete = l->depth == 0 && !l->broken;
        break;
    default:
        break;
    }
}

static void enter_array(struct json_list *l)
{
    l->in_array = true;
    l->found = true;
    l->array_done = false;
}

/* The first byte of the document. */
static void open_byte(struct json_list *l, char c)
{
    const bool plain_array = !l->key_a && !l->key_b;

    if (c == (plain_array ? '[' : '{')) {
        l->depth = 1;
        l->state = LIST_KEY;
        if (plain_array) {
            enter_array(l);
        }
    } else if (c == 'n') {
        l->state = LIST_NULL_2;
    } else {
        l->broken = true;
    }
}

/* The first byte of a top-level value. */
static void value_byte(struct json_list *l, char c)
{
    l->state = LIST_AFTER;
    switch (json_byte_class[(unsigned char)c]) {
    case JSON_QUOTE:
        begin_string(l, false);
        break;
    case JSON_OPEN:
        l->depth = 2;
        if (c == '[' && (key_is(l, l->key_a) || key_is(l, l->key_b))) {
            l->second = !key_is(l, l->key_a);
            enter_array(l);
        }
        break;
    case JSON_PLAIN:
        break;
    default:
        l->broken = true;
        break;
    }
}

/* Top level of an object, and what may stand around the document; c is no blank. */
static void top_byte(struct json_list *l, char c)
{
    static const char null_rest[] = {'u', 'l', 'l'};

    if (l->state == LIST_OPEN) {
        open_byte(l, c);
    } else if (l->state >= LIST_NULL_2 && l->state <= LIST_NULL_4) {
        l->broken = c != null_rest[l->state - LIST_NULL_2];
        l->complete = l->state == LIST_NULL_4 && !l->broken;
        l->state = l->complete ? LIST_DONE : (uint8_t)(l->state + 1);
    } else if (l->state == LIST_KEY && c == '"') {
        begin_string(l, true);
    } else if (l->state == LIST_COLON && c == ':') {
        l->state = LIST_VALUE;
    } else if (l->state == LIST_VALUE) {
        value_byte(l, c);
    } else if (l->state == LIST_AFTER && c == ',') {
        l->state = LIST_KEY;
    } else if ((l->state == LIST_AFTER || l->state == LIST_KEY) && c == '}') {
        l->depth = 0;
        l->state = LIST_DONE;
        l->complete = true;
    } else if (l->state != LIST_AFTER || json_byte_class[(unsigned char)c] != JSON_PLAIN) {
        l->complete = false;
        l->broken = true;
    }
}

/* True: an element is complete. */
static bool list_byte(struct json_list *l, char c)
{
    const uint8_t class = json_byte_class[(unsigned char)c];

    if (l->collect) {
        put(l, c);
    }
    if (l->in_string) {
        string_byte(l, c);
        return false;
    }
    if (l->state == LIST_START) {
        l->state = c == '\xef' ? LIST_BOM_2 : LIST_OPEN;
        if (l->state == LIST_BOM_2) {
            return false;
        }
    } else if (l->state == LIST_BOM_2 || l->state == LIST_BOM_3) {
        l->broken = c != (l->state == LIST_BOM_2 ? '\xbb' : '\xbf');
        l->state++;
        return false;
    }
    if (class == JSON_BAD) {
        l->complete = false;
        l->broken = true;
        return false;
    }
    /* the wanted array is the document itself or one level down in it */
    const uint32_t floor = (l->in_array && (l->key_a || l->key_b)) ? 2 : 1;
    if (l->depth > floor) {
        return nested_byte(l, c, floor);
    }
    if (l->in_array) {
        array_byte(l, c);
    } else if (class != JSON_BLANK || (l->state >= LIST_NULL_2 && l->state <= LIST_NULL_4)) {
        top_byte(l, c);
    }
    return false;
}

int json_list_feed(struct json_list *l, const char *p, size_t n, size_t *used)
{
    *used = 0;
    while (*used < n && !l->broken) {
        if (list_byte(l, p[(*used)++])) {
            return 1;
        }
    }
    return l->broken ? OLLA_ERR : 0;
}
