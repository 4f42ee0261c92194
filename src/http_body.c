/*
 * http_body.c - finding the end of a message body, and taking the chunks apart.
 *
 * Invariants: every state can be left and entered again between any two bytes; decoded
 * bytes never overtake raw ones (out <= used), so decoding works in place; a chunk size
 * has at most 15 hex digits and cannot overflow; once broken, a body stays broken.
 *
 * May include: http.h, str.h, standard C headers.
 */
#include "http.h"

#include <string.h>

#define MAX_SIZE_DIGITS 15

enum body_state {
    CHUNK_SIZE = 0,  /* hex digits */
    CHUNK_BLANK,     /* blanks before the ';' of an extension */
    CHUNK_EXTENSION, /* up to its CR, content ignored */
    CHUNK_SIZE_LF,   /* LF of the size line */
    CHUNK_DATA,      /* .left bytes of it */
    CHUNK_DATA_CR,   /* CR behind the data */
    CHUNK_DATA_LF,   /* LF behind the data */
    TRAILER_START,   /* after the last chunk: a line begins, or the empty one */
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    TRAILER_END_LF, /* LF of the empty line */
    BODY_BROKEN
};

void http_body_start(struct http_body *b, enum http_framing framing, uint64_t length)
{
    memset(b, 0, sizeof(*b));
    b->framing = framing;
    b->left = framing == HTTP_LENGTH ? length : 0;
    b->done = framing == HTTP_NO_BODY || (framing == HTTP_LENGTH && length == 0);
}

/* Any byte that may stand in an extension or a trailer value. */
static bool is_text(char c)
{
    return c == '\t' || ((unsigned char)c >= 0x20 && c != 0x7f);
}

static bool spend(struct http_body *b)
{
    if (b->overhead >= HTTP_MAX_OVERHEAD) {
        return false;
    }
    b->overhead++;
    return true;
}

static bool expect(struct http_body *b, char c, char wanted, enum body_state next)
{
    b->state = (uint8_t)next;
    return c == wanted;
}

static bool size_byte(struct http_body *b, char c)
{
    int v = http_hex_value(c);

    if (v >= 0) {
        b->left = b->left << 4 | (unsigned)v;
        return ++b->digits <= MAX_SIZE_DIGITS;
    }
    if (b->digits == 0) {
        return false;
    }
    if (c == '\r') {
        b->state = CHUNK_SIZE_LF;
        return true;
    }
    b->state = c == ';' ? CHUNK_EXTENSION : CHUNK_BLANK;
    return (c == ';' || c == ' ' || c == '\t') && spend(b);
}

static bool blank_byte(struct http_body *b, char c)
{
    if (c == ';') {
        b->state = CHUNK_EXTENSION;
    }
    return (c == ';' || c == ' ' || c == '\t') && spend(b);
}

static bool text_byte(struct http_body *b, char c, enum body_state at_cr)
{
    if (c == '\r') {
        b->state = (uint8_t)at_cr;
        return true;
    }
    return is_text(c) && spend(b);
}

static bool size_line_end(struct http_body *b, char c)
{
    uint64_t pay = b->left / 4;

    b->digits = 0;
    b->overhead = (uint16_t)(pay < b->overhead ? b->overhead - pay : 0);
    b->state = b->left > 0 ? CHUNK_DATA : TRAILER_START;
    return c == '\n';
}

static bool trailer_byte(struct http_body *b, char c)
{
    bool token = http_class[(unsigned char)c] & HTTP_IS_TOKEN;

    if (b->state == TRAILER_START && c == '\r') {
        b->state = TRAILER_END_LF;
        return true;
    }
    if (b->state == TRAILER_NAME && c == ':') {
        b->state = TRAILER_VALUE;
        return spend(b);
    }
    b->state = TRAILER_NAME;
    return token && spend(b);
}

/* One byte that is not data. */
static bool chunk_byte(struct http_body *b, char c)
{
    switch ((enum body_state)b->state) {
    case CHUNK_SIZE:
        return size_byte(b, c);
    case CHUNK_BLANK:
        return blank_byte(b, c);
    case CHUNK_EXTENSION:
        return text_byte(b, c, CHUNK_SIZE_LF);
    case CHUNK_SIZE_LF:
        return size_line_end(b, c);
    case CHUNK_DATA_CR:
        return expect(b, c, '\r', CHUNK_DATA_LF);
    case CHUNK_DATA_LF:
        return expect(b, c, '\n', CHUNK_SIZE);
    case TRAILER_START:
    case TRAILER_NAME:
        return trailer_byte(b, c);
    case TRAILER_VALUE:
        return text_byte(b, c, TRAILER_LF);
    case TRAILER_LF:
        return expect(b, c, '\n', TRAILER_START);
    case TRAILER_END_LF:
        b->done = c == '\n';
        return b->done;
    case CHUNK_DATA:
    case BODY_BROKEN:
        break;
    }
    return false;
}

static long decode_chunks(struct http_body *b, char *p, size_t n, size_t *out)
{
    size_t used = 0;
    size_t kept = 0;

    while (used < n && !b->done) {
        if (b->state != CHUNK_DATA) {
            if (!chunk_byte(b, p[used++])) {
                b->state = BODY_BROKEN;
                *out = kept;
                return OLLA_ERR;
            }
            continue;
        }
        size_t k = b->left < n - used ? (size_t)b->left : n - used;
        if (kept != used) {
            memmove(p + kept, p + used, k);
        }
        kept += k;
        used += k;
        b->left -= k;
        if (b->left == 0) {
            b->state = CHUNK_DATA_CR;
        }
    }
    *out = kept;
    return (long)used;
}

long http_body_decode(struct http_body *b, char *p, size_t n, size_t *out)
{
    *out = 0;
    if (b->done || b->framing == HTTP_NO_BODY) {
        return 0;
    }
    if (b->framing == HTTP_CHUNKED) {
        return b->state == BODY_BROKEN ? OLLA_ERR : decode_chunks(b, p, n, out);
    }
    if (b->framing == HTTP_LENGTH) {
        n = b->left < n ? (size_t)b->left : n;
        b->left -= n;
        b->done = b->left == 0;
    }
    *out = n;
    return (long)n;
}

bool http_body_at_eof(struct http_body *b)
{
    if (b->framing == HTTP_TO_CLOSE) {
        b->done = true;
    }
    return b->done;
}
