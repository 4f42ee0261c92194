/*
 * endpoint.c - level 4: see endpoint.h.
 *
 * May include: olla.h, str.h, conf.h, net.h, log.h, profile.h, endpoint.h.
 */
#include "endpoint.h"

#include "../platform/tls.h"

#include <string.h>

#include "log.h"
#include "net.h"

/* getaddrinfo tells no time to live: names are asked again after this, and sooner after a failure. */
#define RESOLVE_EVERY_MS 60000
#define RESOLVE_RETRY_MS 5000
/* Without the child a question blocks: then names are asked at start and reload only. */
#define RESOLVE_AGAIN (!OLLA_RESOLVER_SYNC)
/* Waits after failures are interval x 1, 2, 4, 8, 12, 12 ..., never above this. */
#define BACKOFF_MAX    12
#define BACKOFF_CAP_MS 60000
/* ... and one that is about to come up is asked this often; its name, too. */
#define EAGER_MS         300
#define EAGER_RESOLVE_MS 2000
/* A health check that got no answer is repeated after this. */
#define AGAIN_MS 1000
/* Nobody is believed who says that he takes nothing for longer. */
#define LIMIT_MAX_MS 3600000
/* One choice of an endpoint of weight 1. */
#define PASS_STEP (UINT64_C(1) << 20)

static struct endpoint table[OLLA_MAX_ENDPOINTS];
static struct endpoint *ordered[OLLA_MAX_ENDPOINTS];
static int count;
static uint32_t news;

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
    static const char *const names[] = {"unknown", "healthy",      "busy",         "warming", "unhealthy",
                                        "offline", "config_error", "rate_limited", "asleep"};
    return names[state];
}

/* ---- configuration ------------------------------------------------------------- */

struct target *endpoint_target(struct endpoint *e, int which)
{
    return &e->at[e->at[which].host[0] ? which : TARGET_MAIN];
}

/* The path of a probe: below the base path, or as it is on another host. false: does not fit. */
static bool probe_path(const struct conf_endpoint *ce, const char *configured, const char *preset,
                       const struct conf_url *other, char *to, size_t cap)
{
    struct text t = text_in(to, cap);
    text_addz(&t, other->host ? "" : ce->url.path);
    text_addz(&t, configured[0] ? configured : preset);
    text_z(&t);
    return !t.full && t.n < cap;
}

static void set_host(struct target *to, const struct conf_url *url)
{
    str_copy(to->host, sizeof(to->host), str_of(url->host));
    str_copy(to->authority, sizeof(to->authority), str_of(url->authority));
    to->port = url->port;
    to->tls = url->tls;
}

/* A probe's target, unless it is the endpoint's own host. */
static void set_probe_host(struct endpoint *e, int which, const struct conf_url *url)
{
    struct target *own = &e->at[TARGET_MAIN];
    if (url->host &&
        (url->port != own->port || url->tls != own->tls || !str_ieq(str_of(url->host), str_of(own->host)))) {
        set_host(&e->at[which], url);
    }
}

/* Whether the authorities can be read that https endpoints are to be signed by. */
static int check_trust(const struct conf *c, const struct conf_endpoint *ce, conf_message *say)
{
    bool tls = ce->url.tls || ce->health_host.tls || ce->model_host.tls;
    unsigned others = 0;

    if (!tls || ce->tls.insecure) {
        return OLLA_OK;
    }
    if (tls_check_trust(ce->tls.ca_file) != OLLA_OK) {
        conf_tell(c, say, ce->line, "endpoint", ce->name, tls_why(), ce->tls.ca_file[0] ? ce->tls.ca_file : NULL, "");
        return OLLA_ERR;
    }
    /* Different ones up to here, and those of insecure endpoints. */
    for (const struct conf_endpoint *one = c->endpoint; one <= ce; one++) {
        const struct conf_endpoint *first = c->endpoint;
        while (strcmp(first->tls.ca_file, one->tls.ca_file) != 0) {
            first++;
        }
        others += first == one;
    }
    if (others >= OLLA_MAX_TRUSTS) {
        conf_tell(c, say, ce->line, "endpoint", ce->name, "has one tls.ca_file too many", ce->tls.ca_file,
                  "; fewer different ones are allowed than OLLA_MAX_TRUSTS of this build");
        return OLLA_ERR;
    }
    return OLLA_OK;
}

