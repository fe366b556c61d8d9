# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What every backend would write again: argument checks, row lengths, step planning, graph inputs."""

from genai_iface.backend_kit.steps import (
    RowGroup,
    Step,
    check_batch_and_capacity,
    check_indices,
    check_lengths,
    check_rows,
    check_step,
    group_rows,
)

__all__ = [
    "RowGroup",
    "Step",
    "check_batch_and_capacity",
    "check_indices",
    "check_lengths",
    "check_rows",
    "check_step",
    "group_rows",
]
