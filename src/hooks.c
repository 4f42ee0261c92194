/*
 * hooks.c - level 6: see hooks.h.
 *
 * May include: olla.h, levels 1 to 5, queue.h, hooks.h.
 */
#include "hooks.h"

#include <string.h>

#include "log.h"
#include "net.h"
#include "queue.h"

#define WORDS_MAX 16
/* So often it is looked at whether a program has ended. */
#define LOOK_MS 50
/* One that was asked to end and does not is ended for good after this. */
#define GRACE_MS 2000
/* Lines of one program that are logged, and bytes of each. */
#define LINES_MAX 50
#define LINE_MAX  256
/* queue_full is told at most once in this time. */
#define FULL_EVERY_MS 60000

struct hooks_stats hooks_stats;

static const char *const names[HOOKS] = {"up", "down", "wake", "idle", "queue_full"};

/* What happened; all of it is a copy. */
struct fact {
    enum conf_hook event;
    int slot; /* -1 = none */
    uint32_t generation;
    char endpoint[64], url[256];
    const char *reason, *state; /* static text */
    uint8_t mac[6];
    bool has_mac;
};

static struct fact waiting[OLLA_MAX_HOOK_EVENTS];
static unsigned waiting_n;

static struct run {
    struct fact fact;
    struct plat_program program;
    struct stream output;
    hooks_done *done;
    uint64_t started, until;
    size_t line_n;
    unsigned lines;
    bool used;
    bool asked; /* to end */
    char line[LINE_MAX];
} runs[OLLA_MAX_HOOKS];

size_t hooks_cost(void)
{
    return sizeof(runs) + sizeof(waiting);
}

bool hooks_has(enum conf_hook event)
{
    return conf_now->hooks.run[event][0] != '\0';
}

/* ---- output ----------------------------------------------------------------------- */

static void log_output(struct run *r)
{
    struct str line = str_trim((struct str){r->line, r->line_n});

    r->line_n = 0;
    if (line.n == 0 || r->lines > LINES_MAX) {
        return;
    }
    bool last = r->lines++ == LINES_MAX;
    if (log_begin(LOG_INFO, "hook says")) {
        log_z("event", names[r->fact.event]);
        log_z("endpoint", r->fact.endpoint);
        log_str("line", last ? STR("... and more, which is not logged") : line);
        log_end();
    }
}

static void take(struct run *r, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\n' || r->line_n == LINE_MAX) {
            log_output(r);
        }
        if (p[i] != '\n') {
            r->line[r->line_n++] = p[i];
        }
    }
}

/* A piece of it; false: there is no more now. */
static bool read_some(struct run *r)
{
    char piece[1024];
    long n = net_is_open(&r->output) ? net_take(&r->output, piece, sizeof(piece)) : OLLA_EOF;

    if (n == OLLA_EOF || n == OLLA_ERR) {
        net_close(&r->output, NET_CLOSE);
    }
    if (n > 0) {
        take(r, piece, (size_t)n);
    }
    return n > 0;
}

static void output_ready(struct stream *s, short events)
{
    (void)events;
    (void)read_some(s->owner); /* one piece in a turn: it may be endless */
}

static const struct stream_ops output_ops = {output_ready, NULL};

/* ---- programs --------------------------------------------------------------------- */

static void set_fact(struct fact *f, enum conf_hook event, const struct endpoint *e, const char *reason)
{
    *f = (struct fact){.event = event, .slot = -1, .reason = reason, .state = ""};
    if (e) {
        f->slot = e->slot;
        f->generation = e->generation;
        str_copy(f->endpoint, sizeof(f->endpoint), str_of(e->name));
        str_copy(f->url, sizeof(f->url), str_of(e->url));
        f->state = endpoint_state_name(e->state);
        memcpy(f->mac, e->wake.mac, sizeof(f->mac));
        f->has_mac = e->wake.can;
    }
}

