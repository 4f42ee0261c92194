/*
 * anthropic_request.c - level 6: a request for a message, told as a chat
 * completion request; see anthropic.h.
 *
 * A run of turns is gone through several times: a look at what there is, then
 * once for each part of the message that becomes of it, because the order in
 * chat completions is another one (results of tools first, images apart from
 * texts, calls behind texts).
 *
 * May include: olla.h, levels 1 to 5, anthropic.h.
 */
#include "anthropic.h"

#include <string.h>

enum phase { HEAD = 0, RUN, LOOK, RESULTS, IMAGES, TEXTS, THOUGHTS, CALLS, TOOLS, TAIL, OVER };

/* Leaves that a look takes at a time. */
#define LOOKS 16

static bool has(const struct anthropic_telling *t, enum leaf_kind kind)
{
    return (t->has >> kind & 1) != 0;
}

static const struct json_source *body_of(const struct anthropic_telling *t)
{
    return &t->r->body;
}

static void words(struct anthropic_telling *t, const char *z)
{
    pieces_words(&t->out, z);
}

static void part(struct anthropic_telling *t, struct json_value v)
{
    pieces_part(&t->out, body_of(t), v.from, v.to, PIECE_RAW);
}

void anthropic_tell_start(struct anthropic_telling *t, const struct anthropic_request *r, const struct profile *to,
                          struct str model)
{
    memset(t, 0, sizeof(*t));
    t->r = r;
    t->profile = to;
    t->model = model;
    t->stream = r->top[ASK_STREAM].kind == 't';
}

static int refuse(struct anthropic_telling *t, const char *why)
{
    str_copy(t->error, sizeof(t->error), str_of(why));
    return OLLA_ERR;
}

/* ---- what stands before the messages ---------------------------------------------- */

static bool is_there(struct json_value v)
{
    return v.kind != 0 && v.kind != 'n';
}

static bool is_word(const struct anthropic_telling *t, struct json_value v, const char *word)
{
    char text[32];
    return json_read(body_of(t), v, text, sizeof(text)) && strcmp(text, word) == 0;
}

static bool is_empty(const struct anthropic_telling *t, struct json_value array)
{
    uint64_t at = json_first(array);
    struct json_value v;
    return array.kind != '[' || !json_next(body_of(t), &at, &v);
}

static void add_thinking(struct anthropic_telling *t, struct json_value effort)
{
    static const char *const keys[] = {"type", NULL};
    static const char *const efforts[] = {"low",  "low",   "medium", "medium", "high",
                                          "high", "xhigh", "high",   "max",    "high"};
    struct json_value type;

    json_collect(body_of(t), t->r->top[ASK_THINKING], keys, &type);
    if (t->profile->think_off && is_word(t, type, "disabled")) {
        words(t, ",");
        words(t, t->profile->think_off);
        return; /* how much it is to think is of no interest then */
    }
    for (size_t i = 0; t->profile->knows_effort && i < OLLA_COUNT(efforts); i += 2) {
        if (is_word(t, effort, efforts[i])) {
            words(t, ",\"reasoning_effort\":\"");
            words(t, efforts[i + 1]);
            words(t, "\"");
        }
    }
}

static void add_format(struct anthropic_telling *t, struct json_value format)
{
    static const char *const keys[] = {"type", "schema", NULL};
    struct json_value v[2];

    json_collect(body_of(t), format, keys, v);
    if (is_word(t, v[0], "json_schema") && v[1].kind == '{') {
        words(t, ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"output\",\"schema\":");
        part(t, v[1]);
        words(t, ",\"strict\":true}}");
    }
}

static void add_number(struct anthropic_telling *t, const char *key, struct json_value v)
{
    if (v.kind == '0') {
        words(t, key);
        part(t, v);
    }
}

