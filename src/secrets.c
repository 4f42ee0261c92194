/*
 * secrets.c - level 2: see secrets.h.
 *
 * May include: olla.h, str.h, secrets.h.
 */
#include "secrets.h"

#include <string.h>

/* How keys begin. None is as long as SECRETS_RUN. */
static const char *const prefixes[] = {
    "sk-",                                                            /* OpenAI, Anthropic and many others */
    "ghp_", "gho_", "github_pat_", "glpat-", "hf_", "xoxb-", "xoxp-", /* Slack */
    "AKIA",                                                           /* AWS */
    "AIza",                                                           /* Google */
    "eyJ",                                                            /* a JWT */
};

/* What stands before credentials. */
static const char *const schemes[] = {"bearer", "basic"};

/* Shorter credentials than SECRETS_RUN: at least this long, and no word of a language. */
#define CREDENTIAL_MIN 8

/* All that follows a backslash. */
#define BACKSLASH 5

static const char removed[] = "[removed]";

/* A-Z a-z 0-9 _ . - as bits: every byte of every text is asked. */
static bool is_word(char c)
{
    static const uint64_t words[] = {UINT64_C(0x03ff600000000000), UINT64_C(0x07fffffe87fffffe)};
    unsigned char b = (unsigned char)c;
    return b < 128 && (words[b / 64] >> b % 64 & 1) != 0;
}

/* Texts in texts are escaped more than once, so any number of backslashes may stand before the letter. */
static bool in_run(struct secrets *s, char c)
{
    if (s->escape == BACKSLASH && c != '\0' && strchr("\\bfnrtu", c)) {
        s->escape = c == '\\' ? BACKSLASH : c == 'u' ? 4 : 0;
        return false;
    }
    if (s->escape > 0 && s->escape < BACKSLASH && str_hex_value(c) >= 0) {
        s->escape--;
        return false;
    }
    s->escape = c == '\\' ? BACKSLASH : 0;
    return is_word(c) || (s->credential && c != '\0' && strchr("~+/=", c));
}

static void put(struct secrets *s, const char *p, size_t n)
{
    if (n > 0) {
        s->put(s->to, p, n);
    }
}

/* Whether the run has a prefix, or may still get it. */
static bool goes_with(const struct secrets *s, const char *prefix)
{
    size_t i = 0;
    while (i < s->n && prefix[i] != '\0' && prefix[i] == s->run[i]) {
        i++;
    }
    return i == s->n || prefix[i] == '\0';
}

/* The prefix that the run has, or NULL. *may: it may still get one, or be a scheme. */
static const char *prefix_of(const struct secrets *s, bool *may)
{
    const char *found = NULL;

    *may = s->credential;
    for (size_t i = 0; i < OLLA_COUNT(prefixes); i++) {
        if (goes_with(s, prefixes[i])) {
            *may = true;
            found = s->n >= strlen(prefixes[i]) ? prefixes[i] : found;
        }
    }
    for (size_t i = 0; i < OLLA_COUNT(schemes); i++) {
        *may = *may || str_istarts(str_of(schemes[i]), (struct str){s->run, s->n});
    }
    return found;
}

/* Most runs are told apart by their first byte, and need not be held back at all: the first letters of the tables. */
static bool may_begin(const struct secrets *s, char c)
{
    switch (c) {
    case 's':
    case 'g':
    case 'h':
    case 'x':
    case 'A':
    case 'e':
    case 'b':
    case 'B':
        return true;
    default:
        return s->credential;
    }
}

static void take_out(struct secrets *s, const char *prefix)
{
    if (prefix) {
        put(s, prefix, strlen(prefix));
    }
    put(s, removed, sizeof(removed) - 1);
    s->removed = true;
}

/* One more byte of a run whose kind is not known yet. */
static void hold(struct secrets *s, char c)
{
    bool may;
    s->run[s->n++] = c;
    const char *prefix = prefix_of(s, &may);

    if (s->n == SECRETS_RUN && (prefix || s->credential)) {
        take_out(s, prefix);
        s->state = SECRETS_DROP;
    } else if (s->n == SECRETS_RUN || !may) {
        put(s, s->run, s->n);
        s->state = SECRETS_PASS;
    }
}

/* "basic principles", but not "Basic YWRtaW46MTIz". */
static bool is_plain_word(const struct secrets *s)
{
    bool plain = true;
    for (size_t i = 1; i < s->n; i++) {
        plain = plain && ((s->run[i] >= 'a' && s->run[i] <= 'z') || s->run[i] == '-' || s->run[i] == '.');
    }
    return plain;
}

static void end_run(struct secrets *s)
{
    struct str run = {s->run, s->n};
    bool may;

    s->scheme = false;
    if (s->state == SECRETS_HELD && s->credential && s->n >= CREDENTIAL_MIN && !is_plain_word(s)) {
        take_out(s, prefix_of(s, &may));
    } else if (s->state == SECRETS_HELD) {
        put(s, s->run, s->n);
        for (size_t i = 0; i < OLLA_COUNT(schemes); i++) {
            s->scheme = s->scheme || str_ieq(run, str_of(schemes[i]));
        }
    }
    s->credential = false;
    s->state = SECRETS_BETWEEN;
}

