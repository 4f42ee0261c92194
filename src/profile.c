/*
 * profile.c - level 4: see profile.h.
 *
 * May include: olla.h, str.h, conf.h, profile.h.
 */
#include "profile.h"

#include <string.h>

/* Servers on Python's uvicorn and on Node close idle connections after 5 s, so does cpp-httplib; Go's keep them. */
enum { IDLE_SHORT = 4000, IDLE_LONG = 60000 };

/* What most servers have in common. */
#define USUAL(type) .name = type, .models_path = "/v1/models", .list = LIST_OPENAI
#define ANTHROPIC   API_OPENAI | API_ANTHROPIC
#define NO_THINKING "\"chat_template_kwargs\":{\"enable_thinking\":false}"

static const struct profile profiles[] = {
    {
        .name = "ollama",
        .prefixes = "ollama",
        .health_path = "/",
        .models_path = "/api/tags",
        .extra_path = "/api/version",
        .load_path = "/api/ps",
        .load = LOAD_PS,
        .native = "/",
        .list = LIST_OLLAMA,
        .apis = ANTHROPIC | API_OLLAMA,
        .think_field = "reasoning",
        .think_off = "\"reasoning_effort\":\"none\"",
        .knows_effort = true,
        .idle_ms = IDLE_LONG,
        .drop_origin = true,
    },
    {
        .name = "llamacpp",
        .spellings = "llama-cpp llama_cpp llama.cpp",
        .prefixes = "llamacpp",
        .health_path = "/health",
        .models_path = "/v1/models",
        .extra_path = "/props",
        .load_path = "/slots",
        .load = LOAD_SLOTS,
        .native = "/health /completion /embedding /infill /tokenize /detokenize /apply-template /rerank /v1/rerank "
                  "/reranking /slots /props /metrics",
        .list = LIST_LLAMACPP,
        .loading_503 = true,
        .record = "llamacpp",
        .weights = "gguf",
        .apis = ANTHROPIC,
        .think_field = "reasoning_content",
        .think_off = NO_THINKING,
        .knows_top_k = true,
        .knows_effort = true,
        .no_null_content = true,
        .counts_tokens = true,
        .no_named_choice = true,
        .idle_ms = IDLE_SHORT,
    },
    {
        USUAL("vllm"),
        .prefixes = "vllm",
        .health_path = "/health",
        .native = "/health /rerank /v1/rerank /v2/rerank /score /classify /pooling /tokenize /detokenize /v1/tokenize "
                  "/v1/detokenize /get_tokenizer_info /metrics /version",
        .load_path = "/metrics",
        .load = LOAD_METRICS,
        .record = "vllm",
        .apis = ANTHROPIC,
        .think_field = "reasoning",
        .think_off = NO_THINKING,
        .knows_top_k = true,
        .knows_effort = true,
        .idle_ms = IDLE_SHORT,
    },
    {
        USUAL("vllm-mlx"),
        .spellings = "vllmmlx vllm_mlx",
        .prefixes = "vllm-mlx",
        .health_path = "/health",
        .native = "/health",
        .record = "vllm-mlx",
        .weights = "mlx",
        .apis = ANTHROPIC,
        .think_field = "reasoning",
        .knows_top_k = true,
        .counts_tokens = true,
        .idle_ms = IDLE_SHORT,
    },
    {
        USUAL("omlx"),
        .prefixes = "omlx",
        .health_path = "/health",
        .native = "/health /v1/rerank /v1/models/status",
        .apis = ANTHROPIC,
        .idle_ms = IDLE_SHORT,
    },
    {
        USUAL("sglang"),
        .prefixes = "sglang",
        .health_path = "/health",
        .native = "/health /generate /batch /extend /metrics /version /v1/rerank /v1/chat/completions/vision",
        .load_path = "/metrics",
        .load = LOAD_METRICS,
        .record = "sglang",
        .apis = API_OPENAI,
        .think_field = "reasoning_content",
        .think_off = NO_THINKING,
        .knows_top_k = true,
        .knows_effort = true,
        .idle_ms = IDLE_SHORT,
    },
    {
        USUAL("lmdeploy"),
        .prefixes = "lmdeploy",
        .health_path = "/health",
        .native = "/health /generate /pooling /is_sleeping /v1/encode",
        .record = "lmdeploy",
        .apis = API_OPENAI,
        .think_field = "reasoning_content",
        .knows_top_k = true,
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "lm-studio",
        .spellings = "lmstudio lm_studio",
        .prefixes = "lmstudio lm-studio lm_studio",
        .health_path = "/v1/models",
        .models_path = "/api/v0/models",
        .load_path = "/api/v0/models",
        .load = LOAD_LIST,
        .list = LIST_LM_STUDIO,
        .apis = ANTHROPIC | API_LM_STUDIO,
        .think_field = "reasoning",
        .knows_top_k = true,
        .knows_effort = true,
        .no_named_choice = true,
        .idle_ms = IDLE_SHORT,
        .drop_origin = true,
        .check_models = true,
    },
    {
        .name = "lemonade",
        .prefixes = "lemonade",
        .health_path = "/api/v1/health",
        .models_path = "/api/v1/models",
        .list = LIST_LEMONADE,
        .record = "lemonade",
        .apis = API_OPENAI | API_LEMONADE,
        .v1_base = "/api",
        .idle_ms = IDLE_SHORT,
    },
    {
        USUAL("litellm"),
        .prefixes = "litellm",
        .health_path = "/health/liveliness", /* its /health runs a completion on every model */
        .native = "/ /v1/rerank /chat/completions /completions /embeddings /models /health/readiness /health/liveness",
        .apis = ANTHROPIC,
        .knows_effort = true,
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "docker-model-runner",
        .spellings = "dmr docker_model_runner docker",
        .prefixes = "dmr",
        .health_path = "/engines/v1/models",
        .models_path = "/engines/v1/models",
        .list = LIST_OPENAI,
        .record = "docker-model-runner",
        .weights = "gguf",
        .apis = ANTHROPIC | API_DMR,
        .v1_base = "/engines",
        .messages_base = "/anthropic",
        .counts_tokens = true,
        .idle_ms = IDLE_LONG,
    },
    {
        USUAL("localai"),
        .spellings = "local-ai local_ai",
        .prefixes = "localai",
        .health_path = "/readyz",
        .native = "/v1/rerank",
        .apis = API_OPENAI,
        .idle_ms = IDLE_LONG,
    },
    {
        USUAL("gpustack"),
        .prefixes = "gpustack",
        .health_path = "/healthz",
        .native = "/v1/rerank",
        .apis = API_OPENAI,
        .idle_ms = IDLE_SHORT,
    },
    {
        USUAL("openai-compatible"),
        .spellings = "openai openai_compatible",
        .prefixes = "openai openai-compatible",
        .health_path = "/v1/models",
        .apis = API_OPENAI,
        .idle_ms = IDLE_SHORT, /* may be any of the above */
        .any = true,
    },
};

