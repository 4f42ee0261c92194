/*
 * http.c - message heads: finding their end, checking them, walking their lines.
 *
 * Invariants: no byte outside the given slice is read; a head that passes holds no
 * control byte except HTAB in values and the CRLF of its lines; every field has a
 * token for a name; at most one way to find the end of the body was announced.
 * Bodies are in http_body.c, paths and small tables in http_path.c.
 *
 * May include: http.h, str.h, standard C headers.
 */
#include "http.h"

#include <string.h>

#define KEEP_ALIVE_MAX_S 86400u
#define MAX_OPTIONS      32

/* Everything the header lines say about the message, gathered in one walk. */
struct facts {
    struct http_error *err;
    bool response;
    bool close;
    bool keep_alive;
    bool expect;
    bool has_length;
    bool chunked;
    bool other_coding; /* one that is not implemented */
    unsigned options;  /* in Connection fields */
    unsigned keep_alive_s;
    uint64_t length;
    struct str host;
    struct str content_type;
    struct str hop;
    uint64_t names;
};

static int refuse(struct http_error *err, int status, const char *why)
{
    err->status = status;
    err->why = why;
    return OLLA_ERR;
}

/* ---- bytes ---------------------------------------------------------------- */

/* Length of the token (RFC 9110, 5.6.2) at the start of s. */
static size_t token_length(struct str s)
{
    size_t n = 0;

    while (n < s.n && (http_class[(unsigned char)s.p[n]] & HTTP_IS_TOKEN)) {
        n++;
    }
    return n;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Not 0 if one of eight bytes is below 0x20 or 0x7f; of those found the lowest in memory is never a false one. */
static uint64_t controls_of(const char *p)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t x, del;

    /* The top bit of a byte of either term is set if the byte is such a one. */
    memcpy(&x, p, sizeof(x));
    del = x ^ (ones * 0x7f);
    return (((x - ones * 0x20) & ~x) | ((del - ones) & ~del)) & (ones * 0x80);
}

/* Position of the first control byte other than HTAB, or s.n. */
static size_t find_control(struct str s)
{
    size_t i = 0;

    for (;;) {
        uint64_t hits = 0;
        while (s.n - i >= sizeof(uint64_t) && (hits = controls_of(s.p + i)) == 0) {
            i += sizeof(uint64_t);
        }
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        i += hits ? (size_t)__builtin_ctzll(hits) / 8 : 0;
#endif
        for (size_t k = 0; k < sizeof(uint64_t) && i < s.n; k++, i++) {
            if (((unsigned char)s.p[i] < 0x20 && s.p[i] != '\t') || s.p[i] == 0x7f) {
                return i;
            }
        }
        if (i == s.n) {
            return i;
        }
    }
}

static bool has_control(struct str s)
{
    return find_control(s) < s.n;
}

/* ---- finding the end of a head -------------------------------------------- */

long http_find_end(struct str in, size_t *scanned, struct http_error *err)
{
    size_t n = in.n < OLLA_MAX_HEAD ? in.n : OLLA_MAX_HEAD;
    size_t at = *scanned < n ? *scanned : n;
    bool found = false;

    if (n == 0) {
        return OLLA_AGAIN;
    }
    while (at < n && !found) {
        size_t end = at + find_control((struct str){in.p + at, n - at});
        char c = end < n ? in.p[end] : '\0';
        if (end < n && c != '\r') {
            if (c == '\n' || c == '\0') {
                return refuse(err, 400, c == '\n' ? "line ends with a bare LF" : "NUL in the head");
            }
            at = end + 1; /* what it may be is judged with the line that it stands in */
            continue;
        }
        if (end + 1 >= n) {
            at = end; /* a CR at the very end is looked at again, with what follows it */
            break;
        }
        if (in.p[end + 1] != '\n') {
            return refuse(err, 400, "bare CR in the head");
        }
        at = end + 2;
        found = end == 0 || in.p[end - 1] == '\n';
    }
    *scanned = at;
    if (found) {
        return (long)at;
    }
    if (n == OLLA_MAX_HEAD) {
        return refuse(err, 431, "head is too large");
    }
    return OLLA_AGAIN;
}

