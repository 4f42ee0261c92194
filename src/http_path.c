/*
 * http_path.c - paths (escapes, cleaning), and the small tables: classes of bytes,
 * reason phrases, the date.
 *
 * Invariant: nothing here writes beyond the room it was given; http_unescape and
 * http_clean_path never make a path longer, so both work in place.
 *
 * May include: http.h, str.h, standard C headers.
 */
#include "http.h"

#include <string.h>

/* ---- classes of bytes -------------------------------------------------------- */

#define T  HTTP_IS_TOKEN
#define P  HTTP_IS_PATH
#define A  (HTTP_IS_TOKEN | HTTP_IS_HOST | HTTP_IS_PATH)
#define HP (HTTP_IS_HOST | HTTP_IS_PATH)
#define TH (HTTP_IS_TOKEN | HTTP_IS_HOST)

/* All others, controls and 0x80 and up among them, are in no class. The comma would be allowed
 * in a host name, but there it is far more likely a joined list of two. */
const uint8_t http_class[256] = {
    /*        !  "  #  $  %   &  '  (   )   *  +  ,  -  .  / */
    [' '] = 0,
    A,
    0,
    T,
    A,
    TH,
    A,
    A,
    HP,
    HP,
    A,
    A,
    P,
    A,
    A,
    P,
    /*        1  2  3  4  5  6  7  8  9  :  ;   <  =   >  ? */
    ['0'] = A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    P,
    HP,
    0,
    HP,
    0,
    0,
    ['@'] = P,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    /*                                   Z  [  \  ]  ^  _ */
    ['P'] = A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    0,
    0,
    0,
    T,
    A,
    ['`'] = T,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    /*                                   z  {  |  }  ~ */
    ['p'] = A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    A,
    0,
    T,
    0,
    A,
    0,
};

#undef T
#undef P
#undef A
#undef HP
#undef TH

int http_hex_value(char c)
{
    char lower = str_lower(c);

    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* ---- paths ---------------------------------------------------------------------- */

/* The byte that the escape at s stands for, or -1. An encoded NUL would end the path for some readers only. */
static int escaped_byte(struct str s)
{
    if (s.n < 3) {
        return -1;
    }
    int high = http_hex_value(s.p[1]);
    int low = http_hex_value(s.p[2]);
    return high < 0 || low < 0 || high + low == 0 ? -1 : high * 16 + low;
}

long http_unescape(struct str path, char *to, size_t cap)
{
    size_t n = 0;

    while (path.n > 0) {
        size_t plain = str_find(path, '%');
        if (plain > cap - n) {
            return OLLA_ERR;
        }
        if (plain > 0) {
            memmove(to + n, path.p, plain);
        }
        n += plain;
        path = str_skip(path, plain);
        if (path.n == 0) {
            break;
        }
        int byte = escaped_byte(path);
        if (byte < 0 || n == cap) {
            return OLLA_ERR;
        }
        to[n++] = (char)byte;
        path = str_skip(path, 3);
    }
    return (long)n;
}

void http_escape_path(struct text *t, struct str path)
{
    static const char hex[] = "0123456789ABCDEF";

    while (path.n > 0) {
        size_t plain = 0;
        while (plain < path.n && (http_class[(unsigned char)path.p[plain]] & HTTP_IS_PATH)) {
            plain++;
        }
        text_add(t, (struct str){path.p, plain});
        if (plain < path.n) {
            unsigned char c = (unsigned char)path.p[plain++];
            char escape[3] = {'%', hex[c >> 4], hex[c & 15]};
            text_add(t, (struct str){escape, sizeof(escape)});
        }
        path = str_skip(path, plain);
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

/* ---- reason phrases ---------------------------------------------------------------- */

static const struct reason {
    int status;
    const char *text;
} reasons[] = {
    {200, "OK"},
    {100, "Continue"},
    {101, "Switching Protocols"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {206, "Partial Content"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {303, "See Other"},
    {304, "Not Modified"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {411, "Length Required"},
    {412, "Precondition Failed"},
    {413, "Request Entity Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"},
    {421, "Misdirected Request"},
    {422, "Unprocessable Entity"},
    {426, "Upgrade Required"},
    {428, "Precondition Required"},
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

/* ---- date ------------------------------------------------------------------------- */

static bool is_leap(unsigned year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

/* days: since 1970, before the year 10000. */
static void write_date(struct text *t, uint32_t days, unsigned second_of_day)
{
    static const char weekdays[] = "ThuFriSatSunMonTueWed"; /* 1970 began on a Thursday */
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static const unsigned char lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const char *weekday = weekdays + days % 7 * 3;
    unsigned year = 1970;
    unsigned month = 0;

    /* Counting years up is slower than closed arithmetic, but plain, and runs once a second. */
    for (; days >= (is_leap(year) ? 366u : 365u); year++) {
        days -= is_leap(year) ? 366u : 365u;
    }
    for (;; month++) {
        unsigned length = lengths[month] + (month == 1 && is_leap(year) ? 1u : 0u);
        if (days < length) {
            break;
        }
        days -= length;
    }
    text_add(t, (struct str){weekday, 3});
    text_addz(t, ", ");
    text_padded(t, days + 1, 2);
    text_char(t, ' ');
    text_add(t, (struct str){months + month * 3, 3});
    text_char(t, ' ');
    text_padded(t, year, 4);
    text_char(t, ' ');
    text_padded(t, second_of_day / 3600, 2);
    text_char(t, ':');
    text_padded(t, second_of_day / 60 % 60, 2);
    text_char(t, ':');
    text_padded(t, second_of_day % 60, 2);
    text_addz(t, " GMT");
}

struct str http_date(int64_t wall_ms)
{
    static char made[sizeof("Sun, 06 Nov 1994 08:49:37 GMT")];
    static int64_t made_for = -1;
    const int64_t last = INT64_C(253402300799); /* 31 Dec 9999: longer years do not fit */
    int64_t second = wall_ms < 0 ? 0 : wall_ms / 1000;

    if (second > last) {
        second = last;
    }
    if (second != made_for) {
        struct text t = text_in(made, sizeof(made));
        write_date(&t, (uint32_t)(second / 86400), (unsigned)(second % 86400));
        made_for = second;
    }
    return (struct str){made, sizeof(made) - 1};
}
