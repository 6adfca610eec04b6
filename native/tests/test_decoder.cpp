/* A step of a transformer decoder against the equations in double. */
#include <algorithm>
#include <functional>
#include <memory>

#include "check.h"

namespace {

struct Free {
    void operator()(unrolled_decoder *decoder) const { unrolled_decoder_free(decoder); }
};
using Owned = std::unique_ptr<unrolled_decoder, Free>;
using Numbers = std::vector<double>;

struct Kind {
    int32_t norm, norm_first, feedforward;
    int64_t layers, heads, size, kv_heads, memory_heads, inner, vocabulary;
    bool biases, rotary, last_norm;
    int64_t width() const { return heads * size; }
};

struct Linear {
    int64_t outputs, inputs;
    Array weight, bias;
};

/* All parts of one block, or of the whole stack, by their number. */
struct Parts {
    Linear of[UNROLLED_HEAD + 1];
};

struct Model {
    Kind kind;
    std::vector<Parts> blocks;

    Model(const Kind &k, Random &random) : kind(k), blocks(static_cast<size_t>(k.layers)) {
        const int64_t w = k.width();
        for (Parts &parts : blocks) {
            linear(parts, UNROLLED_SELF_IN, w + 2 * k.kv_heads * k.size, w, random);
            linear(parts, UNROLLED_SELF_OUT, w, w, random);
            linear(parts, UNROLLED_UP, k.inner * (k.feedforward == UNROLLED_SWIGLU ? 2 : 1), w, random);
            linear(parts, UNROLLED_DOWN, w, k.inner, random);
            norm(parts, UNROLLED_SELF_NORM, random);
            norm(parts, UNROLLED_FEEDFORWARD_NORM, random);
            if (!k.memory_heads) continue;
            linear(parts, UNROLLED_CROSS_IN, w, w, random);
            linear(parts, UNROLLED_CROSS_OUT, w, w, random);
            norm(parts, UNROLLED_CROSS_NORM, random);
        }
        if (k.last_norm) norm(blocks[0], UNROLLED_LAST_NORM, random);
        if (k.vocabulary) linear(blocks[0], UNROLLED_HEAD, k.vocabulary, w, random);
    }

    void linear(Parts &parts, int32_t part, int64_t outputs, int64_t inputs, Random &random) {
        const float scale = 1.7f / std::sqrt(static_cast<float>(inputs));
        parts.of[part] = {outputs, inputs, Array(outputs * inputs, random, scale),
                          kind.biases ? Array(outputs, random, 0.5f) : Array()};
    }

    void norm(Parts &parts, int32_t part, Random &random) {
        Array weight(kind.width(), random, 0.5f);
        for (int64_t i = 0; i < weight.size(); i++) weight[i] += 1;
        const bool biased = kind.norm == UNROLLED_LAYER_NORM && kind.biases;
        parts.of[part] = {kind.width(), 1, std::move(weight),
                          biased ? Array(kind.width(), random, 0.5f) : Array()};
    }

    const Linear &part(int64_t layer, int32_t number) const {
        return blocks[static_cast<size_t>(layer)].of[number];
    }
    static float epsilon() { return 1e-5f; }

    Owned packed(int32_t precision) const {
        const Kind &k = kind;
        const unrolled_stack stack = {.precision = precision,
                                      .norm = k.norm,
                                      .norm_first = k.norm_first,
                                      .feedforward = k.feedforward,
                                      .epsilon = epsilon(),
                                      .head_epsilon = epsilon(),
                                      .layers = k.layers,
                                      .width = k.width(),
                                      .heads = k.heads,
                                      .size = k.size,
                                      .kv_heads = k.kv_heads,
                                      .memory_heads = k.memory_heads,
                                      .inner = k.inner,
                                      .vocabulary = k.vocabulary,
                                      .window = 0};
        Owned made(unrolled_decoder_new(&stack));
        CHECK(made != nullptr, "no decoder was made");
        for (int64_t layer = 0; layer < k.layers; layer++)
            for (int32_t number = 0; number <= UNROLLED_HEAD; number++) {
                const Linear &p = part(layer, number);
                if (!p.weight.data()) continue;
                const char *message = unrolled_decoder_load(made.get(), layer, number,
                                                            p.weight.data(), p.bias.data());
                CHECK(!message, std::string(message ? message : ""));
            }
        return made;
    }
};

/* What a step is given, with gaps in every direction, and what it must not touch. */
struct Given {
    Kind k;
    int64_t rows, sources, steps, room, cache_rows;
    bool wandering; /* keys of a row stand in any row */
    Array x, cosines, sines, keys, values;
    std::vector<Array> memory_keys, memory_values;
    std::vector<const float *> key_pointers, value_pointers;
    std::vector<int64_t> lengths, memory_lengths, memory_rows;
    std::vector<int32_t> origin;
    int64_t strides[4], memory_strides[3];

    Given(const Kind &k, int64_t rows, int64_t sources, bool wandering, Random &random)
        : k(k), rows(rows), sources(sources), steps(1 + random.below(40)), room(2 + random.below(40)),
          cache_rows(rows + random.below(3)), wandering(wandering) {
        x = Array(rows * k.width(), random, 2);
        if (k.rotary) {
            cosines = Array(rows * (k.size / 2));
            sines = Array(rows * (k.size / 2));
            for (int64_t i = 0; i < cosines.size(); i++) {
                const float angle = random.number(3);
                cosines[i] = std::cos(angle);
                sines[i] = std::sin(angle);
            }
        }
        strides[3] = k.size + 3;
        strides[2] = room * strides[3] + 1;
        strides[1] = k.kv_heads * strides[2] + 2;
        strides[0] = cache_rows * strides[1] + 5;
        keys = Array(k.layers * strides[0]);
        values = Array(k.layers * strides[0]);
        for (int64_t b = 0; b < rows; b++) lengths.push_back(random.below(room));
        for (int64_t b = 0; b < cache_rows; b++)
            for (int64_t s = 0; s < (b < rows ? lengths[static_cast<size_t>(b)] : room); s++)
                fill_step(b, s, random);
        if (wandering) wander(random);
        memory(random);
    }

