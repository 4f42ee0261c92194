/*
 * test_traits.c - what names and sizes tell: traits.c.
 *
 * The vectors are those of the reference, except where its substitutions lose digits (Q5_K_L and
 * the like). All input lies flush against a guard page.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/traits.h"
#include "guard.h"

#define LONGEST (OLLA_MODEL_NAME - 1)

#define BYTES(lit)           \
    {                        \
        lit, sizeof(lit) - 1 \
    }

static struct str guarded(struct str s)
{
    return (struct str){guard_copy(s.p, s.n), s.n};
}

static struct str guardedz(const char *z)
{
    return guarded(str_of(z));
}

static size_t wrong;

static void expect(const char *what, struct str in, struct str got, const char *want)
{
    if (!str_eq(got, str_of(want))) {
        print_error("%s of '%.*s': '%.*s', wanted '%s'\n", what, (int)in.n, in.p ? in.p : "", (int)got.n,
                    got.p ? got.p : "", want);
        wrong++;
    }
}

static void assert_none_wrong(void)
{
    size_t n = wrong;
    wrong = 0;
    assert_int_equal(n, 0);
}

/* ---- family, publisher, owner -------------------------------------------------------- */

static void expect_family(const char *name, const char *family, const char *variant)
{
    char f[LONGEST], v[LONGEST];
    struct text tf = text_in(f, sizeof(f)), tv = text_in(v, sizeof(v));
    struct str in = guardedz(name);
    traits_family(in, &tf, &tv);
    assert_false(tf.full || tv.full);
    expect("family", in, text_str(&tf), family);
    expect("variant", in, text_str(&tv), variant);
}

static void test_names(void **state)
{
    static const struct {
        const char *name, *family, *variant, *publisher;
    } cases[] = {
        {"llama3.2:3b", "llama", "3.2", "meta"},
        {"llama3:latest", "llama", "3", "meta"},
        {"Meta-Llama-3.1-8B-Instruct", "", "", ""},
        {"meta-llama/Meta-Llama-3.1-8B-Instruct", "", "", "meta-llama"},
        {"mistral:7b", "mistral", ":7b", "mistral"},
        {"mistral-7b-instruct", "mistral", "7b-instruct", "mistral"},
        {"mixtral:8x7b", "mixtral", ":8x7b", "mistral"},
        {"mistralai/Mistral-7B-Instruct-v0.3", "mistral", "ai/mistral-7b-instruct-v0.3", "mistralai"},
        {"Qwen/Qwen2.5-7B-Instruct", "qwen", "2.5", "Qwen"},
        {"qwen3:8b", "qwen", "3", "alibaba"},
        {"phi4:14b", "phi", "4", "microsoft"},
        {"gemma2:9b", "gemma", "2", "google"},
        {"deepseek-r1:8b", "deepseek", "r1:8b", "deepseek"},
        {"deepseek-coder-v2:16b", "deepseek-coder-v2", "", "deepseek"},
        {"deepseek-ai/DeepSeek-R1", "deepseek", "ai/deepseek-r1", "deepseek-ai"},
        {"codellama:13b", "codellama", "", "meta"},
        {"starcoder2:3b", "starcoder", "2", "bigcode"},
        {"gpt-oss:120b", "gpt-oss", "120b", "openai"},
        {"openai/gpt-oss-20b", "", "", "openai"},
        {"gpt-4o", "gpt", "", ""},
        {"gpt2", "gpt", "2", "openai"},
        {"kimi-k2", "kimi", "", "moonshotai"},
        {"glm-4.5-air", "glm", "4.5", "zai-org"},
        {"command-r:35b", "command-r", "35b", "cohere"},
        {"devstral:24b", "devstral", "24b", "mistral"},
        {"yi:34b", "yi", "", "01-ai"},
        {"yi-34b", "yi", "34b", "01-ai"},
        {"smollm2:135m", "smollm", "2", "huggingfacetb"},
        {"ai/smollm2", "smollm", "2", "ai"},
        {"granite3.1-dense:8b", "granite", "3.1", "ibm"},
        {"internlm/internlm2_5-7b-chat", "internlm", "2", "internlm"},
        {"opt-125m", "opt", "", "meta"},
        {"llava:7b", "", "", ""},
        {"tinyllama:1.1b", "", "", ""},
        {"nomic-embed-text:latest", "", "", ""},
        {"bge-m3", "", "", ""},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        expect_family(cases[i].name, cases[i].family, cases[i].variant);
        struct str in = guardedz(cases[i].name);
        expect("publisher", in, traits_publisher(in), cases[i].publisher);
    }
    assert_none_wrong();
}

