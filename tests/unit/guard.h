/*
 * guard.h - memory whose end is followed by a page that must not be touched.
 *
 * Input for a parser is placed flush against that page: reading one byte too many
 * crashes the test at once, with or without a sanitizer. One area per program; what
 * was placed before is overwritten.
 *
 * Include after cmocka.h; the platform layer is not needed.
 */
#ifndef OLLA_TEST_GUARD_H
#define OLLA_TEST_GUARD_H

#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUARD_ROOM (256u * 1024u)

static char *guard_end_;

/* n writable bytes that end at the guard page; n <= GUARD_ROOM. */
static inline char *guard_room(size_t n)
{
    if (!guard_end_) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        int fd = open("/dev/zero", O_RDWR);
        assert_int_not_equal(fd, -1);
        char *p = mmap(NULL, GUARD_ROOM + page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        assert_true(p != MAP_FAILED);
        close(fd);
        assert_int_equal(mprotect(p + GUARD_ROOM, page, PROT_NONE), 0);
        guard_end_ = p + GUARD_ROOM;
    }
    assert_true(n <= GUARD_ROOM);
    return guard_end_ - n;
}

/* A copy of these bytes that ends at the guard page. */
static inline char *guard_copy(const void *bytes, size_t n)
{
    char *p = guard_room(n);
    if (n > 0) {
        memcpy(p, bytes, n);
    }
    return p;
}

#endif
