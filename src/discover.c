/*
 * discover.c - level 6: see discover.h.
 *
 * May include: olla.h, levels 1 to 5, probe.h, model.h, discover.h.
 */
#include "discover.h"

#include <string.h>

#include "log.h"
#include "model.h"
#include "probe.h"
#include "traits.h"

#define RETRY_MS 10000
/* ... while requests wait for it. */
#define EAGER_MS 300

static int active;

/* ---- one entry -------------------------------------------------------------------- */

/*
 * Where a format keeps what we want: keys of the entry, or "object.key"; the first of several that is there. Which
 * facts of which server these are: its own documents.
 */
struct list_fields {
    const char *list; /* the key of the array of entries */
    const char *name, *size, *context, *digest, *modified, *created, *weights;
    const char *family, *families, *parameters, *quantization, *format, *publisher, *kind, *record;
    const char *state, *checkpoint, *recipe;
    const char *words; /* an array of what it can do */
    bool gigabytes;    /* size is in GB, with a fraction */
};

static const struct list_fields formats[] = {
    [LIST_OPENAI] = {.list = "data",
                     .name = "id",
                     .context = "max_model_len context_length context_window max_input_tokens",
                     .created = "created",
                     .publisher = "owned_by",
                     .record = "object"},
    [LIST_OLLAMA] = {.list = "models",
                     .name = "name",
                     .size = "size",
                     .context = "details.context_length",
                     .digest = "digest",
                     .modified = "modified_at",
                     .family = "details.family",
                     .families = "details.families",
                     .parameters = "details.parameter_size",
                     .quantization = "details.quantization_level",
                     .format = "details.format",
                     .words = "capabilities"},
    [LIST_LM_STUDIO] = {.list = "data",
                        .name = "id",
                        .context = "max_context_length",
                        .family = "arch",
                        .quantization = "quantization",
                        .format = "compatibility_type",
                        .publisher = "publisher",
                        .kind = "type",
                        .record = "object",
                        .state = "state",
                        .words = "capabilities"},
    [LIST_LLAMACPP] = {.list = "data",
                       .name = "id",
                       .size = "meta.size",
                       .context = "meta.n_ctx meta.n_ctx_train",
                       .created = "created",
                       .weights = "meta.n_params",
                       .quantization = "meta.ftype",
                       .publisher = "owned_by",
                       .state = "status.value",
                       .words = "architecture.input_modalities"},
    [LIST_LEMONADE] = {.list = "data",
                       .name = "id",
                       .size = "size",
                       .gigabytes = true,
                       .context = "context_length max_context_window",
                       .created = "created",
                       .checkpoint = "checkpoint",
                       .recipe = "recipe",
                       .words = "labels"},
};

/* What servers call what a model can do. */
static const struct {
    const char *word;
    unsigned said;
    enum model_kind kind;
} words[] = {
    {"vision", CAP_SET_VISION, KIND_VLM},
    {"image", CAP_SET_VISION, KIND_VLM},
    {"multimodal", CAP_SET_VISION, KIND_VLM},
    {"embedding", CAP_SET_EMBEDDINGS, KIND_EMBEDDINGS},
    {"embeddings", CAP_SET_EMBEDDINGS, KIND_EMBEDDINGS},
    {"tools", CAP_TOOLS, KIND_UNKNOWN},
    {"tool_use", CAP_TOOLS, KIND_UNKNOWN},
    {"tool-calling", CAP_TOOLS, KIND_UNKNOWN},
    {"completion", CAP_COMPLETION, KIND_UNKNOWN},
    {"thinking", CAP_REASONING | CAP_LOGIC, KIND_UNKNOWN},
    {"reasoning", CAP_REASONING | CAP_LOGIC, KIND_UNKNOWN},
    {"coding", CAP_CODE_GENERATION | CAP_PROGRAMMING | CAP_CODE_COMPLETION, KIND_UNKNOWN},
};

