/*
 * model_status.c - level 7: see model_status.h.
 *
 * The document is a row of sections; each part of the page is one element of
 * one. x->place says which section (phase), family and model come next. Models
 * here are exact names over all endpoints, healthy or not, with what the
 * servers said, not the normal forms of the listings.
 *
 * May include: olla.h, levels 1 to 6, admin.h, model_status.h.
 */
#include "model_status.h"

#include <string.h>

#include "admin.h"
#include "status.h"
#include "catalogue.h"
#include "json.h"
#include "traits.h"

#define RECENT_MAX   10
#define ALIASES_MAX  8
#define ALIASES_ROOM 512 /* bytes; an element has to fit into a piece */
#define LONG_CONTEXT 100000

enum phase { HEAD = 0, BY_FAMILY, RECENT, GROUPS, END };

/* ---- names ----------------------------------------------------------------------- */

static bool same_name(const struct model *a, const struct model *b)
{
    return a && b && strcmp(a->facts.name, b->facts.name) == 0;
}

/* Who serves a name: the entry at i and those behind it with the same name. */
static endpoint_set served(size_t i)
{
    const struct model *first = model_at(i);
    endpoint_set set = 0;
    for (; same_name(first, model_at(i)); i++) {
        set |= model_at(i)->now.serves;
    }
    return set;
}

/* Each name once, at its first entry, and only those that who asks may use. */
static bool is_name(const struct exchange *x, size_t i)
{
    return model_at(i) && (i == 0 || !same_name(model_at(i), model_at(i - 1))) && served(i) != 0 &&
           gate_allows(&x->key, str_of(model_at(i)->facts.name));
}

static const char *family_shown(const char *family)
{
    return family[0] ? family : "unknown";
}

/* The first name at or behind `from` in a family, or model_count(). */
static size_t next_of_family(const struct exchange *x, unsigned family, size_t from)
{
    while (from < model_count() && !(model_at(from)->family_no == family && is_name(x, from))) {
        from++;
    }
    return from;
}

/* The name that comes at `place` among the newest, or NULL: later seen first, then by name. */
static const struct model *recent_at(const struct exchange *x, uint32_t place, size_t *at)
{
    size_t best[RECENT_MAX];
    uint64_t seen[RECENT_MAX];
    uint32_t n = 0;

    for (size_t i = 0; i < model_count(); i++) {
        if (!is_name(x, i)) {
            continue;
        }
        uint64_t when = admin_last_seen(served(i));
        uint32_t to = n;
        while (to > 0 && when > seen[to - 1]) {
            to--;
        }
        if (to == RECENT_MAX) {
            continue;
        }
        n = n < RECENT_MAX ? n + 1 : n;
        memmove(&best[to + 1], &best[to], (n - 1 - to) * sizeof(best[0]));
        memmove(&seen[to + 1], &seen[to], (n - 1 - to) * sizeof(seen[0]));
        best[to] = i;
        seen[to] = when;
    }
    *at = place < n ? best[place] : 0;
    return place < n ? model_at(best[place]) : NULL;
}

/* ---- elements ------------------------------------------------------------------------ */

static void string_member(struct text *t, const char *key, const char *value)
{
    if (value[0]) {
        json_member(t, key, str_of(value));
    }
}

/* The n-th of a set in the order of names; NULL at the end. */
static const struct endpoint *by_name(endpoint_set set, int n)
{
    struct endpoint *e, *other;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        int before = 0;
        for (int k = 0; (other = endpoint_at(k)) != NULL; k++) {
            before += (set & endpoint_bit(other)) && strcmp(other->name, e->name) < 0;
        }
        if ((set & endpoint_bit(e)) && before == n) {
            return e;
        }
    }
    return NULL;
}

static void write_endpoints(struct text *t, endpoint_set set, bool ids)
{
    const struct endpoint *e;
    text_addz(t, ids ? ",\"endpoint_ids\":[" : ",\"endpoints\":[");
    for (int i = 0; (e = by_name(set, i)) != NULL; i++) {
        text_addz(t, i > 0 ? "," : "");
        if (ids) {
            text_char(t, '"');
            status_endpoint_id(t, e);
            text_char(t, '"');
        } else {
            json_text(t, str_of(e->name));
        }
    }
    text_char(t, ']');
}

/* A server with that model may be sent it for the alias, which is no name that one of the servers has for it. */
static bool stands_for(const struct conf_alias *a, const struct model *m)
{
    bool listed = false;

    for (const struct model *other = m->head->members; other; other = other->next) {
        if (strcmp(other->facts.name, a->name) == 0) {
            return false;
        }
    }
    for (int i = 0; i < a->models.n; i++) {
        listed = listed || str_ieq(str_of(a->models.item[i]), str_of(m->facts.name));
    }
    return listed;
}

