/*
 * attempt.c - level 6: from a whole request to a backend that has it:
 * X_CONNECT chooses an endpoint and a connection, X_SEND sends; a failure
 * before the reply began leads to the next address, the next candidate, or an
 * answer that tells the truth.
 *
 * May include: olla.h, levels 1 to 5, body.h, exchange.h.
 */
#include <string.h>

#include "exchange.h"
#include "ledger.h"
#include "log.h"
#include "messages.h"
#include "queue.h"
#include "wake.h"

/* Blocks of a request that is told in other words, before another connection gets its turn. */
#define TELL_ROUNDS 16

static void note_decision(struct exchange *x, const struct route_choice *c)
{
    x->strategy = c->strategy;
    x->decision = c->decision;
    x->reason = c->reason;
    if (c->decision && !c->reason) {
        struct text t = text_in(x->alias_reason, sizeof(x->alias_reason));
        text_addz(&t, "alias \"");
        text_addz(&t, x->scan.model);
        text_addz(&t, "\" resolved to ");
        text_u64(&t, (uint64_t)c->resolved);
        text_addz(&t, " endpoint(s)");
        x->reason = text_z(&t);
    }
}

static void name_apis(struct text *t, unsigned apis)
{
    static const struct {
        unsigned api;
        const char *name;
    } rows[] = {
        {API_OPENAI, "OpenAI's (/v1/...)"},
        {API_OLLAMA, "Ollama's (/api/...)"},
        {API_ANTHROPIC, "Anthropic's (/v1/messages)"},
        {API_LM_STUDIO, "LM Studio's (/api/v0/...)"},
        {API_LEMONADE, "Lemonade's (/api/v1/...)"},
        {API_DMR, "Docker Model Runner's (/engines/...)"},
    };
    const char *between = "";

    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        if (apis & rows[i].api) {
            text_addz(t, between);
            text_addz(t, rows[i].name);
            between = ", ";
        }
    }
}

/* The sentence for the client: what is the matter. */
static void explain(struct text *t, const struct exchange *x, const struct route_choice *choice)
{
    if (choice->sleeper) {
        text_addz(t, "the machine of endpoint \"");
        text_addz(t, choice->sleeper->name);
        text_addz(t, "\" slept and is being woken, but nobody waits for it (wake.policy, X-Olla-Wake): try again soon");
    } else if (choice->closed) {
        text_addz(t, "all endpoints that could serve ");
        text_addz(t, x->scan.model[0] ? "the model \"" : "this");
        text_addz(t, x->scan.model);
        text_addz(t, x->scan.model[0] ? "\"" : "");
        text_addz(t, choice->limited ? " take no requests now" : " have failed and are left alone for a while");
    } else if (choice->status == 404 && choice->instead) {
        text_addz(t, "model \"");
        text_addz(t, x->scan.model);
        text_addz(t, "\" is not served through this API: the endpoints that have it speak ");
        name_apis(t, choice->instead);
    } else if (choice->reason) {
        text_addz(t, choice->status == 404 ? "model \"" : "no healthy endpoint serves the model \"");
        text_addz(t, x->scan.model);
        text_addz(t, choice->status == 404 ? "\" not found" : "\" now");
    } else if (choice->no_such_pin) {
        text_addz(t, "no endpoint for this route is named as the header X-Olla-Endpoint says");
    } else if (http_request_get(&x->req, HTTP_X_OLLA_ENDPOINT).n > 0) {
        text_addz(t, "the endpoint that the header X-Olla-Endpoint names is not healthy");
    } else if (x->route.has_type) {
        text_addz(t, "No ");
        text_add(t, str_eq(x->route.prefix, STR("openai")) ? x->route.prefix : str_of(x->route.only->name));
        text_addz(t, " endpoints available");
    } else {
        text_addz(t, "no healthy endpoints available");
    }
}

static unsigned seconds(uint64_t ms)
{
    return ms < 1000 ? 1 : (unsigned)((ms + 999) / 1000);
}

