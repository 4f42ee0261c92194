/*
 * relay.c - level 6: the reply on its way down. One path for every reply:
 * upstream bytes -> body decoder -> framing for this client -> socket.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, heartbeat.h, inspector.h, messages.h.
 */
#include "exchange.h"
#include "heartbeat.h"
#include "inspector.h"
#include "log.h"
#include "messages.h"

/* Bytes that framing may add to one piece: chunk size line, its CRLF, the last chunk. */
#define FRAMING_MAX 32
/* Rounds of read and write before another connection gets its turn. */
#define ROUNDS      4
#define MAX_INTERIM 64
/* A client that takes bytes takes so many: what is read for it when blocks are scarce. */
#define SCARCE_MAX 4096
/* The end of a body that is put into an event. */
#define EMBED_ROOM (OLLA_BUF_SIZE / 2 + 64)

/* ---- the head ----------------------------------------------------------------------- */

static bool retry_status(int status)
{
    for (int i = 0; i < conf_now->proxy.retry.on_status_n; i++) {
        if (conf_now->proxy.retry.on_status[i] == status) {
            return true;
        }
    }
    return false;
}

/* What a body is, as far as it matters here. */
enum body_type { TYPE_OTHER = 0, TYPE_EVENTS, TYPE_LINES, TYPE_JSON, TYPE_BINARY };

static enum body_type type_of(const struct http_response *r)
{
    static const struct {
        struct str prefix;
        enum body_type type;
    } types[] = {
        {STR("text/event-stream"), TYPE_EVENTS},
        {STR("application/jsonl"), TYPE_LINES}, /* before the next: it begins like that */
        {STR("application/json"), TYPE_JSON},
        {STR("application/x-ndjson"), TYPE_LINES},
        /* Nobody reads these as they come. */
        {STR("image/"), TYPE_BINARY},
        {STR("video/"), TYPE_BINARY},
        {STR("audio/"), TYPE_BINARY},
        {STR("font/"), TYPE_BINARY},
        {STR("model/"), TYPE_BINARY},
        {STR("application/octet-stream"), TYPE_BINARY},
        {STR("application/pdf"), TYPE_BINARY},
        {STR("application/zip"), TYPE_BINARY},
        {STR("application/gzip"), TYPE_BINARY},
        {STR("application/x-tar"), TYPE_BINARY},
    };
    for (size_t i = 0; i < OLLA_COUNT(types); i++) {
        if (str_istarts(r->content_type, types[i].prefix)) {
            return types[i].type;
        }
    }
    return TYPE_OTHER;
}

static bool is_compressed(const struct http_response *r)
{
    struct str coding = http_response_get(r, HTTP_CONTENT_ENCODING);

    return coding.n > 0 && !str_ieq(coding, STR("identity"));
}

static void note_events(struct exchange *x, const struct http_response *r, enum body_type type)
{
    x->events = EVENTS_NONE;
    if (is_compressed(r)) {
        inspector_coding(x, http_response_get(r, HTTP_CONTENT_ENCODING));
        return; /* nothing can be added to a compressed stream */
    }
    x->events = type == TYPE_EVENTS ? EVENTS_SSE : type == TYPE_LINES ? EVENTS_NDJSON : EVENTS_NONE;
}

/* Which replies tell figures, and how they stand there. */
static void begin_usage(struct exchange *x, const struct http_response *r, enum body_type type)
{
    x->reads_usage = !is_compressed(r) && (type == TYPE_EVENTS || type == TYPE_LINES || type == TYPE_JSON);
    usage_start(&x->usage, type == TYPE_EVENTS ? USAGE_EVENTS : type == TYPE_LINES ? USAGE_LINES : USAGE_JSON);
}

