# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Weight matrices as blocked integers: DequantizeLinear before the MatMul.

Not exact, and so none of the load-time rewrites: it makes a new model. The form, (K, N) integers
with blocks along K, is what ONNX Runtime turns into its fused low-bit product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.errors import InvalidInputError
from genai_iface.graph._edit import Editor, constant_tensor, copy_type, replace_value
from genai_iface.graph._walk import SAME_ELEMENTS, attribute, input_at, is_op, rank, trace_back
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform._weights import sizes
from genai_iface.transform.quantize._sensitivity import Candidate, most_sensitive
from genai_iface.transform.quantize._source import FloatMatrix, Job, MatrixReport, MatrixSource, Rounding, source_of
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["EMBEDDING", "LM_HEAD", "QuantizeWeights"]

LM_HEAD = "lm_head"
"""What patterns may call the product that gives the logits, whatever its name in the graph is."""
EMBEDDING = "embedding"
"""What patterns may call the token table, whatever its name in the graph is."""

_DONE = "quantized already"
_EXCLUDED = "excluded"
_SMALLEST_BLOCK = 16
_NO_BLOCK = f"K is not a multiple of {_SMALLEST_BLOCK}"
_MIN_OPSET = 21
_MIN_IR_VERSION = 10
# What may follow the product with the LM head: scaling, softcap, casts.
_AFTER_HEAD = ("Identity", "Cast", "Mul", "Div", "Add", "Tanh", "Reshape")


