/*
 * test_platform.c - platform.h but for the resolver, in one process, on the
 * loopback interface only.
 *
 * Every wait is bounded, and an alarm ends the program if it hangs all the same.
 */
#define _XOPEN_SOURCE     700 /* posix_openpt */
#define _FILE_OFFSET_BITS 64  /* as platform/posix.c has it */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../platform/platform.h"

#define WAIT_MS 5000

static short wait_for(int fd, short events)
{
    struct pollfd set = {fd, events, 0};

    return plat_poll(&set, 1, WAIT_MS) > 0 ? set.revents : 0;
}

static int option_of(int fd, int level, int option)
{
    int value = -1;
    socklen_t len = sizeof(value);

    assert_int_equal(getsockopt(fd, level, option, &value, &len), 0);
    return value;
}

/* Two ends of one connection over 127.0.0.1, or another literal. */
static void make_pair(const char *ip, int *client, int *server)
{
    struct plat_addr a, peer;
    int listener;

    assert_int_equal(plat_addr_parse(ip, 0, &a), OLLA_OK);
    listener = plat_listen(&a);
    assert_true(listener >= 0);
    plat_addr_set_port(&a, plat_local_port(listener));
    assert_int_equal(plat_accept(listener, &peer), OLLA_AGAIN);
    *client = plat_connect(&a, 30);
    assert_true(*client >= 0);
    assert_true(wait_for(listener, POLLIN) & POLLIN);
    *server = plat_accept(listener, &peer);
    assert_true(*server >= 0);
    assert_true(wait_for(*client, POLLOUT) & POLLOUT);
    assert_int_equal(plat_connected(*client), OLLA_OK);
    assert_int_equal(plat_addr_port(&peer), plat_local_port(*client));
    plat_addr_set_port(&a, plat_addr_port(&peer));
    assert_true(plat_addr_eq(&a, &peer));
    plat_close(listener);
}

/* ---- time and addresses ------------------------------------------------- */

static void test_clock(void **state)
{
    uint64_t ms = plat_now_ms();
    uint64_t a = 0, b = 0;

    (void)state;
    assert_int_equal(plat_poll(NULL, 0, 30), 0);
    assert_true(plat_now_ms() - ms >= 29);
    assert_true(plat_wall_ms() / 1000 - (int64_t)time(NULL) <= 1);
    plat_random(&a, sizeof(a));
    plat_random(&b, sizeof(b));
    assert_true(a != b);
}

static void test_time_of(void **state)
{
    static const struct {
        const char *zone; /* NULL = UTC */
        int64_t ms;
        struct plat_time want;
    } cases[] = {
        {NULL, 0, {1970, 1, 1, 4, 0, 0, 0, 0, 0}},
        {NULL, -1, {1969, 12, 31, 3, 23, 59, 59, 999, 0}},
        {NULL, 1709210096789, {2024, 2, 29, 4, 12, 34, 56, 789, 0}},
        {NULL, 4102444800000, {2100, 1, 1, 5, 0, 0, 0, 0, 0}},
        {"EST5EDT,M3.2.0,M11.1.0", 1704074400000, {2023, 12, 31, 0, 21, 0, 0, 0, -300}},
        {"EST5EDT,M3.2.0,M11.1.0", 1720000000000, {2024, 7, 3, 3, 5, 46, 40, 0, -240}},
        {"IST-5:30", 1704056399000, {2024, 1, 1, 1, 2, 29, 59, 0, 330}},
        {"UTC0", 0, {1970, 1, 1, 4, 0, 0, 0, 0, 0}},
    };
    struct plat_time got;

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        if (cases[i].zone != NULL) {
            setenv("TZ", cases[i].zone, 1);
            tzset();
        }
        plat_time_of(cases[i].ms, cases[i].zone != NULL, &got);
        assert_memory_equal(&got, &cases[i].want, sizeof(got));
    }
}

