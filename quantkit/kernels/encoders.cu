// ggml's block encoders, one thread per sub-block.
//
// Every sum runs in the order of ggml-quants.c and every product is rounded before it is added, so the bytes are those
// of ggml_quantize_chunk on x86-64. Compile without contraction (--fmad=false) and with IEEE division and square root.
// cuda.cu turns these into kernels; a C++ compiler accepts them too, so the tests compare them with ggml on any machine.
//
// The threads of a super-block work in three steps with a barrier after each: search (a scale for each sub-block),
// levels (from the stored scales of all sub-blocks), and pack.
//
// formats.h is written from quantkit.kernels.formats: a class here is a template of its format's numbers.

#include "formats.h"

// Rounds to nearest even, as ggml does, and wraps as ggml does where |v| >= 2**22.
__device__ inline int nearest(float v) { return (bits_of(v + 12582912.0f) & 0x007fffff) - 0x00400000; }

// The same as a float, for |v| < 2**22, as all levels of a search are: the conversion to int and back would cost more
// than the rest of the loop.
__device__ inline float nearest_float(float v) { return (v + 12582912.0f) - 12582912.0f; }

// That for every v: what ggml's int makes of magnitudes from 2**22 up, infinities and NaN.
__device__ inline float nearest_wrapped(float v) {
    const float shifted = v + 12582912.0f;
    return shifted == shifted ? of_bits((bits_of(shifted) & 0x007fffff) | 0x4b000000) - 12582912.0f : 0.0f;
}

__device__ inline int clamp(int v, int low, int high) { return v < low ? low : v > high ? high : v; }
__device__ inline float clamp_float(float v, float low, float high) { return fast_min(fast_max(v, low), high); }

// At an even offset in each format.
__device__ inline void put_half(u8 *out, u16 half) { *(u16 *)out = half; }

// What the threads of a super-block tell each other.
struct Work {
    float scale[16], low[16];
    float weight[16], unit[2];  // with importances: of a sub-block, and of all scales and of all minima
    u8 step[2][16];
    u8 level[SUPER];
};

// The first value of the largest magnitude, with its sign.
template <int N>
__device__ inline float first_largest(const float *x) {
    float value = 0, size = 0;
    UNROLL
    for (int i = 0; i < N; ++i)
        if (magnitude(x[i]) > size) {
            size = magnitude(x[i]);
            value = x[i];
        }
    return value;
}

// The level of a scaled weight. With importances a fit can leave a range so small that others are far out of it.
template <class F>
__device__ inline float level_of(float v) {
    return clamp_float(F::WEIGHTED ? nearest_wrapped(v) : nearest_float(v), F::LEAST, F::TOP);
}

// The affine search (make_qkx2_quants, make_qkx3_quants): scale and minimum of a sub-block for levels 0..TOP, and the levels.
template <class F>
__device__ inline void affine_search(const float *x, const float *weight, float *scale_out, float *low_out, u8 *level) {
    const int N = F::BLOCK, TOP = F::TOP;
    float low = x[0], high = x[0], sum_w = weight[0], sum_x = weight[0] * x[0];
    UNROLL
    for (int i = 1; i < N; ++i) {
        low = smaller(low, x[i]);
        high = larger(high, x[i]);
        sum_w += weight[i];
        sum_x += weight[i] * x[i];
    }
    if (low > 0) low = 0;
    if (high == low) {
        UNROLL
        for (int i = 0; i < N; ++i) level[i] = 0;
        *low_out = -low;
        *scale_out = 0;
        return;
    }
    float inverse = TOP / (high - low), scale = 1 / inverse, best = 0;
    UNROLL
    for (int i = 0; i < N; ++i) {
        const float l = level_of<F>(inverse * (x[i] - low));
        const float diff = scale * l + low - x[i];
        best += weight[i] * (F::ABSOLUTE ? magnitude(diff) : diff * diff);
    }
    float best_inverse = inverse, best_low = low;  // of the step that won: its levels follow from them
    for (int step = 0; step <= F::STEPS; ++step) {
        inverse = (F::FIRST + F::APART * step + TOP) / (high - low);
        float sum_l = 0, sum_l2 = 0, sum_xl = 0;
        float l[N];
        UNROLL
        for (int i = 0; i < N; ++i) {
            l[i] = level_of<F>(inverse * (x[i] - low));
            const float wl = weight[i] * l[i];
            sum_l += wl;
            sum_l2 += wl * l[i];
            sum_xl += wl * x[i];
        }
        const float det = sum_w * sum_l2 - sum_l * sum_l;
        if (det > 0) {
            float this_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
            float this_low = (sum_l2 * sum_x - sum_l * sum_xl) / det;
            if (this_low > 0) {
                this_low = 0;
                this_scale = sum_xl / sum_l2;
            }
            float error = 0;
            UNROLL
            for (int i = 0; i < N; ++i) {
                const float diff = this_scale * l[i] + this_low - x[i];
                error += weight[i] * (F::ABSOLUTE ? magnitude(diff) : diff * diff);
            }
            if (error < best) {
                best = error;
                best_inverse = inverse;
                best_low = low;
                scale = this_scale;
                low = this_low;  // the following steps search from here
            }
        }
    }
    UNROLL
    for (int i = 0; i < N; ++i) level[i] = (u8)level_of<F>(best_inverse * (x[i] - best_low));
    *scale_out = scale;
    *low_out = -low;
}

