"""Vector functions the processor has no instruction for."""

from __future__ import annotations

from ggq.jit.isa import target
from ggq.jit.lang import Value, const, fma, i32, maximum, minimum


def exp(x: Value) -> Value:
    """e^x for f32 lanes, within 2 units of the last place; clamped to [-87, 88].

    Source: Cephes expf: x = n ln 2 + r, then a polynomial in r.
    """
    # In this order, or what is no number would become one.
    x = maximum(const(x.type, -87.0), minimum(const(x.type, 88.0), x))
    n = target().round_even(x * 1.4426950408889634)
    r = fma(n, const(x.type, -0.693359375), x)
    r = fma(n, const(x.type, 2.12194440e-4), r)
    p = const(x.type, 1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma(p, r, const(x.type, c))
    y = fma(p, r * r, r) + 1.0
    power = (n.to(i32) + 127) << 23
    return y * power.bits(x.type)


def exp2(x: Value) -> Value:
    """2^x for f32 lanes up to 0, within 3 units of the last place; 0 below -127.

    x = n + r; the polynomial in r has the least largest relative error of its degree, 7.5e-8.
    """
    n = target().round_even(x)
    r = x - n
    p = const(x.type, 0.00132764721678)
    for c in (0.00967554133102, 0.0555071327288, 0.24022119724, 0.693146967065, 1.00000007165):
        p = fma(p, r, const(x.type, c))
    return target().times_power_of_2(p, n)


def tanh(x: Value) -> Value:
    """Hyperbolic tangent of f32 lanes."""
    return const(x.type, 1.0) - const(x.type, 2.0) / (exp(x * 2.0) + 1.0)