static void test_loopback(void **state)
{
    static const struct {
        const char *ip;
        bool is;
    } rows[] = {
        {"127.0.0.1", true},
        {"127.9.8.7", true},
        {"128.0.0.1", false},
        {"10.0.0.127", false},
        {"0.0.0.0", false},
        {"::1", true},
        {"::", false},
        {"::2", false},
        {"::ffff:127.0.0.1", true},
        {"::ffff:126.0.0.1", false},
        {"fe80::7f00:1", false},
        {"7f00::1", false},
    };
    struct plat_addr a;

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        assert_int_equal(plat_addr_parse(rows[i].ip, 80, &a), OLLA_OK);
        assert_int_equal(plat_addr_is_loopback(&a), rows[i].is);
    }
    memset(&a, 0, sizeof(a));
    assert_false(plat_addr_is_loopback(&a));
}

static void test_addr(void **state)
{
    static const char *const good[][2] = {
        {"127.0.0.1", "127.0.0.1"},         {"0.0.0.0", "0.0.0.0"}, {"::1", "::1"},
        {"2001:DB8:0:0::7", "2001:db8::7"}, {"::", "::"},           {"::ffff:10.1.2.3", "10.1.2.3"},
        {"fe80::1%1", "fe80::1"},
    };
    static const char *const bad[] = {"",          "localhost",
                                      "1.2.3",     "1.2.3.4.5",
                                      "127.1",     "[::1]",
                                      "1::2::3",   "::1%",
                                      "1.2.3.4%1", "::1%no-such-if",
                                      "1.2.3.4 ",  "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000"};
    struct plat_addr a, b;
    char text[46];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(good); i++) {
        assert_int_equal(plat_addr_parse(good[i][0], 8080, &a), OLLA_OK);
        plat_addr_text(&a, text, sizeof(text));
        assert_string_equal(text, good[i][1]);
        assert_int_equal(plat_addr_port(&a), 8080);
        assert_int_equal(plat_addr_parse(good[i][0], 1, &b), OLLA_OK);
        assert_false(plat_addr_eq(&a, &b));
        plat_addr_set_port(&b, 8080);
        assert_true(plat_addr_eq(&a, &b));
    }
    for (size_t i = 0; i < OLLA_COUNT(bad); i++) {
        assert_int_equal(plat_addr_parse(bad[i], 1, &a), OLLA_ERR);
        assert_int_equal(a.len, 0);
    }
    plat_addr_text(&a, text, sizeof(text));
    assert_string_equal(text, "");
    plat_addr_parse("127.0.0.1", 1, &a);
    plat_addr_text(&a, text, 4);
    assert_string_equal(text, "");
    plat_addr_parse("::1", 1, &b);
    assert_false(plat_addr_eq(&a, &b));
}

static void test_listen_everywhere(void **state)
{
    struct plat_addr addrs[4];
    int fds[4];
    int bound = 0;
    int n = plat_listen_addrs("", 0, addrs, 4);

    (void)state;
    assert_true(n == 1 || n == 2);
    /* Another program may hold the second port of the pair, hence the tries. */
    for (int tries = 0; tries < 20 && bound < n; tries++) {
        plat_addr_set_port(&addrs[0], 0);
        for (bound = 0; bound < n; bound++) {
            fds[bound] = plat_listen(&addrs[bound]);
            if (fds[bound] < 0) {
                break;
            }
            plat_addr_set_port(&addrs[1], plat_local_port(fds[bound]));
        }
        for (int i = 0; i < bound; i++) {
            plat_close(fds[i]);
        }
    }
    assert_int_equal(bound, n);
    assert_int_equal(plat_listen_addrs("127.0.0.1", 80, addrs, 4), 1);
    assert_int_equal(plat_addr_port(&addrs[0]), 80);
    assert_true(plat_listen_addrs("localhost", 80, addrs, 4) >= 1);
    assert_int_equal(plat_listen_addrs("::1", 80, addrs, 4), 1);
    assert_int_equal(plat_listen_addrs("no such host", 80, addrs, 4), OLLA_ERR);
    assert_int_equal(plat_error(), PLAT_FAIL_OTHER);
    assert_true(strlen(plat_error_text()) > 0);
    assert_int_equal(plat_addr_parse("192.0.2.1", 1, &addrs[0]), OLLA_OK);
    assert_int_equal(plat_listen(&addrs[0]), OLLA_ERR); /* not an address of this machine */
}

