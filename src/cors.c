/*
 * cors.c - level 5: see cors.h.
 *
 * May include: olla.h, str.h, http.h, conf.h, log.h.
 */
#include "cors.h"

#include "conf.h"
#include "log.h"

/* Longest things that are echoed: an origin is a scheme, a host name (253 bytes) and a port. */
#define ORIGIN_MAX  300
#define HEADERS_MAX 2048

static const char own_headers[] =
    "X-Olla-Request-ID, X-Olla-Endpoint, X-Olla-Backend-Type, X-Olla-Model, X-Olla-Response-Time, "
    "X-Olla-Routing-Strategy, X-Olla-Routing-Decision, X-Olla-Routing-Reason, X-Olla-Mode, X-Olla-Sticky-Session, "
    "X-Olla-Sticky-Key-Source, X-Olla-Session-ID";

/* An item may be "*". Names of headers have no case, methods do. */
static bool list_has(const struct conf_list *list, struct str name, bool any_case)
{
    for (int i = 0; i < list->n; i++) {
        struct str one = str_of(list->item[i]);
        if (any_case ? str_ieq(one, name) || str_eq(one, STR("*")) : str_eq(one, name)) {
            return true;
        }
    }
    return false;
}

static bool name_has(const char *const *names, size_t n, struct str name)
{
    for (size_t i = 0; i < n; i++) {
        if (str_ieq(str_of(names[i]), name)) {
            return true;
        }
    }
    return false;
}

/* ---- origins ----------------------------------------------------------------------- */

/* What may stand for the asterisk of a setting: a part of a host, or a port. No slash, which would end the host. */
static bool is_part_of_host(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = str_lower(s.p[i]);
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '.' && c != '-' && c != '_' && c != ':') {
            return false;
        }
    }
    return s.n > 0;
}

/* What is echoed must look the same to everybody. */
static bool is_visible(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= ' ' || c >= 0x7f) {
            return false;
        }
    }
    return true;
}

static bool origin_matches(struct str origin, struct str pattern)
{
    size_t star = str_find(pattern, '*');
    struct str before = {pattern.p, star}, after = str_skip(pattern, star + 1);

    if (star == pattern.n) {
        return str_ieq(origin, pattern);
    }
    if (origin.n <= before.n + after.n) {
        return false;
    }
    struct str tail = str_skip(origin, origin.n - after.n);
    struct str middle = {origin.p + before.n, origin.n - before.n - after.n};
    return str_istarts(origin, before) && str_ieq(tail, after) && is_part_of_host(middle);
}

static bool all_allowed(void)
{
    return list_has(&conf_now->server.cors.allowed_origins, STR("*"), false);
}

static bool is_allowed(struct str origin)
{
    const struct conf_list *list = &conf_now->server.cors.allowed_origins;
    bool allowed = all_allowed();

    if (origin.n == 0 || origin.n > ORIGIN_MAX || !is_visible(origin)) {
        return false;
    }
    for (int i = 0; i < list->n && !allowed; i++) {
        allowed = origin_matches(origin, str_of(list->item[i]));
    }
    return allowed;
}

/* The one Origin of a request. Two could be read differently: then it has none. */
static struct str origin_of(struct str fields)
{
    struct str origin = STR("");
    struct http_field f;

    for (int n = 0; http_next_field(&fields, &f);) {
        if (f.id == HTTP_ORIGIN) {
            origin = ++n == 1 ? f.value : STR("");
        }
    }
    return origin;
}

static bool method_allowed(struct str method)
{
    const struct conf_list *list = &conf_now->server.cors.allowed_methods;
    bool simple = str_eq(method, STR("GET")) || str_eq(method, STR("POST")) || str_eq(method, STR("HEAD"));

    return str_eq(method, STR("OPTIONS")) || (list->n == 0 ? simple : list_has(list, method, false));
}

static void write_origin(struct str origin, struct text *t)
{
    text_addz(t, "Access-Control-Allow-Origin: ");
    text_add(t, all_allowed() ? STR("*") : origin);
    text_addz(t, conf_now->server.cors.allow_credentials ? "\r\nAccess-Control-Allow-Credentials: true\r\n" : "\r\n");
}

