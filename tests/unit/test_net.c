/*
 * test_net.c - streams, deadlines and turns of the poll set.
 *
 * Streams are socket pairs; a stream's owner is a small player whose script runs inside the
 * callbacks, because closing, forgetting and opening there is what can go wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../src/buf.h"
#include "../../src/net.h"

#define MANY 500

struct player {
    struct stream s; /* first: a stream is its player */
    int peer;
    unsigned ready, expired;
    short events;
    void (*on_ready)(struct player *p);
    void (*on_expired)(struct player *p);
    struct player *other;
    uint64_t due; /* 0 = no deadline expected */
};

static struct player pl[MANY];
static uint32_t seed = 90210;

static uint32_t chance(uint32_t below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static void ready(struct stream *s, short events)
{
    struct player *p = (struct player *)s;
    assert_true(net_is_open(s));
    assert_ptr_equal(s->owner, p);
    assert_int_not_equal(events, 0);
    p->ready++;
    p->events = events;
    if (p->on_ready) {
        p->on_ready(p);
    }
}

static void expired(struct stream *s)
{
    struct player *p = (struct player *)s;
    assert_true(net_is_open(s));
    assert_true(p->due != 0 && p->due <= net_now());
    p->expired++;
    p->due = 0;
    if (p->on_expired) {
        p->on_expired(p);
    }
}

static const struct stream_ops ops = {ready, expired};

static void open_pair(struct player *p)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    assert_true(fcntl(fd[0], F_SETFL, O_NONBLOCK) != -1 && fcntl(fd[1], F_SETFL, O_NONBLOCK) != -1);
    p->peer = fd[1];
    net_open(&p->s, fd[0], &ops, p);
}

static void open_reader(struct player *p)
{
    open_pair(p);
    net_want(&p->s, true, false);
}

static void close_both(struct player *p)
{
    if (net_is_open(&p->s)) {
        net_close(&p->s, NET_CLOSE);
    }
    if (p->peer != -1) {
        close(p->peer);
    }
    p->peer = -1;
}

static void poke(struct player *p)
{
    assert_int_equal(write(p->peer, "x", 1), 1);
}

static void eat(struct player *p)
{
    char c[16];
    while (plat_read(p->s.fd, c, sizeof(c)) > 0) {
    }
}

/* A turn that does not wait. */
static void turn(void)
{
    net_tick();
    net_turn(net_now());
}

static void due(struct player *p, uint64_t at)
{
    p->due = at;
    net_deadline(&p->s, at);
}

static int before(void **state)
{
    (void)state;
    memset(pl, 0, sizeof(pl));
    for (int i = 0; i < MANY; i++) {
        pl[i].s.fd = pl[i].peer = -1;
    }
    net_tick();
    return 0;
}

static int after(void **state)
{
    (void)state;
    for (int i = 0; i < MANY; i++) {
        close_both(&pl[i]);
    }
    turn();
    return 0;
}

static int setup(void **state)
{
    (void)state;
    buf_init();
    return plat_raise_fd_limit(2 * MANY + 100) >= 2 * MANY + 50 ? 0 : -1;
}

/* ---- readiness ------------------------------------------------------------------- */

static void test_wants(void **state)
{
    static const struct {
        bool read, write, bytes;
        short events;
    } cases[] = {
        {false, false, true, 0},      {true, false, true, POLLIN},  {true, true, true, POLLIN | POLLOUT},
        {false, true, true, POLLOUT}, {true, true, false, POLLOUT}, {true, false, false, 0},
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        (void)before(NULL);
        open_pair(&pl[0]);
        if (i > 0) { /* nothing is wanted at first */
            net_want(&pl[0].s, cases[i].read, cases[i].write);
        }
        if (cases[i].bytes) {
            poke(&pl[0]);
        }
        turn();
        turn();
        assert_int_equal(pl[0].ready, cases[i].events ? 2 : 0); /* reported until it is dealt with */
        assert_int_equal(pl[0].events, cases[i].events);
        unsigned ready = pl[0].ready;
        net_want(&pl[0].s, false, false);
        close(pl[0].peer);
        pl[0].peer = -1;
        turn();
        assert_int_equal(pl[0].ready, ready); /* nothing wanted, nothing told */
        net_want_hangup(&pl[0].s);
        turn();
        assert_true(pl[0].events & POLLHUP);
        net_close(&pl[0].s, NET_CLOSE);
        net_close(&pl[0].s, NET_ABORT); /* harmless */
        assert_false(net_is_open(&pl[0].s));
    }
}

