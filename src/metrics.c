/*
 * metrics.c - level 7: see metrics.h.
 *
 * One table of families. A family is written as its head and then one part
 * for each of its items (endpoints, models, keys, pools, or just one), so that
 * a part stays small; what an item's figure is a function of its kind tells, in
 * thousandths.
 *
 * May include: olla.h, levels 1 to 6, admin.h, status.h, metrics.h.
 */
#include "metrics.h"

#include "admin.h"
#include "hooks.h"
#include "ledger.h"
#include "messages.h"
#include "pool.h"
#include "queue.h"
#include "status.h"
#include "wake.h"

enum kind { SYSTEM = 0, ENDPOINT, MODEL, KEY, POOL, KINDS };

enum figure {
    /* of the system */
    INFO = 0,
    STATE,
    ENDPOINTS,
    HEALTHY,
    SUCCESS,
    LATENCY,
    TRAFFIC,
    UPTIME,
    ACTIVE,
    VIOLATIONS,
    REQUESTS,
    FAILURES,
    BLOCKED,
    RATE_LIMITED,
    SIZE_LIMITED,
    SECURITY,
    INPUT,
    OUTPUT,
    ESTIMATED,
    MEMORY,
    IDLE_UPSTREAMS,
    WAITING,
    WAITED,
    WAITED_TOO_LONG,
    TURNED_AWAY,
    HELD,
    WOKEN,
    NOT_WOKEN,
    HOOKS_RUNNING,
    HOOKS_STARTED,
    HOOKS_FAILED,
    HOOKS_DROPPED,
    STICKY_ACTIVE,
    STICKY_HITS,
    STICKY_MISSES,
    STICKY_EVICTIONS,
    TRANSLATED,
    PASSED_THROUGH,
    MODELS_ALL,
    MODELS_ACTIVE,
    MODELS_REQUESTS,
    MODELS_SUCCESS,
    MODELS_TRAFFIC,
    /* of one thing; some of the above, too */
    UP,
    CONNECTIONS,
    SERVING,
    PRIORITY,
    MODELS,
    BREAKER,
    PROBE,
    RATE,
    ASLEEP,
    WAKES,
    WAKES_FAILED,
    SUCCESSFUL,
    P95,
    P99,
    CLIENTS,
    HITS,
    MISSES,
    FALLBACKS,
    TODAY,
    PER_DAY,
    USED,
    MOST,
    COUNT,
    EMPTY,
    /* histograms */
    FIRST_BYTE,
    DURATION
};

