/*
 * account.h - level 6: what an exchange leaves behind: its access line, the
 * counts (once for each request), the last errors.
 *
 * May include: olla.h, levels 1 to 5, exchange.h.
 */
#ifndef OLLA_ACCOUNT_H
#define OLLA_ACCOUNT_H

#include "exchange.h"

/* It has ended, and still has its endpoint, which is given back here. */
void account_close(struct exchange *x);

#define RECENT_ERRORS 20

struct recent_error {
    int64_t wall_ms;
    int status;          /* that the client got, 0 = none */
    char end[2];         /* who ended it, and in which phase */
    const char *message; /* static text, "" = none */
    char id[129], endpoint[64], model[OLLA_MODEL_NAME], path[128], client[48];
};

/* The i-th, the last one first; NULL = there are not so many. */
const struct recent_error *account_recent(unsigned i);

size_t account_cost(void);

#endif