/* What clients are given as a base URL, many take for the server's. With a model_url below it somebody knows better. */
static void check_base(const struct conf *c, const struct conf_endpoint *ce, conf_message *say)
{
    if (str_ends(str_of(ce->url.path), STR("/v1")) && !ce->model_url[0] && profile_adds_v1(c, str_of(ce->type))) {
        conf_warn(c, say, ce->line, "endpoint", ce->name, "the url ends in /v1", ce->url.text,
                  "(olla adds /v1 itself: leave it off, unless the server answers at /v1/v1)");
    }
}

int endpoint_check(const struct conf *c, conf_message *say)
{
    char path[sizeof(table[0].health_path)], known[640];
    const struct conf_url *hosts[3];
    int result = profile_check(c, say);

    for (int i = 0; i < c->endpoints; i++) {
        const struct conf_endpoint *ce = &c->endpoint[i];
        bool fits = strlen(ce->name) < sizeof(table[0].name) && strlen(ce->url.text) < sizeof(table[0].url) &&
                    strlen(ce->url.path) < sizeof(table[0].base);

        if (!profile_is_known(c, str_of(ce->type))) {
            struct text t = text_in(known, sizeof(known));
            text_addz(&t, "is not known; allowed are ");
            text_addz(&t, profile_known_types(c));
            conf_tell(c, say, ce->type_line, "endpoint", ce->name, "type", ce->type, text_z(&t));
            result = OLLA_ERR;
        }
        hosts[0] = &ce->url;
        hosts[1] = &ce->health_host;
        hosts[2] = &ce->model_host;
        for (size_t k = 0; k < OLLA_COUNT(hosts); k++) {
            fits = fits && (!hosts[k]->host || strlen(hosts[k]->host) < sizeof(table[0].at[0].host));
        }
        fits = fits && probe_path(ce, ce->health_check_url, "/", &ce->health_host, path, sizeof(path)) &&
               probe_path(ce, ce->model_url, "/", &ce->model_host, path, sizeof(path));
        if (check_trust(c, ce, say) != OLLA_OK) {
            result = OLLA_ERR;
        }
        check_base(c, ce, say);
        fits = fits && strlen(ce->tls.ca_file) < sizeof(table[0].tls.ca_file) &&
               strlen(ce->tls.server_name) < sizeof(table[0].tls.server_name);
        if (!fits) {
            conf_tell(c, say, ce->line, "endpoint", ce->name, "the name or a url is too long", NULL,
                      " (at most 63 and 255 bytes, 127 of them path)");
            result = OLLA_ERR;
        }
    }
    return result;
}

/* The endpoint's targets as configured, into *e, which is all zero. */
static void set_targets(struct endpoint *e, const struct conf_endpoint *ce)
{
    e->profile = profile_by_type(str_of(ce->type));
    e->is_auto = profile_is_auto(e->profile);
    e->own_health = ce->health_check_url[0] != '\0';
    e->own_models = ce->model_url[0] != '\0';
    e->configured = ce->enabled;
    str_copy(e->url, sizeof(e->url), str_of(ce->url.text));
    str_copy(e->base, sizeof(e->base), str_of(ce->url.path));
    str_copy(e->tls.ca_file, sizeof(e->tls.ca_file), str_of(ce->tls.ca_file));
    str_copy(e->tls.server_name, sizeof(e->tls.server_name), str_of(ce->tls.server_name));
    e->tls.insecure = ce->tls.insecure;
    set_host(&e->at[TARGET_MAIN], &ce->url);
    set_probe_host(e, TARGET_HEALTH, &ce->health_host);
    set_probe_host(e, TARGET_MODELS, &ce->model_host);
    probe_path(ce, ce->health_check_url, e->profile->health_path, &ce->health_host, e->health_path,
               sizeof(e->health_path));
    probe_path(ce, ce->model_url, e->profile->models_path, &ce->model_host, e->models_path, sizeof(e->models_path));
}

