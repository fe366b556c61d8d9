// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
//
// Written by python -m tools.cpp_headers from the protocols of genai_iface; preview.
// Ids such as "Model.forward.5" are those of the specification and of the conformance checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace genai_iface {

/// A dense array of integers that the callee reads and never writes to; row-major.
struct IntArray {
  const std::int64_t* data = nullptr;
  std::vector<std::size_t> shape;
};

/// A dense array of float32 that its holder owns; row-major.
struct FloatArray {
  std::vector<float> data;
  std::vector<std::size_t> shape;
};

enum class CacheStyle { scatter, concat, shared };

enum class CacheLayout { bnsh, bsh };

enum class CacheMode { linear, circular };

enum class DType { float32, float16, bfloat16, int8 };

enum class StateKind { conv, recurrent };

enum class LogitsMode { last, all, none };

enum class UpdateMode { in_place, copied };

enum class FinishReason { stop, length, cancelled, time };

/// A place where a backend can run a model.
///
/// Mirrors ``Device{identifier, config}`` of the working group's C++ headers.
struct Device {
  std::string identifier{};
  std::string kind{};
  std::map<std::string, std::string> config{};
};

/// The cache of one attention layer. Layers of one model may differ.
struct LayerCacheSpec {
  std::int64_t num_kv_heads{};
  std::int64_t key_head_dim{};
  std::int64_t value_head_dim{};
  DType dtype{};
  CacheMode mode{};
  std::optional<std::int64_t> capacity{};
};

/// What one layer keeps of a row besides keys and values: a tensor whose size no token changes.
struct StateSpec {
  StateKind kind{};
  std::vector<std::int64_t> shape{};
  DType dtype{};
  std::int64_t layer{};
};

/// The cache of a model.
struct CacheSpec {
  CacheStyle style{};
  CacheLayout layout{};
  std::vector<LayerCacheSpec> layers{};
  std::vector<StateSpec> states{};
};

/// What a loaded model is, independent of the runtime.
struct ModelSpec {
  std::int64_t vocab_size{};
  std::optional<std::int64_t> context_length{};
  CacheSpec cache{};
};

/// Base of every error that the interface raises on purpose.
class GenAIError : public std::runtime_error {
 public:
  explicit GenAIError(const std::string& what, std::string remedy = {})
      : std::runtime_error(what), remedy_(std::move(remedy)) {}
  /// What to do about it.
  const std::string& remedy() const noexcept { return remedy_; }

 private:
  std::string remedy_;
};

/// An argument, a configuration value or a file of the model folder is not legal.
class InvalidInputError : public GenAIError {
 public:
  using GenAIError::GenAIError;
};

/// A cache would need more memory than there is. Nothing was allocated.
class InsufficientMemoryError : public InvalidInputError {
 public:
  using InvalidInputError::InvalidInputError;
};

/// A file or folder cannot be written: the disk is full, a permission is missing. Nothing half-written is left.
class OutputError : public InvalidInputError {
 public:
  using InvalidInputError::InvalidInputError;
};

/// The folder is well formed, but its graph follows no pattern that can be driven.
class UnsupportedModelError : public GenAIError {
 public:
  using GenAIError::GenAIError;
};

/// What was asked needs a capability that this backend or this model does not declare.
class UnsupportedCapabilityError : public GenAIError {
 public:
  using GenAIError::GenAIError;
};

/// The SDK and the backend have no interface version in common.
class InterfaceVersionError : public GenAIError {
 public:
  using GenAIError::GenAIError;
};

/// A row has no room for the new tokens. The cache is as it was before the call.
class CacheOverflowError : public GenAIError {
 public:
  using GenAIError::GenAIError;
};

/// A row cannot go back to the length asked for, because the positions it needs were overwritten.
class CacheRewindError : public GenAIError {
 public:
  using GenAIError::GenAIError;
};

/// No backend of that name is installed, or the runtime that it needs is missing.
class BackendNotFoundError : public GenAIError {
 public:
  using GenAIError::GenAIError;
};

/// The runtime failed. Its own exception is in ``__cause__``.
class BackendError : public GenAIError {
 public:
  using GenAIError::GenAIError;
};

