/*
 * loop.h - level 8: the program at work: turns, signals, reload, drain.
 *
 * May include: olla.h, levels 1 to 7.
 */
#ifndef OLLA_LOOP_H
#define OLLA_LOOP_H

#include "conf.h"

/* Binds all pools; also enough for `olla -m`. */
void loop_init_pools(void);

/* Logs (or prints) what each pool has used. */
void loop_log_pools(void);

/*
 * What loop_run is made of, for tests that are their own loop: the start, with the same arguments (false: it cannot
 * listen; what it had opened is closed), and one turn.
 */
bool loop_open(struct conf *first, struct conf *spare, int signals);
void loop_turn(void);

/*
 * Runs with the configuration `first`; a reload reads its path again into
 * `spare`, and the two change places. signals is a descriptor already open.
 * Listens, becomes the user of server.user, and only then looks at what
 * comes in. Returns an exit code.
 */
int loop_run(struct conf *first, struct conf *spare, int signals);

#endif
