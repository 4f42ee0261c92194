/*
 * session.c - whole sessions: clients, olla, and the machines behind it, all in memory, with faults.
 *
 * The input is a script, a line for each step; what cannot be understood is passed over. Steps are about the client
 * that came last.
 *
 *   X              (first) other settings: all that can be turned on
 *   n              another client connects
 *   qLETTERS       it sends these requests (tests/fake/world.c)
 *   rTEXT          it sends this, | being a line end
 *   wNUMBER        it takes so many bytes more, then none
 *   W              it takes all again
 *   e / x          it ends its side / resets the connection
 *   b LETTER [cNUMBER] [pNUMBER] [e|x|y]   what a machine will say to the next request: a reply, cut; first so many
 *                  bytes, then a pause; then it ends or resets the connection; y: before the request is complete
 *   BTEXT          it will say this, | being a line end, and end
 *   dTEXT          the next probe gets this
 *   c[urs]...      the next connections: up, refused, silent
 *   fHEX...        faults, one digit pair for each call of the platform, until they are used up
 *   gHEX...        the same, but for reads and writes only, which are cut short or come to nothing at first
 *   tNUMBER        so many turns
 *   TNUMBER        so many ms go by
 *   JNUMBER        the clock jumps so many ms
 *   aPOOL NUMBER   the n-th get from that pool fails
 *   s[hu]          a signal: reload, report
 *
 * No script may crash olla, make it turn round without doing anything, or leave anything in use when everybody has gone;
 * and no client may take for complete what its machine has not completed. With no other steps than n, q, g and t every
 * request must be served as if nothing had been cut.
 */
#include "../fake/world.h"

#include "../../src/client.h"
#include "../../src/pool.h"

enum { CLIENTS = 4, ASKED = 12, TURNS = 20000, LONGEST_MS = 7200000 };

static struct guest {
    struct fake_fd *c;
    const struct world_request *asked[ASKED];
    size_t n;
    bool raw; /* it said something else, too */
} guests[CLIENTS];
static size_t guests_n;

static const char *faults, *faults_end;
static bool smooth;      /* nothing happens that could keep a request from being served */
static bool time_passed; /* while requests ran, so that signs of life may stand in replies */
static uint64_t started;

