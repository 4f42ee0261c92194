/*
 * net.c - level 3: see net.h.
 *
 * May include: olla.h, buf.h, platform.h, net.h.
 */
#include "net.h"

#include <assert.h>

/* Twice the streams that can live at one time: slots closed in a turn are only reused in the next one. */
#define NET_SLOTS (2 * (OLLA_MAX_CLIENTS + OLLA_MAX_UPSTREAMS + OLLA_MAX_PROBES + 16))

static struct {
    struct pollfd fds[NET_SLOTS];
    struct stream *streams[NET_SLOTS]; /* NULL = closed, removed at the end of the turn */
    uint64_t deadlines[NET_SLOTS];     /* 0 = none */
    size_t n;
    size_t holes;
    uint64_t bound; /* no deadline is earlier; 0 = there is none */
    uint64_t now;
} set;

void net_open(struct stream *s, int fd, const struct stream_ops *ops, void *owner)
{
    assert(set.n < NET_SLOTS);
    s->fd = fd;
    s->slot = (int)set.n;
    s->ops = ops;
    s->owner = owner;
    set.fds[set.n] = (struct pollfd){.fd = -1};
    set.streams[set.n] = s;
    set.deadlines[set.n] = 0;
    set.n++;
}

void net_close(struct stream *s, enum net_how how)
{
    if (s->fd == -1) {
        return;
    }
    if (how == NET_ABORT) {
        plat_abort(s->fd);
    } else {
        plat_close(s->fd);
    }
    net_forget(s);
}

void net_forget(struct stream *s)
{
    set.fds[s->slot].fd = -1;
    set.fds[s->slot].revents = 0;
    set.streams[s->slot] = NULL;
    set.deadlines[s->slot] = 0;
    set.holes++;
    s->fd = -1;
    s->slot = -1;
}

bool net_is_open(const struct stream *s)
{
    return s->fd != -1;
}

void net_want(struct stream *s, bool read, bool write)
{
    /* poll() reports errors even where nothing is asked for, but it passes over negative descriptors. */
    set.fds[s->slot].fd = read || write ? s->fd : -1;
    set.fds[s->slot].events = (short)((read ? POLLIN : 0) | (write ? POLLOUT : 0));
}

void net_want_hangup(struct stream *s)
{
    set.fds[s->slot].fd = s->fd;
    set.fds[s->slot].events = 0;
}

void net_deadline(struct stream *s, uint64_t at_ms)
{
    set.deadlines[s->slot] = at_ms;
    if (at_ms != 0 && (set.bound == 0 || at_ms < set.bound)) {
        set.bound = at_ms;
    }
}

long net_read(struct stream *s, struct buf *b, size_t max)
{
    size_t room = buf_room(b);
    long n = plat_read(s->fd, buf_tail(b), room < max ? room : max);
    if (n > 0) {
        buf_added(b, (size_t)n);
    }
    return n;
}

bool net_writable(const struct stream *s)
{
    struct pollfd one = {.fd = s->fd, .events = POLLOUT};
    return plat_poll(&one, 1, 0) != 0;
}

int net_flush(struct stream *s, struct buf *b)
{
    while (buf_len(b) > 0) {
        struct str bytes = buf_str(b);
        long n = plat_write(s->fd, bytes.p, bytes.n);
        if (n < 0) {
            return (int)n;
        }
        buf_consume(b, (size_t)n);
        if ((size_t)n < bytes.n) {
            return OLLA_AGAIN; /* a short write means that the socket is full: asking again would cost a call */
        }
    }
    return OLLA_OK;
}

uint64_t net_now(void)
{
    return set.now;
}

void net_tick(void)
{
    set.now = plat_now_ms();
}

static void close_holes(void)
{
    for (size_t i = 0; i < set.n && set.holes > 0;) {
        if (set.streams[i]) {
            i++;
            continue;
        }
        set.n--;
        if (i < set.n) {
            set.fds[i] = set.fds[set.n];
            set.deadlines[i] = set.deadlines[set.n];
            set.streams[i] = set.streams[set.n];
            if (set.streams[i]) {
                set.streams[i]->slot = (int)i;
            }
        }
        set.holes--;
    }
}

static void expire(void)
{
    uint64_t earliest = 0;
    size_t n = set.n;
    set.bound = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t at = set.deadlines[i];
        if (at == 0 || !set.streams[i]) {
            continue;
        }
        if (at > set.now) {
            if (earliest == 0 || at < earliest) {
                earliest = at;
            }
            continue;
        }
        set.deadlines[i] = 0;
        set.streams[i]->ops->expired(set.streams[i]);
    }
    /* The callbacks may have set new deadlines, which lowered the bound. */
    if (earliest != 0 && (set.bound == 0 || earliest < set.bound)) {
        set.bound = earliest;
    }
}

void net_turn(uint64_t wake_at)
{
    uint64_t until = wake_at;
    int wait = -1;

    if (set.bound != 0 && (until == 0 || set.bound < until)) {
        until = set.bound;
    }
    if (until != 0) {
        uint64_t left = until > set.now ? until - set.now : 0;
        wait = left > 60000 ? 60000 : (int)left;
    }
    int ready = plat_poll(set.fds, set.n, wait);
    net_tick();
    size_t n = set.n;
    for (size_t i = 0; i < n && ready > 0; i++) {
        short events = set.fds[i].revents;
        if (events != 0) {
            ready--;
            set.fds[i].revents = 0;
            if (set.streams[i]) {
                set.streams[i]->ops->ready(set.streams[i], events);
            }
        }
    }
    if (set.bound != 0 && set.now >= set.bound) {
        expire();
    }
    if (set.holes > 0) {
        close_holes();
    }
}
