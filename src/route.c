/*
 * route.c - level 5: see route.h.
 *
 * May include: olla.h, str.h, conf.h, profile.h, endpoint.h, model.h, route.h.
 */
#include "route.h"

#define NO_MANAGEMENT                                             \
    "model management operations are not supported by the proxy " \
    "unless the header X-Olla-Endpoint names the machine they are for"

enum match { EXACT = 0, BELOW };

/* Fixed paths. The first row that fits wins. `root` rows exist only with server.root_api. */
static const struct {
    struct str path;
    enum match match;
    bool root;
    enum route_kind kind;
    enum local_page page;
    enum dialect dialect;
} paths[] = {
    {STR("/internal/health"), EXACT, false, ROUTE_LOCAL, LOCAL_HEALTH, DIALECT_PLAIN},
    {STR("/internal/status"), EXACT, false, ROUTE_LOCAL, LOCAL_STATUS, DIALECT_PLAIN},
    {STR("/version"), EXACT, false, ROUTE_LOCAL, LOCAL_VERSION, DIALECT_PLAIN},
    {STR("/olla/proxy/v1/models"), EXACT, false, ROUTE_LOCAL, LOCAL_MODELS_OPENAI, DIALECT_OPENAI},
    {STR("/olla/proxy/v1/models/"), BELOW, false, ROUTE_LOCAL, LOCAL_MODEL_OPENAI, DIALECT_OPENAI},
    {STR("/olla/proxy"), EXACT, false, ROUTE_REDIRECT, 0, DIALECT_PLAIN},
    {STR("/olla/proxy/"), BELOW, false, ROUTE_PROXY, 0, DIALECT_PLAIN},
    {STR("/v1/models/"), BELOW, true, ROUTE_LOCAL, LOCAL_MODEL_OPENAI, DIALECT_OPENAI},
    {STR("/v1/models"), EXACT, true, ROUTE_LOCAL, LOCAL_MODELS_OPENAI, DIALECT_OPENAI},
    {STR("/api/tags"), EXACT, true, ROUTE_LOCAL, LOCAL_MODELS_OLLAMA, DIALECT_OLLAMA},
    {STR("/api/version"), EXACT, true, ROUTE_LOCAL, LOCAL_OLLAMA_VERSION, DIALECT_OLLAMA},
    {STR("/v1/"), BELOW, true, ROUTE_PROXY, 0, DIALECT_PLAIN},
    {STR("/api/"), BELOW, true, ROUTE_PROXY, 0, DIALECT_PLAIN},
};

/* Paths under /olla/<prefix>/ that are not proxied; `type` names the profile they belong to, "" = all. */
static const struct {
    const char *type;
    struct str rest;
    enum route_kind kind;
    enum local_page page;
    enum dialect dialect;
} provider_paths[] = {
    {"", STR("/v1/models"), ROUTE_LOCAL, LOCAL_MODELS_OPENAI, DIALECT_OPENAI},
    {"ollama", STR("/api/tags"), ROUTE_LOCAL, LOCAL_MODELS_OLLAMA, DIALECT_OLLAMA},
    {"lm-studio", STR("/api/v1/models"), ROUTE_LOCAL, LOCAL_MODELS_OPENAI, DIALECT_OPENAI},
    {"lm-studio", STR("/api/v0/models"), ROUTE_LOCAL, LOCAL_MODELS_LM_STUDIO, DIALECT_OPENAI},
    {"lemonade", STR("/api/v1/models"), ROUTE_LOCAL, LOCAL_MODELS_OPENAI, DIALECT_OPENAI},
    {"docker-model-runner", STR("/engines/v1/models"), ROUTE_LOCAL, LOCAL_MODELS_OPENAI, DIALECT_OPENAI},
};

/* Ollama's management calls change one machine: they make no sense for a fleet. */
static const struct str management[] = {
    STR("/api/pull"), STR("/api/push"), STR("/api/create"), STR("/api/copy"), STR("/api/delete"),
};

/* Paths, as backends see them, that say which API is spoken. The first row that fits wins. */
static const struct {
    struct str path;
    enum match match;
    unsigned api;
    enum dialect dialect;
} apis[] = {
    {STR("/api/v0/"), BELOW, API_LM_STUDIO, DIALECT_OPENAI},
    {STR("/api/v1/"), BELOW, API_LEMONADE, DIALECT_OPENAI},
    {STR("/api/"), BELOW, API_OLLAMA, DIALECT_OLLAMA},
    {STR("/v1/messages"), EXACT, API_ANTHROPIC, DIALECT_ANTHROPIC},
    {STR("/v1/messages/"), BELOW, API_ANTHROPIC, DIALECT_ANTHROPIC},
    {STR("/v1/"), BELOW, API_OPENAI, DIALECT_OPENAI},
    {STR("/engines/"), BELOW, API_DMR, DIALECT_OPENAI},
    {STR("/chat/completions"), EXACT, 0, DIALECT_OPENAI},
    {STR("/completions"), EXACT, 0, DIALECT_OPENAI},
    {STR("/embeddings"), EXACT, 0, DIALECT_OPENAI},
};

