/*
 * test_anthropic.c - messages told as chat completions, and back.
 *
 * Texts are written with ' instead of ". Every request is told with windows of 1 to 7 bytes and small rooms, every reply
 * whole and cut in pieces of many sizes; all ways give the same bytes, as many as were counted. Streams are compared in
 * short: S message_start, +text +think +tool(id,name) the begin of a block, then its deltas as they are written, - its
 * end, D(reason,sequence input/output/cached) message_delta, E message_stop (see telling.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "telling.h"

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

/* ---- requests ---------------------------------------------------------------------- */

static void check_told(const char *request, const struct profile *to, const char *expected)
{
    static const size_t rooms[] = {8, 9, 13, 120, 4096};
    const char *doc = json(request), *want = json(expected);

    for (size_t window = 0; window <= 7; window++) {
        for (size_t i = 0; i < OLLA_COUNT(rooms); i++) {
            struct request_told t;
            request_check(&t, doc, strlen(doc), window, false);
            assert_ptr_equal(t.refused, NULL);
            request_tell(&t, to, "m\"1", rooms[i]);
            assert_ptr_equal(t.refused, NULL);
            if (strcmp(t.out.p, want) != 0) {
                fail_msg("%s\ngives %s\nand not %s", doc, t.out.p, want);
            }
            assert_true(is_json(t.out.p, t.out.n));
            output_clear(&t.out);
        }
    }
}

/* Refused by the check, or by the telling. */
static void check_refused(const char *request, const char *expected)
{
    const char *doc = json(request), *want = json(expected);

    for (size_t window = 0; window <= 7; window++) {
        struct request_told t;
        request_check(&t, doc, strlen(doc), window, false);
        if (!t.refused) {
            request_tell(&t, &profile_plain, "m", 4096);
        }
        if (!t.refused || strcmp(t.refused, want) != 0) {
            fail_msg("%s\nis refused with %s\nand not %s", doc, t.refused ? t.refused : "nothing", want);
        }
        output_clear(&t.out);
    }
}

static void check_body(const char *in, const struct profile *to, const char *out)
{
    static struct output a, b;
    a.n = b.n = 0;
    output_z(&a, "{'model':'n-text','max_tokens':50,");
    output_z(&a, in);
    output_z(&a, "}");
    output_z(&b, "{'model':'m\\'1','max_tokens':50,'stream':false,");
    output_z(&b, out);
    output_z(&b, "}");
    check_told(a.p, to, b.p);
}

#define ASK  "'messages':[{'role':'user','content':'hi'}]"
#define TOLD "'messages':[{'role':'user','content':'hi'}]"

