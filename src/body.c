/*
 * body.c - level 6: see body.h.
 *
 * May include: olla.h, str.h, pool.h, log.h, platform.h.
 */
#include "body.h"

#include <string.h>

#include "../platform/platform.h"
#include "log.h"
#include "pool.h"

union body_block {
    char bytes[OLLA_BODY_BLOCK];
    void *align;
};

POOL_STORAGE(BODY, union body_block, body_pool)

/* The part of a spooled body that was read last: readers come back to where they were. All 0 at first, so that the
 * program's file does not hold it. */
static struct {
    bool there;
    int fd;
    uint64_t from;
    size_t n;
    char bytes[OLLA_BODY_BLOCK];
} window;

static void forget_window(int fd)
{
    window.there = window.there && window.fd != fd;
}

void body_init(void)
{
    body_pool();
}

static enum body_error to_file(struct body *b, const char *spool_dir)
{
    static uint64_t warned;
    struct body old = *b;

    if (spool_dir[0] == '\0') {
        return BODY_NO_SPOOL;
    }
    int fd = plat_spool_open(spool_dir);
    if (fd < 0 || (old.n > 0 && plat_spool_write(fd, 0, old.mem, (size_t)old.n) != OLLA_OK)) {
        bool full = plat_error() == PLAT_FAIL_NO_SPACE;
        if (log_allowed(&warned, plat_now_ms())) {
            log_line(LOG_ERROR, "cannot spool a request body", "spool_dir", str_of(spool_dir), "error",
                     str_of(plat_error_text()));
        }
        if (fd >= 0) {
            plat_close(fd);
        }
        return full ? BODY_SPOOL_FULL : BODY_SPOOL_ERROR;
    }
    if (old.home == BODY_BLOCK) {
        pool_put(POOL_BODY, old.mem);
    }
    b->home = BODY_FILE;
    b->mem = NULL;
    b->fd = fd;
    return BODY_OK;
}

enum body_error body_move_out(struct body *b, uint64_t expected, const char *spool_dir)
{
    char *block = expected <= OLLA_BODY_BLOCK ? pool_get_raw(POOL_BODY) : NULL;
    if (!block) {
        enum body_error err = to_file(b, spool_dir);
        return err == BODY_NO_SPOOL && expected <= OLLA_BODY_BLOCK ? BODY_BUSY : err;
    }
    if (b->n > 0) {
        memcpy(block, b->mem, (size_t)b->n);
    }
    b->home = BODY_BLOCK;
    b->mem = block;
    return BODY_OK;
}

enum body_error body_append(struct body *b, const char *p, size_t n, const char *spool_dir)
{
    if (b->home == BODY_BLOCK && n > OLLA_BODY_BLOCK - b->n) {
        enum body_error err = to_file(b, spool_dir);
        if (err != BODY_OK) {
            return err;
        }
    }
    if (b->home == BODY_BLOCK) {
        memcpy(b->mem + b->n, p, n);
        b->n += n;
        return BODY_OK;
    }
    forget_window(b->fd);
    if (plat_spool_write(b->fd, b->n, p, n) != OLLA_OK) {
        return plat_error() == PLAT_FAIL_NO_SPACE ? BODY_SPOOL_FULL : BODY_SPOOL_ERROR;
    }
    b->n += n;
    return BODY_OK;
}

struct str body_at(const struct body *b, uint64_t at)
{
    if (b->home != BODY_FILE) {
        return (struct str){b->mem + at, (size_t)(b->n - at)};
    }
    bool there = window.there && window.fd == b->fd && at >= window.from && at < window.from + window.n;
    if (!there) {
        uint64_t left = b->n - at;
        size_t wanted = left < sizeof(window.bytes) ? (size_t)left : sizeof(window.bytes);
        long n = plat_spool_read(b->fd, at, window.bytes, wanted);
        window.there = true;
        window.fd = b->fd;
        window.from = at;
        window.n = n > 0 ? (size_t)n : 0;
    }
    size_t skipped = (size_t)(at - window.from);
    return window.n > 0 ? (struct str){window.bytes + skipped, window.n - skipped} : (struct str){NULL, 0};
}

void body_free(struct body *b)
{
    if (b->home == BODY_BLOCK) {
        pool_put(POOL_BODY, b->mem);
    } else if (b->home == BODY_FILE) {
        forget_window(b->fd);
        plat_close(b->fd);
    }
    *b = (struct body){.home = BODY_NONE};
}
