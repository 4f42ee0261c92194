/*
 * cidr.h - level 2: addresses as 16 bytes, and ranges of them. Pure: no system call, no allocation.
 *
 * An IPv4 address stands as ::ffff:a.b.c.d, so that it is the same however it came.
 *
 * Invariants:
 *  1. A range of IPv6 (fewer than 96 bits, or another beginning) never holds an IPv4 address, and the other way
 *     round: ::/0 is all of IPv6, 0.0.0.0/0 is all of IPv4.
 *  2. Texts are taken in one form only: decimal without leading zeros, no zone, no port.
 *
 * May include: olla.h, str.h.
 */
#ifndef OLLA_CIDR_H
#define OLLA_CIDR_H

#include "str.h"

struct cidr_addr {
    unsigned char b[16];
};

struct cidr {
    struct cidr_addr base; /* bits beyond `bits` do not count */
    uint8_t bits;          /* 0..128; of IPv4 96 and more */
};

/* An IPv4 or IPv6 literal. OLLA_ERR if it is neither. */
int cidr_parse_addr(struct str s, struct cidr_addr *out);
/* ADDRESS/BITS. OLLA_ERR for anything else, a bare address too. */
int cidr_parse(struct str s, struct cidr *out);

bool cidr_is_v4(const struct cidr_addr *a);
bool cidr_has(const struct cidr *range, const struct cidr_addr *a);
/* True if one of n ranges has it. */
bool cidr_any(const struct cidr *list, int n, const struct cidr_addr *a);

#endif
