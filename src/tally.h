/*
 * tally.h - level 1: what requests come to: counts, sums, and how long they took.
 *
 * A histogram has four buckets for each power of two of milliseconds, up to
 * 70 minutes: a percentile read from it is at most an eighth off, whatever the
 * number of requests, and those that took at most 2^k ms can be counted exactly.
 *
 * May include: olla.h.
 */
#ifndef OLLA_TALLY_H
#define OLLA_TALLY_H

#include "../olla.h"

#define HISTOGRAM_BUCKETS 88

struct histogram {
    uint64_t sum; /* ms */
    uint32_t n;
    uint32_t longest;
    uint32_t count[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *h, uint64_t ms);

/* About so long, in ms, took the slowest of the fastest `percent` percent; 0 if there was none. */
uint64_t histogram_percentile(const struct histogram *h, unsigned percent);

/* How many took at most 2^power ms; power from 1 to 22. */
uint32_t histogram_upto(const struct histogram *h, unsigned power);

/* What one request was, for all who count it. */
struct tally_event {
    bool served;
    bool began;             /* first_ms is known */
    uint64_t ms;            /* from its arrival to the end */
    uint64_t first_ms;      /* to the first byte of the reply's body */
    uint64_t bytes;         /* of the reply's body, to the client */
    uint64_t input, output; /* tokens */
    uint64_t rate;          /* thousandths of tokens per second, 0 = not known */
    bool estimated;         /* these are: the backend did not tell */
};

struct tally {
    uint64_t requests, failed;
    uint64_t bytes;
    uint64_t ms_sum;                   /* of those that were served */
    uint64_t input, output, estimated; /* tokens, and how many requests' are estimates */
};

void tally_add(struct tally *t, const struct tally_event *e);

static inline uint64_t tally_served(const struct tally *t)
{
    return t->requests - t->failed;
}

/* ms, of those that were served; 0 = there were none. */
static inline uint64_t tally_average(const struct tally *t)
{
    return tally_served(t) > 0 ? t->ms_sum / tally_served(t) : 0;
}

#endif
