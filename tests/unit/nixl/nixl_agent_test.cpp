// SPDX-License-Identifier: Apache-2.0
#include "nixl/nixl_agent.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/temp_folder.hpp"
#include "unit/nixl/nixl_fixture.hpp"

namespace kvbm::nixl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr std::size_t kSize = 1 << 20;

template <typename Call>
void expect_error(ErrorCode code, ::testing::Matcher<std::string> const& message,
                  Call const& call) {
  try {
    call();
    ADD_FAILURE() << "nothing thrown";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(std::string(error.what()), message);
  }
}

class NixlAgentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    KVBM_SKIP_WITHOUT_NIXL();
    library_ = NixlLibrary::load();
  }

  // Agents must not share names while they meet.
  [[nodiscard]] Worker worker(std::string const& name) const {
    return Worker(library_, name, kSize);
  }

  std::shared_ptr<NixlLibrary const> library_;
};

TEST_F(NixlAgentTest, TakesBackendNamesInAnyCase) {
  NixlAgent agent(library_, "a");
  EXPECT_THAT(agent.backends(), IsEmpty());
  agent.create_backend("pOsIx", {});
  EXPECT_THAT(agent.backends(), ElementsAre("POSIX"));
  expect_error(ErrorCode::AlreadyExists, HasSubstr("POSIX"),
               [&] { agent.create_backend("posix", {}); });
}

TEST_F(NixlAgentTest, NamesTheBackendsThereAre) {
  NixlAgent agent(library_, "a");
  expect_error(ErrorCode::InvalidArgument, AllOf(HasSubstr("'warp'"), HasSubstr("POSIX, UCX")),
               [&] { agent.create_backend("warp", {}); });
}

TEST_F(NixlAgentTest, SaysWhyAPluginDoesNotLoad) {
  std::string const problem = library_->plugin_problem("OBJ");
  if (problem.empty()) { GTEST_SKIP() << "NIXL's OBJ plugin loads here"; }
  NixlAgent agent(library_, "a");
  expect_error(ErrorCode::Unsupported,
               AllOf(HasSubstr("OBJ"), HasSubstr(problem), HasSubstr("bucket")),
               [&] { agent.create_backend("obj", {{"bucket", "none"}}); });
  EXPECT_THAT(agent.backends(), IsEmpty());
}

TEST_F(NixlAgentTest, RefusesGdsWhereItWouldHang) {
  if (access("/proc/modules", R_OK) == 0) { GTEST_SKIP() << "this kernel has /proc/modules"; }
  NixlAgent agent(library_, "a");
  for (char const* const name : {"gds", "GDS_MT"}) {
    expect_error(ErrorCode::Unsupported, HasSubstr("/proc/modules"),
                 [&] { agent.create_backend(name, {}); });
  }
}

TEST_F(NixlAgentTest, RefusesAnEmptyNameAndNoLibrary) {
  expect_error(ErrorCode::InvalidArgument, HasSubstr("name"), [&] { NixlAgent(library_, ""); });
  expect_error(ErrorCode::InvalidArgument, HasSubstr("NixlLibrary"),
               [&] { NixlAgent(nullptr, "a"); });
}

TEST_F(NixlAgentTest, MovesBytesBothWaysBetweenTwoAgents) {
  Worker a = worker("a");
  Worker b = worker("b");
  std::iota(b.buffer.begin(), b.buffer.end(), std::uint8_t{3});
  a.learn(b);
  EXPECT_TRUE(a.agent.knows("b"));
  EXPECT_FALSE(b.agent.knows("a"));
  constexpr std::size_t kPiece = 5000;
  auto read = a.request(Direction::Read, {0, 20000, 8000}, b, {30001, 100, 500000}, kPiece);
  run(read);
  std::vector<std::uint8_t> expected(kSize);
  auto const place = [&](std::size_t here, std::size_t there) {
    std::copy_n(b.buffer.begin() + static_cast<std::ptrdiff_t>(there), kPiece,
                expected.begin() + static_cast<std::ptrdiff_t>(here));
  };
  place(0, 30001);
  place(20000, 100);
  place(8000, 500000);
  EXPECT_EQ(a.buffer, expected);

  std::vector<std::uint8_t> remote = b.buffer;
  auto write = a.request(Direction::Write, {20000}, b, {700000}, kPiece);
  run(write);
  std::copy_n(a.buffer.begin() + 20000, kPiece, remote.begin() + 700000);
  EXPECT_EQ(b.buffer, remote);

  // The same request again moves what is there now.
  a.buffer[20000] ^= 0xff;
  run(write);
  EXPECT_EQ(b.buffer[700000], a.buffer[20000]);
}