/* Until detect.c knows better: no API at all, so that nothing is routed there. */
static const struct profile undetected = {
    .name = "auto",
    .health_path = "/",
    .models_path = "/v1/models",
    .idle_ms = IDLE_SHORT,
};

/* A configured type: a profile that owns its texts. */
struct own_profile {
    struct profile p;
    const struct profile *replaces; /* the built-in type in whose place it stands, or NULL */
    char name[32], prefixes[256], health_path[128], models_path[128], v1_base[64], messages_base[64];
};

static struct own_profile sets[2][OLLA_MAX_PROFILES];
static const struct own_profile *own = sets[0];
static int owns;

static bool has_word(const char *words, struct str word, bool any_case)
{
    for (struct str rest = str_of(words); rest.p != NULL;) {
        struct str w = str_split(&rest, ' ');
        if (w.n > 0 && (any_case ? str_ieq(w, word) : str_eq(w, word))) {
            return true;
        }
    }
    return false;
}

static const struct profile *builtin(struct str type)
{
    for (size_t i = 0; i < OLLA_COUNT(profiles); i++) {
        if (str_ieq(str_of(profiles[i].name), type) || has_word(profiles[i].spellings, type, true)) {
            return &profiles[i];
        }
    }
    return NULL;
}

/* What stands in the place of a built-in type: mostly itself. */
static const struct profile *in_force(const struct profile *p)
{
    for (int i = 0; p && i < owns; i++) {
        if (own[i].replaces == p) {
            return &own[i].p;
        }
    }
    return p;
}

