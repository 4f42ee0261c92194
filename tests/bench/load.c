/*
 * The clients of the benchmark, for what wrk cannot do. Each mode prints lines of "word key=value ..." on its output.
 *
 *   load streams PORT STREAMS SECONDS MICROS   opens so many streams of backend.c, an event each MICROS microseconds;
 *                                              when all of them flow it prints "ready", then, after SECONDS, "figures"
 *   load drain PORT EVENTS                     one stream as fast as it comes, to its end
 *   load first PORT COUNT MICROS               COUNT requests on one connection, MICROS of silence between two
 *   load post PORT BYTES SECONDS               requests with a body of so many bytes, "model" at its end
 *   load get PORT BYTES                        one reply of so many bytes
 *   load start PORT PROGRAM [ARGUMENT]...      starts a program and asks for /internal/health until it answers
 *
 * BENCH_PATH and BENCH_BODY in the environment take the place of the path and of the body of a chat request; BENCH_HEADER
 * is one header line more.
 * The delay of an event is from its sending by the backend to the read that has brought it; both are on this machine
 * and look at the same clock. An event is "merged" when the same read has brought the one before it.
 *
 * One thread. Every wait has an end: PATIENCE seconds without a sign of life are an error. No part of olla.
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
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE   20
#define SCRATCH    262144
#define MAX_EVENTS 512
#define SETTLE_NS  200000000LL
#define BODY                                                                   \
    "{\"model\":\"bench-model\",\"messages\":[{\"role\":\"user\",\"content\":" \
    "\"Write one short sentence about small boxes.\"}],\"stream\":true,\"max_tokens\":32}"
#define LONG_START "{\"messages\":[{\"role\":\"user\",\"content\":\""
#define LONG_END   "\"}],\"max_tokens\":32,\"model\":\"bench-model\"}"

struct stream {
    int fd;
    int digits; /* of a time that are in, + 1; 0 = "@" has not come */
    int head;   /* characters of the blank line that ends the head */
    unsigned long long sent;
    unsigned long events;
};

/* Delays or durations in nanoseconds. */
struct samples {
    long long *at;
    size_t count;
    size_t room;
};

struct tally {
    unsigned long events; /* since the start of the measurement */
    unsigned long reads;
    unsigned long merged;
    unsigned long flowing; /* streams that have had an event */
    unsigned long ended;
    int measuring;
    struct samples delays;
};

static char scratch[SCRATCH];

static long long now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pause_us(long us)
{
    struct timespec t;

    t.tv_sec = us / 1000000;
    t.tv_nsec = us % 1000000 * 1000;
    nanosleep(&t, NULL);
}

static void __attribute__((noreturn)) fail(const char *what)
{
    printf("\nerror %s%s%s\n", what, errno != 0 ? ": " : "", errno != 0 ? strerror(errno) : "");
    fflush(stdout);
    _exit(1);
}

static void samples_add(struct samples *s, long long value)
{
    if (s->count == s->room) {
        s->room = s->room == 0 ? 65536 : s->room * 2;
        s->at = realloc(s->at, s->room * sizeof(*s->at));
        if (s->at == NULL) {
            fail("memory");
        }
    }
    s->at[s->count++] = value;
}

static int compare(const void *a, const void *b)
{
    long long x = *(const long long *)a;
    long long y = *(const long long *)b;

    return x < y ? -1 : x > y;
}

static void samples_print(struct samples *s)
{
    static const struct {
        const char *name;
        double part;
    } table[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1.0}};
    size_t i, at;

    if (s->count == 0) {
        errno = 0;
        fail("nothing came");
    }
    qsort(s->at, s->count, sizeof(*s->at), compare);
    for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        at = (size_t)((double)(s->count - 1) * table[i].part);
        printf(" %s_us=%.1f", table[i].name, (double)s->at[at] / 1000);
    }
    printf("\n");
    fflush(stdout);
}

static int connect_try(int port)
{
    struct sockaddr_in address;
    struct timeval patience;
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)port);
    patience.tv_sec = PATIENCE;
    patience.tv_usec = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == -1) {
        close(fd);
        return -1;
    }
    return fd;
}

static int connect_to(int port)
{
    int fd = connect_try(port);

    if (fd == -1) {
        fail("connect");
    }
    return fd;
}

static void send_all(int fd, const char *data, size_t len)
{
    ssize_t n;

    while (len > 0) {
        n = send(fd, data, len, MSG_NOSIGNAL);
        if (n <= 0) {
            fail("send");
        }
        data += n;
        len -= (size_t)n;
    }
}

static size_t receive(int fd, char *room, size_t size)
{
    ssize_t n = recv(fd, room, size, 0);

    if (n <= 0) {
        errno = n == 0 ? 0 : errno;
        fail("the connection ended early");
    }
    return (size_t)n;
}

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value != NULL ? value : otherwise;
}

static size_t head_make(char *room, size_t size, size_t length, const char *script)
{
    const char *more = setting("BENCH_HEADER", "");

    return (size_t)snprintf(room, size,
                            "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                            "%s%s%s%s%sContent-Length: %zu\r\n\r\n",
                            setting("BENCH_PATH", "/v1/chat/completions"), more, *more ? "\r\n" : "",
                            *script ? "X-Bench: " : "", script, *script ? "\r\n" : "", length);
}

