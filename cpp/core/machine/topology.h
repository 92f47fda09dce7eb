// How many cores this process may use.
#pragma once

#include <string>
#include <vector>

namespace torchpool {

struct Topology {
  std::vector<int> allowed_cpus;  // the affinity mask
  int physical_cores = 1;         // distinct cores among the allowed CPUs
  double cpu_quota = 0.0;         // cores' worth of time granted by cgroup v1 or v2; 0: unlimited
  std::string describe() const;
};

// Reads the machine's topology. `root` stands for "/", so that tests can bring a tree of their own. The affinity comes
// from the kernel, unless the tree has proc/self/status with Cpus_allowed_list.
Topology read_topology(const std::string& root = "/");
// max(1, min(physical_cores, ceil(cpu_quota))).
int usable_cores(const Topology& topology);

}  // namespace torchpool
