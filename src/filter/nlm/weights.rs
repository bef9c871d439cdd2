//! Weights: how much a similar patch counts, by the sum of squared differences.

use super::super::kernels::exp64::exp_of_nonpositive;
use super::super::kernels::simd::Vector;

/// The weight is 0 where the exponent is beyond −800: so far it needs not be exact.
const FURTHEST: f64 = 800.0;

/// Weights exp(−(sum / count) / spread) of sums of squared differences.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    count: f64,
    spread: f64,
}

impl Weights {
    /// Of sums over so many voxels. The spread is between 1e-201 and 1e201.
    pub(super) fn new(count: usize, spread: f64) -> Self {
        Weights {
            count: count as f64,
            spread,
        }
    }

    /// Voxels of a patch, the spread, and the largest sum that counts.
    pub(super) fn numbers(&self) -> [f64; 3] {
        [self.count, self.spread, FURTHEST * self.count * self.spread]
    }

    /// The weights of a vector of sums, and whether one is so small that a quotient of it may be subnormal.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    pub(super) unsafe fn of<V: Vector<LANES>, const LANES: usize>(&self, sum: V) -> (V, bool) {
        // SAFETY: the caller's.
        unsafe {
            let divide = |number: V, by: f64| number.quotient(V::splat(by), V::splat(1.0 / by));
            let sum = sum.min(V::splat(FURTHEST * self.count * self.spread));
            let exponent = divide(divide(sum, self.count), self.spread);
            exp_of_nonpositive(V::splat(-0.0).sub(exponent))
        }
    }
}