static void test_family_rules(void **state)
{
    static const struct {
        const char *name, *family, *variant;
    } cases[] = {
        /* kept as they are, in the last segment */
        {"nomic-bert", "nomic-bert", ""},
        {"x/y/Nomic-BERT_2", "nomic-bert", ""},
        {"nomic-berth", "", ""},
        {"moonshotai/Kimi-K2-Instruct", "kimi", ""},
        {"deepseek-ai/deepseek-coder-v2.5", "deepseek-coder-v2", ""},
        {"deepseek-coder-v22", "deepseek", "coder-v22"},
        {"kimi2", "kimi", ""},
        {"kimi/x", "kimi", ""},
        {"kimik", "", ""},
        /* mistral: everything behind it */
        {"mistral", "mistral", ""},
        {"mistral-", "mistral", "-"},
        {"mistral_x", "mistral", "x"},
        {"mistral--", "mistral", "-"},
        {"MixtralX", "mixtral", "x"},
        /* numbers that must be there */
        {"llama", "llama", ""},
        {"llama-", "llama", ""},
        {"llama-guard3", "llama", ""},
        {"Llama-3.3-70B", "llama", "3.3"},
        {"llama_2", "llama", "2"},
        {"llama:2", "llama", ""},
        {"llama--2", "llama", ""},
        {"llama3.", "llama", "3"},
        {"llama3.x", "llama", "3"},
        {"qwen2.5vl:7b", "qwen", "2.5"},
        {"phi3.5.1", "phi", "3.5"},
        /* behind a publisher */
        {"microsoft/phi-4", "phi", "4"},
        {"microsoft/Phi-mini", "phi", ""},
        {"microsoft/phi", "phi", ""},
        {"microsoft/phix", "", ""},
        {"zai-org/GLM-4.5", "glm", "4.5"},
        {"zai-org/GLM-4.5V", "glm", "4"},
        {"google/gemma-3n-E4B", "gemma", ""},
        {"google/gemma-27b", "gemma", ""},
        {"google/gemma.3", "gemma", "3"},
        {"a/b/phi-4", "", ""},
        {"/phi-4", "", ""},
        {"qwen/", "qwen", ""},
        {"/", "", ""},
        /* digits with a b */
        {"falcon-40B-instruct", "falcon", "40b"},
        {"vicuna_13", "vicuna", "13"},
        {"vicuna:13b", "vicuna", ""},
        {"yi1.5", "yi", "1"},
        {"yi-", "yi", ""},
        {"y", "", ""},
        {"minyi", "", ""},
        {"xyi-34b", "", ""},
        {"hey/yi-34b", "", ""},
        /* gpt */
        {"gpt-oss", "gpt-oss", ""},
        {"gpt-oss-", "gpt-oss", ""},
        {"gpt-oss/x", "gpt-oss", ""},
        {"gpt-ossy", "gpt", ""},
        {"gpt", "gpt", ""},
        {"gpt-j-6b", "gpt", "j"},
        {"gptj", "gpt", "j"},
        {"gptjx", "gptj", ""},
        {"gpt-jx", "gpt", ""},
        {"GPT-NeoX-20B", "gpt", "neox"},
        {"gptneoxx", "gptneox", ""},
        {"gpt-2", "gpt", "2"},
        {"gpts", "", ""},
        /* the rest behind a separator */
        {"deepseek", "deepseek", ""},
        {"deepseek:7b", "deepseek", "7b"},
        {"deepseekr1", "deepseek", ""},
        {"devstral", "devstral", ""},
        {"devstrals", "mistral", ""},
        {"codestral.mamba", "codestral", "mamba"},
        {"ministral 8b", "ministral", ""},
        {"Nemotron-Mini:4b", "nemotron", "mini:4b"},
        {"hunyuan-", "hunyuan", ""},
        {"minimax-M2", "minimax", "m2"},
        {"seed-oss:36b", "seed-oss", "36b"},
        {"command-r-plus", "command-r", "plus"},
        {"command-r7b", "command-r", ""},
        {"command-rx", "", ""},
        {"forge-1", "forge", "1"},
        {"tensorfoundry/Forge-1", "forge", "1"},
        {"forge/forge-2", "forge", "2"},
        {"a/b/forge-2", "", ""},
        {"forged", "", ""},
        /* an optional number */
        {"glm4", "glm", "4"},
        {"glm4moe", "glm", ""},
        {"glm", "glm", ""},
        {"glmx", "", ""},
        {"granite-code", "granite", ""},
        {"granite:3.1", "granite", "3.1"},
        {"exaone3.5:2.4b", "exaone", "3.5"},
        {"olmo2:7b", "olmo", "2"},
        {"internlm", "internlm", ""},
        {"smollm.", "smollm", ""},
        /* what is left */
        {"granitemoe", "granite", ""},
        {"granitehybrid:x", "granite", ""},
        {"bloomz", "bloom", ""},
        {"mpt-7b", "mpt", ""},
        {"starcoder:1b", "starcoder", ""},
        {"  qwen3\t", "qwen", "3"},
        {"q wen3", "", ""},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        expect_family(cases[i].name, cases[i].family, cases[i].variant);
    }
    assert_none_wrong();
}

