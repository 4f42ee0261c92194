/*
 * platform.h - level 1: the contract with the operating system.
 *
 * Only the .c files beside this header include system headers; the rest of
 * the program sees these functions. No call here blocks, except the ones
 * marked "start-up only". Results follow olla.h: a count or OLLA_OK, or
 * OLLA_AGAIN, OLLA_ERR, OLLA_EOF. After OLLA_ERR plat_error() tells why.
 *
 * <poll.h> and <sys/uio.h> are exposed on purpose: struct pollfd and struct
 * iovec are the portable forms of what they hold.
 *
 * May include: olla.h.
 */
#ifndef OLLA_PLATFORM_H
#define OLLA_PLATFORM_H

#include <poll.h>
#include <sys/uio.h>

#include "../olla.h"

/* ---- errors ------------------------------------------------------------- */

/* Kinds of failure that the program treats differently. */
enum plat_fail {
    PLAT_FAIL_NONE = 0,
    PLAT_FAIL_REFUSED,     /* connection refused */
    PLAT_FAIL_RESET,       /* reset or broken pipe */
    PLAT_FAIL_TIMEOUT,     /* the kernel gave up (keep-alive probes, SYN retries) */
    PLAT_FAIL_UNREACHABLE, /* no route to host or network */
    PLAT_FAIL_NO_FDS,      /* out of descriptors or kernel buffers (EMFILE, ENFILE, ENOBUFS, ENOMEM) */
    PLAT_FAIL_NO_SPACE,    /* disk full, or a quota or size limit reached */
    PLAT_FAIL_IN_USE,      /* the address to listen on is taken */
    PLAT_FAIL_DENIED,      /* this user may not */
    PLAT_FAIL_OTHER
};

enum plat_fail plat_error(void);   /* of the last call here that returned OLLA_ERR */
const char *plat_error_text(void); /* the system's words for it */

/* ---- time and chance ---------------------------------------------------- */

uint64_t plat_now_ms(void);           /* monotonic */
int64_t plat_wall_ms(void);           /* Unix time; may jump */
void plat_random(void *to, size_t n); /* from the kernel; call it once at start-up: the first call opens /dev/urandom */

/* Broken-down wall time, UTC or local; offset_min is the zone's distance from UTC. */
struct plat_time {
    int year, month, day, weekday, hour, minute, second, ms; /* month 1..12, weekday 0 = Sunday */
    int offset_min;
};
void plat_time_of(int64_t wall_ms, bool local, struct plat_time *out);

/* ---- addresses ---------------------------------------------------------- */

struct plat_addr {
    unsigned char bytes[28]; /* a sockaddr_in or sockaddr_in6 */
    uint8_t len;             /* 0 = none */
};

/* From an IPv4 or IPv6 literal without brackets. OLLA_ERR if it is neither. */
int plat_addr_parse(const char *ip, uint16_t port, struct plat_addr *out);
void plat_addr_set_port(struct plat_addr *a, uint16_t port);
uint16_t plat_addr_port(const struct plat_addr *a);
bool plat_addr_is_loopback(const struct plat_addr *a); /* 127.0.0.0/8, also v4-mapped, and ::1 */
bool plat_addr_eq(const struct plat_addr *a, const struct plat_addr *b);
/* The address without the port as text, NUL-terminated; a v4-mapped v6 address prints as v4. to[46] is enough. */
void plat_addr_text(const struct plat_addr *a, char *to, size_t cap);
/* The 16 bytes of its IPv6 form, an IPv4 address as a v4-mapped one; and such bytes as text, as above. */
void plat_addr_bytes(const struct plat_addr *a, unsigned char to[16]);
void plat_bytes_text(const unsigned char bytes[16], char *to, size_t cap);

/* Start-up only (blocks): addresses of host for listening; host "" = all interfaces. Count or OLLA_ERR. */
int plat_listen_addrs(const char *host, uint16_t port, struct plat_addr *out, int max);

/* ---- sockets (all non-blocking, close-on-exec) -------------------------- */

