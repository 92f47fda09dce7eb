// How functions of vectors are inlined. See Note [One file an instruction set].
#pragma once

#define TP_ALWAYS_INLINE __attribute__((always_inline)) inline
#define TP_INLINE_LAMBDA __attribute__((always_inline))  // between parameters and body
