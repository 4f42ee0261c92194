/*
 * conf.c - level 3: the configuration as a whole; see conf.h.
 *
 * Settings are driven by the rows of conf_table.c. Here is what concerns more than
 * one row: sections, endpoints, messages, checks between settings. The
 * loader is static: one configuration is loaded at a time.
 *
 * May include: conf.h, str.h, platform.h.
 */
#include "conf.h"

#include <stdlib.h>
#include <string.h>

#include "../platform/platform.h"
#include "../platform/tls.h"
#include "conf_internal.h"

const struct conf *conf_now;

#define SHOWN_MAX         100
#define MAX_CHECK_TIMEOUT 2000

static struct conf_loader loader;

/* ---- messages ----------------------------------------------------------- */

/* In quotes, cut if long; the environment can hold anything, so control characters become '?'. */
static void put_shown(struct text *t, struct str s)
{
    text_addz(t, ": \"");
    for (size_t i = 0; i < s.n && i < SHOWN_MAX; i++) {
        text_char(t, (unsigned char)s.p[i] < ' ' || s.p[i] == 0x7f ? '?' : s.p[i]);
    }
    text_addz(t, s.n > SHOWN_MAX ? "...\"" : "\"");
}

void conf_say(struct conf_loader *ld, struct conf_fault fault)
{
    static char space[640];
    struct text t = text_in(space, sizeof(space));

    text_addz(&t, ld->env ? "environment: " : ld->c->path);
    text_addz(&t, ld->env);
    if (!ld->env && ld->line > 0) {
        text_char(&t, ':');
        text_u64(&t, (uint64_t)ld->line);
    }
    if (!ld->env && fault.key) {
        text_addz(&t, ": ");
        if (ld->kind != CONF_SETTINGS) {
            text_addz(&t, conf_kind_name(ld->kind));
            text_char(&t, ':');
            text_addz(&t, *ld->name);
            fault.key += strlen(conf_kind_name(ld->kind));
        }
        text_addz(&t, fault.key);
    }
    text_addz(&t, ": ");
    text_addz(&t, fault.what);
    if (fault.number != 0) {
        text_i64(&t, fault.number);
    }
    if (fault.value.p) {
        put_shown(&t, fault.value);
    }
    text_addz(&t, fault.allowed ? "; allowed: " : "");
    text_addz(&t, fault.allowed);
    *(fault.warning ? &ld->c->warnings : &ld->errors) += 1;
    ld->say(!fault.warning, text_z(&t));
}

const char *conf_keep(struct conf_loader *ld, struct str s)
{
    char *to = ld->c->text + ld->c->text_n;
    size_t room = sizeof(ld->c->text) - ld->c->text_n;

    if (s.n > 0 && s.n < room && str_copy(to, room, s)) {
        ld->c->text_n += s.n + 1;
        return to;
    }
    if (s.n > 0 && !ld->full) {
        ld->full = true;
        CONF_SAY(ld, .what = "no room left; the bytes of all texts together are limited to OLLA_CONF_TEXT = ",
                 .number = OLLA_CONF_TEXT);
    }
    return "";
}

/* ---- settings ----------------------------------------------------------- */

int *conf_seen(struct conf_loader *ld, const char *path)
{
    return &ld->seen[conf_row_find(str_of(path)) - conf_rows];
}

/* Of the section's item that is being filled, or else of all the rest. */
static void set_defaults(struct conf_loader *ld)
{
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        if (conf_kind_of(row) == ld->kind) {
            ld->seen[row - conf_rows] = 0;
            if (row->def) {
                conf_store(ld, row, str_of(row->def));
            }
        }
    }
}

/* ---- aliases ------------------------------------------------------------ */

/* The alias of that name, a new one if need be; NULL after a message. */
static struct conf_alias *take_alias(struct conf_loader *ld, struct str name)
{
    struct conf *c = ld->c;
    for (int i = 0; i < c->aliases; i++) {
        if (str_ieq(str_of(c->alias[i].name), name)) {
            return &c->alias[i]; /* a list goes on */
        }
    }
    if (name.n == 0) {
        CONF_SAY(ld, .what = "an alias without a name; it looks like [model_alias:NAME]");
        return NULL;
    }
    if (c->aliases == OLLA_MAX_ALIASES) {
        CONF_SAY(ld,
                 .what = "too many aliases; this build is limited to OLLA_MAX_ALIASES = ", .number = OLLA_MAX_ALIASES);
        return NULL;
    }
    c->alias[c->aliases] = (struct conf_alias){.name = conf_keep(ld, name), .line = ld->line};
    return &c->alias[c->aliases++];
}