static void reject(struct exchange *x, const struct route_choice *choice)
{
    static char mem[OLLA_BUF_SIZE / 4];
    struct text t = text_in(mem, sizeof(mem) - 1);
    struct route_query q = attempt_query(x);
    const char *word = choice->sleeper   ? "endpoint_asleep"
                       : choice->limited ? "rate_limited"
                       : choice->closed  ? "breaker_open"
                                         : choice->reason;
    struct reply_error err = {.status = choice->status, .code = word ? word : "no_endpoint"};

    note_decision(x, choice);
    if (x->route.dialect == DIALECT_PLAIN && word) {
        text_addz(&t, word); /* scripts look for the word */
        text_addz(&t, ": ");
    }
    explain(&t, x, choice);
    if (choice->starting) {
        text_addz(&t, "; endpoints are still being probed, try again in a moment");
        err.retry_after = 1;
    } else if (choice->status == 404 && choice->reason && !choice->instead) {
        char near[400];
        struct text names = text_in(near, sizeof(near));
        if (!gate_narrow(&x->key) && model_near(str_of(x->scan.model), &names) > 0) {
            text_addz(&t, "; did you mean: ");
            text_add(&t, text_str(&names));
        }
    } else if (choice->sleeper) {
        err.status = 503;
        err.retry_after = seconds(wake_expected(choice->sleeper));
    } else if (choice->closed) {
        err.retry_after = seconds(choice->closed_ms);
    } else if (choice->status == 503) {
        err.retry_after = 5;
    }
    route_reasons(&q, &t);
    err.message = text_z(&t);
    x->who = END_PROXY;
    x->phase = PHASE_REQUEST;
    ledger_miss(str_of(x->scan.model));
    reply_error(x, &err);
}

static void refuse_waiting(struct exchange *x, int status, const char *code, const char *message)
{
    static char mem[OLLA_BUF_SIZE / 4];
    struct text t = text_in(mem, sizeof(mem) - 1);
    struct route_query q = attempt_query(x);
    struct reply_error err = {.status = status, .code = code, .retry_after = 5};

    if (x->route.dialect == DIALECT_PLAIN) {
        text_addz(&t, code); /* scripts look for the word */
        text_addz(&t, ": ");
    }
    text_addz(&t, message);
    route_reasons(&q, &t);
    err.message = text_z(&t);
    x->who = END_RESOURCE;
    x->phase = PHASE_REQUEST;
    ledger_miss(str_of(x->scan.model));
    reply_error(x, &err);
    queue_leave(x);
    wake_leave(x);
}

void attempt_waited_too_long(struct exchange *x)
{
    char mem[512];
    struct text t = text_in(mem, sizeof(mem) - 1);

    if (x->wake.waits) {
        wake_story(x, &t);
        refuse_waiting(x, 504, "wake_timeout", text_z(&t));
        x->who = END_SERVER_SLOW;
        x->phase = PHASE_CONNECT;
        return;
    }
    queue_stats.timed_out++;
    refuse_waiting(x, 503, "queue_timeout", "no endpoint had room for the request in time (proxy.queue.timeout)");
}

void attempt_note_limit(struct exchange *x, const struct http_response *r)
{
    struct str after = http_response_get(r, HTTP_RETRY_AFTER);
    uint64_t wait = 0;
    bool told = http_retry_after(after, net_wall(), &wait);

    bool limits = r->status == 429 || (r->status == 503 && told);
    if (limits && x->use.generation == x->e->generation) {
        endpoint_limit(x->e, told ? wait : 1000);
    }
}

/* How far it goes for a machine that sleeps: only for work, or when it names the machine. */
static enum conf_wake wake_most(const struct exchange *x)
{
    struct str word = http_request_get(&x->req, HTTP_X_OLLA_WAKE);
    bool may = x->counts || http_request_get(&x->req, HTTP_X_OLLA_ENDPOINT).n > 0;

    return !may || str_ieq(word, STR("never")) ? WAKE_NEVER : str_ieq(word, STR("prefer")) ? WAKE_PREFER : WAKE_REQUIRE;
}

struct route_query attempt_query(const struct exchange *x)
{
    return (struct route_query){
        .route = &x->route,
        .model = str_of(x->scan.model),
        .tried = x->tried,
        .balancer = conf_now->proxy.load_balancer,
        .alias = conf_alias_find(conf_now, str_of(x->scan.model)),
        .pin = http_request_get(&x->req, HTTP_X_OLLA_ENDPOINT),
        .refreshed = x->refreshed,
        .counts = x->counts,
        .tokens = (uint32_t)(x->scan.prompt_n / 4 < UINT32_MAX ? x->scan.prompt_n / 4 : UINT32_MAX),
        .key = x->session.key,
        .wake = wake_most(x),
        .woken = x->wake.done,
    };
}

