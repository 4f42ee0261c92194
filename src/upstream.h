/*
 * upstream.h - level 4: connections to backends and their reuse.
 *
 * An upstream belongs to an exchange (which sets its stream's ops) or is idle
 * on its endpoint's list. Idle ones are watched: when the backend closes one,
 * or its time is over, it is closed here at once: a request on it would be lost.
 *
 * May include: olla.h, net.h, buf.h, pool.h, endpoint.h.
 */
#ifndef OLLA_UPSTREAM_H
#define OLLA_UPSTREAM_H

#include "endpoint.h"
#include "net.h"

struct upstream {
    struct stream s;
    struct endpoint *e;
    uint32_t generation;   /* of e when it was connected */
    struct buf in;         /* reply bytes not yet dealt with */
    struct buf out;        /* request head not yet sent */
    struct upstream *next; /* in the idle list */
    int which;             /* number of the address */
    bool reused;           /* this request is not the connection's first */
    bool got_bytes;        /* a byte of the reply has come */
};

void upstream_init(void);

/* The most recently used idle connection of e, now owned by the caller, or NULL. */
struct upstream *upstream_take(struct endpoint *e, const struct stream_ops *ops, void *owner);

/* Can a connection with TLS be made? If need be an idle one is closed for it. */
bool upstream_tls_room(void);

/*
 * A new connection to address number `which` of e, under way. NULL: refused
 * at once or no descriptor (plat_error tells), or no slot (*no_slot).
 */
struct upstream *upstream_connect(struct endpoint *e, int which, unsigned keepalive_s, const struct stream_ops *ops,
                                  void *owner, bool *no_slot);

/* Gives a clean connection back for reuse; limit_s > 0 is the backend's own Keep-Alive: timeout. */
void upstream_keep(struct upstream *u, unsigned limit_s);

void upstream_close(struct upstream *u, enum net_how how);

/* Closes the idle connections of e; with NULL, of all endpoints. */
void upstream_drop_idle(struct endpoint *e);
unsigned upstream_idle_count(void);

#endif