    void fill_step(int64_t b, int64_t s, Random &random) {
        for (int64_t layer = 0; layer < k.layers; layer++)
            for (int64_t h = 0; h < k.kv_heads; h++)
                for (int64_t e = 0; e < k.size; e++) {
                    keys[at(layer, b, h, s) + e] = random.number(2);
                    values[at(layer, b, h, s) + e] = random.number(2);
                }
    }

    void wander(Random &random) {
        origin.assign(static_cast<size_t>(rows * room), -9); /* what is not read is not looked at */
        for (int64_t b = 0; b < rows; b++)
            for (int64_t s = 0; s < lengths[static_cast<size_t>(b)]; s++) {
                int64_t from = random.below(cache_rows);
                while (from < rows && s >= lengths[static_cast<size_t>(from)]) from = b;
                origin[static_cast<size_t>(b * room + s)] = static_cast<int32_t>(from);
            }
    }

    void memory(Random &random) {
        memory_strides[2] = k.size + 1;
        memory_strides[1] = steps * memory_strides[2] + 2;
        memory_strides[0] = k.memory_heads * memory_strides[1] + 3;
        for (int64_t s = 0; s < sources; s++) memory_lengths.push_back(random.below(steps + 1));
        for (int64_t b = 0; b < rows; b++) memory_rows.push_back(random.below(sources));
        for (int64_t layer = 0; k.memory_heads && layer < k.layers; layer++)
            for (std::vector<Array> *parts : {&memory_keys, &memory_values}) {
                parts->emplace_back(sources * memory_strides[0]);
                for (int64_t s = 0; s < sources; s++)
                    for (int64_t h = 0; h < k.memory_heads; h++)
                        for (int64_t m = 0; m < memory_lengths[static_cast<size_t>(s)]; m++)
                            for (int64_t e = 0; e < k.size; e++)
                                parts->back()[memory_at(s, h, m) + e] = random.number(2);
            }
        for (const Array &part : memory_keys) key_pointers.push_back(part.data());
        for (const Array &part : memory_values) value_pointers.push_back(part.data());
    }

    int64_t at(int64_t layer, int64_t b, int64_t h, int64_t s) const {
        return layer * strides[0] + b * strides[1] + h * strides[2] + s * strides[3];
    }
    int64_t memory_at(int64_t s, int64_t h, int64_t m) const {
        return s * memory_strides[0] + h * memory_strides[1] + m * memory_strides[2];
    }
    int64_t holder(int64_t b, int64_t s) const {
        return wandering && s < lengths[static_cast<size_t>(b)]
                   ? origin[static_cast<size_t>(b * room + s)]
                   : b;
    }
};

/* What a step writes. */
struct Written {
    Array keys, values, y, logits;
    std::vector<int32_t> origin;
    int64_t ld;

