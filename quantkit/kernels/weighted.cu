// ggml's block encoders with importances (an imatrix): errors count by the importance of their column.
//
// As in encoders.cu every sum runs in the order of ggml-quants.c. A super-block takes one step more between search and
// levels: the scales and minima of its sub-blocks are themselves fitted to their units, by the weights of the sub-blocks.

// The same for every v: of NaN, processors differ in the bits.
__device__ inline int nearest_any(float v) { return v == v ? nearest(v) : 0; }

// The weights of N errors, and the sum of them.
template <int N>
__device__ inline float weigh(const float *x, const float *importance, float variance, float *weight) {
    float sum = 0;
    UNROLL
    for (int i = 0; i < N; ++i) {
        weight[i] = importance[i] * root(variance + x[i] * x[i]);
        sum += weight[i];
    }
    return sum;
}

// The unit of N values from zero up, and how many of it each value is, 0..TOP (make_qp_quants). A value below zero, which
// a fit of garbage can make, becomes a byte that wrapped.
template <int N, int TOP>
__device__ inline float find_unit(const float *x, const float *weight, u8 *level) {
    float largest = 0;
    for (int i = 0; i < N; ++i) largest = larger(largest, x[i]);
    if (largest < NOTHING) {
        for (int i = 0; i < N; ++i) level[i] = 0;
        return 0;
    }
    float inverse = TOP / largest, unit = 1 / inverse, best = 0;
    for (int i = 0; i < N; ++i) {
        const float diff = x[i] - unit * (u8)nearest_any(inverse * x[i]);
        best += weight[i] * diff * diff;
    }
    for (int step = -4; step <= 4; ++step) {
        if (step == 0) continue;
        const float tried = (0.1f * step + TOP) / largest;
        unit = 1 / tried;
        float error = 0;
        for (int i = 0; i < N; ++i) {
            const int l = nearest_any(tried * x[i]);
            const float diff = x[i] - unit * (l < TOP ? l : TOP);
            error += weight[i] * diff * diff;
        }
        if (error < best) best = error, inverse = tried;
    }
    float sum_lx = 0, sum_l2 = 0;
    for (int i = 0; i < N; ++i) {
        int l = nearest_any(inverse * x[i]);
        l = l < TOP ? l : TOP;
        level[i] = l;
        sum_lx += weight[i] * x[i] * l;
        sum_l2 += weight[i] * l * l;
    }
    for (int round = 0; round < 5; ++round) {
        bool changed = false;
        for (int i = 0; i < N; ++i) {
            const float w = weight[i];
            float lx = sum_lx - w * x[i] * level[i], l2 = sum_l2 - w * level[i] * level[i];
            if (!(lx > 0 && l2 > 0)) continue;
            int moved = nearest_any(x[i] * l2 / lx);
            moved = moved < TOP ? moved : TOP;
            if (moved == level[i]) continue;
            lx += w * x[i] * moved;
            l2 += w * moved * moved;
            if (lx * lx * sum_l2 > sum_lx * sum_lx * l2) {
                level[i] = moved, sum_lx = lx, sum_l2 = l2;
                changed = true;
            }
        }
        if (!changed) break;
    }
    return sum_l2 > 0 ? sum_lx / sum_l2 : 0.0f;
}

// 4 and 5 bits.
template <class F>
struct WeightedAffine32 : Affine32<F> {
    static const int TOP = F::TOP;
    static const bool FIVE_BITS = TOP > 15;

    __device__ static inline void search(const float *x, const float *importance, float squares, int lane, Work &work) {
        float weight[32];
        work.weight[lane] = weigh<32>(x, importance, 2 * squares / SUPER, weight);
        affine_search<F>(x, weight, &work.scale[lane], &work.low[lane], work.level + 32 * lane);
    }

    __device__ static inline void fit_scales(int lane, Work &work) {
        if (lane < 2) work.unit[lane] = find_unit<8, 63>(lane ? work.low : work.scale, work.weight, work.step[lane]);
    }

    __device__ static inline void levels(const float *x, int lane, Work &work, u8 *out) {
        const u8 *s = work.step[0], *m = work.step[1];
        const u16 d = to_half(work.unit[0]), dmin = to_half(work.unit[1]);
        const float scale = from_half(d) * read_back(s, lane);
        if (scale != 0) {
            const float low = from_half(dmin) * read_back(m, lane);
            UNROLL
            for (int i = 0; i < 32; ++i) work.level[32 * lane + i] = clamp(nearest_any((x[i] + low) / scale), 0, TOP);
        }
        if (lane == 0) {
            put_half(out + F::SCALE_AT, d);
            put_half(out + F::LOW_AT, dmin);
        }
        if (lane < 4) {
            const int high_s = six(s, lane + 4), high_m = six(m, lane + 4);
            out[4 + lane] = six(s, lane) | (high_s >> 4) << 6;
            out[8 + lane] = six(m, lane) | (high_m >> 4) << 6;
            out[12 + lane] = (high_s & 15) | (high_m & 15) << 4;
        }
    }

