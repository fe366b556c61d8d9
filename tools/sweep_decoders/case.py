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

import onnx
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from genai_iface import load_model
from genai_iface.build._build import BuildOptions, BuildResult, build
from genai_iface.build._families import Family
from genai_iface.build._verify import Reference, compare
from genai_iface.build.checkpoint import Checkpoint, load_network
from genai_iface.build.states.installed import keeps_states
from genai_iface.errors import GenAIError
from genai_iface.transform.quantize import quantize_folder
from genai_iface.types import DType
from tools.sweep_decoders.checkpoints import NotMadeError, made
from tools.sweep_decoders.greedy import BACKENDS, against_generate
from tools.sweep_decoders.tiny import tiny_settings

__all__ = ["REWRITES", "Half", "Integers", "Outcome", "kind_of", "sweep_case"]

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
# Activations are rounded otherwise, and what is to be seen are the integers.
_UNROUNDED = {"session_options": {"session.qdq_matmulnbits_accuracy_level": "1"}}
# How the modules are called that read what an encoder has made.
_CROSS_ATTENTION = ("encoder_attn", "crossattention", "cross_attn")


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
class Integers:
    """What became of a verified float32 model whose weights were made int8.

    Attributes:
        problem: Why there is none; empty if there is.
        difference: Largest difference of a logit from torch's with floats, by backend.
        equal_tokens: Steps with torch's greedy token, by backend.
        steps: All of them.
    """

    problem: str = ""
    difference: Mapping[str, float] = field(default_factory=dict)
    equal_tokens: Mapping[str, int] = field(default_factory=dict)
    steps: int = 0


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
        int8: With int8 weights; None if it was not tried.
        seconds: Of the processor, for all of it.
        code: The state of the code that was run.
        versions: Of the packages.
    """

    name: str
    model_type: str
    kind: str
    network: str
    float32: Half
    float16: Half | None
    int8: Integers | None
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
        integers = Integers(**data["int8"]) if data.get("int8") else None
        return Outcome(**{**data, **halves, "int8": integers})

    def __str__(self) -> str:
        half = self.float32
        says = f"verified by {half.method}, {half.difference}" if half.verified else half.problem
        also = "" if self.float16 is None else f"; float16: {self.float16.problem or 'verified'}"
        also += "" if self.int8 is None else f"; int8: {self.int8.problem or dict(self.int8.difference)}"
        return f"{self.name} ({self.kind}, {self.seconds:.0f} s): {'CRASH ' if half.crashed else ''}{says}{also}"


def kind_of(family: Family, network: Any = None) -> str:
    """What sort of network a model type is.

    Args:
        family: The model type.
        network: One that was made of it; None if that failed, or was not tried yet.
    """
    try:
        plain = CONFIG_MAPPING[family.model_type]()
    except (AttributeError, LookupError, StrictDataclassError, TypeError, ValueError):
        plain = None if network is None else network.config
    if plain is None:
        return "decoder"  # its defaults contradict each other
    parts = [] if network is None else [name.rpartition(".")[2] for name, _ in network.named_modules()]
    if plain.is_encoder_decoder or any(part in _CROSS_ATTENTION for part in parts):
        return "second half"
    if plain.get_text_config() is not plain:
        return "composite"
    if "is_decoder" in vars(plain) and family.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    return "states" if getattr(network, "_is_stateful", False) or _keeps_states(plain) else "decoder"


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
    begin = time.process_time()
    kind, network = "", ""
    single, half, integers = Half(), None, None
    try:
        kind = kind_of(family)
        checkpoint = work / "checkpoint"
        tiny = made(Family(name, family.model_type, tiny_settings(family)), checkpoint)
        network, kind = type(tiny).__name__, kind_of(family, tiny)
        text_only = kind == "composite"
        single, reference = _half(checkpoint, work / "float32", "float32", tiny, text_only=text_only)
        if reference is not None:
            integers = _integers(work / "float32", work / "int8", reference)
        if single.verified and half_precision:
            half, _ = _half(checkpoint, work / "float16", "float16", None, method=single.method, text_only=text_only)
    except NotMadeError as error:
        single = Half(problem=str(error))
    except Exception as error:  # noqa: BLE001 - a traceback of any kind is what a sweep looks for: it is a row
        single = Half(problem=_in_short(error), crashed=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    seconds = round(time.process_time() - begin, 1)
    return Outcome(name, family.model_type, kind, network, single, half, integers, seconds, code, versions)


def _half(
    checkpoint: Path, out: Path, dtype: DType, network: Any, *, method: Any = "auto", text_only: bool = False
) -> tuple[Half, Reference | None]:
    """What became of it, and what torch computes if it is verified."""
    try:
        result = build(checkpoint, out, BuildOptions(via=method, dtype=dtype, text_only=text_only))
        if text_only and network is not None:
            network = load_network(Checkpoint(checkpoint), dtype, text_only=True).network
        half = _checked(result, out, dtype, network)
        return half, result.reference if half.verified else None
    except GenAIError as error:
        return Half(problem=str(error).replace(str(out), "the model")), None  # no path of this machine in a report
    except Exception as error:  # noqa: BLE001 - a traceback of any kind is what a sweep looks for: it is a row
        traceback.print_exc()
        return Half(problem=_in_short(error), crashed=True), None


def _integers(folder: Path, out: Path, reference: Reference) -> Integers:
    """The float32 model with its weights as int8, beside what torch computes with floats."""
    try:
        quantize_folder(folder, out, bits=8)
        compared = {}
        for backend in BACKENDS:
            model = load_model(out, backend=backend, options=_UNROUNDED if backend == "ort" else None)
            try:
                compared[backend] = compare(model, reference)
            finally:
                model.close()
    except GenAIError as error:
        return Integers(problem=str(error).replace(str(out), "the model"))
    except Exception as error:  # noqa: BLE001 - as above
        traceback.print_exc()
        return Integers(problem=_in_short(error))
    return Integers(
        difference={backend: found.difference for backend, found in compared.items()},
        equal_tokens={backend: found.equal_tokens for backend, found in compared.items()},
        steps=compared[BACKENDS[0]].steps,
    )


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
    problem = problem or ("" if network is None else against_generate(out, network))
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


def _of_interest(notes: Sequence[str]) -> dict[str, str]:
    parts = (note.partition(": ") for note in notes)
    return {name: said for name, _, said in parts if name in REWRITES}


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
