/*
 * choose.c - level 5: candidates to one endpoint; see route.h and docs/routing.md.
 *
 * Sets of endpoints, narrowed step by step: of the route, up, with the model,
 * not tried yet, open, large enough, with room; then the best of what is left.
 * Nothing here changes anything: a choice counts when endpoint_begin is called.
 *
 * May include: olla.h, str.h, conf.h, profile.h, endpoint.h, model.h, route.h.
 */
#include "net.h"
#include "route.h"

/* ---- which have it ---------------------------------------------------------------- */

static int members(endpoint_set set)
{
    int n = 0;
    for (; set; set &= set - 1) {
        n++;
    }
    return n;
}

/* Who serves any of the alias's models. */
static endpoint_set find_alias(const struct conf_alias *a, endpoint_set usable, endpoint_set *known)
{
    endpoint_set found = 0, one;
    *known = 0;
    for (int i = 0; i < a->models.n; i++) {
        found |= model_find(str_of(a->models.item[i]), usable, &one);
        *known |= one;
    }
    return found;
}

/* The words for a model that was found, is known but not served now, or is not known: the reference's. */
static const struct {
    const char *name;
    const char *found, *found_after, *unavailable[3], *unknown[3];
} strategies[] = {
    [STRATEGY_STRICT] = {"strict",
                         "model_found",
                         "model_found",
                         {"model_unavailable", "model_unavailable", "model_unavailable"},
                         {"model_not_found", "model_not_found", "model_not_found"}},
    [STRATEGY_OPTIMISTIC] = {"optimistic",
                             "model_found",
                             "model_found",
                             {"model_unavailable_compatible_only", "model_unavailable_no_fallback",
                              "all_healthy_fallback"},
                             {"model_not_found", "model_not_found", "model_not_found_fallback"}},
    [STRATEGY_DISCOVERY] = {"discovery",
                            "model_found_no_refresh",
                            "model_found",
                            {"model_unavailable_no_refresh", "model_unavailable_no_refresh",
                             "all_healthy_after_discovery"},
                            {"model_not_found", "model_not_found", "all_healthy_after_discovery"}},
};

/* The APIs of those that have the model, if none speaks the route's: trying again will not help. 0 = that is not it. */
static unsigned other_apis(const struct route_query *q, endpoint_set known)
{
    unsigned spoken = 0, wanted = q->route->api;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        spoken |= (known & endpoint_bit(e)) && e->enabled ? e->profile->apis : 0;
    }
    if (wanted != 0 && q->route->messages != MESSAGES_NONE) {
        wanted |= API_ANTHROPIC; /* where they may only be translated, it is that API all the same */
    }
    return wanted == 0 || (spoken & wanted) ? 0 : spoken;
}

/* What the strategy makes of it; candidates holds those that have the model. */
static endpoint_set apply_strategy(const struct route_query *q, struct route_choice *c, endpoint_set candidates,
                                   endpoint_set known, endpoint_set healthy)
{
    enum conf_strategy how = conf_now->model_registry.routing_strategy.type;
    enum conf_fallback fallback = conf_now->model_registry.routing_strategy.options.fallback_behavior;

    c->strategy = strategies[how].name;
    if (candidates) {
        c->decision = "routed";
        c->reason = q->refreshed ? strategies[how].found_after : strategies[how].found;
        return candidates;
    }
    c->refresh = how == STRATEGY_DISCOVERY && !q->refreshed && healthy &&
                 conf_now->model_registry.routing_strategy.options.discovery_refresh_on_miss;
    bool wants_all = how != STRATEGY_STRICT && fallback == FALLBACK_ALL;
    bool all = wants_all && (how == STRATEGY_OPTIMISTIC || q->refreshed);
    fallback = wants_all && !all ? FALLBACK_NONE : fallback; /* nothing was asked anew: the plain words */
    c->instead = wants_all ? 0 : other_apis(q, known);
    c->status = (known && !c->instead) || (wants_all && !healthy) ? 503 : 404;
    c->reason = known ? strategies[how].unavailable[fallback] : strategies[how].unknown[fallback];
    if (known && q->refreshed && !all) {
        c->reason = "model_unavailable_after_discovery";
    }
    c->decision = all && healthy ? "fallback" : "rejected";
    return all ? healthy : 0;
}

