/*
 * telling.h - drives the translation of messages as the program does, with documents and stores in memory.
 *
 * Used by unit tests and fuzz targets. What src/messages.c decides (when a frame is complete, when a failure is one) is
 * done here in the same order; what a client gets is the bytes told, and whether they ended in a failure.
 */
#ifndef OLLA_TEST_TELLING_H
#define OLLA_TEST_TELLING_H

#include "windows.h"

#include "../../src/anthropic.h"
#include "../../src/anthropic_reply.h"
#include "../../src/sse.h"

/* ---- requests ------------------------------------------------------------------- */

/* Servers that know nothing beyond the common core, and one that knows all. */
static const struct profile profile_plain = {.name = "plain"};
static const struct profile profile_rich = {.name = "rich",
                                            .think_field = "reasoning_content",
                                            .think_off = "\"chat_template_kwargs\":{\"enable_thinking\":false}",
                                            .knows_top_k = true,
                                            .knows_effort = true,
                                            .no_null_content = true};

struct request_told {
    struct windows body;
    struct anthropic_request request;
    struct json_check check;
    const char *refused; /* what anthropic_check says, or what the telling says; NULL = it was told */
    uint64_t length;
    struct output out;
    char error[ANTHROPIC_ERROR];
};

static inline void request_check(struct request_told *t, const char *doc, size_t n, size_t window, bool to_count)
{
    memset(t, 0, sizeof(*t));
    t->body = (struct windows){doc, n, window, 0, false};
    t->request.body = windows_source(&t->body);
    json_check_start(&t->check, anthropic_keys, t->request.top);
    json_check_feed(&t->check, doc, n);
    t->refused = anthropic_check(&t->request, &t->check, to_count);
    ENSURE(!t->body.failed);
}

/* Its length first, then its bytes with so much room at a time. */
static inline void request_tell(struct request_told *t, const struct profile *to, const char *model, size_t room)
{
    static struct anthropic_telling telling;
    char *mem = malloc(room);
    int n;

    ENSURE(mem);
    anthropic_tell_start(&telling, &t->request, to, str_of(model));
    while ((n = anthropic_tell_step(&telling)) == 1) {
        ENSURE(!telling.out.full);
        t->length += pieces_count(&telling.out);
        ENSURE(pieces_empty(&telling.out));
    }
    if (n == OLLA_ERR) {
        str_copy(t->error, sizeof(t->error), str_of(telling.error));
        ENSURE(t->error[0]);
        t->refused = t->error;
    }
    anthropic_tell_start(&telling, &t->request, to, str_of(model));
    while (!t->refused && anthropic_tell_step(&telling) == 1) {
        while (!pieces_empty(&telling.out)) {
            size_t some = pieces_take(&telling.out, mem, room);
            ENSURE(some <= room && (some > 0 || pieces_empty(&telling.out)));
            output_add(&t->out, mem, some);
        }
        ENSURE(!telling.out.full);
    }
    ENSURE(t->refused || t->out.n == t->length);
    ENSURE(!t->body.failed);
    free(mem);
}

static inline uint64_t request_estimate(struct request_told *t)
{
    static struct anthropic_estimate e;
    anthropic_estimate_start(&e, &t->request);
    while (anthropic_estimate_step(&e)) {
    }
    ENSURE(!t->body.failed);
    return anthropic_estimate_tokens(&e);
}

/* ---- replies ---------------------------------------------------------------------- */

struct memory {
    struct output bytes;
    struct windows w;
    size_t limit; /* 0 = there is none */
};

struct reply_told {
    /* input */
    bool frames;                /* the backend sends a stream */
    bool events;                /* the client wants one */
    size_t cut;                 /* bytes that arrive at a time; 0 = all */
    size_t window, room, limit; /* of the documents; of the client; of what is held */
    bool hide_thinking, has_stops;
    const char *model;
    uint64_t estimate;

    /* results */
    struct output out;
    bool failed, told;
    int status;
    char message[FAILURE_MESSAGE + 64];
    uint64_t length; /* of a plain reply, as it was counted */

