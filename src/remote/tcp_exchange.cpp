// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/exchange.hpp"
#include "remote/exchange_common.hpp"
#include "remote/tcp_peers.hpp"
#include "remote/tcp_server.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::remote {
namespace {

using std::chrono::milliseconds;
using Next = PeerCalls::Next;

constexpr std::size_t kMinTokenBytes = 16;
constexpr std::size_t kMaxConnections = 10'000;

Frame question(Frame::Type type, std::string_view name = {}) {
  auto const bytes = std::as_bytes(std::span(name.data(), name.size()));
  return {type, {bytes.begin(), bytes.end()}};
}

void check(TcpExchangeOptions const& options) {
  // The token itself is in no message.
  KVBM_EXPECTS(options.token.size() >= kMinTokenBytes, InvalidArgument,
               fmt::format("token has {} bytes; at least {} are needed", options.token.size(),
                           kMinTokenBytes));
  KVBM_EXPECTS(
      options.max_connections >= 1 && options.max_connections <= kMaxConnections, InvalidArgument,
      fmt::format("max_connections is {}; give 1 to {}", options.max_connections, kMaxConnections));
  KVBM_EXPECTS(
      options.io_timeout >= milliseconds(1) && options.io_timeout <= std::chrono::hours(1),
      InvalidArgument,
      fmt::format("io_timeout is {} ms; give 1 ms to one hour", options.io_timeout.count()));
  KVBM_EXPECTS(options.port == 0 || !options.bind_address.empty(), InvalidArgument,
               fmt::format("port is {} without a bind_address", options.port));
  for (auto const& peer : options.peers) {
    split_peer(peer);
  }
}

class OverTcp final : public TcpExchange {
 public:
  explicit OverTcp(TcpExchangeOptions const& options)
      : token_(options.token),
        owner_id_(random_id()),
        io_timeout_(options.io_timeout),
        calls_(token_, resolver_, options.io_timeout) {
    for (auto const& peer : options.peers) {
      add_peer(peer);
    }
    if (options.bind_address.empty()) { return; }
    server_.emplace(TcpServer::Options{options.bind_address, options.port, options.max_connections,
                                       options.io_timeout, owner_id_},
                    token_, shelf_);
  }

  [[nodiscard]] std::string address() const override { return server_ ? server_->address() : ""; }

  void add_peer(std::string const& peer) override {
    split_peer(peer);
    std::lock_guard const lock(mutex_);
    if (std::find(peers_.begin(), peers_.end(), peer) == peers_.end()) { peers_.push_back(peer); }
  }

  void publish(std::string const& name, std::span<std::byte const> metadata) override {
    check_exchange_name(name);
    check_metadata_bytes(name, metadata.size());
    KVBM_EXPECTS(server_.has_value(), InvalidArgument,
                 fmt::format("'{}' cannot be published: this exchange has no bind_address to serve "
                             "it on",
                             name));
    auto blob = std::make_shared<std::vector<std::byte> const>(metadata.begin(), metadata.end());
    std::lock_guard const lock(publishing_);
    if (shelf_.find(name).state != NameState::Published) {
      shelf_.claim(name);
      try {
        win(name);
      } catch (...) {
        shelf_.remove(name);
        throw;
      }
    }
    shelf_.publish(name, std::move(blob));
  }

  void withdraw(std::string const& name) override {
    check_exchange_name(name);
    std::lock_guard const lock(publishing_);
    shelf_.remove(name);
  }

  std::vector<std::byte> fetch(std::string const& name, milliseconds timeout) override {
    check_exchange_name(name);
    bool const is_one_look = timeout <= milliseconds::zero();
    Deadline const deadline(is_one_look ? io_timeout_ : timeout);
    while (true) {
      auto const own = shelf_.find(name);
      if (own.state == NameState::Published) { return *own.metadata; }
      std::vector<std::byte> metadata;
      std::string why;
      // Looks at its own shelf again in between, where another thread may publish.
      Deadline const until = is_one_look ? deadline : deadline.within(kLookAtOwnShelf);
      if (ask_for(name, until, is_one_look, metadata, why)) { return metadata; }
      if (is_one_look || deadline.passed()) {
        throw_not_published(name, timeout, "this exchange or its peers", why);
      }
    }
  }

  std::vector<std::string> list() override {
    auto const own = shelf_.published();
    std::set<std::string> names(own.begin(), own.end());
    calls_.run(peers(), question(Frame::Type::List), Deadline(io_timeout_),
               {[&](Frame const& frame) {
                  add_names(frame, names);
                  return Next::Finished;
                },
                [](std::string const&) { return Next::Finished; }});
    return {names.begin(), names.end()};
  }

