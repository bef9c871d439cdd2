//! Weights: the kernels of other programs, each by its program's formula and in its precision.

use super::super::kernels::exp::exp;
use super::super::kernels::weights::half_kernel;
use super::super::presets::{Kernel, Preset};
use super::Width;
use crate::volume::NoMemory;

/// Most weights of ITK's kernel to one side.
pub(super) const BESSEL_MOST: usize = 32;

/// The weights at 0, 1 … `radius` voxels from the centre. Numbers of single precision where the program has
/// those. Without a common factor where the sum is divided by the weight that counts.
pub(super) fn half(preset: &Preset, width: &Width, radius: usize) -> Result<Vec<f64>, NoMemory> {
    let places = || 0..radius + 1;
    match preset.kernel {
        Kernel::Scipy => half_kernel(width.sigma_vox, radius),
        Kernel::Single => {
            let sigma = width.sigma_vox as f32;
            let twice = 2.0 * sigma * sigma;
            collect(places().map(|i| single_exp(-((i * i) as f32) / twice)))
        }
        Kernel::SingleMm => {
            let (sigma, voxel) = (width.sigma_mm as f32, width.voxel_mm as f32);
            let sigmas = |i: usize| voxel * i as f32 / sigma;
            collect(places().map(|i| single_exp(-sigmas(i) * sigmas(i) / 2.0)))
        }
        Kernel::DoubleMm => {
            let (sigma, voxel) = (width.sigma_mm, width.voxel_mm);
            let exponent = |i: usize| -((i * i) as f64 * voxel * voxel) / (2.0 * sigma * sigma);
            let half = collect(places().map(|i| exp(exponent(i))))?;
            Ok(normalised(half))
        }
        Kernel::Spline => {
            let half = collect(places().map(|i| spline(i as f64, width.sigma_vox)))?;
            Ok(normalised(half))
        }
        Kernel::Integrated => integrated(width, radius),
        Kernel::Bessel(left_out) => Ok(discrete(width, left_out)),
    }
}

fn collect(weights: impl ExactSizeIterator<Item = f64>) -> Result<Vec<f64>, NoMemory> {
    let mut all = Vec::new();
    all.try_reserve_exact(weights.len()).map_err(|_| NoMemory {
        len_bytes: weights.len() * size_of::<f64>(),
    })?;
    all.extend(weights);
    Ok(all)
}

/// A weight in single precision, from an exponent in single precision.
fn single_exp(exponent: f32) -> f64 {
    f64::from(exp(f64::from(exponent)) as f32)
}

/// The same weights with a sum of 1 over both sides.
fn normalised(mut half: Vec<f64>) -> Vec<f64> {
    let sum = half[0] + 2.0 * half[1..].iter().sum::<f64>();
    half.iter_mut().for_each(|weight| *weight /= sum);
    half
}

/// A Gaussian convolved with a linear B-spline, at `x` voxels from the centre: the kernel of SPM's
/// `spm_smoothkern` with interpolation of degree 1. Without a common factor.
fn spline(x: f64, sigma_vox: f64) -> f64 {
    let variance = sigma_vox * sigma_vox + f64::EPSILON;
    let to_erf = (2.0 / variance).sqrt() / 2.0;
    let to_exp = -0.5 / variance;
    let factor = (variance / (2.0 * std::f64::consts::PI)).sqrt();
    let of_erf = |x: f64| erf(to_erf * x) * x;
    let of_exp = |x: f64| exp(to_exp * x * x);
    let value = 0.5 * (of_erf(x + 1.0) + of_erf(x - 1.0) - 2.0 * of_erf(x))
        + factor * (of_exp(x + 1.0) + of_exp(x - 1.0) - 2.0 * of_exp(x));
    value.max(0.0)
}

/// The error function to a few units of the last place, by the series whose terms are all positive
/// (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.6).
fn erf(x: f64) -> f64 {
    /// From here on it is 1 in double.
    const ONE: f64 = 6.0;
    if x < 0.0 {
        return -erf(-x);
    }
    if x >= ONE {
        return 1.0;
    }
    let (mut term, mut sum) = (x, 0.0);
    for n in 1.. {
        if sum + term == sum {
            break;
        }
        sum += term;
        term *= 2.0 * x * x / f64::from(2 * n + 1);
    }
    sum * exp(-x * x) * std::f64::consts::FRAC_2_SQRT_PI
}

/// A Gaussian integrated over each voxel by the trapezoid rule with 22 steps, as AFNI's `edt_blur.c` has it,
/// in single precision.
fn integrated(width: &Width, radius: usize) -> Result<Vec<f64>, NoMemory> {
    const STEPS: i32 = 22;
    let step = width.voxel_mm as f32 / width.sigma_mm as f32;
    let mut all = 0.0f32;
    let sums = collect((0..radius + 1).map(|i| {
        let centre = f64::from(i as f32 * step);
        let mut sum = 0.0;
        for k in -STEPS / 2..=STEPS / 2 {
            let x = centre + f64::from(k) * (f64::from(step) / f64::from(STEPS));
            let end = if k.abs() == STEPS / 2 { 0.5 } else { 1.0 };
            sum += end * exp(-0.5 * x * x);
        }
        let both = if i == 0 { sum } else { 2.0 * sum };
        all = (f64::from(all) + both) as f32;
        sum
    }))?;
    let factor = 1.0 / all;
    Ok(sums.iter().map(|&sum| f64::from(sum as f32 * factor)).collect())
}

