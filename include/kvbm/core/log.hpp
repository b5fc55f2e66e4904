// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string_view>

/// Where kvbm's few log lines go. The default sink is spdlog on stderr, level from the
/// environment variable KVBM_LOG (trace, debug, info, warning, error, off; default warning).
namespace kvbm::log {

enum class Level { Trace, Debug, Info, Warning, Error, Off };

/// Receives every line at or above the level; called from any thread, must not throw.
using Sink = std::function<void(Level, std::string_view message)>;

/// Replaces the sink for the whole process; an empty function restores the default one.
/// Thread-safe. Lines under way on other threads may still reach the former sink.
void set_sink(Sink sink);

/// Whether a line of `level` would be delivered: ask before building an expensive message.
[[nodiscard]] bool enabled(Level level) noexcept;

/// Sets the lowest level that is delivered, overriding KVBM_LOG.
void set_level(Level level) noexcept;

/// Delivers one line. Never throws.
void write(Level level, std::string_view message) noexcept;

}  // namespace kvbm::log
