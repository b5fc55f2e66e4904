// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/log.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace kvbm::log {
namespace {

class Log : public testing::Test {
 protected:
  void SetUp() override {
    set_sink([this](Level level, std::string_view message) {
      lines_.emplace_back(std::to_string(static_cast<int>(level)) + " " + std::string(message));
    });
  }
  void TearDown() override {
    set_sink({});
    set_level(Level::Warning);
  }
  std::vector<std::string> lines_;
};

TEST_F(Log, DeliversLinesAtOrAboveTheLevel) {
  set_level(Level::Info);
  write(Level::Debug, "debug");
  write(Level::Info, "info");
  write(Level::Error, "error");
  EXPECT_EQ(lines_, (std::vector<std::string>{"2 info", "4 error"}));
  EXPECT_FALSE(enabled(Level::Debug));
  EXPECT_TRUE(enabled(Level::Info));
}

TEST_F(Log, OffDeliversNothing) {
  set_level(Level::Off);
  write(Level::Error, "error");
  EXPECT_TRUE(lines_.empty());
  EXPECT_FALSE(enabled(Level::Off));
}

TEST_F(Log, SurvivesASinkThatThrows) {
  set_sink([](Level, std::string_view) { throw std::runtime_error("full"); });
  set_level(Level::Info);
  write(Level::Error, "error");
  set_sink([this](Level, std::string_view message) { lines_.emplace_back(message); });
  write(Level::Error, "again");
  EXPECT_EQ(lines_, (std::vector<std::string>{"again"}));
}

}  // namespace
}  // namespace kvbm::log
