// SPDX-License-Identifier: Apache-2.0
#include <numa.h>
#include <sched.h>

#include <algorithm>
#include <map>
#include <thread>

#include "kernels/worker_pool.hpp"

namespace kvbm::kernels {

CpuNodes usable_cpus() {
  CpuNodes nodes;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) {
    // More CPUs than the set can hold: one thread each, unbound.
    nodes.num_cpus = std::max(1U, std::thread::hardware_concurrency());
    return nodes;
  }
  nodes.num_cpus = static_cast<unsigned>(std::max(1, CPU_COUNT(&set)));
  if (numa_available() < 0) return nodes;
  std::map<int, std::vector<int>> by_node;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(static_cast<unsigned>(cpu), &set)) continue;
    if (int const node = numa_node_of_cpu(cpu); node >= 0) by_node[node].push_back(cpu);
  }
  for (auto& [node, cpus] : by_node)
    nodes.cpus_of_node.push_back(std::move(cpus));
  return nodes;
}

}  // namespace kvbm::kernels
