/*
 * limits.h - level 5: how much one address may do: requests per minute, connections; and which address a request
 * comes from when trusted proxies stand in between.
 *
 * A bucket per client in a fixed table; the client that was idle longest makes room for a new one. Its bucket is full
 * again when it comes back, so the table should be larger than the number of clients; the bucket that all share
 * holds against those who have many addresses. An IPv6 client is its /64, because it can take any address of that.
 *
 * Invariants:
 *  1. Settings are read when they are needed, so that a reload changes limits at once; what was used stays used.
 *  2. Headers count only from a peer in trusted_proxy_cidrs, with trust_proxy_headers on.
 *  3. A request takes from both buckets or from neither.
 *
 * May include: olla.h, str.h, cidr.h, http.h, conf.h, log.h, platform.h.
 */
#ifndef OLLA_LIMITS_H
#define OLLA_LIMITS_H

#include "../platform/platform.h"
#include "cidr.h"
#include "http.h"

void limits_init(void);

struct cidr_addr limits_addr(const struct plat_addr *a);

/* ---- requests ------------------------------------------------------------------------ */

enum limits_answer {
    LIMITS_NONE = 0, /* nothing is limited */
    LIMITS_PASS,
    LIMITS_CLIENT, /* this client has to wait */
    LIMITS_ALL     /* all together have used up what there is */
};

/* What X-RateLimit-* say; limit 0 = nothing. */
struct limits_figures {
    uint32_t limit, remaining;
};

/* Takes one request of this client, if it may come in; else *wait_ms until it may. */
enum limits_answer limits_take(const struct cidr_addr *who, uint64_t now_ms, struct limits_figures *f,
                               uint64_t *wait_ms);

/* ---- who asks ------------------------------------------------------------------------ */

/* True if what the peer says of the client before it is believed. */
bool limits_trusts(const struct cidr_addr *peer);

/* The client that a trusted peer tells of, in *out and as text; false: it tells nothing that can be read. */
bool limits_client(struct str fields, struct cidr_addr *out, char *text, size_t cap);

/* ---- connections --------------------------------------------------------------------- */

/* Whether a peer may connect at all; says and counts it if not. */
bool limits_admits(const struct cidr_addr *peer, const char *text, uint64_t now_ms);
/* ... or one that has so many connections already. */
bool limits_admits_more(unsigned connections, const char *text, uint64_t now_ms);
/* Two addresses of one client. */
bool limits_same_client(const struct cidr_addr *a, const struct cidr_addr *b);

/* ---- figures ------------------------------------------------------------------------- */

struct limits_totals {
    uint64_t requests;    /* answered with 429 */
    uint64_t peers;       /* connections of peers that may not connect */
    uint64_t connections; /* ... of those that had too many */
};
extern struct limits_totals limits_totals;

/* Clients that got a 429 in the last hour, as far as they are remembered. */
unsigned limits_limited(uint64_t now_ms);

/* Bytes of one client in the table. */
size_t limits_cost(void);

#endif
