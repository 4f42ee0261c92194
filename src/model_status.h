/*
 * model_status.h - level 7: /internal/status/models.
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_MODEL_STATUS_H
#define OLLA_MODEL_STATUS_H

#include "exchange.h"

/* Another number whenever the page says something else, but for how long ago it was. */
uint64_t model_status_state(const struct exchange *x);

/* Parts as in admin.c. If the store of models changes between two pieces, the lists end early. */
bool model_status_page(struct exchange *x, struct text *t, uint32_t i);

#endif