bool exchange_may_retry(const struct exchange *x)
{
    struct route_query q = attempt_query(x);
    int max = conf_now->proxy.retry.max_attempts;
    if (!conf_now->proxy.retry.enabled || x->began || (max > 0 && x->attempts >= max)) {
        return false;
    }
    struct route_choice c = route_choose(&q);
    return c.e != NULL || c.full != 0 || c.wait;
}

/* What the endpoint calls the model: its own spelling, or what the alias stands for there. */
static const char *own_name(const struct exchange *x, const struct conf_alias *alias)
{
    const char *own = NULL;
    for (int i = 0; alias && i < alias->models.n && !own; i++) {
        own = model_spelling(str_of(alias->models.item[i]), x->e);
    }
    return own;
}

struct str attempt_model(const struct exchange *x)
{
    struct str model = str_of(x->scan.model);
    const struct conf_alias *alias = conf_alias_find(conf_now, model);
    const char *own = x->e ? own_name(x, alias) : NULL;

    if (!own && x->e && model.n > 0) {
        own = model_spelling(model, x->e);
    }
    return own ? str_of(own) : model;
}

/* The body names the model in the client's words; a backend may insist on its own. */
static void note_spelling(struct exchange *x, const struct route_query *q)
{
    const char *own = own_name(x, q->alias);
    bool alias = own != NULL;

    x->spelling[0] = '\0';
    if (!own && q->model.n > 0) {
        own = model_spelling(q->model, x->e);
    }
    if (x->messages) {
        bool same = own && !alias && !str_ieq(str_of(own), q->model);
        messages_choose(x, own && !same ? str_of(own) : q->model);
    }
    bool named = x->scan.model_to > 0 || x->query_model.n > 0;
    if (!own || !named || (!alias && !str_ieq(str_of(own), q->model))) {
        return; /* "name" for "name:latest": the backend knows that itself */
    }
    struct text t = text_in(x->spelling, sizeof(x->spelling));
    if (x->form.mark_n > 0 || x->query_model.n > 0) {
        text_addz(&t, own);
    } else {
        json_text(&t, str_of(own));
    }
    text_z(&t);
    bool as_sent = x->query_model.n > 0 || x->scan.model_to - x->scan.model_from == t.n;
    bool same = str_eq(str_of(own), q->model) && as_sent;
    if (t.full || same) {
        x->spelling[0] = '\0';
    }
}

/*
 * True while the answer may still change: endpoints have not been probed yet (start, reload), or, for the
 * discovery strategy, lists are read anew. A request waits once for each, and not for ever.
 */
static bool wait_for_news(struct exchange *x, const struct route_choice *c)
{
    uint64_t now = net_now();

    bool start = !x->refreshed && !c->e && c->starting && now < x->started + EXCHANGE_HOLD_MS;
    if (c->refresh && !start) {
        x->refreshed = true;
        x->hold_until = now + (uint64_t)conf_now->model_registry.routing_strategy.options.discovery_timeout;
        endpoint_ask_lists(x->started);
    }
    bool found = c->e && str_eq(str_of(c->decision), STR("routed"));
    bool lists = x->refreshed && !found && now < x->hold_until && endpoint_lists_pending();
    x->waiting = lists || start;
    return x->waiting;
}

static struct target *main_target(const struct exchange *x)
{
    return &x->e->at[TARGET_MAIN];
}

/* All that could serve it are busy. true: it was answered, because the line is full too. */
static bool wait_in_line(struct exchange *x, const struct route_choice *choice)
{
    if (!queue_enter(x, choice->full)) {
        refuse_waiting(x, 429, "queue_full", "too many requests are waiting already (proxy.queue.max_waiting)");
        return true;
    }
    x->deadline = x->queue.since + (uint64_t)conf_now->proxy.queue.timeout;
    return false;
}

