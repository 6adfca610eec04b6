#include "pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sys/mman.h>
#define UNROLLED_FORKS 1
#endif

#include "unrolled.h"

namespace {

// ---- threads -----------------------------------------------------------------------------------

struct Job {
    void (*work)(void *, int64_t);
    void *data;
    int64_t tasks;
    std::atomic<int64_t> next{0};

    void run() {
        for (int64_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1)) work(data, i);
    }
};

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Threads that wait for a job: for some microseconds awake, since steps follow each other closely,
// then asleep. It is never destroyed: a thread may still wait when the process ends.
class Pool {
  public:
    // False when another thread's job is running; nothing is done then.
    bool run(Job &job, int32_t threads) {
        std::unique_lock<std::mutex> only(one_job_, std::try_to_lock);
        if (!only.owns_lock()) return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (count_ + 1 < threads) {
                try {
                    std::thread(&Pool::serve, this, count_).detach();
                } catch (...) {
                    break; // no more threads to be had: fewer do the work
                }
                count_++;
            }
            requested_ = threads - 1;
            job_ = &job;
            generation_.fetch_add(1);
        }
        wake_.notify_all();
        job.run();
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = nullptr; // who has not come by now is not needed
        idle_.wait(lock, [&] { return working_ == 0; });
        return true;
    }

  private:
    void serve(int32_t index) {
        uint64_t last = 0; // the generation that it took part in
        for (;;) {
            for (int i = 0; i < 2000 && generation_.load(std::memory_order_relaxed) == last; i++)
                pause();
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return generation_.load() != last; });
            last = generation_.load();
            Job *job = job_;
            if (!job || index >= requested_) continue;
            working_++;
            lock.unlock();
            job->run();
            lock.lock();
            if (--working_ == 0) idle_.notify_all();
        }
    }

    std::mutex one_job_, mutex_;
    std::condition_variable wake_, idle_;
    std::atomic<uint64_t> generation_{0};
    Job *job_ = nullptr;
    int32_t count_ = 0, requested_ = 0, working_ = 0;
};

std::atomic<unrolled_team> team{nullptr};
std::atomic<Pool *> pool{nullptr};

Pool *the_pool() {
    Pool *current = pool.load();
    if (current) return current;
    Pool *fresh = new (std::nothrow) Pool;
    if (!fresh || pool.compare_exchange_strong(current, fresh)) return fresh;
    delete fresh; // another thread was first
    return current;
}

void team_work(void *job) { static_cast<Job *>(job)->run(); }

// ---- memory ------------------------------------------------------------------------------------

constexpr size_t HEADER = 64, KEPT = 64u << 20, LARGE_PAGE = 2u << 20;
constexpr int SLOTS = 32;

struct Block {
    size_t bytes;
};

std::mutex memory_mutex;
Block *kept[SLOTS];
size_t kept_bytes = 0;

Block *allocate(size_t bytes) {
    const size_t alignment = bytes >= 2 * LARGE_PAGE ? LARGE_PAGE : 64;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    void *memory = nullptr;
#if defined(UNROLLED_FORKS)
    if (posix_memalign(&memory, alignment, bytes)) return nullptr;
#if defined(MADV_HUGEPAGE)
    // packed weights are read from end to end at every step: fewer, larger pages
    if (alignment == LARGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
#else
    memory = _aligned_malloc(bytes, alignment);
    if (!memory) return nullptr;
#endif
    Block *block = static_cast<Block *>(memory);
    block->bytes = bytes;
    return block;
}

void release(Block *block) {
#if defined(UNROLLED_FORKS)
    free(block);
#else
    _aligned_free(block);
#endif
}

// ---- forks -------------------------------------------------------------------------------------

#if defined(UNROLLED_FORKS)
// A child has none of the parent's threads, and libgomp's would be waited for in vain.
void before_fork() { memory_mutex.lock(); }
void after_fork() { memory_mutex.unlock(); }
void in_child() {
    memory_mutex.unlock();
    team.store(nullptr);
    pool.store(nullptr);
}
struct Forks {
    Forks() { pthread_atfork(before_fork, after_fork, in_child); }
} forks;
#endif

} // namespace

void parallel(int32_t threads, int64_t tasks, void (*work)(void *, int64_t), void *data) {
    Job job;
    job.work = work;
    job.data = data;
    job.tasks = tasks;
    if (threads > tasks) threads = static_cast<int32_t>(tasks);
    if (threads <= 1) return job.run();
    const unrolled_team borrowed = team.load();
    if (borrowed) return borrowed(team_work, &job, static_cast<unsigned>(threads), 0);
    Pool *own = the_pool();
    if (!own || !own->run(job, threads)) job.run();
}

