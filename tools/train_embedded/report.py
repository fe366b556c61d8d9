# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Write ``PROVENANCE.md`` into the model folder and the page about the embedded model for the docs.

Every number comes from the manifest of the corpus, the log of the training run and the report of the export.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from tools.train_embedded.corpus import QUESTIONS
from tools.train_embedded.export import UNSEEN
from tools.train_embedded.model import TEXT_TOKENS
from tools.train_embedded.text.conversations import CHAT_TOKENS

HEADER = """<!--
SPDX-FileCopyrightText: The ONNX generative-AI interface authors
SPDX-License-Identifier: Apache-2.0
-->
"""
#: Documents that the corpus has for each operator.
PHRASINGS = 5
#: How the weights came about that the run of today begins with; the numbers are those of its own report.
EARLIER_PARTS = """\
- First part, from random weights, on the text without questions: 1816 steps, 7438336 token visits, 60
  minutes, 3 interruptions. AdamW (betas 0.9 and 0.95, weight decay 0.1, clipping at 1), peak learning rate 0.0015,
  100 steps of warm-up, cosine by the clock to a twentieth; 4096 tokens per step in windows of 256, in the last 15 % of
  the time 512. In the steps 1341 to 1539 the operators of ONNX and our own text counted 1.5 times, all other text half,
  and documents that name the operators of the cache interface 4 times as much. Bfloat16 autocast, seed 24. The weights
  were then rounded to int8; the float ones were not kept.
- Second part, from those int8 weights (the rows of the markers begin near the mean of the table), on all of the text:
  855 steps, 3502080 token visits, 77 minutes. Interruptions, each resumed from the last checkpoint: 3. Of the text,
  23 % by weight are questions and answers. AdamW as before with new moments, peak learning rate
  0.001, 100 steps of warm-up, cosine by the visits to a twentieth, windows as before, float32, seed
  24; the loss counts every token, those of questions too. From 65 % to 85 % of the visits the text was
  narrowed: questions, operators of ONNX and our own text count 1.5 times, all other text half, and
  documents that name Softmax or an operator of the cache interface 4 times as much; questions and answers
  are then 29 %. The machine was busy, so the budget was changed while it ran: 4780000 visits up to step 409, then
  4600000, and from step 592 on 3500000; the text was narrowed from that step on. Rounded to int8 again."""
#: Held-out perplexity of the model after the first part, as the report of the second part measured it.
AFTER_FIRST_PART = 10.10
COMMANDS = """<!-- not run: it trains for hours, in a copy of the repository -->
```bash
python -m tools.train_embedded.corpus --out work
python -m tools.train_embedded.train --corpus work --out work/run --visits 12200000 --float32
python -m tools.train_embedded.export --corpus work --run work/run --out genai_iface/models/onnx-prose
python -m tools.train_embedded.report --corpus work --run work/run --model genai_iface/models/onnx-prose \\
    --docs docs/embedded-model.md
```"""


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def quoted(samples: dict[str, str]) -> str:
    """Return the sample texts verbatim, each below its prompt."""
    return "\n\n".join(f"**{prompt}**\n\n```text\n{text}\n```" for prompt, text in samples.items())


