/*
 * conf_internal.h - level 3: what the conf_*.c files share; nobody else includes it.
 *
 *   conf_table.c  the rows, one per setting, and the reference file made from them
 *   conf_value.c  text to value, driven by a row; URLs
 *   conf_secret.c what may be secret: ${VAR}, files, the header lines of an endpoint
 *   conf_key.c    secrets of [key:NAME], which leave nothing but a digest
 *   conf_read.c   the file, line by line, through libinih
 *   conf.c        puts them together: messages, defaults, file, environment, checks
 *
 * May include: conf.h, str.h, cidr.h, sha256.h.
 */
#ifndef OLLA_CONF_INTERNAL_H
#define OLLA_CONF_INTERNAL_H

#include "conf.h"

enum conf_type {
    CONF_BOOL,
    CONF_INT,
    CONF_DURATION,
    CONF_SIZE,
    CONF_ENUM,     /* one of the words in `allowed`, which stand in the order of the enum; a/b are two names of one */
    CONF_WORD,     /* text without blanks */
    CONF_HOST,     /* such a text: a name or an address, in brackets or not */
    CONF_FREE,     /* any text; nothing in it starts a comment */
    CONF_MAC,      /* the six bytes of a network card's address */
    CONF_ADDRESS,  /* text that is an IPv4 or IPv6 address */
    CONF_PROGRAM,  /* the path of a program, and arguments */
    CONF_URL,      /* struct conf_url */
    CONF_TARGET,   /* a path, or an absolute URL whose host is kept too */
    CONF_STATUSES, /* list of status codes with its count */
    CONF_CHOICES,  /* list of words of `allowed`, as bytes in the order given, with its count */
    CONF_PATTERNS, /* struct conf_list of patterns */
    CONF_NAMES,    /* struct conf_list of any texts */
    CONF_WORDS,    /* struct conf_list of texts without blanks; an empty list is a list */
    CONF_CIDRS,    /* struct conf_cidrs */
    CONF_HEADER,   /* a header line of an endpoint; its name is the rest of the key */
    CONF_SECRET,   /* the three ways to give a key's secret: its text, */
    CONF_FILE,     /* a file with it, */
    CONF_DIGEST,   /* its SHA-256 in hex */
    CONF_NOTHING,  /* only the empty list is allowed */
    CONF_INERT     /* accepted and not looked at */
};

enum {
    CONF_ZERO_IS_DEFAULT = 1, /* 0 stands for the default, whatever the range */
    CONF_CLAMP = 2,           /* out of range: a warning and the nearest limit, not an error */
    CONF_ACTIVE = 4,          /* not commented out in the reference file */
    CONF_UNSHOWN = 8          /* stands beside secrets: no message shows its value */
};

struct conf_row {
    const char
        *path; /* dotted; "endpoint.KEY" for the keys of an endpoint section, likewise "profile.KEY" and "key.KEY" */
    enum conf_type type;
    unsigned flags;
    const char *def;     /* default, as it would be written; NULL = none */
    const char *allowed; /* for messages and the reference file */
    int64_t min, max;    /* of everything that ends as a number */
    size_t offset, size; /* place in struct conf, conf_endpoint, conf_profile or conf_key; size 0 = not kept */
    size_t second;       /* place of the int that counts a list, of the struct conf_url of a target */
    const char *env;
    const char *help; /* lines for the reference file; NULL = not shown there */
};

/* Ends with a row without a path. */
#define CONF_ROWS_MAX 192
extern const struct conf_row conf_rows[CONF_ROWS_MAX];

const struct conf_row *conf_row_find(struct str path); /* NULL = unknown */

/* Sections of which there may be many, as [endpoint:NAME], and all the rest. */
enum conf_kind { CONF_SETTINGS = 0, CONF_ENDPOINT, CONF_PROFILE, CONF_KEY, CONF_KINDS };
const char *conf_kind_name(enum conf_kind kind); /* "" for the rest */
enum conf_kind conf_kind_of(const struct conf_row *row);

