// Packed copies of weights. All backends of the process that compute the same of the same weights share one copy.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/sync/mutex.h"
#include "predict/graph/fold.h"
#include "predict/graph/interpreter.h"

namespace torchpool::graph {

// Note [Packed weights are shared]
// Two kinds of calls of one module, or two predictors on it, pack mostly the same weights. A prologue is therefore cut
// into independent parts (Fold), and each part's results are kept once in the process, under the part's text and the
// identities of its weights. A backend that meets other contents of the weights packs them anew, for all backends. The
// cache alone owns the results: backends hold them weakly between runs, so that a backend that is not called any more
// keeps no results of earlier weights alive. A run uses one state of the weights, because a backend takes new results
// for all of its parts at once, and only if no weight has changed meanwhile.
//
// Whether cached results are of the present weights is decided by a hash of all of the weights' bytes. A fingerprint (a
// few samples) is not enough, for two reasons. A step of a fused optimiser leaves no trace at samples whose gradient is
// zero, so the step shows somewhere in the module, but not in each part. And a new backend (refresh) must not find
// results from before a write that left no trace at all.

// Results of one Fold of certain weights. Thread-safe.
class PackedWeight {
 public:
  using Results = std::shared_ptr<const Constants>;
  // The results of the present weights: cached, or packed now, with no lock held. Waits while another thread packs
  // them; a thread that packs waits for nobody. Null where `still_same`, asked before and after the packing, is false.
  // Throws what an operator throws. `weights` are handles, in the fold's order.
  Results get(const Fold& fold, const std::vector<at::Tensor>& weights, const std::function<bool()>& still_same)
      TP_EXCLUDES(mutex_);

  // What `weights` pack to, which stand for those that the fold's are to be soon. The cache is not touched.
  struct Aside {
    Results results;
    std::optional<std::uint64_t> contents;
  };
  static Aside pack_aside(const Fold& fold, const std::vector<at::Tensor>& weights);
  // The fold's weights are now as those that were packed aside.
  void adopt(const Aside& aside) TP_EXCLUDES(mutex_);

  std::uint64_t bytes() const TP_EXCLUDES(mutex_);
  // Takes over the results of the parent process's, unless one of its threads was changing them when it forked.
  // Requires: nobody else knows this one yet.
  void inherit(PackedWeight& parents) TP_EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  bool packing_ TP_GUARDED_BY(mutex_) = false;
  Results results_ TP_GUARDED_BY(mutex_);
  std::optional<std::uint64_t> contents_ TP_GUARDED_BY(mutex_);  // a hash of the weights behind results_; none: unknown
};

// The process's packed weights, each for as long as a backend owns it. Thread-safe.
class PackedWeights {
 public:
  // A forked child has a cache of its own: a thread that was packing in the parent does not exist in the child. What
  // the parent had packed is taken over as it is asked for, and lies in memory that the two share.
  static PackedWeights& of_this_process();

  // `live` and `handles` are the fold's weights. Requires: the owner keeps both until it has dropped the result.
  // Addresses tell weights apart, so they must stay in use as long.
  std::shared_ptr<PackedWeight> find_or_make(const Fold& fold, const std::vector<at::Tensor>& live,
                                             const std::vector<at::Tensor>& handles) TP_EXCLUDES(mutex_);
  struct Usage {
    std::size_t count = 0;
    std::uint64_t bytes = 0;
  };
  Usage usage() const TP_EXCLUDES(mutex_);

 private:
  explicit PackedWeights(PackedWeights* parents) noexcept : parents_(parents) {}
  // In a forked child: what the nearest of the processes that it descends from has under the key. Null where that
  // cannot be told, since a thread was changing it at the fork.
  std::shared_ptr<PackedWeight> find_of_parents(const std::string& key) const;

  PackedWeights* const parents_;  // never freed, and used by nobody any more
  mutable Mutex mutex_;
  std::unordered_map<std::string, std::weak_ptr<PackedWeight>> by_key_ TP_GUARDED_BY(mutex_);
};

}  // namespace torchpool::graph
