/*
 * exchange.h - level 6: one request and its reply, and the client connection
 * they belong to.
 *
 *   X_BODY -> (route) -> X_CONNECT -> X_SEND -> X_WAIT -> X_STREAM -> X_FLUSH -> X_DONE
 *        \                   ^___________________|  next candidate, only before
 *         \                                         the first byte went down
 *          -> X_HOLD -> X_LOCAL (answers of our own) --------> X_FLUSH
 *   X_WAIT -> X_TUNNEL (after a 101) -> X_DONE
 *
 * Invariants:
 *  1. Handlers do a step and change the state, or return; exchange_finish is
 *     the only place that frees.
 *  2. Each state has one deadline; it is watched on the client's stream.
 *  3. Once `began` is set (a byte of a reply is committed) nothing is retried.
 *  4. The head and an inline body stay in c->in, unmoved, until the reply begins.
 *  5. A producer is read only while its consumer has room: upstream bytes are
 *     read only into what c->out can take, so a client that never reads costs one buffer.
 *
 * May include: olla.h, levels 1 to 5, body.h.
 */
#ifndef OLLA_EXCHANGE_H
#define OLLA_EXCHANGE_H

#include "body.h"
#include "gate.h"
#include "http.h"
#include "json.h"
#include "limits.h"
#include "multipart.h"
#include "net.h"
#include "route.h"
#include "sticky.h"
#include "tally.h"
#include "upstream.h"
#include "usage.h"

/* So long a request waits for endpoints that have not been probed yet: at start and after a reload. */
#define EXCHANGE_HOLD_MS 3000

struct exchange;
struct inspection;
struct messages;
struct reply_error;

/* What a list of models is narrowed to. */
struct listing_filter {
    endpoint_set endpoints;
    char family[32], type[24]; /* "" = any */
    int8_t available;          /* 1 = loaded somewhere, -1 = nowhere, 0 = any */
    bool all;                  /* what is not healthy, too */
    uint32_t from, to;         /* elements of a list that is shown in pages; to = 0: all */
    bool more;                 /* there are others behind (or before) them */
};

/* Where a local page goes on: whatever its writer needs; zero at its start. */
struct page_place {
    uint32_t phase, alias, family, index;
    uint32_t passed; /* elements */
    uint32_t serial, version;
    uint32_t shown[(OLLA_MAX_LEDGER + 31) / 32]; /* bits: places of the ledger */
    bool listed;
};

enum client_state {
    CLIENT_IDLE = 0, /* between requests */
    CLIENT_HEAD,     /* part of a head has come */
    CLIENT_BUSY,     /* an exchange runs */
    CLIENT_LINGER    /* the last reply is out, input is thrown away until the peer has read it */
};

struct client {
    struct stream s;
    struct plat_addr peer;
    struct cidr_addr peer_addr;
    char peer_text[48];
    struct buf in;  /* head, inline body, read-ahead */
    struct buf out; /* reply bytes not yet taken by the socket */
    struct exchange *x;
    enum client_state state;
    bool readable;     /* the last poll said so, or more is known to wait */
    bool hung_up;      /* ... that the peer is gone */
    bool starved;      /* waits for a buffer */
    size_t scanned;    /* of a partial head */
    uint64_t since;    /* first byte of the request, or begin of idling */
    uint64_t lingered; /* bytes thrown away */
    uint16_t parked_n; /* bytes of a partial head waiting in `parked`; then `in` holds no block */
    char parked[OLLA_PARKED_HEAD];
    void (*run)(struct client *c); /* goes on with the client after an event of its exchange */
};

enum exchange_state { X_BODY = 0, X_HOLD, X_CONNECT, X_SEND, X_WAIT, X_STREAM, X_TUNNEL, X_LOCAL, X_FLUSH, X_DONE };

/* Who ended it, and in which phase: the two letters of the access line. */
enum end_who {
    END_NOBODY = '-',
    END_CLIENT = 'C',
    END_CLIENT_SLOW = 'c',
    END_SERVER = 'S',
    END_SERVER_SLOW = 's',
    END_PROXY = 'P',
    END_RESOURCE = 'R',
    END_KILLED = 'K'
};
enum end_phase {
    PHASE_DONE = '-',
    PHASE_REQUEST = 'R',
    PHASE_CONNECT = 'C',
    PHASE_HEAD = 'H',
    PHASE_DATA = 'D',
    PHASE_LAST = 'L'
};

