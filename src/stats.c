/*
 * stats.c - level 7: see stats.h.
 *
 * May include: olla.h, levels 1 to 6, admin.h.
 */
#include "stats.h"

#include "admin.h"
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