static const struct {
    const char *in;
    char to; /* 'p' plain, 'r' rich */
    const char *out;
} heads[] = {
    {ASK, 'p', TOLD},
    {ASK
     ",'temperature':0,'top_p':0.9,'top_k':4,'stop_sequences':['a','b'],'metadata':{'user_id':'x'},'thinking':{'type':"
     "'enabled','budget_tokens':9},'service_tier':'auto','output_config':{'effort':'low'}",
     'p', "'temperature':0,'top_p':0.9,'stop':['a','b']," TOLD},
    {ASK ",'top_k':4,'stop_sequences':[ 'a' ]", 'r', "'top_k':4,'stop':[ 'a' ]," TOLD},
    {ASK ",'stop_sequences':[]", 'p', TOLD},
    {ASK ",'stop_sequences':null,'temperature':null,'top_p':null,'top_k':null,'tools':null,'system':null", 'r', TOLD},
    {ASK ",'temperature':1.50e0", 'p', "'temperature':1.50e0," TOLD},
    /* effort and thinking */
    {ASK ",'output_config':{'effort':'max'}", 'r', "'reasoning_effort':'high'," TOLD},
    {ASK ",'output_config':{'effort':'xhigh'}", 'r', "'reasoning_effort':'high'," TOLD},
    {ASK ",'output_config':{'effort':'medium'}", 'r', "'reasoning_effort':'medium'," TOLD},
    {ASK ",'output_config':{'effort':'huge'}", 'r', TOLD},
    {ASK ",'thinking':{'type':'disabled'},'output_config':{'effort':'low'}", 'r',
     "'chat_template_kwargs':{'enable_thinking':false}," TOLD},
    {ASK ",'thinking':{'type':'disabled'}", 'p', TOLD},
    {ASK ",'thinking':{'type':'adaptive'}", 'r', TOLD},
    /* formats */
    {ASK ",'output_config':{'format':{'type':'json_schema','schema':{'type': 'object'}}}", 'p',
     "'response_format':{'type':'json_schema','json_schema':{'name':'output','schema':{'type': "
     "'object'},'strict':true}}," TOLD},
    {ASK ",'output_format':{'type':'json_schema','schema':{}}", 'p',
     "'response_format':{'type':'json_schema','json_schema':{'name':'output','schema':{},'strict':true}}," TOLD},
    {ASK ",'output_format':{'type':'text'}", 'p', TOLD},
    /* system */
    {ASK ",'system':'You'", 'p', "'messages':[{'role':'system','content':'You'},{'role':'user','content':'hi'}]"},
    {ASK ",'system':[{'type':'text','text':'a','cache_control':{}},{'type':'text','text':'b'}]", 'p',
     "'messages':[{'role':'system','content':'ab'},{'role':'user','content':'hi'}]"},
    {ASK ",'system':''", 'p', TOLD},
    {ASK ",'system':[]", 'p', TOLD},
    {ASK ",'system':7", 'p', TOLD},
    {ASK ",'system':[{'type':'text','text':'x-anthropic-billing-header: cc_version=2; cch=12345;\\n\\u0041\\\\n'},"
         "{'type':'text','text':'b'}]",
     'p', "'messages':[{'role':'system','content':'\\u0041\\\\nb'},{'role':'user','content':'hi'}]"},
    {ASK ",'system':[{'type':'text','text':'x-anthropic-billing-header: cch=12345;'},{'type':'text','text':'b'}]", 'p',
     "'messages':[{'role':'system','content':'b'},{'role':'user','content':'hi'}]"},
    {ASK ",'system':'x-anthropic-billing-header: a\\\\nb'", 'p', TOLD},
    /* tools */
    {ASK ",'tools':[]", 'p', TOLD},
    {ASK ",'tools':[],'tool_choice':{'type':'any'}", 'p', TOLD},
    {ASK ",'tools':[{'name':'f'}]", 'p',
     TOLD ",'tools':[{'type':'function','function':{'name':'f','parameters':{'type':'object','properties':{}}}}]"},
    {ASK ",'tools':[{'type':'custom','name':'f','description':'d\\n','input_schema':{'b': 1,'a':{}},'strict':true,"
         "'cache_control':{}},{'type':null,'name':'g','strict':false}]",
     'p',
     TOLD
     ",'tools':[{'type':'function','function':{'name':'f','description':'d\\n','parameters':{'b': 1,'a':{}},'strict':"
     "true}},{'type':'function','function':{'name':'g','parameters':{'type':'object','properties':{}}}}]"},
#define TOOL     ",'tools':[{'name':'f'}]"
#define FUNCTION ",'tools':[{'type':'function','function':{'name':'f','parameters':{'type':'object','properties':{}}}}]"
    {ASK TOOL ",'tool_choice':{'type':'auto'}", 'p', TOLD FUNCTION ",'tool_choice':'auto'"},
    {ASK TOOL ",'tool_choice':'auto'", 'p', TOLD FUNCTION ",'tool_choice':'auto'"},
    {ASK TOOL ",'tool_choice':{'type':'any','disable_parallel_tool_use':true}", 'p',
     TOLD FUNCTION ",'tool_choice':'required','parallel_tool_calls':false"},
    {ASK TOOL ",'tool_choice':'any'", 'p', TOLD FUNCTION ",'tool_choice':'required'"},
    {ASK TOOL ",'tool_choice':{'type':'none'}", 'p', TOLD FUNCTION ",'tool_choice':'none'"},
    {ASK TOOL ",'tool_choice':{'type':'tool','name':'f','disable_parallel_tool_use':false}", 'p',
     TOLD FUNCTION ",'tool_choice':{'type':'function','function':{'name':'f'}}"},
    {ASK TOOL ",'tool_choice':null", 'p', TOLD FUNCTION},
    /* keys that are nobody's */
    {ASK ",'container':1,'mcp_servers':[{}],'context_management':{'edits':[{'type':'x'}]},'cache_control':{},'x':null",
     'r', TOLD},
};

