/*
 * conf_table.c - level 3: one row per setting, and the commented reference
 * file that is made from the rows.
 *
 * Rows of one section stay together: the reference file opens a section
 * whenever the part before the last dot changes. A row without help is not
 * shown there.
 *
 * May include: conf.h, str.h.
 */
#include "conf_internal.h"

#define IN(field) .offset = offsetof(struct conf, field), .size = sizeof(((struct conf *)0)->field)
#define IN_ENDPOINT(field) \
    .offset = offsetof(struct conf_endpoint, field), .size = sizeof(((struct conf_endpoint *)0)->field)
#define ANY .max = INT64_MAX
#define INERT(name) {.path = (name), .type = CONF_INERT}

#define TIME .min = 0, .max = CONF_LONGEST

static const struct conf_choice engines[] = {{"olla", ENGINE_OLLA}, {"sherpa", ENGINE_SHERPA}, {NULL, 0}};
static const struct conf_choice balancers[] = {
    {"least-connections", BALANCE_LEAST_CONNECTIONS},
    {"round-robin", BALANCE_ROUND_ROBIN},
    {"priority", BALANCE_PRIORITY},
    {NULL, 0},
};
static const struct conf_choice levels[] = {
    {"debug", LOG_LEVEL_DEBUG}, {"info", LOG_LEVEL_INFO},   {"warn", LOG_LEVEL_WARN},
    {"warning", LOG_LEVEL_WARN}, {"error", LOG_LEVEL_ERROR}, {NULL, 0},
};
static const struct conf_choice formats[] = {
    {"auto", LOG_FORMAT_AUTO}, {"text", LOG_FORMAT_TEXT}, {"json", LOG_FORMAT_JSON}, {NULL, 0},
};
static const struct conf_choice only_stdout[] = {{"stdout", 0}, {NULL, 0}};
static const struct conf_choice only_static[] = {{"static", 0}, {NULL, 0}};

