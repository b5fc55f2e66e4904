// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/object/object_keys.hpp"

namespace kvbm::object {
namespace {

ObjectKeyScheme example() { return {"llama-3.1-8b@deadbeef", "OperationalNHD", 4, 2, "cache/kv"}; }

ErrorCode refusal(ObjectKeyScheme const& scheme) {
  try {
    scheme.check();
  } catch (Error const& error) { return error.code(); }
  return ErrorCode::Internal;
}

TEST(ObjectKeyScheme, NamesEverythingThatMustAgree) {
  auto const scheme = example();
  scheme.check();
  EXPECT_EQ(scheme.root(), "cache/kv/kvbm-v1/llama-3.1-8b~40deadbeef/OperationalNHD/tp4-r2/");
  EXPECT_EQ(scheme.index_key(71, 1), scheme.root() + "i1/0000000071");
  EXPECT_EQ(scheme.index_key(64, 8), scheme.root() + "i8/0000000064");
  EXPECT_EQ(scheme.content_key("abc"), scheme.root() + "b/abc");
  EXPECT_EQ(scheme.manifest_key(), scheme.root() + "manifest");
}

TEST(ObjectKeyScheme, EachFieldMakesOtherKeys) {
  std::vector<ObjectKeyScheme> others(6, example());
  others[1].model += "x";
  others[2].format = "OperationalHND";
  others[3].tp_size = 8;
  others[4].tp_rank = 3;
  others[5].prefix = "";
  for (std::size_t i = 0; i < others.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_NE(others[i].content_key("abc"), others[j].content_key("abc")) << i << " " << j;
    }
  }
}

TEST(ObjectKeyScheme, ContentKeysOfAnyBytesComeBack) {
  auto const scheme = example();
  std::string all;
  for (int c = 0; c < 256; ++c) {
    all += static_cast<char>(c);
  }
  for (std::string const& key : {std::string("abc"), std::string(".."), std::string("a/b/../c"),
                                 std::string("~7e"), std::string("\0x", 2), all}) {
    std::string const object_key = scheme.content_key(key);
    EXPECT_EQ(scheme.parse_content_key(object_key), key);
    // One folder below the root, and nothing that a URL would have to escape.
    EXPECT_EQ(object_key.find('/', scheme.content_prefix().size()), std::string::npos);
    EXPECT_EQ(object_key.find_first_of("% +&?#\\"), std::string::npos);
  }
}

TEST(ObjectKeyScheme, TellsForeignKeysApart) {
  auto const scheme = example();
  EXPECT_EQ(scheme.parse_content_key("something/else"), std::nullopt);
  EXPECT_EQ(scheme.parse_content_key(scheme.content_prefix()), std::nullopt);
  EXPECT_EQ(scheme.parse_content_key(scheme.index_key(1, 1)), std::nullopt);
  // Not what content_key() writes.
  EXPECT_EQ(scheme.parse_content_key(scheme.content_prefix() + "a~4"), std::nullopt);
  EXPECT_EQ(scheme.parse_content_key(scheme.content_prefix() + "a~zz"), std::nullopt);
  EXPECT_EQ(scheme.parse_content_key(scheme.content_prefix() + "~41"), std::nullopt);
}

TEST(ObjectKeyScheme, RefusesBadFields) {
  std::vector<ObjectKeyScheme> bad(10, example());
  bad[0].model = "";
  bad[1].format = "";
  bad[2].tp_size = 0;
  bad[3].tp_rank = 4;
  bad[4].prefix = "/cache";
  bad[5].prefix = "cache/";
  bad[6].prefix = "a//b";
  bad[7].prefix = "a/../b";
  bad[8].prefix = "a\nb";
  bad[9].model = std::string(900, 'm');
  for (auto const& scheme : bad) {
    EXPECT_EQ(refusal(scheme), ErrorCode::InvalidArgument) << scheme.prefix << scheme.model;
  }
  EXPECT_EQ(refusal(example()), ErrorCode::Internal) << "the example itself is refused";
}

TEST(ObjectKeyScheme, RefusesContentKeysThatDoNotFit) {
  auto const scheme = example();
  EXPECT_THROW(static_cast<void>(scheme.content_key("")), Error);
  EXPECT_THROW(static_cast<void>(scheme.content_key(std::string(1024, 'k'))), Error);
  EXPECT_LE(scheme.content_key(std::string(900, 'k')).size(), ObjectKeyScheme::kMaxKeyBytes);
}

}  // namespace
}  // namespace kvbm::object
