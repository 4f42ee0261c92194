/*
 * forward.c - level 6: message heads on their way through: what is dropped,
 * what is added, what is merged.
 *
 * May include: olla.h, levels 1 to 5, exchange.h.
 */
#include "cors.h"
#include "exchange.h"

#define AGENT "olla/" OLLA_VERSION
/* The only other protocol that passes. */
#define UPGRADE "Connection: Upgrade\r\nUpgrade: websocket\r\n"

/* Request headers that stay here: credentials are for olla, the others are set anew below. */
#define REQUEST_DROP                                                                                                   \
    (HTTP_BIT(HTTP_HOST) | HTTP_BIT(HTTP_CONTENT_LENGTH) | HTTP_BIT(HTTP_EXPECT) | HTTP_BIT(HTTP_AUTHORIZATION) |      \
     HTTP_BIT(HTTP_COOKIE) | HTTP_BIT(HTTP_X_API_KEY) | HTTP_BIT(HTTP_X_AUTH_TOKEN) | HTTP_BIT(HTTP_X_FORWARDED_FOR) | \
     HTTP_BIT(HTTP_VIA) | HTTP_BIT(HTTP_X_MODEL) | HTTP_BIT(HTTP_X_PROXIED_BY) | HTTP_BIT(HTTP_X_OLLA_ENDPOINT))

/* Reply headers that stay here. Content-Length is written from the framing. */
#define RESPONSE_DROP                                                                                    \
    (HTTP_BIT(HTTP_CONTENT_LENGTH) | HTTP_BIT(HTTP_AUTHORIZATION) | HTTP_BIT(HTTP_PROXY_AUTHORIZATION) | \
     HTTP_BIT(HTTP_X_API_KEY) | HTTP_BIT(HTTP_X_AUTH_TOKEN) | HTTP_BIT(HTTP_SET_COOKIE))

/* ... if they would contradict ours. */
#define RATE_HEADERS \
    (HTTP_BIT(HTTP_X_RATELIMIT_LIMIT) | HTTP_BIT(HTTP_X_RATELIMIT_REMAINING) | HTTP_BIT(HTTP_X_RATELIMIT_RESET))

/* All values of a header as one list, as RFC 9110 (5.3) allows; true if there was one. */
static bool joined(struct text *t, const struct http_request *req, enum http_name name)
{
    struct str fields = req->names & HTTP_BIT(name) ? req->fields : STR("");
    struct http_field f;
    bool any = false;
    while (http_next_field(&fields, &f)) {
        if (f.value.n > 0 && f.id == name) {
            text_addz(t, any ? ", " : "");
            text_add(t, f.value);
            any = true;
        }
    }
    return any;
}

static bool browser_origin(const struct http_field *f)
{
    return f->id == HTTP_ORIGIN || f->id == HTTP_REFERER || str_istarts(f->name, STR("Sec-Fetch-"));
}

/* Methods whose requests say "Content-Length: 0" when they are empty (RFC 9110, 8.6). */
static bool method_has_body(struct str method)
{
    return str_eq(method, STR("POST")) || str_eq(method, STR("PUT")) || str_eq(method, STR("PATCH"));
}

/* Of a request that is told in other words. */
#define CHAT STR("/v1/chat/completions")

/* Clients say /v1/...; some servers have that elsewhere. */
static const char *native_base(const struct exchange *x)
{
    const struct profile *p = x->e->profile;
    if (!x->translated && p->messages_base && str_starts(x->route.target, STR("/v1/messages"))) {
        return p->messages_base;
    }
    return p->v1_base && str_starts(x->route.target, STR("/v1/")) ? p->v1_base : "";
}

static void request_target(struct exchange *x, struct text *t)
{
    struct str base = x->e->preserve_path ? str_of(x->e->base) : STR("");
    text_add(t, base);
    if (base.n > 0 && str_eq(x->route.target, STR("/"))) {
        return;
    }
    text_addz(t, native_base(x));
    if (x->translated) {
        text_add(t, CHAT);
    } else if (x->path_decoded) {
        http_escape_path(t, x->route.target);
    } else {
        text_add(t, x->route.target);
    }
}

