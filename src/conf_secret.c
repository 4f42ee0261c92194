/*
 * conf_secret.c - level 3: what may be secret: ${VAR} in texts, files that hold a secret, and the header lines that an
 * endpoint's requests get from its settings.
 *
 * Invariants:
 *  1. No message shows a value: only its key, the path of its file, the name of a variable.
 *  2. conf_endpoint.headers holds whole header lines, each name once, without control characters and without names
 *     that belong to the connection: they can go into any head without another look.
 *
 * May include: conf.h, str.h, http.h, platform.h.
 */
#include <stdlib.h>
#include <string.h>

#include "../platform/platform.h"
#include "conf_internal.h"
#include "http.h"

/* One more byte than fits tells that there was more. */
#define FILE_BYTES (OLLA_MAX_ENDPOINT_HEADERS + 1)

/* ---- variables ------------------------------------------------------------ */

/* What stands between the braces. */
static void expand_one(struct str inside, struct text *out, struct text *missing)
{
    char name[256];
    size_t n = 0;

    while (n < inside.n && !str_starts(str_skip(inside, n), STR(":-"))) {
        n++;
    }
    bool has_default = n < inside.n;
    const char *value = str_copy(name, sizeof(name), (struct str){inside.p, n}) ? getenv(name) : NULL;
    if (has_default) {
        text_add(out, value && value[0] ? str_of(value) : str_skip(inside, n + 2));
    } else if (value) {
        text_addz(out, value);
    } else {
        text_addz(missing, missing->n > 0 ? ", " : "");
        text_add(missing, (struct str){inside.p, n});
    }
}

void conf_expand(struct str s, struct text *out, struct text *missing)
{
    while (s.n > 0) {
        size_t end = str_find(s, '}');
        if (!str_starts(s, STR("${")) || end == s.n || end == 2) {
            text_char(out, s.p[0]);
            s = str_skip(s, 1);
            continue;
        }
        expand_one((struct str){s.p + 2, end - 2}, out, missing);
        s = str_skip(s, end + 1);
    }
}

/* false: after a message. */
static bool expand(struct conf_loader *ld, const char *key, struct str s, struct text *out)
{
    char names[256], mem[320];
    struct text missing = text_in(names, sizeof(names)), what = text_in(mem, sizeof(mem));

    conf_expand(s, out, &missing);
    if (missing.n > 0) {
        text_addz(&what, "not set in the environment: ");
        text_add(&what, text_str(&missing));
        CONF_SAY(ld, .key = key, .what = text_z(&what), .allowed = "variables that are set, or ${NAME:-default}");
    }
    return missing.n == 0;
}

/* ---- values ---------------------------------------------------------------- */

/* A line end would begin another header. */
static bool check_plain(struct conf_loader *ld, const char *key, struct str value)
{
    for (size_t i = 0; i < value.n; i++) {
        unsigned char c = (unsigned char)value.p[i];
        if ((c < ' ' && c != '\t') || c == 0x7f) {
            CONF_SAY(ld, .key = key, .what = "a control character (a line end, or NUL) in the value",
                     .allowed = "text in one line");
            return false;
        }
    }
    return true;
}

/* Without what Unicode calls white space: a file may come from anywhere. */
static struct str trim_file(struct str s)
{
    static const char *const blanks[] = {
        " ",
        "\t",
        "\n",
        "\v",
        "\f",
        "\r",
        "\xc2\x85",
        "\xc2\xa0",
        "\xe1\x9a\x80",
        "\xe2\x80\x80",
        "\xe2\x80\x81",
        "\xe2\x80\x82",
        "\xe2\x80\x83",
        "\xe2\x80\x84",
        "\xe2\x80\x85",
        "\xe2\x80\x86",
        "\xe2\x80\x87",
        "\xe2\x80\x88",
        "\xe2\x80\x89",
        "\xe2\x80\x8a",
        "\xe2\x80\xa8",
        "\xe2\x80\xa9",
        "\xe2\x80\xaf",
        "\xe2\x81\x9f",
        "\xe3\x80\x80",
    };
    bool more = true;

    while (more) {
        more = false;
        for (size_t i = 0; i < OLLA_COUNT(blanks); i++) {
            struct str one = str_of(blanks[i]);
            if (s.n > 0 && str_starts(s, one)) {
                s = str_skip(s, one.n);
                more = true;
            }
            if (s.n > 0 && str_ends(s, one)) {
                s.n -= one.n;
                more = true;
            }
        }
    }
    return s;
}

