/*
 * metrics.h - level 7: /internal/metrics in the text format of Prometheus
 * (version 0.0.4). Parts as in admin.c.
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_METRICS_H
#define OLLA_METRICS_H

#include "exchange.h"

bool metrics_page(struct exchange *x, struct text *t, uint32_t i);

#endif
