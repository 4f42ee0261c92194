/*
 * listing.c - level 7: the models of the fleet, in the formats that clients ask for.
 *
 * May include: olla.h, levels 1 to 6, admin.h, listing.h.
 */
#include "listing.h"

#include "admin.h"

static void model_openai(struct text *t, const struct model *m)
{
    text_addz(t, "{\"id\":");
    json_text(t, str_of(m->facts.name));
    json_member(t, "object", STR("model"));
    json_member(t, "owned_by", STR("olla"));
    json_member_u64(t, "created", (uint64_t)(plat_wall_ms() / 1000));
    text_char(t, '}');
}

static void model_ollama(struct text *t, const struct model *m)
{
    const struct model_facts *f = &m->facts;
    text_addz(t, "{\"name\":");
    json_text(t, str_of(f->name));
    json_member(t, "model", str_of(f->name));
    text_addz(t, ",\"modified_at\":");
    if (f->modified[0]) {
        json_text(t, str_of(f->modified));
    } else {
        text_char(t, '"');
        admin_time_text(t, admin_start_wall());
        text_char(t, '"');
    }
    json_member_u64(t, "size", f->size);
    json_member(t, "digest", str_of(f->digest));
    text_addz(t, ",\"details\":{\"format\":");
    json_text(t, str_of(f->format));
    json_member(t, "family", str_of(f->family));
    json_member(t, "parameter_size", str_of(f->parameters));
    json_member(t, "quantization_level", str_of(f->quantization));
    text_addz(t, "}}");
}

static void model_lm_studio(struct text *t, const struct model *m)
{
    const struct model_facts *f = &m->facts;
    text_addz(t, "{\"id\":");
    json_text(t, str_of(f->name));
    json_member(t, "object", STR("model"));
    json_member(t, "type", STR("llm"));
    if (f->family[0]) {
        json_member(t, "arch", str_of(f->family));
    }
    if (f->quantization[0]) {
        json_member(t, "quantization", str_of(f->quantization));
    }
    json_member(t, "state", STR("not-loaded"));
    if (f->context > 0) {
        json_member_u64(t, "max_context_length", f->context);
    }
    text_char(t, '}');
}

static const struct {
    const char *open, *close;
    unsigned api; /* only what clients of this listing can then ask for */
    void (*write)(struct text *t, const struct model *m);
} listings[LOCAL_COUNT] = {
    [LOCAL_MODELS_OPENAI] = {"{\"object\":\"list\",\"data\":[", "]}\n", API_OPENAI, model_openai},
    [LOCAL_MODELS_OLLAMA] = {"{\"models\":[", "]}\n", API_OLLAMA, model_ollama},
    [LOCAL_MODELS_LM_STUDIO] = {"{\"object\":\"list\",\"data\":[", "]}\n", API_OPENAI, model_lm_studio},
};

static endpoint_set speaking(endpoint_set set, unsigned api)
{
    endpoint_set kept = 0;
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        struct endpoint *e = endpoint_slot(i);
        if (e && (set & endpoint_bit(e)) && (e->profile->apis & api)) {
            kept |= endpoint_bit(e);
        }
    }
    return kept;
}

/* The model that an alias stands for here, under the alias's name; NULL if it stands for none. */
static const struct model *alias_model(const struct conf_alias *a, endpoint_set usable)
{
    static struct model shown;
    const struct model *m = NULL;
    for (int i = 0; i < a->models.n && !m; i++) {
        m = model_named(str_of(a->models.item[i]), usable);
    }
    if (!m) {
        return NULL;
    }
    shown = *m;
    str_copy(shown.facts.name, sizeof(shown.facts.name), str_of(a->name));
    return &shown;
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

static const struct model *one_model(const struct exchange *x)
{
    endpoint_set usable = speaking(route_listed(NULL), API_OPENAI);
    const struct conf_alias *a = conf_alias_find(conf_now, x->route.target);
    const struct model *m = a ? alias_model(a, usable) : NULL;
    return m ? m : model_named(x->route.target, usable);
}

bool listing_one_exists(const struct exchange *x)
{
    return one_model(x) != NULL;
}

bool listing_one_page(struct exchange *x, struct text *t, uint32_t i)
{
    const struct model *m = i == 0 ? one_model(x) : NULL;
    if (m) {
        model_openai(t, m);
        text_char(t, '\n');
    }
    return m != NULL;
}

/* Part 0 opens; then come the models after the last one, then the aliases; the end has no part of its own. */
bool listing_page(struct exchange *x, struct text *t, uint32_t i)
{
    enum local_page page = x->route.page;
    endpoint_set usable = speaking(route_listed(x->route.only), listings[page].api);
    const struct model *m;
    uint32_t alias = x->alias_at;

    if (i == 0) {
        x->alias_at = 0;
        text_addz(t, listings[page].open);
        return true;
    }
    m = model_after(x->spelling, usable);
    bool is_model = m != NULL;
    m = m ? m : alias_after(&alias, usable);
    if (!m) {
        text_addz(t, listings[page].close);
        return false;
    }
    text_addz(t, i > 1 ? "," : "");
    listings[page].write(t, m);
    if (!t->full) {
        x->alias_at = alias;
        if (is_model) {
            str_copy(x->spelling, sizeof(x->spelling), str_of(m->facts.name));
        }
    }
    return true;
}
