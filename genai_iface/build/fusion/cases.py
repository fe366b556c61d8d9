# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the report exports: one case is a family, an opset, an element type and a form of the inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from genai_iface.build._families import FAMILIES, family_of
from genai_iface.errors import InvalidInputError

__all__ = ["FORMS", "PACKAGES", "Case", "cases_of", "fingerprint", "versions"]

# How a caller exports: with position ids, without them, or with past keys and values.
FORMS = ("plain", "no-position-ids", "past")

# Changes when the models or the way they are exported do.
_RECIPE = 2

# The packages whose versions decide the result.
PACKAGES = ("torch", "onnxscript", "onnx-ir", "transformers", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """One export.

    Attributes:
        family: Name of the family.
        opset: The requested opset.
        dtype: "float32" or "float16".
        form: One of :data:`FORMS`.
    """

    family: str
    opset: int
    dtype: str
    form: str = "plain"

    @property
    def name(self) -> str:
        """A name for files and rows."""
        return f"{self.family}-{self.opset}-{self.dtype}-{self.form}"

    @classmethod
    def from_name(cls, name: str) -> Case:
        """The case that has this name."""
        for form in FORMS:
            if name.endswith(f"-{form}"):
                family, opset, dtype = name.removesuffix(f"-{form}").rsplit("-", 2)
                return cls(family, int(opset), dtype, form)
        raise InvalidInputError(f"{name!r} is not the name of a case", remedy="a name is FAMILY-OPSET-DTYPE-FORM")


def cases_of(
    family: str, *, opsets: Sequence[int] = (23, 24), dtypes: Sequence[str] = ("float32", "float16")
) -> list[Case]:
    """The cases of a family: every opset and type with position ids, the other forms once, and one newer opset."""
    settings = family_of(family).settings
    cases = [Case(family, opset, dtype) for opset in opsets for dtype in dtypes]
    if 23 in opsets and "float32" in dtypes:
        cases.append(Case(family, 23, "float32", "no-position-ids"))
        shared = settings.get("num_key_value_heads", 0) != settings.get("num_attention_heads", 0)
        if shared and "conv" not in settings.get("layer_types", ()):  # those keep more than keys and values
            cases.append(Case(family, 23, "float32", "past"))
        if family == next(iter(FAMILIES)):
            cases.append(Case(family, 26, "float32"))
    return cases


def versions() -> dict[str, str]:
    """The installed versions of :data:`PACKAGES`."""
    return {package: version(package) for package in PACKAGES}


def fingerprint(case: Case) -> str:
    """Changes whenever the export would: with the versions, the recipe, and the family's configuration."""
    family = asdict(family_of(case.family))
    text = json.dumps([_RECIPE, versions(), family, case.name], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
