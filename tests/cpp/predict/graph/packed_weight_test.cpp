#include "predict/graph/packed_weight.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/library.h>

#include <atomic>
#include <cmath>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>

#include "predict/graph/graph_backend.h"
#include "predict/graph_support.h"
#include "predict/test_support.h"

namespace torchpool::graph {
namespace {

// What the operator below does, instead of laying weights out anew.
struct Packing {
  std::atomic<int> count{0};
  std::atomic<bool> fails{false};
  std::shared_future<void> gate;          // waited for, where there is one
  std::promise<void>* entered = nullptr;  // told of the first packing
  std::vector<c10::weak_intrusive_ptr<c10::TensorImpl>> results;

  int alive() const {
    int alive = 0;
    for (const auto& result : results) alive += result.expired() ? 0 : 1;
    return alive;
  }
};
Packing* packing = nullptr;

at::Tensor pack(const at::Tensor& weight) {
  ++packing->count;
  if (packing->entered != nullptr) std::exchange(packing->entered, nullptr)->set_value();
  if (packing->gate.valid()) packing->gate.wait();
  if (packing->fails) throw std::runtime_error("no memory");
  at::Tensor result = weight * 2;
  packing->results.emplace_back(result.getIntrusivePtr());
  return result;
}

TORCH_LIBRARY(torchpool_packed_weight_test, library) {
  library.def("pack(Tensor weight) -> Tensor", &pack);
}

Instruction pack_of(SlotIndex weight, SlotIndex result) {
  return call("torchpool_packed_weight_test::pack", "", {slot(weight)}, {result});
}
Instruction twice(SlotIndex weight, SlotIndex result) {
  return call("aten::mul", "Scalar", {slot(weight), constant(2)}, {result});
}
Instruction sum(SlotIndex one, SlotIndex other, SlotIndex result) {
  return call("aten::add", "Tensor", {slot(one), slot(other), constant(1)}, {result});
}

// w * 2 + x
std::shared_ptr<const Program> one_kind(bool fold) {
  auto program = std::make_shared<Program>();
  program->num_slots = 4;
  program->weight_slots = {0};
  program->input_slots = {1};
  program->output_slots = {3};
  (fold ? program->prologue : program->body).push_back(fold ? pack_of(0, 2) : twice(0, 2));
  program->body.push_back(sum(2, 1, 3));
  program->finish();
  return program;
}

// v * 2 + w * 2 + x: of two weights, in other slots and another order.
std::shared_ptr<const Program> other_kind(bool fold) {
  auto program = std::make_shared<Program>();
  program->num_slots = 7;
  program->weight_slots = {3, 1};  // v, w
  program->input_slots = {0};
  program->output_slots = {6};
  auto& first = fold ? program->prologue : program->body;
  for (const auto& [weight, result] : {std::pair<SlotIndex, SlotIndex>{3, 4}, {1, 2}}) {
    first.push_back(fold ? pack_of(weight, result) : twice(weight, result));
  }
  program->body.push_back(sum(4, 2, 5));
  program->body.push_back(sum(5, 0, 6));
  program->finish();
  return program;
}

class PackedWeightTest : public ::testing::Test {
 protected:
  PackedWeightTest() { packing = &packing_; }
  ~PackedWeightTest() override { packing = nullptr; }

  std::unique_ptr<GraphBackend> one() {
    return std::make_unique<GraphBackend>(one_kind(true), one_kind(false), std::vector<at::Tensor>{w_}, reclaimer_);
  }
  std::unique_ptr<GraphBackend> other() {
    return std::make_unique<GraphBackend>(other_kind(true), other_kind(false), std::vector<at::Tensor>{v_, w_},
                                          reclaimer_);
  }
  at::Tensor run(GraphBackend& backend) {
    WorkerContext context;
    return backend.run(form_, {x_}, nullptr, context).outputs.at(0);
  }
  // Serves as it should, and by the packed program.
  void expect_packed(GraphBackend& backend, const at::Tensor& expected) {
    EXPECT_TRUE(at::equal(run(backend), expected));
    EXPECT_FALSE(backend.upkeep_due());
    EXPECT_TRUE(at::equal(backend.run_leaves({x_}, false, nullptr).at(0), expected));
  }
  at::Tensor of_one() { return w_ * 2 + x_; }
  at::Tensor of_other() { return v_ * 2 + w_ * 2 + x_; }
  static PackedWeights::Usage usage() { return PackedWeights::of_this_process().usage(); }

