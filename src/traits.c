/*
 * traits.c - level 2: see traits.h.
 *
 * The knowledge is in the tables; a list of words or of pairs is one string with blanks between them.
 *
 * May include: olla.h, str.h, traits.h.
 */
#include "traits.h"

/* ---- words and numbers ------------------------------------------------------ */

/* Does s begin with one of the bytes of `set`? */
static bool leads(struct str s, struct str set)
{
    return s.n > 0 && str_find(set, s.p[0]) < set.n;
}

/* A word ends where its text ends, or before anything but a letter. */
static bool ends_word(struct str rest)
{
    return rest.n == 0 || str_lower(rest.p[0]) < 'a' || str_lower(rest.p[0]) > 'z';
}

/* The first of the words that s begins with, or nothing. */
static struct str word_at(const char *words, struct str s)
{
    for (struct str rest = str_of(words); rest.p;) {
        struct str word = str_split(&rest, ' ');
        if (str_istarts(s, word)) {
            return word;
        }
    }
    return STR("");
}

static bool has_word(const char *words, struct str s)
{
    for (struct str rest = str_of(words); rest.p;) {
        if (str_ihas(s, str_split(&rest, ' '))) {
            return true;
        }
    }
    return false;
}

/* The right side of the first pair "left=right" whose left side s begins with, or is (whole); or nothing. */
static struct str paired(const char *pairs, struct str s, bool whole)
{
    for (struct str rest = str_of(pairs); rest.p;) {
        struct str right = str_split(&rest, ' ');
        struct str left = str_split(&right, '=');
        if (str_istarts(s, left) && (!whole || s.n == left.n)) {
            return right;
        }
    }
    return STR("");
}

static size_t digits(struct str s)
{
    size_t n = 0;
    while (n < s.n && s.p[n] >= '0' && s.p[n] <= '9') {
        n++;
    }
    return n;
}

/* The number N or N.N at the start of s, or nothing. */
static struct str number_at(struct str s)
{
    size_t whole = digits(s), part = 0;
    if (whole > 0 && leads(str_skip(s, whole), STR("."))) {
        part = digits(str_skip(s, whole + 1));
    }
    return (struct str){s.p, part > 0 ? whole + 1 + part : whole};
}

/* Like text_add: all of it or nothing, so that a value is never cut. */
static void add_lower(struct text *t, struct str s)
{
    t->full = t->full || s.n > t->cap - t->n;
    for (size_t i = 0; i < s.n && !t->full; i++) {
        text_char(t, str_lower(s.p[i]));
    }
}

/* ---- family ------------------------------------------------------------------ */

/* Where the word of a rule stands. */
enum { AT_START = 0, BEHIND_PUBLISHER, LAST_SEGMENT };

/* What has to follow it, and what of that is the variant. Separators are optional. */
enum {
    REST = 0, /* one of -_.: and the variant, or just the end of the word */
    OPEN,     /* - or _ and the variant, which may stand close to the word but not be missing */
    NUMBER,   /* one of -_.: and a number, or just the end of the word */
    VERSION,  /* - or _ and a number, whatever follows */
    SIZE,     /* - or _ and digits, perhaps with a b */
    EDITION,  /* of gpt */
    ALONE,    /* the end of the name or one of -_:/. and no variant */
    ANYTHING  /* no variant */
};