size_t http_skip_blank_lines(struct str in)
{
    return in.n >= 2 && in.p[0] == '\r' && in.p[1] == '\n' ? 2 : 0;
}

/* Takes a line off *rest, without its CRLF. false if there is none that ends with CRLF. */
static bool take_line(struct str *rest, struct str *line)
{
    const char *lf = rest->n > 0 ? memchr(rest->p, '\n', rest->n) : NULL;
    if (!lf || lf == rest->p || lf[-1] != '\r') {
        return false;
    }
    size_t n = (size_t)(lf - rest->p);
    *line = (struct str){rest->p, n - 1};
    *rest = (struct str){lf + 1, rest->n - n - 1};
    return true;
}

/* ---- what single fields say ------------------------------------------------ */

/* host[:port] with a name, an IPv4 address or a bracketed IPv6 address; the port may be empty. */
static bool is_host(struct str s)
{
    bool bracket = s.n > 0 && s.p[0] == '[';
    size_t n = bracket ? 1 : 0;
    uint64_t number;

    while (n < s.n && (bracket ? str_hex_value(s.p[n]) >= 0 || s.p[n] == ':' || s.p[n] == '.'
                               : http_class[(unsigned char)s.p[n]] & HTTP_IS_HOST)) {
        n++;
    }
    if (bracket && (n < 3 || n == s.n || s.p[n++] != ']')) {
        return false;
    }
    struct str port = str_skip(s, n);
    return port.n == 0 ||
           (port.p[0] == ':' && (port.n == 1 || str_to_u64(str_skip(port, 1), 65535, &number) == OLLA_OK));
}

static int take_host(struct facts *f, const struct http_field *field)
{
    if (f->response) {
        return OLLA_OK;
    }
    if (f->host.p) {
        return refuse(f->err, 400, "more than one Host header");
    }
    f->host = field->value;
    return is_host(f->host) ? OLLA_OK : refuse(f->err, 400, "malformed Host header");
}

static int take_length(struct facts *f, const struct http_field *field)
{
    /* A list of equal numbers comes from servers that joined two headers: harmless in a response. */
    for (struct str rest = field->value; rest.p;) {
        uint64_t length;
        if (str_to_u64(str_split(&rest, ','), INT64_MAX, &length) != OLLA_OK || (rest.p && !f->response)) {
            return refuse(f->err, 400, "malformed Content-Length header");
        }
        if (f->has_length && (!f->response || length != f->length)) {
            return refuse(f->err, 400, "conflicting or repeated Content-Length header");
        }
        f->has_length = true;
        f->length = length;
    }
    return OLLA_OK;
}

static int take_coding(struct facts *f, const struct http_field *field)
{
    for (struct str rest = field->value; rest.p;) {
        struct str item = str_split(&rest, ',');
        if (item.n == 0) {
            return refuse(f->err, 400, "malformed Transfer-Encoding header");
        }
        if (f->chunked) {
            return refuse(f->err, 400, "Transfer-Encoding: chunked must be the last coding and stand only once");
        }
        f->chunked = str_ieq(item, STR("chunked"));
        f->other_coding = f->other_coding || !f->chunked;
    }
    return OLLA_OK;
}

static enum http_name name_of(struct str name);
static bool always_hop_by_hop(enum http_name name);

static int take_connection(struct facts *f, const struct http_field *field)
{
    for (struct str rest = field->value; rest.p;) {
        struct str item = str_split(&rest, ',');
        if (++f->options > MAX_OPTIONS) {
            return refuse(f->err, 400, "too many connection options"); /* each is compared with each field */
        }
        if (str_ieq(item, STR("close"))) {
            f->close = true;
        } else if (str_ieq(item, STR("keep-alive"))) {
            f->keep_alive = true;
        } else if (item.n > 0 && !always_hop_by_hop(name_of(item))) {
            const char *start = f->hop.p ? f->hop.p : field->line.p;
            f->hop = (struct str){start, (size_t)(field->line.p - start) + field->line.n};
        }
    }
    return OLLA_OK;
}