/* `NAME = model, model` in [model_aliases], or `models = ...` in [model_alias:NAME]. */
static void on_alias_key(struct conf_loader *ld, struct str key, struct str raw)
{
    struct conf_alias *a = ld->section == CONF_IN_ALIASES ? take_alias(ld, key) : ld->alias;
    if (ld->section == CONF_IN_ALIAS && !str_eq(key, STR("models"))) {
        CONF_SAY(ld, .key = "model_alias", .what = "unknown key, ignored", .value = key, .warning = true);
    } else if (a) {
        conf_store_names(ld, "model_aliases", raw, &a->models, false);
    }
}

static void check_aliases(struct conf_loader *ld)
{
    for (int i = 0; i < ld->c->aliases; i++) {
        if (ld->c->alias[i].models.n == 0) {
            ld->line = ld->c->alias[i].line;
            CONF_SAY(ld, .key = "model_aliases", .what = "an alias without models",
                     .value = str_of(ld->c->alias[i].name), .allowed = "a list of model names");
        }
    }
}

const struct conf_alias *conf_alias_find(const struct conf *c, struct str name)
{
    for (int i = 0; i < c->aliases; i++) {
        if (str_ieq(str_of(c->alias[i].name), name)) {
            return &c->alias[i];
        }
    }
    return NULL;
}

/* ---- one setting -------------------------------------------------------- */

/* Headers share a row; the name of each is part of its key. */
static const struct conf_row *find_row(const struct conf_loader *ld, struct str path)
{
    bool header = ld->kind == CONF_ENDPOINT && str_starts(path, STR("endpoint.headers."));
    return conf_row_find(header ? STR("endpoint.headers.NAME") : path);
}

/* Lists go on; headers are told apart by their names. */
static bool may_repeat(const struct conf_row *row)
{
    return row->type == CONF_STATUSES || row->type == CONF_CHOICES || row->type == CONF_PATTERNS ||
           row->type == CONF_NAMES || row->type == CONF_WORDS || row->type == CONF_CIDRS || row->type == CONF_HEADER;
}

void conf_on_setting(struct conf_loader *ld, struct str section, struct str key, struct str raw)
{
    char space[256];
    struct text path = text_in(space, sizeof(space));
    const struct conf_row *row;

    if (ld->section != CONF_IN_SETTINGS) {
        on_alias_key(ld, key, raw);
        return;
    }
    text_add(&path, ld->kind != CONF_SETTINGS ? str_of(conf_kind_name(ld->kind)) : section);
    text_addz(&path, path.n > 0 ? "." : "");
    text_add(&path, key);
    ld->key = text_z(&path);
    row = find_row(ld, text_str(&path));
    if (!row || conf_kind_of(row) != ld->kind) {
        /* A word that was meant to narrow a key must not leave it wide open. */
        bool warning = ld->kind != CONF_KEY;
        CONF_SAY(ld, .key = ld->key, .what = warning ? "unknown key, ignored" : "unknown key", .warning = warning);
    } else if (row->type == CONF_INERT) {
        return;
    } else if (ld->seen[row - conf_rows] != 0 && !may_repeat(row)) {
        CONF_SAY(ld, .key = row->path, .what = "set twice; one has to go, the first is in line ",
                 .number = ld->seen[row - conf_rows]);
    } else {
        conf_store_raw(ld, row, raw);
        ld->seen[row - conf_rows] = ld->line;
    }
}

static void set_from_environment(struct conf_loader *ld)
{
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        const char *value = row->env ? getenv(row->env) : NULL;

        if (value && value[0]) {
            ld->env = row->env;
            conf_store(ld, row, str_trim(str_of(value)));
        }
    }
    ld->env = NULL;
}

/* ---- endpoints ---------------------------------------------------------- */

