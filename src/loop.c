/*
 * loop.c - level 8: see loop.h.
 *
 * May include: olla.h, levels 1 to 7, loop.h.
 */
#include "loop.h"

#include <string.h>

#include "admin.h"
#include "client.h"
#include "cors.h"
#include "discover.h"
#include "gate.h"
#include "load.h"
#include "hooks.h"
#include "queue.h"
#include "sleep.h"
#include "state_file.h"
#include "wake.h"
#include "health.h"
#include "inspector.h"
#include "log.h"
#include "messages.h"
#include "meter.h"
#include "pool.h"
#include "probe.h"

#define RESTART_MS 5000

static struct conf *current, *spare_conf;
static struct stream signal_stream = {.fd = -1}, resolver_stream = {.fd = -1};
static bool stopping, now_or_never;
static uint64_t stop_at;
static char user_at_start[256]; /* server.user: what a reload says comes too late */
static uint64_t resolver_at;    /* when to start the resolver again, 0 = it runs */

static void signal_ready(struct stream *s, short events);
static void resolver_ready(struct stream *s, short events);
static const struct stream_ops signal_ops = {signal_ready, NULL};
static const struct stream_ops resolver_ops = {resolver_ready, NULL};

void loop_init_pools(void)
{
    tls_init();
    buf_init();
    body_init();
    upstream_init();
    model_init();
    sticky_init();
    limits_init();
    probe_init();
    client_init();
    messages_init();
    exchange_init(admin_pages());
}

void loop_log_pools(void)
{
    for (int i = 0; i < POOL_COUNT; i++) {
        const struct pool_stats *p = pool_stats((enum pool_id)i);
        if (log_begin(LOG_INFO, "pool")) {
            log_z("name", p->name);
            log_u64("used", p->used);
            log_u64("max", p->max_used);
            log_u64("count", p->count);
            log_u64("failed", p->failed);
            log_end();
        }
    }
    if (log_begin(LOG_INFO, "totals")) {
        log_u64("requests", exchange_totals.sum.requests);
        log_u64("failed", exchange_totals.sum.failed);
        log_u64("active", exchange_totals.active);
        log_u64("bytes", exchange_totals.sum.bytes);
        log_u64("rss", plat_rss_bytes());
        log_end();
    }
}

static void setup_log(const struct conf *c)
{
    bool text = c->logging.output == LOG_OUTPUT_SYSLOG || (c->logging.output == LOG_OUTPUT_STDOUT && plat_is_tty(1));
    bool json = c->logging.format == LOG_FORMAT_AUTO ? !text : c->logging.format == LOG_FORMAT_JSON;
    log_setup((enum log_level)c->logging.level, json);
}

/* Gets the sink ready. OLLA_ERR: after a line that tells why not. */
static int open_log(const struct conf *c)
{
    bool file = c->logging.output == LOG_OUTPUT_FILE;

    if (log_prepare((enum log_output)c->logging.output, file ? c->logging.file : c->logging.syslog_socket) == OLLA_OK) {
        return OLLA_OK;
    }
    const char *error = plat_error_text();
    log_line(LOG_ERROR, "the log file cannot be opened", "file", str_of(c->logging.file), "error", str_of(error));
    return OLLA_ERR;
}

/* That anybody can use it must be somebody's wish: said once, and again when a reload makes it so. */
static void warn_if_open(void)
{
    static bool open;
    bool was = open;

    open = client_exposed() && !gate_closed() && current->server.access.allowed_cidrs.n == 0;
    if (open && !was) {
        log_line(
            LOG_WARN, "anybody on the network can use this olla and all its servers", "remedy",
            STR("give keys to those who may ([key:NAME] sections), say who may connect (server.access.allowed_cidrs), "
                "or listen on this machine only (server.host = localhost)"),
            NULL, STR(""));
    }
}

/* ---- reload ---------------------------------------------------------------------------- */

static void log_message(bool error, const char *line)
{
    log_line(error ? LOG_ERROR : LOG_WARN, line, NULL, STR(""), NULL, STR(""));
}

/* What endpoint.c cannot do for the levels above it: probes, models and idle connections of changed endpoints. */
static void settle_endpoints(void)
{
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        struct endpoint *e = endpoint_slot(i);
        if (e && (e->removed || e->replaced || !e->enabled)) {
            upstream_drop_idle(e);
            model_forget(e);
            e->models = 0;
            probe_cancel(e);
            endpoint_release(e);
        }
    }
}

/* The certificate first: what listens has to have one. */
static int serve(const struct conf *c)
{
    if (c->server.tls.enabled && tls_serve(c->server.tls.cert_file, c->server.tls.key_file) != OLLA_OK) {
        log_line(LOG_ERROR, "the certificate cannot be served", "reason", str_of(tls_why()), NULL, STR(""));
        return OLLA_ERR;
    }
    return client_listen(c);
}