static void tell_head(struct anthropic_telling *t)
{
    static const char *const config_keys[] = {"effort", "format", NULL};
    const struct json_value *top = t->r->top;
    struct json_value config[2];

    json_collect(body_of(t), top[ASK_OUTPUT_CONFIG], config_keys, config);
    words(t, "{\"model\":");
    pieces_string(&t->out, t->model);
    add_number(t, ",\"max_tokens\":", top[ASK_MAX_TOKENS]);
    words(t, t->stream ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : ",\"stream\":false");
    add_number(t, ",\"temperature\":", top[ASK_TEMPERATURE]);
    add_number(t, ",\"top_p\":", top[ASK_TOP_P]);
    if (t->profile->knows_top_k) {
        add_number(t, ",\"top_k\":", top[ASK_TOP_K]);
    }
    if (!is_empty(t, top[ASK_STOP])) {
        words(t, ",\"stop\":");
        part(t, top[ASK_STOP]);
    }
    add_thinking(t, config[0]);
    add_format(t, is_there(config[1]) ? config[1] : top[ASK_OUTPUT_FORMAT]);
    words(t, ",\"messages\":[");
    t->phase = RUN;
}

/* ---- runs ---------------------------------------------------------------------------- */

static void rewind_run(struct anthropic_telling *t)
{
    blocks_start(&t->blocks, t->r, t->run, t->from);
    if (t->phase > LOOK) {
        t->blocks.end = t->to;
    }
    t->last = 0;
    t->open = false;
}

static void next_phase(struct anthropic_telling *t, enum phase phase)
{
    t->phase = (uint8_t)phase;
    rewind_run(t);
}

/* The text of a leaf. A line that a client puts before its system text changes with every request: it is left out. */
static struct json_value text_of(const struct anthropic_telling *t, const struct leaf *leaf)
{
    static const char line[] = "x-anthropic-billing-header:";
    struct json_value text = leaf->text;
    char bytes[512];
    size_t n = t->run == RUN_SYSTEM ? json_copy(body_of(t), text.from, text.to, bytes, sizeof(line) - 1) : 0;

    if (!str_eq((struct str){bytes, n}, STR(line))) {
        return text;
    }
    while (text.from < text.to) {
        size_t i = 0;
        n = json_copy(body_of(t), text.from, text.to, bytes, sizeof(bytes));
        while (i + 1 < n && !(bytes[i] == '\\' && bytes[i + 1] == 'n')) {
            i += bytes[i] == '\\' ? 2 : 1;
        }
        if (i + 1 < n) {
            text.from += i + 2;
            break;
        }
        text.from = n > 1 ? text.from + i : text.to; /* a last byte may be half of an escape */
    }
    return text;
}

static void look_at(struct anthropic_telling *t, const struct leaf *leaf)
{
    struct json_value text = leaf->kind == LEAF_TEXT ? text_of(t, leaf) : leaf->text;
    bool empty = leaf->kind == LEAF_TEXT && (text.from == text.to || leaf->in_result);

    t->has |= empty ? 0 : 1u << leaf->kind;
}

/* Some servers take no name in tool_choice: they get that tool only, and must use one. */
static void choose_tool(struct anthropic_telling *t)
{
    static const char *const keys[] = {"type", "name", NULL};
    struct json_value v[2];

    json_collect(body_of(t), t->r->top[ASK_TOOL_CHOICE], keys, v);
    if (t->profile->no_named_choice && is_word(t, v[0], "tool")) {
        json_read(body_of(t), v[1], t->only, sizeof(t->only));
    }
}

static int begin_run(struct anthropic_telling *t)
{
    bool first = t->to.at == 0;
    t->from = first ? blocks_begin(t->r) : t->to;
    t->run = first ? RUN_SYSTEM : blocks_run_at(t->r, t->from);
    t->has = 0;
    next_phase(t, LOOK);
    if (t->run == RUN_NONE) {
        t->phase = TOOLS;
        choose_tool(t);
        t->tool_at = json_first(t->r->top[ASK_TOOLS]);
        t->open = false;
        return t->any ? 1 : refuse(t, "messages: there is nothing in them that could be translated");
    }
    return 1;
}

static void begin_message(struct anthropic_telling *t, const char *head)
{
    words(t, t->any ? "," : "");
    words(t, head);
    t->any = true;
}