/* The reply is accepted: from here on there is no second attempt. */
static void begin_reply(struct exchange *x, const struct http_response *r, size_t head_n)
{
    struct client *c = x->c;
    enum body_type type = type_of(r);

    if (!x->request_read) {
        x->keep = false;
    }
    x->reusable = x->reusable && r->keep_alive && x->sent == exchange_wire_length(x);
    x->keep_s = r->keep_alive_s;
    if (x->translated) {
        messages_take_head(x, r);
    } else if (x->committed) {
        if (!heartbeat_take_reply(x, r)) {
            exchange_attempt_failed(x, FAIL_GARBLED);
            return;
        }
    } else {
        x->status = r->status;
        note_events(x, r, type);
        struct text t = buf_text(&c->out);
        if (!forward_response_head(x, r, &t)) {
            x->status = 0;
            exchange_attempt_failed(x, FAIL_GARBLED);
            return;
        }
        buf_text_done(&c->out, &t);
    }
    x->backend_status = r->status;
    begin_usage(x, r, type);
    x->gathers = conf_now->proxy.profile == RELAY_STANDARD ||
                 (conf_now->proxy.profile == RELAY_AUTO && x->events == EVENTS_NONE && type == TYPE_BINARY);
    heartbeat_restart(x);
    sticky_count(x->session.outcome);
    endpoint_answered(x->e, &x->use);
    if (x->session.pin && r->status < 500 && x->use.generation == x->e->generation) {
        sticky_pin(x->session.key, x->e);
    }
    http_body_start(&x->out_body, r->framing, r->length);
    buf_consume(&x->u->in, head_n);
    x->began = true;
    x->state = X_STREAM;
    body_free(&x->body);
    if (!x->headless) {
        exchange_forget_head(x);
    }
}

/* Looks at what came. Returns false when more is needed or the state has changed. */
static bool one_head(struct exchange *x)
{
    static struct log_limit hit;
    struct http_error err = {0};
    struct http_response r;
    size_t scanned = 0;
    struct str in = buf_str(&x->u->in);
    long n = http_find_end(in, &scanned, &err);

    if (n == OLLA_AGAIN) {
        return false;
    }
    if (n < 0 && err.status == 431) {
        log_limit(&hit, net_now(), "the head of a reply is too large, it counts as malformed", "OLLA_MAX_HEAD",
                  OLLA_MAX_HEAD);
    }
    if (n < 0 || http_parse_response((struct str){in.p, (size_t)n}, x->req.method, &r, &err) != OLLA_OK) {
        exchange_attempt_failed(x, FAIL_GARBLED);
        return false;
    }
    if (r.status == 101 && !x->upgrade) {
        exchange_attempt_failed(x, FAIL_GARBLED); /* nobody asked for another protocol */
        return false;
    }
    if (r.status == 101) {
        x->head_at = net_now();
        if (exchange_hold(x, &x->c->out, BUF_CLIENT)) {
            tunnel_begin(x, &r, (size_t)n);
        }
        return false;
    }
    if (r.status >= 100 && r.status < 200) {
        buf_consume(&x->u->in, (size_t)n);
        if (++x->cursor > MAX_INTERIM) {
            exchange_attempt_failed(x, FAIL_GARBLED);
            return false;
        }
        return true;
    }
    if (messages_fall_back(x, &r, str_skip(in, (size_t)n)) != 0) {
        return false;
    }
    x->head_at = net_now();
    attempt_note_limit(x, &r);
    if (retry_status(r.status) && exchange_may_retry(x)) {
        x->backend_status = r.status;
        exchange_attempt_failed(x, FAIL_STATUS);
        return false;
    }
    if (!messages_is_count(&r) && messages_count_here(x)) {
        attempt_drop_upstream(x);
        return false;
    }
    if (exchange_hold(x, &x->c->out, BUF_CLIENT)) {
        begin_reply(x, &r, (size_t)n);
    }
    return false;
}

void relay_wait(struct exchange *x)
{
    struct upstream *u = x->u;

    if (x->u_readable) {
        if (!exchange_hold(x, &u->in, BUF_BACKEND)) {
            return;
        }
        x->u_readable = false;
        buf_compact(&u->in);
        long n = buf_room(&u->in) > 0 ? net_read(&u->s, &u->in, OLLA_BUF_SIZE) : OLLA_AGAIN;
        if (n == OLLA_EOF || n == OLLA_ERR) {
            exchange_attempt_failed(x, FAIL_LOST);
            return;
        }
        if (n > 0) {
            u->got_bytes = true;
        }
    }
    if (u->in.mem) {
        while (one_head(x)) {
        }
    }
}