struct exchange {
    struct client *c;
    struct upstream *u;
    struct endpoint *e;
    struct endpoint_use use; /* of e */
    enum exchange_state state;
    enum end_who who;
    enum end_phase phase;
    char id[129];
    char method[16];            /* copies for the access line: the head is gone by then */
    char path[128], query[128]; /* ... without secrets; the query with its '?', or "" */

    /* request */
    struct http_request req; /* slices into c->in, valid until the reply begins */
    size_t head_n;
    size_t raw_at;     /* offset in c->in.mem of the first byte not yet decoded */
    bool path_decoded; /* the path was changed: escape it when it goes out */
    bool is_head;
    bool http10;
    bool keep;         /* the client connection survives this exchange */
    bool request_read; /* the whole request body has been taken from the socket */
    struct http_body in_body;
    struct body body;
    struct json_scan scan;         /* what is known of the model, also when it came otherwise */
    struct messages *messages;     /* of a request of the Anthropic API, else NULL */
    struct inspection *inspection; /* of a request that is recorded, else NULL */
    bool translated;               /* ... told to its endpoint, and back, in OpenAI's words */
    struct multipart_scan form;    /* mark_n > 0: the body is one, its model goes to scan */
    struct route route;
    struct gate_pass key; /* that the client brought, if it had to */
    struct cidr_addr from;
    char from_text[48];         /* the client's address if a trusted proxy told another than the peer's, else "" */
    struct limits_figures rate; /* for X-RateLimit-* */
    bool counts;                /* a machine works on it: max_concurrent and sessions apply */
    struct {
        uint64_t key;       /* of the conversation, 0 = none */
        const char *source; /* static text */
        enum sticky_outcome outcome;
        bool pin; /* the endpoint is to be remembered when it answers */
    } session;
    bool upgrade;           /* to another protocol: bytes both ways after a 101 */
    struct str query_model; /* the model's value in the query of such a request; p == NULL: none */

    /* attempts */
    endpoint_set tried;
    int attempts;
    bool lost;                  /* an endpoint has failed it */
    int addr_first, addr_tries; /* addresses of e: the one tried first, and how many were tried */
    bool fresh;                 /* no idle connection any more: one was stale */
    bool u_readable;
    const char *strategy, *decision, *reason; /* routing headers, NULL = none */
    char alias_reason[OLLA_MODEL_NAME + 48];
    struct {
        bool in_line, turn;
        uint8_t class_;
        endpoint_set wanted; /* the endpoints that it waits for */
        uint64_t since;
    } queue;
    struct {
        bool waits;
        uint8_t slot; /* of the endpoint that is woken for it */
        uint64_t since;
        uint64_t ms;       /* that it has waited */
        endpoint_set done; /* waited for, and served by: not again */
    } wake;
    uint64_t hold_until;                /* ... and so long it waits for them */
    bool waiting;                       /* for news of the endpoints: looks again soon */
    bool busy;                          /* goes on at once, when others have had their turn */
    bool refreshed;                     /* the model lists were read anew for this request */
    char spelling[OLLA_MODEL_NAME + 8]; /* text that replaces the model's value for this endpoint, "" = as sent;
                                         lists keep the last name here */
    uint64_t sent;                      /* bytes of the body on the wire */

    /* reply */
    int status;
    const char *error; /* static text: what went wrong, as a code or a sentence; NULL = nothing */
    bool began;
    bool headless; /* ... but its head has not been written: that depends on what comes */
    int broken;    /* the status for the event that tells that it broke off, 0 = 502 */
    bool chunked_out;
    bool to_close;    /* the reply's end is the connection's end */
    bool client_full; /* there is no block for bytes that it would not take */
    bool moved;       /* reply bytes have moved since the deadline was set */
    bool reusable;    /* u may be used again after this reply */
    bool gathers;     /* small pieces that come together go down together */
    unsigned keep_s;
    struct http_body out_body;
    unsigned newlines; /* line ends at the end of what went down */
    enum { EVENTS_NONE = 0, EVENTS_SSE, EVENTS_NDJSON } events;
    enum { BEAT_NONE = 0, BEAT_OPENAI, BEAT_ANTHROPIC, BEAT_OLLAMA, BEAT_JSON } beat; /* signs of life it can bear */
    int backend_status;      /* of the reply that began, 0 = none */
    bool committed;          /* one of them went down: the status is 200 */
    bool embed, embed_error; /* the reply's body becomes one event */
    uint64_t beat_at;
    bool client_ended, backend_ended, reset; /* of a tunnel */
    uint32_t cursor;                         /* parts written of a local page */
    struct page_place place;
    struct listing_filter filter;
    struct {
        bool begun;
        bool failed; /* no room for what came */
        unsigned running;
        endpoint_set to_ask, missing;
    } gather;
    bool hashing; /* the page is written for its ETag: without what changes by itself */