static bool read_file(struct conf_loader *ld, const char *key, const char *path, struct text *out)
{
    static char bytes[FILE_BYTES];
    long n = plat_file_read(path, bytes, sizeof(bytes));

    if (n < 0) {
        char mem[320];
        struct text t = text_in(mem, sizeof(mem) - 1);
        text_addz(&t, "cannot read ");
        text_addz(&t, path);
        text_addz(&t, ": ");
        text_addz(&t, plat_error_text());
        CONF_SAY(ld, .key = key, .what = text_z(&t), .allowed = "a plain file that olla may read");
        return false;
    }
    text_add(out, trim_file((struct str){bytes, (size_t)n}));
    out->full = out->full || (size_t)n == sizeof(bytes);
    sha256_forget(bytes, sizeof(bytes));
    return true;
}

static bool is_given(const char *value)
{
    return value && value[0];
}

bool conf_take_secret(struct conf_loader *ld, const struct conf_secret *s, struct text *out)
{
    const char *key = is_given(s->file) ? s->file_key : s->key;
    size_t from = out->n;

    ld->line = *conf_seen(ld, key);
    if (is_given(s->file) ? !read_file(ld, key, s->file, out) : !expand(ld, key, str_of(s->text), out)) {
        return false;
    }
    struct str value = str_skip(text_str(out), from);
    if (!out->full && str_trim(value).n == 0) {
        CONF_SAY(ld, .key = key, .what = is_given(s->file) ? "the file is empty" : "the value is empty",
                 .allowed = "text that is not blank");
        return false;
    }
    return check_plain(ld, key, value);
}

/* ---- header lines ------------------------------------------------------------ */

static bool check_name(struct conf_loader *ld, const char *key, struct str name)
{
    if (!conf_is_token(name)) {
        CONF_SAY(ld, .key = key, .what = "not the name of a header", .allowed = "letters, digits and !#$%&'*+-.^_`|~");
        return false;
    }
    if (http_hop_by_hop(STR(""), name) || str_ieq(name, STR("Host")) || str_ieq(name, STR("Content-Length"))) {
        CONF_SAY(ld, .key = key,
                 .what = "this header belongs to the connection or the framing, which olla does itself; "
                         "it cannot be configured");
        return false;
    }
    return true;
}

/* A line of the endpoint, in the place of another of that name. */
static void put_line(struct conf_loader *ld, const char *key, const struct text *line)
{
    struct conf_endpoint *e = ld->item;
    struct text all = text_in(e->headers, sizeof(e->headers));

    all.n = e->headers_n;
    all.full = line->full;
    if (!all.full) {
        http_replace_fields(&all, 0, text_str(line));
    }
    if (all.full) {
        CONF_SAY(ld, .key = key,
                 .what = "too long; the bytes of all header lines of an endpoint, credentials too, are limited to "
                         "OLLA_MAX_ENDPOINT_HEADERS = ",
                 .number = OLLA_MAX_ENDPOINT_HEADERS);
    }
    e->headers_n = all.n;
}

void conf_store_header(struct conf_loader *ld, struct str value)
{
    static char mem[OLLA_MAX_ENDPOINT_HEADERS];
    const struct conf_endpoint *e = ld->item;
    struct text line = text_in(mem, sizeof(mem));
    struct str name = str_skip(str_of(ld->key), sizeof("endpoint.headers.") - 1);

    if (!check_name(ld, ld->key, name)) {
        return;
    }
    if (http_get((struct str){e->headers, e->headers_n}, name).p) {
        CONF_SAY(ld, .key = ld->key, .what = "set twice; one has to go");
        return;
    }
    text_add(&line, name);
    text_addz(&line, ": ");
    if (!expand(ld, ld->key, value, &line) || !check_plain(ld, ld->key, text_str(&line))) {
        return;
    }
    text_addz(&line, "\r\n");
    put_line(ld, ld->key, &line);
}

/* ---- auth -------------------------------------------------------------------- */

enum { TOKEN = 0, KEY, USERNAME, PASSWORD, SECRETS };

static const struct {
    const char *word;
    unsigned needs; /* bits */
} types[] = {
    {"bearer", 1u << TOKEN},
    {"api_key", 1u << KEY},
    {"basic", 1u << USERNAME | 1u << PASSWORD},
};

/* One is neither missing nor given twice, and none stands there that the type does not know. */
static bool check_given(struct conf_loader *ld, const struct conf_secret *s, bool needed)
{
    bool text = is_given(s->text), file = is_given(s->file);

    if (!needed && (text || file)) {
        ld->line = *conf_seen(ld, text ? s->key : s->file_key);
        CONF_SAY(ld, .key = text ? s->key : s->file_key, .what = "does not go with this auth.type; take it away");
        return false;
    }
    if (needed && text && file) {
        ld->line = *conf_seen(ld, s->file_key);
        CONF_SAY(ld, .key = s->file_key, .what = "given as a text too; one has to go, the other is in line ",
                 .number = *conf_seen(ld, s->key));
        return false;
    }
    if (needed && !text && !file) {
        ld->line = *conf_seen(ld, "endpoint.auth.type");
        CONF_SAY(ld, .key = s->key, .what = "missing; this auth.type needs it, or the file with _file after its key");
        return false;
    }
    return true;
}

