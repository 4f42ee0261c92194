/*
 * tls_mbedtls.c - level 2: tls.h with mbedTLS, 2.28 to 3.6.
 *
 * The only file that knows mbedTLS; what differs between its versions stands
 * in the first section. Engines keep the library's context, with its record
 * buffers, over their whole life: a connection resets it (mbedtls_ssl_session_reset),
 * so the big blocks of memory never move. It is set up anew only when
 * the next connection has other settings.
 *
 * Settings that connections use are counted: served certificates and trusts
 * (authorities of backends) go when a reload has replaced them and their last
 * connection has ended.
 *
 * May include: olla.h, platform.h, pool.h, str.h, tls.h.
 */
#include "tls.h"

#include <stdlib.h>
#include <string.h>

#include <mbedtls/version.h>
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
#include <mbedtls/build_info.h>
#else
#include <mbedtls/config.h>
#endif
#include <mbedtls/error.h>
#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/x509_crt.h>
#if defined(MBEDTLS_SSL_TICKET_C) && defined(MBEDTLS_SSL_SESSION_TICKETS)
#include <mbedtls/ssl_ticket.h>
#define WITH_TICKETS 1
#else
#define WITH_TICKETS 0
#endif
#if defined(MBEDTLS_PSA_CRYPTO_C)
#include <psa/crypto.h>
#endif

#include "../src/pool.h"
#include "../src/str.h"
#include "platform.h"

/* Certificates that are served at one time: the present one, and older ones as long as they have connections. */
#define SERVED 4
/* The same for sets of trusted authorities; the configuration has at most half of them. */
#define TRUSTS (2 * OLLA_MAX_TRUSTS)
/* What a read makes of records that hold nothing for the reader, at most so many in a row. */
#define EMPTY_ROUNDS    8
#define TICKET_LIFETIME 86400
/* A result of the two functions below that the library passes on. */
#define BROKEN (-0x0050)

/* ---- what differs between versions -------------------------------------------------- */

static int random_bytes(void *unused, unsigned char *to, size_t n)
{
    (void)unused;
    plat_random(to, n);
    return 0;
}

static bool start_library(void)
{
#if defined(MBEDTLS_PSA_CRYPTO_C) && MBEDTLS_VERSION_NUMBER >= 0x03000000
    return psa_crypto_init() == PSA_SUCCESS; /* again and again is fine */
#else
    return true;
#endif
}

static bool is_over(const mbedtls_ssl_context *ssl)
{
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
    return mbedtls_ssl_is_handshake_over((mbedtls_ssl_context *)(uintptr_t)ssl) == 1;
#else
    return ssl->state == MBEDTLS_SSL_HANDSHAKE_OVER;
#endif
}

static bool is_tls12(const mbedtls_ssl_context *ssl)
{
#if MBEDTLS_VERSION_NUMBER >= 0x03020000
    return mbedtls_ssl_get_version_number(ssl) == MBEDTLS_SSL_VERSION_TLS1_2;
#else
    (void)ssl;
    return true;
#endif
}