void secrets_feed(struct secrets *s, const char *p, size_t n)
{
    size_t from = 0; /* what is not held back goes on in one piece from here */

    for (size_t i = 0; i < n; i++) {
        while (s->state == SECRETS_PASS && i < n && is_word(p[i])) {
            i++;
        }
        if (i == n) {
            break;
        }
        if (s->state == SECRETS_BETWEEN) {
            s->credential = s->scheme;
        }
        if (!in_run(s, p[i])) {
            if (s->state != SECRETS_BETWEEN) {
                end_run(s);
            }
            s->scheme = s->scheme && p[i] == ' ';
            s->credential = false;
            continue;
        }
        if (s->state == SECRETS_BETWEEN && !may_begin(s, p[i])) {
            s->state = SECRETS_PASS;
        } else if (s->state == SECRETS_BETWEEN) {
            put(s, p + from, i - from);
            s->state = SECRETS_HELD;
            s->n = 0;
        }
        if (s->state != SECRETS_PASS) {
            from = i + 1;
        }
        if (s->state == SECRETS_HELD) {
            hold(s, p[i]);
        }
    }
    if (from < n) { /* of a header that is not there not even the address */
        put(s, p + from, n - from);
    }
}

void secrets_end(struct secrets *s)
{
    end_run(s);
    s->scheme = false;
    s->escape = 0;
}

static void nowhere(void *to, const char *p, size_t n)
{
    (void)to;
    (void)p;
    (void)n;
}

bool secrets_in(struct str text)
{
    struct secrets s = {.put = nowhere};
    secrets_feed(&s, text.p, text.n);
    secrets_end(&s);
    return s.removed;
}

/* ---- targets ------------------------------------------------------------------------- */

/* As many letters of the end of a name as are looked at. */
#define TAIL 16

static bool names_secret(const char *tail, size_t n)
{
    static const char *const ends[] = {
        "key",  "token", "password",      "passwd", "pwd",       "secret",     "passphrase",
        "auth", "jwt",   "authorization", "sig",    "signature", "credential", "credentials",
    };
    bool secret = false;

    for (size_t i = 0; i < OLLA_COUNT(ends) && !secret; i++) {
        secret = str_ends((struct str){tail, n}, str_of(ends[i]));
    }
    return secret;
}

static void put_cut(void *to, const char *p, size_t n)
{
    struct text *t = to;

    for (size_t i = 0; i < n && !t->full; i++) {
        text_char(t, p[i]);
    }
}

/* The byte at the start of s, decoded; *n: bytes that it takes. */
static char decoded(struct str s, size_t *n)
{
    bool escape = s.n > 2 && s.p[0] == '%' && str_hex_value(s.p[1]) >= 0 && str_hex_value(s.p[2]) >= 0;

    *n = escape ? 3 : 1;
    return escape ? (char)(str_hex_value(s.p[1]) * 16 + str_hex_value(s.p[2])) : s.p[0];
}

/* What most paths are: words of letters, and things like "v1". No secret looks like that. */
static bool is_plain_path(struct str target)
{
    size_t word = 0, others = 0;

    for (size_t i = 0; i < target.n; i++) {
        char c = str_lower(target.p[i]);
        if (c == '/') {
            word = others = 0;
            continue;
        }
        word++;
        others += c < 'a' || c > 'z';
        if ((others > 0 && word > 3) || (c < 'a' && (c < '0' || c > '9')) || c > 'z') {
            return false;
        }
    }
    return true;
}

void secrets_target(struct text *to, struct str target)
{
    /* Most ask for the same few paths. */
    static char last[128];
    static size_t last_n;
    if (target.n == 0) {
        return;
    }
    bool plain = target.n == last_n && memcmp(target.p, last, last_n) == 0;

    if (!plain && (plain = is_plain_path(target)) && target.n <= sizeof(last)) {
        memcpy(last, target.p, target.n);
        last_n = target.n;
    }
    if (plain) {
        size_t room = to->cap - to->n;
        text_add(to, (struct str){target.p, target.n < room ? target.n : room});
        return;
    }
    struct secrets s = {.put = put_cut, .to = to};
    char tail[2 * TAIL];
    size_t tail_n = 0, used;
    bool naming = true;

    for (; target.n > 0; target = str_skip(target, used)) {
        char c = str_lower(decoded(target, &used));
        bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (used > 1) {
            secrets_end(&s); /* what an escape stands for belongs to no run */
        }
        secrets_feed(&s, target.p, used);
        if (used > 1) {
            secrets_end(&s);
        }
        if (c == '&' || c == ';' || c == '?' || c == '/') {
            naming = true;
            tail_n = 0;
        } else if (c == '=' && naming) {
            naming = false;
            if (names_secret(tail, tail_n)) {
                secrets_end(&s);
                put_cut(to, "[REDACTED]", sizeof("[REDACTED]") - 1);
                used += str_find(str_skip(target, used), '&');
            }
        } else if (letter) {
            if (tail_n == sizeof(tail)) {
                memmove(tail, tail + TAIL, TAIL);
                tail_n = TAIL;
            }
            tail[tail_n++] = c;
        }
    }
    secrets_end(&s);
}
