// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// Replays the programs that `genai-iface conformance --export DIR` writes, without Python:
//   npm install --ignore-scripts
//   node replay.mjs DIR [--spoil KIND]        exit code 1 if a program fails
// What it runs is a cache of its own over onnxruntime-node; put your runtime in the place of class Cache.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";

const folder = process.argv[2] ?? ".";
const spoil = process.argv[3] === "--spoil" ? process.argv[4] : "";
const CAN = ["batch", "ragged", "chunked_prefill", "logits_all", "rewind", "reorder", "fork", "growth", "cache_scatter"];
const data = JSON.parse(readFileSync(join(folder, "programs.json"), "utf8"));

class Refusal extends Error {}
const refuse = (code, message) => { throw Object.assign(new Refusal(message), { code }); };
// safetensors: the header's length, the header, the data.
function readTensors(path) {
  const file = readFileSync(path), size = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + size).toString("utf8"));
  return (name) => {
    const { shape, data_offsets: [begin, end] } = header[name];
    return { shape, values: new Float32Array(Uint8Array.from(file.subarray(8 + size + begin, 8 + size + end)).buffer) };
  };
}

async function loadModel(path) {
  const session = await ort.InferenceSession.create(join(path, "model.onnx"), { logSeverityLevel: 3 });
  const config = JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
  // As (1, outer, positions, inner), whichever axis the positions have; a graph may fix their number.
  const tensors = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values.")).map(({ name, shape }) => {
    const [outer, positions, inner] = shape.length === 4 ? shape.slice(1) : [1, ...shape.slice(1)];
    return { name, present: name.replace("past_key_values", "present"), rank: shape.length, outer, positions, inner };
  });
  const fixed = Math.min(...tensors.map(({ positions }) => (typeof positions === "number" ? positions : Infinity)));
  return { session, tensors, fixed, vocab: config.vocab_size, most: Math.min(fixed, config.max_position_embeddings) };
}

// Rows are immutable and run one by one: what changes one makes another, so copies and forks share them.
class Cache {
  constructor(model, batch, capacity) {
    Object.assign(this, { model, capacity: capacity ?? model.most });
    this.rows = Array(batch).fill(this.grown({ length: 0, room: 0, buffers: [] }, Number.isFinite(model.fixed) ? model.fixed : 16));
  }

  grown(row, room) {
    if (room <= row.room) return row;
    const buffers = this.model.tensors.map(({ outer, inner }, index) => {
      const buffer = new Float32Array(outer * room * inner), size = row.room * inner;
      for (let head = 0; size && head < outer; head++)
        buffer.set(row.buffers[index].subarray(head * size, (head + 1) * size), head * room * inner);
      return buffer;
    });
    return { ...row, room, buffers };
  }

  async forward({ input_ids: ids, counts, logits }) {
    const width = ids[0].length, { vocab } = this.model;
    if (ids.length !== this.rows.length || ids.some((row) => row.length !== width)) refuse("invalid_input", "shape of input_ids");
    const real = counts ?? ids.map(() => width);
    if (real.length !== ids.length || real.some((n) => n < 0 || n > width)) refuse("invalid_input", `counts ${real}`);
    const tokens = ids.map((row, index) => row.slice(0, real[index]));
    if (tokens.flat().some((token) => token < 0 || token >= vocab)) refuse("invalid_input", "a token id");
    if (this.rows.some(({ length }, index) => length + real[index] > this.capacity)) refuse("cache_overflow", "no room");
    const columns = { all: width, last: 1, none: 0 }[logits], result = new Float32Array(ids.length * columns * vocab);
    for (const [index, row] of tokens.entries()) {
      if (!row.length) continue;
      const got = await this.step(index, row);
      result.set(got.slice(columns ? -Math.min(columns, row.length) * vocab : got.length), index * columns * vocab);
    }
    return result;
  }

