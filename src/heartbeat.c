/*
 * heartbeat.c - level 6: see heartbeat.h.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, heartbeat.h, inspector.h.
 */
#include "heartbeat.h"

#include <string.h>

#include "cors.h"
#include "failure.h"
#include "inspector.h"

/* Without a free block the next try comes after this. */
#define NO_BLOCK_MS 20

/* What each kind of stream looks like. */
static const struct {
    const char *type; /* Content-Type */
    const char *sign; /* the sign of life */
    const char *open; /* around a JSON document that becomes an event: */
    const char *close;
    unsigned newlines; /* that end an event */
} kinds[] = {
    [BEAT_NONE] = {NULL, "", "", "", 0},
    /* One newline only: some libraries make an empty event of a comment with a blank line behind it. */
    [BEAT_OPENAI] = {"text/event-stream", ": olla\n", "data: ", "\n\n", 2},
    [BEAT_ANTHROPIC] = {"text/event-stream", "event: ping\ndata: {\"type\":\"ping\"}\n\n",
                        "event: error\ndata: ", "\n\n", 2},
    /* No newline: the official client for Python takes an empty line for a broken one. */
    [BEAT_OLLAMA] = {"application/x-ndjson", " ", "", "\n", 1},
    [BEAT_JSON] = {"application/json", " ", "", "", 0},
};

void heartbeat_prepare(struct exchange *x)
{
    bool stream = x->scan.stream;
    struct str target = x->route.target;

    x->beat = BEAT_NONE;
    if (conf_now->proxy.heartbeat.interval == 0 || !x->counts) {
        return;
    }
    if (x->route.dialect == DIALECT_OLLAMA) {
        bool streams = str_ends(target, STR("/api/chat")) || str_ends(target, STR("/api/generate"));
        stream = streams && !x->scan.no_stream;
        x->beat = stream ? BEAT_OLLAMA : BEAT_NONE;
    } else if (stream && x->route.inference == SERVES_CHAT) {
        x->beat = x->route.dialect == DIALECT_OPENAI      ? BEAT_OPENAI
                  : x->route.dialect == DIALECT_ANTHROPIC ? BEAT_ANTHROPIC
                                                          : BEAT_NONE;
    }
    bool json = x->req.json && (x->route.inference == SERVES_CHAT || x->route.inference == SERVES_EMBEDDINGS ||
                                x->route.inference == SERVES_RERANK); /* sound is none */
    if (!stream && conf_now->proxy.heartbeat.json && json) {
        x->beat = BEAT_JSON;
    }
    heartbeat_restart(x);
}

void heartbeat_restart(struct exchange *x)
{
    x->beat_at = net_now() + (uint64_t)conf_now->proxy.heartbeat.interval;
}

static bool before_reply(const struct exchange *x)
{
    return x->state == X_CONNECT || x->state == X_SEND || x->state == X_WAIT;
}

/* Nothing waits to go down: a client that does not read needs no sign. */
static bool is_quiet(const struct exchange *x)
{
    return buf_len(&x->c->out) == 0;
}

/* Between two events of a reply that can bear it. */
static bool between_events(const struct exchange *x)
{
    bool known = x->committed ? !x->embed : x->events != EVENTS_NONE && (x->chunked_out || x->to_close);
    bool boundary = x->bytes_out == 0 || x->newlines >= kinds[x->beat].newlines;
    return x->state == X_STREAM && x->beat != BEAT_JSON && known && boundary;
}

uint64_t heartbeat_at(const struct exchange *x)
{
    bool may = x->beat != BEAT_NONE && conf_now->proxy.heartbeat.interval > 0;
    return may && is_quiet(x) && (before_reply(x) || between_events(x)) ? x->beat_at : 0;
}

/* ---- writing --------------------------------------------------------------------------- */

/* A piece of the stream in the client's framing. */
static void put(struct exchange *x, struct str bytes)
{
    struct text t;

    buf_compact(&x->c->out);
    t = buf_text(&x->c->out);
    if (x->chunked_out) {
        text_hex(&t, bytes.n, 1);
        text_addz(&t, "\r\n");
    }
    text_add(&t, bytes);
    text_addz(&t, x->chunked_out ? "\r\n" : "");
    if (!t.full) {
        buf_text_done(&x->c->out, &t);
        inspector_reply(x, bytes.p, bytes.n);
    }
}

static void put_counted(struct exchange *x, struct str bytes)
{
    if (bytes.n > 0) { /* an empty chunk would be the last */
        put(x, bytes);
        x->bytes_out += bytes.n;
    }
}

static void commit(struct exchange *x)
{
    struct text t = buf_text(&x->c->out);

    x->status = 200;
    x->committed = true;
    x->chunked_out = !x->http10;
    x->to_close = x->http10;
    x->keep = x->keep && !x->http10 && x->request_read;
    x->events = x->beat == BEAT_OLLAMA ? EVENTS_NDJSON : x->beat == BEAT_JSON ? EVENTS_NONE : EVENTS_SSE;
    text_addz(&t, "HTTP/1.1 200 OK\r\nDate: ");
    text_add(&t, http_date(net_wall()));
    text_addz(&t, "\r\nContent-Type: ");
    text_addz(&t, kinds[x->beat].type);
    text_addz(&t, "\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\nX-Olla-Request-ID: ");
    text_addz(&t, x->id);
    if (x->route.dialect == DIALECT_ANTHROPIC) {
        text_addz(&t, "\r\nrequest-id: ");
        text_addz(&t, x->id);
    }
    text_addz(&t, x->chunked_out ? "\r\nTransfer-Encoding: chunked\r\n" : "\r\n");
    cors_write_reply(&x->req, &t);
    text_addz(&t, x->keep ? "\r\n" : "Connection: close\r\n\r\n");
    buf_text_done(&x->c->out, &t);
}

