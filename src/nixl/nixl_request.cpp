// SPDX-License-Identifier: Apache-2.0
#include <list>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "kvbm/core/error.hpp"
#include "nixl/nixl_core.hpp"

namespace kvbm::nixl {

struct NixlAgent::Request::State {
  enum class Phase { Ready, Posted, Done, Failed, Abandoned };

  std::shared_ptr<Core> core;
  std::string peer;
  nixl_c::Request handle = nullptr;
  Phase phase = Phase::Ready;
  std::list<Core::Abandoned> slot{1};  // made beforehand: abandoning must not fail
  nixl_c::Status status = nixl_c::kSuccess;

  State(std::shared_ptr<Core> owner, std::string remote)
      : core(std::move(owner)), peer(std::move(remote)) {}
  State(State const&) = delete;
  State& operator=(State const&) = delete;
  ~State() { abandon({}); }

  void abandon(std::shared_ptr<void const> keep) noexcept {
    if (handle == nullptr) { return; }
    if (phase == Phase::Posted) {
      std::lock_guard const lock(core->mutex);
      slot.front() = {handle, std::move(peer), std::move(keep)};
      core->abandoned.splice(core->abandoned.end(), slot);
    } else {
      core->release(handle);
    }
    handle = nullptr;
    phase = Phase::Abandoned;
  }

  bool advance(nixl_c::Status next) {
    status = next;
    if (next == nixl_c::kInProgress) { return false; }
    phase = next == nixl_c::kSuccess ? Phase::Done : Phase::Failed;
    {
      std::lock_guard const lock(core->mutex);
      core->ended(peer);
    }
    if (phase == Phase::Failed) { fail(); }
    return true;
  }

  [[noreturn]] void fail() const {
    if (peer == core->name) {
      throw_error(ErrorCode::Io,
                  fmt::format("NIXL could not move bytes between memory and local storage "
                              "(status {}); NIXL_LOG_LEVEL=INFO prints why",
                              status),
                  status);
    }
    throw PeerError(fmt::format(
        "the transfer with agent '{}' failed (status {}): it died or disconnected", peer, status));
  }
};

NixlAgent::Request::Request(std::unique_ptr<State> state) : state_(std::move(state)) {}
NixlAgent::Request::Request(Request&&) noexcept = default;
NixlAgent::Request& NixlAgent::Request::operator=(Request&&) noexcept = default;
NixlAgent::Request::~Request() = default;

void NixlAgent::Request::post() {
  KVBM_EXPECTS(state_ != nullptr && state_->phase != State::Phase::Abandoned, InvalidArgument,
               "an abandoned or moved-from request cannot be posted");
  KVBM_EXPECTS(state_->phase != State::Phase::Posted, Busy, "the request is posted already");
  Core& core = *state_->core;
  {
    std::lock_guard const lock(core.mutex);
    core.began(state_->peer);
  }
  state_->phase = State::Phase::Posted;
  state_->advance(core.functions().post_xfer_req(core.agent.get(), state_->handle, nullptr));
}

bool NixlAgent::Request::is_done() {
  KVBM_EXPECTS(state_ != nullptr && state_->phase != State::Phase::Abandoned, InvalidArgument,
               "an abandoned or moved-from request has no outcome");
  KVBM_EXPECTS(state_->phase != State::Phase::Ready, InvalidArgument, "the request was not posted");
  if (state_->phase == State::Phase::Done) { return true; }
  if (state_->phase == State::Phase::Failed) { state_->fail(); }
  Core const& core = *state_->core;
  return state_->advance(core.functions().get_xfer_status(core.agent.get(), state_->handle));
}

void NixlAgent::Request::abandon(std::shared_ptr<void const> keep) noexcept {
  if (state_ != nullptr) { state_->abandon(std::move(keep)); }
}

NixlAgent::Request NixlAgent::make_request(Direction direction, Segment local,
                                           std::span<NixlRange const> local_ranges, Segment remote,
                                           std::span<NixlRange const> remote_ranges,
                                           std::string const& agent, std::string_view backend) {
  check_pairs(local_ranges, remote_ranges);
  nixl_c::Functions const& functions = core_->functions();
  auto const here = make_transfer_list(functions, local, local_ranges);
  auto const there = make_transfer_list(functions, remote, remote_ranges);
  auto const options = core_->options_for(backend);
  auto state = std::make_unique<Request::State>(core_, agent);
  nixl_c::Operation const operation = direction == Direction::Read ? nixl_c::kRead : nixl_c::kWrite;
  nixl_c::Status const status =
      functions.create_xfer_req(core_->agent.get(), operation, here.get(), there.get(),
                                agent.c_str(), &state->handle, options.get());
  if (status == nixl_c::kSuccess) { return Request(std::move(state)); }
  KVBM_EXPECTS(core_->knows(agent), NotFound,
               fmt::format("agent '{}' does not know agent '{}'", core_->name, agent));
  throw_error(ErrorCode::OutOfRange,
              fmt::format("NIXL refuses {} range(s) (status {}): one lies outside what agent '{}' "
                          "registered ({}, first {} bytes at {:#x}) or what this one did ({}, "
                          "first {} bytes at {:#x})",
                          local_ranges.size(), status, agent, to_string(remote),
                          remote_ranges[0].bytes, remote_ranges[0].address, to_string(local),
                          local_ranges[0].bytes, local_ranges[0].address),
              status);
}

}  // namespace kvbm::nixl
