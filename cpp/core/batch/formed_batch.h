// A batch that the caller has put together: the batches of a loop with a static schedule.
#pragma once

#include <memory>
#include <vector>

#include "core/queue/request.h"
#include "core/schedule/scheduler.h"

namespace torchpool {

// The constructor accepts the requests. When the batch's turn comes, its requests run together, but for requests that
// were cancelled or expired meanwhile. The destructor fails requests that have not started with Closed.
class FormedBatch final : public Task {
 public:
  FormedBatch(ChannelStatePtr channel, std::vector<RequestPtr> requests);
  ~FormedBatch() override;
  Step step(WorkerContext& context) noexcept override;

 private:
  std::unique_ptr<Task> start();  // null when no request is left to run

  ChannelStatePtr channel_;
  std::vector<RequestPtr> waiting_;
  std::unique_ptr<Task> task_;  // the handler's task, once the batch has begun
};

}  // namespace torchpool
