/*
 * hooks.h - level 6: programs that are started on events ([hooks]), without a
 * shell, with the facts in their environment and their output in the log.
 *
 * At most OLLA_MAX_HOOKS run at one time; further events wait, some of them. One
 * that runs longer than hooks.timeout is ended with all that it has started.
 * Nothing here waits for a program.
 *
 * May include: olla.h, levels 1 to 5, queue.h.
 */
#ifndef OLLA_HOOKS_H
#define OLLA_HOOKS_H

#include "endpoint.h"

/* True if there is a program for it. */
bool hooks_has(enum conf_hook event);

/* It has happened to e (NULL: to nobody in particular). reason is static text. */
void hooks_event(enum conf_hook event, const struct endpoint *e, const char *reason);

/*
 * Starts the program at once, or returns false. When it has ended, done is told whose it was and whether it ended well
 * (with 0). An endpoint of that slot and another generation is somebody else.
 */
typedef void hooks_done(int slot, uint32_t generation, bool well);
bool hooks_start(enum conf_hook event, const struct endpoint *e, const char *reason, hooks_done *done);

struct hooks_stats {
    unsigned running;
    uint64_t started, failed, dropped;
};
extern struct hooks_stats hooks_stats;

/* Notices what has changed, starts what waits, ends what takes too long. Returns when it wants to be called again. */
uint64_t hooks_tick(void);

/* Ends all that run: olla stops. */
void hooks_stop(void);

size_t hooks_cost(void);

#endif
