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
        enum http_name name;
        size_t least; /* a shorter value tells nobody from anybody */
    } ladder[] = {{HTTP_X_OLLA_SESSION_ID, 1},
                  {HTTP_X_CLAUDE_SESSION_ID, JSON_SESSION_MIN},
                  {HTTP_OTHER, SIZE_MAX}, /* user_id of the body */
                  {HTTP_SESSION_ID, JSON_SESSION_MIN},
                  {HTTP_SESSION_ID_2, JSON_SESSION_MIN},
                  {HTTP_X_SESSION_ID, JSON_SESSION_MIN},
                  {HTTP_X_SESSION_AFFINITY, JSON_SESSION_MIN},
                  {HTTP_X_LITELLM_SESSION_ID, JSON_SESSION_MIN},
                  {HTTP_X_AMP_THREAD_ID, JSON_SESSION_MIN}};
    size_t best = x->scan.user_id ? 2 : OLLA_COUNT(ladder);
    uint64_t h = x->scan.user_id ? x->scan.user_id : x->scan.cache_key ? x->scan.cache_key : x->scan.conversation;
    struct str rest = x->req.fields;
    struct http_field f;
    uint64_t all = 0;

    for (size_t i = 0; i < OLLA_COUNT(ladder); i++) {
        all |= HTTP_BIT(ladder[i].name);
    }
    all &= ~HTTP_BIT(HTTP_OTHER);
    while ((x->req.names & all) && http_next_field(&rest, &f)) {
        for (size_t i = 0; i < best; i++) {
            if (f.id == ladder[i].name && f.value.n >= ladder[i].least) {
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
        authorization = http_request_get(&x->req, HTTP_AUTHORIZATION);
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