static const struct family {
    const char *name, *type, *help;
    enum kind kind;
    enum figure figure;
} families[] = {
    {"olla_info", "gauge", "Version and configuration.", SYSTEM, INFO},
    {"olla_system_status", "gauge", "2 healthy, 1 degraded, 0 critical.", SYSTEM, STATE},
    {"olla_endpoints_total", "gauge", "Configured endpoints.", SYSTEM, ENDPOINTS},
    {"olla_endpoints_healthy", "gauge", "Endpoints that are healthy.", SYSTEM, HEALTHY},
    {"olla_success_rate_percent", "gauge", "Requests that were served, of all.", SYSTEM, SUCCESS},
    {"olla_avg_latency_ms", "gauge", "Average time of a served request.", SYSTEM, LATENCY},
    {"olla_total_traffic_bytes", "gauge", "Bytes of replies to clients.", SYSTEM, TRAFFIC},
    {"olla_uptime_seconds", "gauge", "Time since the start.", SYSTEM, UPTIME},
    {"olla_active_connections", "gauge", "Requests under way.", SYSTEM, ACTIVE},
    {"olla_requests_total", "counter", "Requests that an endpoint was chosen for.", SYSTEM, REQUESTS},
    {"olla_failures_total", "counter", "... of which failed.", SYSTEM, FAILURES},
    {"olla_security_violations_total", "counter", "Requests refused by limits.", SYSTEM, VIOLATIONS},
    {"olla_security_blocked_ips", "gauge", "Addresses that were limited in the last hour.", SYSTEM, BLOCKED},
    {"olla_security_rate_limit_violations_total", "counter", "Requests over a rate limit.", SYSTEM, RATE_LIMITED},
    {"olla_security_size_limit_violations_total", "counter", "Requests over a size limit.", SYSTEM, SIZE_LIMITED},
    {"olla_security_status", "gauge", "1 normal, 0 elevated.", SYSTEM, SECURITY},
    {"olla_input_tokens_total", "counter", "Tokens of prompts.", SYSTEM, INPUT},
    {"olla_output_tokens_total", "counter", "Tokens of answers.", SYSTEM, OUTPUT},
    {"olla_estimated_requests_total", "counter", "Requests whose tokens are estimates.", SYSTEM, ESTIMATED},
    {"olla_resident_memory_bytes", "gauge", "Resident memory of the process.", SYSTEM, MEMORY},
    {"olla_idle_upstreams", "gauge", "Connections to backends that wait for use.", SYSTEM, IDLE_UPSTREAMS},
    {"olla_queue_waiting", "gauge", "Requests in the waiting line.", SYSTEM, WAITING},
    {"olla_queue_served_total", "counter", "Requests that waited and got an endpoint.", SYSTEM, WAITED},
    {"olla_queue_timeouts_total", "counter", "Requests that waited too long.", SYSTEM, WAITED_TOO_LONG},
    {"olla_queue_refused_total", "counter", "Requests that found the line full.", SYSTEM, TURNED_AWAY},
    {"olla_wake_waiting", "gauge", "Requests that wait for a machine to wake up.", SYSTEM, HELD},
    {"olla_wake_served_total", "counter", "Requests that waited and were sent there.", SYSTEM, WOKEN},
    {"olla_wake_timeouts_total", "counter", "Requests that waited for a machine that did not come.", SYSTEM, NOT_WOKEN},
    {"olla_hooks_running", "gauge", "Programs of [hooks] that run.", SYSTEM, HOOKS_RUNNING},
    {"olla_hooks_started_total", "counter", "... that were started.", SYSTEM, HOOKS_STARTED},
    {"olla_hooks_failed_total", "counter", "... that failed or took too long.", SYSTEM, HOOKS_FAILED},
    {"olla_hooks_dropped_total", "counter", "Events that none was started for: too many waited.", SYSTEM,
     HOOKS_DROPPED},
    {"olla_sticky_sessions_active", "gauge", "Conversations that are remembered.", SYSTEM, STICKY_ACTIVE},
    {"olla_sticky_hits_total", "counter", "Turns that went where the one before went.", SYSTEM, STICKY_HITS},
    {"olla_sticky_misses_total", "counter", "Turns that did not.", SYSTEM, STICKY_MISSES},
    {"olla_sticky_evictions_total", "counter", "Conversations that were forgotten for want of room.", SYSTEM,
     STICKY_EVICTIONS},
    {"olla_messages_translated_total", "counter", "Requests of the Anthropic API that were translated.", SYSTEM,
     TRANSLATED},
    {"olla_messages_passed_through_total", "counter", "... that an endpoint got as they were.", SYSTEM, PASSED_THROUGH},

    {"olla_endpoint_up", "gauge", "1 if the endpoint is healthy.", ENDPOINT, UP},
    {"olla_endpoint_requests_total", "counter", "Requests that it got.", ENDPOINT, REQUESTS},
    {"olla_endpoint_failures_total", "counter", "... of which failed.", ENDPOINT, FAILURES},
    {"olla_endpoint_connections", "gauge", "Requests under way there.", ENDPOINT, CONNECTIONS},
    {"olla_endpoint_serving", "gauge", "... of which count for max_concurrent.", ENDPOINT, SERVING},
    {"olla_endpoint_success_rate_percent", "gauge", "Requests that it served, of all.", ENDPOINT, SUCCESS},
    {"olla_endpoint_avg_latency_ms", "gauge", "Average time of a served request.", ENDPOINT, LATENCY},
    {"olla_endpoint_traffic_bytes", "counter", "Bytes of its replies.", ENDPOINT, TRAFFIC},
    {"olla_endpoint_priority", "gauge", "Its priority.", ENDPOINT, PRIORITY},
    {"olla_endpoint_models_count", "gauge", "Models in its list.", ENDPOINT, MODELS},
    {"olla_endpoint_breaker_open", "gauge", "1 while its breaker keeps requests away.", ENDPOINT, BREAKER},
    {"olla_endpoint_asleep", "gauge", "1 if its machine sleeps.", ENDPOINT, ASLEEP},
    {"olla_endpoint_wakes_total", "counter", "How often its machine was woken.", ENDPOINT, WAKES},
    {"olla_endpoint_wake_failures_total", "counter", "... in vain.", ENDPOINT, WAKES_FAILED},
    {"olla_endpoint_probe_seconds", "gauge", "Time of the last health check.", ENDPOINT, PROBE},
    {"olla_endpoint_tokens_per_second", "gauge", "Of its last replies, as it told.", ENDPOINT, RATE},
    {"olla_endpoint_input_tokens_total", "counter", "Tokens of prompts.", ENDPOINT, INPUT},
    {"olla_endpoint_output_tokens_total", "counter", "Tokens of answers.", ENDPOINT, OUTPUT},
    {"olla_endpoint_first_byte_seconds", "histogram", "From a request's arrival to the first byte of the reply's body.",
     ENDPOINT, FIRST_BYTE},
    {"olla_endpoint_duration_seconds", "histogram", "From a request's arrival to its end, if it was served.", ENDPOINT,
     DURATION},

    {"olla_models_total", "gauge", "Models that were asked for, as far as they are remembered.", SYSTEM, MODELS_ALL},
    {"olla_models_active", "gauge", "... in the last hour.", SYSTEM, MODELS_ACTIVE},
    {"olla_models_requests_total", "counter", "Requests for them.", SYSTEM, MODELS_REQUESTS},
    {"olla_models_success_rate_percent", "gauge", "Served, of all.", SYSTEM, MODELS_SUCCESS},
    {"olla_models_traffic_bytes", "counter", "Bytes of replies.", SYSTEM, MODELS_TRAFFIC},
    {"olla_model_requests_total", "counter", "Requests for the model.", MODEL, REQUESTS},
    {"olla_model_successful_requests_total", "counter", "... that were served.", MODEL, SUCCESSFUL},
    {"olla_model_failed_requests_total", "counter", "... that failed.", MODEL, FAILURES},
    {"olla_model_success_rate_percent", "gauge", "Served, of all.", MODEL, SUCCESS},
    {"olla_model_traffic_bytes", "counter", "Bytes of replies.", MODEL, TRAFFIC},
    {"olla_model_avg_latency_ms", "gauge", "Average time of a served request.", MODEL, LATENCY},
    {"olla_model_p95_latency_ms", "gauge", "So long took 95 % of them at most.", MODEL, P95},
    {"olla_model_p99_latency_ms", "gauge", "So long took 99 % of them at most.", MODEL, P99},
    {"olla_model_unique_clients", "gauge", "Addresses that asked for it, up to 32.", MODEL, CLIENTS},
    {"olla_model_routing_hits_total", "counter", "Requests that went to an endpoint that has it.", MODEL, HITS},
    {"olla_model_routing_misses_total", "counter", "Requests that no endpoint could take.", MODEL, MISSES},
    {"olla_model_routing_fallbacks_total", "counter", "Requests that went elsewhere.", MODEL, FALLBACKS},
    {"olla_model_input_tokens_total", "counter", "Tokens of prompts.", MODEL, INPUT},
    {"olla_model_output_tokens_total", "counter", "Tokens of answers.", MODEL, OUTPUT},

    {"olla_key_requests_total", "counter", "Requests with that API key.", KEY, REQUESTS},
    {"olla_key_failures_total", "counter", "... of which failed.", KEY, FAILURES},
    {"olla_key_input_tokens_total", "counter", "Tokens of prompts.", KEY, INPUT},
    {"olla_key_output_tokens_total", "counter", "Tokens of answers.", KEY, OUTPUT},
    {"olla_key_tokens_today", "gauge", "Tokens since midnight.", KEY, TODAY},
    {"olla_key_tokens_per_day", "gauge", "Its limit, 0 = none.", KEY, PER_DAY},

    {"olla_pool_used", "gauge", "Elements in use.", POOL, USED},
    {"olla_pool_max_used", "gauge", "The most that were in use at one time.", POOL, MOST},
    {"olla_pool_size", "gauge", "Elements that there are.", POOL, COUNT},
    {"olla_pool_empty_total", "counter", "How often none was left.", POOL, EMPTY},
};

