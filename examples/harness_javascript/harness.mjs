// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime in JavaScript behind the wire protocol (docs/spec/wire.md), native or as WebAssembly:
//   npm install --ignore-scripts
//   genai-iface conformance --command "node examples/harness_javascript/harness.mjs onnxruntime-node"
import { existsSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const RUNTIME = process.argv[2] ?? "onnxruntime-node";
const ort = await import(RUNTIME);
const CPU = { identifier: "cpu", kind: "cpu" };
const CAN = ["batch", "ragged", "chunked_prefill", "logits_all", "rewind", "reorder", "growth", "fork", "cache_scatter"];
const ARRAYS = { float32: Float32Array, int64: BigInt64Array, bool: Uint8Array, uint8: Uint8Array };
const models = new Map(), caches = new Map();
let handles = 0;

class Refusal extends Error {
  constructor(message, code = "invalid_input", fields = {}) {
    super(message);
    this.reply = { code, message, remedy: "See docs/spec/wire.md.", ...fields };
  }
}
const refuse = (...what) => { throw new Refusal(...what); };
const decode = ({ dtype, data }) => new (ARRAYS[dtype] ?? refuse(`there is no ${dtype} here`))(
  Uint8Array.from(Buffer.from(data, "base64")).buffer);
const encode = (dtype, shape, array) =>
  ({ dtype, shape, data: Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64") });
const open = (source) => ort.InferenceSession.create(source, { logSeverityLevel: 3 })
  .catch((error) => refuse(error.message, "unsupported_model"));

function hello() {
  const runtime_version = ort.env.versions[RUNTIME.slice("onnxruntime-".length)];
  const backend = { name: RUNTIME, version: "1", runtime: RUNTIME, runtime_version, interface_versions: [1],
    capabilities: CAN, dtypes: ["float32"], limits: {} };
  return { wire_version: 1, backend, devices: [CPU], form: "scatter", profile: "step", operators: true };
}

async function load({ folder, device, options }) {
  const path = `${folder}/model.onnx`;
  if (device !== null && device !== "cpu") refuse(`there is no device ${device}`);
  if (Object.keys(options).length) refuse(`there is no option ${Object.keys(options)[0]}`);
  if (!existsSync(path)) refuse(`${path} does not exist`);
  // WebAssembly has no files.
  const session = await open(RUNTIME === "onnxruntime-web" ? new Uint8Array(readFileSync(path)) : path);
  const config = JSON.parse(readFileSync(`${folder}/config.json`));
  // As (1, outer, positions, inner), whichever axis the positions have; a graph may fix their number.
  const tensors = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values.")).map(({ name, shape }) => {
    const [outer, positions, inner] = shape.length === 4 ? shape.slice(1) : [1, ...shape.slice(1)];
    return { name, present: name.replace("past_key_values", "present"), rank: shape.length, outer, positions, inner };
  });
  if (!tensors.length || !session.inputNames.includes("write_indices")) refuse("no TensorScatter", "unsupported_model");
  const { num_key_value_heads: heads, head_dim: head, vocab_size, max_position_embeddings: context_length } = config;
  const fixed = Math.min(...tensors.map(({ positions }) => (typeof positions === "number" ? positions : Infinity)));
  const capacity = fixed < Infinity ? fixed : null, bytes = tensors.length * heads * head * 4;
  const layer = { num_kv_heads: heads, key_head_dim: head, value_head_dim: head, dtype: "float32", capacity };
  const layers = Array(tensors.length / 2).fill(layer), layout = tensors[0].rank === 4 ? "bnsh" : "bsh";
  models.set(++handles, { session, tensors, vocab_size, fixed, bytes, most: Math.min(fixed, context_length), isOpen: true });
  const spec = { vocab_size, context_length, cache: { style: "scatter", layout, layers } };
  return { model: handles, spec, device: CPU, capabilities: CAN };
}

function tell({ model, capacity, rows }) {
  const nbytes = rows.flatMap((row) => row.buffers).reduce((sum, buffer) => sum + buffer.byteLength, 0);
  return { batch_size: rows.length, capacity, lengths: rows.map((row) => row.length), nbytes,
    bytes_per_token: model.bytes, update_mode: "copied" };
}

function keep(cache) {
  caches.set(++handles, cache);
  return { cache: handles, state: tell(cache) };
}

// A row's tensors are never written to: whatever changes them makes new ones, so rows can be shared by forks.
function withRoom(model, row, positions) {
  if (positions <= row.positions) return row;
  const buffers = model.tensors.map(({ outer, inner }, index) => {
    const buffer = new Float32Array(outer * positions * inner), size = row.positions * inner;
    for (let head = 0; size && head < outer; head++)
      buffer.set(row.buffers[index].subarray(head * size, (head + 1) * size), head * positions * inner);
    return buffer;
  });
  return { ...row, positions, buffers };
}

function createCache(model, { batch_size: count, capacity }) {
  if (count < 1) refuse(`batch_size is ${count}`);
  if (capacity !== null && !(capacity >= 1 && capacity <= model.most)) refuse(`${capacity} is not in 1..${model.most}`);
  const row = withRoom(model, { length: 0, positions: 0, buffers: [] }, model.fixed < Infinity ? model.fixed : 16);
  return keep({ model, capacity: capacity ?? model.most, rows: Array(count).fill(row), isOpen: true });
}

function integers(tensor, what, count = null) {
  if (tensor.dtype !== "int64") refuse(`${what} is ${tensor.dtype}, not int64`);
  const values = Array.from(decode(tensor), Number);
  if (count !== null && !tensor.shape.length) return Array(count).fill(values[0]);
  if (tensor.shape.length !== 1 || (count !== null && values.length !== count)) refuse(`${what} has another shape`);
  return values;
}

function tokensOf({ rows, capacity, model }, { input_ids, counts }) {
  const [height, width] = input_ids.shape, ids = integers({ ...input_ids, shape: [0] }, "input_ids");
  if (input_ids.shape.length !== 2 || height !== rows.length || width < 1) refuse(`input_ids is ${input_ids.shape}`);
  const real = counts === null ? rows.map(() => width) : integers(counts, "counts", rows.length);
  if (real.some((count) => count < 0 || count > width)) refuse(`the counts ${real} are not in 0..${width}`);
  const tokens = real.map((count, row) => ids.slice(row * width, row * width + count));
  const bad = tokens.flat().find((id) => id < 0 || id >= model.vocab_size);
  if (bad !== undefined) refuse(`the token ${bad} is not in 0..${model.vocab_size - 1}`);
  const row = rows.findIndex(({ length }, index) => length + real[index] > capacity);
  if (row < 0) return { tokens, width };
  return refuse("no room", "cache_overflow", { row, needed: rows[row].length + real[row], capacity });
}

// Rows run one after the other, each as wide as its tokens: nothing is padded.
async function step(model, row, tokens) {
  const length = row.length + tokens.length, wide = withRoom(model, row, row.positions < length ? length + 32 : 0);
  const long = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
  const feeds = { input_ids: long(tokens, [1, tokens.length]), write_indices: long([row.length], [1]) };
  if (model.session.inputNames.includes("nonpad_kv_seqlen")) feeds.nonpad_kv_seqlen = long([length], [1]);
  model.tensors.forEach(({ name, rank, outer, inner }, index) => {
    const shape = rank === 4 ? [1, outer, wide.positions, inner] : [1, wide.positions, inner];
    feeds[name] = new ort.Tensor("float32", wide.buffers[index], shape);
  });
  const results = await model.session.run(feeds);
  const buffers = model.tensors.map(({ present }) => results[present].data);
  return [{ length, positions: wide.positions, buffers }, results.logits.data];
}

async function forward(model, cache, given) {
  if (cache.model !== model) refuse("the cache is another model's");
  const { tokens, width } = tokensOf(cache, given), size = model.vocab_size;
  const columns = { all: width, last: 1, none: 0 }[given.logits] ?? refuse(`logits is ${given.logits}`);
  const rows = [...cache.rows], asked = new Float32Array(rows.length * columns * size);
  for (const [index, ids] of tokens.entries()) {
    if (!ids.length) continue;
    const [row, logits] = await step(model, rows[index], ids);
    rows[index] = row;
    asked.set(logits.slice(-Math.min(columns, ids.length) * size || logits.length), index * columns * size);
  }
  cache.rows = rows;
  return { logits: encode("float32", [rows.length, columns, size], asked), state: tell(cache) };
}

const CALLS = {
  can_rewind_to({ rows }, given) {
    const lengths = integers(given.lengths, "lengths", rows.length);
    if (lengths.some((length, row) => length < 0 || length > rows[row].length)) refuse(`no way back to ${lengths}`);
    return { can: true, lengths };
  },
  rewind_to(cache, given) {
    const { lengths } = CALLS.can_rewind_to(cache, given);
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
  fork: (cache) => keep({ ...cache }),
};

async function runNode({ onnx, inputs }) {
  const session = await open(decode(onnx)), feeds = {};
  for (const [name, tensor] of Object.entries(inputs)) feeds[name] = new ort.Tensor(tensor.dtype, decode(tensor), tensor.shape);
  const results = await session.run(feeds);
  return { outputs: session.outputNames.map((name) => encode(results[name].type, results[name].dims, results[name].data)) };
}

async function answer({ call, model: modelHandle, cache: cacheHandle, ...given }) {
  const model = models.get(modelHandle), cache = caches.get(cacheHandle);
  if (call === "hello") return hello();
  if (call === "load") return load(given);
  if (call === "run_node") return runNode(given);
  if (call === "close_model") return void (model.isOpen = false) ?? {};
  if (call === "close_cache") return { state: { ...tell(Object.assign(cache, { isOpen: false })), nbytes: 0 } };
  if (model && !model.isOpen) refuse("the model is closed");
  if (call === "create_cache") return createCache(model, given);
  if (!cache?.isOpen) refuse("the cache is closed, or there is none");
  if (call === "forward") return forward(model, cache, given);
  const result = CALLS[call] ? CALLS[call](cache, given) : refuse(`there is no ${call}`, "unsupported_capability");
  return { state: tell(cache), ...result };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, ...request } = JSON.parse(line);
  if (request.call === "close") break;
  const reply = await answer(request).then((result) => ({ result }), (error) => {
    if (!(error instanceof Refusal)) throw error;
    return { error: error.reply };
  });
  process.stdout.write(JSON.stringify({ id, ...reply }) + "\n");
}
process.exit(0);
