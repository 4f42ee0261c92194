/*
 * anthropic_blocks.c - level 6: what messages are made of, leaf by leaf; see
 * anthropic.h.
 *
 * A block may hold others (a result holds documents, a document holds texts):
 * a short stack of frames remembers where it goes on. What is nested deeper
 * than any client does is refused.
 *
 * May include: olla.h, levels 1 to 5, anthropic.h.
 */
#include "anthropic.h"

#include <string.h>

enum {
    B_TYPE = 0,
    B_TEXT,
    B_ID,
    B_NAME,
    B_INPUT,
    B_SOURCE,
    B_RESULT_OF,
    B_CONTENT,
    B_IS_ERROR,
    B_TITLE,
    B_THINKING,
    B_TOOL_NAME,
    B_COUNT
};
static const char *const block_keys[B_COUNT + 1] = {"type",     "text",        "id",      "name",     "input",
                                                    "source",   "tool_use_id", "content", "is_error", "title",
                                                    "thinking", "tool_name",   NULL};

enum { S_TYPE = 0, S_DATA, S_MEDIA, S_URL, S_CONTENT, S_COUNT };
static const char *const source_keys[S_COUNT + 1] = {"type", "data", "media_type", "url", "content", NULL};

enum { M_ROLE = 0, M_CONTENT, M_COUNT };
static const char *const message_keys[M_COUNT + 1] = {"role", "content", NULL};

static const struct json_value absent = {0, 0, 0};

enum block_type { TEXT = 0, IMAGE, DOCUMENT, SEARCH, INNER, RESULT, CALL, THINKING, REFERENCE, DROPPED, UNKNOWN };

/* What becomes of each type, and in whose turns it may stand. */
static const struct {
    const char *name;
    enum block_type type;
    unsigned runs;
} types[] = {
    {"text", TEXT, 7},
    {"image", IMAGE, 1u << RUN_USER},
    {"document", DOCUMENT, 1u << RUN_USER},
    {"search_result", SEARCH, 1u << RUN_USER},
    {"mid_conv_system", INNER, 7},
    {"compaction", INNER, 7},
    {"tool_result", RESULT, 1u << RUN_USER},
    {"tool_use", CALL, 1u << RUN_ASSISTANT},
    {"thinking", THINKING, 1u << RUN_ASSISTANT},
    {"tool_reference", REFERENCE, 1u << RUN_USER},
    /* Only the server that wrote these can read them. */
    {"redacted_thinking", DROPPED, 7},
    {"server_tool_use", DROPPED, 7},
    {"mcp_tool_use", DROPPED, 7},
};

struct message_place blocks_begin(const struct anthropic_request *r)
{
    return (struct message_place){json_first(r->top[ASK_MESSAGES]), 0};
}

/* false: no role that is known. */
static bool read_run(const struct anthropic_request *r, struct json_value role, enum run before, enum run *run)
{
    char name[16];
    json_read(&r->body, role, name, sizeof(name));
    if (strcmp(name, "assistant") == 0) {
        *run = RUN_ASSISTANT;
    } else if (strcmp(name, "system") == 0) {
        *run = before == RUN_SYSTEM ? RUN_SYSTEM : RUN_USER;
    } else {
        *run = RUN_USER;
        return strcmp(name, "user") == 0;
    }
    return true;
}

enum run blocks_run_at(const struct anthropic_request *r, struct message_place at)
{
    struct json_value message, v[M_COUNT];
    enum run run;
    if (!json_next_object(&r->body, &at.at, &message, message_keys, v)) {
        return RUN_NONE;
    }
    read_run(r, v[M_ROLE], RUN_NONE, &run);
    return run;
}

void blocks_start(struct blocks *b, const struct anthropic_request *r, enum run run, struct message_place at)
{
    memset(b, 0, sizeof(*b));
    b->r = r;
    b->run = run;
    b->next = at;
    b->prelude = run == RUN_SYSTEM;
}

/* ---- errors --------------------------------------------------------------------------- */

static struct text begin_error(struct blocks *b, bool of_block)
{
    struct text t = text_in(b->error, sizeof(b->error) - 1);
    bool system = b->next.number == 0; /* what stands before the messages */
    text_addz(&t, system ? "system" : "messages.");
    if (!system) {
        text_u64(&t, b->next.number - 1);
    }
    if (of_block) {
        text_addz(&t, system ? "." : ".content.");
        text_u64(&t, b->block > 0 ? b->block - 1 : 0);
    }
    text_addz(&t, ": ");
    return t;
}

static int fail(struct blocks *b, bool of_block, const char *why)
{
    struct text t = begin_error(b, of_block);
    text_addz(&t, why);
    text_z(&t);
    return b->tolerant ? OLLA_AGAIN : OLLA_ERR;
}

