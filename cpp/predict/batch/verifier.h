// Whether the rows of batches are what they are alone: which batches are looked at, and what was seen.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/sync/clock.h"
#include "core/sync/mutex.h"

namespace torchpool {

// That calls of a kind were seen to meet in a batch. It holds for good, whichever contract they come under later.
class Refutation {
 public:
  // True for the first to say so; `text` says what was seen.
  bool refute(std::string text) TP_EXCLUDES(mutex_);
  bool refuted() const noexcept { return refuted_.load(std::memory_order_acquire); }
  // What was seen, once.
  std::optional<std::string> take_text() TP_EXCLUDES(mutex_);

 private:
  std::atomic<bool> refuted_{false};
  mutable Mutex mutex_;
  std::optional<std::string> text_ TP_GUARDED_BY(mutex_);
};

// Of the calls under one contract. Batches of one call need no look, and are not shown to it.
class Verifier {
 public:
  enum class Mode : std::uint8_t {
    kVerify,  // nothing is proven: all calls of a batch, until enough rows of its size class agreed; then of a share
    kAlarm,   // proven: one call of a batch, in a share of the time
  };
  static constexpr std::int64_t kEnoughRows = 1000;  // of a size class
  // Batches of further classes are looked at each time.
  static constexpr std::size_t kMaxClasses = 1024;

  // `share`: of the batches' time that may be spent on looking at proven or well-known ones; 0: none.
  // `refutation`: of all contracts of the calls' kind.
  Verifier(Mode mode, double share, std::shared_ptr<Refutation> refutation = std::make_shared<Refutation>())
      : mode_(mode), share_(share), refutation_(std::move(refutation)) {}

  struct Batch {
    std::int64_t rows = 0;
    const std::vector<std::int64_t>& lengths;  // that its calls were padded to
    std::size_t calls = 0;
    Duration took{};
    bool by_module = true;  // what is seen of a graph's batches says nothing of the module's, nor the reverse
  };
  // The calls that are to be run alone, too.
  struct Sample {
    std::size_t first = 0;
    std::size_t count = 0;
    std::optional<Duration> reserved;  // of the share; empty: the class is not known well enough
  };
  // Counts the batch. A sample is to be recorded.
  Sample choose(const Batch& batch) TP_EXCLUDES(mutex_);
  // What the sample's own runs took; `agreed`: rows that were the same alone.
  void record(const Batch& batch, const Sample& sample, std::int64_t agreed, Duration took) TP_EXCLUDES(mutex_);

  // Calls of the kind must not share batches any more. True for the first to say so; `text` says what was seen.
  bool refute(std::string text) { return refutation_->refute(std::move(text)); }
  bool refuted() const noexcept { return refutation_->refuted(); }

  // Whether calls may share batches unless the contrary is seen.
  bool proven() const noexcept { return mode_ == Mode::kAlarm; }
  // Whether a call's rows may be taken for independent of each other, too.
  bool may_part() const noexcept { return proven() && !refuted(); }

 private:
  struct SizeClass {
    std::int64_t agreed = 0;
  };
  // Null when there are too many.
  SizeClass* class_of(const Batch& batch) TP_REQUIRES(mutex_);
  Sample within_share(const Batch& batch, std::size_t first, std::size_t count) TP_REQUIRES(mutex_);

  const Mode mode_;
  const double share_;
  const std::shared_ptr<Refutation> refutation_;

  mutable Mutex mutex_;
  std::map<std::vector<std::int64_t>, SizeClass> classes_
      TP_GUARDED_BY(mutex_);                       // by lengths, rows, by_module; kVerify
  Duration batches_took_ TP_GUARDED_BY(mutex_){};  // of which a share may be spent
  Duration spent_ TP_GUARDED_BY(mutex_){};         // of the share, with what is reserved
  Duration alone_took_ TP_GUARDED_BY(mutex_){};    // all calls of samples, from which the next are estimated
  std::int64_t alone_calls_ TP_GUARDED_BY(mutex_) = 0;
  std::uint64_t number_ TP_GUARDED_BY(mutex_) = 0;
};

}  // namespace torchpool
