/*
 * test_anthropic_reply.c - chat completions told as messages.
 *
 * Texts are written with ' instead of ". Every reply is told whole and cut in pieces of many sizes, with windows of many
 * sizes and little room; all ways give the same bytes, as many as were counted. Streams are compared in short: S
 * message_start, +text +think +tool(id,name) the begin of a block, then its deltas as they are written, - its end,
 * D(reason,sequence input/output/cached) message_delta, E message_stop. What clients insist on is checked on the way:
 * see telling.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "telling.h"

static const struct {
    size_t cut, window, room;
} ways[] = {{0, 0, 4096}, {1, 1, 8}, {2, 2, 9}, {3, 3, 13}, {5, 1, 128}, {7, 7, 8}, {16, 0, 100}, {64, 2, 11}};

/* ' becomes ". */
static const char *json(const char *text)
{
    static struct output mem[4];
    static unsigned turn;
    struct output *o = &mem[turn++ % OLLA_COUNT(mem)];

    o->n = 0;
    output_z(o, text);
    for (char *c = o->p; *c; c++) {
        *c = *c == '\'' ? '"' : *c;
    }
    return o->p;
}

/* What is different from the usual, for the replies to come. */
static struct reply_told usual;

static struct reply_told *tell(const char *text, bool frames, bool events, size_t way)
{
    static struct reply_told t;

    reply_clear(&t);
    t = usual;
    t.frames = frames;
    t.events = events;
    t.cut = ways[way].cut;
    t.window = ways[way].window;
    t.room = ways[way].room;
    reply_tell(&t, text, strlen(text));
    return &t;
}

/* ---- whole replies -------------------------------------------------------------- */

#define ID "{'id':'msg_011111111111111111111111','type':'message','role':'assistant','model':'m',"

static void check_plain(const char *reply, const char *expected)
{
    static struct output whole;
    const char *doc = json(reply);

    whole.n = 0;
    output_z(&whole, ID);
    output_z(&whole, expected);
    output_z(&whole, "}\n");
    const char *want = json(whole.p);
    for (size_t i = 0; i < OLLA_COUNT(ways); i++) {
        struct reply_told *t = tell(doc, false, false, i);
        if (t->failed || strcmp(t->out.p, want) != 0) {
            fail_msg("%s\ngives %s\nand not %s", doc, t->failed ? t->message : t->out.p, want);
        }
        assert_true(is_json(t->out.p, t->out.n));
    }
}

/* The same reply for a client that wants a stream, or frames. */
static void check_events(const char *reply, bool frames, const char *expected)
{
    static struct protocol p;
    const char *doc = json(reply), *want = json(expected);

    for (size_t i = 0; i < OLLA_COUNT(ways); i++) {
        struct reply_told *t = tell(doc, frames, true, i);
        if (t->failed) {
            fail_msg("%s\nfails: %s", doc, t->message);
        }
        protocol_read(&p, t->out.p, t->out.n, false);
        if (strcmp(p.said.p, want) != 0) {
            fail_msg("%s\ngives %s\nand not %s", doc, p.said.p, want);
        }
        output_clear(&p.said);
    }
}

#define MESSAGE(m, f)                                                      \
    "{'id':'x','choices':[{'index':0,'message':{" m "},'finish_reason':" f \
    "}],'usage':{'prompt_tokens':37,'completion_tokens':14}}"
#define USAGE_TOLD                                                                                                     \
    ",'stop_sequence':null,'usage':{'input_tokens':37,'output_tokens':14,'cache_creation_input_tokens':0,'cache_read_" \
    "input_"                                                                                                           \
    "tokens':0}"
#define FUNCTION(id, name, args) "{'id':'" id "','type':'function','function':{'name':'" name "','arguments':" args "}}"
#define CALLS(args)              "'tool_calls':[" FUNCTION("c1", "f", args) "]"
#define USE(input)               "{'type':'tool_use','id':'c1','name':'f','input':" input "}"

