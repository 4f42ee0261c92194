/*
 * queue.h - level 6: the waiting line, for requests whose endpoints are all
 * at their max_concurrent.
 *
 * First come, first served inside three classes (of the key, X-Olla-Priority); waiting
 * lifts a request by one class from time to time, so that nobody starves. A
 * waiting exchange stays in X_CONNECT without an endpoint; it holds its slot
 * and its body where that is (buffer, block or spool).
 *
 * Invariant: nobody overtakes: a request that could take what somebody waits
 * for gets in line behind him.
 *
 * May include: olla.h, levels 1 to 5, exchange.h.
 */
#ifndef OLLA_QUEUE_H
#define OLLA_QUEUE_H

#include "exchange.h"

/* Gets in line for one of these endpoints. false: the line is full. Already in line: fine. */
bool queue_enter(struct exchange *x, endpoint_set full);
void queue_leave(struct exchange *x); /* does nothing for one that is not in line */

/* True if x is in line and it is not its turn. */
bool queue_waits(const struct exchange *x);

/* True if somebody else waits for that endpoint, before whom x must not go. */
bool queue_is_wanted(const struct exchange *x, const struct endpoint *e);

/* Lets those go on who can, in order. Returns when it wants to be called again without news. */
uint64_t queue_tick(void);

struct queue_stats {
    unsigned waiting, max;
    uint64_t served, timed_out, refused, left;
};
extern struct queue_stats queue_stats;

#endif
