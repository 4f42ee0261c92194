/*
 * test_state_file.c - wake.state_file: what was written is read, and nothing that is in its place
 * can do harm, wherever it was cut and whatever its bytes are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "../../src/net.h"
#include "../../src/state_file.h"
#include "fleet.h"

#define FILE_NAME "/tmp/olla-state-test"
#define MAC_A     "02:00:00:00:00:0a"
#define MAC_B     "02:00:00:00:00:0b"
#define HEAD      "olla machines 1\n"

static const char config[] = "[wake]\nstate_file = " FILE_NAME "\n"
                             "[endpoint:big box]\nurl = http://a\ntype = ollama\nwake.mac = " MAC_A "\n"
                             "[endpoint:b]\nurl = http://b\nwake.mac = " MAC_B "\nmodel_filter.exclude = *secret*\n"
                             "[endpoint:plain]\nurl = http://c\ntype = ollama\n";

static struct endpoint *a, *b, *plain;

static int setup(void **state)
{
    (void)state;
    net_tick();
    if (fleet_start(config, 3) != 0) {
        return -1;
    }
    a = endpoint_at(0);
    b = endpoint_at(1);
    plain = endpoint_at(2);
    return 0;
}

static int forget(void **state)
{
    (void)state;
    model_forget(a);
    model_forget(b);
    model_forget(plain);
    unlink(FILE_NAME);
    unlink(FILE_NAME ".tmp");
    return 0;
}

static void put(const char *bytes, size_t n)
{
    FILE *f = fopen(FILE_NAME, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static size_t get(char *to, size_t cap)
{
    FILE *f = fopen(FILE_NAME, "rb");
    assert_non_null(f);
    size_t n = fread(to, 1, cap, f);
    fclose(f);
    return n;
}

static void read_text(const char *text)
{
    put(text, strlen(text));
    state_file_read();
}

static bool has(const struct endpoint *e, const char *model)
{
    endpoint_set known;
    return model_find(str_of(model), endpoint_bit(e), &known) != 0;
}

static void test_written_and_read(void **state)
{
    char text[1024];
    struct stat st;

    (void)state;
    fleet_list(a, "llama3:8b Qwen|sha256:1 shared");
    fleet_list(b, "shared other");
    fleet_list(plain, "never");
    state_file_flush();
    text[get(text, sizeof(text) - 1)] = '\0';
    assert_string_equal(text, HEAD "big box\t" MAC_A "\tollama\tllama3:8b\nbig box\t" MAC_A "\tollama\tQwen\n"
                                   "big box\t" MAC_A "\tollama\tshared\n"
                                   "b\t" MAC_B "\tauto\tother\nb\t" MAC_B "\tauto\tshared\n");
    assert_int_equal(stat(FILE_NAME, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_not_equal(access(FILE_NAME ".tmp", F_OK), 0);
    model_forget(a);
    model_forget(b);
    model_forget(plain);
    state_file_read();
    assert_true(has(a, "llama3:8b") && has(a, "Qwen") && has(a, "shared") && has(b, "shared") && has(b, "other"));
    assert_false(has(a, "other") || has(plain, "never"));
    assert_int_equal(a->models, 3);
    assert_int_equal(b->models, 2);
    assert_int_equal(model_count(), 4);
}

/* Its lines that are whole count, and no other. */
static void test_cut_at_any_byte(void **state)
{
    static const char *const models[] = {"llama3:8b", "m", "shared", "other"};
    static const char text[] = HEAD "big box\t" MAC_A "\tollama\tllama3:8b\nbig box\t" MAC_A "\tollama\tm\n"
                                    "big box\t" MAC_A "\tollama\tshared\nb\t" MAC_B "\tauto\tother\n";

    (void)state;
    for (size_t cut = 0; cut < sizeof(text); cut++) {
        unsigned whole = 0;
        for (size_t i = sizeof(HEAD) - 1; i < cut; i++) {
            whole += text[i] == '\n';
        }
        put(text, cut);
        state_file_read();
        assert_int_equal(model_count(), whole);
        for (unsigned i = 0; i < OLLA_COUNT(models); i++) {
            assert_int_equal(has(i < 3 ? a : b, models[i]), i < whole);
        }
        model_forget(a);
        model_forget(b);
    }
}

