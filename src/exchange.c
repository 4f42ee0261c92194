/*
 * exchange.c - level 6: the life of one request: body, route, attempts, end.
 * See exchange.h for the states and the invariants.
 *
 * May include: olla.h, levels 1 to 5, body.h, exchange.h.
 */
#include "exchange.h"

#include <assert.h>
#include <string.h>

#include "log.h"
#include "pool.h"

/* A slow upload is fine as long as it moves: each KiB received buys one more second. */
#define BODY_RATE 1024
#define STARVED_MS 20
/* So long a request waits for endpoints that have not been probed yet: at start and after a reload. */
#define HOLD_MS 3000
#define DISCARD_MAX 65536

POOL_STORAGE(EXCHANGE, struct exchange, exchange_pool)

struct exchange_totals exchange_totals;
static const struct exchange_local *local_pages;
static bool draining;

static void upstream_ready(struct stream *s, short events);
static const struct stream_ops upstream_ops = {upstream_ready, NULL};

void exchange_init(const struct exchange_local *pages)
{
    exchange_pool();
    local_pages = pages;
}

void exchange_drain(bool on)
{
    draining = on;
}

bool exchange_hold(struct exchange *x, struct buf *b)
{
    if (!buf_hold(b, BUF_RUNNING)) {
        x->c->starved = true;
        return false;
    }
    return true;
}

