// SPDX-License-Identifier: Apache-2.0
//
// What only the exchange over TCP does: strangers, silence, garbage, names among peers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <future>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/child_process.hpp"
#include "remote/tcp_stream.hpp"
#include "support/test_program.hpp"
#include "unit/remote/exchange_places.hpp"
#include "unit/remote/raw_server.hpp"

namespace kvbm::remote::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;

constexpr std::chrono::milliseconds kPatience = 60s;
constexpr char const* kOtherToken = "not the same token";

TcpExchangeOptions serving(std::vector<std::string> peers = {}) {
  TcpExchangeOptions options;
  options.bind_address = "127.0.0.1";
  options.token = kTestToken;
  options.peers = std::move(peers);
  return options;
}

TcpExchangeOptions asking(std::vector<std::string> peers) {
  TcpExchangeOptions options;
  options.token = kTestToken;
  options.peers = std::move(peers);
  return options;
}

std::string error_of(std::function<void()> const& call, ErrorCode code) {
  try {
    call();
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

class ExchangeOverTcp : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string const reason = TcpPlace::why_skipped();
    if (!reason.empty()) { GTEST_SKIP() << reason; }
  }
};

TEST_F(ExchangeOverTcp, ServesOnAFreePortThatItTells) {
  auto const a = make_tcp_exchange(serving());
  EXPECT_THAT(a->address(), StartsWith("127.0.0.1:"));
  EXPECT_NE(port_of(a->address()), 0);
  auto options = serving();
  options.port = static_cast<std::uint16_t>(port_of(a->address()));
  EXPECT_THAT(error_of([&] { make_tcp_exchange(options); }, ErrorCode::Io),
              HasSubstr(std::to_string(options.port)));
}

TEST_F(ExchangeOverTcp, IsOffUnlessAnAddressIsGiven) {
  auto const a = make_tcp_exchange(asking({}));
  EXPECT_EQ(a->address(), "");
  EXPECT_THAT(error_of([&] { a->publish("w", {}); }, ErrorCode::InvalidArgument),
              HasSubstr("bind_address"));
}

TEST_F(ExchangeOverTcp, RefusesBadOptions) {
  auto const refuse = [](auto change, std::string const& field) {
    TcpExchangeOptions options = serving();
    change(options);
    std::string const message =
        error_of([&] { make_tcp_exchange(options); }, ErrorCode::InvalidArgument);
    EXPECT_THAT(message, HasSubstr(field));
  };
  refuse(
      [](auto& o) {
        o.token = "short but secret";
        o.token.pop_back();
      },
      "15 bytes");
  refuse([](auto& o) { o.token.clear(); }, "token");
  refuse([](auto& o) { o.bind_address = "localhost"; }, "bind_address 'localhost'");
  refuse(
      [](auto& o) {
        o.bind_address.clear();
        o.port = 5;
      },
      "port is 5");
  refuse([](auto& o) { o.max_connections = 0; }, "max_connections");
  refuse([](auto& o) { o.io_timeout = 0ms; }, "io_timeout");
  for (char const* const peer : {"", "host", "host:", ":5", "host:0", "host:65536", "host:5x",
                                 "::1:5", "[]:5", "host:99999999999999999999"}) {
    refuse([&](auto& o) { o.peers = {peer}; }, "peer '" + std::string(peer) + "'");
    auto const a = make_tcp_exchange(asking({}));
    error_of([&] { a->add_peer(peer); }, ErrorCode::InvalidArgument);
  }
}

TEST_F(ExchangeOverTcp, ReachesPeersByNameAndOverVersion6) {
  auto const a = make_tcp_exchange(serving());
  a->publish("w", make_blob(10, 1));
  std::string const by_name = "localhost:" + std::to_string(port_of(a->address()));
  if (std::ifstream hosts("/etc/hosts");
      std::string(std::istreambuf_iterator<char>(hosts), {}).find("localhost") !=
      std::string::npos) {
    EXPECT_EQ(make_tcp_exchange(asking({by_name}))->fetch("w", kPatience), make_blob(10, 1));
  }
  auto options = serving();
  options.bind_address = "::1";
  std::shared_ptr<TcpExchange> b;
  try {
    b = make_tcp_exchange(options);
  } catch (Error const& error) { GTEST_SKIP() << "no IPv6 here: " << error.what(); }
  EXPECT_THAT(b->address(), StartsWith("[::1]:"));
  b->publish("six", make_blob(10, 2));
  EXPECT_EQ(make_tcp_exchange(asking({b->address()}))->fetch("six", kPatience), make_blob(10, 2));
}

