/*
 * net.c - level 3: see net.h.
 *
 * May include: olla.h, buf.h, platform.h, tls.h, net.h.
 */
#include "net.h"

#include <assert.h>

/* Twice the streams that can live at one time: slots closed in a turn are only reused in the next one. */
#define NET_SLOTS (2 * (OLLA_MAX_CLIENTS + OLLA_MAX_UPSTREAMS + OLLA_MAX_PROBES + 16))

/* To wake up for the cold ones costs as much as poll() with so many descriptors more. */
#define COLD_WAKE 400
/* Where so many streams flow on, and so many of their pieces come in two of such pauses, a turn is made after a pause. */
#define PACE_MIN    32
#define PACE_PIECES 3
#define PACE_US     800
/* Where so many streams have something to say at one time, who comes first matters. */
#define FAIR_MIN 64

static struct {
    struct pollfd fds[NET_SLOTS];
    struct stream *streams[NET_SLOTS]; /* NULL = closed, removed at the end of the turn */
    uint64_t deadlines[NET_SLOTS];     /* 0 = none */
    size_t n;
    size_t holes;
    size_t due;      /* streams whose handshake can go on */
    size_t next_due; /* the slot where to look for one first */
    bool some_more;  /* some stream may have bytes that poll() cannot tell of */
    uint64_t bound;  /* no deadline is earlier; 0 = there is none */
    uint64_t now;
    int64_t wall;         /* 0 = nobody has asked in this turn */
    size_t cold, flowing; /* streams of that heat */
    /* The hot ones: who became hot first was given something to do, or an answer, first, and mostly speaks first. */
    struct stream *first, *last;
    struct stream *next, *end; /* while they are told: who comes next, and after whom it is over */
    struct {
        size_t turns;
        size_t pieces; /* that streams which flow had for their owners */
        size_t others; /* what other streams had */
    } since, lately;   /* since `measured`, and in the NET_COLD_MS before that */
    uint64_t measured;
    size_t told;     /* streams that had something in the last turn */
    bool masked;     /* poll() is not asked about the cold ones */
    uint64_t looked; /* when it was */
} set;

static void join_hot(struct stream *s)
{
    s->before = set.last;
    s->after = NULL;
    *(set.last ? &set.last->after : &set.first) = s;
    set.last = s;
}

static void leave_hot(struct stream *s)
{
    if (s == set.next) {
        set.next = s == set.end ? NULL : s->after;
    }
    if (s == set.end) {
        set.end = s->before;
    }
    *(s->before ? &s->before->after : &set.first) = s->after;
    *(s->after ? &s->after->before : &set.last) = s->before;
}

void net_open(struct stream *s, int fd, const struct stream_ops *ops, void *owner)
{
    assert(set.n < NET_SLOTS);
    s->fd = fd;
    s->slot = (int)set.n;
    s->ops = ops;
    s->owner = owner;
    s->phase = NET_PLAIN;
    s->due = s->more = s->wants_r = s->wants_w = s->watched = false;
    s->heat = NET_HOT;
    join_hot(s);
    s->tls = NULL;
    s->why = NULL;
    set.fds[set.n] = (struct pollfd){.fd = -1};
    set.streams[set.n] = s;
    set.deadlines[set.n] = 0;
    set.n++;
}

static void free_engine(struct stream *s)
{
    if (s->due) {
        s->due = false;
        set.due--;
    }
    if (s->tls) {
        tls_free(s->tls);
        s->tls = NULL;
    }
}

void net_close(struct stream *s, enum net_how how)
{
    if (s->fd == -1) {
        return;
    }
    if (s->tls && how == NET_CLOSE) {
        tls_end(s->tls);
    }
    free_engine(s);
    if (how == NET_ABORT) {
        plat_abort(s->fd);
    } else {
        plat_close(s->fd);
    }
    net_forget(s);
}

