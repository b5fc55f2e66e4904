// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::testing {

/// The text format 0.0.4 of Prometheus, read as strictly as its rules allow and a little more: each
/// family is one piece with HELP and TYPE first, no series comes twice, counters end with _total,
/// and histograms are complete.
class Exposition {
 public:
  using Labels = std::map<std::string, std::string>;
  struct Family {
    std::string help;
    std::string type;
    std::map<std::pair<std::string, Labels>, double> series;  ///< by full name and labels
  };

  /// @throws std::runtime_error naming the line
  explicit Exposition(std::string_view text) {
    if (text.empty() || text.back() != '\n') { fail("the text does not end with a line feed"); }
    while (!text.empty()) {
      auto const end = text.find('\n');
      line_ = text.substr(0, end);
      text.remove_prefix(end + 1);
      ++number_;
      if (line_.starts_with("# HELP ")) {
        read_help();
      } else if (line_.starts_with("# TYPE ")) {
        read_type();
      } else {
        read_sample();
      }
    }
    finish_family();
  }

  [[nodiscard]] std::map<std::string, Family> const& families() const noexcept { return families_; }
  [[nodiscard]] bool has(std::string const& name, Labels const& labels = {}) const {
    auto const family = families_.find(name);
    return family != families_.end() && family->second.series.contains({name, labels});
  }
  /// The value of a counter or gauge. @throws std::out_of_range
  [[nodiscard]] double value(std::string const& name, Labels const& labels = {}) const {
    return families_.at(name).series.at({name, labels});
  }
  /// Of a histogram: "_count" or "_sum".
  [[nodiscard]] double part(std::string const& name, std::string const& suffix,
                            Labels const& labels) const {
    return families_.at(name).series.at({name + suffix, labels});
  }
  /// Sum over all series of a name that carry `labels` among others.
  [[nodiscard]] double sum(std::string const& name, Labels const& labels = {}) const {
    double total = 0;
    auto const family = families_.find(name);
    if (family == families_.end()) { return total; }
    for (auto const& [series, value] : family->second.series) {
      bool matches = true;
      for (auto const& [label, wanted] : labels) {
        auto const found = series.second.find(label);
        matches = matches && found != series.second.end() && found->second == wanted;
      }
      if (matches) { total += value; }
    }
    return total;
  }

 private:
  [[noreturn]] void fail(std::string const& why) const {
    throw std::runtime_error("line " + std::to_string(number_) + ": " + why + ": " +
                             std::string(line_));
  }

  std::string take_name(bool colons) {
    std::size_t length = 0;
    while (length < line_.size()) {
      char const c = line_[length];
      bool const letter =
          (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (colons && c == ':');
      if (!letter && !(length > 0 && c >= '0' && c <= '9')) { break; }
      ++length;
    }
    if (length == 0) { fail("no name"); }
    std::string const name(line_.substr(0, length));
    line_.remove_prefix(length);
    return name;
  }
  void take(char expected) {
    if (line_.empty() || line_.front() != expected) { fail(std::string("no ") + expected); }
    line_.remove_prefix(1);
  }

  void read_help() {
    finish_family();
    line_.remove_prefix(7);
    name_ = take_name(true);
    take(' ');
    if (!families_.emplace(name_, Family{std::string(line_), "", {}}).second) {
      fail("a family in two pieces");
    }
  }

  void read_type() {
    line_.remove_prefix(7);
    if (take_name(true) != name_) { fail("TYPE without HELP"); }
    take(' ');
    auto& type = families_.at(name_).type;
    if (!type.empty()) { fail("two types"); }
    type = line_;
    if (type != "counter" && type != "gauge" && type != "histogram") { fail("unknown type"); }
    if ((type == "counter") != name_.ends_with("_total")) { fail("_total is for counters"); }
  }

  Labels take_labels() {
    Labels labels;
    if (line_.empty() || line_.front() != '{') { return labels; }
    take('{');
    while (line_.empty() || line_.front() != '}') {
      if (!labels.empty()) { take(','); }
      auto const label = take_name(false);
      take('=');
      take('"');
      std::string value;
      while (!line_.empty() && line_.front() != '"') {
        char c = line_.front();
        line_.remove_prefix(1);
        if (c == '\\') {
          if (line_.empty()) { fail("escape at the end"); }
          c = line_.front();
          line_.remove_prefix(1);
          if (c == 'n') {
            c = '\n';
          } else if (c != '\\' && c != '"') {
            fail("unknown escape");
          }
        }
        value += c;
      }
      take('"');
      if (!labels.emplace(label, value).second) { fail("a label twice"); }
    }
    take('}');
    return labels;
  }

  double take_value() {
    if (line_ == "+Inf") { return std::numeric_limits<double>::infinity(); }
    double value = 0;
    auto const [end, error] = std::from_chars(line_.data(), line_.data() + line_.size(), value);
    if (error != std::errc{} || end != line_.data() + line_.size()) { fail("no number"); }
    return value;
  }

  void read_sample() {
    auto const name = take_name(true);
    auto labels = take_labels();
    take(' ');
    double const value = take_value();
    auto const family = families_.find(name_);
    if (family == families_.end() || family->second.type.empty()) { fail("a sample without TYPE"); }
    bool const part =
        family->second.type == "histogram" &&
        (name == name_ + "_bucket" || name == name_ + "_sum" || name == name_ + "_count");
    if (family->second.type == "histogram" ? !part : name != name_) { fail("another family's"); }
    if (name == name_ + "_bucket" && !labels.contains("le")) { fail("a bucket without le"); }
    if (value < 0) { fail("below zero"); }
    if (!family->second.series.emplace(std::pair(name, std::move(labels)), value).second) {
      fail("a series twice");
    }
  }

  void finish_family() {
    auto const family = families_.find(name_);
    if (family == families_.end()) { return; }
    if (family->second.help.empty()) { fail("no help for " + name_); }
    if (family->second.series.empty()) { fail("nothing of " + name_); }
    if (family->second.type != "histogram") { return; }
    std::map<Labels, std::map<double, double>> buckets;
    for (auto const& [series, value] : family->second.series) {
      if (series.first != name_ + "_bucket") { continue; }
      auto labels = series.second;
      std::string const bound = labels.at("le");
      labels.erase("le");
      double parsed = std::numeric_limits<double>::infinity();
      if (bound != "+Inf") {
        auto const [end, error] =
            std::from_chars(bound.data(), bound.data() + bound.size(), parsed);
        if (error != std::errc{} || end != bound.data() + bound.size()) {
          fail("no bound: " + bound);
        }
      }
      buckets[labels][parsed] = value;
    }
    for (auto const& [labels, counts] : buckets) {
      double below = 0;
      for (auto const& [bound, count] : counts) {
        if (count < below) { fail("buckets of " + name_ + " are not cumulative"); }
        below = count;
      }
      if (!std::isinf(counts.rbegin()->first)) { fail("no bucket +Inf of " + name_); }
      auto const total = family->second.series.find({name_ + "_count", labels});
      if (total == family->second.series.end() || total->second != below ||
          !family->second.series.contains({name_ + "_sum", labels})) {
        fail("count and sum of " + name_ + " do not fit its buckets");
      }
    }
  }

  std::string_view line_;
  std::size_t number_ = 0;
  std::string name_;
  std::map<std::string, Family> families_;
};

}  // namespace kvbm::testing