struct Meeting {
    void (*work)(void *, int64_t, int64_t, Meeting &);
    void *data;
    int64_t requested;               // members
    std::atomic<int64_t> came{0};    // members so far; CLOSED is added when no more are let in
    std::atomic<int64_t> waiting{0}; // of the members, at this meeting
    std::atomic<int64_t> round{0};
};

namespace {

constexpr int64_t CLOSED = int64_t{1} << 32;

// Spin, since meetings follow each other within microseconds, but let others have the processor
// when it takes long: the member waited for may need it.
template <class Done> void spin(Done done) {
    for (int64_t i = 1; !done(); i++) {
        pause();
        if (i % 4096 == 0) std::this_thread::yield();
    }
}

void join_meeting(void *data, int64_t) {
    Meeting &m = *static_cast<Meeting *>(data);
    int64_t member = m.came.load();
    do {
        if (member >= CLOSED) return; // too late
    } while (!m.came.compare_exchange_weak(member, member + 1));
    if (member == 0) { // the first one waits for the others, but not long
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
        while (m.came.load() < m.requested && std::chrono::steady_clock::now() < end) pause();
        m.came.fetch_add(CLOSED);
    } else {
        spin([&] { return m.came.load() >= CLOSED; });
    }
    m.work(m.data, member, m.came.load() - CLOSED, m);
}

} // namespace

void together(int32_t threads, void (*work)(void *, int64_t, int64_t, Meeting &), void *data) {
    Meeting meeting;
    meeting.work = work;
    meeting.data = data;
    meeting.requested = threads;
    parallel(threads, threads, join_meeting, &meeting);
}

void meet(Meeting &m) {
    const int64_t members = m.came.load(std::memory_order_relaxed) - CLOSED;
    if (members == 1) return;
    const int64_t round = m.round.load();
    if (m.waiting.fetch_add(1) + 1 == members) {
        m.waiting.store(0);
        m.round.fetch_add(1);
    } else {
        spin([&] { return m.round.load() != round; });
    }
}

void *workspace_take(size_t bytes) {
    bytes += HEADER;
    {
        std::lock_guard<std::mutex> lock(memory_mutex);
        int best = -1;
        for (int i = 0; i < SLOTS; i++)
            if (kept[i] && kept[i]->bytes >= bytes && kept[i]->bytes / 4 <= bytes &&
                (best < 0 || kept[i]->bytes < kept[best]->bytes))
                best = i;
        if (best >= 0) {
            Block *block = kept[best];
            kept[best] = nullptr;
            kept_bytes -= block->bytes;
            return reinterpret_cast<char *>(block) + HEADER;
        }
    }
    Block *block = allocate(bytes);
    return block ? reinterpret_cast<char *>(block) + HEADER : nullptr;
}

// The newest block is kept, and older ones as far as they fit beside it.
void workspace_give(void *memory) {
    if (!memory) return;
    Block *block = reinterpret_cast<Block *>(static_cast<char *>(memory) - HEADER);
    if (block->bytes > 4 * KEPT) return release(block);
    Block *gone[SLOTS];
    int leaving = 0;
    {
        std::lock_guard<std::mutex> lock(memory_mutex);
        kept_bytes += block->bytes;
        if (kept[SLOTS - 1] || kept_bytes > KEPT)
            for (int i = SLOTS - 1; i >= 0; i--) { // the oldest stands last
                if (!kept[i] || (kept_bytes <= KEPT && leaving)) continue;
                kept_bytes -= kept[i]->bytes;
                gone[leaving++] = kept[i];
                kept[i] = nullptr;
            }
        int free_slot = 0;
        while (kept[free_slot]) free_slot++;
        for (int i = free_slot; i > 0; i--) kept[i] = kept[i - 1];
        kept[0] = block;
    }
    for (int i = 0; i < leaving; i++) release(gone[i]);
}

void workspace_drop(void *memory) {
    if (!memory) return;
    Block *block = reinterpret_cast<Block *>(static_cast<char *>(memory) - HEADER);
    if (block->bytes > KEPT / 8) return release(block);
    workspace_give(memory);
}

extern "C" void unrolled_use_team(unrolled_team given) { team.store(given); }