static void chat_send(int fd, const char *script)
{
    char request[2048];
    const char *body = setting("BENCH_BODY", BODY);
    size_t n = head_make(request, sizeof(request), strlen(body), script);

    snprintf(request + n, sizeof(request) - n, "%s", body);
    send_all(fd, request, strlen(request));
}

/* Reads a reply that has a Content-Length to its end; the body goes nowhere. Returns when its first byte came. */
static long long reply_read(int fd)
{
    char head[8192];
    size_t have = 0;
    long long first = 0;
    unsigned long long left;
    const char *at;
    char *end;

    do {
        have += receive(fd, head + have, sizeof(head) - 1 - have);
        first = first == 0 ? now_ns() : first;
        head[have] = '\0';
        end = strstr(head, "\r\n\r\n");
    } while (end == NULL && have < sizeof(head) - 1);
    if (strncmp(head, "HTTP/1.1 200", 12) != 0 || end == NULL) {
        head[strcspn(head, "\r")] = '\0';
        errno = 0;
        fail(head);
    }
    for (at = strstr(head, "\r\n"); at < end && strncasecmp(at, "\r\nContent-Length:", 17) != 0;) {
        at = strstr(at + 2, "\r\n");
    }
    left = at < end ? strtoull(at + 17, NULL, 10) : 0;
    left -= have - (size_t)(end + 4 - head);
    while (left > 0) {
        left -= receive(fd, scratch, left < SCRATCH ? (size_t)left : SCRATCH);
    }
    return first;
}

/* ---- streams ---- */

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void event_seen(struct stream *s, struct tally *t, long long now, unsigned in_read)
{
    t->flowing += s->events++ == 0;
    if (t->measuring) {
        t->events++;
        t->merged += in_read > 0;
        samples_add(&t->delays, now - (long long)s->sent);
    }
}

/* Times may be cut anywhere by the reads. */
static void stream_feed(struct stream *s, struct tally *t, const char *data, size_t n, long long now)
{
    static const char blank[] = "\r\n\r\n";
    unsigned in_read = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        if (s->head < 4) {
            s->head = data[i] == blank[s->head] ? s->head + 1 : data[i] == '\r';
        } else if (data[i] == '@') {
            s->digits = 1;
            s->sent = 0;
        } else if (s->digits > 0 && hex(data[i]) >= 0) {
            s->sent = s->sent << 4 | (unsigned)hex(data[i]);
            if (++s->digits == 17) {
                s->digits = 0;
                event_seen(s, t, now, in_read++);
            }
        }
    }
}

static void stream_read(struct stream *s, struct tally *t)
{
    ssize_t n = recv(s->fd, scratch, SCRATCH, MSG_DONTWAIT);

    if (n > 0) {
        t->reads += t->measuring != 0;
        stream_feed(s, t, scratch, (size_t)n, now_ns());
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        t->ended++;
        close(s->fd);
        s->fd = -1;
    }
}

/* Until `until`; with `all`, at most until that many streams flow. */
static void streams_run(int set, struct tally *t, long long until, unsigned long all)
{
    static struct epoll_event ready[MAX_EVENTS];
    long long left;
    int count, i;

    while ((left = until - now_ns()) > 0 && (all == 0 || t->flowing + t->ended < all)) {
        count = epoll_wait(set, ready, MAX_EVENTS, (int)(left / 1000000));
        for (i = 0; i < count; i++) {
            stream_read(ready[i].data.ptr, t);
        }
    }
}

static void streams(int port, unsigned long count, double seconds, long gap)
{
    struct stream *all = calloc(count, sizeof(*all));
    struct tally t;
    struct epoll_event e;
    char script[64];
    long long begun;
    unsigned long i;
    int set = epoll_create1(0);

    memset(&t, 0, sizeof(t));
    memset(&e, 0, sizeof(e));
    snprintf(script, sizeof(script), "stream 1000000000 %ld", gap);
    for (i = 0; i < count; i++) {
        all[i].fd = connect_to(port);
        chat_send(all[i].fd, script);
        e.events = EPOLLIN;
        e.data.ptr = &all[i];
        epoll_ctl(set, EPOLL_CTL_ADD, all[i].fd, &e);
        streams_run(set, &t, now_ns() + 200000, 0);
    }
    streams_run(set, &t, now_ns() + PATIENCE * 1000000000LL, count);
    printf("ready streams=%lu ended=%lu\n", t.flowing, t.ended);
    fflush(stdout);
    streams_run(set, &t, now_ns() + SETTLE_NS, 0);
    t.measuring = 1;
    begun = now_ns();
    printf("begin\n");
    fflush(stdout);
    streams_run(set, &t, begun + (long long)(seconds * 1e9), 0);
    t.measuring = 0;
    printf("figures events=%lu reads=%lu merged=%lu ended=%lu seconds=%.6f", t.events, t.reads, t.merged, t.ended,
           (double)(now_ns() - begun) / 1e9);
    samples_print(&t.delays);
    streams_run(set, &t, now_ns() + SETTLE_NS / 3, 0); /* what is measured from outside ends before the streams do */
}

