// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <iostream>
#include <string>

#include "kvbm/testing/object_server.hpp"

// usage: kvbm_object_server [bucket [port]]; prints the endpoint, ends when its input does
int main(int argc, char** argv) {
  kvbm::testing::ObjectServer const server(argc > 1 ? argv[1] : "blocks",
                                           argc > 2 ? std::atoi(argv[2]) : 0);
  std::cout << server.endpoint() << std::endl;
  std::string line;
  while (std::getline(std::cin, line)) {}
}
