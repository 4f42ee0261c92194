/*
 * test_log.c - log lines: levels, both formats with hostile values, a sink that blocks, files that are renamed and
 * full, a system's log that comes and goes.
 *
 * Descriptor 1 is a pipe while lines are written; the teardown puts it back at the latest.
 * JSON lines are read by a small strict reader of their flat objects.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../platform/platform.h"
#include "../../src/log.h"

static char out[8 * OLLA_LOG_BUF]; /* what came through the pipe */
static size_t out_n;
static int pipe_fd[2] = {-1, -1}, real_stdout = -1;
static uint64_t clock_ms = 1000000; /* a clock of our own */

/* ---- the sink -------------------------------------------------------------------- */

static void redirect(void)
{
    fflush(stdout);
    out_n = 0;
    assert_int_equal(pipe(pipe_fd), 0);
    assert_int_not_equal(fcntl(pipe_fd[0], F_SETFL, O_NONBLOCK), -1);
    real_stdout = dup(1);
    assert_int_not_equal(dup2(pipe_fd[1], 1), -1);
    close(pipe_fd[1]);
}

static void drain(void)
{
    ssize_t n;
    while ((n = read(pipe_fd[0], out + out_n, sizeof(out) - out_n)) > 0) {
        out_n += (size_t)n;
    }
}

static void restore(void)
{
    if (real_stdout != -1) {
        (void)dup2(real_stdout, 1);
        close(real_stdout);
        close(pipe_fd[0]);
        real_stdout = -1;
    }
}

/* Writes and reads until nothing waits. */
static void flush_all(void)
{
    for (int i = 0; i < 50; i++) {
        clock_ms += 1000;
        int next = log_flush(clock_ms, false);
        drain();
        if (next == -1) {
            break;
        }
    }
}

/* What was logged since redirect(), as one text. */
static struct str collect(void)
{
    flush_all();
    restore();
    return (struct str){out, out_n};
}

static int before(void **state)
{
    (void)state;
    log_setup(LOG_DEBUG, true);
    redirect();
    return 0;
}

/* Also after a failed assertion: descriptor 1 back, nothing waiting. */
static int after(void **state)
{
    (void)state;
    if (real_stdout == -1) {
        redirect();
    }
    flush_all();
    restore();
    (void)log_about(NULL);
    assert_int_equal(log_prepare(LOG_TO_STDOUT, NULL), OLLA_OK);
    log_switch(true);
    return 0;
}

/* ---- a strict reader of flat objects --------------------------------------------- */

struct field {
    char key[64];
    char value[4096];
    size_t n;
    bool number;
};

static struct field fields[64];
static int field_count;

static size_t utf8_len(const unsigned char *p, size_t n)
{
    unsigned c = p[0];
    size_t len = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (len == 0 || len > n || (c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] >= 0xa0) ||
        (c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] >= 0x90)) {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        len = (p[i] & 0xc0) == 0x80 ? len : 0;
    }
    return len;
}

/* A quoted string; all escapes, but \u only below U+00A0, which is all that a writer needs. */
static bool take_string(struct str *s, char *to, size_t cap, size_t *n)
{
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    *n = 0;
    if (s->n == 0 || s->p[0] != '"') {
        return false;
    }
    for (*s = str_skip(*s, 1); s->n > 0 && s->p[0] != '"';) {
        char c = s->p[0];
        size_t len = utf8_len((const unsigned char *)s->p, s->n);
        if ((unsigned char)c < 0x20 || len == 0 || *n + 4 >= cap) {
            return false;
        }
        if (c != '\\') {
            memcpy(to + *n, s->p, len);
            *n += len;
        } else if (s->n > 5 && s->p[1] == 'u') {
            char hex[5] = {s->p[2], s->p[3], s->p[4], s->p[5], '\0'}, *end;
            long code = strtol(hex, &end, 16);
            if (*end || code >= 0xa0) {
                return false;
            }
            if (code >= 0x80) {
                to[(*n)++] = '\xc2';
            }
            to[(*n)++] = (char)code;
            len = 6;
        } else {
            const char *at = s->n > 1 ? strchr(letters, s->p[1]) : NULL;
            if (!at || !*at) {
                return false;
            }
            to[(*n)++] = meant[at - letters];
            len = 2;
        }
        *s = str_skip(*s, len);
    }
    to[*n] = '\0';
    bool closed = s->n > 0;
    *s = str_skip(*s, 1);
    return closed;
}

static bool take(struct str *s, char c)
{
    bool there = s->n > 0 && s->p[0] == c;
    *s = str_skip(*s, there);
    return there;
}

