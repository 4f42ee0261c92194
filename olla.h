/*
 * olla.h - level 0: limits with their cost, version, return codes, exit codes.
 *
 * Every limit is a compile-time constant that can be overridden with -D.
 * The comment beside it says what one more costs; `olla -m` prints the sum.
 * When a limit is reached at run time there is a defined answer (a status
 * code or back-pressure), a counter and a rate-limited log line.
 *
 * May include: standard C headers only.
 */
#ifndef OLLA_H
#define OLLA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef OLLA_VERSION
#define OLLA_VERSION "0.1.0"
#endif

/* ---- connections -------------------------------------------------------- */

/* Client connections at one time; each costs about 3.6 KB with its exchange.
 * When all are taken the listener is not polled and the kernel queues. */
#ifndef OLLA_MAX_CLIENTS
#define OLLA_MAX_CLIENTS 512
#endif

/* A part of a request head up to this long waits in the client's own memory, so that
 * connections that say little cannot use up the blocks below. */
#ifndef OLLA_PARKED_HEAD
#define OLLA_PARKED_HEAD 384
#endif

/* Connections to backends, busy and idle together; each costs about 150 B. */
#ifndef OLLA_MAX_UPSTREAMS
#define OLLA_MAX_UPSTREAMS (OLLA_MAX_CLIENTS + 64)
#endif

/* Connections with TLS at one time, from clients and to backends: each costs about 1 KB, and those that were ever
 * open at the same time about 40 KB more, which the TLS library allocates (60 KB during the handshake). When all of
 * the first are taken the TLS listener waits; of the second, idle ones are closed. */
#ifndef OLLA_MAX_TLS_CLIENTS
#define OLLA_MAX_TLS_CLIENTS (OLLA_MAX_CLIENTS < 128 ? OLLA_MAX_CLIENTS : 128)
#endif
#ifndef OLLA_MAX_TLS_UPSTREAMS
#define OLLA_MAX_TLS_UPSTREAMS (OLLA_MAX_UPSTREAMS < 64 ? OLLA_MAX_UPSTREAMS : 64)
#endif

/* Different tls.ca_file settings, the system's authorities included (these take about 400 KB when they are used). */
#ifndef OLLA_MAX_TRUSTS
#define OLLA_MAX_TRUSTS 8
#endif

/* Idle keep-alive connections kept per endpoint; they come out of the number above, and are closed when that is
 * needed for something else. Fewer than the busiest endpoint has requests at one time means connecting anew. */
#ifndef OLLA_MAX_IDLE_PER_ENDPOINT
#define OLLA_MAX_IDLE_PER_ENDPOINT OLLA_MAX_UPSTREAMS
#endif

/* ---- buffers ------------------------------------------------------------ */

/* One I/O block. A request or response head must fit in it with
 * OLLA_HEAD_RESERVE bytes to spare for the headers that are added. */
#ifndef OLLA_BUF_SIZE
#define OLLA_BUF_SIZE 16384
#endif

/* Blocks in the pool, OLLA_BUF_SIZE bytes each. A connection holds one only
 * while bytes wait in it, a request until its reply begins: so 200 requests can wait for their first byte at one time.
 * When they run out, reading waits; before that, nothing is read for peers that take nothing. */
#ifndef OLLA_MAX_BUFS
#define OLLA_MAX_BUFS 216
#endif

/* Blocks that only running exchanges may take, so that new requests cannot starve running streams: these need one only
 * while their client is slower than their backend. A sixth of few, but no more than 16. */
#ifndef OLLA_RESERVED_BUFS
#define OLLA_RESERVED_BUFS (OLLA_MAX_BUFS < 84 ? OLLA_MAX_BUFS / 6 + 2 : 16)
#endif

#ifndef OLLA_HEAD_RESERVE
#define OLLA_HEAD_RESERVE 1536
#endif

/* Largest head accepted from a client or a backend, in bytes. */
#define OLLA_MAX_HEAD (OLLA_BUF_SIZE - OLLA_HEAD_RESERVE)

/* Header lines in one head. */
#ifndef OLLA_MAX_HEADERS
#define OLLA_MAX_HEADERS 128
#endif

/* Request bodies that do not fit behind their head but stay in memory: in
 * blocks of OLLA_BODY_BLOCK bytes, one body in at most four of them, and in
 * more than one only while half of all are free (body.h). The others go to the
 * spool. */
