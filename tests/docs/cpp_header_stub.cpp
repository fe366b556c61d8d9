// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
//
// The smallest model that keeps the header's contracts: after token t it expects t + 1. Shows that the classes can be
// implemented and used from C++17; prints what a greedy loop over a ragged batch gives.
#include "interface.hpp"

#include <algorithm>
#include <iostream>

namespace {

using genai_iface::CacheOverflowError;
using genai_iface::FloatArray;
using genai_iface::IntArray;
using genai_iface::InvalidInputError;

constexpr std::int64_t kVocabulary = 32;

class Cache : public genai_iface::KVCache {
 public:
  Cache(std::int64_t rows, std::int64_t capacity) : lengths_(static_cast<std::size_t>(rows)), capacity_(capacity) {}
  std::int64_t batch_size() const override { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t capacity() const override { return capacity_; }
  std::vector<std::int64_t> lengths() const override { return lengths_; }
  std::int64_t nbytes() const override { return 0; }
  std::int64_t bytes_per_token() const override { return 0; }
  genai_iface::UpdateMode update_mode() const override { return genai_iface::UpdateMode::in_place; }
  bool can_rewind_to(const IntArray& wanted) const override {
    for (std::size_t row = 0; row < lengths_.size(); ++row) {
      if (wanted.data[row] < 0 || wanted.data[row] > lengths_[row]) return false;
    }
    return true;
  }
  void rewind_to(const IntArray& wanted) override {
    if (!can_rewind_to(wanted)) throw InvalidInputError("The row is shorter than that", "Pass at most its length.");
    lengths_.assign(wanted.data, wanted.data + lengths_.size());
  }
  void reorder(const IntArray& indices) override {
    std::vector<std::int64_t> moved;
    for (std::size_t i = 0; i < indices.shape[0]; ++i) moved.push_back(lengths_.at(static_cast<std::size_t>(indices.data[i])));
    lengths_ = moved;
  }
  void reset(const IntArray*) override { std::fill(lengths_.begin(), lengths_.end(), 0); }
  void close() override {}

  std::vector<std::int64_t> lengths_;

 private:
  std::int64_t capacity_;
};

class Model : public genai_iface::Model {
 public:
  genai_iface::ModelSpec spec() const override { return {kVocabulary, std::nullopt, {}}; }
  genai_iface::Device device() const override { return {"cpu", "cpu", {}}; }
  std::set<std::string> capabilities() const override { return {"batch", "ragged", "rewind"}; }
  std::unique_ptr<genai_iface::KVCache> create_cache(std::int64_t rows, std::optional<std::int64_t> capacity) override {
    return std::make_unique<Cache>(rows, capacity.value_or(64));
  }
  FloatArray forward(const IntArray& ids, genai_iface::KVCache& any, const IntArray* counts,
                     genai_iface::LogitsMode) override {
    auto& cache = static_cast<Cache&>(any);
    const std::size_t rows = ids.shape[0], width = ids.shape[1];
    const auto count = [&](std::size_t row) { return counts ? counts->data[row] : static_cast<std::int64_t>(width); };
    for (std::size_t row = 0; row < rows; ++row) {
      if (cache.lengths_[row] + count(row) > cache.capacity()) throw CacheOverflowError("The row is full");
    }
    FloatArray logits{std::vector<float>(rows * kVocabulary), {rows, 1, kVocabulary}};
    for (std::size_t row = 0; row < rows; ++row) {
      cache.lengths_[row] += count(row);
      if (count(row) == 0) continue;
      const auto last = ids.data[row * width + static_cast<std::size_t>(count(row)) - 1];
      logits.data[row * kVocabulary + static_cast<std::size_t>((last + 1) % kVocabulary)] = 1;
    }
    return logits;
  }
  void close() override {}
};

/// A greedy loop over any model; what is not asked for here is left out by throwing.
class Generator : public genai_iface::Generator {
 public:
  explicit Generator(genai_iface::Model& model) : model_(model), cache_(model.create_cache(1)) {}
  std::vector<std::optional<genai_iface::FinishReason>> finish_reasons() const override { return {std::nullopt}; }
  void append_tokens(const std::vector<std::vector<std::int64_t>>& ids) override {
    tokens_.insert(tokens_.end(), ids.at(0).begin(), ids.at(0).end());
    run(ids[0]);
  }
  void generate_next_token() override {
    const auto best = std::max_element(logits_.data.begin(), logits_.data.end());
    tokens_.push_back(best - logits_.data.begin());
    run({tokens_.back()});
  }
  bool is_done() const override { return false; }
  std::vector<std::optional<std::int64_t>> get_next_tokens() const override { return {tokens_.back()}; }
  std::vector<std::int64_t> get_sequence(std::int64_t) const override { return tokens_; }
  std::int64_t token_count(std::int64_t) const override { return static_cast<std::int64_t>(tokens_.size()); }
  void rewind_to(const std::vector<std::int64_t>& length) override {
    cache_->rewind_to({length.data(), {length.size()}});
    tokens_.resize(static_cast<std::size_t>(length[0]));
  }
  FloatArray get_logits() const override { return logits_; }
  void set_logits(const FloatArray& logits) override { logits_ = logits; }
  void cancel() override {}

 private:
  void run(const std::vector<std::int64_t>& ids) { logits_ = model_.forward({ids.data(), {1, ids.size()}}, *cache_); }

  genai_iface::Model& model_;
  std::unique_ptr<genai_iface::KVCache> cache_;
  std::vector<std::int64_t> tokens_;
  FloatArray logits_;
};

}  // namespace

int main() {
  Model made;
  genai_iface::Model& model = made;  // defaults are those of the interface
  const auto cache = model.create_cache(2, 4);
  const std::int64_t ids[] = {1, 2, 3, 7, 0, 0}, counts[] = {3, 1};
  const IntArray given{counts, {2}};
  model.forward({ids, {2, 3}}, *cache, &given);
  std::cout << cache->lengths()[0] << ' ' << cache->lengths()[1] << '\n';
  try {
    model.forward({ids, {2, 3}}, *cache);
  } catch (const genai_iface::GenAIError& error) {
    std::cout << error.what() << ' ' << cache->lengths()[0] << '\n';
  }
  Generator generator(model);
  generator.append_tokens({{5, 6}});
  generator.generate_next_token();
  generator.generate_next_token();
  for (const auto token : generator.get_sequence(0)) std::cout << token << ' ';
  std::cout << '\n';
}
