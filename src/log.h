/*
 * log.h - level 2: log lines, as text or as one JSON object each.
 *
 * A line is built with log_begin, any number of log_* fields, log_end.
 * Lines wait in a fixed buffer and are written when that cannot block; when
 * the sink is too slow lines are dropped, counted, and the count is logged.
 * Secrets never come here: callers pass none.
 *
 * May include: olla.h, str.h, platform.h, json.h (for the string writer).
 */
#ifndef OLLA_LOG_H
#define OLLA_LOG_H

#include "str.h"

struct plat_time;

enum log_level { LOG_DEBUG = 0, LOG_INFO, LOG_WARN, LOG_ERROR };

/* json: the line format. Lines below `lowest` are not built at all. */
void log_setup(enum log_level lowest, bool json);

/* One line. log_begin returns false when the level is off: then do not add fields. */
bool log_begin(enum log_level level, const char *msg);
void log_str(const char *key, struct str value);
void log_z(const char *key, const char *value);
void log_u64(const char *key, uint64_t value);
void log_end(void);

/* The short form: a message and up to two text fields (key NULL = none). */
void log_line(enum log_level level, const char *msg, const char *key_a, struct str a, const char *key_b, struct str b);

/*
 * For warnings that could come with every request: true at most once in five
 * seconds for each `last` (a static of the caller, 0 at first).
 */
bool log_allowed(uint64_t *last, uint64_t now_ms);

/* The one writer of dates: 2026-01-31<between>23:59:59.999, without a zone. */
void log_time(struct text *t, const struct plat_time *at, char between);

/* Writes what waits. Returns the ms after which it wants to be called again, or -1. at_exit: tries a little longer. */
int log_flush(uint64_t now_ms, bool at_exit);

#endif