static int take_expect(struct facts *f, const struct http_field *field)
{
    f->expect = f->expect || str_ieq(field->value, STR("100-continue"));
    return OLLA_OK;
}

static int take_content_type(struct facts *f, const struct http_field *field)
{
    f->content_type = f->content_type.p ? f->content_type : field->value;
    return OLLA_OK;
}

static int take_keep_alive(struct facts *f, const struct http_field *field)
{
    for (struct str rest = field->value; rest.p;) {
        struct str item = str_split(&rest, ',');
        uint64_t s;
        if (str_istarts(item, STR("timeout=")) &&
            str_to_u64(str_skip(item, sizeof("timeout=") - 1), UINT64_MAX, &s) == OLLA_OK) {
            f->keep_alive_s = s < KEEP_ALIVE_MAX_S ? (unsigned)s : KEEP_ALIVE_MAX_S;
            f->close = f->close || s == 0;
        }
    }
    return OLLA_OK;
}

/* "close" is a connection option, and for that reason no field may have this name. Having it
 * here makes a plain "Connection: close" one that names no field. */
#define HOP_NAMES                                                                                                   \
    (HTTP_BIT(HTTP_CONNECTION) | HTTP_BIT(HTTP_TRANSFER_ENCODING) | HTTP_BIT(HTTP_KEEP_ALIVE) | HTTP_BIT(HTTP_TE) | \
     HTTP_BIT(HTTP_CLOSE) | HTTP_BIT(HTTP_TRAILER) | HTTP_BIT(HTTP_UPGRADE) | HTTP_BIT(HTTP_HTTP2_SETTINGS) |       \
     HTTP_BIT(HTTP_PROXY_CONNECTION) | HTTP_BIT(HTTP_PROXY_AUTHENTICATE) | HTTP_BIT(HTTP_PROXY_AUTHORIZATION))

static const struct str known_names[HTTP_NAME_COUNT] = {[HTTP_OTHER] = {"", 0},
#define X(id, text) [HTTP_##id] = {text, sizeof(text) - 1},
                                                        HTTP_NAMES(X)
#undef X
};

/* Do not compile if a name has no bit. */
enum { NAMES_FIT = 1 / (HTTP_NAME_COUNT <= 64) };

#define NAME_MAX_LENGTH 31

static enum http_name name_of(struct str name)
{
    /* Of each length the last one, and for each name the one before it of the same length; 0 = there is none. */
    static uint8_t last[NAME_MAX_LENGTH + 1], before[HTTP_NAME_COUNT];
    static bool ready;

    for (size_t i = 1; !ready && i < HTTP_NAME_COUNT; i++) {
        before[i] = last[known_names[i].n];
        last[known_names[i].n] = (uint8_t)i;
    }
    ready = true;
    if (name.n > NAME_MAX_LENGTH) {
        return HTTP_OTHER;
    }
    for (size_t i = last[name.n]; i > 0; i = before[i]) {
        if (str_lower(name.p[0]) == known_names[i].p[0] && str_ieq(name, known_names[i])) {
            return (enum http_name)i;
        }
    }
    return HTTP_OTHER;
}

static bool always_hop_by_hop(enum http_name name)
{
    return (HOP_NAMES >> name & 1) != 0;
}

/* What they say about the message. */
static int (*const takers[HTTP_NAME_COUNT])(struct facts *f, const struct http_field *field) = {
    [HTTP_HOST] = take_host,
    [HTTP_CONNECTION] = take_connection,
    [HTTP_CONTENT_LENGTH] = take_length,
    [HTTP_CONTENT_TYPE] = take_content_type,
    [HTTP_TRANSFER_ENCODING] = take_coding,
    [HTTP_EXPECT] = take_expect,
    [HTTP_KEEP_ALIVE] = take_keep_alive,
};

/* ---- all header lines -------------------------------------------------------- */

