/*
 * listing.c - level 7: see listing.h. How an element looks is in formats.c.
 *
 * A list goes on behind a name (flat lists) or a mark (entries), which is kept in
 * x->spelling and x->place; the last id written is in x->alias_reason. Requests that
 * are answered here need these for nothing else. Behind the models come the aliases.
 *
 * May include: olla.h, levels 1 to 6, formats.h, admin.h, listing.h.
 */
#include "listing.h"

#include <string.h>

#include "formats.h"

/* ---- what is asked for -------------------------------------------------------------- */

static const struct {
    const char *word;
    enum model_kind kind;
} kinds[] = {{"llm", KIND_LLM}, {"vlm", KIND_VLM}, {"embeddings", KIND_EMBEDDINGS}};

/* The older ?capability=, in words of ?type=. */
static const struct {
    const char *capability, *type;
} capabilities[] = {
    {"vision", "vlm"},
    {"multimodal", "vlm"},
    {"embedding", "embeddings"},
    {"embeddings", "embeddings"},
    {"vector_search", "embeddings"},
    {"chat", "llm"},
    {"text_generation", "llm"},
    {"completion", "llm"},
};

static bool query_has(const struct exchange *x, struct str key, char *to, size_t cap)
{
    return http_query(x->req.query, key, to, cap, NULL) && to[0];
}

static void take_type(struct exchange *x)
{
    struct listing_filter *f = &x->filter;
    char word[32];

    query_has(x, STR("type"), f->type, sizeof(f->type));
    if (query_has(x, STR("capability"), word, sizeof(word))) {
        for (size_t i = 0; i < OLLA_COUNT(capabilities); i++) {
            if (str_eq(str_of(capabilities[i].capability), str_of(word))) {
                str_copy(f->type, sizeof(f->type), str_of(capabilities[i].type));
            }
        }
    }
}

static void take_endpoint(struct exchange *x)
{
    char name[256];
    struct endpoint *e;

    x->filter.endpoints = ~(endpoint_set)0;
    if (http_query(x->req.query, STR("endpoint"), name, sizeof(name), NULL) && name[0]) {
        x->filter.endpoints = 0;
        for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
            bool named = strcmp(e->name, name) == 0 || strcmp(e->url, name) == 0;
            x->filter.endpoints |= named ? endpoint_bit(e) : 0;
        }
    }
}

static bool bad_format(struct reply_error *err, const char *format)
{
    static char message[320];
    struct text t = text_in(message, sizeof(message));
    text_addz(&t, "invalid query parameter format=");
    text_addz(&t, format);
    text_addz(&t, ": unsupported format. Supported formats: ");
    formats_names(&t);
    *err = (struct reply_error){.status = 400, .code = "bad_request", .message = text_z(&t)};
    return false;
}

bool listing_check(struct exchange *x, struct reply_error *err)
{
    char word[32];

    memset(&x->filter, 0, sizeof(x->filter));
    x->filter.endpoints = ~(endpoint_set)0;
    if (x->route.listing != LISTING_UNIFIED) {
        return true; /* the others take no query */
    }
    take_endpoint(x);
    take_type(x);
    query_has(x, STR("family"), x->filter.family, sizeof(x->filter.family));
    x->filter.all = query_has(x, STR("include_unavailable"), word, sizeof(word)) && strcmp(word, "true") == 0;
    if (query_has(x, STR("available"), word, sizeof(word))) {
        x->filter.available = strcmp(word, "true") == 0 ? 1 : strcmp(word, "false") == 0 ? -1 : 0;
        if (x->filter.available == 0) {
            *err = (struct reply_error){.status = 400,
                                        .code = "bad_request",
                                        .message = "invalid value for 'available' parameter. Use 'true' or 'false'"};
            return false;
        }
    }
    if (query_has(x, STR("format"), word, sizeof(word))) {
        x->route.listing = formats_find(str_of(word));
        if (x->route.listing == LISTING_COUNT) {
            return bad_format(err, word);
        }
    }
    return true;
}