static const struct {
    const char *reply, *content, *stop;
    const char *events; /* behind S, before D(stop... */
} replies[] = {
    {MESSAGE("'role':'assistant','content':'Hi'", "'stop'"), "{'type':'text','text':'Hi'}", "end_turn", "+text Hi - "},
    {MESSAGE("'content':'\\u00e9\\ud83d\\ude00\\'\\n<'", "'stop'"),
     "{'type':'text','text':'\\u00e9\\ud83d\\ude00\\'\\n<'}", "end_turn", "+text \\u00e9\\ud83d\\ude00\\'\\n< - "},
    {MESSAGE("'content':''", "'stop'"), "", "end_turn", ""},
    {MESSAGE("'content':null", "'length'"), "", "max_tokens", ""},
    {MESSAGE("", "null"), "", "end_turn", ""},
    {MESSAGE("'content':[{'type':'text','text':'a'},{'type':'image'},{'type':'text','text':'b'}]", "'stop'"),
     "{'type':'text','text':'ab'}", "end_turn", "+text a b - "},
    {MESSAGE("'content':[]", "'stop'"), "", "end_turn", ""},
    {MESSAGE("'reasoning_content':'think','content':'ans'", "'stop'"),
     "{'type':'thinking','thinking':'think','signature':'b2xsYQ=='},{'type':'text','text':'ans'}", "end_turn",
     "+think think sig - +text ans - "},
    {MESSAGE("'reasoning':'a','reasoning_content':'b','content':null", "'eos'"),
     "{'type':'thinking','thinking':'a','signature':'b2xsYQ=='}", "end_turn", "+think a sig - "},
    {MESSAGE("'reasoning':'','reasoning_content':'b'", "''"),
     "{'type':'thinking','thinking':'b','signature':'b2xsYQ=='}", "end_turn", "+think b sig - "},
    {MESSAGE("'content':null,'refusal':'no'", "'content_filter'"), "{'type':'text','text':'no'}", "refusal",
     "+text no - "},
    {MESSAGE("'content':'x'", "'content_filter'"), "{'type':'text','text':'x'}", "refusal", "+text x - "},
    {MESSAGE("'refusal':'no'", "'stop'"), "{'type':'text','text':'no'}", "refusal", "+text no - "},
    /* calls */
    {MESSAGE("'content':'t'," CALLS("'{\\'x\\':1.0,\\'big\\':12345678901234567890}'"), "'stop'"),
     "{'type':'text','text':'t'}," USE("{'x':1.0,'big':12345678901234567890}"), "tool_use",
     "+text t - +tool(c1,f) {\\'x\\':1.0,\\'big\\':12345678901234567890} - "},
    {MESSAGE(CALLS("'{}'"), "'tool_calls'"), USE("{}"), "tool_use", "+tool(c1,f) {} - "},
    {MESSAGE(CALLS("' {\\n} '"), "'tool_calls'"), USE(" {\n} "), "tool_use", "+tool(c1,f)  {\\n}  - "},
    {MESSAGE(CALLS("'not json'"), "'tool_calls'"), USE("{'_raw':'not json'}"), "tool_use",
     "+tool(c1,f) {\\'_raw\\':\\'not json\\'} - "},
    {MESSAGE(CALLS("'a\\'b\\\\'"), "'tool_calls'"), USE("{'_raw':'a\\'b\\\\'}"), "tool_use",
     "+tool(c1,f) {\\'_raw\\':\\'a\\\\\\'b\\\\\\\\\\'} - "},
    {MESSAGE(CALLS("''"), "'tool_calls'"), USE("{}"), "tool_use", "+tool(c1,f) {} - "},
    {MESSAGE(CALLS("'[1]'"), "'tool_calls'"), USE("{'_raw':'[1]'}"), "tool_use",
     "+tool(c1,f) {\\'_raw\\':\\'[1]\\'} - "},
    {MESSAGE(CALLS("'null'"), "'tool_calls'"), USE("{}"), "tool_use", "+tool(c1,f) {} - "},
    {MESSAGE(CALLS("null"), "'tool_calls'"), USE("{}"), "tool_use", "+tool(c1,f) {} - "},
    {MESSAGE(CALLS("{'x': 'y\\n'}"), "'tool_calls'"), USE("{'x': 'y\\n'}"), "tool_use",
     "+tool(c1,f) {\\'x\\': \\'y\\\\n\\'} - "},
    {MESSAGE(CALLS("'{\\'x\\':\\'\\\\u00e9\\u00e9\\'}'"), "'length'"), USE("{'x':'\\u00e9\xc3\xa9'}"), "max_tokens",
     "+tool(c1,f) {\\'x\\':\\'\\\\u00e9\\u00e9\\'} - "},
    /* a half of a pair behind the object makes it none */
    {MESSAGE(CALLS("'{}\\ud800'"), "'tool_calls'"), USE("{'_raw':'{}\\ud800'}"), "tool_use",
     "+tool(c1,f) {\\'_raw\\':\\'{}\\\\ud800\\'} - "},
    {MESSAGE(CALLS("'{} x'"), "'tool_calls'"), USE("{'_raw':'{} x'}"), "tool_use",
     "+tool(c1,f) {\\'_raw\\':\\'{} x\\'} - "},
    {MESSAGE("'tool_calls':[" FUNCTION("a", "f", "'{}'") "," FUNCTION("b", "g", "'{}'") "]", "'function_call'"),
     "{'type':'tool_use','id':'a','name':'f','input':{}},{'type':'tool_use','id':'b','name':'g','input':{}}",
     "tool_use", "+tool(a,f) {} - +tool(b,g) {} - "},
    {MESSAGE("'tool_calls':[" FUNCTION("a", "", "'{}'") ",{},7," FUNCTION("b", "g", "'{}'") "]", "'stop'"),
     "{'type':'tool_use','id':'b','name':'g','input':{}}", "tool_use", "+tool(b,g) {} - "},
    {MESSAGE("'content':'','tool_calls':[]", "'tool_calls'"), "", "tool_use", ""},
};