static void close_self(struct player *p)
{
    eat(p); /* a close with bytes unread would be a reset for the peer */
    net_close(&p->s, NET_CLOSE);
}

static void close_other(struct player *p)
{
    eat(p);
    net_close(&p->other->s, NET_ABORT);
}

/* Two streams are ready; the first that is called closes the other. With round 1 only the second of them would. */
static void test_close_other(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        (void)before(NULL);
        for (int i = 0; i < 2; i++) {
            open_reader(&pl[i]);
            pl[i].other = &pl[1 - i];
            pl[i].on_ready = round > i ? eat : close_other;
            poke(&pl[i]);
        }
        turn();
        turn();
        assert_int_equal(net_is_open(&pl[0].s), round == 0);
        assert_int_equal(net_is_open(&pl[1].s), round == 1);
        assert_int_equal(pl[0].ready, 1);
        assert_int_equal(pl[1].ready, round);
        (void)after(NULL);
    }
}

static void test_close_self(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) {
        open_reader(&pl[i]);
        poke(&pl[i]);
        pl[i].on_ready = i % 2 ? close_self : eat;
    }
    turn();
    for (int i = 0; i < 10; i++) {
        assert_int_equal(pl[i].ready, 1);
        assert_int_equal(net_is_open(&pl[i].s), i % 2 == 0);
        char c;
        assert_int_equal(read(pl[i].peer, &c, 1), i % 2 ? 0 : -1); /* the peer sees the end */
    }
    for (int i = 0; i < 10; i += 2) { /* those that moved in the set still work */
        poke(&pl[i]);
        turn();
        assert_int_equal(pl[i].ready, 2);
    }
}

/* The struct of the victim is used again in the same turn, for a connection that is ready, too. */
static void reuse_other(struct player *p)
{
    struct player *o = p->other;
    eat(p);
    if (o) {
        net_close(&o->s, NET_CLOSE);
        close(o->peer);
        open_reader(o);
        poke(o);
        due(o, 1); /* long past */
    }
}

static void test_reuse_in_the_same_turn(void **state)
{
    (void)state;
    for (int k = 0; k < 6; k++) { /* all pairs of killer and victim among three */
        int killer = k % 3, victim = (killer + 1 + k / 3) % 3;
        struct player *o = &pl[victim];
        (void)before(NULL);
        for (int i = 0; i < 3; i++) {
            open_reader(&pl[i]);
            pl[i].on_ready = eat;
        }
        pl[killer].on_ready = reuse_other;
        pl[killer].other = o;
        poke(&pl[killer]);
        poke(o);
        turn();
        assert_int_equal(pl[killer].ready, 1);
        assert_int_equal(o->ready, victim < killer); /* nothing for the new one before the next turn */
        pl[killer].other = NULL;
        turn();
        assert_int_equal(o->ready, 1 + (victim < killer));
        assert_int_equal(o->expired, 1);
        assert_int_equal(pl[killer].ready, 1);
        (void)after(NULL);
    }
}

static int kept_fd;

static void forget_self(struct player *p)
{
    kept_fd = p->s.fd;
    net_forget(&p->s);
}