static void test_heads(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(heads); i++) {
        check_body(heads[i].in, heads[i].to == 'r' ? &profile_rich : &profile_plain, heads[i].out);
    }
    check_told("{'model':'x',\n'stream':true,'max_tokens':1," ASK "}", &profile_plain,
               "{'model':'m\\'1','max_tokens':1,'stream':true,'stream_options':{'include_usage':true}," TOLD "}");
    check_told("{'model':'x','stream':null,'max_tokens':1,'max_tokens':64," ASK "}\n", &profile_plain,
               "{'model':'m\\'1','max_tokens':64,'stream':false," TOLD "}");
    check_told("{'mod\\u0065l':'x','m\\u0061x_tokens':1,'messag\\u0065s':[{'r\\u006fle':'user','c\\u006fntent':'hi'}]}",
               &profile_plain, "{'model':'m\\'1','max_tokens':1,'stream':false," TOLD "}");
}

#define USER(x)      "{'role':'user','content':" x "}"
#define ASSISTANT(x) "{'role':'assistant','content':" x "}"
#define SYSTEM(x)    "{'role':'system','content':" x "}"
#define TEXT(x)      "{'type':'text','text':'" x "'}"
#define IMAGE        "{'type':'image','source':{'type':'base64','media_type':'image/png','data':'AA=='}}"
#define IMAGE_TOLD   "{'type':'image_url','image_url':{'url':'data:image/png;base64,AA=='}}"

