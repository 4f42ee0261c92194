/*
 * conf_key.c - level 3: the secret of a [key:NAME] section.
 *
 * It is hashed where it is met: in the line of the file, or in what was read
 * from secret_file. No text of it comes into conf.text, into a message, or
 * stays in memory of ours.
 *
 * May include: conf.h, str.h, sha256.h.
 */
#include <string.h>

#include "conf_internal.h"

/* Bytes of a secret. */
#define LONGEST 1024

#define WAYS "exactly one of secret, secret_file and secret_sha256"

const char *conf_key_fault(struct str secret)
{
    if (secret.n == 0) {
        return "empty";
    }
    for (size_t i = 0; i < secret.n; i++) {
        if (secret.p[i] <= ' ' || secret.p[i] >= 0x7f) {
            return "a key cannot hold blanks, line ends, control characters or other than ASCII";
        }
    }
    return NULL;
}

static void take_secret(struct conf_loader *ld, const struct conf_row *row, struct str secret)
{
    struct conf_key *k = ld->item;
    const char *why = conf_key_fault(secret);

    if (why) {
        CONF_SAY(ld, .key = row->path, .what = why, .allowed = row->allowed);
        return;
    }
    if (secret.n < CONF_KEY_SHORT) {
        CONF_SAY(ld, .key = row->path, .warning = true,
                 .what = "easy to guess; take at least so many characters: ", .number = CONF_KEY_SHORT);
    }
    sha256_of(secret, k->digest);
    k->known = true;
}

/* From the line of the file, with its variables, or from a file of its own. */
static void read_secret(struct conf_loader *ld, const struct conf_row *row, struct str value)
{
    char text[256], bytes[LONGEST];
    struct text out = text_in(bytes, sizeof(bytes));
    bool file = row->type == CONF_FILE, fits = str_copy(text, sizeof(text), value);
    struct conf_secret s = {row->path, row->path, file ? NULL : text, file ? text : NULL};

    *conf_seen(ld, row->path) = ld->line; /* where messages point to */
    if (fits && conf_take_secret(ld, &s, &out) && !out.full) {
        take_secret(ld, row, text_str(&out));
    } else if (!fits || out.full) {
        CONF_SAY(ld, .key = row->path, .what = file ? "the path or the file is too long" : "too long",
                 .allowed = row->allowed);
    }
    sha256_forget(text, sizeof(text));
    sha256_forget(bytes, sizeof(bytes));
}

void conf_store_secret(struct conf_loader *ld, const struct conf_row *row, struct str value)
{
    struct conf_key *k = ld->item;

    if (k->given++ > 0) {
        CONF_SAY(ld, .key = row->path, .what = "a second secret", .allowed = WAYS);
    } else if (row->type != CONF_DIGEST) {
        read_secret(ld, row, value);
    } else if (sha256_from_hex(value, k->digest) == OLLA_OK) {
        k->known = true;
    } else {
        CONF_SAY(ld, .key = row->path, .what = "not a SHA-256 in hex", .allowed = row->allowed);
    }
}

void conf_end_key(struct conf_loader *ld)
{
    struct conf_key *k = ld->item;
    int line = ld->line;

    ld->line = k->line;
    if (strlen(k->name) >= OLLA_KEY_NAME) {
        CONF_SAY(ld, .key = "key", .what = "this name is too long; the most bytes are ", .number = OLLA_KEY_NAME - 1);
    }
    if (k->given == 0) {
        CONF_SAY(ld, .key = "key", .what = "no secret", .allowed = WAYS);
    }
    for (const struct conf_key *other = ld->c->key; other < k; other++) {
        if (str_ieq(str_of(k->name), str_of(other->name))) {
            CONF_SAY(ld, .key = "key", .what = "this name is taken by the key in line ", .number = other->line);
        }
        if (k->known && other->known && memcmp(k->digest, other->digest, SHA256_BYTES) == 0) {
            CONF_SAY(ld, .key = "key", .what = "the same secret as that of the key in line ", .number = other->line,
                     .allowed = "a secret of its own");
        }
    }
    ld->line = line;
}