    Written(const Given &g)
        : keys(g.keys.size()), values(g.values.size()), y(g.rows * g.k.width()),
          origin(g.origin), ld(g.k.vocabulary + 3) {
        for (int64_t i = 0; i < keys.size(); i++) {
            keys[i] = g.keys[i];
            values[i] = g.values[i];
        }
        if (g.k.vocabulary) logits = Array(g.rows * ld);
    }
};

/* The call for some of the rows; theirs stand where they do in the whole call. */
unrolled_decoding call_of(const Given &g, Written &to, int64_t first, int64_t rows, int64_t threads) {
    unrolled_decoding c = {};
    const int64_t half = g.k.size / 2;
    c.threads = threads;
    c.rows = rows;
    c.sources = g.sources;
    c.cache_rows = g.cache_rows - (g.wandering ? 0 : first);
    c.room = g.room;
    c.memory_steps = g.steps;
    std::memcpy(c.cache_strides, g.strides, sizeof g.strides);
    std::memcpy(c.memory_strides, g.memory_strides, sizeof g.memory_strides);
    c.x = g.x.data() + first * g.k.width();
    c.cosines = g.k.rotary ? g.cosines.data() + first * half : nullptr;
    c.sines = g.k.rotary ? g.sines.data() + first * half : nullptr;
    c.keys = to.keys.data() + (g.wandering ? 0 : first * g.strides[1]);
    c.values = to.values.data() + (g.wandering ? 0 : first * g.strides[1]);
    c.lengths = g.lengths.data() + first;
    c.origin = g.wandering ? to.origin.data() + first * g.room : nullptr;
    c.memory_keys = g.k.memory_heads ? g.key_pointers.data() : nullptr;
    c.memory_values = g.k.memory_heads ? g.value_pointers.data() : nullptr;
    c.memory_lengths = g.memory_lengths.data();
    c.memory_rows = g.memory_rows.data() + first;
    c.y = to.y.data() + first * g.k.width();
    c.logits = g.k.vocabulary ? to.logits.data() + first * to.ld : nullptr;
    c.ld_logits = to.ld;
    return c;
}

/* ---- the equations, one row ---- */

Numbers times(const Linear &p, const Numbers &x) {
    Numbers y(static_cast<size_t>(p.outputs));
    for (int64_t j = 0; j < p.outputs; j++) {
        double sum = p.bias.data() ? p.bias[j] : 0.0;
        for (int64_t i = 0; i < p.inputs; i++) sum += p.weight[j * p.inputs + i] * x[static_cast<size_t>(i)];
        y[static_cast<size_t>(j)] = sum;
    }
    return y;
}

Numbers normed(const Kind &k, const Linear &p, const Numbers &x) {
    double mean = 0, square = 0;
    const double n = static_cast<double>(x.size());
    if (k.norm == UNROLLED_LAYER_NORM)
        for (const double v : x) mean += v / n;
    for (const double v : x) square += (v - mean) * (v - mean) / n;
    Numbers y;
    for (size_t i = 0; i < x.size(); i++) {
        const int64_t at = static_cast<int64_t>(i);
        y.push_back((x[i] - mean) / std::sqrt(square + Model::epsilon()) * p.weight[at] +
                    (p.bias.data() ? p.bias[at] : 0.0));
    }
    return y;
}

using Reach = std::function<double(int64_t head, int64_t s, int64_t e)>;

Numbers attend(const Kind &k, const Numbers &query, int64_t kv_heads, int64_t steps, const Reach &key,
               const Reach &value) {
    Numbers out(static_cast<size_t>(k.width()));
    for (int64_t h = 0; h < k.heads; h++) {
        const int64_t own = h / (k.heads / kv_heads);
        Numbers weights;
        double sum = 0, most = -1e300;
        for (int64_t s = 0; s < steps; s++) {
            double dot = 0;
            for (int64_t e = 0; e < k.size; e++)
                dot += query[static_cast<size_t>(h * k.size + e)] * key(own, s, e);
            weights.push_back(dot / std::sqrt(static_cast<double>(k.size)));
            most = std::fmax(most, weights.back());
        }
        for (double &weight : weights) sum += weight = std::exp(weight - most);
        for (int64_t s = 0; s < steps; s++)
            for (int64_t e = 0; e < k.size; e++)
                out[static_cast<size_t>(h * k.size + e)] += weights[static_cast<size_t>(s)] / sum * value(own, s, e);
    }
    return out;
}

void turn(const Given &g, int64_t b, Numbers &all) {
    const int64_t half = g.k.size / 2;
    for (int64_t h = 0; h < g.k.heads + g.k.kv_heads; h++)
        for (int64_t e = 0; e < half; e++) {
            double &first = all[static_cast<size_t>(h * g.k.size + e)];
            double &second = all[static_cast<size_t>(h * g.k.size + e + half)];
            const double c = g.cosines[b * half + e], s = g.sines[b * half + e], was = first;
            first = was * c - second * s;
            second = second * c + was * s;
        }
}

Numbers fed_forward(const Kind &k, const Linear &up, const Linear &down, const Numbers &x) {
    const Numbers u = times(up, x);
    Numbers inner;
    for (size_t i = 0; i < static_cast<size_t>(k.inner); i++) {
        const double v = u[i];
        if (k.feedforward == UNROLLED_RELU)
            inner.push_back(v > 0 ? v : 0);
        else if (k.feedforward == UNROLLED_GELU)
            inner.push_back(v * std::erfc(-v / std::sqrt(2.0)) / 2);
        else
            inner.push_back(v / (1 + std::exp(-v)) * u[i + static_cast<size_t>(k.inner)]);
    }
    return times(down, inner);
}

struct Expected {
    Numbers keys, values, y, logits; /* NaN where nothing may be written */
};

void expect_row(const Model &m, const Given &g, int64_t b, Expected &to, int64_t ld) {
    const Kind &k = m.kind;
    const int64_t w = k.width(), past = g.lengths[static_cast<size_t>(b)];
    Numbers x;
    for (int64_t i = 0; i < w; i++) x.push_back(g.x[b * w + i]);
    const auto part = [&](const Linear &norm, const std::function<Numbers(const Numbers &)> &run) {
        const Numbers added = run(k.norm_first ? normed(k, norm, x) : x);
        for (size_t i = 0; i < x.size(); i++) x[i] += added[i];
        if (!k.norm_first) x = normed(k, norm, x);
    };
    for (int64_t layer = 0; layer < k.layers; layer++) {
        part(m.part(layer, UNROLLED_SELF_NORM), [&](const Numbers &read) {
            Numbers all = times(m.part(layer, UNROLLED_SELF_IN), read);
            if (k.rotary) turn(g, b, all);
            for (int64_t h = 0; h < k.kv_heads; h++)
                for (int64_t e = 0; e < k.size; e++) {
                    const size_t index = static_cast<size_t>(g.at(layer, b, h, past) + e);
                    to.keys[index] = all[static_cast<size_t>(w + h * k.size + e)];
                    to.values[index] = all[static_cast<size_t>(w + (k.kv_heads + h) * k.size + e)];
                }
            const auto reach = [&](const Numbers &from) {
                return [&, layer](int64_t h, int64_t s, int64_t e) {
                    return from[static_cast<size_t>(g.at(layer, g.holder(b, s), h, s) + e)];
                };
            };
            return times(m.part(layer, UNROLLED_SELF_OUT),
                         attend(k, all, k.kv_heads, past + 1, reach(to.keys), reach(to.values)));
        });
        if (k.memory_heads)
            part(m.part(layer, UNROLLED_CROSS_NORM), [&](const Numbers &read) {
                const int64_t source = g.memory_rows[static_cast<size_t>(b)];
                const auto reach = [&](const Array &from) {
                    return [&, source](int64_t h, int64_t s, int64_t e) -> double {
                        return from[g.memory_at(source, h, s) + e];
                    };
                };
                return times(m.part(layer, UNROLLED_CROSS_OUT),
                             attend(k, times(m.part(layer, UNROLLED_CROSS_IN), read), k.memory_heads,
                                    g.memory_lengths[static_cast<size_t>(source)],
                                    reach(g.memory_keys[static_cast<size_t>(layer)]),
                                    reach(g.memory_values[static_cast<size_t>(layer)])));
            });
        part(m.part(layer, UNROLLED_FEEDFORWARD_NORM), [&](const Numbers &read) {
            return fed_forward(k, m.part(layer, UNROLLED_UP), m.part(layer, UNROLLED_DOWN), read);
        });
    }
    if (k.last_norm) x = normed(k, m.part(0, UNROLLED_LAST_NORM), x);
    for (int64_t i = 0; i < w; i++) to.y[static_cast<size_t>(b * w + i)] = x[static_cast<size_t>(i)];
    if (!k.vocabulary) return;
    const Numbers logits = times(m.part(0, UNROLLED_HEAD), x);
    for (size_t i = 0; i < logits.size(); i++) to.logits[static_cast<size_t>(b * ld) + i] = logits[i];
}

Numbers wide(const Array &numbers) {
    Numbers all;
    for (int64_t i = 0; i < numbers.size(); i++) all.push_back(poisoned(numbers[i]) ? NAN : numbers[i]);
    return all;
}

Expected expect(const Model &m, const Given &g, const Written &before) {
    Expected to{wide(before.keys), wide(before.values), Numbers(static_cast<size_t>(before.y.size())),
                Numbers(static_cast<size_t>(before.logits.size()), NAN)};
    for (int64_t b = 0; b < g.rows; b++) expect_row(m, g, b, to, before.ld);
    return to;
}

/* fp32: the roundings of some hundred sums, which norms of narrow rows enlarge. bf16 rounds operands to
 * 2^-9 and int8 to 2^-8 of the largest, in every product of every block; 4 bits to 2^-4. */
double tolerance(int32_t precision) {
    if (precision == UNROLLED_Q4_0) return 0.9;
    return precision == UNROLLED_FP32 ? 2e-5 : precision == UNROLLED_BF16 ? 0.08 : 0.15;
}

void check_step(const Model &m, const Given &g, int32_t precision) {
    const Expected expected = expect(m, g, Written(g));
    at_every_level([&] {
        const Owned decoder = m.packed(precision);
        Written one(g);
        const unrolled_decoding call = call_of(g, one, 0, g.rows, 1);
        const char *message = unrolled_decoder_step(decoder.get(), &call);
        CHECK(!message, std::string(message ? message : ""));
        if (message) return;
        const double allowed = tolerance(precision);
        NEAR("keys", one.keys, expected.keys, allowed);
        NEAR("values", one.values, expected.values, allowed);
        NEAR("y", one.y, expected.y, allowed);
        if (m.kind.vocabulary) NEAR("logits", one.logits, expected.logits, allowed);
        for (const int64_t threads : {2, 3}) {
            Written several(g);
            const unrolled_decoding again = call_of(g, several, 0, g.rows, threads);
            CHECK(!unrolled_decoder_step(decoder.get(), &again), "threads: refused");
            CHECK(same(one.y, several.y) && same(one.keys, several.keys) &&
                      same(one.logits, several.logits),
                  std::to_string(threads) + " threads: other bits");
        }
        for (int64_t b = 0; g.wandering && b < g.rows; b++) {
            const int64_t at = b * g.room + g.lengths[static_cast<size_t>(b)];
            std::vector<int32_t> expected_origin(g.origin);
            expected_origin[static_cast<size_t>(at)] = static_cast<int32_t>(b);
            CHECK(std::equal(expected_origin.begin() + b * g.room, expected_origin.begin() + (b + 1) * g.room,
                             one.origin.begin() + b * g.room),
                  "origin of row " + std::to_string(b));
        }
        if (g.wandering) return;
        const int64_t row = g.rows - 1, width = m.kind.width();
        Written alone(g);
        const unrolled_decoding last = call_of(g, alone, row, 1, 1);
        CHECK(!unrolled_decoder_step(decoder.get(), &last), "one row: refused");
        CHECK(std::memcmp(alone.y.data() + row * width, one.y.data() + row * width,
                          static_cast<size_t>(width) * sizeof(float)) == 0,
              "one row alone: other bits");
        CHECK(row == 0 || poisoned(alone.y[0]), "one row alone: another was written");
    });
}

std::string describe(const Kind &k) {
    return "norm " + std::to_string(k.norm) + (k.norm_first ? " first" : " after") + " feedforward " +
           std::to_string(k.feedforward) + " layers " + std::to_string(k.layers) + " heads " +
           std::to_string(k.heads) + "x" + std::to_string(k.size) + " kv " +
           std::to_string(k.kv_heads) + " memory " + std::to_string(k.memory_heads) + " inner " +
           std::to_string(k.inner) + " vocabulary " + std::to_string(k.vocabulary);
}

const Kind SMALL = {UNROLLED_LAYER_NORM, 1, UNROLLED_RELU, 2, 4, 8, 4, 4, 48, 37, true, false, true};

/* Any decoder: sizes that fill no vector, heads in groups, every choice. */
Kind any_kind(Random &random) {
    Kind k = SMALL;
    const int64_t heads[][3] = {{1, 1, 1}, {2, 1, 2}, {4, 2, 4}, {6, 3, 2}, {4, 4, 0}};
    const int64_t *chosen = heads[random.below(5)];
    const int64_t sizes[] = {1, 2, 6, 16, 20, 34, 66};
    k.norm = random.coin() ? UNROLLED_LAYER_NORM : UNROLLED_RMS_NORM;
    k.norm_first = random.coin();
    k.feedforward = static_cast<int32_t>(random.below(3));
    k.layers = 1 + random.below(3);
    k.heads = chosen[0];
    k.kv_heads = chosen[1];
    k.memory_heads = chosen[2];
    k.size = sizes[random.below(7)];
    k.inner = 1 + random.below(70);
    k.vocabulary = random.below(3) ? 1 + random.below(150) : 0;
    k.biases = random.coin();
    k.rotary = random.coin() && k.size % 2 == 0;
    k.last_norm = random.coin();
    // the norm of a row of one or two numbers makes roundings as large as the numbers
    if (k.width() < 6) k.size = 8;
    return k;
}

}  // namespace

