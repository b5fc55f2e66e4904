// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/error.hpp"
#include "kvbm/layout/dims.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/object/environment.hpp"
#include "kvbm/object/object_store.hpp"
#include "layout/state.hpp"

#include <fmt/format.h>

#include <optional>
#include <variant>

namespace kvbm::layout {
namespace {

using memory::StorageKind;

struct Allocate {
  StorageKind kind = StorageKind::System;
  DeviceId device_id = -1;
};
struct AllocateDisk {
  std::vector<std::filesystem::path> paths;
  bool is_temporary = false;
};

using Memory = std::variant<std::monostate, Allocate, AllocateDisk, object::ObjectStoreOptions,
                            std::vector<ExternalRegion>, std::vector<ExternalDeviceRegion>,
                            std::vector<memory::Region>>;

}  // namespace

struct LayoutDraft {
  std::shared_ptr<memory::MemorySource> source;
  std::optional<LayoutConfig> config;
  LayoutKind kind = LayoutKind::FullyContiguous;
  BlockDimension dimension = BlockDimension::First;
  std::optional<KvBlockLayout> format;
  std::optional<KvDimLayout> tensor;
  Memory memory;
};

namespace {

/// A changed copy: builders never share what they collected.
template <typename Change>
std::shared_ptr<LayoutDraft> changed(std::shared_ptr<LayoutDraft> const& draft, Change change) {
  auto copy = std::make_shared<LayoutDraft>(*draft);
  change(*copy);
  return copy;
}

std::shared_ptr<LayoutDraft> with_memory(std::shared_ptr<LayoutDraft> const& draft, Memory memory) {
  return changed(draft, [&](LayoutDraft& copy) { copy.memory = std::move(memory); });
}

std::shared_ptr<LayoutDraft> with_kind(std::shared_ptr<LayoutDraft> const& draft, LayoutKind kind,
                                       BlockDimension dimension,
                                       std::optional<KvBlockLayout> format) {
  return changed(draft, [&](LayoutDraft& copy) {
    copy.kind = kind;
    copy.dimension = dimension;
    copy.format = format;
  });
}

/// Turns the memory step into checked regions.
struct MakeRegions {
  detail::LayoutSpec const& spec;
  memory::MemorySource& source;
  using Regions = std::vector<memory::Region>;

