/*
 * messages_reply.c - level 6: the reply to a request that was told in OpenAI's words: from a backend's bytes to
 * documents, from documents (anthropic_reply.h) to the client's bytes; see messages.h.
 *
 * Nothing goes down before it is known what it is: until then an error is an error reply (x->headless).
 *
 * May include: olla.h, levels 1 to 5, exchange.h, messages_state.h.
 */
#include <string.h>

#include "log.h"
#include "messages.h"
#include "messages_state.h"

/* So long the first frame of a stream may take before the head goes down without it. */
#define HEAD_MS 5000
/* So long the end of the backend's bytes may come behind the end of what they say: then its connection is kept. */
#define LATE_MS 50
/* Framing of a piece for the client. */
#define FRAMING 8
/* What a client reads when a reply cannot be kept as far as it must be. */
#define NO_ROOM "the backend's reply is too long to be translated, or olla has no room for it (proxy.spool_dir)"
/* Bytes of an error reply that are looked at. */
#define ERROR_MAX 16384

/* ---- the reply's head ---------------------------------------------------------------------------- */

static void begin_document(struct messages *m)
{
    store_clear(&m->doc);
    json_check_start(&m->frame, NULL, NULL);
}

void messages_take_head(struct exchange *x, const struct http_response *r)
{
    struct messages *m = x->messages;
    struct anthropic_reply *to = &m->now.reply;
    struct str retry = http_response_get(r, HTTP_RETRY_AFTER), should = http_response_get(r, HTTP_X_SHOULD_RETRY);
    uint64_t wait = 0;

    memset(to, 0, sizeof(*to));
    to->model = str_of(x->scan.model);
    to->events = m->stream;
    to->hide_thinking = m->hide_thinking;
    to->has_stops = m->has_stops;
    to->estimate = m->estimate;
    plat_random(to->random, sizeof(to->random));
    to->doc = (struct json_source){store_bytes, &m->doc.body, &m->doc.failed};
    to->held = (struct reply_store){store_add, store_clear, &m->held, {store_bytes, &m->held.body, &m->held.failed}, 0};
    reply_start(to);
    begin_document(m);
    m->status = r->status < 400 ? 502 : r->status;
    m->kind = r->status < 200 || r->status >= 300                      ? REPLY_ERROR
              : str_istarts(r->content_type, STR("text/event-stream")) ? REPLY_FRAMES
                                                                       : REPLY_DOCUMENT;
    m->retry_after = http_retry_after(retry, net_wall(), &wait) ? (unsigned)((wait + 999) / 1000) : 0;
    m->should_retry = str_ieq(should, STR("true")) ? 't' : str_ieq(should, STR("false")) ? 'f' : '\0';
    to->whole = m->kind == REPLY_DOCUMENT;
    m->head_due = net_now() + HEAD_MS;
    if (m->fell_back && m->kind != REPLY_ERROR && x->use.generation == x->e->generation) {
        x->e->no_messages = true; /* now it is known that this way works */
        log_line(LOG_INFO, "no Messages API there, its requests are translated", "endpoint", str_of(x->e->name), NULL,
                 STR(""));
    }
    x->headless = !x->committed;
}

/* ---- out -------------------------------------------------------------------------------------------- */

static void begin_reply(struct exchange *x)
{
    bool events = x->messages->now.reply.events;
    if (events) {
        reply_begin_translated(x, "text/event-stream", UINT64_MAX);
    } else {
        reply_begin_translated(x, "application/json", x->messages->length_down);
    }
    exchange_forget_head(x);
    x->events = events ? EVENTS_SSE : EVENTS_NONE;
}

/* Writes what is told, framed for this client. false: no room now. */
static bool write_out(struct exchange *x)
{
    struct pieces *p = &x->messages->now.reply.out;
    struct buf *out = &x->c->out;

    while (!pieces_empty(p)) {
        if (!exchange_hold(x, out, BUF_CLIENT)) {
            return false;
        }
        buf_compact(out);
        if (buf_room(out) < (x->headless ? OLLA_BUF_SIZE / 2 : ROOM_MIN)) {
            return false;
        }
        if (x->headless) {
            begin_reply(x);
        }
        size_t room = buf_room(out), before = x->chunked_out ? 6 : 0;
        char *to = buf_tail(out);
        size_t n = pieces_take(p, to + before, room - FRAMING);
        if (n == 0) {
            return pieces_empty(p);
        }
        if (x->chunked_out) {
            struct text t = text_in(to, before);
            text_hex(&t, n, 4);
            text_addz(&t, "\r\n");
            memcpy(to + before + n, "\r\n", 2);
        }
        inspector_reply(x, to + before, n);
        buf_added(out, n + (x->chunked_out ? FRAMING : 0));
        x->bytes_out += n;
        x->newlines = pieces_empty(p) ? 2 : 0;
    }
    return true;
}

