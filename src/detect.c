/*
 * detect.c - level 6: see detect.h.
 *
 * One question after another, cheap ones with a clear answer first. Many
 * servers imitate Ollama's lists, and empty lists look alike, so an answer
 * counts only with something in it that its maker alone writes; an empty list
 * is a hint that a later answer may overrule.
 *
 * May include: olla.h, levels 1 to 5, probe.h, detect.h.
 */
#include "detect.h"

#include <string.h>

#include "probe.h"

enum when {
    ALWAYS = 0,
    IF_HINT,      /* a list of Ollama's was empty */
    UNTIL_LISTED, /* no list with models in it has been found */
    OWN_URL,      /* likewise, and model_url was configured */
    UNCLEAR       /* a list was found, or refused, but it names nobody */
};

static const struct {
    const char *path;
    const char *list;      /* the key of the list in the reply; NULL: the reply is looked at as a text, */
    const char *says;      /* which holds this */
    const char *type;      /* NULL: owned_by tells */
    const char *needs;     /* one of these members with a text in it; NULL = any entry will do */
    const char *needs_not; /* ... a text that does not begin so */
    bool empty;            /* an empty list is believed at once */
    enum when when;
} steps[] = {
    /* clang-format off */
    {"/api/tags",                  "models", NULL,                  "ollama",    "digest",                   "sha256:", false, ALWAYS},
    {"/",                          NULL,     "Ollama is running",   "ollama",    NULL,                       NULL,      false, IF_HINT},
    {"/api/v0/models",             "data",   NULL,                  "lm-studio", "compatibility_type state", NULL,      false, ALWAYS},
    {"/v1/models",                 "data",   NULL,                  NULL,        NULL,                       NULL,      false, ALWAYS},
    {"/api/v1/models",             "data",   NULL,                  "lemonade",  "recipe",                   NULL,      true,  UNTIL_LISTED},
    {"/engines/v1/models",         "data",   NULL,                  "dmr",       NULL,                       NULL,      true,  UNTIL_LISTED},
    {NULL,                         "data",   NULL,                  NULL,        NULL,                       NULL,      false, OWN_URL},
    {"/health/liveliness",         NULL,     "I'm alive!",          "litellm",   NULL,                       NULL,      false, UNCLEAR},
    {"/.well-known/localai.json",  NULL,     "\"version\"",         "localai",   NULL,                       NULL,      false, UNCLEAR},
    {"/system",                    NULL,     "\"loaded_models\"",   "localai",   NULL,                       NULL,      false, UNCLEAR},
    {"/version",                   NULL,     "\"git_commit\"",      "gpustack",  NULL,                       NULL,      false, UNCLEAR},
    /* clang-format on */
};

static bool detect_body(struct probe *p, const char *bytes, size_t n)
{
    size_t used;
    if (!p->item.mem) {
        if (!probe_hold_item(p)) {
            return false; /* no verdict this time */
        }
        json_list_start(&p->list, steps[p->e->detect.step].list, NULL, p->item.mem, OLLA_BUF_SIZE);
    }
    if (!steps[p->e->detect.step].list) {
        struct text t = buf_text(&p->item);
        text_add(&t, (struct str){bytes, n});
        buf_text_done(&p->item, &t);
        return !t.full;
    }
    int got = json_list_feed(&p->list, bytes, n, &used);
    if (got == 1) {
        p->offered = 1;
    }
    return got == 0 && !p->list.array_done;
}

static bool says(struct str text, struct str what)
{
    for (; text.n >= what.n; text = str_skip(text, 1)) {
        if (str_starts(text, what)) {
            return true;
        }
    }
    return false;
}

/* One of the members has a text that counts. */
static bool has_member(const struct json_slice *s, size_t step)
{
    char key[32], text[128];
    for (struct str rest = str_of(steps[step].needs); rest.p;) {
        str_copy(key, sizeof(key), str_split(&rest, ' '));
        if (json_string(s, json_get(s, json_root(s), key), text, sizeof(text)) && text[0] &&
            (!steps[step].needs_not || !str_starts(str_of(text), str_of(steps[step].needs_not)))) {
            return true;
        }
    }
    return steps[step].needs == NULL;
}

