# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rotations and norms written out in primitive operators, as exporters write them, and what they compute."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

HEADS, SIZE, ROWS, LENGTH = 4, 16, 3, 5
END = np.iinfo(np.int64).max
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@dataclass
class Writer:
    """Adds nodes one by one; each call returns the name of the value."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def __call__(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        return self.many(kind, 1, *inputs, **attributes)[0]

    def many(self, kind: str, outputs: int, *inputs: Any, **attributes: Any) -> list[str]:
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        made = [f"v{len(self.nodes)}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, made, name=f"n{len(self.nodes)}", **attributes))
        return made

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(value)
        self.constants.append(numpy_helper.from_array(array if array.dtype != np.float64 else np.float32(array), name))
        return name

    def model(self, inputs: dict[str, tuple[int, list[Any]]], output: str, dtype: int, *, opset: int = 24) -> ir.Model:
        """Opset 24, one output "y"."""
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        graph = helper.make_graph(
            self.nodes,
            "written_out",
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info("y", dtype, None)],
            self.constants,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        from onnx.shape_inference import infer_shapes

        return ir.from_proto(infer_shapes(proto, data_prop=True))


@dataclass(frozen=True)
class Rotation:
    """How a rotation is written.

    "halves": x * cos + rotate(x) * sin, pairs half the size apart; "pairs": pairs are neighbours; "split":
    the two halves on their own with factors of half the size; "strided": every other element, joined as halves;
    "stacked": every other element, interleaved again.
    """

    form: str = "halves"
    dtype: str = "float32"
    heads_axis: int = 1
    scale: float | None = None
    one_row: bool = False
    rotated: int = SIZE
    wide_x: bool = False  # a float16 x is rotated in float32
    one_unsqueeze: bool = False  # the axis for heads and that of the repetition are added at once

    def build(self) -> ir.Model:
        w = Writer()
        shape: list[Any] = ["B", HEADS, "S", SIZE] if self.heads_axis == 1 else ["B", "S", HEADS, SIZE]
        inputs = {"x": (TYPES[self.dtype], shape), "ids": (TensorProto.INT64, [1 if self.one_row else "B", "S"])}
        x = "x"
        if self.rotated < SIZE:
            x, rest = (w("Slice", x, [a], [b], [3], [1]) for a, b in ((0, self.rotated), (self.rotated, END)))
        angles = w("Mul", w("Cast", w("Unsqueeze", "ids", [2]), to=1), _frequencies(self.rotated))
        factors = [self._factor(w, kind, angles) for kind in ("Cos", "Sin")]
        y = self._rotate(w, x, *factors)
        if self.wide_x:
            y = w("Cast", y, to=TYPES[self.dtype])
        if self.rotated < SIZE:
            y = w("Concat", y, rest, axis=-1)
        return w.model(inputs, y, TYPES[self.dtype])

    def _factor(self, w: Writer, kind: str, angles: str) -> str:
        if self.form == "halves":
            angles = w("Concat", angles, angles, axis=-1)
        if self.form == "pairs" and not self.one_unsqueeze:
            wide = w("Expand", w("Unsqueeze", angles, [3]), [1, 1, 1, 2])
            angles = w("Reshape", wide, [0, 0, self.rotated])
        factor = w(kind, angles)
        if self.one_unsqueeze:
            wide = w("Expand", w("Unsqueeze", factor, [self.heads_axis, 4]), [1, 1, 1, 1, 2])
            return w("Reshape", wide, [1, -1, 1, self.rotated] if self.heads_axis == 2 else [1, 1, -1, self.rotated])
        if self.scale is not None:
            factor = w("Mul", factor, np.float32(self.scale))
        if self.dtype != "float32" and not self.wide_x:
            factor = w("Cast", factor, to=TYPES[self.dtype])
        return w("Unsqueeze", factor, [self.heads_axis])

    def _rotate(self, w: Writer, x: str, cos: str, sin: str) -> str:
        half = self.rotated // 2
        if self.form in ("halves", "pairs"):
            turned = self._turned(w, x, half)
            if self.wide_x:
                x, turned = w("Cast", x, to=1), w("Cast", turned, to=1)
            return w("Add", w("Mul", x, cos), w("Mul", turned, sin))
        if self.form == "split":
            first, second = w.many("Split", 2, x, axis=3, num_outputs=2)
        else:
            first, second = (w("Slice", x, [start], [END], [3], [2]) for start in (0, 1))
        a = w("Sub", w("Mul", first, cos), w("Mul", second, sin))
        b = w("Add", w("Mul", second, cos), w("Mul", first, sin))
        return self._stack(w, a, b) if self.form == "stacked" else w("Concat", a, b, axis=-1)

    def _turned(self, w: Writer, x: str, half: int) -> str:
        if self.form == "halves":
            return w(
                "Concat",
                w("Neg", w("Slice", x, [half], [END], [3], [1])),
                w("Slice", x, [0], [half], [3], [1]),
                axis=-1,
            )
        even, odd = (w("Slice", x, [start], [END], [3], [2]) for start in (0, 1))
        return self._stack(w, w("Neg", odd), even)

    def _stack(self, w: Writer, first: str, second: str) -> str:
        both = w("Concat", w("Unsqueeze", first, [-1]), w("Unsqueeze", second, [-1]), axis=-1)
        sizes = [HEADS, -1] if self.heads_axis == 1 else [-1, HEADS]
        return w("Reshape", both, np.array([ROWS, *sizes, self.rotated]))

    def arrays(self) -> dict[str, np.ndarray]:
        """Inputs; rows at different positions where the form allows it."""
        draw = np.random.default_rng(3)
        shape = (ROWS, HEADS, LENGTH, SIZE) if self.heads_axis == 1 else (ROWS, LENGTH, HEADS, SIZE)
        starts = np.array([[2]]) if self.one_row else np.array([[0], [3], [40]])
        return {"x": draw.standard_normal(shape).astype(self.dtype), "ids": starts + np.arange(LENGTH)}

    def expected(self) -> np.ndarray:
        """The same by complex numbers in float64."""
        arrays = self.arrays()
        x = arrays["x"].astype(np.float64)
        if self.heads_axis == 2:
            x = x.swapaxes(1, 2)
        angles = arrays["ids"][:, None, :, None] * _frequencies(self.rotated).astype(np.float64)
        part, half = x[..., : self.rotated], self.rotated // 2
        apart = self.form in ("halves", "split")
        pairs = part[..., :half] + 1j * part[..., half:] if apart else part[..., 0::2] + 1j * part[..., 1::2]
        turned = pairs * np.exp(1j * angles) * (self.scale or 1.0)
        if self.form in ("halves", "split", "strided"):
            part = np.concatenate([turned.real, turned.imag], -1)
        else:
            part = np.stack([turned.real, turned.imag], -1).reshape(part.shape)
        y = np.concatenate([part, x[..., self.rotated :]], -1)
        return y.swapaxes(1, 2) if self.heads_axis == 2 else y


def _frequencies(size: int) -> np.ndarray:
    return (100.0 ** -(np.arange(size // 2) * 2 / size)).astype(np.float32)


def on_reference(model: ir.Model, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The output "y" by onnx.reference."""
    return ReferenceEvaluator(ir.to_proto(model)).run(["y"], arrays)[0]


def on_ort(model: ir.Model, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The output "y" by ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], arrays)[0]


RUNTIMES = {"reference": on_reference, "ort": on_ort}


def operators(model: ir.Model) -> Counter[str]:
    """How many nodes of each kind; 0 for what isn't there."""
    return Counter(node.op_type for node in model.graph)
