//! Similar: selects candidates whose mean and variance resemble those of a centre.

use super::super::kernels::singles::Singles;

/// Bounds of the ratio of two means, and of two inverted means.
const MEAN_RATIO: f32 = 0.95;
const MEAN_RATIO_INVERSE: f32 = 1.0 / MEAN_RATIO;

/// Bounds of the ratio of two variances.
const VARIANCE_RATIO: f32 = 0.5;
const VARIANCE_RATIO_INVERSE: f32 = 1.0 / VARIANCE_RATIO;

/// Distance from the bounds beyond which a ratio is decided without a division, as a fraction of half the
/// interval. It is many times the rounding error.
pub(super) const UNSURE: f32 = 1.0 / 65536.0;

/// The thresholds of the centres, for the tests of a block's candidates.
pub(super) struct Tests<V> {
    mean: V,
    variance: V,
    /// The largest intensity, and its difference to the mean.
    largest: V,
    inverted: V,
    /// Centres of the accepted intervals, and the inverses of their half widths.
    mean_interval: (V, V),
    inverted_interval: (V, V),
    variance_interval: (V, V),
}

impl<V> Tests<V> {
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    pub(super) unsafe fn new<const LANES: usize>(mean: V, variance: V, largest: f32) -> Self
    where
        V: Singles<LANES>,
    {
        // SAFETY: the caller's.
        unsafe {
            let largest = V::splat(largest);
            let inverted = largest.sub(mean);
            let (one, zero) = (V::splat(1.0), V::splat(0.0));
            let interval = |middle: V, low: f32, high: f32| {
                let centre = middle.mul(V::splat((low + high) / 2.0));
                (centre, one.div(middle.mul(V::splat((high - low) / 2.0))))
            };
            // Without an inverted mean there is no ratio, so the interval contains no number.
            let (centre, half) = interval(inverted, MEAN_RATIO, MEAN_RATIO_INVERSE);
            let any = zero.lt(inverted);
            Tests {
                mean,
                variance,
                largest,
                inverted,
                mean_interval: interval(mean, MEAN_RATIO, MEAN_RATIO_INVERSE),
                inverted_interval: (
                    centre.or_else(any, V::splat(-1.0)),
                    half.or_else(any, V::splat(1e30)),
                ),
                variance_interval: interval(variance, VARIANCE_RATIO, VARIANCE_RATIO_INVERSE),
            }
        }
    }

    /// The lanes that accept a candidate with this mean and variance.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    pub(super) unsafe fn accept<const LANES: usize>(
        &self,
        takes_part: V::Mask,
        mean: V,
        variance: V,
    ) -> V::Mask
    where
        V: Singles<LANES>,
    {
        // SAFETY: the caller's.
        unsafe {
            // Distance to the centre of an interval, 1 at its ends.
            let distance = |value: V, (middle, half): (V, V)| value.sub(middle).mul(half).abs();
            let by_mean = distance(mean, self.mean_interval);
            let by_inverted = distance(self.largest.sub(mean), self.inverted_interval);
            let by_variance = distance(variance, self.variance_interval);
            let furthest = by_mean.min(by_inverted).max(by_variance);
            let sure = V::both(takes_part, furthest.lt(V::splat(1.0 - UNSURE)));
            let perhaps = V::both(takes_part, furthest.lt(V::splat(1.0 + UNSURE)));
            if V::differ(sure, perhaps) {
                return V::both(perhaps, self.by_division(mean, variance));
            }
            sure
        }
    }

    /// The tests as in the reference.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn by_division<const LANES: usize>(&self, mean: V, variance: V) -> V::Mask
    where
        V: Singles<LANES>,
    {
        // SAFETY: the caller's.
        unsafe {
            let between =
                |ratio: V, low: f32, high: f32| V::both(V::splat(low).lt(ratio), ratio.lt(V::splat(high)));
            let means = between(self.mean.div(mean), MEAN_RATIO, MEAN_RATIO_INVERSE);
            let inverted = self.inverted.div(self.largest.sub(mean));
            let inverted = between(inverted, MEAN_RATIO, MEAN_RATIO_INVERSE);
            let variances = self.variance.div(variance);
            let variances = between(variances, VARIANCE_RATIO, VARIANCE_RATIO_INVERSE);
            V::both(V::either(means, inverted), variances)
        }
    }
}