static void test_whole(void **state)
{
    static struct output o;
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(replies); i++) {
        o.n = 0;
        output_z(&o, "'content':[");
        output_z(&o, replies[i].content);
        output_z(&o, "],'stop_reason':'");
        output_z(&o, replies[i].stop);
        output_z(&o, "'" USAGE_TOLD);
        check_plain(replies[i].reply, o.p);
        o.n = 0;
        output_z(&o, "S ");
        output_z(&o, replies[i].events);
        output_z(&o, "D(");
        output_z(&o, replies[i].stop);
        output_z(&o, " 37/14/0) E");
        check_events(replies[i].reply, false, o.p);
    }
}

static void test_whole_without_id(void **state)
{
    (void)state;
    check_plain(MESSAGE("'tool_calls':[{'function':{'name':'f','arguments':'{}'}},{'id':null,'function':{'name':'g'}},"
                        "{'id':'','function':{'name':'h'}}]",
                        "'stop'"),
                "'content':[{'type':'tool_use','id':'toolu_011111111111111111111112','name':'f','input':{}},"
                "{'type':'tool_use','id':'toolu_011111111111111111111113','name':'g','input':{}},"
                "{'type':'tool_use','id':'toolu_011111111111111111111114','name':'h','input':{}}],'stop_reason':'tool_"
                "use'" USAGE_TOLD);
}

static void test_usage(void **state)
{
    (void)state;
    usual.estimate = 9;
    check_events("{'choices':[{'message':{'content':'12345678'}}],'usage':{'prompt_tokens':10,'completion_tokens':3,"
                 "'prompt_tokens_details':{'cached_tokens':4}}}",
                 false, "S +text 12345678 - D(end_turn 6/3/4) E");
    check_events("{'choices':[{'message':{'content':'12345678'}}],'usage':{'prompt_tokens':10,'prompt_tokens_details':"
                 "{'cached_tokens':40}}}",
                 false, "S +text 12345678 - D(end_turn 0/0/10) E");
    check_events("{'choices':[{'message':{'content':'12345678'}}],'usage':null}", false,
                 "S +text 12345678 - D(end_turn 9/2/0) E");
    check_events("{'choices':[{'message':{'content':'1'}}]}", false, "S +text 1 - D(end_turn 9/1/0) E");
    check_events("{'choices':[{'message':{}}]}", false, "S D(end_turn 9/0/0) E");
    check_events("{'choices':[{'message':{'content':'1'}}],'usage':{'prompt_tokens':'x','completion_tokens':-1}}",
                 false, "S +text 1 - D(end_turn 0/0/0) E");
    usual.estimate = 0;
}

static void test_stop_sequences(void **state)
{
    (void)state;
#define STOPPED(field, reason) \
    "{'choices':[{'message':{'content':'x'},'finish_reason':'" reason "'," field "}],'usage':{}}"
    check_events(STOPPED("'stop_reason':'END'", "stop"), false, "S +text x - D(end_turn 0/0/0) E");
    usual.has_stops = true;
    check_events(STOPPED("'stop_reason':'E\\'D'", "stop"), false, "S +text x - D(stop_sequence,'E\\'D' 0/0/0) E");
    check_events(STOPPED("'matched_stop':'END'", "stop"), false, "S +text x - D(stop_sequence,'END' 0/0/0) E");
    check_events(STOPPED("'stop_reason':null", "stop"), false, "S +text x - D(end_turn 0/0/0) E");
    check_events(STOPPED("'stop_reason':128001", "stop"), false, "S +text x - D(end_turn 0/0/0) E");
    check_events(STOPPED("'stop_reason':'END'", "length"), false, "S +text x - D(max_tokens 0/0/0) E");
    usual.has_stops = false;
}

