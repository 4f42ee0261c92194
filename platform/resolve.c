/*
 * resolve.c - level 2: names to addresses without blocking the loop.
 *
 * getaddrinfo blocks, so a child process asks it. Each question and each answer
 * is one record on a socket pair that keeps records whole; the child answers
 * every question, one after the other. With OLLA_RESOLVER_SYNC there is no
 * child and resolve_ask blocks.
 *
 * Invariants:
 *  - our end of the pair never blocks;
 *  - the child holds no descriptor but its end, so it keeps no connection open
 *    and ends when ours is closed, however that came about;
 *  - the child never runs a handler of the parent.
 *
 * May include: platform.h, posix.h and system headers.
 */
#include "posix.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

static void answer(struct resolve_answer *a, uint32_t id, const char *host, uint16_t port)
{
    memset(a, 0, sizeof(*a));
    a->id = id;
    a->count = plat_lookup(host, port, a->addr, OLLA_MAX_ADDRS);
    if (a->count < 0) {
        a->count = 0;
    }
}

#if OLLA_RESOLVER_SYNC

/* A ring: answers that were not fetched yet. */
static struct resolve_answer ring[OLLA_MAX_ENDPOINTS];
static unsigned asked, fetched;

int resolve_open(void)
{
    resolve_close();
    return RESOLVE_NO_FD;
}

int resolve_ask(uint32_t id, const char *host, uint16_t port)
{
    if (asked - fetched == OLLA_MAX_ENDPOINTS) {
        return OLLA_AGAIN;
    }
    answer(&ring[asked++ % OLLA_MAX_ENDPOINTS], id, host, port);
    return OLLA_OK;
}

int resolve_next(struct resolve_answer *out)
{
    if (asked == fetched) {
        return OLLA_AGAIN;
    }
    *out = ring[fetched++ % OLLA_MAX_ENDPOINTS];
    return OLLA_OK;
}

void resolve_close(void)
{
    asked = fetched = 0;
}

#else

#define CHILD_FD (STDERR_FILENO + 1)

struct question {
    uint32_t id;
    uint16_t port;
    char host[256];
};

static pid_t child;
static int child_fd = -1; /* our end */

/* Leaves nothing open but fd, as CHILD_FD; 0 to 2 become /dev/null. */
static void close_others(int fd)
{
    long most = sysconf(_SC_OPEN_MAX);

    if (most < 0 || most > 65536) {
        most = 65536; /* the limit may be a thousand million; numbers are given out lowest first */
    }
    if (dup2(fd, CHILD_FD) == -1) {
        _exit(1);
    }
    for (int i = 0; i < (int)most; i++) {
        if (i != CHILD_FD) {
            (void)close(i);
        }
    }
    for (int i = open("/dev/null", O_RDWR); i >= 0 && i < STDERR_FILENO;) {
        i = dup(i);
    }
}

static void run_child(int fd)
{
    struct question q;
    struct resolve_answer a;

#ifdef __linux__
    /* For ps and top, and so that pkill -x olla means the other one. pidof looks at more and finds both. */
    (void)prctl(PR_SET_NAME, "olla-resolver");
    /* Ends it also when the parent is killed while getaddrinfo waits. */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    close_others(fd);
    while (recv(CHILD_FD, &q, sizeof(q), 0) == (ssize_t)sizeof(q)) {
        answer(&a, q.id, q.host, q.port);
        if (send(CHILD_FD, &a, sizeof(a), MSG_NOSIGNAL) == -1) {
            break;
        }
    }
    _exit(0);
}

void resolve_close(void)
{
    if (child_fd == -1) {
        return;
    }
    close(child_fd);
    child_fd = -1;
    /* It would end by itself, but perhaps only after a long wait for a name server. waitpid first: where
     * SIGCHLD is ignored, the number may long belong to someone else. */
    if (waitpid(child, NULL, WNOHANG) == 0) {
        (void)kill(child, SIGKILL);
        (void)waitpid(child, NULL, 0);
    }
}

int resolve_open(void)
{
    int pair[2];
    sigset_t all, before;

    resolve_close();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == -1) {
        return plat_fail(errno);
    }
    /* All signals stay blocked in the child: those meant for the whole group are the parent's business. */
    sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, &before);
    child = plat_set_flags(pair[0]) ? fork() : -1;
    if (child == 0) {
        run_child(pair[1]);
    }
    if (child == -1) {
        (void)plat_fail_closing(pair[0]);
    } else {
        child_fd = pair[0];
    }
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    close(pair[1]);
    return child == -1 ? OLLA_ERR : child_fd;
}

int resolve_ask(uint32_t id, const char *host, uint16_t port)
{
    struct question q = {id, port, ""};
    long done;

    if (child_fd == -1) {
        return plat_fail(ECHILD);
    }
    (void)snprintf(q.host, sizeof(q.host), "%s", host); /* what is cut is too long for a name anyway */
    done = plat_write(child_fd, &q, sizeof(q));
    return done < 0 ? (int)done : OLLA_OK;
}

int resolve_next(struct resolve_answer *out)
{
    long got = child_fd != -1 ? plat_read(child_fd, out, sizeof(*out)) : OLLA_EOF;

    return got == OLLA_EOF ? plat_fail(ECHILD) : got < 0 ? (int)got : OLLA_OK;
}

#endif

int resolve_reopen(void)
{
    return resolve_open();
}