const struct profile *profile_by_type(struct str type)
{
    if (type.n == 0 || str_ieq(type, str_of(undetected.name))) {
        return &undetected;
    }
    for (int i = 0; i < owns; i++) {
        if (str_ieq(str_of(own[i].name), type)) {
            return &own[i].p;
        }
    }
    return in_force(builtin(type));
}

const struct profile *profile_by_prefix(struct str segment)
{
    for (int i = 0; i < owns; i++) {
        if (has_word(own[i].p.prefixes, segment, false)) {
            return &own[i].p;
        }
    }
    for (size_t i = 0; i < OLLA_COUNT(profiles); i++) {
        if (has_word(profiles[i].prefixes, segment, false)) {
            return in_force(&profiles[i]) == &profiles[i] ? &profiles[i] : NULL;
        }
    }
    return NULL;
}

bool profile_is_auto(const struct profile *p)
{
    return p == &undetected;
}

bool profile_is_known(const struct conf *c, struct str type)
{
    bool known = type.n == 0 || str_ieq(type, str_of(undetected.name)) || builtin(type) != NULL;
    for (int i = 0; i < c->profiles && !known; i++) {
        known = str_ieq(str_of(c->profile[i].name), type);
    }
    return known;
}

bool profile_adds_v1(const struct conf *c, struct str type)
{
    const struct profile *p = builtin(type);
    for (int i = 0; i < c->profiles; i++) {
        struct str name = str_of(c->profile[i].name), models = str_of(c->profile[i].model_discovery_path);
        if (str_ieq(name, type) || (p && builtin(name) == p)) {
            return models.n == 0 || str_starts(models, STR("/v1/"));
        }
    }
    return true; /* of the built-in ones all, if only for requests in OpenAI's words */
}

const char *profile_known_types(const struct conf *c)
{
    static char names[320 + 34 * OLLA_MAX_PROFILES];
    struct text t = text_in(names, sizeof(names));
    for (int i = 0; i < c->profiles; i++) {
        if (!builtin(str_of(c->profile[i].name))) {
            text_addz(&t, c->profile[i].name);
            text_addz(&t, ", ");
        }
    }
    for (size_t i = 0; i < OLLA_COUNT(profiles); i++) {
        text_addz(&t, profiles[i].name);
        text_addz(&t, ", ");
    }
    text_addz(&t, "auto");
    return text_z(&t);
}

static bool same_text(const char *a, const char *b)
{
    return str_eq(str_of(a), str_of(b));
}

bool profile_same(const struct profile *a, const struct profile *b)
{
    return a == b || (same_text(a->name, b->name) && same_text(a->prefixes, b->prefixes) &&
                      same_text(a->health_path, b->health_path) && same_text(a->models_path, b->models_path) &&
                      same_text(a->v1_base, b->v1_base) && same_text(a->messages_base, b->messages_base) &&
                      a->list == b->list && a->apis == b->apis && a->idle_ms == b->idle_ms);
}

bool profile_serves(const struct profile *p, const struct profile *route)
{
    /* By name: a reload moves configured types, and a request may hold the old one. */
    return p == route || str_eq(str_of(p->name), str_of(route->name)) || (route->any && (p->apis & API_OPENAI));
}

bool profile_has_path(const struct profile *p, struct str path)
{
    return has_word(p->native, path, false);
}

/* ---- configured types ----------------------------------------------------------- */

#define MESSAGES STR("/v1/messages")