static void test_hidden_thinking(void **state)
{
    (void)state;
    usual.hide_thinking = true;
    check_plain(
        MESSAGE("'reasoning':'secret','content':'x'", "'stop'"),
        "'content':[{'type':'thinking','thinking':'','signature':'b2xsYQ=='},{'type':'text','text':'x'}],'stop_reason':"
        "'end_turn'" USAGE_TOLD);
    check_events(MESSAGE("'reasoning':'secret','content':'x'", "'stop'"), false,
                 "S +think sig - +text x - D(end_turn 37/14/0) E");
    usual.hide_thinking = false;
}

/* ---- failures ------------------------------------------------------------------------ */

static void check_failure(const char *reply, bool frames, const char *said, int status, const char *message)
{
    static struct protocol p;
    const char *doc = json(reply), *want = json(said);

    for (size_t i = 0; i < OLLA_COUNT(ways); i++) {
        for (int events = frames; events < 2; events++) {
            struct reply_told *t = tell(doc, frames, events, i);
            assert_true(t->failed);
            assert_string_equal(t->message, message);
            assert_int_equal(t->status, status);
            protocol_read(&p, t->out.p, t->out.n, true);
            assert_string_equal(p.said.p, want);
            output_clear(&p.said);
        }
    }
}

static void test_failures(void **state)
{
    static const struct {
        const char *reply;
        int status;
        const char *message;
    } rows[] = {
        {"{oops", 502, "the backend's reply cannot be understood: it is not JSON"},
        {"", 502, "the backend's reply cannot be understood: it is not JSON"},
        {"data: {}\n\n", 502, "the backend's reply cannot be understood: it is not JSON"},
        {"{'choices':[]}", 502, "the backend's reply cannot be understood: it has no choices"},
        {"{}", 502, "the backend's reply cannot be understood: it has no choices"},
        {"{'choices':[7]}", 502, "the backend's reply cannot be understood: it has no message"},
        {"{'choices':[{'message':null}]}", 502, "the backend's reply cannot be understood: it has no message"},
        {"{'error':{'message':'m','code':429}}", 429, "m"},
        {"{'error':{'message':'m','code':'x','status':503}}", 503, "m"},
        {"{'error':{'message':'m','code':200}}", 502, "m"},
        {"{'error':'words'}", 502, "words"},
        {"{'error':true}", 502, "the backend says that something went wrong"},
        {"{'object':'error','message':'m','code':400}", 400, "m"},
        {"{'object':'error','detail':[{'msg':'d'}]}", 502, "d"},
        {"{'error_type':'x','error_message':'m'}", 502, "m"},
        {"{'error':{'message':'','code':400},'detail':'d'}", 400, "d"},
        {"{'error':{'message':'x exceeds the available context size.','code':500}}", 400,
         "prompt is too long: x exceeds the available context size."},
        {"{'error':{'message':'x','type':'exceed_context_size_error','n_prompt_tokens':7,'n_ctx':5,'code':400}}", 400,
         "prompt is too long: 7 tokens > 5 maximum"},
        {"{'error':{'message':'prompt is too long: context window'}}", 400, "prompt is too long: context window"},
    };
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rows); i++) {
        const char *doc = json(rows[i].reply), *want = rows[i].message;
        for (size_t way = 0; way < OLLA_COUNT(ways); way++) {
            for (int events = 0; events < 2; events++) {
                struct reply_told *t = tell(doc, false, events, way);
                if (!t->failed || t->status != rows[i].status || strcmp(t->message, want) != 0) {
                    fail_msg("%s: %d %s", doc, t->status, t->failed ? t->message : "no failure");
                }
                assert_int_equal(t->out.n, 0);
            }
        }
    }
}

/* A message of any length is cut, and never in the middle of nothing. */
static void test_long_failure(void **state)
{
    static struct output o;
    (void)state;
    for (size_t n = 480; n < 540; n++) {
        o.n = 0;
        output_z(&o, "{'error':{'message':'");
        for (size_t i = 0; i < n; i++) {
            output_z(&o, i % 7 ? "x" : "\\u00e9");
        }
        output_z(&o, " context length'}}");
        struct reply_told *t = tell(json(o.p), false, false, n % OLLA_COUNT(ways));
        assert_true(t->failed && strlen(t->message) < FAILURE_MESSAGE && strlen(t->message) > 200);
    }
}

/* ---- streams ------------------------------------------------------------------------------- */

