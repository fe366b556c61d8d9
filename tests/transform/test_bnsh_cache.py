# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""BnshCache: heads on an axis of their own, the same logits."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from genai_iface.graph import derive_signature
from genai_iface.transform.cache.bnsh_cache import BnshCache
from tests.models import ModelOptions, build_model
from tests.transform.convert.drive import Drive, load, on_ort, on_reference, same_steps


@pytest.mark.parametrize("fields", [{}, {"v_head_dim": 16}, {"capacity": 40}], ids=["plain", "value size", "fixed"])
@pytest.mark.parametrize("run", [on_reference, on_ort])
def test_the_steps_stay_the_same(fields, run):
    options = ModelOptions(layout="bsh", **fields)
    before, signature = load(build_model(options))
    model, _ = load(build_model(options))
    rewrite = BnshCache(signature)
    rewrite(model)
    assert rewrite.note.count == 4, rewrite.note
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = derive_signature(model)
    assert after.cache.layout == "bnsh"
    assert after.cache.layers == signature.cache.layers
    drives = [Drive(run(m), c, batch_size=3, capacity=40) for m, c in ((before, signature), (model, after))]
    assert same_steps(*drives) < 1e-5


@pytest.mark.parametrize(("fields", "reason"), [({}, "layout bnsh"), ({"style": "concat"}, "style concat")])
def test_other_caches_stay(fields, reason):
    model, signature = load(build_model(ModelOptions(**fields)))
    rewrite = BnshCache(signature)
    rewrite(model)
    assert not rewrite.note.applied
    assert reason in rewrite.note.reason
