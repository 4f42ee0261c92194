/*
 * test_conf.c - the configuration: defaults, file, environment, messages.
 *
 * Files are written to a directory of their own; messages are compared
 * without its name, so ":3: ..." is line 3 of the file. OLLA_INI names the
 * shipped olla.ini; the tests run from the top of the tree.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/conf.h"
#include "../../src/conf_internal.h"
#include "../../platform/tls.h"

#ifndef OLLA_INI
#define OLLA_INI "olla.ini"
#endif

#define MAX_MESSAGES 64

static struct conf conf;
static char dir[] = "/tmp/olla-conf-XXXXXX";
static char file[64];
static char messages[MAX_MESSAGES][700];
static bool is_error[MAX_MESSAGES];
static int message_count;

static void collect(bool error, const char *line)
{
    size_t skip = strncmp(line, file, strlen(file)) == 0 ? strlen(file) : 0;

    assert_true(message_count < MAX_MESSAGES);
    is_error[message_count] = error;
    (void)snprintf(messages[message_count++], sizeof(messages[0]), "%s", line + skip);
}

static void write_file(const void *bytes, size_t n)
{
    FILE *f = fopen(file, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static int load_bytes(const void *bytes, size_t n)
{
    write_file(bytes, n);
    message_count = 0;
    return conf_load(&conf, file, collect);
}

static int load(const char *text)
{
    return load_bytes(text, strlen(text));
}

/* What secret_file names: relative to the working directory, which the tests do not leave for long. */
#ifndef TEST_DIR
#define TEST_DIR "build/test"
#endif
#define SECRET_FILE TEST_DIR "/olla-test-secret"