// 4 and 5 bits: eight sub-blocks of 32, scales and minima of six bits.
template <class F>
struct Affine32 {
    static const int LANES = F::LANES, BYTES = F::BYTES, TOP = F::TOP;
    static const bool FIVE_BITS = TOP > 15;

    __device__ static inline void search(const float *x, int lane, Work &work) {
        float sum = 0, weight[32];
        UNROLL
        for (int i = 0; i < 32; ++i) sum += x[i] * x[i];
        const float average = root(sum / 32);
        UNROLL
        for (int i = 0; i < 32; ++i) weight[i] = average + magnitude(x[i]);
        affine_search<F>(x, weight, &work.scale[lane], &work.low[lane], work.level + 32 * lane);
    }

    __device__ static inline void levels(const float *x, int lane, Work &work, u8 *out) {
        float high_scale = 0, high_low = 0;
        for (int j = 0; j < 8; ++j) {
            high_scale = larger(high_scale, work.scale[j]);
            high_low = larger(high_low, work.low[j]);
        }
        const float to_scale = high_scale > 0 ? 63.0f / high_scale : 0.0f;
        const float to_low = high_low > 0 ? 63.0f / high_low : 0.0f;
        const u16 d = to_half(high_scale / 63.0f), dmin = to_half(high_low / 63.0f);
        const int s = six(to_scale * work.scale[lane]), m = six(to_low * work.low[lane]);
        const float scale = from_half(d) * s;
        if (scale != 0) {
            const float low = from_half(dmin) * m;
            UNROLL
            for (int i = 0; i < 32; ++i) work.level[32 * lane + i] = clamp(nearest((x[i] + low) / scale), 0, TOP);
        }
        if (lane == 0) {
            put_half(out + F::SCALE_AT, d);
            put_half(out + F::LOW_AT, dmin);
        }
        if (lane < 4) {
            const int high_s = six(to_scale * work.scale[lane + 4]), high_m = six(to_low * work.low[lane + 4]);
            out[4 + lane] = s | (high_s >> 4) << 6;
            out[8 + lane] = m | (high_m >> 4) << 6;
            out[12 + lane] = (high_s & 15) | (high_m & 15) << 4;
        }
    }

    __device__ static inline int six(float v) {
        const u8 l = nearest(v);  // wraps before it is clamped, as in C
        return l < 63 ? l : 63;
    }

    __device__ static inline void pack(int lane, const Work &work, u8 *out) {
        const u8 *level = work.level;
        if (FIVE_BITS)
            for (int i = 4 * lane; i < 4 * lane + 4; ++i) {
                u8 bits = 0;
                for (int j = 0; j < 8; ++j) bits |= (level[32 * j + i] >> 4) << j;
                out[16 + i] = bits;
            }
        u8 *low = out + (FIVE_BITS ? 48 : 16);
        for (int i = 16 * lane; i < 16 * lane + 16; ++i) {
            const u8 *pair = level + 64 * (i / 32) + i % 32;
            low[i] = (pair[0] & 15) | (pair[32] & 15) << 4;
        }
    }
};

