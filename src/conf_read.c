/*
 * conf_read.c - level 3: the configuration file, line by line, through libinih.
 *
 * libinih is used as every distribution built it, so nothing here depends on
 * its options: the reader below hands it one clean line at a time ("[name]"
 * or "key = value", no blanks in front, no comment lines, never longer than
 * its buffer) and keeps the value itself, because libinih may cut that at a
 * " ;". What it would drop without a word (long lines, long section names,
 * lines that are neither) is refused here with the line number.
 *
 * stdio is fine: this runs at start and reload only.
 *
 * May include: conf.h, str.h, <ini.h>.
 */
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "conf_internal.h"

/* Our copy of a line; libinih's own buffer is usually smaller and then the limit. */
#define LINE_SIZE 1024

/* libinih keeps this much of a section name and cuts the rest. */
#define SECTION_MAX 49

/* Against a device or a log given by mistake. */
#define FILE_MAX (1024 * 1024)
#define ERRORS_MAX 20

struct reader {
    struct conf_loader *ld;
    FILE *f;
    size_t total;
    size_t n;         /* of raw */
    bool cut;         /* the line was longer than raw */
    bool pending;     /* libinih got a setting and has not handed it back yet */
    struct str value; /* of that setting, in raw */
    char raw[LINE_SIZE];
};

static struct reader reader;

static void complain(struct conf_loader *ld, const char *what)
{
    text_addz(conf_message_open(ld, NULL), what);
    conf_message_send(ld, true);
}

/* Takes one line from the file into r->raw. OLLA_OK or OLLA_EOF. */
static int fetch(struct reader *r)
{
    int ch = getc(r->f);

    r->n = 0;
    r->cut = false;
    if (ch == EOF) {
        return OLLA_EOF;
    }
    r->ld->line++;
    for (; ch != EOF && ch != '\n'; ch = getc(r->f)) {
        if (++r->total > FILE_MAX) {
            complain(r->ld, "the file is larger than 1 MB; this is not a configuration");
            return OLLA_EOF;
        }
        if (r->n < sizeof(r->raw)) {
            r->raw[r->n++] = (char)ch;
        } else {
            r->cut = true;
        }
    }
    r->total++;
    return OLLA_OK;
}

static bool has_control(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char b = (unsigned char)s.p[i];

        if ((b < ' ' && b != '\t') || b == 0x7f) {
            return true;
        }
    }
    return false;
}

static bool is_comment(char ch)
{
    return ch == ';' || ch == '#';
}

/* "[name]" with nothing but a comment after it. The name goes to *name and libinih gets it trimmed. */
static bool take_section(struct reader *r, struct str line, struct str *name)
{
    size_t end = str_find(line, ']');
    struct str tail = str_trim(str_skip(line, end + 1));

    if (end == line.n || (tail.n > 0 && !is_comment(tail.p[0]))) {
        complain(r->ld, "not a section line; it looks like [name]");
        return false;
    }
    *name = str_trim((struct str){line.p + 1, end - 1});
    if (name->n == 0 || str_find(*name, ';') < name->n || str_find(*name, '#') < name->n) {
        complain(r->ld, "not a section name; it is not empty and has neither ; nor # in it");
        return false;
    }
    if (name->n > SECTION_MAX) {
        complain(r->ld, "the section name is too long; at most 49 bytes are allowed");
        return false;
    }
    return true;
}

/* "key = value" or "key: value"; the value stays with us until libinih has found the key. */
static bool take_setting(struct reader *r, struct str line)
{
    size_t sep = 0;
    struct str key;

    while (sep < line.n && line.p[sep] != '=' && line.p[sep] != ':') {
        sep++;
    }
    key = str_trim((struct str){line.p, sep});
    /* A key has no blanks; with one, libinih might see a comment in it. */
    if (sep == line.n || key.n == 0 || str_find(key, ' ') < key.n || str_find(key, '\t') < key.n) {
        complain(r->ld, "neither [section] nor key = value");
        return false;
    }
    r->value = str_trim(str_skip(line, sep + 1));
    r->pending = true;
    return true;
}

/* Decides what libinih sees of the line in r->raw: nothing if *out is empty. */
static void judge(struct reader *r, size_t room, struct str *out, bool *section)
{
    struct conf_loader *ld = r->ld;
    struct str line = {r->raw, r->n};
    struct str name;

    *out = STR("");
    *section = false;
    if (ld->line == 1 && str_starts(line, STR("\xef\xbb\xbf"))) {
        line = str_skip(line, 3);
    }
    line = str_trim(line);
    if (line.n == 0 || is_comment(line.p[0])) {
        return;
    }
    if (r->cut || line.n > room) {
        struct text *t = conf_message_open(ld, NULL);

        text_addz(t, "the line is too long; at most ");
        text_u64(t, room < LINE_SIZE ? room : LINE_SIZE);
        text_addz(t, " bytes are allowed (a list goes on by repeating its key)");
        conf_message_send(ld, true);
        ld->skip = ld->skip || line.p[0] == '[';
        return;
    }
    if (has_control(line)) {
        complain(ld, "a control character in the line; only plain text is allowed");
        return;
    }
    if (line.p[0] == '[') {
        ld->skip = true;
        if (take_section(r, line, &name)) {
            conf_on_section(ld, name);
            *out = name;
            *section = true;
        }
    } else if (!ld->skip && take_setting(r, line)) {
        *out = line;
    }
}

/* fgets for libinih: one line with its newline, or NULL. num is the size of its buffer. */
static char *read_line(char *to, int num, void *stream)
{
    struct reader *r = stream;
    struct text t;
    struct str out;
    bool section;

    if (r->pending) {
        r->pending = false;
        complain(r->ld, "libinih did not understand the line");
    }
    if (num < 64) {
        complain(r->ld, "libinih was built with too small a line buffer");
        return NULL;
    }
    if (r->ld->errors >= ERRORS_MAX || fetch(r) != OLLA_OK) {
        return NULL;
    }
    /* Room for "\r\n" and NUL stays free, so that libinih never takes the line for a part of one. */
    judge(r, (size_t)num - 3, &out, &section);
    t = text_in(to, (size_t)num);
    text_addz(&t, section ? "[" : "");
    text_add(&t, out);
    text_addz(&t, section ? "]\n" : "\n");
    (void)text_z(&t);
    return to;
}

#if INI_HANDLER_LINENO
static int on_setting(void *user, const char *section, const char *name, const char *value, int line)
#else
static int on_setting(void *user, const char *section, const char *name, const char *value)
#endif
{
    struct reader *r = user;

#if INI_HANDLER_LINENO
    (void)line;
#endif
    (void)value; /* perhaps cut; ours is whole */
    if (name && r->pending) {
        r->pending = false;
        conf_on_setting(r->ld, str_of(section), str_of(name), r->value);
    }
    return 1;
}

void conf_read_file(struct conf_loader *ld, const char *path)
{
    struct reader *r = &reader;
    int rc;

    memset(r, 0, sizeof(*r));
    r->ld = ld;
    r->f = fopen(path, "r");
    if (!r->f) {
        complain(ld, strerror(errno));
        return;
    }
    errno = 0;
    rc = ini_parse_stream(read_line, r, on_setting, r);
    if (ferror(r->f)) {
        ld->line = 0;
        complain(ld, errno ? strerror(errno) : "cannot be read");
    } else if (ld->errors >= ERRORS_MAX) {
        complain(ld, "too many errors; the rest was not read");
    } else if (rc != 0 && ld->errors == 0) {
        complain(ld, "libinih could not read the file");
    }
    (void)fclose(r->f);
}
