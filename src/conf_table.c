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
#include <string.h>

#include "conf_internal.h"

#define AT(type, field) .offset = offsetof(struct type, field), .size = sizeof(((struct type *)0)->field)
#define SET(field)      .path = #field, AT(conf, field)
#define CORS(field)     .path = "server.cors." #field, AT(conf, server.cors.field)
#define LIMIT(field)    .path = "server.request_limits." #field, AT(conf, server.field)
#define RATE(field)     .path = "server.rate_limits." #field, AT(conf, server.rate_limits.field)
#define ACCESS(field)   .path = "server.access." #field, AT(conf, server.access.field)
#define POLICY(field)   .path = "dashboard.access_policy." #field, AT(conf, dashboard.access_policy.field)
#define KEY(field)      .path = "endpoint." #field, AT(conf_endpoint, field)
#define TYPE(field)     .path = "profile." #field, AT(conf_profile, field)
#define HOOK(key, number)                                                               \
    .path = "hooks." key, .type = CONF_PROGRAM, AT(conf, hooks.run[number]), .def = "", \
    .allowed = "the whole path of a program, and arguments with blanks between them; or nothing"
#define ENTRY(field) .path = "key." #field, AT(conf_key, field)

#define BOOL(value) .type = CONF_BOOL, .def = value, .max = 1, .allowed = "true or false"
#define INT(value, low, high) \
    .type = CONF_INT, .def = value, .min = low, .max = high, .allowed = "a whole number from " #low " to " #high
#define ENUM(value, words) .type = CONF_ENUM, .def = value, .max = INT64_MAX, .allowed = words
#define SIZE(value, low, high, text) \
    .type = CONF_SIZE, .def = value, .min = low, .max = high, .allowed = text " (bytes, or like 64KB, 100MB)"
#define CIDRS(value) \
    .type = CONF_CIDRS, .def = value, .allowed = "a list of ranges like 10.0.0.0/8, 192.0.2.7/32, fd00::/8"
#define WORD(value)       .type = CONF_WORD, .def = value, .allowed = "text without blanks"
#define FREE(value)       .type = CONF_FREE, .def = value, .allowed = "text"
#define SECRET            .type = CONF_FREE, .allowed = "text, with ${VAR} or ${VAR:-default}"
#define SECRET_FILE       .type = CONF_FREE, .allowed = "the path of a plain file"
#define LIST(value, what) .type = CONF_WORDS, .def = value, .allowed = what
#define TARGET(host)                                                                  \
    .type = CONF_TARGET, .def = "", .allowed = "/path or http(s)://host[:port]/path", \
    .second = offsetof(struct conf_endpoint, host)

/* The longest is ten years: beyond any use, and added to a clock it cannot overflow. */
#define LONGEST INT64_C(315360000000)
#define RANGE(value, low, high, text) \
    .type = CONF_DURATION, .def = value, .min = low, .max = high, .allowed = text " (like 300ms, 30s, 1h30m)"
#define DURATION(value) RANGE(value, 0, LONGEST, "a duration of 0 or more")
#define NEVER_0(value)  DURATION(value), .flags = CONF_ZERO_IS_DEFAULT

