/*
 * reply.c - level 6: answers that olla makes itself: errors in the caller's
 * dialect, redirects, local pages.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, heartbeat.h, inspector.h.
 */
#include <string.h>

#include "cors.h"
#include "exchange.h"
#include "heartbeat.h"
#include "inspector.h"

/* The class of an error, in OpenAI's and in Anthropic's words. The first row whose status fits wins; 0 fits all. */
static const struct {
    int status;
    const char *openai;
    const char *anthropic;
} classes[] = {
    {400, "invalid_request_error", "invalid_request_error"},
    {401, "authentication_error", "authentication_error"},
    {402, "insufficient_quota", "billing_error"},
    {403, "permission_error", "permission_error"},
    {404, "invalid_request_error", "not_found_error"},
    {405, "invalid_request_error", "invalid_request_error"},
    {408, "timeout_error", "timeout_error"},
    {409, "invalid_request_error", "invalid_request_error"},
    {413, "invalid_request_error", "request_too_large"},
    {415, "invalid_request_error", "invalid_request_error"},
    {422, "invalid_request_error", "invalid_request_error"},
    {429, "rate_limit_error", "rate_limit_error"},
    {431, "invalid_request_error", "invalid_request_error"},
    {501, "not_supported_error", "invalid_request_error"},
    {503, "server_error", "overloaded_error"},
    {504, "timeout_error", "timeout_error"},
    {529, "server_error", "overloaded_error"},
    {0, "server_error", "api_error"},
};

static size_t class_of(int status)
{
    size_t i = 0;
    while (classes[i].status != status && classes[i].status != 0) {
        i++;
    }
    return i;
}

void reply_error_body(struct text *t, const struct exchange *x, const struct reply_error *err)
{
    size_t class_ = class_of(err->status);
    switch (x->route.dialect) {
    case DIALECT_OPENAI:
        text_addz(t, "{\"error\":{\"message\":");
        json_text(t, str_of(err->message));
        json_member(t, "type", str_of(classes[class_].openai));
        json_member(t, "code", str_of(err->code));
        text_addz(t, ",\"param\":null}}\n");
        break;
    case DIALECT_OLLAMA:
        text_addz(t, "{\"error\":");
        json_text(t, str_of(err->message));
        text_addz(t, "}\n");
        break;
    case DIALECT_ANTHROPIC:
        text_addz(t, "{\"type\":\"error\",\"error\":{\"type\":");
        json_text(t, str_of(classes[class_].anthropic));
        json_member(t, "message", str_of(err->message));
        text_addz(t, err->details ? ",\"details\":" : "");
        text_addz(t, err->details);
        text_addz(t, "}");
        json_member(t, "request_id", str_of(x->id));
        text_addz(t, "}\n");
        break;
    case DIALECT_PLAIN:
        text_addz(t, err->message);
        text_char(t, '\n');
        break;
    }
}

/* Status line and the headers that all our own answers have. */
static void head(struct exchange *x, struct text *t, int status, const char *content_type)
{
    x->status = status;
    x->keep = x->keep && x->request_read; /* what is left of a body would be taken for a request */
    text_addz(t, "HTTP/1.1 ");
    text_padded(t, (uint64_t)status, 3);
    text_char(t, ' ');
    text_addz(t, http_reason(status));
    text_addz(t, "\r\nDate: ");
    text_add(t, http_date(net_wall()));
    text_addz(t, content_type ? "\r\nContent-Type: " : "");
    text_addz(t, content_type);
    text_addz(t, "\r\n");
    if (x->id[0]) {
        forward_own_headers(x, t);
    }
    if (!cors_is_preflight(&x->req)) {
        cors_write_reply(&x->req, t);
    }
    if (x->id[0] && x->route.dialect == DIALECT_ANTHROPIC) {
        text_addz(t, "request-id: ");
        text_addz(t, x->id);
        text_addz(t, "\r\n");
    }
}