/* Servers that make variables of names (CGI, WSGI) take '_' for '-': for them these would frame the body. */
static bool is_disguised(struct str name)
{
    static const struct {
        struct str before, after;
    } parts[] = {{{"content", 7}, {"length", 6}}, {{"transfer", 8}, {"encoding", 8}}};

    for (size_t i = 0; i < OLLA_COUNT(parts); i++) {
        size_t n = parts[i].before.n;
        if (name.n == n + 1 + parts[i].after.n && name.p[n] == '_' && str_istarts(name, parts[i].before) &&
            str_ieq(str_skip(name, n + 1), parts[i].after)) {
            return true;
        }
    }
    return false;
}

/* rest: this line and all behind it, which are whole lines. *used: its length with its end. */
static int check_field(struct facts *f, struct str rest, size_t *used)
{
    size_t n = token_length(rest), end = n + find_control(str_skip(rest, n));
    struct str line = {rest.p, end};

    if (rest.n - end < 2 || rest.p[end] == '\n' || (rest.p[end] == '\r' && rest.p[end + 1] != '\n')) {
        return refuse(f->err, 400, "malformed line in the head");
    }
    *used = end + 2;
    if (n == 0 && (rest.p[0] == ' ' || rest.p[0] == '\t')) {
        return refuse(f->err, 400, "folded header lines are not supported");
    }
    if (n == 0 || n == line.n || line.p[n] != ':') {
        return refuse(f->err, 400, "invalid header name");
    }
    if (!f->response && is_disguised((struct str){line.p, n})) {
        return refuse(f->err, 400, "a header that frames the body, written with an underscore");
    }
    /* Before trimming: the check must see every byte up to the CRLF. */
    struct str value = str_skip(line, n + 1);
    if (rest.p[end] != '\r') {
        return refuse(f->err, 400, "invalid header value");
    }
    enum http_name id = name_of((struct str){line.p, n});
    f->names |= HTTP_BIT(id);
    if (!takers[id]) {
        return OLLA_OK;
    }
    return takers[id](f, &(struct http_field){{line.p, n}, str_trim(value), {line.p, line.n + 2}, id});
}

/* rest: all behind the first line. Fills f; *fields gets the lines without the empty one. */
static int check_fields(struct facts *f, struct str rest, int minor, struct str *fields)
{
    const char *start = rest.p;
    size_t used;

    for (unsigned count = 0; !str_starts(rest, STR("\r\n")); count++) {
        if (rest.n == 0) {
            return refuse(f->err, 400, "malformed line in the head");
        }
        if (count == OLLA_MAX_HEADERS) {
            return refuse(f->err, 431, "too many header lines");
        }
        if (check_field(f, rest, &used) != OLLA_OK) {
            return OLLA_ERR;
        }
        rest = str_skip(rest, used);
    }
    *fields = (struct str){start, (size_t)(rest.p - start)};
    rest = str_skip(rest, 2);
    f->keep_alive = !f->close && (minor > 0 || f->keep_alive);
    if (rest.n > 0) {
        return refuse(f->err, 400, "bytes behind the head");
    }
    bool coded = f->chunked || f->other_coding;
    if (coded && f->has_length) {
        return refuse(f->err, 400, "both Content-Length and Transfer-Encoding headers");
    }
    if (coded && minor == 0) {
        return refuse(f->err, 400, "Transfer-Encoding in an HTTP/1.0 message");
    }
    return f->other_coding ? refuse(f->err, 501, "unsupported Transfer-Encoding") : OLLA_OK;
}

/* ---- requests ------------------------------------------------------------------ */

static int check_version(struct str version, int *minor, struct http_error *err)
{
    if (version.n != 8 || !str_starts(version, STR("HTTP/")) || !is_digit(version.p[5]) || version.p[6] != '.' ||
        !is_digit(version.p[7])) {
        return refuse(err, 400, "malformed HTTP version");
    }
    if (version.p[5] != '1') {
        return refuse(err, 505, "unsupported protocol version");
    }
    *minor = version.p[7] != '0';
    return OLLA_OK;
}

