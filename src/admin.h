/*
 * admin.h - level 7: pages about olla itself and listings of models.
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_ADMIN_H
#define OLLA_ADMIN_H

#include "exchange.h"

/* The writers of all local pages, LOCAL_COUNT rows, for exchange_init. Takes the start time. */
const struct exchange_local *admin_pages(void);

/* RFC 3339 in UTC; and the wall time of the start. */
void admin_time_text(struct text *t, int64_t wall_ms);
int64_t admin_start_wall(void);
uint64_t admin_start(void); /* the same, monotonic ms */

/* "key":"..." around what a value function writes. */
#define ADMIN_MEMBER(t, key, call)       \
    do {                                 \
        text_addz(t, ",\"" key "\":\""); \
        call;                            \
        text_char(t, '"');               \
    } while (0)

/* Values as the reference writes them; `at` is monotonic, 0 = never. */
void admin_bytes_text(struct text *t, uint64_t n);
void admin_percent_text(struct text *t, uint64_t part, uint64_t whole);
void admin_latency_text(struct text *t, uint64_t ms);
void admin_until_text(struct text *t, uint64_t at);
void admin_uptime_text(struct text *t, uint64_t ms);
void admin_ago_text(struct text *t, uint64_t at);
void admin_instant_text(struct text *t, uint64_t at);

/* When one of these endpoints last told its models. */
uint64_t admin_last_seen(endpoint_set set);

#endif