static const char *add(struct text *t, const char *name, const char *value)
{
    const char *at = t->p + t->n;
    text_addz(t, name);
    text_addz(t, value);
    text_char(t, '\0');
    return at;
}

static struct run *free_run(void)
{
    for (size_t i = 0; i < OLLA_MAX_HOOKS; i++) {
        if (!runs[i].used) {
            return &runs[i];
        }
    }
    return NULL;
}

static void log_failure(const struct fact *f, const char *msg, const char *what)
{
    hooks_stats.failed++;
    if (log_begin(LOG_WARN, msg)) {
        log_z("event", names[f->event]);
        log_z("endpoint", f->endpoint);
        log_z("reason", what);
        log_end();
    }
}

/* The words of the command, and the facts, into r's program. */
static int start_program(struct run *r)
{
    static char words[512], facts[1024];
    char mac[18];
    const char *argv[WORDS_MAX + 1], *env[8];
    struct text w = text_in(words, sizeof(words)), t = text_in(facts, sizeof(facts)), m = text_in(mac, sizeof(mac));
    size_t n = 0;

    for (struct str rest = str_of(conf_now->hooks.run[r->fact.event]); rest.p && n < WORDS_MAX;) {
        struct str word = str_split(&rest, ' ');
        if (word.n > 0) {
            argv[n++] = words + w.n;
            text_add(&w, word);
            text_char(&w, '\0');
        }
    }
    argv[n] = NULL;
    for (size_t i = 0; i < 6 && r->fact.has_mac; i++) {
        text_addz(&m, i > 0 ? ":" : "");
        text_hex(&m, r->fact.mac[i], 2);
    }
    env[0] = add(&t, "OLLA_EVENT=", names[r->fact.event]);
    env[1] = add(&t, "OLLA_ENDPOINT=", r->fact.endpoint);
    env[2] = add(&t, "OLLA_URL=", r->fact.url);
    env[3] = add(&t, "OLLA_REASON=", r->fact.reason);
    env[4] = add(&t, "OLLA_STATE=", r->fact.state);
    env[5] = add(&t, "OLLA_MAC=", text_z(&m));
    env[6] = NULL;
    return w.full || t.full ? OLLA_ERR : plat_program_start(argv, env, &r->program);
}

static bool start(const struct fact *f, hooks_done *done)
{
    struct run *r = free_run();

    if (!r) {
        return false;
    }
    *r = (struct run){.used = true, .fact = *f, .done = done, .started = net_now()};
    r->until = r->started + (uint64_t)conf_now->hooks.timeout;
    if (start_program(r) != OLLA_OK) {
        log_failure(f, "hook cannot be started", plat_error_text());
        r->used = false;
        if (done) {
            done(f->slot, f->generation, false);
        }
        return true; /* it had its chance */
    }
    net_open(&r->output, r->program.fd, &output_ops, r);
    net_want(&r->output, true, false);
    hooks_stats.started++;
    hooks_stats.running++;
    return true;
}

bool hooks_start(enum conf_hook event, const struct endpoint *e, const char *reason, hooks_done *done)
{
    struct fact f;

    set_fact(&f, event, e, reason);
    return start(&f, done);
}

void hooks_event(enum conf_hook event, const struct endpoint *e, const char *reason)
{
    static uint64_t warned;

    if (!hooks_has(event)) {
        return;
    }
    if (waiting_n == OLLA_MAX_HOOK_EVENTS) {
        hooks_stats.dropped++;
        if (log_allowed(&warned, net_now())) {
            log_line(LOG_WARN, "hook not run: too many wait already", "event", str_of(names[event]), "limit",
                     STR("OLLA_MAX_HOOK_EVENTS"));
        }
        return;
    }
    set_fact(&waiting[waiting_n++], event, e, reason);
}

