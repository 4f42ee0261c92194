/*
 * resolve.c - level 2: names to addresses without blocking the loop.
 *
 * getaddrinfo blocks, so a child process asks it. Questions and answers are
 * whole records of fixed size on a stream socket pair, in order; the child
 * answers every question, one after the other. With OLLA_RESOLVER_SYNC there
 * is no child and resolve_ask blocks.
 *
 * Invariants:
 *  - our end of the pair never blocks; at most one record each way is in parts;
 *  - the child holds no descriptor but its end, so it keeps no connection open
 *    and ends when ours is closed, however that came about;
 *  - the child never runs a handler of the parent.
 *
 * May include: platform.h, posix.h and system headers.
 */
#include "posix.h"

#include <errno.h>
#include <string.h>

#ifndef OLLA_RESOLVER_SYNC
#define OLLA_RESOLVER_SYNC 0
#endif

#if OLLA_RESOLVER_SYNC

static struct {
    struct resolve_answer item[OLLA_MAX_ENDPOINTS];
    int first;
    int count;
} answers;

int resolve_open(void)
{
    answers.count = 0;
    return RESOLVE_NO_FD;
}

int resolve_ask(uint32_t id, const char *host, uint16_t port)
{
    struct resolve_answer *a;

    if (answers.count == OLLA_MAX_ENDPOINTS) {
        return OLLA_AGAIN;
    }
    a = &answers.item[(answers.first + answers.count) % OLLA_MAX_ENDPOINTS];
    memset(a, 0, sizeof(*a));
    a->id = id;
    a->count = plat_lookup(host, port, a->addr, OLLA_MAX_ADDRS);
    if (a->count < 0) {
        a->count = 0;
    }
    answers.count++;
    return OLLA_OK;
}

int resolve_next(struct resolve_answer *out)
{
    if (answers.count == 0) {
        return OLLA_AGAIN;
    }
    *out = answers.item[answers.first];
    answers.first = (answers.first + 1) % OLLA_MAX_ENDPOINTS;
    answers.count--;
    return OLLA_OK;
}

int resolve_reopen(void)
{
    return resolve_open();
}

void resolve_close(void)
{
    answers.count = 0;
}

#else

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

struct question {
    uint32_t id;
    uint16_t port;
    char host[256]; /* NUL-terminated; empty = one that cannot be */
};

/* Children that were told to end but had not been reaped. */
#define MAX_DYING 4

static struct {
    pid_t pid;
    int fd;                   /* our end, or -1 */
    struct question out;      /* being sent */
    size_t out_left;          /* its last bytes, not sent yet */
    struct resolve_answer in; /* being received */
    size_t in_have;           /* its first bytes, there already */
    pid_t dying[MAX_DYING];
} child = {.fd = -1};

/* ---- in the child ------------------------------------------------------- */

/* Moves exactly n bytes over a blocking socket; false when the parent is gone. */
static bool move_all(int fd, void *p, size_t n, bool sending)
{
    char *at = p;

    while (n > 0) {
        ssize_t done = sending ? send(fd, at, n, MSG_NOSIGNAL) : recv(fd, at, n, 0);

        if (done == -1 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return false;
        }
        at += done;
        n -= (size_t)done;
    }
    return true;
}

/* Closes every descriptor but one of 3 or above; 0 to 2 become /dev/null. */
static void close_others(int keep)
{
    long most = sysconf(_SC_OPEN_MAX);
    int null_fd = open("/dev/null", O_RDWR);

    if (most < 0 || most > 65536) {
        most = 65536; /* the limit may be a thousand million; numbers are given out lowest first */
    }
    for (int fd = 0; fd < (int)most; fd++) {
        if (fd == keep) {
            continue;
        }
        if (fd > STDERR_FILENO) {
            (void)close(fd);
        } else if (null_fd != -1 && fd != null_fd) {
            (void)dup2(null_fd, fd);
        }
    }
}

/* Signals meant for the whole group are the parent's business: it closes the socket when it is done. */
static void ignore_signals(void)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGPIPE};
    struct sigaction act;

    memset(&act, 0, sizeof(act));
    sigemptyset(&act.sa_mask);
    act.sa_handler = SIG_IGN;
    for (size_t i = 0; i < OLLA_COUNT(ignored); i++) {
        (void)sigaction(ignored[i], &act, NULL);
    }
}

static void run_child(int fd)
{
    struct question q;
    struct resolve_answer a;

    while (move_all(fd, &q, sizeof(q), false)) {
        q.host[sizeof(q.host) - 1] = '\0';
        memset(&a, 0, sizeof(a));
        a.id = q.id;
        if (q.host[0] != '\0') {
            int count = plat_lookup(q.host, q.port, a.addr, OLLA_MAX_ADDRS);

            a.count = count > 0 ? count : 0;
        }
        if (!move_all(fd, &a, sizeof(a), true)) {
            break;
        }
    }
}

