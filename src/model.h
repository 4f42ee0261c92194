/*
 * model.h - level 4: the catalogue: which endpoint serves which model.
 *
 * One entry per exact spelling and digest, kept sorted by name without regard
 * to case, so that listings are stable and all spellings of a name are
 * neighbours. What belongs together is catalogue.c's business.
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

enum model_kind { KIND_UNKNOWN = 0, KIND_LLM, KIND_VLM, KIND_EMBEDDINGS };

/* What a backend tells about a model. Empty strings and zeros: not told. No padding: facts are compared as bytes. */
struct model_facts {
    char name[OLLA_MODEL_NAME];
    char digest[72];
    char modified[40]; /* RFC 3339 */
    uint64_t created;  /* Unix seconds */
    uint64_t size;     /* bytes on disk */
    uint64_t weights;  /* number of parameters */
    uint32_t context;  /* tokens */
    uint32_t said;     /* CAP_* of traits.h that the server told */
    enum model_kind kind;
    char record[24]; /* "type" of the status page */
    char family[32], variant[32];
    uint32_t guessed;    /* these two, by the name */
    char families[32];   /* with commas between them */
    char parameters[16]; /* "3.2B" */
    char quantization[24];
    char format[16];
    char publisher[40];
    char checkpoint[80], recipe[24]; /* Lemonade's */
};

/* Fills in what *to does not tell. */
void model_add_facts(struct model_facts *to, const struct model_facts *from);

/* What an endpoint says about its copy. */
enum model_state { MODEL_UNKNOWN = 0, MODEL_AVAILABLE, MODEL_NOT_LOADED, MODEL_LOADED };

/* Where a model is: endpoints, and two bits of state for each of them. */
struct model_where {
    endpoint_set serves, state_low, state_high;
};

struct model {
    struct model_facts facts; /* of all endpoints that serve it */
    struct model_where now;
    struct model_where coming; /* in a list that is being read */
    struct model *news;        /* facts that are in force when the list that tells them is complete */
    endpoint_set news_of;      /* whose list that is */
    uint32_t serial;           /* of the digest; entries with one name are in this order */
    /* catalogue.c's: the entry that stands for all that belong together, the first of them, the next of them */
    struct model *head, *members, *next;
    uint16_t family_no;
};

void model_init(void);

void model_list_begin(const struct endpoint *e);
/* false: the catalogue is full (logged once per list by the caller). All of *facts is compared: zero-fill it first. */
bool model_offer(const struct endpoint *e, const struct model_facts *facts, enum model_state state);
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

/*
 * The entry that stands for a name on these endpoints: exact, other case, or with ":latest"; of several the one whose
 * endpoint stands first in the configuration. NULL if there is none.
 */
const struct model *model_named(struct str name, endpoint_set usable);

/* All entries in name order: i from 0 while the result is not NULL. Any list that ends may change the order. */
struct model *model_at(size_t i);
size_t model_count(void);
uint32_t model_version(void); /* another one after each change */
void model_touch(void);       /* says that something changed which the order of names does not show: endpoints' order */

/* The number of the first entry whose name is not before `name`; fold: without regard to case. */
size_t model_index(struct str name, bool fold);
/* Names compared in that order: < 0, 0, > 0. */
int model_compare(struct str a, struct str b, bool fold);

/* Place in the configuration of the first endpoint of scope that serves it; endpoint_count() if none does. */
int model_rank(const struct model *m, endpoint_set scope);

/* The list of e is about to end, and this is known of all in it: of a server with one model. */
void model_improve(const struct endpoint *e, uint32_t context, unsigned said, enum model_kind kind);

/* names: those that e has loaded now, each in a line; the others are in state `others`. */
void model_set_loaded(const struct endpoint *e, struct str names, enum model_state others);

/* What e says about its copy of m. */
enum model_state model_state_at(const struct model *m, const struct endpoint *e);
const char *model_state_name(enum model_state state); /* "loaded", ... */

/* Adds up to three names that look like `name`, comma-separated, to t. Returns how many. */
int model_near(struct str name, struct text *t);

#endif
