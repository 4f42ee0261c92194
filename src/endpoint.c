/*
 * endpoint.c - level 4: see endpoint.h.
 *
 * May include: olla.h, str.h, conf.h, net.h, log.h, profile.h, endpoint.h.
 */
#include "endpoint.h"

#include <string.h>

#include "log.h"
#include "net.h"

/* getaddrinfo tells no time to live: names are asked again after this, and sooner after a failure. */
#define RESOLVE_EVERY_MS 60000
#define RESOLVE_RETRY_MS 5000
/* Waits after failures are interval x 1, 2, 4, 8, 12, 12 ..., never above this (routing.md 3.5). */
#define BACKOFF_MAX 12
#define BACKOFF_CAP_MS 60000

static struct endpoint table[OLLA_MAX_ENDPOINTS];
static struct endpoint *ordered[OLLA_MAX_ENDPOINTS];
static int count;

struct endpoint *endpoint_at(int i)
{
    return i >= 0 && i < count ? ordered[i] : NULL;
}

struct endpoint *endpoint_slot(int slot)
{
    return slot >= 0 && slot < OLLA_MAX_ENDPOINTS && table[slot].used ? &table[slot] : NULL;
}

int endpoint_count(void)
{
    return count;
}

const char *endpoint_state_name(enum endpoint_state state)
{
    static const char *const names[] = {"unknown", "healthy", "busy", "unhealthy", "offline", "config_error", "rate_limited"};
    return names[state];
}

/* ---- configuration ------------------------------------------------------------- */

/* The path of a probe: the endpoint's base path with `path`, or the path of an absolute URL on the same host. */
static bool probe_path(const struct conf_endpoint *ce, const char *configured, const char *preset, char *to, size_t cap)
{
    struct text t = text_in(to, cap);
    struct str path = str_of(configured[0] ? configured : preset);

    if (str_istarts(path, STR("http://"))) {
        struct str rest = str_skip(path, 7);
        struct str authority = {rest.p, str_find(rest, '/')};
        struct str own = str_of(ce->url.text);
        own = str_skip(own, 7);
        own.n = str_find(own, '/');
        if (!str_ieq(authority, own)) {
            return false;
        }
        rest = str_skip(rest, authority.n);
        text_add(&t, rest.n ? rest : STR("/"));
    } else {
        text_addz(&t, ce->url.path);
        if (path.n == 0 || path.p[0] != '/') {
            text_char(&t, '/');
        }
        text_add(&t, path);
    }
    text_z(&t);
    return !t.full && t.n < cap;
}

int endpoint_check(const struct conf *c, conf_message *say)
{
    char line[512], path[sizeof(table[0].health_path)];
    int result = OLLA_OK;

    for (int i = 0; i < c->endpoints; i++) {
        const struct conf_endpoint *ce = &c->endpoint[i];
        const struct profile *p = profile_by_type(str_of(ce->type));
        const struct {
            const char *key, *value;
        } urls[] = {{"health_check_url", ce->health_check_url}, {"model_url", ce->model_url}};
        struct text t = text_in(line, sizeof(line));

        text_addz(&t, c->path[0] ? c->path : "built-in defaults");
        text_char(&t, ':');
        text_u64(&t, (uint64_t)ce->line);
        text_addz(&t, ": endpoint \"");
        text_addz(&t, ce->name);
        text_addz(&t, "\": ");
        size_t start = t.n;
        if (!p) {
            text_addz(&t, "type: \"");
            text_addz(&t, ce->type);
            text_addz(&t, "\" is not known; allowed are ");
            text_addz(&t, profile_known_types());
            say(true, text_z(&t));
            result = OLLA_ERR;
        }
        if (strlen(ce->name) >= sizeof(table[0].name) || strlen(ce->url.host) >= sizeof(table[0].host) ||
            strlen(ce->url.text) >= sizeof(table[0].url) || strlen(ce->url.path) >= sizeof(table[0].base)) {
            t.n = start;
            text_addz(&t, "the name or the url is too long (63 and 255 bytes, 127 of them path)");
            say(true, text_z(&t));
            result = OLLA_ERR;
        }
        for (size_t k = 0; k < OLLA_COUNT(urls); k++) {
            if (!probe_path(ce, urls[k].value, "/", path, sizeof(path))) {
                t.n = start;
                text_addz(&t, urls[k].key);
                text_addz(&t, ": must be a path, or a URL on the endpoint's own host and port, of at most 255 bytes");
                say(true, text_z(&t));
                result = OLLA_ERR;
            }
        }
    }
    return result;
}

