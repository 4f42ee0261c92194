/*
 * client.c - level 7: see client.h.
 *
 * May include: olla.h, levels 1 to 6, client.h.
 */
#include "client.h"

#include <string.h>

#include "log.h"
#include "pool.h"

/* Those of a new configuration are opened before the old ones go. */
#define PLACES             8
#define LISTENERS          (2 * PLACES)
#define ACCEPTS_PER_TURN   64
#define EXCHANGES_PER_TURN 16
/* A peer that is told off and goes on sending: so long, and so many bytes, until it is cut. */
#define LINGER_MS       2000
#define LINGER_BYTES    (1024 * 1024)
#define RETRY_MS        10
#define NO_FDS_PAUSE_MS 200
#define KEEPALIVE_S     60

POOL_STORAGE(CLIENT, struct client, client_pool)

static struct listener {
    struct stream s;
    struct plat_addr addr;
    bool tls;
} listeners[LISTENERS];

/* Where to listen. */
struct place {
    struct plat_addr addr;
    uint16_t port;
    bool tls;
};

static struct client *clients[OLLA_MAX_CLIENTS]; /* by pool index, NULL = free */
static unsigned count, busy;
static bool gate_open, draining;
static bool hungry, feeding; /* some wait for a block, see client_feed */
static uint64_t pause_until;

static void client_run(struct client *c);
static void client_close(struct client *c, enum net_how how);
static void client_ready(struct stream *s, short events);
static void client_expired(struct stream *s);
static void listener_ready(struct stream *s, short events);

static const struct stream_ops client_ops = {client_ready, client_expired};
static const struct stream_ops listener_ops = {listener_ready, NULL};

void client_init(void)
{
    client_pool();
    for (size_t i = 0; i < LISTENERS; i++) {
        listeners[i].s.fd = -1;
    }
}

unsigned client_count(void)
{
    return count;
}

unsigned client_busy(void)
{
    return busy;
}

/* ---- listening --------------------------------------------------------------------- */

static struct listener *find_listener(const struct plat_addr *a)
{
    for (size_t i = 0; i < LISTENERS; i++) {
        if (net_is_open(&listeners[i].s) && plat_addr_eq(&listeners[i].addr, a)) {
            return &listeners[i];
        }
    }
    return NULL;
}

static bool may_accept(const struct listener *l)
{
    return gate_open && (!l->tls || tls_can_accept());
}

static int open_listener(const struct place *p)
{
    char text[48];
    for (size_t i = 0; i < LISTENERS; i++) {
        struct listener *l = &listeners[i];
        if (net_is_open(&l->s)) {
            continue;
        }
        int fd = plat_listen(&p->addr);
        if (fd < 0) {
            return OLLA_ERR;
        }
        l->addr = p->addr;
        l->tls = p->tls;
        net_open(&l->s, fd, &listener_ops, l);
        net_want(&l->s, may_accept(l), false);
        plat_addr_text(&p->addr, text, sizeof(text));
        if (log_begin(LOG_INFO, "listening")) {
            log_z("address", text);
            log_u64("port", plat_local_port(fd));
            log_z("protocol", p->tls ? "https" : "http");
            log_end();
        }
        return OLLA_OK;
    }
    return OLLA_ERR;
}

/*
 * Each port needs one address at least. OLLA_ERR: *bad has none. *taken: another listener, perhaps of ours, is in the
 * way of one.
 */
static int open_all(const struct place *places, int n, uint16_t *bad, bool *taken)
{
    int opened = 0, result = n > 0 ? OLLA_OK : OLLA_ERR;

    for (int i = 0; i < n; i++) {
        struct listener *l = find_listener(&places[i].addr);
        bool open = l || open_listener(&places[i]) == OLLA_OK;
        bool last = i == n - 1 || places[i + 1].port != places[i].port;
        *taken = *taken || (!open && plat_error() == PLAT_FAIL_IN_USE);
        opened += open;
        if (last && opened == 0) {
            *bad = places[i].port;
            result = OLLA_ERR;
        }
        opened = last ? 0 : opened;
    }
    return result;
}

/* named: it has an address, so that is not the reason. */
static void cannot_listen(const char *host, uint16_t port, bool named)
{
    const char *remedy =
        "choose another server.port (or server.tls.port) or server.host, or stop the program that has it";

    if (!named) {
        remedy = "server.host is a name that no address is found for: correct it, or write an address (\"\" = all that "
                 "this machine has)";
    } else if (plat_error() == PLAT_FAIL_DENIED) {
        remedy = "ports below 1024 are for root (or CAP_NET_BIND_SERVICE) and, with server.user, for the start alone: "
                 "restart olla, or choose another port";
    }
    if (log_begin(LOG_ERROR, "cannot listen")) {
        log_z("host", host);
        log_u64("port", port);
        log_z("error", plat_error_text());
        log_z("remedy", remedy);
        log_end();
    }
}

