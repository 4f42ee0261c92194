/*
 * messages.c - level 6: see messages.h.
 *
 *   accept -> choose -> prepare (estimate, length) -> send -> take_head -> relay -> finish
 *               ^_______________________________________|       (messages_reply.c)
 *                             next candidate
 *
 * May include: olla.h, levels 1 to 5, exchange.h, messages_state.h.
 */
#include "messages.h"

#include <string.h>

#include "log.h"
#include "messages_state.h"
#include "pool.h"

/* So long a native endpoint may take to count the tokens of a request, before olla does. */
#define COUNT_MS 5000
/* Work in one turn: steps between two looks at the clock, and how long all of it may take. */
#define STEPS   64
#define TURN_MS 3
/* No longer is an answer that says that there is no such path. */
#define NO_PATH_MAX 4096

POOL_STORAGE(MESSAGES, struct messages, messages_pool)

struct messages_totals messages_totals;

void messages_init(void)
{
    messages_pool();
}

/* ---- the request ------------------------------------------------------------------------- */

static bool is_ours(const struct exchange *x)
{
    return str_starts(x->req.path, STR("/olla/anthropic/"));
}

void messages_route(struct exchange *x)
{
    struct route *r = &x->route;
    bool enabled = conf_now->translators.anthropic.enabled;
    bool create = str_eq(r->target, STR("/v1/messages"));
    bool count = str_eq(r->target, STR("/v1/messages/count_tokens"));

    if (is_ours(x) && (!enabled || (r->kind == ROUTE_PROXY && !create && !count))) {
        *r = (struct route){.kind = ROUTE_NOT_FOUND};
        return;
    }
    if (r->kind != ROUTE_PROXY || !enabled || (!create && !count)) {
        return;
    }
    if (!str_eq(x->req.method, STR("POST"))) {
        r->kind = ROUTE_REFUSED;
        r->status = 405;
        r->text = "this path takes POST only";
        return;
    }
    r->messages = create ? MESSAGES_CREATE : MESSAGES_COUNT;
    if (create && r->api) {
        r->api = conf_now->translators.anthropic.passthrough_enabled ? API_ANTHROPIC | API_OPENAI : API_OPENAI;
    }
}

bool messages_begin(struct exchange *x)
{
    if (x->route.messages == MESSAGES_NONE) {
        return true;
    }
    struct messages *m = pool_get(POOL_MESSAGES);
    if (!m) {
        struct reply_error err = {.status = 503,
                                  .code = "out_of_messages",
                                  .message = "olla has no room for one more request of this kind now, try again",
                                  .retry_after = 1};
        x->who = END_RESOURCE;
        x->phase = PHASE_REQUEST;
        reply_error(x, &err);
        return false;
    }
    x->messages = m;
    x->req.json = true; /* whatever the client calls it */
    m->to_count = x->route.messages == MESSAGES_COUNT;
    m->request.body = (struct json_source){store_bytes, &x->body, &m->failed};
    json_check_start(&m->check, anthropic_keys, m->request.top);
    return true;
}

void messages_feed(struct exchange *x, const char *p, size_t n)
{
    json_check_feed(&x->messages->check, p, n);
}

uint64_t messages_limit(const struct exchange *x)
{
    uint64_t all = conf_now->server.max_body_size, own = conf_now->translators.anthropic.max_message_size;
    return x->route.messages == MESSAGES_NONE ? all : all > 0 && all < own ? all : own;
}

static bool hides_thinking(const struct anthropic_request *r)
{
    static const char *const keys[] = {"display", NULL};
    struct json_value display;
    char word[16];

    json_collect(&r->body, r->top[ASK_THINKING], keys, &display);
    return json_read(&r->body, display, word, sizeof(word)) && strcmp(word, "omitted") == 0;
}