/* One line without its newline into fields[]. */
static bool read_json(struct str s)
{
    field_count = 0;
    if (!take(&s, '{')) {
        return false;
    }
    do {
        struct field *f = &fields[field_count++];
        size_t key_n;
        assert_true(field_count < (int)OLLA_COUNT(fields));
        if (!take_string(&s, f->key, sizeof(f->key), &key_n) || !take(&s, ':')) {
            return false;
        }
        f->number = s.n > 0 && s.p[0] >= '0' && s.p[0] <= '9';
        if (!f->number && !take_string(&s, f->value, sizeof(f->value), &f->n)) {
            return false;
        }
        for (f->n = f->number ? 0 : f->n; f->number && s.n > 0 && s.p[0] >= '0' && s.p[0] <= '9'; s = str_skip(s, 1)) {
            f->value[f->n++] = s.p[0];
            f->value[f->n] = '\0';
        }
    } while (take(&s, ','));
    return take(&s, '}') && s.n == 0;
}

static const struct field *field(const char *key)
{
    for (int i = 0; i < field_count; i++) {
        if (strcmp(fields[i].key, key) == 0) {
            return &fields[i];
        }
    }
    return NULL;
}

/* The one line that was logged, without its newline. */
static struct str one_line(void)
{
    struct str s = collect();
    assert_true(s.n > 0 && str_find(s, '\n') == s.n - 1);
    s.n--;
    return s;
}

static void one_json(void)
{
    assert_true(read_json(one_line()));
}

/* 0 a digit, + a sign, the rest itself. */
static bool looks_like(struct str s, const char *pattern)
{
    for (size_t i = 0; pattern[i]; i++) {
        char c = i < s.n ? s.p[i] : '\0';
        if (pattern[i] == '0' ? c < '0' || c > '9' : pattern[i] == '+' ? c != '+' && c != '-' : c != pattern[i]) {
            return false;
        }
    }
    return true;
}

/* ---- levels and form ------------------------------------------------------------- */

static void test_levels(void **state)
{
    static const char *const names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    (void)state;
    for (int lowest = LOG_DEBUG; lowest <= LOG_ERROR; lowest++) {
        for (int level = LOG_DEBUG; level <= LOG_ERROR; level++) {
            redirect();
            log_setup((enum log_level)lowest, true);
            bool begun = log_begin((enum log_level)level, "hello");
            if (begun) {
                log_end();
            }
            log_line((enum log_level)level, "hello", NULL, STR(""), NULL, STR(""));
            struct str s = collect();
            assert_int_equal(begun, level >= lowest);
            assert_int_equal(s.n > 0, level >= lowest);
            if (begun) {
                struct str first = str_split(&s, '\n'), second = str_split(&s, '\n');
                assert_true(read_json(first) && read_json(second));
                assert_int_equal(s.n, 0);
                assert_string_equal(field("level")->value, names[level]);
            }
        }
    }
}

static void test_json_form(void **state)
{
    (void)state;
    assert_true(log_begin(LOG_INFO, "request"));
    log_z("method", "GET");
    log_u64("status", 0);
    log_u64("big", UINT64_MAX);
    log_str("empty", (struct str){NULL, 0});
    log_z("none", NULL);
    log_str("part", (struct str){"abcdef", 3});
    log_end();
    one_json();
    assert_int_equal(field_count, 9);
    assert_true(looks_like(str_of(fields[0].value), "0000-00-00T00:00:00.000+00:00"));
    assert_string_equal(fields[0].key, "timestamp");
    assert_string_equal(field("msg")->value, "request");
    assert_string_equal(field("method")->value, "GET");
    assert_true(field("status")->number && field("big")->number && field("status")->value[0] == '0');
    assert_string_equal(field("big")->value, "18446744073709551615");
    assert_true(field("empty")->n == 0 && field("none")->n == 0 && field("part")->n == 3);
}

static void test_text_form(void **state)
{
    (void)state;
    log_setup(LOG_DEBUG, false);
    assert_true(log_begin(LOG_WARN, "two words"));
    log_z("plain", "a=b/c:d");
    log_z("blank", "two words");
    log_z("empty", "");
    log_z("quoted", "say \"hi\"\\");
    log_u64("n", 17);
    log_end();
    struct str s = one_line();
    assert_true(looks_like(s, "0000-00-00 00:00:00.000 WARN  two words plain="));
    assert_true(str_ends(s, STR(" plain=a=b/c:d blank=\"two words\" empty=\"\" quoted=\"say \\\"hi\\\"\\\\\" n=17")));
}

/* ---- hostile values -------------------------------------------------------------- */

#define HOSTILE(lit)         \
    {                        \
        lit, sizeof(lit) - 1 \
    }