/* ---- sockets ------------------------------------------------------------ */

static void check_traffic(const char *ip)
{
    int client, server;
    char buf[64];
    struct iovec v[2] = {{(char *)"wor", 3}, {(char *)"ld", 2}};

    make_pair(ip, &client, &server);
    assert_int_equal(plat_read(server, buf, sizeof(buf)), OLLA_AGAIN);
    assert_int_equal(plat_write(client, "hello ", 6), 6);
    assert_int_equal(plat_writev(client, v, 2), 5);
    for (long have = 0; have < 11;) {
        long got;

        assert_true(wait_for(server, POLLIN) & POLLIN);
        got = plat_read(server, buf + have, sizeof(buf) - (size_t)have);
        assert_true(got > 0);
        have += got;
    }
    assert_memory_equal(buf, "hello world", 11);
    assert_int_equal(plat_read(server, buf, 0), OLLA_AGAIN); /* no room is not the end */

    plat_shutdown_write(client);
    assert_true(wait_for(server, POLLIN) & POLLIN);
    assert_int_equal(plat_read(server, buf, sizeof(buf)), OLLA_EOF);
    assert_int_equal(plat_write(server, "bye", 3), 3); /* the other way still works */
    assert_true(wait_for(client, POLLIN) & POLLIN);
    assert_int_equal(plat_read(client, buf, sizeof(buf)), 3);
    plat_close(server);
    assert_true(wait_for(client, POLLIN) & POLLIN);
    assert_int_equal(plat_read(client, buf, sizeof(buf)), OLLA_EOF);
    plat_close(client);
}

static void test_traffic(void **state)
{
    struct plat_addr a;
    int fd;

    (void)state;
    check_traffic("127.0.0.1");
    plat_addr_parse("::1", 0, &a);
    fd = plat_listen(&a);
    if (fd >= 0) {
        plat_close(fd);
        check_traffic("::1");
    }
}

static void test_socket_options(void **state)
{
    int fds[2];

    (void)state;
    make_pair("127.0.0.1", &fds[0], &fds[1]);
    for (int i = 0; i < 2; i++) {
        assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
        assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
        assert_true(option_of(fds[i], IPPROTO_TCP, TCP_NODELAY) != 0);
    }
    assert_true(option_of(fds[0], SOL_SOCKET, SO_KEEPALIVE) != 0);
    assert_int_equal(option_of(fds[1], SOL_SOCKET, SO_KEEPALIVE), 0);
    plat_keepalive(fds[1], 60);
    assert_true(option_of(fds[1], SOL_SOCKET, SO_KEEPALIVE) != 0);
#ifdef TCP_KEEPIDLE
    assert_int_equal(option_of(fds[0], IPPROTO_TCP, TCP_KEEPIDLE), 30);
    assert_int_equal(option_of(fds[1], IPPROTO_TCP, TCP_KEEPIDLE), 60);
#endif
    plat_close(fds[0]);
    plat_close(fds[1]);
}

static void test_abort_is_seen_as_reset(void **state)
{
    int client, server;
    char c;

    (void)state;
    make_pair("127.0.0.1", &client, &server);
    plat_abort(client);
    assert_true(wait_for(server, POLLIN) != 0);
    assert_int_equal(plat_read(server, &c, 1), OLLA_ERR);
    assert_int_equal(plat_error(), PLAT_FAIL_RESET);
    assert_int_equal(plat_write(server, "x", 1), OLLA_ERR); /* no SIGPIPE */
    assert_int_equal(plat_error(), PLAT_FAIL_RESET);
    plat_close(server);
}

