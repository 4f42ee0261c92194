/*
 * buf.c - level 1: see buf.h.
 *
 * May include: olla.h, str.h, pool.h.
 */
#include "buf.h"

#include <assert.h>
#include <string.h>

#include "pool.h"

union block {
    char bytes[OLLA_BUF_SIZE];
    void *align;
    uint64_t align64;
};

POOL_STORAGE(BUF, union block, buf_pool)

void buf_init(void)
{
    buf_pool();
}

bool buf_available(enum buf_class class_)
{
    static const size_t leave[] = {OLLA_RESERVED_BUFS, OLLA_RESERVED_BUFS / 2, 0};

    return pool_free_count(POOL_BUF) > leave[class_];
}

bool buf_hold(struct buf *b, enum buf_class class_)
{
    if (b->mem) {
        return true;
    }
    if (class_ != BUF_CLIENT && !buf_available(class_)) {
        pool_refused(POOL_BUF);
        return false;
    }
    b->mem = pool_get_raw(POOL_BUF);
    b->off = b->end = 0;
    return b->mem != NULL;
}

bool buf_scarce(void)
{
    return pool_free_count(POOL_BUF) <= (size_t)2 * OLLA_RESERVED_BUFS;
}

void buf_drop(struct buf *b)
{
    pool_put(POOL_BUF, b->mem);
    b->mem = NULL;
    b->off = b->end = 0;
}

void buf_drop_if_empty(struct buf *b)
{
    if (b->mem && b->off == b->end) {
        buf_drop(b);
    }
}

size_t buf_len(const struct buf *b)
{
    return b->end - b->off;
}

size_t buf_room(const struct buf *b)
{
    return b->mem ? OLLA_BUF_SIZE - b->end : 0;
}

char *buf_tail(struct buf *b)
{
    return b->mem + b->end;
}

void buf_added(struct buf *b, size_t n)
{
    assert(n <= buf_room(b));
    b->end += n;
}

struct str buf_str(const struct buf *b)
{
    return (struct str){b->mem ? b->mem + b->off : NULL, b->end - b->off};
}

void buf_consume(struct buf *b, size_t n)
{
    assert(n <= buf_len(b));
    b->off += n;
    if (b->off == b->end) {
        b->off = b->end = 0;
    }
}

void buf_compact(struct buf *b)
{
    if (b->mem && b->off > 0) {
        memmove(b->mem, b->mem + b->off, b->end - b->off);
        b->end -= b->off;
        b->off = 0;
    }
}

struct text buf_text(struct buf *b)
{
    return text_in(buf_tail(b), buf_room(b));
}

void buf_text_done(struct buf *b, const struct text *t)
{
    b->end += t->n;
}