/* Names of the same thing: as other servers call it, and as the configuration does. */
static void write_aliases(const struct exchange *x, struct text *t, const struct model *m)
{
    int n = 0;
    const size_t most = t->n + ALIASES_ROOM;
    for (const struct model *other = m->head->members; other && n < ALIASES_MAX && t->n < most; other = other->next) {
        if (!same_name(other, m) && other->now.serves && gate_allows(&x->key, str_of(other->facts.name))) {
            text_addz(t, n++ == 0 ? ",\"aliases\":[" : ",");
            json_text(t, str_of(other->facts.name));
        }
    }
    for (int i = 0; i < conf_now->aliases && n < ALIASES_MAX; i++) {
        const struct conf_alias *a = &conf_now->alias[i];
        if (stands_for(a, m) && gate_allows(&x->key, str_of(a->name))) {
            text_addz(t, n++ == 0 ? ",\"aliases\":[" : ",");
            json_text(t, str_of(a->name));
        }
    }
    text_addz(t, n > 0 ? "]" : "");
}

static void write_abilities(struct text *t, const struct model_facts *f)
{
    bool vision = f->kind == KIND_VLM, embeds = f->kind == KIND_EMBEDDINGS, llm = f->kind == KIND_LLM;
    struct str quant = str_of(f->quantization);
    const struct {
        bool is;
        const char *word;
    } rows[] = {
        {vision, "vision"},
        {vision, "multimodal"},
        {embeds, "embeddings"},
        {embeds, "vector_search"},
        {llm, "text_generation"},
        {llm, "chat"},
        {f->context > LONG_CONTEXT, "long_context"},
        {str_ieq(quant, STR("fp16")) || str_ieq(quant, STR("bf16")), "high_precision"},
    };
    bool first = true;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        if (rows[i].is) {
            text_addz(t, first ? ",\"capabilities\":[" : ",");
            json_text(t, str_of(rows[i].word));
            first = false;
        }
    }
    text_addz(t, first ? "" : "]");
}

static void write_model(const struct exchange *x, struct text *t, const struct model *m, endpoint_set set)
{
    const struct model_facts *f = &m->facts;
    uint64_t seen = admin_last_seen(set);

    text_addz(t, "{\"name\":");
    json_text(t, str_of(f->name));
    string_member(t, "type", f->record);
    string_member(t, "family", f->family);
    if (f->size > 0) {
        text_addz(t, ",\"size\":\"");
        admin_bytes_text(t, f->size);
        text_char(t, '"');
    }
    string_member(t, "params", f->parameters);
    string_member(t, "quant", f->quantization);
    if (f->context > 0) {
        json_member_u64(t, "max_context_length", f->context);
    }
    text_addz(t, ",\"last_seen\":\"");
    admin_ago_text(t, seen);
    text_char(t, '"');
    if (seen > 0) {
        text_addz(t, ",\"last_seen_at\":\"");
        admin_instant_text(t, seen);
        text_char(t, '"');
    }
    write_endpoints(t, set, false);
    write_endpoints(t, set, true);
    write_aliases(x, t, m);
    write_abilities(t, f);
    text_char(t, '}');
}

/* ---- sections: false when there is no further element --------------------------------- */

static void write_head(const struct exchange *x, struct text *t)
{
    uint64_t names = 0, families = 0, endpoints = 0;
    bool narrow = gate_narrow(&x->key);
    struct endpoint *e;
    unsigned no;

    for (size_t i = 0; i < model_count(); i++) {
        names += is_name(x, i);
    }
    for (unsigned place = 0; catalogue_family(place, &no); place++) {
        families += !narrow || next_of_family(x, no, 0) < model_count();
    }
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        endpoints += e->models > 0;
    }
    text_addz(t, "{\"timestamp\":\"");
    admin_time_text(t, plat_wall_ms());
    text_char(t, '"');
    json_member_u64(t, "total_models", names);
    json_member_u64(t, "total_families", families);
    json_member_u64(t, "total_endpoints", endpoints);
    text_addz(t, ",\"models_by_family\":{");
}

static bool family_name(struct exchange *x, struct text *t)
{
    struct page_place *p = &x->place;
    unsigned no;
    const char *family = catalogue_family(p->family, &no);
    if (!family) {
        text_addz(t, "},\"recent_models\":[");
        return false;
    }
    size_t at = next_of_family(x, no, p->index);
    if (at == model_count()) {
        text_addz(t, p->listed ? "]" : ""); /* a family may have nothing for a key */
        p->family++;
        p->index = 0;
        p->listed = false;
        return true;
    }
    if (!p->listed) {
        text_addz(t, p->passed++ > 0 ? "," : "");
        json_text(t, str_of(family_shown(family)));
        text_addz(t, ":[");
    }
    text_addz(t, p->listed ? "," : "");
    json_text(t, str_of(model_at(at)->facts.name));
    p->listed = true;
    p->index = (uint32_t)at + 1;
    return true;
}

