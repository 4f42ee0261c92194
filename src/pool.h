/*
 * pool.h - level 1: the one table of fixed-size pools.
 *
 * All memory that a request can claim comes from here. The table gives each
 * pool its name, its size and the answer when it is empty; the module that
 * owns the type gives the storage (POOL_STORAGE). A new pool is one line.
 *
 * Invariants:
 *  1. used <= max_used <= count.
 *  2. get and put are O(1); freed elements are reused last-in first-out, so
 *     memory that was never needed is never touched.
 *  3. Under AddressSanitizer a free element is poisoned.
 *
 * May include: olla.h.
 */
#ifndef OLLA_POOL_H
#define OLLA_POOL_H

#include "../olla.h"

/* clang-format off */
/*        id        name               count                  when it is empty */
#define POOL_TABLE(X)                                                                                   \
    X(CLIENT,   "clients",         OLLA_MAX_CLIENTS,      "the listener waits, the kernel queues")     \
    X(EXCHANGE, "exchanges",       OLLA_MAX_CLIENTS,      "the request waits")                         \
    X(UPSTREAM, "upstreams",       OLLA_MAX_UPSTREAMS,    "an idle one is closed, else 503")           \
    X(TLS_IN,   "tls_clients",     OLLA_MAX_TLS_CLIENTS,  "the TLS listener waits")                     \
    X(TLS_OUT,  "tls_upstreams",   OLLA_MAX_TLS_UPSTREAMS, "an idle one is closed, else 503")           \
    X(BUF,      "buffers",         OLLA_MAX_BUFS,         "reading waits")                             \
    X(BODY,     "body_blocks",     OLLA_MAX_BODY_BLOCKS,  "the body goes to the spool")                \
    X(PROBE,    "probes",          OLLA_MAX_PROBES,       "the probe waits its turn")                  \
    X(MESSAGES, "messages",         OLLA_MAX_MESSAGES,     "503")                                       \
    X(MODEL,    "models",          OLLA_MAX_MODELS,       "the model is not listed, a warning says so")

enum pool_id {
#define X(id, name, count, empty) POOL_##id,
    POOL_TABLE(X)
#undef X
    POOL_COUNT
};
/* clang-format on */

/* The element count as a constant expression, for POOL_STORAGE. */
enum {
#define X(id, name, count, empty) POOL_SIZE_##id = (count),
    POOL_TABLE(X)
#undef X
};

struct pool_stats {
    const char *name;
    const char *limit; /* the constant of olla.h that says how many there are */
    const char *when_empty;
    size_t size; /* bytes of one element, 0 before the storage is bound */
    size_t count;
    size_t used;
    size_t max_used;
    uint64_t failed; /* gets that found it empty, or with no more than is kept for others */
};

/* In the owning .c file: storage for the pool and the call that binds it, as function name(). */
#define POOL_STORAGE(id, type, name)                                     \
    static type name##_storage[POOL_SIZE_##id];                          \
    static void name(void)                                               \
    {                                                                    \
        pool_bind(POOL_##id, name##_storage, sizeof(name##_storage[0])); \
    }

/* Makes every element free. mem must be aligned for any type and hold the table's count of elements. */
void pool_bind(enum pool_id id, void *mem, size_t size);

/* A zero-filled element, or NULL when the pool is empty (counted, logged by the caller).
 * pool_get_raw leaves the bytes as they are, for plain buffers. */
void *pool_get(enum pool_id id);
void *pool_get_raw(enum pool_id id);

/* Gives back an element got from the same pool. p may be NULL. */
void pool_put(enum pool_id id, void *p);

/* Counts a get that was not tried, because what is left is kept for others. */
void pool_refused(enum pool_id id);

size_t pool_free_count(enum pool_id id);
const struct pool_stats *pool_stats(enum pool_id id);

/* Element number of p, and the element with a number (for iteration over pools whose elements know if they live). */
size_t pool_index(enum pool_id id, const void *p);

#if OLLA_TEST
/* The n-th get from now fails (1 = the next one), once. */
void pool_fail_at(enum pool_id id, unsigned n);
#endif

#endif