#ifndef OLLA_BODY_BLOCK
#define OLLA_BODY_BLOCK 65536
#endif
#ifndef OLLA_MAX_BODY_BLOCKS
#define OLLA_MAX_BODY_BLOCKS 8
#endif

/* Requests of the Anthropic API at one time, about 7.5 KB each. */
#ifndef OLLA_MAX_MESSAGES
#define OLLA_MAX_MESSAGES 40
#endif

/* ---- backends and models ------------------------------------------------ */

/* Endpoints; a set of them is one 64-bit word, so 64 is the most. */
#ifndef OLLA_MAX_ENDPOINTS
#define OLLA_MAX_ENDPOINTS 32
#endif

/* Addresses remembered per endpoint name. */
#ifndef OLLA_MAX_ADDRS
#define OLLA_MAX_ADDRS 4
#endif

/* Distinct model names (and digests) in the catalogue; each costs about 750 B. */
#ifndef OLLA_MAX_MODELS
#define OLLA_MAX_MODELS 1024
#endif

/* Longest model name, with its terminating NUL. Longer ones are skipped and warned about. */
#ifndef OLLA_MODEL_NAME
#define OLLA_MODEL_NAME 128
#endif

/* Probes (health checks and model lists) running at one time. Each holds one block while it runs. */
#ifndef OLLA_MAX_PROBES
#define OLLA_MAX_PROBES 8
#endif

/* Largest model list read from a backend, in bytes; it is never held as a whole. */
#ifndef OLLA_MAX_LIST
#define OLLA_MAX_LIST (10u * 1024u * 1024u)
#endif

/* Largest reply, or event of one, that is kept to be told in other words or to be recorded, in bytes; the spool holds it. */
#ifndef OLLA_MAX_KEPT
#define OLLA_MAX_KEPT (32u * 1024u * 1024u)
#endif

/* Tokens for one JSON slice (one catalogue entry); 20 B each. jsmn's cost is quadratic in them. */
#ifndef OLLA_MAX_TOKENS
#define OLLA_MAX_TOKENS 512
#endif

/* ---- configuration ------------------------------------------------------ */

/* Text of all string settings of one configuration; two are kept for reload. */
#ifndef OLLA_CONF_TEXT
#define OLLA_CONF_TEXT 16384
#endif

/* Header lines that one endpoint's requests get from its headers.* and auth.* settings, in bytes; they are kept in
 * both configurations and in the endpoint: one more costs 3 B times OLLA_MAX_ENDPOINTS. */
#ifndef OLLA_MAX_ENDPOINT_HEADERS
#define OLLA_MAX_ENDPOINT_HEADERS 1024
#endif

/* Model aliases; each costs about 150 B in each of the two configurations. */
#ifndef OLLA_MAX_ALIASES
#define OLLA_MAX_ALIASES 32
#endif

/* Backend types of one's own, [profile:NAME]; each costs about 2 KB. */
#ifndef OLLA_MAX_PROFILES
#define OLLA_MAX_PROFILES 8
#endif

/* Inbound API keys, [key:NAME]; each costs about 200 B in each of the two configurations and 130 B besides. Every
 * request is compared with all of them. */
#ifndef OLLA_MAX_KEYS
#define OLLA_MAX_KEYS 32
#endif

/* Longest name of such a key, with its terminating NUL; every client costs as much. */
#ifndef OLLA_KEY_NAME
#define OLLA_KEY_NAME 32
#endif

/* Conversations whose endpoint is remembered; each costs 32 B. */
#ifndef OLLA_MAX_SESSIONS
#define OLLA_MAX_SESSIONS 1024
#endif

/* Addresses whose requests are counted for server.rate_limits (an IPv6 network counts as one); each costs 68 B.
 * Beyond it the one that was idle longest is forgotten. */
#ifndef OLLA_MAX_RATE_CLIENTS
#define OLLA_MAX_RATE_CLIENTS 1024
#endif

/* Models whose use is counted; each costs about 700 B. Beyond it the one that was used longest ago is forgotten. */
#ifndef OLLA_MAX_LEDGER
#define OLLA_MAX_LEDGER 64
#endif

/* Pairs of key and model whose tokens wait to be written to usage.file; each costs about 220 B. With more of them it is
 * written earlier. */
#ifndef OLLA_MAX_METER
#define OLLA_MAX_METER 128
#endif

/* Items in one list setting. */
#ifndef OLLA_MAX_LIST_ITEMS
#define OLLA_MAX_LIST_ITEMS 16
#endif