/* The number of its row; after a message there is none of that number. */
static size_t find_type(struct conf_loader *ld, const char *type)
{
    size_t i = 0;

    while (i < OLLA_COUNT(types) && (!is_given(type) || strcmp(types[i].word, type) != 0)) {
        i++;
    }
    if (i == OLLA_COUNT(types)) {
        ld->line = is_given(type) ? *conf_seen(ld, "endpoint.auth.type") : ld->line;
        CONF_SAY(ld, .key = "endpoint.auth.type", .what = is_given(type) ? "not known" : "missing",
                 .allowed = "bearer, api_key, basic");
    }
    return i;
}

/* USER:PASSWORD, in base64. */
static bool add_basic(struct conf_loader *ld, const struct conf_secret *secrets, struct text *line)
{
    static char mem[OLLA_MAX_ENDPOINT_HEADERS];
    struct text pair = text_in(mem, sizeof(mem));

    bool good = conf_take_secret(ld, &secrets[USERNAME], &pair);
    if (good && str_find(text_str(&pair), ':') < pair.n) {
        CONF_SAY(ld, .key = "endpoint.auth.username", .what = "the name has a colon, which is where a password begins");
        good = false;
    }
    text_char(&pair, ':');
    if (!conf_take_secret(ld, &secrets[PASSWORD], &pair) || !good) {
        return false; /* both were looked at: all that is wrong is told at once */
    }
    text_base64(line, text_str(&pair));
    line->full = line->full || pair.full;
    return true;
}

static bool compose(struct conf_loader *ld, const struct conf_secret *secrets, const char *header, struct text *line)
{
    const struct conf_endpoint *e = ld->item;

    if (strcmp(e->auth.type, "api_key") == 0) {
        ld->line = *conf_seen(ld, "endpoint.auth.header");
        if (!check_name(ld, "endpoint.auth.header", str_of(header))) {
            return false;
        }
        text_addz(line, header);
        text_addz(line, ": ");
        return conf_take_secret(ld, &secrets[KEY], line);
    }
    if (strcmp(e->auth.type, "bearer") == 0) {
        text_addz(line, "Authorization: Bearer ");
        return conf_take_secret(ld, &secrets[TOKEN], line);
    }
    text_addz(line, "Authorization: Basic ");
    return add_basic(ld, secrets, line);
}

void conf_settle_auth(struct conf_loader *ld)
{
    static char mem[OLLA_MAX_ENDPOINT_HEADERS];
    struct conf_endpoint *e = ld->item;
    const struct conf_secret secrets[SECRETS] = {
        {"endpoint.auth.token", "endpoint.auth.token_file", e->auth.token, e->auth.token_file},
        {"endpoint.auth.key", "endpoint.auth.key_file", e->auth.key, e->auth.key_file},
        {"endpoint.auth.username", "endpoint.auth.username_file", e->auth.username, e->auth.username_file},
        {"endpoint.auth.password", "endpoint.auth.password_file", e->auth.password, e->auth.password_file},
    };
    struct text line = text_in(mem, sizeof(mem));
    bool any = e->auth.type || e->auth.header, good = true;

    for (size_t i = 0; i < SECRETS; i++) {
        any = any || secrets[i].text || secrets[i].file;
    }
    size_t type = any ? find_type(ld, e->auth.type) : OLLA_COUNT(types);
    if (type == OLLA_COUNT(types)) {
        return;
    }
    if (is_given(e->auth.header) && types[type].needs != 1u << KEY) {
        ld->line = *conf_seen(ld, "endpoint.auth.header");
        CONF_SAY(ld, .key = "endpoint.auth.header", .what = "does not go with this auth.type; take it away");
        good = false;
    }
    for (size_t i = 0; i < SECRETS; i++) {
        good = check_given(ld, &secrets[i], types[type].needs >> i & 1u) && good;
    }
    if (good && compose(ld, secrets, is_given(e->auth.header) ? e->auth.header : "X-Api-Key", &line)) {
        text_addz(&line, "\r\n");
        ld->line = *conf_seen(ld, "endpoint.auth.type");
        put_line(ld, "endpoint.auth.type", &line);
    }
}
