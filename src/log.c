/*
 * log.c - level 2: see log.h.
 *
 * May include: olla.h, str.h, json.h, platform.h.
 */
#include "log.h"

#include <string.h>

#include "../platform/platform.h"
#include "json.h"

/* Small writes cost more than they are worth: up to this long a line may wait for company. */
#define LOG_GATHER_MS    100
#define LOG_GATHER_BYTES 4096
#define LOG_LINE         2048
#define LOG_RETRY_MS     1000 /* a sink that is full or away is tried again after so long */
#define LOG_WRITES       64   /* in one flush */
#define LOG_EXIT_WAITS   50   /* 10 ms each */
#define LOG_DAEMON       (3u << 3)

static const char *const level_names[] = {"DEBUG", "INFO", "WARN", "ERROR"};

struct sink {
    enum log_output to;
    int fd;           /* our own; -1 = none, or the socket cannot be had */
    const char *path; /* of the socket */
};

static struct {
    enum log_level lowest;
    bool json;
    struct sink sink, next;
    size_t off, end;
    uint64_t since; /* when the oldest waiting line came, 0 = none waits */
    uint64_t dropped;
    uint64_t retry_at; /* the sink cannot be written: not before that time; 0 = it can */
    char why[96];      /* ... because of this; "" = it can, and it has been said that it could not */
    bool torn;         /* the last byte written was not the end of a line */
    const char *about;
    struct text line;
} lg = {.lowest = LOG_INFO, .sink = {.fd = -1}, .next = {.fd = -1}};

static char waiting[OLLA_LOG_BUF];
static char line_mem[LOG_LINE];

void log_setup(enum log_level lowest, bool json)
{
    lg.lowest = lowest;
    lg.json = json;
}

void log_time(struct text *t, const struct plat_time *at, char between)
{
    text_padded(t, (uint64_t)at->year, 4);
    text_char(t, '-');
    text_padded(t, (uint64_t)at->month, 2);
    text_char(t, '-');
    text_padded(t, (uint64_t)at->day, 2);
    text_char(t, between);
    text_padded(t, (uint64_t)at->hour, 2);
    text_char(t, ':');
    text_padded(t, (uint64_t)at->minute, 2);
    text_char(t, ':');
    text_padded(t, (uint64_t)at->second, 2);
    text_char(t, '.');
    text_padded(t, (uint64_t)at->ms, 3);
}

const char *log_about(const char *request_id)
{
    const char *was = lg.about;

    lg.about = request_id;
    return was;
}

/* The local time. What time zone it is in is looked up once a second: that takes longer than a line. */
static void local_time(struct plat_time *at)
{
    static struct plat_time last;
    static int64_t second = -1;
    int64_t now = plat_wall_ms();

    if (now / 1000 != second) {
        plat_time_of(now, true, &last);
        second = now / 1000;
    }
    *at = last;
    at->ms = (int)(now % 1000);
}

/* What syslog(3) of the C library puts in front. */
static void add_syslog_head(struct text *t, enum log_level level)
{
    static const unsigned severity[] = {7, 6, 4, 3};
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct plat_time at;

    local_time(&at);
    text_char(t, '<');
    text_u64(t, LOG_DAEMON | severity[level]);
    text_char(t, '>');
    text_add(t, (struct str){months + 3 * (at.month - 1), 3});
    text_addz(t, at.day < 10 ? "  " : " ");
    text_u64(t, (uint64_t)at.day);
    text_char(t, ' ');
    text_padded(t, (uint64_t)at.hour, 2);
    text_char(t, ':');
    text_padded(t, (uint64_t)at.minute, 2);
    text_char(t, ':');
    text_padded(t, (uint64_t)at.second, 2);
    text_addz(t, " olla[");
    text_u64(t, (uint64_t)plat_pid());
    text_addz(t, "]: ");
}

static void add_timestamp(struct text *t)
{
    struct plat_time at;

    local_time(&at);
    log_time(t, &at, lg.json ? 'T' : ' ');
    if (lg.json) {
        int offset = at.offset_min < 0 ? -at.offset_min : at.offset_min;
        text_char(t, at.offset_min < 0 ? '-' : '+');
        text_padded(t, (uint64_t)(offset / 60), 2);
        text_char(t, ':');
        text_padded(t, (uint64_t)(offset % 60), 2);
    }
}

/* A message may hold a part of the configuration: in text it stays in its line. */
static void add_message(struct text *t, const char *msg)
{
    for (; *msg; msg++) {
        bool control = (unsigned char)*msg < ' ' || *msg == 0x7f;
        bool c1 = *msg == '\xc2' && (unsigned char)msg[1] >= 0x80 && (unsigned char)msg[1] < 0xa0;
        text_char(t, control || c1 ? '?' : *msg);
        msg += c1;
    }
}

