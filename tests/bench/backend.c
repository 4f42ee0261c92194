/*
 * The backend of the benchmark: answers as fast as it can, so that the proxy in front is what gets measured.
 *
 *   backend PORT...        listens on 127.0.0.1, on each of the ports, until it is ended
 *
 * What a POST gets is told by its header X-Bench:
 *   (none)                 one fixed JSON chat reply of about 300 bytes
 *   stream EVENTS MICROS   server-sent events, MICROS microseconds apart (0 = at once, each in a send of its own). Each
 *                          holds "@" and the nanoseconds of CLOCK_MONOTONIC at its sending, as 16 hex digits
 *   bytes N                N bytes with a Content-Length
 * GET (or HEAD) /v1/models, /api/tags and /health are answered for the proxies' own questions. The third port and those
 * after it have another model, for routing that has to choose.
 *
 * One thread, one epoll set, one timer for all streams; keep-alive; requests with Content-Length or without a body.
 * Invariant: a connection that is in the list of timers is streaming and has nothing left to send. No part of olla.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS    16384
#define MAX_PORTS  8
#define MAX_EVENTS 512
#define IN_SIZE    4096
#define SCRATCH    262144

#define CHAT                                                                                           \
    "{\"id\":\"chatcmpl-benchmark\",\"object\":\"chat.completion\",\"created\":1700000000,"            \
    "\"model\":\"bench-model\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","         \
    "\"content\":\"This is the fixed reply of the benchmark backend.\"},\"finish_reason\":\"stop\"}]," \
    "\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":10,\"total_tokens\":30}}"
#define MODELS(name) \
    "{\"object\":\"list\",\"data\":[{\"id\":\"" name "\",\"object\":\"model\",\"owned_by\":\"benchmark\"}]}"
#define TAGS   "{\"models\":[{\"name\":\"bench-model\",\"model\":\"bench-model\",\"size\":1}]}"
#define HEALTH "{\"status\":\"ok\"}"
#define EVENT                                                                                              \
    "data: {\"id\":\"chatcmpl-benchmark\",\"object\":\"chat.completion.chunk\",\"model\":\"bench-model\"," \
    "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@0123456789abcdef\"},\"finish_reason\":null}]}\n\n"
#define STREAM_HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#define STREAM_END  "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
#define NOT_FOUND   "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
#define NOT_BUILT   "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

enum kind { K_LISTENER = 1, K_CONN };
enum state { S_HEAD, S_BODY, S_REPLY };

struct conn {
    enum kind kind;
    enum state state;
    int other;    /* it came in at a port that has the other model */
    int closing;  /* no further request after this reply */
    int watching; /* the epoll set waits for room to send */
    int streaming;
    size_t have; /* bytes in `in` */
    unsigned long long skip;
    const char *out;
    size_t out_len;
    unsigned long long fill;   /* bytes of a download that follow `out` */
    unsigned long long events; /* still to come */
    long long gap;             /* nanoseconds */
    long long due;
    int earlier; /* the list of timers, ordered by `due`; 0 = none, no connection has that descriptor */
    int later;
    char own[sizeof(EVENT) + 64]; /* heads and events made for this connection */
    char in[IN_SIZE];
};

static struct conn *conns[MAX_FDS];
static int timer_first, timer_last, timer_fd, poll_fd;
static long long timer_set;
static unsigned starts;
static char chat[1024], models[512], others[512], tags[512], health[512];
static char scratch[SCRATCH];

static long long now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Streams of one kind are due in the order in which they were due before, so the place is found near the end. */
static void timer_add(int fd)
{
    struct conn *c = conns[fd];
    int before = timer_last;

    while (before != 0 && conns[before]->due > c->due) {
        before = conns[before]->earlier;
    }
    c->earlier = before;
    c->later = before != 0 ? conns[before]->later : timer_first;
    *(before != 0 ? &conns[before]->later : &timer_first) = fd;
    *(c->later != 0 ? &conns[c->later]->earlier : &timer_last) = fd;
}

