/*
 * pool.c - level 1: see pool.h.
 *
 * A free element's first bytes hold the pointer to the next free one. Elements
 * beyond `fresh` have never been used and are not on the list: binding a
 * pool touches none of its pages.
 *
 * May include: olla.h, pool.h.
 */
#include "pool.h"

#include <assert.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define POOL_POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POOL_POISON 1
#endif
#endif
#ifndef POOL_POISON
#define POOL_POISON 0
#endif

#if POOL_POISON
#include <sanitizer/asan_interface.h>
#define pool_poison(p, n)   ASAN_POISON_MEMORY_REGION((p), (n))
#define pool_unpoison(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#else
#define pool_poison(p, n)   ((void)(p), (void)(n))
#define pool_unpoison(p, n) ((void)(p), (void)(n))
#endif

struct pool {
    struct pool_stats stats;
    unsigned char *mem;
    void *free_list;
    size_t fresh; /* elements from this number on have never been handed out */
#if OLLA_TEST
    unsigned fail_at;
#endif
};

static struct pool pools[POOL_COUNT] = {
#define X(id, label, elements, empty) \
    [POOL_##id] = {.stats = {.name = (label), .limit = #elements, .when_empty = (empty), .count = (elements)}},
    POOL_TABLE(X)
#undef X
};

void pool_bind(enum pool_id id, void *mem, size_t size)
{
    struct pool *p = &pools[id];
    assert(size >= sizeof(void *));
    if (p->mem) {
        return; /* a second start in the same process (tests): elements in use stay valid */
    }
    p->mem = mem;
    p->stats.size = size;
    pool_poison(mem, size * p->stats.count);
}

static bool pool_must_fail(struct pool *p)
{
#if OLLA_TEST
    if (p->fail_at > 0 && --p->fail_at == 0) {
        return true;
    }
#else
    (void)p;
#endif
    return false;
}

void *pool_get_raw(enum pool_id id)
{
    struct pool *p = &pools[id];
    void *e = NULL;

    assert(p->mem != NULL);
    if (!pool_must_fail(p)) {
        if (p->free_list) {
            e = p->free_list;
            pool_unpoison(e, p->stats.size);
            memcpy(&p->free_list, e, sizeof(p->free_list));
        } else if (p->fresh < p->stats.count) {
            e = p->mem + p->fresh++ * p->stats.size;
            pool_unpoison(e, p->stats.size);
        }
    }
    if (!e) {
        p->stats.failed++;
        return NULL;
    }
    if (++p->stats.used > p->stats.max_used) {
        p->stats.max_used = p->stats.used;
    }
    return e;
}

void *pool_get(enum pool_id id)
{
    void *e = pool_get_raw(id);
    if (e) {
        memset(e, 0, pools[id].stats.size);
    }
    return e;
}

void pool_put(enum pool_id id, void *e)
{
    struct pool *p = &pools[id];
    if (!e) {
        return;
    }
    assert(p->stats.used > 0 && (unsigned char *)e >= p->mem && (unsigned char *)e < p->mem + p->fresh * p->stats.size);
    memcpy(e, &p->free_list, sizeof(p->free_list));
    p->free_list = e;
    p->stats.used--;
    pool_poison(e, p->stats.size);
}

void pool_refused(enum pool_id id)
{
    pools[id].stats.failed++;
}

size_t pool_free_count(enum pool_id id)
{
    return pools[id].stats.count - pools[id].stats.used;
}

const struct pool_stats *pool_stats(enum pool_id id)
{
    return &pools[id].stats;
}

size_t pool_index(enum pool_id id, const void *e)
{
    const unsigned char *at = e;
    return (size_t)(at - pools[id].mem) / pools[id].stats.size;
}

#if OLLA_TEST
void pool_fail_at(enum pool_id id, unsigned n)
{
    pools[id].fail_at = n;
}
#endif
