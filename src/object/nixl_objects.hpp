// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include "object/nixl_agents.hpp"
#include "object/object_batch.hpp"

namespace kvbm::object {

/// One object on its way between the bucket and staging memory.
class NixlFlight {
 public:
  /// @param offset  in the object; 0 of one that is written
  /// @throws UnsupportedError, Error(OutOfMemory | Internal)  what NIXL refuses
  NixlFlight(std::shared_ptr<NixlObjectAgent> agent, nixl::Direction direction,
             std::string const& key, std::uint64_t offset, std::uint64_t bytes);
  /// Gives up what has not ended.
  ~NixlFlight();
  NixlFlight(NixlFlight const&) = delete;
  NixlFlight& operator=(NixlFlight const&) = delete;

  /// What is written; what was read.
  [[nodiscard]] std::span<std::byte> memory() noexcept {
    return {held_->staging->bytes.get(), bytes_};
  }
  /// @throws Error(Io)
  void post();
  /// @throws Error(Io) it failed
  [[nodiscard]] bool is_done();

 private:
  /// What NIXL may use until the request has ended, given up or not.
  struct Held {
    std::unique_ptr<Staging> staging;
    std::optional<nixl::NixlAgent::Registration> key;
  };
  std::shared_ptr<NixlObjectAgent> agent_;
  std::uint64_t bytes_;
  std::shared_ptr<Held> held_;
  std::optional<nixl::NixlAgent::Request> request_;
  bool is_ended_ = true;
};

/// NIXL's OBJ plugin on a client's bucket. Thread-safe.
class NixlObjects {
 public:
  /// Starts an agent.
  /// @param library  libnixl_capi.so; empty: looked for
  /// @throws UnsupportedError  NIXL or its plugin is not here, does not load or does not start
  NixlObjects(std::shared_ptr<ClientContext> context, std::string const& library);

  /// Throws as the constructor of NixlFlight, and where credentials were renewed as the own one.
  [[nodiscard]] std::unique_ptr<NixlFlight> prepare(nixl::Direction direction,
                                                    std::string const& key, std::uint64_t offset,
                                                    std::uint64_t bytes);
  /// Objects that NIXL moves at a time.
  [[nodiscard]] std::size_t at_once() const noexcept { return at_once_; }
  [[nodiscard]] std::string const& version() const noexcept { return library_->info().version; }

  /// NIXL did not move an object, which libcurl is asked for then.
  void note_failure(std::string_view what, std::string_view why) noexcept;
  [[nodiscard]] std::uint64_t failures() const noexcept { return failures_.load(); }

 private:
  std::shared_ptr<NixlObjectAgent> agent();

  std::shared_ptr<ClientContext> context_;
  std::shared_ptr<nixl::NixlLibrary const> library_;
  std::size_t at_once_;
  std::atomic<std::uint64_t> failures_{0};
  std::mutex mutex_;
  std::shared_ptr<NixlObjectAgent> agent_;  // guarded by mutex_
};

/// Why NIXL's OBJ plugin cannot be used here; empty: it loads. Starts nothing.
std::string nixl_objects_problem(std::string const& library);

/// Bodies by NIXL, everything else by libcurl. What NIXL fails at is asked of libcurl, whose answer
/// counts: it succeeds, or says what is wrong. Both share S3Options::deadline.
std::unique_ptr<ObjectBatch> make_nixl_batch(S3Client& client, std::shared_ptr<NixlObjects> nixl);

}  // namespace kvbm::object
