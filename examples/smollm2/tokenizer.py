# SPDX-License-Identifier: Apache-2.0
"""The model's byte-level BPE tokenizer, built from the metadata of the GGUF file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as BpeTokenizer

from model import metadata, open_gguf

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
# The system turn that the model's chat template puts in front when the caller gives none.
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, bpe: BpeTokenizer, special_ids: Iterable[int], end_id: int):
        self._bpe = bpe
        self.special_ids = frozenset(special_ids)
        self.end_id = end_id  # <|im_end|>, which ends an assistant turn

    @classmethod
    def load(cls, reader: GGUFReader | None = None) -> Tokenizer:
        """Builds the tokenizer; a tokenizer kind other than SmolLM's BPE is a ValueError."""
        reader = open_gguf() if reader is None else reader
        kind = metadata(reader, "tokenizer.ggml.model")
        pre = metadata(reader, "tokenizer.ggml.pre")
        if (kind, pre) != ("gpt2", "smollm"):
            raise ValueError(f"tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported")
        tokens: list[str] = metadata(reader, "tokenizer.ggml.tokens")
        types: list[int] = metadata(reader, "tokenizer.ggml.token_type")
        merges = [tuple(merge.split(" ")) for merge in metadata(reader, "tokenizer.ggml.merges")]
        vocab = {token: index for index, token in enumerate(tokens)}
        bpe = BpeTokenizer(models.BPE(vocab=vocab, merges=merges))
        # "smollm": every digit is a word of its own, then GPT-2's word pattern over bytes.
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        bpe.decoder = decoders.ByteLevel()
        special = [i for i, token_type in enumerate(types) if token_type == TokenType.CONTROL]
        bpe.add_special_tokens([AddedToken(tokens[i], normalized=False) for i in special])
        return cls(bpe, special, int(metadata(reader, "tokenizer.ggml.eos_token_id")))

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of text; special tokens written out in it become their one id."""
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Returns the text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return str(self._bpe.decode(list(ids), skip_special_tokens=skip_special))

    def chat(self, user: str, system: str = DEFAULT_SYSTEM) -> str:
        """Returns the chat template's text for one user turn, ready for the assistant's answer."""
        return (
            f"{IM_START}system\n{system}{IM_END}\n"
            f"{IM_START}user\n{user}{IM_END}\n"
            f"{IM_START}assistant\n"
        )
