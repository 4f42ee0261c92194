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
    BODY_BROKEN = 0,
    CHUNK_START,     /* the first digit of a size */
    CHUNK_SIZE,      /* further ones */
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
    BODY_DONE
};

enum byte_class { CONTROL, CR, LF, HEX, TOKEN, SEMICOLON, COLON, BLANK, TEXT, BYTE_CLASSES };

#define ANY_TEXT(to) [HEX] = (to), [TOKEN] = (to), [SEMICOLON] = (to), [COLON] = (to), [BLANK] = (to), [TEXT] = (to)

/* What follows each state with each class of byte. What is not here breaks the body. */
static const uint8_t next_state[][BYTE_CLASSES] = {
    [CHUNK_START] = {[HEX] = CHUNK_SIZE},
    [CHUNK_SIZE] = {[HEX] = CHUNK_SIZE, [BLANK] = CHUNK_BLANK, [SEMICOLON] = CHUNK_EXTENSION, [CR] = CHUNK_SIZE_LF},
    [CHUNK_BLANK] = {[BLANK] = CHUNK_BLANK, [SEMICOLON] = CHUNK_EXTENSION},
    [CHUNK_EXTENSION] = {ANY_TEXT(CHUNK_EXTENSION), [CR] = CHUNK_SIZE_LF},
    [CHUNK_SIZE_LF] = {[LF] = CHUNK_DATA},
    [CHUNK_DATA_CR] = {[CR] = CHUNK_DATA_LF},
    [CHUNK_DATA_LF] = {[LF] = CHUNK_START},
    [TRAILER_START] = {[HEX] = TRAILER_NAME, [TOKEN] = TRAILER_NAME, [CR] = TRAILER_END_LF},
    [TRAILER_NAME] = {[HEX] = TRAILER_NAME, [TOKEN] = TRAILER_NAME, [COLON] = TRAILER_VALUE},
    [TRAILER_VALUE] = {ANY_TEXT(TRAILER_VALUE), [CR] = TRAILER_LF},
    [TRAILER_LF] = {[LF] = TRAILER_START},
    [TRAILER_END_LF] = {[LF] = BODY_DONE},
};

static enum byte_class class_of(char c)
{
    switch (c) {
    case '\r':
        return CR;
    case '\n':
        return LF;
    case ';':
        return SEMICOLON;
    case ':':
        return COLON;
    case ' ':
    case '\t':
        return BLANK;
    default:
        break;
    }
    if (str_hex_value(c) >= 0) {
        return HEX;
    }
    if (http_class[(unsigned char)c] & HTTP_IS_TOKEN) {
        return TOKEN;
    }
    return (unsigned char)c < 0x20 || c == 0x7f ? CONTROL : TEXT;
}

void http_body_start(struct http_body *b, enum http_framing framing, uint64_t length)
{
    memset(b, 0, sizeof(*b));
    b->framing = framing;
    b->state = CHUNK_START;
    b->left = framing == HTTP_LENGTH ? length : 0;
    b->done = framing == HTTP_NO_BODY || (framing == HTTP_LENGTH && length == 0);
}

/* One byte that is not data. */
static void chunk_byte(struct http_body *b, char c)
{
    b->state = next_state[b->state][class_of(c)];
    switch ((enum body_state)b->state) {
    case CHUNK_SIZE:
        b->left = b->left << 4 | (unsigned)str_hex_value(c);
        if (++b->digits > MAX_SIZE_DIGITS) {
            b->state = BODY_BROKEN;
        }
        break;
    case CHUNK_BLANK:
    case CHUNK_EXTENSION:
    case TRAILER_NAME:
    case TRAILER_VALUE:
        if (++b->overhead > HTTP_MAX_OVERHEAD) {
            b->state = BODY_BROKEN;
        }
        break;
    case CHUNK_DATA:
        b->digits = 0;
        b->overhead = (uint16_t)(b->left / 4 < b->overhead ? b->overhead - b->left / 4 : 0);
        b->state = b->left > 0 ? CHUNK_DATA : TRAILER_START;
        break;
    default:
        b->done = b->state == BODY_DONE;
        break;
    }
}

static long decode_chunks(struct http_body *b, char *p, size_t n, size_t *out)
{
    size_t used = 0;
    size_t kept = 0;

    while (used < n && !b->done && b->state != BODY_BROKEN) {
        if (b->state != CHUNK_DATA) {
            chunk_byte(b, p[used++]);
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
    return b->state == BODY_BROKEN ? OLLA_ERR : (long)used;
}

long http_body_decode(struct http_body *b, char *p, size_t n, size_t *out)
{
    *out = 0;
    if (b->done) {
        return 0;
    }
    if (b->framing == HTTP_CHUNKED) {
        return decode_chunks(b, p, n, out);
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
    b->done = b->done || b->framing == HTTP_TO_CLOSE;
    return b->done;
}
