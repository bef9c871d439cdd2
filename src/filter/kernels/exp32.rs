//! exp in single precision: on every machine the bits of glibc's `expf`, for arguments ≤ 0.
//!
//! The weights of non-local means are such exponentials. glibc computes them in double, from a table and a
//! polynomial of degree 3. Weights need arguments from −3 to 0, for which the result is the same with and
//! without fused multiply-add.

/// Steps from one power of two to the next.
pub(super) const STEPS: u64 = 32;

/// 32/ln2.
pub(super) const STEPS_PER_E: f64 = std::f64::consts::LOG2_E * STEPS as f64;

/// Added to round to an integer, which is then in the lowest bits.
pub(super) const TO_WHOLE: f64 = 6_755_399_441_055_744.0;

/// Coefficients of r³, r² and r in the approximation of 2^(r/32) for −1/2 ≤ r ≤ 1/2.
pub(super) const CUBIC: [f64; 3] = [
    f64::from_bits(0x3EBC_6AF8_4B91_2394),
    f64::from_bits(0x3F2E_BFCE_50FA_C4F3),
    f64::from_bits(0x3F96_2E42_FF0C_52D6),
];

/// Below this the result is 0: half the smallest number of single precision.
pub(super) const UNDERFLOW: f32 = -104.0;

/// The bits of the double nearest to 2^(i/32), minus i at the position where the integer is added.
pub(super) static TABLE: [u64; STEPS as usize] = [
    0x3FF0_0000_0000_0000,
    0x3FEF_D9B0_D315_8574,
    0x3FEF_B558_6CF9_890F,
    0x3FEF_9301_D012_5B51,
    0x3FEF_72B8_3C7D_517B,
    0x3FEF_5487_3168_B9AA,
    0x3FEF_387A_6E75_6238,
    0x3FEF_1E9D_F51F_DEE1,
    0x3FEF_06FE_0A31_B715,
    0x3FEE_F1A7_373A_A9CB,
    0x3FEE_DEA6_4C12_3422,
    0x3FEE_CE08_6061_892D,
    0x3FEE_BFDA_D536_2A27,
    0x3FEE_B42B_569D_4F82,
    0x3FEE_AB07_DD48_5429,
    0x3FEE_A47E_B03A_5585,
    0x3FEE_A09E_667F_3BCD,
    0x3FEE_9F75_E8EC_5F74,
    0x3FEE_A114_73EB_0187,
    0x3FEE_A589_994C_CE13,
    0x3FEE_ACE5_422A_A0DB,
    0x3FEE_B737_B0CD_C5E5,
    0x3FEE_C491_82A3_F090,
    0x3FEE_D503_B23E_255D,
    0x3FEE_E89F_995A_D3AD,
    0x3FEE_FF76_F2FB_5E47,
    0x3FEF_199B_DD85_529C,
    0x3FEF_3720_DCEF_9069,
    0x3FEF_5818_DCFB_A487,
    0x3FEF_7C97_337B_9B5F,
    0x3FEF_A4AF_A2A4_90DA,
    0x3FEF_D076_5B6E_4540,
];

/// exp(x) for x ≤ 0, also −∞; NaN for NaN.
#[inline(always)]
pub(in crate::filter) fn exp32_of_nonpositive(x: f32) -> f32 {
    if x < UNDERFLOW {
        return 0.0;
    }
    let scaled = STEPS_PER_E * f64::from(x);
    let shifted = scaled + TO_WHOLE;
    let whole = shifted.to_bits();
    let r = scaled - (shifted - TO_WHOLE);
    let power = f64::from_bits(TABLE[(whole % STEPS) as usize].wrapping_add(whole << 47));
    let cubic = (CUBIC[0] * r + CUBIC[1]) * (r * r) + (CUBIC[2] * r + 1.0);
    (cubic * power) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_powers_of_two() {
        for (i, &bits) in (0u64..).zip(&TABLE) {
            let power = f64::from_bits(bits + (i << 47));
            let exact = (i as f64 / 32.0).exp2();
            assert!(power.to_bits().abs_diff(exact.to_bits()) <= 1, "{i}");
        }
    }

    #[test]
    fn is_within_half_a_bit_and_a_little() {
        let mut worst: f64 = 0.0;
        for i in 0..2_000_000u32 {
            let x = -(f32::from_bits(0x3000_0000 + i * 200).min(100.0));
            let (ours, exact) = (exp32_of_nonpositive(x), f64::from(x).exp());
            let ulp = f64::from(f32::from_bits(ours.to_bits() + 1) - ours);
            worst = worst.max((f64::from(ours) - exact).abs() / ulp);
        }
        assert!(worst < 0.51, "{worst}");
        assert_eq!(exp32_of_nonpositive(-0.0), 1.0);
        assert_eq!(exp32_of_nonpositive(f32::NEG_INFINITY), 0.0);
        assert!(exp32_of_nonpositive(f32::NAN).is_nan());
    }
}
