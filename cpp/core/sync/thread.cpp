#include "core/sync/thread.h"

#include <system_error>
#include <utility>

#include "core/sync/error.h"

namespace torchpool {

std::thread start_thread(std::function<void()> body) {
  try {
    return std::thread(std::move(body));
  } catch (const std::system_error& error) {
    throw NoThread(std::string("a thread cannot be started: ") + error.code().message() +
                   ". The process has as many as it may, or no memory for one more (ulimit -u, ulimit -v, a "
                   "container's limit of pids)");
  }
}

}  // namespace torchpool
