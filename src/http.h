/*
 * http.h - level 2: HTTP/1.1 messages (RFC 9112) without any I/O.
 *
 * A head is checked once, whole, by http_parse_*; after that its lines can be
 * walked without checks by http_next_field. Slices point into the caller's
 * bytes. Nothing here allocates, blocks, or keeps state between calls except
 * the small structs the caller owns.
 *
 * Strict where request smuggling lives: a message that two parsers could
 * read differently is refused (RFC 9112, 11).
 *
 * May include: olla.h, str.h.
 */
#ifndef OLLA_HTTP_H
#define OLLA_HTTP_H

#include "str.h"

enum http_framing {
    HTTP_NO_BODY = 0,
    HTTP_LENGTH, /* Content-Length */
    HTTP_CHUNKED,
    HTTP_TO_CLOSE /* responses only: the body ends with the connection */
};

/*
 * Names of fields that some part of olla asks for. Each is looked up once, when the head is checked: `names` of a
 * message then tells which of them it has, and most questions end there.
 */
#define HTTP_NAMES(X)                                                 \
    X(HOST, "host")                                                   \
    X(CONNECTION, "connection")                                       \
    X(CONTENT_LENGTH, "content-length")                               \
    X(CONTENT_TYPE, "content-type")                                   \
    X(CONTENT_ENCODING, "content-encoding")                           \
    X(TRANSFER_ENCODING, "transfer-encoding")                         \
    X(EXPECT, "expect")                                               \
    X(KEEP_ALIVE, "keep-alive")                                       \
    X(TE, "te")                                                       \
    X(CLOSE, "close")                                                 \
    X(TRAILER, "trailer")                                             \
    X(UPGRADE, "upgrade")                                             \
    X(HTTP2_SETTINGS, "http2-settings")                               \
    X(PROXY_CONNECTION, "proxy-connection")                           \
    X(PROXY_AUTHENTICATE, "proxy-authenticate")                       \
    X(PROXY_AUTHORIZATION, "proxy-authorization")                     \
    X(ACCEPT_ENCODING, "accept-encoding")                             \
    X(ACCESS_CONTROL_REQUEST_METHOD, "access-control-request-method") \
    X(ANTHROPIC_VERSION, "anthropic-version")                         \
    X(AUTHORIZATION, "authorization")                                 \
    X(CACHE_CONTROL, "cache-control")                                 \
    X(COOKIE, "cookie")                                               \
    X(DATE, "date")                                                   \
    X(FORWARDED, "forwarded")                                         \
    X(IF_MODIFIED_SINCE, "if-modified-since")                         \
    X(IF_NONE_MATCH, "if-none-match")                                 \
    X(ORIGIN, "origin")                                               \
    X(REFERER, "referer")                                             \
    X(REQUEST_ID, "request-id")                                       \
    X(RETRY_AFTER, "retry-after")                                     \
    X(SEC_FETCH_SITE, "sec-fetch-site")                               \
    X(SEC_WEBSOCKET_PROTOCOL, "sec-websocket-protocol")               \
    X(SESSION_ID, "session-id")                                       \
    X(SESSION_ID_2, "session_id")                                     \
    X(SET_COOKIE, "set-cookie")                                       \
    X(VIA, "via")                                                     \
    X(X_AMP_THREAD_ID, "x-amp-thread-id")                             \
    X(X_API_KEY, "x-api-key")                                         \
    X(X_AUTH_TOKEN, "x-auth-token")                                   \
    X(X_CLAUDE_SESSION_ID, "x-claude-code-session-id")                \
    X(X_FORWARDED_FOR, "x-forwarded-for")                             \
    X(X_FORWARDED_HOST, "x-forwarded-host")                           \
    X(X_FORWARDED_PROTO, "x-forwarded-proto")                         \
    X(X_LITELLM_SESSION_ID, "x-litellm-session-id")                   \
    X(X_MODEL, "x-model")                                             \
    X(X_OLLA_ENDPOINT, "x-olla-endpoint")                             \
    X(X_OLLA_PRIORITY, "x-olla-priority")                             \
    X(X_OLLA_SESSION_ID, "x-olla-session-id")                         \
    X(X_OLLA_WAKE, "x-olla-wake")                                     \
    X(X_PROXIED_BY, "x-proxied-by")                                   \
    X(X_RATELIMIT_LIMIT, "x-ratelimit-limit")                         \
    X(X_RATELIMIT_REMAINING, "x-ratelimit-remaining")                 \
    X(X_RATELIMIT_RESET, "x-ratelimit-reset")                         \
    X(X_REAL_IP, "x-real-ip")                                         \
    X(X_REQUEST_ID, "x-request-id")                                   \
    X(X_SESSION_AFFINITY, "x-session-affinity")                       \
    X(X_SESSION_ID, "x-session-id")                                   \
    X(X_SHOULD_RETRY, "x-should-retry")