static const struct {
    const char *word;
    enum model_kind kind;
} kinds[] = {{"llm", KIND_LLM}, {"vlm", KIND_VLM}, {"embeddings", KIND_EMBEDDINGS}, {"embedding", KIND_EMBEDDINGS}};

/* The node at the first of these places that there is, or -1. */
static int node_at(const struct json_slice *s, const char *places)
{
    char place[48], outer[32];
    int node = -1;

    for (struct str rest = str_of(places); rest.p && node < 0;) {
        struct str one = str_split(&rest, ' ');
        size_t dot = str_find(one, '.');
        node = json_root(s);
        if (dot < one.n) {
            str_copy(outer, sizeof(outer), (struct str){one.p, dot});
            node = json_get(s, node, outer);
            one = str_skip(one, dot + 1);
        }
        str_copy(place, sizeof(place), one);
        node = node < 0 || one.n == 0 ? -1 : json_get(s, node, place);
    }
    return node;
}

static void get_string(const struct json_slice *s, const char *where, char *to, size_t cap)
{
    to[0] = '\0';
    if (where && json_string(s, node_at(s, where), to, cap)) {
        for (char *c = to; *c; c++) {
            *c = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c; /* it may go into headers and logs */
        }
    }
}

static uint64_t get_number(const struct json_slice *s, const char *where)
{
    uint64_t v = 0;
    return where && json_u64(s, node_at(s, where), &v) ? v : 0;
}

static void note_word(struct model_facts *m, const char *word)
{
    for (size_t i = 0; i < OLLA_COUNT(words); i++) {
        if (str_ieq(str_of(words[i].word), str_of(word))) {
            m->said |= words[i].said;
            m->kind = words[i].kind != KIND_UNKNOWN ? words[i].kind : m->kind;
        }
    }
}

static void read_abilities(const struct json_slice *s, const struct list_fields *f, struct model_facts *m)
{
    char word[24];
    get_string(s, f->kind, word, sizeof(word));
    for (size_t i = 0; i < OLLA_COUNT(kinds); i++) {
        if (str_ieq(str_of(kinds[i].word), str_of(word))) {
            m->kind = kinds[i].kind;
        }
    }
    for (unsigned i = 0; f->words && i < OLLA_MAX_LIST_ITEMS; i++) {
        if (json_item(s, node_at(s, f->words), i, word, sizeof(word))) {
            note_word(m, word);
        }
    }
    if (m->kind == KIND_EMBEDDINGS && (m->said & CAP_COMPLETION)) {
        m->kind = KIND_LLM; /* it can do both */
    }
    m->said |= m->kind == KIND_VLM ? CAP_SET_VISION : m->kind == KIND_EMBEDDINGS ? CAP_SET_EMBEDDINGS : 0;
}

static enum model_state read_state(const struct json_slice *s, const struct list_fields *f, const struct model_facts *m)
{
    char word[24];
    get_string(s, f->state, word, sizeof(word));
    if (word[0]) {
        return str_eq(str_of(word), STR("loaded")) ? MODEL_LOADED : MODEL_NOT_LOADED;
    }
    bool there = f->recipe ? json_true(s, node_at(s, "downloaded")) : m->size > 0;
    return there ? MODEL_AVAILABLE : MODEL_UNKNOWN;
}

static bool usable_name(const char *name)
{
    struct str s = str_of(name);
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f) {
            return false; /* it would have to go into headers and logs */
        }
    }
    return s.n > 0 && str_trim(s).n == s.n;
}

