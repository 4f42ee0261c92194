/*
 * conf.c - level 3: one configuration from defaults, file and environment.
 *
 * The rows of conf_table.c drive everything; here is what concerns more than
 * one row: sections, endpoints, messages, checks between settings. The
 * loader is static: one configuration is loaded at a time.
 *
 * May include: conf.h, str.h, platform.h.
 */
#include "conf.h"

#include <stdlib.h>
#include <string.h>

#include "../platform/platform.h"
#include "conf_internal.h"

const struct conf *conf_now;

#define MESSAGE_SIZE 640
#define SHOWN_MAX 100
#define MAX_CHECK_TIMEOUT 2000

static struct conf_loader loader;
static char message_space[MESSAGE_SIZE];
static struct text message;

/* ---- messages ----------------------------------------------------------- */

struct text *conf_message_open(struct conf_loader *ld, const char *key)
{
    message = text_in(message_space, sizeof(message_space));
    if (ld->env) {
        text_addz(&message, "environment: ");
        text_addz(&message, ld->env);
    } else {
        text_addz(&message, ld->c->path);
        if (ld->line > 0) {
            text_char(&message, ':');
            text_u64(&message, (uint64_t)ld->line);
        }
        if (key && ld->endpoint >= 0) {
            text_addz(&message, ": endpoint:");
            text_addz(&message, ld->c->endpoint[ld->endpoint].name);
            text_addz(&message, *key ? "." : "");
            text_addz(&message, key);
        } else if (key) {
            text_addz(&message, ": ");
            text_addz(&message, key);
        }
    }
    text_addz(&message, ": ");
    return &message;
}

void conf_message_send(struct conf_loader *ld, bool error)
{
    if (error) {
        ld->errors++;
    } else {
        ld->c->warnings++;
    }
    ld->say(error, text_z(&message));
}

static void say(struct conf_loader *ld, bool error, const char *key, const char *what)
{
    text_addz(conf_message_open(ld, key), what);
    conf_message_send(ld, error);
}

/* In quotes, cut if long; the environment can hold anything, so control characters become '?'. */
static void put_shown(struct text *t, struct str s)
{
    size_t n = s.n < SHOWN_MAX ? s.n : SHOWN_MAX;

    text_char(t, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)s.p[i];

        text_char(t, b < ' ' || b == 0x7f ? '?' : s.p[i]);
    }
    text_addz(t, n < s.n ? "...\"" : "\"");
}

static void say_problem(struct conf_loader *ld, const char *key, const struct conf_row *row,
                        const struct conf_problem *bad)
{
    struct text *t = conf_message_open(ld, key);

    if (bad->full) {
        text_addz(t, "no room left; the text of all settings together is limited to OLLA_CONF_TEXT = ");
        text_u64(t, OLLA_CONF_TEXT);
        text_addz(t, " bytes in this build");
        conf_message_send(ld, true);
        return;
    }
    text_addz(t, bad->why);
    if (bad->value.p) {
        text_addz(t, ": ");
        put_shown(t, bad->value);
    }
    text_addz(t, bad->clamped ? "; the nearest limit is used; allowed: " : "; allowed: ");
    conf_put_allowed(t, row);
    conf_message_send(ld, !bad->clamped);
}

/* ---- settings ----------------------------------------------------------- */

/* base: the struct conf or struct conf_endpoint that the row belongs to. */
static void store(struct conf_loader *ld, void *base, const char *key, const struct conf_row *row, struct str value,
                  bool append)
{
    struct conf_problem bad;

    if (conf_store(ld->c, base, row, value, append, &bad) != OLLA_OK || bad.clamped) {
        say_problem(ld, key, row, &bad);
    }
}

static bool is_list(enum conf_type type)
{
    return type == CONF_STATUSES || type == CONF_NOTHING;
}

