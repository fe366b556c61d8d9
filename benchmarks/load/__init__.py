# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of benchmarks.serving_load: requests, clients that behave badly, and what is made of what they saw."""
