// SPDX-License-Identifier: Apache-2.0
//
// A worker that publishes and fetches what its input says, for tests of exchanges over processes.
//
// usage: exchange_peer folder PATH | tcp PEERS... | etcd ENDPOINT PREFIX TTL_SECONDS
// lines: publish NAME BYTES SEED | withdraw NAME | fetch NAME TIMEOUT_MS | list | address
// Every line is answered by "ok ..." or "error CODE MESSAGE"; it ends with its input.
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
  if (kind == "tcp") {
    TcpExchangeOptions options;
    options.bind_address = "127.0.0.1";
    options.token = test::kTestToken;
    options.peers.assign(argv + 2, argv + argc);
    return make_tcp_exchange(options);
  }
  if (kind == "etcd" && argc == 5) {
    EtcdExchangeOptions options;
    options.endpoints = {argv[2]};
    options.prefix = argv[3];
    options.lease_ttl = std::chrono::seconds(std::stoi(argv[4]));
    return make_etcd_exchange(options);
  }
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
  if (what == "address") {
    auto const* const tcp = dynamic_cast<TcpExchange const*>(&exchange);
    return tcp == nullptr ? "error no address" : "ok " + tcp->address();
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
