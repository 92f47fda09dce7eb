#include "core/machine/running_threads.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

namespace torchpool {

namespace {

// "tid (name) state ...", where the name may hold anything. A thread that has just ended has no file any more.
bool runs(const std::filesystem::path& task) {
  std::ifstream file(task / "stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::size_t name_end = text.rfind(')');
  return name_end != std::string::npos && name_end + 2 < text.size() && text[name_end + 2] == 'R';
}

}  // namespace

bool others_run() {
  const std::string own = std::to_string(gettid());
  std::error_code error;
  for (std::filesystem::directory_iterator task("/proc/self/task", error), end; !error && task != end;
       task.increment(error)) {
    if (task->path().filename() != own && runs(task->path())) return true;
  }
  return false;
}

}  // namespace torchpool