TEST_F(ExchangeOverTcp, ATokenThatDiffersIsSaidAndNothingElse) {
  auto const a = make_tcp_exchange(serving());
  a->publish("w", make_blob(10, 1));
  auto options = serving({a->address()});
  options.token = kOtherToken;
  auto const stranger = make_tcp_exchange(options);
  for (auto const& call : std::vector<std::function<void()>>{
           [&] { stranger->fetch("w", kPatience); }, [&] { stranger->list(); },
           [&] { stranger->publish("x", {}); }}) {
    std::string const message = error_of(call, ErrorCode::InvalidArgument);
    EXPECT_THAT(message, AllOf(HasSubstr(a->address()), HasSubstr("refused our token"),
                               Not(HasSubstr(kTestToken)), Not(HasSubstr(kOtherToken))));
  }
  // The one who was asked goes on.
  EXPECT_EQ(make_tcp_exchange(asking({a->address()}))->fetch("w", kPatience), make_blob(10, 1));
}

TEST_F(ExchangeOverTcp, AnImpostorDoesNotGetThroughWithoutTheToken) {
  std::string const challenge = "KVBMTCP1" + std::string(32, 'n');
  RawServer const impostor(challenge, "A" + std::string(32, '\0'));
  auto const a = make_tcp_exchange(asking({impostor.address()}));
  EXPECT_THAT(error_of([&] { a->fetch("w", kPatience); }, ErrorCode::InvalidArgument),
              HasSubstr("does not know our token"));
}

TEST_F(ExchangeOverTcp, WhoDoesNotKnowTheTokenLearnsNothing) {
  auto const a = make_tcp_exchange(serving());
  a->publish("secret-name", make_blob(10, 1));
  int const fd = connect_to(port_of(a->address()));
  ASSERT_GE(fd, 0);
  std::string const response = "KVBMTCP1" + std::string(64, 'x');
  ASSERT_EQ(write(fd, response.data(), response.size()), static_cast<ssize_t>(response.size()));
  std::string const answer = read_to_end(fd);
  close(fd);
  ASSERT_EQ(answer.size(), 8U + 32U + 33U) << "challenge and verdict";
  EXPECT_EQ(answer.substr(40), "D" + std::string(32, '\0'));
}

TEST_F(ExchangeOverTcp, RefusesGarbage) {
  auto const a = make_tcp_exchange(serving());
  a->publish("w", make_blob(10, 1));
  for (std::string const& garbage :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(100'000, '\0'), std::string("K"),
        "KVBMTCP1" + std::string(50, 'x'), std::string("KVBMTCP2")}) {
    int const fd = connect_to(port_of(a->address()));
    ASSERT_GE(fd, 0);
    static_cast<void>(send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL));
    shutdown(fd, SHUT_WR);
    EXPECT_EQ(read_to_end(fd).substr(0, 8), "KVBMTCP1");
    close(fd);
  }
  EXPECT_EQ(make_tcp_exchange(asking({a->address()}))->fetch("w", kPatience), make_blob(10, 1));
}

TEST_F(ExchangeOverTcp, DropsHalfOpenConnectionsAndKeepsToItsLimit) {
  auto options = serving();
  options.max_connections = 3;
  options.io_timeout = 2s;  // all are there well before the first is dropped
  auto const a = make_tcp_exchange(options);
  a->publish("w", make_blob(10, 1));
  std::vector<int> silent;
  for (int i = 0; i < 8; ++i) {
    silent.push_back(connect_to(port_of(a->address())));
    ASSERT_GE(silent.back(), 0);
  }
  int greeted = 0;
  for (int const fd : silent) {
    greeted += read_to_end(fd).empty() ? 0 : 1;  // ends only because the server closes
    close(fd);
  }
  EXPECT_EQ(greeted, 3);
  EXPECT_EQ(make_tcp_exchange(asking({a->address()}))->fetch("w", kPatience), make_blob(10, 1));
}

