# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One architecture: exported by Transformers, driven on two runtimes, opened by this SDK, compared with torch."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native
from transformers.exporters import OnnxConfig, OnnxExporter
from transformers.exporters.utils import decompose_for_generation

from genai_iface import load_model
from genai_iface._tolerance import relative_difference
from genai_iface.build._reasons import FAILED
from genai_iface.build._verify import compare, torch_reference
from genai_iface.build.checkpoint.quiet import quiet_transformers
from genai_iface.build.methods.export import quiet_exporter
from genai_iface.errors import GenAIError
from genai_iface.integrations.transformers import open_export
from tools.exporter_table.architectures import network_of
from tools.exporter_table.drive import RUNTIMES, Graph, cached_logits, empty_states, greedy, logits_of, measured
from tools.exporter_table.outcome import Outcome, Run, judged, save

__all__ = ["Limits", "run_and_save", "run_case"]

_ROWS, _PROMPT, _STEPS = 3, 11, 24  # no size that was traced, and beyond the windows of 8

# What torch, Transformers, ONNX Runtime and onnx.reference raise for what they cannot do.
_BROKEN: tuple[type[Exception], ...] = (
    *FAILED,
    GenAIError,
    native.EPFail,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.NotImplemented,
    native.RuntimeException,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one architecture may take.

    Attributes:
        seconds: Processor time.
        gigabytes: Address space.
    """

    seconds: int
    gigabytes: int


def run_and_save(name: str, work: Path, file: Path, limits: Limits) -> None:
    """As ``run_case``, in a process of its own: what it prints goes into a log, the outcome into a file."""
    log = os.open(work / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    resource.setrlimit(resource.RLIMIT_AS, (limits.gigabytes * 2**30,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds,) * 2)
    save(run_case(name, work), file)


def run_case(name: str, work: Path) -> Outcome:
    """Runs one architecture.

    Args:
        name: One of ``architectures()``.
        work: A folder for the exports.
    """
    began = time.process_time()
    outcome = Outcome(name)
    try:
        with quiet_transformers():
            network = network_of(name)
            prompts = np.random.default_rng(0).integers(3, 120, (_ROWS, _PROMPT))
            tokens, expected = greedy(network, prompts, _STEPS)
    except _BROKEN as error:
        return replace(outcome, reason=said(error), seconds=time.process_time() - began)
    outcome = replace(outcome, network=type(network).__name__, tokens=_STEPS)
    # A decode graph for several tokens takes the prompt too. Where that is not right, what is exported by default is.
    best = _exported(outcome, network, work / name, "decode", prompts, tokens, expected)
    if best.verdict not in ("equal", "near tie", "network", "runtime"):
        best = _exported(outcome, network, work / name, "prefill, decode", prompts, tokens, expected)
    shutil.rmtree(work / name, ignore_errors=True)
    return replace(best, seconds=round(time.process_time() - began, 1))


def _exported(
    outcome: Outcome,
    network: Any,
    folder: Path,
    parts: str,
    prompts: NDArray[np.int64],
    tokens: NDArray[np.int64],
    expected: NDArray[np.float32],
) -> Outcome:
    outcome = replace(outcome, parts=parts)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        files = _export(network, folder, parts)
    except _BROKEN as error:
        return replace(outcome, verdict="fails", reason=said(error))
    outcome = replace(outcome, takes_mask="attention_mask" in Graph.load(files[-1], "ort").inputs)
    runs, logits, states = {}, {}, empty_states(network)
    for runtime in RUNTIMES:
        try:
            logits[runtime] = logits_of([Graph.load(file, runtime) for file in files], states, prompts, tokens)
            runs[runtime] = measured(logits[runtime], expected)
        except _BROKEN as error:
            runs[runtime] = Run(problem=said(error))
    steps = min([run.first_wrong for run in runs.values() if run.first_wrong is not None], default=_STEPS - 1) + 1
    apart = relative_difference(logits["ort"][:steps], logits["numpy"][:steps]) if len(logits) == 2 else float("inf")
    verdict, reason = judged(runs, apart=apart)
    if verdict in ("producer", "undecided") and logits and _is_as_cached(network, prompts, tokens, logits):
        verdict, reason = "network", "torch with its own cache gives these tokens too"
    return replace(outcome, runs=runs, verdict=verdict, reason=reason, ours=_ours(network, folder))


def _is_as_cached(
    network: Any, prompts: NDArray[np.int64], tokens: NDArray[np.int64], logits: dict[str, NDArray[np.float32]]
) -> bool:
    """Whether what came is what torch gives with a cache: some rotations change with the length of their input."""
    try:
        expected = cached_logits(network, prompts, tokens)
    except _BROKEN:
        return False
    runs = [measured(values, expected) for values in logits.values()]
    return all(run.first_wrong is None or run.is_near_tie for run in runs)


def _export(network: Any, folder: Path, parts: str) -> list[Path]:
    """Exports with what their documentation shows, and a padded sample, which keeps the mask among the inputs.

    Returns:
        The graph for the prompt and that for tokens, or one for both.
    """
    ids = torch.randint(3, 120, (2, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    inputs, config = {"input_ids": ids, "attention_mask": mask}, OnnxConfig(dynamic=True)
    with quiet_transformers(), quiet_exporter(), contextlib.redirect_stdout(None):
        if parts == "decode":
            stage = decompose_for_generation(network, inputs, multi_token_decode=True)["decode"]
            OnnxExporter().export(*stage, config).save_pretrained(folder)
            return [folder / "model.onnx"]
        exported = OnnxExporter().export_for_generation(network, inputs, config)
        exported.save_pretrained(folder)
    return [folder / f"{name}.onnx" for name in ("prefill", "decode")]


def _ours(network: Any, folder: Path) -> str:
    """Why a ragged batch of this SDK does not give torch's tokens; empty if it does."""
    try:
        reference = torch_reference(network, steps=_STEPS, prompt_tokens=_PROMPT)
        with open_export(folder) as opened:
            model = load_model(opened.source, backend="ort")
            comparison = compare(model, reference)
            model.close()
    except _BROKEN as error:
        return said(error)
    return "" if comparison.agrees("float32") else f"differs: {comparison}"


def said(error: BaseException) -> str:
    """The deepest cause in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = error.what if isinstance(error, GenAIError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:240]
