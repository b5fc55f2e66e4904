// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/cost_store.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "error_code_of.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::transfer {
namespace {

class CostStore : public testing::Test {
 protected:
  CostStore() {
    std::string name = (std::filesystem::temp_directory_path() / "kvbm-costs-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    ::setenv("XDG_CACHE_HOME", folder_.c_str(), 1);
    device_.uuid = "GPU-8c1a/../x";
    device_.driver_version = 13000;
    log::set_sink([this](log::Level, std::string_view line) { warnings_.emplace_back(line); });
  }
  void TearDown() override {
    log::set_sink({});
    ::unsetenv("XDG_CACHE_HOME");
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  [[nodiscard]] std::string stored() const {
    std::ifstream file(cost_model_path(device_));
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void store(std::string const& text) const {
    std::ofstream(cost_model_path(device_), std::ios::trunc) << text;
  }
  /// Stores the saved text with the first `from` replaced.
  void replace(std::string const& from, std::string const& to) {
    save_cost_model(device_, CostModel{});
    auto text = stored();
    auto const at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    store(text.replace(at, from.size(), to));
  }
  void expect_ignored() {
    warnings_.clear();
    EXPECT_FALSE(load_cost_model(device_).has_value());
    ASSERT_EQ(warnings_.size(), 1U);
    EXPECT_NE(warnings_[0].find(cost_model_path(device_).string()), std::string::npos);
  }

  std::filesystem::path folder_;
  device::DeviceProperties device_;
  std::vector<std::string> warnings_;
};

TEST_F(CostStore, GivesBackWhatWasSaved) {
  CostModel costs;
  costs.host_copy_rate = 3e9;
  costs.disk_latency = 1e-3;
  costs.gpu.d2h.gather = {7e-6, {{256, 1e9}, {4096, 2e9}}};
  auto const path = save_cost_model(device_, costs);
  EXPECT_EQ(path, cost_model_path(device_));
  auto const loaded = load_cost_model(device_);
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->gpu, costs.gpu);
  EXPECT_EQ(loaded->host_copy_rate, 3e9);
  EXPECT_EQ(loaded->disk_latency, 1e-3);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(CostStore, SavingAgainReplacesAndLeavesNothingElse) {
  CostModel costs;
  save_cost_model(device_, costs);
  costs.host_copy_rate = 5e9;
  save_cost_model(device_, costs);
  EXPECT_EQ(load_cost_model(device_)->host_copy_rate, 5e9);
  auto const files = std::filesystem::directory_iterator(folder_ / "kvbm");
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST_F(CostStore, KeepsDevicesAndDriversApart) {
  save_cost_model(device_, CostModel{});
  auto other = device_;
  other.driver_version = 13010;
  EXPECT_FALSE(load_cost_model(other).has_value());
  other = device_;
  other.uuid = "GPU-other";
  EXPECT_FALSE(load_cost_model(other).has_value());
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(CostStore, PathStaysInTheFolderWhateverTheUuid) {
  EXPECT_EQ(cost_model_path(device_).parent_path(), folder_ / "kvbm");
}

TEST_F(CostStore, IgnoresWhatItCannotTrustAndNamesTheFile) {
  std::filesystem::create_directories(folder_ / "kvbm");
  for (char const* const text : {"", "not json", "[]", "{}", "{\"version\": 1}"}) {
    store(text);
    expect_ignored();
  }
  store(std::string(100'000, '['));
  expect_ignored();
  replace("\"version\": 1", "\"version\": 2");
  expect_ignored();
  replace("\"driver_version\": 13000", "\"driver_version\": 12090");
  expect_ignored();
  replace("\"host_copy_rate\": 12000000000.0", "\"host_copy_rate\": -1");
  expect_ignored();
  replace("\"host_copy_rate\": 12000000000.0", "\"host_copy_rate\": 1e400");
  expect_ignored();
  replace("\"host_copy_rate\": 12000000000.0", "\"host_copy_rate\": \"fast\"");
  expect_ignored();
  replace("\"rates\": [", "\"rates\": [[9000000000, 1.0],");
  expect_ignored();
  replace("\"rates\": [", "\"rates\": [[0, 1.0],");
  expect_ignored();
  replace("\"rates\": [", "\"no_rates\": [");
  expect_ignored();
}

TEST_F(CostStore, RefusesToSaveWhatItWouldNotLoad) {
  CostModel costs;
  costs.gpu.h2d.dma.rates.clear();
  EXPECT_EQ(code_of([&] { save_cost_model(device_, costs); }), ErrorCode::InvalidArgument);
  costs = {};
  costs.host_copy_rate = std::numeric_limits<double>::infinity();
  EXPECT_EQ(code_of([&] { save_cost_model(device_, costs); }), ErrorCode::InvalidArgument);
}

TEST_F(CostStore, NamesAFolderThatCannotBeMade) {
  ::setenv("XDG_CACHE_HOME", "/proc/no-such", 1);
  EXPECT_EQ(code_of([&] { save_cost_model(device_, CostModel{}); }), ErrorCode::Io);
}

}  // namespace
}  // namespace kvbm::transfer
