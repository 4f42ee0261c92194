/*
 * olla.c - level 9: options, start-up, exit codes. See olla(8).
 *
 * May include: olla.h, levels 1 to 8.
 */
#include "olla.h"

#include <stdio.h>
#include <string.h>

#include "platform/platform.h"
#include "platform/tls.h"
#include "src/account.h"
#include "src/conf.h"
#include "src/endpoint.h"
#include "src/hooks.h"
#include "src/ledger.h"
#include "src/limits.h"
#include "src/loop.h"
#include "src/meter.h"
#include "src/pool.h"
#include "src/sticky.h"
#include "src/sha256.h"

static struct conf confs[2];

static const char usage[] =
    "usage: olla [-c FILE] [-t] [-m]\n"
    "  -c, --config FILE      configuration; default: $OLLA_CONFIG_FILE, then config/config.local.ini,\n"
    "                         config/config.ini, config.ini, default.ini, olla.ini, /etc/olla.ini\n"
    "  -t, --validate-config  check the configuration and exit: 0 valid, 1 not\n"
    "  -m                     print the memory plan and exit\n"
    "      --print-settings   print the commented reference configuration and exit\n"
    "      --hash-key         read a key from standard input and print it as secret_sha256 wants it\n"
    "      --version          print the version and exit; -V: with that of the TLS library\n"
    "  -h, --help             print this and exit\n"
    "Signals: TERM and INT finish the running requests and stop, a second one stops at once;\n"
    "HUP reloads the configuration; USR1 logs what is in use.\n";

struct options {
    const char *config;
    bool validate, memory;
};

static void say(bool error, const char *line)
{
    (void)error; /* the line says what it is, and begins like a compiler's, so that editors can jump to it */
    fprintf(stderr, "%s\n", line);
}

static void print_line(const char *line)
{
    puts(line);
}

/* For secret_sha256. The key comes by standard input: arguments can be seen by everybody on the machine. */
static int hash_key(void)
{
    static char line[1024];
    unsigned char digest[SHA256_BYTES];
    char mem[2 * SHA256_BYTES + 1];
    struct text t = text_in(mem, sizeof(mem));
    bool whole = fgets(line, sizeof(line), stdin) && strlen(line) < sizeof(line) - 1;
    struct str key = str_trim(str_of(line));
    const char *why = whole || line[0] == '\0' ? conf_key_fault(key) : "too long";

    if (why) {
        fprintf(stderr, "olla: --hash-key: the line with the key: %s\n", why);
        return OLLA_EXIT_USAGE;
    }
    if (key.n < CONF_KEY_SHORT) {
        fprintf(stderr, "olla: --hash-key: easy to guess; take at least %d characters\n", CONF_KEY_SHORT);
    }
    sha256_of(key, digest);
    sha256_forget(line, sizeof(line));
    sha256_to_hex(digest, &t);
    puts(text_z(&t));
    return OLLA_EXIT_OK;
}

/* ---- options ------------------------------------------------------------------------- */

static bool is_option(const char *arg, const char *name)
{
    return strcmp(arg, name) == 0 || (arg[0] == '-' && arg[1] == '-' && strcmp(arg + 1, name) == 0 && strlen(name) > 2);
}

/* Value of "-c FILE", "--config FILE", "--config=FILE"; *used counts the arguments taken. NULL: not this option. */
static const char *config_option(const char *arg, const char *next, int *used)
{
    static const char *const names[] = {"-c", "-config", "--config"};
    *used = 1;
    for (size_t k = 0; k < OLLA_COUNT(names); k++) {
        size_t n = strlen(names[k]);
        if (strcmp(arg, names[k]) == 0) {
            *used = 2;
            return next ? next : "";
        }
        if (strncmp(arg, names[k], n) == 0 && arg[n] == '=') {
            return arg + n + 1;
        }
    }
    return NULL;
}

/* -1: go on. Otherwise the exit code. */
static int read_options(int argc, char **argv, struct options *o)
{
    int used;
    for (int i = 1; i < argc; i += used) {
        const char *arg = argv[i], *value = config_option(arg, argv[i + 1], &used);
        if (value && value[0]) {
            o->config = value;
        } else if (value) {
            fputs("olla: -c needs a file name; see olla --help\n", stderr);
            return OLLA_EXIT_USAGE;
        } else if (is_option(arg, "-t") || is_option(arg, "-validate-config")) {
            o->validate = true;
        } else if (is_option(arg, "-m")) {
            o->memory = true;
        } else if (is_option(arg, "-hash-key")) {
            return hash_key();
        } else if (is_option(arg, "-version")) {
            puts(OLLA_VERSION);
            return OLLA_EXIT_OK;
        } else if (is_option(arg, "-V")) {
            printf("olla %s (%s)\n", OLLA_VERSION, tls_library() ? tls_library() : "built without TLS");
            return OLLA_EXIT_OK;
        } else if (is_option(arg, "-h") || is_option(arg, "-help")) {
            fputs(usage, stdout);
            return OLLA_EXIT_OK;
        } else if (is_option(arg, "-print-settings")) {
            conf_print_reference(print_line);
            return OLLA_EXIT_OK;
        } else {
            fprintf(stderr, "olla: unknown option \"%s\"\n%s", arg, usage);
            return OLLA_EXIT_USAGE;
        }
    }
    return -1;
}

