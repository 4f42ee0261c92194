/*
 * json_walk.h - level 2: reading parts of a JSON document of any size where
 * it is kept, in constant memory and without recursion.
 *
 * The document must be JSON: json_check has said so. What these functions
 * meet that does not fit is absent, never an error; only reading can fail.
 *
 * May include: olla.h, str.h, json.h.
 */
#ifndef OLLA_JSON_WALK_H
#define OLLA_JSON_WALK_H

#include "json.h"

/* Where a document is kept. */
struct json_source {
    /* The bytes from `at` on that are at hand in one piece, at least one; good until the next call. p == NULL: failed. */
    struct str (*at)(const void *of, uint64_t at);
    const void *of;
    bool *failed; /* is set when reading failed; then what was found means nothing */
};

/* The members of an object under keys (ends with NULL), the last one of each; others and all of no object: kind 0. */
void json_collect(const struct json_source *s, struct json_value object, const char *const *keys,
                  struct json_value *found);

/* The next element of an array. *at: json_first(array) at first. false: there is none. */
uint64_t json_first(struct json_value array);
bool json_next(const struct json_source *s, uint64_t *at, struct json_value *element);

/* Both in one pass: the next element, and its members if it is an object. */
bool json_next_object(const struct json_source *s, uint64_t *at, struct json_value *element, const char *const *keys,
                      struct json_value *found);

/* A string, unescaped, into to[cap]. false (and ""): it is none, or does not fit. */
bool json_read(const struct json_source *s, struct json_value v, char *to, size_t cap);

/* What a string holds, without its quotes, as it is written; nothing of another value. */
struct json_value json_inner(struct json_value v);

/* A whole number below 2^32; 0: it is none. */
uint64_t json_read_number(const struct json_source *s, struct json_value v);

/* Bytes of a string when it is unescaped; of a value written without blanks and with < > & as \u003c. */
uint64_t json_read_length(const struct json_source *s, struct json_value v);
uint64_t json_compact_length(const struct json_source *s, struct json_value v);

/* The bytes [from, to) of the document into to[cap], as many as fit; returns how many. For short texts. */
size_t json_copy(const struct json_source *s, uint64_t from, uint64_t to, char *bytes, size_t cap);

#endif
