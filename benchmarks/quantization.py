# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What quantizing costs in quality: perplexity of the embedded model on the operators that it never saw.

    python -m benchmarks.quantization --backend ort

prints a JSON line for each form of the model, ``--markdown`` a table instead. The documents are those that
``tools/train_embedded`` holds out, each read from its own start in windows of 512 tokens.

    python -m benchmarks.quantization --backend ort --markdown --folder FLOAT_FOLDER

does the same for a float model, such as the real ones built with ``genai-iface build FILE.gguf FOLDER --dequantize``,
on 20 KB of English: the documentation of ONNX's operators, or ``--text FILE``. No form is calibrated with that text.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from genai_iface import load_model
from genai_iface.folder import ModelFolder, open_folder
from genai_iface.models import default_folder
from genai_iface.transform.quantize import CacheRange, english_text, measure_moments
from genai_iface.transform.quantize._folder import quantize_folder
from genai_iface.transform.quantize.calibration import calibrate, default_text, windows_of
from tools.train_embedded.text import onnx_docs

_WINDOW = 512
_EXACT = {"session_options": {"session.qdq_matmulnbits_accuracy_level": "1"}}
_END_OF_TEXT = 0
# The embedded model is int8 already, so its table compares roundings to nearest.
_AS_MEASURED: dict[str, Any] = {"search": False, "shared_head": False}
_BYTES, _PARAGRAPH = 20_000, 200
_CALIBRATION_TOKENS = 2048


def forms() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments of ``quantize_folder``; "kv" stands for the ranges of the cache."""
    for bits in (8, 4):
        for symmetric in (True, False):
            for block in (32, 64, 128):
                name = f"int{bits}, {'symmetric' if symmetric else 'asymmetric'}, blocks of {block}"
                yield name, {"bits": bits, "symmetric": symmetric, "block_size": block, **_AS_MEASURED}
    yield "int4, symmetric, blocks of 32, `--int8 lm_head`", {"bits": 4, "eight_bits": ["lm_head"], **_AS_MEASURED}
    yield "int4, symmetric, blocks of 32, `--exclude lm_head`", {"bits": 4, "exclude": ["lm_head"], **_AS_MEASURED}
    for scales in ("head", "channel"):
        yield f"cache int8, a scale per {scales}", {"bits": None, "kv_scales": scales, "kv": True}
    yield "int4, symmetric, blocks of 32, and cache int8", {"bits": 4, "kv": True, **_AS_MEASURED}


def real_forms(folder: ModelFolder) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Names and arguments for a float model: to nearest, by search, and calibrated on the text that is the default."""

    @cache
    def moments() -> Mapping[str, NDArray[np.float32]]:
        tokens = folder.tokenizer.encode(english_text())
        texts = windows_of(tokens, context=folder.context_length, most=_CALIBRATION_TOKENS)
        return measure_moments(folder, texts, session=_on_onnxruntime)

    yield "int4, `--nearest --separate-head`", lambda: {"bits": 4, "search": False, "shared_head": False}
    yield "int4, `--calibration none`", lambda: {"bits": 4}
    yield "int4", lambda: {"bits": 4, "moments": moments()}
    yield "int4, `--int8-share 0`", lambda: {"bits": 4, "moments": moments(), "share": 0}
    yield "int8, `--nearest`", lambda: {"bits": 8, "search": False}
    yield "int8", lambda: {"bits": 8, "moments": moments()}


