/*
 * log.h - level 2: log lines, as text or as one JSON object each, to standard
 * output, a file or the system's log.
 *
 * A line is built with log_begin, any number of log_* fields, log_end.
 * Lines wait in a fixed buffer and are written when that cannot block; when
 * the sink is too slow, full or away, lines are dropped, counted, and the
 * count is logged when it takes lines again.
 * Secrets never come here: callers pass none.
 *
 * May include: olla.h, str.h, platform.h, json.h (for the string writer).
 */
#ifndef OLLA_LOG_H
#define OLLA_LOG_H

#include "str.h"

struct plat_time;

enum log_level { LOG_DEBUG = 0, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_output { LOG_TO_STDOUT = 0, LOG_TO_SYSLOG, LOG_TO_FILE };

/* json: the line format. Lines below `lowest` are not built at all. */
void log_setup(enum log_level lowest, bool json);

/*
 * Gets a sink ready beside the one in use, at first standard output: the file of that path, which may be the one in
 * use under a new name, or the socket of the system's log, which need not be there yet. OLLA_ERR: the file cannot be
 * opened, plat_error_text() tells why. path: stays as long as the sink is in use.
 */
int log_prepare(enum log_output to, const char *path);
void log_switch(bool take); /* ... and lines go there from now on; or it is given up */

/*
 * Lines from now on are about the request of that id, which they tell; NULL or "" = about none. Returns what was before,
 * so that one request may be looked at in the middle of another.
 */
const char *log_about(const char *request_id);

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

/* Such a warning about a limit: what happens there, the name of the limit, its value, and how many times it was hit
 * since it was last said. Zero-fill. */
struct log_limit {
    uint64_t last, times;
};
void log_limit(struct log_limit *l, uint64_t now_ms, const char *msg, const char *limit, uint64_t value);

/* The one writer of dates: 2026-01-31<between>23:59:59.999, without a zone. */
void log_time(struct text *t, const struct plat_time *at, char between);

/* Writes what waits. Returns the ms after which it wants to be called again, or -1. at_exit: tries a little longer. */
int log_flush(uint64_t now_ms, bool at_exit);

#endif
