// The core for the same, bf16 on AMX tiles.
#include "simd_avx512.h"

#include "engine.h"

UNROLLED_DEFINE_LEVEL(level_amx)