static void write_secret(const char *text)
{
    FILE *f = fopen(SECRET_FILE, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void show_messages(void)
{
    for (int i = 0; i < message_count; i++) {
        print_message("%s %s\n", is_error[i] ? "error  " : "warning", messages[i]);
    }
}

static void expect_quiet(const char *text)
{
    int rc = load(text);

    show_messages();
    assert_int_equal(message_count, 0);
    assert_int_equal(rc, OLLA_OK);
}

static void expect_one(const char *text, bool error, const char *message)
{
    int rc = load(text);

    if (message_count != 1 || strcmp(messages[0], message) != 0) {
        show_messages();
    }
    assert_int_equal(message_count, 1);
    assert_string_equal(messages[0], message);
    assert_int_equal(is_error[0], error);
    assert_int_equal(rc, error ? OLLA_ERR : OLLA_OK);
    assert_int_equal(conf.warnings, error ? 0 : 1);
}

#define expect_error(text, message)   expect_one(text, true, message)
#define expect_warning(text, message) expect_one(text, false, message)

static bool starts_with(const char *s, const char *start)
{
    return strncmp(s, start, strlen(start)) == 0;
}

/* ---- defaults and reading back ------------------------------------------ */

static void check_load_defaults(void)
{
    assert_int_equal(conf.proxy.profile, RELAY_AUTO);
    assert_int_equal(conf.proxy.breaker.consecutive_failures, 3);
    assert_int_equal(conf.proxy.breaker.window, 16);
    assert_int_equal(conf.proxy.breaker.failure_percent, 50);
    assert_int_equal(conf.proxy.breaker.open_time, 10000);
    assert_int_equal(conf.proxy.breaker.max_open_time, 120000);
    assert_int_equal(conf.proxy.queue.max_waiting, 64);
    assert_int_equal(conf.proxy.queue.timeout, 60000);
    assert_int_equal(conf.proxy.heartbeat.interval, 15000);
    assert_false(conf.proxy.heartbeat.json);
    assert_true(conf.proxy.sticky_sessions.enabled);
    assert_int_equal(conf.proxy.sticky_sessions.idle_ttl_seconds, 600);
    assert_int_equal(conf.proxy.sticky_sessions.max_sessions, 1024);
    assert_int_equal(conf.proxy.sticky_sessions.key_sources_n, 3);
    assert_int_equal(conf.proxy.sticky_sessions.key_sources[0], KEY_SESSION_HEADER);
    assert_int_equal(conf.proxy.sticky_sessions.key_sources[1], KEY_PREFIX_HASH);
    assert_int_equal(conf.proxy.sticky_sessions.key_sources[2], KEY_AUTH_HEADER);
    assert_int_equal(conf.proxy.sticky_sessions.prefix_hash_bytes, 0);
    assert_int_equal(conf.proxy.sticky_sessions.load_slack, 2);
}

static void check_cors_defaults(void)
{
    assert_false(conf.server.cors.enabled);
    assert_int_equal(conf.server.cors.allowed_origins.n, 1);
    assert_string_equal(conf.server.cors.allowed_origins.item[0], "*");
    assert_int_equal(conf.server.cors.allowed_methods.n, 3);
    assert_string_equal(conf.server.cors.allowed_methods.item[2], "OPTIONS");
    assert_int_equal(conf.server.cors.allowed_headers.n, 1);
    assert_string_equal(conf.server.cors.allowed_headers.item[0], "*");
    assert_int_equal(conf.server.cors.exposed_headers.n, 0);
    assert_false(conf.server.cors.allow_credentials);
    assert_int_equal(conf.server.cors.max_age, 300);
}

static bool has(const struct conf_cidrs *list, const char *text)
{
    struct cidr_addr a;

    assert_int_equal(cidr_parse_addr(str_of(text), &a), OLLA_OK);
    return cidr_any(list->item, list->n, &a);
}

static void check_dashboard_defaults(void)
{
    const struct conf_cidrs *list = &conf.dashboard.access_policy.allowed_cidrs;

    assert_true(conf.dashboard.enabled);
    assert_int_equal(list->n, 2);
    assert_true(has(list, "127.3.2.1"));
    assert_true(has(list, "::1"));
    assert_false(has(list, "::2"));
    assert_false(has(list, "192.168.1.1"));
    assert_int_equal(conf.dashboard.access_policy.allowed_hosts.n, 1);
    assert_string_equal(conf.dashboard.access_policy.allowed_hosts.item[0], "localhost");
}

static void check_default_settings(void)
{
    static const uint16_t statuses[] = {429, 502, 503, 504, 529};

    assert_string_equal(conf.server.host, "localhost");
    assert_string_equal(conf.server.user, "");
    assert_int_equal(conf.server.port, 40114);
    assert_true(conf.server.root_api);
    assert_true(conf.server.request_logging);
    assert_int_equal(conf.server.read_timeout, 30000);
    assert_int_equal(conf.server.read_header_timeout, 10000);
    assert_int_equal(conf.server.write_timeout, 0);
    assert_int_equal(conf.server.idle_timeout, 30000);
    assert_int_equal(conf.server.shutdown_timeout, 10000);
    assert_int_equal(conf.server.max_body_size, 104857600);
    assert_int_equal(conf.server.rate_limits.global_requests_per_minute, 0);
    assert_int_equal(conf.server.rate_limits.per_ip_requests_per_minute, 0);
    assert_int_equal(conf.server.rate_limits.burst_size, 50);
    assert_false(conf.server.rate_limits.trust_proxy_headers);
    assert_int_equal(conf.server.rate_limits.trusted_proxy_cidrs.n, 4);
    assert_true(has(&conf.server.rate_limits.trusted_proxy_cidrs, "172.31.255.255"));
    assert_false(has(&conf.server.rate_limits.trusted_proxy_cidrs, "172.32.0.0"));
    assert_int_equal(conf.server.access.allowed_cidrs.n, 0);
    assert_int_equal(conf.server.access.max_connections_per_client, 0);
    assert_false(conf.server.tls.enabled);
    assert_string_equal(conf.server.tls.cert_file, "");
    assert_int_equal(conf.server.tls.port, 0);
    assert_int_equal(conf.server.max_header_size, OLLA_MAX_HEAD);
    assert_int_equal(conf.proxy.engine, ENGINE_OLLA);
    assert_int_equal(conf.proxy.load_balancer, BALANCE_LEAST_CONNECTIONS);
    assert_int_equal(conf.proxy.connection_timeout, 5000);
    assert_int_equal(conf.proxy.connection_keep_alive, 30000);
    assert_int_equal(conf.proxy.response_header_timeout, 600000);
    assert_int_equal(conf.proxy.read_timeout, 600000);
    assert_string_equal(conf.proxy.spool_dir, "/tmp");
    assert_true(conf.proxy.retry.enabled);
    assert_int_equal(conf.proxy.retry.max_attempts, 0);
    assert_int_equal(conf.proxy.retry.on_status_n, 5);
    assert_memory_equal(conf.proxy.retry.on_status, statuses, sizeof(statuses));
    assert_true(conf.proxy.retry.on_connection_lost);
    assert_true(conf.discovery.model_discovery.enabled);
    assert_int_equal(conf.discovery.model_discovery.interval, 300000);
    assert_int_equal(conf.discovery.model_discovery.timeout, 30000);
    assert_int_equal(conf.discovery.model_discovery.concurrent_workers, 5);
    assert_true(conf.translators.anthropic.enabled);
    assert_true(conf.translators.anthropic.passthrough_enabled);
    assert_int_equal(conf.translators.anthropic.max_message_size, 33554432);
    assert_false(conf.translators.anthropic.inspector.enabled);
    assert_string_equal(conf.translators.anthropic.inspector.output_dir, "logs/inspector/anthropic");
    assert_string_equal(conf.translators.anthropic.inspector.session_header, "X-Session-ID");
    assert_string_equal(conf.usage.file, "");
    assert_int_equal(conf.usage.interval, 3600000);
    assert_int_equal(conf.logging.level, LOG_LEVEL_INFO);
    assert_int_equal(conf.logging.format, LOG_FORMAT_AUTO);
    assert_int_equal(conf.logging.output, LOG_OUTPUT_STDOUT);
    assert_string_equal(conf.logging.file, "logs/olla.log");
    assert_string_equal(conf.logging.syslog_socket, "/dev/log");
    check_load_defaults();
    check_cors_defaults();
    check_dashboard_defaults();
}

static void check_builtin_endpoint(void)
{
    const struct conf_endpoint *e = &conf.endpoint[0];

    assert_int_equal(conf.endpoints, 1);
    assert_string_equal(e->name, "localhost");
    assert_string_equal(e->type, "ollama");
    assert_string_equal(e->url.text, "http://localhost:11434");
    assert_string_equal(e->url.authority, "localhost:11434");
    assert_string_equal(e->health_check_url, "/");
    assert_string_equal(e->model_url, "");
    assert_int_equal(e->check_interval, 5000);
    assert_int_equal(e->check_timeout, 2000);
    assert_int_equal(e->priority, 100);
    assert_true(e->enabled);
    assert_false(e->preserve_path);
    assert_int_equal(e->weight, 1);
    assert_int_equal(e->max_concurrent, 0);
    assert_int_equal(e->max_context, 0);
    assert_int_equal(e->serves_n, 0);
    assert_int_equal(e->health, HEALTH_HTTP);
    assert_int_equal(e->connection_timeout, 0);
    assert_int_equal(e->first_byte_timeout, 0);
    assert_int_equal(e->read_timeout, 0);
    assert_int_equal(e->line, 0);
}

static void test_no_file(void **state)
{
    (void)state;
    message_count = 0;
    assert_int_equal(conf_load(&conf, "", collect), OLLA_OK);
    assert_int_equal(message_count, 0);
    assert_string_equal(conf.path, "");
    check_default_settings();
    check_builtin_endpoint();
}

static void test_empty_file(void **state)
{
    (void)state;
    expect_quiet("");
    assert_string_equal(conf.path, file);
    check_default_settings();
    check_builtin_endpoint();
    expect_quiet("\n ; nothing\n\t# here\n\n[server]");
    check_builtin_endpoint();
}

static const char all_settings[] =
    "[server]\nhost = 192.0.2.7\nport = 8080\nuser = nobody:1000\n"
    "read_timeout = 1s\nread_header_timeout = 2s\nwrite_timeout = 3s\nidle_timeout = 4s\nshutdown_timeout = 5s\n"
    "request_logging = false\nroot_api = off\n"
    "[server.cors]\nenabled = true\nallowed_origins = https://a.test, 'http://*.b.test' ; x\nallowed_origins = c:*\n"
    "allowed_methods = GET\nallowed_headers = X-A, authorization\nexposed_headers = [\"X-B\", X-C]\n"
    "allow_credentials = true\nmax_age = 30\n"
    "[server.request_limits]\nmax_body_size = 2 MiB\nmax_header_size = 2048\n"
    "[server.rate_limits]\nglobal_requests_per_minute = 30\nper_ip_requests_per_minute = 31\nburst_size = 32\n"
    "trust_proxy_headers = yes\ntrusted_proxy_cidrs = [ \"192.0.2.7/32\", 2001:db8::/33 ] ; x\n"
    "trusted_proxy_cidrs = ::/0\n"
    "[server.access]\nallowed_cidrs = 10.0.0.0/8\nmax_connections_per_client = 33\n"
    "[server.tls]\nenabled = no\ncert_file = /etc/a b.pem\nkey_file = /etc/a.key\nport = 34\n"
    "[proxy]\nengine = sherpa\nload_balancer = priority\nconnection_timeout = 6s\nconnection_keep_alive = 7s\n"
    "response_header_timeout = 8s\nread_timeout = 9s\nspool_dir = /var/spool/olla\nprofile = standard\n"
    "[proxy.breaker]\nconsecutive_failures = 4\nwindow = 20\nfailure_percent = 60\nopen_time = 14s\n"
    "max_open_time = 15s\n[proxy.queue]\nmax_waiting = 16\ntimeout = 17s\n"
    "[proxy.heartbeat]\ninterval = 18s\njson = true\n"
    "[proxy.sticky_sessions]\nenabled = false\nidle_ttl_seconds = 19\nmax_sessions = 20\n"
    "key_sources = ip, session_header\nprefix_hash_bytes = 21\nload_slack = 22\n"
    "[proxy.retry]\nenabled = no\nmax_attempts = 3\non_status = 500, 503\non_connection_lost = n\n"
    "[discovery]\ntype = static\n"
    "[discovery.static]\nendpoints =\n"
    "[discovery.model_discovery]\nenabled = f\ninterval = 10s\ntimeout = 11s\nconcurrent_workers = 12\n"
    "[model_registry.routing_strategy]\ntype = discovery\n"
    "[model_registry.routing_strategy.options]\nfallback_behavior = all\ndiscovery_timeout = 13s\n"
    "discovery_refresh_on_miss = true\n"
    "[translators.anthropic]\nenabled = false\npassthrough_enabled = off\nmax_message_size = 3MB\n"
    "[translators.anthropic.inspector]\nenabled = true\noutput_dir = /srv/said\nsession_header = X-Mine\n"
    "[model_aliases]\nfast = a:1, \"b\"\nFast = c\n"
    "[model_alias:x:y]\nmodels = d\n"
    "[usage]\nfile = /var/lib/olla/used\ninterval = 36s\n"
    "[wake]\nstate_file = /var/lib/olla/machines\n"
    "[hooks]\nup = /bin/up a  b ; x\ndown = /bin/down\nwake = \"/bin/wake ;\"\nidle = /bin/idle\nqueue_full = "
    "/bin/full\n"
    "idle_after = 37s\ntimeout = 38s\n"
    "[logging]\nlevel = debug\nformat = json\noutput = file\nfile = /srv/a b.log\nsyslog_socket = /run/log\n"
    "[endpoint:gpu]\nname = big\nurl = http://[2001:db8::1]:8001/base/\ntype = vLLM\npriority = 0\nenabled = false\n"
    "health_check_url = /alive\nmodel_url = http://192.0.2.9/list\ncheck_interval = 20s\ncheck_timeout = 19s\n"
    "preserve_path = true\nmodel_filter.include = llama*, *qwen*\nmodel_filter.include = phi\n"
    "model_filter.exclude = [ '*embed*' ]\nweight = 23\nmax_concurrent = 24\nmax_context = 25\n"
    "serves = rerank, chat\nserves = audio\nhealth = passive\nconnection_timeout = 26s\nfirst_byte_timeout = 27s\n"
    "read_timeout = 28s\n"
    "[profile:house]\nprefixes = house, \"mansion\"\nprefixes = hut ; x\nhealth_check_path = /alive?x=1\n"
    "model_discovery_path = /list\nresponse_format = LM-Studio\nopenai_compatible = no\nopenai_base = /api\n"
    "messages_path = /x/v1/messages\nidle_timeout = 1m30s\n"
    "[key:alice]\nsecret = \"sk-alice#;1\" ; x\nmodels = fast, llama*\nmodels = *coder*\n"
    "class = low\nrequests_per_minute = 29\ntokens_per_day = 35\n"
    "[key:bob]\nsecret_sha256 = BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
    "[key:carol]\nclass = high\nsecret_file = " SECRET_FILE "\n"
    "[dashboard]\nenabled = no\n"
    "[dashboard.access_policy]\nallowed_cidrs = 10.9.0.0/16\nallowed_cidrs = ::/0\nallowed_hosts = box, \"box.home\"\n";

/* These exclude one another, and so have endpoints of their own. */
static const char all_auth[] =
    "[endpoint:bearer]\nurl = http://x\nauth.type = bearer\nauth.token = \"${OLLA_TEST_A}-t\"\nheaders.NAME = v a l\n"
    "headers.X-Empty = \"\"\nheaders.X-None =\n"
    "[endpoint:key]\nurl = http://x\nauth.type = api_key\nauth.key = k\nauth.header = X-Mine\n"
    "[endpoint:basic]\nurl = http://x\nauth.type = basic\nauth.username = alice\nauth.password = s3cret\n";
/* ... each of them in test_auth_files. */
static const char *const all_auth_files[] = {"token", "key", "username", "password"};

static void check_all_endpoint_keys(void)
{
    const struct conf_endpoint *e = &conf.endpoint[0];

    assert_int_equal(conf.endpoints, 1);
    assert_string_equal(e->name, "big");
    assert_string_equal(e->type, "vLLM");
    assert_string_equal(e->url.text, "http://[2001:db8::1]:8001/base/");
    assert_string_equal(e->url.host, "2001:db8::1");
    assert_string_equal(e->url.authority, "[2001:db8::1]:8001");
    assert_string_equal(e->url.path, "/base");
    assert_int_equal(e->url.port, 8001);
    assert_false(e->url.tls);
    assert_string_equal(e->health_check_url, "/alive");
    assert_string_equal(e->model_url, "/list");
    assert_string_equal(e->model_host.host, "192.0.2.9");
    assert_int_equal(e->model_host.port, 80);
    assert_null(e->health_host.host);
    assert_int_equal(e->check_interval, 20000);
    assert_int_equal(e->check_timeout, 19000);
    assert_int_equal(e->priority, 0);
    assert_false(e->enabled);
    assert_true(e->preserve_path);
    assert_int_equal(e->model_filter.include.n, 3);
    assert_string_equal(e->model_filter.include.item[2], "phi");
    assert_int_equal(e->model_filter.exclude.n, 1);
    assert_string_equal(e->model_filter.exclude.item[0], "*embed*");
    assert_int_equal(e->weight, 23);
    assert_int_equal(e->max_concurrent, 24);
    assert_int_equal(e->max_context, 25);
    assert_int_equal(e->serves_n, 3);
    assert_int_equal(e->serves[0], SERVES_RERANK);
    assert_int_equal(e->serves[1], SERVES_CHAT);
    assert_int_equal(e->serves[2], SERVES_AUDIO);
    assert_int_equal(e->health, HEALTH_PASSIVE);
    assert_int_equal(e->connection_timeout, 26000);
    assert_int_equal(e->first_byte_timeout, 27000);
    assert_int_equal(e->read_timeout, 28000);
    assert_int_equal(e->line, 119);
}

static void check_dashboard_settings(void)
{
    assert_false(conf.dashboard.enabled);
    assert_int_equal(conf.dashboard.access_policy.allowed_cidrs.n, 2);
    assert_true(has(&conf.dashboard.access_policy.allowed_cidrs, "10.9.255.1"));
    assert_false(has(&conf.dashboard.access_policy.allowed_cidrs, "127.0.0.1"));
    assert_int_equal(conf.dashboard.access_policy.allowed_hosts.n, 2);
    assert_string_equal(conf.dashboard.access_policy.allowed_hosts.item[1], "box.home");
}

static void check_wake_settings(void)
{
    assert_string_equal(conf.wake.state_file, "/var/lib/olla/machines");
    assert_string_equal(conf.hooks.run[HOOK_UP], "/bin/up a  b");
    assert_string_equal(conf.hooks.run[HOOK_DOWN], "/bin/down");
    assert_string_equal(conf.hooks.run[HOOK_WAKE], "/bin/wake ;");
    assert_string_equal(conf.hooks.run[HOOK_IDLE], "/bin/idle");
    assert_string_equal(conf.hooks.run[HOOK_QUEUE_FULL], "/bin/full");
    assert_int_equal(conf.hooks.idle_after, 37000);
    assert_int_equal(conf.hooks.timeout, 38000);
}

static void check_limit_settings(void)
{
    const struct conf_cidrs *proxies = &conf.server.rate_limits.trusted_proxy_cidrs;

    assert_int_equal(conf.server.rate_limits.global_requests_per_minute, 30);
    assert_int_equal(conf.server.rate_limits.per_ip_requests_per_minute, 31);
    assert_int_equal(conf.server.rate_limits.burst_size, 32);
    assert_true(conf.server.rate_limits.trust_proxy_headers);
    assert_int_equal(proxies->n, 3);
    assert_true(has(proxies, "192.0.2.7"));
    assert_false(has(proxies, "10.0.0.1"));
    assert_int_equal(proxies->item[1].bits, 33);
    assert_int_equal(conf.server.access.allowed_cidrs.n, 1);
    assert_int_equal(conf.server.access.allowed_cidrs.item[0].bits, 104);
    assert_int_equal(conf.server.access.max_connections_per_client, 33);
    assert_false(conf.server.tls.enabled);
    assert_string_equal(conf.server.tls.cert_file, "/etc/a b.pem");
    assert_string_equal(conf.server.tls.key_file, "/etc/a.key");
    assert_int_equal(conf.server.tls.port, 34);
}

static void check_load_settings(void)
{
    assert_int_equal(conf.proxy.profile, RELAY_STANDARD);
    assert_int_equal(conf.proxy.breaker.consecutive_failures, 4);
    assert_int_equal(conf.proxy.breaker.window, 20);
    assert_int_equal(conf.proxy.breaker.failure_percent, 60);
    assert_int_equal(conf.proxy.breaker.open_time, 14000);
    assert_int_equal(conf.proxy.breaker.max_open_time, 15000);
    assert_int_equal(conf.proxy.queue.max_waiting, 16);
    assert_int_equal(conf.proxy.queue.timeout, 17000);
    assert_int_equal(conf.proxy.heartbeat.interval, 18000);
    assert_true(conf.proxy.heartbeat.json);
    assert_false(conf.proxy.sticky_sessions.enabled);
    assert_int_equal(conf.proxy.sticky_sessions.idle_ttl_seconds, 19);
    assert_int_equal(conf.proxy.sticky_sessions.max_sessions, 20);
    assert_int_equal(conf.proxy.sticky_sessions.key_sources_n, 2);
    assert_int_equal(conf.proxy.sticky_sessions.key_sources[0], KEY_IP);
    assert_int_equal(conf.proxy.sticky_sessions.key_sources[1], KEY_SESSION_HEADER);
    assert_int_equal(conf.proxy.sticky_sessions.prefix_hash_bytes, 21);
    assert_int_equal(conf.proxy.sticky_sessions.load_slack, 22);
}

static void check_cors_settings(void)
{
    assert_true(conf.server.cors.enabled);
    assert_int_equal(conf.server.cors.allowed_origins.n, 3);
    assert_string_equal(conf.server.cors.allowed_origins.item[0], "https://a.test");
    assert_string_equal(conf.server.cors.allowed_origins.item[1], "http://*.b.test");
    assert_string_equal(conf.server.cors.allowed_origins.item[2], "c:*");
    assert_int_equal(conf.server.cors.allowed_methods.n, 1);
    assert_string_equal(conf.server.cors.allowed_methods.item[0], "GET");
    assert_int_equal(conf.server.cors.allowed_headers.n, 2);
    assert_string_equal(conf.server.cors.allowed_headers.item[1], "authorization");
    assert_int_equal(conf.server.cors.exposed_headers.n, 2);
    assert_string_equal(conf.server.cors.exposed_headers.item[0], "X-B");
    assert_true(conf.server.cors.allow_credentials);
    assert_int_equal(conf.server.cors.max_age, 30);
}

static void check_translator_settings(void)
{
    assert_false(conf.translators.anthropic.enabled);
    assert_false(conf.translators.anthropic.passthrough_enabled);
    assert_int_equal(conf.translators.anthropic.max_message_size, 3145728);
    assert_true(conf.translators.anthropic.inspector.enabled);
    assert_string_equal(conf.translators.anthropic.inspector.output_dir, "/srv/said");
    assert_string_equal(conf.translators.anthropic.inspector.session_header, "X-Mine");
}

static void check_all_profile_keys(void)
{
    const struct conf_profile *p = &conf.profile[0];

    assert_int_equal(conf.profiles, 1);
    assert_string_equal(p->name, "house");
    assert_int_equal(p->prefixes.n, 3);
    assert_string_equal(p->prefixes.item[0], "house");
    assert_string_equal(p->prefixes.item[1], "mansion");
    assert_string_equal(p->prefixes.item[2], "hut");
    assert_string_equal(p->health_check_path, "/alive?x=1");
    assert_string_equal(p->model_discovery_path, "/list");
    assert_int_equal(p->response_format, LIST_LM_STUDIO);
    assert_int_equal(p->openai_compatible, 0);
    assert_string_equal(p->openai_base, "/api");
    assert_string_equal(p->messages_path, "/x/v1/messages");
    assert_int_equal(p->idle_timeout, 90000);
    assert_int_equal(p->line, 142);
}

static void expect_digest(const struct conf_key *k, const char *secret)
{
    unsigned char digest[SHA256_BYTES];

    sha256_of(str_of(secret), digest);
    assert_true(k->known);
    assert_memory_equal(k->digest, digest, SHA256_BYTES);
}

static void check_all_key_keys(void)
{
    const struct conf_key *k = &conf.key[0];

    assert_int_equal(conf.keys, 3);
    assert_string_equal(k->name, "alice");
    expect_digest(k, "sk-alice#;1");
    assert_int_equal(k->models.n, 3);
    assert_string_equal(k->models.item[2], "*coder*");
    assert_int_equal(k->class_, CLASS_LOW);
    assert_int_equal(k->requests_per_minute, 29);
    assert_int_equal(k->tokens_per_day, 35);
    expect_digest(&conf.key[1], "abc");
    assert_int_equal(conf.key[1].class_, CLASS_NORMAL);
    assert_int_equal(conf.key[1].models.n, 0);
    assert_int_equal(conf.key[1].requests_per_minute, 0);
    assert_int_equal(conf.key[1].tokens_per_day, 0);
    expect_digest(&conf.key[2], "in-a-file-0123");
    assert_int_equal(conf.key[2].class_, CLASS_HIGH);
}

static void check_aliases(void)
{
    const struct conf_alias *fast = conf_alias_find(&conf, STR("FAST")), *colon = conf_alias_find(&conf, STR("x:y"));

    assert_int_equal(conf.aliases, 2);
    assert_non_null(fast);
    assert_int_equal(fast->models.n, 3);
    assert_string_equal(fast->models.item[0], "a:1");
    assert_string_equal(fast->models.item[1], "b");
    assert_string_equal(fast->models.item[2], "c");
    assert_non_null(colon);
    assert_string_equal(colon->models.item[0], "d");
    assert_null(conf_alias_find(&conf, STR("d")));
    assert_int_equal(conf.model_registry.routing_strategy.type, STRATEGY_DISCOVERY);
    assert_int_equal(conf.model_registry.routing_strategy.options.fallback_behavior, FALLBACK_ALL);
    assert_int_equal(conf.model_registry.routing_strategy.options.discovery_timeout, 13000);
    assert_true(conf.model_registry.routing_strategy.options.discovery_refresh_on_miss);
}

static void test_every_setting(void **state)
{
    (void)state;
    write_secret("in-a-file-0123");
    expect_quiet(all_settings);
    assert_string_equal(conf.server.host, "192.0.2.7");
    assert_string_equal(conf.server.user, "nobody:1000");
    assert_int_equal(conf.server.port, 8080);
    assert_false(conf.server.root_api);
    assert_false(conf.server.request_logging);
    assert_int_equal(conf.server.read_timeout, 1000);
    assert_int_equal(conf.server.read_header_timeout, 2000);
    assert_int_equal(conf.server.write_timeout, 3000);
    assert_int_equal(conf.server.idle_timeout, 4000);
    assert_int_equal(conf.server.shutdown_timeout, 5000);
    assert_int_equal(conf.server.max_body_size, 2097152);
    assert_int_equal(conf.server.max_header_size, 2048);
    assert_int_equal(conf.proxy.engine, ENGINE_SHERPA);
    assert_int_equal(conf.proxy.load_balancer, BALANCE_PRIORITY);
    assert_int_equal(conf.proxy.connection_timeout, 6000);
    assert_int_equal(conf.proxy.connection_keep_alive, 7000);
    assert_int_equal(conf.proxy.response_header_timeout, 8000);
    assert_int_equal(conf.proxy.read_timeout, 9000);
    assert_string_equal(conf.proxy.spool_dir, "/var/spool/olla");
    assert_false(conf.proxy.retry.enabled);
    assert_int_equal(conf.proxy.retry.max_attempts, 3);
    assert_int_equal(conf.proxy.retry.on_status_n, 2);
    assert_int_equal(conf.proxy.retry.on_status[0], 500);
    assert_int_equal(conf.proxy.retry.on_status[1], 503);
    assert_false(conf.proxy.retry.on_connection_lost);
    assert_false(conf.discovery.model_discovery.enabled);
    assert_int_equal(conf.discovery.model_discovery.interval, 10000);
    assert_int_equal(conf.discovery.model_discovery.timeout, 11000);
    assert_int_equal(conf.discovery.model_discovery.concurrent_workers, 12);
    assert_string_equal(conf.usage.file, "/var/lib/olla/used");
    assert_int_equal(conf.usage.interval, 36000);
    assert_int_equal(conf.logging.level, LOG_LEVEL_DEBUG);
    assert_int_equal(conf.logging.format, LOG_FORMAT_JSON);
    assert_int_equal(conf.logging.output, LOG_OUTPUT_FILE);
    assert_string_equal(conf.logging.file, "/srv/a b.log");
    assert_string_equal(conf.logging.syslog_socket, "/run/log");
    check_translator_settings();
    check_limit_settings();
    check_dashboard_settings();
    check_wake_settings();
    check_load_settings();
    check_cors_settings();
    check_all_endpoint_keys();
    check_all_profile_keys();
    check_all_key_keys();
    check_aliases();
}

#define WITHOUT_TLS "needs TLS, and this olla was built without it (TLS=none)"
#define INSECURE                                                                          \
    ":6: endpoint:a.tls.insecure: nobody checks who answers: whoever can get in between " \
    "reads and changes everything"

static const char all_tls[] = "[endpoint:a]\nurl = HTTPS://Box/x/\nhealth_check_url = https://box:8443/h\n"
                              "tls.ca_file = /etc/my ca.pem\ntls.server_name = box.lan\ntls.insecure = yes\n";

static void test_endpoint_tls(void **state)
{
    const struct conf_endpoint *e = &conf.endpoint[0];

    (void)state;
    if (!tls_library()) {
        expect_error("[endpoint:a]\nurl = https://x\n", ":2: endpoint:a.url: https " WITHOUT_TLS ": \"https://x\"; "
                                                        "allowed: http://host[:port][/path] or https://...");
        return;
    }
    expect_warning(all_tls, INSECURE);
    assert_true(e->url.tls && e->health_host.tls && !e->model_host.tls);
    assert_string_equal(e->url.host, "Box");
    assert_string_equal(e->url.authority, "Box");
    assert_string_equal(e->url.path, "/x");
    assert_int_equal(e->url.port, 443);
    assert_string_equal(e->health_host.authority, "box:8443");
    assert_string_equal(e->tls.ca_file, "/etc/my ca.pem");
    assert_string_equal(e->tls.server_name, "box.lan");
    assert_true(e->tls.insecure);

    expect_quiet(
        "[endpoint:a]\nurl = https://[::1]:443\n[endpoint:b]\nurl = https://x:80\n[endpoint:c]\nurl = http://x:443\n");
    assert_string_equal(conf.endpoint[0].url.authority, "[::1]");
    assert_string_equal(conf.endpoint[1].url.authority, "x:80");
    assert_string_equal(conf.endpoint[2].url.authority, "x:443");
    assert_string_equal(e->tls.ca_file, "");
    assert_false(e->tls.insecure);

    expect_warning("[endpoint:a]\nurl = http://x\ntls.server_name = y\n",
                   ":3: endpoint:a.tls.server_name: changes nothing: the url does not begin with https://");
    expect_quiet("[endpoint:a]\nurl = http://x\nmodel_url = https://y/\ntls.server_name = y\n");
}

static const char all_wake[] =
    "[endpoint:a]\nurl = http://x\nwake.mac = 1C:69:7a:0b:C4:2e\nwake.broadcast = 192.0.2.255\n"
    "wake.port = 39\nwake.timeout = 40s\nwake.policy = Prefer\n";

static void test_endpoint_wake(void **state)
{
    static const char *const fine[] = {"1c:69:7a:0b:c4:2e", "1C-69-7A-0B-C4-2E", "1c697a0bc42e"};
    char text[120];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(fine); i++) {
        (void)snprintf(text, sizeof(text), "[endpoint:a]\nurl = http://x\nwake.mac = %s\n", fine[i]);
        expect_quiet(text);
        assert_memory_equal(conf.endpoint[0].wake.mac, "\x1c\x69\x7a\x0b\xc4\x2e", 6);
    }
    expect_quiet(all_wake);
    assert_memory_equal(conf.endpoint[0].wake.mac, "\x1c\x69\x7a\x0b\xc4\x2e", 6);
    assert_string_equal(conf.endpoint[0].wake.broadcast, "192.0.2.255");
    assert_int_equal(conf.endpoint[0].wake.port, 39);
    assert_int_equal(conf.endpoint[0].wake.timeout, 40000);
    assert_int_equal(conf.endpoint[0].wake.policy, WAKE_PREFER);
    expect_quiet("[endpoint:a]\nurl = http://x\n");
    assert_memory_equal(conf.endpoint[0].wake.mac, "\0\0\0\0\0\0", 6);
    assert_string_equal(conf.endpoint[0].wake.broadcast, "255.255.255.255");
    assert_int_equal(conf.endpoint[0].wake.port, 9);
    assert_int_equal(conf.endpoint[0].wake.timeout, 120000);
    assert_int_equal(conf.endpoint[0].wake.policy, WAKE_REQUIRE);
    expect_error("[endpoint:a]\nurl = http://x\nwake.mac = 01:00:5e:00:00:01\n",
                 ":3: endpoint:a.wake.mac: not the address of one network card: \"01:00:5e:00:00:01\"; "
                 "allowed: six bytes in hex, like 1c:69:7a:0b:c4:2e");
    expect_error("[endpoint:a]\nurl = http://x\nwake.mac = 1c697a0bc42e\nwake.broadcast = lan.example\n",
                 ":4: endpoint:a.wake.broadcast: not an address: \"lan.example\"; allowed: an IPv4 or IPv6 address");
    expect_warning("[endpoint:a]\nurl = http://x\nwake.port = 7\n",
                   ":3: endpoint:a.wake.port: changes nothing without wake.mac");
    expect_warning("[endpoint:a]\nurl = http://x\nwake.mac = 1c697a0bc42e\nhealth = passive\n",
                   ":3: endpoint:a.wake.mac: changes nothing: without health = http it is never known to sleep");
    expect_warning("[hooks]\nidle = /bin/x\n", ":2: hooks.idle: changes nothing without hooks.idle_after");
    expect_warning("[hooks]\nidle_after = 5m\n", ":2: hooks.idle_after: changes nothing without hooks.idle");
    expect_error("[hooks]\nup = up.sh\n",
                 ":2: hooks.up: does not begin with /: \"up.sh\"; allowed: the whole path of a "
                 "program, and arguments with blanks between them; or nothing");
}

static void test_server_tls(void **state)
{
    (void)state;
    expect_quiet("[server.tls]\ncert_file = /nowhere\n");
    if (!tls_library()) {
        expect_error("[server.tls]\nenabled = true\n",
                     ":2: server.tls.enabled: this olla was built without TLS (TLS=none)");
        return;
    }
    expect_error("[server.tls]\nenabled = true\ncert_file = x\n",
                 ":2: server.tls: a certificate is needed, and its key; "
                 "allowed: server.tls.cert_file and server.tls.key_file");
    expect_error("[server.tls]\nenabled = true\ncert_file = /nowhere\nkey_file = /nowhere\n",
                 ":3: server.tls: cert_file cannot be read");
    expect_error("[server.tls]\nenabled = true\nkey_file = /dev/null\ncert_file = /dev/null\n",
                 ":4: server.tls: cert_file holds no certificate in PEM form, or a damaged one");
}

/* The reference has a directory instead, in the environment. */
static void test_log_file(void **state)
{
    (void)state;
    (void)setenv("OLLA_LOG_DIR", "/srv/logs", 1);
    expect_quiet("[logging]\noutput = file\n");
    assert_string_equal(conf.logging.file, "/srv/logs/olla.log");
    expect_quiet("[logging]\noutput = file\nfile = mine.log\n");
    assert_string_equal(conf.logging.file, "mine.log");
    (void)setenv("OLLA_LOG_DIR", "", 1);
    expect_quiet("[logging]\noutput = file\n");
    assert_string_equal(conf.logging.file, "logs/olla.log");
    (void)unsetenv("OLLA_LOG_DIR");
    expect_error("[logging]\noutput = file\nfile = \"\"\n",
                 ":3: logging.file: empty while logging.output = file; allowed: a path");
    expect_quiet("[logging]\noutput = syslog\nfile = \"\"\n");
    assert_int_equal(conf.logging.output, LOG_OUTPUT_SYSLOG);
}

/* A row that is added later has to be added to all_settings too. */
static void test_every_row_is_tested(void **state)
{
    char line[80];

    (void)state;
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        const char *dot = conf_kind_of(row) != CONF_SETTINGS ? strchr(row->path, '.') : strrchr(row->path, '.');

        assert_non_null(dot);
        (void)snprintf(line, sizeof(line), "\n%s =", dot + 1);
        if (row->type != CONF_INERT) {
            bool tested = strstr(all_settings, line) || strstr(all_auth, line) || strstr(all_tls, line) ||
                          strstr(all_wake, line);
            for (size_t i = 0; i < OLLA_COUNT(all_auth_files); i++) {
                char key[80];
                (void)snprintf(key, sizeof(key), "\nauth.%s_file =", all_auth_files[i]);
                tested = tested || strcmp(key, line) == 0;
            }
            assert_true(tested);
            assert_non_null(row->allowed);
            assert_true(row->help || row->type == CONF_NOTHING);
        }
    }
}

