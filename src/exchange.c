/*
 * exchange.c - level 6: the life of one request: begin, drive, deadlines, end.
 * See exchange.h for the states and the invariants; the states themselves
 * are in request.c, attempt.c, relay.c and reply.c.
 *
 * May include: olla.h, levels 1 to 5, body.h, exchange.h.
 */
#include "exchange.h"

#include <assert.h>
#include <string.h>

#include "account.h"
#include "admit.h"
#include "cors.h"
#include "gather.h"
#include "heartbeat.h"
#include "inspector.h"
#include "log.h"
#include "messages.h"
#include "pool.h"
#include "queue.h"
#include "secrets.h"
#include "wake.h"

/* A slow upload is fine as long as it moves: each KiB received buys one more second. */
#define BODY_RATE   1024
#define STARVED_MS  20
#define DISCARD_MAX 65536

POOL_STORAGE(EXCHANGE, struct exchange, exchange_pool)

static const struct exchange_local *local_pages;
static bool draining;

static void upstream_ready(struct stream *s, short events);
const struct stream_ops exchange_upstream_ops = {upstream_ready, NULL};

void exchange_init(const struct exchange_local *pages)
{
    exchange_pool();
    local_pages = pages;
}

void exchange_drain(bool on)
{
    draining = on;
}

bool exchange_hold(struct exchange *x, struct buf *b, enum buf_class class_)
{
    if (!buf_hold(b, class_)) {
        x->c->starved = true;
        return false;
    }
    return true;
}

/* ---- start ------------------------------------------------------------------------- */

static void make_id(struct exchange *x, struct str wanted)
{
    static uint64_t seed, sequence;
    bool ok = wanted.n >= 1 && wanted.n < sizeof(x->id);
    for (size_t i = 0; i < wanted.n && ok; i++) {
        ok = wanted.p[i] > 0x20 && wanted.p[i] < 0x7f;
    }
    if (ok) {
        str_copy(x->id, sizeof(x->id), wanted);
        return;
    }
    if (seed == 0) {
        plat_random(&seed, sizeof(seed));
    }
    struct text t = text_in(x->id, sizeof(x->id));
    text_hex(&t, (seed >> 32) & 0xffffffff, 8);
    text_char(&t, '-');
    text_hex(&t, (seed + ++sequence) & 0xffffffff, 8);
    text_z(&t);
}

static void copy_cut(char *to, size_t cap, struct str s)
{
    s.n = s.n < cap ? s.n : cap - 1;
    str_copy(to, cap, s);
}

/* As much of it as fits, without secrets. */
static void copy_target(char *to, size_t cap, struct str s)
{
    struct text t = text_in(to, cap - 1);
    secrets_target(&t, s);
    to[t.n] = '\0';
}

static struct exchange *new_exchange(struct client *c)
{
    struct exchange *x = pool_get(POOL_EXCHANGE);
    if (x) {
        x->c = c;
        c->x = x;
        x->who = END_NOBODY;
        x->phase = PHASE_DONE;
        x->started = c->since;
        x->from = c->peer_addr;
        exchange_totals.active++;
    }
    return x;
}

static void answer_locally(struct exchange *x, const struct exchange_local *page)
{
    struct reply_error err;
    struct reply_own own;

    if (page->check && !page->check(x, &err)) {
        reply_refuse(x, err.status, err.code, err.message);
    } else if (page->own) {
        page->own(x, &own);
        reply_own(x, &own);
    } else {
        reply_local(x, page);
    }
}

/* Answers everything that no backend is needed for. */
void exchange_answer(struct exchange *x)
{
    switch (x->route.kind) {
    case ROUTE_NOT_FOUND:
        reply_refuse(x, 404, "not_found", "404 page not found");
        break;
    case ROUTE_REDIRECT:
        reply_redirect(x, x->req.path);
        break;
    case ROUTE_REFUSED:
        reply_refuse(x, x->route.status, "not_supported", x->route.text);
        break;
    case ROUTE_LOCAL:
        answer_locally(x, &local_pages[x->route.page]);
        break;
    case ROUTE_PROXY:
        break;
    }
}

/* An empty list from before any endpoint has told its models would be taken for the truth: it waits a little. */
static bool is_early(const struct exchange *x)
{
    bool listing = x->route.kind == ROUTE_LOCAL && x->route.page >= LOCAL_MODELS && x->route.page <= LOCAL_OLLA_MODEL;
    return listing && model_count() == 0 && endpoint_any_pending() && net_now() < x->started + EXCHANGE_HOLD_MS;
}