bool heartbeat_run(struct exchange *x)
{
    struct client *c = x->c;
    uint64_t at = heartbeat_at(x);

    if (at != 0 && net_now() >= at) {
        if (!buf_hold(&c->out, BUF_CLIENT)) {
            x->beat_at = net_now() + NO_BLOCK_MS;
            return true;
        }
        if (!x->committed && x->state != X_STREAM) {
            commit(x);
        }
        put(x, str_of(kinds[x->beat].sign));
        heartbeat_restart(x);
    } else if (!x->committed || !before_reply(x) || is_quiet(x)) {
        return true;
    }
    /* Here, not where replies are written: a sign of life is no sign of its backend. */
    if (net_flush(&c->s, &c->out) == OLLA_ERR) {
        exchange_client_left(x);
        return false;
    }
    buf_drop_if_empty(&c->out);
    return true;
}

/* ---- after the commit --------------------------------------------------------------------- */

bool heartbeat_take_reply(struct exchange *x, const struct http_response *r)
{
    struct str coding = http_response_get(r, HTTP_CONTENT_ENCODING);
    bool good = r->status >= 200 && r->status < 300;

    if (coding.n > 0 && !str_ieq(coding, STR("identity"))) {
        return false;
    }
    x->embed = x->beat != BEAT_JSON && !(good && str_istarts(r->content_type, str_of(kinds[x->beat].type)));
    x->embed_error = x->embed && !good;
    if (x->embed && good) {
        put_counted(x, str_of(x->beat == BEAT_OLLAMA ? "" : "data: "));
    }
    return true;
}

void heartbeat_error(struct exchange *x, struct str body)
{
    static char mem[OLLA_BUF_SIZE / 2 + 64];
    struct text t = text_in(mem, sizeof(mem));
    struct str line = body;

    while (str_ends(line, STR("\n"))) {
        line.n--;
    }
    text_addz(&t, kinds[x->beat].open);
    text_add(&t, line);
    text_addz(&t, kinds[x->beat].close);
    if (buf_hold(&x->c->out, BUF_CLIENT)) {
        put(x, text_str(&t));
        if (x->beat == BEAT_JSON && x->chunked_out) {
            struct text end = buf_text(&x->c->out);
            text_addz(&end, "0\r\n\r\n");
            buf_text_done(&x->c->out, &end);
        }
    }
    x->bytes_out += t.n;
    /* A stream that broke must not end like a complete one; a JSON document is complete as it is. */
    x->phase = x->beat == BEAT_JSON ? x->phase : PHASE_DATA;
    x->keep = x->keep && x->beat == BEAT_JSON;
    x->began = true;
    x->state = X_FLUSH;
}

void heartbeat_embed(struct exchange *x, char *p, size_t n)
{
    for (size_t i = 0; i < n && !x->embed_error; i++) {
        p[i] = p[i] == '\n' || p[i] == '\r' ? ' ' : p[i]; /* outside of JSON strings only */
    }
}

void heartbeat_keep_error(struct exchange *x, const char *p, size_t n)
{
    struct buf *kept = &x->u->out; /* the request is sent: it is free */
    if (buf_hold(kept, BUF_BACKEND)) {
        struct text t = buf_text(kept);
        text_add(&t, (struct str){p, n < t.cap - t.n ? n : t.cap - t.n});
        buf_text_done(kept, &t);
    }
}

static struct str kept_bytes(const void *of, uint64_t at)
{
    return str_skip(buf_str(of), (size_t)at);
}

/* What was kept of an error reply. */
static void take_message(const struct buf *kept, struct failure *f)
{
    bool failed = false;
    struct json_source source = {kept_bytes, kept, &failed};
    struct json_check check;

    json_check_start(&check, NULL, NULL);
    json_check_feed(&check, buf_str(kept).p, buf_len(kept));
    failure_in_words(&source, buf_len(kept), check.done && !check.bad, f);
}

void heartbeat_embed_end(struct exchange *x)
{
    static char line[OLLA_BUF_SIZE / 2];
    struct failure f; /* written as JSON it is six times as long at most */
    struct text t = text_in(line, sizeof(line));

    if (x->embed_error) {
        struct reply_error err = {.status = x->backend_status, .code = "backend_error"};
        take_message(&x->u->out, &f);
        err.message = f.message[0] ? f.message : "the backend answered with an error";
        text_addz(&t, kinds[x->beat].open);
        reply_error_body(&t, x, &err);
        t.n -= t.n > 0 && line[t.n - 1] == '\n';
    }
    text_addz(&t, kinds[x->beat].close);
    put_counted(x, text_str(&t));
    buf_drop(&x->u->out);
}
