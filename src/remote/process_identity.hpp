// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace kvbm::remote {

/// Which process it was, so that others can tell later whether it still runs. A pid alone could
/// belong to another process by then.
struct ProcessIdentity {
  std::string host;           ///< host name, for people and to recognise this machine after a boot
  std::string machine_id;     ///< /etc/machine-id; empty where there is none
  std::string boot_id;        ///< the kernel's id of this boot
  std::string pid_namespace;  ///< "pid:[4026531836]": pids mean something within it only
  std::int64_t pid = 0;
  std::uint64_t start_time = 0;  ///< in clock ticks since the boot
  friend bool operator==(ProcessIdentity const&, ProcessIdentity const&) = default;
};

/// This process. @throws Error(Io) when /proc cannot be read
ProcessIdentity this_process();

/// Whether the process of `other` is certainly gone, as far as `self` (this process) can see; false
/// when it runs or cannot be seen, on another machine or in another container.
[[nodiscard]] bool is_certainly_gone(ProcessIdentity const& other, ProcessIdentity const& self);

}  // namespace kvbm::remote
