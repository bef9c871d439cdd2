//! exp in double: the bits of glibc's `exp` with fused multiply-add for arguments that are not positive, on
//! every machine.
//!
//! The weights of dipy's non-local means are such exponentials. glibc 2.28 and later choose a variant by
//! processor; the one for processors with fused multiply-add is computed here, and dipy itself differs in a
//! last bit on others. (`exp.rs` has the exponential of numpy, which is another algorithm.)

use super::powers::{ERRORS, POWERS, STEPS};
use super::simd::Vector;

/// 128/ln2.
const STEPS_PER_E: f64 = std::f64::consts::LOG2_E * STEPS as f64;

/// What is added to round to a whole number, which then stands in the lowest bits.
const TO_WHOLE: f64 = 6_755_399_441_055_744.0;

/// −ln2/128 in two parts; the first has zeros in its last bits.
const STEP_HIGH: f64 = f64::from_bits(0xBF76_2E42_FEFA_0000);
const STEP_LOW: f64 = f64::from_bits(0xBD0C_F79A_BC9E_3B39);

/// Coefficients of r², r³, r⁴ and r⁵ in the approximation of exp(r) − 1 for |r| ≤ ln2/256.
const POLYNOMIAL: [f64; 4] = [
    f64::from_bits(0x3FDF_FFFF_FFFF_FDBD),
    f64::from_bits(0x3FC5_5555_5555_543C),
    f64::from_bits(0x3FA5_5555_CF17_2B91),
    f64::from_bits(0x3F81_1111_67A4_D017),
];

/// Below this the result is 0: the logarithm of half the smallest double.
const UNDERFLOW: f64 = -745.133_219_101_941_2;

/// Below this the result is rounded to fewer bits than a double has.
const SUBNORMAL: f64 = -708.0;

/// Below this the result is less than 2^−952.
const TINY: f64 = -660.0;

/// exp(x) of the lanes of a vector of numbers that are not positive, and whether a lane is so small that a
/// product or quotient of it may be subnormal.
///
/// # Safety
/// The processor has `V`'s instructions.
#[inline(always)]
pub(in crate::filter) unsafe fn exp_of_nonpositive<V: Vector<LANES>, const LANES: usize>(x: V) -> (V, bool) {
    // SAFETY: the caller's processor has V's instructions.
    unsafe {
        let shifted = x.mul_add(V::splat(STEPS_PER_E), V::splat(TO_WHOLE));
        let step = shifted.sub(V::splat(TO_WHOLE));
        let (power, error) = V::power(shifted);
        let expm1 = expm1(x, step, error);
        let exp = expm1.mul_add(power, power);
        let is_normal = V::splat(UNDERFLOW);
        let tiny = x.only_where_le(is_normal, x);
        let is_tiny = tiny.any_lt(V::splat(TINY));
        if is_tiny && tiny.any_lt(V::splat(SUBNORMAL)) {
            let mut lanes = [0.0; LANES];
            x.store(lanes.as_mut_ptr());
            each(&mut lanes);
            return (V::load(lanes.as_ptr()), true);
        }
        (exp.only_where_le(is_normal, x), is_tiny)
    }
}

/// exp(r) − 1 and the error of the table's number, where r is x less its whole steps.
///
/// # Safety
/// The processor has `V`'s instructions.
#[inline(always)]
unsafe fn expm1<V: Vector<LANES>, const LANES: usize>(x: V, step: V, error: V) -> V {
    // SAFETY: the caller's processor has V's instructions.
    unsafe {
        let r = step.mul_add(V::splat(STEP_HIGH), x);
        let r = step.mul_add(V::splat(STEP_LOW), r);
        let [c2, c3, c4, c5] = POLYNOMIAL;
        let (c2, c3, c4, c5) = (V::splat(c2), V::splat(c3), V::splat(c4), V::splat(c5));
        let r2 = r.mul(r);
        let low = r2.mul_add(r.mul_add(c3, c2), error.add(r));
        r2.mul(r2).mul_add(r.mul_add(c5, c4), low)
    }
}

