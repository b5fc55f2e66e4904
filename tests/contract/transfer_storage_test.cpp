// SPDX-License-Identifier: Apache-2.0
//
// GPUDirect Storage with a library in cuFile's place, between files and an emulated device.
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "contract/transfer_fixture.hpp"
#include "kvbm/device/direct_storage.hpp"
#include "kvbm/memory/block_file.hpp"
#include "kvbm/testing/temp_folder.hpp"
#include "support/test_program.hpp"

namespace kvbm::testing {
namespace {

std::string const kFakeCuFile = kvbm::testing::test_program(KVBM_FAKE_CUFILE_LIBRARY);

using transfer::Strategy;

/// How the fake behaves while this lives.
class Told {
 public:
  explicit Told(char const* words) { setenv("KVBM_FAKE_CUFILE", words, 1); }
  ~Told() { unsetenv("KVBM_FAKE_CUFILE"); }
  Told(Told const&) = delete;
  Told& operator=(Told const&) = delete;
};

std::shared_ptr<device::DirectStorage> open_fake(std::filesystem::path const& modules) {
  std::ofstream(modules) << "x";
  return device::DirectStorage::open({kFakeCuFile, {}, modules});
}

class StorageTest : public TransferTest {
 protected:
  StorageTest() : TransferTest(make_builder()) {}

  static TransferManager::Builder make_builder() {
    TempFolder const folder;
    auto builder = emulated_manager();
    builder.capabilities({.allow_gds = true}).direct_storage(open_fake(folder / "modules"));
    return builder;
  }

  /// Blocks whose extents are whole pages.
  static LayoutConfig paged(std::uint64_t num_blocks, std::uint64_t inner_dim = 512) {
    return LayoutConfig::builder()
        .num_blocks(num_blocks)
        .num_layers(4)
        .page_size(4)
        .inner_dim(inner_dim)
        .num_heads(8)
        .dtype_width_bytes(2)
        .alignment(memory::kFileAlignment)
        .build();
  }

  /// A file and a device's layout of one shape, both written.
  struct Pair {
    PhysicalLayout file;
    PhysicalLayout device;
  };
  Pair make_pair(std::uint64_t num_blocks = 8,
                 LayoutShape const& shape = contiguous(KvBlockLayout::OperationalNHD)) {
    Pair pair{make(paged(num_blocks), shape, StorageKind::Disk),
              make(paged(num_blocks), shape, StorageKind::Device)};
    write(pair.file, 1);
    write(pair.device, 2);
    return pair;
  }

  static TransferOptions direct() {
    return TransferOptions::builder().strategy(Strategy::DirectStorage).build();
  }

  static memory::BlockFile& file_of(PhysicalLayout const& layout) {
    return dynamic_cast<memory::BlockFile&>(*layout.regions().front().store());
  }

  TransferCompleteNotification read(Pair const& pair, std::vector<BlockId> const& ids) {
    return move(pair.file, ids, pair.device, ids, direct());
  }
  TransferCompleteNotification write_back(Pair const& pair, std::vector<BlockId> const& ids) {
    return move(pair.device, ids, pair.file, ids, direct());
  }
  static Failure failure_of_wait(TransferCompleteNotification const& notification) {
    return failure_of_call([&] {
      notification.wait();
      return 0;
    });
  }
};

TEST_F(StorageTest, P3_MovesBlocksStraightBothWays) {
  for (auto const& shape : {contiguous(KvBlockLayout::OperationalNHD),
                            layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD),
                            layer_wise(BlockDimension::Second, KvBlockLayout::OperationalHND)}) {
    SCOPED_TRACE(shape.name());
    auto const pair = make_pair(8, shape);
    check_move(pair.file, {0, 5, 3}, pair.device, {7, 1, 2}, whole(pair.file), direct());
    check_move(pair.device, {6, 0}, pair.file, {1, 4}, whole(pair.file), direct());
  }
}

TEST_F(StorageTest, P3_MovesMoreThanOneBatchAndPiece) {
  // 512 KiB a layer and 2 MiB a block, which cuFile moves in pieces.
  auto const config = paged(12, 1U << 16U);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const file = make(config, shape, StorageKind::Disk);
  auto const device = make(config, shape, StorageKind::Device);
  write(device, 3);
  Told const told("short");
  move(device, all(device), file, all(file), direct()).wait();
  auto const back = make(config, shape, StorageKind::Device);
  move(file, all(file), back, all(back), direct()).wait();
  EXPECT_EQ(snapshot(back), snapshot(device));
}

TEST_F(StorageTest, P3_MovesWholeLayersOfLayerWiseBlocks) {
  auto const pair = make_pair(8, layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD));
  Part part = whole(pair.file);
  part.layers = {1, 3};
  auto options = direct();
  options.layer_range = part.layers;
  check_move(pair.file, {0, 5}, pair.device, {7, 1}, part, options);
  check_move(pair.device, {6, 0}, pair.file, {1, 4}, part, options);
}