static void end_look(struct anthropic_telling *t)
{
    static const char *const heads[] = {[RUN_SYSTEM] = "{\"role\":\"system\",\"content\":",
                                        [RUN_USER] = "{\"role\":\"user\",\"content\":",
                                        [RUN_ASSISTANT] = "{\"role\":\"assistant\",\"content\":",
                                        [RUN_NONE] = ""};
    bool text = has(t, LEAF_TEXT), image = has(t, LEAF_IMAGE), call = has(t, LEAF_CALL);

    t->to = t->blocks.next;
    if (has(t, LEAF_RESULT)) {
        t->has &= ~(1u << LEAF_RESULT);
        next_phase(t, RESULTS); /* and then again here */
        return;
    }
    next_phase(t, RUN);
    if (!text && !image && !call) {
        return;
    }
    begin_message(t, heads[t->run]);
    next_phase(t, image ? IMAGES : TEXTS);
    words(t, image ? "[" : text ? "\"" : t->profile->no_null_content ? "\"\"" : "null");
}

static int look(struct anthropic_telling *t)
{
    struct leaf leaf;
    for (int i = 0; i < LOOKS; i++) {
        int n = blocks_next(&t->blocks, &leaf);
        if (n == OLLA_ERR) {
            return refuse(t, t->blocks.error);
        }
        if (n == 0) {
            end_look(t);
            break;
        }
        if (n == 1) {
            look_at(t, &leaf);
        }
    }
    return 1;
}

/* ---- texts ---------------------------------------------------------------------------- */

/* join: what stands between this text and one before it in the same message. */
static void add_text(struct anthropic_telling *t, const struct leaf *leaf, enum join join)
{
    static const char *const joins[] = {[JOIN_NONE] = "", [JOIN_LINE] = "\\n", [JOIN_BLANK] = " "};
    struct json_value text = text_of(t, leaf);
    if (text.from == text.to) {
        return;
    }
    if (t->open) {
        words(t, leaf->message != t->last ? "\\n\\n" : joins[join]);
    }
    t->open = true;
    t->last = leaf->message;
    part(t, text);
}

static void end_result(struct anthropic_telling *t)
{
    if (t->result) {
        words(t, t->result_bad ? "Error: " : "");
        words(t, t->result_image && !t->open ? "(image)" : "");
        words(t, "\"}");
    }
    t->result = t->result_bad = t->result_image = t->open = false;
}

static void tell_result(struct anthropic_telling *t, const struct leaf *leaf)
{
    if (leaf->kind == LEAF_RESULT) {
        end_result(t);
        begin_message(t, "{\"role\":\"tool\",\"tool_call_id\":");
        part(t, leaf->id);
        words(t, ",\"content\":\"");
        t->result = true;
        t->result_bad = leaf->input.kind == 't';
    } else if (leaf->in_result && leaf->kind == LEAF_IMAGE) {
        t->result_image = true;
    } else if (leaf->in_result && leaf->kind == LEAF_TEXT) {
        char begin[5];
        size_t n = t->result_bad ? json_copy(body_of(t), leaf->text.from, leaf->text.to, begin, sizeof(begin)) : 0;
        words(t, t->result_bad && !str_ieq((struct str){begin, n}, STR("error")) ? "Error: " : "");
        t->result_bad = false;
        t->last = leaf->message;
        add_text(t, leaf, leaf->join == JOIN_BLANK ? JOIN_BLANK : JOIN_LINE);
    }
}

static void tell_image(struct anthropic_telling *t, const struct leaf *leaf)
{
    words(t, t->open ? "," : "");
    t->open = true;
    words(t, "{\"type\":\"image_url\",\"image_url\":{\"url\":\"");
    if (leaf->url.kind) {
        part(t, json_inner(leaf->url));
    } else {
        words(t, "data:");
        part(t, json_inner(leaf->kept));
        words(t, ";base64,");
        part(t, json_inner(leaf->data));
    }
    words(t, "\"}}");
}

