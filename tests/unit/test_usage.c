/*
 * test_usage.c - token figures in replies of all dialects.
 *
 * Every body is read whole, in pieces of 1 to 9 bytes and cut in two at every place, each piece lying flush against a
 * page that must not be touched; all ways have to give the same. What was told is written down in short, in this order:
 * in out sum cached written thought prompt(us) gen(us) rate(1/1000) model.
 */
#include "../../src/usage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

static void show(const struct usage *u, char *to, size_t cap)
{
    const struct usage_figures f = usage_figures(u);
    const struct {
        unsigned bit;
        const char *name;
        uint64_t value;
    } all[] = {
        {USAGE_INPUT, "in", f.input},
        {USAGE_OUTPUT, "out", f.output},
        {USAGE_TOTAL, "sum", f.total},
        {USAGE_CACHED, "cached", f.cached},
        {USAGE_CACHE_WRITTEN, "written", f.cache_written},
        {USAGE_REASONING, "thought", f.reasoning},
        {USAGE_PROMPT_TIME, "prompt", f.prompt_us},
        {USAGE_GENERATION_TIME, "gen", f.generation_us},
        {USAGE_RATE, "rate", f.rate},
    };
    struct text t = text_in(to, cap);

    for (size_t i = 0; i < OLLA_COUNT(all); i++) {
        if ((f.told >> all[i].bit & 1) != 0) {
            text_addz(&t, t.n > 0 ? " " : "");
            text_addz(&t, all[i].name);
            text_char(&t, ' ');
            text_u64(&t, all[i].value);
        } else {
            assert_int_equal(all[i].value, 0);
        }
    }
    if (f.model[0] != '\0') {
        text_addz(&t, t.n > 0 ? " " : "");
        text_addz(&t, f.model);
    }
    assert_false(t.full);
    text_z(&t);
}

/* In pieces of n bytes, the first one of cut bytes; 0 = no limit. */
static const char *read_cut(enum usage_kind kind, struct str body, size_t cut, size_t piece)
{
    static char out[512];
    struct usage u;

    memset(&u, 0x55, sizeof u);
    usage_start(&u, kind);
    for (size_t i = 0; i < body.n;) {
        size_t n = cut > i ? cut - i : body.n - i;
        n = piece > 0 && piece < n ? piece : n;
        usage_feed(&u, guard_copy(body.p + i, n), n);
        i += n;
    }
    show(&u, out, sizeof out);
    return out;
}

static void same(struct str body, const char *expected, const char *got)
{
    if (strcmp(expected, got) != 0) {
        fail_msg("%.*s: \"%s\", not \"%s\"", (int)body.n, body.p, got, expected);
    }
}

static void check(enum usage_kind kind, struct str body, const char *expected)
{
    same(body, expected, read_cut(kind, body, 0, 0));
    for (size_t piece = 1; piece < 10; piece++) {
        same(body, expected, read_cut(kind, body, 0, piece));
    }
    for (size_t cut = 1; cut < body.n; cut++) {
        same(body, expected, read_cut(kind, body, cut, 0));
    }
}

static void plain(const char *body, const char *expected)
{
    check(USAGE_JSON, str_of(body), expected);
}

/* '~' stands for the end of a line, whichever that is. */
static void events(const char *stream, const char *expected)
{
    static const char *const ends[] = {"\n", "\r", "\r\n"};
    static char mem[4096];

    for (size_t e = 0; e < OLLA_COUNT(ends); e++) {
        struct text t = text_in(mem, sizeof mem);
        for (const char *c = stream; *c; c++) {
            text_add(&t, *c == '~' ? str_of(ends[e]) : (struct str){c, 1});
        }
        assert_false(t.full);
        check(USAGE_EVENTS, text_str(&t), expected);
    }
}

static void lines(const char *stream, const char *expected)
{
    static char mem[4096];

    for (int crlf = 0; crlf < 2; crlf++) {
        struct text t = text_in(mem, sizeof mem);
        for (const char *c = stream; *c; c++) {
            text_add(&t, *c == '~' ? str_of(crlf ? "\r\n" : "\n") : (struct str){c, 1});
        }
        assert_false(t.full);
        check(USAGE_LINES, text_str(&t), expected);
    }
}

/* The same document in all kinds; in streams behind one that names a model, so that a line may be passed over. */
static void document(const char *doc, const char *expected)
{
    static const char first[] = "{\"model\":\"m\"}";
    static char mem[2048], with_model[256];
    struct text e = text_in(with_model, sizeof with_model);

    text_addz(&e, expected);
    text_addz(&e, expected[0] ? " m" : "m");
    text_z(&e);
    plain(doc, expected);
    lines(doc, expected);
    for (int kind = 0; kind < 3; kind++) {
        struct text t = text_in(mem, sizeof mem);
        text_addz(&t, kind == USAGE_EVENTS ? "data: " : "");
        text_addz(&t, first);
        text_addz(&t, kind == USAGE_EVENTS ? "\n\ndata: " : "\n");
        text_addz(&t, doc);
        text_addz(&t, "\n\n");
        assert_false(t.full);
        check((enum usage_kind)kind, text_str(&t), with_model);
    }
}