/* An error reply while nothing of a reply is down, else an error event and a broken end. */
static void fail(struct exchange *x, int status, const char *message)
{
    struct messages *m = x->messages;
    struct reply_error err = {.status = status,
                              .code = "backend_error",
                              .message = message,
                              .retry_after = m->retry_after,
                              .should_retry = m->should_retry};

    enum end_who who = status >= 500 ? END_SERVER : END_NOBODY;

    x->backend_status = x->broken = status;
    if (!x->headless && (!x->committed || m->now.reply.told)) {
        exchange_truncate(x, who, PHASE_DATA, message);
        x->error = "the backend told of an error in its reply"; /* its own words do not live as long */
        return;
    }
    attempt_drop_upstream(x);
    x->headless = false;
    x->who = who;
    reply_error(x, &err);
}

static void fail_as_told(struct exchange *x, const struct failure *f)
{
    struct failure told = *f;
    failure_name_overflow(&told);
    fail(x,
         told.too_long     ? 400
         : told.status > 0 ? told.status
                           : 502,
         told.message[0] ? told.message : "the backend says that something went wrong");
}

/* What has been collected says what went wrong, in whatever form. status: if it does not name one. */
static void fail_in_words(struct exchange *x, int status)
{
    struct messages *m = x->messages;
    struct failure f;

    failure_in_words(&m->now.reply.doc, m->doc.body.n, m->frame.done && !m->frame.bad, &f);
    failure_name_overflow(&f);
    if (!f.message[0]) {
        str_copy(f.message, sizeof(f.message), str_of(http_reason(status)));
    }
    bool told = m->kind == REPLY_FRAMES && f.status > 0;
    fail(x, f.too_long ? 400 : told ? f.status : status, f.message);
}

/* ---- in ---------------------------------------------------------------------------------------------- */

/* The document that has been collected is told from now on. false: failed. */
static bool tell_document(struct exchange *x)
{
    struct messages *m = x->messages;
    struct anthropic_reply *to = &m->now.reply;

    m->telling = true;
    if (reply_document(to) == OLLA_ERR) {
        fail_as_told(x, &to->failure);
        return false;
    }
    return true;
}

/* A whole reply for a client that wants no stream: its length first. */
static bool tell_plain(struct exchange *x)
{
    struct anthropic_reply *to = &x->messages->now.reply;
    uint64_t length = 0;

    /* Its beginning is told again after this, so it must not have gone down: nothing has. */
    for (int round = 0; round < 2; round++) {
        reply_start(to);
        if (!tell_document(x)) {
            return false;
        }
        if (round == 0) {
            int n;
            length = pieces_count(&to->out);
            while ((n = reply_step(to)) == 1) {
                length += pieces_count(&to->out);
            }
            reply_end(to);
            while (n == 0 && reply_step(to) == 1) {
                length += pieces_count(&to->out);
            }
        }
    }
    x->messages->length_down = length;
    return true;
}

/* The end of a frame, or of a line that may be one. */
static bool end_frame(struct exchange *x, bool complete)
{
    struct messages *m = x->messages;
    struct body *b = &m->doc.body;
    char word[8];

    bool json = m->frame.done && !m->frame.bad;
    if (strcmp(m->sse.event, "error") == 0 && b->n > 0 && (json || complete)) {
        fail_in_words(x, 502);
        return false;
    }
    if (json) {
        return tell_document(x);
    }
    if (b->n >= 6 && b->n < 64 && json_copy(&m->now.reply.doc, 0, b->n, word, 6) == 6 &&
        memcmp(word, "[DONE]", 6) == 0) {
        m->over = true;
        complete = true;
    }
    if (complete) {
        begin_document(m);
    } else if (b->n > 0 && !store_add(&m->doc, "\n", 1)) { /* one event, several lines */
        fail(x, 502, NO_ROOM);
        return false;
    } else if (b->n > 0) {
        json_check_feed(&m->frame, "\n", 1);
    }
    return true;
}

static bool collect(struct exchange *x, struct str bytes)
{
    struct messages *m = x->messages;

    while (m->doc.body.n == 0 && bytes.n > 0 &&
           (bytes.p[0] == ' ' || bytes.p[0] == '\n' || bytes.p[0] == '\r' || bytes.p[0] == '\t')) {
        bytes = str_skip(bytes, 1);
    }
    json_check_feed(&m->frame, bytes.p, bytes.n);
    if (bytes.n > 0 && !store_add(&m->doc, bytes.p, bytes.n)) {
        fail(x, 502, NO_ROOM);
        return false;
    }
    return true;
}

/* Looks at decoded bytes until there is something to tell. false: the exchange has another state. */
static bool feed(struct exchange *x)
{
    struct messages *m = x->messages;
    struct str data;

    if (m->kind != REPLY_FRAMES) {
        uint64_t left = m->kind == REPLY_ERROR ? ERROR_MAX - m->doc.body.n : m->plain.n;
        data = (struct str){m->plain.p, m->plain.n < left ? m->plain.n : (size_t)left};
        m->plain.n = 0;
        return data.n == 0 || collect(x, data);
    }
    while (m->plain.n > 0 && !m->telling && !m->over) {
        switch (sse_next(&m->sse, &m->plain, &data)) {
        case SSE_DATA:
            if (!collect(x, data)) {
                return false;
            }
            break;
        case SSE_LINE:
            if (!end_frame(x, false)) {
                return false;
            }
            break;
        case SSE_EVENT:
            if (!end_frame(x, true)) {
                return false;
            }
            break;
        case SSE_MORE:
            break;
        }
    }
    m->plain.n = m->over ? 0 : m->plain.n;
    return true;
}

