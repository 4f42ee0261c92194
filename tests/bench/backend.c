/*
 * The backend of the benchmark: answers as fast as it can, so that the proxy in front is what gets measured.
 *
 *   backend PORT            every POST gets one fixed JSON chat reply of about 300 bytes
 *   backend PORT EVENTS MS  every POST gets a stream of EVENTS server-sent events, MS milliseconds apart
 *
 * GET (or HEAD) /v1/models, /api/tags and /health are answered for the proxies' own questions. One thread, one poll(),
 * keep-alive, requests with Content-Length or no body. Listens on 127.0.0.1. No part of olla.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNS 2048
#define IN_SIZE   8192

struct conn {
    const char *out; /* what is being sent; NULL = waiting for a request */
    size_t out_len;
    size_t have;   /* bytes in `in` */
    size_t skip;   /* bytes of the request body still to come */
    long long due; /* when the next event goes out, in milliseconds */
    int events;    /* events still to send after `out` */
    int streaming; /* the end of the stream is still to send */
    int pending;   /* the head was read, the reply waits for the end of the body */
    int closing;
    char in[IN_SIZE];
};

#define CHAT                                                                                           \
    "{\"id\":\"chatcmpl-benchmark\",\"object\":\"chat.completion\",\"created\":1700000000,"            \
    "\"model\":\"bench-model\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","         \
    "\"content\":\"This is the fixed reply of the benchmark backend.\"},\"finish_reason\":\"stop\"}]," \
    "\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":10,\"total_tokens\":30}}"
#define MODELS \
    "{\"object\":\"list\",\"data\":[{\"id\":\"bench-model\",\"object\":\"model\",\"owned_by\":\"benchmark\"}]}"
#define TAGS   "{\"models\":[{\"name\":\"bench-model\",\"model\":\"bench-model\",\"size\":1}]}"
#define HEALTH "{\"status\":\"ok\"}"
#define EVENT                                                                                              \
    "data: {\"id\":\"chatcmpl-benchmark\",\"object\":\"chat.completion.chunk\",\"model\":\"bench-model\"," \
    "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n"
#define STREAM_HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#define STREAM_END  "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
#define NOT_FOUND   "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
#define NOT_BUILT   "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

static struct conn conns[MAX_CONNS];
static struct pollfd polls[MAX_CONNS + 1];
static char chat[1024], models[1024], tags[1024], health[1024], event[1024];
static int stream_events;
static int stream_gap;

static long long now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
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

/* The path decides; a HEAD gets the same head without the body. */
static void reply_choose(struct conn *c)
{
    static const struct {
        const char *path;
        const char *reply;
    } table[] = {{"/v1/models", models}, {"/api/tags", tags}, {"/health", health}, {"/", health}};
    const char *path = strchr(c->in, ' ') + 1;
    size_t n = strcspn(path, " ?\r");
    size_t i;

    if (strncmp(c->in, "POST ", 5) == 0) {
        if (stream_events == 0) {
            send_text(c, chat);
        } else {
            send_text(c, STREAM_HEAD);
            c->events = stream_events;
            c->streaming = 1;
            c->due = now_ms();
        }
        return;
    }
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

    c->skip = 0;
    while (line != NULL) {
        line += 2;
        if (strncasecmp(line, "Content-Length:", 15) == 0) {
            c->skip = (size_t)strtoull(line + 15, NULL, 10);
        } else if (strncasecmp(line, "Transfer-Encoding:", 18) == 0) {
            send_text(c, NOT_BUILT);
            c->closing = 1;
            return;
        } else if (strncasecmp(line, "Connection: close", 17) == 0) {
            c->closing = 1;
        }
        line = strstr(line, "\r\n");
    }
    if (strchr(c->in, ' ') == NULL) {
        send_text(c, NOT_BUILT);
        c->closing = 1;
        return;
    }
    reply_choose(c);
}

static void take(struct conn *c, size_t n)
{
    c->have -= n;
    memmove(c->in, c->in + n, c->have);
    c->in[c->have] = '\0';
}