/* ---- figures, in thousandths --------------------------------------------------------------- */

static uint64_t percent_of(const struct tally *sum)
{
    return sum->requests > 0 ? tally_served(sum) * 100000 / sum->requests : 0;
}

/* What many things have. */
static uint64_t tally_figure(const struct tally *sum, enum figure figure)
{
    switch (figure) {
    case REQUESTS:
        return sum->requests * 1000;
    case SUCCESSFUL:
        return tally_served(sum) * 1000;
    case FAILURES:
        return sum->failed * 1000;
    case SUCCESS:
        return percent_of(sum);
    case LATENCY:
        return tally_average(sum) * 1000;
    case TRAFFIC:
        return sum->bytes * 1000;
    case INPUT:
        return sum->input * 1000;
    case OUTPUT:
        return sum->output * 1000;
    case ESTIMATED:
        return sum->estimated * 1000;
    default:
        return 0;
    }
}

static uint64_t state_figure(const char *state)
{
    return str_eq(str_of(state), STR("healthy")) ? 2000 : str_eq(str_of(state), STR("degraded")) ? 1000 : 0;
}

static uint64_t models_figure(enum figure figure)
{
    uint64_t hour = net_now() > 3600000 ? net_now() - 3600000 : 0;
    struct ledger_totals all = ledger_totals(0);

    switch (figure) {
    case MODELS_ALL:
        return all.models * UINT64_C(1000);
    case MODELS_ACTIVE:
        return ledger_totals(hour).models * UINT64_C(1000);
    case MODELS_REQUESTS:
        return tally_figure(&all.sum, REQUESTS);
    case MODELS_SUCCESS:
        return tally_figure(&all.sum, SUCCESS);
    default:
        return tally_figure(&all.sum, TRAFFIC);
    }
}

