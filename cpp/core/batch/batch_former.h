// Which of the waiting requests run next: a pure function over sizes, keys and time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/batch/cost_model.h"
#include "core/queue/request.h"

namespace torchpool {

struct BatchLimits {
  std::int64_t max_rows = 1;    // rows of a batch; a request of more rows runs alone
  std::int64_t share_rows = 0;  // this worker's share while other workers are idle; 0: no limit
  // Share of a padded batch's rows x length that may be padding. MiniLM on docstrings, 36 calls in flight: 0.25
  // takes 9.0 ms a text, 0.12 takes 8.1. No limit where padding is free.
  double max_padding = 0.12;
  // Padding positions that are allowed in any case, on average a row: to run a row alone costs more than these,
  // whatever its length.
  std::int64_t free_padding = 4;
};

// What the batch former may know of time. Only requests with deadlines need it.
struct Outlook {
  TimePoint now{};
  const CostModel* cost = nullptr;  // null: no cost is known
  std::int64_t waiting_rows = 0;    // in the whole queue
};

// Most rows of a batch under `limits`. A first request of more rows runs alone.
std::int64_t row_limit(const BatchLimits& limits);

// How many later requests may overtake one request, because their lengths suit a batch better. The batch that reaches
// the limit may exceed it by its own size.
std::int64_t overtaking_limit(const BatchLimits& limits);

// `waiting` is the head of a queue in order of priority, due time and arrival, all of one priority. The first request
// becomes the seed. The batch is filled with requests of the seed's key, nearest length first, until one does not fit.
// A request that has been overtaken as often as allowed lets no later request pass.
//
// Where requests have deadlines, a batch is not filled beyond what lets all of its requests finish in time. But when
// more waits than one batch holds, requests that a whole batch would not finish in time are passed over: running them
// in small batches would cost many other requests their deadlines. A request leaves the queue when it cannot meet its
// deadline even alone.
//
// Returns indices into `waiting`, in order.
std::vector<std::size_t> form_batch(std::span<const RequestInfo* const> waiting, const BatchLimits& limits,
                                    const Outlook& outlook = {});

}  // namespace torchpool
