/*
 * route.h - level 5: where a request goes: path to route, then candidates to
 * one endpoint.
 *
 * May include: olla.h, str.h, conf.h, profile.h, endpoint.h, model.h.
 */
#ifndef OLLA_ROUTE_H
#define OLLA_ROUTE_H

#include "endpoint.h"
#include "model.h"
#include "sticky.h"

/* In which words a client wants to hear about errors: those of the API that its path belongs to. */
enum dialect { DIALECT_PLAIN = 0, DIALECT_OPENAI, DIALECT_OLLAMA, DIALECT_ANTHROPIC };

/* Answers that olla makes itself; the writer of each is in the table of admin.c. */
enum local_page {
    LOCAL_HEALTH = 0,
    LOCAL_VERSION,
    LOCAL_ROOT, /* that olla is here */
    LOCAL_STATUS,
    LOCAL_STATUS_MODELS,
    LOCAL_STATUS_ENDPOINTS,
    LOCAL_STATS_MODELS,
    LOCAL_PROCESS,
    LOCAL_METRICS,
    LOCAL_STATS_STICKY,
    LOCAL_STATS_TRANSLATORS,
    LOCAL_DASHBOARD,  /* the page; its file is the route's target */
    LOCAL_ACTION,     /* does something with an endpoint; its name and what are the route's target */
    LOCAL_TOKENS,     /* an estimate for a request that came with a body */
    LOCAL_MODELS,     /* a list, in the route's format */
    LOCAL_MODEL,      /* one of it; its name is the route's target */
    LOCAL_OLLA_MODEL, /* one entry of the catalogue, with all that is known; likewise */
    LOCAL_OLLAMA_VERSION,
    LOCAL_OLLAMA_PS, /* gathered from all machines first */
    LOCAL_COUNT
};

/* How a list of models is written. */
enum listing {
    LISTING_UNIFIED = 0,
    LISTING_OPENAI,
    LISTING_OLLAMA,
    LISTING_LM_STUDIO,
    LISTING_VLLM,
    LISTING_SGLANG,
    LISTING_LMDEPLOY,
    LISTING_LLAMACPP,
    LISTING_LEMONADE,
    LISTING_DMR,
    LISTING_VLLM_MLX,
    LISTING_ANTHROPIC,
    LISTING_COUNT
};

enum route_kind {
    ROUTE_NOT_FOUND = 0,
    ROUTE_LOCAL,
    ROUTE_REDIRECT, /* the same path with a slash */
    ROUTE_REFUSED,  /* status and text below */
    ROUTE_PROXY
};

struct route {
    enum route_kind kind;
    enum local_page page;
    enum listing listing;
    enum dialect dialect;
    bool pinnable;              /* goes to a machine after all if the request names one */
    const struct profile *only; /* provider route or provider listing; NULL = all types */
    bool has_type;              /* a provider route, even if `only` takes all */
    unsigned api;               /* API_* that the endpoint must speak; 0 = any */
    enum { MESSAGES_NONE = 0, MESSAGES_CREATE, MESSAGES_COUNT } messages; /* of the Anthropic API */
    int inference;     /* enum conf_kind_of_request by the path, -1 = something else */
    struct str target; /* for ROUTE_PROXY: the path for the backend, a part of the given path */
    struct str prefix; /* the provider segment as typed */
    int status;
    const char *text;
};

/* path: decoded and cleaned, starting with '/'. */
struct route route_find(struct str path, bool root_api);

/* ---- candidates -------------------------------------------------------------- */

/* True if the route takes the endpoint, whatever its state. */
bool route_fits(const struct endpoint *e, const struct route *r);

struct route_query {
    const struct route *route;
    struct str model;   /* "" = none named */
    endpoint_set tried; /* not again */
    enum conf_balancer balancer;
    struct str pin;                 /* name of the only endpoint wanted, "" = any; the model does not count then */
    const struct conf_alias *alias; /* of that name, or NULL */
    bool refreshed;                 /* the lists were read anew for this request */
    bool counts;                    /* max_concurrent applies */
    uint32_t tokens;                /* of the prompt, about; 0 = not known */
    uint64_t key;                   /* of the conversation, 0 = none */
    enum conf_wake wake;            /* how far the request may go for a machine that sleeps */
    endpoint_set woken;             /* it waited for these already */
};

/* What was decided; the words go into X-Olla-Routing-*. */
struct route_choice {
    struct endpoint *e;         /* NULL: nothing, see status */
    int status;                 /* 404 or 503 */
    bool no_such_pin;           /* 404: nobody has the wanted name */
    bool starting;              /* nothing yet, but endpoints are still being probed: worth a look soon */
    enum sticky_outcome sticky; /* STICKY_OFF: no key, or pinned by name */
    bool pin;                   /* e is to be remembered for the conversation */
    uint64_t turn;              /* of e in the rotation, for endpoint_begin */
    endpoint_set candidates;    /* that are open and large enough */
    endpoint_set full;          /* not empty: these would take it, but are at their max_concurrent */
    bool closed, limited;       /* all that are left: not before closed_ms; because of limits they named (429) */
    uint64_t closed_ms;
    struct endpoint *sleeper; /* to be woken, */
    bool wait;                /* and waited for: nobody else can take it */
    unsigned instead;         /* 404: the APIs that those with the model speak, none of them the route's */
    bool refresh;             /* the discovery strategy wants the lists read anew before it decides */
    const char *strategy;     /* "strict", ... or "alias" */
    const char *decision;     /* "routed", "rejected", "fallback"; NULL when no model was named */
    const char *reason;       /* "model_found", ...; NULL without a model and for an alias that was resolved */
    int resolved;             /* candidates that an alias stands for */
};

struct route_choice route_choose(const struct route_query *q);

/* Adds "; endpoints: NAME (reason), ..." for all that cannot serve the request now. */
void route_reasons(const struct route_query *q, struct text *t);

/*
 * The endpoints whose models a listing shows: enabled, of the route's type (NULL = all), with one of the APIs
 * in `speaking`, and, if `well`, healthy.
 */
#define ROUTE_ANY_API (~0u)
endpoint_set route_listed(const struct profile *only, unsigned speaking, bool well);
/* Those of them that are well or would be woken for a request. */
endpoint_set route_offered(const struct profile *only, unsigned speaking);

#endif