static uint64_t limits_figure(enum figure figure, const struct status_system *now)
{
    switch (figure) {
    case VIOLATIONS:
        return now->limited * 1000;
    case BLOCKED:
        return now->blocked * UINT64_C(1000);
    case RATE_LIMITED:
        return limits_totals.requests * 1000;
    case SIZE_LIMITED:
        return exchange_totals.size_limited * 1000;
    default:
        return now->elevated ? 0 : 1000;
    }
}

/* Of requests that wait for something, and of programs. */
static uint64_t waiting_figure(enum figure figure)
{
    switch (figure) {
    case WAITING:
        return queue_stats.waiting * UINT64_C(1000);
    case WAITED:
        return queue_stats.served * UINT64_C(1000);
    case WAITED_TOO_LONG:
        return queue_stats.timed_out * UINT64_C(1000);
    case TURNED_AWAY:
        return queue_stats.refused * UINT64_C(1000);
    case HELD:
        return wake_stats.waiting * UINT64_C(1000);
    case WOKEN:
        return wake_stats.served * 1000;
    case NOT_WOKEN:
        return wake_stats.timed_out * 1000;
    case HOOKS_RUNNING:
        return hooks_stats.running * UINT64_C(1000);
    case HOOKS_STARTED:
        return hooks_stats.started * 1000;
    case HOOKS_FAILED:
        return hooks_stats.failed * 1000;
    default:
        return hooks_stats.dropped * 1000;
    }
}

static uint64_t system_figure(enum figure figure)
{
    const struct sticky_stats *sticky = sticky_stats();
    const struct messages_totals *m = &messages_totals;
    struct status_system now = status_system();

    switch (figure) {
    case INFO:
        return 1000;
    case STATE:
        return state_figure(now.status);
    case ENDPOINTS:
        return now.endpoints * UINT64_C(1000);
    case HEALTHY:
        return now.healthy * UINT64_C(1000);
    case UPTIME:
        return net_now() - admin_start();
    case ACTIVE:
        return exchange_totals.active * UINT64_C(1000);
    case VIOLATIONS:
    case BLOCKED:
    case RATE_LIMITED:
    case SIZE_LIMITED:
    case SECURITY:
        return limits_figure(figure, &now);
    case MEMORY:
        return plat_rss_bytes() * 1000;
    case IDLE_UPSTREAMS:
        return upstream_idle_count() * UINT64_C(1000);
    case WAITING:
    case WAITED:
    case WAITED_TOO_LONG:
    case TURNED_AWAY:
    case HELD:
    case WOKEN:
    case NOT_WOKEN:
    case HOOKS_RUNNING:
    case HOOKS_STARTED:
    case HOOKS_FAILED:
    case HOOKS_DROPPED:
        return waiting_figure(figure);
    case STICKY_ACTIVE:
        return sticky->active * UINT64_C(1000);
    case STICKY_HITS:
        return sticky->hits * UINT64_C(1000);
    case STICKY_MISSES:
        return sticky->misses * UINT64_C(1000);
    case STICKY_EVICTIONS:
        return sticky->evictions * UINT64_C(1000);
    case TRANSLATED:
        return (m->requests - m->native) * 1000;
    case PASSED_THROUGH:
        return m->native * 1000;
    case MODELS_ALL:
    case MODELS_ACTIVE:
    case MODELS_REQUESTS:
    case MODELS_SUCCESS:
    case MODELS_TRAFFIC:
        return models_figure(figure);
    default:
        return tally_figure(&exchange_totals.sum, figure);
    }
}

