"""exp, tanh and the logarithm of a quotient, defined step by step.

A library's exp differs in its last bits from another's, and on another processor from its own. So
that the same inputs give the same bytes everywhere these three are sequences of IEEE-754 float64
additions, subtractions, multiplications and divisions, each rounded once and none contracted, and
of integer operations on the bits. `torch.functions` and `numba.functions` carry them out; this
module has the constants, and knows neither.

P is a polynomial with the coefficients below, lowest first, summed in pairs:
((c0 + c1·x) + (c2 + c3·x)·x²) + ((c4 + c5·x) + (c6 + c7·x)·x²)·x⁴ + (c8 + c9·x)·x⁸.

exp(x), within 1.1 units in the last place of the true value over all float64, subnormal results,
infinities and NaN included:
    x is clamped to [LEAST, MOST]; k = x·LOG2E rounded to the nearest integer by adding and
    subtracting ROUND; r = (x - k·LN2_HIGH) - k·LN2_LOW, of which k·LN2_HIGH is exact;
    e^r - 1 = (r·r)·P(r) + r with `EXP`; exp = ((1 + (e^r - 1))·2^⌊k/2⌋)·2^(k - ⌊k/2⌋)
    for |x| ≤ EXP_NEAR k is 0, and only the polynomial is left

tanh(z), within 3 units:
    |z| < TANH_NEAR: z + (z·w)·P(w), w = z·z, with `TANH`
    else u = e^v - 1 for v = -2·|z|, clamped to at least TANH_LEAST, as (2^k - 1) + 2^k·(e^r - 1)
    with k and r as above; tanh = -u / (u + 2), with the sign of z

ln(p / q) of positive, normal numbers whose quotient is normal, within 2 units:
    k = (bits(p) - bits(q) + 2⁵¹) >> 52, the exponent of the quotient, so that m = p·2^-k is within
    a factor of 1.51 of q; s = (m - q) / (m + q), at most 0.21;
    ln = k·LN2_HIGH + (k·LN2_LOW + (2s + (s·w)·P(w))), w = s·s, with `LOG`
    equal numbers give 0

NaN gives NaN, and -0 may give 0. The polynomials pass through (e^r - 1 - r)/r², (tanh z - z)/z³ and
(2·artanh s - 2s)/s³ at Chebyshev's points, and deviate from them by less than 2⁻⁵⁵ of the result;
`tests/chebyshev.py` makes the coefficients. The reductions are textbook ones (Cody and Waite,
"Software Manual for the Elementary Functions", 1980; Muller, "Elementary Functions").
"""

from __future__ import annotations

from typing import Final

LOG2E: Final = 1.4426950408889634
LN2_HIGH: Final = float.fromhex("0x1.62e42fefa2p-1")
"""The first 40 bits of ln 2: its product with an integer of 12 bits is exact."""
LN2_LOW: Final = float.fromhex("0x1.9ef35793c7673p-41")
ROUND: Final = 1.5 * 2.0**52
ROUND_BITS: Final = 0x4338 << 48
"""Those of `ROUND`; by how much the bits of a sum with it are more is the integer it rounded to."""

LEAST: Final = -746.0
"""exp is 0 from here down."""
MOST: Final = 710.0
"""exp is infinite from here up."""
EXP_NEAR: Final = 0.34
TANH_NEAR: Final = 0.03125
TANH_LEAST: Final = -80.0

EXP: Final = (
    0.5000000000000001,
    0.16666666666666669,
    0.04166666666662374,
    0.008333333333330032,
    0.0013888888917406447,
    0.00019841269863201828,
    2.4801520996825697e-05,
    2.7557268229963227e-06,
    2.76202305675069e-07,
    2.5100494788905042e-08,
)
LOG: Final = (
    0.6666666666666666,
    0.40000000000008523,
    0.2857142856701462,
    0.2222222309164114,
    0.18181734246400322,
    0.1538900212516573,
    0.13207080082069364,
    0.13629110721861268,
)
TANH: Final = (
    -0.33333333333333326,
    0.13333333333127131,
    -0.05396824340997718,
    0.021852186945586938,
)