// Four levels of two bits per byte, from weights 32 apart.
__device__ inline void pack_pairs(int lane, const Work &work, u8 *out) {
    for (int i = 4 * lane; i < 4 * lane + 4; ++i) {
        const u8 *level = work.level + 128 * (i / 32) + i % 32;
        out[i] = (level[0] & 3) | (level[32] & 3) << 2 | (level[64] & 3) << 4 | (level[96] & 3) << 6;
    }
}

// 2 bits: sixteen sub-blocks of 16, scales and minima of four bits.
template <class F>
struct Affine16 {
    static const int LANES = F::LANES, BYTES = F::BYTES;

    __device__ static inline void search(const float *x, int lane, Work &work) {
        float weight[16];
        UNROLL
        for (int i = 0; i < 16; ++i) weight[i] = magnitude(x[i]);
        affine_search<F>(x, weight, &work.scale[lane], &work.low[lane], work.level + 16 * lane);
    }

    __device__ static inline void levels(const float *x, int lane, Work &work, u8 *out) {
        float high_scale = 0, high_low = 0;
        for (int j = 0; j < 16; ++j) {
            high_scale = larger(high_scale, work.scale[j]);
            high_low = larger(high_low, work.low[j]);
        }
        u8 both = 0;
        u16 d = 0, dmin = 0;
        if (high_scale > 0) {
            both = nearest(15.0f / high_scale * work.scale[lane]);
            d = to_half(high_scale / 15.0f);
        }
        if (high_low > 0) {
            both |= nearest(15.0f / high_low * work.low[lane]) << 4;
            dmin = to_half(high_low / 15.0f);
        }
        const float scale = from_half(d) * (both & 15);
        if (scale != 0) {
            const float low = from_half(dmin) * (both >> 4);
            UNROLL
            for (int i = 0; i < 16; ++i) work.level[16 * lane + i] = clamp(nearest((x[i] + low) / scale), 0, F::TOP);
        }
        out[lane] = both;
        if (lane == 0) {
            put_half(out + F::SCALE_AT, d);
            put_half(out + F::LOW_AT, dmin);
        }
    }

    __device__ static inline void pack(int lane, const Work &work, u8 *out) { pack_pairs(lane, work, out + 16); }
};

// The search by trials (make_qx_quants): the scale of N values for levels LEAST..TOP, and the levels less LEAST.
template <int N, int LEAST, int TOP, int STEPS>
__device__ inline float trial_search(const float *x, const float *weight, u8 *level) {
    const float largest = first_largest<N>(x);
    float scale = 0, best_inverse = 0;
    if (magnitude(largest) >= NOTHING) {
        float wx[N], best = 0;
        UNROLL
        for (int i = 0; i < N; ++i) wx[i] = weight[i] * x[i];
        for (int trial = 0; trial <= 2 * STEPS; ++trial) {
            const int step = trial == 0 ? 0 : trial <= STEPS ? trial - STEPS - 1 : trial - STEPS;
            const float inverse = (trial == 0 ? LEAST : -(-LEAST + 0.1f * step)) / largest;
            float sum_lx = 0, sum_l2 = 0;
            UNROLL
            for (int i = 0; i < N; ++i) {
                const float l = clamp_float(nearest_float(inverse * x[i]), LEAST, TOP);
                sum_lx += wx[i] * l;
                sum_l2 += weight[i] * l * l;
            }
            if (trial == 0 || (sum_l2 > 0 && sum_lx * sum_lx > best * sum_l2)) {
                scale = trial || sum_l2 != 0 ? sum_lx / sum_l2 : 0.0f;
                best = scale * sum_lx;
                best_inverse = inverse;
            }
        }
    }
    UNROLL
    for (int i = 0; i < N; ++i)
        level[i] = best_inverse == 0 ? 0 : -LEAST + (int)clamp_float(nearest_float(best_inverse * x[i]), LEAST, TOP);
    return scale;
}

// 6 bits: sixteen sub-blocks of 16, signed scales of eight bits.
template <class F>
struct Symmetric6 {
    static const int LANES = F::LANES, BYTES = F::BYTES, LEAST = F::LEAST, TOP = F::TOP;