static uint64_t endpoint_figure(const struct endpoint *e, enum figure figure)
{
    switch (figure) {
    case UP:
        return e->state == ENDPOINT_HEALTHY ? 1000 : 0;
    case CONNECTIONS:
        return e->inflight * UINT64_C(1000);
    case SERVING:
        return e->serving * UINT64_C(1000);
    case PRIORITY:
        return (uint64_t)e->priority * 1000;
    case MODELS:
        return e->models * UINT64_C(1000);
    case BREAKER:
        return endpoint_is_open(e) ? 0 : 1000;
    case ASLEEP:
        return e->state == ENDPOINT_ASLEEP ? 1000 : 0;
    case WAKES:
        return e->wake.wakes * 1000;
    case WAKES_FAILED:
        return e->wake.failures * 1000;
    case PROBE:
        return e->probe_ms;
    case RATE:
        return e->rate;
    default:
        return tally_figure(&e->sum, figure);
    }
}

static uint64_t model_figure(const struct ledger_model *m, enum figure figure)
{
    switch (figure) {
    case P95:
        return histogram_percentile(&m->latency, 95) * 1000;
    case P99:
        return histogram_percentile(&m->latency, 99) * 1000;
    case CLIENTS:
        return m->clients_n * UINT64_C(1000);
    case HITS:
        return m->hits * 1000;
    case MISSES:
        return m->misses * 1000;
    case FALLBACKS:
        return m->fallbacks * 1000;
    default:
        return tally_figure(&m->sum, figure);
    }
}

static uint64_t key_figure(const struct gate_usage *u, enum figure figure)
{
    return figure == TODAY ? u->today * 1000 : figure == PER_DAY ? u->per_day * 1000 : tally_figure(u->sum, figure);
}

static uint64_t pool_figure(const struct pool_stats *p, enum figure figure)
{
    size_t n = figure == USED ? p->used : figure == MOST ? p->max_used : p->count;
    return figure == EMPTY ? p->failed * 1000 : n * UINT64_C(1000);
}

/* ---- text ---------------------------------------------------------------------------------- */

static void label(struct text *t, bool first, const char *key, struct str value)
{
    text_addz(t, first ? "{" : ",");
    text_addz(t, key);
    text_addz(t, "=\"");
    while (value.n > 0) {
        size_t n = json_utf8_length(value);
        char c = n == 0 ? '?' : value.p[0]; /* one byte that is no text would spoil the whole document */
        if (c == '\\' || c == '"') {
            text_char(t, '\\');
        }
        if (c == '\n') {
            text_addz(t, "\\n");
        } else {
            text_add(t, n > 0 ? (struct str){value.p, n} : STR("?"));
        }
        value = str_skip(value, n > 0 ? n : 1);
    }
    text_char(t, '"');
}

static void sample(struct text *t, uint64_t thousandths)
{
    text_char(t, ' ');
    status_thousandths(t, thousandths);
    text_char(t, '\n');
}

static void info_labels(struct text *t)
{
    struct status_system now = status_system();

    label(t, true, "version", STR(OLLA_VERSION));
    label(t, false, "commit", STR("none"));
    label(t, false, "engine", str_of(now.engine));
    label(t, false, "profile", str_of(now.profile));
    label(t, false, "balancer", str_of(now.balancer));
    text_char(t, '}');
}

