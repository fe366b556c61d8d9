// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// OpenVINO in C++ behind the wire protocol, with a cache of its own over past and present tensors that grow. README.md
// beside this file says how to build it; then:
//   genai-iface conformance --command examples/harness_cpp/harness
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <openvino/openvino.hpp>

#include "wire.hpp"
using wire::integers, wire::json, wire::Refusal;

const json CAN = {"batch", "ragged", "chunked_prefill", "logits_all", "rewind", "reorder", "growth", "fork", "cache_concat"};
const json CPU = {{"identifier", "cpu"}, {"kind", "cpu"}};

struct Model {
  ov::CompiledModel graph;
  std::vector<std::string> pasts;
  int64_t vocab, context, heads, size;
  bool open = true;
  int64_t bytes() const { return static_cast<int64_t>(pasts.size()) * heads * size * 4; }
};
// A row's tensors are never written to, so that forks and copies can share them.
struct Row {
  int64_t length = 0;
  std::vector<ov::Tensor> buffers;
};
struct Cache {
  std::shared_ptr<Model> model;
  int64_t capacity;
  std::vector<Row> rows;
  bool open = true;
};
ov::Core core;
std::map<int64_t, std::shared_ptr<Model>> models;
std::map<int64_t, std::shared_ptr<Cache>> caches;
int64_t handles = 0;

json hello() {
  json backend = {{"name", "openvino-cpp"}, {"version", "1"}, {"runtime", "openvino (C++)"}, {"interface_versions", {1}},
                  {"runtime_version", ov::get_openvino_version().buildNumber}, {"capabilities", CAN},
                  {"dtypes", {"float32"}}, {"limits", json::object()}};
  return {{"wire_version", 1}, {"backend", backend}, {"devices", {CPU}}, {"form", "concat"}, {"profile", "step"}, {"operators", false}};
}

json load(const json& given) {
  const std::string folder = given["folder"];
  if (!given["device"].is_null() && given["device"] != "cpu") throw Refusal("there is no device " + given["device"].dump());
  if (!given["options"].empty()) throw Refusal("there is no option " + given["options"].begin().key());
  std::ifstream said(folder + "/config.json");
  if (!said || !std::ifstream(folder + "/model.onnx")) throw Refusal(folder + " holds no model");
  const json config = json::parse(said);
  auto model = std::make_shared<Model>();
  try {
    model->graph = core.compile_model(folder + "/model.onnx", "CPU", ov::hint::inference_precision(ov::element::f32));
  } catch (const ov::Exception& error) {
    throw Refusal(std::string(error.what()).substr(0, 300), "unsupported_model");
  }
  for (const auto& input : model->graph.inputs())
    if (input.get_any_name().rfind("past_key_values.", 0) == 0) model->pasts.push_back(input.get_any_name());
  if (model->pasts.empty()) throw Refusal("the graph has no past_key_values", "unsupported_model");
  model->vocab = config["vocab_size"], model->context = config["max_position_embeddings"];
  model->heads = config["num_key_value_heads"], model->size = config["head_dim"];
  json layer = {{"num_kv_heads", model->heads}, {"key_head_dim", model->size}, {"value_head_dim", model->size}, {"dtype", "float32"}, {"capacity", nullptr}};
  json layers(model->pasts.size() / 2, layer), cache = {{"style", "concat"}, {"layout", "bnsh"}, {"layers", layers}};
  models[++handles] = model;
  json spec = {{"vocab_size", model->vocab}, {"context_length", model->context}, {"cache", cache}};
  return {{"model", handles}, {"spec", spec}, {"device", CPU}, {"capabilities", CAN}};
}

json state_of(const Cache& cache) {
  std::vector<int64_t> lengths;
  int64_t nbytes = 0;
  for (const Row& row : cache.rows) {
    lengths.push_back(row.length);
    for (const auto& buffer : row.buffers) nbytes += buffer.get_byte_size();
  }
  return {{"batch_size", cache.rows.size()}, {"capacity", cache.capacity}, {"lengths", lengths}, {"nbytes", cache.open ? nbytes : 0},
          {"bytes_per_token", cache.model->bytes()}, {"update_mode", "copied"}};
}

