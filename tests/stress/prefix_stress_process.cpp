// SPDX-License-Identifier: Apache-2.0
//
// The process that the prefix store's stress test kills.
//
// usage: prefix_stress_process FOLDER ROUND POLICY   works until it is killed; reports what it may
//        be held to. POLICY: through, back
#include <cstdio>
#include <random>
#include <string>
#include <thread>

#include "kvbm/testing/child_process.hpp"
#include "stress/prefix_oracle.hpp"

namespace {

using namespace kvbm::testing;
using What = StressReport::What;

/// Pins those kept keys that a former process has left.
std::vector<kvbm::prefix::Pin> pin_found(StressStore& stress) {
  std::vector<kvbm::prefix::Pin> pins;
  for (std::uint64_t number = 0; number < kKeptKeys; ++number) {
    BlockKey const key = stress_key(number);
    pins.push_back(stress.store().pin({&key, 1}));
  }
  return pins;
}

/// Pins and flushes keys that have to be found whenever the process dies.
void keep(StressStore& stress, std::vector<kvbm::prefix::Pin> pins, ChildChannel const& parent) {
  for (std::uint64_t number = 0; number < kKeptKeys; ++number) {
    std::vector<BlockKey> const key{stress_key(number)};
    // Others fill the tiers at the same time, so a key may go before it is pinned.
    while (pins[number].keys().empty()) {
      stress.offload(0, key);
      pins[number] = stress.store().pin(key);
    }
    if (stress.store().flush().failed > 0) { continue; }
    parent.send(StressReport{What::Flushed, 0, number});
  }
  for (;;) {
    bool const is_safe = stress.store().flush().failed == 0;
    for (std::uint64_t number = 0; number < kKeptKeys; ++number) {
      auto const arrived = stress.onboard(0, {stress_key(number)});
      if (arrived.num_blocks != 1 || arrived.num_wrong != 0) {
        std::fprintf(stderr, "pinned key %lu is not what it was\n",
                     static_cast<unsigned long>(number));
        std::abort();
      }
      if (is_safe) { parent.send(StressReport{What::Flushed, 0, number}); }
    }
  }
}

/// Stores, reads and erases keys that come once.
void disturb(StressStore& stress, kvbm::BlockId thread, std::uint64_t first_key,
             ChildChannel const& parent) {
  std::mt19937_64 random(first_key);
  for (std::uint64_t number = first_key;; number += 3) {
    std::vector<BlockKey> const keys{stress_key(number), stress_key(number + 1),
                                     stress_key(number + 2)};
    stress.offload(thread, keys);
    if (stress.onboard(thread, keys).num_wrong > 0) { std::abort(); }
    if (random() % 3 == 0) {
      stress.store().erase({&keys[1], 1});
      parent.send(StressReport{What::Erased, 0, number + 1});
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) { return 2; }
  try {
    ChildChannel const parent(ChildChannel::kFdInChild);
    auto const policy = std::string(argv[3]) == "back" ? WritePolicy::Back : WritePolicy::Through;
    StressStore stress(argv[1], 3, policy);
    std::uint64_t const base = (std::stoull(argv[2]) + 1) * 1'000'000;
    // Before anybody can push them out.
    auto pins = pin_found(stress);
    std::thread one([&] { disturb(stress, 1, base, parent); });
    std::thread two([&] { disturb(stress, 2, base + 500'000, parent); });
    keep(stress, std::move(pins), parent);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "prefix_stress_process: %s\n", error.what());
    return 1;
  }
}
