/*
 * pieces.h - level 2: a text that is put together from words of our own and
 * parts of a document that is kept elsewhere, written out as there is room.
 *
 * Nothing is copied before it is written: a part costs the same whether it has
 * ten bytes or ten million.
 *
 * May include: olla.h, str.h, json.h, json_walk.h.
 */
#ifndef OLLA_PIECES_H
#define OLLA_PIECES_H

#include "json_walk.h"

#define PIECES_MAX  24
#define PIECES_TEXT 3072 /* bytes of words */

/* How a part of a document is written. */
enum piece_how {
    PIECE_WORDS = 0, /* no part: words */
    PIECE_RAW,
    PIECE_QUOTED,  /* as the inside of a JSON string: " becomes \" */
    PIECE_UNQUOTED /* the inside of a JSON string, unescaped */
};

struct piece {
    const struct json_source *of;
    uint64_t from, to; /* what is left of it */
    enum piece_how how;
};

struct pieces {
    struct piece list[PIECES_MAX];
    uint8_t n, at; /* at: the one being written */
    bool full;     /* more was added than fits: a mistake of the caller, who adds little at a time */
    struct json_unescape unescape;
    size_t words_n;
    char words[PIECES_TEXT];
};

void pieces_clear(struct pieces *p);
bool pieces_empty(const struct pieces *p);

/* Adding; only to pieces that are empty or not yet taken from. */
void pieces_words(struct pieces *p, const char *words);
void pieces_number(struct pieces *p, uint64_t n);
void pieces_string(struct pieces *p, struct str s); /* as a JSON string with quotes */
void pieces_part(struct pieces *p, const struct json_source *of, uint64_t from, uint64_t to, enum piece_how how);

/* Writes what fits into to[cap] and forgets it. Less than 8 bytes of room may not be used. Returns how many. */
size_t pieces_take(struct pieces *p, char *to, size_t cap);

/* Their length; they are empty then. */
uint64_t pieces_count(struct pieces *p);

#endif