/* What nearly all requests are for, and all have: not worth looking for. */
static bool is_common(struct str target)
{
    static const struct str paths_of_all[] = {STR("/v1/chat/completions"), STR("/v1/completions"),
                                              STR("/v1/embeddings")};
    for (size_t i = 0; i < OLLA_COUNT(paths_of_all); i++) {
        if (str_eq(target, paths_of_all[i])) {
            return true;
        }
    }
    return false;
}

/*
 * On shared routes a path of its own makes a type preferred: /infill means llama.cpp, whoever else has the model.
 * When none of those that know the path has the model, the model decides.
 */
static endpoint_set knowing_path(const struct route *r, endpoint_set candidates)
{
    endpoint_set knowing = 0;
    struct endpoint *e;
    if ((r->api & ~(unsigned)API_OPENAI) || (r->only && !r->only->any) || is_common(r->target)) {
        return candidates;
    }
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        knowing |= profile_has_path(e->profile, r->target) ? endpoint_bit(e) : 0;
    }
    return candidates & knowing ? candidates & knowing : candidates;
}

/* The endpoints that a request of this kind may go to at all, if they are up. */
static bool compatible(const struct endpoint *e, const struct route_query *q)
{
    int kind = q->route->inference;
    return !e->draining && route_fits(e, q->route) && (e->serves == 0 || kind < 0 || (e->serves & 1u << kind));
}

/* How far this request may go for e. One that was not asked yet may sleep as well. */
static enum conf_wake wake_of(const struct endpoint *e, const struct route_query *q)
{
    bool sleeps = e->wake.active || e->wake.quiet || e->state == ENDPOINT_ASLEEP || e->state == ENDPOINT_UNKNOWN;
    enum conf_wake most = q->wake < e->wake.policy ? q->wake : e->wake.policy;

    return e->wake.can && sleeps && !(q->woken & endpoint_bit(e)) ? most : WAKE_NEVER;
}

static endpoint_set up_and_compatible(const struct route_query *q)
{
    endpoint_set set = 0;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        /* One that is being woken answers before it can serve. */
        bool up = endpoint_is_up(e) && !(e->wake.active && wake_of(e, q) > WAKE_NEVER);
        set |= compatible(e, q) && up ? endpoint_bit(e) : 0;
    }
    return set;
}

/* Machines that sleep and would have it. */
static endpoint_set asleep(const struct route_query *q)
{
    endpoint_set set = 0, found, known = 0;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        set |= compatible(e, q) && wake_of(e, q) > WAKE_NEVER ? endpoint_bit(e) : 0;
    }
    if (q->model.n == 0 || set == 0) {
        return set;
    }
    found = q->alias ? find_alias(q->alias, set, &known) : 0;
    return known ? found : model_find(q->model, set, &known);
}

/* Those of them that have the model, with the words for the decision. */
static endpoint_set having_model(const struct route_query *q, struct route_choice *c, endpoint_set up)
{
    endpoint_set candidates, known = 0;

    if (q->model.n == 0 || (!up && q->route->has_type)) {
        c->status = q->route->has_type && !up ? 404 : 503;
        return up;
    }
    candidates = q->alias ? find_alias(q->alias, up, &known) : 0;
    if (known) {
        c->strategy = "alias";
        c->instead = candidates ? 0 : other_apis(q, known);
        c->status = c->instead ? 404 : 503;
        c->decision = candidates ? "routed" : "rejected";
        c->reason = candidates ? NULL : "model_unavailable";
        c->resolved = members(candidates);
        return candidates;
    }
    candidates = model_find(q->model, up, &known);
    return apply_strategy(q, c, candidates, known, up);
}

/* ---- which can take it now ---------------------------------------------------------- */

/* Tokens that fit, 0 = not known. */
static uint32_t context_of(const struct endpoint *e, struct str model)
{
    const struct model *m;
    if (e->max_context > 0) {
        return e->max_context;
    }
    for (size_t i = 0; e->load.known && i < OLLA_COUNT(e->load.window) && e->load.window[i].context > 0; i++) {
        if (e->load.window[i].name == str_ihash(model)) {
            return e->load.window[i].context;
        }
    }
    if (e->extra.context > 0 || e->only_context > 0) {
        return e->extra.context > 0 ? e->extra.context : e->only_context;
    }
    m = model.n > 0 ? model_named(model, endpoint_bit(e)) : NULL;
    return m ? m->facts.context : 0;
}

static struct str model_at_endpoint(const struct route_query *q, const struct endpoint *e)
{
    const char *own = NULL;
    for (int i = 0; q->alias && i < q->alias->models.n && !own; i++) {
        own = model_spelling(str_of(q->alias->models.item[i]), e);
    }
    return own ? str_of(own) : q->model;
}