/* Closing a listener resets what waits in its queue: take it in first. */
static void accept_waiting(struct listener *l)
{
    unsigned before;
    do {
        before = count;
        listener_ready(&l->s, POLLIN);
    } while (count > before);
}

/* The addresses of one port. Their number, or OLLA_ERR. */
static int find_places(const char *host, uint16_t port, bool tls, struct place *to)
{
    struct plat_addr addrs[PLACES / 2];
    int n = plat_listen_addrs(host, port, addrs, (int)OLLA_COUNT(addrs));

    for (int i = 0; i < n; i++) {
        to[i] = (struct place){addrs[i], port, tls};
    }
    return n > 0 ? n : OLLA_ERR;
}

static const struct place *find_place(const struct place *places, int n, const struct plat_addr *a)
{
    for (int i = 0; i < n; i++) {
        if (plat_addr_eq(&places[i].addr, a)) {
            return &places[i];
        }
    }
    return NULL;
}

/* Closes what is not wanted, of those ports or (all) of any, and tells in old[] what it was. */
static int close_unwanted(const struct place *places, int n, bool all, struct place *old)
{
    int olds = 0;

    for (size_t i = 0; i < LISTENERS; i++) {
        struct listener *l = &listeners[i];
        bool goes = net_is_open(&l->s) && !find_place(places, n, &l->addr), same_port = false;
        for (int k = 0; k < n; k++) {
            same_port = same_port || places[k].port == plat_addr_port(&l->addr);
        }
        if (goes && (all || same_port)) {
            old[olds++] = (struct place){l->addr, plat_addr_port(&l->addr), l->tls};
            accept_waiting(l);
            net_close(&l->s, NET_CLOSE);
        }
    }
    return olds;
}

/*
 * An old listener goes only when a new one is there, because it could not always be had back: its port may need rights
 * that olla has no more. Where it stands in the way itself it goes first; "taken" is the proof that its port is allowed.
 */
int client_listen(const struct conf *c)
{
    struct place places[PLACES], old[LISTENERS];
    bool two = c->server.tls.enabled && c->server.tls.port > 0, taken = false;
    uint16_t bad = c->server.port;
    int n = find_places(c->server.host, c->server.port, c->server.tls.enabled && !two, places), olds = 0;

    if (n > 0 && two) {
        int more = find_places(c->server.host, c->server.tls.port, true, places + n);
        bad = more > 0 ? bad : c->server.tls.port;
        n = more > 0 ? n + more : OLLA_ERR;
    }
    int result = open_all(places, n, &bad, &taken);
    if (taken) {
        olds = close_unwanted(places, n, false, old);
        result = open_all(places, n, &bad, &taken);
    }
    if (result != OLLA_OK) {
        cannot_listen(c->server.host, bad, n > 0);
        (void)open_all(old, olds, &bad, &taken);
        return OLLA_ERR;
    }
    close_unwanted(places, n, true, old);
    for (size_t i = 0; i < LISTENERS; i++) {
        const struct place *p = net_is_open(&listeners[i].s) ? find_place(places, n, &listeners[i].addr) : NULL;
        if (p && p->tls != listeners[i].tls) {
            accept_waiting(&listeners[i]); /* who came before speaks the old protocol */
            listeners[i].tls = p->tls;
            net_want(&listeners[i].s, may_accept(&listeners[i]), false);
        }
    }
    return OLLA_OK;
}

bool client_exposed(void)
{
    bool exposed = false;
    for (size_t i = 0; i < LISTENERS; i++) {
        exposed = exposed || (net_is_open(&listeners[i].s) && !plat_addr_is_loopback(&listeners[i].addr));
    }
    return exposed;
}

void client_listen_close(void)
{
    for (size_t i = 0; i < LISTENERS; i++) {
        net_close(&listeners[i].s, NET_CLOSE);
    }
}

