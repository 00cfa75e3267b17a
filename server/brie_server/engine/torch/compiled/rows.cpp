// What lies between a decoder's matrix products, on a CPU: norms, rotary embedding, attention of single queries,
// gated activation, and the low-rank products of adapters. It knows pointers and sizes, and nothing of torch.
//
// Every function is one pass over its rows where separate tensor operations would be five to ten. Sums are float;
// T is the type of the activations, float or bfloat16. Letters are those of model.py and lora.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bfloat16 {
    uint16_t bits;
};

inline float value(float x) { return x; }

inline float value(bfloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline void put(float &to, float x) { to = x; }

// Rounds to the nearest, ties to even; a NaN stays one.
inline void put(bfloat16 &to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to.bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

// Within two units in the last place of std::exp, and free of branches, so that loops over it become vectors. Zero below
// -87.7, infinity above 88.3: what comes before zero, or would still be finite, is no number that a sum or a gate shows.
inline float exponential(float x) {
    float clamped = std::min(std::max(-88.0f, x), 89.0f);  // in this order a NaN becomes a number here
    float whole = std::nearbyint(clamped * 1.44269504f);
    float rest = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
    float power = 1.9875691500e-4f;
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    uint32_t exponent = uint32_t(int32_t(whole) + 127) << 23;
    float scale;
    std::memcpy(&scale, &exponent, 4);
    return x != x ? x : power * scale;
}

template <class T>
float inverse_rms(const T *x, int64_t size, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) sum += value(x[i]) * value(x[i]);
    return 1.0f / std::sqrt(sum / float(size) + eps);
}

// Below this many numbers waking a second thread takes longer than it saves.
constexpr int64_t WORTH_THREADS = 16384;

// x += added, if there is something to add; out = x / rms(x) * weight. Families differ in whether x / rms(x) is
// rounded to the activations' type before the weight comes to it.
template <class T>
void norm(T *x, const T *added, const float *weight, T *out, int64_t rows, int64_t size, float eps, bool rounds) {
#pragma omp parallel for schedule(static) if (rows * size > WORTH_THREADS)
    for (int64_t row = 0; row < rows; row++) {
        T *x_E = x + row * size, *out_E = out + row * size;
        if (added)
            for (int64_t i = 0; i < size; i++) put(x_E[i], value(x_E[i]) + value(added[row * size + i]));
        float factor = inverse_rms(x_E, size, eps);
        for (int64_t i = 0; i < size; i++) {
            float normed = value(x_E[i]) * factor;
            T rounded;
            put(rounded, normed);
            put(out_E[i], (rounds ? value(rounded) : normed) * weight[i]);
        }
    }
}

// out = act(gate) * up, with gate and up side by side in each row.
template <class T, bool GELU>
void gate(const T *gate_up, T *out, int64_t rows, int64_t size) {
#pragma omp parallel for schedule(static) if (rows * size > WORTH_THREADS)
    for (int64_t row = 0; row < rows; row++) {
        const T *gate_F = gate_up + row * 2 * size, *up_F = gate_F + size;
        for (int64_t i = 0; i < size; i++) {
            float x = value(gate_F[i]), inner = x;
            if (GELU) inner = 1.5957691216f * (x + 0.044715f * x * x * x);
            T active;
            put(active, x / (1.0f + exponential(-inner)));
            put(out[row * size + i], value(active) * value(up_F[i]));
        }
    }
}

// The shape of a layer's heads and of its cache, and the line of the cache that belongs to each token.
struct Heads {
    int64_t tokens, query, key, size, cache_rows, capacity;
    const int64_t *row_N, *position_N;
};

constexpr int64_t MOST_HEAD_SIZE = 512;

// Whether every token's line lies in the cache, and a head in the room that `look` has for it.
inline bool fit(const Heads &heads) {
    bool fits = heads.size <= MOST_HEAD_SIZE && heads.query % heads.key == 0;
    for (int64_t n = 0; n < heads.tokens; n++)
        fits = fits && heads.row_N[n] >= 0 && heads.row_N[n] < heads.cache_rows && heads.position_N[n] >= 0 &&
               heads.position_N[n] < heads.capacity;
    return fits;
}

struct HeadNorm {
    const float *weight_JD;  // null where heads have no norm
    float eps;
    bool rounds;
};

// Turns each pair (i, i + size / 2) of a head by its angle.
template <class T>
void turn(T *head, const T *cos_d, const T *sin_d, int64_t size) {
    int64_t half = size / 2;
    for (int64_t i = 0; i < half; i++) {
        float a = value(head[i]), b = value(head[i + half]), c = value(cos_d[i]), s = value(sin_d[i]);
        put(head[i], a * c - b * s);
        put(head[i + half], b * c + a * s);
    }
}

// Norms and turns queries and keys in place, and writes keys and values to their lines of the layer's cache kv_2RHCD.
template <class T>
void place(T *qkv, const T *cos_Nd, const T *sin_Nd, HeadNorm head_norm, T *cache, Heads heads) {
    int64_t all = heads.query + 2 * heads.key, half = heads.size / 2;
#pragma omp parallel for schedule(static) if (heads.tokens * all * heads.size > WORTH_THREADS)
    for (int64_t n = 0; n < heads.tokens; n++) {
        T *token = qkv + n * all * heads.size;
        for (int64_t j = 0; j < heads.query + heads.key; j++) {
            T *head = token + j * heads.size;
            if (head_norm.weight_JD)
                norm(head, (const T *)nullptr, head_norm.weight_JD + j * heads.size, head, 1, heads.size,
                     head_norm.eps, head_norm.rounds);
            turn(head, cos_Nd + n * half, sin_Nd + n * half, heads.size);
        }
        for (int64_t j = 0; j < 2 * heads.key; j++) {
            int64_t row = (j / heads.key) * heads.cache_rows + heads.row_N[n];
            int64_t line = (row * heads.key + j % heads.key) * heads.capacity + heads.position_N[n];
            std::memcpy(cache + line * heads.size, token + (heads.query + j) * heads.size, heads.size * sizeof(T));
        }
    }
}

constexpr int64_t BLOCK = 64;

// One query looks at positions first to last of its row: softmax(q k / scale) v, in blocks with a running maximum.
template <class T, int64_t D>
void look(const T *query, const T *keys, const T *values, T *out, int64_t first, int64_t last, float scale,
          int64_t size) {
    const int64_t width = D ? D : size;
    float q[D ? D : MOST_HEAD_SIZE], sum[D ? D : MOST_HEAD_SIZE], score[BLOCK], most = -INFINITY, total = 0;
    for (int64_t d = 0; d < width; d++) q[d] = value(query[d]) * scale, sum[d] = 0;
    for (int64_t from = first; from < last; from += BLOCK) {
        int64_t count = std::min(BLOCK, last - from);
        float block_most = most;
        for (int64_t c = 0; c < count; c++) {
            const T *key = keys + (from + c) * width;
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t d = 0; d < width; d++) dot += q[d] * value(key[d]);
            score[c] = dot;
            block_most = dot > block_most || dot != dot ? dot : block_most;
        }
        float correction = most == -INFINITY ? 0.0f : exponential(most - block_most);
        most = block_most;
        total *= correction;
        for (int64_t d = 0; d < width; d++) sum[d] *= correction;
        for (int64_t c = 0; c < count; c++) score[c] = exponential(score[c] - most);
        for (int64_t c = 0; c < count; c++) {
            const T *line = values + (from + c) * width;
            total += score[c];
            for (int64_t d = 0; d < width; d++) sum[d] += score[c] * value(line[d]);
        }
    }
    for (int64_t d = 0; d < width; d++) put(out[d], sum[d] / total);
}

