/*
 * bucket.c - level 1: see bucket.h.
 *
 * May include: olla.h, bucket.h.
 */
#include "bucket.h"

#define REQUEST 60000 /* ms in the minute of the rate */

uint64_t bucket_wait(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ms)
{
    uint64_t most = burst * REQUEST, passed = now_ms - b->at;
    bool full = b->at == 0 || passed > most / rate;

    b->left = full ? most : b->left + passed * rate;
    b->left = b->left < most ? b->left : most; /* the limit may have been lowered, too */
    b->at = now_ms;
    return b->left >= REQUEST ? 0 : (REQUEST - b->left + rate - 1) / rate;
}

void bucket_take(struct bucket *b)
{
    b->left -= REQUEST;
}

uint64_t bucket_left(const struct bucket *b)
{
    return b->left / REQUEST;
}
