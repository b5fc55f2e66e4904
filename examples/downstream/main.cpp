// SPDX-License-Identifier: Apache-2.0
//
// The smallest program that uses an installed kvbm.

#include <kvbm/core/version.hpp>

#include <cstdio>

int main() {
  std::printf("downstream: linked kvbm %s\n", kvbm::version());
  return 0;
}