static bool step_hold(struct exchange *x)
{
    bool (*ready)(struct exchange *) = x->route.kind == ROUTE_LOCAL ? local_pages[x->route.page].ready : NULL;

    if (is_early(x) || (ready && !ready(x))) {
        x->waiting = true;
        return false;
    }
    exchange_answer(x);
    return true;
}

static void dispatch(struct exchange *x)
{
    uint64_t limit = messages_limit(x);

    /* A short body is read and thrown away, so that the connection can go on; a long one is not worth waiting for. */
    if (x->route.kind != ROUTE_PROXY &&
        (x->request_read || x->req.expect_continue || x->req.framing != HTTP_LENGTH || x->req.length > DISCARD_MAX)) {
        x->state = X_HOLD;
        return;
    }
    if (limit > 0 && x->req.framing == HTTP_LENGTH && x->req.length > limit) {
        request_too_large(x);
        return;
    }
    if (messages_begin(x)) {
        request_begin_body(x);
        x->state = X_BODY;
    }
}

bool exchange_start(struct client *c, const struct http_request *req, size_t head_n)
{
    struct exchange *x = new_exchange(c);
    if (!x) {
        return false;
    }
    x->req = *req;
    x->head_n = head_n;
    x->raw_at = c->in.off + head_n;
    x->is_head = str_eq(req->method, STR("HEAD"));
    x->http10 = req->minor == 0;
    x->keep = req->keep_alive && !draining;
    x->request_read = !req->has_body;
    copy_cut(x->method, sizeof(x->method), req->method);
    copy_target(x->path, sizeof(x->path), req->path);
    copy_target(x->query, sizeof(x->query), req->query);
    make_id(x, http_request_get(req, HTTP_X_REQUEST_ID));
    log_about(x->id);
    admit_client(x);
    if (!request_clean_path(x)) {
        reply_refuse(x, 400, "bad_request", "400 Bad Request: malformed percent-encoding in the path");
        return true;
    }
    if (head_n > conf_now->server.max_header_size) {
        static struct log_limit hit;
        exchange_totals.size_limited++;
        log_limit(&hit, net_now(), "a request head is too large, answered with 431",
                  "server.request_limits.max_header_size", conf_now->server.max_header_size);
        x->keep = false;
        reply_refuse(x, 431, "headers_too_large", "Request headers too large");
        return true;
    }
    if (cors_is_preflight(req)) {
        reply_preflight(x); /* before the key: browsers send none with it */
        return true;
    }
    if (str_eq(x->req.path, STR("*"))) {
        if (admit_head(x)) {
            reply_empty(x); /* OPTIONS *: about the server itself, there is nothing to tell */
        }
        return true;
    }
    x->route = route_find(x->req.path, conf_now->server.root_api);
    if (x->route.pinnable && http_request_get(req, HTTP_X_OLLA_ENDPOINT).n > 0) {
        x->route.kind = ROUTE_PROXY; /* it says which machine: then it makes sense */
    }
    if (x->route.listing == LISTING_OPENAI && http_request_get(req, HTTP_ANTHROPIC_VERSION).n > 0) {
        x->route.listing = LISTING_ANTHROPIC; /* the same path in both APIs */
        x->route.dialect = DIALECT_ANTHROPIC;
    }
    messages_route(x);
    x->upgrade = x->route.kind == ROUTE_PROXY && tunnel_wanted(req);
    if (x->upgrade) {
        tunnel_take_model(x);
    }
    if (admit_head(x)) {
        dispatch(x);
    }
    return true;
}

bool exchange_start_refused(struct client *c, const struct http_error *err)
{
    char message[192];
    struct text t = text_in(message, sizeof(message) - 1);
    struct exchange *x = new_exchange(c);
    if (!x) {
        return false;
    }
    str_copy(x->method, sizeof(x->method), STR("-"));
    str_copy(x->path, sizeof(x->path), STR("-"));
    make_id(x, STR(""));
    log_about(x->id);
    text_u64(&t, (uint64_t)err->status);
    text_char(&t, ' ');
    text_addz(&t, http_reason(err->status));
    if (err->why) {
        text_addz(&t, ": ");
        text_addz(&t, err->why);
    }
    if (err->status == 431) {
        static struct log_limit hit;
        bool lines = buf_len(&c->in) < OLLA_MAX_HEAD;
        exchange_totals.size_limited++;
        log_limit(&hit, net_now(), "a request head is too large, answered with 431",
                  lines ? "OLLA_MAX_HEADERS" : "OLLA_MAX_HEAD", lines ? OLLA_MAX_HEADERS : OLLA_MAX_HEAD);
    }
    reply_refuse(x, err->status, "bad_request", text_z(&t));
    x->keep = false;
    if (err->status == 408) {
        x->who = END_CLIENT_SLOW;
    }
    return true;
}