/* What the list leaves out and the name or the type tells. */
static void add_known(struct model_facts *m, const struct endpoint *e)
{
    const struct profile *p = e->profile, *owner = m->publisher[0] ? profile_by_type(str_of(m->publisher)) : NULL;
    struct text family = text_in(m->family, sizeof(m->family)), variant = text_in(m->variant, sizeof(m->variant));

    if (p->record) {
        str_copy(m->record, sizeof(m->record), str_of(p->record));
    }
    if (p->weights) {
        str_copy(m->format, sizeof(m->format), str_of(p->weights));
    } else if (m->recipe[0] && !m->format[0]) {
        bool onnx = str_starts(str_of(m->recipe), STR("oga-"));
        bool gguf = str_eq(str_of(m->recipe), STR("llamacpp")) || str_eq(str_of(m->recipe), STR("flm"));
        str_copy(m->format, sizeof(m->format), onnx ? STR("onnx") : gguf ? STR("gguf") : STR(""));
    }
    if (m->checkpoint[0] && str_find(str_of(m->checkpoint), '/') < strlen(m->checkpoint)) {
        str_copy(m->publisher, sizeof(m->publisher), traits_publisher(str_of(m->checkpoint)));
    } else if (!m->publisher[0] || owner) { /* servers name themselves as owners */
        str_copy(m->publisher, sizeof(m->publisher), traits_publisher(str_of(m->name)));
    }
    if (!m->family[0]) {
        traits_family(str_of(m->name), &family, &variant);
        text_z(&family);
        text_z(&variant);
        m->guessed = 1;
    }
}

static void get_families(const struct json_slice *s, const struct list_fields *f, struct model_facts *m)
{
    char word[32];
    struct text t = text_in(m->families, sizeof(m->families) - 1);
    for (unsigned i = 0; f->families && json_item(s, node_at(s, f->families), i, word, sizeof(word)); i++) {
        text_addz(&t, i > 0 ? "," : "");
        text_addz(&t, word);
    }
    text_z(&t);
}

/* llama.cpp writes "Q4_K - Medium" and "all F32" for what everybody else calls Q4_K_M and F32. */
static void shorten_quantization(struct model_facts *m)
{
    char mem[sizeof(m->quantization)];
    struct text t = text_in(mem, sizeof(mem));
    struct str said = str_of(m->quantization);
    said = str_starts(said, STR("all ")) ? str_skip(said, 4) : said;
    size_t end = str_find(said, ' ');
    struct str rest = str_skip(said, end);

    text_add(&t, (struct str){said.p, end});
    if (str_starts(rest, STR(" - ")) && rest.n > 3 && rest.p[3] >= 'A' && rest.p[3] <= 'Z') {
        text_char(&t, '_');
        text_char(&t, rest.p[3]);
    }
    str_copy(m->quantization, sizeof(m->quantization), str_of(text_z(&t)));
}

/* false: an entry without a usable name. */
static bool read_entry(struct str object, const struct endpoint *e, struct model_facts *m, enum model_state *state)
{
    const struct list_fields *f = &formats[e->profile->list];
    struct json_slice s = json_open(object);
    uint64_t context;

    if (s.tokens == 0 || !json_string(&s, node_at(&s, f->name), m->name, sizeof(m->name)) || !usable_name(m->name)) {
        return false;
    }
    context = get_number(&s, f->context);
    m->context = context > UINT32_MAX ? 0 : (uint32_t)context;
    if (f->gigabytes) {
        json_scaled(&s, node_at(&s, f->size), 9, &m->size);
    } else {
        m->size = get_number(&s, f->size);
    }
    m->created = get_number(&s, f->created);
    m->weights = get_number(&s, f->weights);
    get_string(&s, f->digest, m->digest, sizeof(m->digest));
    get_string(&s, f->modified, m->modified, sizeof(m->modified));
    get_string(&s, f->family, m->family, sizeof(m->family));
    get_families(&s, f, m);
    get_string(&s, f->parameters, m->parameters, sizeof(m->parameters));
    get_string(&s, f->quantization, m->quantization, sizeof(m->quantization));
    if (e->profile->list == LIST_LLAMACPP) {
        shorten_quantization(m);
    }
    get_string(&s, f->format, m->format, sizeof(m->format));
    get_string(&s, f->publisher, m->publisher, sizeof(m->publisher));
    get_string(&s, f->record, m->record, sizeof(m->record));
    get_string(&s, f->checkpoint, m->checkpoint, sizeof(m->checkpoint));
    get_string(&s, f->recipe, m->recipe, sizeof(m->recipe));
    read_abilities(&s, f, m);
    *state = read_state(&s, f, m);
    add_known(m, e);
    return true;
}

