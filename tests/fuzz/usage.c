/*
 * usage.c - any bytes as a reply that token figures are read out of. The first byte says of what kind it is, the second
 * how it is cut.
 *
 * In one piece, where lines may be passed over unread, it tells the same as byte by byte, where none is, and as cut;
 * and nothing is larger than figures can be.
 */
#include "../unit/windows.h"

#include "../../src/usage.h"

static void read_reply(struct usage *u, enum usage_kind kind, const char *p, size_t n, size_t piece)
{
    usage_start(u, kind);
    for (size_t i = 0; i < n; i += piece) {
        usage_feed(u, p + i, n - i < piece ? n - i : piece);
    }
}

static void same(const struct usage_figures *a, const struct usage_figures *b)
{
    ENSURE(a->told == b->told && a->input == b->input && a->output == b->output && a->total == b->total);
    ENSURE(a->cached == b->cached && a->cache_written == b->cache_written && a->reasoning == b->reasoning);
    ENSURE(a->prompt_us == b->prompt_us && a->generation_us == b->generation_us && a->rate == b->rate);
    ENSURE(strcmp(a->model, b->model) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const uint64_t most = UINT64_C(1) << 53;
    struct usage whole, single, cut;

    if (n < 2) {
        return 0;
    }
    const enum usage_kind kind = (enum usage_kind)(bytes[0] % 3);
    const char *const p = (const char *)bytes + 2;
    read_reply(&whole, kind, p, n - 2, n);
    read_reply(&single, kind, p, n - 2, 1);
    read_reply(&cut, kind, p, n - 2, 2u + bytes[1]);
    const struct usage_figures f = usage_figures(&whole), g = usage_figures(&single), h = usage_figures(&cut);
    same(&f, &g);
    same(&f, &h);
    ENSURE(f.input <= 3 * most && f.output <= most && f.cached <= most && f.reasoning <= most && f.total <= 4 * most);
    ENSURE(strlen(f.model) < USAGE_MODEL);
    return 0;
}
