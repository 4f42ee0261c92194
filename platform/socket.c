/*
 * socket.c - level 2: the part of platform.h about addresses, TCP sockets and
 * poll, on POSIX.1-2008 (Linux and the BSDs).
 *
 * Invariants:
 *  - every socket made here is non-blocking and close-on-exec;
 *  - one read, write, poll or accept is one system call;
 *  - what only some systems have is behind #if, with a portable other half.
 *
 * May include: platform.h, posix.h and system headers.
 */

/* accept4() saves two system calls for each connection, but is not POSIX.1-2008. */
#define _GNU_SOURCE 1

#include "posix.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(__linux__) && defined(SOCK_NONBLOCK) && defined(SOCK_CLOEXEC)
#define HAVE_SOCK_FLAGS 1
#else
#define HAVE_SOCK_FLAGS 0
#endif

/* These systems hand TCP_NODELAY of the listening socket on to the accepted one. */
#if defined(__linux__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__)
#define NODELAY_INHERITED 1
#else
#define NODELAY_INHERITED 0
#endif

#define LISTEN_BACKLOG 511

/* ---- addresses ---------------------------------------------------------- */

/* struct plat_addr holds the bytes without their alignment; this is the form the system wants. */
union name {
    struct sockaddr sa;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* Does not compile if an address would not fit. */
enum { ADDR_FITS = 1 / (sizeof(union name) <= sizeof(((struct plat_addr *)0)->bytes)) };

static void name_get(const struct plat_addr *a, union name *out)
{
    memset(out, 0, sizeof(*out));
    memcpy(out, a->bytes, a->len <= sizeof(*out) ? a->len : 0);
}

/* False if it is neither an IPv4 nor an IPv6 address. */
static bool name_put(const union name *name, struct plat_addr *out)
{
    memset(out, 0, sizeof(*out));
    if (name->sa.sa_family == AF_INET) {
        out->len = (uint8_t)sizeof(name->v4);
    } else if (name->sa.sa_family == AF_INET6) {
        out->len = (uint8_t)sizeof(name->v6);
    } else {
        return false;
    }
    memcpy(out->bytes, name, out->len);
    return true;
}

/* The number of the interface in a literal like fe80::1%eth0; 0 = there is no such interface. */
static uint32_t scope_of(const char *text)
{
    uint32_t n = 0;
    const char *p = text;

    while (*p >= '0' && *p <= '9' && n < 100000) {
        n = n * 10 + (uint32_t)(*p++ - '0');
    }
    return *p == '\0' && p != text ? n : if_nametoindex(text);
}

int plat_addr_parse(const char *ip, uint16_t port, struct plat_addr *out)
{
    union name name;
    char text[INET6_ADDRSTRLEN];
    const char *scope = strchr(ip, '%');
    size_t n = scope != NULL ? (size_t)(scope - ip) : strlen(ip);
    bool ok = n < sizeof(text);

    memset(&name, 0, sizeof(name));
    memset(out, 0, sizeof(*out));
    if (ok) {
        memcpy(text, ip, n);
        text[n] = '\0';
        if (scope == NULL && inet_pton(AF_INET, text, &name.v4.sin_addr) == 1) {
            name.sa.sa_family = AF_INET;
        } else if (inet_pton(AF_INET6, text, &name.v6.sin6_addr) == 1) {
            name.sa.sa_family = AF_INET6;
            if (scope != NULL) {
                name.v6.sin6_scope_id = scope_of(scope + 1);
                ok = name.v6.sin6_scope_id != 0;
            }
        } else {
            ok = false;
        }
    }
    if (!ok) {
        return plat_fail_with(EINVAL);
    }
    name_put(&name, out);
    plat_addr_set_port(out, port);
    return OLLA_OK;
}

void plat_addr_set_port(struct plat_addr *a, uint16_t port)
{
    union name name;

    name_get(a, &name);
    if (name.sa.sa_family == AF_INET) {
        name.v4.sin_port = htons(port);
    } else {
        name.v6.sin6_port = htons(port);
    }
    memcpy(a->bytes, &name, a->len);
}

uint16_t plat_addr_port(const struct plat_addr *a)
{
    union name name;

    name_get(a, &name);
    return ntohs(name.sa.sa_family == AF_INET ? name.v4.sin_port : name.v6.sin6_port);
}

bool plat_addr_eq(const struct plat_addr *a, const struct plat_addr *b)
{
    union name x, y;

    name_get(a, &x);
    name_get(b, &y);
    if (a->len != b->len || x.sa.sa_family != y.sa.sa_family) {
        return false;
    }
    /* Field by field: padding and flow labels do not make two addresses different. */
    if (x.sa.sa_family == AF_INET) {
        return x.v4.sin_port == y.v4.sin_port && x.v4.sin_addr.s_addr == y.v4.sin_addr.s_addr;
    }
    return x.v6.sin6_port == y.v6.sin6_port && x.v6.sin6_scope_id == y.v6.sin6_scope_id &&
           memcmp(&x.v6.sin6_addr, &y.v6.sin6_addr, sizeof(x.v6.sin6_addr)) == 0;
}

void plat_addr_text(const struct plat_addr *a, char *to, size_t cap)
{
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    union name name;
    const char *text = NULL;

    if (cap == 0) {
        return;
    }
    name_get(a, &name);
    if (name.sa.sa_family == AF_INET) {
        text = inet_ntop(AF_INET, &name.v4.sin_addr, to, (socklen_t)cap);
    } else if (name.sa.sa_family == AF_INET6) {
        const unsigned char *bytes = name.v6.sin6_addr.s6_addr;

        if (memcmp(bytes, mapped, sizeof(mapped)) == 0) {
            text = inet_ntop(AF_INET, bytes + sizeof(mapped), to, (socklen_t)cap);
        } else {
            text = inet_ntop(AF_INET6, bytes, to, (socklen_t)cap);
        }
    }
    if (text == NULL) {
        to[0] = '\0';
    }
}

static int fail_lookup(int rc)
{
    if (rc == EAI_SYSTEM) {
        return plat_fail();
    }
    return plat_fail_words(gai_strerror(rc));
}

static bool is_localhost(const char *host)
{
    static const char tail[] = "localhost";
    size_t n = strlen(host);

    if (n > 0 && host[n - 1] == '.') {
        n--;
    }
    if (n < sizeof(tail) - 1) {
        return false;
    }
    host += n - (sizeof(tail) - 1);
    return strncasecmp(host, tail, sizeof(tail) - 1) == 0 && (n == sizeof(tail) - 1 || host[-1] == '.');
}

/* Adds the addresses of a list, each once, in its order. */
static int take_addrs(const struct addrinfo *list, uint16_t port, struct plat_addr *out, int max)
{
    int count = 0;

    for (; list != NULL && count < max; list = list->ai_next) {
        union name name;
        bool known = false;

        if (list->ai_addrlen > sizeof(name)) {
            continue;
        }
        memset(&name, 0, sizeof(name));
        memcpy(&name, list->ai_addr, list->ai_addrlen);
        if (!name_put(&name, &out[count])) {
            continue;
        }
        plat_addr_set_port(&out[count], port);
        for (int i = 0; i < count; i++) {
            known = known || plat_addr_eq(&out[i], &out[count]);
        }
        count += known ? 0 : 1;
    }
    return count;
}

int plat_lookup(const char *host, uint16_t port, struct plat_addr *out, int max)
{
    struct addrinfo hints, *list = NULL;
    int rc, count;

    if (max < 1) {
        return 0;
    }
    if (plat_addr_parse(host, port, &out[0]) == OLLA_OK) {
        return 1;
    }
    memset(&hints, 0, sizeof(hints));
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    /* AI_ADDRCONFIG spares questions for IPv6 addresses where there is no IPv6, but does not count
     * loopback as a configured address: it must not take ::1 from localhost, nor leave a name empty. */
    hints.ai_flags = is_localhost(host) ? 0 : AI_ADDRCONFIG;
    rc = getaddrinfo(host, NULL, &hints, &list);
    if (rc != 0 && rc != EAI_AGAIN && hints.ai_flags != 0) {
        hints.ai_flags = 0;
        rc = getaddrinfo(host, NULL, &hints, &list);
    }
    if (rc != 0) {
        return fail_lookup(rc);
    }
    count = take_addrs(list, port, out, max);
    freeaddrinfo(list);
    return count > 0 ? count : fail_lookup(EAI_NONAME);
}

int plat_listen_addrs(const char *host, uint16_t port, struct plat_addr *out, int max)
{
    int count = 0;
    int fd;

    if (host[0] != '\0') {
        return plat_lookup(host, port, out, max);
    }
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (fd != -1) {
        close(fd);
        if (count < max && plat_addr_parse("::", port, &out[count]) == OLLA_OK) {
            count++;
        }
    }
    if (count < max && plat_addr_parse("0.0.0.0", port, &out[count]) == OLLA_OK) {
        count++;
    }
    return count;
}

/* ---- sockets ------------------------------------------------------------ */

static void set_option(int fd, int level, int option, int value)
{
    /* A refused option costs speed, not correctness. */
    (void)setsockopt(fd, level, option, &value, sizeof(value));
}

static int open_socket(int family)
{
#if HAVE_SOCK_FLAGS
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
#else
    int fd = socket(family, SOCK_STREAM, 0);

    if (fd != -1 && !plat_set_flags(fd)) {
        return plat_fail_closing(fd);
    }
#endif
    if (fd == -1) {
        return plat_fail();
    }
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    return fd;
}

int plat_listen(const struct plat_addr *a)
{
    union name name;
    int fd;

    name_get(a, &name);
    fd = open_socket(name.sa.sa_family);
    if (fd < 0) {
        return fd;
    }
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (name.sa.sa_family == AF_INET6) {
        /* Otherwise :: would take the IPv4 port too, and 0.0.0.0 beside it could not be bound. */
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    }
    if (bind(fd, &name.sa, a->len) == -1 || listen(fd, LISTEN_BACKLOG) == -1) {
        return plat_fail_closing(fd);
    }
    return fd;
}

uint16_t plat_local_port(int fd)
{
    union name name;
    struct plat_addr a;
    socklen_t len = sizeof(name);

    memset(&name, 0, sizeof(name));
    if (getsockname(fd, &name.sa, &len) == -1 || !name_put(&name, &a)) {
        return 0;
    }
    return plat_addr_port(&a);
}

/* Errors of a connection that died in the queue; the listening socket itself is well. */
static bool is_lost_arrival(int err)
{
    static const int lost[] = {ECONNABORTED, EPROTO,       ENOPROTOOPT, ENETDOWN,
                               ENETUNREACH,  EHOSTUNREACH, EOPNOTSUPP,  ETIMEDOUT};

    for (size_t i = 0; i < OLLA_COUNT(lost); i++) {
        if (err == lost[i]) {
            return true;
        }
    }
    return false;
}

int plat_accept(int fd, struct plat_addr *peer)
{
    union name name;
    socklen_t len;
    int got;

    memset(&name, 0, sizeof(name));
    do {
        len = sizeof(name);
#if HAVE_SOCK_FLAGS
        got = accept4(fd, &name.sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
        got = accept(fd, &name.sa, &len);
#endif
    } while (got == -1 && errno == EINTR);
    if (got == -1) {
        return is_lost_arrival(errno) ? OLLA_AGAIN : plat_again_or_fail();
    }
#if !HAVE_SOCK_FLAGS
    if (!plat_set_flags(got)) {
        return plat_fail_closing(got);
    }
#endif
#if !NODELAY_INHERITED
    set_option(got, IPPROTO_TCP, TCP_NODELAY, 1);
#endif
    name_put(&name, peer);
    return got;
}

void plat_keepalive(int fd, unsigned idle_s)
{
    int idle = idle_s < 32767 ? (int)idle_s : 32767; /* the most that Linux takes */

    if (idle == 0) {
        return;
    }
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    /* Four probes within another idle time: a dead peer is noticed after twice idle_s. */
#ifdef TCP_KEEPIDLE
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle);
#endif
#ifdef TCP_KEEPINTVL
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, idle < 4 ? 1 : idle / 4);
#endif
#ifdef TCP_KEEPCNT
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
#endif
}

