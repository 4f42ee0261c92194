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
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* Where sockets cannot be born with the right flags, plat_set_flags adds them. */
#ifdef __linux__
#define SOCKET_FLAGS (SOCK_NONBLOCK | SOCK_CLOEXEC)
#else
#define SOCKET_FLAGS                  0
#define accept4(fd, name, len, flags) accept(fd, name, len)
#endif

#define LISTEN_BACKLOG 511
#define UNSENT_MAX     (128 * 1024)

/* ---- addresses ---------------------------------------------------------- */

/* struct plat_addr holds the bytes without their alignment; this is the form the system wants. */
union name {
    struct sockaddr sa;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* Do not compile if an address would not fit, or if the ports of both kinds were not at one place. */
enum {
    ADDR_FITS = 1 / (sizeof(union name) <= sizeof(((struct plat_addr *)0)->bytes)),
    PORTS_MATCH = 1 / (offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port))
};

static void name_get(const struct plat_addr *a, union name *out)
{
    memset(out, 0, sizeof(*out));
    memcpy(out, a->bytes, a->len);
}

/* All zero if it is neither an IPv4 nor an IPv6 address. */
static void name_put(const struct sockaddr *name, struct plat_addr *out)
{
    memset(out, 0, sizeof(*out));
    if (name->sa_family == AF_INET) {
        out->len = (uint8_t)sizeof(struct sockaddr_in);
    } else if (name->sa_family == AF_INET6) {
        out->len = (uint8_t)sizeof(struct sockaddr_in6);
    }
    memcpy(out->bytes, name, out->len);
}

static int lookup(const char *host, int family, int flags, struct plat_addr *out, int max);

int plat_addr_parse(const char *ip, uint16_t port, struct plat_addr *out)
{
    struct sockaddr_in v4;

    memset(&v4, 0, sizeof(v4));
    memset(out, 0, sizeof(*out));
    /* getaddrinfo knows scopes like fe80::1%eth0, but takes 127.1 for an IPv4 address, too. */
    if (inet_pton(AF_INET, ip, &v4.sin_addr) == 1) {
        v4.sin_family = AF_INET;
        name_put((const struct sockaddr *)&v4, out);
    } else if (lookup(ip, AF_INET6, AI_NUMERICHOST, out, 1) < 0) {
        return OLLA_ERR;
    }
    plat_addr_set_port(out, port);
    return OLLA_OK;
}

void plat_addr_set_port(struct plat_addr *a, uint16_t port)
{
    union name name;

    name_get(a, &name);
    name.v4.sin_port = htons(port);
    memcpy(a->bytes, &name, a->len);
}

uint16_t plat_addr_port(const struct plat_addr *a)
{
    union name name;

    name_get(a, &name);
    return ntohs(name.v4.sin_port);
}

bool plat_addr_eq(const struct plat_addr *a, const struct plat_addr *b)
{
    union name x, y;

    name_get(a, &x);
    name_get(b, &y);
    /* Field by field: padding and flow labels do not make two addresses different. */
    if (a->len != b->len || x.v4.sin_port != y.v4.sin_port) {
        return false;
    }
    if (x.sa.sa_family == AF_INET) {
        return x.v4.sin_addr.s_addr == y.v4.sin_addr.s_addr;
    }
    return x.v6.sin6_scope_id == y.v6.sin6_scope_id && memcmp(&x.v6.sin6_addr, &y.v6.sin6_addr, 16) == 0;
}

bool plat_addr_is_loopback(const struct plat_addr *a)
{
    union name name;
    unsigned char first;

    name_get(a, &name);
    if (name.sa.sa_family == AF_INET) {
        memcpy(&first, &name.v4.sin_addr, 1);
        return first == 127;
    }
    const unsigned char *b = name.v6.sin6_addr.s6_addr;
    bool mapped = IN6_IS_ADDR_V4MAPPED(&name.v6.sin6_addr) && b[12] == 127;
    return name.sa.sa_family == AF_INET6 && (mapped || IN6_IS_ADDR_LOOPBACK(&name.v6.sin6_addr));
}

static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

void plat_addr_bytes(const struct plat_addr *a, unsigned char to[16])
{
    union name name;

    name_get(a, &name);
    if (name.sa.sa_family == AF_INET) {
        memcpy(to, mapped, sizeof(mapped));
        memcpy(to + sizeof(mapped), &name.v4.sin_addr, 4);
    } else {
        memcpy(to, name.v6.sin6_addr.s6_addr, 16);
    }
}

