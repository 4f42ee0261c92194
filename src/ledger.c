/*
 * ledger.c - level 4: see ledger.h.
 *
 * May include: olla.h, str.h, json.h, tally.h, ledger.h.
 */
#include "ledger.h"

#include <string.h>

#include "json.h"

static struct ledger_model models[OLLA_MAX_LEDGER];

static struct ledger_model *find(struct str name)
{
    static struct ledger_model *found = &models[0]; /* most requests are for the same one as the one before */

    if (found->name[0] && str_eq(str_of(found->name), name)) {
        return found;
    }
    for (size_t i = 0; i < OLLA_COUNT(models); i++) {
        if (models[i].name[0] && str_ieq(str_of(models[i].name), name)) {
            return found = &models[i];
        }
    }
    return NULL;
}

static struct ledger_model *find_or_make(struct str name)
{
    struct ledger_model *m = find(name), *oldest = &models[0];

    if (m) {
        return m;
    }
    for (size_t i = 0; i < OLLA_COUNT(models) && oldest->name[0]; i++) {
        if (!models[i].name[0] || models[i].last < oldest->last) {
            oldest = &models[i];
        }
    }
    memset(oldest, 0, sizeof(*oldest));
    (void)str_copy(oldest->name, sizeof(oldest->name), name);
    return oldest;
}

/* The name as it is kept: lower case, and UTF-8 whatever the client sent, because documents are made of it. */
static struct str kept_name(struct str name, char mem[OLLA_MODEL_NAME])
{
    size_t n = 0;

    while (n < name.n && n < OLLA_MODEL_NAME - 1) {
        if ((unsigned char)name.p[n] < 0x80) {
            mem[n] = str_lower(name.p[n]);
            n++;
            continue;
        }
        size_t length = json_utf8_length(str_skip(name, n));
        mem[n] = length > 0 ? name.p[n] : '?';
        for (n++; length > 1; length--, n++) {
            mem[n] = name.p[n];
        }
    }
    return (struct str){mem, n};
}

static void note_client(struct ledger_model *m, uint32_t client)
{
    uint8_t i = 0;

    while (i < m->clients_n && m->clients[i] != client) {
        i++;
    }
    if (i == m->clients_n && i < LEDGER_CLIENTS) {
        m->clients[m->clients_n++] = client;
    }
}

void ledger_add(struct str model, const struct tally_event *e, enum ledger_routing how, uint32_t client, uint64_t now)
{
    if (model.n == 0 || model.n >= OLLA_MODEL_NAME) {
        return;
    }
    char mem[OLLA_MODEL_NAME];
    struct ledger_model *m = find(model); /* most are written as they are kept */
    if (!m) {
        m = find_or_make(kept_name(model, mem));
    }
    tally_add(&m->sum, e);
    if (e->served) {
        histogram_add(&m->latency, e->ms);
    }
    m->hits += how == LEDGER_HIT;
    m->fallbacks += how == LEDGER_FALLBACK;
    m->last = now;
    note_client(m, client);
}

void ledger_miss(struct str model)
{
    char mem[OLLA_MODEL_NAME];
    struct ledger_model *m = model.n < sizeof(mem) ? find(kept_name(model, mem)) : NULL;

    if (m) {
        m->misses++;
    }
}

bool ledger_before(const struct ledger_model *a, const struct ledger_model *b)
{
    return a->sum.requests != b->sum.requests ? a->sum.requests > b->sum.requests : strcmp(a->name, b->name) < 0;
}

const struct ledger_model *ledger_at(unsigned place)
{
    for (size_t i = 0; i < OLLA_COUNT(models); i++) {
        unsigned before = 0;
        for (size_t k = 0; models[i].name[0] && k < OLLA_COUNT(models); k++) {
            before += k != i && models[k].name[0] && ledger_before(&models[k], &models[i]);
        }
        if (models[i].name[0] && before == place) {
            return &models[i];
        }
    }
    return NULL;
}

const struct ledger_model *ledger_slot(unsigned i)
{
    return &models[i];
}

struct ledger_totals ledger_totals(uint64_t since)
{
    struct ledger_totals t = {0};

    for (size_t i = 0; i < OLLA_COUNT(models); i++) {
        const struct ledger_model *m = &models[i];
        if (m->name[0] && m->last >= since) {
            t.models++;
            t.sum.requests += m->sum.requests;
            t.sum.failed += m->sum.failed;
            t.sum.bytes += m->sum.bytes;
            t.sum.ms_sum += m->sum.ms_sum;
            t.sum.input += m->sum.input;
            t.sum.output += m->sum.output;
            t.sum.estimated += m->sum.estimated;
        }
    }
    return t;
}

size_t ledger_cost(void)
{
    return sizeof(models[0]);
}
