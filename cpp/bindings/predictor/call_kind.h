// The kinds of calls that a predictor has seen, and how each kind is served.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "bindings/call/ambient.h"
#include "bindings/call/call_form.h"
#include "predict/batch/call_request.h"
#include "predict/batch/contract.h"
#include "predict/batch/verifier.h"
#include "predict/graph/graph_backend.h"

namespace torchpool {

enum class Route : std::uint8_t {
  kUnknown,   // nothing is known yet
  kLearning,  // being learned on another thread; answered by the module itself meanwhile
  kMerge,     // calls share batches, as soon as they may
  kDirect,    // not probed: the caller's own call on the caller's thread; submitted ones as in a standard pool
  kCaller,    // alone, each on the thread that makes or submits it, whose state the module reads
  kParallel,  // alone, any number at a time
  kSerial,    // alone, one after the other in order of arrival
};
Route route_from_string(const std::string& name);
const char* to_string(Route route) noexcept;

// Whether calls share batches before their rows are proven independent.
enum class Merging : std::uint8_t {
  kNo,
  kTrust,   // the user says that they are
  kVerify,  // batches are compared with the same calls alone
};
Merging merging_from_string(const std::string& name);

// Calls of one structure (arguments and values other than tensors), with tensors of the same dtypes, ranks and devices,
// made under the same torch state. Touched only with the interpreter's lock held.
struct CallKind {
  std::int64_t id = 0;
  std::int64_t learned_number = 0;  // of what was learned last
  std::string structure;
  struct Leaf {
    at::ScalarType dtype;
    std::int64_t rank;
    at::Device device;
    bool operator==(const Leaf&) const = default;
  };
  std::vector<Leaf> leaves;
  std::uint64_t torch_key = 0;
  std::shared_ptr<const PyCallForm> form;
  Route route = Route::kUnknown;
  unsigned long learning_thread = 0;         // kLearning: Python's identifier of the thread that learns; 0: promised
  std::shared_ptr<const Contract> contract;  // kMerge
  Merging merging = Merging::kNo;            // kMerge: as learned
  bool merges = false;                       // kMerge: calls share batches; if not, they only have to fit the contract
  std::shared_ptr<graph::GraphBackend> graph;  // kMerge: once captured; null: not yet, or its weights have moved
  bool by_module = false;                      // kMerge: the module serves what `graph` takes; if not, `graph` does
  bool by_graph_only = false;                  // kMerge: what `graph` does not take shares no batch
  // Of all contracts that it has had: what met once never merges again.
  std::shared_ptr<Refutation> refutation = std::make_shared<Refutation>();
  ContextVariables context;        // kMerge: those that the module may read
  std::uint64_t used = 0;          // times that it was looked for
  std::uint64_t used_at = 0;       // by how many times any was
  TimePoint learn_again = kNever;  // when probing that did not end is to be tried again
  bool aliases = false;            // results must be copied before they are handed out
  bool mixed = false;              // the module has changed while it was learned
  // kDirect: shared with the calls that are looked at.
  std::shared_ptr<std::atomic<HasState>> has_state = std::make_shared<std::atomic<HasState>>(HasState::kUnknown);
  // Above zero, and kDirect: not learned from before its calls have taken so much processor time. Below zero: it was
  // so.
  Duration put_off{};
  std::shared_ptr<std::atomic<std::int64_t>> spent;  // ns of that time; null where it is not put off
  bool widening = false;                             // kMerge: it is to be widened, by a promise
  unsigned long settling_thread = 0;                 // kMerge: that widens it, or puts its graph in place; 0: none
  int settling = 0;    // kMerge: threads on which the learner answers calls that depart from the contract
  bool widens = true;  // kMerge: calls that depart from the contract may still teach something
  PyRef failure;       // what learning raised, where it was promised

  bool put_off_still() const noexcept { return put_off > Duration::zero() && spent->load() < put_off.count(); }
  // Whether it is to be learned by a promise that is not settled yet.
  bool promised() const noexcept { return route == Route::kLearning && learning_thread == 0; }
  // Nobody will: who waits for it learns another kind.
  void give_up_promise() noexcept;

  // Whether no call that the module ran by itself had these sizes yet. False, too, once there were kMaxSizes of them.
  bool has_new_sizes(const std::vector<at::Tensor>& inputs) const;
  void note_sizes(const std::vector<at::Tensor>& inputs);
  // For a call that a worker runs: the module has run with these sizes once what it gives is true. Null where nobody
  // keeps them.
  std::shared_ptr<std::atomic<bool>> expect_sizes(const std::vector<at::Tensor>& inputs);

 private:
  static constexpr std::size_t kMaxSizes = 256;
  std::map<std::vector<std::int64_t>, std::shared_ptr<std::atomic<bool>>> sizes_;  // null: it has run
};

// This thread settles how calls of a kind are served; within it may do so once more.
class SettlingThread {
 public:
  explicit SettlingThread(CallKind& kind) noexcept
      : kind_(kind), before_(std::exchange(kind.settling_thread, PyThread_get_thread_ident())) {}
  ~SettlingThread() { kind_.settling_thread = before_; }
  SettlingThread(const SettlingThread&) = delete;
  SettlingThread& operator=(const SettlingThread&) = delete;

 private:
  CallKind& kind_;
  const unsigned long before_;
};

// Bounded: a value argument that is new in every call must not grow it for ever.
class CallKinds {
 public:
  static constexpr std::size_t kMaxKinds = 64;
  // The kind of a call. Where it would be one too many, it takes the place of the one that was not used for longest, if
  // that was long ago; else null: kinds that take turns would be learned for ever.
  std::shared_ptr<CallKind> find_or_add(const FlatCall& call, std::uint64_t torch_key, PyObject* args, PyObject* kwargs,
                                        const c10::FunctionSchema* schema, std::shared_ptr<CallKind>& evicted);
  std::shared_ptr<CallKind> find(std::int64_t id) const;  // null when it is gone
  std::vector<std::shared_ptr<CallKind>> all() const;
  // Of a parent's predictor, with the id that it had there.
  void add(const std::shared_ptr<CallKind>& kind);
  void remove(const CallKind& kind);
  // Of the kind that is added next. Ids are never used again: a call may still hold a kind of before.
  std::int64_t next_id() const noexcept { return next_id_; }
  using Taken = std::unordered_map<std::string, std::vector<std::shared_ptr<CallKind>>>;
  // All of them, of which none is left.
  Taken take() noexcept;
  // Others in place of those that there are, which it gives; without those that are not known in full, or not of one
  // state of the module.
  Taken exchange(Taken others) noexcept;

 private:
  static constexpr std::uint64_t kIdle = 1024;  // calls
  static constexpr std::uint64_t kMostIdle = kIdle << 10;
  static constexpr std::uint64_t kWorthwhile = 16;  // uses that pay for learning

  std::shared_ptr<CallKind> evict();

  Taken by_structure_;
  std::size_t count_ = 0;
  std::int64_t next_id_ = 0;
  std::uint64_t uses_ = 0;      // of all kinds, and of calls of none
  std::uint64_t idle_ = kIdle;  // calls without it after which a kind may go; doubled where learning has not paid
};

}  // namespace torchpool
