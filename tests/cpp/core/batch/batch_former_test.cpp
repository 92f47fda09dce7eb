#include "core/batch/batch_former.h"

#include <algorithm>
#include <random>

#include "core/queue/admission_queue.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::milliseconds;
using Places = std::vector<std::size_t>;

const TimePoint kStart = TimePoint{} + std::chrono::hours(1);

// One request a millisecond.
class Waiting {
 public:
  Waiting(std::initializer_list<Spec> specs) {
    for (const Spec& spec : specs) add(spec);
  }
  void add(const Spec& spec) {
    infos_.push_back(make_info(spec));
    infos_.back().arrival = kStart + milliseconds(infos_.size() - 1);
  }
  Places form(const BatchLimits& limits) const {
    std::vector<const RequestInfo*> pointers;
    for (const RequestInfo& info : infos_) pointers.push_back(&info);
    return form_batch(pointers, limits);
  }

 private:
  std::vector<RequestInfo> infos_;
};

TEST(FormBatchTest, NothingWaitsNothingForms) {
  EXPECT_EQ(Waiting({}).form({.max_rows = 8}), Places{});
}

TEST(FormBatchTest, TakesInOrderUpToMaxRows) {
  const Waiting waiting{{}, {}, {}, {}};
  EXPECT_EQ(waiting.form({.max_rows = 3}), (Places{0, 1, 2}));
  EXPECT_EQ(waiting.form({.max_rows = 8}), (Places{0, 1, 2, 3}));
  EXPECT_EQ(waiting.form({.max_rows = 1}), (Places{0}));
}

TEST(FormBatchTest, AddsUpRowsAndStopsAtTheFirstThatDoesNotFit) {
  const Waiting waiting{{.rows = 3}, {.rows = 3}, {.rows = 4}, {.rows = 1}};
  EXPECT_EQ(waiting.form({.max_rows = 8}), (Places{0, 1}));
  EXPECT_EQ(waiting.form({.max_rows = 10}), (Places{0, 1, 2}));
}

TEST(FormBatchTest, ARequestLargerThanTheLimitsRunsAlone) {
  const Waiting waiting{{.rows = 20}, {.rows = 1}};
  EXPECT_EQ(waiting.form({.max_rows = 8}), (Places{0}));
  EXPECT_EQ(waiting.form({.max_rows = 64, .share_rows = 4}), (Places{0}));
}

TEST(FormBatchTest, AShareLimitsRowsToo) {
  const Waiting waiting{{}, {}, {}, {}, {}, {}};
  EXPECT_EQ(waiting.form({.max_rows = 8, .share_rows = 2}), (Places{0, 1}));
  EXPECT_EQ(waiting.form({.max_rows = 4, .share_rows = 5}), (Places{0, 1, 2, 3}));
}

TEST(FormBatchTest, OnlyTheSameKeyMerges) {
  const Waiting waiting{{.key = 1}, {.key = 2}, {.key = 1}};
  EXPECT_EQ(waiting.form({.max_rows = 8}), (Places{0, 2}));
}

TEST(FormBatchTest, BothHalvesOfTheKeyCount) {
  RequestInfo a;
  RequestInfo b;
  b.key.low = 1;
  const std::vector<const RequestInfo*> waiting{&a, &b};
  EXPECT_EQ(form_batch(waiting, {.max_rows = 8}), (Places{0}));
}

TEST(FormBatchTest, PacksTheNearestLengths) {
  // The seed has 10; 100s would waste most of the batch.
  const Waiting waiting{{.length = 10},  {.length = 100}, {.length = 11},
                        {.length = 100}, {.length = 9},   {.length = 10}};
  EXPECT_EQ(waiting.form({.max_rows = 8}), (Places{0, 2, 4, 5}));
  EXPECT_EQ(waiting.form({.max_rows = 2}), (Places{0, 5}));
  EXPECT_EQ(waiting.form({.max_rows = 3}), (Places{0, 2, 5}));  // 11 and 9 are as near: the earlier
}

TEST(FormBatchTest, StopsWherePaddingGetsTooLarge) {
  // 50 + 100 in 2 x 100: a quarter is padding. One more of 50 makes a third.
  const Waiting waiting{{.length = 100}, {.length = 50}, {.length = 50}};
  EXPECT_EQ(waiting.form({.max_rows = 8, .max_padding = 0.25}), (Places{0, 1}));
  EXPECT_EQ(waiting.form({.max_rows = 8, .max_padding = 0.24}), (Places{0}));
  EXPECT_EQ(waiting.form({.max_rows = 8, .max_padding = 0.34}), (Places{0, 1, 2}));
  EXPECT_EQ(waiting.form({.max_rows = 8, .max_padding = 0.0}), (Places{0}));
}

