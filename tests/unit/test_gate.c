/*
 * test_gate.c - who may come in: every form of bringing a key, what a key is for, how much of it, and reloads.
 *
 * Time is a number that the tests hand in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/gate.h"
#include "fleet.h"

#define ALICE "sk-alice-0123456789"
#define BOB   "sk-bob-0123456789"

/* The texts in force take turns, as the program's do. */
static void apply(const char *text)
{
    static struct conf both[2];
    static unsigned turn;
    struct conf *c = &both[turn++ % 2];

    assert_int_equal(fleet_load(c, text, complain), OLLA_OK);
    conf_now = c;
    gate_apply(c);
}

static enum gate_answer enter(const char *fields, bool upgrade, struct gate_pass *pass)
{
    char head[1024];
    struct http_request req;
    struct http_error err;

    (void)snprintf(head, sizeof(head), "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", fields);
    assert_int_equal(http_parse_request(str_of(head), &req, &err), OLLA_OK);
    memset(pass, 0, sizeof(*pass));
    return gate_enter(&req, upgrade, pass);
}

static struct gate_pass pass_of(const char *secret)
{
    char field[200];
    struct gate_pass pass;

    (void)snprintf(field, sizeof(field), "X-Api-Key: %s\r\n", secret);
    assert_int_equal(enter(field, false, &pass), GATE_OPEN);
    return pass;
}

#define TWO "[key:alice]\nsecret = " ALICE "\n[key:bob]\nsecret = " BOB "\n"

static void test_open_and_closed(void **state)
{
    (void)state;
    apply("");
    assert_false(gate_closed());
    apply(TWO);
    assert_true(gate_closed());
    apply("");
    assert_false(gate_closed());
}