void exchange_client_left(struct exchange *x)
{
    static const enum end_phase phases[] = {PHASE_REQUEST, PHASE_REQUEST, PHASE_CONNECT, PHASE_HEAD, PHASE_HEAD,
                                            PHASE_DATA,    PHASE_DATA,    PHASE_DATA,    PHASE_LAST};
    x->who = END_CLIENT;
    x->phase = phases[x->state];
    x->keep = false;
    x->state = X_DONE;
}

/* ---- small states --------------------------------------------------------------------------- */

static bool step_local(struct exchange *x)
{
    struct client *c = x->c;
    if (buf_scarce() && !net_writable(&c->s)) {
        return false;
    }
    x->moved = true;
    reply_more(x, &local_pages[x->route.page]);
    if (buf_len(&c->out) > 0 && net_flush(&c->s, &c->out) == OLLA_ERR) {
        exchange_client_left(x);
        return true;
    }
    buf_drop_if_empty(&c->out);
    return x->state != X_LOCAL; /* one piece in a turn: writing a long list must not hold up the streams */
}

static bool step_flush(struct exchange *x)
{
    size_t before = buf_len(&x->c->out);
    int n = net_flush(&x->c->s, &x->c->out);
    if (n == OLLA_AGAIN) {
        x->moved = x->moved || buf_len(&x->c->out) < before;
        return false;
    }
    if (n == OLLA_ERR) {
        exchange_client_left(x);
    }
    x->state = X_DONE;
    return true;
}

/* ---- driving -------------------------------------------------------------------------------- */

static bool step(struct exchange *x)
{
    enum exchange_state was = x->state;
    switch (x->state) {
    case X_BODY:
        return request_body_step(x);
    case X_HOLD:
        return step_hold(x);
    case X_CONNECT:
        return attempt_connect_step(x);
    case X_SEND:
        return attempt_send_step(x);
    case X_WAIT:
        relay_wait(x);
        if (x->state == X_WAIT && !x->c->starved && x->u &&
            (buf_len(&x->u->out) > 0 || x->sent < exchange_wire_length(x))) {
            x->state = X_SEND; /* that was an interim reply only: the rest of the request follows */
        }
        return x->state != was;
    case X_STREAM:
        relay_stream(x);
        return x->state != was;
    case X_TUNNEL:
        tunnel_step(x);
        return x->state != was;
    case X_LOCAL:
        return step_local(x);
    case X_FLUSH:
        return step_flush(x);
    case X_DONE:
        break;
    }
    return false;
}

/* What each side of the exchange waits for now. */
static void set_wants(struct exchange *x)
{
    struct client *c = x->c;
    bool full = x->state == X_STREAM && x->client_full;
    bool out_waits = buf_len(&c->out) > 0 || x->state == X_LOCAL || full;

    if (x->state == X_TUNNEL) {
        tunnel_wants(x);
        return;
    }
    /* Reading ahead also notices that the client has left. What is known to wait need not wake the loop again. */
    bool read_ahead = !c->readable && (!c->in.mem || buf_room(&c->in) > 0);

    net_heat(&c->s, x->state == X_BODY || out_waits ? NET_HOT : NET_COLD);
    if (c->starved) {
        net_want(&c->s, false, false);
    } else if (x->state == X_BODY || read_ahead || out_waits) {
        net_want(&c->s, x->state == X_BODY || read_ahead, out_waits);
    } else {
        net_want_hangup(&c->s);
    }
    if (x->u) {
        bool want_read = x->state == X_WAIT || x->state == X_SEND ||
                         (x->state == X_STREAM && !full && buf_len(&c->out) <= OLLA_BUF_SIZE / 2 &&
                          buf_len(&x->u->in) == 0);
        net_heat(&x->u->s, x->state == X_STREAM && x->events != EVENTS_NONE ? NET_FLOW : NET_HOT);
        net_want(&x->u->s, want_read && !c->starved, (x->state == X_CONNECT || x->state == X_SEND) && !c->starved);
    }
}

