/*
 * status.h - level 7: /internal/status and /internal/status/endpoints: what
 * the reference tells, with what olla knows besides.
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_STATUS_H
#define OLLA_STATUS_H

#include "exchange.h"

bool status_page(struct exchange *x, struct text *t, uint32_t i);
bool status_endpoints_page(struct exchange *x, struct text *t, uint32_t i);

/* Figures of the system as a whole, for the status and for metrics. */
struct status_system {
    unsigned endpoints, healthy, routable;
    const char *status;                      /* "healthy", "degraded", "critical" */
    uint64_t limited;                        /* requests over a limit of rate or size */
    unsigned blocked;                        /* addresses that were limited in the last hour */
    bool elevated;                           /* more of both than is usual */
    const char *engine, *profile, *balancer; /* words of the configuration */
};
struct status_system status_system(void);

/* What stands for its URL in documents: base 36 of a hash. */
void status_endpoint_id(struct text *t, const struct endpoint *e);

void status_thousandths(struct text *t, uint64_t n); /* as a decimal number */

/* The endpoint at that place of the documents: priority descending, healthy first, then by name. */
struct endpoint *status_endpoint_at(uint32_t place);

#endif
