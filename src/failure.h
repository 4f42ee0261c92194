/*
 * failure.h - level 2: what a server says that went wrong, in whichever of the
 * many forms: {"error":{"message":...}}, {"error":...}, {"message"|"detail":...}, a text.
 *
 * May include: olla.h, str.h, json.h, json_walk.h.
 */
#ifndef OLLA_FAILURE_H
#define OLLA_FAILURE_H

#include "json_walk.h"

#define FAILURE_MESSAGE 512

struct failure {
    int status;    /* that it named, 0 = none */
    bool too_long; /* the prompt, for its context */
    char message[FAILURE_MESSAGE];
};

/* Of a JSON object that json_check found good; nothing that can be told: message is "". */
void failure_read(const struct json_source *doc, struct failure *f);

/* Of the n bytes of any reply; is_json: as above. A page for people says nothing. */
void failure_in_words(const struct json_source *doc, uint64_t n, bool is_json, struct failure *f);

/* Makes the words that clients of the Anthropic API wait for of one that says that the prompt is too long. */
void failure_name_overflow(struct failure *f);

#endif