static bool matches(struct str path, struct str pattern, enum match how)
{
    return how == EXACT ? str_eq(path, pattern) : str_starts(path, pattern);
}

static void classify(struct str target, enum dialect *dialect, unsigned *api)
{
    *dialect = DIALECT_PLAIN;
    *api = 0;
    for (size_t i = 0; i < OLLA_COUNT(apis); i++) {
        if (matches(target, apis[i].path, apis[i].match)) {
            *dialect = apis[i].dialect;
            *api = apis[i].api;
            return;
        }
    }
}

enum dialect route_dialect(struct str target)
{
    enum dialect dialect;
    unsigned api;
    classify(target, &dialect, &api);
    return dialect;
}

static struct route proxy_to(struct str target)
{
    struct route r = {.kind = ROUTE_PROXY, .target = target.n > 0 ? target : STR("/")};
    classify(r.target, &r.dialect, &r.api);
    return r;
}

static struct route refuse_management(struct route r)
{
    for (size_t i = 0; r.api == API_OLLAMA && i < OLLA_COUNT(management); i++) {
        if (str_eq(r.target, management[i]) || str_starts(r.target, STR("/api/blobs/"))) {
            r.kind = ROUTE_REFUSED;
            r.status = 501;
            r.text = NO_MANAGEMENT;
        }
    }
    return r;
}

static struct route provider(struct str rest)
{
    struct str segment = {rest.p, str_find(rest, '/')};
    struct str target = str_skip(rest, segment.n);
    const struct profile *p = profile_by_prefix(segment);
    struct route r = {.kind = ROUTE_NOT_FOUND};

    if (!p) {
        return r;
    }
    if (target.n == 0) {
        r.kind = ROUTE_REDIRECT;
        return r;
    }
    r = proxy_to(target);
    if (p->apis & API_OLLAMA) {
        r = refuse_management(r);
    }
    for (size_t i = 0; i < OLLA_COUNT(provider_paths); i++) {
        const char *type = provider_paths[i].type;
        if (str_eq(target, provider_paths[i].rest) && (type[0] == '\0' || str_eq(str_of(type), str_of(p->name)))) {
            r.kind = provider_paths[i].kind;
            r.page = provider_paths[i].page;
            r.dialect = provider_paths[i].dialect;
        }
    }
    r.only = p;
    r.has_type = true;
    r.prefix = segment;
    if (r.kind != ROUTE_PROXY || !profile_is_any(p)) {
        r.api = 0; /* a single type says itself who understands the path */
    }
    return r;
}

struct route route_find(struct str path, bool root_api)
{
    for (size_t i = 0; i < OLLA_COUNT(paths); i++) {
        if ((paths[i].root && !root_api) || !matches(path, paths[i].path, paths[i].match)) {
            continue;
        }
        if (paths[i].kind != ROUTE_PROXY) {
            return (struct route){.kind = paths[i].kind,
                                  .page = paths[i].page,
                                  .dialect = paths[i].dialect,
                                  .target = str_skip(path, paths[i].path.n)};
        }
        /* Keep the slash: the target starts with the last byte of the prefix, or is the whole path at the root. */
        struct route r = proxy_to(paths[i].root ? path : str_skip(path, paths[i].path.n - 1));
        return paths[i].root ? refuse_management(r) : r;
    }
    if (str_starts(path, STR("/olla/"))) {
        return provider(str_skip(path, 6));
    }
    return (struct route){.kind = ROUTE_NOT_FOUND};
}

/* ---- candidates --------------------------------------------------------------- */

static bool compatible(const struct endpoint *e, const struct route *r)
{
    return e->enabled && (!r->only || profile_serves(e->profile, r->only)) &&
           (r->api == 0 || (e->profile->apis & r->api));
}

/* True if a is the better one. Ties rotate: the one picked longest ago wins, then configuration order. */
static bool better(const struct endpoint *a, const struct endpoint *b, enum conf_balancer how)
{
    if (how == BALANCE_PRIORITY && a->priority != b->priority) {
        return a->priority > b->priority;
    }
    if (how != BALANCE_ROUND_ROBIN && a->inflight != b->inflight) {
        return a->inflight < b->inflight;
    }
    return a->picked < b->picked;
}

static struct endpoint *balance(endpoint_set candidates, enum conf_balancer how)
{
    struct endpoint *best = NULL, *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if ((candidates & endpoint_bit(e)) && (!best || better(e, best, how))) {
            best = e;
        }
    }
    return best;
}

static int members(endpoint_set set)
{
    int n = 0;
    for (; set; set &= set - 1) {
        n++;
    }
    return n;
}