TEST_F(ExchangeOverTcp, IsNotHeldUpByPeersThatAreSilentGoneOrTalkGarbage) {
  auto const a = make_tcp_exchange(serving());
  a->publish("w", make_blob(10, 1));
  RawServer const silent("", "");
  RawServer const half("KVBM", "");
  RawServer const garbage("SSH-2.0-OpenSSH_9.2", "bye");
  std::string gone;
  { gone = make_tcp_exchange(serving())->address(); }
  auto options = serving({silent.address(), half.address(), garbage.address(), gone,
                          "no-such-host.invalid:5", a->address()});
  options.io_timeout = 2s;  // those that answer do so well before
  auto const b = make_tcp_exchange(options);
  EXPECT_EQ(b->fetch("w", kPatience), make_blob(10, 1));
  EXPECT_THAT(b->list(), ElementsAre("w"));
  EXPECT_THAT(error_of([&] { b->publish("w", {}); }, ErrorCode::AlreadyExists), HasSubstr("'w'"));
  b->publish("x", {});
  error_of([&] { b->fetch("nobody", 0ms); }, ErrorCode::Timeout);
}

TEST_F(ExchangeOverTcp, SaysWhyAPeerDidNotAnswer) {
  auto const why = [](std::string const& peer, std::chrono::milliseconds timeout) {
    auto options = asking({peer});
    options.io_timeout = timeout;
    auto const a = make_tcp_exchange(options);
    std::string const message = error_of([&] { a->fetch("w", 0ms); }, ErrorCode::Timeout);
    EXPECT_THAT(message, HasSubstr("peer " + peer));
    return message;
  };
  RawServer const silent("", "");
  RawServer const garbage("SSH-2.0-OpenSSH_9.2", "bye");
  std::string gone;
  { gone = make_tcp_exchange(serving())->address(); }
  EXPECT_THAT(why(gone, kPatience), HasSubstr("Connection refused"));
  EXPECT_THAT(why(garbage.address(), kPatience), HasSubstr("no metadata exchange"));
  why(silent.address(), 100ms);
}

TEST_F(ExchangeOverTcp, FindsPeersThatAreAddedOrStartWhileItWaits) {
  auto const a = make_tcp_exchange(asking({}));
  auto added = std::async(std::launch::async, [&] { return a->fetch("w", kPatience); });
  auto const b = make_tcp_exchange(serving());
  b->publish("w", make_blob(10, 1));
  a->add_peer(b->address());
  a->add_peer(b->address());
  EXPECT_EQ(added.get(), make_blob(10, 1));
}

TEST_F(ExchangeOverTcp, CrossesProcesses) {
  auto const here = make_tcp_exchange(serving());
  testing::LineProcess there(testing::test_program(KVBM_EXCHANGE_PEER), {"tcp", here->address()});
  std::string const answer = there.ask("address");
  ASSERT_THAT(answer, StartsWith("ok 127.0.0.1:"));
  here->add_peer(answer.substr(3));
  ASSERT_EQ(there.ask("publish there 3000000 5"), "ok");
  EXPECT_TRUE(here->fetch("there", kPatience) == make_blob(3000000, 5));
  here->publish("here", make_blob(100, 6));
  EXPECT_EQ(there.ask("fetch here 60000"), "ok " + checksum_of(make_blob(100, 6)));
  EXPECT_EQ(there.ask("list"), "ok here there");
  EXPECT_THAT(there.ask("publish here 1 1"), StartsWith("error AlreadyExists"));
  error_of([&] { here->publish("there", {}); }, ErrorCode::AlreadyExists);
  there.stop();
  EXPECT_THAT(here->list(), ElementsAre("here"));
  here->publish("there", make_blob(7, 7));
  EXPECT_EQ(here->fetch("there", kPatience), make_blob(7, 7));
}

TEST_F(ExchangeOverTcp, AStoppedPeerCostsNoMoreThanTheTimeout) {
  testing::LineProcess there(testing::test_program(KVBM_EXCHANGE_PEER), {"tcp"});
  std::string const address = there.ask("address").substr(3);
  ASSERT_EQ(there.ask("publish there 1000 5"), "ok");
  auto options = asking({address});
  options.io_timeout = kPatience;
  auto const patient = make_tcp_exchange(options);
  options.io_timeout = 200ms;
  auto const hasty = make_tcp_exchange(options);
  EXPECT_THAT(patient->list(), ElementsAre("there"));
  there.suspend();
  EXPECT_THAT(hasty->list(), IsEmpty());
  EXPECT_THAT(error_of([&] { hasty->fetch("there", 300ms); }, ErrorCode::Timeout),
              HasSubstr(address));
  there.resume();
  EXPECT_EQ(hasty->fetch("there", kPatience), make_blob(1000, 5));
}

