// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/child_process.hpp"
#include "kvbm/testing/object_server.hpp"
#include "unit/remote/exchange_places.hpp"

namespace kvbm::remote::test {

/// An etcd of our own on loopback, with its data in a temporary folder; killed at the end.
class EtcdServer {
 public:
  /// Empty: it can be used.
  static std::string why_missing() {
    if (!std::filesystem::exists(kProgram)) {
      return std::string(kProgram) + " is not there (Debian package etcd-server)";
    }
    try {
      EtcdExchangeOptions options;
      options.endpoints = {"http://127.0.0.1:1"};
      make_etcd_exchange(options);
    } catch (UnsupportedError const& error) { return error.what(); }
    return {};
  }

  /// One for all tests of the program.
  static EtcdServer& shared() {
    static EtcdServer server;
    return server;
  }

  EtcdServer() {
    // Between finding a free port and etcd's use of it somebody else may take it.
    constexpr int kAttempts = 3;
    for (int attempt = 1; !start(); ++attempt) {
      if (attempt == kAttempts) { throw std::runtime_error("etcd does not start"); }
    }
  }

  [[nodiscard]] std::string const& endpoint() const { return endpoint_; }

 private:
  static constexpr char const* kProgram = "/usr/bin/etcd";

  bool start() {
    std::string const port = std::to_string(testing::closed_port());
    endpoint_ = "http://127.0.0.1:" + port;
    std::string const folder = (folder_ / port).string();
    std::string const none = "http://127.0.0.1:0";  // no peers
    // setpriv: it must not outlive a test that is killed.
    std::string const command =
        "exec setpriv --pdeathsig KILL " + std::string(kProgram) + " --name test --data-dir " +
        folder + " --listen-client-urls " + endpoint_ + " --advertise-client-urls " + endpoint_ +
        " --listen-peer-urls " + none + " --initial-advertise-peer-urls " + none +
        " --initial-cluster test=" + none + " > " + folder + ".log 2>&1";
    process_ =
        std::make_unique<testing::Process>("/bin/sh", std::vector<std::string>{"-c", command});
    EtcdExchangeOptions options;
    options.endpoints = {endpoint_};
    auto const exchange = make_etcd_exchange(options);
    auto const give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < give_up && process_->is_running()) {
      try {
        exchange->list();
        return true;
      } catch (Error const&) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }
    }
    return false;
  }

  testing::TempFolder folder_;
  std::string endpoint_;
  std::unique_ptr<testing::Process> process_;
};

class EtcdPlace {
 public:
  static std::string why_skipped() { return EtcdServer::why_missing(); }
  std::shared_ptr<MetadataExchange> owner() { return make_etcd_exchange(options()); }
  [[nodiscard]] EtcdExchangeOptions options() const {
    EtcdExchangeOptions options;
    options.endpoints = {EtcdServer::shared().endpoint()};
    options.prefix = prefix_;
    options.request_timeout = std::chrono::seconds(60);
    return options;
  }
  [[nodiscard]] std::string const& prefix() const { return prefix_; }

 private:
  static std::string next_prefix() {
    static int number = 0;
    return "/test/" + std::to_string(++number) + "/";
  }
  std::string prefix_ = next_prefix();
};

}  // namespace kvbm::remote::test
