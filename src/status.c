/*
 * status.c - level 7: see status.h. Parts as in admin.c.
 *
 * May include: olla.h, levels 1 to 6, admin.h, status.h.
 */
#include "status.h"

#include <string.h>

#include "account.h"
#include "admin.h"
#include "model.h"
#include "pool.h"
#include "queue.h"
#include "wake.h"

#define LOADED_MAX   8   /* models of one endpoint that are named */
#define LOADED_BYTES 512 /* ... unless their names are long: a part has to fit into a piece */

void status_thousandths(struct text *t, uint64_t n)
{
    unsigned digits = 3;
    uint64_t rest = n % 1000;

    text_u64(t, n / 1000);
    for (; rest > 0 && rest % 10 == 0; rest /= 10) {
        digits--;
    }
    if (rest > 0) {
        text_char(t, '.');
        text_padded(t, rest, digits);
    }
}

/* ---- /internal/status -------------------------------------------------------------------- */

void status_endpoint_id(struct text *t, const struct endpoint *e)
{
    char digits[8];
    size_t n = sizeof(digits);
    uint32_t h = str_hash(str_of(e->url));
    int same = 0, before = 0;
    struct endpoint *other;

    do {
        digits[--n] = "0123456789abcdefghijklmnopqrstuvwxyz"[h % 36];
        h /= 36;
    } while (h > 0 && n > 0);
    text_add(t, (struct str){digits + n, sizeof(digits) - n});
    for (int i = 0; (other = endpoint_at(i)) != NULL; i++) {
        if (strcmp(other->url, e->url) == 0) {
            same++;
            before += strcmp(other->name, e->name) < 0;
        }
    }
    if (same > 1) {
        text_char(t, '-');
        text_u64(t, (uint64_t)before);
    }
}

/* Priority descending, healthy first, then by name. */
static bool shown_before(const struct endpoint *a, const struct endpoint *b)
{
    bool ha = a->state == ENDPOINT_HEALTHY, hb = b->state == ENDPOINT_HEALTHY;
    if (a->priority != b->priority) {
        return a->priority > b->priority;
    }
    return ha != hb ? ha : strcmp(a->name, b->name) < 0;
}

struct endpoint *status_endpoint_at(uint32_t place)
{
    struct endpoint *e, *other;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        uint32_t before = 0;
        for (int k = 0; (other = endpoint_at(k)) != NULL; k++) {
            before += other != e && shown_before(other, e);
        }
        if (before == place) {
            return e;
        }
    }
    return NULL;
}

static void issues_text(struct text *t, const struct endpoint *e)
{
    const struct {
        bool is;
        const char *name;
    } rows[] = {
        {e->failures > 3, "consecutive failures"},
        {e->sum.requests > 10 && tally_served(&e->sum) * 100 < e->sum.requests * 90, "low success rate"},
        {tally_average(&e->sum) > 5000, "high latency"},
        {e->state == ENDPOINT_OFFLINE || e->state == ENDPOINT_UNHEALTHY, "unavailable"},
    };
    bool first = true;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        if (rows[i].is) {
            text_addz(t, first ? "" : ", ");
            text_addz(t, rows[i].name);
            first = false;
        }
    }
}

/* "p50":..,"p95":..,"p99":.. */
static void percentiles(struct text *t, const char *key, const struct histogram *h)
{
    text_addz(t, ",\"");
    text_addz(t, key);
    text_addz(t, "\":{\"p50\":");
    text_u64(t, histogram_percentile(h, 50));
    json_member_u64(t, "p95", histogram_percentile(h, 95));
    json_member_u64(t, "p99", histogram_percentile(h, 99));
    text_char(t, '}');
}

/* Some names: a machine that has more in memory at one time is rare. */
static void loaded_models(const struct exchange *x, struct text *t, const struct endpoint *e)
{
    unsigned n = 0;
    const struct model *m;
    const size_t most = t->n + LOADED_BYTES;

    text_addz(t, ",\"loaded_models\":[");
    for (size_t i = 0; (m = model_at(i)) != NULL && n < LOADED_MAX && t->n < most; i++) {
        if ((m->now.serves & endpoint_bit(e)) && model_state_at(m, e) == MODEL_LOADED && e->state != ENDPOINT_ASLEEP &&
            gate_allows(&x->key, str_of(m->facts.name))) {
            text_addz(t, n++ > 0 ? "," : "");
            json_text(t, str_of(m->facts.name));
        }
    }
    text_char(t, ']');
}

