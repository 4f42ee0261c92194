/*
 * json_check.c - is it JSON? A push automaton after RFC 8259 that holds
 * nothing of the document but one bit for each open bracket.
 *
 * Invariant: the result does not depend on how the document is cut into feeds.
 *
 * May include: olla.h, str.h, json.h.
 */
#include "json.h"

#include <string.h>

enum state {
    START = 0,
    VALUE,        /* before a value */
    VALUE_OR_END, /* behind a '[' */
    KEY,          /* before a key */
    KEY_OR_END,   /* behind a '{' */
    COLON,
    AFTER,  /* behind a value */
    STRING, /* this and the next two: within a string */
    ESCAPE,
    HEX,
    LITERAL,
    MINUS, /* of numbers: what has been seen last */
    ZERO,
    DIGITS,
    DOT,
    FRACTION,
    E,
    E_SIGN,
    EXPONENT,
    DONE
};

void json_check_start(struct json_check *c, const char *const *keys, struct json_value *found)
{
    memset(c, 0, sizeof(*c));
    c->keys = keys;
    c->found = found;
    for (size_t i = 0; keys && keys[i]; i++) {
        found[i] = (struct json_value){0, 0, 0};
    }
}

static bool in_object(const struct json_check *c)
{
    unsigned top = c->depth - 1u;
    return (c->nest[top / 64] >> top % 64 & 1) != 0;
}

static bool open_bracket(struct json_check *c, bool object)
{
    uint64_t bit = UINT64_C(1) << c->depth % 64, *word = &c->nest[c->depth / 64];
    if (c->depth == JSON_DEPTH) {
        return false;
    }
    *word = object ? *word | bit : *word & ~bit;
    c->depth++;
    c->state = object ? KEY_OR_END : VALUE_OR_END;
    return true;
}

/* A value has ended in front of position `to`. */
static void end_value(struct json_check *c, uint64_t to)
{
    if (c->depth == 1 && c->wanted) {
        c->wanted->to = to;
        c->wanted = NULL;
    }
    c->state = c->depth > 0 ? AFTER : DONE;
    c->done = c->depth == 0;
}

static bool begin_value(struct json_check *c, char b)
{
    static const struct {
        char b;
        uint8_t state;
        const char *rest;
    } begins[] = {{'"', STRING, NULL},   {'t', LITERAL, "rue"}, {'f', LITERAL, "alse"},
                  {'n', LITERAL, "ull"}, {'-', MINUS, NULL},    {'0', ZERO, NULL}};
    bool digit = b >= '1' && b <= '9';

    if (c->depth == 1 && c->wanted) {
        *c->wanted = (struct json_value){c->at, 0, digit || b == '-' ? '0' : b};
    }
    if (b == '{' || b == '[') {
        return open_bracket(c, b == '{');
    }
    c->state = DIGITS;
    for (size_t i = 0; !digit; i++) {
        if (i == OLLA_COUNT(begins)) {
            return false;
        }
        if (begins[i].b == b) {
            c->state = begins[i].state;
            c->literal = begins[i].rest;
            break;
        }
    }
    c->key_n = JSON_KEY_CAP; /* a string that begins now is no key */
    return true;
}

static bool close_bracket(struct json_check *c, char b)
{
    if (in_object(c) != (b == '}')) {
        return false;
    }
    c->depth--;
    end_value(c, c->at + 1);
    return true;
}

static void begin_key(struct json_check *c)
{
    c->state = STRING;
    c->key_n = 0;
}

static void end_string(struct json_check *c)
{
    bool key = c->key_n < JSON_KEY_CAP;
    if (!key) {
        end_value(c, c->at + 1);
        return;
    }
    c->state = COLON;
    json_unescape_key(c->key, c->key_n < JSON_KEY_CAP - 1 ? c->key_n : 0);
    for (size_t i = 0; c->depth == 1 && c->keys && c->keys[i]; i++) {
        if (strcmp(c->keys[i], c->key) == 0) {
            c->wanted = &c->found[i];
        }
    }
}

