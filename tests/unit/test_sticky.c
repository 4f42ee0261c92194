/*
 * test_sticky.c - which endpoint a conversation went to last, and which one it would go to.
 *
 * Time passes for real: where it matters, the time to live is one second. The counters are never set back, so that
 * only their differences are looked at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "../../src/net.h"
#include "../../src/sticky.h"
#include "fleet.h"

enum { FLEET = 4, MAX = 50 };

#define E(i)   endpoint_at(i)
#define BIT(i) endpoint_bit(endpoint_at(i))

#define ONE(name, port) "[endpoint:" name "]\nurl = http://127.0.0.1:" port "\ntype = ollama\n"
#define ALL             ONE("a", "1") ONE("b", "2") ONE("c", "3") ONE("d", "4")
#define RULES(ttl, max) "[proxy]\nsticky_sessions.idle_ttl_seconds = " ttl "\nsticky_sessions.max_sessions = " max "\n"

static int setup(void **state)
{
    (void)state;
    net_tick();
    sticky_init();
    return fleet_start(RULES("600", "50") ALL, FLEET);
}

#define WORD_(x) #x
#define WORD(x)  WORD_(x)

/* Keys that no other test uses. */
static uint64_t next_key = 1;

static uint64_t new_key(void)
{
    return next_key++;
}

/* Puts the rules in force. */
static void apply(const char *text)
{
    assert_int_equal(fleet_apply(text), OLLA_OK);
    for (int slot = 0; slot < OLLA_MAX_ENDPOINTS; slot++) {
        struct endpoint *e = endpoint_slot(slot);
        if (e) {
            endpoint_release(e); /* as the program does after a reload */
        }
    }
}

/* An empty table. */
static int fresh(void **state)
{
    (void)state;
    apply(RULES("600", "1") ALL);
    sticky_pin(new_key(), E(0)); /* drives out all others */
    apply(RULES("600", "50") ALL);
    return sticky_stats()->active == 1 ? 0 : -1;
}

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    (void)nanosleep(&t, NULL);
    net_tick();
}

/* Where the pin leads, without touching it: 'a'..., '0' for nowhere, '-' without a pin. */
static char peek(uint64_t key)
{
    bool had = chance(2);
    struct endpoint *e = sticky_peek(key, &had);
    assert_true(had || !e);
    return !had ? '-' : e ? e->name[0] : '0';
}

static char find(uint64_t key)
{
    char before = peek(key);
    bool had = chance(2);
    struct endpoint *e = sticky_find(key, &had);
    assert_true(had || !e);
    char c = !had ? '-' : e ? e->name[0] : '0';
    assert_int_equal(c, before);
    return c;
}

/* ---- pins ------------------------------------------------------------------------------- */

static void test_words(void **state)
{
    (void)state;
    assert_string_equal(sticky_word(STICKY_OFF), "");
    assert_string_equal(sticky_word(STICKY_DISABLED), "disabled");
    assert_string_equal(sticky_word(STICKY_HIT), "hit");
    assert_string_equal(sticky_word(STICKY_MISS), "miss");
    assert_string_equal(sticky_word(STICKY_REPIN), "repin");
}

static void test_pins(void **state)
{
    uint64_t key = new_key();
    (void)state;
    assert_int_equal(find(key), '-');
    assert_int_equal(find(key), '-'); /* looking pins nothing */
    sticky_pin(key, E(1));
    assert_int_equal(find(key), 'b');
    sticky_pin(key, E(3));
    assert_int_equal(find(key), 'd');
    assert_int_equal(find(key + 1), '-');
    sticky_pin(UINT64_MAX, E(0));
    sticky_pin(UINT64_MAX - (2 * OLLA_MAX_SESSIONS + 1), E(2)); /* close by in a table of that size */
    assert_int_equal(find(UINT64_MAX), 'a');
    assert_int_equal(find(UINT64_MAX - (2 * OLLA_MAX_SESSIONS + 1)), 'c');
}

static void test_least_recently_used(void **state)
{
    uint64_t first = next_key;
    (void)state;

    for (int i = 0; i < MAX; i++) {
        sticky_pin(new_key(), E(i % FLEET));
    }
    assert_int_equal(sticky_stats()->active, MAX);
    assert_int_equal(find(first), 'a');     /* used now */
    assert_int_equal(peek(first + 1), 'b'); /* only looked at */
    sticky_pin(first + 2, E(0));            /* used, and elsewhere */
    sticky_pin(new_key(), E(0));
    sticky_pin(new_key(), E(0));
    sticky_pin(new_key(), E(0));
    assert_int_equal(peek(first), 'a');
    assert_int_equal(peek(first + 1), '-');
    assert_int_equal(peek(first + 2), 'a');
    assert_int_equal(peek(first + 3), '-');
    assert_int_equal(peek(first + 4), '-');
    assert_int_equal(peek(first + 5), 'b');
    assert_int_equal(sticky_stats()->active, MAX);
}

