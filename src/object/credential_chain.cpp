// SPDX-License-Identifier: Apache-2.0
#include "object/credential_chain.hpp"

#include <time.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "kvbm/core/error.hpp"
#include "object/text.hpp"

namespace kvbm::object {

namespace {

constexpr std::chrono::milliseconds kEndpointTimeout{1000};
constexpr std::size_t kMostFileBytes = 1 << 20;

/// One step of the chain: credentials, or a reason in `looked_at` why it has none.
class Chain {
 public:
  explicit Chain(ChainWorld const& world) : world_(world) {}

  Credentials find() {
    for (auto const step : {&Chain::from_environment, &Chain::from_files, &Chain::from_container,
                            &Chain::from_instance}) {
      if (auto found = (this->*step)()) { return std::move(*found); }
    }
    throw_error(ErrorCode::NotFound,
                "no credentials for the object store; looked at" + looked_at_ +
                    ". Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name them in the "
                    "options");
  }

 private:
  [[nodiscard]] std::string variable(char const* name) const {
    return world_.variable(name).value_or("");
  }
  void note(std::string const& what) {
    looked_at_ += looked_at_.empty() ? ": " : "; ";
    looked_at_ += what;
  }

  std::optional<Credentials> from_environment() {
    std::string const id = variable("AWS_ACCESS_KEY_ID");
    std::string const secret = variable("AWS_SECRET_ACCESS_KEY");
    if (id.empty() || secret.empty()) {
      char const* const missing = id.empty() ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY";
      note(std::string("the environment (") + missing + " is not set)");
      return std::nullopt;
    }
    return Credentials{id, secret, variable("AWS_SESSION_TOKEN"), "the environment", {}};
  }

  std::optional<Credentials> from_files() {
    std::string profile = variable("AWS_PROFILE");
    if (profile.empty()) { profile = "default"; }
    std::filesystem::path const folder = std::filesystem::path(variable("HOME")) / ".aws";
    auto const file_of = [&](char const* name, char const* usual) {
      std::string const named = variable(name);
      return named.empty() ? folder / usual : std::filesystem::path(named);
    };
    // In the second file all profiles but "default" have a word in front.
    if (auto found =
            from_file(file_of("AWS_SHARED_CREDENTIALS_FILE", "credentials"), profile, profile)) {
      return found;
    }
    return from_file(file_of("AWS_CONFIG_FILE", "config"),
                     profile == "default" ? profile : "profile " + profile, profile);
  }

  std::optional<Credentials> from_file(std::filesystem::path const& file,
                                       std::string const& section, std::string const& profile) {
    auto const text = world_.read_file(file);
    if (!text) {
      note(file.string() + " (cannot be read)");
      return std::nullopt;
    }
    auto const value = [&](char const* name) {
      return profile_value(*text, section, name).value_or("");
    };
    std::string const id = value("aws_access_key_id");
    std::string const secret = value("aws_secret_access_key");
    if (id.empty() || secret.empty()) {
      note(file.string() + " (has no keys for profile " + printable(profile, 64) + ")");
      return std::nullopt;
    }
    return Credentials{id,
                       secret,
                       value("aws_session_token"),
                       "profile " + printable(profile, 64) + " of " + file.string(),
                       {}};
  }

  std::optional<Credentials> from_container() {
    std::string const relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    std::string const full = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    if (relative.empty() && full.empty()) {
      note("a container's endpoint (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is not set)");
      return std::nullopt;
    }
    std::string const url = relative.empty() ? full : "http://169.254.170.2" + relative;
    if (relative.empty() && !may_ask(url)) {
      note("AWS_CONTAINER_CREDENTIALS_FULL_URI (neither https nor an address of this machine)");
      return std::nullopt;
    }
    std::vector<std::pair<std::string, std::string>> headers;
    std::string token = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    std::string const token_file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    if (!token_file.empty()) {
      token = std::string(trim(world_.read_file(token_file).value_or("")));
    }
    if (!token.empty()) { headers.emplace_back("Authorization", token); }
    return from_answer(world_.ask("GET", url, headers), "the container's endpoint");
  }

  /// The token in a request to an address that anybody may listen on would be given away.
  static bool may_ask(std::string_view url) {
    if (url.substr(0, 8) == "https://") { return true; }
    for (std::string_view const host :
         {"http://127.0.0.1", "http://localhost", "http://[::1]", "http://169.254.170.2",
          "http://169.254.170.23", "http://[fd00:ec2::23]"}) {
      if (url.substr(0, host.size()) != host) { continue; }
      std::string_view const rest = url.substr(host.size());
      if (rest.empty() || rest.front() == ':' || rest.front() == '/') {
        return rest.substr(0, rest.find('/')).find('@') == std::string_view::npos;
      }
    }
    return false;
  }

