/*
 * wake.h - level 6: machines that sleep: magic packets (Wake-on-LAN), and the
 * requests that wait until a machine serves their model.
 *
 * A machine has one wake at a time, whoever asks for it and however many of its
 * endpoints are wanted: that sends packets, has the endpoint asked eagerly, and
 * ends when it serves its models, or when nobody waits any more and
 * wake.timeout has passed. Requests come and go meanwhile and do not stop it.
 *
 * A waiting exchange stays in X_CONNECT without an endpoint, as in the waiting line.
 *
 * May include: olla.h, levels 1 to 5, exchange.h.
 */
#ifndef OLLA_WAKE_H
#define OLLA_WAKE_H

#include "exchange.h"

/* Begins a wake unless one is under way or e is up. false: it cannot be woken. why is static text. */
bool wake_start(struct endpoint *e, const char *why);

/* x waits for e, which is woken. false: too many wait already. Waiting already: fine, maybe for another one now. */
bool wake_enter(struct exchange *x, struct endpoint *e);
void wake_leave(struct exchange *x); /* does nothing for one that does not wait */

/* What was done in vain, for the client of x, which waited too long. */
void wake_story(const struct exchange *x, struct text *t);

/* About so many ms until e is awake. */
uint64_t wake_expected(const struct endpoint *e);

/* For status pages: a word, ms since that began and (while it is woken) until it is given up, requests that wait. */
struct wake_view {
    const char *state; /* "awake", "asleep", "waking", "failed", "suspending" */
    uint64_t since_ms, left_ms;
    unsigned waiting;
};
struct wake_view wake_view(const struct endpoint *e);

struct wake_stats {
    unsigned waiting, max;
    uint64_t served, timed_out, refused;
};
extern struct wake_stats wake_stats;

/* Sends what is due, lets those go on who can. Returns when it wants to be called again without news. */
uint64_t wake_tick(void);

/* The bytes of a magic packet: six times ff, then 16 times the address. */
#define WAKE_PACKET 102
void wake_packet(const uint8_t mac[6], unsigned char to[WAKE_PACKET]);

#endif