static int fail_type(struct blocks *b, struct json_value type, struct json_value source_type)
{
    char name[64], kind[64];
    struct text t = begin_error(b, true);
    json_read(&b->r->body, type, name, sizeof(name));
    text_addz(&t, "a block of type \"");
    text_addz(&t, name);
    if (json_read(&b->r->body, source_type, kind, sizeof(kind))) {
        text_addz(&t, "\" with a source of type \"");
        text_addz(&t, kind);
    }
    text_addz(&t, "\" cannot be translated for this backend");
    text_z(&t);
    return b->tolerant ? OLLA_AGAIN : OLLA_ERR;
}

/* ---- frames ----------------------------------------------------------------------------- */

/* What is to be looked at next: a text, a block, or an array of blocks. Other values are nothing to look at. */
static bool push(struct blocks *b, struct json_value v, enum join join)
{
    bool array = v.kind == '[';
    if (v.kind != '"' && v.kind != '{' && !array) {
        return true;
    }
    if (b->depth == OLLA_COUNT(b->frames)) {
        return false;
    }
    b->frames[b->depth++] = (struct block_frame){array, join, array ? json_first(v) : 0, v};
    return true;
}

/* join: what stands before it, if another text of the message does. */
static int text_leaf(struct blocks *b, struct leaf *leaf, struct json_value text, enum join join)
{
    leaf->kind = LEAF_TEXT;
    leaf->text = json_inner(text);
    leaf->join = join == JOIN_NONE ? b->joined : join;
    b->joined = join == JOIN_NONE ? JOIN_NONE : JOIN_LINE;
    return leaf->text.from < leaf->text.to ? 1 : OLLA_AGAIN;
}

static int pushed(struct blocks *b, bool fits)
{
    return fits ? OLLA_AGAIN : fail(b, true, "blocks are nested too deeply");
}

/* ---- blocks ------------------------------------------------------------------------------- */

static enum block_type type_of(const struct blocks *b, struct json_value type)
{
    char name[64];
    bool is_name = json_read(&b->r->body, type, name, sizeof(name));
    for (size_t i = 0; i < OLLA_COUNT(types); i++) {
        if (strcmp(types[i].name, name) == 0) {
            return b->tolerant || (types[i].runs >> b->run & 1) ? types[i].type : UNKNOWN;
        }
    }
    return is_name && str_ends(str_of(name), STR("_tool_result")) ? DROPPED : UNKNOWN;
}

static int image(struct blocks *b, const struct json_value *v, struct leaf *leaf)
{
    struct json_value s[S_COUNT];
    char kind[16];

    json_collect(&b->r->body, v[B_SOURCE], source_keys, s);
    json_read(&b->r->body, s[S_TYPE], kind, sizeof(kind));
    leaf->kind = LEAF_IMAGE;
    if (strcmp(kind, "base64") == 0 && s[S_DATA].kind == '"' && s[S_MEDIA].kind == '"') {
        leaf->kept = s[S_MEDIA];
        leaf->data = s[S_DATA];
        return 1;
    }
    if (strcmp(kind, "url") == 0 && s[S_URL].kind == '"') {
        leaf->url = s[S_URL];
        return 1;
    }
    return fail_type(b, v[B_TYPE], s[S_TYPE]);
}

static int document(struct blocks *b, const struct json_value *v)
{
    struct json_value s[S_COUNT];
    char kind[16];

    json_collect(&b->r->body, v[B_SOURCE], source_keys, s);
    json_read(&b->r->body, s[S_TYPE], kind, sizeof(kind));
    bool text = strcmp(kind, "text") == 0, content = strcmp(kind, "content") == 0;
    if (!text && !content) {
        return fail_type(b, v[B_TYPE], s[S_TYPE]);
    }
    return pushed(b, push(b, text ? s[S_DATA] : s[S_CONTENT], JOIN_LINE) && push(b, v[B_TITLE], JOIN_LINE));
}

static int result(struct blocks *b, const struct json_value *v, struct leaf *leaf)
{
    if (v[B_RESULT_OF].kind != '"') {
        return fail(b, true, "tool_result needs a tool_use_id");
    }
    leaf->kind = LEAF_RESULT;
    leaf->id = v[B_RESULT_OF];
    leaf->input = v[B_IS_ERROR];
    uint8_t depth = b->depth;
    if (!push(b, v[B_CONTENT], JOIN_NONE)) {
        return pushed(b, false);
    }
    b->result = b->depth > depth ? b->depth : 0;
    return 1;
}

static int call(struct blocks *b, const struct json_value *v, struct leaf *leaf)
{
    struct json_value id = json_inner(v[B_ID]), name = json_inner(v[B_NAME]);
    if (id.from >= id.to || name.from >= name.to) {
        return fail(b, true, "tool_use needs an id and a name");
    }
    leaf->kind = LEAF_CALL;
    leaf->id = v[B_ID];
    leaf->name = v[B_NAME];
    leaf->input = v[B_INPUT];
    return 1;
}

