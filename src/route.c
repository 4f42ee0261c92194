/*
 * route.c - level 5: see route.h.
 *
 * May include: olla.h, str.h, conf.h, profile.h, endpoint.h, model.h, route.h.
 */
#include "route.h"

#define REMEDY         " unless the header X-Olla-Endpoint names the machine it is for"
#define NO_MANAGEMENT  "model management operations are not supported by the proxy" REMEDY
#define NO_OLLAMA_LIST "running models list not supported in multi-instance proxy" REMEDY "; see /api/ps and /api/tags"

enum match { EXACT = 0, BELOW };

/* Fixed paths. The first row that fits wins; the ones that are asked for most stand first. `root` rows exist only with server.root_api. */
static const struct {
    struct str path;
    enum match match;
    bool root;
    enum route_kind kind;
    enum local_page page;
    enum listing listing;
    enum dialect dialect;
} paths[] = {
    /* clang-format off */
    {STR("/olla/proxy/v1/models"),     EXACT, false, ROUTE_LOCAL,    LOCAL_MODELS,        LISTING_OPENAI,    DIALECT_OPENAI},
    {STR("/olla/proxy/v1/models/"),    BELOW, false, ROUTE_LOCAL,    LOCAL_MODEL,         LISTING_OPENAI,    DIALECT_OPENAI},
    {STR("/olla/proxy"),               EXACT, false, ROUTE_REDIRECT, 0,                   0,                 DIALECT_PLAIN},
    {STR("/olla/proxy/"),              BELOW, false, ROUTE_PROXY,    0,                   0,                 DIALECT_PLAIN},
    {STR("/"),                         EXACT, true,  ROUTE_LOCAL,    LOCAL_ROOT,          0,                 DIALECT_PLAIN},
    {STR("/v1/models"),                EXACT, true,  ROUTE_LOCAL,    LOCAL_MODELS,        LISTING_OPENAI,    DIALECT_OPENAI},
    {STR("/v1/models/"),               BELOW, true,  ROUTE_LOCAL,    LOCAL_MODEL,         LISTING_OPENAI,    DIALECT_OPENAI},
    {STR("/v1/"),                      BELOW, true,  ROUTE_PROXY,    0,                   0,                 DIALECT_PLAIN},
    {STR("/api/"),                     BELOW, true,  ROUTE_PROXY,    0,                   0,                 DIALECT_PLAIN},
    {STR("/olla/models"),              EXACT, false, ROUTE_LOCAL,    LOCAL_MODELS,        LISTING_UNIFIED,   DIALECT_PLAIN},
    {STR("/olla/models/"),             BELOW, false, ROUTE_LOCAL,    LOCAL_OLLA_MODEL,    0,                 DIALECT_PLAIN},
    {STR("/olla/anthropic/v1/models"), EXACT, false, ROUTE_LOCAL,    LOCAL_MODELS,        LISTING_ANTHROPIC, DIALECT_ANTHROPIC},
    {STR("/olla/anthropic/v1/models/"), BELOW, false, ROUTE_LOCAL,   LOCAL_MODEL,         LISTING_ANTHROPIC, DIALECT_ANTHROPIC},
    {STR("/olla/anthropic/"),          BELOW, false, ROUTE_PROXY,    0,                   0,                 DIALECT_PLAIN},
    {STR("/internal/health"),          EXACT, false, ROUTE_LOCAL,    LOCAL_HEALTH,        0,                 DIALECT_PLAIN},
    {STR("/internal/status"),          EXACT, false, ROUTE_LOCAL,    LOCAL_STATUS,        0,                 DIALECT_PLAIN},
    {STR("/internal/status/endpoints"), EXACT, false, ROUTE_LOCAL,    LOCAL_STATUS_ENDPOINTS, 0,              DIALECT_PLAIN},
    {STR("/internal/stats/models"),    EXACT, false, ROUTE_LOCAL,    LOCAL_STATS_MODELS,  0,                 DIALECT_PLAIN},
    {STR("/internal/process"),         EXACT, false, ROUTE_LOCAL,    LOCAL_PROCESS,       0,                 DIALECT_PLAIN},
    {STR("/internal/metrics"),         EXACT, false, ROUTE_LOCAL,    LOCAL_METRICS,       0,                 DIALECT_PLAIN},
    {STR("/internal/stats/sticky"),    EXACT, false, ROUTE_LOCAL,    LOCAL_STATS_STICKY,  0,                 DIALECT_PLAIN},
    {STR("/internal/stats/translators"), EXACT, false, ROUTE_LOCAL,  LOCAL_STATS_TRANSLATORS, 0,             DIALECT_PLAIN},
    {STR("/internal/status/models"),   EXACT, false, ROUTE_LOCAL,    LOCAL_STATUS_MODELS, 0,                 DIALECT_PLAIN},
    {STR("/internal/ui"),              EXACT, false, ROUTE_LOCAL,    LOCAL_DASHBOARD,     0,                 DIALECT_PLAIN},
    {STR("/internal/ui/"),             BELOW, false, ROUTE_LOCAL,    LOCAL_DASHBOARD,     0,                 DIALECT_PLAIN},
    {STR("/internal/endpoints/"),      BELOW, false, ROUTE_LOCAL,    LOCAL_ACTION,        0,                 DIALECT_PLAIN},
    {STR("/version"),                  EXACT, false, ROUTE_LOCAL,    LOCAL_VERSION,       0,                 DIALECT_PLAIN},
    /* clang-format on */
};

