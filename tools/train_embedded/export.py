# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Write the embedded model's folder from a checkpoint, and prove that it computes what was trained.

The logits of the ONNX file, on the reference evaluator and on ONNX Runtime, are compared with those of the
network with the same rounded weights, over a ragged prefill and a few ragged decode steps.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.shape_inference
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator
from tokenizers import Tokenizer

from genai_iface.backend_kit import switch_off_telemetry
from tools.train_embedded.answers import score_answers
from tools.train_embedded.batches import held_out_texts, question_share, read_rows
from tools.train_embedded.graph import POSITIONS, build
from tools.train_embedded.model import Config, Decoder
from tools.train_embedded.quantize import quantize_decoder
from tools.train_embedded.start import start_from
from tools.train_embedded.text.conversations import ASSISTANT, END_OF_TEXT, TEMPLATE, USER
from tools.train_embedded.train import PROMPTS, held_out_loss

TOLERANCE = 1e-4
#: A prompt about an operator that training never saw.
UNSEEN = "The CumSum operator"
#: What the samples of conversations ask; the last two are about an operator that training never saw, and off subject.
ASKED = (
    "What does Softmax do?", "What is a KV cache?", "Which inputs does Gather take?", "When was TensorScatter added?",
    "Is there an operator that computes the cosine?", "What does CumSum do?", "What is the capital of Sweden?",
)  # fmt: skip
EXACT = "float32 accumulation"
RunGraph = Callable[[dict[str, Any]], list[npt.NDArray[Any]]]


def load(checkpoint: Path) -> tuple[Decoder, dict[str, Any]]:
    """Return the network of a checkpoint in float32, and what the checkpoint says about the run."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    model = Decoder(Config(**state["config"]))
    model.load_state_dict(state["model"])
    return model.eval(), {key: state[key] for key in ("steps", "visits", "earlier", "seconds")}


def _run_session(session: Any, feeds: dict[str, Any]) -> list[npt.NDArray[Any]]:
    return list(session.run(None, feeds))


def runtimes(path: Path) -> dict[str, RunGraph]:
    """Return a function that runs the file, for the reference evaluator and, when installed, for ONNX Runtime."""
    reference = ReferenceEvaluator(str(path))
    out: dict[str, RunGraph] = {"onnx.reference": lambda feeds: list(reference.run(None, feeds))}
    switch_off_telemetry()
    try:
        import onnxruntime  # noqa: PLC0415 (an optional second opinion)
    except ImportError:
        return out
    for label, level in ((EXACT, "1"), ("default", "4")):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns of every cache copy, which plain arrays always cause
        # level 4 also rounds the activations of fused int8 products; level 1 computes in float32
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        out[f"onnxruntime {onnxruntime.__version__}, {label}"] = partial(_run_session, session)
    return out


class Steps:
    """Drive the file one ragged step at a time, with arrays as cache."""

    def __init__(self, run: RunGraph, config: Config, batch: int, capacity: int) -> None:
        self.run = run
        self.lengths = np.zeros(batch, np.int64)
        shape = (batch, config.kv_heads, capacity, config.head_dim)
        names = [f"{kind}_cache.{i}" for i in range(config.layers) for kind in ("key", "value")]
        self.caches = {name: np.zeros(shape, np.float32) for name in names}

    def step(self, ids: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Append the first ``counts`` tokens of each row and return all logits."""
        positions = self.lengths[:, None] + np.arange(ids.shape[1])[None]
        feeds = {"input_ids": ids, "position_ids": positions, "write_indices": self.lengths.copy(),
                 "nonpad_kv_seqlen": self.lengths + ids.shape[1], **self.caches}  # fmt: skip
        logits, *caches = self.run(feeds)
        self.caches = dict(zip(self.caches, caches, strict=True))
        self.lengths = self.lengths + counts
        return logits


@torch.no_grad()
def largest_difference(run: RunGraph, rounded: Decoder) -> float:
    """Return the largest difference of a real token's logits over a ragged prefill and four decode steps."""
    generator = np.random.default_rng(7)
    config = rounded.config
    rows = [generator.integers(1, config.vocab_size, size=n) for n in (9, 23, 14)]
    expected = [rounded(torch.from_numpy(row)[None])[0].numpy() for row in rows]
    steps = Steps(run, config, len(rows), 64)
    worst = 0.0
    at = np.zeros(len(rows), np.int64)
    # prefill of different lengths, a ragged chunk in which one row is idle, then single tokens
    for counts in ([5, 12, 8], [0, 7, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]):
        ids = np.zeros((len(rows), max(counts)), np.int64)
        for b, row in enumerate(rows):
            ids[b, : counts[b]] = row[at[b] : at[b] + counts[b]]
        logits = steps.step(ids, np.array(counts))
        for b in range(len(rows)):
            got, want = logits[b, : counts[b]], expected[b][at[b] : at[b] + counts[b]]
            worst = max(worst, float(np.abs(got - want).max(initial=0.0)))
        at += counts
    return worst