static void tokens(struct text *t, const struct tally *sum)
{
    json_member_u64(t, "input_tokens", sum->input);
    json_member_u64(t, "output_tokens", sum->output);
    json_member_u64(t, "estimated_requests", sum->estimated);
}

/* ms until then. That it passes is no news, that it is over is. */
static uint64_t rest_of(uint64_t until, bool hashing)
{
    uint64_t rest = until > net_now() ? until - net_now() : 0;
    return hashing ? rest > 0 : rest;
}

/* Of a machine that can be woken. */
static void wake_part(struct text *t, const struct endpoint *e, bool hashing)
{
    struct wake_view v = wake_view(e);

    text_addz(t, ",\"wake\":{\"state\":");
    json_text(t, str_of(v.state));
    if (!hashing) {
        json_member_u64(t, "since_ms", v.since_ms);
        json_member_u64(t, "left_ms", v.left_ms);
    }
    json_member_u64(t, "waiting", v.waiting);
    json_member_u64(t, "wakes", e->wake.wakes);
    json_member_u64(t, "failures", e->wake.failures);
    json_member_u64(t, "last_took_ms", e->wake.took_ms);
    text_char(t, '}');
}

/* What it has done; the order is the reference's, with what is new behind it. */
static void traffic_part(struct text *t, const struct endpoint *e)
{
    json_member_u64(t, "min_latency_ms", e->latency_ms_min);
    json_member_u64(t, "max_latency_ms", e->latency_ms_max);
    if (tally_served(&e->sum) > 0) {
        json_member_u64(t, "avg_latency_ms", tally_average(&e->sum));
    }
    json_member_u64(t, "latency_sum_ms", e->sum.ms_sum);
    json_member_u64(t, "failed_requests", e->sum.failed);
    tokens(t, &e->sum);
    text_addz(t, ",\"tokens_per_second\":");
    status_thousandths(t, e->rate);
    percentiles(t, "latency_ms", &e->whole);
    percentiles(t, "ttft_ms", &e->first);
}

static void status_endpoint(const struct exchange *x, struct text *t, const struct endpoint *e, bool first)
{
    bool hashing = x->hashing;

    text_addz(t, first ? "{\"name\":" : ",{\"name\":");
    json_text(t, str_of(e->name));
    json_member(t, "type", str_of(e->type));
    json_member(t, "detected_type", str_of(e->profile->name));
    json_member(t, "status", str_of(e->enabled ? endpoint_state_name(e->state) : "disabled"));
    json_member(t, "reason", str_of(e->why));
    if (e->draining) {
        text_addz(t, ",\"draining\":true");
    }
    if (e->wake.can) {
        wake_part(t, e, hashing);
    }
    if (e->extra.version[0]) {
        json_member(t, "version", str_of(e->extra.version));
    }
    json_member_u64(t, "priority", (uint64_t)e->priority);
    json_member_u64(t, "connections", e->inflight);
    json_member_u64(t, "weight", e->weight);
    json_member_u64(t, "max_concurrent", e->max_concurrent);
    json_member_u64(t, "serving", e->serving);
    json_member_u64(t, "limited_for_ms", rest_of(e->limited_until, hashing));
    text_addz(t, ",\"breaker\":{\"state\":");
    json_text(t, str_of(breaker_state(&e->breaker, net_now())));
    json_member_u64(t, "failures", e->breaker.row);
    json_member_u64(t, "open_for_ms", rest_of(e->breaker.until, hashing));
    text_char(t, '}');
    json_member_u64(t, "requests", e->sum.requests);
    ADMIN_MEMBER(t, "success_rate", admin_percent_text(t, tally_served(&e->sum), e->sum.requests));
    ADMIN_MEMBER(t, "avg_latency", admin_latency_text(t, tally_average(&e->sum)));
    ADMIN_MEMBER(t, "traffic", admin_bytes_text(t, e->sum.bytes));
    if (!hashing) {
        ADMIN_MEMBER(t, "last_check", admin_ago_text(t, e->last_check));
        ADMIN_MEMBER(t, "next_check", admin_until_text(t, e->next_check));
    }
    ADMIN_MEMBER(t, "issues", issues_text(t, e));
    text_addz(t, ",\"models\":{\"last_updated\":\"");
    admin_instant_text(t, e->last_discovery);
    text_addz(t, "\",\"count\":");
    text_u64(t, e->models);
    text_char(t, '}');
    json_member(t, "url", str_of(e->url));
    ADMIN_MEMBER(t, "id", status_endpoint_id(t, e));
    traffic_part(t, e);
    loaded_models(x, t, e);
    if (e->last_check > 0 && !hashing) {
        ADMIN_MEMBER(t, "health_check_at", admin_instant_text(t, e->last_check));
        ADMIN_MEMBER(t, "next_check_at", admin_instant_text(t, e->next_check));
    }
    text_char(t, '}');
}