uint64_t client_gate(void)
{
    static uint64_t warned, warned_tls;
    static bool engines;
    bool open = count < OLLA_MAX_CLIENTS && net_now() >= pause_until;
    bool were_engines = engines;
    uint64_t again = net_now() < pause_until ? pause_until : UINT64_MAX;

    engines = tls_can_accept();
    if (open == gate_open && engines == were_engines) {
        return again;
    }
    gate_open = open;
    for (size_t i = 0; i < LISTENERS; i++) {
        if (net_is_open(&listeners[i].s)) {
            net_want(&listeners[i].s, may_accept(&listeners[i]), false);
        }
    }
    if (were_engines && !engines && tls_library() && log_allowed(&warned_tls, net_now()) &&
        log_begin(LOG_WARN, "all TLS connections are in use, new ones wait in the kernel")) {
        log_z("limit", "OLLA_MAX_TLS_CLIENTS");
        log_u64("value", OLLA_MAX_TLS_CLIENTS);
        log_end();
    }
    if (!open && count >= OLLA_MAX_CLIENTS && log_allowed(&warned, net_now()) &&
        log_begin(LOG_WARN, "all client slots are in use, new connections wait in the kernel")) {
        log_z("limit", "OLLA_MAX_CLIENTS");
        log_u64("value", OLLA_MAX_CLIENTS);
        log_end();
    }
    return again;
}

/* Whether the peer may have one more connection. */
static bool may_connect(const struct plat_addr *peer)
{
    struct cidr_addr addr = limits_addr(peer);
    unsigned same = 0;
    char text[48];

    plat_addr_text(peer, text, sizeof(text));
    if (!limits_admits(&addr, text, net_now())) {
        return false;
    }
    for (size_t i = 0; conf_now->server.access.max_connections_per_client > 0 && i < OLLA_MAX_CLIENTS; i++) {
        same += clients[i] && limits_same_client(&clients[i]->peer_addr, &addr);
    }
    return limits_admits_more(same, text, net_now());
}

static void listener_ready(struct stream *s, short events)
{
    static uint64_t warned;
    const struct listener *l = s->owner;
    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN && count < OLLA_MAX_CLIENTS && may_accept(l); i++) {
        struct plat_addr peer;
        int fd = plat_accept(s->fd, &peer);
        if (fd < 0) {
            if (fd == OLLA_ERR && plat_error() == PLAT_FAIL_NO_FDS) {
                /* Without a pause the waiting connection would wake every turn. */
                pause_until = net_now() + NO_FDS_PAUSE_MS;
                upstream_drop_idle(NULL);
                if (log_allowed(&warned, net_now())) {
                    log_line(LOG_WARN, "out of file descriptors, new connections wait in the kernel", "remedy",
                             STR("raise the limit of open files (ulimit -n)"), NULL, STR(""));
                }
            }
            return;
        }
        struct client *c = may_connect(&peer) ? pool_get(POOL_CLIENT) : NULL;
        if (!c) {
            plat_close(fd);
            return;
        }
        clients[pool_index(POOL_CLIENT, c)] = c;
        count++;
        c->peer = peer;
        c->peer_addr = limits_addr(&peer);
        plat_addr_text(&peer, c->peer_text, sizeof(c->peer_text));
        c->run = client_run;
        c->since = net_now();
        plat_keepalive(fd, KEEPALIVE_S);
        net_open(&c->s, fd, &client_ops, c);
        if (l->tls && net_accept_tls(&c->s) != OLLA_OK) {
            client_close(c, NET_ABORT);
            continue;
        }
        net_want(&c->s, true, false);
        net_deadline(&c->s, net_now() + (uint64_t)conf_now->server.read_header_timeout);
    }
}

/* ---- one connection ------------------------------------------------------------------- */

static void client_close(struct client *c, enum net_how how)
{
    net_close(&c->s, how);
    buf_drop(&c->in);
    buf_drop(&c->out);
    clients[pool_index(POOL_CLIENT, c)] = NULL;
    count--;
    pool_put(POOL_CLIENT, c);
}

static uint64_t idle_timeout(void)
{
    return (uint64_t)(conf_now->server.idle_timeout > 0 ? conf_now->server.idle_timeout
                                                        : conf_now->server.read_timeout);
}

static void wait_for_head(struct client *c)
{
    uint64_t limit = (uint64_t)conf_now->server.read_header_timeout;
    size_t n = buf_len(&c->in);

    if (n == 0 && c->parked_n == 0) {
        buf_drop(&c->in);
        c->state = CLIENT_IDLE; /* nothing of a request has come, at most empty lines */
    }
    if (c->state == CLIENT_IDLE) {
        limit = idle_timeout();
    }
    if (n > 0 && n <= sizeof(c->parked)) {
        memcpy(c->parked, buf_str(&c->in).p, n);
        c->parked_n = (uint16_t)n;
        buf_drop(&c->in);
    }
    net_want(&c->s, true, false);
    net_deadline(&c->s, limit > 0 ? c->since + limit : 0);
}

