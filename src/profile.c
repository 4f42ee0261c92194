/*
 * profile.c - level 4: see profile.h.
 *
 * May include: olla.h, str.h, profile.h.
 */
#include "profile.h"

/* Servers on Python's uvicorn and on Node close idle connections after 5 s, so does cpp-httplib; Go's keep them. */
enum { IDLE_SHORT = 4000, IDLE_LONG = 60000 };

static const struct profile profiles[] = {
    {
        .name = "ollama",
        .spellings = "",
        .prefixes = "ollama",
        .health_path = "/",
        .models_path = "/api/tags",
        .list = LIST_OLLAMA,
        .apis = API_OPENAI | API_OLLAMA | API_ANTHROPIC,
        .idle_ms = IDLE_LONG,
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
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "vllm",
        .spellings = "",
        .prefixes = "vllm",
        .health_path = "/health",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI | API_ANTHROPIC,
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "vllm-mlx",
        .spellings = "vllmmlx vllm_mlx",
        .prefixes = "vllm-mlx",
        .health_path = "/health",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI | API_ANTHROPIC,
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "omlx",
        .spellings = "",
        .prefixes = "omlx",
        .health_path = "/health",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI | API_ANTHROPIC,
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "sglang",
        .spellings = "",
        .prefixes = "sglang",
        .health_path = "/health",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI,
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "lmdeploy",
        .spellings = "",
        .prefixes = "lmdeploy",
        .health_path = "/health",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI,
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "lm-studio",
        .spellings = "lmstudio lm_studio",
        .prefixes = "lmstudio lm-studio lm_studio",
        .health_path = "/v1/models",
        .models_path = "/api/v0/models",
        .list = LIST_LM_STUDIO,
        .apis = API_OPENAI | API_ANTHROPIC | API_LM_STUDIO,
        .idle_ms = IDLE_SHORT,
        .drop_origin = true,
        .check_models = true,
    },
    {
        .name = "lemonade",
        .spellings = "",
        .prefixes = "lemonade",
        .health_path = "/api/v1/health",
        .models_path = "/api/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI | API_LEMONADE,
        .v1_base = "/api",
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "litellm",
        .spellings = "",
        .prefixes = "litellm",
        .health_path = "/health/liveliness", /* its /health runs a completion on every model (quirk Q12) */
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI | API_ANTHROPIC,
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "docker-model-runner",
        .spellings = "dmr docker_model_runner",
        .prefixes = "dmr",
        .health_path = "/engines/v1/models",
        .models_path = "/engines/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI | API_ANTHROPIC | API_DMR,
        .v1_base = "/engines",
        .messages_base = "/anthropic",
        .idle_ms = IDLE_LONG,
    },
    {
        .name = "localai",
        .spellings = "local-ai",
        .prefixes = "localai",
        .health_path = "/readyz",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI,
        .idle_ms = IDLE_LONG,
    },
    {
        .name = "gpustack",
        .spellings = "",
        .prefixes = "gpustack",
        .health_path = "/healthz",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI,
        .idle_ms = IDLE_SHORT,
    },
    {
        .name = "openai-compatible",
        .spellings = "openai openai_compatible",
        .prefixes = "openai openai-compatible",
        .health_path = "/v1/models",
        .models_path = "/v1/models",
        .list = LIST_OPENAI,
        .apis = API_OPENAI,
        .idle_ms = IDLE_SHORT, /* may be any of the above */
    },
};

/* Until detect.c knows better: no API at all, so that nothing is routed there. */
static const struct profile undetected = {
    .name = "auto",
    .spellings = "",
    .prefixes = "",
    .health_path = "/",
    .models_path = "/v1/models",
    .list = LIST_OPENAI,
    .idle_ms = IDLE_SHORT,
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
    if (type.n == 0 || str_ieq(type, str_of(undetected.name))) {
        return &undetected;
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

bool profile_is_auto(const struct profile *p)
{
    return p == &undetected;
}

const char *profile_known_types(void)
{
    static char names[320];
    struct text t = text_in(names, sizeof(names));
    for (size_t i = 0; i < OLLA_COUNT(profiles); i++) {
        text_addz(&t, profiles[i].name);
        text_addz(&t, ", ");
    }
    text_addz(&t, "auto");
    return text_z(&t);
}

bool profile_is_any(const struct profile *route)
{
    return route == OPENAI_COMPATIBLE;
}

bool profile_serves(const struct profile *p, const struct profile *route)
{
    return p == route || (route == OPENAI_COMPATIBLE && (p->apis & API_OPENAI));
}