/* Programs of [hooks] that run at one time; each costs about 1 KB and a process. */
#ifndef OLLA_MAX_HOOKS
#define OLLA_MAX_HOOKS 4
#endif

/* Events that wait until one more program may run; beyond it they are dropped, and a warning says so. About 400 B each. */
#ifndef OLLA_MAX_HOOK_EVENTS
#define OLLA_MAX_HOOK_EVENTS 32
#endif

/* 1 = `olla --print-settings` explains every setting. Without it the program is 16 KB smaller, and olla.ini(5) explains. */
#ifndef OLLA_HELP
#define OLLA_HELP 1
#endif

/* ---- log ---------------------------------------------------------------- */

/* Log lines waiting for a slow sink; beyond it lines are dropped and counted. */
#ifndef OLLA_LOG_BUF
#define OLLA_LOG_BUF 32768
#endif

#if OLLA_MAX_ENDPOINTS < 1 || OLLA_MAX_ENDPOINTS > 64
#error "OLLA_MAX_ENDPOINTS: set it to 1..64, a set of endpoints is one 64-bit word"
#endif
#if OLLA_MAX_CLIENTS < 1 || OLLA_MAX_CLIENTS > 30000
#error "OLLA_MAX_CLIENTS: set it to 1..30000"
#endif
#if OLLA_BUF_SIZE < 4096 || OLLA_BUF_SIZE > 65536
#error "OLLA_BUF_SIZE: set it to 4096..65536"
#endif
#if OLLA_HEAD_RESERVE < 1024 || OLLA_HEAD_RESERVE > OLLA_BUF_SIZE / 2
#error "OLLA_HEAD_RESERVE: set it to at least 1024 and at most half of OLLA_BUF_SIZE"
#endif
#if OLLA_RESERVED_BUFS < 2 || OLLA_MAX_BUFS < OLLA_RESERVED_BUFS + 2
#error "OLLA_MAX_BUFS: at least 4 blocks, OLLA_RESERVED_BUFS at least 2 and 2 less than that"
#endif
#if OLLA_MAX_MESSAGES < 1 || OLLA_MAX_MESSAGES > 30000
#error "OLLA_MAX_MESSAGES: set it to 1..30000"
#endif
#if OLLA_MAX_ENDPOINT_HEADERS < 128 || OLLA_MAX_ENDPOINT_HEADERS > OLLA_BUF_SIZE / 4
#error "OLLA_MAX_ENDPOINT_HEADERS: set it to at least 128 and at most a quarter of OLLA_BUF_SIZE"
#endif
#if OLLA_MAX_KEYS < 1 || OLLA_MAX_KEYS > 1024
#error "OLLA_MAX_KEYS: set it to 1..1024"
#endif
#if OLLA_MAX_RATE_CLIENTS < 1 || OLLA_MAX_RATE_CLIENTS > 30000
#error "OLLA_MAX_RATE_CLIENTS: set it to 1..30000"
#endif
#if OLLA_KEY_NAME < 2 || OLLA_KEY_NAME > 192
#error "OLLA_KEY_NAME: set it to 2..192, a line of the configuration has no more"
#endif
#if OLLA_BODY_BLOCK < OLLA_BUF_SIZE || OLLA_BODY_BLOCK > 1048576
#error "OLLA_BODY_BLOCK: set it to at least OLLA_BUF_SIZE and at most 1048576"
#endif
#if OLLA_PARKED_HEAD < 64 || OLLA_PARKED_HEAD > 4096
#error "OLLA_PARKED_HEAD: set it to 64..4096"
#endif
#if OLLA_MAX_UPSTREAMS < 1 || OLLA_MAX_UPSTREAMS > 60000
#error "OLLA_MAX_UPSTREAMS: set it to 1..60000"
#endif
#if OLLA_MAX_TLS_CLIENTS < 1 || OLLA_MAX_TLS_CLIENTS > 30000
#error "OLLA_MAX_TLS_CLIENTS: set it to 1..30000"
#endif
#if OLLA_MAX_TLS_UPSTREAMS < 1 || OLLA_MAX_TLS_UPSTREAMS > 60000
#error "OLLA_MAX_TLS_UPSTREAMS: set it to 1..60000"
#endif
#if OLLA_MAX_TRUSTS < 1 || OLLA_MAX_TRUSTS > 64
#error "OLLA_MAX_TRUSTS: set it to 1..64"
#endif
#if OLLA_MAX_IDLE_PER_ENDPOINT < 1 || OLLA_MAX_IDLE_PER_ENDPOINT > 60000
#error "OLLA_MAX_IDLE_PER_ENDPOINT: set it to 1..60000"
#endif
#if OLLA_MAX_HEADERS < 32 || OLLA_MAX_HEADERS > 1024
#error "OLLA_MAX_HEADERS: set it to 32..1024"
#endif
#if OLLA_MAX_BODY_BLOCKS < 1 || OLLA_MAX_BODY_BLOCKS > 30000
#error "OLLA_MAX_BODY_BLOCKS: set it to 1..30000"
#endif
#if OLLA_MAX_ADDRS < 1 || OLLA_MAX_ADDRS > 16
#error "OLLA_MAX_ADDRS: set it to 1..16"
#endif
#if OLLA_MAX_MODELS < 2 || OLLA_MAX_MODELS > 30000
#error "OLLA_MAX_MODELS: set it to 2..30000"
#endif
#if OLLA_MODEL_NAME < 32 || OLLA_MODEL_NAME > 512
#error "OLLA_MODEL_NAME: set it to 32..512"
#endif
#if OLLA_MAX_PROBES < 1 || OLLA_MAX_PROBES > 1000
#error "OLLA_MAX_PROBES: set it to 1..1000"
#endif
#if OLLA_MAX_TOKENS < 64 || OLLA_MAX_TOKENS > 4096
#error "OLLA_MAX_TOKENS: set it to 64..4096"
#endif
#if OLLA_CONF_TEXT < 4096 || OLLA_CONF_TEXT > 1048576
#error "OLLA_CONF_TEXT: set it to 4096..1048576"
#endif
#if OLLA_MAX_ALIASES < 1 || OLLA_MAX_ALIASES > 1024
#error "OLLA_MAX_ALIASES: set it to 1..1024"
#endif
#if OLLA_MAX_PROFILES < 2 || OLLA_MAX_PROFILES > 64
#error "OLLA_MAX_PROFILES: set it to 2..64"
#endif
#if OLLA_MAX_SESSIONS < 1 || OLLA_MAX_SESSIONS > 30000
#error "OLLA_MAX_SESSIONS: set it to 1..30000"
#endif
#if OLLA_MAX_LEDGER < 1 || OLLA_MAX_LEDGER > 256
#error "OLLA_MAX_LEDGER: set it to 1..256"
#endif
#if OLLA_MAX_METER < 1 || OLLA_MAX_METER > 4096
#error "OLLA_MAX_METER: set it to 1..4096"
#endif
#if OLLA_MAX_HOOKS < 1 || OLLA_MAX_HOOKS > 64
#error "OLLA_MAX_HOOKS: set it to 1..64"
#endif
#if OLLA_MAX_HOOK_EVENTS < 1 || OLLA_MAX_HOOK_EVENTS > 4096
#error "OLLA_MAX_HOOK_EVENTS: set it to 1..4096"
#endif
#if OLLA_MAX_LIST_ITEMS < 8 || OLLA_MAX_LIST_ITEMS > 64
#error "OLLA_MAX_LIST_ITEMS: set it to 8..64"
#endif
#if OLLA_HELP < 0 || OLLA_HELP > 1
#error "OLLA_HELP: set it to 0..1"
#endif
#if OLLA_LOG_BUF < 8192 || OLLA_LOG_BUF > 1048576
#error "OLLA_LOG_BUF: set it to 8192..1048576"
#endif

/*
 * Return convention, everywhere the same: a count or OLLA_OK for success,
 * one of the negative codes otherwise.
 */
enum {
    OLLA_OK = 0,
    OLLA_AGAIN = -1, /* nothing wrong, more input or room is needed */
    OLLA_ERR = -2,   /* failed; the reason is in the object or the log */
    OLLA_EOF = -3    /* the peer has ended its side */
};

/* Exit codes of the program, also in the manual page. */
enum {
    OLLA_EXIT_OK = 0,    /* clean shutdown, --version, --help, valid configuration */
    OLLA_EXIT_CONF = 1,  /* configuration or start-up failure */
    OLLA_EXIT_USAGE = 2, /* bad option, or nothing to hash */
    OLLA_EXIT_CUT = 3    /* shut down, but some requests were cut */
};

/* A set of endpoints: bit i is slot i of the endpoint table. */
typedef uint64_t endpoint_set;

#define OLLA_COUNT(a) (sizeof(a) / sizeof((a)[0]))

#endif
