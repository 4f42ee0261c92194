/*
 * conf_read.c - level 3: the configuration file, line by line, through libinih.
 *
 * libinih gets one clean line at a time: "[name]" or "key = value" without
 * blanks in front (it would take them for a continuation), nothing longer
 * than its buffer. The value itself stays here, because libinih may cut it at
 * a " ;", and because it may be a secret, of which no copy must stay anywhere.
 * What libinih would drop without a word is refused with the line number.
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

/* Longest line, as olla.ini says; with its end it fits into the 200 bytes of libinih. */
#define LONGEST_LINE 190

#define ERRORS_MAX 20

struct reader {
    struct conf_loader *ld;
    FILE *f;
    size_t n;         /* length of the line, may be more than raw holds */
    struct str value; /* of the setting that libinih looks at, in raw */
    char raw[LONGEST_LINE];
    char bytes[1024]; /* of the file */
};

static struct reader reader;

/* Takes one line from the file; false at its end. */
static bool fetch(struct reader *r)
{
    int ch;

    r->ld->line++;
    for (r->n = 0; (ch = getc(r->f)) != EOF && ch != '\n'; r->n++) {
        /* Also what stops a binary file, or a device that never ends, given by mistake. */
        if ((ch < ' ' && ch != '\t' && ch != '\r') || ch == 0x7f) {
            CONF_SAY(r->ld, .what = "a control character; only plain text is allowed, the rest was not read");
            return false;
        }
        if (r->n < sizeof(r->raw)) {
            r->raw[r->n] = (char)ch;
        }
    }
    return ch != EOF || r->n > 0;
}

static bool is_comment(struct str s)
{
    return s.n > 0 && (s.p[0] == ';' || s.p[0] == '#');
}

/* "[name]" with nothing but a comment after it. */
static struct str take_section(struct reader *r, struct str line)
{
    size_t end = str_find(line, ']');
    struct str name = str_trim(str_skip((struct str){line.p, end}, 1));
    struct str tail = str_trim(str_skip(line, end + 1));

    r->ld->skip = true;
    /* libinih sees a comment in a name with " ;". */
    if (end == line.n || name.n == 0 || str_find(name, ';') < name.n || (tail.n > 0 && !is_comment(tail))) {
        CONF_SAY(r->ld, .what = "not a section line; it looks like [name], without ; in the name");
        return STR("");
    }
    conf_on_section(r->ld, name);
    return (struct str){line.p, end + 1};
}

/* "key = value" or "key: value"; libinih sees an empty value. */
static struct str take_setting(struct reader *r, struct str line)
{
    size_t equals = str_find(line, '=');
    size_t colon = str_find(line, ':');
    size_t end = equals < colon ? equals : colon;
    struct str key = str_trim((struct str){line.p, end});

    /* A key has no blanks; with one, libinih might see a comment in it. */
    if (end == line.n || key.n == 0 || str_find(key, ' ') < key.n || str_find(key, '\t') < key.n) {
        CONF_SAY(r->ld, .what = "neither [section] nor key = value");
        return STR("");
    }
    r->value = str_trim(str_skip(line, end + 1));
    return (struct str){line.p, end + 1};
}

/* What libinih sees of the line in r->raw. */
static struct str judge(struct reader *r)
{
    struct str line = {r->raw, r->n < sizeof(r->raw) ? r->n : sizeof(r->raw)};

    if (r->ld->line == 1 && str_starts(line, STR("\xef\xbb\xbf"))) {
        line = str_skip(line, 3);
    }
    line = str_trim(line);
    if (line.n == 0 || is_comment(line)) {
        return STR("");
    }
    if (r->n > sizeof(r->raw)) {
        CONF_SAY(r->ld, .what = "the line is too long (a list goes on by repeating its key); the most bytes are ",
                 .number = LONGEST_LINE);
        r->ld->skip = r->ld->skip || line.p[0] == '[';
        return STR("");
    }
    if (str_find(line, '\r') < line.n) {
        CONF_SAY(r->ld, .what = "a carriage return inside the line; it can only stand at its end");
        return STR("");
    }
    if (line.p[0] == '[') {
        return take_section(r, line);
    }
    return r->ld->skip ? STR("") : take_setting(r, line);
}

/* fgets for libinih: one line, or NULL. */
static char *read_line(char *to, int size, void *stream)
{
    struct reader *r = stream;
    struct text t = text_in(to, (size_t)size);

    if (r->ld->errors >= ERRORS_MAX || !fetch(r)) {
        return NULL;
    }
    text_add(&t, judge(r));
    text_char(&t, '\n');
    (void)text_z(&t);
    return to;
}

static int on_setting(void *user, const char *section, const char *name, const char *value)
{
    struct reader *r = user;

    (void)value; /* ours is the one that counts */
    conf_on_setting(r->ld, str_trim(str_of(section)), str_of(name), r->value);
    return 1;
}

void conf_read_file(struct conf_loader *ld, const char *path)
{
    struct reader *r = &reader;
    int rc;

    r->ld = ld;
    r->f = fopen(path, "r");
    if (!r->f) {
        CONF_SAY(ld, .what = strerror(errno));
        return;
    }
    (void)setvbuf(r->f, r->bytes, _IOFBF, sizeof(r->bytes));
    rc = ini_parse_stream(read_line, r, on_setting, r);
    if (ferror(r->f)) {
        ld->line = 0;
        CONF_SAY(ld, .what = strerror(errno));
    } else if (ld->errors >= ERRORS_MAX) {
        CONF_SAY(ld, .what = "too many errors; the rest was not read");
    } else if (rc != 0) {
        CONF_SAY(ld, .what = "libinih could not read the file");
    }
    (void)fclose(r->f);
    sha256_forget(r, sizeof(*r)); /* secrets stood in it */
}
