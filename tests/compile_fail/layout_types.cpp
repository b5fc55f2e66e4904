// SPDX-License-Identifier: Apache-2.0

// Compiles as it is; every macro adds one misuse of the layout types that must not compile.

#include "kvbm/layout/config.hpp"
#include "kvbm/layout/format.hpp"
#include "kvbm/layout/typed_view.hpp"

#include <string>

using kvbm::layout::KvBlockLayout;
using kvbm::layout::LayoutConfig;
using kvbm::layout::TypedView;

void misuse(kvbm::layout::PhysicalLayout const& layout) {
  static_cast<void>(layout);
#if defined(KVBM_UNCHECKED_CONFIG)
  LayoutConfig const config;
#elif defined(KVBM_UNCHECKED_FORMAT)
  KvBlockLayout const format(KvBlockLayout::Kind::Custom, {});
#elif defined(KVBM_ELEMENTS_THAT_ARE_NO_BYTES)
  TypedView<std::string> const view(layout);
#endif
}
