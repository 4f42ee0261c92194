/*
 * anthropic.h - level 6: the Anthropic Messages API told in the words of
 * OpenAI's chat completions, and back. Bytes in, bytes out: no file here does
 * I/O, waits, or allocates. What becomes of each field: docs/anthropic.md.
 *
 * Both ways work alike. A document that was checked (json_check) lies where
 * the caller keeps it. A step looks at a little of it and adds a few pieces:
 * words of our own and parts of the document. When they have been written out,
 * the next step follows. So memory is the same for any size, and the caller
 * decides how much is done at a time.
 *
 * The bodies are in anthropic_request.c, anthropic_blocks.c, anthropic_check.c
 * and anthropic_reply.c.
 *
 * May include: olla.h, levels 1 to 5.
 */
#ifndef OLLA_ANTHROPIC_H
#define OLLA_ANTHROPIC_H

#include "pieces.h"
#include "profile.h"

/* ---- requests ----------------------------------------------------------------- */

/* The members of a request that are looked at, in the order of anthropic_keys. */
enum {
    ASK_MODEL = 0,
    ASK_MESSAGES,
    ASK_MAX_TOKENS,
    ASK_STREAM,
    ASK_SYSTEM,
    ASK_TEMPERATURE,
    ASK_TOP_P,
    ASK_TOP_K,
    ASK_STOP,
    ASK_METADATA,
    ASK_TOOLS,
    ASK_TOOL_CHOICE,
    ASK_THINKING,
    ASK_OUTPUT_CONFIG,
    ASK_OUTPUT_FORMAT,
    ASK_THREAD,
    ASK_COUNT
};
extern const char *const anthropic_keys[ASK_COUNT + 1];

struct anthropic_request {
    struct json_source body;
    struct json_value top[ASK_COUNT]; /* found by json_check_start(..., anthropic_keys, top) */
};

#define ANTHROPIC_ERROR 256

/* The conversation is to be kept by the server, which gets only what is new from then on. No backend here does that. */
bool anthropic_wants_thread(const struct anthropic_request *r);

/* The rules of docs/anthropic.md, "What is checked"; to_count: only those for counting. NULL = fine, or the message. */
const char *anthropic_check(const struct anthropic_request *r, const struct json_check *c, bool to_count);

/* ---- blocks -------------------------------------------------------------------- */

/*
 * Goes through the content of messages, leaf by leaf: the texts and images of blocks, also those inside of results
 * and documents. What a leaf does not have is absent.
 */
enum join { JOIN_NONE = 0, JOIN_LINE, JOIN_BLANK };
enum leaf_kind { LEAF_TEXT = 0, LEAF_IMAGE, LEAF_RESULT, LEAF_CALL, LEAF_THINKING };

struct leaf {
    enum leaf_kind kind;
    enum join join;              /* what stands between this text and one before it in the same message */
    bool in_result;              /* of a tool */
    unsigned message;            /* its number; "system" and the first message have 0 */
    struct json_value text;      /* of a text or of thinking: what is inside the quotes */
    struct json_value id, name;  /* of a call; the id of a result, too */
    struct json_value input;     /* of a call; of a result: is_error */
    struct json_value kept;      /* of an image: its media type, and its data or its URL, both with quotes: */
    struct json_value data, url; /* one of them is absent */
};

/* Turns of one side, one after another, count as one run. The first run is what stands before all turns. */
enum run { RUN_SYSTEM = 0, RUN_USER, RUN_ASSISTANT, RUN_NONE };

/* A place between messages. */
struct message_place {
    uint64_t at;
    unsigned number; /* of the message that follows */
};

struct blocks {
    const struct anthropic_request *r;
    enum run run;
    bool tolerant; /* nothing is an error */
    struct message_place next;
    struct message_place end; /* of the run, if it is known; at = 0: not */
    bool prelude;             /* "system" has not been looked at */
    enum join joined;         /* what the last text wants in front of the next one */
    unsigned block;           /* number of the next one in the message */
    uint8_t depth;            /* of frames */
    uint8_t result;           /* frames from this one on belong to a result, 0 = none do */
    struct block_frame {
        bool array;
        enum join join;
        uint64_t at; /* of an array: of its next element */
        struct json_value value;
    } frames[8];
    char error[ANTHROPIC_ERROR];
};

struct message_place blocks_begin(const struct anthropic_request *r);

/* Which run begins there. Not for the first one. */
enum run blocks_run_at(const struct anthropic_request *r, struct message_place at);

/* Stands before that run. */
void blocks_start(struct blocks *b, const struct anthropic_request *r, enum run run, struct message_place at);

/* 1 = *leaf is the next one, 0 = the run is over, OLLA_AGAIN = nothing to tell, call again, OLLA_ERR = see error. */
int blocks_next(struct blocks *b, struct leaf *leaf);

/* ---- estimates ------------------------------------------------------------------ */

struct anthropic_estimate {
    struct blocks blocks;
    uint64_t bytes, tool_at;
    bool in_tools, started;
};

void anthropic_estimate_start(struct anthropic_estimate *e, const struct anthropic_request *r);
bool anthropic_estimate_step(struct anthropic_estimate *e); /* false: done */
uint64_t anthropic_estimate_tokens(const struct anthropic_estimate *e);

/* ---- a request for a backend ------------------------------------------------------- */

struct anthropic_telling {
    const struct anthropic_request *r;
    const struct profile *profile; /* of the endpoint */
    struct str model;              /* as it calls it */
    uint8_t phase;
    bool stream;

    /* the run being told */
    struct blocks blocks;
    struct message_place from, to;
    enum run run;
    unsigned has;  /* a bit for each kind of leaf; of texts outside of results only */
    bool any;      /* a message was told */
    bool open;     /* a list or a text has something in it: the next thing needs something between */
    unsigned last; /* message of the last text */
    bool result, result_bad, result_image; /* of a tool, being told */

    uint64_t tool_at;
    unsigned tool;
    char only[128]; /* the one tool that is told, "" = all */
    struct pieces out;
    char error[ANTHROPIC_ERROR];
};

/* model: lives as long as t. */
void anthropic_tell_start(struct anthropic_telling *t, const struct anthropic_request *r, const struct profile *to,
                          struct str model);

/* Once t->out is empty. 1 = there may be pieces, call again after them; 0 = done; OLLA_ERR = cannot be told, see error. */
int anthropic_tell_step(struct anthropic_telling *t);

#endif