static bool any_matches(const struct conf_list *patterns, struct str name)
{
    for (int i = 0; i < patterns->n; i++) {
        if (str_matches(name, str_of(patterns->item[i]))) {
            return true;
        }
    }
    return false;
}

static bool filtered(const struct endpoint *e, struct str name)
{
    const struct conf_endpoint *ce = &conf_now->endpoint[e->order];
    bool included = ce->model_filter.include.n == 0 || any_matches(&ce->model_filter.include, name);
    return !included || any_matches(&ce->model_filter.exclude, name);
}

bool discover_accepts(const struct endpoint *e, struct str name)
{
    char mem[OLLA_MODEL_NAME];
    return str_copy(mem, sizeof(mem), name) && usable_name(mem) && !filtered(e, name);
}

static void offer(struct probe *p, const struct model_facts *facts, enum model_state state)
{
    if (filtered(p->e, str_of(facts->name))) {
        return;
    }
    if (model_offer(p->e, facts, state)) {
        p->offered++;
    } else {
        p->full = true;
    }
}

/* llama.cpp answers to more names than one. */
static void offer_aliases(struct probe *p, struct model_facts *facts, enum model_state state)
{
    char name[OLLA_MODEL_NAME], alias[OLLA_MODEL_NAME];
    struct json_slice s = json_open((struct str){p->list.out, p->list.n});
    int aliases = json_get(&s, json_root(&s), "aliases");

    str_copy(name, sizeof(name), str_of(facts->name));
    for (unsigned i = 0; i < OLLA_MAX_LIST_ITEMS && json_item(&s, aliases, i, alias, sizeof(alias)); i++) {
        if (strcmp(alias, name) != 0 && usable_name(alias)) {
            memset(facts->name, 0, sizeof(facts->name)); /* all of the facts are compared */
            str_copy(facts->name, sizeof(facts->name), str_of(alias));
            offer(p, facts, state);
        }
    }
}

static void take_entry(struct probe *p)
{
    static struct model_facts facts;
    enum model_state state;
    memset(&facts, 0, sizeof(facts));
    p->entries++;
    if (!read_entry((struct str){p->list.out, p->list.n}, p->e, &facts, &state)) {
        p->skipped++;
        return;
    }
    p->context = facts.context;
    offer(p, &facts, state);
    if (p->e->profile->list == LIST_LLAMACPP) {
        offer_aliases(p, &facts, state);
    }
}

/* ---- the list ----------------------------------------------------------------------- */

/* llama.cpp's other list, in front: the words of the one model that it serves. */
static void look_at_hints(struct probe *p, const char *bytes, size_t n)
{
    size_t used;
    char word[24];
    while (!p->hints.array_done && json_list_feed(&p->hints, bytes, n, &used) == 1) {
        struct json_slice s = json_open((struct str){p->hints.out, p->hints.n});
        int abilities = json_get(&s, json_root(&s), "capabilities");
        for (unsigned i = 0; json_item(&s, abilities, i, word, sizeof(word)); i++) {
            p->e->extra.said |= str_eq(str_of(word), STR("multimodal")) ? CAP_SET_VISION : 0;
        }
        bytes += used;
        n -= used;
    }
}

static bool list_body(struct probe *p, const char *bytes, size_t n)
{
    enum conf_list_format format = p->e->profile->list;

    if (!p->hints.out) {
        json_list_start(&p->hints, "models", NULL, p->hint_text, sizeof(p->hint_text));
    }
    if (format == LIST_LLAMACPP) {
        look_at_hints(p, bytes, n);
    }
    return probe_take_elements(p, formats[format].list, bytes, n, take_entry);
}

