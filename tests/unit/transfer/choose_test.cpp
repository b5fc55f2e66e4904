// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <optional>
#include <sstream>
#include <string>

#include "kvbm/core/error.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::transfer {
namespace {

using memory::StorageKind;

constexpr StorageKind kKinds[] = {StorageKind::System, StorageKind::Pinned, StorageKind::Device,
                                  StorageKind::Disk, StorageKind::Object};

ChoiceInput input_for(StorageKind src, StorageKind dst) {
  ChoiceInput input;
  input.src_kind = src;
  input.dst_kind = dst;
  input.num_blocks = 16;
  input.bytes_per_block = 1U << 20U;
  input.run_bytes = 1U << 20U;
  return input;
}

std::string decided(ChoiceInput const& input) {
  try {
    return std::string(to_string(choose(input).strategy));
  } catch (UnsupportedError const&) { return "Unsupported"; }
}

bool involves_device(StorageKind src, StorageKind dst) {
  return src == StorageKind::Device || dst == StorageKind::Device;
}

/// What a GPU or an emulated device adds: long runs that lie one behind the other.
DeviceChoice device_for(StorageKind src, StorageKind dst, bool emulated) {
  DeviceChoice device;
  device.emulated = emulated;
  device.direction = src != StorageKind::Device   ? LinkDirection::HostToDevice
                     : dst != StorageKind::Device ? LinkDirection::DeviceToHost
                                                  : LinkDirection::DeviceToDevice;
  device.pageable = src == StorageKind::System || dst == StorageKind::System;
  return device;
}

std::string matrix(bool extents_match, bool gds, std::optional<bool> emulated = {}) {
  std::ostringstream text;
  for (auto const src : kKinds) {
    for (auto const dst : kKinds) {
      auto input = input_for(src, dst);
      input.extents_match = extents_match;
      input.capabilities.allow_gds = gds;
      if (emulated && memory::is_memory(src) && memory::is_memory(dst) &&
          involves_device(src, dst)) {
        input.device = device_for(src, dst, *emulated);
      }
      text << memory::to_string(src) << "->" << memory::to_string(dst) << ' ' << decided(input)
           << '\n';
    }
  }
  return text.str();
}

constexpr char const* kMatrix = R"(System->System HostCopy
System->Pinned HostCopy
System->Device StreamCopy
System->Disk StagedFile
System->Object StagedFile
Pinned->System HostCopy
Pinned->Pinned HostCopy
Pinned->Device StreamCopy
Pinned->Disk StagedFile
Pinned->Object StagedFile
Device->System StreamCopy
Device->Pinned StreamCopy
Device->Device StreamCopy
Device->Disk StagedFile
Device->Object StagedFile
Disk->System StagedFile
Disk->Pinned StagedFile
Disk->Device StagedFile
Disk->Disk StagedFile
Disk->Object StagedFile
Object->System StagedFile
Object->Pinned StagedFile
Object->Device StagedFile
Object->Disk StagedFile
Object->Object StagedFile
)";

constexpr char const* kMatrixOfAGpu = R"(System->System HostCopy
System->Pinned HostCopy
System->Device PinnedStaging
System->Disk StagedFile
System->Object StagedFile
Pinned->System HostCopy
Pinned->Pinned HostCopy
Pinned->Device DmaCopy
Pinned->Disk StagedFile
Pinned->Object StagedFile
Device->System PinnedStaging
Device->Pinned DmaCopy
Device->Device SmCopy
Device->Disk StagedFile
Device->Object StagedFile
Disk->System StagedFile
Disk->Pinned StagedFile
Disk->Device StagedFile
Disk->Disk StagedFile
Disk->Object StagedFile
Object->System StagedFile
Object->Pinned StagedFile
Object->Device StagedFile
Object->Disk StagedFile
Object->Object StagedFile
)";

TEST(Choose, S1_WholeTableForDefaultCapabilities) {
  EXPECT_EQ(matrix(false, false), kMatrix);
  EXPECT_EQ(matrix(false, false, true), kMatrix) << "an emulated device";
}

TEST(Choose, S1_WholeTableWithAGpu) {
  EXPECT_EQ(matrix(false, false, false), kMatrixOfAGpu);
  EXPECT_EQ(matrix(false, true, false), kMatrixOfAGpu) << "GPUDirect Storage is not there";
}

TEST(Choose, S1_GdsAllowedButAbsentStagesAndSaysSo) {
  EXPECT_EQ(matrix(false, true), kMatrix);
  auto input = input_for(StorageKind::Device, StorageKind::Disk);
  input.capabilities.allow_gds = true;
  auto const decision = choose(input);
  ASSERT_EQ(decision.notes.size(), 1U);
  EXPECT_NE(decision.notes[0].find("GPUDirect Storage"), std::string::npos);
}

/// Between a file and a GPU, with GPUDirect Storage allowed.
ChoiceInput storage_input(device::DirectStorageMode mode) {
  auto input = input_for(StorageKind::Disk, StorageKind::Device);
  input.extents_match = true;
  input.capabilities.allow_gds = true;
  input.storage = StorageChoice{mode, "told by the probe", true, false};
  return input;
}

TEST(Choose, S1_P3_GdsGoesStraightBetweenFileAndDevice) {
  auto input = storage_input(device::DirectStorageMode::Direct);
  for (bool const reads : {true, false}) {
    EXPECT_EQ(choose(input).strategy, Strategy::DirectStorage) << reads;
    EXPECT_TRUE(choose(input).notes.empty());
    std::swap(input.src_kind, input.dst_kind);
  }
}