/* The type that a list speaks for, or NULL. */
static const struct profile *by_list(const struct probe *p)
{
    struct endpoint *e = p->e;
    size_t step = e->detect.step;
    const struct profile *type = steps[step].type ? profile_by_type(str_of(steps[step].type)) : NULL;
    char owner[64];

    if (!p->list.found) {
        return NULL;
    }
    if (!p->offered && p->list.n == 0) {
        e->detect.hint = type && !steps[step].empty ? type : e->detect.hint;
        e->detect.listed = e->detect.listed || !type;
        return steps[step].empty ? type : NULL;
    }
    struct json_slice s = json_open((struct str){p->list.out, p->offered ? p->list.n : 0});
    if (type) {
        return has_member(&s, step) ? type : NULL;
    }
    e->detect.listed = e->detect.filled = true;
    json_string(&s, json_get(&s, json_root(&s), "owned_by"), owner, sizeof(owner));
    type = owner[0] ? profile_by_type(str_of(owner)) : NULL;
    return type && !profile_is_auto(type) && !type->any ? type : NULL;
}

static const struct profile *verdict(const struct probe *p)
{
    struct endpoint *e = p->e;
    size_t step = e->detect.step;

    if (p->status != 200) {
        e->detect.locked = e->detect.locked || p->status == 401 || p->status == 403;
        /* LiteLLM without its database answers 500 to a request without a key. */
        e->detect.failed = e->detect.failed || p->status == 500;
        return NULL;
    }
    if (steps[step].list) {
        return by_list(p);
    }
    if (says(buf_str(&p->item), str_of(steps[step].says))) {
        return profile_by_type(str_of(steps[step].type));
    }
    e->detect.hint = steps[step].when == IF_HINT ? NULL : e->detect.hint;
    return NULL;
}

static bool wanted(struct endpoint *e, size_t step)
{
    const struct detection *d = &e->detect;
    switch (steps[step].when) {
    case ALWAYS:
        return true;
    case IF_HINT:
        return d->hint != NULL;
    case UNTIL_LISTED:
        return !d->filled;
    case OWN_URL:
        return !d->filled && e->own_models && endpoint_target(e, TARGET_MODELS)->addrs > 0;
    case UNCLEAR:
        return d->listed || d->locked || d->failed;
    }
    return false;
}

/* All questions were asked. */
static void conclude(struct endpoint *e)
{
    struct detection d = e->detect;

    memset(&e->detect, 0, sizeof(e->detect));
    e->probed = true;
    if (d.hint || d.listed) {
        endpoint_detected(e, d.hint ? d.hint : profile_by_type(STR("openai-compatible")));
    } else if (d.locked) {
        endpoint_set_state(e, ENDPOINT_CONFIG_ERROR,
                           e->headers_n > 0
                               ? "refuses its model list: it wants other credentials than those of auth and headers"
                               : "refuses its model list: it wants credentials (auth.type)");
    } else {
        endpoint_set_state(e, ENDPOINT_UNHEALTHY, "has no model list at any known path: set its type");
    }
}

static void next_step(struct endpoint *e)
{
    do {
        e->detect.step++;
    } while (e->detect.step < OLLA_COUNT(steps) && !wanted(e, e->detect.step));
    if (e->detect.step < OLLA_COUNT(steps)) {
        e->next_check = net_now(); /* it follows at once */
        return;
    }
    conclude(e);
}

static void detect_done(struct probe *p, enum probe_result result)
{
    struct endpoint *e = p->e;
    e->probing = false;
    if (result == PROBE_CANCELLED || e->removed) {
        return;
    }
    e->last_check = net_now();
    e->probe_ms = (uint32_t)(net_now() - p->started);
    if (p->no_buffer) {
        e->next_check = net_now() + PROBE_AGAIN_MS;
        return;
    }
    if (result == PROBE_REFUSED || result == PROBE_TIMEOUT) {
        e->probed = true;
        memset(&e->detect, 0, sizeof(e->detect));
        endpoint_set_state(e, ENDPOINT_OFFLINE, result == PROBE_REFUSED ? p->why : "did not answer in time");
        return;
    }
    const struct profile *type = result == PROBE_ANSWERED ? verdict(p) : NULL;
    if (type) {
        memset(&e->detect, 0, sizeof(e->detect));
        endpoint_detected(e, type);
    } else {
        next_step(e);
    }
}

static const struct probe_ops detect_ops = {"Discovery", detect_body, detect_done};

bool detect_start(struct endpoint *e)
{
    const char *path = steps[e->detect.step].path;
    struct text t = text_in(e->detect_path, sizeof(e->detect_path));
    if (!path) {
        return probe_start(e, endpoint_target(e, TARGET_MODELS), e->models_path, e->check_timeout, &detect_ops);
    }
    text_addz(&t, e->base);
    text_addz(&t, path);
    text_z(&t);
    return probe_start(e, endpoint_target(e, TARGET_MAIN), e->detect_path, e->check_timeout, &detect_ops);
}
