/*
 * formats.c - level 7: see formats.h.
 *
 * A writer adds one whole element or leaves t->full; admin.c puts elements
 * together. Elements stay far below the 4 KB that a piece of a page can
 * always take: lists in them are cut.
 *
 * May include: olla.h, levels 1 to 6, admin.h, formats.h.
 */
#include "formats.h"

#include <string.h>

#include "admin.h"
#include "json.h"
#include "traits.h"

#define ALIASES_MAX 8

void formats_show(struct shown *s, const struct model *m, const char *name, endpoint_set scope)
{
    catalogue_settle();
    memset(s, 0, sizeof(*s));
    s->name = name;
    s->m = m;
    s->scope = scope;
    s->facts = m->facts;
    for (const struct model *other = m->head->members; other; other = other->next) {
        if (other->now.serves & scope) {
            model_add_facts(&s->facts, &other->facts);
        }
    }
}

unsigned formats_abilities(const struct shown *s)
{
    unsigned caps = traits_capabilities(str_of(s->facts.name), s->facts.context, s->facts.said);

    for (const struct model *m = s->m->head->members; m; m = m->next) {
        if (m != s->m && (m->now.serves & s->scope)) {
            caps |= traits_capabilities(str_of(m->facts.name), 0, s->facts.said);
        }
    }
    /* One that says it can do both does both. */
    return caps | (s->facts.said & CAP_COMPLETION ? CAP_TEXT_GENERATION : 0);
}

bool formats_is_kind(const struct shown *s, enum model_kind kind)
{
    char lower[OLLA_MODEL_NAME];
    struct text t = text_in(lower, sizeof(lower));
    bool embeddings = (s->facts.said & CAP_EMBEDDINGS) && !(s->facts.said & CAP_COMPLETION);

    for (const char *c = s->facts.name; *c; c++) {
        text_char(&t, str_lower(*c));
    }
    embeddings = embeddings || strstr(text_z(&t), "embed") != NULL;
    switch (kind) {
    case KIND_EMBEDDINGS:
        return embeddings;
    case KIND_VLM:
        return (formats_abilities(s) & CAP_VISION) != 0;
    case KIND_LLM:
        return !embeddings;
    case KIND_UNKNOWN:
        break;
    }
    return false;
}

/* ---- pieces ------------------------------------------------------------------------- */

void formats_string(struct text *t, struct str s, bool first)
{
    text_addz(t, first ? "" : ",");
    json_text(t, s);
}

/* An element of an array of names, if who asks may know it. true: it is one of them. */
static bool add_name(struct text *t, const struct shown *s, const char *name, bool first)
{
    bool allowed = !s->pass || gate_allows(s->pass, str_of(name));
    if (allowed) {
        formats_string(t, str_of(name), first);
    }
    return allowed;
}

void formats_aliases(struct text *t, const struct shown *s)
{
    const struct model *last = NULL;
    int n = 0;

    if (s->alias) {
        n += add_name(t, s, s->alias, n == 0);
    }
    n += add_name(t, s, s->m->head->facts.name, n == 0);
    bool first = n == 0;
    for (const struct model *m = s->m->head->members; m && n < ALIASES_MAX; m = m->next) {
        bool again = strcmp(m->facts.name, s->m->head->facts.name) == 0 ||
                     (last && strcmp(m->facts.name, last->facts.name) == 0);
        if (!again && m->now.serves) {
            first = !add_name(t, s, m->facts.name, first) && first;
            last = m;
        }
    }
}

void formats_capabilities(struct text *t, unsigned caps)
{
    bool first = true;
    const char *word;
    for (int i = 0; (word = traits_capability_name(i)) != NULL; i++) {
        if (caps & 1u << i) {
            formats_string(t, str_of(word), first);
            first = false;
        }
    }
}

static void member_list(struct text *t, const char *key)
{
    text_addz(t, ",\"");
    text_addz(t, key);
    text_addz(t, "\":[");
}

