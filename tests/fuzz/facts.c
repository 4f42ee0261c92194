/*
 * facts.c - any bytes as the body of a request. The first byte says how they are cut and whether they are a form.
 *
 * In pieces they tell the same facts as at once. The place of the model lies in the body; of a body that is JSON it is
 * where a strict reader finds that member, and the name is what stands there.
 */
#include "cuts.h"

#include "../../src/json.h"
#include "../../src/multipart.h"

static const char *const keys[] = {"model", "stream", NULL};

static void scan(struct json_scan *s, const char *p, size_t n, bool take_name, unsigned seed)
{
    struct cuts cuts = cuts_of(seed);

    memset(s, 0, sizeof(*s));
    s->take_name = take_name;
    s->prefix_max = seed % 3 == 0 ? 0 : 64;
    for (size_t at = 0; at < n;) {
        size_t some = cuts_next(&cuts, n - at);
        char *copy = exact_copy(p + at, some);
        json_scan_feed(s, copy, some);
        free(copy);
        at += some;
    }
}

static void ensure_same(const struct json_scan *a, const struct json_scan *b)
{
    ENSURE(strcmp(a->model, b->model) == 0);
    ENSURE(a->model_too_long == b->model_too_long && a->model_twice == b->model_twice);
    ENSURE(a->model_from == b->model_from && a->model_to == b->model_to);
    ENSURE(a->user_id == b->user_id && a->cache_key == b->cache_key && a->conversation == b->conversation);
    ENSURE(a->prefix == b->prefix && a->prompt_n == b->prompt_n);
    ENSURE(a->stream == b->stream && a->no_stream == b->no_stream && a->top.broken == b->top.broken);
}

/* As it stands in headers and log lines. */
static void as_shown(char *name)
{
    struct str s = str_trim(str_of(name));
    memmove(name, s.p, s.n);
    name[s.n] = '\0';
    for (; *name; name++) {
        *name = (unsigned char)*name < 0x20 || *name == 0x7f ? '?' : *name;
    }
}

static void compare_with_check(const struct json_scan *s, const char *p, size_t n)
{
    struct windows w = {p, n, 0, 0, false};
    struct json_source source = windows_source(&w);
    struct json_value found[2];
    struct json_check check;
    char name[4 * OLLA_MODEL_NAME];
    unsigned streams = 0;

    json_check_start(&check, keys, found);
    json_check_feed(&check, p, n);
    if (check.bad || !check.done) {
        return;
    }
    ENSURE(!s->top.broken);
    if (!s->model_twice && found[0].kind == '"' && !s->model_too_long) {
        ENSURE(s->model_from == found[0].from && s->model_to == found[0].to);
        ENSURE(json_read(&source, found[0], name, sizeof(name)));
        as_shown(name);
        ENSURE(strcmp(name, s->model) == 0);
    }
    for (size_t i = 0; i + 6 <= n; i++) {
        streams += str_ieq((struct str){p + i, 6}, STR("stream"));
    }
    if (streams == 1 && !memchr(p, '\\', n)) {
        ENSURE(s->stream == (found[1].kind == 't') || found[1].kind == 0);
        ENSURE(s->no_stream == (found[1].kind == 'f') || found[1].kind == 0);
    }
}

static void check_json(const char *p, size_t n, bool take_name, unsigned seed)
{
    struct json_scan whole, cut;

    scan(&whole, p, n, take_name, 0);
    scan(&cut, p, n, take_name, seed * 3);
    ensure_same(&whole, &cut);
    scan(&cut, p, n, take_name, seed * 3 + 1);
    ENSURE(cut.prompt_n == whole.prompt_n && cut.model_to == whole.model_to);
    ENSURE(whole.model_from <= whole.model_to && whole.model_to <= n && whole.prompt_n <= n);
    if (whole.model_to > 0 && !whole.model_twice) { /* such a request is refused */
        ENSURE(whole.model_to - whole.model_from >= 2 && p[whole.model_from] == '"' && p[whole.model_to - 1] == '"');
    }
    ENSURE(!(whole.stream && whole.no_stream) && (whole.model[0] == '\0' || whole.model_to > 0));
    if (!take_name) {
        compare_with_check(&whole, p, n);
    }
}

static bool read_form(struct multipart_scan *s, const char *p, size_t n, unsigned seed)
{
    struct cuts cuts = cuts_of(seed);

    if (!multipart_start(s, STR("multipart/form-data; boundary=\"XyZ\""))) {
        return false;
    }
    for (size_t at = 0; at < n;) {
        size_t some = cuts_next(&cuts, n - at);
        char *copy = exact_copy(p + at, some);
        multipart_feed(s, copy, some);
        free(copy);
        at += some;
    }
    return true;
}

static void check_form(const char *p, size_t n, unsigned seed)
{
    struct multipart_scan whole, cut;

    ENSURE(read_form(&whole, p, n, 0) && read_form(&cut, p, n, seed));
    ENSURE(whole.too_long == cut.too_long && whole.twice == cut.twice);
    ENSURE(whole.from == cut.from && whole.to == cut.to && whole.to <= n);
    if (whole.to > 0) {
        size_t length = (size_t)(whole.to - whole.from);
        ENSURE(whole.from <= whole.to && strcmp(whole.model, cut.model) == 0);
        ENSURE(whole.too_long || (length < sizeof(whole.model) && whole.model[length] == '\0' &&
                                  memcmp(whole.model, p + whole.from, length) == 0));
        ENSURE(n - whole.to >= 7 && memcmp(p + whole.to, "\r\n--XyZ", 7) == 0);
    }
}

/* The type of the content is a client's word, too. */
static void check_type(const char *p, size_t n)
{
    struct multipart_scan s;
    char *copy = exact_copy(p, n);
    if (multipart_start(&s, (struct str){copy, n})) {
        ENSURE(s.mark_n > 4 && s.mark_n <= sizeof(s.mark));
        multipart_feed(&s, copy, n);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (n < 1) {
        return 0;
    }
    const char *p = (const char *)bytes + 1;
    unsigned seed = 1 + bytes[0] / 4;
    switch (bytes[0] % 4) {
    case 0:
    case 1:
        check_json(p, n - 1, bytes[0] % 4 == 1, seed);
        break;
    case 2:
        check_form(p, n - 1, seed);
        break;
    default:
        check_type(p, n - 1);
        break;
    }
    return 0;
}
