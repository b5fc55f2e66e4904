// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/version.hpp"

namespace kvbm {

char const* version() noexcept {
#define KVBM_TEXT_(x) #x
#define KVBM_TEXT(x) KVBM_TEXT_(x)
  return KVBM_TEXT(KVBM_VERSION_MAJOR) "." KVBM_TEXT(KVBM_VERSION_MINOR) "." KVBM_TEXT(
      KVBM_VERSION_PATCH);
}

}  // namespace kvbm
