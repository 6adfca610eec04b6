// The core for AVX-512 F, BW, DQ and VL.
#include "simd_avx512.h"

#include "engine.h"

UNROLLED_DEFINE_LEVEL(level_avx512)
