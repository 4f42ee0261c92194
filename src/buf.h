/*
 * buf.h - level 1: a linear byte buffer in one pool block.
 *
 * Invariants:
 *  1. mem == NULL (no block held, off == end == 0) or 0 <= off <= end <= OLLA_BUF_SIZE.
 *  2. The bytes [off, end) wait to be consumed; room to add is behind end.
 *  3. A block is held only while it is needed: buf_drop_if_empty gives it back.
 *
 * May include: olla.h, str.h, pool.h.
 */
#ifndef OLLA_BUF_H
#define OLLA_BUF_H

#include "str.h"

struct buf {
    char *mem;
    size_t off;
    size_t end;
};

/*
 * Who asks for a block. New work leaves OLLA_RESERVED_BUFS; backend bytes leave half of those; bytes for a
 * client may take the last one. They wait for nothing but their client, so nobody can wait in a circle.
 */
enum buf_class { BUF_NEW_WORK = 0, BUF_BACKEND, BUF_CLIENT };

void buf_init(void); /* binds the pool; once at start */

/* Makes sure a block is held. false: none is to be had now; try again later. */
bool buf_hold(struct buf *b, enum buf_class class_);
bool buf_available(enum buf_class class_); /* one would be had */
/* So few blocks are free that a stream must not fill one for a peer that takes nothing. */
bool buf_scarce(void);

void buf_drop(struct buf *b); /* gives the block back with whatever is in it */
void buf_drop_if_empty(struct buf *b);

size_t buf_len(const struct buf *b);
size_t buf_room(const struct buf *b); /* behind end; 0 without a block */
char *buf_tail(struct buf *b);        /* where to add */
void buf_added(struct buf *b, size_t n);
struct str buf_str(const struct buf *b);
void buf_consume(struct buf *b, size_t n);
void buf_compact(struct buf *b); /* moves the bytes to the front */

/* Text building straight into the room of a buffer: t = buf_text(b); ...; buf_text_done(b, &t). */
struct text buf_text(struct buf *b);
void buf_text_done(struct buf *b, const struct text *t);

#endif
