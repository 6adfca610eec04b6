// Threads and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>

// Run work(data, i) for every i below tasks, on up to `threads` threads, the caller's among them.
// Which thread takes which task is left open, so no result may depend on it.
void parallel(int32_t threads, int64_t tasks, void (*work)(void *data, int64_t task), void *data);

// Memory aligned to 64 bytes, kept for the next taker when given back; NULL when there is none.
void *workspace_take(size_t bytes);
void workspace_give(void *memory);
