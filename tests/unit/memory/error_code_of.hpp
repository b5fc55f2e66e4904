// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <optional>
#include <string>

#include "kvbm/core/error.hpp"

namespace kvbm::memory::test {

/// A failure taken apart; `code` is empty where there was none.
struct Failure {
  std::optional<ErrorCode> code;
  int native_code = 0;
  std::string message;
};

inline Failure failure_of(std::exception_ptr const& error) {
  if (error == nullptr) { return {}; }
  try {
    std::rethrow_exception(error);
  } catch (Error const& failure) { return {failure.code(), failure.native_code(), failure.what()}; }
}

template <typename Call>
Failure failure_of_call(Call&& call) {
  try {
    static_cast<void>(call());
  } catch (...) { return failure_of(std::current_exception()); }
  return {};
}

}  // namespace kvbm::memory::test
