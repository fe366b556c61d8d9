# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Exports cases in a process of their own: ``python -m genai_iface.build.fusion.export FOLDER CASE...``.

Each case leaves CASE.onnx, CASE.npz (inputs that the graph takes, and torch's outputs) and, last, CASE.json.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from genai_iface.build._families import VOCAB_SIZE, tiny_model
from genai_iface.build._network_cache import cache_keyword, cache_of
from genai_iface.build.fusion.cases import Case, fingerprint
from genai_iface.build.fusion.expected import observe

__all__ = ["export_case", "main"]

# Traced with one shape and run with another, so that nothing depends on the first.
_TRACED = (2, 7)
_RUN = (3, 11)
_PAST = 5


def export_case(case: Case, folder: Path) -> dict[str, Any]:
    """Exports one case as a user of torch would, and writes its files.

    Args:
        case: What to export.
        folder: Where the files go; it exists.

    Returns:
        What CASE.json holds: "error" is None or what stopped the export.
    """
    import torch

    started = time.perf_counter()
    result: dict[str, Any] = {"case": case.name, "fingerprint": fingerprint(case), "error": None}
    # Mixture-of-experts layers whose loops depend on the data can't be traced.
    model = tiny_model(case.family, dtype=case.dtype, experts_implementation="batched_mm")
    wrapped = _wrapper(model, case.form)
    inputs, outputs = _names(model, case.form)
    run_with = _arguments(model, case, *_RUN, seed=2)
    with torch.no_grad():
        expected, values = observe(model, lambda: wrapped(*run_with))
    result["expected"] = expected.as_dict()
    arrays = {f"input.{name}": value.numpy() for name, value in zip(inputs, run_with, strict=True)}
    arrays |= {f"output.{name}": value.float().numpy() for name, value in zip(outputs, values, strict=True)}
    np.savez(folder / f"{case.name}.npz", **arrays)
    path = folder / f"{case.name}.onnx"
    path.unlink(missing_ok=True)
    try:
        program = torch.onnx.export(
            wrapped,
            tuple(_arguments(model, case, *_TRACED, seed=1)),
            dynamo=True,
            opset_version=case.opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=_dynamic_shapes(inputs),
            verbose=False,
        )
        program.save(path)
    except Exception as error:  # noqa: BLE001 - any failure of an exporter is a row of the report
        result["error"] = _reason(error)
        result["traceback"] = traceback.format_exc(limit=-3)
    result["seconds"] = round(time.perf_counter() - started, 1)
    target = folder / f"{case.name}.json"
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
    partial.rename(target)
    return result


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line: the exporter wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}"[:300]


def _names(model: Any, form: str) -> tuple[list[str], list[str]]:
    inputs = ["input_ids"] if form == "no-position-ids" else ["input_ids", "position_ids"]
    outputs = ["logits"]
    if form == "past":
        layers = range(len(_empty_cache(model)))
        inputs += [f"past_key_values.{layer}.{kind}" for layer in layers for kind in ("key", "value")]
        outputs += [f"present.{layer}.{kind}" for layer in layers for kind in ("key", "value")]
    return inputs, outputs


def _wrapper(model: Any, form: str) -> Any:
    """A module that takes and gives plain tensors."""
    import torch
    from transformers import DynamicCache

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, position_ids: Any = None, *past: Any) -> Any:
            if not past:
                return (self.inner(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits,)
            cache = DynamicCache(list(zip(past[0::2], past[1::2], strict=True)))
            result = self.inner(
                input_ids=input_ids, position_ids=position_ids, **cache_keyword(self.inner, cache), use_cache=True
            )
            layers = cache_of(result).layers
            return (result.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))

    return Wrapper().eval()


def _empty_cache(model: Any) -> list[tuple[int, int, int]]:
    """(Heads, key size, value size) of each layer, read from a cache that the model has filled."""
    import torch

    with torch.no_grad():
        cache = cache_of(model(input_ids=torch.ones((1, 2), dtype=torch.int64), use_cache=True))
    return [(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in cache.layers]


def _arguments(model: Any, case: Case, rows: int, length: int, *, seed: int) -> list[Any]:
    import torch

    draw = torch.Generator().manual_seed(seed)
    values = [torch.randint(3, VOCAB_SIZE, (rows, length), generator=draw)]
    start = _PAST if case.form == "past" else 0
    if case.form != "no-position-ids":
        values.append(torch.arange(start, start + length)[None].repeat(rows, 1))
    if case.form == "past":
        dtype = getattr(torch, case.dtype)
        for heads, *sizes in _empty_cache(model):
            values += [torch.randn((rows, heads, _PAST, size), generator=draw).to(dtype) for size in sizes]
    return values


def _dynamic_shapes(inputs: list[str]) -> dict[str, Any]:
    """Batch, sequence and past are symbolic."""
    flat = [{0: "batch", 2: "past"} if "past" in name else {0: "batch", 1: "sequence"} for name in inputs]
    shapes: dict[str, Any] = {"input_ids": flat[0]}
    if len(flat) > 1:
        shapes["position_ids"] = flat[1]
    if len(flat) > 2:
        shapes["past"] = tuple(flat[2:])
    return shapes


def main(argv: list[str]) -> int:
    """Exports the named cases, one line on stdout for each that is done."""
    import torch
    import transformers

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    folder = Path(argv[0])
    for name in argv[1:]:
        result = export_case(Case.from_name(name), folder)
        sys.stdout.write(f"{name}\t{result['seconds']}\t{result['error'] or 'ok'}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
