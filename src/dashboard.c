/*
 * dashboard.c - level 7: see dashboard.h. The page itself is in src/ui; the
 * Makefile turns it into the strings below. It reads the JSON that everybody
 * reads who may: there is nothing here but its files.
 *
 * Invariants:
 *  1. Who may look is decided by the address of the peer and by Host, never by
 *     what a proxy says: Host keeps foreign pages out that got an address of
 *     this machine for a name of their own (DNS rebinding).
 *  2. Every reply has the headers below. Scripts and styles come from these
 *     files only, nothing else is loaded, and no text can become markup.
 *
 * May include: olla.h, levels 1 to 6, dashboard.h.
 */
#include "dashboard.h"

#include "admit.h"
#include "log.h"
#include "sha256.h"

#define GUARD                                                                                                 \
    "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\n"            \
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "       \
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; trusted-types 'none'; " \
    "require-trusted-types-for 'script'\r\n"
#define HOST_SHOWN 200 /* bytes of it in an answer */

/* Made from src/ui. */
extern const struct str ui_index_html, ui_olla_js, ui_olla_css;

static struct file {
    struct str name;
    const char *type;
    const struct str *bytes;
    char tag[36]; /* in quotes; "" = not made yet */
} files[] = {
    {.name = STR("index.html"), .type = "text/html; charset=utf-8", .bytes = &ui_index_html},
    {.name = STR("olla.js"), .type = "text/javascript; charset=utf-8", .bytes = &ui_olla_js},
    {.name = STR("olla.css"), .type = "text/css; charset=utf-8", .bytes = &ui_olla_css},
};
static char modified[32];

void dashboard_init(int64_t start_wall)
{
    str_copy(modified, sizeof(modified), http_date(start_wall));
}

/* Of what is in it. Made when somebody asks for the first time: most never do, and then the page is not even read in. */
static const char *tag_of(struct file *f)
{
    if (!f->tag[0]) {
        unsigned char digest[SHA256_BYTES];
        struct text t = text_in(f->tag, sizeof(f->tag));

        sha256_of(*f->bytes, digest);
        text_char(&t, '"');
        for (size_t k = 0; k < SHA256_BYTES / 2; k++) {
            text_hex(&t, digest[k], 2);
        }
        text_char(&t, '"');
        text_z(&t);
    }
    return f->tag;
}

/* ---- who may look ------------------------------------------------------------------ */

/* Without port and brackets. */
static struct str host_of(const struct exchange *x)
{
    struct str host = x->req.host;

    if (host.n > 0 && host.p[0] == '[') {
        return (struct str){host.p + 1, str_find(str_skip(host, 1), ']')};
    }
    host.n = str_find(host, ':');
    return host;
}

static bool host_is_known(struct str host)
{
    const struct conf_list *list = &conf_now->dashboard.access_policy.allowed_hosts;
    struct cidr_addr literal;
    bool known = cidr_parse_addr(host, &literal) == OLLA_OK;

    for (int i = 0; i < list->n; i++) {
        known = known || str_ieq(host, str_of(list->item[i]));
    }
    return known;
}

/* What is wrong, or NULL. *key: the setting that says so. */
static const char *refused(const struct exchange *x, const char **key)
{
    *key = "dashboard.access_policy.allowed_cidrs";
    if (!admit_shows(x)) {
        return "ip not in allowed range";
    }
    *key = "dashboard.access_policy.allowed_hosts";
    return host_is_known(host_of(x)) ? NULL : "host not accepted";
}

static void note_refusal(const struct exchange *x, const char *why, const char *key, struct str host)
{
    static uint64_t last;

    if (log_allowed(&last, net_now()) && log_begin(LOG_WARN, "dashboard access denied")) {
        log_z("reason", why);
        log_z("config_key", key);
        log_z("client_ip", x->c->peer_text);
        log_str("host", host);
        log_end();
    }
}

/* ---- replies ------------------------------------------------------------------------- */

