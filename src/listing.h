/*
 * listing.h - level 7: the models of the fleet, in the formats that clients
 * ask for. Parts as in admin.c: i from 0 while the
 * result is true; where a listing goes on is kept in the exchange.
 *
 * May include: olla.h, levels 1 to 6.
 */
#ifndef OLLA_LISTING_H
#define OLLA_LISTING_H

#include "exchange.h"

/* Reads the query of a list. false: *err says what is wrong with it. */
bool listing_check(struct exchange *x, struct reply_error *err);
/* Lists: models in name order, then the aliases that stand for something. */
bool listing_page(struct exchange *x, struct text *t, uint32_t i);

/* One model; its name is the route's target. */
bool listing_one_check(struct exchange *x, struct reply_error *err);
bool listing_one_page(struct exchange *x, struct text *t, uint32_t i);

/* One entry of the catalogue with all that is known. */
bool listing_entry_check(struct exchange *x, struct reply_error *err);
bool listing_entry_page(struct exchange *x, struct text *t, uint32_t i);

#endif
