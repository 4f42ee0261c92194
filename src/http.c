/*
 * http.c - message heads: finding their end and checking them.
 *
 * Invariants: no byte outside the given slice is read; a head that passes holds no
 * control byte except HTAB in values and the CRLF of its lines; every field has a
 * token for a name; at most one way to find the end of the body was announced.
 * Walking the lines of a checked head is in http_field.c, bodies are in http_body.c,
 * paths and small tables in http_path.c.
 *
 * May include: http.h, str.h, standard C headers.
 */
#include "http.h"

#include <string.h>

#define KEEP_ALIVE_MAX_S 86400u

/* Everything the header lines say about the message, gathered in one walk. */
#define MAX_OPTIONS 32

struct head_facts {
    bool response;
    bool close;
    bool keep_alive;
    bool upgrade;   /* Connection: upgrade */
    bool websocket; /* Upgrade: websocket */
    bool expect;
    bool has_host;
    bool has_length;
    bool has_coding;
    bool chunked;
    bool other_coding; /* one that is not implemented */
    unsigned options;  /* in Connection fields */
    bool never_reuse;  /* Keep-Alive: timeout=0 */
    unsigned keep_alive_s;
    uint64_t length;
    struct str host;
    struct str content_type;
    struct str connection;
    struct str hop;
};

typedef int take_fn(struct head_facts *f, const struct http_field *field, struct http_error *err);

static int refuse(struct http_error *err, int status, const char *why)
{
    err->status = status;
    err->why = why;
    return OLLA_ERR;
}

/* ---- bytes ---------------------------------------------------------------- */

static bool all_of(struct str s, uint8_t class)
{
    for (size_t i = 0; i < s.n; i++) {
        if (!(http_class[(unsigned char)s.p[i]] & class)) {
            return false;
        }
    }
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* A control byte other than HTAB. */
static bool is_control(char c)
{
    return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f;
}

static bool has_control(struct str s)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    size_t i = 0;

    /* Eight bytes at a time: the top bit of a byte is set if it is below 0x20 or equal to
     * 0x7f. It may be set wrongly above such a byte, and for HTAB: then the bytes decide. */
    for (; s.n - i >= sizeof(uint64_t); i += sizeof(uint64_t)) {
        uint64_t x;
        memcpy(&x, s.p + i, sizeof(x));
        uint64_t del = x ^ (ones * 0x7f);
        uint64_t hits = ((x - ones * 0x20) & ~x) | ((del - ones) & ~del);
        if (!(hits & (ones * 0x80))) {
            continue;
        }
        for (size_t k = i; k < i + sizeof(x); k++) {
            if (is_control(s.p[k])) {
                return true;
            }
        }
    }
    for (; i < s.n; i++) {
        if (is_control(s.p[i])) {
            return true;
        }
    }
    return false;
}

static bool contains_ignoring_case(struct str s, struct str part)
{
    for (; s.n >= part.n; s = str_skip(s, 1)) {
        if (str_istarts(s, part)) {
            return true;
        }
    }
    return false;
}

/* ---- finding the end of a head -------------------------------------------- */