/* Detection has set the paths of an auto endpoint that were not configured. */
static bool same_path(bool is_auto, bool own, const char *now, const char *wanted)
{
    return (is_auto && !own) || strcmp(now, wanted) == 0;
}

static bool same_target(const struct endpoint *e, const struct endpoint *wanted)
{
    bool same = e->is_auto == wanted->is_auto && profile_same(e->profile, wanted->profile) &&
                e->own_health == wanted->own_health && e->own_models == wanted->own_models &&
                strcmp(e->url, wanted->url) == 0 && e->configured == wanted->configured &&
                strcmp(e->tls.ca_file, wanted->tls.ca_file) == 0 &&
                strcmp(e->tls.server_name, wanted->tls.server_name) == 0 && e->tls.insecure == wanted->tls.insecure &&
                same_path(e->is_auto, wanted->own_health, e->health_path, wanted->health_path) &&
                same_path(e->is_auto, wanted->own_models, e->models_path, wanted->models_path);
    for (int i = 0; i < TARGETS; i++) {
        same = same && strcmp(e->at[i].host, wanted->at[i].host) == 0 && e->at[i].port == wanted->at[i].port &&
               e->at[i].tls == wanted->at[i].tls;
    }
    return same;
}

static void take_target(struct endpoint *e, const struct endpoint *wanted)
{
    e->profile = wanted->profile;
    e->is_auto = wanted->is_auto;
    e->own_health = wanted->own_health;
    e->own_models = wanted->own_models;
    e->configured = e->enabled = wanted->configured;
    e->draining = false;
    str_copy(e->url, sizeof(e->url), str_of(wanted->url));
    str_copy(e->base, sizeof(e->base), str_of(wanted->base));
    str_copy(e->health_path, sizeof(e->health_path), str_of(wanted->health_path));
    str_copy(e->models_path, sizeof(e->models_path), str_of(wanted->models_path));
    e->tls = wanted->tls;
    e->generation++;
    e->replaced = true;
    e->redetect = e->ask_again = false;
    memset(&e->detect, 0, sizeof(e->detect));
    e->state = ENDPOINT_UNKNOWN;
    e->since = e->used_at = net_now();
    e->why = "not probed yet";
    e->wake.active = e->wake.quiet = false;
    e->wake.failed_at = 0;
    e->eager_until = 0;
    e->probed = e->discovered = e->list_failed = false;
    e->failures = 0;
    e->backoff = 1;
    e->limited_until = 0;
    e->load.known = false;
    breaker_reset(&e->breaker);
    e->next_check = e->next_discovery = e->last_discovery = 0;
    for (int i = 0; i < TARGETS; i++) {
        struct target *t = &e->at[i];
        bool asked = t->resolving; /* for the old name: endpoint_resolved tells by the generation */
        *t = wanted->at[i];
        t->resolving = asked;
        t->literal = t->host[0] && plat_addr_parse(t->host, t->port, &t->addr[0]) == OLLA_OK;
        t->addrs = t->literal ? 1 : 0;
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
            uint32_t generation = table[i].generation;
            memset(&table[i], 0, sizeof(table[i]));
            table[i].generation = generation;
            table[i].used = true;
            table[i].slot = i;
            str_copy(table[i].name, sizeof(table[i].name), str_of(name));
            return &table[i];
        }
    }
    return NULL;
}

void endpoint_release(struct endpoint *e)
{
    bool asked = false;
    for (int i = 0; i < TARGETS; i++) {
        asked = asked || e->at[i].resolving;
    }
    if (e->removed && e->inflight == 0 && !e->idle && !e->probing && !e->discovering && !e->load.asking && !asked) {
        e->used = false;
        for (int i = 0; i < TARGETS; i++) {
            tls_peer_drop(endpoint_peer(e, i));
        }
    }
}