/* Only machines that sleep could serve it. true: it was answered, because too many wait already. */
static bool wait_for_machine(struct exchange *x, struct endpoint *e)
{
    queue_leave(x);
    if (!wake_enter(x, e)) {
        refuse_waiting(x, 429, "queue_full", "too many requests are waiting already (proxy.queue.max_waiting)");
        return true;
    }
    x->tried &= ~endpoint_bit(e); /* awake it is another chance */
    x->deadline = x->wake.since + (uint64_t)e->wake.timeout;
    return false;
}

static void note_session(struct exchange *x, const struct route_choice *choice)
{
    bool had;
    x->session.pin = choice->pin;
    if (choice->sticky == STICKY_OFF) {
        return;
    }
    /* A second attempt for a conversation that was known moves it. */
    bool moved = x->attempts > 1 && x->session.outcome != STICKY_MISS;
    x->session.outcome = moved ? STICKY_REPIN : choice->sticky;
    if (x->attempts == 1) {
        sticky_find(x->session.key, &had);
    }
}

static void begin_attempt(struct exchange *x, const struct route_query *q, const struct route_choice *choice)
{
    x->e = choice->e;
    if (x->wake.since > 0) {
        wake_stats.served += x->wake.done == 0;
        x->wake.done |= endpoint_bit(x->e);
    }
    note_decision(x, choice);
    x->tried |= endpoint_bit(x->e);
    x->attempts++;
    x->addr_first = main_target(x)->good;
    x->addr_tries = 0;
    x->fresh = conf_now->proxy.engine == ENGINE_SHERPA;
    x->reusable = !x->fresh;
    x->sent = 0;
    x->deadline = 0;
    endpoint_begin(x->e, &x->use, q->counts, choice->turn);
    note_session(x, choice);
    queue_leave(x);
    note_spelling(x, q);
}

/* Chooses an endpoint, or answers that there is none. false: neither is possible yet. */
static bool choose(struct exchange *x)
{
    struct route_query q = attempt_query(x);

    if (queue_waits(x)) {
        return false;
    }
    struct route_choice choice = route_choose(&q);
    if (wait_for_news(x, &choice)) {
        return false;
    }
    if (choice.refresh) { /* there was nobody to ask: decide now */
        q.refreshed = true;
        choice = route_choose(&q);
    }
    /* A place that others wait for is theirs. */
    endpoint_set theirs = 0;
    while (choice.e && q.counts && choice.e->max_concurrent > 0 && queue_is_wanted(x, choice.e)) {
        theirs |= endpoint_bit(choice.e);
        q.tried |= theirs;
        choice = route_choose(&q);
    }
    choice.full |= theirs;
    if (choice.sleeper && !choice.wait) {
        wake_start(choice.sleeper, "a request would rather have gone there");
    }
    if (!choice.e && choice.full) {
        wake_leave(x);
        return wait_in_line(x, &choice);
    }
    if (!choice.e && messages_count_here(x)) {
        queue_leave(x);
        return true;
    }
    if (!choice.e && messages_refusal(x)) {
        reply_refuse(x, 400, "invalid_request", messages_refusal(x));
        queue_leave(x);
        return true;
    }
    if (choice.wait && choice.sleeper) {
        return wait_for_machine(x, choice.sleeper);
    }
    wake_leave(x);
    if (!choice.e) {
        choice.starting = choice.starting && !x->refreshed;
        choice.status = choice.starting ? 503 : choice.status;
        reject(x, &choice);
        queue_leave(x);
        return true;
    }
    begin_attempt(x, &q, &choice);
    return true;
}

void attempt_drop_upstream(struct exchange *x)
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
    [FAIL_TLS] = {502, END_SERVER, PHASE_CONNECT, NULL}, /* the connection knows */
    [FAIL_CONNECT_TIMEOUT] = {504, END_SERVER_SLOW, PHASE_CONNECT, "did not accept the connection in time"},
    [FAIL_LOST] = {502, END_SERVER, PHASE_HEAD, "closed the connection without an answer"},
    [FAIL_GARBLED] = {502, END_SERVER, PHASE_HEAD, "sent a malformed reply"},
    [FAIL_STATUS] = {502, END_SERVER, PHASE_HEAD, "answered with an error status"},
    [FAIL_SILENT] = {504, END_SERVER_SLOW, PHASE_HEAD, "did not begin its answer in time (first_byte_timeout)"},
};