/* The best word about a model at an endpoint among all that belong to it. */
static enum model_state state_at(const struct shown *s, const struct endpoint *e)
{
    enum model_state best = MODEL_UNKNOWN;
    for (const struct model *m = s->m->head->members; m; m = m->next) {
        enum model_state state = m->now.serves & endpoint_bit(e) ? model_state_at(m, e) : MODEL_UNKNOWN;
        state = state == MODEL_LOADED && e->state == ENDPOINT_ASLEEP ? MODEL_NOT_LOADED : state;
        best = state > best ? state : best;
    }
    return best;
}

static endpoint_set sources(const struct shown *s)
{
    return catalogue_serves(s->m->head) & s->scope;
}

bool formats_loaded(const struct shown *s)
{
    endpoint_set set = sources(s);
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if ((set & endpoint_bit(e)) && state_at(s, e) == MODEL_LOADED) {
            return true;
        }
    }
    return false;
}

static void availability(struct text *t, const struct shown *s)
{
    endpoint_set set = sources(s);
    struct endpoint *e;
    bool first = true;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (set & endpoint_bit(e)) {
            text_addz(t, first ? "{\"endpoint\":" : ",{\"endpoint\":");
            json_text(t, str_of(e->name));
            bool asleep = e->state == ENDPOINT_ASLEEP;
            json_member(t, "state", str_of(asleep ? "asleep" : model_state_name(state_at(s, e))));
            text_char(t, '}');
            first = false;
        }
    }
}

static void endpoint_names(struct text *t, const struct shown *s, bool loaded)
{
    endpoint_set set = sources(s);
    struct endpoint *e;
    bool first = true;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if ((set & endpoint_bit(e)) && (!loaded || state_at(s, e) == MODEL_LOADED)) {
            formats_string(t, str_of(e->name), first);
            first = false;
        }
    }
}

/* Family, variant, and the normal forms of size and quantisation. */
static void traits_members(struct text *t, const struct shown *s)
{
    char mem[64];
    struct text normal = text_in(mem, sizeof(mem));

    json_member(t, "family", str_of(s->facts.family));
    json_member(t, "variant", str_of(s->facts.variant));
    traits_parameters(str_of(s->facts.parameters), &normal);
    json_member(t, "parameter_size", text_str(&normal));
    normal = text_in(mem, sizeof(mem));
    traits_quantization(str_of(s->facts.quantization), &normal);
    json_member(t, "quantization", text_str(&normal));
}

static uint64_t created(const struct shown *s)
{
    return s->facts.created > 0 ? s->facts.created : (uint64_t)(admin_start_wall() / 1000);
}

static void optional_u64(struct text *t, const char *key, uint64_t value)
{
    if (value > 0) {
        json_member_u64(t, key, value);
    }
}

static void optional(struct text *t, const char *key, const char *value)
{
    if (value[0]) {
        json_member(t, key, str_of(value));
    }
}

/* ---- formats --------------------------------------------------------------------------- */

/* What all OpenAI-like elements begin with; owner NULL: olla. */
static void begin(struct text *t, const struct shown *s, const char *owner)
{
    text_addz(t, "{\"id\":");
    json_text(t, str_of(s->name));
    json_member(t, "object", STR("model"));
    json_member(t, "owned_by", owner ? traits_owner(str_of(s->name), str_of(owner)) : STR("olla"));
    json_member_u64(t, "created", created(s));
}

static void write_plain(struct text *t, const struct shown *s, const char *owner)
{
    begin(t, s, owner);
    text_char(t, '}');
}

static void write_unified(struct text *t, const struct shown *s, const char *owner)
{
    begin(t, s, owner);
    text_addz(t, ",\"olla\":{");
    traits_members(t, s);
    member_list(t, "aliases");
    formats_aliases(t, s);
    text_char(t, ']');
    member_list(t, "availability");
    availability(t, s);
    text_char(t, ']');
    member_list(t, "capabilities");
    formats_capabilities(t, formats_abilities(s));
    text_char(t, ']');
    optional_u64(t, "max_context_length", s->facts.context);
    text_addz(t, "}}");
}