/* No more bytes come. false: the exchange has another state. */
static bool finish_reply(struct exchange *x)
{
    struct messages *m = x->messages;
    struct anthropic_reply *to = &m->now.reply;
    bool whole = m->frame.done && !m->frame.bad;

    if (m->kind == REPLY_ERROR) {
        fail_in_words(x, m->status);
        return false;
    }
    if (m->kind == REPLY_DOCUMENT && !whole) {
        fail(x, 502, "the backend's reply cannot be understood: it is not JSON");
        return false;
    }
    if (m->kind == REPLY_DOCUMENT) {
        m->kind = REPLY_FRAMES; /* told like one frame; and no more come */
        m->over = true;
        return to->events ? tell_document(x) : tell_plain(x);
    }
    if (whole && !m->over) { /* a last line without its end */
        return tell_document(x);
    }
    if (!m->over && to->finish == FINISH_NONE) {
        if (m->doc.body.n > 0) {
            begin_document(m);
        }
        fail(x, 502, "the backend closed the stream before its end");
        return false;
    }
    m->ending = true;
    reply_end(to);
    m->telling = true;
    return true;
}

/* Takes what is in u->in, decoded, to m->plain, and gives back what was looked at. 1: something came, 0: nothing. */
static int decode(struct exchange *x)
{
    struct messages *m = x->messages;
    struct buf *in = &x->u->in;
    size_t decoded;

    buf_consume(in, m->used);
    m->used = 0;
    if (buf_len(in) == 0 || x->out_body.done) {
        return 0;
    }
    long used = http_body_decode(&x->out_body, in->mem + in->off, buf_len(in), &decoded);
    if (used < 0) {
        return OLLA_ERR;
    }
    relay_note_bytes(x, in->mem + in->off, decoded);
    m->plain = (struct str){in->mem + in->off, m->over ? 0 : decoded};
    m->used = (size_t)used;
    return used > 0 || decoded > 0;
}

/* Tells a little of the document. false: the exchange has another state. */
static bool tell(struct exchange *x)
{
    struct messages *m = x->messages;
    int n = reply_step(&m->now.reply);

    if (m->doc.failed || m->held.failed) {
        fail(x, 502, "the part of the backend's reply that was kept cannot be read (proxy.spool_dir)");
        return false;
    }
    if (n == OLLA_ERR) {
        fail_as_told(x, &m->now.reply.failure);
        return false;
    }
    if (n == 0) {
        m->telling = false;
        begin_document(m);
        m->told = m->ending;
        m->late_at = net_now() + LATE_MS;
    }
    return true;
}

int messages_relay(struct exchange *x)
{
    struct messages *m = x->messages;

    if (m->kind == REPLY_FRAMES && !m->now.reply.events && !m->over) {
        fail(x, 502, "the backend sent a stream although none was asked for");
        return OLLA_AGAIN;
    }
    for (;;) {
        if (!write_out(x)) {
            return OLLA_AGAIN;
        }
        if (m->telling || m->plain.n > 0) {
            if (m->telling ? !tell(x) : !feed(x)) {
                return OLLA_AGAIN;
            }
            continue;
        }
        int came = decode(x);
        if (came == OLLA_ERR) {
            return OLLA_ERR;
        }
        if (came == 1) {
            continue;
        }
        if (m->told) {
            return x->out_body.done || net_now() >= m->late_at ? OLLA_OK : OLLA_AGAIN;
        }
        if ((!x->out_body.done && !m->over) || !finish_reply(x)) {
            return OLLA_AGAIN;
        }
    }
}

bool messages_pending(const struct exchange *x)
{
    const struct messages *m = x->messages;
    return x->translated && m && (!pieces_empty(&m->now.reply.out) || m->telling || m->plain.n > 0);
}

uint64_t messages_at(const struct exchange *x)
{
    const struct messages *m = x->messages;
    if (!x->translated || x->state != X_STREAM) {
        return 0;
    }
    if (m->told) {
        return net_now() < m->late_at ? m->late_at : 0; /* later it waits for room only, which comes by itself */
    }
    bool silent = x->headless && m->now.reply.events && m->kind == REPLY_FRAMES && !m->now.reply.told;
    return silent ? m->head_due : 0;
}

bool messages_told(const struct exchange *x)
{
    return x->translated && x->messages->told;
}

void messages_run(struct exchange *x)
{
    uint64_t at = messages_at(x);
    if (at != 0 && net_now() >= at && !x->messages->told) {
        reply_begin(&x->messages->now.reply);
    }
}