/* ---- dialects ------------------------------------------------------------------------- */

static void test_openai(void **state)
{
    (void)state;
    plain("{\"id\":\"c\",\"object\":\"chat.completion\",\"created\":1712345678,\"model\":\"llama3:8b\",\"choices\":[{"
          "\"index\":0,"
          "\"message\":{\"role\":\"assistant\",\"content\":\"Hi\"},\"finish_reason\":\"stop\"}],"
          "\"usage\":{\"prompt_tokens\":37,\"completion_tokens\":14,\"total_tokens\":51}}\n",
          "in 37 out 14 sum 51 llama3:8b");
    document("{\"usage\":{\"prompt_tokens\":37,\"completion_tokens\":14,\"total_tokens\":51,"
             "\"prompt_tokens_details\":{\"audio_tokens\":1,\"cached_tokens\":32},"
             "\"completion_tokens_details\":{\"reasoning_tokens\":9,\"accepted_prediction_tokens\":0}}}",
             "in 37 out 14 sum 51 cached 32 thought 9");
    /* embeddings, and rerank as some tell it */
    document("{\"data\":[{\"embedding\":[0.1,-2e-5]}],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":5}}",
             "in 5 sum 5");
    document("{\"results\":[{\"index\":0}],\"usage\":{\"total_tokens\":17}}", "sum 17");
    /* no total: the sum */
    document("{\"usage\":{\"completion_tokens\":14,\"prompt_tokens\":37}}", "in 37 out 14 sum 51");
    document("{\"usage\":{\"completion_tokens\":14}}", "out 14 sum 14");
    document("{\"usage\":{\"completion_tokens\":0}}", "out 0 sum 0");
    /* nothing told */
    document("{\"usage\":null}", "");
    document("{\"usage\":{}}", "");
    document("{\"usage\":{\"prompt_tokens\":null,\"prompt_tokens_details\":null}}", "");
    document("{}", "");
    /* audio */
    document(
        "{\"text\":\"x\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"input_token_details\":{\"text_tokens\":0,"
        "\"audio_tokens\":14},\"output_tokens\":45,\"total_tokens\":59}}",
        "in 14 out 45 sum 59");
    document("{\"text\":\"x\",\"usage\":{\"type\":\"duration\",\"seconds\":3}}", "");
}

#define CHUNK \
    "data: "  \
    "{\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]"

static void test_openai_streams(void **state)
{
    (void)state;
    events(CHUNK "}~~" CHUNK "}~~data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[],"
                 "\"usage\":{\"prompt_tokens\":37,\"completion_tokens\":2,\"total_tokens\":39}}~~data: [DONE]~~",
           "in 37 out 2 sum 39 m");
    events(CHUNK ",\"usage\":null}~~" CHUNK ",\"usage\":null}~~data: {\"choices\":[],\"usage\":{\"prompt_tokens\":37,"
                 "\"completion_tokens\":2,\"prompt_tokens_details\":null}}~~data: [DONE]~~",
           "in 37 out 2 sum 39 m");
    /* in each chunk: the last one holds, also when the stream is cut off; a null takes nothing back */
    events(CHUNK ",\"usage\":{\"prompt_tokens\":37,\"completion_tokens\":1,\"total_tokens\":38}}~~" CHUNK
                 ",\"usage\":{\"prompt_tokens\":37,\"completion_tokens\":2,\"total_tokens\":39}}~~" CHUNK
                 ",\"usage\":null}~~data: {\"usage\":{\"prompt_tok",
           "in 37 out 2 sum 39 m");
    events(CHUNK "}~~" CHUNK "}~~data: [DONE]~~", "m");
}

static void test_responses(void **state)
{
    (void)state;
    document(
        "{\"object\":\"response\",\"usage\":{\"input_tokens\":328,\"input_tokens_details\":{\"cached_tokens\":300},"
        "\"output_tokens\":52,\"output_tokens_details\":{\"reasoning_tokens\":20},\"total_tokens\":380}}",
        "in 328 out 52 sum 380 cached 300 thought 20");
    events(
        "event: response.created~data: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"model\":\"m\","
        "\"usage\":null}}~~event: response.output_text.delta~data: {\"type\":\"response.output_text.delta\","
        "\"delta\":\"x\"}~~event: response.completed~data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\","
        "\"output\":[{\"usage\":{\"input_tokens\":1}}],\"usage\":{\"input_tokens\":328,\"input_tokens_details\":"
        "{\"cached_tokens\":300},\"output_tokens\":52,\"output_tokens_details\":{\"reasoning_tokens\":20},"
        "\"total_tokens\":380}}}~~",
        "in 328 out 52 sum 380 cached 300 thought 20 m");
}

