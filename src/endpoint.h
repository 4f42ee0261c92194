/*
 * endpoint.h - level 4: the table of backends: what is configured, what is
 * known about their health, and what they have done.
 *
 * Invariants:
 *  1. An endpoint stays at its slot while it lives; bit `slot` of an
 *     endpoint_set means it. A slot is free again when the endpoint was
 *     removed by a reload and its last request has ended.
 *  2. Everything here is a copy: the configuration may be replaced at any time.
 *  3. `inflight` counts exchanges that hold the endpoint; only those may use it after removal.
 *
 * May include: olla.h, str.h, conf.h, net.h, log.h, profile.h.
 */
#ifndef OLLA_ENDPOINT_H
#define OLLA_ENDPOINT_H

#include "../platform/platform.h"
#include "breaker.h"
#include "conf.h"
#include "profile.h"
#include "tally.h"

enum endpoint_state {
    ENDPOINT_UNKNOWN = 0, /* not probed yet */
    ENDPOINT_HEALTHY,
    ENDPOINT_BUSY,         /* one health check got no answer: a machine under load does that */
    ENDPOINT_WARMING,      /* is loading its model */
    ENDPOINT_UNHEALTHY,    /* answers with an error */
    ENDPOINT_OFFLINE,      /* does not answer */
    ENDPOINT_CONFIG_ERROR, /* 401 or 403 to the probe */
    ENDPOINT_RATE_LIMITED,
    ENDPOINT_ASLEEP /* does not answer, but its machine can be woken */
};

struct upstream;

/* A host that an endpoint is reached at, and its addresses. */
struct target {
    char host[256];
    char authority[264]; /* for the Host header */
    uint16_t port;
    bool tls;
    bool literal; /* the host is an address: nothing to resolve */
    bool resolving;
    uint64_t resolve_at; /* when to ask (again) */
    struct plat_addr addr[OLLA_MAX_ADDRS];
    int addrs; /* 0 = not known (yet) */
    int good;  /* the one that connected last */
};

/* Requests go to the main one; health_check_url and model_url may name other hosts. */
enum { TARGET_MAIN = 0, TARGET_HEALTH, TARGET_MODELS, TARGETS };

/* A loaded model: hash of its name, and the tokens that it was loaded for. */
struct load_window {
    uint32_t name, context;
};

/* What detect.c has learnt so far. */
struct detection {
    unsigned step;
    const struct profile *hint; /* an empty list that looks like this type's */
    bool listed, filled;        /* an OpenAI list was found, and models in it */
    bool locked, failed;        /* it wants credentials; it answered 500 */
};

/* A machine that can be woken. Endpoints with the same address are on the same machine. */
struct endpoint_wake {
    bool can; /* it has an address */
    uint8_t mac[6];
    struct plat_addr to; /* of the packets, with their port */
    int64_t timeout;     /* ms */
    enum conf_wake policy;
    /* how it goes; wake.c's and sleep.c's */
    bool active;             /* it is being woken: requests wait until it is `ready` */
    bool quiet;              /* nothing may be sent to it: it is going to sleep */
    uint64_t settle_until;   /* ... nor asked before: it may still answer */
    uint64_t started, until; /* of the wake */
    uint64_t next_packet;
    unsigned packets;
    uint64_t failed_at; /* when the last wake failed, 0 = it did not */
    uint32_t took_ms;   /* of the last one, 0 = not known */
    uint64_t wakes, failures;
};

struct endpoint {
    bool used;
    bool removed; /* by a reload; freed when inflight reaches 0 */
    int slot;
    int order;           /* place in the configuration */
    uint32_t generation; /* counts replacements of the targets below */
    bool replaced;       /* by the last reload */

