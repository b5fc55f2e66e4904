// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace kvbm::remote {

/// Most bytes that one publish() takes.
inline constexpr std::size_t kMaxMetadataBytes = std::size_t{64} << 20;
/// Most characters of a name.
inline constexpr std::size_t kMaxExchangeNameLength = 128;

/// How serialized metadata gets from a worker to its peers. To an exchange metadata is bytes; it
/// reports damage on the way, but what the bytes say is for the reader to distrust.
///
/// An object is one owner of names: it may replace and withdraw what it published itself, and when
/// it ends, everything it published is gone. A name is a worker's name, 1 to 128 characters of
/// [A-Za-z0-9._-].
///
/// Threads: all methods may be called concurrently.
/// Errors, besides what each method says: Error(InvalidArgument) for a bad name, Error(Io),
/// TimeoutError or CorruptError when what carries the metadata refuses, is silent or talks garbage.
class MetadataExchange {
 public:
  virtual ~MetadataExchange();
  MetadataExchange(MetadataExchange const&) = delete;
  MetadataExchange& operator=(MetadataExchange const&) = delete;

  /// Makes `metadata` visible under `name`, at once and whole; replaces what this exchange
  /// published under it before.
  /// @throws Error(AlreadyExists) when another live owner has the name; Error(InvalidArgument) for
  /// more than kMaxMetadataBytes
  virtual void publish(std::string const& name, std::span<std::byte const> metadata) = 0;
  /// Takes back what this exchange published under `name`; nothing when it did not.
  virtual void withdraw(std::string const& name) = 0;
  /// What is published under `name`, by anybody; waits until there is something.
  /// @param timeout  0 or less: looks once
  /// @throws TimeoutError naming the name
  virtual std::vector<std::byte> fetch(std::string const& name,
                                       std::chrono::milliseconds timeout) = 0;
  /// Every name that could be fetched now, sorted.
  virtual std::vector<std::string> list() = 0;

 protected:
  MetadataExchange() = default;
};

/// An exchange for workers in one process: what is published is seen through the same object.
std::shared_ptr<MetadataExchange> make_in_process_exchange();
/// One more owner of names beside `other`, which make_in_process_exchange() made: each sees what
/// the other one publishes.
/// @throws Error(InvalidArgument) when `other` is another kind of exchange
std::shared_ptr<MetadataExchange> make_in_process_exchange(
    std::shared_ptr<MetadataExchange> const& other);

/// An exchange over files in a folder, which may be on a network file system. Every name is one
/// file, readable by its owner's user only, replaced atomically, checksummed. A file says which
/// process wrote it: those of dead processes of this machine count as absent and may be replaced.
/// Whether a process of another machine or container lives cannot be seen, so its file stays until
/// somebody removes it.
/// @param folder  created when it does not exist
/// @throws Error(Io); Error(InvalidArgument) for an empty path or what is no folder
std::shared_ptr<MetadataExchange> make_folder_exchange(std::filesystem::path const& folder);

/// How to reach peers without anything between: each worker serves what it published itself.
struct TcpExchangeOptions {
  /// Numeric address to serve on, "10.0.0.5", "::1", "0.0.0.0"; empty: serves nothing, and
  /// publish() is refused.
  std::string bind_address;
  /// Port to serve on; 0: any free one, which address() tells.
  std::uint16_t port = 0;
  /// Secret that all workers share, at least 16 bytes. It never travels; both sides of a connection
  /// prove that they know it, and every message carries a MAC. Metadata itself is not encrypted.
  std::string token;
  /// Who is asked, "host:port" or "[v6 address]:port".
  std::vector<std::string> peers;
  /// Most connections served at once; further ones are closed.
  std::size_t max_connections = 64;
  /// How long a peer may be silent before it counts as unreachable, and a client before it is
  /// dropped.
  std::chrono::milliseconds io_timeout{5000};
};

/// An exchange over TCP. list() has what reachable peers publish; names are claimed among the peers
/// that are reachable at publish().
class TcpExchange : public MetadataExchange {
 public:
  ~TcpExchange() override;
  /// "address:port" that this exchange serves on; empty when it serves nothing.
  [[nodiscard]] virtual std::string address() const = 0;
  /// Asks one more peer from now on; nothing when it is one already.
  /// @throws Error(InvalidArgument) unless it is "host:port"
  virtual void add_peer(std::string const& peer) = 0;

 protected:
  TcpExchange() = default;
};

/// @throws Error(InvalidArgument) naming the option; Error(Io) when the address cannot be bound;
/// UnsupportedError when this build has no libcrypto.
/// Peers that do not know the token make every method that asks them throw Error(InvalidArgument).
std::shared_ptr<TcpExchange> make_tcp_exchange(TcpExchangeOptions options);

/// How to reach etcd, version 3.4 or newer, through its HTTP gateway.
struct EtcdExchangeOptions {
  /// "http://host:port" or "https://host:port", tried in this order; at least one.
  std::vector<std::string> endpoints;
  /// Begins every key.
  std::string prefix = "/kvbm/exchange/";
  /// How long an entry outlives a worker that died; etcd may raise it.
  std::chrono::seconds lease_ttl{10};
  /// How long etcd may take for one request, over all endpoints; a blob of n MiB takes n + 2.
  std::chrono::milliseconds request_timeout{5000};
  /// How long publish() waits for a name that somebody else has: a worker that is started again
  /// after a crash finds its own former entry until that one's lease runs out.
  std::chrono::milliseconds name_timeout{0};
  /// Files for https, PEM; empty: the system's authorities, and no client certificate.
  std::filesystem::path ca_file{};
  std::filesystem::path certificate_file{};
  std::filesystem::path key_file{};
};

/// An exchange over etcd. Entries hang on a lease that a thread keeps alive, so that those of a
/// dead worker disappear; entries that were lost while etcd could not be reached are put back.
/// @throws Error(InvalidArgument) naming the option; UnsupportedError when this build has no
/// libcurl. Does not talk to etcd.
std::shared_ptr<MetadataExchange> make_etcd_exchange(EtcdExchangeOptions options);

}  // namespace kvbm::remote
