#include "predict/weights/weight_watch.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace torchpool {
namespace {

struct Weights {
  at::Tensor weight = at::rand({64, 32});
  at::Tensor bias = at::rand({64});
  WeightWatch watch() const { return WeightWatch({weight, bias}); }
};

// As `tensor.data = other` does: the same tensor object, another storage and form.
void set_data(at::Tensor& tensor, const at::Tensor& other) {
  tensor.set_data(other);
}

TEST(WeightWatch, SaysNothingOfWeightsThatRest) {
  Weights weights;
  const WeightWatch watch = weights.watch();
  const WeightFingerprint before = watch.take();
  EXPECT_TRUE(watch.same(before));
  EXPECT_EQ(watch.take(), before);
  EXPECT_EQ(watch.form_change(), WeightChange::kSame);
}

TEST(WeightWatch, SeesAWriteThatTorchCounts) {
  Weights weights;
  const WeightWatch watch = weights.watch();
  const WeightFingerprint before = watch.take();
  weights.weight[17].fill_(1.0);  // hits no sample, but bumps the version through the view
  EXPECT_FALSE(watch.same(before));
  EXPECT_EQ(watch.form_change(), WeightChange::kSame);
  EXPECT_TRUE(watch.same(watch.take()));
}

TEST(WeightWatch, SeesAWriteThatTorchDoesNotCount) {
  Weights weights;
  const WeightWatch watch = weights.watch();
  for (const at::Tensor& tensor : {weights.weight, weights.bias}) {
    const WeightFingerprint before = watch.take();
    const auto version = tensor._version();
    tensor.variable_data().mul_(2);
    ASSERT_EQ(tensor._version(), version);
    EXPECT_FALSE(watch.same(before));
  }
}

TEST(WeightWatch, SeesSignsThatAreAllFlipped) {
  Weights weights;
  const WeightWatch watch = weights.watch();
  const WeightFingerprint before = watch.take();
  weights.weight.variable_data().neg_();
  EXPECT_FALSE(watch.same(before));
}

TEST(WeightWatch, SamplesTheFirstAndTheLastValue) {
  Weights weights;
  const WeightWatch watch = weights.watch();
  auto* values = weights.weight.data_ptr<float>();
  for (const std::int64_t at : {std::int64_t{0}, weights.weight.numel() - 1}) {
    const WeightFingerprint before = watch.take();
    values[at] += 1;
    EXPECT_FALSE(watch.same(before));
  }
}

TEST(WeightWatch, ReadsAllOfASmallTensor) {
  const at::Tensor small = at::zeros({15});
  const WeightWatch watch({small});
  for (std::int64_t i = 0; i < small.numel(); ++i) {
    const WeightFingerprint before = watch.take();
    small.data_ptr<float>()[i] = 1;
    EXPECT_FALSE(watch.same(before)) << i;
  }
}

TEST(WeightWatch, ARawWriteBetweenTheSamplesLeavesNoTrace) {
  constexpr auto kLarge = static_cast<std::int64_t>(WeightWatch::kReadInside / sizeof(float));
  for (const std::int64_t size : {kLarge - 1, kLarge}) {
    const at::Tensor big = at::zeros({size});
    auto* values = big.data_ptr<float>();
    const WeightWatch watch({big});
    const WeightFingerprint before = watch.take();
    std::int64_t seen = 0;
    for (std::int64_t i = 0; i < big.numel(); ++i) {
      values[i] = 1;
      seen += watch.same(before) ? 0 : 1;
      values[i] = 0;
    }
    const std::size_t samples = 2 + (size < kLarge ? 0 : WeightWatch::kInside);
    EXPECT_EQ(seen, static_cast<std::int64_t>(2 * samples) - size % 2) << "two floats a sample, one at an odd end";
  }
}

TEST(WeightWatch, FingerprintsOfATensorDoNotDependOnTheOthers) {
  const at::Tensor small = at::rand({7});
  const at::Tensor big = at::rand({1 << 18});
  const WeightFingerprint one = WeightWatch({small, big}).take();
  const WeightFingerprint other = WeightWatch({big, small}).take();
  EXPECT_EQ(one.samples[0], other.samples[1]);
  EXPECT_EQ(one.samples[1], other.samples[0]);
}

TEST(WeightWatch, ReadsTensorsThatAreSmallerThanAWord) {
  for (const std::int64_t size : {1, 2, 3, 5, 7, 9, 13}) {
    const at::Tensor bytes = at::zeros({size}, at::kByte);
    const WeightWatch watch({bytes});
    for (std::int64_t i = 0; i < size; ++i) {
      const WeightFingerprint before = watch.take();
      bytes.data_ptr<std::uint8_t>()[i] = 1;
      EXPECT_FALSE(watch.same(before)) << i << " of " << size;
    }
  }
}

TEST(WeightWatch, NeighboursInTheSameStorageDoNotMatter) {
  const at::Tensor flat = at::zeros({7}, at::kByte);
  const WeightWatch watch({flat.slice(0, 0, 2), flat.slice(0, 5, 7)});
  const WeightFingerprint before = watch.take();
  for (std::int64_t i = 2; i < 5; ++i) flat.data_ptr<std::uint8_t>()[i] = 1;
  EXPECT_TRUE(watch.same(before));
  flat.data_ptr<std::uint8_t>()[5] = 1;
  EXPECT_FALSE(watch.same(before));
}

TEST(WeightWatch, SamplesViewsAtTheirOwnElements) {
  const at::Tensor base = at::zeros({40, 40});
  const at::Tensor column = base.select(1, 7);
  const WeightWatch watch({column});
  const WeightFingerprint before = watch.take();
  base.data_ptr<float>()[8] = 1;  // beside the column
  EXPECT_TRUE(watch.same(before));
  base.data_ptr<float>()[7] = 1;
  EXPECT_FALSE(watch.same(before));
}

TEST(WeightWatch, OtherDataOfTheSameFormAreOtherValues) {
  Weights weights;
  const WeightWatch watch = weights.watch();
  const WeightFingerprint before = watch.take();
  set_data(weights.weight, at::rand({64, 32}));
  EXPECT_EQ(watch.form_change(), WeightChange::kValues);
  EXPECT_TRUE(watch.same(before)) << "the handles have the storage of before: workers finish on the old weights";
}

TEST(WeightWatch, AnotherDtypeShapeOrLayoutIsAnotherForm) {
  for (const at::Tensor& other : {at::rand({64, 32}, at::kDouble), at::rand({32, 64}), at::rand({32, 64}).t()}) {
    Weights weights;
    const WeightWatch watch = weights.watch();
    set_data(weights.weight, other);
    EXPECT_EQ(watch.form_change(), WeightChange::kMeta);
  }
}

TEST(WeightWatch, AViewOfItsOwnMemoryIsAnotherForm) {
  at::Tensor square = at::rand({8, 8});
  const WeightWatch watch({square});
  set_data(square, square.variable_data().t());
  EXPECT_EQ(watch.form_change(), WeightChange::kMeta);
}

TEST(WeightWatch, HandlesOutliveOtherData) {
  Weights weights;
  const at::Tensor before = weights.weight.clone();
  const WeightWatch watch = weights.watch();
  EXPECT_EQ(watch.handles()[0].data_ptr(), weights.weight.data_ptr());
  set_data(weights.weight, at::rand({64, 32}));
  EXPECT_TRUE(at::equal(watch.handles()[0], before));
}

TEST(WeightWatch, WatchesInferenceTensorsBySamples) {
  at::Tensor tensor;
  {
    const c10::InferenceMode inference;
    tensor = at::rand({64, 32});
  }
  ASSERT_TRUE(tensor.is_inference());
  const WeightWatch watch({tensor});
  const WeightFingerprint before = watch.take();
  EXPECT_TRUE(watch.same(before));
  {
    const c10::InferenceMode inference;
    tensor.mul_(2);
  }
  EXPECT_FALSE(watch.same(before));
}

TEST(WeightWatch, TakesTensorsWithoutMemory) {
  const at::Tensor meta = at::empty({4, 4}, at::TensorOptions(at::kMeta));
  const at::Tensor sparse = at::eye(4).to_sparse();
  const WeightWatch watch({meta, sparse, at::empty({0, 3}), at::rand({}), at::eye(3, at::kBool)});
  EXPECT_TRUE(watch.same(watch.take()));
  EXPECT_EQ(watch.form_change(), WeightChange::kSame);
}

TEST(WeightWatch, MemoryThatIsTakenAwayIsAChange) {
  Weights weights;
  const WeightWatch watch = weights.watch();
  const WeightFingerprint before = watch.take();
  auto* storage = weights.weight.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
  storage->set_data_ptr(at::DataPtr(nullptr, at::kCPU));
  storage->set_nbytes(0);
  EXPECT_FALSE(watch.same(before));
}

TEST(WeightWatch, MemoryThatMovesWithItsContentsIsNone) {
  Weights weights;
  const WeightWatch watch = weights.watch();
  const WeightFingerprint before = watch.take();
  const at::Tensor moved = weights.weight.clone();  // as share_memory() does
  moved.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()->swap_data_ptr(
      *weights.weight.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
  EXPECT_TRUE(watch.same(before));
}

TEST(WeightWatch, GivesUpAllItsTensors) {
  Weights weights;
  WeightWatch watch = weights.watch();
  EXPECT_EQ(std::move(watch).release().size(), 4);
  EXPECT_EQ(weights.weight.use_count(), 1);
}

// Under a sanitizer this shows that a look reads nothing that other data free.
TEST(WeightWatch, LooksWhileOthersSetData) {
  Weights weights;
  const WeightWatch watch = weights.watch();
  const WeightFingerprint before = watch.take();
  std::atomic<bool> stop{false};
  std::thread looker([&] {
    while (!stop.load()) EXPECT_TRUE(watch.same(before));
  });
  for (int i = 0; i < 200; ++i) set_data(weights.weight, at::full({64, 32}, 0.5 * i));
  stop.store(true);
  looker.join();
  EXPECT_EQ(watch.form_change(), WeightChange::kValues);
}

}  // namespace
}  // namespace torchpool
