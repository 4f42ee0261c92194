/*
 * cors.h - level 5: pages of which origins may read replies in a browser
 * (server.cors).
 *
 * Browsers decide, olla only tells: a request of another origin is served
 * as well, its page just does not get to see the reply. Keys are what keeps
 * people out.
 *
 * Invariants:
 *  1. With CORS off nothing here writes a byte or drops a header.
 *  2. What a client sent is echoed only if a setting allows it, and it is short:
 *     no request can make the head of a reply too long.
 *
 * May include: olla.h, str.h, http.h, conf.h, log.h.
 */
#ifndef OLLA_CORS_H
#define OLLA_CORS_H

#include "http.h"

/* A browser asks before it sends the request itself. False with CORS off. */
bool cors_is_preflight(const struct http_request *req);

/* The header lines of its answer. */
void cors_write_preflight(const struct http_request *req, struct text *t);

/* The header lines for any other reply; of a request whose head was refused: zero-filled. */
void cors_write_reply(const struct http_request *req, struct text *t);

/* True for headers of a backend that olla sets itself. */
bool cors_replaces(struct str name);

/* One line if it is on. */
void cors_log(void);

#endif