bool log_begin(enum log_level level, const char *msg)
{
    struct text *t = &lg.line;
    if (level < lg.lowest) {
        return false;
    }
    /* Two bytes are kept back so that even a cut line ends as a line. */
    *t = text_in(line_mem, sizeof(line_mem) - 2);
    if (lg.sink.to == LOG_TO_SYSLOG) {
        add_syslog_head(t, level);
    }
    if (lg.json) {
        text_addz(t, "{\"timestamp\":\"");
        add_timestamp(t);
        text_addz(t, "\",\"level\":\"");
        text_addz(t, level_names[level]);
        text_addz(t, "\",\"msg\":");
        json_text(t, str_of(msg));
    } else {
        if (lg.sink.to != LOG_TO_SYSLOG) {
            add_timestamp(t);
            text_char(t, ' ');
        }
        text_addz(t, level_names[level]);
        text_addz(t, level_names[level][4] ? " " : "  ");
        add_message(t, msg);
    }
    if (lg.about && lg.about[0]) {
        log_z("request_id", lg.about);
    }
    return true;
}

/* Adds one field, whose key is a plain word; one that does not fit is left out whole: the line stays well-formed. */
static void add_field(const char *key, struct str value, bool number)
{
    struct text *t = &lg.line;
    struct text before = *t;

    text_addz(t, lg.json ? ",\"" : " ");
    text_addz(t, key);
    text_addz(t, lg.json ? "\":" : "=");
    bool plain = number;
    if (!number && !lg.json) {
        plain = value.n > 0;
        for (size_t i = 0; i < value.n && plain; i++) {
            plain = value.p[i] > ' ' && value.p[i] < 0x7f && value.p[i] != '"' && value.p[i] != '\\';
        }
    }
    if (plain) {
        text_add(t, value);
    } else {
        json_text(t, value);
    }
    if (t->full) {
        *t = before;
    }
}

void log_str(const char *key, struct str value)
{
    add_field(key, value, false);
}

void log_z(const char *key, const char *value)
{
    add_field(key, str_of(value), false);
}

void log_u64(const char *key, uint64_t value)
{
    char tmp[24];
    struct text t = text_in(tmp, sizeof(tmp));
    text_u64(&t, value);
    add_field(key, text_str(&t), true);
}

void log_end(void)
{
    struct text *t = &lg.line;
    if (lg.json) {
        line_mem[t->n++] = '}';
    }
    line_mem[t->n++] = '\n';
    if (t->n > sizeof(waiting) - lg.end && lg.off > 0) {
        memmove(waiting, waiting + lg.off, lg.end - lg.off);
        lg.end -= lg.off;
        lg.off = 0;
    }
    if (t->n > sizeof(waiting) - lg.end) {
        lg.dropped++;
        return;
    }
    memcpy(waiting + lg.end, line_mem, t->n);
    lg.end += t->n;
}

void log_line(enum log_level level, const char *msg, const char *key_a, struct str a, const char *key_b, struct str b)
{
    if (!log_begin(level, msg)) {
        return;
    }
    if (key_a) {
        log_str(key_a, a);
    }
    if (key_b) {
        log_str(key_b, b);
    }
    log_end();
}

bool log_allowed(uint64_t *last, uint64_t now_ms)
{
    if (*last != 0 && now_ms - *last < 5000) {
        return false;
    }
    *last = now_ms;
    return true;
}

void log_limit(struct log_limit *l, uint64_t now_ms, const char *msg, const char *limit, uint64_t value)
{
    l->times++;
    if (log_allowed(&l->last, now_ms)) {
        if (log_begin(LOG_WARN, msg)) {
            log_z("limit", limit);
            log_u64("value", value);
            log_u64("times", l->times);
            log_end();
        }
        l->times = 0;
    }
}

/* ---- sinks ----------------------------------------------------------------------- */

static void failed(uint64_t now_ms)
{
    struct str why = str_of(plat_error_text());

    str_copy(lg.why, sizeof(lg.why), (struct str){why.p, why.n < sizeof(lg.why) ? why.n : sizeof(lg.why) - 1});
    lg.retry_at = now_ms + LOG_RETRY_MS;
}

/* To the system's log goes one line at a time. */
static long write_datagram(struct str line)
{
    for (int tries = 0; tries < 2; tries++) {
        if (lg.sink.fd < 0 && (lg.sink.fd = plat_syslog_open(lg.sink.path)) < 0) {
            return OLLA_ERR;
        }
        long n = plat_log_write(lg.sink.fd, line.p, line.n);
        if (n != OLLA_ERR) {
            return n > 0 ? (long)line.n + 1 : n;
        }
        plat_close(lg.sink.fd); /* maybe the daemon was started anew */
        lg.sink.fd = -1;
    }
    return OLLA_ERR;
}