/* Names of architectures, which may stand as names, lead to the families they belong to. */
static void test_family_aliases(void **state)
{
    static const char *const pairs[][2] = {
        {"llama3", "llama"},       {"llama3.2", "llama"},     {"llama3.3", "llama"},
        {"llama4", "llama"},       {"gemma2", "gemma"},       {"gemma3", "gemma"},
        {"gemma4", "gemma"},       {"phi3", "phi"},           {"phi3.5", "phi"},
        {"phi4", "phi"},           {"qwen2", "qwen"},         {"qwen2.5", "qwen"},
        {"qwen3", "qwen"},         {"qwen3.5", "qwen"},       {"deepseek2", "deepseek"},
        {"deepseek3", "deepseek"}, {"deepseek4", "deepseek"}, {"glm4", "glm"},
        {"glm4moe", "glm"},        {"granitemoe", "granite"}, {"granitehybrid", "granite"},
        {"exaone4", "exaone"},     {"seed-oss", "seed-oss"},  {"olmo2", "olmo"},
        {"internlm2", "internlm"}, {"internlm3", "internlm"}, {"smollm2", "smollm"},
        {"smollm3", "smollm"},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(pairs); i++) {
        char f[16], v[16];
        struct text tf = text_in(f, sizeof(f)), tv = text_in(v, sizeof(v));
        struct str in = guardedz(pairs[i][0]);
        traits_family(in, &tf, &tv);
        expect("family", in, text_str(&tf), pairs[i][1]);
    }
    assert_none_wrong();
}