/// Two ends of a connection in one thread.
class TcpStreams : public ExchangeOverTcp {
 protected:
  void connect(SecretKey const& server_token, SecretKey const& client_token) {
    std::array<int, 2> ends{};
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()), 0);
    server_.emplace(UniqueFd(ends[0]), TcpStream::Role::Server, server_token, 128);
    client_.emplace(UniqueFd(ends[1]), TcpStream::Role::Client, client_token, 1000);
  }
  void shake_hands() {
    for (int i = 0; i < 3; ++i) {
      server_->advance();
      client_->advance();
    }
    ASSERT_TRUE(server_->is_open());
    ASSERT_TRUE(client_->is_open());
  }
  /// What the client's next frame looks like on the wire.
  std::vector<char> capture(std::vector<std::byte> payload) {
    client_->send(Frame::Type::Fetch, std::move(payload));
    client_->advance();
    std::vector<char> wire(1000);
    ssize_t const got = read(server_->fd(), wire.data(), wire.size());
    wire.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return wire;
  }
  void inject(std::vector<char> const& wire) {
    ASSERT_EQ(write(client_->fd(), wire.data(), wire.size()), static_cast<ssize_t>(wire.size()));
    server_->advance();
  }

  SecretKey const token_{kTestToken};
  SecretKey const other_{kOtherToken};
  std::optional<TcpStream> server_;
  std::optional<TcpStream> client_;
};

TEST_F(TcpStreams, CarryFramesBothWays) {
  connect(token_, token_);
  shake_hands();
  for (std::size_t i = 0; i < 5; ++i) {
    client_->send(Frame::Type::Fetch, make_blob(i * 30, i));
    client_->advance();
    server_->advance();
    auto const frame = server_->receive();
    ASSERT_TRUE(frame.has_value());
    EXPECT_EQ(frame->payload, make_blob(i * 30, i));
    EXPECT_FALSE(server_->receive().has_value());
    server_->send(Frame::Type::Found, make_blob(i * 200, i));
    server_->advance();
    client_->advance();
    auto const answer = client_->receive();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->payload, make_blob(i * 200, i));
  }
}

TEST_F(TcpStreams, EndWhenTheTokensDiffer) {
  connect(token_, other_);
  server_->advance();
  client_->advance();
  EXPECT_THROW(server_->advance(), TokenError);
  EXPECT_THROW(client_->advance(), TokenError);
}

TEST_F(TcpStreams, DeliverNothingThatWasChangedOnItsWay) {
  std::size_t const length = 5 + 20 + 32;
  for (std::size_t at = 0; at < length; ++at) {
    connect(token_, token_);
    shake_hands();
    auto wire = capture(make_blob(20, 1));
    ASSERT_EQ(wire.size(), length);
    wire[at] = static_cast<char>(wire[at] ^ 1);
    inject(wire);
    try {
      EXPECT_FALSE(server_->receive().has_value()) << at;  // the length grew: not there yet
      EXPECT_LT(at, 4U);
    } catch (CorruptError const&) {}
  }
}

TEST_F(TcpStreams, DeliverNothingTwiceAndNothingBackToItsSender) {
  connect(token_, token_);
  shake_hands();
  auto const wire = capture(make_blob(20, 1));
  inject(wire);
  ASSERT_TRUE(server_->receive().has_value());
  inject(wire);
  EXPECT_THROW(server_->receive(), CorruptError);

  connect(token_, token_);
  shake_hands();
  auto const mine = capture(make_blob(20, 1));
  ASSERT_EQ(write(server_->fd(), mine.data(), mine.size()), static_cast<ssize_t>(mine.size()));
  client_->advance();
  EXPECT_THROW(client_->receive(), CorruptError);
}

TEST_F(TcpStreams, RefuseFramesBeyondTheLimitBeforeTheyArrive) {
  connect(token_, token_);
  shake_hands();
  inject({static_cast<char>(129), 0, 0, 0, 1});
  EXPECT_THROW(server_->receive(), CorruptError);
}

}  // namespace
}  // namespace kvbm::remote::test