static void check_endpoint_tls(struct conf_loader *ld, const struct conf_endpoint *e)
{
    static const char *const rows[] = {"endpoint.tls.ca_file", "endpoint.tls.server_name", "endpoint.tls.insecure"};
    bool tls = e->url.tls || e->health_host.tls || e->model_host.tls;

    for (size_t i = 0; i < OLLA_COUNT(rows) && !tls && e->url.text; i++) {
        ld->line = *conf_seen(ld, rows[i]);
        if (ld->line > 0) {
            CONF_SAY(ld, .key = rows[i], .warning = true,
                     .what = "changes nothing: the url does not begin with https://");
        }
    }
    if (tls && e->tls.insecure) {
        ld->line = *conf_seen(ld, "endpoint.tls.insecure");
        CONF_SAY(ld, .key = "endpoint.tls.insecure", .warning = true,
                 .what = "nobody checks who answers: whoever can get in between reads and changes everything");
    }
    ld->line = e->line;
}

static void check_endpoint_wake(struct conf_loader *ld, const struct conf_endpoint *e)
{
    static const char *const rows[] = {"endpoint.wake.broadcast", "endpoint.wake.port", "endpoint.wake.timeout",
                                       "endpoint.wake.policy"};
    bool wakes = *conf_seen(ld, "endpoint.wake.mac") > 0;

    for (size_t i = 0; i < OLLA_COUNT(rows) && !wakes; i++) {
        ld->line = *conf_seen(ld, rows[i]);
        if (ld->line > 0) {
            CONF_SAY(ld, .key = rows[i], .warning = true, .what = "changes nothing without wake.mac");
        }
    }
    if (wakes && e->health != HEALTH_HTTP) {
        ld->line = *conf_seen(ld, "endpoint.wake.mac");
        CONF_SAY(ld, .key = "endpoint.wake.mac", .warning = true,
                 .what = "changes nothing: without health = http it is never known to sleep");
    }
    ld->line = e->line;
}

/* The section of an endpoint is over: what its keys only show together. */
static void end_endpoint(struct conf_loader *ld)
{
    struct conf_endpoint *e = ld->item;
    int line = ld->line;

    ld->line = e->line;
    if (e->name[0] == '\0') {
        CONF_SAY(ld, .key = "endpoint.name", .what = "empty; an endpoint needs a name");
    }
    for (int i = 0; i < ld->c->endpoints - 1; i++) {
        if (e->name[0] && strcmp(e->name, ld->c->endpoint[i].name) == 0) {
            CONF_SAY(ld, .key = "endpoint", .what = "this name is taken by the endpoint in line ",
                     .number = ld->c->endpoint[i].line);
        }
    }
    /* A wrong url was reported where it stands. */
    if (!e->url.text && *conf_seen(ld, "endpoint.url") == 0) {
        CONF_SAY(ld, .key = "endpoint.url", .what = "missing", .allowed = "http://host[:port][/path] or https://...");
    }
    e->type_line = *conf_seen(ld, "endpoint.type");
    check_endpoint_tls(ld, e);
    check_endpoint_wake(ld, e);
    conf_settle_auth(ld);
    ld->line = e->line;
    if (e->check_timeout == 0) {
        e->check_timeout = e->check_interval / 2 < MAX_CHECK_TIMEOUT ? e->check_interval / 2 : MAX_CHECK_TIMEOUT;
    }
    if (e->check_timeout >= e->check_interval) {
        ld->line = *conf_seen(ld, "endpoint.check_timeout");
        CONF_SAY(ld, .key = "endpoint.check_timeout", .what = "too long, in milliseconds: ", .number = e->check_timeout,
                 .allowed = "less than check_interval");
    }
    ld->line = line;
}

/* ---- sections with a name ------------------------------------------------ */

static void end_profile(struct conf_loader *ld)
{
    struct conf_profile *p = ld->item;
    int line = ld->line;

    ld->line = p->line;
    for (int i = 0; i < ld->c->profiles - 1; i++) {
        if (str_ieq(str_of(p->name), str_of(ld->c->profile[i].name))) {
            CONF_SAY(ld, .key = "profile", .what = "this name is taken by the profile in line ",
                     .number = ld->c->profile[i].line);
        }
    }
    ld->line = line;
}

static void end_item(struct conf_loader *ld)
{
    if (ld->kind == CONF_ENDPOINT) {
        end_endpoint(ld);
    } else if (ld->kind == CONF_PROFILE) {
        end_profile(ld);
    } else if (ld->kind == CONF_KEY) {
        conf_end_key(ld);
    }
    ld->kind = CONF_SETTINGS;
}

