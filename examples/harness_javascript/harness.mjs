// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime in Node.js behind the wire protocol (docs/spec/wire.md), native or as WebAssembly:
//   npm install --ignore-scripts
//   genai-iface conformance --command "node examples/harness_javascript/harness.mjs onnxruntime-node"
import { existsSync, readFileSync } from "node:fs";
import { answer, runOn } from "./steps.mjs";
import { serve } from "./wire.mjs";

const name = process.argv[2] ?? "onnxruntime-node";
const ort = await import(name);
const read = async (path) => (existsSync(path) ? new Uint8Array(readFileSync(path)) : null);
const runtime_version = ort.env.versions[name.slice("onnxruntime-".length)];
// WebAssembly has no files.
runOn({ ort, name, runtime: name, runtime_version, options: {}, hasFiles: name !== "onnxruntime-web", read });
await serve(answer);
