/*
 * bucket.h - level 1: a token bucket: so many requests in a minute, some of them at once.
 *
 * A bucket holds requests in units that come back at the rate's number in a
 * millisecond, so that no fraction is lost. Zero-filled, it is full.
 *
 * May include: olla.h.
 */
#ifndef OLLA_BUCKET_H
#define OLLA_BUCKET_H

#include "../olla.h"

struct bucket {
    uint64_t left; /* units, as of `at` */
    uint64_t at;   /* ms; 0 = never used */
};

/*
 * Puts in what has come back since then: rate > 0 requests in a minute, up to `burst`. Returns the ms until one can be
 * taken, 0 = now.
 */
uint64_t bucket_wait(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ms);

/* After bucket_wait has returned 0. */
void bucket_take(struct bucket *b);

/* Whole requests in it. */
uint64_t bucket_left(const struct bucket *b);

#endif
