/*
 * sha256.c - level 2: see sha256.h. Names and steps are those of FIPS 180-4, 6.2.
 *
 * May include: olla.h, str.h, sha256.h.
 */
#include "sha256.h"

#include <string.h>

#define BLOCK 64
/* Where the length of the text stands in the last block. */
#define LENGTH_AT 56

static const uint32_t first_state[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

static uint32_t word_at(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/*
 * Round t + j of FIPS 180-4, 6.2.2. Its a to h stand in another place of v after each, so that none has to move; a
 * macro, because j has to be a constant for that to cost nothing.
 */
#define V(letter, j) v[((letter) - (j)) & 7]
#define ROUND(j)                                                                               \
    (V(7, j) += (rotr(V(4, j), 6) ^ rotr(V(4, j), 11) ^ rotr(V(4, j), 25)) +                   \
                (V(6, j) ^ (V(4, j) & (V(5, j) ^ V(6, j)))) + constants[t + (j)] + w[t + (j)], \
     V(3, j) += V(7, j),                                                                       \
     V(7, j) += (rotr(V(0, j), 2) ^ rotr(V(0, j), 13) ^ rotr(V(0, j), 22)) +                   \
                ((V(0, j) & V(1, j)) | (V(2, j) & (V(0, j) | V(1, j)))))

static void take_block(struct sha256 *s)
{
    uint32_t w[64], v[8];

    for (size_t t = 0; t < 16; t++) {
        w[t] = word_at(s->block + 4 * t);
    }
    for (size_t t = 16; t < 64; t++) {
        uint32_t x = w[t - 15], y = w[t - 2];
        w[t] = (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10) + w[t - 7] + (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + w[t - 16];
    }
    memcpy(v, s->state, sizeof(v));
    for (size_t t = 0; t < 64; t += 8) { /* eight at a time: after them all are in their places again */
        ROUND(0);
        ROUND(1);
        ROUND(2);
        ROUND(3);
        ROUND(4);
        ROUND(5);
        ROUND(6);
        ROUND(7);
    }
    for (size_t i = 0; i < 8; i++) {
        s->state[i] += v[i];
    }
    sha256_forget(w, sizeof(w));
    sha256_forget(v, sizeof(v));
}

void sha256_start(struct sha256 *s)
{
    memset(s, 0, sizeof(*s));
    memcpy(s->state, first_state, sizeof(s->state));
}

void sha256_feed(struct sha256 *s, const void *p, size_t n)
{
    const unsigned char *from = p;

    while (n > 0) {
        size_t at = (size_t)(s->n % BLOCK), part = n < BLOCK - at ? n : BLOCK - at;
        memcpy(s->block + at, from, part);
        s->n += part;
        from += part;
        n -= part;
        if (s->n % BLOCK == 0) {
            take_block(s);
        }
    }
}

void sha256_end(struct sha256 *s, unsigned char digest[SHA256_BYTES])
{
    static const unsigned char padding[BLOCK] = {0x80};
    unsigned char length[8];
    uint64_t bits = s->n * 8;
    size_t at = (size_t)(s->n % BLOCK);

    for (size_t i = 0; i < sizeof(length); i++) {
        length[i] = (unsigned char)(bits >> (56 - 8 * i) & 0xff);
    }
    sha256_feed(s, padding, at < LENGTH_AT ? LENGTH_AT - at : BLOCK + LENGTH_AT - at);
    sha256_feed(s, length, sizeof(length));
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        digest[i] = (unsigned char)(s->state[i / 4] >> (24 - 8 * (i % 4)) & 0xff);
    }
    sha256_forget(s, sizeof(*s));
}

void sha256_of(struct str text, unsigned char digest[SHA256_BYTES])
{
    struct sha256 s;

    sha256_start(&s);
    sha256_feed(&s, text.p, text.n);
    sha256_end(&s, digest);
}

int sha256_from_hex(struct str hex, unsigned char digest[SHA256_BYTES])
{
    if (hex.n != (size_t)2 * SHA256_BYTES) {
        return OLLA_ERR;
    }
    for (size_t i = 0; i < hex.n; i++) {
        int value = str_hex_value(hex.p[i]);
        if (value < 0) {
            return OLLA_ERR;
        }
        digest[i / 2] = (unsigned char)(i % 2 == 0 ? value << 4 : digest[i / 2] | value);
    }
    return OLLA_OK;
}

void sha256_to_hex(const unsigned char digest[SHA256_BYTES], struct text *t)
{
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        text_hex(t, digest[i], 2);
    }
}

void sha256_forget(void *p, size_t n)
{
    volatile unsigned char *to = p;

    while (n-- > 0) {
        *to++ = 0;
    }
}