class Facts:
    """What the three earlier scripts wrote down."""

    def __init__(self, corpus: Path, run: Path, model: Path) -> None:
        self.sources: list[dict[str, Any]] = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
        self.log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        self.export: dict[str, Any] = json.loads((run / "export.json").read_text(encoding="utf-8"))
        self.starts = [line for line in self.log if line.get("event") == "start"]
        self.end = [line for line in self.log if line.get("event") == "end"][-1]
        self.model = model
        self.samples: dict[str, str] = self.export["samples"]["onnx.reference"]["texts"]
        self.prompts = [prompt for prompt in self.samples if prompt != UNSEEN]
        self.answers: dict[str, str] = self.export["samples"]["onnx.reference"]["answers"]

    def source_table(self) -> str:
        """Return one row for each source of text."""
        rows = ["| Source | Version | Licence | Documents | Bytes | Weight |", "|---|---|---|---:|---:|---:|"]
        rows += [
            f"| {s['source']} | {s['version']} | {s['licence']} | {s['documents']} | {s['bytes']} | {s['weight']:g} |"
            for s in self.sources
        ]
        return "\n".join(rows)

    def checksums(self) -> str:
        """Return the checksum of each text that was read, and of the files that were written."""
        rows = ["| What | sha256 |", "|---|---|"]
        rows += [f"| `{name}` | `{sha256(self.model / name)}` |" for name in ("model.onnx", "tokenizer.json")]
        rows += [f"| text: {s['source']} | `{s['sha256']}` |" for s in self.sources]
        return "\n".join(rows)

    def same_samples(self) -> str:
        """Say on which runtimes the sample texts are the same."""
        shown = (self.samples, self.answers)
        same = [n for n, got in self.export["samples"].items() if (got["texts"], got["answers"]) == shown]
        other = [n for n in self.export["samples"] if n not in same]
        text = f"The texts are the same on {'; '.join(same)}."
        return text + (f" They differ in places on {'; '.join(other)}." if other else "")

    def recital(self) -> str:
        """Say how much of the samples stands in the training text, and show the prompt that does not."""
        shares = self.export["recited"]
        mean = sum(shares[prompt] for prompt in self.prompts) / len(self.prompts)
        return f"""The corpus is small and each part of it was seen many times, so the model recites: of all runs
of eight tokens in these texts, {100 * mean:.0f} % stand verbatim in the training text. After a prompt about an
operator that training never saw, it is {100 * shares[UNSEEN]:.0f} %:

{quoted({UNSEEN: self.samples[UNSEEN]})}"""

    def conversation(self) -> str:
        """Return sample questions with the model's answers."""
        rows = "\n".join(f"> {question}\n{answer}\n" for question, answer in self.answers.items())
        return f"```text\n{rows.rstrip()}\n```"

    def answer_table(self) -> str:
        """Return how many answers are about the operator that was asked about."""
        rows = ["| Question | Operators | Asked | About it | Ended by itself | As in training |",
                "|---|---|---:|---:|---:|---:|"]  # fmt: skip
        for row in self.export["answers"]:
            kind = "held out" if row["held_out"] else "seen"
            question = row["question"].format(name="X")
            rows.append(
                f"| {question} | {kind} | {row['operators']} | {row['about']} | {row['ended']} | {row['verbatim']} |"
            )
        return "\n".join(rows)

    def change(self) -> str:
        """Say what the last part did to the held-out perplexity."""
        before, after = (self.export[f"held_out_perplexity_{which}"] for which in ("before", "int8"))
        change = 100 * (after / before - 1)
        if change <= 0:
            return f"The last part lowered the perplexity on held-out operators by {-change:.1f} %."
        return (
            f"The last part raised the perplexity on held-out operators by {change:.1f} %: further passes over so\n"
            "small a text teach its words by heart, and nothing about operators that are not in it."
        )

    def shown(self) -> str:
        """Return the sample texts of the prompts about known subjects."""
        return quoted({prompt: self.samples[prompt] for prompt in self.prompts})

    def differences(self) -> str:
        """Return the largest difference of the logits for each runtime."""
        return "\n".join(f"- {name}: {value:.1e}" for name, value in self.export["differences"].items())