static void test_inert_keys_are_accepted(void **state)
{
    char text[256];

    (void)state;
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        if (row->type == CONF_INERT) {
            (void)snprintf(text, sizeof(text), "%s = whatever\n%s = again\n", row->path, row->path);
            expect_quiet(text);
        }
    }
    expect_quiet("[server.rate_limits]\nhealth_requests_per_minute = 1\n[proxy.profile_filter]\ninclude = a, b\n");
}

#define RANGES "; allowed: a list of ranges like 10.0.0.0/8, 192.0.2.7/32, fd00::/8"

static void test_ranges_of_addresses(void **state)
{
    char text[1200] = "[server.access]\nallowed_cidrs = 10.0.0.0/8";

    (void)state;
    expect_error("[server.access]\n\nallowed_cidrs = 10.0.0.0/8, 10.0.0.1\n",
                 ":3: server.access.allowed_cidrs: not a range of addresses: \"10.0.0.1\"" RANGES);
    expect_error("[server.rate_limits]\ntrusted_proxy_cidrs = ::1/129\n",
                 ":2: server.rate_limits.trusted_proxy_cidrs: not a range of addresses: \"::1/129\"" RANGES);
    expect_error("server.access.allowed_cidrs = localhost, ::/0\n",
                 ":1: server.access.allowed_cidrs: not a range of addresses: \"localhost\"" RANGES);
    expect_quiet("[server.rate_limits]\ntrusted_proxy_cidrs =\n"); /* nothing is not the default here */
    assert_int_equal(conf.server.rate_limits.trusted_proxy_cidrs.n, 0);
    expect_quiet("[server.access]\nallowed_cidrs = , 10.1.2.3/8 ,, '::1/128',\n");
    assert_int_equal(conf.server.access.allowed_cidrs.n, 2);
    for (int i = 1; i < OLLA_MAX_LIST_ITEMS; i++) {
        strcat(text, "\nallowed_cidrs = 10.0.0.0/8");
    }
    expect_quiet(text);
    assert_int_equal(conf.server.access.allowed_cidrs.n, OLLA_MAX_LIST_ITEMS);
    strcat(text, "\nallowed_cidrs = ::/0");
    expect_error(text,
                 ":18: server.access.allowed_cidrs: more items than OLLA_MAX_LIST_ITEMS, the limit of this build: "
                 "\"::/0\"" RANGES);
}

static void test_dashboard_for_nobody(void **state)
{
    (void)state;
    expect_error(
        "[dashboard.access_policy]\nallowed_cidrs =\n",
        ":2: dashboard.access_policy.allowed_cidrs: empty while dashboard.enabled = true: nobody could open it; "
        "allowed: a list of ranges like 192.168.0.0/16");
    expect_error("[dashboard.access_policy]\nallowed_cidrs = 10.0.0.1\n",
                 ":2: dashboard.access_policy.allowed_cidrs: not a range of addresses: \"10.0.0.1\"" RANGES);
    expect_quiet("[dashboard]\nenabled = false\n[dashboard.access_policy]\nallowed_cidrs =\nallowed_hosts =\n");
    assert_int_equal(conf.dashboard.access_policy.allowed_cidrs.n, 0);
    assert_int_equal(conf.dashboard.access_policy.allowed_hosts.n, 0);
    expect_quiet("[dashboard.access_policy]\nallowed_hosts =\n");
    assert_true(conf.dashboard.enabled);
}

static void test_rates_that_surprise(void **state)
{
    (void)state;
    expect_quiet("[server.rate_limits]\nper_ip_requests_per_minute = 0\n");
    expect_quiet("[server.rate_limits]\nper_ip_requests_per_minute = 0\nglobal_requests_per_minute = 0\n");
    expect_quiet("[server.rate_limits]\nglobal_requests_per_minute = 9\nper_ip_requests_per_minute = 0\n");
    expect_quiet("[server.rate_limits]\nburst_size = 0\n");
    expect_warning("[server.rate_limits]\nburst_size = 0\nper_ip_requests_per_minute = 1\n",
                   ":2: server.rate_limits.burst_size: 0: every proxied request is answered with 429");
    expect_warning("[server.rate_limits]\nburst_size = 0\nglobal_requests_per_minute = 1\n",
                   ":2: server.rate_limits.burst_size: 0: every proxied request is answered with 429");
    expect_quiet("[server.rate_limits]\nburst_size = 0\nper_ip_requests_per_minute = 0\ncleanup_interval = 5m\n");
}

/* ---- environment -------------------------------------------------------- */

static const struct {
    const char *name;
    const char *good;
} variables[] = {
    {"OLLA_SERVER_HOST", "10.0.0.1"},
    {"OLLA_SERVER_PORT", "81"},
    {"OLLA_SERVER_READ_TIMEOUT", "1m"},
    {"OLLA_SERVER_READ_HEADER_TIMEOUT", "2m"},
    {"OLLA_SERVER_WRITE_TIMEOUT", "3m"},
    {"OLLA_SERVER_CORS_ENABLED", "true"},
    {"OLLA_SERVER_CORS_ALLOWED_ORIGINS", "http://a, http://b"},
    {"OLLA_SERVER_CORS_ALLOWED_METHODS", "PUT"},
    {"OLLA_SERVER_CORS_ALLOWED_HEADERS", "X-A"},
    {"OLLA_SERVER_CORS_EXPOSED_HEADERS", "X-B,X-C"},
    {"OLLA_SERVER_CORS_ALLOW_CREDENTIALS", "yes"},
    {"OLLA_SERVER_CORS_MAX_AGE", "7"},
    {"OLLA_SERVER_MAX_BODY_SIZE", "1KB"},
    {"OLLA_SERVER_MAX_HEADER_SIZE", "2KB"},
    {"OLLA_SERVER_GLOBAL_RATE_LIMIT", "40"},
    {"OLLA_SERVER_PER_IP_RATE_LIMIT", "41"},
    {"OLLA_SERVER_RATE_BURST_SIZE", "42"},
    {"OLLA_SERVER_TRUST_PROXY_HEADERS", "T"},
    {"OLLA_SERVER_TRUSTED_PROXY_CIDRS", " ::1/128, 192.0.2.0/24 "},
    {"OLLA_PROXY_ENGINE", "sherpa"},
    {"OLLA_PROXY_LOAD_BALANCER", "round-robin"},
    {"OLLA_PROXY_CONNECTION_KEEP_ALIVE", "4m"},
    {"OLLA_PROXY_RESPONSE_HEADER_TIMEOUT", "5m"},
    {"OLLA_PROXY_READ_TIMEOUT", " 6m "},
    {"OLLA_PROXY_PROFILE", "Streaming"},
    {"OLLA_PROXY_STICKY_SESSIONS_ENABLED", "off"},
    {"OLLA_TRANSLATORS_ANTHROPIC_ENABLED", "false"},
    {"OLLA_TRANSLATORS_ANTHROPIC_PASSTHROUGH_ENABLED", "false"},
    {"OLLA_TRANSLATORS_ANTHROPIC_MAX_MESSAGE_SIZE", "4MB"},
    {"OLLA_LOGGING_LEVEL", "WARNING"},
    {"OLLA_LOGGING_FORMAT", "text"},
    {"OLLA_LOGGING_OUTPUT", "syslog"},
};

static void unset_all(void)
{
    for (size_t i = 0; i < OLLA_COUNT(variables); i++) {
        (void)unsetenv(variables[i].name);
    }
}

/* A list of the environment takes the place of the file's. */
static void check_cors_environment(void)
{
    assert_true(conf.server.cors.enabled);
    assert_int_equal(conf.server.cors.allowed_origins.n, 2);
    assert_string_equal(conf.server.cors.allowed_origins.item[1], "http://b");
    assert_int_equal(conf.server.cors.allowed_methods.n, 1);
    assert_string_equal(conf.server.cors.allowed_methods.item[0], "PUT");
    assert_int_equal(conf.server.cors.allowed_headers.n, 1);
    assert_int_equal(conf.server.cors.exposed_headers.n, 2);
    assert_true(conf.server.cors.allow_credentials);
    assert_int_equal(conf.server.cors.max_age, 7);
}

