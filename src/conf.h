/*
 * conf.h - level 3: one configuration, checked.
 *
 * The INI file is read through libinih with a reader of ours. Section + "."
 * + key is the dotted path of the reference's YAML; one table in
 * conf_table.c holds, for every setting: path, type, place in struct conf, default,
 * range, choices, environment variable, help. Parsing, checking, defaults
 * and the commented olla.ini all come from that row.
 *
 * A struct conf owns its text (conf.text); slices and pointers in it live as
 * long as it does. Two are kept: the one in force and the spare for reload.
 *
 * Of the keys that clients bring only digests are kept here, never a text.
 *
 * May include: olla.h, str.h, cidr.h, sha256.h, platform.h; only conf_read.c includes ini.h.
 */
#ifndef OLLA_CONF_H
#define OLLA_CONF_H

#include "cidr.h"
#include "sha256.h"
#include "str.h"

enum conf_balancer { BALANCE_LEAST_CONNECTIONS = 0, BALANCE_ROUND_ROBIN, BALANCE_PRIORITY };
enum conf_engine { ENGINE_OLLA = 0, ENGINE_SHERPA };
enum conf_relay { RELAY_AUTO = 0, RELAY_STREAMING, RELAY_STANDARD };
enum conf_health { HEALTH_HTTP = 0, HEALTH_PASSIVE, HEALTH_NONE };
/* How far a request may go for a machine that sleeps; each word allows what those before it do. */
enum conf_wake { WAKE_NEVER = 0, WAKE_PREFER, WAKE_REQUIRE };
/* Events that programs can be run for; the keys of [hooks] in this order. */
enum conf_hook { HOOK_UP = 0, HOOK_DOWN, HOOK_WAKE, HOOK_IDLE, HOOK_QUEUE_FULL, HOOKS };
enum conf_key_source { KEY_SESSION_HEADER = 0, KEY_PREFIX_HASH, KEY_AUTH_HEADER, KEY_IP, KEY_SOURCES };
/* Kinds of requests that an endpoint may be restricted to; the words of endpoint.serves. */
enum conf_kind_of_request {
    SERVES_CHAT = 0,
    SERVES_EMBEDDINGS,
    SERVES_AUDIO,
    SERVES_IMAGES,
    SERVES_RERANK,
    SERVES_KINDS
};
enum conf_strategy { STRATEGY_STRICT = 0, STRATEGY_OPTIMISTIC, STRATEGY_DISCOVERY };
enum conf_fallback { FALLBACK_COMPATIBLE_ONLY = 0, FALLBACK_NONE, FALLBACK_ALL };
/* In the waiting line, the first goes first. */
enum conf_class { CLASS_HIGH = 0, CLASS_NORMAL, CLASS_LOW };
enum conf_log_level { LOG_LEVEL_DEBUG = 0, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };
enum conf_log_output { LOG_OUTPUT_STDOUT = 0, LOG_OUTPUT_SYSLOG, LOG_OUTPUT_FILE };
enum conf_log_format { LOG_FORMAT_AUTO = 0, LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* How a backend's model list looks; the order of the words of profile.response_format. */
enum conf_list_format { LIST_OPENAI = 0, LIST_OLLAMA, LIST_LM_STUDIO, LIST_LLAMACPP, LIST_LEMONADE };

struct conf_list {
    int n;
    const char *item[OLLA_MAX_LIST_ITEMS];
};

struct conf_cidrs {
    int n;
    struct cidr item[OLLA_MAX_LIST_ITEMS];
};

/* One name for whatever a server calls the model: the first of `models` that it has. */
struct conf_alias {
    const char *name;
    struct conf_list models;
    int line;
};

/* A parsed http:// or https:// URL; the pieces point into conf.text. */
struct conf_url {
    const char *text;      /* as written */
    const char *host;      /* without brackets */
    const char *authority; /* host:port or [host]:port as it goes into a Host header; default port left out */
    const char *path;      /* "" or "/base", never with a trailing slash */
    uint16_t port;
    bool tls; /* https */
};

struct conf_endpoint {
    const char *name;
    const char *type; /* as written; "" = auto */
    struct conf_url url;
    const char *health_check_url; /* path and query; "" = the profile's */
    const char *model_url;        /* same */
    struct conf_url health_host;  /* where it was an absolute URL: its host; else host == NULL */
    struct conf_url model_host;
    int64_t check_interval; /* ms */
    int64_t check_timeout;  /* ms */
    int priority;
    int weight;         /* 1 and more */
    int max_concurrent; /* inference requests at one time, 0 = any number */
    int max_context;    /* tokens, 0 = as it says itself */
    uint8_t serves[SERVES_KINDS];
    int serves_n; /* 0 = all kinds */
    enum conf_health health;
    int64_t connection_timeout, first_byte_timeout, read_timeout; /* ms; 0 = those of proxy, none, those of proxy */
    bool enabled;
    bool preserve_path;
    struct {
        struct conf_list include, exclude; /* patterns; no include = all */
    } model_filter;
    struct {
        const char *type; /* all of them as they are written; NULL = not given */
        const char *token, *token_file, *key, *key_file, *header;
        const char *username, *username_file, *password, *password_file;
    } auth;
    struct {
        const char *ca_file, *server_name; /* "" = the system's; the host of the URL */
        bool insecure;
    } tls;
    struct {
        uint8_t mac[6];        /* all zero = it is not woken */
        const char *broadcast; /* an address */
        uint16_t port;
        int64_t timeout; /* ms */
        enum conf_wake policy;
    } wake;
    char headers[OLLA_MAX_ENDPOINT_HEADERS]; /* the lines that headers.* and auth.* make, each name once */
    size_t headers_n;
    int line, type_line; /* of the section and of its type, for messages; 0 = none */
};

/* A backend type of one's own. What was not given is NULL, no item, or -1: the built-in type's value, or the default. */
struct conf_profile {
    const char *name;
    struct conf_list prefixes;
    const char *health_check_path;
    const char *model_discovery_path;
    int response_format;   /* one of enum conf_list_format */
    int openai_compatible; /* 0 or 1 */
    const char *openai_base;
    const char *messages_path;
    int64_t idle_timeout; /* ms */
    int line;             /* of the section */
};

/* Who may come in, and what for. */
struct conf_key {
    const char *name;
    unsigned char digest[SHA256_BYTES]; /* of the secret */
    bool known;                         /* ... which was given and is well */
    int given;                          /* how many times it was given, in whatever form */
    struct conf_list models;            /* patterns; none = all */
    enum conf_class class_;
    int requests_per_minute; /* 0 = any number */
    int tokens_per_day;      /* 0 = any number */
    int line;                /* of the section */
};

struct conf {
    struct {
        const char *host; /* without brackets; "" = all interfaces */
        uint16_t port;
        struct {
            bool enabled;
            const char *cert_file, *key_file;
            uint16_t port; /* 0 = TLS is on server.port itself */
        } tls;
        const char *user; /* "" = as it was started */
        bool root_api;
        bool request_logging;
        /* all times in ms, 0 = none unless said otherwise */
        int64_t read_timeout;        /* a whole request, head and body */
        int64_t read_header_timeout; /* its head; never 0 */
        int64_t write_timeout;       /* longest stall while writing to a client */
        int64_t idle_timeout;        /* between requests; a 0 was replaced by read_timeout */
        int64_t shutdown_timeout;
        uint64_t max_body_size;   /* bytes, 0 = unlimited */
        uint64_t max_header_size; /* bytes, at most OLLA_MAX_HEAD */
        struct {
            bool enabled;
            bool allow_credentials;
            int max_age;                      /* s, 0 = not told */
            struct conf_list allowed_origins; /* with at most one '*' each */
            struct conf_list allowed_methods; /* empty = GET, POST, HEAD */
            struct conf_list allowed_headers; /* empty = the simplest */
            struct conf_list exposed_headers; /* empty = those of olla; together at most CONF_EXPOSED_MAX bytes */
        } cors;
        struct {
            int global_requests_per_minute; /* 0 = any number */
            int per_ip_requests_per_minute; /* 0 = any number */
            int burst_size;
            bool trust_proxy_headers;
            struct conf_cidrs trusted_proxy_cidrs;
        } rate_limits;
        struct {
            struct conf_cidrs allowed_cidrs; /* none = all */
            int max_connections_per_client;  /* 0 = any number */
        } access;
    } server;
    struct {
        enum conf_engine engine;
        enum conf_balancer load_balancer;
        enum conf_relay profile;
        struct {
            int consecutive_failures; /* 0 = never by that */
            int window;
            int failure_percent;
            int64_t open_time, max_open_time; /* ms */
        } breaker;
        struct {
            int max_waiting;
            int64_t timeout; /* ms */
        } queue;
        struct {
            int64_t interval; /* ms, 0 = off */
            bool json;
        } heartbeat;
        struct {
            bool enabled;
            int idle_ttl_seconds; /* 0 = never */
            int max_sessions;
            uint8_t key_sources[KEY_SOURCES]; /* in the order of trying */
            int key_sources_n;
            int prefix_hash_bytes; /* 0 = all */
            int load_slack;
        } sticky_sessions;
        /* ms, never 0 */
        int64_t connection_timeout;
        int64_t connection_keep_alive;
        int64_t response_header_timeout;
        int64_t read_timeout;
        const char *spool_dir; /* "" = never spool */
        struct {
            bool enabled;
            int max_attempts; /* 0 = every candidate once */
            uint16_t on_status[OLLA_MAX_LIST_ITEMS];
            int on_status_n;
            bool on_connection_lost;
        } retry;
    } proxy;
    struct {
        struct {
            bool enabled;
            int64_t interval;
            int64_t timeout;
            int concurrent_workers;
        } model_discovery;
    } discovery;
    struct {
        struct {
            bool enabled;
            bool passthrough_enabled;
            uint64_t max_message_size; /* bytes */
            struct {
                bool enabled;
                const char *output_dir;     /* never "" */
                const char *session_header; /* a token */
            } inspector;
        } anthropic;
    } translators;
    struct {
        const char *file; /* "" = none */
        int64_t interval; /* ms */
    } usage;
    struct {
        const char *state_file; /* "" = none */
    } wake;
    struct {
        const char *run[HOOKS]; /* a program and its arguments, "" = none */
        int64_t idle_after;     /* ms, 0 = never */
        int64_t timeout;        /* ms */
    } hooks;
    struct {
        enum conf_log_level level;
        enum conf_log_format format;
        enum conf_log_output output;
        const char *file, *syslog_socket;
    } logging;
    struct {
        bool enabled;
        struct {
            struct conf_cidrs allowed_cidrs; /* of peers that may look; not empty if enabled */
            struct conf_list allowed_hosts;  /* names in the address of the page */
        } access_policy;
    } dashboard;

