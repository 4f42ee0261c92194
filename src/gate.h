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
 * May include: olla.h, str.h, http.h, sha256.h, conf.h.
 */
#ifndef OLLA_GATE_H
#define OLLA_GATE_H

#include "conf.h"
#include "http.h"

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

/* True if only certain models may be used, and what is known of them depends on who asks. */
bool gate_narrow(const struct gate_pass *pass);
/* Whether a model may be used, by the name that it is asked for or listed under. */
bool gate_allows(const struct gate_pass *pass, struct str model);
/* Two passes that allow the same names have the same mark. */
uint32_t gate_mark(const struct gate_pass *pass);

/* The class of a request in the waiting line, which asks for one with a word; "" = it does not. */
enum conf_class gate_class(const struct gate_pass *pass, struct str word);

#endif