static const struct {
    const char *in;
    char to;
    const char *out;
} turns[] = {
    /* texts */
    {USER("[" TEXT("a") "," TEXT("b") "]"), 'p', USER("'ab'")},
    {USER(TEXT("single")), 'p', USER("'single'")},
    {USER("'\\u00e9\\ud83d\\ude00\\'\\\\<'"), 'p', USER("'\\u00e9\\ud83d\\ude00\\'\\\\<'")},
    {USER("''") "," ASSISTANT("'x'") "," USER("'y'"), 'p', ASSISTANT("'x'") "," USER("'y'")},
    {USER("[" TEXT("") "," TEXT("a") ",{'type':'text'}]"), 'p', USER("'a'")},
    /* turns of one side, one after another */
    {USER("'a'") "," USER("'b'"), 'p', USER("'a\\n\\nb'")},
    {USER("'a'") "," USER("[" TEXT("b") "," TEXT("c") "]") "," USER("'d'"), 'p', USER("'a\\n\\nbc\\n\\nd'")},
    {USER("'a'") "," ASSISTANT("[{'type':'thinking','thinking':'x'}]") "," USER("'b'"), 'p', USER("'a\\n\\nb'")},
    {USER("'q'") "," ASSISTANT("'a'") "," ASSISTANT("'b'"), 'p', USER("'q'") "," ASSISTANT("'a\\n\\nb'")},
    /* messages of the system */
    {SYSTEM("'S'") "," USER("'a'"), 'p', SYSTEM("'S'") "," USER("'a'")},
    {SYSTEM("[" TEXT("S") "]") "," SYSTEM("'T'") "," USER("'a'"), 'p', SYSTEM("'S\\n\\nT'") "," USER("'a'")},
    {USER("'a'") "," SYSTEM("'S'") "," ASSISTANT("'b'"), 'p', USER("'a\\n\\nS'") "," ASSISTANT("'b'")},
    {USER("[{'type':'mid_conv_system','content':[" TEXT("a") "]}," TEXT("b") "]"), 'p', USER("'a\\nb'")},
    /* images */
    {USER("[" IMAGE "," TEXT("what") "]"), 'p', USER("[" IMAGE_TOLD "," TEXT("what") "]")},
    {USER("[" TEXT("a") ",{'type':'image','source':{'type':'url','url':'http://x/?\\u0026'}}]"), 'p',
     USER("[" TEXT("a") ",{'type':'image_url','image_url':{'url':'http://x/?\\u0026'}}]")},
    {USER("[" IMAGE "]"), 'p', USER("[" IMAGE_TOLD "]")},
    /* documents */
    {USER("[{'type':'document','title':'T','source':{'type':'text','media_type':'text/plain','data':'d'}}," TEXT(
         "x") "]"),
     'p', USER("'T\\nd\\nx'")},
    {USER("[{'type':'document','source':{'type':'content','content':'c'}}]"), 'p', USER("'c'")},
    {USER("[{'type':'document','source':{'type':'content','content':[" TEXT("c") "," TEXT("d") "]}}]"), 'p',
     USER("'c\\nd'")},
    {USER("[{'type':'search_result','source':'s','title':'t','content':[" TEXT("x") "]}]"), 'p', USER("'t s\\nx'")},
    /* results */
    {USER("[{'type':'tool_result','tool_use_id':'t1','content':'ok'}]"), 'p',
     "{'role':'tool','tool_call_id':'t1','content':'ok'}"},
    {USER("[{'type':'tool_result','tool_use_id':'t1'}]"), 'p', "{'role':'tool','tool_call_id':'t1','content':''}"},
    {USER("[{'type':'tool_result','tool_use_id':'t1','content':[" TEXT("r1") "," TEXT("r2") "]}]"), 'p',
     "{'role':'tool','tool_call_id':'t1','content':'r1\\nr2'}"},
    {USER("[{'type':'tool_result','tool_use_id':'t1','is_error':true,'content':'bad'},"
          "{'type':'tool_result','tool_use_id':'t2','is_error':true,'content':'ERROR: x'},"
          "{'type':'tool_result','tool_use_id':'t3','is_error':true},"
          "{'type':'tool_result','tool_use_id':'t4','is_error':true,'content':[" TEXT("a") "," TEXT("b") "]}]"),
     'p',
     "{'role':'tool','tool_call_id':'t1','content':'Error: bad'},{'role':'tool','tool_call_id':'t2','content':'ERROR: "
     "x'},"
     "{'role':'tool','tool_call_id':'t3','content':'Error: '},{'role':'tool','tool_call_id':'t4','content':'Error: "
     "a\\nb'}"},
    {USER("[" TEXT("next") ",{'type':'tool_result','tool_use_id':'t1','content':[" IMAGE "]}]"), 'p',
     "{'role':'tool','tool_call_id':'t1','content':'(image)'}," USER("[" IMAGE_TOLD "," TEXT("next") "]")},
    {USER("[{'type':'tool_result','tool_use_id':'t1','content':[" IMAGE "," TEXT("r") "," IMAGE "]}]"), 'p',
     "{'role':'tool','tool_call_id':'t1','content':'r'}," USER("[" IMAGE_TOLD "," IMAGE_TOLD "]")},
    {USER("[{'type':'tool_result','tool_use_id':'t1','content':[{'type':'tool_reference','tool_name':'f'}]}]"), 'p',
     "{'role':'tool','tool_call_id':'t1','content':'f'}"},
    {USER("[{'type':'tool_result','tool_use_id':'t1','content':[{'type':'document','title':'T','source':{'type':'text',"
          "'data':'d'}}]}," TEXT("x") "]"),
     'p', "{'role':'tool','tool_call_id':'t1','content':'T\\nd'}," USER("'x'")},
    /* calls */
    {USER("'q'") "," ASSISTANT("[{'type':'tool_use','id':'t1','name':'f','input':{'a':'\\u00e9\\n'}}]"), 'p',
     USER(
         "'q'") ",{'role':'assistant','content':null,'tool_calls':[{'id':'t1','type':'function','function':{'name':'f',"
                "'arguments':'{\\'a\\':\\'\\\\u00e9\\\\n\\'}'}}]}"},
    {USER("'q'") "," ASSISTANT("[{'type':'tool_use','id':'t1','name':'f','input':{}}]"), 'r',
     USER("'q'") ",{'role':'assistant','content':'','tool_calls':[{'id':'t1','type':'function','function':{'name':'f',"
                 "'arguments':'{}'}}]}"},
    {USER("'q'") "," ASSISTANT(
         "[{'type':'tool_use','id':'t1','name':'f','input':[1]},{'type':'tool_use','id':'t2','name':'g'}]"),
     'p',
     USER(
         "'q'") ",{'role':'assistant','content':null,'tool_calls':[{'id':'t1','type':'function','function':{'name':'f',"
                "'arguments':'{}'}},{'id':'t2','type':'function','function':{'name':'g','arguments':'{}'}}]}"},
    /* thoughts, and what only others can read */
    {USER("'q'") "," ASSISTANT("[{'type':'thinking','thinking':'hmm','signature':'s'}," TEXT("A") "]"), 'p',
     USER("'q'") "," ASSISTANT("'A'")},
    {USER("'q'") "," ASSISTANT(
         "[{'type':'thinking','thinking':'hmm'}," TEXT("A") ",{'type':'thinking','thinking':'so'}]"),
     'r', USER("'q'") ",{'role':'assistant','content':'A','reasoning_content':'hmm\\nso'}"},
    {USER("'q'") "," ASSISTANT(
         "[{'type':'redacted_thinking','data':'x'},{'type':'server_tool_use','id':'1','name':'web'},"
         "{'type':'web_search_tool_result','content':[]}," TEXT("A") "]"),
     'r', USER("'q'") "," ASSISTANT("'A'")},
};

