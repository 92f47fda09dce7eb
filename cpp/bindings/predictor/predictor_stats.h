// A predictor's statistics as Python reads them.
#pragma once

#include "bindings/predictor/predictor_channels.h"

namespace torchpool {

py::dict stats_to_python(const ChannelStats& stats, const PredictorChannels& channels);

}  // namespace torchpool