  std::optional<Credentials> from_instance() {
    std::string const what = "the instance's metadata service";
    if (to_lower(variable("AWS_EC2_METADATA_DISABLED")) == "true") {
      note(what + " (AWS_EC2_METADATA_DISABLED is true)");
      return std::nullopt;
    }
    std::string base = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    if (base.empty()) { base = "http://169.254.169.254"; }
    while (base.back() == '/') {
      base.pop_back();
    }
    auto const token = world_.ask("PUT", base + "/latest/api/token",
                                  {{"X-aws-ec2-metadata-token-ttl-seconds", "21600"}});
    if (token.status != 200) {
      note(what + " (" + reason(token) + ")");
      return std::nullopt;
    }
    std::vector<std::pair<std::string, std::string>> const headers = {
        {"X-aws-ec2-metadata-token", std::string(trim(token.body))}};
    std::string const roles = base + "/latest/meta-data/iam/security-credentials/";
    auto const role = world_.ask("GET", roles, headers);
    if (role.status != 200) {
      note(what + " (no role: " + reason(role) + ")");
      return std::nullopt;
    }
    std::string const first(trim(role.body.substr(0, role.body.find('\n'))));
    return from_answer(world_.ask("GET", roles + percent_encode(first, false), headers), what);
  }

  static std::string reason(HttpAnswer const& answer) {
    return answer.status == 0 ? answer.why : "status " + std::to_string(answer.status);
  }

  std::optional<Credentials> from_answer(HttpAnswer const& answer, std::string const& source) {
    if (answer.status != 200) {
      note(source + " (" + reason(answer) + ")");
      return std::nullopt;
    }
    auto const json = nlohmann::json::parse(answer.body, nullptr, false);
    auto const text = [&json](char const* name) {
      auto const found = json.is_object() ? json.find(name) : json.end();
      return json.is_object() && found != json.end() && found->is_string()
                 ? found->get<std::string>()
                 : std::string();
    };
    Credentials credentials{text("AccessKeyId"), text("SecretAccessKey"), text("Token"), source,
                            parse_time(text("Expiration"))};
    if (credentials.access_key_id.empty() || credentials.secret_access_key.empty()) {
      note(source + " (its answer has no keys)");
      return std::nullopt;
    }
    return credentials;
  }

  ChainWorld const& world_;
  std::string looked_at_;
};

}  // namespace

ChainWorld ChainWorld::real() {
  ChainWorld world;
  world.variable = [](char const* name) -> std::optional<std::string> {
    char const* const value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  world.read_file = [](std::filesystem::path const& file) -> std::optional<std::string> {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) { return std::nullopt; }
    std::string text(std::istreambuf_iterator<char>(stream), {});
    if (stream.bad() || text.size() > kMostFileBytes) { return std::nullopt; }
    return text;
  };
  world.ask = [](char const* method, std::string const& url, auto const& headers) {
    return http_ask(method, url, headers, kEndpointTimeout);
  };
  return world;
}

Credentials find_credentials(ChainWorld const& world) { return Chain(world).find(); }

std::optional<std::chrono::system_clock::time_point> parse_time(std::string const& text) {
  std::tm parts{};
  char const* const end = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
  if (end == nullptr) { return std::nullopt; }
  return std::chrono::system_clock::from_time_t(timegm(&parts));
}

std::optional<std::string> profile_value(std::string_view file, std::string_view section,
                                         std::string_view name) {
  bool is_inside = false;
  std::optional<std::string> value;
  while (!file.empty()) {
    auto const end = file.find('\n');
    std::string_view const line = trim(file.substr(0, end));
    file.remove_prefix(end == std::string_view::npos ? file.size() : end + 1);
    if (line.empty() || line.front() == '#' || line.front() == ';') { continue; }
    if (line.front() == '[') {
      auto const close = line.find(']');
      is_inside = close != std::string_view::npos && trim(line.substr(1, close - 1)) == section;
      continue;
    }
    auto const equals = line.find('=');
    if (is_inside && equals != std::string_view::npos && trim(line.substr(0, equals)) == name) {
      value = std::string(trim(line.substr(equals + 1)));
    }
  }
  return value;
}

}  // namespace kvbm::object
