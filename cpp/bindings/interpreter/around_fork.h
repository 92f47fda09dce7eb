// What the extension does around a fork of the process, and how many forks ago something was made.
#pragma once

#include <pybind11/pybind11.h>

namespace torchpool {

namespace py = pybind11;

// Note [A child has one thread]
// Of a process that forks, the child has the forking thread only. What another thread was changing stays half changed
// there, and a lock that it held is never free. So:
//  - workers stand between two steps while a process forks, because the libraries that a step runs in have locks of
//    their own. A step that lasts longer than kLongestPause is not waited for;
//  - for a moment the fork waits until no other thread runs: one that ends gives back what libraries keep for it, and a
//    lock of MKL's that it holds then lets multiplications of matrices in the child wait for ever;
//  - the forking thread's OpenMP team is ended: libgomp would wait in the child for its other threads;
//  - nothing of before the fork is used or destroyed in the child that takes a lock: runtimes and predictors are kept
//  for
//    ever, and made anew. What they have learned is read under the interpreter's lock, which the forking thread has.

// How many forks lie between the process that has imported the extension and this one. What waits for threads of an
// earlier process waits for ever.
int forks() noexcept;

void register_around_fork(py::module_& module);

}  // namespace torchpool
