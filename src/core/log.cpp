// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace kvbm::log {
namespace {

Level level_from_environment() {
  // getenv races only with setenv, which no part of kvbm calls.
  char const* const text = std::getenv("KVBM_LOG");
  std::string const name = text == nullptr ? "" : text;
  if (name == "trace") { return Level::Trace; }
  if (name == "debug") { return Level::Debug; }
  if (name == "info") { return Level::Info; }
  if (name == "error") { return Level::Error; }
  if (name == "off") { return Level::Off; }
  return Level::Warning;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::Trace: return spdlog::level::trace;
    case Level::Debug: return spdlog::level::debug;
    case Level::Info: return spdlog::level::info;
    case Level::Warning: return spdlog::level::warn;
    case Level::Error: return spdlog::level::err;
    case Level::Off: return spdlog::level::off;
  }
  return spdlog::level::off;
}

// The one piece of process-wide state: a log has to be reachable from everywhere.
class Router {
 public:
  Router() : logger_("kvbm", std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
    logger_.set_level(spdlog::level::trace);
    logger_.set_pattern("kvbm %l: %v");
  }

  [[nodiscard]] bool enabled(Level level) const {
    return level >= level_.load(std::memory_order_relaxed) && level != Level::Off;
  }
  void set_level(Level level) { level_.store(level, std::memory_order_relaxed); }

  void set_sink(Sink sink) {
    auto shared = sink ? std::make_shared<Sink const>(std::move(sink)) : nullptr;
    std::lock_guard const lock(mutex_);
    sink_ = std::move(shared);
  }

  void write(Level level, std::string_view message) {
    std::shared_ptr<Sink const> sink;
    {
      std::lock_guard const lock(mutex_);
      sink = sink_;
    }
    if (sink) {
      (*sink)(level, message);
    } else {
      logger_.log(to_spdlog(level), message);
    }
  }

 private:
  std::atomic<Level> level_{level_from_environment()};
  std::mutex mutex_;
  std::shared_ptr<Sink const> sink_;
  spdlog::logger logger_;
};

// Lives until the process ends, so that threads that outlive main can still log.
Router& router() {
  static auto* const instance = std::make_unique<Router>().release();
  return *instance;
}

}  // namespace

void set_sink(Sink sink) { router().set_sink(std::move(sink)); }

bool enabled(Level level) noexcept { return router().enabled(level); }

void set_level(Level level) noexcept { router().set_level(level); }

void write(Level level, std::string_view message) noexcept {
  try {
    if (router().enabled(level)) { router().write(level, message); }
  } catch (...) {  // a log line is never worth an exception
  }
}

}  // namespace kvbm::log
