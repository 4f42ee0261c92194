/*
 * gather.c - level 6: see gather.h.
 *
 * May include: olla.h, levels 1 to 5, exchange.h, probe.h, gather.h.
 */
#include "gather.h"

#include "probe.h"

/* Bytes of the gathered elements that one part of the page takes. */
#define PIECE 2048

static void add(struct exchange *x, struct str s)
{
    if (!x->gather.failed) {
        x->gather.failed = body_append(&x->body, s.p, s.n, conf_now->proxy.spool_dir) != BODY_OK;
    }
}

/* {"name":... becomes {"endpoint":"NAME","name":... */
static void add_element(struct exchange *x, const struct endpoint *e, struct str object)
{
    char mem[2 + sizeof("\"endpoint\":") + 6 * sizeof(e->name)];
    struct text t = text_in(mem, sizeof(mem));
    struct str rest = str_skip(object, 1);
    bool empty = str_starts(str_trim(rest), STR("}"));

    text_addz(&t, x->gather.any ? ",{\"endpoint\":" : "{\"endpoint\":");
    json_text(&t, str_of(e->name));
    text_addz(&t, empty ? "" : ",");
    x->gather.any = true;
    add(x, text_str(&t));
    add(x, rest);
}

static bool gather_body(struct probe *p, const char *bytes, size_t n)
{
    size_t used;
    int got;

    if (!p->item.mem) {
        if (!buf_hold(&p->item, BUF_NEW_WORK)) {
            p->no_buffer = true;
            return false;
        }
        json_list_start(&p->list, "models", NULL, p->item.mem, OLLA_BUF_SIZE);
    }
    while ((got = json_list_feed(&p->list, bytes, n, &used)) == 1) {
        add_element(p->owner, p->e, (struct str){p->list.out, p->list.n});
        bytes += used;
        n -= used;
    }
    return got != OLLA_ERR && !p->list.array_done;
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
    *err = (struct reply_error){503, "out_of_buffers", "all body buffers are in use, try again", 1};
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

bool gather_page(struct exchange *x, struct text *t, uint32_t i)
{
    const struct endpoint *e;
    uint64_t pieces = (x->body.n + PIECE - 1) / PIECE;

    if (i == 0) {
        text_addz(t, "{\"models\":[");
        return true;
    }
    if (i <= pieces) {
        uint64_t at = (uint64_t)(i - 1) * PIECE, end = at + PIECE < x->body.n ? at + PIECE : x->body.n;
        while (at < end) {
            struct str s = body_at(&x->body, at);
            if (!s.p || s.n == 0) {
                return false; /* the spool cannot be read: better cut than wrong */
            }
            s.n = s.n < end - at ? s.n : (size_t)(end - at);
            text_add(t, s);
            at += s.n;
        }
        return true;
    }
    if (i == pieces + 1) {
        text_addz(t, "],\"olla\":{\"missing\":[");
        return true;
    }
    e = missing_at(x, i - (uint32_t)pieces - 2);
    if (e) {
        text_addz(t, i == pieces + 2 ? "" : ",");
        json_text(t, str_of(e->name));
        return true;
    }
    text_addz(t, "]}}\n");
    return false;
}