static void test_publisher(void **state)
{
    static const char *const pairs[][2] = {
        {"llama", "meta"},
        {"CodeLlama", "meta"},
        {"optimus", "meta"},
        {"gemma", "google"},
        {"phi", "microsoft"},
        {"mistral", "mistral"},
        {"mixtral", "mistral"},
        {"devstral", "mistral"},
        {"magistral", "mistral"},
        {"codestral", "mistral"},
        {"ministral", "mistral"},
        {"QWEN", "alibaba"},
        {"yi", "01-ai"},
        {"deepseek", "deepseek"},
        {"starcoder", "bigcode"},
        {"falcon", "tii"},
        {"vicuna", "lmsys"},
        {"bloom", "bigscience"},
        {"gpt2", "openai"},
        {"gpt-oss", "openai"},
        {"gptj", "eleutherai"},
        {"gptneox", "eleutherai"},
        {"glm", "zai-org"},
        {"kimi", "moonshotai"},
        {"granite", "ibm"},
        {"nemotron", "nvidia"},
        {"exaone", "lg-ai"},
        {"hunyuan", "tencent"},
        {"minimax", "minimax"},
        {"seed-oss", "bytedance"},
        {"olmo", "allenai"},
        {"internlm", "internlm"},
        {"smollm", "huggingfacetb"},
        {"command-r", "cohere"},
        {"forge", "tensorfoundry"},
        {"gpt", ""},
        {"my-llama", ""},
        {"ll", ""},
        {"", ""},
        {"/", ""},
        {"/llama3", ""},
        {"llama/", "llama"},
        {"a/b/c", "a"},
        {" A-b /c", "A-b "},
        {" llama3", "meta"},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(pairs); i++) {
        struct str in = guardedz(pairs[i][0]);
        expect("publisher", in, traits_publisher(in), pairs[i][1]);
    }
    assert_int_equal(traits_publisher((struct str){NULL, 0}).n, 0);
    assert_none_wrong();
}

static void test_owner(void **state)
{
    static const char *const pairs[][2] = {
        {"meta-llama/Llama-3", "meta-llama"},
        {"Qwen/Qwen2.5", "Qwen"},
        {"a/b/c", "a"},
        {"mistral-7b", "mistral"},
        {"DeepSeek-R1", "DeepSeek"},
        {"qwen2.5-7b-instruct", "qwen2.5"},
        {"mymistral-7b", "mymistral"},
        {"ibm-x", "ibm"},
        {"xai-x", "xai"},
        {"ib-m", "fb"},
        {"tii-", "tii"},
        {"01ai-yi", "01ai"},
        {"llama-3", "fb"},
        {"qwen3:8b", "fb"}, /* no '-': no such token */
        {"mistral", "fb"},
        {"abcdefghijklmmistral-x", "abcdefghijklmmistral"},
        {"abcdefghijklmistralxy-x", "fb"},
        {"abcdefghijklmistral-x", "abcdefghijklmistral"},
        {"abcdefghijklmnmistral-x", "fb"},
        {"abcdefghijkl-mistral", "fb"},
        {"/mistral", "fb"},
        {"/qwen-x", "/qwen"},
        {"-mistral", "fb"},
        {"", "fb"},
        {"-", "fb"},
        {"/", "fb"},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(pairs); i++) {
        struct str in = guardedz(pairs[i][0]);
        expect("owner", in, traits_owner(in, STR("fb")), pairs[i][1]);
    }
    expect("owner", STR(""), traits_owner((struct str){NULL, 0}, STR("fb")), "fb");
    assert_none_wrong();
}

/* ---- quantisation and size ------------------------------------------------------------ */

static void expect_quantization(struct str said, const char *want)
{
    char mem[LONGEST];
    struct text t = text_in(mem, sizeof(mem));
    struct str in = guarded(said);
    traits_quantization(in, &t);
    assert_false(t.full);
    expect("quantisation", in, text_str(&t), want);
}