template <class T, int64_t D>
void attend(const T *qkv, const T *cache, T *out, Heads heads, float scale, int64_t window) {
    int64_t all = heads.query + 2 * heads.key, per_key = heads.query / heads.key;
    int64_t line = heads.capacity * heads.size, values = heads.cache_rows * heads.key * line;
#pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (int64_t n = 0; n < heads.tokens; n++)
        for (int64_t h = 0; h < heads.key; h++) {
            int64_t last = heads.position_N[n] + 1, first = window ? std::max<int64_t>(0, last - window) : 0;
            const T *keys = cache + (heads.row_N[n] * heads.key + h) * line;
            for (int64_t g = h * per_key; g < (h + 1) * per_key; g++)
                look<T, D>(qkv + (n * all + g) * heads.size, keys, keys + values,
                           out + (n * heads.query + g) * heads.size, first, last, scale, heads.size);
        }
}

template <class T>
void attend_any(const T *qkv, const T *cache, T *out, Heads heads, float scale, int64_t window) {
    if (heads.size == 64) return attend<T, 64>(qkv, cache, out, heads, scale, window);
    if (heads.size == 128) return attend<T, 128>(qkv, cache, out, heads, scale, window);
    attend<T, 0>(qkv, cache, out, heads, scale, window);
}

// One adapter's part in one site, and the tokens that have it.
struct Group {
    const float *a_KI;  // the parts' ranks stacked; null where the adapter leaves the site alone
    const float *b;     // for each part b_rO, one behind the other; the scale is already in it
    int64_t rank, first, count;
};

constexpr int64_t TOGETHER = 4;

// Eight numbers that the compiler keeps in one register, or in two.
typedef float Vector __attribute__((vector_size(32)));
constexpr int64_t EIGHT = 8;

