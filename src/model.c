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

void model_init(void)
{
    model_pool();
}

size_t model_count(void)
{
    return total;
}

static struct str name_of(size_t i)
{
    return str_of(sorted[i]->facts.name);
}

/* Order without regard to case, then exact; `fold` compares without the second step. */
static int compare(struct str a, struct str b, bool fold)
{
    size_t n = a.n < b.n ? a.n : b.n;
    for (size_t i = 0; i < n; i++) {
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

/* The first place whose name is not before `name`. */
static size_t lower_bound(struct str name, bool fold)
{
    size_t from = 0, to = total;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (compare(name_of(mid), name, fold) < 0) {
            from = mid + 1;
        } else {
            to = mid;
        }
    }
    return from;
}

/* ---- lists ------------------------------------------------------------------------ */

void model_list_begin(const struct endpoint *e)
{
    for (size_t i = 0; i < total; i++) {
        sorted[i]->coming &= ~endpoint_bit(e);
    }
}

bool model_offer(const struct endpoint *e, const struct model_facts *facts)
{
    struct str name = str_of(facts->name);
    size_t at = lower_bound(name, false);

    if (at < total && str_eq(name_of(at), name)) {
        struct model *m = sorted[at];
        bool only = (m->serves & ~endpoint_bit(e)) == 0 && memcmp(&m->facts, facts, sizeof(*facts)) != 0;
        if (only && !m->news) {
            m->news = pool_get(POOL_MODEL); /* without one the old facts stay: no harm */
        }
        if (only && m->news) {
            m->news->facts = *facts;
        }
        m->coming |= endpoint_bit(e);
        return true;
    }
    struct model *m = pool_get(POOL_MODEL);
    if (!m) {
        return false;
    }
    m->facts = *facts;
    m->coming = endpoint_bit(e);
    memmove(&sorted[at + 1], &sorted[at], (total - at) * sizeof(sorted[0]));
    sorted[at] = m;
    total++;
    return true;
}

static void take_news(struct model *m, bool ok)
{
    if (m->news && ok) {
        m->facts = m->news->facts;
    }
    pool_put(POOL_MODEL, m->news);
    m->news = NULL;
}

static void sweep(void)
{
    size_t keep = 0;
    for (size_t i = 0; i < total; i++) {
        if (sorted[i]->serves == 0 && sorted[i]->coming == 0) {
            take_news(sorted[i], false);
            pool_put(POOL_MODEL, sorted[i]);
        } else {
            sorted[keep++] = sorted[i];
        }
    }
    total = keep;
}

unsigned model_list_end(const struct endpoint *e, bool ok)
{
    unsigned n = 0;
    for (size_t i = 0; i < total; i++) {
        struct model *m = sorted[i];
        if (m->coming & endpoint_bit(e)) {
            take_news(m, ok);
        }
        if (ok) {
            m->serves = (m->serves & ~endpoint_bit(e)) | (m->coming & endpoint_bit(e));
        }
        m->coming &= ~endpoint_bit(e);
        n += (m->serves & endpoint_bit(e)) != 0;
    }
    sweep();
    return n;
}

void model_forget(const struct endpoint *e)
{
    for (size_t i = 0; i < total; i++) {
        sorted[i]->serves &= ~endpoint_bit(e);
        sorted[i]->coming &= ~endpoint_bit(e);
    }
    sweep();
}

/* ---- look-up ----------------------------------------------------------------------- */

/* All endpoints that have the name in any case; *exact those with this very spelling. */
static endpoint_set serving(struct str name, endpoint_set *exact)
{
    endpoint_set any = 0;
    *exact = 0;
    for (size_t i = lower_bound(name, true); i < total && compare(name_of(i), name, true) == 0; i++) {
        any |= sorted[i]->serves;
        if (str_eq(name_of(i), name)) {
            *exact = sorted[i]->serves;
        }
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
    endpoint_set exact, any = serving(name, &exact), tagged = 0, unused;
    struct str latest = with_latest(name, mem, sizeof(mem));

    if (latest.n > 0) {
        tagged = serving(latest, &unused) & ollama_kind();
    }
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
        for (size_t i = lower_bound(tries[t], true); i < total && compare(name_of(i), tries[t], true) == 0; i++) {
            if (sorted[i]->serves & endpoint_bit(e)) {
                if (str_eq(name_of(i), tries[t])) {
                    return sorted[i]->facts.name;
                }
                found = sorted[i]->facts.name;
            }
        }
    }
    return found;
}

const struct model *model_named(struct str name, endpoint_set usable)
{
    char mem[OLLA_MODEL_NAME + 8];
    struct str tries[2] = {name, with_latest(name, mem, sizeof(mem))};

    for (int t = 0; t < 2; t++) {
        size_t i = tries[t].n > 0 ? lower_bound(tries[t], true) : total;
        for (; i < total && compare(name_of(i), tries[t], true) == 0; i++) {
            if (sorted[i]->serves & usable) {
                return sorted[i];
            }
        }
    }
    return NULL;
}

const struct model *model_after(const char *name, endpoint_set usable)
{
    struct str s = str_of(name);
    size_t i = s.n > 0 ? lower_bound(s, false) : 0;
    if (s.n > 0 && i < total && str_eq(name_of(i), s)) {
        i++;
    }
    for (; i < total; i++) {
        if (sorted[i]->serves & usable) {
            return sorted[i];
        }
    }
    return NULL;
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
    int n = 0;

    for (size_t i = 0; i < total; i++) {
        size_t s = likeness(name, name_of(i));
        if (sorted[i]->serves == 0 || s < 5) {
            continue;
        }
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