/* Of the subprotocols that the client offers those that are no keys. */
static void protocols(struct text *t, struct str list)
{
    bool any = false;

    while (list.p) {
        struct str item = str_split(&list, ',');
        if (item.n > 0 && !gate_key_protocol(item).p) {
            text_addz(t, any ? ", " : "Sec-WebSocket-Protocol: ");
            text_add(t, item);
            any = true;
        }
    }
    text_addz(t, any ? "\r\n" : "");
}

/* Bytes that are not ASCII are escaped: some servers read 0x85 and 0xa0 as blanks, which end a target. */
static void ascii(struct text *t, struct str s)
{
    for (size_t i = 0, from = 0; i <= s.n; i++) {
        if (i < s.n && (unsigned char)s.p[i] < 0x80) {
            continue;
        }
        text_add(t, (struct str){s.p + from, i - from});
        if (i < s.n) {
            text_char(t, '%');
            text_hex(t, (unsigned char)s.p[i], 2);
        }
        from = i + 1;
    }
}

/* The query, with the endpoint's spelling of the model if it stands there. */
static void request_query(const struct exchange *x, struct text *t)
{
    struct str query = x->req.query, model = x->query_model;

    if (x->translated) {
        return; /* it is about the other API */
    }
    if (model.n == 0 || !x->spelling[0]) {
        ascii(t, query.n > 1 ? query : STR(""));
        return;
    }
    ascii(t, (struct str){query.p, (size_t)(model.p - query.p)});
    for (const char *c = x->spelling; *c; c++) {
        char low = str_lower(*c);
        if ((low >= 'a' && low <= 'z') || (*c >= '0' && *c <= '9') || *c == '-' || *c == '_' || *c == '.') {
            text_char(t, *c);
        } else {
            text_char(t, '%');
            text_hex(t, (unsigned char)*c, 2);
        }
    }
    ascii(t, str_skip(query, (size_t)(model.p - query.p) + model.n));
}

/* Without trust_proxy_headers backends hear whatever is told, as from the reference; with it, what is true. */
static bool judges(void)
{
    return conf_now->server.rate_limits.trust_proxy_headers;
}

/* What a proxy adds itself to. real_ip: the client's own is there already. */
static void proxy_headers(const struct exchange *x, struct text *t, bool real_ip)
{
    struct str peer = str_of(x->c->peer_text);
    struct str told = http_request_get(&x->req, HTTP_X_FORWARDED_FOR), first = str_split(&told, ',');
    bool believed = !judges() || limits_trusts(&x->c->peer_addr);

    text_addz(t, "X-Proxied-By: Olla/" OLLA_VERSION "\r\nVia: ");
    text_addz(t, joined(t, &x->req, HTTP_VIA) ? ", 1.1 " AGENT "\r\n" : "1.1 " AGENT "\r\n");
    text_addz(t, "X-Forwarded-For: ");
    text_addz(t, believed && joined(t, &x->req, HTTP_X_FORWARDED_FOR) ? ", " : "");
    text_add(t, peer);
    text_addz(t, "\r\n");
    if (!real_ip) {
        text_line(t, STR("X-Real-IP: "), judges() ? str_of(exchange_client(x)) : first.n > 0 ? first : peer);
    }
}

/*
 * True if the backend must hear that the body is JSON: translated it is, and what a key for certain models was judged by
 * has to be what is read. Taken for a form, the same bytes could name another model.
 */
static bool says_json(const struct exchange *x)
{
    bool judged = gate_narrow(&x->key) && x->req.json && x->req.has_body && x->form.mark_n == 0;

    return x->translated ||
           (judged && !str_istarts(http_request_get(&x->req, HTTP_CONTENT_TYPE), STR("application/json")));
}