static const struct str hostile[] = {
    HOSTILE("\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\n"),
    HOSTILE("\r\n2024-01-01 00:00:00.000 ERROR forged"),
    HOSTILE("\""),
    HOSTILE("\\"),
    HOSTILE("\\\""),
    HOSTILE("\",\"x\":\"y"),
    HOSTILE("\0\0a\0"),
    HOSTILE("\x1b[31mred\x1b[0m"),
    HOSTILE("\t\b\f\v\a\x7f"),
    HOSTILE("\xff\xfe\xfd"),
    HOSTILE("\xc0\xaf"),
    HOSTILE("\xed\xa0\x80"),
    HOSTILE("\xf4\x90\x80\x80"),
    HOSTILE("\xe2\x82"),
    HOSTILE("ok\xc3"),
    HOSTILE("\xe2\x82\xac\xf0\x9f\xa6\x99 \xc3\xa9"),
    HOSTILE("</script><!--"),
    HOSTILE("%s%n%d"),
    HOSTILE("\xc2\x9b"
            "31m"),
};

static bool is_valid_utf8(struct str s)
{
    size_t len = 1;
    for (; s.n > 0 && len > 0; s = str_skip(s, len)) {
        len = utf8_len((const unsigned char *)s.p, s.n);
    }
    return len > 0;
}

/* The line has this value, or, if it was no UTF-8, a replacement; the fields around it are whole. */
static void check_hostile_json(struct str value)
{
    redirect();
    assert_true(log_begin(LOG_INFO, "m"));
    log_z("before", "b");
    log_str("value", value);
    log_u64("after", 5);
    log_end();
    one_json();
    assert_true(field_count == 6 && field("before")->n == 1 && field("after")->n == 1);
    const struct field *f = field("value");
    if (is_valid_utf8(value)) {
        assert_true(f->n == value.n && memcmp(f->value, value.p, value.n) == 0);
    } else {
        assert_true(f->n > value.n && str_find((struct str){f->value, f->n}, '\xef') < f->n);
    }
}

static void check_hostile_text(struct str value)
{
    redirect();
    assert_true(log_begin(LOG_INFO, "m"));
    log_str("value", value);
    log_u64("after", 5);
    log_end();
    struct str s = one_line();
    assert_true(is_valid_utf8(s));
    for (size_t i = 0; i < s.n; i++) {
        assert_true((unsigned char)s.p[i] >= 0x20 && s.p[i] != 0x7f);
        assert_false(s.p[i] == '\xc2' && (unsigned char)s.p[i + 1] < 0xa0); /* a command of 8 bits */
    }
    assert_true(str_ends(s, STR(" after=5")));
    while (!str_starts(s, STR(" value="))) {
        s = str_skip(s, 1);
    }
    s = str_skip(s, 7);
    if (s.p[0] == '"') { /* a quoted value ends where the next field begins */
        static char back[4096];
        size_t n;
        assert_true(take_string(&s, back, sizeof(back), &n));
        assert_true(!is_valid_utf8(value) || (n == value.n && memcmp(back, value.p, n) == 0));
        assert_true(str_eq(s, STR(" after=5")));
    } else {
        assert_true(str_eq((struct str){s.p, str_find(s, ' ')}, value));
    }
}

static void test_hostile(void **state)
{
    static char every[256], mixed[600];
    void (*check)(struct str) = *state ? check_hostile_json : check_hostile_text;
    restore();
    log_setup(LOG_DEBUG, *state != NULL);
    for (size_t i = 0; i < OLLA_COUNT(hostile); i++) {
        check(hostile[i]);
    }
    for (int c = 0; c < 256; c++) { /* each byte alone, and in the middle */
        every[c] = (char)c;
        check((struct str){&every[c], 1});
        char middle[3] = {'a', (char)c, 'z'};
        check((struct str){middle, 3});
    }
    check((struct str){every, 128});
    check((struct str){every, 256});
    srand(1);
    for (int i = 0; i < 300; i++) {
        for (size_t k = 0; k < sizeof(mixed); k++) {
            mixed[k] = (char)(rand() >> 7);
        }
        check((struct str){mixed, (size_t)i});
    }
}

/* A value that does not fit is left out whole; what comes later is still there. */
static void test_huge_values(void **state)
{
    static const char fill[] = {'x', '\n', '"', '\xff', '\x01'};
    static char huge[10240];
    restore();
    (void)state;
    for (size_t k = 0; k < OLLA_COUNT(fill); k++) {
        memset(huge, fill[k], sizeof(huge));
        for (size_t n = 250; n <= sizeof(huge); n = n < 2100 ? n + 7 : n + 2713) {
            for (int json = 0; json < 2; json++) {
                redirect();
                log_setup(LOG_DEBUG, json);
                log_line(LOG_INFO, "m", "huge", (struct str){huge, n}, "after", STR("here"));
                struct str s = one_line();
                assert_true(s.n <= 2048 && is_valid_utf8(s));
                if (json) {
                    assert_true(read_json(s) && (n <= 2048 || !field("huge")));
                    assert_true(!field("huge") || field("huge")->n >= n);
                    assert_true(field("huge") || field("after")); /* a full line has no room for both */
                } else if (n > 2048) {
                    assert_true(str_ends(s, STR(" m after=here")));
                }
            }
        }
    }
}

