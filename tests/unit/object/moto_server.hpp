// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <poll.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "kvbm/testing/child_process.hpp"
#include "kvbm/testing/object_server.hpp"
#include "kvbm/testing/temp_folder.hpp"
#include "object/http_get.hpp"

namespace kvbm::object::test {

/// moto's S3 (and IAM) as a process of our own on loopback; killed at the end.
class MotoServer {
 public:
  /// KVBM_MOTO_SERVER, or that of build/venv, looked for from here upwards; empty: there is none.
  static std::string program() {
    if (char const* const named = std::getenv("KVBM_MOTO_SERVER")) { return named; }
    for (auto folder = std::filesystem::current_path();; folder = folder.parent_path()) {
      for (char const* const below : {"build/venv", "venv"}) {
        auto const candidate = folder / below / "bin" / "moto_server";
        if (std::filesystem::exists(candidate)) { return candidate; }
      }
      if (folder == folder.root_path()) { return {}; }
    }
  }
  /// Why the tests cannot run; empty: they can.
  static std::string why_missing() {
    std::string const path = program();
    if (!path.empty() && std::filesystem::exists(path)) { return {}; }
    return "moto_server is not there: pip install -r python/requirements-object.txt in build/venv, "
           "or name it in KVBM_MOTO_SERVER";
  }
  static bool is_required() { return std::getenv("KVBM_REQUIRE_MOTO") != nullptr; }

  MotoServer() {
    // Between finding a free port and its use somebody else may take it.
    constexpr int kAttempts = 3;
    for (int attempt = 1; !start(); ++attempt) {
      if (attempt == kAttempts) { throw std::runtime_error("moto_server does not start"); }
    }
  }

  [[nodiscard]] std::string const& endpoint() const { return endpoint_; }

  /// Runs a Python program with boto3; {} in it is the endpoint. @return what it printed
  [[nodiscard]] std::string python(std::string code) const {
    for (auto at = code.find("{}"); at != std::string::npos; at = code.find("{}")) {
      code.replace(at, 2, endpoint_);
    }
    auto const interpreter = std::filesystem::path(program()).parent_path() / "python";
    std::string const command = "AWS_ACCESS_KEY_ID=setup AWS_SECRET_ACCESS_KEY=setup " +
                                interpreter.string() + " -c '" + code + "' 2>&1";
    struct Close {
      void operator()(std::FILE* file) const { pclose(file); }
    };
    std::unique_ptr<std::FILE, Close> const pipe(popen(command.c_str(), "r"));
    std::string output;
    std::array<char, 256> buffer{};
    while (std::fgets(buffer.data(), buffer.size(), pipe.get()) != nullptr) {
      output += buffer.data();
    }
    return output;
  }

 private:
  bool start() {
    std::string const port = std::to_string(testing::closed_port());
    endpoint_ = "http://127.0.0.1:" + port;
    // setpriv: it must not outlive a test that is killed.
    std::string const command = "exec setpriv --pdeathsig KILL " + program() + " -H 127.0.0.1 -p " +
                                port + " > " + (folder_ / port).string() + ".log 2>&1";
    process_ =
        std::make_unique<testing::Process>("/bin/sh", std::vector<std::string>{"-c", command});
    auto const give_up = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (std::chrono::steady_clock::now() < give_up && process_->is_running()) {
      auto const answer =
          http_ask("GET", endpoint_ + "/moto-api/data.json", {}, std::chrono::milliseconds(5000));
      if (answer.status == 200) { return true; }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }

  testing::TempFolder folder_;
  std::string endpoint_;
  std::unique_ptr<testing::Process> process_;
};

}  // namespace kvbm::object::test
