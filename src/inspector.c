/*
 * inspector.c - level 6: see inspector.h.
 *
 *   pieces of JSON -> take: whole characters -> as they are, or quoted -> secrets.c -> to_file
 *
 * May include: olla.h, levels 1 to 5, exchange.h, inspector.h, store.h.
 */
#include "inspector.h"

#include <string.h>

#include "log.h"
#include "secrets.h"

#define CHUNK 1024

/* The entry that is being written; one at a time. */
static struct {
    int fd;
    uint64_t from; /* where the file ended before it */
    bool failed;
    struct secrets secrets;
    size_t chunk_n, out_n;
    char chunk[CHUNK]; /* what may end within a character */
    char quoted[CHUNK * 6 + 2];
    char out[OLLA_BUF_SIZE];
} entry;

/* ---- writing ------------------------------------------------------------------------------ */

static void warn(void)
{
    static uint64_t warned;
    if (log_allowed(&warned, net_now())) {
        log_line(LOG_WARN, "the inspector cannot write an entry", "output_dir",
                 str_of(conf_now->translators.anthropic.inspector.output_dir), "error", str_of(plat_error_text()));
    }
}

static void flush(void)
{
    if (!entry.failed && plat_record_write(entry.fd, entry.out, entry.out_n) != OLLA_OK) {
        entry.failed = true;
        warn();
    }
    entry.out_n = 0;
}

static void to_file(void *to, const char *p, size_t n)
{
    (void)to;
    while (n > 0) {
        size_t room = sizeof(entry.out) - entry.out_n, some = n < room ? n : room;
        memcpy(entry.out + entry.out_n, p, some);
        entry.out_n += some;
        p += some;
        n -= some;
        if (entry.out_n == sizeof(entry.out)) {
            flush();
        }
    }
}

/* Bytes at the start that are whole characters, or can never become one. */
static size_t whole_characters(const char *p, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)p[n - back];
        if (c >= 0xc0) {
            size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
            return length > back ? n - back : n;
        }
        if (c < 0x80) {
            break;
        }
    }
    return n;
}

/* Part of a document: its lines become one, and what is no character U+FFFD. Both stand for nothing else in JSON. */
static void write_plain(char *p, size_t n)
{
    size_t from = 0;

    for (size_t i = 0; i < n;) {
        size_t length = (unsigned char)p[i] < 0x80 ? 1 : json_utf8_length((struct str){p + i, n - i});
        if (length == 0) {
            secrets_feed(&entry.secrets, p + from, i - from);
            secrets_feed(&entry.secrets, "\xef\xbf\xbd", 3);
            from = ++i;
            continue;
        }
        if (p[i] == '\n' || p[i] == '\r') {
            p[i] = ' ';
        }
        i += length;
    }
    secrets_feed(&entry.secrets, p + from, n - from);
}

static void write_quoted(const char *p, size_t n)
{
    struct text t = text_in(entry.quoted, sizeof(entry.quoted));
    json_text(&t, (struct str){p, n});
    secrets_feed(&entry.secrets, t.p + 1, t.n - 2);
}

static void write_chunk(bool quoted, bool last)
{
    size_t n = last ? entry.chunk_n : whole_characters(entry.chunk, entry.chunk_n);
    if (quoted) {
        write_quoted(entry.chunk, n);
    } else {
        write_plain(entry.chunk, n);
    }
    entry.chunk_n -= n;
    memmove(entry.chunk, entry.chunk + n, entry.chunk_n);
}

static void write_words(const char *words)
{
    secrets_feed(&entry.secrets, words, strlen(words));
}

/* All of a body. */
static void write_body(const struct body *b, bool quoted)
{
    uint64_t at = 0;

    while (at < b->n && !entry.failed) {
        struct str s = store_bytes(b, at);
        if (!s.p) {
            entry.failed = true;
            warn();
            return;
        }
        at += s.n;
        while (s.n > 0) {
            size_t room = sizeof(entry.chunk) - entry.chunk_n, some = s.n < room ? s.n : room;
            memcpy(entry.chunk + entry.chunk_n, s.p, some);
            entry.chunk_n += some;
            s = str_skip(s, some);
            write_chunk(quoted, false);
        }
    }
    write_chunk(quoted, true);
}

/* ---- entries ------------------------------------------------------------------------------ */

/* Opens the session's file of today and writes what all entries begin with. false: it cannot be. */
static bool begin_entry(const struct exchange *x, const char *type)
{
    static char mem[2048];
    char day[16], name[INSPECTOR_SESSION + 8];
    struct text t = text_in(mem, sizeof(mem)), file = text_in(name, sizeof(name));
    struct plat_time now;

    plat_time_of(plat_wall_ms(), false, &now);
    text_addz(&t, "{\"type\":\"");
    text_addz(&t, type);
    text_addz(&t, "\",\"ts\":\"");
    size_t date = t.n;
    log_time(&t, &now, 'T');
    str_copy(day, sizeof(day), (struct str){t.p + date, sizeof("2026-01-31") - 1});
    text_addz(&t, "Z\"");
    json_member(&t, "request_id", str_of(x->id));
    text_addz(&file, x->inspection->session);
    text_addz(&file, ".jsonl");

    entry.failed = false;
    entry.chunk_n = entry.out_n = 0;
    entry.secrets = (struct secrets){.put = to_file};
    entry.fd = plat_record_open(conf_now->translators.anthropic.inspector.output_dir, day, text_z(&file), &entry.from);
    if (entry.fd < 0) {
        warn();
        return false;
    }
    secrets_feed(&entry.secrets, t.p, t.n);
    return true;
}

