// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// The step profile of the wire protocol (docs/spec/wire.md) over ONNX Runtime's JavaScript API, in Node.js and in pages.
import { MOVES, tell, withRoom } from "./cache.mjs";
import { decode, encode, integers, refuse } from "./wire.mjs";

const CPU = { identifier: "cpu", kind: "cpu" };
const CAN = ["batch", "ragged", "chunked_prefill", "logits_all", "rewind", "reorder", "growth", "fork", "cache_scatter"];
const RUNTIME = {}, models = new Map(), caches = new Map();
let handles = 0;

// What it runs on: ort, name, runtime, runtime_version, options of sessions, hasFiles, and read(path): bytes or null.
export const runOn = (runtime) => Object.assign(RUNTIME, runtime);

const open = (source) => RUNTIME.ort.InferenceSession.create(source, { logSeverityLevel: 3, ...RUNTIME.options })
  .catch((error) => refuse(error.message, "unsupported_model"));

function hello() {
  const { name, runtime, runtime_version } = RUNTIME;
  const backend = { name, version: "1", runtime, runtime_version, interface_versions: [1], capabilities: CAN,
    dtypes: ["float32"], limits: {} };
  return { wire_version: 1, backend, devices: [CPU], form: "scatter", profile: "step", operators: true };
}

async function load({ folder, device, options }) {
  const path = `${folder}/model.onnx`;
  if (device !== null && device !== "cpu") refuse(`there is no device ${device}`);
  if (Object.keys(options).length) refuse(`there is no option ${Object.keys(options)[0]}`);
  const content = await RUNTIME.read(path) ?? refuse(`${path} does not exist`);
  const session = await open(RUNTIME.hasFiles ? path : content);
  const config = JSON.parse(new TextDecoder().decode(await RUNTIME.read(`${folder}/config.json`)));
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

function keep(cache) {
  caches.set(++handles, cache);
  return { cache: handles, state: tell(cache) };
}

function createCache(model, { batch_size: count, capacity }) {
  if (count < 1) refuse(`batch_size is ${count}`);
  if (capacity !== null && !(capacity >= 1 && capacity <= model.most)) refuse(`${capacity} is not in 1..${model.most}`);
  const row = withRoom(model, { length: 0, positions: 0, buffers: [] }, model.fixed < Infinity ? model.fixed : 16);
  return keep({ model, capacity: capacity ?? model.most, rows: Array(count).fill(row), isOpen: true });
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
  const long = (values, shape) => new RUNTIME.ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
  const feeds = { input_ids: long(tokens, [1, tokens.length]), write_indices: long([row.length], [1]) };
  const rest = { nonpad_kv_seqlen: [[length], [1]], attention_mask: [Array(length).fill(1), [1, length]],
    position_ids: [tokens.map((_, index) => row.length + index), [1, tokens.length]] };
  for (const name in rest) if (model.session.inputNames.includes(name)) feeds[name] = long(...rest[name]);
  model.tensors.forEach(({ name, rank, outer, inner }, index) => {
    const shape = rank === 4 ? [1, outer, wide.positions, inner] : [1, wide.positions, inner];
    feeds[name] = new RUNTIME.ort.Tensor("float32", wide.buffers[index], shape);
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

// A graph that is run again and again is opened once.
let opened = {};

async function runNode({ onnx, inputs }) {
  if (opened.data !== onnx.data) opened = { data: onnx.data, session: await open(decode(onnx)) };
  const { session } = opened, feeds = {};
  for (const [name, tensor] of Object.entries(inputs)) feeds[name] = new RUNTIME.ort.Tensor(tensor.dtype, decode(tensor), tensor.shape);
  const results = await session.run(feeds);
  return { outputs: session.outputNames.map((name) => encode(results[name].type, results[name].dims, results[name].data)) };
}

export async function answer({ call, model: modelHandle, cache: cacheHandle, ...given }) {
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
  if (call === "fork") return keep({ ...cache });
  const result = MOVES[call] ? MOVES[call](cache, given) : refuse(`there is no ${call}`, "unsupported_capability");
  return { state: tell(cache), ...result };
}
