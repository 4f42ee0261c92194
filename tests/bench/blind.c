/*
 * blind.c - what olla does to see, left out: the linker puts these in the place of those that read tokens from replies
 * and count requests (-Wl,--wrap). Beside the real ones they show what seeing costs.
 */
#include "../../src/ledger.h"
#include "../../src/meter.h"
#include "../../src/tally.h"
#include "../../src/usage.h"

void __wrap_usage_start(struct usage *u, enum usage_kind kind);
void __wrap_usage_feed(struct usage *u, const char *p, size_t n);
struct usage_figures __wrap_usage_figures(const struct usage *u);
void __wrap_tally_add(struct tally *t, const struct tally_event *e);
void __wrap_meter_add(struct str key, struct str model, const struct tally_event *e);
void __wrap_ledger_add(struct str model, const struct tally_event *e, enum ledger_routing how, uint32_t client,
                       uint64_t now);

void __wrap_usage_start(struct usage *u, enum usage_kind kind)
{
    (void)u;
    (void)kind;
}

void __wrap_usage_feed(struct usage *u, const char *p, size_t n)
{
    (void)u;
    (void)p;
    (void)n;
}

struct usage_figures __wrap_usage_figures(const struct usage *u)
{
    struct usage_figures none = {.model = ""};

    (void)u;
    return none;
}

void __wrap_tally_add(struct tally *t, const struct tally_event *e)
{
    (void)t;
    (void)e;
}

void __wrap_meter_add(struct str key, struct str model, const struct tally_event *e)
{
    (void)key;
    (void)model;
    (void)e;
}

void __wrap_ledger_add(struct str model, const struct tally_event *e, enum ledger_routing how, uint32_t client,
                       uint64_t now)
{
    (void)model;
    (void)e;
    (void)how;
    (void)client;
    (void)now;
}
