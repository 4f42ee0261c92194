/*
 * posix.c - level 2: platform.h on POSIX.1-2008 (Linux and the BSDs): errors,
 * time, signals, files, log sinks, process. Sockets and addresses are in
 * socket.c, the resolver child is in resolve.c, who the process is in user.c.
 *
 * Invariants:
 *  - every descriptor made here is close-on-exec;
 *  - errno is read right after the call that set it and kept until the next failure;
 *  - what only some systems have is behind #if, with a portable other half.
 *
 * May include: str.h, platform.h, posix.h and system headers.
 */

/* tm_gmtoff is not POSIX.1-2008. */
#define _GNU_SOURCE 1
/* Spool files over 2 GB and dates after 2038 on 32-bit systems. */
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#ifndef _TIME_BITS
#define _TIME_BITS 64
#endif

#include "../src/str.h"
#include "posix.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* ---- errors ------------------------------------------------------------- */

static int last_errno;
static const char *last_text; /* words that are not errno's, or NULL */

int plat_fail(int err)
{
    last_errno = err;
    last_text = NULL;
    return OLLA_ERR;
}

int plat_fail_words(const char *text)
{
    last_errno = -1;
    last_text = text;
    return OLLA_ERR;
}

int plat_fail_closing(int fd)
{
    int rc = plat_fail(errno);

    close(fd);
    return rc;
}

enum plat_fail plat_error(void)
{
    static const struct {
        int err;
        enum plat_fail kind;
    } kinds[] = {
        {0, PLAT_FAIL_NONE},
        {ECONNREFUSED, PLAT_FAIL_REFUSED},
        {ECONNRESET, PLAT_FAIL_RESET},
        {ECONNABORTED, PLAT_FAIL_RESET},
        {EPIPE, PLAT_FAIL_RESET},
        {ETIMEDOUT, PLAT_FAIL_TIMEOUT},
        {EHOSTUNREACH, PLAT_FAIL_UNREACHABLE},
        {ENETUNREACH, PLAT_FAIL_UNREACHABLE},
        {ENETDOWN, PLAT_FAIL_UNREACHABLE},
        {EAFNOSUPPORT, PLAT_FAIL_UNREACHABLE}, /* an IPv6 address on a system without IPv6 */
        {EHOSTDOWN, PLAT_FAIL_UNREACHABLE},
        {EMFILE, PLAT_FAIL_NO_FDS},
        {ENFILE, PLAT_FAIL_NO_FDS},
        {ENOBUFS, PLAT_FAIL_NO_FDS},
        {ENOMEM, PLAT_FAIL_NO_FDS},
        {EADDRNOTAVAIL, PLAT_FAIL_NO_FDS}, /* connect: all local ports are in use */
        {ENOSPC, PLAT_FAIL_NO_SPACE},
        {EDQUOT, PLAT_FAIL_NO_SPACE},
        {EFBIG, PLAT_FAIL_NO_SPACE}, /* the process's own file size limit */
        {EADDRINUSE, PLAT_FAIL_IN_USE},
        {EACCES, PLAT_FAIL_DENIED},
        {EPERM, PLAT_FAIL_DENIED},
    };

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
    return errno == EAGAIN || errno == EINTR ? OLLA_AGAIN : plat_fail(errno);
}

bool plat_set_flags(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags != -1 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) != -1 && fcntl(fd, F_SETFD, FD_CLOEXEC) != -1;
}

/* ---- time and chance ---------------------------------------------------- */

uint64_t plat_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
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

    if (fd == -1) {
        fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    }
    /* Up to 256 bytes always come whole. Going on with a guessable number would be worse than not starting. */
    if (read(fd, to, n) != (ssize_t)n) {
        fprintf(stderr, "olla: cannot read /dev/urandom: %s\n", strerror(errno));
        _exit(OLLA_EXIT_CONF);
    }
}