static void set_versions(mbedtls_ssl_config *config)
{
#if MBEDTLS_VERSION_NUMBER >= 0x03020000
    mbedtls_ssl_conf_min_tls_version(config, MBEDTLS_SSL_VERSION_TLS1_2);
#else
    mbedtls_ssl_conf_min_version(config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
#if defined(MBEDTLS_SSL_TLS1_3_SIGNAL_NEW_SESSION_TICKETS_ENABLED)
    mbedtls_ssl_conf_tls13_enable_signal_new_session_tickets(config,
                                                             MBEDTLS_SSL_TLS1_3_SIGNAL_NEW_SESSION_TICKETS_ENABLED);
#endif
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_ssl_conf_rng(config, random_bytes, NULL);
#endif
}

static int read_key(mbedtls_pk_context *key, const char *file)
{
#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && MBEDTLS_VERSION_NUMBER < 0x04000000
    return mbedtls_pk_parse_keyfile(key, file, NULL, random_bytes, NULL);
#else
    return mbedtls_pk_parse_keyfile(key, file, NULL);
#endif
}

static int check_pair(const mbedtls_pk_context *cert, const mbedtls_pk_context *key)
{
#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && MBEDTLS_VERSION_NUMBER < 0x04000000
    return mbedtls_pk_check_pair(cert, key, random_bytes, NULL);
#else
    return mbedtls_pk_check_pair(cert, key);
#endif
}

/* The library's own order begins with the slowest. The last are there for certificates. */
static void set_groups(mbedtls_ssl_config *config)
{
#if MBEDTLS_VERSION_NUMBER >= 0x03010000
    static const uint16_t groups[] = {MBEDTLS_SSL_IANA_TLS_GROUP_SECP256R1, MBEDTLS_SSL_IANA_TLS_GROUP_X25519,
                                      MBEDTLS_SSL_IANA_TLS_GROUP_SECP384R1, MBEDTLS_SSL_IANA_TLS_GROUP_SECP521R1,
                                      MBEDTLS_SSL_IANA_TLS_GROUP_NONE};
    mbedtls_ssl_conf_groups(config, groups);
#else
    static const mbedtls_ecp_group_id groups[] = {MBEDTLS_ECP_DP_SECP256R1, MBEDTLS_ECP_DP_CURVE25519,
                                                  MBEDTLS_ECP_DP_SECP384R1, MBEDTLS_ECP_DP_SECP521R1,
                                                  MBEDTLS_ECP_DP_NONE};
    mbedtls_ssl_conf_curves(config, groups);
#endif
}

/* A record that only tells of a session ticket; not an error, and with some versions the end of a call. */
static bool is_ticket(int result)
{
#if defined(MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET)
    return result == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET;
#else
    (void)result;
    return false;
#endif
}

#if defined(MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION)
#define BAD_VERSION MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION
#else
#define BAD_VERSION MBEDTLS_ERR_SSL_BAD_HS_PROTOCOL_VERSION
#endif
#if defined(MBEDTLS_ERR_SSL_BAD_CERTIFICATE)
#define BAD_CERTIFICATE MBEDTLS_ERR_SSL_BAD_CERTIFICATE
#else
#define BAD_CERTIFICATE MBEDTLS_ERR_SSL_BAD_HS_CERTIFICATE
#endif
#if defined(MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE)
#define NO_CIPHER MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE
#else
#define NO_CIPHER MBEDTLS_ERR_SSL_NO_CIPHER_CHOSEN
#endif

/* Forward secrecy and authenticated encryption only; what the library does not have it passes over. */
static const int suites[] = {
#if defined(MBEDTLS_TLS1_3_AES_128_GCM_SHA256)
    MBEDTLS_TLS1_3_AES_128_GCM_SHA256,
    MBEDTLS_TLS1_3_CHACHA20_POLY1305_SHA256,
    MBEDTLS_TLS1_3_AES_256_GCM_SHA384,
#endif
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    MBEDTLS_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    MBEDTLS_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    MBEDTLS_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    0,
};

/* ---- state -------------------------------------------------------------------------- */

/* A certificate with its key. */
static struct served {
    bool loaded;
    unsigned refs; /* connections */
    uint64_t cert_stamp, key_stamp;
    char cert_file[256], key_file[256];
    mbedtls_ssl_config config;
    mbedtls_x509_crt chain;
    mbedtls_pk_context key;
} served[SERVED];
static struct served *present;

/* Authorities that some backends' certificates may be signed by. */
static struct trust {
    bool loaded;
    unsigned refs; /* peers and connections */
    bool insecure;
    uint64_t stamp;
    char ca_file[256];
    mbedtls_ssl_config config;
    mbedtls_x509_crt chain;
} trusts[TRUSTS];

static struct peer {
    struct trust *trust;
    const char *why; /* there is none */
    char name[256];
    bool by_address; /* the name is one: */
    unsigned char address[16];
    size_t address_n;
    bool known; /* session is set */
    mbedtls_ssl_session session;
} peers[TLS_PEERS];

/* The library's part of an engine. */
struct context {
    const mbedtls_ssl_config *of; /* it is set up for; NULL = not set up */
    mbedtls_ssl_context ssl;
};
static struct context contexts_in[OLLA_MAX_TLS_CLIENTS], contexts_out[OLLA_MAX_TLS_UPSTREAMS];

struct tls {
    struct context *context;
    struct served *served; /* of a client, */
    struct peer *peer;     /* or of a backend, with the trust that it had */
    struct trust *trust;
    int fd;
    bool over;   /* the handshake is */
    bool ended;  /* close_notify was sent */
    bool failed; /* of no use any more */
    bool mute;   /* the peer takes nothing more, but what it has sent can be read */
    bool reading;
    short wants_to_read, wants_to_write;
    size_t unsent; /* of a write that has to be offered again */
    size_t left;   /* bytes of records that are made and not yet sent */
};

POOL_STORAGE(TLS_IN, struct tls, pool_in)
POOL_STORAGE(TLS_OUT, struct tls, pool_out)

static const char *why = "";

#if WITH_TICKETS
static mbedtls_ssl_ticket_context tickets;
static bool with_tickets;
#endif

void tls_init(void)
{
    pool_in();
    pool_out();
}

const char *tls_library(void)
{
    return "mbedTLS " MBEDTLS_VERSION_STRING;
}

size_t tls_cost(void)
{
    return sizeof(struct context);
}

size_t tls_peer_cost(void)
{
    return sizeof(struct peer);
}

const char *tls_why(void)
{
    return why;
}

static int fail(const char *text)
{
    why = text;
    return OLLA_ERR;
}

/* ---- settings ----------------------------------------------------------------------- */

static int start_config(mbedtls_ssl_config *config, int side)
{
    static const char *served_protocols[] = {"http/1.1", "http/1.0", NULL}, *wanted_protocols[] = {"http/1.1", NULL};

    mbedtls_ssl_config_init(config);
    if (mbedtls_ssl_config_defaults(config, side, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT) != 0) {
        return fail("the TLS library has no memory");
    }
    set_versions(config);
    set_groups(config);
    mbedtls_ssl_conf_ciphersuites(config, suites);
#if defined(MBEDTLS_SSL_ALPN)
    mbedtls_ssl_conf_alpn_protocols(config, side == MBEDTLS_SSL_IS_SERVER ? served_protocols : wanted_protocols);
#endif
    return OLLA_OK;
}

/* The contexts that stand ready for settings which are about to go. */
static void forget_config(struct context *contexts, size_t n, const mbedtls_ssl_config *config)
{
    for (size_t i = 0; i < n; i++) {
        if (contexts[i].of == config) {
            mbedtls_ssl_free(&contexts[i].ssl);
            contexts[i].of = NULL;
        }
    }
}

static void unload_served(struct served *s)
{
    forget_config(contexts_in, OLLA_COUNT(contexts_in), &s->config);
    mbedtls_ssl_config_free(&s->config);
    mbedtls_x509_crt_free(&s->chain);
    mbedtls_pk_free(&s->key);
    s->loaded = false;
}

static void start_tickets(mbedtls_ssl_config *config)
{
#if WITH_TICKETS
    if (!with_tickets) {
        mbedtls_ssl_ticket_init(&tickets);
        with_tickets = mbedtls_ssl_ticket_setup(&tickets, random_bytes, NULL, MBEDTLS_CIPHER_AES_256_GCM,
                                                TICKET_LIFETIME) == 0;
    }
    if (with_tickets) {
        mbedtls_ssl_conf_session_tickets_cb(config, mbedtls_ssl_ticket_write, mbedtls_ssl_ticket_parse, &tickets);
    }
#else
    (void)config;
#endif
}

static int load_served(struct served *s, const char *cert_file, const char *key_file)
{
    if (strlen(cert_file) >= sizeof(s->cert_file) || strlen(key_file) >= sizeof(s->key_file)) {
        return fail("the name of the file is too long");
    }
    if (mbedtls_x509_crt_parse_file(&s->chain, cert_file) != 0) {
        return fail(plat_readable(cert_file) ? "cert_file holds no certificate in PEM form, or a damaged one"
                                             : "cert_file cannot be read");
    }
    if (read_key(&s->key, key_file) != 0) {
        return fail(plat_readable(key_file)
                        ? "key_file holds no private key in PEM form, or one with a password, which olla cannot use"
                        : "key_file cannot be read");
    }
    if (check_pair(&s->chain.pk, &s->key) != 0) {
        return fail("key_file is not the key of the first certificate in cert_file");
    }
    if (start_config(&s->config, MBEDTLS_SSL_IS_SERVER) != OLLA_OK) {
        return OLLA_ERR;
    }
    if (mbedtls_ssl_conf_own_cert(&s->config, &s->chain, &s->key) != 0) {
        return fail("the TLS library has no memory");
    }
    start_tickets(&s->config);
    (void)str_copy(s->cert_file, sizeof(s->cert_file), str_of(cert_file));
    (void)str_copy(s->key_file, sizeof(s->key_file), str_of(key_file));
    return OLLA_OK;
}

/* The slot that holds these files as they are now, read anew if need be; NULL = why. */
static struct served *get_served(const char *cert_file, const char *key_file)
{
    uint64_t cert_stamp = plat_file_stamp(cert_file), key_stamp = plat_file_stamp(key_file);
    struct served *spare = NULL;

    for (size_t i = 0; i < SERVED; i++) {
        struct served *s = &served[i];
        if (s->loaded && s->cert_stamp == cert_stamp && s->key_stamp == key_stamp &&
            strcmp(s->cert_file, cert_file) == 0 && strcmp(s->key_file, key_file) == 0) {
            return s;
        }
        if (s != present && s->refs == 0) {
            spare = s;
        }
    }
    if (!spare) {
        (void)fail("connections with too many earlier certificates are still open; try again when some have ended");
        return NULL;
    }
    if (!start_library()) {
        (void)fail("the TLS library cannot start");
        return NULL;
    }
    unload_served(spare);
    mbedtls_x509_crt_init(&spare->chain);
    mbedtls_pk_init(&spare->key);
    mbedtls_ssl_config_init(&spare->config);
    if (load_served(spare, cert_file, key_file) != OLLA_OK) {
        unload_served(spare);
        return NULL;
    }
    spare->cert_stamp = cert_stamp;
    spare->key_stamp = key_stamp;
    spare->loaded = true;
    return spare;
}

int tls_check_certificate(const char *cert_file, const char *key_file)
{
    return get_served(cert_file, key_file) ? OLLA_OK : OLLA_ERR;
}

int tls_serve(const char *cert_file, const char *key_file)
{
    struct served *s = get_served(cert_file, key_file);
    if (!s) {
        return OLLA_ERR;
    }
    present = s;
    return OLLA_OK;
}

/* ---- trust ---------------------------------------------------------------------------- */

static const char *system_authorities(void)
{
    static const char *const files[] = {"/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem",
                                        "/etc/pki/tls/certs/ca-bundle.crt", "/usr/local/share/certs/ca-root-nss.crt"};
    const char *own = getenv("SSL_CERT_FILE");
    size_t i = 0;

    if (own && own[0]) {
        return own;
    }
    while (i < OLLA_COUNT(files) - 1 && !plat_readable(files[i])) {
        i++;
    }
    return plat_readable(files[i]) ? files[i] : NULL;
}

static void unload_trust(struct trust *t)
{
    forget_config(contexts_out, OLLA_COUNT(contexts_out), &t->config);
    mbedtls_ssl_config_free(&t->config);
    mbedtls_x509_crt_free(&t->chain);
    t->loaded = false;
}

static int load_trust(struct trust *t, const char *ca_file, bool insecure)
{
    /* In a large bundle there may be some that this library does not know: the others count. */
    if (!insecure && (mbedtls_x509_crt_parse_file(&t->chain, ca_file) < 0 || t->chain.raw.len == 0)) {
        return fail(plat_readable(ca_file) ? "has a tls.ca_file without a certificate in PEM form"
                                           : "has a tls.ca_file that cannot be read");
    }
    if (start_config(&t->config, MBEDTLS_SSL_IS_CLIENT) != OLLA_OK) {
        return OLLA_ERR;
    }
    mbedtls_ssl_conf_authmode(&t->config, insecure ? MBEDTLS_SSL_VERIFY_NONE : MBEDTLS_SSL_VERIFY_REQUIRED);
    if (!insecure) {
        mbedtls_ssl_conf_ca_chain(&t->config, &t->chain, NULL);
    }
    t->insecure = insecure;
    (void)str_copy(t->ca_file, sizeof(t->ca_file), str_of(ca_file));
    return OLLA_OK;
}

/* As get_served. The slot is not yet counted. */
static struct trust *get_trust(const char *ca_file, bool insecure)
{
    const char *file = insecure ? "" : ca_file[0] ? ca_file : system_authorities();
    struct trust *spare = NULL;

    if (!file || strlen(file) >= sizeof(spare->ca_file)) {
        (void)fail(file ? "has a tls.ca_file with too long a name"
                        : "needs authorities, and this system has none: install ca-certificates or set tls.ca_file");
        return NULL;
    }
    uint64_t stamp = insecure ? 0 : plat_file_stamp(file);
    for (size_t i = 0; i < TRUSTS; i++) {
        struct trust *t = &trusts[i];
        if (t->loaded && t->insecure == insecure && t->stamp == stamp && strcmp(t->ca_file, file) == 0) {
            return t;
        }
        /* One that has never been used first: it may just have been checked, to be used soon. */
        if (t->refs == 0 && (!spare || (spare->loaded && !t->loaded))) {
            spare = t;
        }
    }
    if (!spare || !start_library()) {
        (void)fail("would be one more set of authorities (tls.ca_file) than OLLA_MAX_TRUSTS allows");
        return NULL;
    }
    unload_trust(spare);
    mbedtls_x509_crt_init(&spare->chain);
    mbedtls_ssl_config_init(&spare->config);
    if (load_trust(spare, file, insecure) != OLLA_OK) {
        unload_trust(spare);
        return NULL;
    }
    spare->stamp = stamp;
    spare->loaded = true;
    return spare;
}

int tls_check_trust(const char *ca_file)
{
    return get_trust(ca_file, false) ? OLLA_OK : OLLA_ERR;
}

static void forget_session(struct peer *p)
{
    if (p->known) {
        mbedtls_ssl_session_free(&p->session);
        p->known = false;
    }
}

void tls_peer_drop(unsigned peer)
{
    struct peer *p = &peers[peer];

    forget_session(p);
    if (p->trust) {
        p->trust->refs--;
        p->trust = NULL;
    }
}

static void take_name(struct peer *p, const char *name)
{
    struct plat_addr a;

    (void)str_copy(p->name, sizeof(p->name), str_of(name));
    p->by_address = plat_addr_parse(name, 0, &a) == OLLA_OK;
    if (p->by_address) {
        plat_addr_bytes(&a, p->address);
        bool v4 = memchr(name, ':', strlen(name)) == NULL;
        p->address_n = v4 ? 4 : 16;
        if (v4) {
            memmove(p->address, p->address + 12, 4);
        }
    }
}

void tls_peer_set(unsigned peer, const char *ca_file, const char *name, bool insecure)
{
    struct peer *p = &peers[peer];
    struct trust *t = get_trust(ca_file, insecure);

    p->why = t ? NULL : why;
    if (t && t == p->trust && strcmp(p->name, name) == 0) {
        return; /* its session stays good */
    }
    tls_peer_drop(peer);
    take_name(p, name);
    p->trust = t;
    if (t) {
        t->refs++;
    }
}

/* ---- engines ---------------------------------------------------------------------------- */

static int send_bytes(void *engine, const unsigned char *p, size_t n)
{
    struct tls *t = engine;
    bool alert = t->reading && t->left == 0;
    long sent = t->mute ? (long)n : plat_write(t->fd, p, n);

    if (alert && sent != (long)n) {
        return BROKEN; /* the library would take what is left of it for part of the next write */
    }
    if (sent == OLLA_ERR && t->reading) {
        t->mute = true; /* a reader that has to make room first must not fail for that */
        sent = (long)n;
    }
    t->left = n - (sent > 0 ? (size_t)sent : 0);
    return sent > 0 ? (int)sent : sent == OLLA_AGAIN ? MBEDTLS_ERR_SSL_WANT_WRITE : BROKEN;
}

static int receive_bytes(void *engine, unsigned char *p, size_t n)
{
    const struct tls *t = engine;
    long got = plat_read(t->fd, p, n);
    return got > 0 ? (int)got : got == OLLA_AGAIN ? MBEDTLS_ERR_SSL_WANT_READ : got == OLLA_EOF ? 0 : BROKEN;
}

/* Makes the context ready for a connection with those settings. */
static int prepare(struct tls *t, const mbedtls_ssl_config *config)
{
    struct context *c = t->context;

    if (c->of != config) {
        mbedtls_ssl_free(&c->ssl);
        mbedtls_ssl_init(&c->ssl);
        c->of = NULL;
        if (mbedtls_ssl_setup(&c->ssl, config) != 0) {
            mbedtls_ssl_free(&c->ssl);
            return fail("the TLS library has no memory");
        }
        c->of = config;
    }
    mbedtls_ssl_set_bio(&c->ssl, t, send_bytes, receive_bytes, NULL);
    t->wants_to_read = POLLIN;
    t->wants_to_write = POLLOUT;
    return OLLA_OK;
}

bool tls_can_accept(void)
{
    return pool_free_count(POOL_TLS_IN) > 0;
}

struct tls *tls_accept(int fd)
{
    struct tls *t = present ? pool_get(POOL_TLS_IN) : NULL;

    if (!t) {
        return NULL;
    }
    t->fd = fd;
    t->context = &contexts_in[pool_index(POOL_TLS_IN, t)];
    if (prepare(t, &present->config) != OLLA_OK) {
        pool_put(POOL_TLS_IN, t);
        return NULL;
    }
    t->served = present;
    present->refs++;
    return t;
}

bool tls_can_connect(void)
{
    return pool_free_count(POOL_TLS_OUT) > 0;
}

/* Names are compared by the library; for addresses its old versions have no test (RFC 5280, 4.2.1.6: iPAddress). */
static int check_address(void *peer, mbedtls_x509_crt *cert, int depth, uint32_t *flags)
{
    const struct peer *p = peer;
    bool found = false;

    if (depth == 0 && p->by_address) {
        for (const mbedtls_x509_sequence *name = &cert->subject_alt_names; name; name = name->next) {
            found = found || ((name->buf.tag & 0x1f) == 7 && name->buf.len == p->address_n &&
                              memcmp(name->buf.p, p->address, p->address_n) == 0);
        }
        *flags |= found ? 0 : MBEDTLS_X509_BADCERT_CN_MISMATCH;
    }
    return 0;
}

struct tls *tls_connect(unsigned peer, int fd)
{
    struct peer *p = &peers[peer];

    if (!p->trust) {
        (void)fail(p->why ? p->why : "is not set up for TLS");
        return NULL;
    }
    struct tls *t = pool_get(POOL_TLS_OUT);
    if (!t) {
        (void)fail("finds no free TLS engine (OLLA_MAX_TLS_UPSTREAMS)");
        return NULL;
    }
    t->fd = fd;
    t->context = &contexts_out[pool_index(POOL_TLS_OUT, t)];
    mbedtls_ssl_context *ssl = &t->context->ssl;
    /* No server name is sent for an address (RFC 6066, 3). */
    if (prepare(t, &p->trust->config) != OLLA_OK ||
        mbedtls_ssl_set_hostname(ssl, p->by_address ? NULL : p->name) != 0) {
        pool_put(POOL_TLS_OUT, t);
        (void)fail("the TLS library has no memory");
        return NULL;
    }
    mbedtls_ssl_set_verify(ssl, check_address, p);
    if (p->known && mbedtls_ssl_set_session(ssl, &p->session) != 0) {
        forget_session(p);
    }
    t->peer = p;
    t->trust = p->trust;
    t->trust->refs++;
    return t;
}

void tls_free(struct tls *t)
{
    struct context *c = t->context;

    if (mbedtls_ssl_session_reset(&c->ssl) != 0) {
        mbedtls_ssl_free(&c->ssl);
        c->of = NULL;
    }
    if (t->served) {
        t->served->refs--;
        pool_put(POOL_TLS_IN, t);
    } else {
        t->trust->refs--;
        pool_put(POOL_TLS_OUT, t);
    }
}

/* ---- handshakes ------------------------------------------------------------------------- */

static void keep_session(struct tls *t)
{
    struct peer *p = t->peer;

    /* A reload may have changed whom it trusts meanwhile. */
    if (!p || p->trust != t->trust) {
        return;
    }
    forget_session(p);
    mbedtls_ssl_session_init(&p->session);
    p->known = mbedtls_ssl_get_session(&t->context->ssl, &p->session) == 0;
    if (!p->known) {
        mbedtls_ssl_session_free(&p->session);
    }
}

static const char *why_not_verified(uint32_t flags)
{
    static const struct {
        uint32_t flag;
        const char *why;
    } rows[] = {
        {MBEDTLS_X509_BADCERT_EXPIRED, "has a certificate that has expired, or this machine's clock is wrong"},
        {MBEDTLS_X509_BADCERT_FUTURE, "has a certificate that is not valid yet, or this machine's clock is wrong"},
        {MBEDTLS_X509_BADCERT_CN_MISMATCH, "has a certificate for another name (tls.server_name)"},
        {MBEDTLS_X509_BADCERT_KEY_USAGE | MBEDTLS_X509_BADCERT_EXT_KEY_USAGE,
         "has a certificate that is not for servers"},
        {MBEDTLS_X509_BADCERT_NOT_TRUSTED, "has a certificate that no trusted authority has signed (tls.ca_file)"},
    };
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        if (flags & rows[i].flag) {
            return rows[i].why;
        }
    }
    return "has a certificate that does not do: a weak key or an old algorithm";
}