static void reload(void)
{
    /* It may have been renamed, and that has to work even if the rest of the reload does not. */
    if (current->logging.output == LOG_OUTPUT_FILE && open_log(current) == OLLA_OK) {
        log_switch(true);
    }
    if (conf_load(spare_conf, current->path, log_message) != OLLA_OK ||
        endpoint_check(spare_conf, log_message) != OLLA_OK) {
        log_line(LOG_ERROR, "reload refused, the old configuration stays in force", "file", str_of(current->path), NULL,
                 STR(""));
        return;
    }
    if (open_log(spare_conf) != OLLA_OK) {
        log_line(LOG_ERROR, "reload refused, the old configuration stays in force", "reason",
                 STR("the log file cannot be opened"), NULL, STR(""));
        return;
    }
    if (serve(spare_conf) != OLLA_OK) {
        log_switch(false);
        log_line(LOG_ERROR, "reload refused, the old configuration stays in force", "reason",
                 STR("cannot listen as configured"), NULL, STR(""));
        return;
    }
    meter_flush(); /* the next lines go where the new configuration says */
    state_file_flush();
    struct conf *old = current;
    current = spare_conf;
    spare_conf = old;
    conf_now = current;
    log_switch(true);
    setup_log(current);
    if (!str_eq(str_of(current->server.user), str_of(user_at_start))) {
        log_line(LOG_WARN, "server.user has changed: that needs a restart", "at_start", str_of(user_at_start), "now",
                 str_of(current->server.user));
    }
    gate_apply(current);
    /* An endpoint that is gone keeps its slot until its requests end, so its models must go first. */
    endpoint_apply(current);
    model_touch();
    settle_endpoints();
    log_line(LOG_INFO, "configuration reloaded", "file", str_of(current->path), NULL, STR(""));
    warn_if_open();
    cors_log();
    inspector_announce();
}

/* ---- stop ------------------------------------------------------------------------------- */

static void stop(void)
{
    if (stopping) {
        now_or_never = true;
        return;
    }
    stopping = true;
    stop_at = net_now() + (uint64_t)current->server.shutdown_timeout;
    client_listen_close();
    client_drain();
    if (log_begin(LOG_INFO, "stopping")) {
        log_u64("running_requests", client_busy());
        log_end();
    }
}

static void signal_ready(struct stream *s, short events)
{
    enum plat_signal sig;
    (void)s;
    (void)events;
    while ((sig = plat_signal_next()) != PLAT_SIG_NONE) {
        switch (sig) {
        case PLAT_SIG_TERM:
            stop();
            break;
        case PLAT_SIG_RELOAD:
            if (!stopping) {
                reload();
            }
            break;
        case PLAT_SIG_REPORT:
            loop_log_pools();
            break;
        case PLAT_SIG_NONE:
            break;
        }
    }
}

/* ---- names ------------------------------------------------------------------------------- */

static void restart_resolver(void)
{
    int fd = resolve_reopen();
    resolver_at = fd >= 0 ? 0 : net_now() + RESTART_MS;
    if (fd >= 0) {
        net_open(&resolver_stream, fd, &resolver_ops, NULL);
        net_want(&resolver_stream, true, false);
    }
}

static void resolver_ready(struct stream *s, short events)
{
    struct resolve_answer answer;
    int result;
    (void)events;
    while ((result = resolve_next(&answer)) == OLLA_OK) {
        endpoint_resolved(&answer);
    }
    if (result == OLLA_ERR) {
        log_line(LOG_WARN, "the resolver process has ended, starting another", NULL, STR(""), NULL, STR(""));
        /* The descriptor is the resolver's own: only leave the poll set. */
        net_forget(s);
        endpoint_resolver_lost();
        restart_resolver();
    }
}

/* ---- limits ------------------------------------------------------------------------------- */

/* Pools that were found empty since the last turn. Those that are left out have better words of their own elsewhere. */
static void watch_pools(void)
{
    static const bool own_words[POOL_COUNT] = {[POOL_CLIENT] = true, [POOL_TLS_IN] = true, [POOL_MODEL] = true};
    static struct {
        uint64_t failed, last;
    } seen[POOL_COUNT];

    for (int i = 0; i < POOL_COUNT; i++) {
        const struct pool_stats *p = pool_stats((enum pool_id)i);
        /* More probes than may run at one time are due whenever there are many endpoints: they come a little later. */
        enum log_level level = i == POOL_PROBE ? LOG_DEBUG : LOG_WARN;
        if (p->failed == seen[i].failed || own_words[i] || !log_allowed(&seen[i].last, net_now())) {
            continue;
        }
        if (log_begin(level, "a pool is empty")) {
            log_z("pool", p->name);
            log_z("limit", p->limit);
            log_u64("value", p->count);
            log_u64("times", p->failed - seen[i].failed);
            log_z("outcome", p->when_empty);
            log_end();
        }
        seen[i].failed = p->failed;
    }
}

/* ---- turns -------------------------------------------------------------------------------- */

