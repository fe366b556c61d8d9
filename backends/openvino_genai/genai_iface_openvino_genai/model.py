# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A folder made ready for the runtime: OpenVINO's own as it is, a graph with growing tensors converted."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as operators
import openvino_genai
from openvino._offline_transformations import apply_make_stateful_transformation

from genai_iface.errors import BackendError, InvalidInputError, UnsupportedModelError
from genai_iface.folder import find_inside, open_folder, open_root

__all__ = ["PreparedFolder", "prepare"]

_OWN = "openvino_model.xml"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class PreparedFolder:
    """What pipelines are made of.

    Attributes:
        root: With openvino_model.xml.
        vocab_size: V.
        context_length: Most tokens of a sequence.
        eos_token_ids: What ends a sequence by itself.
        idle: Pipelines that no sequence uses.
        running: The sequences that have one, the longest unused first.
        lock: Held while a sequence takes a token.
    """

    root: Path
    vocab_size: int
    context_length: int
    eos_token_ids: frozenset[int]
    idle: list[Any] = field(default_factory=list)
    running: list[Any] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def open_pipeline(self) -> Any:
        """A pipeline that nobody uses: the runtime's runs one sequence at a time.

        Raises:
            BackendError: The runtime refused the folder.
        """
        if self.idle:
            return self.idle.pop()
        # The processor plugin may choose a narrower type by itself.
        exact = {"INFERENCE_PRECISION_HINT": "f32", "ATTENTION_BACKEND": "SDPA"}
        try:
            return openvino_genai.LLMPipeline(str(self.root), "CPU", **exact)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO GenAI cannot load {str(self.root)!r}: {str(error)[:300]}", remedy="Export it again."
            ) from error


def prepare(folder: Path, /) -> PreparedFolder:
    """Reads a folder of OpenVINO, or converts one with a graph whose tensors grow.

    Raises:
        InvalidInputError: The folder is missing, or lacks config.json.
        UnsupportedModelError: Its graph keeps its cache in another way.
        BackendError: The runtime cannot read the graph.
    """
    root = open_root(folder)
    path = find_inside(root, "config.json")
    if path is None:
        raise InvalidInputError(f"There is no config.json in {str(folder)!r}", remedy="Take it from the checkpoint.")
    said = json.loads(path.read_text(encoding="utf-8"))
    ends = said.get("eos_token_id")
    eos_token_ids = frozenset(() if ends is None else [ends] if isinstance(ends, int) else ends)
    facts = (int(said["vocab_size"]), int(said["max_position_embeddings"]), eos_token_ids)
    if find_inside(root, _OWN) is not None:
        return PreparedFolder(root, *facts)
    target = Path(tempfile.mkdtemp(prefix="genai-iface-openvino-"))
    prepared = PreparedFolder(target, *facts)
    weakref.finalize(prepared, shutil.rmtree, target, ignore_errors=True)
    (target / "config.json").write_bytes(path.read_bytes())
    # Where nothing ends a sequence the runtime would take -1, and refuse that.
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": sorted(eos_token_ids) or facts[0]}))
    _convert(root, target)
    return prepared


def _convert(root: Path, target: Path) -> None:
    """The graph as the runtime's loop wants it, for one row: past and present are one state."""
    opened = open_folder(root)
    if opened.spec.cache.style != "concat" or opened.spec.cache.states:
        raise UnsupportedModelError(
            f"The cache of {str(root)!r} is of the style {opened.spec.cache.style!r}, and this backend takes 'concat'",
            remedy="Export it with past and present tensors, or use the backend 'ort'.",
        )
    try:
        graph = openvino.Core().read_model(opened.model_path)
        shapes = {item.any_name: item.partial_shape for item in graph.inputs}
        for shape in shapes.values():
            shape[0] = 1
        graph.reshape(shapes)
        for name, kind, rank in (("attention_mask", np.int64, 2), ("beam_idx", np.int32, 1)):
            if name not in shapes:
                # Its loop gives it to every model.
                parameter = operators.parameter([-1] * rank, kind, name=name)
                parameter.output(0).get_tensor().set_names({name})
                graph.add_parameters([parameter])
        pairs = {tensor.past: tensor.present for tensor in opened.signature.cache_tensors}
        apply_make_stateful_transformation(graph, pairs)
        openvino.save_model(graph, target / _OWN, compress_to_fp16=False)
    except RuntimeError as error:
        raise BackendError(
            f"OpenVINO cannot read the graph of {str(root)!r}: {str(error)[:300]}", remedy="Use the backend 'ort'."
        ) from error
