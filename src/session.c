/*
 * session.c - level 6: which conversation a request belongs to: the ladder of
 * what clients send, the beginning of the text, credentials, the address.
 *
 * May include: olla.h, levels 1 to 5, exchange.h.
 */
#include "exchange.h"

/*
 * What agents send, in the order of how well it tells a conversation; the texts of the body have their ranks among
 * them. The fields of the head are gone through once, because most requests have none of these.
 */
static uint64_t by_session(const struct exchange *x)
{
    static const struct {
        struct str name;
        size_t least; /* a shorter value tells nobody from anybody */
    } ladder[] = {{STR("X-Olla-Session-ID"), 1},
                  {STR("X-Claude-Code-Session-Id"), JSON_SESSION_MIN},
                  {STR(""), 0}, /* user_id of the body */
                  {STR("session-id"), JSON_SESSION_MIN},
                  {STR("session_id"), JSON_SESSION_MIN},
                  {STR("X-Session-Id"), JSON_SESSION_MIN},
                  {STR("X-Session-Affinity"), JSON_SESSION_MIN},
                  {STR("X-Litellm-Session-Id"), JSON_SESSION_MIN},
                  {STR("X-Amp-Thread-Id"), JSON_SESSION_MIN}};
    size_t best = x->scan.user_id ? 2 : OLLA_COUNT(ladder);
    uint64_t h = x->scan.user_id ? x->scan.user_id : x->scan.cache_key ? x->scan.cache_key : x->scan.conversation;
    struct str rest = x->req.fields;
    struct http_field f;

    while (http_next_field(&rest, &f)) {
        for (size_t i = 0; i < best; i++) {
            if (f.name.n == ladder[i].name.n && f.value.n >= ladder[i].least && str_ieq(f.name, ladder[i].name)) {
                h = str_hash64(STR_HASH_START, f.value) | 1;
                best = i;
            }
        }
    }
    return h;
}

static uint64_t by_source(const struct exchange *x, enum conf_key_source source)
{
    struct str authorization;
    switch (source) {
    case KEY_SESSION_HEADER:
        return by_session(x);
    case KEY_PREFIX_HASH:
        return x->scan.prefix;
    case KEY_AUTH_HEADER:
        authorization = http_get(x->req.fields, STR("Authorization"));
        return authorization.n > 0 ? str_hash64(STR_HASH_START, authorization) | 1 : 0;
    case KEY_IP:
        return str_hash64(STR_HASH_START, str_of(exchange_client(x))) | 1;
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
            h = str_hash64_number(h ^ (uint64_t)source << 56, str_ihash(str_of(x->scan.model)));
            x->session.key = h | 1;
            x->session.source = names[source];
        }
    }
}