static void test_ollama(void **state)
{
    (void)state;
    document(
        "{\"response\":\"x\",\"done\":true,\"context\":[1,2],\"total_duration\":5000000000,\"load_duration\":3000000,"
        "\"prompt_eval_count\":26,\"prompt_eval_duration\":130079000,\"eval_count\":259,\"eval_duration\":4232710999}",
        "in 26 out 259 sum 285 prompt 130079 gen 4232710 rate 61190");
    lines(
        "{\"model\":\"m:1b\",\"created_at\":\"t\",\"message\":{\"role\":\"assistant\",\"content\":\"x\"},\"done\":"
        "false}~"
        "{\"model\":\"m:1b\",\"created_at\":\"t\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,"
        "\"done_reason\":\"stop\",\"prompt_eval_count\":26,\"eval_count\":10,\"eval_duration\":2000000000}~",
        "in 26 out 10 sum 36 gen 2000000 rate 5000 m:1b");
    /* each of them alone */
    document("{\"prompt_eval_count\":26}", "in 26 sum 26");
    document("{\"eval_count\":259}", "out 259 sum 259");
    document("{\"prompt_eval_duration\":130079000}", "prompt 130079");
    document("{\"eval_duration\":130079000}", "gen 130079");
    /* all of the prompt came from a cache; an embedding; no final end of a line */
    lines("{\"model\":\"m\",\"response\":\"x\"}~{\"done\":true,\"eval_count\":10,\"eval_duration\":0}",
          "out 10 sum 10 gen 0 m");
    plain("{\"model\":\"m\",\"embeddings\":[[0.1,-0.2]],\"total_duration\":9,\"prompt_eval_count\":8}", "in 8 sum 8 m");
}

static void test_llama(void **state)
{
    static const char timings[] =
        "\"timings\":{\"cache_n\":100,\"prompt_n\":20,\"prompt_ms\":30.958,\"prompt_per_token_ms\":1.5,"
        "\"prompt_per_second\":646.0,\"predicted_n\":35,\"predicted_ms\":661.0641,"
        "\"predicted_per_token_ms\":18.88,\"predicted_per_second\":52.9449}";
    char doc[512];
    struct text t = text_in(doc, sizeof doc);
    (void)state;

    text_addz(&t, "{");
    text_addz(&t, timings);
    text_addz(&t, "}");
    document(text_z(&t), "in 120 out 35 sum 155 cached 100 prompt 30958 gen 661064 rate 52944");
    /* what "usage" says counts more, whatever comes first */
    for (int first = 0; first < 2; first++) {
        t = text_in(doc, sizeof doc);
        text_addz(&t, first ? "{\"usage\":{\"prompt_tokens\":121,\"completion_tokens\":36}," : "{");
        text_addz(&t, timings);
        text_addz(&t, first ? "}" : ",\"usage\":{\"prompt_tokens\":121,\"completion_tokens\":36}}");
        document(text_z(&t), "in 121 out 36 sum 157 cached 100 prompt 30958 gen 661064 rate 52944");
    }
    /* the rate from the time, if it is not told; a rate that is no number */
    document("{\"timings\":{\"prompt_n\":1,\"predicted_n\":50,\"predicted_ms\":250}}",
             "in 1 out 50 sum 51 gen 250000 rate 200000");
    document("{\"timings\":{\"predicted_n\":50,\"predicted_ms\":0.0004,\"predicted_per_second\":null}}",
             "out 50 sum 50 gen 0");
    document("{\"timings\":{\"predicted_ms\":250}}", "gen 250000");
    /* /completion */
    document("{\"content\":\"x\",\"tokens\":[1],\"stop\":false,\"tokens_predicted\":2,\"tokens_evaluated\":9}",
             "in 9 out 2 sum 11");
    document("{\"tokens_predicted\":2}", "out 2 sum 2");
    document("{\"tokens_evaluated\":9}", "in 9 sum 9");
    document("{\"tokens_predicted\":2,\"tokens_evaluated\":9,\"tokens_cached\":10,"
             "\"timings\":{\"prompt_n\":1,\"predicted_n\":2}}",
             "in 9 out 2 sum 11");
    document("{\"model\":7,\"stats\":{\"tokens_per_second\":51.43709,\"time_to_first_token\":0.1}}", "rate 51437");
}

