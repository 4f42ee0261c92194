/*
 * model.h - level 4: the catalogue: which endpoint serves which model.
 *
 * One entry per exact spelling, kept sorted by name without regard to case,
 * so that listings are stable and all spellings of a name are neighbours.
 *
 * An endpoint's list is replaced as a whole: model_list_begin, model_offer
 * for each entry, model_list_end. Until the end the old list is in force, so
 * a list that breaks off half-way changes nothing.
 *
 * May include: olla.h, str.h, pool.h, log.h, endpoint.h.
 */
#ifndef OLLA_MODEL_H
#define OLLA_MODEL_H

#include "endpoint.h"

/* What a backend tells about a model. Empty strings and zeros: not told. */
struct model_facts {
    char name[OLLA_MODEL_NAME];
    uint64_t size;    /* bytes on disk */
    uint32_t context; /* tokens */
    char digest[72];
    char modified[40]; /* RFC 3339 */
    char family[32];
    char parameters[16]; /* "3.2B" */
    char quantization[16];
    char format[12];
};

struct model {
    struct model_facts facts; /* of the endpoint that told first */
    endpoint_set serves;
    endpoint_set coming; /* seen in a list that is being read */
    struct model *news;  /* what the only endpoint that serves it tells now, in force when its list is complete */
};

void model_init(void);

void model_list_begin(const struct endpoint *e);
/* false: the catalogue is full (logged once per list by the caller). */
bool model_offer(const struct endpoint *e, const struct model_facts *facts);
/* ok: the list was read to its end and replaces the old one. Returns the number of models of e. */
unsigned model_list_end(const struct endpoint *e, bool ok);

/* Forgets everything about an endpoint slot. */
void model_forget(const struct endpoint *e);

/*
 * Who serves a name: endpoints with exactly this spelling; if none of `usable` has it, all spellings that
 * differ in case only, then, on endpoints of Ollama's kind, the name with ":latest". *known is set to all
 * endpoints that have the name in any of these ways. The result is a subset of usable.
 */
endpoint_set model_find(struct str name, endpoint_set usable, endpoint_set *known);

/* The spelling that endpoint e uses for that name, NULL if it does not serve it. Lives until e's next list. */
const char *model_spelling(struct str name, const struct endpoint *e);

/* The entry that stands for a name on these endpoints: exact, other case, or with ":latest". NULL if there is none. */
const struct model *model_named(struct str name, endpoint_set usable);

/* Entries in name order: the first one after `name` ("" = from the start) that one of `usable` serves, or NULL. */
const struct model *model_after(const char *name, endpoint_set usable);
size_t model_count(void);

/* Adds up to three names that look like `name`, comma-separated, to t. Returns how many. */
int model_near(struct str name, struct text *t);

#endif