    // Only for five bits does C limit a byte that wrapped.
    __device__ static inline int six(const u8 *step, int j) { return FIVE_BITS && step[j] > 63 ? 63 : step[j]; }

    // As it is stored: the high bits of the last four lie above the first four.
    __device__ static inline int read_back(const u8 *step, int j) {
        if (j < 4) return six(step, j) & 63;
        return (six(step, j) & 15) | ((six(step, j - 4) >> 6 | six(step, j) >> 4) & 3) << 4;
    }
};

// 2 bits.
template <class F>
struct WeightedAffine16 : Affine16<F> {
    __device__ static inline void search(const float *x, const float *importance, float squares, int lane, Work &work) {
        float weight[16];
        work.weight[lane] = weigh<16>(x, importance, squares / SUPER, weight);
        affine_search<F>(x, weight, &work.scale[lane], &work.low[lane], work.level + 16 * lane);
    }

    __device__ static inline void fit_scales(int lane, Work &work) {
        if (lane < 2) work.unit[lane] = find_unit<16, 15>(lane ? work.low : work.scale, work.weight, work.step[lane]);
    }

    __device__ static inline void levels(const float *x, int lane, Work &work, u8 *out) {
        const u8 both = work.step[0][lane] | work.step[1][lane] << 4;
        const u16 d = to_half(work.unit[0]), dmin = to_half(work.unit[1]);
        const float scale = from_half(d) * (both & 15);
        if (scale != 0) {
            const float low = from_half(dmin) * (both >> 4);
            UNROLL
            for (int i = 0; i < 16; ++i)
                work.level[16 * lane + i] = clamp(nearest_any((x[i] + low) / scale), 0, F::TOP);
        }
        out[lane] = both;
        if (lane == 0) {
            put_half(out + F::SCALE_AT, d);
            put_half(out + F::LOW_AT, dmin);
        }
    }
};

// 6 bits: the importances themselves are the weights, and the scales are stored as without.
template <class F>
struct WeightedSymmetric6 : Symmetric6<F> {
    __device__ static inline void search(const float *x, const float *importance, float squares, int lane, Work &work) {
        float weight[16];
        UNROLL
        for (int i = 0; i < 16; ++i) weight[i] = importance[i];
        work.scale[lane] = trial_search<16, F::LEAST, F::TOP, F::STEPS>(x, weight, work.level + 16 * lane);
    }

    __device__ static inline void fit_scales(int lane, Work &work) {}
};

// 3 bits: trials for the weights of a sub-block, and for the scales of a super-block.
template <class F>
struct WeightedSymmetric3 : Symmetric3<F> {
    static const int LEAST = F::LEAST, TOP = F::TOP;

    __device__ static inline void search(const float *x, const float *importance, float squares, int lane, Work &work) {
        float weight[16];
        work.weight[lane] = weigh<16>(x, importance, 2 * squares / SUPER, weight);
        work.scale[lane] = trial_search<16, LEAST, TOP, F::STEPS>(x, weight, work.level + 16 * lane);
    }

    __device__ static inline void fit_scales(int lane, Work &work) {
        if (lane == 0) work.unit[0] = trial_search<16, -32, 31, F::STEPS>(work.scale, work.weight, work.step[0]);
    }

    __device__ static inline void levels(const float *x, int lane, Work &work, u8 *out) {
        const u8 *s = work.step[0];
        const u16 d = to_half(work.unit[0]);
        const float scale = from_half(d) * (s[lane] - 32);
        if (scale != 0) {
            UNROLL
            for (int i = 0; i < 16; ++i)
                work.level[16 * lane + i] = clamp(nearest_any(x[i] / scale), LEAST, TOP) - LEAST;
        }
        if (lane < 8) out[96 + lane] = (s[lane] & 15) | (s[lane + 8] & 15) << 4;
        if (lane < 4)
            out[104 + lane] = s[lane] >> 4 | (s[4 + lane] >> 4) << 2 | (s[8 + lane] >> 4) << 4 | (s[12 + lane] >> 4) << 6;
        if (lane == 0) put_half(out + F::SCALE_AT, d);
    }
};

// The formats with blocks of 32: *variance* is the mean square of the row.
template <class F>
struct WeightedBlockSymmetric {
    static const int BYTES = F::BYTES;
    __device__ static inline void pack(const float *x, const float *importance, float variance, u8 *out) {
        float weight[32];
        weigh<32>(x, importance, variance, weight);
        u8 level[32];
        put_half(out + F::SCALE_AT, to_half(trial_search<32, F::LEAST, F::TOP, F::STEPS>(x, weight, level)));
        pack_levels<F::BITS>(level, out + 2);
    }
};

template <class F>
struct WeightedBlockAffine {
    static const int BYTES = F::BYTES;
    __device__ static inline void pack(const float *x, const float *importance, float variance, u8 *out) {
        float weight[32], scale, low;
        weigh<32>(x, importance, variance, weight);
        u8 level[32];
        affine_search<F>(x, weight, &scale, &low, level);
        put_half(out + F::SCALE_AT, to_half(scale));
        put_half(out + F::LOW_AT, to_half(-low));
        pack_levels<F::BITS>(level, out + 4);
    }
};
