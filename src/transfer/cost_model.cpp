// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::transfer {
namespace {

constexpr std::uint64_t operator""_KiB(unsigned long long value) { return value << 10U; }

constexpr std::array<std::pair<Strategy, std::string_view>, kNumStrategies> kNames = {{
    {Strategy::HostCopy, "HostCopy"},
    {Strategy::StreamCopy, "StreamCopy"},
    {Strategy::DmaCopy, "DmaCopy"},
    {Strategy::SmCopy, "SmCopy"},
    {Strategy::StagedDma, "StagedDma"},
    {Strategy::PinnedStaging, "PinnedStaging"},
    {Strategy::DirectFile, "DirectFile"},
    {Strategy::StagedFile, "StagedFile"},
    {Strategy::DirectStorage, "DirectStorage"},
    {Strategy::DirectRemote, "DirectRemote"},
    {Strategy::StagedRemote, "StagedRemote"},
    {Strategy::PackedRemote, "PackedRemote"},
}};

}  // namespace

std::string_view to_string(Strategy strategy) noexcept {
  for (auto const& [value, name] : kNames) {
    if (value == strategy) { return name; }
  }
  return "Unknown";
}

Strategy strategy_from_string(std::string_view name) {
  std::string known;
  for (auto const& [value, known_name] : kNames) {
    if (known_name == name) { return value; }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", known_name);
  }
  throw_error(ErrorCode::InvalidArgument,
              fmt::format("strategy '{}' is unknown; there are {}", name, known));
}

std::string_view to_string(LinkDirection direction) noexcept {
  switch (direction) {
    case LinkDirection::HostToDevice: return "H2D";
    case LinkDirection::DeviceToHost: return "D2H";
    case LinkDirection::DeviceToDevice: return "D2D";
  }
  return "unknown";
}

double PathCosts::rate(double run_bytes) const {
  if (rates.empty()) { return 1e9; }
  auto const above = std::find_if(rates.begin(), rates.end(), [run_bytes](RatePoint const& point) {
    return static_cast<double>(point.run_bytes) >= run_bytes;
  });
  if (above == rates.begin()) { return above->bytes_per_second; }
  if (above == rates.end()) { return rates.back().bytes_per_second; }
  RatePoint const& low = *(above - 1);
  RatePoint const& high = *above;
  double const from = std::log(static_cast<double>(low.run_bytes));
  double const part =
      (std::log(run_bytes) - from) / (std::log(static_cast<double>(high.run_bytes)) - from);
  double const a = std::log(low.bytes_per_second);
  double const b = std::log(high.bytes_per_second);
  return std::exp(a + part * (b - a));
}

GpuCosts::GpuCosts() {
  h2d.dma = {8e-6,
             {{2_KiB, 1.3e9},
              {16_KiB, 5e9},
              {32_KiB, 36e9},
              {64_KiB, 44e9},
              {512_KiB, 53e9},
              {2048_KiB, 54.5e9},
              {16384_KiB, 55.4e9}}};
  h2d.sm = {9e-6, {{16, 3e9}, {128, 25e9}, {512, 45e9}, {2_KiB, 50.9e9}, {2048_KiB, 51.5e9}}};
  h2d.gather = {6e-6, {{16, 100e9}, {256, 900e9}, {2_KiB, 1600e9}}};
  d2h.dma = {8e-6,
             {{2_KiB, 3.1e9},
              {16_KiB, 21.5e9},
              {32_KiB, 41e9},
              {64_KiB, 45e9},
              {512_KiB, 53.5e9},
              {2048_KiB, 54.6e9},
              {16384_KiB, 55.3e9}}};
  d2h.sm = {9e-6, {{16, 5e9}, {128, 40e9}, {512, 50e9}, {2_KiB, 52e9}, {2048_KiB, 52.6e9}}};
  d2h.gather = h2d.gather;
  d2d.dma = {7e-6, {{2_KiB, 2e9}, {64_KiB, 60e9}, {2048_KiB, 1300e9}, {65536_KiB, 2051e9}}};
  d2d.sm = {6e-6, {{16, 150e9}, {256, 1300e9}, {2_KiB, 1750e9}, {65536_KiB, 1900e9}}};
  d2d.gather = d2d.sm;
}

LinkCosts const& GpuCosts::operator[](LinkDirection direction) const noexcept {
  switch (direction) {
    case LinkDirection::HostToDevice: return h2d;
    case LinkDirection::DeviceToHost: return d2h;
    case LinkDirection::DeviceToDevice: break;
  }
  return d2d;
}

LinkCosts& GpuCosts::operator[](LinkDirection direction) noexcept {
  return const_cast<LinkCosts&>(std::as_const(*this)[direction]);
}

}  // namespace kvbm::transfer