def continue_text(run: RunGraph, config: Config, tokenizer: Tokenizer, prompt: str, count: int) -> str:
    """Return the prompt and its greedy continuation of up to ``count`` tokens."""
    ids = tokenizer.encode(prompt).ids
    steps = Steps(run, config, 1, len(ids) + count)
    logits = steps.step(np.array([ids]), np.array([len(ids)]))
    for _ in range(count):
        token = int(logits[0, -1].argmax())
        if token == 0:
            break
        ids.append(token)
        logits = steps.step(np.array([[token]]), np.array([1]))
    return str(tokenizer.decode(ids))


def recited(tokenizer: Tokenizer, text: str, corpus: str, window: int = 8) -> float:
    """Return the share of a text's windows of tokens that occur verbatim in the training text."""
    ids = tokenizer.encode(text).ids
    pieces = [str(tokenizer.decode(ids[at : at + window])) for at in range(max(1, len(ids) - window + 1))]
    return sum(piece in corpus for piece in pieces) / len(pieces)


def write_config(folder: Path, config: Config) -> None:
    """Write the JSON files that describe the network and the tokenizer, in Hugging Face form."""
    llama = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 0, "eos_token_id": 0, "head_dim": config.head_dim, "hidden_act": "silu",
        "hidden_size": config.hidden_size, "initializer_range": 0.02, "intermediate_size": config.ffn_size,
        "max_position_embeddings": POSITIONS, "mlp_bias": False, "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers, "num_key_value_heads": config.kv_heads, "rms_norm_eps": config.epsilon,
        "rope_theta": config.rope_theta, "tie_word_embeddings": True, "torch_dtype": "float32", "use_cache": True,
        "vocab_size": config.vocab_size,
    }  # fmt: skip
    generation = {"bos_token_id": 0, "eos_token_id": 0, "do_sample": False}
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False, "model_max_length": POSITIONS, "chat_template": TEMPLATE,
    }  # fmt: skip
    for name, value in (("config", llama), ("generation_config", generation), ("tokenizer_config", tokenizer)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Export, check, and write what was measured beside the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder that the training script wrote")
    parser.add_argument("--corpus", type=Path, required=True, help="folder that the corpus script wrote")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--tokens", type=int, default=60, help="tokens of each sample")
    parser.add_argument("--before", type=Path, help="folder of an earlier model, to score on the same held-out text")
    parser.add_argument("--skip-held-out", action="store_true", help="do not compute the held-out perplexity")
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    model, facts = load(args.run / "checkpoint.pt")
    tokenizer = Tokenizer.from_file(str(args.run / "tokenizer.json"))
    matrices, rounded = quantize_decoder(model)

    path = out / "model.onnx"
    ir.save(build(model, matrices), str(path))
    onnx.checker.check_model(str(path), full_check=True)
    proto = onnx.load(str(path))
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    write_config(out, model.config)
    shutil.copyfile(args.run / "tokenizer.json", out / "tokenizer.json")

    report: dict[str, Any] = {**facts, "parameters": sum(p.numel() for p in model.parameters())}
    report["differences"] = {name: largest_difference(run, rounded) for name, run in runtimes(path).items()}
    rows = read_rows(args.corpus)
    if not args.skip_held_out:
        held_out = [[*encoding.ids, 0] for encoding in tokenizer.encode_batch(held_out_texts(rows))]
        report["held_out_perplexity_float"] = math.exp(held_out_loss(model, held_out, 512))
        report["held_out_perplexity_int8"] = math.exp(held_out_loss(rounded, held_out, 512))
        if args.before is not None:
            report["held_out_perplexity_before"] = math.exp(held_out_loss(start_from(args.before).model, held_out, 512))
        report["answers"] = score_answers(out)
    report["question_shares"] = [question_share(rows, tokenizer, focused=focused) for focused in (False, True)]
    report["samples"] = {}
    corpus = "\n".join(row["text"] for row in rows if row["split"] == "train")
    for name, run in runtimes(path).items():
        started = time.monotonic()
        samples = {p: continue_text(run, model.config, tokenizer, p, args.tokens) for p in (*PROMPTS, UNSEEN)}
        asked = {q: continue_text(run, model.config, tokenizer, f"{USER}{q}{ASSISTANT}", args.tokens) for q in ASKED}
        answers = {question: text.removeprefix(question) for question, text in asked.items()}
        taken = round(time.monotonic() - started, 2)
        report["samples"][name] = {"seconds": taken, "texts": samples, "answers": answers}
        report.setdefault("recited", {p: round(recited(tokenizer, t, corpus), 2) for p, t in samples.items()})
    report["bytes"] = {p.name: p.stat().st_size for p in sorted(out.iterdir())}
    print(json.dumps(report, indent=1))
    (args.run / "export.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if max(value for name, value in report["differences"].items() if not name.endswith("default")) > TOLERANCE:
        raise SystemExit(f"the logits differ by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
