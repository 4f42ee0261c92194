/*
 * model.c - level 4: see model.h.
 *
 * May include: olla.h, str.h, pool.h, log.h, endpoint.h, model.h.
 */
#include "model.h"

#include <string.h>

#include "pool.h"

POOL_STORAGE(MODEL, struct model, model_pool)

static struct model *sorted[OLLA_MAX_MODELS];
static size_t total;
static uint32_t version;

void model_init(void)
{
    model_pool();
}

size_t model_count(void)
{
    return total;
}

void model_touch(void)
{
    version++;
}

uint32_t model_version(void)
{
    return version;
}

struct model *model_at(size_t i)
{
    return i < total ? sorted[i] : NULL;
}

const char *model_state_name(enum model_state state)
{
    static const char *const names[] = {"unknown", "available", "not-loaded", "loaded"};
    return names[state];
}

enum model_state model_state_at(const struct model *m, const struct endpoint *e)
{
    return (enum model_state)(((m->now.state_low & endpoint_bit(e)) != 0) +
                              2 * ((m->now.state_high & endpoint_bit(e)) != 0));
}

static struct str name_of(size_t i)
{
    return str_of(sorted[i]->facts.name);
}

/* Without regard to case, then exact; `fold` compares without the second step. */
int model_compare(struct str a, struct str b, bool fold)
{
    size_t n = a.n < b.n ? a.n : b.n, i = 0;
    while (n - i >= 8 && memcmp(a.p + i, b.p + i, 8) == 0) {
        i += 8;
    }
    for (; i < n; i++) {
        int d = (unsigned char)str_lower(a.p[i]) - (unsigned char)str_lower(b.p[i]);
        if (d != 0) {
            return d;
        }
    }
    if (a.n != b.n) {
        return a.n < b.n ? -1 : 1;
    }
    return fold || n == 0 ? 0 : memcmp(a.p, b.p, n);
}

size_t model_index(struct str name, bool fold)
{
    size_t from = 0, to = total;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (model_compare(name_of(mid), name, fold) < 0) {
            from = mid + 1;
        } else {
            to = mid;
        }
    }
    return from;
}

/* ---- facts ------------------------------------------------------------------------ */

static void fill(char *to, size_t cap, const char *from)
{
    if (!to[0]) {
        str_copy(to, cap, str_of(from));
    }
}

#define FILL(to, from) fill(to, sizeof(to), from)

void model_add_facts(struct model_facts *to, const struct model_facts *from)
{
    if (from->family[0] && (!to->family[0] || (to->guessed && !from->guessed))) {
        memcpy(to->family, from->family, sizeof(to->family));
        memcpy(to->variant, from->variant, sizeof(to->variant));
        to->guessed = from->guessed;
    }
    FILL(to->families, from->families);
    FILL(to->parameters, from->parameters);
    FILL(to->quantization, from->quantization);
    FILL(to->format, from->format);
    FILL(to->publisher, from->publisher);
    FILL(to->checkpoint, from->checkpoint);
    FILL(to->recipe, from->recipe);
    FILL(to->digest, from->digest);
    FILL(to->modified, from->modified);
    to->created = to->created > 0 ? to->created : from->created;
    to->weights = to->weights > 0 ? to->weights : from->weights;
    to->context = to->context > 0 ? to->context : from->context;
    to->size = to->size > 0 ? to->size : from->size;
    to->kind = to->kind != KIND_UNKNOWN ? to->kind : from->kind;
    to->said |= from->said;
}

/* ---- lists ------------------------------------------------------------------------ */

/* Takes the endpoints of `set` out of *to and those of *from in. */
static void replace(struct model_where *to, const struct model_where *from, endpoint_set set)
{
    to->serves = (to->serves & ~set) | (from->serves & set);
    to->state_low = (to->state_low & ~set) | (from->state_low & set);
    to->state_high = (to->state_high & ~set) | (from->state_high & set);
}