static void split_target(struct http_request *out, struct str rest)
{
    size_t n = str_find(rest, '?');
    out->path = n > 0 ? (struct str){rest.p, n} : STR("/");
    out->query = str_skip(rest, n + 1 == rest.n ? rest.n : n);
}

static int check_target(struct str target, struct http_request *out, struct http_error *err)
{
    if (target.n == 0 || has_control(target) || memchr(target.p, '\t', target.n)) {
        return refuse(err, 400, "malformed request target");
    }
    if (str_eq(out->method, STR("CONNECT"))) {
        return refuse(err, 400, "CONNECT is not supported");
    }
    if (memchr(target.p, '#', target.n)) {
        return refuse(err, 400, "fragment in the request target");
    }
    if (target.p[0] == '/') {
        split_target(out, target);
        return OLLA_OK;
    }
    if (str_eq(target, STR("*")) && str_eq(out->method, STR("OPTIONS"))) {
        out->path = target;
        return OLLA_OK;
    }
    size_t scheme = str_istarts(target, STR("http://")) ? 7 : str_istarts(target, STR("https://")) ? 8 : 0;
    if (scheme == 0) {
        return refuse(err, 400, "unsupported form of request target");
    }
    struct str rest = str_skip(target, scheme);
    size_t n = 0;
    while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?') {
        n++;
    }
    out->host = (struct str){rest.p, n};
    if (n == 0 || rest.p[0] == ':' || !is_host(out->host)) {
        return refuse(err, 400, "malformed authority in the request target");
    }
    split_target(out, str_skip(rest, n));
    return OLLA_OK;
}

static int check_request_line(struct str line, struct http_request *out, struct http_error *err)
{
    size_t method_n = token_length(line);
    struct str rest = str_skip(line, method_n + 1);
    size_t target_n = str_find(rest, ' ');

    out->method = (struct str){line.p, method_n};
    if (method_n == 0 || method_n == line.n || line.p[method_n] != ' ') {
        return refuse(err, 400, "malformed method");
    }
    if (check_version(str_skip(rest, target_n + 1), &out->minor, err) != OLLA_OK) {
        return OLLA_ERR;
    }
    return check_target((struct str){rest.p, target_n}, out, err);
}

int http_parse_request(struct str head, struct http_request *out, struct http_error *err)
{
    struct facts f = {.err = err};
    struct str line;

    memset(out, 0, sizeof(*out));
    if (!take_line(&head, &line)) {
        return refuse(err, 400, "malformed request line");
    }
    if (check_request_line(line, out, err) != OLLA_OK || check_fields(&f, head, out->minor, &out->fields) != OLLA_OK) {
        return OLLA_ERR;
    }
    if (!f.host.p && out->minor > 0) {
        return refuse(err, 400, "missing required Host header");
    }
    out->host = out->host.p ? out->host : f.host;
    out->keep_alive = f.keep_alive;
    out->expect_continue = f.expect && out->minor > 0;
    out->json = str_matches(f.content_type, STR("*application/json*"));
    out->framing = f.chunked ? HTTP_CHUNKED : f.has_length ? HTTP_LENGTH : HTTP_NO_BODY;
    out->length = f.length;
    out->has_body = f.chunked || f.length > 0;
    out->hop_fields = f.hop;
    out->names = f.names;
    return OLLA_OK;
}

/* ---- responses ------------------------------------------------------------------- */

static int check_status_line(struct str line, struct http_response *out, struct http_error *err)
{
    uint64_t status;

    if (line.n < 12 || check_version((struct str){line.p, 8}, &out->minor, err) != OLLA_OK || line.p[8] != ' ' ||
        line.p[9] == '0' || str_to_u64((struct str){line.p + 9, 3}, 999, &status) != OLLA_OK ||
        (line.n > 12 && line.p[12] != ' ')) {
        return refuse(err, 502, "malformed status line");
    }
    out->status = (int)status;
    out->reason = str_skip(line, 13);
    return has_control(out->reason) ? refuse(err, 502, "malformed status line") : OLLA_OK;
}