/* A line with more fields than fit ends as a line. */
static void test_many_fields(void **state)
{
    char key[32];
    (void)state;
    assert_true(log_begin(LOG_INFO, "m"));
    for (int i = 0; i < 300; i++) {
        (void)snprintf(key, sizeof(key), "field-%03d", i);
        log_z(key, "forty bytes of text that is always the same");
    }
    log_end();
    struct str s = one_line();
    assert_true(s.n <= 2048 && s.n > 1900 && read_json(s) && field_count > 30);
}

/* A message may hold what stands in the configuration. */
static void test_hostile_message(void **state)
{
    (void)state;
    log_setup(LOG_DEBUG, false);
    log_line(LOG_WARN, "a\nb\x1b[31m\x7f\xc2\x9b\xc3\xa9", "k", STR("v"), NULL, STR(""));
    assert_true(str_ends(one_line(), STR(" WARN  a?b?[31m??\xc3\xa9 k=v")));
}

/* Lines that come while a request is looked at tell its id, whoever writes them. */
static void test_about(void **state)
{
    (void)state;
    assert_null(log_about("first"));
    log_line(LOG_INFO, "a", "k", STR("v"), NULL, STR(""));
    assert_string_equal(log_about("sec\"ond"), "first");
    log_line(LOG_INFO, "b", NULL, STR(""), NULL, STR(""));
    assert_string_equal(log_about(""), "sec\"ond");
    log_line(LOG_INFO, "c", NULL, STR(""), NULL, STR(""));
    (void)log_about(NULL);
    log_line(LOG_INFO, "d", NULL, STR(""), NULL, STR(""));
    struct str s = collect();
    assert_true(read_json(str_split(&s, '\n')));
    assert_string_equal(fields[3].key, "request_id");
    assert_string_equal(fields[3].value, "first");
    assert_string_equal(field("k")->value, "v");
    assert_true(read_json(str_split(&s, '\n')));
    assert_string_equal(field("request_id")->value, "sec\"ond");
    assert_true(read_json(str_split(&s, '\n')) && !field("request_id"));
    assert_true(read_json(str_split(&s, '\n')) && !field("request_id"));
}

/* Said at once and then once in five seconds, with the number of times. */
static void test_limit(void **state)
{
    struct log_limit hit = {0};
    (void)state;
    for (uint64_t ms = 1000; ms <= 12000; ms += 1000) {
        log_limit(&hit, ms, "too much", "OLLA_MAX_THINGS", 7);
    }
    struct str s = collect();
    static const char *const times[] = {"1", "5", "5"};
    for (size_t i = 0; i < OLLA_COUNT(times); i++) {
        assert_true(read_json(str_split(&s, '\n')));
        assert_string_equal(field("level")->value, "WARN");
        assert_string_equal(field("msg")->value, "too much");
        assert_string_equal(field("limit")->value, "OLLA_MAX_THINGS");
        assert_string_equal(field("value")->value, "7");
        assert_string_equal(field("times")->value, times[i]);
    }
    assert_int_equal(s.n, 0);
}

/* ---- waiting and dropping -------------------------------------------------------- */

static int flush_at(uint64_t ms, bool at_exit)
{
    int next = log_flush(ms, at_exit);
    drain();
    return next;
}

static void test_gathering(void **state)
{
    (void)state;
    assert_int_equal(flush_at(5000, false), -1); /* nothing waits */
    log_line(LOG_INFO, "one", NULL, STR(""), NULL, STR(""));
    assert_int_equal(flush_at(5000, false), 100);
    assert_int_equal(flush_at(5060, false), 40);
    assert_int_equal(out_n, 0);
    assert_int_equal(flush_at(5100, false), -1);
    assert_true(out_n > 0);
    for (int i = 0; i < 60; i++) { /* more than a few KB do not wait */
        log_line(LOG_INFO, "many", "key", STR("some text to make it longer"), NULL, STR(""));
    }
    assert_int_equal(flush_at(6000, false), -1);
    size_t before_last = out_n;
    assert_true(before_last > 4096);
    log_line(LOG_INFO, "last", NULL, STR(""), NULL, STR(""));
    assert_int_equal(flush_at(7000, true), -1); /* nor does anything at the end */
    assert_true(out_n > before_last);
}

