/*
 * catalogue.c - level 4: see catalogue.h.
 *
 * Entries are found in one pass over the store, which is sorted by name, with
 * a hash table for the digests: O(n), a few hundred microseconds for 1,000
 * models, once after each change and not before somebody asks.
 *
 * May include: olla.h, str.h, endpoint.h, model.h, catalogue.h.
 */
#include "catalogue.h"

#include <string.h>

#define SLOTS         (2 * OLLA_MAX_MODELS + 1)
#define SUFFIX_DIGITS 8

static struct model *by_digest[SLOTS];
static const struct model *by_family[SLOTS];
static const char *families[OLLA_MAX_MODELS]; /* by number */
static unsigned family_count;
static uint32_t settled; /* the version of the store that all of this is made from */

static bool same_name(const struct model *a, const struct model *b)
{
    return str_ieq(str_of(a->facts.name), str_of(b->facts.name));
}

/* ---- entries ---------------------------------------------------------------------- */

static void join(struct model *leader, struct model *m)
{
    struct model *last = leader;
    m->head = leader;
    m->next = NULL;
    if (m == leader) {
        m->members = m;
        return;
    }
    while (last->next) {
        last = last->next;
    }
    last->next = m;
}

/* The first model with that digest: perhaps m itself. */
static struct model *leader_of(struct model *m)
{
    size_t at = str_hash(str_of(m->facts.digest)) % SLOTS;
    while (by_digest[at] && strcmp(by_digest[at]->facts.digest, m->facts.digest) != 0) {
        at = (at + 1) % SLOTS;
    }
    if (!by_digest[at]) {
        by_digest[at] = m;
    }
    return by_digest[at];
}

/* Joins [from, to), all spellings of one name: by digest, and those without one with the first. */
static void join_run(size_t from, size_t to)
{
    struct model *plain = NULL;
    for (size_t i = from; i < to; i++) {
        struct model *m = model_at(i);
        if (m->now.serves == 0) { /* in a list that is being read: nobody's, until that is complete */
            m->head = m->members = m;
            m->next = NULL;
        } else if (m->facts.digest[0]) {
            struct model *leader = leader_of(m);
            join(leader, m);
            plain = plain ? plain : leader;
        }
    }
    for (size_t i = from; i < to; i++) {
        struct model *m = model_at(i);
        if (m->now.serves && !m->facts.digest[0]) {
            plain = plain ? plain : m;
            join(plain, m);
        }
    }
}

/* The best member stands for all. */
static void choose_head(struct model *leader)
{
    struct model *best = leader;
    int best_rank = model_rank(leader, ~(endpoint_set)0);
    for (struct model *m = leader->next; m; m = m->next) {
        int r = model_rank(m, ~(endpoint_set)0);
        int order = model_compare(str_of(m->facts.name), str_of(best->facts.name), false);
        if (r < best_rank || (r == best_rank && order < 0)) {
            best = m;
            best_rank = r;
        }
    }
    for (struct model *m = leader; m; m = m->next) {
        m->head = best;
    }
    best->members = leader;
}

static void find_entries(void)
{
    memset(by_digest, 0, sizeof(by_digest));
    for (size_t from = 0, to; from < model_count(); from = to) {
        for (to = from + 1; to < model_count() && same_name(model_at(from), model_at(to)); to++) {
        }
        join_run(from, to);
    }
    for (size_t i = 0; i < model_count(); i++) {
        struct model *m = model_at(i);
        if (m->head == m && m->members == m) {
            choose_head(m);
        }
    }
}

static void find_families(void)
{
    memset(by_family, 0, sizeof(by_family));
    family_count = 0;
    for (size_t i = 0; i < model_count(); i++) {
        struct model *m = model_at(i);
        const char *name = m->facts.family;
        if (!m->now.serves) {
            continue;
        }
        size_t at = str_hash(str_of(name)) % SLOTS;
        while (by_family[at] && strcmp(by_family[at]->facts.family, name) != 0) {
            at = (at + 1) % SLOTS;
        }
        if (!by_family[at]) {
            by_family[at] = m;
            families[family_count] = name;
            m->family_no = (uint16_t)family_count++;
        }
        m->family_no = by_family[at]->family_no;
    }
}

void catalogue_settle(void)
{
    uint32_t wanted = model_version() + 1; /* 0 = never */
    if (settled != wanted) {
        find_entries();
        find_families();
        settled = wanted;
    }
}

const char *catalogue_family(unsigned place, unsigned *no)
{
    unsigned n = 0, unknown = family_count;

    catalogue_settle();
    for (unsigned i = 0; i < family_count; i++) {
        if (families[i][0] == '\0') {
            unknown = i;
        } else if (n++ == place) {
            *no = i;
            return families[i];
        }
    }
    *no = unknown;
    return n == place && unknown < family_count ? "" : NULL;
}

/* ---- views -------------------------------------------------------------------------- */

/* The entry that shows a run of spellings; *to is its end, *served who of usable serves any of them. */
static const struct model *shown_of_run(size_t i, endpoint_set scope, endpoint_set usable, size_t *to,
                                        endpoint_set *served)
{
    const struct model *best = NULL;
    *served = 0;
    for (*to = i; *to < model_count() && same_name(model_at(i), model_at(*to)); (*to)++) {
        const struct model *m = model_at(*to);
        *served |= m->now.serves & usable;
        if ((m->now.serves & scope) && (!best || model_rank(m, scope) < model_rank(best, scope))) {
            best = m;
        }
    }
    return best;
}

const struct model *catalogue_shown(const struct model *m, endpoint_set scope)
{
    size_t to;
    endpoint_set served;
    return shown_of_run(model_index(str_of(m->facts.name), true), scope, scope, &to, &served);
}

