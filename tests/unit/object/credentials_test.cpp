// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "kvbm/core/error.hpp"
#include "object/credential_chain.hpp"

namespace kvbm::object {
namespace {

/// A machine of the test's own making.
struct FakeWorld {
  std::map<std::string, std::string> variables{{"HOME", "/home/me"}};
  std::map<std::string, std::string> files;
  std::map<std::string, std::string> answers;  // "GET url" -> body
  std::vector<std::string> asked;
  std::string sent_token;

  ChainWorld world() {
    ChainWorld world;
    world.variable = [this](char const* name) { return find(variables, name); };
    world.read_file = [this](std::filesystem::path const& file) {
      return find(files, file.string());
    };
    world.ask = [this](char const* method, std::string const& url, auto const& headers) {
      asked.push_back(std::string(method) + " " + url);
      for (auto const& header : headers) {
        sent_token = header.second;
      }
      auto const body = find(answers, asked.back());
      return body ? HttpAnswer{200, *body, {}} : HttpAnswer{0, {}, "Timeout was reached"};
    };
    return world;
  }
  Credentials get() { return find_credentials(world()); }

 private:
  static std::optional<std::string> find(std::map<std::string, std::string> const& map,
                                         std::string const& name) {
    auto const found = map.find(name);
    return found == map.end() ? std::nullopt : std::optional<std::string>(found->second);
  }
};

constexpr char const* kFile =
    "# mine\n[default]\naws_access_key_id = FILEID\naws_secret_access_key=FILESECRET\n\n"
    "[ work ]\naws_access_key_id=WORKID\r\naws_secret_access_key = WORK=SECRET==\r\n"
    "aws_session_token = WORKTOKEN\n[empty]\nregion = x\n";
constexpr char const* kAnswer =
    R"({"AccessKeyId":"ROLEID","SecretAccessKey":"ROLESECRET","Token":"ROLETOKEN",)"
    R"("Expiration":"2030-01-02T03:04:05Z"})";
constexpr char const* kInstance = "http://169.254.169.254/latest/";

TEST(CredentialChain, TheEnvironmentComesFirst) {
  FakeWorld fake;
  fake.files["/home/me/.aws/credentials"] = kFile;
  fake.variables["AWS_ACCESS_KEY_ID"] = "ENVID";
  fake.variables["AWS_SECRET_ACCESS_KEY"] = "ENVSECRET";
  fake.variables["AWS_SESSION_TOKEN"] = "ENVTOKEN";
  auto const found = fake.get();
  EXPECT_EQ(found.access_key_id, "ENVID");
  EXPECT_EQ(found.secret_access_key, "ENVSECRET");
  EXPECT_EQ(found.session_token, "ENVTOKEN");
  EXPECT_EQ(found.source, "the environment");
  EXPECT_TRUE(fake.asked.empty());
}

TEST(CredentialChain, HalfAnEnvironmentIsNone) {
  FakeWorld fake;
  fake.files["/home/me/.aws/credentials"] = kFile;
  fake.variables["AWS_ACCESS_KEY_ID"] = "ENVID";
  EXPECT_EQ(fake.get().access_key_id, "FILEID");
}

TEST(CredentialChain, ReadsTheProfile) {
  FakeWorld fake;
  fake.files["/home/me/.aws/credentials"] = kFile;
  EXPECT_EQ(fake.get().secret_access_key, "FILESECRET");
  EXPECT_EQ(fake.get().session_token, "");
  fake.variables["AWS_PROFILE"] = "work";
  EXPECT_EQ(fake.get().access_key_id, "WORKID");
  EXPECT_EQ(fake.get().secret_access_key, "WORK=SECRET==");
  EXPECT_EQ(fake.get().session_token, "WORKTOKEN");
  EXPECT_EQ(fake.get().source, "profile work of /home/me/.aws/credentials");
}

TEST(CredentialChain, FilesCanLieElsewhere) {
  FakeWorld fake;
  fake.files["/etc/keys"] = kFile;
  fake.variables["AWS_SHARED_CREDENTIALS_FILE"] = "/etc/keys";
  EXPECT_EQ(fake.get().access_key_id, "FILEID");
}

TEST(CredentialChain, TheConfigFileSaysProfile) {
  FakeWorld fake;
  fake.variables["AWS_PROFILE"] = "work";
  fake.files["/home/me/.aws/config"] =
      "[profile work]\naws_access_key_id=CONFIGID\naws_secret_access_key=CONFIGSECRET\n";
  EXPECT_EQ(fake.get().access_key_id, "CONFIGID");
}

TEST(CredentialChain, AsksTheContainer) {
  FakeWorld fake;
  fake.variables["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = "/v2/me";
  fake.answers["GET http://169.254.170.2/v2/me"] = kAnswer;
  auto const found = fake.get();
  EXPECT_EQ(found.access_key_id, "ROLEID");
  EXPECT_EQ(found.session_token, "ROLETOKEN");
  ASSERT_TRUE(found.expiration);
  EXPECT_EQ(std::chrono::system_clock::to_time_t(*found.expiration), 1893553445);
}

TEST(CredentialChain, AContainersTokenGoesToThisMachineOnly) {
  FakeWorld fake;
  fake.variables["AWS_EC2_METADATA_DISABLED"] = "true";
  fake.variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = "/run/token";
  fake.files["/run/token"] = "TOKEN\n";
  for (char const* const url : {"http://example.com/x", "http://127.0.0.1.example.com/x",
                                "http://127.0.0.1:80@example.com/x"}) {
    fake.variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = url;
    EXPECT_THROW(fake.get(), Error) << url;
    EXPECT_TRUE(fake.asked.empty()) << url;
  }
  fake.variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://127.0.0.1:9/x";
  fake.answers["GET http://127.0.0.1:9/x"] = kAnswer;
  EXPECT_EQ(fake.get().access_key_id, "ROLEID");
  EXPECT_EQ(fake.sent_token, "TOKEN");
}

TEST(CredentialChain, AsksTheInstanceWithAToken) {
  FakeWorld fake;
  std::string const base = kInstance;
  fake.answers["PUT " + base + "api/token"] = "IMDSTOKEN";
  fake.answers["GET " + base + "meta-data/iam/security-credentials/"] = "my-role\n";
  fake.answers["GET " + base + "meta-data/iam/security-credentials/my-role"] = kAnswer;
  EXPECT_EQ(fake.get().access_key_id, "ROLEID");
  EXPECT_EQ(fake.sent_token, "IMDSTOKEN");
}

TEST(CredentialChain, TheInstanceCanBeSwitchedOff) {
  FakeWorld fake;
  fake.variables["AWS_EC2_METADATA_DISABLED"] = "TRUE";
  EXPECT_THROW(fake.get(), Error);
  EXPECT_TRUE(fake.asked.empty());
}

TEST(CredentialChain, SaysWhatWasLookedAt) {
  FakeWorld fake;
  fake.files["/home/me/.aws/credentials"] = "[other]\naws_access_key_id=A\n";
  try {
    fake.get();
    FAIL() << "nothing was thrown";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ErrorCode::NotFound);
    std::string const message = error.what();
    for (char const* const part :
         {"AWS_ACCESS_KEY_ID is not set", "/home/me/.aws/credentials (has no keys",
          "/home/me/.aws/config (cannot be read)", "container", "Timeout was reached"}) {
      EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
    }
  }
}

TEST(CredentialChain, DamagedAnswersAreNoCredentials) {
  for (char const* const answer :
       {"", "{", "[]", "{\"AccessKeyId\":1}", "{\"AccessKeyId\":\"A\"}"}) {
    FakeWorld fake;
    fake.variables["AWS_EC2_METADATA_DISABLED"] = "true";
    fake.variables["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = "/x";
    fake.answers["GET http://169.254.170.2/x"] = answer;
    EXPECT_THROW(fake.get(), Error) << answer;
  }
}

TEST(Credentials, TextHidesTheSecret) {
  Credentials const credentials{"AKIAIOSFODNN7EXAMPLE", "very-secret", "my-token", "a test", {}};
  EXPECT_EQ(to_string(credentials), "AKIA...MPLE with a session token from a test");
  EXPECT_EQ(to_string(Credentials{"abc", "s", "", "", {}}), "...");
}

TEST(Credentials, ReadsTimes) {
  EXPECT_EQ(parse_time("yesterday"), std::nullopt);
  EXPECT_EQ(parse_time(""), std::nullopt);
  EXPECT_TRUE(parse_time("2026-01-31T12:00:00.123Z"));
}

}  // namespace
}  // namespace kvbm::object