/* A setting of the file: key is its path, or within an endpoint section the key alone. */
static void set_from_file(struct conf_loader *ld, const struct conf_row *row, int *seen, void *base, struct str raw)
{
    bool quoted = false;
    bool odd = false;
    bool again = *seen != 0;
    struct str value = conf_clean(row->type, raw, &quoted, &odd);

    if (again && !is_list(row->type)) {
        struct text *t = conf_message_open(ld, row->path);

        text_addz(t, "set twice, first in line ");
        text_u64(t, (uint64_t)*seen);
        text_addz(t, "; one of the two has to go");
        conf_message_send(ld, true);
        return;
    }
    *seen = ld->line;
    if (odd) {
        say(ld, false, row->path, "all of the line belongs to this text, comments too; put the text in quotes");
    }
    if (value.n > 0 || quoted || is_list(row->type) || row->type == CONF_URL) {
        store(ld, base, row->path, row, value, again);
    }
}

void conf_on_setting(struct conf_loader *ld, struct str section, struct str key, struct str raw)
{
    char space[256];
    struct text path = text_in(space, sizeof(space));
    bool in_endpoint = ld->endpoint >= 0;
    const struct conf_row *rows = in_endpoint ? conf_endpoint_rows : conf_rows;
    int *seen = in_endpoint ? ld->seen_endpoint : ld->seen;
    void *base = in_endpoint ? (void *)&ld->c->endpoint[ld->endpoint] : (void *)ld->c;
    const struct conf_row *row;

    if (!in_endpoint && section.n > 0) {
        text_add(&path, section);
        text_char(&path, '.');
    }
    text_add(&path, key);
    row = conf_row_find(rows, text_str(&path));
    if (!row) {
        say(ld, false, text_z(&path), "unknown key, ignored");
    } else if (row->type != CONF_INERT) {
        set_from_file(ld, row, &seen[row - rows], base, raw);
    }
}

static void set_from_environment(struct conf_loader *ld)
{
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        const char *value = row->env ? getenv(row->env) : NULL;

        if (value && value[0]) {
            ld->env = row->env;
            store(ld, ld->c, NULL, row, str_trim(str_of(value)), false);
        }
    }
    ld->env = NULL;
}

/* ---- endpoints ---------------------------------------------------------- */

static int *seen_endpoint_key(struct conf_loader *ld, const char *key)
{
    return &ld->seen_endpoint[conf_row_find(conf_endpoint_rows, str_of(key)) - conf_endpoint_rows];
}

/* "check_timeout" may follow from "check_interval", so they are looked at together. */
static void check_times(struct conf_loader *ld, struct conf_endpoint *e)
{
    struct text *t;

    if (e->check_timeout == 0) {
        e->check_timeout = e->check_interval / 2 < MAX_CHECK_TIMEOUT ? e->check_interval / 2 : MAX_CHECK_TIMEOUT;
    }
    if (e->check_timeout < e->check_interval) {
        return;
    }
    ld->line = *seen_endpoint_key(ld, "check_timeout");
    t = conf_message_open(ld, "check_timeout");
    text_addz(t, "too long: \"");
    conf_put_duration(t, e->check_timeout);
    text_addz(t, "\"; allowed: less than check_interval, which is ");
    conf_put_duration(t, e->check_interval);
    conf_message_send(ld, true);
}

/* Where a probe goes: a path of the endpoint itself, or another host. */
static void set_target(struct conf_loader *ld, const char *key, const char **path, struct conf_url *other)
{
    struct conf_problem bad = {.full = true};
    const char *why;

    /* What is wrong with the text itself was reported where it stands. */
    if (conf_parse_target(ld->c, str_of(*path), other, path, &why) != OLLA_OK) {
        ld->line = *seen_endpoint_key(ld, key);
        say_problem(ld, key, NULL, &bad);
    }
}

