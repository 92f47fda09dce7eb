// Packed copies of weights, one in the process for all who compute the same of the same weights.
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
// Two kinds of calls of one module, or two predictors on it, pack mostly the same: a prologue is therefore cut into
// parts that stand alone (Fold), and each part's results are kept once in the process, under the part's text and the
// identities of its weights. Whoever needs them for other contents of the weights packs them anew, for all. The results
// belong to this cache alone: backends hold them weakly between runs, so that one that is not called any more keeps no
// results of earlier weights alive. All that one run uses is of one state, because a backend takes new results for all
// its parts at once, and only if no weight has changed meanwhile.
//
// Results are taken over by what bytes they were computed of, told by a hash of all of them. A fingerprint would not
// do: a step of a fused optimiser leaves no trace at those samples whose gradient is zero, so that it shows somewhere
// in the module, but not in each part of it; and a backend that is made anew (refresh) must find nothing from before a
// write that left no trace at all.

// Results of one Fold of certain weights. Any thread.
class PackedWeight {
 public:
  using Results = std::shared_ptr<const Constants>;
  // Those of the weights as they are: as they were, or packed now, with no lock held. Waits while another thread packs
  // them; who packs here waits for nobody. Null where `still_same`, asked before and after the packing, says no. Throws
  // what an operator throws. `weights` are handles, in the order of the fold's.
  Results get(const Fold& fold, const std::vector<at::Tensor>& weights, const std::function<bool()>& still_same)
      TP_EXCLUDES(mutex_);

  std::uint64_t bytes() const TP_EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  bool packing_ TP_GUARDED_BY(mutex_) = false;
  Results results_ TP_GUARDED_BY(mutex_);
  std::optional<std::uint64_t> contents_ TP_GUARDED_BY(mutex_);  // a hash of what results_ are of; none: not to be told
};

// All of them, as long as a backend owns them. Any thread.
class PackedWeights {
 public:
  // A forked child has its own: a thread that was packing is not there to end it.
  static PackedWeights& of_this_process();

  // `live` and `handles` are the fold's weights. Requires: the owner of the result keeps both until it has dropped it,
  // so that the addresses which tell them apart stay theirs.
  std::shared_ptr<PackedWeight> find_or_make(const Fold& fold, const std::vector<at::Tensor>& live,
                                             const std::vector<at::Tensor>& handles) TP_EXCLUDES(mutex_);
  struct Usage {
    std::size_t count = 0;
    std::uint64_t bytes = 0;
  };
  Usage usage() const TP_EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  std::unordered_map<std::string, std::weak_ptr<PackedWeight>> by_key_ TP_GUARDED_BY(mutex_);
};

}  // namespace torchpool::graph