/* A reload that makes the table smaller takes effect with the next pin. */
static void test_smaller(void **state)
{
    uint64_t first = next_key;
    (void)state;
    for (int i = 0; i < MAX; i++) {
        sticky_pin(new_key(), E(0));
    }
    apply(RULES("600", "3") ALL);
    sticky_pin(new_key(), E(1));
    assert_int_equal(sticky_stats()->active, 3);
    assert_int_equal(peek(first + MAX - 3), '-');
    assert_int_equal(peek(first + MAX - 2), 'a');
    assert_int_equal(peek(first + MAX - 1), 'a');
    assert_int_equal(peek(first + MAX), 'b');
    apply(RULES("600", "1") ALL);
    sticky_pin(new_key(), E(2));
    assert_int_equal(sticky_stats()->active, 1);
    assert_int_equal(peek(first + MAX + 1), 'c');
}

/* As many as there is memory for, and more. */
static void test_all_memory(void **state)
{
    uint64_t first = next_key;
    (void)state;
    apply(RULES("0", WORD(OLLA_MAX_SESSIONS)) ALL);
    for (int i = 0; i < 3 * OLLA_MAX_SESSIONS; i++) {
        sticky_pin(new_key(), E(i % FLEET));
    }
    assert_int_equal(sticky_stats()->active, OLLA_MAX_SESSIONS);
    for (int i = 0; i < 3 * OLLA_MAX_SESSIONS; i++) {
        assert_int_equal(find(first + (uint64_t)i), i < 2 * OLLA_MAX_SESSIONS ? '-' : "abcd"[i % FLEET]);
    }
}

/* ---- time -------------------------------------------------------------------------------- */

static void test_time_to_live(void **state)
{
    uint64_t used = new_key(), peeked = new_key(), pinned = new_key(), late = new_key();
    (void)state;

    apply(RULES("1", "50") ALL);
    net_tick();
    sticky_pin(used, E(0));
    sticky_pin(peeked, E(1));
    sticky_pin(pinned, E(2));
    sleep_ms(600);
    assert_int_equal(find(used), 'a');
    assert_int_equal(peek(peeked), 'b'); /* does not make it live longer */
    sticky_pin(pinned, E(2));
    sticky_pin(late, E(3));
    uint64_t evictions = sticky_stats()->evictions;
    assert_int_equal(sticky_stats()->active, 5); /* and that of the setup */
    sleep_ms(600);
    assert_int_equal(sticky_stats()->active, 3);
    assert_int_equal(sticky_stats()->evictions, evictions + 2);
    assert_int_equal(peek(peeked), '-');
    assert_int_equal(find(used), 'a');
    assert_int_equal(peek(pinned), 'c');
    assert_int_equal(peek(late), 'd');
    sleep_ms(600);
    assert_int_equal(sticky_stats()->active, 1);
    assert_int_equal(find(used), 'a');
    apply(RULES("0", "50") ALL); /* never */
    sleep_ms(1100);
    assert_int_equal(find(used), 'a');
    apply(RULES("1", "50") ALL);
    sleep_ms(1100);
    sticky_pin(late, E(0)); /* what is over makes room */
    assert_int_equal(peek(used), '-');
    assert_int_equal(sticky_stats()->active, 1);
}

/* ---- endpoints that change ------------------------------------------------------------------ */

static void test_generations(void **state)
{
    uint64_t key = new_key(), other = new_key();
    (void)state;

    sticky_pin(key, E(1));
    sticky_pin(other, E(2));
    apply(RULES("600", "50") ALL); /* nothing changed */
    assert_int_equal(find(key), 'b');
    apply(RULES("600", "50") ONE("d", "4") ONE("c", "3") ONE("b", "2") "priority = 7\nweight = 3\n" ONE("a", "1"));
    assert_int_equal(find(key), 'b'); /* the same server, elsewhere in the file */
    apply(RULES("600", "50") ONE("a", "1") ONE("b", "22") ONE("c", "3") ONE("d", "4"));
    assert_int_equal(find(key), '0'); /* another server of that name */
    assert_int_equal(find(other), 'c');
    apply(RULES("600", "50") ALL);
    assert_int_equal(find(key), '0'); /* the first one again, but nobody knows what it remembers */
    sticky_pin(key, E(1));
    assert_int_equal(find(key), 'b');
}