/* How the list at a type's own path is written. */
static const enum listing own_lists[] = {
    [LIST_OPENAI] = LISTING_OPENAI,     [LIST_OLLAMA] = LISTING_OLLAMA,     [LIST_LM_STUDIO] = LISTING_LM_STUDIO,
    [LIST_LLAMACPP] = LISTING_LLAMACPP, [LIST_LEMONADE] = LISTING_LEMONADE,
};

/* Further lists under /olla/<prefix>/; `type` names the profile they belong to, "" = all. */
static const struct {
    const char *type;
    struct str rest;
    enum match match;
    enum local_page page;
    enum listing listing;
} provider_paths[] = {
    {"", STR("/v1/models"), EXACT, LOCAL_MODELS, LISTING_OPENAI},
    {"", STR("/v1/models/"), BELOW, LOCAL_MODEL, LISTING_OPENAI},
    {"lm-studio", STR("/api/v1/models"), EXACT, LOCAL_MODELS, LISTING_OPENAI},
    {"docker-model-runner", STR("/engines/v1/models"), EXACT, LOCAL_MODELS, LISTING_DMR},
};

/* Ollama's paths that are about all its machines, or that only make sense for one of them. */
static const struct {
    struct str path;
    enum match match;
    enum route_kind kind;
    enum local_page page;
    const char *text;
} ollama_paths[] = {
    {STR("/api/tags"), EXACT, ROUTE_LOCAL, LOCAL_MODELS, NULL},
    {STR("/api/version"), EXACT, ROUTE_LOCAL, LOCAL_OLLAMA_VERSION, NULL},
    {STR("/api/ps"), EXACT, ROUTE_LOCAL, LOCAL_OLLAMA_PS, NULL},
    {STR("/api/list"), EXACT, ROUTE_REFUSED, 0, NO_OLLAMA_LIST},
    {STR("/api/pull"), EXACT, ROUTE_REFUSED, 0, NO_MANAGEMENT},
    {STR("/api/push"), EXACT, ROUTE_REFUSED, 0, NO_MANAGEMENT},
    {STR("/api/create"), EXACT, ROUTE_REFUSED, 0, NO_MANAGEMENT},
    {STR("/api/copy"), EXACT, ROUTE_REFUSED, 0, NO_MANAGEMENT},
    {STR("/api/delete"), EXACT, ROUTE_REFUSED, 0, NO_MANAGEMENT},
    {STR("/api/blobs/"), BELOW, ROUTE_REFUSED, 0, NO_MANAGEMENT},
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

/* What a request is for, by its path as backends see it, whatever stands before it. */
static const struct {
    struct str end;
    enum conf_kind_of_request kind;
} kinds[] = {
    {STR("/chat/completions"), SERVES_CHAT},
    {STR("/completions"), SERVES_CHAT},
    {STR("/messages"), SERVES_CHAT},
    {STR("/responses"), SERVES_CHAT},
    {STR("/api/chat"), SERVES_CHAT},
    {STR("/api/generate"), SERVES_CHAT},
    {STR("/completion"), SERVES_CHAT},
    {STR("/infill"), SERVES_CHAT},
    {STR("/generate"), SERVES_CHAT},
    {STR("/embeddings"), SERVES_EMBEDDINGS},
    {STR("/embed"), SERVES_EMBEDDINGS},
    {STR("/embedding"), SERVES_EMBEDDINGS},
    {STR("/rerank"), SERVES_RERANK},
    {STR("/reranking"), SERVES_RERANK},
    {STR("/score"), SERVES_RERANK},
    {STR("/audio/transcriptions"), SERVES_AUDIO},
    {STR("/audio/translations"), SERVES_AUDIO},
    {STR("/audio/speech"), SERVES_AUDIO},
    {STR("/images/generations"), SERVES_IMAGES},
    {STR("/images/edits"), SERVES_IMAGES},
    {STR("/images/variations"), SERVES_IMAGES},
};

static int kind_of(struct str target)
{
    for (size_t i = 0; i < OLLA_COUNT(kinds); i++) {
        if (str_ends(target, kinds[i].end)) {
            return (int)kinds[i].kind;
        }
    }
    return -1;
}

static struct route proxy_to(struct str target)
{
    struct route r = {.kind = ROUTE_PROXY, .target = target.n > 0 ? target : STR("/")};
    classify(r.target, &r.dialect, &r.api);
    r.inference = kind_of(r.target);
    return r;
}

/* One machine's API on a fleet. */
static struct route as_one_ollama(struct route r)
{
    for (size_t i = 0; r.api == API_OLLAMA && i < OLLA_COUNT(ollama_paths); i++) {
        if (matches(r.target, ollama_paths[i].path, ollama_paths[i].match)) {
            r.kind = ollama_paths[i].kind;
            r.page = ollama_paths[i].page;
            r.listing = LISTING_OLLAMA;
            r.pinnable = true;
            r.status = 501;
            r.text = ollama_paths[i].text;
            return r;
        }
    }
    return r;
}

/* Where the servers of a type have lists, olla has one of all of them. */
static struct route as_own_list(struct route r, const struct profile *p)
{
    for (size_t i = 0; i < OLLA_COUNT(provider_paths); i++) {
        const char *type = provider_paths[i].type;
        bool has = type[0] ? str_eq(str_of(type), str_of(p->name)) : (p->apis & API_OPENAI) != 0;
        if (has && matches(r.target, provider_paths[i].rest, provider_paths[i].match)) {
            r.kind = ROUTE_LOCAL;
            r.page = provider_paths[i].page;
            r.listing = provider_paths[i].listing;
            r.dialect = DIALECT_OPENAI;
            r.target = str_skip(r.target, provider_paths[i].rest.n);
            return r;
        }
    }
    if (str_eq(r.target, str_of(p->models_path))) {
        r.kind = ROUTE_LOCAL;
        r.page = LOCAL_MODELS;
        r.listing = own_lists[p->list];
        r.dialect = p->list == LIST_OLLAMA ? DIALECT_OLLAMA : DIALECT_OPENAI;
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
    if (p->any || (p->apis & API_OLLAMA)) {
        r = as_one_ollama(r);
    }
    if (r.kind == ROUTE_PROXY && !profile_has_path(p, target)) {
        r = as_own_list(r, p);
    }
    r.only = p;
    r.has_type = true;
    r.prefix = segment;
    if (!p->any) {
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
                                  .listing = paths[i].listing,
                                  .dialect = paths[i].dialect,
                                  .target = str_skip(path, paths[i].path.n)};
        }
        /* Keep the slash: the target starts with the last byte of the prefix, or is the whole path at the root. */
        return as_one_ollama(proxy_to(paths[i].root ? path : str_skip(path, paths[i].path.n - 1)));
    }
    if (str_starts(path, STR("/olla/"))) {
        return provider(str_skip(path, 6));
    }
    return (struct route){.kind = ROUTE_NOT_FOUND};
}

/* ---- endpoints of a route ----------------------------------------------------- */

bool route_fits(const struct endpoint *e, const struct route *r)
{
    return e->enabled && (!r->only || profile_serves(e->profile, r->only)) &&
           (r->api == 0 || (e->profile->apis & r->api)) && (r->messages != MESSAGES_COUNT || e->profile->counts_tokens);
}

endpoint_set route_offered(const struct profile *only, unsigned speaking)
{
    endpoint_set set = route_listed(only, speaking, false), offered = 0;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        bool wakes = e->wake.can && e->wake.policy > WAKE_NEVER &&
                     (e->state == ENDPOINT_ASLEEP || e->state == ENDPOINT_UNKNOWN || e->wake.active || e->wake.quiet);
        offered |= endpoint_is_up(e) || wakes ? endpoint_bit(e) : 0;
    }
    return set & offered;
}

endpoint_set route_listed(const struct profile *only, unsigned speaking, bool well)
{
    endpoint_set set = 0;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (e->enabled && (!well || endpoint_is_up(e)) && (!only || profile_serves(e->profile, only)) &&
            !profile_is_auto(e->profile) && (speaking == ROUTE_ANY_API || (e->profile->apis & speaking))) {
            set |= endpoint_bit(e);
        }
    }
    return set;
}