bool messages_accept(struct exchange *x)
{
    struct messages *m = x->messages;
    const char *why = x->body.n == 0 ? "empty request body" : anthropic_check(&m->request, &m->check, m->to_count);

    if (m->failed) {
        reply_refuse(x, 507, "spool_error", MESSAGES_UNREADABLE);
        return false;
    }
    if (why) {
        reply_refuse(x, 400, "invalid_request", why);
        return false;
    }
    if (anthropic_wants_thread(&m->request)) {
        /* Client libraries read the details, and send the whole conversation then. */
        struct reply_error err = {
            .status = 400,
            .code = "thread_unsupported",
            .message = "thread: conversations are not kept here, send all messages with each request",
            .details = "{\"error_code\":\"thread_unsupported_request\",\"unsupported\":[\"thread\"]}"};
        x->who = END_PROXY;
        x->phase = PHASE_REQUEST;
        reply_error(x, &err);
        return false;
    }
    m->stream = m->request.top[ASK_STREAM].kind == 't';
    m->has_stops = m->request.top[ASK_STOP].kind == '[';
    m->hide_thinking = hides_thinking(&m->request);
    if (m->to_count) {
        return conf_now->translators.anthropic.passthrough_enabled || !messages_count_here(x);
    }
    inspector_request(x, &m->inspection);
    return true;
}

/* In which words the endpoint gets it. One that speaks neither, and was asked for by its prefix, gets it as it is. */
static void decide(struct exchange *x)
{
    struct messages *m = x->messages;
    unsigned apis = x->e->profile->apis;
    bool may_pass = (apis & API_ANTHROPIC) && conf_now->translators.anthropic.passthrough_enabled &&
                    !x->e->no_messages && !m->fell_back;

    x->translated = !m->to_count && !may_pass && (apis & API_OPENAI);
    m->counted = false;
    m->length = 0;
    if (x->translated && !m->estimated) {
        anthropic_estimate_start(&m->now.estimate, &m->request);
    } else if (x->translated) {
        messages_rewind(x);
    }
}

void messages_choose(struct exchange *x, struct str model)
{
    str_copy(x->messages->model, sizeof(x->messages->model), model);
    x->messages->fell_back = false;
    decide(x);
}

void messages_rewind(struct exchange *x)
{
    struct messages *m = x->messages;
    anthropic_tell_start(&m->now.telling, &m->request, x->e->profile, str_of(m->model));
}

/* One step of getting ready: 1 = go on, 0 = ready, OLLA_ERR. */
static int prepare_step(struct exchange *x)
{
    struct messages *m = x->messages;
    int n;

    if (!m->estimated) {
        if (!anthropic_estimate_step(&m->now.estimate)) {
            m->estimated = true;
            m->estimate = anthropic_estimate_tokens(&m->now.estimate);
            messages_rewind(x);
        }
        return 1;
    }
    n = anthropic_tell_step(&m->now.telling);
    if (n == 1) {
        m->length += pieces_count(&m->now.telling.out);
    }
    return m->failed ? OLLA_ERR : n;
}

int messages_prepare(struct exchange *x)
{
    struct messages *m = x->messages;
    uint64_t until = plat_now_ms() + TURN_MS;

    if (!x->translated || m->counted) {
        return 1;
    }
    for (;;) {
        for (int i = 0; i < STEPS; i++) {
            int n = prepare_step(x);
            if (n == OLLA_ERR) {
                str_copy(m->refusal, sizeof(m->refusal), str_of(m->failed ? "" : m->now.telling.error));
                return OLLA_ERR;
            }
            if (n == 0) {
                m->counted = true;
                return 1;
            }
        }
        if (plat_now_ms() >= until) {
            x->busy = true;
            return OLLA_AGAIN;
        }
    }
}

bool messages_unreadable(const struct exchange *x)
{
    return x->messages->failed;
}

const char *messages_refusal(const struct exchange *x)
{
    return x->messages && x->messages->refusal[0] ? x->messages->refusal : NULL;
}

uint64_t messages_length(const struct exchange *x)
{
    return x->messages->length;
}