/* Those that the prompt fits in; all, if it fits nowhere: the estimate may be wrong. */
static endpoint_set large_enough(const struct route_query *q, endpoint_set candidates)
{
    endpoint_set fit = 0;
    struct endpoint *e;
    if (q->tokens == 0 || (candidates & (candidates - 1)) == 0) {
        return candidates; /* there is no choice */
    }
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (candidates & endpoint_bit(e)) {
            uint32_t context = context_of(e, model_at_endpoint(q, e));
            fit |= context == 0 || context >= q->tokens ? endpoint_bit(e) : 0;
        }
    }
    return fit ? fit : candidates;
}

static endpoint_set open_ones(endpoint_set candidates, struct route_choice *c)
{
    endpoint_set open = 0;
    uint64_t soonest = UINT64_MAX, closed;
    struct endpoint *e;

    c->limited = candidates != 0;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (!(candidates & endpoint_bit(e))) {
            continue;
        }
        open |= endpoint_is_open(e) ? endpoint_bit(e) : 0;
        closed = endpoint_closed_for(e);
        soonest = closed < soonest ? closed : soonest;
        c->limited = c->limited && e->limited_until > net_now();
    }
    c->closed = candidates != 0 && open == 0;
    c->limited = c->limited && c->closed;
    c->closed_ms = c->closed ? soonest : 0;
    return open;
}

static endpoint_set with_room(const struct route_query *q, endpoint_set candidates)
{
    endpoint_set room = 0;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        bool has = !q->counts || !endpoint_is_full(e);
        room |= (candidates & endpoint_bit(e)) && has ? endpoint_bit(e) : 0;
    }
    return room;
}

/* ---- the best ------------------------------------------------------------------------ */

static int rank_of_state(const struct endpoint *e)
{
    return e->state == ENDPOINT_HEALTHY ? 0 : e->state == ENDPOINT_BUSY ? 1 : 2;
}

/* By slot: loaded and idle, idle, loaded and busy, busy. Nothing is held against one that does not tell. */
static int8_t warmth[OLLA_MAX_ENDPOINTS];

static void find_warmth(const struct route_query *q, endpoint_set candidates)
{
    const struct model *m;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        warmth[e->slot] = 0;
        if (!(candidates & endpoint_bit(e)) || !e->load.known) {
            continue;
        }
        bool lists = e->profile->load == LOAD_PS || e->profile->load == LOAD_LIST;
        m = lists ? model_named(model_at_endpoint(q, e), endpoint_bit(e)) : NULL;
        bool loaded = !lists || (m && model_state_at(m, e) == MODEL_LOADED);
        bool busy = lists ? e->inflight > 0 : e->load.busy;
        warmth[e->slot] = loaded ? (busy ? 2 : 0) : (busy ? 3 : 1);
    }
}

/* < 0: a is the better one; 0: equal but for whose turn it is. */
static int compare(const struct endpoint *a, const struct endpoint *b, const struct route_query *q)
{
    int d = rank_of_state(a) - rank_of_state(b);
    if (d == 0 && q->balancer == BALANCE_PRIORITY) {
        d = b->priority - a->priority;
    }
    d = d == 0 ? warmth[a->slot] - warmth[b->slot] : d;
    if (d == 0 && q->balancer != BALANCE_ROUND_ROBIN) {
        uint64_t left = (uint64_t)a->inflight * b->weight, right = (uint64_t)b->inflight * a->weight;
        d = left < right ? -1 : left > right;
    }
    return d;
}

/* Whose turn comes first, of two that are equal otherwise. */
static bool is_sooner(const struct endpoint *a, const struct endpoint *b, uint64_t largest)
{
    uint64_t ta = endpoint_turn(a, largest), tb = endpoint_turn(b, largest);
    return ta != tb ? ta < tb : a->picked < b->picked;
}

static uint64_t largest_pass(endpoint_set set)
{
    uint64_t largest = 0;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        largest = (set & endpoint_bit(e)) && e->pass > largest ? e->pass : largest;
    }
    return largest;
}