#define DELTA(x)  "data: {'choices':[{'index':0,'delta':{" x "},'finish_reason':null}]}\n\n"
#define TEXT(x)   DELTA("'content':'" x "'")
#define FINISH(x) "data: {'choices':[{'delta':{},'finish_reason':'" x "'}]}\n\n"
#define USAGE     "data: {'choices':[],'usage':{'prompt_tokens':37,'completion_tokens':14}}\n\n"
#define DONE      "data: [DONE]\n\n"
#define ENTRY(x)  DELTA("'tool_calls':[{" x "}]")
#define CALL(index, id, name, args) \
    ENTRY("'index':" #index ",'id':'" id "','function':{'name':'" name "','arguments':'" args "'}")
#define ARGS(index, args) ENTRY("'index':" #index ",'function':{'arguments':'" args "'}")
#define STOP(x)           FINISH(x) USAGE DONE
#define SAID(x)           "D(" x " 37/14/0) E"

static const struct {
    const char *stream, *said;
} streams[] = {
    /* the golden ones */
    {DELTA("'role':'assistant','content':''") TEXT("Hel") TEXT("w\xc3\xb6rld") STOP("stop"),
     "S +text Hel w\xc3\xb6rld - " SAID("end_turn")},
    {CALL(0, "a", "f", "") ARGS(0, "{\\'a\\':") ARGS(0, "1}") CALL(1, "b", "g", "") STOP("tool_calls"),
     "S +tool(a,f) {\\'a\\': 1} - +tool(b,g) - " SAID("tool_use")},
    {ENTRY("'index':0,'function':{'name':'f','arguments':'{}'}") STOP("tool_calls"),
     "S +tool(made,f) {} - " SAID("tool_use")},
    {CALL(0, "A", "f", "{\\'x\\':1}") CALL(0, "B", "f", "{\\'y\\':2}") STOP("tool_calls"),
     "S +tool(A,f) {\\'x\\':1} - +tool(B,f) {\\'y\\':2} - " SAID("tool_use")},
    {DELTA("'reasoning_content':'a'") DELTA("'reasoning':'b'") TEXT("c") DELTA("'reasoning':'d'") STOP("length"),
     "S +think a b sig - +text c - +think d sig - " SAID("max_tokens")},
    {DELTA("'reasoning':'r','content':'c','tool_calls':[" FUNCTION("a", "f", "'{}'") "]") STOP("stop"),
     "S +think r sig - +text c - +tool(a,f) {} - " SAID("tool_use")},
    {CALL(0, "a", "f", "{\\'x\\'") TEXT(" ") ARGS(0, ":1}") STOP("tool_calls"),
     "S +tool(a,f) {\\'x\\' :1} - " SAID("tool_use")},
    {ARGS(0, "{\\'x\\':") CALL(0, "a", "f", "") ARGS(0, "1}") STOP("tool_calls"),
     "S +tool(a,f) {\\'x\\': 1} - " SAID("tool_use")},
    {TEXT("a") "data: {bad\n\n" TEXT("b") STOP("stop"), "S +text a b - " SAID("end_turn")},
    /* nothing in it */
    {STOP("stop"), "S " SAID("end_turn")},
    {DONE, "S D(end_turn 0/0/0) E"},
    {DELTA("'role':'assistant','content':null") STOP("stop"), "S " SAID("end_turn")},
    /* its end */
    {TEXT("a") FINISH("stop"), "S +text a - D(end_turn 0/1/0) E"},
    {TEXT("abcdefgh") DONE, "S +text abcdefgh - D(end_turn 0/2/0) E"},
    {TEXT("a") FINISH("stop") DONE TEXT("no more"), "S +text a - D(end_turn 0/1/0) E"},
    {TEXT("a") "data: {'choices':[{'delta':{'content':'b'},'finish_reason':'stop'}]}",
     "S +text a b - D(end_turn 0/1/0) E"},
    /* as servers write it */
    {": ping\n\nid: 7\nevent: message\ndata:{'choices':[{'delta':{'content':'a'}}]}\n\ndata: "
     "{'choices':[{'delta':\ndata: "
     "{'content':'b'}}]}\n\n" STOP("stop"),
     "S +text a b - " SAID("end_turn")},
    {"data: {'choices':[{'delta':{'content':'a'}}]}\r\n\r\ndata: {'choices':[{'delta':{'content':'b'}}]}\r\rdata: "
     "[DONE]\r",
     "S +text a b - D(end_turn 0/1/0) E"},
    {"data: {'choices':[{'delta':{'content':'a'}}]}\ndata: {'choices':[{'delta':{'content':'b'}}]}\ndata: [DONE]\n",
     "S +text a b - D(end_turn 0/1/0) E"},
    {"{'choices':[{'delta':{'content':'a'}}]}\n{'choices':[{'delta':{'content':'b'},'finish_reason':'stop'}]}\n",
     "S +text a b - D(end_turn 0/1/0) E"},
    {"data: {'choices':[{'message':{'content':'a'},'finish_reason':'stop'}]}\n\n" DONE,
     "S +text a - D(end_turn 0/1/0) E"},
    {TEXT("a") "data: {'choices':[{'delta':{'content':[{'type':'text','text':'b'},{'text':'c'}]}}]}\n\n" STOP("stop"),
     "S +text a b c - " SAID("end_turn")},
    {TEXT("a") DELTA("'refusal':'no'") STOP("stop"), "S +text a no - " SAID("refusal")},
    /* indices and ids of all kinds */
    {CALL(1, "a", "f", "{}") CALL(7, "b", "g", "{}") STOP("stop"),
     "S +tool(a,f) {} - +tool(b,g) {} - " SAID("tool_use")},
    {CALL(0, "a", "f", "{}") CALL(0, "b", "g", "{}") CALL(0, "c", "g", "{}") STOP("stop"),
     "S +tool(a,f) {} - +tool(b,g) {} - +tool(c,g) {} - " SAID("tool_use")},
    {DELTA("'tool_calls':[" FUNCTION("a", "f", "'{}'") "," FUNCTION("b", "g", "'{}'") "]") STOP("stop"),
     "S +tool(a,f) {} - +tool(b,g) {} - " SAID("tool_use")},
    {ENTRY("'function':{'name':'f','arguments':'{}'}") ENTRY("'function':{'name':'f','arguments':'{}'}") STOP("stop"),
     "S +tool(made,f) {} - +tool(made,f) {} - " SAID("tool_use")},
    {CALL(0, "a", "f", "{\\'x\\'") CALL(0, "a", "f", ":1}") STOP("stop"),
     "S +tool(a,f) {\\'x\\' :1} - " SAID("tool_use")}, /* repeated with every part */
    {CALL(0, "a", "f", "{\\'x\\':1}") CALL(0, "a", "f", "{\\'x\\':1}") STOP("stop"),
     "S +tool(a,f) {\\'x\\':1} - " SAID("tool_use")}, /* all of it again at the end */
    {ENTRY("'index':0,'id':'a','function':{}") ENTRY("'index':0,'function':{'name':'f'}") ARGS(0, "{}") STOP("stop"),
     "S +tool(a,f) {} - " SAID("tool_use")},
    {ENTRY("'index':0,'id':'a','function':{'name':'f','arguments':{'x':'\\n'}}") STOP("stop"),
     "S +tool(a,f) {\\'x\\':\\'\\\\n\\'} - " SAID("tool_use")},
    {ENTRY("'index':null,'id':null,'function':{'name':'f','arguments':null}") ENTRY("'function':{'arguments':'{}'}")
         STOP("stop"),
     "S +tool(made,f) {} - " SAID("tool_use")},
    {ARGS(0, "{}") STOP("stop"), "S " SAID("end_turn")}, /* a call without a name is none */
    /* what has to wait */
    {CALL(0, "a", "f", "{\\'x\\'") CALL(1, "b", "g", "{\\'y\\'") ARGS(0, ":1}") ARGS(1, ":2}") STOP("tool_calls"),
     "S +tool(a,f) {\\'x\\' :1} - +tool(b,g) {\\'y\\' :2} - " SAID("tool_use")},
    {CALL(0, "a", "f", "{") CALL(1, "b", "g", "{") CALL(2, "c", "h", "{") ARGS(2, "}") ARGS(1, "}") ARGS(0, "}")
         STOP("stop"),
     "S +tool(a,f) { } - +tool(b,g) { } - +tool(c,h) { } - " SAID("tool_use")},
    {CALL(0, "a", "f", "{\\'x\\'") TEXT("t1") DELTA("'reasoning':'r'") ARGS(0, ":1}") TEXT("t2") STOP("stop"),
     "S +tool(a,f) {\\'x\\' :1} - +text t1 - +think r sig - +text t2 - " SAID("tool_use")},
    {CALL(0, "a", "f", "{\\'x\\'") TEXT("t1") CALL(1, "b", "g", "{}") STOP("length"),
     "S +tool(a,f) {\\'x\\' - +text t1 - +tool(b,g) {} - " SAID("max_tokens")},
    {CALL(0, "a", "f", "") TEXT("t") STOP("stop"), "S +tool(a,f) - +text t - " SAID("tool_use")},
    {CALL(0, "a", "f", "{}") TEXT("t") CALL(1, "b", "g", "{}") STOP("stop"),
     "S +tool(a,f) {} - +text t - +tool(b,g) {} - " SAID("tool_use")},
    {ARGS(0, "{") TEXT("t") CALL(0, "a", "f", "}") TEXT("u") STOP("stop"),
     "S +tool(a,f) { } - +text t u - " SAID("tool_use")},
    {CALL(0, "a", "f", "{") ENTRY("'index':1,'id':'b','function':{'name':'g','arguments':{'y':1}}") ARGS(0, "}")
         STOP("stop"),
     "S +tool(a,f) { } - +tool(b,g) {\\'y\\':1} - " SAID("tool_use")},
    /* blanks between the parts of calls are nothing; what only looks so is text */
    {CALL(0, "a", "f", "{}") TEXT("\\n\\t ") CALL(1, "b", "g", "{}") STOP("stop"),
     "S +tool(a,f) {} - +tool(b,g) {} - " SAID("tool_use")},
    {CALL(0, "a", "f", "{}") TEXT("\\\\n") STOP("stop"), "S +tool(a,f) {} - +text \\\\n - " SAID("tool_use")},
    {CALL(0, "a", "f", "{}") TEXT("\\\\") STOP("stop"), "S +tool(a,f) {} - +text \\\\ - " SAID("tool_use")},
    {TEXT("\\n\\n") CALL(0, "a", "f", "{}") STOP("stop"), "S +text \\n\\n - +tool(a,f) {} - " SAID("tool_use")},
};

static void test_streams(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(streams); i++) {
        check_events(streams[i].stream, true, streams[i].said);
    }
}

