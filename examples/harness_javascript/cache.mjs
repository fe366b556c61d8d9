// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// A cache of rows, each with tensors of its own: (1, outer, positions, inner) for every cache tensor of the graph.
import { integers, refuse } from "./wire.mjs";

export function tell({ model, capacity, rows }) {
  const nbytes = rows.flatMap((row) => row.buffers).reduce((sum, buffer) => sum + buffer.byteLength, 0);
  return { batch_size: rows.length, capacity, lengths: rows.map((row) => row.length), nbytes,
    bytes_per_token: model.bytes, update_mode: "copied" };
}

// A row's tensors are never written to: whatever changes them makes new ones, so rows can be shared by forks.
export function withRoom(model, row, positions) {
  if (positions <= row.positions) return row;
  const buffers = model.tensors.map(({ outer, inner }, index) => {
    const buffer = new Float32Array(outer * positions * inner), size = row.positions * inner;
    for (let head = 0; size && head < outer; head++)
      buffer.set(row.buffers[index].subarray(head * size, (head + 1) * size), head * positions * inner);
    return buffer;
  });
  return { ...row, positions, buffers };
}

export const MOVES = {
  can_rewind_to({ rows }, given) {
    const lengths = integers(given.lengths, "lengths", rows.length);
    if (lengths.some((length, row) => length < 0 || length > rows[row].length)) refuse(`no way back to ${lengths}`);
    return { can: true, lengths };
  },
  rewind_to(cache, given) {
    const { lengths } = MOVES.can_rewind_to(cache, given);
    cache.rows = cache.rows.map((row, index) => ({ ...row, length: lengths[index] }));
  },
  reorder(cache, given) {
    const indices = integers(given.indices, "indices");
    if (!indices.length || indices.some((row) => !(row in cache.rows))) refuse(`no rows ${indices}`);
    cache.rows = indices.map((row) => cache.rows[row]);
  },
  reset(cache, given) {
    const chosen = given.rows === null ? [...cache.rows.keys()] : integers(given.rows, "rows");
    if (chosen.some((row) => !(row in cache.rows))) refuse(`no rows ${chosen}`);
    cache.rows = cache.rows.map((row, index) => (chosen.includes(index) ? { ...row, length: 0 } : row));
  },
};