/* Bounds are powers of two, which the histogram counts exactly: 8 ms, 32 ms, ... 17 minutes. */
static void write_histogram(struct text *t, const struct family *f, const struct endpoint *e)
{
    static const unsigned char powers[] = {3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20};
    const struct histogram *h = f->figure == FIRST_BYTE ? &e->first : &e->whole;

    for (size_t i = 0; i <= OLLA_COUNT(powers); i++) {
        char mem[24];
        struct text bound = text_in(mem, sizeof(mem));
        bool last = i == OLLA_COUNT(powers);
        if (last) {
            text_addz(&bound, "+Inf");
        } else {
            status_thousandths(&bound, UINT64_C(1) << powers[i]);
        }
        text_addz(t, f->name);
        text_addz(t, "_bucket");
        label(t, true, "endpoint", str_of(e->name));
        label(t, false, "le", text_str(&bound));
        text_char(t, '}');
        sample(t, UINT64_C(1000) * (last ? h->n : histogram_upto(h, powers[i])));
    }
    text_addz(t, f->name);
    text_addz(t, "_sum");
    label(t, true, "endpoint", str_of(e->name));
    text_char(t, '}');
    sample(t, h->sum);
    text_addz(t, f->name);
    text_addz(t, "_count");
    label(t, true, "endpoint", str_of(e->name));
    text_char(t, '}');
    sample(t, UINT64_C(1000) * h->n);
}

/* ---- items --------------------------------------------------------------------------------- */

static void write_system(struct text *t, const struct family *f)
{
    text_addz(t, f->name);
    if (f->figure == INFO) {
        info_labels(t);
    }
    sample(t, system_figure(f->figure));
}

static void write_endpoint(struct text *t, const struct family *f, const struct endpoint *e)
{
    if (f->figure == FIRST_BYTE || f->figure == DURATION) {
        write_histogram(t, f, e);
        return;
    }
    text_addz(t, f->name);
    label(t, true, "endpoint", str_of(e->name));
    if (f->figure == UP) {
        label(t, false, "status", str_of(e->enabled ? endpoint_state_name(e->state) : "disabled"));
    }
    text_char(t, '}');
    sample(t, endpoint_figure(e, f->figure));
}

/* The item of that number; false: there are not so many. Models and keys that are none of the asker's business are passed over. */
static bool write_item(const struct exchange *x, struct text *t, const struct family *f, unsigned item)
{
    const struct endpoint *e = f->kind == ENDPOINT ? endpoint_at((int)item) : NULL;
    const struct ledger_model *m = f->kind == MODEL && item < OLLA_MAX_LEDGER ? ledger_slot(item) : NULL;
    struct gate_usage key = {.name = NULL};

    switch (f->kind) {
    case SYSTEM:
        if (item == 0) {
            write_system(t, f);
        }
        return item == 0;
    case ENDPOINT:
        if (e) {
            write_endpoint(t, f, e);
        }
        return e != NULL;
    case MODEL:
        if (m && m->name[0] && gate_allows(&x->key, str_of(m->name))) {
            text_addz(t, f->name);
            label(t, true, "model", str_of(m->name));
            text_char(t, '}');
            sample(t, model_figure(m, f->figure));
        }
        return m != NULL;
    case KEY:
        if (gate_narrow(&x->key) || !gate_usage((int)item, plat_wall_ms(), &key)) {
            return false;
        }
        text_addz(t, f->name);
        label(t, true, "key", str_of(key.name));
        text_char(t, '}');
        sample(t, key_figure(&key, f->figure));
        return true;
    case POOL:
        if (item < POOL_COUNT) {
            text_addz(t, f->name);
            label(t, true, "pool", str_of(pool_stats((enum pool_id)item)->name));
            text_char(t, '}');
            sample(t, pool_figure(pool_stats((enum pool_id)item), f->figure));
        }
        return item < POOL_COUNT;
    case KINDS:
        break;
    }
    return false;
}

/* place.phase is the family, place.index the item in it, 0 its head. */
bool metrics_page(struct exchange *x, struct text *t, uint32_t i)
{
    struct page_place *at = &x->place;

    if (i == 0) {
        at->phase = at->index = 0;
    }
    while (at->phase < OLLA_COUNT(families)) {
        const struct family *f = &families[at->phase];
        if (at->index == 0) {
            text_addz(t, "# HELP ");
            text_addz(t, f->name);
            text_char(t, ' ');
            text_addz(t, f->help);
            text_addz(t, "\n# TYPE ");
            text_addz(t, f->name);
            text_char(t, ' ');
            text_addz(t, f->type);
            text_char(t, '\n');
        } else if (!write_item(x, t, f, at->index - 1)) {
            at->phase++;
            at->index = 0;
            continue;
        }
        if (!t->full) {
            at->index++;
        }
        return true;
    }
    return false;
}