/* Texts and images of the user in their order, in the long form. */
static void tell_part(struct anthropic_telling *t, const struct leaf *leaf)
{
    if (leaf->kind == LEAF_IMAGE) {
        tell_image(t, leaf);
    } else if (leaf->kind == LEAF_TEXT) {
        words(t, t->open ? ",{\"type\":\"text\",\"text\":\"" : "{\"type\":\"text\",\"text\":\"");
        t->open = true;
        part(t, leaf->text);
        words(t, "\"}");
    }
}

static void tell_call(struct anthropic_telling *t, const struct leaf *leaf)
{
    words(t, t->open ? ",{\"id\":" : ",\"tool_calls\":[{\"id\":");
    t->open = true;
    part(t, leaf->id);
    words(t, ",\"type\":\"function\",\"function\":{\"name\":");
    part(t, leaf->name);
    words(t, ",\"arguments\":\"");
    if (leaf->input.kind == '{') {
        pieces_part(&t->out, body_of(t), leaf->input.from, leaf->input.to, PIECE_QUOTED);
    } else {
        words(t, "{}");
    }
    words(t, "\"}}");
}

/* ---- a run in its phases ----------------------------------------------------------------- */

static void tell_leaf(struct anthropic_telling *t, const struct leaf *leaf)
{
    bool images = has(t, LEAF_IMAGE);
    switch ((enum phase)t->phase) {
    case RESULTS:
        tell_result(t, leaf);
        break;
    case IMAGES: /* those of results, then all that is not in results: TEXTS */
        if (leaf->in_result && leaf->kind == LEAF_IMAGE) {
            tell_image(t, leaf);
        }
        break;
    case TEXTS:
        if (images && !leaf->in_result) {
            tell_part(t, leaf);
        } else if (!images && leaf->kind == LEAF_TEXT && !leaf->in_result) {
            add_text(t, leaf, leaf->join);
        }
        break;
    case THOUGHTS:
        if (leaf->kind == LEAF_THINKING) {
            add_text(t, leaf, JOIN_LINE);
        }
        break;
    case CALLS:
        if (leaf->kind == LEAF_CALL) {
            tell_call(t, leaf);
        }
        break;
    default:
        break;
    }
}

static void end_phase(struct anthropic_telling *t)
{
    bool open = t->open, thoughts = has(t, LEAF_THINKING) && t->profile->think_field;
    uint8_t was = t->phase;

    switch ((enum phase)was) {
    case RESULTS:
        end_result(t);
        end_look(t);
        break;
    case IMAGES:
        next_phase(t, TEXTS);
        t->open = open;
        break;
    case TEXTS:
        words(t, has(t, LEAF_IMAGE) ? "]" : has(t, LEAF_TEXT) ? "\"" : "");
        if (thoughts) {
            words(t, ",\"");
            words(t, t->profile->think_field);
            words(t, "\":\"");
        }
        next_phase(t, thoughts ? THOUGHTS : CALLS);
        break;
    case THOUGHTS:
        words(t, "\"");
        next_phase(t, CALLS);
        break;
    default:
        words(t, open ? "]" : "");
        break;
    }
    if (t->phase == CALLS && (was == CALLS || !has(t, LEAF_CALL))) {
        words(t, "}");
        next_phase(t, RUN);
    }
}

static int tell_run(struct anthropic_telling *t)
{
    struct leaf leaf;
    int n = blocks_next(&t->blocks, &leaf);
    if (n == 1) {
        tell_leaf(t, &leaf);
    } else if (n == 0) {
        end_phase(t);
    }
    return n == OLLA_ERR ? refuse(t, t->blocks.error) : 1;
}

/* ---- tools --------------------------------------------------------------------------------- */

static int refuse_tool(struct anthropic_telling *t, struct json_value type, bool nameless)
{
    char name[64];
    struct text text = text_in(t->error, sizeof(t->error) - 1);

    json_read(body_of(t), type, name, sizeof(name));
    text_addz(&text, "tools.");
    text_u64(&text, t->tool);
    if (nameless) {
        text_addz(&text, ": name is missing");
    } else {
        text_addz(&text, ": the tool \"");
        text_addz(&text, name);
        text_addz(&text, "\" works only with a backend that speaks the Anthropic API");
    }
    text_z(&text);
    return OLLA_ERR;
}