static bool passes(const struct exchange *x, const struct shown *s)
{
    const struct listing_filter *f = &x->filter;
    bool type = f->type[0] == '\0' || strcmp(f->type, s->facts.record) == 0;

    for (size_t i = 0; i < OLLA_COUNT(kinds) && !type; i++) {
        type = strcmp(kinds[i].word, f->type) == 0 && formats_is_kind(s, kinds[i].kind);
    }
    return type && (f->family[0] == '\0' || strcmp(f->family, s->facts.family) == 0) &&
           (f->available == 0 || formats_loaded(s) == (f->available > 0));
}

/* ---- lists --------------------------------------------------------------------------- */

/* Whose models are listed: those configured so, and of them those that are well or sleep. */
struct fleet {
    endpoint_set scope, usable;
};

static struct fleet fleet_of(const struct exchange *x)
{
    const struct format *f = formats_get(x->route.listing);
    const struct profile *only = f->type ? profile_by_type(str_of(f->type)) : x->route.only;
    /* Below a prefix the type says itself what its servers speak. */
    unsigned apis = x->route.only && !x->route.only->any ? ROUTE_ANY_API : f->apis;
    struct fleet fleet = {route_listed(only, apis, false), route_offered(only, apis)};

    fleet.usable = (x->filter.all ? fleet.scope : fleet.usable) & x->filter.endpoints;
    return fleet;
}

/* The model that an alias stands for here; NULL if it stands for none. */
static const struct model *alias_model(const struct conf_alias *a, endpoint_set usable)
{
    const struct model *m = NULL;
    for (int i = 0; i < a->models.n && !m; i++) {
        m = model_named(str_of(a->models.item[i]), usable);
    }
    return m;
}

/* The next alias to show; *at moves behind it. One that has a model's name was shown as that. */
static const struct model *alias_after(uint32_t *at, endpoint_set usable)
{
    while (*at < (uint32_t)conf_now->aliases) {
        const struct conf_alias *a = &conf_now->alias[(*at)++];
        const struct model *m = model_named(str_of(a->name), usable) ? NULL : alias_model(a, usable);
        if (m) {
            return m;
        }
    }
    return NULL;
}

/* The next thing behind where the list is; moves there. false: that was all. */
static bool advance(struct exchange *x, const struct fleet *fleet, struct shown *s, char *id, size_t cap)
{
    bool entries = x->route.listing == LISTING_UNIFIED;
    const struct model *m = NULL;
    struct text t = text_in(id, cap);

    if (x->place.alias == 0) {
        struct model_mark mark = {.serial = x->place.serial, .rank = (int)x->place.index};
        str_copy(mark.name, sizeof(mark.name), str_of(x->spelling));
        m = entries ? catalogue_entry_after(&mark, fleet->usable)
                    : catalogue_name_after(x->spelling, fleet->scope, fleet->usable);
    }
    if (m) {
        str_copy(x->spelling, sizeof(x->spelling), str_of(m->facts.name));
        struct model_mark mark;
        catalogue_mark(&mark, m);
        x->place.serial = mark.serial;
        x->place.index = (uint32_t)mark.rank;
        if (entries) {
            catalogue_id(m, &t);
        } else {
            text_addz(&t, m->facts.name);
        }
        formats_show(s, m, text_z(&t), fleet->scope);
        return true;
    }
    m = alias_after(&x->place.alias, fleet->usable);
    if (m) {
        const char *name = conf_now->alias[x->place.alias - 1].name;
        text_addz(&t, name);
        formats_show(s, m, text_z(&t), fleet->scope);
        s->alias = name;
    } else {
        x->place.alias = UINT32_MAX;
    }
    return m != NULL;
}

/* ... of those that the client's key lets it use. An entry's id may be longer than its name. */
static bool next(struct exchange *x, const struct fleet *fleet, struct shown *s, char *id, size_t cap)
{
    while (advance(x, fleet, s, id, cap)) {
        if (gate_allows(&x->key, str_of(s->alias ? s->alias : s->m->facts.name))) {
            s->pass = &x->key;
            return true;
        }
    }
    return false;
}

static void rewind_list(struct exchange *x)
{
    memset(&x->place, 0, sizeof(x->place));
    x->spelling[0] = x->alias_reason[0] = '\0';
}