static void test_environment(void **state)
{
    size_t in_table = 0;

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(variables); i++) {
        (void)setenv(variables[i].name, variables[i].good, 1);
    }
    expect_quiet("[server]\nport = 9\nhost = elsewhere\nrate_limits.trusted_proxy_cidrs = 10.0.0.0/8\n"
                 "[server.cors]\nallowed_origins = http://c\n[logging]\nformat = json\nlevel = error\n");
    unset_all();
    assert_string_equal(conf.server.host, "10.0.0.1");
    assert_int_equal(conf.server.port, 81);
    assert_int_equal(conf.server.read_timeout, 60000);
    assert_int_equal(conf.server.read_header_timeout, 120000);
    assert_int_equal(conf.server.write_timeout, 180000);
    check_cors_environment();
    assert_int_equal(conf.server.max_body_size, 1024);
    assert_int_equal(conf.server.max_header_size, 2048);
    assert_int_equal(conf.server.rate_limits.global_requests_per_minute, 40);
    assert_int_equal(conf.server.rate_limits.per_ip_requests_per_minute, 41);
    assert_int_equal(conf.server.rate_limits.burst_size, 42);
    assert_true(conf.server.rate_limits.trust_proxy_headers);
    assert_int_equal(conf.server.rate_limits.trusted_proxy_cidrs.n, 2); /* in place of what the file says */
    assert_int_equal(conf.proxy.engine, ENGINE_SHERPA);
    assert_int_equal(conf.proxy.load_balancer, BALANCE_ROUND_ROBIN);
    assert_int_equal(conf.proxy.connection_keep_alive, 240000);
    assert_int_equal(conf.proxy.response_header_timeout, 300000);
    assert_int_equal(conf.proxy.read_timeout, 360000);
    assert_int_equal(conf.proxy.profile, RELAY_STREAMING);
    assert_false(conf.proxy.sticky_sessions.enabled);
    assert_false(conf.translators.anthropic.enabled);
    assert_false(conf.translators.anthropic.passthrough_enabled);
    assert_int_equal(conf.translators.anthropic.max_message_size, 4194304);
    assert_int_equal(conf.logging.level, LOG_LEVEL_WARN);
    assert_int_equal(conf.logging.format, LOG_FORMAT_TEXT);
    assert_int_equal(conf.logging.output, LOG_OUTPUT_SYSLOG);
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        in_table += row->env != NULL;
    }
    assert_int_equal(in_table, OLLA_COUNT(variables));
}

static void test_environment_empty_and_wrong(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(variables); i++) {
        (void)setenv(variables[i].name, "", 1);
    }
    expect_quiet("");
    check_default_settings();
    for (size_t i = 0; i < OLLA_COUNT(variables); i++) {
        char start[80];

        unset_all();
        (void)snprintf(start, sizeof(start), "environment: %s: ", variables[i].name);
        (void)setenv(variables[i].name, "a b\n", 1);
        assert_int_equal(load(""), OLLA_ERR);
        assert_int_equal(message_count, 1);
        assert_true(starts_with(messages[0], start));
    }
    unset_all();
    (void)setenv("OLLA_SERVER_PORT", "70000", 1);
    expect_error("", "environment: OLLA_SERVER_PORT: wrong value: \"70000\"; "
                     "allowed: a whole number from 1 to 65535");
    (void)setenv("OLLA_SERVER_PORT", "1\x01", 1);
    expect_error("", "environment: OLLA_SERVER_PORT: wrong value: \"1?\"; "
                     "allowed: a whole number from 1 to 65535");
    unset_all();
}

/* ---- how values are written --------------------------------------------- */

static void test_comments_and_quotes(void **state)
{
    (void)state;
    expect_quiet("[server]\nport = 81 ; why\nhost = \"h\" # why\nread_timeout = '2s'\nroot_api = no\t;x\n"
                 "[proxy]\nload_balancer: priority # x\nspool_dir = \"/a b ; c # d\"\n"
                 "[endpoint:x]\nurl: \"http://x\"\ntype = ollama#1\n");
    assert_int_equal(conf.server.port, 81);
    assert_string_equal(conf.server.host, "h");
    assert_int_equal(conf.server.read_timeout, 2000);
    assert_false(conf.server.root_api);
    assert_int_equal(conf.proxy.load_balancer, BALANCE_PRIORITY);
    assert_string_equal(conf.proxy.spool_dir, "/a b ; c # d");
    assert_string_equal(conf.endpoint[0].url.host, "x");
    assert_string_equal(conf.endpoint[0].type, "ollama#1");
    expect_quiet("[proxy]\nspool_dir = \"/a b\" ; comment\n");
    assert_string_equal(conf.proxy.spool_dir, "/a b");
    expect_quiet("[proxy]\nspool_dir = /a;b#c\n");
    assert_string_equal(conf.proxy.spool_dir, "/a;b#c");
}

static void test_free_text_keeps_comments(void **state)
{
    (void)state;
    expect_warning("[proxy]\nspool_dir = /a ; b\n",
                   ":2: proxy.spool_dir: all of the line belongs to this text, comments too; put the text in quotes");
    assert_string_equal(conf.proxy.spool_dir, "/a ; b");
    expect_warning("\n[endpoint:a]\nurl = http://x\nname = n # 1\n",
                   ":4: endpoint:a.name: all of the line belongs to this text, comments too; put the text in quotes");
    assert_string_equal(conf.endpoint[0].name, "n # 1");
}

static void test_empty_values(void **state)
{
    (void)state;
    expect_quiet("[server]\nhost =\nport =\nroot_api = ; default\n[proxy]\nspool_dir =\n[logging]\nlevel = # x\n");
    check_default_settings();
    expect_quiet("[server]\nhost = \"\"\n[proxy]\nspool_dir = ''\n[proxy.retry]\non_status =\n");
    assert_string_equal(conf.server.host, "");
    assert_string_equal(conf.proxy.spool_dir, "");
    assert_int_equal(conf.proxy.retry.on_status_n, 0);
    expect_quiet("[endpoint:a]\nurl = http://x\nhealth_check_url =\nmodel_url = \"\"\ntype =\n");
    assert_string_equal(conf.endpoint[0].health_check_url, "");
    assert_string_equal(conf.endpoint[0].model_url, "");
    assert_string_equal(conf.endpoint[0].type, "");
    expect_error("[server]\nport = \"\"\n",
                 ":2: server.port: wrong value: \"\"; allowed: a whole number from 1 to 65535");
}

static void check_statuses(const char *text, int n, uint16_t first, uint16_t last)
{
    expect_quiet(text);
    assert_int_equal(conf.proxy.retry.on_status_n, n);
    assert_int_equal(conf.proxy.retry.on_status[0], first);
    assert_int_equal(conf.proxy.retry.on_status[n - 1], last);
}

static void test_lists(void **state)
{
    (void)state;
    check_statuses("[proxy.retry]\non_status = 500\n", 1, 500, 500);
    check_statuses("[proxy.retry]\non_status = [500, 501]  # x\n", 2, 500, 501);
    check_statuses("[proxy.retry]\non_status = [\"500\", '501', 502,]\n", 3, 500, 502);
    check_statuses("[proxy.retry]\non_status = \"500\", \"501\"\n", 2, 500, 501);
    check_statuses("[proxy.retry]\non_status = \"500, 501\"\n", 2, 500, 501);
    check_statuses("[proxy.retry]\non_status = 500,,501 ; x\n\non_status = 502\n", 3, 500, 502);
    check_statuses("[proxy.retry]\non_status =\non_status = 502\n", 1, 502, 502);
    expect_error("[proxy.retry]\non_status = 500, 50x, 501\n", ":2: proxy.retry.on_status: not a status code: \"50x\"; "
                                                               "allowed: a list of status codes from 400 to 599");
    expect_error("[proxy.retry]\non_status = 200\n", ":2: proxy.retry.on_status: not a status code: \"200\"; "
                                                     "allowed: a list of status codes from 400 to 599");
    expect_error("[proxy.retry]\non_status = 500,500,500,500,500,500,500,500,500,500,500,500,500,500,500,500\n"
                 "on_status = 501\n",
                 ":3: proxy.retry.on_status: more items than OLLA_MAX_LIST_ITEMS, the limit of this build: \"501\"; "
                 "allowed: a list of status codes from 400 to 599");
}

/* Lists of words: each once, and repeated lines add to it. */
static void test_lists_of_words(void **state)
{
    const struct conf_endpoint *e = &conf.endpoint[0];

    (void)state;
    expect_quiet("[endpoint:a]\nurl = http://x\nserves = [\"Chat\", 'images'], chat ; x\nserves = embeddings\n"
                 "[endpoint:b]\nurl = http://x\nserves = audio\n[endpoint:c]\nurl = http://x\nserves =\n");
    assert_int_equal(e[0].serves_n, 3);
    assert_int_equal(e[0].serves[0], SERVES_CHAT);
    assert_int_equal(e[0].serves[1], SERVES_IMAGES);
    assert_int_equal(e[0].serves[2], SERVES_EMBEDDINGS);
    assert_int_equal(e[1].serves_n, 1); /* a list of its own */
    assert_int_equal(e[1].serves[0], SERVES_AUDIO);
    assert_int_equal(e[2].serves_n, 0);
    expect_quiet("[endpoint:a]\nurl = http://x\nserves = chat, embeddings, audio, images, rerank, chat\n");
    assert_int_equal(e[0].serves_n, SERVES_KINDS);
    expect_quiet("[proxy.sticky_sessions]\nkey_sources =\n"); /* nothing is not the default here */
    assert_int_equal(conf.proxy.sticky_sessions.key_sources_n, 0);
    expect_error("[endpoint:a]\nurl = http://x\nserves = chat, video\n",
                 ":3: endpoint:a.serves: not one of the words: \"video\"; "
                 "allowed: chat, embeddings, audio, images, rerank");
}

#define ON "[server.cors]\nenabled = true\n"

static void test_cors(void **state)
{
    static char text[2000] = ON "exposed_headers = ";

    (void)state;
    expect_quiet("[server.cors]\nallowed_origins =\nallow_credentials = true\n"); /* it is off */
    expect_quiet(ON "allowed_methods =\nallowed_headers = \"\"\nallowed_origins = *, http://x\n");
    assert_int_equal(conf.server.cors.allowed_methods.n, 0);
    assert_int_equal(conf.server.cors.allowed_headers.n, 0);
    assert_int_equal(conf.server.cors.allowed_origins.n, 2);
    expect_error(ON "allowed_origins =\n", ":3: server.cors.allowed_origins: empty while server.cors.enabled = true; "
                                           "allowed: a list of origins like https://chat.example.com, or *");
    expect_error(ON "allowed_origins = http://*.*\n", ":3: server.cors.allowed_origins: more than one *: "
                                                      "\"http://*.*\"; allowed: one * in each origin");
    expect_error(ON "allowed_origins = http://a b\n",
                 ":3: server.cors.allowed_origins: not visible ASCII characters without blanks: \"http://a b\"; "
                 "allowed: a list of origins like https://chat.example.com, or *");
    expect_error(
        ON "allow_credentials = true\n",
        ":3: server.cors.allow_credentials: not together with the origin *: any page could act for its reader; "
        "allowed: the origins that are meant, in server.cors.allowed_origins");
    expect_error(
        ON "allow_credentials = true\nallowed_origins = http://a, *\n",
        ":3: server.cors.allow_credentials: not together with the origin *: any page could act for its reader; "
        "allowed: the origins that are meant, in server.cors.allowed_origins");
    expect_error(ON "exposed_headers = X:Y\n", ":3: server.cors.exposed_headers: not a name: \"X:Y\"; "
                                               "allowed: letters, digits and !#$%&'*+-.^_`|~");
    expect_error(ON "allowed_methods = GE/T\n", ":3: server.cors.allowed_methods: not a name: \"GE/T\"; "
                                                "allowed: letters, digits and !#$%&'*+-.^_`|~");
    expect_error(ON "allowed_methods = GET, *\n", ":3: server.cors.allowed_methods: * is no method; "
                                                  "allowed: the methods by name, like GET, POST, OPTIONS");
    expect_error(ON "max_age = -1\n", ":3: server.cors.max_age: wrong value: \"-1\"; "
                                      "allowed: a whole number from 0 to 2000000000");
    for (int i = 0; i < 4; i++) {
        char more[200] = "exposed_headers = ";
        memset(more + strlen(more), 'x', 150);
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s\n", i == 0 ? "X" : more);
    }
    expect_quiet(text);
    (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "exposed_headers = %s\n",
                   "X-Forty-Bytes-And-More-Of-Something-Else-That-Is-Long");
    expect_error(text, ":7: server.cors.exposed_headers: too long; it goes into every reply, and all of it may have so "
                       "many bytes: 512");
}

static void test_layout_of_lines(void **state)
{
    static const char text[] = "\xef\xbb\xbf[server]\r\n  host = h\r\n\tport = 81\r\n\r\n"
                               "  [logging] ; x\r\n    level=warn";
    static const char plain[] = "\xef\xbb\xbfserver.port = 82";

    (void)state;
    expect_quiet(text);
    assert_string_equal(conf.server.host, "h");
    assert_int_equal(conf.server.port, 81);
    assert_int_equal(conf.logging.level, LOG_LEVEL_WARN);
    expect_quiet(plain);
    assert_int_equal(conf.server.port, 82);
    expect_quiet("[ proxy ]\nretry.enabled = false\n[server]\nport = 3\n[proxy]\nengine = OLLA\n");
    assert_false(conf.proxy.retry.enabled);
}

/* ---- what is refused ---------------------------------------------------- */

static void test_wrong_values(void **state)
{
    (void)state;
    expect_error("[server]\nport = 70000\n",
                 ":2: server.port: wrong value: \"70000\"; allowed: a whole number from 1 to 65535");
    expect_error("[server]\n\nport = 0\n",
                 ":3: server.port: wrong value: \"0\"; allowed: a whole number from 1 to 65535");
    expect_error("[server]\nroot_api = maybe\n", ":2: server.root_api: wrong value: \"maybe\"; allowed: true or false");
    expect_error("[server]\nread_timeout = 30\n", ":2: server.read_timeout: wrong value: \"30\"; "
                                                  "allowed: a duration of 0 or more (like 300ms, 30s, 1h30m)");
    expect_error("[server]\nread_timeout = -5s\n", ":2: server.read_timeout: wrong value: \"-5s\"; "
                                                   "allowed: a duration of 0 or more (like 300ms, 30s, 1h30m)");
    expect_quiet("[server]\nread_timeout = 0\n");
    assert_int_equal(conf.server.read_timeout, 0);
    assert_int_equal(conf.server.idle_timeout, 0);
    expect_error("[server.request_limits]\nmax_body_size = 100XB\n",
                 ":2: server.request_limits.max_body_size: wrong value: \"100XB\"; "
                 "allowed: a size of 0 or more (bytes, or like 64KB, 100MB)");
    expect_error("[proxy]\nload_balancer = fastest\n", ":2: proxy.load_balancer: wrong value: \"fastest\"; "
                                                       "allowed: least-connections, round-robin, priority");
    expect_error("[server]\nhost = a b\n",
                 ":2: server.host: blanks or control characters: \"a b\"; allowed: a name or an address");
    expect_error("[discovery]\ntype = dns\n", ":2: discovery.type: wrong value: \"dns\"; allowed: static");
    expect_error("[discovery.static]\nendpoints = http://x\n",
                 ":2: discovery.static.endpoints: wrong value: \"http://x\"; "
                 "allowed: nothing; endpoints are written as [endpoint:NAME] sections");
    expect_error("discovery.model_discovery.concurrent_workers = 0\n",
                 ":1: discovery.model_discovery.concurrent_workers: wrong value: \"0\"; "
                 "allowed: more than 0 while model discovery is enabled");
    expect_quiet("[discovery.model_discovery]\nconcurrent_workers = 0\ninterval = 0\nenabled = false\n");
}

