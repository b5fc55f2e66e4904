// SPDX-License-Identifier: Apache-2.0
#include "object/sigv4.hpp"

#include <gtest/gtest.h>

#include "object/sha256.hpp"
#include "object/text.hpp"

namespace kvbm::object {
namespace {

// The signatures were computed with botocore 1.44.8 for the same time; that of a plain GET is
// also the one that AWS publishes ("get-vanilla").

constexpr char const* kDate = "20150830T123600Z";
constexpr char const* kEmptyHash =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

Credentials example() {
  return {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "", "", {}};
}

SigningRequest plain(std::string method = "GET") {
  return {std::move(method),
          "/",
          {},
          {{"Host", "example.amazonaws.com"}, {"X-Amz-Date", kDate}},
          kEmptyHash};
}

std::string sign(SigningRequest const& request, Credentials const& credentials = example(),
                 std::string_view region = "us-east-1", std::string_view service = "service") {
  return authorization(request, credentials, kDate, region, service);
}

std::string signature_of(std::string const& header) { return header.substr(header.rfind('=') + 1); }

TEST(SigV4, SignsAPlainGetAsPublished) {
  EXPECT_EQ(sign(plain()),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
            "SignedHeaders=host;x-amz-date, "
            "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
}

TEST(SigV4, SortsAndEncodesTheQuery) {
  auto request = plain();
  request.query = {{"Param2", "value2"}, {"Param1", "value1"}, {"a/b", " x~"}};
  EXPECT_EQ(canonical_query(request.query), "Param1=value1&Param2=value2&a%2Fb=%20x~");
  EXPECT_EQ(signature_of(sign(request)),
            "5afe09f6b122c17159b1b0aa70ef480181563af082d703f11eac7b08b600b3fb");
}

TEST(SigV4, TrimsHeaderValues) {
  auto request = plain();
  request.headers.emplace_back("My-Header2", "\"a   b   c\"");
  request.headers.emplace_back("My-Header1", "  value1  ");
  EXPECT_EQ(signature_of(sign(request)),
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736");
}

TEST(SigV4, CoversTheBody) {
  auto request = plain("POST");
  request.payload_hash = to_hex(sha256("Param1=value1"));
  EXPECT_EQ(signature_of(sign(request)),
            "35cd3548c03fab225ffc85a6c77a7fa81d3ced84499e0eef4597253c2eb5e28e");
}

TEST(SigV4, SignsAnObjectWithMetadataAndToken) {
  std::string body;
  for (int i = 0; i < 50; ++i) {
    body += "KV";
  }
  auto credentials = example();
  credentials.session_token = "TOKEN/with+signs==";
  SigningRequest request;
  request.method = "PUT";
  request.path = "/blocks/" + percent_encode("kvbm-v1/a b/\xE1\x88\xB4/x", true);
  request.payload_hash = to_hex(sha256(body));
  request.headers = {{"host", "127.0.0.1:5555"},
                     {"x-amz-meta-kvbm-xxh3", "00ff"},
                     {"x-amz-meta-kvbm-format", "1"},
                     {"x-amz-security-token", credentials.session_token},
                     {"x-amz-content-sha256", request.payload_hash},
                     {"x-amz-date", kDate}};
  EXPECT_EQ(request.path, "/blocks/kvbm-v1/a%20b/%E1%88%B4/x");
  EXPECT_EQ(signature_of(sign(request, credentials, "eu-central-1", "s3")),
            "63dbfc00b86efd966a6de24ec06c92558e5a174132488a104fa76816ab2a2c42");
}

TEST(SigV4, SignsAList) {
  SigningRequest request;
  request.method = "GET";
  request.path = "/blocks";
  request.query = {{"prefix", "a/b c"}, {"max-keys", "1"}, {"list-type", "2"}};
  request.payload_hash = kEmptyHash;
  request.headers = {
      {"host", "127.0.0.1:5555"}, {"x-amz-content-sha256", kEmptyHash}, {"x-amz-date", kDate}};
  EXPECT_EQ(signature_of(sign(request, example(), "us-east-1", "s3")),
            "015858ca1ef4ad91724a6a759fd390160b3b100b548408d4d0874083c1a1484d");
}

TEST(SigV4, JoinsRepeatedHeaders) {
  auto request = plain();
  request.headers.emplace_back("My-Header", "b");
  request.headers.emplace_back("my-header", "a");
  EXPECT_NE(canonical_request(request).find("\nmy-header:b,a\n"), std::string::npos);
}

TEST(SigV4, WritesTheTimeInUtc) {
  EXPECT_EQ(amz_date(std::chrono::system_clock::from_time_t(1440938160)), kDate);
}

TEST(SigV4, HashesPiecesInARow) {
  std::string const all = "abcdef";
  auto const bytes = std::as_bytes(std::span(all));
  std::vector<std::span<std::byte const>> const pieces = {bytes.first(2), bytes.subspan(2, 0),
                                                          bytes.subspan(2)};
  EXPECT_EQ(to_hex(sha256(pieces)), to_hex(sha256(all)));
  EXPECT_EQ(to_hex(sha256("")), kEmptyHash);
}

TEST(Text, DecodesWhatItEncodes) {
  std::string all;
  for (int c = 0; c < 256; ++c) {
    all += static_cast<char>(c);
  }
  EXPECT_EQ(percent_decode(percent_encode(all, false)), all);
  EXPECT_EQ(percent_decode("a%zz%4"), "a%zz%4");
}

TEST(Text, ReadsXmlElements) {
  std::string const xml = "<A><K>a&amp;b&lt;</K></A><A><K></K></A><K>unclosed";
  EXPECT_EQ(xml_text(xml, "K"), "a&b<");
  EXPECT_EQ(xml_elements(xml, "A").size(), 2U);
  EXPECT_EQ(xml_text(xml, "Missing"), std::nullopt);
  EXPECT_EQ(xml_text("<K>unclosed", "K"), std::nullopt);
}

}  // namespace
}  // namespace kvbm::object
