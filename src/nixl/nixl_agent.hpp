// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nixl/nixl_library.hpp"

namespace kvbm::nixl {

/// What kind of storage a range lies in.
enum class Segment { Dram, Vram, File, Object };

/// "Dram", ...
std::string_view to_string(Segment segment) noexcept;

/// One piece of storage. Memory: its address, and the CUDA device of Vram. File: the offset, and
/// the file descriptor as device_id (a bare number to NIXL: keep the file open). Object: the
/// offset, and the number that the object was registered with.
struct NixlRange {
  std::uintptr_t address = 0;
  std::uint64_t bytes = 0;
  std::uint64_t device_id = 0;
};

/// Which way bytes go: Read fills the local ranges, Write the remote ones.
enum class Direction { Read, Write };

/// One NIXL agent: a name, backends, registered storage, and the remote agents that it knows.
///
/// Threads   every method may be called beside every other one. The agent's lock inside NIXL is a
///           readers-writer lock: posts, status queries and sends share it; take_messages,
///           register_memory, load_remote and forget_remote wait until no post is under way, and
///           later posts wait for them. A post of shared memory (CMA) copies before it returns, so
///           short posts keep messages quick.
/// Lifetime  Registrations and Requests keep the agent alive. Never fork() in a process that has
///           one.
/// End       destroying the agent stops what is in flight; until then see Request::abandon.
/// Trust     NIXL believes remote metadata and the sender's name in messages.
class NixlAgent {
  struct Core;

 public:
  class Registration;
  class Request;

  /// A notification from another agent.
  struct Message {
    std::string agent;  ///< the sender's name, as it says
    std::vector<std::byte> bytes;
  };

  /// @param name  unique among the agents that ever meet; not empty
  /// @throws Error(InvalidArgument)  an empty name; Error(Internal) NIXL refuses
  NixlAgent(std::shared_ptr<NixlLibrary const> library, std::string name);
  NixlAgent(NixlAgent const&) = delete;
  NixlAgent& operator=(NixlAgent const&) = delete;
  NixlAgent(NixlAgent&&) noexcept = default;
  NixlAgent& operator=(NixlAgent&&) noexcept = default;
  ~NixlAgent();

  [[nodiscard]] std::string const& name() const noexcept;
  /// Names of the backends created so far, as NIXL writes them.
  [[nodiscard]] std::vector<std::string> backends() const;

  /// Starts a backend ("ucx", "posix", ...: any case) with its parameters added to its defaults.
  /// Creating UCX takes half a second.
  /// @throws Error(InvalidArgument)  no such plugin: lists those there are
  /// @throws Error(AlreadyExists)    this agent has it already
  /// @throws UnsupportedError        the plugin does not load or start here, with what is known
  void create_backend(std::string_view name, std::map<std::string, std::string> const& parameters);

  /// Makes ranges usable in requests, on this side and, through local_metadata made after it, on
  /// the other one. Deregistering does not take memory away from a peer that may still write
  /// (CMA): agree with the peer first.
  /// @param metadata  the key of an object; otherwise empty
  /// @param backend   the one to register with; empty: every backend that serves the segment
  /// @throws Error(InvalidArgument | Overflow)  no ranges, an empty or wrapping one
  /// @throws UnsupportedError                   NIXL refuses
  [[nodiscard]] Registration register_memory(Segment segment, std::span<NixlRange const> ranges,
                                             std::string_view metadata = {},
                                             std::string_view backend = {});

  /// What another agent loads in order to reach this one and what is registered now. Has no
  /// checksum of its own.
  [[nodiscard]] std::vector<std::byte> local_metadata() const;

  /// Makes another agent known, or adds to what is known of it; after a restart of that agent,
  /// forget_remote comes first.
  /// @return its name
  /// @throws CorruptError  no metadata of an agent that shares a backend with this one
  std::string load_remote(std::span<std::byte const> metadata);

  /// Whether load_remote told of that agent and nothing made it unknown since.
  [[nodiscard]] bool knows(std::string const& agent) const noexcept;

  /// Disconnects from an agent and drops its metadata; an unknown one is fine. Where requests to it
  /// are in flight, this takes effect when the last of them has ended: NIXL would call them failed
  /// at once while UCX goes on to write their memory.
  void forget_remote(std::string const& agent) noexcept;

  /// Prepares a transfer of local[i] from or to remote[i], in one request.
  /// @param agent    the owner of the remote ranges; this agent's own name for File and Object
  /// @param backend  the one to use; empty: NIXL chooses
  /// @throws Error(InvalidArgument | Overflow)  lists that are empty or differ, a wrapping range
  /// @throws Error(NotFound)                    the agent is not known
  /// @throws Error(OutOfRange)                  a range is not registered there or here
  [[nodiscard]] Request make_request(Direction direction, Segment local,
                                     std::span<NixlRange const> local_ranges, Segment remote,
                                     std::span<NixlRange const> remote_ranges,
                                     std::string const& agent, std::string_view backend = {});

  /// Sends a notification, which needs the other agent's metadata loaded here, not ours there.
  /// @throws Error(NotFound)  the agent is not known
  /// @throws PeerError        the connection to it is broken
  void send(std::string const& agent, std::span<std::byte const> message);

  /// The notifications that came since the last call, those of one sender in the order sent. Looks
  /// after abandoned requests too.
  [[nodiscard]] std::vector<Message> take_messages();

  /// Abandoned requests that are still in flight.
  [[nodiscard]] std::size_t abandoned() const;

  /// Looks after abandoned requests, for agents that nobody sends messages to.
  /// @return those that are still in flight
  std::size_t sweep();

 private:
  std::shared_ptr<Core> core_;
};

/// Registered ranges; deregisters them when it ends.
class NixlAgent::Registration {
 public:
  Registration(Registration&&) noexcept;
  Registration& operator=(Registration&&) noexcept;
  Registration(Registration const&) = delete;
  Registration& operator=(Registration const&) = delete;
  ~Registration();

 private:
  friend class NixlAgent;
  struct State;
  explicit Registration(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

/// One transfer, which may be posted again once it is done. One thread at a time.
class NixlAgent::Request {
 public:
  Request(Request&&) noexcept;
  Request& operator=(Request&&) noexcept;
  Request(Request const&) = delete;
  Request& operator=(Request const&) = delete;
  /// Abandons it where it is in flight, without an owner of its memory.
  ~Request();

  /// Starts the transfer; over shared memory (CMA) it is done when this returns.
  /// @throws PeerError  the peer is gone (local storage: Error(Io))
  /// @throws Error(Busy)  it is posted already
  void post();

  /// Whether a posted transfer is done; makes it progress. Done or failed, nothing touches its
  /// memory any more. A peer that is stopped rather than dead never fails: the caller needs a
  /// deadline, and then abandon().
  /// @throws PeerError  it failed (local storage: Error(Io)), now and at every later call
  [[nodiscard]] bool is_done();

  /// Gives up a transfer that is in flight. NIXL cannot stop it: over TCP, a peer that comes back
  /// still writes local memory (Read) or receives what that memory holds by then (Write). So the
  /// agent keeps the request and `keep`, the owner of the local memory, until it ends by itself.
  void abandon(std::shared_ptr<void const> keep) noexcept;

 private:
  friend class NixlAgent;
  struct State;
  explicit Request(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace kvbm::nixl
