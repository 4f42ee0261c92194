/*
 * sha256.h - level 2: SHA-256 (FIPS 180-4), and forgetting what must not stay in memory.
 *
 * Invariants: the result does not depend on how the text is cut; nothing of it is left in struct sha256 after
 * sha256_end; no branch and no index depends on the bytes.
 *
 * May include: olla.h, str.h.
 */
#ifndef OLLA_SHA256_H
#define OLLA_SHA256_H

#include "str.h"

#define SHA256_BYTES 32

struct sha256 {
    uint32_t state[8];
    uint64_t n; /* bytes fed */
    unsigned char block[64];
};

void sha256_start(struct sha256 *s);
void sha256_feed(struct sha256 *s, const void *p, size_t n);
void sha256_end(struct sha256 *s, unsigned char digest[SHA256_BYTES]);

/* All at once. */
void sha256_of(struct str text, unsigned char digest[SHA256_BYTES]);

/* 64 hex digits of any case. OLLA_OK or OLLA_ERR. */
int sha256_from_hex(struct str hex, unsigned char digest[SHA256_BYTES]);
void sha256_to_hex(const unsigned char digest[SHA256_BYTES], struct text *t);

/* Overwrites memory that is not used any more: a plain memset may be left out by the compiler. */
void sha256_forget(void *p, size_t n);

#endif
