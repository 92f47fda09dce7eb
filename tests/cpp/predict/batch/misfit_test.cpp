// Results that are not what the contract says: whatever a batch gives, each call gets what it would get alone.
#include <functional>

#include "core/sync/error.h"
#include "predict/batch/batch_runner.h"
#include "predict/graph/guard.h"
#include "predict/test_support.h"

namespace torchpool::testing {
namespace {

class NamedForm : public ResultForm {
 public:
  explicit NamedForm(std::string text) : name(std::move(text)) {}
  bool same_as(const ResultForm& other) const noexcept override {
    return name == static_cast<const NamedForm&>(other).name;
  }
  const std::string name;
};

std::shared_ptr<const ResultForm> form(const std::string& name) {
  return std::make_shared<const NamedForm>(name);
}

class FunctionBackend : public Backend {
 public:
  using Function = std::function<BackendResult(const at::Tensor&)>;
  FunctionBackend(Function function, bool module) : function_(std::move(function)), module_(module) {}
  std::string name() const override { return "function"; }
  Lane lane() const noexcept override { return Lane::kCompute; }
  bool runs_module() const noexcept override { return module_; }
  BackendResult run(const CallForm& /*form*/, std::vector<at::Tensor> inputs, const AmbientState* /*ambient*/,
                    WorkerContext& /*context*/) override {
    sizes.push_back(inputs[0].sizes().vec());
    return function_(inputs[0]);
  }
  std::vector<std::vector<std::int64_t>> sizes;  // of the runs' inputs

 private:
  const Function function_;
  const bool module_;
};

class MisfitTest : public ::testing::Test {
 protected:
  void serve(FunctionBackend::Function function, bool module = true) {
    backend_ = std::make_shared<FunctionBackend>(std::move(function), module);
    runner_ = std::make_shared<BatchRunner>(backend_, stats_, Clock::steady());
  }
  std::shared_ptr<CallRequest> add(const at::Tensor& input) {
    auto request = make_request(std::make_shared<Contract>(contract_), {input}, reclaimer_);
    if (!requests_.empty()) request->contract = requests_.front()->contract;
    request->result_form = form("tensor");
    EXPECT_TRUE(request->mark_queued(stats_));
    EXPECT_TRUE(request->try_start());
    requests_.push_back(request);
    return request;
  }
  BatchRunner::Left run() {
    WorkerContext context;
    auto left = runner_->run(requests_, context);
    typical_ = context.typical;
    return left;
  }
  static const at::Tensor& output(const std::shared_ptr<CallRequest>& request) {
    EXPECT_EQ(request->state(), RequestState::kSucceeded);
    return request->outputs.at(0);
  }
  const std::string& form_of(std::size_t i) const {
    return static_cast<const NamedForm&>(*requests_[i]->result_form).name;
  }