static void test_quantization(void **state)
{
    static const char *const pairs[][2] = {
        {"Q4_K_M", "q4km"},
        {"Q4_0", "q4"},
        {"Q4_1", "q4_1"},
        {"Q5_0", "q5"},
        {"Q8_0", "q8"},
        {"Q6_K", "q6k"},
        {"Q2_K", "q2k"},
        {"Q4_K_XL", "q4kxl"},
        {"Q3_K_XL", "q3"},
        {"Q3_K", "q3"},
        {"IQ4_XS", "q4"},
        {"IQ3_M", "q3"},
        {"UD-Q4_K_XL", "q4"},
        {"Q5_K_L", "q5kl"},
        {"Q2_K_S", "q2ks"},
        {"TQ1_0", "q1"},
        {"F16", "f16"},
        {"fp16", "f16"},
        {"BF16", "bf16"},
        {"FP8", "f8"},
        {"F32", "f32"},
        {"MXFP4", "mxfp4"},
        {"NVFP4", "nvfp4"},
        {"4bit", "4bit"},
        {"awq", "awq"},
        {"AWQ_4BIT", "awq4"},
        {"GPTQ-4BIT", "gptq4"},
        {"INT8", "int8"},
        {"W4A16", "w4a16"},
        {"unknown", "unknown"},
        {"", ""},
        /* the rest of the table */
        {"Q4_K_S", "q4ks"},
        {"Q3_K_L", "q3kl"},
        {"Q3_K_M", "q3km"},
        {"Q3_K_S", "q3ks"},
        {"Q5_K_M", "q5km"},
        {"Q5_K_S", "q5ks"},
        {"Q5_1", "q5_1"},
        {"FP32", "f32"},
        {"GPTQ_4BIT", "gptq4"},
        {"AWQ-4BIT", "awq4"},
        {"INT4", "int4"},
        /* case, and shapes inside other text */
        {"q4_k_m", "q4km"},
        {"bF16", "bf16"},
        {"x-Q5_K_M.gguf", "q5km"},
        {"TQ2_0", "q2"},
        {"Q8_1", "q8_1"},
        {"Q4_0_4_8", "q4"},
        {"Q4_K_m", "q4km"},
        {"Q4_K_", "q4"},
        {"Q4_K_T", "q4"},
        {"Q4-Q5_K_M", "q5km"},
        {"Q", "q"},
        {"Q_4", "q_4"},
        {"QQ4", "q4"},
        {"Q12_K_S", "q12ks"},
        {"F", "f"},
        {"FP", "fp"},
        {"IN8", "in8"},
        {"uint4-awq", "int4"},
        {"W4A16-Asym", "w4a16-asym"},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(pairs); i++) {
        expect_quantization(str_of(pairs[i][0]), pairs[i][1]);
    }
    expect_quantization((struct str){NULL, 0}, "");
    expect_quantization((struct str)BYTES("Q4_K\xff"), "q4");
    expect_quantization((struct str)BYTES("\xc4\xd1"), "\xc4\xd1");
    assert_none_wrong();
}

static void test_parameters(void **state)
{
    static const struct {
        const char *said, *normal;
        uint64_t count;
    } cases[] = {
        {"3.2B", "3.2b", 3200000000},
        {"7b", "7b", 7000000000},
        {"8.0B", "8b", 8000000000},
        {"12.25B", "12.2b", 12250000000},
        {"494.03M", "494m", 494030000},
        {"137M", "137m", 137000000},
        {"1543.7M", "1.5b", 1543700000},
        {"1000M", "1b", 1000000000},
        {"999.6M", "1000m", 999600000},
        {"13", "13b", 13000000000},
        {"7 B", "7b", 7000000000},
        {"8x7B", "8x7B", 0},
        {"1.05T", "1.05T", 0},
        {"", "", 0},
        /* units and what is no number */
        {"7 ", "7b", 7000000000},
        {"270 m", "270m", 270000000},
        {"7  B", "7  B", 0},
        {"7B ", "7B ", 0},
        {" 7B", " 7B", 0},
        {"7Bx", "7Bx", 0},
        {"7K", "7K", 0},
        {"B", "B", 0},
        {".5B", ".5B", 0},
        {"7.B", "7.B", 0},
        {"7.", "7.", 0},
        {"1.2.3B", "1.2.3B", 0},
        {"-7B", "-7B", 0},
        {"1e9", "1e9", 0},
        /* rounding */
        {"0B", "0b", 0},
        {"0M", "0m", 0},
        {"0.5B", "0.5b", 500000000},
        {"0.04B", "0b", 40000000},
        {"0.05B", "0b", 50000000},
        {"0.050000000001B", "0.1b", 50000000},
        {"12.75B", "12.8b", 12750000000},
        {"9.99B", "10b", 9990000000},
        {"0.4M", "0m", 400000},
        {"1.5M", "2m", 1500000},
        {"1234.5678M", "1.2b", 1234567800},
        {"999.9999999M", "1000m", 999999999},
        {"007B", "7b", 7000000000},
        /* range */
        {"9223372035B", "9223372035b", UINT64_C(9223372035000000000)},
        {"9223372036B", "9223372036B", 0},
        {"9223372036853M", "9223372036.9b", UINT64_C(9223372036853000000)},
        {"9223372036854M", "9223372036854M", 0},
        {"18446744073709551616", "18446744073709551616", 0},
        {"99999999999999999999999999999999999999B", "99999999999999999999999999999999999999B", 0},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        char mem[64];
        struct text t = text_in(mem, sizeof(mem));
        struct str in = guardedz(cases[i].said);
        uint64_t count = traits_parameters(in, &t);
        expect("size", in, text_str(&t), cases[i].normal);
        if (count != cases[i].count) {
            print_error("'%s': %llu parameters\n", cases[i].said, (unsigned long long)count);
            wrong++;
        }
    }
    assert_none_wrong();
}

