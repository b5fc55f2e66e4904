// SPDX-License-Identifier: Apache-2.0
#include "plot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "canvas.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::cli {
namespace {

struct Bar {
  std::string label;
  double share = 0;  ///< of the limit
  double rate = 0;   ///< bytes per second
  Color color = 0;
};

struct Group {
  std::string title;
  std::vector<Bar> bars;
};

constexpr Color kText = 0x222222;
constexpr Color kFaint = 0xDDDDDD;
constexpr Color kLimit = 0xB03030;

Color color_of(nlohmann::json const& way) {
  if (way.at("name") != "kvbm") { return 0x9AA5B1; }
  bool const spare = way.at("spare") == "SpareSms";
  if (way.at("automatic").get<bool>()) { return spare ? 0x66A182 : 0x2E8B57; }
  return spare ? 0xA8C5E8 : 0x4A7FBF;
}

std::vector<Group> groups_of(nlohmann::json const& report) {
  constexpr std::size_t kMaxGroups = 60;
  std::vector<Group> groups;
  for (auto const& item : report.value("cases", nlohmann::json::array())) {
    if (groups.size() == kMaxGroups) { break; }
    Group group;
    group.title = fmt::format(
        "{} {} {}, {} ids, {} blocks, limit {:.1f} GB/s", item.at("direction").get<std::string>(),
        item.at("workload").get<std::string>(), item.at("far_side").get<std::string>(),
        item.at("ids").get<std::string>(), item.at("blocks").get<std::uint64_t>(),
        item.at("limit_bytes_per_second").get<double>() / 1e9);
    for (auto const& way : item.at("ways")) {
      if (!way.contains("bytes_per_second")) { continue; }
      bool const ours = way.at("name") == "kvbm";
      auto label = ours ? way.at("strategy").get<std::string>() : way.at("name").get<std::string>();
      if (ours && way.at("automatic").get<bool>()) { label.insert(0, "kvbm: "); }
      if (way.at("spare") == "SpareSms" && ours) { label += " (SpareSms)"; }
      group.bars.push_back({label, way.at("share_of_limit").get<double>(),
                            way.at("bytes_per_second").get<double>(), color_of(way)});
    }
    if (!group.bars.empty()) { groups.push_back(std::move(group)); }
  }
  return groups;
}

constexpr int kWidth = 980;
constexpr int kLabel = 230;
constexpr int kScale = 560;  // pixels of the limit
constexpr int kBar = 14;
constexpr int kHead = 22;
constexpr int kTop = 40;

int height_of(std::vector<Group> const& groups) {
  int height = kTop + 20;
  for (auto const& group : groups) {
    height += kHead + kBar * static_cast<int>(group.bars.size()) + 8;
  }
  return height;
}

int length_of(Bar const& bar) { return static_cast<int>(std::clamp(bar.share, 0.0, 1.2) * kScale); }

std::string draw_png(std::vector<Group> const& groups, std::string const& title) {
  Canvas canvas(kWidth, height_of(groups), 0xFFFFFF);
  canvas.text(10, 10, title.substr(0, 155), kText);
  canvas.text(10, 24, "share of the contiguous copy of the same run (line = 100%)", kText);
  int y = kTop;
  for (auto const& group : groups) {
    canvas.text(10, y + 8, group.title, kText);
    y += kHead;
    int const top = y;
    for (auto const& bar : group.bars) {
      canvas.text(20, y + 3, bar.label.substr(0, 34), kText);
      canvas.fill(kLabel, y + 1, length_of(bar), kBar - 3, bar.color);
      canvas.text(kLabel + std::max(length_of(bar), 4) + 6, y + 3,
                  fmt::format("{:.1f} GB/s {:.0f}%", bar.rate / 1e9, bar.share * 100), kText);
      y += kBar;
    }
    canvas.fill(kLabel + kScale, top, 1, y - top, kLimit);
    canvas.fill(kLabel, top, 1, y - top, kFaint);
    y += 8;
  }
  return canvas.to_png();
}

std::string escape(std::string const& text) {
  std::string out;
  for (char const c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out.push_back(c);
    }
  }
  return out;
}

std::string draw_html(std::vector<Group> const& groups, std::string const& title) {
  std::string html = fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>"
      "body{{font:13px sans-serif;color:#222;max-width:1000px;margin:2em auto}}"
      "svg{{display:block}}h2{{font-size:14px;margin:1.2em 0 .3em}}</style></head><body>"
      "<h1 style=\"font-size:17px\">{0}</h1>"
      "<p>Share of the contiguous copy of the same run; the line is 100%.</p>\n",
      escape(title));
  for (auto const& group : groups) {
    int const height = kBar * static_cast<int>(group.bars.size());
    html += fmt::format("<h2>{}</h2><svg width=\"{}\" height=\"{}\">", escape(group.title), kWidth,
                        height);
    int y = 0;
    for (auto const& bar : group.bars) {
      html += fmt::format(
          "<text x=\"0\" y=\"{}\" font-size=\"11\">{}</text>"
          "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"#{:06x}\"/>"
          "<text x=\"{}\" y=\"{}\" font-size=\"11\">{:.1f} GB/s, {:.1f}%</text>",
          y + 10, escape(bar.label), kLabel, y + 1, length_of(bar), kBar - 3, bar.color,
          kLabel + length_of(bar) + 6, y + 10, bar.rate / 1e9, bar.share * 100);
      y += kBar;
    }
    html +=
        fmt::format("<rect x=\"{}\" y=\"0\" width=\"1\" height=\"{}\" fill=\"#{:06x}\"/></svg>\n",
                    kLabel + kScale, height, kLimit);
  }
  return html + "</body></html>\n";
}

void write_file(std::string const& path, std::string const& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << bytes;
  file.flush();
  KVBM_EXPECTS(file.good(), Io, fmt::format("cannot write {}", path));
}

}  // namespace

std::pair<std::string, std::string> write_plots(std::string const& name,
                                                nlohmann::json const& report) {
  auto const groups = groups_of(report);
  auto const title = "kvbm bench gpu: " + report.value("gpu", "");
  std::pair<std::string, std::string> const files{name + ".png", name + ".html"};
  write_file(files.first, draw_png(groups, title));
  write_file(files.second, draw_html(groups, title));
  return files;
}

}  // namespace kvbm::cli
