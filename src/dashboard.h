/*
 * dashboard.h - level 7: the page for browsers, /internal/ui/.
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_DASHBOARD_H
#define OLLA_DASHBOARD_H

#include "exchange.h"

/* Takes the wall time of the start. */
void dashboard_init(int64_t start_wall);

/* The parts of LOCAL_DASHBOARD (struct exchange_local). */
bool dashboard_check(struct exchange *x, struct reply_error *err);
void dashboard_own(struct exchange *x, struct reply_own *out);
int dashboard_write(struct exchange *x, struct text *t);

#endif