/* ---- capabilities ------------------------------------------------------------------------ */

#define TEXT         CAP_TEXT_GENERATION
#define CODE_SET     (CAP_CODE_GENERATION | CAP_PROGRAMMING | CAP_CODE_COMPLETION)
#define INSTRUCT_SET (CAP_INSTRUCTION_FOLLOWING | CAP_CHAT)

static void test_capabilities(void **state)
{
    static const struct {
        const char *name;
        uint32_t context;
        unsigned said, want;
    } cases[] = {
        {"", 0, 0, TEXT},
        {"llama3.2:3b", 0, 0, TEXT},
        {"qwen2.5vl", 0, 0, TEXT},
        {"StarCoder2:3b", 0, 0, TEXT | CODE_SET},
        {"code", 0, 0, TEXT | CODE_SET},
        {"cod", 0, 0, TEXT},
        {"co-de", 0, 0, TEXT},
        {"codellama-7B-Instruct", 0, 0, TEXT | CODE_SET | INSTRUCT_SET},
        {"x-CHAT", 0, 0, TEXT | INSTRUCT_SET},
        {"Assistant", 0, 0, TEXT | INSTRUCT_SET},
        {"phi4-reasoning", 0, 0, TEXT | CAP_REASONING | CAP_LOGIC},
        {"rethinking", 0, 0, TEXT | CAP_REASONING | CAP_LOGIC},
        {"mathstral", 0, 0, TEXT | CAP_MATHEMATICS | CAP_PROBLEM_SOLVING},
        {"bakLLaVA:7b", 0, 0, TEXT | CAP_SET_VISION},
        {"smolvlm", 0, 0, TEXT | CAP_SET_VISION},
        {"llama3.2-vision", 0, 0, TEXT | CAP_SET_VISION},
        /* context length */
        {"x", 31999, 0, TEXT},
        {"x", 32000, 0, TEXT | CAP_EXTENDED_CONTEXT},
        {"x", 99999, 0, TEXT | CAP_EXTENDED_CONTEXT},
        {"x", 100000, 0, TEXT | CAP_LONG_CONTEXT},
        {"x", 999999, 0, TEXT | CAP_LONG_CONTEXT},
        {"x", 1000000, 0, TEXT | CAP_LONG_CONTEXT | CAP_ULTRA_LONG_CONTEXT},
        {"x", UINT32_MAX, 0, TEXT | CAP_LONG_CONTEXT | CAP_ULTRA_LONG_CONTEXT},
        /* what the server said */
        {"gemma3", 131072, CAP_SET_VISION, TEXT | CAP_SET_VISION | CAP_LONG_CONTEXT},
        {"x", 0, CAP_TOOLS | CAP_COMPLETION, TEXT | CAP_TOOLS | CAP_COMPLETION},
        {"bge-m3", 8192, CAP_SET_EMBEDDINGS, CAP_SET_EMBEDDINGS},
        {"bge-m3", 0, CAP_SET_EMBEDDINGS | TEXT, CAP_SET_EMBEDDINGS},
        {"code-embed", 0, CAP_EMBEDDINGS, CAP_EMBEDDINGS | CODE_SET},
        {"x", 0, CAP_VECTOR_SEARCH, TEXT | CAP_VECTOR_SEARCH},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(cases); i++) {
        unsigned got = traits_capabilities(guardedz(cases[i].name), cases[i].context, cases[i].said);
        if (got != cases[i].want) {
            print_error("'%s', %u: %x, wanted %x\n", cases[i].name, (unsigned)cases[i].context, got, cases[i].want);
            wrong++;
        }
    }
    assert_none_wrong();
}

