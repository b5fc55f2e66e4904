// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kvbm/memory/block_file.hpp"
#include "kvbm/transfer/strategy.hpp"
#include "transfer/local_copy.hpp"
#include "transfer/pipeline_workers.hpp"
#include "transfer/transfer_job.hpp"

namespace kvbm::transfer {

/// Moves blocks along a path of stations in batches: a file or memory at either end, staging or a
/// bounce buffer between. Hops overlap: while one half of the staging blocks is read or written,
/// the other one is copied. A file at the end is written in whole extents; where the transfer
/// changes only a part of them they are read first. Without a file it is a path between memories
/// that can be stopped from batch to batch.
class Pipeline {
 public:
  /// @throws Error(OutOfMemory) no staging memory
  Pipeline(TransferJob& job, PipelineResources& resources, Strategy strategy);

  /// Moves everything, or until the job should stop; all I/O has ended when it returns.
  void run();

  /// Blocks [0, num_done()) went through, but for failed().
  [[nodiscard]] std::size_t num_done() const noexcept { return num_done_; }
  [[nodiscard]] std::vector<FailedBlock> take_failed();

 private:
  struct Station {
    layout::PhysicalLayout layout;
    IndexRange heads;                            ///< of this station's heads
    std::span<BlockId const> list;               ///< ends: the transfer's own ids
    std::array<std::vector<BlockId>, 2> halves;  ///< between: ids of either half
    bool is_padded = false;                      ///< extents may be touched up to kFileAlignment
    std::vector<std::uint32_t> extents;          ///< of a file's block, those the layers touch
    [[nodiscard]] bool is_file() const noexcept {
      return layout.storage_kind() == memory::StorageKind::Disk;
    }
  };
  struct Batch {
    std::size_t first = 0;
    std::size_t count = 0;
    std::size_t half = 0;
  };

  void add_staging(layout::PhysicalLayout const& like, IndexRange heads);
  void allocate_staging();
  void add_bounce();
  void plan_path(Strategy strategy);
  void plan_batches();
  void plan_copies();

  [[nodiscard]] std::optional<Batch> batch(std::size_t number) const;
  [[nodiscard]] std::span<BlockId const> ids(Station const& station, Batch const& batch) const;
  void append_extents(Station const& file, Station const& memory, Batch const& batch,
                      std::size_t position);
  void start_read(Station const& file, Station const& memory, Batch const& batch);
  void finish_read(Batch const& batch, bool missing_is_empty);
  void copy(Batch const& batch);
  void start_write(Batch const& batch);
  void finish_write(std::size_t half);
  void zero_missing(Station const& memory, Batch const& batch, std::size_t position,
                    std::uint32_t number);
  void fail(std::size_t position, std::exception_ptr error);

  [[nodiscard]] bool reads() const { return stations_.front().is_file(); }
  [[nodiscard]] bool writes() const { return stations_.back().is_file(); }

  TransferJob& job_;
  PipelineResources& resources_;
  IndexRange layers_;
  std::vector<Station> stations_;
  std::vector<LocalCopy> copies_;         ///< between neighbouring memory stations
  std::optional<Strategy> hop_strategy_;  ///< of a single hop that was chosen already
  std::size_t num_halves_ = 2;
  std::size_t batch_blocks_ = 1;
  bool partial_write_ = false;
  bool shared_staging_ = false;                      ///< file to file through one station
  std::array<std::vector<std::size_t>, 2> reading_;  ///< positions under way, by half
  std::array<std::vector<std::size_t>, 2> writing_;
  std::array<std::size_t, 2> write_end_{};       ///< behind the batch under way, by half
  std::vector<memory::BlockFile::ExtentIo> io_;  ///< reused between batches
  std::vector<bool> alive_;                      ///< by position
  std::size_t num_done_ = 0;
  std::vector<FailedBlock> failed_;
};

}  // namespace kvbm::transfer