static void test_forms(void **state)
{
    static const struct {
        const char *fields;
        bool upgrade;
        enum gate_answer answer;
        const char *name;
    } rows[] = {
        {"", false, GATE_NO_KEY, ""},
        {"Authorization: Bearer " ALICE "\r\n", false, GATE_OPEN, "alice"},
        {"Authorization: Bearer " BOB "\r\n", false, GATE_OPEN, "bob"},
        {"authorization: bearer " ALICE "\r\n", false, GATE_OPEN, "alice"},
        {"AUTHORIZATION:BEARER \t " ALICE " \r\n", false, GATE_OPEN, "alice"},
        {"Authorization: Bearer\t" ALICE "\r\n", false, GATE_OPEN, "alice"},
        {"Authorization: Bearer" ALICE "\r\n", false, GATE_NO_KEY, ""},
        {"Authorization: " ALICE "\r\n", false, GATE_NO_KEY, ""},
        {"Authorization: Basic " ALICE "\r\n", false, GATE_NO_KEY, ""},
        {"Authorization: Bearer\r\n", false, GATE_NO_KEY, ""},
        {"Authorization: Bearer \r\n", false, GATE_NO_KEY, ""},
        {"Authorization: Bearer " ALICE ", Bearer " BOB "\r\n", false, GATE_WRONG_KEY, ""},
        {"Authorization: Bearer " ALICE "x\r\n", false, GATE_WRONG_KEY, ""},
        {"Authorization: Bearer SK-alice-0123456789\r\n", false, GATE_WRONG_KEY, ""},
        {"Authorization: Bearer sk-alice-012345678\r\n", false, GATE_WRONG_KEY, ""},
        {"x-api-key: " ALICE "\r\n", false, GATE_OPEN, "alice"},
        {"X-API-KEY: " BOB "\r\n", false, GATE_OPEN, "bob"},
        {"X-Api-Key: Bearer " BOB "\r\n", false, GATE_WRONG_KEY, ""},
        {"X-Api-Key:\r\n", false, GATE_NO_KEY, ""},
        {"Api-Key: " BOB "\r\n", false, GATE_NO_KEY, ""},
        {"Cookie: key=" BOB "\r\n", false, GATE_NO_KEY, ""},
        /* the first place that has one counts */
        {"Authorization: Bearer " ALICE "\r\nX-Api-Key: " BOB "\r\n", false, GATE_OPEN, "alice"},
        {"X-Api-Key: " BOB "\r\nAuthorization: Bearer " ALICE "\r\n", false, GATE_OPEN, "alice"},
        {"X-Api-Key: " BOB "\r\nAuthorization: Bearer wrong\r\n", false, GATE_WRONG_KEY, ""},
        {"X-Api-Key: wrong\r\nAuthorization: Bearer " ALICE "\r\n", false, GATE_OPEN, "alice"},
        {"Authorization: Basic eDp5\r\nX-Api-Key: " BOB "\r\n", false, GATE_OPEN, "bob"},
        {"Authorization: Bearer \r\nX-Api-Key: " BOB "\r\n", false, GATE_OPEN, "bob"},
        /* two in one place: who knows which one another reader takes */
        {"Authorization: Bearer " ALICE "\r\nAuthorization: Bearer " BOB "\r\n", false, GATE_SEVERAL_KEYS, ""},
        {"Authorization: Bearer " ALICE "\r\nauthorization: Bearer " ALICE "\r\n", false, GATE_SEVERAL_KEYS, ""},
        {"Authorization: Basic eDp5\r\nAuthorization: Bearer " ALICE "\r\n", false, GATE_SEVERAL_KEYS, ""},
        {"X-Api-Key: " ALICE "\r\nX-Api-Key: " ALICE "\r\n", false, GATE_SEVERAL_KEYS, ""},
        /* WebSocket */
        {"Sec-WebSocket-Protocol: realtime, olla-api-key." ALICE "\r\n", true, GATE_OPEN, "alice"},
        {"Sec-WebSocket-Protocol: openai-insecure-api-key." BOB ",realtime\r\n", true, GATE_OPEN, "bob"},
        {"Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b,olla-api-key." BOB "\r\n", true, GATE_OPEN, "bob"},
        {"Sec-WebSocket-Protocol: olla-api-key." ALICE "\r\n", false, GATE_NO_KEY, ""},
        {"Sec-WebSocket-Protocol: realtime, " ALICE "\r\n", true, GATE_NO_KEY, ""},
        {"Sec-WebSocket-Protocol: olla-api-key.\r\n", true, GATE_NO_KEY, ""},
        {"Sec-WebSocket-Protocol: olla-api-key.wrong\r\n", true, GATE_WRONG_KEY, ""},
        {"Sec-WebSocket-Protocol: olla-api-key." ALICE ", openai-insecure-api-key." ALICE "\r\n", true,
         GATE_SEVERAL_KEYS, ""},
        {"Sec-WebSocket-Protocol: olla-api-key.wrong\r\nX-Api-Key: " BOB "\r\n", true, GATE_OPEN, "bob"},
    };
    struct gate_pass pass;

    (void)state;
    apply(TWO);
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        enum gate_answer answer = enter(rows[i].fields, rows[i].upgrade, &pass);
        if (answer != rows[i].answer || strcmp(pass.name, rows[i].name) != 0) {
            print_error("%s: %d %s\n", rows[i].fields, (int)answer, pass.name);
        }
        assert_int_equal(answer, rows[i].answer);
        assert_string_equal(pass.name, rows[i].name);
        assert_int_equal(pass.key > 0, answer == GATE_OPEN);
    }
}