static const struct {
    const char *nameless, *too_many;
    int most;
} words[CONF_KINDS] = {
    [CONF_ENDPOINT] = {"an endpoint section without a name; it looks like [endpoint:NAME]",
                       "too many endpoints; this build is limited to OLLA_MAX_ENDPOINTS = ", OLLA_MAX_ENDPOINTS},
    [CONF_PROFILE] = {"a profile section without a name; it looks like [profile:NAME]",
                      "too many profiles; this build is limited to OLLA_MAX_PROFILES = ", OLLA_MAX_PROFILES},
    [CONF_KEY] = {"a key section without a name; it looks like [key:NAME]",
                  "too many keys; this build is limited to OLLA_MAX_KEYS = ", OLLA_MAX_KEYS},
};

/* A fresh item for the section; false: after a message there is none. */
static bool take_item(struct conf_loader *ld, enum conf_kind kind)
{
    struct conf *c = ld->c;

    if (kind == CONF_ENDPOINT && c->endpoints < OLLA_MAX_ENDPOINTS) {
        struct conf_endpoint *e = &c->endpoint[c->endpoints++];
        e->line = ld->line;
        ld->item = e;
        ld->name = &e->name;
        return true;
    }
    if (kind == CONF_PROFILE && c->profiles < OLLA_MAX_PROFILES) {
        struct conf_profile *p = &c->profile[c->profiles++];
        p->line = ld->line;
        p->response_format = p->openai_compatible = -1;
        p->idle_timeout = -1;
        ld->item = p;
        ld->name = &p->name;
        return true;
    }
    if (kind == CONF_KEY && c->keys < OLLA_MAX_KEYS) {
        struct conf_key *k = &c->key[c->keys++];
        k->line = ld->line;
        ld->item = k;
        ld->name = &k->name;
        return true;
    }
    CONF_SAY(ld, .what = words[kind].too_many, .number = words[kind].most);
    return false;
}

static void begin_item(struct conf_loader *ld, enum conf_kind kind, struct str name)
{
    name = conf_unquote(str_trim(name));
    if (name.n == 0) {
        CONF_SAY(ld, .what = words[kind].nameless);
    } else if (take_item(ld, kind)) {
        ld->kind = kind;
        ld->skip = false;
        set_defaults(ld);
        *ld->name = conf_keep(ld, name);
    }
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
    end_item(ld);
    ld->section = CONF_IN_SETTINGS;
    for (int kind = CONF_ENDPOINT; kind < CONF_KINDS; kind++) {
        struct str word = str_of(conf_kind_name((enum conf_kind)kind)), rest = str_skip(name, word.n);
        if (str_starts(name, word) && (rest.n == 0 || strchr(": \t", rest.p[0]))) {
            rest = str_trim(rest);
            begin_item(ld, (enum conf_kind)kind, str_starts(rest, STR(":")) ? str_skip(rest, 1) : rest);
            return;
        }
    }
    if (str_eq(name, STR("model_aliases"))) {
        ld->section = CONF_IN_ALIASES;
        ld->skip = false;
    } else if (str_starts(name, STR("model_alias:"))) {
        ld->section = CONF_IN_ALIAS;
        ld->skip = false;
        ld->alias = take_alias(ld, conf_unquote(str_trim(str_skip(name, sizeof("model_alias:") - 1))));
    } else if (is_known_section(name)) {
        ld->skip = false;
    } else {
        CONF_SAY(ld, .what = "unknown section, ignored with all its keys", .value = name, .warning = true);
    }
}

/* What a stock Ollama on this machine needs. */
static void add_builtin_endpoint(struct conf_loader *ld)
{
    ld->line = 0;
    ld->section = CONF_IN_SETTINGS;
    begin_item(ld, CONF_ENDPOINT, STR("localhost"));
    conf_on_setting(ld, STR(""), STR("url"), STR("http://localhost:11434"));
    conf_on_setting(ld, STR(""), STR("type"), STR("ollama"));
    conf_on_setting(ld, STR(""), STR("health_check_url"), STR("/"));
    end_item(ld);
}

/* ---- checks between settings -------------------------------------------- */

