# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Shared by all tests; the models that they run are in ``tests.models``."""
