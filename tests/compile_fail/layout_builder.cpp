// SPDX-License-Identifier: Apache-2.0

// Compiles as it is; every macro adds one misuse of the layout builder that must not compile.

#include "kvbm/layout/dims.hpp"
#include "kvbm/layout/physical_layout.hpp"

using kvbm::layout::BlockDimension;
using kvbm::layout::KvDimLayout;
using kvbm::layout::LayoutConfig;
using kvbm::layout::PhysicalLayout;

PhysicalLayout complete(std::shared_ptr<kvbm::memory::MemorySource> const& source,
                        LayoutConfig const& config) {
  return PhysicalLayout::builder(source)
      .config(config)
      .fully_contiguous()
      .allocate_system()
      .build();
}

void misuse(std::shared_ptr<kvbm::memory::MemorySource> const& source, LayoutConfig const& config,
            KvDimLayout const& tensor) {
  auto const builder = PhysicalLayout::builder(source);
  static_cast<void>(builder);
  static_cast<void>(config);
  static_cast<void>(tensor);
#if defined(KVBM_NOTHING)
  builder.build();
#elif defined(KVBM_NO_CONFIG)
  builder.fully_contiguous().allocate_system().build();
#elif defined(KVBM_NO_KIND)
  builder.config(config).allocate_system().build();
#elif defined(KVBM_NO_MEMORY)
  builder.config(config).fully_contiguous().build();
#elif defined(KVBM_CONFIG_TWICE)
  builder.config(config).config(config);
#elif defined(KVBM_KIND_TWICE)
  builder.fully_contiguous().layer_separate(BlockDimension::First);
#elif defined(KVBM_TENSOR_AFTER_KIND)
  builder.fully_contiguous().layer_separate(tensor);
#elif defined(KVBM_MEMORY_TWICE)
  builder.allocate_system().allocate_pinned();
#elif defined(KVBM_DISK_AFTER_SYSTEM)
  builder.allocate_system().allocate_disk();
#elif defined(KVBM_EXTERNAL_AFTER_SYSTEM)
  builder.allocate_system().with_external_regions({});
#elif defined(KVBM_DEVICE_AFTER_EXTERNAL)
  builder.with_external_device_regions({}).allocate_device(0);
#endif
}
