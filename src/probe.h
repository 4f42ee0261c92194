/*
 * probe.h - level 6: one GET to a backend on olla's own account, for health
 * checks and model lists. Always a fresh connection; never redirected.
 *
 * May include: olla.h, levels 1 to 4.
 */
#ifndef OLLA_PROBE_H
#define OLLA_PROBE_H

#include "endpoint.h"
#include "http.h"
#include "json.h"
#include "net.h"

/* When no probe or buffer was free, the next try comes after so many ms. */
#define PROBE_AGAIN_MS 50

enum probe_result {
    PROBE_ANSWERED = 0, /* status is set; the body was complete unless the taker stopped early */
    PROBE_REFUSED,      /* p->why tells */
    PROBE_TIMEOUT,
    PROBE_LOST,    /* closed or reset before the end */
    PROBE_GARBLED, /* not HTTP, or a head or body that is too large */
    PROBE_CANCELLED
};

struct probe;

struct probe_ops {
    const char *agent; /* User-Agent: olla-<agent>/VERSION */
    /* Decoded bytes of a reply with status 200. false: enough seen. May be NULL. */
    bool (*body)(struct probe *p, const char *bytes, size_t n);
    /* The end; p is freed afterwards. */
    void (*done)(struct probe *p, enum probe_result result);
};

struct probe {
    struct stream s;
    struct endpoint *e;
    void *owner; /* for whom it was started, or NULL */
    struct target *to;
    const struct probe_ops *ops;
    const char *path;
    const char *why; /* static text: what the endpoint did */
    struct buf in;
    bool connected, sent, have_head;
    int tries;
    int status;
    uint64_t retry_after; /* ms, 0 = it did not say */
    uint64_t started, deadline, total;
    struct http_body body;

    /* for the taker of the body */
    struct json_list list, hints;
    char hint_text[640];
    unsigned entries;             /* of the list */
    uint32_t context;             /* of the last one */
    struct load_window window[4]; /* of the first loaded models */
    struct json_members members;
    struct buf item;
    unsigned offered, skipped;
    bool full;      /* the catalogue is */
    bool no_buffer; /* none was to be had: no verdict */
};

void probe_init(void);

/* For a body(): makes p->item a block. false: there is none now (p->no_buffer); return false, too. */
bool probe_hold_item(struct probe *p);

/*
 * For a body() that wants the objects of one array ("key": [...]): feeds p->list and calls take for each, which is
 * p->list.out[0..n) then. Returns what body() is to return.
 */
bool probe_take_elements(struct probe *p, const char *key, const char *bytes, size_t n, void (*take)(struct probe *p));

/* Begins. false: no slot or no buffer now, or the target has no address yet; try later. */
bool probe_start(struct endpoint *e, struct target *to, const char *path, int64_t timeout_ms,
                 const struct probe_ops *ops);

/* One to the main target, below its base path, on behalf of an owner. `path` has to live as long. */
bool probe_start_for(void *owner, struct endpoint *e, const char *path, int64_t timeout_ms,
                     const struct probe_ops *ops);

/* Ends all probes of e (NULL = all) with PROBE_CANCELLED. */
void probe_cancel(const struct endpoint *e);

/* Ends all probes of an owner that is no more: PROBE_CANCELLED, and p->owner is NULL then. */
void probe_cancel_for(const void *owner);

#endif
