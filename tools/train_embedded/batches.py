# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The training text as tokens: the tokenizer, and the windows that a training step reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.train_embedded.corpus import QUESTIONS
from tools.train_embedded.text.conversations import CHAT_TOKENS, END_OF_TEXT

#: Sources and terms that count more while the text is narrowed: what the first prompts are about.
FOCUS_SOURCES = ("onnx operator schemas", "own text", QUESTIONS)
FOCUS_TERMS = ("TensorScatter", "Softmax", "RMSNormalization", "RotaryEmbedding", "nonpad_kv_seqlen")


def read_rows(corpus: Path) -> list[dict[str, Any]]:
    """Read the documents of ``corpus.jsonl``."""
    return [json.loads(line) for line in (corpus / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]


def train_tokenizer(rows: list[dict[str, Any]], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer on the training documents; id 0 separates documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    texts = (row["text"] for row in rows if row["split"] == "train" and row["source"] != QUESTIONS)
    tokenizer.train_from_iterator(texts, trainer)
    return with_chat_tokens(tokenizer)


def with_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Add the markers of turns behind the vocabulary; those that are there already keep their ids."""
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CHAT_TOKENS])
    return tokenizer


def held_out_texts(rows: list[dict[str, Any]]) -> list[str]:
    """Return the documents of the operators that training never sees, without the questions on them."""
    return [row["text"] for row in rows if row["split"] == "held_out" and row["source"] != QUESTIONS]


def question_share(rows: list[dict[str, Any]], tokenizer: Tokenizer, *, focused: bool) -> float:
    """Return which share of the training tokens, by weight, belongs to questions and answers.

    Args:
        rows: the documents.
        tokenizer: what cuts them into tokens.
        focused: by the weights that count while the text is narrowed.
    """
    rows = [row for row in rows if row["split"] == "train"]
    counts = [len(encoding.ids) + 1 for encoding in tokenizer.encode_batch([row["text"] for row in rows])]
    weights = [focus_weight(row) if focused else row["weight"] for row in rows]
    weighted = [count * weight for count, weight in zip(counts, weights, strict=True)]
    return sum(w for w, row in zip(weighted, rows, strict=True) if row["source"] == QUESTIONS) / sum(weighted)


def focus_weight(row: dict[str, Any]) -> float:
    """Return the weight of a document while the text is narrowed."""
    weight = float(row["weight"]) * (1.5 if row["source"] in FOCUS_SOURCES else 0.5)
    return weight * (4 if any(term in row["text"] for term in FOCUS_TERMS) else 1)


class Batches:
    """Draw training windows: half start at a document's first token, half anywhere."""

    def __init__(self, rows: list[dict[str, Any]], tokenizer: Tokenizer, length: int, seed: int) -> None:
        rows = [row for row in rows if row["split"] == "train"]
        self.documents = [np.array(e.ids, np.int64) for e in tokenizer.encode_batch([row["text"] for row in rows])]
        self.weights = [float(row["weight"]) for row in rows]
        self.focused = [focus_weight(row) for row in rows]
        self.focus = False
        self.length = length
        self.generator = np.random.default_rng(seed)
        self.stream = np.zeros(0, np.int64)
        self.starts = np.zeros(0, np.int64)
        self.order: list[tuple[int, bool]] = []
        self.tokens = int(sum(len(d) + 1 for d in self.documents))
        self.weighted = int(sum((len(d) + 1) * w for d, w in zip(self.documents, self.weights, strict=True)))

    def _new_pass(self) -> None:
        """Shuffle the documents (repeated by weight) into one stream and cut it into windows."""
        weights = self.focused if self.focus else self.weights
        copies = [i for i, w in enumerate(weights) for _ in range(int(w) + (self.generator.random() < w % 1))]
        self.generator.shuffle(copies)
        parts = [np.append(self.documents[i], 0) for i in copies]
        self.stream = np.concatenate(parts)
        first = np.cumsum([0] + [len(p) for p in parts[:-1]])
        windows: list[int] = []
        at = 0
        # a window starts where the last one ended; every second one moves on to the next document start
        while at + self.length + 1 < len(self.stream):
            windows.append(at)
            at += self.length
            if len(windows) % 2:
                nearest = int(np.searchsorted(first, at))
                if nearest < len(first) and first[nearest] - at < self.length // 2:
                    at = int(first[nearest])
        self.starts = np.array(windows)
        self.generator.shuffle(self.starts)

    def next(self, count: int) -> torch.Tensor:
        """Return (count, length + 1) token ids."""
        if len(self.starts) < count:
            self._new_pass()
        chosen, self.starts = self.starts[:count], self.starts[count:]
        return torch.from_numpy(np.stack([self.stream[s : s + self.length + 1] for s in chosen]))