static void test_capability_names(void **state)
{
    static const struct {
        unsigned bit;
        const char *word;
    } words[] = {
        {CAP_TEXT_GENERATION, "text-generation"},
        {CAP_CODE_GENERATION, "code-generation"},
        {CAP_PROGRAMMING, "programming"},
        {CAP_CODE_COMPLETION, "code-completion"},
        {CAP_INSTRUCTION_FOLLOWING, "instruction-following"},
        {CAP_CHAT, "chat"},
        {CAP_REASONING, "reasoning"},
        {CAP_LOGIC, "logic"},
        {CAP_MATHEMATICS, "mathematics"},
        {CAP_PROBLEM_SOLVING, "problem-solving"},
        {CAP_VISION, "vision"},
        {CAP_MULTIMODAL, "multimodal"},
        {CAP_IMAGE_UNDERSTANDING, "image-understanding"},
        {CAP_EXTENDED_CONTEXT, "extended-context"},
        {CAP_LONG_CONTEXT, "long-context"},
        {CAP_ULTRA_LONG_CONTEXT, "ultra-long-context"},
        {CAP_COMPLETION, "completion"},
        {CAP_EMBEDDINGS, "embeddings"},
        {CAP_VECTOR_SEARCH, "vector_search"},
        {CAP_TOOLS, "tools"},
    };
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(words); i++) {
        assert_int_equal(words[i].bit, 1u << i);
        assert_string_equal(traits_capability_name((int)i), words[i].word);
    }
    assert_null(traits_capability_name((int)OLLA_COUNT(words)));
    assert_null(traits_capability_name(-1));
    assert_null(traits_capability_name(INT32_MAX));
    assert_null(traits_capability_name(INT32_MIN));
}

/* ---- hostile input ------------------------------------------------------------------------- */

static bool inside(struct str part, struct str whole)
{
    return part.p >= whole.p && part.p + part.n <= whole.p + whole.n;
}

/* Everything at once; the builders have just the room that is promised to be enough. */
static void feed(struct str name)
{
    char mem[5][OLLA_MODEL_NAME];
    struct text t[5];
    struct str in = guarded(name);

    for (size_t i = 0; i < 5; i++) {
        t[i] = text_in(mem[i], sizeof(mem[i]));
    }
    traits_family(in, &t[0], &t[1]);
    traits_quantization(in, &t[2]);
    uint64_t count = traits_parameters(in, &t[3]);
    text_add(&t[4], traits_publisher(in));
    for (size_t i = 0; i < 5; i++) {
        assert_false(t[i].full);
    }
    assert_true(t[1].n <= in.n);
    assert_true(t[0].n > 0 || t[1].n == 0); /* no variant of nothing */
    assert_true(t[3].n > 0 || in.n == 0);
    assert_true(count <= INT64_MAX);
    struct str owner = traits_owner(in, STR("fb"));
    assert_true(str_eq(owner, STR("fb")) || inside(owner, in));
    assert_true((traits_capabilities(in, 0, 0) & CAP_TEXT_GENERATION) != 0);
}

static const char *const starts[] = {
    "",         "nomic-bert", "deepseek-coder-v2",
    "kimi",     "mistral",    "llama",
    "gemma",    "phi",        "qwen",
    "glm",      "granite",    "nemotron",
    "exaone",   "minimax",    "hunyuan",
    "olmo",     "smollm",     "internlm",
    "yi",       "starcoder",  "codellama",
    "vicuna",   "falcon",     "gpt-oss",
    "gpt",      "gptj",       "gptneox",
    "gpt2",     "deepseek",   "devstral",
    "seed-oss", "forge",      "command-r",
    "bloom",    "opt",        "mpt",
    "openai-",  "q4_k_",      "q4_",
    "q",        "fp",         "int",
    "llava",    "code",       "instruct",
    "1.",       "12.345",     "999.9m",
    "7 ",       "bf16",       "awq_4bit",
    "vision",   "think",      "granitemoe",
};