void plat_bytes_text(const unsigned char bytes[16], char *to, size_t cap)
{
    bool v4 = memcmp(bytes, mapped, sizeof(mapped)) == 0;

    if (!inet_ntop(v4 ? AF_INET : AF_INET6, bytes + (v4 ? sizeof(mapped) : 0), to, (socklen_t)cap)) {
        to[0] = '\0';
    }
}

void plat_addr_text(const struct plat_addr *a, char *to, size_t cap)
{
    unsigned char bytes[16];

    to[0] = '\0';
    if (a->len > 0) {
        plat_addr_bytes(a, bytes);
        plat_bytes_text(bytes, to, cap);
    }
}

/* The addresses that getaddrinfo gives, each once, in its order. Count > 0 or OLLA_ERR. */
static int lookup(const char *host, int family, int flags, struct plat_addr *out, int max)
{
    struct addrinfo hints = {.ai_family = family, .ai_flags = flags, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(host, NULL, &hints, &list);
    int count = 0;

    if (rc != 0) {
        return rc == EAI_SYSTEM ? plat_fail(errno) : plat_fail_words(gai_strerror(rc));
    }
    for (const struct addrinfo *at = list; at && count < max; at = at->ai_next) {
        int same = 0;
        name_put(at->ai_addr, &out[count]);
        while (!plat_addr_eq(&out[same], &out[count])) {
            same++;
        }
        count += same == count;
    }
    freeaddrinfo(list);
    return count;
}

int plat_lookup(const char *host, uint16_t port, struct plat_addr *out, int max)
{
    size_t n = strlen(host);
    int count;

    if (n == 0 || n > 253) {
        return plat_fail_words(gai_strerror(EAI_NONAME)); /* cannot be a name, so nobody needs to be asked */
    }
    if (plat_addr_parse(host, port, &out[0]) == OLLA_OK) {
        return 1;
    }
    count = lookup(host, AF_UNSPEC, 0, out, max);
    if (count < 0 && max > 1 && strcasecmp(host, "localhost") == 0) {
        /* RFC 6761, 6.3. Not every small system has an /etc/hosts that says so. */
        plat_addr_parse("127.0.0.1", port, &out[0]);
        plat_addr_parse("::1", port, &out[1]);
        return 2;
    }
    for (int i = 0; i < count; i++) {
        plat_addr_set_port(&out[i], port);
    }
    return count;
}

int plat_listen_addrs(const char *host, uint16_t port, struct plat_addr *out, int max)
{
    int fd, count = 0;

    if (host[0] != '\0') {
        return plat_lookup(host, port, out, max);
    }
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (fd != -1) {
        close(fd);
        plat_addr_parse("::", port, &out[count++]);
    }
    if (count < max) {
        plat_addr_parse("0.0.0.0", port, &out[count++]);
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
    int fd = socket(family, SOCK_STREAM | SOCKET_FLAGS, 0);

    if (fd == -1) {
        return plat_fail(errno);
    }
    if (SOCKET_FLAGS == 0 && !plat_set_flags(fd)) {
        return plat_fail_closing(fd);
    }
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
#ifdef TCP_NOTSENT_LOWAT
    /* Peers that take nothing must not cost the kernel its default of 4 MB each: some hundreds use up what it has. */
    set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MAX);
#endif
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
    socklen_t len = sizeof(name);

    memset(&name, 0, sizeof(name));
    return getsockname(fd, &name.sa, &len) == -1 ? 0 : ntohs(name.v4.sin_port);
}

int plat_accept(int fd, struct plat_addr *peer)
{
    union name name;
    socklen_t len = sizeof(name);
    int got;

    memset(&name, 0, sizeof(name));
    got = accept4(fd, &name.sa, &len, SOCKET_FLAGS);
    if (got == -1) {
        /* Errors of a connection that died in the queue (ECONNABORTED, EPROTO) are OLLA_ERR, too: nothing to do. */
        return plat_again_or_fail();
    }
    if (SOCKET_FLAGS == 0 && !plat_set_flags(got)) {
        return plat_fail_closing(got);
    }
    /* Options are inherited from the listening socket. */
    name_put(&name.sa, peer);
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
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, idle < 4 ? 1 : idle / 4);
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
#ifdef TCP_USER_TIMEOUT
    /* While bytes wait for their acknowledgement no probe is sent: a request into the void takes as long to notice. */
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, keepalive_s < 32767 ? (int)keepalive_s * 2000 : 32767 * 2000);
#endif
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
        return plat_fail(errno);
    }
    return err == 0 ? OLLA_OK : plat_fail(err);
}