void relay_note_bytes(struct exchange *x, const char *p, size_t n)
{
    if (n > 0 && x->first_at == 0) {
        x->first_at = net_now();
    }
    if (x->reads_usage) {
        usage_feed(&x->usage, p, n);
    }
}

/* ---- the body ------------------------------------------------------------------------ */

/* How the stream ends so far, so that an error event can be put behind it properly. */
static void note_tail(struct exchange *x, const char *p, size_t n)
{
    for (size_t i = n > 4 ? n - 4 : 0; i < n; i++) {
        x->newlines = p[i] == '\n' ? x->newlines + 1 : p[i] == '\r' ? x->newlines : 0;
    }
}

/* Moves what is in u->in to c->out, as far as there is room. OLLA_ERR: malformed. */
static int relay_bytes(struct exchange *x)
{
    struct buf *in = &x->u->in, *out = &x->c->out;
    size_t waiting = buf_len(in), decoded;

    if (!exchange_hold(x, out, BUF_CLIENT)) {
        return OLLA_AGAIN;
    }
    buf_compact(out);
    if (buf_room(out) <= FRAMING_MAX) {
        return OLLA_AGAIN;
    }
    if (waiting > buf_room(out) - FRAMING_MAX) {
        waiting = buf_room(out) - FRAMING_MAX;
    }
    long used = http_body_decode(&x->out_body, in->mem + in->off, waiting, &decoded);
    if (used < 0) {
        return OLLA_ERR;
    }
    relay_note_bytes(x, in->mem + in->off, decoded);
    if (decoded > 0 && x->embed) {
        heartbeat_embed(x, in->mem + in->off, decoded);
    }
    if (decoded > 0 && x->embed_error) {
        heartbeat_keep_error(x, in->mem + in->off, decoded);
    } else if (decoded > 0 && !x->is_head) {
        struct text t = buf_text(out);
        if (x->chunked_out) {
            text_hex(&t, decoded, 1);
            text_addz(&t, "\r\n");
        }
        text_add(&t, (struct str){in->mem + in->off, decoded});
        text_addz(&t, x->chunked_out ? "\r\n" : "");
        buf_text_done(out, &t);
        x->bytes_out += decoded;
        inspector_reply(x, in->mem + in->off, decoded);
        note_tail(x, in->mem + in->off, decoded);
    }
    buf_consume(in, (size_t)used);
    return x->out_body.done ? OLLA_OK : OLLA_AGAIN;
}

/* false: the client is gone (and the exchange over). */
static bool flush(struct exchange *x)
{
    struct client *c = x->c;
    size_t before = buf_len(&c->out);
    if (before > 0 && net_flush(&c->s, &c->out) == OLLA_ERR) {
        exchange_client_left(x);
        return false;
    }
    if (buf_len(&c->out) < before) {
        x->moved = true;
        heartbeat_restart(x);
    }
    buf_drop_if_empty(&c->out);
    return true;
}

static void end_reply(struct exchange *x)
{
    struct upstream *u = x->u;
    if (x->embed) {
        struct buf *out = &x->c->out;
        if (buf_len(out) > OLLA_BUF_SIZE - EMBED_ROOM && (!flush(x) || buf_len(out) > OLLA_BUF_SIZE - EMBED_ROOM)) {
            return; /* comes again when some of it has been written */
        }
        if (!exchange_hold(x, out, BUF_CLIENT)) {
            return;
        }
        heartbeat_embed_end(x);
        x->embed = false;
    }
    if (x->embed_error) {
        x->phase = PHASE_DATA; /* the event told it; the stream must not end like a complete one */
        x->keep = false;
    } else if (x->chunked_out) {
        if (!exchange_hold(x, &x->c->out, BUF_CLIENT)) {
            return;
        }
        struct text t = buf_text(&x->c->out);
        text_addz(&t, "0\r\n\r\n");
        if (t.full) {
            return; /* comes again when some of it has been written */
        }
        buf_text_done(&x->c->out, &t);
    }
    x->u = NULL;
    if (x->reusable) {
        upstream_keep(u, x->keep_s);
    } else {
        upstream_close(u, NET_CLOSE);
    }
    x->state = X_FLUSH;
}

