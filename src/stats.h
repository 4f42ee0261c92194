/*
 * stats.h - level 7: pages of figures: /internal/stats/models,
 * /internal/process, /internal/stats/sticky,
 * /internal/stats/translators, and the answer to a request
 * that asked for a number of tokens. Parts as in admin.c.
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_STATS_H
#define OLLA_STATS_H

#include "exchange.h"

bool stats_models_page(struct exchange *x, struct text *t, uint32_t i);
bool stats_process_page(struct exchange *x, struct text *t, uint32_t i);
bool stats_sticky_page(struct exchange *x, struct text *t, uint32_t i);
bool stats_translators_page(struct exchange *x, struct text *t, uint32_t i);
bool stats_tokens_page(struct exchange *x, struct text *t, uint32_t i);

#endif
