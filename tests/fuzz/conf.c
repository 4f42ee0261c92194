/*
 * conf.c - any bytes as a configuration file.
 *
 * It is either refused, with a line of the file in every message, or taken; then its values are in their ranges, the
 * same file gives the same again, and olla, told to read it anew, works with it: it can be asked for its status, and
 * forgets it all.
 */
#include "../fake/world.h"

#include "../../src/conf.h"
#include "../../src/endpoint.h"

static const char *path;
static unsigned errors, warnings, from_elsewhere;

/* "FILE:LINE: ..." */
static void hear(bool error, const char *line)
{
    size_t n = strlen(path);

    errors += error;
    warnings += !error;
    ENSURE(strlen(line) < 2000 && !strchr(line, '\n'));
    ENSURE(strncmp(line, path, n) == 0 && line[n] == ':');
    const char *p = line + n + 1;
    from_elsewhere += *p == ' '; /* about what is not there, so no line */
    ENSURE(*p == ' ' || (*p >= '0' && *p <= '9'));
    while (*p >= '0' && *p <= '9') {
        p++;
    }
    ENSURE(p == line + n + 1 || (p[0] == ':' && p[1] == ' ' && p[2]));
}

static bool inside(const struct conf *c, const char *text)
{
    const void *all = c; /* static texts are elsewhere */
    return text && ((const void *)text < all || (const char *)text >= (const char *)all + sizeof(*c) ||
                    memchr(text, '\0', (size_t)((const char *)all + sizeof(*c) - text)));
}

static void check_values(const struct conf *c)
{
    ENSURE(c->endpoints >= 1 && c->endpoints <= OLLA_MAX_ENDPOINTS && c->text_n <= sizeof(c->text));
    ENSURE(c->aliases >= 0 && c->aliases <= OLLA_MAX_ALIASES && c->profiles <= OLLA_MAX_PROFILES);
    ENSURE(c->keys >= 0 && c->keys <= OLLA_MAX_KEYS);
    ENSURE(c->server.port >= 1 && c->server.max_header_size <= OLLA_MAX_HEAD);
    ENSURE(c->proxy.connection_timeout > 0 && c->proxy.connection_keep_alive > 0);
    ENSURE(c->proxy.response_header_timeout > 0 && c->proxy.read_timeout > 0);
    ENSURE(c->proxy.breaker.window >= 1 && c->proxy.breaker.window <= 32 && c->proxy.breaker.open_time > 0);
    ENSURE(c->proxy.retry.on_status_n >= 0 && c->proxy.retry.on_status_n <= OLLA_MAX_LIST_ITEMS);
    ENSURE(inside(c, c->proxy.spool_dir) && inside(c, c->server.host));
    for (int i = 0; i < c->endpoints; i++) {
        ENSURE(inside(c, c->endpoint[i].name) && c->endpoint[i].name[0]);
        ENSURE(c->endpoint[i].check_interval >= 1000 && c->endpoint[i].check_timeout > 0);
        for (int k = 0; k < i; k++) {
            ENSURE(strcmp(c->endpoint[i].name, c->endpoint[k].name) != 0);
        }
    }
}

static void work_with_it(void)
{
    for (const char *letter = "ic"; *letter; letter++) {
        struct fake_fd *c = fake_client("127.0.0.1");
        world_ask(c, world_request(*letter));
        world_settle(300, 100000);
        struct world_reply r = world_read(c, 0, false);
        output_clear(&r.body);
    }
}

static bool has_control(const char *p, size_t n)
{
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        found = found || p[i] == 0x7f || ((unsigned char)p[i] < ' ' && !strchr("\t\r\n", p[i])) || p[i] == '\0';
    }
    return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct conf c;
    const char *text = (const char *)bytes;

    path = world_write(text, n);
    errors = warnings = 0;
    int rc = conf_load(&c, path, hear);
    ENSURE(rc == OLLA_OK ? errors == 0 && c.warnings == (int)warnings : rc == OLLA_ERR && errors > 0);
    ENSURE(rc == OLLA_ERR || !has_control(text, n));
    unsigned were = errors + warnings;
    ENSURE(conf_load(&c, path, hear) == rc && errors + warnings == 2 * were);
    if (rc == OLLA_OK) {
        errors = 0;
        check_values(&c);
        rc = endpoint_check(&c, hear);
        ENSURE((rc == OLLA_OK) == (errors == 0));
    }
    bool taken = world_begin_with(text, n);
    ENSURE(taken == (rc == OLLA_OK));
    if (taken) {
        work_with_it();
    }
    world_end();
    return 0;
}
