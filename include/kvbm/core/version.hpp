// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Version of the library's API (SemVer). Formats on disk and on the wire carry their own.
#define KVBM_VERSION_MAJOR 0
#define KVBM_VERSION_MINOR 1
#define KVBM_VERSION_PATCH 0

namespace kvbm {

/// "major.minor.patch" of the library that is linked, not of the headers.
char const* version() noexcept;

}  // namespace kvbm
