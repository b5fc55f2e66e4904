// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/exchange.hpp"
#include "remote/exchange_common.hpp"
#include "remote/exchange_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/inotify.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/core/unique_fd.hpp"

namespace kvbm::remote {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr std::string_view kPrefix = "worker-";
constexpr std::string_view kSuffix = ".meta";
constexpr std::string_view kTemporary = "new-";
constexpr std::string_view kLockName = "publish.lock";
constexpr milliseconds kLockTimeout{10'000};

/// Held while names change hands: between looking who has a name and taking it.
class FolderLock {
 public:
  explicit FolderLock(fs::path const& folder) {
    fs::path const path = folder / kLockName;
    constexpr mode_t kMode = 0600;
    file_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kMode));
    KVBM_EXPECTS(file_, Io, fmt::format("{}: open: {}", path.string(), describe_errno(errno)));
    Deadline const deadline(kLockTimeout);
    GrowingPause pause(milliseconds(1), milliseconds(50));
    while (flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
      KVBM_EXPECTS(errno == EWOULDBLOCK || errno == EINTR, Io,
                   fmt::format("{}: flock: {}", path.string(), describe_errno(errno)));
      if (deadline.passed()) {
        throw TimeoutError(fmt::format("{}: another process has held it for {} ms; is it stopped?",
                                       path.string(), kLockTimeout.count()));
      }
      std::this_thread::sleep_for(pause.next(deadline));
    }
  }

 private:
  UniqueFd file_;
};

/// Wakes up early when a file appears. Over a network nothing tells: then it is only a pause.
class FolderWatch {
 public:
  explicit FolderWatch(fs::path const& folder) : events_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    if (events_ && inotify_add_watch(events_.get(), folder.c_str(), IN_MOVED_TO) < 0) {
      events_.reset();
    }
  }

  void wait(milliseconds timeout) {
    if (!events_) {
      std::this_thread::sleep_for(timeout);
      return;
    }
    pollfd wanted{.fd = events_.get(), .events = POLLIN, .revents = 0};
    if (poll(&wanted, 1, static_cast<int>(timeout.count())) <= 0) { return; }
    alignas(inotify_event) std::array<char, 4096> drained;
    while (read(events_.get(), drained.data(), drained.size()) > 0) {}
  }

 private:
  UniqueFd events_;
};

class FolderExchange final : public MetadataExchange {
 public:
  explicit FolderExchange(fs::path folder)
      : folder_(std::move(folder)), owner_{this_process(), random_id()} {}

  ~FolderExchange() override {
    for (std::string const& name : std::set(std::move(names_))) {
      try {
        remove(name);
      } catch (std::exception const& error) {
        log::write(log::Level::Warning, fmt::format("'{}' stays published in {}: {}", name,
                                                    folder_.string(), error.what()));
      }
    }
  }
  FolderExchange(FolderExchange const&) = delete;
  FolderExchange& operator=(FolderExchange const&) = delete;

  void publish(std::string const& name, std::span<std::byte const> metadata) override {
    check_exchange_name(name);
    check_metadata_bytes(name, metadata.size());
    FolderLock const lock(folder_);
    check_owner(name);
    remove_leftovers();
    fs::path const temporary = folder_ / temporary_name();
    try {
      ExchangeFile::write(temporary, owner_, metadata);
      std::error_code error;
      fs::rename(temporary, path_of(name), error);
      KVBM_EXPECTS(!error, Io,
                   fmt::format("{}: rename to {}: {}", temporary.string(), path_of(name).string(),
                               error.message()));
    } catch (...) {
      ::unlink(temporary.c_str());
      throw;
    }
    std::lock_guard const names_lock(mutex_);
    names_.insert(name);
  }

  void withdraw(std::string const& name) override {
    check_exchange_name(name);
    {
      std::lock_guard const lock(mutex_);
      if (!names_.contains(name)) { return; }
    }
    remove(name);
  }

  std::vector<std::byte> fetch(std::string const& name, milliseconds timeout) override {
    check_exchange_name(name);
    Deadline const deadline(timeout);
    FolderWatch watch(folder_);
    GrowingPause pause(milliseconds(10), milliseconds(500));
    while (true) {
      bool const is_last_look = deadline.passed();
      auto result = ExchangeFile::read(path_of(name));
      auto* const found = std::get_if<ExchangeFile::Found>(&result);
      if (found != nullptr && !is_certainly_gone(found->owner.process, owner_.process)) {
        return std::move(found->metadata);
      }
      if (is_last_look) { give_up(name, timeout, result); }
      watch.wait(pause.next(deadline));
    }
  }

