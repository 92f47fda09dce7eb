#include "core/schedule/scheduler.h"

#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::milliseconds;

// A channel and what the scheduler sees of it.
struct Opened {
  ChannelStatePtr state;
  std::shared_ptr<Channel> channel;
};

// The rounds of workers, step by step on the test's own thread: what happens between two steps is no matter of luck.
class SchedulerTest : public ::testing::Test {
 protected:
  SchedulerTest() { scheduler_->set_workers(Lane::kCompute, 2); }
  ~SchedulerTest() override { scheduler_->close(); }

  Opened open(ChannelOptions options = with_rows(1)) {
    auto state =
        std::make_shared<ChannelState>(std::move(options), std::make_shared<TestHandler>(), stats_, scheduler_, clock_);
    scheduler_->add_channel(state);
    return {state, std::make_shared<Channel>(state)};
  }
  // Batches of two rows, or of what there is after so long.
  Opened open_held(Duration delay = milliseconds(5)) {
    ChannelOptions options = with_rows(2);
    options.make_policy = [=](const auto&) { return std::make_unique<HoldingPolicy>(2, delay); };
    return open(std::move(options));
  }
  static std::shared_ptr<TestRequest> submit(const Opened& opened) {
    auto request = make_request();
    EXPECT_EQ(opened.channel->submit(request, Admission::kReject, kNever), PushResult::kAdmitted);
    return request;
  }

  WorkerSlot& worker(int index) { return scheduler_->worker(Lane::kCompute, index); }
  // It finds nothing to do, and sleeps until then.
  TimePoint park(int index) {
    EXPECT_FALSE(scheduler_->expect_work(worker(index))) << "worker " << index << " finds work";
    EXPECT_FALSE(scheduler_->ends(worker(index)));
    return worker(index).park_until;
  }
  bool woken(int index) { return worker(index).parker.try_take(); }
  Assignment pick(int index) {
    EXPECT_TRUE(scheduler_->expect_work(worker(index))) << "worker " << index << " finds nothing";
    Assignment assignment;
    EXPECT_TRUE(scheduler_->pick(worker(index), assignment));
    return assignment;
  }
  // Until when the channel's policy makes a worker wait that looks at its queue.
  static TimePoint look(Assignment& assignment) {
    const Taken taken = assignment.run.channel->queue->take(assignment.limits);
    EXPECT_TRUE(taken.batch.empty());
    return taken.hold_until;
  }
  Assignment run(int index, int rows = 1) {
    Assignment assignment = pick(index);
    const Taken taken = assignment.run.channel->queue->take(assignment.limits);
    EXPECT_EQ(taken.batch.rows(), rows);
    scheduler_->started(worker(index), assignment);
    succeed_all(taken.batch);
    return assignment;
  }
  void end(int index, Assignment& assignment, Duration took = milliseconds(1)) {
    assignment.step_took = took;
    scheduler_->finished(worker(index), assignment);
  }
  void hold(int index, const Opened& opened) {
    submit(opened);
    Assignment assignment = pick(index);
    const TimePoint until = look(assignment);
    scheduler_->hold(worker(index), assignment, until);
    EXPECT_FALSE(opened.state->in_rotation);
  }

  ManualClock clock_;
  const TimePoint start_ = clock_.now();
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  std::shared_ptr<Scheduler> scheduler_ = std::make_shared<Scheduler>(4, clock_);
};

TEST_F(SchedulerTest, OneIsWokenAtATimeAndWakesTheNext) {
  const Opened opened = open();
  park(0);
  park(1);
  submit(opened);
  submit(opened);
  EXPECT_TRUE(woken(1));  // parked last
  EXPECT_FALSE(woken(0));
  Assignment first = run(1);
  EXPECT_TRUE(woken(0));
  Assignment second = run(0);
  end(0, second);
  end(1, first);
  EXPECT_EQ(opened.state->running, 0);
}

TEST_F(SchedulerTest, OneThatIsWokenForNothingLetsTheNextBeWoken) {
  const Opened opened = open();
  park(0);
  park(1);
  const auto request = submit(opened);
  ASSERT_TRUE(woken(1));
  opened.channel->cancel(*request);
  Assignment nothing = run(1, 0);
  end(1, nothing, Duration::zero());
  park(1);
  submit(opened);
  EXPECT_TRUE(woken(1));
}

TEST_F(SchedulerTest, NobodyIsWokenWhereNoCoreIsIdle) {
  scheduler_->set_cores(1, 1);
  const Opened opened = open();
  park(0);
  submit(opened);
  Assignment assignment = run(1);
  EXPECT_TRUE(woken(0));  // by the submit
  park(0);
  submit(opened);
  EXPECT_FALSE(woken(0));
  scheduler_->set_cores(2, 1);
  EXPECT_TRUE(woken(0));
  end(1, assignment);
}

TEST_F(SchedulerTest, ABatchThatDoesNotGainByCoresLeavesThemIdle) {
  const Opened opened = open();
  for (const bool gains : {false, true}) {
    submit(opened);
    Assignment assignment = pick(0);
    const Taken taken = assignment.run.channel->queue->take(assignment.limits);
    scheduler_->started(worker(0), assignment, gains);
    succeed_all(taken.batch);
    EXPECT_EQ(assignment.cores, gains ? 4 : 1);
    EXPECT_EQ(assignment.leased, gains ? 4 : 1);
    end(0, assignment);
  }
}