static void test_set_twice(void **state)
{
    (void)state;
    expect_error("[server]\nport = 1\n\n[proxy]\n[server]\nport = 2\n",
                 ":6: server.port: set twice; one has to go, the first is in line 2");
    assert_int_equal(conf.server.port, 1);
    expect_error("[server]\nport = 1\nport =\n", ":3: server.port: set twice; one has to go, the first is in line 2");
    expect_error("[endpoint:a]\nurl = http://x\nurl = http://x\n",
                 ":3: endpoint:a.url: set twice; one has to go, the first is in line 2");
}

static void test_unknown_names(void **state)
{
    (void)state;
    expect_warning("[server]\nprot = 1\n", ":2: server.prot: unknown key, ignored");
    expect_warning("[server.rate]\nenabled = 1\nmax_age = 2\n",
                   ":1: unknown section, ignored with all its keys: \"server.rate\"");
    expect_warning("[endpoints]\nx = 1\n[server]\nport = 5\n",
                   ":1: unknown section, ignored with all its keys: \"endpoints\"");
    assert_int_equal(conf.server.port, 5);
    expect_warning("[endpoint:a]\nurl = http://x\nwieght = 2\n", ":3: endpoint:a.wieght: unknown key, ignored");
    expect_warning("port = 5\n", ":1: port: unknown key, ignored");
    assert_int_equal(load("[server]\na = 1\nb = 2\n[x]\nc = 3\n"), OLLA_OK);
    assert_int_equal(conf.warnings, 3);
}

static void test_broken_lines(void **state)
{
    static const char nul[] = "[server]\nport\0 = 1\n";

    (void)state;
    expect_error("[server]\nport\n", ":2: neither [section] nor key = value");
    expect_error("[server]\n= 5\n", ":2: neither [section] nor key = value");
    expect_error("[server]\nport ; = 5\n", ":2: neither [section] nor key = value");
    expect_error("[server]\nport #x = 5\n", ":2: neither [section] nor key = value");
    expect_error("[server\nport = 5\n", ":1: not a section line; it looks like [name], without ; in the name");
    expect_error("[server] x\n", ":1: not a section line; it looks like [name], without ; in the name");
    expect_error("[]\n", ":1: not a section line; it looks like [name], without ; in the name");
    expect_error("[a ; b]\n", ":1: not a section line; it looks like [name], without ; in the name");
    expect_error("[server]\nhost = a\x01\n",
                 ":2: a control character; only plain text is allowed, the rest was not read");
    expect_error("[server]\nho\rst = a\n", ":2: a carriage return inside the line; it can only stand at its end");
    assert_int_equal(load_bytes(nul, sizeof(nul) - 1), OLLA_ERR);
    assert_string_equal(messages[0], ":2: a control character; only plain text is allowed, the rest was not read");
}

static void add(char *to, const char *more)
{
    memcpy(to + strlen(to), more, strlen(more) + 1);
}

/* A line of exactly n bytes that starts with start. */
static void add_line(char *to, const char *start, size_t n)
{
    size_t have = strlen(to);

    memset(to + have, 'x', n);
    memcpy(to + have, start, strlen(start));
    memcpy(to + have + n, "\n", 2);
}

static void test_long_lines(void **state)
{
    static char text[8192];

    (void)state;
    add(text, "[proxy]\n");
    add_line(text, "spool_dir = ", 190);
    add_line(text, ";", 3000);
    expect_quiet(text);
    assert_int_equal(strlen(conf.proxy.spool_dir), 178);

    memcpy(text, "[proxy]\n", 9);
    add_line(text, "spool_dir = ", 1025);
    add(text, "engine = bad\n");
    assert_int_equal(load(text), OLLA_ERR);
    assert_int_equal(message_count, 2);
    assert_string_equal(messages[0],
                        ":2: the line is too long (a list goes on by repeating its key); the most bytes are 190");
    assert_true(starts_with(messages[1], ":3: proxy.engine: "));
}

/* Whatever the length is, a line is either taken whole or refused. */
static void test_no_line_is_cut(void **state)
{
    static char text[8192];
    bool refused = false;

    (void)state;
    for (size_t n = 20; n < 1200; n++) {
        memcpy(text, "[proxy]\n", 9);
        add_line(text, "spool_dir = ", n);
        if (load(text) == OLLA_OK) {
            assert_false(refused);
            assert_int_equal(message_count, 0);
            assert_int_equal(strlen(conf.proxy.spool_dir), n - strlen("spool_dir = "));
        } else {
            refused = true;
            assert_int_equal(message_count, 1);
        }
    }
    assert_true(refused);
}

static void test_section_names(void **state)
{
    static const char name[] = "a name that is longer than libinih keeps of it, 123456789012345678901234567890";
    char text[160];

    (void)state;
    (void)snprintf(text, sizeof(text), "[endpoint:%s]\nurl = http://x\n", name);
    expect_quiet(text);
    assert_string_equal(conf.endpoint[0].name, name);
    assert_string_equal(conf.endpoint[0].url.host, "x");
}

static void test_many_errors(void **state)
{
    static char text[4096];

    (void)state;
    text[0] = '\0';
    for (int i = 0; i < 100; i++) {
        add(text, "no sense\n");
    }
    assert_int_equal(load(text), OLLA_ERR);
    assert_int_equal(message_count, 21);
    assert_string_equal(messages[20], ":20: too many errors; the rest was not read");
    assert_int_equal(load("[server]\nport = x\nhost = a b\n[proxy]\nengine = y\n[endpoint:a]\n"), OLLA_ERR);
    assert_int_equal(message_count, 4);
}

static void test_unreadable(void **state)
{
    (void)state;
    message_count = 0;
    assert_int_equal(conf_load(&conf, "/nowhere/at/all.ini", collect), OLLA_ERR);
    assert_int_equal(message_count, 1);
    assert_true(starts_with(messages[0], "/nowhere/at/all.ini: "));
    message_count = 0;
    assert_int_equal(conf_load(&conf, dir, collect), OLLA_ERR);
    assert_int_equal(message_count, 1);
    assert_true(starts_with(messages[0], dir));
    message_count = 0;
    assert_int_equal(conf_load(&conf, "/dev/zero", collect), OLLA_ERR);
    assert_string_equal(messages[0],
                        "/dev/zero:1: a control character; only plain text is allowed, the rest was not read");
}

/* ---- limits ------------------------------------------------------------- */

static void test_host_with_a_port(void **state)
{
    static const char *const wrong[] = {"0.0.0.0:8080", "localhost:80", "h:",  ":8080",
                                        "[::1]:8080",   "http://h",     "[::1"};
    static const char *const good[] = {"::", "[::]",     "::1", "fe80::1%eth0", "::ffff:192.0.2.1", "[2001:db8::1]",
                                       "h",  "192.0.2.1"};
    char text[80], message[160];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(wrong); i++) {
        (void)snprintf(text, sizeof(text), "[server]\nhost = %s\n", wrong[i]);
        (void)
            snprintf(message, sizeof(message),
                     ":2: server.host: no host alone: the port is a setting of its own, server.port: \"%s\"; allowed: "
                     "a name or an address",
                     wrong[i]);
        expect_error(text, message);
    }
    for (size_t i = 0; i < OLLA_COUNT(good); i++) {
        (void)snprintf(text, sizeof(text), "[server]\nhost = %s\n", good[i]);
        expect_quiet(text);
    }
}

static void test_header_size(void **state)
{
    char text[80];

    (void)state;
    assert_int_equal(load("[server]\nrequest_limits.max_header_size = 1048576\n"), OLLA_OK);
    assert_int_equal(conf.warnings, 1);
    assert_true(starts_with(messages[0], ":2: server.request_limits.max_header_size: out of range, taken as "));
    assert_non_null(strstr(messages[0], ": \"1048576\"; allowed: a size from 1024 to "));
    assert_int_equal(conf.server.max_header_size, OLLA_MAX_HEAD);
    assert_int_equal(load("[server]\nrequest_limits.max_header_size = 1\n"), OLLA_OK);
    assert_int_equal(conf.warnings, 1);
    assert_int_equal(conf.server.max_header_size, 1024);
    (void)snprintf(text, sizeof(text), "server.request_limits.max_header_size = %d", OLLA_MAX_HEAD);
    expect_quiet(text);
    expect_quiet("[server]\nrequest_limits.max_header_size = 0\n");
    assert_int_equal(conf.server.max_header_size, OLLA_MAX_HEAD);
}

static void test_zero_is_default(void **state)
{
    (void)state;
    expect_quiet("[server]\nread_header_timeout = 0s\nread_timeout = 7s\n[proxy]\nconnection_timeout = 0\n"
                 "connection_keep_alive = 0\nresponse_header_timeout = 0\nread_timeout = 0\n");
    assert_int_equal(conf.server.read_header_timeout, 10000);
    assert_int_equal(conf.server.idle_timeout, 7000);
    assert_int_equal(conf.proxy.connection_timeout, 5000);
    assert_int_equal(conf.proxy.connection_keep_alive, 30000);
    assert_int_equal(conf.proxy.response_header_timeout, 600000);
    assert_int_equal(conf.proxy.read_timeout, 600000);
}

static void test_text_is_full(void **state)
{
    static char text[OLLA_MAX_ENDPOINTS * 16 * 200 + OLLA_CONF_TEXT];
    int rc;
    int keys = 0;

    (void)state;
    text[0] = '\0';
    for (int i = 0; i < OLLA_MAX_ENDPOINTS && keys * 150 < OLLA_CONF_TEXT + 1000; i++) {
        (void)snprintf(text + strlen(text), 40, "[endpoint:%d]\n", i);
        add_line(text, "url = http://x/", 190);
        add_line(text, "type = ", 190);
        add_line(text, "model_url = /", 190);
        add_line(text, "health_check_url = y", 190);
        keys += 4;
    }
    rc = load(text);
    if (conf.text_n + 400 < OLLA_CONF_TEXT) {
        skip(); /* a build with more text than its endpoints can fill */
    }
    assert_int_equal(rc, OLLA_ERR);
    assert_true(message_count > 0);
    assert_non_null(strstr(messages[0], ": no room left; the bytes of all texts together are limited to "
                                        "OLLA_CONF_TEXT = "));
    assert_true(messages[0][0] == ':');
}

/* ---- endpoints ---------------------------------------------------------- */

static void test_endpoint_sections(void **state)
{
    (void)state;
    expect_quiet("[endpoint:a]\nurl = http://a\n[endpoint \"b b\"]\nurl = http://b\n[ endpoint : c ]\nurl = http://a\n"
                 "[endpoint 'd']\nname = e\nurl = http://d\n[server]\nport = 2\n");
    assert_int_equal(conf.endpoints, 4);
    assert_int_equal(conf.server.port, 2);
    assert_string_equal(conf.endpoint[0].name, "a");
    assert_string_equal(conf.endpoint[1].name, "b b");
    assert_string_equal(conf.endpoint[2].name, "c");
    assert_string_equal(conf.endpoint[3].name, "e");
    assert_int_equal(conf.endpoint[3].line, 7);
    assert_string_equal(conf.endpoint[2].url.text, "http://a");
    assert_int_equal(conf.endpoint[2].priority, 100);
}

static void test_endpoint_names(void **state)
{
    (void)state;
    expect_error("[endpoint:a]\nurl = http://a\n[server]\n[endpoint:a]\nurl = http://b\n",
                 ":4: endpoint:a: this name is taken by the endpoint in line 1");
    expect_error("[endpoint:a]\nurl = http://a\n[endpoint:b]\nname = a\nurl = http://b\n",
                 ":3: endpoint:a: this name is taken by the endpoint in line 1");
    expect_error("[endpoint:]\nurl = bad\n", ":1: an endpoint section without a name; it looks like [endpoint:NAME]");
    expect_error("[endpoint]\nurl = bad\n", ":1: an endpoint section without a name; it looks like [endpoint:NAME]");
    expect_error("[endpoint:a]\nurl = http://a\nname = \"\"\n", ":1: endpoint:.name: empty; an endpoint needs a name");
}

static void test_endpoint_url_missing(void **state)
{
    (void)state;
    expect_error("\n[endpoint:a]\n", ":2: endpoint:a.url: missing; allowed: http://host[:port][/path] or https://...");
    expect_error("[endpoint:a]\n[server]\n",
                 ":1: endpoint:a.url: missing; allowed: http://host[:port][/path] or https://...");
    expect_error("[endpoint:a]\nurl =\n", ":2: endpoint:a.url: does not start with http:// or https://: \"\"; allowed: "
                                          "http://host[:port][/path] or https://...");
}

static void test_no_endpoints(void **state)
{
    (void)state;
    expect_quiet("[discovery.static]\nendpoints =\n");
    assert_int_equal(conf.endpoints, 0);
    expect_quiet("[discovery.static]\nendpoints = []\n");
    assert_int_equal(conf.endpoints, 0);
    expect_quiet("[discovery]\ntype = static\n");
    check_builtin_endpoint();
}

static void test_too_many_endpoints(void **state)
{
    static char text[(OLLA_MAX_ENDPOINTS + 2) * 48];
    char message[120];

    (void)state;
    text[0] = '\0';
    for (int i = 0; i < OLLA_MAX_ENDPOINTS; i++) {
        (void)snprintf(text + strlen(text), 48, "[endpoint:%d]\nurl = http://x:%d\n", i, i + 1);
    }
    expect_quiet(text);
    assert_int_equal(conf.endpoints, OLLA_MAX_ENDPOINTS);
    assert_int_equal(conf.endpoint[OLLA_MAX_ENDPOINTS - 1].url.port, OLLA_MAX_ENDPOINTS);
    add(text, "[endpoint:m]\nurl = bad\n");
    (void)snprintf(message, sizeof(message),
                   ":%d: too many endpoints; this build is limited to OLLA_MAX_ENDPOINTS = %d",
                   2 * OLLA_MAX_ENDPOINTS + 1, OLLA_MAX_ENDPOINTS);
    expect_error(text, message);
}

static void check_times(const char *keys, int64_t interval, int64_t timeout)
{
    char text[160];

    (void)snprintf(text, sizeof(text), "[endpoint:a]\nurl = http://x\n%s\n", keys);
    expect_quiet(text);
    assert_int_equal(conf.endpoint[0].check_interval, interval);
    assert_int_equal(conf.endpoint[0].check_timeout, timeout);
}

static void test_endpoint_times(void **state)
{
    (void)state;
    check_times("", 5000, 2000);
    check_times("check_interval = 2s\ncheck_timeout = 1s", 2000, 1000);
    check_times("check_interval = 0\ncheck_timeout = 0", 5000, 2000);
    check_times("check_interval = 2s", 2000, 1000);
    check_times("check_interval = 1s", 1000, 500);
    check_times("check_interval = 1m", 60000, 2000);
    check_times("check_timeout = 30s\ncheck_interval = 60s", 60000, 30000);
    expect_error("[endpoint:a]\nurl = http://x\ncheck_interval = 2s\ncheck_timeout = 2s\n",
                 ":4: endpoint:a.check_timeout: too long, in milliseconds: 2000; allowed: less than check_interval");
    expect_error("[endpoint:a]\nurl = http://x\ncheck_interval = 500ms\n",
                 ":3: endpoint:a.check_interval: wrong value: \"500ms\"; "
                 "allowed: a duration of 1s or more, or 0 for the default (like 300ms, 30s, 1h30m)");
    expect_error("[endpoint:a]\nurl = http://x\ncheck_interval = 60s\ncheck_timeout = 31s\n",
                 ":4: endpoint:a.check_timeout: wrong value: \"31s\"; "
                 "allowed: a duration from 0 to 30s (like 300ms, 30s, 1h30m)");
    expect_error("[endpoint:a]\nurl = http://x\npriority = -1\n",
                 ":3: endpoint:a.priority: wrong value: \"-1\"; allowed: a whole number from 0 to 1000000");
}

