/*
 * client.h - level 7: client connections: accepting, request heads, keep-alive,
 * closing without losing the last reply.
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_CLIENT_H
#define OLLA_CLIENT_H

#include "exchange.h"

void client_init(void);

/*
 * Opens listeners as server.host, .port and .tls say; those already open on the same address stay. OLLA_ERR after a
 * log line.
 */
int client_listen(const struct conf *c);
void client_listen_close(void);
bool client_exposed(void); /* others than this machine can connect */

/* The accept gate: call once a turn; listeners are watched only while a slot is free. Returns when to call again. */
uint64_t client_gate(void);

/* Those that wait for a block go on, in turn, as soon as there are blocks: once a turn. */
void client_feed(void);

/* Closes idle connections; running requests go on, and their connections close after them. */
void client_drain(void);

/* Ends everything at once; returns how many requests were cut. */
unsigned client_kill_all(void);

unsigned client_count(void);
unsigned client_busy(void);

#endif
