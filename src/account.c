/*
 * account.c - level 6: see account.h.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, account.h.
 */
#include "account.h"

#include <string.h>

#include "ledger.h"
#include "log.h"
#include "meter.h"

struct exchange_totals exchange_totals;

static struct recent_error recent[RECENT_ERRORS];
static unsigned recent_n; /* of all so far */

/*
 * A server that counted nothing: of a prompt four bytes, of a stream one event are about a token. Vectors and images
 * are no text, and are not made of tokens.
 */
static void estimate(const struct exchange *x, struct usage_figures *f)
{
    bool text = x->route.inference == SERVES_CHAT;

    f->input = x->scan.prompt_n / 4;
    f->output = !text ? 0 : f->events > 0 ? f->events : x->bytes_out / 4;
}

static struct tally_event event_of(const struct exchange *x, uint64_t ms)
{
    bool replied = x->backend_status > 0 || x->status == 101; /* else the bytes are our own words */
    struct tally_event e = {.ms = ms, .bytes = replied ? x->bytes_out : 0};
    struct usage_figures f = usage_figures(&x->usage);
    bool told = (f.told & (1u << USAGE_INPUT | 1u << USAGE_OUTPUT)) != 0;

    if (!told && (f.told & 1u << USAGE_TOTAL)) { /* rerankers tell no more, and write nothing */
        f.input = f.total;
        told = true;
    }
    e.began = x->first_at > 0;
    e.first_ms = e.began ? x->first_at - x->started : 0;
    if (x->counts && x->reads_usage && !told && x->backend_status < 400) {
        estimate(x, &f);
        e.estimated = true;
    }
    e.rate = f.rate;
    e.input = f.input;
    e.output = f.output;
    return e;
}

/* Tokens, and how fast they came. */
static void log_tokens(const struct exchange *x, const struct tally_event *e)
{
    struct usage_figures f = usage_figures(&x->usage);
    char mem[24];
    struct text t = text_in(mem, sizeof(mem) - 1);

    if (e->input + e->output > 0) {
        log_u64("input_tokens", e->input);
        log_u64("output_tokens", e->output);
        log_u64("total_tokens", e->estimated ? e->input + e->output : f.total);
    }
    if (e->estimated) {
        log_z("tokens", "estimated");
    }
    if (f.told & 1u << USAGE_CACHED) {
        log_u64("cached_tokens", f.cached);
    }
    if (f.rate > 0) {
        uint64_t tenths = (f.rate + 50) / 100;
        text_u64(&t, tenths / 10);
        text_char(&t, '.');
        text_u64(&t, tenths % 10);
        log_z("tokens_per_sec", text_z(&t));
    }
    if (f.model[0] && !str_ieq(str_of(f.model), str_of(x->scan.model))) {
        log_z("provider_model", f.model);
    }
}

static void access_line(const struct exchange *x, const struct tally_event *event)
{
    char end[2] = {(char)x->who, (char)x->phase};
    if (!conf_now->server.request_logging || !log_begin(LOG_INFO, "request")) {
        return;
    }
    log_z("client", exchange_client(x));
    log_z("method", x->method);
    log_z("path", x->path);
    if (x->query[0]) {
        log_z("query", x->query + 1); /* without its '?' */
    }
    log_u64("status", (uint64_t)(x->status > 0 ? x->status : 499));
    log_str("end", (struct str){end, 2});
    if (x->key.key > 0) {
        log_z("key", x->key.name);
    }
    if (x->e) {
        log_z("endpoint", x->e->name);
    }
    if (x->scan.model[0]) {
        log_z("model", x->scan.model);
    }
    if (x->messages && x->e) {
        log_z("translator_mode", x->translated ? "translation" : "passthrough");
    }
    log_u64("attempts", (uint64_t)x->attempts);
    log_u64("bytes_in", x->bytes_in);
    log_u64("bytes_out", x->bytes_out);
    if (x->head_at > 0) {
        log_u64("wait_ms", x->head_at - x->started);
    }
    if (x->wake.ms > 0) {
        log_u64("wake_ms", x->wake.ms);
    }
    if (event->began) {
        log_u64("ttft_ms", event->first_ms);
    }
    log_tokens(x, event);
    log_u64("duration_ms", event->ms);
    log_end();
}

/* What it says about its endpoint. */
static enum outcome outcome_of(const struct exchange *x)
{
    if (x->who == END_SERVER || x->who == END_SERVER_SLOW || x->backend_status >= 500) {
        return OUTCOME_BAD;
    }
    bool silent = x->backend_status == 0 || x->backend_status == 429 || x->who == END_CLIENT ||
                  x->who == END_CLIENT_SLOW;
    return silent || x->who == END_KILLED || x->who == END_RESOURCE ? OUTCOME_NONE : OUTCOME_GOOD;
}

static void count(struct exchange *x, struct tally_event *event)
{
    bool served = x->e && x->status > 0 && x->status < 500 && x->who != END_SERVER && x->who != END_SERVER_SLOW;
    bool left = x->who == END_CLIENT || x->who == END_CLIENT_SLOW;

    exchange_totals.active--;
    if (!x->e && !x->lost) {
        return;
    }
    event->served = (served || left) && x->backend_status < 500;
    tally_add(&exchange_totals.sum, event);
    gate_add(&x->key, event, net_wall());
    struct str model = attempt_model(x);
    meter_add(str_of(x->key.name), model, event);
    bool fallback = x->decision && str_eq(str_of(x->decision), STR("fallback"));
    ledger_add(model, event, fallback ? LEDGER_FALLBACK : LEDGER_HIT, str_hash(str_of(exchange_client(x))), net_now());
    if (x->e) {
        endpoint_end(x->e, &x->use, outcome_of(x), event);
    }
}

/* ---- errors -------------------------------------------------------------------------------- */

static bool is_error(const struct exchange *x)
{
    bool ours = x->who == END_SERVER || x->who == END_SERVER_SLOW || x->who == END_RESOURCE || x->who == END_KILLED;
    return ours || x->status >= 500;
}

static void keep_error(const struct exchange *x)
{
    struct recent_error *r = &recent[recent_n++ % RECENT_ERRORS];

    memset(r, 0, sizeof(*r));
    r->wall_ms = net_wall();
    r->status = x->status;
    r->end[0] = (char)x->who;
    r->end[1] = (char)x->phase;
    r->message = x->error ? x->error : "";
    (void)str_copy(r->id, sizeof(r->id), str_of(x->id));
    (void)str_copy(r->endpoint, sizeof(r->endpoint), x->e ? str_of(x->e->name) : STR(""));
    (void)str_copy(r->model, sizeof(r->model), str_of(x->scan.model));
    (void)str_copy(r->path, sizeof(r->path), str_of(x->path));
    (void)str_copy(r->client, sizeof(r->client), str_of(exchange_client(x)));
}

const struct recent_error *account_recent(unsigned i)
{
    return i < recent_n && i < RECENT_ERRORS ? &recent[(recent_n - 1 - i) % RECENT_ERRORS] : NULL;
}

size_t account_cost(void)
{
    return sizeof(recent);
}

void account_close(struct exchange *x)
{
    struct tally_event event = event_of(x, net_now() - x->started);

    access_line(x, &event);
    if (is_error(x)) {
        keep_error(x);
    }
    count(x, &event);
}
