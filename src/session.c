/*
 * session.c - level 6: which conversation a request belongs to: the ladder of
 * what clients send, the beginning of the text, credentials, the address.
 *
 * May include: olla.h, levels 1 to 5, exchange.h.
 */
#include "exchange.h"

static uint64_t hash(uint64_t h, struct str s, bool fold)
{
    for (size_t i = 0; i < s.n; i++) {
        h = (h ^ (unsigned char)(fold ? str_lower(s.p[i]) : s.p[i])) * UINT64_C(1099511628211);
    }
    return h;
}

#define HASH_START UINT64_C(14695981039346656037)

static uint64_t header_hash(const struct exchange *x, const char *name, size_t least)
{
    struct str value = http_get(x->req.fields, str_of(name));
    return value.n >= least && value.n > 0 ? hash(HASH_START, value, false) | 1 : 0;
}

/* What agents send, in the order of how well it tells a conversation (first the headers made for it). */
static uint64_t by_session(const struct exchange *x)
{
    static const char *const before_body[] = {"X-Claude-Code-Session-Id"};
    static const char *const after_user[] = {"session-id",         "session_id",           "X-Session-Id",
                                             "X-Session-Affinity", "X-Litellm-Session-Id", "X-Amp-Thread-Id"};
    uint64_t h = header_hash(x, "X-Olla-Session-ID", 1);

    for (size_t i = 0; i < OLLA_COUNT(before_body) && h == 0; i++) {
        h = header_hash(x, before_body[i], JSON_SESSION_MIN);
    }
    h = h ? h : x->scan.user_id;
    for (size_t i = 0; i < OLLA_COUNT(after_user) && h == 0; i++) {
        h = header_hash(x, after_user[i], JSON_SESSION_MIN);
    }
    h = h ? h : x->scan.cache_key;
    return h ? h : x->scan.conversation;
}

static uint64_t by_source(const struct exchange *x, enum conf_key_source source)
{
    char address[48];
    switch (source) {
    case KEY_SESSION_HEADER:
        return by_session(x);
    case KEY_PREFIX_HASH:
        return x->scan.prefix;
    case KEY_AUTH_HEADER:
        return header_hash(x, "Authorization", 1);
    case KEY_IP:
        plat_addr_text(&x->c->peer, address, sizeof(address));
        return hash(HASH_START, str_of(address), false) | 1;
    case KEY_SOURCES:
        break;
    }
    return 0;
}

void session_find(struct exchange *x)
{
    static const char *const names[] = {"session_header", "prefix_hash", "auth_header", "ip"};

    x->session.key = 0;
    x->session.source = NULL;
    if (!conf_now->proxy.sticky_sessions.enabled) {
        x->session.outcome = STICKY_OFF;
        return;
    }
    x->session.outcome = STICKY_DISABLED;
    for (int i = 0; i < conf_now->proxy.sticky_sessions.key_sources_n && x->counts && x->session.key == 0; i++) {
        enum conf_key_source source = (enum conf_key_source)conf_now->proxy.sticky_sessions.key_sources[i];
        uint64_t h = by_source(x, source);
        if (h != 0) {
            /* The kind of key and the model belong to it: two models of a conversation have two caches. */
            h = hash(h ^ (uint64_t)source << 56, str_of(x->scan.model), true);
            x->session.key = h | 1;
            x->session.source = names[source];
        }
    }
}