void plat_time_of(int64_t wall_ms, bool local, struct plat_time *out)
{
    int ms = (int)((wall_ms % 1000 + 1000) % 1000);
    time_t s = (time_t)((wall_ms - ms) / 1000);
    struct tm tm;

    if (local) {
        localtime_r(&s, &tm);
    } else {
        gmtime_r(&s, &tm);
    }
    *out = (struct plat_time){
        .year = tm.tm_year + 1900,
        .month = tm.tm_mon + 1,
        .day = tm.tm_mday,
        .weekday = tm.tm_wday,
        .hour = tm.tm_hour,
        .minute = tm.tm_min,
        .second = tm.tm_sec,
        .ms = ms,
        .offset_min = (int)(tm.tm_gmtoff / 60),
    };
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
    struct sigaction act = {.sa_handler = SIG_IGN};
    sigset_t ours;

    if (signal_pipe[0] == -1 &&
        (pipe(signal_pipe) == -1 || !plat_set_flags(signal_pipe[0]) || !plat_set_flags(signal_pipe[1]))) {
        return plat_fail(errno);
    }
    /* These calls fail for wrong arguments only. SIGXFSZ: hitting the file size limit shall be an error of
     * the spool file, not the end. */
    sigaction(SIGPIPE, &act, NULL);
    sigaction(SIGXFSZ, &act, NULL);
    /* Whoever started us may ignore it; then nobody could know how a program ended. */
    act.sa_handler = SIG_DFL;
    sigaction(SIGCHLD, &act, NULL);
    act.sa_handler = on_signal;
    act.sa_flags = SA_RESTART;
    sigemptyset(&ours);
    for (size_t i = 0; i < OLLA_COUNT(signal_table); i++) {
        sigaction(signal_table[i].number, &act, NULL);
        sigaddset(&ours, signal_table[i].number);
    }
    sigprocmask(SIG_UNBLOCK, &ours, NULL); /* whoever started us may have left them blocked */
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

uint64_t plat_file_stamp(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        return 0;
    }
    const uint64_t facts[] = {(uint64_t)st.st_mtim.tv_sec, (uint64_t)st.st_mtim.tv_nsec, (uint64_t)st.st_size,
                              (uint64_t)st.st_ino, (uint64_t)st.st_dev};
    uint64_t stamp = STR_HASH_START;
    for (size_t i = 0; i < OLLA_COUNT(facts); i++) {
        stamp = str_hash64_number(stamp, facts[i]);
    }
    return stamp;
}

int plat_plain_open(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC); /* a FIFO without a writer would wait */

    if (fd == -1) {
        return plat_fail(errno);
    }
    if (fstat(fd, &st) == -1) {
        return plat_fail_closing(fd);
    }
    if (!S_ISREG(st.st_mode)) {
        errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
        return plat_fail_closing(fd);
    }
    return fd;
}

long plat_file_read(const char *path, char *to, size_t cap)
{
    size_t n = 0;
    ssize_t got = 1;
    int fd = plat_plain_open(path);

    if (fd < 0) {
        return fd;
    }
    while (n < cap && got > 0) {
        got = read(fd, to + n, cap - n);
        n += got > 0 ? (size_t)got : 0;
    }
    if (got == -1) {
        return plat_fail_closing(fd);
    }
    close(fd);
    return (long)n;
}

int plat_spool_open(const char *dir)
{
    char path[1024];
    int n = snprintf(path, sizeof(path), "%s/.olla-XXXXXX", dir);

    if (n >= (int)sizeof(path)) {
        return plat_fail(ENAMETOOLONG);
    }
    int fd = mkstemp(path);
    if (fd == -1) {
        return plat_fail(errno);
    }
    if (unlink(path) == -1 || fcntl(fd, F_SETFD, FD_CLOEXEC) == -1) {
        return plat_fail_closing(fd);
    }
    return fd;
}

int plat_spool_write(int fd, uint64_t at, const void *p, size_t n)
{
    const char *from = p;

    while (n > 0) {
        ssize_t done = pwrite(fd, from, n, (off_t)at);
        if (done <= 0) {
            return plat_fail(done == 0 ? ENOSPC : errno);
        }
        from += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return OLLA_OK;
}

long plat_spool_read(int fd, uint64_t at, void *p, size_t n)
{
    ssize_t got = pread(fd, p, n, (off_t)at);

    return got > 0 ? (long)got : plat_fail(got == 0 ? EIO : errno); /* nothing was ever written there */
}

/* The directory, with those above it if need be. fd or -1 with errno set. */
static int open_directory(const char *dir)
{
    char path[1024];
    int err = 0, n = snprintf(path, sizeof(path), "%s/", dir);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd != -1 || errno != ENOENT) {
        return fd;
    }
    for (int i = 1; i < n && n < (int)sizeof(path); i++) {
        if (path[i] == '/') {
            path[i] = '\0';
            err = mkdir(path, 0700) == -1 && errno != EEXIST ? errno : err;
            path[i] = '/';
        }
    }
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    errno = fd == -1 && err != 0 ? err : errno; /* why it could not be made tells more than that it is not there */
    return fd;
}

