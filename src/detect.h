/*
 * detect.h - level 6: what kind of server an endpoint of type `auto` is. Asks
 * for model lists where the known servers have theirs, one after the other,
 * and decides by the shape of the first that answers; the answer holds until
 * the endpoint goes offline.
 *
 * May include: olla.h, levels 1 to 5, probe.h.
 */
#ifndef OLLA_DETECT_H
#define OLLA_DETECT_H

#include "endpoint.h"

/* Begins, instead of a health check; e->probing is set by the caller. false: no slot now, try later. */
bool detect_start(struct endpoint *e);

#endif
