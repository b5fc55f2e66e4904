// SPDX-License-Identifier: Apache-2.0
#include "kvbm/prefix/prefix_store.hpp"

#include <utility>

#include "prefix/store_impl.hpp"

namespace kvbm::prefix {

class Pin::State {
 public:
  State(std::weak_ptr<PrefixStore::Impl> store, std::vector<BlockKey> keys)
      : store_(std::move(store)), keys_(std::move(keys)) {}
  ~State() {
    if (auto const store = store_.lock()) { store->unpin(keys_); }
  }
  State(State const&) = delete;
  State& operator=(State const&) = delete;
  [[nodiscard]] std::vector<BlockKey> const& keys() const noexcept { return keys_; }

 private:
  std::weak_ptr<PrefixStore::Impl> store_;
  std::vector<BlockKey> keys_;
};

Pin::Pin() noexcept = default;
Pin::Pin(std::unique_ptr<State> state) : state_(std::move(state)) {}
Pin::Pin(Pin&&) noexcept = default;
Pin& Pin::operator=(Pin&&) noexcept = default;
Pin::~Pin() = default;

std::vector<BlockKey> const& Pin::keys() const noexcept {
  static std::vector<BlockKey> const kNone;
  return state_ == nullptr ? kNone : state_->keys();
}

void Pin::release() noexcept { state_.reset(); }

PrefixStore::PrefixStore(std::shared_ptr<manager::TransferManager> manager,
                         PrefixStoreOptions options)
    : impl_(std::make_shared<Impl>(std::move(manager), std::move(options))) {}

// A Pin that goes at the same time may be the last to hold the state, but never its threads.
PrefixStore::~PrefixStore() { impl_->stop(); }

std::uint64_t PrefixStore::page_size() const noexcept { return impl_->page_size; }

BlockKey const& PrefixStore::root() const noexcept { return impl_->root; }

std::vector<BlockKey> PrefixStore::keys(std::span<TokenId const> tokens) const {
  return chain_keys(impl_->root, tokens, impl_->page_size);
}

PrefixMatch PrefixStore::lookup(std::span<BlockKey const> keys) const {
  return impl_->lookup(keys);
}

bool PrefixStore::contains(BlockKey const& key) const { return impl_->contains(key); }

std::size_t PrefixStore::discover(std::span<BlockKey const> keys) { return impl_->discover(keys); }

Ticket<OnboardResult> PrefixStore::onboard(std::span<BlockKey const> keys, layout::LayoutHandle dst,
                                           std::span<BlockId const> dst_blocks) {
  return impl_->onboard(keys, dst, dst_blocks);
}

Ticket<OffloadResult> PrefixStore::offload(std::span<BlockKey const> keys, layout::LayoutHandle src,
                                           std::span<BlockId const> src_blocks) {
  return impl_->offload(keys, src, src_blocks);
}

Ticket<PrefetchResult> PrefixStore::prefetch(std::span<BlockKey const> keys) {
  return impl_->prefetch(keys);
}

Pin PrefixStore::pin(std::span<BlockKey const> keys) {
  return Pin(std::make_unique<Pin::State>(impl_, impl_->pin(keys)));
}

std::size_t PrefixStore::erase(std::span<BlockKey const> keys) { return impl_->erase(keys); }

FlushResult PrefixStore::flush() { return impl_->flush(); }

PrefixStats PrefixStore::stats() const { return impl_->stats(); }

}  // namespace kvbm::prefix
