#include "predict/batch/batch_runner.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <thread>

#include "core/sync/error.h"
#include "predict/batch/thread_scope.h"
#include "predict/graph/guard.h"
#include "predict/test_support.h"

namespace torchpool::testing {
namespace {

constexpr float kPoison = 666.0F;

// y = 2 x; refuses a batch that holds a poisoned row.
class DoublingBackend : public Backend {
 public:
  std::string name() const override { return "doubling"; }
  Lane lane() const noexcept override { return Lane::kCompute; }
  BackendResult run(const CallForm& /*form*/, std::vector<at::Tensor> inputs, const AmbientState* /*ambient*/,
                    WorkerContext& /*context*/) override {
    ++runs;
    largest = std::max(largest, inputs[0].size(0));
    if (inputs[0].eq(kPoison).any().item<bool>()) throw std::invalid_argument("poisoned");
    return {{inputs[0] * 2 + (wrong_rows ? at::zeros({inputs[0].size(0) + 1, 1}) : at::zeros({1, 1}))}, nullptr};
  }
  int runs = 0;
  std::int64_t largest = 0;
  bool wrong_rows = false;
};

class BatchRunnerTest : public ::testing::Test {
 protected:
  std::shared_ptr<CallRequest> add(const at::Tensor& input) {
    auto request = make_request(contract_, {input}, reclaimer_);
    EXPECT_TRUE(request->mark_queued(stats_));
    EXPECT_TRUE(request->try_start());
    requests_.push_back(request);
    return request;
  }
  void run() {
    WorkerContext context;
    EXPECT_TRUE(runner_->run(requests_, context).empty());
  }

  PlainReclaimer reclaimer_;
  std::shared_ptr<const Contract> contract_ = std::make_shared<Contract>(row_contract(3));
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  std::shared_ptr<DoublingBackend> backend_ = std::make_shared<DoublingBackend>();
  std::shared_ptr<BatchRunner> runner_ = std::make_shared<BatchRunner>(backend_, stats_, Clock::steady());
  std::vector<std::shared_ptr<CallRequest>> requests_;
};

TEST_F(BatchRunnerTest, EachCallGetsItsOwnRows) {
  for (int rows = 1; rows <= 4; ++rows) add(at::rand({rows, 3}));
  run();
  EXPECT_EQ(backend_->runs, 1);
  for (const auto& request : requests_) {
    ASSERT_TRUE(request->done());
    EXPECT_TRUE(at::equal(request->outputs[0], request->inputs[0] * 2));
  }
}

TEST_F(BatchRunnerTest, ABadCallFailsAloneAndItsNeighboursGetResults) {
  for (int i = 0; i < 16; ++i) add(i == 11 ? at::full({1, 3}, kPoison) : at::rand({1, 3}));
  run();
  for (int i = 0; i < 16; ++i) {
    ASSERT_TRUE(requests_[i]->done());
    EXPECT_EQ(requests_[i]->error() != nullptr, i == 11);
  }
  EXPECT_LE(backend_->runs, 9) << "one bad call in 16 is found by halving";
  EXPECT_THROW(std::rethrow_exception(requests_[11]->error()), std::invalid_argument);
}

TEST_F(BatchRunnerTest, EveryBadCallGetsAnExceptionOfItsOwn) {
  for (int i = 0; i < 2; ++i) add(at::full({1, 3}, kPoison));
  run();
  EXPECT_NE(requests_[0]->error(), requests_[1]->error());
}

TEST_F(BatchRunnerTest, WrongRowCountsAreErrorsNotResults) {
  backend_->wrong_rows = true;
  add(at::rand({2, 3}));
  run();
  EXPECT_NE(requests_[0]->error(), nullptr);
}

TEST_F(BatchRunnerTest, ACallAboveTheLimitRunsInParts) {
  runner_->set_max_rows(4);
  add(at::rand({10, 3}));
  run();
  ASSERT_EQ(requests_[0]->error(), nullptr);
  EXPECT_EQ(backend_->largest, 4);
  EXPECT_TRUE(at::equal(requests_[0]->outputs[0], requests_[0]->inputs[0] * 2));
}

// The graph was proven for up to `rows` rows.
std::shared_ptr<const Contract> up_to(std::int64_t rows) {
  graph::Guards guards;
  guards.ranges.push_back({0, 0, 1, rows});
  Contract contract = row_contract(3);
  contract.guards = std::make_shared<const graph::Guards>(std::move(guards));
  return std::make_shared<const Contract>(std::move(contract));
}

TEST_F(BatchRunnerTest, ABatchThatItsGuardsDoNotHoldForRunsOneByOne) {
  contract_ = up_to(4);
  for (int i = 0; i < 4; ++i) add(at::rand({1, 3}));
  run();
  EXPECT_EQ(backend_->runs, 1);
  requests_.clear();
  for (int i = 0; i < 5; ++i) add(at::rand({1, 3}));
  run();
  EXPECT_EQ(backend_->runs, 6);
  for (const auto& request : requests_) EXPECT_TRUE(at::equal(request->outputs[0], request->inputs[0] * 2));
}

TEST_F(BatchRunnerTest, ACallWhosePartsItsGuardsDoNotHoldForRunsAsAWhole) {
  contract_ = up_to(4);
  for (const std::int64_t part : {4, 5}) {
    backend_->largest = 0;
    runner_->set_max_rows(part);
    const auto request = add(at::rand({10, 3}));
    run();
    EXPECT_EQ(backend_->largest, part == 4 ? 4 : 10);
    EXPECT_TRUE(at::equal(request->outputs[0], request->inputs[0] * 2));
    requests_.clear();
  }
}

TEST_F(BatchRunnerTest, AnInputWrittenAfterItsSubmitIsRefused) {
  auto request = add(at::rand({1, 3}));
  request->versions = {static_cast<std::int64_t>(request->inputs[0]._version())};
  request->inputs[0].add_(1);
  run();
  ASSERT_NE(request->error(), nullptr);
  EXPECT_THROW(std::rethrow_exception(request->error()), Error);
}

TEST_F(BatchRunnerTest, InputsGoToTheReclaimerNotToTheWorker) {
  add(at::rand({1, 3}));
  run();
  EXPECT_EQ(reclaimer_.dropped, 0U);
  requests_.clear();
  EXPECT_EQ(reclaimer_.dropped, 1U);
}

// An earlier test of the same process may have set the main thread's number: a new thread tells the default.
int threads_of_a_new_thread() {
  std::atomic<int> seen{0};
  std::thread([&] { seen = at::get_num_threads(); }).join();
  return seen;
}

TEST(ThreadScope, ConcernsTheCallingThreadOnly) {
  const int before = at::get_num_threads();
  const int fresh = threads_of_a_new_thread();
  std::atomic<int> inside{0};
  std::thread([&] {
    set_intra_op_threads(3);
    inside = at::get_num_threads();
  }).join();
  EXPECT_EQ(inside, 3);
  EXPECT_EQ(at::get_num_threads(), before);
  EXPECT_EQ(threads_of_a_new_thread(), fresh);
}

TEST(ThreadScope, PutsTheThreadsSettingBack) {
  const int before = at::get_num_threads();
  {
    const IntraOpScope scope(before + 1);
    EXPECT_EQ(at::get_num_threads(), before + 1);
  }
  EXPECT_EQ(at::get_num_threads(), before);
}

}  // namespace
}  // namespace torchpool::testing