long plat_read(int fd, void *p, size_t n)
{
    if (n == 0) {
        return OLLA_AGAIN; /* read() would return 0, which means the end */
    }
    ssize_t got = read(fd, p, n);
    return got > 0 ? (long)got : got == 0 ? OLLA_EOF : plat_again_or_fail();
}

long plat_peek(int fd, void *p, size_t n)
{
    ssize_t got = recv(fd, p, n, MSG_PEEK);
    return got > 0 ? (long)got : got == 0 ? OLLA_EOF : plat_again_or_fail();
}

long plat_write(int fd, const void *p, size_t n)
{
    ssize_t done = send(fd, p, n, MSG_NOSIGNAL);

    return done == -1 ? plat_again_or_fail() : (long)done;
}

long plat_writev(int fd, const struct iovec *v, int count)
{
    char both[1024]; /* little is copied faster than the system gathers it */
    struct msghdr msg;
    ssize_t done;

    if (count == 2 && v[0].iov_len + v[1].iov_len <= sizeof(both)) {
        memcpy(both, v[0].iov_base, v[0].iov_len);
        memcpy(both + v[0].iov_len, v[1].iov_base, v[1].iov_len);
        return plat_write(fd, both, v[0].iov_len + v[1].iov_len);
    }
    memset(&msg, 0, sizeof(msg));
    msg.msg_iov = (struct iovec *)(uintptr_t)v; /* the system only reads it, but its type has no const */
    msg.msg_iovlen = (unsigned short)count;     /* fits both int and size_t, which systems disagree about */
    done = sendmsg(fd, &msg, MSG_NOSIGNAL);
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

/* ---- datagrams ------------------------------------------------------------ */

int plat_udp_open(const struct plat_addr *like)
{
    union name name;
    int fd;

    name_get(like, &name);
    fd = socket(name.sa.sa_family, SOCK_DGRAM | SOCKET_FLAGS, 0);
    if (fd == -1) {
        return plat_fail(errno);
    }
    if (SOCKET_FLAGS == 0 && !plat_set_flags(fd)) {
        return plat_fail_closing(fd);
    }
    set_option(fd, SOL_SOCKET, SO_BROADCAST, 1);
    return fd;
}

int plat_udp_send(int fd, const struct plat_addr *to, const void *p, size_t n)
{
    union name name;

    name_get(to, &name);
    return sendto(fd, p, n, MSG_NOSIGNAL, &name.sa, to->len) == -1 ? plat_again_or_fail() : OLLA_OK;
}

bool plat_addr_is_everybody(const struct plat_addr *a)
{
    union name name;

    name_get(a, &name);
    return name.sa.sa_family == AF_INET && name.v4.sin_addr.s_addr == htonl(INADDR_BROADCAST);
}

int plat_broadcasts(int fd, uint16_t port, struct plat_addr *out, int max)
{
#ifdef __linux__
    struct ifreq all[32];
    struct ifconf list = {.ifc_len = (int)sizeof(all), .ifc_req = all};
    int count = 0;

    if (ioctl(fd, SIOCGIFCONF, &list) == -1) {
        return 0;
    }
    for (int i = 0; i < list.ifc_len / (int)sizeof(all[0]) && count < max; i++) {
        struct ifreq one = all[i];
        bool up = ioctl(fd, SIOCGIFFLAGS, &one) != -1 && (one.ifr_flags & IFF_UP) && (one.ifr_flags & IFF_BROADCAST);
        one = all[i];
        if (up && ioctl(fd, SIOCGIFBRDADDR, &one) != -1) {
            name_put(&one.ifr_broadaddr, &out[count]);
            plat_addr_set_port(&out[count], port);
            count += out[count].len > 0;
        }
    }
    return count;
#else
    (void)fd;
    (void)port;
    (void)out;
    (void)max;
    return 0;
#endif
}

void plat_pause_us(unsigned us)
{
    struct timespec time = {0, (long)(us < 1000000 ? us : 999999) * 1000};

    (void)nanosleep(&time, NULL);
}

int plat_poll(struct pollfd *set, size_t n, int timeout_ms)
{
    int ready = poll(set, (nfds_t)n, timeout_ms);

    if (ready == -1) {
        return plat_again_or_fail() == OLLA_AGAIN ? 0 : OLLA_ERR;
    }
    return ready;
}