  Regions operator()(Allocate const& step) const {
    return detail::allocate_regions(spec, source, step.kind, step.device_id);
  }
  Regions operator()(AllocateDisk const& step) const {
    KVBM_EXPECTS(step.is_temporary || !step.paths.empty(), InvalidArgument,
                 "allocate_disk: a list without paths; without a list the file is temporary");
    for (auto const& path : step.paths) {
      KVBM_EXPECTS(!path.empty(), InvalidArgument,
                   "allocate_disk: the path is empty; without a path the file is temporary");
    }
    return detail::create_files(spec, source, step.paths);
  }
  Regions operator()(std::vector<ExternalRegion> const& regions) const {
    return detail::external_regions(spec, source, regions);
  }
  Regions operator()(std::vector<ExternalDeviceRegion> const& regions) const {
    return detail::external_device_regions(spec, source, regions);
  }
  Regions operator()(std::vector<memory::Region> const& regions) const {
    return detail::existing_regions(spec, regions);
  }
  Regions operator()(object::ObjectStoreOptions const& options) const {
    return detail::open_objects(spec, options);
  }
  Regions operator()(std::monostate) const {
    throw Error(ErrorCode::Internal, "a layout builder without memory reached build()");
  }
};

PhysicalLayout build_layout(LayoutDraft const& draft) {
  KVBM_EXPECTS(draft.source != nullptr, InvalidArgument,
               "PhysicalLayout::builder needs a memory source, got null");
  detail::SpecRequest request{draft.config.value(), draft.kind, draft.dimension, draft.format,
                              draft.tensor};
  if (std::holds_alternative<AllocateDisk>(draft.memory) ||
      std::holds_alternative<object::ObjectStoreOptions>(draft.memory)) {
    request = detail::for_store(std::move(request));
  }
  auto spec = detail::make_spec(request);
  auto regions = std::visit(MakeRegions{spec, *draft.source}, draft.memory);
  return detail::make_layout(std::move(spec), std::move(regions), draft.source);
}

}  // namespace

PhysicalLayoutBuilder<false, false, false> PhysicalLayout::builder(
    std::shared_ptr<memory::MemorySource> source) {
  auto draft = std::make_shared<LayoutDraft>();
  draft->source = std::move(source);
  return PhysicalLayoutBuilder<false, false, false>(std::move(draft));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<true, K, M> PhysicalLayoutBuilder<C, K, M>::config(
    LayoutConfig const& config) const
  requires(!C)
{
  return PhysicalLayoutBuilder<true, K, M>(
      changed(draft_, [&](LayoutDraft& copy) { copy.config = config; }));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, true, M> PhysicalLayoutBuilder<C, K, M>::fully_contiguous() const
  requires(!K)
{
  return PhysicalLayoutBuilder<C, true, M>(
      with_kind(draft_, LayoutKind::FullyContiguous, BlockDimension::First, std::nullopt));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, true, M> PhysicalLayoutBuilder<C, K, M>::fully_contiguous(
    KvBlockLayout const& format) const
  requires(!K)
{
  return PhysicalLayoutBuilder<C, true, M>(
      with_kind(draft_, LayoutKind::FullyContiguous, BlockDimension::First, format));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, true, M> PhysicalLayoutBuilder<C, K, M>::layer_separate(
    BlockDimension dimension) const
  requires(!K)
{
  return PhysicalLayoutBuilder<C, true, M>(
      with_kind(draft_, LayoutKind::LayerSeparate, dimension, std::nullopt));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, true, M> PhysicalLayoutBuilder<C, K, M>::layer_separate(
    BlockDimension dimension, KvBlockLayout const& format) const
  requires(!K)
{
  return PhysicalLayoutBuilder<C, true, M>(
      with_kind(draft_, LayoutKind::LayerSeparate, dimension, format));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, true, M> PhysicalLayoutBuilder<C, K, M>::layer_separate(
    KvDimLayout const& tensor) const
  requires(!K)
{
  return PhysicalLayoutBuilder<C, true, M>(changed(draft_, [&](LayoutDraft& copy) {
    copy.kind = LayoutKind::LayerSeparate;
    copy.tensor = tensor;
  }));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::allocate_system() const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(with_memory(draft_, Allocate{StorageKind::System, -1}));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::allocate_pinned(
    DeviceId near_device) const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(
      with_memory(draft_, Allocate{StorageKind::Pinned, near_device}));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::allocate_device(DeviceId id) const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(with_memory(draft_, Allocate{StorageKind::Device, id}));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::allocate_disk() const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(with_memory(draft_, AllocateDisk{{}, true}));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::allocate_disk(
    std::filesystem::path const& path) const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(with_memory(draft_, AllocateDisk{{path}, false}));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::allocate_disk(
    std::vector<std::filesystem::path> const& paths) const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(with_memory(draft_, AllocateDisk{paths, false}));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::allocate_object(
    object::ObjectStoreOptions const& options) const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(with_memory(draft_, options));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::allocate_object(
    std::string const& bucket, std::string const& prefix) const
  requires(!M)
{
  object::ObjectStoreOptions options;
  options.s3 = object::options_from_environment(bucket);
  options.scheme.prefix = prefix;
  return allocate_object(options);
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::with_external_regions(
    std::vector<ExternalRegion> regions) const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(with_memory(draft_, std::move(regions)));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::with_external_device_regions(
    std::vector<ExternalDeviceRegion> regions) const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(with_memory(draft_, std::move(regions)));
}

template <bool C, bool K, bool M>
PhysicalLayoutBuilder<C, K, true> PhysicalLayoutBuilder<C, K, M>::with_regions(
    std::vector<memory::Region> regions) const
  requires(!M)
{
  return PhysicalLayoutBuilder<C, K, true>(with_memory(draft_, std::move(regions)));
}

template <bool C, bool K, bool M>
PhysicalLayout PhysicalLayoutBuilder<C, K, M>::build() const
  requires(C && K && M)
{
  return build_layout(*draft_);
}

template class PhysicalLayoutBuilder<false, false, false>;
template class PhysicalLayoutBuilder<false, false, true>;
template class PhysicalLayoutBuilder<false, true, false>;
template class PhysicalLayoutBuilder<false, true, true>;
template class PhysicalLayoutBuilder<true, false, false>;
template class PhysicalLayoutBuilder<true, false, true>;
template class PhysicalLayoutBuilder<true, true, false>;
template class PhysicalLayoutBuilder<true, true, true>;

}  // namespace kvbm::layout
