// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace kvbm::cli {

/// What the process returns; docs/reference/cli.md and --help say the same.
enum ExitCode : int {
  ExitOk = 0,       ///< done, nothing to object
  ExitFinding = 1,  ///< data differs or is corrupt; doctor --strict: warnings
  ExitFail = 2,     ///< doctor: something keeps kvbm from working here
  ExitError = 3,    ///< the operation failed (I/O, memory, busy, unsupported)
  ExitUsage = 64,   ///< wrong command line or a value that can never be right
};

}  // namespace kvbm::cli