static void test_endpoint_targets(void **state)
{
    (void)state;
    expect_quiet("[endpoint:a]\nurl = http://x\nhealth_check_url = up?x=http://y\nmodel_url = api/tags ; x\n");
    assert_string_equal(conf.endpoint[0].health_check_url, "/up?x=http://y");
    assert_string_equal(conf.endpoint[0].model_url, "/api/tags");
    expect_error("[endpoint:a]\nurl = http://x\nmodel_url = /a#b\n",
                 ":3: endpoint:a.model_url: a fragment (#...) is not accepted: \"/a#b\"; "
                 "allowed: /path or http(s)://host[:port]/path");
    expect_error("[endpoint:a]\nurl = http://x\nmodel_url = https://u:secret@y/\n",
                 ":3: endpoint:a.model_url: user name and password are not accepted in a URL; "
                 "allowed: /path or http(s)://host[:port]/path");
}

/* ---- profiles ----------------------------------------------------------- */

static void check_profile_is_unset(const struct conf_profile *p)
{
    assert_int_equal(p->prefixes.n, 0);
    assert_null(p->health_check_path);
    assert_null(p->model_discovery_path);
    assert_int_equal(p->response_format, -1);
    assert_int_equal(p->openai_compatible, -1);
    assert_null(p->openai_base);
    assert_null(p->messages_path);
    assert_int_equal(p->idle_timeout, -1);
}

static void test_profile_sections(void **state)
{
    (void)state;
    expect_quiet("[profile:a]\n[profile \"b b\"]\n[ profile : c ]\nopenai_base = /c\nprefixes = c1\n"
                 "[endpoint:a]\nurl = http://x\n[profile 'd']\nprefixes = d1\nopenai_base = /d\n[server]\nport = 2\n");
    assert_int_equal(conf.profiles, 4);
    assert_int_equal(conf.endpoints, 1);
    assert_int_equal(conf.server.port, 2);
    assert_string_equal(conf.profile[0].name, "a");
    assert_string_equal(conf.profile[1].name, "b b");
    assert_string_equal(conf.profile[2].name, "c");
    assert_string_equal(conf.profile[3].name, "d");
    check_profile_is_unset(&conf.profile[0]);
    check_profile_is_unset(&conf.profile[1]);
    assert_string_equal(conf.profile[2].openai_base, "/c");
    assert_string_equal(conf.profile[3].openai_base, "/d");
    assert_int_equal(conf.profile[3].prefixes.n, 1); /* a list of its own */
    assert_int_equal(conf.profile[0].line, 1);
    assert_int_equal(conf.profile[3].line, 8);
    expect_quiet("[profile:a]\n");
    check_builtin_endpoint(); /* a profile alone is no endpoint */
    expect_quiet("");
    assert_int_equal(conf.profiles, 0);
}

static void test_profile_names(void **state)
{
    (void)state;
    expect_error("[profile:a]\n[server]\n[profile:A]\n", ":3: profile:A: this name is taken by the profile in line 1");
    expect_error("[profile:a]\n[profile:b]\n[profile:a]\nopenai_base = /x\n[server]\n",
                 ":3: profile:a: this name is taken by the profile in line 1");
    expect_error("[profile:]\nopenai_base = /x\n",
                 ":1: a profile section without a name; it looks like [profile:NAME]");
    expect_error("[profile]\nbad = 1\n", ":1: a profile section without a name; it looks like [profile:NAME]");
    expect_warning("[profiles:a]\nx = 1\n", ":1: unknown section, ignored with all its keys: \"profiles:a\"");
}

static void test_profile_keys(void **state)
{
    (void)state;
    expect_warning("\n[profile:a]\nprefix = b\n", ":3: profile:a.prefix: unknown key, ignored");
    expect_warning("[profile:a]\nname = b\n", ":2: profile:a.name: unknown key, ignored");
    expect_warning("[profile:a]\nurl = http://x\n", ":2: profile:a.url: unknown key, ignored");
    expect_warning("[endpoint:a]\nurl = http://x\nopenai_base = /x\n",
                   ":3: endpoint:a.openai_base: unknown key, ignored");
    expect_warning("profile.openai_base = /x\n", ":1: profile.openai_base: unknown key, ignored");
    expect_error("[profile:a]\nopenai_base = /x\nopenai_base = /y\n",
                 ":3: profile:a.openai_base: set twice; one has to go, the first is in line 2");
}

static void test_profile_values(void **state)
{
    static const char *const formats[] = {"openai", "ollama", "lm-studio", "llamacpp", "lemonade"};
    char text[80];

    (void)state;
    for (int i = 0; i < (int)OLLA_COUNT(formats); i++) {
        (void)snprintf(text, sizeof(text), "[profile:a]\nresponse_format = %s\n", formats[i]);
        expect_quiet(text);
        assert_int_equal(conf.profile[0].response_format, i); /* the order of enum conf_list_format */
    }
    assert_int_equal(LIST_LEMONADE, OLLA_COUNT(formats) - 1);
    expect_quiet("[profile:a]\nopenai_compatible = yes\nidle_timeout = 0\nopenai_base = \"\"\nmessages_path = ''\n");
    assert_int_equal(conf.profile[0].openai_compatible, 1);
    assert_int_equal(conf.profile[0].idle_timeout, 0);
    assert_string_equal(conf.profile[0].openai_base, ""); /* said to be empty, which is not the same as not said */
    assert_string_equal(conf.profile[0].messages_path, "");
    expect_quiet("[profile:a]\nprefixes =\nhealth_check_path =\nmodel_discovery_path = ; x\nresponse_format =\n"
                 "openai_compatible =\nopenai_base =\nmessages_path =\nidle_timeout =\n");
    check_profile_is_unset(&conf.profile[0]);
    expect_error("[profile:a]\nresponse_format = xml\n", ":2: profile:a.response_format: wrong value: \"xml\"; "
                                                         "allowed: openai, ollama, lm-studio, llamacpp, lemonade");
    expect_error("[profile:a]\nopenai_compatible = maybe\n",
                 ":2: profile:a.openai_compatible: wrong value: \"maybe\"; allowed: true or false");
    expect_error("[profile:a]\nidle_timeout = 4\n", ":2: profile:a.idle_timeout: wrong value: \"4\"; "
                                                    "allowed: a duration of 0 or more (like 300ms, 30s, 1h30m)");
    expect_error("[profile:a]\nhealth_check_path = /a b\n", ":2: profile:a.health_check_path: blanks or control "
                                                            "characters: \"/a b\"; allowed: text without blanks");
}

static void test_profile_lists(void **state)
{
    (void)state;
    expect_quiet("[profile:a]\nprefixes = [ 'x', \"y\" ] ; why\nprefixes =\n\nprefixes = z,,w,\n");
    assert_int_equal(conf.profile[0].prefixes.n, 4);
    assert_string_equal(conf.profile[0].prefixes.item[1], "y");
    assert_string_equal(conf.profile[0].prefixes.item[3], "w");
    expect_error("[profile:a]\nprefixes = a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p\nprefixes = q\n",
                 ":3: profile:a.prefixes: more items than OLLA_MAX_LIST_ITEMS, the limit of this build: \"q\"");
}

static void test_too_many_profiles(void **state)
{
    char text[(OLLA_MAX_PROFILES + 2) * 64];
    char message[120];

    (void)state;
    text[0] = '\0';
    for (int i = 0; i < OLLA_MAX_PROFILES; i++) {
        (void)snprintf(text + strlen(text), 64, "[profile:%d]\nopenai_base = /%d\n", i, i);
    }
    expect_quiet(text);
    assert_int_equal(conf.profiles, OLLA_MAX_PROFILES);
    assert_string_equal(conf.profile[OLLA_MAX_PROFILES - 1].openai_base + 1, conf.profile[OLLA_MAX_PROFILES - 1].name);
    add(text, "[profile:m]\nresponse_format = bad\n"); /* what belongs to it is not looked at */
    (void)snprintf(message, sizeof(message), ":%d: too many profiles; this build is limited to OLLA_MAX_PROFILES = %d",
                   2 * OLLA_MAX_PROFILES + 1, OLLA_MAX_PROFILES);
    expect_error(text, message);
    assert_int_equal(conf.profiles, OLLA_MAX_PROFILES);
}

/* ---- keys ---------------------------------------------------------------- */

#define ABC_HEX "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define WAYS    "; allowed: exactly one of secret, secret_file and secret_sha256"

static void test_key_secrets(void **state)
{
    static const char *const bad[] = {"sk-a b-c-d-e-f", "\"sk-tab\tx\"", "sk-\xc3\xa4-01234567"};
    char text[120];

    (void)state;
    expect_error("[key:a]\n[server]\n", ":1: key:a: no secret" WAYS);
    expect_error("[key:a]\nsecret =\nmodels = x\n", ":1: key:a: no secret" WAYS);
    expect_error("[key:a]\nsecret = \"\"\n", ":2: key:a.secret: the value is empty; allowed: text that is not blank");
    expect_error("[key:a]\nsecret = sk-0123456\nsecret_sha256 = " ABC_HEX "\n",
                 ":3: key:a.secret_sha256: a second secret" WAYS);
    expect_error("[key:a]\nsecret_file = /nonexistent\n",
                 ":2: key:a.secret_file: cannot read /nonexistent: No such file or directory; "
                 "allowed: a plain file that olla may read");
    expect_error("[key:a]\nsecret = sk-0123456\nsecret = sk-01234567\n",
                 ":3: key:a.secret: set twice; one has to go, the first is in line 2");
    for (size_t i = 0; i < OLLA_COUNT(bad); i++) {
        (void)snprintf(text, sizeof(text), "[key:a]\nsecret = %s\n", bad[i]);
        expect_error(text, ":2: key:a.secret: a key cannot hold blanks, line ends, control characters or other than "
                           "ASCII; allowed: visible ASCII characters without blanks");
    }
    expect_warning("[key:a]\nsecret = 1234567\n",
                   ":2: key:a.secret: easy to guess; take at least so many characters: 8");
    expect_quiet("[key:a]\nsecret = 12345678 ; comment\n");
    expect_digest(&conf.key[0], "12345678");
    assert_int_equal(setenv("OLLA_TEST_KEY", "from-outside", 1), 0);
    expect_quiet("[key:a]\nsecret = sk-${OLLA_TEST_KEY}-${OLLA_NO_SUCH:-x}\n");
    expect_digest(&conf.key[0], "sk-from-outside-x");
    assert_int_equal(unsetenv("OLLA_TEST_KEY"), 0);
    expect_error("[key:a]\nsecret = sk-${OLLA_TEST_KEY}\n",
                 ":2: key:a.secret: not set in the environment: OLLA_TEST_KEY; "
                 "allowed: variables that are set, or ${NAME:-default}");
    expect_error("[key:a]\nsecret_sha256 = " ABC_HEX "0\n",
                 ":2: key:a.secret_sha256: not a SHA-256 in hex; allowed: 64 hex digits");
    expect_error("[key:a]\nsecret_sha256 = sk-not-a-digest\n",
                 ":2: key:a.secret_sha256: not a SHA-256 in hex; allowed: 64 hex digits");
}

static void test_key_files(void **state)
{
    static char large[2000];

    (void)state;
    write_secret("\r\n  in-a-file-0123 \t\n\n");
    expect_quiet("[key:a]\nsecret_file = " SECRET_FILE " ; here\n");
    expect_digest(&conf.key[0], "in-a-file-0123");
    write_secret("two-lines-0123\nsecond\n");
    expect_error("[key:a]\nsecret_file = " SECRET_FILE "\n",
                 ":2: key:a.secret_file: a control character (a line end, or NUL) in the value; "
                 "allowed: text in one line");
    write_secret("two words-0123");
    expect_error("[key:a]\nsecret_file = " SECRET_FILE "\n",
                 ":2: key:a.secret_file: a key cannot hold blanks, line ends, control characters or other than ASCII; "
                 "allowed: a file with the secret in its only line");
    write_secret(" \n");
    expect_error("[key:a]\nsecret_file = " SECRET_FILE "\n",
                 ":2: key:a.secret_file: the file is empty; allowed: text that is not blank");
    write_secret("short");
    expect_warning("[key:a]\nsecret_file = " SECRET_FILE "\n",
                   ":2: key:a.secret_file: easy to guess; take at least so many characters: 8");
    memset(large, 'x', sizeof(large) - 1);
    write_secret(large);
    expect_error("[key:a]\nsecret_file = " SECRET_FILE "\n", ":2: key:a.secret_file: the path or the file is too long; "
                                                             "allowed: a file with the secret in its only line");
    expect_error("[key:a]\nsecret_file = /\n", ":2: key:a.secret_file: cannot read /: Is a directory; "
                                               "allowed: a plain file that olla may read");
    assert_int_equal(remove(SECRET_FILE), 0);
}

static void test_key_names(void **state)
{
    char text[200], message[120], name[OLLA_KEY_NAME + 1];

    (void)state;
    expect_error("[key:a]\nsecret = sk-0123456\n[key:A]\nsecret = sk-01234567\n",
                 ":3: key:A: this name is taken by the key in line 1");
    expect_error("[key:a]\nsecret = sk-0123456\n\n[key:b]\nsecret = sk-0123456\n",
                 ":4: key:b: the same secret as that of the key in line 1; allowed: a secret of its own");
    expect_error("[key:a]\nsecret_sha256 = BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
                 "[key:b]\nsecret_sha256 = " ABC_HEX "\n",
                 ":3: key:b: the same secret as that of the key in line 1; allowed: a secret of its own");
    expect_error("[key]\nsecret = x\n", ":1: a key section without a name; it looks like [key:NAME]");
    expect_warning("[keys:a]\nsecret = x\n", ":1: unknown section, ignored with all its keys: \"keys:a\"");
    expect_error("[key:a]\nsecret = sk-0123456\nmodel = x\n", ":3: key:a.model: unknown key");
    memset(name, 'n', sizeof(name));
    name[OLLA_KEY_NAME - 1] = '\0';
    (void)snprintf(text, sizeof(text), "[key:%s]\nsecret = sk-0123456\n", name);
    expect_quiet(text);
    name[OLLA_KEY_NAME - 1] = 'n';
    name[OLLA_KEY_NAME] = '\0';
    (void)snprintf(text, sizeof(text), "[key:%s]\nsecret = sk-0123456\n", name);
    (void)snprintf(message, sizeof(message), ":1: key:%s: this name is too long; the most bytes are %d", name,
                   OLLA_KEY_NAME - 1);
    expect_error(text, message);
}

static void test_key_values(void **state)
{
    (void)state;
    expect_error("[key:a]\nsecret = sk-0123456\nclass = urgent\n",
                 ":3: key:a.class: wrong value: \"urgent\"; allowed: high, normal, low");
    expect_error("[key:a]\nsecret = sk-0123456\nrequests_per_minute = -1\n",
                 ":3: key:a.requests_per_minute: wrong value: \"-1\"; allowed: a whole number from 0 to 1000000");
    expect_error("[key:a]\nsecret = sk-0123456\nmodels = a*b\n",
                 ":3: key:a.models: not a pattern: \"a*b\"; allowed: text with * at its start, its end or both");
    expect_quiet("[key:a]\nsecret = sk-0123456\nclass = HIGH\nmodels =\n");
    assert_int_equal(conf.key[0].class_, CLASS_HIGH);
    expect_quiet("");
    assert_int_equal(conf.keys, 0);
}

