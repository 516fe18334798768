// The formats whose levels follow from the largest magnitude alone: MXFP4, one thread per block of 32, and the ternary
// ones, one thread per 32 weights of a super-block.

// 32 levels of four bits for a power of two. ggml takes its exponent from log2f, which rounds: a few floats below a power
// already have the exponent of that power. MXFP4_EARLY in formats.h says how many, by power.
template <class F>
struct ExponentBlock {
    static const int BYTES = F::BYTES;

    __device__ static inline void pack(const float *x, u8 *out) {
        float size = 0;
        UNROLL
        for (int i = 0; i < 32; ++i) size = larger(size, magnitude(x[i]));
        const int e = size > 0 ? exponent(bits_of(size)) + 125 : 0;
        const float unit = e > 0 ? of_bits((e - 1) << 23) : 1.0f;  // half of what e says, for halves of the values
        out[0] = e;
        UNROLL
        for (int i = 0; i < 16; ++i) out[1 + i] = level(x[i], unit) | level(x[i + 16], unit) << 4;
    }

    __device__ static inline int exponent(int bits) {
        static const u8 early[] = {MXFP4_EARLY};
        const int next = (bits >> 23) - 126;
        return 0x800000 - (bits & 0x7fffff) <= early[next - MXFP4_FIRST] ? next : next - 1;
    }

    // The number of the nearest of 0, 1, 2, 3, 4, 6, 8 and 12 units, of two the smaller; and the sign.
    __device__ static inline u8 level(float v, float unit) {
        const float size = magnitude(v);
        const int number = (size > 0.5f * unit) + (size > 1.5f * unit) + (size > 2.5f * unit) + (size > 3.5f * unit) +
                           (size > 5 * unit) + (size > 7 * unit) + (size > 10 * unit);
        return number && v < 0 ? number + 8 : number;
    }
};

// Levels 0, 1 and 2 for -d, 0 and d.
template <class F>
struct Ternary {
    static const int LANES = F::LANES, BYTES = F::BYTES;

    __device__ static inline void search(const float *x, int lane, Work &work) {
        float size = 0;
        UNROLL
        for (int i = 0; i < 32; ++i) size = larger(size, magnitude(x[i]));
        work.scale[lane] = size;
    }

    __device__ static inline void levels(const float *x, int lane, Work &work, u8 *out) {
        float d = 0;
        for (int j = 0; j < LANES; ++j) d = larger(d, work.scale[j]);
        const float inverse = inverse_of(d);
        UNROLL
        for (int i = 0; i < 32; ++i) work.level[32 * lane + i] = (int)away_from_zero(x[i] * inverse) + 1;
        if (lane == 0) put_half(out + F::SCALE_AT, to_half(d));
    }
};

// Two bits per level: weights 32 apart share a byte.
template <class F>
struct Ternary2 : Ternary<F> {
    __device__ static inline void pack(int lane, const Work &work, u8 *out) {
        for (int i = 8 * lane; i < 8 * lane + 8; ++i) {
            const u8 *level = work.level + 128 * (i / 32) + i % 32;
            out[i] = level[0] | level[32] << 2 | level[64] << 4 | level[96] << 6;
        }
    }
};

// Five levels per byte, as a fraction of 3**5 in 256ths: 160 weights 32 apart, 80 weights 16 apart, 16 weights 4 apart.
template <class F>
struct Ternary1 : Ternary<F> {
    __device__ static inline void pack(int lane, const Work &work, u8 *out) {
        for (int i = lane; i < 52; i += F::LANES)
            out[i] = i < 32   ? fraction(work.level + i, 32, 5)
                     : i < 48 ? fraction(work.level + 160 + i - 32, 16, 5)
                              : fraction(work.level + 240 + i - 48, 4, 4);
    }

    __device__ static inline u8 fraction(const u8 *level, int apart, int count) {
        int digits = 0;
        for (int n = 0; n < 5; ++n) digits = 3 * digits + (n < count ? level[n * apart] : 0);
        return (digits * 256 + 242) / 243;
    }
};
