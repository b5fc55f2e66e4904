// SPDX-License-Identifier: Apache-2.0
#include "object_sharing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <utility>

#include "kvbm/object/object_store.hpp"
#include "measure.hpp"

namespace kvbm::cli {
namespace {

constexpr std::uint64_t kMostBlocks = 512;
constexpr std::size_t kSingles = 64;

/// A store and memory for all of its blocks.
class Shared {
 public:
  Shared(SharingPlan const& plan, ObjectServer const& server, std::uint64_t block_bytes,
         std::uint32_t blocks_per_object)
      : block_bytes_(block_bytes) {
    auto const fitting = std::max<std::uint64_t>(1, plan.bytes / block_bytes);
    // Whole objects, as many for every case of one size as there are for the largest.
    std::uint64_t const unit =
        *std::max_element(plan.blocks_per_object.begin(), plan.blocks_per_object.end());
    std::uint64_t const blocks =
        std::max<std::uint64_t>(1, std::min(fitting, kMostBlocks) / unit) * unit;
    object::ObjectStoreOptions options;
    options.s3 = server.options(plan.connections);
    options.scheme.model = fmt::format("bench-{}-{}", block_bytes, blocks);
    options.scheme.format = "bytes";
    options.scheme.prefix = fmt::format("k{}", blocks_per_object);
    options.blocks_per_object = blocks_per_object;
    store_ = object::ObjectBlockStore::open(options, {0, block_bytes, block_bytes, blocks}, "");
    queue_ = store_->make_queue();
    memory_.resize(block_bytes * blocks);
    std::mt19937 random(1);
    for (auto& byte : memory_) {
      byte = static_cast<std::byte>(random());
    }
    for (std::uint64_t i = 0; i < blocks; ++i) {
      all_.push_back(block(i));
      // One of each object, so that no two come in one request.
      if (i % blocks_per_object == 0) {
        single_.push_back(block(i + random() % blocks_per_object));
      }
    }
    std::shuffle(single_.begin(), single_.end(), random);
    single_.resize(std::min(single_.size(), kSingles));
  }

  [[nodiscard]] double write_all() { return move(false, all_); }
  [[nodiscard]] double read_all() { return move(true, all_); }
  /// A block, one after the other: what one request costs who waits for it.
  [[nodiscard]] double read_one() {
    double sum = 0;
    for (auto const& io : single_) {
      sum += move(true, {io});
    }
    return sum / static_cast<double>(single_.size());
  }
  /// Single blocks of different objects at once. @return seconds a block
  [[nodiscard]] double read_singles() {
    return move(true, single_) / static_cast<double>(single_.size());
  }
  [[nodiscard]] double write_singles() {
    return move(false, single_) / static_cast<double>(single_.size());
  }
  [[nodiscard]] std::uint64_t num_blocks() const { return all_.size(); }
  [[nodiscard]] double bytes() const { return static_cast<double>(memory_.size()); }

 private:
  memory::ExtentIo block(std::uint64_t i) {
    return {0, i, memory_.data() + i * block_bytes_, block_bytes_};
  }
  double move(bool read, std::vector<memory::ExtentIo> const& blocks) {
    return seconds([&] {
      if (read) {
        queue_->start_read(store_, blocks);
      } else {
        queue_->start_write(store_, blocks);
      }
      for (auto const& error : queue_->finish()) {
        if (error != nullptr) { std::rethrow_exception(error); }
      }
    });
  }
  std::uint64_t block_bytes_;
  std::shared_ptr<object::ObjectBlockStore> store_;
  std::unique_ptr<memory::ExtentQueue> queue_;
  std::vector<std::byte> memory_;
  std::vector<memory::ExtentIo> all_;
  std::vector<memory::ExtentIo> single_;
};

struct Times {
  Samples write_all, read_all, read_one, read_singles, write_singles;
};

}  // namespace

Table sharing_table(SharingPlan const& plan, ObjectServer const& server) {
  Table table("blocks_per_object",
              fmt::format("Blocks that share objects, {} connections (best of {} rounds in turns)",
                          plan.connections, plan.repeat),
              {{"block_bytes", "block"},
               {"blocks_per_object", "an object"},
               {"object_bytes", "object"},
               {"num_blocks", "blocks"},
               {"put", "put GB/s"},
               {"get", "get GB/s"},
               {"put_seconds", "put a block"},
               {"get_seconds", "get a block"},
               {"read_one_seconds", "read one"},
               {"read_seconds", "read singles, each"},
               {"write_seconds", "write singles, each"}});
  for (auto const block_bytes : plan.block_bytes) {
    std::vector<std::pair<std::uint32_t, std::unique_ptr<Shared>>> cases;
    cases.reserve(plan.blocks_per_object.size());
    for (auto const shared : plan.blocks_per_object) {
      cases.emplace_back(shared, std::make_unique<Shared>(plan, server, block_bytes, shared));
    }
    std::vector<Times> times(cases.size());
    for (std::size_t round = 0; round < plan.repeat; ++round) {
      for (std::size_t i = 0; i < cases.size(); ++i) {
        auto& store = *cases[i].second;
        times[i].write_all.add(store.write_all());
        times[i].read_all.add(store.read_all());
        times[i].read_one.add(store.read_one());
        times[i].read_singles.add(store.read_singles());
        times[i].write_singles.add(store.write_singles());
      }
    }
    for (std::size_t i = 0; i < cases.size(); ++i) {
      auto const& [shared, store] = cases[i];
      auto const blocks = static_cast<double>(store->num_blocks());
      table.add(
          {bytes_cell(block_bytes), count_cell(shared), bytes_cell(shared * block_bytes),
           count_cell(store->num_blocks()), rate_cell(store->bytes() / times[i].write_all.best()),
           rate_cell(store->bytes() / times[i].read_all.best()),
           time_cell(times[i].write_all.best() / blocks),
           time_cell(times[i].read_all.best() / blocks), time_cell(times[i].read_one.best()),
           time_cell(times[i].read_singles.best()), time_cell(times[i].write_singles.best())});
    }
  }
  table.note(
      "read one: one block at a time; singles: blocks of different objects at once, a write "
      "of a part of an object reads, merges and writes it");
  return table;
}

}  // namespace kvbm::cli
