/*
 * multipart.c - level 2: see multipart.h.
 *
 * May include: olla.h, str.h, multipart.h.
 */
#include "multipart.h"

#include <string.h>

enum { IN_BODY = 0, BEHIND_MARK, IN_HEAD, AT_END };

/* The value of a parameter "; name=value" or "; name="value"" of a header; empty if it is not there. */
static struct str parameter(struct str header, struct str name)
{
    for (struct str rest = header; rest.p;) {
        struct str item = str_split(&rest, ';');
        size_t eq = str_find(item, '=');
        struct str value = str_trim(str_skip(item, eq + 1));
        if (eq < item.n && str_ieq(str_trim((struct str){item.p, eq}), name)) {
            if (value.n >= 2 && value.p[0] == '"' && value.p[value.n - 1] == '"') {
                value = (struct str){value.p + 1, value.n - 2};
            }
            return value;
        }
    }
    return STR("");
}

bool multipart_start(struct multipart_scan *s, struct str content_type)
{
    struct str boundary = parameter(content_type, STR("boundary"));
    struct text t = text_in(s->mark, sizeof(s->mark));

    memset(s, 0, sizeof(*s));
    if (!str_istarts(content_type, STR("multipart/form-data")) || boundary.n == 0) {
        return false;
    }
    text_addz(&t, "\r\n--");
    text_add(&t, boundary);
    s->mark_n = t.full ? 0 : (uint8_t)t.n; /* longer than RFC 2046 allows: no form for us */
    s->matched = 2;                        /* the first mark needs no line end before it */
    return s->mark_n > 0;
}

static void add_value(struct multipart_scan *s, const char *p, size_t n)
{
    if (!s->wanted || s->twice) {
        return;
    }
    if (n >= sizeof(s->model) - s->value_n) {
        s->too_long = true;
        return;
    }
    memcpy(s->model + s->value_n, p, n);
    s->value_n = (uint8_t)(s->value_n + n);
}

static void end_part(struct multipart_scan *s)
{
    if (s->wanted && !s->twice) {
        s->model[s->value_n] = '\0';
        s->to = s->at - s->mark_n;
    }
    s->wanted = false;
    s->begun = true;
    s->line_n = 0;
    s->state = BEHIND_MARK;
}

static void end_line(struct multipart_scan *s)
{
    struct str line = str_trim((struct str){s->line, s->line_n});
    s->line_n = 0;
    if (s->state == BEHIND_MARK) {
        s->state = str_starts(line, STR("--")) ? AT_END : IN_HEAD;
    } else if (line.n == 0) {
        s->state = IN_BODY;
        s->matched = 0;
        if (s->wanted && s->from != 0) {
            s->twice = true;
        } else if (s->wanted) {
            s->from = s->at;
        }
    } else if (str_istarts(line, STR("content-disposition:")) && str_eq(parameter(line, STR("name")), STR("model"))) {
        s->wanted = true;
    }
}

/* One byte of a part's content. A line end occurs in the mark only at its start, so a broken match starts anew simply. */
static void content(struct multipart_scan *s, char c)
{
    if (c == s->mark[s->matched]) {
        if (++s->matched == s->mark_n) {
            end_part(s);
        }
        return;
    }
    if (!s->begun && (s->matched > 2 || (c != '\r' && c != '\n'))) {
        s->state = AT_END;
        return;
    }
    add_value(s, s->mark, s->matched);
    s->matched = c == '\r';
    if (c != '\r') {
        add_value(s, &c, 1);
    }
}

void multipart_feed(struct multipart_scan *s, const char *p, size_t n)
{
    const char *end = p + n;
    while (p < end && s->state != AT_END) {
        if (s->state == IN_BODY && s->matched == 0 && s->begun && !s->wanted) {
            const char *next = memchr(p, '\r', (size_t)(end - p)); /* files are large: run through them */
            s->at += (uint64_t)((next ? next : end) - p);
            p = next ? next : end;
            if (!next) {
                return;
            }
        }
        char c = *p++;
        s->at++;
        if (s->state == IN_BODY) {
            content(s, c);
        } else if (c == '\n') {
            end_line(s);
        } else if (s->line_n < sizeof(s->line)) {
            s->line[s->line_n++] = c;
        }
    }
}
