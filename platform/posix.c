/*
 * posix.c - level 2: platform.h on POSIX.1-2008 (Linux and the BSDs): errors,
 * time, signals, files, log sinks, process. Sockets and addresses are in
 * socket.c, the resolver child is in resolve.c.
 *
 * Invariants:
 *  - every descriptor made here is close-on-exec;
 *  - errno is read right after the call that set it and kept until the next failure;
 *  - what only some systems have is behind #if, with a portable other half.
 *
 * May include: platform.h, posix.h and system headers.
 */

/* O_TMPFILE is not POSIX.1-2008. */
#define _GNU_SOURCE 1
/* Spool files over 2 GB and dates after 2038 on 32-bit systems. */
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#ifndef _TIME_BITS
#define _TIME_BITS 64
#endif

#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef PIPE_BUF
#define PIPE_BUF _POSIX_PIPE_BUF
#endif

/* ---- errors ------------------------------------------------------------- */

static int last_errno;
static const char *last_text; /* words that are not errno's, or NULL */

int plat_fail_with(int err)
{
    last_errno = err;
    last_text = NULL;
    return OLLA_ERR;
}

int plat_fail_words(const char *text)
{
    last_errno = 0;
    last_text = text;
    return OLLA_ERR;
}

int plat_fail(void)
{
    return plat_fail_with(errno);
}

int plat_fail_closing(int fd)
{
    int err = errno;

    close(fd);
    return plat_fail_with(err);
}

enum plat_fail plat_error(void)
{
    static const struct {
        int err;
        enum plat_fail kind;
    } kinds[] = {
        {ECONNREFUSED, PLAT_FAIL_REFUSED},
        {ECONNRESET, PLAT_FAIL_RESET},
        {ECONNABORTED, PLAT_FAIL_RESET},
        {EPIPE, PLAT_FAIL_RESET},
        {ETIMEDOUT, PLAT_FAIL_TIMEOUT},
        {EHOSTUNREACH, PLAT_FAIL_UNREACHABLE},
        {ENETUNREACH, PLAT_FAIL_UNREACHABLE},
        {ENETDOWN, PLAT_FAIL_UNREACHABLE},
        {EAFNOSUPPORT, PLAT_FAIL_UNREACHABLE}, /* an IPv6 address on a system without IPv6 */
#ifdef EHOSTDOWN
        {EHOSTDOWN, PLAT_FAIL_UNREACHABLE},
#endif
        {EMFILE, PLAT_FAIL_NO_FDS},
        {ENFILE, PLAT_FAIL_NO_FDS},
        {ENOBUFS, PLAT_FAIL_NO_FDS},
        {ENOMEM, PLAT_FAIL_NO_FDS},
        {EADDRNOTAVAIL, PLAT_FAIL_NO_FDS}, /* connect: all local ports are in use */
        {ENOSPC, PLAT_FAIL_NO_SPACE},
        {EDQUOT, PLAT_FAIL_NO_SPACE},
        {EFBIG, PLAT_FAIL_NO_SPACE}, /* the process's own file size limit */
    };

    if (last_errno == 0 && last_text == NULL) {
        return PLAT_FAIL_NONE;
    }
    for (size_t i = 0; i < OLLA_COUNT(kinds); i++) {
        if (kinds[i].err == last_errno) {
            return kinds[i].kind;
        }
    }
    return PLAT_FAIL_OTHER;
}

const char *plat_error_text(void)
{
    return last_text != NULL ? last_text : strerror(last_errno);
}

int plat_again_or_fail(void)
{
    return IS_AGAIN(errno) ? OLLA_AGAIN : plat_fail();
}

bool plat_set_flags(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags != -1 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) != -1 && fcntl(fd, F_SETFD, FD_CLOEXEC) != -1;
}

/* ---- time and chance ---------------------------------------------------- */

uint64_t plat_now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint64_t plat_now_ms(void)
{
    return plat_now_us() / 1000u;
}

int64_t plat_wall_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + (int64_t)t.tv_nsec / 1000000;
}

void plat_random(void *to, size_t n)
{
    static int fd = -1;
    unsigned char *p = to;

    while (n > 0) {
        ssize_t got;

        if (fd == -1) {
            fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
        }
        got = read(fd, p, n);
        if (got > 0) {
            p += got;
            n -= (size_t)got;
        } else if (got == 0 || errno != EINTR) {
            /* Going on with a guessable number would be worse than not starting. */
            fprintf(stderr, "olla: cannot read /dev/urandom: %s\n", strerror(errno));
            _exit(OLLA_EXIT_CONF);
        }
    }
}

/* Minutes from UTC to local time. Both describe one moment, so they are at most one day apart. */
static int zone_minutes(const struct tm *local, const struct tm *utc)
{
    int days = local->tm_yday - utc->tm_yday;

    if (local->tm_year != utc->tm_year) {
        days = local->tm_year > utc->tm_year ? 1 : -1;
    }
    return (days * 24 + local->tm_hour - utc->tm_hour) * 60 + local->tm_min - utc->tm_min;
}

