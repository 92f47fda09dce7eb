// Threads are started here only: how many a process may have is limited.
#pragma once

#include <functional>
#include <thread>

namespace torchpool {

// Throws NoThread where the system gives no more.
std::thread start_thread(std::function<void()> body);

}  // namespace torchpool