/* ---- the memory plan ------------------------------------------------------------------- */

static int print_memory(void)
{
    const struct {
        const char *name;
        size_t size, count;
    } fixed[] = {
        {"configurations", sizeof(struct conf), 2},
        {"endpoints", sizeof(struct endpoint), OLLA_MAX_ENDPOINTS},
        {"conversations", sticky_cost(), OLLA_MAX_SESSIONS},
        {"models' use", ledger_cost(), OLLA_MAX_LEDGER},
        {"usage by key", meter_cost(), OLLA_MAX_METER},
        {"last errors", account_cost(), 1},
        {"hooks", hooks_cost(), 1},
        {"rate limits", limits_cost(), OLLA_MAX_RATE_CLIENTS},
        {"TLS engines", tls_cost(), OLLA_MAX_TLS_CLIENTS + OLLA_MAX_TLS_UPSTREAMS},
        {"TLS peers", tls_peer_cost(), TLS_PEERS},
        {"log buffer", OLLA_LOG_BUF, 1},
        {"spool window", OLLA_BODY_BLOCK, 1},
        {"poll set", sizeof(struct pollfd) + sizeof(void *) + sizeof(uint64_t),
         2 * (OLLA_MAX_CLIENTS + OLLA_MAX_UPSTREAMS + OLLA_MAX_PROBES + 16)},
    };
    size_t total = 0;

    loop_init_pools();
    for (int i = 0; i < POOL_COUNT; i++) {
        const struct pool_stats *p = pool_stats((enum pool_id)i);
        printf("%-16s %6zu x %5zu = %9zu  (when empty: %s)\n", p->name, p->size, p->count, p->size * p->count,
               p->when_empty);
        total += p->size * p->count;
    }
    for (size_t i = 0; i < OLLA_COUNT(fixed); i++) {
        printf("%-16s %6zu x %5zu = %9zu\n", fixed[i].name, fixed[i].size, fixed[i].count,
               fixed[i].size * fixed[i].count);
        total += fixed[i].size * fixed[i].count;
    }
    if (tls_library()) {
        printf("%s allocates about 40 KB more for each TLS connection that is open at the same time\n", tls_library());
    }
    printf("total %zu bytes of address space; what is never used is never touched\n", total);
    return OLLA_EXIT_OK;
}

/* ---- start -------------------------------------------------------------------------------- */

#if OLLA_TEST
/* A test build proves at its end that nothing was left behind. */
static int check_pools(int code)
{
    for (int i = 0; i < POOL_COUNT; i++) {
        const struct pool_stats *p = pool_stats((enum pool_id)i);
        if (i != POOL_MODEL && p->used > 0) {
            fprintf(stderr, "olla: pool %s: %zu still in use at the end\n", p->name, p->used);
            code = 70;
        }
    }
    return code;
}
#endif

/* Whether server.user is somebody. Not at a reload: names may come from the network. */
static int check_user(const struct conf *c)
{
    if (c->server.user[0] && plat_user_check(c->server.user) != OLLA_OK) {
        conf_tell_setting(say, "server.user", plat_error_text(), c->server.user);
        return OLLA_ERR;
    }
    return OLLA_OK;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    int code = read_options(argc, argv, &o);

    if (code >= 0) {
        return code;
    }
    const char *path = conf_find(o.config, say);
    if (o.memory && path) {
        return print_memory();
    }
    bool valid = path && conf_load(&confs[0], path, say) == OLLA_OK && endpoint_check(&confs[0], say) == OLLA_OK &&
                 check_user(&confs[0]) == OLLA_OK;
    if (o.validate) {
        const char *shown = path ? path : o.config ? o.config : "";
        printf("olla: configuration %s is %s\n", shown[0] ? shown : "(built-in defaults)",
               valid ? "valid" : "not valid");
    }
    if (!valid || o.validate) {
        return valid ? OLLA_EXIT_OK : OLLA_EXIT_CONF;
    }
    plat_harden();
    int signals = plat_signals_open();
    if (signals == OLLA_ERR) {
        fprintf(stderr, "olla: cannot start: %s\n", plat_error_text());
        return OLLA_EXIT_CONF;
    }
    code = loop_run(&confs[0], &confs[1], signals);
#if OLLA_TEST
    code = check_pools(code);
#endif
    return code;
}
