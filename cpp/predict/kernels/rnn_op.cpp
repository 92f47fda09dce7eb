#include "predict/kernels/rnn_op.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "predict/kernels/isa.h"
#include "predict/kernels/rnn_packed.h"

namespace torchpool::kernels {

namespace {

using OptionalTensor = std::optional<at::Tensor>;

RnnKind kind_of(std::string_view name) {
  if (name == "lstm") return RnnKind::kLstm;
  if (name == "gru") return RnnKind::kGru;
  TORCH_CHECK_VALUE(name == "rnn_tanh", "expected lstm, gru or rnn_tanh, got ", name);
  return RnnKind::kTanh;
}

std::int64_t gates_of(RnnKind kind) {
  return kind == RnnKind::kLstm ? 4 : kind == RnnKind::kGru ? 3 : 1;
}

at::Tensor floats(const at::Tensor& tensor, const char* what) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat && tensor.is_cpu(), what, ": expected float32 on the CPU, got ",
                   tensor.scalar_type(), " on ", tensor.device());
  return tensor;
}

// `parameters` are a module's, as nn.RNNBase orders them.
at::Tensor pack(const std::vector<at::Tensor>& parameters, std::string_view kind, bool has_biases,
                std::int64_t num_layers, bool bidirectional) {
  RnnModel model;
  model.kind = kind_of(kind);
  model.layers = num_layers;
  model.directions = bidirectional ? 2 : 1;
  const std::size_t each = has_biases ? 4 : 2;
  const auto parts = static_cast<std::size_t>(model.layers * model.directions);
  TORCH_CHECK_VALUE(parts > 0 && parameters.size() == parts * each, "expected ", parts * each, " weights, got ",
                    parameters.size());
  model.input = parameters[0].size(-1);
  model.hidden = parameters[1].size(-1);
  std::vector<at::Tensor> held;  // what follows points into
  std::vector<const float*> pointers(parts * 4, nullptr);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto layer = static_cast<std::int64_t>(i / each) / model.directions;
    const std::int64_t inputs = layer == 0 ? model.input : model.directions * model.hidden;
    const std::int64_t rows = gates_of(model.kind) * model.hidden;
    const std::int64_t columns = i % each == 0 ? inputs : model.hidden;
    const bool fits = i % each < 2 ? parameters[i].sizes() == at::IntArrayRef{rows, columns}
                                   : parameters[i].sizes() == at::IntArrayRef{rows};
    TORCH_CHECK_VALUE(fits, "weight ", i, " of a recurrent net of ", model.input, " features and ", model.hidden,
                      " units has shape ", parameters[i].sizes());
    held.push_back(floats(parameters[i], "weight").contiguous());
    pointers[i / each * 4 + i % each] = held.back().const_data_ptr<float>();
  }
  at::Tensor packed = at::empty({packed_size(model)}, at::kFloat);
  pack_rnn(model, pointers, packed.mutable_data_ptr<float>());
  return packed;
}

// The rows of a call from the longest to the shortest.
struct Sorted {
  std::vector<std::int64_t> order, lengths;

  Sorted(const at::Tensor& given, std::int64_t rows, std::int64_t steps) : order(static_cast<std::size_t>(rows)) {
    TORCH_CHECK_VALUE(given.sizes() == at::IntArrayRef{rows} && given.scalar_type() == at::kLong && given.is_cpu(),
                      "lengths: expected ", rows, " of int64, got ", given.sizes(), " of ", given.scalar_type());
    const at::Tensor contiguous = given.contiguous();
    const auto* const all = contiguous.const_data_ptr<std::int64_t>();
    const bool inside =
        std::all_of(all, all + rows, [&](std::int64_t length) { return length > 0 && length <= steps; });
    TORCH_CHECK_VALUE(inside, "lengths: expected 1 to ", steps, " steps in each row");
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return all[a] > all[b]; });
    for (const std::int64_t row : order) lengths.push_back(all[row]);
  }
};