TEST_F(NixlAgentTest, RequestsOfSeveralThreadsDoNotDisturbEachOther) {
  Worker a = worker("a");
  Worker b = worker("b");
  std::iota(b.buffer.begin(), b.buffer.end(), std::uint8_t{1});
  a.learn(b);
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kPart = kSize / kThreads;
  std::atomic<std::size_t> running = kThreads;
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t piece = 0; piece < kPart; piece += kPart / 8) {
          auto request =
              a.request(Direction::Read, {t * kPart + piece}, b, {t * kPart + piece}, kPart / 8);
          run(request);
        }
        --running;
      });
    }
    while (running != 0) {
      EXPECT_THAT(a.agent.take_messages(), IsEmpty());
      a.agent.send("b", bytes_of("hello"));
      EXPECT_EQ(wait_for_messages(b.agent, 1).size(), 1);
    }
  }
  EXPECT_EQ(a.buffer, b.buffer);
}

TEST_F(NixlAgentTest, RefusesAgentsThatItDoesNotKnow) {
  Worker a = worker("a");
  Worker b = worker("b");
  auto const request = [&] { static_cast<void>(a.request(Direction::Read, {0}, b, {0}, 64)); };
  expect_error(ErrorCode::NotFound, HasSubstr("'b'"), request);
  expect_error(ErrorCode::NotFound, HasSubstr("'b'"),
               [&] { a.agent.send("b", bytes_of("hello")); });
  a.learn(b);
  request();
  a.agent.forget_remote("b");
  a.agent.forget_remote("b");
  a.agent.forget_remote("never heard of");
  expect_error(ErrorCode::NotFound, HasSubstr("'b'"), request);
  a.learn(b);
  request();
}

TEST_F(NixlAgentTest, RefusesRangesThatAreNotRegistered) {
  Worker a = worker("a");
  Worker b = worker("b");
  a.learn(b);
  std::vector<std::uint8_t> const stray(64);
  NixlRange const good_here = range_of(a.buffer, 0, 64);
  NixlRange const good_there = range_of(b.buffer, 0, 64);
  NixlRange const bad = range_of(stray, 0, 64);
  NixlRange const beyond = range_of(b.buffer, kSize - 32, 64);
  for (auto const& [here, there] :
       {std::pair{bad, good_there}, std::pair{good_here, bad}, std::pair{good_here, beyond}}) {
    expect_error(ErrorCode::OutOfRange, HasSubstr("registered"), [&] {
      static_cast<void>(a.agent.make_request(Direction::Write, Segment::Dram, {&here, 1},
                                             Segment::Dram, {&there, 1}, "b"));
    });
  }
}

TEST_F(NixlAgentTest, RefusesWrappingRangesAndThePeerStaysUsable) {
  Worker a = worker("a");
  Worker b = worker("b");
  std::iota(b.buffer.begin(), b.buffer.end(), std::uint8_t{9});
  a.learn(b);
  std::uint64_t const huge = std::numeric_limits<std::uint64_t>::max();
  NixlRange const here = range_of(a.buffer, 0, huge - 10);
  NixlRange const there = range_of(b.buffer, 0, huge - 10);
  NixlRange const small = range_of(a.buffer, 0, 64);
  expect_error(ErrorCode::Overflow, HasSubstr("local[0]"), [&] {
    static_cast<void>(a.agent.make_request(Direction::Read, Segment::Dram, {&here, 1},
                                           Segment::Dram, {&there, 1}, "b"));
  });
  expect_error(ErrorCode::Overflow, HasSubstr("remote[0]"), [&] {
    static_cast<void>(a.agent.make_request(Direction::Read, Segment::Dram, {&small, 1},
                                           Segment::Dram, {&there, 1}, "b"));
  });
  expect_error(ErrorCode::Overflow, HasSubstr("registered[0]"),
               [&] { static_cast<void>(a.agent.register_memory(Segment::Dram, {&here, 1})); });
  auto read = a.request(Direction::Read, {0}, b, {0}, kSize);
  run(read);
  EXPECT_EQ(a.buffer, b.buffer);
}

