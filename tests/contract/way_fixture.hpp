// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "contract/transfer_fixture.hpp"

/// The ways of a GPU, each asked for by name. On an emulated device copy threads do the same steps
/// on the same streams, so that their order is tested everywhere.
namespace kvbm::testing {

/// A strategy and the kinds of storage between which it works.
struct Way {
  transfer::Strategy strategy;
  StorageKind from;
  StorageKind to;

  [[nodiscard]] std::string name() const {
    return std::string(transfer::to_string(strategy)) + std::string(memory::to_string(from)) +
           "To" + std::string(memory::to_string(to));
  }
  [[nodiscard]] TransferOptions options() const {
    return TransferOptions::builder().strategy(strategy).build();
  }
};

inline void PrintTo(Way const& way, std::ostream* out) { *out << way.name(); }

inline std::vector<Way> every_way() {
  using transfer::Strategy;
  constexpr auto kSystem = StorageKind::System;
  constexpr auto kPinned = StorageKind::Pinned;
  constexpr auto kDevice = StorageKind::Device;
  std::vector<Way> ways{{Strategy::DmaCopy, kDevice, kDevice},
                        {Strategy::SmCopy, kDevice, kDevice}};
  // On a GPU the driver would block the caller until a stream gets to its pageable memory.
  bool const gpu = wants_cuda();
  for (auto const& [strategy, host] : {std::pair(Strategy::DmaCopy, kSystem),
                                       {Strategy::DmaCopy, kPinned},
                                       {Strategy::SmCopy, kPinned},
                                       {Strategy::StagedDma, kSystem},
                                       {Strategy::StagedDma, kPinned},
                                       {Strategy::PinnedStaging, kSystem}}) {
    if (gpu && host == kSystem && strategy != Strategy::PinnedStaging) { continue; }
    ways.push_back({strategy, host, kDevice});
    ways.push_back({strategy, kDevice, host});
  }
  return ways;
}

inline std::string name_of_way(::testing::TestParamInfo<Way> const& info) {
  return info.param.name();
}

/// One way and layouts for it.
class WayTest : public TransferTest, public ::testing::WithParamInterface<Way> {
 protected:
  explicit WayTest(TransferManager::Builder builder = small_manager())
      : TransferTest(std::move(builder)) {}

  PhysicalLayout make_src(LayoutConfig const& config, LayoutShape const& shape) {
    return make(config, shape, GetParam().from);
  }
  PhysicalLayout make_dst(LayoutConfig const& config, LayoutShape const& shape) {
    return make(config, shape, GetParam().to);
  }
  /// Eight small blocks, contiguous on the host and a region per layer on the device.
  PhysicalLayout small_src(std::uint64_t seed) {
    auto layout = make_src(small_config(8), contiguous(KvBlockLayout::UniversalTP));
    write(layout, seed);
    return layout;
  }
  PhysicalLayout small_dst(std::uint64_t seed) {
    auto layout = make_dst(small_config(8),
                           layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD));
    write(layout, seed);
    return layout;
  }
};

}  // namespace kvbm::testing
