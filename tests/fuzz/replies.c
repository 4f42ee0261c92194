/*
 * replies.c - any bytes as a backend's reply. The first byte says whether it is a stream and whether the client wants
 * one, the second how it is cut; the reply follows.
 *
 * Whole or in pieces, the client gets the same. A stream keeps to the protocol, a plain message is one JSON object, or
 * it ends in a failure.
 */
#include "../unit/telling.h"

static void begin(struct reply_told *t, uint8_t how)
{
    memset(t, 0, sizeof(*t));
    t->frames = (how & 1) != 0;
    t->events = t->frames || (how & 2) != 0;
    t->hide_thinking = (how & 4) != 0;
    t->has_stops = (how & 8) != 0;
    t->limit = how & 16 ? 512 : 0;
    t->model = "a model";
    t->estimate = 3;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct reply_told whole, cut;
    static struct protocol protocol;

    if (n < 2) {
        return 0;
    }
    begin(&whole, bytes[0]);
    begin(&cut, bytes[0]);
    reply_tell(&whole, (const char *)bytes + 2, n - 2);
    cut.cut = 1 + bytes[1] % 16;
    cut.window = 1 + bytes[1] / 16;
    cut.room = 8 + bytes[1] % 32;
    reply_tell(&cut, (const char *)bytes + 2, n - 2);
    ENSURE(whole.failed == cut.failed && whole.status == cut.status && strcmp(whole.message, cut.message) == 0);
    ENSURE(whole.out.n == cut.out.n && (whole.out.n == 0 || memcmp(whole.out.p, cut.out.p, whole.out.n) == 0));
    if (whole.events) {
        protocol_read(&protocol, whole.out.p, whole.out.n, whole.failed);
        output_clear(&protocol.said);
    } else {
        ENSURE(whole.failed || is_json(whole.out.p, whole.out.n));
    }
    reply_clear(&whole);
    reply_clear(&cut);
    return 0;
}
