/* Levels, threads, scratch memory, processes, counters, and calls that cannot be. */
#include "../src/pool.h"

#include <atomic>
#include <thread>

#include "layer.h"

#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace {

/* What OpenMP's entry point does, by plain threads. */
std::atomic<int> teams{0};

void full_team(void (*work)(void *), void *data, unsigned threads, unsigned) {
    teams++;
    std::vector<std::thread> others;
    for (unsigned i = 1; i < threads; i++) others.emplace_back(work, data);
    work(data);
    for (std::thread &other : others) other.join();
}

/* Inside a parallel region OpenMP gives one thread, however many were asked for. */
void lone_team(void (*work)(void *), void *data, unsigned, unsigned) {
    teams++;
    work(data);
}

/* Enough work for every thread to get some. */
Case medium(int32_t cell) {
    Case c{cell, 6, 24, 40, 64};
    c.ragged = true;
    c.layout = PADDED;
    return c;
}

/* Few rows and many columns: the threads share a row's columns and wait for each other. */
Case narrow(int32_t cell) { return Case{cell, 6, 1, 64, 256}; }

/* The same with rows that come and go and columns that fill no vector; a rnn needs more. */
Case uneven(int32_t cell) {
    Case c{cell, 5, 7, 37, cell == UNROLLED_RNN_TANH ? 331 : 187};
    c.ragged = c.reverse = c.mask = true;
    c.layout = PADDED;
    return c;
}

/* What is read by threads that share rows, and by threads that share columns. */
struct Reading {
    Case (*make)(int32_t cell);
    int32_t cell, precision;
};
const Reading READINGS[] = {
    {medium, UNROLLED_GRU, UNROLLED_FP32},      {narrow, UNROLLED_GRU, UNROLLED_FP32},
    {narrow, UNROLLED_LSTM, UNROLLED_BF16},     {uneven, UNROLLED_LSTM, UNROLLED_FP32},
    {uneven, UNROLLED_RNN_TANH, UNROLLED_BF16}, {uneven, UNROLLED_GRU, UNROLLED_BF16},
};

/* End the program, by name of the test that ran, when threads wait for each other for ever. */
struct TimeLimit {
#if defined(_WIN32)
    TimeLimit() {}
#else
    TimeLimit() { alarm(40); }
    ~TimeLimit() { alarm(0); }
#endif
};

void check_team(unrolled_team team, const char *name) {
    const TimeLimit limit;
    for (const Reading &reading : READINGS) {
        const Inputs in(reading.make(reading.cell));
        Outputs alone(in), own(in), again(in);
        CHECK(!read(in, alone, reading.precision, 1), "refused");
        CHECK(!read(in, own, reading.precision, 3), "refused");
        check_same(alone, own, "the own pool");
        teams = 0;
        unrolled_use_team(team);
        for (const int32_t threads : {2, 3, 4}) {
            Outputs borrowed(in);
            CHECK(!read(in, borrowed, reading.precision, threads), "refused");
            check_same(alone, borrowed, name);
        }
        unrolled_use_team(nullptr);
        const int used = teams;
        CHECK(used > 0, std::string(name) + ": the team did nothing");
        CHECK(!read(in, again, reading.precision, 3), "refused");
        CHECK(teams == used, std::string(name) + ": the team worked after it was given back");
    }
}

/* Members that meet PHASES times: each says where it is, and looks where all others are. */
struct Hall {
    static constexpr int64_t MOST = 64, PHASES = 30;
    int64_t at[2][MOST] = {};  // phases take turns: who writes the next one may be ahead by one
    std::atomic<int64_t> came[MOST] = {}, all{0}, done{0}, wrong{0};

    static void visit(void *data, int64_t member, int64_t members, Meeting &meeting) {
        Hall &hall = *static_cast<Hall *>(data);
        hall.came[member]++;
        hall.all = members;
        for (int64_t phase = 1; phase <= PHASES; phase++) {
            hall.at[phase % 2][member] = phase;
            meet(meeting);
            for (int64_t other = 0; other < members; other++)
                hall.wrong += hall.at[phase % 2][other] != phase;
        }
        hall.done++;
    }

    /* Check that some of `threads` threads came, each once, and that none ran ahead. */
    static void check(int32_t threads) {
        Hall hall;
        together(threads, visit, &hall);
        const int64_t members = hall.all;
        CHECK(members >= 1 && members <= threads, "members: " + std::to_string(members));
        CHECK(hall.done == members, "a member was still at work");
        CHECK(hall.wrong == 0, "a member did not wait for all");
        for (int64_t i = 0; i < MOST; i++)
            CHECK(hall.came[i] == (i < members), "a member came twice or not at all");
    }
};

}  // namespace

TEST(process, versions_agree) { CHECK(unrolled_abi() == UNROLLED_ABI, "another ABI"); }

