/*
 * load.c - level 6: see load.h.
 *
 * What came of a question is taken at its end. One that fails changes
 * nothing; what is old is forgotten.
 *
 * May include: olla.h, levels 1 to 5, probe.h, load.h.
 */
#include "load.h"

#include <string.h>

#include "model.h"
#include "probe.h"

/* Never more often than this; and what was told so many intervals ago is not known any more. */
#define LEAST_MS  1000
#define INTERVALS 6

/* ---- lists of loaded models: Ollama's /api/ps, LM Studio's own list ------------------------ */

/* The names, each in a line of p->hint_text: few models are loaded at one time. */
static void add_name(struct probe *p, const char *name)
{
    size_t n = strlen(p->hint_text);
    struct text t = text_in(p->hint_text + n, sizeof(p->hint_text) - n - 1);
    text_addz(&t, name);
    text_char(&t, '\n');
    p->hint_text[t.full ? n : n + t.n] = '\0';
}

static void take_loaded(struct probe *p)
{
    const char *name_key = p->e->profile->load == LOAD_PS ? "name" : "id";
    const char *state_key = p->e->profile->load == LOAD_PS ? NULL : "state";
    char name[OLLA_MODEL_NAME], state[16];
    struct json_slice s = json_open((struct str){p->list.out, p->list.n});
    bool loaded = !state_key || (json_string(&s, json_get(&s, json_root(&s), state_key), state, sizeof(state)) &&
                                 str_eq(str_of(state), STR("loaded")));
    if (loaded && json_string(&s, json_get(&s, json_root(&s), name_key), name, sizeof(name))) {
        add_name(p, name);
        uint64_t context;
        int node = json_get(&s, json_root(&s), state_key ? "loaded_context_length" : "context_length");
        if (p->offered < OLLA_COUNT(p->window) && json_u64(&s, node, &context) && context <= UINT32_MAX) {
            p->window[p->offered].name = str_ihash(str_of(name));
            p->window[p->offered++].context = (uint32_t)context;
        }
    }
}

/* ---- llama.cpp's slots ------------------------------------------------------------------------ */

static void take_slot(struct probe *p)
{
    struct json_slice s = json_open((struct str){p->list.out, p->list.n});
    int working = json_get(&s, json_root(&s), "is_processing");
    p->entries++;
    p->offered += working >= 0 && json_true(&s, working);
}

/* ---- metrics in the text format of Prometheus ---------------------------------------------------- */

static const struct {
    struct str name;
    bool waiting;
} metrics[] = {
    {STR("vllm:num_requests_running"), false},
    {STR("vllm:num_requests_waiting"), true},
    {STR("sglang:num_running_reqs"), false},
    {STR("sglang:num_queue_reqs"), true},
};

/* A whole line: NAME{labels} VALUE. */
static void take_line(struct probe *p, struct str line)
{
    for (size_t i = 0; i < OLLA_COUNT(metrics); i++) {
        struct str rest = str_skip(line, metrics[i].name.n);
        size_t at = line.n;
        uint64_t value;
        if (!str_starts(line, metrics[i].name) || rest.n == 0 || (rest.p[0] != '{' && rest.p[0] != ' ')) {
            continue;
        }
        while (at > 0 && line.p[at - 1] != '}') { /* labels may hold anything */
            at--;
        }
        struct str number = str_trim(at > 0 ? str_skip(line, at) : rest);
        number.n = str_find(number, ' '); /* a time may follow */
        struct str whole = {number.p, str_find(number, '.')};
        if (number.n > 0 && number.p[0] >= '0' && number.p[0] <= '9') {
            bool some = false; /* "1.2e+01" is more than nothing: that is enough to know */
            for (size_t k = 0; k < number.n && number.p[k] != 'e'; k++) {
                some = some || (number.p[k] >= '1' && number.p[k] <= '9');
            }
            value = str_to_u64(whole, 1000000, &value) == OLLA_OK && value > 0 ? value : some;
            *(metrics[i].waiting ? &p->skipped : &p->offered) += (unsigned)value;
            p->entries++;
        }
    }
}

static void take_text(struct probe *p, const char *bytes, size_t n)
{
    size_t have = strlen(p->hint_text);
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '\n') {
            take_line(p, (struct str){p->hint_text, have});
            have = 0;
        } else if (have < sizeof(p->hint_text) - 1 && bytes[i] != '\0') {
            p->hint_text[have++] = bytes[i]; /* what does not fit is of another metric */
        }
    }
    p->hint_text[have] = '\0';
}

/* ---- questions --------------------------------------------------------------------------------------- */

static bool load_body(struct probe *p, const char *bytes, size_t n)
{
    enum profile_load format = p->e->profile->load;
    if (format == LOAD_METRICS) {
        take_text(p, bytes, n);
        return true;
    }
    if (format == LOAD_SLOTS && !p->item.mem) {
        probe_take_elements(p, "data", "{\"data\":", 8, take_slot); /* a bare array: read as if it had a name */
    }
    return probe_take_elements(p, format == LOAD_PS ? "models" : "data", bytes, n,
                               format == LOAD_SLOTS ? take_slot : take_loaded);
}

static void load_done(struct probe *p, enum probe_result result)
{
    struct endpoint *e = p->e;
    enum profile_load format = e->profile->load;

    e->load.asking = false;
    if (result == PROBE_CANCELLED || e->removed || result != PROBE_ANSWERED || p->status != 200 || p->no_buffer) {
        return;
    }
    bool read = format == LOAD_METRICS ? p->entries > 0 : p->list.array_done;
    if (!read || (format == LOAD_SLOTS && p->entries == 0)) {
        return;
    }
    e->load.at = net_now();
    e->load.known = true;
    e->load.busy = format == LOAD_SLOTS ? p->offered == p->entries : format == LOAD_METRICS ? p->skipped > 0 : false;
    if (format == LOAD_PS || format == LOAD_LIST) {
        memcpy(e->load.window, p->window, sizeof(e->load.window));
        model_set_loaded(e, str_of(p->hint_text), format == LOAD_PS ? MODEL_AVAILABLE : MODEL_NOT_LOADED);
    }
}

static const struct probe_ops load_ops = {"Discovery", load_body, load_done};

static bool start(struct endpoint *e)
{
    struct text t = text_in(e->load.path, sizeof(e->load.path));
    text_addz(&t, e->base);
    text_addz(&t, e->profile->load_path);
    text_z(&t);
    return probe_start(e, endpoint_target(e, TARGET_MAIN), e->load.path, e->check_timeout, &load_ops);
}

uint64_t load_tick(void)
{
    uint64_t now = net_now(), next = UINT64_MAX;
    struct endpoint *e;

    for (int i = 0; endpoint_count() > 1 && (e = endpoint_at(i)) != NULL; i++) {
        uint64_t every = (uint64_t)e->check_interval > LEAST_MS ? (uint64_t)e->check_interval : LEAST_MS;
        if (e->load.known && now - e->load.at > INTERVALS * every) {
            e->load.known = false;
        }
        if (!e->enabled || !endpoint_is_up(e) || !e->profile->load_path || e->models == 0 || e->load.asking) {
            continue;
        }
        if (e->load.next <= now) {
            e->load.next = now + every;
            e->load.asking = true;
            if (!start(e)) {
                e->load.asking = false;
                e->load.next = now + PROBE_AGAIN_MS;
            }
        }
        next = e->load.next < next ? e->load.next : next;
    }
    return next;
}