inline Vector load(const float *from) {
    Vector out;
    std::memcpy(&out, from, sizeof out);
    return out;
}

inline float total(Vector v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }

// inner_K = a_KI x for M tokens, so that each line of a is read once for all of them.
template <int64_t M>
void shrink(const float *x_MI, const float *a_KI, float *inner_MK, int64_t from, int64_t to, int64_t stride,
            int64_t inputs) {
    for (int64_t k = from; k < to; k++) {
        const float *line = a_KI + k * inputs;
        Vector one[M] = {}, other[M] = {};
        int64_t i = 0;
        for (; i + 2 * EIGHT <= inputs; i += 2 * EIGHT) {
            Vector a = load(line + i), b = load(line + i + EIGHT);
            for (int64_t m = 0; m < M; m++) {
                one[m] += a * load(x_MI + m * inputs + i);
                other[m] += b * load(x_MI + m * inputs + i + EIGHT);
            }
        }
        for (int64_t m = 0; m < M; m++) {
            float dot = total(one[m] + other[m]);
            for (int64_t rest = i; rest < inputs; rest++) dot += line[rest] * x_MI[m * inputs + rest];
            inner_MK[m * stride + k] = dot;
        }
    }
}

// Outputs that stand together in b, which is [outputs / LANES, rank, LANES]: it is read once, from end to end.
constexpr int64_t LANES = 2 * EIGHT;

// out_MO += inner_Mr b for the blocks of one part from `from` to `to`; b begins at the block `from`.
template <class T, int64_t M>
void expand(const float *inner_Mr, const float *b, T *const *out_M, int64_t rank, int64_t stride, int64_t from,
            int64_t to) {
    for (int64_t block = from; block < to; block++) {
        Vector low[M] = {}, high[M] = {};
        for (int64_t r = 0; r < rank; r++, b += LANES) {
            Vector b_low = load(b), b_high = load(b + EIGHT);
            for (int64_t m = 0; m < M; m++) {
                low[m] += inner_Mr[m * stride + r] * b_low;
                high[m] += inner_Mr[m * stride + r] * b_high;
            }
        }
        for (int64_t m = 0; m < M; m++) {
            T *out = out_M[m] + block * LANES;
            for (int64_t o = 0; o < EIGHT; o++) put(out[o], value(out[o]) + low[m][o]);
            for (int64_t o = 0; o < EIGHT; o++) put(out[o + EIGHT], value(out[o + EIGHT]) + high[m][o]);
        }
    }
}

// A stretch of a group's tokens, at most TOGETHER of them.
struct Tile {
    const Group *group;
    int64_t first, count;
};

// The shape of a site, the step's tokens sorted by group, the outputs of each part, and room for what lies between.
struct Site {
    int64_t inputs, width, num_parts, most_ranks, num_groups;
    const int64_t *token_T, *outputs_P;
    float *x_TI, *inner_TK;
};

// The work of one site: what all of its loops read.
template <class T>
struct Low {
    const T *x;
    T *out;
    Site site;

    void gather(const Tile &tile) const {
        for (int64_t m = tile.first; m < tile.first + tile.count; m++)
            for (int64_t i = 0; i < site.inputs; i++)
                site.x_TI[m * site.inputs + i] = value(x[site.token_T[m] * site.inputs + i]);
    }

    template <int64_t M>
    void down(const Tile &tile, int64_t share, int64_t shares) const {
        int64_t ranks = tile.group->rank * site.num_parts;
        shrink<M>(site.x_TI + tile.first * site.inputs, tile.group->a_KI, site.inner_TK + tile.first * site.most_ranks,
                  ranks * share / shares, ranks * (share + 1) / shares, site.most_ranks, site.inputs);
    }

    template <int64_t M>
    void up(const Tile &tile, int64_t share, int64_t shares) const {
        const float *b = tile.group->b, *inner = site.inner_TK + tile.first * site.most_ranks;
        int64_t rank = tile.group->rank, start = 0;
        for (int64_t p = 0; p < site.num_parts; p++) {
            int64_t blocks = site.outputs_P[p] / LANES, from = blocks * share / shares, to = blocks * (share + 1) / shares;
            T *out_M[M];
            for (int64_t m = 0; m < M; m++) out_M[m] = out + site.token_T[tile.first + m] * site.width + start;
            expand<T, M>(inner + p * rank, b + from * rank * LANES, out_M, rank, site.most_ranks, from, to);
            b += rank * site.outputs_P[p];
            start += site.outputs_P[p];
        }
    }
};

#define FOR_COUNT(CALL, ...)                                  \
    switch (tiles[t].count) {                                 \
        case 1: low.template CALL<1>(__VA_ARGS__); break;     \
        case 2: low.template CALL<2>(__VA_ARGS__); break;     \
        case 3: low.template CALL<3>(__VA_ARGS__); break;     \
        default: low.template CALL<4>(__VA_ARGS__);           \
    }

