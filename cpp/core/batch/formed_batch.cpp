#include "core/batch/formed_batch.h"

#include <utility>

#include "core/sync/error.h"

namespace torchpool {

FormedBatch::FormedBatch(ChannelStatePtr channel, std::vector<RequestPtr> requests)
    : channel_(std::move(channel)), waiting_(std::move(requests)) {
  const TimePoint now = channel_->scheduler->clock().now();
  for (const RequestPtr& request : waiting_) {
    request->info.arrival = now;
    request->mark_queued(channel_->stats);
  }
}

FormedBatch::~FormedBatch() {
  if (waiting_.empty()) return;
  const auto error = std::make_exception_ptr(Closed("closed before the call started"));
  for (const RequestPtr& request : waiting_) request->fail(error);
}

std::unique_ptr<Task> FormedBatch::start() {
  if (channel_->failing.load()) return nullptr;
  const TimePoint now = channel_->scheduler->clock().now();
  std::vector<RequestPtr> started;
  started.reserve(waiting_.size());
  for (RequestPtr& request : std::exchange(waiting_, {})) {
    if (request->info.deadline <= now) request->try_expire();
    if (!request->try_start()) continue;
    channel_->stats->queue_ns.record(static_cast<std::uint64_t>((now - request->info.arrival).count()));
    started.push_back(std::move(request));
  }
  if (started.empty()) return nullptr;
  Batch batch(std::move(started));
  channel_->stats->record_batch(batch.cost_size());
  return channel_->handler->make_task(std::move(batch));
}

Step FormedBatch::step(WorkerContext& context) noexcept {
  if (task_ == nullptr) {
    BatchRescue rescue;
    try {
      task_ = start();
    } catch (...) {
      rescue.fail_all(std::current_exception());
    }
  }
  return task_ == nullptr ? Step::done() : task_->step(context);
}

}  // namespace torchpool
