// SPDX-License-Identifier: Apache-2.0
//
// The manifest decoder against arbitrary bytes: it refuses with a kvbm::Error, or what it returns
// obeys every rule and survives another round. Also linked into a unit test that runs the corpus.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "kvbm/core/error.hpp"
#include "memory/manifest.hpp"

namespace {

void require(bool condition) {
  if (!condition) { std::abort(); }
}

using kvbm::memory::Manifest;
using Decode = Manifest (*)(std::string_view text, std::string_view name);

void check(std::string_view text, Decode decode) {
  using namespace kvbm::memory;
  try {
    Manifest const manifest = decode(text, "fuzz");
    require(manifest.parts.empty() == (decode == &decode_manifest));
    FileGeometry const geometry = check_groups(manifest.groups);
    require(geometry.num_extents <= kMaxExtents);
    std::uint64_t end = 0;
    for (auto const& group : manifest.groups) {
      require(group.count > 0 && group.extent_bytes > 0 && group.file_offset >= end);
      require(group.extent_stride >= group.extent_bytes);
      end = group.file_offset + (group.count - 1) * group.extent_stride + group.extent_bytes;
      require(end <= geometry.data_bytes);
    }
    Manifest const again = decode(encode_manifest(manifest), "again");
    require(again.id == manifest.id && again.metadata == manifest.metadata);
    require(again.groups == manifest.groups && again.parts == manifest.parts);
  } catch (kvbm::Error const& error) {
    require(error.code() == kvbm::ErrorCode::Corrupt ||
            error.code() == kvbm::ErrorCode::VersionMismatch);
  }
}

}  // namespace

// Both as it is, and with the right checksum around it, which no mutation would find.
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::string_view const text(reinterpret_cast<char const*>(data), size);
  for (Decode const decode : {&kvbm::memory::decode_manifest, &kvbm::memory::decode_stripes}) {
    check(text, decode);
    check(kvbm::memory::seal_manifest(text), decode);
  }
  return 0;
}
