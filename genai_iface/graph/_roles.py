# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the role of each graph input that is not a cache, from what it feeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from genai_iface.graph._consumers import Consumer, Sink, consumers
from genai_iface.graph._walk import describe, dtype_name, listed, op, rank, unsupported
from genai_iface.graph.signature import Evidence, InputRole

__all__ = ["DerivedRoles", "derive_roles"]

_INTEGERS = ("int64", "int32")
_TYPES: dict[InputRole, tuple[str, ...]] = {
    "input_ids": _INTEGERS,
    "position_ids": _INTEGERS,
    "write_indices": ("int64",),
    "counts": ("int64",),
    "nonpad_kv_seqlen": ("int64",),
    "attention_mask": (*_INTEGERS, "bool"),
    "seqlens_k": _INTEGERS,
    "total_sequence_length": _INTEGERS,
}
_RANKS: dict[InputRole, tuple[int, ...]] = {
    "input_ids": (2,),
    "position_ids": (2,),
    "write_indices": (1,),
    "counts": (1,),
    "nonpad_kv_seqlen": (1,),
    "attention_mask": (2,),
    "seqlens_k": (1, 2),
    "total_sequence_length": (0, 1),
}
# The role counts is found with the states that it guards.
_EXPECTED = (
    "expected token ids, positions, an attention mask of rank 2, write_indices, nonpad_kv_seqlen, seqlens_k or "
    "total_sequence_length"
)
# One more than there are roles: each input is followed through the graph.
_MOST_INPUTS = 8
# A table of so few rows holds token types or flags, not positions.
_FEWEST_POSITIONS = 8


@dataclass(frozen=True, slots=True)
class DerivedRoles:
    """Inputs by role, and the positions that the graph's tables hold for them."""

    inputs: dict[InputRole, ir.Value] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    position_rows: list[int] = field(default_factory=list)


def derive_roles(inputs: Sequence[ir.Value], vocab_size: int, leading_to_logits: set[ir.Node]) -> DerivedRoles:
    """Gives every input a role.

    Args:
        inputs: The graph inputs that are not cache tensors and have no default.
        vocab_size: V, to tell the token table from a position table.
        leading_to_logits: The nodes that the logits follow from.

    Raises:
        UnsupportedModelError: An input's role is not clear, given twice, or there are no input_ids.
    """
    if len(inputs) > _MOST_INPUTS:
        raise unsupported(
            f"The graph has {len(inputs)} inputs besides the cache ({listed(inputs)}), {_EXPECTED}: one of each at most"
        )
    sinks = {value: [at for at in consumers(value) if at.node in leading_to_logits] for value in inputs}
    derived = DerivedRoles()
    lookups = []
    for value in inputs:
        role, at = _length_role(value, sinks[value])
        if role is None and any(at.sink == "lookup" for at in sinks[value]) and not _counted(sinks[value]):
            lookups.append(value)
            continue
        if role is None:
            role, at = _position_or_mask(value, sinks[value])
        if role is None and not sinks[value]:
            role = _unused(value)
        if role is None:
            raise _unknown(value, sinks[value])
        _give(derived, role, value, at)
    _tell_lookups_apart(derived, lookups, sinks, vocab_size)
    if "input_ids" not in derived.inputs:
        given = listed(inputs)
        raise unsupported(
            f"No graph input selects rows of a token table with a Gather on the way to the logits (inputs: {given})",
            "Export the decoder with its embedding, so that it takes token ids.",
        )
    for role, value in derived.inputs.items():
        if role != "input_ids":
            rows = (at.rows for at in sinks[value] if at.sink == "lookup")
            derived.position_rows.extend(count for count in rows if count is not None)
    return derived


def _length_role(value: ir.Value, sinks: Sequence[Consumer]) -> tuple[InputRole | None, Consumer | None]:
    """The roles that an operator's own input shows."""
    if rank(value) == 2 and _counted(sinks):
        return None, None
    named: tuple[tuple[Sink, InputRole], ...] = (
        ("write", "write_indices"),
        ("nonpad", "nonpad_kv_seqlen"),
        ("seqlens", "seqlens_k"),
        ("total", "total_sequence_length"),
    )
    for sink, role in named:
        at = next((at for at in sinks if at.sink == sink and not at.counted), None)
        if at is not None and rank(value) in (*_RANKS[role], None):
            return role, at
    return None, None


