// Our kernels as torch's operators, which programs call by name.
#pragma once

namespace torchpool::kernels {

// Defines torchpool::isa, which names chosen(), and the kernels; once is enough, and more does no harm. Throws
// std::invalid_argument where the environment asks for an instruction set that there is not.
void register_operators();

}  // namespace torchpool::kernels