static void test_too_many_keys(void **state)
{
    static char text[(OLLA_MAX_KEYS + 1) * 64];
    char message[120];

    (void)state;
    text[0] = '\0';
    for (int i = 0; i < OLLA_MAX_KEYS; i++) {
        (void)snprintf(text + strlen(text), 64, "[key:%d]\nsecret = sk-0123456-%d\n", i, i);
    }
    expect_quiet(text);
    assert_int_equal(conf.keys, OLLA_MAX_KEYS);
    add(text, "[key:m]\nsecret = sk-0123456\n");
    (void)snprintf(message, sizeof(message), ":%d: too many keys; this build is limited to OLLA_MAX_KEYS = %d",
                   2 * OLLA_MAX_KEYS + 1, OLLA_MAX_KEYS);
    expect_error(text, message);
}

/* Neither the configuration nor anything that reading leaves behind holds the text of a secret. */
static void test_secrets_do_not_stay(void **state)
{
    const char *all = (const char *)&conf;

    (void)state;
    write_secret("sk-filed-0123456789");
    expect_quiet("[key:a]\nsecret = sk-plain-0123456789\n[key:b]\nsecret_file = " SECRET_FILE "\n");
    for (size_t i = 0; i + 8 < sizeof(conf); i++) {
        assert_false(memcmp(all + i, "sk-plain", 8) == 0 || memcmp(all + i, "sk-filed", 8) == 0);
    }
    assert_int_equal(remove(SECRET_FILE), 0);
}

/* ---- URLs --------------------------------------------------------------- */

static void check_url(const char *text, const char *host, uint16_t port, const char *authority, const char *path)
{
    const struct conf_url *u = &conf.endpoint[0].url;
    char line[160];

    (void)snprintf(line, sizeof(line), "[endpoint:a]\nurl = %s\n", text);
    expect_quiet(line);
    assert_string_equal(u->text, text);
    assert_string_equal(u->host, host);
    assert_int_equal(u->port, port);
    assert_string_equal(u->authority, authority);
    assert_string_equal(u->path, path);
    assert_false(u->tls);
}

static void test_good_urls(void **state)
{
    (void)state;
    check_url("http://localhost:11434", "localhost", 11434, "localhost:11434", "");
    check_url("HTTP://x", "x", 80, "x", "");
    check_url("http://x:80/", "x", 80, "x", "");
    check_url("http://x:080/v1//", "x", 80, "x", "/v1");
    check_url("http://a-b_c.example.:1/a%20b/c", "a-b_c.example.", 1, "a-b_c.example.:1", "/a%20b/c");
    check_url("http://192.0.2.1:65535", "192.0.2.1", 65535, "192.0.2.1:65535", "");
    check_url("http://[::1]", "::1", 80, "[::1]", "");
    check_url("http://[::ffff:192.0.2.1]:81/x", "::ffff:192.0.2.1", 81, "[::ffff:192.0.2.1]:81", "/x");
    check_url("http://x/a@b", "x", 80, "x", "/a@b");
}

static void test_bad_urls(void **state)
{
    static const char *const bad[][2] = {
        {"", "does not start with http:// or https://"},
        {"localhost:8080", "does not start with http:// or https://"},
        {"127.0.0.1:8080", "does not start with http:// or https://"},
        {"ftp://x", "does not start with http:// or https://"},
        {"https://", "the host is missing"},
        {"http://", "the host is missing"},
        {"http://:80", "the host is missing"},
        {"http:///x", "the host is missing"},
        {"http://x:", "the port is not a number from 1 to 65535"},
        {"http://x:0", "the port is not a number from 1 to 65535"},
        {"http://x:65536", "the port is not a number from 1 to 65535"},
        {"http://x:8a", "the port is not a number from 1 to 65535"},
        {"http://[::1]x", "the port is not a number from 1 to 65535"},
        {"http://::1", "the host is missing"},
        {"http://[::1", "the ] of the IPv6 address is missing"},
        {"http://x/?q=1", "a query (?...) is not accepted"},
        {"http://x#f", "a fragment (#...) is not accepted"},
        {"http://u@x", "user name and password are not accepted in a URL"},
        {"http://u:p@x:1/y", "user name and password are not accepted in a URL"},
        {"http://x/a b", "blanks and other than visible ASCII characters have to be percent-encoded"},
        {"http://x/\xc3\xa4", "blanks and other than visible ASCII characters have to be percent-encoded"},
    };

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(bad); i++) {
        char text[160];
        char message[240];
        bool secret = strchr(bad[i][0], '@') != NULL;

        (void)snprintf(text, sizeof(text), "[endpoint:a]\nurl = %s\n", bad[i][0]);
        (void)snprintf(message, sizeof(message),
                       ":2: endpoint:a.url: %s%s%s%s; allowed: http://host[:port][/path] or https://...", bad[i][1],
                       secret ? "" : ": \"", secret ? "" : bad[i][0], secret ? "" : "\"");
        expect_error(text, message);
    }
}

static void test_secrets_are_not_shown(void **state)
{
    (void)state;
    expect_error("[endpoint:a]\nurl = http://me:secret@x\n",
                 ":2: endpoint:a.url: user name and password are not accepted in a URL; "
                 "allowed: http://host[:port][/path] or https://...");
    expect_error("[endpoint:a]\nurl = me:secret@x\n", ":2: endpoint:a.url: does not start with http:// or https://; "
                                                      "allowed: http://host[:port][/path] or https://...");
}

/* ---- credentials and headers --------------------------------------------- */

static char secret_file[80];

static void write_credential(const void *bytes, size_t n)
{
    FILE *f = fopen(secret_file, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void expect_lines(int i, const char *wanted)
{
    const struct conf_endpoint *e = &conf.endpoint[i];

    assert_int_equal(e->headers_n, strlen(wanted));
    assert_memory_equal(e->headers, wanted, e->headers_n);
}

/* A section with these lines from line 3 on. */
static const char *with_auth(const char *lines)
{
    static char text[4096];
    (void)snprintf(text, sizeof(text), "[endpoint:a]\nurl = http://x\n%s", lines);
    return text;
}

static void set_variables(void)
{
    (void)setenv("OLLA_TEST_A", "x", 1);
    (void)setenv("OLLA_TEST_E", "", 1);
    (void)unsetenv("OLLA_TEST_U");
    (void)unsetenv("OLLA_TEST_V");
    (void)setenv("OLLA_TEST_N", "${OLLA_TEST_A}", 1);
    (void)setenv("${OLLA_TEST_A", "odd", 1);
}

static void test_expand(void **state)
{
    static const struct {
        const char *from, *to, *missing;
    } rows[] = {
        {"${OLLA_TEST_A}", "x", ""},
        {"p-${OLLA_TEST_A}-${OLLA_TEST_A}", "p-x-x", ""},
        {"${OLLA_TEST_E}", "", ""},
        {"${OLLA_TEST_E:-d}", "d", ""},
        {"${OLLA_TEST_A:-d}", "x", ""},
        {"${OLLA_TEST_U:-d}", "d", ""},
        {"${OLLA_TEST_U:-}", "", ""},
        {"${OLLA_TEST_U}", "", "OLLA_TEST_U"},
        {"a${OLLA_TEST_U}b${OLLA_TEST_A}c${OLLA_TEST_V}d", "abxcd", "OLLA_TEST_U, OLLA_TEST_V"},
        {"$OLLA_TEST_A", "$OLLA_TEST_A", ""},
        {"$", "$", ""},
        {"a$b$$", "a$b$$", ""},
        {"${}", "${}", ""},
        {"${}}", "${}}", ""},
        {"${", "${", ""},
        {"${OLLA_TEST_A", "${OLLA_TEST_A", ""},
        {"$${OLLA_TEST_A}", "$x", ""},
        {"${OLLA_TEST_U:-a:-b}", "a:-b", ""},
        {"${OLLA_TEST_U:-${OLLA_TEST_A}}", "${OLLA_TEST_A}", ""},
        {"${${OLLA_TEST_A}}", "odd}", ""},
        {"${OLLA_TEST_N}", "${OLLA_TEST_A}", ""},
        {"${OLLA_TEST_U: -d}", "", "OLLA_TEST_U: -d"},
        {"${ OLLA_TEST_A}", "", " OLLA_TEST_A"},
        {"${:-d}", "d", ""},
        {"", "", ""},
    };

    (void)state;
    set_variables();
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        char to[64], names[64];
        struct text out = text_in(to, sizeof(to)), missing = text_in(names, sizeof(names));
        conf_expand(str_of(rows[i].from), &out, &missing);
        assert_string_equal(text_z(&out), rows[i].to);
        assert_string_equal(text_z(&missing), rows[i].missing);
    }
    (void)unsetenv("${OLLA_TEST_A");
}

static void test_auth_lines(void **state)
{
    (void)state;
    set_variables();
    expect_quiet(all_auth);
    expect_lines(0, "NAME: v a l\r\nX-Empty: \r\nAuthorization: Bearer x-t\r\n");
    expect_lines(1, "X-Mine: k\r\n");
    expect_lines(2, "Authorization: Basic YWxpY2U6czNjcmV0\r\n");
    expect_quiet(with_auth("auth.type = api_key\nauth.key = k\n"));
    expect_lines(0, "X-Api-Key: k\r\n");
    expect_error(with_auth("auth.type = bearer\nauth.token = t\nauth.header = X-Key\n"),
                 ":5: endpoint:a.auth.header: does not go with this auth.type; take it away");
    expect_quiet(with_auth("auth.type = bearer\nauth.token = t\nauth.header =\n"));
    expect_lines(0, "Authorization: Bearer t\r\n");
    expect_quiet(with_auth("auth.type =\nauth.token =\n"));
    expect_lines(0, "");
    /* auth beats headers, whatever comes first */
    expect_quiet(
        with_auth("headers.authorization = h\nauth.type = bearer\nauth.token = e\nheaders.X-Last = ${OLLA_TEST_E}\n"));
    expect_lines(0, "X-Last: \r\nAuthorization: Bearer e\r\n");
    expect_quiet(with_auth("headers.Authorization = Bearer h\n"));
    expect_lines(0, "Authorization: Bearer h\r\n");
    expect_quiet(with_auth("headers.a.b!#$%&'*+-^_`|~9 = ${OLLA_TEST_U:-a; b}\n"));
    expect_lines(0, "a.b!#$%&'*+-^_`|~9: a; b\r\n");
    /* nothing else is expanded */
    expect_quiet("[endpoint:${OLLA_TEST_A}]\nurl = http://${OLLA_TEST_A}\n");
    assert_string_equal(conf.endpoint[0].name, "${OLLA_TEST_A}");
    assert_string_equal(conf.endpoint[0].url.host, "${OLLA_TEST_A}");
}

static void test_auth_files(void **state)
{
    char text[400];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(all_auth_files); i++) {
        const char *name = all_auth_files[i];
        const char *rest = i == 2 ? "auth.password = p\n" : i == 3 ? "auth.username = u\n" : "";
        (void)snprintf(text, sizeof(text), "auth.type = %s\nauth.%s_file = %s\n%s",
                       i == 0   ? "bearer"
                       : i == 1 ? "api_key"
                                : "basic",
                       name, secret_file, rest);
        write_credential("", 0);
        assert_int_equal(load(with_auth(text)), OLLA_ERR);
        assert_int_equal(message_count, 1);
        assert_non_null(strstr(messages[0], "_file: the file is empty"));
        write_credential("\n\t ${A} b\xc2\xa0\r\n\xe3\x80\x80\n", 16);
        expect_quiet(with_auth(text));
        static const char *const wanted[] = {"Authorization: Bearer ${A} b\r\n", "X-Api-Key: ${A} b\r\n",
                                             "Authorization: Basic JHtBfSBiOnA=\r\n",
                                             "Authorization: Basic dToke0F9IGI=\r\n"};
        expect_lines(0, wanted[i]);
        write_credential("a\nb", 3);
        assert_int_equal(load(with_auth(text)), OLLA_ERR);
        assert_non_null(strstr(messages[0], "_file: a control character (a line end, or NUL) in the value"));
        write_credential("a\0b", 3);
        assert_int_equal(load(with_auth(text)), OLLA_ERR);
        assert_non_null(strstr(messages[0], "a control character"));
    }
    (void)remove(secret_file);
    assert_int_equal(load(with_auth(text)), OLLA_ERR);
    (void)snprintf(text, sizeof(text),
                   ":4: endpoint:a.auth.password_file: cannot read %s: No such file or directory; "
                   "allowed: a plain file that olla may read",
                   secret_file);
    assert_string_equal(messages[0], text);
    expect_error(with_auth("auth.type = bearer\nauth.token_file = /\n"),
                 ":4: endpoint:a.auth.token_file: cannot read /: Is a directory; "
                 "allowed: a plain file that olla may read");
    expect_error(with_auth("auth.type = bearer\nauth.token_file = /dev/zero\n"),
                 ":4: endpoint:a.auth.token_file: cannot read /dev/zero: Invalid argument; "
                 "allowed: a plain file that olla may read");
    expect_error(with_auth("auth.type = bearer\nauth.token_file = ${HOME}/x\n"),
                 ":4: endpoint:a.auth.token_file: cannot read ${HOME}/x: No such file or directory; "
                 "allowed: a plain file that olla may read");
}

#define TYPES   "; allowed: bearer, api_key, basic"
#define MISSING ": missing; this auth.type needs it, or the file with _file after its key"
#define FOREIGN ": does not go with this auth.type; take it away"

