// SPDX-License-Identifier: Apache-2.0
//
// Against moto's S3, which has its own view of HTTP, XML and signatures.

#include <algorithm>

#include "object/s3_client_impl.hpp"
#include "unit/object/moto_server.hpp"
#include "unit/object/object_fixture.hpp"

namespace kvbm::object::test {
namespace {

using Kind = ObjectFault::Kind;

class MotoTest : public ::testing::Test {
 protected:
  // Starting it takes seconds: one for all tests, each of which has a bucket of its own.
  static void SetUpTestSuite() {
    if (MotoServer::why_missing().empty()) { server = std::make_unique<MotoServer>(); }
  }
  static void TearDownTestSuite() { server.reset(); }

  void SetUp() override {
    if (server != nullptr) {
      S3Client(options()).create_bucket();
      return;
    }
    if (MotoServer::is_required()) { FAIL() << MotoServer::why_missing(); }
    GTEST_SKIP() << MotoServer::why_missing();
  }

  static S3Options options() {
    auto options = options_for(server->endpoint());
    options.bucket =
        std::string("bucket-") + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    for (char& c : options.bucket) {
      auto const letter = static_cast<unsigned char>(c);
      c = std::isalnum(letter) != 0 ? static_cast<char>(std::tolower(letter)) : '-';
    }
    return options;
  }
  static void store_blocks(ObjectTransport transport);
  static ObjectStoreOptions store_options(std::uint32_t blocks_per_object) {
    ObjectStoreOptions with;
    with.s3 = options();
    with.scheme = {"model", "OperationalNHD", 2, 1, "cache"};
    with.blocks_per_object = blocks_per_object;
    return with;
  }

  static std::unique_ptr<MotoServer> server;
};

std::unique_ptr<MotoServer> MotoTest::server;

TEST_F(MotoTest, PutsGetsListsAndDeletes) {
  S3Client client(options());
  client.probe();
  client.create_bucket();
  auto const data = pattern(3'000'000, 1);
  std::string const key = "a/b c+~&?=\xC3\xA4";
  client.put(key, data, {{"kvbm-format", "1"}});
  std::vector<std::byte> back(data.size());
  EXPECT_EQ(client.get(key, back).find("kvbm-format"), "1");
  EXPECT_EQ(back, data);
  std::vector<std::byte> part(1000);
  EXPECT_EQ(client.get_range(key, 12345, part).bytes, data.size());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), data.begin() + 12345));
  EXPECT_EQ(failure_of_call([&] { client.get_range(key, 2'999'999, part); }).kind,
            S3ErrorKind::WrongSize);
  EXPECT_EQ(failure_of_call([&] { client.get_range(key, 9'999'999, part); }).kind,
            S3ErrorKind::WrongSize);
  EXPECT_EQ(client.head(key)->bytes, data.size());
  std::vector<std::string> listed;
  client.list("a/", [&](S3Listed const& each) {
    listed.push_back(each.key);
    EXPECT_EQ(each.bytes, data.size());
    return true;
  });
  EXPECT_EQ(listed, std::vector<std::string>{key});
  client.delete_object(key);
  EXPECT_EQ(client.head(key), std::nullopt);
  EXPECT_EQ(failure_of_call([&] { client.get(key, back); }).kind, S3ErrorKind::NoSuchKey);
  EXPECT_EQ(client.stats().retries, 0U);
}

TEST_F(MotoTest, ListsMoreThanAPage) {
  S3Client client(options());
  S3Batch batch(client);
  for (int i = 0; i < 1010; ++i) {
    batch.put("many/" + std::to_string(i), {}, {});
  }
  for (auto const& outcome : batch.wait()) {
    ASSERT_EQ(outcome.error, nullptr) << failure_of(outcome.error).message;
  }
  std::size_t count = 0;
  client.list("many/", [&](S3Listed const&) { return ++count > 0; });
  EXPECT_EQ(count, 1010U);
}

TEST_F(MotoTest, AMissingBucketIsSaid) {
  auto with = options();
  with.bucket = "nowhere";
  S3Client client(with);
  EXPECT_EQ(failure_of_call([&] { client.probe(); }).kind, S3ErrorKind::NoSuchBucket);
  EXPECT_EQ(failure_of_call([&] { client.put("key", {}); }).kind, S3ErrorKind::NoSuchBucket);
  std::vector<std::byte> bytes(10);
  EXPECT_EQ(failure_of_call([&] { client.get("key", bytes); }).kind, S3ErrorKind::NoSuchBucket);
  auto with_store = store_options(1);
  with_store.s3.bucket = "nowhere";
  EXPECT_EQ(failure_of_call([&] { ObjectBlockStore::open(with_store, {0, 10, 4096, 1}, ""); }).kind,
            S3ErrorKind::NoSuchBucket);
}