static void ended(struct run *r, int code)
{
    struct fact f = r->fact;

    for (unsigned i = 0; i < LINES_MAX && read_some(r); i++) {
    }
    log_output(r);
    net_close(&r->output, NET_CLOSE); /* what it has left running may go on, but is not listened to */
    r->used = false;
    hooks_stats.running--;
    if (r->asked) {
        log_failure(&f, "hook took too long and was ended", "hooks.timeout");
    } else if (code != 0) {
        char mem[48];
        struct text t = text_in(mem, sizeof(mem) - 1);
        text_addz(&t, code > 128 ? "ended by signal " : "ended with code ");
        text_u64(&t, (uint64_t)(code > 128 ? code - 128 : code));
        log_failure(&f, "hook failed", text_z(&t));
    } else if (log_begin(LOG_DEBUG, "hook ended")) {
        log_z("event", names[f.event]);
        log_z("endpoint", f.endpoint);
        log_u64("duration_ms", net_now() - r->started);
        log_end();
    }
    if (r->done) {
        r->done(f.slot, f.generation, code == 0 && !r->asked);
    }
}

/* When to look again. */
static uint64_t watch(void)
{
    uint64_t now = net_now(), next = UINT64_MAX;
    int code = 0;

    for (size_t i = 0; i < OLLA_MAX_HOOKS; i++) {
        struct run *r = &runs[i];
        if (!r->used) {
            continue;
        }
        if (plat_program_ended(&r->program, &code) == OLLA_OK) {
            ended(r, code);
            continue;
        }
        if (now >= r->until) {
            plat_program_end(&r->program, r->asked);
            r->asked = true;
            r->until = now + GRACE_MS;
        }
        next = now + LOOK_MS;
    }
    return next;
}

/* ---- what has changed --------------------------------------------------------------- */

/* Up or down is told when it is known and other than before; a busy or loading one stays what it was. */
static void notice_endpoints(void)
{
    static struct {
        uint32_t generation;
        bool known, up;
    } before[OLLA_MAX_ENDPOINTS];
    static uint32_t seen;
    struct endpoint *e;

    if (seen == endpoint_news()) {
        return;
    }
    seen = endpoint_news();
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        bool up = e->state == ENDPOINT_HEALTHY;
        bool other = before[e->slot].generation != e->generation;
        if (!e->enabled || e->state == ENDPOINT_UNKNOWN || e->state == ENDPOINT_BUSY || e->state == ENDPOINT_WARMING ||
            (!other && before[e->slot].known && before[e->slot].up == up)) {
            continue;
        }
        before[e->slot].generation = e->generation;
        before[e->slot].known = true;
        before[e->slot].up = up;
        hooks_event(up ? HOOK_UP : HOOK_DOWN, e, e->why);
    }
}

static void notice_queue(void)
{
    static uint64_t refused, told;

    if (queue_stats.refused != refused) {
        refused = queue_stats.refused;
        if (told == 0 || net_now() - told >= FULL_EVERY_MS) {
            told = net_now();
            hooks_event(HOOK_QUEUE_FULL, NULL, "more requests wait than proxy.queue.max_waiting");
        }
    }
}

uint64_t hooks_tick(void)
{
    notice_endpoints();
    notice_queue();
    uint64_t next = watch();
    while (waiting_n > 0 && (!hooks_has(waiting[0].event) || start(&waiting[0], NULL))) {
        waiting_n--;
        memmove(&waiting[0], &waiting[1], waiting_n * sizeof(waiting[0]));
    }
    return hooks_stats.running > 0 && next == UINT64_MAX ? net_now() + LOOK_MS : next;
}

void hooks_stop(void)
{
    for (size_t i = 0; i < OLLA_MAX_HOOKS; i++) {
        if (runs[i].used) {
            plat_program_end(&runs[i].program, true);
            net_close(&runs[i].output, NET_CLOSE);
            runs[i].used = false;
        }
    }
    hooks_stats.running = waiting_n = 0;
}