static void fail_finally(struct exchange *x, enum attempt_failure kind, const char *why)
{
    if (messages_count_here(x)) {
        return;
    }
    char mem[256];
    struct text t = text_in(mem, sizeof(mem) - 1);
    struct reply_error err = {.status = failures[kind].status,
                              .code = kind == FAIL_CONNECT_TIMEOUT ? "backend_timeout" : "backend_error"};

    text_addz(&t, "Proxy error: endpoint \"");
    text_addz(&t, x->e->name);
    text_addz(&t, "\" ");
    text_addz(&t, why);
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
    const char *why = kind == FAIL_TLS ? x->u->s.why : failures[kind].why;

    attempt_drop_upstream(x);
    x->deadline = 0;
    if (stale) {
        /* The backend had closed a kept connection before our request reached it: no attempt was made. */
        x->fresh = true;
        x->sent = 0;
        x->state = X_CONNECT;
        return;
    }
    if (kind <= FAIL_CONNECT_TIMEOUT && ++x->addr_tries < main_target(x)->addrs) {
        x->state = X_CONNECT;
        return;
    }
    if (kind <= FAIL_CONNECT_TIMEOUT && x->use.generation == x->e->generation) {
        endpoint_failed(x->e, why);
    }
    bool limited = kind == FAIL_STATUS && x->backend_status == 429;
    bool again = exchange_may_retry(x) && kind != FAIL_GARBLED &&
                 (kind != FAIL_LOST || conf_now->proxy.retry.on_connection_lost);
    if (!again) {
        fail_finally(x, kind, why);
        return;
    }
    if (log_begin(LOG_DEBUG, "attempt failed")) {
        log_z("endpoint", x->e->name);
        log_z("reason", why);
        log_end();
    }
    if (kind <= FAIL_CONNECT_TIMEOUT && x->e->state == ENDPOINT_ASLEEP) {
        endpoint_unused(x->e, &x->use); /* that it sleeps is no failure */
    } else {
        endpoint_end(x->e, &x->use, limited ? OUTCOME_NONE : OUTCOME_BAD, &(struct tally_event){.served = false});
    }
    x->e = NULL;
    x->lost = true;
    x->backend_status = 0;
    x->status = x->committed ? 200 : 0;
    x->state = X_CONNECT;
}

static bool begin_send(struct exchange *x)
{
    if (!exchange_hold(x, &x->u->out, BUF_BACKEND)) {
        return false;
    }
    struct text t = buf_text(&x->u->out);
    if (!forward_request_head(x, &t)) {
        attempt_drop_upstream(x);
        endpoint_unused(x->e, &x->use);
        x->e = NULL;
        static struct log_limit hit;
        exchange_totals.size_limited++;
        log_limit(&hit, net_now(), "a request head has no room for what is added to it, answered with 431",
                  "OLLA_HEAD_RESERVE", OLLA_HEAD_RESERVE);
        reply_refuse(x, 431, "headers_too_large", "Request headers too large");
        return true;
    }
    buf_text_done(&x->u->out, &t);
    if (x->translated) {
        messages_rewind(x);
    }
    x->deadline = net_now() + exchange_read_timeout(x);
    x->state = X_SEND;
    return true;
}

/*
 * A request that has to be told in other words: how long is it. false: not yet, or this endpoint cannot have it (x->e
 * is NULL then, and others are tried).
 */
static bool prepare(struct exchange *x)
{
    int n = messages_prepare(x);
    if (n == OLLA_ERR) {
        endpoint_unused(x->e, &x->use);
        x->e = NULL;
        x->attempts--;
    }
    if (n == OLLA_ERR && messages_unreadable(x)) {
        reply_refuse(x, 507, "spool_error", MESSAGES_UNREADABLE);
        x->who = END_RESOURCE;
    }
    return n == 1;
}

/*
 * A reload has put another machine in the endpoint's place while this connection was being made: what is configured
 * for that one, its credentials above all, must not go to the old one. Nothing was sent yet.
 */
static void choose_anew(struct exchange *x)
{
    attempt_drop_upstream(x);
    x->tried &= ~endpoint_bit(x->e);
    endpoint_unused(x->e, &x->use);
    x->e = NULL;
    x->attempts--;
    x->deadline = 0;
}