static void status_head(struct text *t, bool hashing)
{
    struct status_system now = status_system();

    text_addz(t, "{\"timestamp\":\"");
    if (!hashing) {
        admin_time_text(t, plat_wall_ms());
    }
    text_addz(t, "\",\"proxy\":{\"engine\":");
    json_text(t, str_of(now.engine));
    json_member(t, "profile", str_of(now.profile));
    json_member(t, "balancer", str_of(now.balancer));
    text_addz(t, "},\"endpoints\":[");
}

/* The healthy ratio and the success rate decide. */
struct status_system status_system(void)
{
    const struct tally *sum = &exchange_totals.sum;
    uint64_t rate = sum->requests > 0 ? tally_served(sum) * 100 / sum->requests : 100;
    static const char *const engines[] = {"olla", "sherpa"};
    static const char *const profiles[] = {"auto", "streaming", "standard"};
    static const char *const balancers[] = {"least-connections", "round-robin", "priority"};
    struct status_system s = {.status = "healthy",
                              .limited = limits_totals.requests + exchange_totals.size_limited,
                              .blocked = limits_limited(net_now()),
                              .engine = engines[conf_now->proxy.engine],
                              .profile = profiles[conf_now->proxy.profile],
                              .balancer = balancers[conf_now->proxy.load_balancer]};
    const struct endpoint *e;
    unsigned asleep = 0;

    s.elevated = s.limited > 100 || s.blocked > 10;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        s.endpoints++;
        s.healthy += e->state == ENDPOINT_HEALTHY;
        asleep += e->state == ENDPOINT_ASLEEP;
        s.routable += endpoint_is_up(e);
    }
    unsigned wanted = s.endpoints - asleep; /* nobody is to blame for sleeping */
    if (s.endpoints == 0 || s.healthy * 2 < wanted || rate < 90) {
        s.status = "critical";
    } else if (s.healthy * 5 < wanted * 4 || rate < 95) {
        s.status = "degraded";
    }
    return s;
}

/* The last two are of connections, which the reference does not limit. */
static void status_security(struct text *t, const struct status_system *now)
{
    const struct limits_totals *l = &limits_totals;

    text_addz(t, "\"security\":{\"status\":");
    json_text(t, str_of(now->elevated ? "elevated" : "normal"));
    json_member_u64(t, "blocked_ips", now->blocked);
    text_addz(t, ",\"violations\":{\"rate_limits\":");
    text_u64(t, l->requests);
    json_member_u64(t, "size_limits", exchange_totals.size_limited);
    json_member_u64(t, "refused_peers", l->peers);
    json_member_u64(t, "refused_connections", l->connections);
    text_addz(t, "}}");
}

