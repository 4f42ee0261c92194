/*
 * gather.c - level 6: see gather.h.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, probe.h, gather.h.
 */
#include "gather.h"

#include "probe.h"

/* Bytes of the gathered elements that one part of the page takes. */
#define PIECE 2048

/*
 * What is kept: records of a slot, a length of four bytes, and the element, in the order of their coming. The page
 * takes them machine by machine, so that the list does not jump about.
 */
#define RECORD_HEAD 5

static void add(struct exchange *x, struct str s)
{
    if (!x->gather.failed) {
        x->gather.failed = body_append(&x->body, s.p, s.n, conf_now->proxy.spool_dir) != BODY_OK;
    }
}

/* The model of an element may be one that the client's key is not for. */
static bool is_allowed(const struct probe *p)
{
    const struct exchange *x = p->owner;
    char name[OLLA_MODEL_NAME] = "";

    if (!gate_narrow(&x->key)) {
        return true;
    }
    struct json_slice s = json_open((struct str){p->list.out, p->list.n});
    return json_string(&s, json_get(&s, json_root(&s), "name"), name, sizeof(name)) &&
           gate_allows(&x->key, str_of(name));
}

/* One element that is no JSON would spoil the page for all machines. */
static bool is_json(const struct probe *p)
{
    struct json_check check;
    json_check_start(&check, NULL, NULL);
    json_check_feed(&check, p->list.out, p->list.n);
    return check.done && !check.bad;
}

/* {"name":... becomes {"endpoint":"NAME","name":... */
static void add_element(struct probe *p)
{
    const struct endpoint *e = p->e;
    char mem[RECORD_HEAD + sizeof("{\"endpoint\":\"\",") + 6 * sizeof(e->name)];
    struct text t = text_in(mem, sizeof(mem));
    struct str rest = str_skip((struct str){p->list.out, p->list.n}, 1);
    bool empty = str_starts(str_trim(rest), STR("}"));

    if (!is_allowed(p) || !is_json(p)) {
        return;
    }
    t.n = RECORD_HEAD;
    text_addz(&t, "{\"endpoint\":");
    json_text(&t, str_of(e->name));
    text_addz(&t, empty ? "" : ",");
    size_t n = t.n - RECORD_HEAD + rest.n;
    mem[0] = (char)e->slot;
    for (int i = 0; i < 4; i++) {
        mem[1 + i] = (char)(n >> (8 * i) & 0xff);
    }
    add(p->owner, text_str(&t));
    add(p->owner, rest);
}

static bool gather_body(struct probe *p, const char *bytes, size_t n)
{
    return probe_take_elements(p, "models", bytes, n, add_element);
}

static void gather_done(struct probe *p, enum probe_result result)
{
    struct exchange *x = p->owner;
    if (result == PROBE_CANCELLED && !x) {
        return;
    }
    x->gather.running--;
    if (result != PROBE_ANSWERED || p->status != 200 || p->no_buffer || !p->list.array_done) {
        x->gather.missing |= endpoint_bit(p->e);
    }
}

static const struct probe_ops gather_ops = {"Proxy", gather_body, gather_done};

static void begin(struct exchange *x)
{
    x->gather.begun = true;
    x->gather.to_ask = route_listed(x->route.only, API_OLLAMA, true);
    x->body.home = BODY_NONE;
    x->body.n = 0;
    x->gather.failed = body_move_out(&x->body, 0, conf_now->proxy.spool_dir) != BODY_OK;
    x->hold_until = net_now() + EXCHANGE_HOLD_MS; /* for a free probe */
}

bool gather_ready(struct exchange *x)
{
    struct endpoint *e;

    if (!x->gather.begun) {
        begin(x);
    }
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (!(x->gather.to_ask & endpoint_bit(e))) {
            continue;
        }
        x->gather.running++; /* first: it may end at once */
        if (probe_start_for(x, e, "/api/ps", e->check_timeout, &gather_ops)) {
            x->gather.to_ask &= ~endpoint_bit(e);
        } else {
            x->gather.running--;
        }
    }
    if (net_now() >= x->hold_until) {
        x->gather.missing |= x->gather.to_ask;
        x->gather.to_ask = 0;
    }
    return x->gather.to_ask == 0 && x->gather.running == 0;
}

bool gather_check(struct exchange *x, struct reply_error *err)
{
    *err = (struct reply_error){.status = 503,
                                .code = "out_of_buffers",
                                .message = "all body buffers are in use, try again",
                                .retry_after = 1};
    return !x->gather.failed;
}

void gather_cancel(struct exchange *x)
{
    if (x->gather.running > 0) {
        probe_cancel_for(x);
    }
}

/* The endpoint at a place among the missing ones. */
static const struct endpoint *missing_at(const struct exchange *x, uint32_t place)
{
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if ((x->gather.missing & endpoint_bit(e)) && place-- == 0) {
            return e;
        }
    }
    return NULL;
}

static unsigned byte_at(const struct exchange *x, uint64_t at)
{
    struct str s = body_at(&x->body, at);
    return s.n > 0 ? (unsigned char)s.p[0] : 0;
}

/* The next piece of an element: x->place has the machine, the place of the record, and how much of it is out. */
static bool next_piece(struct exchange *x, struct text *t)
{
    struct page_place *p = &x->place;
    struct endpoint *e;

    while ((e = endpoint_at((int)p->family)) != NULL) {
        if (p->serial >= x->body.n) {
            p->family++;
            p->serial = 0;
            continue;
        }
        uint32_t n = 0;
        for (unsigned i = 0; i < 4; i++) {
            n |= (uint32_t)byte_at(x, p->serial + 1 + i) << (8 * i);
        }
        if (byte_at(x, p->serial) != (unsigned)e->slot) {
            p->serial += RECORD_HEAD + n;
            continue;
        }
        struct str s = body_at(&x->body, (uint64_t)p->serial + RECORD_HEAD + p->index);
        s.n = s.n < n - p->index ? s.n : n - p->index;
        s.n = s.n < PIECE ? s.n : PIECE;
        text_addz(t, p->index == 0 && p->listed ? "," : "");
        text_add(t, s);
        p->listed = true;
        p->index += (uint32_t)s.n;
        if (p->index == n || s.n == 0) {
            p->serial += RECORD_HEAD + n;
            p->index = 0;
        }
        return true;
    }
    return false;
}

enum phase { OPEN = 0, ELEMENTS, MISSING };

bool gather_page(struct exchange *x, struct text *t, uint32_t i)
{
    struct page_place before = x->place;
    const struct endpoint *e;

    if (i == 0) {
        x->place = (struct page_place){.phase = ELEMENTS};
        text_addz(t, "{\"models\":[");
    } else if (x->place.phase == ELEMENTS && !next_piece(x, t)) {
        x->place = (struct page_place){.phase = MISSING};
        text_addz(t, "],\"olla\":{\"missing\":[");
    } else if (x->place.phase == MISSING) {
        e = missing_at(x, x->place.index++);
        if (!e) {
            text_addz(t, "]}}\n");
            return false;
        }
        text_addz(t, x->place.index > 1 ? "," : "");
        json_text(t, str_of(e->name));
    }
    if (t->full) {
        x->place = before;
    }
    return true;
}
