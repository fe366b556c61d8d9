// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// The wire protocol (docs/spec/wire.md): tensors, refusals, and the loop that answers requests.
const ARRAYS = { float32: Float32Array, int64: BigInt64Array, bool: Uint8Array, uint8: Uint8Array };

class Refusal extends Error {
  constructor(message, code = "invalid_input", fields = {}) {
    super(message);
    this.reply = { code, message, remedy: "See docs/spec/wire.md.", ...fields };
  }
}
export const refuse = (...what) => { throw new Refusal(...what); };
export const decode = ({ dtype, data }) => new (ARRAYS[dtype] ?? refuse(`there is no ${dtype} here`))(
  Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)).buffer);
export function encode(dtype, shape, array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength), pieces = [];
  for (let at = 0; at < bytes.length; at += 4096) pieces.push(String.fromCharCode(...bytes.subarray(at, at + 4096)));
  return { dtype, shape, data: btoa(pieces.join("")) };
}

export function integers(tensor, what, count = null) {
  if (tensor.dtype !== "int64") refuse(`${what} is ${tensor.dtype}, not int64`);
  const values = Array.from(decode(tensor), Number);
  if (count !== null && !tensor.shape.length) return Array(count).fill(values[0]);
  if (tensor.shape.length !== 1 || (count !== null && values.length !== count)) refuse(`${what} has another shape`);
  return values;
}

export const replyTo = (answer, request) => answer(request).then((result) => ({ result }), (error) => {
  if (!(error instanceof Refusal)) throw error;
  return { error: error.reply };
});

// In Node.js; reply gives {result} or {error} for a request.
export async function serve(answer, reply = (request) => replyTo(answer, request)) {
  const { createInterface } = await import("node:readline");
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, ...request } = JSON.parse(line);
    if (request.call === "close") break;
    process.stdout.write(JSON.stringify({ id, ...(await reply(request)) }) + "\n");
  }
  process.exit(0);
}
