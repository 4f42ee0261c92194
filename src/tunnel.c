/*
 * tunnel.c - level 6: X_TUNNEL, what follows a 101: bytes both ways, as they
 * come, until one side ends (RFC 9110, 7.8; WebSocket).
 *
 * c->in carries bytes up and u->in carries them down; a side is read only
 * when its buffer is empty, so a slow reader slows the other side.
 *
 * May include: olla.h, levels 1 to 5, exchange.h.
 */
#include "exchange.h"

/* Rounds of read and write before another connection gets its turn. */
#define ROUNDS 4

bool tunnel_wanted(const struct http_request *req)
{
    struct str rest = req->fields;
    struct http_field f;
    bool asked = false;

    if (req->minor != 1 || !str_eq(req->method, STR("GET")) || req->has_body) {
        return false;
    }
    while ((req->names & HTTP_BIT(HTTP_UPGRADE)) && http_next_field(&rest, &f)) {
        asked = asked || (f.id == HTTP_CONNECTION && str_list_has(f.value, STR("upgrade")));
    }
    return asked && str_ieq(http_request_get(req, HTTP_UPGRADE), STR("websocket"));
}

/* Upgrades have no body: the model stands in the query. */
void tunnel_take_model(struct exchange *x)
{
    char name[OLLA_MODEL_NAME];
    unsigned times = http_query_count(x->req.query, STR("model"));
    bool good = http_query(x->req.query, STR("model"), name, sizeof(name), &x->query_model);

    for (char *c = name; *c; c++) {
        *c = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c; /* it will stand in headers and log lines */
    }
    str_copy(x->scan.model, sizeof(x->scan.model), str_trim(str_of(name)));
    x->scan.model_twice = times > 1 || (times == 1 && !x->query_model.p); /* servers differ in which one they take */
    x->scan.model_too_long = x->query_model.p && !good;
}

void tunnel_begin(struct exchange *x, const struct http_response *r, size_t head_n)
{
    struct client *c = x->c;
    struct text t = buf_text(&c->out);

    x->status = r->status;
    x->keep = x->reusable = false;
    if (!forward_response_head(x, r, &t)) {
        x->status = 0;
        exchange_attempt_failed(x, FAIL_GARBLED);
        return;
    }
    buf_text_done(&c->out, &t);
    buf_consume(&x->u->in, head_n);
    buf_consume(&c->in, x->raw_at - c->in.off);
    x->raw_at = 0;
    endpoint_answered(x->e, &x->use);
    x->began = x->moved = true;
    x->query_model = STR(""); /* it stood in the head */
    x->state = X_TUNNEL;
}

struct side {
    struct stream *from, *to;
    struct buf *b;
    bool *readable;
    bool *ended;
    uint64_t *bytes;
    enum buf_class class_;
};

/* One direction. OLLA_ERR: the side written to is gone; OLLA_AGAIN: waits; OLLA_OK: more may wait. */
static int pump(struct exchange *x, const struct side *s)
{
    if (buf_len(s->b) == 0 && *s->readable && !*s->ended) {
        if (buf_scarce() && !net_writable(s->to)) { /* no block for bytes that would not be taken */
            x->c->starved = true;
            return OLLA_AGAIN;
        }
        if (!exchange_hold(x, s->b, s->class_)) {
            return OLLA_AGAIN;
        }
        buf_compact(s->b);
        long n = net_read(s->from, s->b, OLLA_BUF_SIZE);
        *s->ended = n == OLLA_EOF || n == OLLA_ERR;
        *s->readable = n > 0 && buf_room(s->b) == 0; /* a full read: there may be more */
        *s->bytes += n > 0 ? (uint64_t)n : 0;
        x->moved = x->moved || n > 0;
        x->reset = x->reset || n == OLLA_ERR;
    }
    int flushed = buf_len(s->b) > 0 ? net_flush(s->to, s->b) : OLLA_OK;
    buf_drop_if_empty(s->b);
    if (flushed != OLLA_OK) {
        return flushed;
    }
    return *s->readable && !*s->ended ? OLLA_OK : OLLA_AGAIN;
}

static void end(struct exchange *x)
{
    if (x->reset) {
        x->who = x->client_ended ? END_CLIENT : END_SERVER;
        x->phase = PHASE_DATA;
        x->to_close = true; /* what broke on one side breaks on the other */
    } else {
        upstream_close(x->u, NET_CLOSE);
        x->u = NULL;
    }
    x->state = X_DONE;
}

void tunnel_step(struct exchange *x)
{
    struct client *c = x->c;
    const struct side up = {&c->s, &x->u->s, &c->in, &c->readable, &x->client_ended, &x->bytes_in, BUF_NEW_WORK};
    const struct side down = {&x->u->s,          &c->s,         &x->u->in,  &x->u_readable,
                              &x->backend_ended, &x->bytes_out, BUF_BACKEND};
    int more = OLLA_OK;

    for (int round = 0; round < ROUNDS && more == OLLA_OK; round++) {
        int head = buf_len(&c->out) > 0 ? net_flush(&c->s, &c->out) : OLLA_OK;
        int d = head == OLLA_OK ? pump(x, &down) : head, u = pump(x, &up);
        buf_drop_if_empty(&c->out);
        if (d == OLLA_ERR) {
            exchange_client_left(x);
            return;
        }
        if (u == OLLA_ERR) {
            buf_drop(&c->in); /* the backend takes no more; what it has sent still counts */
            x->backend_ended = true;
        }
        bool over = (x->backend_ended && buf_len(&x->u->in) == 0 && buf_len(&c->out) == 0) ||
                    (x->client_ended && buf_len(&c->in) == 0);
        if (over) {
            end(x);
            return;
        }
        more = d == OLLA_OK || u == OLLA_OK ? OLLA_OK : OLLA_AGAIN;
    }
}

void tunnel_wants(struct exchange *x)
{
    struct client *c = x->c;
    bool up_waits = buf_len(&c->in) > 0, down_waits = buf_len(&x->u->in) > 0 || buf_len(&c->out) > 0;

    net_heat(&c->s, NET_HOT);
    net_want(&c->s, !up_waits && !x->client_ended && !c->starved, down_waits && !c->starved);
    net_want(&x->u->s, !down_waits && !x->backend_ended && !c->starved, up_waits && !c->starved);
}
