/*
 * usage.h - level 2: the token figures in a reply's body, read as it passes, in constant memory.
 *
 * All dialects are understood at once, whoever speaks:
 *   OpenAI     "usage" at the top of a document (chat, completions, embeddings, rerank, audio, images, the Responses API)
 *              or of its "response" (events of the Responses API)
 *   Anthropic  "usage" at the top (a message, message_delta) or of its "message" (message_start)
 *   Ollama     prompt_eval_count, eval_count, prompt_eval_duration and eval_duration at the top
 *   llama.cpp  "timings"; tokens_evaluated and tokens_predicted at the top
 *   LM Studio  "stats", the rate only
 * What stands anywhere else, in an array or in a string, are words of the model or of its user and count for nothing.
 *
 * Invariants:
 *  - The result does not depend on how the body is cut into feeds; reading never fails, and takes time in proportion to
 *    the bytes, little of it for those that hold no figure.
 *  - Figures are totals: of one that comes again (in each chunk, in message_start and in message_delta) the last one
 *    holds, nothing is summed up. If one reply tells the same in several ways, the names that OpenAI's chat has count
 *    more than those of Anthropic and Ollama, and these more than "timings".
 *  - A figure is a whole number from 0 to 2^53. A fraction is cut off (durations and rates keep three digits of it);
 *    what is negative, larger, has an exponent or is no number (null) is passed over, as if it had not been told.
 *  - This is no validator. What was read before a body ends early or stops being JSON is kept, what follows in the same
 *    document is not looked at; the next line or event is read again. A number at the very end has not ended, and
 *    is not counted.
 *
 * It must be fed what the backend sent, after the transfer coding and before any translation, and no compressed body.
 *
 * May include: olla.h, str.h, json.h, sse.h.
 */
#ifndef OLLA_USAGE_H
#define OLLA_USAGE_H

#include "json.h"
#include "sse.h"

/* Room for the model's name with its NUL; a longer one is cut between characters, control bytes become '?'. */
#define USAGE_MODEL 64

enum usage_kind {
    USAGE_JSON = 0, /* one document; others that follow it are read, too */
    USAGE_LINES,    /* NDJSON: one in each line */
    USAGE_EVENTS    /* server-sent events */
};

/* What can be told; also bits (1 << ...) of usage_figures.told. */
enum usage_figure {
    USAGE_INPUT = 0,
    USAGE_OUTPUT,
    USAGE_CACHED,
    USAGE_REASONING,
    USAGE_TOTAL,
    USAGE_PROMPT_TIME,
    USAGE_GENERATION_TIME,
    USAGE_RATE,
    USAGE_CACHE_WRITTEN,
    USAGE_FIGURES
};

/* One for each reply; 256 bytes. All of it is private to usage.c. */
struct usage {
    uint64_t figures[USAGE_FIGURES];
    uint8_t ranks[USAGE_FIGURES]; /* of the names they were told under; 0 = not told */
    uint8_t kind, state;
    uint8_t path[4], level; /* the objects that are open and looked into */
    uint8_t row;            /* what the key means whose value comes, 0 = nothing */
    bool named, in_string, escaped;
    bool cut;       /* the text that is being read did not fit */
    uint8_t text_n; /* bytes in key, or in model while it is being read */
    uint8_t digits; /* of a fraction, and 1; 0 = no point yet */
    struct json_unescape unescape;
    uint16_t fraction; /* thousandths */
    uint32_t depth;    /* brackets open within a value that is not looked into */
    uint64_t number;
    struct sse sse;
    char key[28]; /* the longest that means something, and a NUL */
    char model[USAGE_MODEL];
};

void usage_start(struct usage *u, enum usage_kind kind);
void usage_feed(struct usage *u, const char *p, size_t n);

/* What has been told so far; what has not is 0, and its bit not set. */
struct usage_figures {
    uint32_t told;          /* bits; 0 = no figure at all */
    const char *model;      /* as the backend named it first, within struct usage; "" = it did not */
    uint64_t input;         /* tokens of the whole prompt, also where a backend counts those of its cache apart */
    uint64_t output;        /* tokens generated, reasoning included */
    uint64_t total;         /* as told, else the sum */
    uint64_t cached;        /* of the input: those that came from a cache */
    uint64_t cache_written; /* of the input: those that Anthropic's API put into one */
    uint64_t reasoning;     /* of the output */
    uint64_t prompt_us;     /* time for the prompt */
    uint64_t generation_us; /* time for the output */
    uint64_t rate;          /* thousandths of tokens per second of generation: as told, else output by time */
};

struct usage_figures usage_figures(const struct usage *u);

#endif
