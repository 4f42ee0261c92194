/*
 * catalogue.h - level 4: what belongs together in the store of models.
 *
 * Two views. By name: all spellings of a name are one, which is what flat
 * lists show and what requests say. By entry: names that differ only in case
 * are one unless their digests say otherwise, and names with the same digest
 * are one; an entry has an id, other names (aliases) and sources.
 *
 * The spelling shown is that of the endpoint that stands first in the
 * configuration, whether it is up or not, so that nothing shown depends on the
 * order of events. Entries are found anew after each change of the store.
 *
 * May include: olla.h, str.h, endpoint.h, model.h.
 */
#ifndef OLLA_CATALOGUE_H
#define OLLA_CATALOGUE_H

#include "model.h"

/* Finds what belongs together, if the store has changed since the last time; model->head and the like are valid then. */
void catalogue_settle(void);

/*
 * The next name behind `name` ("" = the first) that one of `usable` serves: the entry of the store that shows it,
 * chosen among those of `scope`, of which usable is a part. NULL at the end.
 */
const struct model *catalogue_name_after(const char *name, endpoint_set scope, endpoint_set usable);

/* The entry of the store that shows the name of m, as above. */
const struct model *catalogue_shown(const struct model *m, endpoint_set scope);

/* A place among the entries; zero-filled: before all. */
struct model_mark {
    char name[OLLA_MODEL_NAME];
    uint32_t serial;
    int rank;
};

/* Marks an entry. */
void catalogue_mark(struct model_mark *mark, const struct model *m);

/* The next entry behind the mark that one of `usable` serves. Its members: head->members, then ->next. */
const struct model *catalogue_entry_after(const struct model_mark *mark, endpoint_set usable);

/* Who serves any member of an entry. */
endpoint_set catalogue_serves(const struct model *head);

/* Adds the entry's id: its name, or where an entry with the same name comes first, name-DIGEST with its last 8 digits. */
void catalogue_id(const struct model *head, struct text *t);

/* The entry with that id or name, any case, with or without ":latest"; NULL if there is none. */
const struct model *catalogue_find(struct str id);

/*
 * Families by place, in the order of the names of their first models, the unknown one ("") last; only such that have
 * models that are served. *no is what model->family_no is compared with. NULL: no more.
 */
const char *catalogue_family(unsigned place, unsigned *no);

#endif
