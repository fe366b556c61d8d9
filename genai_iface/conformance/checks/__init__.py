# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: the checks, by level and subject. Each module registers its own when it is imported."""