static void test_anthropic(void **state)
{
    (void)state;
    document("{\"type\":\"message\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}],\"stop_reason\":\"end_turn\","
             "\"usage\":{\"input_tokens\":37,\"output_tokens\":14}}",
             "in 37 out 14 sum 51");
    /* what came from a cache or went there is counted apart, and belongs to the prompt */
    document(
        "{\"usage\":{\"input_tokens\":7,\"cache_creation_input_tokens\":20,\"cache_read_input_tokens\":300,"
        "\"cache_creation\":{\"ephemeral_5m_input_tokens\":20},\"output_tokens\":14,\"service_tier\":\"standard\"}}",
        "in 327 out 14 sum 341 cached 300 written 20");
    document("{\"usage\":{\"cache_creation_input_tokens\":20,\"output_tokens\":14,\"input_tokens\":7}}",
             "in 27 out 14 sum 41 written 20");
    /* message_delta has totals, and leaves out what it has nothing new to say of */
    events("event: message_start~data: "
           "{\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"claude-x\",\"content\":[],"
           "\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}~~"
           "event: ping~data: {\"type\":\"ping\"}~~"
           "event: content_block_delta~data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"x\"}}~~"
           "event: message_delta~data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},"
           "\"usage\":{\"output_tokens\":15}}~~event: message_stop~data: {\"type\":\"message_stop\"}~~",
           "in 30 out 15 sum 45 cached 5 claude-x");
    events("data: {\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":90,\"output_tokens\":0}}}~~"
           "data: {\"type\":\"message_delta\",\"usage\":{\"input_tokens\":25,\"output_tokens\":15}}~~",
           "in 25 out 15 sum 40 m");
}

/* Servers that tell everything in all words at once. */
static void test_several_names(void **state)
{
    (void)state;
    document("{\"usage\":{\"prompt_tokens\":330,\"completion_tokens\":14,\"total_tokens\":344,"
             "\"prompt_tokens_details\":{\"cached_tokens\":300},\"cache_read_input_tokens\":300,"
             "\"cache_creation_input_tokens\":20}}",
             "in 330 out 14 sum 344 cached 300 written 20");
    document("{\"usage\":{\"prompt_tokens\":330,\"completion_tokens\":14,\"cache_read_input_tokens\":300}}",
             "in 330 out 14 sum 344 cached 300");
    document("{\"usage\":{\"prompt_tokens\":33,\"completion_tokens\":14,\"input_tokens\":0,\"output_tokens\":0,"
             "\"input_tokens_details\":null}}",
             "in 33 out 14 sum 47");
    document("{\"usage\":{\"input_tokens\":0,\"output_tokens\":0,\"prompt_tokens\":33,\"completion_tokens\":14,"
             "\"cached_tokens\":3}}",
             "in 33 out 14 sum 47 cached 3");
}

/* ---- what does not count ------------------------------------------------------------------ */

#define FIGURES "{\"prompt_tokens\":6,\"completion_tokens\":6,\"total_tokens\":6,\"input_tokens\":6}"

static void test_hostile(void **state)
{
    static const char *const docs[] = {
        "{\"choices\":[{\"message\":{\"content\":\"{\\\"usage\\\":{\\\"prompt_tokens\\\":6}}\"}}]}",
        "{\"content\":\"\\\",\\\"usage\\\":{\\\"prompt_tokens\\\":6}\",\"x\":\"\\\\\\\\\\\",\\\"eval_count\\\":6,\"}",
        "{\"a\":\"\\\\\",\"b\":\"\\\",\\\"usage\\\":" FIGURES "}\"}",
        "{\"choices\":[{\"usage\":" FIGURES ",\"eval_count\":6,\"timings\":{\"predicted_n\":6}}]}",
        "{\"choices\":[{\"message\":{\"usage\":" FIGURES "}}]}",
        "{\"delta\":{\"usage\":" FIGURES "},\"tool\":{\"arguments\":{\"usage\":" FIGURES "}}}",
        "{\"message\":{\"content\":[{\"usage\":" FIGURES "}],\"input\":{\"usage\":" FIGURES "}}}",
        "{\"message\":{\"message\":{\"usage\":" FIGURES "},\"eval_count\":6,\"timings\":{\"predicted_n\":6}}}",
        "{\"message\":[{\"usage\":" FIGURES "}],\"response\":\"{\\\"usage\\\":{\"}",
        "{\"usage\":[" FIGURES "],\"timings\":[{\"predicted_n\":6}]}",
        "{\"usage\":{\"usage\":" FIGURES ",\"x\":" FIGURES ",\"x\":[" FIGURES "]}}",
        "{\"usage\":{\"prompt_tokens_details\":" FIGURES
        ",\"completion_tokens_details\":{\"x\":{\"cached_tokens\":6}}}}",
        "{\"timings\":" FIGURES ",\"stats\":" FIGURES "}",
        "{\"usage\":{\"eval_count\":6,\"predicted_n\":6,\"tokens_per_second\":6,\"reasoning_tokens\":6}}",
        "{\"prompt_tokens\":6,\"total_tokens\":6,\"input_tokens\":6,\"cached_tokens\":6,\"predicted_n\":6}",
        "{\"Usage\":" FIGURES ",\"USAGE\":" FIGURES ",\"usage \":" FIGURES ",\" usage\":" FIGURES ",\"usag\":" FIGURES
        "}",
        "{\"usage\\u0000\":" FIGURES ",\"usag\\\\u0065\":" FIGURES ",\"usa\\u0123ge\":" FIGURES "}",
        "{\"xeval_count\":6,\"eval_counts\":6,\"prompt_eval_count_\":6,\"tokens_predicteds\":6}",
        "{\"x\":\"usage\",\"usage\":\"x\",\"y\":" FIGURES "}",
        "[{\"usage\":" FIGURES "}]",
        "\"usage\":" FIGURES,
        "x{\"usage\":" FIGURES "}",
        "{\"x\":1 \"usage\":" FIGURES "}",
        "{\"x\" \"usage\":" FIGURES "}",
        "{\"x\":,\"usage\":" FIGURES "}",
        "{\"x\":],\"usage\":" FIGURES "}",
        "{\"x\"::1,\"usage\":" FIGURES "}",
        "{x:1,\"usage\":" FIGURES "}",
        "{\"x\":[1],[\"usage\":" FIGURES "}",
        "{\"\\x\":1,\"usage\":" FIGURES "}",
        "{\"\\u12\":1,\"usage\":" FIGURES "}",
        "{\"x\":1]\"usage\":" FIGURES "}",
        "{\"x\":{\"usage\":" FIGURES,
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(docs); i++) {
        document(docs[i], "");
    }
}

