//! Convert: numbers of every voxel type to double and back, with the same rounding as scipy's compiled code.

use super::scalar::{cast_i32, cast_i64, cast_u64, map_lanes};
use super::simd::{Vector, load_each};
use crate::volume::{Datatype, Scaling, VoxelType};

/// A voxel type: its conversion to double, and the two conversions back.
pub(in crate::filter) trait Voxel: VoxelType {
    /// The nearest double.
    fn to_f64(self) -> f64;

    /// [`Voxel::to_f64`] of as many voxels as a vector has lanes.
    ///
    /// # Safety
    /// The processor has `V`'s instructions and so many voxels are valid.
    unsafe fn load_lanes<V: Vector<LANES>, const LANES: usize>(voxels: *const Self) -> V;

    /// The result of a C cast that gcc compiles for x86-64: truncation. Out of range (undefined in C), the
    /// low bits of that processor's conversion. NaN counts as out of range.
    fn cast(value: f64) -> Self;

    /// [`Voxel::cast`] of a vector's lanes.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    unsafe fn cast_lanes<V: Vector<LANES>, const LANES: usize>(values: V) -> [Self; LANES];

    /// Rounded to nearest, halves to even, saturated at the ends of the type; NaN becomes 0. For float types
    /// the same as [`Voxel::cast`].
    fn nearest(value: f64) -> Self;

    /// [`Voxel::nearest`] of a vector's lanes.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn nearest_lanes<V: Vector<LANES>, const LANES: usize>(values: V) -> [Self; LANES] {
        // SAFETY: the caller's processor has V's instructions.
        map_lanes(unsafe { lanes(values) }, Self::nearest)
    }

    /// The nearest single-precision number, rounded once and not through double.
    fn to_f32(self) -> f32;

    /// The integer. Not used for float types.
    fn to_i128(self) -> i128;

    /// The integer, saturated at the ends of the type.
    fn saturated(value: i128) -> Self;
}

/// The numbers in a vector.
///
/// # Safety
/// The processor has `V`'s instructions.
#[inline(always)]
unsafe fn lanes<V: Vector<LANES>, const LANES: usize>(values: V) -> [f64; LANES] {
    let mut lanes = [0.0; LANES];
    // SAFETY: the array is as long as the vector.
    unsafe { values.store(lanes.as_mut_ptr()) };
    lanes
}

macro_rules! integer_voxel {
    (
        $type:ty, |$voxels:ident| $load_lanes:expr, |$value:ident| $cast:expr,
        |$values:ident| $cast_lanes:expr
    ) => {
        impl Voxel for $type {
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }

            #[inline(always)]
            unsafe fn load_lanes<V: Vector<LANES>, const LANES: usize>($voxels: *const Self) -> V {
                // SAFETY: the caller's.
                unsafe { $load_lanes }
            }

            #[inline(always)]
            fn cast($value: f64) -> Self {
                $cast as $type
            }

            #[inline(always)]
            unsafe fn cast_lanes<V: Vector<LANES>, const LANES: usize>($values: V) -> [Self; LANES] {
                // SAFETY: the caller's processor has V's instructions.
                unsafe { $cast_lanes }
            }

            #[inline(always)]
            fn nearest(value: f64) -> Self {
                // Rust's conversion saturates and converts NaN to 0.
                value.round_ties_even() as $type
            }

            fn to_f32(self) -> f32 {
                self as f32
            }

            fn to_i128(self) -> i128 {
                self as i128
            }

            fn saturated(value: i128) -> Self {
                value.clamp(<$type>::MIN as i128, <$type>::MAX as i128) as $type
            }
        }
    };
}

