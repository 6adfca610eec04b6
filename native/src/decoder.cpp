// A transformer decoder: packed weights, and the checks of a step.

#include <cstring>
#include <vector>

#include "core.h"
#include "memory.h"

namespace {

constexpr int32_t PARTS = 11;

// Weights and bias of a part, and whether they were given.
struct Slot {
    Memory weights, bias;
    bool loaded = false;
};

bool is_norm(int32_t part) { return part >= UNROLLED_SELF_NORM && part <= UNROLLED_LAST_NORM; }

float *floats(Memory &memory) { return reinterpret_cast<float *>(memory.data); }

// A copy of n numbers; no memory for none.
Memory copied(const float *from, int64_t n) {
    if (!from) return Memory();
    Memory to(static_cast<size_t>(n) * 4);
    memcpy(to.data, from, static_cast<size_t>(n) * 4);
    return to;
}

} // namespace

struct unrolled_decoder {
    Decoder d = {};
    const Level *at = nullptr;
    std::vector<DecoderBlock> blocks;
    std::vector<Slot> slots; // PARTS of every block; LAST_NORM and HEAD are those of the first

    Slot &slot(int64_t layer, int32_t part) {
        return slots[static_cast<size_t>((part >= UNROLLED_LAST_NORM ? 0 : layer) * PARTS + part)];
    }

    bool needed(int32_t part) const {
        if (part == UNROLLED_CROSS_IN || part == UNROLLED_CROSS_OUT || part == UNROLLED_CROSS_NORM)
            return d.memory_heads > 0;
        if (part == UNROLLED_HEAD) return d.vocabulary > 0;
        return part != UNROLLED_LAST_NORM;
    }

    Product *product(int64_t layer, int32_t part) {
        DecoderBlock &b = blocks[static_cast<size_t>(layer)];
        switch (part) {
        case UNROLLED_SELF_IN: return &b.in;
        case UNROLLED_SELF_OUT: return &b.out;
        case UNROLLED_CROSS_IN: return &b.cross_in;
        case UNROLLED_CROSS_OUT: return &b.cross_out;
        case UNROLLED_UP: return &b.up;
        case UNROLLED_DOWN: return &b.down;
        default: return &d.head;
        }
    }

    Norm *norm(int64_t layer, int32_t part) {
        DecoderBlock &b = blocks[static_cast<size_t>(layer)];
        switch (part) {
        case UNROLLED_SELF_NORM: return &b.self_norm;
        case UNROLLED_CROSS_NORM: return &b.cross_norm;
        case UNROLLED_FEEDFORWARD_NORM: return &b.feedforward_norm;
        default: return &d.last;
        }
    }

    void plan(int64_t layer, int32_t part) {
        const int64_t w = d.width, heads = d.heads + 2 * d.kv_heads;
        if (!needed(part) || is_norm(part)) return;
        Pack p;
        if (part == UNROLLED_UP && d.feedforward == UNROLLED_SWIGLU)
            p = at->plan(d.precision, INT32_MAX, 2, d.inner, w);
        else if (part == UNROLLED_DOWN)
            p = at->plan_product(d.precision, w, d.inner);
        else
            p = at->plan_product(d.precision,
                                 part == UNROLLED_SELF_IN ? heads * d.size
                                 : part == UNROLLED_UP    ? d.inner
                                 : part == UNROLLED_HEAD  ? d.vocabulary
                                                          : w,
                                 w);
        Slot &slot = this->slot(layer, part);
        slot.weights = Memory(static_cast<size_t>(p.bytes));
        p.data = slot.weights.data;
        product(layer, part)->w = p;
    }

    bool ready() {
        for (int64_t layer = 0; layer < d.layers; layer++)
            for (int32_t part = 0; part < PARTS; part++)
                if (needed(part) && !slot(layer, part).loaded) return false;
        return true;
    }
};

namespace {

Error check_cache(const Decoder &d, const unrolled_decoding &c) {
    if (!c.keys || !c.values || !c.lengths) return "no cache given";
    if (c.cache_rows < c.rows || c.room < 1 || c.room >= INT32_MAX) return "the cache is too small";
    if (!c.cosines != !c.sines || (c.cosines && d.size % 2)) return "no rotation of such heads";
    for (int64_t b = 0; b < c.rows; b++) {
        if (c.lengths[b] < 0 || c.lengths[b] >= c.room) return "the cache has no room for the step";
        if (!c.origin) continue;
        for (int64_t s = 0; s < c.lengths[b]; s++) {
            const int32_t row = c.origin[b * c.room + s];
            if (row < 0 || row >= c.cache_rows) return "no such row of the cache";
        }
    }
    return nullptr;
}

Error check_memory(const Decoder &d, const unrolled_decoding &c) {
    if (!d.memory_heads) return nullptr;
    if (!c.memory_keys || !c.memory_values || !c.memory_lengths || !c.memory_rows)
        return "no memory given";
    if (c.sources < 0 || c.memory_steps < 0 || c.memory_steps >= INT32_MAX)
        return "a size is out of range";
    for (int64_t layer = 0; layer < d.layers; layer++)
        if (!c.memory_keys[layer] || !c.memory_values[layer]) return "no memory given";
    for (int64_t s = 0; s < c.sources; s++)
        if (c.memory_lengths[s] < 0 || c.memory_lengths[s] > c.memory_steps)
            return "a source is longer than the memory";
    for (int64_t b = 0; b < c.rows; b++)
        if (c.memory_rows[b] < 0 || c.memory_rows[b] >= c.sources) return "no such source";
    return nullptr;
}

Error check_best(const Decoder &d, const unrolled_decoding &c) {
    if (c.k < 1 || c.k > 64 || c.k > d.vocabulary) return "k is out of range";
    if (!c.best || !c.best_ids) return "no room for the best given";
    if (c.banned_count < 0 || (c.banned_count && !c.banned)) return "no banned ids given";
    for (int64_t i = 0; i < c.banned_count; i++)
        if (c.banned[i] < 0 || c.banned[i] >= d.vocabulary) return "a banned id is none";
    return nullptr;
}

Error check_step(const Decoder &d, const unrolled_decoding &c) {
    if (c.rows < 0 || c.rows >= INT32_MAX) return "a size is out of range";
    if (c.threads > 4096) return "so many threads are not offered";
    if (!c.rows) return nullptr;
    if (!c.x) return "no x given";
    Error error = c.k ? check_best(d, c) : nullptr;
    if (!c.k && d.vocabulary && (!c.logits || c.ld_logits < d.vocabulary))
        error = "no room for the logits";
    if (!error) error = check_cache(d, c);
    return error ? error : check_memory(d, c);
}

} // namespace

