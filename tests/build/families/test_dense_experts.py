# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Experts without a loop give what Transformers' own loop gives."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["dbrx", "longcat_flash"])
def test_all_experts_at_once_are_the_loop(name: str) -> None:
    import torch

    from genai_iface.build._families import Family, tiny_model
    from genai_iface.build.methods.step.dense_experts import dense_experts
    from tools.sweep_decoders.tiny import cases, tiny_settings

    family = cases()[name]
    network = tiny_model(Family(name, family.model_type, tiny_settings(family)))
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        expected = network(input_ids=ids, use_cache=False).logits
        with dense_experts(network):
            replaced = [
                "forward" in vars(part) for part in network.modules() if type(part).__name__.endswith("Experts")
            ]
            got = network(input_ids=ids, use_cache=False).logits
        again = network(input_ids=ids, use_cache=False).logits
    assert replaced == [True, True]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(again, expected)