TEST(decoder, any_decoder_is_near_the_equations) {
    for (uint64_t seed = 0; seed < 40; seed++) {
        Random random(seed + 100);
        const Kind k = any_kind(random);
        const int64_t rows = 1 + random.below(20), sources = 1 + random.below(rows);
        context = describe(k) + " rows " + std::to_string(rows);
        const Model m(k, random);
        check_step(m, Given(k, rows, sources, seed % 3 == 2, random), UNROLLED_FP32);
    }
}

TEST(decoder, weights_of_fewer_bits) {
    for (const int32_t precision : {UNROLLED_BF16, UNROLLED_INT8, UNROLLED_Q8_0, UNROLLED_Q4_0})
        for (uint64_t seed = 0; seed < 6; seed++) {
            Random random(seed + 900);
            Kind k = any_kind(random);
            k.layers = 1; // every block rounds again
            context = describe(k) + " precision " + std::to_string(precision);
            const Model m(k, random);
            check_step(m, Given(k, 1 + random.below(40), 3, false, random), precision);
        }
}

/* Enough rows and weights for every thread to take some, and for tiles of full height. */
TEST(decoder, many_rows) {
    Random random(3);
    Kind k = SMALL;
    k.size = 32;
    k.inner = 256;
    k.vocabulary = 1000;
    const Model m(k, random);
    for (const int64_t rows : {97, 200}) {
        context = "rows " + std::to_string(rows);
        check_step(m, Given(k, rows, 5, rows == 200, random), UNROLLED_FP32);
    }
}

