/*
 * head.c - any bytes as the head of a request. The first byte says how they are cut.
 *
 * In pieces they give what they give at once. A head that passes announces exactly one way to find the end of its body,
 * its lines are what they seem to be, and its path, once cleaned, is clean.
 */
#include "cuts.h"

#include "../../src/http.h"

struct found {
    long n;       /* of the head, OLLA_AGAIN or OLLA_ERR */
    size_t blank; /* bytes of empty lines before it */
};

/* As client.c looks for a head, while bytes arrive. */
static struct found find(const char *p, size_t n, unsigned seed)
{
    struct cuts cuts = cuts_of(seed);
    struct found f = {OLLA_AGAIN, 0};
    size_t scanned = 0, have = 0, blank;

    while (have < n && f.n == OLLA_AGAIN) {
        struct http_error err = {0, NULL};
        have += cuts_next(&cuts, n - have);
        char *copy = exact_copy(p + f.blank, have - f.blank);
        struct str in = {copy, have - f.blank};
        while (scanned == 0 && (blank = http_skip_blank_lines(in)) > 0) {
            in = str_skip(in, blank);
            f.blank += blank;
        }
        f.n = in.n > 0 ? http_find_end(in, &scanned, &err) : OLLA_AGAIN;
        ENSURE(scanned <= in.n && f.n <= (long)in.n && f.n <= OLLA_MAX_HEAD);
        ENSURE(f.n != OLLA_ERR || ((err.status == 400 || err.status == 431) && err.why));
        free(copy);
    }
    return f;
}

/* ---- what a head that passed says ----------------------------------------------------- */

static bool inside(struct str part, struct str of)
{
    return part.n == 0 || (part.p >= of.p && part.p + part.n <= of.p + of.n);
}

static void check_framing(const struct http_request *r)
{
    unsigned lengths = 0, codings = 0, hosts = 0;
    struct http_field f;
    size_t bytes = 0;

    for (struct str rest = r->fields; http_next_field(&rest, &f);) {
        ENSURE(f.name.n > 0 && f.line.n >= 3 && f.line.p[f.line.n - 2] == '\r');
        ENSURE(!memchr(f.line.p, '\0', f.line.n) && !memchr(f.line.p, '\r', f.line.n - 2));
        ENSURE(f.name.p[f.name.n] == ':' && str_trim(f.name).n == f.name.n);
        bytes += f.line.n;
        hosts += str_ieq(f.name, STR("host"));
        codings += str_ieq(f.name, STR("transfer-encoding"));
        if (str_ieq(f.name, STR("content-length"))) {
            uint64_t length = 0;
            lengths++;
            ENSURE(f.value.n > 0);
            for (size_t i = 0; i < f.value.n; i++) {
                ENSURE(f.value.p[i] >= '0' && f.value.p[i] <= '9');
                length = length * 10 + (uint64_t)(f.value.p[i] - '0');
            }
            ENSURE(r->framing == HTTP_LENGTH && length == r->length);
        }
        if (str_ieq(f.name, STR("transfer-encoding"))) {
            ENSURE(r->framing == HTTP_CHUNKED && str_ieq(f.value, STR("chunked")));
        }
        ENSURE(http_hop_by_hop(r->fields, f.name) == http_hop_by_hop(r->hop_fields, f.name));
        ENSURE(http_get(r->fields, f.name).p);
    }
    ENSURE(bytes == r->fields.n && hosts <= 1 && (hosts == 1 || r->minor == 0));
    ENSURE(lengths == (r->framing == HTTP_LENGTH) && codings == (r->framing == HTTP_CHUNKED));
    ENSURE(r->framing != HTTP_TO_CLOSE && (r->framing != HTTP_CHUNKED || r->minor > 0));
    ENSURE(r->has_body == (r->framing == HTTP_CHUNKED || r->length > 0));
}

static void check_query(struct str query)
{
    char value[24], *copy = exact_copy(query.p, query.n);
    struct str q = {copy, query.n}, raw = {NULL, 0};
    unsigned count = http_query_count(q, STR("model"));

    if (http_query(q, STR("model"), value, sizeof(value), &raw)) {
        ENSURE(count > 0 && strlen(value) <= raw.n && strlen(value) < sizeof(value) && inside(raw, q));
    } else {
        ENSURE(value[0] == '\0');
    }
    free(copy);
}

/* Cleaned, it has no segment that means another place, and cleaning it again changes nothing. */
static void check_path(struct str path, bool keep_slash)
{
    char *mem = exact_copy(path.p, path.n), *again, *way;
    long n = http_unescape(path, mem, path.n);

    if (n < 0) {
        free(mem);
        return;
    }
    ENSURE((size_t)n <= path.n && !memchr(mem, '\0', (size_t)n));
    size_t clean = http_clean_path(mem, (size_t)n, keep_slash);
    ENSURE(clean <= (size_t)n && clean > 0);
    if (mem[0] == '/') {
        for (size_t from = 1, at = 1; at <= clean; at++) {
            if (at < clean && mem[at] != '/') {
                continue;
            }
            struct str segment = {mem + from, at - from};
            ENSURE(segment.n > 0 || at == clean);
            ENSURE(!str_eq(segment, STR(".")) && !str_eq(segment, STR("..")));
            from = at + 1;
        }
        ENSURE(keep_slash || clean == 1 || mem[clean - 1] != '/');
    }
    again = exact_copy(mem, clean);
    ENSURE(http_clean_path(again, clean, keep_slash) == clean && memcmp(again, mem, clean) == 0);
    way = malloc(3 * clean);
    struct text t = text_in(way, 3 * clean);
    http_escape_path(&t, (struct str){again, clean});
    ENSURE(!t.full && http_unescape(text_str(&t), way, t.n) == (long)clean && memcmp(way, mem, clean) == 0);
    free(way);
    free(again);
    free(mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct http_request r;
    struct http_error err = {0, NULL};
    uint64_t ms;

    if (n < 1) {
        return 0;
    }
    const char *p = (const char *)bytes + 1;
    struct found whole = find(p, --n, 0), cut = find(p, n, 1 + bytes[0]);
    /* Of a head with two faults the one that is seen first depends on what has come. */
    ENSURE(whole.n == cut.n && (whole.n <= 0 || whole.blank == cut.blank));
    if (whole.n <= 0) {
        return 0;
    }
    char *head = exact_copy(p + whole.blank, (size_t)whole.n);
    struct str in = {head, (size_t)whole.n};
    if (http_parse_request(in, &r, &err) == OLLA_OK) {
        ENSURE(r.method.n > 0 && inside(r.method, in) && inside(r.host, in) && inside(r.query, in));
        ENSURE(inside(r.fields, in) && inside(r.hop_fields, r.fields));
        ENSURE(r.path.n > 0 && (r.path.p[0] == '/' || str_eq(r.path, STR("*"))));
        ENSURE(r.query.n != 1 && (r.query.n == 0 || r.query.p[0] == '?'));
        check_framing(&r);
        check_query(r.query);
        check_path(r.path, true);
        check_path(r.path, false);
        http_retry_after(http_get(r.fields, STR("retry-after")), INT64_C(1700000000000), &ms);
    } else {
        ENSURE(err.why && (err.status == 400 || err.status == 431 || err.status == 501 || err.status == 505));
    }
    free(head);
    return 0;
}