const struct conf_row conf_rows[CONF_ROWS_MAX] = {
    {.path = "server.host", .type = CONF_WORD, .flags = CONF_ACTIVE, .def = "localhost", IN(server.host),
     .env = "OLLA_SERVER_HOST",
     .help = "Name or address to listen on; \"\" listens on all interfaces."},
    {.path = "server.port", .type = CONF_INT, .flags = CONF_ACTIVE, .def = "40114", IN(server.port),
     .min = 1, .max = 65535, .env = "OLLA_SERVER_PORT",
     .help = "TCP port to listen on."},
    {.path = "server.read_timeout", .type = CONF_DURATION, .def = "30s", IN(server.read_timeout), TIME,
     .env = "OLLA_SERVER_READ_TIMEOUT",
     .help = "A client must have sent its whole request, head and body, within this time.\n0 = no limit."},
    {.path = "server.read_header_timeout", .type = CONF_DURATION, .flags = CONF_ZERO_IS_DEFAULT, .def = "10s",
     IN(server.read_header_timeout), TIME, .env = "OLLA_SERVER_READ_HEADER_TIMEOUT",
     .help = "... and the head of it within this time. 0 = 10s."},
    {.path = "server.write_timeout", .type = CONF_DURATION, .def = "0s", IN(server.write_timeout), TIME,
     .env = "OLLA_SERVER_WRITE_TIMEOUT",
     .help = "A client that takes no byte of a response for so long is cut off. 0 = no limit."},
    {.path = "server.idle_timeout", .type = CONF_DURATION, .def = "0s", IN(server.idle_timeout), TIME,
     .help = "A client connection is kept so long between two requests. 0 = as read_timeout."},
    {.path = "server.shutdown_timeout", .type = CONF_DURATION, .def = "10s", IN(server.shutdown_timeout), TIME,
     .help = "Running requests may take so long to finish when olla is stopped."},
    {.path = "server.request_logging", .type = CONF_BOOL, .def = "true", IN(server.request_logging),
     .help = "One log line per request."},
    {.path = "server.root_api", .type = CONF_BOOL, .def = "true", IN(server.root_api),
     .help = "Serve the APIs at /v1/ and /api/ too, not only below /olla/."},

    {.path = "server.request_limits.max_body_size", .type = CONF_SIZE, .def = "100MB", IN(server.max_body_size), ANY,
     .env = "OLLA_SERVER_MAX_BODY_SIZE",
     .help = "Largest request body; a larger one is answered with 413. 0 = no limit."},
    {.path = "server.request_limits.max_header_size", .type = CONF_SIZE, .flags = CONF_CLAMP | CONF_ZERO_IS_DEFAULT,
     .def = "0", IN(server.max_header_size), .min = 1024, .max = OLLA_MAX_HEAD, .env = "OLLA_SERVER_MAX_HEADER_SIZE",
     .help = "Largest request head; a larger one is answered with 431.\n"
             "0 = the most this build can take; a larger value is cut to that."},

    {.path = "proxy.engine", .type = CONF_ENUM, .choice = engines, .def = "olla", IN(proxy.engine),
     .env = "OLLA_PROXY_ENGINE",
     .help = "olla = connections to backends are kept and used again;\n"
             "sherpa = a fresh connection per request, for a backend that misbehaves."},
    {.path = "proxy.load_balancer", .type = CONF_ENUM, .choice = balancers, .def = "least-connections",
     IN(proxy.load_balancer), .env = "OLLA_PROXY_LOAD_BALANCER",
     .help = "How one of several healthy endpoints is chosen."},
    {.path = "proxy.connection_timeout", .type = CONF_DURATION, .flags = CONF_ZERO_IS_DEFAULT, .def = "5s",
     IN(proxy.connection_timeout), TIME,
     .help = "A connection to a backend must be up within this time. 0 = 5s."},
    {.path = "proxy.connection_keep_alive", .type = CONF_DURATION, .flags = CONF_ZERO_IS_DEFAULT, .def = "30s",
     IN(proxy.connection_keep_alive), TIME, .env = "OLLA_PROXY_CONNECTION_KEEP_ALIVE",
     .help = "TCP keep-alive probes are sent to a silent backend after this time. 0 = 30s."},
    {.path = "proxy.response_header_timeout", .type = CONF_DURATION, .flags = CONF_ZERO_IS_DEFAULT, .def = "10m",
     IN(proxy.response_header_timeout), TIME, .env = "OLLA_PROXY_RESPONSE_HEADER_TIMEOUT",
     .help = "A backend must begin its response within this time; loading a model counts.\n0 = 10m."},
    {.path = "proxy.read_timeout", .type = CONF_DURATION, .flags = CONF_ZERO_IS_DEFAULT, .def = "10m",
     IN(proxy.read_timeout), TIME, .env = "OLLA_PROXY_READ_TIMEOUT",
     .help = "Longest silence of a backend in the middle of a response. 0 = 10m."},
    {.path = "proxy.spool_dir", .type = CONF_FREE, .def = "/tmp", IN(proxy.spool_dir),
     .help = "Directory for request bodies too large for memory; \"\" = never write to disk."},

    {.path = "proxy.retry.enabled", .type = CONF_BOOL, .def = "true", IN(proxy.retry.enabled),
     .help = "Try another endpoint when one fails before the first byte went to the client."},
    {.path = "proxy.retry.max_attempts", .type = CONF_INT, .def = "0", IN(proxy.retry.max_attempts),
     .min = 0, .max = 1000,
     .help = "Attempts for one request. 0 = every candidate once."},
    {.path = "proxy.retry.on_status", .type = CONF_STATUSES, .def = "429, 502, 503, 504, 529",
     IN(proxy.retry.on_status), .count_offset = offsetof(struct conf, proxy.retry.on_status_n), .min = 400, .max = 599,
     .help = "Statuses of a backend that count as a failure. Nothing = none."},
    {.path = "proxy.retry.on_connection_lost", .type = CONF_BOOL, .def = "true", IN(proxy.retry.on_connection_lost),
     .help = "A connection that ends before the response has begun counts as a failure."},

    {.path = "discovery.type", .type = CONF_ENUM, .choice = only_static, .def = "static",
     .help = "Where endpoints come from: the [endpoint:NAME] sections."},
    {.path = "discovery.static.endpoints", .type = CONF_NOTHING},

    {.path = "discovery.model_discovery.enabled", .type = CONF_BOOL, .def = "true",
     IN(discovery.model_discovery.enabled),
     .help = "Ask the endpoints for their models. Without it no model is known."},
    {.path = "discovery.model_discovery.interval", .type = CONF_DURATION, .def = "5m",
     IN(discovery.model_discovery.interval), TIME,
     .help = "Time between two questions to the same endpoint."},
    {.path = "discovery.model_discovery.timeout", .type = CONF_DURATION, .def = "30s",
     IN(discovery.model_discovery.timeout), TIME,
     .help = "An endpoint must have answered within this time."},
    {.path = "discovery.model_discovery.concurrent_workers", .type = CONF_INT, .def = "5",
     IN(discovery.model_discovery.concurrent_workers), .min = 0, .max = 1000,
     .help = "Endpoints asked at the same time; the build has a limit of its own (olla -m)."},

    {.path = "logging.level", .type = CONF_ENUM, .choice = levels, .def = "info", IN(logging.level),
     .env = "OLLA_LOGGING_LEVEL",
     .help = "Lines below this level are left out."},
    {.path = "logging.format", .type = CONF_ENUM, .choice = formats, .def = "auto", IN(logging.format),
     .env = "OLLA_LOGGING_FORMAT",
     .help = "auto = text on a terminal, otherwise one JSON object per line."},
    {.path = "logging.output", .type = CONF_ENUM, .choice = only_stdout, .def = "stdout",
     .help = "Where the log goes."},

    /* Names that occur in configurations of the reference and change nothing, there or here. */
    INERT("proxy.max_retries"),
    INERT("proxy.retry_backoff"),
    INERT("proxy.response_timeout"),
    INERT("proxy.stream_buffer_size"),
    INERT("proxy.profile_filter.include"),
    INERT("proxy.profile_filter.exclude"),
    INERT("discovery.refresh_interval"),
    INERT("discovery.model_discovery.retry_attempts"),
    INERT("discovery.model_discovery.retry_backoff"),
    INERT("discovery.health_check.initial_delay"),
    INERT("server.rate_limits.health_requests_per_minute"),
    INERT("server.rate_limits.per_endpoint.default_requests_per_minute"),
    INERT("dashboard.gate_internal_api"),
};

