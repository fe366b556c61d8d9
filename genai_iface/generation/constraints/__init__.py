# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: constrained output: what a text may be, and which tokens that leaves at each step."""

from genai_iface.generation.constraints.constraint import (
    Constraint,
    ConstraintProcessor,
    TokenConstraint,
    constraint_of,
)
from genai_iface.generation.constraints.guidance import Guidance, SupportsTokenizerJson

__all__ = [
    "Constraint",
    "ConstraintProcessor",
    "Guidance",
    "SupportsTokenizerJson",
    "TokenConstraint",
    "constraint_of",
]