uint64_t exchange_wire_length(const struct exchange *x)
{
    return x->spelling[0] ? x->body.n - (x->scan.model_to - x->scan.model_from) + strlen(x->spelling) : x->body.n;
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

static struct exchange *new_exchange(struct client *c)
{
    struct exchange *x = pool_get(POOL_EXCHANGE);
    if (x) {
        x->c = c;
        c->x = x;
        x->who = END_NOBODY;
        x->phase = PHASE_DONE;
        x->started = c->since;
        exchange_totals.active++;
    }
    return x;
}

/*
 * Decodes and cleans the path where it stands; returns false for a bad escape.
 * Plain paths, nearly all, are left alone.
 */
static bool normalise_path(struct exchange *x)
{
    struct str *path = &x->req.path;
    bool escaped = str_find(*path, '%') < path->n;
    bool unclean = false;

    for (size_t i = 0; i + 1 < path->n && !unclean; i++) {
        unclean = path->p[i] == '/' && (path->p[i + 1] == '/' || path->p[i + 1] == '.');
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

/* Where the body will live; X_BODY follows. */
static void prepare_body(struct exchange *x)
{
    struct client *c = x->c;
    size_t room = OLLA_BUF_SIZE - x->raw_at;

    http_body_start(&x->in_body, x->req.framing, x->req.length);
    x->body.home = BODY_INLINE;
    x->body.mem = c->in.mem + x->raw_at;
    if (x->req.framing == HTTP_LENGTH && x->req.length > room && x->route.kind == ROUTE_PROXY) {
        x->body.n = 0;
        if (body_move_out(&x->body, x->req.length, conf_now->proxy.spool_dir) != BODY_OK) {
            x->body.home = BODY_INLINE; /* fails again, with an answer, when the buffer is full */
            x->body.mem = c->in.mem + x->raw_at;
        }
    }
    if (x->req.expect_continue && c->in.end == x->raw_at && buf_hold(&c->out, BUF_RUNNING)) {
        struct text t = buf_text(&c->out);
        text_addz(&t, "HTTP/1.1 100 Continue\r\n\r\n");
        buf_text_done(&c->out, &t);
    }
}

static void refuse(struct exchange *x, int status, const char *code, const char *message)
{
    struct reply_error err = {.status = status, .code = code, .message = message};
    x->who = END_PROXY;
    x->phase = PHASE_REQUEST;
    reply_error(x, &err);
}

static void too_large(struct exchange *x)
{
    exchange_totals.size_limited++;
    refuse(x, 413, "request_too_large", "Request body too large");
}

/* Answers everything that no backend is needed for. */
static void answer(struct exchange *x)
{
    switch (x->route.kind) {
    case ROUTE_NOT_FOUND:
        refuse(x, 404, "not_found", "404 page not found");
        break;
    case ROUTE_REDIRECT:
        reply_redirect(x, x->req.path);
        break;
    case ROUTE_REFUSED:
        refuse(x, x->route.status, "not_supported", x->route.text);
        break;
    case ROUTE_LOCAL:
        reply_local(x, &local_pages[x->route.page]);
        break;
    case ROUTE_PROXY:
        break;
    }
}

static void dispatch(struct exchange *x)
{
    uint64_t limit = conf_now->server.max_body_size;

    /* A short body is read and thrown away, so that the connection can go on; a long one is not worth waiting for. */
    if (x->route.kind != ROUTE_PROXY && (x->request_read || x->req.expect_continue || x->req.framing != HTTP_LENGTH ||
                                         x->req.length > DISCARD_MAX)) {
        answer(x);
        return;
    }
    if (limit > 0 && x->req.framing == HTTP_LENGTH && x->req.length > limit) {
        too_large(x);
        return;
    }
    prepare_body(x);
    x->state = X_BODY;
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
    copy_cut(x->path, sizeof(x->path), req->path);
    make_id(x, http_get(req->fields, STR("X-Request-ID")));
    if (!normalise_path(x)) {
        refuse(x, 400, "bad_request", "400 Bad Request: malformed percent-encoding in the path");
        return true;
    }
    if (head_n > conf_now->server.max_header_size) {
        exchange_totals.size_limited++;
        x->keep = false;
        refuse(x, 431, "headers_too_large", "Request headers too large");
        return true;
    }
    if (str_eq(x->req.path, STR("*"))) {
        reply_empty(x); /* OPTIONS *: about the server itself, there is nothing to tell */
        return true;
    }
    x->route = route_find(x->req.path, conf_now->server.root_api);
    dispatch(x);
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
    text_u64(&t, (uint64_t)err->status);
    text_char(&t, ' ');
    text_addz(&t, http_reason(err->status));
    if (err->why) {
        text_addz(&t, ": ");
        text_addz(&t, err->why);
    }
    if (err->status == 431) {
        exchange_totals.size_limited++;
    }
    refuse(x, err->status, "bad_request", text_z(&t));
    x->keep = false;
    if (err->status == 408) {
        x->who = END_CLIENT_SLOW;
    }
    return true;
}

/* ---- X_BODY --------------------------------------------------------------------------- */

static void body_failed(struct exchange *x, enum body_error err)
{
    static const struct {
        int status;
        const char *code, *message;
    } answers[] = {
        [BODY_OK] = {500, "", ""},
        [BODY_NO_SPOOL] = {413, "request_too_large",
                           "Request body too large: it does not fit in memory and proxy.spool_dir is not set"},
        [BODY_BUSY] = {503, "out_of_buffers", "all body buffers are in use and proxy.spool_dir is not set, try again"},
        [BODY_SPOOL_FULL] = {507, "spool_full", "the disk that holds proxy.spool_dir is full"},
        [BODY_SPOOL_ERROR] = {507, "spool_error", "proxy.spool_dir cannot be written, see the log"},
    };
    refuse(x, answers[err].status, answers[err].code, answers[err].message);
    x->who = err == BODY_NO_SPOOL ? END_PROXY : END_RESOURCE;
}

/* Decodes what has been read: [raw_at, end) of c->in. false: the exchange was answered. */
static bool take_body(struct exchange *x)
{
    struct client *c = x->c;
    struct buf *in = &c->in;
    uint64_t limit = conf_now->server.max_body_size;
    char *raw = in->mem + x->raw_at;
    size_t decoded;

    long used = http_body_decode(&x->in_body, raw, in->end - x->raw_at, &decoded);
    if (used < 0) {
        refuse(x, 400, "bad_request", "400 Bad Request: malformed chunked body");
        return false;
    }
    if (limit > 0 && x->body.n + decoded > limit) {
        too_large(x);
        return false;
    }
    if (x->req.json) {
        json_scan_feed(&x->scan, raw, decoded);
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

/* Makes room behind the raw bytes; false: the exchange was answered. */
static bool make_room(struct exchange *x)
{
    struct buf *in = &x->c->in;
    size_t keep_to = x->body.home == BODY_INLINE ? (size_t)(x->body.mem - in->mem) + (size_t)x->body.n : in->off + x->head_n;

    if (x->body.home == BODY_INLINE && OLLA_BUF_SIZE - keep_to - (in->end - x->raw_at) < OLLA_BUF_SIZE / 16) {
        enum body_error err = body_move_out(&x->body, x->req.framing == HTTP_LENGTH ? x->req.length : 0, conf_now->proxy.spool_dir);
        if (err != BODY_OK) {
            body_failed(x, err);
            return false;
        }
        keep_to = in->off + x->head_n;
    }
    if (x->raw_at > keep_to) {
        memmove(in->mem + keep_to, in->mem + x->raw_at, in->end - x->raw_at);
        in->end -= x->raw_at - keep_to;
        x->raw_at = keep_to;
    }
    return true;
}

static void client_left(struct exchange *x)
{
    static const enum end_phase phases[] = {PHASE_REQUEST, PHASE_CONNECT, PHASE_HEAD, PHASE_HEAD, PHASE_DATA, PHASE_DATA, PHASE_LAST};
    x->who = END_CLIENT;
    x->phase = phases[x->state];
    x->keep = false;
    x->state = X_DONE;
}

static bool step_body(struct exchange *x)
{
    struct client *c = x->c;

    if (buf_len(&c->out) > 0 && net_flush(&c->s, &c->out) == OLLA_ERR) { /* 100 Continue */
        client_left(x);
        return true;
    }
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
        if (!c->readable) {
            return false;
        }
        size_t room = buf_room(&c->in);
        long n = net_read(&c->s, &c->in, room);
        c->readable = n == (long)room;
        if (n == OLLA_EOF || n == OLLA_ERR) {
            client_left(x);
            return true;
        }
        if (n == OLLA_AGAIN) {
            return false;
        }
    }
    buf_drop_if_empty(&c->out);
    if (x->route.kind != ROUTE_PROXY) {
        answer(x);
    } else if (x->scan.model_twice) {
        refuse(x, 400, "ambiguous_model", "the request body names \"model\" twice: remove one of them");
    } else if (x->scan.model_too_long) {
        refuse(x, 404, "model_not_found", "the model name is longer than any model here");
    } else {
        x->strategy = "strict";
        x->reusable = conf_now->proxy.engine == ENGINE_OLLA;
        x->state = X_CONNECT;
    }
    return true;
}

/* ---- candidates and attempts ------------------------------------------------------------ */

static void reject(struct exchange *x, const struct route_choice *choice)
{
    char mem[640];
    struct text t = text_in(mem, sizeof(mem) - 1);
    struct reply_error err = {.status = choice->status, .code = choice->reason ? choice->reason : "no_endpoint"};
    struct str model = str_of(x->scan.model);

    x->decision = choice->decision;
    x->reason = choice->reason;
    if (x->route.dialect == DIALECT_PLAIN && choice->reason) {
        text_addz(&t, choice->reason); /* scripts look for the word */
        text_addz(&t, ": ");
    }
    if (choice->reason) {
        text_addz(&t, choice->status == 404 ? "model \"" : "no healthy endpoint serves the model \"");
        text_add(&t, model);
        text_addz(&t, choice->status == 404 ? "\" not found" : "\" now");
    } else if (x->route.has_type) {
        text_addz(&t, "No ");
        text_add(&t, str_eq(x->route.prefix, STR("openai")) ? x->route.prefix : str_of(x->route.only->name));
        text_addz(&t, " endpoints available");
    } else {
        text_addz(&t, "no healthy endpoints available");
    }
    if (choice->starting) {
        text_addz(&t, "; endpoints are still being probed, try again in a moment");
        err.retry_after = 1;
    } else if (choice->status == 404 && choice->reason) {
        char near[400];
        struct text names = text_in(near, sizeof(near));
        if (model_near(model, &names) > 0) {
            text_addz(&t, "; did you mean: ");
            text_add(&t, text_str(&names));
        }
    } else if (choice->status == 503) {
        err.retry_after = 5;
    }
    err.message = text_z(&t);
    x->who = END_PROXY;
    x->phase = PHASE_REQUEST;
    reply_error(x, &err);
}

static struct route_query query(const struct exchange *x)
{
    return (struct route_query){
        .route = &x->route,
        .model = str_of(x->scan.model),
        .tried = x->tried,
        .balancer = conf_now->proxy.load_balancer,
    };
}

bool exchange_may_retry(const struct exchange *x)
{
    struct route_query q = query(x);
    int max = conf_now->proxy.retry.max_attempts;
    return conf_now->proxy.retry.enabled && !x->began && (max == 0 || x->attempts < max) && route_choose(&q).e != NULL;
}

/* The body names the model in the client's spelling; a backend may insist on its own. */
static void note_spelling(struct exchange *x)
{
    struct str model = str_of(x->scan.model);
    const char *own = model.n > 0 ? model_spelling(model, x->e) : NULL;

    x->spelling[0] = '\0';
    if (!own || !str_ieq(str_of(own), model)) {
        return; /* "name" for "name:latest": the backend knows that itself */
    }
    struct text t = text_in(x->spelling, sizeof(x->spelling));
    json_text(&t, str_of(own));
    text_z(&t);
    bool same = str_eq(str_of(own), model) && x->scan.model_to - x->scan.model_from == t.n;
    if (t.full || same) {
        x->spelling[0] = '\0';
    }
}

/* Chooses an endpoint, or answers that there is none. false: neither is possible yet. */
static bool choose(struct exchange *x)
{
    struct route_query q = query(x);
    struct route_choice choice = route_choose(&q);

    if (!choice.e && choice.starting && net_now() - x->started < HOLD_MS) {
        x->c->starved = true; /* the answer is on its way: look again soon */
        return false;
    }
    if (!choice.e) {
        reject(x, &choice);
        return true;
    }
    x->e = choice.e;
    x->decision = choice.decision;
    x->reason = choice.reason;
    x->tried |= endpoint_bit(x->e);
    x->attempts++;
    x->addr_tries = 0;
    x->fresh = conf_now->proxy.engine == ENGINE_SHERPA;
    x->reusable = !x->fresh;
    x->sent = 0;
    endpoint_begin(x->e);
    note_spelling(x);
    return true;
}

static struct target *main_target(const struct exchange *x)
{
    return &x->e->at[TARGET_MAIN];
}

static void drop_upstream(struct exchange *x)
{
    if (x->u) {
        upstream_close(x->u, NET_ABORT);
        x->u = NULL;
    }
    x->u_readable = false;
}

static const struct {
    int status;
    enum end_who who;
    enum end_phase phase;
    const char *why; /* the endpoint's state, and what the client reads after the endpoint's name */
} failures[] = {
    [FAIL_REFUSED] = {502, END_SERVER, PHASE_CONNECT, "cannot be connected to"},
    [FAIL_CONNECT_TIMEOUT] = {504, END_SERVER_SLOW, PHASE_CONNECT, "did not accept the connection in time"},
    [FAIL_LOST] = {502, END_SERVER, PHASE_HEAD, "closed the connection without an answer"},
    [FAIL_GARBLED] = {502, END_SERVER, PHASE_HEAD, "sent a malformed reply"},
    [FAIL_STATUS] = {502, END_SERVER, PHASE_HEAD, "answered with an error status"},
};

static void fail_finally(struct exchange *x, enum attempt_failure kind)
{
    char mem[256];
    struct text t = text_in(mem, sizeof(mem) - 1);
    struct reply_error err = {.status = failures[kind].status, .code = kind == FAIL_CONNECT_TIMEOUT ? "backend_timeout" : "backend_error"};

    text_addz(&t, "Proxy error: endpoint \"");
    text_addz(&t, x->e->name);
    text_addz(&t, "\" ");
    text_addz(&t, failures[kind].why);
    if (x->attempts > 1) {
        text_addz(&t, "; it was the last of ");
        text_u64(&t, (uint64_t)x->attempts);
        text_addz(&t, " that were tried");
    }
    err.message = text_z(&t);
    x->who = failures[kind].who;
    x->phase = failures[kind].phase;
    reply_error(x, &err);
}

void exchange_attempt_failed(struct exchange *x, enum attempt_failure kind)
{
    bool stale = kind == FAIL_LOST && x->u && x->u->reused && !x->u->got_bytes;

    drop_upstream(x);
    if (stale) {
        /* The backend had closed a kept connection before our request reached it: no attempt was made. */
        x->fresh = true;
        x->sent = 0;
        x->state = X_CONNECT;
        return;
    }
    if (kind <= FAIL_CONNECT_TIMEOUT && ++x->addr_tries < main_target(x)->addrs) {
        endpoint_next_addr(main_target(x));
        x->state = X_CONNECT;
        return;
    }
    if (kind <= FAIL_CONNECT_TIMEOUT) {
        endpoint_failed(x->e, failures[kind].why);
    }
    bool again = exchange_may_retry(x) && (kind != FAIL_LOST || x->sent == 0 || conf_now->proxy.retry.on_connection_lost);
    if (!again) {
        fail_finally(x, kind);
        return;
    }
    if (log_begin(LOG_DEBUG, "attempt failed")) {
        log_str("request_id", str_of(x->id));
        log_z("endpoint", x->e->name);
        log_z("reason", failures[kind].why);
        log_end();
    }
    endpoint_end(x->e, false, 0, 0);
    x->e = NULL;
    x->state = X_CONNECT;
}

/* ---- X_CONNECT and X_SEND ------------------------------------------------------------------ */

static bool begin_send(struct exchange *x)
{
    if (!exchange_hold(x, &x->u->out)) {
        return false;
    }
    struct text t = buf_text(&x->u->out);
    if (!forward_request_head(x, &t)) {
        drop_upstream(x);
        endpoint_end(x->e, true, 0, 0);
        x->e = NULL;
        exchange_totals.size_limited++;
        refuse(x, 431, "headers_too_large", "Request headers too large");
        return true;
    }
    buf_text_done(&x->u->out, &t);
    net_deadline(&x->c->s, net_now() + (uint64_t)conf_now->proxy.read_timeout);
    x->state = X_SEND;
    return true;
}

static bool step_connect(struct exchange *x)
{
    bool no_slot;

    if (x->u) { /* a connection is ready to use, only a buffer was missing, or its connect has ended */
        if (!x->u_readable) {
            return false;
        }
        x->u_readable = false;
        if (!x->u->reused && plat_connected(x->u->s.fd) != OLLA_OK) {
            exchange_attempt_failed(x, FAIL_REFUSED);
            return true;
        }
        if (!begin_send(x)) {
            x->u_readable = true; /* come back here when there is a buffer */
            return false;
        }
        return true;
    }
    if (!x->e && !choose(x)) {
        return false;
    }
    if (!x->e) {
        return true; /* answered */
    }
    if (!x->fresh && (x->u = upstream_take(x->e, &upstream_ops, x)) != NULL) {
        x->u_readable = true;
        return true;
    }
    if (main_target(x)->addrs == 0) {
        exchange_attempt_failed(x, FAIL_REFUSED);
        return true;
    }
    unsigned keepalive_s = (unsigned)(conf_now->proxy.connection_keep_alive / 1000);
    x->u = upstream_connect(x->e, main_target(x)->good, keepalive_s, &upstream_ops, x, &no_slot);
    if (!x->u && no_slot) {
        struct reply_error err = {503, "out_of_connections", "olla has no free connection to the backends, try again", 1};
        endpoint_end(x->e, true, 0, 0);
        x->e = NULL;
        x->who = END_RESOURCE;
        x->phase = PHASE_CONNECT;
        reply_error(x, &err);
        return true;
    }
    if (!x->u) {
        exchange_attempt_failed(x, FAIL_REFUSED);
        return true;
    }
    net_deadline(&x->c->s, net_now() + (uint64_t)conf_now->proxy.connection_timeout);
    return false;
}

/* The bytes of the body as they go out, from wire position x->sent on. */
static struct str wire_bytes(const struct exchange *x)
{
    uint64_t from = x->scan.model_from, to = x->scan.model_to, n = strlen(x->spelling);
    struct str s;

    if (n == 0 || x->sent < from) {
        s = body_at(&x->body, x->sent);
        if (n > 0 && s.p && s.n > from - x->sent) {
            s.n = (size_t)(from - x->sent);
        }
        return s;
    }
    if (x->sent < from + n) {
        return str_skip(str_of(x->spelling), (size_t)(x->sent - from));
    }
    return body_at(&x->body, x->sent - n + (to - from));
}

static bool step_send(struct exchange *x)
{
    struct upstream *u = x->u;
    uint64_t total = exchange_wire_length(x);

    while (buf_len(&u->out) > 0 || x->sent < total) {
        struct str head = buf_str(&u->out), body = x->sent < total ? wire_bytes(x) : STR("");
        struct iovec v[2] = {{(void *)(uintptr_t)head.p, head.n}, {(void *)(uintptr_t)body.p, body.n}};
        int first = head.n > 0 ? 0 : 1;
        if (x->sent < total && body.n == 0) {
            drop_upstream(x);
            refuse(x, 507, "spool_error", "the spooled request body cannot be read, see the log");
            x->who = END_RESOURCE;
            return true;
        }
        long n = plat_writev(u->s.fd, v + first, body.n > 0 ? 2 - first : 1);
        if (n == OLLA_ERR) {
            /* It may have answered before it closed: the reply, if any, decides. */
            x->u_readable = true;
            break;
        }
        if (n == OLLA_AGAIN) {
            break;
        }
        size_t of_head = (size_t)n < head.n ? (size_t)n : head.n;
        if (of_head > 0) {
            buf_consume(&u->out, of_head);
        }
        x->sent += (uint64_t)n - of_head;
        net_deadline(&x->c->s, net_now() + (uint64_t)conf_now->proxy.read_timeout);
        if ((size_t)n < head.n + body.n) {
            break;
        }
    }
    if (buf_len(&u->out) == 0) {
        buf_drop(&u->out);
    }
    if (buf_len(&u->out) == 0 && x->sent == total) {
        x->state = X_WAIT;
        net_deadline(&x->c->s, net_now() + (uint64_t)conf_now->proxy.response_header_timeout);
        return x->u_readable;
    }
    if (x->u_readable) {
        x->state = X_WAIT; /* an answer before the request was complete, or a lost connection */
        return true;
    }
    return false;
}

static bool step_local(struct exchange *x)
{
    struct client *c = x->c;
    bool moved = reply_more(x, &local_pages[x->route.page]);
    if (buf_len(&c->out) > 0 && net_flush(&c->s, &c->out) == OLLA_ERR) {
        client_left(x);
        return true;
    }
    buf_drop_if_empty(&c->out);
    return moved && buf_len(&c->out) == 0;
}

static bool step_flush(struct exchange *x)
{
    int n = net_flush(&x->c->s, &x->c->out);
    if (n == OLLA_AGAIN) {
        return false;
    }
    if (n == OLLA_ERR) {
        client_left(x);
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
        return step_body(x);
    case X_CONNECT:
        return step_connect(x);
    case X_SEND:
        return step_send(x);
    case X_WAIT:
        relay_wait(x);
        if (x->state == X_WAIT && !x->c->starved && x->u && (buf_len(&x->u->out) > 0 || x->sent < exchange_wire_length(x))) {
            x->state = X_SEND; /* that was an interim reply only: the rest of the request follows */
        }
        return x->state != was;
    case X_STREAM:
        relay_stream(x);
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
    bool out_waits = buf_len(&c->out) > 0;
    /* Reading ahead also notices that the client has left. */
    bool read_ahead = !c->in.mem || buf_room(&c->in) > 0;

    net_want(&c->s, x->state == X_BODY || read_ahead, out_waits);
    if (x->u) {
        bool want_read = x->state == X_WAIT || x->state == X_SEND ||
                         (x->state == X_STREAM && buf_len(&c->out) <= OLLA_BUF_SIZE / 2 && buf_len(&x->u->in) == 0);
        net_want(&x->u->s, want_read, x->state == X_CONNECT || x->state == X_SEND);
    }
}

static void set_deadline(struct exchange *x)
{
    const struct conf *cf = conf_now;
    uint64_t now = net_now(), stall = (uint64_t)(cf->server.write_timeout > 0 ? cf->server.write_timeout : cf->proxy.read_timeout);

    if (x->c->starved) {
        net_deadline(&x->c->s, now + STARVED_MS);
        return;
    }
    switch (x->state) {
    case X_BODY:
        net_deadline(&x->c->s, cf->server.read_timeout > 0 ? x->started + (uint64_t)cf->server.read_timeout + x->body.n / BODY_RATE * 1000 : 0);
        break;
    case X_STREAM:
        net_deadline(&x->c->s, now + (buf_len(&x->c->out) > 0 ? stall : (uint64_t)cf->proxy.read_timeout));
        break;
    case X_LOCAL:
    case X_FLUSH:
        net_deadline(&x->c->s, now + stall);
        break;
    case X_CONNECT: /* these set theirs when they begin or make progress */
    case X_SEND:
    case X_WAIT:
    case X_DONE:
        break;
    }
}

bool exchange_run(struct exchange *x)
{
    x->c->starved = false;
    while (x->state != X_DONE && step(x)) {
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

    if (!c->readable || x->state == X_BODY || x->state == X_DONE) {
        return;
    }
    c->readable = false;
    if (!buf_hold(&c->in, BUF_NEW_WORK)) {
        return; /* level-triggered: it will be reported again */
    }
    if (buf_room(&c->in) == 0) {
        return;
    }
    long n = net_read(&c->s, &c->in, OLLA_BUF_SIZE);
    if (n == OLLA_EOF || n == OLLA_ERR) {
        client_left(x);
    }
    if (n <= 0 && x->raw_at == 0) {
        buf_drop_if_empty(&c->in);
    }
}

void exchange_truncate(struct exchange *x, enum end_who who, enum end_phase phase, const char *message)
{
    drop_upstream(x);
    if (log_begin(LOG_WARN, "reply broken off")) {
        log_str("request_id", str_of(x->id));
        log_z("endpoint", x->e->name);
        log_z("reason", message);
        log_end();
    }
    x->who = who;
    x->phase = phase;
    x->keep = false;
    if (exchange_hold(x, &x->c->out)) {
        reply_broken_stream(x, message);
    }
    x->state = X_FLUSH;
}

void exchange_expired(struct exchange *x)
{
    struct reply_error err = {.status = 504, .code = "backend_timeout", .message = "Proxy error: the backend did not answer in time"};

    if (x->c->starved) {
        return; /* not a deadline, only the time to ask for a buffer again */
    }
    switch (x->state) {
    case X_BODY:
        err = (struct reply_error){408, "request_timeout", "the request body did not arrive in time (server.read_timeout)", 0};
        x->who = END_CLIENT_SLOW;
        x->phase = PHASE_REQUEST;
        reply_error(x, &err);
        break;
    case X_CONNECT:
        exchange_attempt_failed(x, FAIL_CONNECT_TIMEOUT);
        break;
    case X_SEND:
    case X_WAIT:
        drop_upstream(x);
        x->who = END_SERVER_SLOW;
        x->phase = PHASE_HEAD;
        reply_error(x, &err);
        break;
    case X_STREAM:
        if (buf_len(&x->c->out) == 0) {
            exchange_truncate(x, END_SERVER_SLOW, PHASE_DATA, "the backend went silent in the middle of its reply (proxy.read_timeout)");
            break;
        }
        /* fall through */
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

static void access_line(const struct exchange *x, uint64_t ms)
{
    char end[2] = {(char)x->who, (char)x->phase};
    if (!conf_now->server.request_logging || !log_begin(LOG_INFO, "request")) {
        return;
    }
    log_str("request_id", str_of(x->id));
    log_z("client", x->c->peer_text);
    log_z("method", x->method);
    log_z("path", x->path);
    log_u64("status", (uint64_t)(x->status > 0 ? x->status : 499));
    log_str("end", (struct str){end, 2});
    if (x->e) {
        log_z("endpoint", x->e->name);
    }
    if (x->scan.model[0]) {
        log_z("model", x->scan.model);
    }
    log_u64("attempts", (uint64_t)x->attempts);
    log_u64("bytes_in", x->bytes_in);
    log_u64("bytes_out", x->bytes_out);
    if (x->head_at > 0) {
        log_u64("wait_ms", x->head_at - x->started);
    }
    log_u64("duration_ms", ms);
    log_end();
}

static void count(struct exchange *x, uint64_t ms)
{
    bool served = x->status > 0 && x->status < 500 && x->who != END_SERVER && x->who != END_SERVER_SLOW;
    exchange_totals.active--;
    if (!x->e) {
        return;
    }
    served = served || x->who == END_CLIENT || x->who == END_CLIENT_SLOW;
    exchange_totals.requests++;
    exchange_totals.bytes += x->bytes_out;
    exchange_totals.failed += !served;
    exchange_totals.latency_ms_sum += served ? ms : 0;
    endpoint_end(x->e, served, ms, x->bytes_out);
}

bool exchange_finish(struct exchange *x)
{
    struct client *c = x->c;
    bool keep = x->keep && !draining && x->request_read;
    uint64_t ms = net_now() - x->started;

    assert(x->state == X_DONE);
    drop_upstream(x);
    access_line(x, ms);
    count(x, ms);
    body_free(&x->body);
    buf_drop(&c->out);
    if (c->in.mem && x->raw_at > c->in.off) {
        buf_consume(&c->in, x->raw_at - c->in.off);
    }
    buf_drop_if_empty(&c->in);
    pool_put(POOL_EXCHANGE, x);
    c->x = NULL;
    return keep;
}
