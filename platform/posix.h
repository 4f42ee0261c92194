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

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SIGPIPE is ignored anyway once plat_signals_open has run */
#endif

/* The two names may be one number or two. */
#if EAGAIN == EWOULDBLOCK
#define IS_AGAIN(err) ((err) == EAGAIN)
#else
#define IS_AGAIN(err) ((err) == EAGAIN || (err) == EWOULDBLOCK)
#endif

/* These keep the reason for plat_error() and return OLLA_ERR. */
int plat_fail(void);                   /* errno is the reason */
int plat_fail_with(int err);           /* an errno value is */
int plat_fail_words(const char *text); /* a constant text is; the kind is PLAT_FAIL_OTHER */
int plat_fail_closing(int fd);         /* errno is; closes fd */

/* After a read or write that returned -1: OLLA_AGAIN, or OLLA_ERR as above. */
int plat_again_or_fail(void);

/* Makes fd non-blocking and close-on-exec; on false errno tells why. */
bool plat_set_flags(int fd);

/* Blocks: addresses of a name or literal, each once, in the system's order. Count > 0 or OLLA_ERR. */
int plat_lookup(const char *host, uint16_t port, struct plat_addr *out, int max);

#endif
