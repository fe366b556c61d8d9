# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Functions of constants that ONNX has no operator for are tensors of the graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genai_iface.errors import UnsupportedModelError

pytestmark = pytest.mark.parity


def _cutoff(of_the_input: bool) -> Any:
    import torch

    class Cutoff(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([0.5, -2.0, 0.25]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            share = torch.tensor(0.9) if not of_the_input else x.abs().mean() / 4
            scale = torch.special.erfinv(2 * share - 1) * torch.full((3,), 2.0).sqrt()
            return torch.relu(x * self.weight - scale)

    return Cutoff()


def _trace(module: Any) -> Any:
    import torch

    from genai_iface.build.methods.export import traced

    return traced(module, (torch.zeros(2, 3),), ({0: torch.export.Dim("rows")},))


def test_the_inverse_of_the_error_function_of_a_constant() -> None:
    import onnx_ir as ir
    import torch
    from onnx.reference import ReferenceEvaluator

    module = _cutoff(of_the_input=False)
    model = _trace(module)
    assert "Sqrt" not in {node.op_type for node in model.graph}
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    got = ReferenceEvaluator(ir.to_proto(model)).run(None, {model.graph.inputs[0].name: x.numpy()})[0]
    expected = module(x).detach()
    assert 0 < int((expected > 0).sum()) < expected.numel()
    torch.testing.assert_close(torch.tensor(got), expected, rtol=1e-6, atol=1e-6)


def test_of_an_input_it_is_refused_as_before() -> None:
    with pytest.raises(UnsupportedModelError, match=r"ONNX has no operator for 'prims\.erf_inv'"):
        _trace(_cutoff(of_the_input=True))


def test_random_numbers_are_no_constants() -> None:
    import torch

    from genai_iface.build.methods.export import quiet_exporter
    from genai_iface.build.methods.folded_constants import fold_constants

    class Noise(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand(3)

    with quiet_exporter():
        assert fold_constants(torch.export.export(Noise(), (torch.zeros(2, 3),))) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3n_text", "gemma4_text"])
def test_layers_that_read_the_keys_of_others(name: str, tmp_path: Path) -> None:
    from genai_iface.build._build import BuildOptions, build
    from genai_iface.build._families import Family, make_checkpoint
    from tools.sweep_decoders.settings import BY_HAND
    from tools.sweep_decoders.tiny import cases, tiny_settings

    family = cases()[name]
    shared = {key: BY_HAND["gemma3n_text"][key] for key in ("num_hidden_layers", "layer_types", "num_kv_shared_layers")}
    family = replace(Family(name, family.model_type), settings=tiny_settings(family) | shared)
    make_checkpoint(family, tmp_path / "checkpoint")
    result = build(tmp_path / "checkpoint", tmp_path / "model", BuildOptions(via="export"))
    assert result.attempts[-1].comparison is not None
    assert result.attempts[-1].comparison.agrees("float32")