class QuantizeWeights(Rewrite):
    """Quantizes the constant matrices that MatMuls read, and on request the token table.

    A matrix whose K is not a multiple of the block size gets smaller blocks. Each product gets integers of
    its own, because runtimes fuse a DequantizeLinear with one reader only; a token table that is also
    the LM head stays a float table, or with ``embedding`` shares the head's 8-bit integers.

    Args:
        bits: 4 or 8.
        block_size: Rows of K that share a scale; a power of two from 16 to 256.
        symmetric: Signed integers around zero, or unsigned ones with a zero point for each block.
        exclude: What stays as it is: shell patterns on names of MatMul nodes and of their weights, or
            the words "lm_head" and "embedding".
        eight_bits: Patterns of the same kind for what gets 8 bits where ``bits`` is 4.
        embedding: Quantize the token table too, to 8 bits. Needs ``signature``.
        requantize: Round again what is quantized already; otherwise it stays as it is.
        search: Scales by search; otherwise the largest element of a block gives its scale.
        moments: From ``measure_moments``: rounding errors of a matrix are made up for, and the most sensitive
            matrices get 8 bits. Needs ``search``, and symmetric integers.
        share: Of the weights of products that would get 4 bits, what may get 8 for its sensitivity.
        shared_head: A token table that is the LM head too gets 8 bits, and lookups and products share them.
        signature: Says which input holds token ids and which output the logits; without it the output
            has to be called "logits".

    Attributes:
        kept: Names of matrices that stayed as they were, by reason.
        matrices: What rounding cost each matrix; filled when the model is saved.

    Raises:
        InvalidInputError: An argument is out of range.
    """

    name = "quantize-weights"

    def __init__(
        self,
        bits: Literal[4, 8] = 4,
        *,
        block_size: int = 32,
        symmetric: bool = True,
        exclude: Sequence[str] = (),
        eight_bits: Sequence[str] = (),
        embedding: bool = False,
        requantize: bool = False,
        signature: GraphSignature | None = None,
        search: bool = False,
        moments: Mapping[str, NDArray[np.float32]] | None = None,
        share: float = 0.0,
        shared_head: bool = False,
    ) -> None:
        super().__init__()
        if bits not in (4, 8):
            raise InvalidInputError(f"bits={bits} is not legal", remedy="Legal: 4, 8.")
        if not _SMALLEST_BLOCK <= block_size <= 256 or block_size & (block_size - 1):
            raise InvalidInputError(f"block_size={block_size} is not legal", remedy="Legal: 16, 32, 64, 128, 256.")
        if embedding and signature is None:
            raise InvalidInputError("embedding=True needs the signature", remedy="Pass open_folder(...).signature.")
        self._bits = bits
        self._block_size = block_size
        self._symmetric = symmetric
        self._exclude = tuple(exclude)
        self._eight_bits = tuple(eight_bits)
        self._embedding = embedding
        self._requantize = requantize
        self._signature = signature
        self._search = search
        self._moments = dict(moments or {}) if search and symmetric else {}
        self._share = share
        self._shared_head = shared_head and embedding
        self.kept: dict[str, list[str]] = {}
        self.matrices: list[MatrixReport] = []

    def rewrite(self, model: ir.Model) -> Note:
        """Quantizes in place; weights are read only when the model is saved.

        Raises:
            InvalidInputError: The model's opset has no blocked DequantizeLinear, or a pattern matches nothing.
        """
        opset = model.opset_imports.get("", 0)
        if opset < _MIN_OPSET:
            raise InvalidInputError(
                f"The model is of opset {opset}, blocked DequantizeLinear came with {_MIN_OPSET}",
                remedy="Bring it to opset 24 first: genai-iface convert.",
            )
        self.kept, self.matrices = {}, []
        work = _Work(model.graph, self.matrices)
        nodes = list(model.graph)
        tables = (constant_tensor(node.inputs[0]) for node in nodes if is_op(node, "Gather"))
        self._tables = frozenset(id(table) for table in tables if table is not None and len(table.shape) == 2)
        # Products first: a token table may share the integers of the LM head.
        self._products(work, nodes, self._head(model.graph))
        self._lookups(work, nodes)
        self._check_patterns(work.names)
        if work.count:
            model.ir_version = max(model.ir_version, _MIN_IR_VERSION)
        return self.said(work.count, self._reason(work))

    def _products(self, work: _Work, nodes: Sequence[ir.Node], head: ir.Node | None) -> None:
        sensitive = self._sensitive(nodes, head)
        for node in nodes:
            if is_op(node, "MatMul"):
                self._product(work, node, is_head=node is head, is_sensitive=node in sensitive)
            elif is_op(node, "Gemm") and constant_tensor(input_at(node, 1)) is not None:
                self._keep("runtimes fuse no Gemm", str(node.name))
            elif is_op(node, "com.microsoft.MatMulNBits"):
                self._keep(_DONE, str(node.name))

    def _sensitive(self, nodes: Sequence[ir.Node], head: ir.Node | None) -> frozenset[ir.Node]:
        """Products whose matrices get 8 bits because 4 cost most there."""
        if self._bits == 8 or not self._moments or self._share <= 0:
            return frozenset()
        found: list[ir.Node] = []
        candidates: list[Candidate] = []
        for node in nodes:
            matrix = source_of(input_at(node, 1)) if is_op(node, "MatMul") else None
            given = input_at(node, 0)
            if matrix is None or given is None or node is head:
                continue
            block = _block_for(matrix.rows, self._block_size)
            names = [matrix.name, str(node.name)]
            if block is not None and not _matches(names, [*self._exclude, *self._eight_bits]):
                found.append(node)
                candidates.append(Candidate(matrix, block, str(given.name)))
        return frozenset(found[place] for place in most_sensitive(candidates, self._moments, self._share))

    def _lookups(self, work: _Work, nodes: Sequence[ir.Node]) -> None:
        for node in nodes:
            if is_op(node, "Gather"):
                self._lookup(work, node)
            elif is_op(node, "DequantizeLinear"):
                _renew_lookup(work, node)

    def _check_patterns(self, names: Sequence[str]) -> None:
        """Refuses patterns that match nothing: a typing mistake would quantize what was to stay."""
        for pattern in (*self._exclude, *self._eight_bits):
            if not _matches(names, [pattern]):
                raise InvalidInputError(
                    f"No matrix has a name like {pattern!r}",
                    remedy=f"Names in this graph: {', '.join(dict.fromkeys(names[:12]))}, ...",
                )

    def _reason(self, work: _Work) -> str:
        kind = "" if self._symmetric else "u"
        how = "errors made up for" if self._moments else "scales by search"
        made = [
            f"{count} {'matrix' if count == 1 else 'matrices'} to {kind}int{bits}"
            for bits, count in sorted(work.by_bits.items())
        ]
        reason = f"{' and '.join(made) or 'no matrices'} in blocks of {self._block_size}"
        if self._search:
            reason += f", {how}"
        if work.tables:
            reason += "; the token table to 8 bits"
        if work.smaller:
            reason += f"; smaller blocks for {_some(work.smaller)}, whose K is not a multiple of that"
        for why, names in self.kept.items():
            reason += f"; kept {_some(names)}: {why}"
        return reason

    def _product(self, work: _Work, node: ir.Node, *, is_head: bool, is_sensitive: bool) -> None:
        matrix = source_of(input_at(node, 1))
        if matrix is None:
            matrix = source_of(input_at(node, 1), quantized=True)
            if matrix is None:
                weight = constant_tensor(input_at(node, 1))
                if weight is not None and len(weight.shape) > 2 and min(sizes(weight)[-2:]) >= _SMALLEST_BLOCK:
                    self._keep(f"a weight of rank {len(weight.shape)}", str(weight.name))
                return
            if not self._requantize:
                self._keep(_DONE, matrix.name)
                return
        names = [*([LM_HEAD] if is_head else []), matrix.name, str(node.name)]
        work.names += names
        block = _block_for(matrix.rows, self._block_size)
        if _matches(names, self._exclude) or block is None:
            self._keep(_EXCLUDED if block is not None else _NO_BLOCK, matrix.name)
            return
        if block != self._block_size:
            work.smaller.append(matrix.name)
        is_shared = is_head and self._shared_head and self._is_table(matrix)
        bits = 8 if is_shared or is_sensitive or _matches(names, self._eight_bits) else self._bits
        job = Job(
            matrix,
            bits,
            block,
            self._symmetric,
            search=self._search,
            moments=None if is_head else self._moments.get(str(node.inputs[0].name if node.inputs[0] else None)),
        )
        parts = work.parts(job)
        (value,) = work.edit.before(node, "DequantizeLinear", parts, {"axis": 0, "block_size": block})
        value.dtype, value.shape = matrix.dtype, ir.Shape((matrix.rows, matrix.columns))
        node.replace_input_with(1, value)
        work.by_bits[bits] = work.by_bits.get(bits, 0) + 1
        if bits == 8:
            work.shared[id(matrix.tensor), matrix.rows] = parts, block

    def _is_table(self, matrix: MatrixSource) -> bool:
        """Whether token ids look rows of the same constant up."""
        return id(matrix.tensor) in self._tables

    def _lookup(self, work: _Work, node: ir.Node) -> None:
        """The token table: its rows are gathered before they are dequantized."""
        table, ids = node.inputs[0], node.inputs[1]
        tensor = constant_tensor(table)
        if tensor is None or ids is None or self._signature is None or attribute(node, "axis", 0) != 0:
            return
        source = trace_back(ids, SAME_ELEMENTS)
        if source is None or source.name != self._signature.inputs["input_ids"]:
            return
        if len(tensor.shape) != 2 or not tensor.dtype.is_floating_point():
            return
        matrix = FloatMatrix(tensor, is_transposed=True, name=None if table is None else table.name)  # (H, V)
        names = [EMBEDDING, matrix.name, str(node.name)]
        work.names += names
        block, axes = _block_for(matrix.rows, self._block_size), rank(ids)
        if axes is None and trace_back(ids, ("Identity", "Cast")) is source:
            axes = rank(source)
        if not self._embedding or _matches(names, self._exclude):
            self._keep(_EXCLUDED if self._embedding else "a token table", matrix.name)
            return
        if block is None or axes is None:
            self._keep(_NO_BLOCK if block is None else "the rank of its indices is not known", matrix.name)
            return
        shared = work.shared.get((id(tensor), matrix.rows))
        if shared is not None:
            # The head's own integers (H, V): columns are gathered, and turned afterwards.
            parts, block = shared
            rows = [work.edit.before(node, "Gather", [part, ids], {"axis": 1})[0] for part in parts]
            (value,) = work.edit.before(node, "DequantizeLinear", rows, {"axis": 0, "block_size": block})
            copy_type(node.outputs[0], value)
            (value,) = work.edit.before(node, "Transpose", [value], {"perm": [*range(1, axes + 1), 0]})
        else:
            parts = work.parts(Job(matrix, 8, block, symmetric=True, flip=True, search=self._search))
            rows = [work.edit.before(node, "Gather", [part, ids], {"axis": 0})[0] for part in parts]
            (value,) = work.edit.before(node, "DequantizeLinear", rows, {"axis": -1, "block_size": block})
        copy_type(node.outputs[0], value)
        value.shape = node.outputs[0].shape
        replace_value(node.outputs[0], value)
        work.tables += 1

    def _keep(self, reason: str, name: str) -> None:
        self.kept.setdefault(reason, []).append(name)

    def _head(self, graph: ir.Graph) -> ir.Node | None:
        """The product that gives the logits."""
        name = "logits" if self._signature is None else self._signature.logits
        logits = next((value for value in graph.outputs if value.name == name), None)
        source = trace_back(logits, _AFTER_HEAD)
        return None if source is None else source.producer()