int http_parse_response(struct str head, struct str method, struct http_response *out, struct http_error *err)
{
    struct facts f = {.err = err, .response = true};
    struct str line;

    memset(out, 0, sizeof(*out));
    if (!take_line(&head, &line)) {
        return refuse(err, 502, "malformed status line");
    }
    if (check_status_line(line, out, err) != OLLA_OK || check_fields(&f, head, out->minor, &out->fields) != OLLA_OK) {
        err->status = 502;
        return OLLA_ERR;
    }
    bool empty = out->status < 200 || out->status == 204;
    if (empty || out->status == 304 || str_eq(method, STR("HEAD"))) {
        out->framing = HTTP_NO_BODY;
    } else {
        out->framing = f.chunked ? HTTP_CHUNKED : f.has_length ? HTTP_LENGTH : HTTP_TO_CLOSE;
    }
    /* If it promised a body where none can be, whatever comes next cannot be trusted. */
    bool trusted = !(empty && (f.chunked || f.length > 0));
    out->keep_alive = f.keep_alive && trusted && out->framing != HTTP_TO_CLOSE && out->status != 101;
    out->keep_alive_s = f.keep_alive_s;
    out->content_type = f.content_type;
    out->hop_fields = f.hop;
    out->names = f.names;
    out->length = f.length;
    return OLLA_OK;
}

/* ---- walking the lines -------------------------------------------------------------- */

bool http_next_field(struct str *rest, struct http_field *out)
{
    if (rest->n == 0) {
        return false;
    }
    const char *lf = memchr(rest->p, '\n', rest->n);
    out->line = (struct str){rest->p, lf ? (size_t)(lf - rest->p) + 1 : rest->n};
    *rest = str_skip(*rest, out->line.n);

    size_t colon = str_find(out->line, ':');
    out->name = (struct str){out->line.p, colon};
    out->value = str_trim(str_skip(out->line, colon + 1));
    out->id = name_of(out->name);
    return true;
}

struct str http_get(struct str fields, struct str name)
{
    /* Asked for many names per request: only a line that has its colon in the right place is looked at. */
    while (fields.n > 0) {
        const char *lf = memchr(fields.p, '\n', fields.n);
        struct str line = {fields.p, lf ? (size_t)(lf - fields.p) + 1 : fields.n};
        if (line.n > name.n && line.p[name.n] == ':' && str_ieq((struct str){line.p, name.n}, name)) {
            return str_trim(str_skip(line, name.n + 1));
        }
        fields = str_skip(fields, line.n);
    }
    return (struct str){NULL, 0};
}

struct str http_request_get(const struct http_request *m, enum http_name name)
{
    return m->names & HTTP_BIT(name) ? http_get(m->fields, known_names[name]) : (struct str){NULL, 0};
}

struct str http_response_get(const struct http_response *m, enum http_name name)
{
    return m->names & HTTP_BIT(name) ? http_get(m->fields, known_names[name]) : (struct str){NULL, 0};
}

void http_replace_fields(struct text *t, size_t from, struct str lines)
{
    struct str rest = str_skip(text_str(t), from);
    struct http_field f;
    size_t kept = from;

    if (lines.n == 0) {
        return;
    }
    while (http_next_field(&rest, &f)) {
        if (!http_get(lines, f.name).p) {
            memmove(t->p + kept, f.line.p, f.line.n);
            kept += f.line.n;
        }
    }
    t->n = kept;
    text_add(t, lines);
}

/* One of the Connection fields among these lines names it. */
static bool is_named(struct str fields, struct str name)
{
    struct http_field f;

    while (http_next_field(&fields, &f)) {
        if (f.id == HTTP_CONNECTION && str_list_has(f.value, name)) {
            return true;
        }
    }
    return false;
}

bool http_hop_by_hop(struct str fields, struct str name)
{
    return always_hop_by_hop(name_of(name)) || is_named(fields, name);
}

bool http_field_is_hop(struct str fields, const struct http_field *f)
{
    return always_hop_by_hop(f->id) || is_named(fields, f->name);
}
