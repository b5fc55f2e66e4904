// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/cost_store.hpp"

#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/core/unique_fd.hpp"

namespace kvbm::transfer {
namespace {

using nlohmann::json;

constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kMaxFileBytes = std::size_t{64} << 10U;
constexpr std::size_t kMaxPoints = 64;
constexpr double kMaxRate = 1e15;   // bytes per second
constexpr double kMaxLatency = 10;  // seconds

constexpr std::array<std::pair<char const*, double CostModel::*>, 5> kHostRates{{
    {"host_copy_rate", &CostModel::host_copy_rate},
    {"host_permute_rate", &CostModel::host_permute_rate},
    {"host_element_rate", &CostModel::host_element_rate},
    {"disk_read_rate", &CostModel::disk_read_rate},
    {"disk_write_rate", &CostModel::disk_write_rate},
}};
constexpr std::array<std::pair<char const*, double CostModel::*>, 2> kHostLatencies{{
    {"stream_latency", &CostModel::stream_latency},
    {"disk_latency", &CostModel::disk_latency},
}};
constexpr std::array<std::pair<char const*, LinkCosts GpuCosts::*>, 3> kLinks{{
    {"h2d", &GpuCosts::h2d},
    {"d2h", &GpuCosts::d2h},
    {"d2d", &GpuCosts::d2d},
}};
constexpr std::array<std::pair<char const*, PathCosts LinkCosts::*>, 3> kPaths{{
    {"dma", &LinkCosts::dma},
    {"sm", &LinkCosts::sm},
    {"gather", &LinkCosts::gather},
}};

[[noreturn]] void refuse(std::string const& why) { throw CorruptError(why); }

double positive(json const& value, std::string const& field, double most) {
  if (!value.is_number()) { refuse(field + " is not a number"); }
  auto const number = value.get<double>();
  if (!std::isfinite(number) || number <= 0 || number > most) {
    refuse(fmt::format("{} is {}, not between 0 and {}", field, number, most));
  }
  return number;
}

json const& member(json const& object, char const* key, std::string const& where) {
  if (!object.is_object()) { refuse(where + " is not an object"); }
  auto const found = object.find(key);
  if (found == object.end()) { refuse(fmt::format("{} has no {}", where, key)); }
  return *found;
}

PathCosts parse_path(json const& object, std::string const& where) {
  PathCosts path;
  path.latency = positive(member(object, "latency", where), where + ".latency", kMaxLatency);
  json const& rates = member(object, "rates", where);
  if (!rates.is_array() || rates.empty() || rates.size() > kMaxPoints) {
    refuse(fmt::format("{}.rates is not a list of 1 to {} points", where, kMaxPoints));
  }
  for (json const& point : rates) {
    if (!point.is_array() || point.size() != 2 || !point[0].is_number_unsigned()) {
      refuse(where + ".rates has a point that is not [run_bytes, bytes_per_second]");
    }
    RatePoint const parsed{point[0].get<std::uint64_t>(),
                           positive(point[1], where + ".rates", kMaxRate)};
    if (parsed.run_bytes == 0 ||
        (!path.rates.empty() && parsed.run_bytes <= path.rates.back().run_bytes)) {
      refuse(where + ".rates: run lengths must ascend from 1");
    }
    path.rates.push_back(parsed);
  }
  return path;
}

json to_json(PathCosts const& path) {
  json rates = json::array();
  for (auto const& point : path.rates) {
    rates.push_back(json::array({point.run_bytes, point.bytes_per_second}));
  }
  return {{"latency", path.latency}, {"rates", std::move(rates)}};
}

std::string dump(device::DeviceProperties const& device, CostModel const& costs) {
  json host;
  for (auto const& [name, field] : kHostRates) {
    host[name] = costs.*field;
  }
  for (auto const& [name, field] : kHostLatencies) {
    host[name] = costs.*field;
  }
  json gpu;
  for (auto const& [link_name, link] : kLinks) {
    for (auto const& [path_name, path] : kPaths) {
      gpu[link_name][path_name] = to_json((costs.gpu.*link).*path);
    }
  }
  json const text{{"version", kVersion},
                  {"uuid", device.uuid},
                  {"driver_version", device.driver_version},
                  {"host", std::move(host)},
                  {"gpu", std::move(gpu)}};
  return text.dump(1) + "\n";
}

CostModel parse(std::string const& text, device::DeviceProperties const& device) {
  json const root = json::parse(text, nullptr, false);
  if (root.is_discarded()) { refuse("it is not JSON"); }
  if (json const& version = member(root, "version", "it"); version != kVersion) {
    refuse(fmt::format("its version is {}, this build reads {}", version.dump(), kVersion));
  }
  if (member(root, "uuid", "it") != device.uuid ||
      member(root, "driver_version", "it") != device.driver_version) {
    refuse("it belongs to another device or driver");
  }
  CostModel costs;
  json const& host = member(root, "host", "it");
  for (auto const& [name, field] : kHostRates) {
    costs.*field = positive(member(host, name, "host"), name, kMaxRate);
  }
  for (auto const& [name, field] : kHostLatencies) {
    costs.*field = positive(member(host, name, "host"), name, kMaxLatency);
  }
  json const& gpu = member(root, "gpu", "it");
  for (auto const& [link_name, link] : kLinks) {
    json const& paths = member(gpu, link_name, "gpu");
    for (auto const& [path_name, path] : kPaths) {
      (costs.gpu.*link).*path = parse_path(member(paths, path_name, link_name),
                                           fmt::format("{}.{}", link_name, path_name));
    }
  }
  return costs;
}

std::filesystem::path cache_folder() {
  // getenv races only with setenv, which no part of kvbm calls.
  char const* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') { return std::filesystem::path(cache) / "kvbm"; }
  char const* const home = std::getenv("HOME");
  if (home != nullptr && *home == '/') { return std::filesystem::path(home) / ".cache" / "kvbm"; }
  return {};
}

void write_whole(int fd, std::string const& text, std::string const& path) {
  std::size_t done = 0;
  while (done < text.size()) {
    auto const count = ::write(fd, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) { continue; }
    KVBM_EXPECTS(count > 0, Io, fmt::format("cannot write {}: {}", path, describe_errno(errno)));
    done += static_cast<std::size_t>(count);
  }
}

}  // namespace

std::filesystem::path cost_model_path(device::DeviceProperties const& device) {
  auto const folder = cache_folder();
  if (folder.empty()) { return {}; }
  std::string name = device.uuid.empty() ? "host" : device.uuid;
  for (char& c : name) {
    bool const plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain) { c = '-'; }
  }
  return folder / fmt::format("costs-{}-{}.json", name, device.driver_version);
}