static void report(struct probe *p, bool ok, unsigned before, unsigned after, const char *why)
{
    struct endpoint *e = p->e;
    if (!ok) {
        /* Once per outage, not once per try. */
        if (e->list_failed || !log_begin(LOG_WARN, "model list cannot be read")) {
            return;
        }
        log_z("endpoint", e->name);
        log_z("reason", why);
        log_end();
        return;
    }
    if ((before != after || e->last_discovery == 0 || e->list_failed) && log_begin(LOG_INFO, "models")) {
        log_z("endpoint", e->name);
        log_u64("count", after);
        log_end();
    }
    if ((p->skipped > 0 || p->list.skipped > 0) && e->last_discovery == 0 &&
        log_begin(LOG_WARN, "model entries skipped")) {
        log_z("endpoint", e->name);
        log_u64("count", p->skipped + p->list.skipped);
        log_z("reason", "no usable name (a string of at most OLLA_MODEL_NAME - 1 bytes), or larger than OLLA_BUF_SIZE");
        log_end();
    }
    if (p->full && log_begin(LOG_WARN, "the model catalogue is full, models are missing")) {
        log_z("endpoint", e->name);
        log_z("limit", "OLLA_MAX_MODELS");
        log_u64("value", OLLA_MAX_MODELS);
        log_z("remedy", "build with a larger OLLA_MAX_MODELS");
        log_end();
    }
}

static const char *refusal(const struct probe *p)
{
    if (p->to != &p->e->at[TARGET_MAIN]) {
        return "it wants credentials for its model list, which do not go to another host of model_url";
    }
    return p->e->headers_n > 0 ? "it wants other credentials for its model list than those of auth and headers"
                               : "it wants credentials for its model list (auth.type)";
}

static void list_done(struct probe *p, enum probe_result result)
{
    static const char *const lost[] = {
        [PROBE_ANSWERED] = "the reply holds no model list: check model_url and type",
        [PROBE_REFUSED] = "cannot be connected to",
        [PROBE_TIMEOUT] = "the list did not come in time (discovery.model_discovery.timeout)",
        [PROBE_LOST] = "the connection was closed before the end of the list",
        [PROBE_GARBLED] = "the reply is malformed or larger than OLLA_MAX_LIST",
        [PROBE_CANCELLED] = "",
    };
    struct endpoint *e = p->e;
    bool ok = result == PROBE_ANSWERED && p->status == 200 && p->list.array_done;
    unsigned before = e->models;

    active--;
    e->discovering = false;
    if (p->entries == 1) { /* with more it would not be known which of them is meant */
        model_improve(e, e->extra.context, e->extra.said, e->extra.said & CAP_VISION ? KIND_VLM : KIND_UNKNOWN);
    }
    e->only_context = ok && p->entries == 1 ? p->context : 0;
    e->models = model_list_end(e, ok && !e->removed && result != PROBE_CANCELLED);
    if (result == PROBE_CANCELLED || e->removed) {
        return;
    }
    if (p->no_buffer) {
        e->next_discovery = net_now() + PROBE_AGAIN_MS;
        return;
    }
    bool locked = result == PROBE_ANSWERED && (p->status == 401 || p->status == 403);
    bool refused = result == PROBE_ANSWERED && p->status != 200;
    report(p, ok, before, e->models,
           locked    ? refusal(p)
           : refused ? "the answer is not 200: check model_url and type"
                     : lost[result]);
    e->discovered = true;
    e->list_failed = !ok;
    if (!ok && result == PROBE_ANSWERED && !e->own_models && (p->status == 404 || p->status == 200)) {
        endpoint_undetect(e); /* perhaps another server has taken its place */
    }
    uint64_t interval = (uint64_t)conf_now->discovery.model_discovery.interval;
    uint64_t retry = net_now() < e->eager_until || e->wake.active ? EAGER_MS : RETRY_MS;
    e->next_discovery = net_now() + (!ok && interval > retry ? retry : interval);
    if (e->ask_again) {
        e->ask_again = false;
        e->next_discovery = net_now();
    }
    if (ok) {
        e->last_discovery = net_now();
    }
}