def _on_onnxruntime(path: Path, wanted: Sequence[str]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it would say of every run that caches are not bound in place
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return lambda feeds: session.run(list(wanted), {name: feeds[name] for name in names})


def english(text: Path | None) -> str:
    """20 KB of English: what ONNX says of its operators, from Abs on."""
    if text is not None:
        return text.read_text(encoding="utf-8")
    docs = {schema.name: inspect.cleandoc(schema.doc or "") for schema in onnx.defs.get_all_schemas()}
    paragraphs = (" ".join(part.split()) for name in sorted(docs) for part in re.split(r"\n\s*\n", docs[name]))
    prose = [part for part in paragraphs if part[:1].isalpha() and len(part) > _PARAGRAPH]
    return "\n\n".join(prose)[:_BYTES]


def held_out(tokenizer: Any) -> list[list[int]]:
    """The tokens of each held-out document."""
    schemas = [schema for schema in onnx_docs.operators() if onnx_docs.is_held_out(schema.name)]
    return [[*tokenizer.encode(text), _END_OF_TEXT] for schema in schemas for text in onnx_docs.render(schema)]


def perplexity(folder: Path, documents: Sequence[Sequence[int]], backend: str) -> float:
    """Per token, over all documents."""
    model = load_model(folder, backend=backend, options=_EXACT if backend == "ort" else None)
    total, count = 0.0, 0
    for tokens in documents:
        for begin in range(0, len(tokens) - 1, _WINDOW):
            piece = np.array(tokens[begin : begin + _WINDOW + 1])
            cache = model.create_cache(capacity=_WINDOW)
            logits = model.forward(piece[None, :-1], cache, logits="all")[0].astype(np.float64)
            cache.close()
            peak = logits.max(axis=-1)
            sums = np.log(np.exp(logits - peak[:, None]).sum(axis=-1)) + peak
            total += float((sums - logits[np.arange(len(sums)), piece[1:]]).sum())
            count += len(sums)
    model.close()
    return math.exp(total / count)


def scored(
    source: ModelFolder,
    choices: dict[str, Any],
    documents: Sequence[Sequence[int]],
    backend: str,
    ranges: Sequence[CacheRange] | None = None,
) -> dict[str, Any]:
    """Makes one form of a model, and says what it costs: perplexity, bytes of the model, bytes of cache per token."""
    with tempfile.TemporaryDirectory() as place:
        path, nbytes = source.path, sum(file.stat().st_size for file in source.files)
        if choices:
            kept = {key: value for key, value in choices.items() if key != "kv"}
            cache = ranges if "kv" in choices else None
            report = quantize_folder(path, Path(place) / "low", requantize=True, cache_ranges=cache, **kept)
            path, nbytes = report.path, report.nbytes_after
        found = perplexity(path, documents, backend)
        per_token = open_folder(path).spec.cache.bytes_per_token
    return {"perplexity": found, "nbytes": nbytes, "bytes_per_token": per_token}


def main() -> None:
    """Makes every form in turn and scores it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--documents", type=int, default=0, help="use only so many (0: all)")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--folder", type=Path, help="a float model folder (default: the embedded model)")
    parser.add_argument("--text", type=Path, help="with --folder, the text to score (default: ONNX's operators)")
    arguments = parser.parse_args()
    source = open_folder(arguments.folder or default_folder())
    ranges: list[CacheRange] | None = None
    if arguments.folder is None:
        documents = held_out(source.tokenizer)[: arguments.documents or None]
        texts = windows_of(source.tokenizer.encode(default_text()), context=source.context_length, most=2048)
        ranges = calibrate(load_model(source.path), texts)
        all_forms, first = forms(), "as it is: int8, symmetric, blocks of 32"
    else:
        documents = [source.tokenizer.encode(english(arguments.text))]
        all_forms, first = ((name, make()) for name, make in real_forms(source)), "as it is"
    if arguments.markdown:
        tokens = sum(map(len, documents))
        print(f"{len(documents)} documents, {tokens} tokens, backend {arguments.backend}\n")
        print("| Form | Perplexity | Change | Model, MB | Cache, bytes per token |\n|---|---:|---:|---:|---:|")
    before = 0.0
    for name, choices in itertools.chain([(first, dict[str, Any]())], all_forms):
        row = scored(source, choices, documents, arguments.backend, ranges)
        found, nbytes, per_token = row["perplexity"], row["nbytes"], row["bytes_per_token"]
        before = before or found
        if arguments.markdown:
            change = f"{100 * (found / before - 1):+.2f} %" if choices else ""
            print(f"| {name} | {found:.3f} | {change} | {nbytes / 1e6:.1f} | {per_token} |", flush=True)
        else:
            line = {"form": name, "perplexity": found, "ratio": found / before, "nbytes": nbytes}
            print(json.dumps(line | {"bytes_per_token": per_token}), flush=True)


if __name__ == "__main__":
    main()