static void test_slots(void **state)
{
    uint64_t key = new_key(), new_one = new_key();
    (void)state;

    sticky_pin(key, E(1));
    int slot = E(1)->slot;
    E(1)->inflight = 1; /* a request still runs there */
    apply(RULES("600", "50") ONE("a", "1") ONE("c", "3") ONE("d", "4"));
    assert_non_null(endpoint_slot(slot));
    assert_int_equal(find(key), '0'); /* removed, though it is still there */
    endpoint_slot(slot)->inflight = 0;
    endpoint_release(endpoint_slot(slot));
    assert_null(endpoint_slot(slot));
    assert_int_equal(find(key), '0');
    apply(RULES("600", "50") ONE("a", "1") ONE("n", "9") ONE("c", "3") ONE("d", "4"));
    assert_int_equal(E(1)->slot, slot); /* another one at its place */
    assert_int_equal(find(key), '0');
    sticky_pin(new_one, E(1));
    assert_int_equal(find(new_one), 'n');
    apply(RULES("600", "50") ALL);
    assert_int_equal(find(key), '0');
    assert_int_equal(find(new_one), '0');
}

/* ---- counters ---------------------------------------------------------------------------------- */

static void test_stats(void **state)
{
    static const enum sticky_outcome all[] = {STICKY_OFF, STICKY_DISABLED, STICKY_HIT,  STICKY_MISS,
                                              STICKY_HIT, STICKY_HIT,      STICKY_REPIN};
    struct sticky_stats was = *sticky_stats();
    uint64_t key = new_key();
    const struct sticky_stats *now;
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        sticky_count(all[i]);
    }
    (void)find(key);
    sticky_pin(key, E(0));
    sticky_pin(key, E(1)); /* not another one */
    (void)find(key);
    now = sticky_stats();
    assert_int_equal(now->hits, was.hits + 3);
    assert_int_equal(now->misses, was.misses + 1);
    assert_int_equal(now->insertions, was.insertions + 1);
    assert_int_equal(now->evictions, was.evictions);
    assert_int_equal(now->active, was.active + 1);
    for (int i = 0; i < MAX; i++) {
        sticky_pin(new_key(), E(0));
    }
    now = sticky_stats();
    assert_int_equal(now->insertions, was.insertions + 1 + MAX);
    assert_int_equal(now->evictions, was.evictions + was.active + 1);
    assert_int_equal(now->active, MAX);
}

/* ---- placing ------------------------------------------------------------------------------------ */

enum { KEYS = 20000 };

