// The core for whatever the compiler may assume.
#include "simd_portable.h"

#include "engine.h"

UNROLLED_DEFINE_LEVEL(level_portable)