const struct conf_row conf_rows[CONF_ROWS_MAX] = {
    {SET(server.host), .type = CONF_HOST, .def = "localhost", .allowed = "a name or an address", .flags = CONF_ACTIVE,
     .env = "OLLA_SERVER_HOST", .help = "Name or address to listen on; \"\" listens on all interfaces."},
    {SET(server.port), INT("40114", 1, 65535), .flags = CONF_ACTIVE, .env = "OLLA_SERVER_PORT",
     .help = "TCP port to listen on."},
    {SET(server.user), .type = CONF_WORD, .def = "",
     .allowed = "a user of this system: NAME, NAME:GROUP, or numbers; or nothing",
     .help = "Started as root, olla becomes this user when it listens: so a port below 1024 needs no root later.\n"
             "Nothing = it stays who it is. Files with secrets are read by root at the start, but by this\n"
             "user at a reload, and so is this file. A change needs a restart."},
    {SET(server.read_timeout), DURATION("30s"), .env = "OLLA_SERVER_READ_TIMEOUT",
     .help = "A client must have sent its whole request, head and body, within this time; each KiB of the body buys\n"
             "one more second, but no pause in it may be longer than this. 0 = no limit."},
    {SET(server.read_header_timeout), NEVER_0("10s"), .env = "OLLA_SERVER_READ_HEADER_TIMEOUT",
     .help = "... and the head of it within this time. 0 = 10s."},
    {SET(server.write_timeout), DURATION("0s"), .env = "OLLA_SERVER_WRITE_TIMEOUT",
     .help = "A client that takes no byte of a response for so long is cut off. 0 = no limit."},
    {SET(server.idle_timeout), DURATION("0s"),
     .help = "A client connection is kept so long between two requests. 0 = as read_timeout."},
    {SET(server.shutdown_timeout), DURATION("10s"),
     .help = "Running requests may take so long to finish when olla is stopped."},
    {SET(server.request_logging), BOOL("true"), .help = "One log line per request."},
    {SET(server.root_api), BOOL("true"), .help = "Serve the APIs at /v1/ and /api/ too, not only below /olla/."},

    {CORS(enabled), BOOL("false"), .env = "OLLA_SERVER_CORS_ENABLED",
     .help = "Let pages of other origins read replies in a browser. Needed for chats that run in one."},
    {CORS(allowed_origins), LIST("*", "a list of origins like https://chat.example.com, or *"),
     .env = "OLLA_SERVER_CORS_ALLOWED_ORIGINS",
     .help = "Those pages: https://chat.example.com, http://localhost:3000. One * in each stands for a part of\n"
             "the host or the port; * alone = all pages. It keeps nobody out who has no browser: keys do."},
    {CORS(allowed_methods), LIST("GET, POST, OPTIONS", "a list of methods"), .env = "OLLA_SERVER_CORS_ALLOWED_METHODS",
     .help = "Methods that they may use; OPTIONS always. An empty list = GET, POST, HEAD."},
    {CORS(allowed_headers), LIST("*", "a list of names of headers, or *"), .env = "OLLA_SERVER_CORS_ALLOWED_HEADERS",
     .help = "Headers that they may send. An empty list = Accept, Content-Type, X-Requested-With."},
    {CORS(exposed_headers), LIST("", "a list of names of headers"), .env = "OLLA_SERVER_CORS_EXPOSED_HEADERS",
     .help = "Headers of replies that they may read. An empty list = those of olla (X-Olla-...)."},
    {CORS(allow_credentials), BOOL("false"), .env = "OLLA_SERVER_CORS_ALLOW_CREDENTIALS",
     .help = "They may send cookies and what a browser keeps for olla; not together with the origin *."},
    {CORS(max_age), INT("300", 0, 2000000000), .env = "OLLA_SERVER_CORS_MAX_AGE",
     .help = "So many seconds a browser may remember what is allowed. 0 = it is not told."},

    {LIMIT(max_body_size), SIZE("100MB", 0, INT64_MAX, "a size of 0 or more"), .env = "OLLA_SERVER_MAX_BODY_SIZE",
     .help = "Largest request body; a larger one is answered with 413. 0 = no limit."},
    {LIMIT(max_header_size), .flags = CONF_CLAMP | CONF_ZERO_IS_DEFAULT, .env = "OLLA_SERVER_MAX_HEADER_SIZE",
     SIZE("0", 1024, OLLA_MAX_HEAD, "a size from 1024 to the most this build can take, or 0 for that"),
     .help = "Largest request head; a larger one is answered with 431.\n"
             "0 = the most this build can take; a larger value is cut to that."},

    {RATE(global_requests_per_minute), INT("0", 0, 1000000), .env = "OLLA_SERVER_GLOBAL_RATE_LIMIT",
     .help = "Requests to servers that all clients together may send; more are answered with 429. 0 = no limit."},
    {RATE(per_ip_requests_per_minute), INT("0", 0, 1000000), .env = "OLLA_SERVER_PER_IP_RATE_LIMIT",
     .help = "... and those of one address (of IPv6: of one /64 network). 0 = no limit.\n"
             "Lists of models and pages of olla itself do not count."},
    {RATE(burst_size), INT("50", 0, 1000000), .env = "OLLA_SERVER_RATE_BURST_SIZE",
     .help = "So many may come at once, in either case; they come back at the rate above."},
    {RATE(trust_proxy_headers), BOOL("false"), .env = "OLLA_SERVER_TRUST_PROXY_HEADERS",
     .help = "Believe X-Forwarded-For and X-Real-IP, if they come from one of the proxies below: limits,\n"
             "the log and sticky sessions by address are then about the client before the proxy."},
    {RATE(trusted_proxy_cidrs), CIDRS("127.0.0.0/8, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16"),
     .env = "OLLA_SERVER_TRUSTED_PROXY_CIDRS",
     .help = "Addresses of proxies. Best are those of your proxies and no others: whoever is in here can\n"
             "say that he is somebody else. Nothing = nobody."},

    {SET(server.tls.enabled), BOOL("false"), .help = "Clients speak HTTPS (TLS 1.2 or 1.3) to olla."},
    {SET(server.tls.cert_file), FREE(""),
     .help = "The certificate in PEM form, then those that it depends on; read again at every reload (SIGHUP)."},
    {SET(server.tls.key_file), FREE(""), .help = "Its private key in PEM form, without a password."},
    {SET(server.tls.port), INT("0", 0, 65535),
     .help = "The port for HTTPS; then server.port goes on with HTTP. 0 = server.port itself speaks HTTPS."},

    {ACCESS(allowed_cidrs), CIDRS(""),
     .help = "Who may connect at all; the connections of others are closed at once. Nothing = everybody.\n"
             "Whom you leave out here cannot even ask for /internal/health; 127.0.0.0/8 is this machine."},
    {ACCESS(max_connections_per_client), INT("0", 0, 30000),
     .help = "Connections that one address (of IPv6: one /64 network) may have; more are closed at once.\n"
             "0 = any number. A proxy in front is one address."},

    {SET(proxy.engine), ENUM("olla", "olla, sherpa"), .env = "OLLA_PROXY_ENGINE",
     .help = "olla = connections to backends are kept and used again;\n"
             "sherpa = a fresh connection per request, for a backend that misbehaves."},
    {SET(proxy.load_balancer), ENUM("least-connections", "least-connections, round-robin, priority"),
     .env = "OLLA_PROXY_LOAD_BALANCER", .help = "How one of several healthy endpoints is chosen."},
    {SET(proxy.connection_timeout), NEVER_0("5s"),
     .help = "A connection to a backend must be up within this time. 0 = 5s."},
    {SET(proxy.connection_keep_alive), NEVER_0("30s"), .env = "OLLA_PROXY_CONNECTION_KEEP_ALIVE",
     .help = "TCP keep-alive probes are sent to a silent backend after this time; after twice this time\nwithout an "
             "acknowledgement it counts as gone. 0 = 30s."},
    {SET(proxy.response_header_timeout), NEVER_0("10m"), .env = "OLLA_PROXY_RESPONSE_HEADER_TIMEOUT",
     .help = "A backend must begin its response within this time; loading a model counts.\n0 = 10m."},
    {SET(proxy.read_timeout), NEVER_0("10m"), .env = "OLLA_PROXY_READ_TIMEOUT",
     .help = "Longest silence of a backend in the middle of a response. 0 = 10m."},
    {SET(proxy.spool_dir), FREE("/tmp"),
     .help = "Directory for request bodies too large for memory; \"\" = never write to disk."},

    {SET(proxy.retry.enabled), BOOL("true"),
     .help = "Try another endpoint when one fails before the first byte went to the client."},
    {SET(proxy.retry.max_attempts), INT("0", 0, 1000), .help = "Attempts for one request. 0 = every candidate once."},
    {SET(proxy.retry.on_status), .type = CONF_STATUSES, .def = "429, 502, 503, 504, 529", .min = 400, .max = 599,
     .second = offsetof(struct conf, proxy.retry.on_status_n), .allowed = "a list of status codes from 400 to 599",
     .help = "Statuses of a backend that count as a failure. Nothing = none."},
    {SET(proxy.retry.on_connection_lost), BOOL("true"),
     .help = "A connection that ends before the response has begun counts as a failure."},

    {SET(proxy.profile), ENUM("auto", "auto, streaming, standard"), .env = "OLLA_PROXY_PROFILE",
     .help = "streaming = whatever a backend sends goes down at once; standard = small pieces that come\n"
             "together go down together; auto = by the type of the content."},

    {SET(proxy.breaker.consecutive_failures), INT("3", 0, 1000),
     .help = "After so many failures in a row an endpoint gets no requests for a while. 0 = never by that."},
    {SET(proxy.breaker.window), INT("16", 1, 32), .help = "So many of the last outcomes are looked at,"},
    {SET(proxy.breaker.failure_percent), INT("50", 1, 100),
     .help = "and when this part of them are failures, it gets none either."},
    {SET(proxy.breaker.open_time), RANGE("10s", 1, LONGEST, "a duration of more than 0"),
     .help = "That long; then one request is tried. When it fails, twice as long,"},
    {SET(proxy.breaker.max_open_time), RANGE("2m", 1, LONGEST, "a duration of more than 0"), .help = "up to this."},

    {SET(proxy.queue.max_waiting), INT("64", 0, 30000),
     .help = "Requests that may wait when all endpoints are at their max_concurrent; more get 429."},
    {SET(proxy.queue.timeout), NEVER_0("60s"), .help = "They wait so long at most, then they get 503. 0 = 60s."},

    {SET(proxy.heartbeat.interval), DURATION("15s"),
     .help = "A client that asked for a stream hears something after so long a silence: a comment, a\n"
             "ping, an empty line, as its API has it. 0 = never."},
    {SET(proxy.heartbeat.json), BOOL("false"),
     .help = "The same for requests that did not ask for a stream: blanks in front of the JSON. Then the\n"
             "status is always 200 and errors are in the body."},

    {SET(proxy.sticky_sessions.enabled), BOOL("true"), .env = "OLLA_PROXY_STICKY_SESSIONS_ENABLED",
     .help = "Send the turns of a conversation to the endpoint that has its beginning in memory."},
    {SET(proxy.sticky_sessions.idle_ttl_seconds), INT("600", 0, 2000000000),
     .help = "A conversation is forgotten after so long without a request. 0 = never."},
    {SET(proxy.sticky_sessions.max_sessions), .flags = CONF_CLAMP, .type = CONF_INT, .def = "1024", .min = 1,
     .max = OLLA_MAX_SESSIONS, .allowed = "a whole number from 1 to OLLA_MAX_SESSIONS, the limit of this build",
     .help = "Conversations that are remembered; beyond it the one that was idle longest is forgotten."},
    {SET(proxy.sticky_sessions.key_sources), .type = CONF_CHOICES,
     .second = offsetof(struct conf, proxy.sticky_sessions.key_sources_n),
     .def = "session_header, prefix_hash, auth_header", .allowed = "session_header, prefix_hash, auth_header, ip",
     .help = "How a conversation is recognised; the first that a request has counts. session_header = what\n"
             "clients send to tell their sessions, in headers or in the body; prefix_hash = its beginning."},
    {SET(proxy.sticky_sessions.prefix_hash_bytes), INT("0", 0, 2000000000),
     .help = "So many bytes of the beginning are looked at. 0 = to the end of the user's first message."},
    {SET(proxy.sticky_sessions.load_slack), INT("2", 0, 100000),
     .help = "Not when its endpoint has so many more requests than another one could have."},

    {.path = "discovery.type",
     ENUM("static", "static"),
     .help = "Where endpoints come from: the [endpoint:NAME] sections."},
    {.path = "discovery.static.endpoints",
     .type = CONF_NOTHING,
     .allowed = "nothing; endpoints are written as [endpoint:NAME] sections"},

    {SET(discovery.model_discovery.enabled), BOOL("true"),
     .help = "Ask the endpoints for their models. Without it no model is known."},
    {SET(discovery.model_discovery.interval), DURATION("5m"),
     .help = "Time between two questions to the same endpoint."},
    {SET(discovery.model_discovery.timeout), DURATION("30s"),
     .help = "An endpoint must have answered within this time."},
    {SET(discovery.model_discovery.concurrent_workers), INT("5", 0, 1000),
     .help = "Endpoints asked at the same time; the build has a limit of its own (olla -m)."},

    {SET(model_registry.routing_strategy.type), ENUM("strict", "strict, optimistic, discovery"),
     .help = "A request for a model that no healthy endpoint has: strict = refused; optimistic = see\n"
             "fallback_behavior; discovery = the endpoints are asked for their models once more."},
    {SET(model_registry.routing_strategy.options.fallback_behavior),
     ENUM("compatible_only", "compatible_only, none, all"),
     .help = "For optimistic and discovery: all = any healthy endpoint gets the request; the others\n"
             "refuse it."},
    {SET(model_registry.routing_strategy.options.discovery_timeout), NEVER_0("2s"),
     .help = "For discovery: so long a request waits for the new lists."},
    {SET(model_registry.routing_strategy.options.discovery_refresh_on_miss), BOOL("false"),
     .help = "For discovery: whether to ask at all."},

    {SET(translators.anthropic.enabled), BOOL("true"), .env = "OLLA_TRANSLATORS_ANTHROPIC_ENABLED",
     .help = "Serve the Anthropic Messages API with all endpoints: at /v1/messages and below /olla/anthropic/.\n"
             "With false only those that speak it themselves get such requests."},
    {SET(translators.anthropic.passthrough_enabled), BOOL("true"),
     .env = "OLLA_TRANSLATORS_ANTHROPIC_PASSTHROUGH_ENABLED",
     .help = "Endpoints that speak it get the requests as they are; with false all of them are translated."},
    {SET(translators.anthropic.max_message_size), SIZE("32MB", 1, 104857600, "a size from 1 to 100MB"),
     .flags = CONF_ZERO_IS_DEFAULT, .env = "OLLA_TRANSLATORS_ANTHROPIC_MAX_MESSAGE_SIZE",
     .help = "Largest request of that API; a larger one is answered with 413. 0 = 32MB."},

    {SET(translators.anthropic.inspector.enabled), BOOL("false"),
     .help = "Write the requests of that API and their replies to files, to find out what a client and a model say\n"
             "to each other. Everything that is said is on disk then, without keys and tokens."},
    {SET(translators.anthropic.inspector.output_dir), FREE("logs/inspector/anthropic"),
     .help =
         "Where: in DIRECTORY/YYYY-MM-DD/SESSION.jsonl, by UTC. \"\" = ./inspector-logs. Not in a directory of the\n"
         "system."},
    {SET(translators.anthropic.inspector.session_header), WORD("X-Session-ID"),
     .help = "The header that names the session; without it X-Request-ID does. \"\" = X-Session-ID."},

    {SET(usage.file), FREE(""),
     .help = "Tokens by key and model are added to this file, one JSON object in each line. Nothing = not."},
    {SET(usage.interval), RANGE("1h", 1000, LONGEST, "a duration of 1s or more"),
     .help = "... once in this time, to spare flash memory; and when olla stops."},

    {SET(wake.state_file), FREE(""),
     .help =
         "The models of machines that can be woken (endpoint wake.mac) are kept in this file, so that they are known\n"
         "after a restart of olla, too, while the machines sleep. Nothing = not."},

    {HOOK("up", HOOK_UP),
     .help =
         "Programs that are started when something happens, without a shell. They find OLLA_EVENT (up, down, wake,\n"
         "idle, queue_full), OLLA_ENDPOINT, OLLA_URL, OLLA_REASON, OLLA_STATE and OLLA_MAC in their environment;\n"
         "what they write goes into the log. This one: an endpoint has come up."},
    {HOOK("down", HOOK_DOWN), .help = "An endpoint is no longer up. OLLA_STATE = asleep: it only sleeps."},
    {HOOK("wake", HOOK_WAKE), .help = "A machine is being woken."},
    {HOOK("idle", HOOK_IDLE),
     .help =
         "A machine that can be woken has had nothing to do for idle_after. The program may send it to sleep; until\n"
         "it has ended nothing is sent there. When it ends with 0 the machine counts as asleep."},
    {HOOK("queue_full", HOOK_QUEUE_FULL),
     .help = "A request was refused because the waiting line is full; at most once a minute."},
    {SET(hooks.idle_after), DURATION("0s"), .help = "See idle. 0 = never."},
    {SET(hooks.timeout), RANGE("60s", 100, 3600000, "a duration from 100ms to 1h"),
     .help = "A program that runs longer is ended."},

    {SET(logging.level), ENUM("info", "debug, info, warn/warning, error"), .env = "OLLA_LOGGING_LEVEL",
     .help = "Lines below this level are left out."},
    {SET(logging.format), ENUM("auto", "auto, text, json"), .env = "OLLA_LOGGING_FORMAT",
     .help = "auto = text on a terminal and for syslog, otherwise one JSON object per line."},
    {SET(logging.output), ENUM("stdout", "stdout, syslog, file"), .env = "OLLA_LOGGING_OUTPUT",
     .help = "Where the log goes."},
    {SET(logging.file), FREE("logs/olla.log"),
     .help = "The file, for output = file. It grows without end: rename it and send SIGHUP now and then, which opens\n"
             "it anew; logrotate does that. Not given, it is olla.log in the directory OLLA_LOG_DIR, if that is set."},
    {SET(logging.syslog_socket), FREE("/dev/log"), .help = "Where the system's log listens, for output = syslog."},

    {SET(dashboard.enabled), BOOL("true"), .help = "A page about all of this, for browsers: /internal/ui/"},

    {POLICY(allowed_cidrs), CIDRS("127.0.0.0/8, ::1/128"),
     .help = "Who may open it, by the address that the connection comes from, whatever a proxy says.\n"
             "With keys, /internal/ and /version too are open to these, and closed to others without a key."},
    {POLICY(allowed_hosts), LIST("localhost", "a list of names of hosts"),
     .help = "Names in the address that a browser may open it with, without a port. An IP address always may.\n"
             "So no foreign page can open it by giving this machine a name of its own."},

    {KEY(name), FREE(""), .help = "Another name than the one in the section line. No two endpoints have the same."},
    {KEY(url), .type = CONF_URL, .allowed = "http://host[:port][/path] or https://...",
     .help = "Where the backend is. The only key that has to be there."},
    {KEY(type), WORD(""),
     .help = "ollama, llamacpp, vllm, vllm-mlx, omlx, sglang, lmdeploy, lm-studio, lemonade, litellm,\n"
             "docker-model-runner, localai, gpustack, openai-compatible, or the NAME of a profile below.\n"
             "Nothing or auto = found out by looking at the server's lists."},
    {KEY(priority), INT("100", 0, 1000000), .help = "Higher is preferred by the priority balancer."},
    {KEY(weight), INT("1", 1, 1000), .help = "An endpoint with 3 gets three times the requests of one with 1."},
    {KEY(max_concurrent), INT("0", 0, 30000),
     .help = "So many inference requests at one time; more wait (see proxy.queue). 0 = any number."},
    {KEY(max_context), INT("0", 0, 2000000000),
     .help = "Tokens that fit; longer requests go elsewhere if they can. 0 = as the server says."},
    {KEY(serves), .type = CONF_CHOICES, .second = offsetof(struct conf_endpoint, serves_n), .def = "",
     .allowed = "chat, embeddings, audio, images, rerank", .help = "Only these kinds of requests. Nothing = all."},
    {KEY(health), ENUM("http", "http, passive, none"),
     .help = "http = it is asked every check_interval; passive = only requests show if it is well;\n"
             "none = it always counts as well."},
    {KEY(connection_timeout), DURATION("0s"), .help = "As in proxy, for this endpoint. 0 = that."},
    {KEY(first_byte_timeout), DURATION("0s"),
     .help = "Without a byte of the response by then the request goes to another endpoint. A model that is\n"
             "being loaded, or a long prompt, takes its time: mind that. 0 = never."},
    {KEY(read_timeout), DURATION("0s"), .help = "As in proxy, for this endpoint. 0 = that."},
    {KEY(enabled), BOOL("true"), .help = "false = leave this endpoint alone."},
    {KEY(health_check_url), TARGET(health_host),
     .help = "Asked to see if the backend is well; a path is taken below url. Nothing = by type."},
    {KEY(model_url), TARGET(model_host), .help = "Asked for the list of models. Nothing = by type."},
    {KEY(check_interval), RANGE("5s", 1000, LONGEST, "a duration of 1s or more, or 0 for the default"),
     .flags = CONF_ZERO_IS_DEFAULT, .help = "Time between two health checks."},
    {KEY(check_timeout), RANGE("0s", 0, 30000, "a duration from 0 to 30s"),
     .help = "A health check must have an answer within this time; less than check_interval.\n"
             "0 = 2s, or half of check_interval if that is less."},
    {KEY(tls.ca_file), FREE(""),
     .help = "For https: the authorities that may have signed the server's certificate, in PEM form; for one that it\n"
             "has signed itself, that certificate. Nothing = the authorities of this system."},
    {KEY(tls.server_name), WORD(""), .help = "The name that its certificate is for, if that is not the host in url."},
    {KEY(tls.insecure), BOOL("false"),
     .help = "true = believe any certificate. Whoever can get in between reads and changes everything then."},
    {KEY(wake.mac), .type = CONF_MAC, .allowed = "six bytes in hex, like 1c:69:7a:0b:c4:2e",
     .help = "The machine may sleep: when only sleeping machines have the model of a request, one is woken by magic\n"
             "packets to the network card with this address (Wake-on-LAN), and the request waits for it."},
    {KEY(wake.broadcast), .type = CONF_ADDRESS, .def = "255.255.255.255", .allowed = "an IPv4 or IPv6 address",
     .help =
         "Where these packets go. The default reaches all networks that this machine is in. Not a broadcast address\n"
         "but the machine's own only where a router knows it while it sleeps."},
    {KEY(wake.port), INT("9", 1, 65535), .help = "... and to which UDP port."},
    {KEY(wake.timeout), RANGE("120s", 1000, 3600000, "a duration from 1s to 1h"),
     .help = "So long a request waits for it; then it is answered with 504."},
    {KEY(wake.policy), ENUM("require", "never, prefer, require"),
     .help = "require = requests that nobody else can serve wake it and wait for it; prefer = it is woken, but no\n"
             "request waits: others serve it, or the client is told to come back; never = it is not woken. The header\n"
             "X-Olla-Wake: never, or prefer, lowers that for one request."},
    {KEY(preserve_path), BOOL("false"), .help = "true = the path of url stays in front of the path of a request."},
    {KEY(model_filter.include), .type = CONF_PATTERNS, .allowed = "a list of patterns",
     .help = "Only models whose names match one of these are taken from the endpoint's list.\n"
             "A pattern may have * at its start, its end or both."},
    {KEY(model_filter.exclude), .type = CONF_PATTERNS, .allowed = "a list of patterns",
     .help = "Models that match one of these are not taken; this wins."},
    {KEY(auth.type), .type = CONF_WORD, .flags = CONF_UNSHOWN, .allowed = "bearer, api_key or basic",
     .help = "The backend wants credentials; clients' own never get there. bearer needs a token, api_key a key,\n"
             "basic a username and a password: each either here, where ${VAR} and ${VAR:-default} stand for the\n"
             "environment, or in a file of its own (trimmed; read again at every reload). A line here has at most\n"
             "190 bytes: what is longer, and what others must not read, belongs in a file. Nothing of this goes to\n"
             "another host that health_check_url or model_url names."},
    {KEY(auth.token), SECRET, .help = "Authorization: Bearer TOKEN"},
    {KEY(auth.token_file), SECRET_FILE, .help = "... in a file."},
    {KEY(auth.key), SECRET, .help = "X-Api-Key: KEY"},
    {KEY(auth.key_file), SECRET_FILE, .help = "... in a file."},
    {KEY(auth.header), .type = CONF_WORD, .flags = CONF_UNSHOWN, .allowed = "the name of a header",
     .help = "... in another header than X-Api-Key."},
    {KEY(auth.username), SECRET, .help = "Authorization: Basic, for this user"},
    {KEY(auth.username_file), SECRET_FILE, .help = "... in a file."},
    {KEY(auth.password), SECRET, .help = "and this password."},
    {KEY(auth.password_file), SECRET_FILE, .help = "... in a file."},
    {.path = "endpoint.headers.NAME",
     .type = CONF_HEADER,
     .allowed = "text, with ${VAR} as above; \"\" = an empty header",
     .help = "Requests get the header NAME, in the place of any other of that name; but auth wins. Replies lose it.\n"
             "One line for each header. All of an endpoint, with auth's, have 1024 bytes unless built otherwise."},

    {TYPE(prefixes), .type = CONF_NAMES, .allowed = "a list of path segments",
     .help = "The routes: /olla/PREFIX/... goes to endpoints of this type. Nothing = NAME."},
    {TYPE(health_check_path), WORD(NULL), .help = "Asked to see if a server is well. Nothing = /v1/models."},
    {TYPE(model_discovery_path), WORD(NULL), .help = "Asked for the list of models. Nothing = /v1/models."},
    {TYPE(response_format), ENUM(NULL, "openai, ollama, lm-studio, llamacpp, lemonade"),
     .help = "How that list looks. Nothing = openai."},
    {TYPE(openai_compatible), BOOL(NULL), .help = "Whether a server speaks OpenAI's API. Nothing = true."},
    {TYPE(openai_base), WORD(NULL),
     .help = "What stands before /v1/ on such a server: /api if it has /api/v1/chat/completions."},
    {TYPE(messages_path), WORD(NULL),
     .help = "Where a server has Anthropic's Messages API: /v1/messages, or a path that ends so.\n"
             "Nothing = it has none."},
    {TYPE(idle_timeout), .type = CONF_DURATION, .max = LONGEST,
     .allowed = "a duration of 0 or more (like 300ms, 30s, 1h30m)",
     .help = "How long an idle connection to such a server is used again; less than the server keeps it.\n"
             "Nothing = 4s."},

    {.path = "key.secret",
     .type = CONF_SECRET,
     .allowed = "visible ASCII characters without blanks",
     .help = "What a client has to bring, as Authorization: Bearer SECRET or as x-api-key: SECRET. Exactly one\n"
             "of these three has to be there. ${NAME} is a variable of the environment."},
    {.path = "key.secret_file",
     .type = CONF_FILE,
     .allowed = "a file with the secret in its only line",
     .help = "A file that holds it; read at start and with each reload."},
    {.path = "key.secret_sha256",
     .type = CONF_DIGEST,
     .allowed = "64 hex digits",
     .help = "Its SHA-256, so that it is written nowhere here: olla --hash-key makes that."},
    {ENTRY(models), .type = CONF_PATTERNS, .allowed = "a list of patterns",
     .help = "Only models that are asked for by a name that matches one of these; nothing else is listed, and\n"
             "requests without a model are refused. Nothing = all."},
    {.path = "key.class",
     AT(conf_key, class_),
     ENUM("normal", "high, normal, low"),
     .help = "In the waiting line (see proxy.queue). The header X-Olla-Priority can only lower it."},
    {ENTRY(requests_per_minute), INT("0", 0, 1000000),
     .help = "More are answered with 429. What was not used in a minute can be used at once. 0 = no limit."},
    {ENTRY(tokens_per_day), INT("0", 0, 2000000000),
     .help = "Tokens of prompts and answers together, as the servers count them; where one does not tell, olla\n"
             "estimates. When they are used up: 429 until midnight, local time. Begins anew at a start of olla.\n"
             "0 = no limit."},

    /* Names that occur in configurations of the reference and change nothing, there or here. */
    {.path = "proxy.max_retries", .type = CONF_INERT},
    {.path = "proxy.retry_backoff", .type = CONF_INERT},
    {.path = "proxy.response_timeout", .type = CONF_INERT},
    {.path = "proxy.stream_buffer_size", .type = CONF_INERT},
    {.path = "proxy.profile_filter.include", .type = CONF_INERT},
    {.path = "proxy.profile_filter.exclude", .type = CONF_INERT},
    {.path = "discovery.refresh_interval", .type = CONF_INERT},
    {.path = "discovery.model_discovery.retry_attempts", .type = CONF_INERT},
    {.path = "discovery.model_discovery.retry_backoff", .type = CONF_INERT},
    {.path = "discovery.health_check.initial_delay", .type = CONF_INERT},
    {.path = "server.rate_limits.health_requests_per_minute", .type = CONF_INERT},
    {.path = "server.rate_limits.cleanup_interval", .type = CONF_INERT}, /* the table of clients has one size */
    {.path = "server.rate_limits.per_endpoint.default_requests_per_minute", .type = CONF_INERT},
    {.path = "dashboard.gate_internal_api", .type = CONF_INERT},
};

