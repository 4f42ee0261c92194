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

static bool write_all(int fd, const struct body *b)
{
    for (uint64_t at = 0; at < b->n;) {
        struct str s = body_at(b, at);
        if (plat_spool_write(fd, at, s.p, s.n) != OLLA_OK) {
            return false;
        }
        at += s.n;
    }
    return true;
}

static void put_blocks(struct body *b)
{
    while (b->blocks_n > 0) {
        pool_put(POOL_BODY, b->blocks[--b->blocks_n]);
    }
}

static enum body_error to_file(struct body *b, const char *spool_dir)
{
    static uint64_t warned;

    int fd = plat_spool_open(spool_dir);
    if (fd < 0 || !write_all(fd, b)) {
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
    put_blocks(b);
    b->home = BODY_FILE;
    b->mem = NULL;
    b->fd = fd;
    return BODY_OK;
}

/* Takes blocks until there is room for `wanted` bytes. */
static bool take_blocks(struct body *b, uint64_t wanted)
{
    while (wanted > (uint64_t)b->blocks_n * OLLA_BODY_BLOCK) {
        bool may = b->blocks_n == 0 ||
                   (b->blocks_n < BODY_MOST_BLOCKS && pool_free_count(POOL_BODY) > POOL_SIZE_BODY / 2);
        char *block = may ? pool_get_raw(POOL_BODY) : NULL;
        if (!block) {
            return false;
        }
        b->blocks[b->blocks_n++] = block;
    }
    return true;
}

/* There is room for all of s in the blocks. */
static void fill_blocks(struct body *b, struct str s)
{
    while (s.n > 0) {
        size_t in = (size_t)(b->n % OLLA_BODY_BLOCK), room = OLLA_BODY_BLOCK - in, n = s.n < room ? s.n : room;
        memcpy(b->blocks[b->n / OLLA_BODY_BLOCK] + in, s.p, n);
        b->n += n;
        s = str_skip(s, n);
    }
}

static enum body_error no_room(struct body *b, uint64_t wanted, const char *spool_dir)
{
    if (spool_dir[0] != '\0') {
        return to_file(b, spool_dir);
    }
    return wanted > BODY_MOST ? BODY_NO_SPOOL : BODY_BUSY;
}

enum body_error body_move_out(struct body *b, uint64_t expected, const char *spool_dir)
{
    const struct str had = {b->mem, (size_t)b->n};
    const uint64_t wanted = expected > had.n ? expected : had.n > 0 ? had.n : 1;

    if (wanted > BODY_MOST || !take_blocks(b, wanted)) {
        put_blocks(b);
        return no_room(b, wanted, spool_dir);
    }
    b->home = BODY_BLOCKS;
    b->mem = NULL;
    b->n = 0;
    fill_blocks(b, had);
    return BODY_OK;
}

enum body_error body_append(struct body *b, const char *p, size_t n, const char *spool_dir)
{
    if (b->home == BODY_BLOCKS) {
        const uint64_t wanted = b->n + n;
        if (wanted <= BODY_MOST && take_blocks(b, wanted)) {
            fill_blocks(b, (struct str){p, n});
            return BODY_OK;
        }
        enum body_error err = no_room(b, wanted, spool_dir);
        if (err != BODY_OK) {
            return err;
        }
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
    if (at >= b->n) {
        return STR("");
    }
    const uint64_t left = b->n - at;
    if (b->home == BODY_BLOCKS) {
        size_t in = (size_t)(at % OLLA_BODY_BLOCK), room = OLLA_BODY_BLOCK - in;
        return (struct str){b->blocks[at / OLLA_BODY_BLOCK] + in, left < room ? (size_t)left : room};
    }
    if (b->home != BODY_FILE) {
        return (struct str){b->mem + at, (size_t)left};
    }
    bool there = window.there && window.fd == b->fd && at >= window.from && at < window.from + window.n;
    if (!there) {
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
    put_blocks(b);
    if (b->home == BODY_FILE) {
        forget_window(b->fd);
        plat_close(b->fd);
    }
    *b = (struct body){.home = BODY_NONE};
}
