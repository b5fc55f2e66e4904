// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace kvbm::cli {

/// Bytes that are contiguous at both ends.
struct Piece {
  std::uintptr_t local = 0;
  std::uintptr_t remote = 0;
  std::uint64_t bytes = 0;
};

/// The same pieces, those that adjoin at both ends as one.
std::vector<Piece> merge_adjacent(std::vector<Piece> const& pieces);

/// What one would write with NIXL's C interface alone: the comparison of the remote benchmarks. An
/// agent with the UCX backend and one request for everything; calls NIXL itself, not the library.
class PlainNixl {
 public:
  /// @param library  libnixl_capi.so  @throws UnsupportedError
  PlainNixl(std::filesystem::path const& library, std::string const& name,
            std::string const& backend = "UCX");
  ~PlainNixl();
  PlainNixl(PlainNixl const&) = delete;
  PlainNixl& operator=(PlainNixl const&) = delete;

  /// Registers memory, before anybody is told metadata().
  void add(std::uintptr_t address, std::uint64_t bytes);
  [[nodiscard]] std::vector<std::uint8_t> metadata() const;
  /// Loads another agent's metadata. @return its name
  std::string meet(std::span<std::uint8_t const> metadata);
  /// Lists, request, post, wait, release. @throws PeerError
  void move(bool reads, std::span<Piece const> pieces, std::string const& peer);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::cli