/* What the Anthropic list says about its first and last element. */
static void named_end(struct text *t, const char *key, const char *id)
{
    text_addz(t, key);
    if (id) {
        json_text(t, str_of(id));
    } else {
        text_addz(t, "null");
    }
}

/* Where an id stands in the list; its length if nowhere. "" is before all. */
static uint32_t place_of(struct exchange *x, const struct fleet *fleet, const char *wanted, uint32_t *total)
{
    static struct shown shown;
    char id[OLLA_MODEL_NAME + 16];
    uint32_t at = UINT32_MAX, n = 0;

    for (rewind_list(x); next(x, fleet, &shown, id, sizeof(id)); n++) {
        at = at == UINT32_MAX && str_ieq(str_of(id), str_of(wanted)) ? n : at;
    }
    *total = n;
    return at == UINT32_MAX ? n : at;
}

/* limit, after_id and before_id of the Anthropic API: which elements are shown. */
static void find_page(struct exchange *x, const struct fleet *fleet)
{
    struct listing_filter *f = &x->filter;
    char limit[16], after[OLLA_MODEL_NAME], before[OLLA_MODEL_NAME];
    bool limited = query_has(x, STR("limit"), limit, sizeof(limit)),
         behind = query_has(x, STR("after_id"), after, sizeof(after)),
         front = query_has(x, STR("before_id"), before, sizeof(before));
    uint64_t most = UINT32_MAX;
    uint32_t total;

    if (!limited && !behind && !front) {
        return;
    }
    if (limited && (str_to_u64(str_of(limit), UINT32_MAX, &most) != OLLA_OK || most == 0)) {
        most = 20; /* what the API does without one */
    }
    if (front) {
        f->to = place_of(x, fleet, before, &total);
        f->from = f->to > most ? f->to - (uint32_t)most : 0;
        f->more = f->from > 0;
    } else {
        uint32_t at = place_of(x, fleet, behind ? after : "", &total);
        f->from = behind ? at + 1 : 0;
        f->to = f->from < total && total - f->from > most ? f->from + (uint32_t)most : total;
        f->more = f->to < total;
    }
    if (f->from >= f->to) {
        f->from = f->to = UINT32_MAX; /* nothing; 0 would be all */
    }
}

/* Not on this page; and on to the next. */
static bool is_elsewhere(struct exchange *x)
{
    const struct listing_filter *f = &x->filter;
    uint32_t n = x->place.passed++;
    return f->to > 0 && (n < f->from || n >= f->to);
}

static void open_list(struct exchange *x, struct text *t)
{
    const struct format *f = formats_get(x->route.listing);
    struct fleet fleet = fleet_of(x);
    static struct shown first;
    char id[OLLA_MODEL_NAME + 16];

    rewind_list(x);
    if (f->open) {
        text_addz(t, f->open);
        return;
    }
    find_page(x, &fleet);
    rewind_list(x);
    bool any = next(x, &fleet, &first, id, sizeof(id));
    while (any && is_elsewhere(x)) {
        any = next(x, &fleet, &first, id, sizeof(id));
    }
    named_end(t, "{\"first_id\":", any ? first.name : NULL);
    text_addz(t, ",\"data\":[");
    rewind_list(x);
}

static void close_list(struct exchange *x, struct text *t)
{
    const struct format *f = formats_get(x->route.listing);
    if (f->close) {
        text_addz(t, f->close);
        return;
    }
    text_addz(t, x->filter.more ? "],\"has_more\":true" : "],\"has_more\":false");
    named_end(t, ",\"last_id\":", x->place.listed ? x->alias_reason : NULL);
    text_char(t, '}');
}