  Packing packing_;
  at::Tensor w_ = at::arange(64, at::kFloat);
  at::Tensor v_ = at::ones({64});
  at::Tensor x_ = at::ones({2, 64});
  testing::PlainReclaimer reclaimer_;
  testing::NoForm form_;
};

TEST_F(PackedWeightTest, KindsOfCallsShareWhatTheyPackAlike) {
  const auto first = one();
  EXPECT_EQ(packing_.count, 1);
  const auto second = other();
  EXPECT_EQ(packing_.count, 2) << "only what the first had not";
  const auto third = one();
  EXPECT_EQ(packing_.count, 2);
  EXPECT_EQ(usage().count, 2);
  EXPECT_EQ(usage().bytes, 2 * 64 * sizeof(float));
  expect_packed(*first, of_one());
  expect_packed(*second, of_other());
  expect_packed(*third, of_one());
}

TEST_F(PackedWeightTest, GoesWithTheLastBackend) {
  auto first = one();
  auto second = other();
  first.reset();
  EXPECT_EQ(packing_.alive(), 2);
  expect_packed(*second, of_other());
  second.reset();
  EXPECT_EQ(packing_.alive(), 0);
  EXPECT_EQ(usage().count, 0);
  EXPECT_EQ(w_.use_count(), 1);
}

TEST_F(PackedWeightTest, OtherTensorsOrOtherMemoryAreNotShared) {
  const auto first = one();
  w_.set_data(at::full({64}, 3.0));
  const auto second = one();
  EXPECT_EQ(packing_.count, 2);
  expect_packed(*second, of_one());
  EXPECT_FALSE(at::equal(run(*first), of_one())) << "its weights are those of before";
  w_ = at::full({64}, 3.0);
  const auto third = one();
  EXPECT_EQ(packing_.count, 3);
}

TEST_F(PackedWeightTest, UpkeepByOneServesAll) {
  const auto first = one();
  const auto second = other();
  w_.add_(1);
  EXPECT_TRUE(at::equal(run(*second), of_other()));
  EXPECT_TRUE(at::equal(run(*first), of_one()));
  first->upkeep();
  EXPECT_EQ(packing_.count, 3) << "only what hangs on the weight that changed";
  EXPECT_TRUE(second->upkeep_due());
  EXPECT_TRUE(at::equal(run(*second), of_other()));
  second->upkeep();
  EXPECT_EQ(packing_.count, 3);
  expect_packed(*first, of_one());
  expect_packed(*second, of_other());
}

TEST_F(PackedWeightTest, ABackendThatIsNotCalledKeepsNoOldCopy) {
  const auto idle = one();
  const auto busy = one();
  w_.add_(1);
  run(*busy);
  busy->upkeep();
  EXPECT_EQ(packing_.alive(), 1);
  EXPECT_TRUE(at::equal(idle->run_leaves({x_}, false, nullptr).at(0), of_one())) << "by the plain program";
  EXPECT_TRUE(at::equal(run(*idle), of_one()));
  idle->upkeep();
  expect_packed(*idle, of_one());
  EXPECT_EQ(packing_.count, 2);
}

TEST_F(PackedWeightTest, ANewBackendTakesNothingFromBeforeAWriteThatLeftNoTrace) {
  const auto first = one();
  const at::Tensor before = of_one();
  w_.data_ptr<float>()[10] = -1;  // between the samples
  EXPECT_TRUE(at::equal(run(*first), before));
  const auto second = one();
  EXPECT_EQ(packing_.count, 2);
  expect_packed(*second, of_one());
  EXPECT_TRUE(at::equal(run(*first), of_one())) << "what it had is gone, so it reads the weights";
  EXPECT_TRUE(first->upkeep_due());
  first->upkeep();
  expect_packed(*first, of_one());
  EXPECT_EQ(packing_.count, 2);
}

TEST_F(PackedWeightTest, AChangeThatLeavesNoTraceInOnePartIsPackedWithTheOthers) {
  const auto backend = other();
  w_.data_ptr<float>()[10] = -1;  // between the samples, as a fused optimiser where the samples' gradients are zero
  v_.data_ptr<float>()[0] = -1;
  EXPECT_TRUE(at::equal(run(*backend), of_other()));
  backend->upkeep();
  expect_packed(*backend, of_other());
}

TEST_F(PackedWeightTest, WeightsWithGapsAreAlwaysPackedAnew) {
  w_ = at::ones({64, 2}).select(1, 0);
  const auto first = one();
  const auto second = one();
  EXPECT_EQ(packing_.count, 2);
  w_.add_(1);
  EXPECT_TRUE(at::equal(run(*first), of_one()));
  first->upkeep();
  expect_packed(*first, of_one());
}

TEST_F(PackedWeightTest, AFailedPackingIsTriedAgainOnceTheWeightsChanged) {
  const auto backend = one();
  packing_.fails = true;
  w_.add_(1);
  run(*backend);
  ASSERT_TRUE(backend->upkeep_due());
  EXPECT_ANY_THROW(backend->upkeep());
  for (int i = 0; i < 40; ++i) {
    EXPECT_TRUE(at::equal(run(*backend), of_one()));
    EXPECT_FALSE(backend->upkeep_due());
  }
  EXPECT_EQ(packing_.count, 2);
  packing_.fails = false;
  w_.add_(1);
  EXPECT_TRUE(at::equal(run(*backend), of_one()));
  ASSERT_TRUE(backend->upkeep_due());
  backend->upkeep();
  expect_packed(*backend, of_one());
}

TEST_F(PackedWeightTest, AFailureOfOneLeavesThePackingToTheNext) {
  packing_.fails = true;
  EXPECT_ANY_THROW(one());
  packing_.fails = false;
  const auto backend = one();
  expect_packed(*backend, of_one());
}

TEST_F(PackedWeightTest, WhoComesWhileAnotherPacksWaitsForItsResults) {
  std::promise<void> entered;
  std::promise<void> open;
  packing_.entered = &entered;
  packing_.gate = open.get_future().share();
  std::unique_ptr<GraphBackend> first;
  std::unique_ptr<GraphBackend> second;
  std::thread packer([&] { first = one(); });
  entered.get_future().wait();
  std::thread late([&] { second = one(); });
  EXPECT_EQ(usage().bytes, 0) << "no lock is held while the weights are packed";
  open.set_value();
  packer.join();
  late.join();
  EXPECT_EQ(packing_.count, 1);
  expect_packed(*first, of_one());
  expect_packed(*second, of_one());
}

TEST_F(PackedWeightTest, WeightsThatChangeWhileTheyArePackedAreServedPlain) {
  const auto backend = one();
  w_.add_(1);
  run(*backend);
  std::promise<void> entered;
  std::promise<void> open;
  packing_.entered = &entered;
  packing_.gate = open.get_future().share();
  std::thread packer([&] { backend->upkeep(); });
  entered.get_future().wait();
  w_.add_(1);
  EXPECT_TRUE(at::equal(run(*backend), of_one()));
  open.set_value();
  packer.join();
  EXPECT_TRUE(at::equal(backend->run_leaves({x_}, false, nullptr).at(0), w_ * 2 - 4 + x_)) << "the copy of before";
  EXPECT_TRUE(at::equal(run(*backend), of_one()));
}

TEST(FoldTest, PartsThatShareNoValueStandAlone) {
  Program program;
  program.num_slots = 9;
  program.weight_slots = {0, 1};
  program.input_slots = {2};
  program.output_slots = {8};
  program.prologue.push_back(twice(0, 3));
  program.prologue.push_back(twice(1, 4));
  program.prologue.push_back(twice(3, 5));
  program.prologue.push_back(twice(0, 6));  // for nobody
  program.body.push_back(sum(5, 4, 7));
  program.body.push_back(sum(7, 2, 8));
  program.finish();
  const auto folds = split_prologue(program);
  ASSERT_EQ(folds.size(), 2);
  EXPECT_EQ(folds[0].program.prologue.size(), 2);
  EXPECT_EQ(folds[0].weights, (std::vector<std::size_t>{0}));
  EXPECT_EQ(folds[0].results, (std::vector<SlotIndex>{5}));
  EXPECT_EQ(folds[1].weights, (std::vector<std::size_t>{1}));
  EXPECT_EQ(folds[1].results, (std::vector<SlotIndex>{4}));
  EXPECT_NE(folds[0].text, folds[1].text);
  const at::Tensor w = at::ones({3});
  EXPECT_TRUE(at::equal(prepare(folds[0].program, {w}).at(0).toTensor(), w * 4));
}

TEST(FoldTest, TextsTellConstantsExactly) {
  const auto text = [](const c10::IValue& factor) {
    Program program;
    program.num_slots = 4;
    program.weight_slots = {0};
    program.input_slots = {1};
    program.output_slots = {3};
    program.prologue.push_back(call("aten::mul", "Scalar", {slot(0), constant(factor)}, {2}));
    program.body.push_back(sum(2, 1, 3));
    program.finish();
    return split_prologue(program).at(0).text;
  };
  EXPECT_EQ(text(0.1), text(0.1));
  EXPECT_NE(text(0.1), text(std::nextafter(0.1, 1.0)));
  EXPECT_NE(text(1), text(1.0));
  EXPECT_NE(text(1), text(true));
  EXPECT_EQ(text(std::vector<std::int64_t>{1, 2}), text(std::vector<std::int64_t>{1, 2}));
  EXPECT_NE(text(std::vector<std::int64_t>{1, 2}), text(std::vector<std::int64_t>{1, 2, 0}));
  EXPECT_EQ(text(at::ones({2})), "") << "not shared";
}

}  // namespace
}  // namespace torchpool::graph
