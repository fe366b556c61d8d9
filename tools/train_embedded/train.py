# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Train the tokenizer and the network of the embedded model on the CPU.

A run stops when its budget of token visits (``--visits``) or of time (``--minutes``) is used up, and the learning
rate follows that budget. A checkpoint is written every few minutes (to a temporary name, then renamed), and
``--resume`` continues from it. ``--start-from`` begins with the weights of a model folder that was exported before.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from tools.train_embedded.batches import Batches, held_out_texts, read_rows, train_tokenizer
from tools.train_embedded.model import TEXT_TOKENS, Config, Decoder, greedy
from tools.train_embedded.ngram import trigram_perplexity
from tools.train_embedded.start import start_from
from tools.train_embedded.text.conversations import ASSISTANT, USER

SAVE_SECONDS = 150
SAMPLE_SECONDS = 400
PROMPTS = (
    "The TensorScatter operator",
    "The Attention operator",
    "ONNX is",
    "The RMSNormalization operator",
    "A KV cache",
)
QUESTIONS = ("What does Softmax do?", "What is a KV cache?", "Which inputs does Gather take?", "Hello")


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
    parser.add_argument("--visits", type=int, default=0, help="token visits of this run; then time does not count")
    parser.add_argument("--start-from", type=Path, help="model folder of an earlier export to go on from")
    parser.add_argument("--steps", type=int, default=0, help="stop after this many steps (0: by the budget alone)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per step")
    parser.add_argument("--length", type=int, default=512, help="tokens per window in the last part of the run")
    parser.add_argument("--short", type=int, default=256, help="tokens per window before that (attention is cheaper)")
    parser.add_argument("--short-until", type=float, default=0.85, help="share of the run with short windows")
    parser.add_argument("--focus-from", type=float, default=0.5, help="share of the run before the text is narrowed")
    parser.add_argument("--focus-until", type=float, default=0.7, help="share after which all text counts again")
    parser.add_argument("--layers", type=int, default=Config.layers)
    parser.add_argument("--peak", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2, help="parts of a batch that are computed side by side")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--resume", action="store_true", help="continue from checkpoint.pt")
    return parser.parse_args()


class Training:
    """One training run: its state, its log and its checkpoints."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        rows = read_rows(args.corpus)
        path = args.out / "tokenizer.json"
        earlier = start_from(args.start_from) if args.start_from else None
        if not (args.resume and path.exists()):
            (earlier.tokenizer if earlier else train_tokenizer(rows, TEXT_TOKENS)).save(str(path))
        self.tokenizer = Tokenizer.from_file(str(path))
        self.batches = Batches(rows, self.tokenizer, args.short, args.seed)
        self.held_out = [[*encoding.ids, 0] for encoding in self.tokenizer.encode_batch(held_out_texts(rows))]
        self.model = earlier.model if earlier else Decoder(Config(layers=args.layers))
        self.config = self.model.config
        self.parameters = list(self.model.parameters())
        self.pool = ThreadPoolExecutor(args.threads)
        decay = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=args.peak, betas=(0.9, 0.95), fused=True)
        self.earlier = earlier.visits if earlier else 0
        self.steps, self.visits, self.loss = 0, 0, 0.0
        self.started = time.monotonic()
        self.log = (args.out / "log.jsonl").open("a", encoding="utf-8")
        if args.resume and (args.out / "checkpoint.pt").exists():
            self.restore()

    def seconds(self) -> float:
        """Return the seconds of training so far, those before a resume included."""
        return time.monotonic() - self.started

    def progress(self) -> float:
        """Return the share of the budget that is used up."""
        args = self.args
        share: float = self.visits / args.visits if args.visits else self.seconds() / (60 * args.minutes)
        return share

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
                "earlier": self.earlier,
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
        for question in QUESTIONS:
            asked = self.tokenizer.encode(f"{USER}{question}{ASSISTANT}").ids
            ids = greedy(self.model, asked, 60)[len(asked) :]
            self.write(question=question, text=self.tokenizer.decode(ids), ended=ids[-1] == 0)

    def gradients(self, ids: torch.Tensor) -> tuple[float, tuple[torch.Tensor, ...]]:
        """Return the loss of some windows and its gradients, apart from what other threads compute."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not self.args.float32):
            logits = functional.linear(self.model.hidden(ids[:, :-1]), self.model.embedding.weight)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        return loss.item(), torch.autograd.grad(loss, self.parameters)

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
        # each thread reads its part of the batch by itself: threads inside one product would wait for each other
        # at every operator, which on a machine with other work takes most of the time
        parts = ids.chunk(min(args.threads, len(ids)))
        results = list(self.pool.map(self.gradients, parts))
        shares = [len(part) / len(ids) for part in parts]
        for at, parameter in enumerate(self.parameters):
            parameter.grad = sum((gradients[at] * w for (_, gradients), w in zip(results, shares, strict=True)), 0.0)
        loss = sum(value * w for (value, _), w in zip(results, shares, strict=True))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps, self.visits = self.steps + 1, self.visits + ids[:, 1:].numel()
        self.loss = loss if self.loss == 0 else 0.98 * self.loss + 0.02 * loss

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
            earlier=self.earlier,
            config=self.config.to_dict(),
            options={key: value for key, value in vars(args).items() if not isinstance(value, Path)},
        )
        sample = self.held_out[:: max(1, len(self.held_out) // 12)]
        saved = sampled = self.seconds()
        while (progress := self.progress()) < 1 and (not args.steps or self.steps < args.steps):
            self.step(progress)
            now = self.seconds()
            if self.steps % 20 == 0:
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
            earlier=self.earlier,
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
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    Training(args).train()


if __name__ == "__main__":
    main()
