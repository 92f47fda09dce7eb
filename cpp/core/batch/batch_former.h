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
  std::int64_t max_rows = 1;    // of a batch; a request larger than this runs alone
  std::int64_t share_rows = 0;  // what this worker should take so that idle ones get theirs too; 0: no limit
  // Share of a padded batch's rows x length that may be padding. MiniLM on docstrings, 36 calls in flight: 0.25
  // takes 9.0 ms a text, 0.12 takes 8.1.
  double max_padding = 0.12;
  // As much may be in any case, on average a row: a row of its own costs more, whatever its length.
  std::int64_t free_padding = 4;
};

// What is known of time where requests have deadlines.
struct Outlook {
  TimePoint now{};
  const CostModel* cost = nullptr;  // null: nothing is known
  std::int64_t waiting_rows = 0;    // in the whole queue
};

// Rows that a batch may have under `limits`, unless its first request alone has more.
std::int64_t row_limit(const BatchLimits& limits);

// Requests that come later may overtake one at most this many times by sharing a batch that is nearer to their length,
// and as many more as one batch holds.
std::int64_t overtaking_limit(const BatchLimits& limits);

// `waiting` is the head of a queue in order of priority, due time and arrival, all of one priority. The first becomes
// the seed; the batch is filled with requests of its key, nearest length first, until one does not fit. One that has
// been overtaken as often as may be lets no later one pass.
//
// Where requests have deadlines, a batch is not filled beyond what lets all of its requests finish in time. But when
// more waits than one batch holds, those that a whole batch would not finish in time are passed over: to run them in
// small batches would cost many others their deadlines. They leave the queue when they cannot be met even alone.
//
// Returned in order.
std::vector<std::size_t> form_batch(std::span<const RequestInfo* const> waiting, const BatchLimits& limits,
                                    const Outlook& outlook = {});

}  // namespace torchpool
