/*
 * health.h - level 6: is an endpoint alive: the probe schedule and what its
 * results mean, with a timer for each endpoint (docs/routing.md).
 *
 * May include: olla.h, levels 1 to 5, probe.h.
 */
#ifndef OLLA_HEALTH_H
#define OLLA_HEALTH_H

#include <stdint.h>

/* Starts what is due. Returns when it wants to be called again, monotonic ms. */
uint64_t health_tick(void);

#endif