const struct model *catalogue_name_after(const char *name, endpoint_set scope, endpoint_set usable)
{
    struct str last = str_of(name);
    size_t i = last.n > 0 ? model_index(last, true) : 0, to;
    endpoint_set served;

    while (i < model_count() && last.n > 0 && str_ieq(str_of(model_at(i)->facts.name), last)) {
        i++;
    }
    for (; i < model_count(); i = to) {
        const struct model *m = shown_of_run(i, scope, usable, &to, &served);
        if (served) {
            return m;
        }
    }
    return NULL;
}

endpoint_set catalogue_serves(const struct model *head)
{
    endpoint_set all = 0;
    for (const struct model *m = head->members; m; m = m->next) {
        all |= m->now.serves;
    }
    return all;
}

/* True if a comes before b among entries with the same name. */
static bool before(const struct model *a, const struct model *b)
{
    int ra = model_rank(a, ~(endpoint_set)0), rb = model_rank(b, ~(endpoint_set)0);
    return ra != rb ? ra < rb : a->serial < b->serial;
}

/* True if m comes behind the mark among entries with the same name; the marked one may be gone. */
static bool is_behind(const struct model *m, const struct model_mark *mark)
{
    int rank = model_rank(m, ~(endpoint_set)0);
    return rank != mark->rank ? rank > mark->rank : m->serial > mark->serial;
}

void catalogue_mark(struct model_mark *mark, const struct model *m)
{
    memcpy(mark->name, m->facts.name, sizeof(mark->name));
    mark->serial = m->serial;
    mark->rank = model_rank(m, ~(endpoint_set)0);
}

const struct model *catalogue_entry_after(const struct model_mark *mark, endpoint_set usable)
{
    struct str name = str_of(mark->name);
    size_t i = name.n > 0 ? model_index(name, true) : 0;
    const struct model *m, *best;

    catalogue_settle();
    while (model_at(i)) {
        const struct model *first = model_at(i);
        bool same = name.n > 0 && str_ieq(str_of(first->facts.name), name); /* the run of the mark itself */
        for (best = NULL; (m = model_at(i)) != NULL && same_name(m, first); i++) {
            if (m->head == m && (catalogue_serves(m) & usable) && (!same || is_behind(m, mark)) &&
                (!best || before(m, best))) {
                best = m;
            }
        }
        if (best) {
            return best;
        }
    }
    return NULL;
}

/* Another entry has the plain name. */
static bool needs_suffix(const struct model *head)
{
    const struct model *m;
    for (size_t i = model_index(str_of(head->facts.name), true); (m = model_at(i)) != NULL && same_name(m, head); i++) {
        if (m->now.serves && m->head == m && m != head && before(m, head)) {
            return true;
        }
    }
    return false;
}

void catalogue_id(const struct model *head, struct text *t)
{
    catalogue_settle();
    text_addz(t, head->facts.name);
    if (needs_suffix(head)) {
        const struct model *m = head->members; /* the head itself need not have told one */
        while (m && m->facts.digest[0] == '\0') {
            m = m->next;
        }
        struct str digest = str_of(m ? m->facts.digest : "");
        text_char(t, '-');
        text_add(t, digest.n > SUFFIX_DIGITS ? str_skip(digest, digest.n - SUFFIX_DIGITS) : digest);
    }
}

/* The best entry that has a member of that name. */
static const struct model *find_name(struct str name)
{
    const struct model *best = NULL, *m;
    for (size_t i = model_index(name, true); (m = model_at(i)) != NULL && str_ieq(str_of(m->facts.name), name); i++) {
        if (m->now.serves && m->head == m && !needs_suffix(m)) {
            return m; /* an id is more than a name */
        }
    }
    for (size_t i = model_index(name, true); (m = model_at(i)) != NULL && str_ieq(str_of(m->facts.name), name); i++) {
        if (m->now.serves && (!best || (m->head != best && before(m, best)))) {
            best = m->head;
        }
    }
    return best;
}

/* The entry whose id has a suffix. */
static const struct model *find_suffixed(struct str id)
{
    char mem[OLLA_MODEL_NAME + SUFFIX_DIGITS + 1];
    const struct model *m;

    /* A digest may be shorter, and hold a '-' itself. */
    for (size_t dash = id.n; dash > 0 && id.n - dash <= SUFFIX_DIGITS; dash--) {
        struct str name = {id.p, dash - 1};
        if (id.p[dash - 1] != '-') {
            continue;
        }
        for (size_t i = model_index(name, true); (m = model_at(i)) && str_ieq(str_of(m->facts.name), name); i++) {
            struct text t = text_in(mem, sizeof(mem));
            if (m->head != m || !m->now.serves) {
                continue;
            }
            catalogue_id(m, &t);
            if (!t.full && str_ieq(text_str(&t), id)) {
                return m;
            }
        }
    }
    return NULL;
}

const struct model *catalogue_find(struct str id)
{
    char mem[OLLA_MODEL_NAME + 8];
    struct text t = text_in(mem, sizeof(mem));
    const struct model *found;

    catalogue_settle();
    found = find_name(id);
    found = found ? found : find_suffixed(id);
    if (!found && str_find(id, ':') == id.n) {
        text_add(&t, id);
        text_addz(&t, ":latest");
        found = t.full ? NULL : find_name(text_str(&t));
    }
    if (!found) { /* a name that is a path: a URL cannot hold its first slash */
        t = text_in(mem, sizeof(mem));
        text_char(&t, '/');
        text_add(&t, id);
        found = t.full ? NULL : find_name(text_str(&t));
    }
    return found;
}