    char name[64];
    char type[32]; /* as configured */
    const struct profile *profile;
    bool is_auto;                /* the profile is what was detected, or waits for detection */
    bool own_health, own_models; /* the paths were configured: detection leaves them alone */
    char url[256];
    char base[128]; /* path of the URL, without trailing slash */
    struct target at[TARGETS];
    char health_path[256];
    char models_path[256];
    int priority;
    bool configured; /* enabled, by the configuration; */
    bool enabled;    /* and now */
    bool draining;   /* no new requests */
    bool preserve_path;
    int64_t check_interval;
    int64_t check_timeout;
    enum conf_health health;
    unsigned weight;
    unsigned max_concurrent;                                      /* 0 = any number */
    uint32_t max_context;                                         /* tokens, 0 = as it says */
    unsigned serves;                                              /* bits of enum conf_kind_of_request, 0 = all */
    int64_t connection_timeout, first_byte_timeout, read_timeout; /* ms, 0 = those of proxy; the second: none */
    struct {
        char ca_file[256], server_name[256]; /* "" = the system's; the host of the URL */
        bool insecure;
    } tls;
    char headers[OLLA_MAX_ENDPOINT_HEADERS]; /* lines that its requests get, see endpoint_headers */
    size_t headers_n;

    struct endpoint_wake wake;

    /* health */
    enum endpoint_state state;
    uint64_t since;  /* when it came into that state */
    const char *why; /* static text: the reason of the state */
    bool probed;     /* the first probe has ended */
    bool probing;
    bool redetect;                  /* an auto endpoint's type is to be found out again */
    struct detection detect;        /* ... how far that is */
    const struct profile *detected; /* what was found last, for the log */
    char detect_path[160];
    unsigned failures;    /* consecutive */
    unsigned backoff;     /* multiplier of the interval */
    uint64_t next_check;  /* monotonic ms */
    uint64_t eager_until; /* failing checks are repeated at once: it is about to come up */
    uint64_t last_check;
    uint32_t probe_ms; /* latency of the last probe */
    bool no_messages;  /* its type has /v1/messages, but this one answered that it has not: an older version */

    /* models */
    struct {
        bool asked; /* since the last list */
        char path[160];
        uint32_t context; /* of the loaded model, tokens; 0 = not told */
        unsigned said;    /* CAP_* of it */
        char version[24]; /* of the server, "" = not told */
    } extra;
    struct {
        bool asking;
        bool known, busy; /* it told lately; all its places are taken */
        struct load_window window[4];
        uint64_t at, next;
        char path[160];
    } load;
    uint32_t only_context; /* tokens: of the only model in its list */
    bool discovering;
    bool ask_again;   /* the list that is being read is too old already */
    bool discovered;  /* a list has been read since the endpoint is up, or the first try has failed */
    bool list_failed; /* the last list could not be read; said once */
    unsigned models;
    uint64_t next_discovery;
    uint64_t list_started;   /* when the last list was asked for */
    uint64_t last_discovery; /* successful, 0 = never */

    /* traffic */
    uint64_t used_at; /* when it last had something to do, or came up */
    unsigned inflight;
    unsigned serving; /* of these, requests that max_concurrent counts */
    uint64_t picked;  /* sequence number of the last choice */
    uint64_t pass;    /* grows by 1 / weight with each choice: the least is next */
    struct breaker breaker;
    uint64_t limited_until; /* it said that it takes nothing before */
    struct upstream *idle;  /* most recently used first */
    unsigned idle_n;
    struct tally sum;
    uint64_t rate; /* thousandths of tokens per second, the last replies' average; 0 = not known */
    uint32_t latency_ms_min, latency_ms_max; /* of what was served */
    struct histogram first, whole;           /* ms to the first byte of the body, and to the end */
};

/*
 * Applies a configuration: adds, changes and removes by name. Unchanged endpoints keep all their state.
 * The caller then clears what higher levels keep for removed and changed ones, and releases them.
 */
void endpoint_apply(const struct conf *c);

/* Frees a removed endpoint that nothing uses any more; else does nothing. */
void endpoint_release(struct endpoint *e);

/* Checks what conf.c cannot know (types, probe URLs). OLLA_ERR after messages. */
int endpoint_check(const struct conf *c, conf_message *say);

/* Configured endpoints in configuration order: i from 0 while the result is not NULL. */
struct endpoint *endpoint_at(int i);
struct endpoint *endpoint_slot(int slot); /* NULL if free */
int endpoint_count(void);
static inline endpoint_set endpoint_bit(const struct endpoint *e)
{
    return (endpoint_set)1 << e->slot;
}

/*
 * Header lines for requests to its own host, and to no other: custom ones and credentials. They replace all of the same
 * name (http_replace_fields), and replies lose those names.
 */
static inline struct str endpoint_headers(const struct endpoint *e)
{
    return (struct str){e->headers, e->headers_n};
}

