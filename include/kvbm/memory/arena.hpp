// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "kvbm/memory/region.hpp"

namespace kvbm::memory {

/// Hands out page-granular parts of one Region, so that memory which is expensive to make
/// (pinned, registered, preallocated) is made once. First fit: the lowest free pages that suffice.
///
/// Lifetime leases keep the region alive; they may outlive the Arena.
/// Threads  all methods, and the destruction of leases, may run concurrently.
class Arena {
  class State;

 public:
  /// A part of the region, given back when it is destroyed. Move-only.
  class Lease {
   public:
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&& other) noexcept;
    Lease(Lease const&) = delete;
    Lease& operator=(Lease const&) = delete;
    ~Lease();

    /// The bytes asked for. A copy keeps the memory alive but not the lease: do not use it once
    /// the lease is gone.
    [[nodiscard]] Region const& region() const noexcept { return region_; }
    /// Position of the first byte in the arena's region; a multiple of page_bytes.
    [[nodiscard]] std::uint64_t offset() const noexcept;
    /// Gives the pages back now; the lease is empty afterwards. Harmless on an empty one.
    void release() noexcept;
    /// Whether it has been moved from or released.
    [[nodiscard]] bool empty() const noexcept { return state_ == nullptr; }

   private:
    friend class Arena;
    Lease(std::shared_ptr<State> state, Region region, std::uint64_t first_page,
          std::uint64_t num_pages);
    std::shared_ptr<State> state_;
    Region region_;
    std::uint64_t first_page_ = 0;
    std::uint64_t num_pages_ = 0;
  };

  /// @param page_bytes  granularity, a power of two; a rest of the region below it is not used
  /// @throws Error(InvalidArgument) page_bytes no power of two, or the region below one page
  explicit Arena(Region region, std::uint64_t page_bytes = 4096);

  /// The lowest free run of pages that holds `bytes`.
  /// @throws Error(OutOfMemory) naming the request, what is free and the largest free run;
  ///         Error(InvalidArgument) zero bytes
  [[nodiscard]] Lease allocate(std::uint64_t bytes);

  /// As allocate(), but nullopt where nothing fits. @throws Error(InvalidArgument) zero bytes
  [[nodiscard]] std::optional<Lease> try_allocate(std::uint64_t bytes);

  [[nodiscard]] Region const& region() const noexcept;
  [[nodiscard]] std::uint64_t page_bytes() const noexcept;
  [[nodiscard]] std::uint64_t num_pages() const noexcept;
  /// Pages not leased at this moment.
  [[nodiscard]] std::uint64_t num_free_pages() const;
  /// Pages of the longest free run at this moment.
  [[nodiscard]] std::uint64_t largest_free_run() const;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace kvbm::memory