static void fill_pipe(void)
{
    static const char junk[4096];
    int flags = fcntl(1, F_GETFL);
    (void)fcntl(1, F_SETFL, flags | O_NONBLOCK);
    while (write(1, junk, sizeof(junk)) > 0) {
    }
    (void)fcntl(1, F_SETFL, flags);
}

/* Numbered lines into a full pipe: none is torn, the first ones come in order, and the rest is counted. */
static void test_dropped(void **state)
{
    enum { LINES = 1000 };
    unsigned got = 0;
    (void)state;
    fill_pipe();
    for (unsigned i = 0; i < LINES; i++) {
        assert_true(log_begin(LOG_INFO, "line"));
        log_u64("number", i);
        log_end();
        if (i % 300 == 0) {
            assert_int_equal(log_flush(clock_ms += 1000, false), 100); /* must not block */
        }
    }
    drain();
    out_n = 0; /* the junk */
    struct str s = collect();
    for (; s.n > 0; got++) {
        struct str line = str_split(&s, '\n');
        assert_true(read_json(line));
        if (!field("number")) {
            break;
        }
        assert_int_equal(atoi(field("number")->value), got);
    }
    assert_true(got > OLLA_LOG_BUF / 150 && got < LINES);
    assert_int_equal(s.n, 0); /* the report is the last line */
    assert_true(str_eq(str_of(field("level")->value), STR("WARN")) && field("dropped")->number);
    assert_int_equal(atoi(field("dropped")->value), LINES - got);

    redirect(); /* said once; then it goes on as before */
    log_line(LOG_INFO, "next", NULL, STR(""), NULL, STR(""));
    one_json();
    assert_string_equal(field("msg")->value, "next");
}

/* A reader that takes a little now and then gets every line that was not dropped, whole. */
static void test_slow_reader(void **state)
{
    unsigned sent = 0, got = 0, dropped = 0, next = 0;
    (void)state;
    fill_pipe();
    for (int i = 0; i < 3000; i++) {
        if (i % 3 == 0) {
            assert_true(log_begin(LOG_INFO, "line"));
            log_u64("number", sent++);
            log_z("text", "some text to make it longer, so that the buffer goes round");
            log_end();
        }
        (void)log_flush(clock_ms += 100, false);
        ssize_t n = read(pipe_fd[0], out + out_n, i % 9 == 0 ? 60 : 20);
        out_n += n > 0 ? (size_t)n : 0;
    }
    struct str s = collect();
    for (; s.n > 0 && s.p[0] == '\0'; s = str_skip(s, 1)) { /* the junk */
    }
    while (s.n > 0) {
        assert_true(read_json(str_split(&s, '\n')));
        if (field("number")) {
            assert_true((unsigned)atoi(field("number")->value) >= next);
            next = (unsigned)atoi(field("number")->value) + 1;
            got++;
        } else {
            dropped += (unsigned)atoi(field("dropped")->value);
        }
    }
    assert_true(dropped > 0);
    assert_int_equal(got + dropped, sent);
}

/* Nobody reads any more: nothing to wait for. */
static void test_sink_gone(void **state)
{
    (void)state;
    close(pipe_fd[0]);
    pipe_fd[0] = open("/dev/null", O_RDONLY);
    log_line(LOG_INFO, "lost", NULL, STR(""), NULL, STR(""));
    assert_int_equal(log_flush(clock_ms += 1000, true), -1);
    restore();
    redirect();
    log_line(LOG_INFO, "found", NULL, STR(""), NULL, STR(""));
    one_json();
    assert_string_equal(field("msg")->value, "found");
}

static void test_allowed(void **state)
{
    uint64_t a = 0, b = 0;
    (void)state;
    assert_true(log_allowed(&a, 100));
    assert_false(log_allowed(&a, 100));
    assert_true(log_allowed(&b, 101)); /* each has its own five seconds */
    assert_false(log_allowed(&a, 5099));
    assert_true(log_allowed(&a, 5100));
    assert_false(log_allowed(&a, 10099)); /* from the last one that passed */
}

/* ---- files ----------------------------------------------------------------------- */

static char dir[64], path[128], other[128];

static int before_file(void **state)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/olla-log-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/log", dir);
    (void)snprintf(other, sizeof(other), "%s/other", dir);
    return before(state);
}

static int after_file(void **state)
{
    struct rlimit limit;
    (void)getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_FSIZE, &limit);
    int rc = after(state);
    unlink(path);
    unlink(other);
    rmdir(dir);
    return rc;
}

/* What the file holds, as out. */
static struct str contents(const char *name)
{
    int fd = open(name, O_RDONLY);
    assert_int_not_equal(fd, -1);
    ssize_t n = read(fd, out, sizeof(out));
    close(fd);
    assert_true(n >= 0);
    return (struct str){out, (size_t)n};
}