void messages_fill(struct exchange *x)
{
    struct messages *m = x->messages;
    struct anthropic_telling *t = &m->now.telling;
    struct buf *out = &x->u->out;

    buf_compact(out);
    while (buf_room(out) >= ROOM_MIN && x->sent < m->length) {
        if (pieces_empty(&t->out) && anthropic_tell_step(t) != 1) {
            break;
        }
        size_t n = pieces_take(&t->out, buf_tail(out), buf_room(out));
        buf_added(out, n);
        x->sent += n;
        if (n == 0 && !pieces_empty(&t->out)) {
            break;
        }
    }
}

/* ---- counting here ---------------------------------------------------------------------------- */

int64_t messages_patience(const struct exchange *x)
{
    bool to_count = x->messages && x->messages->to_count;
    return to_count ? COUNT_MS : conf_now->proxy.response_header_timeout;
}

bool messages_is_count(const struct http_response *r)
{
    bool some = r->framing != HTTP_LENGTH || r->length > 0;
    return r->status == 200 && some && str_istarts(r->content_type, STR("application/json"));
}

bool messages_count_here(struct exchange *x)
{
    struct messages *m = x->messages;
    if (!m || !m->to_count) {
        return false;
    }
    anthropic_estimate_start(&m->now.estimate, &m->request);
    x->route.kind = ROUTE_LOCAL;
    x->route.page = LOCAL_TOKENS;
    x->backend_status = 0;
    x->deadline = 0;
    x->state = X_HOLD;
    return true;
}

bool messages_counted(struct exchange *x)
{
    struct messages *m = x->messages;
    uint64_t until = plat_now_ms() + TURN_MS;

    while (!m->estimated) {
        for (int i = 0; i < STEPS && !m->estimated; i++) {
            m->estimated = !anthropic_estimate_step(&m->now.estimate);
        }
        if (!m->estimated && plat_now_ms() >= until) {
            x->busy = true;
            return false;
        }
    }
    m->estimate = anthropic_estimate_tokens(&m->now.estimate);
    return true;
}

bool messages_check_count(struct exchange *x, struct reply_error *err)
{
    *err = (struct reply_error){.status = 507, .code = "spool_error", .message = MESSAGES_UNREADABLE};
    return !x->messages->failed;
}

uint64_t messages_tokens(const struct exchange *x)
{
    return x->messages->estimate;
}

/* ---- servers without the API ---- */

int messages_fall_back(struct exchange *x, const struct http_response *r, struct str body)
{
    bool no_path = r->status == 404 || r->status == 405 || r->status == 501;
    bool small = r->framing == HTTP_LENGTH && r->length <= NO_PATH_MAX;
    if (!x->messages || x->translated || x->messages->to_count || !no_path || !small ||
        x->use.generation != x->e->generation || !(x->e->profile->apis & API_OPENAI)) {
        return 0;
    }
    if (body.n < r->length) {
        return buf_room(&x->u->in) > 0 || x->u->in.off > 0 ? OLLA_AGAIN : 0;
    }
    if (str_ihas(body, STR("model"))) { /* whether they know the model is told with the same status */
        return 0;
    }
    attempt_drop_upstream(x);
    x->messages->fell_back = true;
    decide(x);
    x->sent = 0;
    x->deadline = 0;
    x->state = X_CONNECT;
    return 1;
}

/* ---- the end -------------------------------------------------------------------------------------------- */

static void count(const struct exchange *x, const struct messages *m)
{
    struct messages_totals *t = &messages_totals;
    bool good = x->status >= 200 && x->status < 300 && (x->who == END_NOBODY || x->who == END_CLIENT) && x->broken == 0;

    if (m->to_count) {
        return;
    }
    t->requests++;
    t->failed += !good;
    t->latency_ms_sum += good ? net_now() - x->started : 0;
    t->streams += m->stream;
    t->native += x->e && !x->translated;
    t->translated += x->e && x->translated;
    t->nowhere += !x->e;
}

void messages_finish(struct exchange *x)
{
    struct messages *m = x->messages;
    if (!m) {
        return;
    }
    count(x, m);
    store_clear(&m->doc);
    store_clear(&m->held);
    pool_put(POOL_MESSAGES, m);
    x->messages = NULL;
}