/* Many logits whose rows begin with a line of the cache are written past the caches: the same bits. */
TEST(decoder, logits_that_pass_the_caches) {
    Random random(4);
    Kind k = SMALL;
    k.layers = 1;
    k.vocabulary = 1003;
    const int64_t rows = 280, ld = 1008;
    const Model m(k, random);
    const Given g(k, rows, 7, false, random);
    std::vector<float> room(static_cast<size_t>(rows * ld + 16));
    float *aligned = room.data();
    while (reinterpret_cast<uintptr_t>(aligned) % 64) aligned++;
    at_every_level([&] {
        const Owned d = m.packed(UNROLLED_FP32);
        Written to(g);
        unrolled_decoding call = call_of(g, to, 0, rows, 2);
        CHECK(!unrolled_decoder_step(d.get(), &call), "refused");
        std::fill(room.begin(), room.end(), -7.0f);
        call.logits = aligned;
        call.ld_logits = ld;
        CHECK(!unrolled_decoder_step(d.get(), &call), "refused");
        int64_t wrong = 0;
        for (int64_t b = 0; b < rows; b++)
            for (int64_t j = 0; j < ld; j++)
                wrong += j < k.vocabulary ? bits(aligned[b * ld + j]) != bits(to.logits[b * to.ld + j])
                                          : aligned[b * ld + j] != -7.0f;
        CHECK(wrong == 0, std::to_string(wrong) + " numbers differ");
    });
}

TEST(decoder, gelu_of_any_number) {
    /* one head, no memory, attention that adds nothing, products that let through what they read */
    const int64_t w = 64;
    Array eye(w * w), zeros(w * w), none(w), in(3 * w * w);
    for (int64_t i = 0; i < w * w; i++) {
        eye[i] = i % (w + 1) == 0;
        zeros[i] = 0;
    }
    for (int64_t i = 0; i < 3 * w * w; i++) in[i] = 0;
    at_every_level([&] {
        const unrolled_stack stack = {.precision = UNROLLED_FP32,
                                      .norm = UNROLLED_RMS_NORM,
                                      .norm_first = 0,
                                      .feedforward = UNROLLED_GELU,
                                      .epsilon = 0,
                                      .head_epsilon = 0,
                                      .layers = 1,
                                      .width = w,
                                      .heads = 1,
                                      .size = w,
                                      .kv_heads = 1,
                                      .memory_heads = 0,
                                      .inner = w,
                                      .vocabulary = 0,
                                      .window = 0};
        const Owned d(unrolled_decoder_new(&stack));
        Array ones(w), fives(w); // so that numbers up to 8.6 are seen
        for (int64_t i = 0; i < w; i++) {
            ones[i] = 1;
            fives[i] = 5;
        }
        const auto load = [&](int32_t part, const Array &weight) {
            CHECK(!unrolled_decoder_load(d.get(), 0, part, weight.data(), nullptr), "load");
        };
        load(UNROLLED_SELF_IN, in);
        load(UNROLLED_SELF_OUT, zeros);
        load(UNROLLED_UP, eye);
        load(UNROLLED_DOWN, eye);
        load(UNROLLED_SELF_NORM, fives);
        load(UNROLLED_FEEDFORWARD_NORM, ones);
        for (int64_t round = 0; round < 40; round++) {
            Array x(w), y(w), keys(w), values(w);
            Numbers expected, sum;
            double square = 0;
            for (int64_t i = 0; i < w; i++) {
                x[i] = static_cast<float>(i * 40 + round - 1280) / 160;
                square += static_cast<double>(x[i]) * x[i] / w;
            }
            for (int64_t i = 0; i < w; i++) { // after the first norm, which scales alone
                const double v = 5 * x[i] / std::sqrt(square);
                sum.push_back(v + v * std::erfc(-v / std::sqrt(2.0)) / 2);
            }
            double after = 0;
            for (const double v : sum) after += v * v / w;
            for (const double v : sum) expected.push_back(v / std::sqrt(after));
            const int64_t length = 0;
            unrolled_decoding c = {};
            c.threads = c.rows = c.cache_rows = c.room = 1;
            c.cache_strides[0] = c.cache_strides[1] = c.cache_strides[2] = c.cache_strides[3] = w;
            c.x = x.data();
            c.keys = keys.data();
            c.values = values.data();
            c.lengths = &length;
            c.y = y.data();
            CHECK(!unrolled_decoder_step(d.get(), &c), "refused");
            NEAR("gelu", y, expected, 1e-6);
        }
    });
}

