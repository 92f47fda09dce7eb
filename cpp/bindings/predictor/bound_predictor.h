// A predictor as Python holds it: the ways to call it, put together from the parts that read, learn, run and queue.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/call/map_results.h"
#include "bindings/call/pending.h"
#include "bindings/futures/call_future.h"
#include "bindings/predictor/bound_learner.h"
#include "bindings/predictor/call_reader.h"
#include "bindings/predictor/call_turns.h"
#include "bindings/predictor/inline_runner.h"
#include "bindings/predictor/measured_predictor.h"
#include "bindings/predictor/predictor_channels.h"
#include "bindings/predictor/predictor_options.h"
#include "bindings/predictor/request_maker.h"

namespace torchpool {

class BoundPredictor final : public MeasuredPredictor {
 public:
  // `modules` are those that the target is made of; `backend` null: the python backend.
  BoundPredictor(std::shared_ptr<BoundRuntime> runtime, const py::object& target, const py::object& learner,
                 const py::list& modules, const BoundPredictorOptions& options, std::shared_ptr<Backend> backend);

  // `turn`: what start() gave for it, else null. `may_put_off`: see CallReader::read().
  py::object call(const py::tuple& args, const py::object& kwargs, const CallOptions& options, TurnPtr turn = nullptr,
                  bool may_put_off = false);
  // `notify`: once the request is done.
  Pending submit(const py::tuple& args, const py::object& kwargs, const CallOptions& options, const Notify& notify,
                 Full full, bool may_put_off = false);
  // For a map, whose look-ahead is bounded: submit(), to the end of `results`, which then has what the call's like are.
  void submit_to(MapResults& results, const py::tuple& args, const CallOptions& options);
  // The same for the tensors that `items` gives, as long as they are like the last call that was submitted to
  // `results`, at most `most` of them. The first other item in a tuple of one; None where there was none. Raises
  // StopIteration at the end of `items`, an iterator whose steps run no code of the user's.
  py::object submit_like(MapResults& results, const py::iterator& items, std::int64_t most);

  // The same as a concurrent.futures.Future.
  py::object submit_future(const py::tuple& args, const py::object& kwargs, const CallOptions& options);

  // For an executor: never waits, neither for room nor for learning. None for a call that first has to be learned from,
  // or that departs from what was learned. `here`: where the calling thread could wait for itself, the call runs on it.
  py::object line_up(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                     const CallOwner& owner, bool here);
  // The same for several, each a tuple of arguments: futures of the first of them, up to one that gives None or raises.
  py::list line_up_each(const py::list& calls, const CallOptions& options, const CallOwner& owner, bool here);
  // The same for a future that has no request yet; learns. What it raises is the outcome, which the future does not
  // have.
  void hand_over(const py::object& future, const py::tuple& args, const py::object& kwargs, const CallOptions& options);

  // For an event loop: never waits, neither for room nor for learning. An AwaitedCall of the running loop; None for a
  // call that first has to be learned from, or that departs from what was learned, which takes a thread that may wait;
  // a HandedTurn for one that such a thread is to call() in its turn. `line_up`: whatever `overflow` says.
  py::object start(const py::tuple& args, const py::object& kwargs, const CallOptions& options, bool line_up);

  // Learns how calls like this one are served, if that is not known yet; runs the model some times.
  void learn_from(const py::tuple& args, const py::object& kwargs);
  // Learns, or widens, a kind as it was promised to, from a call like the one that it was promised for. `learn` false:
  // that call was refused by the model, so that the next one is to be learned from.
  void settle_promise(std::int64_t kind, const py::tuple& args, const py::object& kwargs, bool learn);
  // In a forked child, before the first call: learns what the parent's predictor had learned. Returns, by kind, its
  // graph or None. Nothing where the module has changed since.
  py::dict inherit(BoundPredictor& parents);
  void forget_learned();
  // Whether the module is not as it was at the last call.
  bool module_changed() { return static_cast<bool>(reader_.watch().look()); }
  // The model's own call on this thread, without gradients.
  py::object run_plain(const py::tuple& args, const py::object& kwargs);
  // From now on calls of this kind are merged under `contract`, in batches of at most `max_batch` rows, and run by
  // `graph`; None: by the predictor's backend. `by_module`: by the predictor's backend, and only sizes that `graph`
  // takes. False when `number` is not what was learned last of the kind.
  bool serve(std::int64_t kind, std::int64_t number, const py::object& contract, const py::object& spec,
             std::shared_ptr<graph::GraphBackend> graph, std::int64_t first_batch, std::int64_t max_batch,
             bool by_module);
  // Has the kind learned anew by its first call after so many seconds, unless it was meanwhile.
  void learn_again(std::int64_t kind, std::int64_t number, double seconds) const {
    learner_.learn_again(kind, number, seconds);
  }
  // The learner hears of the kinds whose batches were found to differ from the same calls alone.
  void tell_refuted() const { learner_.tell_refuted(); }
  // Attributes that the module itself writes when it runs, which a graph would not do.
  const std::vector<std::string>& volatile_attributes() const noexcept { return reader_.watch().volatile_names(); }

