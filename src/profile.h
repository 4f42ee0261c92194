/*
 * profile.h - level 4: the one table of backend types.
 *
 * All spellings of a type are one type; the configured spelling is kept only
 * for the X-Olla-Backend-Type header. Facts: spec of the reference's profiles
 * and the quirks of each server.
 *
 * May include: olla.h, str.h.
 */
#ifndef OLLA_PROFILE_H
#define OLLA_PROFILE_H

#include "str.h"

/* APIs that a backend speaks, as a set. */
enum {
    API_OPENAI = 1,    /* /v1/... */
    API_OLLAMA = 2,    /* /api/chat and its like */
    API_ANTHROPIC = 4, /* /v1/messages */
    API_LM_STUDIO = 8, /* /api/v0/... */
    API_LEMONADE = 16, /* /api/v1/... */
    API_DMR = 32       /* /engines/... */
};

/* How its model list looks. */
enum list_format {
    LIST_OLLAMA = 0, /* models[].name with details */
    LIST_OPENAI,     /* data[].id, max_model_len */
    LIST_LM_STUDIO,  /* data[].id with arch, quantization, state */
    LIST_LLAMACPP    /* data[].id with meta */
};

struct profile {
    const char *name;      /* canonical */
    const char *spellings; /* other values of `type`, blanks between them */
    const char *prefixes;  /* segments after /olla/, blanks between them; the first is the one shown */
    const char *health_path;
    const char *models_path;
    enum list_format list;
    unsigned apis;
    const char *v1_base;       /* what stands before /v1/ on this server; NULL = nothing */
    const char *messages_base; /* ... before /v1/messages, where that differs */
    unsigned idle_ms;          /* how long an idle connection may be reused (quirk Q7) */
    bool drop_origin;          /* refuses foreign Origin headers: drop them (quirk Q9) */
    bool check_models;         /* answers 200 to anything, so health needs a look at the body (quirk Q10) */
};

/* The type with that spelling, any case, or NULL. "" and "auto" give the one that waits for detection. */
const struct profile *profile_by_type(struct str type);
bool profile_is_auto(const struct profile *p);

/* The type of a path segment after /olla/, exact case, or NULL. */
const struct profile *profile_by_prefix(struct str segment);

/* The accepted spellings as one text for error messages. */
const char *profile_known_types(void);

/* True for openai-compatible, whose routes take all types that speak it. */
bool profile_is_any(const struct profile *route);

/* True if endpoints of type p may serve the provider route of `route`: openai-compatible takes all that speak it. */
bool profile_serves(const struct profile *p, const struct profile *route);

#endif