extern "C" {

unrolled_decoder *unrolled_decoder_new(int32_t precision, int32_t norm, float epsilon,
                                       int32_t norm_first, int32_t feedforward, int64_t layers,
                                       int64_t width, int64_t heads, int64_t kv_heads,
                                       int64_t memory_heads, int64_t inner, int64_t vocabulary) {
    if (precision < UNROLLED_FP32 || precision > UNROLLED_INT8) return nullptr;
    if (norm < UNROLLED_LAYER_NORM || norm > UNROLLED_RMS_NORM) return nullptr;
    if (feedforward < UNROLLED_RELU || feedforward > UNROLLED_SWIGLU) return nullptr;
    for (const int64_t size : {layers, width, heads, kv_heads, inner})
        if (!size_fits(size)) return nullptr;
    if (width % heads || heads % kv_heads || (vocabulary && !size_fits(vocabulary))) return nullptr;
    if (memory_heads && (!size_fits(memory_heads) || heads % memory_heads)) return nullptr;
    if (precision == UNROLLED_INT8 && (width > INT8_MOST || inner > INT8_MOST)) return nullptr;
    unrolled_decoder *made = nullptr;
    try {
        made = new unrolled_decoder;
        made->at = &level();
        made->blocks.resize(static_cast<size_t>(layers));
        made->slots.resize(static_cast<size_t>(layers * PARTS));
        made->d = {.precision = precision,
                   .norm = norm,
                   .feedforward = feedforward,
                   .norm_first = norm_first != 0,
                   .epsilon = epsilon,
                   .layers = layers,
                   .width = width,
                   .heads = heads,
                   .size = width / heads,
                   .kv_heads = kv_heads,
                   .memory_heads = memory_heads,
                   .inner = inner,
                   .vocabulary = vocabulary,
                   .blocks = made->blocks.data(),
                   .last = {},
                   .head = {}};
        for (int64_t layer = 0; layer < layers; layer++)
            for (int32_t part = 0; part < PARTS; part++)
                if (layer == 0 || part < UNROLLED_LAST_NORM) made->plan(layer, part);
    } catch (...) {
        delete made;
        return nullptr;
    }
    return made;
}

const char *unrolled_decoder_load(unrolled_decoder *d, int64_t layer, int32_t part,
                                  const float *weight, const float *bias) {
    if (!d || layer < 0 || layer >= d->d.layers || part < 0 || part >= PARTS) return "no such part";
    if (!d->needed(part) && part != UNROLLED_LAST_NORM) return "this decoder has no such part";
    if (!weight) return "no weights given";
    Slot &slot = d->slot(layer, part);
    try {
        if (is_norm(part)) {
            Memory kept = copied(weight, d->d.width);
            slot.bias = copied(bias, d->d.width);
            slot.weights = std::move(kept);
            *d->norm(layer, part) = {floats(slot.weights), floats(slot.bias)};
        } else {
            Product &product = *d->product(layer, part);
            slot.bias = copied(bias, product.w.units * product.w.gates);
            product.bias = floats(slot.bias);
            d->at->fill(product.w, weight, product.w.k);
        }
    } catch (...) {
        return OUT_OF_MEMORY;
    }
    slot.loaded = true;
    return nullptr;
}

const char *unrolled_decoder_step(unrolled_decoder *d, const unrolled_decoding *call) {
    if (!d || !call) return "no decoder or no call given";
    if (!d->ready()) return "a part has no weights yet";
    Error error = check_step(d->d, *call);
    if (!error) error = d->at->decode(d->d, *call);
    if (!error) count_step();
    return error;
}

int64_t unrolled_decoder_bytes(const unrolled_decoder *d) {
    if (!d) return 0;
    int64_t bytes = d->d.head.w.bytes;
    for (const DecoderBlock &b : d->blocks)
        for (const Product *p : {&b.in, &b.out, &b.cross_in, &b.cross_out, &b.up, &b.down})
            bytes += p->w.bytes;
    return bytes;
}

void unrolled_decoder_free(unrolled_decoder *d) { delete d; }

} // extern "C"