/* Where probes of that kind go: the target itself, or the main one if no other host was named. */
struct target *endpoint_target(struct endpoint *e, int which);

/* The number that tls.h knows one of its targets by. */
static inline unsigned endpoint_peer(const struct endpoint *e, int which)
{
    return (unsigned)(e->slot * TARGETS + which);
}

const char *endpoint_state_name(enum endpoint_state state);

/* Changes the state; logs once per change. why is static text. */
void endpoint_set_state(struct endpoint *e, enum endpoint_state state, const char *why);

/* True until every enabled endpoint has been probed, and asked for its models, once. */
bool endpoint_any_pending(void);

/* True if its models can be asked for: it is up, discovery is on, and the host of the list has an address. */
bool endpoint_can_list(struct endpoint *e);

/* The discovery strategy: asks every healthy endpoint for its list that was not asked since `since`. */
void endpoint_ask_lists(uint64_t since);
bool endpoint_lists_pending(void); /* some list is asked for or about to be */

/* True if its state lets requests go there: healthy, busy or warming. */
static inline bool endpoint_is_up(const struct endpoint *e)
{
    return !e->wake.quiet &&
           (e->state == ENDPOINT_HEALTHY || e->state == ENDPOINT_BUSY || e->state == ENDPOINT_WARMING);
}

/* True if no more requests that count may go there now. */
static inline bool endpoint_is_full(const struct endpoint *e)
{
    return e->max_concurrent > 0 && e->serving >= e->max_concurrent;
}

/* True if neither its breaker nor a limit that it named forbids it. */
bool endpoint_is_open(const struct endpoint *e);
/* ms until it may be so, 0 = now. */
uint64_t endpoint_closed_for(const struct endpoint *e);

/* What one exchange does with an endpoint; lives in the exchange. */
struct endpoint_use {
    bool counts;         /* for max_concurrent */
    bool trial;          /* of the breaker */
    uint32_t generation; /* of the endpoint; a reload may put another machine in its place meanwhile */
};

/* An exchange begins and ends using e. turn: its place in the rotation (0 = chosen otherwise). */
void endpoint_begin(struct endpoint *e, struct endpoint_use *use, bool counts, uint64_t turn);
void endpoint_end(struct endpoint *e, const struct endpoint_use *use, enum outcome outcome,
                  const struct tally_event *event);

/* It has begun to reply: if that is a trial, the next one may begin. */
void endpoint_answered(struct endpoint *e, const struct endpoint_use *use);

void endpoint_unused(struct endpoint *e, const struct endpoint_use *use); /* it never got there: counts nothing */

/* It said that it takes nothing for so long. */
void endpoint_limit(struct endpoint *e, uint64_t ms);

/* For the breaker: how a health check ended. */
void endpoint_probed(struct endpoint *e, bool good);

/*
 * The rotation's place of e among some whose largest `pass` is given: the least is next. Nobody is more than one
 * choice behind, so that one that was away gets its share from now on, not what it missed.
 */
uint64_t endpoint_turn(const struct endpoint *e, uint64_t largest);

/* Changes whenever a request that waits for an endpoint should look again: one has room, is up, or is tried again. */
uint32_t endpoint_news(void);
void endpoint_tell(void); /* there are such news */

/* Asks at once, and again soon, while it does not answer: it is said to come up. */
void endpoint_expect(struct endpoint *e, uint64_t for_ms);

/* Two endpoints on one machine that can be woken; also true of one and itself. */
bool endpoint_same_machine(const struct endpoint *a, const struct endpoint *b);

/* In RAM only; a restart knows nothing of it. The caller then clears what higher levels keep for one that is disabled. */
void endpoint_enable(struct endpoint *e, bool on);

/* Called by the request path after a refused or lost connection: offline at once, probed soon. */
void endpoint_failed(struct endpoint *e, const char *why);

/* The type of an auto endpoint is known now; the health check of that type follows at once. */
void endpoint_detected(struct endpoint *e, const struct profile *p);
/* It is to be found out again at the next health check; until then the old type holds. */
void endpoint_undetect(struct endpoint *e);

/* Name resolution: sends due questions; takes answers. Returns when it wants to be called again. */
uint64_t endpoint_resolve(void);
void endpoint_resolved(const struct resolve_answer *a);
void endpoint_resolver_lost(void); /* outstanding questions will not be answered */

#endif
