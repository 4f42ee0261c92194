/*
 * store.h - level 6: bytes that are kept until they are of use: in a buffer of the pool, then as a request body is,
 * in a block or in a file of the spool. It holds nothing before the first byte. Zero-fill to start.
 *
 * May include: olla.h, buf.h, body.h.
 */
#ifndef OLLA_STORE_H
#define OLLA_STORE_H

#include "body.h"
#include "buf.h"

struct store {
    struct buf buf;
    struct body body;
    bool failed; /* for readers: they could not get it back */
    bool modest; /* it can do without: leaves the last buffers, and half of the blocks, to others */
};

/* The ones with `void *` fit where a reader or a writer of JSON takes a function; the last one is for any body. */
bool store_add(void *store, const char *p, size_t n); /* false: no room, and nothing was added */
void store_clear(void *store);
struct str store_bytes(const void *body,
                       uint64_t at); /* what is at hand from `at` on; p == NULL: the end, or it failed */

#endif
