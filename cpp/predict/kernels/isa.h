// The instruction sets that our own kernels are written for.
#pragma once

#include <cstdint>
#include <string_view>

namespace torchpool::kernels {

// Note [One file an instruction set]
// A kernel is compiled once for each instruction set, in a file of its own whose name ends in _avx2 or _avx512: CMake
// gives such files the compiler's flags. They include nothing but intrinsics and headers whose functions are forced
// inline or have internal linkage. An inline function of the standard library's that such a file emits could be the
// copy that the linker keeps for the whole program, and would end it on older processors. What they offer are plain
// functions, under names that hold the instruction set; a file without flags chooses among them by chosen().

// In rising order: each can do what those before it can.
enum class Isa : std::uint8_t {
  kPortable,
  kAvx2,    // AVX2, FMA and F16C
  kAvx512,  // AVX512 F, BW, DQ and VL
};

const char* name_of(Isa isa) noexcept;  // as TORCHPOOL_ISA has it

// The best that processor and operating system support.
Isa detected() noexcept;

// The best of those up to `best` that `wanted` ("portable", "avx2", "avx512"; empty: any) allows. Throws
// std::invalid_argument for another word.
Isa lowered(Isa best, std::string_view wanted);

// What kernels run on: detected(), or less where the environment variable TORCHPOOL_ISA says so. It is read once.
// Throws as lowered() does, each time.
Isa chosen();

}  // namespace torchpool::kernels