static bool wants_groups(const struct exchange *x)
{
    char word[16];
    return http_query(x->req.query, STR("detailed"), word, sizeof(word), NULL) && strcmp(word, "true") == 0 &&
           http_query(x->req.query, STR("group"), word, sizeof(word), NULL) && strcmp(word, "family") == 0;
}

static bool recent_model(struct exchange *x, struct text *t)
{
    size_t at;
    const struct model *m = recent_at(x, x->place.index, &at);
    if (!m) {
        text_addz(t, wants_groups(x) ? "],\"model_groups\":[" : "]");
        return false;
    }
    text_addz(t, x->place.index > 0 ? "," : "");
    write_model(x, t, m, served(at));
    x->place.index++;
    return true;
}

static bool group_model(struct exchange *x, struct text *t)
{
    struct page_place *p = &x->place;
    unsigned no;
    const char *family = wants_groups(x) ? catalogue_family(p->family, &no) : NULL;
    if (!family) {
        text_addz(t, wants_groups(x) ? "]" : "");
        return false;
    }
    size_t at = next_of_family(x, no, p->index);
    if (at == model_count() && !p->listed) {
        p->family++;
        p->index = 0;
        return true;
    }
    if (at == model_count()) {
        endpoint_set all = 0;
        uint64_t n = 0;
        for (size_t i = next_of_family(x, no, 0); i < model_count(); i = next_of_family(x, no, i + 1)) {
            all |= served(i);
            n++;
        }
        text_char(t, ']');
        write_endpoints(t, all, false);
        json_member_u64(t, "model_count", n);
        text_char(t, '}');
        p->family++;
        p->index = 0;
        p->listed = false;
        return true;
    }
    if (!p->listed) {
        text_addz(t, p->passed++ > 0 ? ",{\"family\":" : "{\"family\":");
        json_text(t, str_of(family_shown(family)));
        text_addz(t, ",\"models\":[");
    }
    text_addz(t, p->listed ? "," : "");
    write_model(x, t, model_at(at), served(at));
    p->listed = true;
    p->index = (uint32_t)at + 1;
    return true;
}

static void next_phase(struct page_place *p, enum phase phase)
{
    uint32_t version = p->version;
    memset(p, 0, sizeof(*p));
    p->phase = phase;
    p->version = version;
}

/* The store counts its changes; the rest is when each endpoint told its list, and what who asks may see. */
uint64_t model_status_state(const struct exchange *x)
{
    uint64_t h = (model_version() * 2 + wants_groups(x)) ^ (uint64_t)gate_mark(&x->key) << 32;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        h = str_hash64_number(h, str_hash(str_of(e->name)));
        h = str_hash64_number(h, e->last_discovery);
    }
    for (int i = 0; i < conf_now->aliases; i++) { /* a reload may have changed them */
        const struct conf_alias *a = &conf_now->alias[i];
        h = str_hash64_number(h, str_hash(str_of(a->name)));
        for (int k = 0; k < a->models.n; k++) {
            h = str_hash64_number(h, str_hash(str_of(a->models.item[k])));
        }
    }
    return h;
}

bool model_status_page(struct exchange *x, struct text *t, uint32_t i)
{
    struct page_place *p = &x->place, before = *p;
    bool more = true;

    catalogue_settle();
    if (i == 0) {
        memset(p, 0, sizeof(*p));
        p->version = model_version();
    } else if (p->version != model_version()) {
        /* Numbers mean other models now: what was begun is closed, the rest left out. */
        bool groups = p->phase == GROUPS && wants_groups(x);
        text_addz(t, p->listed ? (groups ? "]}" : "]") : "");
        text_addz(t, p->phase == BY_FAMILY ? "},\"recent_models\":[]}" : groups || p->phase == RECENT ? "]}" : "}");
        return false;
    }
    switch ((enum phase)p->phase) {
    case HEAD:
        write_head(x, t);
        next_phase(p, BY_FAMILY);
        break;
    case BY_FAMILY:
        more = family_name(x, t);
        break;
    case RECENT:
        more = recent_model(x, t);
        break;
    case GROUPS:
        more = group_model(x, t);
        break;
    case END:
        text_addz(t, "}");
        return false;
    }
    if (!more) {
        next_phase(p, (enum phase)(p->phase + 1));
    }
    if (t->full) {
        *p = before;
    }
    return true;
}