static void test_connection_refused(void **state)
{
    struct plat_addr a;
    int fd;

    (void)state;
    plat_addr_parse("127.0.0.1", 0, &a);
    fd = plat_listen(&a);
    assert_true(fd >= 0);
    plat_addr_set_port(&a, plat_local_port(fd));
    plat_close(fd);
    fd = plat_connect(&a, 0);
    if (fd >= 0) {
        assert_true(wait_for(fd, POLLOUT) != 0);
        assert_int_equal(plat_connected(fd), OLLA_ERR);
        plat_close(fd);
    }
    assert_int_equal(plat_error(), PLAT_FAIL_REFUSED);
}

static void test_back_pressure(void **state)
{
    static char block[65536];
    int client, server;
    long rc = 0;
    size_t sent = 0, received = 0;

    (void)state;
    make_pair("127.0.0.1", &client, &server);
    for (int i = 0; i < 10000 && rc >= 0; i++) {
        rc = plat_write(client, block, sizeof(block));
        sent += rc > 0 ? (size_t)rc : 0;
    }
    assert_int_equal(rc, OLLA_AGAIN);
    for (int i = 0; i < 100000 && received < sent && wait_for(server, POLLIN) != 0; i++) {
        rc = plat_read(server, block, sizeof(block));
        received += rc > 0 ? (size_t)rc : 0;
    }
    assert_int_equal(received, sent);
    assert_true(wait_for(client, POLLOUT) & POLLOUT);
    plat_close(client);
    plat_close(server);
}

/* ---- signals and poll --------------------------------------------------- */

static void test_signals(void **state)
{
    static const struct {
        int number;
        enum plat_signal event;
    } cases[] = {{SIGTERM, PLAT_SIG_TERM},
                 {SIGINT, PLAT_SIG_TERM},
                 {SIGHUP, PLAT_SIG_RELOAD},
                 {SIGUSR1, PLAT_SIG_REPORT}};
    int fd = plat_signals_open();
    enum plat_signal last = PLAT_SIG_TERM;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(plat_signals_open(), fd);
    assert_int_equal(plat_signal_next(), PLAT_SIG_NONE);
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        raise(cases[i].number);
        assert_true(wait_for(fd, POLLIN) & POLLIN);
        assert_int_equal(plat_signal_next(), cases[i].event);
        assert_int_equal(plat_signal_next(), PLAT_SIG_NONE);
    }
    raise(SIGPIPE);
    assert_int_equal(plat_signal_next(), PLAT_SIG_NONE);
    for (int i = 0; i < 100000; i++) {
        raise(SIGUSR1); /* a full pipe must not block the handler */
    }
    for (int i = 0; i < 100001 && last != PLAT_SIG_NONE; i++) {
        last = plat_signal_next();
    }
    assert_int_equal(last, PLAT_SIG_NONE);
}

static void test_poll_interrupted(void **state)
{
    pid_t self = getpid();
    pid_t helper;
    uint64_t start;

    (void)state;
    assert_true(plat_signals_open() >= 0);
    helper = fork();
    assert_true(helper != -1);
    if (helper == 0) {
        (void)poll(NULL, 0, 100);
        kill(self, SIGUSR1);
        _exit(0);
    }
    start = plat_now_ms();
    assert_int_equal(plat_poll(NULL, 0, WAIT_MS), 0);
    assert_true(plat_now_ms() - start < WAIT_MS - 100);
    assert_int_equal(plat_signal_next(), PLAT_SIG_REPORT);
    assert_int_equal(waitpid(helper, NULL, 0), helper);
}

/* ---- files and process -------------------------------------------------- */

static const char *scratch_dir(void)
{
    const char *dir = getenv("TMPDIR");

    return dir != NULL ? dir : "/tmp";
}

