// encoders.cu for a processor: its arithmetic in portable C++, and loops in place of thread blocks.
#include <cmath>
#include <cstdint>
#include <cstring>

#define __device__
#define UNROLL
typedef unsigned char u8;
typedef unsigned short u16;

static inline int bits_of(float v) {
    int32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    return bits;
}
static inline float of_bits(int32_t bits) {
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
static inline float smaller(float a, float b) { return b < a ? b : a; }
static inline float larger(float a, float b) { return b > a ? b : a; }
static inline float fast_min(float a, float b) { return std::fmin(a, b); }
static inline float fast_max(float a, float b) { return std::fmax(a, b); }
static inline float magnitude(float v) { return std::fabs(v); }
static inline float root(float v) { return std::sqrt(v); }
static inline float away_from_zero(float v) { return std::round(v); }

// Round to nearest, ties to even: nearbyint in the mode that every program starts in.
static inline u16 to_half(float v) {
    const u16 sign = std::signbit(v) ? 0x8000 : 0;
    const float size = std::fabs(v);
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size < 6.103515625e-05f) return sign | (u16)std::nearbyint(std::ldexp(size, 24));
    const int exponent = std::ilogb(size);
    return sign | (u16)(((exponent + 15) << 10) + ((int)std::nearbyint(std::ldexp(size, 10 - exponent)) - 1024));
}
static inline float from_half(u16 half) {
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const float size = exponent == 31 ? INFINITY
                       : exponent     ? std::ldexp((float)(1024 + mantissa), exponent - 25)
                                      : std::ldexp((float)mantissa, -24);
    return half & 0x8000 ? -size : size;
}

#include "encoders.cu"
#include "weighted.cu"
#include "table.cu"
#include "small.cu"
#include "grid.cu"
#include "split.cu"

template <class Format>
static void encode_super_blocks(const float *x, u8 *out, long long count) {
    const int block = SUPER / Format::LANES;
    for (long long b = 0; b < count; ++b, x += SUPER, out += Format::BYTES) {
        Work work;
        for (int lane = 0; lane < Format::LANES; ++lane) Format::search(x + lane * block, lane, work);
        for (int lane = 0; lane < Format::LANES; ++lane) Format::levels(x + lane * block, lane, work, out);
        for (int lane = 0; lane < Format::LANES; ++lane) Format::pack(lane, work, out);
    }
}

template <class Format>
static void encode_blocks(const float *x, u8 *out, long long count) {
    for (long long b = 0; b < count; ++b) Format::pack(x + 32 * b, out + Format::BYTES * b);
}

static float squares(const float *x, int count) {
    float sum = 0;
    for (int i = 0; i < count; ++i) sum += x[i] * x[i];
    return sum;
}

template <class Format>
static void encode_weighted_super_blocks(const float *x, u8 *out, long long count, const float *given, long long columns) {
    const int block = SUPER / Format::LANES;
    for (long long b = 0; b < count; ++b, x += SUPER, out += Format::BYTES) {
        Work work;
        const float sum = squares(x, SUPER), *importance = given + b * SUPER % columns;
        for (int lane = 0; lane < Format::LANES; ++lane)
            Format::search(x + lane * block, importance + lane * block, sum, lane, work);
        for (int lane = 0; lane < Format::LANES; ++lane) Format::fit_scales(lane, work);
        for (int lane = 0; lane < Format::LANES; ++lane) Format::levels(x + lane * block, lane, work, out);
        for (int lane = 0; lane < Format::LANES; ++lane) Format::pack(lane, work, out);
    }
}

template <class Format>
static void encode_weighted_blocks(const float *x, u8 *out, long long count, const float *given, long long columns) {
    float sum = 0;
    for (long long b = 0; b < count; ++b) {
        const long long column = 32 * b % columns;
        if (column == 0) sum = squares(x + 32 * b, columns);
        Format::pack(x + 32 * b, given + column, sum / columns, out + Format::BYTES * b);
    }
}

template <class Format>
static void encode_grid_super_blocks(const float *x, u8 *out, long long count, const float *given, long long columns,
                                     const unsigned int *table) {
    for (long long b = 0; b < count; ++b, x += SUPER, out += Format::BYTES) {
        GridWork work;
        const float variance = Format::times(given) / SUPER * squares(x, SUPER);
        const float *importance = given ? given + b * SUPER % columns : nullptr;
        for (int block = 0; block < SUPER / Format::BLOCK; ++block) {
            const int first = block * Format::BLOCK;
            for (int lane = 0; lane < Format::BLOCK; ++lane)
                Format::read(x[first + lane], given ? importance + first + lane : nullptr, variance, lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::take_signs(block, lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::try_units(lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::begin(lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::look_up(table, lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::join(table, lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::attempt(lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::choose(table, lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::compare(table, lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::fit(table, lane, work);
            for (int lane = 0; lane < 32; ++lane) Format::finish(block, lane, work);
        }
        for (int lane = 0; lane < 32; ++lane) Format::pack(lane, work, out);
    }
}

template <class Format>
static void encode_split_super_blocks(const float *x, u8 *out, long long count, const float *given, long long columns,
                                      const unsigned int *table) {
    const int block = Format::N, lanes = SUPER / block;
    for (long long b = 0; b < count; ++b, x += SUPER, out += Format::BYTES) {
        SplitWork work;
        float w[SUPER];
        const float variance = 2 * squares(x, SUPER) / SUPER, *importance = given ? given + b * SUPER % columns : nullptr;
        for (int i = 0; i < SUPER; ++i) w[i] = Format::weight_of(x[i], given ? importance + i : nullptr, variance);
        for (int lane = 0; lane < lanes; ++lane) Format::find(table, x + lane * block, w + lane * block, lane, work);
        for (int lane = 0; lane < lanes; ++lane) Format::choose_step(lane, work);
        for (int lane = 0; Format::FITS_UNIT && lane < lanes; ++lane)
            Format::add_up(x + lane * block, w + lane * block, lane, work);
        for (int lane = 0; lane < lanes; ++lane) Format::pack(lane, work, out);
    }
}

// host_encoders.py adds such a line for each format.
#define ENCODER(NAME, LAUNCHER, FORMAT) \
    extern "C" void NAME(const float *x, u8 *out, long long count) { LAUNCHER<FORMAT>(x, out, count); }
#define WEIGHTED_ENCODER(NAME, LAUNCHER, FORMAT)                                                                    \
    extern "C" void weighted_##NAME(const float *x, u8 *out, long long count, const float *given, long long columns) { \
        LAUNCHER<FORMAT>(x, out, count, given, columns);                                                            \
    }
#define GRID_ENCODER(NAME, LAUNCHER, FORMAT)                                                                       \
    extern "C" void grid_##NAME(const float *x, u8 *out, long long count, const float *given, long long columns,     \
                                const unsigned int *table) {                                                       \
        LAUNCHER<FORMAT>(x, out, count, given, columns, table);                                                    \
    }