enum http_name {
    HTTP_OTHER = 0, /* any other name */
#define X(id, text) HTTP_##id,
    HTTP_NAMES(X)
#undef X
        HTTP_NAME_COUNT /* at most 64: a bit for each */
};

#define HTTP_BIT(name) (UINT64_C(1) << (name))

/* A refused head: the status to answer with and a sentence for the client. */
struct http_error {
    int status;      /* 400, 431, 501, 505; 502 for a response head */
    const char *why; /* static text, no trailing dot */
};

/* ---- heads ---------------------------------------------------------------- */

/*
 * Looks for the empty line, starting at *scanned (0 for a new head), which it
 * moves on, so that input byte by byte costs O(n) in all. Leading empty lines
 * must have been removed (http_skip_blank_lines).
 * Returns the length of the head with its empty line (> 0), OLLA_AGAIN, or
 * OLLA_ERR for a bare LF, bare CR or NUL, or for more than OLLA_MAX_HEAD bytes. The status in
 * *err (400 or 431) is that for a client; the same fault in a response head is a 502.
 */
long http_find_end(struct str in, size_t *scanned, struct http_error *err);

/*
 * Bytes of one CRLF before a request line, which a robust server ignores (RFC 9112, 2.2): 0 or 2.
 * To be asked before each http_find_end as long as *scanned is 0: the pair may arrive in two pieces.
 */
size_t http_skip_blank_lines(struct str in);

struct http_request {
    struct str method;
    struct str path;      /* of the target, absolute form stripped, without the query; starts with '/', or is "*" */
    struct str query;     /* with its '?', or empty; a bare '?' is dropped */
    struct str host;      /* the authority of an absolute-form target, else the Host header; may be empty */
    int minor;            /* HTTP/1.minor: 0 or 1 */
    bool keep_alive;      /* what the client wants */
    bool expect_continue; /* Expect: 100-continue, HTTP/1.1 only */
    bool json;            /* Content-Type contains application/json; request.c sets it where a path says so */
    bool has_body;        /* false with Content-Length: 0 too */
    enum http_framing framing;
    uint64_t length;       /* with HTTP_LENGTH */
    struct str fields;     /* the header lines, for http_next_field */
    struct str hop_fields; /* the part of fields whose Connection lines name further fields; mostly empty */
    uint64_t names;        /* HTTP_BIT of those that stand in fields */
};

struct http_response {
    int status;
    int minor;
    struct str reason;
    bool keep_alive; /* the connection can be used again after the body */
    enum http_framing framing;
    uint64_t length;
    unsigned keep_alive_s;   /* Keep-Alive: timeout=N, or 0 */
    struct str content_type; /* value, may be empty */
    struct str fields;       /* this and the next two as in struct http_request */
    struct str hop_fields;
    uint64_t names;
};

/* Checks a whole head (as measured by http_find_end). OLLA_OK, or OLLA_ERR with *err. */
int http_parse_request(struct str head, struct http_request *out, struct http_error *err);

/*
 * method is that of the request (HEAD has no body). 1xx heads parse with
 * HTTP_NO_BODY; the caller skips them. Errors have status 502. Equal repeats of Content-Length
 * are tolerated, so a Content-Length that is sent on must be written anew from .length.
 */
int http_parse_response(struct str head, struct str method, struct http_response *out, struct http_error *err);

struct http_field {
    struct str name;
    struct str value; /* trimmed */
    struct str line;  /* the whole line with its CRLF, for verbatim copying */
    enum http_name id;
};

/* Takes the next header line off *rest (start with .fields). false at the end. */
bool http_next_field(struct str *rest, struct http_field *out);

/* Value of the first field of that name (case ignored), or an empty slice with p == NULL. */
struct str http_get(struct str fields, struct str name);