/* Every place where a stream may be cut in two. */
static void test_every_cut(void **state)
{
    static struct reply_told t;
    static struct output whole;
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(streams); i += 5) {
        const char *doc = json(streams[i].stream);
        struct reply_told *first = tell(doc, true, true, 0);
        output_clear(&whole);
        output_add(&whole, first->out.p, first->out.n);
        for (size_t cut = 1; cut < strlen(doc); cut++) {
            reply_clear(&t);
            t = usual;
            t.frames = t.events = true;
            t.cut = cut;
            reply_tell(&t, doc, strlen(doc));
            assert_int_equal(t.out.n, whole.n);
            assert_memory_equal(t.out.p, whole.p, whole.n);
        }
    }
}

static void test_broken_streams(void **state)
{
    static const char closed[] = "the backend closed the stream before its end";
    (void)state;
    check_failure("", true, "", 502, closed);
    check_failure(": nothing\n\n", true, "", 502, closed);
    check_failure(TEXT("par"), true, "S +text par", 502, closed);
    check_failure(TEXT("par") "data: {'choices':", true, "S +text par", 502, closed);
    check_failure(CALL(0, "a", "f", "{") TEXT("held"), true, "S +tool(a,f) {", 502, closed);
    check_failure(TEXT("par") "data: {'error':{'message':'m','code':500}}\n\n" DONE, true, "S +text par", 500, "m");
    check_failure("data: {'error':{'message':'m','code':429}}\n\n", true, "", 429, "m");
    check_failure("event: error\ndata: {'error':{'message':'m'}}\n\n", true, "", 502, "m");
    check_failure("event: error\ndata: {'message':'m'}\n\n", true, "", 502, "m");
    check_failure("event: error\ndata: just words\n\n", true, "", 502, "just words");
    check_failure(TEXT("a") "error: {'code':500,'message':'m'}\n\n", true, "S +text a", 500, "m");
    check_failure(TEXT("a") "{'object':'error','message':'m'}\n", true, "S +text a", 502, "m");
    check_failure("event: error\ndata: {'error':{'message':'the context window is full'}}\n\n", true, "", 400,
                  "prompt is too long: the context window is full");
}