/// The exponentials of numbers one by one.
#[cold]
#[inline(never)]
fn each(numbers: &mut [f64]) {
    for number in numbers {
        *number = exp64_of_nonpositive(*number);
    }
}

/// exp(x) for x ≤ 0, also −∞.
pub(in crate::filter) fn exp64_of_nonpositive(x: f64) -> f64 {
    if x < UNDERFLOW {
        return 0.0;
    }
    let shifted = x.mul_add(STEPS_PER_E, TO_WHOLE);
    let step = shifted - TO_WHOLE;
    let whole = shifted.to_bits();
    let place = (whole % STEPS) as usize;
    let r = step.mul_add(STEP_LOW, step.mul_add(STEP_HIGH, x));
    let [c2, c3, c4, c5] = POLYNOMIAL;
    let r2 = r * r;
    let low = r2.mul_add(r.mul_add(c3, c2), f64::from_bits(ERRORS[place]) + r);
    let expm1 = (r2 * r2).mul_add(r.mul_add(c5, c4), low);
    let power = POWERS[place].wrapping_add(whole << 45);
    if x >= SUBNORMAL {
        let power = f64::from_bits(power);
        return power.mul_add(expm1, power);
    }
    // Computed 2^1022 times too large, and rounded to the bits that are left of it before it is scaled back.
    let power = f64::from_bits(power.wrapping_add(1022 << 52));
    let exp = power.mul_add(expm1, power);
    let least = f64::MIN_POSITIVE;
    if exp >= 1.0 {
        return exp * least;
    }
    let rest = power.mul_add(expm1, power - exp);
    let above = 1.0 + exp;
    ((above + (1.0 - above + exp + rest)) - 1.0) * least
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Isa, Job, MAX_DOUBLES};
    use super::*;

    /// The exponentials of numbers, vector by vector.
    struct Exponentials<'a>(&'a [f64], &'a mut [f64]);

    impl Job for Exponentials<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector<LANES>, const LANES: usize>(self) {
            for (from, to) in self.0.chunks_exact(LANES).zip(self.1.chunks_exact_mut(LANES)) {
                // SAFETY: the slices are as long as a vector.
                unsafe {
                    exp_of_nonpositive(V::load(from.as_ptr()))
                        .0
                        .store(to.as_mut_ptr())
                };
            }
        }
    }

    fn arguments() -> Vec<f64> {
        let spread = (0..400_000).map(|i| -746.0 * f64::from(i) / 400_000.0);
        let small = (0..2000).map(|i| -(f64::from(i) * -0.04).exp());
        let ends = [0.0, -0.0, -1e-300, -745.2, -800.0, -1e9, UNDERFLOW, SUBNORMAL];
        let mut all: Vec<f64> = spread.chain(small).chain(ends).collect();
        all.resize(all.len().next_multiple_of(MAX_DOUBLES), -1.0);
        all
    }

    #[test]
    fn agrees_with_the_libm_to_one_bit() {
        for x in arguments() {
            let (ours, libm) = (exp64_of_nonpositive(x), x.exp());
            assert!(
                ours.to_bits().abs_diff(libm.to_bits()) <= 1,
                "exp({x}) = {ours:e}, libm {libm:e}"
            );
        }
        assert_eq!(exp64_of_nonpositive(f64::NEG_INFINITY), 0.0);
    }

    #[test]
    fn every_width_has_the_same_bits() {
        let arguments = arguments();
        for isa in Isa::available() {
            let mut found = vec![0.0; arguments.len()];
            isa.run(Exponentials(&arguments, &mut found));
            for (&x, found) in arguments.iter().zip(found) {
                assert_eq!(found.to_bits(), exp64_of_nonpositive(x).to_bits(), "{isa:?} {x}");
            }
        }
    }
}
