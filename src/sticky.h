/*
 * sticky.h - level 5: which endpoint a conversation went to last: a fixed
 * table with least-recently-used replacement and a time to live.
 *
 * A pin names an endpoint as it was configured then: after a change of its
 * configuration the pin leads nowhere.
 *
 * May include: olla.h, str.h, conf.h, net.h, endpoint.h.
 */
#ifndef OLLA_STICKY_H
#define OLLA_STICKY_H

#include "endpoint.h"

/* A header of the reply says what came of it. */
enum sticky_outcome { STICKY_OFF = 0, STICKY_DISABLED, STICKY_HIT, STICKY_MISS, STICKY_REPIN };
const char *sticky_word(enum sticky_outcome outcome);

void sticky_init(void);

/* The pinned endpoint, whose time to live begins anew. *had: there was a pin, even if its endpoint is gone (NULL). */
struct endpoint *sticky_find(uint64_t key, bool *had);

/* Without touching or counting anything. */
struct endpoint *sticky_peek(uint64_t key, bool *had);

/* Pins key to e; key is not 0. */
void sticky_pin(uint64_t key, const struct endpoint *e);

struct sticky_stats {
    unsigned active;
    uint64_t insertions, hits, misses, evictions;
};
/* Counts a look-up whose outcome is known. */
void sticky_count(enum sticky_outcome outcome);
const struct sticky_stats *sticky_stats(void); /* without those whose time is over */

/* Among equal endpoints the one that all instances with the same configuration choose for a key. */
struct endpoint *sticky_place(uint64_t key, endpoint_set equal);

/* Bytes of one conversation in the table. */
size_t sticky_cost(void);

#endif
