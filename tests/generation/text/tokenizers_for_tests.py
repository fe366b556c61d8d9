# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Small real tokenizers of the two kinds in use, behind the ``Tokenizer`` protocol's ``decode``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from genai_iface import InvalidInputError

TEXTS = (
    "The operator writes new keys into the cache.\n\n  Indented code: x = [1, 2]",
    "Привет, как дела? Съешь ещё этих булок.",
    "你好，世界。我们在写一个测试。",
    "こんにちは世界、テストです。",
    "안녕하세요 세계, 시험입니다.",
    "नमस्ते दुनिया, यह एक परीक्षण है।",
    "مرحبا بالعالم، هذا اختبار.",
    "שלום עולם, זו בדיקה.",
    "สวัสดีชาวโลก นี่คือการทดสอบ",
    "Γειά σου κόσμε, αυτό είναι δοκιμή.",
    "ሰላም ልዑል ይህ ፈተና ነው",
    "emoji 👩‍👩‍👧‍👦🏳️‍🌈🙂 and é é ö \U0001f9d1\U0001f3fd‍\U0001f680",
)


class Wrapped:
    """What generation needs of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.inner = tokenizer
        self.num_decoded = 0

    @property
    def vocab_size(self) -> int:
        return self.inner.get_vocab_size()

    @property
    def bos_token_id(self) -> int | None:
        return None

    @property
    def eos_token_id(self) -> int | None:
        return self.inner.token_to_id("</s>")

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        return self.inner.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = True) -> str:
        if any(not 0 <= token < self.vocab_size for token in token_ids):
            raise InvalidInputError("a token id is out of range")
        self.num_decoded += len(token_ids)
        return self.inner.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def to_json(self) -> str:
        return self.inner.to_str()

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_kwargs: Any,
    ) -> str:
        return "".join(message["content"] for message in messages)


def byte_level() -> Wrapped:
    """As GPT-2: any byte is a character of the alphabet; a few merges, so that tokens end within characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": 0, "</s>": 1} | {char: index + 2 for index, char in enumerate(alphabet)}
    merges = []
    for text in TEXTS:
        chars = [
            piece
            for word, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
            for piece in word
        ]
        for left, right in zip(chars[::3], chars[1::3], strict=False):
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return Wrapped(tokenizer)


def metaspace() -> Wrapped:
    """As Llama 2: SentencePiece with byte fallback; spaces are written as U+2581, the first one is dropped."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    merges = []
    # The last three texts have no pieces of their own and go through bytes.
    for text in TEXTS[:-3]:
        for char in text.replace(" ", "▁"):
            if char != "\n":
                vocab.setdefault(char, len(vocab))
        for word in text.split()[::2]:
            left, right = "▁", word[0]
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    return Wrapped(tokenizer)