void net_forget(struct stream *s)
{
    net_heat(s, NET_HOT);
    leave_hot(s);
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

/* poll() reports errors even where nothing is asked for, but it passes over negative descriptors. */
static void arm(const struct stream *s)
{
    set.fds[s->slot].fd = s->watched && !(set.masked && s->heat == NET_COLD) ? s->fd : -1;
}

static void watch(struct stream *s, short events)
{
    s->watched = events != 0;
    set.fds[s->slot].events = events;
    arm(s);
}

void net_heat(struct stream *s, enum net_heat heat)
{
    if (s->heat == heat || s->fd == -1) {
        return;
    }
    set.cold += (size_t)(heat == NET_COLD) - (size_t)(s->heat == NET_COLD);
    set.flowing += (size_t)(heat == NET_FLOW) - (size_t)(s->heat == NET_FLOW);
    if (s->heat == NET_HOT) {
        leave_hot(s);
    } else if (heat == NET_HOT) {
        join_hot(s);
    }
    s->heat = (uint8_t)heat;
    arm(s);
}

/* What the engine waits for need not be what its user wants. */
static void watch_engine(struct stream *s)
{
    watch(s, (short)((s->wants_r ? tls_wants(s->tls, false) : 0) | (s->wants_w ? tls_wants(s->tls, true) : 0)));
}

void net_want(struct stream *s, bool read, bool write)
{
    s->wants_r = read;
    s->wants_w = write;
    if (s->phase == NET_PLAIN) {
        watch(s, (short)((read ? POLLIN : 0) | (write ? POLLOUT : 0)));
    } else if (s->phase == NET_UP) {
        watch_engine(s);
    }
}

void net_want_hangup(struct stream *s)
{
    s->wants_r = s->wants_w = false;
    if (s->phase == NET_PLAIN || s->phase == NET_UP) {
        s->watched = true;
        set.fds[s->slot].events = 0;
        arm(s);
    }
}

void net_deadline(struct stream *s, uint64_t at_ms)
{
    set.deadlines[s->slot] = at_ms;
    if (at_ms != 0 && (set.bound == 0 || at_ms < set.bound)) {
        set.bound = at_ms;
    }
}

/* ---- TLS ------------------------------------------------------------------------------ */

int net_accept_tls(struct stream *s)
{
    s->tls = tls_accept(s->fd);
    s->phase = NET_SHAKING;
    if (!s->tls) {
        return OLLA_ERR;
    }
    s->why = "speaks plain HTTP"; /* until its first byte shows that it does not */
    watch(s, POLLIN);
    return OLLA_OK;
}

void net_connect_tls(struct stream *s, unsigned peer)
{
    /* Now, so that those who look whether one is free can rely on it. */
    s->tls = tls_connect(peer, s->fd);
    s->why = s->tls ? NULL : tls_why();
    s->phase = NET_CONNECTING;
    watch(s, POLLOUT);
}

/* The owner asks why. */
static void down(struct stream *s, enum net_phase how, const char *why)
{
    free_engine(s);
    s->phase = how;
    s->why = why;
    watch(s, 0);
    s->ops->ready(s, POLLERR);
}

static void set_due(struct stream *s)
{
    set.due += !s->due;
    s->due = true;
}

/* Somebody says "GET " to a port that speaks TLS: the owner can tell in the same language. */
static bool speaks_plainly(const struct stream *s)
{
    char first = 0;
    return s->why && plat_peek(s->fd, &first, 1) == 1 && first >= 'A' && first <= 'Z';
}

/* Something happened on a connection whose handshake is not over. */
static void go_on(struct stream *s)
{
    if (s->phase == NET_SHAKING && speaks_plainly(s)) {
        free_engine(s);
        s->phase = NET_PLAIN;
        net_want(s, s->wants_r, s->wants_w);
    } else if (s->phase == NET_SHAKING) {
        s->why = NULL;
        set_due(s);
    } else if (s->phase == NET_CONNECTING && plat_connected(s->fd) != OLLA_OK) {
        down(s, NET_REFUSED, NULL);
    } else if (s->phase == NET_CONNECTING && !s->tls) {
        down(s, NET_FAILED, s->why);
    } else if (s->phase == NET_CONNECTING) {
        s->phase = NET_SHAKING;
        set_due(s);
    }
}

static void shake(struct stream *s)
{
    int result = tls_shake(s->tls);

    if (result == 1) {
        return; /* and is due again */
    }
    s->due = false;
    set.due--;
    if (result == OLLA_AGAIN) {
        watch(s, tls_wants(s->tls, false));
    } else if (result == OLLA_OK) {
        s->phase = NET_UP;
        s->more = tls_pending(s->tls);
        set.some_more = set.some_more || s->more;
        watch_engine(s);
    } else {
        down(s, NET_FAILED, tls_why());
    }
}

/* One step of one handshake: each may be some ms of computing. They take turns. */
static void shake_one(void)
{
    for (size_t k = 0; k < set.n; k++) {
        size_t i = (set.next_due + k) % set.n;
        if (set.streams[i] && set.streams[i]->due) {
            set.next_due = i + 1;
            shake(set.streams[i]);
            return;
        }
    }
}

/* True if some stream has bytes that its owner wants and poll() cannot tell of. */
static bool any_more(void)
{
    bool wanted = false;

    if (!set.some_more) {
        return false;
    }
    set.some_more = false;
    for (size_t i = 0; i < set.n; i++) {
        const struct stream *s = set.streams[i];
        if (s && s->more) {
            set.some_more = true;
            wanted = wanted || s->wants_r;
        }
    }
    return wanted;
}

int net_connected(const struct stream *s)
{
    return s->phase == NET_PLAIN ? plat_connected(s->fd) : s->phase == NET_UP ? OLLA_OK : OLLA_ERR;
}

void net_end_writing(struct stream *s)
{
    if (s->tls) {
        tls_end(s->tls);
    }
    plat_shutdown_write(s->fd);
}

/* ---- bytes ---------------------------------------------------------------------------- */

long net_take(struct stream *s, void *p, size_t n)
{
    if (s->phase == NET_PLAIN) {
        return plat_read(s->fd, p, n);
    }
    if (s->phase != NET_UP) {
        return OLLA_ERR;
    }
    long got = tls_read(s->tls, p, n);
    s->more = tls_pending(s->tls);
    set.some_more = set.some_more || s->more;
    if (got == OLLA_AGAIN) {
        watch_engine(s);
    }
    return got;
}

long net_give(struct stream *s, const struct iovec *v, int count)
{
    if (s->phase == NET_PLAIN) {
        return count == 1 ? plat_write(s->fd, v->iov_base, v->iov_len) : plat_writev(s->fd, v, count);
    }
    if (s->phase != NET_UP) {
        return OLLA_ERR;
    }
    long given = tls_write(s->tls, v, count);
    if (given == OLLA_AGAIN) {
        watch_engine(s);
    }
    return given;
}

long net_read(struct stream *s, struct buf *b, size_t max)
{
    size_t room = buf_room(b);
    long n = net_take(s, buf_tail(b), room < max ? room : max);
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
        long n = net_give(s, &(struct iovec){(void *)(uintptr_t)bytes.p, bytes.n}, 1);
        if (n < 0) {
            return (int)n;
        }
        buf_consume(b, (size_t)n);
        if ((size_t)n < bytes.n && s->phase == NET_PLAIN) {
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
    set.wall = 0;
}

int64_t net_wall(void)
{
    set.wall = set.wall ? set.wall : plat_wall_ms();
    return set.wall;
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

/* To its owner, in the owner's terms. */
static void tell(struct stream *s, short events)
{
    if (s->phase == NET_UP) {
        short bad = events & (short)(POLLERR | POLLHUP);
        bool reads = s->wants_r && (s->more || (events & tls_wants(s->tls, false)));
        bool writes = s->wants_w && (events & tls_wants(s->tls, true));
        events = (short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0) | bad);
    } else if (s->phase != NET_PLAIN) {
        go_on(s);
        return;
    }
    if (events != 0) {
        s->ops->ready(s, events);
    }
}

static void mask(bool on)
{
    if (set.masked == on) {
        return;
    }
    set.masked = on;
    for (size_t i = 0; i < set.n; i++) {
        if (set.streams[i] && set.streams[i]->heat == NET_COLD) {
            arm(set.streams[i]);
        }
    }
}

static void measure(void)
{
    uint64_t past = set.now - set.measured;

    if (past >= NET_COLD_MS) {
        set.lately.turns = (size_t)(set.since.turns * NET_COLD_MS / past);
        set.lately.pieces = (size_t)(set.since.pieces * NET_COLD_MS / past);
        set.lately.others = (size_t)(set.since.others * NET_COLD_MS / past);
        set.since.turns = set.since.pieces = set.since.others = 0;
        set.measured = set.now;
    }
}

/*
 * While many streams flow, a turn for each piece would cost more than the pieces: let some come together. Where too few
 * come, the pause would only be one more thing to wake up for; where other work is the most, that would wait. Has it
 * paused? Then something is likely to be ready, and poll() need not get ready to sleep, which is half of its cost.
 */
static bool pace(void)
{
    bool enough = 2 * set.lately.pieces * PACE_US >= (size_t)PACE_PIECES * NET_COLD_MS * 1000;

    if (set.flowing < PACE_MIN || !enough || set.lately.others > set.lately.pieces || set.told > set.flowing / 8) {
        return false;
    }
    plat_pause_us(PACE_US);
    return true;
}

/* What poll() has said of a slot; once. */
static short take_events(size_t slot, size_t *left)
{
    short events = set.fds[slot].revents;

    if (events != 0) {
        set.fds[slot].revents = 0;
        (*left)--;
    }
    return events;
}

/*
 * The hot ones, as they came: in the order of the slots a stream's turn would come early or late by chance, and with many
 * of them some requests would take twice as long as others. Who becomes hot meanwhile has its turn when the others had.
 * With few of them the order of the slots is the faster one: what ends makes room for what begins in the same turn, so that
 * the memory in use is the one that is warm.
 */
static void tell_hot(size_t *left, bool more)
{
    set.next = set.first;
    set.end = set.last;
    while (set.next && (*left > 0 || more)) {
        struct stream *s = set.next;
        set.next = s == set.end ? NULL : s->after;
        short events = take_events((size_t)s->slot, left);
        if (events != 0 || s->more) {
            tell(s, events);
        }
    }
    set.next = set.end = NULL;
}

/*
 * Cold streams are left out until NET_COLD_MS have passed, or nobody else has said anything for so long: then all are
 * asked, for as long as it takes.
 */
void net_turn(uint64_t wake_at)
{
    uint64_t until = wake_at;
    int wait = -1;

    measure();
    mask(set.cold * set.lately.turns >= COLD_WAKE && set.now < set.looked + NET_COLD_MS);
    if (set.masked && (until == 0 || set.looked + NET_COLD_MS < until)) {
        until = set.looked + NET_COLD_MS;
    }
    if (set.bound != 0 && (until == 0 || set.bound < until)) {
        until = set.bound;
    }
    if (until != 0) {
        uint64_t left = until > set.now ? until - set.now : 0;
        wait = left > 60000 ? 60000 : (int)left;
    }
    bool more = any_more();
    bool must = !more && set.due == 0 && wait != 0; /* for something to come */
    int ready = 0;
    if (!must || pace()) {
        ready = plat_poll(set.fds, set.n, 0);
    }
    if (must && ready == 0) {
        ready = plat_poll(set.fds, set.n, wait);
    }
    net_tick();
    set.looked = set.masked ? set.looked : set.now;
    set.since.turns++;
    set.told = ready > 0 ? (size_t)ready : 0;
    size_t flowed = set.since.pieces, n = set.n, left = set.told;
    const bool fair = set.told >= FAIR_MIN;
    if (fair) {
        tell_hot(&left, more);
    }
    for (size_t i = 0; i < n && (left > 0 || more); i++) {
        struct stream *s = set.streams[i];
        short events = take_events(i, &left);
        set.since.pieces += events != 0 && s && s->heat == NET_FLOW;
        if (s && (events != 0 || (s->more && !(fair && s->heat == NET_HOT)))) {
            tell(s, events);
        }
    }
    set.since.others += set.told - (set.since.pieces - flowed);
    if (set.due > 0) {
        shake_one();
    }
    if (set.bound != 0 && set.now >= set.bound) {
        expire();
    }
    if (set.holes > 0) {
        close_holes();
    }
}
