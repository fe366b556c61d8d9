# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""A graph of one contrib node, run by ONNX Runtime's own kernel, and its standard form, run by two runtimes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from genai_iface.transform import GatherElements
from genai_iface.transform._raise_opset import raise_opset
from genai_iface.transform.contrib.operators import OPSET, StandardOperators, check_standard

Arrays = Mapping[str, NDArray[Any]]


def one_node(
    kind: str,
    inputs: list[str],
    feeds: Arrays,
    weights: Arrays = {},  # noqa: B006 - read only
    *,
    outputs: int = 1,
    used: tuple[int, ...] = (0,),
    domain: str = "com.microsoft",
    opset: int = 22,
    **attributes: Any,
) -> ir.Model:
    """A model with one node; graph inputs have symbolic sizes but for the last axis."""
    names = [f"y{place}" if place in used else "" for place in range(outputs)]
    node = helper.make_node(kind, inputs, names, name="the_node", domain=domain, **attributes)

    def info(name: str, array: NDArray[Any]) -> onnx.ValueInfoProto:
        shape = [f"{name}_{axis}" for axis in range(array.ndim - 1)] + ([array.shape[-1]] if array.ndim else [])
        return helper.make_tensor_value_info(name, int(ir.DataType.from_numpy(array.dtype)), shape)

    graph = helper.make_graph(
        [node],
        "one",
        [info(name, array) for name, array in feeds.items()],
        [onnx.ValueInfoProto(name=name) for name in names if name],
        [ir.serde.serialize_tensor(ir.Tensor(array, name=name)) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


def on_ort(model: ir.Model, feeds: Arrays) -> list[NDArray[Any]]:
    """Runs on ONNX Runtime as it is, without fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, dict(feeds))
    return found


def standard(model: ir.Model) -> ir.Model:
    """The model in standard operators; the checker has read it."""
    StandardOperators()(model)
    raise_opset(model, OPSET)
    check_standard(model)
    assert model.opset_imports[""] == OPSET
    return model


def same(model: ir.Model, feeds: Arrays, *, tolerance: float = 2e-5) -> ir.Model:
    """Compares both forms, and returns the standard one."""
    wanted = on_ort(model, feeds)
    done = standard(model)
    proto = ir.to_proto(done)
    for runner in (
        lambda: on_ort(done, feeds),
        lambda: ReferenceEvaluator(proto, new_ops=[GatherElements]).run(None, dict(feeds)),
    ):
        with np.errstate(all="ignore"):
            got = runner()
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert one.shape == other.shape
            assert one.dtype == other.dtype
            scale = max(1.0, float(np.abs(other.astype(np.float64)).max(initial=0)))
            assert np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0) <= tolerance * scale
    return done
