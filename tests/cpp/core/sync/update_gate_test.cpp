#include "core/sync/update_gate.h"

#include <array>

#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::seconds;
using Gates = std::vector<std::shared_ptr<UpdateGate>>;

Gates some_gates(std::size_t count) {
  Gates gates;
  for (std::size_t i = 0; i < count; ++i) gates.push_back(std::make_shared<UpdateGate>());
  return gates;
}

class Told : public EventListener {
 public:
  void on_event() noexcept override { told.store(true); }
  std::atomic<bool> told{false};
};

TEST(UpdateGateTest, AnOpenGateLetsAnyNumberIn) {
  const auto gate = std::make_shared<UpdateGate>();
  EXPECT_TRUE(gate->try_enter());
  EXPECT_TRUE(gate->try_enter());
  gate->leave();
  gate->leave();
  EXPECT_FALSE(gate->held_by_this_thread());
}

TEST(UpdateGateTest, AHeldGateLetsNobodyIn) {
  ManualClock clock;
  const Gates gates = some_gates(2);
  EXPECT_TRUE(UpdateGate::take_all(gates, clock, kNever));
  for (const auto& gate : gates) {
    EXPECT_FALSE(gate->try_enter());
    EXPECT_TRUE(gate->held_by_this_thread());
    std::thread other([&] { EXPECT_FALSE(gate->held_by_this_thread()); });
    other.join();
  }
  UpdateGate::open_all(gates);
  for (const auto& gate : gates) {
    EXPECT_TRUE(gate->try_enter());
    EXPECT_FALSE(gate->held_by_this_thread());
    gate->leave();
  }
}

TEST(UpdateGateTest, TakingWaitsForWhatRunsAndKeepsOthersOut) {
  ManualClock clock;
  const Gates gates = some_gates(2);
  ASSERT_TRUE(gates[1]->try_enter());
  std::atomic<bool> left{false};
  std::thread updater([&] {
    EXPECT_TRUE(UpdateGate::take_all(gates, clock, kNever));
    EXPECT_TRUE(left.load());
    UpdateGate::open_all(gates);
  });
  clock.await_waiters(1);
  EXPECT_FALSE(gates[0]->try_enter());
  EXPECT_FALSE(gates[1]->try_enter());
  left.store(true);
  gates[1]->leave();
  updater.join();
}

TEST(UpdateGateTest, TakingWaitsWhileAnotherThreadHolds) {
  ManualClock clock;
  const Gates gates = some_gates(2);
  const std::shared_ptr<UpdateGate>& shared = gates[1];
  ASSERT_TRUE(UpdateGate::take_all({&shared, 1}, clock, kNever));
  std::thread updater([&] {
    EXPECT_FALSE(UpdateGate::take_all(gates, clock, clock.now()));
    EXPECT_TRUE(UpdateGate::take_all(gates, clock, kNever));
    EXPECT_TRUE(shared->held_by_this_thread());
    UpdateGate::open_all(gates);
  });
  clock.await_waiters(1);
  UpdateGate::open_all({&shared, 1});
  updater.join();
  EXPECT_TRUE(gates[0]->try_enter() && gates[1]->try_enter());
  gates[0]->leave();
  gates[1]->leave();
}

TEST(UpdateGateTest, GivesUpInTimeAndStaysClosing) {
  ManualClock clock;
  const Gates gates = some_gates(2);
  ASSERT_TRUE(gates[0]->try_enter());
  std::thread updater([&] { EXPECT_FALSE(UpdateGate::take_all(gates, clock, clock.now() + seconds(1))); });
  clock.await_timed_waiters(1);
  clock.advance(seconds(1));
  updater.join();
  EXPECT_FALSE(gates[1]->try_enter());
  EXPECT_FALSE(gates[1]->held_by_this_thread());
  UpdateGate::open_all(gates);
  EXPECT_TRUE(gates[1]->try_enter());
  gates[0]->leave();
  gates[1]->leave();
}

TEST(UpdateGateTest, ARunInsideOfOneThatIsWaitedForEnters) {
  ManualClock clock;
  const Gates gates = some_gates(2);
  ASSERT_TRUE(gates[0]->try_enter());
  std::optional<InGate> in_outer(std::in_place, gates[0].get());
  std::thread updater([&] {
    EXPECT_TRUE(UpdateGate::take_all(gates, clock, kNever));
    UpdateGate::open_all(gates);
  });
  clock.await_waiters(1);
  EXPECT_TRUE(gates[1]->enter(clock, kNever));
  {
    const InGate in_inner(gates[1].get());
    EXPECT_TRUE(gates[0]->entered_by_this_thread());
    EXPECT_TRUE(gates[1]->entered_by_this_thread());
  }
  EXPECT_FALSE(gates[1]->entered_by_this_thread());
  gates[1]->leave();
  in_outer.reset();
  gates[0]->leave();
  updater.join();
}

TEST(UpdateGateTest, ARunInsideOfAnotherModelsWaits) {
  ManualClock clock;
  const Gates gates = some_gates(1);
  const auto other = std::make_shared<UpdateGate>();
  ASSERT_TRUE(other->try_enter());
  const InGate in_other(other.get());
  ASSERT_TRUE(gates[0]->try_enter());
  EXPECT_FALSE(UpdateGate::take_all(gates, clock, clock.now()));
  EXPECT_FALSE(gates[0]->try_enter());
  gates[0]->leave();
  other->leave();
}