/* Count of bytes done with, OLLA_AGAIN or OLLA_ERR. */
static long write_some(void)
{
    struct str left = {waiting + lg.off, lg.end - lg.off};

    if (lg.sink.to == LOG_TO_SYSLOG) {
        return write_datagram((struct str){left.p, str_find(left, '\n')});
    }
    return plat_log_write(lg.sink.to == LOG_TO_STDOUT ? 1 : lg.sink.fd, left.p, left.n);
}

/* Writes what it can without waiting. OLLA_OK: all; OLLA_AGAIN: the sink is slow; OLLA_ERR: it cannot be written now. */
static int write_waiting(uint64_t now_ms)
{
    for (int i = 0; i < LOG_WRITES && lg.off < lg.end; i++) {
        long n = write_some();
        if (n > 0) {
            lg.off += (size_t)n;
            lg.torn = waiting[lg.off - 1] != '\n';
            lg.retry_at = 0;
        } else if (n == OLLA_AGAIN) {
            return OLLA_AGAIN;
        } else if (lg.sink.to == LOG_TO_STDOUT && plat_error() != PLAT_FAIL_NO_SPACE) {
            lg.off = lg.end; /* it is gone for good: nothing to wait for */
            lg.torn = false;
        } else {
            failed(now_ms);
            return OLLA_ERR;
        }
    }
    return lg.off < lg.end ? OLLA_AGAIN : OLLA_OK;
}

/* The lines that wait, or only what is left of the first: they are not for the next sink. */
static void drop_waiting(bool all)
{
    while (lg.off < lg.end) {
        lg.off += str_find((struct str){waiting + lg.off, lg.end - lg.off}, '\n') + 1;
        lg.dropped++;
        if (!all) {
            break;
        }
    }
    lg.torn = false;
}

int log_prepare(enum log_output to, const char *path)
{
    int fd = to == LOG_TO_FILE ? plat_log_open(path) : to == LOG_TO_SYSLOG ? plat_syslog_open(path) : -1;

    log_switch(false);
    if (fd < 0 && to == LOG_TO_FILE) {
        return OLLA_ERR;
    }
    lg.next = (struct sink){to, fd < 0 ? -1 : fd, path};
    return OLLA_OK;
}

static void close_sink(const struct sink *s)
{
    if (s->fd != -1) {
        plat_close(s->fd);
    }
}

void log_switch(bool take)
{
    if (take) {
        write_waiting(0);
        bool other_form = lg.next.to != lg.sink.to && (lg.next.to == LOG_TO_SYSLOG || lg.sink.to == LOG_TO_SYSLOG);
        if (other_form || lg.torn) {
            drop_waiting(other_form);
        }
        close_sink(&lg.sink);
        lg.sink = lg.next;
        lg.retry_at = 0;
    } else {
        close_sink(&lg.next);
    }
    lg.next = (struct sink){.fd = -1};
}

static void report_dropped(void)
{
    uint64_t n = lg.dropped;

    if ((n == 0 && !lg.why[0]) || lg.retry_at != 0 || sizeof(waiting) - (lg.end - lg.off) <= LOG_LINE) {
        return;
    }
    const char *about = log_about(NULL);
    if (log_begin(LOG_WARN,
                  lg.why[0] ? "the log could not be written for a while" : "log lines dropped, the sink is too slow")) {
        log_u64("dropped", n);
        if (lg.why[0]) {
            log_z("error", lg.why);
        }
        lg.dropped = 0;
        lg.why[0] = '\0';
        log_end();
    }
    log_about(about);
}

int log_flush(uint64_t now_ms, bool at_exit)
{
    if (lg.off == lg.end) {
        return -1;
    }
    if (lg.since == 0) {
        lg.since = now_ms ? now_ms : 1;
    }
    if (!at_exit && lg.retry_at > now_ms) {
        return (int)(lg.retry_at - now_ms);
    }
    if (!at_exit && lg.end - lg.off < LOG_GATHER_BYTES && now_ms - lg.since < LOG_GATHER_MS) {
        return (int)(LOG_GATHER_MS - (now_ms - lg.since));
    }
    int result = write_waiting(now_ms);
    for (int waits = 0; at_exit && result == OLLA_AGAIN && waits < LOG_EXIT_WAITS; waits++) {
        plat_poll(NULL, 0, 10);
        result = write_waiting(now_ms);
    }
    report_dropped();
    if (at_exit && result == OLLA_OK) {
        result = write_waiting(now_ms);
    }
    if (lg.off < lg.end) {
        return result == OLLA_ERR ? LOG_RETRY_MS : LOG_GATHER_MS;
    }
    lg.off = lg.end = 0;
    lg.since = 0;
    return -1;
}