/* It is ready to use, only a buffer was missing, or its connect has ended. */
static bool use_connection(struct exchange *x)
{
    x->u_readable = false;
    if (x->u->generation != x->e->generation) {
        choose_anew(x);
        return true;
    }
    if (!x->u->reused && net_connected(&x->u->s) != OLLA_OK) {
        exchange_attempt_failed(x, x->u->s.why ? FAIL_TLS : FAIL_REFUSED);
        return true;
    }
    if (x->use.generation == x->e->generation && !x->u->reused) {
        main_target(x)->good = x->u->which; /* this address works */
    }
    if (!begin_send(x)) {
        x->u_readable = true; /* come back here when there is a buffer */
        return false;
    }
    return true;
}

bool attempt_connect_step(struct exchange *x)
{
    bool no_slot;

    if (x->u) {
        return x->u_readable && use_connection(x);
    }
    if (!x->e && !choose(x)) {
        return false;
    }
    if (!x->e) {
        return true; /* answered */
    }
    if (x->messages && !prepare(x)) {
        return x->e == NULL;
    }
    if (!x->fresh && (x->u = upstream_take(x->e, &exchange_upstream_ops, x)) != NULL) {
        x->u_readable = true;
        return true;
    }
    if (main_target(x)->addrs == 0) {
        exchange_attempt_failed(x, FAIL_REFUSED);
        return true;
    }
    unsigned keepalive_s = (unsigned)(conf_now->proxy.connection_keep_alive / 1000);
    int which = (x->addr_first + x->addr_tries) % main_target(x)->addrs;
    x->u = upstream_connect(x->e, which, keepalive_s, &exchange_upstream_ops, x, &no_slot);
    if (!x->u && no_slot) {
        struct reply_error err = {.status = 503,
                                  .code = "out_of_connections",
                                  .message = "olla has no free connection to the backends, try again",
                                  .retry_after = 1};
        endpoint_unused(x->e, &x->use);
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
    x->deadline = net_now() + (uint64_t)(x->e->connection_timeout > 0 ? x->e->connection_timeout
                                                                      : conf_now->proxy.connection_timeout);
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

bool attempt_send_step(struct exchange *x)
{
    struct upstream *u = x->u;
    uint64_t total = exchange_wire_length(x);
    int rounds = 0;

    while (buf_len(&u->out) > 0 || x->sent < total) {
        if (x->translated) {
            if (rounds++ == TELL_ROUNDS) {
                break;
            }
            if (!exchange_hold(x, &u->out, BUF_BACKEND)) {
                return false;
            }
            messages_fill(x);
        }
        struct str head = buf_str(&u->out), body = x->sent < total && !x->translated ? wire_bytes(x) : STR("");
        struct iovec v[2] = {{(void *)(uintptr_t)head.p, head.n}, {(void *)(uintptr_t)body.p, body.n}};
        int first = head.n > 0 ? 0 : 1;
        if (x->sent < total && head.n + body.n == 0) {
            attempt_drop_upstream(x);
            reply_refuse(x, 507, "spool_error", "the spooled request body cannot be read, see the log");
            x->who = END_RESOURCE;
            return true;
        }
        long n = net_give(&u->s, v + first, body.n > 0 ? 2 - first : 1);
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
        x->deadline = net_now() + exchange_read_timeout(x);
        if ((size_t)n < head.n + body.n) {
            break;
        }
    }
    if (buf_len(&u->out) == 0) {
        buf_drop(&u->out);
    }
    if (buf_len(&u->out) == 0 && x->sent == total) {
        int64_t limit = messages_patience(x), own = x->e->first_byte_timeout;
        x->state = X_WAIT;
        x->deadline = net_now() + (uint64_t)(own > 0 && own < limit ? own : limit);
        return x->u_readable;
    }
    if (x->u_readable) {
        x->state = X_WAIT; /* an answer before the request was complete, or a lost connection */
        return true;
    }
    return false;
}

uint64_t exchange_wire_length(const struct exchange *x)
{
    if (x->translated) {
        return messages_length(x);
    }
    bool spliced = x->spelling[0] && x->query_model.n == 0;
    return spliced ? x->body.n - (x->scan.model_to - x->scan.model_from) + strlen(x->spelling) : x->body.n;
}