/* Also for endpoints that have not changed: the files may have. */
static void take_trust(struct endpoint *e)
{
    for (int i = 0; i < TARGETS; i++) {
        const struct target *t = &e->at[i];
        if (t->tls) {
            bool renamed = i == TARGET_MAIN && e->tls.server_name[0];
            tls_peer_set(endpoint_peer(e, i), e->tls.ca_file, renamed ? e->tls.server_name : t->host, e->tls.insecure);
        } else {
            tls_peer_drop(endpoint_peer(e, i));
        }
    }
}

static void take_limits(struct endpoint *e, const struct conf_endpoint *ce)
{
    e->health = ce->health;
    e->weight = (unsigned)ce->weight;
    e->max_concurrent = (unsigned)ce->max_concurrent;
    e->max_context = (uint32_t)ce->max_context;
    e->serves = 0;
    for (int i = 0; i < ce->serves_n; i++) {
        e->serves |= 1u << ce->serves[i];
    }
    e->connection_timeout = ce->connection_timeout;
    e->first_byte_timeout = ce->first_byte_timeout;
    e->read_timeout = ce->read_timeout;
}

/* Other credentials may change the verdict on one that refused the old ones: it is asked at once. */
static void take_headers(struct endpoint *e, const struct conf_endpoint *ce)
{
    if (str_eq(endpoint_headers(e), (struct str){ce->headers, ce->headers_n})) {
        return;
    }
    memcpy(e->headers, ce->headers, ce->headers_n);
    e->headers_n = ce->headers_n;
    e->next_check = net_now();
    e->backoff = 1;
    e->list_failed = false;
}

static void take_wake(struct endpoint *e, const struct conf_endpoint *ce)
{
    static const uint8_t none[6];

    if (memcmp(e->wake.mac, ce->wake.mac, sizeof(e->wake.mac)) != 0) {
        memset(&e->wake, 0, sizeof(e->wake)); /* another machine */
        memcpy(e->wake.mac, ce->wake.mac, sizeof(e->wake.mac));
    }
    e->wake.can = memcmp(e->wake.mac, none, sizeof(none)) != 0;
    (void)plat_addr_parse(ce->wake.broadcast, ce->wake.port, &e->wake.to);
    e->wake.timeout = ce->wake.timeout;
    e->wake.policy = ce->wake.policy;
    if (e->state == (e->wake.can ? ENDPOINT_OFFLINE : ENDPOINT_ASLEEP)) {
        e->state = e->wake.can ? ENDPOINT_ASLEEP : ENDPOINT_OFFLINE;
    }
}

static void assume_well(struct endpoint *e);

void endpoint_apply(const struct conf *c)
{
    static struct endpoint wanted;
    bool kept[OLLA_MAX_ENDPOINTS] = {false};

    profile_apply(c);
    count = 0;
    for (int i = 0; i < c->endpoints; i++) {
        const struct conf_endpoint *ce = &c->endpoint[i];
        struct endpoint *e = find(ce->name);
        memset(&wanted, 0, sizeof(wanted));
        set_targets(&wanted, ce);
        if (e) {
            e->replaced = false;
        }
        if (e && e->is_auto && wanted.is_auto) { /* what was detected holds, as it is configured now */
            wanted.profile = profile_by_type(str_of(e->profile->name));
        }
        if (e && !same_target(e, &wanted)) {
            wanted.profile = profile_by_type(str_of(ce->type));
            take_target(e, &wanted);
        } else if (!e) {
            e = take_slot(ce->name);
            if (!e) {
                /* Only when a reload replaces many endpoints whose requests still run: the next reload finds room. */
                log_line(LOG_ERROR, "endpoint not added: all slots still serve old requests, reload again later",
                         "endpoint", str_of(ce->name), NULL, STR(""));
                continue;
            }
            take_target(e, &wanted);
        }
        e->profile = wanted.profile; /* the same, at its new place */
        kept[e->slot] = true;
        str_copy(e->type, sizeof(e->type), str_of(ce->type[0] ? ce->type : "auto"));
        e->priority = ce->priority;
        e->preserve_path = ce->preserve_path;
        e->check_interval = ce->check_interval;
        e->check_timeout = ce->check_timeout;
        take_limits(e, ce);
        take_headers(e, ce);
        take_wake(e, ce);
        take_trust(e);
        e->next_discovery = net_now(); /* its filter may have changed */
        e->ask_again = e->discovering;
        e->order = i;
        ordered[count++] = e;
        assume_well(e);
    }
    news++;
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        if (table[i].used && !kept[i]) {
            table[i].removed = true;
        }
    }
}