/* State of one conf_load. */
struct conf_loader {
    struct conf *c;
    conf_message *say;
    int errors;
    /* where messages point to: env, or a line of the file, or (line 0) the file as a whole */
    const char *env;
    int line;
    enum conf_kind kind; /* of the current section, */
    void *item;          /* what it fills, */
    const char **name;   /* and that one's name */
    const char *key;     /* of a header: the path with its name */
    enum { CONF_IN_SETTINGS = 0, CONF_IN_ALIASES, CONF_IN_ALIAS } section;
    struct conf_alias *alias; /* of the current [model_alias:NAME] */
    bool skip;                /* keys of this section are not looked at; a message told why */
    bool full;                /* c->text is, and a message told so */
    int seen[CONF_ROWS_MAX];  /* line that set the row, 0 = none; for rows of many sections in the current one */
};

/* One message: "FILE:LINE: key: what and number: "value"; allowed: ...". Only what has to be there. */
struct conf_fault {
    const char *key; /* path of a row; "endpoint", "profile" = the section as a whole */
    const char *what;
    int64_t number;   /* shown if not 0 */
    struct str value; /* shown if p is not NULL */
    const char *allowed;
    bool warning;
};

void conf_say(struct conf_loader *ld, struct conf_fault fault);
#define CONF_SAY(ld, ...) conf_say(ld, (struct conf_fault){__VA_ARGS__})

/* Copies s with a NUL into the text of the configuration; "" and a message if that is full. */
const char *conf_keep(struct conf_loader *ld, struct str s);

/* Reads the file and calls the two below with ld->line set; other problems are reported through ld. */
void conf_read_file(struct conf_loader *ld, const char *path);
void conf_on_section(struct conf_loader *ld, struct str name);
void conf_on_setting(struct conf_loader *ld, struct str section, struct str key, struct str raw);

/* The line that set the row of that path; 0 = none. */
int *conf_seen(struct conf_loader *ld, const char *path);

/* RFC 9110, 5.6.2: what the name of a header looks like. */
bool conf_is_token(struct str s);

/* Without one pair of quotes around all of s. */
struct str conf_unquote(struct str s);

/*
 * Stores a value, in ld->item or in ld->c as the row says, or reports what is wrong with it. A list is
 * extended if its row was seen before. conf_store_raw takes the rest of a line, with quotes and comment.
 */
void conf_store(struct conf_loader *ld, const struct conf_row *row, struct str value);
/* The same for a secret. Messages never show it. */
void conf_store_secret(struct conf_loader *ld, const struct conf_row *row, struct str value);
/* The section of a key is over. */
void conf_end_key(struct conf_loader *ld);
/* Adds the items of a list to out. Not more than fit: a message tells. */
void conf_store_names(struct conf_loader *ld, const char *key, struct str list, struct conf_list *out, bool patterns);
void conf_store_raw(struct conf_loader *ld, const struct conf_row *row, struct str raw);

/*
 * Adds s with ${NAME} and ${NAME:-default} replaced by what the environment has. Names that are not set
 * and have no default go to `missing`, as a list.
 */
void conf_expand(struct str s, struct text *out, struct text *missing);

/* A secret that stands in the file itself, or in one of its own; NULL or "" = not given there. */
struct conf_secret {
    const char *key, *file_key; /* paths of their rows */
    const char *text, *file;
};

/*
 * Adds the value to out: the text with its variables, or what is in the file, trimmed. false: after a message, which
 * never shows the value. The caller looks at out->full.
 */
bool conf_take_secret(struct conf_loader *ld, const struct conf_secret *s, struct text *out);

/* A header line of the endpoint that is being read; ld->key ends with the name. */
void conf_store_header(struct conf_loader *ld, struct str value);
/* At the end of its section: the line that its auth.* settings make. */
void conf_settle_auth(struct conf_loader *ld);

#endif
