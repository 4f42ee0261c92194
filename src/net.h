/*
 * net.h - level 3: streams in one poll set, with one deadline each.
 *
 * A stream is a descriptor that the loop watches for somebody. Its owner
 * says what it wants (read, write) and until when; the loop calls the owner's
 * functions. All of it is edge-free: what is wanted and ready is reported
 * every turn until it is dealt with.
 *
 * Invariants:
 *  1. A stream is in the poll set from net_open to net_close, at set.slot.
 *  2. Closing is allowed at any time, also from inside a callback; a stream
 *     closed in this turn gets no further callback.
 *  3. Deadlines are kept beside the poll set; the earliest is only a lower
 *     bound, so that moving a deadline costs nothing.
 *  4. A stream with TLS behaves like one without: its handshake is made here,
 *     and its owner hears nothing but the deadline until that is over or has
 *     failed. In one turn one step of one handshake is made, so that
 *     streams go on.
 *  5. poll() costs time for each descriptor, so not all are asked for each
 *     time: see enum net_heat.
 *
 * May include: olla.h, buf.h, platform.h, tls.h.
 */
#ifndef OLLA_NET_H
#define OLLA_NET_H

#include "../platform/platform.h"
#include "../platform/tls.h"
#include "buf.h"

struct stream;

struct stream_ops {
    /* events as in poll(2). POLLERR and POLLHUP may come without being wanted. */
    void (*ready)(struct stream *s, short events);
    void (*expired)(struct stream *s); /* the deadline has passed and is cleared; may be NULL if none is ever set */
};

enum net_phase {
    NET_PLAIN = 0,
    /* with TLS: */
    NET_CONNECTING, /* TCP is */
    NET_SHAKING,    /* the handshake runs */
    NET_UP,
    NET_REFUSED, /* TCP was not connected, */
    NET_FAILED   /* or the handshake failed: why */
};

/* How soon its owner has to hear of a stream. */
enum net_heat {
    NET_HOT = 0, /* at once */
    NET_FLOW,    /* small pieces keep coming: where many streams are such, they wait for each other for up to 1 ms */
    NET_COLD     /* it is unlikely that anything comes, and within NET_COLD_MS is soon enough */
};
#define NET_COLD_MS 20

struct stream {
    int fd; /* -1 = closed */
    int slot;
    const struct stream_ops *ops;
    void *owner;

    enum net_phase phase;
    bool due;              /* a step of its handshake can be made */
    bool more;             /* the engine holds bytes that poll() cannot tell of */
    bool wants_r, wants_w; /* what the owner wants */
    bool watched;          /* anything at all is waited for */
    uint8_t heat;
    struct stream *before, *after; /* among the hot ones; NULL = none */
    struct tls *tls;               /* NULL in NET_CONNECTING: there is none, and it will fail */
    const char *why; /* it failed (or will): static text, what the other side does; of NET_PLAIN: it should have TLS */
};

enum net_how { NET_CLOSE = 0, NET_ABORT }; /* FIN, or RST so that the peer notices at once */

/* The stream takes fd over. Nothing is wanted and no deadline is set at first. */
void net_open(struct stream *s, int fd, const struct stream_ops *ops, void *owner);
/* With TLS: for an accepted connection; for one that is being made to a peer of tls.h. OLLA_ERR: there is no engine. */
int net_accept_tls(struct stream *s);
void net_connect_tls(struct stream *s, unsigned peer);
void net_close(struct stream *s, enum net_how how);
void net_forget(struct stream *s); /* leaves the poll set, but the descriptor stays open */
bool net_is_open(const struct stream *s);

/* Wanting nothing means being told nothing, not even that the peer is gone; net_want_hangup asks for just that. */
void net_want(struct stream *s, bool read, bool write);
void net_want_hangup(struct stream *s);
void net_heat(struct stream *s, enum net_heat heat); /* NET_HOT at first */
void net_deadline(struct stream *s, uint64_t at_ms); /* 0 = none */

/* When a connection under way is reported ready: is it up? OLLA_OK or OLLA_ERR. */
int net_connected(const struct stream *s);

/* No more bytes will be written; reading goes on. */
void net_end_writing(struct stream *s);

/* As plat_read and plat_writev; what was refused with OLLA_AGAIN has to be offered again, maybe with more behind it. */
long net_take(struct stream *s, void *p, size_t n);
long net_give(struct stream *s, const struct iovec *v, int count);

/*
 * Reads at most `max` bytes into the room of b (which must hold a block and
 * have room). Count, OLLA_AGAIN, OLLA_EOF or OLLA_ERR.
 */
long net_read(struct stream *s, struct buf *b, size_t max);

/* It takes bytes now, or is broken, which a write will tell. Costs a system call. */
bool net_writable(const struct stream *s);

/* Writes what is in b and consumes it. OLLA_OK when b is empty, else OLLA_AGAIN or OLLA_ERR. */
int net_flush(struct stream *s, struct buf *b);

/* The time of this turn, monotonic ms. */
uint64_t net_now(void);
/* The wall clock in this turn, ms since 1970. */
int64_t net_wall(void);
void net_tick(void); /* start-up and tests: takes the time anew */

/*
 * One turn: waits until something is ready, a deadline passes or at most
 * until wake_at (0 = no limit), then calls the owners.
 */
void net_turn(uint64_t wake_at);

#endif
