/*
 * http_path.c - paths (escapes, cleaning), and the small tables: classes of bytes,
 * reason phrases, the date.
 *
 * Invariant: nothing here writes beyond the room it was given; http_unescape and
 * http_clean_path never make a path longer, so both work in place.
 *
 * May include: http.h, str.h, platform.h (the calendar), standard C headers.
 */
#include "http.h"

#include <string.h>

#include "../platform/platform.h"

/* The sum of each byte's classes, as a digit: of '0' to '7' the low bits are just that. 0x80 and up are in
 * none. The comma would be allowed in a host name, but there it is far more likely a joined list of two. */
const char http_class[256] = "00000000000000000000000000000000"  /* controls */
                             "07017377667747747777777777460600"  /*  !"#$%&'()*+,-./0123456789:;<=>? */
                             "47777777777777777777777777700017"  /* @ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_ */
                             "17777777777777777777777777701070"; /* `abcdefghijklmnopqrstuvwxyz{|}~ */

/* ---- paths ---------------------------------------------------------------------- */

/* plus: a '+' stands for a blank, as forms have it. */
static long unescape(struct str path, char *to, size_t cap, bool plus)
{
    size_t n = 0;

    for (size_t i = 0; i < path.n; i++) {
        int byte = (unsigned char)path.p[i];
        if (byte == '+' && plus) {
            byte = ' ';
        } else if (byte == '%') {
            int high = path.n - i > 2 ? str_hex_value(path.p[i + 1]) : -1;
            int low = path.n - i > 2 ? str_hex_value(path.p[i + 2]) : -1;
            /* An encoded NUL would end the path for some readers only. */
            if (high < 0 || low < 0 || high + low == 0) {
                return OLLA_ERR;
            }
            byte = high * 16 + low;
            i += 2;
        }
        if (n == cap) {
            return OLLA_ERR;
        }
        to[n++] = (char)byte;
    }
    return (long)n;
}

/* Days from 1 January 1970 to a date of the Gregorian calendar (March is month 0 of a year here, so that leap days come last). */
static int64_t days_from_date(int64_t year, int month, int day)
{
    year -= month <= 2;
    int64_t era = year / 400, of_era = year - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static const char month_names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

/* One word of a date: a month, a time, a year, a day; names of days and of the zone say nothing. */
struct date {
    int month; /* 1..12 */
    uint64_t day, year, seconds;
    bool timed;
};

static bool take_date_word(struct date *d, struct str word)
{
    struct str rest = word, hour = str_split(&rest, ':'), minute = str_split(&rest, ':');
    uint64_t h, m, s, n;

    if (rest.p && str_to_u64(hour, 23, &h) == OLLA_OK && str_to_u64(minute, 59, &m) == OLLA_OK &&
        str_to_u64(rest, 60, &s) == OLLA_OK) {
        d->seconds = h * 3600 + m * 60 + s;
        d->timed = true;
        return true;
    }
    for (int i = 0; i < 12 && word.n == 3; i++) {
        if (str_ieq(word, (struct str){month_names + 3 * i, 3})) {
            d->month = i + 1;
        }
    }
    if (str_to_u64(word, 9999, &n) != OLLA_OK) {
        return word.n > 0 && (word.p[0] < '0' || word.p[0] > '9');
    }
    if (word.n == 4) {
        d->year = n;
    } else if (d->day == 0) {
        d->day = n;
    } else {
        d->year = n < 70 ? 2000 + n : 1900 + n;
    }
    return true;
}

/* A date in one of the three forms of RFC 9110 (5.6.7), as ms since 1970; -1 if it is none. */
static int64_t parse_date(struct str s)
{
    struct date d = {0};

    while (s.n > 0) {
        size_t n = 0;
        while (n < s.n && s.p[n] != ' ' && s.p[n] != ',' && s.p[n] != '-') {
            n++;
        }
        if (n > 0 && !take_date_word(&d, (struct str){s.p, n})) {
            return -1;
        }
        s = str_skip(s, n + 1);
    }
    if (d.month == 0 || d.day == 0 || d.day > 31 || d.year < 1970 || !d.timed) {
        return -1;
    }
    return (days_from_date((int64_t)d.year, d.month, (int)d.day) * 86400 + (int64_t)d.seconds) * 1000;
}

bool http_retry_after(struct str value, int64_t wall_ms, uint64_t *ms)
{
    uint64_t seconds;

    if (str_to_u64(value, INT32_MAX, &seconds) == OLLA_OK) {
        *ms = seconds * 1000;
        return true;
    }
    int64_t at = parse_date(value);
    *ms = at > wall_ms ? (uint64_t)(at - wall_ms) : 0;
    return at >= 0;
}

long http_unescape(struct str path, char *to, size_t cap)
{
    return unescape(path, to, cap, false);
}

unsigned http_query_count(struct str query, struct str key)
{
    unsigned count = 0;
    char name[64]; /* no key that is asked for is longer; escaped it has three times as many bytes */

    for (struct str rest = str_skip(query, 1); rest.n > 0;) {
        struct str pair = {rest.p, str_find(rest, '&')};
        struct str key_as_sent = {pair.p, str_find(pair, '=')};
        rest = str_skip(rest, pair.n + 1);
        long n = key_as_sent.n < sizeof(name) ? unescape(key_as_sent, name, sizeof(name), true) : 0;
        count += n > 0 && str_eq((struct str){name, (size_t)n}, key);
    }
    return count;
}

bool http_query(struct str query, struct str key, char *to, size_t cap, struct str *raw)
{
    to[0] = '\0';
    for (struct str rest = str_skip(query, 1); rest.n > 0;) {
        struct str pair = {rest.p, str_find(rest, '&')};
        size_t eq = str_find(pair, '=');
        rest = str_skip(rest, pair.n + 1);
        if (!str_eq((struct str){pair.p, eq}, key)) {
            continue;
        }
        struct str value = str_skip(pair, eq + 1);
        long n = unescape(value, to, cap - 1, true);
        to[n > 0 ? n : 0] = '\0';
        if (raw) {
            *raw = value;
        }
        return n >= 0;
    }
    return false;
}

void http_escape_path(struct text *t, struct str path)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < path.n; i++) {
        unsigned char c = (unsigned char)path.p[i];
        if (http_class[c] & HTTP_IS_PATH) {
            text_char(t, path.p[i]);
        } else {
            char escape[3] = {'%', hex[c >> 4], hex[c & 15]};
            text_add(t, (struct str){escape, sizeof(escape)});
        }
    }
}