static const struct probe_ops list_ops = {"Discovery", list_body, list_done};

/* ---- what the list does not tell ------------------------------------------------------ */

static void take_member(struct endpoint *e, const struct json_members *m)
{
    struct str value = {m->out, m->n}, key = str_of(m->key);
    struct json_slice s;
    uint64_t n;

    if (str_eq(key, STR("version")) && value.n > 2 && value.n - 2 < sizeof(e->extra.version)) {
        str_copy(e->extra.version, sizeof(e->extra.version), (struct str){value.p + 1, value.n - 2});
    } else if (str_eq(key, STR("default_generation_settings"))) {
        s = json_open(value);
        if (json_u64(&s, json_get(&s, json_root(&s), "n_ctx"), &n) && n <= UINT32_MAX) {
            e->extra.context = (uint32_t)n;
        }
    } else if (str_eq(key, STR("modalities"))) {
        s = json_open(value);
        e->extra.said = json_true(&s, json_get(&s, json_root(&s), "vision")) ? CAP_SET_VISION : 0;
    }
}

static bool extra_body(struct probe *p, const char *bytes, size_t n)
{
    size_t used;
    int got;

    if (!p->item.mem && probe_hold_item(p)) {
        json_members_start(&p->members, p->item.mem, OLLA_BUF_SIZE);
    }
    if (p->no_buffer) {
        return false;
    }
    while ((got = json_members_feed(&p->members, bytes, n, &used)) == 1) {
        take_member(p->e, &p->members);
        bytes += used;
        n -= used;
    }
    return got != OLLA_ERR;
}

/* Whatever came of it, the list is next: this is of use, but nothing depends on it. */
static void extra_done(struct probe *p, enum probe_result result)
{
    active--;
    p->e->discovering = false;
    p->e->extra.asked = !p->no_buffer;
    if (result != PROBE_CANCELLED && p->no_buffer) {
        p->e->next_discovery = net_now() + PROBE_AGAIN_MS;
    }
}

static const struct probe_ops extra_ops = {"Discovery", extra_body, extra_done};

/* Asks what the type has to tell beside its list, once before each list. */
static bool start_extra(struct endpoint *e)
{
    struct text t = text_in(e->extra.path, sizeof(e->extra.path));
    text_addz(&t, e->base);
    text_addz(&t, e->profile->extra_path);
    text_z(&t);
    e->extra.context = 0;
    e->extra.said = 0;
    e->extra.version[0] = '\0';
    return probe_start(e, endpoint_target(e, TARGET_MAIN), e->extra.path, e->check_timeout, &extra_ops);
}

static bool start_list(struct endpoint *e)
{
    e->extra.asked = false;
    e->list_started = net_now();
    model_list_begin(e);
    return probe_start(e, endpoint_target(e, TARGET_MODELS), e->models_path,
                       conf_now->discovery.model_discovery.timeout, &list_ops);
}

uint64_t discover_tick(void)
{
    uint64_t now = net_now(), next = UINT64_MAX;
    struct endpoint *e;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        e->discovered = e->discovered || (e->state == ENDPOINT_HEALTHY && !conf_now->discovery.model_discovery.enabled);
        if (e->discovering || !endpoint_can_list(e)) {
            continue;
        }
        if (e->next_discovery > now) {
            next = e->next_discovery < next ? e->next_discovery : next;
            continue;
        }
        if (active < conf_now->discovery.model_discovery.concurrent_workers) {
            active++;
            e->discovering = true;
            bool extra = e->profile->extra_path && !e->extra.asked && endpoint_target(e, TARGET_MAIN)->addrs > 0;
            if (!(extra ? start_extra(e) : start_list(e))) {
                active--;
                e->discovering = false;
            }
        }
        if (!e->discovering) { /* no slot now, and it stays due; or it has ended already */
            uint64_t again = e->next_discovery > now ? e->next_discovery : now + PROBE_AGAIN_MS;
            next = again < next ? again : next;
        }
    }
    return next;
}
