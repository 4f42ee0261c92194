/*
 * platform.c - see fake.h.
 *
 * The system's files are read in here with other names for what is replaced, so that the rest of them, which touches
 * nothing outside the program, is the same code that olla runs with.
 */
#define _GNU_SOURCE 1

#include "fake.h"

#define plat_now_ms         real_now_ms
#define plat_wall_ms        real_wall_ms
#define plat_random         real_random
#define plat_listen_addrs   real_listen_addrs
#define plat_listen         real_listen
#define plat_local_port     real_local_port
#define plat_accept         real_accept
#define plat_connect        real_connect
#define plat_connected      real_connected
#define plat_read           real_read
#define plat_peek           real_peek
#define plat_write          real_write
#define plat_writev         real_writev
#define plat_shutdown_write real_shutdown_write
#define plat_close          real_close
#define plat_abort          real_abort
#define plat_keepalive      real_keepalive
#define plat_poll           real_poll
#define plat_pause_us       real_pause_us
#define plat_signals_open   real_signals_open
#define plat_signal_next    real_signal_next
#define plat_spool_open     real_spool_open
#define plat_spool_write    real_spool_write
#define plat_spool_read     real_spool_read
#define plat_record_open    real_record_open
#define plat_record_write   real_record_write
#define plat_record_undo    real_record_undo
#define plat_append         real_append
#define plat_log_open       real_log_open
#define plat_syslog_open    real_syslog_open
#define plat_log_write      real_log_write
#define plat_is_tty         real_is_tty
#define plat_raise_fd_limit real_raise_fd_limit
#define plat_error          real_error
#define plat_error_text     real_error_text

/* They are called by each other and by nobody else. */
uint64_t real_now_ms(void);
long real_read(int fd, void *p, size_t n);
void real_close(int fd);
int real_poll(struct pollfd *set, size_t n, int timeout_ms);
int real_connect(const struct plat_addr *a, unsigned keepalive_s);
void real_keepalive(int fd, unsigned idle_s);
void real_record_undo(int fd, uint64_t end);

#include "../../platform/posix.c"
#include "../../platform/socket.c"

#undef plat_now_ms
#undef plat_wall_ms
#undef plat_random
#undef plat_listen_addrs
#undef plat_listen
#undef plat_local_port
#undef plat_accept
#undef plat_connect
#undef plat_connected
#undef plat_read
#undef plat_peek
#undef plat_write
#undef plat_writev
#undef plat_shutdown_write
#undef plat_close
#undef plat_abort
#undef plat_keepalive
#undef plat_poll
#undef plat_pause_us
#undef plat_signals_open
#undef plat_signal_next
#undef plat_spool_open
#undef plat_spool_write
#undef plat_spool_read
#undef plat_record_open
#undef plat_record_write
#undef plat_record_undo
#undef plat_append
#undef plat_log_open
#undef plat_syslog_open
#undef plat_log_write
#undef plat_is_tty
#undef plat_raise_fd_limit
#undef plat_error
#undef plat_error_text

struct fake fake;

#define IDLE_TURNS_MAX 300
#define WALL_START     INT64_C(1700000000000)

/* ---- descriptors -------------------------------------------------------------------- */

static struct fake_fd *at(int fd)
{
    ENSURE(fd >= FAKE_FIRST && (size_t)(fd - FAKE_FIRST) < fake.n && fake.fds[fd - FAKE_FIRST].open);
    return &fake.fds[fd - FAKE_FIRST];
}

static int fd_of(const struct fake_fd *f)
{
    return FAKE_FIRST + (int)(f - fake.fds);
}

static void forget(struct fake_fd *f)
{
    output_clear(&f->to);
    output_clear(&f->from);
    memset(f, 0, sizeof(*f));
}

/* Numbers come again as late as possible, so that whoever uses a closed one is found. */
static struct fake_fd *new_fd(enum fake_kind kind)
{
    struct fake_fd *f = NULL;

