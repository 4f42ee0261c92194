/*
 * admit.c - level 6: see admit.h.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, admit.h.
 */
#include "admit.h"

#include "log.h"

bool admit_shows(const struct exchange *x)
{
    const struct conf_cidrs *list = &conf_now->dashboard.access_policy.allowed_cidrs;

    return cidr_any(list->item, list->n, &x->c->peer_addr);
}

bool admit_by_place(const struct exchange *x)
{
    /* Also of a proxy that is not trusted: nobody else sends these. */
    const uint64_t told = HTTP_BIT(HTTP_X_FORWARDED_FOR) | HTTP_BIT(HTTP_FORWARDED) | HTTP_BIT(HTTP_X_REAL_IP) |
                          HTTP_BIT(HTTP_VIA);

    return !x->from_text[0] && !(x->req.names & told) && admit_shows(x);
}

bool admit_whole_key(const struct exchange *x)
{
    return x->key.key > 0 && !gate_narrow(&x->key);
}

/* Who asks if olla is alive need not be known; and who may see the dashboard may see what it is made of. */
static bool is_open_to_all(const struct exchange *x)
{
    const struct route *r = &x->route;
    bool looks = str_eq(x->req.method, STR("GET")) || x->is_head;
    bool health = r->kind == ROUTE_LOCAL && r->page == LOCAL_HEALTH && looks;
    bool page = r->kind == ROUTE_LOCAL && r->page == LOCAL_DASHBOARD; /* which says itself who may not, and why */
    bool own = str_starts(x->req.path, STR("/internal/")) || str_eq(x->req.path, STR("/version"));

    if (r->kind == ROUTE_LOCAL && r->page == LOCAL_ACTION) {
        /* A key that was brought counts, wherever it comes from. */
        bool key = (x->req.names & (HTTP_BIT(HTTP_AUTHORIZATION) | HTTP_BIT(HTTP_X_API_KEY))) != 0;
        return !key && admit_by_place(x);
    }
    /* What a proxy brings that olla believes comes from elsewhere: its own address opens nothing. */
    return health || ((page || (own && admit_shows(x))) && !x->from_text[0]);
}

/* 429, and when it may be tried again. */
static bool refuse_for(struct exchange *x, uint64_t seconds, const char *message)
{
    struct reply_error err = {.status = 429,
                              .code = "rate_limit_exceeded",
                              .message = message,
                              .retry_after = (unsigned)seconds};
    x->who = END_PROXY;
    x->phase = PHASE_REQUEST;
    reply_error(x, &err);
    return false;
}

static void say_limited(const struct exchange *x, const char *limit)
{
    static uint64_t warned;

    if (log_allowed(&warned, net_now()) && log_begin(LOG_WARN, "an API key has used up what it may, 429")) {
        log_z("key", x->key.name);
        log_z("limit", limit);
        log_end();
    }
}

/* What the key may use: tokens first, because looking takes none. */
static bool take_rate(struct exchange *x)
{
    uint64_t wait_ms;

    if (!gate_may_spend(&x->key, net_wall(), &wait_ms)) {
        say_limited(x, "tokens_per_day");
        return refuse_for(x, (wait_ms + 999) / 1000, "this API key has used up its tokens of today (tokens_per_day)");
    }
    if (!gate_take(&x->key, net_now(), &wait_ms)) {
        say_limited(x, "requests_per_minute");
        return refuse_for(x, (wait_ms + 999) / 1000,
                          "this API key may send no more requests in this minute (requests_per_minute)");
    }
    return true;
}

void admit_client(struct exchange *x)
{
    struct cidr_addr told;

    if (limits_trusts(&x->from) && limits_client(x->req.fields, &told, x->from_text, sizeof(x->from_text))) {
        x->from = told;
    }
}

/* By address, before the key is looked at: who tries keys shall not try many. */
static bool take_limit(struct exchange *x)
{
    uint64_t wait_ms;

    switch (limits_take(&x->from, net_now(), &x->rate, &wait_ms)) {
    case LIMITS_CLIENT:
        return refuse_for(x, wait_ms / 1000 + 1,
                          "Too Many Requests: this address may send no more for now "
                          "(server.rate_limits.per_ip_requests_per_minute)");
    case LIMITS_ALL:
        return refuse_for(x, wait_ms / 1000 + 1,
                          "Too Many Requests: all clients together may send no more for now "
                          "(server.rate_limits.global_requests_per_minute)");
    case LIMITS_NONE:
    case LIMITS_PASS:
        break;
    }
    return true;
}

bool admit_head(struct exchange *x)
{
    static const char *const why[] = {
        [GATE_NO_KEY] = "an API key is needed: send it as \"Authorization: Bearer KEY\" or as \"x-api-key: KEY\"",
        [GATE_WRONG_KEY] = "this API key is not known here",
        [GATE_SEVERAL_KEYS] = "more than one API key in the same kind of header: send one",
    };

    if (x->route.kind == ROUTE_PROXY && !take_limit(x)) {
        return false;
    }
    if (!gate_closed() || is_open_to_all(x)) {
        return true;
    }
    enum gate_answer answer = gate_enter(&x->req, x->upgrade, &x->key);
    /* Lists are free, but not for those who try keys. */
    if (answer > GATE_NO_KEY && x->route.kind != ROUTE_PROXY && !take_limit(x)) {
        return false;
    }
    if (answer != GATE_OPEN) {
        reply_refuse(x, 401, "invalid_api_key", why[answer]);
        return false;
    }
    return x->route.kind != ROUTE_PROXY || take_rate(x);
}

bool admit_model(struct exchange *x)
{
    static char mem[OLLA_MODEL_NAME + OLLA_KEY_NAME + 80];
    struct text t = text_in(mem, sizeof(mem));
    /* Only where a model is asked to do something does its name tell what the request is about. */
    bool asks = str_eq(str_of(x->method), STR("POST")) || x->upgrade;
    struct str model = asks ? str_of(x->scan.model) : STR("");

    if (x->key.key == 0 || (gate_allows(&x->key, model) && !(x->route.pinnable && gate_narrow(&x->key)))) {
        return true;
    }
    if (x->route.pinnable) { /* lists and management of one machine: all its models are within reach */
        reply_refuse(x, 403, "not_allowed", "this path is about all models of a machine, and this API key is not");
        return false;
    }
    text_addz(&t, "the API key \"");
    text_addz(&t, x->key.name);
    text_addz(&t, model.n > 0 ? "\" may not use the model \"" : "\" is for certain models, and the request names none");
    text_add(&t, model);
    text_addz(&t, model.n > 0 ? "\"" : "");
    reply_refuse(x, 403, "model_not_allowed", text_z(&t));
    return false;
}
