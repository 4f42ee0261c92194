/*
 * discover.h - level 6: which models an endpoint has: asked after it came up,
 * then every discovery.model_discovery.interval. Lists are read entry by
 * entry; a bad entry is skipped, a list that breaks off changes nothing.
 *
 * May include: olla.h, levels 1 to 5, probe.h.
 */
#ifndef OLLA_DISCOVER_H
#define OLLA_DISCOVER_H

#include "endpoint.h"

/* Starts what is due. Returns when it wants to be called again, monotonic ms. */
uint64_t discover_tick(void);

/* Whether a model of that name would be taken from the list of e. */
bool discover_accepts(const struct endpoint *e, struct str name);

#endif
