/*
 * test_torture.c - every pool at its end, at every moment: a session in which the n-th request for an element of a pool
 * is refused, for each pool and all n.
 *
 * The session has a bit of everything. Whatever is refused, each of its requests ends in an answer with a status that
 * tells so, or in a closed connection; afterwards the same session works, and nothing is left in use. Sockets, machines
 * and the clock are those of tests/fake.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/endpoint.h"
#include "../../src/pool.h"
#include "../fake/world.h"

enum { TURNS = 2000, LONG_MS = 200000, FAILURES_MAX = 400, STARVED_TURNS = 40 };

/* One request, what its machine says (0 = what fits), and its end when nothing is refused. */
static const struct part {
    const char *name;
    char asks, says;
    enum fake_connect connect;
    int status;
    const char *ends; /* the last bytes of the body */
    int alone;        /* the status if there is no next machine */
} parts[] = {
    {"chat", 'c', 0, FAKE_UP, 200, "\"stop\"}]}", 0},
    {"stream", 's', 0, FAKE_UP, 200, "data: [DONE]\n\n", 0},
    {"in a block", 'b', 0, FAKE_UP, 200, "\"stop\"}]}", 0},
    {"spilled", 'B', 0, FAKE_UP, 200, "data: [DONE]\n\n", 0},
    {"long reply", 's', 'B', FAKE_UP, 200, "data: [DONE]\n\n", 0},
    {"chunked", 'k', 0, FAKE_UP, 200, "\"stop\"}]}", 0},
    {"translated", 'a', 'c', FAKE_UP, 200, "}}\n", 0},
    {"translated stream", 'A', 's', FAKE_UP, 200, "data: {\"type\":\"message_stop\"}\n\n", 0},
    {"translated, calls", 'A', 't', FAKE_UP, 200, "data: {\"type\":\"message_stop\"}\n\n", 0},
    {"translated, spilled", 'L', 's', FAKE_UP, 200, "data: {\"type\":\"message_stop\"}\n\n", 0},
    {"passed", 'P', 'm', FAKE_UP, 200, "data: {\"type\":\"message_stop\"}\n\n", 0},
    {"models", 'm', 0, FAKE_UP, 200, "]}\n", 0},
    {"tags", 't', 0, FAKE_UP, 200, "]}\n", 0},
    {"gathered", 'r', 0, FAKE_UP, 200, "\"missing\":[]}}\n", 0},
    {"status page", 'i', 0, FAKE_UP, 200, "}", 0},
    {"refused, then the next", 'c', 0, FAKE_REFUSED, 200, "\"stop\"}]}", 502},
    {"busy, then the next", 's', '3', FAKE_UP, 200, "data: [DONE]\n\n", 503},
    {"form", 'f', 'c', FAKE_UP, 200, "\"stop\"}]}", 0},
    {"upgrade", 'u', 'u', FAKE_UP, 101, "first words, client words", 0},
};

static unsigned long answered, refused, closed;
static int refused_with; /* the only status that fits what is lacking; 0 = none */

static bool ends_with(const struct output *o, const char *z)
{
    size_t n = strlen(z);
    return o->n >= n && memcmp(o->p + o->n - n, z, n) == 0;
}

/* ---- what the test holds itself ------------------------------------------------------------ */

static struct {
    enum pool_id id;
    void *all[2 * OLLA_MAX_MODELS];
    size_t n;
} held;

static void take_all(enum pool_id id)
{
    held.id = id;
    held.n = 0;
    for (void *p; (p = pool_get_raw(id)) != NULL;) {
        assert_true(held.n < OLLA_COUNT(held.all));
        held.all[held.n++] = p;
    }
}

static void give_back(void)
{
    while (held.n > 0) {
        pool_put(held.id, held.all[--held.n]);
    }
}

/* ---- one request ------------------------------------------------------------------------------ */

/* Until it is complete, or the connection is closed. */
static struct world_reply wait_for_reply(const struct fake_fd *c, const struct world_request *request)
{
    uint64_t until = fake.now + LONG_MS;

    for (int n = 0;; n++) {
        if (n == STARVED_TURNS) {
            give_back();
        }
        struct world_reply r = world_read(c, 0, request->head);
        if (r.end == REPLY_WHOLE || (!c->open && !c->waiting) || n == TURNS || fake.now > until) {
            return r;
        }
        output_clear(&r.body);
        world_turn();
    }
}

/* One that refused a connection is looked at again, and gets requests again. */
static void wait_until_well(void)
{
    int down = 1;

    for (int n = 0; down > 0 && n < TURNS; n++) {
        struct endpoint *e;
        down = 0;
        for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
            down += !endpoint_is_up(e) || !endpoint_is_open(e);
        }
        world_turn();
    }
    assert_int_equal(down, 0);
}