static const struct model_where nowhere;

void model_list_begin(const struct endpoint *e)
{
    for (size_t i = 0; i < total; i++) {
        replace(&sorted[i]->coming, &nowhere, endpoint_bit(e));
    }
}

/*
 * What is known of m once e has told its facts: those alone if nobody else serves it; else each endpoint fills in what
 * the others do not tell, and the one that stands first in the configuration wins.
 */
static const struct model_facts *joined_facts(const struct model *m, const struct endpoint *e,
                                              const struct model_facts *facts)
{
    static struct model_facts joined;
    const struct model_facts *known = m->news && m->news_of == endpoint_bit(e) ? &m->news->facts : &m->facts;
    endpoint_set others = (m->now.serves | m->coming.serves) & ~endpoint_bit(e);
    const struct endpoint *other;
    bool first = true;

    if (others == 0) {
        return facts;
    }
    for (int i = 0; (other = endpoint_at(i)) != NULL && other != e && first; i++) {
        first = !(others & endpoint_bit(other));
    }
    joined = first ? *facts : *known;
    model_add_facts(&joined, first ? known : facts);
    return &joined;
}

static void take_news(struct model *m, bool ok)
{
    if (m->news && ok) {
        m->facts = m->news->facts;
    }
    pool_put(POOL_MODEL, m->news);
    m->news = NULL;
}

/* Room for a new entry: news that others have told have to go before a model is left out. */
static struct model *get_model(void)
{
    for (size_t i = 0; i < total && pool_free_count(POOL_MODEL) == 0; i++) {
        take_news(sorted[i], false);
    }
    return pool_get(POOL_MODEL);
}

bool model_offer(const struct endpoint *e, const struct model_facts *facts, enum model_state state)
{
    struct str name = {facts->name, strlen(facts->name)}, digest = {facts->digest, strlen(facts->digest)};
    struct model_where here = {endpoint_bit(e), state & 1 ? endpoint_bit(e) : 0, state & 2 ? endpoint_bit(e) : 0};
    size_t at = model_index(name, false);

    uint32_t serial = str_hash(digest);
    while (at < total && str_eq(name_of(at), name) &&
           (sorted[at]->serial < serial ||
            (sorted[at]->serial == serial && strcmp(sorted[at]->facts.digest, facts->digest) < 0))) {
        at++;
    }
    if (at < total && str_eq(name_of(at), name) && strcmp(sorted[at]->facts.digest, facts->digest) == 0) {
        struct model *m = sorted[at];
        const struct model_facts *told = joined_facts(m, e, facts);
        bool differs = memcmp(&m->facts, told, sizeof(*told)) != 0;
        if (differs && !m->news) {
            m->news = pool_get(POOL_MODEL); /* without one the old facts stay: no harm */
            m->news_of = here.serves;
        }
        if (differs && m->news && m->news_of == here.serves) {
            m->news->facts = *told;
        }
        replace(&m->coming, &here, endpoint_bit(e));
        return true;
    }
    struct model *m = get_model();
    if (!m) {
        return false;
    }
    m->facts = *facts;
    m->coming = here;
    m->serial = serial;
    memmove(&sorted[at + 1], &sorted[at], (total - at) * sizeof(sorted[0]));
    sorted[at] = m;
    total++;
    version++;
    return true;
}

void model_improve(const struct endpoint *e, uint32_t context, unsigned said, enum model_kind kind)
{
    for (size_t i = 0; i < total; i++) {
        struct model *m = sorted[i];
        if (!(m->coming.serves & endpoint_bit(e))) {
            continue;
        }
        if (!m->news && (m->news = pool_get(POOL_MODEL)) != NULL) {
            m->news->facts = m->facts;
            m->news_of = endpoint_bit(e);
        }
        if (m->news && m->news_of == endpoint_bit(e)) {
            m->news->facts.context = context > 0 ? context : m->news->facts.context;
            m->news->facts.said |= said;
            m->news->facts.kind = kind != KIND_UNKNOWN ? kind : m->news->facts.kind;
        }
    }
}