static void test_turns(void **state)
{
    static struct output in, out;
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(turns); i++) {
        in.n = out.n = 0;
        output_z(&in, "'messages':[");
        output_z(&in, turns[i].in);
        output_z(&in, "]");
        output_z(&out, "'messages':[");
        output_z(&out, turns[i].out);
        output_z(&out, "]");
        check_body(in.p, turns[i].to == 'r' ? &profile_rich : &profile_plain, out.p);
    }
}

/* The composite turn of the specification, with what docs/anthropic.md says of it. */
static void test_composite(void **state)
{
    (void)state;
    check_body(
        "'messages':[" USER(
            "'q'") ","
                   "{'role':'assistant','content':[{'type':'thinking','thinking':'hmm','signature':'sig'},{'type':'"
                   "text','text':'A'},"
                   "{'type':'tool_use','id':'t1','name':'f','input':{'b':1,'a':'<x>'}},{'type':'text','text':'B'},"
                   "{'type':'tool_use','id':'t2','name':'g','input':{}},{'type':'tool_use','id':'t3','name':'h'}]},"
                   "{'role':'user','content':[{'type':'tool_result','tool_use_id':'t1','content':'ok'},{'type':'text','"
                   "text':'next'},"
                   "{'type':'tool_result','tool_use_id':'t2','content':[{'type':'text','text':'r1'},{'type':'text','"
                   "text':'r2'}]},"
                   "{'type':'tool_result','tool_use_id':'t3','is_error':true,'content':'bad'},"
                   "{'type':'tool_result','tool_use_id':'t4','is_error':true,'content':'ERROR: x'}]}]",
        &profile_plain,
        "'messages':[" USER(
            "'q'") ",{'role':'assistant','content':'AB','tool_calls':["
                   "{'id':'t1','type':'function','function':{'name':'f','arguments':'{\\'b\\':1,\\'a\\':\\'<x>\\'}'}},"
                   "{'id':'t2','type':'function','function':{'name':'g','arguments':'{}'}},"
                   "{'id':'t3','type':'function','function':{'name':'h','arguments':'{}'}}]},"
                   "{'role':'tool','tool_call_id':'t1','content':'ok'},"
                   "{'role':'tool','tool_call_id':'t2','content':'r1\\nr2'},"
                   "{'role':'tool','tool_call_id':'t3','content':'Error: bad'},"
                   "{'role':'tool','tool_call_id':'t4','content':'ERROR: x'}," USER("'next'") "]");
}

/* The first line goes, however long it is; what stands behind it does not. */
static void test_long_billing_line(void **state)
{
    static struct output in, out;
    (void)state;
    for (size_t n = 1; n < 1300; n += n < 470 || n > 520 ? 97 : 1) {
        in.n = out.n = 0;
        output_z(&in, ASK ",'system':'x-anthropic-billing-header:");
        for (size_t i = 0; i < n; i++) {
            output_z(&in, "x");
        }
        output_z(&in, "\\\\\\nrest\\n'");
        output_z(&out, "'messages':[{'role':'system','content':'rest\\n'},{'role':'user','content':'hi'}]");
        check_body(in.p, &profile_plain, out.p);
    }
}

/* ---- refusals ------------------------------------------------------------------------- */

#define BASE "{'model':'m','max_tokens':1," ASK