/// The keys and values of B rows, each with a length of its own.
///
/// A cache belongs to the model that made it. It is not thread safe; two caches never share
/// anything that a caller could notice.
class KVCache {
 public:
  virtual ~KVCache() = default;

  /// B, the number of rows.
  ///
  /// Contract:
  ///   KVCache.batch_size.1: MUST equal ``len(lengths)``; only ``reorder`` changes it.
  virtual std::int64_t batch_size() const = 0;

  /// C, the most tokens that a row may ever hold.
  ///
  /// For a model with circular layers this bounds the sequence, not the window: such a layer
  /// keeps its last tokens only and ``lengths`` goes on counting.
  ///
  /// Contract:
  ///   KVCache.capacity.1: MUST NOT change while the cache lives, whatever the buffers behind it do.
  virtual std::int64_t capacity() const = 0;

  /// The number of tokens in each row.
  ///
  /// Contract:
  ///   KVCache.lengths.1: MUST be a snapshot: writing to it has no effect on the cache, and later steps have no effect
  ///     on it.
  virtual std::vector<std::int64_t> lengths() const = 0;

  /// The size in bytes of the buffers that this cache holds now, slack included.
  ///
  /// Contract:
  ///   KVCache.nbytes.1: MUST be at least ``bytes_per_token`` times the longest row of a linear cache.
  ///   KVCache.nbytes.2: MUST be 0 after ``close``.
  virtual std::int64_t nbytes() const = 0;

  /// The size in bytes of one token of one row, over all layers.
  ///
  /// Contract:
  ///   KVCache.bytes_per_token.1: MUST be the sum over ``ModelSpec.cache.layers``: heads times both head sizes times
  ///     the bytes of the dtype.
  virtual std::int64_t bytes_per_token() const = 0;

  /// Whether steps change the buffers "in_place", or give new ones, "copied".
  ///
  /// Contract:
  ///   KVCache.update_mode.1: MUST report what was observed, not what was intended: "in_place" only if the address of
  ///     every buffer stayed the same over the last step and the new tokens are in it. Moving to a larger buffer
  ///     between steps is growth, not a copy in this sense.
  ///   KVCache.update_mode.2: Before the first step it MAY report the intended mode.
  virtual UpdateMode update_mode() const = 0;

  /// Whether ``rewind_to(lengths)`` would succeed.
  ///
  /// Throws:
  ///   InvalidInputError: As ``rewind_to``.
  ///
  /// Contract:
  ///   KVCache.can_rewind_to.1: MUST agree with ``rewind_to`` and change nothing.
  virtual bool can_rewind_to(const IntArray& lengths) const = 0;

  /// Shortens rows: forgets their last tokens.
  ///
  /// Throws:
  ///   InvalidInputError: Wrong shape, negative, or longer than the row is.
  ///   CacheRewindError: A circular layer of W positions has overwritten tokens that the shorter row needs.
  ///       A row of length n needs its tokens max(0, n - W) .. n - 1, so a row of length 0 needs none. Or the
  ///       model keeps states, and that of the shorter row is gone; the message lists the lengths that can be
  ///       reached.
  ///
  /// Contract:
  ///   KVCache.rewind_to.1: After it, any continuation MUST give what it would have given had the forgotten tokens
  ///     never been appended.
  ///   KVCache.rewind_to.2: On an error nothing MUST have changed.
  ///   KVCache.rewind_to.3: MUST be refused if any circular layer has overwritten what the shorter row needs, not only
  ///     the first.
  virtual void rewind_to(const IntArray& lengths) = 0;

  /// Makes row i what row ``indices[i]`` was: beam search, selection, duplication.
  ///
  /// Throws:
  ///   InvalidInputError: Wrong shape, empty, or out of range.
  ///
  /// Contract:
  ///   KVCache.reorder.1: Afterwards ``batch_size`` MUST be B' and rows MUST be independent of each other, copies of
  ///     one old row included.
  ///   KVCache.reorder.2: Contents MUST be moved bit by bit.
  ///   KVCache.reorder.3: On an error nothing MUST have changed.
  virtual void reorder(const IntArray& indices) = 0;