void MotoTest::store_blocks(ObjectTransport transport) {
  for (std::uint32_t const blocks_per_object : {1U, 4U}) {
    auto with = store_options(blocks_per_object);
    with.scheme.model += std::to_string(blocks_per_object);
    with.transport = transport;
    memory::ExtentGroup const geometry{0, 70'000, 73'728, 10};
    auto const store = ObjectBlockStore::open(with, geometry, "descriptor");
    std::vector<std::vector<std::byte>> memory;
    std::vector<memory::ExtentIo> list;
    for (std::uint64_t i = 0; i < geometry.count; ++i) {
      memory.push_back(pattern(geometry.extent_bytes, static_cast<unsigned>(i)));
      list.push_back({0, i, memory.back().data(), memory.back().size()});
    }
    auto const queue = store->make_queue();
    queue->start_write(store, list);
    for (auto const& error : queue->finish()) {
      ASSERT_EQ(error, nullptr) << failure_of(error).message;
    }
    // One block anew, which is a part of an object.
    auto const anew = pattern(geometry.extent_bytes, 55);
    std::copy(anew.begin(), anew.end(), memory[5].begin());
    queue->start_write(store, std::span(list).subspan(5, 1));
    for (auto const& error : queue->finish()) {
      ASSERT_EQ(error, nullptr) << failure_of(error).message;
    }
    auto const expected = memory;
    for (auto& each : memory) {
      each.assign(each.size(), std::byte{0});
    }
    auto const again = ObjectBlockStore::open(with, geometry, "other");
    EXPECT_EQ(again->metadata(), "descriptor");
    auto const reader = again->make_queue();
    reader->start_read(again, list);
    for (auto const& error : reader->finish()) {
      ASSERT_EQ(error, nullptr) << failure_of(error).message;
    }
    EXPECT_EQ(memory, expected);
    again->put("content", expected[0]);
    EXPECT_TRUE(again->exists("content"));
    std::vector<std::byte> bytes(geometry.extent_bytes);
    again->get("content", bytes);
    EXPECT_EQ(bytes, expected[0]);
    EXPECT_EQ(failure_of_call([&] { again->get("nothing", bytes); }).kind, S3ErrorKind::NoSuchKey);
    again->client()->list(with.scheme.temporary_prefix(), [](S3Listed const& each) {
      ADD_FAILURE() << each.key << " stayed";
      return true;
    });
  }
}

TEST_F(MotoTest, StoresBlocks) { store_blocks(ObjectTransport::Curl); }

TEST_F(MotoTest, StoresBlocksOverNixl) {
  KVBM_SKIP_WITHOUT_NIXL_OBJECTS();
  store_blocks(ObjectTransport::Nixl);
}

struct MotoFaultCase {
  char const* name;
  ObjectFault fault;
  S3ErrorKind kind;
  ErrorCode code;
};

// A store whose requests reach moto through a proxy that breaks some of them.
class MotoFaults : public MotoTest, public ::testing::WithParamInterface<MotoFaultCase> {
 protected:
  void SetUp() override {
    MotoTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) { return; }
    proxy_ = std::make_unique<testing::FaultProxy>(server->endpoint());
    ObjectStoreOptions with = store_options(1);
    with.s3.endpoint = proxy_->endpoint();
    store_ = ObjectBlockStore::open(with, {0, kBytes, kBytes, 8}, "");
  }

  static constexpr std::uint64_t kBytes = 40'000;
  std::unique_ptr<testing::FaultProxy> proxy_;
  std::shared_ptr<ObjectBlockStore> store_;
};