static const struct {
    const char *request, *message;
} refusals[] = {
    {"", "invalid request: the body is not a JSON object"},
    {"[]", "invalid request: the body is not a JSON object"},
    {"{'model':'x'", "invalid request: the body is not a JSON object"},
    {BASE "} x", "invalid request: the body is not a JSON object"},
    {"{}", "model field is required (body may not be valid JSON)"},
    {"{'model':''}", "model field must not be empty"},
    {"{'model':1}", "model field must be a string, got Number"},
    {"{'model':-1}", "model field must be a string, got Number"},
    {"{'model':true}", "model field must be a string, got True"},
    {"{'model':false}", "model field must be a string, got False"},
    {"{'model':null}", "model field must be a string, got Null"},
    {"{'model':{}}", "model field must be a string, got JSON"},
    {"{'model':[]}", "model field must be a string, got JSON"},
    {"{'model':'m'}", "invalid request: at least one message is required"},
    {"{'model':'m','messages':null}", "invalid request: at least one message is required"},
    {"{'model':'m','messages':[ ]}", "invalid request: at least one message is required"},
    {"{'model':'m','messages':{}}", "invalid request: messages must be an array"},
    {"{'model':'m','messages':'x'}", "invalid request: messages must be an array"},
    {"{'model':'m'," ASK "}", "invalid request: max_tokens must be at least 1, got 0"},
    {BASE ",'max_tokens':null}", "invalid request: max_tokens must be at least 1, got 0"},
    {BASE ",'max_tokens':0}", "invalid request: max_tokens must be at least 1, got 0"},
    {BASE ",'max_tokens':-5}", "invalid request: max_tokens must be at least 1, got -5"},
    {BASE ",'max_tokens':1.5}", "invalid request: max_tokens must be an integer"},
    {BASE ",'max_tokens':50.0}", "invalid request: max_tokens must be an integer"},
    {BASE ",'max_tokens':1e3}", "invalid request: max_tokens must be an integer"},
    {BASE ",'max_tokens':1E3}", "invalid request: max_tokens must be an integer"},
    {BASE ",'max_tokens':'50'}", "invalid request: max_tokens must be an integer"},
    {BASE ",'top_k':1.0}", "invalid request: top_k must be an integer"},
    {BASE ",'top_k':-1}", "invalid request: top_k must be non-negative"},
    {BASE ",'temperature':'1'}", "invalid request: temperature must be a number"},
    {BASE ",'temperature':2.0001}", "invalid request: temperature must be between 0 and 2"},
    {BASE ",'temperature':3}", "invalid request: temperature must be between 0 and 2"},
    {BASE ",'temperature':-0.1}", "invalid request: temperature must be between 0 and 2"},
    {BASE ",'temperature':0.21e1}", "invalid request: temperature must be between 0 and 2"},
    {BASE ",'temperature':20e0}", "invalid request: temperature must be between 0 and 2"},
    {BASE ",'temperature':0.0001e9}", "invalid request: temperature must be between 0 and 2"},
    {BASE ",'temperature':1e99999999999}", "invalid request: temperature must be between 0 and 2"},
    {BASE ",'top_p':1.01}", "invalid request: top_p must be between 0 and 1"},
    {BASE ",'top_p':10e-1,'top_p':-1e-9}", "invalid request: top_p must be between 0 and 1"},
    {BASE ",'top_p':[]}", "invalid request: top_p must be a number"},
    {BASE ",'stream':'true'}", "invalid request: stream must be a boolean"},
    {BASE ",'stream':1}", "invalid request: stream must be a boolean"},
    {BASE ",'stop_sequences':'x'}", "invalid request: stop_sequences must be an array"},
    {BASE ",'tools':{}}", "invalid request: tools must be an array"},
    {BASE ",'metadata':'x'}", "invalid request: metadata must be an object"},
/* what is found when it is told */
#define MESSAGES(x) "{'model':'m','max_tokens':1,'messages':[" x "]}"
    {MESSAGES("{'role':'user'}"), "messages.0: content is missing"},
    {MESSAGES(USER("'a'") "," USER("null")), "messages.1: content is missing"},
    {MESSAGES(USER("'a'") "," ASSISTANT("'b'") "," USER("7")), "messages.2: content is missing"},
    {MESSAGES("'x'"), "messages.0: content is missing"},
    {MESSAGES("[]"), "messages.0: content is missing"},
    {MESSAGES(USER("'a'") ",{'role':'tool','content':'x'}"), "messages.1: unknown role"},
    {MESSAGES("{'content':'x'}"), "messages.0: unknown role"},
    {MESSAGES(USER("'a'") "," ASSISTANT("'b'") "," USER("[{'type':'document','source':{'type':'base64'}}]")),
     "messages.2.content.0: a block of type 'document' with a source of type 'base64' cannot be translated for this "
     "backend"},
    {MESSAGES(USER("[" TEXT("a") ",{'type':'image','source':{'type':'file','file_id':'x'}}]")),
     "messages.0.content.1: a block of type 'image' with a source of type 'file' cannot be translated for this "
     "backend"},
    {MESSAGES(USER("[{'type':'audio'}]")),
     "messages.0.content.0: a block of type 'audio' cannot be translated for this backend"},
    {MESSAGES(USER("'q'") "," ASSISTANT("[" TEXT("a") "," TEXT("b") ",{'type':'tool_use','id':'','name':'f'}]")),
     "messages.1.content.2: tool_use needs an id and a name"},
    {MESSAGES(USER("'q'") "," ASSISTANT("[{'type':'tool_use','id':'x'}]")),
     "messages.1.content.0: tool_use needs an id and a name"},
    {MESSAGES(USER("[{'type':'tool_result','content':'x'}]")), "messages.0.content.0: tool_result needs a tool_use_id"},
    {MESSAGES(USER("[{'type':'tool_use','id':'x','name':'f'}]")),
     "messages.0.content.0: a block of type 'tool_use' cannot be translated for this backend"},
    {MESSAGES(USER("''")), "messages: there is nothing in them that could be translated"},
    {MESSAGES(ASSISTANT("[{'type':'thinking','thinking':'x'}]")),
     "messages: there is nothing in them that could be translated"},
    {BASE ",'tools':[{'name':'f'},{'type':'web_search_20250305','name':'web_search'}]}",
     "tools.1: the tool 'web_search_20250305' works only with a backend that speaks the Anthropic API"},
    {BASE ",'tools':[{'description':'x'}]}", "tools.0: name is missing"},
    {BASE ",'tools':[{'name':'f'},{'name':''}]}", "tools.1: name is missing"},
    {BASE ",'tools':[{'name':'f'}],'tool_choice':{'type':'tool'}}", "tool_choice: type 'tool' needs a name"},
    {BASE ",'tools':[{'name':'f'}],'tool_choice':{'type':'some'}}",
     "tool_choice: the type must be auto, any, tool or none"},
    {BASE ",'tools':[{'name':'f'}],'tool_choice':7}", "tool_choice: the type must be auto, any, tool or none"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(refusals); i++) {
        check_refused(refusals[i].request, refusals[i].message);
    }
}