static void test_spool(void **state)
{
    static char block[100000], back[100000];
    int fd = plat_spool_open(scratch_dir());
    struct stat st;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_nlink, 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    for (size_t i = 0; i < sizeof(block); i++) {
        block[i] = (char)(i * 7 + i / 251);
    }
    assert_int_equal(plat_spool_read(fd, 0, back, 1), OLLA_ERR); /* nothing there yet */
    assert_int_equal(plat_spool_write(fd, 0, block, sizeof(block)), OLLA_OK);
    assert_int_equal(plat_spool_write(fd, sizeof(block), "tail", 4), OLLA_OK);
    assert_int_equal(plat_spool_read(fd, 0, back, sizeof(back)), (long)sizeof(back));
    assert_memory_equal(block, back, sizeof(block));
    assert_int_equal(plat_spool_read(fd, sizeof(block) + 1, back, sizeof(back)), 3);
    assert_memory_equal(back, "ail", 3);
    assert_int_equal(plat_spool_write(fd, 5000000000u, "far", 3), OLLA_OK); /* sparse, over 4 GB */
    assert_int_equal(plat_spool_read(fd, 5000000000u, back, 3), 3);
    assert_int_equal(plat_spool_read(fd, 5000000000u % 4294967296u, back, 1), 1);
    assert_int_equal(back[0], 0); /* and nowhere else, where the system's own numbers have 32 bits */
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size == 5000000003);
    plat_close(fd);
    assert_int_equal(plat_spool_open("/no/such/dir"), OLLA_ERR);
    assert_int_equal(plat_error(), PLAT_FAIL_OTHER);
    assert_true(plat_readable("/dev/null"));
    assert_false(plat_readable("/no/such/file"));
}

