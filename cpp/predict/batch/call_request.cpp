#include "predict/batch/call_request.h"

#include "core/sync/error.h"

namespace torchpool {

void CallRequest::check_unwritten() const {
  for (std::size_t i = 0; i < versions.size(); ++i) {
    if (versions[i] < 0 || versions[i] == static_cast<std::int64_t>(inputs[i]._version())) continue;
    const std::string which = contract ? "input '" + contract->inputs[i].name + "'" : "an input";
    throw Error(which +
                " was written to after it was submitted and before its result was ready; inputs above 64 KiB are not "
                "copied at the call: wait for the result, or submit a clone()");
  }
}

}  // namespace torchpool
