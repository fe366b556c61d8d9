// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// The same steps in a page: onnxruntime-web in headless Chromium, on WebGPU if the browser offers an adapter, else on WASM.
//   npm install --ignore-scripts
//   genai-iface conformance --command "node examples/harness_javascript/chromium.mjs"        "... wasm" never asks for WebGPU
// CHROMIUM names the browser, /usr/bin/chromium if it is not set.
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { serve } from "./wire.mjs";

// Two folders are served, to this machine only; models come through read().
const HERE = dirname(fileURLToPath(import.meta.url));
const ROOTS = { harness: HERE, ort: dirname(createRequire(import.meta.url).resolve("onnxruntime-web")) };
const TYPES = { mjs: "text/javascript", js: "text/javascript", wasm: "application/wasm" };
const files = createServer((request, response) => {
  const [, root, name] = request.url.split("?")[0].split("/"), kind = name?.split(".").pop();
  if (request.url === "/") return response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html>");
  const path = TYPES[kind] && ROOTS[root] ? join(ROOTS[root], name) : "";
  if (!existsSync(path)) return response.writeHead(404).end();
  response.writeHead(200, { "content-type": TYPES[kind] }).end(readFileSync(path));
});
await new Promise((ready) => files.listen(0, "127.0.0.1", ready));

const quiet = ["no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"];
const args = ["no-sandbox", "enable-unsafe-webgpu", ...quiet].map((flag) => `--${flag}`);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
const page = await browser.newPage();
await page.exposeFunction("readFile", (path) => (existsSync(path) ? readFileSync(path).toString("base64") : null));
await page.goto(`http://127.0.0.1:${files.address().port}/`);
await page.evaluate(async ({ version, asked }) => {
  const adapter = asked === "wasm" ? null : await navigator.gpu?.requestAdapter();
  const provider = adapter ? "webgpu" : "wasm";
  const ort = await import(adapter ? "/ort/ort.webgpu.min.mjs" : "/ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = "/ort/";
  ort.env.wasm.numThreads = 1;
  const { answer, runOn } = await import("/harness/steps.mjs");
  const { replyTo } = await import("/harness/wire.mjs");
  const read = async (path) => {
    const data = await window.readFile(path);
    return data === null ? null : Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  };
  const how = adapter ? `WebGPU on ${adapter.info.description || adapter.info.architecture}` : "WASM";
  const runtime_version = `${ort.env.versions.web}, ${how}, Chromium ${version}`;
  const said = { name: `onnxruntime-web-chromium-${provider}`, runtime: "onnxruntime-web in Chromium", runtime_version };
  runOn({ ort, ...said, options: { executionProviders: [provider] }, hasFiles: false, read });
  window.reply = (request) => replyTo(answer, request);
}, { version: browser.version(), asked: process.argv[2] });

// What ends the input ends the browser.
process.on("exit", () => browser.close());
await serve(null, (request) => page.evaluate((asked) => window.reply(asked), request));