static void test_forget(void **state)
{
    (void)state;
    open_reader(&pl[0]);
    due(&pl[0], net_now() + 1);
    pl[0].on_ready = forget_self;
    poke(&pl[0]);
    turn();
    assert_false(net_is_open(&pl[0].s));
    net_turn(net_now() + 5);
    assert_int_equal(pl[0].ready, 1);
    assert_int_equal(pl[0].expired, 0); /* its deadline is gone with it */
    pl[0].on_ready = eat;
    net_open(&pl[0].s, kept_fd, &ops, &pl[0]); /* the descriptor is still good */
    net_want(&pl[0].s, true, false);
    turn();
    assert_int_equal(pl[0].ready, 2);
}

/* ---- deadlines ------------------------------------------------------------------- */

static void test_waiting(void **state)
{
    uint64_t start = net_now();
    (void)state;
    open_reader(&pl[0]);
    due(&pl[0], start + 30);
    while (pl[0].expired == 0) {
        net_turn(0);
    }
    assert_true(net_now() >= start + 30 && net_now() < start + 1000);
    start = net_now();
    net_turn(start + 20); /* the deadline is cleared: until wake_at */
    assert_true(net_now() >= start + 15 && net_now() < start + 1000);
    due(&pl[0], start + 5000);
    poke(&pl[0]);
    net_turn(0); /* readiness ends the wait */
    assert_true(net_now() < start + 2000);
    assert_int_equal(pl[0].ready, 1);
    assert_int_equal(pl[0].expired, 1);
}

static void test_many_deadlines(void **state)
{
    uint64_t start = net_now();
    (void)state;
    for (int i = 0; i < 200; i++) {
        open_reader(&pl[i]);
        due(&pl[i], start + 1 + chance(60));
        switch (i % 4) {
        case 0:
            due(&pl[i], 0);
            break; /* cleared */
        case 1:
            due(&pl[i], start + 100 + chance(20));
            break; /* put off: the old one must not fire */
        case 2:
            due(&pl[i], start + 1 + chance(5));
            break; /* brought forward */
        default:
            break;
        }
    }
    while (net_now() < start + 150) {
        net_turn(net_now() + 50);
        for (int i = 0; i < 200; i++) { /* what is due is done in the turn that sees it */
            assert_true(pl[i].due == 0 || pl[i].due > net_now());
        }
    }
    for (int i = 0; i < 200; i++) {
        assert_int_equal(pl[i].expired, i % 4 ? 1 : 0);
    }
}

static void again(struct player *p)
{
    if (p->expired < 5) {
        due(p, net_now() + 2);
    }
}

static void expired_close_other(struct player *p)
{
    net_close(&p->other->s, NET_CLOSE);
    net_close(&p->s, NET_CLOSE);
}

static void test_expiring_changes_things(void **state)
{
    static const unsigned want[] = {5, 1, 0, 1, 1, 1};
    (void)state;
    for (int i = 0; i < 6; i++) {
        open_reader(&pl[i]);
    }
    uint64_t soon = net_now() + 5;
    pl[0].on_expired = again;
    due(&pl[0], soon);
    pl[1].other = &pl[2]; /* closes a later one that is due, too, */
    pl[4].other = &pl[3]; /* and an earlier one that was already told */
    pl[1].on_expired = pl[4].on_expired = expired_close_other;
    for (int i = 1; i < 5; i++) {
        due(&pl[i], soon);
    }
    due(&pl[5], soon + 40);
    while (net_now() < soon + 60) {
        net_turn(soon + 60);
    }
    for (int i = 0; i < 6; i++) {
        assert_int_equal(pl[i].expired, want[i]);
        assert_int_equal(net_is_open(&pl[i].s), i == 0 || i == 5);
    }
}

static void extend(struct player *p)
{
    eat(p);
    due(p, net_now() + 500);
}

