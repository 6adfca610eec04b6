/* Levels, threads, processes, counters, and calls that cannot be. */
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

void check_team(unrolled_team team, const char *name) {
    for (const auto make : {medium, narrow}) {
        const Inputs in(make(UNROLLED_GRU));
        Outputs own(in), borrowed(in), again(in);
        CHECK(!read(in, own, UNROLLED_FP32, 3), "refused");
        teams = 0;
        unrolled_use_team(team);
        CHECK(!read(in, borrowed, UNROLLED_FP32, 3), "refused");
        unrolled_use_team(nullptr);
        const int used = teams;
        CHECK(used > 0, std::string(name) + ": the team did nothing");
        check_same(own, borrowed, name);
        CHECK(!read(in, again, UNROLLED_FP32, 3), "refused");
        CHECK(teams == used, std::string(name) + ": the team worked after it was given back");
    }
}

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

TEST(process, any_number_of_threads) {
    const Inputs in(medium(UNROLLED_LSTM)), few(narrow(UNROLLED_LSTM));
    for (const Inputs *inputs : {&in, &few}) {
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
    const Inputs in(medium(UNROLLED_GRU)), few(narrow(UNROLLED_GRU));
    Outputs expected(in), expected_few(few);
    CHECK(!read(in, expected, UNROLLED_FP32, 1), "refused");
    CHECK(!read(few, expected_few, UNROLLED_FP32, 1), "refused");
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; i++)
        callers.emplace_back([&, i] {
            for (int round = 0; round < 20; round++) {
                const bool wide = (i + round) % 2;
                Outputs out(wide ? few : in);
                wrong += read(wide ? few : in, out, UNROLLED_FP32, 1 + i) != nullptr;
                const auto right = (wide ? expected_few : expected).seen(), got = out.seen();
                for (size_t k = 0; k < got.size(); k++)
                    wrong += !same(*right[k].second, *got[k].second);
            }
        });
    for (std::thread &caller : callers) caller.join();
    CHECK(wrong == 0, std::to_string(wrong) + " results differ");
}

#if !defined(_WIN32)
/* Run the body in a forked child that has a minute; return whether it ended well. */
template <class Body>
static bool in_child(Body body) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(body() ? 0 : 1);
    }
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(process, a_forked_child_reads_on) {
    for (const auto make : {medium, narrow})
        for (const unrolled_team team : {static_cast<unrolled_team>(nullptr), &full_team}) {
            const Inputs in(make(UNROLLED_LSTM));
            Outputs before(in), after(in);
            unrolled_use_team(team);
            CHECK(!read(in, before, UNROLLED_FP32, 3), "refused");
            const bool good = in_child([&] {
                Outputs out(in), again(in);
                teams = 0;
                const bool ran =
                    !read(in, out, UNROLLED_FP32, 3) && !read(in, again, UNROLLED_FP32, 2);
                return ran && teams == 0 && same(out.y, before.y) && same(again.d_x, before.d_x) &&
                       // a child of the child
                       in_child([&] { return !read(in, out, UNROLLED_FP32, 3); });
            });
            CHECK(good, "a forked child failed or hung");
            CHECK(!read(in, after, UNROLLED_FP32, 3), "refused");
            check_same(before, after, "the parent after its fork");
            unrolled_use_team(nullptr);
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