void model_set_loaded(const struct endpoint *e, struct str names, enum model_state others)
{
    for (size_t i = 0; i < total; i++) {
        bool loaded = false;
        if (!(sorted[i]->now.serves & endpoint_bit(e))) {
            continue;
        }
        for (struct str rest = names; rest.p && !loaded;) {
            loaded = str_ieq(str_split(&rest, '\n'), name_of(i));
        }
        enum model_state state = loaded ? MODEL_LOADED : others;
        struct model_where here = {endpoint_bit(e), state & 1 ? endpoint_bit(e) : 0, state & 2 ? endpoint_bit(e) : 0};
        replace(&sorted[i]->now, &here, endpoint_bit(e));
    }
}

static void sweep(void)
{
    size_t keep = 0;
    for (size_t i = 0; i < total; i++) {
        if (sorted[i]->now.serves == 0 && sorted[i]->coming.serves == 0) {
            take_news(sorted[i], false);
            pool_put(POOL_MODEL, sorted[i]);
        } else {
            sorted[keep++] = sorted[i];
        }
    }
    total = keep;
    version++;
}

unsigned model_list_end(const struct endpoint *e, bool ok)
{
    unsigned n = 0;
    for (size_t i = 0; i < total; i++) {
        struct model *m = sorted[i];
        if (m->news && m->news_of == endpoint_bit(e)) {
            take_news(m, ok);
        }
        if (ok) {
            replace(&m->now, &m->coming, endpoint_bit(e));
        }
        replace(&m->coming, &nowhere, endpoint_bit(e));
        n += (m->now.serves & endpoint_bit(e)) != 0;
    }
    sweep();
    return n;
}

void model_forget(const struct endpoint *e)
{
    for (size_t i = 0; i < total; i++) {
        replace(&sorted[i]->now, &nowhere, endpoint_bit(e));
        replace(&sorted[i]->coming, &nowhere, endpoint_bit(e));
    }
    sweep();
}

/* ---- look-up ----------------------------------------------------------------------- */

/* All endpoints that have the name in any case; *exact those with this very spelling. */
static endpoint_set serving(struct str name, endpoint_set *exact)
{
    endpoint_set any = 0;
    *exact = 0;
    for (size_t i = model_index(name, true); i < total && model_compare(name_of(i), name, true) == 0; i++) {
        any |= sorted[i]->now.serves;
        *exact |= str_eq(name_of(i), name) ? sorted[i]->now.serves : 0;
    }
    return any;
}

static endpoint_set ollama_kind(void)
{
    endpoint_set all = 0;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (e->profile->apis & API_OLLAMA) {
            all |= endpoint_bit(e);
        }
    }
    return all;
}

/* Ollama means NAME:latest when it is asked for NAME. "" if the name has a tag. */
static struct str with_latest(struct str name, char *mem, size_t cap)
{
    struct text t = text_in(mem, cap);
    text_add(&t, name);
    text_addz(&t, ":latest");
    return str_find(name, ':') < name.n || t.full ? STR("") : text_str(&t);
}

endpoint_set model_find(struct str name, endpoint_set usable, endpoint_set *known)
{
    char mem[OLLA_MODEL_NAME + 8];
    endpoint_set exact, any = serving(name, &exact), tagged = ollama_kind(), unused;
    struct str latest = tagged ? with_latest(name, mem, sizeof(mem)) : STR("");

    tagged = latest.n > 0 ? tagged & serving(latest, &unused) : 0;
    *known = any | tagged;
    exact &= usable;
    return exact ? exact : *known & usable;
}

