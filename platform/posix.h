/*
 * posix.h - level 2: what the POSIX half of platform.h shares among its own
 * files. Nothing outside this folder includes it.
 *
 * May include: platform.h and system headers.
 */
#ifndef OLLA_POSIX_H
#define OLLA_POSIX_H

#include "platform.h"

#include <errno.h>
#include <sys/socket.h>

/* These keep the reason for plat_error() and return OLLA_ERR. */
int plat_fail(int err);                /* an errno value */
int plat_fail_words(const char *text); /* constant text; the kind is PLAT_FAIL_OTHER */
int plat_fail_closing(int fd);         /* errno; closes fd */

/* After a read or write that returned -1: OLLA_AGAIN, also when it was interrupted, or OLLA_ERR as above. */
int plat_again_or_fail(void);

/* Makes fd non-blocking and close-on-exec; on false errno tells why. */
bool plat_set_flags(int fd);

/* Blocks: addresses of a name or literal, each once, in the system's order. Count > 0 or OLLA_ERR. */
int plat_lookup(const char *host, uint16_t port, struct plat_addr *out, int max);

#endif
