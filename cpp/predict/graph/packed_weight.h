// Packed copies of weights, one in the process for all who compute the same of the same weights.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/mutex.h"
#include "predict/graph/fold.h"
#include "predict/graph/interpreter.h"
#include "predict/weight_watch.h"

namespace torchpool::graph {

// Note [Packed weights are shared]
// Two kinds of calls of one module, or two predictors on it, pack mostly the same: a prologue is therefore cut into
// parts that stand alone (Fold), and each part's results are kept once in the process, under the part's text and the
// identities of its weights. Whoever needs them for a state of the weights that they are not of packs them anew, for
// all. The results belong to this cache alone: backends hold them weakly between runs, so that one that is not called
// any more keeps no results of earlier weights alive. All that one run uses is of one state, because a backend takes
// results only for its own fingerprint of the weights.
//
// Fingerprints miss raw writes between the samples. A backend that is made anew (refresh) must not find results from
// before such a write, nor be proven with them: it compares all bytes of the weights, by a hash.

// Results of one Fold of certain weights. Any thread.
class PackedWeight {
 public:
  using Results = std::shared_ptr<const Constants>;
  struct Wanted {
    const Fold& fold;
    std::vector<at::Tensor> weights;         // handles, in the order of the fold's
    WeightFingerprint state;                 // of these weights
    bool compare_contents;                   // takes nothing that was computed of other bytes
    std::function<bool()> still_that_state;  // may be asked several times
  };

  // Those of the wanted state: as they are, or packed now, with no lock held. Waits while another thread packs them;
  // who packs here waits for nobody. Null where the weights changed meanwhile. Throws what an operator throws.
  Results get(const Wanted& wanted) TP_EXCLUDES(mutex_);

  std::uint64_t bytes() const TP_EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  bool packing_ TP_GUARDED_BY(mutex_) = false;
  Results results_ TP_GUARDED_BY(mutex_);
  WeightFingerprint state_ TP_GUARDED_BY(mutex_);     // that results_ are of
  std::uint64_t contents_ TP_GUARDED_BY(mutex_) = 0;  // a hash of all bytes that results_ are of
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