std::optional<CostModel> load_cost_model(device::DeviceProperties const& device) {
  auto const path = cost_model_path(device);
  if (path.empty()) { return std::nullopt; }
  std::ifstream file(path, std::ios::binary);
  if (!file) { return std::nullopt; }
  try {
    std::string text(kMaxFileBytes + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(file.gcount()));
    if (file.bad() || text.size() > kMaxFileBytes) { refuse("it is too large or unreadable"); }
    return parse(text, device);
  } catch (std::exception const& error) {
    log::write(log::Level::Warning,
               fmt::format("measured costs in {} are ignored: {}; run `kvbm tune` again",
                           path.string(), error.what()));
    return std::nullopt;
  }
}

std::filesystem::path save_cost_model(device::DeviceProperties const& device,
                                      CostModel const& costs) {
  auto const path = cost_model_path(device);
  KVBM_EXPECTS(!path.empty(), Io,
               "no folder for measured costs: set XDG_CACHE_HOME or HOME to an absolute path");
  auto const text = dump(device, costs);
  try {
    static_cast<void>(parse(text, device));
  } catch (CorruptError const& error) {
    throw_error(ErrorCode::InvalidArgument,
                fmt::format("costs that cannot be stored: {}", error.what()));
  }
  std::error_code failed;
  std::filesystem::create_directories(path.parent_path(), failed);
  KVBM_EXPECTS(!failed, Io,
               fmt::format("cannot make {}: {}", path.parent_path().string(), failed.message()));
  std::string draft = path.string() + ".XXXXXX";
  UniqueFd const file(::mkstemp(draft.data()));
  KVBM_EXPECTS(file, Io, fmt::format("cannot write {}: {}", draft, describe_errno(errno)));
  try {
    write_whole(file.get(), text, draft);
    KVBM_EXPECTS(::fsync(file.get()) == 0, Io,
                 fmt::format("cannot write {}: {}", draft, describe_errno(errno)));
    KVBM_EXPECTS(::rename(draft.c_str(), path.c_str()) == 0, Io,
                 fmt::format("cannot replace {}: {}", path.string(), describe_errno(errno)));
  } catch (...) {
    ::unlink(draft.c_str());
    throw;
  }
  return path;
}

}  // namespace kvbm::transfer