static void play(const struct part *p, bool must_work)
{
    const struct world_request *request = world_request(p->asks);
    struct fake_fd *c = fake_client("127.0.0.1");

    if (p->says) {
        struct world_says s = {.n = 0};
        s.bytes = world_words(p->says, &s.n);
        s.first = s.n;
        world_will_say(&s);
    }
    world_will_connect(p->connect);
    world_ask(c, request);
    if (request->kind == ASKS_TUNNEL) {
        for (int n = 0; n < 5 * STARVED_TURNS && c->from.n == 0; n++) {
            if (n == STARVED_TURNS) {
                give_back();
            }
            world_turn();
        }
        fake_say(c, ", client words", 14);
        for (int n = 0; n < 20; n++) {
            world_turn();
        }
        fake_end(c);
    }
    struct world_reply r = wait_for_reply(c, request);
    bool good = r.end == REPLY_WHOLE && r.status == p->status && ends_with(&r.body, p->ends);
    if (must_work && !good) {
        print_message("%s: status %d, %s, %zu bytes: %.*s\n", p->name, r.status,
                      r.end == REPLY_WHOLE  ? "complete"
                      : r.end == REPLY_PART ? "broken off"
                                            : "no reply",
                      r.body.n, (int)(r.body.n < 300 ? r.body.n : 300), r.body.p ? r.body.p : "");
    }
    assert_true(good || !must_work);
    if (r.end == REPLY_WHOLE && !good) {
        /* What of a page cannot be told is left out of it; all else is an error. */
        bool lacks_something = request->kind == ASKS_LOCAL && r.status == 200;
        bool fits = r.status == refused_with || (refused_with == 404 && r.status == p->alone);
        /* The only one that has the model refuses connections; a probe may have found that out before the request did. */
        fits = fits || (refused_with == 404 && p->connect == FAKE_REFUSED && r.status == 503);
        if (!lacks_something && !fits) {
            print_message("%s: refused with %d\n", p->name, r.status);
        }
        assert_true(lacks_something || fits);
    } else if (r.end != REPLY_WHOLE) {
        if (c->open || c->waiting) {
            print_message("%s: neither answered nor closed\n", p->name);
        }
        assert_false(c->open || c->waiting);
    }
    answered += good;
    refused += r.end == REPLY_WHOLE && !good;
    closed += r.end != REPLY_WHOLE;
    output_clear(&r.body);
    give_back();
    fake_end(c);
    world_forget();
    assert_true(world_settle(TURNS, LONG_MS));
    wait_until_well();
    world_forget();
}

static void session(bool must_work)
{
    for (size_t i = 0; i < OLLA_COUNT(parts); i++) {
        play(&parts[i], must_work);
    }
}

static void test_nothing_refused(void **state)
{
    (void)state;
    for (int rich = 0; rich <= 1; rich++) {
        world_begin(rich);
        session(true);
        session(true);
        world_end();
    }
}

/* may_close: a connection may be closed without a reply. */
static void torture(enum pool_id id, int status, bool may_close, bool rich)
{
    unsigned n = 1;

    answered = refused = closed = 0;
    refused_with = status;
    for (bool hit = true; hit; n++) {
        uint64_t failed = pool_stats(id)->failed;
        pool_fail_at(id, n);
        world_begin(rich);
        session(false);
        hit = pool_stats(id)->failed > failed;
        pool_fail_at(id, 0);
        /* The next lists come after five minutes. */
        for (uint64_t until = fake.now + 360000; fake.now < until;) {
            world_turn();
        }
        session(true);
        world_end();
        assert_true(n < FAILURES_MAX);
    }
    print_message("%s: refused %u times; requests that worked: %lu, that were refused: %lu, closed: %lu\n",
                  pool_stats(id)->name, n - 2, answered, refused, closed);
    assert_true(n > 2); /* there was something to refuse */
    assert_true(may_close || closed == 0);
}

/* Nothing is left in the pool when the request comes; a while later all is back. */
static void starve(enum pool_id id, int status, bool may_close)
{
    answered = refused = closed = 0;
    refused_with = status;
    world_begin(false);
    for (size_t i = 0; i < OLLA_COUNT(parts); i++) {
        take_all(id);
        play(&parts[i], false);
        play(&parts[i], true);
    }
    world_end();
    print_message("%s: all taken; requests that worked: %lu, that were refused: %lu, closed: %lu\n",
                  pool_stats(id)->name, answered, refused, closed);
    assert_true(may_close || closed == 0);
}

#define TORTURE(id, status, may_close)                    \
    static void test_##id(void **state)                   \
    {                                                     \
        (void)state;                                      \
        torture(POOL_##id, (status), (may_close), false); \
        torture(POOL_##id, (status), (may_close), true);  \
        starve(POOL_##id, (status), (may_close));         \
    }
TORTURE(CLIENT, 0, true)
TORTURE(EXCHANGE, 0, false)
TORTURE(UPSTREAM, 503, false)
TORTURE(BUF, 0, true)
TORTURE(BODY, 0, false)
TORTURE(PROBE, 0, false)
TORTURE(MESSAGES, 503, false)
TORTURE(MODEL, 404, false)

/* The machines in memory speak no TLS: tests/wire/ uses these up. */
#define UNUSED(id)                                            \
    static void test_##id(void **state)                       \
    {                                                         \
        (void)state;                                          \
        assert_int_equal(pool_stats(POOL_##id)->max_used, 0); \
    }
UNUSED(TLS_IN)
UNUSED(TLS_OUT)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing_refused),
#define X(id, name, count, empty) cmocka_unit_test(test_##id),
                                       POOL_TABLE(X)
#undef X
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
