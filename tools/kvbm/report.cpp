// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "kvbm/core/error.hpp"

namespace kvbm::cli {
namespace {

/// Display width: our own text is ASCII.
std::string pad(std::string const& text, std::size_t width, bool right) {
  return right ? fmt::format("{:>{}}", text, width) : fmt::format("{:<{}}", text, width);
}

std::string rstrip(std::string text) {
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

void print(std::string const& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

std::string format_bytes(std::uint64_t bytes) {
  static constexpr std::array<char const*, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  bool const whole = value == std::floor(value);
  return fmt::format("{:.{}f} {}", value, whole ? 0 : (value < 100 ? 2 : 1), kUnits[unit]);
}

std::string format_time(double seconds) {
  if (seconds < 1e-6) { return fmt::format("{:.3g} ns", seconds * 1e9); }
  if (seconds < 1e-3) { return fmt::format("{:.3g} us", seconds * 1e6); }
  if (seconds < 1) { return fmt::format("{:.3g} ms", seconds * 1e3); }
  return fmt::format("{:.3g} s", seconds);
}

Cell count_cell(std::uint64_t value) { return {fmt::format("{}", value), value}; }
Cell bytes_cell(std::uint64_t bytes) { return {format_bytes(bytes), bytes}; }
Cell rate_cell(double bytes_per_second) {
  return {fmt::format("{:.2f}", bytes_per_second / 1e9), bytes_per_second};
}
Cell share_cell(double ratio) { return {fmt::format("{:.0f}%", ratio * 100), ratio}; }
Cell times_cell(double ratio) { return {fmt::format("{:.2f}x", ratio), ratio}; }
Cell time_cell(double seconds) { return {format_time(seconds), seconds}; }
Cell none_cell() { return {"-", nullptr}; }

std::vector<std::size_t> Table::widths() const {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    std::size_t width = columns_[c].heading.size();
    for (auto const& row : rows_) {
      width = std::max(width, row[c].text.size());
    }
    widths.push_back(width);
  }
  return widths;
}

std::string Table::to_text() const {
  auto const width = widths();
  std::string text = title_.empty() ? "" : title_ + "\n";
  std::string line = " ";
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    line += " " + pad(columns_[c].heading, width[c], columns_[c].right) + " ";
  }
  text += rstrip(line) + "\n";
  for (auto const& row : rows_) {
    line = " ";
    for (std::size_t c = 0; c < row.size(); ++c) {
      line += " " + pad(row[c].text, width[c], columns_[c].right) + " ";
    }
    text += rstrip(line) + "\n";
  }
  for (auto const& note : notes_) {
    text += "  " + note + "\n";
  }
  return text;
}

std::string Table::to_markdown() const {
  std::string text = title_.empty() ? "" : "**" + title_ + "**\n\n";
  std::string rule = "|";
  text += "|";
  for (auto const& column : columns_) {
    text += " " + column.heading + " |";
    rule += column.right ? " ---: |" : " --- |";
  }
  text += "\n" + rule + "\n";
  for (auto const& row : rows_) {
    text += "|";
    for (auto const& cell : row) {
      text += " " + cell.text + " |";
    }
    text += "\n";
  }
  for (auto const& note : notes_) {
    text += "\n" + note + "\n";
  }
  return text;
}

nlohmann::json Table::to_json() const {
  nlohmann::json rows = nlohmann::json::array();
  for (auto const& row : rows_) {
    nlohmann::json object = nlohmann::json::object();
    for (std::size_t c = 0; c < row.size(); ++c) {
      object[columns_[c].key] = row[c].value;
    }
    rows.push_back(std::move(object));
  }
  return rows;
}

void Output::add_to(CLI::App& app, bool with_markdown) {
  auto* const as_json = app.add_flag("--json", json, "print one JSON document instead of text");
  if (with_markdown) {
    app.add_flag("--markdown", markdown, "print tables as Markdown")->excludes(as_json);
  }
}

void Output::add_save_to(CLI::App& app) {
  app.add_option("--save", save, "file for the JSON document");
}

void Output::text(std::string const& line) const {
  if (!json) { print(line + "\n"); }
}

void Output::table(Table const& table) const {
  if (!json) { print((markdown ? table.to_markdown() : table.to_text()) + "\n"); }
}

void Output::result(nlohmann::json const& value) const {
  if (json) { print(value.dump(2) + "\n"); }
  if (save.empty()) { return; }
  std::ofstream file(save);
  file << value.dump(1) << "\n" << std::flush;
  KVBM_EXPECTS(file.good(), Io, "cannot write " + save);
}

}  // namespace kvbm::cli