static void say(const char *msg)
{
    log_line(LOG_INFO, msg, NULL, STR(""), NULL, STR(""));
}

static void use(enum log_output to, const char *name)
{
    assert_int_equal(log_prepare(to, name), OLLA_OK);
    log_switch(true);
}

static void expect_msg(struct str *s, const char *msg)
{
    assert_true(read_json(str_split(s, '\n')));
    assert_string_equal(field("msg")->value, msg);
}

/* What waits at the time of a change still goes where it was meant to go. */
static void test_file(void **state)
{
    struct stat st;
    (void)state;
    say("to stdout");
    use(LOG_TO_FILE, path);
    say("one");
    assert_int_equal(rename(path, other), 0); /* as logrotate does */
    say("two");
    use(LOG_TO_FILE, path);
    say("three");
    flush_all();
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    struct str s = contents(other);
    expect_msg(&s, "one");
    expect_msg(&s, "two");
    assert_int_equal(s.n, 0);
    s = contents(path);
    expect_msg(&s, "three");
    assert_int_equal(s.n, 0);
    use(LOG_TO_STDOUT, NULL);
    use(LOG_TO_FILE, path); /* what is there stays */
    say("four");
    flush_all();
    s = contents(path);
    expect_msg(&s, "three");
    expect_msg(&s, "four");
    use(LOG_TO_STDOUT, NULL);
    out_n = 0;
    say("last");
    flush_all();
    restore();
    s = (struct str){out, out_n};
    expect_msg(&s, "last");
}

static void test_file_stdout_first(void **state)
{
    (void)state;
    say("to stdout");
    use(LOG_TO_FILE, path);
    one_json();
    assert_string_equal(field("msg")->value, "to stdout");
}

/* The one in use stays in use. */
static void test_file_refused(void **state)
{
    (void)state;
    use(LOG_TO_FILE, path);
    assert_int_equal(log_prepare(LOG_TO_FILE, dir), OLLA_ERR);
    assert_string_equal(plat_error_text(), strerror(EISDIR));
    assert_int_equal(log_prepare(LOG_TO_FILE, "/nowhere/at/all"), OLLA_ERR);
    assert_string_equal(plat_error_text(), strerror(ENOENT));
    assert_int_equal(mkfifo(other, 0600), 0);
    assert_int_equal(log_prepare(LOG_TO_FILE, other), OLLA_ERR);
    assert_string_equal(plat_error_text(), "nobody reads from it");
    unlink(other);
    assert_int_equal(log_prepare(LOG_TO_FILE, other), OLLA_OK);
    log_switch(false);
    say("one");
    flush_all();
    struct str s = contents(path);
    expect_msg(&s, "one");
    assert_int_equal(contents(other).n, 0);
}

/* The directory of the default path need not be there. */
static void test_file_directory(void **state)
{
    char sub[128];
    (void)state;
    (void)snprintf(sub, sizeof(sub), "%s/logs", dir);
    (void)snprintf(other, sizeof(other), "%s/logs/olla.log", dir);
    use(LOG_TO_FILE, other);
    say("one");
    flush_all();
    struct str s = contents(other);
    expect_msg(&s, "one");
    unlink(other);
    rmdir(sub);
}

