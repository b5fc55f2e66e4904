// SPDX-License-Identifier: Apache-2.0
//
// The decoder of worker metadata against arbitrary bytes: it refuses with one of two codes, or the
// bytes are exactly those that the value it returns is written as. Also linked into a unit test
// that runs the corpus.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/remote/metadata.hpp"
#include "remote/sealed.hpp"

namespace {

using namespace kvbm;
using remote::SerializedLayout;

void require(bool condition) {
  if (!condition) { std::abort(); }
}

/// What a manager does with it: every layout that has addresses becomes a layout of a peer.
void use(SerializedLayout const& metadata) {
  static auto const source = memory::make_host_memory_source();
  for (auto const& descriptor : metadata.layouts) {
    require(descriptor.handle.worker_id() == metadata.worker_id);
    require(descriptor.shared.empty() ||
            descriptor.shared.size() == descriptor.layout.regions.size());
    if (descriptor.tier != remote::LogicalLayoutHandle::G1 &&
        descriptor.tier != remote::LogicalLayoutHandle::G2) {
      continue;
    }
    auto const layout = remote::remote_layout(descriptor, source);
    require(layout.descriptor() == descriptor.layout);
    auto const& config = layout.config();
    auto const chunk =
        layout.chunk(config.num_blocks() - 1, config.num_layers() - 1, config.outer_dim() - 1);
    require(chunk.offset < layout.regions()[chunk.region].bytes());
  }
}

void check(std::span<std::byte const> blob) {
  try {
    auto const metadata = SerializedLayout::from_bytes(blob);
    auto const again = metadata.to_bytes();
    require(std::equal(again.begin(), again.end(), blob.begin(), blob.end()));
    static_cast<void>(metadata.to_json());
    use(metadata);
  } catch (Error const& error) {
    require(error.code() == ErrorCode::Corrupt || error.code() == ErrorCode::VersionMismatch);
  }
}

/// The blob with its length and checksum put right, which no mutation would find.
std::vector<std::byte> sealed(std::span<std::byte const> data) {
  constexpr std::size_t kLengthAt = 12;
  std::vector<std::byte> blob(data.begin(), data.end());
  auto const body = blob.size() - remote::detail::kEnvelopeHeaderBytes;
  for (std::size_t i = 0; i < 8; ++i) {
    blob[kLengthAt + i] = static_cast<std::byte>(std::uint64_t{body} >> (8 * i));
  }
  remote::detail::append_checksum(blob);
  return blob;
}

}  // namespace

// Both as it is, and as what stands before the checksum of a blob.
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  auto const bytes = std::as_bytes(std::span(data, size));
  check(bytes);
  if (size >= remote::detail::kEnvelopeHeaderBytes) { check(sealed(bytes)); }
  return 0;
}
