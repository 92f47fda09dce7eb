#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>

#include <limits>

#include "predict/graph/graph_backend.h"
#include "predict/graph/interpreter.h"
#include "predict/graph_support.h"

namespace torchpool::graph {
namespace {

Instruction compute(ScalarOp op, std::vector<Argument> arguments, SlotIndex output) {
  Instruction instruction;
  instruction.scalar = op;
  instruction.arguments = std::move(arguments);
  instruction.outputs = {output};
  return instruction;
}

// (w * 2) + x, the product in the prologue where `fold` says so. Slots: 0 w, 1 x, 2 product, 3 sum.
std::shared_ptr<const Program> affine(bool fold) {
  auto program = std::make_shared<Program>();
  program->num_slots = 4;
  program->weight_slots = {0};
  program->input_slots = {1};
  program->output_slots = {3};
  auto& first = fold ? program->prologue : program->body;
  first.push_back(call("aten::mul", "Scalar", {slot(0), constant(2)}, {2}));
  program->body.push_back(call("aten::add", "Tensor", {slot(2), slot(1), constant(1)}, {3}));
  program->guards.ranges.push_back({0, 0, 1, 8});
  program->finish();
  return program;
}

class NoReclaimer : public Reclaimer {
 public:
  void reclaim(std::vector<at::Tensor> tensors) noexcept override { reclaimed += tensors.size(); }
  std::size_t reclaimed = 0;
};

TEST(ScalarOpsTest, FollowPython) {
  const auto of = [](const char* name, std::vector<c10::IValue> arguments) {
    return graph::apply(*scalar_op(name), arguments);
  };
  EXPECT_EQ(of("floordiv", {-7, 2}).toInt(), -4);
  EXPECT_EQ(of("mod", {-7, 3}).toInt(), 2);
  EXPECT_EQ(of("mod", {7, -3}).toInt(), -2);
  EXPECT_DOUBLE_EQ(of("mod", {-7.5, 2}).toDouble(), 0.5);
  EXPECT_DOUBLE_EQ(of("truediv", {7, 2}).toDouble(), 3.5);
  EXPECT_EQ(of("pow", {3, 4}).toInt(), 81);
  EXPECT_DOUBLE_EQ(of("pow", {2, -1}).toDouble(), 0.5);
  EXPECT_EQ(of("ceil", {2.1}).toInt(), 3);
  EXPECT_EQ(of("floor", {-2.1}).toInt(), -3);
  EXPECT_EQ(of("int", {-2.9}).toInt(), -2);
  EXPECT_EQ(of("round", {2.5}).toInt(), 2);
  EXPECT_EQ(of("max", {2, 5}).toInt(), 5);
  EXPECT_TRUE(of("and", {1, true}).toBool());
  EXPECT_FALSE(of("not", {3}).toBool());
  EXPECT_TRUE(of("add", {1, 2}).isInt());
  EXPECT_TRUE(of("add", {1, 2.0}).isDouble());
  for (const char* name : {"floordiv", "mod", "truediv"}) {
    EXPECT_THROW(of(name, {1, 0}), Error);
    EXPECT_THROW(of(name, {1.5, 0}), Error);
  }
  EXPECT_THROW(of("assert", {false, std::string("the size is odd")}), GuardFailed);
  EXPECT_FALSE(scalar_op("matmul"));
}

TEST(ProgramTest, FoldsWhatDependsOnWeightsOnly) {
  const auto folded = affine(true);
  EXPECT_EQ(folded->constant_slots, (std::vector<SlotIndex>{2}));
  EXPECT_EQ(affine(false)->constant_slots, (std::vector<SlotIndex>{0}));
}

TEST(ProgramTest, LetsGoOfValuesAfterTheirLastUse) {
  Program program;
  program.num_slots = 4;
  program.input_slots = {0};
  program.output_slots = {3};
  program.body.push_back(call("aten::relu", "", {slot(0)}, {1}));
  program.body.push_back(call("aten::mul", "Tensor", {slot(1), slot(1)}, {2}));
  program.body.push_back(call("aten::neg", "", {slot(2)}, {3}));
  program.finish();
  EXPECT_TRUE(program.body[0].arguments[0].last_use);
  EXPECT_FALSE(program.body[1].arguments[0].last_use);  // read twice by the same instruction
  EXPECT_EQ(program.body[1].dead, (std::vector<SlotIndex>{1}));
  EXPECT_TRUE(program.body[2].arguments[0].last_use);
  EXPECT_TRUE(program.body[2].dead.empty());  // the output stays
}

TEST(InterpreterTest, GivesWhatTheOperatorsGive) {
  const c10::InferenceMode inference;
  const at::Tensor w = at::arange(3, at::kFloat);
  const at::Tensor x = at::ones({2, 3});
  for (const bool fold : {true, false}) {
    const auto program = affine(fold);
    const Constants constants = prepare(*program, {w});
    EXPECT_TRUE(at::equal(run(*program, refs_to(constants), {x}).at(0), w * 2 + x));
    EXPECT_TRUE(at::equal(run(*program, refs_to(constants), {x}).at(0), w * 2 + x));  // constants outlive a run
  }
}

TEST(InterpreterTest, ComputesSizesAndSpreadsLists) {
  // Halves of dim 0, then the first half reshaped to (size / 2 * 3).
  Program program;
  program.num_slots = 7;
  program.input_slots = {0};
  program.output_slots = {5, 6};
  program.body.push_back(call("aten::sym_size", "int", {slot(0), constant(0)}, {1}));
  program.body.push_back(compute(ScalarOp::kFloorDiv, {slot(1), constant(2)}, 2));
  program.body.push_back(compute(ScalarOp::kMul, {slot(2), constant(3)}, 3));
  program.body.push_back(call("aten::chunk", "", {slot(0), constant(2), constant(0)}, {4, 6}));
  program.body.back().spread = true;
  Argument shape{.kind = Argument::Kind::kList, .item_type = c10::IntType::get()};
  shape.items.push_back(slot(3));
  program.body.push_back(call("aten::reshape", "", {slot(4), shape}, {5}));
  program.finish();
  const c10::InferenceMode inference;
  const at::Tensor x = at::arange(12, at::kFloat).view({4, 3});
  const auto outputs = run(program, {}, {x});
  EXPECT_TRUE(at::equal(outputs[0], x.narrow(0, 0, 2).reshape({6})));
  EXPECT_TRUE(at::equal(outputs[1], x.narrow(0, 2, 2)));
}

TEST(InterpreterTest, NumbersAmongTensorsPromoteAsNumbersDo) {
  Program program;
  program.num_slots = 3;
  program.input_slots = {0};
  program.output_slots = {2};
  program.body.push_back(call("aten::sym_size", "int", {slot(0), constant(0)}, {1}));
  Argument number = slot(1);
  number.convert = Argument::Convert::kToTensor;
  program.body.push_back(call("aten::mul", "Tensor", {slot(0), number}, {2}));
  program.finish();
  const c10::InferenceMode inference;
  const at::Tensor x = at::ones({3}, at::kHalf);
  EXPECT_EQ(run(program, {}, {x}).at(0).scalar_type(), at::kHalf);
}

TEST(InterpreterTest, RefusesInputsThatTheGraphDoesNotHoldFor) {
  const auto program = affine(true);
  const c10::InferenceMode inference;
  const Constants constants = prepare(*program, {at::zeros({3})});
  EXPECT_THROW(run(*program, refs_to(constants), {at::zeros({9, 3})}), GuardFailed);
  EXPECT_ANY_THROW(run(*program, refs_to(constants), {at::zeros({2, 4})}));            // the operator's own error
  EXPECT_EQ(run(*program, refs_to(constants), {at::zeros({2, 3})}).at(0).size(0), 2);  // and nothing is left over
}

class GraphBackendTest : public ::testing::Test {
 protected:
  at::Tensor result() {
    WorkerContext context;
    return backend_.run(form_, {x_}, nullptr, context).outputs.at(0);
  }
  at::Tensor expected() { return w_ * 2 + x_; }