static const char *why_failed(const struct tls *t, int code)
{
    static const struct {
        int code;
        const char *why;
    } rows[] = {
        {MBEDTLS_ERR_SSL_INVALID_RECORD, "does not speak TLS"},
        {BAD_VERSION, "speaks no TLS of version 1.2 or newer"},
        {NO_CIPHER, "has no TLS cipher in common with olla"},
        {MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE, "refused the TLS handshake"},
        {MBEDTLS_ERR_SSL_CONN_EOF, "closed the connection during the TLS handshake"},
        {MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY, "closed the connection during the TLS handshake"},
        {BROKEN, "closed the connection during the TLS handshake"},
        {MBEDTLS_ERR_SSL_ALLOC_FAILED, "needs more memory for TLS than there is"},
    };
    if (code == MBEDTLS_ERR_X509_CERT_VERIFY_FAILED || code == BAD_CERTIFICATE) {
        return why_not_verified(mbedtls_ssl_get_verify_result(&t->context->ssl));
    }
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        if (code == rows[i].code) {
            return rows[i].why;
        }
    }
    return "failed in the TLS handshake";
}

/* What a result of the library means for a call that reads. */
static int waits(struct tls *t, int result)
{
    if (result == MBEDTLS_ERR_SSL_WANT_READ || result == MBEDTLS_ERR_SSL_WANT_WRITE) {
        t->wants_to_read = result == MBEDTLS_ERR_SSL_WANT_READ ? POLLIN : POLLOUT;
        return OLLA_AGAIN;
    }
    return OLLA_ERR;
}