/* The reply is out, but the peer may still be sending: closing now could destroy the reply on its way (RST). */
static void linger(struct client *c)
{
    buf_drop(&c->in);
    buf_drop(&c->out);
    net_end_writing(&c->s);
    c->state = CLIENT_LINGER;
    c->lingered = 0;
    net_want(&c->s, true, false);
    net_deadline(&c->s, net_now() + LINGER_MS);
}

/* After an exchange. false: the client is gone. */
static bool after_exchange(struct client *c)
{
    enum exchange_after how = exchange_finish(c->x);

    busy--;
    net_heat(&c->s, NET_HOT);
    c->scanned = 0;
    c->since = net_now();
    switch (how) {
    case AFTER_KEEP:
        c->state = buf_len(&c->in) > 0 ? CLIENT_HEAD : CLIENT_IDLE;
        return true;
    case AFTER_CLOSE:
        client_close(c, NET_CLOSE);
        break;
    case AFTER_LINGER:
        linger(c);
        break;
    case AFTER_ABORT:
        client_close(c, NET_ABORT);
        break;
    }
    return false;
}

enum read_result { READ_NOTHING = 0, READ_SOME, READ_GONE };

static enum read_result read_head(struct client *c)
{
    if (!c->readable) {
        return READ_NOTHING;
    }
    bool behind = hungry && !feeding && !c->in.mem; /* nobody overtakes those who wait */
    c->starved = behind || !buf_hold(&c->in, BUF_NEW_WORK);
    if (c->starved) {
        net_want(&c->s, false, false); /* all buffers are in use: ask again soon */
        net_deadline(&c->s, net_now() + RETRY_MS);
        return READ_NOTHING;
    }
    c->readable = false;
    if (c->parked_n > 0) {
        memcpy(buf_tail(&c->in), c->parked, c->parked_n);
        buf_added(&c->in, c->parked_n);
        c->parked_n = 0;
    }
    if (buf_room(&c->in) == 0) {
        buf_compact(&c->in);
    }
    long n = net_read(&c->s, &c->in, OLLA_BUF_SIZE);
    if (n == OLLA_EOF || n == OLLA_ERR) {
        client_close(c, NET_CLOSE);
        return READ_GONE;
    }
    if (n > 0 && c->state == CLIENT_IDLE) {
        c->state = CLIENT_HEAD;
        c->since = net_now();
    }
    buf_drop_if_empty(&c->in);
    return n > 0 ? READ_SOME : READ_NOTHING;
}

/* Tries to begin an exchange from what has been read. */
static bool try_head(struct client *c)
{
    struct http_error err = {0};
    struct http_request req;

    size_t blank;
    while (c->scanned == 0 && (blank = http_skip_blank_lines(buf_str(&c->in))) > 0) {
        buf_consume(&c->in, blank);
    }
    if (c->in.off > 0 && OLLA_BUF_SIZE - c->in.off < OLLA_MAX_HEAD + OLLA_HEAD_RESERVE) {
        buf_compact(&c->in);
    }
    struct str in = buf_str(&c->in);
    long n = in.n > 0 ? http_find_end(in, &c->scanned, &err) : OLLA_AGAIN;
    if (n == OLLA_AGAIN) {
        return false;
    }
    bool started;
    if (c->s.why) {
        err = (struct http_error){400, "this port speaks TLS: use https:// instead of http://"};
        started = exchange_start_refused(c, &err);
    } else if (n < 0 || http_parse_request((struct str){in.p, (size_t)n}, &req, &err) != OLLA_OK) {
        started = exchange_start_refused(c, &err);
    } else {
        started = exchange_start(c, &req, (size_t)n);
    }
    c->scanned = 0;
    if (!started) { /* cannot happen while there are as many exchanges as clients; tests make it so */
        c->starved = true;
        c->readable = false; /* until then */
        net_want(&c->s, false, false);
        net_deadline(&c->s, net_now() + RETRY_MS);
        return false;
    }
    busy++;
    c->state = CLIENT_BUSY;
    return true;
}