  at::Tensor w_ = at::arange(3, at::kFloat);
  at::Tensor x_ = at::ones({2, 3});
  NoReclaimer reclaimer_;
  CallForm form_;
  GraphBackend backend_{affine(true), affine(false), {w_}, reclaimer_};
};

TEST_F(GraphBackendTest, ServesChangedWeightsAtOnceAndPacksThemBehindTheCalls) {
  EXPECT_TRUE(at::equal(result(), expected()));
  EXPECT_FALSE(backend_.upkeep_due());
  w_.fill_(5);
  EXPECT_TRUE(at::equal(result(), expected()));
  EXPECT_TRUE(backend_.upkeep_due());
  EXPECT_TRUE(at::equal(result(), expected()));
  backend_.upkeep();
  EXPECT_FALSE(backend_.upkeep_due());
  EXPECT_TRUE(at::equal(backend_.run_leaves({x_}, false, nullptr).at(0), expected()));
}

TEST_F(GraphBackendTest, DoesNotPackWeightsThatKeepMoving) {
  for (int step = 0; step < 4; ++step) {
    w_.add_(1);
    EXPECT_TRUE(at::equal(result(), expected()));
    if (backend_.upkeep_due()) backend_.upkeep();
  }
  w_.add_(1);
  EXPECT_TRUE(at::equal(result(), expected()));
  EXPECT_FALSE(backend_.upkeep_due());
  for (int rest = 0; rest < 64 && !backend_.upkeep_due(); ++rest) result();
  EXPECT_TRUE(backend_.upkeep_due());
  backend_.upkeep();
  EXPECT_TRUE(at::equal(backend_.run_leaves({x_}, false, nullptr).at(0), expected()));
}

TEST_F(GraphBackendTest, SeesWeightsThatWereReplaced) {
  EXPECT_EQ(backend_.form_change(), WeightChange::kSame);
  w_.set_data(at::zeros({3}));
  EXPECT_EQ(backend_.form_change(), WeightChange::kValues);
  w_.set_data(at::zeros({4}));
  EXPECT_EQ(backend_.form_change(), WeightChange::kMeta);
}

}  // namespace
}  // namespace torchpool::graph
