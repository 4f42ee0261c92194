/*
 * conf_url.c - level 3: http:// URLs of the configuration.
 *
 * Stricter than RFC 3986 on purpose: what is accepted here can be put into a
 * Host header and a request line without another look at it.
 *
 * May include: conf.h, str.h.
 */
#include <string.h>

#include "conf_internal.h"

struct url_parts {
    struct str host; /* without brackets */
    bool v6;
    uint16_t port;
    struct str path; /* with its trailing slashes */
};

const char conf_no_room[] = "no room left for its text";

static bool is_digit(char ch)
{
    return ch >= '0' && ch <= '9';
}

static bool is_hex(char ch)
{
    char low = str_lower(ch);

    return is_digit(ch) || (low >= 'a' && low <= 'f');
}

static bool is_alnum(char ch)
{
    char low = str_lower(ch);

    return is_digit(ch) || (low >= 'a' && low <= 'z');
}

/* Visible ASCII; blanks, control characters and UTF-8 have to be percent-encoded. */
static bool all_visible(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] <= ' ' || s.p[i] >= 0x7f) {
            return false;
        }
    }
    return true;
}

/* Labels of letters, digits, '-' and '_' with dots between; a dot at the end is the DNS root. */
static bool good_name(struct str s)
{
    size_t label = 0;

    if (s.n == 0 || s.n > 253) {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '.') {
            if (label == 0) {
                return false;
            }
            label = 0;
        } else if (is_alnum(s.p[i]) || s.p[i] == '-' || s.p[i] == '_') {
            if (++label > 63) {
                return false;
            }
        } else {
            return false;
        }
    }
    return true;
}

/* The shape only; connecting decides about the rest. */
static bool good_v6(struct str s)
{
    size_t colons = 0;

    if (s.n < 2 || s.n > 45) {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == ':') {
            colons++;
        } else if (!is_hex(s.p[i]) && s.p[i] != '.') {
            return false;
        }
    }
    return colons >= 2 && colons <= 7;
}

static int split_authority(struct str authority, struct url_parts *out, const char **why)
{
    struct str rest;
    uint64_t port = 80;

    out->v6 = authority.n > 0 && authority.p[0] == '[';
    if (out->v6) {
        size_t end = str_find(authority, ']');

        if (end == authority.n) {
            *why = "the ] of the IPv6 address is missing";
            return OLLA_ERR;
        }
        out->host = (struct str){authority.p + 1, end - 1};
        rest = str_skip(authority, end + 1);
    } else {
        out->host = (struct str){authority.p, str_find(authority, ':')};
        rest = str_skip(authority, out->host.n);
    }
    if (out->host.n == 0) {
        *why = "the host is missing";
        return OLLA_ERR;
    }
    if (!(out->v6 ? good_v6(out->host) : good_name(out->host))) {
        *why = "not a valid host";
        return OLLA_ERR;
    }
    if (rest.n > 0) {
        if (rest.p[0] != ':' || str_to_u64(str_skip(rest, 1), 65535, &port) != OLLA_OK || port == 0) {
            *why = "the port is not a number from 1 to 65535";
            return OLLA_ERR;
        }
    }
    out->port = (uint16_t)port;
    return OLLA_OK;
}

static int split_url(struct str url, struct url_parts *out, const char **why)
{
    size_t end = 0;
    struct str rest;

    if (url.n == 0) {
        *why = "empty";
        return OLLA_ERR;
    }
    if (str_istarts(url, STR("https://"))) {
        *why = "https backends are not supported by this build yet";
        return OLLA_ERR;
    }
    if (!str_istarts(url, STR("http://"))) {
        *why = "does not start with http://";
        return OLLA_ERR;
    }
    rest = str_skip(url, sizeof("http://") - 1);
    while (end < rest.n && rest.p[end] != '/' && rest.p[end] != '?' && rest.p[end] != '#') {
        end++;
    }
    if (str_find((struct str){rest.p, end}, '@') < end) {
        *why = "user name and password are not accepted in a URL";
        return OLLA_ERR;
    }
    if (!all_visible(rest)) {
        *why = "blanks and other than visible ASCII characters have to be percent-encoded";
        return OLLA_ERR;
    }
    out->path = str_skip(rest, end);
    if (str_find(out->path, '#') < out->path.n) {
        *why = "a fragment (#...) is not accepted";
        return OLLA_ERR;
    }
    return split_authority((struct str){rest.p, end}, out, why);
}

static const char *keep_authority(struct conf *c, const struct url_parts *u)
{
    char space[288];
    struct text t = text_in(space, sizeof(space));

    text_addz(&t, u->v6 ? "[" : "");
    text_add(&t, u->host);
    text_addz(&t, u->v6 ? "]" : "");
    if (u->port != 80) {
        text_char(&t, ':');
        text_u64(&t, u->port);
    }
    return conf_keep(c, text_str(&t));
}

static int keep_url(struct conf *c, struct str url, const struct url_parts *u, struct conf_url *out, const char **why)
{
    out->text = conf_keep(c, url);
    out->host = conf_keep(c, u->host);
    out->authority = keep_authority(c, u);
    out->path = conf_keep(c, u->path);
    out->port = u->port;
    out->tls = false;
    if (!out->text || !out->host || !out->authority || !out->path) {
        *why = conf_no_room;
        return OLLA_ERR;
    }
    return OLLA_OK;
}

int conf_parse_url(struct conf *c, struct str url, struct conf_url *out, const char **why)
{
    struct url_parts u;

    url = str_trim(url);
    if (split_url(url, &u, why) != OLLA_OK) {
        return OLLA_ERR;
    }
    if (str_find(u.path, '?') < u.path.n) {
        *why = "a query (?...) is not accepted";
        return OLLA_ERR;
    }
    while (u.path.n > 0 && u.path.p[u.path.n - 1] == '/') {
        u.path.n--;
    }
    return keep_url(c, url, &u, out, why);
}

int conf_parse_target(struct conf *c, struct str s, struct conf_url *other, const char **path, const char **why)
{
    char space[1024];
    struct text t = text_in(space, sizeof(space));
    struct url_parts u = {.path = s};

    memset(other, 0, sizeof(*other));
    if (conf_is_absolute(s)) {
        if (split_url(s, &u, why) != OLLA_OK || keep_url(c, s, &u, other, why) != OLLA_OK) {
            return OLLA_ERR;
        }
    } else if (s.n == 0) {
        return OLLA_OK;
    }
    text_addz(&t, u.path.n > 0 && u.path.p[0] == '/' ? "" : "/");
    text_add(&t, u.path);
    *path = t.full ? NULL : conf_keep(c, text_str(&t));
    if (!*path) {
        *path = "";
        *why = conf_no_room;
        return OLLA_ERR;
    }
    return OLLA_OK;
}

bool conf_is_absolute(struct str s)
{
    size_t n = 0;

    while (n < s.n && is_alnum(s.p[n])) {
        n++;
    }
    return n > 0 && str_starts(str_skip(s, n), STR("://"));
}

int conf_check_target(struct str s, const char **why)
{
    struct url_parts u;

    if (conf_is_absolute(s)) {
        return split_url(s, &u, why);
    }
    if (!all_visible(s)) {
        *why = "blanks and other than visible ASCII characters have to be percent-encoded";
        return OLLA_ERR;
    }
    if (str_find(s, '#') < s.n) {
        *why = "a fragment (#...) is not accepted";
        return OLLA_ERR;
    }
    return OLLA_OK;
}