TEST_F(SchedulerTest, AHoldCostsItsChannelNothing) {
  const Opened opened = open_held();
  submit(opened);
  submit(opened);
  Assignment full = run(0, 2);  // so that it is charged what is typical
  end(0, full, milliseconds(3));
  submit(opened);
  Assignment assignment = pick(0);
  EXPECT_EQ(assignment.charged, milliseconds(3) * 4);  // alone it had all four cores
  const Duration before = opened.state->share->deficit + assignment.charged;
  const TimePoint until = look(assignment);
  scheduler_->hold(worker(0), assignment, until);
  EXPECT_EQ(opened.state->share->deficit, before);
  EXPECT_EQ(opened.state->running, 0);
  EXPECT_EQ(assignment.leased, 0);
}

TEST_F(SchedulerTest, TheFirstToParkKeepsTheTimeAndOthersSleepOn) {
  const Opened held = open_held();
  hold(0, held);
  EXPECT_EQ(park(0), start_ + milliseconds(5));
  EXPECT_EQ(park(1), kNever);
  clock_.advance(milliseconds(5));
  scheduler_->stop_parking(worker(0));
  Assignment due = run(0);
  end(0, due);
}

TEST_F(SchedulerTest, WhoHoldsAnEarlierOneKeepsItsTime) {
  const Opened late = open_held(milliseconds(9));
  const Opened early = open_held(milliseconds(4));
  hold(0, late);
  EXPECT_EQ(park(0), start_ + milliseconds(9));
  hold(1, early);
  EXPECT_EQ(park(1), start_ + milliseconds(4));
  clock_.advance(milliseconds(4));
  scheduler_->stop_parking(worker(1));
  Assignment due = run(1);
  end(1, due);
  EXPECT_EQ(park(1), start_ + milliseconds(9));  // nobody's time is lost, though two keep it now
}

TEST_F(SchedulerTest, AKeeperThatIsWokenForOtherWorkLeavesTheTimeToAnother) {
  const Opened other = open();
  const Opened held = open_held();
  hold(0, held);
  EXPECT_EQ(park(1), start_ + milliseconds(5));
  EXPECT_EQ(park(0), kNever);
  submit(other);
  submit(other);
  ASSERT_TRUE(woken(0));
  Assignment first = run(0);
  ASSERT_TRUE(woken(1));
  Assignment second = run(1);
  end(0, first);
  EXPECT_EQ(park(0), start_ + milliseconds(5));
  end(1, second);
  EXPECT_EQ(park(1), kNever);
}

TEST_F(SchedulerTest, WhoPutsAChannelOnHoldKeepsItsTimeUnlessItFindsOtherWork) {
  const Opened other = open();
  const Opened held = open_held();
  submit(held);
  Assignment looking = pick(0);
  park(1);
  const TimePoint until = look(looking);
  scheduler_->hold(worker(0), looking, until);
  EXPECT_FALSE(woken(1));  // the one that holds looks around itself
  submit(other);
  EXPECT_FALSE(woken(1));
  Assignment assignment = run(0);
  EXPECT_TRUE(woken(1));
  EXPECT_EQ(park(1), start_ + milliseconds(5));
  end(0, assignment);
}

TEST_F(SchedulerTest, ADueChannelIsTakenByWhoeverLooks) {
  const Opened held = open_held();
  hold(0, held);
  EXPECT_EQ(park(0), start_ + milliseconds(5));
  clock_.advance(milliseconds(5));
  Assignment due = run(1);  // it was not parked
  EXPECT_EQ(due.run.channel->held_until.load(), TimePoint{});
  end(1, due);
}

TEST_F(SchedulerTest, StoppingToParkMeetsAWakeUp) {
  const Opened opened = open();
  park(0);
  submit(opened);  // the permit is there: it was chosen while its time passed
  scheduler_->stop_parking(worker(0));
  EXPECT_FALSE(woken(0));
  Assignment assignment = run(0);
  end(0, assignment);
}

// What happens after the queue was looked at and before the channel is put on hold.
class HoldWindowTest : public SchedulerTest {
 protected:
  HoldWindowTest() {
    request_ = submit(opened_);
    assignment_ = pick(0);
    until_ = look(assignment_);
    EXPECT_EQ(until_, start_ + milliseconds(5));
  }
  void hold_now() { scheduler_->hold(worker(0), assignment_, until_); }

  const Opened opened_ = open_held();
  std::shared_ptr<TestRequest> request_;
  Assignment assignment_;
  TimePoint until_;
};

TEST_F(HoldWindowTest, ACallThatFillsTheBatchIsNotMissed) {
  submit(opened_);
  hold_now();
  Assignment full = run(0, 2);
  end(0, full);
}

