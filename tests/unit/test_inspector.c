/*
 * test_inspector.c - the recorder of the Messages API: what is taken out of its files, where they may be, and how they
 * are opened. What stands in them is tested over the wire.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../platform/platform.h"
#include "../../src/conf.h"
#include "../../src/secrets.h"
#include "guard.h"

/* ---- secrets ------------------------------------------------------------------- */

#define LONG "abcDEF0123456789_.-"

static char got[8192];
static size_t got_n;

static void collect(void *to, const char *p, size_t n)
{
    assert_null(to);
    assert_true(got_n + n < sizeof(got));
    memcpy(got + got_n, p, n);
    got_n += n;
    got[got_n] = '\0';
}

/* The text in pieces that end at a guard page: up to a, up to b, the rest. */
static void feed_in_three(const char *text, size_t a, size_t b)
{
    struct secrets s = {.put = collect};
    size_t n = strlen(text);

    got_n = 0;
    got[0] = '\0';
    secrets_feed(&s, guard_copy(text, a), a);
    secrets_feed(&s, guard_copy(text + a, b - a), b - a);
    secrets_feed(&s, guard_copy(text + b, n - b), n - b);
    secrets_end(&s);
}

static void expect(const char *text, const char *wanted)
{
    size_t n = strlen(text);

    for (size_t a = 0; a <= n; a++) {
        for (size_t b = a; b <= n; b++) {
            feed_in_three(text, a, b);
            if (strcmp(got, wanted) != 0) {
                print_message("cut at %zu and %zu\n", a, b);
            }
            assert_string_equal(got, wanted);
        }
    }
    assert_int_equal(secrets_in((struct str){guard_copy(text, n), n}), strcmp(text, wanted) != 0);
}

/* What a target becomes in the log; its bytes end at a guard page. */
static void expect_target(const char *target, const char *wanted)
{
    size_t n = strlen(target);
    char mem[512];

    for (size_t cap = 0; cap < sizeof(mem); cap = cap < strlen(wanted) + 2 ? cap + 1 : sizeof(mem)) {
        struct text t = text_in(mem, cap);
        secrets_target(&t, (struct str){guard_copy(target, n), n});
        size_t most = strlen(wanted) < cap ? strlen(wanted) : cap;
        assert_int_equal(t.n, most); /* cut off, and never more than fits */
        assert_memory_equal(mem, wanted, most);
    }
}

#define GONE "[REDACTED]"

static void test_targets(void **state)
{
    static const char *const names[] = {
        "api_key",
        "token",
        "access_token",
        "key",
        "password",
        "secret",
        "auth",
        "API-KEY",
        "apikey",
        "Access_Token",
        "client_secret",
        "x-goog-signature",
        "sig",
        "X-Amz-Credential",
        "%6bey",
        "k%65%79",
        "a.very.long.name.of.a.token",
    };
    char target[128], wanted[128];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(names); i++) {
        (void)snprintf(target, sizeof(target), "?a=1&%s=s3cret/x?y;z=%%26&b=2", names[i]);
        (void)snprintf(wanted, sizeof(wanted), "?a=1&%s=" GONE "&b=2", names[i]);
        expect_target(target, wanted);
    }
    expect_target("", "");
    expect_target("/olla/proxy/v1/models", "/olla/proxy/v1/models");
    expect_target("?model=llama3:8b&max_tokens=5&keys=a&tokens&key", "?model=llama3:8b&max_tokens=5&keys=a&tokens&key");
    expect_target("?key=", "?key=" GONE);
    expect_target("?key==s3cret=", "?key=" GONE);
    expect_target("?a=b=c&a=key=c", "?a=b=c&a=key=c");
    expect_target("?a=1;key=s3cret;b=2&c", "?a=1;key=" GONE "&c");
    expect_target("?key%3ds3cret", "?key%3d" GONE);
    expect_target("?next=https%3A%2F%2Fx%3Ftoken%3Ds3cret%26b&c", "?next=https%3A%2F%2Fx%3Ftoken%3D" GONE "&c");
    expect_target("/v1/models%3Fapi_key=s3cret/x", "/v1/models%3Fapi_key=" GONE);
    expect_target("/v1;token=s3cret/models", "/v1;token=" GONE);
    expect_target("/bot/sk-0123456789abcdef/x", "/bot/sk-[removed]/x");
    expect_target("?q=sk-0123456789abcdef&r=a%20sk-0123456789abcdef", "?q=sk-[removed]&r=a%20sk-[removed]");
    expect_target("?%&%k&%6&%zz=1", "?%&%k&%6&%zz=1");
    expect_target("?a\xff\x01\"=\n", "?a\xff\x01\"=\n"); /* the log escapes them */
}

