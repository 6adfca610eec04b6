// A stream: stages with packed weights, and the buffers between them.

#include <cstring>
#include <vector>

#include "core.h"
#include "memory.h"

namespace {

struct Stage {
    bool recurrent = false, loaded = false;
    StreamLayer layer = {};
    StreamLinear linear = {};
    Memory memory;           // what the stage keeps
    float *output = nullptr; // where it writes: to its own memory, or to the caller's

    int64_t width() const { return recurrent ? layer.hidden : linear.output_size; }
    float *own_output() const { return recurrent ? layer.output : linear.output; }
};

// Return memory for a stage, carved. `carve` runs twice: it measures first.
template <class Part> Memory carved(Part &part, size_t (*carve)(Part &, char *, size_t)) {
    const size_t bytes = carve(part, nullptr, 0);
    Memory memory(bytes);
    carve(part, memory.data, bytes);
    return memory;
}

int64_t gates_of(int32_t cell) {
    return cell == UNROLLED_GRU ? 3 : cell == UNROLLED_LSTM ? 4 : 1;
}

bool sums_fit(int32_t precision, int64_t k) { return precision != UNROLLED_INT8 || k <= INT8_MOST; }

} // namespace

struct unrolled_stream {
    int64_t batch = 0, vocabulary = 0, width = 0;
    int32_t precision = 0;
    const Level *at = nullptr;
    const float *table = nullptr;
    Memory embedded;
    std::vector<Stage> stages;
    bool ready = false;

    int64_t last_width() const { return stages.empty() ? width : stages.back().width(); }

    void add(Stage &&stage) {
        stage.output = stage.own_output();
        // what was the last stage writes to its own memory again, not to the caller's
        if (!stages.empty()) stages.back().output = stages.back().own_output();
        stages.push_back(std::move(stage));
        ready = false;
    }
};

