# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One model type: a tiny checkpoint built, and compared with torch on two backends."""

from __future__ import annotations

import shutil
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from genai_iface import load_model
from genai_iface.build._build import BuildOptions, BuildResult, build
from genai_iface.build._families import Family, make_checkpoint
from genai_iface.build._verify import compare
from genai_iface.build.methods.step.positions import padding_token
from genai_iface.build.states.installed import keeps_states
from genai_iface.errors import GenAIError
from genai_iface.types import DType
from tools.sweep_decoders.tiny import tiny_settings

__all__ = ["REWRITES", "Half", "Outcome", "kind_of", "sweep_case"]

REWRITES = ("group-query-attention", "skip-norm", "states")

_COUNTED = (
    "Attention",
    "TensorScatter",
    "RMSNormalization",
    "LayerNormalization",
    "RotaryEmbedding",
    "CausalConvWithState",
    "LinearAttention",
)
_BACKENDS = ("numpy", "ort")
# A ragged batch beyond every length of a tiny configuration; 128 positions are the most that one has.
_PROMPTS, _NEW = (11, 70), 12
# What a configuration does not say of itself.
_SECOND_HALVES = {"trocr", "musicgen", "musicgen_melody", "blenderbot-small"}
_OWN_STATES = {"rwkv", "xlstm", "recurrent_gemma", "zaya"}


