/*
 * body.c - any bytes as a reply: head and body. The first byte says how they are cut and what was asked.
 *
 * In pieces the body gives the same bytes and the same verdict as at once; chunks are taken apart as a plain reader of
 * RFC 9112 does it; and what comes out is never more than what went in.
 */
#include "cuts.h"

#include "../../src/http.h"

struct decoded {
    struct output data;
    size_t used;
    bool done, broken, done_at_eof;
};

static struct decoded decode(enum http_framing framing, uint64_t length, const char *p, size_t n, unsigned seed)
{
    struct cuts cuts = cuts_of(seed);
    struct decoded d = {0};
    struct http_body b;

    http_body_start(&b, framing, length);
    while (d.used < n && !b.done && !d.broken) {
        size_t some = cuts_next(&cuts, n - d.used), out;
        char *copy = exact_copy(p + d.used, some);
        long used = http_body_decode(&b, copy, some, &out);
        ENSURE(out <= some && used <= (long)some && (used < 0 || out <= (size_t)used));
        ENSURE(used == (long)some || used == OLLA_ERR || b.done);
        output_add(&d.data, copy, out);
        d.broken = used < 0;
        d.used += used < 0 ? 0 : (size_t)used;
        free(copy);
    }
    char more[] = "0\r\n\r\n";
    size_t out;
    if (d.broken || b.done) {
        ENSURE(http_body_decode(&b, more, 5, &out) == (d.broken ? OLLA_ERR : 0) && out == 0);
    }
    d.done = b.done;
    d.done_at_eof = http_body_at_eof(&b);
    ENSURE(!d.broken || !d.done_at_eof);
    ENSURE(d.data.n <= n);
    return d;
}

/* ---- the plain reader of chunks ----------------------------------------------------- */

static bool take_line(const char **p, const char *end, const char **line_end)
{
    const char *cr = memchr(*p, '\r', (size_t)(end - *p));
    if (!cr || cr + 1 >= end || cr[1] != '\n') {
        return false;
    }
    for (const char *q = *p; q < cr; q++) {
        if (((unsigned char)*q < 0x20 && *q != '\t') || *q == 0x7f) {
            return false;
        }
    }
    *line_end = cr;
    *p = cr + 2;
    return true;
}

/* The length of the whole body, or 0: it is not complete, or not right. */
static size_t read_chunks(const char *p, size_t n, struct output *data)
{
    const char *at = p, *end = p + n, *stop;

    for (;;) {
        uint64_t size = 0;
        const char *line = at;
        int digits = 0;
        if (!take_line(&at, end, &stop)) {
            return 0;
        }
        while (line < stop && str_hex_value(*line) >= 0) {
            size = size * 16 + (unsigned)str_hex_value(*line++);
            digits++;
        }
        while (line < stop && (*line == ' ' || *line == '\t')) {
            line++;
        }
        if (digits < 1 || digits > 15 || (line < stop && *line != ';') ||
            (line == stop && (line[-1] == ' ' || line[-1] == '\t'))) {
            return 0;
        }
        if (size == 0) {
            break;
        }
        if (size > (uint64_t)(end - at) || end - at - (ptrdiff_t)size < 2 || at[size] != '\r' || at[size + 1] != '\n') {
            return 0;
        }
        output_add(data, at, size);
        at += size + 2;
    }
    for (;;) {
        const char *line = at;
        if (!take_line(&at, end, &stop)) {
            return 0;
        }
        if (line == stop) {
            return (size_t)(at - p);
        }
        while (http_class[(unsigned char)*line] & HTTP_IS_TOKEN) {
            line++;
        }
        if (*line != ':' || line == p || line[-1] == '\n') {
            return 0;
        }
    }
}

static void check_body(enum http_framing framing, uint64_t length, const char *p, size_t n, unsigned seed)
{
    struct decoded whole = decode(framing, length, p, n, 0), cut = decode(framing, length, p, n, seed);
    struct output plain = {NULL, 0, 0};

    ENSURE(whole.done == cut.done && whole.broken == cut.broken && whole.done_at_eof == cut.done_at_eof);
    ENSURE(whole.broken || whole.used == cut.used);
    ENSURE(whole.data.n == cut.data.n && (cut.data.n == 0 || memcmp(whole.data.p, cut.data.p, cut.data.n) == 0));
    if (framing == HTTP_CHUNKED) {
        size_t all = read_chunks(p, n, &plain);
        ENSURE(whole.done == (all > 0));
        ENSURE(all == 0 || (all == whole.used && plain.n == whole.data.n &&
                            (plain.n == 0 || memcmp(plain.p, whole.data.p, plain.n) == 0)));
    } else if (framing == HTTP_LENGTH) {
        ENSURE(whole.done == (length <= n) && whole.data.n == (length < n ? length : n));
    } else if (framing == HTTP_NO_BODY) {
        ENSURE(whole.done && whole.used == 0);
    } else {
        ENSURE(!whole.done && whole.done_at_eof && whole.data.n == n);
    }
    output_clear(&plain);
    output_clear(&whole.data);
    output_clear(&cut.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct http_response r;
    struct http_error err = {0, NULL};
    size_t scanned = 0;

    if (n < 1) {
        return 0;
    }
    unsigned seed = 1 + bytes[0];
    struct str method = bytes[0] & 1 ? STR("HEAD") : STR("POST");
    const char *p = (const char *)bytes + 1;
    n--;
    check_body(HTTP_CHUNKED, 0, p, n, seed); /* also without a head, which would hide it */
    char *all = exact_copy(p, n);
    long head = http_find_end((struct str){all, n}, &scanned, &err);
    if (head > 0) {
        char *copy = exact_copy(p, (size_t)head);
        if (http_parse_response((struct str){copy, (size_t)head}, method, &r, &err) == OLLA_OK) {
            ENSURE(r.status >= 100 && r.status <= 999);
            ENSURE(!r.keep_alive || r.framing != HTTP_TO_CLOSE);
            ENSURE(r.framing == HTTP_NO_BODY || !(bytes[0] & 1));
            check_body(r.framing, r.length, p + head, n - (size_t)head, seed);
        } else {
            ENSURE(err.status == 502 && err.why);
        }
        free(copy);
    }
    free(all);
    return 0;
}
