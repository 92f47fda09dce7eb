#include "predict/batch/split.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/util/StringUtil.h>

#include <cstring>

#include "core/sync/error.h"

namespace torchpool {

namespace {

// How the batch dim of an output is made up.
struct Fold {
  std::int64_t outer = 1;
  std::int64_t units = 1;
  std::int64_t inner = 1;
};

// Empty when `size` entries cannot be `units` units. No unit is without entries: rows that a model leaves out are no
// fold.
std::optional<Fold> fold_of(const OutputSpec& spec, std::int64_t size, std::int64_t units) {
  Fold fold{spec.outer, units, spec.inner};
  const std::int64_t known = units * (spec.outer == 0 ? 1 : spec.outer) * (spec.inner == 0 ? 1 : spec.inner);
  if (spec.open()) {
    if (size == 0 || size % known != 0) return std::nullopt;
    (spec.outer == 0 ? fold.outer : fold.inner) = size / known;
    return fold;
  }
  return size == known ? std::optional(fold) : std::nullopt;
}

// A fresh copy of `count` entries of dim 0 of a contiguous CPU tensor: a third of narrow().clone()'s time, and this
// runs once per row.
at::Tensor copy_entries(const at::Tensor& output, std::int64_t first, std::int64_t count, bool drop_batch_dim) {
  const auto sizes = output.sizes();
  c10::SmallVector<std::int64_t, 5> own(sizes.begin() + (drop_batch_dim ? 1 : 0), sizes.end());
  if (!drop_batch_dim) own[0] = count;
  at::Tensor copy = at::empty(own, output.options());
  const std::size_t entry_bytes = output.nbytes() / static_cast<std::size_t>(sizes[0]);
  std::memcpy(copy.mutable_data_ptr(),
              static_cast<const char*>(output.const_data_ptr()) + entry_bytes * static_cast<std::size_t>(first),
              entry_bytes * static_cast<std::size_t>(count));
  return copy;
}

// The batch dim as three: outer, units, inner.
at::Tensor unfolded(const at::Tensor& output, std::int64_t dim, const Fold& fold) {
  return output.unflatten(dim, {fold.outer, fold.units, fold.inner});
}

bool is_sole_owner(const at::Tensor& output) {
  return !output.is_inference() && !output.requires_grad() && output.use_count() == 1 &&
         output.storage().use_count() == 1 && output.storage().nbytes() == output.nbytes();
}

// How many entries along a dim that is cut are the call's own.
std::int64_t kept(const TrimSpec& trim, const CallShape& shape) noexcept {
  return trim.scale * shape.lengths[trim.symbol] + trim.offset;
}

// A call's own output from the entries of its only unit, [..., outer, inner, ...], in one copy. Empty where what is cut
// off does not lie behind all that is kept.
std::optional<at::Tensor> copy_unit(const at::Tensor& unit, const OutputSpec& spec, const CallShape& shape) {
  const std::int64_t dim = *spec.batch_dim;
  const auto sizes = unit.sizes();
  c10::SmallVector<std::int64_t, 5> own(sizes.begin(), sizes.begin() + dim);
  own.push_back(sizes[dim] * sizes[dim + 1]);
  own.append(sizes.begin() + dim + 2, sizes.end());
  for (const TrimSpec& trim : spec.trims) {
    const bool in_fold = spec.is_of_fold(trim);
    const std::int64_t size = kept(trim, shape) * (!in_fold ? 1 : spec.outer == 0 ? sizes[dim + 1] : sizes[dim]);
    if (size == own[trim.dim]) continue;
    const bool cuts_the_end = in_fold && dim == 0 && (spec.outer == 0 || sizes[dim] == 1);
    if (!cuts_the_end) return std::nullopt;
    own[trim.dim] = size;
  }
  at::Tensor copy = at::empty(own, unit.options());
  std::memcpy(copy.mutable_data_ptr(), unit.const_data_ptr(), copy.nbytes());
  return copy;
}

bool same_but_for(std::int64_t dim, const at::Tensor& left, const at::Tensor& right) {
  if (left.dim() != right.dim() || left.scalar_type() != right.scalar_type()) return false;
  for (std::int64_t d = 0; d < left.dim(); ++d) {
    if (d != dim && left.size(d) != right.size(d)) return false;
  }
  return true;
}

std::optional<std::string> misfit_of(const OutputSpec& spec, const at::Tensor& output, std::int64_t rows,
                                     std::int64_t units, const std::vector<std::int64_t>& padded_to) {
  const auto text = [&](const auto&... what) {
    return c10::str("output '", spec.name, "' has shape ", output.sizes(), " for a batch of ", rows,
                    " rows; its contract has ", what...);
  };
  if (spec.batch_dim) {
    const std::int64_t dim = *spec.batch_dim;
    if (dim >= output.dim() || !fold_of(spec, output.size(dim), units)) {
      return spec.folded() ? text(spec.outer, " x ", units, " x ", spec.inner, " entries (0: any) in dim ", dim)
                           : text(units == rows ? "the rows" : "the calls", " in dim ", dim);
    }
  }
  for (const TrimSpec& trim : spec.trims) {
    const std::int64_t size = trim.scale * padded_to[trim.symbol] + trim.offset;
    const bool in_fold = spec.is_of_fold(trim);
    const std::int64_t others = in_fold ? units * (spec.outer == 0 ? spec.inner : spec.outer) : 1;
    if (trim.dim >= output.dim() || output.size(trim.dim) != size * others) {
      return text("size ", size, in_fold ? " a row in dim " : " in dim ", trim.dim);
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> misfit(const Contract& contract, const std::vector<at::Tensor>& outputs, std::int64_t rows,
                                  const std::vector<std::int64_t>& padded_to) {
  if (outputs.size() != contract.outputs.size()) {
    return c10::str("the model returned ", outputs.size(), " tensors for a batch, its contract has ",
                    contract.outputs.size());
  }
  const std::int64_t units = contract.units(rows);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (auto text = misfit_of(contract.outputs[i], outputs[i], rows, units, padded_to)) return text;
  }
  return std::nullopt;
}

void check_outputs(const Contract& contract, const std::vector<at::Tensor>& outputs, std::int64_t rows,
                   const std::vector<std::int64_t>& padded_to) {
  if (const auto text = misfit(contract, outputs, rows, padded_to)) throw Error(*text);
}

Splitter::Splitter(const Contract& contract, std::vector<at::Tensor>& outputs,
                   const std::vector<std::int64_t>& padded_to, std::int64_t rows)
    : contract_(contract), outputs_(outputs), padded_to_(padded_to), rows_(rows), by_unit_(outputs.size()) {}

std::vector<at::Tensor> Splitter::part(const CallShape& shape, std::int64_t row) {
  std::vector<at::Tensor> own;
  own.reserve(outputs_.size());
  for (std::size_t i = 0; i < outputs_.size(); ++i) own.push_back(part_of(i, shape, row));
  return own;
}

at::Tensor Splitter::part_of(std::size_t i, const CallShape& shape, std::int64_t row) {
  const OutputSpec& spec = contract_.outputs[i];
  at::Tensor& output = outputs_[i];
  bool trimmed = false;
  for (const TrimSpec& trim : spec.trims) {
    trimmed = trimmed || padded_to_[trim.symbol] != shape.lengths[trim.symbol];
  }
  const bool whole = shape.rows == rows_ && !contract_.aliases;
  if (whole && !trimmed && !spec.stacked && is_sole_owner(output)) return std::move(output);
  if (!spec.batch_dim) return output.clone();
  const std::int64_t unit = contract_.units(row);
  const std::int64_t units = contract_.units(shape.rows);
  if (spec.folded()) return folded_part(i, shape, unit, units);
  const std::int64_t dim = *spec.batch_dim;
  if (!trimmed && dim == 0 && output.is_cpu() && output.is_contiguous()) {
    return copy_entries(output, unit, units, spec.stacked);
  }
  at::Tensor part = output.narrow(dim, unit, units);
  for (const TrimSpec& trim : spec.trims) part = part.narrow(trim.dim, 0, kept(trim, shape));
  if (spec.stacked) part = part.select(dim, 0);
  return part.clone();
}

at::Tensor Splitter::folded_part(std::size_t i, const CallShape& shape, std::int64_t unit, std::int64_t units) {
  const OutputSpec& spec = contract_.outputs[i];
  const std::int64_t dim = *spec.batch_dim;
  at::Tensor& by_unit = by_unit_[i];
  if (!by_unit.defined()) {
    const Fold fold = fold_of(spec, outputs_[i].size(dim), contract_.units(rows_)).value();
    by_unit = unfolded(outputs_[i], dim, fold).movedim(dim + 1, 0).contiguous();
  }
  if (units == 1 && by_unit.is_cpu()) {
    if (auto own = copy_unit(by_unit.select(0, unit), spec, shape)) return *own;
  }
  at::Tensor part = by_unit.narrow(0, unit, units);  // [units, ..., outer, inner, ...]
  for (const TrimSpec& trim : spec.trims) {
    const std::int64_t before = trim.dim > dim ? 2 : 1;  // new dims before it: the units, and the fold is two
    const std::int64_t at = spec.is_of_fold(trim) && spec.inner == 0 ? dim + 2 : trim.dim + before;
    part = part.narrow(at, 0, kept(trim, shape));
  }
  return part.movedim(0, dim + 1).clone(at::MemoryFormat::Contiguous).flatten(dim, dim + 2);
}

std::vector<at::Tensor> split(const Contract& contract, std::vector<at::Tensor>& outputs, const CallShape& shape,
                              const std::vector<std::int64_t>& padded_to, std::int64_t row, std::int64_t rows) {
  return Splitter(contract, outputs, padded_to, rows).part(shape, row);
}

std::optional<std::vector<at::Tensor>> join(const Contract& contract, const std::vector<std::vector<at::Tensor>>& parts,
                                            const std::vector<std::int64_t>& rows) {
  std::vector<at::Tensor> joined;
  std::vector<at::Tensor> pieces;
  for (std::size_t i = 0; i < contract.outputs.size(); ++i) {
    const OutputSpec& spec = contract.outputs[i];
    const std::int64_t dim = spec.batch_dim.value();
    const std::int64_t unit_dim = spec.folded() ? dim + 1 : dim;
    pieces.clear();
    for (std::size_t part = 0; part < parts.size(); ++part) {
      const at::Tensor& output = parts[part][i];
      pieces.push_back(spec.folded()
                           ? unfolded(output, dim, fold_of(spec, output.size(dim), contract.units(rows[part])).value())
                           : output);
      if (!same_but_for(unit_dim, pieces.front(), pieces.back())) return std::nullopt;
    }
    at::Tensor all = at::cat(pieces, unit_dim);
    joined.push_back(spec.folded() ? all.flatten(dim, dim + 2) : std::move(all));
  }
  return joined;
}

at::Tensor own(at::Tensor output, bool kept) {
  return !kept && is_sole_owner(output) ? std::move(output) : output.clone();
}

}  // namespace torchpool
