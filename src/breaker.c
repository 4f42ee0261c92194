/*
 * breaker.c - level 4: see breaker.h.
 *
 * May include: olla.h, breaker.h.
 */
#include "breaker.h"

/* A share of fewer outcomes than this says nothing. */
#define ENOUGH 8

void breaker_reset(struct breaker *b)
{
    *b = (struct breaker){0};
}

bool breaker_allows(const struct breaker *b, uint64_t now)
{
    return !b->open || (now >= b->until && !b->trial);
}

bool breaker_begin(struct breaker *b, uint64_t now)
{
    b->trial = b->trial || (b->open && now >= b->until);
    return b->open && b->trial;
}

static unsigned failures(const struct breaker *b, unsigned window)
{
    unsigned n = 0;
    for (uint32_t bits = window < 32 ? b->bits & ((UINT32_C(1) << window) - 1) : b->bits; bits; bits &= bits - 1) {
        n++;
    }
    return n;
}

static void open_for(struct breaker *b, const struct breaker_rules *rules, uint64_t length, uint64_t now)
{
    b->open = true;
    b->trial = false;
    b->length = length < rules->max_open_ms ? length : rules->max_open_ms;
    b->until = now + b->length;
}

/* Opens it if the outcomes say so. */
static bool judge(struct breaker *b, const struct breaker_rules *rules, uint64_t now)
{
    unsigned seen = b->filled < rules->window ? b->filled : rules->window;
    unsigned enough = rules->window < ENOUGH ? rules->window : ENOUGH;
    bool row = rules->row > 0 && b->row >= rules->row;
    bool share = seen >= enough && failures(b, rules->window) * 100 >= rules->percent * seen;

    if (row || share) {
        open_for(b, rules, rules->open_ms, now);
    }
    return row || share;
}

static void push(struct breaker *b, bool bad)
{
    b->bits = b->bits << 1 | bad;
    b->filled = b->filled < 32 ? b->filled + 1 : 32;
}

void breaker_next(struct breaker *b)
{
    b->trial = false;
}

bool breaker_end(struct breaker *b, const struct breaker_rules *rules, bool trial, enum outcome outcome, uint64_t now)
{
    if (b->open && trial) {
        b->trial = false;
        if (outcome == OUTCOME_GOOD) {
            breaker_reset(b);
        } else if (outcome == OUTCOME_BAD) {
            open_for(b, rules, b->length * 2, now);
        }
        return outcome != OUTCOME_NONE;
    }
    if (b->open || outcome == OUTCOME_NONE) {
        return false; /* it began before the breaker opened: that is known already */
    }
    push(b, outcome == OUTCOME_BAD);
    b->row = outcome == OUTCOME_BAD ? b->row + 1 : 0;
    return outcome == OUTCOME_BAD && judge(b, rules, now);
}

bool breaker_probe(struct breaker *b, const struct breaker_rules *rules, bool good, uint64_t now)
{
    if (b->open) {
        return false; /* only a request shows that requests work again */
    }
    push(b, !good);
    b->row += !good; /* a good one does not prove that requests work */
    return !good && judge(b, rules, now);
}

const char *breaker_state(const struct breaker *b, uint64_t now)
{
    return !b->open ? "closed" : now < b->until ? "open" : "half_open";
}
