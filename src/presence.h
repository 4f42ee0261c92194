/*
 * presence.h - level 7: POST /internal/endpoints/NAME/ACTION: what scripts say
 * about a machine (it came up: check), and what an operator does with it by
 * hand (enable, disable, drain, wake). All of it in RAM only.
 *
 * May include: olla.h, levels 1 to 6, admin.h.
 */
#ifndef OLLA_PRESENCE_H
#define OLLA_PRESENCE_H

#include "exchange.h"

/* Does it, if the client may. */
bool presence_check(struct exchange *x, struct reply_error *err);
/* What became of the endpoint; parts as in admin.c. */
bool presence_page(struct exchange *x, struct text *t, uint32_t i);

#endif
