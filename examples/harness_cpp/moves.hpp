// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// What moves rows without running anything, and which call goes where; a part of harness.cpp.
#pragma once

json move(const std::string& call, Cache& cache, const json& given) {
  const int64_t count = cache.rows.size();
  const auto check = [&](const std::vector<int64_t>& rows) {
    for (int64_t row : rows)
      if (row < 0 || row >= count) throw Refusal("there is no row " + std::to_string(row));
  };
  if (call == "can_rewind_to" || call == "rewind_to") {
    const auto lengths = integers(given["lengths"], "lengths", count);
    for (int64_t row = 0; row < count; row++)
      if (lengths[row] < 0 || lengths[row] > cache.rows[row].length)
        throw Refusal("no way to the length " + std::to_string(lengths[row]));
    if (call == "can_rewind_to") return {{"can", true}};
    for (int64_t row = 0; row < count; row++) cache.rows[row].length = lengths[row];
  } else if (call == "reorder") {
    const auto indices = integers(given["indices"], "indices");
    if (indices.empty()) throw Refusal("no rows are left");
    check(indices);
    std::vector<Row> rows;
    for (int64_t row : indices) rows.push_back(cache.rows[row]);
    cache.rows = rows;
  } else if (call == "reset") {
    std::vector<int64_t> rows(count);
    std::iota(rows.begin(), rows.end(), 0);
    if (!given["rows"].is_null()) check(rows = integers(given["rows"], "rows"));
    for (int64_t row : rows) cache.rows[row] = Row{};
  } else {
    throw Refusal("there is no " + call, "unsupported_capability");
  }
  return json::object();
}

json create_cache(const std::shared_ptr<Model>& model, const json& given) {
  const int64_t count = given["batch_size"], capacity = given["capacity"].is_null() ? model->context : int64_t(given["capacity"]);
  if (count < 1) throw Refusal("batch_size is " + std::to_string(count));
  if (capacity < 1 || capacity > model->context) throw Refusal("the capacity is not in 1.." + std::to_string(model->context));
  return keep({model, capacity, std::vector<Row>(count)});
}

json answer(const std::string& call, const json& given) {
  if (call == "hello") return hello();
  if (call == "load") return load(given);
  const auto model = given.contains("model") ? models.at(given["model"]) : nullptr;
  if (call == "close_model") return model->open = false, json::object();
  if (model && !model->open) throw Refusal("the model is closed");
  if (call == "create_cache") return create_cache(model, given);
  if (!given.contains("cache") || !caches.count(given["cache"])) throw Refusal("there is no such cache");
  Cache& cache = *caches.at(given["cache"]);
  if (call == "close_cache") return cache.open = false, json{{"state", state_of(cache)}};
  if (!cache.open) throw Refusal("the cache is closed");
  if (call == "forward" && cache.model != model) throw Refusal("the cache is another model's");
  if (call == "forward") return forward(cache, given);
  if (call == "fork") return keep(cache);
  json result = move(call, cache, given);
  result["state"] = state_of(cache);
  return result;
}
