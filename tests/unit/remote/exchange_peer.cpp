// SPDX-License-Identifier: Apache-2.0
//
// A worker that publishes and fetches what its input says, for tests of exchanges over processes.
//
// usage: exchange_peer folder PATH
// lines: publish NAME BYTES SEED | withdraw NAME | fetch NAME TIMEOUT_MS | list
// Every line is answered by "ok ..." or "error CODE MESSAGE"; it ends with its input.
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>

#include "kvbm/core/error.hpp"
#include "unit/remote/exchange_places.hpp"

namespace {

using namespace kvbm;
using namespace kvbm::remote;

std::shared_ptr<MetadataExchange> make_exchange(int argc, char** argv) {
  std::string const kind = argc > 1 ? argv[1] : "";
  if (kind == "folder" && argc == 3) { return make_folder_exchange(argv[2]); }
  return nullptr;
}

std::string obey(MetadataExchange& exchange, std::string const& line) {
  std::istringstream words(line);
  std::string what;
  std::string name;
  words >> what >> name;
  if (what == "publish") {
    std::size_t bytes = 0;
    std::uint64_t seed = 0;
    words >> bytes >> seed;
    exchange.publish(name, test::make_blob(bytes, seed));
    return "ok";
  }
  if (what == "withdraw") {
    exchange.withdraw(name);
    return "ok";
  }
  if (what == "fetch") {
    std::int64_t timeout_ms = 0;
    words >> timeout_ms;
    return "ok " + test::checksum_of(exchange.fetch(name, std::chrono::milliseconds(timeout_ms)));
  }
  if (what == "list") {
    std::string names = "ok";
    for (auto const& known : exchange.list()) {
      names += " " + known;
    }
    return names;
  }
  return "error what?";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    auto const exchange = make_exchange(argc, argv);
    if (exchange == nullptr) { return 2; }
    for (std::string line; std::getline(std::cin, line);) {
      std::string answer;
      try {
        answer = obey(*exchange, line);
      } catch (Error const& error) {
        answer = "error " + std::string(to_string(error.code())) + " " + error.what();
      }
      std::cout << answer << std::endl;
    }
    return 0;
  } catch (std::exception const& error) {
    std::cerr << "exchange_peer: " << error.what() << '\n';
    return 1;
  }
}