  std::vector<std::string> list() override {
    std::vector<std::string> names;
    for (std::string const& file : files()) {
      if (file.size() <= kPrefix.size() + kSuffix.size() || !file.starts_with(kPrefix) ||
          !file.ends_with(kSuffix)) {
        continue;
      }
      std::string name = file.substr(kPrefix.size(), file.size() - kPrefix.size() - kSuffix.size());
      if (!is_exchange_name(name)) { continue; }
      auto const result = ExchangeFile::read_owner(folder_ / file);
      auto const* const found = std::get_if<ExchangeFile::Found>(&result);
      if (found != nullptr && !is_certainly_gone(found->owner.process, owner_.process)) {
        names.push_back(std::move(name));
      }
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  [[nodiscard]] fs::path path_of(std::string const& name) const {
    return folder_ / (std::string(kPrefix) + name + std::string(kSuffix));
  }

  /// Says which boot it belongs to: only leftovers of this machine may be removed.
  [[nodiscard]] std::string temporary_prefix() const {
    return fmt::format("{}{}-", kTemporary, owner_.process.boot_id);
  }
  [[nodiscard]] std::string temporary_name() const {
    return fmt::format("{}{:016x}", temporary_prefix(), random_id());
  }

  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator at(folder_, error), end; !error && at != end; at.increment(error)) {
      names.push_back(at->path().filename().string());
    }
    KVBM_EXPECTS(!error, Io, fmt::format("{}: list: {}", folder_.string(), error.message()));
    return names;
  }

  /// With the lock held nobody of this machine is writing, so what is half written was left behind.
  void remove_leftovers() const {
    for (std::string const& file : files()) {
      if (file.starts_with(temporary_prefix())) { ::unlink((folder_ / file).c_str()); }
    }
  }

  /// @throws Error(AlreadyExists) when a live owner has the name, or one that cannot be seen
  void check_owner(std::string const& name) const {
    fs::path const path = path_of(name);
    auto const result = ExchangeFile::read_owner(path);
    if (auto const* const other = std::get_if<ExchangeFile::OtherVersion>(&result)) {
      throw_name_taken(name, fmt::format("a worker that writes version {} of {}", other->version,
                                         path.string()));
    }
    if (auto const* const damaged = std::get_if<ExchangeFile::Damaged>(&result)) {
      log::write(log::Level::Warning,
                 fmt::format("{} is replaced: {}", path.string(), damaged->why));
    }
    auto const* const found = std::get_if<ExchangeFile::Found>(&result);
    if (found == nullptr || found->owner.exchange_id == owner_.exchange_id ||
        is_certainly_gone(found->owner.process, owner_.process)) {
      return;
    }
    ProcessIdentity const& other = found->owner.process;
    bool const is_seen = other.boot_id == owner_.process.boot_id &&
                         other.pid_namespace == owner_.process.pid_namespace;
    throw_name_taken(
        name, fmt::format("process {} of host '{}'{}", other.pid, other.host,
                          is_seen ? ""
                                  : fmt::format(", which cannot be seen from here (if it is gone, "
                                                "remove {})",
                                                path.string())));
  }

  void remove(std::string const& name) {
    FolderLock const lock(folder_);
    auto const result = ExchangeFile::read_owner(path_of(name));
    auto const* const found = std::get_if<ExchangeFile::Found>(&result);
    if (found != nullptr && found->owner.exchange_id == owner_.exchange_id) {
      KVBM_EXPECTS(::unlink(path_of(name).c_str()) == 0 || errno == ENOENT, Io,
                   fmt::format("{}: unlink: {}", path_of(name).string(), describe_errno(errno)));
    }
    std::lock_guard const names_lock(mutex_);
    names_.erase(name);
  }

  [[noreturn]] void give_up(std::string const& name, milliseconds timeout,
                            ExchangeFile::Result const& last) const {
    std::string const path = path_of(name).string();
    if (auto const* const damaged = std::get_if<ExchangeFile::Damaged>(&last)) {
      throw CorruptError(fmt::format("{}: {}", path, damaged->why));
    }
    if (auto const* const other = std::get_if<ExchangeFile::OtherVersion>(&last)) {
      throw_error(ErrorCode::VersionMismatch,
                  fmt::format("{}: written in version {}, which this one does not read", path,
                              other->version));
    }
    throw_not_published(name, timeout, folder_.string(),
                        std::holds_alternative<ExchangeFile::Found>(last)
                            ? "what is there was left by a process that is gone"
                            : "");
  }

  fs::path const folder_;
  FileOwner const owner_;
  std::mutex mutex_;
  std::set<std::string> names_;  // guarded by mutex_: what this exchange published
};

}  // namespace

std::shared_ptr<MetadataExchange> make_folder_exchange(std::filesystem::path const& folder) {
  KVBM_EXPECTS(!folder.empty(), InvalidArgument, "folder is empty: name the folder to publish in");
  std::error_code error;
  if (!fs::exists(folder, error)) {
    // Whoever may write here can pretend to be any worker, so a new folder is for this user only.
    fs::create_directories(folder, error);
    if (!error) { fs::permissions(folder, fs::perms::owner_all, error); }
    KVBM_EXPECTS(!error, Io, fmt::format("{}: create: {}", folder.string(), error.message()));
  }
  KVBM_EXPECTS(fs::is_directory(folder, error), InvalidArgument,
               fmt::format("{} is not a folder", folder.string()));
  // The working folder may change later.
  return std::make_shared<FolderExchange>(fs::canonical(folder));
}

}  // namespace kvbm::remote