static void end_head(struct exchange *x, struct text *t, bool chunked, uint64_t length)
{
    x->chunked_out = chunked;
    if (chunked) {
        text_addz(t, "Transfer-Encoding: chunked\r\n");
    } else if (length != UINT64_MAX) {
        text_addz(t, "Content-Length: ");
        text_u64(t, length);
        text_addz(t, "\r\n");
    }
    if (!x->keep) {
        text_addz(t, "Connection: close\r\n");
    } else if (x->http10) {
        text_addz(t, "Connection: keep-alive\r\n");
    }
    text_addz(t, "\r\n");
}

static void send_whole(struct exchange *x, struct text *t, struct str body)
{
    end_head(x, t, false, body.n);
    if (!x->is_head) {
        text_add(t, body);
        x->bytes_out += body.n;
        inspector_reply(x, body.p, body.n);
    }
    buf_text_done(&x->c->out, t);
    x->began = true;
    x->state = X_FLUSH;
}

/* A reply cannot be sent at all: the connection ends without one. */
static void give_up(struct exchange *x)
{
    x->who = END_RESOURCE;
    x->phase = PHASE_REQUEST;
    x->keep = false;
    x->state = X_DONE;
}

void reply_error(struct exchange *x, const struct reply_error *err)
{
    static char mem[OLLA_BUF_SIZE / 2];
    struct text body = text_in(mem, sizeof(mem)), t;
    bool plain = x->route.dialect == DIALECT_PLAIN;

    x->error = err->code;
    if (!buf_hold(&x->c->out, BUF_CLIENT)) {
        give_up(x);
        return;
    }
    reply_error_body(&body, x, err);
    if (body.full) { /* names that are nothing but letters to be escaped: the code says it, too */
        struct reply_error shorter = *err;
        shorter.message = err->code;
        body = text_in(mem, sizeof(mem));
        reply_error_body(&body, x, &shorter);
    }
    if (x->committed) {
        heartbeat_error(x, text_str(&body));
        return;
    }
    t = buf_text(&x->c->out);
    head(x, &t, err->status, plain ? "text/plain; charset=utf-8" : "application/json");
    if (plain) {
        text_addz(&t, "X-Content-Type-Options: nosniff\r\n");
    }
    if (err->status == 401) {
        text_addz(&t, "WWW-Authenticate: Bearer realm=\"olla\"\r\n");
    }
    if (err->should_retry) {
        text_addz(&t, err->should_retry == 't' ? "x-should-retry: true\r\n" : "x-should-retry: false\r\n");
    }
    if (err->retry_after > 0) {
        text_addz(&t, "Retry-After: ");
        text_u64(&t, err->retry_after);
        text_addz(&t, "\r\n");
    }
    send_whole(x, &t, text_str(&body));
}

void reply_refuse(struct exchange *x, int status, const char *code, const char *message)
{
    struct reply_error err = {.status = status, .code = code, .message = message};
    x->who = END_PROXY;
    x->phase = PHASE_REQUEST;
    reply_error(x, &err);
}

void reply_empty(struct exchange *x)
{
    if (!buf_hold(&x->c->out, BUF_CLIENT)) {
        give_up(x);
        return;
    }
    struct text t = buf_text(&x->c->out);
    head(x, &t, 200, "text/plain; charset=utf-8");
    send_whole(x, &t, STR(""));
}

void reply_preflight(struct exchange *x)
{
    if (!buf_hold(&x->c->out, BUF_CLIENT)) {
        give_up(x);
        return;
    }
    struct text t = buf_text(&x->c->out);
    head(x, &t, 204, NULL);
    cors_write_preflight(&x->req, &t);
    end_head(x, &t, false, UINT64_MAX);
    buf_text_done(&x->c->out, &t);
    x->began = true;
    x->state = X_FLUSH;
}

