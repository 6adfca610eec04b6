// The core for AVX2 and FMA.
#include "simd_avx2.h"

#include "engine.h"

UNROLLED_DEFINE_LEVEL(level_avx2)
