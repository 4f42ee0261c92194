/*
 * world.c - see world.h.
 */
#define _GNU_SOURCE 1 /* memmem */

#include "world.h"

#include <stdio.h>
#include <unistd.h>

#include "../../src/client.h"
#include "../../src/conf.h"
#include "../../src/http.h"
#include "../../src/json.h"
#include "../../src/loop.h"
#include "../../src/pool.h"
#include "../../src/upstream.h"

/* ---- requests ------------------------------------------------------------------------------- */

#define POST(path) "POST " path " HTTP/1.1\r\nHost: olla\r\nContent-Type: application/json\r\n"
#define GET(path)  "GET " path " HTTP/1.1\r\nHost: olla\r\n"
#define HELLO      "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"
#define LONG       "\"messages\":[{\"role\":\"user\",\"content\":\"~\"}]"
#define FORM                                                                                          \
    "--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nRIFF\r\n--XyZ\r\n" \
    "Content-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--XyZ--\r\n"

static const struct world_request requests[] = {
    {.letter = 'c',
     .kind = ASKS_RELAY,
     .bytes = POST("/v1/chat/completions") "Content-Length: @\r\n\r\n{\"model\":\"m\"," HELLO "}"},
    {.letter = 's',
     .kind = ASKS_RELAY,
     .bytes = POST("/v1/chat/completions") "Content-Length: @\r\n\r\n{\"model\":\"m\",\"stream\":true," HELLO "}"},
    {.letter = 'S',
     .kind = ASKS_RELAY,
     .http10 = true,
     .bytes = "POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: "
              "@\r\n\r\n{\"model\":\"m\",\"stream\":true," HELLO "}"},
    {.letter = 'k',
     .kind = ASKS_RELAY,
     .bytes = POST(
         "/olla/openai/v1/chat/completions") "Transfer-Encoding: "
                                             "chunked\r\n\r\n9\r\n{\"model\":\r\n1f\r\n\"m\",\"messages\":[{\"role\":"
                                             "\"user\",\r\n12\r\n\"content\":\"hey\"}]}\r\n0\r\n\r\n"},
    {.letter = 'b',
     .kind = ASKS_RELAY,
     .filler = 20000,
     .bytes = POST("/v1/chat/completions") "Content-Length: @\r\n\r\n{" LONG ",\"model\":\"m\"}"},
    {.letter = 'B',
     .kind = ASKS_RELAY,
     .filler = 70000,
     .bytes = POST("/v1/chat/completions") "Expect: 100-continue\r\nContent-Length: @\r\n\r\n{" LONG
                                           ",\"model\":\"m\",\"stream\":true}"},
    {.letter = 'x',
     .kind = ASKS_RELAY,
     .bytes = POST("/v1/chat/completions") "Content-Length: @\r\n\r\n{\"model\":\"nobody has it\"," HELLO "}"},
    {.letter = 'q',
     .kind = ASKS_RELAY,
     .bytes = POST("/v1/chat/completions") "Content-Length: @\r\n\r\n{\"model\":\"P\"," HELLO "}"},
    {.letter = 'f',
     .kind = ASKS_RELAY,
     .bytes = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: olla\r\nContent-Type: multipart/form-data; "
              "boundary=XyZ\r\nContent-Length: @\r\n\r\n" FORM},
    {.letter = 'o',
     .kind = ASKS_RELAY,
     .bytes = POST("/api/chat") "Content-Length: @\r\n\r\n{\"model\":\"o\"," HELLO "}"},
    {.letter = 'H',
     .kind = ASKS_RELAY,
     .head = true,
     .bytes = "HEAD /olla/openai/v1/files HTTP/1.1\r\nHost: olla\r\n\r\n"},
    {.letter = 'a',
     .kind = ASKS_MESSAGES,
     .bytes = POST("/v1/messages") "anthropic-version: 2023-06-01\r\nContent-Length: "
                                   "@\r\n\r\n{\"model\":\"m\",\"max_tokens\":9," HELLO "}"},
    {.letter = 'A',
     .kind = ASKS_MESSAGES,
     .bytes = POST("/v1/messages") "X-Session-ID: abc\r\nContent-Length: "
                                   "@\r\n\r\n{\"model\":\"m\",\"max_tokens\":9,\"stream\":true," HELLO "}"},
    {.letter = 'L',
     .kind = ASKS_MESSAGES,
     .filler = 70000,
     .bytes = POST("/v1/messages") "Content-Length: @\r\n\r\n{\"model\":\"m\",\"max_tokens\":9,\"stream\":true," LONG
                                   "}"},
    {.letter = 'P',
     .kind = ASKS_MESSAGES,
     .bytes = POST("/v1/messages") "Content-Length: @\r\n\r\n{\"model\":\"p\",\"max_tokens\":9,\"stream\":true," HELLO
                                   "}"},
    {.letter = 'C',
     .kind = ASKS_LOCAL,
     .bytes = POST("/v1/messages/count_tokens") "Content-Length: @\r\n\r\n{\"model\":\"m\"," HELLO "}"},
    {.letter = 'u',
     .kind = ASKS_TUNNEL,
     .bytes = GET("/v1/realtime?model=p") "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
    {.letter = 'm', .kind = ASKS_LOCAL, .bytes = GET("/v1/models") "\r\n"},
    {.letter = 't', .kind = ASKS_LOCAL, .bytes = GET("/api/tags") "\r\n"},
    {.letter = 'r', .kind = ASKS_LOCAL, .bytes = GET("/api/ps") "\r\n"},
    {.letter = 'M', .kind = ASKS_LOCAL, .bytes = GET("/olla/models") "\r\n"},
    {.letter = 'i', .kind = ASKS_LOCAL, .bytes = GET("/internal/status") "\r\n"},
    {.letter = 'h', .kind = ASKS_LOCAL, .head = true, .bytes = "HEAD /internal/health HTTP/1.1\r\nHost: olla\r\n\r\n"},
    {.letter = 'O',
     .kind = ASKS_LOCAL,
     .bytes = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: olla\r\nOrigin: "
              "http://x\r\nAccess-Control-Request-Method: POST\r\n\r\n"},
};

const struct world_request *world_request(char letter)
{
    for (size_t i = 0; i < OLLA_COUNT(requests); i++) {
        if (requests[i].letter == letter) {
            return &requests[i];
        }
    }
    return NULL;
}

static void add_letters(struct output *to, size_t n)
{
    static const char letters[] = "Lorem ipsum dolor sit amet, consetetur sadipscing elitr, sed diam nonumy eirmod ";

    for (size_t some; n > 0; n -= some) {
        some = n < sizeof(letters) - 1 ? n : sizeof(letters) - 1;
        output_add(to, letters, some);
    }
}

void world_ask(struct fake_fd *client, const struct world_request *r)
{
    const char *body = strstr(r->bytes, "\r\n\r\n") + 4;
    struct output all = {NULL, 0, 0};
    char number[24];

    for (const char *p = r->bytes; *p; p++) {
        if (*p == '@') {
            size_t n = strlen(body) + (r->filler > 0 ? r->filler - 1 : 0);
            (void)snprintf(number, sizeof(number), "%zu", n);
            output_z(&all, number);
        } else if (*p == '~') {
            add_letters(&all, r->filler);
        } else {
            output_add(&all, p, 1);
        }
    }
    fake_say(client, all.p, all.n);
    output_clear(&all);
}

/* ---- what machines say -------------------------------------------------------------------------- */

#define OK(type)    "HTTP/1.1 200 OK\r\nContent-Type: " type "\r\n"
#define NOT(status) "HTTP/1.1 " status "\r\nContent-Type: application/json\r\n"
#define JSON        "application/json"
#define SSE         "text/event-stream"
#define CHAT                                                                                                      \
    "{\"id\":\"1\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\"," \
    "\"content\":\"hi!\"},\"finish_reason\":\"stop\"}]}"
#define DELTA(d) "data: {\"choices\":[{\"index\":0,\"delta\":{" d "}}]}\n\n"
#define FINISH   "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
#define CALL(d)  "\"tool_calls\":[{" d "}]"
#define DONE     "data: [DONE]\n\n"
#define MESSAGE                                                                                  \
    "{\"id\":\"1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"text\"," \
    "\"text\":\"hi\"}],\"stop_reason\":\"end_turn\"}"
#define ERROR "{\"error\":{\"message\":\"no\"}}"

/* framing: 'l' = its length, 'c' = chunks, which end at each \v, 'e' = to the end; 0 = as it stands. ~ = 40,000 letters. */
static const struct {
    char letter, framing;
    const char *head, *body;
} words[] = {
    {'c', 'l', OK(JSON), CHAT},
    {'s', 'c', OK(SSE), DELTA("\"content\":\"one\"") "\v" DELTA("\"content\":\"two\"") "\v" FINISH "\v" DONE},
    {'e', 'e', OK(SSE), DELTA("\"content\":\"one\"") FINISH DONE},
    {'o', 'c', OK("application/x-ndjson"), "{\"message\":{\"content\":\"a\"}}\n\v{\"done\":true}\n"},
    {'j', 0, OK(JSON) "Transfer-Encoding: chunked\r\n\r\n",
     "5\r\n{\"a\":\r\n3;x=y\r\n12}\r\n0\r\nX-Trailer: 1\r\n\r\n"},
    {'M', 'l', OK(JSON), MESSAGE},
    {'m', 'c', OK(SSE),
     "event: message_start\ndata: {\"type\":\"message_start\"}\n\n\v"
     "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"},
    {'4', 'l', NOT("429 Slow") "Retry-After: 1\r\n", ERROR},
    {'5', 'l', NOT("500 Oh"), ERROR},
    {'3', 'l', NOT("503 Busy"), ERROR},
    {'n', 'l', NOT("404 No"), ERROR},
    {'i', 'l', "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" OK(JSON), "{}"},
    {'v', 0, "HTTP/1.1 204 Nothing\r\n\r\n", ""},
    {'u', 0, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "first words"},
    {'g', 0, "SSH-2.0-OpenSSH_9.2\r\n", ""},
    {'z', 'l', OK(SSE) "Content-Encoding: gzip\r\n", "\x1f\x8b\x08"},
    {'t', 'e', OK(SSE),
     DELTA(CALL("\"index\":0,\"id\":\"t\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":\"}"))
         DELTA(CALL("\"index\":1,\"id\":\"u\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}"))
             DELTA(CALL("\"index\":0,\"function\":{\"arguments\":\"1}\"}")) FINISH DONE},
    {'b', 'l', OK("application/octet-stream"), "~"},
    {'B', 'c', OK(SSE), "data: {\"choices\":[{\"delta\":{\"content\":\"\v~\v\"}}]}\n\n" FINISH DONE},
};

static void add_filled(struct output *to, const char *p, size_t n)
{
    const char *mark = memchr(p, '~', n);
    size_t before = mark ? (size_t)(mark - p) : n;

    output_add(to, p, before);
    if (mark) {
        add_letters(to, 40000);
        output_add(to, mark + 1, n - before - 1);
    }
}

static void add_number(struct output *to, const char *format, size_t n)
{
    char mem[48];
    (void)snprintf(mem, sizeof(mem), format, n);
    output_z(to, mem);
}

static void add_body(struct output *to, char framing, const char *body)
{
    struct output piece = {NULL, 0, 0};

    if (framing == 'c') {
        output_z(to, "Transfer-Encoding: chunked\r\n\r\n");
        for (size_t n; *body; body += n + (body[n] == '\v')) {
            n = strcspn(body, "\v");
            piece.n = 0;
            add_filled(&piece, body, n);
            add_number(to, "%zx\r\n", piece.n);
            output_add(to, piece.p, piece.n);
            output_z(to, "\r\n");
        }
        output_z(to, "0\r\n\r\n");
    } else {
        add_filled(&piece, body, strlen(body));
        if (framing == 'l') {
            add_number(to, "Content-Length: %zu\r\n", piece.n);
        }
        output_z(to, framing ? "\r\n" : "");
        output_add(to, piece.p ? piece.p : "", piece.n);
    }
    output_clear(&piece);
}

const char *world_words(char letter, size_t *n)
{
    static struct output all;

    for (size_t i = 0; i < OLLA_COUNT(words); i++) {
        if (words[i].letter == letter) {
            all.n = 0;
            output_z(&all, words[i].head);
            add_body(&all, words[i].framing, words[i].body);
            *n = all.n;
            return all.p;
        }
    }
    return NULL;
}

/* ---- machines --------------------------------------------------------------------------------------- */

enum { SAYS = 32, FIRST_PORT = 9001, MACHINES = 4 };

/* What is queued; `of` of a connection's descriptor is the one it is saying. */
static struct says {
    struct world_says s;
    struct output bytes;
} queue[SAYS];
static size_t queue_n, queue_at;
static enum fake_connect connects[SAYS];
static size_t connects_n, connects_at;
static struct output probe_says;
static bool probe_says_set, probes_all;

/* What went out in answer to requests. */
struct world_said world_said[WORLD_SAID];
bool world_any_bodies;
static struct sent {
    struct output bytes;
    bool head, end; /* the request was HEAD; the connection was ended after it */
} sent[WORLD_SAID];
static size_t sent_n;

static uint64_t pause_until[FAKE_FDS]; /* of a machine's connection, 0 = it does not pause */

void world_will_say(const struct world_says *s)
{
    if (queue_n == SAYS) {
        return;
    }
    struct says *q = &queue[queue_n++];
    q->s = *s;
    q->bytes = (struct output){NULL, 0, 0};
    output_add(&q->bytes, s->bytes, s->n);
    q->s.first = s->first < s->n ? s->first : s->n;
}

void world_will_connect(enum fake_connect how)
{
    if (connects_n < SAYS) {
        connects[connects_n++] = how;
    }
}

void world_probe_says(const char *bytes, size_t n, bool all)
{
    probes_all = all;
    probe_says.n = 0;
    output_add(&probe_says, bytes, n);
    probe_says_set = true;
}

static bool starts(const struct output *o, size_t at, const char *z)
{
    return o->n - at >= strlen(z) && memcmp(o->p + at, z, strlen(z)) == 0;
}

static const char *find(const char *p, size_t n, const char *z)
{
    return n > 0 ? memmem(p, n, z, strlen(z)) : NULL;
}

static const char *list_of(unsigned machine)
{
    static const char *const lists[MACHINES] = {
        "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\"},{\"id\":\"n\",\"max_model_len\":4096}]}",
        "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\"}]}",
        "{\"models\":[{\"name\":\"o:latest\",\"size\":123,\"digest\":\"abc\",\"details\":{\"family\":\"llama\"}}]}",
        "{\"object\":\"list\",\"data\":[{\"id\":\"p\",\"meta\":{\"n_params\":7,\"n_ctx_train\":4096}}]}",
    };
    return lists[machine % MACHINES];
}

static void say_probe(struct fake_fd *c, const char *head, size_t n)
{
    static const char empty[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
    char mem[512];

    if (probe_says_set) {
        probe_says_set = probes_all;
        fake_say(c, probe_says.p, probe_says.n);
        fake_end(c);
    } else if (find(head, n, "/models ") || find(head, n, "/api/tags ") || find(head, n, "/api/ps ")) {
        const char *list = list_of((unsigned)plat_addr_port(&c->addr) - FIRST_PORT);
        int k = snprintf(mem, sizeof(mem), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(list), list);
        fake_say(c, mem, (size_t)k);
    } else {
        fake_say(c, empty, sizeof(empty) - 1);
    }
}

static struct says *default_says(const struct fake_fd *c, const char *p, size_t n)
{
    static struct says s;
    bool stream = find(p, n, "\"stream\":true") != NULL;
    char letter = find(p, n, "websocket")      ? 'u'
                  : find(p, n, "/api/chat")    ? 'o'
                  : find(p, n, "/v1/messages") ? (stream ? 'm' : 'M')
                  : stream                     ? 's'
                                               : 'c';
    size_t length;
    (void)c;
    const char *bytes = world_words(letter, &length);
    s.bytes.n = 0;
    output_add(&s.bytes, bytes, length);
    s.s = (struct world_says){.n = length, .first = length};
    return &s;
}

static void speak(struct fake_fd *c, const char *p, size_t n)
{
    struct sent *log = sent_n < WORLD_SAID ? &sent[sent_n++] : NULL;

    fake_say(c, p, n);
    if (log) {
        output_add(&log->bytes, p, n);
    }
    c->of = log;
}

static void stop_speaking(struct fake_fd *c, enum world_then then)
{
    struct sent *log = c->of;
    if (then == THEN_END) {
        fake_end(c);
    } else if (then == THEN_RESET) {
        fake_reset(c);
    }
    if (log) {
        log->end = then == THEN_END;
    }
}

enum { TUNNEL = -1 }; /* the mode of a connection whose machine says what it hears; others: see go_on */

/* The rest of what a machine says, after its pause; mode: 1 + the number in the queue. */
static bool go_on(struct fake_fd *c)
{
    struct says *q = &queue[c->mode - 1];
    struct sent *log = c->of;
    size_t slot = (size_t)(c - fake.fds);

    if (fake.now < pause_until[slot]) {
        return false;
    }
    fake_say(c, q->bytes.p + q->s.first, q->bytes.n - q->s.first);
    if (log) {
        output_add(&log->bytes, q->bytes.p + q->s.first, q->bytes.n - q->s.first);
    }
    stop_speaking(c, q->s.then);
    c->mode = starts(&q->bytes, 0, "HTTP/1.1 101") ? TUNNEL : 0;
    pause_until[slot] = 0;
    return true;
}

/* What comes of the clients' JSON is JSON, as long as was said. */
static void check_body(const char *head, size_t head_n, size_t n, size_t length)
{
    struct json_check check;

    if (world_any_bodies || n < length || !find(head, head_n, "application/json")) {
        return;
    }
    json_check_start(&check, NULL, NULL);
    json_check_feed(&check, head + head_n, n);
    ENSURE(check.done && !check.bad);
}

/* A machine looks at what has come on one of its connections. */
static bool serve(struct fake_fd *c)
{
    size_t n = c->from.n - c->seen, body = 0, head;

    if (c->mode == TUNNEL) {
        fake_say(c, n > 0 ? c->from.p + c->seen : "", n);
        c->seen = c->from.n;
        return n > 0;
    }
    if (c->mode > 0) {
        return go_on(c);
    }
    const char *p = n > 0 ? c->from.p + c->seen : NULL, *end = find(p, n, "\r\n\r\n");
    if (!end || c->to_end || c->to_reset) {
        return false;
    }
    head = (size_t)(end + 4 - p);
    const char *length = find(p, head, "\r\nContent-Length: ");
    body = length ? strtoul(length + 18, NULL, 10) : 0;
    ENSURE(!find(p, head, "\r\nTransfer-Encoding:") &&
           (length || body == 0)); /* olla knows the length of all it sends */
    if (starts(&c->from, c->seen, "GET ") && find(p, head, "User-Agent: olla-")) {
        c->seen += head;
        say_probe(c, p, head);
        return true;
    }
    bool early = queue_at < queue_n && queue[queue_at].s.early;
    if (n < head + body && !early) {
        return false;
    }
    check_body(p, head, n - head < body ? n - head : body, body);
    struct says *q = queue_at < queue_n ? &queue[queue_at] : default_says(c, p, n);
    size_t index = queue_at < queue_n ? queue_at++ : SAYS;
    bool upgraded = starts(&q->bytes, 0, "HTTP/1.1 101");
    bool is_head = starts(&c->from, c->seen, "HEAD ");
    c->seen = early || upgraded ? c->from.n : c->seen + head + body;
    size_t first = q->s.pause_ms > 0 ? q->s.first : q->bytes.n;
    speak(c, q->bytes.p, first);
    if (c->of) {
        ((struct sent *)c->of)->head = is_head;
    }
    if (first < q->bytes.n || q->s.pause_ms > 0) {
        c->mode = 1 + (int)index;
        pause_until[c - fake.fds] = fake.now + q->s.pause_ms;
        return true;
    }
    c->mode = upgraded ? TUNNEL : 0;
    stop_speaking(c, q->s.then);
    return true;
}

static bool peers(void)
{
    bool did = false;
    for (size_t i = 0; i < fake.n; i++) {
        struct fake_fd *c = &fake.fds[i];
        if (c->kind == FAKE_BACKEND && c->open && c->connect == FAKE_UP) {
            did = serve(c) || did;
        }
    }
    return did;
}

static uint64_t next_pause(void)
{
    uint64_t next = 0;
    for (size_t i = 0; i < fake.n; i++) {
        if (pause_until[i] > 0 && fake.fds[i].open && fake.fds[i].mode > 0 && (next == 0 || pause_until[i] < next)) {
            next = pause_until[i];
        }
    }
    return next;
}

static enum fake_connect connected(struct fake_fd *c)
{
    unsigned port = plat_addr_port(&c->addr);

    pause_until[c - fake.fds] = 0;
    if (port < FIRST_PORT || port >= FIRST_PORT + MACHINES) {
        return FAKE_REFUSED;
    }
    return connects_at < connects_n ? connects[connects_at++] : FAKE_UP;
}

/* With what the rest of the program has for it: other targets see to it that this reads right. */
void world_judge(void)
{
    for (size_t i = 0; i < sent_n; i++) {
        struct world_said *w = &world_said[i];
        struct http_response r;
        struct http_error err;
        struct http_body b;
        size_t at = 0, out = 0;

        output_clear(&w->body);
        *w = (struct world_said){.used = true};
        for (;;) {
            struct str in = {sent[i].bytes.p + at, sent[i].bytes.n - at};
            size_t scanned = 0;
            long n = in.n > 0 ? http_find_end(in, &scanned, &err) : OLLA_AGAIN;
            struct str head = {in.p, n > 0 ? (size_t)n : 0};
            if (n <= 0 || http_parse_response(head, sent[i].head ? STR("HEAD") : STR("POST"), &r, &err) != OLLA_OK) {
                break;
            }
            at += (size_t)n;
            if (r.status >= 200 || r.status == 101) {
                w->status = r.status;
                break;
            }
        }
        if (w->status == 0 || w->status == 101) {
            continue;
        }
        output_add(&w->body, sent[i].bytes.p + at, sent[i].bytes.n - at);
        http_body_start(&b, r.framing, r.length);
        long used = http_body_decode(&b, w->body.p, w->body.n, &out);
        w->body.n = out;
        w->complete = used >= 0 && (b.done || (sent[i].end && http_body_at_eof(&b)));
        w->stream = find(w->body.p, out, "data:");
        w->ended = find(w->body.p, out, "[DONE]") || find(w->body.p, out, "finish_reason") ||
                   find(w->body.p, out, "message_stop");
    }
}

/* ---- replies as a client sees them ------------------------------------------------------------------ */

static const char *header(const char *head, size_t n, const char *name)
{
    size_t k = strlen(name);
    for (const char *p = head; (p = find(p, n - (size_t)(p - head), "\r\n")) != NULL;) {
        p += 2;
        if ((size_t)(head + n - p) > k && str_ieq((struct str){p, k}, (struct str){name, k}) && p[k] == ':') {
            return p + k + 1 + (p[k + 1] == ' ');
        }
    }
    return NULL;
}

/* Chunks as olla writes them: no extensions, no trailers. */
static size_t read_chunks(const struct output *o, size_t at, struct world_reply *r)
{
    for (;;) {
        size_t size = 0, from = at;
        while (at < o->n && str_hex_value(o->p[at]) >= 0) {
            size = size * 16 + (size_t)str_hex_value(o->p[at++]);
        }
        if (at + 2 > o->n) {
            return at;
        }
        ENSURE(at > from && memcmp(o->p + at, "\r\n", 2) == 0);
        at += 2;
        size_t some = size < o->n - at ? size : o->n - at;
        output_add(&r->body, o->p + at, some);
        at += some;
        if (some < size || at + 2 > o->n) {
            return at;
        }
        ENSURE(memcmp(o->p + at, "\r\n", 2) == 0);
        at += 2;
        if (size == 0) {
            r->end = REPLY_WHOLE;
            return at;
        }
    }
}

struct world_reply world_read(const struct fake_fd *client, size_t at, bool head)
{
    const struct output *o = &client->from;
    struct world_reply r = {.end = REPLY_NONE, .next = at};
    const char *end = NULL;

    for (;; at = (size_t)(end + 4 - o->p)) {
        end = at < o->n ? find(o->p + at, o->n - at, "\r\n\r\n") : NULL;
        r.end = at < o->n ? REPLY_PART : REPLY_NONE;
        if (!end) {
            r.next = o->n;
            return r;
        }
        ENSURE(starts(o, at, "HTTP/1.1 ") && o->n - at > 12);
        r.status = atoi(o->p + at + 9);
        ENSURE(r.status >= 100 && r.status <= 599);
        if (r.status >= 200 || r.status == 101) {
            break;
        }
    }
    size_t n = (size_t)(end + 4 - (o->p + at));
    const char *p = o->p + at, *length = header(p, n, "Content-Length"), *coding = header(p, n, "Transfer-Encoding");
    r.proxied = header(p, n, "X-Olla-Endpoint") != NULL;
    ENSURE(!(length && coding));
    at += n;
    if (head || r.status == 204 || r.status == 304) {
        r.end = REPLY_WHOLE;
    } else if (r.status == 101) {
        output_add(&r.body, o->p + at, o->n - at);
        at = o->n;
        r.end = !client->open && !client->aborted ? REPLY_WHOLE : REPLY_PART;
    } else if (coding) {
        at = read_chunks(o, at, &r);
    } else if (length) {
        size_t want = strtoul(length, NULL, 10), have = o->n - at < want ? o->n - at : want;
        output_add(&r.body, o->p + at, have);
        r.end = have == want ? REPLY_WHOLE : REPLY_PART;
        at += have;
    } else {
        r.to_close = true;
        output_add(&r.body, o->p + at, o->n - at);
        at = o->n;
        r.end = client->from_end && !client->aborted ? REPLY_WHOLE : REPLY_PART;
    }
    r.next = at;
    return r;
}

/* ---- a run ---------------------------------------------------------------------------------------------- */

#define MACHINE(name, port, type, more) \
    "[endpoint:" name "]\nurl = http://10.0.0.1:" port "\ntype = " type "\ncheck_interval = 60s\n" more
#define FLEET                                     \
    MACHINE("a", "9001", "openai-compatible", "") \
    MACHINE("b", "9002", "openai-compatible", "") \
    MACHINE("c", "9003", "ollama", "") MACHINE("d", "9004", "llamacpp", "max_concurrent = 1\n")
#define START "[server]\nhost = 127.0.0.1\nport = 40114\n[proxy]\nspool_dir = /spool\n"

enum { CONF_NONE = 0, CONF_PLAIN, CONF_RICH, CONFS };

static const char *const conf_texts[CONFS] = {
    [CONF_NONE] = START "[endpoint:none]\nurl = http://10.0.0.1:9001\nenabled = false\n",
    [CONF_PLAIN] = START FLEET,
    [CONF_RICH] = START "engine = sherpa\nload_balancer = round-robin\nprofile = standard\n"
                        "[proxy.heartbeat]\ninterval = 1s\njson = true\n"
                        "[proxy.queue]\nmax_waiting = 1\ntimeout = 5s\n"
                        "[server.cors]\nenabled = true\n"
                        "[translators.anthropic.inspector]\nenabled = true\n"
                        "[model_registry.routing_strategy]\ntype = discovery\n"
                        "[model_registry.routing_strategy.options]\nfallback_behavior = all\n"
                        "discovery_refresh_on_miss = true\n" FLEET,
};

static struct conf confs[2];
static char path[] = "/tmp/olla-world-XXXXXX";
static int file = -1; /* at that path */

static void complain(bool error, const char *line)
{
    (void)fprintf(stderr, "%s: %s\n", error ? "error" : "warning", line);
    ENSURE(!error);
}

static void remove_file(void)
{
    (void)unlink(path);
}

const char *world_write(const char *text, size_t n)
{
    if (file == -1) {
        file = mkstemp(path);
        (void)atexit(remove_file);
    }
    ENSURE(file != -1 && ftruncate(file, 0) == 0 && pwrite(file, text, n, 0) == (ssize_t)n);
    return path;
}

/* Once for all runs. */
static void open_world(void)
{
    static bool opened;
    const char *text = conf_texts[CONF_NONE];

    if (opened) {
        return;
    }
    opened = true;
    fake.now = 1000;
    ENSURE(conf_load(&confs[0], world_write(text, strlen(text)), complain) == OLLA_OK);
    ENSURE(loop_open(&confs[0], &confs[1], plat_signals_open()));
}

void world_turn(void)
{
    loop_turn();
}

static void take_signals(void)
{
    for (int i = 0; i < 50 && fake.signals_n > 0; i++) {
        world_turn();
    }
    ENSURE(fake.signals_n == 0);
}

static bool use(const char *text, size_t n)
{
    take_signals(); /* another reload would put the old one in its place again */
    const struct conf *was = conf_now;
    world_write(text, n);
    fake_signal(PLAT_SIG_RELOAD);
    take_signals();
    return conf_now != was;
}

bool world_begin_with(const char *text, size_t n)
{
    fake.peers = peers;
    fake.wake = next_pause;
    fake.connected = connected;
    open_world();
    return use(text, n);
}

void world_begin(bool rich)
{
    const char *text = conf_texts[rich ? CONF_RICH : CONF_PLAIN];

    ENSURE(world_begin_with(text, strlen(text)));
    for (int i = 0; i < 200 && endpoint_any_pending(); i++) {
        world_turn();
    }
    ENSURE(!endpoint_any_pending() && endpoint_count() == MACHINES);
    for (int i = 0; i < MACHINES; i++) {
        ENSURE(endpoint_is_up(endpoint_at(i)));
    }
}

bool world_settle(unsigned turns, uint64_t ms)
{
    uint64_t until = fake.now + ms;

    fake.quiet = false;
    for (unsigned i = 0; i < turns; i++) {
        if (fake.now >= until || (client_busy() == 0 && fake.quiet)) {
            return true;
        }
        world_turn();
    }
    return false;
}

void world_forget(void)
{
    for (size_t i = 0; i < queue_n; i++) {
        output_clear(&queue[i].bytes);
    }
    for (size_t i = 0; i < sent_n; i++) {
        output_clear(&sent[i].bytes);
        output_clear(&world_said[i].body);
        memset(&sent[i], 0, sizeof(sent[i]));
        memset(&world_said[i], 0, sizeof(world_said[i]));
    }
    queue_n = queue_at = sent_n = connects_n = connects_at = 0;
    probe_says_set = false;
    world_any_bodies = false;
    fake_clear();
}

void world_end(void)
{
    fake.fault = NULL;
    for (int i = 0; i < POOL_COUNT; i++) {
        pool_fail_at((enum pool_id)i, 0);
    }
    for (size_t i = 0; i < fake.n; i++) {
        struct fake_fd *f = &fake.fds[i];
        if (f->kind == FAKE_CLIENT) {
            f->window = SIZE_MAX;
            fake_end(f);
        }
    }
    unsigned turns = 0;
    while (client_count() > 0 || fake_open(FAKE_CLIENT) > 0 || fake_waiting() > 0) {
        world_turn();
        ENSURE(++turns < 3000);
    }
    ENSURE(use(conf_texts[CONF_NONE], strlen(conf_texts[CONF_NONE])));
    for (int i = 0; i < 3; i++) {
        world_turn();
    }
    for (int i = 0; i < POOL_COUNT; i++) {
        const struct pool_stats *p = pool_stats((enum pool_id)i);
        if (p->used != 0) {
            (void)fprintf(stderr, "pool %s: %zu still in use\n", p->name, p->used);
        }
        ENSURE(p->used == 0);
    }
    ENSURE(fake_open(FAKE_BACKEND) == 0 && fake_open(FAKE_SPOOL) == 0 && fake_open(FAKE_RECORD) == 0);
    ENSURE(upstream_idle_count() == 0 && client_busy() == 0);
    world_forget();
}