/* Bytes and the deadline come in the same turn: the callback may put the deadline off in time. */
static void test_ready_comes_before_expired(void **state)
{
    (void)state;
    open_reader(&pl[0]);
    pl[0].on_ready = extend;
    due(&pl[0], net_now() + 1);
    poke(&pl[0]);
    plat_poll(NULL, 0, 5);
    net_turn(0);
    assert_int_equal(pl[0].ready, 1);
    assert_int_equal(pl[0].expired, 0);
}

static void test_many_pairs(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) { /* in the second one half of the places are used again */
        for (int i = 0; i < MANY; i++) {
            if (!net_is_open(&pl[i].s)) {
                close_both(&pl[i]);
                open_reader(&pl[i]);
            }
            pl[i].ready = 0;
            pl[i].on_ready = eat;
            pl[i].other = &pl[MANY - 1 - i];
            poke(&pl[i]);
        }
        turn();
        turn();
        for (int i = 0; i < MANY; i++) {
            assert_int_equal(pl[i].ready, 1);
            pl[i].on_ready = close_other;
            poke(&pl[i]);
        }
        turn(); /* each two players: one is called and closes the other */
        for (int i = 0; i < MANY / 2; i++) {
            assert_int_equal(net_is_open(&pl[i].s) + net_is_open(&pl[MANY - 1 - i].s), 1);
            assert_int_equal(pl[i].ready + pl[MANY - 1 - i].ready, 3);
        }
    }
}

/*
 * Streams that flow, fast enough that turns are paced, beside cold ones: each is told what it got in the next turn,
 * the cold ones a little later, and nobody hears anything twice.
 */
static void test_heat(void **state)
{
    enum { ALL = 128, COLD = 64, TURNS = 400 };
    unsigned expected[ALL] = {0};

    (void)state;
    for (int i = 0; i < ALL; i++) {
        open_reader(&pl[i]);
        pl[i].on_ready = eat;
        net_heat(&pl[i].s, i < COLD ? NET_COLD : NET_FLOW);
    }
    for (int t = 0; t < TURNS; t++) {
        int flow = COLD + (int)chance(ALL - COLD);
        poke(&pl[flow]);
        expected[flow]++;
        net_turn(net_now() + 1000);
        assert_int_equal(pl[flow].ready, expected[flow]);
        if (t == TURNS / 2) {
            poke(&pl[0]);
            poke(&pl[COLD - 1]);
        }
    }
    for (uint64_t until = net_now() + 5000; pl[0].ready + pl[COLD - 1].ready < 2 && net_now() < until;) {
        net_turn(until);
    }
    expected[0] = expected[COLD - 1] = 1;
    net_heat(&pl[1].s, NET_HOT);
    poke(&pl[1]);
    net_turn(net_now() + 1000); /* at once again */
    expected[1] = 1;
    for (int i = 0; i < ALL; i++) {
        assert_int_equal(pl[i].ready, expected[i]);
    }
}

static const struct player *heard[8];
static unsigned heard_n;

static void hear(struct player *p)
{
    eat(p);
    heard[heard_n++] = p;
}

/* Closes the next one and the last one, and comes last itself from now on. */
static void hear_and_stir(struct player *p)
{
    hear(p);
    close_both(&pl[1]);
    close_both(&pl[2]);
    net_heat(&p->s, NET_COLD);
    net_heat(&p->s, NET_HOT);
}

static void heard_are(const int *players, unsigned n)
{
    assert_int_equal(heard_n, n);
    for (unsigned i = 0; i < n; i++) {
        assert_ptr_equal(heard[i], &pl[players[i]]);
    }
    heard_n = 0;
}

/* Says something, with so many others that order matters. */
static void poke_in_a_crowd(const int *players, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        poke(&pl[players[i]]);
    }
    for (int i = 6; i < 6 + 64; i++) {
        poke(&pl[i]);
    }
}

