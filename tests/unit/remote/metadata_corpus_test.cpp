// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size);

namespace {

std::vector<std::string> corpus() {
  auto const* root = std::getenv("KVBM_TEST_SOURCE_DIR");
  std::vector<std::string> texts;
  if (root == nullptr) { return texts; }
  for (auto const& entry : std::filesystem::directory_iterator(std::filesystem::path(root) /
                                                               "tests/fuzz/corpus/metadata")) {
    std::ifstream file(entry.path(), std::ios::binary);
    texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>{});
  }
  return texts;
}

void run(std::string const& text) {
  LLVMFuzzerTestOneInput(reinterpret_cast<std::uint8_t const*>(text.data()), text.size());
}

TEST(MetadataCorpus, M8_EveryFileIsRefusedOrRoundTrips) {
  auto const texts = corpus();
  ASSERT_GE(texts.size(), 5U);
  for (auto const& text : texts) {
    run(text);
  }
}

TEST(MetadataCorpus, M8_DamagedFilesAreRefusedOrRoundTrip) {
  std::mt19937_64 random(20261124);
  auto const below = [&](std::size_t bound) { return random() % bound; };
  for (auto const& text : corpus()) {
    if (text.empty()) { continue; }
    for (int i = 0; i < 300; ++i) {
      auto damaged = text;
      auto const at = below(damaged.size());
      switch (below(4)) {
        case 0: damaged[at] = static_cast<char>(damaged[at] ^ (1 << below(8))); break;
        case 1: damaged[at] = static_cast<char>('0' + below(10)); break;
        case 2: damaged.erase(at, 1 + below(8)); break;
        default: damaged.insert(at, damaged.substr(below(damaged.size()), below(12))); break;
      }
      run(damaged);
    }
  }
}

}  // namespace