static void write_ollama(struct text *t, const struct shown *s, const char *owner)
{
    const struct model_facts *f = &s->facts;
    (void)owner;
    text_addz(t, "{\"name\":");
    json_text(t, str_of(s->name));
    json_member(t, "model", str_of(s->name));
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
    text_addz(t, ",\"details\":{\"parent_model\":\"\"");
    json_member(t, "format", str_of(f->format));
    json_member(t, "family", str_of(f->family));
    member_list(t, "families");
    bool first = true;
    for (struct str rest = str_of(f->families[0] ? f->families : f->family); rest.n > 0; first = false) {
        formats_string(t, str_split(&rest, ','), first);
    }
    text_char(t, ']');
    json_member(t, "parameter_size", str_of(f->parameters));
    json_member(t, "quantization_level", str_of(f->quantization));
    text_addz(t, "}}");
}

static void write_lm_studio(struct text *t, const struct shown *s, const char *owner)
{
    static const char *const kinds[] = {"llm", "llm", "vlm", "embeddings"};
    const struct model_facts *f = &s->facts;
    (void)owner;
    text_addz(t, "{\"id\":");
    json_text(t, str_of(s->name));
    json_member(t, "object", STR("model"));
    json_member(t, "type", str_of(kinds[f->kind]));
    optional(t, "publisher", f->publisher);
    optional(t, "arch", f->family);
    optional(t, "quantization", f->quantization);
    json_member(t, "state", formats_loaded(s) ? STR("loaded") : STR("not-loaded"));
    optional_u64(t, "max_context_length", f->context);
    text_char(t, '}');
}

static void permission(struct text *t, const struct shown *s)
{
    char id[OLLA_MODEL_NAME + 32];
    struct text name = text_in(id, sizeof(id));
    text_addz(&name, "modelperm-olla-");
    for (const char *c = s->name; *c; c++) {
        text_char(&name, *c == '/' ? '-' : *c);
    }
    member_list(t, "permission");
    text_addz(t, "{\"id\":");
    json_text(t, text_str(&name));
    json_member(t, "object", STR("model_permission"));
    json_member_u64(t, "created", created(s));
    text_addz(t,
              ",\"allow_create_engine\":false,\"allow_sampling\":true,\"allow_logprobs\":true,"
              "\"allow_search_indices\":false,\"allow_view\":true,\"allow_fine_tuning\":false,\"organization\":\"*\","
              "\"group\":null,\"is_blocking\":false}]");
}

static void write_vllm(struct text *t, const struct shown *s, const char *owner)
{
    begin(t, s, owner);
    json_member(t, "root", str_of(s->name));
    optional_u64(t, "max_model_len", s->facts.context);
    permission(t, s);
    text_char(t, '}');
}

static void write_sglang(struct text *t, const struct shown *s, const char *owner)
{
    begin(t, s, owner);
    json_member(t, "root", str_of(s->name));
    optional_u64(t, "max_model_len", s->facts.context);
    text_addz(t, formats_abilities(s) & CAP_VISION ? ",\"supports_vision\":true}" : "}");
}

static void write_lmdeploy(struct text *t, const struct shown *s, const char *owner)
{
    begin(t, s, owner);
    permission(t, s);
    text_char(t, '}');
}

static void write_lemonade(struct text *t, const struct shown *s, const char *owner)
{
    endpoint_set set = sources(s);
    struct endpoint *e;
    bool there = false;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        there = there || ((set & endpoint_bit(e)) && state_at(s, e) >= MODEL_AVAILABLE);
    }
    begin(t, s, owner);
    json_member(t, "checkpoint", str_of(s->facts.checkpoint));
    json_member(t, "recipe", str_of(s->facts.recipe));
    text_addz(t, there ? ",\"downloaded\":true}" : ",\"downloaded\":false}");
}

static void write_anthropic(struct text *t, const struct shown *s, const char *owner)
{
    (void)owner;
    text_addz(t, "{\"type\":\"model\",\"id\":");
    json_text(t, str_of(s->name));
    json_member(t, "display_name", str_of(s->name));
    text_addz(t, ",\"created_at\":\"");
    admin_time_text(t, (int64_t)created(s) * 1000);
    text_addz(t, "\"}");
}

#define LIST "{\"object\":\"list\",\"data\":["