/// The discrete Gaussian, e^−v·Iₙ(v), as long as needed to reach all but `left_out` of the weights, with the
/// approximations of the Bessel functions that ITK's `itkGaussianOperator` takes (Abramowitz and Stegun, 9.8;
/// Press et al., Numerical Recipes in C, 6.6).
fn discrete(width: &Width, left_out: f64) -> Vec<f64> {
    let variance = width.sigma_mm * width.sigma_mm / (width.voxel_mm * width.voxel_mm);
    let factor = exp(-variance);
    let mut half = vec![factor * bessel_0(variance), factor * bessel_1(variance)];
    let mut sum = half[0] + 2.0 * half[1];
    while sum < 1.0 - left_out {
        let weight = factor * bessel_n(half.len(), variance);
        half.push(weight);
        sum += 2.0 * weight;
        if weight <= 0.0 || half.len() > BESSEL_MOST {
            break;
        }
    }
    half.iter_mut().for_each(|weight| *weight /= sum);
    half
}

/// Where the approximations of I₀ and I₁ change.
const CHANGE: f64 = 3.75;

fn polynomial(x: f64, coefficients: &[f64]) -> f64 {
    coefficients.iter().rev().fold(0.0, |value, c| c + x * value)
}

fn bessel_0(y: f64) -> f64 {
    if y < CHANGE {
        let m = (y / CHANGE) * (y / CHANGE);
        return polynomial(
            m,
            &[
                1.0,
                3.515_622_9,
                3.089_942_4,
                1.206_749_2,
                0.265_973_2,
                0.036_076_8,
                0.004_581_3,
            ],
        );
    }
    exp(y) / y.sqrt()
        * polynomial(
            CHANGE / y,
            &[
                0.398_942_28,
                0.013_285_92,
                0.002_253_19,
                -0.001_575_65,
                0.009_162_81,
                -0.020_577_06,
                0.026_355_37,
                -0.016_476_33,
                0.003_923_77,
            ],
        )
}

fn bessel_1(y: f64) -> f64 {
    if y < CHANGE {
        let m = (y / CHANGE) * (y / CHANGE);
        return y * polynomial(
            m,
            &[
                0.5,
                0.878_905_94,
                0.514_988_69,
                0.150_849_34,
                0.026_587_33,
                0.003_015_32,
                0.000_324_11,
            ],
        );
    }
    exp(y) / y.sqrt()
        * polynomial(
            CHANGE / y,
            &[
                0.398_942_28,
                -0.039_880_24,
                -0.003_620_18,
                0.001_638_01,
                -0.010_315_55,
                0.022_829_67,
                -0.028_953_12,
                0.017_876_54,
                -0.004_200_59,
            ],
        )
}

/// Iₙ by downward recurrence from far above, scaled by I₀.
fn bessel_n(n: usize, y: f64) -> f64 {
    if y == 0.0 {
        return 0.0;
    }
    let (mut above, mut here, mut found) = (0.0, 1.0, 0.0);
    let start = 2 * (n + (40.0 * n as f64).sqrt() as usize);
    for j in (1..=start).rev() {
        let below = above + j as f64 * (2.0 / y) * here;
        (above, here) = (here, below);
        if here.abs() > 1e10 {
            found *= 1e-10;
            here *= 1e-10;
            above *= 1e-10;
        }
        if j == n {
            found = above;
        }
    }
    found * bessel_0(y) / here
}

#[cfg(test)]
mod tests {
    use super::super::super::presets::Tool;
    use super::*;

    fn width(sigma_mm: f64, voxel_mm: f64) -> Width {
        Width {
            sigma_mm,
            voxel_mm,
            sigma_vox: sigma_mm / voxel_mm,
        }
    }

    #[test]
    fn the_error_function_is_that_of_the_tables() {
        // Abramowitz and Stegun, table 7.1; and 50 digits of erf(3) and erf(5.5) rounded.
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
            (6.5, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 4e-16, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn every_kernel_is_a_gaussian_of_about_its_sigma() {
        for tool in [
            Tool::Fsl,
            Tool::Spm,
            Tool::Nilearn,
            Tool::Mrtrix,
            Tool::Wb,
            Tool::Afni,
            Tool::Ants,
        ] {
            let half = half(tool.preset(), &width(5.0, 2.0), 12).unwrap();
            let sum = half[0] + 2.0 * half[1..].iter().sum::<f64>();
            let squares: f64 = half
                .iter()
                .enumerate()
                .map(|(i, w)| 2.0 * w * (i * i) as f64)
                .sum();
            let sigma = (squares / sum).sqrt();
            assert!((2.3..2.6).contains(&sigma), "{tool:?}: {sigma}");
            assert!(half.windows(2).all(|pair| pair[0] >= pair[1]), "{tool:?}");
        }
    }

    #[test]
    fn the_spline_widens_a_narrow_kernel() {
        // A B-spline of degree 1 alone is [1/6, 2/3, 1/6] at the voxels' centres, smoothed over a voxel; a
        // Gaussian of no width leaves the spline itself: 1 at 0 and 0 at 1.
        let narrow: Vec<f64> = (0..3).map(|x| spline(f64::from(x), 1e-9)).collect();
        assert!(
            (narrow[0] - 1.0).abs() < 1e-7 && narrow[1].abs() < 1e-7 && narrow[2] == 0.0,
            "{narrow:?}"
        );
    }

    #[test]
    fn itks_kernel_ends_where_little_is_left_out() {
        let short = discrete(&width(1.0, 2.0), 0.01);
        assert_eq!(short.len(), 3);
        assert_eq!(discrete(&width(20.0, 1.0), 0.01).len(), BESSEL_MOST + 1);
        let sum = short[0] + 2.0 * short[1..].iter().sum::<f64>();
        assert!((sum - 1.0).abs() < 1e-15);
    }
}
