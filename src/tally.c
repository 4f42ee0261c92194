/*
 * tally.c - level 1: see tally.h.
 *
 * Bucket i holds the times t with bucket_of(t) == i; times are shifted by one
 * so that 2^k ms itself still belongs to what took at most 2^k ms.
 *
 * May include: olla.h, tally.h.
 */
#include "tally.h"

#define PARTS 4 /* buckets for each power of two */

static unsigned bucket_of(uint64_t ms)
{
    uint64_t t = ms > 0 ? ms - 1 : 0;
    unsigned power = 2;

    if (t < PARTS) {
        return (unsigned)t;
    }
    while (power < 63 && t >> (power + 1) > 0) {
        power++;
    }
    unsigned i = (power - 1) * PARTS + (unsigned)(t >> (power - 2) & (PARTS - 1));
    return i < HISTOGRAM_BUCKETS ? i : HISTOGRAM_BUCKETS - 1;
}

/* The longest time in a bucket. */
static uint64_t upper(unsigned i)
{
    unsigned shift = i / PARTS > 0 ? i / PARTS - 1 : 0;
    return i < PARTS ? i + 1 : (uint64_t)(PARTS + i % PARTS + 1) << shift;
}

void histogram_add(struct histogram *h, uint64_t ms)
{
    h->n++;
    h->sum += ms;
    h->longest = ms < UINT32_MAX ? ms > h->longest ? (uint32_t)ms : h->longest : UINT32_MAX;
    h->count[bucket_of(ms)]++;
}

uint64_t histogram_percentile(const struct histogram *h, unsigned percent)
{
    uint64_t rank = ((uint64_t)h->n * percent + 99) / 100, before = 0;

    if (h->n == 0) {
        return 0;
    }
    rank = rank > 0 ? rank : 1;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (before + h->count[i] >= rank) {
            uint64_t low = i > 0 ? upper(i - 1) : 0, width = upper(i) - low;
            uint64_t at = low + (width * (rank - before) + h->count[i] / 2) / h->count[i];
            return at < h->longest ? at : h->longest;
        }
        before += h->count[i];
    }
    return h->longest;
}

uint32_t histogram_upto(const struct histogram *h, unsigned power)
{
    uint64_t limit = UINT64_C(1) << power;
    uint32_t n = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS && upper(i) <= limit; i++) {
        n += h->count[i];
    }
    return n;
}

void tally_add(struct tally *t, const struct tally_event *e)
{
    t->requests++;
    t->failed += !e->served;
    t->bytes += e->bytes;
    t->ms_sum += e->served ? e->ms : 0;
    t->input += e->input;
    t->output += e->output;
    t->estimated += e->estimated;
}
