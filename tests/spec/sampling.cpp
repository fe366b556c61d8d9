// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
//
// docs/spec/sampling.md in C++17, clause by clause. Reads cases as words from stdin and answers with one token each:
//
//   V logits...  T tokens...  num_new  S stop_ids...  seed index
//   bias: n (id value)...   repetition presence frequency   ngram   words: n (length ids...)...   min_new
//   draws(0/1)  temperature top_k top_p min_p typical_p

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <limits>
#include <map>
#include <set>
#include <vector>

using Ids = std::vector<int64_t>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  std::vector<double> scores;
  Ids tokens, stop_ids;
  int64_t num_new = 0, ngram = 0, min_new = 0, top_k = 0;
  uint64_t seed = 0, index = 0;
  std::map<int64_t, double> bias;
  double repetition = 1, presence = 0, frequency = 0, temperature = 1, top_p = 1, min_p = 0, typical_p = 1;
  std::vector<Ids> words;
  bool draws = false;
};

// Sampling.21.
uint64_t FirstWord(uint64_t position, uint64_t seed, uint64_t index) {
  uint64_t x[4] = {position + 1, 0, 0, 0}, key[2] = {seed, index};
  for (int round = 0; round < 10; ++round) {
    const unsigned __int128 first = static_cast<unsigned __int128>(0xD2E7470EE14C6C93u) * x[0];
    const unsigned __int128 second = static_cast<unsigned __int128>(0xCA5A826395121157u) * x[2];
    x[0] = static_cast<uint64_t>(second >> 64) ^ x[1] ^ key[0];
    x[2] = static_cast<uint64_t>(first >> 64) ^ x[3] ^ key[1];
    x[1] = static_cast<uint64_t>(second);
    x[3] = static_cast<uint64_t>(first);
    key[0] += 0x9E3779B97F4A7C15u;
    key[1] += 0xBB67AE8584CAA73Bu;
  }
  return x[0];
}

// Sampling.4 to Sampling.9.
void Process(Case& c) {
  auto& s = c.scores;
  const Ids& x = c.tokens;
  for (const auto& [token, value] : c.bias) s[token] += value;
  for (int64_t token : std::set<int64_t>(x.begin(), x.end())) {
    s[token] = s[token] < 0 ? s[token] * c.repetition : s[token] / c.repetition;
  }
  std::map<int64_t, int64_t> generated;
  for (size_t at = x.size() - c.num_new; at < x.size(); ++at) ++generated[x[at]];
  for (const auto& [token, count] : generated) s[token] -= c.presence + c.frequency * count;
  const int64_t n = c.ngram;
  for (int64_t at = 0; n > 0 && at + n <= static_cast<int64_t>(x.size()); ++at) {
    if (std::equal(x.end() - (n - 1), x.end(), x.begin() + at)) s[x[at + n - 1]] = -kInfinity;
  }
  for (const Ids& word : c.words) {
    const bool is_stop = std::find(c.stop_ids.begin(), c.stop_ids.end(), word[0]) != c.stop_ids.end();
    if ((word.size() == 1 && is_stop) || word.size() > x.size() + 1) continue;
    if (std::equal(word.begin(), word.end() - 1, x.end() - (word.size() - 1))) s[word.back()] = -kInfinity;
  }
  if (c.num_new < c.min_new) {
    for (int64_t token : c.stop_ids) s[token] = -kInfinity;
  }
}

double SumOfExp(const Ids& ids, const std::vector<double>& z) {
  double sum = 0;
  for (int64_t token : ids) sum += std::exp(z[token]);
  return sum;
}

// The shortest beginning of `order` whose probabilities reach p.
size_t Shortest(const Ids& order, const std::vector<double>& z, double p, double total) {
  double sum = 0;
  for (size_t count = 0; count < order.size(); ++count) {
    sum += std::exp(z[order[count]]);
    if (sum >= p * total) return count + 1;
  }
  return order.size();
}

// Sampling.14 to Sampling.20.
int64_t Draw(const Case& c) {
  const double best = *std::max_element(c.scores.begin(), c.scores.end());
  std::vector<double> z;
  Ids kept;
  for (double score : c.scores) {
    kept.push_back(static_cast<int64_t>(z.size()));
    z.push_back((score - best) / c.temperature);
  }
  const auto keep = [&kept](auto&& stays) {
    kept.erase(std::remove_if(kept.begin(), kept.end(), [&](int64_t t) { return !stays(t); }), kept.end());
  };
  if (c.top_k > 0 && c.top_k < static_cast<int64_t>(kept.size())) {
    std::vector<double> sorted = z;
    std::nth_element(sorted.begin(), sorted.begin() + (c.top_k - 1), sorted.end(), std::greater<>());
    keep([&, limit = sorted[c.top_k - 1]](int64_t t) { return z[t] >= limit; });
  }
  if (c.top_p < 1) {
    Ids order = kept;
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return z[a] > z[b]; });
    order.resize(Shortest(order, z, c.top_p, SumOfExp(kept, z)));
    std::sort(order.begin(), order.end());
    kept = order;
  }
  if (c.min_p > 0) keep([&](int64_t t) { return z[t] >= std::log(c.min_p); });
  if (c.typical_p < 1) {
    keep([&](int64_t t) { return z[t] > -kInfinity; });
    const double total = SumOfExp(kept, z);
    double entropy = 0;
    for (int64_t t : kept) entropy -= std::exp(z[t]) / total * (z[t] - std::log(total));
    const auto distance = [&](int64_t t) { return std::abs(-(z[t] - std::log(total)) - entropy); };
    Ids order = kept;
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return distance(a) < distance(b); });
    const double farthest = distance(order[Shortest(order, z, c.typical_p, total) - 1]);
    keep([&](int64_t t) { return distance(t) <= farthest; });
  }
  double highest = -kInfinity;
  for (int64_t t : kept) highest = std::max(highest, z[t]);
  std::vector<double> running;
  double sum = 0;
  for (int64_t t : kept) running.push_back(sum += std::exp(z[t] - highest));
  const double u = static_cast<double>(FirstWord(c.tokens.size(), c.seed, c.index) >> 11) * 0x1p-53;
  for (size_t at = 0; at < kept.size(); ++at) {
    if (running[at] > u * sum) return kept[at];
  }
  while (kept.size() > 1 && !(z[kept.back()] > -kInfinity)) kept.pop_back();
  return kept.back();
}

template <typename T>
bool Read(std::vector<T>& values) {
  size_t count = 0;
  if (!(std::cin >> count)) return false;
  values.resize(count);
  for (T& value : values) std::cin >> value;
  return true;
}

int main() {
  for (Case c; Read(c.scores); c = Case()) {
    Read(c.tokens);
    std::cin >> c.num_new;
    Read(c.stop_ids);
    std::cin >> c.seed >> c.index;
    size_t count = 0;
    for (std::cin >> count; count > 0; --count) {
      int64_t token = 0;
      std::cin >> token >> c.bias[token];
    }
    std::cin >> c.repetition >> c.presence >> c.frequency >> c.ngram >> count;
    for (c.words.resize(count), count = 0; count < c.words.size(); ++count) Read(c.words[count]);
    std::cin >> c.min_new >> c.draws >> c.temperature >> c.top_k >> c.top_p >> c.min_p >> c.typical_p;
    Process(c);
    const auto highest = std::max_element(c.scores.begin(), c.scores.end());
    std::cout << (c.draws ? Draw(c) : highest - c.scores.begin()) << "\n";
  }
}