TEST_F(HoldWindowTest, ACallThatFillsTheBatchIsNotMissedWhereOnlyOneMayRun) {
  scheduler_->set_workers(Lane::kCompute, 1);
  submit(opened_);
  hold_now();
  Assignment full = run(0, 2);
  end(0, full);
}

TEST_F(HoldWindowTest, AnotherPolicyIsNotMissed) {
  scheduler_->set_workers(Lane::kCompute, 1);
  opened_.channel->set_policy(nullptr);
  hold_now();
  Assignment alone = run(0);
  end(0, alone);
}

TEST_F(HoldWindowTest, ClosingToDrainIsNotMissed) {
  scheduler_->set_workers(Lane::kCompute, 1);
  opened_.channel->close(false);
  hold_now();
  Assignment alone = run(0);
  end(0, alone);
  EXPECT_TRUE(opened_.channel->wait_drained(clock_.now()));
}

TEST_F(HoldWindowTest, WhoWaitsForTheEndIsToldWhereTheLastCallWasCancelled) {
  scheduler_->set_workers(Lane::kCompute, 1);
  std::thread waiting([&] { EXPECT_TRUE(opened_.channel->wait_drained(kNever)); });
  clock_.await_waiters(1);
  EXPECT_TRUE(opened_.channel->cancel(*request_));
  hold_now();
  waiting.join();
}

TEST_F(HoldWindowTest, WhoWaitsForTheEndIsToldWhereTheLastCallWasFailed) {
  scheduler_->set_workers(Lane::kCompute, 1);
  opened_.channel->close(true);
  EXPECT_TRUE(failed_with<Closed>(*request_));
  std::thread waiting([&] { EXPECT_TRUE(opened_.channel->wait_drained(kNever)); });
  clock_.await_waiters(1);
  hold_now();
  waiting.join();
}

TEST_F(HoldWindowTest, TheRuntimesEndIsNotMissed) {
  std::thread waiting([&] { EXPECT_TRUE(opened_.channel->wait_drained(kNever)); });
  clock_.await_waiters(1);
  scheduler_->close();
  EXPECT_TRUE(failed_with<Closed>(*request_));
  hold_now();
  waiting.join();
  EXPECT_EQ(opened_.state->held_until.load(), TimePoint{});
}

// Of workers that are told to end, at each point of their round.
class RetiringTest : public SchedulerTest {};

TEST_F(RetiringTest, AKeeperThatEndsLeavesTheTimeToAnother) {
  const Opened held = open_held();
  hold(1, held);
  EXPECT_EQ(park(1), start_ + milliseconds(5));
  EXPECT_EQ(park(0), kNever);
  scheduler_->set_workers(Lane::kCompute, 1);
  EXPECT_TRUE(woken(1));
  EXPECT_FALSE(scheduler_->expect_work(worker(1)));
  EXPECT_TRUE(scheduler_->ends(worker(1)));
  EXPECT_TRUE(woken(0));
  EXPECT_EQ(park(0), start_ + milliseconds(5));
}

TEST_F(RetiringTest, OneThatWasWokenForWorkLeavesItToAnother) {
  const Opened opened = open();
  park(0);
  park(1);
  submit(opened);
  ASSERT_TRUE(woken(1));
  scheduler_->set_workers(Lane::kCompute, 1);
  EXPECT_FALSE(scheduler_->expect_work(worker(1)));
  EXPECT_TRUE(scheduler_->ends(worker(1)));
  EXPECT_TRUE(woken(0));
  Assignment assignment = run(0);
  end(0, assignment);
}

TEST_F(RetiringTest, OneThatEndsItsLastStepLeavesWhatWaitsToAnother) {
  const Opened opened = open();
  submit(opened);
  Assignment last = run(1);
  park(0);
  scheduler_->set_workers(Lane::kCompute, 1);
  submit(opened);
  EXPECT_FALSE(woken(0));  // as many run as there are workers
  end(1, last);
  EXPECT_TRUE(woken(0));
  EXPECT_FALSE(scheduler_->expect_work(worker(1)));
  EXPECT_TRUE(scheduler_->ends(worker(1)));
  Assignment assignment = run(0);
  end(0, assignment);
}

// It is told to end after it has said that it sleeps and before it asks whether it ends: the wake-up stays, and comes
// to the thread that has its place later.
TEST_F(RetiringTest, AWakeUpThatNobodyTookDoesNoHarmToTheNextOneThere) {
  EXPECT_FALSE(scheduler_->expect_work(worker(1)));
  scheduler_->set_workers(Lane::kCompute, 1);
  EXPECT_TRUE(scheduler_->ends(worker(1)));
  scheduler_->set_workers(Lane::kCompute, 3);
  const Opened opened = open();
  for (const int index : {2, 1, 0}) park(index);
  ASSERT_TRUE(woken(1));  // for nothing, but now there is work
  for (int i = 0; i < 3; ++i) submit(opened);
  ASSERT_TRUE(woken(0));
  Assignment first = run(1);
  Assignment second = run(0);
  EXPECT_FALSE(woken(1));  // it works
  EXPECT_TRUE(woken(2));
  Assignment third = run(2);
  end(0, second);
  end(1, first);
  end(2, third);
}

}  // namespace
}  // namespace torchpool::testing
