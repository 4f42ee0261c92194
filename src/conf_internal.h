/*
 * conf_internal.h - level 3: what the conf_*.c files share; nobody else includes it.
 *
 *   conf_table.c  the rows, one per setting, and the reference file made from them
 *   conf_value.c  text to value, driven by a row
 *   conf_read.c   the file, line by line, through libinih
 *   conf_url.c    URLs
 *   conf.c        puts them together: defaults, file, environment, checks
 *
 * May include: conf.h, str.h.
 */
#ifndef OLLA_CONF_INTERNAL_H
#define OLLA_CONF_INTERNAL_H

#include "conf.h"

/* The tables end with a row without a path; these leave room for it. */
#define CONF_ROWS_MAX 64
#define CONF_ENDPOINT_ROWS_MAX 16

/* Longest duration in ms, ten years: beyond any use, and added to a clock it cannot overflow. */
#define CONF_LONGEST INT64_C(315360000000)

enum conf_type {
    CONF_BOOL,
    CONF_INT,
    CONF_DURATION,
    CONF_SIZE,
    CONF_ENUM,
    CONF_WORD,     /* text without blanks */
    CONF_FREE,     /* any text; nothing in it starts a comment */
    CONF_URL,      /* struct conf_url */
    CONF_TARGET,   /* a path, or an absolute URL */
    CONF_STATUSES, /* list of status codes with its count */
    CONF_NOTHING,  /* only the empty list is allowed */
    CONF_INERT     /* accepted and not looked at */
};

enum {
    CONF_ZERO_IS_DEFAULT = 1, /* 0 stands for the default, whatever the range */
    CONF_CLAMP = 2,           /* out of range: a warning and the nearest limit, not an error */
    CONF_ACTIVE = 4           /* not commented out in the reference file */
};

/* Names of an enum; an alias follows the name it stands for. Ends with name == NULL. */
struct conf_choice {
    const char *name;
    int value;
};

struct conf_row {
    const char *path;                 /* dotted; in an endpoint section just the key */
    enum conf_type type;
    unsigned flags;
    const char *def;                  /* default, as it would be written */
    int64_t min, max;                 /* of numbers, sizes, durations (ms), statuses */
    const struct conf_choice *choice; /* of CONF_ENUM */
    size_t offset, size;              /* place in struct conf or struct conf_endpoint; size 0 = not kept */
    size_t count_offset;              /* of the int that counts a list */
    const char *env;
    const char *help;                 /* lines for the reference file; NULL = not shown there */
};

extern const struct conf_row conf_rows[CONF_ROWS_MAX];
extern const struct conf_row conf_endpoint_rows[CONF_ENDPOINT_ROWS_MAX];

const struct conf_row *conf_row_find(const struct conf_row *rows, struct str path); /* NULL = unknown */

/* State of one conf_load. */
struct conf_loader {
    struct conf *c;
    conf_message *say;
    int errors;
    /* where messages point to: env, or a line of the file, or (line 0) the file as a whole */
    const char *env;
    int line;
    int endpoint;          /* slot that the current section fills, or -1 */
    bool skip;             /* keys of this section are not looked at; a message told why */
    bool too_many;         /* the endpoint limit was reported */
    int seen[CONF_ROWS_MAX]; /* line that set the row, 0 = none */
    int seen_endpoint[CONF_ENDPOINT_ROWS_MAX];
};

/* One message: open it, add to the text, send it. key may be NULL. */
struct text *conf_message_open(struct conf_loader *ld, const char *key);
void conf_message_send(struct conf_loader *ld, bool error);

/* Called by conf_read.c, which has set ld->line. */
void conf_on_section(struct conf_loader *ld, struct str name);
void conf_on_setting(struct conf_loader *ld, struct str section, struct str key, struct str raw);

/* Reads the file; problems are reported through ld. */
void conf_read_file(struct conf_loader *ld, const char *path);

/* ---- values ------------------------------------------------------------- */

/* What is wrong with a value; the texts are static. */
struct conf_problem {
    const char *why;
    struct str value; /* to show; p == NULL: do not show it */
    bool full;        /* OLLA_CONF_TEXT is used up; the value itself is fine */
    bool clamped;     /* only a warning: the nearest limit was stored */
};

/* The value without comment and quotes. *quoted tells "" from nothing, *odd that a comment-like part was kept. */
struct str conf_clean(enum conf_type type, struct str raw, bool *quoted, bool *odd);

/* Without one pair of quotes around all of s. */
struct str conf_unquote(struct str s, bool *quoted);

/*
 * Stores value in the object at base (a struct conf or conf_endpoint). append: a list gets more
 * items. OLLA_OK (look at bad->clamped) or OLLA_ERR with *bad filled.
 */
int conf_store(struct conf *c, void *base, const struct conf_row *row, struct str value, bool append,
               struct conf_problem *bad);

/* The default of every row. */
void conf_store_defaults(struct conf *c, void *base, const struct conf_row *rows);

/* "a whole number from 1 to 65535" */
void conf_put_allowed(struct text *t, const struct conf_row *row);
void conf_put_duration(struct text *t, int64_t ms); /* "1m30s" */

/* Copies s with a NUL into c->text; NULL when that is full. */
const char *conf_keep(struct conf *c, struct str s);

/* ---- URLs --------------------------------------------------------------- */

/* A health or model target: a path or an absolute URL. OLLA_ERR with *why. */
bool conf_is_absolute(struct str s); /* scheme://... */
int conf_check_target(struct str s, const char **why);

/* The *why of conf_parse_url when OLLA_CONF_TEXT is used up. */
extern const char conf_no_room[];

#endif
