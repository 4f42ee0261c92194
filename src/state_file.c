/*
 * state_file.c - level 6: see state_file.h.
 *
 * May include: olla.h, levels 1 to 5, discover.h, state_file.h.
 */
#include "state_file.h"

#include <string.h>

#include "discover.h"
#include "log.h"
#include "model.h"
#include "net.h"

#define HEAD "olla machines 1\n"
/* Lists come one after the other: they are written together. */
#define SETTLE_MS 2000
#define EVERY_MS  60000
/* Whatever else is in its place, no more is read. */
#define BYTES_MAX (1024u * 1024u)
/* Name, address, type and model with their tabs. */
#define LINE_MAX (64 + 18 + 64 + OLLA_MODEL_NAME + 4)

static uint64_t written; /* hash of what is in the file, as far as is known */
static uint32_t seen;    /* version of the catalogue that was looked at */
static uint64_t changed_at, tried_at;
static bool dirty;

/* ---- writing ---------------------------------------------------------------------- */

static void mac_text(struct text *t, const uint8_t mac[6])
{
    for (size_t i = 0; i < 6; i++) {
        text_addz(t, i > 0 ? ":" : "");
        text_hex(t, mac[i], 2);
    }
}

/* Names are what somebody has configured: a tab in one would make it two. */
static bool is_plain(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < ' ' || s.p[i] == 0x7f) {
            return false;
        }
    }
    return s.n > 0;
}

static void add_line(struct text *t, const struct endpoint *e, const struct model *m)
{
    text_addz(t, e->name);
    text_char(t, '\t');
    mac_text(t, e->wake.mac);
    text_char(t, '\t');
    text_addz(t, e->profile->name);
    text_char(t, '\t');
    text_addz(t, m->facts.name);
    text_char(t, '\n');
}

struct sink {
    char mem[4096];
    struct text t;
    int fd; /* -1: only the hash is wanted */
    bool failed;
    uint64_t hash;
};

static void pass_on(struct sink *s)
{
    s->hash = str_hash64(s->hash, text_str(&s->t));
    if (s->fd >= 0 && s->t.n > 0) {
        s->failed = s->failed || plat_record_write(s->fd, s->mem, s->t.n) != OLLA_OK;
    }
    s->t = text_in(s->mem, sizeof(s->mem));
}

/* All of the file, into fd or nowhere. false: it could not be written. */
static bool tell(int fd, uint64_t *hash)
{
    static struct sink s;
    const struct model *m;
    struct endpoint *e;

    s.fd = fd;
    s.failed = false;
    s.hash = STR_HASH_START;
    s.t = text_in(s.mem, sizeof(s.mem));
    text_addz(&s.t, HEAD);
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        for (size_t k = 0; e->wake.can && is_plain(str_of(e->name)) && (m = model_at(k)) != NULL; k++) {
            if (!(m->now.serves & endpoint_bit(e))) {
                continue;
            }
            if (sizeof(s.mem) - s.t.n < LINE_MAX) {
                pass_on(&s);
            }
            add_line(&s.t, e, m);
        }
    }
    pass_on(&s);
    *hash = s.hash;
    return !s.failed;
}

static void write_file(void)
{
    static uint64_t warned;
    const char *path = conf_now->wake.state_file;
    uint64_t hash = 0;

    dirty = false;
    tried_at = net_now();
    if (!path[0] || (tell(-1, &hash) && hash == written)) {
        return;
    }
    int fd = plat_replace_open(path);
    bool well = fd >= 0 && tell(fd, &hash);
    if (fd >= 0) {
        well = plat_replace_done(fd, path, well) == OLLA_OK && well;
    }
    written = well ? hash : 0;
    dirty = !well;
    if (!well && log_allowed(&warned, net_now())) {
        log_line(LOG_WARN, "wake.state_file cannot be written", "file", str_of(path), "error",
                 str_of(plat_error_text()));
    }
}

uint64_t state_file_tick(void)
{
    if (!conf_now->wake.state_file[0]) {
        return UINT64_MAX;
    }
    if (seen != model_version()) {
        seen = model_version();
        changed_at = dirty ? changed_at : net_now();
        dirty = true;
    }
    if (!dirty) {
        return UINT64_MAX;
    }
    uint64_t at = changed_at + SETTLE_MS;
    at = tried_at > 0 && tried_at + EVERY_MS > at ? tried_at + EVERY_MS : at;
    if (net_now() >= at) {
        write_file();
        at = dirty ? tried_at + EVERY_MS : UINT64_MAX;
    }
    return at;
}

