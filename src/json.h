/*
 * json.h - level 2: the ways this program meets JSON.
 *
 *  - struct json_scan: the model a request body of any size names, fed as it
 *    arrives, in constant memory and without recursion.
 *  - struct json_list: takes the elements of one array out of a long
 *    document, one at a time (model lists).
 *  - struct json_slice: jsmn over one bounded slice, with a shared pool of
 *    OLLA_MAX_TOKENS tokens.
 *  - struct json_check: says whether a document that arrives is JSON, strictly;
 *    json_walk.h goes through those that were found to be.
 *  - json_text: the one writer of JSON strings.
 *
 * The bodies are in json.c (unescaping, slices, writer) and json_scan.c.
 *
 * May include: olla.h, str.h; only json.c includes jsmn.h.
 */
#ifndef OLLA_JSON_H
#define OLLA_JSON_H

#include "str.h"

/* ---- shared by the json files -------------------------------------------- */

/*
 * Undoes the escapes of a JSON string, byte by byte. Zero-fill to start.
 * U+0000 and halves of surrogate pairs become U+FFFD.
 */
struct json_unescape {
    uint16_t high; /* first half of a surrogate pair, waiting for the second */
    uint16_t code;
    uint8_t left; /* what is missing of an escape: so many hex digits, or JSON_SLASH */
    bool bad;     /* not a JSON escape; stays set */
};

#define JSON_EACH(byte) (UINT64_C(0x0101010101010101) * (byte)) /* eight of it */

/* Where the first byte in memory is the lowest of a word, what is found in eight bytes can be told from their bits. */
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define JSON_EIGHTS

/* Not 0 if one of eight bytes is 0; the lowest bit that is set is never a false one. */
static inline uint64_t json_any_zero(uint64_t w)
{
    return (w - JSON_EACH(0x01)) & ~w & JSON_EACH(0x80);
}

/* The same for what ends the plain bytes of a string, among the eight at p. */
static inline uint64_t json_stops(const char *p)
{
    uint64_t w;

    memcpy(&w, p, sizeof w);
    return json_any_zero(w ^ JSON_EACH('"')) | json_any_zero(w ^ JSON_EACH('\\')) |
           ((w - JSON_EACH(0x20)) & ~w & JSON_EACH(0x80));
}
#endif

#define JSON_KEY_CAP 32 /* keys that are wanted are shorter, however they are written */
#define JSON_SLASH   5  /* all that follows a backslash */

/*
 * Takes one raw byte of the string, at last its closing quote (which gives
 * what was held back); returns how many bytes it put into out.
 */
size_t json_unescape(struct json_unescape *u, char c, char out[8]);

/* A key of n < JSON_KEY_CAP bytes, as it is written, unescaped in place and NUL-terminated. */
void json_unescape_key(char *key, size_t n);

/* Behind the bytes that stand for themselves in a string: all but quote, backslash and controls. */
const char *json_plain_end(const char *p, const char *end);

/* The same without a call where that is within eight bytes, as in most keys. */
static inline const char *json_short_end(const char *p, const char *end)
{
#ifdef JSON_EIGHTS
    if (end - p >= 8) {
        const uint64_t stops = json_stops(p);
        if (stops) {
            return p + ((unsigned)__builtin_ctzll(stops) >> 3);
        }
        p += 8;
    }
#endif
    return json_plain_end(p, end);
}

/*
 * Crosses a string that nobody wants, from inside it, to the end of the bytes or behind its closing quote; *in_string
 * says whether it goes on, *escaped whether the last byte of it was an unpaired backslash.
 */
const char *json_skip_string(const char *p, const char *end, bool *in_string, bool *escaped);

