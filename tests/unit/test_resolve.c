/*
 * test_resolve.c - the resolver of platform.h. No question leaves the machine.
 *
 * Build it twice: with and without -DOLLA_RESOLVER_SYNC=1 (in resolve.c too).
 * Every wait is bounded, and an alarm ends the program if it hangs all the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../platform/platform.h"

#ifndef OLLA_RESOLVER_SYNC
#define OLLA_RESOLVER_SYNC 0
#endif

#define WAIT_MS 5000

static short wait_for(int fd, short events)
{
    struct pollfd set = {fd, events, 0};

    return plat_poll(&set, 1, WAIT_MS) > 0 ? set.revents : 0;
}

/* A label of more than 63 bytes: known to be impossible without asking any server. */
#define NO_NAME "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.invalid"

static int next_answer(int fd, struct resolve_answer *out)
{
    uint64_t end = plat_now_ms() + 2 * WAIT_MS;
    int rc = resolve_next(out);

    while (rc == OLLA_AGAIN && fd != RESOLVE_NO_FD && plat_now_ms() < end) {
        wait_for(fd, POLLIN);
        rc = resolve_next(out);
    }
    return rc;
}

static void test_resolve(void **state)
{
    static char long_name[400];
    static const struct {
        const char *host;
        const char *want; /* the one address; "" = none; NULL = a loopback address */
    } cases[] = {
        {"localhost", NULL}, {"127.0.0.1", "127.0.0.1"}, {"::1", "::1"}, {NO_NAME, ""}, {"", ""}, {long_name, ""},
        {"LOCALHOST", NULL}, {"192.0.2.7", "192.0.2.7"},
    };
    struct resolve_answer a;
    struct plat_addr v4, v6;
    char text[46];
    int fd = resolve_open();

    (void)state;
    memset(long_name, 'y', sizeof(long_name) - 1);
    assert_true(OLLA_RESOLVER_SYNC ? fd == RESOLVE_NO_FD : fd >= 0);
    plat_addr_parse("127.0.0.1", 11434, &v4);
    plat_addr_parse("::1", 11434, &v6);
    assert_int_equal(resolve_next(&a), OLLA_AGAIN);
    for (uint32_t i = 0; i < OLLA_COUNT(cases); i++) {
        assert_int_equal(resolve_ask(i + 1000, cases[i].host, 11434), OLLA_OK);
        assert_int_equal(next_answer(fd, &a), OLLA_OK);
        assert_int_equal(a.id, i + 1000);
        if (cases[i].want == NULL) {
            assert_true(a.count >= 1 && a.count <= 2);
            for (int k = 0; k < a.count; k++) {
                assert_true(plat_addr_eq(&a.addr[k], &v4) || plat_addr_eq(&a.addr[k], &v6));
            }
            assert_true(a.count == 1 || !plat_addr_eq(&a.addr[0], &a.addr[1]));
        } else {
            assert_int_equal(a.count, cases[i].want[0] != '\0');
            if (a.count > 0) {
                plat_addr_text(&a.addr[0], text, sizeof(text));
                assert_string_equal(text, cases[i].want);
                assert_int_equal(plat_addr_port(&a.addr[0]), 11434);
            }
        }
    }
    resolve_close();
}

static void test_resolve_many(void **state)
{
    struct resolve_answer a;
    uint32_t asked = 0, answered = 0;
    int rc = OLLA_OK;
    int fd = resolve_open();

    (void)state;
    /* First without reading, until there is no room; then both together. */
    for (int i = 0; i < 20000 && rc == OLLA_OK; i++) {
        rc = resolve_ask(asked, "127.0.0.1", 1);
        asked += rc == OLLA_OK ? 1 : 0;
    }
    assert_int_equal(rc, OLLA_AGAIN);
    assert_true(asked >= 8);
    for (uint32_t end = asked + 500; answered < end; answered++) {
        if (asked < end && resolve_ask(asked, "127.0.0.1", 1) == OLLA_OK) {
            asked++;
        }
        assert_int_equal(next_answer(fd, &a), OLLA_OK);
        assert_int_equal(a.id, answered);
        assert_int_equal(a.count, 1);
        if (asked == answered + 1) {
            end = asked;
        }
    }
    resolve_close();
}

#if !OLLA_RESOLVER_SYNC

/* The one running child of process pid, 0 if there are none or several; -1 where it cannot be known. */
static long look_for_child(long pid)
{
    DIR *dir = opendir("/proc");
    const struct dirent *entry;
    long found = dir != NULL ? 0 : -1;
    int count = 0;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char path[300], text[512], status = 0;
        long one = 0, parent = 0;
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
        f = entry->d_name[0] >= '1' && entry->d_name[0] <= '9' ? fopen(path, "r") : NULL;
        if (f == NULL) {
            continue;
        }
        if (fgets(text, sizeof(text), f) != NULL && strrchr(text, ')') != NULL && sscanf(text, "%ld", &one) == 1 &&
            sscanf(strrchr(text, ')'), ") %c %ld", &status, &parent) == 2 && parent == pid && status != 'Z') {
            found = one;
            count++;
        }
        fclose(f);
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return count > 1 ? 0 : found;
}