/* The first rule that fits counts, so words that begin other words stand below them. */
static const struct {
    uint8_t where, tail;
    const char *words;
    const char *family; /* NULL: the word is the family */
} families[] = {
    {LAST_SEGMENT, ALONE, "nomic-bert deepseek-coder-v2 kimi", NULL},
    {AT_START, OPEN, "mistral mixtral", NULL},
    {AT_START, VERSION, "llama gemma phi qwen", NULL},
    {BEHIND_PUBLISHER, NUMBER,
     "phi llama gemma qwen mistral glm granite nemotron exaone kimi minimax hunyuan olmo internlm smollm", NULL},
    {AT_START, SIZE, "codellama starcoder vicuna falcon yi", NULL},
    {AT_START, REST, "gpt-oss", NULL},
    {AT_START, EDITION, "gpt", NULL},
    {AT_START, REST, "deepseek devstral magistral codestral ministral", NULL},
    {AT_START, NUMBER, "glm granite exaone olmo internlm smollm", NULL},
    {AT_START, REST, "kimi nemotron hunyuan minimax seed-oss command-r", NULL},
    {BEHIND_PUBLISHER, REST, "forge", NULL},
    {AT_START, REST, "forge", NULL},
    /* Only what the rules above leave comes here: "devstralx", "mistral". */
    {AT_START, ANYTHING, "devstral magistral codestral ministral", "mistral"},
    {AT_START, ANYTHING, "granitemoe granitehybrid", "granite"},
    {AT_START, ANYTHING,
     "llama gemma phi qwen mistral mixtral yi deepseek codellama starcoder vicuna falcon gptj gptneox bloom opt mpt",
     NULL},
};

/* The part of a name that has to begin with the word; empty if there is no such part. */
static struct str part_of_name(struct str name, uint8_t where)
{
    size_t slash = str_find(name, '/');
    if (where == BEHIND_PUBLISHER) {
        return slash > 0 ? str_skip(name, slash + 1) : STR("");
    }
    if (where == LAST_SEGMENT) {
        for (; slash < name.n; slash = str_find(name, '/')) {
            name = str_skip(name, slash + 1);
        }
    }
    return name;
}

/*
 * A number that a letter follows does not count, as in "gemma-3n", but its whole part does ("glm-4.5v": 4).
 * Digits are never cut: "27b" is not version 2.
 */
static struct str closed_number(struct str s)
{
    struct str number = number_at(s);
    if (!ends_word(str_skip(s, number.n))) {
        size_t dot = str_find(number, '.');
        number.n = dot < number.n ? dot : 0;
    }
    return number;
}

/* Does this stand behind the word as the rule wants it? */
static bool tail_fits(uint8_t tail, struct str rest, struct str *variant)
{
    struct str behind = str_skip(rest, leads(rest, STR("-_.:"))); /* behind any separator */
    struct str close = str_skip(rest, leads(rest, STR("-_")));
    bool apart = behind.n < rest.n;

    *variant = STR("");
    switch (tail) {
    case REST:
        *variant = apart ? behind : STR("");
        return ends_word(rest);
    case OPEN:
        *variant = close.n > 0 ? close : rest;
        return rest.n > 0;
    case NUMBER:
        *variant = closed_number(behind);
        return ends_word(rest);
    case VERSION:
        *variant = number_at(close);
        return variant->n > 0;
    case SIZE:
        *variant = (struct str){close.p, digits(close)};
        if (variant->n == 0) {
            return false;
        }
        variant->n += leads(str_skip(close, variant->n), STR("bB"));
        return true;
    case EDITION:
        *variant = word_at("2 j neox", behind);
        if (!ends_word(str_skip(behind, variant->n))) {
            *variant = STR("");
        }
        return variant->n > 0 || ends_word(rest);
    case ALONE:
        return rest.n == 0 || leads(rest, STR("-_:/."));
    default:
        return true;
    }
}

void traits_family(struct str name, struct text *family, struct text *variant)
{
    name = str_trim(name);
    for (size_t i = 0; i < OLLA_COUNT(families); i++) {
        struct str part = part_of_name(name, families[i].where), found;
        struct str word = word_at(families[i].words, part);
        if (word.n > 0 && tail_fits(families[i].tail, str_skip(part, word.n), &found)) {
            text_add(family, families[i].family ? str_of(families[i].family) : word);
            add_lower(variant, found);
            return;
        }
    }
}

/* ---- publisher and owner ------------------------------------------------------ */

static const char publishers[] =
    "llama=meta codellama=meta opt=meta gemma=google phi=microsoft mistral=mistral mixtral=mistral devstral=mistral "
    "magistral=mistral codestral=mistral ministral=mistral qwen=alibaba yi=01-ai deepseek=deepseek starcoder=bigcode "
    "falcon=tii vicuna=lmsys bloom=bigscience gpt2=openai gpt-oss=openai gptj=eleutherai gptneox=eleutherai "
    "glm=zai-org kimi=moonshotai granite=ibm nemotron=nvidia exaone=lg-ai hunyuan=tencent minimax=minimax "
    "seed-oss=bytedance olmo=allenai internlm=internlm smollm=huggingfacetb command-r=cohere forge=tensorfoundry";

