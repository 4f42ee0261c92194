/*
 * failure.c - level 2: see failure.h.
 *
 * May include: olla.h, str.h, json.h, json_walk.h, failure.h.
 */
#include "failure.h"

#include <string.h>

/* As much of a string as fits. */
static bool read_message(const struct json_source *s, struct json_value v, char *to, size_t cap)
{
    struct json_unescape u = {0, 0, 0, false};
    struct json_value inner = json_inner(v);
    char bytes[FAILURE_MESSAGE], out[8];
    size_t n = json_copy(s, inner.from, inner.to, bytes, sizeof(bytes)), used = 0;

    for (size_t i = 0; i < n; i++) {
        size_t some = json_unescape(&u, bytes[i], out);
        if (some >= cap - used) {
            break;
        }
        memcpy(to + used, out, some);
        used += some;
    }
    to[used] = '\0';
    return used > 0;
}

void failure_read(const struct json_source *doc, struct failure *f)
{
    enum { MESSAGE = 0, CODE, STATUS, PROMPT, CONTEXT, TYPE, IN_ERROR };
    static const char *const error_keys[] = {"message", "code", "status", "n_prompt_tokens", "n_ctx", "type", NULL};
    enum { ERROR = 0, TEXT, DETAIL, OLD, TOP_CODE, IN_TOP };
    static const char *const keys[] = {"error", "message", "detail", "error_message", "code", NULL};
    static const char *const detail_keys[] = {"msg", NULL};
    struct json_value top = {0, UINT64_MAX, '{'}, v[IN_TOP], e[IN_ERROR], detail = {0, 0, 0}, said;
    char type[32], blank;

    while (json_copy(doc, top.from, top.to, &blank, 1) == 1 && blank != '{') {
        top.from++;
    }
    json_collect(doc, top, keys, v);
    json_collect(doc, v[ERROR], error_keys, e);
    uint64_t at = json_first(v[DETAIL]);
    if (v[DETAIL].kind == '[' && json_next(doc, &at, &said)) {
        json_collect(doc, said, detail_keys, &detail);
    }
    bool found = read_message(doc, e[MESSAGE], f->message, sizeof(f->message)) ||
                 read_message(doc, v[ERROR], f->message, sizeof(f->message)) ||
                 read_message(doc, v[TEXT], f->message, sizeof(f->message)) ||
                 read_message(doc, v[DETAIL], f->message, sizeof(f->message)) ||
                 read_message(doc, detail, f->message, sizeof(f->message)) ||
                 read_message(doc, v[OLD], f->message, sizeof(f->message));
    uint64_t status = json_read_number(doc, e[CODE].kind == '0'     ? e[CODE]
                                            : e[STATUS].kind == '0' ? e[STATUS]
                                                                    : v[TOP_CODE]);
    f->status = found && status >= 400 && status < 600 ? (int)status : 0;
    json_read(doc, e[TYPE], type, sizeof(type));
    uint64_t prompt = json_read_number(doc, e[PROMPT]), context = json_read_number(doc, e[CONTEXT]);
    f->too_long = strcmp(type, "exceed_context_size_error") == 0;
    if (f->too_long && prompt > 0) {
        struct text t = text_in(f->message, sizeof(f->message) - 1);
        text_addz(&t, "prompt is too long: ");
        text_u64(&t, prompt);
        text_addz(&t, " tokens > ");
        text_u64(&t, context);
        text_addz(&t, " maximum");
        text_z(&t);
    }
}

void failure_in_words(const struct json_source *doc, uint64_t n, bool is_json, struct failure *f)
{
    char text[FAILURE_MESSAGE];

    *f = (struct failure){0, false, ""};
    if (is_json) {
        failure_read(doc, f);
    }
    struct str said = str_trim((struct str){text, json_copy(doc, 0, n, text, sizeof(text) - 1)});
    if (!f->message[0] && said.n > 0 && said.p[0] != '<') { /* no page for people */
        str_copy(f->message, sizeof(f->message), said);
    }
}

void failure_name_overflow(struct failure *f)
{
    static const char *const signs[] = {"exceeds the available context size", "maximum context length",
                                        "context length", "context window", "exceed_context_size_error"};
    char mem[FAILURE_MESSAGE];
    struct text t = text_in(mem, sizeof(mem) - 1);
    struct str said = str_of(f->message);

    for (size_t i = 0; i < OLLA_COUNT(signs); i++) {
        f->too_long = f->too_long || str_ihas(said, str_of(signs[i]));
    }
    if (!f->too_long || str_istarts(said, STR("prompt is too long"))) {
        return;
    }
    text_addz(&t, "prompt is too long: ");
    said.n = said.n < sizeof(mem) - t.n - 1 ? said.n : sizeof(mem) - t.n - 1;
    text_add(&t, said);
    str_copy(f->message, sizeof(f->message), text_str(&t));
}
