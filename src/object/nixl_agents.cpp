// SPDX-License-Identifier: Apache-2.0
#include "object/nixl_agents.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <thread>

#include "kvbm/core/log.hpp"

namespace kvbm::object {

namespace {

constexpr char const* kBackend = "OBJ";
// Staging that waits for its next use, an agent.
constexpr std::uint64_t kMostIdleBytes = std::uint64_t{256} << 20;

/// Agents whose store has ended before their requests. NIXL waits for those when an agent is
/// destroyed, which no caller should have to.
class RetiredAgents {
 public:
  // Made when NIXL is loaded, so that it ends before what NIXL's libraries have of static objects:
  // their threads crash without those.
  static RetiredAgents& instance() {
    static RetiredAgents agents;
    return agents;
  }
  RetiredAgents() = default;
  RetiredAgents(RetiredAgents const&) = delete;
  RetiredAgents& operator=(RetiredAgents const&) = delete;
  ~RetiredAgents() {
    while (sweep() > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  void add(std::unique_ptr<nixl::NixlAgent> agent) {
    std::lock_guard const lock(mutex_);
    agents_.push_back(std::move(agent));
  }
  std::size_t sweep() {
    std::lock_guard const lock(mutex_);
    std::erase_if(agents_, [](auto const& agent) { return agent->sweep() == 0; });
    return agents_.size();
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<nixl::NixlAgent>> agents_;  // guarded by mutex_
};

/// A variable of the environment, set for a while where it is not set.
class TemporaryVariable {
 public:
  TemporaryVariable(char const* name, char const* value)
      : name_(std::getenv(name) == nullptr ? name : nullptr) {
    if (name_ != nullptr) { ::setenv(name_, value, 1); }
  }
  ~TemporaryVariable() {
    if (name_ != nullptr) { ::unsetenv(name_); }
  }
  TemporaryVariable(TemporaryVariable const&) = delete;
  TemporaryVariable& operator=(TemporaryVariable const&) = delete;

 private:
  char const* name_;
};

std::map<std::string, std::string> parameters(ClientContext const& context, Credentials const& who,
                                              std::size_t threads) {
  S3Options const& options = context.options;
  S3Endpoint const& endpoint = context.endpoint;
  bool const is_virtual = endpoint.path_prefix.empty();
  std::string const host =
      is_virtual ? endpoint.host.substr(options.bucket.size() + 1) : endpoint.host;
  std::string const scheme = endpoint.is_https ? "https" : "http";
  std::map<std::string, std::string> all = {
      {"bucket", options.bucket},
      {"region", options.region},
      {"scheme", scheme},
      // Always said: NIXL would take it from a variable of its own otherwise.
      {"endpoint_override", scheme + "://" + host},
      {"use_virtual_addressing", is_virtual ? "true" : "false"},
      {"access_key", who.access_key_id},
      {"secret_key", who.secret_access_key},
      {"num_threads", std::to_string(threads)},
      // Checksums that S3 asks for only; those that can be added are in trailers, which not every
      // server understands. Blocks have their own.
      {"req_checksum", "required"},
      {"resp_checksum", "required"}};
  if (!who.session_token.empty()) { all["session_token"] = who.session_token; }
  if (!options.ca_file.empty()) { all["ca_bundle"] = options.ca_file; }
  return all;
}

std::string unique_name() {
  static std::atomic<std::uint64_t> count{0};
  return fmt::format("kvbm-objects-{}-{}", ::getpid(), ++count);
}

}  // namespace

std::size_t num_retired_agents() { return RetiredAgents::instance().sweep(); }

NixlObjectAgent::NixlObjectAgent(std::shared_ptr<nixl::NixlLibrary const> const& library,
                                 ClientContext const& context,
                                 std::shared_ptr<Credentials const> who, std::size_t threads)
    : who_(std::move(who)), agent_(std::make_unique<nixl::NixlAgent>(library, unique_name())) {
  // The SDK inside NIXL reads these when it starts. One attempt: an endpoint that is dead costs 25
  // s otherwise, one that is silent two minutes, and further attempts are libcurl's.
  static std::mutex environment;
  {
    std::lock_guard const lock(environment);
    TemporaryVariable const mode("AWS_RETRY_MODE", "standard");
    TemporaryVariable const attempts("AWS_MAX_ATTEMPTS", "1");
    agent_->create_backend(kBackend, parameters(context, *who_, threads));
  }
  RetiredAgents::instance().sweep();
}

NixlObjectAgent::~NixlObjectAgent() {
  idle_.clear();
  if (agent_->sweep() == 0) { return; }
  try {
    RetiredAgents::instance().add(std::move(agent_));
  } catch (std::exception const&) {
    log::write(log::Level::Warning,
               "an object store waits for requests of NIXL that were given up");
  }
}

std::unique_ptr<Staging> NixlObjectAgent::take_staging(std::uint64_t bytes) {
  agent_->sweep();
  {
    std::lock_guard const lock(mutex_);
    auto const found = std::find_if(idle_.begin(), idle_.end(), [bytes](auto const& each) {
      return each->capacity >= bytes && each->capacity / 2 <= bytes;
    });
    if (found != idle_.end()) {
      auto staging = std::move(*found);
      idle_.erase(found);
      return staging;
    }
  }
  auto staging = std::make_unique<Staging>();
  staging->bytes = std::make_unique_for_overwrite<std::byte[]>(bytes);
  staging->capacity = bytes;
  nixl::NixlRange const range{reinterpret_cast<std::uintptr_t>(staging->bytes.get()), bytes, 0};
  staging->registration = agent_->register_memory(nixl::Segment::Dram, {&range, 1}, {}, kBackend);
  return staging;
}

void NixlObjectAgent::give_back(std::unique_ptr<Staging> staging) noexcept {
  try {
    std::lock_guard const lock(mutex_);
    std::uint64_t bytes = staging->capacity;
    idle_.push_back(std::move(staging));
    for (auto each = idle_.rbegin() + 1; each != idle_.rend(); ++each) {
      bytes += (*each)->capacity;
    }
    // The oldest go first: sizes that nobody uses any more do not stay.
    while (bytes > kMostIdleBytes && !idle_.empty()) {
      bytes -= idle_.front()->capacity;
      idle_.erase(idle_.begin());
    }
  } catch (std::exception const&) {}  // no memory to keep it: it ends
}

nixl::NixlAgent::Registration NixlObjectAgent::register_key(std::string const& key,
                                                            std::uint64_t bytes,
                                                            std::uint64_t& number) {
  {
    std::lock_guard const lock(mutex_);
    number = next_number_++;
  }
  nixl::NixlRange const range{0, bytes, number};
  return agent_->register_memory(nixl::Segment::Object, {&range, 1}, key, kBackend);
}

}  // namespace kvbm::object