/* What stands around does not matter. */
static void test_layout(void **state)
{
    (void)state;
    document(" { \"x\" : { } , \"usage\" \t: { \"prompt_tokens\" : 37 , \"x\":[ ], \"completion_tokens\":\t14 } } ",
             "in 37 out 14 sum 51");
    plain("\xef\xbb\xbf\r\n{\n  \"usage\": {\n    \"prompt_tokens\": 37\n  }\n}\n", "in 37 sum 37");
    document("{\"a\":true,\"b\":false,\"c\":null,\"d\":-1.5e-10,\"e\":\"\",\"f\":[],\"\":{},\"g\":[{\"}\":\"]\"}],"
             "\"h\":\"\\u00e9\\ud83d\\ude00\\\\\",\"usage\":{\"prompt_tokens\":37}}",
             "in 37 sum 37");
    document("{\"a-key-that-is-longer-than-any-that-means-something\":1,\"cache_creation_input_tokens_\":1,"
             "\"usage\":{\"cache_creation_input_tokens\":3,\"cache_creation_input_tokenss\":4,"
             "\"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3"
             "\xa9\xc3\xa9\":1}}",
             "written 3");
    document("{\"us\\u0061ge\":{\"prompt\\u005Ftokens\":37,\"\\u0063\\u006fmpletion_tokens\":14}}",
             "in 37 out 14 sum 51");
    document("{\"eval\\u005fcount\":14,\"\\u0070rompt_eval_cou\\u006et\":37}", "in 37 out 14 sum 51");
    document("{\"\\u0075sage\":{\"total_tokens\":14}}", "sum 14");
    document("{\"eval\\u005fcount\":14}", "out 14 sum 14");
    document("{\"e\\u0076al\\u005Fcount\":14}", "out 14 sum 14");
    document("{\"usage\":{\"cache_creation_input_\\u0074okens\":37},\"timing\\u0073\":{\"predicted_n\":2}}",
             "out 2 sum 2 written 37");
    /* of what comes twice the last one that is a figure */
    document("{\"usage\":{\"prompt_tokens\":1,\"prompt_tokens\":2},\"usage\":{\"prompt_tokens\":37}}", "in 37 sum 37");
    document("{\"usage\":{\"prompt_tokens\":37},\"usage\":{\"prompt_tokens\":-1,\"prompt_tokens\":\"2\"}}",
             "in 37 sum 37");
}

