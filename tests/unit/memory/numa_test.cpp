// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/numa.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "extent_pattern.hpp"
#include "kvbm/testing/failure.hpp"
#include "kvbm/testing/temp_folder.hpp"

namespace kvbm::memory {
namespace {

// A sysfs with the given devices: address, class, node (empty: the file is missing).
class Sysfs {
 public:
  void add(std::string const& address, std::string const& pci_class, std::string const& node) {
    auto const folder = folder_.path() / "bus" / "pci" / "devices" / address;
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "class") << pci_class << "\n";
    if (!node.empty()) { std::ofstream(folder / "numa_node") << node << "\n"; }
  }
  [[nodiscard]] std::filesystem::path const& path() const { return folder_.path(); }

 private:
  kvbm::testing::TempFolder folder_;
};

TEST(Numa, A4_FindsGpusOfBothPciClasses) {
  Sysfs sysfs;
  sysfs.add("0000:65:00.0", "0x030200", "1");  // 3D controller: data centre GPUs
  sysfs.add("0000:17:00.0", "0x030000", "0");  // display
  sysfs.add("0000:02:00.0", "0x010802", "0");  // NVMe
  sysfs.add("0000:03:00.0", "0x030100", "0");  // another display class
  sysfs.add("0000:b1:00.0", "0x030200", "-1");
  auto const gpus = find_pci_gpus(sysfs.path());
  ASSERT_EQ(gpus.size(), 3U);
  EXPECT_EQ(gpus[0].address, "0000:17:00.0");
  EXPECT_EQ(gpus[0].numa_node, 0);
  EXPECT_EQ(gpus[1].address, "0000:65:00.0");
  EXPECT_EQ(gpus[1].pci_class, 0x030200U);
  EXPECT_EQ(gpus[1].numa_node, 1);
  EXPECT_EQ(gpus[2].numa_node, -1);
}

TEST(Numa, A4_NodeOfADeviceIsUnknownWhereTheFirmwareDoesNotSay) {
  Sysfs sysfs;
  sysfs.add("0000:17:00.0", "0x030000", "1");
  sysfs.add("0000:18:00.0", "0x030000", "");
  sysfs.add("0000:19:00.0", "0x030000", "what");
  EXPECT_EQ(numa_node_of_pci_device("0000:17:00.0", sysfs.path()), 1);
  EXPECT_EQ(numa_node_of_pci_device("0000:18:00.0", sysfs.path()), -1);
  EXPECT_EQ(numa_node_of_pci_device("0000:19:00.0", sysfs.path()), -1);
  EXPECT_EQ(numa_node_of_pci_device("0000:20:00.0", sysfs.path()), -1);
  EXPECT_TRUE(find_pci_gpus("/no/such/sysfs").empty());
}

TEST(Numa, A4_ThisMachineHasAtLeastOneNode) {
  EXPECT_GE(num_numa_nodes(), 1);
  EXPECT_NO_THROW(find_pci_gpus());
}

TEST(Numa, A4_RefusesANodeThatIsNotThere) {
  test::AlignedBuffer const buffer(8192);
  EXPECT_FALSE(prefer_numa_node(buffer.data(), buffer.size(), -1));
  EXPECT_FALSE(prefer_numa_node(buffer.data(), buffer.size(), num_numa_nodes()));
}

TEST(Numa, A4_PlacementCountsEveryPage) {
  test::AlignedBuffer const buffer(3 * 4096);
  try {
    auto const here = check_numa_placement(buffer.data(), buffer.size(), 0);
    EXPECT_EQ(here.pages, 3U);
    auto const nowhere = check_numa_placement(buffer.data() + 1, 4096, 4711);
    EXPECT_EQ(nowhere.pages, 2U);
    EXPECT_EQ(nowhere.on_node, 0U);
  } catch (Error const& error) { GTEST_SKIP() << error.what(); }
}

}  // namespace
}  // namespace kvbm::memory
