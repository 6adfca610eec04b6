// The core for AVX-512 with the dot products of bf16 and VNNI.
#include "simd_avx512.h"

#include "engine.h"

UNROLLED_DEFINE_LEVEL(level_avx512dot)
