/*
 * fleet.h - endpoints for tests: a temporary configuration, taken as the program takes its own.
 *
 * Applying another text is a reload: endpoints keep their state by name. Random numbers have a
 * fixed seed, so that what failed once fails again.
 *
 * Include after cmocka.h.
 */
#ifndef OLLA_TEST_FLEET_H
#define OLLA_TEST_FLEET_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/conf.h"
#include "../../src/endpoint.h"
#include "../../src/log.h"
#include "../../src/model.h"

#define FLEET_ALL (~(endpoint_set)0)

static inline uint32_t chance(uint32_t below)
{
    static uint32_t seed = 77777;
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % below;
}

static inline void complain(bool error, const char *line)
{
    print_error("%s: %s\n", error ? "error" : "warning", line);
}

/* Reads the text into *c as a file. Messages go to say. */
static inline int fleet_load(struct conf *c, const char *text, conf_message *say)
{
    char path[] = "/tmp/olla-fleet-XXXXXX";
    size_t n = strlen(text);
    int fd = mkstemp(path);
    if (fd == -1 || write(fd, text, n) != (ssize_t)n || close(fd) == -1) {
        return OLLA_ERR;
    }
    int rc = conf_load(c, path, say);
    unlink(path);
    return rc;
}

/* Puts the text in force, at first or as a reload. OLLA_ERR after messages. */
static inline int fleet_apply(const char *text)
{
    static struct conf both[2];
    static unsigned turn;
    struct conf *c = &both[turn % 2];
    if (fleet_load(c, text, complain) != OLLA_OK || endpoint_check(c, complain) != OLLA_OK) {
        return OLLA_ERR;
    }
    turn++;
    conf_now = c;
    endpoint_apply(c);
    return OLLA_OK;
}

/* For a group's setup: that many endpoints, and an empty catalogue. */
static inline int fleet_start(const char *text, int endpoints)
{
    log_setup(LOG_ERROR, true);
    model_init();
    return fleet_apply(text) == OLLA_OK && endpoint_count() == endpoints ? 0 : -1;
}

/* What a server tells that only has a name, to be changed at will; the next call overwrites it. */
static inline struct model_facts *fleet_facts(struct str name)
{
    static struct model_facts facts;
    memset(&facts, 0, sizeof(facts));
    assert_true(str_copy(facts.name, sizeof(facts.name), name));
    return &facts;
}

/* One entry of a list written as text, NAME or NAME|DIGEST. false: no room for it. */
static inline bool fleet_offer(const struct endpoint *e, struct str entry)
{
    struct model_facts *facts = fleet_facts((struct str){entry.p, str_find(entry, '|')});
    assert_true(str_copy(facts->digest, sizeof(facts->digest), str_skip(entry, strlen(facts->name) + 1)));
    return model_offer(e, facts, MODEL_UNKNOWN);
}

/* A whole list, blanks between its entries. Returns what model_list_end says. */
static inline unsigned fleet_list(const struct endpoint *e, const char *entries)
{
    model_list_begin(e);
    for (struct str rest = str_of(entries); rest.p;) {
        struct str entry = str_split(&rest, ' ');
        assert_true(entry.n == 0 || fleet_offer(e, entry));
    }
    return model_list_end(e, true);
}

#endif