/* Each of a full table is found, and nothing that differs in one byte. */
static void test_full_table(void **state)
{
    static char text[OLLA_MAX_KEYS * 64];
    char field[64];
    struct gate_pass pass;

    (void)state;
    text[0] = '\0';
    for (int i = 0; i < OLLA_MAX_KEYS; i++) {
        (void)snprintf(text + strlen(text), 64, "[key:k%d]\nsecret = secret-number-%03d\n", i, i);
    }
    apply(text);
    for (int i = 0; i < OLLA_MAX_KEYS; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "k%d", i);
        (void)snprintf(field, sizeof(field), "X-Api-Key: secret-number-%03d\r\n", i);
        assert_int_equal(enter(field, false, &pass), GATE_OPEN);
        assert_string_equal(pass.name, name);
        for (size_t at = strlen("X-Api-Key: "); field[at] != '\r'; at++) {
            field[at] ^= 0x40;
            if (field[at] > ' ' && field[at] < 0x7f) {
                assert_int_equal(enter(field, false, &pass), GATE_WRONG_KEY);
            }
            field[at] ^= 0x40;
        }
    }
}

static void test_models(void **state)
{
    static const struct {
        const char *models, *name;
        bool allowed;
    } rows[] = {
        {"", "anything", true},
        {"", "", true},
        {"llama*", "llama3.2:3b", true},
        {"llama*", "LLAMA3.2:3b", true},
        {"llama*", "qwen", false},
        {"llama*", "", false},
        {"*", "qwen", true},
        {"*", "", false},
        {"fast, *coder*", "fast", true},
        {"fast, *coder*", "qwen2.5-coder:7b", true},
        {"fast, *coder*", "faster", false},
    };
    char text[200];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        (void)snprintf(text, sizeof(text), "[key:alice]\nsecret = " ALICE "\nmodels = %s\n", rows[i].models);
        apply(text);
        struct gate_pass pass = pass_of(ALICE), none = {0};
        assert_int_equal(gate_allows(&pass, str_of(rows[i].name)), rows[i].allowed);
        assert_int_equal(gate_narrow(&pass), rows[i].models[0] != '\0');
        assert_int_equal(gate_mark(&pass) != 0, rows[i].models[0] != '\0');
        assert_true(gate_allows(&none, str_of(rows[i].name)));
        assert_false(gate_narrow(&none));
    }
}

static void test_class(void **state)
{
    static const struct {
        const char *class_, *word;
        enum conf_class result;
    } rows[] = {
        {"high", "", CLASS_HIGH},         {"high", "normal", CLASS_NORMAL}, {"high", "LOW", CLASS_LOW},
        {"high", "HIGH", CLASS_HIGH},     {"high", "urgent!", CLASS_HIGH},  {"normal", "", CLASS_NORMAL},
        {"normal", "high", CLASS_NORMAL}, {"normal", "low", CLASS_LOW},     {"low", "", CLASS_LOW},
        {"low", "high", CLASS_LOW},       {"low", "normal", CLASS_LOW},
    };
    struct gate_pass none = {0};
    char text[200];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        (void)snprintf(text, sizeof(text), "[key:alice]\nsecret = " ALICE "\nclass = %s\n", rows[i].class_);
        apply(text);
        struct gate_pass pass = pass_of(ALICE);
        assert_int_equal(gate_class(&pass, str_of(rows[i].word)), rows[i].result);
    }
    assert_int_equal(gate_class(&none, STR("")), CLASS_NORMAL);
    assert_int_equal(gate_class(&none, STR("High")), CLASS_HIGH);
    assert_int_equal(gate_class(&none, STR("low")), CLASS_LOW);
    assert_int_equal(gate_class(&none, STR("what")), CLASS_NORMAL);
}

/* ---- how much ---- */

#define LIMITED(n) "[key:alice]\nsecret = " ALICE "\nrequests_per_minute = " n "\n"

static unsigned take_all(const struct gate_pass *pass, uint64_t now, uint64_t *wait)
{
    unsigned n = 0;
    while (n < 100000 && gate_take(pass, now, wait)) {
        n++;
    }
    return n;
}

