// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/exchange.hpp"
#include "remote/etcd_client.hpp"
#include "remote/etcd_store.hpp"
#include "remote/exchange_common.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::remote {
namespace {

using std::chrono::milliseconds;

void check(EtcdExchangeOptions& options) {
  constexpr std::size_t kMaxPrefixBytes = 512;
  bool const is_printable = std::all_of(options.prefix.begin(), options.prefix.end(),
                                        [](char c) { return c > ' ' && c <= '~'; });
  KVBM_EXPECTS(!options.prefix.empty() && options.prefix.size() <= kMaxPrefixBytes && is_printable,
               InvalidArgument,
               fmt::format("prefix has {} characters; give 1 to {} printable ones without spaces",
                           options.prefix.size(), kMaxPrefixBytes));
  if (options.prefix.back() != '/') { options.prefix += '/'; }
  KVBM_EXPECTS(
      options.lease_ttl >= std::chrono::seconds(1) && options.lease_ttl <= std::chrono::hours(24),
      InvalidArgument,
      fmt::format("lease_ttl is {} s; give 1 s to one day", options.lease_ttl.count()));
  KVBM_EXPECTS(options.request_timeout >= milliseconds(1) &&
                   options.request_timeout <= std::chrono::hours(1),
               InvalidArgument,
               fmt::format("request_timeout is {} ms; give 1 ms to one hour",
                           options.request_timeout.count()));
}

std::string describe_this_process() {
  std::array<char, 256> host{};
  static_cast<void>(gethostname(host.data(), host.size() - 1));
  return fmt::format("process {} of host '{}'", getpid(), host.data());
}

/// Whether the same call may work later.
bool is_worth_another_try(ErrorCode code) {
  return code == ErrorCode::Io || code == ErrorCode::Timeout || code == ErrorCode::Corrupt;
}

class EtcdExchange final : public MetadataExchange {
 public:
  explicit EtcdExchange(EtcdExchangeOptions const& options)
      : options_(options),
        client_(options),
        store_(client_, options.prefix),
        owner_id_(random_id()),
        owner_(describe_this_process()) {}

  ~EtcdExchange() override {
    {
      std::lock_guard const lock(mutex_);
      is_stopping_ = true;
    }
    changed_.notify_all();
    if (keeper_.joinable()) { keeper_.join(); }
    if (!lease_) { return; }
    try {
      // Everything hangs on it; if this fails it runs out by itself.
      client_.revoke(lease_->id, std::min(options_.request_timeout, kPatienceAtEnd));
    } catch (std::exception const& error) {
      log::write(log::Level::Info, fmt::format("the lease is not revoked: {}", error.what()));
    }
  }
  EtcdExchange(EtcdExchange const&) = delete;
  EtcdExchange& operator=(EtcdExchange const&) = delete;

  void publish(std::string const& name, std::span<std::byte const> metadata) override {
    check_exchange_name(name);
    check_metadata_bytes(name, metadata.size());
    auto const blob =
        std::make_shared<std::vector<std::byte> const>(metadata.begin(), metadata.end());
    std::lock_guard const lock(publishing_);
    Deadline const deadline(options_.name_timeout);
    auto const former = published_.find(name);
    bool const is_replaced = former != published_.end();
    std::uint64_t const former_upload = is_replaced ? former->second.upload : 0;
    published_.insert_or_assign(name, put(name, blob, deadline));
    if (is_replaced) { forget_upload(name, former_upload); }
  }

  void withdraw(std::string const& name) override {
    check_exchange_name(name);
    std::lock_guard const lock(publishing_);
    auto const found = published_.find(name);
    if (found == published_.end()) { return; }
    if (!store_.remove(name, found->second.revision)) {
      // Lost with the lease, or put in a request whose answer did not arrive.
      auto const there = store_.find(name);
      if (there && there->owner_id == owner_id_) { store_.remove(name, there->revision); }
    }
    published_.erase(found);
  }

  std::vector<std::byte> fetch(std::string const& name, milliseconds timeout) override {
    check_exchange_name(name);
    Deadline const deadline(timeout);
    GrowingPause pause(milliseconds(10), milliseconds(500));
    while (true) {
      std::string why;
      try {
        if (auto metadata = store_.download(name)) { return *std::move(metadata); }
      } catch (Error const& error) {
        bool const is_last = timeout <= milliseconds::zero() || deadline.passed();
        if (!is_worth_another_try(error.code())) { throw; }
        if (is_last && (timeout <= milliseconds::zero() || error.code() == ErrorCode::Corrupt)) {
          throw;
        }
        why = error.what();
      }
      if (deadline.passed()) {
        throw_not_published(name, timeout, fmt::format("etcd below {}", options_.prefix), why);
      }
      std::this_thread::sleep_for(pause.next(deadline));
    }
  }

  std::vector<std::string> list() override { return store_.names(); }

 private:
  using Blob = std::shared_ptr<std::vector<std::byte> const>;
  struct Publication {
    Blob metadata;
    std::uint64_t upload = 0;
    std::int64_t revision = 0;
    std::int64_t lease = 0;
  };

  static constexpr milliseconds kPatienceAtEnd{2000};

  /// With publishing_ held. Takes the name for a new upload; waits until the deadline for a name
  /// that somebody else has.
  Publication put(std::string const& name, Blob const& metadata, Deadline const& deadline) {
    for (int attempt = 0;; ++attempt) {
      std::int64_t const lease = current_lease();
      try {
        return put_under(lease, name, metadata, deadline);
      } catch (Error const& error) {
        // The lease ran out while etcd could not be reached.
        if (error.code() != ErrorCode::NotFound || attempt > 0) { throw; }
        drop_lease(lease);
      }
    }
  }