class _Work:
    """What one call has done so far.

    Attributes:
        edit: Adds to the graph.
        names: Names that patterns may mean, in graph order.
        by_bits: The number of matrices that were quantized, by bits.
        tables: Token tables done.
        smaller: Matrices with smaller blocks than asked for.
        shared: Parts and block size of 8-bit matrices by (constant, K).
    """

    def __init__(self, graph: ir.Graph, matrices: list[MatrixReport]) -> None:
        self.edit = Editor(graph, "quantized")
        self.names: list[str] = []
        self.by_bits: dict[int, int] = {}
        self.tables = 0
        self.smaller: list[str] = []
        self.shared: dict[tuple[int, object], tuple[list[ir.Value], int]] = {}
        self._rounding = Rounding(matrices)

    @property
    def count(self) -> int:
        """Places changed."""
        return sum(self.by_bits.values()) + self.tables

    def parts(self, job: Job) -> list[ir.Value]:
        """Integers, scales and perhaps zero points as initializers, one after the other."""
        stems = {"integers": job.dtype("integers").name.lower(), "scales": "scales", "zero_points": "zero_points"}
        return [
            self.edit.weight(f"{job.source.name}.{stems[part]}", self._rounding.lazy(job, part)) for part in job.parts
        ]


def _renew_lookup(work: _Work, node: ir.Node) -> None:
    """A quantized token table that was rounded again as LM head: both go on with the same integers."""
    gather = node.inputs[0].producer() if node.inputs[0] is not None else None
    if gather is None or not is_op(gather, "Gather") or attribute(gather, "axis", 0) != 1:
        return
    tensor, ids = constant_tensor(gather.inputs[0]), gather.inputs[1]
    found = None if tensor is None else work.shared.get((id(tensor), tensor.shape[0]))
    if found is None or attribute(node, "axis", 1) != 0:
        return
    parts, block = found
    columns = [work.edit.before(node, "Gather", [part, ids], {"axis": 1})[0] for part in parts]
    (value,) = work.edit.before(node, "DequantizeLinear", columns, {"axis": 0, "block_size": block})
    copy_type(node.outputs[0], value)
    value.shape = node.outputs[0].shape
    replace_value(node.outputs[0], value)
    work.tables += 1


def _block_for(rows: int, wanted: int) -> int | None:
    """The largest block up to the wanted one that divides K; None if it would be too small."""
    block = wanted
    while rows % block:
        block //= 2
    return block if block >= _SMALLEST_BLOCK else None


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _some(names: Sequence[str]) -> str:
    """The first names of a list."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
