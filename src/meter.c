/*
 * meter.c - level 5: see meter.h.
 *
 * May include: olla.h, str.h, json.h, log.h, conf.h, net.h, tally.h, platform.h, meter.h.
 */
#include "meter.h"

#include <string.h>

#include "conf.h"
#include "json.h"
#include "log.h"
#include "net.h"

/* Longest line: two names that are nothing but escapes, and the figures. */
#define LINE_MAX (6 * (OLLA_KEY_NAME + OLLA_MODEL_NAME) + 256)

static struct entry {
    char key[OLLA_KEY_NAME], model[OLLA_MODEL_NAME];
    struct tally sum;
} entries[OLLA_MAX_METER];
static unsigned used;
static uint64_t since; /* when the first of them came */

static struct entry *find_or_make(struct str key, struct str model)
{
    for (unsigned i = 0; i < used; i++) {
        if (str_eq(str_of(entries[i].key), key) && str_ieq(str_of(entries[i].model), model)) {
            return &entries[i];
        }
    }
    if (used == OLLA_MAX_METER) {
        meter_flush();
    }
    if (used == OLLA_MAX_METER) {
        return NULL;
    }
    struct entry *e = &entries[used++];
    memset(e, 0, sizeof(*e));
    (void)str_copy(e->key, sizeof(e->key), key);
    (void)str_copy(e->model, sizeof(e->model), model);
    since = used == 1 ? net_now() : since;
    return e;
}

void meter_add(struct str key, struct str model, const struct tally_event *event)
{
    static uint64_t warned;

    if (!conf_now->usage.file[0]) {
        return;
    }
    struct entry *e = find_or_make(key, model);
    if (e) {
        tally_add(&e->sum, event);
    } else if (log_allowed(&warned, net_now())) {
        log_line(LOG_WARN, "usage is not counted: the table is full and usage.file cannot be written", "limit",
                 STR("OLLA_MAX_METER"), NULL, STR(""));
    }
}

static void write_line(struct text *t, const struct entry *e, int64_t wall_ms)
{
    struct plat_time at;

    plat_time_of(wall_ms, false, &at);
    text_addz(t, "{\"time\":\"");
    log_time(t, &at, 'T');
    text_addz(t, "Z\",\"seconds\":");
    text_u64(t, (net_now() - since + 999) / 1000);
    json_member(t, "key", str_of(e->key));
    json_member(t, "model", str_of(e->model));
    json_member_u64(t, "requests", e->sum.requests);
    json_member_u64(t, "failed_requests", e->sum.failed);
    json_member_u64(t, "input_tokens", e->sum.input);
    json_member_u64(t, "output_tokens", e->sum.output);
    json_member_u64(t, "estimated_requests", e->sum.estimated);
    json_member_u64(t, "bytes", e->sum.bytes);
    text_addz(t, "}\n");
}

/* Some lines in one call: the first `n` entries that fit. Returns how many were written. */
static unsigned write_some(const char *path, int64_t wall_ms)
{
    static char mem[8 * LINE_MAX];
    struct text t = text_in(mem, sizeof(mem));
    unsigned n = 0;

    while (n < used && sizeof(mem) - t.n >= LINE_MAX) {
        write_line(&t, &entries[n++], wall_ms);
    }
    return plat_append(path, mem, t.n) == OLLA_OK ? n : 0;
}

void meter_flush(void)
{
    static uint64_t warned;
    const char *path = conf_now->usage.file;
    int64_t wall_ms = plat_wall_ms();

    if (!path[0]) {
        used = 0;
    }
    while (used > 0) {
        unsigned n = write_some(path, wall_ms);
        if (n == 0) {
            if (log_allowed(&warned, net_now())) {
                log_line(LOG_WARN, "usage.file cannot be written, what was counted is kept", "file", str_of(path),
                         "error", str_of(plat_error_text()));
            }
            return;
        }
        used -= n;
        memmove(entries, entries + n, used * sizeof(entries[0]));
    }
}

uint64_t meter_tick(void)
{
    static uint64_t tried;

    if (used == 0) {
        return UINT64_MAX;
    }
    uint64_t interval = (uint64_t)conf_now->usage.interval, due = (tried > since ? tried : since) + interval;
    if (net_now() < due) {
        return due;
    }
    tried = net_now();
    meter_flush();
    return used > 0 ? tried + interval : UINT64_MAX;
}

size_t meter_cost(void)
{
    return sizeof(entries[0]);
}