def _counted(sinks: Iterable[Consumer]) -> bool:
    """Whether sums of the input become positions or lengths, as with a mask of ones and zeros."""
    return any(at.counted and at.sink != "mask" for at in sinks)


def _position_or_mask(value: ir.Value, sinks: Sequence[Consumer]) -> tuple[InputRole | None, Consumer | None]:
    rotation = next((at for at in sinks if at.sink == "rotation"), None)
    mask = next((at for at in sinks if at.sink == "mask"), None)
    counted = next((at for at in sinks if at.counted and at.sink != "mask"), None)
    if rotation is not None and counted is None and dtype_name(value) != "bool":
        return "position_ids", rotation
    if counted is not None or mask is not None:
        return "attention_mask", counted or mask
    return None, None


def _unused(value: ir.Value) -> InputRole | None:
    """An input that the logits do not depend on: only its name is left to go by."""
    names: tuple[InputRole, ...] = ("position_ids", "attention_mask")
    return next((role for role in names if value.name == role), None)


def _tell_lookups_apart(
    derived: DerivedRoles, lookups: list[ir.Value], sinks: dict[ir.Value, list[Consumer]], vocab_size: int
) -> None:
    """Token ids index the table that has a row for each of the V logits; positions index another one."""

    def rows(value: ir.Value) -> int:
        return max((at.rows or 0 for at in sinks[value] if at.sink == "lookup"), default=0)

    def likely(value: ir.Value) -> tuple[bool, bool, int]:
        return rows(value) == vocab_size, "ids" in str(value.name) and "position" not in str(value.name), rows(value)

    rotating = [value for value in lookups if any(at.sink == "rotation" for at in sinks[value])]
    tables = [value for value in lookups if value not in rotating]
    ids = max(tables, key=likely, default=None)
    for value in lookups:
        at = next(at for at in sinks[value] if at.sink == "lookup")
        if value is ids:
            _give(derived, "input_ids", value, at)
        elif rows(value) >= _FEWEST_POSITIONS:
            _give(derived, "position_ids", value, at)
        else:
            raise _unknown(value, sinks[value])


def _give(derived: DerivedRoles, role: InputRole, value: ir.Value, at: Consumer | None) -> None:
    name = str(value.name)
    if role in derived.inputs:
        raise unsupported(f"Both {derived.inputs[role].name!r} and {name!r} act as {role}, expected one such input")
    if dtype_name(value) not in _TYPES[role]:
        raise unsupported(
            f"The input {name!r} acts as {role} and has element type {dtype_name(value)}, "
            f"expected {' or '.join(_TYPES[role])}"
        )
    if rank(value) not in (*_RANKS[role], None):
        ranks = " or ".join(map(str, _RANKS[role]))
        raise unsupported(f"The input {name!r} acts as {role} and has rank {rank(value)}, expected {ranks}")
    derived.inputs[role] = value
    derived.evidence.append(Evidence(name, role, _reason(at)))


def _reason(at: Consumer | None) -> str:
    if at is None:
        return "its name; the logits do not depend on it"
    way = f" through {', '.join(dict.fromkeys(at.via))}" if at.via else ""
    if at.sink == "lookup":
        rows = f" of {at.rows} rows" if at.rows is not None else ""
        return f"selects from the table{rows} of the {describe(at.node)}{way}"
    what = {
        "write": "gives write_indices of the {}",
        "nonpad": "gives nonpad_kv_seqlen of the {}",
        "seqlens": "gives seqlens_k of the {}",
        "total": "gives total_sequence_length of the {}",
        "rotation": "gives the positions of the {}",
        "mask": "hides keys in the {}",
    }[at.sink]
    return what.format(describe(at.node)) + way


def _unknown(value: ir.Value, sinks: Sequence[Consumer]) -> Exception:
    users = [node for node in value.consumers() if op(node) != "Shape"] or list(value.consumers())
    where = f"it feeds the {describe(users[0])}" if users else "no node uses it"
    kind = f"{dtype_name(value)}, rank {'unknown' if rank(value) is None else rank(value)}"
    seen = f"; on its way there are {', '.join(sorted({at.sink for at in sinks}))}" if sinks else ""
    return unsupported(f"The input {value.name!r} ({kind}) has no role that is understood: {where}{seen}; {_EXPECTED}")