def provenance(facts: Facts, note: str) -> str:
    """Return the text of ``PROVENANCE.md``."""
    end, export, config = facts.end, facts.export, facts.starts[0]["config"]
    held_out = sum(s["held_out_documents"] for s in facts.sources if s["source"] != QUESTIONS)
    options = facts.starts[-1]["options"]
    share, focused_share = (100 * value for value in export["question_shares"])
    narrowed = (
        f"From {100 * options['focus_from']:.0f} % to {100 * options['focus_until']:.0f} % of the visits the text was"
        "\n  narrowed: questions, operators of ONNX and our own text count 1.5 times, all other text half, and"
        "\n  documents that name Softmax or an operator of the cache interface 4 times as much; questions and answers"
        f"\n  are then {focused_share:.0f} %."
    )
    kinds = "float32" if options["float32"] else "bfloat16 autocast"
    resumed = len(facts.starts) - 1
    pause = f" Interruptions, each resumed from the last checkpoint: {resumed}." if resumed else ""
    remark = f"\n- {note}" if note else ""
    return f"""{HEADER}
# Where this model comes from

A small decoder, trained from scratch by `tools/train_embedded` in this repository. Licence of the weights, the
tokenizer and this folder: Apache-2.0. It writes sentences in the style of documentation; they need not be true.

## Text

All text is read from installed packages, offline, plus a text of our own (`tools/train_embedded/text/own_text.md`).
Code, tables, doctests and drawings are dropped. Each operator of ONNX is rendered in five phrasings. *Weight* says
how often one pass over the corpus visits a document. The questions and answers are made by rule from the operator
schemas and from our own text (`questions.py` and `conversations.py` in `text`): many phrasings of a question, and as
answer one to three sentences of the source that name the operator; some follow-up questions, some with a system
message, and some off the subject, which get an answer that says so.

{facts.source_table()}

Copyright of the texts: the ONNX Project Contributors (ONNX, ONNX IR), the NumPy Developers, the Python Software
Foundation, the PyTorch contributors, the Pallets project (Jinja).

Held out for evaluation: every operator whose name hashes to a multiple of ten (never TensorScatter, Attention,
RMSNormalization, RotaryEmbedding, Softmax): {held_out // PHRASINGS} operators, {held_out} documents,
{facts.starts[0]["held_out"]} tokens. No rendering of these operators and no question on them was used in training.
Softmax was held out of the first part as well; it is what first questions are about, so the later parts learned it,
and below it does not count as held out.

## Recipe

- Byte-level BPE, {TEXT_TOKENS} tokens, digits apart, `<|endoftext|>` (id 0) between documents, and behind them
  {config["vocab_size"] - TEXT_TOKENS} markers of turns: {", ".join(f"`{token}`" for token in CHAT_TOKENS)}.
  {facts.starts[0]["tokens"]} tokens of training text, {facts.starts[0]["weighted"]} with the weights.
- Llama-style decoder: {config["layers"]} layers, width {config["hidden_size"]}, {config["heads"]} query heads and
  {config["kv_heads"]} key and value heads of {config["head_dim"]}, SwiGLU of {config["ffn_size"]}, tied embedding,
  RoPE with theta {config["rope_theta"]:g}, no biases: {export["parameters"]} parameters.
{EARLIER_PARTS}
- Third part, from the int8 weights of the second, on all of the text: {end["steps"]} steps, {end["visits"]} token
  visits, {end["seconds"] / 60:.0f} minutes.{pause} Of the text,
  {share:.0f} % by weight are questions and answers.
  AdamW as before with new moments, peak learning rate {options["peak"]:g}, 100 steps of warm-up, cosine by the visits
  to a twentieth; {options["tokens"]} tokens per step in windows of {options["short"]}, from
  {100 * options["short_until"]:.0f} % on {options["length"]}; {kinds}, seed {options["seed"]}. {narrowed}
- {end["earlier"] + end["visits"]} token visits in all, with PyTorch on two CPU cores that were shared with other
  work.{remark}
- Weights rounded to int8, symmetric, one float32 scale for each block of 32 rows and each column.

A second run gives a model of the same kind and not the same bits: the first part followed the clock.

## Results

| | |
|---|---:|
| training loss (running mean, nats per token) | {end["train_loss"]:.3f} |
| held-out loss, float32 weights | {math.log(export["held_out_perplexity_float"]):.3f} |
| held-out perplexity per token, float32 weights | {export["held_out_perplexity_float"]:.2f} |
| held-out perplexity per token, int8 weights | {export["held_out_perplexity_int8"]:.2f} |
| the same of the model after the first part, int8 weights | {AFTER_FIRST_PART:.2f} |
| the same of the model after the second part, int8 weights | {export["held_out_perplexity_before"]:.2f} |
| held-out perplexity per token, interpolated 3-gram baseline | {end["trigram_perplexity"]:.2f} |

{facts.change()}

Largest difference of a logit from PyTorch with the same rounded weights, over a ragged prefill, a chunk with an idle
row and four decode steps of three rows:

{facts.differences()}

ONNX Runtime's default also rounds the activations of int8 products to 8 bits; hence its larger difference.

## Samples

Greedy, 60 tokens, the int8 model on the `onnx.reference` evaluator. {facts.same_samples()}

{facts.shown()}

{facts.recital()}

### Conversations

Questions by the chat template, greedy, at most 60 tokens. CumSum is held out.

{facts.conversation()}

One question for each operator that has a description. An answer is *about it* when it names the operator and shares a
content word with the schema's description; that does not make it true. The second phrasing occurs nowhere in training.
*As in training* counts the answers that are, word for word, what the rules make of the schema.

{facts.answer_table()}

## Checksums

{facts.checksums()}
"""


