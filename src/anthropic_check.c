/*
 * anthropic_check.c - level 6: is it a request for a message, and how long is
 * it, about; see anthropic.h.
 *
 * May include: olla.h, levels 1 to 5, anthropic.h.
 */
#include "anthropic.h"

#include <string.h>

const char *const anthropic_keys[ASK_COUNT + 1] = {
    "model",    "messages",      "max_tokens",     "stream",   "system", "temperature",
    "top_p",    "top_k",         "stop_sequences", "metadata", "tools",  "tool_choice",
    "thinking", "output_config", "output_format",  "thread",   NULL,
};

bool anthropic_wants_thread(const struct anthropic_request *r)
{
    char kind = r->top[ASK_THREAD].kind;
    return kind != 0 && kind != 'n' && kind != 'f';
}

/* ---- rules ------------------------------------------------------------------------- */

/* Longer numbers are not written by anybody who means them. */
#define NUMBER_MAX 40

static const char *say(const char *a, const char *b, const char *c)
{
    static char message[ANTHROPIC_ERROR];
    struct text t = text_in(message, sizeof(message) - 1);
    text_addz(&t, a);
    text_addz(&t, b);
    text_addz(&t, c);
    return text_z(&t);
}

static const char *check_model(const struct anthropic_request *r)
{
    static const struct {
        char kind;
        const char *name;
    } names[] = {{'0', "Number"}, {'t', "True"}, {'f', "False"}, {'n', "Null"}, {'{', "JSON"}, {'[', "JSON"}};
    struct json_value v = r->top[ASK_MODEL];

    for (size_t i = 0; i < OLLA_COUNT(names); i++) {
        if (names[i].kind == v.kind) {
            return say("model field must be a string, got ", names[i].name, "");
        }
    }
    if (v.kind == 0) {
        return "model field is required (body may not be valid JSON)";
    }
    return v.to - v.from > 2 ? NULL : "model field must not be empty";
}

/* What the members that have a type must be; null is as good as absent. */
static const struct {
    uint8_t member;
    const char *kinds, *article;
} types[] = {
    {ASK_MAX_TOKENS, "0", "an integer"}, {ASK_TOP_K, "0", "an integer"},  {ASK_TEMPERATURE, "0", "a number"},
    {ASK_TOP_P, "0", "a number"},        {ASK_STREAM, "tf", "a boolean"}, {ASK_STOP, "[", "an array"},
    {ASK_METADATA, "{", "an object"},    {ASK_TOOLS, "[", "an array"},    {ASK_MESSAGES, "[", "an array"},
};

static const char *check_types(const struct anthropic_request *r)
{
    for (size_t i = 0; i < OLLA_COUNT(types); i++) {
        struct json_value v = r->top[types[i].member];
        char number[NUMBER_MAX];
        bool good = v.kind == 0 || v.kind == 'n' || strchr(types[i].kinds, v.kind);
        if (good && v.kind == '0' && strcmp(types[i].article, "an integer") == 0) {
            size_t n = json_copy(&r->body, v.from, v.to, number, sizeof(number));
            good = !memchr(number, '.', n) && !memchr(number, 'e', n) && !memchr(number, 'E', n);
        }
        if (!good) {
            static char why[64];
            struct text t = text_in(why, sizeof(why) - 1);
            text_addz(&t, " must be ");
            text_addz(&t, types[i].article);
            return say("invalid request: ", anthropic_keys[types[i].member], text_z(&t));
        }
    }
    return NULL;
}

/* A number that is not below 0, nor above max, which has one digit; 0 = any. */
static bool in_range(const struct anthropic_request *r, struct json_value v, char max)
{
    char mem[NUMBER_MAX], first = '\0';
    size_t n = v.kind == '0' ? json_copy(&r->body, v.from, v.to, mem, sizeof(mem)) : 0, i = 0;
    long place = 0; /* of its first digit that is not 0: 1 = ones, 2 = tens, 0 = tenths */
    bool point = false, more = false;
    uint64_t power = 0;

    for (; i < n && str_lower(mem[i]) != 'e'; i++) {
        bool digit = mem[i] >= '0' && mem[i] <= '9';
        point = point || mem[i] == '.';
        if (!digit || (!first && mem[i] == '0')) {
            place -= digit && point;
        } else if (!first) {
            first = mem[i];
            place += !point;
        } else {
            place += !point;
            more = more || mem[i] != '0';
        }
    }
    if (i + 1 < n) {
        bool minus = mem[i + 1] == '-', sign = minus || mem[i + 1] == '+';
        size_t from = i + 1 + sign < n ? i + 1 + sign : n;
        if (str_to_u64((struct str){mem + from, n - from}, 999, &power) != OLLA_OK) {
            power = 999;
        }
        place += minus ? -(long)power : (long)power;
    }
    if (!first) {
        return true; /* it is 0 */
    }
    return mem[0] != '-' && (!max || place < 1 || (place == 1 && (first < max || (first == max && !more))));
}