int plat_record_open(const char *dir, const char *day, const char *name, uint64_t *end)
{
    struct stat st;
    int top = open_directory(dir);

    if (top == -1) {
        return plat_fail(errno);
    }
    if (mkdirat(top, day, 0700) == -1 && errno != EEXIST) {
        return plat_fail_closing(top);
    }
    int sub = openat(top, day, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (sub == -1) {
        return plat_fail_closing(top);
    }
    close(top);
    /* O_NONBLOCK: a pipe in its place must not stop the loop. */
    int fd = openat(sub, name, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    if (fd == -1) {
        return plat_fail_closing(sub);
    }
    close(sub);
    if (fstat(fd, &st) == -1) {
        return plat_fail_closing(fd);
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return plat_fail_words("not a regular file");
    }
    *end = (uint64_t)st.st_size;
    return fd;
}

int plat_record_write(int fd, const void *p, size_t n)
{
    const char *from = p;

    while (n > 0) {
        ssize_t done = write(fd, from, n);
        if (done == -1 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return plat_fail(done == 0 ? ENOSPC : errno);
        }
        from += done;
        n -= (size_t)done;
    }
    return OLLA_OK;
}

int plat_append(const char *path, const void *p, size_t n)
{
    struct stat st;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);

    if (fd == -1) {
        return plat_fail(errno);
    }
    if (fstat(fd, &st) == -1) {
        return plat_fail_closing(fd);
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return plat_fail_words("not a regular file");
    }
    int result = plat_record_write(fd, p, n);
    if (result != OLLA_OK) {
        plat_record_undo(fd, (uint64_t)st.st_size);
    }
    close(fd);
    return result;
}

void plat_record_undo(int fd, uint64_t end)
{
    int done = ftruncate(fd, (off_t)end);

    (void)done; /* then half a line stays; there is nobody to tell that was not told already */
}

static int name_beside(char *to, size_t cap, const char *path)
{
    int n = snprintf(to, cap, "%s.tmp", path);

    return n >= 0 && (size_t)n < cap ? OLLA_OK : plat_fail(ENAMETOOLONG);
}

int plat_replace_open(const char *path)
{
    char beside[1024];

    if (name_beside(beside, sizeof(beside), path) != OLLA_OK) {
        return OLLA_ERR;
    }
    /* One that a crash has left, or that somebody else has put there. */
    if (unlink(beside) == -1 && errno != ENOENT) {
        return plat_fail(errno);
    }
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd == -1 ? plat_fail(errno) : fd;
}

int plat_replace_done(int fd, const char *path, bool take)
{
    char beside[1024];
    int result = name_beside(beside, sizeof(beside), path);

    if (close(fd) == -1 && take) {
        result = plat_fail(errno);
    }
    if (result == OLLA_OK && take && rename(beside, path) == -1) {
        result = plat_fail(errno);
    }
    if (result != OLLA_OK || !take) {
        int err = errno;
        (void)unlink(beside);
        errno = err;
    }
    return result;
}

/* ---- log sinks ---------------------------------------------------------- */

/*
 * O_NONBLOCK on standard output would reach every process that shares it, so
 * each kind of descriptor has its own way to write without waiting.
 */
enum sink_way {
    SINK_UNKNOWN = 0,
    SINK_DIRECT, /* a regular file, or a non-blocking descriptor of our own: just write */
    SINK_SOCKET, /* the flag can be given for one call */
    SINK_POLLED  /* a pipe: when poll says writable, PIPE_BUF bytes fit */
};

struct sink {
    enum sink_way way;
    int fd;
    size_t most; /* bytes in one call */
};

static bool is_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags != -1 && (flags & O_NONBLOCK) != 0;
}

static struct sink sink_of(int fd)
{
    struct sink sink = {SINK_POLLED, fd, PIPE_BUF};
    char path[256];
    struct stat st;

