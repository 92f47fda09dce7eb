// A batch whose requests their caller has put together: of a loop with a static schedule.
#pragma once

#include <memory>
#include <vector>

#include "core/queue/request.h"
#include "core/schedule/scheduler.h"

namespace torchpool {

// Accepts the requests when it is made; what is still to be started when its turn comes runs together. Until then each
// may be cancelled or expire on its own. Fails with Closed what it has not started when it is destroyed.
class FormedBatch final : public Task {
 public:
  FormedBatch(ChannelStatePtr channel, std::vector<RequestPtr> requests);
  ~FormedBatch() override;
  Step step(WorkerContext& context) noexcept override;

 private:
  std::unique_ptr<Task> start();  // null when nothing is left to run

  ChannelStatePtr channel_;
  std::vector<RequestPtr> waiting_;
  std::unique_ptr<Task> task_;  // the handler's, once it has begun
};

}  // namespace torchpool