void plat_time_of(int64_t wall_ms, bool local, struct plat_time *out)
{
    static bool zone_known;
    int64_t ms = wall_ms % 1000;
    time_t s;
    struct tm utc, here;
    const struct tm *tm = &utc;

    memset(out, 0, sizeof(*out));
    if (ms < 0) {
        ms += 1000;
    }
    s = (time_t)((wall_ms - ms) / 1000);
    if (gmtime_r(&s, &utc) == NULL) {
        return;
    }
    if (local) {
        if (!zone_known) {
            tzset(); /* localtime_r need not do it */
            zone_known = true;
        }
        if (localtime_r(&s, &here) != NULL) {
            tm = &here;
            out->offset_min = zone_minutes(&here, &utc);
        }
    }
    out->year = tm->tm_year + 1900;
    out->month = tm->tm_mon + 1;
    out->day = tm->tm_mday;
    out->weekday = tm->tm_wday;
    out->hour = tm->tm_hour;
    out->minute = tm->tm_min;
    out->second = tm->tm_sec;
    out->ms = (int)ms;
}

/* ---- signals ------------------------------------------------------------ */

static int signal_pipe[2] = {-1, -1};

static const struct {
    int number;
    char event; /* an enum plat_signal */
} signal_table[] = {
    {SIGTERM, PLAT_SIG_TERM},
    {SIGINT, PLAT_SIG_TERM},
    {SIGHUP, PLAT_SIG_RELOAD},
    {SIGUSR1, PLAT_SIG_REPORT},
};

static void on_signal(int number)
{
    int err = errno; /* the interrupted code may be about to read it */

    for (size_t i = 0; i < OLLA_COUNT(signal_table); i++) {
        if (signal_table[i].number == number) {
            ssize_t done = write(signal_pipe[1], &signal_table[i].event, 1);

            (void)done; /* a full pipe means that thousands are waiting already */
        }
    }
    errno = err;
}

int plat_signals_open(void)
{
    struct sigaction act;
    sigset_t ours;

    if (signal_pipe[0] == -1) {
        if (pipe(signal_pipe) == -1) {
            return plat_fail();
        }
        if (!plat_set_flags(signal_pipe[0]) || !plat_set_flags(signal_pipe[1])) {
            return plat_fail();
        }
    }
    memset(&act, 0, sizeof(act));
    sigemptyset(&act.sa_mask);
    sigemptyset(&ours);
    act.sa_handler = SIG_IGN;
    /* SIGXFSZ: hitting the file size limit shall be an error of the spool file, not the end. */
    if (sigaction(SIGPIPE, &act, NULL) == -1 || sigaction(SIGXFSZ, &act, NULL) == -1) {
        return plat_fail();
    }
    act.sa_handler = on_signal;
    act.sa_flags = SA_RESTART;
    for (size_t i = 0; i < OLLA_COUNT(signal_table); i++) {
        if (sigaction(signal_table[i].number, &act, NULL) == -1) {
            return plat_fail();
        }
        sigaddset(&ours, signal_table[i].number);
    }
    /* Whoever started us may have left them blocked. */
    if (sigprocmask(SIG_UNBLOCK, &ours, NULL) == -1) {
        return plat_fail();
    }
    return signal_pipe[0];
}

enum plat_signal plat_signal_next(void)
{
    char event;

    if (plat_read(signal_pipe[0], &event, 1) != 1) {
        return PLAT_SIG_NONE;
    }
    return (enum plat_signal)event;
}

/* ---- files -------------------------------------------------------------- */

bool plat_readable(const char *path)
{
    return access(path, R_OK) == 0;
}

/* For systems without O_TMPFILE: a name nobody can guess, gone before anybody sees it. */
static int open_unlinked(const char *dir)
{
    static char path[1024];
    int fd = -1;

    for (int tries = 0; tries < 8 && fd == -1; tries++) {
        uint64_t chance;
        int n;

        plat_random(&chance, sizeof(chance));
        n = snprintf(path, sizeof(path), "%s/.olla-%016llx", dir, (unsigned long long)chance);
        if (n < 0 || (size_t)n >= sizeof(path)) {
            return plat_fail_with(ENAMETOOLONG);
        }
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd == -1 && errno != EEXIST && errno != EINTR) {
            return plat_fail();
        }
    }
    if (fd == -1) {
        return plat_fail();
    }
    if (unlink(path) == -1) {
        return plat_fail_closing(fd);
    }
    return fd;
}

int plat_spool_open(const char *dir)
{
#ifdef O_TMPFILE
    /* Kernel or file system may not know it; the other way then also tells the true error. */
    int fd = open(dir, O_RDWR | O_TMPFILE | O_EXCL | O_CLOEXEC, 0600);

    if (fd != -1) {
        return fd;
    }
#endif
    return open_unlinked(dir);
}