TEST(FormBatchTest, AFewPositionsARowAreNeverTooMuch) {
  const Waiting waiting{{.length = 8}, {.length = 1}, {.length = 3}};  // padding: 5 with the second, 12 with both
  EXPECT_EQ(waiting.form({.max_rows = 8, .max_padding = 0.0, .free_padding = 4}), (Places{0, 1, 2}));
  EXPECT_EQ(waiting.form({.max_rows = 8, .max_padding = 0.0, .free_padding = 3}), (Places{0, 2}));
  EXPECT_EQ(waiting.form({.max_rows = 8, .max_padding = 0.0, .free_padding = 0}), (Places{0}));
}

TEST(FormBatchTest, RowsWeighInThePadding) {
  const Waiting light{{.rows = 9, .length = 100}, {.rows = 1, .length = 1}};
  EXPECT_EQ(light.form({.max_rows = 64, .max_padding = 0.1}), (Places{0, 1}));
  const Waiting heavy{{.rows = 1, .length = 100}, {.rows = 9, .length = 1}};
  EXPECT_EQ(heavy.form({.max_rows = 64, .max_padding = 0.5}), (Places{0}));
}

TEST(FormBatchTest, WithoutLengthsThereIsNoPadding) {
  const Waiting waiting{{.rows = 2}, {.rows = 5}, {.rows = 1}};
  EXPECT_EQ(waiting.form({.max_rows = 8, .max_padding = 0.0}), (Places{0, 1, 2}));
}

TEST(FormBatchTest, WherePaddingIsFreeItLimitsNothing) {
  const Spec lengths[] = {{.length = 10}, {.length = 200}, {.length = 11}, {.length = 100}};
  std::vector<RequestInfo> infos;
  for (const Spec& spec : lengths) infos.push_back(make_info(spec));
  std::vector<const RequestInfo*> waiting;
  for (RequestInfo& info : infos) {
    info.padding_is_free = true;
    waiting.push_back(&info);
  }
  const BatchLimits limits{.max_rows = 8, .max_padding = 0.0, .free_padding = 0};
  EXPECT_EQ(form_batch(waiting, limits), (Places{0, 1, 2, 3}));
  EXPECT_EQ(form_batch(waiting, {.max_rows = 2, .max_padding = 0.0}), (Places{0, 2}));  // the nearest all the same
  infos[1].padding_is_free = false;  // of a batch with this one the padding is computed
  EXPECT_EQ(form_batch(waiting, limits), (Places{0, 2, 3}));
}

TEST(FormBatchTest, WherePaddingIsFreeTimeFollowsFromTheSumOfExtents) {
  CostModel cost;
  for (int i = 0; i < 8; ++i) cost.record({.rows = 2, .length = 64, .items = 128}, milliseconds(128), true);
  RequestInfo infos[] = {make_info({.length = 10}), make_info({.length = 118})};
  std::vector<const RequestInfo*> waiting;
  for (RequestInfo& info : infos) {
    info.extent = info.length;
    info.deadline = kStart + milliseconds(150);  // one of each: 128 positions take 128 ms; 2 x 118 would take 236
    waiting.push_back(&info);
  }
  const BatchLimits limits{.max_rows = 8, .max_padding = 1.0};
  EXPECT_EQ(form_batch(waiting, limits, {kStart, &cost, 2}), (Places{0}));
  for (RequestInfo& info : infos) info.padding_is_free = true;
  EXPECT_EQ(form_batch(waiting, limits, {kStart, &cost, 2}), (Places{0, 1}));
}

TEST(FormBatchTest, EveryRequestIsTakenOnceWhateverTheMix) {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    std::vector<RequestInfo> infos;
    for (int i = 0; i < 60; ++i) {
      Spec spec;
      spec.rows = 1 + static_cast<std::int64_t>(random() % 5);
      spec.length = static_cast<std::int64_t>(random() % 40);
      spec.key = random() % 3;
      infos.push_back(make_info(spec));
      infos.back().arrival = kStart + milliseconds(i);
    }
    std::vector<const RequestInfo*> waiting;
    for (const RequestInfo& info : infos) waiting.push_back(&info);
    std::size_t taken = 0;
    while (!waiting.empty()) {
      const Places places = form_batch(waiting, {.max_rows = 8});
      ASSERT_FALSE(places.empty());
      ASSERT_TRUE(std::is_sorted(places.begin(), places.end()));
      std::int64_t rows = 0;
      for (const std::size_t place : places) rows += waiting[place]->rows;
      EXPECT_LE(rows, 8);
      taken += places.size();
      for (auto place = places.rbegin(); place != places.rend(); ++place) {
        waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(*place));
      }
    }
    EXPECT_EQ(taken, infos.size());
  }
}

