/*
 * anthropic_reply.c - level 6: see anthropic_reply.h.
 *
 * Texts are never unescaped on their way: what stands between the quotes in a
 * chunk is put between other quotes. Only the arguments of calls are looked at
 * from inside, to know where they end.
 *
 * May include: olla.h, levels 1 to 5, anthropic_reply.h.
 */
#include "anthropic_reply.h"

#include <string.h>

/* Where a document, or the end, is told. */
enum phase { IDLE = 0, THINKING, CONTENT, REFUSAL, CALLS, LAST, TAIL };

/* A record of the store: this, then n bytes. */
struct held {
    enum held_kind { HELD_TEXT = 0, HELD_THINKING, HELD_ID, HELD_NAME, HELD_ARGS, HELD_OBJECT } kind;
    uint32_t call;
    uint64_t n;
};

/* Signatures are for the server that gave them; clients only want one that is not empty. */
#define SIGNATURE "b2xsYQ=="

static void words(struct anthropic_reply *r, const char *z)
{
    pieces_words(&r->out, z);
}

static void part(struct anthropic_reply *r, const struct json_source *of, struct json_value v)
{
    pieces_part(&r->out, of, v.from, v.to, PIECE_RAW);
}

static bool is_empty(struct json_value v)
{
    return v.from >= v.to;
}

void reply_start(struct anthropic_reply *r)
{
    r->told = false;
    r->finish = FINISH_NONE;
    pieces_clear(&r->out);
    r->phase = IDLE;
    r->block = BLOCK_NONE;
    r->index = r->made = r->call_n = 0;
    r->refused = r->any_call = r->has_usage = r->any_content = r->ending = false;
    r->input = r->output = r->cached = r->bytes = 0;
    r->stop[0] = '\0';
    r->releasing = NULL;
    r->held_at = r->release_at = 0;
}

/* ---- ids ----------------------------------------------------------------------- */

/* "msg_01..." and "toolu_01...": 16 bytes that nobody guesses, in base 58. */
static void add_id(struct anthropic_reply *r, const char *prefix)
{
    static const char digits[] = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    unsigned char n[16];
    char id[24];
    size_t at = sizeof(id) - 1;

    memcpy(n, r->random, sizeof(n));
    n[15] = (unsigned char)(n[15] + r->made);
    n[14] = (unsigned char)(n[14] + (r->made++ >> 8));
    id[at] = '\0';
    for (int digit = 0; digit < 22; digit++) {
        unsigned rest = 0;
        for (size_t i = 0; i < sizeof(n); i++) {
            unsigned v = rest << 8 | n[i];
            n[i] = (unsigned char)(v / 58);
            rest = v % 58;
        }
        id[--at] = digits[rest];
    }
    words(r, prefix);
    words(r, id + at);
}

/* ---- the beginning and the end ------------------------------------------------------ */

