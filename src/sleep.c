/*
 * sleep.c - level 6: see sleep.h.
 *
 * May include: olla.h, levels 1 to 5, hooks.h, sleep.h.
 */
#include "sleep.h"

#include <string.h>

#include "hooks.h"
#include "log.h"
#include "net.h"
#include "upstream.h"

/* A machine that was told to sleep goes on for a while. */
#define SETTLE_MS 5000
/* When something keeps the program from starting. */
#define AGAIN_MS 200

/* By slot: the machine that the program was started for; the endpoint may be gone when it ends. */
static uint8_t sent[OLLA_MAX_ENDPOINTS][6];

static void ended(int slot, uint32_t generation, bool well)
{
    uint64_t now = net_now();
    struct endpoint *e;

    (void)generation;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (!e->wake.quiet || memcmp(e->wake.mac, sent[slot], sizeof(sent[slot])) != 0) {
            continue;
        }
        e->wake.quiet = false;
        e->used_at = now; /* if it stays up, it has its time again */
        if (well) {
            endpoint_set_state(e, ENDPOINT_ASLEEP, "was sent to sleep by its idle hook");
            e->wake.settle_until = now + SETTLE_MS;
        }
        e->wake.next_packet = now;
    }
    endpoint_tell();
}

/* When the machine of e has been idle long enough; UINT64_MAX: it works, or sleeps, or is about to do either. */
static uint64_t due_at(const struct endpoint *e)
{
    uint64_t since = 0;
    bool up = false, free = true;
    struct endpoint *other;

    for (int i = 0; (other = endpoint_at(i)) != NULL; i++) {
        if (!endpoint_same_machine(e, other)) {
            continue;
        }
        if (other->load.known && other->load.busy) {
            other->used_at = net_now(); /* somebody else gives it work */
        }
        up = up || (other->enabled && other->state == ENDPOINT_HEALTHY);
        free = free && other->inflight == 0 && !other->wake.active && !other->wake.quiet;
        since = other->used_at > since ? other->used_at : since;
    }
    return up && free ? since + (uint64_t)conf_now->hooks.idle_after : UINT64_MAX;
}

/* Questions of olla's own that are under way. */
static bool is_asked(const struct endpoint *e)
{
    const struct endpoint *other;
    for (int i = 0; (other = endpoint_at(i)) != NULL; i++) {
        if (endpoint_same_machine(e, other) && (other->probing || other->discovering || other->load.asking)) {
            return true;
        }
    }
    return false;
}

/* false: no program can be started now. */
static bool send_to_sleep(struct endpoint *e)
{
    struct endpoint *other;

    memcpy(sent[e->slot], e->wake.mac, sizeof(sent[0]));
    for (int i = 0; (other = endpoint_at(i)) != NULL; i++) {
        if (endpoint_same_machine(e, other)) {
            upstream_drop_idle(other);
            other->wake.quiet = true;
        }
    }
    if (hooks_start(HOOK_IDLE, e, "has had nothing to do for hooks.idle_after", ended)) {
        log_line(LOG_INFO, "idle", "endpoint", str_of(e->name), NULL, STR(""));
        return true;
    }
    for (int i = 0; (other = endpoint_at(i)) != NULL; i++) {
        other->wake.quiet = other->wake.quiet && !endpoint_same_machine(e, other);
    }
    return false;
}

static bool is_first_of_machine(const struct endpoint *e)
{
    const struct endpoint *other = NULL;
    for (int i = 0; (other = endpoint_at(i)) != e; i++) {
        if (endpoint_same_machine(e, other)) {
            return false;
        }
    }
    return true;
}

uint64_t sleep_tick(void)
{
    uint64_t now = net_now(), next = UINT64_MAX;
    struct endpoint *e;

    if (conf_now->hooks.idle_after == 0 || !hooks_has(HOOK_IDLE)) {
        return UINT64_MAX;
    }
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (!e->wake.can || !is_first_of_machine(e)) {
            continue;
        }
        uint64_t at = due_at(e);
        if (at <= now) {
            at = is_asked(e) || !send_to_sleep(e) ? now + AGAIN_MS : UINT64_MAX;
        }
        next = at < next ? at : next;
    }
    return next;
}
