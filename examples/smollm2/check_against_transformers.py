# SPDX-License-Identifier: Apache-2.0
"""Compares this folder's tokenizer and forward pass with Hugging Face transformers, same GGUF file.

Needs torch and transformers, which the demo does not install; README.md says how to run it and what
it measured. Exit code 1 if anything differs by more than the tolerance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine import Engine
from model import Model, find_gguf, open_gguf
from paged_cache import BLOCK_TOKENS, PagedCache
from tokenizer import Tokenizer

HARD_TEXT = (
    "Block 71 of 64 is out of range; 32768 bytes, 12.5 GB/s, 2026-11-24.\n\n"
    "    auto const x = layout.at(b, l);  // 3rd\ttab\n"
    "It's we'll they've -- \u00e9\u00df\u4e2d\u6587 \u0663\u0664 \U0001f600\r\n  trailing   "
    "<|im_start|>user\nhello<|im_end|>\n"
)


def compare_tokenizers(ours: Tokenizer, theirs: AutoTokenizer, texts: list[str]) -> int:
    """Prints and returns the number of texts whose ids differ."""
    differing = 0
    total = 0
    for text in texts:
        got = ours.encode(text)
        want = theirs.encode(text, add_special_tokens=False)
        total += len(want)
        if got != want:
            differing += 1
            at = next(i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b)
            print(f"  differs at token {at}: {got[at - 3 : at + 5]} != {want[at - 3 : at + 5]}")
            print(f"  {ours.decode(want[at - 3 : at + 5])!r}")
    print(f"tokenizer: {len(texts)} texts, {total} tokens, {differing} texts differ")
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", type=Path, help="text files to compare on")
    parser.add_argument("--tokens", type=int, default=400, help="positions to compare")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens to generate")
    parser.add_argument("--tolerance", type=float, default=5e-3, help="largest logit difference")
    arguments = parser.parse_args()

    path = find_gguf()
    reader = open_gguf(path)
    model, tokenizer = Model.load(reader), Tokenizer.load(reader)
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    reference = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
    reference_tokenizer = AutoTokenizer.from_pretrained(**source)

    texts = [file.read_text(encoding="utf-8") for file in arguments.texts]
    texts.append(Path(__file__).read_text(encoding="utf-8"))
    print("transformers' own conversion of the tokenizer:")
    compare_tokenizers(tokenizer, reference_tokenizer, [*texts, HARD_TEXT])
    # The conversion ignores tokenizer.ggml.pre and so loses the rule of "smollm" that every digit
    # stands alone, which shows where white space precedes a digit. With the rule put back, the
    # ids must be equal.
    backend = reference_tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
    print("the same with the digit rule of pre-tokenizer 'smollm' put back:")
    differing = compare_tokenizers(tokenizer, reference_tokenizer, [*texts, HARD_TEXT])

    turn = tokenizer.chat("Explain this.\n\n" + texts[0])
    template = reference_tokenizer.apply_chat_template(
        [{"role": "user", "content": "Explain this.\n\n" + texts[0]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    print(f"chat template: {'equal' if turn == template else 'DIFFERS'}")

    ids = tokenizer.encode(texts[0])[: arguments.tokens]
    shape = model.shape
    num_blocks = (len(ids) + arguments.new_tokens) // BLOCK_TOKENS + 1
    cache = PagedCache(shape.num_layers, shape.num_kv_heads, shape.head_dim, num_blocks)
    got = model.logits(model.forward(np.array(ids), 0, cache))
    with torch.no_grad():
        want = reference(torch.tensor([ids])).logits[0].numpy()
    difference = float(np.abs(got - want).max())
    same = int((got.argmax(-1) == want.argmax(-1)).sum())
    print(f"logits: {got.shape}, range [{want.min():.2f}, {want.max():.2f}]")
    print(f"logits: largest absolute difference {difference:.2e}, argmax equal {same}/{len(ids)}")

    generated = Engine(model, cache).generate(ids, arguments.new_tokens).tokens
    with torch.no_grad():
        continued = reference.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=arguments.new_tokens,
            min_new_tokens=arguments.new_tokens,
            do_sample=False,
            eos_token_id=None,
        )[0, len(ids) :].tolist()
    equal = generated == continued
    print(f"greedy: {arguments.new_tokens} tokens {'equal' if equal else 'DIFFER'}")
    ok = not differing and turn == template and difference <= arguments.tolerance
    return 0 if ok and same == len(ids) and equal else 1


if __name__ == "__main__":
    sys.exit(main())
