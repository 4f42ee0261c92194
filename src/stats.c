/*
 * stats.c - level 7: see stats.h.
 *
 * May include: olla.h, levels 1 to 6, admin.h.
 */
#include "stats.h"

#include <string.h>

#include "admin.h"
#include "ledger.h"
#include "messages.h"

bool stats_sticky_page(struct exchange *x, struct text *t, uint32_t i)
{
    const struct sticky_stats *s = sticky_stats();
    (void)x;
    if (i > 0) {
        return false;
    }
    if (!conf_now->proxy.sticky_sessions.enabled) {
        text_addz(t, "{\"enabled\":false}\n");
        return true;
    }
    text_addz(t, "{\"enabled\":true");
    json_member_u64(t, "active_sessions", s->active);
    json_member_u64(t, "insertions", s->insertions);
    json_member_u64(t, "hits", s->hits);
    json_member_u64(t, "misses", s->misses);
    json_member_u64(t, "evictions", s->evictions);
    json_member_u64(t, "max_sessions", (uint64_t)conf_now->proxy.sticky_sessions.max_sessions);
    json_member_u64(t, "idle_ttl_seconds", (uint64_t)conf_now->proxy.sticky_sessions.idle_ttl_seconds);
    text_addz(t, "}\n");
    return true;
}

static void percent(struct text *t, const char *key, uint64_t part, uint64_t whole)
{
    text_addz(t, ",\"");
    text_addz(t, key);
    text_addz(t, "\":\"");
    admin_percent_text(t, part, whole);
    text_addz(t, "\"");
}

bool stats_translators_page(struct exchange *x, struct text *t, uint32_t i)
{
    const struct messages_totals *m = &messages_totals;
    uint64_t good = m->requests - m->failed;

    (void)x;
    if (i > 0) {
        return false;
    }
    text_addz(t, "{\"timestamp\":\"");
    admin_time_text(t, plat_wall_ms());
    text_addz(t, "\",\"translators\":[");
    if (m->requests > 0) {
        text_addz(t, "{\"translator_name\":\"anthropic\"");
        percent(t, "success_rate", good, m->requests);
        percent(t, "passthrough_rate", m->native, m->requests);
        text_addz(t, ",\"average_latency\":\"");
        admin_latency_text(t, good > 0 ? m->latency_ms_sum / good : 0);
        text_addz(t, "\"");
        json_member_u64(t, "total_requests", m->requests);
        json_member_u64(t, "successful_requests", good);
        json_member_u64(t, "failed_requests", m->failed);
        json_member_u64(t, "passthrough_requests", m->native);
        json_member_u64(t, "translation_requests", m->requests - m->native);
        json_member_u64(t, "streaming_requests", m->streams);
        json_member_u64(t, "non_streaming_requests", m->requests - m->streams);
        json_member_u64(t, "fallback_no_compatible_endpoints", m->nowhere);
        json_member_u64(t, "fallback_translator_does_not_support_passthrough", 0);
        json_member_u64(t, "fallback_cannot_passthrough", m->translated);
        text_addz(t, "}");
    }
    text_addz(t, "],\"summary\":{\"overall_success_rate\":\"");
    admin_percent_text(t, good, m->requests);
    text_addz(t, "\"");
    percent(t, "overall_passthrough_rate", m->native, m->requests);
    json_member_u64(t, "total_translators", m->requests > 0);
    json_member_u64(t, "active_translators", m->requests > 0);
    json_member_u64(t, "total_requests", m->requests);
    json_member_u64(t, "total_passthrough", m->native);
    json_member_u64(t, "total_translations", m->requests - m->native);
    json_member_u64(t, "total_streaming", m->streams);
    json_member_u64(t, "total_non_streaming", m->requests - m->streams);
    text_addz(t, "}}\n");
    return true;
}

bool stats_tokens_page(struct exchange *x, struct text *t, uint32_t i)
{
    if (i > 0) {
        return false;
    }
    text_addz(t, "{\"input_tokens\":");
    text_u64(t, messages_tokens(x));
    text_addz(t, "}\n");
    return true;
}

/* ---- /internal/stats/models ------------------------------------------------------------------ */

#define HOUR_MS UINT64_C(3600000)

static void model_part(struct text *t, const struct ledger_model *m, bool first)
{
    const struct tally *sum = &m->sum;

    text_addz(t, first ? "{\"name\":" : ",{\"name\":");
    json_text(t, str_of(m->name));
    percent(t, "success_rate", tally_served(sum), sum->requests);
    ADMIN_MEMBER(t, "total_traffic", admin_bytes_text(t, sum->bytes));
    ADMIN_MEMBER(t, "average_latency", admin_latency_text(t, tally_average(sum)));
    ADMIN_MEMBER(t, "p95_latency", admin_latency_text(t, histogram_percentile(&m->latency, 95)));
    ADMIN_MEMBER(t, "p99_latency", admin_latency_text(t, histogram_percentile(&m->latency, 99)));
    ADMIN_MEMBER(t, "last_requested", admin_ago_text(t, m->last));
    json_member_u64(t, "total_requests", sum->requests);
    json_member_u64(t, "successful_requests", tally_served(sum));
    json_member_u64(t, "failed_requests", sum->failed);
    json_member_u64(t, "unique_clients", m->clients_n);
    json_member_u64(t, "routing_hits", m->hits);
    json_member_u64(t, "routing_misses", m->misses);
    json_member_u64(t, "routing_fallbacks", m->fallbacks);
    json_member_u64(t, "input_tokens", sum->input);
    json_member_u64(t, "output_tokens", sum->output);
    json_member_u64(t, "estimated_requests", sum->estimated);
    text_char(t, '}');
}