/* The section of an endpoint is over: what its keys only show together. */
static void end_endpoint(struct conf_loader *ld)
{
    struct conf_endpoint *e;
    int line = ld->line;

    if (ld->endpoint < 0) {
        return;
    }
    e = &ld->c->endpoint[ld->endpoint];
    ld->line = e->line;
    if (e->name[0] == '\0') {
        say(ld, true, "name", "empty; an endpoint needs a name");
    }
    /* A wrong url was reported where it stands. */
    if (!e->url.text && *seen_endpoint_key(ld, "url") == 0) {
        say(ld, true, "url", "missing; allowed: http://host[:port][/path]");
    }
    set_target(ld, "health_check_url", &e->health_check_url, &e->health_host);
    set_target(ld, "model_url", &e->model_url, &e->model_host);
    e->type_line = *seen_endpoint_key(ld, "type");
    check_times(ld, e);
    ld->line = line;
    ld->endpoint = -1;
}

/* The slot for one more endpoint, filled with defaults; NULL when there is none left. */
static struct conf_endpoint *add_endpoint(struct conf_loader *ld)
{
    struct conf_endpoint *e;

    if (ld->c->endpoints == OLLA_MAX_ENDPOINTS) {
        return NULL;
    }
    e = &ld->c->endpoint[ld->c->endpoints++];
    conf_store_defaults(ld->c, e, conf_endpoint_rows);
    e->line = ld->line;
    memset(ld->seen_endpoint, 0, sizeof(ld->seen_endpoint));
    return e;
}

static void begin_endpoint(struct conf_loader *ld, struct str name)
{
    bool quoted = false;
    struct conf_endpoint *e;

    name = conf_unquote(str_trim(name), &quoted);
    if (name.n == 0) {
        say(ld, true, NULL, "an endpoint section without a name; it looks like [endpoint:NAME]");
        return;
    }
    e = add_endpoint(ld);
    if (!e) {
        if (!ld->too_many) {
            struct text *t = conf_message_open(ld, NULL);

            ld->too_many = true;
            text_addz(t, "too many endpoints; at most OLLA_MAX_ENDPOINTS = ");
            text_u64(t, OLLA_MAX_ENDPOINTS);
            text_addz(t, " are possible in this build");
            conf_message_send(ld, true);
        }
        return;
    }
    e->name = conf_keep(ld->c, name);
    if (!e->name) {
        struct conf_problem bad = {.full = true};

        e->name = "";
        say_problem(ld, NULL, NULL, &bad);
    }
    ld->endpoint = ld->c->endpoints - 1;
    ld->skip = false;
}

static bool is_known_section(struct str name)
{
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        if (str_starts(str_of(row->path), name) && row->path[name.n] == '.') {
            return true;
        }
    }
    return false;
}

void conf_on_section(struct conf_loader *ld, struct str name)
{
    struct str rest = str_skip(name, sizeof("endpoint") - 1);

    end_endpoint(ld);
    ld->skip = true;
    if (str_starts(name, STR("endpoint")) && (rest.n == 0 || strchr(": \t", rest.p[0]))) {
        rest = str_trim(rest);
        begin_endpoint(ld, rest.n > 0 && rest.p[0] == ':' ? str_skip(rest, 1) : rest);
    } else if (is_known_section(name)) {
        ld->skip = false;
    } else {
        struct text *t = conf_message_open(ld, NULL);

        put_shown(t, name);
        text_addz(t, ": unknown section, ignored with all its keys");
        conf_message_send(ld, false);
    }
}

/* What a stock Ollama on this machine needs. */
static void add_builtin_endpoint(struct conf_loader *ld)
{
    struct conf_endpoint *e = add_endpoint(ld);
    const char *why = NULL;

    e->line = 0;
    e->name = "localhost";
    e->type = "ollama";
    e->health_check_url = "/";
    (void)conf_parse_url(ld->c, STR("http://localhost:11434"), &e->url, &why);
    ld->endpoint = 0;
    end_endpoint(ld);
}

/* ---- checks between settings -------------------------------------------- */