    uint64_t deadline;            /* of the state, 0 = none */
    uint64_t started;             /* ms */
    uint64_t head_at;             /* reply head received */
    uint64_t first_at;            /* first byte of its body, 0 = not yet */
    bool reads_usage;             /* the reply is fed to: */
    struct usage usage;           /* tokens, as it tells them */
    uint64_t bytes_in, bytes_out; /* of the bodies */
};

/* Totals since the start, for status pages. */
struct exchange_totals {
    struct tally sum; /* of requests that an endpoint was chosen for */
    uint64_t size_limited;
    uint32_t active;
};
extern struct exchange_totals exchange_totals;

/* A reply whose head is not that of a page of JSON. All texts live until the next request is looked at. */
struct reply_own {
    int status;
    const char *type; /* NULL: there is no body */
    struct str lines; /* of its head, each with its end */
    struct str body;  /* what is long stays for good, and is written by the page's writer */
};

/* One writer for each local page: adds whole elements to t while they fit. 1 = more to come, 0 = done. */
typedef int exchange_page(struct exchange *x, struct text *t);
struct exchange_local {
    void (*own)(struct exchange *x, struct reply_own *out); /* NULL = a page of JSON, from the writer alone */
    exchange_page *write;
    bool (*check)(struct exchange *x, struct reply_error *err); /* NULL = fine; false is answered with *err */
    bool (*ready)(struct exchange *x);                          /* NULL = at once; false: asked again soon */
    bool etag;
    const char *type;                            /* Content-Type; NULL = JSON */
    uint64_t (*state)(const struct exchange *x); /* ... of this; NULL: of the text */
};

void exchange_init(const struct exchange_local *pages); /* pages: LOCAL_COUNT rows */

/* Begins an exchange for the head of head_n bytes in c->in, parsed as req. false: no slot. */
bool exchange_start(struct client *c, const struct http_request *req, size_t head_n);

/* Begins one that only says why the head was refused; the connection closes after it. */
bool exchange_start_refused(struct client *c, const struct http_error *err);

/* Goes on as far as possible. True when the exchange is over: call exchange_finish. */
bool exchange_run(struct exchange *x);

/* How the client's connection goes on. */
enum exchange_after {
    AFTER_KEEP = 0, /* with the next request */
    AFTER_CLOSE,    /* nothing more is expected from the client */
    AFTER_LINGER,   /* it may still be sending: closing at once could destroy the reply on its way */
    AFTER_ABORT     /* it is gone, or must learn that the reply is not complete */
};

/* The only place that frees. */
enum exchange_after exchange_finish(struct exchange *x);

/* The client's descriptor is readable while the exchange runs: reads ahead, notices a client that left. */
void exchange_client_input(struct exchange *x);

/* The state's deadline has passed. */
void exchange_expired(struct exchange *x);

/* Ends it because olla stops. */
void exchange_kill(struct exchange *x);

/* While set, replies ask clients to close their connections. */
void exchange_drain(bool on);

/* ---- used between the files of the exchange ------------------------------------ */

/* reply.c: answers of our own; they end in X_FLUSH. */
struct reply_error {
    int status;
    const char *code;     /* machine-readable token */
    const char *message;  /* static text or the caller's buffer */
    unsigned retry_after; /* seconds, 0 = none */
    const char *details;  /* JSON for clients of the Anthropic API, NULL = none */
    char should_retry;    /* x-should-retry: 't', 'f'; 0 = none */
};
void reply_error(struct exchange *x, const struct reply_error *err);
/* Its body alone, in the caller's dialect. */
void reply_error_body(struct text *t, const struct exchange *x, const struct reply_error *err);
/* The short form, for what olla refuses by itself: end code PR. */
void reply_refuse(struct exchange *x, int status, const char *code, const char *message);
void reply_redirect(struct exchange *x, struct str location);
void reply_preflight(struct exchange *x);                                /* 204, what a browser may do */
void reply_empty(struct exchange *x);                                    /* 200 without a body */
void reply_local(struct exchange *x, const struct exchange_local *page); /* first part; goes on in X_LOCAL */
void reply_own(struct exchange *x, const struct reply_own *own);         /* likewise */
/* Weak comparison (RFC 9110, 13.1.2) of If-None-Match with a tag in quotes. */
bool reply_none_match(const struct exchange *x, struct str tag);
void reply_more(struct exchange *x, const struct exchange_local *page); /* one piece, if there is room */
/* The head of a translated reply: type, and its length (UINT64_MAX = not known). */
void reply_begin_translated(struct exchange *x, const char *content_type, uint64_t length);
/* The error event that tells a stream's reader that it broke. */
void reply_broken_stream(struct exchange *x, const char *message);