/* As above, after children of earlier tests have had time to end. */
static long child_of(long pid)
{
    long found = 0;

    for (int i = 0; i < 200 && found == 0; i++) {
        found = look_for_child(pid);
        if (found == 0) {
            plat_poll(NULL, 0, 10);
        }
    }
    return found;
}

static bool runs(long pid)
{
    char path[64], text[512];
    const char *p;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    f = fopen(path, "r");
    if (f == NULL) {
        return false;
    }
    p = fgets(text, sizeof(text), f) != NULL ? strrchr(text, ')') : NULL;
    fclose(f);
    return p != NULL && p[2] != 'Z';
}

static bool ends_soon(long pid)
{
    for (int i = 0; i < 100 && runs(pid); i++) {
        plat_poll(NULL, 0, 20);
    }
    return !runs(pid);
}

static void test_resolver_killed(void **state)
{
    struct resolve_answer a;
    int fd = resolve_open();
    long pid;

    (void)state;
    assert_true(fd >= 0);
    for (int round = 0; round < 10; round++) {
        assert_int_equal(resolve_ask(1, "127.0.0.1", 1), OLLA_OK);
        assert_int_equal(next_answer(fd, &a), OLLA_OK);
        pid = child_of((long)getpid());
        if (pid > 0) {
            kill((pid_t)pid, SIGKILL);
        } else {
            shutdown(fd, SHUT_RDWR); /* looks the same from here */
        }
        assert_true(wait_for(fd, POLLIN) != 0);
        assert_int_equal(next_answer(fd, &a), OLLA_ERR);
        assert_int_equal(resolve_ask(2, "127.0.0.1", 1), OLLA_ERR);
        fd = resolve_reopen();
        assert_true(fd >= 0);
    }
    resolve_close();
    assert_int_equal(resolve_ask(3, "127.0.0.1", 1), OLLA_ERR);
    assert_int_equal(resolve_next(&a), OLLA_ERR);
    plat_poll(NULL, 0, 100);
    assert_int_equal(resolve_ask(3, "127.0.0.1", 1), OLLA_ERR); /* reaps what was still dying */
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);           /* no zombie is left */
}

/* What was open when the child was started again must still end when we close it. */
static void test_resolver_holds_nothing(void **state)
{
    struct resolve_answer a;
    int fds[2];
    int fd;
    char c;

    (void)state;
    assert_true(resolve_open() >= 0);
    assert_int_equal(pipe(fds), 0);
    fd = resolve_reopen();
    assert_true(fd >= 0);
    assert_int_equal(resolve_ask(1, "127.0.0.1", 1), OLLA_OK);
    assert_int_equal(next_answer(fd, &a), OLLA_OK);
    close(fds[1]);
    assert_true(wait_for(fds[0], POLLIN) & (POLLIN | POLLHUP));
    assert_int_equal(plat_read(fds[0], &c, 1), OLLA_EOF);
    close(fds[0]);
    resolve_close();
}

static void test_resolver_ignores_signals(void **state)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
    struct resolve_answer a;
    int fd;
    long pid;

    (void)state;
    assert_true(plat_signals_open() >= 0);
    fd = resolve_open();
    assert_int_equal(resolve_ask(1, "127.0.0.1", 1), OLLA_OK);
    assert_int_equal(next_answer(fd, &a), OLLA_OK);
    pid = child_of((long)getpid());
    if (pid > 0) {
        for (size_t i = 0; i < OLLA_COUNT(numbers); i++) {
            kill((pid_t)pid, numbers[i]);
        }
        assert_int_equal(resolve_ask(2, "127.0.0.1", 1), OLLA_OK);
        assert_int_equal(next_answer(fd, &a), OLLA_OK);
        assert_int_equal(plat_signal_next(), PLAT_SIG_NONE); /* our pipe did not hear of it */
    }
    resolve_close();
    assert_true(pid <= 0 || ends_soon(pid));
}

static void test_resolver_ends_with_parent(void **state)
{
    pid_t helper = fork();
    long pid;

    (void)state;
    assert_true(helper != -1);
    if (helper == 0) {
        (void)resolve_open();
        (void)poll(NULL, 0, 2 * WAIT_MS);
        _exit(0);
    }
    pid = child_of(helper);
    kill(helper, SIGKILL);
    waitpid(helper, NULL, 0);
    assert_true(pid != 0);
    assert_true(pid < 0 || ends_soon(pid));
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_resolve_many),
#if !OLLA_RESOLVER_SYNC
        cmocka_unit_test(test_resolver_killed),
        cmocka_unit_test(test_resolver_holds_nothing),
        cmocka_unit_test(test_resolver_ignores_signals),
        cmocka_unit_test(test_resolver_ends_with_parent),
#endif
    };

    alarm(120);
    return cmocka_run_group_tests_name("resolve", tests, NULL, NULL);
}
