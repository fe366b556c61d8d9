// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// transformers.js behind the wire protocol (docs/spec/wire.md), profile "text":
//   npm install --ignore-scripts
//   genai-iface conformance --command "node examples/harness_transformers_js/harness.mjs"
import { existsSync, readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModelForCausalLM, AutoTokenizer, env, StoppingCriteria, StoppingCriteriaList, Tensor } from "@huggingface/transformers";
import { refuse, serve } from "../harness_javascript/wire.mjs";

// What generate() takes, by our name; the others are refused.
const NAMES = { max_new_tokens: "max_new_tokens", max_length: "max_length", min_new_tokens: "min_new_tokens", top_k: "top_k",
  top_p: "top_p", temperature: "temperature", do_sample: "do_sample", repetition_penalty: "repetition_penalty",
  no_repeat_ngram_size: "no_repeat_ngram_size", bad_words_ids: "bad_words_ids" };
const WATCHED = ["stop_token_ids", "stop_strings", "include_stop_str_in_output", "ignore_eos"];
const DRAWS = ["temperature", "top_k", "top_p"];
const models = new Map();

function hello() {
  const backend = { name: "transformers.js", version: "1", runtime: "@huggingface/transformers", runtime_version: env.version,
    interface_versions: [1], capabilities: [], dtypes: ["float32"], limits: {} };
  return { wire_version: 2, backend, devices: [{ identifier: "cpu", kind: "cpu" }], form: "concat", profile: "text" };
}

async function load({ folder }) {
  if (!existsSync(`${folder}/model.onnx`)) refuse(`${folder}/model.onnx does not exist`);
  env.allowRemoteModels = false;
  env.localModelPath = dirname(folder);
  const options = { local_files_only: true, dtype: "fp32", device: "cpu", subfolder: "", session_options: { logSeverityLevel: 3 } };
  const network = await AutoModelForCausalLM.from_pretrained(basename(folder), options);
  const tokenizer = existsSync(`${folder}/tokenizer.json`) ? await AutoTokenizer.from_pretrained(basename(folder), options) : null;
  const config = JSON.parse(readFileSync(`${folder}/config.json`));
  models.set(models.size, { network, tokenizer, ends: [config.eos_token_id ?? []].flat(), room: config.max_position_embeddings });
  return { model: models.size - 1 };
}

class Stops extends StoppingCriteria {
  constructor(isEnd) {
    super();
    this.isEnd = isEnd;
  }
  _call(rows) {
    return rows.map((row) => this.isEnd(row.map(Number)));
  }
}

function optionsOf(config, room) {
  // Its own default would be 50.
  const options = { max_length: room, top_k: 0 };
  for (const [name, value] of Object.entries(config)) {
    if (NAMES[name]) options[NAMES[name]] = value;
    else if (!WATCHED.includes(name))
      refuse(`transformers.js has no ${name}`, "unsupported_capability", { capability: `x-${name}` });
  }
  const draws = config.do_sample ?? DRAWS.some((name) => name in config);
  options.do_sample = draws && config.temperature !== 0;
  if (!options.do_sample) DRAWS.forEach((name) => delete options[name]);
  return options;
}

// The text up to the first stop string that is complete, and whether there was one.
function cut(text, { stop_strings = [], include_stop_str_in_output: keeps = false }) {
  const found = stop_strings.map((stop) => ({ stop, end: text.indexOf(stop) + stop.length }))
    .filter(({ stop }) => text.includes(stop)).sort((one, other) => one.end - other.end)[0];
  return found ? { text: text.slice(0, found.end - (keeps ? 0 : found.stop.length)), isCut: true } : { text, isCut: false };
}

async function generate({ model, prompt, config }) {
  const { network, tokenizer, ends, room } = models.get(model);
  const ids = typeof prompt === "string" ? tokenizer.encode(prompt, { add_special_tokens: false }) : prompt;
  const stops = [...(config.stop_token_ids ?? []), ...(config.ignore_eos ? [] : ends)];
  const textOf = (tokens) => (tokenizer ? tokenizer.decode(
    tokens.filter((token) => !(config.stop_token_ids ?? []).includes(token)), { skip_special_tokens: true }) : "");
  const criteria = new StoppingCriteriaList();
  criteria.push(new Stops((row) => {
    const tokens = row.slice(ids.length);
    return stops.includes(tokens.at(-1)) || (config.stop_strings !== undefined && cut(textOf(tokens), config).isCut);
  }));
  const long = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  const done = await network.generate({ ...optionsOf(config, room), inputs: long(ids), attention_mask: long(ids.map(() => 1)),
    eos_token_id: stops.length ? stops : null, stopping_criteria: criteria });
  const token_ids = Array.from(done.data, Number).slice(ids.length);
  const { text, isCut } = cut(textOf(token_ids), config);
  return { text, token_ids, finish_reason: isCut || stops.includes(token_ids.at(-1)) ? "stop" : "length" };
}

const CALLS = { hello, load, generate, close_model: () => ({}) };

await serve(async ({ call, ...given }) =>
  CALLS[call] ? CALLS[call](given) : refuse(`there is no ${call} in the profile text`, "unsupported_capability"));