const char *model_spelling(struct str name, const struct endpoint *e)
{
    char mem[OLLA_MODEL_NAME + 8];
    struct str tagged = e->profile->apis & API_OLLAMA ? with_latest(name, mem, sizeof(mem)) : STR("");
    struct str tries[2] = {name, tagged};
    const char *found = NULL;

    for (int t = 0; t < 2 && !found; t++) {
        if (tries[t].n == 0) {
            continue;
        }
        for (size_t i = model_index(tries[t], true); i < total && model_compare(name_of(i), tries[t], true) == 0; i++) {
            if (sorted[i]->now.serves & endpoint_bit(e)) {
                if (str_eq(name_of(i), tries[t])) {
                    return sorted[i]->facts.name;
                }
                found = sorted[i]->facts.name;
            }
        }
    }
    return found;
}

int model_rank(const struct model *m, endpoint_set scope)
{
    struct endpoint *e;
    int i = 0;
    while ((e = endpoint_at(i)) != NULL && !(m->now.serves & scope & endpoint_bit(e))) {
        i++;
    }
    return i;
}

/* The best entry of one name on these endpoints. */
static const struct model *best_named(struct str name, endpoint_set usable)
{
    const struct model *best = NULL;
    bool best_exact = false;

    for (size_t i = model_index(name, true); i < total && model_compare(name_of(i), name, true) == 0; i++) {
        bool exact = str_eq(name_of(i), name);
        if (!(sorted[i]->now.serves & usable) || (best_exact && !exact)) {
            continue;
        }
        if (!best || exact > best_exact || model_rank(sorted[i], usable) < model_rank(best, usable)) {
            best = sorted[i];
            best_exact = exact;
        }
    }
    return best;
}

const struct model *model_named(struct str name, endpoint_set usable)
{
    char mem[OLLA_MODEL_NAME + 8];
    const struct model *m = best_named(name, usable);
    struct str latest = m ? STR("") : with_latest(name, mem, sizeof(mem));

    return latest.n > 0 ? best_named(latest, usable) : m;
}

/* ---- near names -------------------------------------------------------------------- */

#define LIKENESS_MAX    32
#define LIKENESS_SHIFTS 12

/* How much two names look alike: the longest run of equal letters, a shared beginning counts double. */
static size_t likeness(struct str a, struct str b)
{
    size_t best = 0, start = 0;
    /* Bounded, because a flood of unknown names must not cost more than other errors. */
    a.n = a.n < LIKENESS_MAX ? a.n : LIKENESS_MAX;
    b.n = b.n < LIKENESS_MAX ? b.n : LIKENESS_MAX;
    while (start < a.n && start < b.n && str_lower(a.p[start]) == str_lower(b.p[start])) {
        start++;
    }
    for (size_t shift = 0; shift < b.n && shift < LIKENESS_SHIFTS; shift++) {
        size_t run = 0;
        for (size_t i = 0; i < a.n && i + shift < b.n; i++) {
            run = str_lower(a.p[i]) == str_lower(b.p[i + shift]) ? run + 1 : 0;
            best = run > best ? run : best;
        }
    }
    return start + best;
}

int model_near(struct str name, struct text *t)
{
    size_t best[3], score[3] = {0, 0, 0};
    size_t last = total;
    int n = 0;

    for (size_t i = 0; i < total; i++) {
        size_t s = likeness(name, name_of(i));
        bool again = last < i && str_eq(name_of(i), name_of(last));
        if (sorted[i]->now.serves == 0 || s < 5 || again) {
            continue;
        }
        last = i;
        int at = n < 3 ? n : 2;
        if (n == 3 && s <= score[2]) {
            continue;
        }
        while (at > 0 && s > score[at - 1]) {
            score[at] = score[at - 1];
            best[at] = best[at - 1];
            at--;
        }
        score[at] = s;
        best[at] = i;
        n = n < 3 ? n + 1 : 3;
    }
    for (int i = 0; i < n; i++) {
        text_addz(t, i > 0 ? ", " : "");
        text_add(t, name_of(best[i]));
    }
    return n;
}
