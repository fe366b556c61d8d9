// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
// The wire protocol (docs/spec/wire.md) in C++: tensors as base64, refusals, and the loop that answers requests.
#pragma once
#include <cstdint>
#include <cstring>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace wire {
using json = nlohmann::json;

struct Refusal : std::runtime_error {
  json reply;
  explicit Refusal(const std::string& message, const char* code = "invalid_input", json fields = json::object())
      : std::runtime_error(message), reply(std::move(fields)) {
    reply.update({{"code", code}, {"message", message}, {"remedy", "See docs/spec/wire.md."}});
  }
};

constexpr const char* LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

inline std::string to_base64(const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  std::string text;
  text.reserve((size + 2) / 3 * 4);
  for (size_t at = 0; at < size; at += 3) {
    uint32_t three = bytes[at] << 16 | (at + 1 < size ? bytes[at + 1] : 0) << 8 | (at + 2 < size ? bytes[at + 2] : 0);
    for (int part = 0; part < 4; part++) text += at + part > size ? '=' : LETTERS[three >> (18 - 6 * part) & 63];
  }
  return text;
}

inline std::string from_base64(const std::string& text) {
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (char letter : text) {
    const char* at = std::strchr(LETTERS, letter);
    if (letter == '=' || !at) break;
    bits = bits << 6 | static_cast<uint32_t>(at - LETTERS);
    if ((count += 6) >= 8) bytes += static_cast<char>(bits >> (count -= 8) & 255);
  }
  return bytes;
}

// The numbers of an int64 tensor; a scalar stands for count of them, and -1 leaves their number open.
inline std::vector<int64_t> integers(const json& tensor, const std::string& what, int64_t count = -1) {
  if (tensor["dtype"] != "int64") throw Refusal(what + " is " + tensor["dtype"].get<std::string>() + ", not int64");
  const std::string bytes = from_base64(tensor["data"]);
  std::vector<int64_t> values(bytes.size() / 8);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  if (count >= 0 && tensor["shape"].empty()) return std::vector<int64_t>(count, values[0]);
  if (tensor["shape"].size() != 1 || (count >= 0 && values.size() != static_cast<size_t>(count)))
    throw Refusal(what + " has another shape");
  return values;
}

inline void serve(const std::function<json(const std::string&, const json&)>& answer) {
  for (std::string line; std::getline(std::cin, line);) {
    const json request = json::parse(line);
    if (request["call"] == "close") return;
    json reply = {{"id", request["id"]}};
    try {
      reply["result"] = answer(request["call"], request);
    } catch (const Refusal& refusal) {
      reply["error"] = refusal.reply;
    }
    std::cout << reply.dump() << std::endl;
  }
}
}  // namespace wire