    struct {
        struct {
            enum conf_strategy type;
            struct {
                enum conf_fallback fallback_behavior;
                int64_t discovery_timeout;
                bool discovery_refresh_on_miss;
            } options;
        } routing_strategy;
    } model_registry;

    struct conf_alias alias[OLLA_MAX_ALIASES];
    int aliases;
    struct conf_endpoint endpoint[OLLA_MAX_ENDPOINTS];
    int endpoints;
    struct conf_profile profile[OLLA_MAX_PROFILES];
    int profiles;
    struct conf_key key[OLLA_MAX_KEYS];
    int keys;

    /* where it came from, and its text */
    const char *path; /* "" = built-in defaults */
    int warnings;
    size_t text_n;
    char text[OLLA_CONF_TEXT];
};

/* The configuration in force; set at start and by a reload, never NULL while the loop runs. */
extern const struct conf *conf_now;

/*
 * Where messages about the configuration go, one complete line each without
 * newline: "olla.ini:12: proxy.load_balancer: ...". error tells if it is fatal.
 */
typedef void conf_message(bool error, const char *line);

/*
 * Picks the file: the option, then OLLA_CONFIG_FILE, then the first readable of
 * config/config.local.ini, config/config.ini, config.ini, default.ini, olla.ini, /etc/olla.ini.
 * "" when there is none; NULL (after a message) when a file was named but cannot be read.
 */
const char *conf_find(const char *option, conf_message *say);

/*
 * Fills c from defaults, then the file ("" = none), then the environment, then checks
 * everything. OLLA_OK, or OLLA_ERR after at least one message with error = true;
 * c is then unusable. Unknown keys are messages with error = false and counted in c->warnings.
 */
int conf_load(struct conf *c, const char *path, conf_message *say);

/* One line about a section of the configuration, for checks that need to know more than the text: an error. */
void conf_tell(const struct conf *c, conf_message *say, int line, const char *section, const char *name,
               const char *what, const char *value, const char *remedy);

/* The same, a warning. */
void conf_warn(const struct conf *c, conf_message *say, int line, const char *section, const char *name,
               const char *what, const char *value, const char *remedy);

/* An error about one setting of the configuration that was loaded last. */
void conf_tell_setting(conf_message *say, const char *path, const char *what, const char *value);

/* The alias of that name, any case, or NULL. */
const struct conf_alias *conf_alias_find(const struct conf *c, struct str name);

#define CONF_EXPOSED_MAX 512

/* What keeps a text from being a key that clients can bring, or NULL. */
const char *conf_key_fault(struct str secret);
#define CONF_KEY_SHORT 8 /* shorter ones can be guessed */

/* Writes the commented reference file (olla.ini) to a sink, one line without newline per call; for --print-settings. */
void conf_print_reference(void (*line)(const char *text));

#endif