/* v: what the block has under block_keys. */
static int block(struct blocks *b, struct json_value value, const struct json_value *v, enum join join,
                 struct leaf *leaf)
{
    enum block_type type = value.kind == '{' ? type_of(b, v[B_TYPE]) : UNKNOWN;
    switch (type) {
    case TEXT:
        return text_leaf(b, leaf, v[B_TEXT], join);
    case REFERENCE:
        return text_leaf(b, leaf, v[B_TOOL_NAME], join);
    case THINKING:
        leaf->kind = LEAF_THINKING;
        leaf->text = json_inner(v[B_THINKING]);
        return leaf->text.from < leaf->text.to ? 1 : OLLA_AGAIN;
    case IMAGE:
        return image(b, v, leaf);
    case DOCUMENT:
        return document(b, v);
    case SEARCH:
        return pushed(b, push(b, v[B_CONTENT], JOIN_LINE) && push(b, v[B_SOURCE], JOIN_BLANK) &&
                             push(b, v[B_TITLE], JOIN_LINE));
    case INNER:
        return pushed(b, push(b, v[B_CONTENT], JOIN_LINE));
    case RESULT:
        return leaf->in_result ? fail_type(b, v[B_TYPE], absent) : result(b, v, leaf);
    case CALL:
        return call(b, v, leaf);
    case DROPPED:
        return OLLA_AGAIN;
    case UNKNOWN:
        break;
    }
    return fail_type(b, v[B_TYPE], absent);
}

/* ---- messages ------------------------------------------------------------------------------ */

/* Nothing of it would be told: then it does not part the turns around it. */
static bool is_silent(const struct blocks *b, struct json_value content)
{
    struct json_value element, v[B_COUNT], text = json_inner(content);
    uint64_t at = json_first(content);

    if (content.kind != '[') {
        return content.kind == '"' && text.from == text.to;
    }
    while (json_next_object(&b->r->body, &at, &element, block_keys, v)) {
        char type[32];
        json_read(&b->r->body, v[B_TYPE], type, sizeof(type));
        text = json_inner(v[B_TEXT]);
        bool empty = strcmp(type, "text") == 0 && text.from == text.to;
        bool thought = strcmp(type, "thinking") == 0 || strcmp(type, "redacted_thinking") == 0;
        if (element.kind != '{' || !(empty || thought)) {
            return false;
        }
    }
    return true;
}

static int next_message(struct blocks *b)
{
    struct json_value message, v[M_COUNT];
    struct message_place after = b->next;
    enum run run;

    b->block = 0;
    b->joined = JOIN_NONE;
    if (b->prelude) {
        b->prelude = false;
        return pushed(b, push(b, b->r->top[ASK_SYSTEM], JOIN_NONE));
    }
    if (b->end.at > 0 && after.at >= b->end.at) {
        return 0;
    }
    if (!json_next_object(&b->r->body, &after.at, &message, message_keys, v)) {
        return 0;
    }
    bool object = message.kind == '{', known = read_run(b->r, v[M_ROLE], b->run, &run);
    if (known && run != b->run && !b->tolerant && !is_silent(b, v[M_CONTENT])) {
        return 0;
    }
    after.number++;
    b->next = after;
    if (object && !known) {
        return fail(b, false, "unknown role");
    }
    if (known && run != b->run && !b->tolerant) {
        return OLLA_AGAIN;
    }
    if (v[M_CONTENT].kind != '"' && v[M_CONTENT].kind != '[' && v[M_CONTENT].kind != '{') {
        return fail(b, false, "content is missing");
    }
    return pushed(b, push(b, v[M_CONTENT], JOIN_NONE));
}

int blocks_next(struct blocks *b, struct leaf *leaf)
{
    if (b->depth == 0) {
        return next_message(b);
    }
    struct block_frame *f = &b->frames[b->depth - 1];
    struct json_value value = f->value, v[B_COUNT];
    enum join join = f->join;

    memset(leaf, 0, sizeof(*leaf));
    leaf->message = b->next.number;
    leaf->in_result = b->result > 0;
    b->block += b->depth == 1;
    if (f->array && json_next_object(&b->r->body, &f->at, &value, block_keys, v)) {
        return block(b, value, v, join, leaf);
    }
    bool array = f->array;
    b->depth--;
    b->result = b->depth < b->result ? 0 : b->result;
    if (array) {
        return OLLA_AGAIN;
    }
    if (value.kind == '"') {
        return text_leaf(b, leaf, value, join);
    }
    json_collect(&b->r->body, value, block_keys, v);
    return block(b, value, v, join, leaf);
}