const struct conf_row *conf_row_find(struct str path)
{
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        if (str_eq(str_of(row->path), path)) {
            return row;
        }
    }
    return NULL;
}

const char *conf_kind_name(enum conf_kind kind)
{
    static const char *const names[CONF_KINDS] = {"", "endpoint", "profile", "key"};
    return names[kind];
}

enum conf_kind conf_kind_of(const struct conf_row *row)
{
    for (int kind = CONF_ENDPOINT; kind < CONF_KINDS; kind++) {
        struct str name = str_of(conf_kind_name((enum conf_kind)kind));
        if (str_starts(str_of(row->path), name) && row->path[name.n] == '.') {
            return (enum conf_kind)kind;
        }
    }
    return CONF_SETTINGS;
}

/* ---- the reference file ------------------------------------------------- */

static const char head[] = "; olla.ini - every setting of olla with its default.\n"
                           ";\n"
                           "; This file is what `olla --print-settings` prints. Lines that start with \"; \"\n"
                           "; explain; lines that start with \";\" and a key show a default: take the \";\" away\n"
                           "; to change it.\n"
                           ";\n"
                           ";   [section]        then key = value; section and key together are the name of\n"
                           ";                    a setting: port in [server] is server.port\n"
                           ";   key = value ; x  a comment after a value needs a blank before its \";\" or \"#\"\n"
                           ";   key = \"value\"    quotes are taken away; key = \"\" is an empty text\n"
                           ";   key =            the default, or for a list: nothing in it\n"
                           ";   key = a, b       a list; the same key once more adds to it\n"
                           ";\n"
                           "; A line has at most 190 bytes. Blanks at its start mean nothing.\n"
                           "; Environment variables win over this file. `olla -t` checks both.";

