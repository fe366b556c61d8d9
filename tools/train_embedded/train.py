# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Train the tokenizer and the network of the embedded model on the CPU.

A run stops when its time budget is used up; the learning rate follows the clock, so that a slower
machine gets fewer steps and not a cut-off schedule. A checkpoint is written every few minutes (to a temporary
name, then renamed), and ``--resume`` continues from it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional

from tools.train_embedded.model import Config, Decoder, greedy
from tools.train_embedded.ngram import trigram_perplexity

END_OF_TEXT = "<|endoftext|>"
SAVE_SECONDS = 150
SAMPLE_SECONDS = 400
#: Sources and terms that count more while the text is narrowed: what the first prompts are about.
FOCUS_SOURCES = ("onnx operator schemas", "own text")
FOCUS_TERMS = ("TensorScatter", "RMSNormalization", "RotaryEmbedding", "nonpad_kv_seqlen")
PROMPTS = (
    "The TensorScatter operator",
    "The Attention operator",
    "ONNX is",
    "The RMSNormalization operator",
    "A KV cache",
)


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
    tokenizer.train_from_iterator((row["text"] for row in rows if row["split"] == "train"), trainer)
    return tokenizer


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


@torch.no_grad()
def held_out_loss(model: Decoder, documents: list[list[int]], length: int) -> float:
    """Return the mean loss per token over whole documents, each read from its own start."""
    total, count = 0.0, 0
    for ids in documents:
        for at in range(0, len(ids) - 1, length):
            piece = torch.tensor([ids[at : at + length + 1]])
            loss = functional.cross_entropy(model(piece[:, :-1])[0], piece[0, 1:], reduction="sum")
            total, count = total + float(loss), count + piece.shape[1] - 1
    return total / count


def learning_rate(progress: float, steps: int, peak: float) -> float:
    """Warm up for 100 steps, then follow a cosine from the peak to a twentieth of it."""
    cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * min(1.0, (steps + 1) / 100) * cosine


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder that the corpus script wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json, checkpoints and the log")
    parser.add_argument("--minutes", type=float, default=60.0, help="time budget of the whole run")
    parser.add_argument("--steps", type=int, default=0, help="stop after this many steps (0: by time alone)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per step")
    parser.add_argument("--length", type=int, default=512, help="tokens per window in the last part of the run")
    parser.add_argument("--short", type=int, default=256, help="tokens per window before that (attention is cheaper)")
    parser.add_argument("--short-until", type=float, default=0.85, help="share of the run with short windows")
    parser.add_argument("--focus-from", type=float, default=0.5, help="share of the run before the text is narrowed")
    parser.add_argument("--focus-until", type=float, default=0.7, help="share after which all text counts again")
    parser.add_argument("--layers", type=int, default=Config.layers)
    parser.add_argument("--peak", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--resume", action="store_true", help="continue from checkpoint.pt")
    return parser.parse_args()


class Training:
    """One training run: its state, its log and its checkpoints."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        rows = read_rows(args.corpus)
        path = args.out / "tokenizer.json"
        if not (args.resume and path.exists()):
            train_tokenizer(rows, Config.vocab_size).save(str(path))
        self.tokenizer = Tokenizer.from_file(str(path))
        self.batches = Batches(rows, self.tokenizer, args.short, args.seed)
        held_out = [row["text"] for row in rows if row["split"] == "held_out"]
        self.held_out = [[*encoding.ids, 0] for encoding in self.tokenizer.encode_batch(held_out)]
        self.config = Config(layers=args.layers)
        self.model = Decoder(self.config)
        decay = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=args.peak, betas=(0.9, 0.95), fused=True)
        self.steps, self.visits, self.loss = 0, 0, 0.0
        self.started = time.monotonic()
        self.log = (args.out / "log.jsonl").open("a", encoding="utf-8")
        if args.resume and (args.out / "checkpoint.pt").exists():
            self.restore()

    def seconds(self) -> float:
        """Return the seconds of training so far, those before a resume included."""
        return time.monotonic() - self.started

    def restore(self) -> None:
        """Continue from the checkpoint."""
        state = torch.load(self.args.out / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.visits = state["steps"], state["visits"]
        self.started -= state["seconds"]
        self.batches.generator = np.random.default_rng((self.args.seed, self.steps))

    def save(self) -> None:
        """Write a checkpoint so that an interruption leaves either the old or the new one."""
        temporary = self.args.out / "checkpoint.tmp"
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "config": self.config.to_dict(),
                "steps": self.steps,
                "visits": self.visits,
                "seconds": self.seconds(),
            },
            temporary,
        )
        temporary.replace(self.args.out / "checkpoint.pt")

    def write(self, **values: Any) -> None:
        """Print one line of JSON and add it to the log."""
        line = json.dumps(values)
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def write_samples(self) -> None:
        """Log what the network writes after a few prompts."""
        for prompt in PROMPTS:
            ids = greedy(self.model, self.tokenizer.encode(prompt).ids, 60)
            self.write(prompt=prompt, text=self.tokenizer.decode(ids))

    def step(self, progress: float) -> None:
        """Take one optimizer step."""
        args, batches = self.args, self.batches
        if progress >= args.short_until and batches.length != args.length:
            batches.length, batches.starts = args.length, batches.starts[:0]
        focus = args.focus_from <= progress < args.focus_until
        if focus != batches.focus:
            batches.focus, batches.starts = focus, batches.starts[:0]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(progress, self.steps, args.peak)
        ids = batches.next(args.tokens // batches.length)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not args.float32):
            logits = functional.linear(self.model.hidden(ids[:, :-1]), self.model.embedding.weight)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps, self.visits = self.steps + 1, self.visits + ids[:, 1:].numel()
        self.loss = loss.item() if self.loss == 0 else 0.98 * self.loss + 0.02 * loss.item()

    def train(self) -> None:
        """Train until the time or the number of steps is used up, then score the held-out operators."""
        args = self.args
        self.write(
            event="start",
            step=self.steps,
            parameters=sum(p.numel() for p in self.model.parameters()),
            tokens=self.batches.tokens,
            weighted=self.batches.weighted,
            held_out=sum(map(len, self.held_out)),
            config=self.config.to_dict(),
            options={key: value for key, value in vars(args).items() if not isinstance(value, Path)},
        )
        sample = self.held_out[:: max(1, len(self.held_out) // 12)]
        saved = sampled = self.seconds()
        while (progress := self.seconds() / (60 * args.minutes)) < 1 and (not args.steps or self.steps < args.steps):
            self.step(progress)
            now = self.seconds()
            if self.steps % 50 == 0:
                rate = self.optimizer.param_groups[0]["lr"]
                self.write(step=self.steps, visits=self.visits, seconds=round(now), loss=round(self.loss, 4), lr=rate)
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = now
            if now - sampled > SAMPLE_SECONDS:
                loss = held_out_loss(self.model, sample, args.length)
                self.write(step=self.steps, held_out_sample=round(loss, 4))
                self.write_samples()
                sampled = now
        self.save()
        documents, weights = self.batches.documents, self.batches.weights
        final = held_out_loss(self.model, self.held_out, args.length)
        self.write(
            event="end",
            steps=self.steps,
            visits=self.visits,
            seconds=round(self.seconds()),
            train_loss=round(self.loss, 4),
            held_out_loss=round(final, 4),
            held_out_perplexity=round(math.exp(final), 3),
            trigram_perplexity=round(trigram_perplexity(documents, weights, self.held_out, self.config.vocab_size), 3),
        )
        self.write_samples()


def main() -> None:
    """Train, log, save."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    Training(args).train()


if __name__ == "__main__":
    main()