const struct conf_row conf_endpoint_rows[CONF_ENDPOINT_ROWS_MAX] = {
    {.path = "name", .type = CONF_FREE, .def = "", IN_ENDPOINT(name),
     .help = "Another name than the one in the section line. No two endpoints have the same."},
    {.path = "url", .type = CONF_URL, .def = "", IN_ENDPOINT(url),
     .help = "Where the backend is. The only key that has to be there."},
    {.path = "type", .type = CONF_WORD, .def = "", IN_ENDPOINT(type),
     .help = "ollama, llamacpp, vllm, lm-studio or openai-compatible. Nothing = auto."},
    {.path = "priority", .type = CONF_INT, .def = "100", IN_ENDPOINT(priority), .min = 0, .max = 1000000,
     .help = "Higher is preferred by the priority balancer."},
    {.path = "enabled", .type = CONF_BOOL, .def = "true", IN_ENDPOINT(enabled),
     .help = "false = leave this endpoint alone."},
    {.path = "health_check_url", .type = CONF_TARGET, .def = "", IN_ENDPOINT(health_check_url),
     .help = "Asked to see if the backend is well; a path is taken below url. Nothing = by type."},
    {.path = "model_url", .type = CONF_TARGET, .def = "", IN_ENDPOINT(model_url),
     .help = "Asked for the list of models. Nothing = by type."},
    {.path = "check_interval", .type = CONF_DURATION, .flags = CONF_ZERO_IS_DEFAULT, .def = "5s",
     IN_ENDPOINT(check_interval), .min = 1000, .max = CONF_LONGEST,
     .help = "Time between two health checks."},
    {.path = "check_timeout", .type = CONF_DURATION, .def = "0s", IN_ENDPOINT(check_timeout), .min = 0, .max = 30000,
     .help = "A health check must have an answer within this time; less than check_interval.\n"
             "0 = 2s, or half of check_interval if that is less."},
    {.path = "preserve_path", .type = CONF_BOOL, .def = "false", IN_ENDPOINT(preserve_path),
     .help = "true = the path of url stays in front of the path of a request."},
};

const struct conf_row *conf_row_find(const struct conf_row *rows, struct str path)
{
    for (const struct conf_row *row = rows; row->path; row++) {
        if (str_eq(str_of(row->path), path)) {
            return row;
        }
    }
    return NULL;
}

/* ---- the reference file ------------------------------------------------- */

