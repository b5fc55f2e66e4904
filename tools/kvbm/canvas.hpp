// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvbm::cli {

/// 0xRRGGBB.
using Color = std::uint32_t;

/// A picture with rectangles and small text, and its PNG.
class Canvas {
 public:
  Canvas(int width, int height, Color background);
  void fill(int x, int y, int width, int height, Color color);
  /// Letters of 5 by 7 dots, 6 apart; `scale` enlarges them. ASCII only.
  void text(int x, int y, std::string const& line, Color color, int scale = 1);
  /// A PNG, uncompressed inside.
  [[nodiscard]] std::string to_png() const;

 private:
  int width_;
  int height_;
  std::vector<std::uint8_t> rgb_;
};

}  // namespace kvbm::cli