void reply_redirect(struct exchange *x, struct str location)
{
    char mem[512];
    struct text body = text_in(mem, sizeof(mem)), t;

    if (!buf_hold(&x->c->out, BUF_CLIENT)) {
        give_up(x);
        return;
    }
    t = buf_text(&x->c->out);
    head(x, &t, 301, "text/html; charset=utf-8");
    text_addz(&t, "Location: ");
    http_escape_path(&t, location);
    text_char(&t, '/');
    text_add(&t, x->req.query);
    text_addz(&t, "\r\n");
    text_addz(&body, "Moved permanently: add a slash to the path.\n");
    send_whole(x, &t, text_str(&body));
}

/* ---- local pages --------------------------------------------------------------- */

/* With a head it fits into one block, whatever the size of these. */
#define PAGE_BYTES (OLLA_BUF_SIZE - OLLA_HEAD_RESERVE < 8192 ? OLLA_BUF_SIZE - OLLA_HEAD_RESERVE : 8192)
static char page_mem[PAGE_BYTES];

/* From the start, as often as wanted. */
static void rewind_page(struct exchange *x, bool hashing)
{
    x->hashing = hashing;
    x->cursor = 0;
    x->spelling[0] = '\0';
}

/* Over the page without what changes by itself. */
static uint64_t page_hash(struct exchange *x, const struct exchange_local *page)
{
    uint64_t h = STR_HASH_START;
    int more = 1;

    rewind_page(x, true);
    while (more) {
        struct text piece = text_in(page_mem, sizeof(page_mem));
        more = page->write(x, &piece);
        h = str_hash64(h, text_str(&piece));
    }
    rewind_page(x, false);
    return h;
}

bool reply_none_match(const struct exchange *x, struct str tag)
{
    struct str list = http_request_get(&x->req, HTTP_IF_NONE_MATCH);

    if (list.n > 1024) {
        return false;
    }
    while (list.p) {
        struct str one = str_split(&list, ',');
        one = str_starts(one, STR("W/")) ? str_skip(one, 2) : one;
        if (str_eq(one, STR("*")) || str_eq(one, tag)) {
            return true;
        }
    }
    return false;
}

void reply_local(struct exchange *x, const struct exchange_local *page)
{
    char mem[24] = "";
    struct text body, t, tag = text_in(mem, sizeof(mem));
    bool same = false;

    if (!buf_hold(&x->c->out, BUF_CLIENT)) {
        give_up(x);
        return;
    }
    if (page->etag) {
        text_char(&tag, '"');
        text_hex(&tag, page->state ? page->state(x) : page_hash(x, page), 16);
        text_char(&tag, '"');
        same = reply_none_match(x, text_str(&tag));
        text_z(&tag);
    }
    rewind_page(x, false);
    body = text_in(page_mem, sizeof(page_mem));
    int more = same ? 0 : page->write(x, &body);
    t = buf_text(&x->c->out);
    head(x, &t, same ? 304 : 200, same ? NULL : page->type ? page->type : "application/json");
    if (page->etag) {
        text_addz(&t, "ETag: W/");
        text_addz(&t, mem);
        text_addz(&t, "\r\nCache-Control: private, no-cache\r\nVary: Accept-Encoding\r\n");
    }
    if (same) {
        end_head(x, &t, false, UINT64_MAX);
        buf_text_done(&x->c->out, &t);
        x->began = true;
        x->state = X_FLUSH;
        return;
    }
    if (!more) {
        send_whole(x, &t, text_str(&body));
        return;
    }
    x->keep = x->keep && !x->http10;
    x->to_close = x->http10;
    end_head(x, &t, !x->http10, UINT64_MAX);
    buf_text_done(&x->c->out, &t);
    /* Begin again, now piece by piece into the room there is. */
    rewind_page(x, false);
    x->began = true;
    x->state = x->is_head ? X_FLUSH : X_LOCAL;
}

