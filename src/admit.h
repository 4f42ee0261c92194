/*
 * admit.h - level 6: an exchange at the gate: what gate.h says, told to the client.
 *
 * May include: olla.h, levels 1 to 5, exchange.h.
 */
#ifndef OLLA_ADMIT_H
#define OLLA_ADMIT_H

#include "exchange.h"

/* Finds out which address a request comes from: the peer's, or what a trusted proxy says. */
void admit_client(struct exchange *x);

/* True if the peer may see how olla is (dashboard.access_policy), whoever a proxy says it asks for. */
bool admit_shows(const struct exchange *x);

/*
 * Who may do something with endpoints: the peer may see how olla is, and brings it for nobody else; or the key that
 * came with it is for all models.
 */
bool admit_by_place(const struct exchange *x);
bool admit_whole_key(const struct exchange *x);

/* The head is known and the route is found; nothing of the body has been looked at. false: answered. */
bool admit_head(struct exchange *x);

/* All of the body is here, and the model that it names. false: answered. */
bool admit_model(struct exchange *x);

#endif