static void say(struct reply_own *out, int status, struct str sentence)
{
    out->status = status;
    out->type = "text/plain; charset=utf-8";
    out->body = sentence;
}

static void refuse(struct exchange *x, struct reply_own *out, const char *why, const char *key)
{
    static char mem[512 + HOST_SHOWN];
    struct text t = text_in(mem, sizeof(mem));
    struct str host = x->req.host;

    host.n = host.n < HOST_SHOWN ? host.n : HOST_SHOWN;
    text_addz(&t, "403 forbidden: ");
    text_addz(&t, why);
    text_addz(&t, " (ip=");
    text_addz(&t, x->c->peer_text);
    text_addz(&t, ", host=");
    text_add(&t, host);
    text_addz(&t, "). Adjust dashboard.access_policy.allowed_hosts (or allowed_cidrs) in your config.\n");
    say(out, 403, text_str(&t));
    note_refusal(x, why, key, host);
}

/* The file of a path below /internal/ui/; whatever looks like no file is the page. -1 = none. */
static int find(struct str path)
{
    struct str last = path;

    while (str_find(last, '/') < last.n) {
        last = str_skip(last, str_find(last, '/') + 1);
    }
    for (size_t i = 0; i < OLLA_COUNT(files); i++) {
        if (str_eq(path, files[i].name)) {
            return (int)i;
        }
    }
    return str_find(last, '.') < last.n || str_starts(path, STR("assets/")) ? -1 : 0;
}

/* Always asked for anew, never sent twice: so a new olla shows its own page, all of it, at once. */
static void send_file(struct exchange *x, struct reply_own *out, int i)
{
    static char mem[1024];
    struct text t = text_in(mem, sizeof(mem));
    struct str since = http_request_get(&x->req, HTTP_IF_MODIFIED_SINCE);
    const char *tag = tag_of(&files[i]);

    text_addz(&t, GUARD "Cache-Control: no-cache\r\nETag: ");
    text_addz(&t, tag);
    text_addz(&t, "\r\nLast-Modified: ");
    text_addz(&t, modified);
    text_addz(&t, "\r\n");
    out->lines = text_str(&t);
    if (http_request_get(&x->req, HTTP_IF_NONE_MATCH).p ? reply_none_match(x, str_of(tag))
                                                        : str_eq(since, str_of(modified))) {
        out->status = 304;
        return;
    }
    x->place.index = (uint32_t)i;
    out->status = 200;
    out->type = files[i].type;
    out->body = *files[i].bytes;
}

bool dashboard_check(struct exchange *x, struct reply_error *err)
{
    (void)x;
    *err = (struct reply_error){.status = 404, .code = "not_found", .message = "404 page not found"};
    return conf_now->dashboard.enabled;
}

void dashboard_own(struct exchange *x, struct reply_own *out)
{
    const char *key, *why = refused(x, &key);
    bool looks = str_eq(x->req.method, STR("GET")) || x->is_head;
    int i = find(x->route.target);

    *out = (struct reply_own){.lines = STR(GUARD)};
    if (why) {
        refuse(x, out, why, key);
    } else if (!looks) {
        out->lines = STR(GUARD "Allow: GET, HEAD\r\n");
        say(out, 405, STR("method not allowed\n"));
    } else if (str_eq(x->req.path, STR("/internal/ui"))) {
        out->lines = STR(GUARD "Location: /internal/ui/\r\n");
        say(out, 307, STR("Temporarily moved: add a slash to the path.\n"));
    } else if (i < 0) {
        say(out, 404, STR("404 page not found\n"));
    } else {
        send_file(x, out, i);
    }
}

int dashboard_write(struct exchange *x, struct text *t)
{
    struct str rest = str_skip(*files[x->place.index].bytes, x->cursor);
    size_t room = t->cap - t->n;

    text_add(t, (struct str){rest.p, rest.n < room ? rest.n : room});
    x->cursor += (uint32_t)(rest.n < room ? rest.n : room);
    return rest.n > room;
}