static void timer_remove(int fd)
{
    struct conn *c = conns[fd];

    if (c->earlier == 0 && timer_first != fd) {
        return;
    }
    *(c->earlier != 0 ? &conns[c->earlier]->later : &timer_first) = c->later;
    *(c->later != 0 ? &conns[c->later]->earlier : &timer_last) = c->earlier;
    c->earlier = c->later = 0;
}

static void timer_arm(void)
{
    struct itimerspec when;
    long long due = timer_first != 0 ? conns[timer_first]->due : 0;

    if (due == timer_set) {
        return;
    }
    timer_set = due;
    memset(&when, 0, sizeof(when));
    when.it_value.tv_sec = due / 1000000000;
    when.it_value.tv_nsec = due % 1000000000;
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void reply_make(char *room, size_t size, const char *body)
{
    snprintf(room, size, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
}

static void send_text(struct conn *c, const char *text)
{
    c->out = text;
    c->out_len = strlen(text);
}

static void event_make(struct conn *c)
{
    static const char digits[] = "0123456789abcdef";
    unsigned long long t = (unsigned long long)now_ns();
    char *at;
    int i;

    c->out_len = (size_t)snprintf(c->own, sizeof(c->own), "%zx\r\n%s\r\n", strlen(EVENT), EVENT);
    c->out = c->own;
    at = strchr(c->own, '@');
    for (i = 16; i > 0; i--) {
        at[i] = digits[t & 15];
        t >>= 4;
    }
}

/* The script is what the header X-Bench says, if there is one. */
static void post_choose(struct conn *c, const char *script)
{
    char *end;

    if (strncmp(script, "bytes ", 6) == 0) {
        c->fill = strtoull(script + 6, NULL, 10);
        snprintf(c->own, sizeof(c->own),
                 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %llu\r\n\r\n", c->fill);
        send_text(c, c->own);
    } else if (strncmp(script, "stream ", 7) == 0) {
        c->events = strtoull(script + 7, &end, 10);
        c->gap = strtoll(end, NULL, 10) * 1000;
        /* Streams that begin together are spread over the time between two events, by the golden ratio. */
        starts += 2654435769u;
        c->due = now_ns() + (long long)((double)c->gap * (double)starts / 4294967296.0);
        c->streaming = 1;
        send_text(c, STREAM_HEAD);
    } else {
        send_text(c, chat);
    }
}

/* The path decides; a HEAD gets the same head without the body. */
static void get_choose(struct conn *c)
{
    const struct {
        const char *path;
        const char *reply;
    } table[] = {{"/v1/models", c->other ? others : models}, {"/api/tags", tags}, {"/health", health}, {"/", health}};
    const char *path = strchr(c->in, ' ') + 1;
    size_t n = strcspn(path, " ?\r");
    size_t i;

    send_text(c, NOT_FOUND);
    for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (strlen(table[i].path) == n && strncmp(table[i].path, path, n) == 0) {
            send_text(c, table[i].reply);
        }
    }
    if (strncmp(c->in, "HEAD ", 5) == 0) {
        c->out_len = (size_t)(strstr(c->out, "\r\n\r\n") + 4 - c->out);
    }
}

/* Header fields that matter here, in a head that ends with a NUL. */
static void head_read(struct conn *c)
{
    const char *line = strstr(c->in, "\r\n");
    const char *script = "";

    c->skip = 0;
    while (line != NULL) {
        line += 2;
        if (strncasecmp(line, "Content-Length:", 15) == 0) {
            c->skip = strtoull(line + 15, NULL, 10);
        } else if (strncasecmp(line, "Transfer-Encoding:", 18) == 0) {
            send_text(c, NOT_BUILT);
            c->closing = 1;
            return;
        } else if (strncasecmp(line, "Connection: close", 17) == 0) {
            c->closing = 1;
        } else if (strncasecmp(line, "X-Bench: ", 9) == 0) {
            script = line + 9;
        }
        line = strstr(line, "\r\n");
    }
    if (strchr(c->in, ' ') == NULL) {
        send_text(c, NOT_BUILT);
        c->closing = 1;
    } else if (strncmp(c->in, "POST ", 5) == 0) {
        post_choose(c, script);
    } else {
        get_choose(c);
    }
}

static void take(struct conn *c, size_t n)
{
    c->have -= n;
    memmove(c->in, c->in + n, c->have);
    c->in[c->have] = '\0';
}

/* Reads what is there, once; bodies go nowhere. Returns -1 when the peer has gone. */
static int input_read(struct conn *c, int fd)
{
    int sink = c->state == S_BODY && c->have == 0 && c->skip > 0;
    char *to = sink ? scratch : c->in + c->have;
    size_t room = sink ? SCRATCH : IN_SIZE - 1 - c->have;
    ssize_t n;

    if (sink && c->skip < room) {
        room = (size_t)c->skip;
    }
    n = room > 0 ? recv(fd, to, room, 0) : -1;
    if (n == 0 || (n == -1 && (room == 0 || (errno != EAGAIN && errno != EINTR)))) {
        return -1;
    }
    if (n > 0 && sink) {
        c->skip -= (unsigned long long)n;
    } else if (n > 0) {
        c->have += (size_t)n;
        c->in[c->have] = '\0';
    }
    return 0;
}

/* Takes from the input what it can; returns 1 when a reply is due, 0 to wait for more, -1 when the head is too long. */
static int request_step(struct conn *c)
{
    char *end;
    size_t n;

    if (c->state == S_HEAD) {
        end = strstr(c->in, "\r\n\r\n");
        if (end == NULL) {
            return c->have < IN_SIZE - 1 ? 0 : -1;
        }
        n = (size_t)(end - c->in) + 4;
        end[2] = '\0';
        head_read(c);
        take(c, n);
        c->state = S_BODY;
    }
    n = c->skip < c->have ? (size_t)c->skip : c->have;
    c->skip -= n;
    take(c, n);
    if (c->skip > 0 && !c->closing) {
        return 0;
    }
    c->state = S_REPLY;
    return 1;
}

/* What comes after `out`, if it is due; 0 = nothing is, now. */
static int reply_next(struct conn *c, int fd)
{
    if (c->fill > 0) {
        c->out = scratch;
        c->out_len = c->fill < SCRATCH ? (size_t)c->fill : SCRATCH;
        c->fill -= c->out_len;
    } else if (c->events > 0) {
        if (c->gap > 0 && now_ns() < c->due) {
            timer_add(fd);
            return 0;
        }
        c->events--;
        c->due += c->gap;
        event_make(c);
    } else {
        c->streaming = 0;
        send_text(c, STREAM_END);
    }
    return 1;
}

/* Sends what is due; returns 1 when the reply is complete, 0 to wait, -1 when the peer is gone. */
static int reply_step(struct conn *c, int fd)
{
    ssize_t n;

    for (;;) {
        while (c->out_len > 0) {
            n = send(fd, c->out, c->out_len, MSG_NOSIGNAL);
            if (n == -1) {
                return errno == EAGAIN || errno == EINTR ? 0 : -1;
            }
            c->out += n;
            c->out_len -= (size_t)n;
        }
        if (c->fill == 0 && !c->streaming) {
            c->state = S_HEAD;
            return c->closing ? -1 : 1;
        }
        if (!reply_next(c, fd)) {
            return 0;
        }
    }
}

/* One connection as far as it goes; returns -1 when it is to be closed. */
static int conn_step(struct conn *c, int fd, unsigned ready)
{
    int rc;

    if ((ready & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && input_read(c, fd) == -1) {
        return -1;
    }
    for (;;) {
        if (c->state != S_REPLY) {
            rc = request_step(c);
            if (rc != 1) {
                return rc;
            }
        } else if (timer_first == fd || c->earlier != 0) {
            return 0; /* input came early */
        }
        rc = reply_step(c, fd);
        if (rc != 1) {
            return rc;
        }
    }
}

static void watch(int fd, int out)
{
    struct epoll_event e;

    if (conns[fd]->watching != out) {
        conns[fd]->watching = out;
        memset(&e, 0, sizeof(e));
        e.events = EPOLLIN | (out ? EPOLLOUT : 0);
        e.data.fd = fd;
        epoll_ctl(poll_fd, EPOLL_CTL_MOD, fd, &e);
    }
}

static void conn_run(int fd, unsigned ready)
{
    struct conn *c = conns[fd];

    if (conn_step(c, fd, ready) == -1) {
        timer_remove(fd);
        close(fd);
        c->kind = 0;
        return;
    }
    watch(fd, c->state == S_REPLY && c->out_len > 0);
}

static void timers_run(void)
{
    int fd;

    while (timer_first != 0 && conns[timer_first]->due <= now_ns()) {
        fd = timer_first;
        timer_remove(fd);
        conn_run(fd, 0);
    }
}

/* The memory of a descriptor is kept for the next connection that gets it. */
static struct conn *conn_make(int fd, enum kind kind, int other)
{
    struct epoll_event e;

    if (fd >= MAX_FDS) {
        return NULL;
    }
    if (conns[fd] == NULL) {
        conns[fd] = malloc(sizeof(struct conn));
    }
    if (conns[fd] == NULL) {
        return NULL;
    }
    memset(conns[fd], 0, sizeof(struct conn));
    conns[fd]->kind = kind;
    conns[fd]->other = other;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    memset(&e, 0, sizeof(e));
    e.events = EPOLLIN;
    e.data.fd = fd;
    return epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e) == 0 ? conns[fd] : NULL;
}

static void accept_all(int listener)
{
    int one = 1;
    int fd;

    while ((fd = accept(listener, NULL, NULL)) != -1) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (conn_make(fd, K_CONN, conns[listener]->other) == NULL) {
            close(fd);
        }
    }
}

static void serve(void)
{
    static struct epoll_event ready[MAX_EVENTS];
    unsigned long long passed;
    int count, fd, i;

    for (;;) {
        timer_arm();
        count = epoll_wait(poll_fd, ready, MAX_EVENTS, -1);
        if (count == -1 && errno != EINTR) {
            return;
        }
        for (i = 0; i < count; i++) {
            fd = ready[i].data.fd;
            if (fd == timer_fd) {
                if (read(timer_fd, &passed, sizeof(passed)) == -1) {
                    continue;
                }
                timer_set = 0;
            } else if (conns[fd]->kind == K_LISTENER) {
                accept_all(fd);
            } else if (conns[fd]->kind == K_CONN) {
                conn_run(fd, ready[i].events);
            }
        }
        timers_run();
    }
}

static int listen_on(unsigned short port, int other)
{
    struct sockaddr_in address;
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd == -1 || bind(fd, (struct sockaddr *)&address, sizeof(address)) == -1 || listen(fd, 4096) == -1) {
        return -1;
    }
    return conn_make(fd, K_LISTENER, other) == NULL ? -1 : 0;
}

int main(int argc, char **argv)
{
    struct epoll_event e;
    int i;

    if (argc < 2 || argc > MAX_PORTS + 1) {
        fprintf(stderr, "usage: backend PORT...\n");
        return 2;
    }
    reply_make(chat, sizeof(chat), CHAT);
    reply_make(models, sizeof(models), MODELS("bench-model"));
    reply_make(others, sizeof(others), MODELS("other-model"));
    reply_make(tags, sizeof(tags), TAGS);
    reply_make(health, sizeof(health), HEALTH);
    memset(scratch, 'x', sizeof(scratch));
    signal(SIGPIPE, SIG_IGN);
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    memset(&e, 0, sizeof(e));
    e.events = EPOLLIN;
    e.data.fd = timer_fd;
    if (poll_fd == -1 || timer_fd == -1 || epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &e) == -1) {
        perror("backend");
        return 1;
    }
    for (i = 1; i < argc; i++) {
        if (listen_on((unsigned short)strtol(argv[i], NULL, 10), i > 2) == -1) {
            perror("backend");
            return 1;
        }
    }
    serve();
    return 1;
}
