//! Weights: the sampled Gaussian, bit for bit scipy's.

use super::exp::exp_of_nonpositive;
use crate::volume::NoMemory;

/// The weights of a sampled Gaussian at 0, 1 … `radius` voxels from its centre. The whole kernel with both
/// sides sums to 1, except for rounding.
///
/// Steps and rounding are those of scipy's `_gaussian_kernel1d`: exp(−0.5/σ² · x²), divided by the sum over
/// the whole kernel, which numpy adds up pairwise. Sampled Gaussian: Getreuer, "A Survey of Gaussian
/// Convolution Algorithms", IPOL 3 (2013), section on FIR filtering.
///
/// # Errors
/// [`NoMemory`].
pub(in crate::filter) fn half_kernel(sigma_vox: f64, radius: usize) -> Result<Vec<f64>, NoMemory> {
    let factor = -0.5 / (sigma_vox * sigma_vox);
    let mut half: Vec<f64> = Vec::new();
    // The whole kernel is needed only for its sum.
    let len = 2 * radius + 1;
    half.try_reserve_exact(len).map_err(|_| NoMemory {
        len_bytes: len * size_of::<f64>(),
    })?;
    half.extend((-(radius as i64)..=radius as i64).map(|x| exp_of_nonpositive(factor * (x * x) as f64)));
    let sum = pairwise_sum(&half);
    half.drain(..radius);
    half.iter_mut().for_each(|weight| *weight /= sum);
    Ok(half)
}

/// The sum in numpy's order: eight interleaved partial sums over blocks of up to 128 numbers, halves above.
fn pairwise_sum(numbers: &[f64]) -> f64 {
    const BLOCK: usize = 128;
    let n = numbers.len();
    if n < 8 {
        numbers.iter().sum()
    } else if n <= BLOCK {
        let mut eights = numbers.chunks_exact(8);
        let mut partial = [0.0; 8];
        for eight in &mut eights {
            partial
                .iter_mut()
                .zip(eight)
                .for_each(|(sum, number)| *sum += number);
        }
        let [a, b, c, d, e, f, g, h] = partial;
        let whole = ((a + b) + (c + d)) + ((e + f) + (g + h));
        eights.remainder().iter().fold(whole, |sum, number| sum + number)
    } else {
        let (left, right) = numbers.split_at(n / 2 / 8 * 8);
        pairwise_sum(left) + pairwise_sum(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units;

    fn kernel(sigma: f64, truncate: f64) -> Vec<u64> {
        let radius = (truncate * sigma + 0.5) as usize;
        let half = half_kernel(sigma, radius).unwrap();
        half.into_iter().map(f64::to_bits).collect()
    }

    /// Weights from scipy 1.17.1 on numpy 2.4.6 with AVX-512.
    #[test]
    fn kernels_equal_scipys_to_the_bit() {
        assert_eq!(
            kernel(0.5, 4.0),
            [0x3fe92b965ef5aaee, 0x3fbb405b9842b206, 0x3f314aebe6a24088]
        );
        assert_eq!(
            kernel(2.0, 4.0),
            [
                0x3fc98862a07ae7b4,
                0x3fc68856f9ab1982,
                0x3fbef9093fc46e5a,
                0x3fb0941b71ceef37,
                0x3f9ba4d4125ffd2a,
                0x3f81f30504e20207,
                0x3f6227362b5fc92d,
                0x3f3c98b8c5d0dda5,
                0x3f118aad19e4159b,
            ]
        );
        let fwhm_2 = kernel(2.0 / units::FWHM_PER_SIGMA, 3.0);
        assert_eq!(
            fwhm_2,
            [
                0x3fde0ff87c01e100,
                0x3fce0ff87c01e100,
                0x3f9e0ff87c01e100,
                0x3f4e0ff87c01e100
            ]
        );
        // Long enough for every branch of the pairwise sum.
        let long = kernel(40.0, 2.0);
        assert_eq!(long.len(), 81);
        assert_eq!(
            [long[0], long[1], long[40], long[80]],
            [
                0x3f855e9b99186e11,
                0x3f855ce6048d3cc8,
                0x3f79ec2ec6da4416,
                0x3f5722ee180364ae
            ]
        );
    }

    #[test]
    fn a_kernel_of_radius_0_is_one_weight() {
        assert_eq!(kernel(0.1, 4.0), [1f64.to_bits()]);
    }
}