static const char *const head[] = {
    "; olla.ini - every setting of olla with its default.",
    ";",
    "; This file is what `olla --print-settings` prints. Lines that start with \"; \"",
    "; explain; lines that start with \";\" and a key show a default: take the \";\" away",
    "; to change it.",
    ";",
    ";   [section]        then key = value; section and key together are the name of",
    ";                    a setting: port in [server] is server.port",
    ";   key = value ; x  a comment after a value needs a blank before its \";\" or \"#\"",
    ";   key = \"value\"    quotes are taken away; key = \"\" is an empty text",
    ";   key =            the default, or for a list: nothing in it",
    ";   key = a, b       a list; the same key once more adds to it",
    ";",
    "; A line has at most 190 bytes. Blanks at its start mean nothing.",
    "; Environment variables win over this file. `olla -t` checks both.",
    NULL,
};

static const char *const endpoint_head[] = {
    "",
    "",
    "; ---- endpoints ----",
    "; One section per backend; no two have the same name. Without any such section olla",
    "; uses http://localhost:11434 with the name localhost and type ollama.",
    "; The keys of an endpoint section:",
    "",
    ";[endpoint:NAME]",
    NULL,
};

static const char *const endpoints[] = {
    "",
    "[endpoint:local-ollama]",
    "url = http://localhost:11434",
    "type = ollama",
    "priority = 100",
    "model_url = /api/tags",
    "health_check_url = /",
    "check_interval = 2s",
    "check_timeout = 1s",
    "",
    "[endpoint:local-lm-studio]",
    "url = http://localhost:1234",
    "type = lm-studio",
    "priority = 100",
    "model_url = /v1/models",
    "health_check_url = /",
    "check_interval = 2s",
    "check_timeout = 1s",
    "",
    "[endpoint:local-vllm]",
    "url = http://localhost:8000",
    "type = vllm",
    "priority = 100",
    "model_url = /v1/models",
    "health_check_url = /health",
    "check_interval = 5s",
    "check_timeout = 2s",
    "",
    "[endpoint:local-llamacpp]",
    "url = http://localhost:8080",
    "type = llamacpp",
    "priority = 100",
    "model_url = /v1/models",
    "health_check_url = /health",
    "check_interval = 5s",
    "check_timeout = 2s",
    NULL,
};

static void print_lines(void (*line)(const char *text), const char *const *lines)
{
    for (; *lines; lines++) {
        line(*lines);
    }
}

static void print_row(void (*line)(const char *text), const struct conf_row *row, struct str key)
{
    char space[256];
    struct text t;
    struct str help = str_of(row->help);
    struct conf_row shown = *row;

    if (row->flags & CONF_CLAMP) {
        shown.max = INT64_MAX; /* the limit belongs to the build, the file to all of them */
    }
    line("");
    while (help.p) {
        t = text_in(space, sizeof(space));
        text_addz(&t, "; ");
        text_add(&t, str_split(&help, '\n'));
        line(text_z(&t));
    }
    t = text_in(space, sizeof(space));
    text_addz(&t, "; Allowed: ");
    conf_put_allowed(&t, &shown);
    line(text_z(&t));
    if (row->env) {
        t = text_in(space, sizeof(space));
        text_addz(&t, "; Environment: ");
        text_addz(&t, row->env);
        line(text_z(&t));
    }
    t = text_in(space, sizeof(space));
    text_addz(&t, row->flags & CONF_ACTIVE ? "" : ";");
    text_add(&t, key);
    text_addz(&t, row->def[0] ? " = " : " =");
    text_addz(&t, row->def);
    line(text_z(&t));
}

/* Length of the part before the last dot. */
static size_t section_length(struct str path)
{
    size_t n = path.n;

    while (n > 0 && path.p[n - 1] != '.') {
        n--;
    }
    return n > 0 ? n - 1 : 0;
}

void conf_print_reference(void (*line)(const char *text))
{
    char space[64];
    struct str section = {"", 0};

    print_lines(line, head);
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        struct str path = str_of(row->path);
        struct str mine = {path.p, section_length(path)};

        if (!row->help) {
            continue;
        }
        if (!str_eq(mine, section)) {
            struct text t = text_in(space, sizeof(space));

            text_char(&t, '[');
            text_add(&t, mine);
            text_char(&t, ']');
            line("");
            line("");
            line(text_z(&t));
            section = mine;
        }
        print_row(line, row, str_skip(path, mine.n + 1));
    }
    print_lines(line, endpoint_head);
    for (const struct conf_row *row = conf_endpoint_rows; row->path; row++) {
        print_row(line, row, str_of(row->path));
    }
    print_lines(line, endpoints);
}
