/*
 * admin.h - level 7: pages about olla itself and listings of models
 * (http-surface.md 7 and 8).
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_ADMIN_H
#define OLLA_ADMIN_H

#include "exchange.h"

/* The writers of all local pages, LOCAL_COUNT rows, for exchange_init. Takes the start time. */
const struct exchange_local *admin_pages(void);

/* RFC 3339 in UTC; and the wall time of the start. */
void admin_time_text(struct text *t, int64_t wall_ms);
int64_t admin_start_wall(void);

#endif