/* Numbers that are at the border, but within, as they may be written. */
static void test_accepted(void **state)
{
    static const char *const rest[] = {"'temperature':0",
                                       "'temperature':-0",
                                       "'temperature':-0.0",
                                       "'temperature':2",
                                       "'temperature':2.000",
                                       "'temperature':0.2e1",
                                       "'temperature':20e-1",
                                       "'temperature':0.002E+3",
                                       "'temperature':1.9999",
                                       "'temperature':1e-99999999999",
                                       "'temperature':0e99",
                                       "'top_p':1",
                                       "'top_p':1.0",
                                       "'top_p':10e-1",
                                       "'top_p':0.1e1",
                                       "'top_p':0",
                                       "'top_k':0",
                                       "'top_k':-0",
                                       "'top_k':1000000",
                                       "'max_tokens':1",
                                       "'max_tokens':99999999999",
                                       "'stream':false",
                                       "'metadata':null",
                                       "'tools':null"};
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(rest); i++) {
        char doc[256];
        struct request_told t;
        (void)snprintf(doc, sizeof doc, "%s,%s}", BASE, rest[i]);
        const char *text = json(doc);
        for (size_t window = 0; window <= 3; window++) {
            request_check(&t, text, strlen(text), window, false);
            if (t.refused) {
                fail_msg("%s: %s", rest[i], t.refused);
            }
        }
    }
}

/* What is nested deeper than any client does is refused, not followed. */
static void test_deep(void **state)
{
    static struct output doc;
    (void)state;
    doc.n = 0;
    output_z(&doc, "{'model':'m','max_tokens':1,'messages':[{'role':'user','content':");
    for (int i = 0; i < 30; i++) {
        output_z(&doc, "[{'type':'mid_conv_system','content':");
    }
    output_z(&doc, "'x'");
    for (int i = 0; i < 30; i++) {
        output_z(&doc, "}]");
    }
    output_z(&doc, "}]}");
    check_refused(doc.p, "messages.0.content.0: blocks are nested too deeply");
}

