#include "predict/batch/row_lengths.h"

namespace torchpool {

namespace {

thread_local const RowLengths* current = nullptr;

}  // namespace

RowLengths::RowLengths(const std::vector<Member>& members, const std::vector<std::int64_t>& padded_to)
    : members_(members), padded_to_(padded_to), before_(current) {
  current = this;
}

RowLengths::~RowLengths() {
  current = before_;
}

std::vector<std::int64_t> RowLengths::of(std::int64_t symbol, std::int64_t rows, std::int64_t length) {
  std::vector<std::int64_t> whole(static_cast<std::size_t>(rows), length);
  const auto index = static_cast<std::size_t>(symbol);
  if (current == nullptr || index >= current->padded_to_.size() || current->padded_to_[index] != length) return whole;
  std::vector<std::int64_t> found;
  for (const Member& member : current->members_) {
    const std::int64_t own = member.shape->lengths[index];
    if (own < 0 || own > length) return whole;
    found.insert(found.end(), static_cast<std::size_t>(member.shape->rows), own);
  }
  return found.size() == whole.size() ? found : whole;
}

}  // namespace torchpool