static void system_part(struct text *t, bool hashing)
{
    const struct exchange_totals *n = &exchange_totals;
    struct status_system now = status_system();

    text_addz(t, "],");
    status_security(t, &now);
    text_addz(t, ",\"system\":{\"status\":");
    json_text(t, str_of(now.status));
    text_addz(t, ",\"endpoints_up\":\"");
    text_u64(t, now.healthy);
    text_char(t, '/');
    text_u64(t, now.endpoints);
    text_addz(t, "\",\"success_rate\":\"");
    if (n->sum.requests > 0) {
        admin_percent_text(t, tally_served(&n->sum), n->sum.requests);
    } else {
        text_addz(t, "N/A");
    }
    text_char(t, '"');
    ADMIN_MEMBER(t, "avg_latency", admin_latency_text(t, tally_average(&n->sum)));
    ADMIN_MEMBER(t, "total_traffic", admin_bytes_text(t, n->sum.bytes));
    if (!hashing) {
        ADMIN_MEMBER(t, "uptime", admin_uptime_text(t, net_now() - admin_start()));
    }
    ADMIN_MEMBER(t, "start_time", admin_time_text(t, admin_start_wall()));
    json_member(t, "version", STR(OLLA_VERSION));
    json_member(t, "commit", STR("none"));
    json_member_u64(t, "active_connections", n->active);
    json_member_u64(t, "security_violations", now.limited);
    json_member_u64(t, "total_requests", n->sum.requests);
    json_member_u64(t, "total_failures", n->sum.failed);
    tokens(t, &n->sum);
    if (!hashing) {
        json_member_u64(t, "rss_bytes", plat_rss_bytes());
    }
    text_addz(t, n->sum.requests > 0 ? ",\"has_traffic\":true}" : ",\"has_traffic\":false}");
}

static void status_pools(struct text *t)
{
    text_addz(t, ",\"queue\":{\"waiting\":");
    text_u64(t, queue_stats.waiting);
    json_member_u64(t, "max", queue_stats.max);
    json_member_u64(t, "served", queue_stats.served);
    json_member_u64(t, "timed_out", queue_stats.timed_out);
    json_member_u64(t, "refused", queue_stats.refused);
    json_member_u64(t, "left", queue_stats.left);
    text_char(t, '}');
    text_addz(t, ",\"idle_upstreams\":");
    text_u64(t, upstream_idle_count());
    text_addz(t, ",\"pools\":[");
    for (int i = 0; i < POOL_COUNT; i++) {
        const struct pool_stats *p = pool_stats((enum pool_id)i);
        text_addz(t, i > 0 ? ",{\"name\":" : "{\"name\":");
        json_text(t, str_of(p->name));
        json_member_u64(t, "size", p->size);
        json_member_u64(t, "count", p->count);
        json_member_u64(t, "used", p->used);
        json_member_u64(t, "max", p->max_used);
        json_member_u64(t, "failed", p->failed);
        text_char(t, '}');
    }
    text_char(t, ']');
}

static void key_usage(struct text *t, int i)
{
    struct gate_usage u;

    if (!gate_usage(i, plat_wall_ms(), &u)) {
        return;
    }
    text_addz(t, i > 0 ? ",{\"name\":" : "{\"name\":");
    json_text(t, str_of(u.name));
    json_member_u64(t, "requests", u.sum->requests);
    json_member_u64(t, "failed_requests", u.sum->failed);
    tokens(t, u.sum);
    json_member_u64(t, "tokens_today", u.today);
    json_member_u64(t, "tokens_per_day", u.per_day);
    text_char(t, '}');
}

static void recent_error(struct text *t, uint32_t i)
{
    const struct recent_error *r = account_recent(i);

    if (!r) {
        return;
    }
    text_addz(t, i > 0 ? ",{\"time\":\"" : "{\"time\":\"");
    admin_time_text(t, r->wall_ms);
    text_char(t, '"');
    json_member(t, "request_id", str_of(r->id));
    json_member_u64(t, "status", (uint64_t)r->status);
    json_member(t, "end", (struct str){r->end, sizeof(r->end)});
    json_member(t, "endpoint", str_of(r->endpoint));
    json_member(t, "model", str_of(r->model));
    json_member(t, "path", str_of(r->path));
    json_member(t, "client", str_of(r->client));
    json_member(t, "message", str_of(r->message));
    text_char(t, '}');
}

