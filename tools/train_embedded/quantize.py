# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Symmetric int8 quantization in blocks along the input dimension of a matrix."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tools.train_embedded.model import Decoder

BLOCK = 32


@dataclass(frozen=True)
class Quantized:
    """A matrix (K, N) as int8 values and float32 scales (K / block, N)."""

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    block: int

    def dequantized(self) -> npt.NDArray[np.float32]:
        """Return the float32 matrix (K, N), exactly as DequantizeLinear computes it."""
        return self.values.astype(np.float32) * np.repeat(self.scales, self.block, axis=0)


def quantize(matrix: npt.NDArray[np.float32], block: int = BLOCK) -> Quantized:
    """Round a matrix (K, N) to int8 with one scale for each block of K and each column."""
    rows, columns = matrix.shape
    if rows % block:
        raise ValueError(f"the number of rows, {rows}, is not a multiple of the block size, {block}")
    blocks = matrix.reshape(rows // block, block, columns)
    scales = np.maximum(np.abs(blocks).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    values = np.clip(np.rint(blocks / scales[:, None]), -127, 127).astype(np.int8)
    return Quantized(values.reshape(rows, columns), scales, block)


def quantize_decoder(model: Decoder) -> tuple[dict[str, Quantized], Decoder]:
    """Quantize every matrix of a decoder.

    Returns:
        The quantized matrices by parameter name, laid out (K, N), and a copy of the decoder that computes with
        the rounded values.
    """
    rounded = copy.deepcopy(model)
    matrices: dict[str, Quantized] = {}
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if parameter.dim() != 2:
                continue
            # a linear weight is (out, in) and the embedding is (vocabulary, hidden): both become (K, N) transposed
            matrices[name] = quantize(np.ascontiguousarray(parameter.numpy().T))
            parameter.copy_(torch.from_numpy(matrices[name].dequantized().T.copy()))
    return matrices, rounded