static const char organisations[] =
    "openai anthropic google meta microsoft amazon xai apple cohere ai21 databricks snowflake ibm salesforce nvidia "
    "mistral qwen alibaba deepseek zhipuai tii 01ai baichuan stability eleutherai mosaicml bigcode servicenow cerebras "
    "nomic huggingface openrouter together replicate fireworks perplexity groq";

/* What stands before the first c; nothing if there is no c. */
static struct str before(struct str s, char c)
{
    size_t at = str_find(s, c);
    return at < s.n ? (struct str){s.p, at} : STR("");
}

struct str traits_publisher(struct str name)
{
    name = str_trim(name);
    struct str owner = before(name, '/');
    return owner.n > 0 ? owner : paired(publishers, name, false);
}

struct str traits_owner(struct str id, struct str fallback)
{
    struct str owner = before(id, '/');
    if (owner.n > 0) {
        return owner;
    }
    owner = before(id, '-');
    return owner.n >= 3 && owner.n <= 20 && has_word(organisations, owner) ? owner : fallback;
}

/* ---- quantisation -------------------------------------------------------------- */

static const char quantizations[] = "q2_k=q2k q6_k=q6k q4_k_xl=q4kxl bf16=bf16 gptq_4bit=gptq4 gptq-4bit=gptq4 "
                                    "awq_4bit=awq4 awq-4bit=awq4 mxfp4=mxfp4 nvfp4=nvfp4";

/* Shapes that may stand anywhere, the first one that does counts: # is a number, @ one of m, s and l. */
static const struct {
    const char *like, *normal;
} shapes[] = {
    {"q#_k_@", "q#k@"}, {"q#_0", "q#"}, {"q#_#", "q#_#"}, {"q#", "q#"}, {"f#", "f#"}, {"fp#", "f#"}, {"int#", "int#"},
};

/* Does s begin with that shape? What # and @ stand for goes to `got`; no shape has more than two of them. */
static bool shape_at(const char *like, struct str s, struct str got[2])
{
    size_t holes = 0;
    for (; *like; like++) {
        size_t n = s.n > 0 && str_lower(s.p[0]) == *like;
        if (*like == '#' || *like == '@') {
            n = *like == '#' ? digits(s) : leads(s, STR("mslMSL"));
            got[holes++] = (struct str){s.p, n};
        }
        if (n == 0) {
            return false;
        }
        s = str_skip(s, n);
    }
    return true;
}

static bool shape_in(const char *like, struct str s, struct str got[2])
{
    for (; s.n > 0; s = str_skip(s, 1)) {
        if (shape_at(like, s, got)) {
            return true;
        }
    }
    return false;
}

static bool add_shaped(struct text *t, struct str said)
{
    struct str got[2] = {{NULL, 0}, {NULL, 0}};
    for (size_t i = 0; i < OLLA_COUNT(shapes); i++) {
        if (shape_in(shapes[i].like, said, got)) {
            size_t holes = 0;
            for (const char *c = shapes[i].normal; *c; c++) {
                add_lower(t, *c == '#' || *c == '@' ? got[holes++] : (struct str){c, 1});
            }
            return true;
        }
    }
    return false;
}

void traits_quantization(struct str said, struct text *normal)
{
    struct str known = paired(quantizations, said, true);
    if (known.n > 0) {
        text_add(normal, known);
    } else if (!add_shaped(normal, said)) {
        add_lower(normal, said);
    }
}

/* ---- parameters ------------------------------------------------------------------ */

#define MILLION UINT64_C(1000000)
#define BILLION UINT64_C(1000000000)