extern "C" {

unrolled_stream *unrolled_stream_new(int64_t batch, int32_t precision) {
    if (!size_fits(batch)) return nullptr;
    if (precision < UNROLLED_FP32 || precision > UNROLLED_INT8) return nullptr;
    unrolled_stream *s = new (std::nothrow) unrolled_stream;
    if (!s) return nullptr;
    s->batch = batch;
    s->precision = precision;
    s->at = &level();
    return s;
}

const char *unrolled_stream_embedding(unrolled_stream *s, int64_t vocabulary, int64_t width,
                                      const float *table) {
    if (!s || !table || !size_fits(vocabulary) || !size_fits(width)) return "a size is out of range";
    if (!s->stages.empty()) return "an embedding comes first";
    try {
        s->embedded = Memory(static_cast<size_t>(s->batch * width) * 4);
    } catch (...) {
        return OUT_OF_MEMORY;
    }
    s->table = table;
    s->vocabulary = vocabulary;
    s->width = width;
    return nullptr;
}

const char *unrolled_stream_layer(unrolled_stream *s, int32_t cell, int64_t input, int64_t hidden,
                                  float *h, float *c, int32_t residual) {
    if (!s || !size_fits(input) || !size_fits(hidden)) return "a size is out of range";
    if (cell < UNROLLED_RNN_TANH || cell > UNROLLED_LSTM) return "no such cell";
    if (!h || (cell == UNROLLED_LSTM && !c)) return "no state given";
    if (s->last_width() && s->last_width() != input) return "a stage is not as wide as the one before";
    if (!sums_fit(s->precision, input) || !sums_fit(s->precision, hidden)) return INT8_TOO_LONG;
    if (residual && input != hidden) return "a residual needs an input as wide as the output";
    try {
        Stage stage;
        const int64_t gates = gates_of(cell);
        const Level &at = *s->at;
        StreamLayer &l = stage.layer;
        stage.recurrent = true;
        l.cell = cell;
        l.precision = s->precision;
        l.residual = residual != 0;
        l.rows = s->batch;
        l.input = input;
        l.hidden = hidden;
        l.h = h;
        l.c = c;
        l.ih = at.plan(s->precision, s->batch, gates, hidden, input);
        l.hh = at.plan(s->precision, s->batch, gates, hidden, hidden);
        stage.memory = carved(l, at.carve_layer);
        s->add(std::move(stage));
    } catch (...) {
        return OUT_OF_MEMORY;
    }
    return nullptr;
}

const char *unrolled_stream_linear(unrolled_stream *s, int64_t input, int64_t output) {
    if (!s || !size_fits(input) || !size_fits(output)) return "a size is out of range";
    if (s->last_width() && s->last_width() != input) return "a stage is not as wide as the one before";
    if (!sums_fit(s->precision, input)) return INT8_TOO_LONG;
    try {
        Stage stage;
        const Level &at = *s->at;
        StreamLinear &l = stage.linear;
        l.precision = s->precision;
        l.rows = s->batch;
        l.input = input;
        l.output_size = output;
        l.w = at.plan(s->precision, s->batch, 1, output, input);
        stage.memory = carved(l, at.carve_linear);
        s->add(std::move(stage));
    } catch (...) {
        return OUT_OF_MEMORY;
    }
    return nullptr;
}

const char *unrolled_stream_load(unrolled_stream *s, int64_t stage, const float *w_ih,
                                 const float *w_hh, const float *b_ih, const float *b_hh) {
    if (!s || stage < 0 || stage >= static_cast<int64_t>(s->stages.size())) return "no such stage";
    Stage &at = s->stages[static_cast<size_t>(stage)];
    if (!w_ih || (at.recurrent && !w_hh)) return "no weights given";
    if (!at.recurrent) {
        const int64_t n = at.linear.output_size;
        for (int64_t j = 0; j < n; j++) at.linear.bias[j] = b_ih ? b_ih[j] : 0.0f;
        s->at->fill(at.linear.w, w_ih, at.linear.input);
    } else {
        const int64_t gates = gates_of(at.layer.cell), size = at.layer.hidden;
        // as in forward.h: a GRU's b_hn stays inside its candidate
        const int64_t together = at.layer.cell == UNROLLED_GRU ? 2 * size : gates * size;
        float *bias = at.layer.bias, *inner = at.layer.bias_inner;
        for (int64_t j = 0; j < gates * size; j++) {
            const float hidden = b_hh ? b_hh[j] : 0.0f;
            bias[j] = (b_ih ? b_ih[j] : 0.0f) + (j < together ? hidden : 0.0f);
            if (j >= together) inner[j - together] = hidden;
        }
        s->at->fill(at.layer.ih, w_ih, at.layer.input);
        s->at->fill(at.layer.hh, w_hh, size);
    }
    at.loaded = true;
    s->ready = true;
    for (const Stage &other : s->stages) s->ready = s->ready && other.loaded;
    return nullptr;
}

const char *unrolled_stream_output(unrolled_stream *s, float *y) {
    if (!s || s->stages.empty() || !y) return "no stage or no output given";
    s->stages.back().output = y;
    return nullptr;
}

const char *unrolled_stream_step(unrolled_stream *s, const void *x) {
    if (!s || !x) return "no x given";
    if (!s->ready) return "a stage has no weights yet";
    const float *from = static_cast<const float *>(x);
    if (s->table) {
        const int64_t *ids = static_cast<const int64_t *>(x);
        float *to = reinterpret_cast<float *>(s->embedded.data);
        for (int64_t i = 0; i < s->batch; i++)
            if (ids[i] < 0 || ids[i] >= s->vocabulary) return "a token is not in the vocabulary";
        for (int64_t i = 0; i < s->batch; i++)
            memcpy(to + i * s->width, s->table + ids[i] * s->width,
                   static_cast<size_t>(s->width) * 4);
        from = to;
    }
    for (const Stage &stage : s->stages) {
        if (stage.recurrent)
            s->at->step_layer(stage.layer, from, stage.output);
        else
            s->at->step_linear(stage.linear, from, stage.output);
        from = stage.output;
    }
    count_step();
    return nullptr;
}

int64_t unrolled_stream_bytes(const unrolled_stream *s) {
    int64_t bytes = 0;
    if (!s) return 0;
    for (const Stage &stage : s->stages)
        bytes += stage.recurrent ? stage.layer.ih.bytes + stage.layer.hh.bytes : stage.linear.w.bytes;
    return bytes;
}

void unrolled_stream_free(unrolled_stream *s) { delete s; }

} // extern "C"