static const struct format formats[LISTING_COUNT] = {
    /* clang-format off */
    [LISTING_UNIFIED]   = {"unified",             LIST,              "]}\n", ROUTE_ANY_API,           NULL,        NULL,       write_unified},
    [LISTING_OPENAI]    = {"openai",              LIST,              "]}\n", API_OPENAI,    NULL,        NULL,       write_plain},
    [LISTING_OLLAMA]    = {"ollama",              "{\"models\":[",   "]}\n", API_OLLAMA,    NULL,        NULL,       write_ollama},
    [LISTING_LM_STUDIO] = {"lmstudio",            LIST,              "]}\n", API_OPENAI,    "lm-studio", NULL,       write_lm_studio},
    [LISTING_VLLM]      = {"vllm",                LIST,              "]}\n", ROUTE_ANY_API,           NULL,        "vllm",     write_vllm},
    [LISTING_SGLANG]    = {"sglang",              LIST,              "]}\n", ROUTE_ANY_API,           NULL,        "sglang",   write_sglang},
    [LISTING_LMDEPLOY]  = {"lmdeploy",            LIST,              "]}\n", ROUTE_ANY_API,           NULL,        "lmdeploy", write_lmdeploy},
    [LISTING_LLAMACPP]  = {"llamacpp",            "{\"models\":null,\"object\":\"list\",\"data\":[", "]}\n", ROUTE_ANY_API, NULL, "llamacpp", write_plain},
    [LISTING_LEMONADE]  = {"lemonade",            LIST,              "]}\n", ROUTE_ANY_API,           NULL,        "lemonade", write_lemonade},
    [LISTING_DMR]       = {"docker-model-runner", LIST,              "]}\n", ROUTE_ANY_API,           NULL,        "docker",   write_plain},
    [LISTING_VLLM_MLX]  = {"vllm-mlx",            LIST,              "]}\n", ROUTE_ANY_API,           NULL,        "vllm-mlx", write_plain},
    [LISTING_ANTHROPIC] = {NULL,                  NULL,              NULL,   ROUTE_ANY_API,           NULL,        NULL,       write_anthropic},
    /* clang-format on */
};

const struct format *formats_get(enum listing listing)
{
    return &formats[listing];
}

enum listing formats_find(struct str name)
{
    int i = 0;
    while (i < LISTING_COUNT && !(formats[i].name && str_eq(str_of(formats[i].name), name))) {
        i++;
    }
    return (enum listing)i;
}

void formats_names(struct text *t)
{
    bool first = true;
    for (int i = 0; i < LISTING_COUNT; i++) {
        if (formats[i].name) {
            text_addz(t, first ? "" : ", ");
            text_addz(t, formats[i].name);
            first = false;
        }
    }
}

/* Once for each machine, under however many names it has it. */
static uint64_t disk_size(const struct shown *s)
{
    uint64_t size = 0;
    endpoint_set counted = 0;
    for (const struct model *m = s->m->head->members; m; m = m->next) {
        for (endpoint_set new = m->now.serves & s->scope & ~counted; new; new &= new - 1) {
            size += m->facts.size;
        }
        counted |= m->now.serves;
    }
    return size;
}

void formats_write_entry(struct text *t, const struct shown *s)
{
    char mem[64];
    struct text normal = text_in(mem, sizeof(mem));
    uint64_t weights = traits_parameters(str_of(s->facts.parameters), &normal);
    weights = weights > 0 ? weights : s->facts.weights > 0 ? s->facts.weights : s->facts.size;

    text_addz(t, "{\"id\":");
    json_text(t, str_of(s->name));
    traits_members(t, s);
    json_member(t, "format", str_of(s->facts.format));
    text_addz(t, ",\"total_disk_size\":\"");
    admin_bytes_text(t, disk_size(s));
    text_addz(t, "\",\"last_seen\":\"");
    admin_ago_text(t, admin_last_seen(sources(s)));
    text_char(t, '"');
    member_list(t, "aliases");
    formats_aliases(t, s);
    text_char(t, ']');
    member_list(t, "endpoints");
    endpoint_names(t, s, false);
    text_char(t, ']');
    member_list(t, "loaded_endpoints");
    endpoint_names(t, s, true);
    text_char(t, ']');
    member_list(t, "capabilities");
    formats_capabilities(t, formats_abilities(s));
    text_char(t, ']');
    json_member_u64(t, "parameter_count", weights);
    optional_u64(t, "max_context_length", s->facts.context);
    text_addz(t, "}\n");
}