/* ---- state ------------------------------------------------------------------------ */

/* A tenth more or less, so that endpoints are not all asked at once. */
static uint64_t jittered(uint64_t ms)
{
    static uint32_t seed;
    if (seed == 0) {
        plat_random(&seed, sizeof(seed));
        seed |= 1;
    }
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return ms - ms / 10 + seed % (ms / 5 + 1);
}

/* When it is asked again, and how much longer each time. */
static void schedule(struct endpoint *e)
{
    uint64_t now = net_now(), interval = (uint64_t)e->check_interval, wait = interval * e->backoff;

    switch (e->state) {
    case ENDPOINT_HEALTHY:
        e->failures = 0;
        e->backoff = 1;
        e->next_check = now + jittered(interval);
        break;
    case ENDPOINT_BUSY:
        e->next_check = now + (interval < AGAIN_MS ? interval : AGAIN_MS);
        break;
    case ENDPOINT_WARMING:
        e->next_check = now + (now < e->eager_until ? EAGER_MS : jittered(interval));
        break;
    default:
        if (now < e->eager_until) {
            e->next_check = now + EAGER_MS;
            endpoint_undetect(e);
            break;
        }
        e->next_check = now + jittered(e->backoff > 1 && wait > BACKOFF_CAP_MS ? BACKOFF_CAP_MS : wait);
        e->backoff = e->backoff * 2 > BACKOFF_MAX ? BACKOFF_MAX : e->backoff * 2;
        e->failures += e->state != ENDPOINT_ASLEEP;
        endpoint_undetect(e); /* another server may come back there */
        break;
    }
}

void endpoint_set_state(struct endpoint *e, enum endpoint_state state, const char *why)
{
    enum endpoint_state was = e->state;

    if (state == ENDPOINT_OFFLINE && e->wake.can) {
        state = ENDPOINT_ASLEEP; /* as far as can be known */
    }
    e->why = why;
    e->state = state;
    schedule(e);
    if (state == was) {
        return;
    }
    news++;
    e->since = net_now();
    bool fine = state == ENDPOINT_HEALTHY || state == ENDPOINT_ASLEEP || (e->wake.can && state == ENDPOINT_BUSY);
    if (log_begin(fine ? LOG_INFO : LOG_WARN, "endpoint state")) {
        log_z("endpoint", e->name);
        log_z("from", endpoint_state_name(was));
        log_z("to", endpoint_state_name(state));
        log_z("reason", why);
        log_end();
    }
    if (state == ENDPOINT_HEALTHY && was != ENDPOINT_BUSY) {
        e->next_discovery = net_now(); /* the list may have changed while it was away */
        breaker_reset(&e->breaker);    /* it is another machine, or the same one started anew */
        e->no_messages = false;
        e->used_at = net_now();
        e->eager_until = 0;
    }
}

static void join(char *to, size_t cap, const char *base, const char *path)
{
    struct text t = text_in(to, cap);
    text_addz(&t, base);
    text_addz(&t, path);
    text_z(&t);
}

/* One that is not asked counts as well from the start. */
static void assume_well(struct endpoint *e)
{
    if (e->enabled && e->health != HEALTH_HTTP && !profile_is_auto(e->profile) && e->state != ENDPOINT_HEALTHY) {
        e->probed = true;
        endpoint_set_state(e, ENDPOINT_HEALTHY, "is not asked (health is not http)");
    }
}