/* Takes from the input what it can; returns 1 when a reply is due, 0 to wait for more, -1 when the head is too long. */
static int request_step(struct conn *c)
{
    char *end;
    size_t n;

    if (!c->pending) {
        end = strstr(c->in, "\r\n\r\n");
        if (end == NULL) {
            return c->have < IN_SIZE - 1 ? 0 : -1;
        }
        n = (size_t)(end - c->in) + 4;
        end[2] = '\0';
        head_read(c);
        take(c, n);
        c->pending = 1;
    }
    n = c->skip < c->have ? c->skip : c->have;
    c->skip -= n;
    take(c, n);
    if (c->skip > 0 && !c->closing) {
        return 0;
    }
    c->pending = 0;
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
        if (!c->streaming) {
            c->out = NULL;
            return c->closing ? -1 : 1;
        }
        if (c->events > 0) {
            if (now_ms() < c->due) {
                return 0;
            }
            c->events--;
            c->due += stream_gap;
            send_text(c, event);
        } else {
            c->streaming = 0;
            send_text(c, STREAM_END);
        }
    }
}

/* One connection as far as it goes; returns -1 when it is to be closed. */
static int conn_step(struct conn *c, int fd)
{
    ssize_t n;
    int rc;

    if (c->out == NULL || c->pending) {
        n = recv(fd, c->in + c->have, IN_SIZE - 1 - c->have, 0);
        if (n == 0 || (n == -1 && errno != EAGAIN && errno != EINTR)) {
            return -1;
        }
        if (n > 0) {
            c->have += (size_t)n;
            c->in[c->have] = '\0';
        }
    }
    for (;;) {
        if (c->out == NULL || c->pending) {
            rc = request_step(c);
            if (rc != 1) {
                return rc;
            }
        }
        rc = reply_step(c, fd);
        if (rc != 1) {
            return rc;
        }
    }
}

static void conn_watch(int slot)
{
    struct conn *c = &conns[slot];
    int sending = c->out != NULL && !c->pending;

    polls[slot].events = (short)(!sending ? POLLIN : c->out_len > 0 ? POLLOUT : 0);
}

static void accept_all(int listener, int *count)
{
    int one = 1;
    int fd;

    while (*count < MAX_CONNS && (fd = accept(listener, NULL, NULL)) != -1) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        conns[*count].out = NULL;
        conns[*count].out_len = conns[*count].have = conns[*count].skip = 0;
        conns[*count].events = conns[*count].streaming = conns[*count].pending = conns[*count].closing = 0;
        polls[*count].fd = fd;
        polls[*count].events = POLLIN;
        polls[*count].revents = 0;
        (*count)++;
    }
}

/* Connections are polls[0..count-1], the listener is polls[count]; the last one moves into a hole. */
static void serve(int listener)
{
    int count = 0;
    int i;

    for (;;) {
        polls[count].fd = listener;
        polls[count].events = POLLIN;
        if (poll(polls, (nfds_t)count + 1, stream_gap > 0 ? 1 : -1) == -1 && errno != EINTR) {
            return;
        }
        if (polls[count].revents != 0) {
            accept_all(listener, &count);
        }
        for (i = count - 1; i >= 0; i--) {
            if (polls[i].revents == 0 && !(conns[i].streaming && conns[i].out_len == 0)) {
                continue;
            }
            if (conn_step(&conns[i], polls[i].fd) == -1) {
                close(polls[i].fd);
                count--;
                if (i != count) {
                    polls[i] = polls[count];
                    conns[i] = conns[count];
                }
                continue;
            }
            conn_watch(i);
        }
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address;
    int one = 1;
    int fd;

    if (argc != 2 && argc != 4) {
        fprintf(stderr, "usage: backend PORT [EVENTS MS]\n");
        return 2;
    }
    if (argc == 4) {
        stream_events = (int)strtol(argv[2], NULL, 10);
        stream_gap = (int)strtol(argv[3], NULL, 10);
    }
    reply_make(chat, sizeof(chat), CHAT);
    reply_make(models, sizeof(models), MODELS);
    reply_make(tags, sizeof(tags), TAGS);
    reply_make(health, sizeof(health), HEALTH);
    snprintf(event, sizeof(event), "%zx\r\n%s\r\n", strlen(EVENT), EVENT);
    signal(SIGPIPE, SIG_IGN);
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)strtol(argv[1], NULL, 10));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd == -1 || bind(fd, (struct sockaddr *)&address, sizeof(address)) == -1 || listen(fd, 1024) == -1) {
        perror("backend");
        return 1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    serve(fd);
    return 1;
}