/* The bytes of a key as it is written. One that is too long is cut, and then equals none. */
static void keep_key(struct json_check *c, const char *p, size_t n)
{
    for (size_t i = 0; i < n && c->key_n < JSON_KEY_CAP - 1; i++) {
        c->key[c->key_n++] = p[i];
    }
}

/* One byte of a number. false: it does not belong to it. */
static bool number_byte(struct json_check *c, char b)
{
    static const struct {
        const char *bytes;
        uint8_t state, next;
    } steps[] = {
        {"0", MINUS, ZERO},
        {"123456789", MINUS, DIGITS},
        {"0123456789", DIGITS, DIGITS},
        {".", ZERO, DOT},
        {".", DIGITS, DOT},
        {"0123456789", DOT, FRACTION},
        {"eE", ZERO, E},
        {"eE", DIGITS, E},
        {"0123456789", FRACTION, FRACTION},
        {"eE", FRACTION, E},
        {"+-", E, E_SIGN},
        {"0123456789", E, EXPONENT},
        {"0123456789", E_SIGN, EXPONENT},
        {"0123456789", EXPONENT, EXPONENT},
    };
    for (size_t i = 0; i < OLLA_COUNT(steps); i++) {
        if (steps[i].state == c->state && b != '\0' && strchr(steps[i].bytes, b)) {
            c->state = steps[i].next;
            return true;
        }
    }
    return false;
}

static bool is_blank(char b)
{
    return b == ' ' || b == '\n' || b == '\t' || b == '\r';
}

/* One byte between values. */
static bool structure_byte(struct json_check *c, char b)
{
    if (is_blank(b)) {
        return true;
    }
    switch (c->state) {
    case START:
        return b == '{' && open_bracket(c, true);
    case VALUE_OR_END:
        return b == ']' ? close_bracket(c, b) : begin_value(c, b);
    case VALUE:
        return begin_value(c, b);
    case KEY_OR_END:
        if (b == '}') {
            return close_bracket(c, b);
        }
        /* fall through */
    case KEY:
        begin_key(c);
        return b == '"';
    case COLON:
        c->state = VALUE;
        return b == ':';
    case AFTER:
        if (b == ',') {
            c->state = in_object(c) ? KEY : VALUE;
            return true;
        }
        return (b == '}' || b == ']') && close_bracket(c, b);
    default:
        return false;
    }
}

static bool one_byte(struct json_check *c, char b)
{
    switch (c->state) {
    case STRING:
        if (b == '"') {
            end_string(c);
            return true;
        }
        c->state = ESCAPE;
        return b == '\\';
    case ESCAPE:
        c->hex = 4;
        c->state = b == 'u' ? HEX : STRING;
        return b != '\0' && strchr("\"\\/bfnrtu", b) != NULL;
    case HEX:
        c->state = --c->hex > 0 ? HEX : STRING;
        return (b >= '0' && b <= '9') || (str_lower(b) >= 'a' && str_lower(b) <= 'f');
    case LITERAL:
        if (b != *c->literal++) {
            return false;
        }
        if (*c->literal == '\0') {
            end_value(c, c->at + 1);
        }
        return true;
    case ZERO:
    case DIGITS:
    case FRACTION:
    case EXPONENT:
        if (number_byte(c, b)) {
            return true;
        }
        end_value(c, c->at);
        return structure_byte(c, b);
    case MINUS:
    case DOT:
    case E:
    case E_SIGN:
        return number_byte(c, b);
    default:
        return structure_byte(c, b);
    }
}

void json_check_feed(struct json_check *c, const char *p, size_t n)
{
    for (size_t i = 0; i < n && !c->bad;) {
        if (c->state == STRING) {
            size_t plain = (size_t)(json_plain_end(p + i, p + n) - (p + i));
            keep_key(c, p + i, plain);
            c->at += plain;
            i += plain;
            if (i == n) {
                return;
            }
        }
        if (c->state >= STRING && c->state <= HEX && (c->state != STRING || p[i] != '"')) {
            keep_key(c, p + i, 1);
        }
        c->bad = !one_byte(c, p[i]);
        c->at++;
        i++;
    }
}