static void test_rate(void **state)
{
    uint64_t wait, now = 1000000;

    (void)state;
    apply("[key:bob]\nsecret = " BOB "\n" LIMITED("6"));
    struct gate_pass pass = pass_of(ALICE), free_ = pass_of(BOB), none = {0};
    assert_int_equal(take_all(&pass, now, &wait), 6);
    assert_int_equal(wait, 10000);
    assert_false(gate_take(&pass, now + 1, &wait));
    assert_int_equal(wait, 9999);
    assert_false(gate_take(&pass, now + 9999, &wait));
    assert_int_equal(wait, 1);
    assert_true(gate_take(&pass, now + 10000, &wait));
    assert_int_equal(wait, 0);
    assert_false(gate_take(&pass, now + 10000, &wait));
    assert_int_equal(take_all(&pass, now + 10000 + 25000, &wait), 2);
    assert_int_equal(wait, 5000);
    assert_int_equal(take_all(&pass, now + 10000000, &wait), 6); /* never more than one minute's */
    assert_int_equal(take_all(&free_, now, &wait), 100000);
    assert_int_equal(take_all(&none, now, &wait), 100000);
}

/* Asking all the time is no disadvantage: in an hour exactly the burst and what came since. */
static void test_rate_over_time(void **state)
{
    static const unsigned rates[] = {1, 7, 60, 1000};
    char text[200];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rates); i++) {
        unsigned got = 0;
        uint64_t wait;
        (void)snprintf(text, sizeof(text), "[key:r%u]\nsecret = rate-secret-%u\nrequests_per_minute = %u\n", rates[i],
                       rates[i], rates[i]);
        apply(text);
        (void)snprintf(text, sizeof(text), "rate-secret-%u", rates[i]);
        struct gate_pass pass = pass_of(text);
        for (uint64_t now = 5000; now <= 5000 + 3600000; now += 3) {
            got += gate_take(&pass, now, &wait);
        }
        assert_int_equal(got, rates[i] * 61);
    }
}

/* ---- reload ---- */

static void test_reload(void **state)
{
    uint64_t wait, now = 77000;

    (void)state;
    apply(LIMITED("4"));
    struct gate_pass pass = pass_of(ALICE);
    assert_int_equal(take_all(&pass, now, &wait), 4);

    /* The same secret below another name and in another place: the same key, with what it has used. */
    apply("[key:bob]\nsecret = " BOB "\n[key:alicia]\nsecret = " ALICE "\nrequests_per_minute = 4\nmodels = a*\n");
    struct gate_pass again = pass_of(ALICE);
    assert_int_equal(again.key, pass.key);
    assert_string_equal(again.name, "alicia");
    assert_string_equal(pass.name, "alice");
    assert_int_equal(take_all(&pass, now, &wait), 0);
    assert_false(gate_allows(&pass, STR("b")));
    assert_true(gate_allows(&pass, STR("a1")));
    assert_int_not_equal(pass_of(BOB).key, pass.key);

    /* Gone: nothing more is allowed, and it is not mistaken for another one. */
    apply("[key:bob]\nsecret = " BOB "\n");
    assert_true(gate_narrow(&again) && !gate_allows(&again, STR("a1")));
    assert_true(!gate_narrow(&pass) && gate_allows(&pass, STR("b"))); /* what came in for all models goes on */
    assert_true(gate_take(&pass, now, &wait));

    /* Back: another key. */
    apply(LIMITED("2"));
    again = pass_of(ALICE);
    assert_int_not_equal(again.key, pass.key);
    assert_int_equal(take_all(&again, now, &wait), 2);
    apply(LIMITED("1"));
    assert_int_equal(take_all(&again, now + 600000, &wait), 1); /* a lower limit counts at once */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_and_closed), cmocka_unit_test(test_forms),  cmocka_unit_test(test_full_table),
        cmocka_unit_test(test_models),          cmocka_unit_test(test_class),  cmocka_unit_test(test_rate),
        cmocka_unit_test(test_rate_over_time),  cmocka_unit_test(test_reload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