bool forward_request_head(struct exchange *x, struct text *t)
{
    struct str rest = x->req.fields, model = str_of(x->scan.model);
    struct http_field f;
    bool keys = x->key.key > 0 || gate_closed(), json = says_json(x);
    uint64_t seen = 0, drop = REQUEST_DROP | (judges() ? HTTP_BIT(HTTP_X_REAL_IP) : 0);

    text_add(t, x->req.method);
    text_char(t, ' ');
    request_target(x, t);
    request_query(x, t);
    text_addz(t, " HTTP/1.1\r\n");
    size_t from = t->n;
    text_line(t, STR("Host: "), str_of(x->e->at[TARGET_MAIN].authority));
    /* Signs of life cannot be put into a compressed stream, nor tokens be read out of it. */
    drop |= x->beat != BEAT_NONE || x->translated || gate_has_allowance(&x->key) ? HTTP_BIT(HTTP_ACCEPT_ENCODING) : 0;
    drop |= json ? HTTP_BIT(HTTP_CONTENT_TYPE) : 0;
    while (http_next_field(&rest, &f)) {
        if ((drop & HTTP_BIT(f.id)) || http_field_is_hop(x->req.hop_fields, &f) ||
            (x->translated && str_istarts(f.name, STR("anthropic-"))) ||
            (x->e->profile->drop_origin && browser_origin(&f))) {
            continue;
        }
        seen |= HTTP_BIT(f.id);
        if (keys && f.id == HTTP_SEC_WEBSOCKET_PROTOCOL) {
            protocols(t, f.value);
        } else {
            text_add(t, f.line);
        }
    }
    text_addz(t, json ? "Content-Type: application/json\r\n" : "");
    text_addz(t, x->translated ? "Accept-Encoding: identity\r\n" : "");
    if (x->req.framing != HTTP_NO_BODY || method_has_body(x->req.method)) {
        text_addz(t, "Content-Length: ");
        text_u64(t, exchange_wire_length(x));
        text_addz(t, "\r\n");
    }
    proxy_headers(x, t, (seen & HTTP_BIT(HTTP_X_REAL_IP)) != 0);
    if (!(seen & HTTP_BIT(HTTP_X_FORWARDED_PROTO))) {
        text_line(t, STR("X-Forwarded-Proto: "), x->c->s.tls ? STR("https") : STR("http"));
    }
    if (!(seen & HTTP_BIT(HTTP_X_FORWARDED_HOST)) && x->req.host.n > 0) {
        text_line(t, STR("X-Forwarded-Host: "), x->req.host);
    }
    if (model.n > 0) {
        text_line(t, STR("X-Model: "), model);
    }
    http_replace_fields(t, from, endpoint_headers(x->e)); /* the endpoint's own have the last word */
    if (x->upgrade) {
        text_addz(t, UPGRADE);
    } else if (!x->reusable) {
        text_addz(t, "Connection: close\r\n");
    }
    text_addz(t, "\r\n");
    return !t->full;
}

#define RESET_S 60 /* what X-RateLimit-Remaining is about is over by then */

static void number_field(struct text *t, const char *name, uint64_t v)
{
    text_addz(t, name);
    text_addz(t, ": ");
    text_u64(t, v);
    text_addz(t, "\r\n");
}

void forward_own_headers(struct exchange *x, struct text *t)
{
    text_line(t, STR("X-Olla-Request-ID: "), str_of(x->id));
    if (x->rate.limit > 0) {
        number_field(t, "X-RateLimit-Limit", x->rate.limit);
        number_field(t, "X-RateLimit-Remaining", x->rate.remaining);
        number_field(t, "X-RateLimit-Reset", (uint64_t)net_wall() / 1000 + RESET_S);
    }
    if (x->e) {
        text_line(t, STR("X-Olla-Endpoint: "), str_of(x->e->name));
        text_line(t, STR("X-Olla-Backend-Type: "), str_of(x->e->type));
    }
    if (x->e && x->messages) {
        text_line(t, STR("X-Olla-Mode: "), x->translated ? STR("translation") : STR("passthrough"));
    }
    if (x->scan.model[0]) {
        text_line(t, STR("X-Olla-Model: "), str_of(x->scan.model));
    }
    if (x->decision) {
        text_line(t, STR("X-Olla-Routing-Strategy: "), str_of(x->strategy));
        text_line(t, STR("X-Olla-Routing-Decision: "), str_of(x->decision));
        text_line(t, STR("X-Olla-Routing-Reason: "), str_of(x->reason));
    }
}