/* Those who are hot are told in the order in which they became so, whatever their slots; then all others. */
static void test_order(void **state)
{
    static const int all[] = {0, 1, 2, 3, 4, 5};
    static const int hot[] = {4, 1, 5, 0, 2}, later[] = {4, 5, 0, 3}, last[] = {5, 0, 4, 3};

    (void)state;
    for (int i = 6; i < 6 + 64; i++) {
        open_reader(&pl[i]);
        pl[i].on_ready = eat;
        net_heat(&pl[i].s, NET_FLOW);
    }
    for (int i = 0; i < 6; i++) {
        open_reader(&pl[i]);
        pl[i].on_ready = hear;
        net_heat(&pl[i].s, NET_FLOW);
    }
    for (size_t i = 0; i < OLLA_COUNT(hot); i++) {
        net_heat(&pl[hot[i]].s, NET_HOT);
    }
    poke_in_a_crowd(hot, OLLA_COUNT(hot));
    turn();
    heard_are(hot, OLLA_COUNT(hot));
    poke_in_a_crowd(all, OLLA_COUNT(all));
    pl[4].on_ready = hear_and_stir;
    turn();
    heard_are(later, OLLA_COUNT(later));
    pl[4].on_ready = hear;
    poke_in_a_crowd(last, OLLA_COUNT(last));
    turn();
    heard_are(last, OLLA_COUNT(last));
}

/* What a random player does: closes itself or others, opens others, changes what it wants and how hot others are. */
static void random_deeds(struct player *p)
{
    struct player *o = &pl[chance(MANY)];
    eat(p);
    switch (chance(7)) {
    case 0:
        close_both(p);
        break;
    case 1:
        close_both(o);
        break;
    case 2:
        close_both(o);
        open_reader(o);
        o->on_ready = random_deeds;
        break;
    case 3:
        net_want(&p->s, chance(2), false);
        break;
    case 4:
        net_heat(&o->s, chance(2) ? NET_HOT : NET_FLOW);
        break;
    default:
        break;
    }
}

/* Nobody who is closed is called, everybody else who has bytes is, and the books agree at the end. */
static void test_random_deeds(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        for (int i = 0; i < MANY; i++) {
            if (!net_is_open(&pl[i].s)) {
                close_both(&pl[i]);
                open_reader(&pl[i]);
                pl[i].on_ready = random_deeds;
            }
            pl[i].ready = 0;
            if (chance(8) == 0) {
                poke(&pl[i]);
            }
        }
        turn();
        for (int i = 0; i < MANY; i++) {
            assert_true(pl[i].ready <= 1);
            pl[i].ready = 0;
            pl[i].on_ready = eat;
            if (net_is_open(&pl[i].s)) {
                net_want(&pl[i].s, true, false);
                poke(&pl[i]);
            }
        }
        turn();
        for (int i = 0; i < MANY; i++) {
            assert_int_equal(pl[i].ready, net_is_open(&pl[i].s) ? 1 : 0);
            pl[i].on_ready = random_deeds;
        }
    }
}

/* ---- reading and writing --------------------------------------------------------- */

static void test_read(void **state)
{
    struct buf b = {NULL, 0, 0};
    static char much[OLLA_BUF_SIZE + 100];
    (void)state;
    memset(much, 'm', sizeof(much));
    open_pair(&pl[0]);
    assert_true(buf_hold(&b, BUF_CLIENT));
    assert_int_equal(net_read(&pl[0].s, &b, 100), OLLA_AGAIN);
    assert_int_equal(write(pl[0].peer, "abcdef", 6), 6);
    assert_int_equal(net_read(&pl[0].s, &b, 2), 2); /* at most what is asked for */
    assert_int_equal(net_read(&pl[0].s, &b, SIZE_MAX), 4);
    assert_true(str_eq(buf_str(&b), STR("abcdef")));
    assert_int_equal(write(pl[0].peer, much, sizeof(much)), sizeof(much));
    assert_int_equal(net_read(&pl[0].s, &b, SIZE_MAX), OLLA_BUF_SIZE - 6); /* at most what there is room for */
    buf_consume(&b, buf_len(&b));
    assert_int_equal(net_read(&pl[0].s, &b, SIZE_MAX), 106);
    close(pl[0].peer);
    pl[0].peer = -1;
    assert_int_equal(net_read(&pl[0].s, &b, SIZE_MAX), OLLA_EOF);
    assert_int_equal(buf_len(&b), 106); /* what was read stays */
    buf_drop(&b);
}