static void test_wrong_auth(void **state)
{
    static const struct {
        const char *lines, *message;
    } rows[] = {
        {"auth.type = bearer\n", ":3: endpoint:a.auth.token" MISSING},
        {"auth.type = bearer\nauth.token = \"\"\n", ":3: endpoint:a.auth.token" MISSING},
        {"auth.type = api_key\n", ":3: endpoint:a.auth.key" MISSING},
        {"auth.type = basic\nauth.username = u\n", ":3: endpoint:a.auth.password" MISSING},
        {"auth.type = basic\nauth.password = u\n", ":3: endpoint:a.auth.username" MISSING},
        {"auth.type = bearer\nauth.token = SECRET\nauth.token_file = /x\n",
         ":5: endpoint:a.auth.token_file: given as a text too; one has to go, the other is in line 4"},
        {"auth.type = api_key\nauth.key_file = /x\nauth.key = SECRET\n",
         ":4: endpoint:a.auth.key_file: given as a text too; one has to go, the other is in line 5"},
        {"auth.type = basic\nauth.password = SECRET\nauth.username = u\nauth.username_file = /x\n",
         ":6: endpoint:a.auth.username_file: given as a text too; one has to go, the other is in line 5"},
        {"auth.type = basic\nauth.password = SECRET\nauth.username = u\nauth.password_file = /x\n",
         ":6: endpoint:a.auth.password_file: given as a text too; one has to go, the other is in line 4"},
        {"auth.type = bearer\nauth.token = t\nauth.key = SECRET\n", ":5: endpoint:a.auth.key" FOREIGN},
        {"auth.type = bearer\nauth.token = t\nauth.username = SECRET\n", ":5: endpoint:a.auth.username" FOREIGN},
        {"auth.type = bearer\nauth.token = t\nauth.password_file = /x\n", ":5: endpoint:a.auth.password_file" FOREIGN},
        {"auth.type = api_key\nauth.key = t\nauth.token = SECRET\n", ":5: endpoint:a.auth.token" FOREIGN},
        {"auth.type = api_key\nauth.key = t\nauth.password = SECRET\n", ":5: endpoint:a.auth.password" FOREIGN},
        {"auth.type = api_key\nauth.key = t\nauth.username_file = /x\n", ":5: endpoint:a.auth.username_file" FOREIGN},
        {"auth.type = basic\nauth.username = u\nauth.password = p\nauth.token_file = /x\n",
         ":6: endpoint:a.auth.token_file" FOREIGN},
        {"auth.type = basic\nauth.username = u\nauth.password = p\nauth.key_file = /x\n",
         ":6: endpoint:a.auth.key_file" FOREIGN},
        {"auth.type = Bearer\nauth.token = SECRET\n", ":3: endpoint:a.auth.type: not known" TYPES},
        {"auth.type = SECRET a\n",
         ":3: endpoint:a.auth.type: blanks or control characters; allowed: bearer, api_key or basic"},
        {"auth.type = oauth2 ; x\n", ":3: endpoint:a.auth.type: not known" TYPES},
        {"auth.type = \"\"\n", ":1: endpoint:a.auth.type: missing" TYPES},
        {"auth.token = SECRET\n", ":1: endpoint:a.auth.type: missing" TYPES},
        {"auth.header = X-A\n", ":1: endpoint:a.auth.type: missing" TYPES},
        {"auth.type = bearer\nauth.token = SECRET${OLLA_TEST_U}${OLLA_TEST_V}\n",
         ":4: endpoint:a.auth.token: not set in the environment: OLLA_TEST_U, OLLA_TEST_V; "
         "allowed: variables that are set, or ${NAME:-default}"},
        {"headers.X-A = SECRET${OLLA_TEST_U}\n", ":3: endpoint:a.headers.X-A: not set in the environment: OLLA_TEST_U; "
                                                 "allowed: variables that are set, or ${NAME:-default}"},
        {"auth.type = bearer\nauth.token = ${OLLA_TEST_E}\n",
         ":4: endpoint:a.auth.token: the value is empty; allowed: text that is not blank"},
        {"auth.type = bearer\nauth.token = \"  \"\n",
         ":4: endpoint:a.auth.token: the value is empty; allowed: text that is not blank"},
        {"auth.type = basic\nauth.username = u:SECRET\nauth.password = p\n",
         ":4: endpoint:a.auth.username: the name has a colon, which is where a password begins"},
        {"auth.type = bearer\nauth.token = SECRET${OLLA_TEST_LF}\n",
         ":4: endpoint:a.auth.token: a control character (a line end, or NUL) in the value; allowed: text in one line"},
        {"headers.X-A = SECRET${OLLA_TEST_LF}\n", ":3: endpoint:a.headers.X-A: a control character (a line end, or "
                                                  "NUL) in the value; allowed: text in one line"},
        {"auth.type = bearer\nauth.token = SECRET\nauth.token = t\n",
         ":5: endpoint:a.auth.token: set twice; one has to go, the first is in line 4"},
        {"auth.type = bearer\nauth.token = ${OLLA_TEST_LONG}\n",
         ":3: endpoint:a.auth.type: too long; the bytes of all header lines of an endpoint, credentials too, are "
         "limited "
         "to OLLA_MAX_ENDPOINT_HEADERS = 1024"},
        {"headers.X-A = ${OLLA_TEST_LONG}\n",
         ":3: endpoint:a.headers.X-A: too long; the bytes of all header lines of an endpoint, credentials too, are "
         "limited to OLLA_MAX_ENDPOINT_HEADERS = 1024"},
    };
    static char many[OLLA_MAX_ENDPOINT_HEADERS + 1];

    (void)state;
    set_variables();
    memset(many, 'l', sizeof(many) - 1);
    (void)setenv("OLLA_TEST_LONG", many, 1);
    (void)setenv("OLLA_TEST_LF", "a\r\nX-Evil: 1", 1);
    for (size_t i = 0; i < OLLA_COUNT(rows) && OLLA_MAX_ENDPOINT_HEADERS == 1024; i++) {
        expect_error(with_auth(rows[i].lines), rows[i].message);
        assert_null(strstr(messages[0], "SECRET"));
    }
    /* all that is wrong is told at once */
    assert_int_equal(load(
                         with_auth("auth.type = basic\nauth.username = ${OLLA_TEST_U}\nauth.password = ${OLLA_TEST_V}\n"
                                   "headers.X-A = ${OLLA_TEST_U}\n")),
                     OLLA_ERR);
    assert_int_equal(message_count, 3);
    expect_warning(
        with_auth("auth.type = bearer\nauth.token = SECRET ; x\n"),
        ":4: endpoint:a.auth.token: all of the line belongs to this text, comments too; put the text in quotes");
    expect_warning(
        with_auth("headers.X-A = SECRET ; x\n"),
        ":3: endpoint:a.headers.X-A: all of the line belongs to this text, comments too; put the text in quotes");
    expect_warning(with_auth("auth.tokn = SECRET\n"), ":3: endpoint:a.auth.tokn: unknown key, ignored");
    expect_warning("[server]\nheaders.X-A = SECRET\n", ":2: server.headers.X-A: unknown key, ignored");
    (void)unsetenv("OLLA_TEST_LONG");
    (void)unsetenv("OLLA_TEST_LF");
}

static void test_header_names(void **state)
{
    static const char *const reserved[] = {
        "Host",    "content-length",   "Transfer-Encoding",   "Connection",     "Keep-Alive",        "TE", "Trailer",
        "Upgrade", "Proxy-Connection", "Proxy-Authorization", "HTTP2-Settings", "Proxy-Authenticate"};
    static const char *const wrong[] = {"X(A)", "X/A", "X\xc3\xa4", "", "X@A", "X,A"};
    char text[200], wanted[300];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(reserved); i++) {
        (void)snprintf(text, sizeof(text), "headers.%s = 1\n", reserved[i]);
        (void)
            snprintf(wanted, sizeof(wanted),
                     ":3: endpoint:a.headers.%s: this header belongs to the connection or the framing, which olla does "
                     "itself; it cannot be configured",
                     reserved[i]);
        expect_error(with_auth(text), wanted);
        (void)snprintf(text, sizeof(text), "auth.type = api_key\nauth.key = k\nauth.header = %s\n", reserved[i]);
        assert_int_equal(load(with_auth(text)), OLLA_ERR);
        assert_true(starts_with(messages[0], ":5: endpoint:a.auth.header: this header belongs to"));
    }
    for (size_t i = 0; i < OLLA_COUNT(wrong); i++) {
        (void)snprintf(text, sizeof(text), "headers.%s = 1\n", wrong[i]);
        (void)snprintf(wanted, sizeof(wanted),
                       ":3: endpoint:a.headers.%s: not the name of a header; allowed: letters, digits and "
                       "!#$%%&'*+-.^_`|~",
                       wrong[i]);
        expect_error(with_auth(text), wanted);
    }
    expect_error(with_auth("auth.type = api_key\nauth.key = k\nauth.header = X A\n"),
                 ":5: endpoint:a.auth.header: blanks or control characters; allowed: the name of a header");
    expect_error(with_auth("auth.type = api_key\nauth.key = k\nauth.header = X@A ; why\n"),
                 ":5: endpoint:a.auth.header: not the name of a header; allowed: letters, digits and !#$%&'*+-.^_`|~");
    expect_error(with_auth("headers.X-A = 1\nheaders.x-a = 2\n"),
                 ":4: endpoint:a.headers.x-a: set twice; one has to go");
    expect_error(with_auth("headers.X A = 1\n"), ":3: neither [section] nor key = value");
}

/* The last byte that fits, and one more. */
static void test_header_bytes(void **state)
{
    static char many[OLLA_MAX_ENDPOINT_HEADERS + 1];

    (void)state;
    memset(many, 'l', sizeof(many) - 1);
    many[OLLA_MAX_ENDPOINT_HEADERS - strlen("A: \r\nX-Api-Key: k\r\n")] = '\0';
    (void)setenv("OLLA_TEST_LONG", many, 1);
    expect_quiet(with_auth("auth.type = api_key\nauth.key = k\nheaders.A = ${OLLA_TEST_LONG}\n"));
    assert_int_equal(conf.endpoint[0].headers_n, OLLA_MAX_ENDPOINT_HEADERS);
    assert_int_equal(load(with_auth("auth.type = api_key\nauth.key = kk\nheaders.A = ${OLLA_TEST_LONG}\n")), OLLA_ERR);
    assert_non_null(strstr(messages[0], ":3: endpoint:a.auth.type: too long"));
    memset(many, 'f', sizeof(many) - 1);
    write_credential(many, OLLA_MAX_ENDPOINT_HEADERS);
    (void)snprintf(messages[MAX_MESSAGES - 1], sizeof(messages[0]), "auth.type = bearer\nauth.token_file = %s\n",
                   secret_file);
    assert_int_equal(load(with_auth(messages[MAX_MESSAGES - 1])), OLLA_ERR);
    assert_non_null(strstr(messages[0], ":3: endpoint:a.auth.type: too long"));
    (void)remove(secret_file);
    (void)unsetenv("OLLA_TEST_LONG");
}

/* ---- finding the file --------------------------------------------------- */

static void test_find(void **state)
{
    char here[1024];
    char wanted[80];

    (void)state;
    assert_non_null(getcwd(here, sizeof(here)));
    assert_int_equal(chdir(dir), 0);
    (void)remove("conf.ini");
    message_count = 0;
    assert_null(conf_find("missing.ini", collect));
    assert_string_equal(messages[0], "missing.ini: the configuration file cannot be read");
    (void)setenv("OLLA_CONFIG_FILE", "gone.ini", 1);
    assert_null(conf_find(NULL, collect));
    assert_string_equal(messages[1], "gone.ini: the configuration file cannot be read (named by OLLA_CONFIG_FILE)");
    write_file("", 0);
    (void)setenv("OLLA_CONFIG_FILE", file, 1);
    assert_string_equal(conf_find(NULL, collect), file);
    assert_null(conf_find("missing.ini", collect));
    (void)setenv("OLLA_CONFIG_FILE", "", 1);
    (void)snprintf(wanted, sizeof(wanted), "%s/olla.ini", dir);
    assert_int_equal(rename(file, wanted), 0);
    assert_string_equal(conf_find(NULL, collect), "olla.ini");
    assert_string_equal(conf_find(wanted, collect), wanted);
    assert_int_equal(rename("olla.ini", "config.ini"), 0);
    assert_string_equal(conf_find(NULL, collect), "config.ini");
    assert_int_equal(remove("config.ini"), 0);
    (void)unsetenv("OLLA_CONFIG_FILE");
    assert_int_equal(chdir(here), 0);
    assert_int_equal(message_count, 3);
}

/* ---- the shipped file --------------------------------------------------- */

static char reference[40960];

static void add_reference(const char *line)
{
    size_t n = strlen(reference);

    assert_true(n + strlen(line) + 2 < sizeof(reference));
    assert_true(strlen(line) <= 190);
    (void)snprintf(reference + n, sizeof(reference) - n, "%s\n", line);
}

static void test_reference(void **state)
{
    (void)state;
    reference[0] = '\0';
    conf_print_reference(add_reference);
    expect_quiet(reference);
    check_default_settings();
    assert_int_equal(conf.endpoints, 4);
    assert_string_equal(conf.endpoint[0].name, "local-ollama");
    assert_string_equal(conf.endpoint[1].name, "local-lm-studio");
    assert_string_equal(conf.endpoint[2].name, "local-vllm");
    assert_string_equal(conf.endpoint[3].name, "local-llamacpp");
    assert_int_equal(conf.endpoint[3].url.port, 8080);
    assert_int_equal(conf.profiles, 0);
    for (const struct conf_row *row = conf_rows; row->path; row++) {
        if (row->type == CONF_INERT) {
            assert_null(row->help);
        }
    }
}

/* Taking away the ";" of every setting must change nothing. */
static void test_reference_uncommented(void **state)
{
    char *from = reference;
    char *to = reference;

    (void)state;
    if (OLLA_MAX_ENDPOINTS < 5) {
        skip();
    }
    reference[0] = '\0';
    conf_print_reference(add_reference);
    while (*from) {
        if (from[0] == ';' && from[1] != ' ' && from[1] != '\n' && (from == reference || from[-1] == '\n')) {
            from++;
        }
        *to++ = *from++;
    }
    *to = '\0';
    to = strstr(reference, "\nurl =\n");
    assert_non_null(to);
    memcpy(to, "\n      \n", 7);
    assert_int_equal(load(reference), OLLA_ERR);
    assert_int_equal(message_count, 2);
    assert_non_null(strstr(messages[0], "endpoint:NAME.url: missing"));
    assert_non_null(strstr(messages[1], "key:NAME: no secret"));
    assert_int_equal(conf.keys, 1);
    assert_int_equal(conf.key[0].class_, CLASS_NORMAL);
    check_default_settings();
    assert_int_equal(conf.profiles, 1);
    assert_string_equal(conf.profile[0].name, "NAME");
    check_profile_is_unset(&conf.profile[0]);
}

static void test_shipped_file(void **state)
{
    static char shipped[sizeof(reference)];
    FILE *f = fopen(OLLA_INI, "rb");
    size_t n;

    (void)state;
    assert_non_null(f);
    n = fread(shipped, 1, sizeof(shipped) - 1, f);
    assert_int_equal(fclose(f), 0);
    shipped[n] = '\0';
    reference[0] = '\0';
    conf_print_reference(add_reference);
    assert_string_equal(shipped, reference);
}

static int set_up(void **state)
{
    (void)state;
    unset_all();
    (void)unsetenv("OLLA_CONFIG_FILE");
    if (!mkdtemp(dir)) {
        return -1;
    }
    (void)snprintf(file, sizeof(file), "%s/conf.ini", dir);
    (void)snprintf(secret_file, sizeof(secret_file), "%s/secret", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)remove(file);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_empty_file),
        cmocka_unit_test(test_every_setting),
        cmocka_unit_test(test_every_row_is_tested),
        cmocka_unit_test(test_log_file),
        cmocka_unit_test(test_endpoint_tls),
        cmocka_unit_test(test_endpoint_wake),
        cmocka_unit_test(test_server_tls),
        cmocka_unit_test(test_ranges_of_addresses),
        cmocka_unit_test(test_dashboard_for_nobody),
        cmocka_unit_test(test_rates_that_surprise),
        cmocka_unit_test(test_inert_keys_are_accepted),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_environment_empty_and_wrong),
        cmocka_unit_test(test_comments_and_quotes),
        cmocka_unit_test(test_free_text_keeps_comments),
        cmocka_unit_test(test_empty_values),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_lists_of_words),
        cmocka_unit_test(test_cors),
        cmocka_unit_test(test_layout_of_lines),
        cmocka_unit_test(test_wrong_values),
        cmocka_unit_test(test_set_twice),
        cmocka_unit_test(test_unknown_names),
        cmocka_unit_test(test_broken_lines),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_no_line_is_cut),
        cmocka_unit_test(test_section_names),
        cmocka_unit_test(test_many_errors),
        cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_host_with_a_port),
        cmocka_unit_test(test_header_size),
        cmocka_unit_test(test_zero_is_default),
        cmocka_unit_test(test_text_is_full),
        cmocka_unit_test(test_endpoint_sections),
        cmocka_unit_test(test_endpoint_names),
        cmocka_unit_test(test_endpoint_url_missing),
        cmocka_unit_test(test_no_endpoints),
        cmocka_unit_test(test_too_many_endpoints),
        cmocka_unit_test(test_endpoint_times),
        cmocka_unit_test(test_endpoint_targets),
        cmocka_unit_test(test_profile_sections),
        cmocka_unit_test(test_profile_names),
        cmocka_unit_test(test_profile_keys),
        cmocka_unit_test(test_profile_values),
        cmocka_unit_test(test_profile_lists),
        cmocka_unit_test(test_too_many_profiles),
        cmocka_unit_test(test_key_secrets),
        cmocka_unit_test(test_key_files),
        cmocka_unit_test(test_key_names),
        cmocka_unit_test(test_key_values),
        cmocka_unit_test(test_too_many_keys),
        cmocka_unit_test(test_secrets_do_not_stay),
        cmocka_unit_test(test_good_urls),
        cmocka_unit_test(test_bad_urls),
        cmocka_unit_test(test_secrets_are_not_shown),
        cmocka_unit_test(test_expand),
        cmocka_unit_test(test_auth_lines),
        cmocka_unit_test(test_auth_files),
        cmocka_unit_test(test_wrong_auth),
        cmocka_unit_test(test_header_names),
        cmocka_unit_test(test_header_bytes),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_reference_uncommented),
        cmocka_unit_test(test_shipped_file),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
