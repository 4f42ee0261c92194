/*
 * tls_none.c - level 2: tls.h in the build without TLS (TLS=none).
 *
 * May include: olla.h, pool.h, tls.h.
 */
#include "tls.h"

#include "../src/pool.h"

struct tls {
    void *nothing;
};

POOL_STORAGE(TLS_IN, struct tls, pool_in)
POOL_STORAGE(TLS_OUT, struct tls, pool_out)

void tls_init(void)
{
    pool_in();
    pool_out();
}

const char *tls_library(void)
{
    return NULL;
}

size_t tls_cost(void)
{
    return 0;
}

size_t tls_peer_cost(void)
{
    return 0;
}

const char *tls_why(void)
{
    return "is without TLS (it was built with TLS=none)";
}

int tls_check_certificate(const char *cert_file, const char *key_file)
{
    (void)cert_file;
    (void)key_file;
    return OLLA_ERR;
}

int tls_serve(const char *cert_file, const char *key_file)
{
    return tls_check_certificate(cert_file, key_file);
}

struct tls *tls_accept(int fd)
{
    (void)fd;
    return NULL;
}

bool tls_can_accept(void)
{
    return false;
}

int tls_check_trust(const char *ca_file)
{
    (void)ca_file;
    return OLLA_ERR;
}

void tls_peer_set(unsigned peer, const char *ca_file, const char *name, bool insecure)
{
    (void)peer;
    (void)ca_file;
    (void)name;
    (void)insecure;
}

void tls_peer_drop(unsigned peer)
{
    (void)peer;
}

struct tls *tls_connect(unsigned peer, int fd)
{
    (void)peer;
    return tls_accept(fd);
}

bool tls_can_connect(void)
{
    return false;
}

int tls_shake(struct tls *t)
{
    (void)t;
    return OLLA_ERR;
}

long tls_read(struct tls *t, void *p, size_t n)
{
    (void)t;
    (void)p;
    (void)n;
    return OLLA_ERR;
}

bool tls_pending(const struct tls *t)
{
    (void)t;
    return false;
}

long tls_write(struct tls *t, const struct iovec *v, int count)
{
    (void)t;
    (void)v;
    (void)count;
    return OLLA_ERR;
}

short tls_wants(const struct tls *t, bool writing)
{
    (void)t;
    (void)writing;
    return 0;
}

void tls_end(struct tls *t)
{
    (void)t;
}

void tls_free(struct tls *t)
{
    (void)t;
}
