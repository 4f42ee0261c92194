/*
 * ledger.h - level 4: what each model was used for: a fixed table, where the
 * model that was used longest ago makes room for a new one.
 *
 * May include: olla.h, str.h, tally.h.
 */
#ifndef OLLA_LEDGER_H
#define OLLA_LEDGER_H

#include "str.h"
#include "tally.h"

#define LEDGER_CLIENTS 32

struct ledger_model {
    char name[OLLA_MODEL_NAME]; /* lower case, as the servers call it; "" = free */
    struct tally sum;
    struct histogram latency; /* of what was served */
    uint64_t last;            /* monotonic ms */
    uint64_t hits, misses, fallbacks;
    uint32_t clients[LEDGER_CLIENTS]; /* hashes of addresses; more are not told apart */
    uint8_t clients_n;
};

enum ledger_routing { LEDGER_HIT = 0, LEDGER_FALLBACK };

/* A request that an endpoint was chosen for has ended. client: a hash of its address. */
void ledger_add(struct str model, const struct tally_event *e, enum ledger_routing how, uint32_t client, uint64_t now);

/* One that no endpoint could take: counted if the model is known here. */
void ledger_miss(struct str model);

/* In the order of requests, most first; then by name. */
bool ledger_before(const struct ledger_model *a, const struct ledger_model *b);

/* The i-th in that order. NULL = there are not so many. */
const struct ledger_model *ledger_at(unsigned i);

/* The i-th place of the table, i < OLLA_MAX_LEDGER, where a model stays while it is remembered; name "" = free. */
const struct ledger_model *ledger_slot(unsigned i);

struct ledger_totals {
    unsigned models;
    struct tally sum;
};
/* Over all that are in the table; active: only those used since then. */
struct ledger_totals ledger_totals(uint64_t since);

size_t ledger_cost(void);

#endif
