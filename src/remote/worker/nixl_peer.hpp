// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "kvbm/remote/metadata.hpp"
#include "kvbm/transfer/peer.hpp"
#include "remote/worker/calls.hpp"
#include "remote/worker/contact.hpp"
#include "remote/worker/exposed_memory.hpp"

namespace kvbm::remote {

/// A worker whose metadata was imported, reached through NIXL.
class NixlPeer final : public transfer::Peer {
 public:
  /// @param calls  shared with the thread that takes replies
  NixlPeer(std::shared_ptr<nixl::NixlAgent> agent, std::shared_ptr<Contact> contact,
           std::shared_ptr<ExposedMemory> exposed, std::shared_ptr<Calls> calls,
           std::optional<LandingZone> const& landing);

  [[nodiscard]] std::uint64_t worker_id() const noexcept override { return contact_->worker_id(); }
  [[nodiscard]] std::string const& name() const noexcept override { return contact_->name(); }
  void expect_alive() const override { contact_->expect_alive(); }
  [[nodiscard]] bool reaches(memory::Region const& region) const override {
    return exposed_->reaches(region);
  }
  [[nodiscard]] std::shared_ptr<void const> expose(memory::Region const& region) override {
    return exposed_->expose({&region, 1});
  }
  void move(transfer::WireDirection direction, transfer::WireMemory local,
            transfer::WireMemory remote, std::span<transfer::WireRun const> runs,
            std::shared_ptr<void const> const& hold, ShouldStop const& should_stop) override;
  void notify(std::uint64_t value) override;
  [[nodiscard]] std::uint64_t landing_bytes() const noexcept override { return landing_bytes_; }
  [[nodiscard]] std::shared_ptr<transfer::Landing const> borrow_landing(
      std::uint64_t bytes, ShouldStop const& should_stop) override;
  void copy_image(transfer::WireDirection direction, transfer::ImageOrder const& order,
                  ShouldStop const& should_stop) override;

 private:
  class Moves;

  std::shared_ptr<nixl::NixlAgent> const agent_;
  std::shared_ptr<Contact> const contact_;
  std::shared_ptr<ExposedMemory> const exposed_;
  std::shared_ptr<Calls> const calls_;
  std::uint64_t const landing_bytes_;
};

}  // namespace kvbm::remote
