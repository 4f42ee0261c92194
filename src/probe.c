/*
 * probe.c - level 6: see probe.h.
 *
 * May include: olla.h, levels 1 to 4, probe.h.
 */
#include "probe.h"

#include "pool.h"
#include "upstream.h"

#define MAX_REPLY (OLLA_MAX_LIST + OLLA_MAX_HEAD)
/* So much of a list is read in one turn: taking its entries must not hold up the streams. */
#define READ_MAX 4096

POOL_STORAGE(PROBE, struct probe, probe_pool)

static struct probe *running[OLLA_MAX_PROBES];

static void probe_ready(struct stream *s, short events);
static void probe_expired(struct stream *s);
static const struct stream_ops probe_stream_ops = {probe_ready, probe_expired};

void probe_init(void)
{
    probe_pool();
}

static void finish(struct probe *p, enum probe_result result)
{
    struct endpoint *e = p->e;

    net_close(&p->s, result == PROBE_ANSWERED ? NET_CLOSE : NET_ABORT);
    running[pool_index(POOL_PROBE, p)] = NULL;
    p->ops->done(p, result);
    buf_drop(&p->in);
    buf_drop(&p->item);
    pool_put(POOL_PROBE, p);
    endpoint_release(e);
}

static bool connect_to(struct probe *p)
{
    struct target *to = p->to;
    while (p->tries < to->addrs) {
        int fd = plat_connect(&to->addr[(to->good + p->tries) % to->addrs], 0);
        if (fd >= 0) {
            net_open(&p->s, fd, &probe_stream_ops, p);
            if (to->tls) {
                net_connect_tls(&p->s, endpoint_peer(p->e, (int)(to - p->e->at)));
            }
            net_want(&p->s, false, true);
            net_deadline(&p->s, p->deadline);
            return true;
        }
        p->tries++;
    }
    return false;
}

static bool start(void *owner, struct endpoint *e, struct target *to, const char *path, int64_t timeout_ms,
                  const struct probe_ops *ops)
{
    struct probe *p = to->addrs > 0 && (!to->tls || upstream_tls_room()) ? pool_get(POOL_PROBE) : NULL;
    if (!p) {
        return false;
    }
    p->s.fd = -1;
    if (!buf_hold(&p->in, BUF_NEW_WORK)) {
        pool_put(POOL_PROBE, p);
        return false;
    }
    running[pool_index(POOL_PROBE, p)] = p;
    p->e = e;
    p->owner = owner;
    p->to = to;
    p->ops = ops;
    p->path = path;
    p->why = "cannot be connected to";
    p->started = net_now();
    p->deadline = p->started + (uint64_t)timeout_ms;
    if (!connect_to(p)) {
        finish(p, PROBE_REFUSED);
    }
    return true;
}

bool probe_start(struct endpoint *e, struct target *to, const char *path, int64_t timeout_ms,
                 const struct probe_ops *ops)
{
    return start(NULL, e, to, path, timeout_ms, ops);
}

bool probe_start_for(void *owner, struct endpoint *e, const char *path, int64_t timeout_ms, const struct probe_ops *ops)
{
    return start(owner, e, &e->at[TARGET_MAIN], path, timeout_ms, ops);
}

static void send_request(struct probe *p)
{
    struct text t = buf_text(&p->in);
    text_addz(&t, "GET ");
    text_addz(&t, p->owner ? p->e->base : "");
    text_addz(&t, p->path);
    text_addz(&t, " HTTP/1.1\r\n");
    size_t from = t.n;
    text_addz(&t, "Host: ");
    text_addz(&t, p->to->authority);
    text_addz(&t, "\r\nUser-Agent: olla-");
    text_addz(&t, p->ops->agent);
    text_addz(&t, "/" OLLA_VERSION "\r\nAccept: application/json, text/plain, */*\r\nAccept-Encoding: identity\r\n"
                  "Cache-Control: no-cache\r\n");
    if (p->to == &p->e->at[TARGET_MAIN]) { /* credentials go to no other host */
        http_replace_fields(&t, from, endpoint_headers(p->e));
    }
    text_addz(&t, "Connection: close\r\n\r\n");
    buf_text_done(&p->in, &t);
}

static void writable(struct probe *p)
{
    if (!p->connected) {
        if (net_connected(&p->s) != OLLA_OK) {
            p->why = p->s.why ? p->s.why : p->why;
            net_close(&p->s, NET_CLOSE);
            p->tries++;
            if (!connect_to(p)) {
                finish(p, PROBE_REFUSED);
            }
            return;
        }
        p->connected = true;
        if (p->tries > 0 && p->to->addrs > 0) {
            p->to->good = (p->to->good + p->tries) % p->to->addrs; /* this address works */
            p->tries = 0;
        }
        send_request(p);
    }
    int n = net_flush(&p->s, &p->in);
    if (n == OLLA_ERR) {
        finish(p, PROBE_LOST);
    } else if (n == OLLA_OK) {
        p->sent = true;
        net_want(&p->s, true, false);
    }
}