static void drain(int port, unsigned long events)
{
    struct stream s;
    struct tally t;
    char script[64];
    unsigned long long bytes = 0;
    long long begun;
    ssize_t n;

    memset(&s, 0, sizeof(s));
    memset(&t, 0, sizeof(t));
    t.measuring = 1;
    snprintf(script, sizeof(script), "stream %lu 0", events);
    s.fd = connect_to(port);
    begun = now_ns();
    chat_send(s.fd, script);
    while (t.events < events && (n = recv(s.fd, scratch, SCRATCH, 0)) > 0) {
        bytes += (unsigned long long)n;
        t.reads++;
        stream_feed(&s, &t, scratch, (size_t)n, now_ns());
    }
    printf("figures events=%lu reads=%lu bytes=%llu seconds=%.6f", t.events, t.reads, bytes,
           (double)(now_ns() - begun) / 1e9);
    samples_print(&t.delays);
}

/* ---- one connection ---- */

static void first(int port, unsigned long count, long gap)
{
    struct samples times;
    int fd = connect_to(port);
    unsigned long i;
    long long begun;

    memset(&times, 0, sizeof(times));
    for (i = 0; i < count; i++) {
        pause_us(gap);
        begun = now_ns();
        chat_send(fd, "");
        samples_add(&times, reply_read(fd) - begun);
    }
    printf("figures requests=%lu", count);
    samples_print(&times);
}

static void post(int port, size_t size, double seconds)
{
    char head[1024];
    size_t fixed = strlen(LONG_START) + strlen(LONG_END);
    char *body = malloc(size + 1);
    unsigned long requests = 0;
    size_t n = head_make(head, sizeof(head), size, "");
    int fd = connect_to(port);
    long long begun;

    if (body == NULL || size < fixed) {
        fail("memory");
    }
    memset(body, 'w', size);
    memcpy(body, LONG_START, strlen(LONG_START));
    memcpy(body + size - strlen(LONG_END), LONG_END, strlen(LONG_END));
    begun = now_ns();
    do {
        send_all(fd, head, n);
        send_all(fd, body, size);
        reply_read(fd);
        requests++;
    } while ((double)(now_ns() - begun) < seconds * 1e9);
    printf("figures requests=%lu bytes=%zu seconds=%.6f\n", requests, size * requests,
           (double)(now_ns() - begun) / 1e9);
    free(body);
}

static void get(int port, const char *size)
{
    char script[64];
    int fd = connect_to(port);
    long long begun = now_ns();

    snprintf(script, sizeof(script), "bytes %s", size);
    chat_send(fd, script);
    reply_read(fd);
    printf("figures bytes=%s seconds=%.6f\n", size, (double)(now_ns() - begun) / 1e9);
}

static void start(int port, char **command)
{
    static const char question[] = "GET /internal/health HTTP/1.0\r\n\r\n";
    char reply[64];
    long long begun = now_ns();
    long long connected;
    pid_t child = fork();
    int fd = -1;

    if (child == 0) {
        fd = open("/dev/null", O_WRONLY);
        dup2(fd, STDOUT_FILENO); /* what it says is not for whoever reads the figures */
        execv(command[0], command);
        _exit(127);
    }
    while (fd == -1 && now_ns() - begun < PATIENCE * 1000000000LL && waitpid(child, NULL, WNOHANG) == 0) {
        fd = connect_try(port);
        if (fd == -1) {
            pause_us(20);
        }
    }
    if (fd == -1) {
        fail("it does not listen");
    }
    connected = now_ns();
    send_all(fd, question, strlen(question));
    receive(fd, reply, sizeof(reply));
    printf("figures connected_us=%.1f answered_us=%.1f\n", (double)(connected - begun) / 1000,
           (double)(now_ns() - begun) / 1000);
    kill(child, SIGTERM);
    waitpid(child, NULL, 0);
}

static double number(const char *text)
{
    return strtod(text, NULL);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 3 ? argv[1] : "";
    int port = argc > 3 ? (int)number(argv[2]) : 0;

    signal(SIGPIPE, SIG_IGN);
    if (strcmp(mode, "streams") == 0 && argc == 6) {
        streams(port, (unsigned long)number(argv[3]), number(argv[4]), (long)number(argv[5]));
    } else if (strcmp(mode, "drain") == 0 && argc == 4) {
        drain(port, (unsigned long)number(argv[3]));
    } else if (strcmp(mode, "first") == 0 && argc == 5) {
        first(port, (unsigned long)number(argv[3]), (long)number(argv[4]));
    } else if (strcmp(mode, "post") == 0 && argc == 5) {
        post(port, (size_t)number(argv[3]), number(argv[4]));
    } else if (strcmp(mode, "get") == 0 && argc == 4) {
        get(port, argv[3]);
    } else if (strcmp(mode, "start") == 0) {
        start(port, argv + 3);
    } else {
        fprintf(stderr, "usage: see the first lines of load.c\n");
        return 2;
    }
    return 0;
}
