//! Bessel: modified Bessel functions of integer order, and the discrete Gaussian that is computed from them.
//!
//! The approximations are those of Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 9.8.1 to
//! 9.8.4. Orders from 2 on are computed by downward recurrence.

use super::exp::exp;

/// The limit between the two approximations.
const TURN: f64 = 3.75;

/// A polynomial by Horner's rule. The constant comes first.
fn polynomial(x: f64, coefficients: &[f64]) -> f64 {
    let last = coefficients.len() - 1;
    coefficients[..last]
        .iter()
        .rev()
        .fold(coefficients[last], |sum, coefficient| coefficient + x * sum)
}

/// I₀(x) for 0 ≤ x ≤ 700, to 6·10⁻⁷ of its value.
pub(in crate::filter) fn i0(x: f64) -> f64 {
    if x < TURN {
        let y = x / TURN;
        polynomial(
            y * y,
            &[
                1.0,
                3.5156229,
                3.0899424,
                1.2067492,
                0.2659732,
                0.360768e-1,
                0.45813e-2,
            ],
        )
    } else {
        let y = TURN / x;
        let factor = polynomial(
            y,
            &[
                0.39894228,
                0.1328592e-1,
                0.225319e-2,
                -0.157565e-2,
                0.916281e-2,
                -0.2057706e-1,
                0.2635537e-1,
                -0.1647633e-1,
                0.392377e-2,
            ],
        );
        (exp(x) / x.sqrt()) * factor
    }
}

/// I₁(x) for 0 ≤ x ≤ 700, to 6·10⁻⁷ of its value.
pub(in crate::filter) fn i1(x: f64) -> f64 {
    if x < TURN {
        let y = x / TURN;
        let factor = polynomial(
            y * y,
            &[
                0.5,
                0.87890594,
                0.51498869,
                0.15084934,
                0.2658733e-1,
                0.301532e-2,
                0.32411e-3,
            ],
        );
        x * factor
    } else {
        let y = TURN / x;
        let factor = polynomial(y, &[0.2282967e-1, -0.2895312e-1, 0.1787654e-1, -0.420059e-2]);
        let factor = polynomial(
            y,
            &[
                0.39894228,
                -0.3988024e-1,
                -0.362018e-2,
                0.163801e-2,
                -0.1031555e-1,
                factor,
            ],
        );
        factor * (exp(x) / x.sqrt())
    }
}

/// Iₙ(x) for n ≥ 2 and x > 0; accurate for x up to about 10.
fn i_n(n: usize, x: f64) -> f64 {
    /// Accuracy of the recurrence; results beyond the limit are scaled down.
    const ACCURACY: f64 = 40.0;
    const LIMIT: f64 = 1e10;
    const SCALE: f64 = 1e-10;
    let twice_inverse = 2.0 / x;
    let (mut above, mut found, mut here) = (0.0, 0.0, 1.0f64);
    let start = 2 * (n + (ACCURACY * n as f64).sqrt() as usize);
    for order in (1..=start).rev() {
        (here, above) = (above + order as f64 * twice_inverse * here, here);
        if here.abs() > LIMIT {
            (found, here, above) = (found * SCALE, here * SCALE, above * SCALE);
        }
        if order == n {
            found = above;
        }
    }
    found * (i0(x) / here)
}

/// The discrete Gaussian exp(−variance)·Iₙ(variance), whose sum is 1. Returns the weights from one end to the
/// other: enough that the rest is at most `error`, but at most about `width` to each side.
pub(in crate::filter) fn discrete_gaussian(variance: f64, error: f64, width: usize) -> Vec<f64> {
    let decay = exp(-variance);
    let mut half = vec![decay * i0(variance), decay * i1(variance)];
    let mut sum = half[0] + half[1] * 2.0;
    while sum < 1.0 - error {
        let weight = decay * i_n(half.len(), variance);
        half.push(weight);
        sum += weight * 2.0;
        if weight <= 0.0 || half.len() > width {
            break;
        }
    }
    let half: Vec<f64> = half.into_iter().map(|weight| weight / sum).collect();
    let below = half[1..].iter().rev();
    below.chain(&half).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_their_values() {
        // The series of (x/2)^(2k+n) / (k! (k+n)!).
        let series = |n: usize, x: f64| {
            let mut term = (1..=n).fold(1.0, |term, k| term * x / 2.0 / k as f64);
            let mut sum = 0.0;
            for k in 1..400 {
                sum += term;
                term *= x * x / 4.0 / (k as f64 * (k + n) as f64);
            }
            sum
        };
        for x in [0.01, 0.5, 2.0, 3.7, 3.8, 10.0, 52.0, 200.0] {
            // As in the reference, the recurrence starts too low for larger arguments.
            let orders = if x <= 10.0 { 8 } else { 2 };
            for n in 0..orders {
                let value = match n {
                    0 => i0(x),
                    1 => i1(x),
                    _ => i_n(n, x),
                };
                let exact = series(n, x);
                assert!(
                    (value - exact).abs() <= 6e-7 * exact,
                    "I{n}({x}) = {value}, {exact}"
                );
            }
        }
    }

    #[test]
    fn the_discrete_gaussian_has_its_variance() {
        for variance in [0.1, 0.5, 2.0, 8.0] {
            let kernel = discrete_gaussian(variance, 1e-9, 100);
            let middle = (kernel.len() / 2) as f64;
            let square = |(i, weight): (usize, &f64)| weight * (i as f64 - middle).powi(2);
            let found: f64 = kernel.iter().enumerate().map(square).sum();
            assert!((kernel.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            assert!((found - variance).abs() < 1e-5 * variance, "{found} {variance}");
        }
        assert_eq!(discrete_gaussian(2.0, 0.01, 32).len(), 9);
    }
}