// Blocks of rows go to the threads that the caller has; each row's bits stay the same.
void run_on_threads(const RnnModel& model, const RnnCall& whole) {
  const std::int64_t blocks = (whole.rows + kRnnMostRows - 1) / kRnnMostRows;
  const std::int64_t parts = std::max<std::int64_t>(1, std::min<std::int64_t>(blocks, at::get_num_threads()));
  const std::int64_t each = (blocks + parts - 1) / parts * kRnnMostRows;
  const std::ptrdiff_t scratch = rnn_scratch(model, std::min<std::int64_t>(each, whole.rows), whole.steps);
  at::Tensor memory = at::empty({parts * scratch}, at::kFloat);
  auto* const floats_of_parts = memory.mutable_data_ptr<float>();
  const auto run_part = [&](std::int64_t part) {
    RnnCall call = whole;
    const std::int64_t begin = part * each;
    call.begin = begin;
    call.rows = std::min<std::int64_t>(each, whole.rows - begin);
    if (call.rows > 0) run_rnn(chosen(), model, call, floats_of_parts + part * scratch);
  };
  if (parts == 1) return run_part(0);
  at::parallel_for(0, parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) run_part(part);
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> run(const at::Tensor& given, const OptionalTensor& hidden,
                                                   const OptionalTensor& cell, const at::Tensor& packed,
                                                   const OptionalTensor& lengths, std::string_view kind,
                                                   std::int64_t hidden_size, std::int64_t num_layers,
                                                   bool bidirectional, bool batch_first, bool need_output) {
  TORCH_CHECK_VALUE(given.dim() == 3, "input: expected 3 dims, got ", given.dim());
  const at::Tensor input = floats(given, "input").stride(2) == 1 ? given : given.contiguous();
  const std::int64_t row_dim = batch_first ? 0 : 1;
  RnnModel model;
  model.kind = kind_of(kind);
  model.input = input.size(2);
  model.hidden = hidden_size;
  model.layers = num_layers;
  model.directions = bidirectional ? 2 : 1;
  TORCH_CHECK_VALUE(floats(packed, "packed weights").numel() == packed_size(model) && packed.is_contiguous(),
                    "weights that were packed for other sizes than ", model.input, " features and ", hidden_size,
                    " units");
  const std::vector<RnnDirection> directions = packed_directions(model, packed.const_data_ptr<float>());
  model.weights = directions.data();
  RnnCall call;
  call.rows = call.all_rows = input.size(row_dim);
  call.steps = input.size(1 - row_dim);
  TORCH_CHECK_VALUE(call.steps > 0, "input: expected at least one step");
  call.input = input.const_data_ptr<float>();
  call.input_row = input.stride(row_dim);
  call.input_step = input.stride(1 - row_dim);
  const std::vector<std::int64_t> state = {model.layers * model.directions, call.rows, hidden_size};
  const auto given_state = [&](const OptionalTensor& tensor) -> at::Tensor {
    if (!tensor) return {};
    TORCH_CHECK_VALUE(tensor->sizes() == state, "state: expected ", at::IntArrayRef(state), ", got ", tensor->sizes());
    return floats(*tensor, "state").contiguous();
  };
  const at::Tensor first_hidden = given_state(hidden);
  const at::Tensor first_cell = given_state(cell);
  if (first_hidden.defined()) call.first_hidden = first_hidden.const_data_ptr<float>();
  if (first_cell.defined()) call.first_cell = first_cell.const_data_ptr<float>();
  // Laid out as ATen does: by time, whatever the order of the dims.
  const std::int64_t width = model.directions * hidden_size;
  at::Tensor output = need_output ? at::empty({call.steps, call.rows, width}, at::kFloat) : at::empty({0}, at::kFloat);
  at::Tensor last_hidden = at::empty(state, at::kFloat);
  at::Tensor last_cell = model.kind == RnnKind::kLstm ? at::empty(state, at::kFloat) : at::empty({0}, at::kFloat);
  if (need_output) {
    call.output = output.mutable_data_ptr<float>();
    call.output_row = width;
    call.output_step = call.rows * width;
    if (batch_first) output = output.transpose(0, 1);
  }
  call.last_hidden = last_hidden.mutable_data_ptr<float>();
  call.last_cell = last_cell.mutable_data_ptr<float>();
  std::optional<Sorted> sorted;
  if (lengths) {
    sorted.emplace(*lengths, call.rows, call.steps);
    call.lengths = sorted->lengths.data();
    call.order = sorted->order.data();
  }
  run_on_threads(model, call);
  return {output, last_hidden, last_cell};
}

}  // namespace

void define_rnn(torch::Library& library) {
  // A net's weights in the kernels' own form.
  library.def("pack_rnn(Tensor[] params, str kind, bool has_biases, int num_layers, bool bidirectional) -> Tensor");
  library.impl("pack_rnn", c10::DispatchKey::CPU, TORCH_FN(pack));
  // States default to zeros. Output and the cell are empty where they are not needed. Of `lengths` see RnnCall.
  library.def(
      "rnn(Tensor input, Tensor? hidden, Tensor? cell, Tensor packed, Tensor? lengths, str kind, int hidden_size, "
      "int num_layers, bool bidirectional, bool batch_first, bool need_output) -> (Tensor, Tensor, Tensor)");
  library.impl("rnn", c10::DispatchKey::CPU, TORCH_FN(run));
}

}  // namespace torchpool::kernels