/* A body that cannot be read to its end: the telling ends, and it is known why. */
static void test_failing_body(void **state)
{
    static const char request[] = "{'model':'m','max_tokens':1,'stop_sequences':['a'],'system':'S','messages':[" USER(
        "[" TEXT("a") "," IMAGE
                      "]") "," ASSISTANT("[{'type':'tool_use','id':'t','name':'f','input':{'a':1}}]") "],'tools':["
                                                                                                      "{'name':'f',"
                                                                                                      "'input_schema'"
                                                                                                      ":{}}]}";
    const char *doc = json(request);
    (void)state;
    for (size_t at = 1; at < strlen(doc) - 3; at++) {
        static struct anthropic_telling telling;
        struct request_told t;
        char mem[512];
        request_check(&t, doc, strlen(doc), 5, false);
        assert_null(t.refused);
        t.body.fails_at = at;
        anthropic_tell_start(&telling, &t.request, &profile_rich, STR("m"));
        for (int steps = 0; anthropic_tell_step(&telling) == 1; steps++) {
            assert_true(steps < 1000);
            while (!pieces_empty(&telling.out)) {
                (void)pieces_take(&telling.out, mem, sizeof mem);
            }
        }
        assert_true(t.body.failed);
    }
}

/* ---- estimates ---------------------------------------------------------------------------- */

static const struct {
    const char *request;
    uint64_t tokens;
} estimates[] = {
    {"{}", 1},
    {"{'messages':[{'role':'user','content':'Hello world'}]}", 2},
    {"{'system':'1234567890123456789012345678','messages':[" USER("'12345678901234567890'") "]}", 12},
    {"{'system':[" TEXT("12345678") "],'messages':[]}", 2},
    {"{'tools':[{'name':'abcd','description':'efgh','input_schema':{'type':'object'}}],'messages':[" USER(
         "'abcd'") "]}",
     7},
    {"{'tools':[{'name':'abcd','description':'efgh','input_schema': { 'type' : 'object' } }],'messages':[" USER(
         "'abcd'") "]}",
     7},
    {"{'messages':[" ASSISTANT("[{'type':'tool_use','id':'x','name':'abcd','input':{'a':'<>'}}]") "]}", 6},
    {"{'messages':[" USER("[{'type':'tool_result','tool_use_id':'x','content':[" TEXT("12345678") "," IMAGE "]}]") "]}",
     2},
    {"{'messages':[" USER("[{'type':'tool_result','tool_use_id':'x','content':'12345678'}]") "]}", 2},
    {"{'messages':[" ASSISTANT("[{'type':'thinking','thinking':'1234567890123456'}]") "]}", 1},
    {"{'messages':[" USER("'\\u00f6\\u00f6\\u00f6\\u00f6'") "]}", 2},
    {"{'messages':[" USER("'\xc3\xb6\xc3\xb6\xc3\xb6\xc3\xb6'") "]}", 2},
    {"{'messages':[" USER("'abc\\n\\ud83d\\ude00'") "," ASSISTANT("'efgh'") "," USER("'ijkl'") "]}", 4},
    /* nothing is an error here */
    {"{'messages':7,'tools':{},'system':9}", 1},
    {"{'messages':[7,null,{},[],{'role':'x'}," USER("'12345678'") "]}", 2},
    {"{'messages':[" USER(
         "[7,{'type':'audio'},{},{'type':'document','source':{'type':'base64'}}," TEXT("12345678") "]") "]}",
     2},
};

static void test_estimates(void **state)
{
    (void)state;
    for (size_t i = 0; i < OLLA_COUNT(estimates); i++) {
        const char *doc = json(estimates[i].request);
        for (size_t window = 0; window <= 7; window++) {
            struct request_told t;
            request_check(&t, doc, strlen(doc), window, true);
            assert_null(t.refused);
            uint64_t n = request_estimate(&t);
            if (n != estimates[i].tokens) {
                fail_msg("%s: %d, not %d", doc, (int)n, (int)estimates[i].tokens);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads),     cmocka_unit_test(test_turns),
        cmocka_unit_test(test_composite), cmocka_unit_test(test_long_billing_line),
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_deep),      cmocka_unit_test(test_failing_body),
        cmocka_unit_test(test_estimates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
