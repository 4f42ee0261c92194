/*
 * traits.h - level 2: what the name of a model and the words of its server
 * tell about it: family, publisher, quantisation, size, owner, capabilities.
 *
 * Everything here looks at text and keeps nothing. Any bytes are accepted; ASCII
 * case never matters. What is not known is empty or 0, never guessed. Text goes to
 * the builders of the caller, who checks `full`: a name is at most that of a model,
 * so OLLA_MODEL_NAME bytes are always enough.
 *
 * May include: olla.h, str.h.
 */
#ifndef OLLA_TRAITS_H
#define OLLA_TRAITS_H

#include "str.h"

/* Adds family and variant in lower case ("llama3.2:3b": "llama", "3.2"), for models whose server does not tell them. */
void traits_family(struct str name, struct text *family, struct text *variant);

/* Who made the model: the text before the first '/', else by how the name begins. Points into name, or is static. */
struct str traits_publisher(struct str name);

/* Adds the normal form of a quantisation: "Q4_K_M" -> "q4km"; what is not recognised, in lower case. */
void traits_quantization(struct str said, struct text *normal);

/*
 * Adds the normal form of a number of parameters ("3.2B" -> "3.2b", "1543.7M" -> "1.5b") and returns that number.
 * What is no such size is added as it is, and the result is 0.
 */
uint64_t traits_parameters(struct str said, struct text *normal);

/* Owner in OpenAI-style listings: the text before the first '/', else what stands before the first '-' if that looks
 * like an organisation, else fallback. Points into id, or is fallback. */
struct str traits_owner(struct str id, struct str fallback);

/* Bit i is word i of traits_capability_name. */
enum {
    CAP_TEXT_GENERATION = 1 << 0,
    CAP_CODE_GENERATION = 1 << 1,
    CAP_PROGRAMMING = 1 << 2,
    CAP_CODE_COMPLETION = 1 << 3,
    CAP_INSTRUCTION_FOLLOWING = 1 << 4,
    CAP_CHAT = 1 << 5,
    CAP_REASONING = 1 << 6,
    CAP_LOGIC = 1 << 7,
    CAP_MATHEMATICS = 1 << 8,
    CAP_PROBLEM_SOLVING = 1 << 9,
    CAP_VISION = 1 << 10,
    CAP_MULTIMODAL = 1 << 11,
    CAP_IMAGE_UNDERSTANDING = 1 << 12,
    CAP_EXTENDED_CONTEXT = 1 << 13,
    CAP_LONG_CONTEXT = 1 << 14,
    CAP_ULTRA_LONG_CONTEXT = 1 << 15,
    CAP_COMPLETION = 1 << 16,
    CAP_EMBEDDINGS = 1 << 17,
    CAP_VECTOR_SEARCH = 1 << 18,
    CAP_TOOLS = 1 << 19,

    /* What always comes together. */
    CAP_SET_VISION = CAP_VISION | CAP_MULTIMODAL | CAP_IMAGE_UNDERSTANDING,
    CAP_SET_EMBEDDINGS = CAP_EMBEDDINGS | CAP_VECTOR_SEARCH
};

/*
 * What follows from the name and the context length (tokens; 0: not told), joined with what the server said itself.
 * Every model generates text, except one that the server says is for embeddings.
 */
unsigned traits_capabilities(struct str name, uint32_t context, unsigned said);

/* The word for bit i; NULL when there is none, which ends a loop from 0. */
const char *traits_capability_name(int i);

#endif