// Of each row 1 ms, so that a batch of n takes n ms and its margin of an eighth.
class DeadlinesTest : public ::testing::Test {
 protected:
  DeadlinesTest() {
    for (std::int64_t rows = 1; rows <= 64; rows *= 2)
      cost_.record({.rows = rows, .items = rows}, milliseconds(rows), true);
  }
  Places form(const std::vector<Spec>& specs, std::int64_t max_rows, std::int64_t waiting_rows) const {
    std::vector<RequestInfo> infos;
    for (const Spec& spec : specs) infos.push_back(make_info(spec));
    std::vector<const RequestInfo*> waiting;
    for (const RequestInfo& info : infos) waiting.push_back(&info);
    return form_batch(waiting, {.max_rows = max_rows}, {kStart, &cost_, waiting_rows});
  }
  static TimePoint in_ms(int time) { return kStart + milliseconds(time); }
  CostModel cost_;
};

TEST_F(DeadlinesTest, ABatchStopsGrowingWhereAMemberWouldBeLate) {
  const std::vector<Spec> waiting{{.deadline = in_ms(4)}, {}, {}, {}, {}};
  EXPECT_EQ(form(waiting, 8, 5), (Places{0, 1, 2}));  // three take 3.375 ms, four 4.5
}

TEST_F(DeadlinesTest, TheEarliestOfItsMembersCounts) {
  const std::vector<Spec> waiting{{}, {}, {.deadline = in_ms(3)}, {}};
  EXPECT_EQ(form(waiting, 8, 4), (Places{0, 1}));  // with the third it would take 3.375 ms
  EXPECT_EQ(form({{}, {.deadline = in_ms(3)}, {}}, 8, 3), (Places{0, 1}));
}

TEST_F(DeadlinesTest, AFirstThatWillBeLateStillRunsWhereLittleWaits) {
  EXPECT_EQ(form({{.deadline = in_ms(1)}, {}}, 8, 2), (Places{0}));
}

TEST_F(DeadlinesTest, WhereMoreWaitsThanABatchTheLateArePassedOver) {
  const std::vector<Spec> waiting{{.deadline = in_ms(3)}, {.deadline = in_ms(5)}, {.deadline = in_ms(6)}, {}, {}, {}};
  // Four take 4 ms, and half as much may come to it: in time for the third.
  EXPECT_EQ(form(waiting, 4, 6), (Places{2, 3, 4, 5}));
  // One batch holds all that waits: nobody is given up for others.
  EXPECT_EQ(form(waiting, 4, 4), (Places{0, 1}));
}

TEST_F(DeadlinesTest, WhereAllWouldBeLateTheFirstRuns) {
  const std::vector<Spec> waiting(6, Spec{.deadline = in_ms(2)});
  EXPECT_EQ(form(waiting, 4, 6), (Places{0}));
}

TEST_F(DeadlinesTest, OneWithoutADeadlineIsNeverPassedOver) {
  EXPECT_EQ(form({{}, {.deadline = in_ms(50)}, {}}, 2, 9), (Places{0, 1}));
  EXPECT_EQ(form({{.deadline = in_ms(1)}, {}, {}}, 2, 9), (Places{1, 2}));
}

// A long run through a queue: of those that came later, how many went before each.
TEST(OvertakingTest, NobodyIsOvertakenMoreOftenThanTheLimit) {
  const BatchLimits limits{.max_rows = 8, .max_padding = 0.5};
  ManualClock clock;
  const auto queue = std::make_shared<AdmissionQueue>(QueueLimits{.rows = 1 << 20}, clock, nullptr);
  std::mt19937 random(5);
  std::vector<int> overtaken;
  std::vector<int> waiting;
  const auto push = [&] {
    // Batches take the nearest lengths from all over the window, so that an odd one moves up slowly.
    Spec spec;
    spec.length = 500 + static_cast<std::int64_t>(random() % 500);
    spec.key = random() % 64 == 0 ? 1 : 0;
    const int id = static_cast<int>(overtaken.size());
    ASSERT_EQ(queue->push(make_request(spec, id), Admission::kBlock, kNever), PushResult::kAdmitted);
    overtaken.push_back(0);
    waiting.push_back(id);
  };
  for (int i = 0; i < 400; ++i) push();
  for (int batch = 0; batch < 4'000; ++batch) {
    const Batch taken = queue->take({.batch = limits}).batch;
    ASSERT_FALSE(taken.empty());
    for (const int id : ids_of(taken)) {
      waiting.erase(std::find(waiting.begin(), waiting.end(), id));
      for (const int earlier : waiting) {
        if (earlier > id) break;
        ++overtaken[static_cast<std::size_t>(earlier)];
      }
    }
    succeed_all(taken);
    while (waiting.size() < 400) push();
  }
  const int most = *std::max_element(overtaken.begin(), overtaken.end());
  EXPECT_LE(most, overtaking_limit(limits) + limits.max_rows - 1);
  EXPECT_GE(most, overtaking_limit(limits));  // else this mix proves nothing
}

}  // namespace
}  // namespace torchpool::testing