static void turn(void)
{
    time_passed = time_passed || (client_busy() > 0 && fake.now >= started + 10000);
    world_turn();
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static unsigned next_fault(enum fake_call call)
{
    (void)call;
    if (faults_end - faults < 2 || hex(faults[0]) < 0 || hex(faults[1]) < 0) {
        return 0;
    }
    unsigned value = (unsigned)(hex(faults[0]) * 16 + hex(faults[1]));
    faults += 2;
    return value;
}

static unsigned next_cut(enum fake_call call)
{
    return call == FAKE_READ || call == FAKE_WRITE ? next_fault(call) : 0;
}

static unsigned long number(const char *p, const char *end)
{
    unsigned long n = 0;
    while (p < end && *p >= '0' && *p <= '9' && n < 100000000) {
        n = n * 10 + (unsigned long)(*p++ - '0');
    }
    return n;
}

static struct output unfold(const char *p, const char *end)
{
    struct output out = {NULL, 0, 0};
    output_add(&out, "", 0);
    for (; p < end; p++) {
        output_add(&out, *p == '|' ? "\r\n" : p, *p == '|' ? 2 : 1);
    }
    return out;
}

static struct guest *guest(void)
{
    static const char *const from[CLIENTS] = {"127.0.0.1", "10.1.1.1", "10.1.1.1", "::1"};
    if (guests_n == 0) {
        guests[0] = (struct guest){.c = fake_client(from[0])};
        guests_n = 1;
    }
    return &guests[guests_n - 1];
}

static void another_guest(void)
{
    if (guests_n < CLIENTS) {
        guests[guests_n] = (struct guest){.c = fake_client("10.1.1.1")};
        guests_n++;
    }
}

static void ask(const char *p, const char *end)
{
    struct guest *g = guest();

    smooth = smooth && fake.now < started + 10000; /* an idle connection may be closed later on */
    for (; p < end; p++) {
        const struct world_request *r = world_request(*p);
        if (r && g->n < ASKED) {
            world_ask(g->c, r);
            g->asked[g->n++] = r;
        }
    }
}

static void reply(const char *p, const char *end)
{
    struct world_says s = {.n = 0};
    size_t n;
    while (p < end && *p == ' ') {
        p++;
    }
    s.bytes = p < end ? world_words(*p, &n) : NULL;
    if (!s.bytes) {
        return;
    }
    s.n = s.first = n;
    while (++p < end) {
        if (*p == 'c') {
            size_t cut = number(p + 1, end);
            s.n = cut < s.n ? cut : s.n;
        } else if (*p == 'p') {
            s.first = number(p + 1, end);
            s.pause_ms = 20000;
            time_passed = true;
        } else if (*p == 'e' || *p == 'x') {
            s.then = *p == 'e' ? THEN_END : THEN_RESET;
        } else if (*p == 'y') {
            s.early = true;
        }
    }
    world_will_say(&s);
}

static void raw_reply(const char *p, const char *end)
{
    struct output o = unfold(p, end);
    world_will_say(&(struct world_says){.bytes = o.p, .n = o.n, .then = THEN_END});
    output_clear(&o);
}

static void raw_request(const char *p, const char *end)
{
    struct output o = unfold(p, end);
    guest()->raw = world_any_bodies = true;
    fake_say(guest()->c, o.p, o.n);
    output_clear(&o);
}

static void probe_reply(const char *p, const char *end)
{
    struct output o = unfold(p, end);
    world_probe_says(o.p, o.n, false);
    output_clear(&o);
}

static void step(const char *p, const char *end)
{
    const char *rest = p + 1;
    smooth = smooth && strchr("nqgt", *p);
    switch (*p) {
    case 'n':
        another_guest();
        break;
    case 'q':
        ask(rest, end);
        break;
    case 'r':
        raw_request(rest, end);
        break;
    case 'w':
        guest()->c->window = number(rest, end);
        break;
    case 'W':
        guest()->c->window = SIZE_MAX;
        break;
    case 'e':
        fake_end(guest()->c);
        break;
    case 'x':
        fake_reset(guest()->c);
        break;
    case 'b':
        reply(rest, end);
        break;
    case 'B':
        raw_reply(rest, end);
        break;
    case 'd':
        probe_reply(rest, end);
        break;
    case 'c':
        for (; rest < end; rest++) {
            world_will_connect(*rest == 'r' ? FAKE_REFUSED : *rest == 's' ? FAKE_SILENT : FAKE_UP);
        }
        break;
    case 'f':
    case 'g':
        faults = rest;
        faults_end = end;
        fake.fault = *p == 'f' ? next_fault : next_cut;
        break;
    case 't':
        for (unsigned long n = number(rest, end) % 100; n > 0; n--) {
            turn();
        }
        break;
    case 'T':
        time_passed = true;
        world_settle(200, number(rest, end) % 2000000);
        break;
    case 'J':
        time_passed = true;
        fake.now += number(rest, end);
        break;
    case 'a':
        if (rest < end && *rest >= '0' && *rest < '0' + POOL_COUNT) {
            pool_fail_at((enum pool_id)(*rest - '0'), (unsigned)number(rest + 1 + (rest + 1 < end), end) % 1000);
        }
        break;
    case 's':
        if (rest < end && fake.signals_n < 4) {
            fake_signal(*rest == 'h' ? PLAT_SIG_RELOAD : PLAT_SIG_REPORT);
        }
        break;
    default:
        break;
    }
}

/* ---- the truth ------------------------------------------------------------------------------- */

static bool has(const struct output *o, const char *z)
{
    return o->p && strstr(o->p, z) != NULL;
}

enum how { AS_IT_IS, WITH_SIGNS_OF_LIFE, IN_OTHER_WORDS };

/*
 * A complete reply with such a body; with signs of life in it, or in other words, any. To be told in other words streams
 * have to say themselves that they end.
 */
static bool was_said(const struct world_reply *r, enum how how)
{
    for (size_t i = 0; i < WORLD_SAID; i++) {
        const struct world_said *s = &world_said[i];
        bool good = s->used && s->status >= 200 && s->status < 300;
        bool same = s->body.n == r->body.n && (r->body.n == 0 || memcmp(s->body.p, r->body.p, r->body.n) == 0);
        bool ended = s->ended || (s->complete && (!s->stream || how == WITH_SIGNS_OF_LIFE));
        if (how == AS_IT_IS ? s->used && s->complete && s->status == r->status && same : good && ended) {
            return true;
        }
    }
    return false;
}

/* It has all its replies, or its connection is closed. */
static bool is_served(const struct guest *g)
{
    size_t at = 0, got = 0;
    while (!g->raw && got < g->n) {
        struct world_reply r = world_read(g->c, at, g->asked[got]->head);
        at = r.next;
        output_clear(&r.body);
        if (r.end != REPLY_WHOLE || r.to_close || g->asked[got]->kind == ASKS_TUNNEL) {
            break;
        }
        got++;
    }
    return got == g->n || g->raw || (!g->c->open && !g->c->waiting);
}

/* Nobody waits for longer than the longest of all timeouts. */
static void wait_for_replies(void)
{
    uint64_t until = fake.now + LONGEST_MS;
    size_t served = 0;

    fake.quiet = false;

    for (unsigned turns = 0; served < guests_n || client_busy() > 0; turns++) {
        served = 0;
        for (size_t i = 0; fake.quiet && i < guests_n; i++) {
            served += is_served(&guests[i]);
        }
        ENSURE(turns < TURNS && fake.now < until);
        turn();
    }
}

static void check(const struct guest *g)
{
    size_t at = 0;
    for (size_t i = 0; i < g->n && !g->raw; i++) {
        struct world_reply r = world_read(g->c, at, g->asked[i]->head);
        bool whole = r.end == REPLY_WHOLE && r.status >= 200 && r.status < 300 && !g->asked[i]->head;
        if (smooth && (g->asked[i]->kind == ASKS_RELAY || g->asked[i]->kind == ASKS_MESSAGES)) {
            ENSURE(r.end == REPLY_WHOLE && r.status == (g->asked[i]->letter == 'x' ? 404 : 200));
        }
        /* After a sign of life the status is 200, whatever comes; an error is in the body then. */
        bool error = has(&r.body, "\"error\"");
        if (whole && g->asked[i]->kind == ASKS_RELAY && (!time_passed || !error)) {
            ENSURE(was_said(&r, AS_IT_IS) || (time_passed && was_said(&r, WITH_SIGNS_OF_LIFE)));
        }
        if (whole && g->asked[i]->kind == ASKS_MESSAGES && !error) {
            /* Passed as it was it may have ended with the connection: that is an end in HTTP, whatever is in the stream. */
            ENSURE(was_said(&r, AS_IT_IS) || was_said(&r, IN_OTHER_WORDS));
        }
        at = r.next;
        output_clear(&r.body);
        if (r.to_close || g->asked[i]->kind == ASKS_TUNNEL) {
            break;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const char *p = (const char *)bytes, *end = p + n;

    guests_n = 0;
    time_passed = n > 0 && *p == 'X';
    faults = faults_end = NULL;
    smooth = !time_passed;
    world_begin(time_passed);
    started = fake.now;
    for (int lines = 0; p < end && lines < 60; lines++) {
        const char *lf = memchr(p, '\n', (size_t)(end - p)), *stop = lf ? lf : end;
        if (stop > p) {
            step(p, stop);
        }
        p = lf ? lf + 1 : end;
    }
    wait_for_replies();
    world_judge();
    for (size_t i = 0; i < guests_n; i++) {
        check(&guests[i]);
    }
    world_end();
    return 0;
}
