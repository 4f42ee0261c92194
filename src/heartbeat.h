/*
 * heartbeat.h - level 6: signs of life to a client that waits for a stream,
 * because clients and proxies give up on silence: while its request waits in
 * line, for a connection or for the first byte, and between the events of a
 * reply.
 *
 * The first one before a reply commits the status 200 and the type of the
 * stream. No byte of a backend went down with it, so failover stays possible;
 * what fails afterwards is told inside the stream, in the words of its API.
 *
 * May include: olla.h, levels 1 to 5, exchange.h.
 */
#ifndef OLLA_HEARTBEAT_H
#define OLLA_HEARTBEAT_H

#include "exchange.h"

/* The request is complete: finds out what its client can bear. */
void heartbeat_prepare(struct exchange *x);

/* When the next one is due, 0 = never. */
uint64_t heartbeat_at(const struct exchange *x);

/* Bytes went down: the silence begins anew. */
void heartbeat_restart(struct exchange *x);

/* Sends one if it is due, and what is left of the last one. false: the client is gone, and the exchange over. */
bool heartbeat_run(struct exchange *x);

/*
 * A reply begins after the commit. Its head does not go down; a body that is not such a stream (an error, most
 * often) is put into one event. false: it cannot be (compressed).
 */
bool heartbeat_take_reply(struct exchange *x, const struct http_response *r);

/* Puts an error into the stream (instead of an error reply); X_FLUSH follows. */
void heartbeat_error(struct exchange *x, struct str body);

/*
 * For a body that is put into one event: makes the next n bytes of it fit into one line; keeps those of an error,
 * which becomes an error event; and the end.
 */
void heartbeat_embed(struct exchange *x, char *p, size_t n);
void heartbeat_keep_error(struct exchange *x, const char *p, size_t n);
void heartbeat_embed_end(struct exchange *x);

#endif