/* Part 0 opens; then come the elements; the end has no part of its own. */
bool listing_page(struct exchange *x, struct text *t, uint32_t i)
{
    static struct shown shown;
    char id[OLLA_MODEL_NAME + 16];
    char before[sizeof(x->spelling)]; /* an element that does not fit comes again */
    struct page_place place = x->place;
    struct fleet fleet = fleet_of(x);

    if (i == 0) {
        open_list(x, t);
        return true;
    }
    memcpy(before, x->spelling, sizeof(before));
    while (next(x, &fleet, &shown, id, sizeof(id))) {
        if (!passes(x, &shown) || is_elsewhere(x)) {
            continue;
        }
        text_addz(t, x->place.listed ? "," : "");
        formats_get(x->route.listing)->write(t, &shown, formats_get(x->route.listing)->owner);
        if (t->full) {
            memcpy(x->spelling, before, sizeof(before));
            x->place = place;
        } else {
            x->place.listed = true;
            str_copy(x->alias_reason, sizeof(x->alias_reason), str_of(id));
        }
        return true;
    }
    close_list(x, t);
    return false;
}

/* ---- one model ------------------------------------------------------------------------ */

/* A name that is a path: a URL cannot hold its first slash. */
static const struct model *named_by_path(struct str rest, endpoint_set usable)
{
    char mem[OLLA_MODEL_NAME];
    struct text t = text_in(mem, sizeof(mem));
    text_char(&t, '/');
    text_add(&t, rest);
    return t.full ? NULL : model_named(text_str(&t), usable);
}

/* The model with the name of the route, or that the alias of that name stands for. */
static const struct model *one_model(const struct exchange *x, const char **alias)
{
    endpoint_set usable = route_offered(x->route.only, API_OPENAI);
    const struct conf_alias *a = conf_alias_find(conf_now, x->route.target);
    const struct model *m = a ? alias_model(a, usable) : NULL;

    *alias = m ? a->name : NULL;
    if (!m) {
        m = model_named(x->route.target, usable);
        m = m ? m : named_by_path(x->route.target, usable);
        m = m ? catalogue_shown(m, route_listed(x->route.only, API_OPENAI, false)) : NULL; /* as the list spells it */
    }
    return m && gate_allows(&x->key, str_of(*alias ? *alias : m->facts.name)) ? m : NULL;
}

bool listing_one_check(struct exchange *x, struct reply_error *err)
{
    const char *alias;
    *err = (struct reply_error){.status = 404,
                                .code = "model_not_found",
                                .message = "no healthy endpoint serves a model of that name"};
    return one_model(x, &alias) != NULL;
}

bool listing_one_page(struct exchange *x, struct text *t, uint32_t i)
{
    static struct shown shown;
    const char *alias;
    const struct model *m = i == 0 ? one_model(x, &alias) : NULL;

    if (m) {
        formats_show(&shown, m, alias ? alias : m->facts.name, route_listed(x->route.only, API_OPENAI, false));
        formats_get(x->route.listing)->write(t, &shown, NULL);
        text_char(t, '\n');
    }
    return m != NULL;
}

static const struct model *one_entry(const struct exchange *x, const char **alias)
{
    const struct conf_alias *a = conf_alias_find(conf_now, x->route.target);
    const struct model *m = a ? alias_model(a, ~(endpoint_set)0) : NULL;

    *alias = m ? a->name : NULL;
    m = m ? catalogue_find(str_of(m->facts.name)) : catalogue_find(x->route.target);
    return m && gate_allows(&x->key, str_of(*alias ? *alias : m->facts.name)) ? m : NULL;
}

bool listing_entry_check(struct exchange *x, struct reply_error *err)
{
    const char *alias;
    if (x->route.target.n == 0) {
        *err = (struct reply_error){.status = 400, .code = "bad_request", .message = "Model ID or alias required"};
        return false;
    }
    *err = (struct reply_error){.status = 404, .code = "model_not_found", .message = "Model not found"};
    return one_entry(x, &alias) != NULL;
}

bool listing_entry_page(struct exchange *x, struct text *t, uint32_t i)
{
    static struct shown shown;
    char id[OLLA_MODEL_NAME + 16];
    struct text name = text_in(id, sizeof(id));
    const char *alias;
    const struct model *m = i == 0 ? one_entry(x, &alias) : NULL;

    if (m) {
        catalogue_id(m, &name);
        formats_show(&shown, m, alias ? alias : text_z(&name), ~(endpoint_set)0);
        shown.alias = alias;
        shown.pass = &x->key;
        formats_write_entry(t, &shown);
    }
    return m != NULL;
}