static int tell_tool(struct anthropic_telling *t)
{
    enum { NAME = 0, DESCRIPTION, SCHEMA, TYPE, STRICT, COUNT };
    static const char *const keys[COUNT + 1] = {"name", "description", "input_schema", "type", "strict", NULL};
    struct json_value tool, v[COUNT];

    if (t->r->top[ASK_TOOLS].kind != '[' || !json_next_object(body_of(t), &t->tool_at, &tool, keys, v)) {
        if (t->only[0] && !t->open) {
            return refuse(t, "tool_choice: there is no tool of that name");
        }
        words(t, "]"); /* of the tools, or of the messages */
        t->phase = TAIL;
        return 1;
    }
    bool custom = !is_there(v[TYPE]) || is_word(t, v[TYPE], "custom");
    struct json_value name = json_inner(v[NAME]);
    if (!custom || name.from >= name.to) {
        return refuse_tool(t, v[TYPE], custom);
    }
    t->tool++;
    char own[sizeof(t->only)];
    if (t->only[0] && (!json_read(body_of(t), v[NAME], own, sizeof(own)) || strcmp(own, t->only) != 0)) {
        return 1;
    }
    words(t, t->open ? ",{\"type\":\"function\",\"function\":{\"name\":"
                     : "],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":");
    t->open = true;
    part(t, v[NAME]);
    if (v[DESCRIPTION].kind == '"') {
        words(t, ",\"description\":");
        part(t, v[DESCRIPTION]);
    }
    words(t, ",\"parameters\":");
    if (v[SCHEMA].kind == '{') {
        part(t, v[SCHEMA]);
    } else {
        words(t, "{\"type\":\"object\",\"properties\":{}}");
    }
    words(t, v[STRICT].kind == 't' ? ",\"strict\":true}}" : "}}");
    return 1;
}

static int tell_tail(struct anthropic_telling *t)
{
    enum { TYPE = 0, NAME, ONE, COUNT };
    static const char *const keys[COUNT + 1] = {"type", "name", "disable_parallel_tool_use", NULL};
    static const char *const kinds[] = {"auto", "\"auto\"", "any", "\"required\"", "none", "\"none\""};
    struct json_value choice = t->r->top[ASK_TOOL_CHOICE], v[COUNT];
    const char *said = NULL;

    t->phase = OVER;
    if (!t->open || !is_there(choice)) { /* without tools there is nothing to choose */
        words(t, "}");
        return 1;
    }
    json_collect(body_of(t), choice, keys, v);
    struct json_value type = choice.kind == '"' ? choice : v[TYPE], name = json_inner(v[NAME]);
    for (size_t i = 0; i < OLLA_COUNT(kinds); i += 2) {
        said = is_word(t, type, kinds[i]) ? kinds[i + 1] : said;
    }
    bool tool = is_word(t, type, "tool");
    said = tool && t->only[0] ? "\"required\"" : said;
    if (tool && name.from >= name.to) {
        return refuse(t, "tool_choice: type \"tool\" needs a name");
    }
    if (!said && !tool) {
        return refuse(t, "tool_choice: the type must be auto, any, tool or none");
    }
    words(t, ",\"tool_choice\":");
    words(t, said ? said : "{\"type\":\"function\",\"function\":{\"name\":");
    if (!said) {
        part(t, v[NAME]);
        words(t, "}}");
    }
    words(t, v[ONE].kind == 't' ? ",\"parallel_tool_calls\":false}" : "}");
    return 1;
}

int anthropic_tell_step(struct anthropic_telling *t)
{
    switch ((enum phase)t->phase) {
    case HEAD:
        tell_head(t);
        return 1;
    case RUN:
        return begin_run(t);
    case LOOK:
        return look(t);
    case TOOLS:
        return tell_tool(t);
    case TAIL:
        return tell_tail(t);
    case OVER:
        return 0;
    default:
        return tell_run(t);
    }
}
