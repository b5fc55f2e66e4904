// SPDX-License-Identifier: Apache-2.0
//
// A worker with one registered buffer, for tests over two processes.
//
// usage: kvbm_nixl_peer NAME BYTES SEED
// Byte i of its buffer is (i + SEED) mod 251. It ends when its channel does.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>

#include "kvbm/testing/child_process.hpp"
#include "unit/nixl/nixl_fixture.hpp"
#include "unit/nixl/nixl_peer_protocol.hpp"

namespace {

using namespace kvbm::nixl;
using kvbm::testing::ChildChannel;

void serve(Worker& worker) {
  ChildChannel const channel(ChildChannel::kFdInChild);
  std::vector<std::byte> const blob = worker.agent.local_metadata();
  PeerGreeting greeting;
  greeting.address = reinterpret_cast<std::uintptr_t>(worker.buffer.data());
  greeting.metadata_bytes = blob.size();
  if (blob.size() > sizeof greeting.metadata) { throw std::runtime_error("much metadata"); }
  std::memcpy(greeting.metadata, blob.data(), blob.size());
  channel.send(greeting);
  PeerCommand command{};
  while (channel.receive(command)) {
    PeerAnswer answer;
    if (command == PeerCommand::TakeMessage) {
      auto const messages = wait_for_messages(worker.agent, 1);
      answer = {messages[0].bytes.size(), sum_of(messages[0].bytes)};
    } else {
      answer = {worker.buffer.size(), sum_of(worker.buffer)};
    }
    channel.send(answer);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc != 4) { throw std::runtime_error("usage: kvbm_nixl_peer NAME BYTES SEED"); }
    Worker worker(NixlLibrary::load(), argv[1], std::stoull(argv[2]));
    std::size_t const seed = std::stoull(argv[3]);
    for (std::size_t i = 0; i < worker.buffer.size(); ++i) {
      worker.buffer[i] = static_cast<std::uint8_t>((i + seed) % 251);
    }
    serve(worker);
    return EXIT_SUCCESS;
  } catch (std::exception const& error) {
    std::fprintf(stderr, "kvbm_nixl_peer: %s\n", error.what());
    return EXIT_FAILURE;
  }
}