void reply_own(struct exchange *x, const struct reply_own *own)
{
    if (!buf_hold(&x->c->out, BUF_CLIENT)) {
        give_up(x);
        return;
    }
    struct text t = buf_text(&x->c->out);
    if (own->status >= 400) {
        x->who = END_PROXY;
        x->phase = PHASE_REQUEST;
    }
    head(x, &t, own->status, own->type);
    text_add(&t, own->lines);
    if (own->type && own->body.n < OLLA_HEAD_RESERVE) {
        send_whole(x, &t, own->body);
        return;
    }
    end_head(x, &t, false, own->type ? own->body.n : UINT64_MAX);
    buf_text_done(&x->c->out, &t);
    rewind_page(x, false);
    x->began = true;
    x->state = !own->type || x->is_head ? X_FLUSH : X_LOCAL;
}

void reply_more(struct exchange *x, const struct exchange_local *page)
{
    struct buf *out = &x->c->out;
    if (!exchange_hold(x, out, BUF_CLIENT)) {
        return;
    }
    buf_compact(out);
    if (buf_room(out) < PAGE_BYTES + 64) { /* and its framing: a part that fits into a piece must fit into every one */
        return;
    }
    struct text body = text_in(page_mem, sizeof(page_mem));
    int more = page->write(x, &body);
    struct text t = buf_text(out);
    if (body.n > 0 && x->chunked_out) {
        text_hex(&t, body.n, 1);
        text_addz(&t, "\r\n");
    }
    text_add(&t, text_str(&body));
    if (body.n > 0 && x->chunked_out) {
        text_addz(&t, "\r\n");
    }
    if (!more) {
        text_addz(&t, x->chunked_out ? "0\r\n\r\n" : "");
        x->state = X_FLUSH;
    }
    x->bytes_out += body.n;
    buf_text_done(out, &t);
}

/* ---- translated replies ---- */

void reply_begin_translated(struct exchange *x, const char *content_type, uint64_t length)
{
    struct text t = buf_text(&x->c->out);
    bool chunked = length == UINT64_MAX && !x->http10;

    x->headless = false;
    x->to_close = length == UINT64_MAX && x->http10;
    x->keep = x->keep && !x->to_close;
    head(x, &t, 200, content_type);
    forward_reply_headers(x, &t);
    if (length == UINT64_MAX) {
        text_addz(&t, "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    }
    end_head(x, &t, chunked, length);
    buf_text_done(&x->c->out, &t);
}

/* ---- broken streams -------------------------------------------------------------- */

void reply_broken_stream(struct exchange *x, const char *message)
{
    char mem[512];
    struct text body = text_in(mem, sizeof(mem));
    struct reply_error err = {.status = x->broken ? x->broken : 502, .code = "stream_interrupted", .message = message};

    if (x->events == EVENTS_NONE || !(x->chunked_out || x->to_close)) {
        return; /* into a body of a given length nothing can be put */
    }
    bool sse = x->events == EVENTS_SSE;
    if (x->route.dialect == DIALECT_PLAIN) {
        x->route.dialect = sse ? DIALECT_OPENAI : DIALECT_OLLAMA; /* such a stream holds JSON */
    }
    /* The backend may have died inside a line: a fresh line first, an empty one ends a half event. */
    unsigned wanted = sse ? 2 : 1;
    for (unsigned have = x->bytes_out > 0 ? x->newlines : wanted; have < wanted; have++) {
        text_char(&body, '\n');
    }
    if (sse && x->route.dialect == DIALECT_ANTHROPIC) {
        text_addz(&body, "event: error\n");
    }
    text_addz(&body, sse ? "data: " : "");
    reply_error_body(&body, x, &err);
    text_addz(&body, sse ? "\n" : "");

    buf_compact(&x->c->out);
    struct text t = buf_text(&x->c->out);
    if (x->chunked_out) {
        text_hex(&t, body.n, 1);
        text_addz(&t, "\r\n");
    }
    text_add(&t, text_str(&body));
    text_addz(&t, x->chunked_out ? "\r\n" : "");
    if (!t.full) {
        buf_text_done(&x->c->out, &t);
        inspector_reply(x, body.p, body.n);
    }
}