/* The best of them, and all that equal it. */
static struct endpoint *best_of(const struct route_query *q, endpoint_set candidates, uint64_t largest,
                                endpoint_set *equal)
{
    struct endpoint *best = NULL, *e;

    *equal = 0;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if (!(candidates & endpoint_bit(e))) {
            continue;
        }
        int d = best ? compare(e, best, q) : -1;
        if (d < 0) {
            *equal = 0;
        }
        if (d <= 0) {
            *equal |= endpoint_bit(e);
        }
        if (d < 0 || (d == 0 && is_sooner(e, best, largest))) {
            best = e;
        }
    }
    return best;
}

/* Requests that the least loaded one of those as good as `like` has. */
static unsigned least_inflight(const struct route_query *q, const struct endpoint *like, endpoint_set room)
{
    unsigned least = like->inflight;
    struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        bool tier = q->balancer != BALANCE_PRIORITY || e->priority == like->priority;
        if ((room & endpoint_bit(e)) && tier && rank_of_state(e) == rank_of_state(like) && e->inflight < least) {
            least = e->inflight;
        }
    }
    return least;
}

/*
 * A conversation stays where its beginning is in memory, unless a better tier is back or the endpoint is overloaded:
 * then another one serves this turn, but the pin stays, because a spike passes.
 */
static void stay_or_place(const struct route_query *q, struct route_choice *c, endpoint_set room, endpoint_set equal)
{
    bool had;
    struct endpoint *pinned = sticky_peek(q->key, &had);
    bool candidate = pinned && (c->candidates & endpoint_bit(pinned));
    bool lower = candidate && (rank_of_state(pinned) > rank_of_state(c->e) ||
                               (q->balancer == BALANCE_PRIORITY && pinned->priority < c->e->priority));
    unsigned slack = (unsigned)conf_now->proxy.sticky_sessions.load_slack;

    if (candidate && !lower) {
        bool overloaded = !(room & endpoint_bit(pinned)) || pinned->inflight > least_inflight(q, pinned, room) + slack;
        c->sticky = overloaded ? STICKY_MISS : STICKY_HIT;
        c->e = overloaded ? c->e : pinned;
        c->pin = !overloaded;
        return;
    }
    c->sticky = had ? STICKY_REPIN : STICKY_MISS;
    c->e = sticky_place(q->key, equal);
    c->pin = true;
}

/* ---- sleepers -------------------------------------------------------------------------- */

/* Where others serve, a machine that did not come is left alone for a while. */
#define TRIED_MS 300000

/*
 * < 0: a is the better one to wake: it may be waited for; is being woken already; did come the last time; and then as
 * among those that are up.
 */
static int compare_sleepers(const struct endpoint *a, const struct endpoint *b, const struct route_query *q)
{
    int d = (int)wake_of(b, q) - (int)wake_of(a, q);
    d = d == 0 ? (int)b->wake.active - (int)a->wake.active : d;
    if (d == 0 && (a->wake.failed_at > 0 || b->wake.failed_at > 0)) {
        d = a->wake.failed_at < b->wake.failed_at ? -1 : a->wake.failed_at > b->wake.failed_at;
    }
    if (d == 0 && q->balancer == BALANCE_PRIORITY) {
        d = b->priority - a->priority;
    }
    return d;
}

/*
 * Which machine is to be woken, if any; and whether the request waits. While others can serve it, only such machines
 * are woken as ask for it, and none of a lower tier.
 */
static void choose_sleeper(const struct route_query *q, struct route_choice *c, endpoint_set set)
{
    bool served = c->e || c->full;
    struct endpoint *e;

    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        bool lower = q->balancer == BALANCE_PRIORITY && c->e && e->priority < c->e->priority;
        bool tried = e->wake.failed_at > 0 && net_now() - e->wake.failed_at < TRIED_MS;
        bool worth = wake_of(e, q) == WAKE_PREFER && !lower && !tried && e->state != ENDPOINT_UNKNOWN;
        if (!(set & endpoint_bit(e)) || (served && !worth)) {
            continue;
        }
        if (!c->sleeper || compare_sleepers(e, c->sleeper, q) < 0) {
            c->sleeper = e;
        }
    }
    c->wait = c->sleeper && !served && wake_of(c->sleeper, q) == WAKE_REQUIRE;
}

/* True if one of them is worth more than a fallback. */
static bool any_required(const struct route_query *q, endpoint_set set)
{
    const struct endpoint *e;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        if ((set & endpoint_bit(e)) && wake_of(e, q) == WAKE_REQUIRE) {
            return true;
        }
    }
    return false;
}

/* ---- the decision ---------------------------------------------------------------------- */