/*
 * Read only what the client can take: a slow reader slows its backend. When blocks are scarce it gets none to wait in:
 * many clients that take nothing must not hold up the streams of those that do.
 */
static bool may_read(struct exchange *x)
{
    size_t waiting = buf_len(&x->c->out);
    if (!x->u_readable || x->out_body.done || buf_len(&x->u->in) > 0) {
        return false;
    }
    if (!buf_scarce()) {
        return waiting <= OLLA_BUF_SIZE / 2;
    }
    x->client_full = waiting > 0 || !net_writable(&x->c->s);
    return !x->client_full;
}

/* Reads into the room that c->out has. 0 = nothing came, > 0 more may wait, or OLLA_EOF, OLLA_ERR. */
static long read_more(struct exchange *x)
{
    struct upstream *u = x->u;
    if (!exchange_hold(x, &u->in, BUF_BACKEND)) {
        return 0;
    }
    size_t room = OLLA_BUF_SIZE - buf_len(&x->c->out) - FRAMING_MAX;
    if (room > SCARCE_MAX && buf_scarce()) {
        room = SCARCE_MAX;
    }
    buf_compact(&u->in);
    long n = net_read(&u->s, &u->in, room);
    if (n == OLLA_AGAIN || (n < (long)room && !x->gathers)) {
        x->u_readable = false;
    }
    x->moved = x->moved || n > 0;
    return n == OLLA_AGAIN ? 0 : n;
}

static void broken(struct exchange *x, long how)
{
    if (how == OLLA_EOF && http_body_at_eof(&x->out_body)) {
        x->reusable = false;
        end_reply(x);
        return;
    }
    exchange_truncate(x, END_SERVER, PHASE_DATA,
                      how == OLLA_ERR ? "the backend's connection was lost before the reply was complete"
                                      : "the backend closed the connection before the reply was complete");
}

void relay_stream(struct exchange *x)
{
    struct buf *in = &x->u->in, *out = &x->c->out;
    bool was_full = x->client_full;

    x->client_full = false;
    for (int round = 0; round < ROUNDS; round++) {
        if (may_read(x)) {
            long n = read_more(x);
            bool ended = n == OLLA_EOF && x->translated && http_body_at_eof(&x->out_body);
            if (ended || (n < 0 && messages_told(x))) {
                x->out_body.done = true;
                x->reusable = false;
            } else if (n == OLLA_EOF || n == OLLA_ERR) {
                broken(x, n);
                return;
            }
        }
        int moved = OLLA_AGAIN;
        if (x->translated) {
            moved = messages_relay(x);
        } else if (x->out_body.done) {
            moved = OLLA_OK;
        } else if (buf_len(in) > 0) {
            moved = relay_bytes(x);
        }
        if (moved == OLLA_ERR) {
            exchange_truncate(x, END_SERVER, PHASE_DATA, "the backend sent a malformed reply body");
            return;
        }
        if (x->state != X_STREAM) {
            return;
        }
        if (moved == OLLA_OK) {
            x->reusable = x->reusable && buf_len(in) == 0 &&
                          x->out_body.done; /* bytes after the end: not a connection to trust */
            end_reply(x);
            return;
        }
        buf_drop_if_empty(in);
        if (x->client_full && buf_len(out) == 0 && !messages_pending(x)) {
            x->moved = x->moved || !was_full; /* its time runs from now on */
            return;
        }
        if (x->gathers && x->u_readable && !x->c->starved && !buf_scarce() && buf_len(out) <= OLLA_BUF_SIZE / 2) {
            round -= round > 0; /* what comes together goes down together */
            continue;
        }
        bool idle = !x->u_readable && buf_len(in) == 0 && !messages_pending(x);
        if (!flush(x) || buf_len(out) > 0 || x->c->starved || idle) {
            return;
        }
    }
    x->busy = messages_pending(x);
}
