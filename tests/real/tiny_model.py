#!/usr/bin/env python3
"""Write a tiny llama-architecture model in GGUF with random weights (about 0.5 MB).

    tiny_model.py OUT.gguf NAME SEED

It runs inside the system that prepare.sh makes, which has python3-gguf and numpy. The text such a model writes is
noise; the server in front of it does all that it does for a large one.
"""
import sys

import gguf
import numpy as np

EMBEDDING, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 128, 8192
SPACE = "\u2581"
COMMON = ("the a of and to in is it you that he was for on are with as his they be at one have this from or had by not "
          "but what all were we when your can said there use an each which she do how their if will up other about out "
          "many then them these so some her would make like him into time has look two more go see").split()
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;!?'\"()<>{}[]:-_/\\\n"


def vocabulary():
    """Control tokens, every single byte (so any text can be tokenised), common words and letters."""
    kind = gguf.TokenType
    entries = [(b"<unk>", kind.UNKNOWN), (b"<s>", kind.CONTROL), (b"</s>", kind.CONTROL)]
    entries += [(b"<0x%02X>" % i, kind.BYTE) for i in range(256)]
    entries += [((SPACE + word).encode(), kind.NORMAL) for word in COMMON]
    entries += [(letter.encode(), kind.NORMAL) for letter in SPACE + LETTERS]
    return entries


def tensors(rng, vocabulary_size):
    def random(*shape, scale=0.05):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    ones = np.ones(EMBEDDING, np.float32)
    yield "token_embd", random(vocabulary_size, EMBEDDING, scale=1.0)
    yield "output_norm", ones
    yield "output", random(vocabulary_size, EMBEDDING, scale=0.25)
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm", ones
        yield prefix + "ffn_norm", ones
        for part in ("q", "k", "v", "output"):
            yield f"{prefix}attn_{part}", random(EMBEDDING, EMBEDDING)
        yield prefix + "ffn_gate", random(FEED_FORWARD, EMBEDDING)
        yield prefix + "ffn_up", random(FEED_FORWARD, EMBEDDING)
        yield prefix + "ffn_down", random(EMBEDDING, FEED_FORWARD)


def main(path, name, seed):
    entries = vocabulary()
    out = gguf.GGUFWriter(path, "llama")
    out.add_name(name)
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_context_length(CONTEXT)
    out.add_vocab_size(len(entries))
    out.add_embedding_length(EMBEDDING)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(FEED_FORWARD)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_rope_dimension_count(EMBEDDING // HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_tokenizer_model("llama")
    out.add_token_list([text for text, _ in entries])
    out.add_token_scores([-float(i) for i in range(len(entries))])
    out.add_token_types([kind for _, kind in entries])
    out.add_unk_token_id(0)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_chat_template("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] ")
    for tensor, values in tensors(np.random.default_rng(seed), len(entries)):
        out.add_tensor(tensor + ".weight", values)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