static void check_not_zero(struct conf_loader *ld, const char *path, int64_t value)
{
    if (value == 0) {
        ld->line = *conf_seen(ld, path);
        CONF_SAY(ld, .key = path, .what = "wrong value", .value = STR("0"),
                 .allowed = "more than 0 while model discovery is enabled");
    }
}

/* / itself, or in one of the directories where a file of ours could do harm; "." and ".." and "//" are seen through. */
static bool is_of_system(struct str path)
{
    static const char *const names[] = {"etc", "var", "usr", "bin", "sbin", "boot", "sys", "proc", "dev", "root"};
    struct str first = STR("");
    int depth = 0;

    if (!str_starts(path, STR("/"))) {
        return false;
    }
    while (path.n > 0) {
        size_t n = str_find(path, '/');
        struct str one = {path.p, n};
        path = str_skip(path, n + 1);
        if (str_eq(one, STR(".."))) {
            depth -= depth > 0;
        } else if (one.n > 0 && !str_eq(one, STR("."))) {
            first = depth++ == 0 ? one : first;
        }
    }
    bool of_system = depth == 0;
    for (size_t i = 0; i < OLLA_COUNT(names); i++) {
        of_system = of_system || str_eq(first, str_of(names[i]));
    }
    return of_system;
}

bool conf_is_token(struct str s)
{
    bool token = s.n > 0;
    for (size_t i = 0; i < s.n; i++) {
        char c = str_lower(s.p[i]);
        token = token && c != '\0' &&
                ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || strchr("!#$%&'*+-.^_`|~", c));
    }
    return token;
}

static void check_inspector(struct conf_loader *ld)
{
    const char *dir = "translators.anthropic.inspector.output_dir",
               *header = "translators.anthropic.inspector.session_header";
    const char **dir_value = &ld->c->translators.anthropic.inspector.output_dir,
               **header_value = &ld->c->translators.anthropic.inspector.session_header;

    *dir_value = (*dir_value)[0] ? *dir_value : "./inspector-logs";
    *header_value = (*header_value)[0] ? *header_value : "X-Session-ID";
    if (!ld->c->translators.anthropic.inspector.enabled) {
        return;
    }
    if (is_of_system(str_of(*dir_value))) {
        ld->line = *conf_seen(ld, dir);
        CONF_SAY(ld, .key = dir, .what = "a directory of the system", .value = str_of(*dir_value),
                 .allowed = "a path that is not / and not in /etc, /var, /usr, /bin, /sbin, /boot, /sys, /proc, /dev, "
                            "/root");
    }
    if (!conf_is_token(str_of(*header_value))) {
        ld->line = *conf_seen(ld, header);
        CONF_SAY(ld, .key = header, .what = "not the name of a header", .value = str_of(*header_value),
                 .allowed = "letters, digits and !#$%&'*+-.^_`|~");
    }
}

/* Lists of names of headers or methods. */
static void check_tokens(struct conf_loader *ld, const char *path, const struct conf_list *list)
{
    size_t bytes = 0;

    for (int i = 0; i < list->n; i++) {
        struct str one = str_of(list->item[i]);
        bytes += one.n + 2;
        if (!conf_is_token(one)) {
            ld->line = *conf_seen(ld, path);
            CONF_SAY(ld, .key = path, .what = "not a name", .value = one,
                     .allowed = "letters, digits and !#$%&'*+-.^_`|~");
        }
    }
    if (bytes > CONF_EXPOSED_MAX) {
        ld->line = *conf_seen(ld, path);
        CONF_SAY(ld, .key = path, .what = "too long; it goes into every reply, and all of it may have so many bytes: ",
                 .number = CONF_EXPOSED_MAX);
    }
}

