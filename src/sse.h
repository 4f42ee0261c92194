/*
 * sse.h - level 2: a stream of server-sent events, taken apart as it arrives,
 * in constant memory whatever the length of its lines.
 *
 * As browsers do (HTML, 9.2.6): a byte order mark at the start is skipped, lines end with CR, LF or both, a colon may be
 * followed by one blank, unknown fields and comments are passed over. Beyond
 * that, because some servers write so: a line "error: ..." is data of an event
 * of that name, and a line that begins with '{' is data without a field.
 *
 * May include: olla.h, str.h.
 */
#ifndef OLLA_SSE_H
#define OLLA_SSE_H

#include "str.h"

#define SSE_NAME 16 /* a longer name of a field or an event is cut */

/* Zero-fill to start. */
struct sse {
    char event[SSE_NAME]; /* of the event that is being read; "" = none said */

    /* state, private to sse.c */
    char field[SSE_NAME];
    uint8_t field_n, event_n;
    uint8_t state;
    bool begun;
    bool cr; /* the last byte was a CR: an LF that follows belongs to it */
};

enum sse_got {
    SSE_MORE = 0, /* the input is used up */
    SSE_DATA,     /* *data: the next bytes of a line of data */
    SSE_LINE,     /* the end of such a line */
    SSE_EVENT     /* an empty line: the event is complete; its name is forgotten with the next call */
};

/* Takes from the front of *in up to the next thing that is of interest. */
enum sse_got sse_next(struct sse *s, struct str *in, struct str *data);

#endif
