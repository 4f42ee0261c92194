/*
 * json.h - level 2: the three ways this program meets JSON.
 *
 *  - struct json_scan: facts of a request body of any size, fed as it
 *    arrives, in constant memory and without recursion.
 *  - struct json_list: takes the elements of one array out of a long
 *    document, one at a time (model lists).
 *  - struct json_slice: jsmn over one bounded slice, with a shared pool of
 *    OLLA_MAX_TOKENS tokens.
 *  - json_text: the one writer of JSON strings.
 *
 * The bodies are in json.c (slices, writer, unescaping), json_scan.c and
 * json_list.c.
 *
 * May include: olla.h, str.h; only json.c includes jsmn.h.
 */
#ifndef OLLA_JSON_H
#define OLLA_JSON_H

#include "str.h"

/* ---- shared by the json files -------------------------------------------- */

/* What a byte means outside strings. Anything else than these has no place there in JSON. */
enum json_byte { JSON_BAD = 0, JSON_PLAIN, JSON_BLANK, JSON_PUNCT, JSON_QUOTE, JSON_OPEN, JSON_CLOSE };
extern const uint8_t json_byte_class[256];

/*
 * Undoes the escapes of a JSON string, byte by byte. Zero-fill to start.
 * U+0000 and halves of surrogate pairs become U+FFFD.
 */
struct json_unescape {
    uint16_t high; /* first half of a surrogate pair, waiting for the second */
    uint16_t code;
    uint8_t hex; /* hex digits still to come */
    bool slash;
    bool bad; /* not a JSON escape; stays set */
};

/* Takes one raw byte of the string (without its quotes); returns how many bytes it put into out. */
size_t json_unescape_byte(struct json_unescape *u, char c, char out[8]);
/* The same at the end of the string: what was held back; sets .bad if an escape is unfinished. */
size_t json_unescape_end(struct json_unescape *u, char out[8]);

/* ---- request facts -------------------------------------------------------- */

enum json_stream { JSON_STREAM_UNSAID = 0, JSON_STREAM_FALSE, JSON_STREAM_TRUE };

/*
 * Facts from the top level of one JSON object. Keys are compared without
 * regard to case, because backends do. Zero-fill to start.
 */
struct json_scan {
    /* results */
    char model[OLLA_MODEL_NAME]; /* unescaped, trimmed, control bytes as '?', NUL-terminated; "" = none */
    bool model_too_long;         /* a model was named, but it does not fit */
    bool model_twice;            /* two top-level model keys, of any type: ambiguous, the caller refuses */
    bool complete;               /* the object has been closed and only blanks followed */
    bool broken;                 /* not a JSON object; facts so far may be wrong, the rest is not looked at */
    enum json_stream stream;
    uint64_t model_from; /* byte range of the (first) model's value with its quotes, in the body; */
    uint64_t model_to;   /* 0 = no model with a string value, not even an empty one */

    /* state, private to json.c */
    uint64_t at;       /* bytes seen */
    uint64_t quote_at; /* where the model's value began */
    uint32_t depth;
    uint8_t state;
    uint8_t key; /* which key the coming value belongs to */
    bool in_string;
    bool escaped;    /* the last byte seen was an unpaired backslash */
    bool capture;    /* the current string is wanted */
    bool model_seen; /* a top-level model key has come */
    bool overflow;   /* ... but is longer than anything wanted */
    struct json_unescape unescape;
    uint16_t cap_n;
    char cap[OLLA_MODEL_NAME]; /* unescaped bytes of a depth-1 key or of the model's value, or a literal */
};

/* Feeds the next n bytes of the body. Never fails; see .broken. A byte order mark at the start is skipped. */
void json_scan_feed(struct json_scan *s, const char *p, size_t n);

/* ---- elements of a long array ---------------------------------------------- */

/*
 * Finds the array that is the value of one of two top-level keys ("models",
 * "data"; the document itself may be the array when both are NULL) and
 * collects its elements, objects, one by one into out[cap]. Keys are compared
 * without regard to case. When both arrays are there, the elements of both
 * come, in the order of the document: .second tells of which, and a caller
 * that wants only the first stops at .array_done.
 */
struct json_list {
    const char *key_a, *key_b;
    char *out;
    size_t cap;
    size_t n;         /* bytes of the element being collected */
    uint32_t skipped; /* elements longer than cap */
    bool found;       /* the array was seen */
    bool array_done;  /* ... and its end */
    bool complete;    /* the document has ended and only blanks followed; also true for `null` */
    bool broken;      /* not JSON, or not the kind of document asked for */
    bool second;      /* the array is the value of key_b */

    /* state, private to json_list.c */
    uint32_t depth;
    uint8_t state;
    bool in_string, escaped, overflow, is_key, in_array, collect;
    struct json_unescape unescape;
    uint16_t key_n;
    char key[16];
};

void json_list_start(struct json_list *l, const char *key_a, const char *key_b, char *out, size_t cap);

/*
 * Feeds bytes from *p; stops after each complete element. Returns 1 when
 * out[0..n) holds one (call again with what is left), 0 when the input is
 * used up, OLLA_ERR when it is not JSON. *used tells the bytes taken.
 */
int json_list_feed(struct json_list *l, const char *p, size_t n, size_t *used);

/* ---- bounded slices ---------------------------------------------------------- */

/* A tokenised object. The tokens are shared: opening another slice makes this one empty. */
struct json_slice {
    struct str text;
    int tokens;    /* 0 = not an object, or it has too many tokens */
    uint32_t turn; /* which json_open made it */
};

struct json_slice json_open(struct str object);

/* A node: index of a token, or -1. json_get takes a key of an object (exact case first, then any case). */
int json_get(const struct json_slice *s, int object, const char *key);
int json_root(const struct json_slice *s);               /* 0 or -1 */
bool json_is_null(const struct json_slice *s, int node); /* also true for -1 */
/* A string's content, unescaped into to[cap], NUL-terminated. false (and "") if absent, no string, or too long. */
bool json_string(const struct json_slice *s, int node, char *to, size_t cap);
/* A non-negative integer; a number with fraction or exponent is refused. */
bool json_u64(const struct json_slice *s, int node, uint64_t *out);
bool json_bool(const struct json_slice *s, int node, bool *out);
/* Items of an array: first and next node, -1 at the end. */
int json_first(const struct json_slice *s, int array);
int json_next(const struct json_slice *s, int array, int item);

/* ---- writing ------------------------------------------------------------------ */

/* s as a JSON string with quotes. Controls, quote, backslash, and < > & are escaped; invalid UTF-8 becomes U+FFFD. */
void json_text(struct text *t, struct str s);

/* "key":"value" and "key":123 with a leading comma unless first (at the start of t or after a '{'). */
void json_member(struct text *t, const char *key, struct str value);
void json_member_u64(struct text *t, const char *key, uint64_t value);

#endif