    /* state */
    struct anthropic_reply reply;
    struct sse sse;
    struct json_check frame;
    struct memory doc, held;
    bool document, telling, over, ending;
    struct str plain;
};

static inline bool memory_add(void *of, const char *p, size_t n)
{
    struct memory *m = of;
    if (m->limit && n > m->limit - m->bytes.n) {
        return false;
    }
    output_add(&m->bytes, p, n);
    m->w.p = m->bytes.p;
    m->w.n = m->bytes.n;
    return true;
}

static inline void memory_clear(void *of)
{
    struct memory *m = of;
    output_clear(&m->bytes);
    m->w.p = NULL;
    m->w.n = 0;
}

static inline void reply_fail(struct reply_told *t, int status, const char *message)
{
    t->failed = true;
    t->status = status;
    (void)snprintf(t->message, sizeof(t->message), "%s", message);
}

static inline void reply_fail_as_told(struct reply_told *t, struct failure f)
{
    failure_name_overflow(&f);
    reply_fail(t,
               f.too_long     ? 400
               : f.status > 0 ? f.status
                              : 502,
               f.message[0] ? f.message : "the backend says that something went wrong");
}

static inline void reply_fail_in_words(struct reply_told *t, int status)
{
    struct failure f;

    failure_in_words(&t->reply.doc, t->doc.w.n, t->frame.done && !t->frame.bad, &f);
    failure_name_overflow(&f);
    reply_fail(t, f.too_long ? 400 : f.status > 0 ? f.status : status, f.message[0] ? f.message : "Bad Gateway");
}

static inline void reply_begin_document(struct reply_told *t)
{
    memory_clear(&t->doc);
    json_check_start(&t->frame, NULL, NULL);
}

static inline bool reply_tell_document(struct reply_told *t)
{
    t->telling = true;
    if (reply_document(&t->reply) == OLLA_ERR) {
        reply_fail_as_told(t, t->reply.failure);
        return false;
    }
    return true;
}

static inline bool reply_tell_plain(struct reply_told *t)
{
    struct anthropic_reply *to = &t->reply;

    for (int round = 0; round < 2; round++) {
        int n;
        reply_start(to);
        if (!reply_tell_document(t)) {
            return false;
        }
        if (round > 0) {
            break;
        }
        t->length = pieces_count(&to->out);
        while ((n = reply_step(to)) == 1) {
            t->length += pieces_count(&to->out);
        }
        reply_end(to);
        while (n == 0 && reply_step(to) == 1) {
            t->length += pieces_count(&to->out);
        }
    }
    return true;
}

static inline bool reply_end_frame(struct reply_told *t, bool complete)
{
    char word[8];
    bool json = t->frame.done && !t->frame.bad;

    if (strcmp(t->sse.event, "error") == 0 && t->doc.w.n > 0 && (json || complete)) {
        reply_fail_in_words(t, 502);
        return false;
    }
    if (json) {
        return reply_tell_document(t);
    }
    if (t->doc.w.n >= 6 && t->doc.w.n < 64 && json_copy(&t->reply.doc, 0, t->doc.w.n, word, 6) == 6 &&
        memcmp(word, "[DONE]", 6) == 0) {
        t->over = true;
        complete = true;
    }
    if (complete) {
        reply_begin_document(t);
    } else if (t->doc.w.n > 0) {
        memory_add(&t->doc, "\n", 1);
        json_check_feed(&t->frame, "\n", 1);
    }
    return true;
}

static inline void reply_collect(struct reply_told *t, struct str bytes)
{
    while (t->doc.w.n == 0 && bytes.n > 0 && strchr(" \n\r\t", bytes.p[0]) && bytes.p[0]) {
        bytes = str_skip(bytes, 1);
    }
    json_check_feed(&t->frame, bytes.p, bytes.n);
    if (bytes.n > 0) {
        memory_add(&t->doc, bytes.p, bytes.n);
    }
}

