#include "predict/batch/collate.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>

#include <algorithm>

namespace torchpool {

namespace {

bool needs_padding(const Contract& contract, const InputSpec& spec, const std::vector<Member>& members,
                   const std::vector<std::int64_t>& padded_to) {
  return std::any_of(spec.sizes.begin(), spec.sizes.end(), [&](const DimSpec& dim) {
    if (dim.kind != DimSpec::Kind::kSymbol) return false;
    const auto symbol = static_cast<std::size_t>(dim.value);
    return contract.padded[symbol] && std::any_of(members.begin(), members.end(), [&](const Member& member) {
             return member.shape->lengths[symbol] != padded_to[symbol];
           });
  });
}

at::Tensor padded_batch(const InputSpec& spec, std::size_t input, const std::vector<Member>& members,
                        const std::vector<std::int64_t>& padded_to, std::int64_t rows) {
  std::vector<std::int64_t> sizes;
  if (spec.stacked) sizes.push_back(rows);
  for (const DimSpec& dim : spec.sizes) {
    switch (dim.kind) {
      case DimSpec::Kind::kFixed:
        sizes.push_back(dim.value);
        break;
      case DimSpec::Kind::kBatch:
        sizes.push_back(rows);
        break;
      case DimSpec::Kind::kSymbol:
        sizes.push_back(padded_to[static_cast<std::size_t>(dim.value)]);
        break;
    }
  }
  const at::Tensor& first = (*members.front().inputs)[input];
  at::Tensor batch = at::full(sizes, spec.pad, first.options());
  const std::int64_t batch_dim = *spec.batch_dim;
  std::int64_t row = 0;
  for (const Member& member : members) {
    const at::Tensor& source = (*member.inputs)[input];
    at::Tensor place = spec.stacked ? batch.select(0, row) : batch.narrow(batch_dim, row, member.shape->rows);
    for (std::int64_t d = 0; d < source.dim(); ++d) {
      if (place.size(d) != source.size(d)) place = place.narrow(d, 0, source.size(d));
    }
    place.copy_(source);
    row += spec.stacked ? 1 : member.shape->rows;
  }
  return batch;
}

}  // namespace

std::vector<at::Tensor> collate(const Contract& contract, const std::vector<Member>& members,
                                std::vector<std::int64_t>& padded_to) {
  padded_to.assign(contract.padded.size(), 0);
  std::int64_t rows = 0;
  for (const Member& member : members) {
    rows += member.shape->rows;
    for (std::size_t s = 0; s < padded_to.size(); ++s) {
      padded_to[s] = std::max(padded_to[s], member.shape->lengths[s]);
    }
  }
  std::vector<at::Tensor> batch;
  batch.reserve(contract.inputs.size());
  std::vector<at::Tensor> parts;
  for (std::size_t i = 0; i < contract.inputs.size(); ++i) {
    const InputSpec& spec = contract.inputs[i];
    const at::Tensor& first = (*members.front().inputs)[i];
    if (!spec.batch_dim) {
      batch.push_back(first);
    } else if (members.size() == 1) {
      batch.push_back(spec.stacked ? first.unsqueeze(0) : first);
    } else if (needs_padding(contract, spec, members, padded_to)) {
      batch.push_back(padded_batch(spec, i, members, padded_to, rows));
    } else {
      parts.clear();
      for (const Member& member : members) parts.push_back((*member.inputs)[i]);
      batch.push_back(spec.stacked ? at::stack(parts, 0) : at::cat(parts, *spec.batch_dim));
    }
  }
  return batch;
}

}  // namespace torchpool