static void limit_files(rlim_t to)
{
    struct rlimit limit;
    (void)getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = to < limit.rlim_max ? to : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Of `lines` numbered lines: whole, in order, and those that are missing are told once, at the end of the gap. */
static void check_gap(struct str s, unsigned lines, bool some_dropped)
{
    unsigned got = 0, dropped = 0, told = 0, next = 0;

    while (s.n > 0) {
        assert_true(read_json(str_split(&s, '\n')));
        if (field("number")) {
            assert_int_equal(atoi(field("number")->value), next);
            next++;
            got++;
        } else {
            assert_string_equal(field("msg")->value, "the log could not be written for a while");
            assert_string_equal(field("level")->value, "WARN");
            dropped += (unsigned)atoi(field("dropped")->value);
            assert_non_null(field("error"));
            next += dropped;
            told++;
        }
    }
    assert_int_equal(told, 1);
    assert_int_equal(got + dropped, lines);
    assert_int_equal(dropped > 0, some_dropped);
}

static void number(unsigned i)
{
    assert_true(log_begin(LOG_INFO, "line"));
    log_u64("number", i);
    log_end();
}

/* A full disk: here the limit of file sizes, which ends a write in the middle of a line, too. */
static void test_file_full(void **state)
{
    (void)state;
    for (int lost = 0; lost < 2; lost++) {
        unsigned lines = 0;
        unlink(path);
        use(LOG_TO_FILE, path);
        limit_files(1000);
        while (lines < (lost ? 1000 : 30)) {
            number(lines++);
        }
        (void)log_flush(clock_ms += 1000, false);
        int next = log_flush(clock_ms += 100, false);
        assert_int_equal(next, lost ? 900 : 1000); /* tried again in a second, and not before */
        assert_int_equal(contents(path).n, 1000);
        limit_files(RLIM_INFINITY);
        assert_int_equal(log_flush(clock_ms += 400, false), lost ? 500 : 600);
        assert_int_equal(contents(path).n, 1000);
        flush_all();
        number(lines++);
        flush_all();
        check_gap(contents(path), lines, lost);
    }
}

/* A rename while the disk is full: the new file begins with a whole line. */
static void test_file_full_renamed(void **state)
{
    (void)state;
    use(LOG_TO_FILE, path);
    limit_files(1000);
    for (unsigned i = 0; i < 30; i++) {
        number(i);
    }
    (void)log_flush(clock_ms += 1000, false);
    assert_int_equal(log_flush(clock_ms += 100, false), 1000);
    assert_int_equal(rename(path, other), 0);
    use(LOG_TO_FILE, path); /* the limit holds for this one, too */
    limit_files(RLIM_INFINITY);
    flush_all();
    struct str s = contents(path);
    assert_true(s.n > 1000);
    while (s.n > 0) {
        assert_true(read_json(str_split(&s, '\n')));
    }
    assert_string_equal(field("msg")->value, "the log could not be written for a while");
    assert_string_equal(field("dropped")->value, "1"); /* the one that was torn */
    assert_string_equal(field("error")->value, strerror(EFBIG));
}

/* Nobody reads any more, then somebody does again: no end of the log. */
static void test_fifo(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK);
    use(LOG_TO_FILE, path);
    number(0);
    assert_int_equal(log_flush(clock_ms, true), -1);
    out_n = (size_t)read(reader, out, sizeof(out));
    close(reader);
    number(1);
    assert_int_equal(log_flush(clock_ms, true), 1000);
    reader = open(path, O_RDONLY | O_NONBLOCK);
    for (unsigned i = 2; i < 3000; i++) { /* many more than fit into the pipe and the buffer: nothing waits */
        number(i);
        (void)log_flush(clock_ms += 1000, false);
    }
    for (bool more = true; more;) {
        more = log_flush(clock_ms += 1000, false) != -1;
        for (ssize_t n = 1; n > 0; out_n += n > 0 ? (size_t)n : 0) {
            n = read(reader, out + out_n, sizeof(out) - out_n);
            assert_true(out_n < sizeof(out));
        }
    }
    close(reader);
    struct str s = {out, out_n};
    unsigned dropped = 0, got = 0;
    while (s.n > 0) {
        assert_true(read_json(str_split(&s, '\n')));
        dropped += field("dropped") ? (unsigned)atoi(field("dropped")->value) : 0;
        got += field("number") != NULL;
    }
    assert_true(dropped > 0);
    assert_int_equal(got + dropped, 3000);
    use(LOG_TO_STDOUT, NULL);
}

/* ---- the system's log -------------------------------------------------------------- */

static int open_daemon(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_true(str_copy(a.sun_path, sizeof(a.sun_path), str_of(path)));
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_not_equal(fcntl(fd, F_SETFL, O_NONBLOCK), -1);
    return fd;
}

static void close_daemon(int fd)
{
    close(fd);
    unlink(path);
}

/* The next message, without what stands in front of the text; an empty one = there is none. priority NULL: any. */
static struct str message(int fd, const char *priority)
{
    char head[64];
    ssize_t n = recv(fd, out, sizeof(out), 0);
    if (n <= 0) {
        return (struct str){out, 0};
    }
    struct str s = {out, (size_t)n};
    assert_int_equal(str_find(s, '\n'), s.n);
    assert_true(priority == NULL || str_starts(s, str_of(priority)));
    s = str_skip(s, str_find(s, '>') + 1);
    assert_true(s.n > 16);
    assert_true(looks_like((struct str){s.p + 7, s.n}, "00:00:00 ") && s.p[3] == ' ' && s.p[6] == ' ');
    (void)snprintf(head, sizeof(head), "olla[%ld]: ", (long)getpid());
    s = str_skip(s, 16);
    assert_true(str_starts(s, str_of(head)));
    return str_skip(s, strlen(head));
}