/*
 * States that move reply bytes count from the last one moved, or from their beginning, however they were come to; the
 * others set theirs when they begin or progress.
 */
static void set_deadline(struct exchange *x)
{
    const struct conf *cf = conf_now;
    uint64_t now = net_now(),
             stall = (uint64_t)(cf->server.write_timeout > 0 ? cf->server.write_timeout : cf->proxy.read_timeout);

    if (x->state == X_BODY) {
        uint64_t limit = (uint64_t)cf->server.read_timeout;
        uint64_t in_all = x->started + limit + x->bytes_in / BODY_RATE * 1000;
        x->deadline = limit == 0 ? 0 : in_all < now + limit ? in_all : now + limit;
    } else if (x->state >= X_STREAM && (x->moved || x->deadline == 0)) {
        bool backend = x->state == X_TUNNEL || (x->state == X_STREAM && buf_len(&x->c->out) == 0 && !x->client_full);
        x->deadline = now + (backend ? exchange_read_timeout(x) : stall);
        x->moved = false;
    }
    uint64_t at = x->deadline;
    bool reads_ahead = x->state != X_BODY && x->state != X_TUNNEL;
    bool look_again = x->c->starved || x->waiting || (x->c->readable && reads_ahead);
    if (look_again && (at == 0 || at > now + STARVED_MS)) {
        at = now + STARVED_MS;
    }
    uint64_t beat = heartbeat_at(x), head = messages_at(x);
    if (beat != 0 && (at == 0 || beat < at)) {
        at = beat;
    }
    if (head != 0 && (at == 0 || head < at)) {
        at = head;
    }
    net_deadline(&x->c->s, x->busy ? now : at);
}

uint64_t exchange_read_timeout(const struct exchange *x)
{
    return (uint64_t)(x->e && x->e->read_timeout > 0 ? x->e->read_timeout : conf_now->proxy.read_timeout);
}

bool exchange_run(struct exchange *x)
{
    x->c->starved = x->waiting = x->busy = false;
    if (!heartbeat_run(x)) {
        return true;
    }
    messages_run(x);
    for (;;) {
        enum exchange_state was = x->state;
        bool more = x->state != X_DONE && step(x);
        x->moved = x->moved || x->state != was;
        if (!more) {
            break;
        }
    }
    if (x->state == X_DONE) {
        return true;
    }
    set_wants(x);
    set_deadline(x);
    return false;
}

static void upstream_ready(struct stream *s, short events)
{
    struct exchange *x = s->owner;
    if (x->state == X_CONNECT || (events & (POLLIN | POLLHUP | POLLERR))) {
        x->u_readable = true;
    }
    x->c->run(x->c);
}

void exchange_client_input(struct exchange *x)
{
    struct client *c = x->c;

    if (!c->readable || x->state == X_BODY || x->state == X_TUNNEL || x->state == X_DONE) {
        return;
    }
    /* Not exchange_hold: a lack of room to read ahead must not hold up the reply. */
    c->readable = !buf_hold(&c->in, BUF_NEW_WORK);
    if (c->readable || buf_room(&c->in) == 0) {
        if (c->hung_up) {
            exchange_client_left(x);
        }
        return;
    }
    long n = net_read(&c->s, &c->in, OLLA_BUF_SIZE);
    if (n == OLLA_EOF || n == OLLA_ERR) {
        exchange_client_left(x);
    }
    if (n <= 0 && x->raw_at == 0) {
        buf_drop_if_empty(&c->in);
    }
}

void exchange_forget_head(struct exchange *x)
{
    struct client *c = x->c;
    if (x->raw_at == c->in.end) { /* unless the next request waits in it */
        buf_drop(&c->in);
        x->raw_at = 0;
    }
}

void exchange_truncate(struct exchange *x, enum end_who who, enum end_phase phase, const char *message)
{
    attempt_drop_upstream(x);
    if (log_begin(LOG_WARN, "reply broken off")) {
        log_z("endpoint", x->e->name);
        log_z("reason", message);
        log_end();
    }
    x->who = who;
    x->phase = phase;
    x->error = message;
    if (x->headless) { /* nothing went down: it can be said properly */
        struct reply_error err = {.status = who == END_SERVER_SLOW ? 504 : 502,
                                  .code = "backend_error",
                                  .message = message};
        x->headless = false;
        x->phase = PHASE_HEAD;
        reply_error(x, &err);
        return;
    }
    x->keep = false;
    if (exchange_hold(x, &x->c->out, BUF_CLIENT)) {
        reply_broken_stream(x, message);
    }
    x->state = X_FLUSH;
}

