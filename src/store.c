/*
 * store.c - level 6: see store.h.
 *
 * May include: olla.h, buf.h, body.h, conf.h, pool.h, store.h.
 */
#include "store.h"

#include <string.h>

#include "conf.h"
#include "pool.h"

/* So many bytes are expected that no block would do. */
#define NO_BLOCK (BODY_MOST + 1)

bool store_add(void *store, const char *p, size_t n)
{
    struct store *s = store;
    struct body *b = &s->body;

    if (n > OLLA_MAX_KEPT - b->n) { /* a server that never ends must not fill the disk */
        return false;
    }
    if (b->home == BODY_NONE && buf_hold(&s->buf, s->modest ? BUF_NEW_WORK : BUF_BACKEND)) {
        b->home = BODY_INLINE;
        b->mem = s->buf.mem;
    }
    if (b->home == BODY_INLINE && n <= OLLA_BUF_SIZE - b->n) {
        memcpy(b->mem + b->n, p, n);
        b->n += n;
        return true;
    }
    if (b->home <= BODY_INLINE) {
        bool leave = s->modest && pool_free_count(POOL_BODY) <= POOL_SIZE_BODY / 2;
        if (body_move_out(b, leave ? NO_BLOCK : 0, conf_now->proxy.spool_dir) != BODY_OK) {
            return false;
        }
        buf_drop(&s->buf);
    }
    return body_append(b, p, n, conf_now->proxy.spool_dir) == BODY_OK;
}

void store_clear(void *store)
{
    struct store *s = store;
    body_free(&s->body);
    buf_drop(&s->buf);
}

struct str store_bytes(const void *body, uint64_t at)
{
    const struct body *b = body;
    return at < b->n ? body_at(b, at) : (struct str){NULL, 0};
}
