/*
 * messages.h - level 6: requests for messages of the Anthropic API within an
 * exchange: what is checked when they have come, whether the chosen endpoint
 * gets them as they are or in OpenAI's words, and the reply on its way back.
 *
 * A request is told to the backend straight from where its body is kept: once
 * to know its length, once into the connection, and again for each further
 * attempt. Nothing of it is stored a second time.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, anthropic.h, anthropic_reply.h.
 */
#ifndef OLLA_MESSAGES_H
#define OLLA_MESSAGES_H

#include "exchange.h"

void messages_init(void);

/* What the route means for this API; may make it another one, or refuse it. */
void messages_route(struct exchange *x);

/* The body begins. false: answered, there is no room. */
bool messages_begin(struct exchange *x);
void messages_feed(struct exchange *x, const char *p, size_t n);
uint64_t messages_limit(const struct exchange *x); /* bytes of the body, 0 = none */

/* The body is complete. false: it was answered. */
bool messages_accept(struct exchange *x);

/* An endpoint was chosen, which calls the model so. */
void messages_choose(struct exchange *x, struct str model);

/* Gets ready to tell it. 1 = ready, OLLA_AGAIN = not yet (the exchange is called again), OLLA_ERR = cannot be told. */
int messages_prepare(struct exchange *x);
bool messages_unreadable(const struct exchange *x); /* ... because its body cannot be read back */
#define MESSAGES_UNREADABLE "the spooled request body cannot be read, see the log"
const char *messages_refusal(const struct exchange *x); /* why not; NULL = it could be, or was not tried */

/* It may hold a number of tokens. */
bool messages_is_count(const struct http_response *r);

/* Nobody counts the tokens of this request: olla does, about. false: it is no such request. */
bool messages_count_here(struct exchange *x);
bool messages_counted(struct exchange *x);                              /* ready() of the page */
bool messages_check_count(struct exchange *x, struct reply_error *err); /* check() of it */
uint64_t messages_tokens(const struct exchange *x);

/* How long the head of a reply is waited for, ms: a number of tokens is not worth much of it. */
int64_t messages_patience(const struct exchange *x);

/* Sending: bytes of the told request; from its beginning; the next ones into u->out. */
uint64_t messages_length(const struct exchange *x);
void messages_rewind(struct exchange *x);
void messages_fill(struct exchange *x);

/*
 * A reply to a request that went up as it was, and the part of its body that is there: 1 if it says that the server
 * has no such path. Then the same server gets it in the other words: X_CONNECT follows. 0: it says something else;
 * OLLA_AGAIN: the rest of the body is needed to tell.
 */
int messages_fall_back(struct exchange *x, const struct http_response *r, struct str body);

/* A reply's head has come: it is to be told. */
void messages_take_head(struct exchange *x, const struct http_response *r);

/*
 * Moves what is in u->in to c->out. OLLA_OK: the message is complete; OLLA_AGAIN: more is needed, or more room, or the
 * state has changed; OLLA_ERR: malformed.
 */
int messages_relay(struct exchange *x);
bool messages_told(const struct exchange *x);    /* the client has all of it, the backend's last bytes do not matter */
bool messages_pending(const struct exchange *x); /* something waits for room */

/* When it goes on without the backend (a stream is to begin, a connection's last bytes do not come), 0 = never. */
uint64_t messages_at(const struct exchange *x);
void messages_run(struct exchange *x);

/* The exchange is over: counted and freed. */
void messages_finish(struct exchange *x);

/* For the statistics. */
struct messages_totals {
    uint64_t requests, failed, native, translated, streams, nowhere, latency_ms_sum;
};
extern struct messages_totals messages_totals;

#endif
