//! Scalar: conversions of single numbers as on x86-64, and a map over the lanes of an array.

use bytemuck::Pod;

const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// Conversion to 32 bits as on x86-64: out of range and NaN give the most negative number.
#[inline(always)]
pub(super) fn cast_i32(value: f64) -> i32 {
    if value < 2_147_483_648.0 {
        value as i32
    } else {
        i32::MIN
    }
}

/// Conversion to 64 bits as on x86-64: out of range and NaN give the most negative number.
#[inline(always)]
pub(super) fn cast_i64(value: f64) -> i64 {
    if value < TWO_TO_63 { value as i64 } else { i64::MIN }
}

/// Conversion to unsigned 64 bits as gcc compiles it for x86-64.
#[inline(always)]
pub(super) fn cast_u64(value: f64) -> u64 {
    if value >= TWO_TO_63 {
        (cast_i64(value - TWO_TO_63) ^ i64::MIN) as u64
    } else {
        cast_i64(value) as u64
    }
}

/// `from.map(convert)`, always inlined. The standard library's `map` may be compiled as a separate function
/// without the caller's vector instructions.
#[inline(always)]
pub(super) fn map_lanes<A: Copy, B: Pod, const LANES: usize>(
    from: [A; LANES],
    convert: impl Fn(A) -> B,
) -> [B; LANES] {
    let mut to = [B::zeroed(); LANES];
    for lane in 0..LANES {
        to[lane] = convert(from[lane]);
    }
    to
}