    if (fstat(fd, &st) == -1) {
        return sink;
    }
    if (S_ISREG(st.st_mode) || (fd > STDERR_FILENO && !S_ISSOCK(st.st_mode) && is_nonblocking(fd))) {
        sink.way = SINK_DIRECT;
        sink.most = SSIZE_MAX;
    } else if (S_ISSOCK(st.st_mode)) {
        sink.way = SINK_SOCKET;
    } else if (ttyname_r(fd, path, sizeof(path)) == 0) {
        /* A terminal that polls writable may still have room for one byte only, and a blocking
         * write would wait for the rest. Opened anew it is ours alone. */
        int own = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        sink = own != -1 ? (struct sink){SINK_DIRECT, own, PIPE_BUF} : (struct sink){SINK_POLLED, fd, 256};
    }
    return sink;
}

long plat_log_write(int fd, const void *p, size_t n)
{
    static struct sink known[STDERR_FILENO + 1];
    struct sink sink;

    if (fd > STDERR_FILENO) {
        sink = sink_of(fd);
    } else {
        if (known[fd].way == SINK_UNKNOWN) {
            known[fd] = sink_of(fd);
        }
        sink = known[fd];
    }
    if (sink.way == SINK_POLLED) {
        struct pollfd set = {sink.fd, POLLOUT, 0};
        int ready = plat_poll(&set, 1, 0);
        if (ready <= 0) {
            return ready == 0 ? OLLA_AGAIN : ready;
        }
    }
    if (sink.way != SINK_SOCKET) { /* a datagram goes as a whole or not at all */
        n = n < sink.most ? n : sink.most;
    }
    ssize_t done = sink.way == SINK_SOCKET ? send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL) : write(sink.fd, p, n);
    return done == -1 ? plat_again_or_fail() : (long)done;
}

/* The directory that a file stands in. */
static bool make_parent(const char *path)
{
    char dir[1024];
    const char *slash = strrchr(path, '/');
    size_t n = slash != NULL ? (size_t)(slash - path) : 0;

    if (n == 0 || n >= sizeof(dir)) {
        return false;
    }
    memcpy(dir, path, n);
    dir[n] = '\0';
    return mkdir(dir, 0755) == 0;
}

int plat_log_open(const char *path)
{
    /* O_NONBLOCK: for a pipe in the place of a file, and a terminal. */
    int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, fd = open(path, flags, 0600);

    if (fd == -1 && errno == ENOENT && make_parent(path)) {
        fd = open(path, flags, 0600);
    }
    if (fd == -1) {
        return errno == ENXIO ? plat_fail_words("nobody reads from it") : plat_fail(errno);
    }
    if (fd <= STDERR_FILENO) { /* closed by whoever started us; these are told apart from our own by their numbers */
        int own = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        if (own == -1) {
            return plat_fail_closing(fd);
        }
        close(fd);
        fd = own;
    }
    return fd;
}

int plat_syslog_open(const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(to.sun_path)) {
        return plat_fail(ENAMETOOLONG);
    }
    memcpy(to.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd == -1) {
        return plat_fail(errno);
    }
    if (!plat_set_flags(fd) || connect(fd, (struct sockaddr *)&to, sizeof(to)) == -1) {
        return plat_fail_closing(fd);
    }
    return fd;
}

bool plat_is_tty(int fd)
{
    return isatty(fd) == 1;
}

/* ---- process ------------------------------------------------------------ */

long plat_raise_fd_limit(size_t want)
{
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < want) { /* RLIM_INFINITY is the largest number */
        limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : (rlim_t)want;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    return limit.rlim_cur < LONG_MAX ? (long)limit.rlim_cur : LONG_MAX;
}

unsigned plat_cpu_count(void)
{
#ifdef _SC_NPROCESSORS_ONLN
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 1;
#else
    return 1;
#endif
}

long plat_pid(void)
{
    return (long)getpid();
}

uint64_t plat_rss_bytes(void)
{
#ifdef __linux__
    char text[64] = ""; /* "size resident shared ...", in pages */
    char *resident = text;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);

    if (fd == -1 || read(fd, text, sizeof(text) - 1) == -1) {
        text[0] = '\0';
    }
    plat_close(fd);
    (void)strtoull(text, &resident, 10);
    return strtoull(resident, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
#else
    return 0;
#endif
}