  /// Empties rows, so that they can take new sequences.
  ///
  /// Throws:
  ///   InvalidInputError: An index is out of range.
  ///
  /// Contract:
  ///   KVCache.reset.1: A reset row MUST behave like a row of a new cache; the others MUST be unchanged.
  ///   KVCache.reset.2: It MUST succeed on any open cache, a wrapped circular one included.
  ///   KVCache.reset.3: On an error nothing MUST have changed.
  virtual void reset(const IntArray* rows = nullptr) = 0;

  /// Frees the buffers. A second call does nothing.
  ///
  /// Contract:
  ///   KVCache.close.1: A later ``forward`` with this cache MUST raise InvalidInputError.
  ///   KVCache.close.2: A second call MUST do nothing.
  ///   KVCache.close.3: Every method but ``close`` MUST raise InvalidInputError, those of ``Supports*`` protocols too.
  ///   KVCache.close.4: Properties MUST stay readable.
  virtual void close() = 0;
};

/// A loaded model that takes one kind of step.
///
/// That step serves prefill, chunked prefill, decode, ragged batches, verification of drafted
/// tokens and slot-based continuous batching.
class Model {
 public:
  virtual ~Model() = default;

  /// What the model is: its vocabulary, its context length and its layers.
  ///
  /// Contract:
  ///   Model.spec.1: MUST say what the folder says: vocabulary, context length, and for each attention layer its heads,
  ///     head sizes and dtype.
  virtual ModelSpec spec() const = 0;

  /// The device that it runs on.
  ///
  /// Contract:
  ///   Model.device.1: MUST be the device that ``load`` was asked for, the first of ``devices()`` if it was asked for
  ///     none.
  virtual Device device() const = 0;

  /// What this model can do on this backend.
  ///
  /// Contract:
  ///   Model.capabilities.1: MUST be a subset of the backend's ``info().capabilities``.
  ///   Model.capabilities.2: What is declared MUST work; what is not declared MUST raise UnsupportedCapabilityError or
  ///     work, never give a wrong answer.
  virtual std::set<std::string> capabilities() const = 0;

  /// Makes an empty cache.
  ///
  /// Throws:
  ///   InvalidInputError: A value is below 1, or the capacity is beyond what the graph's fixed
  ///       buffers or ``spec.context_length`` allow.
  ///   UnsupportedCapabilityError: ``batch_size > 1`` without the capability "batch".
  ///   BackendError: Out of memory.
  ///
  /// Contract:
  ///   Model.create_cache.1: Caches MUST be independent of each other.
  ///   Model.create_cache.2: ``capacity`` MUST NOT change the results of later steps.
  ///   Model.create_cache.3: The new cache MUST be empty: every length is 0.
  virtual std::unique_ptr<KVCache> create_cache(
      std::int64_t batch_size = 1,
      std::optional<std::int64_t> capacity = std::nullopt) = 0;

  /// Appends tokens to the rows of a cache and returns logits.
  ///
  /// Throws:
  ///   InvalidInputError: Wrong shape or type, a count or a real token id out of range, a closed
  ///       cache or one of another model.
  ///   CacheOverflowError: ``lengths[b] + counts[b] > capacity`` for some row.
  ///   UnsupportedCapabilityError: The step needs a capability that the model does not declare.
  ///   BackendError: The runtime failed.
  ///
  /// Contract:
  ///   Model.forward.1: Row b's real tokens MUST take the positions lengths[b] .. lengths[b] + counts[b] - 1, and token
  ///     s MUST attend to exactly the row's tokens at positions up to its own (within the layer's window, where it has
  ///     one).
  ///   Model.forward.2: Afterwards ``lengths[b]`` MUST have grown by exactly counts[b].
  ///   Model.forward.3: A row whose count is 0 MUST keep its length and its visible content bit by bit, a full row
  ///     included.
  ///   Model.forward.4: What stands in input_ids beyond counts[b] MUST NOT influence anything, now or later; it need
  ///     not be a legal token id.
  ///   Model.forward.5: Overflow MUST be judged on lengths + counts alone and raised before anything changes. Room for
  ///     padding is the backend's own business.
  ///   Model.forward.6: Results MUST NOT depend on the other rows, on the order of rows, on capacity, or on how a
  ///     sequence was split into steps, beyond rounding of the model's dtype.
  ///   Model.forward.7: On InvalidInputError, CacheOverflowError and UnsupportedCapabilityError the cache MUST be
  ///     unchanged; on BackendError its lengths MUST be.
  ///   Model.forward.8: The returned array MUST belong to the caller: later steps do not change it. Arguments MUST NOT
  ///     be written to.
  virtual FloatArray forward(
      const IntArray& input_ids,
      KVCache& cache,
      const IntArray* counts = nullptr,
      LogitsMode logits = LogitsMode::last) = 0;