    for (size_t i = 0; i < FAKE_FDS && !f; i++) {
        f = fake.fds[i].kind == FAKE_FREE ? &fake.fds[i] : NULL;
    }
    for (size_t i = 0; i < FAKE_FDS && !f; i++) {
        f = fake.fds[i].kind != FAKE_CLIENT && !fake.fds[i].open ? &fake.fds[i] : NULL;
    }
    ENSURE(f);
    forget(f);
    fake.n = fake.n > (size_t)(f - fake.fds) ? fake.n : (size_t)(f - fake.fds) + 1;
    f->kind = kind;
    f->open = true;
    f->window = SIZE_MAX;
    fake.progress++;
    return f;
}

static int fail(enum plat_fail why)
{
    fake.error = why;
    return OLLA_ERR;
}

static unsigned fault(enum fake_call call)
{
    unsigned f = fake.fault ? fake.fault(call) : 0;
    fake.progress += f != 0;
    return f;
}

void fake_clear(void)
{
    for (size_t i = 0; i < fake.n; i++) {
        struct fake_fd *f = &fake.fds[i];
        if (!f->open && !f->waiting && f->kind != FAKE_FREE) {
            forget(f);
        }
    }
    while (fake.n > 0 && fake.fds[fake.n - 1].kind == FAKE_FREE) {
        fake.n--;
    }
    fake.idle_turns = 0;
    fake.fault = NULL;
}

size_t fake_open(enum fake_kind kind)
{
    size_t n = 0;
    for (size_t i = 0; i < fake.n; i++) {
        n += fake.fds[i].kind == kind && fake.fds[i].open;
    }
    return n;
}

size_t fake_waiting(void)
{
    size_t n = 0;
    for (size_t i = 0; i < fake.n; i++) {
        n += fake.fds[i].waiting;
    }
    return n;
}

/* ---- what tests do --------------------------------------------------------------------- */

struct fake_fd *fake_client(const char *ip)
{
    struct fake_fd *f = new_fd(FAKE_CLIENT);
    f->open = false;
    f->waiting = true;
    ENSURE(plat_addr_parse(ip, 50000, &f->addr) == OLLA_OK);
    return f;
}

void fake_say(struct fake_fd *c, const char *p, size_t n)
{
    if (n > 0 && !c->to_end && !c->to_reset) {
        output_add(&c->to, p, n);
        fake.progress++;
    }
}

void fake_end(struct fake_fd *c)
{
    c->to_end = true;
    fake.progress++;
}

void fake_reset(struct fake_fd *c)
{
    c->to_reset = true;
    fake.progress++;
}

void fake_signal(enum plat_signal signal)
{
    ENSURE(fake.signals_n < sizeof(fake.signals));
    fake.signals[fake.signals_n++] = (unsigned char)signal;
}

/* ---- errors, time, chance ------------------------------------------------------------------ */

enum plat_fail plat_error(void)
{
    return fake.error;
}

const char *plat_error_text(void)
{
    static const char *const words[] = {
        [PLAT_FAIL_NONE] = "no error",           [PLAT_FAIL_REFUSED] = "connection refused",
        [PLAT_FAIL_RESET] = "connection reset",  [PLAT_FAIL_TIMEOUT] = "timed out",
        [PLAT_FAIL_UNREACHABLE] = "unreachable", [PLAT_FAIL_NO_FDS] = "too many open files",
        [PLAT_FAIL_NO_SPACE] = "no space left",  [PLAT_FAIL_OTHER] = "some error",
    };
    return words[fake.error];
}

uint64_t plat_now_ms(void)
{
    return fake.now;
}

int64_t plat_wall_ms(void)
{
    return WALL_START + (int64_t)fake.now;
}

void plat_random(void *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        fake.random = fake.random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        ((unsigned char *)to)[i] = (unsigned char)(fake.random >> 56);
    }
}

/* ---- sockets ----------------------------------------------------------------------------- */

/* A name is this machine's. */
int plat_listen_addrs(const char *host, uint16_t port, struct plat_addr *out, int max)
{
    (void)max;
    if (!host[0] || plat_addr_parse(host, port, out) != OLLA_OK) {
        plat_addr_parse(host[0] ? "127.0.0.1" : "0.0.0.0", port, out);
    }
    return 1;
}

int plat_listen(const struct plat_addr *a)
{
    struct fake_fd *f = new_fd(FAKE_LISTENER);
    f->addr = *a;
    return fd_of(f);
}