static uint64_t earliest(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void loop_turn(void)
{
    struct resolve_answer answer;
    uint64_t wake = endpoint_resolve();

    if (resolver_at != 0 && net_now() >= resolver_at) {
        restart_resolver();
    }
    while (OLLA_RESOLVER_SYNC && resolve_next(&answer) == OLLA_OK) {
        endpoint_resolved(&answer); /* RESOLVER=sync: the answers are there already */
    }
    wake = resolver_at != 0 ? earliest(wake, resolver_at) : wake;
    wake = earliest(wake, health_tick());
    wake = earliest(wake, discover_tick());
    wake = earliest(wake, load_tick());
    wake = earliest(wake, queue_tick());
    wake = earliest(wake, wake_tick());
    wake = earliest(wake, sleep_tick());
    wake = earliest(wake, hooks_tick());
    wake = earliest(wake, state_file_tick());
    wake = earliest(wake, meter_tick());
    watch_pools();
    int log_ms = log_flush(net_now(), false);
    if (log_ms >= 0) {
        wake = earliest(wake, net_now() + (uint64_t)log_ms);
    }
    if (stopping) {
        wake = earliest(wake, stop_at);
    }
    client_feed();
    wake = earliest(wake, client_gate());
    net_turn(wake == UINT64_MAX ? 0 : wake > 0 ? wake : 1);
}

static int finish(void)
{
    int code = OLLA_EXIT_OK;
    unsigned cut = client_kill_all();

    probe_cancel(NULL);
    upstream_drop_idle(NULL);
    meter_flush();
    hooks_stop();
    state_file_flush();
    if (cut > 0) {
        code = OLLA_EXIT_CUT;
    }
    if (log_begin(cut > 0 ? LOG_WARN : LOG_INFO, "stopped")) {
        log_u64("cut_requests", cut);
        log_end();
    }
    log_flush(net_now(), true);
    resolve_close();
    return code;
}

/* False, after a message: olla cannot be who it shall be, or has no resolver. */
static bool settle_in(const struct conf *c)
{
    if (c->server.user[0]) {
        log_flush(net_now(), false); /* the log's own way to a terminal can be opened only by the terminal's user */
        if (plat_user_become(c->server.user) != OLLA_OK) {
            if (log_begin(LOG_ERROR, "cannot become the user of server.user")) {
                log_z("user", c->server.user);
                log_z("error", plat_error_text());
                log_z("remedy", "start olla as root, or as that user, or take server.user away");
                log_end();
            }
            return false;
        }
        log_line(LOG_INFO, "running as another user", "user", str_of(c->server.user), NULL, STR(""));
        if (c->path[0] && !plat_readable(c->path)) {
            log_line(LOG_WARN, "reloads will fail: the user of server.user cannot read the configuration", "file",
                     str_of(c->path), "user", str_of(c->server.user));
        }
    }
    /* It must not keep the rights that were given up, so it starts after that. */
    int fd = resolve_open();
    if (fd == OLLA_ERR) {
        log_line(LOG_ERROR, "cannot start the resolver process", "error", str_of(plat_error_text()), NULL, STR(""));
    } else if (fd != RESOLVE_NO_FD) {
        net_open(&resolver_stream, fd, &resolver_ops, NULL);
        net_want(&resolver_stream, true, false);
    }
    return fd != OLLA_ERR;
}

static bool start_log(const struct conf *c)
{
    if (open_log(c) != OLLA_OK) {
        return false;
    }
    log_switch(true);
    return true;
}

bool loop_open(struct conf *first, struct conf *spare, int signals)
{
    current = first;
    spare_conf = spare;
    conf_now = first;
    net_tick();
    setup_log(first);
    loop_init_pools();
    plat_raise_fd_limit(OLLA_MAX_CLIENTS + OLLA_MAX_UPSTREAMS + OLLA_MAX_PROBES + OLLA_MAX_CLIENTS / 4 + 32);
    net_open(&signal_stream, signals, &signal_ops, NULL);
    net_want(&signal_stream, true, false);
    /* Who will open the log anew at a reload opens it now. */
    bool later = first->server.user[0] != '\0';
    bool good = later || start_log(first);
    /* Bind first, probe after: a dead machine must not delay the port. */
    good = good && serve(first) == OLLA_OK && settle_in(first);
    if (!good || (later && !start_log(first))) {
        log_flush(net_now(), true);
        resolve_close();
        return false;
    }
    str_copy(user_at_start, sizeof(user_at_start), str_of(first->server.user));
    gate_apply(first);
    warn_if_open();
    cors_log();
    inspector_announce();
    endpoint_apply(first);
    state_file_read();
    return true;
}

int loop_run(struct conf *first, struct conf *spare, int signals)
{
    if (!loop_open(first, spare, signals)) {
        return OLLA_EXIT_CONF;
    }
    while (!stopping || (client_count() > 0 && net_now() < stop_at && !now_or_never)) {
        loop_turn();
    }
    return finish();
}
