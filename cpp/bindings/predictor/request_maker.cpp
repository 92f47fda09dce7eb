#include "bindings/predictor/request_maker.h"

#include <algorithm>
#include <atomic>

#include "bindings/call/pending.h"
#include "bindings/call/snapshot.h"
#include "bindings/executor/pool_worker.h"
#include "bindings/interpreter/waiting.h"

namespace torchpool {

namespace {

MergeKey unmergeable_key() {
  static std::atomic<std::uint64_t> next{1};
  return {0, next.fetch_add(1, std::memory_order_relaxed)};
}

}  // namespace

RequestMaker::RequestMaker(std::shared_ptr<BoundRuntime> runtime, BoundLearner& learner,
                           std::shared_ptr<Unnotified> unnotified, bool reject)
    : runtime_(std::move(runtime)), learner_(learner), unnotified_(std::move(unnotified)), reject_(reject) {}

std::shared_ptr<CallRequest> RequestMaker::make(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                                const CallOptions& options, Notify notify, Snapshot snapshot,
                                                Channel& channel) const {
  RequestInfo info;
  const bool merges = call.route == Route::kMerge && !call.mismatch;
  if (merges) {
    const std::uint64_t ambient = call.graph ? 0 : merge_key(call.ambient, call.kind->context);
    info = call.contract->request_info(call.flat.leaves, call.shape, ambient);
    info.padding_is_free = call.graph && call.graph->padding_is_free();
  } else {
    info.key = unmergeable_key();
    for (const at::Tensor& leaf : call.flat.leaves) info.bytes += static_cast<std::int64_t>(leaf.nbytes());
  }
  info.priority = options.priority;
  info.schedule = options.schedule;
  info.chunk = options.chunk;
  if (options.deadline) {
    runtime_->core().start_timer();  // what cannot start fails the call here, before anybody has it
    info.deadline = *options.deadline;
  }
  if (call.mismatch) call.promise = LearnPromise::to_widen(learner_, call);
  const bool copies = snapshot == Snapshot::kSmall || (snapshot == Snapshot::kIfRoom && channel.has_room(info));
  std::shared_ptr<CallRequest> request;
  Reclaimer& reclaimer = GilReclaimer::instance();
  if (notify.object.is_none()) {
    request = std::make_shared<CallRequest>(info, reclaimer);
  } else {
    const auto& resolver = notify.to_loop ? runtime_->loops() : runtime_->futures();
    resolver->start();
    request = std::make_shared<NotifyingRequest>(
        info, reclaimer, resolver, Notified{make_ref(std::move(notify.object)), Unnotified::Ticket(unnotified_)});
  }
  request->keep_turn(std::move(call.turn));
  if (call.new_sizes) request->ran = call.kind->expect_sizes(call.flat.leaves);
  request->ambient = call.ambient.state;
  if (call.kind) request->spent = call.kind->spent;
  request->useful_calls = (channel.useful_rows() + info.rows - 1) / std::max<std::int64_t>(info.rows, 1);
  if (call.look) {
    request->look = learner_.look(call.kind.get());
    request->has_state = call.look;
  }
  if (call.mismatch || call.promise) request->refusal = learner_.refusal(call);
  if (!merges && call.kind && call.kind->aliases) request->copy_result = learner_.own_function();
  if (!call.flat.opaque.empty() || call.flat.leaves.empty()) {
    py::dict named = kwargs.is_none() ? py::dict() : py::reinterpret_borrow<py::dict>(kwargs);
    request->opaque = call.flat.opaque;
    request->object = make_ref(copies ? copy_arguments(args, named) : py::make_tuple(args, named));
    if (snapshot != Snapshot::kNone && !copies) {
      request->inputs = tensors_among(args, named);
      take_snapshot(*request, 0);
    }
    return request;
  }
  request->form =
      call.kind ? call.kind->form : make_form(args.ptr(), kwargs.is_none() ? nullptr : kwargs.ptr(), nullptr);
  request->inputs = std::move(call.flat.leaves);
  if (merges) {
    request->contract = std::move(call.contract);
    request->backend = call.graph;
    request->shape = std::move(call.shape);
    request->result_form = request->contract->result_form;
  }
  if (snapshot != Snapshot::kNone) take_snapshot(*request, copies ? kSnapshotBytes : 0);
  return request;
}

std::shared_ptr<CallRequest> RequestMaker::make_like(const Likeness& like, const at::Tensor& tensor, TurnPtr turn) {
  auto request = std::make_shared<CallRequest>(like.info, GilReclaimer::instance());
  request->keep_turn(std::move(turn));
  request->contract = like.contract;
  request->backend = like.backend;
  request->form = like.form;
  request->ambient = like.ambient;
  request->result_form = like.result_form;
  request->shape = like.shape;
  request->useful_calls = like.useful_calls;
  request->inputs.push_back(tensor);
  take_snapshot(*request, kSnapshotBytes);
  return request;
}

void RequestMaker::take_snapshot(CallRequest& request, std::size_t most) {
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    at::Tensor& input = request.inputs[i];
    if (input.nbytes() <= most) {
      input = copy_of(input);
    } else {
      request.versions.resize(request.inputs.size(), -1);
      if (!input.is_inference()) request.versions[i] = static_cast<std::int64_t>(input._version());
    }
  }
}

Admission RequestMaker::admission(Full full) const {
  if (full == Full::kLineUp) return Admission::kLineUp;  // which never waits
  const bool rejects = full == Full::kReject || (full == Full::kByPolicy && reject_);
  if (!rejects) return Admission::kBlock;
  return reject_ ? Admission::kReject : Admission::kTry;
}

void RequestMaker::admit(const PreparedCall& call, const std::shared_ptr<CallRequest>& request,
                         const std::shared_ptr<Channel>& channel, Full full) const {
  push(request, *channel, full);
  if (call.promise) call.promise->keep(py::cast(Pending(request, channel)));
}

bool RequestMaker::admit_like(const std::shared_ptr<CallRequest>& request, Channel& channel) const {
  return push(request, channel, Full::kBlock);
}

bool RequestMaker::push(const std::shared_ptr<CallRequest>& request, Channel& channel, Full full) const {
  const bool slices = handles_signals();
  const Admission asked = admission(full);
  // With room, without letting go of the interpreter's lock: a release at each of a thousand submits would hand it to
  // a worker, and wait to get it back, a thousand times.
  PushResult pushed = channel.submit(request, asked, TimePoint::min());
  if (pushed == PushResult::kAdmitted) {
    watch_deadline(request);
    return true;
  }
  const ParkedTask parked(request->useful_calls);
  while (pushed != PushResult::kAdmitted) {
    {
      const GilRelease release;
      pushed = channel.submit(request, asked, slices ? signal_slice() : kNever);
    }
    if (pushed != PushResult::kAdmitted && PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  watch_deadline(request);
  return false;
}

void RequestMaker::watch_deadline(const std::shared_ptr<CallRequest>& request) const {
  if (request->info.deadline != kNever) runtime_->core().watch_deadline(request);
}

}  // namespace torchpool
