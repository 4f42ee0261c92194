/*
 * presence.c - level 7: see presence.h.
 *
 * No page in a browser may do any of this but one of olla's own: browsers send
 * the origin of a page with each POST, and others do not.
 *
 * May include: olla.h, levels 1 to 6, presence.h.
 */
#include "presence.h"

#include <string.h>

#include "admit.h"
#include "log.h"
#include "probe.h"
#include "wake.h"

/* So long one that was announced is asked again and again. */
#define EXPECT_MS 60000

/* ---- who ---------------------------------------------------------------------------- */

/* The address of the page is olla's own, as the client calls it. */
static bool is_own(const struct exchange *x, struct str url)
{
    struct str authority = str_skip(url, str_find(url, ':') + 3); /* behind "scheme://" */

    authority.n = str_find(authority, '/');
    return (str_istarts(url, STR("http://")) || str_istarts(url, STR("https://"))) && authority.n > 0 &&
           str_ieq(authority, x->req.host);
}

/* An address, or a name that means this machine for everybody: no foreign name, which could lead here by a trick. */
static bool is_plain_host(struct str host)
{
    bool bracket = str_starts(host, STR("["));
    struct str name = {host.p + bracket, str_find(str_skip(host, bracket), bracket ? ']' : ':')};
    struct cidr_addr literal;

    return str_ieq(name, STR("localhost")) || cidr_parse_addr(name, &literal) == OLLA_OK;
}

/* What a browser adds to what its page sends. */
static bool from_foreign_page(const struct exchange *x, bool by_key)
{
    struct str rest = x->req.fields;
    struct http_field f;

    while (http_next_field(&rest, &f)) {
        bool origin = f.id == HTTP_ORIGIN || f.id == HTTP_REFERER;
        if (origin && (!is_own(x, f.value) || !(by_key || is_plain_host(x->req.host)))) {
            return true;
        }
        if (f.id == HTTP_SEC_FETCH_SITE && !str_ieq(f.value, STR("same-origin")) && !str_ieq(f.value, STR("none"))) {
            return true;
        }
    }
    return false;
}

/* ---- what --------------------------------------------------------------------------- */

static const char *do_check(struct endpoint *e)
{
    endpoint_expect(e, e->wake.can ? (uint64_t)e->wake.timeout : EXPECT_MS);
    return e->enabled ? NULL : "is disabled";
}

static const char *do_enable(struct endpoint *e)
{
    if (e->configured) {
        endpoint_enable(e, true);
    }
    return e->configured ? NULL : "is disabled by the configuration: change it there";
}

static const char *do_disable(struct endpoint *e)
{
    endpoint_enable(e, false);
    upstream_drop_idle(e);
    probe_cancel(e);
    return NULL;
}

static const char *do_drain(struct endpoint *e)
{
    e->draining = true;
    endpoint_tell();
    return e->enabled ? NULL : "is disabled";
}

static const char *do_wake(struct endpoint *e)
{
    if (!e->enabled) {
        return "is disabled";
    }
    return wake_start(e, "asked for by hand") ? NULL : "cannot be woken: it has no wake.mac";
}

static const struct {
    struct str name;
    const char *(*act)(struct endpoint *e); /* why not, or NULL */
} actions[] = {
    {STR("check"), do_check}, {STR("enable"), do_enable}, {STR("disable"), do_disable},
    {STR("drain"), do_drain}, {STR("wake"), do_wake},
};

static struct endpoint *find(struct str name)
{
    struct endpoint *e;
    int i = 0;
    while ((e = endpoint_at(i)) != NULL && !str_eq(str_of(e->name), name)) {
        i++;
    }
    return e;
}

static bool refuse(struct reply_error *err, int status, const char *code, const char *message)
{
    *err = (struct reply_error){.status = status, .code = code, .message = message};
    return false;
}

bool presence_check(struct exchange *x, struct reply_error *err)
{
    static char mem[160];
    struct text t = text_in(mem, sizeof(mem) - 1);
    struct str path = x->route.target, name = path, action;
    bool by_key = admit_whole_key(x);
    size_t i = 0;

    while (name.n > 0 && name.p[name.n - 1] != '/') {
        name.n--;
    }
    action = str_skip(path, name.n);
    name.n -= name.n > 0;
    struct endpoint *e = find(name);
    while (i < OLLA_COUNT(actions) && !str_eq(actions[i].name, action)) {
        i++;
    }
    if (!by_key && !admit_by_place(x)) {
        return refuse(err, 403, "not_allowed",
                      "only from the addresses of dashboard.access_policy, or with an API key that is for all models");
    }
    if (from_foreign_page(x, by_key)) {
        return refuse(err, 403, "not_allowed", "not from a page of another site");
    }
    if (!e || i == OLLA_COUNT(actions)) {
        return refuse(err, 404, "not_found",
                      e ? "there is check, enable, disable, drain and wake" : "no endpoint has this name");
    }
    if (!str_eq(x->req.method, STR("POST"))) {
        return refuse(err, 405, "not_allowed", "this path takes POST only");
    }
    const char *why = actions[i].act(e);
    if (log_begin(LOG_INFO, "by hand")) {
        log_z("endpoint", e->name);
        log_str("action", action);
        log_z("client", exchange_client(x));
        if (why) {
            log_z("refused", why);
        }
        log_end();
    }
    if (why) {
        text_addz(&t, "endpoint \"");
        text_addz(&t, e->name);
        text_addz(&t, "\" ");
        text_addz(&t, why);
        return refuse(err, 409, "conflict", text_z(&t));
    }
    x->filter.endpoints = endpoint_bit(e);
    return true;
}

bool presence_page(struct exchange *x, struct text *t, uint32_t i)
{
    struct endpoint *e;
    for (int k = 0; i == 0 && (e = endpoint_at(k)) != NULL; k++) {
        if (x->filter.endpoints & endpoint_bit(e)) {
            text_addz(t, "{\"endpoint\":");
            json_text(t, str_of(e->name));
            json_member(t, "status", str_of(e->enabled ? endpoint_state_name(e->state) : "disabled"));
            text_addz(t, e->draining ? ",\"draining\":true" : ",\"draining\":false");
            if (e->wake.can) {
                json_member(t, "wake", str_of(wake_view(e).state));
            }
            text_addz(t, "}\n");
        }
    }
    return i == 0;
}
