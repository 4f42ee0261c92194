/*
 * queue.c - level 6: see queue.h.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, queue.h.
 */
#include "queue.h"

#include <string.h>

#include "log.h"

/* So long a wait lifts a request by one class. */
#define AGE_MS 15000
/* Without news they are looked at this often. */
#define LOOK_MS 200

struct queue_stats queue_stats;

static struct exchange *line[OLLA_MAX_CLIENTS]; /* in the order of coming */
static uint32_t seen_news;
static bool dirty;
static uint64_t look_at; /* limits and open times end by themselves, and ages change the order */

bool queue_enter(struct exchange *x, endpoint_set full)
{
    x->queue.wanted = full;
    x->queue.turn = false;
    if (x->queue.in_line) {
        return true;
    }
    if (queue_stats.waiting >= (unsigned)conf_now->proxy.queue.max_waiting) {
        static struct log_limit hit;
        queue_stats.refused++;
        log_limit(&hit, net_now(), "the waiting line is full, requests are answered with 429",
                  "proxy.queue.max_waiting", (uint64_t)conf_now->proxy.queue.max_waiting);
        return false;
    }
    x->queue.in_line = true;
    x->queue.since = net_now();
    x->queue.class_ = (uint8_t)gate_class(&x->key, http_request_get(&x->req, HTTP_X_OLLA_PRIORITY));
    line[queue_stats.waiting++] = x;
    queue_stats.max = queue_stats.waiting > queue_stats.max ? queue_stats.waiting : queue_stats.max;
    dirty = true;
    return true;
}

void queue_leave(struct exchange *x)
{
    if (!x->queue.in_line) {
        return;
    }
    unsigned at = 0;
    while (line[at] != x) {
        at++;
    }
    memmove(&line[at], &line[at + 1], (queue_stats.waiting - at - 1) * sizeof(line[0]));
    queue_stats.waiting--;
    x->queue.in_line = false;
    if (x->e) {
        queue_stats.served++;
    } else if (x->state == X_DONE) {
        queue_stats.left++;
    }
    dirty = true;
}

bool queue_waits(const struct exchange *x)
{
    return x->queue.in_line && !x->queue.turn;
}

/* Lower goes first; equal ones in the order of coming. */
static unsigned class_now(const struct exchange *x)
{
    uint64_t lifted = (net_now() - x->queue.since) / AGE_MS;
    return lifted >= x->queue.class_ ? 0 : x->queue.class_ - (unsigned)lifted;
}

bool queue_is_wanted(const struct exchange *x, const struct endpoint *e)
{
    for (unsigned i = 0; i < queue_stats.waiting && !x->queue.turn; i++) {
        if (line[i] != x && (line[i]->queue.wanted & endpoint_bit(e))) {
            return true;
        }
    }
    return false;
}

/* The next one of a class, at or behind *at. */
static struct exchange *next_of(unsigned class_, unsigned *at)
{
    while (*at < queue_stats.waiting && class_now(line[*at]) != class_) {
        (*at)++;
    }
    return *at < queue_stats.waiting ? line[*at] : NULL;
}

uint64_t queue_tick(void)
{
    struct exchange *x;

    if (queue_stats.waiting == 0) {
        seen_news = endpoint_news();
        dirty = false;
        return UINT64_MAX;
    }
    if (dirty || seen_news != endpoint_news() || net_now() >= look_at) {
        look_at = net_now() + LOOK_MS;
        seen_news = endpoint_news();
        dirty = false;
        for (unsigned class_ = 0; class_ < 3; class_++) {
            for (unsigned at = 0; (x = next_of(class_, &at)) != NULL;) {
                struct route_query q = attempt_query(x);
                struct route_choice c = route_choose(&q);
                if (c.full && !c.e) {
                    x->queue.wanted = c.full;
                    at++;
                    continue;
                }
                x->queue.turn = true;
                x->c->run(x->c); /* goes on, or is answered; one place less then */
                if (at < queue_stats.waiting && line[at] == x) {
                    at++; /* something else holds it up: a buffer, a connection */
                }
            }
        }
    }
    return dirty || seen_news != endpoint_news() ? net_now() : look_at;
}
