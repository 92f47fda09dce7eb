#include "core/machine/topology.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/test_support.h"

namespace torchpool::testing {
namespace {

namespace fs = std::filesystem;

// A machine's files in a folder of the test's own.
class TopologyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "torchpool_topology_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    const fs::path file = root_ / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  void allow(const std::string& cpus) { write("proc/self/status", "Name:\ttest\nCpus_allowed_list:\t" + cpus); }
  void add_cpu(int cpu, int core, int package) {
    const std::string folder = "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    write(folder + "core_id", std::to_string(core));
    write(folder + "physical_package_id", std::to_string(package));
  }
  Topology read() const { return read_topology(root_.string()); }

  fs::path root_;
};

TEST_F(TopologyTest, ReadsTheAffinityList) {
  allow("0-2,5");
  EXPECT_EQ(read().allowed_cpus, (std::vector{0, 1, 2, 5}));
  EXPECT_EQ(read().physical_cores, 4);  // nothing known of their cores: each counts
  EXPECT_EQ(usable_cores(read()), 4);
}

TEST_F(TopologyTest, HyperthreadsCountOnce) {
  allow("0-7");
  for (int cpu = 0; cpu < 8; ++cpu) add_cpu(cpu, cpu % 4, 0);
  EXPECT_EQ(read().physical_cores, 4);
}

TEST_F(TopologyTest, CoresOfTwoPackagesAreDistinct) {
  allow("0-3");
  for (int cpu = 0; cpu < 4; ++cpu) add_cpu(cpu, cpu % 2, cpu / 2);
  EXPECT_EQ(read().physical_cores, 4);
}

TEST_F(TopologyTest, OnlyAllowedCpusCount) {
  allow("1,5");
  for (int cpu = 0; cpu < 8; ++cpu) add_cpu(cpu, cpu % 4, 0);
  EXPECT_EQ(read().physical_cores, 1);
}

TEST_F(TopologyTest, SiblingListsServeWithoutCoreIds) {
  allow("0-3");
  for (int cpu = 0; cpu < 4; ++cpu) {
    write("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
          cpu < 2 ? "0-1" : "2-3");
  }
  EXPECT_EQ(read().physical_cores, 2);
}

TEST_F(TopologyTest, CgroupV2QuotaIsTheLeastUpTheTree) {
  allow("0-7");
  write("proc/self/cgroup", "0::/outer/inner");
  write("sys/fs/cgroup/cpu.max", "max 100000");
  write("sys/fs/cgroup/outer/cpu.max", "250000 100000");
  write("sys/fs/cgroup/outer/inner/cpu.max", "400000 100000");
  EXPECT_DOUBLE_EQ(read().cpu_quota, 2.5);
  EXPECT_EQ(usable_cores(read()), 3);
}

TEST_F(TopologyTest, MaxMeansUnlimited) {
  allow("0-3");
  write("proc/self/cgroup", "0::/");
  write("sys/fs/cgroup/cpu.max", "max 100000");
  EXPECT_EQ(read().cpu_quota, 0.0);
  EXPECT_EQ(usable_cores(read()), 4);
}

TEST_F(TopologyTest, AContainerSeesItsGroupAsTheRoot) {
  allow("0-7");
  write("proc/self/cgroup", "0::/../../docker/abc");
  write("sys/fs/cgroup/cpu.max", "150000 100000");
  EXPECT_DOUBLE_EQ(read().cpu_quota, 1.5);
}

TEST_F(TopologyTest, CgroupV1Quota) {
  allow("0-7");
  write("proc/self/cgroup", "5:memory:/job\n4:cpu,cpuacct:/job\n0::/ignored");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "50000");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000");
  EXPECT_DOUBLE_EQ(read().cpu_quota, 0.5);
  EXPECT_EQ(usable_cores(read()), 1);
}

TEST_F(TopologyTest, NonsenseIsNoQuota) {
  allow("0-3");
  write("proc/self/cgroup", "nonsense\n0::/a");
  write("sys/fs/cgroup/a/cpu.max", "100000");
  write("sys/fs/cgroup/cpu.max", "many 0");
  EXPECT_EQ(read().cpu_quota, 0.0);
}

TEST_F(TopologyTest, AnEmptyTreeFallsBackToTheKernel) {
  EXPECT_FALSE(read().allowed_cpus.empty());
  EXPECT_GE(usable_cores(read()), 1);
}

TEST_F(TopologyTest, DescribesItself) {
  Topology topology;
  topology.allowed_cpus = {0, 1};
  topology.physical_cores = 2;
  EXPECT_EQ(topology.describe(), "2 CPUs allowed, 2 physical cores, no quota");
  topology.cpu_quota = 1.5;
  EXPECT_EQ(topology.describe(), "2 CPUs allowed, 2 physical cores, quota of 1.5 cores");
}

TEST(MachineTopologyTest, ThisMachineHasACore) {
  EXPECT_GE(usable_cores(read_topology()), 1);
}

}  // namespace
}  // namespace torchpool::testing
