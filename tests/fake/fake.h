/*
 * fake.h - a platform in memory, for tests of everything above platform.h: what olla's sockets say and do is said and
 * done by the test, and time goes by when there is nothing else to do.
 *
 * Addresses, the calendar and plain files are the real ones. Sockets, poll, clocks, chance, signals, names, the spool,
 * records and the log are here. A descriptor that is used after its end, or closed twice, ends the program.
 */
#ifndef OLLA_FAKE_H
#define OLLA_FAKE_H

#include "../../platform/platform.h"
#include "../unit/windows.h"

enum fake_kind {
    FAKE_FREE = 0,
    FAKE_LISTENER,
    FAKE_CLIENT,
    FAKE_BACKEND,
    FAKE_SIGNALS,
    FAKE_RESOLVER,
    FAKE_SPOOL,
    FAKE_RECORD
};

enum fake_connect { FAKE_UP = 0, FAKE_REFUSED, FAKE_SILENT };

/* One descriptor. What its peer does is done here by the test. */
struct fake_fd {
    enum fake_kind kind;
    bool open;    /* olla has it; what olla has closed stays to be looked at until fake_clear */
    bool waiting; /* a client that has not been accepted */
    struct plat_addr addr;
    enum fake_connect connect;

    struct output to; /* on its way to olla, */
    size_t read;      /* so far taken */
    bool to_end;      /* and then: the end, */
    bool to_reset;    /* or a reset */
    bool reset_seen;

    struct output from; /* what olla has written; of a spool file, what is in it */
    bool from_end;      /* olla has ended its side */
    bool aborted;       /* olla has reset the connection */
    size_t window;      /* bytes that the peer will still take */

    void *of; /* the test's */
    int mode;
    size_t seen;
};

enum { FAKE_FDS = 1024, FAKE_FIRST = 100 };

enum fake_call {
    FAKE_READ,
    FAKE_WRITE,
    FAKE_ACCEPT,
    FAKE_CONNECT,
    FAKE_POLL,
    FAKE_SPOOL_OPEN,
    FAKE_SPOOL_IO,
    FAKE_NAMES
};

struct fake {
    struct fake_fd fds[FAKE_FDS];
    size_t n; /* used so far */
    uint64_t now;
    bool quiet; /* the last turn had nothing to do but to wait */

    /* A fault for this call: 0 = none, else what it is made of. NULL = never any. */
    unsigned (*fault)(enum fake_call call);
    /* olla opens a connection: what becomes of it. */
    enum fake_connect (*connected)(struct fake_fd *c);
    /* olla is about to wait: peers may do something. True if they did. */
    bool (*peers)(void);
    /* When one of them wants to do more, 0 = never. */
    uint64_t (*wake)(void);

    unsigned char signals[16]; /* enum plat_signal */
    unsigned signals_n;
    struct resolve_answer answers[OLLA_MAX_ENDPOINTS];
    unsigned answers_n;
    enum plat_fail error;
    uint64_t random;

    uint64_t progress; /* whatever happens to a descriptor adds to it */
    uint64_t progress_seen;
    unsigned idle_turns; /* in a row, without progress and without waiting */
};

extern struct fake fake;

void fake_clear(void);                 /* forgets what olla has closed, and faults */
size_t fake_open(enum fake_kind kind); /* so many of that kind are open */
size_t fake_waiting(void);             /* clients that have not been accepted */

struct fake_fd *fake_client(const char *ip); /* connects to olla */
void fake_say(struct fake_fd *c, const char *p, size_t n);
void fake_end(struct fake_fd *c);
void fake_reset(struct fake_fd *c);
void fake_signal(enum plat_signal signal);

#endif