void endpoint_detected(struct endpoint *e, const struct profile *p)
{
    if (!e->detected || strcmp(e->detected->name, p->name) != 0) {
        log_line(LOG_INFO, "endpoint type detected", "endpoint", str_of(e->name), "type", str_of(p->name));
    }
    e->profile = e->detected = p;
    e->redetect = false;
    e->next_check = net_now();
    news++;
    assume_well(e);
    if (!e->own_health) {
        join(e->health_path, sizeof(e->health_path), e->base, p->health_path);
    }
    if (!e->own_models) {
        join(e->models_path, sizeof(e->models_path), e->base, p->models_path);
    }
}

void endpoint_undetect(struct endpoint *e)
{
    e->redetect = e->is_auto;
}

bool endpoint_can_list(struct endpoint *e)
{
    bool answers = e->state == ENDPOINT_HEALTHY || e->state == ENDPOINT_BUSY;
    return e->enabled && answers && !e->wake.quiet && conf_now->discovery.model_discovery.enabled &&
           endpoint_target(e, TARGET_MODELS)->addrs > 0;
}

void endpoint_ask_lists(uint64_t since)
{
    for (int i = 0; i < count; i++) {
        struct endpoint *e = ordered[i];
        if (!endpoint_can_list(e) || e->list_started > since) { /* the same ms may have been too early */
            continue;
        }
        if (e->discovering) {
            e->ask_again = true;
        } else {
            e->next_discovery = net_now();
        }
    }
}

bool endpoint_lists_pending(void)
{
    for (int i = 0; i < count; i++) {
        struct endpoint *e = ordered[i];
        if (endpoint_can_list(e) && (e->discovering || e->ask_again || e->next_discovery <= net_now())) {
            return true;
        }
    }
    return false;
}

bool endpoint_any_pending(void)
{
    for (int i = 0; i < count; i++) {
        if (ordered[i]->enabled &&
            (!ordered[i]->probed || (ordered[i]->state == ENDPOINT_HEALTHY && !ordered[i]->discovered))) {
            return true;
        }
    }
    return false;
}

/* ---- use -------------------------------------------------------------------------------- */

static struct breaker_rules rules(void)
{
    return (struct breaker_rules){
        .row = (unsigned)conf_now->proxy.breaker.consecutive_failures,
        .window = (unsigned)conf_now->proxy.breaker.window,
        .percent = (unsigned)conf_now->proxy.breaker.failure_percent,
        .open_ms = (uint64_t)conf_now->proxy.breaker.open_time,
        .max_open_ms = (uint64_t)conf_now->proxy.breaker.max_open_time,
    };
}

static bool has_breaker(const struct endpoint *e)
{
    return conf_now->proxy.engine == ENGINE_OLLA && e->health != HEALTH_NONE;
}

uint32_t endpoint_news(void)
{
    return news;
}

void endpoint_tell(void)
{
    news++;
}

void endpoint_expect(struct endpoint *e, uint64_t for_ms)
{
    uint64_t now = net_now();

    e->eager_until = now + for_ms > e->eager_until ? now + for_ms : e->eager_until;
    e->next_check = now;
    e->backoff = 1;
    for (int i = 0; i < TARGETS; i++) {
        e->at[i].resolve_at = RESOLVE_AGAIN ? now : e->at[i].resolve_at;
    }
}

bool endpoint_same_machine(const struct endpoint *a, const struct endpoint *b)
{
    return a == b || (a->wake.can && memcmp(a->wake.mac, b->wake.mac, sizeof(a->wake.mac)) == 0);
}

void endpoint_enable(struct endpoint *e, bool on)
{
    e->draining = false;
    if (e->enabled == on) {
        return;
    }
    e->enabled = on;
    e->state = ENDPOINT_UNKNOWN;
    e->since = net_now();
    e->why = on ? "not probed yet" : "disabled by hand";
    memset(&e->detect, 0, sizeof(e->detect));
    e->probed = e->discovered = e->list_failed = false;
    e->next_check = e->next_discovery = net_now();
    e->backoff = 1;
    e->failures = 0;
    breaker_reset(&e->breaker);
    assume_well(e);
    news++;
}