json keep(Cache cache) {
  caches[++handles] = std::make_shared<Cache>(std::move(cache));
  return {{"cache", handles}, {"state", state_of(*caches[handles])}};
}

// Past tensors of a row's length: those of a row that went back are longer.
ov::Tensor cut(const Model& model, const Row& row, size_t index) {
  ov::Tensor past(ov::element::f32, {1, size_t(model.heads), size_t(row.length), size_t(model.size)});
  if (row.length) ov::Tensor(row.buffers[index], {0, 0, 0, 0}, past.get_shape()).copy_to(past);
  return past;
}

// Rows run one after the other, each as wide as its tokens: nothing is padded.
std::vector<float> step(Model& model, Row& row, const std::vector<int64_t>& tokens) {
  auto request = model.graph.create_infer_request();
  std::vector<int64_t> positions(tokens.size()), ones(row.length + tokens.size(), 1);
  std::iota(positions.begin(), positions.end(), row.length);
  const std::map<std::string, const std::vector<int64_t>*> feeds = {{"input_ids", &tokens}, {"position_ids", &positions}, {"attention_mask", &ones}};
  for (const auto& input : model.graph.inputs())
    if (auto found = feeds.find(input.get_any_name()); found != feeds.end()) {
      ov::Tensor tensor(ov::element::i64, {1, found->second->size()});
      std::memcpy(tensor.data(), found->second->data(), tensor.get_byte_size());
      request.set_tensor(input, tensor);
    }
  for (size_t at = 0; at < model.pasts.size(); at++) request.set_tensor(model.pasts[at], cut(model, row, at));
  request.infer();
  Row after{row.length + int64_t(tokens.size()), {}};
  for (const auto& past : model.pasts) after.buffers.push_back(request.get_tensor("present" + past.substr(15)));
  row = after;
  const ov::Tensor logits = request.get_tensor("logits");
  return {logits.data<float>(), logits.data<float>() + logits.get_size()};
}

json forward(Cache& cache, const json& given) {
  Model& model = *cache.model;
  const auto& shape = given["input_ids"]["shape"];
  const int64_t height = cache.rows.size(), width = shape.size() == 2 ? int64_t(shape[1]) : 0;
  if (width < 1 || shape[0] != height) throw Refusal("input_ids has the shape " + shape.dump());
  json flat = given["input_ids"];
  flat["shape"] = {height * width};
  const auto ids = integers(flat, "input_ids");
  const auto counts = given["counts"].is_null() ? std::vector<int64_t>(height, width) : integers(given["counts"], "counts", height);
  for (int64_t row = 0; row < height; row++) {
    if (counts[row] < 0 || counts[row] > width) throw Refusal("a count is not in 0.." + std::to_string(width));
    for (int64_t at = row * width; at < row * width + counts[row]; at++)
      if (ids[at] < 0 || ids[at] >= model.vocab) throw Refusal("there is no token " + std::to_string(ids[at]));
  }
  for (int64_t row = 0; row < height; row++)
    if (const int64_t needed = cache.rows[row].length + counts[row]; needed > cache.capacity)
      throw Refusal("no room", "cache_overflow", {{"row", row}, {"needed", needed}, {"capacity", cache.capacity}});
  const std::map<std::string, int64_t> columns = {{"all", width}, {"last", 1}, {"none", 0}};
  if (!columns.count(given["logits"])) throw Refusal("logits is " + given["logits"].dump());
  const int64_t wanted = columns.at(given["logits"]);
  std::vector<float> asked(height * wanted * model.vocab);
  for (int64_t row = 0; row < height; row++) {
    if (!counts[row]) continue;
    const auto got = step(model, cache.rows[row], {ids.begin() + row * width, ids.begin() + row * width + counts[row]});
    std::copy(got.end() - std::min(wanted, counts[row]) * model.vocab, got.end(), asked.begin() + row * wanted * model.vocab);
  }
  json logits = {{"dtype", "float32"}, {"shape", {height, wanted, model.vocab}}, {"data", wire::to_base64(asked.data(), asked.size() * 4)}};
  return {{"logits", logits}, {"state", state_of(cache)}};
}
#include "moves.hpp"

int main() { wire::serve(answer); }
