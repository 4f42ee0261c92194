/*
 * discover.c - level 6: see discover.h. Formats: profiles-models.md 2.
 *
 * May include: olla.h, levels 1 to 5, probe.h, model.h, discover.h.
 */
#include "discover.h"

#include <string.h>

#include "log.h"
#include "model.h"
#include "probe.h"

#define RETRY_MS 10000

static int active;

/* ---- one entry -------------------------------------------------------------------- */

/* Where a format keeps what we want: a key of the entry, or "object.key". */
struct list_fields {
    const char *name, *size, *context, *digest, *modified, *family, *parameters, *quantization, *format;
    const char *list; /* the key of the array of entries */
};

static const struct list_fields formats[] = {
    [LIST_OLLAMA] = {.name = "name",
                     .size = "size",
                     .digest = "digest",
                     .modified = "modified_at",
                     .family = "details.family",
                     .parameters = "details.parameter_size",
                     .quantization = "details.quantization_level",
                     .format = "details.format",
                     .list = "models"},
    [LIST_OPENAI] = {.name = "id", .context = "max_model_len", .list = "data"},
    [LIST_LM_STUDIO] = {.name = "id",
                        .context = "max_context_length",
                        .family = "arch",
                        .quantization = "quantization",
                        .format = "compatibility_type",
                        .list = "data"},
    [LIST_LLAMACPP] = {.name = "id", .size = "meta.size", .context = "meta.n_ctx_train", .list = "data"},
};

static int node_at(const struct json_slice *s, const char *where)
{
    char outer[32];
    struct str path = str_of(where);
    size_t dot = str_find(path, '.');
    if (path.n == 0) {
        return -1;
    }
    if (dot == path.n) {
        return json_get(s, json_root(s), where);
    }
    str_copy(outer, sizeof(outer), (struct str){path.p, dot});
    int object = json_get(s, json_root(s), outer);
    return object < 0 ? -1 : json_get(s, object, where + dot + 1);
}

static void get_string(const struct json_slice *s, const char *where, char *to, size_t cap)
{
    to[0] = '\0';
    if (where) {
        json_string(s, node_at(s, where), to, cap);
    }
}

static uint64_t get_number(const struct json_slice *s, const char *where)
{
    uint64_t v = 0;
    return where && json_u64(s, node_at(s, where), &v) ? v : 0;
}

/* false: an entry without a usable name. */
static bool read_entry(struct str object, const struct list_fields *f, struct model_facts *m)
{
    struct json_slice s = json_open(object);
    if (s.tokens == 0 || !json_string(&s, node_at(&s, f->name), m->name, sizeof(m->name))) {
        return false;
    }
    struct str name = str_trim(str_of(m->name));
    if (name.n == 0 || name.n != strlen(m->name)) {
        return false;
    }
    for (size_t i = 0; i < name.n; i++) {
        if ((unsigned char)name.p[i] < 0x20 || name.p[i] == 0x7f) {
            return false; /* it would have to go into headers and logs */
        }
    }
    uint64_t context = get_number(&s, f->context);
    m->context = context > UINT32_MAX ? 0 : (uint32_t)context;
    m->size = get_number(&s, f->size);
    get_string(&s, f->digest, m->digest, sizeof(m->digest));
    get_string(&s, f->modified, m->modified, sizeof(m->modified));
    get_string(&s, f->family, m->family, sizeof(m->family));
    get_string(&s, f->parameters, m->parameters, sizeof(m->parameters));
    get_string(&s, f->quantization, m->quantization, sizeof(m->quantization));
    get_string(&s, f->format, m->format, sizeof(m->format));
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

static void take_entry(struct probe *p)
{
    static struct model_facts facts;
    memset(&facts, 0, sizeof(facts));
    if (!read_entry((struct str){p->list.out, p->list.n}, &formats[p->e->profile->list], &facts)) {
        p->skipped++;
    } else if (filtered(p->e, str_of(facts.name))) {
        return;
    } else if (!model_offer(p->e, &facts)) {
        p->full = true;
    } else {
        p->offered++;
    }
}

/* ---- the list ----------------------------------------------------------------------- */

static bool list_body(struct probe *p, const char *bytes, size_t n)
{
    const struct list_fields *f = &formats[p->e->profile->list];
    size_t used;
    int got;

    if (!p->item.mem) {
        if (!buf_hold(&p->item, BUF_NEW_WORK)) {
            p->no_buffer = true;
            return false;
        }
        json_list_start(&p->list, f->list, NULL, p->item.mem, OLLA_BUF_SIZE);
    }
    while ((got = json_list_feed(&p->list, bytes, n, &used)) == 1) {
        take_entry(p);
        bytes += used;
        n -= used;
    }
    return got != OLLA_ERR && !p->list.array_done;
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
    e->models = model_list_end(e, ok && !e->removed && result != PROBE_CANCELLED);
    if (result == PROBE_CANCELLED || e->removed) {
        return;
    }
    if (p->no_buffer) {
        e->next_discovery = net_now() + PROBE_AGAIN_MS;
        return;
    }
    report(p, ok, before, e->models,
           result == PROBE_ANSWERED && p->status != 200 ? "the answer is not 200: check model_url and type"
                                                        : lost[result]);
    e->discovered = true;
    e->list_failed = !ok;
    if (!ok && result == PROBE_ANSWERED && !e->own_models && (p->status == 404 || p->status == 200)) {
        endpoint_undetect(e); /* perhaps another server has taken its place */
    }
    uint64_t interval = (uint64_t)conf_now->discovery.model_discovery.interval;
    e->next_discovery = net_now() + (!ok && interval > RETRY_MS ? RETRY_MS : interval);
    if (e->ask_again) {
        e->ask_again = false;
        e->next_discovery = net_now();
    }
    if (ok) {
        e->last_discovery = net_now();
    }
}

static const struct probe_ops list_ops = {"Discovery", list_body, list_done};

uint64_t discover_tick(void)
{
    uint64_t now = net_now(), next = UINT64_MAX;
    struct endpoint *e;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        struct target *to = endpoint_target(e, TARGET_MODELS);
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
            model_list_begin(e);
            e->list_started = now;
            if (!probe_start(e, to, e->models_path, conf_now->discovery.model_discovery.timeout, &list_ops)) {
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
