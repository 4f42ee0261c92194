/*
 * load.h - level 6: what is loaded where and who is busy, also with work that
 * did not come through olla: asked gently, of servers that have a place for it.
 *
 * May include: olla.h, levels 1 to 5.
 */
#ifndef OLLA_LOAD_H
#define OLLA_LOAD_H

#include <stdint.h>

/* Starts the questions that are due. Returns when it wants to be called again. */
uint64_t load_tick(void);

#endif
