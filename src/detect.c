/*
 * detect.c - level 6: see detect.h.
 *
 * May include: olla.h, levels 1 to 5, probe.h, detect.h.
 */
#include "detect.h"

#include "probe.h"

static const struct {
    const char *path, *key;
    const char *type;  /* when a list is there */
    const char *needs; /* ... if its first entry has this member with a text in it; NULL = always */
} steps[] = {
    /* clang-format off */
    {"/api/tags", "models", "ollama", "digest"}, /* llama.cpp has an imitation without digests */
    {"/api/v0/models", "data", "lm-studio", NULL},
    {"/v1/models", "data", NULL, NULL},          /* owned_by tells */
    {"/api/v1/models", "data", "lemonade", "recipe"},
    {"/engines/v1/models", "data", "docker-model-runner", NULL},
    {NULL, "data", NULL, NULL},                  /* model_url, where one was configured */
    /* clang-format on */
};

static bool detect_body(struct probe *p, const char *bytes, size_t n)
{
    size_t used;
    if (!p->item.mem) {
        if (!buf_hold(&p->item, BUF_NEW_WORK)) {
            p->no_buffer = true; /* no verdict this time */
            return false;
        }
        json_list_start(&p->list, steps[p->e->detect_step].key, NULL, p->item.mem, OLLA_BUF_SIZE);
    }
    int got = json_list_feed(&p->list, bytes, n, &used);
    if (got == 1) {
        p->offered = 1;
    }
    return got == 0 && !p->list.array_done;
}

/* The type that the reply speaks for, or NULL. An empty list of Ollama's is believed: llama.cpp's is never empty. */
static const struct profile *verdict(const struct probe *p)
{
    char text[128] = "";
    if (p->status != 200 || !p->list.found) {
        return NULL;
    }
    struct json_slice s = json_open((struct str){p->list.out, p->offered ? p->list.n : 0});
    const char *needs = steps[p->e->detect_step].needs, *type = steps[p->e->detect_step].type;
    if (needs && p->offered) {
        json_string(&s, json_get(&s, json_root(&s), needs), text, sizeof(text));
        return text[0] || p->list.n == 0 ? profile_by_type(str_of(type)) : NULL;
    }
    if (type) {
        return profile_by_type(str_of(type));
    }
    json_string(&s, json_get(&s, json_root(&s), "owned_by"), text, sizeof(text));
    const struct profile *named = text[0] ? profile_by_type(str_of(text)) : NULL;
    return named && !profile_is_auto(named) ? named : profile_by_type(STR("openai-compatible"));
}

static void next_step(struct endpoint *e)
{
    bool more = ++e->detect_step < OLLA_COUNT(steps);
    if (more && !steps[e->detect_step].path) {
        more = e->own_models && endpoint_target(e, TARGET_MODELS)->addrs > 0;
    }
    if (more) {
        e->next_check = net_now(); /* it follows at once */
        return;
    }
    e->probed = true;
    e->detect_step = 0;
    endpoint_set_state(e, ENDPOINT_UNHEALTHY, "has no model list at any known path: set its type");
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
        e->detect_step = 0;
        endpoint_set_state(e, ENDPOINT_OFFLINE,
                           result == PROBE_REFUSED ? "cannot be connected to" : "did not answer in time");
        return;
    }
    const struct profile *type = result == PROBE_ANSWERED ? verdict(p) : NULL;
    if (type) {
        e->detect_step = 0;
        endpoint_detected(e, type);
    } else if (result == PROBE_ANSWERED && (p->status == 401 || p->status == 403)) {
        e->probed = true;
        e->detect_step = 0;
        endpoint_set_state(e, ENDPOINT_CONFIG_ERROR, "refuses its model list: it wants credentials");
    } else {
        next_step(e);
    }
}

static const struct probe_ops detect_ops = {"Discovery", detect_body, detect_done};

bool detect_start(struct endpoint *e)
{
    struct text t = text_in(e->detect_path, sizeof(e->detect_path));
    if (!steps[e->detect_step].path) {
        return probe_start(e, endpoint_target(e, TARGET_MODELS), e->models_path, e->check_timeout, &detect_ops);
    }
    text_addz(&t, e->base);
    text_addz(&t, steps[e->detect_step].path);
    text_z(&t);
    return probe_start(e, endpoint_target(e, TARGET_MAIN), e->detect_path, e->check_timeout, &detect_ops);
}
