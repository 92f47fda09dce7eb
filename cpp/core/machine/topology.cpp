#include "core/machine/topology.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

namespace torchpool {
namespace {

std::vector<std::string> read_lines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::string first_line(const std::string& path) {
  const std::vector<std::string> lines = read_lines(path);
  return lines.empty() ? std::string() : lines.front();
}

// False for an empty or malformed number, "max" among them.
bool parse_number(const std::string& text, double& number) {
  char* end = nullptr;
  number = std::strtod(text.c_str(), &end);
  return end != text.c_str();
}

// "0-3,8" -> 0 1 2 3 8
std::vector<int> parse_cpu_list(const std::string& text) {
  std::vector<int> cpus;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    double first = 0;
    if (!parse_number(part, first)) continue;
    double last = first;
    const std::size_t dash = part.find('-');
    if (dash != std::string::npos && !parse_number(part.substr(dash + 1), last)) continue;
    for (int cpu = static_cast<int>(first); cpu <= static_cast<int>(last); ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<int> kernel_affinity() {
  std::vector<int> cpus;
  for (int most = CPU_SETSIZE; most <= (1 << 20); most *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<std::size_t>(most));
    if (set == nullptr) return cpus;
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(most));
    CPU_ZERO_S(bytes, set);
    const bool known = sched_getaffinity(0, bytes, set) == 0;  // fails where the kernel's mask is larger
    for (int cpu = 0; known && cpu < most; ++cpu) {
      if (CPU_ISSET_S(static_cast<std::size_t>(cpu), bytes, set)) cpus.push_back(cpu);
    }
    CPU_FREE(set);
    if (known) return cpus;
  }
  return cpus;
}

std::vector<int> allowed_cpus(const std::string& root) {
  const std::string field = "Cpus_allowed_list:";
  if (root != "/") {
    for (const std::string& line : read_lines(root + "/proc/self/status")) {
      if (line.starts_with(field)) return parse_cpu_list(line.substr(field.size()));
    }
  }
  return kernel_affinity();
}

int count_physical_cores(const std::string& root, const std::vector<int>& cpus) {
  std::set<std::pair<std::string, std::string>> cores;
  for (const int cpu : cpus) {
    const std::string folder = root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const std::string core = first_line(folder + "core_id");
    const std::string siblings = first_line(folder + "thread_siblings_list");
    if (!core.empty()) {
      cores.emplace(first_line(folder + "physical_package_id"), core);
    } else if (!siblings.empty()) {
      cores.emplace("siblings", siblings);
    } else {
      cores.emplace("cpu", std::to_string(cpu));
    }
  }
  return std::max(1, static_cast<int>(cores.size()));
}

void lower(double& quota, double value) {
  if (value > 0 && (quota <= 0 || value < quota)) quota = value;
}

// "max 100000" or "150000 100000"
double quota_v2(const std::string& folder) {
  std::istringstream words(first_line(folder + "/cpu.max"));
  std::string granted;
  double quota = 0;
  double period = 0;
  if (!(words >> granted >> period) || !parse_number(granted, quota) || period <= 0) return 0;
  return quota / period;
}

double quota_v1(const std::string& folder) {
  double quota = 0;
  double period = 0;
  if (!parse_number(first_line(folder + "/cpu.cfs_quota_us"), quota) || quota <= 0) return 0;
  if (!parse_number(first_line(folder + "/cpu.cfs_period_us"), period) || period <= 0) return 0;
  return quota / period;
}

// The least quota of a group and of all that contain it.
void walk_up(double& quota, const std::string& mount, std::string group, double (*read)(const std::string&)) {
  for (;;) {
    while (!group.empty() && group.back() == '/') group.pop_back();
    lower(quota, read(mount + group));
    if (group.empty()) return;
    group.erase(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
}

bool names_cpu(const std::string& controllers) {
  std::istringstream parts(controllers);
  for (std::string part; std::getline(parts, part, ',');) {
    if (part == "cpu") return true;
  }
  return false;
}

double read_quota(const std::string& root) {
  double quota = 0;
  const std::string mount = root + "/sys/fs/cgroup";
  for (const std::string& line : read_lines(root + "/proc/self/cgroup")) {  // hierarchy:controllers:/group
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    if (controllers.empty()) {
      walk_up(quota, mount, group, quota_v2);
      walk_up(quota, mount + "/unified", group, quota_v2);
    } else if (names_cpu(controllers)) {
      for (const char* folder : {"/cpu", "/cpu,cpuacct", "/cpuacct,cpu"})
        walk_up(quota, mount + folder, group, quota_v1);
    }
  }
  // A container may see its own group mounted as the root while the path names it from outside.
  lower(quota, quota_v2(mount));
  lower(quota, quota_v1(mount + "/cpu"));
  return quota;
}

}  // namespace

std::string Topology::describe() const {
  std::ostringstream text;
  text << allowed_cpus.size() << " CPUs allowed, " << physical_cores << " physical cores, ";
  if (cpu_quota > 0) {
    text << "quota of " << cpu_quota << " cores";
  } else {
    text << "no quota";
  }
  return text.str();
}

Topology read_topology(const std::string& root) {
  const std::string base = root == "/" ? std::string() : root;
  Topology topology;
  topology.allowed_cpus = allowed_cpus(root);
  topology.physical_cores = count_physical_cores(base, topology.allowed_cpus);
  topology.cpu_quota = read_quota(base);
  return topology;
}

int usable_cores(const Topology& topology) {
  int cores = topology.physical_cores;
  if (topology.cpu_quota > 0) cores = std::min(cores, static_cast<int>(std::ceil(topology.cpu_quota)));
  return std::max(1, cores);
}

}  // namespace torchpool
