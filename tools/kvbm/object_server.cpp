// SPDX-License-Identifier: Apache-2.0
#include "object_server.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <thread>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/object/environment.hpp"
#include "kvbm/object/object_store.hpp"
#include "process.hpp"

namespace kvbm::cli {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kPollEvery = std::chrono::milliseconds(20);

/// A socket of loopback that is closed with the object.
class Socket {
 public:
  Socket() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    KVBM_EXPECTS(fd_, Io, "socket: " + describe_errno(errno));
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }

  /// A port that nobody has at the moment.
  std::uint16_t free_port() {
    socklen_t length = sizeof address_;
    auto* const address = reinterpret_cast<sockaddr*>(&address_);
    KVBM_EXPECTS(
        ::bind(fd_.get(), address, length) == 0 && ::getsockname(fd_.get(), address, &length) == 0,
        Io, "bind: " + describe_errno(errno));
    return ntohs(address_.sin_port);
  }
  bool connects_to(std::uint16_t port) {
    address_.sin_port = htons(port);
    return ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address_), sizeof address_) == 0;
  }

 private:
  UniqueFd fd_;
  sockaddr_in address_{};
};

}  // namespace

std::string find_moto() {
  if (char const* const named = std::getenv("KVBM_MOTO_SERVER")) { return named; }
  for (auto folder = std::filesystem::current_path();; folder = folder.parent_path()) {
    auto const candidate = folder / "build/venv/bin/moto_server";
    if (::access(candidate.c_str(), X_OK) == 0) { return candidate.string(); }
    if (folder == folder.root_path()) { break; }
  }
  return find_program("moto_server");
}

Moto::Moto(std::string program) {
  if (program.empty()) { program = find_moto(); }
  KVBM_EXPECTS(!program.empty(), NotFound,
               "no --endpoint, and no moto_server to start: pip install -r "
               "python/requirements-object.txt, or name it with --moto");
  // Between finding a free port and its use somebody else may take it.
  constexpr int kAttempts = 3;
  for (int attempt = 1;; ++attempt) {
    start(program);
    bool const answers = wait_for_answer();
    if (answers) { return; }
    KVBM_EXPECTS(
        attempt < kAttempts, Io,
        fmt::format("{} ends at once: run `{} -p {}` to see why", program, program, port_));
  }
}

void Moto::start(std::string const& program) {
  port_ = Socket().free_port();
  endpoint_ = fmt::format("http://127.0.0.1:{}", port_);
  // setpriv: it must not outlive a benchmark that is killed.
  std::vector<std::string> words{"setpriv", "--pdeathsig", "KILL", program,
                                 "-H",      "127.0.0.1",   "-p",   std::to_string(port_)};
  if (!has_program("setpriv")) { words.erase(words.begin(), words.begin() + 3); }
  UniqueFd const nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  process_ = ChildProcess(std::move(words), {nothing.get(), nothing.get(), nothing.get()});
}

/// @return whether it answers; false: it ended
bool Moto::wait_for_answer() {
  auto const give_up = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < give_up) {
    if (Socket().connects_to(port_)) { return true; }
    if (!process_.is_running()) { return false; }
    std::this_thread::sleep_for(kPollEvery);
  }
  throw TimeoutError(
      fmt::format("moto_server does not answer at {} after {} s", endpoint_, kPatience.count()));
}

void ObjectServerFlags::add_to(CLI::App& app) {
  app.add_option("--endpoint", endpoint,
                 "http[s]://HOST[:PORT]; credentials as AWS's tools find them (default: starts "
                 "moto_server)");
  app.add_option("--bucket", bucket, "made where it is missing; objects stay in it")
      ->capture_default_str();
  app.add_option("--moto", moto, "moto_server (default: KVBM_MOTO_SERVER, build/venv, PATH)");
  app.add_flag("--unsigned", is_unsigned,
               "signatures leave bodies out over plain HTTP too, as awscrt does");
}

void remove_manifest(layout::PhysicalLayout const& layout) noexcept {
  try {
    auto const store =
        std::dynamic_pointer_cast<object::ObjectBlockStore>(layout.regions().front().store());
    if (store != nullptr) { store->client()->delete_object(store->scheme().manifest_key()); }
  } catch (std::exception const&) {  // a small object that is left harms nobody
  }
}

ObjectServer::ObjectServer(ObjectServerFlags const& flags)
    : endpoint_(flags.endpoint),
      bucket_(flags.bucket),
      is_unsigned_(flags.is_unsigned),
      name_(flags.endpoint) {
  if (endpoint_.empty()) {
    moto_ = std::make_unique<Moto>(flags.moto);
    endpoint_ = moto_->endpoint();
    name_ = "moto on loopback";
    ::setenv("AWS_ACCESS_KEY_ID", "bench", 1);
    ::setenv("AWS_SECRET_ACCESS_KEY", "bench", 1);
    ::unsetenv("AWS_SESSION_TOKEN");
  }
  object::S3Client(options(1)).create_bucket();
}

object::S3Options ObjectServer::options(std::size_t connections) const {
  auto options = object::options_from_environment(bucket_);
  options.endpoint = endpoint_;
  options.connections = connections;
  if (is_unsigned_) { options.payload_signing = object::PayloadSigning::Unsigned; }
  return options;
}

}  // namespace kvbm::cli