/* Who serves any of the alias's models. */
static endpoint_set find_alias(const struct conf_alias *a, endpoint_set usable, endpoint_set *known)
{
    endpoint_set found = 0, one;
    *known = 0;
    for (int i = 0; i < a->models.n; i++) {
        found |= model_find(str_of(a->models.item[i]), usable, &one);
        *known |= one;
    }
    return found;
}

/* The words for a model that was found, is known but not served now, or is not known (routing.md 6). */
static const struct {
    const char *name;
    const char *found, *found_after, *unavailable[3], *unknown[3];
} strategies[] = {
    [STRATEGY_STRICT] = {"strict",
                         "model_found",
                         "model_found",
                         {"model_unavailable", "model_unavailable", "model_unavailable"},
                         {"model_not_found", "model_not_found", "model_not_found"}},
    [STRATEGY_OPTIMISTIC] = {"optimistic",
                             "model_found",
                             "model_found",
                             {"model_unavailable_compatible_only", "model_unavailable_no_fallback",
                              "all_healthy_fallback"},
                             {"model_not_found", "model_not_found", "model_not_found_fallback"}},
    [STRATEGY_DISCOVERY] = {"discovery",
                            "model_found_no_refresh",
                            "model_found",
                            {"model_unavailable_no_refresh", "model_unavailable_no_refresh",
                             "all_healthy_after_discovery"},
                            {"model_not_found", "model_not_found", "all_healthy_after_discovery"}},
};

/* What the strategy makes of it; candidates holds those that have the model. */
static endpoint_set apply_strategy(const struct route_query *q, struct route_choice *c, endpoint_set candidates,
                                   endpoint_set known, endpoint_set healthy)
{
    enum conf_strategy how = conf_now->model_registry.routing_strategy.type;
    enum conf_fallback fallback = conf_now->model_registry.routing_strategy.options.fallback_behavior;

    c->strategy = strategies[how].name;
    if (candidates) {
        c->decision = "routed";
        c->reason = q->refreshed ? strategies[how].found_after : strategies[how].found;
        return candidates;
    }
    c->refresh = how == STRATEGY_DISCOVERY && !q->refreshed && healthy &&
                 conf_now->model_registry.routing_strategy.options.discovery_refresh_on_miss;
    bool wants_all = how != STRATEGY_STRICT && fallback == FALLBACK_ALL;
    bool all = wants_all && (how == STRATEGY_OPTIMISTIC || q->refreshed);
    fallback = wants_all && !all ? FALLBACK_NONE : fallback; /* nothing was asked anew: the plain words */
    c->status = known || (wants_all && !healthy) ? 503 : 404;
    c->reason = known ? strategies[how].unavailable[fallback] : strategies[how].unknown[fallback];
    if (known && q->refreshed && !all) {
        c->reason = "model_unavailable_after_discovery";
    }
    c->decision = all && healthy ? "fallback" : "rejected";
    return all ? healthy : 0;
}

/* The wanted endpoint, if it is there and well. */
static void choose_pinned(const struct route_query *q, struct route_choice *c)
{
    struct endpoint *e;
    int i = 0;
    while ((e = endpoint_at(i)) != NULL && !str_eq(str_of(e->name), q->pin)) {
        i++;
    }
    c->no_such_pin = e == NULL || !compatible(e, q->route);
    c->status = c->no_such_pin ? 404 : 503;
    if (!c->no_such_pin && e->state == ENDPOINT_HEALTHY && !(q->tried & endpoint_bit(e))) {
        c->e = e;
    }
    c->starting = !c->e && !c->no_such_pin && !e->probed;
}

struct route_choice route_choose(const struct route_query *q)
{
    struct route_choice c = {.status = 503};
    endpoint_set healthy = 0, candidates, known = 0;
    struct endpoint *e;

    if (q->pin.n > 0) {
        choose_pinned(q, &c);
        return c;
    }
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (compatible(e, q->route) && e->state == ENDPOINT_HEALTHY) {
            healthy |= endpoint_bit(e);
        }
    }
    candidates = healthy;
    if (q->model.n > 0 && (healthy || !q->route->has_type)) {
        candidates = q->alias ? find_alias(q->alias, healthy, &known) : 0;
        if (known) {
            c.strategy = "alias";
            c.decision = candidates ? "routed" : "rejected";
            c.reason = candidates ? NULL : "model_unavailable";
            c.resolved = members(candidates);
        } else {
            candidates = model_find(q->model, healthy, &known);
            candidates = apply_strategy(q, &c, candidates, known, healthy);
        }
    } else if (q->route->has_type && !healthy) {
        c.status = 404;
    }
    c.e = balance(candidates & ~q->tried, q->balancer);
    c.starting = !c.e && endpoint_any_pending();
    return c;
}

endpoint_set route_listed(const struct profile *only)
{
    endpoint_set set = 0;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (e->enabled && e->state == ENDPOINT_HEALTHY && (!only || profile_serves(e->profile, only))) {
            set |= endpoint_bit(e);
        }
    }
    return set;
}
