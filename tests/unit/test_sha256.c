/*
 * test_sha256.c - SHA-256 against the vectors of FIPS 180-4 and of NIST's validation program.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "../../src/sha256.h"
#include "guard.h"

static const struct {
    const char *text;
    unsigned times;
    const char *hex;
} vectors[] = {
    {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
     1, "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
    {"a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    /* NIST's short messages of one and of four bytes */
    {"\xbd", 1, "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b"},
    {"\xc9\x8c\x8e\x55", 1, "7abc22c0ae5af26ce93dbb94433a0e0b2e119d014f8e7f65bd56c61ccccd9504"},
};

static void check(const unsigned char digest[SHA256_BYTES], const char *hex)
{
    char mem[2 * SHA256_BYTES + 1];
    struct text t = text_in(mem, sizeof(mem));

    sha256_to_hex(digest, &t);
    assert_string_equal(text_z(&t), hex);
}

static void test_vectors(void **state)
{
    unsigned char digest[SHA256_BYTES];

    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(vectors); i++) {
        struct sha256 s;
        size_t n = strlen(vectors[i].text);
        const char *text = guard_copy(vectors[i].text, n);

        sha256_start(&s);
        for (unsigned k = 0; k < vectors[i].times; k++) {
            sha256_feed(&s, text, n);
        }
        sha256_end(&s, digest);
        check(digest, vectors[i].hex);
    }
}

/* Every length around the ends of blocks, cut at every place: the same as in one piece. */
static void test_every_split(void **state)
{
    static char text[200];
    unsigned char whole[SHA256_BYTES], cut[SHA256_BYTES], single[SHA256_BYTES];

    (void)state;
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (char)(i * 7 + 3);
    }
    for (size_t n = 0; n <= sizeof(text); n++) {
        struct sha256 s;
        sha256_of((struct str){text, n}, whole);
        sha256_start(&s);
        for (size_t i = 0; i < n; i++) {
            sha256_feed(&s, text + i, 1);
        }
        sha256_end(&s, single);
        assert_memory_equal(whole, single, SHA256_BYTES);
        for (size_t at = 0; at <= n; at++) {
            sha256_start(&s);
            sha256_feed(&s, text, at);
            sha256_feed(&s, text + at, n - at);
            sha256_end(&s, cut);
            assert_memory_equal(whole, cut, SHA256_BYTES);
        }
    }
}

/* Around the place where the length needs a block of its own; computed with another program. */
static void test_padding(void **state)
{
    static const struct {
        size_t n;
        const char *hex;
    } rows[] = {
        {1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
        {54, "45f316e10b2c99abf374b22bda893cf3300d77263f1e272349ed414680522952"},
        {55, "d5e285683cd4efc02d021a5c62014694958901005d6f71e89e0989fac77e4072"},
        {56, "04c26261370ee7541549d16dee320c723e3fd14671e66a099afe0a377c16888e"},
        {57, "ae14a2563ccf969d99aca69ce6bb74981f734bbf9f655f73b8f06db68cab5217"},
        {63, "75220b47218278e656f2013bb8f0c455a25eaf01e86c64924e9d48d89776d6f2"},
        {64, "7ce100971f64e7001e8fe5a51973ecdfe1ced42befe7ee8d5fd6219506b5393c"},
        {65, "9537c5fdf120482f7d58d25e9ed583f52c02b4e304ea814db1633ad565aed7e9"},
        {119, "000b48d4edf0fa7bee3c6236ecd2785baa5db4eeb8bb54341b029e0d9fa5fb0c"},
        {120, "13f05a0b594787f5ecd315edc96141bd3243203d1b7d4f0836f37308b276ba98"},
        {127, "70156a14adbabf98cff3a71c7084b417abf057a8efd27329ca36b7202c87d81f"},
        {128, "24da1b81d0b16df6428eee73c69fcb2a93c76bc6df706f0c6670fe6bfe800464"},
        {129, "0ec9eb33e74510bcdd1f2ea55206e82f21649c5c2becbf2b433eb475b34c01bd"},
        {183, "b95933e340383f43cfb72bb337fbb80bd93b9f54f5b49f5cd9635d2c62e7f386"},
        {184, "f3936e2eb513e068318995db8ff8a043fe9cbcf079934b8dfd49046c0fca45be"},
        {200, "aa20c23e3201834050679e1d88941b9a6fed0557c9a705cb2c315e2e63fd486d"},
    };
    char text[200];
    unsigned char digest[SHA256_BYTES];

    (void)state;
    memset(text, 'x', sizeof(text));
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        sha256_of((struct str){text, rows[i].n}, digest);
        check(digest, rows[i].hex);
    }
}

static void test_nothing_stays(void **state)
{
    static const struct sha256 empty;
    struct sha256 s;
    unsigned char digest[SHA256_BYTES];

    (void)state;
    sha256_start(&s);
    sha256_feed(&s, "sk-very-secret", 14);
    sha256_end(&s, digest);
    assert_memory_equal(&s, &empty, sizeof(s));
}

static void test_hex(void **state)
{
    static const char hex[] = "BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    unsigned char digest[SHA256_BYTES];
    char bad[2 * SHA256_BYTES];
    static const char others[] = "g/:@`G \xc0"; /* and the NUL behind them */

    (void)state;
    assert_int_equal(sha256_from_hex(STR(hex), digest), OLLA_OK);
    check(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(sha256_from_hex((struct str){hex, 63}, digest), OLLA_ERR);
    assert_int_equal(sha256_from_hex((struct str){hex, 65}, digest), OLLA_ERR);
    assert_int_equal(sha256_from_hex(STR(""), digest), OLLA_ERR);
    for (size_t i = 0; i < sizeof(bad); i++) {
        for (size_t k = 0; k < sizeof(others); k++) {
            memcpy(bad, hex, sizeof(bad));
            bad[i] = others[k];
            assert_int_equal(sha256_from_hex((struct str){bad, sizeof(bad)}, digest), OLLA_ERR);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),       cmocka_unit_test(test_every_split), cmocka_unit_test(test_padding),
        cmocka_unit_test(test_nothing_stays), cmocka_unit_test(test_hex),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