TEST_F(NixlAgentTest, RefusesListsThatDoNotPairUp) {
  Worker a = worker("a");
  Worker b = worker("b");
  a.learn(b);
  auto const make = [&](std::vector<NixlRange> const& here, std::vector<NixlRange> const& there) {
    return [&a, here, there] {
      static_cast<void>(
          a.agent.make_request(Direction::Read, Segment::Dram, here, Segment::Dram, there, "b"));
    };
  };
  NixlRange const here = range_of(a.buffer, 0, 64);
  NixlRange const there = range_of(b.buffer, 0, 64);
  NixlRange const other = range_of(b.buffer, 0, 32);
  NixlRange const nothing = range_of(b.buffer, 0, 0);
  expect_error(ErrorCode::InvalidArgument, HasSubstr("no local"), make({}, {there}));
  expect_error(ErrorCode::InvalidArgument, HasSubstr("no remote"), make({here}, {}));
  expect_error(ErrorCode::InvalidArgument, HasSubstr("2 local"), make({here, here}, {there}));
  expect_error(ErrorCode::InvalidArgument, AllOf(HasSubstr("64"), HasSubstr("32")),
               make({here}, {other}));
  expect_error(ErrorCode::InvalidArgument, HasSubstr("remote[1]"),
               make({here, here}, {there, nothing}));
  expect_error(ErrorCode::InvalidArgument, HasSubstr("no registered"),
               [&] { static_cast<void>(a.agent.register_memory(Segment::Dram, {})); });
}

TEST_F(NixlAgentTest, DeregistersWhenTheRegistrationEnds) {
  Worker a = worker("a");
  Worker b = worker("b");
  a.learn(b);
  std::vector<std::uint8_t> more(4096);
  NixlRange const here = range_of(more, 0, more.size());
  NixlRange const there = range_of(b.buffer, 0, more.size());
  auto const make = [&] {
    return a.agent.make_request(Direction::Read, Segment::Dram, {&here, 1}, Segment::Dram,
                                {&there, 1}, "b");
  };
  {
    auto registration = a.agent.register_memory(Segment::Dram, {&here, 1});
    auto const moved = std::move(registration);
    auto request = make();
    run(request);
  }
  expect_error(ErrorCode::OutOfRange, HasSubstr("registered"), [&] { static_cast<void>(make()); });
}

TEST_F(NixlAgentTest, RegistrationsAndRequestsOutliveTheAgentObject) {
  Worker b = worker("b");
  std::iota(b.buffer.begin(), b.buffer.end(), std::uint8_t{5});
  std::vector<std::uint8_t> buffer(4096);
  std::vector<NixlAgent::Registration> registrations;
  std::vector<NixlAgent::Request> requests;
  {
    NixlAgent agent(library_, "a");
    agent.create_backend("ucx", {});
    NixlRange const here = range_of(buffer, 0, buffer.size());
    NixlRange const there = range_of(b.buffer, 0, buffer.size());
    registrations.push_back(agent.register_memory(Segment::Dram, {&here, 1}));
    agent.load_remote(b.agent.local_metadata());
    requests.push_back(agent.make_request(Direction::Read, Segment::Dram, {&here, 1}, Segment::Dram,
                                          {&there, 1}, "b"));
  }
  run(requests[0]);
  EXPECT_TRUE(std::equal(buffer.begin(), buffer.end(), b.buffer.begin()));
}

TEST_F(NixlAgentTest, DeliversMessagesInOrderWithTheirSender) {
  Worker a = worker("a");
  Worker b = worker("b");
  Worker c = worker("c");
  a.learn(c);
  b.learn(c);
  using std::string_literals::operator""s;
  std::vector<std::string> const sent = {"first", "", "with\0zero"s, std::string(100000, 'x'), "e"};
  for (std::string const& text : sent) {
    a.agent.send("c", bytes_of(text));
  }
  b.agent.send("c", bytes_of("from b"));
  std::vector<std::string> from_a;
  for (NixlAgent::Message const& message : wait_for_messages(c.agent, sent.size() + 1)) {
    if (message.agent == "a") {
      from_a.push_back(text_of(message.bytes));
    } else {
      EXPECT_EQ(message.agent, "b");
      EXPECT_EQ(text_of(message.bytes), "from b");
    }
  }
  EXPECT_EQ(from_a, sent);
  EXPECT_THAT(c.agent.take_messages(), IsEmpty());
}