static inline bool reply_feed(struct reply_told *t)
{
    struct str data = t->plain;

    if (t->document) {
        t->plain.n = 0;
        reply_collect(t, data);
        return true;
    }
    while (t->plain.n > 0 && !t->telling && !t->over) {
        enum sse_got got = sse_next(&t->sse, &t->plain, &data);
        if (got == SSE_DATA) {
            reply_collect(t, data);
        } else if (got != SSE_MORE && !reply_end_frame(t, got == SSE_EVENT)) {
            return false;
        }
    }
    t->plain.n = t->over ? 0 : t->plain.n;
    return true;
}

static inline bool reply_finish(struct reply_told *t)
{
    struct anthropic_reply *to = &t->reply;
    bool whole = t->frame.done && !t->frame.bad;

    if (!to->events && !t->document && !to->told) {
        reply_fail(t, 502, "the backend sent a stream although none was asked for");
        return false;
    }
    if (t->document && !whole) {
        reply_fail(t, 502, "the backend's reply cannot be understood: it is not JSON");
        return false;
    }
    if (t->document) {
        t->document = false;
        t->over = true;
        return to->events ? reply_tell_document(t) : reply_tell_plain(t);
    }
    if (whole && !t->over) {
        t->over = to->finish != FINISH_NONE;
        return reply_tell_document(t);
    }
    if (!t->over && to->finish == FINISH_NONE) {
        reply_fail(t, 502, "the backend closed the stream before its end");
        return false;
    }
    t->ending = true;
    reply_end(to);
    t->telling = true;
    return true;
}

/* One turn. false: it is over, one way or the other. */
static inline bool reply_turn(struct reply_told *t, struct str *input)
{
    struct anthropic_reply *to = &t->reply;

    if (t->telling) {
        int n = reply_step(to);
        ENSURE(!to->out.full);
        if (n == OLLA_ERR) {
            reply_fail_as_told(t, to->failure);
            return false;
        }
        if (n == 0) {
            ENSURE(pieces_empty(&to->out));
            t->telling = false;
            reply_begin_document(t);
            return !t->ending;
        }
        return true;
    }
    if (t->plain.n > 0) {
        return reply_feed(t);
    }
    if (input->n > 0 && !t->over) {
        size_t n = t->cut && t->cut < input->n ? t->cut : input->n;
        t->plain = (struct str){input->p, n};
        *input = str_skip(*input, n);
        return true;
    }
    return reply_finish(t);
}

static inline void reply_clear(struct reply_told *t)
{
    output_clear(&t->out);
    memory_clear(&t->doc);
    memory_clear(&t->held);
}

/* Zero-fill *t but for its input. */
static inline void reply_tell(struct reply_told *t, const char *p, size_t n)
{
    struct anthropic_reply *to = &t->reply;
    struct str input = {p, n};
    size_t room = t->room ? t->room : 4096;
    char *mem = malloc(room);

    ENSURE(mem && room >= 8);
    t->document = !t->frames;
    t->doc.w.size = t->held.w.size = t->window;
    t->held.limit = t->limit;
    to->model = str_of(t->model ? t->model : "m");
    to->events = t->events;
    to->whole = t->document;
    to->hide_thinking = t->hide_thinking;
    to->has_stops = t->has_stops;
    to->estimate = t->estimate;
    to->doc = windows_source(&t->doc.w);
    to->held = (struct reply_store){memory_add, memory_clear, &t->held, windows_source(&t->held.w), 0};
    reply_start(to);
    reply_begin_document(t);
    do {
        while (!pieces_empty(&to->out)) {
            size_t some = pieces_take(&to->out, mem, room);
            ENSURE(some <= room && (some > 0 || pieces_empty(&to->out)));
            output_add(&t->out, mem, some);
        }
        ENSURE(!to->out.full && !t->doc.w.failed && !t->held.w.failed);
    } while (reply_turn(t, &input));
    t->told = to->told;
    ENSURE(t->failed ? t->message[0] != '\0' : t->ending);
    ENSURE(!t->failed || !t->out.n || t->told);
    ENSURE(t->events || t->failed || t->out.n == t->length);
    ENSURE(t->events || !t->failed || t->out.n == 0);
    free(mem);
}