/* Every word, behind a publisher or not, cut at every place, and followed by every byte or a long run of it. */
static void test_words_and_bytes(void **state)
{
    char name[LONGEST];
    (void)state;

    for (size_t i = 0; i < 2 * OLLA_COUNT(starts); i++) {
        size_t from = i < OLLA_COUNT(starts) ? 0 : 2, n = from + strlen(starts[i % OLLA_COUNT(starts)]);
        memcpy(name, "x/", 2);
        memcpy(name + from, starts[i % OLLA_COUNT(starts)], n - from);
        for (size_t cut = 0; cut <= n; cut++) {
            feed((struct str){name, cut});
        }
        for (int c = 0; c < 256; c++) {
            memset(name + n, c, sizeof(name) - n);
            feed((struct str){name, n + 1});
            feed((struct str){name, n + 2});
            feed((struct str){name, sizeof(name)});
        }
    }
}

static void test_odd_names(void **state)
{
    static const struct str names[] = {
        {NULL, 0},
        BYTES(""),
        BYTES(" "),
        BYTES("\0"),
        BYTES("\0\0\0\0"),
        BYTES("llama\0003"),
        BYTES("llama3\0.2"),
        BYTES("mistral\0"),
        BYTES("gpt-oss\xff\xff"),
        BYTES("\xff\xfe\xfd"),
        BYTES("-_.:/-_.:/"),
        BYTES("//////"),
        BYTES("/ /"),
        BYTES("a//llama"),
        BYTES("=meta"),
        BYTES("llama=meta"),
        BYTES("q4km=Q4_K_M"),
    };
    uint32_t seed = 12345;
    (void)state;

    for (size_t i = 0; i < OLLA_COUNT(names); i++) {
        feed(names[i]);
    }
    for (int i = 0; i < 20000; i++) { /* words and separators in any mixture */
        static const char glue[] = "-_.:/ 0123456789bBmM=\0\xff";
        char name[LONGEST];
        size_t n = 0;
        while (n < sizeof(name)) {
            seed = seed * 1664525u + 1013904223u;
            const char *word = starts[(seed >> 16) % OLLA_COUNT(starts)];
            size_t len = strlen(word);
            if (len > sizeof(name) - n - 1 || (seed >> 8) % 9 == 0) {
                break;
            }
            memcpy(name + n, word, len);
            n += len;
            name[n++] = glue[(seed >> 10) % (sizeof(glue) - 1)];
        }
        feed((struct str){name, n});
    }
    expect_family("=meta", "", "");
    assert_int_equal(traits_publisher(STR("=meta")).n, 0);
    assert_none_wrong();
}

/* A builder that is too small says so, and nothing is written behind its end. */
static void test_no_room(void **state)
{
    (void)state;
    for (size_t cap = 0; cap < 12; cap++) {
        char mem[3][16];
        struct text t[3];
        memset(mem, '#', sizeof(mem));
        for (size_t i = 0; i < 3; i++) {
            t[i] = text_in(mem[i], cap);
        }
        struct text small = text_in(guard_room(cap), cap);
        traits_family(STR("mistral-12345678"), &t[0], &t[1]);
        traits_quantization(STR("abcdefghijkl"), &small);
        (void)traits_parameters(STR("123456.7B"), &t[2]);
        assert_int_equal(t[0].full, cap < 7);
        assert_int_equal(t[1].full, cap < 8);
        assert_int_equal(t[2].full, cap < 9);
        assert_int_equal(t[1].n, cap < 8 ? 0 : 8); /* never a part of a variant */
        assert_int_equal(small.n, 0);
        assert_true(small.full);
        for (size_t i = 0; i < 3; i++) {
            assert_int_equal(mem[i][cap], '#');
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_family_rules),
        cmocka_unit_test(test_family_aliases),
        cmocka_unit_test(test_publisher),
        cmocka_unit_test(test_owner),
        cmocka_unit_test(test_quantization),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_capability_names),
        cmocka_unit_test(test_words_and_bytes),
        cmocka_unit_test(test_odd_names),
        cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