uint16_t plat_local_port(int fd)
{
    return plat_addr_port(&at(fd)->addr);
}

static struct fake_fd *first_waiting(void)
{
    for (size_t i = 0; i < fake.n; i++) {
        if (fake.fds[i].waiting) {
            return &fake.fds[i];
        }
    }
    return NULL;
}

int plat_accept(int fd, struct plat_addr *peer)
{
    ENSURE(at(fd)->kind == FAKE_LISTENER);
    struct fake_fd *f = first_waiting();
    if (!f) {
        return OLLA_AGAIN;
    }
    unsigned how = fault(FAKE_ACCEPT);
    if (how > 0) {
        return how % 2 ? OLLA_AGAIN : fail(PLAT_FAIL_NO_FDS);
    }
    f->waiting = false;
    f->open = true;
    *peer = f->addr;
    fake.progress++;
    return fd_of(f);
}

int plat_connect(const struct plat_addr *a, unsigned keepalive_s)
{
    (void)keepalive_s;
    unsigned how = fault(FAKE_CONNECT);
    if (how > 0) {
        return fail(how % 2 ? PLAT_FAIL_NO_FDS : PLAT_FAIL_UNREACHABLE);
    }
    struct fake_fd *f = new_fd(FAKE_BACKEND);
    f->addr = *a;
    f->connect = fake.connected ? fake.connected(f) : FAKE_REFUSED;
    return fd_of(f);
}

int plat_connected(int fd)
{
    const struct fake_fd *f = at(fd);
    return f->connect == FAKE_REFUSED ? fail(PLAT_FAIL_REFUSED) : f->to_reset ? fail(PLAT_FAIL_RESET) : OLLA_OK;
}

/* A fault says nothing now, or little. */
static long cut_short(unsigned how, size_t n)
{
    size_t most = 1 + how / 4;
    return how == 0 ? (long)n : how % 4 == 1 ? OLLA_AGAIN : n < most ? (long)n : (long)most;
}

long plat_read(int fd, void *p, size_t n)
{
    struct fake_fd *f = at(fd);
    size_t have = f->to.n - f->read;

    ENSURE(f->kind == FAKE_CLIENT || f->kind == FAKE_BACKEND);
    if (n == 0 || (f->kind == FAKE_BACKEND && f->connect == FAKE_SILENT)) {
        return OLLA_AGAIN;
    }
    if (have > 0) {
        long got = cut_short(fault(FAKE_READ), have < n ? have : n);
        if (got > 0) {
            memcpy(p, f->to.p + f->read, (size_t)got);
            f->read += (size_t)got;
            fake.progress++;
        }
        return got;
    }
    if (f->connect == FAKE_REFUSED || (f->to_reset && !f->reset_seen)) {
        f->reset_seen = true;
        fake.progress++;
        return fail(f->connect == FAKE_REFUSED ? PLAT_FAIL_REFUSED : PLAT_FAIL_RESET);
    }
    return f->to_end || f->to_reset ? OLLA_EOF : OLLA_AGAIN;
}

long plat_peek(int fd, void *p, size_t n)
{
    struct fake_fd *f = at(fd);
    size_t have = f->to.n - f->read;

    ENSURE(f->kind == FAKE_CLIENT || f->kind == FAKE_BACKEND);
    if (have == 0) {
        return f->to_end ? OLLA_EOF : OLLA_AGAIN;
    }
    memcpy(p, f->to.p + f->read, have < n ? have : n);
    return (long)(have < n ? have : n);
}

long plat_write(int fd, const void *p, size_t n)
{
    struct iovec v = {(void *)(uintptr_t)p, n};
    return plat_writev(fd, &v, 1);
}

