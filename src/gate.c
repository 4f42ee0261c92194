/*
 * gate.c - level 5: see gate.h.
 *
 * May include: olla.h, bucket.h, tally.h, platform.h, str.h, http.h, sha256.h, conf.h, gate.h.
 */
#include "gate.h"

#include <string.h>

#include "../platform/platform.h"
#include "bucket.h"

#define DAY_MS UINT64_C(86400000)

struct key {
    uint32_t number;
    unsigned char digest[SHA256_BYTES];
    const struct conf_key *conf;
    struct bucket requests;
    struct tally sum;
    int day; /* that `today` is about, as a number like 20260131 */
    uint64_t today;
};

static struct key keys[OLLA_MAX_KEYS];
static int count;
static uint32_t last_number;

/* ---- which keys there are ----------------------------------------------------------- */

/* The same secret is the same key, whatever it is called now. */
static struct key stays(const struct key *old, int olds, const struct conf_key *conf)
{
    struct key k = {.conf = conf};

    memcpy(k.digest, conf->digest, sizeof(k.digest));
    for (int i = 0; i < olds; i++) {
        if (memcmp(old[i].digest, k.digest, sizeof(k.digest)) == 0) {
            k = old[i];
            k.conf = conf;
        }
    }
    k.number = k.number > 0 ? k.number : ++last_number;
    return k;
}

void gate_apply(const struct conf *c)
{
    static struct key old[OLLA_MAX_KEYS];
    int olds = count;

    memcpy(old, keys, sizeof(old));
    count = c->keys;
    for (int i = 0; i < count; i++) {
        keys[i] = stays(old, olds, &c->key[i]);
    }
}

bool gate_closed(void)
{
    return count > 0;
}

static struct key *key_of(const struct gate_pass *pass)
{
    for (int i = 0; i < count; i++) {
        if (keys[i].number == pass->key) {
            return &keys[i];
        }
    }
    return NULL;
}

/* ---- coming in ----------------------------------------------------------------------- */

/* All keys are compared whole, without a branch: how long it takes says nothing of what is right or nearly right. */
static const struct key *find(struct str brought)
{
    unsigned char digest[SHA256_BYTES];
    unsigned found = 0; /* its place, counted from 1 */

    sha256_of(brought, digest);
    for (unsigned i = 0; i < (unsigned)count; i++) {
        unsigned differ = 0;
        for (size_t b = 0; b < sizeof(digest); b++) {
            differ |= (unsigned)(digest[b] ^ keys[i].digest[b]);
        }
        unsigned same = (differ - 1) >> 8 & 1; /* differ is at most 255: only 0 borrows */
        found |= (0u - same) & (i + 1);
    }
    sha256_forget(digest, sizeof(digest));
    return found > 0 ? &keys[found - 1] : NULL;
}

/* The key of an Authorization value; empty for other schemes. */
static struct str bearer(struct str value)
{
    static const struct str scheme = STR("bearer");
    struct str rest = str_skip(value, scheme.n);
    bool is = str_istarts(value, scheme) && rest.n > 0 && (rest.p[0] == ' ' || rest.p[0] == '\t');

    return is ? str_trim(rest) : STR("");
}

struct str gate_key_protocol(struct str item)
{
    static const struct str prefixes[] = {STR("openai-insecure-api-key."), STR("olla-api-key.")};

    for (size_t i = 0; i < OLLA_COUNT(prefixes); i++) {
        if (str_starts(item, prefixes[i])) {
            return str_skip(item, prefixes[i].n);
        }
    }
    return (struct str){NULL, 0};
}

enum place { AUTHORIZATION = 0, API_KEY, PROTOCOL, PLACES };

struct brought {
    struct str key[PLACES];
    unsigned times[PLACES];
};

static void note(struct brought *b, enum place place, struct str key)
{
    b->key[place] = key;
    b->times[place]++;
}

static void look_through(struct brought *b, struct str list)
{
    while (list.p) {
        struct str key = gate_key_protocol(str_split(&list, ','));
        if (key.p) {
            note(b, PROTOCOL, key);
        }
    }
}

enum gate_answer gate_enter(const struct http_request *req, bool upgrade, struct gate_pass *pass)
{
    struct brought b = {.times = {0}};
    struct str rest = req->fields, key = STR("");
    struct http_field f;

    while (http_next_field(&rest, &f)) {
        if (f.id == HTTP_AUTHORIZATION) {
            note(&b, AUTHORIZATION, bearer(f.value));
        } else if (f.id == HTTP_X_API_KEY) {
            note(&b, API_KEY, f.value);
        } else if (upgrade && f.id == HTTP_SEC_WEBSOCKET_PROTOCOL) {
            look_through(&b, f.value);
        }
    }
    for (int i = 0; i < PLACES; i++) {
        if (b.times[i] > 1) {
            return GATE_SEVERAL_KEYS;
        }
        key = key.n == 0 && b.times[i] > 0 ? b.key[i] : key;
    }
    if (key.n == 0) {
        return GATE_NO_KEY;
    }
    const struct key *k = find(key);
    if (!k) {
        return GATE_WRONG_KEY;
    }
    pass->key = k->number;
    pass->class_ = k->conf->class_;
    pass->narrow = k->conf->models.n > 0;
    str_copy(pass->name, sizeof(pass->name), str_of(k->conf->name));
    return GATE_OPEN;
}

