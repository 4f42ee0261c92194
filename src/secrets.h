/*
 * secrets.h - level 2: takes keys and tokens out of a text that goes to a file.
 *
 * A run is as many of A-Z a-z 0-9 _ . - as follow one another. A run of SECRETS_RUN bytes or more that begins like a
 * key of a known maker becomes PREFIX[removed], and so does what follows `Bearer ` and `Basic `, there with ~ + / =
 * too. The text may be JSON: what an escape stands for (\n, \u00e9) belongs to no run.
 *
 * Invariants: the result does not depend on how the text is cut into feeds; a run of any length passes in constant memory.
 *
 * May include: olla.h, str.h.
 */
#ifndef OLLA_SECRETS_H
#define OLLA_SECRETS_H

#include "str.h"

#define SECRETS_RUN 16

/* Zero-fill, then set put and to. */
struct secrets {
    void (*put)(void *to, const char *p, size_t n);
    void *to;
    bool removed; /* something was */

    /* state, private to secrets.c */
    enum { SECRETS_BETWEEN = 0, SECRETS_HELD, SECRETS_PASS, SECRETS_DROP } state;
    bool scheme;     /* the last run was a word that credentials follow */
    bool credential; /* this run follows one */
    uint8_t escape;  /* what may still belong to one: hex digits, or all behind a backslash */
    uint8_t n;
    char run[SECRETS_RUN]; /* held back */
};

void secrets_feed(struct secrets *s, const char *p, size_t n);
void secrets_end(struct secrets *s); /* gives what is held back; s is as new then, but for `removed` */

/*
 * Adds the target of a request, or a part of it, with [REDACTED] in the place of each value whose name tells that it is
 * a secret (it ends with key, token, password, secret, auth or the like; case, - and _ do not matter, and what is
 * percent-encoded is seen through), and without keys of known makers. What does not fit is cut off.
 */
void secrets_target(struct text *to, struct str target);

/* Whether a text holds one. */
bool secrets_in(struct str text);

#endif
