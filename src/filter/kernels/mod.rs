//! Kernels: the inner loops of the filters, and the instruction sets for which they are compiled.
//!
//! | file | role |
//! |---|---|
//! | `correlate` | one axis correlated, tile by tile |
//! | `convolve`, `fft` | one axis convolved through Fourier transforms |
//! | `convert` | voxels of every type to double and back |
//! | `ranks` | the element of a rank of many windows, by networks |
//! | `simd` | the widest vectors that the processor has |
//! | `singles` | vectors of single-precision numbers |
//! | `scalar` | conversions of one number, as x86-64 does them |
//! | `sums` | sums over slices, for the figures of `--qc` |
//! | `weights` | the sampled Gaussian, bit for bit scipy's |
//! | `exp`, `exp32` | the exponential in double and in single precision, the same bits everywhere |
//! | `exp64`, `powers` | another exponential in double, for vectors, and its tables |
//! | `bessel` | modified Bessel functions |

pub(super) mod bessel;
pub(super) mod convert;
pub(super) mod convolve;
pub(super) mod correlate;
pub(super) mod exp;
pub(super) mod exp32;
pub(super) mod exp64;
mod fft;
pub(super) mod powers;
pub(super) mod ranks;
mod scalar;
pub(super) mod simd;
pub(super) mod singles;
pub(super) mod sums;
pub(super) mod weights;