/* What was chosen of a row, from the scores that a step without k writes. */
struct Chosen {
    int64_t k;
    Array best;
    std::vector<int64_t> ids;
    Chosen(int64_t rows, int64_t k) : k(k), best(rows * k), ids(static_cast<size_t>(rows * k), -9) {}
    void give(unrolled_decoding &call, const std::vector<int64_t> &banned, int64_t first = 0) {
        call.k = k;
        call.best = best.data() + first * k;
        call.best_ids = ids.data() + first * k;
        call.banned = banned.data();
        call.banned_count = static_cast<int64_t>(banned.size());
        call.logits = nullptr;
    }
};

void check_chosen(const Chosen &got, int64_t b, const float *logits, int64_t n,
                  const std::vector<int64_t> &banned) {
    double most = -1e300, sum = 0;
    for (int64_t j = 0; j < n; j++) most = std::fmax(most, logits[j]);
    for (int64_t j = 0; j < n; j++) sum += std::exp(logits[j] - most);
    const auto left = [&](int64_t id) {
        return std::count(banned.begin(), banned.end(), id) ? -INFINITY : logits[id];
    };
    std::vector<int64_t> order;
    for (int64_t j = 0; j < n; j++) order.push_back(j);
    std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return left(i) > left(j); });
    for (int64_t i = 0; i < got.k; i++) {
        const double expected = left(order[static_cast<size_t>(i)]) - most - std::log(sum);
        const float value = got.best[b * got.k + i];
        const int64_t id = got.ids[static_cast<size_t>(b * got.k + i)];
        // sums of thousands of exponentials, and a difference of numbers of size 10
        CHECK(std::isinf(expected) ? value == expected : std::fabs(value - expected) < 5e-6,
              "row " + std::to_string(b) + " index " + std::to_string(i) + ": " +
                  std::to_string(value) + ", expected " + std::to_string(expected));
        if (!std::isinf(expected))
            CHECK(id == order[static_cast<size_t>(i)], "row " + std::to_string(b) + ": another id");
    }
}

TEST(decoder, the_best_are_those_of_the_logits) {
    for (const int64_t vocabulary : {7, 64, 511, 1003, 5000})
        for (const int64_t rows : {1, 5, 90}) {
            Random random(static_cast<uint64_t>(vocabulary + rows));
            Kind k = SMALL;
            k.layers = 1;
            k.vocabulary = vocabulary;
            const Model m(k, random);
            const Given g(k, rows, 1, false, random);
            const std::vector<int64_t> banned = {0, vocabulary / 2, vocabulary - 1, 0};
            context = "vocabulary " + std::to_string(vocabulary) + " rows " + std::to_string(rows);
            at_every_level([&] {
                const Owned d = m.packed(UNROLLED_FP32);
                Written to(g), again(g);
                const unrolled_decoding whole = call_of(g, to, 0, rows, 1);
                CHECK(!unrolled_decoder_step(d.get(), &whole), "refused");
                Chosen one(rows, 6);
                for (const int64_t threads : {1, 2, 3}) {
                    unrolled_decoding call = call_of(g, again, 0, rows, threads);
                    Chosen got(rows, 6);
                    got.give(call, banned);
                    CHECK(!unrolled_decoder_step(d.get(), &call), "refused");
                    if (threads == 1) one = std::move(got);
                    else
                        CHECK(same(one.best, got.best) && one.ids == got.ids,
                              std::to_string(threads) + " threads: other bits");
                }
                CHECK(poisoned(again.logits[0]), "logits were written");
                CHECK(same(to.y, again.y) && same(to.keys, again.keys), "another step");
                for (int64_t b = 0; b < rows; b++)
                    check_chosen(one, b, to.logits.data() + b * to.ld, vocabulary, banned);
                unrolled_decoding last = call_of(g, again, rows - 1, 1, 1);
                Chosen alone(rows, 6);
                alone.give(last, banned, rows - 1);
                CHECK(!unrolled_decoder_step(d.get(), &last), "one row: refused");
                CHECK(std::memcmp(alone.best.data() + (rows - 1) * 6, one.best.data() + (rows - 1) * 6,
                                  6 * sizeof(float)) == 0,
                      "one row alone: other bits");
            });
        }
}

/* Nothing but -inf in the first chunks of the head; then a score that is none. */
TEST(decoder, the_best_of_scores_without_bounds) {
    Random random(5);
    Kind k = SMALL;
    k.layers = 1;
    k.vocabulary = 2000;
    Model m(k, random);
    const Given g(k, 4, 1, false, random);
    Array &bias = m.blocks[0].of[UNROLLED_HEAD].bias;
    for (int64_t j = 0; j < 1500; j++) bias[j] = -INFINITY;
    for (const float last : {0.0f, INFINITY, NAN}) {
        bias[1999] = last;
        context = "last bias " + std::to_string(last);
        at_every_level([&] {
            const Owned d = m.packed(UNROLLED_FP32);
            Written to(g);
            const unrolled_decoding whole = call_of(g, to, 0, 4, 1);
            unrolled_decoding call = whole;
            Chosen got(4, 3);
            got.give(call, {});
            CHECK(!unrolled_decoder_step(d.get(), &whole) && !unrolled_decoder_step(d.get(), &call),
                  "refused");
            for (int64_t b = 0; b < 4; b++) {
                if (last == 0.0f) check_chosen(got, b, to.logits.data() + b * to.ld, 2000, {});
                for (int64_t i = 0; i < 3 && last != 0.0f; i++)
                    CHECK(std::isnan(got.best[b * 3 + i]) && got.ids[static_cast<size_t>(b * 3 + i)] == i,
                          "expected NaN and the first ids");
            }
        });
    }
}