  async step(index, tokens) {
    const { session, tensors } = this.model, length = this.rows[index].length + tokens.length;
    const row = this.grown(this.rows[index], this.rows[index].room < length ? length + 32 : 0);
    const long = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
    const at = spoil === "index" ? Math.max(0, row.length - 1) : row.length;
    const feeds = { input_ids: long(tokens, [1, tokens.length]), write_indices: long([at], [1]) };
    const rest = { nonpad_kv_seqlen: [[length], [1]], attention_mask: [Array(length).fill(1), [1, length]],
      position_ids: [tokens.map((_, i) => row.length + i), [1, tokens.length]] };
    for (const name in rest) if (session.inputNames.includes(name)) feeds[name] = long(...rest[name]);
    tensors.forEach(({ name, rank, outer, inner }, i) => {
      feeds[name] = new ort.Tensor("float32", row.buffers[i], rank === 4 ? [1, outer, row.room, inner] : [1, row.room, inner]);
    });
    const results = await session.run(feeds);
    this.rows[index] = { length, room: row.room, buffers: tensors.map(({ present }) => results[present].data) };
    return results.logits.data;
  }
  rewind_to({ lengths }) {
    const each = Array.isArray(lengths) ? lengths : this.rows.map(() => lengths);
    if (each.length !== this.rows.length || each.some((n, i) => n < 0 || n > this.rows[i].length)) refuse("invalid_input", `lengths ${each}`);
    if (spoil !== "rewind") this.rows = this.rows.map((row, i) => ({ ...row, length: each[i] }));
  }
  reorder({ indices }) {
    if (!indices.length || indices.some((i) => !(i in this.rows))) refuse("invalid_input", `indices ${indices}`);
    this.rows = indices.map((i) => this.rows[i]);
  }
  reset({ rows }) {
    const chosen = rows === null ? [...this.rows.keys()] : [rows].flat();
    if (chosen.some((i) => !(i in this.rows))) refuse("invalid_input", `rows ${chosen}`);
    this.rows = this.rows.map((row, i) => (chosen.includes(i) ? { ...row, length: 0 } : row));
  }
  fork() {
    return Object.assign(Object.create(Cache.prototype), this, { rows: [...this.rows] });
  }
}

function compare(got, { expected, logits, input_ids, counts }, tensorOf) {
  const { shape: [rows, columns, vocab], values } = tensorOf(expected.tensor);
  for (let row = 0; row < rows; row++) {
    const count = counts?.[row] ?? input_ids[0].length, real = logits === "all" ? count : Math.min(count, 1);
    for (let i = row * columns * vocab; i < (row * columns + real) * vocab; i++)
      if (!(Math.abs(got[i] - values[i]) <= expected.tolerance)) return `row ${row}: ${got[i]}, expected ${values[i]}`;
  }
  return "";
}

async function runStep(step, caches, models, tensorOf) {
  const cache = caches.get(step.cache);
  if (step.call === "create_cache") return void caches.set(step.cache, new Cache(models.get(step.model), step.batch_size, step.capacity));
  if (step.call === "fork") return void caches.set(step.to, cache.fork());
  if (step.call === "close") return void (cache.isClosed = true);
  const act = async () => (cache.isClosed ? refuse("invalid_input", "the cache is closed") : cache[step.call](step));
  const got = await act().catch((error) => (error instanceof Refusal ? error : Promise.reject(error)));
  const refused = got instanceof Refusal ? got.code : undefined;
  if (refused !== step.error) return `${refused ?? "accepted"} where ${step.error ?? "no refusal"} is right`;
  const lengths = cache.rows.map(({ length }) => length).join();
  if (step.lengths_after && lengths !== step.lengths_after.join()) return `lengths ${lengths}, expected ${step.lengths_after}`;
  return step.expected ? compare(got, step, tensorOf) : undefined;
}

const tensorOf = readTensors(join(folder, "tensors.safetensors")), models = new Map(), counts = { passed: 0, failed: 0, skipped: 0 };
for (const { id, needs, steps } of data.programs) {
  const missing = needs.filter((need) => !CAN.includes(need)), caches = new Map();
  let fault = "";
  for (const [number, step] of missing.length ? [] : steps.entries()) {
    if (step.model && !models.has(step.model)) models.set(step.model, await loadModel(join(folder, data.models[step.model])));
    fault = await runStep(step, caches, models, tensorOf);
    if (fault && (fault = `step ${number}, ${step.call}: ${fault}`)) break;
  }
  counts[missing.length ? "skipped" : fault ? "failed" : "passed"] += 1;
  if (missing.length || fault) console.log(missing.length ? `skipped ${id}: needs ${missing}` : `FAILED ${id}: ${fault}`);
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exit(counts.failed ? 1 : 0);
