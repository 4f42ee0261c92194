/*
 * messages_state.h - level 6: one request of the Anthropic API and its reply: what messages.c (the request) and
 * messages_reply.c share. Nobody else looks into it but for `inspection`.
 *
 * May include: olla.h, levels 1 to 5, anthropic.h, anthropic_reply.h, inspector.h, store.h.
 */
#ifndef OLLA_MESSAGES_STATE_H
#define OLLA_MESSAGES_STATE_H

#include "anthropic.h"
#include "anthropic_reply.h"
#include "inspector.h"
#include "sse.h"
#include "store.h"

/* Less room than this is not worth writing into. */
#define ROOM_MIN 128

struct messages {
    bool to_count;
    struct json_check check;
    struct anthropic_request request;
    bool failed;                 /* its body could not be read */
    char model[OLLA_MODEL_NAME]; /* as the endpoint calls it */
    char refusal[ANTHROPIC_ERROR];
    bool stream, has_stops, hide_thinking;
    bool fell_back; /* the endpoint said that it has no such path: translated for it, this once */
    bool estimated, counted;
    uint64_t estimate;
    uint64_t length; /* of the told request */
    /* One after the other. */
    union {
        struct anthropic_estimate estimate;
        struct anthropic_telling telling;
        struct anthropic_reply reply;
    } now;

    /* the reply */
    enum { REPLY_FRAMES = 0, REPLY_DOCUMENT, REPLY_ERROR } kind;
    uint64_t length_down; /* of a plain reply, as it is told */
    uint64_t head_due, late_at;
    bool telling; /* a document is being told */
    bool over;    /* no more frames: [DONE] */
    bool ending;
    bool told; /* all of it; only the end of the backend's bytes is waited for */
    struct sse sse;
    struct json_check frame;
    struct store doc, held;
    struct inspection inspection;
    struct str plain; /* decoded bytes in u->in that were not looked at yet */
    size_t used;      /* bytes of u->in that they stand for */
    int status;       /* of an error */
    unsigned retry_after;
    char should_retry;
};

#endif