// Tiles from which each thread takes whole ones; fewer are cut into shares, and the threads meet between the passes.
constexpr int64_t MANY_TILES = 6;

// Adds to out what each group's adapter makes of x: down to the ranks, and up.
template <class T>
void lora(const Low<T> &low, const Group *groups) {
    std::vector<Tile> tiles;
    for (int64_t g = 0; g < low.site.num_groups; g++)
        for (int64_t m = 0; groups[g].a_KI && m < groups[g].count; m += TOGETHER)
            tiles.push_back({groups + g, groups[g].first + m, std::min(TOGETHER, groups[g].count - m)});
    int64_t num_tiles = int64_t(tiles.size()), shares = 8;
    if (num_tiles >= MANY_TILES) {
#pragma omp parallel for schedule(static)
        for (int64_t t = 0; t < num_tiles; t++) {
            low.gather(tiles[t]);
            FOR_COUNT(down, tiles[t], 0, 1)
            FOR_COUNT(up, tiles[t], 0, 1)
        }
        return;
    }
    for (int64_t t = 0; t < num_tiles; t++) low.gather(tiles[t]);
#pragma omp parallel
    {
#pragma omp for collapse(2) schedule(static)
        for (int64_t t = 0; t < num_tiles; t++)
            for (int64_t share = 0; share < shares; share++) FOR_COUNT(down, tiles[t], share, shares)
#pragma omp for collapse(2) schedule(static)
        for (int64_t t = 0; t < num_tiles; t++)
            for (int64_t share = 0; share < shares; share++) FOR_COUNT(up, tiles[t], share, shares)
    }
}

struct Quantized {
    const int8_t *weight_OI;
    const float *scale_O;
    const float *bias_O;  // null where there is none
    int64_t outputs, inputs;
};

// out = x times the weight, for one row: its numbers are widened on their way, and a quarter of the memory is read.
void int8_row(const float *x_I, float *out_O, Quantized w) {
    constexpr int64_t WIDE = 32;
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < w.outputs; o++) {
        const int8_t *line = w.weight_OI + o * w.inputs;
        float sum[WIDE] = {}, dot = 0;
        int64_t i = 0;
        for (; i + WIDE <= w.inputs; i += WIDE)
            for (int64_t j = 0; j < WIDE; j++) sum[j] += float(line[i + j]) * x_I[i + j];
        for (int64_t j = 0; j < WIDE; j++) dot += sum[j];
        for (; i < w.inputs; i++) dot += float(line[i]) * x_I[i];
        out_O[o] = dot * w.scale_O[o] + (w.bias_O ? w.bias_O[o] : 0.0f);
    }
}

}  // namespace

extern "C" void int8_f32(const float *x_I, float *out_O, const Quantized *weight) { int8_row(x_I, out_O, *weight); }

#define EXPORT(T, NAME)                                                                                               \
    extern "C" void norm_##NAME(T *x, const T *added, const float *weight, T *out, int64_t rows, int64_t size,        \
                                float eps, bool rounds) {                                                             \
        norm(x, added, weight, out, rows, size, eps, rounds);                                                         \
    }                                                                                                                 \
    extern "C" void silu_##NAME(const T *gate_up, T *out, int64_t rows, int64_t size) {                               \
        gate<T, false>(gate_up, out, rows, size);                                                                     \
    }                                                                                                                 \
    extern "C" void gelu_##NAME(const T *gate_up, T *out, int64_t rows, int64_t size) {                               \
        gate<T, true>(gate_up, out, rows, size);                                                                      \
    }                                                                                                                 \
    extern "C" bool place_##NAME(T *qkv, const T *cos_Nd, const T *sin_Nd, const HeadNorm *head_norm, T *cache,       \
                                 const Heads *heads) {                                                                \
        if (!fit(*heads)) return false;                                                                               \
        place(qkv, cos_Nd, sin_Nd, *head_norm, cache, *heads);                                                        \
        return true;                                                                                                  \
    }                                                                                                                 \
    extern "C" bool attend_##NAME(const T *qkv, const T *cache, T *out, const Heads *heads, float scale,              \
                                  int64_t window) {                                                                   \
        if (!fit(*heads)) return false;                                                                               \
        attend_any(qkv, cache, out, *heads, scale, window);                                                           \
        return true;                                                                                                  \
    }                                                                                                                 \
    extern "C" void lora_##NAME(const T *x, T *out, const Group *groups, const Site *site) {                          \
        lora(Low<T>{x, out, *site}, groups);                                                                          \
    }

EXPORT(float, f32)
EXPORT(bfloat16, bf16)
