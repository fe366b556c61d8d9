# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What constrained output costs, apart from the model, for a byte-level vocabulary trained on Python's own library.

    python -m benchmarks.constrained

prints a JSON line for the table of tokens, then one for each constraint: milliseconds to compile it, microseconds per
token with and without it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from genai_iface import GenerationConfig
from genai_iface.folder import FolderTokenizer
from genai_iface.generation import GenerationHooks, Sampler
from genai_iface.generation.sampling.sampler import make_sampler

_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "email": {"type": "string", "pattern": "^[a-z0-9.]+@[a-z]+\\.(org|com)$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"type": "string"}},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string"}},
            "required": ["street", "zip"],
        },
    },
    "required": ["name", "email", "age", "tags", "address"],
}
_EXPRESSIONS = 'start: term ("+" term)*\nterm: NUMBER | NAME | "(" start ")"\nNUMBER: /[0-9]+/\nNAME: /[a-z_]+/'
_CONSTRAINTS: dict[str, dict[str, Any]] = {
    "json_schema": {"json_schema": _SCHEMA},
    "any JSON": {"json_schema": {}},
    "regex": {"regex": r"(https?://)?[a-z0-9.-]+\.(org|com)(/[a-z0-9/]*)?"},
    "lark_grammar": {"lark_grammar": _EXPRESSIONS},
}


def main() -> None:
    """Measures every constraint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vocab-size", type=int, default=50_000)
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="where the vocabulary is kept")
    parser.add_argument("--num-tokens", type=int, default=300, help="tokens for each constraint")
    arguments = parser.parse_args()
    tokenizer = FolderTokenizer(
        _vocabulary(arguments.work / f"vocabulary-{arguments.vocab_size}", arguments.vocab_size)
    )
    size = tokenizer.vocab_size
    base = {"benchmark": "constrained", "vocab_size": size}
    first = _milliseconds(lambda: _sampler({"regex": "a"}, tokenizer))
    print(json.dumps({**base, "step": "table of tokens", "milliseconds": round(first, 1)}))
    rng = np.random.default_rng(0)
    rows = [rng.normal(0, 2, size).astype(np.float32) for _ in range(16)]
    plain = statistics.median(_per_token(_sampler({}, tokenizer), rows, arguments.num_tokens))
    for name, fields in _CONSTRAINTS.items():
        compiling = _milliseconds(lambda fields=fields: _sampler(fields, tokenizer))  # type: ignore[misc]
        times = _per_token(_sampler(fields, tokenizer), rows, arguments.num_tokens)
        line = {
            **base,
            "constraint": name,
            "compile_milliseconds": round(compiling, 1),
            "microseconds": round(statistics.median(times), 1),
            "microseconds_99": round(float(np.percentile(times, 99)), 1),
            "microseconds_without": round(plain, 1),
            "num_tokens": len(times),
        }
        print(json.dumps(line))


def _sampler(fields: dict[str, Any], tokenizer: FolderTokenizer) -> Sampler:
    config = GenerationConfig(temperature=0.8, top_k=50, top_p=0.95, **fields)
    return make_sampler(
        config, GenerationHooks(), vocab_size=tokenizer.vocab_size, eos_token_ids=[0], tokenizer=tokenizer
    )


def _per_token(sampler: Sampler, rows: list[Any], num_tokens: int) -> list[float]:
    """Microseconds of each token: choosing it and asking whether the output is over. Begins anew where it is."""
    times: list[float] = []
    new: list[int] = []
    while len(times) < num_tokens:
        tokens = np.array([1, *new], dtype=np.int64)
        started = time.perf_counter()
        token = sampler.choose(rows[len(times) % len(rows)], tokens, len(new), 0)
        is_over = token == 0 or sampler.is_over([*new, token])
        times.append(1e6 * (time.perf_counter() - started))
        new = [] if is_over else [*new, token]
    return times


def _milliseconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - started)


def _vocabulary(folder: Path, size: int) -> Path:
    """A folder with a tokenizer.json, trained once."""
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
        )
        library = Path(sysconfig.get_paths()["stdlib"])
        files = islice((path for path in sorted(library.rglob("*.py")) if path.stat().st_size < 500_000), 3000)
        tokenizer.train_from_iterator((path.read_text("utf-8", "replace") for path in files), trainer)
        (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder


if __name__ == "__main__":
    main()