static void test_flush_in_parts(void **state)
{
    static char got[OLLA_BUF_SIZE];
    struct buf b = {NULL, 0, 0};
    uint64_t sent = 0, seen = 0;
    int small = 4096, partial = 0;
    (void)state;
    open_pair(&pl[0]);
    assert_int_equal(setsockopt(pl[0].s.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    assert_true(buf_hold(&b, BUF_CLIENT));
    assert_int_equal(net_flush(&pl[0].s, &b), OLLA_OK); /* nothing to do */
    while (seen < 1000000) {
        buf_compact(&b);
        while (buf_room(&b) > 0) {
            *buf_tail(&b) = (char)(sent * 7 + (sent >> 10));
            buf_added(&b, 1);
            sent++;
        }
        size_t had = buf_len(&b);
        int rc = net_flush(&pl[0].s, &b);
        assert_int_equal(rc, buf_len(&b) == 0 ? OLLA_OK : OLLA_AGAIN);
        partial += buf_len(&b) > 0 && buf_len(&b) < had;
        ssize_t n = read(pl[0].peer, got, 1 + chance(sizeof(got) - 1));
        for (ssize_t i = 0; i < n; i++, seen++) {
            assert_int_equal(got[i], (char)(seen * 7 + (seen >> 10)));
        }
    }
    assert_true(partial > 0);
    buf_added(&b, buf_room(&b));
    close(pl[0].peer);
    pl[0].peer = -1;
    assert_int_equal(net_flush(&pl[0].s, &b), OLLA_ERR); /* and no SIGPIPE */
    assert_int_equal(plat_error(), PLAT_FAIL_RESET);
    buf_drop(&b);
}

/* A closed peer reads the end, an aborted one an error. */
static void test_close_and_abort(void **state)
{
    (void)state;
    for (int how = NET_CLOSE; how <= NET_ABORT; how++) {
        struct plat_addr a;
        char c;
        assert_int_equal(plat_addr_parse("127.0.0.1", 0, &a), OLLA_OK);
        struct pollfd set = {plat_listen(&a), POLLIN, 0};
        assert_true(set.fd >= 0);
        plat_addr_set_port(&a, plat_local_port(set.fd));
        net_open(&pl[0].s, plat_connect(&a, 0), &ops, &pl[0]);
        assert_int_equal(plat_poll(&set, 1, 2000), 1);
        int server = plat_accept(set.fd, &a);
        assert_true(server >= 0);
        plat_close(set.fd);
        net_close(&pl[0].s, (enum net_how)how);
        assert_int_equal(plat_poll(&(struct pollfd){server, POLLIN, 0}, 1, 2000), 1);
        assert_int_equal(plat_read(server, &c, 1), how == NET_CLOSE ? OLLA_EOF : OLLA_ERR);
        plat_close(server);
    }
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, before, after)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_wants),
        CASE(test_close_other),
        CASE(test_close_self),
        CASE(test_reuse_in_the_same_turn),
        CASE(test_forget),
        CASE(test_waiting),
        CASE(test_many_deadlines),
        CASE(test_expiring_changes_things),
        CASE(test_ready_comes_before_expired),
        CASE(test_many_pairs),
        CASE(test_heat),
        CASE(test_order),
        CASE(test_random_deeds),
        CASE(test_read),
        CASE(test_flush_in_parts),
        CASE(test_close_and_abort),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