/* forward.c: heads in both directions. false: does not fit. */
bool forward_request_head(struct exchange *x, struct text *t);
bool forward_response_head(struct exchange *x, const struct http_response *r, struct text *t);
void forward_own_headers(struct exchange *x, struct text *t);   /* X-Olla-* of routing, also on errors */
void forward_reply_headers(struct exchange *x, struct text *t); /* those that all replies of backends have */

/* relay.c: the reply. */
void relay_note_bytes(struct exchange *x, const char *p, size_t n); /* of its body, as the backend sent them */
void relay_wait(struct exchange *x);                                /* X_WAIT: the head */
void relay_stream(struct exchange *x);                              /* X_STREAM: the body */

/* tunnel.c: the bytes after a 101 */
bool tunnel_wanted(const struct http_request *req); /* it asks for another protocol that olla lets pass: websocket */
void tunnel_take_model(struct exchange *x);
void tunnel_begin(struct exchange *x, const struct http_response *r, size_t head_n); /* c->out holds a block */
void tunnel_step(struct exchange *x);
void tunnel_wants(struct exchange *x); /* what each side waits for */

/* request.c */
bool request_clean_path(struct exchange *x); /* decodes and cleans it in place; false: malformed */
void request_begin_body(struct exchange *x); /* chooses where the body will live; X_BODY follows */
bool request_body_step(struct exchange *x);  /* X_BODY; true: the state has changed */
void request_too_large(struct exchange *x);  /* 413 */

/* The address that the request comes from, as far as it is known. */
const char *exchange_client(const struct exchange *x);

/* session.c: fills x->session from a request that is complete. */
void session_find(struct exchange *x);

/* attempt.c: steps of X_CONNECT and X_SEND; true: go on with the next step. */
bool attempt_connect_step(struct exchange *x);
bool attempt_send_step(struct exchange *x);
struct str attempt_model(const struct exchange *x); /* what the endpoint calls the model, as far as it is known */
void attempt_drop_upstream(struct exchange *x);     /* its connection is of no more use: reset */
/* A failure before the reply began: next address, next candidate, or an error reply. */
enum attempt_failure {
    FAIL_REFUSED = 0,
    FAIL_TLS,
    FAIL_CONNECT_TIMEOUT,
    FAIL_LOST,
    FAIL_GARBLED,
    FAIL_STATUS,
    FAIL_SILENT /* no byte by first_byte_timeout */
};
void exchange_attempt_failed(struct exchange *x, enum attempt_failure kind);
/* True if another endpoint may be tried now, or waited for. */
bool exchange_may_retry(const struct exchange *x);
struct route_query attempt_query(const struct exchange *x);
void attempt_waited_too_long(struct exchange *x); /* in line, or for a machine to wake up */
/* A backend said when it takes requests again: by its 429, or by Retry-After with 503. */
void attempt_note_limit(struct exchange *x, const struct http_response *r);

/* The longest silence of its backend, ms. */
uint64_t exchange_read_timeout(const struct exchange *x);

/* exchange.c */
void exchange_forget_head(struct exchange *x); /* the request's head has served its purpose */
extern const struct stream_ops exchange_upstream_ops;
void exchange_answer(struct exchange *x);      /* everything that no backend is needed for */
void exchange_client_left(struct exchange *x); /* ends it */
/* The reply is broken off: truth in framing. */
void exchange_truncate(struct exchange *x, enum end_who who, enum end_phase phase, const char *message);
/* Bytes of the request body as it goes out, with the endpoint's spelling of the model. */
uint64_t exchange_wire_length(const struct exchange *x);
/* A block for b; false: none now, the exchange is called again soon. */
bool exchange_hold(struct exchange *x, struct buf *b, enum buf_class class_);

#endif