static void check_names(struct conf_loader *ld)
{
    struct conf *c = ld->c;

    for (int i = 1; i < c->endpoints; i++) {
        for (int k = 0; k < i; k++) {
            if (c->endpoint[i].name[0] && strcmp(c->endpoint[i].name, c->endpoint[k].name) == 0) {
                struct text *t;

                ld->endpoint = i;
                ld->line = c->endpoint[i].line;
                t = conf_message_open(ld, "");
                text_addz(t, "this name is taken by the endpoint in line ");
                text_u64(t, (uint64_t)c->endpoint[k].line);
                conf_message_send(ld, true);
                break;
            }
        }
    }
    ld->endpoint = -1;
}

static int seen_line(const struct conf_loader *ld, const char *path)
{
    return ld->seen[conf_row_find(conf_rows, str_of(path)) - conf_rows];
}

static void check_discovery(struct conf_loader *ld)
{
    const struct conf *c = ld->c;
    const struct {
        const char *path;
        bool zero;
    } need[] = {
        {"discovery.model_discovery.interval", c->discovery.model_discovery.interval == 0},
        {"discovery.model_discovery.timeout", c->discovery.model_discovery.timeout == 0},
        {"discovery.model_discovery.concurrent_workers", c->discovery.model_discovery.concurrent_workers == 0},
    };

    for (size_t i = 0; c->discovery.model_discovery.enabled && i < OLLA_COUNT(need); i++) {
        if (need[i].zero) {
            ld->line = seen_line(ld, need[i].path);
            say(ld, true, need[i].path, "out of range: \"0\"; allowed: more than 0 while model discovery is enabled");
        }
    }
}

static void settle_server(struct conf *c)
{
    struct str host = str_of(c->server.host);

    if (c->server.idle_timeout == 0) {
        c->server.idle_timeout = c->server.read_timeout;
    }
    if (c->server.max_header_size == 0) {
        c->server.max_header_size = OLLA_MAX_HEAD;
    }
    /* The reference wants an IPv6 address in brackets; the system calls do not. */
    if (host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']') {
        c->text[(size_t)(host.p - c->text) + host.n - 1] = '\0';
        c->server.host = host.p + 1;
    }
}

/* ---- public ------------------------------------------------------------- */

const char *conf_find(const char *option, conf_message *say_line)
{
    static const char *const places[] = {
        "config/config.local.ini", "config/config.ini", "config.ini", "default.ini", "olla.ini", "/etc/olla.ini",
    };
    const char *named = option ? option : getenv("OLLA_CONFIG_FILE");

    if (named && (option || named[0])) {
        if (plat_readable(named)) {
            return named;
        }
        message = text_in(message_space, sizeof(message_space));
        text_addz(&message, named);
        text_addz(&message, ": the configuration file cannot be read");
        text_addz(&message, option ? "" : " (named by OLLA_CONFIG_FILE)");
        say_line(true, text_z(&message));
        return NULL;
    }
    for (size_t i = 0; i < OLLA_COUNT(places); i++) {
        if (plat_readable(places[i])) {
            return places[i];
        }
    }
    return "";
}

int conf_load(struct conf *c, const char *path, conf_message *say_line)
{
    struct conf_loader *ld = &loader;

    memset(c, 0, sizeof(*c));
    memset(ld, 0, sizeof(*ld));
    ld->c = c;
    ld->say = say_line;
    ld->endpoint = -1;
    c->path = conf_keep(c, str_of(path));
    if (!c->path) {
        c->path = "";
        say(ld, true, NULL, "the name of the configuration file is too long");
        return OLLA_ERR;
    }
    conf_store_defaults(c, c, conf_rows);
    if (path[0]) {
        conf_read_file(ld, path);
        end_endpoint(ld);
    }
    set_from_environment(ld);
    if (c->endpoints == 0 && seen_line(ld, "discovery.static.endpoints") == 0) {
        add_builtin_endpoint(ld);
    }
    check_names(ld);
    check_discovery(ld);
    settle_server(c);
    return ld->errors > 0 ? OLLA_ERR : OLLA_OK;
}
