// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/core/error.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/memory/memory_source.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace kvbm::layout::testing {

/// The small shape of most tests: all extents differ, so that a mixed-up dimension is seen.
inline LayoutConfig::Builder small_config() {
  auto builder = LayoutConfig::builder();
  builder.num_blocks(5).num_layers(3).outer_dim(2).page_size(4).inner_dim(6 * 7).num_heads(6);
  return builder;
}

/// Expects an Error of `code` whose message contains every one of `parts`.
inline void expect_error(ErrorCode code, std::vector<std::string> const& parts,
                         std::function<void()> const& action) {
  try {
    action();
    ADD_FAILURE() << "expected " << to_string(code) << ", nothing was thrown";
  } catch (Error const& error) {
    EXPECT_EQ(to_string(error.code()), to_string(code)) << error.what();
    for (auto const& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << "'" << part << "' is not in: " << error.what();
    }
  }
}

/// Ordinary memory that pretends to be of two devices, and says of pointers what it was told.
class FakeSource final : public memory::MemorySource {
 public:
  static constexpr DeviceId kDevices = 2;

  memory::Region allocate(memory::AllocationRequest const& request) override {
    requests.push_back(request);
    auto const alignment = std::max<std::size_t>(request.alignment, sizeof(void*));
    auto const bytes = (request.bytes + alignment - 1) / alignment * alignment;
    std::shared_ptr<void> owner(std::aligned_alloc(alignment, bytes), std::free);
    if (!owner) { throw Error(ErrorCode::OutOfMemory, std::to_string(bytes)); }
    return memory::Region::of_memory(request.kind, owner.get(), request.bytes, request.device_id,
                                     true, owner);
  }

  [[nodiscard]] std::optional<memory::PointerInfo> classify(void const* address) const override {
    auto const it = known.find(address);
    return it == known.end() ? std::nullopt : std::optional(it->second);
  }

  [[nodiscard]] bool is_host_accessible(DeviceId device_id) const override {
    if (device_id < 0 || device_id >= kDevices) {
      throw Error(ErrorCode::NotFound, "no device " + std::to_string(device_id));
    }
    return device_id == 0;
  }

  [[nodiscard]] std::shared_ptr<memory::DiskIo> disk_io() override { return host_->disk_io(); }

  std::map<void const*, memory::PointerInfo> known;
  std::vector<memory::AllocationRequest> requests;

 private:
  std::shared_ptr<memory::MemorySource> host_ = memory::make_host_memory_source();
};

/// Aligned bytes that a test owns.
class Buffer {
 public:
  explicit Buffer(std::uint64_t bytes, std::size_t alignment = 512)
      : data_(static_cast<std::byte*>(
                  std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)),
              std::free),
        bytes_(bytes) {}
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<std::byte, void (*)(void*)> data_;
  std::uint64_t bytes_;
};

/// A folder that vanishes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    auto pattern = (std::filesystem::temp_directory_path() / "kvbm-layout-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  TemporaryFolder(TemporaryFolder const&) = delete;
  TemporaryFolder& operator=(TemporaryFolder const&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::filesystem::path const& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace kvbm::layout::testing