static void test_file_read(void **state)
{
    char path[256], fifo[280], back[8];
    (void)state;
    (void)snprintf(path, sizeof(path), "%s/olla-file-%d", scratch_dir(), (int)getpid());
    (void)snprintf(fifo, sizeof(fifo), "%s.fifo", path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(plat_file_read(path, back, sizeof(back)), 0);
    assert_int_equal(write(fd, "0123456789", 10), 10);
    close(fd);
    assert_int_equal(plat_file_read(path, back, sizeof(back)), 8);
    assert_memory_equal(back, "01234567", 8);
    assert_int_equal(plat_file_read(path, back, 0), 0);
    assert_int_equal(plat_file_read("/no/such/file", back, sizeof(back)), OLLA_ERR);
    assert_string_equal(plat_error_text(), "No such file or directory");
    assert_int_equal(plat_file_read(scratch_dir(), back, sizeof(back)), OLLA_ERR);
    assert_int_equal(plat_file_read("/dev/zero", back, sizeof(back)), OLLA_ERR);
    assert_int_equal(mkfifo(fifo, 0600), 0); /* nobody writes: it must not wait */
    assert_int_equal(plat_file_read(fifo, back, sizeof(back)), OLLA_ERR);
    (void)unlink(fifo);
    (void)unlink(path);
}

static void test_spool_full(void **state)
{
    static char block[8192];
    struct rlimit before, small;
    int fd = open("/dev/full", O_RDWR);

    (void)state;
    if (fd != -1) {
        assert_int_equal(plat_spool_write(fd, 0, block, sizeof(block)), OLLA_ERR);
        assert_int_equal(plat_error(), PLAT_FAIL_NO_SPACE);
        close(fd);
    }
    assert_true(plat_signals_open() >= 0); /* SIGXFSZ would end the program */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 10000;
    fd = plat_spool_open(scratch_dir());
    assert_true(fd >= 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(plat_spool_write(fd, 0, block, sizeof(block)), OLLA_OK);
    assert_int_equal(plat_spool_write(fd, sizeof(block), block, sizeof(block)), OLLA_ERR);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(plat_error(), PLAT_FAIL_NO_SPACE);
    plat_close(fd);
}

/* Writes until there is no room: the sum of what went out. A call that blocks is ended by the alarm. */
static size_t fill(int fd, size_t n)
{
    static char line[100000];
    size_t total = 0;
    long rc = 0;

    memset(line, 'x', sizeof(line));
    for (int i = 0; i < 100000 && rc >= 0; i++) {
        rc = plat_log_write(fd, line, n);
        total += rc > 0 ? (size_t)rc : 0;
    }
    assert_int_equal(rc, OLLA_AGAIN);
    return total;
}

static void test_log_to_pipe(void **state)
{
    static const size_t sizes[] = {1, 37, 4096, 5000, 100000};
    static char sink[4096];
    int fds[2];

    (void)state;
    assert_true(plat_signals_open() >= 0); /* SIGPIPE */
    assert_int_equal(pipe(fds), 0);
    for (size_t i = 0; i < OLLA_COUNT(sizes); i++) {
        size_t left = fill(fds[1], sizes[i]);

        assert_int_equal(fcntl(fds[1], F_GETFL) & O_NONBLOCK, 0);
        while (left > 0) {
            ssize_t got = read(fds[0], sink, left < sizeof(sink) ? left : sizeof(sink));

            assert_true(got > 0);
            left -= (size_t)got;
        }
    }
    close(fds[0]);
    assert_int_equal(plat_log_write(fds[1], "x", 1), OLLA_ERR);
    close(fds[1]);
}

static void test_log_to_socket(void **state)
{
    int fds[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    assert_true(fill(fds[1], 1000) > 1000);
    assert_int_equal(fcntl(fds[1], F_GETFL) & O_NONBLOCK, 0);
    close(fds[0]);
    assert_int_equal(plat_log_write(fds[1], "x", 1), OLLA_ERR);
    close(fds[1]);
}

static void test_log_to_terminal(void **state)
{
    static char sink[4096];
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    int slave, saved;
    const char *path;

    (void)state;
    if (master == -1 || grantpt(master) == -1 || unlockpt(master) == -1 || (path = ptsname(master)) == NULL) {
        skip();
    }
    slave = open(path, O_RDWR | O_NOCTTY);
    saved = dup(STDIN_FILENO);
    assert_true(slave != -1);
    assert_true(dup2(slave, STDIN_FILENO) != -1); /* only standard descriptors are opened anew */
    assert_true(plat_is_tty(STDIN_FILENO));
    assert_true(fill(STDIN_FILENO, 5000) > 0);
    assert_int_equal(fcntl(STDIN_FILENO, F_GETFL) & O_NONBLOCK, 0);
    assert_true(read(master, sink, sizeof(sink)) > 0);
    assert_true(wait_for(slave, POLLOUT) != 0);
    assert_true(fill(STDIN_FILENO, 5000) > 0);
    if (saved != -1) {
        dup2(saved, STDIN_FILENO);
        close(saved);
    }
    close(slave);
    close(master);
}

static void test_log_to_file(void **state)
{
    static char block[100000];
    int fd = plat_spool_open(scratch_dir());

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(plat_log_write(fd, block, sizeof(block)), (long)sizeof(block));
    plat_close(fd);
    assert_int_equal(plat_log_write(fd, "x", 1), OLLA_ERR);
}

static void test_process(void **state)
{
    long limit = plat_raise_fd_limit(1);

    (void)state;
    assert_true(limit > 1);
    assert_true(plat_raise_fd_limit(SIZE_MAX / 2) >= limit);
#ifdef __linux__
    assert_true(plat_rss_bytes() > 100000);
#endif
}

/* Who there is; that root can become another is tested with the whole program. */
static void test_user(void **state)
{
    static const struct {
        const char *who;
        const char *fault; /* NULL = there is one */
    } cases[] = {
        {"root", NULL},
        {"0", NULL},
        {"0:0", NULL},
        {"root:0", NULL},
        {"4000000000:4000000000", NULL}, /* numbers need no names */
        {"4000000000", "a number without a name needs a group, too, as UID:GID"},
        {"", "there is no such user"},
        {":", "there is no such user"},
        {":0", "there is no such user"},
        {"no such", "there is no such user"},
        {"-1", "there is no such user"},
        {"0x0", "there is no such user"},
        {"4294967295:0", "there is no such user"}, /* the number that means nobody at all */
        {"18446744073709551616:0", "there is no such user"},
        {"root:", "there is no such group"},
        {"root:no such", "there is no such group"},
        {"0:4294967295", "there is no such group"},
        {"root:0:0", "there is no such group"},
    };
    char self[64];
    static char long_name[400];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        assert_int_equal(plat_user_check(cases[i].who), cases[i].fault ? OLLA_ERR : OLLA_OK);
        if (cases[i].fault) {
            assert_string_equal(plat_error_text(), cases[i].fault);
        }
    }
    memset(long_name, 'x', sizeof(long_name) - 1);
    assert_int_equal(plat_user_check(long_name), OLLA_ERR);
    (void)snprintf(self, sizeof(self), "%lu:%lu", (unsigned long)getuid(), (unsigned long)getgid());
    assert_int_equal(plat_user_become(self), OLLA_OK);
    assert_int_equal(plat_user_become("no such"), OLLA_ERR);
}

static void test_out_of_descriptors(void **state)
{
    struct rlimit before, small;
    struct plat_addr a;
    int first = dup(STDERR_FILENO);

    (void)state;
    plat_addr_parse("127.0.0.1", 0, &a);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    small = before;
    small.rlim_cur = (rlim_t)first;
    close(first);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    assert_int_equal(plat_listen(&a), OLLA_ERR);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(plat_error(), PLAT_FAIL_NO_FDS);
}

/* ---- programs, datagrams, files that take the place of others ---------------- */

/* Runs a shell with that text; what it wrote is in `said`. Its code. */
static int run_shell(const char *text, char *said, size_t cap)
{
    const char *argv[] = {"/bin/sh", "-c", text, NULL}, *env[] = {"OLLA_A=one two", "OLLA_B=", NULL};
    struct plat_program p;
    size_t n = 0;
    int code = -1;
    long got;

    assert_int_equal(plat_program_start(argv, env, &p), OLLA_OK);
    while ((wait_for(p.fd, POLLIN) & (POLLIN | POLLHUP)) && (got = plat_read(p.fd, said + n, cap - 1 - n)) > 0) {
        n += (size_t)got;
    }
    said[n] = '\0';
    for (int i = 0; plat_program_ended(&p, &code) != OLLA_OK && i < 500; i++) {
        plat_poll(NULL, 0, 10);
    }
    plat_close(p.fd);
    return code;
}

static void test_programs(void **state)
{
    static const char *const missing[] = {"/no/such/program", NULL}, *const none[] = {NULL};
    static const char *const endless[] = {"/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done", NULL};
    struct plat_program p;
    char said[512];
    int code = -1;

    (void)state;
    setenv("OLLA_SECRET", "hush", 1);
    assert_int_equal(run_shell("echo \"<$OLLA_A><$OLLA_B><$OLLA_SECRET>\"; echo err >&2; read x; exit 7", said,
                               sizeof(said)),
                     7);
    assert_string_equal(said, "<one two><><>\nerr\n");
    assert_int_equal(run_shell("kill -9 $$", said, sizeof(said)), 128 + SIGKILL);
    /* It has the signals as they are by default, and is in no way part of us. */
    assert_int_equal(run_shell("kill -PIPE $$; echo ignored", said, sizeof(said)), 128 + SIGPIPE);
    assert_int_equal(run_shell("kill -0 -$$ && echo leader", said, sizeof(said)), 0);
    assert_string_equal(said, "leader\n");

    assert_int_equal(plat_program_start(missing, none, &p), OLLA_OK);
    assert_true(wait_for(p.fd, POLLIN) & (POLLIN | POLLHUP));
    for (int i = 0; plat_program_ended(&p, &code) != OLLA_OK && i < 500; i++) {
        plat_poll(NULL, 0, 10);
    }
    assert_int_equal(code, 127);
    plat_close(p.fd);

    assert_int_equal(plat_program_start(endless, none, &p), OLLA_OK);
    assert_int_equal(plat_program_ended(&p, &code), OLLA_AGAIN);
    plat_program_end(&p, true);
    for (int i = 0; plat_program_ended(&p, &code) != OLLA_OK && i < 500; i++) {
        plat_poll(NULL, 0, 10);
    }
    assert_int_equal(code, 128 + SIGKILL);
    plat_close(p.fd);
}

static void test_datagrams(void **state)
{
    struct plat_addr to, found[16];
    struct sockaddr_in name = {.sin_family = AF_INET};
    socklen_t len = sizeof(name);
    char got[16];

    (void)state;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int card = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(bind(card, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(getsockname(card, (struct sockaddr *)&name, &len), 0);
    assert_int_equal(plat_addr_parse("127.0.0.1", ntohs(name.sin_port), &to), OLLA_OK);
    int fd = plat_udp_open(&to);
    assert_true(fd >= 0);
    assert_int_equal(option_of(fd, SOL_SOCKET, SO_BROADCAST), 1);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_int_equal(plat_udp_send(fd, &to, "packet", 6), OLLA_OK);
    assert_true(wait_for(card, POLLIN) & POLLIN);
    assert_int_equal(recv(card, got, sizeof(got), 0), 6);
    assert_memory_equal(got, "packet", 6);

    assert_false(plat_addr_is_everybody(&to));
    assert_int_equal(plat_addr_parse("255.255.255.255", 9, &to), OLLA_OK);
    assert_true(plat_addr_is_everybody(&to));
    int n = plat_broadcasts(fd, 9, found, 16);
    assert_in_range(n, 0, 16);
    for (int i = 0; i < n; i++) {
        assert_int_equal(plat_addr_port(&found[i]), 9);
        assert_false(plat_addr_is_loopback(&found[i]));
    }
    assert_true(plat_broadcasts(fd, 9, found, 0) == 0);
    plat_close(fd);
    close(card);
}

static void test_replace(void **state)
{
    char dir[] = "/tmp/olla-replace-XXXXXX", path[64], beside[64], got[16];

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/file", dir);
    (void)snprintf(beside, sizeof(beside), "%s/file.tmp", dir);
    int fd = plat_replace_open(path);
    assert_true(fd >= 0);
    assert_int_equal(plat_record_write(fd, "first", 5), OLLA_OK);
    assert_int_equal(access(path, F_OK), -1); /* not before it is whole */
    assert_int_equal(plat_replace_done(fd, path, true), OLLA_OK);
    assert_int_equal(access(beside, F_OK), -1);

    fd = plat_replace_open(path);
    assert_int_equal(plat_record_write(fd, "half", 4), OLLA_OK);
    assert_int_equal(plat_replace_done(fd, path, false), OLLA_OK);
    assert_int_equal(access(beside, F_OK), -1);
    assert_int_equal(plat_file_read(path, got, sizeof(got)), 5);

    /* What lies in the way is not written through. */
    assert_int_equal(symlink(path, beside), 0);
    fd = plat_replace_open(path);
    assert_int_equal(plat_record_write(fd, "second", 6), OLLA_OK);
    assert_int_equal(plat_file_read(path, got, sizeof(got)), 5);
    assert_int_equal(plat_replace_done(fd, path, true), OLLA_OK);
    fd = plat_plain_open(path);
    assert_int_equal(plat_read(fd, got, sizeof(got)), 6);
    assert_int_equal(plat_read(fd, got, sizeof(got)), OLLA_EOF);
    plat_close(fd);
    assert_int_equal(plat_plain_open(dir), OLLA_ERR);
    unlink(path);
    rmdir(dir);
    assert_int_equal(plat_replace_open(path), OLLA_ERR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loopback),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_time_of),
        cmocka_unit_test(test_addr),
        cmocka_unit_test(test_listen_everywhere),
        cmocka_unit_test(test_traffic),
        cmocka_unit_test(test_socket_options),
        cmocka_unit_test(test_abort_is_seen_as_reset),
        cmocka_unit_test(test_connection_refused),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_poll_interrupted),
        cmocka_unit_test(test_file_read),
        cmocka_unit_test(test_spool),
        cmocka_unit_test(test_spool_full),
        cmocka_unit_test(test_log_to_pipe),
        cmocka_unit_test(test_log_to_socket),
        cmocka_unit_test(test_log_to_terminal),
        cmocka_unit_test(test_log_to_file),
        cmocka_unit_test(test_process),
        cmocka_unit_test(test_user),
        cmocka_unit_test(test_programs),
        cmocka_unit_test(test_datagrams),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_out_of_descriptors),
    };

    alarm(120);
    return cmocka_run_group_tests_name("platform", tests, NULL, NULL);
}