int plat_listen(const struct plat_addr *a); /* fd or OLLA_ERR; port 0 = any free one */
uint16_t plat_local_port(int fd);
int plat_accept(int fd, struct plat_addr *peer); /* fd, OLLA_AGAIN, OLLA_ERR; TCP_NODELAY is set */
/* fd of a connection under way. keepalive_s > 0 turns TCP keep-alive on with that idle time. */
int plat_connect(const struct plat_addr *a, unsigned keepalive_s);
int plat_connected(int fd);                                 /* when writable: OLLA_OK or OLLA_ERR */
long plat_read(int fd, void *p, size_t n);                  /* count > 0, OLLA_AGAIN, OLLA_EOF, OLLA_ERR */
long plat_write(int fd, const void *p, size_t n);           /* count > 0, OLLA_AGAIN, OLLA_ERR; never SIGPIPE */
long plat_writev(int fd, const struct iovec *v, int count); /* same */
long plat_peek(int fd, void *p, size_t n);                  /* as plat_read, but the bytes stay where they are */
void plat_shutdown_write(int fd);                           /* FIN, our side only */
void plat_close(int fd);
void plat_abort(int fd); /* RST instead of FIN, so that the peer notices at once */
void plat_keepalive(int fd, unsigned idle_s);

/* A socket for datagrams to addresses of the kind of `like`, broadcasts too: fd or OLLA_ERR. */
int plat_udp_open(const struct plat_addr *like);
int plat_udp_send(int fd, const struct plat_addr *to, const void *p, size_t n); /* OLLA_OK, OLLA_AGAIN, OLLA_ERR */
bool plat_addr_is_everybody(const struct plat_addr *a);                         /* 255.255.255.255 */
/* Broadcast addresses of the networks that this machine is in now; how many, 0 where that cannot be known. */
int plat_broadcasts(int fd, uint16_t port, struct plat_addr *out, int max);

/* poll(2); count of ready descriptors, 0 also when interrupted. timeout_ms < 0 waits for ever. */
int plat_poll(struct pollfd *set, size_t n, int timeout_ms);

/* Sleeps about so long, at most 1 s; less when a signal comes. */
void plat_pause_us(unsigned us);

/* ---- signals through a pipe --------------------------------------------- */

enum plat_signal { PLAT_SIG_NONE = 0, PLAT_SIG_TERM, PLAT_SIG_RELOAD, PLAT_SIG_REPORT };

/* Start-up only: installs the handlers (TERM and INT, HUP, USR1; PIPE ignored); fd to poll for reading, or OLLA_ERR. */
int plat_signals_open(void);
enum plat_signal plat_signal_next(void); /* PLAT_SIG_NONE when there is no more */

/* ---- files -------------------------------------------------------------- */

bool plat_readable(const char *path);
/* A number that changes when the file does; 0 = it cannot be looked at. */
uint64_t plat_file_stamp(const char *path);
/* The first bytes of a file, at most cap: count or OLLA_ERR. Only of a plain file: others might block. */
long plat_file_read(const char *path, char *to, size_t cap);
/* An unlinked temporary file in dir: fd or OLLA_ERR. Reads and writes go through the page cache. */
int plat_spool_open(const char *dir);
int plat_spool_write(int fd, uint64_t at, const void *p, size_t n); /* OLLA_OK or OLLA_ERR, never partial */
long plat_spool_read(int fd, uint64_t at, void *p, size_t n);       /* count > 0, or OLLA_ERR */

/*
 * The end of the file dir/day/name, for one record: fd or OLLA_ERR. What is missing is made, for the owner alone; a
 * link, or anything but a file, is refused in the place of the last two. *end tells how long it is.
 */
int plat_record_open(const char *dir, const char *day, const char *name, uint64_t *end);
int plat_record_write(int fd, const void *p, size_t n); /* OLLA_OK or OLLA_ERR, then maybe a part */
void plat_record_undo(int fd, uint64_t end);            /* what was written goes away again */

/* Appends to a plain file, which is made, for the owner alone, if it is not there. All of it or nothing. OLLA_OK or
 * OLLA_ERR. */
int plat_append(const char *path, const void *p, size_t n);

/*
 * The end of a file for log lines, or a pipe or terminal that has a name: fd or OLLA_ERR. A missing file is made, for
 * the owner alone, and a missing directory that it stands in (not those above).
 */