  Publication put_under(std::int64_t lease, std::string const& name, Blob const& metadata,
                        Deadline const& deadline) {
    std::function<void()> stay_alive;
    if (std::this_thread::get_id() == keeper_.get_id()) {
      // The keeper itself is busy here, and nobody else keeps its lease alive.
      stay_alive = [&] { client_.keep_alive(lease, options_.request_timeout); };
    }
    auto head = store_.upload(name, *metadata, lease, stay_alive);
    head.owner_id = owner_id_;
    head.owner = owner_;
    try {
      auto const own = published_.find(name);
      std::int64_t revision = own == published_.end() ? 0 : own->second.revision;
      GrowingPause pause(milliseconds(20), milliseconds(500));
      while (true) {
        auto const result = store_.take(name, head, lease, revision);
        if (result.is_taken) { return {metadata, head.upload, result.revision, lease}; }
        if (!result.there) {
          revision = 0;
        } else if (result.there->owner_id == owner_id_) {
          revision = result.there->revision;
        } else {
          if (deadline.passed()) { throw_name_taken(name, result.there->owner); }
          revision = 0;
          std::this_thread::sleep_for(pause.next(deadline));
        }
      }
    } catch (Error const&) {
      forget_upload(name, head.upload);
      throw;
    }
  }

  /// Chunks that are left behind go with the lease.
  void forget_upload(std::string const& name, std::uint64_t upload) noexcept {
    try {
      store_.remove_upload(name, upload);
    } catch (std::exception const& error) {
      log::write(
          log::Level::Info,
          fmt::format("chunks of '{}' stay in etcd until the lease ends: {}", name, error.what()));
    }
  }

  /// With publishing_ held: the lease, granted at its first use.
  std::int64_t current_lease() {
    {
      std::lock_guard const lock(mutex_);
      if (lease_) { return lease_->id; }
    }
    auto const lease = client_.grant(options_.lease_ttl);
    {
      std::lock_guard const lock(mutex_);
      lease_ = lease;
    }
    changed_.notify_all();
    if (!keeper_.joinable()) {
      keeper_ = std::thread([this] { keep_alive(); });
    }
    return lease.id;
  }

  void drop_lease(std::int64_t id) {
    std::lock_guard const lock(mutex_);
    if (lease_ && lease_->id == id) { lease_.reset(); }
    has_strays_ = true;
  }

  void keep_alive() noexcept {
    pthread_setname_np(pthread_self(), "kvbm-etcd");
    std::string complaint;
    std::unique_lock lock(mutex_);
    while (true) {
      auto const ttl = lease_ ? lease_->ttl : options_.lease_ttl;
      auto const pause = milliseconds(ttl) / 3;
      changed_.wait_for(lock, pause, [this] { return is_stopping_; });
      if (is_stopping_) { return; }
      auto const lease = lease_;
      bool has_strays = has_strays_;
      lock.unlock();
      std::string now;
      try {
        if (lease && !client_.keep_alive(lease->id, std::min(options_.request_timeout, pause))) {
          drop_lease(lease->id);
          has_strays = true;
        }
        if (has_strays) { put_strays_back(); }
      } catch (std::exception const& error) { now = error.what(); }
      // Once for each outage.
      if (!now.empty() && complaint.empty()) {
        log::write(log::Level::Warning,
                   fmt::format("what is published in etcd may disappear: {}", now));
      }
      complaint = std::move(now);
      lock.lock();
    }
  }

  /// Publishes again what hung on a lease that ran out.
  void put_strays_back() {
    // A publish() that waits for a name must not keep this thread from the lease.
    std::unique_lock const publishing_lock(publishing_, std::try_to_lock);
    if (!publishing_lock.owns_lock()) { return; }
    for (auto at = published_.begin(); at != published_.end();) {
      {
        std::lock_guard const lock(mutex_);
        if (is_stopping_) { return; }
      }
      auto const lease = current_lease();
      try {
        if (at->second.lease != lease) {
          at->second = put(at->first, at->second.metadata, Deadline(milliseconds::zero()));
        }
        ++at;
      } catch (Error const& error) {
        if (error.code() != ErrorCode::AlreadyExists) { throw; }
        log::write(log::Level::Error,
                   fmt::format("'{}' was lost in etcd and cannot be put back: {}", at->first,
                               error.what()));
        at = published_.erase(at);
      }
    }
    std::lock_guard const lock(mutex_);
    has_strays_ = false;
  }

  EtcdExchangeOptions const options_;
  EtcdClient client_;
  EtcdStore store_;
  std::uint64_t const owner_id_;
  std::string const owner_;
  std::mutex publishing_;                         // before mutex_
  std::map<std::string, Publication> published_;  // guarded by publishing_, as is keeper_
  std::thread keeper_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<EtcdClient::Lease> lease_;  // guarded by mutex_, as are the next ones
  bool has_strays_ = false;                 // something hangs on a lease that ran out
  bool is_stopping_ = false;
};

}  // namespace

std::shared_ptr<MetadataExchange> make_etcd_exchange(EtcdExchangeOptions options) {
  check(options);
  return std::make_shared<EtcdExchange>(options);
}

}  // namespace kvbm::remote
