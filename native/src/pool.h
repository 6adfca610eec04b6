// Threads and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>

// Run work(data, i) for every i below tasks, on up to `threads` threads, the caller's among them.
// Which thread takes which task is left open, so no result may depend on it.
void parallel(int32_t threads, int64_t tasks, void (*work)(void *data, int64_t task), void *data);

// Threads that work at the same time and wait for each other.
struct Meeting;
// Run work(data, member, members, meeting) once on each of up to `threads` threads. Members are as
// many as came within a moment: a busy processor makes them fewer, never late.
void together(int32_t threads, void (*work)(void *data, int64_t member, int64_t members, Meeting &),
              void *data);
// Wait until every member is here; what each wrote before is then seen by all.
void meet(Meeting &meeting);

// Memory aligned to 64 bytes, kept for the next taker when given back; NULL when there is none.
void *workspace_take(size_t bytes);
void workspace_give(void *memory);
// The same, but a large piece goes back to the system at once.
void workspace_drop(void *memory);