int plat_spool_write(int fd, uint64_t at, const void *p, size_t n)
{
    const unsigned char *from = p;

    while (n > 0) {
        ssize_t done = pwrite(fd, from, n, (off_t)at);

        if (done == -1) {
            if (errno == EINTR) {
                continue;
            }
            return plat_fail();
        }
        if (done == 0) {
            return plat_fail_with(ENOSPC);
        }
        from += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return OLLA_OK;
}

long plat_spool_read(int fd, uint64_t at, void *p, size_t n)
{
    unsigned char *to = p;
    size_t total = 0;

    while (total < n) {
        ssize_t got = pread(fd, to + total, n - total, (off_t)(at + total));

        if (got == -1) {
            if (errno == EINTR) {
                continue;
            }
            return plat_fail();
        }
        if (got == 0) {
            break;
        }
        total += (size_t)got;
    }
    return total > 0 ? (long)total : plat_fail_with(EIO); /* nothing was ever written there */
}

/* ---- log sinks ---------------------------------------------------------- */

/*
 * O_NONBLOCK on standard output would reach every process that shares it, so
 * each kind of descriptor has its own way to write without waiting.
 */
enum sink_way {
    SINK_UNKNOWN = 0,
    SINK_DIRECT, /* a regular file, or our own non-blocking way to a terminal: just write */
    SINK_SOCKET, /* the flag can be given for one call */
    SINK_POLLED  /* a pipe: when poll says writable, PIPE_BUF bytes fit */
};

struct sink {
    enum sink_way way;
    int fd;
    size_t most; /* bytes in one call */
};

/* A terminal that polls writable may still have room for one byte only, and a
 * blocking write would wait for the rest. Opened anew it is ours alone. */
static int open_terminal(int fd)
{
    char path[256];

    if (ttyname_r(fd, path, sizeof(path)) != 0) {
        return -1;
    }
    return open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static struct sink sink_of(int fd)
{
    static struct sink known[STDERR_FILENO + 1];
    struct sink sink = {SINK_POLLED, fd, PIPE_BUF};
    bool standard = fd >= 0 && fd <= STDERR_FILENO;
    struct stat st;

    if (standard && known[fd].way != SINK_UNKNOWN) {
        return known[fd];
    }
    if (fstat(fd, &st) == -1) {
        return sink;
    }
    if (S_ISREG(st.st_mode)) {
        sink.way = SINK_DIRECT;
        sink.most = SSIZE_MAX;
    } else if (S_ISSOCK(st.st_mode)) {
        sink.way = SINK_SOCKET;
    } else if (S_ISCHR(st.st_mode) && isatty(fd)) {
        int own = standard ? open_terminal(fd) : -1;

        if (own != -1) {
            sink.way = SINK_DIRECT;
            sink.fd = own;
        } else {
            sink.most = 256;
        }
    }
    if (standard) {
        known[fd] = sink;
    }
    return sink;
}

long plat_log_write(int fd, const void *p, size_t n)
{
    struct sink sink = sink_of(fd);
    ssize_t done;

    if (sink.way == SINK_POLLED) {
        struct pollfd set = {sink.fd, POLLOUT, 0};
        int ready = plat_poll(&set, 1, 0);

        if (ready <= 0) {
            return ready == 0 ? OLLA_AGAIN : ready;
        }
    }
    if (n > sink.most) {
        n = sink.most;
    }
    do {
        done = sink.way == SINK_SOCKET ? send(sink.fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL) : write(sink.fd, p, n);
    } while (done == -1 && errno == EINTR);
    return done == -1 ? plat_again_or_fail() : (long)done;
}

bool plat_is_tty(int fd)
{
    return isatty(fd) == 1;
}

/* ---- process ------------------------------------------------------------ */

long plat_pid(void)
{
    return (long)getpid();
}

long plat_raise_fd_limit(size_t want)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == -1) {
        return plat_fail();
    }
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < want) {
        rlim_t old = limit.rlim_cur;

        limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || limit.rlim_max > want ? (rlim_t)want : limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) == -1) {
            limit.rlim_cur = old;
        }
    }
    return limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > LONG_MAX ? LONG_MAX : (long)limit.rlim_cur;
}

uint64_t plat_rss_bytes(void)
{
#ifdef __linux__
    /* "size resident shared ...", in pages */
    char text[64];
    char *end;
    uint64_t pages;
    long page = sysconf(_SC_PAGESIZE);
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd == -1) {
        return 0;
    }
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0 || page <= 0) {
        return 0;
    }
    text[n] = '\0';
    (void)strtoull(text, &end, 10);
    pages = strtoull(end, NULL, 10);
    return pages * (uint64_t)page;
#else
    return 0;
#endif
}

int plat_cpu_count(void)
{
#ifdef _SC_NPROCESSORS_ONLN
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    if (n > 0 && n < INT_MAX) {
        return (int)n;
    }
#endif
    return 1;
}
