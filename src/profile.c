/*
 * profile.c - level 4: see profile.h.
 *
 * May include: olla.h, str.h, profile.h.
 */
#include "profile.h"

static const struct profile profiles[] = {
    {
        .name = "ollama",
        .spellings = "",
        .prefixes = "ollama",
        .health_path = "/",
        .models_path = "/api/tags",
        .list = LIST_OLLAMA,
        .apis = API_OPENAI | API_OLLAMA | API_ANTHROPIC,
        .idle_ms = 60000, /* Go's server keeps idle connections for minutes */
        .drop_origin = true,
    },
    {
        .name = "llamacpp",
        .spellings = "llama-cpp llama_cpp llama.cpp",
        .prefixes = "llamacpp",
        .health_path = "/health",
        .models_path = "/v1/models",
        .list = LIST_LLAMACPP,
        .apis = API_OPENAI | API_ANTHROPIC,
        .idle_ms = 4000, /* cpp-httplib closes after 5 s */
    },
    {
        .name = "vllm",
        .spellings = "",
        .prefixes = "vllm",
        .health_path = "/health",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI | API_ANTHROPIC,
        .idle_ms = 4000, /* uvicorn closes after 5 s */
    },
    {
        .name = "lm-studio",
        .spellings = "lmstudio lm_studio",
        .prefixes = "lmstudio lm-studio lm_studio",
        .health_path = "/v1/models",
        .models_path = "/api/v0/models",
        .list = LIST_LM_STUDIO,
        .apis = API_OPENAI | API_ANTHROPIC,
        .idle_ms = 4000, /* Node's server closes after 5 s */
        .drop_origin = true,
        .check_models = true,
    },
    {
        .name = "openai-compatible",
        .spellings = "openai openai_compatible auto",
        .prefixes = "openai openai-compatible",
        .health_path = "/v1/models",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI,
        .idle_ms = 4000, /* may be any of the above */
    },
};

#define OPENAI_COMPATIBLE (&profiles[OLLA_COUNT(profiles) - 1])

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

const struct profile *profile_by_type(struct str type)
{
    if (type.n == 0) {
        return OPENAI_COMPATIBLE;
    }
    for (size_t i = 0; i < OLLA_COUNT(profiles); i++) {
        if (str_ieq(str_of(profiles[i].name), type) || has_word(profiles[i].spellings, type, true)) {
            return &profiles[i];
        }
    }
    return NULL;
}

const struct profile *profile_by_prefix(struct str segment)
{
    for (size_t i = 0; i < OLLA_COUNT(profiles); i++) {
        if (has_word(profiles[i].prefixes, segment, false)) {
            return &profiles[i];
        }
    }
    return NULL;
}

const char *profile_known_types(void)
{
    static char names[256];
    struct text t = text_in(names, sizeof(names));
    for (size_t i = 0; i < OLLA_COUNT(profiles); i++) {
        text_addz(&t, profiles[i].name);
        text_addz(&t, ", ");
    }
    text_addz(&t, "auto");
    return text_z(&t);
}

bool profile_serves(const struct profile *p, const struct profile *route)
{
    return p == route || (route == OPENAI_COMPATIBLE && (p->apis & API_OPENAI));
}