static void expect_same(const char *text)
{
    expect(text, text);
}

static void test_nothing_is_no_secret(void **state)
{
    (void)state;
    assert_false(secrets_in((struct str){NULL, 0})); /* a header that is not there: clang's sanitizer looks at p + 0 */
    expect_same("");
}

static void test_every_prefix(void **state)
{
    static const char *const prefixes[] = {"sk-",   "ghp_",  "gho_", "github_pat_", "glpat-", "hf_",
                                           "xoxb-", "xoxp-", "AKIA", "AIza",        "eyJ"};
    char text[128], wanted[128];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(prefixes); i++) {
        (void)snprintf(text, sizeof(text), "a \"%s" LONG "\", b", prefixes[i]);
        (void)snprintf(wanted, sizeof(wanted), "a \"%s[removed]\", b", prefixes[i]);
        expect(text, wanted);
        (void)snprintf(text, sizeof(text), "%s" LONG, prefixes[i]); /* all there is */
        (void)snprintf(wanted, sizeof(wanted), "%s[removed]", prefixes[i]);
        expect(text, wanted);
        (void)snprintf(text, sizeof(text), "x%s" LONG, prefixes[i]); /* not at the start of the run */
        expect_same(text);
        expect_same(prefixes[i]);
    }
}

static void test_length(void **state)
{
    (void)state;
    expect_same("sk-abcdefghijkl"); /* 15 */
    expect("sk-abcdefghijklm", "sk-[removed]");
    expect("sk-ant-api03-aaaaaaaaaaaaaaaa sk-proj-bbbbbbbbbbbbbbbbbb", "sk-[removed] sk-[removed]");
    expect_same("sk-");
    expect_same("s");
    expect_same("");
    expect_same("SK-ABCDEFGHIJKLMNOP"); /* these have one spelling */
    expect_same("task-0123456789abcdef risk-0123456789abcdef");
    expect("k=sk-abcdefghijklm;sk-abcdefghijklm", "k=sk-[removed];sk-[removed]");
}

static void test_schemes(void **state)
{
    (void)state;
    expect("Authorization: Bearer " LONG "\r\n", "Authorization: Bearer [removed]\r\n");
    expect("bEARER  " LONG ",", "bEARER  [removed],");
    expect("Basic dXNlcjpwYXNzd29yZA==.", "Basic [removed]");
    expect("\"basic YWRtaW46YWRtaW4=\"", "\"basic [removed]\"");
    expect("Bearer ab+/cdefghijklmnopqrs~t== x", "Bearer [removed] x");
    expect("Bearer sk-abcdefghijklmnop", "Bearer sk-[removed]");
    expect("bearer bearer " LONG, "bearer bearer [removed]");
    expect_same("Bearer\t" LONG);
    expect_same("Bearer, " LONG);
    expect_same("Bearers " LONG);
    expect_same("forbearer " LONG);
    expect_same("the basic principles, basic understanding, a basic one; Basic ");
    expect_same("bearer of news: " LONG);
}

/* What an escape stands for is no part of a run, however often it was escaped; what looks like one may be. */
static void test_escapes(void **state)
{
    (void)state;
    expect("{\"a\":\"KEY=\\nsk-abcdefghijklm\"}", "{\"a\":\"KEY=\\nsk-[removed]\"}");
    expect("{\\\"a\\\":\\\"x\\\\nsk-abcdefghijklm\\\"}", "{\\\"a\\\":\\\"x\\\\nsk-[removed]\\\"}");
    expect("\\\\\\\\thf_abcdefghijklm", "\\\\\\\\thf_[removed]");
    expect("\\u00e9sk-abcdefghijklm", "\\u00e9sk-[removed]");
    expect("\\u003csk-abcdefghijklm\\u003e", "\\u003csk-[removed]\\u003e");
    expect("\\\"sk-abcdefghijklm\\\"", "\\\"sk-[removed]\\\"");
    expect("C:\\\\sk-abcdefghijklm", "C:\\\\sk-[removed]");
    expect("\xc3\xa9sk-abcdefghijklm\xc3\xa9", "\xc3\xa9sk-[removed]\xc3\xa9");
    expect_same("\\n\\u12\\u\\\\\\x\\");
}

