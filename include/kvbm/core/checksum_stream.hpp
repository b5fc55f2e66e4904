// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "kvbm/core/types.hpp"

namespace kvbm {

/// XXH3-128 of bytes that come in pieces: equal to `checksum_bytes` of all of them in a row,
/// however they were cut. Not thread-safe; a moved-from stream can only be assigned to or
/// destroyed.
class ChecksumStream {
 public:
  /// Throws std::bad_alloc.
  ChecksumStream();
  ~ChecksumStream();
  ChecksumStream(ChecksumStream const&) = delete;
  ChecksumStream& operator=(ChecksumStream const&) = delete;
  ChecksumStream(ChecksumStream&&) noexcept;
  ChecksumStream& operator=(ChecksumStream&&) noexcept;

  /// Appends `bytes` bytes at `data`.
  void update(void const* data, std::size_t bytes) noexcept;

  /// Checksum of everything appended so far.
  [[nodiscard]] Checksum digest() const noexcept;

  /// Starts again with nothing appended.
  void reset() noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvbm
