//! Fft: Fourier transforms of several lines at once, with the same bits on every processor.
//!
//! Libraries choose the order of the operations by the processor, and take sines from the system. Here each
//! lane of a vector holds a line of its own, and the roots of unity are computed from whole numbers.

use super::simd::Vector;
use crate::volume::NoMemory;

/// A real and an imaginary part: the first number of each.
pub(super) type Parts = [*mut f64; 2];

/// Transforms of one length, a product of 2s and 3s.
pub(super) struct Fft {
    len: usize,
    /// cos and −sin of 2π·k/len, for each k.
    roots: Vec<[f64; 2]>,
}

impl Fft {
    /// Bytes per position of a transform's tables.
    pub(super) const BYTES: usize = size_of::<[f64; 2]>();

    /// The smallest length from `len` on that can be transformed.
    pub(super) fn length_from(len: usize) -> usize {
        let powers_of_3 = (0..).map_while(|exponent| 3usize.checked_pow(exponent));
        powers_of_3
            .take_while(|power| power / 3 < len)
            .map(|power| len.div_ceil(power).next_power_of_two().saturating_mul(power))
            .min()
            .unwrap_or(1)
    }

    /// Tables for this length, one of [`Fft::length_from`].
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(super) fn new(len: usize) -> Result<Self, NoMemory> {
        let mut roots = Vec::new();
        roots.try_reserve_exact(len).map_err(|_| NoMemory {
            len_bytes: len.saturating_mul(Self::BYTES),
        })?;
        roots.extend((0..len).map(|k| root_of_unity(k, len)));
        Ok(Fft { len, roots })
    }

    /// Number of complex numbers that are transformed.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Transforms `from`: `X[k] = Σ x[j]·exp(−2πi·jk/len)`. Returns where the result stands, one of `from`
    /// and `other`, and the other one. Twice in a row, the result is where the numbers were.
    ///
    /// With real and imaginary part exchanged it is the inverse transform, times the length. Stockham's
    /// algorithm: Van Loan, "Computational Frameworks for the Fast Fourier Transform", SIAM 1992, section
    /// 1.7.
    ///
    /// # Safety
    /// The processor has `V`'s instructions, and each part has `len · LANES` numbers, which do not overlap.
    #[inline(always)]
    pub(super) unsafe fn transform<V: Vector<LANES>, const LANES: usize>(
        &self,
        mut from: Parts,
        mut other: Parts,
    ) -> (Parts, Parts) {
        let (mut len, mut apart) = (self.len, 1);
        while len > 1 {
            // SAFETY: the caller's; `len · apart` is the length.
            unsafe {
                let step = if len % 3 == 0 {
                    self.by_3::<V, LANES>(from, other, len, apart);
                    3
                } else if len % 4 == 0 {
                    self.by_4::<V, LANES>(from, other, len, apart);
                    4
                } else {
                    self.by_2::<V, LANES>(from, other, len, apart);
                    2
                };
                (len, apart) = (len / step, apart * step);
            }
            (from, other) = (other, from);
        }
        (from, other)
    }

