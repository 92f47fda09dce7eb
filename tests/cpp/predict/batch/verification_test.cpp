// Batches of which calls are run alone, too, on a clock that moves by what each run takes.
#include <ATen/ATen.h>

#include <gmock/gmock.h>

#include <functional>

#include "core/schedule/runtime.h"
#include "core/sync/manual_clock.h"
#include "predict/batch/batch_runner.h"
#include "predict/graph/guard.h"
#include "predict/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::milliseconds;
using Mode = Verifier::Mode;

// Takes 10 ms.
class TimedBackend : public Backend {
 public:
  explicit TimedBackend(Clock& clock) : clock_(static_cast<ManualClock&>(clock)) {}
  std::string name() const override { return "timed"; }
  Lane lane() const noexcept override { return Lane::kCompute; }
  bool runs_module() const noexcept override { return module; }
  BackendResult run(const CallForm& /*form*/, std::vector<at::Tensor> inputs, const AmbientState* /*ambient*/,
                    WorkerContext& /*context*/) override {
    clock_.advance(milliseconds(10));
    ++runs;
    if (inputs[0].size(0) > 1) ++batches;
    return {{model(inputs[0])}, nullptr};
  }
  std::function<at::Tensor(const at::Tensor&)> model = [](const at::Tensor& x) { return x * 2; };
  bool module = true;
  int runs = 0;
  int batches = 0;

 private:
  ManualClock& clock_;
};

at::Tensor with_sum_of_all(const at::Tensor& x) {
  return x + 0.1 * x.sum();
}

class VerificationTest : public ::testing::Test {
 protected:
  void verify(Mode mode, double share) {
    Contract contract = row_contract(3);
    refutation_ = std::make_shared<Refutation>();
    contract.verifier = verifier_ = std::make_shared<Verifier>(mode, share, refutation_);
    contract_ = std::make_shared<const Contract>(std::move(contract));
  }
  std::shared_ptr<CallRequest> add(const at::Tensor& input) {
    auto request = make_request(contract_, {input}, reclaimer_);
    EXPECT_TRUE(request->mark_queued(stats_));
    EXPECT_TRUE(request->try_start());
    requests_.push_back(request);
    return request;
  }
  // A batch of calls of one row.
  void run(int calls) {
    requests_.clear();
    for (int i = 0; i < calls; ++i) add(at::rand({1, 3}));
    run();
  }
  void run() {
    backend_->runs = 0;
    WorkerContext context;
    left_ = runner_->run(requests_, context);
    typical_ = context.typical;
  }
  void expect_answers_alone() {
    for (const auto& request : requests_) {
      ASSERT_EQ(request->state(), RequestState::kSucceeded);
      EXPECT_TRUE(at::allclose(request->outputs[0], backend_->model(request->inputs[0])));
    }
  }

  ManualClock clock_;
  PlainReclaimer reclaimer_;
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  std::shared_ptr<TimedBackend> backend_ = std::make_shared<TimedBackend>(clock_);
  std::shared_ptr<BatchRunner> runner_ = std::make_shared<BatchRunner>(backend_, stats_, clock_);
  std::shared_ptr<Refutation> refutation_;
  std::shared_ptr<Verifier> verifier_;
  std::shared_ptr<const Contract> contract_;
  std::vector<std::shared_ptr<CallRequest>> requests_;
  BatchRunner::Left left_;
  bool typical_ = true;
};

TEST_F(VerificationTest, AnUnprovenBatchIsRunAloneTooUntilEnoughRowsAgreed) {
  verify(Mode::kVerify, 0);
  for (int batch = 0; batch < 125; ++batch) {
    run(8);
    EXPECT_EQ(backend_->runs, 9);
    EXPECT_FALSE(typical_) << "a batch's time is not that of its calls";
    expect_answers_alone();
  }
  EXPECT_EQ(stats_->verified_rows, 1000U);
  run(8);
  EXPECT_EQ(backend_->runs, 1);
  EXPECT_TRUE(typical_);
  run(4);
  EXPECT_EQ(backend_->runs, 5) << "another size class";
  EXPECT_EQ(stats_->refuted, 0U);
}

TEST_F(VerificationTest, AProvenBatchIsLookedAtWithinTheShareOfItsTime) {
  verify(Mode::kAlarm, 0.1);
  int looks = 0;
  for (int batch = 0; batch < 100; ++batch) {
    run(8);
    looks += backend_->runs - 1;
    expect_answers_alone();
  }
  EXPECT_EQ(looks, 10);
  EXPECT_EQ(stats_->verified_rows, 10U);
}