static bool is_segment(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = str_lower(s.p[i]);
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.')) {
            return false;
        }
    }
    return s.n > 0;
}

/* NULL = not given: fine. */
static bool is_path(const char *path, size_t cap)
{
    return !path || (str_starts(str_of(path), STR("/")) && strlen(path) < cap);
}

/* True if the built-in type's own prefixes are free for section `mine`: it is that type, or another section moves it. */
static bool is_moved(const struct conf *c, int mine, const struct profile *p)
{
    for (int i = 0; i < c->profiles; i++) {
        if (builtin(str_of(c->profile[i].name)) == p && (i == mine || c->profile[i].prefixes.n > 0)) {
            return true;
        }
    }
    return false;
}

/* Whose prefix that is beside section `mine`: a name, or NULL. */
static const char *taken_by(const struct conf *c, int mine, struct str prefix)
{
    for (int i = 0; i < c->profiles; i++) {
        const struct conf_list *l = &c->profile[i].prefixes;
        bool has = l->n == 0 && str_eq(str_of(c->profile[i].name), prefix) && !builtin(prefix);
        for (int k = 0; k < l->n && !has; k++) {
            has = str_eq(str_of(l->item[k]), prefix);
        }
        if (i != mine && has) {
            return c->profile[i].name;
        }
    }
    for (size_t i = 0; i < OLLA_COUNT(profiles); i++) {
        if (!is_moved(c, mine, &profiles[i]) && has_word(profiles[i].prefixes, prefix, false)) {
            return profiles[i].name;
        }
    }
    return str_eq(prefix, STR("proxy")) || str_eq(prefix, STR("models")) || str_eq(prefix, STR("anthropic"))
               ? "a route of olla's own"
               : NULL;
}

static int check_prefixes(const struct conf *c, int at, conf_message *say)
{
    const struct conf_profile *p = &c->profile[at];
    struct conf_list list = p->prefixes;
    size_t n = 0;
    int result = OLLA_OK;

    if (list.n == 0 && !builtin(str_of(p->name))) {
        list.item[list.n++] = p->name;
    }
    for (int i = 0; i < list.n; i++) {
        const char *owner = taken_by(c, at, str_of(list.item[i]));
        n += strlen(list.item[i]) + 1;
        if (!is_segment(str_of(list.item[i])) || n >= sizeof(own->prefixes)) {
            conf_tell(c, say, p->line, "profile", p->name, "not a path segment", list.item[i],
                      "(letters, digits, - _ . only; 255 bytes for all prefixes)");
            result = OLLA_ERR;
        } else if (owner) {
            conf_tell(c, say, p->line, "profile", p->name, "the prefix is taken", list.item[i], owner);
            result = OLLA_ERR;
        }
    }
    return result;
}

int profile_check(const struct conf *c, conf_message *say)
{
    int result = OLLA_OK;

    for (int i = 0; i < c->profiles; i++) {
        const struct conf_profile *p = &c->profile[i];
        const struct {
            const char *key, *value, *remedy;
            bool good;
        } rows[] = {
            {"name", p->name, "(at most 31 letters, digits, - _ . and not auto)",
             is_segment(str_of(p->name)) && strlen(p->name) < sizeof(own->name) &&
                 !str_ieq(str_of(p->name), str_of(undetected.name))},
            {"health_check_path", p->health_check_path, "(a path begins with / and has at most 127 bytes)",
             is_path(p->health_check_path, sizeof(own->health_path))},
            {"model_discovery_path", p->model_discovery_path, "(a path begins with / and has at most 127 bytes)",
             is_path(p->model_discovery_path, sizeof(own->models_path))},
            {"openai_base", p->openai_base, "(empty, or a path of at most 63 bytes without a slash at its end)",
             !p->openai_base || p->openai_base[0] == '\0' ||
                 (is_path(p->openai_base, sizeof(own->v1_base)) && !str_ends(str_of(p->openai_base), STR("/")))},
            {"messages_path", p->messages_path, "(empty, or a path of at most 63 bytes that ends in /v1/messages)",
             !p->messages_path || p->messages_path[0] == '\0' ||
                 (is_path(p->messages_path, sizeof(own->messages_base)) &&
                  str_ends(str_of(p->messages_path), MESSAGES))},
        };
        for (size_t k = 0; k < OLLA_COUNT(rows); k++) {
            if (!rows[k].good) {
                conf_tell(c, say, p->line, "profile", p->name, rows[k].key, rows[k].value, rows[k].remedy);
                result = OLLA_ERR;
            }
        }
        for (int k = 0; k < i; k++) {
            const struct profile *changed = builtin(str_of(p->name));
            if (changed && changed == builtin(str_of(c->profile[k].name))) {
                conf_tell(c, say, p->line, "profile", p->name, "changes the same type as", c->profile[k].name, "");
                result = OLLA_ERR;
            }
        }
        if (check_prefixes(c, i, say) != OLLA_OK) {
            result = OLLA_ERR;
        }
    }
    return result;
}