static void add_usage(struct anthropic_reply *r)
{
    uint64_t output = r->has_usage || !r->any_content ? r->output : r->bytes < 4 ? 1 : r->bytes / 4;
    words(r, "\"usage\":{\"input_tokens\":");
    pieces_number(&r->out, r->has_usage ? r->input : r->estimate);
    words(r, ",\"output_tokens\":");
    pieces_number(&r->out, output);
    words(r, ",\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":");
    pieces_number(&r->out, r->cached);
    words(r, "}");
}

static void add_message(struct anthropic_reply *r)
{
    words(r, "{\"id\":\"");
    add_id(r, "msg_01");
    words(r, "\",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
    pieces_string(&r->out, r->model);
    words(r, ",\"content\":[");
    r->told = true;
}

void reply_begin(struct anthropic_reply *r)
{
    if (r->told) {
        return;
    }
    if (r->events) {
        words(r, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":");
    }
    add_message(r);
    if (r->events) {
        words(r, "],\"stop_reason\":null,\"stop_sequence\":null,");
        add_usage(r);
        words(r, "}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n");
    }
}

static void add_stop(struct anthropic_reply *r)
{
    static const char *const reasons[] = {
        [FINISH_NONE] = "end_turn",  [FINISH_STOP] = "end_turn",  [FINISH_LENGTH] = "max_tokens",
        [FINISH_CALLS] = "tool_use", [FINISH_FILTER] = "refusal", [FINISH_OTHER] = "end_turn"};
    bool sequence = r->stop[0] && r->finish != FINISH_LENGTH;
    const char *reason = r->finish == FINISH_LENGTH ? "max_tokens"
                         : r->any_call              ? "tool_use"
                         : r->refused               ? "refusal"
                         : sequence                 ? "stop_sequence"
                                                    : reasons[r->finish];
    words(r, "\"stop_reason\":\"");
    words(r, reason);
    words(r, "\",\"stop_sequence\":");
    words(r, strcmp(reason, "stop_sequence") == 0 ? r->stop : "null");
}

static void add_tail(struct anthropic_reply *r)
{
    if (r->events) {
        words(r, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{");
        add_stop(r);
        words(r, "},");
        add_usage(r);
        words(r, "}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    } else {
        words(r, "],");
        add_stop(r);
        words(r, ",");
        add_usage(r);
        words(r, "}\n");
    }
}

/* ---- blocks --------------------------------------------------------------------------- */

static void add_event(struct anthropic_reply *r, const char *name)
{
    words(r, "event: ");
    words(r, name);
    words(r, "\ndata: {\"type\":\"");
    words(r, name);
    words(r, "\",\"index\":");
    pieces_number(&r->out, r->index);
}

static void close_block(struct anthropic_reply *r)
{
    enum reply_block was = r->block;

    r->block = BLOCK_NONE;
    if (was == BLOCK_NONE) {
        return;
    }
    for (unsigned i = 0; i < r->call_n && was == BLOCK_CALL; i++) {
        r->call[i].state = r->call[i].state == CALL_OPEN ? CALL_OVER : r->call[i].state;
    }
    if (!r->events) {
        words(r, was == BLOCK_TEXT ? "\"}" : was == BLOCK_THINKING ? "\",\"signature\":\"" SIGNATURE "\"}" : "}");
    } else {
        if (was == BLOCK_THINKING) {
            add_event(r, "content_block_delta");
            words(r, ",\"delta\":{\"type\":\"signature_delta\",\"signature\":\"" SIGNATURE "\"}}\n\n");
        }
        add_event(r, "content_block_stop");
        words(r, "}\n\n");
    }
    r->index++;
}

/* Up to what stands inside of the block. */
static void open_block(struct anthropic_reply *r, enum reply_block block)
{
    static const char *const blocks[] = {[BLOCK_NONE] = "",
                                         [BLOCK_TEXT] = "{\"type\":\"text\",\"text\":\"",
                                         [BLOCK_THINKING] = "{\"type\":\"thinking\",\"thinking\":\"",
                                         [BLOCK_CALL] = "{\"type\":\"tool_use\",\"id\":"};
    reply_begin(r);
    close_block(r);
    r->block = block;
    if (r->events) {
        add_event(r, "content_block_start");
        words(r, ",\"content_block\":");
    } else {
        words(r, r->index > 0 ? "," : "");
    }
    words(r, blocks[block]);
    if (r->events && block != BLOCK_CALL) {
        words(r, "\"}}\n\n");
    }
}

/* ---- held ------------------------------------------------------------------------------- */

static const char *const full = "the backend's reply cannot be put in order: there is no room to hold its parts";

static int fail(struct anthropic_reply *r, const char *why)
{
    r->failure.status = 0;
    r->failure.too_long = false;
    str_copy(r->failure.message, sizeof(r->failure.message), str_of(why));
    return OLLA_ERR;
}

/* Puts bytes of the document into the store. */
static int hold(struct anthropic_reply *r, enum held_kind kind, uint32_t call, struct json_value v)
{
    struct held h = {.kind = kind, .call = call, .n = v.to - v.from};
    char bytes[1024];

    if (!r->held.add(r->held.of, (const char *)&h, sizeof(h))) {
        return fail(r, full);
    }
    r->held.n += sizeof(h) + h.n;
    while (v.from < v.to) {
        size_t n = json_copy(&r->doc, v.from, v.to, bytes, sizeof(bytes));
        if (n == 0 || !r->held.add(r->held.of, bytes, n)) {
            return fail(r, full);
        }
        v.from += n;
    }
    return 1;
}

/* The record at `at`, and where its bytes stand. false: there is none. */
static bool held_record(const struct anthropic_reply *r, uint64_t at, struct held *h, struct json_value *v)
{
    if (at >= r->held.n || json_copy(&r->held.read, at, r->held.n, (char *)h, sizeof(*h)) != sizeof(*h)) {
        return false;
    }
    *v = (struct json_value){at + sizeof(*h), at + sizeof(*h) + h->n, '"'};
    return true;
}

/* ---- texts -------------------------------------------------------------------------------- */

/* The block that is open may still get more. */
static bool is_pending(const struct anthropic_reply *r)
{
    for (unsigned i = 0; i < r->call_n && r->block == BLOCK_CALL; i++) {
        if (r->call[i].state == CALL_OPEN) {
            return !r->call[i].done && !r->ending;
        }
    }
    return false;
}

/* Nothing but blanks, as they are written in JSON. */
static bool is_blank(const struct anthropic_reply *r, struct json_value v)
{
    char bytes[64];
    size_t n = json_copy(&r->doc, v.from, v.to, bytes, sizeof(bytes));
    for (size_t i = 0; i < n; i++) {
        bool escaped = bytes[i] == '\\' && i + 1 < n && strchr("ntr", bytes[i + 1]);
        if (bytes[i] != ' ' && !escaped) {
            return false;
        }
        i += escaped;
    }
    return n < sizeof(bytes);
}

static void add_text(struct anthropic_reply *r, enum reply_block block, const struct json_source *of,
                     struct json_value v)
{
    bool hidden = block == BLOCK_THINKING && r->hide_thinking;

    if (r->block != block) {
        open_block(r, block);
    }
    r->any_content = true;
    r->bytes += v.to - v.from;
    if (hidden) {
        return;
    }
    if (r->events) {
        add_event(r, "content_block_delta");
        words(r, block == BLOCK_TEXT ? ",\"delta\":{\"type\":\"text_delta\",\"text\":\""
                                     : ",\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"");
        part(r, of, v);
        words(r, "\"}}\n\n");
    } else {
        part(r, of, v);
    }
}

static int tell_text(struct anthropic_reply *r, enum reply_block block, struct json_value v)
{
    if (is_empty(v) || (r->block == BLOCK_CALL && is_blank(r, v))) {
        return 1;
    }
    if (is_pending(r) || (r->events && r->held.n > r->held_at)) {
        return hold(r, block == BLOCK_TEXT ? HELD_TEXT : HELD_THINKING, 0, v);
    }
    add_text(r, block, &r->doc, v);
    return 1;
}

/* ---- calls ---------------------------------------------------------------------------------- */

static uint64_t hash_of(const struct anthropic_reply *r, struct json_value string)
{
    char bytes[128];
    struct json_value v = json_inner(string);
    size_t n = json_copy(&r->doc, v.from, v.to, bytes, sizeof(bytes));
    return n > 0 ? str_hash64(STR_HASH_START, (struct str){bytes, n}) | 1 : 0;
}

static struct reply_call *new_call(struct anthropic_reply *r, int64_t index)
{
    bool over = r->call_n == REPLY_CALLS && r->held.n == 0;
    for (unsigned i = 0; i + 1 < r->call_n && over; i++) {
        over = r->call[i].state == CALL_OVER;
    }
    if (over) { /* only the last one may get more */
        r->call[0] = r->call[r->call_n - 1];
        r->call_n = 1;
    }
    struct reply_call *c = r->call_n < REPLY_CALLS ? &r->call[r->call_n++] : NULL;
    if (c) {
        memset(c, 0, sizeof(*c));
        c->index = index;
    }
    return c;
}

/*
 * Which call an entry belongs to. Servers number them, or give all of them 0, or none; they give ids, or not; some
 * repeat id and name in every part.
 */
static struct reply_call *find_call(struct anthropic_reply *r, int64_t index, uint64_t id, uint64_t name)
{
    struct reply_call *last = NULL;

    for (unsigned i = r->call_n; i > 0 && !last; i--) {
        last = index < 0 || r->call[i - 1].index == index ? &r->call[i - 1] : NULL;
    }
    for (unsigned i = 0; i < r->call_n && id; i++) {
        if (r->call[i].id == id && (index < 0 || r->call[i].index == index)) {
            return &r->call[i];
        }
    }
    if (!last) {
        return new_call(r, index);
    }
    if (id) {
        bool same = last->id == 0 && !(last->done && name && last->name);
        return same ? last : new_call(r, index);
    }
    bool again = name && last->name; /* a name, although this one has one */
    bool other = last->done ? index < 0 || name != last->name : index < 0 && !last->any;
    return again && other ? new_call(r, index) : last;
}

/* One byte of the arguments. Whether they are JSON does not matter here, only where they end. */
static void follow(struct reply_call *c, char b)
{
    bool quote = b == '"' && !c->escaped;

    c->escaped = c->in_string && b == '\\' && !c->escaped;
    c->in_string = quote ? !c->in_string : c->in_string;
    if (!c->in_string) {
        c->depth += b == '{' || b == '[';
        c->done = (b == '}' || b == ']') && c->depth > 0 && --c->depth == 0;
    }
}

/* Follows the arguments, to know when they are complete. */
static void check_args(struct anthropic_reply *r, struct reply_call *c, struct json_value v)
{
    char bytes[512], out[8];
    while (v.from < v.to) {
        size_t n = json_copy(&r->doc, v.from, v.to, bytes, sizeof(bytes));
        if (n == 0) {
            return;
        }
        v.from += n;
        for (size_t i = 0; i < n; i++) {
            size_t some = json_unescape(&c->unescape, bytes[i], out);
            for (size_t k = 0; k < some && !c->done; k++) {
                follow(c, out[k]);
            }
        }
    }
}

static void add_args(struct anthropic_reply *r, const struct json_source *of, struct json_value v, bool object)
{
    if (is_empty(v)) {
        return;
    }
    add_event(r, "content_block_delta");
    words(r, ",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"");
    pieces_part(&r->out, of, v.from, v.to, object ? PIECE_QUOTED : PIECE_RAW);
    words(r, "\"}}\n\n");
}

/* Opens the block of a call; id may be absent. */
static void open_call(struct anthropic_reply *r, struct reply_call *c, const struct json_source *of,
                      struct json_value id, struct json_value name)
{
    open_block(r, BLOCK_CALL);
    c->state = CALL_OPEN;
    r->any_call = r->any_content = true;
    words(r, "\"");
    if (is_empty(id)) {
        add_id(r, "toolu_01");
    } else {
        part(r, of, id);
    }
    words(r, "\",\"name\":\"");
    part(r, of, name);
    words(r, r->events ? "\",\"input\":{}}}\n\n" : "\",\"input\":");
}

enum { E_INDEX = 0, E_ID, E_FUNCTION, E_COUNT };
static const char *const entry_keys[E_COUNT + 1] = {"index", "id", "function", NULL};
enum { F_NAME = 0, F_ARGS, F_COUNT };
static const char *const function_keys[F_COUNT + 1] = {"name", "arguments", NULL};

static int64_t index_of(const struct anthropic_reply *r, struct json_value v)
{
    char number[16];
    uint64_t n;
    size_t length = v.kind == '0' ? json_copy(&r->doc, v.from, v.to, number, sizeof(number)) : 0;
    return str_to_u64((struct str){number, length}, INT32_MAX, &n) == OLLA_OK ? (int64_t)n : -1;
}

static int hold_entry(struct anthropic_reply *r, struct reply_call *c, struct json_value id, struct json_value name,
                      struct json_value args, bool object)
{
    uint32_t no = (uint32_t)(c - r->call);
    int n = 1;

    c->state = CALL_HELD;
    n = is_empty(id) ? n : hold(r, HELD_ID, no, id);
    n = n == OLLA_ERR || is_empty(name) ? n : hold(r, HELD_NAME, no, name);
    return n == OLLA_ERR || is_empty(args) ? n : hold(r, object ? HELD_OBJECT : HELD_ARGS, no, args);
}

/* One entry of tool_calls, for a stream. */
static int tell_entry(struct anthropic_reply *r, struct json_value entry)
{
    struct json_value e[E_COUNT], f[F_COUNT];

    json_collect(&r->doc, entry, entry_keys, e);
    json_collect(&r->doc, e[E_FUNCTION], function_keys, f);
    bool object = f[F_ARGS].kind == '{';
    struct json_value id = json_inner(e[E_ID]), name = json_inner(f[F_NAME]),
                      args = object ? f[F_ARGS] : json_inner(f[F_ARGS]);
    uint64_t id_hash = hash_of(r, e[E_ID]), name_hash = hash_of(r, f[F_NAME]);
    struct reply_call *c = find_call(r, index_of(r, e[E_INDEX]), id_hash, name_hash);

    if (!c) {
        return fail(r, "the backend's reply has more tool calls than olla can keep apart");
    }
    bool new_id = id_hash && c->id == 0, new_name = name_hash && c->name == 0;
    c->id = new_id ? id_hash : c->id;
    c->name = new_name ? name_hash : c->name;
    if (c->state == CALL_OVER || c->done) {
        args = (struct json_value){0, 0, 0}; /* some repeat all of them at the end */
    }
    if (object && !is_empty(args)) {
        c->done = true;
    } else {
        check_args(r, c, args);
    }
    c->any = c->any || !is_empty(args);
    r->bytes += args.to - args.from;
    if (c->state == CALL_OPEN) {
        add_args(r, &r->doc, args, object);
        return 1;
    }
    if (c->state == CALL_OVER) {
        return 1;
    }
    if (c->state == CALL_NEW && new_name && !is_pending(r) && r->held.n <= r->held_at) {
        open_call(r, c, &r->doc, id, name);
        add_args(r, &r->doc, args, object);
        return 1;
    }
    return hold_entry(r, c, new_id ? id : (struct json_value){0, 0, 0}, new_name ? name : (struct json_value){0, 0, 0},
                      args, object);
}

/* What the arguments of a whole reply are: 'o' an object, 'e' empty, 'x' something else. */
static char kind_of_args(const struct anthropic_reply *r, struct json_value v)
{
    struct json_value inner = json_inner(v);
    struct json_unescape u = {0, 0, 0, false};
    struct json_check args;
    char word[8], bytes[512], out[8];

    if (v.kind == '{') {
        return 'o';
    }
    if (v.kind == 0 || v.kind == 'n') {
        return 'e';
    }
    if (v.kind != '"') {
        return 'x';
    }
    if (is_empty(inner) || (json_read(&r->doc, v, word, sizeof(word)) && strcmp(word, "null") == 0)) {
        return 'e';
    }
    json_check_start(&args, NULL, NULL);
    while (inner.from < inner.to) {
        size_t n = json_copy(&r->doc, inner.from, inner.to, bytes, sizeof(bytes));
        inner.from += n > 0 ? n : inner.to - inner.from;
        for (size_t i = 0; i < n; i++) {
            json_check_feed(&args, out, json_unescape(&u, bytes[i], out));
        }
        if (is_empty(inner)) { /* what was held back: half of a pair */
            json_check_feed(&args, out, json_unescape(&u, '"', out));
        }
    }
    return args.done && !args.bad ? 'o' : 'x';
}

/* One entry of tool_calls of a whole reply. */
static int tell_whole_call(struct anthropic_reply *r, struct json_value entry)
{
    static const struct json_value nothing = {0, 0, 0};
    struct json_value e[E_COUNT], f[F_COUNT];
    struct reply_call c = {.id = 0};

    json_collect(&r->doc, entry, entry_keys, e);
    json_collect(&r->doc, e[E_FUNCTION], function_keys, f);
    struct json_value id = json_inner(e[E_ID]), name = json_inner(f[F_NAME]), args = f[F_ARGS];
    char kind = kind_of_args(r, args);
    if (is_empty(name)) {
        return 1;
    }
    open_call(r, &c, &r->doc, id, name);
    bool string = kind == 'o' && args.kind == '"';
    struct json_value part = kind == 'e' ? nothing : string ? json_inner(args) : args;
    enum piece_how how = string ? PIECE_UNQUOTED : PIECE_RAW;
    r->bytes += part.to - part.from;
    if (r->events) {
        how = string ? PIECE_RAW : PIECE_QUOTED;
        add_event(r, "content_block_delta");
        words(r, ",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"");
        words(r, kind == 'x' ? "{\\\"_raw\\\":" : "");
    } else {
        words(r, kind == 'x' ? "{\"_raw\":" : "");
    }
    pieces_part(&r->out, &r->doc, part.from, part.to, how);
    words(r, kind == 'x' ? "}" : kind == 'e' ? "{}" : "");
    words(r, r->events ? "\"}}\n\n" : "");
    return 1;
}

/* ---- letting go ------------------------------------------------------------------------------ */

/* The id and the name of a call, as they are held. */
static bool held_call(const struct anthropic_reply *r, const struct reply_call *c, struct json_value *id,
                      struct json_value *name)
{
    struct held h;
    struct json_value v;
    uint64_t at = r->held_at;

    *id = *name = (struct json_value){0, 0, 0};
    while (held_record(r, at, &h, &v)) {
        if (&r->call[h.call] == c && h.kind == HELD_ID) {
            *id = v;
        } else if (&r->call[h.call] == c && h.kind == HELD_NAME) {
            *name = v;
        }
        at = v.to;
    }
    return !is_empty(*name);
}

/* The next part of the arguments of the call that was opened from the store. */
static int release_args(struct anthropic_reply *r)
{
    struct held h;
    struct json_value v;

    if (!held_record(r, r->release_at, &h, &v)) {
        r->releasing = NULL;
        return 1;
    }
    r->release_at = v.to;
    if (&r->call[h.call] == r->releasing && (h.kind == HELD_ARGS || h.kind == HELD_OBJECT)) {
        add_args(r, &r->held.read, v, h.kind == HELD_OBJECT);
    }
    return 1;
}

/* Tells something of what is held, if it is its turn. 0: there is nothing to tell now. */
static int release(struct anthropic_reply *r)
{
    struct held h;
    struct json_value v, id, name;

    if (r->releasing) {
        return release_args(r);
    }
    if (r->held.n == 0 || is_pending(r)) {
        return 0;
    }
    if (!held_record(r, r->held_at, &h, &v)) {
        r->held.clear(r->held.of);
        r->held.n = r->held_at = 0;
        return 0;
    }
    if (h.kind == HELD_TEXT || h.kind == HELD_THINKING) {
        add_text(r, h.kind == HELD_TEXT ? BLOCK_TEXT : BLOCK_THINKING, &r->held.read, v);
        r->held_at = v.to;
        return 1;
    }
    struct reply_call *c = &r->call[h.call];
    if (c->state == CALL_HELD && c->name && held_call(r, c, &id, &name)) {
        open_call(r, c, &r->held.read, id, name);
        r->releasing = c;
        r->release_at = r->held_at;
        return 1;
    }
    if (c->state == CALL_HELD && !r->ending) {
        return 0; /* its name has still to come */
    }
    r->held_at = v.to; /* told already, or never named */
    return 1;
}

/* ---- documents --------------------------------------------------------------------------------- */

enum { D_ERROR = 0, D_OBJECT, D_ERROR_TYPE, D_ERROR_MESSAGE, D_USAGE, D_CHOICES, D_COUNT };
static const char *const doc_keys[D_COUNT + 1] = {"error", "object",  "error_type", "error_message",
                                                  "usage", "choices", NULL};
enum { C_DELTA = 0, C_MESSAGE, C_FINISH, C_STOP, C_MATCHED, C_COUNT };
static const char *const choice_keys[C_COUNT + 1] = {"delta",       "message",      "finish_reason",
                                                     "stop_reason", "matched_stop", NULL};
enum { M_REASONING = 0, M_REASONING_CONTENT, M_CONTENT, M_REFUSAL, M_CALLS, M_COUNT };
static const char *const message_keys[M_COUNT + 1] = {"reasoning", "reasoning_content", "content",
                                                      "refusal",   "tool_calls",        NULL};

static void take_usage(struct anthropic_reply *r, struct json_value usage)
{
    static const char *const keys[] = {"prompt_tokens", "completion_tokens", "prompt_tokens_details", NULL};
    static const char *const detail_keys[] = {"cached_tokens", NULL};
    struct json_value v[3], cached;

    if (usage.kind != '{') {
        return;
    }
    json_collect(&r->doc, usage, keys, v);
    json_collect(&r->doc, v[2], detail_keys, &cached);
    uint64_t input = json_read_number(&r->doc, v[0]);
    r->has_usage = true;
    r->output = json_read_number(&r->doc, v[1]);
    r->cached = json_read_number(&r->doc, cached);
    r->cached = r->cached < input ? r->cached : input;
    r->input = input - r->cached;
}

static void take_finish(struct anthropic_reply *r, const struct json_value *c)
{
    static const struct {
        const char *word;
        enum reply_finish finish;
    } rows[] = {{"stop", FINISH_STOP},
                {"length", FINISH_LENGTH},
                {"tool_calls", FINISH_CALLS},
                {"function_call", FINISH_CALLS},
                {"content_filter", FINISH_FILTER}};
    char word[32];
    struct json_value stop = c[C_STOP].kind == '"' ? c[C_STOP] : c[C_MATCHED];
    struct json_value inner = json_inner(c[C_FINISH]);

    if (is_empty(inner)) {
        return;
    }
    r->finish = FINISH_OTHER;
    json_read(&r->doc, c[C_FINISH], word, sizeof(word));
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        r->finish = strcmp(rows[i].word, word) == 0 ? rows[i].finish : r->finish;
    }
    if (r->has_stops && stop.kind == '"' && stop.to - stop.from < sizeof(r->stop)) {
        r->stop[json_copy(&r->doc, stop.from, stop.to, r->stop, sizeof(r->stop) - 1)] = '\0';
    }
}

int reply_document(struct anthropic_reply *r)
{
    struct json_value top = {0, UINT64_MAX, '{'}, d[D_COUNT], c[C_COUNT], m[M_COUNT], first;
    char object[16];

    json_collect(&r->doc, top, doc_keys, d);
    json_read(&r->doc, d[D_OBJECT], object, sizeof(object));
    if ((d[D_ERROR].kind && d[D_ERROR].kind != 'n') || d[D_ERROR_TYPE].kind == '"' || d[D_ERROR_MESSAGE].kind == '"' ||
        strcmp(object, "error") == 0) {
        failure_read(&r->doc, &r->failure);
        return OLLA_ERR;
    }
    take_usage(r, d[D_USAGE]);
    uint64_t at = json_first(d[D_CHOICES]);
    if (d[D_CHOICES].kind != '[' || !json_next(&r->doc, &at, &first)) {
        return r->whole ? fail(r, "the backend's reply cannot be understood: it has no choices") : 0;
    }
    json_collect(&r->doc, first, choice_keys, c);
    struct json_value message = c[C_DELTA].kind == '{' ? c[C_DELTA] : c[C_MESSAGE];
    if (r->whole && message.kind != '{') {
        return fail(r, "the backend's reply cannot be understood: it has no message");
    }
    take_finish(r, c);
    json_collect(&r->doc, message, message_keys, m);
    r->thinking = json_inner(m[M_REASONING]);
    r->thinking = is_empty(r->thinking) ? json_inner(m[M_REASONING_CONTENT]) : r->thinking;
    r->content = m[M_CONTENT];
    r->refusal = json_inner(m[M_REFUSAL]);
    r->calls = m[M_CALLS];
    r->phase = THINKING;
    reply_begin(r);
    return 0;
}

/* The parts of a content that is an array. */
static int tell_content_part(struct anthropic_reply *r)
{
    static const char *const keys[] = {"text", NULL};
    struct json_value element, text;

    if (!json_next(&r->doc, &r->at, &element)) {
        r->phase = REFUSAL;
        return 1;
    }
    json_collect(&r->doc, element, keys, &text);
    return tell_text(r, BLOCK_TEXT, json_inner(text));
}

static int tell_call(struct anthropic_reply *r)
{
    struct json_value entry;
    if (r->calls.kind != '[' || !json_next(&r->doc, &r->at, &entry)) {
        r->phase = IDLE;
        return 1;
    }
    return r->whole ? tell_whole_call(r, entry) : tell_entry(r, entry);
}

int reply_step(struct anthropic_reply *r)
{
    int released = release(r);
    if (released != 0) {
        return released;
    }
    switch ((enum phase)r->phase) {
    case THINKING:
        r->phase = CONTENT;
        r->at = json_first(r->content);
        return tell_text(r, BLOCK_THINKING, r->thinking);
    case CONTENT:
        if (r->content.kind == '[') {
            return tell_content_part(r);
        }
        r->phase = REFUSAL;
        return tell_text(r, BLOCK_TEXT, json_inner(r->content));
    case REFUSAL:
        r->phase = CALLS;
        r->at = json_first(r->calls);
        r->refused = r->refused || !is_empty(r->refusal);
        return tell_text(r, BLOCK_TEXT, r->refusal);
    case CALLS:
        return tell_call(r);
    case LAST:
        close_block(r);
        r->phase = TAIL;
        return 1;
    case TAIL:
        reply_begin(r);
        add_tail(r);
        r->phase = IDLE;
        return 1;
    case IDLE:
        break;
    }
    return 0;
}

void reply_end(struct anthropic_reply *r)
{
    r->ending = true;
    r->phase = LAST;
}
