/*
 * pieces.c - level 2: see pieces.h.
 *
 * May include: olla.h, str.h, json.h, json_walk.h, pieces.h.
 */
#include "pieces.h"

#include <string.h>

/* The most that one byte of a part becomes. */
#define LONGEST 8

void pieces_clear(struct pieces *p)
{
    p->n = p->at = 0;
    p->words_n = 0;
    memset(&p->unescape, 0, sizeof(p->unescape)); /* of a part that was not taken to its end */
}

bool pieces_empty(const struct pieces *p)
{
    return p->at == p->n;
}

static struct piece *add(struct pieces *p, enum piece_how how)
{
    if (p->n == PIECES_MAX) {
        p->full = true;
        return NULL;
    }
    p->list[p->n] = (struct piece){NULL, 0, 0, how};
    return &p->list[p->n++];
}

/* Words that follow words are one piece. */
static struct text begin_words(struct pieces *p)
{
    bool last = p->n > p->at && p->list[p->n - 1].how == PIECE_WORDS;
    struct piece *words = last ? &p->list[p->n - 1] : add(p, PIECE_WORDS);
    struct text t = text_in(p->words, sizeof(p->words));

    t.n = p->words_n;
    if (words && !last) {
        words->from = words->to = p->words_n;
    }
    return t;
}

static void end_words(struct pieces *p, const struct text *t)
{
    p->full = p->full || t->full;
    p->words_n = t->n;
    if (p->n > 0 && p->list[p->n - 1].how == PIECE_WORDS) {
        p->list[p->n - 1].to = t->n;
    }
}

void pieces_words(struct pieces *p, const char *words)
{
    struct text t = begin_words(p);
    text_addz(&t, words);
    end_words(p, &t);
}

void pieces_number(struct pieces *p, uint64_t n)
{
    struct text t = begin_words(p);
    text_u64(&t, n);
    end_words(p, &t);
}

void pieces_string(struct pieces *p, struct str s)
{
    struct text t = begin_words(p);
    json_text(&t, s);
    end_words(p, &t);
}

void pieces_part(struct pieces *p, const struct json_source *of, uint64_t from, uint64_t to, enum piece_how how)
{
    struct piece *part = from < to ? add(p, how) : NULL;
    if (part) {
        *part = (struct piece){of, from, to, how};
    }
}

/* One byte as it stands in a JSON string; returns how many bytes that are. */
static size_t quote(char b, char out[LONGEST])
{
    static const char blanks[] = "\n\t\r",
                      letters[] = "ntr"; /* the only other controls that JSON has outside of strings */
    const char *blank = b ? strchr(blanks, b) : NULL;

    out[0] = '\\';
    out[1] = blank ? letters[blank - blanks] : b;
    if (blank || b == '"' || b == '\\') {
        return 2;
    }
    out[0] = b;
    return 1;
}

/* Changed bytes of a part: as many as fit. */
static size_t take_changed(struct pieces *p, struct piece *part, struct str bytes, char *to, size_t cap)
{
    size_t n = 0, i = 0;
    while (i < bytes.n && cap - n >= LONGEST) {
        char b = bytes.p[i++];
        if (part->how == PIECE_QUOTED) {
            n += quote(b, to + n);
        } else {
            n += json_unescape(&p->unescape, b, to + n);
        }
    }
    part->from += i;
    if (part->from == part->to && part->how == PIECE_UNQUOTED && cap - n >= LONGEST) {
        n += json_unescape(&p->unescape, '"', to + n); /* what was held back */
        memset(&p->unescape, 0, sizeof(p->unescape));
        part->from++; /* over */
    }
    return n;
}

static size_t take_part(struct pieces *p, struct piece *part, char *to, size_t cap)
{
    uint64_t left = part->from < part->to ? part->to - part->from : 0;
    struct str bytes = {part->how == PIECE_WORDS ? p->words + part->from : "",
                        part->how == PIECE_WORDS ? (size_t)left : 0};

    if (left > 0 && part->how != PIECE_WORDS) {
        bytes = part->of->at(part->of->of, part->from);
        if (bytes.n == 0) {
            *part->of->failed = true;
            part->from = part->to + 1;
            return 0;
        }
        bytes.n = bytes.n < left ? bytes.n : (size_t)left;
    }
    if (part->how == PIECE_QUOTED || part->how == PIECE_UNQUOTED) {
        return take_changed(p, part, bytes, to, cap);
    }
    bytes.n = bytes.n < cap ? bytes.n : cap;
    memcpy(to, bytes.p, bytes.n);
    part->from += bytes.n;
    return bytes.n;
}

static bool is_over(const struct piece *part)
{
    return part->how == PIECE_UNQUOTED ? part->from > part->to : part->from >= part->to;
}

size_t pieces_take(struct pieces *p, char *to, size_t cap)
{
    size_t n = 0;
    while (p->at < p->n) {
        struct piece *part = &p->list[p->at];
        uint64_t from = part->from;
        n += take_part(p, part, to + n, cap - n);
        if (is_over(part)) {
            p->at++;
        } else if (part->from == from) { /* a window that ends within an escape is a step, too */
            break;
        }
    }
    if (pieces_empty(p)) {
        pieces_clear(p);
    }
    return n;
}

uint64_t pieces_count(struct pieces *p)
{
    static char nowhere[4096];
    uint64_t n = 0;

    for (; p->at < p->n; p->at++) {
        struct piece *part = &p->list[p->at];
        while (!is_over(part)) {
            if (part->how == PIECE_WORDS || part->how == PIECE_RAW) {
                n += part->to - part->from;
                part->from = part->to;
            } else {
                n += take_part(p, part, nowhere, sizeof(nowhere));
            }
        }
    }
    pieces_clear(p);
    return n;
}