TEST_F(VerificationTest, ALoneCallIsNotLookedAt) {
  verify(Mode::kVerify, 1);
  run(1);
  EXPECT_EQ(backend_->runs, 1);
  EXPECT_TRUE(typical_);
}

TEST_F(VerificationTest, ADifferenceEndsMergingBeforeItsResultsGoOut) {
  for (const Mode mode : {Mode::kVerify, Mode::kAlarm}) {
    backend_->model = with_sum_of_all;
    verify(mode, 1);
    run(8);
    expect_answers_alone();
    EXPECT_TRUE(verifier_->refuted());
    EXPECT_THAT(refutation_->take_text().value(), ::testing::MatchesRegex("row [1-8] of 8: output 'y' differs by .*"));
    backend_->batches = 0;
    run(8);
    expect_answers_alone();
    EXPECT_EQ(backend_->batches, 0) << "what waits runs one by one";
  }
  EXPECT_EQ(stats_->refuted, 2U);
}

TEST_F(VerificationTest, TheTextNamesTheRowsOfACall) {
  backend_->model = [](const at::Tensor& x) { return x.size(0) > 2 ? x * 2 + (x > 5).to(at::kFloat) : x * 2; };
  verify(Mode::kVerify, 1);
  add(at::zeros({2, 3}));
  add(at::full({2, 3}, 10.0F));
  run();
  expect_answers_alone();
  EXPECT_EQ(refutation_->take_text(), "rows 3 to 4 of 4: output 'y' differs by 4.8e-02 of the largest value");
}

TEST_F(VerificationTest, ACallThatRaisesAloneOnlyIsADifference) {
  backend_->model = [](const at::Tensor& x) {
    if (x.size(0) == 1 && x.lt(0).any().item<bool>()) throw std::invalid_argument("negative");
    return x * 2;
  };
  verify(Mode::kVerify, 1);
  const auto good = add(at::ones({1, 3}));
  const auto bad = add(at::full({1, 3}, -1.0F));
  run();
  EXPECT_EQ(refutation_->take_text(), "row 2 of 2: alone it raises");
  EXPECT_EQ(good->state(), RequestState::kSucceeded);
  EXPECT_THROW(std::rethrow_exception(bad->error()), std::invalid_argument);
}

TEST_F(VerificationTest, WhatAGraphCannotRunAloneIsNotKnownAndGoesToTheFallback) {
  backend_->module = false;
  backend_->model = [](const at::Tensor& x) {
    if (x.size(0) == 1) throw graph::GuardFailed("two rows at least");
    return x * 2;
  };
  runner_ = std::make_shared<BatchRunner>(backend_, stats_, clock_, runner_);
  verify(Mode::kVerify, 1);
  run(4);
  EXPECT_EQ(left_.size(), 4U);
  EXPECT_FALSE(verifier_->refuted());
  EXPECT_EQ(stats_->verified_rows, 0U);
}

TEST_F(VerificationTest, WeightsThatAreWrittenToBetweenTheRunsRefuteNothing) {
  for (const Mode mode : {Mode::kVerify, Mode::kAlarm}) {
    backend_->model = [this](const at::Tensor& x) { return x * (backend_->runs == 1 ? 2 : 3); };
    verify(mode, 1);
    run(8);
    expect_answers_alone();
    EXPECT_FALSE(verifier_->refuted());
  }
}

TEST_F(VerificationTest, WeightsThatKeepMovingRefuteNothing) {
  backend_->model = [this](const at::Tensor& x) { return x + 0.1 * backend_->runs; };
  verify(Mode::kAlarm, 1);
  for (int batch = 0; batch < 5; ++batch) {
    run(8);
    EXPECT_FALSE(verifier_->refuted());
    for (const auto& request : requests_) EXPECT_EQ(request->state(), RequestState::kSucceeded);
  }
}

TEST_F(VerificationTest, ACallThatIsWrittenToMeanwhileRefutesNothing) {
  verify(Mode::kVerify, 1);
  const auto call = add(at::rand({1, 3}));
  call->versions = {static_cast<std::int64_t>(call->inputs[0]._version())};
  const auto other = add(at::rand({1, 3}));
  backend_->model = [&](const at::Tensor& x) {
    if (backend_->runs == 1) call->inputs[0].add_(1);
    return backend_->runs == 1 ? x * 3 : x * 2;
  };
  run();
  EXPECT_FALSE(verifier_->refuted());
  EXPECT_EQ(call->state(), RequestState::kFailed);
  EXPECT_TRUE(at::allclose(other->outputs[0], other->inputs[0] * 2));
}