long plat_writev(int fd, const struct iovec *v, int count)
{
    struct fake_fd *f = at(fd);
    size_t n = 0, left;

    ENSURE(f->kind == FAKE_CLIENT || f->kind == FAKE_BACKEND);
    ENSURE(count > 0 && !f->from_end);
    for (int i = 0; i < count; i++) {
        n += v[i].iov_len;
    }
    if (f->to_reset || f->connect == FAKE_REFUSED) {
        fake.progress++;
        return fail(PLAT_FAIL_RESET);
    }
    if (f->window == 0 || f->connect == FAKE_SILENT) {
        return OLLA_AGAIN;
    }
    ENSURE(n > 0); /* nothing to say is nothing to call for */
    long some = cut_short(fault(FAKE_WRITE), n < f->window ? n : f->window);
    left = some > 0 ? (size_t)some : 0;
    for (int i = 0; i < count && left > 0; i++) {
        size_t k = v[i].iov_len < left ? v[i].iov_len : left;
        if (k > 0) {
            output_add(&f->from, v[i].iov_base, k);
        }
        left -= k;
    }
    if (some > 0) {
        f->window -= (size_t)some;
        fake.progress++;
    }
    return some;
}

void plat_shutdown_write(int fd)
{
    at(fd)->from_end = true;
    fake.progress++;
}

void plat_close(int fd)
{
    struct fake_fd *f = at(fd);
    f->open = false;
    f->from_end = true;
    fake.progress++;
}

void plat_abort(int fd)
{
    at(fd)->aborted = true;
    plat_close(fd);
}

void plat_keepalive(int fd, unsigned idle_s)
{
    (void)idle_s;
    (void)at(fd);
}

/* ---- poll --------------------------------------------------------------------------------- */

static short events_of(const struct fake_fd *f, short wanted)
{
    bool in = false, out = false;
    short more = 0;

    switch (f->kind) {
    case FAKE_LISTENER:
        in = first_waiting() != NULL;
        break;
    case FAKE_SIGNALS:
        in = fake.signals_n > 0;
        break;
    case FAKE_RESOLVER:
        in = fake.answers_n > 0;
        break;
    case FAKE_CLIENT:
    case FAKE_BACKEND:
        if (f->connect == FAKE_SILENT) {
            return 0;
        }
        if (f->connect == FAKE_REFUSED || f->to_reset) {
            return (short)((wanted & (POLLIN | POLLOUT)) | POLLERR | POLLHUP);
        }
        in = f->read < f->to.n || f->to_end;
        out = f->window > 0;
        more = f->to_end && f->from_end ? POLLHUP : 0;
        break;
    case FAKE_FREE:
    case FAKE_SPOOL:
    case FAKE_RECORD:
        ENSURE(false); /* nobody polls these */
    }
    return (short)((in ? wanted & POLLIN : 0) | (out ? wanted & POLLOUT : 0) | more);
}

static int look(struct pollfd *set, size_t n)
{
    int ready = 0;
    for (size_t i = 0; i < n; i++) {
        set[i].revents = set[i].fd < 0 ? 0 : events_of(at(set[i].fd), set[i].events);
        ready += set[i].revents != 0;
    }
    return ready;
}

int plat_poll(struct pollfd *set, size_t n, int timeout_ms)
{
    if (fake.progress != fake.progress_seen) {
        fake.idle_turns = 0;
    }
    int ready = look(set, n);
    fake.quiet = false;
    if (ready == 0 && fake.peers && fake.peers()) {
        ready = look(set, n);
    }
    if (ready == 0 && timeout_ms != 0) {
        fake.quiet = true;
        uint64_t until = fake.now + (timeout_ms > 0 ? (uint64_t)timeout_ms : 1000), wake = fake.wake ? fake.wake() : 0;
        fake.now = wake > fake.now && wake < until ? wake : until;
        fake.idle_turns = 0;
    }
    /* Turn after turn with something to do and nothing done would be a loop that burns. */
    ENSURE(++fake.idle_turns < IDLE_TURNS_MAX);
    unsigned how = ready > 0 ? fault(FAKE_POLL) : 0;
    fake.progress_seen = fake.progress;
    if (how > 0) {
        for (size_t i = 0; i < n; i++) {
            set[i].revents = 0;
        }
        return 0; /* interrupted */
    }
    return ready;
}

void plat_pause_us(unsigned us)
{
    (void)us; /* time goes by in poll() alone */
}

/* ---- signals, files, log --------------------------------------------------------------------- */

int plat_signals_open(void)
{
    return fd_of(new_fd(FAKE_SIGNALS));
}

enum plat_signal plat_signal_next(void)
{
    if (fake.signals_n == 0) {
        return PLAT_SIG_NONE;
    }
    enum plat_signal first = (enum plat_signal)fake.signals[0];
    memmove(fake.signals, fake.signals + 1, --fake.signals_n);
    fake.progress++;
    return first;
}