  // Rows of a batch: to begin with, and at most.
  void set_batch(std::int64_t first, std::int64_t most) { channels_.set_rows(first, most); }
  void close(bool fail_waiting) noexcept { channels_.close(fail_waiting); }
  bool closed() const noexcept { return channels_.closed(); }
  const std::shared_ptr<UpdateGate>& gate() const noexcept { return channels_.gate(); }
  // The weights were written, and nothing runs: what is served by graphs must not be of the weights as they were, even
  // where the writing left no trace.
  void weights_written();
  std::vector<std::shared_ptr<graph::GraphBackend>> graphs() const { return learner_.graphs(); }
  bool wait_drained(std::optional<double> timeout) { return channels_.wait_drained(timeout); }
  // What it refers to, for the cycle collector: nothing while calls are in flight, which use it from other threads.
  int traverse(visitproc visit, void* arg) const;
  std::string backend_name() const { return channels_.backend().name(); }
  py::dict stats();

  std::optional<RepeatedCall> repeated(const py::tuple& args, const py::object& kwargs) override;
  Submitted submit_again(const RepeatedCall& call, const std::shared_ptr<CallRequest>& request,
                         bool block) noexcept override;
  void set_policy(PolicyMaker make) override { channels_.set_policy(std::move(make)); }

 private:
  // Warns, once, whoever calls with grad mode on a model whose own results would have gradients. Asks after a call, and
  // after twice as many each time: the answer takes a look at all weights, and may change.
  void look_at_gradients();
  // Whether the call is answered at once, on the calling thread, instead of on a worker: it departs from its kind's
  // contract, or the module, which may change itself at sizes that are new to it, is run with such. One with a deadline
  // is queued instead, so that its deadline can end it whatever the module does.
  bool settles_here(const PreparedCall& call, const CallOptions& options) const;
  py::object settle(PreparedCall& call, const py::tuple& args, const py::object& kwargs);
  py::object answer_here(PreparedCall& call, const py::tuple& args, const py::object& kwargs);
  // Reads it, as it is once its turn has come: with sizes that are new to the module after all calls that came before,
  // which are to find the module as it was, and before all that come after. `turn`: one that it has already. Throws
  // DeadlineExceeded.
  void read_in_turn(const py::tuple& args, const py::object& kwargs, const CallOptions& options, PreparedCall& call,
                    TurnPtr turn = nullptr, bool may_put_off = false);
  void ran_answering();
  py::object run_queued(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                        const CallOptions& options);
  Pending submit(const py::tuple& args, const py::object& kwargs, const CallOptions& options, const Notify& notify,
                 Full full, bool may_put_off, std::shared_ptr<const Likeness>* like);
  py::object future_of_inline(PreparedCall& call, const py::tuple& args, const py::object& kwargs);
  py::object start_new_future(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                              const CallOptions& options, const CallOwner& owner, Full full) const;
  void start_future(PreparedCall& call, const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                    const py::object& future, Full full) const;

  std::shared_ptr<BoundRuntime> runtime_;
  std::shared_ptr<ChannelStats> stats_;
  BoundLearner learner_;
  PredictorChannels channels_;
  CallReader reader_;
  InlineRunner inline_;
  RequestMaker requests_;
  CallTurns turns_;
  std::uint64_t calls_with_gradients_ = 0;
  bool gradients_told_ = false;
};

void register_predictor(py::module_& module);

}  // namespace torchpool