TEST_F(NixlAgentTest, RefusesMetadataThatIsNone) {
  Worker a = worker("a");
  Worker b = worker("b");
  std::vector<std::byte> blob = b.agent.local_metadata();
  expect_error(ErrorCode::Corrupt, HasSubstr("empty"), [&] { a.agent.load_remote({}); });
  expect_error(ErrorCode::Corrupt, HasSubstr("9 bytes"),
               [&] { a.agent.load_remote(bytes_of("not a blob").first(9)); });
  expect_error(ErrorCode::Corrupt, HasSubstr("refused"),
               [&] { a.agent.load_remote(std::span(blob).first(blob.size() / 2)); });
  expect_error(ErrorCode::Corrupt, HasSubstr("own"),
               [&] { a.agent.load_remote(a.agent.local_metadata()); });
  EXPECT_EQ(a.agent.load_remote(blob), "b");
  EXPECT_EQ(a.agent.load_remote(blob), "b");
}

TEST_F(NixlAgentTest, HasNoMetadataWithoutABackendThatReachesOthers) {
  NixlAgent agent(library_, "a");
  agent.create_backend("posix", {});
  expect_error(ErrorCode::Unsupported, HasSubstr("UCX"),
               [&] { static_cast<void>(agent.local_metadata()); });
}

TEST_F(NixlAgentTest, RequestsAreUsedInOrder) {
  Worker a = worker("a");
  Worker b = worker("b");
  a.learn(b);
  auto request = a.request(Direction::Read, {0}, b, {0}, 64);
  expect_error(ErrorCode::InvalidArgument, HasSubstr("not posted"),
               [&] { static_cast<void>(request.is_done()); });
  run(request);
  auto const owner = std::make_shared<int>(0);
  request.abandon(owner);
  EXPECT_EQ(owner.use_count(), 1) << "a request that is done keeps nothing";
  EXPECT_EQ(a.agent.abandoned(), 0);
  expect_error(ErrorCode::InvalidArgument, HasSubstr("abandoned"), [&] { request.post(); });
  expect_error(ErrorCode::InvalidArgument, HasSubstr("abandoned"),
               [&] { static_cast<void>(request.is_done()); });
}

TEST_F(NixlAgentTest, MovesBytesBetweenMemoryAndAFile) {
  testing::TempFolder const folder;
  NixlAgent agent(library_, "a");
  agent.create_backend("posix", {});
  int const file = open((folder / "blocks").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(file, 0);
  ASSERT_EQ(ftruncate(file, 65536), 0);
  std::vector<std::uint8_t> buffer(65536);
  std::iota(buffer.begin(), buffer.end(), std::uint8_t{7});
  std::vector<std::uint8_t> const written = buffer;
  NixlRange const memory = range_of(buffer, 0, buffer.size());
  NixlRange const blocks{0, buffer.size(), static_cast<std::uint64_t>(file)};
  {
    auto const registered = agent.register_memory(Segment::Dram, {&memory, 1});
    auto const opened = agent.register_memory(Segment::File, {&blocks, 1}, {}, "POSIX");
    auto const request = [&](Direction direction) {
      return agent.make_request(direction, Segment::Dram, {&memory, 1}, Segment::File, {&blocks, 1},
                                "a", "posix");
    };
    auto write = request(Direction::Write);
    run(write);
    std::ranges::fill(buffer, std::uint8_t{0});
    auto read = request(Direction::Read);
    run(read);
    EXPECT_EQ(buffer, written);
    ASSERT_EQ(ftruncate(file, 100), 0);
    expect_error(ErrorCode::Io, HasSubstr("local storage"), [&] { run(read); });
    expect_error(ErrorCode::NotFound, HasSubstr("'ucx'"), [&] {
      static_cast<void>(agent.make_request(Direction::Read, Segment::Dram, {&memory, 1},
                                           Segment::File, {&blocks, 1}, "a", "ucx"));
    });
  }
  close(file);
}

}  // namespace
}  // namespace kvbm::nixl
