//! Ranks: finds the element with a given rank in many windows at once, by comparator networks that are built
//! at run time.
//!
//! A network is a series of comparisons that does not depend on the numbers, so a wire can be a whole block
//! of neighbouring voxels. The networks are Batcher's odd-even merges (K. E. Batcher, "Sorting networks and
//! their applications", AFIPS 1968), without comparators that do not affect the requested rank.

use super::convert::Voxel;
use super::simd::{Isa, Job, Vector};

/// Bytes of a wire, the size of the widest vector.
pub(in crate::filter) const WIRE_BYTES: usize = 64;

/// Voxels as keys: integers with the same order as the voxels.
pub(in crate::filter) trait Ranked: Voxel {
    /// The key's type.
    type Key: Key;
    /// The least and the largest finite number.
    const FINITE: [Self; 2];
    /// The voxel's key. −0 comes before 0, and NaN comes beyond the infinities.
    fn key(self) -> Self::Key;
    /// The voxel of a key.
    fn of_key(key: Self::Key) -> Self;
    /// Whether the voxel is a finite number.
    fn is_finite(self) -> bool;
}

/// The type that is compared.
pub(in crate::filter) trait Key: crate::volume::VoxelType + Ord {
    /// Finds the elements with the network's ranks in many windows.
    ///
    /// # Safety
    /// The inputs and outputs are valid for all windows in whole blocks of [`WIRE_BYTES`], and no output
    /// overlaps an input or the wires.
    unsafe fn select(isa: Isa, select: Select<'_, Self>);
}

macro_rules! ranked {
    ($($voxel:ty, $key:ty, |$from:ident| $to_key:expr, |$back:ident| $to_voxel:expr,
        |$value:ident| $finite:expr;)*) => {
        $(impl Ranked for $voxel {
            type Key = $key;
            const FINITE: [Self; 2] = [<$voxel>::MIN, <$voxel>::MAX];
            #[inline(always)]
            fn key(self) -> $key {
                let $from = self;
                $to_key
            }
            #[inline(always)]
            fn of_key($back: $key) -> Self {
                $to_voxel
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                let $value = self;
                $finite
            }
        })*
    };
}

ranked! {
    u8, u8, |v| v, |k| k, |_v| true;
    i8, i8, |v| v, |k| k, |_v| true;
    u16, u16, |v| v, |k| k, |_v| true;
    i16, i16, |v| v, |k| k, |_v| true;
    u32, u32, |v| v, |k| k, |_v| true;
    i32, i32, |v| v, |k| k, |_v| true;
    u64, u64, |v| v, |k| k, |_v| true;
    i64, i64, |v| v, |k| k, |_v| true;
    f32, i32, |v| order_32(v.to_bits().cast_signed()), |k| f32::from_bits(order_32(k).cast_unsigned()),
        |v| f32::is_finite(v);
    f64, i64, |v| order_64(v.to_bits().cast_signed()), |k| f64::from_bits(order_64(k).cast_unsigned()),
        |v| f64::is_finite(v);
}

/// Converts the bits of a float to its key, and back.
#[inline(always)]
fn order_32(bits: i32) -> i32 {
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

/// The same for double precision.
#[inline(always)]
fn order_64(bits: i64) -> i64 {
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

macro_rules! keys {
    ($($key:ty),*) => {
        $(impl Key for $key {
            unsafe fn select(isa: Isa, select: Select<'_, Self>) {
                isa.run(Blocks::<$key, { WIRE_BYTES / size_of::<$key>() }>(select));
            }
        })*
    };
}

keys!(u8, i8, u16, i16, u32, i32, u64, i64);

/// A series of comparators. Each puts the smaller of two values on its first wire.
#[derive(Clone, Debug, Default)]
pub(in crate::filter) struct Network {
    wires: usize,
    comparators: Vec<[u32; 2]>,
    /// The wires with the requested ranks at the end.
    outputs: Vec<u32>,
}

impl Network {
    /// A network that merges `lists` lists of `len` elements, as far as necessary to find the elements with
    /// these ranks, counted from 0. Each list is already ascending, and the lists follow each other on the
    /// wires.
    pub(in crate::filter) fn new(lists: usize, len: usize, ranks: std::ops::Range<usize>) -> Self {
        let wires = lists * len;
        let mut comparators = Vec::new();
        let all: Vec<u32> = (0..wires as u32).collect();
        let sorted = sort(&all, len, &mut comparators);
        let outputs = sorted[ranks].to_vec();
        let mut needed = vec![false; wires];
        for &wire in &outputs {
            needed[wire as usize] = true;
        }
        // From the end: a comparator is needed if one of its outputs is needed, and then both of its inputs
        // are.
        let mut matter: Vec<[u32; 2]> = Vec::new();
        for &[low, high] in comparators.iter().rev() {
            if needed[low as usize] || needed[high as usize] {
                needed[low as usize] = true;
                needed[high as usize] = true;
                matter.push([low, high]);
            }
        }
        matter.reverse();
        Network {
            wires,
            comparators: matter,
            outputs,
        }
    }

    /// Number of comparators.
    pub(in crate::filter) fn comparators(&self) -> usize {
        self.comparators.len()
    }

    /// Bytes that it holds.
    pub(in crate::filter) fn held_bytes(&self) -> u64 {
        (self.comparators.capacity() * size_of::<[u32; 2]>() + self.outputs.capacity() * 4) as u64
    }
}

/// Merges ascending lists of `len` wires. Returns the wires in ascending order.
fn sort(wires: &[u32], len: usize, comparators: &mut Vec<[u32; 2]>) -> Vec<u32> {
    let lists = wires.len() / len.max(1);
    if lists <= 1 {
        return wires.to_vec();
    }
    let (low, high) = wires.split_at(lists.div_ceil(2) * len);
    let (low, high) = (sort(low, len, comparators), sort(high, len, comparators));
    merge(&low, &high, comparators)
}

/// Merges two ascending lists: the elements at even places, those at odd places, then neighbours.
fn merge(a: &[u32], b: &[u32], comparators: &mut Vec<[u32; 2]>) -> Vec<u32> {
    if a.is_empty() || b.is_empty() {
        return [a, b].concat();
    }
    if let (&[a], &[b]) = (a, b) {
        comparators.push([a, b]);
        return vec![a, b];
    }
    let every_other = |list: &[u32], from: usize| list.iter().copied().skip(from).step_by(2).collect();
    let [even_a, odd_a, even_b, odd_b]: [Vec<u32>; 4] = [
        every_other(a, 0),
        every_other(a, 1),
        every_other(b, 0),
        every_other(b, 1),
    ];
    let even = merge(&even_a, &even_b, comparators);
    let odd = merge(&odd_a, &odd_b, comparators);
    let mut merged = vec![even[0]];
    let mut later = even[1..].iter();
    for &wire in &odd {
        match later.next() {
            Some(&next) => {
                comparators.push([wire, next]);
                merged.extend([wire, next]);
            }
            None => merged.push(wire),
        }
    }
    merged.extend(later);
    merged
}

/// A network on adjacent windows.
pub(in crate::filter) struct Select<'a, K> {
    /// The network.
    pub(in crate::filter) network: &'a Network,
    /// For each wire, the voxel of the first window.
    pub(in crate::filter) inputs: &'a [*const K],
    /// For each output, the position of the first window's result.
    pub(in crate::filter) outputs: &'a [*mut K],
    /// Number of windows, each shifted by one voxel; rounded up to a multiple of [`WIRE_BYTES`].
    pub(in crate::filter) windows: usize,
    /// Buffer for the wires.
    pub(in crate::filter) wires: &'a mut [K],
}

struct Blocks<'a, K, const LANES: usize>(Select<'a, K>);

impl<K: Key, const LANES: usize> Job for Blocks<'_, K, LANES> {
    #[inline(always)]
    unsafe fn run<V: Vector<N>, const N: usize>(self) {
        let Select {
            network,
            inputs,
            outputs,
            windows,
            wires,
        } = self.0;
        assert!(inputs.len() == network.wires && wires.len() >= network.wires * LANES);
        assert!(outputs.len() == network.outputs.len());
        let wires = wires.as_mut_ptr().cast::<[K; LANES]>();
        for first in (0..windows).step_by(LANES) {
            // SAFETY: the caller's inputs and outputs are valid for all windows in whole blocks, and the room
            // for the wires is as long as was asserted; a network names its own wires only.
            unsafe {
                for (wire, input) in inputs.iter().enumerate() {
                    let block = input.add(first).cast::<[K; LANES]>();
                    wires.add(wire).write_unaligned(block.read_unaligned());
                }
                for &[low, high] in &network.comparators {
                    let (low, high) = (wires.add(low as usize), wires.add(high as usize));
                    let (a, b) = (low.read_unaligned(), high.read_unaligned());
                    let (mut smaller, mut larger) = (a, b);
                    for lane in 0..LANES {
                        smaller[lane] = if a[lane] < b[lane] { a[lane] } else { b[lane] };
                        larger[lane] = if a[lane] < b[lane] { b[lane] } else { a[lane] };
                    }
                    low.write_unaligned(smaller);
                    high.write_unaligned(larger);
                }
                for (&wire, output) in network.outputs.iter().zip(outputs) {
                    let block = output.add(first).cast::<[K; LANES]>();
                    block.write_unaligned(wires.add(wire as usize).read_unaligned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_sort_all_zeros_and_ones() {
        // A network that sorts all sequences of zeros and ones sorts every sequence (Knuth, 5.3.4).
        for (lists, len) in [(1, 1), (2, 1), (7, 1), (13, 1), (3, 4), (5, 3), (2, 7)] {
            let wires = lists * len;
            for rank in 0..wires {
                let network = Network::new(lists, len, rank..rank + 1);
                for bits in 0..1u32 << wires {
                    let mut values: Vec<u32> = (0..wires).map(|wire| bits >> wire & 1).collect();
                    values.chunks_mut(len).for_each(<[u32]>::sort_unstable);
                    let ones = values.iter().sum::<u32>() as usize;
                    for &[low, high] in &network.comparators {
                        if values[low as usize] > values[high as usize] {
                            values.swap(low as usize, high as usize);
                        }
                    }
                    let found = values[network.outputs[0] as usize];
                    assert_eq!(
                        found,
                        u32::from(rank >= wires - ones),
                        "{lists} {len} {rank} {bits:b}"
                    );
                }
            }
        }
    }

    #[test]
    fn keys_are_ordered_as_floats_are() {
        let floats = [
            f64::NEG_INFINITY,
            -2.5,
            -1e-310,
            -0.0,
            0.0,
            5e-324,
            1.0,
            f64::INFINITY,
        ];
        assert!(floats.windows(2).all(|pair| pair[0].key() < pair[1].key()));
        assert!(
            floats
                .iter()
                .all(|&float| f64::of_key(float.key()).to_bits() == float.to_bits())
        );
        assert!(
            floats
                .windows(2)
                .all(|pair| (pair[0] as f32).key() <= (pair[1] as f32).key())
        );
        assert_eq!(f32::of_key((-3.25f32).key()), -3.25);
    }
}
