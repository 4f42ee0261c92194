/*
 * events.c - any bytes as a stream of events. The first byte says how they are cut.
 *
 * In pieces they give the same events as at once, and so does the stream with another kind of line ends, or with a byte
 * order mark in front; all as a plain reader, which sees whole lines, finds them.
 */
#include "cuts.h"

#include "../../src/sse.h"

/* What was found as one text: "d" and the line for data, "e" and its name for each event. */
static void read_events(const char *p, size_t n, unsigned seed, struct output *out)
{
    struct cuts cuts = cuts_of(seed);
    struct sse s;
    bool open = false;

    memset(&s, 0, sizeof(s));
    for (size_t at = 0; at < n;) {
        size_t some = cuts_next(&cuts, n - at);
        char *copy = exact_copy(p + at, some);
        struct str in = {copy, some}, data;
        enum sse_got got;
        while ((got = sse_next(&s, &in, &data)) != SSE_MORE) {
            ENSURE(in.n <= some && memchr(s.event, '\0', sizeof(s.event)));
            if (got != SSE_EVENT && !open) {
                output_z(out, "d");
                open = true;
            }
            if (got == SSE_DATA) {
                ENSURE(data.p >= copy && data.p + data.n <= copy + some && data.n > 0);
                output_add(out, data.p, data.n);
            } else if (got == SSE_LINE) {
                output_z(out, "\n");
                open = false;
            } else {
                ENSURE(!open);
                output_z(out, "e");
                output_z(out, s.event);
                output_z(out, "\n");
            }
        }
        ENSURE(in.n == 0);
        free(copy);
        at += some;
    }
}

/* ---- the plain reader ------------------------------------------------------------------ */

static void cut_name(char to[SSE_NAME], const char *p, size_t n)
{
    size_t k = n < SSE_NAME - 1 ? n : SSE_NAME - 1;
    memcpy(to, p, k);
    to[k] = '\0';
}

static void plain_line(const char *p, size_t n, bool complete, char event[SSE_NAME], struct output *out)
{
    char name[SSE_NAME];
    const char *colon = memchr(p, ':', n);
    size_t name_n = colon ? (size_t)(colon - p) : n;

    if (n == 0) {
        output_z(out, "e");
        output_z(out, event);
        output_z(out, "\n");
        event[0] = '\0';
        return;
    }
    const char *value = colon ? colon + 1 : p + n, *end = p + n;
    cut_name(name, p, name_n);
    if (p[0] == '{') {
        value = p;
        str_copy(name, sizeof(name), STR("data"));
    } else if (!colon && !complete) {
        return; /* a name that may go on */
    } else if (strcmp(name, "event") == 0) {
        while (value < end && *value == ' ') {
            value++;
        }
        cut_name(event, value, (size_t)(end - value));
        return;
    } else if (value < end && *value == ' ') {
        value++;
    }
    if (strcmp(name, "error") == 0) {
        str_copy(event, SSE_NAME, STR("error"));
    } else if (strcmp(name, "data") != 0) {
        return;
    }
    if (value < end || complete) {
        output_z(out, "d");
        output_add(out, value, (size_t)(end - value));
        output_z(out, complete ? "\n" : "");
    }
}

static void read_plainly(const struct output *lines, struct output *out)
{
    const char *p = lines->p, *end = p ? p + lines->n : p;
    char event[SSE_NAME] = "";

    while (p < end) {
        const char *lf = memchr(p, '\n', (size_t)(end - p)), *stop = lf ? lf : end;
        plain_line(p, (size_t)(stop - p), lf != NULL, event, out);
        p = lf ? lf + 1 : end;
    }
}

/* ---- one input -------------------------------------------------------------------------- */

static struct output with_line_ends(const char *p, size_t n, const char *ending)
{
    struct output out = {NULL, 0, 0};
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\r' && i + 1 < n && p[i + 1] == '\n') {
            continue;
        }
        bool ends = p[i] == '\r' || p[i] == '\n';
        output_add(&out, ends ? ending : p + i, ends ? strlen(ending) : 1);
    }
    return out;
}

static void compare(const char *p, size_t n, unsigned seed, const struct output *expected)
{
    struct output got = {NULL, 0, 0};
    read_events(p, n, seed, &got);
    ENSURE(got.n == expected->n && (got.n == 0 || memcmp(got.p, expected->p, got.n) == 0));
    output_clear(&got);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const char *const endings[] = {"\n", "\r", "\r\n"};
    struct output expected = {NULL, 0, 0}, marked = {NULL, 0, 0};

    if (n < 1 || memchr(bytes + 1, '\0', n - 1)) {
        return 0; /* names are compared as texts here */
    }
    const char *p = (const char *)bytes + 1;
    for (n--; n > 0 && (*p == '\xef' || *p == '\xbb' || *p == '\xbf'); n--) {
        p++; /* a mark of its own: any bytes of one are passed over at the start */
    }
    struct output lines = with_line_ends(p, n, "\n");
    bool mark_behind_blanks = false;
    for (size_t i = 0; i < lines.n && !mark_behind_blanks; i++) {
        mark_behind_blanks = (unsigned char)lines.p[i] > 0x7f;
        if (lines.p[i] != '\n') {
            break;
        }
    }
    read_events(p, n, 0, &expected);
    compare(p, n, 1 + bytes[0], &expected);
    for (size_t i = 0; i < OLLA_COUNT(endings); i++) {
        struct output same = with_line_ends(p, n, endings[i]);
        compare(same.p, same.n, bytes[0] % 5, &expected);
        output_clear(&same);
    }
    if (!mark_behind_blanks) {
        struct output plain = {NULL, 0, 0};
        read_plainly(&lines, &plain);
        ENSURE(plain.n == expected.n && (plain.n == 0 || memcmp(plain.p, expected.p, plain.n) == 0));
        output_clear(&plain);
    }
    output_z(&marked, "\xef\xbb\xbf");
    if (n > 0) {
        output_add(&marked, p, n);
    }
    compare(marked.p, marked.n, bytes[0] % 3, &expected);
    output_clear(&marked);
    output_clear(&lines);
    output_clear(&expected);
    return 0;
}