static bool same_target(const struct endpoint *e, const struct conf_endpoint *ce)
{
    char health[sizeof(e->health_path)], models[sizeof(e->models_path)];
    const struct profile *p = profile_by_type(str_of(ce->type));
    probe_path(ce, ce->health_check_url, p->health_path, health, sizeof(health));
    probe_path(ce, ce->model_url, p->models_path, models, sizeof(models));
    return e->profile == p && strcmp(e->url, ce->url.text) == 0 && strcmp(e->health_path, health) == 0 &&
           strcmp(e->models_path, models) == 0 && e->enabled == ce->enabled;
}

static void copy_target(struct endpoint *e, const struct conf_endpoint *ce)
{
    e->profile = profile_by_type(str_of(ce->type));
    str_copy(e->url, sizeof(e->url), str_of(ce->url.text));
    str_copy(e->host, sizeof(e->host), str_of(ce->url.host));
    str_copy(e->authority, sizeof(e->authority), str_of(ce->url.authority));
    str_copy(e->base, sizeof(e->base), str_of(ce->url.path));
    probe_path(ce, ce->health_check_url, e->profile->health_path, e->health_path, sizeof(e->health_path));
    probe_path(ce, ce->model_url, e->profile->models_path, e->models_path, sizeof(e->models_path));
    e->port = ce->url.port;
    e->enabled = ce->enabled;
    e->state = ENDPOINT_UNKNOWN;
    e->why = "not probed yet";
    e->probed = e->discovered = false;
    e->failures = 0;
    e->backoff = 1;
    e->next_check = e->next_discovery = 0;
    e->addrs = e->good = 0;
    e->resolve_at = 0;
    e->literal = plat_addr_parse(e->host, e->port, &e->addr[0]) == OLLA_OK;
    if (e->literal) {
        e->addrs = 1;
    }
}

static struct endpoint *find(const char *name)
{
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        if (table[i].used && !table[i].removed && strcmp(table[i].name, name) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

static struct endpoint *take_slot(const char *name)
{
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        if (!table[i].used) {
            memset(&table[i], 0, sizeof(table[i]));
            table[i].used = true;
            table[i].slot = i;
            str_copy(table[i].name, sizeof(table[i].name), str_of(name));
            return &table[i];
        }
    }
    return NULL;
}

static void free_if_done(struct endpoint *e)
{
    if (e->removed && e->inflight == 0 && !e->probing && !e->discovering && !e->resolving) {
        e->used = false;
    }
}

void endpoint_apply(const struct conf *c)
{
    bool kept[OLLA_MAX_ENDPOINTS] = {false};

    count = 0;
    for (int i = 0; i < c->endpoints; i++) {
        const struct conf_endpoint *ce = &c->endpoint[i];
        struct endpoint *e = find(ce->name);
        if (e && !same_target(e, ce)) {
            copy_target(e, ce);
        } else if (!e) {
            e = take_slot(ce->name);
            if (!e) {
                /* Only when a reload replaces many endpoints whose requests still run: the next reload finds room. */
                log_line(LOG_ERROR, "endpoint not added: all slots still serve old requests, reload again later", "endpoint",
                         str_of(ce->name), NULL, STR(""));
                continue;
            }
            copy_target(e, ce);
        }
        kept[e->slot] = true;
        str_copy(e->type, sizeof(e->type), str_of(ce->type[0] ? ce->type : "auto"));
        e->priority = ce->priority;
        e->preserve_path = ce->preserve_path;
        e->check_interval = ce->check_interval;
        e->check_timeout = ce->check_timeout;
        e->order = count;
        ordered[count++] = e;
    }
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        if (table[i].used && !kept[i]) {
            table[i].removed = true;
            free_if_done(&table[i]);
        }
    }
}

/* ---- state ------------------------------------------------------------------------ */