 private:
  struct Rival {
    std::string what;
    bool is_claim = false;
    bool goes_first = false;
  };

  static constexpr milliseconds kLookAtOwnShelf{1000};

  std::vector<std::string> peers() {
    std::lock_guard const lock(mutex_);
    return peers_;
  }

  /// Whether a peer had it before the deadline.
  bool ask_for(std::string const& name, Deadline const& deadline, bool is_one_look,
               std::vector<std::byte>& metadata, std::string& why) {
    auto const peers = this->peers();
    if (peers.empty() && !is_one_look) {
      std::this_thread::sleep_for(std::min(deadline.left(), milliseconds(20)));
      return false;
    }
    bool is_found = false;
    auto const again = is_one_look ? Next::Finished : Next::AskAgain;
    calls_.run(peers, question(Frame::Type::Fetch, name), deadline,
               {[&](Frame frame) {
                  if (frame.type != Frame::Type::Found) { return again; }
                  metadata = std::move(frame.payload);
                  is_found = true;
                  return Next::Stop;
                },
                [&](std::string const& failure) {
                  why = failure;
                  return again;
                }});
    return is_found;
  }

  static void add_names(Frame const& frame, std::set<std::string>& names) {
    if (frame.type != Frame::Type::Names) { return; }
    std::string_view text(reinterpret_cast<char const*>(frame.payload.data()),
                          frame.payload.size());
    while (!text.empty()) {
      auto const name = text.substr(0, text.find('\n'));
      if (is_exchange_name(name)) { names.emplace(name); }
      text.remove_prefix(std::min(text.size(), name.size() + 1));
    }
  }

  /// Whoever else has the claimed name or is about to.
  std::optional<Rival> find_rival(std::string const& name) {
    std::optional<Rival> rival;
    calls_.run(peers(), question(Frame::Type::Look, name), Deadline(io_timeout_),
               {[&](Frame const& frame) {
                  auto found = rival_of(frame);
                  // One who has it, or goes first, decides; a mere claim may go away.
                  bool const is_decided = found && (!found->is_claim || found->goes_first);
                  if (found && (is_decided || !rival)) { rival = std::move(found); }
                  return is_decided ? Next::Stop : Next::Finished;
                },
                // Who cannot be reached has no say; its name is free.
                [](std::string const&) { return Next::Finished; }});
    return rival;
  }

  [[nodiscard]] std::optional<Rival> rival_of(Frame const& frame) const {
    std::uint64_t id = 0;
    if (frame.type != Frame::Type::State || frame.payload.size() != 1 + sizeof id) {
      return std::nullopt;
    }
    std::memcpy(&id, frame.payload.data() + 1, sizeof id);
    auto const state = static_cast<NameState>(frame.payload[0]);
    if (id == owner_id_ || state == NameState::Absent) { return std::nullopt; }
    if (state == NameState::Claimed) {
      return Rival{"another worker that publishes it just now", true, id < owner_id_};
    }
    return Rival{"another live worker among the peers", false, false};
  }

  /// Every worker puts its claim down before it looks around, so of two at least one sees the
  /// other; the one with the higher id steps back, and the other waits to see what became of it.
  void win(std::string const& name) {
    Deadline const deadline(2 * io_timeout_);
    GrowingPause pause(milliseconds(2), milliseconds(50));
    while (auto const rival = find_rival(name)) {
      if (!rival->is_claim || rival->goes_first) { throw_name_taken(name, rival->what); }
      if (deadline.passed()) {
        throw TimeoutError(
            fmt::format("'{}' cannot be published: another worker has been about to for {} ms",
                        name, 2 * io_timeout_.count()));
      }
      std::this_thread::sleep_for(pause.next(deadline));
    }
  }

  SecretKey const token_;
  std::uint64_t const owner_id_;
  milliseconds const io_timeout_;
  Shelf shelf_;
  PeerResolver resolver_;
  PeerCalls const calls_;
  std::mutex publishing_;  // before mutex_; serialises claims
  std::mutex mutex_;
  std::vector<std::string> peers_;  // guarded by mutex_
  std::optional<TcpServer> server_;
};

}  // namespace

std::shared_ptr<TcpExchange> make_tcp_exchange(TcpExchangeOptions options) {
  struct Wiper {
    explicit Wiper(std::string& text) : secret(text) {}
    ~Wiper() { wipe(secret); }
    Wiper(Wiper const&) = delete;
    Wiper& operator=(Wiper const&) = delete;
    std::string& secret;
  };
  Wiper const wiper(options.token);
  check_has_crypto();
  check(options);
  return std::make_shared<OverTcp>(options);
}

}  // namespace kvbm::remote