  /// Frees the model. Caches that it made can no longer be used. A second call does nothing.
  ///
  /// Contract:
  ///   Model.close.1: A later ``forward`` MUST raise InvalidInputError, and a second call MUST do nothing.
  virtual void close() = 0;
};

/// The generation of one group of N sequences, token by token.
///
/// Mirrors the working group's C++ ``Generator{AppendInputTokens, GenerateNextToken, IsDone}``. The
/// SDK's own runs over any ``Model``; a stack that owns its loop implements this protocol itself.
class Generator {
 public:
  virtual ~Generator() = default;

  /// Why each sequence ended; None while it goes on.
  virtual std::vector<std::optional<FinishReason>> finish_reasons() const = 0;

  /// Appends input tokens: the prompt, or a user's next turn.
  ///
  /// Throws:
  ///   InvalidInputError: The number of lists is not N, or an id is out of range.
  ///   CacheOverflowError: A sequence would outgrow the cache.
  ///
  /// Contract:
  ///   Generator.append_tokens.1: Sequences that had ended with "stop" MUST go on after it.
  ///   Generator.append_tokens.2: On an error nothing MUST have been appended.
  virtual void append_tokens(const std::vector<std::vector<std::int64_t>>& token_ids) = 0;

  /// Chooses and appends one token for every sequence that is not done.
  ///
  /// Throws:
  ///   InvalidInputError: Nothing was appended yet, or all sequences are done.
  ///
  /// Contract:
  ///   Generator.generate_next_token.1: Equal logits MUST give equal tokens on every backend, as docs/spec/sampling.md
  ///     says.
  virtual void generate_next_token() = 0;

  /// Whether every sequence has ended.
  virtual bool is_done() const = 0;

  /// The tokens that the last ``generate_next_token`` chose, with None for a sequence that was done.
  virtual std::vector<std::optional<std::int64_t>> get_next_tokens() const = 0;

  /// All tokens of the sequence at ``index``, the appended ones included.
  virtual std::vector<std::int64_t> get_sequence(std::int64_t index) const = 0;

  /// The number of tokens of the sequence at ``index``.
  virtual std::int64_t token_count(std::int64_t index = 0) const = 0;

  /// Shortens sequences; they may go on from there.
  ///
  /// Throws:
  ///   InvalidInputError: A length is negative or beyond the sequence.
  ///   CacheRewindError: The cache cannot go back so far.
  ///
  /// Contract:
  ///   Generator.rewind_to.1: What follows MUST be what would have followed had the tokens never been there.
  virtual void rewind_to(const std::vector<std::int64_t>& length) = 0;

  /// The logits from which the next token will be chosen, before any processor.
  ///
  /// Contract:
  ///   Generator.get_logits.1: MUST be those of the model after all tokens of the sequence, or those of ``set_logits``.
  virtual FloatArray get_logits() const = 0;

  /// Replaces those logits for the next choice only.
  ///
  /// Contract:
  ///   Generator.set_logits.1: MUST decide the next choice as if the model had given them, and no later one.
  virtual void set_logits(const FloatArray& logits) = 0;

  /// Ends all sequences with the reason "cancelled". May be called from any thread.
  ///
  /// Contract:
  ///   Generator.cancel.1: MUST be noticed between the chunks of a prefill too.
  virtual void cancel() = 0;
};

}  // namespace genai_iface