TEST_F(VerificationTest, WhatHasNoRoomAloneIsNotKnown) {
  for (const Mode mode : {Mode::kVerify, Mode::kAlarm}) {
    backend_->model = [this](const at::Tensor& x) {
      if (backend_->runs == 2) throw std::bad_alloc();
      return x * 2;
    };
    verify(mode, 1);
    run(8);
    for (const auto& request : requests_) {
      ASSERT_EQ(request->state(), RequestState::kSucceeded);
      EXPECT_TRUE(at::allclose(request->outputs[0], request->inputs[0] * 2));
    }
    EXPECT_FALSE(verifier_->refuted());
    EXPECT_EQ(backend_->runs, mode == Mode::kVerify ? 10 : 2) << "what is proven needs no run alone";
  }
}

// Tensors without memory are such; they can be taken apart.
TEST_F(VerificationTest, OutputsThatCannotBeComparedRefuteNothingAndCostNothingOfTheShare) {
  const auto model = backend_->model;
  const auto without_memory = [&](const at::Tensor& x) { return model(x).to(at::kMeta); };
  verify(Mode::kAlarm, 0.1);
  backend_->model = without_memory;
  for (int batch = 0; batch < 10; ++batch) {
    run(8);
    EXPECT_EQ(backend_->runs, 1);
    EXPECT_EQ(requests_[7]->state(), RequestState::kSucceeded);
  }
  backend_->model = model;
  run(8);
  EXPECT_EQ(backend_->runs, 2) << "the tenth batch's look has given back its part of the share";
  EXPECT_FALSE(verifier_->refuted());
  backend_->model = without_memory;
  verify(Mode::kVerify, 1);
  run(8);
  EXPECT_EQ(backend_->runs, 9) << "what is not proven is answered alone";
  EXPECT_FALSE(verifier_->refuted());
}

TEST_F(VerificationTest, ResultsWithoutValuesProveNothing) {
  backend_->model = [](const at::Tensor& x) { return x.narrow(1, 0, 0); };
  verify(Mode::kVerify, 0);
  for (int batch = 0; batch < 130; ++batch) {
    run(8);
    EXPECT_EQ(backend_->runs, 9);
  }
  EXPECT_EQ(stats_->verified_rows, 0U);
}

TEST_F(VerificationTest, AnUnprovenCallIsNeverRunInParts) {
  backend_->model = with_sum_of_all;
  runner_->set_max_rows(2);
  verify(Mode::kVerify, 1);
  add(at::rand({6, 3}));
  run();
  expect_answers_alone();
  EXPECT_EQ(backend_->runs, 1);
}

// Mixes the rows of what it is given. Any number of workers at a time.
class MixingBackend : public Backend {
 public:
  std::string name() const override { return "mixing"; }
  Lane lane() const noexcept override { return Lane::kCompute; }
  bool runs_module() const noexcept override { return true; }
  BackendResult run(const CallForm& /*form*/, std::vector<at::Tensor> inputs, const AmbientState* /*ambient*/,
                    WorkerContext& /*context*/) override {
    return {{with_sum_of_all(inputs[0])}, nullptr};
  }
};

TEST(Verification, ManyWorkersFindOneDifferenceAndNoCallIsWrong) {
  PlainReclaimer reclaimer;
  const auto stats = std::make_shared<ChannelStats>();
  const auto runner = std::make_shared<BatchRunner>(std::make_shared<MixingBackend>(), stats, Clock::steady());
  Contract mixed = row_contract(3);
  mixed.verifier = std::make_shared<Verifier>(Mode::kVerify, 0.5);
  const auto contract = std::make_shared<const Contract>(std::move(mixed));
  RuntimeOptions options;
  options.workers = 4;
  Runtime runtime(options);
  ChannelOptions merging;
  merging.max_rows = merging.first_rows = 8;
  const auto channel = runtime.open(merging, runner, stats);
  std::vector<std::shared_ptr<CallRequest>> requests;
  for (int i = 0; i < 400; ++i) {
    requests.push_back(make_request(contract, {at::full({1, 3}, static_cast<float>(i))}, reclaimer));
    channel->submit(requests.back(), Admission::kBlock, kNever);
  }
  EXPECT_TRUE(channel->wait_drained(kNever));
  for (const auto& request : requests) {
    ASSERT_EQ(request->state(), RequestState::kSucceeded);
    EXPECT_TRUE(at::allclose(request->outputs[0], with_sum_of_all(request->inputs[0])));
  }
  EXPECT_EQ(stats->refuted, contract->verifier->refuted() ? 1U : 0U);
  runtime.close();
}

}  // namespace
}  // namespace torchpool::testing
