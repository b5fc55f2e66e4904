// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kvbm::cli {

/// One cell: what people read, and the value behind it.
struct Cell {
  std::string text;
  nlohmann::json value;

  Cell(std::string shown, nlohmann::json meant) : text(std::move(shown)), value(std::move(meant)) {}
  Cell(std::string shown) : text(shown), value(std::move(shown)) {}  // NOLINT: a text is a cell
  Cell(char const* shown) : Cell(std::string(shown)) {}              // NOLINT: a text is a cell
};

Cell count_cell(std::uint64_t value);
/// "360 KiB"; the value is bytes.
Cell bytes_cell(std::uint64_t bytes);
/// "8.41"; the value is bytes per second.
Cell rate_cell(double bytes_per_second);
/// "97%"; the value is the ratio.
Cell share_cell(double ratio);
/// "1.35x"; the value is the ratio.
Cell times_cell(double ratio);
/// "12.3 us"; the value is seconds.
Cell time_cell(double seconds);
/// No value.
Cell none_cell();

std::string format_bytes(std::uint64_t bytes);
std::string format_time(double seconds);

/// A column: its name in JSON and its heading.
struct Column {
  std::string key;
  std::string heading;
  bool right = true;  ///< aligned to the right
};

/// Rows of cells under one title.
class Table {
 public:
  Table(std::string key, std::string title, std::vector<Column> columns)
      : key_(std::move(key)), title_(std::move(title)), columns_(std::move(columns)) {}

  /// @pre as many cells as columns
  void add(std::vector<Cell> cells) { rows_.push_back(std::move(cells)); }
  /// A line under the table.
  void note(std::string text) { notes_.push_back(std::move(text)); }

  [[nodiscard]] std::string const& key() const noexcept { return key_; }
  [[nodiscard]] bool empty() const noexcept { return rows_.empty(); }
  [[nodiscard]] std::string to_text() const;
  [[nodiscard]] std::string to_markdown() const;
  [[nodiscard]] nlohmann::json to_json() const;

 private:
  [[nodiscard]] std::vector<std::size_t> widths() const;
  std::string key_;
  std::string title_;
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
  std::vector<std::string> notes_;
};

/// How a verb prints what it found.
struct Output {
  bool json = false;
  bool markdown = false;
  std::string save;  ///< where the JSON document goes as well; empty: nowhere

  void add_to(CLI::App& app, bool with_markdown = false);
  /// Adds --save.
  void add_save_to(CLI::App& app);
  /// Prints now unless --json was given.
  void text(std::string const& line) const;
  void table(Table const& table) const;
  /// Prints if --json was given, and writes the file of --save. @throws Error(Io)
  void result(nlohmann::json const& value) const;
};

}  // namespace kvbm::cli