/* ---- many calls, little room -------------------------------------------------------------------- */

static void add_call(struct output *o, int i, const char *args)
{
    char frame[256];
    (void)
        snprintf(frame, sizeof frame,
                 "data: {'choices':[{'delta':{'tool_calls':[{'index':%d,'id':'id%d','function':{'name':'f','arguments':"
                 "'%s'}}]}}]}\n\n",
                 i, i, args);
    output_z(o, frame);
}

/* One after the other there may be any number of calls. */
static void test_many_calls(void **state)
{
    static struct output in, out;
    (void)state;
    in.n = out.n = 0;
    output_z(&out, "S");
    for (int i = 0; i < 100; i++) {
        char said[64];
        add_call(&in, i, i % 3 ? "{}" : "{\\'x\\':1}");
        (void)snprintf(said, sizeof said, " +tool(id%d,f) %s -", i, i % 3 ? "{}" : "{\\'x\\':1}");
        output_z(&out, said);
    }
    output_z(&in, STOP("tool_calls"));
    output_z(&out, " " SAID("tool_use"));
    check_events(in.p, true, out.p);
    /* ... and in a whole reply at once */
    in.n = 0;
    output_z(&in, "{'choices':[{'message':{'tool_calls':[");
    for (int i = 0; i < 100; i++) {
        output_z(&in, i > 0 ? "," : "");
        output_z(&in, FUNCTION("c", "f", "'{}'"));
    }
    output_z(&in, "]}}]}");
    out.n = 0;
    output_z(&out, "S");
    for (int i = 0; i < 100; i++) {
        output_z(&out, " +tool(c,f) {} -");
    }
    output_z(&out, " D(tool_use 0/50/0) E");
    check_events(in.p, false, out.p);
}