/* Takes the reply's head off p->in. OLLA_AGAIN: more is needed. */
static int take_head(struct probe *p)
{
    struct http_error err;
    struct http_response r;

    for (;;) {
        size_t scanned = 0;
        struct str in = buf_str(&p->in);
        long n = http_find_end(in, &scanned, &err);
        if (n == OLLA_AGAIN) {
            return OLLA_AGAIN;
        }
        if (n < 0 || http_parse_response((struct str){in.p, (size_t)n}, STR("GET"), &r, &err) != OLLA_OK) {
            return OLLA_ERR;
        }
        if (r.status < 100 || r.status >= 200) {
            p->status = r.status;
            http_retry_after(http_response_get(&r, HTTP_RETRY_AFTER), net_wall(), &p->retry_after);
            http_body_start(&p->body, r.framing, r.length);
            p->have_head = true;
            buf_consume(&p->in, (size_t)n);
            return OLLA_OK;
        }
        buf_consume(&p->in, (size_t)n);
    }
}

/* Deals with what has been read. true: the probe is over. */
static bool take_reply(struct probe *p)
{
    size_t decoded;
    if (!p->have_head) {
        int head = take_head(p);
        if (head != OLLA_OK) {
            if (head == OLLA_ERR) {
                finish(p, PROBE_GARBLED);
            }
            return head == OLLA_ERR;
        }
    }
    long used = http_body_decode(&p->body, p->in.mem + p->in.off, buf_len(&p->in), &decoded);
    if (used < 0) {
        finish(p, PROBE_GARBLED);
        return true;
    }
    bool more = !p->body.done;
    if (decoded > 0 && p->status == 200 && p->ops->body) {
        more = p->ops->body(p, p->in.mem + p->in.off, decoded) && more;
    }
    buf_consume(&p->in, (size_t)used);
    if (!more) {
        finish(p, PROBE_ANSWERED);
    }
    return !more;
}

static void readable(struct probe *p)
{
    buf_compact(&p->in);
    long n = net_read(&p->s, &p->in, READ_MAX);
    if (n == OLLA_AGAIN) {
        return;
    }
    if (n == OLLA_EOF && p->have_head && http_body_at_eof(&p->body)) {
        finish(p, PROBE_ANSWERED);
        return;
    }
    if (n < 0) {
        finish(p, PROBE_LOST);
        return;
    }
    p->total += (uint64_t)n;
    if (p->total > MAX_REPLY) {
        finish(p, PROBE_GARBLED);
        return;
    }
    take_reply(p);
}

static void probe_ready(struct stream *s, short events)
{
    struct probe *p = s->owner;
    (void)events; /* it wants one thing at a time, so readiness or an error is about that */
    if (p->sent) {
        readable(p);
    } else {
        writable(p);
    }
}

static void probe_expired(struct stream *s)
{
    finish(s->owner, PROBE_TIMEOUT);
}

bool probe_hold_item(struct probe *p)
{
    p->no_buffer = !buf_hold(&p->item, BUF_NEW_WORK);
    return !p->no_buffer;
}

bool probe_take_elements(struct probe *p, const char *key, const char *bytes, size_t n, void (*take)(struct probe *p))
{
    bool first = !p->item.mem;
    size_t used;
    int got;

    if (!probe_hold_item(p)) {
        return false;
    }
    if (first) {
        json_list_start(&p->list, key, NULL, p->item.mem, OLLA_BUF_SIZE);
    }
    while ((got = json_list_feed(&p->list, bytes, n, &used)) == 1) {
        take(p);
        bytes += used;
        n -= used;
    }
    return got != OLLA_ERR && !p->list.array_done;
}

void probe_cancel(const struct endpoint *e)
{
    for (size_t i = 0; i < OLLA_MAX_PROBES; i++) {
        if (running[i] && (!e || running[i]->e == e)) {
            finish(running[i], PROBE_CANCELLED);
        }
    }
}

void probe_cancel_for(const void *owner)
{
    for (size_t i = 0; i < OLLA_MAX_PROBES; i++) {
        if (running[i] && running[i]->owner == owner) {
            running[i]->owner = NULL;
            finish(running[i], PROBE_CANCELLED);
        }
    }
}
