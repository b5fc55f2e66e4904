// SPDX-License-Identifier: Apache-2.0
#include "transfer/local_copy.hpp"

namespace kvbm::transfer {
namespace {

/// Waits for everything on the stream, whatever happened before.
class Drain {
 public:
  explicit Drain(device::Stream& stream) : stream_(stream) {}
  ~Drain() {
    try {
      stream_.synchronize();
    } catch (std::exception const&) {  // the failure that is under way already tells more
    }
  }
  Drain(Drain const&) = delete;
  Drain& operator=(Drain const&) = delete;

 private:
  device::Stream& stream_;
};

}  // namespace

LocalCopy::Way LocalCopy::make(TransferContext::Impl& context, CopyPlan const& plan,
                               layout::PhysicalLayout const& src,
                               layout::PhysicalLayout const& dst) {
  if (is_host_reachable(src) && is_host_reachable(dst)) { return MemoryCopy(plan, src, dst); }
  return DeviceCopy(context, plan, src, dst);
}

LocalCopy::LocalCopy(TransferContext::Impl& context, CopyPlan const& plan,
                     layout::PhysicalLayout const& src, layout::PhysicalLayout const& dst)
    : way_(make(context, plan, src, dst)) {}

void LocalCopy::run(TransferContext::Impl& context, std::span<BlockId const> src_blocks,
                    std::span<BlockId const> dst_blocks, TransferOptions const& options,
                    std::optional<Strategy> wanted) const {
  if (auto const* const copy = std::get_if<MemoryCopy>(&way_)) {
    copy->run(context.copy_engine_, src_blocks, dst_blocks, options.priority, options.spare);
    return;
  }
  auto const& copy = std::get<DeviceCopy>(way_);
  ChoiceInput input = copy.choice(src_blocks, dst_blocks);
  input.single_hop = true;
  input.wanted = wanted;
  input.spare = options.spare;
  input.costs = &context.options_.costs;
  Strategy const strategy = choose_strategy(input);
  auto const stream = context.acquire_inner_stream(copy.device_id(), copy.direction());
  {
    Drain const drain(*stream);
    copy.enqueue(
        context, stream, src_blocks, dst_blocks,
        {strategy, choose_max_ctas(strategy, copy.direction(), options.spare, options.max_sms)});
    auto const done = copy.device().create_event();
    stream->record(done);
    done->wait();
  }
}

}  // namespace kvbm::transfer