integer_voxel!(
    u8,
    |voxels| V::load_u8(voxels),
    |value| cast_i32(value),
    |values| map_lanes(values.cast_i8(), |value| value as u8)
);
integer_voxel!(
    i8,
    |voxels| V::load_i8(voxels),
    |value| cast_i32(value),
    |values| values.cast_i8()
);
integer_voxel!(
    u16,
    |voxels| V::load_u16(voxels),
    |value| cast_i32(value),
    |values| map_lanes(values.cast_i16(), |value| value as u16)
);
integer_voxel!(
    i16,
    |voxels| V::load_i16(voxels),
    |value| cast_i32(value),
    |values| values.cast_i16()
);
integer_voxel!(
    u32,
    |voxels| V::load_u32(voxels),
    |value| cast_i64(value),
    |values| map_lanes(values.cast_i64(), |value| value as u32)
);
integer_voxel!(
    i32,
    |voxels| V::load_i32(voxels),
    |value| cast_i32(value),
    |values| values.cast_i32()
);
integer_voxel!(
    u64,
    |voxels| load_each(voxels, |voxel: Self| voxel as f64),
    |value| cast_u64(value),
    |values| map_lanes(lanes(values), cast_u64)
);
integer_voxel!(
    i64,
    |voxels| load_each(voxels, |voxel: Self| voxel as f64),
    |value| cast_i64(value),
    |values| values.cast_i64()
);

macro_rules! float_voxel {
    ($type:ty, |$voxels:ident| $load_lanes:expr, |$values:ident| $cast_lanes:expr) => {
        impl Voxel for $type {
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }

            #[inline(always)]
            unsafe fn load_lanes<V: Vector<LANES>, const LANES: usize>($voxels: *const Self) -> V {
                // SAFETY: the caller's.
                unsafe { $load_lanes }
            }

            #[inline(always)]
            fn cast(value: f64) -> Self {
                value as $type
            }

            #[inline(always)]
            unsafe fn cast_lanes<V: Vector<LANES>, const LANES: usize>($values: V) -> [Self; LANES] {
                // SAFETY: the caller's processor has V's instructions.
                unsafe { $cast_lanes }
            }

            #[inline(always)]
            fn nearest(value: f64) -> Self {
                value as $type
            }

            fn to_f32(self) -> f32 {
                self as f32
            }

            fn to_i128(self) -> i128 {
                self as i128
            }

            fn saturated(value: i128) -> Self {
                value as $type
            }
        }
    };
}

float_voxel!(f32, |voxels| V::load_f32(voxels), |values| values.cast_f32());
float_voxel!(f64, |voxels| V::load(voxels), |values| lanes(values));

/// The conversion of doubles to voxels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::filter) enum Conversion {
    /// A C cast, as in scipy.
    Cast,
    /// Rounded to nearest and saturated.
    Nearest,
}

/// The conversion if no axis is filtered: the intensity, converted once.
pub(in crate::filter) fn recast_one<S: Voxel, T: Voxel>(
    voxel: S,
    scaling: Option<Scaling>,
    conversion: Conversion,
) -> T {
    match scaling {
        Some(scaling) if conversion == Conversion::Nearest => T::nearest(scaling.intensity(voxel.to_f64())),
        Some(scaling) => T::cast(scaling.intensity(voxel.to_f64())),
        None if !S::DATATYPE.is_float() && !T::DATATYPE.is_float() => T::saturated(voxel.to_i128()),
        None if T::DATATYPE == Datatype::Float32 => T::cast(f64::from(voxel.to_f32())),
        None => T::nearest(voxel.to_f64()),
    }
}

/// Runs `$body` with the type alias `$T` for the Rust type of `$datatype`.
macro_rules! with_voxel_type {
    ($datatype:expr, $T:ident => $body:expr) => {{
        use $crate::volume::Datatype;
        match $datatype {
            Datatype::Uint8 => {
                type $T = u8;
                $body
            }
            Datatype::Int8 => {
                type $T = i8;
                $body
            }
            Datatype::Uint16 => {
                type $T = u16;
                $body
            }
            Datatype::Int16 => {
                type $T = i16;
                $body
            }
            Datatype::Uint32 => {
                type $T = u32;
                $body
            }
            Datatype::Int32 => {
                type $T = i32;
                $body
            }
            Datatype::Uint64 => {
                type $T = u64;
                $body
            }
            Datatype::Int64 => {
                type $T = i64;
                $body
            }
            Datatype::Float32 => {
                type $T = f32;
                $body
            }
            Datatype::Float64 => {
                type $T = f64;
                $body
            }
        }
    }};
}
pub(in crate::filter) use with_voxel_type;