/* ---- what clients insist on in a stream ------------------------------------------------ */

static inline bool is_json(const char *p, size_t n)
{
    struct json_check c;
    json_check_start(&c, NULL, NULL);
    json_check_feed(&c, p, n);
    return c.done && !c.bad;
}

struct protocol {
    struct output said; /* the events in short, if not NULL */
    bool started, pinged, ended, last;
    uint64_t index;
    char open; /* the first letter of the type of the block that is: 't', 'h' thinking, 'u' tool_use */
};

static inline void protocol_word(struct json_source *s, struct json_value v, char *to, size_t cap)
{
    ENSURE(json_read(s, v, to, cap));
}

static inline void protocol_raw(struct protocol *c, const char *data, struct json_value v)
{
    output_add(&c->said, data + v.from, (size_t)(v.to - v.from));
}

static inline void protocol_start(struct protocol *c, struct json_source *s, const char *data, struct json_value block)
{
    static const char *const keys[] = {"type", "text", "thinking", "id", "name", "input", NULL};
    struct json_value v[6];
    char type[16];

    json_collect(s, block, keys, v);
    protocol_word(s, v[0], type, sizeof(type));
    c->open = strcmp(type, "text") == 0 ? 't' : strcmp(type, "thinking") == 0 ? 'h' : 'u';
    ENSURE(c->open != 't' || (v[1].kind == '"' && v[1].to - v[1].from == 2));
    ENSURE(c->open != 'h' || (v[2].kind == '"' && v[2].to - v[2].from == 2));
    if (c->open == 'u') {
        ENSURE(strcmp(type, "tool_use") == 0 && v[3].kind == '"' && v[3].to - v[3].from > 2);
        ENSURE(v[4].kind == '"' && v[4].to - v[4].from > 2 && v[5].kind == '{' && v[5].to - v[5].from == 2);
    }
    output_z(&c->said, c->open == 't' ? " +text" : c->open == 'h' ? " +think" : " +tool(");
    if (c->open == 'u') {
        bool made = v[3].to - v[3].from > 10 && memcmp(data + v[3].from, "\"toolu_01", 9) == 0;
        if (made) {
            output_z(&c->said, "made");
        } else {
            protocol_raw(c, data, json_inner(v[3]));
        }
        output_z(&c->said, ",");
        protocol_raw(c, data, json_inner(v[4]));
        output_z(&c->said, ")");
    }
}

static inline void protocol_delta(struct protocol *c, struct json_source *s, const char *data, struct json_value delta)
{
    static const char *const keys[] = {"type", "text", "thinking", "partial_json", "signature", NULL};
    static const char *const types[] = {"text_delta", "thinking_delta", "input_json_delta", "signature_delta"};
    struct json_value v[5];
    char type[24];
    size_t i = 0;

    json_collect(s, delta, keys, v);
    protocol_word(s, v[0], type, sizeof(type));
    while (i < 4 && strcmp(types[i], type) != 0) {
        i++;
    }
    ENSURE(i < 4 && "thuh"[i] == c->open && v[i + 1].kind == '"' && v[i + 1].to - v[i + 1].from > 2);
    output_z(&c->said, " ");
    if (i == 3) {
        output_z(&c->said, "sig");
    } else {
        protocol_raw(c, data, json_inner(v[i + 1]));
    }
}

static inline void protocol_end(struct protocol *c, struct json_source *s, const char *data, struct json_value delta,
                                struct json_value usage)
{
    static const char *const keys[] = {"stop_reason", "stop_sequence", NULL};
    static const char *const counts[] = {"input_tokens", "output_tokens", "cache_read_input_tokens",
                                         "cache_creation_input_tokens", NULL};
    struct json_value v[2], n[4];