static void test_numbers(void **state)
{
    static const struct {
        const char *value, *count, *rate;
    } cases[] = {
        {"0", "0", "0"},
        {"7", "7", "7000"},
        {"1234567890", "1234567890", "1234567890000"},
        {"9007199254740992", "9007199254740992", "9007199254740992000"},
        {"9007199254740992.999", "9007199254740992", "9007199254740992999"},
        {"9007199254740993", NULL, NULL},
        {"18446744073709551616", NULL, NULL},
        {"184467440737095516160000000000000000000000000", NULL, NULL},
        {"12.0", "12", "12000"},
        {"12.99999999999999999999999999", "12", "12999"},
        {"0.05", "0", "50"},
        {"-1", NULL, NULL},
        {"-0", NULL, NULL},
        {"1e3", NULL, NULL},
        {"1E3", NULL, NULL},
        {"1.5e+3", NULL, NULL},
        {"12 3", "12", "12000"}, /* nonsense, but no crash */
        {"1.2.3", NULL, NULL},
        {"12a", NULL, NULL},
        {"12-", NULL, NULL},
        {"12]", NULL, NULL},
        {"12\"", NULL, NULL},
        {".5", NULL, NULL},
        {"+5", NULL, NULL},
        {"\"12\"", NULL, NULL},
        {"true", NULL, NULL},
        {"null", NULL, NULL},
        {"NaN", NULL, NULL},
        {"[12]", NULL, NULL},
        {"{\"prompt_tokens\":12}", NULL, NULL},
    };
    char doc[160], expected[80];
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        for (int tail = 0; tail < 3; tail++) {
            struct text t = text_in(doc, sizeof doc), e = text_in(expected, sizeof expected);
            text_addz(&t, "{\"usage\":{\"total_tokens\":");
            text_addz(&t, cases[i].value);
            text_addz(&t, tail == 0 ? "}}" : tail == 1 ? ",\"x\":1}}" : "\t}}");
            if (cases[i].count) {
                text_addz(&e, "sum ");
                text_addz(&e, cases[i].count);
            }
            document(text_z(&t), text_z(&e));
            t = text_in(doc, sizeof doc);
            e = text_in(expected, sizeof expected);
            text_addz(&t, "{\"timings\":{\"predicted_per_second\":");
            text_addz(&t, cases[i].value);
            text_addz(&t, tail == 0 ? "}}" : tail == 1 ? ",\"x\":1}}" : "\t}}");
            if (cases[i].rate) {
                text_addz(&e, "rate ");
                text_addz(&e, cases[i].rate);
            }
            document(text_z(&t), text_z(&e));
        }
    }
    /* sums and rates of the largest */
    document("{\"usage\":{\"input_tokens\":9007199254740992,\"cache_read_input_tokens\":9007199254740992,"
             "\"cache_creation_input_tokens\":9007199254740992,\"output_tokens\":9007199254740992}}",
             "in 27021597764222976 out 9007199254740992 sum 36028797018963968 cached 9007199254740992 "
             "written 9007199254740992");
    document("{\"eval_count\":9007199254740992,\"eval_duration\":1000000000}",
             "out 9007199254740992 sum 9007199254740992 gen 1000000 rate 9007199254000000000");
}

/* ---- streams -------------------------------------------------------------------------------- */

#define TOLD "{\"usage\":{\"prompt_tokens\":37}}"

static void test_events(void **state)
{
    static const struct {
        const char *stream, *expected;
    } cases[] = {
        {"data: " TOLD "~~", "in 37 sum 37"},
        {"data:" TOLD "~~", "in 37 sum 37"},
        {"data: " TOLD, "in 37 sum 37"},
        {"data: " TOLD "~", "in 37 sum 37"},
        {"data: {\"eval_count\":3", ""}, /* may be the beginning of 37 */
        {": ping~~~:~data: " TOLD "~: more~~", "in 37 sum 37"},
        {"event: x~id: 1~retry: 5~data: " TOLD "~~", "in 37 sum 37"},
        {"\xef\xbb\xbf"
         "data: " TOLD "~~",
         "in 37 sum 37"},
        {"other: " TOLD "~~event: " TOLD "~~: " TOLD "~~", ""},
        {TOLD "~~", "in 37 sum 37"},
        {"error: {\"message\":\"m\"}~~data: " TOLD "~~", "in 37 sum 37"},
        {"data: [DONE]~~data: " TOLD "~~", "in 37 sum 37"},
        {"data: nonsense {~~data: " TOLD "~~", "in 37 sum 37"},
        {"data: {\"x\":[{\"~~data: " TOLD "~~", "in 37 sum 37"},
        {"data: {\"x\":{~~data: \"usage\":{\"prompt_tokens\":6}~~", ""},
        /* data of several lines is one document; one that is over is over */
        {"data: {\"usage\":~data: {\"prompt_tokens\":~data: 37}}~~", "in 37 sum 37"},
        {"data: {\"model\":\"m\"}~~data: {\"x\":{~data: \"y\":{}~data: },\"usage\":~data: {\"prompt_tokens\":37}}~~",
         "in 37 sum 37 m"},
        {"data: {\"model\":\"m\"}~~data: {\"x\":1,~data: \"usage\":{\"prompt_tokens\":37}}~~", "in 37 sum 37 m"},
        {"data: {\"model\":\"m\"}~~data: {\"x\":[~data: " TOLD "~data: ]}~~", "m"},
        {"data: {\"model\":\"m\"}~~data: {\"x\":{}~id: 7~data: ,\"usage\":{\"prompt_tokens\":37}}~~", "in 37 sum 37 m"},
        {"data: {\"us~data: age\":{\"prompt_tokens\":37}}~~", ""},
        {"data: {\"eval_count\":3~data: 7}~~", "out 3 sum 3"},
        {"data: {\"x\":1}~data: " TOLD "~~", "in 37 sum 37"},
        {"data: x~data: " TOLD "~~", ""},
        {"data: {\"model\":\"m\"}~~data: {\"x\":1}~~data:~data: " TOLD "~~", "in 37 sum 37 m"},
        {"data: {\"model\":\"m\"}~~data: [1]~~data: x~~data: " TOLD "~~", "in 37 sum 37 m"},
        {"", ""},
        {"~~~", ""},
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        events(cases[i].stream, cases[i].expected);
    }
}

