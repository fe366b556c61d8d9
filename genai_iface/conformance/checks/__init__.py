# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: the checks, by level and subject. A level is a room; its MODULES register theirs when they are imported."""