static const char endpoint_head[] =
    "\n\n; ---- model aliases ----\n"
    "; One name for whatever the servers call a model: each endpoint is asked for the first of\n"
    "; the list that it has. Case does not matter. An alias whose name holds a \":\" or \"=\" has\n"
    "; a section of its own: [model_alias:NAME] with models = a, b.\n"
    "\n;[model_aliases]\n"
    "\n;fast = llama3.2:3b, qwen2.5-3b-instruct\n"
    "\n\n; ---- endpoints ----\n"
    "; One section per backend; no two have the same name. Without any such section olla\n"
    "; uses http://localhost:11434 with the name localhost and type ollama.\n"
    "; The keys of an endpoint section:\n";

static const char profile_head[] =
    "\n\n; ---- backend types of one's own ----\n"
    "; For servers that no built-in type fits: type = NAME in an endpoint section. The NAME of a\n"
    "; built-in type changes that type; keys that are not given keep its values.\n"
    "; The keys of a profile section:\n";

static const char key_head[] =
    "\n\n; ---- keys ----\n"
    "; Without any such section everybody who can reach olla may use it. With one, every request\n"
    "; needs a key, but for /internal/health, and for /internal/ and /version from the addresses of\n"
    "; dashboard.access_policy.allowed_cidrs.\n"
    "; NAME stands in the log. The keys of a key section:\n";