/* At the same time so many: one is told, the others wait. */
static void test_calls_at_once(void **state)
{
    static struct output in, out;
    (void)state;
    in.n = out.n = 0;
    output_z(&out, "S");
    for (int i = 0; i < REPLY_CALLS; i++) {
        char said[64];
        add_call(&in, i, "{");
        (void)snprintf(said, sizeof said, " +tool(id%d,f) { } -", i);
        output_z(&out, said);
    }
    for (int i = REPLY_CALLS; i-- > 0;) {
        char frame[128];
        (void)snprintf(frame, sizeof frame,
                       "data: {'choices':[{'delta':{'tool_calls':[{'index':%d,'function':{'arguments':'}'}}]}}]}\n\n",
                       i);
        output_z(&in, frame);
    }
    output_z(&in, STOP("tool_calls"));
    output_z(&out, " " SAID("tool_use"));
    check_events(in.p, true, out.p);
    /* one more is too much, and it is said */
    in.n = 0;
    for (int i = 0; i <= REPLY_CALLS; i++) {
        add_call(&in, i, "{");
    }
    output_z(&in, STOP("tool_calls"));
    check_failure(in.p, true, "S +tool(id0,f) {", 502,
                  "the backend's reply has more tool calls than olla can keep apart");
}

/* What waits is not gone through with every frame: a call that never gets a name must not cost more and more. */
static void test_long_wait(void **state)
{
    enum { TEXTS = 2000 };
    static struct output in;
    static struct protocol p;
    (void)state;
    in.n = 0;
    output_z(&in, ARGS(0, "{"));
    for (int i = 0; i < TEXTS; i++) {
        output_z(&in, TEXT("x"));
    }
    output_z(&in, STOP("stop"));
    windows_asked = 0;
    struct reply_told *t = tell(json(in.p), true, true, 0);
    assert_false(t->failed);
    assert_true(windows_asked < TEXTS * 100);
    protocol_read(&p, t->out.p, t->out.n, false);
    assert_int_equal(strlen(p.said.p), strlen("S +text - " SAID("end_turn")) + (size_t)2 * TEXTS);
    output_clear(&p.said);
}

/* A store that is full at any byte: a failure with words, or everything was told. */
static void test_full_store(void **state)
{
    static const char stream[] = CALL(0, "a", "f", "{") TEXT("held text") CALL(1, "b", "g", "{\\'y\\'") ARGS(1, ":2}")
        TEXT("more") ARGS(0, "}") STOP("stop");
    static struct protocol p;
    const char *doc = json(stream),
               *want = json(
                   "S +tool(a,f) { } - +text held text - +tool(b,g) {\\'y\\' :2} - +text more - " SAID("tool_use"));
    size_t good = 0, bad = 0;
    (void)state;
    for (usual.limit = 1; usual.limit < 400; usual.limit++) {
        struct reply_told *t = tell(doc, true, true, usual.limit % OLLA_COUNT(ways));
        protocol_read(&p, t->out.p, t->out.n, t->failed);
        if (t->failed) {
            assert_string_equal(t->message,
                                "the backend's reply cannot be put in order: there is no room to hold its parts");
            assert_int_equal(t->status, 502);
            bad++;
        } else {
            assert_string_equal(p.said.p, want);
            good++;
        }
        output_clear(&p.said);
    }
    usual.limit = 0;
    assert_true(good > 0 && bad > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),           cmocka_unit_test(test_whole_without_id),
        cmocka_unit_test(test_usage),           cmocka_unit_test(test_stop_sequences),
        cmocka_unit_test(test_hidden_thinking), cmocka_unit_test(test_failures),
        cmocka_unit_test(test_long_failure),    cmocka_unit_test(test_streams),
        cmocka_unit_test(test_every_cut),       cmocka_unit_test(test_broken_streams),
        cmocka_unit_test(test_many_calls),      cmocka_unit_test(test_calls_at_once),
        cmocka_unit_test(test_full_store),      cmocka_unit_test(test_long_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