TEST(UpdateGateTest, WhoWaitsEntersWhenItOpens) {
  ManualClock clock;
  const Gates gates = some_gates(1);
  ASSERT_TRUE(UpdateGate::take_all(gates, clock, kNever));
  int written = 0;
  std::thread caller([&] {
    EXPECT_FALSE(gates[0]->enter(clock, clock.now()));
    EXPECT_TRUE(gates[0]->enter(clock, kNever));
    EXPECT_EQ(written, 1);
    gates[0]->leave();
  });
  clock.await_waiters(1);
  written = 1;
  UpdateGate::open_all(gates);
  caller.join();
}

TEST(UpdateGateTest, AGateMayBeHeldFromItsStart) {
  const Gates gates = some_gates(2);
  gates[0]->hold(true);
  gates[1]->hold(false);
  EXPECT_TRUE(gates[0]->held_by_this_thread());
  EXPECT_FALSE(gates[1]->held_by_this_thread());
  EXPECT_FALSE(gates[0]->try_enter() || gates[1]->try_enter());
  UpdateGate::open_all(gates);
  EXPECT_TRUE(gates[0]->try_enter() && gates[1]->try_enter());
  gates[0]->leave();
  gates[1]->leave();
}

TEST(UpdateGateTest, AdmitsOneAtATimeWhereRunsChangeTheModel) {
  ManualClock clock;
  const Gates gates = some_gates(1);
  UpdateGate& gate = *gates[0];
  gate.admit_one_at_a_time();
  ASSERT_TRUE(gate.try_enter());
  {
    const InGate in_gate(&gate);
    EXPECT_TRUE(gate.try_enter());  // inside of itself
    gate.leave();
  }
  EXPECT_FALSE(gate.try_enter());
  GatePass pass(gates[0]);
  Event* opened = pass.enter();
  ASSERT_NE(opened, nullptr);
  std::thread other([&] {
    EXPECT_TRUE(gate.enter(clock, kNever));
    gate.leave();
  });
  clock.await_waiters(1);
  gate.leave();
  other.join();
  EXPECT_FALSE(opened->listen(std::make_shared<Told>()));  // set already
  EXPECT_EQ(pass.enter(), nullptr);
  EXPECT_FALSE(UpdateGate::take_all(gates, clock, clock.now()));
  pass.leave();
  EXPECT_TRUE(UpdateGate::take_all(gates, clock, clock.now()));
}

TEST(UpdateGateTest, AGateThatARunHasEnteredMayBeHeld) {
  ManualClock clock;
  const Gates gates = some_gates(1);
  ASSERT_TRUE(gates[0]->try_enter());
  gates[0]->hold(false);
  EXPECT_FALSE(gates[0]->try_enter());
  gates[0]->leave();
  UpdateGate::open_all(gates);
  EXPECT_TRUE(UpdateGate::take_all(gates, clock, clock.now()));
  UpdateGate::open_all(gates);
}

TEST(GatePassTest, ATaskIsToldWhenItMayAskAgain) {
  ManualClock clock;
  const Gates gates = some_gates(1);
  ASSERT_TRUE(UpdateGate::take_all(gates, clock, kNever));
  GatePass pass(gates[0]);
  Event* opened = pass.enter();
  ASSERT_NE(opened, nullptr);
  EXPECT_TRUE(pass.waited());
  const auto listener = std::make_shared<Told>();
  EXPECT_TRUE(opened->listen(listener));
  EXPECT_FALSE(listener->told.load());
  UpdateGate::open_all(gates);
  EXPECT_TRUE(listener->told.load());
  EXPECT_EQ(pass.enter(), nullptr);
  EXPECT_EQ(pass.enter(), nullptr);  // it has entered once
  EXPECT_FALSE(UpdateGate::take_all(gates, clock, clock.now()));
  pass.leave();
  EXPECT_TRUE(UpdateGate::take_all(gates, clock, clock.now()));
}

TEST(GatePassTest, WhatOpensBetweenTheLookAndTheWaitIsNotMissed) {
  const Gates gates = some_gates(1);
  const auto event = std::make_shared<Event>();
  gates[0]->tell_when_open(event);
  EXPECT_FALSE(event->listen(std::make_shared<Told>()));  // set already
}

TEST(GatePassTest, AModelWithoutAGateIsAlwaysOpen) {
  GatePass pass(nullptr);
  EXPECT_EQ(pass.enter(), nullptr);
  EXPECT_FALSE(pass.waited());
  pass.leave();
}

TEST(UpdateGateTest, UnderLoadNoRunSeesAHalfWrittenState) {
  ManualClock clock;
  const Gates gates = some_gates(2);
  std::array<int, 2> values{};  // unguarded: TSan sees what the gates do not keep apart
  std::atomic<bool> done{false};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      const auto& gate = gates[static_cast<std::size_t>(caller % 2)];
      while (!done.load()) {
        if (!gate->enter(Clock::steady(), kNever)) continue;
        EXPECT_EQ(values[0], values[1]);
        gate->leave();
      }
    });
  }
  for (int update = 0; update < 2000; ++update) {
    ASSERT_TRUE(UpdateGate::take_all(gates, Clock::steady(), kNever));
    ++values[0];
    ++values[1];
    UpdateGate::open_all(gates);
  }
  done.store(true);
  for (std::thread& caller : callers) caller.join();
}

}  // namespace
}  // namespace torchpool::testing