#define EXAMPLE(name, url, type, models, health, interval, timeout)                              \
    "\n[endpoint:" name "]\nurl = " url "\ntype = " type "\npriority = 100\nmodel_url = " models \
    "\nhealth_check_url = " health "\ncheck_interval = " interval "\ncheck_timeout = " timeout

static const char *const examples[] = {
    EXAMPLE("local-ollama", "http://localhost:11434", "ollama", "/api/tags", "/", "2s", "1s"),
    EXAMPLE("local-lm-studio", "http://localhost:1234", "lm-studio", "/v1/models", "/", "2s", "1s"),
    EXAMPLE("local-vllm", "http://localhost:8000", "vllm", "/v1/models", "/health", "5s", "2s"),
    EXAMPLE("local-llamacpp", "http://localhost:8080", "llamacpp", "/v1/models", "/health", "5s", "2s"),
};

/* The lines of body, each between the other three. */
static void print(void (*line)(const char *text), const char *before, struct str body, const char *after,
                  const char *last)
{
    char space[256];

    while (body.p) {
        struct text t = text_in(space, sizeof(space));

        text_addz(&t, before);
        text_add(&t, str_split(&body, '\n'));
        text_addz(&t, after);
        text_addz(&t, last);
        line(text_z(&t));
    }
}

