# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: networks that keep states while they are traced into LinearAttention and CausalConvWithState, and other ways."""
