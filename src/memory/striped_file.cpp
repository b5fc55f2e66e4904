// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/striped_file.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "memory/file_handle.hpp"
#include "memory/striped_file_impl.hpp"

namespace kvbm::memory {

std::string encode_part(StripePart const& part) {
  nlohmann::json const json = {
      {"kvbm_stripe", 1}, {"set", part.set}, {"index", part.index}, {"count", part.count}};
  return json.dump();
}

std::optional<StripePart> decode_part(std::string_view metadata) {
  auto const json = nlohmann::json::parse(metadata.begin(), metadata.end(), nullptr,
                                          /*allow_exceptions=*/false);
  if (!json.is_object() || json.size() != 4 || !json.contains("kvbm_stripe")) {
    return std::nullopt;
  }
  auto const number = [&](char const* field) -> std::optional<std::uint64_t> {
    auto const found = json.find(field);
    if (found == json.end() || !found->is_number_unsigned()) { return std::nullopt; }
    return found->get<std::uint64_t>();
  };
  auto const set = number("set");
  auto const index = number("index");
  auto const count = number("count");
  if (!set || !index || !count) { return std::nullopt; }
  return StripePart{*set, *index, *count};
}

std::vector<ExtentGroup> part_groups(std::vector<ExtentGroup> const& groups, std::uint64_t index,
                                     std::uint64_t count) {
  std::vector<ExtentGroup> mine;
  mine.reserve(groups.size());
  std::uint64_t end = 0;
  for (auto const& group : groups) {
    std::uint64_t const extents = group.count > index ? (group.count - index - 1) / count + 1 : 1;
    mine.push_back({end, group.extent_bytes, group.extent_stride, extents});
    end = checked_add(end, checked_mul(extents, group.extent_stride));
  }
  return mine;
}

std::filesystem::path stripes_path(std::filesystem::path const& first) {
  return with_suffix(first, ".stripes");
}

StripedFile::StripedFile(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)), num_parts_(impl_->parts.size()) {}
StripedFile::~StripedFile() = default;

std::vector<std::shared_ptr<BlockFile>> const& StripedFile::parts() const noexcept {
  return impl_->parts;
}
std::string StripedFile::name() const { return impl_->stripes.string(); }
std::string const& StripedFile::metadata() const noexcept { return impl_->manifest.metadata; }
std::vector<ExtentGroup> const& StripedFile::groups() const noexcept {
  return impl_->manifest.groups;
}
bool StripedFile::is_writable() const noexcept { return impl_->parts.front()->is_writable(); }
std::unique_ptr<ExtentQueue> StripedFile::make_queue() {
  return impl_->parts.front()->make_queue();
}
void const* StripedFile::family() const noexcept { return impl_->parts.front()->family(); }

void StripedFile::check_extent(std::uint32_t group, std::uint64_t extent) const {
  KVBM_EXPECTS(group < groups().size(), OutOfRange,
               fmt::format("{}: group {} of {}", name(), group, groups().size()));
  KVBM_EXPECTS(
      extent < groups()[group].count, OutOfRange,
      fmt::format("{}: extent {} of {} in group {}", name(), extent, groups()[group].count, group));
}

std::optional<Checksum> StripedFile::checksum(std::uint32_t group, std::uint64_t extent) const {
  check_extent(group, extent);
  Place const place = place_of(extent);
  return impl_->parts[place.part]->checksum(group, place.extent);
}

ExtentStatus StripedFile::status(std::uint32_t group, std::uint64_t extent) const {
  check_extent(group, extent);
  Place const place = place_of(extent);
  return impl_->parts[place.part]->status(group, place.extent);
}

void StripedFile::invalidate(std::uint32_t group, std::uint64_t extent) {
  check_extent(group, extent);
  Place const place = place_of(extent);
  impl_->parts[place.part]->invalidate(group, place.extent);
}

void StripedFile::sync() {
  for (auto const& part : impl_->parts) {
    part->sync();
  }
}

StoreSpace StripedFile::space() const {
  StoreSpace space;
  std::set<dev_t> devices;
  for (auto const& part : impl_->parts) {
    StoreSpace const own = part->space();
    space.bytes_allocated += own.bytes_allocated;
    space.extents_written += own.extents_written;
    space.extents_torn += own.extents_torn;
    space.extents_damaged += own.extents_damaged;
    struct stat status{};
    bool const is_known = ::stat(part->path().c_str(), &status) == 0;
    if (is_known && !devices.insert(status.st_dev).second) { continue; }
    space.file_system_free += own.file_system_free;
    space.file_system_total += own.file_system_total;
  }
  for (auto const& group : groups()) {
    space.extents_total += group.count;
  }
  return space;
}

}  // namespace kvbm::memory
