/*
 * meter.h - level 5: tokens by key and model for usage.file: gathered in
 * memory and appended once in usage.interval, because flash wears out.
 *
 * One JSON object in each line. What could not be written stays and is tried
 * again with the next interval; with the table full it is written earlier.
 *
 * May include: olla.h, str.h, json.h, log.h, conf.h, net.h, tally.h, platform.h.
 */
#ifndef OLLA_METER_H
#define OLLA_METER_H

#include "str.h"
#include "tally.h"

/* A request has ended. key "" = none. */
void meter_add(struct str key, struct str model, const struct tally_event *e);

/* Writes if it is time. Returns when it wants to be called again, monotonic ms, UINT64_MAX = not. */
uint64_t meter_tick(void);

/* Writes what there is: at the end, and before a reload changes the file. */
void meter_flush(void);

size_t meter_cost(void);

#endif
