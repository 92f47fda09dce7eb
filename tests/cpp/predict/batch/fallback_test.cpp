// Calls that their own backend cannot serve go on to the predictor's, on that one's lane.
#include <gmock/gmock.h>

#include <atomic>
#include <functional>

#include "core/sync/parker.h"
#include "predict/batch/batch_runner.h"
#include "predict/graph/guard.h"
#include "predict/test_support.h"

namespace torchpool::testing {
namespace {

class ScriptedBackend : public Backend {
 public:
  ScriptedBackend(Lane lane, std::function<at::Tensor(const at::Tensor&)> function)
      : lane_(lane), function_(std::move(function)) {}
  std::string name() const override { return "scripted"; }
  Lane lane() const noexcept override { return lane_; }
  BackendResult run(const CallForm& /*form*/, std::vector<at::Tensor> inputs, const AmbientState* /*ambient*/,
                    WorkerContext& context) override {
    EXPECT_EQ(context.lane, lane_);
    ++runs;
    if (inputs[0].size(0) > largest) largest = inputs[0].size(0);
    return {{function_(inputs[0])}, nullptr};
  }
  bool upkeep_due() const noexcept override { return due; }
  void upkeep() override {
    due = false;
    kept_up.unpark();
    if (upkeep_fails) throw std::runtime_error("no memory");
  }
  std::atomic<int> runs{0};
  std::atomic<std::int64_t> largest{0};  // rows of a run
  std::atomic<bool> due{false};
  std::atomic<bool> upkeep_fails{false};
  Parker kept_up;

 private:
  const Lane lane_;
  const std::function<at::Tensor(const at::Tensor&)> function_;
};

class FallbackTest : public ::testing::Test {
 protected:
  FallbackTest() {
    ChannelOptions options;
    options.max_rows = 8;
    channel_ = runtime_.open(options, runner_, stats_);
    options.lane = Lane::kInterpreter;
    other_ = runtime_.open(options, fallback_, stats_);
  }
  ~FallbackTest() override { runtime_.close(); }

  std::shared_ptr<CallRequest> submit(const at::Tensor& input, const std::shared_ptr<Backend>& backend) {
    auto request = make_request(contract_, {input}, reclaimer_);
    request->backend = backend;
    channel_->submit(request, Admission::kBlock, kNever);
    return request;
  }
  static at::Tensor result_of(CallRequest& request) {
    Parker parker;
    EXPECT_TRUE(request.wait_until(parker, kNever));
    if (request.error()) std::rethrow_exception(request.error());
    return request.outputs.at(0);
  }

  PlainReclaimer reclaimer_;
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  std::shared_ptr<const Contract> contract_ = std::make_shared<Contract>(row_contract(3));
  std::shared_ptr<ScriptedBackend> module_ =
      std::make_shared<ScriptedBackend>(Lane::kInterpreter, [](const at::Tensor& x) {
        if (x.lt(0).any().item<bool>()) throw std::invalid_argument("the module's own error");
        return x * 2;
      });
  std::shared_ptr<BatchRunner> fallback_ = std::make_shared<BatchRunner>(module_, stats_, Clock::steady());
  std::shared_ptr<BatchRunner> runner_ = std::make_shared<BatchRunner>(nullptr, stats_, Clock::steady(), fallback_);
  Runtime runtime_;
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<Channel> other_;
};

TEST_F(FallbackTest, CallsThatTheGraphDoesNotHoldForAreServedByTheModuleOneByOne) {
  const auto graph = std::make_shared<ScriptedBackend>(
      Lane::kCompute, [](const at::Tensor&) -> at::Tensor { throw graph::GuardFailed("another length"); });
  std::vector<std::shared_ptr<CallRequest>> requests;
  for (int i = 0; i < 50; ++i) requests.push_back(submit(at::full({1, 3}, static_cast<float>(i)), graph));
  for (int i = 0; i < 50; ++i)
    EXPECT_TRUE(
        at::equal(result_of(*requests[static_cast<std::size_t>(i)]), at::full({1, 3}, static_cast<float>(2 * i))));
  EXPECT_EQ(stats_->accepted, stats_->resolved());
  EXPECT_EQ(stats_->fell_back, 50U);
  EXPECT_EQ(module_->largest, 1) << "the module's own batches are not proven";
  EXPECT_EQ(module_->runs, 50);
}

TEST_F(FallbackTest, TheModuleGetsALargeCallAsAWhole) {
  fallback_->set_max_rows(2);
  const auto graph = std::make_shared<ScriptedBackend>(
      Lane::kCompute, [](const at::Tensor&) -> at::Tensor { throw graph::GuardFailed("another length"); });
  const auto request = submit(at::ones({6, 3}), graph);
  EXPECT_TRUE(at::equal(result_of(*request), at::full({6, 3}, 2.0F)));
  EXPECT_EQ(module_->largest, 6);
}

TEST_F(FallbackTest, OnlyTheCallsThatFailAreRunAgainAndRaiseTheModulesError) {
  const auto graph = std::make_shared<ScriptedBackend>(Lane::kCompute, [](const at::Tensor& x) {
    if (x.lt(0).any().item<bool>()) throw std::runtime_error("an operator's error");
    return x * 2;
  });
  const auto good = submit(at::ones({1, 3}), graph);
  const auto bad = submit(at::full({1, 3}, -1.0F), graph);
  EXPECT_TRUE(at::equal(result_of(*good), at::full({1, 3}, 2.0F)));
  EXPECT_THROW(result_of(*bad), std::invalid_argument);
  EXPECT_EQ(module_->runs, 1);
  EXPECT_EQ(stats_->fell_back, 1U);
}

TEST_F(FallbackTest, UpkeepRunsBehindTheCalls) {
  const auto graph = std::make_shared<ScriptedBackend>(Lane::kCompute, [](const at::Tensor& x) { return x + 1; });
  graph->due = true;
  const auto request = submit(at::ones({1, 3}), graph);
  EXPECT_TRUE(at::equal(result_of(*request), at::full({1, 3}, 2.0F)));
  graph->kept_up.park();
  EXPECT_TRUE(channel_->wait_drained(kNever));
  EXPECT_EQ(stats_->upkeep_failed, 0U);
}

TEST_F(FallbackTest, UpkeepThatFailsIsCountedAndHurtsNoCall) {
  const auto graph = std::make_shared<ScriptedBackend>(Lane::kCompute, [](const at::Tensor& x) { return x + 1; });
  graph->due = graph->upkeep_fails = true;
  for (int call = 0; call < 2; ++call) {
    const auto request = submit(at::ones({1, 3}), graph);
    EXPECT_TRUE(at::equal(result_of(*request), at::full({1, 3}, 2.0F)));
    EXPECT_TRUE(channel_->wait_drained(kNever));
  }
  EXPECT_EQ(stats_->upkeep_failed, 1U);
  EXPECT_EQ(stats_->fell_back, 0U);
}

}  // namespace
}  // namespace torchpool::testing