/* The last steps of two sequences as the rows of one call, by any number of threads, and one by one. */
TEST(decoder, steps_of_a_sequence_in_one_call) {
    Random random(21);
    for (const int64_t steps : {3, 40, 150}) {
        /* wide enough that threads share columns of few rows */
        const Kind kind = {.norm = UNROLLED_RMS_NORM,
                           .norm_first = 1,
                           .feedforward = UNROLLED_SWIGLU,
                           .layers = 2,
                           .heads = 6,
                           .size = 24,
                           .kv_heads = 2,
                           .memory_heads = 0,
                           .inner = 250,
                           .vocabulary = 70,
                           .biases = false,
                           .rotary = true,
                           .last_norm = true};
        const Model m(kind, random);
        const int64_t room = steps + 9, w = kind.width(), rows = 2 * steps;
        const int64_t row = kind.kv_heads * room * kind.size;
        Array table(50 * w, random, 2), cosines(room * 12), sines(room * 12);
        for (int64_t i = 0; i < cosines.size(); i++) {
            const float angle = random.number(3);
            cosines[i] = std::cos(angle);
            sines[i] = std::sin(angle);
        }
        std::vector<int64_t> ids, lengths, own, score_at;
        for (int64_t b = 0; b < rows; b++) {
            ids.push_back(random.below(50));
            own.push_back(1 - b / steps); /* the first sequence stands in the second row */
            lengths.push_back(b % steps);
            score_at.push_back(b % steps == steps - 1 ? b / steps : -1);
        }
        const auto call = [&](const Array &keys, const Array &values) {
            unrolled_decoding c = {};
            c.cache_rows = 2;
            c.room = room;
            c.cache_strides[0] = 2 * row;
            c.cache_strides[1] = row;
            c.cache_strides[2] = room * kind.size;
            c.cache_strides[3] = kind.size;
            c.table = table.data();
            c.tokens = 50;
            c.cosines = cosines.data();
            c.sines = sines.data();
            c.positions = room;
            c.keys = const_cast<float *>(keys.data());
            c.values = const_cast<float *>(values.data());
            c.ld_logits = 70;
            return c;
        };
        at_every_level([&] {
            const Owned d = m.packed(UNROLLED_FP32);
            Array keys(4 * row), values(4 * row), expected(2 * 70), one(70);
            for (int64_t b = 0; b < rows; b++) {
                unrolled_decoding c = call(keys, values);
                c.threads = c.rows = 1;
                c.ids = &ids[static_cast<size_t>(b)];
                c.lengths = &lengths[static_cast<size_t>(b)];
                c.own = &own[static_cast<size_t>(b)];
                c.logits = one.data();
                CHECK(!unrolled_decoder_step(d.get(), &c), "one: refused");
                if (b % steps == steps - 1)
                    for (int64_t i = 0; i < 70; i++) expected[b / steps * 70 + i] = one[i];
            }
            for (const int64_t threads : {1, 2, 3}) {
                Array new_keys(4 * row), new_values(4 * row), logits(2 * 70);
                unrolled_decoding c = call(new_keys, new_values);
                c.threads = threads;
                c.rows = rows;
                c.ids = ids.data();
                c.lengths = lengths.data();
                c.own = own.data();
                c.logits = logits.data();
                c.scored = 2;
                c.score_at = score_at.data();
                CHECK(!unrolled_decoder_step(d.get(), &c), "all: refused");
                for (int64_t i = 0; i < 140; i++)
                    CHECK(logits[i] == expected[i], "another score of " + std::to_string(steps));
                /* the same where steps stand in pages of four, in no order */
                const int64_t most_pages = (room + 3) / 4, page = kind.kv_heads * 4 * kind.size;
                const int64_t count = 2 * most_pages + 1;
                std::vector<int32_t> pages;
                for (int64_t i = 0; i < 2 * most_pages; i++)
                    pages.push_back(static_cast<int32_t>((i * 5 + 3) % count));
                Array paged_keys(2 * count * page), paged_values(2 * count * page), paged(2 * 70);
                c.keys = paged_keys.data();
                c.values = paged_values.data();
                c.cache_rows = count;
                c.room = 4;
                c.cache_strides[0] = count * page;
                c.cache_strides[1] = page;
                c.cache_strides[2] = 4 * kind.size;
                c.pages = pages.data();
                c.sequences = 2;
                c.most_pages = most_pages;
                c.logits = paged.data();
                CHECK(!unrolled_decoder_step(d.get(), &c), "pages: refused");
                for (int64_t i = 0; i < 140; i++)
                    CHECK(paged[i] == expected[i], "another score in pages of " + std::to_string(steps));
                const auto refused = [&](const char *what, int32_t &place, int32_t wrong) {
                    const int32_t right = place;
                    place = wrong;
                    CHECK(unrolled_decoder_step(d.get(), &c), std::string(what) + " was taken");
                    place = right;
                };
                refused("a page past the last", pages[0], static_cast<int32_t>(count));
                refused("a page before the first", pages[0], -1);
                c.room = 3;
                CHECK(unrolled_decoder_step(d.get(), &c), "pages of three steps were taken");
                c.room = 4;
                c.sequences = 1;
                CHECK(unrolled_decoder_step(d.get(), &c), "a sequence without pages was taken");
            }
        });
    }
}