    __device__ static inline void search(const float *x, int lane, Work &work) {
        float weight[16];
        UNROLL
        for (int i = 0; i < 16; ++i) weight[i] = x[i] * x[i];
        work.scale[lane] = trial_search<16, LEAST, TOP, F::STEPS>(x, weight, work.level + 16 * lane);
    }

    __device__ static inline void levels(const float *x, int lane, Work &work, u8 *out) {
        const float largest = first_largest<16>(work.scale);
        if (magnitude(largest) < NOTHING) {
            for (int i = 0; i < 16; ++i) work.level[16 * lane + i] = 0;
            out[192 + lane] = 0;
            if (lane == 0) put_half(out + F::SCALE_AT, 0);
            return;
        }
        const float inverse = -128.0f / largest;
        const u16 d = to_half(1 / inverse);
        const int l = nearest(inverse * work.scale[lane]);
        const signed char s = l < 127 ? l : 127;
        const float scale = from_half(d) * s;
        if (scale != 0) {
            UNROLL
            for (int i = 0; i < 16; ++i) work.level[16 * lane + i] = -LEAST + clamp(nearest(x[i] / scale), LEAST, TOP);
        }
        out[192 + lane] = s;
        if (lane == 0) put_half(out + F::SCALE_AT, d);
    }

    __device__ static inline void pack(int lane, const Work &work, u8 *out) {
        for (int i = 4 * lane; i < 4 * lane + 4; ++i) {
            const int half = i / 32, at = i % 32;
            const u8 *level = work.level + 128 * half + at;
            out[64 * half + at] = (level[0] & 15) | (level[64] & 15) << 4;
            out[64 * half + at + 32] = (level[32] & 15) | (level[96] & 15) << 4;
            out[128 + i] = level[0] >> 4 | (level[32] >> 4) << 2 | (level[64] >> 4) << 4 | (level[96] >> 4) << 6;
        }
    }
};

// 3 bits: sixteen sub-blocks of 16, signed scales of six bits (make_q3_quants).
template <class F>
struct Symmetric3 {
    static const int LANES = F::LANES, BYTES = F::BYTES, LEAST = F::LEAST, TOP = F::TOP;

    __device__ static inline void search(const float *x, int lane, Work &work) {
        const float largest = first_largest<16>(x);
        u8 *level = work.level + 16 * lane;
        if (magnitude(largest) < NOTHING) {
            for (int i = 0; i < 16; ++i) level[i] = 0;
            work.scale[lane] = 0;
            return;
        }
        const float inverse = LEAST / largest;
        float l[16], sum_lx = 0, sum_l2 = 0;
        UNROLL
        for (int i = 0; i < 16; ++i) {
            l[i] = clamp_float(nearest_float(inverse * x[i]), LEAST, TOP);
            const float w = x[i] * x[i];
            sum_lx += w * x[i] * l[i];
            sum_l2 += w * l[i] * l[i];
        }
        for (int round = 0; round < F::ROUNDS; ++round) {
            bool changed = false;
            UNROLL
            for (int i = 0; i < 16; ++i) {
                const float w = x[i] * x[i];
                float lx = sum_lx - w * x[i] * l[i];
                if (lx > 0) {
                    float l2 = sum_l2 - w * l[i] * l[i];
                    const float moved = clamp(nearest(x[i] * l2 / lx), LEAST, TOP);
                    if (moved != l[i]) {
                        lx += w * x[i] * moved;
                        l2 += w * moved * moved;
                        if (l2 > 0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2) {
                            l[i] = moved, sum_lx = lx, sum_l2 = l2;
                            changed = true;
                        }
                    }
                }
            }
            if (!changed) break;
        }
        UNROLL
        for (int i = 0; i < 16; ++i) level[i] = (int)l[i] - LEAST;
        work.scale[lane] = sum_l2 > 0 ? sum_lx / sum_l2 : 0.0f;
    }

    __device__ static inline int six(float v) {
        const signed char l = nearest(v);  // wraps before it is clamped, as in C
        return clamp(l, -32, 31) + 32;
    }