static void set_text(const char **to, char *mem, size_t cap, const char *given)
{
    if (given) {
        str_copy(mem, cap, str_of(given));
        *to = mem;
    }
}

static void set_messages(struct own_profile *o, const char *given)
{
    struct str base = str_of(given);
    if (!given) {
        return;
    }
    o->p.apis &= ~(unsigned)API_ANTHROPIC;
    o->p.messages_base = NULL;
    if (base.n > 0) {
        o->p.apis |= API_ANTHROPIC;
        base.n -= MESSAGES.n;
        str_copy(o->messages_base, sizeof(o->messages_base), base);
        o->p.messages_base = o->messages_base;
    }
}

static void set_prefixes(struct own_profile *o, const struct conf_list *given)
{
    struct text t = text_in(o->prefixes, sizeof(o->prefixes));
    for (int i = 0; i < given->n; i++) {
        text_addz(&t, i > 0 ? " " : "");
        text_addz(&t, given->item[i]);
    }
    if (given->n > 0) {
        o->p.prefixes = text_z(&t);
    }
}

static void set_own(struct own_profile *o, const struct conf_profile *given)
{
    static const struct profile fresh = {USUAL(""), .health_path = "/v1/models", .apis = API_OPENAI,
                                         .idle_ms = IDLE_SHORT};

    memset(o, 0, sizeof(*o));
    o->replaces = builtin(str_of(given->name));
    o->p = o->replaces ? *o->replaces : fresh;
    str_copy(o->name, sizeof(o->name), str_of(o->replaces ? o->replaces->name : given->name));
    o->p.name = o->name;
    o->p.prefixes = o->replaces ? o->p.prefixes : o->name;
    set_prefixes(o, &given->prefixes);
    set_text(&o->p.health_path, o->health_path, sizeof(o->health_path), given->health_check_path);
    set_text(&o->p.models_path, o->models_path, sizeof(o->models_path), given->model_discovery_path);
    set_text(&o->p.v1_base, o->v1_base, sizeof(o->v1_base), given->openai_base);
    set_messages(o, given->messages_path);
    if (given->response_format >= 0) {
        o->p.list = (enum conf_list_format)given->response_format;
        o->p.apis |= o->p.list == LIST_OLLAMA ? API_OLLAMA : 0; /* what has its lists has its calls */
    }
    if (given->openai_compatible >= 0) {
        o->p.apis = (o->p.apis & ~(unsigned)API_OPENAI) | (given->openai_compatible ? API_OPENAI : 0);
    }
    if (given->idle_timeout >= 0) {
        o->p.idle_ms = given->idle_timeout < INT32_MAX ? (unsigned)given->idle_timeout : INT32_MAX;
    }
}

void profile_apply(const struct conf *c)
{
    struct own_profile *spare = own == sets[0] ? sets[1] : sets[0];
    for (int i = 0; i < c->profiles; i++) {
        set_own(&spare[i], &c->profile[i]);
    }
    own = spare;
    owns = c->profiles;
}
