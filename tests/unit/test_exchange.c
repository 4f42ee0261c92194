/*
 * test_exchange.c - requests from their first byte to the end of their connection, with sockets, machines and the clock
 * of tests/fake: for what takes minutes or a peer that cannot be had otherwise.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/client.h"
#include "../fake/world.h"

enum { MINUTE = 60000, TURNS = 3000 };

static int begin(void **state)
{
    (void)state;
    world_begin(true);
    return 0;
}

static int end(void **state)
{
    (void)state;
    world_end();
    return 0;
}

/* Until the connection is closed, at most so long. */
static bool is_closed_within(const struct fake_fd *c, uint64_t ms)
{
    uint64_t until = fake.now + ms;

    for (int n = 0; (c->open || c->waiting) && n < TURNS && fake.now < until; n++) {
        world_turn();
    }
    return !c->open && !c->waiting;
}

/* ---- clients that do not read ----------------------------------------------------------- */

/* Whatever the answer is made by, and whenever: proxy.read_timeout (10 minutes) later the client is cut off. */
static void test_unread_answers(void **state)
{
    static const char *const requests[] = {
        "GARBAGE\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS /v1/models HTTP/1.1\r\nHost: a\r\nOrigin: http://x\r\nAccess-Control-Request-Method: POST\r\n\r\n",
        "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nlate",
        "GET /late",
    };

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(requests); i++) {
        struct fake_fd *c = fake_client("127.0.0.1");
        c->window = 0;
        fake_say(c, requests[i], strlen(requests[i]));
        if (!is_closed_within(c, 11 * MINUTE)) {
            print_message("still there: %s\n", requests[i]);
        }
        assert_false(c->open);
        assert_int_equal(client_count(), 0);
    }
}

/* Its backend goes silent in the middle of the reply, and it does not want to hear of that. */
static void test_unread_break(void **state)
{
    struct world_says s = {.n = 0};
    struct fake_fd *c = fake_client("127.0.0.1");

    (void)state;
    s.bytes = world_words('s', &s.n);
    s.n = s.first = 150;
    world_will_say(&s);
    world_ask(c, world_request('s'));
    for (int i = 0; i < 20 && c->from.n == 0; i++) {
        world_turn();
    }
    assert_true(c->from.n > 0);
    c->window = 0;
    assert_true(is_closed_within(c, 21 * MINUTE));
    assert_int_equal(client_busy(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_unread_answers, begin, end),
        cmocka_unit_test_setup_teardown(test_unread_break, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