/* Goes on until the connection has to wait. Loops instead of recursing, so that pipelined requests cost no stack. */
static void go_on(struct client *c)
{
    for (int exchanges = 0;; exchanges++) {
        if (exchanges == EXCHANGES_PER_TURN) {
            /* Others want their turn: go on in the next one. */
            c->starved = true;
            net_want(&c->s, false, false);
            net_deadline(&c->s, net_now() + 1);
            return;
        }
        if (c->state == CLIENT_BUSY) {
            exchange_client_input(c->x);
            if (!exchange_run(c->x) || !after_exchange(c)) {
                return;
            }
        }
        if (buf_len(&c->in) > 0 && try_head(c)) {
            continue;
        }
        enum read_result got = read_head(c);
        if (got == READ_GONE) {
            return;
        }
        if (got == READ_NOTHING) {
            break;
        }
    }
    if (!c->starved) {
        wait_for_head(c);
    }
}

static void client_run(struct client *c)
{
    const char *was = log_about(c->x ? c->x->id : NULL);

    go_on(c);
    log_about(was);
}

static void lingering(struct client *c)
{
    static char waste[OLLA_BUF_SIZE];
    long n = net_take(&c->s, waste, sizeof(waste));
    if (n > 0) {
        c->lingered += (uint64_t)n;
    }
    if ((n < 0 && n != OLLA_AGAIN) || c->lingered > LINGER_BYTES) {
        client_close(c, NET_CLOSE);
    }
}

static void client_ready(struct stream *s, short events)
{
    struct client *c = s->owner;
    if (c->state == CLIENT_LINGER) {
        lingering(c);
        return;
    }
    c->hung_up = (events & (POLLHUP | POLLERR)) != 0;
    if (s->phase == NET_FAILED && log_begin(LOG_DEBUG, "TLS handshake failed")) {
        log_z("client", c->peer_text);
        log_z("reason", s->why);
        log_end();
    }
    if (c->hung_up || (events & POLLIN)) {
        c->readable = true;
    }
    client_run(c);
}

static void resume(struct client *c)
{
    if (c->state != CLIENT_BUSY) {
        c->starved = false;
        c->readable = true;
    }
    client_run(c);
}

void client_feed(void)
{
    static uint16_t line[OLLA_MAX_CLIENTS]; /* who has waited longest comes first */
    static bool in_line[OLLA_MAX_CLIENTS];
    static size_t length;
    static uint64_t refused;
    uint64_t times = pool_stats(POOL_BUF)->failed;
    size_t left = 0;

    if (times == refused && !hungry) {
        return;
    }
    refused = times;
    for (size_t i = 0; i < OLLA_MAX_CLIENTS; i++) {
        if (clients[i] && clients[i]->starved && !in_line[i]) {
            line[length++] = (uint16_t)i;
            in_line[i] = true;
        }
    }
    hungry = false;
    feeding = true;
    for (size_t k = 0; k < length; k++) {
        struct client *c = clients[line[k]];
        bool waits = c && c->starved;
        if (waits && !c->in.mem && !buf_available(c->state == CLIENT_BUSY ? BUF_CLIENT : BUF_NEW_WORK)) {
            line[left++] = line[k];
            hungry = true;
            continue;
        }
        in_line[line[k]] = false;
        if (waits) {
            resume(c);
        }
    }
    length = left;
    feeding = false;
}

static void client_expired(struct stream *s)
{
    struct client *c = s->owner;
    struct http_error slow = {408, "the request head did not arrive in time (server.read_header_timeout)"};

    if (c->state == CLIENT_BUSY) {
        log_about(c->x->id);
        exchange_expired(c->x);
        log_about(NULL);
        client_run(c);
    } else if (c->starved) {
        resume(c);
    } else if (c->state == CLIENT_HEAD && (buf_len(&c->in) > 0 || c->parked_n > 0) &&
               exchange_start_refused(c, &slow)) {
        log_about(NULL);
        busy++;
        c->state = CLIENT_BUSY;
        client_run(c);
    } else {
        client_close(c, NET_CLOSE);
    }
}

void client_drain(void)
{
    draining = true;
    exchange_drain(true);
    for (size_t i = 0; i < OLLA_MAX_CLIENTS; i++) {
        if (clients[i] && clients[i]->state != CLIENT_BUSY && clients[i]->state != CLIENT_LINGER) {
            client_close(clients[i], NET_CLOSE);
        }
    }
}

unsigned client_kill_all(void)
{
    unsigned cut = 0;
    for (size_t i = 0; i < OLLA_MAX_CLIENTS; i++) {
        struct client *c = clients[i];
        enum net_how how = NET_CLOSE;
        if (c && c->state == CLIENT_BUSY) {
            cut++;
            log_about(c->x->id);
            exchange_kill(c->x);
            how = exchange_finish(c->x) == AFTER_ABORT ? NET_ABORT : NET_CLOSE;
            busy--;
        }
        if (c) {
            client_close(c, how);
        }
    }
    return cut;
}