TEST(process, levels_are_chosen_or_refused) {
    const int32_t best = unrolled_best_level(), before = unrolled_level();
    CHECK(before >= UNROLLED_PORTABLE && before <= best, "the first level");
    CHECK(unrolled_set_level(UNROLLED_PORTABLE) == UNROLLED_PORTABLE, "portable was refused");
    CHECK(unrolled_features() == 0, "portable has features");
    for (const int32_t wrong : {-1, 4, 1000}) {
        CHECK(unrolled_set_level(wrong) == -1, "a level that does not exist was taken");
        CHECK(unrolled_level() == UNROLLED_PORTABLE, "a refused level changed the level");
    }
    for (int32_t level = best + 1; level <= UNROLLED_AMX; level++)
        CHECK(unrolled_set_level(level) == -1, "a level above the best was taken");
    CHECK(unrolled_set_level(best) == best && unrolled_level() == best, "the best was refused");
    unrolled_set_level(before);
    std::printf("levels up to %d, features %u\n", best, unrolled_features());
}

TEST(process, calls_are_counted) {
    const Inputs in(medium(UNROLLED_LSTM));
    Outputs out(in);
    int64_t before[4];
    for (int32_t i = 0; i < 4; i++) before[i] = unrolled_count(i);
    CHECK(!read(in, out, UNROLLED_FP32, 1), "refused");
    const float a = 2, b = 3;
    float c = 0;
    CHECK(!unrolled_matmul(UNROLLED_FP32, 1, 1, 1, 1, &a, 1, 0, &b, 1, 1, nullptr, &c, 1, 0),
          "refused");
    CHECK(c == 6, "2 times 3");
    CHECK(unrolled_count(UNROLLED_FORWARD) == before[0] + 1, "forward was not counted once");
    CHECK(unrolled_count(UNROLLED_BACKWARD) == before[1] + 1, "backward was not counted once");
    CHECK(unrolled_count(UNROLLED_STEP) == before[2], "a step was counted");
    CHECK(unrolled_count(UNROLLED_MATMUL) == before[3] + 1, "matmul was not counted once");
}

TEST(process, a_borrowed_team_changes_no_bits) {
    check_team(full_team, "full team");
    check_team(lone_team, "lone team");
}

TEST(process, members_wait_for_each_other) {
    const TimeLimit limit;
    for (const unrolled_team team : {static_cast<unrolled_team>(nullptr), &full_team, &lone_team}) {
        unrolled_use_team(team);
        for (const int32_t threads : {1, 2, 3, 4, 9})
            for (int32_t round = 0; round < 20; round++) Hall::check(threads);
        unrolled_use_team(nullptr);
    }
    std::vector<std::thread> callers;  // one of them gets the pool, the others work alone
    for (int i = 0; i < 3; i++)
        callers.emplace_back([] {
            for (int32_t round = 0; round < 50; round++) Hall::check(3);
        });
    for (std::thread &caller : callers) caller.join();
}

/* What is given back is there for the next taker, and nothing is taken by two at once. */
TEST(process, scratch_memory_is_used_again) {
    void *first = workspace_take(5000);
    CHECK(first && reinterpret_cast<uintptr_t>(first) % 64 == 0, "not aligned to 64 bytes");
    workspace_give(first);
    CHECK(workspace_take(5000) == first, "memory given back was not taken again");
    workspace_give(first);
    Random random(12);
    std::vector<std::pair<char *, size_t>> taken;
    int64_t wrong = 0;
    for (int32_t round = 0; round < 3000; round++) {
        if (taken.size() < 50 && random.coin()) {
            const auto size = static_cast<size_t>(random.below(random.coin() ? 200 : 1 << 16)) + 1;
            char *room = static_cast<char *>(workspace_take(size));
            wrong += !room || reinterpret_cast<uintptr_t>(room) % 64 != 0;
            if (!room) continue;
            std::memset(room, static_cast<int>(size % 251), size);
            taken.emplace_back(room, size);
        } else if (!taken.empty()) {
            const auto at = static_cast<size_t>(random.below(static_cast<int64_t>(taken.size())));
            const auto [room, size] = taken[at];
            for (const size_t i : {size_t{0}, size / 2, size - 1})
                wrong += room[i] != static_cast<char>(size % 251);
            workspace_give(room);
            taken[at] = taken.back();
            taken.pop_back();
        }
        if (round % 1000 == 500) {  // more than is kept: everything older goes
            void *large = workspace_take(size_t{70} << 20);
            wrong += !large;
            workspace_give(large);
        }
    }
    for (const auto &[room, size] : taken) workspace_give(room);
    CHECK(wrong == 0, "memory was missing, not aligned, or somebody else's too");
}