/* The same for a known name, in a message: almost free if it is not there. */
struct str http_request_get(const struct http_request *m, enum http_name name);
struct str http_response_get(const struct http_response *m, enum http_name name);

/*
 * True if name is hop-by-hop (RFC 9110, 7.6.1) or is named by any Connection field of these lines.
 * .hop_fields gives the same answers as .fields for far less work. A client may name any field
 * here, Host and Content-Length too: what the next hop needs must be written, not copied.
 */
bool http_hop_by_hop(struct str fields, struct str name);
bool http_field_is_hop(struct str fields, const struct http_field *f); /* the same for a field */

/*
 * Puts header lines into a head that is being written: fields that stand in t from byte `from` on (whole lines only)
 * and have the name of one of `lines` go away, whoever put them there.
 */
void http_replace_fields(struct text *t, size_t from, struct str lines);

/* ---- bodies -------------------------------------------------------------- */

/*
 * Most bytes of chunk extensions and trailers in one body. Each data byte of a chunk
 * wins back a quarter of an extension byte, so that long streams may use them moderately.
 */
#define HTTP_MAX_OVERHEAD 4096

/* Set up by http_body_start. Decodes in place. */
struct http_body {
    enum http_framing framing;
    uint8_t state;     /* of the chunk parser, see http_body.c */
    uint8_t digits;    /* hex digits of the current chunk size */
    bool done;         /* the whole body has been seen */
    uint16_t overhead; /* bytes of extensions and trailers not yet paid for by data, at most HTTP_MAX_OVERHEAD */
    uint64_t left;     /* of the length or of the current chunk */
};

void http_body_start(struct http_body *b, enum http_framing framing, uint64_t length);

/*
 * Takes n raw bytes at p. Returns how many raw bytes were used (all of them
 * unless the body ended; what follows belongs to the next message) or
 * OLLA_ERR for a malformed chunk, now and ever after. The decoded bytes are
 * compacted to the front: p[0 .. *out); after an error, those before the fault.
 */
long http_body_decode(struct http_body *b, char *p, size_t n, size_t *out);

/* For HTTP_TO_CLOSE: the connection has ended, so has the body. Others: true only if the body was complete. */
bool http_body_at_eof(struct http_body *b);

/* ---- paths and small tables ------------------------------------------------ */

/*
 * Percent-decodes a path into to[cap] (path.p itself is allowed); plain bytes are
 * copied. Length, or OLLA_ERR for a bad escape, an encoded NUL, or lack of room.
 */
long http_unescape(struct str path, char *to, size_t cap);

/* Retry-After (RFC 9110, 10.2.3), seconds or a date, as ms from now. false: none, or malformed. */
bool http_retry_after(struct str value, int64_t wall_ms, uint64_t *ms);

/* How often a key stands in a query, its name in plain or escaped. */
unsigned http_query_count(struct str query, struct str key);

/*
 * The value of the first parameter of that name in a query ("?a=1&b=2"), decoded into to[cap]; *raw, if wanted, is
 * its place in the query as it was sent. false (and ""): none, malformed, or too long.
 */
bool http_query(struct str query, struct str key, char *to, size_t cap, struct str *raw);

/* Percent-encodes what a path must not hold plainly (RFC 3986, 3.3: controls, space, "?#%<>[\]^`{|}, non-ASCII). */
void http_escape_path(struct text *t, struct str path);

/*
 * Lexical cleaning of an absolute path as browsers do it: collapses "//",
 * resolves "." and "..", never climbs above "/". Keeps a trailing slash (which a last
 * "." or ".." stands for, too) only when keep_slash. In place; returns the new length.
 * A path that does not start with '/' ("*") is left as it is.
 */
size_t http_clean_path(char *path, size_t n, bool keep_slash);

const char *http_reason(int status);   /* "OK"; "Unknown" for others */
struct str http_date(int64_t wall_ms); /* "Sun, 06 Nov 1994 08:49:37 GMT" of then; made at most once a second */

/* Shared by http*.c only: classes of bytes. */
enum {
    HTTP_IS_TOKEN = 1, /* method and field names (RFC 9110, 5.6.2) */
    HTTP_IS_HOST = 2,  /* a name or IPv4 address in Host */
    HTTP_IS_PATH = 4   /* plain in a path, '/' included */
};
extern const char http_class[256]; /* their sum in the low bits */

#endif