/* ---- preflights ---------------------------------------------------------------------- */

static bool header_allowed(struct str name)
{
    static const char *const least[] = {"accept", "content-type", "x-requested-with"};
    const struct conf_list *list = &conf_now->server.cors.allowed_headers;

    return list->n == 0 ? name_has(least, OLLA_COUNT(least), name) : list_has(list, name, true);
}

/* Adds what of Access-Control-Request-Headers is to be echoed. false: not all of it is allowed. */
static bool take_headers(struct str fields, struct text *t)
{
    struct http_field f;

    while (http_next_field(&fields, &f)) {
        struct str list = f.value;
        while (str_ieq(f.name, STR("Access-Control-Request-Headers")) && list.p) {
            struct str one = str_split(&list, ',');
            if (one.n > 0 && (!is_visible(one) || !header_allowed(one))) {
                return false;
            }
            text_addz(t, one.n > 0 && t->n > 0 ? ", " : "");
            text_add(t, one);
        }
    }
    return !t->full;
}

bool cors_is_preflight(const struct http_request *req)
{
    return conf_now->server.cors.enabled && str_eq(req->method, STR("OPTIONS")) &&
           http_request_get(req, HTTP_ACCESS_CONTROL_REQUEST_METHOD).n > 0;
}

void cors_write_preflight(const struct http_request *req, struct text *t)
{
    struct str origin = origin_of(req->fields);
    struct str method = http_request_get(req, HTTP_ACCESS_CONTROL_REQUEST_METHOD);
    static char mem[HEADERS_MAX];
    struct text headers = text_in(mem, sizeof(mem));

    text_addz(t, "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n");
    if (!is_allowed(origin) || !method_allowed(method) || !take_headers(req->fields, &headers)) {
        return;
    }
    write_origin(origin, t);
    text_addz(t, "Access-Control-Allow-Methods: ");
    text_add(t, method);
    if (headers.n > 0) {
        text_addz(t, "\r\nAccess-Control-Allow-Headers: ");
        text_add(t, text_str(&headers));
    }
    if (conf_now->server.cors.max_age > 0) {
        text_addz(t, "\r\nAccess-Control-Max-Age: ");
        text_u64(t, (uint64_t)conf_now->server.cors.max_age);
    }
    text_addz(t, "\r\n");
}

/* ---- other replies --------------------------------------------------------------------- */

void cors_write_reply(const struct http_request *req, struct text *t)
{
    const struct conf_list *exposed = &conf_now->server.cors.exposed_headers;

    if (!conf_now->server.cors.enabled) {
        return;
    }
    struct str origin = origin_of(req->fields);
    text_addz(t, "Vary: Origin\r\n");
    if (!is_allowed(origin) || !method_allowed(req->method)) {
        return;
    }
    write_origin(origin, t);
    text_addz(t, "Access-Control-Expose-Headers: ");
    text_addz(t, exposed->n == 0 ? own_headers : "");
    for (int i = 0; i < exposed->n; i++) {
        text_addz(t, i > 0 ? ", " : "");
        text_addz(t, exposed->item[i]);
    }
    text_addz(t, "\r\n");
}

bool cors_replaces(struct str name)
{
    return conf_now->server.cors.enabled && str_istarts(name, STR("Access-Control-"));
}

void cors_log(void)
{
    char mem[512];
    struct text t = text_in(mem, sizeof(mem));
    const struct conf_list *list = &conf_now->server.cors.allowed_origins;

    for (int i = 0; i < list->n; i++) {
        text_addz(&t, i > 0 ? ", " : "");
        text_addz(&t, list->item[i]);
    }
    if (conf_now->server.cors.enabled && log_begin(LOG_INFO, "CORS enabled")) {
        log_str("origins", text_str(&t));
        log_z("credentials", conf_now->server.cors.allow_credentials ? "true" : "false");
        log_end();
    }
}
