// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/core/types.hpp"
#include "kvbm/layout/format.hpp"
#include "kvbm/memory/shared_memory.hpp"
#include "kvbm/remote/metadata.hpp"

/// What workers tell each other beside moving memory: each message is a NIXL notification.
namespace kvbm::remote {

/// The first message of a worker that imports the receiver: how to answer, and which of the
/// receiver's layouts it means to use.
struct Hello {
  std::uint64_t request = 0;
  std::uint64_t receiver = 0;  ///< worker id that the metadata named
  std::vector<std::uint16_t> layout_ids;
  WorkerAddress address;
  std::optional<memory::ProcessName> process;
  friend bool operator==(Hello const&, Hello const&) = default;
};

/// The last one: the sender uses nothing of the receiver any more. `shuts_down`: nor will it serve.
struct Farewell {
  bool shuts_down = false;
  friend bool operator==(Farewell const&, Farewell const&) = default;
};

/// A write notification of TransferOptions.
struct WriteNotice {
  std::uint64_t value = 0;
  friend bool operator==(WriteNotice const&, WriteNotice const&) = default;
};

/// Use this layout of the sender no more, and say when nothing touches it any more.
struct Revoke {
  std::uint64_t request = 0;
  std::uint16_t layout_id = 0;
  friend bool operator==(Revoke const&, Revoke const&) = default;
};

/// Lend me landing memory.
struct BorrowLanding {
  std::uint64_t request = 0;
  std::uint64_t bytes = 0;
  friend bool operator==(BorrowLanding const&, BorrowLanding const&) = default;
};

/// Landing memory that the sender needs no longer.
struct ReturnLanding {
  std::uint64_t address = 0;
  friend bool operator==(ReturnLanding const&, ReturnLanding const&) = default;
};

/// transfer::ImageOrder for a layout of the receiver.
struct CopyImage {
  std::uint64_t request = 0;
  bool fill = false;  ///< blocks -> image; else image -> blocks
  std::uint16_t layout_id = 0;
  std::vector<BlockId> block_ids;
  std::vector<BlockId> slots;
  IndexRange layers;
  IndexRange heads;
  layout::KvBlockLayout image_format = layout::KvBlockLayout::Unknown;
  std::uint64_t landing_address = 0;
  std::uint64_t landing_bytes = 0;
  friend bool operator==(CopyImage const&, CopyImage const&) = default;
};

/// The answer to a request.
struct Reply {
  static constexpr std::size_t kMaxTextBytes = 4096;  ///< what is beyond is not sent

  std::uint64_t request = 0;
  std::optional<ErrorCode> error;  ///< empty: done
  std::string text;                ///< of the error
  std::uint64_t address = 0;       ///< of what was lent
  std::uint64_t bytes = 0;
  friend bool operator==(Reply const&, Reply const&) = default;
};

/// Nothing but the count of messages taken, which every message carries.
struct Taken {
  friend bool operator==(Taken const&, Taken const&) = default;
};

using MessageBody = std::variant<Hello, Farewell, WriteNotice, Revoke, BorrowLanding, ReturnLanding,
                                 CopyImage, Reply, Taken>;

struct Message {
  static constexpr std::uint32_t kVersion = 1;
  static constexpr std::size_t kMaxBytes = std::size_t{16} << 20U;

  std::uint64_t worker_id = 0;  ///< of the sender
  std::uint64_t session = 0;    ///< drawn by lot whenever the sender meets the receiver anew
  std::uint64_t sequence = 0;   ///< counts what the sender sent in this session, from 1
  std::uint64_t taken = 0;      ///< the sender has taken all of the receiver's up to this number
  MessageBody body;

  /// Sealed like metadata, magic "KVBMNOTE".
  [[nodiscard]] std::vector<std::byte> to_bytes() const;
  /// Whether bytes look like a message of ours at all, of any version.
  [[nodiscard]] static bool is_ours(std::span<std::byte const> bytes) noexcept;
  /// @param bytes  untrusted  @throws CorruptError, Error(VersionMismatch)
  static Message from_bytes(std::span<std::byte const> bytes);

  friend bool operator==(Message const&, Message const&) = default;
};

}  // namespace kvbm::remote
