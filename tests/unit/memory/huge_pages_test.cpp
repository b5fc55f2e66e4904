// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/huge_pages.hpp"

#include <gtest/gtest.h>

#include <string>

namespace kvbm::memory {
namespace {

constexpr char const* kMeminfo =
    "MemTotal:       24689140 kB\n"
    "HugePages_Total:      16\n"
    "HugePages_Free:        3\n"
    "HugePages_Rsvd:        0\n"
    "Hugepagesize:       2048 kB\n"
    "Hugetlb:           32768 kB\n";

TEST(HugePages, A4_ReadsTheTextOfMeminfo) {
  auto const info = parse_huge_page_info(kMeminfo);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->total, 16U);
  EXPECT_EQ(info->free, 3U);
  EXPECT_EQ(info->page_bytes, 2048U * 1024);
}

TEST(HugePages, A4_RefusesTextThatDoesNotSay) {
  EXPECT_FALSE(parse_huge_page_info("").has_value());
  EXPECT_FALSE(parse_huge_page_info("HugePages_Total: 1\nHugePages_Free: 1\n").has_value());
  std::string text = kMeminfo;
  text.replace(text.find("2048 kB"), 7, "2048 MB");
  EXPECT_FALSE(parse_huge_page_info(text).has_value());
  text = kMeminfo;
  text.replace(text.find(" 16"), 3, " x6");
  EXPECT_FALSE(parse_huge_page_info(text).has_value());
  text = kMeminfo;
  text.replace(text.find("2048 kB"), 7, "99999999999999999 kB");
  EXPECT_FALSE(parse_huge_page_info(text).has_value());
}

TEST(HugePages, A4_TakesFieldsByTheirWholeName) {
  EXPECT_FALSE(
      parse_huge_page_info("XHugePages_Total: 1\nHugePages_Free: 1\nHugepagesize: 1 kB\n"));
  EXPECT_TRUE(parse_huge_page_info("HugePages_Total: 1\nHugePages_Free: 1\nHugepagesize: 1 kB"));
}

TEST(HugePages, A4_ReadsTheChoiceInBrackets) {
  EXPECT_EQ(parse_transparent_huge_pages("always [madvise] never\n"),
            TransparentHugePages::Madvise);
  EXPECT_EQ(parse_transparent_huge_pages("[always] madvise never"), TransparentHugePages::Always);
  EXPECT_EQ(parse_transparent_huge_pages("always madvise [never]"), TransparentHugePages::Never);
  for (auto const* text : {"", "always madvise never", "[sometimes]", "[always", "[always] [never]",
                           "always] [", "[]"}) {
    EXPECT_FALSE(parse_transparent_huge_pages(text).has_value()) << text;
  }
}

TEST(HugePages, A4_ReadsThisMachineWithoutThrowing) {
  EXPECT_NO_THROW(read_huge_page_info());
  EXPECT_NO_THROW(read_transparent_huge_pages());
}

}  // namespace
}  // namespace kvbm::memory