/* The wanted endpoint, if it is there and well. */
static void choose_pinned(const struct route_query *q, struct route_choice *c)
{
    struct endpoint *e;
    int i = 0;
    while ((e = endpoint_at(i)) != NULL && !str_eq(str_of(e->name), q->pin)) {
        i++;
    }
    c->no_such_pin = e == NULL || !route_fits(e, q->route);
    c->status = c->no_such_pin ? 404 : 503;
    c->starting = !c->no_such_pin && !e->probed;
    if (!c->no_such_pin && compatible(e, q) && wake_of(e, q) > WAKE_NEVER) {
        choose_sleeper(q, c, endpoint_bit(e));
        return;
    }
    if (c->no_such_pin || !compatible(e, q) || !endpoint_is_up(e) || (q->tried & endpoint_bit(e))) {
        return;
    }
    endpoint_set open = open_ones(endpoint_bit(e), c);
    c->status = c->limited ? 429 : c->status;
    c->full = open && !with_room(q, open) ? open : 0;
    c->e = open && !c->full ? e : NULL;
    c->starting = false;
}

struct route_choice route_choose(const struct route_query *q)
{
    struct route_choice c = {.status = 503};
    endpoint_set candidates, equal, sleeping;

    if (q->pin.n > 0) {
        choose_pinned(q, &c);
        return c;
    }
    candidates = having_model(q, &c, up_and_compatible(q));
    sleeping = asleep(q);
    if (candidates && str_eq(str_of(c.decision), STR("fallback")) && any_required(q, sleeping)) {
        candidates = 0;
    }
    c.refresh = c.refresh && !any_required(q, sleeping);
    candidates = knowing_path(q->route, candidates) & ~q->tried;
    if (candidates) {
        candidates = open_ones(candidates, &c);
        c.status = c.limited ? 429 : 503;
    }
    candidates = large_enough(q, candidates);
    c.candidates = candidates;
    endpoint_set room = with_room(q, candidates);
    c.full = room ? 0 : candidates;
    find_warmth(q, room);
    uint64_t largest = largest_pass(room);
    c.e = best_of(q, room, largest, &equal);
    if (c.e && q->key != 0) {
        stay_or_place(q, &c, room, equal);
    }
    c.turn = c.e ? endpoint_turn(c.e, largest) : 0;
    c.starting = !c.e && !c.full && endpoint_any_pending();
    choose_sleeper(q, &c, sleeping);
    return c;
}

/* ---- why not ---------------------------------------------------------------------------- */

static const char *reason_against(const struct route_query *q, const struct endpoint *e)
{
    endpoint_set known = 0, one;

    if (!e->enabled) {
        return "disabled";
    }
    if (!route_fits(e, q->route)) {
        return "wrong type";
    }
    if (e->draining) {
        return "draining";
    }
    if (!compatible(e, q)) {
        return "does not serve this kind";
    }
    if (e->wake.active) {
        return "being woken";
    }
    if (e->wake.quiet) {
        return "going to sleep";
    }
    if (!endpoint_is_up(e)) {
        return e->state == ENDPOINT_UNKNOWN ? "not probed yet" : endpoint_state_name(e->state);
    }
    if (q->tried & endpoint_bit(e)) {
        return "already tried";
    }
    if (q->model.n > 0 && q->pin.n == 0) {
        model_find(q->model, endpoint_bit(e), &one);
        known |= one;
        if (q->alias) {
            find_alias(q->alias, endpoint_bit(e), &one);
            known |= one;
        }
        if (!(known & endpoint_bit(e))) {
            return "does not serve the model";
        }
    }
    if (e->limited_until > net_now()) {
        return "rate limited";
    }
    if (!endpoint_is_open(e)) {
        return "breaker open";
    }
    return q->counts && endpoint_is_full(e) ? "at its limit of requests" : NULL;
}

void route_reasons(const struct route_query *q, struct text *t)
{
    const struct endpoint *e;
    bool first = true;
    for (int i = 0; (e = endpoint_at(i)) != NULL; i++) {
        const char *why = reason_against(q, e);
        if (!why) {
            continue;
        }
        struct text before = *t;
        text_addz(t, first ? "; endpoints: " : ", ");
        text_addz(t, e->name);
        text_addz(t, " (");
        text_addz(t, why);
        text_char(t, ')');
        if (t->full || t->cap - t->n < sizeof(", ...")) {
            *t = before; /* a large fleet and a small build */
            text_addz(t, first ? "" : ", ...");
            return;
        }
        first = false;
    }
}
