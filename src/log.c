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
#define LOG_FD           1

static const char *const level_names[] = {"DEBUG", "INFO", "WARN", "ERROR"};

static struct {
    enum log_level lowest;
    bool json;
    size_t off, end;
    uint64_t since; /* when the oldest waiting line came, 0 = none waits */
    uint64_t dropped;
    struct text line;
} lg = {.lowest = LOG_INFO};

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

static void add_timestamp(struct text *t)
{
    struct plat_time at;
    plat_time_of(plat_wall_ms(), true, &at);
    log_time(t, &at, lg.json ? 'T' : ' ');
    if (lg.json) {
        int offset = at.offset_min < 0 ? -at.offset_min : at.offset_min;
        text_char(t, at.offset_min < 0 ? '-' : '+');
        text_padded(t, (uint64_t)(offset / 60), 2);
        text_char(t, ':');
        text_padded(t, (uint64_t)(offset % 60), 2);
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
    if (lg.json) {
        text_addz(t, "{\"timestamp\":\"");
        add_timestamp(t);
        text_addz(t, "\",\"level\":\"");
        text_addz(t, level_names[level]);
        text_addz(t, "\",\"msg\":");
        json_text(t, str_of(msg));
    } else {
        add_timestamp(t);
        text_char(t, ' ');
        text_addz(t, level_names[level]);
        text_addz(t, level_names[level][4] ? " " : "  ");
        text_addz(t, msg);
    }
    return true;
}

/* Adds one field; a field that does not fit is left out whole, so that the line stays well-formed. */
static void add_field(const char *key, struct str value, bool number)
{
    struct text *t = &lg.line;
    struct text before = *t;

    text_char(t, lg.json ? ',' : ' ');
    if (lg.json) {
        json_text(t, str_of(key));
        text_char(t, ':');
    } else {
        text_addz(t, key);
        text_char(t, '=');
    }
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

static void report_dropped(void)
{
    if (lg.dropped > 0 && sizeof(waiting) - (lg.end - lg.off) > LOG_LINE) {
        uint64_t n = lg.dropped;
        lg.dropped = 0;
        if (log_begin(LOG_WARN, "log lines dropped, the sink is too slow")) {
            log_u64("dropped", n);
            log_end();
        }
    }
}

int log_flush(uint64_t now_ms, bool at_exit)
{
    if (lg.off == lg.end) {
        return -1;
    }
    if (lg.since == 0) {
        lg.since = now_ms ? now_ms : 1;
    }
    if (!at_exit && lg.end - lg.off < LOG_GATHER_BYTES && now_ms - lg.since < LOG_GATHER_MS) {
        return (int)(LOG_GATHER_MS - (now_ms - lg.since));
    }
    for (int tries = at_exit ? 50 : 16; tries > 0 && lg.off < lg.end; tries--) {
        long n = plat_log_write(LOG_FD, waiting + lg.off, lg.end - lg.off);
        if (n > 0) {
            lg.off += (size_t)n;
        } else if (n == OLLA_AGAIN && at_exit) {
            plat_poll(NULL, 0, 10);
        } else if (n == OLLA_AGAIN) {
            break;
        } else {
            lg.off = lg.end; /* the sink is gone: nothing to wait for */
        }
    }
    report_dropped();
    if (lg.off < lg.end) {
        return LOG_GATHER_MS;
    }
    lg.off = lg.end = 0;
    lg.since = 0;
    return -1;
}