void endpoint_set_state(struct endpoint *e, enum endpoint_state state, const char *why)
{
    uint64_t now = net_now();
    enum endpoint_state was = e->state;

    e->why = why;
    if (state == ENDPOINT_HEALTHY) {
        e->failures = 0;
        e->backoff = 1;
        e->next_check = now + (uint64_t)e->check_interval;
    } else {
        uint64_t wait = (uint64_t)e->check_interval * e->backoff;
        e->next_check = now + (e->backoff > 1 && wait > BACKOFF_CAP_MS ? BACKOFF_CAP_MS : wait);
        e->backoff = e->backoff * 2 > BACKOFF_MAX ? BACKOFF_MAX : e->backoff * 2;
        e->failures++;
    }
    if (state == was) {
        return;
    }
    e->state = state;
    if (log_begin(state == ENDPOINT_HEALTHY ? LOG_INFO : LOG_WARN, "endpoint state")) {
        log_z("endpoint", e->name);
        log_z("from", endpoint_state_name(was));
        log_z("to", endpoint_state_name(state));
        log_z("reason", why);
        log_end();
    }
    if (state == ENDPOINT_HEALTHY) {
        e->next_discovery = now; /* the list may have changed while it was away */
    }
}

bool endpoint_any_pending(void)
{
    for (int i = 0; i < count; i++) {
        if (ordered[i]->enabled && (!ordered[i]->probed || (ordered[i]->state == ENDPOINT_HEALTHY && !ordered[i]->discovered))) {
            return true;
        }
    }
    return false;
}

void endpoint_begin(struct endpoint *e)
{
    static uint64_t sequence;
    e->inflight++;
    e->picked = ++sequence;
}

void endpoint_end(struct endpoint *e, bool ok, uint64_t ms, uint64_t bytes)
{
    uint32_t ms32 = ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
    e->inflight--;
    e->requests++;
    e->bytes += bytes;
    if (!ok) {
        e->failed++;
    } else {
        e->latency_ms_min = e->requests - e->failed == 1 || ms32 < e->latency_ms_min ? ms32 : e->latency_ms_min;
        e->latency_ms_max = ms32 > e->latency_ms_max ? ms32 : e->latency_ms_max;
        e->latency_ms_sum += ms;
    }
    free_if_done(e);
}

void endpoint_failed(struct endpoint *e, const char *why)
{
    if (e->removed) {
        return;
    }
    e->good = e->addrs > 0 ? (e->good + 1) % e->addrs : 0;
    if (e->state != ENDPOINT_OFFLINE) {
        endpoint_set_state(e, ENDPOINT_OFFLINE, why);
    }
}

/* ---- names --------------------------------------------------------------------------- */

uint64_t endpoint_resolve(void)
{
    uint64_t next = UINT64_MAX, now = net_now();

    for (int i = 0; i < count; i++) {
        struct endpoint *e = ordered[i];
        if (e->literal || e->resolving || !e->enabled) {
            continue;
        }
        if (e->resolve_at <= now) {
            if (resolve_ask((uint32_t)e->slot, e->host, e->port) == OLLA_OK) {
                e->resolving = true;
                continue;
            }
            e->resolve_at = now + 100;
        }
        next = e->resolve_at < next ? e->resolve_at : next;
    }
    return next;
}

void endpoint_resolved(const struct resolve_answer *a)
{
    struct endpoint *e = endpoint_slot((int)a->id);
    if (!e || !e->resolving) {
        return;
    }
    e->resolving = false;
    if (e->removed) {
        free_if_done(e);
        return;
    }
    e->resolve_at = net_now() + (a->count > 0 ? RESOLVE_EVERY_MS : RESOLVE_RETRY_MS);
    if (a->count <= 0) {
        if (e->addrs == 0) {
            e->probed = true;
            endpoint_set_state(e, ENDPOINT_OFFLINE, "the name has no address");
        }
        return; /* old addresses are better than none */
    }
    struct plat_addr good = e->addrs > 0 ? e->addr[e->good] : (struct plat_addr){.len = 0};
    bool first = e->addrs == 0;
    e->good = 0;
    e->addrs = a->count < OLLA_MAX_ADDRS ? a->count : OLLA_MAX_ADDRS;
    for (int i = 0; i < e->addrs; i++) {
        e->addr[i] = a->addr[i];
        plat_addr_set_port(&e->addr[i], e->port);
        if (plat_addr_eq(&e->addr[i], &good)) {
            e->good = i;
        }
    }
    if (first) {
        e->next_check = net_now();
    }
}

void endpoint_resolver_lost(void)
{
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        if (table[i].used && table[i].resolving) {
            table[i].resolving = false;
            table[i].resolve_at = net_now() + 100;
            free_if_done(&table[i]);
        }
    }
}

void endpoint_probe_ended(struct endpoint *e)
{
    free_if_done(e);
}