long http_find_end(struct str in, size_t *scanned, struct http_error *err)
{
    size_t n = in.n < OLLA_MAX_HEAD ? in.n : OLLA_MAX_HEAD;
    size_t from = *scanned < n ? *scanned : n;
    size_t at = from;
    bool found = false;

    if (n == 0) {
        return OLLA_AGAIN;
    }
    while (at < n && !found) {
        const char *cr = memchr(in.p + at, '\r', n - at);
        size_t end = cr ? (size_t)(cr - in.p) : n;
        if (memchr(in.p + at, '\n', end - at)) {
            return refuse(err, 400, "line ends with a bare LF");
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
    /* Only up to the end: NUL is a fine byte in the body that may follow. */
    if (memchr(in.p + from, '\0', at - from)) {
        return refuse(err, 400, "NUL in the head");
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
    size_t end;

    if (s.n > 0 && s.p[0] == '[') {
        end = str_find(s, ']');
        if (end == s.n || end < 3) {
            return false;
        }
        for (size_t i = 1; i < end; i++) {
            if (http_hex_value(s.p[i]) < 0 && s.p[i] != ':' && s.p[i] != '.') {
                return false;
            }
        }
        end++;
    } else {
        end = str_find(s, ':');
        if (!all_of((struct str){s.p, end}, HTTP_IS_HOST)) {
            return false;
        }
    }
    struct str port = str_skip(s, end);
    if (port.n == 0) {
        return true;
    }
    uint64_t number;
    return port.p[0] == ':' && (port.n == 1 || str_to_u64(str_skip(port, 1), 65535, &number) == OLLA_OK);
}

static int take_host(struct head_facts *f, const struct http_field *field, struct http_error *err)
{
    if (f->response) {
        return OLLA_OK;
    }
    if (f->has_host) {
        return refuse(err, 400, "more than one Host header");
    }
    if (!is_host(field->value)) {
        return refuse(err, 400, "malformed Host header");
    }
    f->has_host = true;
    f->host = field->value;
    return OLLA_OK;
}

static int add_length(struct head_facts *f, struct str number, struct http_error *err)
{
    uint64_t length;

    if (str_to_u64(number, INT64_MAX, &length) != OLLA_OK) {
        return refuse(err, 400, "malformed Content-Length header");
    }
    if (f->has_length && (!f->response || length != f->length)) {
        return refuse(err, 400, "conflicting or repeated Content-Length header");
    }
    f->has_length = true;
    f->length = length;
    return OLLA_OK;
}

static int take_length(struct head_facts *f, const struct http_field *field, struct http_error *err)
{
    if (!f->response) {
        return add_length(f, field->value, err);
    }
    /* A list of equal numbers comes from servers that joined two headers: harmless in a response. */
    for (struct str rest = field->value; rest.p;) {
        if (add_length(f, str_split(&rest, ','), err) != OLLA_OK) {
            return OLLA_ERR;
        }
    }
    return OLLA_OK;
}

static int take_coding(struct head_facts *f, const struct http_field *field, struct http_error *err)
{
    for (struct str rest = field->value; rest.p;) {
        struct str item = str_split(&rest, ',');
        if (item.n == 0) {
            return refuse(err, 400, "malformed Transfer-Encoding header");
        }
        if (f->chunked) {
            return refuse(err, 400, "Transfer-Encoding: chunked must be the last coding and stand only once");
        }
        f->has_coding = true;
        if (str_ieq(item, STR("chunked"))) {
            f->chunked = true;
        } else {
            f->other_coding = true;
        }
    }
    return OLLA_OK;
}

static int take_connection(struct head_facts *f, const struct http_field *field, struct http_error *err)
{
    if (!f->connection.p) {
        f->connection = field->value;
    }
    for (struct str rest = field->value; rest.p;) {
        struct str item = str_split(&rest, ',');
        if (++f->options > MAX_OPTIONS) {
            return refuse(err, 400, "too many connection options"); /* each is compared with each field */
        }
        if (str_ieq(item, STR("close"))) {
            f->close = true;
        } else if (str_ieq(item, STR("keep-alive"))) {
            f->keep_alive = true;
        } else if (str_ieq(item, STR("upgrade"))) {
            f->upgrade = true;
        } else if (item.n > 0 && !http_always_hop_by_hop(item)) {
            const char *start = f->hop.p ? f->hop.p : field->line.p;
            f->hop = (struct str){start, (size_t)(field->line.p - start) + field->line.n};
        }
    }
    return OLLA_OK;
}

static int take_upgrade(struct head_facts *f, const struct http_field *field, struct http_error *err)
{
    (void)err;
    f->websocket = f->websocket || str_list_has(field->value, STR("websocket"));
    return OLLA_OK;
}

static int take_expect(struct head_facts *f, const struct http_field *field, struct http_error *err)
{
    (void)err;
    f->expect = f->expect || str_ieq(field->value, STR("100-continue"));
    return OLLA_OK;
}

static int take_content_type(struct head_facts *f, const struct http_field *field, struct http_error *err)
{
    (void)err;
    if (!f->content_type.p) {
        f->content_type = field->value;
    }
    return OLLA_OK;
}

static int take_keep_alive(struct head_facts *f, const struct http_field *field, struct http_error *err)
{
    (void)err;
    for (struct str rest = field->value; rest.p;) {
        struct str item = str_split(&rest, ',');
        uint64_t s;
        if (str_istarts(item, STR("timeout=")) &&
            str_to_u64(str_skip(item, sizeof("timeout=") - 1), UINT64_MAX, &s) == OLLA_OK) {
            f->keep_alive_s = s < KEEP_ALIVE_MAX_S ? (unsigned)s : KEEP_ALIVE_MAX_S;
            f->never_reuse = s == 0;
        }
    }
    return OLLA_OK;
}

#define KNOWN(lit, fn)           \
    {                            \
        lit, sizeof(lit) - 1, fn \
    }

static const struct known_field {
    const char *name;
    size_t n;
    take_fn *take;
} known_fields[] = {
    KNOWN("host", take_host),
    KNOWN("connection", take_connection),
    KNOWN("content-length", take_length),
    KNOWN("content-type", take_content_type),
    KNOWN("transfer-encoding", take_coding),
    KNOWN("expect", take_expect),
    KNOWN("upgrade", take_upgrade),
    KNOWN("keep-alive", take_keep_alive),
};

static int take_field(struct head_facts *f, const struct http_field *field, struct http_error *err)
{
    char first = str_lower(field->name.p[0]);

    for (size_t i = 0; i < OLLA_COUNT(known_fields); i++) {
        const struct known_field *k = &known_fields[i];
        if (k->n == field->name.n && k->name[0] == first && str_ieq(field->name, (struct str){k->name, k->n})) {
            return k->take(f, field, err);
        }
    }
    return OLLA_OK;
}

/* ---- all header lines -------------------------------------------------------- */

static int check_field(struct str line, struct http_field *out, struct http_error *err)
{
    size_t n = 0;
    while (n < line.n && (http_class[(unsigned char)line.p[n]] & HTTP_IS_TOKEN)) {
        n++;
    }
    if (n == 0 && is_blank(line.p[0])) {
        return refuse(err, 400, "folded header lines are not supported");
    }
    if (n == 0 || n == line.n || line.p[n] != ':') {
        return refuse(err, 400, "invalid header name");
    }
    /* Before trimming: the check must see every byte up to the CRLF. */
    struct str value = str_skip(line, n + 1);
    if (has_control(value)) {
        return refuse(err, 400, "invalid header value");
    }
    out->name = (struct str){line.p, n};
    out->value = str_trim(value);
    out->line = (struct str){line.p, line.n + 2};
    return OLLA_OK;
}

/* rest: all behind the first line. Fills f; *fields gets the lines without the empty one. */
static int check_fields(struct str rest, struct str *fields, struct head_facts *f, struct http_error *err)
{
    const char *start = rest.p;
    struct str line;

    for (unsigned count = 0; take_line(&rest, &line); count++) {
        struct http_field field;
        if (line.n == 0) {
            *fields = (struct str){start, (size_t)(line.p - start)};
            return rest.n == 0 ? OLLA_OK : refuse(err, 400, "bytes behind the head");
        }
        if (count == OLLA_MAX_HEADERS) {
            return refuse(err, 431, "too many header lines");
        }
        if (check_field(line, &field, err) != OLLA_OK || take_field(f, &field, err) != OLLA_OK) {
            return OLLA_ERR;
        }
    }
    return refuse(err, 400, "malformed line in the head");
}

/* What requests and responses have in common: who may announce a body, and how. */
static int check_framing(const struct head_facts *f, int minor, struct http_error *err)
{
    if (!f->has_coding) {
        return OLLA_OK;
    }
    if (f->has_length) {
        return refuse(err, 400, "both Content-Length and Transfer-Encoding headers");
    }
    if (minor == 0) {
        return refuse(err, 400, "Transfer-Encoding in an HTTP/1.0 message");
    }
    if (f->other_coding) {
        return refuse(err, 501, "unsupported Transfer-Encoding");
    }
    return OLLA_OK;
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
    *minor = version.p[7] == '0' ? 0 : 1;
    return OLLA_OK;
}

static void split_target(struct http_request *out, struct str rest)
{
    size_t n = str_find(rest, '?');
    out->path = n > 0 ? (struct str){rest.p, n} : STR("/");
    out->query = str_skip(rest, n);
    if (out->query.n == 1) {
        out->query.n = 0;
    }
}

static int check_target(struct http_request *out, struct http_error *err)
{
    struct str target = out->target;

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
    size_t method_n = str_find(line, ' ');
    struct str rest = str_skip(line, method_n + 1);
    size_t target_n = str_find(rest, ' ');

    out->method = (struct str){line.p, method_n};
    out->target = (struct str){rest.p, target_n};
    if (method_n == 0 || !all_of(out->method, HTTP_IS_TOKEN)) {
        return refuse(err, 400, "malformed method");
    }
    if (check_version(str_skip(rest, target_n + 1), &out->minor, err) != OLLA_OK) {
        return OLLA_ERR;
    }
    return check_target(out, err);
}

int http_parse_request(struct str head, struct http_request *out, struct http_error *err)
{
    struct head_facts f = {.response = false};
    struct str rest = head;
    struct str line;

    memset(out, 0, sizeof(*out));
    if (!take_line(&rest, &line)) {
        return refuse(err, 400, "malformed request line");
    }
    if (check_request_line(line, out, err) != OLLA_OK || check_fields(rest, &out->fields, &f, err) != OLLA_OK ||
        check_framing(&f, out->minor, err) != OLLA_OK) {
        return OLLA_ERR;
    }
    if (!f.has_host && out->minor > 0) {
        return refuse(err, 400, "missing required Host header");
    }
    if (!out->host.p) {
        out->host = f.host;
    }
    out->keep_alive = !f.close && (out->minor > 0 || f.keep_alive);
    out->expect_continue = f.expect && out->minor > 0;
    out->upgrade_websocket = f.upgrade && f.websocket && out->minor > 0;
    out->json = contains_ignoring_case(f.content_type, STR("application/json"));
    out->framing = f.chunked ? HTTP_CHUNKED : f.has_length ? HTTP_LENGTH : HTTP_NO_BODY;
    out->length = f.length;
    out->has_body = f.chunked || f.length > 0;
    out->connection = f.connection;
    out->hop_fields = f.hop;
    return OLLA_OK;
}

/* ---- responses ------------------------------------------------------------------- */

static int check_status_line(struct str line, struct http_response *out, struct http_error *err)
{
    if (line.n < 12 || check_version((struct str){line.p, 8}, &out->minor, err) != OLLA_OK || line.p[8] != ' ' ||
        line.p[9] == '0' || (line.n > 12 && line.p[12] != ' ')) {
        return refuse(err, 502, "malformed status line");
    }
    for (size_t i = 9; i < 12; i++) {
        if (!is_digit(line.p[i])) {
            return refuse(err, 502, "malformed status line");
        }
        out->status = out->status * 10 + (line.p[i] - '0');
    }
    out->reason = str_skip(line, 13);
    if (has_control(out->reason)) {
        return refuse(err, 502, "malformed status line");
    }
    return OLLA_OK;
}

int http_parse_response(struct str head, struct str method, struct http_response *out, struct http_error *err)
{
    struct head_facts f = {.response = true};
    struct str rest = head;
    struct str line;

    memset(out, 0, sizeof(*out));
    if (!take_line(&rest, &line)) {
        return refuse(err, 502, "malformed status line");
    }
    if (check_status_line(line, out, err) != OLLA_OK || check_fields(rest, &out->fields, &f, err) != OLLA_OK ||
        check_framing(&f, out->minor, err) != OLLA_OK) {
        err->status = 502;
        return OLLA_ERR;
    }
    bool empty = out->status < 200 || out->status == 204;
    out->keep_alive = !f.close && !f.never_reuse && (out->minor > 0 || f.keep_alive) && out->status != 101;
    out->keep_alive_s = f.keep_alive_s;
    out->content_type = f.content_type;
    out->hop_fields = f.hop;
    out->length = f.length;
    if (empty || out->status == 304 || str_eq(method, STR("HEAD"))) {
        out->framing = HTTP_NO_BODY;
        /* It promised a body where none can be: whatever comes next cannot be trusted. */
        out->keep_alive = out->keep_alive && !(empty && (f.chunked || f.length > 0));
    } else if (f.chunked) {
        out->framing = HTTP_CHUNKED;
    } else if (f.has_length) {
        out->framing = HTTP_LENGTH;
    } else {
        out->framing = HTTP_TO_CLOSE;
        out->keep_alive = false;
    }
    return OLLA_OK;
}