TEST(decoder, what_does_not_fit_is_refused) {
    const auto made = [](int64_t heads, int64_t kv, int64_t memory, int64_t layers) {
        const unrolled_stack stack = {.precision = UNROLLED_FP32,
                                      .norm = UNROLLED_LAYER_NORM,
                                      .norm_first = 1,
                                      .feedforward = UNROLLED_RELU,
                                      .epsilon = 0,
                                      .head_epsilon = 0,
                                      .layers = layers,
                                      .width = 32,
                                      .heads = heads,
                                      .size = 8,
                                      .kv_heads = kv,
                                      .memory_heads = memory,
                                      .inner = 8,
                                      .vocabulary = 9,
                                      .window = 0};
        return Owned(unrolled_decoder_new(&stack));
    };
    CHECK(!unrolled_decoder_new(nullptr), "no stack");
    CHECK(!made(4, 3, 4, 1), "key-value heads that do not divide the heads");
    CHECK(!made(4, 4, 3, 1), "heads of the memory that do not divide the heads");
    CHECK(!made(4, 4, 4, 0), "no block");
    Random random(8);
    const Model m(SMALL, random);
    Given g(SMALL, 3, 2, true, random);
    const Owned d = m.packed(UNROLLED_FP32);
    CHECK(unrolled_decoder_load(d.get(), 2, 0, g.x.data(), nullptr), "a third block");
    CHECK(unrolled_decoder_load(d.get(), 0, 13, g.x.data(), nullptr), "a fourteenth part");
    CHECK(unrolled_decoder_load(d.get(), 0, 0, nullptr, nullptr), "no weights");
    const Owned empty = made(4, 4, 4, 2);
    Written to(g);
    const auto refused = [&](const char *what, const std::function<void(unrolled_decoding &)> &change) {
        unrolled_decoding c = call_of(g, to, 0, g.rows, 1);
        change(c);
        CHECK(unrolled_decoder_step(d.get(), &c), std::string(what) + ": taken");
    };
    unrolled_decoding whole = call_of(g, to, 0, g.rows, 1);
    CHECK(unrolled_decoder_step(empty.get(), &whole), "no weights yet: taken");
    refused("no x", [](unrolled_decoding &c) { c.x = nullptr; });
    const std::vector<int64_t> ids_of_rows = {0, 1, 7}, rows_of_scores = {-1, 0, 3};
    refused("an id beyond the table", [&](unrolled_decoding &c) {
        c.table = c.x;
        c.x = nullptr;
        c.ids = ids_of_rows.data();
        c.tokens = 7;
    });
    refused("a row beyond the scores", [&](unrolled_decoding &c) {
        c.score_at = rows_of_scores.data();
        c.scored = 3;
    });
    const std::vector<int64_t> rows_alike = {0, 0, 1}, rows_of_two = {0, 1, -1};
    refused("two rows in one place of the scores", [&](unrolled_decoding &c) {
        c.score_at = rows_alike.data();
        c.scored = 2;
    });
    refused("more rows of scores than rows", [&](unrolled_decoding &c) {
        c.score_at = rows_of_two.data();
        c.scored = 30;
    });
    refused("a step that follows none", [&](unrolled_decoding &c) {
        c.origin = nullptr;
        c.own = rows_alike.data();
    });
    refused("two places for a row", [&](unrolled_decoding &c) { c.own = ids_of_rows.data(); });
    refused("fewer positions", [&](unrolled_decoding &c) {
        c.positions = *std::max_element(g.lengths.begin(), g.lengths.end());
        if (!c.positions) c.positions = -1;
    });
    refused("no keys", [](unrolled_decoding &c) { c.keys = nullptr; });
    refused("no logits", [](unrolled_decoding &c) { c.logits = nullptr; });
    refused("logits that overlap", [](unrolled_decoding &c) { c.ld_logits = 36; });
    Array best(3 * 5);
    std::vector<int64_t> ids(3 * 5), banned = {SMALL.vocabulary};
    const auto choosing = [&](unrolled_decoding &c) {
        c.k = 5;
        c.best = best.data();
        c.best_ids = ids.data();
    };
    refused("k above the vocabulary", [&](unrolled_decoding &c) {
        choosing(c);
        c.k = SMALL.vocabulary + 1;
    });
    refused("no room for the best", [&](unrolled_decoding &c) {
        choosing(c);
        c.best = nullptr;
    });
    refused("a banned id beyond the vocabulary", [&](unrolled_decoding &c) {
        choosing(c);
        c.banned = banned.data();
        c.banned_count = 1;
    });
    CHECK(poisoned(best[0]), "something was written");
    refused("fewer rows of the cache", [](unrolled_decoding &c) { c.cache_rows = 2; });
    refused("half a rotation", [&](unrolled_decoding &c) { c.cosines = g.x.data(); });
    refused("no memory", [](unrolled_decoding &c) { c.memory_keys = nullptr; });
    refused("a longer source", [](unrolled_decoding &c) { c.memory_steps = -1; });
    refused("a source too few", [](unrolled_decoding &c) { c.sources = 0; });
    g.lengths[1] = g.room;
    refused("a full cache", [](unrolled_decoding &) {});
    g.lengths[1] = 1;
    to.origin[static_cast<size_t>(g.room)] = static_cast<int32_t>(g.cache_rows);
    refused("another row of the cache", [](unrolled_decoding &) {});
    CHECK(poisoned(to.y[0]) && poisoned(to.logits[0]), "something was written");
    const unrolled_decoding nobody = call_of(g, to, 0, 0, 1);
    CHECK(!unrolled_decoder_step(d.get(), &nobody), "no rows: refused");
}