/* The request is up, or nearly, and nothing has come back. */
static void backend_expired(struct exchange *x)
{
    struct reply_error err = {.status = 504,
                              .code = "backend_timeout",
                              .message = "Proxy error: the backend did not answer in time"};

    if (x->e->first_byte_timeout > 0 && exchange_may_retry(x)) {
        exchange_attempt_failed(x, FAIL_SILENT);
        return;
    }
    attempt_drop_upstream(x);
    if (messages_count_here(x)) {
        return;
    }
    x->who = END_SERVER_SLOW;
    x->phase = PHASE_HEAD;
    reply_error(x, &err);
}

void exchange_expired(struct exchange *x)
{
    struct reply_error late = {.status = 408,
                               .code = "request_timeout",
                               .message = "the request body did not arrive in time (server.read_timeout)"};

    if (x->deadline == 0 || net_now() < x->deadline) {
        return; /* not the deadline, only the time to ask for a block again */
    }
    x->deadline = 0;
    switch (x->state) {
    case X_BODY:
        x->who = END_CLIENT_SLOW;
        x->phase = PHASE_REQUEST;
        reply_error(x, &late);
        break;
    case X_HOLD:
        break;
    case X_CONNECT:
        if (x->u) {
            exchange_attempt_failed(x, FAIL_CONNECT_TIMEOUT);
        } else if (x->queue.in_line || x->wake.waits) {
            attempt_waited_too_long(x);
        }
        break;
    case X_SEND:
    case X_WAIT:
        backend_expired(x);
        break;
    case X_STREAM:
        if (buf_len(&x->c->out) == 0 && !x->client_full) {
            exchange_truncate(x, END_SERVER_SLOW, PHASE_DATA,
                              "the backend went silent in the middle of its reply (proxy.read_timeout)");
            break;
        }
        /* fall through */
    case X_TUNNEL:
    case X_LOCAL:
    case X_FLUSH:
        x->who = END_CLIENT_SLOW;
        x->phase = x->state == X_FLUSH ? PHASE_LAST : PHASE_DATA;
        x->keep = false;
        x->state = X_DONE;
        break;
    case X_DONE:
        break;
    }
}

void exchange_kill(struct exchange *x)
{
    x->who = END_KILLED;
    x->phase = x->began ? PHASE_DATA : PHASE_REQUEST;
    x->keep = false;
    x->state = X_DONE;
}

/* ---- end ------------------------------------------------------------------------------------- */

const char *exchange_client(const struct exchange *x)
{
    return x->from_text[0] ? x->from_text : x->c->peer_text;
}

/* What the end of the exchange means for the connection. */
static enum exchange_after after(const struct exchange *x)
{
    bool complete = x->phase != PHASE_DATA && x->phase != PHASE_LAST;

    if (x->who == END_CLIENT || (!complete && x->to_close)) {
        return AFTER_ABORT;
    }
    if (x->who == END_KILLED) {
        return AFTER_CLOSE;
    }
    if (x->keep && complete && !draining && x->request_read) {
        return AFTER_KEEP;
    }
    if (x->who == END_CLIENT_SLOW && !complete) {
        return AFTER_ABORT;
    }
    return complete && x->request_read && buf_len(&x->c->in) == 0 ? AFTER_CLOSE : AFTER_LINGER;
}

enum exchange_after exchange_finish(struct exchange *x)
{
    struct client *c = x->c;

    assert(x->state == X_DONE);
    queue_leave(x);
    wake_leave(x);
    attempt_drop_upstream(x);
    gather_cancel(x);
    inspector_finish(x);
    account_close(x);
    messages_finish(x);
    body_free(&x->body);
    buf_drop(&c->out);
    if (c->in.mem && x->raw_at > c->in.off) {
        buf_consume(&c->in, x->raw_at - c->in.off);
    }
    buf_drop_if_empty(&c->in);
    enum exchange_after how = after(x);
    log_about(NULL);
    pool_put(POOL_EXCHANGE, x);
    c->x = NULL;
    c->starved = false;
    return how;
}