TEST(process, any_number_of_threads) {
    const Inputs in(medium(UNROLLED_LSTM)), few(narrow(UNROLLED_LSTM)), odd(uneven(UNROLLED_GRU));
    for (const Inputs *inputs : {&in, &few, &odd}) {
        Outputs one(*inputs);
        CHECK(!read(*inputs, one, UNROLLED_FP32, 1), "refused");
        for (const int32_t threads : {0, 2, 4, 7, 64}) {
            Outputs out(*inputs);
            CHECK(!read(*inputs, out, UNROLLED_FP32, threads), "refused");
            check_same(one, out, std::to_string(threads) + " threads");
        }
    }
}

TEST(process, callers_on_several_threads) {
    const TimeLimit limit;
    std::vector<Inputs> inputs;
    std::vector<Outputs> expected;
    for (const Reading &reading : READINGS) {
        inputs.emplace_back(reading.make(reading.cell));
        expected.emplace_back(inputs.back());
        CHECK(!read(inputs.back(), expected.back(), reading.precision, 1), "refused");
    }
    for (const unrolled_team team : {static_cast<unrolled_team>(nullptr), &full_team}) {
        unrolled_use_team(team);
        std::atomic<int> wrong{0};
        std::vector<std::thread> callers;
        for (int i = 0; i < 4; i++)
            callers.emplace_back([&, i] {
                for (size_t round = 0; round < 18; round++) {
                    const size_t which = (round + static_cast<size_t>(i)) % inputs.size();
                    Outputs out(inputs[which]);
                    wrong += read(inputs[which], out, READINGS[which].precision, 1 + i) != nullptr;
                    const auto right = expected[which].seen(), got = out.seen();
                    for (size_t k = 0; k < got.size(); k++)
                        wrong += !same(*right[k].second, *got[k].second);
                }
            });
        for (std::thread &caller : callers) caller.join();
        unrolled_use_team(nullptr);
        CHECK(wrong == 0, std::to_string(wrong) + " results differ");
    }
}

#if !defined(_WIN32)
/* Run the body in a forked child that has 20 seconds; return whether it ended well. */
template <class Body>
static bool in_child(Body body) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        _exit(body() ? 0 : 1);
    }
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(process, a_forked_child_reads_on) {
    for (const Reading &reading : READINGS)
        for (const unrolled_team team : {static_cast<unrolled_team>(nullptr), &full_team}) {
            const Inputs in(reading.make(reading.cell));
            const int32_t precision = reading.precision;
            Outputs before(in), after(in);
            unrolled_use_team(team);
            CHECK(!read(in, before, precision, 3), "refused");
            const bool good = in_child([&] {
                Outputs out(in), again(in);
                teams = 0;
                const bool ran = !read(in, out, precision, 3) && !read(in, again, precision, 2);
                return ran && teams == 0 && same(out.y, before.y) && same(again.d_x, before.d_x) &&
                       // a child of the child
                       in_child([&] { return !read(in, out, precision, 3); });
            });
            CHECK(good, "a forked child failed or hung");
            CHECK(!read(in, after, precision, 3), "refused");
            check_same(before, after, "the parent after its fork");
            unrolled_use_team(nullptr);
            if (!good) return;  // the next one would take as long to hang
        }
}
#endif

TEST(process, runs_that_cannot_be_are_refused) {
    const Inputs in(medium(UNROLLED_LSTM));
    Outputs out(in);
    const auto refused = [&](const char *what, auto change) {
        unrolled_run run = in.run();
        out.bind(run);
        change(run);
        CHECK(unrolled_forward(&run), std::string("forward took ") + what);
        CHECK(unrolled_backward(&run), std::string("backward took ") + what);
        for (const auto &[name, array] : out.seen())
            CHECK(array->empty() || poisoned((*array)[0]), name + " was written by " + what);
    };
    refused("an unknown cell", [](unrolled_run &run) { run.cell = 4; });
    refused("a negative cell", [](unrolled_run &run) { run.cell = -1; });
    refused("an unknown precision", [](unrolled_run &run) { run.precision = 3; });
    refused("negative rows", [](unrolled_run &run) { run.rows = -1; });
    refused("negative steps", [](unrolled_run &run) { run.steps = -1; });
    refused("a negative input", [](unrolled_run &run) { run.input = -1; });
    refused("no hidden unit", [](unrolled_run &run) { run.hidden = 0; });
    refused("sizes that overflow", [](unrolled_run &run) { run.hidden = INT64_MAX / 2; });
    refused("int8 with something kept", [](unrolled_run &run) { run.precision = UNROLLED_INT8; });
}

TEST(process, measurements_are_numbers) {
    at_every_level([] {
        for (const int32_t precision : {UNROLLED_FP32, UNROLLED_BF16, UNROLLED_INT8}) {
            const double peak = unrolled_peak(precision, 2, 0.01);
            CHECK(std::isfinite(peak) && peak > 1e6, "peak " + std::to_string(peak));
        }
    });
    const double bandwidth = unrolled_bandwidth(1 << 20, 2, 0.01);
    CHECK(std::isfinite(bandwidth) && bandwidth > 1e6, "bandwidth " + std::to_string(bandwidth));
}
