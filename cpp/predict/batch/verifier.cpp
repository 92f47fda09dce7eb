#include "predict/batch/verifier.h"

#include <bit>
#include <utility>

#include "predict/batch/hash.h"

namespace torchpool {

Verifier::SizeClass* Verifier::class_of(const Batch& batch) {
  std::vector<std::int64_t> key = batch.lengths;
  key.push_back(static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(batch.rows))));
  key.push_back(batch.by_module ? 1 : 0);
  const auto found = classes_.find(key);
  if (found != classes_.end()) return &found->second;
  return classes_.size() < kMaxClasses ? &classes_[std::move(key)] : nullptr;
}

// What a run alone takes is known afterwards, so the mean of earlier ones stands for it; the first is taken for as long
// as the batch.
Verifier::Sample Verifier::within_share(const Batch& batch, std::size_t first, std::size_t count) {
  batches_took_ += batch.took;
  const Duration one = alone_calls_ == 0 ? batch.took : alone_took_ / alone_calls_;
  const Duration needed = one * static_cast<std::int64_t>(count);
  const double budget = share_ * static_cast<double>(batches_took_.count());
  if (share_ <= 0 || static_cast<double>((spent_ + needed).count()) > budget) return {};
  spent_ += needed;
  return {first, count, needed};
}

Verifier::Sample Verifier::choose(const Batch& batch) {
  MutexLock lock(mutex_);
  if (mode_ == Mode::kAlarm) return within_share(batch, mix_bits(++number_) % batch.calls, 1);
  const SizeClass* known = class_of(batch);
  if (known == nullptr || known->agreed < kEnoughRows) return {0, batch.calls, std::nullopt};
  return within_share(batch, 0, batch.calls);
}

void Verifier::record(const Batch& batch, const Sample& sample, std::int64_t agreed, Duration took) {
  MutexLock lock(mutex_);
  if (sample.reserved) spent_ += took - *sample.reserved;
  alone_took_ += took;
  alone_calls_ += static_cast<std::int64_t>(sample.count);
  if (mode_ == Mode::kAlarm) return;
  if (SizeClass* known = class_of(batch)) known->agreed += agreed;
}

bool Refutation::refute(std::string text) {
  MutexLock lock(mutex_);
  if (refuted_.load(std::memory_order_relaxed)) return false;
  text_ = std::move(text);
  refuted_.store(true, std::memory_order_release);
  return true;
}

std::optional<std::string> Refutation::take_text() {
  MutexLock lock(mutex_);
  return std::exchange(text_, std::nullopt);
}

}  // namespace torchpool