    #[inline(always)]
    unsafe fn by_2<V: Vector<LANES>, const LANES: usize>(
        &self,
        from: Parts,
        to: Parts,
        len: usize,
        apart: usize,
    ) {
        let part = len / 2;
        for p in 0..part {
            let root = self.roots[p * apart];
            for q in 0..apart {
                // SAFETY: the caller's.
                unsafe {
                    let first = q + apart * p;
                    let a: [V; 2] = load(from, first);
                    let b: [V; 2] = load(from, first + apart * part);
                    let at = q + apart * 2 * p;
                    store(to, at, add(a, b));
                    store(to, at + apart, turned(sub(a, b), root));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn by_3<V: Vector<LANES>, const LANES: usize>(
        &self,
        from: Parts,
        to: Parts,
        len: usize,
        apart: usize,
    ) {
        const SIN_60: f64 = 0.866_025_403_784_438_6;
        let part = len / 3;
        for p in 0..part {
            let roots = [1, 2].map(|i| self.roots[i * p * apart]);
            for q in 0..apart {
                // SAFETY: the caller's.
                unsafe {
                    let first = q + apart * p;
                    let a: [V; 2] = load(from, first);
                    let b: [V; 2] = load(from, first + apart * part);
                    let c: [V; 2] = load(from, first + 2 * apart * part);
                    let sum = add(b, c);
                    let middle = sub(a, scaled(sum, 0.5));
                    let side = scaled(by_i(sub(b, c)), SIN_60);
                    let at = q + apart * 3 * p;
                    store(to, at, add(a, sum));
                    store(to, at + apart, turned(sub(middle, side), roots[0]));
                    store(to, at + 2 * apart, turned(add(middle, side), roots[1]));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn by_4<V: Vector<LANES>, const LANES: usize>(
        &self,
        from: Parts,
        to: Parts,
        len: usize,
        apart: usize,
    ) {
        let part = len / 4;
        for p in 0..part {
            let roots = [1, 2, 3].map(|i| self.roots[i * p * apart]);
            for q in 0..apart {
                // SAFETY: the caller's.
                unsafe {
                    let first = q + apart * p;
                    let a: [V; 2] = load(from, first);
                    let b: [V; 2] = load(from, first + apart * part);
                    let c: [V; 2] = load(from, first + 2 * apart * part);
                    let d: [V; 2] = load(from, first + 3 * apart * part);
                    let (even, odd) = (add(a, c), add(b, d));
                    let (difference, side) = (sub(a, c), by_i(sub(b, d)));
                    let at = q + apart * 4 * p;
                    store(to, at, add(even, odd));
                    store(to, at + apart, turned(sub(difference, side), roots[0]));
                    store(to, at + 2 * apart, turned(sub(even, odd), roots[1]));
                    store(to, at + 3 * apart, turned(add(difference, side), roots[2]));
                }
            }
        }
    }
}

/// Complex numbers, one in each lane.
///
/// # Safety
/// For this and the following functions: the processor has `V`'s instructions.
#[inline(always)]
unsafe fn load<V: Vector<LANES>, const LANES: usize>(from: Parts, at: usize) -> [V; 2] {
    // SAFETY: the caller's; both parts have this position.
    unsafe { [V::load(from[0].add(at * LANES)), V::load(from[1].add(at * LANES))] }
}

#[inline(always)]
unsafe fn store<V: Vector<LANES>, const LANES: usize>(to: Parts, at: usize, [re, im]: [V; 2]) {
    // SAFETY: the caller's; both parts have this position.
    unsafe {
        re.store(to[0].add(at * LANES));
        im.store(to[1].add(at * LANES));
    }
}

#[inline(always)]
unsafe fn add<V: Vector<LANES>, const LANES: usize>(a: [V; 2], b: [V; 2]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe { [a[0].add(b[0]), a[1].add(b[1])] }
}

#[inline(always)]
unsafe fn sub<V: Vector<LANES>, const LANES: usize>(a: [V; 2], b: [V; 2]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe { [a[0].sub(b[0]), a[1].sub(b[1])] }
}

#[inline(always)]
unsafe fn scaled<V: Vector<LANES>, const LANES: usize>([re, im]: [V; 2], factor: f64) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let factor = V::splat(factor);
        [re.mul(factor), im.mul(factor)]
    }
}

/// Times the imaginary unit.
#[inline(always)]
unsafe fn by_i<V: Vector<LANES>, const LANES: usize>([re, im]: [V; 2]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe { [V::splat(0.0).sub(im), re] }
}

/// Times a root of unity.
#[inline(always)]
unsafe fn turned<V: Vector<LANES>, const LANES: usize>([re, im]: [V; 2], root: [f64; 2]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (c, s) = (V::splat(root[0]), V::splat(root[1]));
        [re.mul(c).sub(im.mul(s)), re.mul(s).add(im.mul(c))]
    }
}

/// cos and −sin of 2π·k/n, for k below n.
fn root_of_unity(k: usize, n: usize) -> [f64; 2] {
    let (octant, rest) = (8 * k / n, 8 * k % n);
    let eighth = if octant % 2 == 0 { rest } else { n - rest };
    let angle = std::f64::consts::FRAC_PI_4 * (eighth as f64 / n as f64);
    let square = -angle * angle;
    // The series in Horner's form. The terms that are left out are below 2⁻⁵⁸.
    let series = |first: u32| {
        let terms = (first..20).step_by(2).rev();
        terms.fold(1.0, |sum, i| 1.0 + square / f64::from(i * (i + 1)) * sum)
    };
    let (cos, sin) = (series(1), angle * series(2));
    let (cos, sin) = match octant {
        0 => (cos, sin),
        1 => (sin, cos),
        2 => (-sin, cos),
        3 => (-cos, sin),
        4 => (-cos, -sin),
        5 => (-sin, -cos),
        6 => (sin, -cos),
        _ => (cos, -sin),
    };
    [cos, -sin]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_products_of_2_and_3() {
        let lengths = [1, 2, 5, 7, 10, 25, 97, 1000, 1 << 20].map(Fft::length_from);
        assert_eq!(lengths, [1, 2, 6, 8, 12, 27, 108, 1024, 1 << 20]);
    }

    #[test]
    fn roots_are_those_of_the_libm_except_for_rounding() {
        for n in [1, 3, 8, 96, 243, 1024] {
            for k in 0..n {
                let angle = std::f64::consts::TAU * k as f64 / n as f64;
                let [cos, sin] = root_of_unity(k, n);
                assert!((cos - angle.cos()).abs() < 2e-15, "{k}/{n}");
                assert!((sin + angle.sin()).abs() < 2e-15, "{k}/{n}");
            }
        }
        assert_eq!(root_of_unity(2, 8), [0.0, -1.0]);
    }
}