/* A picture of any size is one run, or many: nothing of it is lost, and nothing is held back. */
static void test_long_runs(void **state)
{
    static char text[6000];

    (void)state;
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        text[i] = "iVBORw0KGgoAAAANSUhEUg"[i % 22];
    }
    feed_in_three(text, 7, 4000);
    assert_string_equal(got, text);
    memcpy(text, "eyJ", 3);
    memcpy(text + 5000, "\" end", 5);
    text[5005] = '\0';
    feed_in_three(text, 7, 4000);
    assert_string_equal(got, "eyJ[removed]\" end");
}

/* ---- settings -------------------------------------------------------------------- */

static struct conf conf;
static char file[] = "/tmp/olla-inspector-XXXXXX";
static char message[700];
static int messages;

static void keep_message(bool error, const char *line)
{
    assert_true(error);
    assert_true(strncmp(line, file, strlen(file)) == 0);
    (void)snprintf(message, sizeof(message), "%s", line + strlen(file));
    messages++;
}

static int load(const char *enabled, const char *key, const char *value)
{
    FILE *f = fopen(file, "w");

    assert_non_null(f);
    (void)fprintf(f, "[translators.anthropic.inspector]\nenabled = %s\n%s = %s\n", enabled, key, value);
    assert_int_equal(fclose(f), 0);
    messages = 0;
    return conf_load(&conf, file, keep_message);
}

static void test_paths(void **state)
{
    static const char *const refused[] = {
        "/",         "//",
        "/.",        "/..",
        "/x/..",     "/x/../..",
        "/etc",      "/etc/",
        "/etc/olla", "//etc",
        "/./etc",    "/../etc",
        "/x/../etc", "/x//../etc/y",
        "/var",      "/var/log/olla",
        "/usr/x",    "/bin",
        "/sbin/x",   "/boot",
        "/sys/x",    "/proc/self",
        "/dev",      "/dev/shm",
        "/root/x",   "/x/y/../../etc/z",
        "/etc/x/..", "/home/../root",
    };
    static const char *const fine[] = {"/etcetera",   "/home/etc",     "/tmp/var/log", "logs",      "../logs", ".",
                                       "/srv/x/../y", "/opt/../opt/x", "/variable",    "/etc/../x", "/x/./y",  "etc"};
    char wanted[300];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(refused); i++) {
        (void)snprintf(wanted, sizeof(wanted),
                       ":3: translators.anthropic.inspector.output_dir: a directory of the system: \"%s\"; allowed: a "
                       "path that is not / and not in /etc, /var, /usr, /bin, /sbin, /boot, /sys, /proc, /dev, /root",
                       refused[i]);
        assert_int_equal(load("true", "output_dir", refused[i]), OLLA_ERR);
        assert_int_equal(messages, 1);
        assert_string_equal(message, wanted);
        assert_int_equal(load("false", "output_dir", refused[i]), OLLA_OK);
    }
    for (size_t i = 0; i < OLLA_COUNT(fine); i++) {
        assert_int_equal(load("true", "output_dir", fine[i]), OLLA_OK);
        assert_string_equal(conf.translators.anthropic.inspector.output_dir, fine[i]);
    }
    assert_int_equal(load("true", "output_dir", "\"\""), OLLA_OK);
    assert_string_equal(conf.translators.anthropic.inspector.output_dir, "./inspector-logs");
    assert_int_equal(load("true", "output_dir", ""), OLLA_OK);
    assert_string_equal(conf.translators.anthropic.inspector.output_dir, "logs/inspector/anthropic");
}