/* Where a reader of the top level of one JSON object is; what lies below is only counted. Private to json_scan.c. */
enum json_state {
    JSON_START = 0, /* nothing seen yet; a byte order mark may come */
    JSON_MARK_2,
    JSON_MARK_3,
    JSON_OPEN,  /* before the '{' */
    JSON_KEY,   /* before a key, or before the '}' */
    JSON_COLON, /* in or behind a key */
    JSON_VALUE, /* before a value */
    JSON_AFTER, /* in or behind a value */
    JSON_DONE
};

struct json_top {
    uint32_t depth; /* brackets open below the top level */
    uint8_t state;
    bool broken; /* not a JSON object; nothing is looked at any more */
    bool inner;  /* it is a part of another document: reading stops at its end */
    bool in_string;
    bool escaped; /* in a string nobody wants: the last byte seen was an unpaired backslash */
    bool capture; /* the current string is wanted: a key, or a value that was asked for; false once it is too long */
    struct json_unescape unescape;
    uint16_t n;
    char text[OLLA_MODEL_NAME]; /* the string captured last, unescaped */
};

/* ---- the model of a request ------------------------------------------------ */

/*
 * What the top level of one JSON object says of the model. Keys are compared
 * without regard to case, because backends do. Zero-fill to start.
 */
struct json_scan {
    /*
     * Input: a string under "name" is the model too, as in Ollama's older
     * management calls. Of "model" and "name" one may be empty.
     */
    bool take_name;

    /* results */
    char model[OLLA_MODEL_NAME]; /* unescaped, trimmed, control bytes as '?', NUL-terminated; "" = none */
    bool model_too_long;         /* a model was named, but it does not fit */
    bool model_twice;            /* a key twice, with any values, or "model" and "name" differ: the caller refuses */
    uint64_t model_from;         /* byte range of the model's value with its quotes, in the body; */
    uint64_t model_to;           /* 0 = no model with a string value, not even an empty one */

    /*
     * What tells one conversation from others: hashes of texts, 0 = there is none. The prefix is the text of "messages"
     * (else "prompt", "input") as it was written, to the end of the first message of the user.
     */
    uint64_t user_id;      /* metadata.user_id, from behind "session_" where that occurs */
    uint64_t cache_key;    /* prompt_cache_key */
    uint64_t conversation; /* conversation_id, or conversation */
    uint64_t prefix;
    uint64_t prefix_max;    /* input: no more bytes of it, 0 = all */
    uint64_t prompt_n;      /* bytes of the value that the prefix is of, up to the next value or the end */
    bool stream, no_stream; /* "stream" is true, is false */

    /* state, private to json_scan.c */
    uint64_t at;       /* bytes seen */
    uint64_t quote_at; /* where the model's value began */
    uint64_t hash, hashed, prompt_at;
    char tail[8]; /* of the prompt: the last bytes that were hashed, until they are eight */
    struct json_unescape unescape;
    uint8_t seen;    /* which keys have come */
    uint8_t key;     /* the one whose value is being read */
    uint8_t inside;  /* a value that is looked into */
    uint8_t matched; /* bytes of "session_" */
    uint8_t prompt_rank;
    bool element, user, filled, prompt_open, prompt_text, list_string, list_escape;
    struct json_top top, sub;
};

/* Texts that tell sessions apart are at least so long. */
#define JSON_SESSION_MIN 8

/* Feeds the next n bytes of the body. Never fails. A byte order mark at the start is skipped. */
void json_scan_feed(struct json_scan *s, const char *p, size_t n);

/* ---- elements of a long array ---------------------------------------------- */

/*
 * Finds the first array that is the value of one of two top-level keys
 * ("models", "data"; at most 32 letters; key_b may be NULL) and collects its elements that are
 * objects, one by one, into out[cap]. What follows the array is not looked at.
 */
struct json_list {
    const char *key_a, *key_b;
    char *out;
    size_t cap;
    size_t n;         /* bytes of the element being collected; beyond cap they are only counted */
    uint32_t skipped; /* elements longer than cap */
    bool found;       /* the array was seen */
    bool array_done;  /* ... and its end */

