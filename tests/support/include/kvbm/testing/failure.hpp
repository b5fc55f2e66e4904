// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <optional>
#include <string>

#include "kvbm/core/error.hpp"

namespace kvbm::testing {

/// An error taken apart; `code` is empty where there was none.
struct Failure {
  std::optional<ErrorCode> code;
  int native_code = 0;
  std::string message;
  /// Whether the message contains `text`.
  [[nodiscard]] bool names(std::string const& text) const {
    return message.find(text) != std::string::npos;
  }
};

inline Failure failure_of(std::exception_ptr const& error) {
  if (error == nullptr) { return {}; }
  try {
    std::rethrow_exception(error);
  } catch (Error const& failure) { return {failure.code(), failure.native_code(), failure.what()}; }
}

/// How a call failed.
template <typename Call>
Failure failure_of_call(Call&& call) {
  try {
    static_cast<void>(call());
  } catch (...) { return failure_of(std::current_exception()); }
  return {};
}

}  // namespace kvbm::testing
