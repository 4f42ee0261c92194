/*
 * world.h - the whole of olla in a world in memory: four machines behind it that are well, list their models and say
 * what they are told to say, and clients whose replies are read with a reader of their own.
 *
 * One run goes from world_begin to world_end. Between two runs nothing is left: world_end makes olla forget its
 * endpoints and ensures that all pools are empty and no descriptor is open.
 */
#ifndef OLLA_FAKE_WORLD_H
#define OLLA_FAKE_WORLD_H

#include "fake.h"

/* ---- requests, by letter --------------------------------------------------------------------- */

enum world_kind {
    ASKS_LOCAL = 0, /* olla answers itself, or adds something of its own */
    ASKS_RELAY,     /* the reply is its backend's */
    ASKS_MESSAGES,  /* ... or told in Anthropic's words */
    ASKS_TUNNEL
};

struct world_request {
    char letter;
    enum world_kind kind;
    bool head; /* HEAD: no body comes back */
    bool http10;
    const char *bytes; /* the request, with a '~' in the place of */
    size_t filler;     /* so many letters; Content-Length: @ becomes the number */
};

const struct world_request *world_request(char letter); /* NULL: there is none */
void world_ask(struct fake_fd *client, const struct world_request *r);

/* ---- what machines say --------------------------------------------------------------------------- */

enum world_then { THEN_KEEP = 0, THEN_END, THEN_RESET };

const char *world_words(char letter, size_t *n); /* a reply by letter; NULL: there is none */

/* The next request that is no probe gets this; first so many bytes of it, then a pause, the rest, and the end. */
struct world_says {
    const char *bytes; /* copied */
    size_t n;          /* of them are said */
    size_t first;      /* before the pause, if there is one */
    uint64_t pause_ms;
    enum world_then then;
    bool early; /* as soon as the head of the request is there */
};
void world_will_say(const struct world_says *s);
void world_will_connect(enum fake_connect how); /* the next connection for a request */
/* The next probe gets this instead of what fits; or all do until world_end. */
void world_probe_says(const char *bytes, size_t n, bool all);

/* In this run clients send more than the requests above: what machines get need not be JSON. */
extern bool world_any_bodies;

/* What a machine has said in this run, and whether that was a complete reply. */
struct world_said {
    bool used, complete;
    int status;
    bool stream, ended; /* it is one of events; it has what ends one */
    struct output body;
};
enum { WORLD_SAID = 64 };
extern struct world_said world_said[WORLD_SAID];
void world_judge(void); /* fills it */

/* ---- replies as a client sees them ------------------------------------------------------------- */

enum world_end_of { REPLY_NONE = 0, REPLY_PART, REPLY_WHOLE };

struct world_reply {
    enum world_end_of end;
    int status;
    bool proxied; /* it says from which endpoint it is */
    bool to_close;
    struct output body;
    size_t next; /* where the next reply begins */
};

/* Reads the reply at `at` in what the client got. Call output_clear(&body). */
struct world_reply world_read(const struct fake_fd *client, size_t at, bool head);

/* ---- a run ------------------------------------------------------------------------------------------ */

/* rich: other settings, with all that can be turned on. All machines are up when it returns. */
void world_begin(bool rich);
/* With a configuration of one's own. false: it was refused, and the one without machines is in force. */
bool world_begin_with(const char *text, size_t n);
const char *world_write(const char *text, size_t n); /* the file that olla reads */
void world_turn(void);
bool world_settle(unsigned turns, uint64_t ms); /* until nothing more happens; false: so many turns were not enough */
void world_forget(void);                        /* what was said and done so far; nothing may be going on */
void world_end(void);

#endif