    /* state, private to json_scan.c */
    bool collect;
    struct json_top top;
};

void json_list_start(struct json_list *l, const char *key_a, const char *key_b, char *out, size_t cap);

/*
 * Feeds n bytes; stops after each complete element. Returns 1 when out[0..n)
 * holds one (call again with what is left), 0 when the input is used up,
 * OLLA_ERR when it is not JSON. *used tells the bytes taken.
 */
int json_list_feed(struct json_list *l, const char *p, size_t n, size_t *used);

/* ---- members of a long object ------------------------------------------------ */

/* Takes the members of one JSON object, one by one; what does not fit is passed over. */
struct json_members {
    char *out;
    size_t cap;
    size_t n;     /* out[0..n): the value of the last member, as it was written */
    char key[33]; /* its key, unescaped; a longer one is cut */

    /* state, private to json_scan.c */
    bool collect;
    struct json_top top;
};

void json_members_start(struct json_members *m, char *out, size_t cap);

/* As json_list_feed; stops after each complete member. */
int json_members_feed(struct json_members *m, const char *p, size_t n, size_t *used);

/* ---- strict check ------------------------------------------------------------- */

#define JSON_DEPTH 128 /* brackets that may be open */

/* Where a value stands in its document: [from, to), with the quotes of a string. */
struct json_value {
    uint64_t from, to;
    char kind; /* '{', '[', '"', '0' (a number), 't', 'f', 'n'; 0 = there is none */
};

/*
 * Checks that a document is one JSON object (RFC 8259; bytes of strings are not checked for UTF-8), fed as it
 * arrives, and notes where wanted members of it stand; of a key that comes twice the last one counts.
 */
struct json_check {
    bool bad;  /* it is not JSON, or deeper than JSON_DEPTH; stays set */
    bool done; /* the object is complete; blanks may follow */

    /* state, private to json_check.c */
    const char *const *keys;
    struct json_value *found, *wanted;
    uint64_t at;
    uint64_t nest[JSON_DEPTH / 64]; /* a bit for each open bracket: it is an object's */
    const char *literal;            /* what is missing of one */
    uint8_t depth, state, hex, key_n;
    char key[JSON_KEY_CAP];
};

/* keys: ends with NULL, each with its value in found; both may be NULL. found is cleared. */
void json_check_start(struct json_check *c, const char *const *keys, struct json_value *found);
void json_check_feed(struct json_check *c, const char *p, size_t n);

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
int json_root(const struct json_slice *s); /* 0 or -1 */
/* A string's content, unescaped into to[cap], NUL-terminated. false (and "") if absent, no string, or too long. */
bool json_string(const struct json_slice *s, int node, char *to, size_t cap);
/* A non-negative integer; a number with fraction or exponent is refused. */
bool json_u64(const struct json_slice *s, int node, uint64_t *out);
/* A non-negative number x 10^digits, what remains cut off; an exponent is refused. */
bool json_scaled(const struct json_slice *s, int node, unsigned digits, uint64_t *out);
bool json_true(const struct json_slice *s, int node);
/* The i-th element of an array that is a string, as json_string. false: there is none. */
bool json_item(const struct json_slice *s, int array, unsigned i, char *to, size_t cap);

/* ---- writing ------------------------------------------------------------------ */

/* s as a JSON string with quotes. Controls (DEL and those of 8 bits, too), quote, backslash, and
 * < > & are escaped; invalid UTF-8 becomes U+FFFD. */
void json_text(struct text *t, struct str s);

/* Length of the valid UTF-8 sequence at the start of s, which is not empty; 0 if there is none. */
size_t json_utf8_length(struct str s);

/* "key":"value" and "key":123 with a leading comma unless first (at the start of t or after a '{'). */
void json_member(struct text *t, const char *key, struct str value);
void json_member_u64(struct text *t, const char *key, uint64_t value);

#endif