int plat_connect(const struct plat_addr *a, unsigned keepalive_s)
{
    union name name;
    int fd;

    name_get(a, &name);
    fd = open_socket(name.sa.sa_family);
    if (fd < 0) {
        return fd;
    }
    plat_keepalive(fd, keepalive_s);
    /* An interrupted connect goes on by itself, like one in progress; a second call would fail. */
    if (connect(fd, &name.sa, a->len) == -1 && errno != EINPROGRESS && errno != EINTR) {
        return plat_fail_closing(fd);
    }
    return fd;
}

int plat_connected(int fd)
{
    int err = 0;
    socklen_t len = sizeof(err);

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) == -1) {
        return plat_fail();
    }
    return err == 0 ? OLLA_OK : plat_fail_with(err);
}

long plat_read(int fd, void *p, size_t n)
{
    ssize_t got;

    if (n == 0) {
        return OLLA_AGAIN; /* read() would return 0, which means the end */
    }
    do {
        got = read(fd, p, n);
    } while (got == -1 && errno == EINTR);
    if (got == -1) {
        return plat_again_or_fail();
    }
    return got > 0 ? (long)got : OLLA_EOF;
}

long plat_write(int fd, const void *p, size_t n)
{
    ssize_t done;

    do {
        done = send(fd, p, n, MSG_NOSIGNAL);
    } while (done == -1 && errno == EINTR);
    return done == -1 ? plat_again_or_fail() : (long)done;
}

long plat_writev(int fd, const struct iovec *v, int count)
{
    struct msghdr msg;
    ssize_t done;

    memset(&msg, 0, sizeof(msg));
    msg.msg_iov = (struct iovec *)(uintptr_t)v; /* the system only reads it, but its type has no const */
    msg.msg_iovlen = (unsigned short)count;     /* fits both int and size_t, which systems disagree about */
    do {
        done = sendmsg(fd, &msg, MSG_NOSIGNAL);
    } while (done == -1 && errno == EINTR);
    return done == -1 ? plat_again_or_fail() : (long)done;
}

void plat_shutdown_write(int fd)
{
    (void)shutdown(fd, SHUT_WR);
}

void plat_close(int fd)
{
    (void)close(fd); /* never twice: after EINTR the number may already belong to someone else */
}

void plat_abort(int fd)
{
    struct linger now = {1, 0};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    plat_close(fd);
}

int plat_poll(struct pollfd *set, size_t n, int timeout_ms)
{
    int ready = poll(set, (nfds_t)n, timeout_ms);

    if (ready == -1) {
        return errno == EINTR || IS_AGAIN(errno) ? 0 : plat_fail();
    }
    return ready;
}
