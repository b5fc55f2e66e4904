// SPDX-License-Identifier: Apache-2.0
//
// The second process of the disk tier's tests.
//
// usage: tier_process check PATH SEED   exits 0 if every block holds element values of SEED
//        tier_process rewrite PATH      writes all blocks, generation after generation (seeds 1, 2,
//                                       ...), four at a time, until it is killed; reports B before
//                                       a transfer, D when it is done
#include <unistd.h>

#include <cstdio>
#include <string>

#include "integration/tier.hpp"

namespace {

using namespace kvbm::testing;
using kvbm::BlockId;

int check(TransferManager& manager, PhysicalLayout const& tier, std::uint64_t seed) {
  auto const cache = make_cache(manager);
  auto const ids = first_blocks(kTierBlocks);
  move_blocks(manager, tier, ids, cache, ids).wait();
  std::uint64_t differences = 0;
  for (BlockId const id : ids) {
    differences += count_differences(cache, id, seed, id);
  }
  return differences == 0 ? 0 : 4;
}

void report(char what) {
  if (write(STDOUT_FILENO, &what, 1) != 1) { _exit(3); }
}

int rewrite(TransferManager& manager, PhysicalLayout const& tier) {
  auto const cache = make_cache(manager);
  for (std::uint64_t generation = 1;; ++generation) {
    write_all_blocks(cache, generation);
    for (BlockId first = 0; first < kTierBlocks; first += 4) {
      std::vector<BlockId> const ids{first, first + 1, first + 2, first + 3};
      auto const notification = move_blocks(manager, cache, ids, tier, ids);
      report('B');
      notification.wait();
      report('D');
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) { return 2; }
  try {
    auto manager = small_manager().build();
    auto const tier = PhysicalLayout::open_disk(manager.memory_source(), argv[2]);
    if (std::string(argv[1]) == "check" && argc == 4) {
      return check(manager, tier, std::stoull(argv[3]));
    }
    return rewrite(manager, tier);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "tier_process: %s\n", error.what());
    return 1;
  }
}