/* The models that this key may see, most requests first. */
static const struct ledger_model *seen_at(const struct exchange *x, uint32_t place)
{
    const struct ledger_model *m;

    for (unsigned i = 0; (m = ledger_at(i)) != NULL; i++) {
        if (gate_allows(&x->key, str_of(m->name)) && place-- == 0) {
            return m;
        }
    }
    return NULL;
}

/* The one with the most requests of those that are not shown yet: the order may change while the page is on its way. */
static const struct ledger_model *next_at(const struct exchange *x, unsigned *slot)
{
    const struct ledger_model *best = NULL;

    for (unsigned i = 0; i < OLLA_MAX_LEDGER; i++) {
        const struct ledger_model *m = ledger_slot(i);
        bool shown = (x->place.shown[i / 32] & (UINT32_C(1) << i % 32)) != 0;
        if (m->name[0] && !shown && gate_allows(&x->key, str_of(m->name)) && (!best || ledger_before(m, best))) {
            best = m;
            *slot = i;
        }
    }
    return best;
}

static void models_summary(const struct exchange *x, struct text *t)
{
    struct tally all = {0};
    unsigned n = 0, active = 0;
    const struct ledger_model *m, *most = seen_at(x, 0), *least = most;

    for (; (m = seen_at(x, n)) != NULL; n++) {
        all.requests += m->sum.requests;
        all.failed += m->sum.failed;
        all.bytes += m->sum.bytes;
        active += net_now() - m->last < HOUR_MS;
        least = m;
    }
    text_addz(t, "],\"endpoints\":{},\"summary\":{\"total_models\":");
    text_u64(t, n);
    json_member_u64(t, "active_models", active);
    json_member_u64(t, "total_requests", all.requests);
    percent(t, "overall_success_rate", tally_served(&all), all.requests);
    ADMIN_MEMBER(t, "total_traffic", admin_bytes_text(t, all.bytes));
    json_member(t, "most_popular_model", str_of(most ? most->name : ""));
    json_member(t, "least_popular_model", str_of(least ? least->name : ""));
    text_addz(t, "}}\n");
}

bool stats_models_page(struct exchange *x, struct text *t, uint32_t i)
{
    unsigned slot = 0;
    const struct ledger_model *m = i > 0 && i <= OLLA_MAX_LEDGER ? next_at(x, &slot) : NULL;

    if (i == 0) {
        memset(x->place.shown, 0, sizeof(x->place.shown));
        text_addz(t, "{\"timestamp\":\"");
        admin_time_text(t, plat_wall_ms());
        text_addz(t, "\",\"models\":[");
    } else if (m) {
        model_part(t, m, i == 1);
        x->place.shown[slot / 32] |= t->full ? 0 : UINT32_C(1) << slot % 32;
    } else if (i <= OLLA_MAX_LEDGER + 1) {
        models_summary(x, t);
        x->cursor = OLLA_MAX_LEDGER + 1; /* that was the last part */
    }
    return i <= OLLA_MAX_LEDGER + 1;
}

/* ---- /internal/process ------------------------------------------------------------------------- */

/* The reference tells of its garbage collector; here is none, and the keys that scripts may look for say so. */
bool stats_process_page(struct exchange *x, struct text *t, uint32_t i)
{
    uint64_t rss = plat_rss_bytes();

    (void)x;
    if (i > 0) {
        return false;
    }
    text_addz(t, "{\"timestamp\":\"");
    admin_time_text(t, plat_wall_ms());
    text_addz(t, "\",\"memory\":{\"heap_alloc\":\"");
    admin_bytes_text(t, rss);
    text_char(t, '"');
    ADMIN_MEMBER(t, "heap_sys", admin_bytes_text(t, rss));
    ADMIN_MEMBER(t, "heap_inuse", admin_bytes_text(t, rss));
    text_addz(t, ",\"heap_released\":\"0 B\",\"stack_inuse\":\"0 B\"");
    ADMIN_MEMBER(t, "total_alloc", admin_bytes_text(t, rss));
    json_member_u64(t, "rss_bytes", rss);
    text_addz(t, ",\"memory_pressure\":\"LOW\"},\"garbage_collection\":{\"last_gc\":\"\",\"total_gc_time\":\"\","
                 "\"avg_gc_pause\":\"\",\"gc_cpu_fraction\":0,\"num_gc_cycles\":0},"
                 "\"goroutines\":{\"health_status\":\"HEALTHY\",\"count\":1,\"cgo_calls\":0},\"runtime\":{");
    text_addz(t, "\"uptime\":\"");
    admin_uptime_text(t, net_now() - admin_start());
    text_addz(t, "\",\"go_version\":\"\",\"num_cpu\":");
    text_u64(t, plat_cpu_count());
    text_addz(t, ",\"gomaxprocs\":1},\"allocations\":{\"total_mallocs\":0,\"total_frees\":0,\"net_objects\":0}}\n");
    return true;
}
