/*
 * tls.h - level 1: the contract with the TLS library.
 *
 * A struct tls is an engine over one connected, non-blocking descriptor: it
 * reads and writes there by itself, never waits, and says what it waits for
 * (tls_wants), which need not be what its user is doing: a read may wait for
 * room to write. net.c is the only user of the functions on connections.
 *
 * Invariants:
 *  1. Engines come from two pools, TLS_IN for clients and TLS_OUT for
 *     backends, so that clients cannot use up what backends need. Their record
 *     buffers are allocated by the library when one is first used, and stay.
 *  2. TLS 1.2 at least. What olla connects to is verified unless its endpoint
 *     is marked insecure by name.
 *  3. An end without close_notify is an error, never an end (RFC 8446, 6.1).
 *  4. The library allocates memory during handshakes; olla itself does not.
 *
 * tls_none.c is the build without TLS: tls_library() is NULL there, the checks
 * refuse every configuration that needs it, and nothing else is ever called.
 *
 * May include: olla.h.
 */
#ifndef OLLA_TLS_H
#define OLLA_TLS_H

#include <sys/uio.h>

#include "../olla.h"

struct tls;

/* Name and version of the library, or NULL: this build has none. */
const char *tls_library(void);
/* Bytes of one engine without what the library allocates, and of all that is fixed; for the memory plan. */
size_t tls_cost(void);
size_t tls_peer_cost(void);

void tls_init(void); /* binds the pools */

/*
 * Why the last call here failed that returned OLLA_ERR (or NULL): static text. Of handshakes it is what an endpoint
 * does: "has a certificate that ...".
 */
const char *tls_why(void);

/* ---- clients ------------------------------------------------------------ */

/* Start-up and reload only (all of these read files): could these be served? OLLA_OK or OLLA_ERR. */
int tls_check_certificate(const char *cert_file, const char *key_file);

/* New connections get this certificate chain from now on; running ones keep theirs. Unchanged files change nothing. */
int tls_serve(const char *cert_file, const char *key_file);

/* An engine for an accepted connection; the caller keeps the descriptor. NULL: none is free. */
struct tls *tls_accept(int fd);
bool tls_can_accept(void);

/* ---- backends ----------------------------------------------------------- */

/* One for each host that an endpoint has. */
#define TLS_PEERS (3 * OLLA_MAX_ENDPOINTS)

/* ca_file "" = the system's. */
int tls_check_trust(const char *ca_file);

/*
 * Whom connections to that peer (0 .. TLS_PEERS - 1) trust: the authorities in ca_file ("" = the system's), if the
 * certificate is for that name, a host name or an address; insecure = anybody. When the files cannot be read, no
 * connection to it can be had.
 */
void tls_peer_set(unsigned peer, const char *ca_file, const char *name, bool insecure);
void tls_peer_drop(unsigned peer);

/* An engine for a connection that is being made. NULL: none is free, or the peer cannot be verified (tls_why). */
struct tls *tls_connect(unsigned peer, int fd);
bool tls_can_connect(void);

/* ---- connections -------------------------------------------------------- */

/*
 * One step of the handshake, which may take some ms of computing: 1 = there is more to do at once, OLLA_OK = it is
 * over, OLLA_AGAIN, OLLA_ERR.
 */
int tls_shake(struct tls *t);

/* count > 0, OLLA_AGAIN, OLLA_EOF (the peer said so), OLLA_ERR. */
long tls_read(struct tls *t, void *p, size_t n);

/* Bytes that came already: poll() would not tell of them. */
bool tls_pending(const struct tls *t);

/*
 * count > 0, OLLA_AGAIN, OLLA_ERR (what has come can still be read). After OLLA_AGAIN the same bytes have to be
 * offered again; more may follow them.
 * There must be at least one byte.
 */
long tls_write(struct tls *t, const struct iovec *v, int count);

/* POLLIN or POLLOUT: what the last tls_shake or tls_read (or tls_write, if writing) that returned OLLA_AGAIN waits for. */
short tls_wants(const struct tls *t, bool writing);

/* Tells the peer that nothing more comes, if that is possible at once. */
void tls_end(struct tls *t);

/* The engine is free again. The descriptor is left alone. */
void tls_free(struct tls *t);

#endif