void conf_print_reference(void (*line)(const char *text))
{
    struct str section = STR("");

    print(line, "", STR(head), "", "");
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        static const char *const heads[CONF_KINDS] = {"\n", endpoint_head, profile_head, key_head};
        enum conf_kind kind = conf_kind_of(row);
        const char *dot = kind != CONF_SETTINGS ? strchr(row->path, '.') : strrchr(row->path, '.');
        struct str mine = {row->path, (size_t)(dot - row->path)};

        if (!row->help) {
            continue;
        }
        if (!str_eq(mine, section)) {
            section = mine;
            print(line, "", str_of(heads[kind]), "", "");
            print(line, kind != CONF_SETTINGS ? ";[" : "[", mine, kind != CONF_SETTINGS ? ":NAME]" : "]", "");
        }
        print(line, "", STR(""), "", "");
        print(line, "; ", str_of(row->help), "", "");
        print(line, "; Allowed: ", str_of(row->allowed), "", "");
        if (row->env) {
            print(line, "; Environment: ", str_of(row->env), "", "");
        }
        print(line, row->flags & CONF_ACTIVE ? "" : ";", str_of(dot + 1), row->def && *row->def ? " = " : " =",
              row->def);
    }
    for (size_t i = 0; i < OLLA_COUNT(examples); i++) {
        print(line, "", str_of(examples[i]), "", "");
    }
}