    __device__ static inline void levels(const float *x, int lane, Work &work, u8 *out) {
        const float largest = first_largest<16>(work.scale);
        const float inverse = -32.0f / largest;
        const u16 d = largest != 0 ? to_half(1 / inverse) : 0;
        const int s = largest != 0 ? six(inverse * work.scale[lane]) : 0;
        const float scale = from_half(d) * (s - 32);
        if (scale != 0) {
            UNROLL
            for (int i = 0; i < 16; ++i) work.level[16 * lane + i] = clamp(nearest(x[i] / scale), LEAST, TOP) - LEAST;
        }
        if (lane < 8) out[96 + lane] = (s & 15) | (largest != 0 ? (six(inverse * work.scale[lane + 8]) & 15) << 4 : 0);
        if (lane < 4) {
            u8 bits = 0;
            if (largest != 0)
                for (int j = 0; j < 4; ++j) bits |= (six(inverse * work.scale[4 * j + lane]) >> 4) << (2 * j);
            out[104 + lane] = bits;
        }
        if (lane == 0) put_half(out + F::SCALE_AT, d);
    }

    __device__ static inline void pack(int lane, const Work &work, u8 *out) {
        for (int i = 2 * lane; i < 2 * lane + 2; ++i) {
            u8 bits = 0;
            for (int j = 0; j < 8; ++j) bits |= (work.level[32 * j + i] >> 2 & 1) << j;
            out[i] = bits;
        }
        pack_pairs(lane, work, out + 32);
    }
};

// The formats with blocks of 32 and no search. A thread has a whole block.
__device__ inline float inverse_of(float d) { return d != 0 ? 1.0f / d : 0.0f; }

__device__ inline u8 limit(int level, int top) { return level < top ? level : top; }

// Levels of a block: all fifth bits as a word, then bytes with the low four bits of weights 16 apart.
template <int BITS>
__device__ inline void pack_levels(const u8 *level, u8 *out) {
    if (BITS == 5) {
        unsigned int fifth = 0;
        UNROLL
        for (int i = 0; i < 32; ++i) fifth |= (unsigned int)(level[i] >> 4) << i;
        for (int i = 0; i < 4; ++i) *out++ = fifth >> (8 * i) & 255;
    }
    UNROLL
    for (int i = 0; i < 16; ++i) out[i] = (level[i] & 15) | (level[i + 16] & 15) << 4;
}

template <class F>
struct Block8 {
    static const int BYTES = F::BYTES;
    __device__ static inline void pack(const float *x, u8 *out) {
        float size = 0;
        UNROLL
        for (int i = 0; i < 32; ++i) size = larger(size, magnitude(x[i]));
        const float d = size / 127, inverse = inverse_of(d);
        put_half(out + F::SCALE_AT, to_half(d));
        UNROLL
        for (int i = 0; i < 32; ++i) out[2 + i] = (signed char)away_from_zero(x[i] * inverse);
    }
};

template <class F>
struct BlockSymmetric {
    static const int BYTES = F::BYTES;
    __device__ static inline void pack(const float *x, u8 *out) {
        const int half = 1 << (F::BITS - 1);
        const float d = first_largest<32>(x) / -half, inverse = inverse_of(d);
        put_half(out + F::SCALE_AT, to_half(d));
        u8 level[32];
        UNROLL
        for (int i = 0; i < 32; ++i) level[i] = limit((int)(x[i] * inverse + (half + 0.5f)), 2 * half - 1);
        pack_levels<F::BITS>(level, out + 2);
    }
};

template <class F>
struct BlockAffine {
    static const int BYTES = F::BYTES;
    __device__ static inline void pack(const float *x, u8 *out) {
        float low = x[0], high = x[0];
        UNROLL
        for (int i = 1; i < 32; ++i) low = smaller(low, x[i]), high = larger(high, x[i]);
        const int top = (1 << F::BITS) - 1;
        const float d = (high - low) / top, inverse = inverse_of(d);
        put_half(out + F::SCALE_AT, to_half(d));
        put_half(out + F::LOW_AT, to_half(low));
        u8 level[32];
        UNROLL
        for (int i = 0; i < 32; ++i) level[i] = limit((int)((x[i] - low) * inverse + 0.5f), top);
        pack_levels<F::BITS>(level, out + 4);
    }
};