bool endpoint_is_open(const struct endpoint *e)
{
    return e->limited_until <= net_now() && (!has_breaker(e) || breaker_allows(&e->breaker, net_now()));
}

uint64_t endpoint_closed_for(const struct endpoint *e)
{
    uint64_t until = e->limited_until, now = net_now();
    if (has_breaker(e) && e->breaker.open && e->breaker.until > until) {
        until = e->breaker.until;
    }
    return until > now ? until - now : 0;
}

uint64_t endpoint_turn(const struct endpoint *e, uint64_t largest)
{
    uint64_t least = largest > PASS_STEP ? largest - PASS_STEP : 0;
    return e->pass > least ? e->pass : least;
}

void endpoint_begin(struct endpoint *e, struct endpoint_use *use, bool counts, uint64_t turn)
{
    static uint64_t sequence;
    use->counts = counts;
    use->generation = e->generation;
    use->trial = has_breaker(e) && breaker_begin(&e->breaker, net_now());
    e->inflight++;
    e->used_at = net_now();
    e->serving += counts;
    e->picked = ++sequence;
    e->pass = (e->pass > turn ? e->pass : turn) + PASS_STEP / e->weight;
}

static void note_breaker(const struct endpoint *e)
{
    const char *state = breaker_state(&e->breaker, net_now());
    if (log_begin(e->breaker.open ? LOG_WARN : LOG_INFO, "breaker")) {
        log_z("endpoint", e->name);
        log_z("state", state);
        if (e->breaker.open) {
            log_u64("open_ms", e->breaker.length);
        }
        log_end();
    }
}

static void leave(struct endpoint *e, const struct endpoint_use *use, enum outcome outcome)
{
    struct breaker_rules r = rules();
    bool same = use->generation == e->generation;
    e->inflight--;
    e->used_at = net_now();
    e->serving -= use->counts;
    news++;
    /* A trial must be ended even if a reload has taken the breaker away: it may give it back. */
    if (same && (has_breaker(e) || use->trial) && breaker_end(&e->breaker, &r, use->trial, outcome, net_now())) {
        note_breaker(e);
    }
}

void endpoint_answered(struct endpoint *e, const struct endpoint_use *use)
{
    if (use->trial && use->generation == e->generation) {
        breaker_next(&e->breaker);
        news++;
    }
}

void endpoint_end(struct endpoint *e, const struct endpoint_use *use, enum outcome outcome,
                  const struct tally_event *event)
{
    uint32_t ms = event->ms > UINT32_MAX ? UINT32_MAX : (uint32_t)event->ms;
    leave(e, use, outcome);
    tally_add(&e->sum, event);
    if (event->served) {
        e->latency_ms_min = tally_served(&e->sum) == 1 || ms < e->latency_ms_min ? ms : e->latency_ms_min;
        e->latency_ms_max = ms > e->latency_ms_max ? ms : e->latency_ms_max;
        histogram_add(&e->whole, event->ms);
    }
    if (event->rate > 0) {
        e->rate = e->rate > 0 ? (3 * e->rate + event->rate) / 4 : event->rate;
    }
    if (event->began) {
        histogram_add(&e->first, event->first_ms);
    }
    endpoint_release(e);
}

void endpoint_unused(struct endpoint *e, const struct endpoint_use *use)
{
    leave(e, use, OUTCOME_NONE);
    endpoint_release(e);
}

void endpoint_limit(struct endpoint *e, uint64_t ms)
{
    uint64_t until = net_now() + (ms < LIMIT_MAX_MS ? ms : LIMIT_MAX_MS);
    if (e->removed || until <= e->limited_until) {
        return;
    }
    if (e->limited_until < net_now() && log_begin(LOG_INFO, "endpoint takes no requests for a while")) {
        log_z("endpoint", e->name);
        log_u64("ms", until - net_now());
        log_end();
    }
    e->limited_until = until;
}

void endpoint_probed(struct endpoint *e, bool good)
{
    struct breaker_rules r = rules();
    if (!good && e->state == ENDPOINT_ASLEEP) {
        return; /* nobody expects an answer */
    }
    if (has_breaker(e) && breaker_probe(&e->breaker, &r, good, net_now())) {
        note_breaker(e);
    }
}

