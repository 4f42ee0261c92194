/*
 * request.c - level 6: the request on its way in: its path, and X_BODY, which
 * takes the body into the store and its facts into the scanner.
 *
 * May include: olla.h, levels 1 to 5, body.h, exchange.h.
 */
#include <string.h>

#include "admit.h"
#include "exchange.h"
#include "heartbeat.h"
#include "log.h"
#include "messages.h"

/* Room that stays behind an inline body, for what the client sends ahead. */
#define AHEAD_MIN 64
/* Reads before another connection gets its turn. */
#define ROUNDS 16

/*
 * Decodes and cleans the path where it stands; returns false for a bad escape.
 * Plain paths, nearly all, are left alone.
 */
bool request_clean_path(struct exchange *x)
{
    struct str *path = &x->req.path;
    bool escaped = str_find(*path, '%') < path->n;
    bool unclean = false;

    for (size_t i = 0; i < path->n && !unclean; i++) {
        bool dots = path->p[i] == '/' && i + 1 < path->n && (path->p[i + 1] == '/' || path->p[i + 1] == '.');
        unclean = dots || (unsigned char)path->p[i] >= 0x80; /* goes on escaped: some read 0xa0 as a blank */
    }
    if (!escaped && !unclean) {
        return true;
    }
    char *in_place = x->c->in.mem + (path->p - x->c->in.mem);
    if (escaped) {
        long n = http_unescape(*path, in_place, path->n);
        if (n < 0) {
            return false;
        }
        path->n = (size_t)n;
    }
    path->n = http_clean_path(in_place, path->n, true);
    x->path_decoded = true;
    return true;
}

/*
 * `curl -d` calls JSON a form, and many clients call it nothing: where an API has nothing else, servers read it all the
 * same. What is meant for one machine may be a file, whose bytes are nobody's model.
 */
static bool is_json(const struct exchange *x)
{
    bool api = x->route.inference >= 0 || x->route.dialect == DIALECT_OLLAMA;

    return x->req.json || (x->route.kind == ROUTE_PROXY && api && !x->route.pinnable && x->form.mark_n == 0);
}

/* Where the body will live; X_BODY follows. */
void request_begin_body(struct exchange *x)
{
    struct client *c = x->c;
    size_t room = OLLA_BUF_SIZE - x->raw_at - AHEAD_MIN;

    http_body_start(&x->in_body, x->req.framing, x->req.length);
    x->scan.take_name = x->route.dialect == DIALECT_OLLAMA;
    x->scan.prefix_max = (uint64_t)conf_now->proxy.sticky_sessions.prefix_hash_bytes;
    multipart_start(&x->form, http_request_get(&x->req, HTTP_CONTENT_TYPE));
    x->req.json = is_json(x);
    x->body.home = BODY_INLINE;
    x->body.mem = c->in.mem + x->raw_at;
    if (x->req.framing == HTTP_LENGTH && x->req.length > room && x->route.kind == ROUTE_PROXY) {
        x->body.n = 0;
        if (body_move_out(&x->body, x->req.length, conf_now->proxy.spool_dir) != BODY_OK) {
            x->body.home = BODY_INLINE; /* fails again, with an answer, when the buffer is full */
            x->body.mem = c->in.mem + x->raw_at;
        }
    }
    if (x->req.expect_continue && c->in.end == x->raw_at && buf_hold(&c->out, BUF_CLIENT)) {
        struct text t = buf_text(&c->out);
        text_addz(&t, "HTTP/1.1 100 Continue\r\n\r\n");
        buf_text_done(&c->out, &t);
    }
}

void request_too_large(struct exchange *x)
{
    static struct log_limit hit;
    char mem[96];
    struct text t = text_in(mem, sizeof(mem) - 1);
    bool own = messages_limit(x) != conf_now->server.max_body_size;

    exchange_totals.size_limited++;
    log_limit(&hit, net_now(), "a request body is too large, answered with 413",
              own ? "translators.anthropic.max_message_size" : "server.request_limits.max_body_size",
              messages_limit(x));
    text_addz(&t, "Request body too large");
    if (x->route.messages != MESSAGES_NONE) {
        text_addz(&t, ": it exceeds the maximum size (");
        text_u64(&t, messages_limit(x));
        text_addz(&t, " bytes)");
    }
    reply_refuse(x, 413, "request_too_large", text_z(&t));
}

static void body_failed(struct exchange *x, enum body_error err)
{
    static const struct {
        int status;
        const char *code, *message;
    } answers[] = {
        [BODY_OK] = {500, "", ""},
        [BODY_NO_SPOOL] = {413, "request_too_large",
                           "Request body too large: it does not fit in memory and proxy.spool_dir is not set"},
        [BODY_BUSY] = {503, "out_of_buffers",
                       "too many body buffers are in use and proxy.spool_dir is not set, try again"},
        [BODY_SPOOL_FULL] = {507, "spool_full", "the disk that holds proxy.spool_dir is full"},
        [BODY_SPOOL_ERROR] = {507, "spool_error", "proxy.spool_dir cannot be written, see the log"},
    };
    if (err == BODY_NO_SPOOL) {
        static struct log_limit hit;
        log_limit(&hit, net_now(), "a request body does not fit in memory and may not go to disk, answered with 413",
                  "OLLA_BODY_BLOCK, OLLA_MAX_BODY_BLOCKS (proxy.spool_dir is not set)", BODY_MOST);
    }
    reply_refuse(x, answers[err].status, answers[err].code, answers[err].message);
    x->who = err == BODY_NO_SPOOL ? END_PROXY : END_RESOURCE;
}