TEST_F(StorageTest, P3_AManagerWithoutAnyNeedForItStages) {
  auto const pair = make_pair();
  auto const src = manager_.register_layout(pair.file);
  auto const dst = manager_.register_layout(pair.device);
  std::vector<BlockId> const ids{0, 1};
  auto const told = manager_.explain_transfer(src, ids, dst, ids);
  EXPECT_EQ(told.decision.strategy, Strategy::StagedFile);
  EXPECT_NE(told.to_string().find("GPUDirect Storage is allowed but not used"), std::string::npos);
  auto const asked = manager_.explain_transfer(src, ids, dst, ids, direct());
  EXPECT_EQ(asked.decision.strategy, Strategy::DirectStorage);
  EXPECT_EQ(asked.hops.size(), 1U);
}

TEST_F(StorageTest, P3_ABlockThatIsDamagedInTheFileFailsAlone) {
  auto const pair = make_pair();
  {
    auto const extent = pair.file.extent(3, 0);
    std::fstream data(file_of(pair.file).path(), std::ios::in | std::ios::out | std::ios::binary);
    auto const at = pair.file.regions()[extent.region].store_offset() + extent.offset + 17;
    data.seekg(static_cast<std::streamoff>(at));
    char const byte = static_cast<char>(data.get() ^ 1);
    data.seekp(static_cast<std::streamoff>(at));
    data.put(byte);
  }
  Image source = image_of(pair.device);
  auto const notification = read(pair, {2, 3, 4});
  auto const failure = failure_of_wait(notification);
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  EXPECT_TRUE(failure.names(file_of(pair.file).path().string())) << failure.message;
  ASSERT_EQ(notification.failed_blocks().size(), 1U);
  EXPECT_EQ(notification.failed_blocks().front().position, 1U);
  EXPECT_EQ(count_differences(pair.device, 2, 1, 2), 0U);
  EXPECT_EQ(count_differences(pair.device, 4, 1, 4), 0U);
  auto const extent = pair.device.extent(3, 0);
  auto const* const bytes = pair.device.regions()[extent.region].host_data() + extent.offset;
  EXPECT_TRUE(std::all_of(bytes, bytes + extent.bytes, [](auto b) { return b == std::byte{0}; }))
      << "what was not verified was left in the device's memory";
}

TEST_F(StorageTest, P3_WhatArrivesDamagedIsNotBelieved) {
  auto const pair = make_pair();
  Told const told("flip");
  EXPECT_EQ(failure_of_wait(read(pair, {0, 1})).code, ErrorCode::Corrupt);
}

TEST_F(StorageTest, P3_BlocksThatWereNeverWrittenAreNotFound) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  Pair const pair{make(paged(4), shape, StorageKind::Disk),
                  make(paged(4), shape, StorageKind::Device)};
  EXPECT_EQ(failure_of_wait(read(pair, {1})).code, ErrorCode::NotFound);
}

