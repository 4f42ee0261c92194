/*
 * gather.h - level 6: one answer made of the answers of several machines:
 * Ollama's /api/ps, the list of what is loaded where.
 *
 * Each machine is asked by a probe; the elements of its list go, as it wrote
 * them, into the exchange's body store, with a member "endpoint" in front.
 * Machines that do not answer in time are named in the reply.
 *
 * The exchange waits in X_BODY and looks again until all have answered; when
 * it ends earlier, its probes end with it.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, probe.h.
 */
#ifndef OLLA_GATHER_H
#define OLLA_GATHER_H

#include "exchange.h"

/* Asks whoever was not asked yet. true: all have answered, or cannot. */
bool gather_ready(struct exchange *x);

/* False when what came could not be kept. */
bool gather_check(struct exchange *x, struct reply_error *err);

/* For exchange_finish: ends what is still under way. */
void gather_cancel(struct exchange *x);

/* The page, in parts as in admin.c. */
bool gather_page(struct exchange *x, struct text *t, uint32_t i);

#endif