/* ---- how much ------------------------------------------------------------------------ */

bool gate_take(const struct gate_pass *pass, uint64_t now_ms, uint64_t *wait_ms)
{
    struct key *k = key_of(pass);
    uint64_t rate = k ? (uint64_t)k->conf->requests_per_minute : 0;

    *wait_ms = rate > 0 ? bucket_wait(&k->requests, rate, rate, now_ms) : 0;
    if (rate > 0 && *wait_ms == 0) {
        bucket_take(&k->requests);
    }
    return *wait_ms == 0;
}

static int date_of(int64_t wall_ms, uint64_t *rest_ms)
{
    struct plat_time at;

    plat_time_of(wall_ms, true, &at);
    uint64_t passed = (uint64_t)((at.hour * 60 + at.minute) * 60 + at.second) * 1000 + (uint64_t)at.ms;
    *rest_ms = passed < DAY_MS ? DAY_MS - passed : 1;
    return (at.year * 100 + at.month) * 100 + at.day;
}

/* What it has used on that day. */
static uint64_t used_today(const struct key *k, int day)
{
    return k->day == day ? k->today : 0;
}

bool gate_may_spend(const struct gate_pass *pass, int64_t wall_ms, uint64_t *wait_ms)
{
    const struct key *k = key_of(pass);
    uint64_t most = k ? (uint64_t)k->conf->tokens_per_day : 0;

    *wait_ms = 0;
    return most == 0 || used_today(k, date_of(wall_ms, wait_ms)) < most;
}

bool gate_has_allowance(const struct gate_pass *pass)
{
    const struct key *k = key_of(pass);
    return k && k->conf->tokens_per_day > 0;
}

void gate_add(const struct gate_pass *pass, const struct tally_event *e, int64_t wall_ms)
{
    struct key *k = key_of(pass);
    uint64_t rest;

    if (!k) {
        return;
    }
    int day = date_of(wall_ms, &rest);
    tally_add(&k->sum, e);
    k->today = used_today(k, day) + e->input + e->output;
    k->day = day;
}

bool gate_usage(int i, int64_t wall_ms, struct gate_usage *out)
{
    uint64_t rest;

    if (i >= count) {
        return false;
    }
    const struct key *k = &keys[i];
    *out = (struct gate_usage){.name = k->conf->name,
                               .sum = &k->sum,
                               .today = used_today(k, date_of(wall_ms, &rest)),
                               .per_day = (uint64_t)k->conf->tokens_per_day};
    return true;
}

/* ---- what for ------------------------------------------------------------------------ */

/* What a pass allows: a list of patterns, NULL = everything. A key that is gone with its list allows nothing more. */
static const struct conf_list *models_of(const struct gate_pass *pass)
{
    static const struct conf_list nothing = {.n = 1, .item = {""}};
    const struct key *k = pass->key > 0 ? key_of(pass) : NULL;

    if (pass->key > 0 && !k) {
        return pass->narrow ? &nothing : NULL;
    }
    return k && k->conf->models.n > 0 ? &k->conf->models : NULL;
}

bool gate_narrow(const struct gate_pass *pass)
{
    return models_of(pass) != NULL;
}

bool gate_allows(const struct gate_pass *pass, struct str model)
{
    const struct conf_list *list = models_of(pass);
    bool allowed = list == NULL;

    for (int i = 0; list && i < list->n && !allowed && model.n > 0; i++) {
        allowed = str_matches(model, str_of(list->item[i]));
    }
    return allowed;
}

uint32_t gate_mark(const struct gate_pass *pass)
{
    const struct conf_list *list = models_of(pass);
    uint32_t mark = 0;

    for (int i = 0; list && i < list->n; i++) {
        mark = mark * 31 + str_hash(str_of(list->item[i]));
    }
    return mark;
}

enum conf_class gate_class(const struct gate_pass *pass, struct str word)
{
    enum conf_class asked = str_ieq(word, STR("high"))  ? CLASS_HIGH
                            : str_ieq(word, STR("low")) ? CLASS_LOW
                                                        : CLASS_NORMAL;

    if (pass->key == 0) {
        return asked;
    }
    if (asked == CLASS_NORMAL && !str_ieq(word, STR("normal"))) {
        return pass->class_; /* no such word */
    }
    return asked > pass->class_ ? asked : pass->class_;
}
