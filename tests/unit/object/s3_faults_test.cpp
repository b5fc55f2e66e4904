// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <chrono>

#include "kvbm/object/s3_client.hpp"
#include "unit/object/object_fixture.hpp"

namespace kvbm::object::test {
namespace {

using Kind = ObjectFault::Kind;

/// A server with one object of 1000 bytes.
class S3Faults : public ::testing::Test {
 protected:
  S3Faults() { server_.store("key", {text_of(pattern(1000, 9)), {}}); }

  static std::string text_of(std::vector<std::byte> const& data) {
    return {reinterpret_cast<char const*>(data.data()), data.size()};
  }
  static void get(S3Client& client) {
    std::vector<std::byte> back(1000);
    client.get("key", back);
    EXPECT_EQ(back, pattern(1000, 9));
  }
  static void put(S3Client& client) { client.put("key", pattern(1'000'000, 8)); }
  [[nodiscard]] S3Options options() const { return options_for(server_.endpoint()); }

  ObjectServer server_;
};

struct FaultCase {
  char const* name;
  ObjectFault fault;
  S3ErrorKind kind;
  ErrorCode code;
  bool is_retried;
  bool is_put = false;
  int native_code = 0;
};

class S3FaultCase : public S3Faults, public ::testing::WithParamInterface<FaultCase> {
 protected:
  static void call(S3Client& client) { GetParam().is_put ? put(client) : get(client); }
};

TEST_P(S3FaultCase, EndsWithItsErrorAfterTheRetriesThatHelp) {
  auto const& param = GetParam();
  server_.add_fault(param.fault);
  S3Client client(options());
  auto const failure = failure_of_call([&] { call(client); });
  EXPECT_EQ(failure.code, param.code) << failure.message;
  EXPECT_EQ(failure.kind, param.kind) << failure.message;
  EXPECT_EQ(failure.native_code, param.native_code);
  EXPECT_EQ(failure.is_corrupt_error, param.code == ErrorCode::Corrupt);
  std::uint32_t const attempts = param.is_retried ? 3 : 1;
  EXPECT_EQ(failure.attempts, attempts);
  EXPECT_EQ(server_.requests().size(), attempts);
  auto const stats = client.stats();
  EXPECT_EQ(stats.requests, attempts);
  EXPECT_EQ(stats.retries, attempts - 1);
  EXPECT_EQ(errors_of(stats, param.kind), attempts);
  EXPECT_EQ(stats.failed, 1U);
  EXPECT_EQ(stats.succeeded, 0U);
  EXPECT_NE(failure.message.find("/blocks/key"), std::string::npos) << failure.message;
}

TEST_P(S3FaultCase, OneFaultIsMadeGoodWhereARetryHelps) {
  auto const& param = GetParam();
  auto fault = param.fault;
  fault.times = 1;
  server_.add_fault(fault);
  S3Client client(options());
  if (param.is_retried) {
    call(client);
    EXPECT_EQ(client.stats().retries, 1U);
    EXPECT_EQ(client.stats().succeeded, 1U);
    EXPECT_EQ(errors_of(client.stats(), param.kind), 1U);
  } else {
    EXPECT_EQ(failure_of_call([&] { call(client); }).kind, param.kind);
    call(client);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, S3FaultCase,
    ::testing::Values(
        FaultCase{
            "Status500", {Kind::Status, 500}, S3ErrorKind::Server, ErrorCode::Io, true, false, EIO},
        FaultCase{
            "Status502", {Kind::Status, 502}, S3ErrorKind::Server, ErrorCode::Io, true, true, EIO},
        FaultCase{
            "Status504", {Kind::Status, 504}, S3ErrorKind::Server, ErrorCode::Io, true, false, EIO},
        FaultCase{"Status503", {Kind::Status, 503}, S3ErrorKind::Throttled, ErrorCode::Busy, true},
        FaultCase{
            "Status429", {Kind::Status, 429}, S3ErrorKind::Throttled, ErrorCode::Busy, true, true},
        FaultCase{"Status403",
                  {Kind::Status, 403},
                  S3ErrorKind::AccessDenied,
                  ErrorCode::Io,
                  false,
                  false,
                  EACCES},
        FaultCase{"Status401",
                  {Kind::Status, 401},
                  S3ErrorKind::AccessDenied,
                  ErrorCode::Io,
                  false,
                  true,
                  EACCES},
        FaultCase{
            "Status404", {Kind::Status, 404}, S3ErrorKind::NoSuchKey, ErrorCode::NotFound, false},
        FaultCase{"Status400",
                  {Kind::Status, 400},
                  S3ErrorKind::Refused,
                  ErrorCode::Io,
                  false,
                  false,
                  EPROTO},
        FaultCase{"Status301",
                  {Kind::Status, 301},
                  S3ErrorKind::Refused,
                  ErrorCode::Io,
                  false,
                  false,
                  EPROTO},
        FaultCase{"Reset",
                  {Kind::Reset},
                  S3ErrorKind::Interrupted,
                  ErrorCode::Io,
                  true,
                  false,
                  ECONNRESET},
        FaultCase{"ResetAfterThePut",
                  {Kind::Reset},
                  S3ErrorKind::Interrupted,
                  ErrorCode::Io,
                  true,
                  true,
                  ECONNRESET},
        FaultCase{"ResetInThePut",
                  {Kind::ResetBody},
                  S3ErrorKind::Interrupted,
                  ErrorCode::Io,
                  true,
                  true,
                  ECONNRESET},
        FaultCase{
            "Truncated", {Kind::Truncate, 500}, S3ErrorKind::Truncated, ErrorCode::Corrupt, true},
        FaultCase{"TruncatedAtOnce",
                  {Kind::Truncate, 0},
                  S3ErrorKind::Truncated,
                  ErrorCode::Corrupt,
                  true},
        FaultCase{"Short", {Kind::Shorten, 1}, S3ErrorKind::WrongSize, ErrorCode::Corrupt, false},
        FaultCase{"Long", {Kind::Lengthen, 1}, S3ErrorKind::WrongSize, ErrorCode::Corrupt, false},
        FaultCase{
            "NoHttp", {Kind::Garbage}, S3ErrorKind::Refused, ErrorCode::Io, false, false, EPROTO}),
    [](auto const& each) { return each.param.name; });

TEST_F(S3Faults, ASilentServerIsGivenUp) {
  server_.add_fault({Kind::Silence});
  auto with = options();
  with.stall_timeout = 30ms;
  S3Client client(with);
  auto const failure = failure_of_call([&] { get(client); });
  EXPECT_TRUE(failure.is_timeout_error);
  EXPECT_EQ(failure.kind, S3ErrorKind::Silent);
  EXPECT_EQ(failure.attempts, 3U);
  EXPECT_NE(failure.message.find("no answer within 30 ms"), std::string::npos) << failure.message;
}

TEST_F(S3Faults, ABodyThatStopsIsGivenUp) {
  server_.add_fault({Kind::Stall});
  auto with = options();
  with.max_retries = 0;
  with.stall_timeout = 1s;  // what comes of the body is there well before
  S3Client client(with);
  auto const failure = failure_of_call([&] { get(client); });
  EXPECT_EQ(failure.kind, S3ErrorKind::Silent);
  EXPECT_NE(failure.message.find("nothing moved"), std::string::npos) << failure.message;
}

TEST_F(S3Faults, TheDeadlineEndsAllAttempts) {
  server_.add_fault({Kind::Silence});
  auto with = options();
  with.deadline = 100ms;
  with.max_retries = 1000;
  S3Client client(with);
  auto const failure = failure_of_call([&] { get(client); });
  EXPECT_TRUE(failure.is_timeout_error);
  EXPECT_EQ(failure.attempts, 1U) << "the only attempt may take all of the time";
  EXPECT_NE(failure.message.find("deadline of 100 ms"), std::string::npos) << failure.message;
}

TEST_F(S3Faults, RetriesEndWithTheDeadlineToo) {
  server_.add_fault({Kind::Status, 503});
  auto with = options();
  with.deadline = 2s;
  with.backoff_base = with.backoff_cap = 24h;  // of which a random part is waited
  S3Client client(with);
  auto const failure = failure_of_call([&] { get(client); });
  EXPECT_EQ(failure.kind, S3ErrorKind::Throttled);
  EXPECT_EQ(failure.attempts, 1U);
  EXPECT_NE(failure.message.find("no time for another attempt"), std::string::npos)
      << failure.message;
}

TEST_F(S3Faults, ASlowServerIsNoFault) {
  server_.add_fault({Kind::Delay, 0, 50ms});
  S3Client client(options());
  get(client);
  EXPECT_EQ(client.stats().retries, 0U);
}

TEST_F(S3Faults, NobodyListens) {
  auto with = options();
  with.endpoint = "http://127.0.0.1:" + std::to_string(testing::closed_port());
  S3Client client(with);
  auto const failure = failure_of_call([&] { get(client); });
  EXPECT_EQ(failure.code, ErrorCode::Io);
  EXPECT_EQ(failure.kind, S3ErrorKind::Unreachable);
  EXPECT_EQ(failure.native_code, ECONNREFUSED);
  EXPECT_EQ(failure.attempts, 3U);
}

TEST_F(S3Faults, TheProbeAsksOnce) {
  auto with = options();
  with.endpoint = "http://127.0.0.1:" + std::to_string(testing::closed_port());
  S3Client nobody(with);
  EXPECT_EQ(failure_of_call([&] { nobody.probe(); }).attempts, 1U);

  auto of_another_bucket = options();
  of_another_bucket.bucket = "nowhere";
  S3Client nowhere(of_another_bucket);
  EXPECT_EQ(failure_of_call([&] { nowhere.probe(); }).kind, S3ErrorKind::NoSuchBucket);

  S3Client client(options());
  client.probe();
  server_.add_fault({Kind::Status, 403, 0ms, "", "", 1});
  EXPECT_EQ(failure_of_call([&] { client.probe(); }).kind, S3ErrorKind::AccessDenied);
  server_.add_fault({Kind::Silence});
  auto impatient = options();
  impatient.stall_timeout = 20ms;
  S3Client silent(impatient);
  auto const failure = failure_of_call([&] { silent.probe(); });
  EXPECT_TRUE(failure.is_timeout_error);
  EXPECT_EQ(failure.attempts, 1U);
}

TEST_F(S3Faults, AMissingBucketIsNoMissingKey) {
  auto with = options();
  with.bucket = "nowhere";
  S3Client client(with);
  auto const failure = failure_of_call([&] { get(client); });
  EXPECT_EQ(failure.kind, S3ErrorKind::NoSuchBucket);
  EXPECT_EQ(failure.http_status, 404);
  EXPECT_EQ(failure_of_call([&] { client.list("", [](auto const&) { return true; }); }).kind,
            S3ErrorKind::NoSuchBucket);
}

TEST_F(S3Faults, ARangeBeyondTheEnd) {
  S3Client client(options());
  std::vector<std::byte> part(100);
  for (std::uint64_t const offset :
       {std::uint64_t{950}, std::uint64_t{1000}, std::uint64_t{5000}}) {
    auto const failure = failure_of_call([&] { client.get_range("key", offset, part); });
    EXPECT_EQ(failure.kind, S3ErrorKind::WrongSize) << offset;
    EXPECT_TRUE(failure.is_corrupt_error);
  }
}

TEST_F(S3Faults, AServerWithoutRangesIsRefused) {
  server_.add_fault({Kind::NoRange});
  S3Client client(options());
  std::vector<std::byte> part(100);
  EXPECT_EQ(failure_of_call([&] { client.get_range("key", 10, part); }).kind, S3ErrorKind::Refused);
}

TEST_F(S3Faults, LongAnswersAreCutOff) {
  S3Client client(options());
  EXPECT_EQ(failure_of_call([&] { client.get_all("key", 999); }).kind, S3ErrorKind::WrongSize);
  EXPECT_EQ(client.get_all("key", 1000).size(), 1000U);
}

TEST_F(S3Faults, ABrokenPutLeavesTheOldObject) {
  server_.add_fault({Kind::ResetBody});
  S3Client client(options());
  EXPECT_EQ(failure_of_call([&] { put(client); }).kind, S3ErrorKind::Interrupted);
  server_.clear_faults();
  get(client);
}

TEST_F(S3Faults, AListThatIsNone) {
  server_.add_fault({Kind::Status, 200});
  S3Client client(options());
  auto const failure = failure_of_call([&] { client.list("", [](auto const&) { return true; }); });
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
}

}  // namespace
}  // namespace kvbm::object::test
