// The three matrices of Winograd's F(M, R): P = M + R - 1 products for M outputs of a filter of R, which take M R
// otherwise.
//
//   M outputs = A^T [(G filter) * (B^T inputs)]      A^T (M, P), G (P, R), B^T (P, P)
//
// Filter and inputs are polynomials, taken at P - 1 points and at infinity, multiplied there, and interpolated: Lavin
// and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1. Row i of B^T has the coefficients
// of the polynomial that is zero at all points but i, and G divides by its value there. All are made from the points by
// the compiler.
#pragma once

#include "../simd.h"

namespace alexkern::ALEXKERN_ISA {

template <int COUNT>
struct Points;

template <>
struct Points<2> {
    static constexpr double finite[] = {0, 1};
};

template <>
struct Points<3> {
    static constexpr double finite[] = {0, 1, -1};
};

// Two pairs of opposites, nearly reciprocal: of such pairs those with the least rounding error, and fractions of so few
// bits that A and B are exact in float.
template <>
struct Points<5> {
    static constexpr double finite[] = {0, 1.5, -1.5, 0.625, -0.625};
};

template <int M, int R>
struct Matrices {
    static constexpr int points = M + R - 1;
    double A[M][points] = {}, G[points][R] = {}, B[points][points] = {};

    constexpr Matrices() {
        for (int i = 0; i < points; ++i) {
            const bool infinity = i == points - 1;
            const double point = infinity ? 0 : Points<points - 1>::finite[i];
            double value = 1;  // of row i's polynomial at its point
            B[i][0] = 1;
            int degree = 0;
            for (int j = 0; j < points - 1; ++j) {
                if (j == i) continue;
                const double other = Points<points - 1>::finite[j];
                ++degree;  // times (x - other), from the highest coefficient down
                for (int k = degree; k > 0; --k) B[i][k] = B[i][k - 1] - other * B[i][k];
                B[i][0] *= -other;
                value *= point - other;
            }
            double power = 1;
            for (int k = 0; k < R; ++k, power *= point) G[i][k] = infinity ? k == R - 1 : power / value;
            power = 1;
            for (int k = 0; k < M; ++k, power *= point) A[k][i] = infinity ? k == M - 1 : power;
        }
    }
};

template <int M, int R>
inline constexpr Matrices<M, R> matrices{};

// result[i] = the sum of matrix[i][j] x[j]. Loops over constants: unrolled, and without what is multiplied by 0.
template <int COUNT, int FROM>
__attribute__((always_inline)) inline void multiply(const double (&matrix)[COUNT][FROM], const Floats (&x)[FROM],
                                                    Floats (&result)[COUNT]) {
#pragma GCC unroll 8
    for (int i = 0; i < COUNT; ++i) {
        Floats sum = {};
        bool any = false;
#pragma GCC unroll 8
        for (int j = 0; j < FROM; ++j) {
            if (matrix[i][j] == 0) continue;
            const Floats term = static_cast<float>(matrix[i][j]) * x[j];
            sum = any ? sum + term : term;
            any = true;
        }
        result[i] = sum;
    }
}

}  // namespace alexkern::ALEXKERN_ISA
