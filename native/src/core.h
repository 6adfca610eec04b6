// What core.cpp tells stream.cpp.
#pragma once

#include "levels.h"

const Level &level(); // the one in use
void count_step();