/* ---- in the parent ------------------------------------------------------ */

static void reap(void)
{
    for (size_t i = 0; i < MAX_DYING; i++) {
        if (child.dying[i] != 0 && waitpid(child.dying[i], NULL, WNOHANG) != 0) {
            child.dying[i] = 0;
        }
    }
}

void resolve_close(void)
{
    if (child.fd != -1) {
        close(child.fd);
        child.fd = -1;
    }
    /* waitpid first: where SIGCHLD is ignored, the number may long belong to someone else. */
    if (child.pid > 0 && waitpid(child.pid, NULL, WNOHANG) == 0) {
        /* It would end by itself, but perhaps only after a long wait for a name server. */
        (void)kill(child.pid, SIGKILL);
        for (size_t i = 0; i < MAX_DYING; i++) {
            if (child.dying[i] == 0) {
                child.dying[i] = child.pid;
                break;
            }
        }
    }
    child.pid = 0;
    child.out_left = 0;
    child.in_have = 0;
    reap();
}

int resolve_open(void)
{
    int pair[2];
    sigset_t all, before;
    pid_t pid;

    resolve_close();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == -1) {
        return plat_fail();
    }
    if (!plat_set_flags(pair[0])) {
        close(pair[1]);
        return plat_fail_closing(pair[0]);
    }
    /* A signal that comes between fork and ignore_signals must not reach our handlers in the child. */
    sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, &before);
    pid = fork();
    if (pid == 0) {
        int fd = fcntl(pair[1], F_DUPFD, STDERR_FILENO + 1); /* out of the way if 0 to 2 were closed */

        ignore_signals();
#ifdef __linux__
        /* Ends it also when the parent is killed while getaddrinfo waits. */
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
        if (fd != -1) {
            close_others(fd);
            run_child(fd);
        }
        _exit(0);
    }
    if (pid == -1) {
        (void)plat_fail();
    }
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    close(pair[1]);
    if (pid == -1) {
        close(pair[0]);
        return OLLA_ERR;
    }
    child.pid = pid;
    child.fd = pair[0];
    return child.fd;
}

int resolve_reopen(void)
{
    return resolve_open();
}

/* Sends what is left of the last question: OLLA_OK when nothing is. */
static int flush_question(void)
{
    while (child.out_left > 0) {
        const char *from = (const char *)&child.out + (sizeof(child.out) - child.out_left);
        long done = plat_write(child.fd, from, child.out_left);

        if (done < 0) {
            return (int)done;
        }
        child.out_left -= (size_t)done;
    }
    return OLLA_OK;
}

int resolve_ask(uint32_t id, const char *host, uint16_t port)
{
    size_t n = strlen(host);
    int rc;

    reap();
    if (child.fd == -1) {
        return plat_fail_with(ECHILD);
    }
    rc = flush_question();
    if (rc != OLLA_OK) {
        return rc;
    }
    memset(&child.out, 0, sizeof(child.out));
    child.out.id = id;
    child.out.port = port;
    if (n < sizeof(child.out.host)) {
        memcpy(child.out.host, host, n);
    }
    child.out_left = sizeof(child.out);
    rc = flush_question();
    if (rc == OLLA_AGAIN && child.out_left == sizeof(child.out)) {
        child.out_left = 0; /* nothing of it went out, so it counts as not asked */
        return OLLA_AGAIN;
    }
    /* A question of which a part went out is asked; the rest follows when the child has answered others. */
    return rc == OLLA_AGAIN ? OLLA_OK : rc;
}

int resolve_next(struct resolve_answer *out)
{
    if (child.fd == -1) {
        return plat_fail_with(ECHILD);
    }
    while (child.in_have < sizeof(child.in)) {
        long got = plat_read(child.fd, (char *)&child.in + child.in_have, sizeof(child.in) - child.in_have);

        if (got == OLLA_AGAIN) {
            return flush_question() == OLLA_ERR ? OLLA_ERR : OLLA_AGAIN;
        }
        if (got < 0) {
            return got == OLLA_EOF ? plat_fail_with(ECHILD) : OLLA_ERR;
        }
        child.in_have += (size_t)got;
    }
    child.in_have = 0;
    if (child.in.count < 0 || child.in.count > OLLA_MAX_ADDRS) {
        return plat_fail_with(EPROTO);
    }
    *out = child.in;
    return OLLA_OK;
}

#endif
