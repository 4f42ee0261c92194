/*
 * requests.c - any bytes as a request for a message.
 *
 * What is refused must be refused with words. What is told must be one JSON object, as long as was counted, and the
 * same whatever the windows of the body and the room of the backend are.
 */
#include "../unit/telling.h"

static void tell(const char *doc, size_t n, const struct profile *to, size_t window, size_t room)
{
    struct request_told whole, cut;

    request_check(&whole, doc, n, 0, false);
    if (whole.refused) {
        ENSURE(whole.refused[0]);
        return;
    }
    request_tell(&whole, to, "a \"model\"", 4096);
    ENSURE(whole.refused || is_json(whole.out.p, whole.out.n));
    request_check(&cut, doc, n, window, false);
    request_tell(&cut, to, "a \"model\"", room);
    ENSURE(!whole.refused == !cut.refused && strcmp(whole.error, cut.error) == 0);
    ENSURE(whole.out.n == cut.out.n && (whole.out.n == 0 || memcmp(whole.out.p, cut.out.p, whole.out.n) == 0));
    output_clear(&whole.out);
    output_clear(&cut.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const char *doc = (const char *)bytes;
    struct request_told t;

    request_check(&t, doc, n, 0, true);
    if (!t.refused) {
        uint64_t tokens = request_estimate(&t);
        ENSURE(tokens > 0 && tokens <= n * 6 + 1);
        request_check(&t, doc, n, 3, true);
        ENSURE(request_estimate(&t) == tokens);
    }
    tell(doc, n, &profile_plain, 1 + n % 7, 8);
    tell(doc, n, &profile_rich, 5, 120 + n % 64);
    return 0;
}
