// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kvbm/memory/block_store.hpp"
#include "kvbm/transfer/strategy.hpp"
#include "transfer/local_copy.hpp"
#include "transfer/pipeline_workers.hpp"
#include "transfer/transfer_job.hpp"

namespace kvbm::transfer {

/// Batches are at least this long, so that a disk or a wire is busy while the next one is prepared.
inline constexpr std::uint64_t kMinBatchBytes = std::uint64_t{4} << 20U;
/// The same of object stores, whose requests take milliseconds: many have to be under way.
inline constexpr std::uint64_t kMinObjectBatchBytes = std::uint64_t{16} << 20U;

/// Moves blocks along a path of stations in batches: a store (file or objects) or memory at either
/// end, staging or a bounce buffer between. Hops overlap: while one slot of the staging blocks is
/// read or written, another one is copied. A store at the end is written in whole extents; where
/// the transfer changes only a part of them they are read first. A peer's memory at either end is
/// read and written over its wire. Without either it is a path between memories that can be stopped
/// from batch to batch.
class Pipeline {
 public:
  /// @throws Error(OutOfMemory) no staging memory
  /// @pre    the destructor runs when all work under way has ended: run() returned, or
  ///         resources.drain() was called
  Pipeline(TransferJob& job, PipelineResources& resources, Strategy strategy);

  /// Keeps others from memory that a wire may still touch.
  ~Pipeline();
  Pipeline(Pipeline const&) = delete;
  Pipeline& operator=(Pipeline const&) = delete;

  /// Moves everything, or until the job should stop; all I/O has ended when it returns.
  void run();

  /// Blocks [0, num_done()) went through, but for failed().
  [[nodiscard]] std::size_t num_done() const noexcept { return num_done_; }
  [[nodiscard]] std::vector<FailedBlock> take_failed();

 private:
  struct Station {
    layout::PhysicalLayout layout;
    IndexRange heads;                                   ///< of this station's heads
    std::span<BlockId const> list;                      ///< ends: the transfer's own ids
    std::array<std::vector<BlockId>, kMaxSlots> slots;  ///< between: ids of each slot
    bool is_padded = false;              ///< extents may be touched up to kFileAlignment
    std::vector<std::uint32_t> extents;  ///< of a store's block, those the layers touch
    bool is_remote = false;              ///< a peer's memory: its blocks or an image of them
    bool is_image = false;               ///< landing memory: the peer copies on
    [[nodiscard]] bool is_store() const noexcept { return memory::is_store(layout.storage_kind()); }
    [[nodiscard]] std::shared_ptr<memory::BlockStore> const& store() const {
      return layout.regions().front().store();
    }
    /// Read and written from outside of the pipeline's own thread.
    [[nodiscard]] bool is_far() const noexcept { return is_store() || is_remote; }
  };
  struct Batch {
    std::size_t first = 0;
    std::size_t count = 0;
    std::size_t slot = 0;
  };

  void add_staging(layout::PhysicalLayout const& like, IndexRange heads);
  void allocate_staging();
  void add_bounce();
  void plan_path(Strategy strategy);
  void plan_extents();
  /// @param min_batch  blocks of an image's batch that are worth a slot of their own, 1 at least
  [[nodiscard]] std::size_t wanted_slots(std::size_t min_batch) const;
  void plan_batches();
  void plan_copies();

  [[nodiscard]] std::optional<Batch> batch(std::size_t number) const;
  [[nodiscard]] std::span<BlockId const> ids(Station const& station, Batch const& batch) const;
  void append_extents(Station const& stored, Station const& memory, Batch const& batch,
                      std::size_t position);
  void start_read(Station const& stored, Station const& memory, Batch const& batch);
  void finish_read(Batch const& batch, bool missing_is_empty);
  /// Waits for a read whose outcome nobody wants any more.
  void abandon_read(std::size_t slot);
  void copy(Batch const& batch);
  void start_write(Batch const& batch);
  void finish_write(std::size_t slot);
  void zero_missing(Station const& memory, Batch const& batch, std::size_t position,
                    std::uint32_t number);
  void fail(std::size_t position, std::exception_ptr error);

  void plan_remote_path(Strategy strategy);
  void add_image();
  /// Lets the wire reach the caller's bounce buffer, for this transfer.
  void expose_bounce();
  /// The move between a peer's station and the one beside it, for the living blocks of a batch.
  void start_move(Batch const& batch);
  /// The living blocks of a batch with the peer's ids, as an order to the peer.
  [[nodiscard]] ImageOrder image_order(Batch const& batch) const;
  void hold_near();
  void finish_move(std::size_t slot, std::vector<std::size_t> const& positions);

  [[nodiscard]] bool reads() const { return stations_.front().is_far(); }
  [[nodiscard]] bool writes() const { return stations_.back().is_far(); }

  /// Of the slot's reads from, writes to the store at the path's end.
  [[nodiscard]] memory::ExtentQueue& read_queue(std::size_t slot, Station const& stored);
  [[nodiscard]] memory::ExtentQueue& write_queue(std::size_t slot, Station const& stored);
  void open_direct_storage();

  TransferJob& job_;
  PipelineResources& resources_;
  IndexRange layers_;
  std::vector<Station> stations_;
  std::vector<LocalCopy> copies_;           ///< between neighbouring memory stations
  std::optional<Strategy> hop_strategy_;    ///< of a single hop that was chosen already
  std::optional<WireCopy> wire_;            ///< between the peer's station and the one beside it
  std::shared_ptr<Landing const> landing_;  ///< at the peer, of an image station
  std::vector<std::shared_ptr<void const>> exposed_;  ///< a bounce buffer's regions, to the wire
  std::shared_ptr<WireHold> hold_;                    ///< of our end of the wire
  /// GPUDirect Storage's, where it moves the extents; the job's state keeps the file known to it.
  std::array<std::unique_ptr<memory::ExtentQueue>, kMaxSlots> storage_queues_;
  std::exception_ptr move_error_;  ///< of a move on the pipeline's own thread
  std::size_t num_slots_ = 2;
  std::size_t batch_blocks_ = 1;
  bool partial_write_ = false;
  bool shared_staging_ = false;                              ///< file to file through one station
  std::array<std::vector<std::size_t>, kMaxSlots> reading_;  ///< positions under way, by slot
  std::array<std::vector<std::size_t>, kMaxSlots> writing_;
  std::array<std::size_t, kMaxSlots> write_end_{};  ///< behind the batch under way, by slot
  std::vector<memory::ExtentIo> io_;                ///< reused between batches
  std::vector<bool> alive_;                         ///< by position
  std::size_t num_done_ = 0;
  std::vector<FailedBlock> failed_;
};

}  // namespace kvbm::transfer