  PlainReclaimer reclaimer_;
  Contract contract_ = row_contract(3);
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  std::shared_ptr<FunctionBackend> backend_;
  std::shared_ptr<BatchRunner> runner_;
  std::vector<std::shared_ptr<CallRequest>> requests_;
  bool typical_ = true;
};

at::Tensor positive_rows(const at::Tensor& x) {
  return x.index({x.select(1, 0) > 0}) * 2;
}

TEST_F(MisfitTest, AModelThatLeavesOutRowsGivesEachCallItsOwn) {
  serve([](const at::Tensor& x) { return BackendResult{{positive_rows(x)}, nullptr}; });
  for (const float value : {1.0F, -1.0F, 2.0F, 3.0F}) add(at::full({1, 3}, value));
  add(at::tensor({4.0F, -5.0F}).view({2, 1}).expand({2, 3}).contiguous());
  EXPECT_TRUE(run().empty());
  EXPECT_FALSE(typical_);
  for (const auto& request : requests_) {
    EXPECT_TRUE(at::equal(output(request), positive_rows(request->inputs[0])));
  }
  EXPECT_EQ(backend_->sizes.size(), 6U) << "the batch, and each call";
}

TEST_F(MisfitTest, ABatchWithoutARowLeftOutStaysTogether) {
  serve([](const at::Tensor& x) { return BackendResult{{positive_rows(x)}, nullptr}; });
  for (int i = 0; i < 4; ++i) add(at::ones({1, 3}));
  EXPECT_TRUE(run().empty());
  EXPECT_TRUE(typical_);
  EXPECT_EQ(backend_->sizes.size(), 1U);
}

TEST_F(MisfitTest, AnotherNumberOfOutputsIsRunAlone) {
  serve([](const at::Tensor& x) {
    return BackendResult{x.size(0) > 1 ? std::vector{x, x} : std::vector{x + 1}, form("tensor")};
  });
  add(at::ones({1, 3}));
  add(at::ones({1, 3}));
  EXPECT_TRUE(run().empty());
  for (const auto& request : requests_) EXPECT_TRUE(at::equal(output(request), at::full({1, 3}, 2.0F)));
}

TEST_F(MisfitTest, AnotherStructureIsRunAloneAndACallKeepsItsOwn) {
  serve([](const at::Tensor& x) {
    return BackendResult{{x.clone()}, form(x.lt(0).any().item<bool>() ? "list" : "tensor")};
  });
  add(at::ones({1, 3}));
  add(at::full({1, 3}, -1.0F));
  EXPECT_TRUE(run().empty());
  EXPECT_EQ(form_of(0), "tensor");
  EXPECT_EQ(form_of(1), "list");
  EXPECT_EQ(backend_->sizes.size(), 3U);
}

TEST_F(MisfitTest, AnotherSizeOfWhatIsTrimmedIsRunAlone) {
  contract_.inputs = {float_input({batch(), symbol(0)})};
  contract_.padded = {true};
  contract_.outputs = {rows_output({{1, 0, 1, 0}})};
  serve([](const at::Tensor& x) { return BackendResult{{x.size(0) > 1 ? x.narrow(1, 0, 1) : x + 1}, nullptr}; });
  add(at::ones({1, 4}));
  add(at::ones({1, 2}));
  EXPECT_TRUE(run().empty());
  for (const auto& request : requests_) EXPECT_TRUE(at::equal(output(request), request->inputs[0] + 1));
}

TEST_F(MisfitTest, ALoneCallReachesTheModuleAsItWasMade) {
  contract_.inputs = {float_input({fixed(3)})};
  contract_.inputs[0].stacked = true;
  contract_.outputs[0].stacked = true;
  serve([](const at::Tensor& x) { return BackendResult{{x * 2}, nullptr}; });
  add(at::rand({3}));
  EXPECT_TRUE(run().empty());
  EXPECT_TRUE(at::equal(output(requests_[0]), requests_[0]->inputs[0] * 2));
  EXPECT_EQ(backend_->sizes, (std::vector<std::vector<std::int64_t>>{{3}}));
}

TEST_F(MisfitTest, ALoneCallSharesNoMemoryWithWhatTheModelKeeps) {
  contract_.aliases = true;
  const at::Tensor kept = at::rand({1, 3});
  serve([&](const at::Tensor& /*x*/) { return BackendResult{{kept}, nullptr}; });
  add(at::rand({1, 3}));
  EXPECT_TRUE(run().empty());
  EXPECT_FALSE(output(requests_[0]).is_alias_of(kept));
}

TEST_F(MisfitTest, WithoutAStructureTheNumberOfALoneCallsOutputsIsTheKinds) {
  serve([](const at::Tensor& x) { return BackendResult{{x, x}, nullptr}; });
  add(at::ones({1, 3}));
  EXPECT_TRUE(run().empty());
  EXPECT_THROW(std::rethrow_exception(requests_[0]->error()), Error);
}

TEST_F(MisfitTest, AGraphsMisfitsGoToTheFallbackOneByOne) {
  serve([](const at::Tensor& x) { return BackendResult{{positive_rows(x)}, nullptr}; }, false);
  const auto module =
      std::make_shared<FunctionBackend>([](const at::Tensor& x) { return BackendResult{{x + 1}, nullptr}; }, true);
  runner_ = std::make_shared<BatchRunner>(backend_, stats_, Clock::steady(),
                                          std::make_shared<BatchRunner>(module, stats_, Clock::steady()));
  for (const float value : {1.0F, -1.0F, 2.0F}) add(at::full({1, 3}, value));
  const auto left = run();
  ASSERT_EQ(left.size(), 1U);
  EXPECT_EQ(left[0], requests_[1]);
  EXPECT_TRUE(at::equal(output(requests_[0]), at::full({1, 3}, 2.0F)));
  EXPECT_TRUE(at::equal(output(requests_[2]), at::full({1, 3}, 4.0F)));
}

TEST_F(MisfitTest, PartsThatDoNotFitAreRunAsAWhole) {
  serve([](const at::Tensor& x) { return BackendResult{{positive_rows(x)}, nullptr}; });
  runner_->set_max_rows(2);
  add(at::tensor({4.0F, 5.0F, -5.0F}).view({3, 1}).expand({3, 3}).contiguous());
  EXPECT_TRUE(run().empty());
  EXPECT_TRUE(at::equal(output(requests_[0]), positive_rows(requests_[0]->inputs[0])));
  EXPECT_EQ(backend_->sizes.back(), (std::vector<std::int64_t>{3, 3}));
}

TEST_F(MisfitTest, APartThatIsRefusedIsNoFailureOfTheCall) {
  serve([](const at::Tensor& x) {
    if (x.size(0) == 1) throw std::invalid_argument("one row");
    return BackendResult{{x + 1}, nullptr};
  });
  runner_->set_max_rows(2);
  add(at::ones({3, 3}));
  EXPECT_TRUE(run().empty());
  EXPECT_TRUE(at::equal(output(requests_[0]), at::full({3, 3}, 2.0F)));
}

TEST_F(MisfitTest, CallsThatCountAsUnitsNeverRunInParts) {
  contract_.call_rows = 4;
  serve([](const at::Tensor& x) { return BackendResult{{x.view({-1, 4, 3}).sum(1)}, nullptr}; }, false);
  runner_->set_max_rows(2);
  add(at::rand({4, 3}));
  add(at::rand({4, 3}));
  EXPECT_TRUE(run().empty());
  for (const auto& request : requests_) {
    EXPECT_TRUE(at::allclose(output(request), request->inputs[0].sum(0, true)));
  }
  const auto alone = add(at::rand({4, 3}));
  requests_ = {alone};
  EXPECT_TRUE(run().empty());
  EXPECT_TRUE(at::allclose(output(alone), alone->inputs[0].sum(0, true)));
  EXPECT_EQ(backend_->sizes, (std::vector<std::vector<std::int64_t>>{{8, 3}, {4, 3}}));
}

TEST_F(MisfitTest, FoldedPartsAreJoinedInTheFoldedOrder) {
  contract_.outputs[0].outer = 2;
  contract_.outputs[0].inner = 3;
  const auto model = [](const at::Tensor& x) { return at::stack({x, x * 2}).flatten(); };
  serve([&](const at::Tensor& x) { return BackendResult{{model(x)}, nullptr}; });
  runner_->set_max_rows(2);
  add(at::rand({5, 3}));
  EXPECT_TRUE(run().empty());
  EXPECT_TRUE(at::equal(output(requests_[0]), model(requests_[0]->inputs[0])));
  EXPECT_EQ(backend_->sizes.size(), 3U);
}

}  // namespace
}  // namespace torchpool::testing