TEST_F(StorageTest, P3_AFailedWriteLeavesNoDataToBelieve) {
  auto const pair = make_pair();
  {
    Told const told("eio");
    auto const failure = failure_of_wait(write_back(pair, {0, 1}));
    EXPECT_EQ(failure.code, ErrorCode::Io);
    EXPECT_EQ(failure.native_code, EIO);
    EXPECT_TRUE(failure.names(file_of(pair.file).path().string())) << failure.message;
  }
  auto const failure = failure_of_wait(read(pair, {0}));
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
  EXPECT_TRUE(failure.names("never completely written")) << failure.message;
  write_back(pair, {0, 1}).wait();
  read(pair, {0, 1}).wait();
}

TEST_F(StorageTest, P3_CuFilesErrorsAreNamed) {
  auto const pair = make_pair();
  {
    Told const told("broken");
    auto const failure = failure_of_wait(read(pair, {0}));
    EXPECT_EQ(failure.code, ErrorCode::Io);
    EXPECT_EQ(failure.native_code, 5011);
    EXPECT_TRUE(failure.names("CUDA driver")) << failure.message;
  }
  {
    Told const told("eof");
    EXPECT_EQ(failure_of_wait(read(pair, {0})).native_code, ENODATA);
  }
  Told const told("closed");
  auto const other = make_pair();
  auto const failure = failure_of_call([&] { return read(other, {0}); });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_TRUE(failure.names("5027") && failure.names(file_of(other.file).path().string()))
      << failure.message;
}

TEST_F(StorageTest, P3_IsRefusedWhereExtentsAreNoWholePagesOrOnlyPartsOfThem) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const config = small_config(4);
  Pair const odd{make(config, shape, StorageKind::Disk), make(config, shape, StorageKind::Device)};
  auto const refused = failure_of_call([&] { return read(odd, {0}); });
  EXPECT_EQ(refused.code, ErrorCode::Unsupported);
  EXPECT_TRUE(refused.names("alignment")) << refused.message;
  auto const pair = make_pair();
  auto options = direct();
  options.layer_range = IndexRange{1, 2};
  EXPECT_EQ(failure_of_call([&] { return move(pair.file, {0}, pair.device, {0}, options); }).code,
            ErrorCode::Unsupported);
}

TEST_F(StorageTest, P3_TransfersOfOneFileShareIt) {
  auto const pair = make_pair(16);
  std::vector<TransferCompleteNotification> pending;
  for (BlockId id = 0; id < 16; ++id) {
    pending.push_back(read(pair, {id}));
  }
  for (auto const& notification : pending) {
    notification.wait();
  }
  for (BlockId id = 0; id < 16; ++id) {
    EXPECT_EQ(count_differences(pair.device, id, 1, id), 0U);
  }
}

class RefusedStorageTest : public TransferTest {
 protected:
  RefusedStorageTest() : TransferTest(make_builder()) {}
  static TransferManager::Builder make_builder() {
    auto builder = emulated_manager();
    builder.capabilities({.allow_gds = true})
        .direct_storage(device::DirectStorage::open({kFakeCuFile, {}, "/no/modules"}));
    return builder;
  }
};

TEST_F(RefusedStorageTest, P3_StagesAndSaysWhy) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const file = make(small_config(2), shape, StorageKind::Disk);
  auto const device = make(small_config(2), shape, StorageKind::Device);
  write(file, 1);
  move(file, {0}, device, {1}).wait();
  EXPECT_EQ(count_differences(device, 1, 1, 0), 0U);
  auto const failure = failure_of_call([&] {
    return move(file, {0}, device, {1},
                TransferOptions::builder().strategy(Strategy::DirectStorage).build());
  });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_TRUE(failure.names("/no/modules")) << failure.message;
}

}  // namespace
}  // namespace kvbm::testing