/* Keys are hashes that are odd, as sessions have them. */
static uint64_t hashed(uint64_t i)
{
    i = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    i = (i ^ i >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    return (i ^ i >> 27) | 1;
}

static void check_shares(bool hash)
{
    unsigned count[FLEET] = {0}, sum = 0;
    for (int i = 0; i < FLEET; i++) {
        sum += E(i)->weight;
    }
    for (uint64_t k = 0; k < KEYS; k++) {
        const struct endpoint *e = sticky_place(hash ? hashed(k) : k + 1, FLEET_ALL);
        count[e->order]++;
    }
    for (int i = 0; i < FLEET; i++) {
        unsigned want = KEYS * E(i)->weight / sum;
        if (count[i] < want - want / 10 || count[i] > want + want / 10) {
            fail_msg("%s of weight %u: %u of %u wanted", E(i)->name, E(i)->weight, count[i], want);
        }
    }
}

static void test_shares(void **state)
{
    static const unsigned weights[][FLEET] = {
        {1, 1, 1, 1}, {3, 1, 1, 1}, {1, 2, 3, 4}, {10, 10, 5, 5}, {1000, 500, 250, 250}};
    (void)state;
    for (size_t w = 0; w < OLLA_COUNT(weights); w++) {
        for (int i = 0; i < FLEET; i++) {
            E(i)->weight = weights[w][i];
        }
        check_shares(true);
        check_shares(false); /* and keys that are numbered */
    }
    for (int i = 0; i < FLEET; i++) {
        E(i)->weight = 1;
    }
}

static void test_place_sets(void **state)
{
    (void)state;
    assert_null(sticky_place(1, 0));
    for (uint64_t k = 1; k < 300; k++) {
        for (int i = 0; i < FLEET; i++) {
            assert_ptr_equal(sticky_place(k, BIT(i)), E(i));
        }
        assert_ptr_equal(sticky_place(k, FLEET_ALL), sticky_place(k, FLEET_ALL));
    }
}

/* Whoever leaves gives away his own; whoever gets heavier only takes. */
static void test_little_moves(void **state)
{
    (void)state;
    for (uint64_t k = 0; k < 5000; k++) {
        struct endpoint *e = sticky_place(hashed(k), FLEET_ALL);
        for (int i = 0; i < FLEET; i++) {
            struct endpoint *without = sticky_place(hashed(k), FLEET_ALL & ~BIT(i));
            assert_true(without && without != E(i));
            assert_true(e == E(i) || without == e);
        }
        E(2)->weight = 2;
        struct endpoint *heavier = sticky_place(hashed(k), FLEET_ALL);
        assert_true(heavier == e || heavier == E(2));
        E(2)->weight = 1;
    }
}

/* All instances choose alike: neither slots nor the order in the file matter. */
static void test_place_by_name(void **state)
{
    static char where[KEYS];
    (void)state;
    for (uint64_t k = 0; k < KEYS; k++) {
        where[k] = sticky_place(hashed(k), FLEET_ALL)->name[0];
    }
    apply(RULES("600", "50") ONE("x", "1"));
    apply(RULES("600", "50") ONE("d", "44") ONE("b", "2") ONE("a", "1") ONE("c", "3"));
    assert_string_equal(E(0)->name, "d");
    for (uint64_t k = 0; k < KEYS; k++) {
        assert_int_equal(sticky_place(hashed(k), FLEET_ALL)->name[0], where[k]);
    }
}

/* ---- against a reference -------------------------------------------------------------------------- */

/* Oldest first. */
static struct {
    uint64_t key;
    int order;
} list[MAX + 1];
static int listed;

static int list_find(uint64_t key)
{
    int i = 0;
    while (i < listed && list[i].key != key) {
        i++;
    }
    return i < listed ? i : -1;
}

static void list_remove(int at)
{
    memmove(&list[at], &list[at + 1], (size_t)(listed - at - 1) * sizeof(list[0]));
    listed--;
}

static void list_add(uint64_t key, int order)
{
    list[listed].key = key;
    list[listed++].order = order;
}

static void random_step(int max, uint64_t base)
{
    uint64_t key = base + chance(90) * (2 * OLLA_MAX_SESSIONS + 1) / (1 + chance(2)); /* many in one chain */
    int at = list_find(key), order = (int)chance(FLEET);

    switch (chance(3)) {
    case 0:
        assert_int_equal(peek(key), at >= 0 ? "abcd"[list[at].order] : '-');
        break;
    case 1:
        assert_int_equal(find(key), at >= 0 ? "abcd"[list[at].order] : '-');
        if (at >= 0) {
            order = list[at].order;
            list_remove(at);
            list_add(key, order);
        }
        break;
    default:
        sticky_pin(key, E(order));
        if (at >= 0) {
            list_remove(at);
        }
        while (at < 0 && listed >= max) {
            list_remove(0);
        }
        list_add(key, order);
        break;
    }
    assert_int_equal(sticky_stats()->active, listed);
}

static void test_random(void **state)
{
    static const char *const rules[] = {RULES("600", "50") ALL, RULES("600", "7") ALL, RULES("0", "49") ALL,
                                        RULES("600", "1") ALL, RULES("600", "20") ALL};
    static const int max[] = {50, 7, 49, 1, 20};
    uint64_t base = UINT64_C(1) << 40;
    (void)state;

    listed = 0;
    list_add(next_key - 1, 0); /* that of fresh */
    for (size_t i = 0; i < 20; i++) {
        apply(rules[i % OLLA_COUNT(rules)]);
        for (int step = 0; step < 2000; step++) {
            random_step(max[i % OLLA_COUNT(rules)], base);
        }
    }
}

#define CASE(f) cmocka_unit_test_setup(f, fresh)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        CASE(test_pins),
        CASE(test_least_recently_used),
        CASE(test_smaller),
        CASE(test_all_memory),
        CASE(test_time_to_live),
        CASE(test_generations),
        CASE(test_slots),
        CASE(test_stats),
        CASE(test_shares),
        CASE(test_place_sets),
        CASE(test_little_moves),
        CASE(test_place_by_name),
        CASE(test_random),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
