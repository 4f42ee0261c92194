/*
 * health.c - level 6: see health.h.
 *
 * May include: olla.h, levels 1 to 5, probe.h, health.h.
 */
#include "health.h"

#include "detect.h"
#include "probe.h"

#define RATE_LIMITED_MS     30000
#define RATE_LIMITED_MAX_MS 3600000 /* nobody is believed who says more */

/* Looks for a model list: some servers answer 200 to any path. */
static bool health_body(struct probe *p, const char *bytes, size_t n)
{
    size_t used;
    if (!p->e->profile->check_models) {
        return true;
    }
    if (!p->item.mem) {
        if (!probe_hold_item(p)) {
            return false; /* no verdict this time */
        }
        json_list_start(&p->list, "models", "data", p->item.mem, OLLA_BUF_SIZE);
    }
    while (n > 0 && json_list_feed(&p->list, bytes, n, &used) == 1) {
        bytes += used;
        n -= used;
    }
    return !p->list.found; /* the array is all that was asked for */
}

/* What to do about a 401 or 403. */
static const char *refusal(const struct probe *p)
{
    bool locked = p->status == 401;
    if (p->to != &p->e->at[TARGET_MAIN]) {
        return locked ? "answers 401: credentials do not go to another host of health_check_url"
                      : "answers 403: credentials do not go to another host of health_check_url";
    }
    if (p->e->headers_n == 0) {
        return locked ? "answers 401: it wants credentials (auth.type)"
                      : "answers 403: it refuses this address, or wants credentials (auth.type)";
    }
    return locked ? "answers 401: it wants other credentials than those of auth and headers"
                  : "answers 403: it refuses this address, or wants other credentials than those of auth and headers";
}

static enum endpoint_state judge(const struct probe *p, const char **why)
{
    static const struct {
        int from, to;
        enum endpoint_state state;
        const char *why;
    } rows[] = {
        {200, 299, ENDPOINT_HEALTHY, "answers"},
        {401, 401, ENDPOINT_CONFIG_ERROR, NULL},
        {403, 403, ENDPOINT_CONFIG_ERROR, NULL},
        {404, 404, ENDPOINT_UNHEALTHY, "answers 404 to the health check: check health_check_url and type"},
        {429, 429, ENDPOINT_RATE_LIMITED, "answers 429: too many requests"},
        {300, 399, ENDPOINT_UNHEALTHY, "answers with a redirect"},
        {500, 599, ENDPOINT_UNHEALTHY, "answers with a server error"},
        {0, 999, ENDPOINT_UNHEALTHY, "answers with an error"},
    };
    size_t i = 0;
    while (p->status < rows[i].from || p->status > rows[i].to) {
        i++;
    }
    *why = rows[i].why ? rows[i].why : refusal(p);
    if (p->status == 503 && p->e->profile->loading_503) {
        *why = "is loading its model";
        return ENDPOINT_WARMING;
    }
    if (rows[i].state == ENDPOINT_HEALTHY && p->e->profile->check_models && !p->list.found) {
        *why = "answers, but without a model list: check health_check_url and type";
        return ENDPOINT_UNHEALTHY;
    }
    return rows[i].state;
}

static void health_done(struct probe *p, enum probe_result result)
{
    static const char *const lost[] = {
        [PROBE_TIMEOUT] = "did not answer the health check in time (check_timeout)",
        [PROBE_LOST] = "closed the connection without an answer",
        [PROBE_GARBLED] = "does not speak HTTP",
    };
    struct endpoint *e = p->e;
    const char *why;

    e->probing = false;
    if (result == PROBE_CANCELLED || e->removed) {
        return;
    }
    e->probed = true;
    e->last_check = net_now();
    e->probe_ms = (uint32_t)(net_now() - p->started);
    if (p->no_buffer) {
        e->next_check = net_now() + PROBE_AGAIN_MS;
        return;
    }
    if (result == PROBE_ANSWERED) {
        enum endpoint_state state = judge(p, &why);
        if (state == ENDPOINT_HEALTHY || state == ENDPOINT_UNHEALTHY) {
            endpoint_probed(e, state == ENDPOINT_HEALTHY);
        }
        endpoint_set_state(e, state, why);
        if (state == ENDPOINT_RATE_LIMITED) {
            uint64_t wait = p->retry_after > 0 ? p->retry_after : RATE_LIMITED_MS;
            e->next_check = net_now() + (wait < RATE_LIMITED_MAX_MS ? wait : RATE_LIMITED_MAX_MS);
        }
        return;
    }
    endpoint_probed(e, false);
    /* One that got no answer is no proof: a machine under load is slow to answer. The second in a row is. */
    bool once = e->state == ENDPOINT_HEALTHY && (result == PROBE_TIMEOUT || result == PROBE_LOST);
    endpoint_set_state(e, once ? ENDPOINT_BUSY : ENDPOINT_OFFLINE, result == PROBE_REFUSED ? p->why : lost[result]);
}

static const struct probe_ops health_ops = {"HealthChecker", health_body, health_done};

static bool to_detect(const struct endpoint *e)
{
    return profile_is_auto(e->profile) || e->redetect;
}

static bool start(struct endpoint *e)
{
    if (to_detect(e)) {
        return detect_start(e);
    }
    return probe_start(e, endpoint_target(e, TARGET_HEALTH), e->health_path, e->check_timeout, &health_ops);
}

uint64_t health_tick(void)
{
    uint64_t now = net_now(), next = UINT64_MAX;
    struct endpoint *e;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (!e->enabled || e->wake.quiet || e->probing || (e->health != HEALTH_HTTP && !to_detect(e)) ||
            endpoint_target(e, to_detect(e) ? TARGET_MAIN : TARGET_HEALTH)->addrs == 0) {
            continue;
        }
        uint64_t at = e->next_check > e->wake.settle_until ? e->next_check : e->wake.settle_until;
        if (at <= now) {
            e->probing = true;
            if (!start(e)) {
                e->probing = false;
                e->next_check = now + PROBE_AGAIN_MS;
            }
            if (e->probing) {
                continue; /* it sets the next time when it ends */
            }
        }
        at = e->next_check > at ? e->next_check : at;
        next = at < next ? at : next;
    }
    return next;
}