TEST_P(MotoFaults, EndWithTheirOwnErrorAndHarmNoBlock) {
  auto const& param = GetParam();
  auto const old = pattern(kBytes, 1);
  store_->put("block", old);
  std::vector<std::byte> back(kBytes);
  auto fault = param.fault;
  for (char const* const method : {"GET", "PUT"}) {
    SCOPED_TRACE(method);
    fault.method = method;
    fault.path_part = "/b/block";
    proxy_->add_fault(fault);
    bool const is_get = fault.method == "GET";
    auto const call = [&] {
      is_get ? store_->get("block", back) : store_->put("block", pattern(kBytes, 2));
    };
    if (!is_get && param.code == ErrorCode::Corrupt) {
      call();  // the answer to a PUT has no body that could be damaged
    } else {
      auto const failure = failure_of_call(call);
      EXPECT_EQ(failure.code, param.code) << failure.message;
      EXPECT_EQ(failure.kind, param.kind) << failure.message;
    }
    proxy_->clear_faults();
    // The old block or the new one, whole.
    store_->get("block", back);
    EXPECT_TRUE(back == old || back == pattern(kBytes, 2));
    store_->put("block", old);
  }
  fault.times = 1;
  fault.method = "GET";
  proxy_->add_fault(fault);
  if (store_->client()->stats().retries > 0) {  // what was tried again is made good
    store_->get("block", back);
    EXPECT_EQ(back, old);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, MotoFaults,
    ::testing::Values(
        MotoFaultCase{"status-500", {Kind::Status, 500}, S3ErrorKind::Server, ErrorCode::Io},
        MotoFaultCase{"status-503", {Kind::Status, 503}, S3ErrorKind::Throttled, ErrorCode::Busy},
        MotoFaultCase{"status-403", {Kind::Status, 403}, S3ErrorKind::AccessDenied, ErrorCode::Io},
        MotoFaultCase{
            "status-404", {Kind::Status, 404}, S3ErrorKind::NoSuchKey, ErrorCode::NotFound},
        MotoFaultCase{"reset", {Kind::Reset}, S3ErrorKind::Interrupted, ErrorCode::Io},
        MotoFaultCase{
            "truncated", {Kind::Truncate, 20'000}, S3ErrorKind::Truncated, ErrorCode::Corrupt}),
    [](auto const& each) {
      std::string name = each.param.name;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// moto checks signatures once it is told to; it computes them with botocore.
TEST(MotoSignatures, AreAcceptedAndWrongOnesRefused) {
  if (auto const why = MotoServer::why_missing(); !why.empty()) {
    if (MotoServer::is_required()) { FAIL() << why; }
    GTEST_SKIP() << why;
  }
  MotoServer const server;
  std::string const output = server.python(R"(
import boto3, json, urllib.request
iam = boto3.client("iam", endpoint_url="{}", region_name="us-east-1")
iam.create_user(UserName="me")
iam.put_user_policy(UserName="me", PolicyName="all", PolicyDocument=json.dumps({"Version":
    "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}))
key = iam.create_access_key(UserName="me")["AccessKey"]
boto3.client("s3", endpoint_url="{}", region_name="us-east-1").create_bucket(Bucket="blocks")
urllib.request.urlopen(urllib.request.Request("{}/moto-api/reset-auth", data=b"0",
    headers={"Content-Type": "text/plain"})).read()
print("KEY", key["AccessKeyId"], key["SecretAccessKey"], "END")
)");
  auto const begin = output.find("KEY ");
  auto const middle = output.find(' ', begin + 4);
  auto const end = output.find(" END");
  ASSERT_TRUE(begin != std::string::npos && end != std::string::npos) << output;
  auto options = options_for(server.endpoint());
  options.credentials = Credentials{output.substr(begin + 4, middle - begin - 4),
                                    output.substr(middle + 1, end - middle - 1),
                                    "",
                                    "moto",
                                    {}};
  for (auto const signing : {PayloadSigning::Signed, PayloadSigning::Unsigned}) {
    options.payload_signing = signing;
    S3Client client(options);
    auto const data = pattern(1234, 1);
    client.put("folder/a b+c", data, {{"kvbm-xxh3", "a,b"}});
    std::vector<std::byte> back(data.size());
    EXPECT_EQ(client.get("folder/a b+c", back).find("kvbm-xxh3"), "a,b");
    EXPECT_EQ(back, data);
    client.list("folder/a b", [](auto const&) { return true; });
    client.delete_object("folder/a b+c");
  }
  bool const has_nixl = nixl_objects_refusal().empty();
  auto const over_nixl = [](S3Options const& with) {
    S3Client client(with);
    auto const nixl = S3Client::Impl::of(client).nixl({});
    auto const batch = make_nixl_batch(client, nixl);
    auto data = pattern(1234, 1);
    batch->put("folder/nixl a+b", {data}, {{"kvbm-xxh3", "a,b"}}, "tmp/");
    auto outcomes = batch->wait();
    batch->get("folder/nixl a+b", 0, {{data.data(), data.size()}}, data.size());
    outcomes.push_back(batch->wait()[0]);
    return std::pair(std::move(outcomes), nixl->failures());
  };
  if (has_nixl) {
    auto const [outcomes, failures] = over_nixl(options);
    EXPECT_EQ(failures, 0U);
    EXPECT_EQ(outcomes[0].error, nullptr);
    EXPECT_EQ(outcomes[1].object.find("kvbm-xxh3"), "a,b");
  }
  auto wrong = options;
  wrong.credentials->secret_access_key += "x";
  S3Client with_wrong_secret(wrong);
  auto failure = failure_of_call([&] { with_wrong_secret.put("key", {}); });
  EXPECT_EQ(failure.kind, S3ErrorKind::AccessDenied);
  EXPECT_EQ(failure.native_code, EACCES);
  EXPECT_NE(failure.message.find("SignatureDoesNotMatch"), std::string::npos) << failure.message;
  if (has_nixl) {
    auto const [outcomes, failures] = over_nixl(wrong);
    EXPECT_EQ(failure_of(outcomes[0].error).kind, S3ErrorKind::AccessDenied);
    EXPECT_EQ(failure_of(outcomes[1].error).kind, S3ErrorKind::AccessDenied);
  }
  wrong.credentials->access_key_id = "AKIANOBODYKNOWSTHIS1";
  ObjectStoreOptions store;
  store.s3 = wrong;
  store.scheme = {"model", "format", 1, 0, ""};
  failure = failure_of_call([&] { ObjectBlockStore::open(store, {0, 10, 4096, 1}, ""); });
  EXPECT_EQ(failure.kind, S3ErrorKind::AccessDenied);
  EXPECT_NE(failure.message.find("InvalidAccessKeyId"), std::string::npos) << failure.message;
}

}  // namespace
}  // namespace kvbm::object::test