@dataclass(frozen=True, slots=True)
class Half:
    """What became of a model type in one element type.

    Attributes:
        verified: Whether a folder came out that agrees with torch on both backends, ``generate`` included.
        problem: Why not; empty if it did.
        crashed: Whether the problem was anything but an error of ours.
        method: The way that led to it.
        difference: Largest difference of a logit by backend, as a part of the largest logit.
        nodes: Nodes of the graph.
        operators: How many of some operators.
        lowered: What the ONNX Runtime backend's own rewrites did at load, by their name, or why they did nothing.
    """

    verified: bool = False
    problem: str = ""
    crashed: bool = False
    method: str = ""
    difference: Mapping[str, float] = field(default_factory=dict)
    nodes: int = 0
    operators: Mapping[str, int] = field(default_factory=dict)
    lowered: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a model type.

    Attributes:
        name: Of the model type, or of a variant of one.
        model_type: As Transformers has it.
        kind: "decoder", "states", "encoder", "second half" or "composite".
        network: The class of the network.
        float32: In single precision.
        float16: In half precision; None if it was not tried.
        seconds: How long all of it took.
        code: The state of the code that was run.
        versions: Of the packages.
    """

    name: str
    model_type: str
    kind: str
    network: str
    float32: Half
    float16: Half | None
    seconds: float
    code: str
    versions: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def of(data: Mapping[str, Any]) -> Outcome:
        """From JSON."""
        halves = {name: Half(**data[name]) if data[name] else None for name in ("float32", "float16")}
        return Outcome(**{**data, **halves})

    def __str__(self) -> str:
        half = self.float32
        says = f"verified by {half.method}, {half.difference}" if half.verified else half.problem
        also = "" if self.float16 is None else f"; float16: {self.float16.problem or 'verified'}"
        return f"{self.name} ({self.kind}, {self.seconds:.0f} s): {'CRASH ' if half.crashed else ''}{says}{also}"


def kind_of(family: Family) -> str:
    """What sort of network a model type is."""
    try:
        plain = CONFIG_MAPPING[family.model_type]()
    except (AttributeError, LookupError, TypeError, ValueError):
        return "decoder"  # its defaults contradict each other
    if plain.is_encoder_decoder or family.model_type in _SECOND_HALVES:
        return "second half"
    if plain.get_text_config() is not plain:
        return "composite"
    if "is_decoder" in vars(plain) and family.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    return "states" if family.model_type in _OWN_STATES or _keeps_states(plain) else "decoder"


def _keeps_states(config: Any) -> bool:
    class Network:
        pass

    network = Network()
    network.config = config  # type: ignore[attr-defined]
    try:
        return keeps_states(network)
    except (AttributeError, LookupError, TypeError, ValueError):
        return False


def sweep_case(
    name: str, family: Family, work: Path, code: str, versions: Mapping[str, str], *, half_precision: bool
) -> Outcome:
    """Runs one model type in a working folder, which is empty again afterwards."""
    begin = time.monotonic()
    kind, network = "", ""
    single, half = Half(), None
    try:
        kind = kind_of(family)
        checkpoint = work / "checkpoint"
        made = make_checkpoint(Family(name, family.model_type, tiny_settings(family)), checkpoint)
        network = type(made).__name__
        single = _half(checkpoint, work / "float32", "float32", made, text_only=kind == "composite")
        if single.verified and half_precision:
            half = _half(
                checkpoint, work / "float16", "float16", None, method=single.method, text_only=kind == "composite"
            )
    except Exception as error:  # noqa: BLE001 - a traceback of any kind is what a sweep looks for: it is a row
        single = Half(problem=_in_short(error), crashed=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    seconds = round(time.monotonic() - begin, 1)
    return Outcome(name, family.model_type, kind, network, single, half, seconds, code, versions)


def _half(
    checkpoint: Path, out: Path, dtype: DType, network: Any, *, method: Any = "auto", text_only: bool = False
) -> Half:
    try:
        result = build(checkpoint, out, BuildOptions(via=method, dtype=dtype, text_only=text_only))
        return _checked(result, out, dtype, network)
    except GenAIError as error:
        return Half(problem=str(error).replace(str(out), "the model"))  # no path of this machine in a report
    except Exception as error:  # noqa: BLE001 - a traceback of any kind is what a sweep looks for: it is a row
        traceback.print_exc()
        return Half(problem=_in_short(error), crashed=True)


def _checked(result: BuildResult, out: Path, dtype: DType, network: Any) -> Half:
    compared = result.attempts[-1].comparison
    if compared is None:
        raise RuntimeError("a verified build has a comparison")
    difference = {"numpy": compared.difference}
    model = load_model(out, backend="ort")
    try:
        lowered = _of_interest(getattr(model, "notes", ()))
        on_ort = compare(model, result.reference)
    finally:
        model.close()
    difference["ort"] = on_ort.difference
    problem = "" if on_ort.agrees(dtype) else f"differs on ONNX Runtime: {on_ort}"
    problem = problem or (
        ""
        if network is None or network.config.get_text_config() is not network.config
        else _against_generate(out, network)
    )
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    counts = Counter(node.op_type for node in graph.node)
    return Half(
        verified=not problem,
        problem=problem,
        method=result.method,
        difference=difference,
        nodes=len(graph.node),
        operators={name: counts[name] for name in _COUNTED},
        lowered=lowered,
    )


def _against_generate(folder: Path, network: Any) -> str:
    """Greedy tokens of a ragged batch against Transformers' ``generate`` of each row alone, in a network never traced.

    Returns:
        What is wrong; empty if nothing is.
    """
    vocabulary = network.config.get_text_config().vocab_size
    padding = padding_token(network)
    draw = np.random.default_rng(7)
    prompts = [draw.integers(3, vocabulary, size, dtype=np.int64) for size in _PROMPTS]
    with torch.no_grad():
        expected = [_expected(network, torch.from_numpy(prompt)[None], padding) for prompt in prompts]
    for backend in _BACKENDS:
        got = _greedy(folder, backend, prompts, padding)
        if got != expected:
            return f"generates other tokens than torch on {backend}: {got} instead of {expected}"
    return ""


def _expected(network: Any, ids: torch.Tensor, padding: int | None) -> list[int]:
    """Greedy tokens after a prompt, by ``generate``.

    Where a network counts positions from the row behind its padding's, ``generate`` tells it to count from 0, which is
    not what it was trained with: there the network runs alone, without a cache and without being told.
    """
    prompt = ids.shape[1]
    if padding is None:
        network.generation_config.eos_token_id = None
        mask = torch.ones_like(ids)
        ids = network.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=_NEW, pad_token_id=0)
    while ids.shape[1] < prompt + _NEW:
        logits = network(input_ids=ids, use_cache=False).logits[0, -1].clone()
        logits[padding] = -torch.inf  # it has no position of its own, and moves those after it
        ids = torch.cat((ids, logits.argmax()[None, None]), dim=1)
    return [int(token) for token in ids[0, prompt:]]


def _greedy(
    folder: Path, backend: str, prompts: Sequence[np.ndarray[Any, Any]], padding: int | None
) -> list[list[int]]:
    counts = np.array([len(prompt) for prompt in prompts])
    ids = np.zeros((len(prompts), counts.max()), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    model = load_model(folder, backend=backend)
    try:
        cache = model.create_cache(batch_size=len(prompts), capacity=int(counts.max()) + _NEW + 1)
        logits = model.forward(ids, cache, counts=counts)[:, -1]
        tokens: list[np.ndarray[Any, Any]] = []
        while len(tokens) < _NEW:
            if padding is not None:
                logits[:, padding] = -np.inf
            tokens.append(logits.argmax(-1))
            logits = model.forward(tokens[-1][:, None], cache)[:, -1]
        cache.close()
    finally:
        model.close()
    return [[int(token) for token in row] for row in np.stack(tokens, axis=1)]


def _of_interest(notes: Sequence[str]) -> dict[str, str]:
    parts = (note.partition(": ") for note in notes)
    return {name: said for name, _, said in parts if name in REWRITES}


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
