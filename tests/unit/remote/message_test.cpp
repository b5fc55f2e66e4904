// SPDX-License-Identifier: Apache-2.0
//
// What workers tell each other, read from an honest worker, from a damaged wire, and from a liar
// with right checksums: it is refused, or it is exactly what an honest worker writes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "kvbm/testing/failure.hpp"
#include "message_cases.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size);

namespace kvbm::remote {
namespace {

using kvbm::testing::failure_of_call;
using nlohmann::json;
using testing::honest_messages;
using testing::message_body;
using testing::message_value;
using testing::wrap_message;

using Bytes = std::vector<std::byte>;

std::filesystem::path source_folder() {
  auto const* const root = std::getenv("KVBM_TEST_SOURCE_DIR");
  EXPECT_NE(root, nullptr);
  return root == nullptr ? "" : root;
}

Bytes read_file(std::filesystem::path const& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::string const text(std::istreambuf_iterator<char>(file), {});
  auto const bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

kvbm::testing::Failure failure_of_bytes(std::span<std::byte const> bytes) {
  return failure_of_call([&] { return Message::from_bytes(bytes); });
}

void expect_refused(std::span<std::byte const> bytes, std::string const& where) {
  auto const failure = failure_of_bytes(bytes);
  ASSERT_TRUE(failure.code == ErrorCode::Corrupt || failure.code == ErrorCode::VersionMismatch)
      << where << ": " << failure.message;
}

void expect_refused_or_canonical(std::span<std::byte const> bytes, std::string const& where) {
  try {
    auto const message = Message::from_bytes(bytes);
    // The one thing that is read without being understood: an error code of a later version.
    auto const* const reply = std::get_if<Reply>(&message.body);
    if (reply != nullptr && reply->error == ErrorCode::Internal) { return; }
    ASSERT_TRUE(std::ranges::equal(message.to_bytes(), bytes)) << where;
  } catch (Error const& error) {
    ASSERT_TRUE(error.code() == ErrorCode::Corrupt || error.code() == ErrorCode::VersionMismatch)
        << where << ": " << error.what();
  }
}

TEST(WorkerMessage, EveryTypeRoundTrips) {
  for (auto const& [name, message] : honest_messages()) {
    auto const bytes = message.to_bytes();
    EXPECT_TRUE(Message::is_ours(bytes)) << name;
    auto const again = Message::from_bytes(bytes);
    EXPECT_EQ(again, message) << name;
    EXPECT_EQ(again.to_bytes(), bytes) << name;
  }
}

TEST(WorkerMessage, EveryErrorCodeAndImageFormatRoundTrips) {
  for (auto code = static_cast<int>(ErrorCode::InvalidArgument);
       code <= static_cast<int>(ErrorCode::PeerLost); ++code) {
    Message const message{1, 2, 3, 4, Reply{5, static_cast<ErrorCode>(code), "why", 0, 0}};
    EXPECT_EQ(Message::from_bytes(message.to_bytes()), message) << code;
  }
  using layout::KvBlockLayout;
  for (auto const& format :
       {KvBlockLayout::Unknown, KvBlockLayout::OperationalNHD, KvBlockLayout::OperationalHND,
        KvBlockLayout::UniversalTP, KvBlockLayout::UniversalPP}) {
    CopyImage copy;
    copy.image_format = format;
    Message const message{1, 2, 3, 4, copy};
    EXPECT_EQ(Message::from_bytes(message.to_bytes()), message);
  }
}

TEST(WorkerMessage, Version1IsReadAndWrittenAsEver) {
  for (auto const& [name, message] : honest_messages()) {
    auto const bytes =
        read_file(source_folder() / "tests/unit/remote/golden" / ("message_v1_" + name + ".bin"));
    EXPECT_EQ(message.to_bytes(), bytes) << name;
    EXPECT_EQ(Message::from_bytes(bytes), message) << name;
  }
}

TEST(WorkerMessage, LongErrorTextsAreCutAndLongerOnesRefused) {
  std::string const most(Reply::kMaxTextBytes, 'x');
  Message const message{1, 2, 3, 4, Reply{5, ErrorCode::Io, most + "y", 0, 0}};
  auto const bytes = message.to_bytes();
  EXPECT_EQ(std::get<Reply>(Message::from_bytes(bytes).body).text, most);
  auto value = message_value(bytes);
  value["text"] = most + "y";
  EXPECT_TRUE(failure_of_bytes(wrap_message(value)).names("too long"));
}

TEST(WorkerMessage, AnUnknownErrorCodeIsStillAFailure) {
  auto value =
      message_value(Message{1, 2, 3, 4, Reply{5, ErrorCode::Busy, "why", 0, 0}}.to_bytes());
  value["error"] = 200;
  auto const reply = std::get<Reply>(Message::from_bytes(wrap_message(value)).body);
  EXPECT_EQ(reply.error, ErrorCode::Internal);
  EXPECT_EQ(reply.text, "why");
}

TEST(WorkerMessage, WhatIsNotOursIsSeenByItsStart) {
  auto const bytes = honest_messages().front().second.to_bytes();
  for (std::size_t count = 0; count < 8; ++count) {
    EXPECT_FALSE(Message::is_ours(std::span(bytes).first(count))) << count;
  }
  EXPECT_TRUE(Message::is_ours(std::span(bytes).first(8)));
  auto other = bytes;
  other[7] ^= std::byte{1};
  EXPECT_FALSE(Message::is_ours(other));
}

TEST(HostileMessage, EveryTruncationIsRefused) {
  for (auto const& [name, message] : honest_messages()) {
    auto const bytes = message.to_bytes();
    for (std::size_t count = 0; count < bytes.size(); ++count) {
      ASSERT_EQ(failure_of_bytes(std::span(bytes).first(count)).code, ErrorCode::Corrupt)
          << name << " " << count;
    }
    auto const body = message_body(bytes);
    for (std::size_t count = 0; count < body.size(); ++count) {
      ASSERT_EQ(failure_of_bytes(wrap_message(body.first(count))).code, ErrorCode::Corrupt)
          << name << " " << count << " in a right envelope";
    }
  }
}

TEST(HostileMessage, EveryFlippedBitIsRefused) {
  for (auto const& [name, message] : honest_messages()) {
    auto bytes = message.to_bytes();
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      expect_refused(bytes, name + " bit " + std::to_string(bit));
      bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    }
  }
}

TEST(HostileMessage, EveryFlippedBitWithARightChecksumIsRefusedOrAnotherHonestMessage) {
  for (auto const& [name, message] : honest_messages()) {
    auto const bytes = message.to_bytes();
    auto const body = message_body(bytes);
    Bytes changed(body.begin(), body.end());
    for (std::size_t bit = 0; bit < 8 * changed.size(); ++bit) {
      changed[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      expect_refused_or_canonical(wrap_message(std::span<std::byte const>(changed)),
                                  name + " bit " + std::to_string(bit));
      changed[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    }
  }
}

TEST(HostileMessage, TrailingBytesAreRefused) {
  for (auto const& [name, message] : honest_messages()) {
    auto longer = message.to_bytes();
    longer.push_back(std::byte{0});
    EXPECT_TRUE(failure_of_bytes(longer).names("length")) << name;
    auto const bytes = message.to_bytes();
    auto const body = message_body(bytes);
    Bytes more(body.begin(), body.end());
    more.push_back(std::byte{0});
    EXPECT_TRUE(failure_of_bytes(wrap_message(std::span<std::byte const>(more))).names("behind"))
        << name;
  }
}

TEST(HostileMessage, OtherVersionsAreRefusedAsUnsupported) {
  auto const bytes = honest_messages().front().second.to_bytes();
  for (auto const version : {0U, 2U, 999U, 0xffffffffU}) {
    auto const failure = failure_of_bytes(wrap_message(message_body(bytes), version));
    EXPECT_EQ(failure.code, ErrorCode::VersionMismatch);
    EXPECT_TRUE(failure.names("Unsupported version " + std::to_string(version)));
  }
}

TEST(HostileMessage, TooMuchIsRefusedUnread) {
  EXPECT_TRUE(failure_of_bytes(Bytes(Message::kMaxBytes + 1)).names("at most"));
}

TEST(HostileMessage, HugeCountsAreRefusedUnread) {
  for (unsigned const major : {2U, 3U, 4U, 5U}) {
    Bytes body{std::byte{0xa1}, std::byte{0x61}, std::byte{'a'},
               static_cast<std::byte>(major << 5U | 27U), std::byte{0x10}};
    body.resize(body.size() + 7);
    EXPECT_TRUE(failure_of_bytes(wrap_message(std::span<std::byte const>(body)))
                    .names("1152921504606846976"))
        << major;
  }
}

TEST(HostileMessage, FieldsGivenTwiceAreRefused) {
  Bytes const body{std::byte{0xa2}, std::byte{0x61}, std::byte{'a'}, std::byte{1},
                   std::byte{0x61}, std::byte{'a'},  std::byte{2}};
  EXPECT_TRUE(failure_of_bytes(wrap_message(std::span<std::byte const>(body))).names("twice"));
}

TEST(HostileMessage, EveryMissingFieldIsRefused) {
  for (auto const& [name, message] : honest_messages()) {
    auto const value = message_value(message.to_bytes());
    for (auto const& [field, unused] : value.items()) {
      // Without it, it is another honest message.
      if (field == "process") { continue; }
      auto less = value;
      less.erase(field);
      auto const failure = failure_of_bytes(wrap_message(less));
      EXPECT_EQ(failure.code, ErrorCode::Corrupt) << name << " without " << field;
    }
  }
}

TEST(HostileMessage, FieldsThatTheTypeDoesNotHaveAreRefused) {
  for (auto const& [name, message] : honest_messages()) {
    auto value = message_value(message.to_bytes());
    value["zeal"] = 1;
    EXPECT_TRUE(failure_of_bytes(wrap_message(value)).names("does not have")) << name;
  }
  auto value = message_value(Message{1, 2, 3, 4, Reply{}}.to_bytes());
  value["text"] = "an error's, without one";
  EXPECT_TRUE(failure_of_bytes(wrap_message(value)).names("does not have"));
}

TEST(HostileMessage, EveryFieldOfAnotherTypeIsRefused) {
  std::vector<json> const others{json(nullptr),
                                 json(true),
                                 json(1),
                                 json("text"),
                                 json::array({1, 2, 3}),
                                 json::object({{"a", 1}}),
                                 json::binary({1, 2})};
  for (auto const& [name, message] : honest_messages()) {
    auto const value = message_value(message.to_bytes());
    for (auto const& [field, honest] : value.items()) {
      for (auto const& other : others) {
        auto changed = value;
        changed[field] = other;
        if (other.type() != honest.type()) {
          // A list of numbers for a list of numbers, a number for a number: another message.
          bool const is_number = other.is_number() && honest.is_number();
          if (is_number) { continue; }
          expect_refused(wrap_message(changed), name + ": " + field + " = " + other.dump());
        } else {
          expect_refused_or_canonical(wrap_message(changed), name + ": " + field);
        }
      }
    }
  }
}

struct FieldCase {
  char const* message;
  char const* field;
  json value;
};

TEST(HostileMessage, ImpossibleValuesAreRefused) {
  auto const most = std::numeric_limits<std::uint64_t>::max();
  std::vector<FieldCase> const cases{
      {"hello", "type", "greeting"},
      {"taken", "type", ""},
      {"hello", "layouts", json::array({65536})},
      {"hello", "layouts", json::array({most})},
      {"hello", "layouts", json::array({"1"})},
      {"hello", "address", json::binary({})},
      {"hello_near", "process", json::array({1, 2, 3, 4})},
      {"hello_near", "process", json::array({1, 2, 3, 4, 5, 6})},
      {"hello_near", "process", json::array({1, 2, 3, most, 5})},
      {"hello_near", "process", json::array({1, 2, 3, "4", 5})},
      {"revoke", "layout", 65536},
      {"image", "layout", most},
      {"image", "blocks", json::array({std::uint64_t{1} << 32U})},
      {"image", "slots", json::array({true})},
      {"image", "layers", json::array({1})},
      {"image", "layers", json::array({1, 2, 3})},
      {"image", "heads", json::array({"a", "b"})},
      {"image", "format", 5},
      {"image", "format", most},
  };
  auto const messages = honest_messages();
  for (auto const& one : cases) {
    auto const found =
        std::ranges::find(messages, one.message, [](auto const& m) { return m.first; });
    ASSERT_NE(found, messages.end());
    auto value = message_value(found->second.to_bytes());
    value[one.field] = one.value;
    auto const failure = failure_of_bytes(wrap_message(value));
    EXPECT_EQ(failure.code, ErrorCode::Corrupt) << one.message << "." << one.field;
  }
}

TEST(HostileMessage, AnAddressInsideIsReadAsSuspiciously) {
  auto const hello = honest_messages().front().second;
  auto value = message_value(hello.to_bytes());
  auto& address = value["address"].get_binary();
  for (std::size_t bit = 0; bit < 8 * address.size(); ++bit) {
    address[bit / 8] = static_cast<std::uint8_t>(address[bit / 8] ^ (1U << (bit % 8)));
    expect_refused(wrap_message(value), "bit " + std::to_string(bit));
    address[bit / 8] = static_cast<std::uint8_t>(address[bit / 8] ^ (1U << (bit % 8)));
  }
}

// ---- the corpus of the fuzzer ----

std::vector<std::string> corpus() {
  std::vector<std::string> texts;
  for (auto const& folder : {"tests/fuzz/corpus/message", "tests/unit/remote/golden"}) {
    for (auto const& entry : std::filesystem::directory_iterator(source_folder() / folder)) {
      std::ifstream file(entry.path(), std::ios::binary);
      texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>{});
    }
  }
  return texts;
}

void run(std::string const& text) {
  LLVMFuzzerTestOneInput(reinterpret_cast<std::uint8_t const*>(text.data()), text.size());
}

TEST(MessageCorpus, EveryFileIsRefusedOrRoundTrips) {
  auto const texts = corpus();
  ASSERT_GE(texts.size(), 10U);
  for (auto const& text : texts) {
    run(text);
  }
}

TEST(MessageCorpus, DamagedFilesAreRefusedOrRoundTrip) {
  std::mt19937_64 random(20261124);
  auto const below = [&](std::size_t bound) { return random() % bound; };
  for (auto const& text : corpus()) {
    if (text.empty()) { continue; }
    for (int i = 0; i < 300; ++i) {
      auto damaged = text;
      auto const at = below(damaged.size());
      switch (below(3)) {
        case 0: damaged[at] = static_cast<char>(damaged[at] ^ (1 << below(8))); break;
        case 1: damaged.erase(at, 1 + below(8)); break;
        default: damaged.insert(at, damaged.substr(below(damaged.size()), below(12))); break;
      }
      run(damaged);
    }
  }
}

}  // namespace
}  // namespace kvbm::remote