TEST(Choose, P3_CuFilesOwnBounceIsNoBetterThanOurs) {
  auto input = storage_input(device::DirectStorageMode::Compatible);
  auto const decision = choose(input);
  EXPECT_EQ(decision.strategy, Strategy::StagedFile);
  ASSERT_EQ(decision.notes.size(), 1U);
  EXPECT_NE(decision.notes[0].find("quicker"), std::string::npos) << decision.notes[0];
  input.wanted = Strategy::DirectStorage;
  EXPECT_EQ(choose(input).strategy, Strategy::DirectStorage);
}

TEST(Choose, P3_SaysWhyGdsIsNotUsed) {
  using device::DirectStorageMode;
  auto const reason_of = [](ChoiceInput input) {
    EXPECT_EQ(choose(input).strategy, Strategy::StagedFile);
    input.wanted = Strategy::DirectStorage;
    EXPECT_THROW(static_cast<void>(choose_strategy(input)), UnsupportedError);
    input.wanted.reset();
    return choose(input).candidates.at(static_cast<std::size_t>(Strategy::DirectStorage)).reason;
  };
  EXPECT_EQ(reason_of(storage_input(DirectStorageMode::Refused)), "told by the probe");
  auto input = storage_input(DirectStorageMode::Direct);
  input.storage->is_plain_file = false;
  EXPECT_NE(reason_of(input).find("O_DIRECT"), std::string::npos);
  input = storage_input(DirectStorageMode::Direct);
  input.extents_match = false;
  EXPECT_NE(reason_of(input).find("differ"), std::string::npos);
  input = storage_input(DirectStorageMode::Direct);
  input.storage.reset();
  EXPECT_NE(reason_of(input).find("allow_gds"), std::string::npos);
  input = storage_input(DirectStorageMode::Direct);
  input.storage->problem = "cuFile does not take it";
  EXPECT_EQ(reason_of(input), "cuFile does not take it");
  input = storage_input(DirectStorageMode::Direct);
  input.storage->emulated = true;
  EXPECT_EQ(choose(input).strategy, Strategy::StagedFile);
  input.wanted = Strategy::DirectStorage;
  EXPECT_EQ(choose(input).strategy, Strategy::DirectStorage);
}

TEST(Choose, S1_MatchingExtentsGoStraightBetweenFileAndHostMemory) {
  for (auto const host : {StorageKind::System, StorageKind::Pinned}) {
    auto write = input_for(host, StorageKind::Disk);
    write.extents_match = true;
    EXPECT_EQ(choose(write).strategy, Strategy::DirectFile);
    auto read = input_for(StorageKind::Disk, host);
    read.extents_match = true;
    EXPECT_EQ(choose(read).strategy, Strategy::DirectFile);
  }
  auto device = input_for(StorageKind::Device, StorageKind::Disk);
  device.extents_match = true;
  EXPECT_EQ(choose(device).strategy, Strategy::StagedFile);
}

TEST(Choose, S2_SystemAndDeviceHaveAPath) {
  EXPECT_EQ(choose(input_for(StorageKind::System, StorageKind::Device)).strategy,
            Strategy::StreamCopy);
  EXPECT_EQ(choose(input_for(StorageKind::Device, StorageKind::System)).strategy,
            Strategy::StreamCopy);
}

TEST(Choose, EveryCandidateIsNamedWithItsReason) {
  auto const decision = choose(input_for(StorageKind::Pinned, StorageKind::Disk));
  ASSERT_EQ(decision.candidates.size(), kNumStrategies);
  for (auto const& candidate : decision.candidates) {
    EXPECT_FALSE(candidate.reason.empty()) << to_string(candidate.strategy);
    EXPECT_EQ(candidate.estimated_seconds.has_value(), candidate.strategy == Strategy::StagedFile);
    EXPECT_EQ(decision.candidates.at(static_cast<std::size_t>(candidate.strategy)).strategy,
              candidate.strategy);
  }
  EXPECT_FALSE(decision.reason.empty());
}

TEST(Choose, IsPure) {
  auto const input = input_for(StorageKind::Pinned, StorageKind::Pinned);
  EXPECT_EQ(choose(input).estimated_seconds, choose(input).estimated_seconds);
}

TEST(Choose, ACallersStreamOrdersHostCopiesAndRefusesFiles) {
  auto host = input_for(StorageKind::System, StorageKind::System);
  host.caller_stream = true;
  EXPECT_EQ(choose(host).strategy, Strategy::StreamCopy);
  auto file = input_for(StorageKind::Device, StorageKind::Disk);
  file.caller_stream = true;
  EXPECT_THROW(static_cast<void>(choose(file)), UnsupportedError);
}

TEST(Choose, PendingEventsKeepTheCallerFromBlocking) {
  auto input = input_for(StorageKind::System, StorageKind::Pinned);
  input.must_wait = true;
  EXPECT_EQ(choose(input).strategy, Strategy::StreamCopy);
}

TEST(Choose, O2_PreferencesAndSparesAreSeenInTheNotes) {
  auto input = input_for(StorageKind::System, StorageKind::Pinned);
  EXPECT_TRUE(choose(input).notes.empty());
  input.preferences.native_vs_nixl = NativeVsNixlPolicy::PreferNixl;
  input.capabilities.allow_gpu_rdma = true;
  input.spare = Spare::SpareSms;
  input.bounce_given = true;
  EXPECT_EQ(choose(input).notes.size(), 4U);
}

TEST(Choose, ShorterRunsCostMore) {
  auto input = input_for(StorageKind::System, StorageKind::System);
  double const long_runs = choose(input).estimated_seconds;
  input.run_bytes = 256;
  double const rows = choose(input).estimated_seconds;
  input.run_bytes = 2;
  EXPECT_LT(long_runs, rows);
  EXPECT_LT(rows, choose(input).estimated_seconds);
}

}  // namespace
}  // namespace kvbm::transfer