/* Nothing of it matters while it is off. */
static void check_cors(struct conf_loader *ld)
{
    static const char origins[] = "server.cors.allowed_origins", credentials[] = "server.cors.allow_credentials";
    const struct conf_list *list = &ld->c->server.cors.allowed_origins;

    if (!ld->c->server.cors.enabled) {
        return;
    }
    ld->line = *conf_seen(ld, origins);
    if (list->n == 0 && ld->errors == 0) { /* else a wrong one was reported where it stands */
        CONF_SAY(ld, .key = origins, .what = "empty while server.cors.enabled = true",
                 .allowed = "a list of origins like https://chat.example.com, or *");
    }
    for (int i = 0; i < list->n; i++) {
        struct str one = str_of(list->item[i]), rest = str_skip(one, str_find(one, '*') + 1);
        if (str_find(rest, '*') < rest.n) {
            CONF_SAY(ld, .key = origins, .what = "more than one *", .value = one, .allowed = "one * in each origin");
        }
        if (ld->c->server.cors.allow_credentials && str_eq(one, STR("*"))) {
            ld->line = *conf_seen(ld, credentials);
            CONF_SAY(ld, .key = credentials,
                     .what = "not together with the origin *: any page could act for its reader",
                     .allowed = "the origins that are meant, in server.cors.allowed_origins");
        }
    }
    for (int i = 0; i < ld->c->server.cors.allowed_methods.n; i++) {
        if (str_eq(str_of(ld->c->server.cors.allowed_methods.item[i]), STR("*"))) {
            ld->line = *conf_seen(ld, "server.cors.allowed_methods");
            CONF_SAY(ld, .key = "server.cors.allowed_methods", .what = "* is no method",
                     .allowed = "the methods by name, like GET, POST, OPTIONS");
        }
    }
    check_tokens(ld, "server.cors.allowed_methods", &ld->c->server.cors.allowed_methods);
    check_tokens(ld, "server.cors.allowed_headers", &ld->c->server.cors.allowed_headers);
    check_tokens(ld, "server.cors.exposed_headers", &ld->c->server.cors.exposed_headers);
}

/* It means something else than it seems to: the reference has it so, and says nothing. */
static void check_rate_limits(struct conf_loader *ld)
{
    const char *burst = "server.rate_limits.burst_size";
    bool on = ld->c->server.rate_limits.per_ip_requests_per_minute > 0 ||
              ld->c->server.rate_limits.global_requests_per_minute > 0;

    if (on && ld->c->server.rate_limits.burst_size == 0) {
        ld->line = *conf_seen(ld, burst);
        CONF_SAY(ld, .key = burst, .warning = true, .what = "0: every proxied request is answered with 429");
    }
}

static void check_dashboard(struct conf_loader *ld)
{
    const char *cidrs = "dashboard.access_policy.allowed_cidrs";

    if (ld->c->dashboard.enabled && ld->c->dashboard.access_policy.allowed_cidrs.n == 0 && ld->errors == 0) {
        ld->line = *conf_seen(ld, cidrs);
        CONF_SAY(ld, .key = cidrs, .what = "empty while dashboard.enabled = true: nobody could open it",
                 .allowed = "a list of ranges like 192.168.0.0/16");
    }
}

/* The reference knows no path, only the directory. */
static void settle_log(struct conf_loader *ld)
{
    static char space[1024];
    const char *dir = getenv("OLLA_LOG_DIR");
    struct text t = text_in(space, sizeof(space));

    if (dir && dir[0] && *conf_seen(ld, "logging.file") == 0) {
        text_addz(&t, dir);
        text_addz(&t, "/olla.log");
        ld->c->logging.file = conf_keep(ld, text_str(&t));
    }
    if (ld->c->logging.output == LOG_OUTPUT_FILE && !ld->c->logging.file[0]) {
        ld->line = *conf_seen(ld, "logging.file");
        CONF_SAY(ld, .key = "logging.file", .what = "empty while logging.output = file", .allowed = "a path");
    }
}

static void check_hooks(struct conf_loader *ld)
{
    bool program = ld->c->hooks.run[HOOK_IDLE][0] != '\0', time = ld->c->hooks.idle_after > 0;

    if (program != time) {
        const char *path = program ? "hooks.idle" : "hooks.idle_after";
        ld->line = *conf_seen(ld, path);
        CONF_SAY(ld, .key = path, .warning = true,
                 .what = program ? "changes nothing without hooks.idle_after" : "changes nothing without hooks.idle");
    }
}

