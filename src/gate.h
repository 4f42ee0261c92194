/*
 * gate.h - level 5: who may come in, and what for: the keys of [key:NAME].
 *
 * Without any such section the gate is open and nothing here costs more than
 * a comparison. A key that stays through a reload keeps its number and what
 * it has used; one that is gone lets nothing more in, but what runs goes on.
 *
 * Invariants:
 *  1. Only digests are kept, of what is configured and of what is brought.
 *  2. Finding a key takes the same time whichever it is, and if it is none.
 *
 * May include: olla.h, str.h, tally.h, platform.h, http.h, sha256.h, conf.h.
 */
#ifndef OLLA_GATE_H
#define OLLA_GATE_H

#include "conf.h"
#include "http.h"
#include "tally.h"

/* With which key a request came in. Zero-filled: with none. */
struct gate_pass {
    uint32_t key;             /* number, 0 = none */
    bool narrow;              /* it was for certain models then */
    enum conf_class class_;   /* of that key */
    char name[OLLA_KEY_NAME]; /* a copy: the key may be gone when the request ends */
};

/* Puts the keys of a configuration in force, which stays where it is until the next call. */
void gate_apply(const struct conf *c);

/* True if a key is needed. */
bool gate_closed(void);

enum gate_answer {
    GATE_OPEN = 0, /* it may come in, *pass is filled */
    GATE_NO_KEY,
    GATE_WRONG_KEY,
    GATE_SEVERAL_KEYS /* in one place: two readers could choose different ones */
};

/*
 * Looks for the key: Authorization: Bearer KEY, else x-api-key: KEY, else, of an upgrade to WebSocket, a
 * subprotocol (gate_key_protocol), because browsers can set no header there.
 */
enum gate_answer gate_enter(const struct http_request *req, bool upgrade, struct gate_pass *pass);

/* The key in an item of Sec-WebSocket-Protocol, p == NULL: it holds none. */
struct str gate_key_protocol(struct str item);

/* Takes one request from what the key may do in a minute. false: *wait_ms until the next one. */
bool gate_take(const struct gate_pass *pass, uint64_t now_ms, uint64_t *wait_ms);

/*
 * Whether the key may use more tokens today, by the local date. What runs already is not known yet, so a day can end
 * with a little more. false: *wait_ms until the next day.
 */
bool gate_may_spend(const struct gate_pass *pass, int64_t wall_ms, uint64_t *wait_ms);

/* Whether its tokens are limited at all. */
bool gate_has_allowance(const struct gate_pass *pass);

/* A request of that key has ended; a key that is gone, and none at all, count nothing. */
void gate_add(const struct gate_pass *pass, const struct tally_event *e, int64_t wall_ms);

/* The keys in the order of the configuration; false: there are not so many. */
struct gate_usage {
    const char *name;
    const struct tally *sum;
    uint64_t today, per_day; /* tokens; per_day 0 = any number */
};
bool gate_usage(int i, int64_t wall_ms, struct gate_usage *out);

/* True if only certain models may be used, and what is known of them depends on who asks. */
bool gate_narrow(const struct gate_pass *pass);
/* Whether a model may be used, by the name that it is asked for or listed under. */
bool gate_allows(const struct gate_pass *pass, struct str model);
/* Two passes that allow the same names have the same mark. */
uint32_t gate_mark(const struct gate_pass *pass);

/* The class of a request in the waiting line, which asks for one with a word; "" = it does not. */
enum conf_class gate_class(const struct gate_pass *pass, struct str word);

#endif
