// The formats of four bits whose levels number the values of a table, one thread per 32 weights; and with importances.
//
// IQ4_TABLE in formats.h lists the table: after the lowest value the middle between neighbours and the higher of them.

// The value nearest to v, of two the higher. Differences to neighbouring values are exact near their middle, so a
// comparison with it decides as ggml's comparison of the two differences does.
__device__ inline float nearest_value(float v) {
    float value = IQ4_LEAST;
#define STEP(MIDDLE, VALUE) value = v < MIDDLE ? value : VALUE;
    IQ4_TABLE(STEP)
#undef STEP
    return value;
}

// The number of that value; the last for NaN, which an infinite inverse makes of zero.
__device__ inline u8 nearest_number(float v) {
    int number = 0;
#define STEP(MIDDLE, VALUE) number += v < MIDDLE ? 0 : 1;
    IQ4_TABLE(STEP)
#undef STEP
    return number;
}

// The scale of 32 weights: a first guess, then 2 * STEPS + 1 trials with the other sign.
template <class F>
__device__ inline float table_search(const float *x, const float *weight) {
    const float largest = first_largest<32>(x);
    if (magnitude(largest) < NOTHING) return 0;
    float scale = 0, best = 0;
    for (int step = -F::STEPS - 1; step <= F::STEPS; ++step) {
        const bool guess = step < -F::STEPS;
        const float inverse = guess ? 1 / (-largest / IQ4_LEAST) : (step + IQ4_LEAST) / largest;
        float sum_qx = 0, sum_q2 = 0;
        UNROLL
        for (int i = 0; i < 32; ++i) {
            const float q = nearest_value(inverse * x[i]), wq = weight[i] * q;
            sum_qx += wq * x[i];
            sum_q2 += wq * q;
        }
        if (sum_q2 > 0 && (guess || sum_qx * sum_qx > best * sum_q2)) {
            scale = sum_qx / sum_q2;
            best = scale * sum_qx;
        }
    }
    return scale;
}

template <class F>
__device__ inline float table_search(const float *x) {
    float weight[32];
    UNROLL
    for (int i = 0; i < 32; ++i) weight[i] = x[i] * x[i];
    return table_search<F>(x, weight);
}

// *squares*: the sum of the squares of the N weights of a block of the type.
template <class F, int N>
__device__ inline float weighted_table_search(const float *x, const float *importance, float squares) {
    float weight[32];
    weigh<32>(x, importance, 2 * squares / N, weight);
    return table_search<F>(x, weight);
}

__device__ inline void pack_numbers(const float *x, float scale, u8 *out) {
    const float inverse = inverse_of(scale);
    UNROLL
    for (int i = 0; i < 16; ++i)
        out[i] = nearest_number(inverse * x[i]) | nearest_number(inverse * x[i + 16]) << 4;
}

// A scale and 32 levels.
template <class F>
__device__ inline void pack_table_block(const float *x, float scale, u8 *out) {
    put_half(out + F::SCALE_AT, to_half(scale));
    pack_numbers(x, scale, out + 2);
}

template <class F>
struct TableBlock {
    static const int BYTES = F::BYTES;
    __device__ static inline void pack(const float *x, u8 *out) { pack_table_block<F>(x, table_search<F>(x), out); }
};

template <class F>
struct WeightedTableBlock {
    static const int BYTES = F::BYTES;
    __device__ static inline void pack(const float *x, const float *importance, float, u8 *out) {
        float squares = 0;
        UNROLL
        for (int i = 0; i < 32; ++i) squares += x[i] * x[i];
        pack_table_block<F>(x, weighted_table_search<F, 32>(x, importance, squares), out);
    }
};

// A unit, eight multiples of it in six bits, each for 32 weights, and the levels.
template <class F>
struct TableSuper {
    static const int LANES = F::LANES, BYTES = F::BYTES;

    __device__ static inline void search(const float *x, int lane, Work &work) {
        work.scale[lane] = table_search<F>(x);
    }

    __device__ static inline int multiple(float v) { return clamp(nearest_any(v), -32, 31); }

    __device__ static inline void levels(const float *x, int lane, Work &work, u8 *out) {
        // The levels are those of the unit before it is rounded to float16.
        const float unit = -first_largest<8>(work.scale) / 32, inverse = inverse_of(unit);
        pack_numbers(x, unit * multiple(inverse * work.scale[lane]), out + 8 + 16 * lane);
        if (lane == 0) {
            int high = 0;
            for (int j = 0; j < 8; ++j) high |= (multiple(inverse * work.scale[j]) + 32) >> 4 << 2 * j;
            put_half(out + F::SCALE_AT, to_half(unit));
            put_half(out + 2, high);
        }
        if (lane < 4) {
            const int even = multiple(inverse * work.scale[2 * lane]) + 32;
            const int odd = multiple(inverse * work.scale[2 * lane + 1]) + 32;
            out[4 + lane] = (even & 15) | (odd & 15) << 4;
        }
    }

    __device__ static inline void pack(int, const Work &, u8 *) {}
};

template <class F>
struct WeightedTableSuper : TableSuper<F> {
    __device__ static inline void search(const float *x, const float *importance, float squares, int lane, Work &work) {
        work.scale[lane] = weighted_table_search<F, SUPER>(x, importance, squares);
    }

    __device__ static inline void fit_scales(int, Work &) {}
};
