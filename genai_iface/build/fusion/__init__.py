# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: the fusion report, which fusions of the exporter fire on which families, and why others do not."""