bool status_page(struct exchange *x, struct text *t, uint32_t i)
{
    uint32_t n = (uint32_t)endpoint_count(), errors = n + 4 + OLLA_MAX_KEYS;
    bool all = !gate_narrow(&x->key); /* what others did is the business of those only who may do everything */

    if (i == 0) {
        status_head(t, x->hashing);
    } else if (i <= n) {
        struct endpoint *e = status_endpoint_at(i - 1);
        if (e) {
            status_endpoint(x, t, e, i == 1);
        }
    } else if (i == n + 1) {
        system_part(t, x->hashing);
    } else if (i == n + 2) {
        status_pools(t);
    } else if (i == n + 3) {
        text_addz(t, ",\"keys\":[");
    } else if (i < errors) {
        if (all) {
            key_usage(t, (int)(i - n - 4));
        }
    } else if (i == errors) {
        text_addz(t, "],\"recent_errors\":[");
    } else if (all && i <= errors + RECENT_ERRORS) {
        recent_error(t, i - errors - 1);
    } else if (i == errors + RECENT_ERRORS + 1) {
        text_addz(t, "]}");
    }
    return i <= errors + RECENT_ERRORS + 1;
}

/* ---- /internal/status/endpoints ------------------------------------------------------------ */

static void endpoint_part(struct text *t, const struct endpoint *e, bool first, bool hashing)
{
    uint64_t served = tally_served(&e->sum);
    bool low = e->sum.requests > 10 && served * 100 < e->sum.requests * 90;
    bool gone = e->state == ENDPOINT_OFFLINE || e->state == ENDPOINT_UNHEALTHY;
    const char *issues = gone ? "unavailable" : e->failures > 3 ? "unstable" : low ? "low success rate" : "";

    text_addz(t, first ? "{\"name\":" : ",{\"name\":");
    json_text(t, str_of(e->name));
    json_member(t, "type", str_of(e->profile->name));
    json_member(t, "status", str_of(e->enabled ? endpoint_state_name(e->state) : "disabled"));
    ADMIN_MEMBER(t, "id", status_endpoint_id(t, e));
    json_member(t, "url", str_of(e->url));
    json_member_u64(t, "priority", (uint64_t)e->priority);
    json_member_u64(t, "model_count", e->models);
    json_member_u64(t, "request_count", e->sum.requests);
    if (e->sum.requests > 0) {
        ADMIN_MEMBER(t, "success_rate", admin_percent_text(t, served, e->sum.requests));
    } else {
        json_member(t, "success_rate", STR("N/A"));
    }
    if (!hashing) {
        ADMIN_MEMBER(t, "health_check", e->last_check > 0 ? admin_ago_text(t, e->last_check) : (void)0);
    }
    json_member_u64(t, "active_connections", e->inflight);
    json_member_u64(t, "min_latency_ms", e->latency_ms_min);
    json_member_u64(t, "max_latency_ms", e->latency_ms_max);
    if (served > 0) {
        json_member_u64(t, "avg_latency_ms", tally_average(&e->sum));
    }
    if (e->last_check > 0) {
        ADMIN_MEMBER(t, "response_time", admin_latency_text(t, e->probe_ms));
    }
    if (issues[0]) {
        json_member(t, "issues", str_of(issues));
    }
    if (e->last_discovery > 0 && !hashing) {
        ADMIN_MEMBER(t, "last_model_sync", admin_ago_text(t, e->last_discovery));
        ADMIN_MEMBER(t, "last_model_sync_at", admin_instant_text(t, e->last_discovery));
    }
    if (e->last_check > 0 && !hashing) {
        ADMIN_MEMBER(t, "health_check_at", admin_instant_text(t, e->last_check));
        ADMIN_MEMBER(t, "next_check_at", admin_instant_text(t, e->next_check));
    }
    text_char(t, '}');
}

bool status_endpoints_page(struct exchange *x, struct text *t, uint32_t i)
{
    struct status_system now = status_system();
    struct endpoint *e = i > 0 && i <= now.endpoints ? status_endpoint_at(i - 1) : NULL;

    if (i == 0) {
        text_addz(t, "{\"timestamp\":\"");
        if (!x->hashing) {
            admin_time_text(t, plat_wall_ms());
        }
        text_addz(t, "\",\"total_count\":");
        text_u64(t, now.endpoints);
        json_member_u64(t, "healthy_count", now.healthy);
        json_member_u64(t, "routable_count", now.routable);
        text_addz(t, ",\"endpoints\":[");
    } else if (e) {
        endpoint_part(t, e, i == 1, x->hashing);
    } else if (i == now.endpoints + 1) {
        text_addz(t, "]}");
    }
    return i <= now.endpoints + 1;
}
