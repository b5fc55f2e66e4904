// SPDX-License-Identifier: Apache-2.0
//
// What every exchange promises, whatever carries the metadata.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/failure.hpp"
#include "unit/remote/etcd_server.hpp"
#include "unit/remote/exchange_places.hpp"

namespace kvbm::remote::test {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using namespace std::chrono_literals;

// Far beyond what anything here takes: only a broken exchange reaches it.
constexpr std::chrono::milliseconds kPatience = 60s;

using Bytes = std::vector<std::byte>;

ErrorCode code_of(std::function<void()> const& call, std::string* message = nullptr) {
  try {
    call();
  } catch (Error const& error) {
    if (message != nullptr) { *message = error.what(); }
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::Internal;
}

template <class Place>
class Exchange : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { place_failure() = Place::why_skipped(); }
  void SetUp() override {
    if (!place_failure().empty()) { GTEST_SKIP() << place_failure(); }
    place_ = std::make_unique<Place>();
  }
  std::shared_ptr<MetadataExchange> owner() { return place_->owner(); }

 private:
  static std::string& place_failure() {
    static std::string reason;
    return reason;
  }
  std::unique_ptr<Place> place_;
};

using Places = ::testing::Types<InProcessPlace, FolderPlace, TcpPlace, EtcdPlace>;
TYPED_TEST_SUITE(Exchange, Places);

TYPED_TEST(Exchange, FetchesWhatAnotherOnePublished) {
  auto const prefill = this->owner();
  auto const decode = this->owner();
  Bytes const blob = make_blob(1000, 1);
  prefill->publish("prefill-0", blob);
  EXPECT_EQ(decode->fetch("prefill-0", kPatience), blob);
  EXPECT_EQ(prefill->fetch("prefill-0", kPatience), blob) << "its own";
}

TYPED_TEST(Exchange, CarriesEmptyMetadataAndOneZero) {
  auto const a = this->owner();
  auto const b = this->owner();
  a->publish("empty", {});
  a->publish("zero", Bytes(1));
  EXPECT_EQ(b->fetch("empty", kPatience), Bytes());
  EXPECT_EQ(b->fetch("zero", kPatience), Bytes(1));
}

TYPED_TEST(Exchange, CarriesBlobsOfManyMebibytes) {
  auto const a = this->owner();
  auto const b = this->owner();
  for (std::size_t const bytes : {std::size_t{2} << 20, (std::size_t{5} << 20) + 13}) {
    Bytes const blob = make_blob(bytes, bytes);
    a->publish("large", blob);
    EXPECT_TRUE(b->fetch("large", kPatience) == blob) << bytes;
  }
}

TYPED_TEST(Exchange, ReplacesItsOwn) {
  auto const a = this->owner();
  auto const b = this->owner();
  for (std::uint64_t i = 0; i < 5; ++i) {
    Bytes const blob = make_blob(5000 - i * 1000, i);
    a->publish("worker", blob);
    EXPECT_EQ(b->fetch("worker", kPatience), blob) << i;
  }
  EXPECT_THAT(b->list(), ElementsAre("worker"));
}

TYPED_TEST(Exchange, RefusesANameThatAnotherLiveOneHas) {
  auto const a = this->owner();
  auto const b = this->owner();
  Bytes const blob = make_blob(100, 1);
  a->publish("worker", blob);
  std::string message;
  EXPECT_EQ(code_of([&] { b->publish("worker", make_blob(50, 2)); }, &message),
            ErrorCode::AlreadyExists);
  EXPECT_THAT(message, HasSubstr("'worker'"));
  EXPECT_EQ(b->fetch("worker", kPatience), blob);
  b->withdraw("worker");  // not b's
  EXPECT_EQ(b->fetch("worker", kPatience), blob);
}

TYPED_TEST(Exchange, GivesANameOnOnceItIsWithdrawn) {
  auto const a = this->owner();
  auto const b = this->owner();
  a->publish("worker", make_blob(100, 1));
  a->withdraw("worker");
  EXPECT_THAT(a->list(), IsEmpty());
  EXPECT_EQ(code_of([&] { b->fetch("worker", 0ms); }), ErrorCode::Timeout);
  a->withdraw("worker");  // nothing there any more
  Bytes const blob = make_blob(50, 2);
  b->publish("worker", blob);
  EXPECT_EQ(a->fetch("worker", kPatience), blob);
}

TYPED_TEST(Exchange, TakesEverythingBackWhenItEnds) {
  auto a = this->owner();
  auto const b = this->owner();
  a->publish("one", make_blob(10, 1));
  a->publish("two", make_blob(10, 2));
  b->publish("three", make_blob(10, 3));
  EXPECT_THAT(b->list(), ElementsAre("one", "three", "two"));
  if (std::is_same_v<TypeParam, InProcessPlace>) { return; }  // the place holds on to the first one
  a.reset();
  EXPECT_THAT(b->list(), ElementsAre("three"));
}

TYPED_TEST(Exchange, ListsNothingWhereNothingIs) { EXPECT_THAT(this->owner()->list(), IsEmpty()); }

TYPED_TEST(Exchange, NamesWhatItWaitedForInVain) {
  auto const a = this->owner();
  for (auto const timeout : {-5ms, 0ms, 30ms}) {
    std::string message;
    EXPECT_EQ(code_of([&] { a->fetch("nobody.here", timeout); }, &message), ErrorCode::Timeout);
    EXPECT_THAT(message, HasSubstr("'nobody.here'"));
  }
  EXPECT_THROW(a->fetch("nobody.here", 1ms), TimeoutError);
}

TYPED_TEST(Exchange, WaitsForWhatComesLater) {
  auto const a = this->owner();
  auto const b = this->owner();
  auto later = std::async(std::launch::async, [&] { return b->fetch("late", kPatience); });
  // Another look by the same exchange: the waiting one was there before, or comes after; both work.
  EXPECT_EQ(code_of([&] { b->fetch("late", 20ms); }), ErrorCode::Timeout);
  Bytes const blob = make_blob(300, 4);
  a->publish("late", blob);
  EXPECT_EQ(later.get(), blob);
}

TYPED_TEST(Exchange, RefusesBadNames) {
  auto const a = this->owner();
  std::vector<std::string> const bad = {
      "",   std::string(129, 'a'), "a/b",      "../a",  "a b", "a\n", std::string("a\0b", 3),
      "a*", "/etc/passwd",         "\xC3\xA4", "a%2Fb", "\"",  "{}"};
  for (auto const& name : bad) {
    EXPECT_EQ(code_of([&] { a->publish(name, {}); }), ErrorCode::InvalidArgument) << name;
    EXPECT_EQ(code_of([&] { a->withdraw(name); }), ErrorCode::InvalidArgument) << name;
    EXPECT_EQ(code_of([&] { a->fetch(name, 0ms); }), ErrorCode::InvalidArgument) << name;
  }
  EXPECT_THAT(a->list(), IsEmpty());
}

TYPED_TEST(Exchange, TakesEveryNameThatIsAllowed) {
  auto const a = this->owner();
  auto const b = this->owner();
  std::vector<std::string> names = {"-", ".", "..", "_", "0", "A-z_9.x", std::string(128, 'n')};
  for (std::size_t i = 0; i < names.size(); ++i) {
    a->publish(names[i], make_blob(64, i));
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(b->fetch(names[i], kPatience), make_blob(64, i)) << names[i];
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(b->list(), names);
}

TYPED_TEST(Exchange, RefusesMoreThanTheLimit) {
  auto const a = this->owner();
  Bytes const blob(kMaxMetadataBytes + 1);
  std::string message;
  EXPECT_EQ(code_of([&] { a->publish("huge", blob); }, &message), ErrorCode::InvalidArgument);
  EXPECT_THAT(message, HasSubstr("67108865"));
  EXPECT_THAT(message, HasSubstr("67108864"));
}

TYPED_TEST(Exchange, OnlyOneOfManyGetsAName) {
  std::vector<std::shared_ptr<MetadataExchange>> owners;
  for (int i = 0; i < 4; ++i) {
    owners.push_back(this->owner());
  }
  for (std::string const name : {"first", "second"}) {
    std::atomic<int> winners{0};
    std::atomic<int> others{0};
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < owners.size(); ++i) {
      threads.emplace_back([&, i] {
        try {
          owners[i]->publish(name, make_blob(500, i));
          ++winners;
        } catch (Error const& error) {
          EXPECT_EQ(error.code(), ErrorCode::AlreadyExists) << error.what();
          ++others;
        }
      });
    }
    threads.clear();
    EXPECT_EQ(winners, 1);
    EXPECT_EQ(others, 3);
    EXPECT_EQ(owners[0]->fetch(name, kPatience), owners[3]->fetch(name, kPatience));
  }
}

TYPED_TEST(Exchange, ServesManyPublishersAndFetchersAtOnce) {
  constexpr std::size_t kWorkers = 4;
  constexpr std::uint64_t kGenerations = 5;
  std::vector<std::shared_ptr<MetadataExchange>> owners;
  for (std::size_t i = 0; i < kWorkers; ++i) {
    owners.push_back(this->owner());
  }
  auto const name_of = [](std::size_t i) { return "worker-" + std::to_string(i); };
  auto const blob_of = [](std::size_t i, std::uint64_t generation) {
    return make_blob(3000 + 100 * i + generation, 100 * i + generation);
  };
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < kWorkers; ++i) {
    threads.emplace_back([&, i] {
      for (std::uint64_t generation = 0; generation < kGenerations; ++generation) {
        owners[i]->publish(name_of(i), blob_of(i, generation));
      }
    });
    threads.emplace_back([&, i] {
      for (std::size_t peer = 0; peer < kWorkers; ++peer) {
        // Any generation, but a whole one.
        Bytes const blob = owners[i]->fetch(name_of(peer), kPatience);
        std::uint64_t const generation = blob.size() - 3000 - 100 * peer;
        ASSERT_LT(generation, kGenerations);
        EXPECT_EQ(blob, blob_of(peer, generation));
        EXPECT_THAT(owners[i]->list(), Contains(name_of(peer)));
      }
    });
  }
  threads.clear();
  for (std::size_t i = 0; i < kWorkers; ++i) {
    EXPECT_EQ(owners[0]->fetch(name_of(i), kPatience), blob_of(i, kGenerations - 1));
  }
}

}  // namespace
}  // namespace kvbm::remote::test