def page(facts: Facts) -> str:
    """Return the page for the docs."""
    export = facts.export
    size = sum(p.stat().st_size for p in facts.model.iterdir()) / 1e6
    return f"""{HEADER}
# The embedded model

The package carries one small model, `onnx-prose`, so that the first command prints text without a download:

```python
from genai_iface import TextGenerationPipeline

with TextGenerationPipeline() as pipe:
    print(pipe.generate("The TensorScatter operator", max_new_tokens=60).text)
    print(pipe.generate([{{"role": "user", "content": "What does Softmax do?"}}]).text)
```

It is meant for first steps, examples and tests. It has {export["parameters"] / 1e6:.1f} million parameters and has
read a few megabytes of documentation, so it writes sentences that look like documentation. **They need not be true.**

## What it is

- A Llama-style decoder as a standard ONNX graph: opset 24, default domain only, `TensorScatter`, `Attention` with
  `nonpad_kv_seqlen`, `RotaryEmbedding`, `RMSNormalization`; int8 weights as blocked `DequantizeLinear` in front of
  `MatMul`. The cache has rank 4 and a symbolic capacity.
- {size:.1f} MB in all, weights inside `model.onnx`. The position table has 2048 rows; training used windows of up to
  512 tokens, so long texts wander.
- Beginning and end token are both `<|endoftext|>`, id 0. The tokenizer adds nothing to a prompt.
- A chat template, in `tokenizer_config.json`: each turn begins with `<|system|>`, `<|user|>` or `<|assistant|>`, and an
  answer ends with `<|endoftext|>`.

## What it writes

Greedy, 60 tokens, verbatim:

{facts.shown()}

{facts.same_samples()}

{facts.recital()}

## What it answers

It was trained on questions about the operators of ONNX, made by rule from their schemas, so `genai-iface chat` works.
It knows little else: questions on its own text (a KV cache) and off its subject were among them too, and the samples
show how far that goes. Greedy, verbatim; CumSum is an operator that training never saw:

{facts.conversation()}

Asked about each operator that has a description, this many answers are about it: they name it and share a content word
with its description, which does not make them true. The second phrasing occurs nowhere in training.

{facts.answer_table()}

## How good it is

Perplexity per token on operators that it never saw: {export["held_out_perplexity_int8"]:.2f}. An interpolated
3-gram model of the same training tokens has {facts.end["trigram_perplexity"]:.2f}. Before rounding to int8 the
network had {export["held_out_perplexity_float"]:.2f}. It was trained in three parts: after the first, 7.4 million token
visits and no questions, it had {AFTER_FIRST_PART:.2f} on the same text; after the second, at
{facts.end["earlier"] / 1e6:.1f} million, {export["held_out_perplexity_before"]:.2f}. Now it has read
{(facts.end["earlier"] + facts.end["visits"]) / 1e6:.1f} million. {facts.change()}

## How to make it again

The text is taken from installed packages, so no network is needed. Training takes two to three hours on two CPU cores.

{COMMANDS}

An interrupted run goes on with `--resume`, and `--start-from genai_iface/models/onnx-prose` trains the present model
further. The export compares the logits of the file with those of PyTorch and fails
when they differ by more than 1e-4.

## Licence

The model, its tokenizer and the scripts are under Apache-2.0. The texts come from ONNX and ONNX IR (Apache-2.0),
NumPy, PyTorch and Jinja (BSD-3-Clause), Python (PSF-2.0) and from us (Apache-2.0). Versions, byte counts and
checksums are in `genai_iface/models/onnx-prose/PROVENANCE.md`.
"""


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder that the corpus script wrote")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run, after the export")
    parser.add_argument("--model", type=Path, required=True, help="model folder; PROVENANCE.md is written there")
    parser.add_argument("--docs", type=Path, help="page of the docs to write")
    parser.add_argument("--note", default="", help="a remark on the run for the recipe")
    args = parser.parse_args()
    facts = Facts(args.corpus, args.run, args.model)
    (args.model / "PROVENANCE.md").write_text(provenance(facts, args.note), encoding="utf-8")
    if args.docs:
        args.docs.write_text(page(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
