//! exp in double precision, with the same bits on every machine: those of numpy's released wheels on a
//! processor with AVX-512.
//!
//! The weights of a kernel are exponentials. C libraries, builds of numpy and processors differ in the last
//! bit of about four per cent of them, and one bit of a weight can change a voxel. niimpi therefore computes
//! all exponentials here. numpy itself calls the C library on processors without AVX-512, and then its
//! results differ.

/// Steps from one power of two to the next.
const STEPS: usize = 16;

/// 1/ln2, and ln2 in two parts: the nearest double and the remainder.
const LOG2_E: f64 = std::f64::consts::LOG2_E;
const LN2_HIGH: f64 = std::f64::consts::LN_2;
const LN2_LOW: f64 = f64::from_bits(0x3C7A_BC9E_3B39_803F);

/// Coefficients of r, r² … r⁶ in the approximation of exp(r) − 1 for 0 ≤ r ≤ ln2/16.
const POLYNOMIAL: [f64; 6] = [
    f64::from_bits(0x3FEF_FFFF_FFFF_FF70),
    f64::from_bits(0x3FE0_0000_0000_D008),
    f64::from_bits(0x3FC5_5555_5393_9732),
    f64::from_bits(0x3FA5_5557_242D_68FE),
    f64::from_bits(0x3F81_101C_BBC2_65C0),
    f64::from_bits(0x3F57_4118_3694_0C04),
];

/// Below this the result is 0: the logarithm of half the smallest double.
const UNDERFLOW: f64 = -745.133_219_101_941_2;

/// The bits of the double T nearest to 2^(j/16), and of (2^(j/16) − T)/T.
const TABLE: [(u64, u64); STEPS] = [
    (0x3FF0_0000_0000_0000, 0x0000_0000_0000_0000),
    (0x3FF0_B558_6CF9_890F, 0x3C97_9AA6_5D83_7B6D),
    (0x3FF1_72B8_3C7D_517B, 0xBC80_1B15_EAA5_9348),
    (0x3FF2_387A_6E75_6238, 0x3C96_8EFD_E3A8_A894),
    (0x3FF3_06FE_0A31_B715, 0x3C83_4D75_4DB0_ABB6),
    (0x3FF3_DEA6_4C12_3422, 0x3C85_9F48_A72A_4C6D),
    (0x3FF4_BFDA_D536_2A27, 0x3C76_90CE_BB7A_AFB0),
    (0x3FF5_AB07_DD48_5429, 0x3C90_63E1_E21C_5409),
    (0x3FF6_A09E_667F_3BCD, 0xBC93_B3EF_BF5E_2228),
    (0x3FF7_A114_73EB_0187, 0xBC7B_32DC_B94D_A51D),
    (0x3FF8_ACE5_422A_A0DB, 0x3C8D_B72F_C1F0_EAB4),
    (0x3FF9_C491_82A3_F090, 0x3C71_AFFC_2B91_CE27),
    (0x3FFA_E89F_995A_D3AD, 0x3C8C_1A77_92CB_3387),
    (0x3FFC_199B_DD85_529C, 0x3C73_6EAE_30AF_0CB3),
    (0x3FFD_5818_DCFB_A487, 0x3C74_A385_A63D_07A7),
    (0x3FFE_A4AF_A2A4_90DA, 0xBC8F_F712_8FD3_91F0),
];

/// exp(x) for x ≤ 0.
///
/// x = (m + j/16)·ln2 + r with 0 ≤ r < ln2/16, so exp(x) = 2^m · 2^(j/16) · exp(r): a table for the second
/// factor, a polynomial for the third. `f64::mul_add` rounds once everywhere, with or without an instruction
/// for it.
///
/// The method is that of table-driven exponentials (P. T. P. Tang, ACM Transactions on Mathematical Software
/// 15 (1989) 144–157); step, coefficients and the order of operations are those of the vector mathematics
/// library that numpy's wheels link (the SVML routine for exp of eight doubles, high accuracy). Below −707.7
/// that library uses another routine, and the last bit can differ. Such a weight is below 5·10⁻³⁰⁸ and occurs
/// only in kernels of more than 37 sigmas.
pub(in crate::filter) fn exp_of_nonpositive(x: f64) -> f64 {
    debug_assert!(x <= 0.0, "{x} is not a kernel's exponent");
    exp(x)
}

/// exp(x) for x ≤ 700 by the same method. The bits equal numpy's only for x ≤ 0.
pub(in crate::filter) fn exp(x: f64) -> f64 {
    if x < UNDERFLOW {
        return 0.0;
    }
    let step = floor_of_product(x, LOG2_E * STEPS as f64);
    let quotient = step / STEPS as f64;
    let r = (-quotient).mul_add(LN2_LOW, (-quotient).mul_add(LN2_HIGH, x));

    let (table, table_error) = TABLE[(step as i64).rem_euclid(STEPS as i64) as usize];
    let (table, table_error) = (f64::from_bits(table), f64::from_bits(table_error));
    let [c1, c2, c3, c4, c5, c6] = POLYNOMIAL;
    let r2 = r * r;
    let c56 = c6.mul_add(r, c5);
    let c34 = c4.mul_add(r, c3);
    let c12 = c2.mul_add(r, c1);
    let exp_r_minus_1 = c56.mul_add(r2, c34).mul_add(r2, c12).mul_add(r, table_error);
    times_power_of_two(
        exp_r_minus_1.mul_add(table, table),
        (step as i64).div_euclid(STEPS as i64),
    )
}

/// The largest integer not above the exact product.
fn floor_of_product(a: f64, b: f64) -> f64 {
    let product = a * b;
    let rounding_error = a.mul_add(b, -product);
    let floor = product.floor();
    // The rounded product can be an integer that the exact product does not reach.
    if floor == product && rounding_error < 0.0 {
        floor - 1.0
    } else {
        floor
    }
}

/// `mantissa · 2^exponent`, rounded once, for a mantissa near 1 and −1100 < exponent ≤ 1011.
fn times_power_of_two(mantissa: f64, exponent: i64) -> f64 {
    let power = |e: i64| f64::from_bits(((1023 + e) as u64) << 52);
    if exponent >= -1000 {
        mantissa * power(exponent)
    } else {
        // The first product is exact; the second rounds into the subnormal numbers.
        mantissa * power(exponent + 200) * power(-200)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_libm_to_one_bit() {
        for i in 0..400_000 {
            let x = 700.0 - 1445.2 * i as f64 / 400_000.0;
            let (ours, libm) = (exp(x), x.exp());
            assert!(
                ours.to_bits().abs_diff(libm.to_bits()) <= 1,
                "exp({x}) = {ours:e}, libm {libm:e}"
            );
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp_of_nonpositive(0.0), 1.0);
        assert_eq!(exp_of_nonpositive(-0.0), 1.0);
        assert_eq!(exp_of_nonpositive(-1e-18), 1.0);
        assert_eq!(exp_of_nonpositive(-745.0), 5e-324);
        assert_eq!(exp_of_nonpositive(-745.2), 0.0);
        assert_eq!(exp_of_nonpositive(-1e300), 0.0);
        assert_eq!(exp_of_nonpositive(f64::NEG_INFINITY), 0.0);
    }
}
