# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Masks are looked at in steps that see every window and never go beyond the model's positions."""

from __future__ import annotations

import numpy as np
import pytest

from genai_iface.transform.convert._mask_probe import MaskClass, classify_mask, position_limit, probe_steps


@pytest.mark.parametrize("limit", [13, 16, 32, 128, 131])
@pytest.mark.parametrize("numbers", [(), (8,), (8, 128), (2**18,)])
def test_no_step_is_beyond_the_positions_of_the_model(numbers, limit):
    steps = probe_steps(numbers, limit)
    assert max(past + new for past, new, _ in steps) <= limit
    # Without a limit a number of the graph that is none of its windows takes the probe anywhere.
    assert max(past + new for past, new, _ in probe_steps((*numbers, 128))) > 128


@pytest.mark.parametrize("window", [2, 8, 60, 120])
def test_a_window_below_the_limit_is_seen(window):
    limit, asked = 128, []

    def visible(past, new, batch):
        asked.append(past + new)
        return np.broadcast_to(MaskClass(window).visible(past, new), (batch, 1, new, past + new))

    assert classify_mask(visible, (window, 128), "attention", limit=limit) == MaskClass(window)
    assert max(asked) <= limit


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"n_positions": 32}, 32),
        ({"text_config": {"max_position_embeddings": 16}}, 16),
        ({"max_position_embeddings": -1}, None),
        ({}, None),
    ],
)
def test_the_limit_is_that_of_the_configuration(config, limit):
    assert position_limit(config) == limit