int tls_shake(struct tls *t)
{
    mbedtls_ssl_context *ssl = &t->context->ssl;
    int result = mbedtls_ssl_handshake_step(ssl);

    if (result == 0 || is_ticket(result)) {
        if (!is_over(ssl)) {
            return 1;
        }
        t->over = true;
        if (is_tls12(ssl)) { /* newer versions send tickets when they like */
            keep_session(t);
        }
        t->wants_to_read = POLLIN;
        return OLLA_OK;
    }
    if (waits(t, result) == OLLA_AGAIN) {
        return result == MBEDTLS_ERR_SSL_WANT_READ && mbedtls_ssl_check_pending(ssl) ? 1 : OLLA_AGAIN;
    }
    t->failed = true;
    if (t->peer && t->peer->trust == t->trust) {
        forget_session(t->peer); /* it may have been the reason */
    }
    return fail(why_failed(t, result));
}

/* ---- bytes ------------------------------------------------------------------------------ */

long tls_read(struct tls *t, void *p, size_t n)
{
    mbedtls_ssl_context *ssl = &t->context->ssl;

    for (int round = 0; round < EMPTY_ROUNDS && !t->failed; round++) {
        t->reading = true;
        int got = mbedtls_ssl_read(ssl, p, n);
        t->reading = false;
        if (got > 0) {
            return got;
        }
        if (is_ticket(got)) {
            keep_session(t);
        } else if (got == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) {
            return OLLA_EOF;
        } else if (waits(t, got) != OLLA_AGAIN) {
            t->failed = true;
        } else if (got != MBEDTLS_ERR_SSL_WANT_READ || !mbedtls_ssl_check_pending(ssl)) {
            return OLLA_AGAIN;
        }
    }
    return t->failed ? fail("broke the TLS connection off") : OLLA_AGAIN;
}