int plat_log_open(const char *path);
int plat_syslog_open(const char *path); /* a datagram socket to the system's log there: fd or OLLA_ERR */

/* A plain file for plat_read: fd or OLLA_ERR. */
int plat_plain_open(const char *path);
/* An empty file beside `path`, for the owner alone, to be written with plat_record_write: fd or OLLA_ERR. */
int plat_replace_open(const char *path);
/* Closes it; it takes the place of `path` at once, or goes away. OLLA_OK or OLLA_ERR. */
int plat_replace_done(int fd, const char *path, bool take);

/* Writes to a log descriptor only if that cannot block: count, OLLA_AGAIN or OLLA_ERR. */
long plat_log_write(int fd, const void *p, size_t n);
bool plat_is_tty(int fd);

/* ---- process ------------------------------------------------------------ */

long plat_raise_fd_limit(size_t want); /* the soft limit after trying to raise it to want */
long plat_pid(void);
unsigned plat_cpu_count(void); /* at least 1 */
uint64_t plat_rss_bytes(void); /* resident memory; 0 where it cannot be known */

/*
 * Start-up only: what this process and its children can do without. New files are for their owner alone, a crash
 * leaves no core file (there are keys in it), and on Linux no program that is started can have more rights than this
 * one. The working directory stays: paths of the configuration may be relative to it.
 */
void plat_harden(void);

/*
 * Start-up only (both may block, names are looked up): another user, as NAME, NAME:GROUP or with numbers. The first
 * only tells whether there is one. The second becomes that user, with its groups, for good; whoever is that user
 * already need not be root. Groups beside the own one can be given up on Linux, and where PLAT_SETGROUPS says so;
 * elsewhere nobody is changed, which is OLLA_ERR.
 */
int plat_user_check(const char *who);
int plat_user_become(const char *who);

/* ---- programs (platform/spawn.c) ----------------------------------------- */

struct plat_program {
    long pid;
    int fd; /* of what it writes to standard output and standard error; the caller closes it */
};

/*
 * Starts argv[0], which is a path, without a shell, and waits for nothing. It gets a few variables of olla's own
 * environment and those of `own` ("NAME=value"; NULL ends both lists). That it cannot be started is told by what it
 * writes, and by the code 127. OLLA_OK or OLLA_ERR.
 */
int plat_program_start(const char *const argv[], const char *const own[], struct plat_program *out);
/* OLLA_OK: it has ended, with that code (128 + n: by signal n), and must not be asked about again. OLLA_AGAIN: not yet. */
int plat_program_ended(const struct plat_program *p, int *code);
/* Asks it, and all that it has started, to end; now: does not ask. Only while it has not been seen to have ended. */
void plat_program_end(const struct plat_program *p, bool now);

/* ---- names (platform/resolve.c) ----------------------------------------- */

/*
 * A child process asks getaddrinfo, because that blocks. It is the user that
 * its parent is when it starts. With RESOLVER=sync (OLLA_RESOLVER_SYNC) there is no
 * child: questions are answered inside resolve_ask, which then may block, and
 * are asked at start and reload only.
 */
#ifndef OLLA_RESOLVER_SYNC
#define OLLA_RESOLVER_SYNC 0
#endif

struct resolve_answer {
    uint32_t id;                           /* of the question */
    int count;                             /* 0 = the name has no address */
    struct plat_addr addr[OLLA_MAX_ADDRS]; /* port as asked */
};

int resolve_open(void); /* start-up only; fd to poll for reading, or OLLA_ERR; -1000 means "no fd" (sync) */
#define RESOLVE_NO_FD (-1000)
/* host: at most 253 bytes; an impossible one is answered with count 0. OLLA_OK, OLLA_AGAIN (child busy,
 * ask later) or OLLA_ERR (there is no child: call resolve_reopen, then ask again). */
int resolve_ask(uint32_t id, const char *host, uint16_t port);
/* OLLA_OK, OLLA_AGAIN, or OLLA_ERR when the child died: call resolve_reopen. */
int resolve_next(struct resolve_answer *out);
int resolve_reopen(void); /* like resolve_open; outstanding questions are lost */
void resolve_close(void);

#endif