/* Decodes what has been read: [raw_at, end) of c->in. false: the exchange was answered. */
static bool take_body(struct exchange *x)
{
    struct client *c = x->c;
    struct buf *in = &c->in;
    uint64_t limit = messages_limit(x);
    char *raw = in->mem + x->raw_at;
    size_t decoded;

    long used = http_body_decode(&x->in_body, raw, in->end - x->raw_at, &decoded);
    if (used < 0) {
        reply_refuse(x, 400, "bad_request", "400 Bad Request: malformed chunked body");
        return false;
    }
    if (limit > 0 && x->body.n + decoded > limit) {
        request_too_large(x);
        return false;
    }
    if (x->req.json) {
        json_scan_feed(&x->scan, raw, decoded);
    }
    if (x->messages) {
        messages_feed(x, raw, decoded);
    }
    if (x->form.mark_n > 0) {
        multipart_feed(&x->form, raw, decoded);
    }
    if (x->route.kind != ROUTE_PROXY) {
        decoded = 0;
    }
    if (x->body.home == BODY_INLINE) {
        if (decoded > 0 && x->body.mem + x->body.n != raw) {
            memmove(x->body.mem + x->body.n, raw, decoded);
        }
        x->body.n += decoded;
    } else {
        enum body_error err = decoded > 0 ? body_append(&x->body, raw, decoded, conf_now->proxy.spool_dir) : BODY_OK;
        if (err != BODY_OK) {
            body_failed(x, err);
            return false;
        }
    }
    x->bytes_in += decoded;
    x->raw_at += (size_t)used;
    x->request_read = x->in_body.done;
    return true;
}

/* Where the bytes that must stay end: head and inline body. */
static size_t kept_to(const struct exchange *x)
{
    const struct buf *in = &x->c->in;
    return x->body.home == BODY_INLINE ? (size_t)(x->body.mem - in->mem) + (size_t)x->body.n : in->off + x->head_n;
}

static void close_gap(struct exchange *x)
{
    struct buf *in = &x->c->in;
    size_t to = kept_to(x);
    if (x->raw_at > to) {
        memmove(in->mem + to, in->mem + x->raw_at, in->end - x->raw_at);
        in->end -= x->raw_at - to;
        x->raw_at = to;
    }
}

/* Makes room behind the raw bytes; false: the exchange was answered. */
static bool make_room(struct exchange *x)
{
    struct buf *in = &x->c->in;

    if (x->body.home == BODY_INLINE && OLLA_BUF_SIZE - kept_to(x) - (in->end - x->raw_at) < OLLA_BUF_SIZE / 16) {
        enum body_error err = body_move_out(&x->body, x->req.framing == HTTP_LENGTH ? x->req.length : 0,
                                            conf_now->proxy.spool_dir);
        if (err != BODY_OK) {
            body_failed(x, err);
            return false;
        }
    }
    close_gap(x);
    return true;
}

/* What the form tells of the model, in the scanner's words. */
static void take_form(struct exchange *x)
{
    str_copy(x->scan.model, sizeof(x->scan.model), str_trim(str_of(x->form.model)));
    x->scan.model_from = x->form.from;
    x->scan.model_to = x->form.to;
    x->scan.model_twice = x->form.twice;
    x->scan.model_too_long = x->form.too_long;
}

bool request_body_step(struct exchange *x)
{
    struct client *c = x->c;
    int rounds = 0;

    if (buf_len(&c->out) > 0 && net_flush(&c->s, &c->out) == OLLA_ERR) { /* 100 Continue */
        exchange_client_left(x);
        return true;
    }
    buf_drop_if_empty(&c->out);
    for (;;) {
        if (!x->request_read && c->in.end > x->raw_at && !take_body(x)) {
            return true;
        }
        if (x->request_read) {
            break;
        }
        if (c->in.end == OLLA_BUF_SIZE && !make_room(x)) {
            return true;
        }
        if (!c->readable || ++rounds > ROUNDS) {
            return false;
        }
        size_t room = buf_room(&c->in);
        long n = net_read(&c->s, &c->in, room);
        c->readable = n == (long)room;
        if (n == OLLA_EOF || n == OLLA_ERR) {
            exchange_client_left(x);
            return true;
        }
        if (n == OLLA_AGAIN) {
            return false;
        }
    }
    if (x->form.mark_n > 0) {
        take_form(x);
    }
    close_gap(x); /* room to read ahead, and so to notice when the client leaves */
    if (x->route.kind != ROUTE_PROXY) {
        x->state = X_HOLD;
    } else if (x->scan.model_twice) {
        reply_refuse(x, 400, "ambiguous_model",
                     "the request names \"model\" twice, or in an escaped form: remove one of them");
    } else if (x->scan.model_too_long) {
        reply_refuse(x, 404, "model_not_found", "the model name is longer than any model here");
    } else if (admit_model(x) && (!x->messages || messages_accept(x))) {
        x->reusable = conf_now->proxy.engine == ENGINE_OLLA;
        x->counts = x->route.inference >= 0 && str_eq(str_of(x->method), STR("POST"));
        x->deadline = 0;
        session_find(x);
        heartbeat_prepare(x);
        x->state = X_CONNECT;
    }
    return true;
}