bool tls_pending(const struct tls *t)
{
    return !t->failed && mbedtls_ssl_check_pending(&t->context->ssl) != 0;
}

/* Seals at most n bytes and sends them. As tls_write. */
static long write_record(struct tls *t, const unsigned char *bytes, size_t n)
{
    for (int round = 0; round < EMPTY_ROUNDS; round++) {
        /* Reading had to send it first: for the library there is nothing to repeat any more. */
        bool gone = t->unsent > 0 && t->left == 0;
        int sent = gone ? (int)t->unsent : mbedtls_ssl_write(&t->context->ssl, bytes, n);
        if (is_ticket(sent)) {
            keep_session(t);
        } else if (sent == MBEDTLS_ERR_SSL_WANT_WRITE || sent == MBEDTLS_ERR_SSL_WANT_READ) {
            t->unsent = t->left > 0 ? n : 0;
            t->wants_to_write = sent == MBEDTLS_ERR_SSL_WANT_READ ? POLLIN : POLLOUT;
            return OLLA_AGAIN;
        } else {
            t->unsent = 0;
            return sent > 0 ? sent : OLLA_ERR;
        }
    }
    return OLLA_AGAIN;
}

long tls_write(struct tls *t, const struct iovec *v, int count)
{
    static unsigned char bytes[16384];
    int max = mbedtls_ssl_get_max_out_record_payload(&t->context->ssl);
    size_t n = 0, room = max > 0 && max < (int)sizeof(bytes) ? (size_t)max : sizeof(bytes);

    if (t->failed || t->mute) {
        return OLLA_ERR;
    }
    for (int i = 0; i < count && n < room; i++) {
        size_t part = v[i].iov_len < room - n ? v[i].iov_len : room - n;
        memcpy(bytes + n, v[i].iov_base, part);
        n += part;
    }
    /* The record is made: the library only wants to hear the same length again. */
    long sent = write_record(t, bytes, t->unsent > 0 ? t->unsent : n);
    if (sent == OLLA_ERR) {
        t->mute = true;
        return fail("broke the TLS connection off");
    }
    return sent;
}

short tls_wants(const struct tls *t, bool writing)
{
    return writing ? t->wants_to_write : t->wants_to_read;
}

void tls_end(struct tls *t)
{
    if (t->over && !t->failed && !t->mute && !t->ended) {
        t->ended = true;
        (void)mbedtls_ssl_close_notify(&t->context->ssl);
    }
}