void endpoint_failed(struct endpoint *e, const char *why)
{
    if (e->removed || e->health != HEALTH_HTTP) {
        return; /* only the breaker judges it */
    }
    if (e->state != ENDPOINT_OFFLINE && e->state != ENDPOINT_ASLEEP) {
        endpoint_set_state(e, ENDPOINT_OFFLINE, why);
    }
}

/* ---- names --------------------------------------------------------------------------- */

/* Questions are numbered by generation, slot and target: an answer for what a reload has replaced fits nobody. */
static uint32_t question(const struct endpoint *e, int which)
{
    return e->generation << 8 | (uint32_t)(e->slot * TARGETS + which);
}

uint64_t endpoint_resolve(void)
{
    uint64_t next = UINT64_MAX, now = net_now();

    for (int i = 0; i < count * TARGETS; i++) {
        struct endpoint *e = ordered[i / TARGETS];
        struct target *t = &e->at[i % TARGETS];
        if (!t->host[0] || t->literal || t->resolving || !e->enabled) {
            continue;
        }
        if (t->resolve_at <= now) {
            if (resolve_ask(question(e, i % TARGETS), t->host, t->port) == OLLA_OK) {
                t->resolving = true;
                continue;
            }
            t->resolve_at = now + 100;
        }
        next = t->resolve_at < next ? t->resolve_at : next;
    }
    return next;
}

static void take_addresses(struct target *t, const struct resolve_answer *a)
{
    struct plat_addr good = t->addrs > 0 ? t->addr[t->good] : (struct plat_addr){.len = 0};
    t->good = 0;
    t->addrs = a->count < OLLA_MAX_ADDRS ? a->count : OLLA_MAX_ADDRS;
    for (int i = 0; i < t->addrs; i++) {
        t->addr[i] = a->addr[i];
        plat_addr_set_port(&t->addr[i], t->port);
        if (plat_addr_eq(&t->addr[i], &good)) {
            t->good = i;
        }
    }
}

static void no_address(struct endpoint *e, int which)
{
    if (which != TARGET_MODELS) {
        e->probed = true;
        endpoint_set_state(e, ENDPOINT_OFFLINE, "the name has no address");
    } else if (!e->list_failed) {
        e->discovered = e->list_failed = true;
        log_line(LOG_WARN, "model list cannot be read", "endpoint", str_of(e->name), "reason",
                 STR("the name has no address"));
    }
}

void endpoint_resolved(const struct resolve_answer *a)
{
    int number = (int)(a->id & 255);
    struct endpoint *e = endpoint_slot(number / TARGETS);
    struct target *t = e ? &e->at[number % TARGETS] : NULL;
    if (!t || !t->resolving) {
        return;
    }
    t->resolving = false;
    if (e->removed) {
        endpoint_release(e);
        return;
    }
    if (a->id != question(e, number % TARGETS)) {
        t->resolve_at = net_now(); /* a reload changed the name meanwhile */
        return;
    }
    uint64_t again = net_now() < e->eager_until ? EAGER_RESOLVE_MS : a->count > 0 ? RESOLVE_EVERY_MS : RESOLVE_RETRY_MS;
    t->resolve_at = RESOLVE_AGAIN ? net_now() + again : UINT64_MAX;
    if (a->count > 0) {
        bool first = t->addrs == 0;
        take_addresses(t, a);
        e->next_check = first ? net_now() : e->next_check;
        if (first) {
            assume_well(e);
        }
    } else if (t->addrs == 0) { /* otherwise: old addresses are better than none */
        no_address(e, number % TARGETS);
    }
}

void endpoint_resolver_lost(void)
{
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        for (int k = 0; table[i].used && k < TARGETS; k++) {
            if (table[i].at[k].resolving) {
                table[i].at[k].resolving = false;
                table[i].at[k].resolve_at = net_now() + 100;
                endpoint_release(&table[i]);
            }
        }
    }
}
