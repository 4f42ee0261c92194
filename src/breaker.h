/*
 * breaker.h - level 4: whether an endpoint that fails gets requests.
 *
 * Outcomes of requests and of health checks go into one window of bits. Too
 * many failures, in a row or in the window, open it: no requests. After a
 * while one request at a time is let through as a trial (half-open); its
 * outcome closes the breaker or opens it for twice as long.
 *
 * Pure bookkeeping: no clock, no I/O; `now` is monotonic ms.
 *
 * May include: olla.h.
 */
#ifndef OLLA_BREAKER_H
#define OLLA_BREAKER_H

#include "../olla.h"

enum outcome {
    OUTCOME_NONE = 0, /* says nothing about the endpoint: the client left, a limit was met */
    OUTCOME_GOOD,
    OUTCOME_BAD
};

struct breaker_rules {
    unsigned row;     /* failures in a row that open it, 0 = any number is fine */
    unsigned window;  /* 1..32 */
    unsigned percent; /* of the window that open it */
    uint64_t open_ms, max_open_ms;
};

struct breaker {
    uint32_t bits; /* 1 = failure, the last outcome lowest */
    unsigned filled, row;
    bool open;
    bool trial;      /* one is under way */
    uint64_t until;  /* open so long */
    uint64_t length; /* ... of this opening, ms */
};

void breaker_reset(struct breaker *b);

/* True if a request may go to the endpoint now. */
bool breaker_allows(const struct breaker *b, uint64_t now);

/* A request goes there. true: it is the trial, and breaker_end must be told so. */
bool breaker_begin(struct breaker *b, uint64_t now);

/* The trial goes well so far, but may last long: the next one may begin beside it. */
void breaker_next(struct breaker *b);

/* ... and has ended. true: the breaker has opened or closed by it. */
bool breaker_end(struct breaker *b, const struct breaker_rules *rules, bool trial, enum outcome outcome, uint64_t now);

/* A health check has ended. */
bool breaker_probe(struct breaker *b, const struct breaker_rules *rules, bool good, uint64_t now);

/* "closed", "open", "half_open". */
const char *breaker_state(const struct breaker *b, uint64_t now);

#endif