static void test_lines(void **state)
{
    (void)state;
    lines("{\"model\":\"m\"}~~  ~{\"eval_count\":3}~{\"eval_count\":4}", "out 4 sum 4 m");
    lines("{\"model\":\"m\"}~{\"eval_count\":3}~{\"eval_count\":4", "out 3 sum 3 m");
    lines("{\"eval_count\":3~7}~{\"x\":1}", "out 3 sum 3");
    lines("\xef\xbb\xbf{\"eval_count\":3}~", "out 3 sum 3");
    /* a line that is no JSON spoils no other */
    lines("{\"model\":\"m\"}~{\"x\":\"~{\"eval_count\":3}~{\"y\":[{~{\"x\":{}}~x~{\"prompt_eval_count\":4}~",
          "in 4 out 3 sum 7 m");
    lines("{\"model\":\"m\"}~{\"error\":\"unexpected\"}~", "m");
    lines("{\"x\":1} {\"eval_count\":3}~", "out 3 sum 3");
    lines("~~", "");
}

static void test_several_documents(void **state)
{
    (void)state;
    plain("{\"eval_count\":3}\n{\"prompt_eval_count\":4}\n", "in 4 out 3 sum 7");
    plain("{\"eval_count\":3}{\"eval_count\":4}", "out 4 sum 4");
    plain("{\"eval_count\":3} x {\"eval_count\":4}", "out 3 sum 3");
    plain("  \n\n {\"eval_count\":3}", "out 3 sum 3"); /* signs of life in front */
}

/* ---- the model ---------------------------------------------------------------------------------- */

