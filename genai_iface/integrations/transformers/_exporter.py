# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Transformers' exporter interface over our export: one graph with TensorScatter for prompt and tokens."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from transformers.exporters import (
    ExportConfigMixin,
    ExportedModel,
    ExportMetadata,
    HfExporter,
    OnnxExporter,
    register_backend,
)
from transformers.exporters.auto import EXPORT_BACKENDS

from genai_iface.build._expressible import check_expressible, check_stateless
from genai_iface.build._model_file import save_model
from genai_iface.build.methods.export import export_standard
from genai_iface.errors import InvalidInputError
from genai_iface.integrations.transformers._manifest import EXPORT_FORMAT, step_metadata
from genai_iface.integrations.transformers._runner import StepRunner
from genai_iface.types import CacheLayout

__all__ = ["StandardConfig", "StandardExporter", "register"]


@dataclass
class StandardConfig(ExportConfigMixin):
    """How ``StandardExporter`` exports.

    Attributes:
        export_format: "genai_iface".
        layout: "bnsh": caches (B, Hkv, C, D); "bsh": (B, C, Hkv * D).
        context: Tokens that a sequence may have; the network's own limit if None.
    """

    export_format: str = EXPORT_FORMAT
    layout: CacheLayout = "bnsh"
    context: int | None = None
    quantizer: None = None


class StandardExporter(HfExporter):
    """Exports a decoder as ``build`` does by the method "export". What it saves is a model folder."""

    export_format = EXPORT_FORMAT
    config_class = StandardConfig
    program_suffix = ".onnx"
    required_packages = ["torch", "onnx", "onnxscript"]  # noqa: RUF012 - the base class has a list

    def export_program(
        self, model: Any, sample_inputs: MutableMapping[str, Any], config: StandardConfig
    ) -> tuple[ir.Model, ExportMetadata]:
        """Traces the network.

        Args:
            model: A decoder of Transformers. It is given back as it was.
            sample_inputs: With input_ids; sizes do not matter, for the graph takes any.
            config: Layout and context.

        Raises:
            InvalidInputError: There are no input_ids: it is not a decoder of text.
            UnsupportedModelError: The standard operators cannot express the network, or it cannot be traced.
        """
        if "input_ids" not in sample_inputs:
            raise InvalidInputError(
                f"The sample inputs are {', '.join(sample_inputs)}, without input_ids",
                remedy="Only decoders of text are exported; give what its generate() takes.",
            )
        check_expressible(model)
        check_stateless(model)
        has_experts = getattr(model, "_can_set_experts_implementation", lambda: False)()
        before = model.get_experts_implementation() if has_experts else None
        if has_experts:
            model.set_experts_implementation("batched_mm")  # the form that can be traced
        try:
            graph = export_standard(model, layout=config.layout, context=config.context)
        finally:
            if has_experts:
                model.set_experts_implementation(before)
        return graph, step_metadata(type(model).__name__, str(model.dtype).removeprefix("torch."))

    def export_for_generation(
        self,
        model: Any,
        sample_inputs: MutableMapping[str, Any],
        config: StandardConfig,
        *,
        generation_config: Any = None,
        multi_token_decode: bool = True,
    ) -> ExportedModel:
        """As ``export``: the one graph takes prompts and tokens, so there is nothing to take apart."""
        del multi_token_decode
        exported = self.export(model, sample_inputs, config)
        exported.generation_config = generation_config or getattr(model, "generation_config", None)
        return exported

    @classmethod
    def save_program(cls, program: ir.Model, path: str | Path) -> None:
        """Writes ``model.onnx``, beyond 64 MiB with its weights in a file beside it."""
        save_model(program, Path(path).parent)

    @classmethod
    def load_program(cls, path: str | Path) -> ir.Model:
        """Reads the graph; weights stay on disk until they are used."""
        program: ir.Model = OnnxExporter.load_program(path)
        return program


def register() -> None:
    """Makes our exporter and our runner known to Transformers, under "genai_iface". A second call does nothing.

    After it ``ExportedModel.from_pretrained`` opens folders with a manifest of ours (``write_manifest``), and
    ``AutoHfExporter`` finds the exporter.
    """
    known = EXPORT_BACKENDS.get(EXPORT_FORMAT)
    if known is None or known.exporter is not StandardExporter:
        register_backend(StandardExporter, StepRunner)
