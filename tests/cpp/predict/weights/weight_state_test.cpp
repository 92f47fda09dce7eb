#include "predict/weights/weight_state.h"

#include <gtest/gtest.h>

namespace torchpool {
namespace {

using Phase = WeightState::Phase;

class WeightStateTest : public ::testing::Test {
 protected:
  void look(bool changed) { state.looked(state.epoch(), changed); }
  void rest(int looks) {
    for (int i = 0; i < looks; ++i) look(false);
  }
  void pack() {
    ASSERT_TRUE(state.should_pack());
    state.start_packing();
    state.packed(state.epoch());
    ASSERT_EQ(state.phase(), Phase::kPacked);
  }

  WeightState state{{.quick_changes = 2, .rest = 4, .most_rest = 16}};
};

TEST_F(WeightStateTest, StartsUnpacked) {
  EXPECT_EQ(state.phase(), Phase::kStale);
  pack();
  EXPECT_FALSE(state.should_pack());
}

TEST_F(WeightStateTest, OneChangeIsPackedAtOnce) {
  pack();
  look(true);
  EXPECT_EQ(state.phase(), Phase::kStale);
  pack();
}

TEST_F(WeightStateTest, ChangesInARowAreReadUnpackedUntilTheyRest) {
  pack();
  for (int i = 0; i < 5; ++i) look(true);
  EXPECT_EQ(state.phase(), Phase::kMoving);
  EXPECT_FALSE(state.should_pack());
  rest(3);
  EXPECT_EQ(state.phase(), Phase::kMoving);
  rest(1);
  pack();
}

TEST_F(WeightStateTest, AQuietLookBetweenTwoChangesIsNoRest) {
  pack();
  look(true);
  rest(1);
  look(true);
  EXPECT_EQ(state.phase(), Phase::kMoving);
}

TEST_F(WeightStateTest, ChangesFarApartAreEachPacked) {
  pack();
  for (int i = 0; i < 5; ++i) {
    rest(4);
    look(true);
    pack();
  }
}

TEST_F(WeightStateTest, WeightsThatMoveAgainAfterPackingMustRestLonger) {
  look(true);
  look(true);
  for (const int needed : {4, 8, 16, 16}) {
    ASSERT_EQ(state.phase(), Phase::kMoving);
    rest(needed - 1);
    ASSERT_EQ(state.phase(), Phase::kMoving) << needed;
    rest(1);
    pack();
    look(true);
  }
}

TEST_F(WeightStateTest, PatienceIsBackAfterALongRest) {
  look(true);
  look(true);
  rest(4);
  pack();
  look(true);  // 8 are needed now
  rest(8);
  pack();
  rest(8);
  look(true);
  EXPECT_EQ(state.phase(), Phase::kStale);
  look(true);
  rest(4);
  EXPECT_EQ(state.phase(), Phase::kStale);
}

TEST_F(WeightStateTest, SeveralWorkersSeeOneChangeOnce) {
  pack();
  const std::uint64_t epoch = state.epoch();
  state.looked(epoch, true);
  state.looked(epoch, true);
  state.looked(epoch, false);
  EXPECT_EQ(state.epoch(), epoch + 1);
  EXPECT_EQ(state.phase(), Phase::kStale);
}

TEST_F(WeightStateTest, ACopyOfWeightsThatChangedMeanwhileIsNotUsed) {
  state.start_packing();
  const std::uint64_t epoch = state.epoch();
  look(true);
  EXPECT_FALSE(state.should_pack()) << "one at a time";
  state.packed(epoch);
  EXPECT_EQ(state.phase(), Phase::kStale);
  EXPECT_TRUE(state.should_pack());
}

TEST_F(WeightStateTest, APackingThatFailsIsTriedAgainOnceTheWeightsChanged) {
  state.start_packing();
  EXPECT_FALSE(state.should_pack());
  state.packing_failed(state.epoch());
  EXPECT_FALSE(state.should_pack());
  rest(64);
  EXPECT_FALSE(state.should_pack());
  look(true);
  pack();
}

TEST_F(WeightStateTest, APackingThatFailsWhileTheWeightsChangeMayBeTriedAgain) {
  state.start_packing();
  const std::uint64_t epoch = state.epoch();
  look(true);
  state.packing_failed(epoch);
  pack();
}

TEST_F(WeightStateTest, ACopyThatIsGoneIsMadeAgain) {
  const std::uint64_t before = state.epoch();
  look(true);
  pack();
  state.lost(before);  // old news
  EXPECT_EQ(state.phase(), Phase::kPacked);
  state.lost(state.epoch());
  pack();
}

}  // namespace
}  // namespace torchpool