static const char *check_values(const struct anthropic_request *r)
{
    const struct json_value *top = r->top;
    struct json_value first;
    uint64_t at = json_first(top[ASK_MESSAGES]);
    char number[NUMBER_MAX] = "0";

    if (top[ASK_MESSAGES].kind != '[' || !json_next(&r->body, &at, &first)) {
        return "invalid request: at least one message is required";
    }
    if (top[ASK_MAX_TOKENS].kind == '0') {
        number[json_copy(&r->body, top[ASK_MAX_TOKENS].from, top[ASK_MAX_TOKENS].to, number, sizeof(number) - 1)] =
            '\0';
    }
    if (number[0] == '-' || strcmp(number, "0") == 0) {
        return say("invalid request: max_tokens must be at least 1, got ", number, "");
    }
    if (!in_range(r, top[ASK_TEMPERATURE], '2')) {
        return "invalid request: temperature must be between 0 and 2";
    }
    if (!in_range(r, top[ASK_TOP_P], '1')) {
        return "invalid request: top_p must be between 0 and 1";
    }
    return in_range(r, top[ASK_TOP_K], '\0') ? NULL : "invalid request: top_k must be non-negative";
}

const char *anthropic_check(const struct anthropic_request *r, const struct json_check *c, bool to_count)
{
    if (c->bad || !c->done) {
        return "invalid request: the body is not a JSON object";
    }
    if (to_count) {
        return NULL;
    }
    const char *why = check_model(r);
    why = why ? why : check_types(r);
    return why ? why : check_values(r);
}

/* ---- estimates ---------------------------------------------------------------------- */

enum { T_NAME = 0, T_DESCRIPTION, T_SCHEMA, T_COUNT };
static const char *const tool_keys[T_COUNT + 1] = {"name", "description", "input_schema", NULL};

void anthropic_estimate_start(struct anthropic_estimate *e, const struct anthropic_request *r)
{
    memset(e, 0, sizeof(*e));
    blocks_start(&e->blocks, r, RUN_SYSTEM, blocks_begin(r));
    e->blocks.tolerant = true;
    e->tool_at = json_first(r->top[ASK_TOOLS]);
}

static void add_leaf(struct anthropic_estimate *e, const struct leaf *leaf)
{
    const struct json_source *body = &e->blocks.r->body;
    struct json_value text = {leaf->text.from - 1, leaf->text.to + 1, '"'};

    if (leaf->kind == LEAF_TEXT) {
        e->bytes += json_read_length(body, text);
    } else if (leaf->kind == LEAF_CALL) {
        e->bytes += json_read_length(body, leaf->name);
        e->bytes += leaf->input.kind == '{' ? json_compact_length(body, leaf->input) : 0;
    }
}

bool anthropic_estimate_step(struct anthropic_estimate *e)
{
    const struct anthropic_request *r = e->blocks.r;
    struct json_value tool, v[T_COUNT];
    struct leaf leaf;

    if (!e->in_tools) {
        int more = r->top[ASK_MESSAGES].kind == '[' || e->blocks.prelude || e->blocks.depth > 0
                       ? blocks_next(&e->blocks, &leaf)
                       : 0;
        if (more == 1) {
            add_leaf(e, &leaf);
        }
        e->in_tools = more == 0;
        return true;
    }
    if (r->top[ASK_TOOLS].kind != '[' || !json_next_object(&r->body, &e->tool_at, &tool, tool_keys, v)) {
        return false;
    }
    e->bytes += json_read_length(&r->body, v[T_NAME]) + json_read_length(&r->body, v[T_DESCRIPTION]);
    e->bytes += v[T_SCHEMA].kind == '{' ? json_compact_length(&r->body, v[T_SCHEMA]) : 0;
    return true;
}

uint64_t anthropic_estimate_tokens(const struct anthropic_estimate *e)
{
    return e->bytes < 4 ? 1 : e->bytes / 4;
}
