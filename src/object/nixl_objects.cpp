// SPDX-License-Identifier: Apache-2.0
#include "object/nixl_objects.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::object {

namespace {

constexpr char const* kPlugin = "OBJ";
// The SDK inside NIXL opens no more connections.
constexpr std::size_t kMostConnections = 25;

nixl::NixlSearch search_for(std::string const& library) {
  nixl::NixlSearch search;
  search.library = library;
  return search;
}

}  // namespace

std::string nixl_objects_problem(std::string const& library) {
  try {
    // NIXL before its plugin: the other way round it does not heed NIXL_LOG_LEVEL.
    auto const nixl = nixl::NixlLibrary::load(search_for(library));
    nixl::NixlLibraryInfo const& info = nixl->info();
    if (std::find(info.plugins.begin(), info.plugins.end(), kPlugin) == info.plugins.end()) {
      return "NIXL at " + info.path.string() + " has no plugin OBJ";
    }
    std::string const problem = nixl->plugin_problem(kPlugin);
    if (problem.empty()) { return {}; }
    return fmt::format("the plugin OBJ of NIXL{}{} does not load: {}",
                       info.version.empty() ? "" : " ", info.version, problem);
  } catch (UnsupportedError const& error) { return error.what(); }
}

// --- one object

NixlFlight::NixlFlight(std::shared_ptr<NixlObjectAgent> agent, nixl::Direction direction,
                       std::string const& key, std::uint64_t offset, std::uint64_t bytes)
    : agent_(std::move(agent)), bytes_(bytes), held_(std::make_shared<Held>()) {
  held_->staging = agent_->take_staging(bytes);
  std::uint64_t number = 0;
  held_->key = agent_->register_key(key, offset + bytes, number);
  nixl::NixlRange const here{reinterpret_cast<std::uintptr_t>(held_->staging->bytes.get()), bytes,
                             0};
  nixl::NixlRange const there{offset, bytes, number};
  request_ = agent_->agent().make_request(direction, nixl::Segment::Dram, {&here, 1},
                                          nixl::Segment::Object, {&there, 1},
                                          agent_->agent().name(), kPlugin);
}

NixlFlight::~NixlFlight() {
  if (!is_ended_) {
    request_->abandon(std::move(held_));
    return;
  }
  request_.reset();
  held_->key.reset();
  agent_->give_back(std::move(held_->staging));
}

void NixlFlight::post() {
  request_->post();
  is_ended_ = false;
}

bool NixlFlight::is_done() {
  if (is_ended_) { return true; }
  try {
    is_ended_ = request_->is_done();
  } catch (...) {
    is_ended_ = true;
    throw;
  }
  return is_ended_;
}

// --- the bucket

NixlObjects::NixlObjects(std::shared_ptr<ClientContext> context, std::string const& library)
    : context_(std::move(context)),
      library_(nixl::NixlLibrary::load(search_for(library))),
      at_once_(std::min(context_->options.connections, kMostConnections)) {
  static_cast<void>(agent());
}

std::shared_ptr<NixlObjectAgent> NixlObjects::agent() {
  auto who = context_->credentials.get();
  std::lock_guard const lock(mutex_);
  if (agent_ == nullptr || agent_->who() != who) {
    agent_ = std::make_shared<NixlObjectAgent>(library_, *context_, std::move(who), at_once_);
  }
  return agent_;
}

std::unique_ptr<NixlFlight> NixlObjects::prepare(nixl::Direction direction, std::string const& key,
                                                 std::uint64_t offset, std::uint64_t bytes) {
  return std::make_unique<NixlFlight>(agent(), direction, key, offset, bytes);
}

void NixlObjects::note_failure(std::string_view what, std::string_view why) noexcept {
  if (failures_++ > 0) { return; }
  try {
    log::write(
        log::Level::Warning,
        fmt::format("{}: NIXL did not move it, libcurl is asked (said once): {}", what, why));
  } catch (std::exception const&) {}  // no memory for a line of a log
}

}  // namespace kvbm::object