/* The decimals `s` as parts of unit (a power of ten); *dust: there was more than fits. */
static uint64_t decimals(struct str s, uint64_t unit, bool *dust)
{
    uint64_t v = 0;
    *dust = false;
    for (size_t i = 0; i < s.n; i++) {
        unit /= 10;
        v += (uint64_t)(s.p[i] - '0') * unit;
        *dust = *dust || (unit == 0 && s.p[i] != '0');
    }
    return v;
}

/* v / unit, to the nearest; exactly between two, to the even one, as printf does with the fractions it can hold. */
static uint64_t rounded(uint64_t v, uint64_t unit, bool dust)
{
    uint64_t q = v / unit, r = v % unit;
    bool up = r > unit / 2 || (r == unit / 2 && (dust || q % 2 == 1));
    return q + up;
}

uint64_t traits_parameters(struct str said, struct text *normal)
{
    struct str number = number_at(said), unit = str_skip(said, number.n);
    size_t whole_n = digits(said);
    uint64_t whole;
    bool dust;

    unit = str_skip(unit, leads(unit, STR(" ")));
    bool millions = str_ieq(unit, STR("m"));
    uint64_t scale = millions ? MILLION : BILLION;
    if ((unit.n > 0 && !millions && !str_ieq(unit, STR("b"))) ||
        str_to_u64((struct str){said.p, whole_n}, INT64_MAX / scale - 1, &whole) != OLLA_OK) {
        text_add(normal, said);
        return 0;
    }
    uint64_t count = whole * scale + decimals(str_skip(number, whole_n + 1), scale, &dust);
    if (millions && whole < 1000) {
        text_u64(normal, rounded(count, MILLION, dust));
        text_char(normal, 'm');
        return count;
    }
    uint64_t tenths = rounded(count, BILLION / 10, dust);
    text_u64(normal, tenths / 10);
    if (tenths % 10 > 0) {
        text_char(normal, '.');
        text_u64(normal, tenths % 10);
    }
    text_char(normal, 'b');
    return count;
}

/* ---- capabilities ------------------------------------------------------------------ */

static const char *const capabilities[] = {
    "text-generation",
    "code-generation",
    "programming",
    "code-completion",
    "instruction-following",
    "chat",
    "reasoning",
    "logic",
    "mathematics",
    "problem-solving",
    "vision",
    "multimodal",
    "image-understanding",
    "extended-context",
    "long-context",
    "ultra-long-context",
    "completion",
    "embeddings",
    "vector_search",
    "tools",
};

static const struct {
    const char *words; /* anywhere in the name */
    unsigned adds;
} hints[] = {
    {"code", CAP_CODE_GENERATION | CAP_PROGRAMMING | CAP_CODE_COMPLETION},
    {"instruct chat assistant", CAP_INSTRUCTION_FOLLOWING | CAP_CHAT},
    {"reasoning think", CAP_REASONING | CAP_LOGIC},
    {"math", CAP_MATHEMATICS | CAP_PROBLEM_SOLVING},
    {"vision vlm llava", CAP_SET_VISION},
};

/* The last one that is reached counts. */
static const struct {
    uint32_t tokens;
    unsigned adds;
} contexts[] = {
    {32000, CAP_EXTENDED_CONTEXT},
    {100000, CAP_LONG_CONTEXT},
    {1000000, CAP_LONG_CONTEXT | CAP_ULTRA_LONG_CONTEXT},
};

unsigned traits_capabilities(struct str name, uint32_t context, unsigned said)
{
    unsigned caps = said | CAP_TEXT_GENERATION, length = 0;

    if (said & CAP_EMBEDDINGS) {
        caps &= ~(unsigned)CAP_TEXT_GENERATION;
    }
    for (size_t i = 0; i < OLLA_COUNT(hints); i++) {
        caps |= has_word(hints[i].words, name) ? hints[i].adds : 0;
    }
    for (size_t i = 0; i < OLLA_COUNT(contexts) && context >= contexts[i].tokens; i++) {
        length = contexts[i].adds;
    }
    return caps | length;
}

const char *traits_capability_name(int i)
{
    return i >= 0 && (size_t)i < OLLA_COUNT(capabilities) ? capabilities[i] : NULL;
}
