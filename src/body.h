/*
 * body.h - level 6: the request body, kept whole so that it can be sent again.
 *
 * A body lives in one of three homes: behind its head in the client's buffer
 * (nothing to copy, the common case), in blocks of OLLA_BODY_BLOCK bytes, or
 * in an unlinked file of the spool. It only moves upwards. A second block and
 * more are only taken while half of all are free: few large bodies do not shut
 * out many small ones.
 *
 * May include: olla.h, str.h, pool.h, platform.h.
 */
#ifndef OLLA_BODY_H
#define OLLA_BODY_H

#include "str.h"

enum body_home { BODY_NONE = 0, BODY_INLINE, BODY_BLOCKS, BODY_FILE };

/* Blocks that one body may have, and bytes. */
#define BODY_MOST_BLOCKS (OLLA_MAX_BODY_BLOCKS >= 8 ? 4 : OLLA_MAX_BODY_BLOCKS >= 4 ? OLLA_MAX_BODY_BLOCKS / 2 : 1)
#define BODY_MOST        ((uint64_t)BODY_MOST_BLOCKS * OLLA_BODY_BLOCK)

struct body {
    enum body_home home;
    uint64_t n; /* bytes so far */
    char *mem;  /* INLINE: in the client's buffer, not owned */
    int fd;     /* FILE */
    unsigned blocks_n;
    char *blocks[BODY_MOST_BLOCKS]; /* BLOCKS: owned, all but the last ones full */
};

/* What went wrong when a body could not be kept. */
enum body_error {
    BODY_OK = 0,
    BODY_NO_SPOOL,   /* too large for memory and no spool directory is set: 413 */
    BODY_BUSY,       /* too many blocks are taken and no spool directory is set: 503 */
    BODY_SPOOL_FULL, /* 507 */
    BODY_SPOOL_ERROR /* the directory cannot be used: 507; the log says why */
};

void body_init(void);

/*
 * Makes room for a body of `expected` bytes (0 = unknown) outside the client's
 * buffer, and moves what is there already. spool_dir "" = none.
 */
enum body_error body_move_out(struct body *b, uint64_t expected, const char *spool_dir);

/* Adds bytes to a body that is in BLOCKS or a FILE; what has no room goes to the spool as a whole. */
enum body_error body_append(struct body *b, const char *p, size_t n, const char *spool_dir);

/*
 * The bytes from `at` on, as many as are at hand in one piece: to the end of
 * a block; a file's come through a window shared by all, use them before the
 * next call. An empty slice with p == NULL: reading the spool failed.
 */
struct str body_at(const struct body *b, uint64_t at);

void body_free(struct body *b);

#endif
