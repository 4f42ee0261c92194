/*
 * profile.h - level 4: the one table of backend types, built in and configured.
 *
 * All spellings of a type are one type; the configured spelling is kept only
 * for the X-Olla-Backend-Type header. What is said of
 * each server is what it was seen to do, or its documents say.
 *
 * A [profile:NAME] section makes a type, or changes a built-in one: then it
 * stands in its place, under the built-in's name, spellings and prefixes.
 *
 * Invariant: a struct profile lives until the second reload after it was in
 * force, so that requests which began before a reload may still look at it.
 *
 * May include: olla.h, str.h, conf.h.
 */
#ifndef OLLA_PROFILE_H
#define OLLA_PROFILE_H

#include "conf.h"

/* APIs that a backend speaks, as a set. */
enum {
    API_OPENAI = 1,    /* /v1/... */
    API_OLLAMA = 2,    /* /api/chat and its like */
    API_ANTHROPIC = 4, /* /v1/messages */
    API_LM_STUDIO = 8, /* /api/v0/... */
    API_LEMONADE = 16, /* /api/v1/... */
    API_DMR = 32       /* /engines/... */
};

/* How it tells what is loaded or how busy it is. */
enum profile_load {
    LOAD_NONE = 0,
    LOAD_PS,     /* Ollama's list of running models */
    LOAD_LIST,   /* LM Studio's list of models with their state */
    LOAD_SLOTS,  /* llama.cpp's slots */
    LOAD_METRICS /* Prometheus text of vLLM and SGLang */
};

struct profile {
    const char *name;      /* canonical */
    const char *spellings; /* other values of `type`, blanks between them */
    const char *prefixes;  /* segments after /olla/, blanks between them; the first is the one shown */
    const char *health_path;
    const char *models_path;
    const char *extra_path; /* asked before the list, for what the list does not tell; NULL = nothing */
    const char *native;     /* paths beside the common APIs that it has, blanks between them */
    const char *load_path;  /* NULL = it does not tell */
    enum profile_load load;
    enum conf_list_format list;
    const char *record;  /* "type" of its models in the status page; NULL = as the list says, or none */
    const char *weights; /* format of all its models' weights; NULL = as the list says */
    unsigned apis;
    const char *v1_base;       /* what stands before /v1/ on this server; NULL = nothing */
    const char *messages_base; /* ... before /v1/messages, where that differs */
    unsigned idle_ms;          /* how long an idle connection may be reused: not as long as the server keeps it */
    bool drop_origin;          /* refuses foreign Origin headers: drop them */
    bool loading_503;          /* 503 to the health check means that it is loading */
    bool check_models;         /* answers 200 to anything, so health needs a look at the body */
    /* What it understands beyond the common core of chat completions, for requests that are translated for it. */
    const char *think_field; /* what the model thought in earlier turns goes there; NULL = nowhere */
    const char *think_off;   /* a member that says not to think; NULL = there is none */
    bool knows_top_k, knows_effort;
    bool no_null_content; /* its templates write null as a word */
    bool no_named_choice; /* a tool cannot be named in tool_choice */
    bool counts_tokens;   /* has /v1/messages/count_tokens */
    bool any;             /* openai-compatible: its routes take all types that speak it */
};

/* Checks the profile sections of a configuration. OLLA_ERR after messages. */
int profile_check(const struct conf *c, conf_message *say);
/* Puts them in force. Pointers got before are old now: ask again by name. */
void profile_apply(const struct conf *c);

/* The type with that spelling, any case, or NULL. "" and "auto" give the one that waits for detection. */
const struct profile *profile_by_type(struct str type);
bool profile_is_auto(const struct profile *p);

/* True if a configuration that is not in force yet may use that type. */
bool profile_is_known(const struct conf *c, struct str type);

/* True if servers of that type, of such a configuration, are asked for paths that begin with /v1 below their url. */
bool profile_adds_v1(const struct conf *c, struct str type);

/* The type of a path segment after /olla/, exact case, or NULL. */
const struct profile *profile_by_prefix(struct str segment);

/* The accepted names of a configuration as one text for error messages. */
const char *profile_known_types(const struct conf *c);

/* True if nothing that a probe or a route depends on differs. */
bool profile_same(const struct profile *a, const struct profile *b);

/* True if endpoints of type p may serve the provider route of `route`: openai-compatible takes all that speak it. */
bool profile_serves(const struct profile *p, const struct profile *route);

/* True if the server has that path beside the common APIs. */
bool profile_has_path(const struct profile *p, struct str path);

#endif