static void test_lines_that_are_not_well(void **state)
{
    char text[8192] = HEAD;

    (void)state;
    strcat(text, "big box\t" MAC_A "\tollama\tgood1\n\n\t\t\t\nbig box\t" MAC_A "\tollama\n");
    strcat(text, "big box\t" MAC_A "\tollama\tone\tmore\nbig box\t" MAC_B "\tollama\tother-machine\n");
    strcat(text, "nobody\t" MAC_A "\tollama\tm1\nplain\t" MAC_A "\tollama\tm2\nplain\t00:00:00:00:00:00\tollama\tm3\n");
    strcat(text,
           "big box\t" MAC_A "\tollama\t blank\nbig box\t" MAC_A "\tollama\tbe\001ll\nb\t" MAC_B "\tx\tmy-secret-1\n");
    strcat(text, "big box\t" MAC_A "\tollama\t");
    memset(text + strlen(text), 'x', OLLA_MODEL_NAME);
    strcat(text, "\n");
    strcat(text, "big box\t" MAC_A "\tollama\t");
    memset(text + strlen(text), 'y', 5000);
    strcat(text, "\nb\t02:00:00:00:00:0B\tno-such-type\tgood2\n");
    read_text(text);
    assert_int_equal(model_count(), 2);
    assert_true(has(a, "good1") && has(b, "good2"));
}

static void test_something_else_in_its_place(void **state)
{
    (void)state;
    read_text("[server]\nport = 1\n");
    read_text("big box\t" MAC_A "\tollama\tm\n");
    read_text("\n" HEAD "big box\t" MAC_A "\tollama\tm\n");
    read_text("olla machines 2\nbig box\t" MAC_A "\tollama\tm\n");
    unlink(FILE_NAME);
    state_file_read();
    assert_int_equal(mkdir(FILE_NAME, 0700), 0);
    state_file_read();
    fleet_list(a, "x");
    state_file_flush(); /* cannot be written: no harm */
    assert_int_equal(rmdir(FILE_NAME), 0);
    assert_int_equal(mkfifo(FILE_NAME, 0600), 0);
    model_forget(a);
    state_file_read(); /* and does not wait */
    assert_int_equal(model_count(), 0);
}

static void test_any_bytes(void **state)
{
    static const char good[] = HEAD "big box\t" MAC_A "\tollama\tllama3:8b\nb\t" MAC_B "\tauto\tother\n";
    char text[sizeof(good) + 64];

    (void)state;
    for (int round = 0; round < 3000; round++) {
        size_t n = sizeof(good) - 1;
        memcpy(text, good, n);
        for (uint32_t i = 0, times = 1 + chance(6); i < times; i++) {
            text[sizeof(HEAD) - 1 + chance((uint32_t)(n - sizeof(HEAD) + 1))] = (char)chance(256);
        }
        put(text, n);
        state_file_read();
        assert_true(model_count() <= 2);
        for (size_t i = 0; i < model_count(); i++) {
            for (const char *c = model_at(i)->facts.name; *c; c++) {
                assert_true((unsigned char)*c >= ' ' && *c != 0x7f);
            }
        }
        model_forget(a);
        model_forget(b);
    }
}

static void test_a_large_one(void **state)
{
    static char text[2 * 1024 * 1024];
    size_t n = (size_t)snprintf(text, sizeof(text), HEAD);

    (void)state;
    for (unsigned i = 0; n + 100 < sizeof(text); i++) {
        n += (size_t)snprintf(text + n, sizeof(text) - n, "big box\t" MAC_A "\tollama\tmodel-%u\n", i);
    }
    put(text, n);
    state_file_read();
    assert_int_equal(model_count(), OLLA_MAX_MODELS);
    assert_int_equal(a->models, OLLA_MAX_MODELS);
    state_file_flush();
    model_forget(a);
    state_file_read();
    assert_int_equal(model_count(), OLLA_MAX_MODELS);
}

/* What has not changed is not written. */
static void test_it_is_written_rarely(void **state)
{
    struct stat before, after;

    (void)state;
    fleet_list(a, "m");
    state_file_flush();
    state_file_read();
    assert_int_equal(stat(FILE_NAME, &before), 0);
    fleet_list(a, "m"); /* the same list once more */
    state_file_flush();
    assert_int_equal(stat(FILE_NAME, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    state_file_read();
    fleet_list(a, "m n");
    state_file_flush();
    assert_int_equal(stat(FILE_NAME, &after), 0);
    assert_int_not_equal(before.st_ino, after.st_ino);
}

/* A type that was found out is known again, and found out anew when the machine is up. */
static void test_types(void **state)
{
    (void)state;
    read_text(HEAD "b\t" MAC_B "\tollama\tm\n");
    assert_string_equal(b->profile->name, "ollama");
    assert_true(b->redetect && b->is_auto);
    read_text(HEAD "big box\t" MAC_A "\tvllm\tm\n");
    assert_string_equal(a->profile->name, "ollama"); /* what is configured holds */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_written_and_read, forget),
        cmocka_unit_test_teardown(test_cut_at_any_byte, forget),
        cmocka_unit_test_teardown(test_lines_that_are_not_well, forget),
        cmocka_unit_test_teardown(test_something_else_in_its_place, forget),
        cmocka_unit_test_teardown(test_any_bytes, forget),
        cmocka_unit_test_teardown(test_a_large_one, forget),
        cmocka_unit_test_teardown(test_it_is_written_rarely, forget),
        cmocka_unit_test_teardown(test_types, forget),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
