/*
 * lists.c - any bytes as what a backend tells about its models. The first byte says what kind of server olla takes it
 * for, the second how the bytes are cut. All that olla asks for gets them: health check, list, load, what else there is.
 *
 * In pieces they give the same models in the same state as at once. All pages about models can be written then, and
 * when the server is gone nothing is left of them.
 */
#include "../fake/world.h"
#include "cuts.h"

#include "../../src/model.h"

static struct cuts cuts;

static unsigned cut_reads(enum fake_call call)
{
    return call == FAKE_READ ? (unsigned)(cuts_next(&cuts, 40) - 1) * 4 + 2 : 0;
}

static void add_number(struct output *to, const char *name, uint64_t value)
{
    char mem[80];
    (void)snprintf(mem, sizeof(mem), "%s %llu\n", name, (unsigned long long)value);
    output_z(to, mem);
}

/* All that olla has understood. */
static void tell(struct output *to)
{
    const struct endpoint *e = endpoint_at(0);
    const struct model *m;

    output_z(to, e->profile->name);
    add_number(to, "state", (uint64_t)e->state);
    add_number(to, "models", e->models);
    add_number(to, "only context", e->only_context);
    add_number(to, "context", e->extra.context);
    add_number(to, "said", e->extra.said);
    add_number(to, "load", e->load.known + 2u * e->load.busy);
    output_add(to, (const char *)e->load.window, sizeof(e->load.window));
    output_z(to, e->extra.version);
    for (size_t i = 0; (m = model_at(i)) != NULL; i++) {
        ENSURE(m->now.serves == endpoint_bit(e) && m->facts.name[0]);
        ENSURE(memchr(m->facts.name, '\0', sizeof(m->facts.name)));
        output_add(to, (const char *)&m->facts, sizeof(m->facts));
        add_number(to, "is", (uint64_t)model_state_at(m, e));
    }
    ENSURE(model_count() == e->models);
}

static void ask_for_pages(void)
{
    for (const char *letter = "mtMri"; *letter; letter++) {
        struct fake_fd *c = fake_client("127.0.0.1");
        world_ask(c, world_request(*letter));
        ENSURE(world_settle(2000, 100000));
        struct world_reply r = world_read(c, 0, false);
        ENSURE(r.end == REPLY_WHOLE && (r.status == 200 || r.status >= 400));
        output_clear(&r.body);
        fake_end(c);
    }
}

static struct output run(const char *type, const char *p, size_t n, unsigned seed)
{
    static const char ok[] = "HTTP/1.1 200 OK\r\n\r\n";
    char conf[256];
    struct output all = {NULL, 0, 0}, told = {NULL, 0, 0};

    output_z(&all, ok);
    output_add(&all, p, n);
    int k = snprintf(conf, sizeof(conf),
                     "[server]\nhost = 127.0.0.1\n[endpoint:a]\nurl = http://10.0.0.1:9001\ntype = %s\n"
                     "check_interval = 10s\n",
                     type);
    world_probe_says(all.p, all.n, true);
    ENSURE(world_begin_with(conf, (size_t)k));
    cuts = cuts_of(seed);
    fake.fault = seed > 0 ? cut_reads : NULL;
    uint64_t until = fake.now + 25000;
    for (int turns = 0; fake.now < until; turns++) {
        world_turn();
        ENSURE(turns < 30000);
    }
    tell(&told);
    fake.fault = NULL;
    if (seed == 0) {
        ask_for_pages();
    }
    world_end();
    ENSURE(model_count() == 0);
    output_clear(&all);
    return told;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const char *const types[] = {"openai-compatible", "ollama", "lm-studio", "llamacpp",
                                        "lemonade",          "vllm",   "auto",      "gpustack"};
    if (n < 2) {
        return 0;
    }
    const char *type = types[bytes[0] % OLLA_COUNT(types)], *p = (const char *)bytes + 2;
    struct output whole = run(type, p, n - 2, 0), cut = run(type, p, n - 2, 1 + bytes[1]);

    ENSURE(whole.n == cut.n && memcmp(whole.p, cut.p, cut.n) == 0);
    output_clear(&whole);
    output_clear(&cut);
    return 0;
}
