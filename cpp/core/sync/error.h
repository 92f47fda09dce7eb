// What the core reports to callers. The bindings map each to its Python exception.
#pragma once

#include <stdexcept>
#include <string>

namespace torchpool {

class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};
// The admission queue is full and its overflow policy is to reject.
class QueueFull : public Error {
  using Error::Error;
};
// The predictor or its runtime was closed.
class Closed : public Error {
  using Error::Error;
};
class Cancelled : public Error {
  using Error::Error;
};
// The system gives the process no more threads.
class NoThread : public Error {
  using Error::Error;
};
// The deadline of a request passed.
class DeadlineExceeded : public Error {
  using Error::Error;
};
// A request was dropped by everyone who could have resolved it: a defect, reported instead of a hang.
class Abandoned : public Error {
  using Error::Error;
};

}  // namespace torchpool