/* How the body goes to this client, decided from how it comes. */
static void reply_framing(struct exchange *x, const struct http_response *r, struct text *t)
{
    x->chunked_out = x->to_close = false;
    if (r->framing == HTTP_LENGTH) {
        text_addz(t, "Content-Length: ");
        text_u64(t, r->length);
        text_addz(t, "\r\n");
    } else if (r->framing == HTTP_NO_BODY) {
        if ((r->names & HTTP_BIT(HTTP_CONTENT_LENGTH)) && (x->is_head || r->status == 304)) {
            text_addz(t, "Content-Length: ");
            text_u64(t, r->length);
            text_addz(t, "\r\n");
        }
    } else if (x->http10) {
        x->keep = false;
        x->to_close = true;
    } else {
        x->chunked_out = true;
        text_addz(t, "Transfer-Encoding: chunked\r\n");
    }
    if (!x->keep) {
        text_addz(t, "Connection: close\r\n");
    } else if (x->http10) {
        text_addz(t, "Connection: keep-alive\r\n");
    }
}

static void sticky_headers(struct exchange *x, struct text *t)
{
    struct str id = http_request_get(&x->req, HTTP_X_OLLA_SESSION_ID);
    if (x->session.outcome == STICKY_OFF) {
        return;
    }
    text_line(t, STR("X-Olla-Sticky-Session: "), str_of(sticky_word(x->session.outcome)));
    if (x->session.source) {
        text_line(t, STR("X-Olla-Sticky-Key-Source: "), str_of(x->session.source));
        if (id.n > 0 && str_eq(str_of(x->session.source), STR("session_header"))) {
            text_line(t, STR("X-Olla-Session-ID: "), id);
        }
    }
}

void forward_reply_headers(struct exchange *x, struct text *t)
{
    sticky_headers(x, t);
    text_addz(t, "X-Olla-Response-Time: ");
    text_u64(t, x->head_at - x->started);
    text_addz(t, "ms\r\nX-Served-By: Olla/" OLLA_VERSION "\r\nVia: 1.1 " AGENT "\r\n");
}

bool forward_response_head(struct exchange *x, const struct http_response *r, struct text *t)
{
    struct str rest = r->fields;
    struct http_field f;
    uint64_t drop = RESPONSE_DROP | (x->rate.limit > 0 ? RATE_HEADERS : 0), seen = 0;
    struct str own = endpoint_headers(x->e);
    const char *reason = http_reason(r->status);

    text_addz(t, "HTTP/1.1 ");
    text_padded(t, (uint64_t)r->status, 3);
    text_char(t, ' ');
    text_add(t, r->reason.n > 0 ? r->reason : str_of(reason));
    text_addz(t, "\r\n");
    forward_own_headers(x, t);
    forward_reply_headers(x, t);
    cors_write_reply(&x->req, t);
    if (x->route.dialect == DIALECT_ANTHROPIC && !(r->names & HTTP_BIT(HTTP_REQUEST_ID))) {
        text_line(t, STR("request-id: "), str_of(x->id));
    }
    while (http_next_field(&rest, &f)) {
        if ((drop & HTTP_BIT(f.id)) || http_field_is_hop(r->hop_fields, &f) || str_istarts(f.name, STR("X-Olla-")) ||
            (own.n > 0 && http_get(own, f.name).p) || cors_replaces(f.name)) {
            continue;
        }
        seen |= HTTP_BIT(f.id);
        text_add(t, f.line);
    }
    if (!(seen & HTTP_BIT(HTTP_DATE))) {
        text_line(t, STR("Date: "), http_date(net_wall()));
    }
    if (x->events != EVENTS_NONE) {
        /* Another proxy in front must not gather events. */
        text_addz(t, "X-Accel-Buffering: no\r\n");
        text_addz(t, seen & HTTP_BIT(HTTP_CACHE_CONTROL) ? "" : "Cache-Control: no-cache\r\n");
    }
    if (r->status == 101) {
        text_addz(t, UPGRADE);
    } else {
        reply_framing(x, r, t);
    }
    text_addz(t, "\r\n");
    return !t->full;
}