static void check_tls(struct conf_loader *ld)
{
    struct conf *c = ld->c;

    if (!c->server.tls.enabled) {
        return;
    }
    ld->line = *conf_seen(ld, "server.tls.enabled");
    if (!tls_library()) {
        CONF_SAY(ld, .key = "server.tls.enabled", .what = "this olla was built without TLS (TLS=none)");
    } else if (!c->server.tls.cert_file[0] || !c->server.tls.key_file[0]) {
        CONF_SAY(ld, .key = "server.tls", .what = "a certificate is needed, and its key",
                 .allowed = "server.tls.cert_file and server.tls.key_file");
    } else if (tls_check_certificate(c->server.tls.cert_file, c->server.tls.key_file) != OLLA_OK) {
        ld->line = *conf_seen(ld, "server.tls.cert_file");
        CONF_SAY(ld, .key = "server.tls", .what = tls_why());
    }
    if (c->server.tls.port == c->server.port) {
        c->server.tls.port = 0;
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

static void tell(const struct conf *c, conf_message *say, bool error, int line, const char *section, const char *name,
                 const char *what, const char *value, const char *remedy)
{
    char mem[640];
    struct text t = text_in(mem, sizeof(mem));
    text_addz(&t, c->path[0] ? c->path : "built-in defaults");
    text_char(&t, ':');
    text_u64(&t, (uint64_t)line);
    text_addz(&t, ": ");
    text_addz(&t, section);
    text_addz(&t, " \"");
    text_addz(&t, name);
    text_addz(&t, "\": ");
    text_addz(&t, what);
    if (value) {
        text_addz(&t, ": \"");
        text_addz(&t, value);
        text_addz(&t, "\" ");
    }
    text_addz(&t, remedy);
    say(error, text_z(&t));
}

void conf_tell(const struct conf *c, conf_message *say, int line, const char *section, const char *name,
               const char *what, const char *value, const char *remedy)
{
    tell(c, say, true, line, section, name, what, value, remedy);
}

void conf_warn(const struct conf *c, conf_message *say, int line, const char *section, const char *name,
               const char *what, const char *value, const char *remedy)
{
    tell(c, say, false, line, section, name, what, value, remedy);
}

void conf_tell_setting(conf_message *say, const char *path, const char *what, const char *value)
{
    loader.say = say;
    loader.line = *conf_seen(&loader, path);
    CONF_SAY(&loader, .key = path, .what = what, .value = str_of(value),
             .allowed = conf_row_find(str_of(path))->allowed);
}

const char *conf_find(const char *option, conf_message *say)
{
    static const char *const places[] = {
        "config/config.local.ini", "config/config.ini", "config.ini", "default.ini", "olla.ini", "/etc/olla.ini",
    };
    static char space[640];
    struct text t = text_in(space, sizeof(space));
    const char *named = option ? option : getenv("OLLA_CONFIG_FILE");

    if (named && (option || named[0])) {
        if (plat_readable(named)) {
            return named;
        }
        text_addz(&t, named);
        text_addz(&t, ": the configuration file cannot be read");
        text_addz(&t, option ? "" : " (named by OLLA_CONFIG_FILE)");
        say(true, text_z(&t));
        return NULL;
    }
    for (size_t i = 0; i < OLLA_COUNT(places); i++) {
        if (plat_readable(places[i])) {
            return places[i];
        }
    }
    return "";
}

int conf_load(struct conf *c, const char *path, conf_message *say)
{
    struct conf_loader *ld = &loader;

    memset(c, 0, sizeof(*c));
    memset(ld, 0, sizeof(*ld));
    ld->c = c;
    ld->say = say;
    c->path = conf_keep(ld, str_of(path));
    set_defaults(ld);
    if (path[0]) {
        conf_read_file(ld, path);
        end_item(ld);
    }
    set_from_environment(ld);
    if (c->endpoints == 0 && *conf_seen(ld, "discovery.static.endpoints") == 0) {
        add_builtin_endpoint(ld);
    }
    if (c->discovery.model_discovery.enabled) {
        check_not_zero(ld, "discovery.model_discovery.interval", c->discovery.model_discovery.interval);
        check_not_zero(ld, "discovery.model_discovery.timeout", c->discovery.model_discovery.timeout);
        check_not_zero(ld, "discovery.model_discovery.concurrent_workers",
                       c->discovery.model_discovery.concurrent_workers);
    }
    check_aliases(ld);
    check_inspector(ld);
    check_cors(ld);
    check_rate_limits(ld);
    check_tls(ld);
    check_dashboard(ld);
    settle_log(ld);
    check_hooks(ld);
    settle_server(c);
    return ld->errors > 0 ? OLLA_ERR : OLLA_OK;
}
