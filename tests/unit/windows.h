/*
 * windows.h - a document for json_walk and pieces that gives its bytes in windows of a chosen size.
 *
 * Each window is memory of its own that is gone with the next call, whichever document it is for: reading behind a
 * window's end, or out of an old one, is found by the sanitizer.
 */
#ifndef OLLA_TEST_WINDOWS_H
#define OLLA_TEST_WINDOWS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/json_walk.h"

/* For the helpers that unit tests and fuzz targets share. */
#define ENSURE(cond)                                                                 \
    do {                                                                             \
        if (!(cond)) {                                                               \
            (void)fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                                 \
        }                                                                            \
    } while (0)

#define WINDOW_MAX 4096

struct windows {
    const char *p;
    uint64_t n;
    size_t size;       /* of a window; 0 = as much as there is, up to WINDOW_MAX */
    uint64_t fails_at; /* nothing can be read from here on; 0 = all can be */
    bool failed;
};

static unsigned long windows_asked;

static inline struct str windows_at(const void *of, uint64_t at)
{
    static char *window;
    const struct windows *w = of;
    uint64_t end = w->fails_at ? w->fails_at : w->n;
    size_t size = w->size ? w->size : WINDOW_MAX;

    windows_asked++;
    free(window);
    window = NULL;
    if (at >= end) {
        return (struct str){NULL, 0};
    }
    size = end - at < size ? (size_t)(end - at) : size;
    window = malloc(size);
    ENSURE(window);
    memcpy(window, w->p + at, size);
    return (struct str){window, size};
}

static inline struct json_source windows_source(struct windows *w)
{
    return (struct json_source){windows_at, w, &w->failed};
}

/* ---- bytes that grow ---------------------------------------------------------- */

struct output {
    char *p; /* always NUL-terminated once something was added */
    size_t n, cap;
};

static inline void output_add(struct output *o, const char *p, size_t n)
{
    if (n >= o->cap - o->n || !o->p) {
        o->cap = (o->cap + n) * 2 + 256;
        o->p = realloc(o->p, o->cap);
        ENSURE(o->p);
    }
    memcpy(o->p + o->n, p, n);
    o->n += n;
    o->p[o->n] = '\0';
}

static inline void output_z(struct output *o, const char *z)
{
    output_add(o, z, strlen(z));
}

static inline void output_clear(struct output *o)
{
    free(o->p);
    *o = (struct output){NULL, 0, 0};
}

#endif