static void test_model(void **state)
{
    static const char name[] = "0123456789012345678901234567890123456789012345678901234567890123456789";
    char doc[256], expected[128];
    (void)state;
    plain("{\"model\":\"a\",\"model\":\"b\"}", "a");
    plain("{\"model\":\"\"}{\"model\":\"b\"}", "b");
    plain("{\"model\":null,\"model\":[\"x\"],\"model\":{\"model\":\"x\"},\"x\":{\"model\":\"x\"},\"model\":\"b\"}",
          "b");
    plain("{\"choices\":[{\"model\":\"x\"}],\"usage\":{\"model\":\"x\"}}", "");
    plain("{\"message\":{\"model\":\"b\"}}", "b");
    plain("{\"mod\\u0065l\":\"a\\/b \\\"c\\\" \\u00e9 \\ud83d\\ude00\"}", "a/b \"c\" \xc3\xa9 \xf0\x9f\x98\x80");
    plain("{\"model\":\"a\\n\\u0007\\u0000\x7f\x01\"}", "a??\xef\xbf\xbd??");
    plain("{\"model\":\"\\ud800x\\udc00y\\ud801\"}", "\xef\xbf\xbdx\xef\xbf\xbdy\xef\xbf\xbd");
    /* one that does not end was not told */
    plain("{\"model\":\"abc", "");
    plain("{\"model\":\"abc\\x\",\"model\":\"d\"}", "");
    events("data: {\"model\":\"abcdef~~data: {\"model\":\"gh\"}~~", "gh");
    lines("{\"model\":\"abcdef~{\"eval_count\":1}", "out 1 sum 1");
    /* longer than there is room, cut between characters */
    for (size_t n = USAGE_MODEL - 6; n < USAGE_MODEL + 3; n++) {
        static const char *const ends[] = {"x",       "\xc3\xa9",      "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                           "\\u20ac", "\\ud83d\\ude00"};
        static const size_t sizes[] = {1, 2, 3, 4, 3, 4};
        static const char *const plains[] = {
            "x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
        for (size_t k = 0; k < OLLA_COUNT(ends); k++) {
            struct text t = text_in(doc, sizeof doc), e = text_in(expected, sizeof expected);
            const size_t kept = n < USAGE_MODEL - 1 ? n : USAGE_MODEL - 1;
            text_addz(&t, "{\"model\":\"");
            text_add(&t, (struct str){name, n});
            text_addz(&t, ends[k]);
            text_addz(&t, "yyyyyyyy\"}");
            text_add(&e, (struct str){name, kept});
            if (n + sizes[k] < USAGE_MODEL) {
                text_addz(&e, plains[k]);
                const size_t room = USAGE_MODEL - 1 - n - sizes[k];
                text_add(&e, (struct str){"yyyyyyyy", room < 8 ? room : 8});
            }
            plain(text_z(&t), text_z(&e));
        }
    }
}

/* ---- any input ---------------------------------------------------------------------------------------- */

/* A document that ends early tells nothing that is wrong. */
static void test_beginnings(void **state)
{
    static const char doc[] =
        "{\"id\":\"c\",\"message\":{\"usage\":{\"cache_creation_input_tokens\":20}},\"eval_duration\":98765432,"
        "\"usage\":{\"prompt_tokens\":1234,\"completion_tokens\":5678,\"total_tokens\":6912},"
        "\"timings\":{\"predicted_per_second\":12.345}}";
    struct usage u;
    unsigned told = 0;
    (void)state;
    for (size_t n = 0; n < sizeof doc; n++) {
        usage_start(&u, USAGE_JSON);
        usage_feed(&u, guard_copy(doc, n), n);
        const struct usage_figures f = usage_figures(&u);
        assert_true(f.input == 0 || f.input == 1234);
        assert_true(f.output == 0 || f.output == 5678);
        assert_true(f.total == 0 || f.total == 1234 || f.total == 6912);
        assert_true(f.generation_us == 0 || f.generation_us == 98765);
        assert_true(f.cache_written == 0 || f.cache_written == 20);
        assert_int_equal(f.told & told, told); /* nothing is taken back */
        told = f.told;
    }
    assert_int_equal(told, 1u << USAGE_INPUT | 1u << USAGE_OUTPUT | 1u << USAGE_TOTAL | 1u << USAGE_GENERATION_TIME |
                               1u << USAGE_RATE | 1u << USAGE_CACHE_WRITTEN);
}

/* Bodies with a few bytes changed: whole, where lines may be passed over, gives the same as in pieces, where none is. */
static void test_changed(void **state)
{
    static const char *const bodies[] = {
        "data: {\"model\":\"m\"}\n\ndata: "
        "{\"usage\":{\"prompt_tokens\":37,\"completion_tokens\":14},\"a\":[{\"b\":\"c\\\\\"}]}\n\n"
        "data: {\"timings\":{\"prompt_n\":2,\"predicted_ms\":5.25},\"x\":1}\n\ndata: "
        "{\"us\\u0061ge\":{\"total_tokens\":3}}\n\n",
        "{\"model\":\"m\"}\n{\"response\":\"a\",\"x\":{\"y\":[1]}}\n{\"response\":\"\",\"eval_count\":5,\"prompt_eval_"
        "count\":6}\n"
        "{\"message\":{\"usage\":{\"input_tokens\":7}}}\n",
    };
    static const char letters[] = "{}[]\",:\\u0061 \n\r1.e-_datxse";
    char body[512], whole[512];
    uint32_t seed = 1;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        const char *from = bodies[round % 2];
        const size_t n = strlen(from);
        memcpy(body, from, n);
        for (int k = 0; k < 1 + round % 3; k++) {
            seed = seed * 1664525 + 1013904223;
            body[(seed >> 8) % n] = letters[(seed >> 24) % (sizeof letters - 1)];
        }
        const enum usage_kind kind = round % 7 == 0 ? USAGE_JSON : round % 2 ? USAGE_LINES : USAGE_EVENTS;
        strcpy(whole, read_cut(kind, (struct str){body, n}, 0, 0));
        same((struct str){body, n}, whole, read_cut(kind, (struct str){body, n}, 0, 1));
        same((struct str){body, n}, whole, read_cut(kind, (struct str){body, n}, 0, 2 + (size_t)round % 60));
    }
}

/* Deep nesting, long keys and long strings need neither memory nor patience. */
static void test_large(void **state)
{
    static char part[4096];
    static const char *const fills[] = {"[", "{\"usage\":", "\\\\", "\\\"", "\"", "a", "-1,", "{}", "\\u0061"};
    static const char *const starts[] = {"{\"x\":",       "{\"x\":\"",        "{\"",
                                         "{\"model\":\"", "{\"eval_count\":", "{\"usage\":"};
    (void)state;
    assert_true(sizeof(struct usage) <= 256);
    for (size_t i = 0; i < OLLA_COUNT(fills) * OLLA_COUNT(starts) * 3; i++) {
        const char *fill = fills[i % OLLA_COUNT(fills)], *start = starts[i / OLLA_COUNT(fills) % OLLA_COUNT(starts)];
        struct usage u;
        for (size_t at = 0; at < sizeof part; at++) {
            part[at] = fill[at % strlen(fill)];
        }
        usage_start(&u, (enum usage_kind)(i / OLLA_COUNT(fills) / OLLA_COUNT(starts)));
        usage_feed(&u, start, strlen(start));
        for (int k = 0; k < 100; k++) {
            usage_feed(&u, part, sizeof part);
        }
        assert_int_equal(usage_figures(&u).told, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_openai),
        cmocka_unit_test(test_openai_streams),
        cmocka_unit_test(test_responses),
        cmocka_unit_test(test_ollama),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_anthropic),
        cmocka_unit_test(test_several_names),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_several_documents),
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_beginnings),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