static void end_entry(void)
{
    write_words("}");
    secrets_end(&entry.secrets);
    to_file(NULL, "\n", 1);
    flush();
    if (entry.failed) {
        plat_record_undo(entry.fd, entry.from);
    }
    plat_close(entry.fd);
}

static void write_member(const char *key, struct str value)
{
    char mem[OLLA_MODEL_NAME * 6 + 32];
    struct text t = text_in(mem, sizeof(mem));

    text_addz(&t, ",\"");
    text_addz(&t, key);
    text_addz(&t, "\":");
    json_text(&t, value);
    if (!t.full) {
        secrets_feed(&entry.secrets, t.p, t.n);
    }
}

/* ---- sessions ----------------------------------------------------------------------------- */

/* It becomes the name of a file, and may not be a key that somebody calls a session. */
static bool is_session(struct str s)
{
    bool good = s.n < INSPECTOR_SESSION && !secrets_in(s);
    for (size_t i = 0; i < s.n && good; i++) {
        char c = str_lower(s.p[i]);
        good = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    }
    return good;
}

static void name_session(struct exchange *x, char to[INSPECTOR_SESSION])
{
    static uint64_t warned;
    const char *header = conf_now->translators.anthropic.inspector.session_header;
    struct str name = http_get(x->req.fields, str_of(header));

    if (name.n == 0) {
        header = "X-Request-ID";
        name = http_get(x->req.fields, str_of(header));
    }
    if (!is_session(name)) {
        if (log_allowed(&warned, net_now())) {
            log_line(LOG_WARN, "no name for a session of the inspector, taken as default", "header", str_of(header),
                     NULL, STR(""));
        }
        name = STR("");
    }
    str_copy(to, INSPECTOR_SESSION, name.n > 0 ? name : STR("default"));
}

/* ---- public --------------------------------------------------------------------------------- */

static bool is_on(void)
{
    return conf_now->translators.anthropic.inspector.enabled;
}

void inspector_announce(void)
{
    if (is_on() && conf_now->translators.anthropic.enabled) {
        log_line(LOG_WARN, "the inspector is on: everything that is said through the Messages API is written to disk",
                 "output_dir", str_of(conf_now->translators.anthropic.inspector.output_dir), NULL, STR(""));
    }
}

void inspector_request(struct exchange *x, struct inspection *of)
{
    if (!is_on()) {
        return;
    }
    x->inspection = of;
    of->reply.modest = true;
    json_check_start(&of->check, NULL, NULL);
    name_session(x, of->session);
    if (begin_entry(x, "request")) {
        write_member("model", str_of(x->scan.model));
        write_words(",\"body\":");
        write_body(&x->body, false);
        end_entry();
    }
}

void inspector_coding(struct exchange *x, struct str coding)
{
    if (x->inspection && !str_copy(x->inspection->coding, sizeof(x->inspection->coding), coding)) {
        str_copy(x->inspection->coding, sizeof(x->inspection->coding), STR("unknown"));
    }
}

void inspector_reply(struct exchange *x, const char *p, size_t n)
{
    struct inspection *of = x->inspection;

    if (!of || of->truncated || of->coding[0]) {
        return;
    }
    json_check_feed(&of->check, p, n);
    of->truncated = n > 0 && !store_add(&of->reply, p, n);
}

/* The client got all of it, as far as olla can know. */
static bool is_complete(const struct exchange *x)
{
    bool left = x->who == END_CLIENT || x->who == END_CLIENT_SLOW || x->who == END_KILLED;
    return x->status > 0 && !left && x->phase != PHASE_DATA && x->phase != PHASE_LAST;
}

static void write_reply(struct exchange *x)
{
    const struct inspection *of = x->inspection;
    bool object = of->check.done && !of->check.bad && !of->truncated;
    char mem[64];
    struct text t = text_in(mem, sizeof(mem) - 1);

    text_addz(&t, ",\"status\":");
    text_u64(&t, (uint64_t)(x->status > 0 ? x->status : 499)); /* as in the access line */
    write_words(text_z(&t));
    if (x->e) {
        write_member("endpoint", str_of(x->e->name));
    }
    write_words(is_complete(x) ? ",\"complete\":true" : ",\"complete\":false");
    if (of->coding[0]) {
        write_member("encoding", str_of(of->coding));
        return;
    }
    write_words(of->truncated ? ",\"truncated\":true" : "");
    write_words(object ? ",\"body\":" : ",\"text\":\"");
    write_body(&of->reply.body, !object);
    write_words(object ? "" : "\"");
}

void inspector_finish(struct exchange *x)
{
    if (!x->inspection) {
        return;
    }
    if (is_on() && begin_entry(x, "response")) {
        write_reply(x);
        end_entry();
    }
    store_clear(&x->inspection->reply);
    x->inspection = NULL;
}