static void test_header_names(void **state)
{
    static const char *const refused[] = {"X:Y", "(x)", "x@y", "x/y", "\"x\"y", "x,y", "\xc3\xa9"};

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(refused); i++) {
        assert_int_equal(load("true", "session_header", refused[i]), OLLA_ERR);
        assert_int_equal(messages, 1);
        assert_non_null(
            strstr(message, ":3: translators.anthropic.inspector.session_header: not the name of a header"));
        assert_non_null(strstr(message, "allowed: letters, digits and "));
        assert_int_equal(load("false", "session_header", refused[i]), OLLA_OK);
    }
    assert_int_equal(load("true", "session_header", "x!#$%&'*+-.^_`|~9Z"), OLLA_OK);
    assert_int_equal(load("true", "session_header", "\"\""), OLLA_OK);
    assert_string_equal(conf.translators.anthropic.inspector.session_header, "X-Session-ID");
}

/* ---- files ------------------------------------------------------------------------- */

static char top[] = "/tmp/olla-records-XXXXXX";

static unsigned mode_of(const char *below)
{
    char path[128];
    struct stat st;

    (void)snprintf(path, sizeof(path), "%s/%s", top, below);
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode & 07777u;
}

static void test_record(void **state)
{
    char dir[64];
    uint64_t end = 99;

    (void)state;
    (void)snprintf(dir, sizeof(dir), "%s/a/b//c", top);
    int fd = plat_record_open(dir, "2026-01-31", "s.jsonl", &end);
    assert_true(fd >= 0);
    assert_int_equal(end, 0);
    assert_int_equal(plat_record_write(fd, "one\n", 4), OLLA_OK);
    plat_close(fd);
    fd = plat_record_open(dir, "2026-01-31", "s.jsonl", &end);
    assert_int_equal(end, 4);
    assert_int_equal(plat_record_write(fd, "two\n", 4), OLLA_OK);
    plat_record_undo(fd, end);
    plat_close(fd);
    fd = plat_record_open(dir, "2026-01-31", "s.jsonl", &end);
    assert_int_equal(end, 4);
    plat_close(fd);
    assert_int_equal(mode_of("a"), 0700);
    assert_int_equal(mode_of("a/b/c"), 0700);
    assert_int_equal(mode_of("a/b/c/2026-01-31"), 0700);
    assert_int_equal(mode_of("a/b/c/2026-01-31/s.jsonl"), 0600);
}

static void test_record_refused(void **state)
{
    char path[128], target[128];
    uint64_t end;

    (void)state;
    int fd = plat_record_open(top, "day", "file", &end);
    assert_true(fd >= 0);
    plat_close(fd);
    (void)snprintf(target, sizeof(target), "%s/day/file", top);
    (void)snprintf(path, sizeof(path), "%s/day/link", top);
    assert_int_equal(symlink(target, path), 0);
    assert_int_equal(plat_record_open(top, "day", "link", &end), OLLA_ERR);
    (void)snprintf(target, sizeof(target), "%s/day", top);
    (void)snprintf(path, sizeof(path), "%s/link", top);
    assert_int_equal(symlink(target, path), 0);
    assert_int_equal(plat_record_open(top, "link", "file", &end), OLLA_ERR);
    (void)snprintf(path, sizeof(path), "%s/day/pipe", top);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(plat_record_open(top, "day", "pipe", &end), OLLA_ERR);
    (void)snprintf(path, sizeof(path), "%s/day/file", top);
    assert_int_equal(plat_record_open(path, "day", "file", &end), OLLA_ERR); /* no directory */
    assert_int_equal(plat_record_open("", "day", "file", &end), OLLA_ERR);
}

/* ---- all ---------------------------------------------------------------------------- */

static int setup(void **state)
{
    (void)state;
    int fd = mkstemp(file);
    if (fd < 0 || !mkdtemp(top)) {
        return -1;
    }
    close(fd);
    return 0;
}

static int teardown(void **state)
{
    char command[128];

    (void)state;
    (void)snprintf(command, sizeof(command), "rm -rf %s %s", top, file);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets),        cmocka_unit_test(test_nothing_is_no_secret),
        cmocka_unit_test(test_every_prefix),   cmocka_unit_test(test_length),
        cmocka_unit_test(test_schemes),        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_long_runs),      cmocka_unit_test(test_paths),
        cmocka_unit_test(test_header_names),   cmocka_unit_test(test_record),
        cmocka_unit_test(test_record_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