    json_collect(s, delta, keys, v);
    json_collect(s, usage, counts, n);
    ENSURE(v[0].kind == '"' && (v[1].kind == '"' || v[1].kind == 'n'));
    ENSURE(n[0].kind == '0' && n[1].kind == '0' && n[2].kind == '0' && n[3].kind == '0');
    output_z(&c->said, " D(");
    protocol_raw(c, data, json_inner(v[0]));
    output_z(&c->said, v[1].kind == '"' ? "," : "");
    protocol_raw(c, data, v[1].kind == '"' ? v[1] : (struct json_value){0, 0, 0});
    for (size_t i = 0; i < 3; i++) {
        output_z(&c->said, i > 0 ? "/" : " ");
        protocol_raw(c, data, n[i]);
    }
    output_z(&c->said, ")");
}

static inline void protocol_event(struct protocol *c, const char *name, const char *data, size_t n)
{
    enum { TYPE = 0, INDEX, BLOCK, DELTA, USAGE, MESSAGE, COUNT };
    static const char *const keys[COUNT + 1] = {"type", "index", "content_block", "delta", "usage", "message", NULL};
    struct windows w = {data, n, 0, 0, false};
    struct json_source s = windows_source(&w);
    struct json_value v[COUNT], all = {0, n, '{'};
    char type[32], index[16] = "";

    ENSURE(is_json(data, n));
    json_collect(&s, all, keys, v);
    protocol_word(&s, v[TYPE], type, sizeof(type));
    ENSURE(strcmp(type, name) == 0);
    ENSURE(!c->last && c->started == (strcmp(name, "message_start") != 0));
    if (strncmp(name, "content_block_", 14) == 0) {
        ENSURE(v[INDEX].kind == '0' && !c->ended);
        index[json_copy(&s, v[INDEX].from, v[INDEX].to, index, sizeof(index) - 1)] = '\0';
        ENSURE((uint64_t)strtoull(index, NULL, 10) == c->index);
        ENSURE((c->open == '\0') == (strcmp(name, "content_block_start") == 0));
    }
    if (strcmp(name, "message_start") == 0) {
        ENSURE(v[MESSAGE].kind == '{');
        c->started = true;
        output_z(&c->said, "S");
    } else if (strcmp(name, "content_block_start") == 0) {
        protocol_start(c, &s, data, v[BLOCK]);
    } else if (strcmp(name, "content_block_delta") == 0) {
        protocol_delta(c, &s, data, v[DELTA]);
    } else if (strcmp(name, "content_block_stop") == 0) {
        c->open = '\0';
        c->index++;
        output_z(&c->said, " -");
    } else if (strcmp(name, "message_delta") == 0) {
        ENSURE(!c->ended && !c->open);
        c->ended = true;
        protocol_end(c, &s, data, v[DELTA], v[USAGE]);
    } else if (strcmp(name, "message_stop") == 0) {
        ENSURE(c->ended);
        c->last = true;
        output_z(&c->said, " E");
    } else {
        ENSURE(strcmp(name, "ping") == 0 && !c->pinged);
        c->pinged = true;
    }
    ENSURE(!w.failed);
}

/* The events of a stream in short; all of them, or the beginning of what failed. */
static inline void protocol_read(struct protocol *c, const char *p, size_t n, bool failed)
{
    memset(c, 0, sizeof(*c));
    output_z(&c->said, "");
    while (n > 0) {
        char name[32];
        const char *line = memchr(p, '\n', n);
        ENSURE(line && n > 7 && memcmp(p, "event: ", 7) == 0 && (size_t)(line - p) - 7 < sizeof(name));
        memcpy(name, p + 7, (size_t)(line - p) - 7);
        name[(size_t)(line - p) - 7] = '\0';
        n -= (size_t)(line + 1 - p);
        p = line + 1;
        line = memchr(p, '\n', n);
        ENSURE(line && n > 6 && memcmp(p, "data: ", 6) == 0 && !memchr(p, '\r', (size_t)(line - p)));
        protocol_event(c, name, p + 6, (size_t)(line - p) - 6);
        n -= (size_t)(line + 1 - p);
        p = line + 1;
        ENSURE(n > 0 && *p == '\n');
        n--;
        p++;
    }
    ENSURE(failed || c->last);
}

#endif
