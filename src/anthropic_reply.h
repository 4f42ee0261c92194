/*
 * anthropic_reply.h - level 6: a chat completion, told as a message of the
 * Anthropic Messages API: whole, or as the events of a stream.
 *
 * Documents come one by one: the frames of a stream, or the one of a plain
 * reply. One block is open at a time; what comes for another one meanwhile is
 * held in a store of the caller's, as are texts that come between the parts of
 * a call. As in anthropic.h, a step adds a few pieces.
 *
 * May include: olla.h, levels 1 to 5.
 */
#ifndef OLLA_ANTHROPIC_REPLY_H
#define OLLA_ANTHROPIC_REPLY_H

#include "failure.h"
#include "pieces.h"

#define REPLY_CALLS 24 /* calls of a stream that are kept apart at a time */

/* Where bytes are held that have to wait. add: false = there is no room. */
struct reply_store {
    bool (*add)(void *of, const char *p, size_t n);
    void (*clear)(void *of);
    void *of;
    struct json_source read;
    uint64_t n; /* bytes in it; kept by anthropic_reply.c */
};

struct reply_call {
    uint64_t id, name; /* hashes, 0 = not told yet */
    int64_t index;     /* -1 = none was told */
    enum { CALL_NEW = 0, CALL_HELD, CALL_OPEN, CALL_OVER } state;
    bool any;  /* a part of its arguments has come */
    bool done; /* ... and the end of them: all brackets are closed */
    bool in_string, escaped;
    uint32_t depth;
    struct json_unescape unescape;
};

enum reply_finish { FINISH_NONE = 0, FINISH_STOP, FINISH_LENGTH, FINISH_CALLS, FINISH_FILTER, FINISH_OTHER };
enum reply_block { BLOCK_NONE = 0, BLOCK_TEXT, BLOCK_THINKING, BLOCK_CALL };

struct anthropic_reply {
    /* input */
    struct str model; /* what the client called it */
    bool events;      /* it wants a stream */
    bool whole;       /* there is one document, with all of it */
    bool hide_thinking, has_stops;
    uint64_t estimate; /* tokens of the request */
    unsigned char random[16];
    struct json_source doc;
    struct reply_store held;

    /* results */
    bool told;                /* message_start is out, or among the pieces */
    enum reply_finish finish; /* as the backend said */
    struct failure failure;   /* after OLLA_ERR */
    struct pieces out;

    /* state */
    uint8_t phase;
    enum reply_block block; /* the open one */
    unsigned index;         /* of the next block */
    unsigned made;          /* ids */
    bool refused, any_call, has_usage, any_content;
    uint64_t input, output, cached, bytes;
    struct json_value thinking, content, refusal, calls; /* of the document */
    uint64_t at;                                         /* in one of them */
    char stop[96];                                       /* the sequence that ended it, as JSON */
    struct reply_call call[REPLY_CALLS];
    unsigned call_n;
    struct reply_call *releasing;
    uint64_t held_at, release_at; /* in the store */
    bool ending;
};

/* Clears the state and the results, not the input. */
void reply_start(struct anthropic_reply *r);

/* The store r->doc has a document, which json_check found good. 0, or OLLA_ERR: it is an error, see r->failure. */
int reply_document(struct anthropic_reply *r);

/* message_start, before anything has come. */
void reply_begin(struct anthropic_reply *r);

/* No more documents: what is left is told, and the end. */
void reply_end(struct anthropic_reply *r);

/*
 * Once r->out is empty. 1 = there may be pieces, call again after them; 0 = the document is used up (after
 * reply_end: the message is complete); OLLA_ERR = it cannot be told, see r->failure.
 */
int reply_step(struct anthropic_reply *r);

#endif