size_t http_clean_path(char *path, size_t n, bool keep_slash)
{
    size_t out = 0;     /* cleaned so far: "" or "/a/b", never with a slash at its end */
    bool slash = false; /* what was read last ends with a slash, or stands for a directory */

    if (n == 0 || path[0] != '/') {
        return n;
    }
    for (size_t at = 0; at < n;) {
        at++; /* the slash before the segment */
        size_t start = at;
        while (at < n && path[at] != '/') {
            at++;
        }
        struct str segment = {path + start, at - start};
        slash = true;
        if (str_eq(segment, STR(".."))) {
            while (out > 0 && path[--out] != '/') {
                continue;
            }
        } else if (segment.n > 0 && !str_eq(segment, STR("."))) {
            path[out++] = '/';
            memmove(path + out, segment.p, segment.n);
            out += segment.n;
            slash = false;
        }
    }
    if (out == 0 || (slash && keep_slash)) {
        path[out++] = '/';
    }
    return out;
}

/* ---- small tables ---------------------------------------------------------------- */

/* What olla itself says, and what backends may say without words. */
static const struct reason {
    int status;
    const char *text;
} reasons[] = {
    {200, "OK"},
    {100, "Continue"},
    {201, "Created"},
    {204, "No Content"},
    {301, "Moved Permanently"},
    {304, "Not Modified"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {413, "Request Entity Too Large"},
    {415, "Unsupported Media Type"},
    {422, "Unprocessable Entity"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {499, "Client Closed Request"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
    {507, "Insufficient Storage"},
};

const char *http_reason(int status)
{
    for (size_t i = 0; i < OLLA_COUNT(reasons); i++) {
        if (reasons[i].status == status) {
            return reasons[i].text;
        }
    }
    return "Unknown";
}

struct str http_date(int64_t wall_ms)
{
    static const char weekdays[] = "SunMonTueWedThuFriSat";
    static char made[sizeof("Sun, 06 Nov 1994 08:49:37 GMT")];
    static int64_t made_for = -1;
    const int64_t last = INT64_C(253402300799); /* 31 Dec 9999: longer years do not fit */
    int64_t second = wall_ms < 0 ? 0 : wall_ms / 1000 < last ? wall_ms / 1000 : last;

    if (second != made_for) {
        struct plat_time at;
        struct text t = text_in(made, sizeof(made));
        plat_time_of(second * 1000, false, &at);
        text_add(&t, (struct str){weekdays + 3 * at.weekday, 3});
        text_addz(&t, ", ");
        text_padded(&t, (uint64_t)at.day, 2);
        text_char(&t, ' ');
        text_add(&t, (struct str){month_names + 3 * (at.month - 1), 3});
        text_char(&t, ' ');
        text_padded(&t, (uint64_t)at.year, 4);
        text_char(&t, ' ');
        text_padded(&t, (uint64_t)at.hour, 2);
        text_char(&t, ':');
        text_padded(&t, (uint64_t)at.minute, 2);
        text_char(&t, ':');
        text_padded(&t, (uint64_t)at.second, 2);
        text_addz(&t, " GMT");
        made_for = second;
    }
    return (struct str){made, sizeof(made) - 1};
}
