# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""lower() on graphs that mobius-onnx builds from tiny random Transformers checkpoints."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from genai_iface.folder import open_folder
from genai_iface_ort.lowering.lower import lower
from tests.transform.convert.drive import Drive, count_ops, load, on_ort, same_steps

pytestmark = pytest.mark.parity

# Family: whether queries, keys and values reach the operator packed. Norms on q and k stand between.
FAMILIES = {"llama": True, "qwen2": True, "qwen3": False, "phi3": True, "mistral": True}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def proto(family, tmp_path_factory):
    checkpoints = pytest.importorskip("tests.parity.checkpoints")
    pytest.importorskip("torch")
    path = tmp_path_factory.mktemp(family)
    checkpoints.make_checkpoint(family, path / "checkpoint")
    folder = checkpoints.build_folder(path / "checkpoint", path / "onnx", static_cache=True)
    return ir.to_proto(ir.external_data.load_to_model(open_folder(folder).load_ir()))


@pytest.mark.parametrize("level", ["standard", "runtime"])
def test_logits_are_those_of_the_graph_on_disk(proto, level):
    before, signature = load(proto)
    lowered = lower(*load(proto), level=level)
    capacity = signature.cache.fixed_capacity
    wanted = Drive(on_ort(before), signature, batch_size=3, capacity=capacity)
    got = Drive(
        on_ort(lowered.model),
        lowered.signature,
        batch_size=3,
        capacity=capacity,
        logits_positions=lowered.logits_positions,
        query_seqlens=lowered.query_seqlens,
    )
    assert same_steps(wanted, got, highest_id=130) < 2e-5


def test_every_layer_is_fused(proto, family):
    lowered = lower(*load(proto), level="runtime")
    notes = {note.rewrite: note for note in lowered.notes}
    packed = 2 if FAMILIES[family] else 0
    wanted = f"2 layers, 2 with the rotation inside, {packed} from packed projections"
    assert notes["group-query-attention"].reason == wanted
    kinds = count_ops(lowered.model)
    assert (kinds["GroupQueryAttention"], kinds["SkipSimplifiedLayerNormalization"]) == (2, 4)
    assert "RotaryEmbedding" not in kinds
    assert notes["select-logits"].applied
    assert lowered.signature.cache.layout == "bnsh"
