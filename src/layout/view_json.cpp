// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/error.hpp"
#include "kvbm/layout/view.hpp"
#include "layout/json.hpp"

#include <fmt/format.h>

namespace kvbm::layout {
namespace {

using detail::read_unsigned;
using nlohmann::json;

constexpr char const* kWhat = "layout view";
constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kMaxJsonBytes = 16384;

Dim read_dim(json const& object, char const* field) {
  auto const& text = detail::read_string(object, field);
  for (std::size_t i = 0; i < kNumDims; ++i) {
    if (text == to_string(static_cast<Dim>(i))) { return static_cast<Dim>(i); }
  }
  throw CorruptError(
      fmt::format("{}: '{}' names no dimension: '{}'", kWhat, field, text.substr(0, 80)));
}

View view_from_json(json const& value) {
  detail::expect_version(value, kVersion, kWhat);
  detail::expect_fields(
      value, kWhat, {"version", "element_bytes", "offset", "first_region", "axes"}, {"region_dim"});
  std::vector<ViewAxis> axes;
  for (auto const& entry : detail::read_array(value, "axes", kNumDims)) {
    detail::expect_fields(entry, "axis",
                          {"dim", "extent", "stride_bytes", "begin", "full", "sliced"});
    axes.push_back({read_dim(entry, "dim"), read_unsigned(entry, "extent"),
                    read_unsigned(entry, "stride_bytes"), read_unsigned(entry, "begin"),
                    read_unsigned(entry, "full"), detail::read_bool(entry, "sliced")});
    if (axes.back().full == 0) {
      throw CorruptError(
          fmt::format("{}: axis {} is a part of 0 elements", kWhat, to_string(axes.back().dim)));
    }
  }
  std::optional<Dim> region_dim;
  if (value.contains("region_dim")) { region_dim = read_dim(value, "region_dim"); }
  return View(read_unsigned(value, "element_bytes"), std::move(axes),
              read_unsigned(value, "offset"), region_dim, read_unsigned(value, "first_region"));
}

}  // namespace

std::string View::to_json() const {
  auto axes = json::array();
  for (auto const& axis : axes_) {
    axes.push_back({{"dim", to_string(axis.dim)},
                    {"extent", axis.extent},
                    {"stride_bytes", axis.stride_bytes},
                    {"begin", axis.begin},
                    {"full", axis.full},
                    {"sliced", axis.sliced}});
  }
  json value{{"version", kVersion},
             {"element_bytes", element_bytes_},
             {"offset", offset_},
             {"first_region", first_region_},
             {"axes", std::move(axes)}};
  if (region_dim_) { value["region_dim"] = to_string(*region_dim_); }
  return value.dump();
}

View View::from_json(std::string_view text) {
  auto const value = detail::parse_untrusted(text, kMaxJsonBytes, kWhat);
  try {
    return view_from_json(value);
  } catch (Error const& error) {
    if (error.code() == ErrorCode::VersionMismatch || error.code() == ErrorCode::Corrupt) { throw; }
    throw CorruptError(fmt::format("{}: {}", kWhat, error.what()));
  }
}

}  // namespace kvbm::layout
