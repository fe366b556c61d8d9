# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The fusion report: which fusions of the torch exporter fire on which decoder families, and why others don't."""
