/*
 * sse.c - level 2: see sse.h.
 *
 * May include: olla.h, str.h, sse.h.
 */
#include "sse.h"

#include <string.h>

enum state { LINE = 0, FIELD, BLANK, DATA, NAME, SKIP, FORGET };

/* What follows a field's name. */
static uint8_t state_of(struct sse *s)
{
    bool error = strcmp(s->field, "error") == 0;
    if (error) {
        str_copy(s->event, sizeof(s->event), STR("error"));
    }
    if (strcmp(s->field, "event") == 0) {
        s->event_n = 0;
        s->event[0] = '\0';
        return NAME;
    }
    return error || strcmp(s->field, "data") == 0 ? DATA : SKIP;
}

static void keep(char name[SSE_NAME], uint8_t *n, char c)
{
    if (*n < SSE_NAME - 1) {
        name[(*n)++] = c;
        name[*n] = '\0';
    }
}

/* The end of a line. */
static enum sse_got end_line(struct sse *s)
{
    uint8_t was = s->state;
    if (was == FIELD) { /* a name without a colon: a field that is empty */
        was = state_of(s);
    }
    s->state = was == LINE ? FORGET : LINE;
    return was == LINE ? SSE_EVENT : was == DATA || was == BLANK ? SSE_LINE : SSE_MORE;
}

/* One byte that is no line end. false: it is data, and not used. */
static bool take(struct sse *s, char c)
{
    switch (s->state) {
    case LINE:
        if (!s->begun && (c == '\xef' || c == '\xbb' || c == '\xbf')) {
            return true; /* of a byte order mark */
        }
        s->begun = true;
        if (c == '{') {
            s->state = DATA;
            return false;
        }
        s->field_n = 0;
        s->field[0] = '\0';
        s->state = FIELD;
        /* fall through */
    case FIELD:
        if (c != ':') {
            keep(s->field, &s->field_n, c);
            return true;
        }
        s->state = state_of(s);
        s->state = s->state == DATA ? BLANK : s->state;
        return true;
    case BLANK:
        s->state = DATA;
        return c == ' ';
    default:
        return true;
    }
}

/* Bytes in front of the end of the line. The other kind of end may be far away: it is not looked for far behind. */
static size_t line_length(struct str in)
{
    size_t done = 0;
    for (size_t step = 512; done < in.n; step *= 2) {
        struct str part = {in.p + done, in.n - done < step ? in.n - done : step};
        size_t lf = str_find(part, '\n'), cr = str_find((struct str){part.p, lf}, '\r');
        done += cr;
        if (cr < part.n) {
            break;
        }
    }
    return done;
}

/* Nearly all lines begin with one of these two, and with all of it at hand. */
static bool take_field(struct sse *s, struct str *in)
{
    bool data = str_starts(*in, STR("data:"));
    if (!data && !str_starts(*in, STR("event:"))) {
        return false;
    }
    if (!data) {
        s->event_n = 0;
        s->event[0] = '\0';
    }
    s->begun = true;
    s->state = data ? BLANK : NAME;
    *in = str_skip(*in, data ? 5 : 6);
    return true;
}

/* The rest of a line, as far as it is at hand: a name or nothing of interest. Returns its length. */
static size_t take_rest(struct sse *s, struct str rest)
{
    for (size_t i = 0; i < rest.n && s->state == NAME && s->event_n < SSE_NAME - 1; i++) {
        if (rest.p[i] != ' ' || s->event_n > 0) {
            keep(s->event, &s->event_n, rest.p[i]);
        }
    }
    return rest.n;
}

enum sse_got sse_next(struct sse *s, struct str *in, struct str *data)
{
    if (s->state == FORGET) {
        s->state = LINE;
        s->event_n = 0;
        s->event[0] = '\0';
    }
    while (in->n > 0) {
        char c = *in->p;
        if (s->cr && c == '\n') {
            s->cr = false;
            *in = str_skip(*in, 1);
            continue;
        }
        s->cr = c == '\r';
        if (c == '\n' || c == '\r') {
            *in = str_skip(*in, 1);
            enum sse_got got = end_line(s);
            if (got != SSE_MORE) {
                return got;
            }
            continue;
        }
        if (s->state == LINE && take_field(s, in)) {
            continue;
        }
        if (s->state == NAME || s->state == SKIP) {
            *in = str_skip(*in, take_rest(s, (struct str){in->p, line_length(*in)}));
            continue;
        }
        if (s->state == DATA || !take(s, c)) {
            *data = (struct str){in->p, line_length(*in)};
            *in = str_skip(*in, data->n);
            return SSE_DATA;
        }
        *in = str_skip(*in, 1);
    }
    return SSE_MORE;
}
