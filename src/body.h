/*
 * body.h - level 6: the request body, kept whole so that it can be sent again.
 *
 * A body lives in one of three homes: behind its head in the client's buffer
 * (nothing to copy, the common case), in one block of OLLA_BODY_BLOCK bytes,
 * or in an unlinked file of the spool. It only moves upwards.
 *
 * May include: olla.h, str.h, pool.h, platform.h.
 */
#ifndef OLLA_BODY_H
#define OLLA_BODY_H

#include "str.h"

enum body_home { BODY_NONE = 0, BODY_INLINE, BODY_BLOCK, BODY_FILE };

struct body {
    enum body_home home;
    uint64_t n; /* bytes so far */
    char *mem;  /* INLINE: in the client's buffer, not owned; BLOCK: owned */
    int fd;     /* FILE */
};

/* What went wrong when a body could not be kept. */
enum body_error {
    BODY_OK = 0,
    BODY_NO_SPOOL,   /* too large for memory and no spool directory is set: 413 */
    BODY_BUSY,       /* all blocks are taken and no spool directory is set: 503 */
    BODY_SPOOL_FULL, /* 507 */
    BODY_SPOOL_ERROR /* the directory cannot be used: 507; the log says why */
};

void body_init(void);

/*
 * Makes room for a body of `expected` bytes (0 = unknown) outside the client's
 * buffer, and moves what is there already. spool_dir "" = none.
 */
enum body_error body_move_out(struct body *b, uint64_t expected, const char *spool_dir);

/* Adds bytes to a body that is a BLOCK or a FILE; a full block goes to the spool. */
enum body_error body_append(struct body *b, const char *p, size_t n, const char *spool_dir);

/*
 * The bytes from `at` on, as many as are at hand in one piece (a file's come
 * through a window shared by all: use them before the next call).
 * An empty slice with p == NULL: reading the spool failed.
 */
struct str body_at(const struct body *b, uint64_t at);

void body_free(struct body *b);

#endif
