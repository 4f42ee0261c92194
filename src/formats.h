/*
 * formats.h - level 7: how one model is written in each of the formats that
 * clients ask for: one row of one table for each.
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_FORMATS_H
#define OLLA_FORMATS_H

#include "catalogue.h"
#include "gate.h"
#include "route.h"

/* What is to be written: the facts of all that belong together, under one name. */
struct shown {
    const char *name;             /* as it is listed: a spelling, an alias, or an entry's id */
    const struct model *m;        /* that it stands for */
    endpoint_set scope;           /* endpoints whose word counts */
    struct model_facts facts;     /* of m, and where it says nothing, of the others */
    const char *alias;            /* the configured alias that it is listed under, or NULL */
    const struct gate_pass *pass; /* whose names are shown; NULL = all */
};

/* Fills s for a model and all that belong to it. */
void formats_show(struct shown *s, const struct model *m, const char *name, endpoint_set scope);

struct format {
    const char *name; /* in ?format=, NULL = not there */
    const char *open, *close;
    unsigned apis;     /* of the endpoints whose models are in it */
    const char *type;  /* only those that an endpoint of this type has; NULL = all */
    const char *owner; /* owned_by where the name tells none */
    void (*write)(struct text *t, const struct shown *s, const char *owner);
};

const struct format *formats_get(enum listing listing);

/* The format with that name in a query, or LISTING_COUNT. */
enum listing formats_find(struct str name);
void formats_names(struct text *t); /* all of them, for an error message */

/* One entry with all that is known, for /olla/models/NAME. */
void formats_write_entry(struct text *t, const struct shown *s);

/* CAP_* of traits.h: what the names and the servers say of all that belong to it. */
unsigned formats_abilities(const struct shown *s);

/* True if some source says that it is loaded. */
bool formats_loaded(const struct shown *s);
bool formats_is_kind(const struct shown *s, enum model_kind kind);

/* "a","b": the names that belong to it, its own first; at most a screenful. */
void formats_aliases(struct text *t, const struct shown *s);
void formats_capabilities(struct text *t, unsigned caps);
void formats_string(struct text *t, struct str s, bool first); /* an element of an array of strings */

#endif