static void test_syslog(void **state)
{
    static const char *const priorities[] = {"<31>", "<30>", "<28>", "<27>"};
    int fd = open_daemon();
    (void)state;
    log_setup(LOG_DEBUG, false);
    use(LOG_TO_SYSLOG, path);
    for (int level = LOG_DEBUG; level <= LOG_ERROR; level++) {
        log_line((enum log_level)level, "hello", "k", STR("a\nb"), NULL, STR(""));
    }
    flush_all();
    static const char *const names[] = {"DEBUG", "INFO ", "WARN ", "ERROR"};
    for (int level = LOG_DEBUG; level <= LOG_ERROR; level++) {
        char wanted[64];
        (void)snprintf(wanted, sizeof(wanted), "%s hello k=\"a\\nb\"", names[level]);
        assert_true(str_eq(message(fd, priorities[level]), str_of(wanted)));
    }
    log_setup(LOG_DEBUG, true);
    say("json");
    flush_all();
    assert_true(read_json(message(fd, "<30>")));
    assert_string_equal(field("msg")->value, "json");
    close_daemon(fd);
}

/* It is not there at first, comes, goes, and comes back. */
static void test_syslog_away(void **state)
{
    (void)state;
    use(LOG_TO_SYSLOG, path); /* not an error */
    say("one");
    assert_int_equal(log_flush(clock_ms += 1000, false), 100);
    assert_int_equal(log_flush(clock_ms += 100, false), 1000);
    int fd = open_daemon();
    say("two");
    assert_int_equal(log_flush(clock_ms += 999, false), 1);
    assert_int_equal(message(fd, "<30>").n, 0);
    flush_all();
    assert_true(read_json(message(fd, "<30>")) && strcmp(field("msg")->value, "one") == 0);
    assert_true(read_json(message(fd, "<30>")) && strcmp(field("msg")->value, "two") == 0);
    assert_true(read_json(message(fd, "<28>")));
    assert_string_equal(field("dropped")->value, "0");
    assert_string_equal(field("error")->value, strerror(ENOENT));
    close_daemon(fd);
    fd = open_daemon(); /* a new one: nothing is lost, and there is nothing to say */
    say("three");
    flush_all();
    assert_true(read_json(message(fd, "<30>")) && strcmp(field("msg")->value, "three") == 0);
    assert_int_equal(message(fd, "<30>").n, 0);
    close(fd); /* the socket stays as a name that nobody answers */
    for (unsigned i = 0; i < 1000; i++) {
        number(i);
    }
    assert_int_equal(log_flush(clock_ms += 1000, false), 1000);
    assert_int_equal(log_flush(clock_ms, true), 1000); /* at the end it waits for nobody */
    unlink(path);
    fd = open_daemon();
    unsigned got = 0, dropped = 0;
    for (int i = 0; i < 1000 && dropped == 0; i++) {
        (void)log_flush(clock_ms += 1000, false); /* and it is slow, too */
        struct str s = message(fd, NULL);
        if (s.n > 0) {
            assert_true(read_json(s));
            got += field("number") != NULL;
            dropped += field("dropped") ? (unsigned)atoi(field("dropped")->value) : 0;
        }
    }
    assert_true(got > 0 && dropped > 0);
    assert_int_equal(got + dropped, 1000);
    close_daemon(fd);
}

/* A line with the head of syslog(3) is of no use elsewhere: what cannot be sent is counted. */
static void test_syslog_to_stdout(void **state)
{
    (void)state;
    use(LOG_TO_SYSLOG, path);
    say("one");
    say("two");
    use(LOG_TO_STDOUT, NULL);
    say("three");
    struct str s = collect();
    expect_msg(&s, "three");
    expect_msg(&s, "the log could not be written for a while");
    assert_string_equal(field("dropped")->value, "2");
    assert_int_equal(s.n, 0);
}

#define CASE(f)      cmocka_unit_test_setup_teardown(f, before, after)
#define FILE_CASE(f) cmocka_unit_test_setup_teardown(f, before_file, after_file)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_levels, after),
        CASE(test_json_form),
        CASE(test_text_form),
        {"test_hostile_json", test_hostile, before, after, (void *)(uintptr_t) "json"},
        {"test_hostile_text", test_hostile, before, after, NULL},
        CASE(test_huge_values),
        CASE(test_many_fields),
        CASE(test_hostile_message),
        CASE(test_about),
        CASE(test_limit),
        CASE(test_gathering),
        CASE(test_dropped),
        CASE(test_slow_reader),
        CASE(test_sink_gone),
        cmocka_unit_test(test_allowed),
        FILE_CASE(test_file),
        FILE_CASE(test_file_stdout_first),
        FILE_CASE(test_file_refused),
        FILE_CASE(test_file_directory),
        FILE_CASE(test_file_full),
        FILE_CASE(test_file_full_renamed),
        FILE_CASE(test_fifo),
        FILE_CASE(test_syslog),
        FILE_CASE(test_syslog_away),
        FILE_CASE(test_syslog_to_stdout),
    };
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