int plat_spool_open(const char *dir)
{
    (void)dir;
    return fault(FAKE_SPOOL_OPEN) ? fail(PLAT_FAIL_OTHER) : fd_of(new_fd(FAKE_SPOOL));
}

int plat_spool_write(int fd, uint64_t from, const void *p, size_t n)
{
    struct fake_fd *f = at(fd);
    static const char zeros[64];

    ENSURE(f->kind == FAKE_SPOOL && from <= 64u << 20);
    if (fault(FAKE_SPOOL_IO)) {
        return fail(PLAT_FAIL_NO_SPACE);
    }
    while (f->from.n < from + n) {
        size_t lack = (size_t)(from + n) - f->from.n;
        output_add(&f->from, zeros, lack < sizeof(zeros) ? lack : sizeof(zeros));
    }
    memcpy(f->from.p + from, p, n);
    fake.progress++;
    return OLLA_OK;
}

long plat_spool_read(int fd, uint64_t from, void *p, size_t n)
{
    struct fake_fd *f = at(fd);

    ENSURE(f->kind == FAKE_SPOOL);
    if (from >= f->from.n || fault(FAKE_SPOOL_IO)) {
        return fail(PLAT_FAIL_OTHER);
    }
    n = f->from.n - from < n ? (size_t)(f->from.n - from) : n;
    memcpy(p, f->from.p + from, n);
    return (long)n;
}

int plat_record_open(const char *dir, const char *day, const char *name, uint64_t *end)
{
    (void)dir;
    (void)day;
    (void)name;
    *end = 0;
    return fault(FAKE_SPOOL_OPEN) ? fail(PLAT_FAIL_OTHER) : fd_of(new_fd(FAKE_RECORD));
}

int plat_record_write(int fd, const void *p, size_t n)
{
    if (fault(FAKE_SPOOL_IO)) {
        return fail(PLAT_FAIL_NO_SPACE);
    }
    output_add(&at(fd)->from, p, n);
    return OLLA_OK;
}

void plat_record_undo(int fd, uint64_t end)
{
    at(fd)->from.n = (size_t)end;
}

/* FAKE_LOG=1 shows what olla says. */
int plat_append(const char *path, const void *p, size_t n)
{
    (void)path;
    (void)p;
    (void)n;
    return OLLA_OK;
}

int plat_log_open(const char *path)
{
    (void)path;
    return fail(PLAT_FAIL_OTHER);
}

int plat_syslog_open(const char *path)
{
    return plat_log_open(path);
}

long plat_log_write(int fd, const void *p, size_t n)
{
    (void)fd;
    if (getenv("FAKE_LOG")) {
        (void)fwrite(p, 1, n, stderr);
    }
    return (long)n;
}

bool plat_is_tty(int fd)
{
    (void)fd;
    return false;
}

long plat_raise_fd_limit(size_t want)
{
    return (long)want;
}

/* ---- names ------------------------------------------------------------------------------------ */

int resolve_open(void)
{
    fake.answers_n = 0;
    return fd_of(new_fd(FAKE_RESOLVER));
}

/* A name is an address, or there is none. */
int resolve_ask(uint32_t id, const char *host, uint16_t port)
{
    struct resolve_answer *a = &fake.answers[fake.answers_n];

    if (fake.answers_n == OLLA_COUNT(fake.answers) || fault(FAKE_NAMES)) {
        return OLLA_AGAIN;
    }
    memset(a, 0, sizeof(*a));
    a->id = id;
    a->count = plat_addr_parse(host, port, &a->addr[0]) == OLLA_OK ? 1 : 0;
    fake.answers_n++;
    return OLLA_OK;
}

int resolve_next(struct resolve_answer *out)
{
    if (fake.answers_n == 0) {
        return OLLA_AGAIN;
    }
    *out = fake.answers[0];
    memmove(fake.answers, fake.answers + 1, --fake.answers_n * sizeof(fake.answers[0]));
    fake.progress++;
    return OLLA_OK;
}

int resolve_reopen(void)
{
    return resolve_open();
}

void resolve_close(void)
{
}