void state_file_flush(void)
{
    if (dirty || seen != model_version()) {
        seen = model_version();
        write_file();
    }
    written = 0; /* what comes next may be another file */
}

/* ---- reading ---------------------------------------------------------------------- */

static struct endpoint *find(struct str name, struct str mac)
{
    struct endpoint *e;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        char mem[18];
        struct text t = text_in(mem, sizeof(mem));
        mac_text(&t, e->wake.mac);
        if (e->wake.can && str_eq(str_of(e->name), name) && str_ieq(text_str(&t), mac)) {
            return e;
        }
    }
    return NULL;
}

/* The type that was found out then holds until it is found out anew. */
static void take_type(struct endpoint *e, struct str type)
{
    const struct profile *p = profile_by_type(type);

    if (p && !profile_is_auto(p) && profile_is_auto(e->profile)) {
        endpoint_detected(e, p);
        endpoint_undetect(e);
    }
}

/* false: not a line that was written here. One that is about somebody else is fine, and of no use. */
static bool take_line(struct str line, endpoint_set *told)
{
    static struct model_facts facts;
    struct str rest = line, field[4] = {{NULL, 0}};
    size_t n = 0;

    while (rest.p && n < OLLA_COUNT(field)) {
        field[n].p = rest.p;
        field[n].n = str_find(rest, '\t');
        bool last = field[n].n == rest.n;
        rest = last ? (struct str){NULL, 0} : str_skip(rest, field[n].n + 1);
        if (!is_plain(field[n++])) {
            return false;
        }
    }
    memset(&facts, 0, sizeof(facts));
    if (n != OLLA_COUNT(field) || rest.p || !str_copy(facts.name, sizeof(facts.name), field[3])) {
        return false;
    }
    struct endpoint *e = find(field[0], field[1]);
    if (!e || !discover_accepts(e, field[3])) {
        return true;
    }
    take_type(e, field[2]);
    (void)model_offer(e, &facts, MODEL_UNKNOWN);
    *told |= endpoint_bit(e);
    return true;
}

/* Lines that are whole, one by one; too long ones count as bad. Returns how many were bad. */
static unsigned take_lines(int fd, endpoint_set *told)
{
    static char mem[4096];
    size_t have = 0, total = 0;
    bool head = true, too_long = false;
    unsigned bad = 0;
    long n;

    written = STR_HASH_START;
    while (total < BYTES_MAX && (n = plat_read(fd, mem + have, sizeof(mem) - have)) > 0) {
        struct str rest = {mem, have + (size_t)n};
        total += (size_t)n;
        written = str_hash64(written, (struct str){mem + have, (size_t)n});
        for (size_t end; (end = str_find(rest, '\n')) < rest.n; rest = str_skip(rest, end + 1)) {
            struct str line = {rest.p, end};
            bool well = head ? !too_long && str_eq(line, (struct str){HEAD, sizeof(HEAD) - 2})
                             : !too_long && take_line(line, told);
            bad += !well;
            if (head && !well) {
                return bad; /* something else */
            }
            head = too_long = false;
        }
        too_long = too_long || rest.n == sizeof(mem);
        have = too_long ? 0 : rest.n;
        memmove(mem, rest.p, have);
    }
    return bad + (have > 0 || too_long);
}

void state_file_read(void)
{
    const char *path = conf_now->wake.state_file;
    endpoint_set told = 0;
    struct endpoint *e;
    unsigned models = 0;

    int fd = path[0] ? plat_plain_open(path) : OLLA_ERR;
    if (fd < 0) {
        return; /* the first start, or no such file is wanted; that it cannot be written will be told */
    }
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        model_list_begin(e);
    }
    unsigned bad = take_lines(fd, &told);
    plat_close(fd);
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        e->models = model_list_end(e, (told & endpoint_bit(e)) != 0);
        models += e->models;
    }
    if (bad > 0 && log_begin(LOG_WARN, "wake.state_file: lines skipped")) {
        log_z("file", path);
        log_u64("count", bad);
        log_end();
    }
    if (models > 0 && log_begin(LOG_INFO, "models of machines that may sleep")) {
        log_u64("count", models);
        log_end();
    }
}
