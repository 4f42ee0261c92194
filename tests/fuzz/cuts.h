/*
 * cuts.h - input for parsers in pieces: each piece is memory of its own, exactly as long, so that the sanitizer finds
 * whoever reads beyond it.
 */
#ifndef OLLA_FUZZ_CUTS_H
#define OLLA_FUZZ_CUTS_H

#include <stdlib.h>
#include <string.h>

#include "../unit/windows.h"

/* A copy with nothing behind it; free() it. */
static inline char *exact_copy(const void *p, size_t n)
{
    char *copy = malloc(n > 0 ? n : 1);
    ENSURE(copy);
    if (n > 0) {
        memcpy(copy, p, n);
        return copy;
    }
    free(copy);
    copy = malloc(0);
    return copy;
}

/* Lengths of pieces, from a seed that the input gives: mostly short ones, and all there is for seed 0. */
struct cuts {
    uint32_t state;
    bool whole;
};

static inline struct cuts cuts_of(unsigned seed)
{
    return (struct cuts){seed * 2654435761u + 1, seed == 0};
}

static inline size_t cuts_next(struct cuts *c, size_t left)
{
    c->state = c->state * 1664525u + 1013904223u;
    size_t n = 1 + (c->state >> 24) % (c->state >> 16 & 1 ? 3 : 40);
    return c->whole || n > left ? left : n;
}

#endif
