/*
 * inspector.h - level 6: a recorder for finding faults, off by default. It appends every accepted request for a message
 * of the Anthropic API, and the reply that its client got, to a file for each session: one JSON object in a line.
 *
 * Invariants:
 *  1. A request never fails because of it: what it cannot do is told in the log, and left out.
 *  2. It takes no memory that requests need (a modest store), and keeps no file open between two entries.
 *  3. Keys and tokens (secrets.h) are never written, headers neither. A line is whole UTF-8 JSON, or not there.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, store.h.
 */
#ifndef OLLA_INSPECTOR_H
#define OLLA_INSPECTOR_H

#include "exchange.h"
#include "store.h"

#define INSPECTOR_SESSION 65 /* the longest name of a session, with its NUL */

/* What is known of one request. */
struct inspection {
    bool truncated; /* there was no room for the rest of the reply */
    char session[INSPECTOR_SESSION];
    char coding[16]; /* of a compressed reply, which is not kept */
    struct json_check check;
    struct store reply;
};

/* At start and after a reload: warns if it is on. */
void inspector_announce(void);

/* The request is accepted and its head still there: writes it. Its reply will be kept at `of`. */
void inspector_request(struct exchange *x, struct inspection *of);

/* Bytes of a reply's body as they go to the client; of other requests too, which costs a comparison. */
void inspector_reply(struct exchange *x, const char *p, size_t n);
void inspector_coding(struct exchange *x, struct str coding); /* they will be compressed */

/* The exchange is over: writes the reply and frees it. */
void inspector_finish(struct exchange *x);

#endif
