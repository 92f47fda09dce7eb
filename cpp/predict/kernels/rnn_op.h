// Recurrent nets as operators of torch.
#pragma once

namespace torch {
class Library;
}

namespace torchpool::kernels {

// Defines pack_rnn and rnn. Both are for single precision on the CPU, without gradients.
void define_rnn(torch::Library& library);

}  // namespace torchpool::kernels
