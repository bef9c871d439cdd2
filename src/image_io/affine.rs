//! The affine of a header: positions of voxels in space, and comparison of two grids.

use super::header::Header;
use crate::volume::Geometry;

/// Maps voxel indices x, y, z to mm: three rows of a matrix, each with its offset.
pub type Affine = [[f64; 4]; 3];

/// Two grids are equal if the distance between corresponding corners is at most this fraction of a voxel.
pub const SAME_GRID_VOX: f64 = 1e-3;

/// The header fields that place the voxels in space, with lengths in the header's unit.
pub(super) struct GridFields {
    pub(super) qform_code: i32,
    pub(super) sform_code: i32,
    /// `pixdim[0]` is the sign of the third axis.
    pub(super) pixdim: [f64; 4],
    /// b, c and d of the quaternion.
    pub(super) quaternion: [f64; 3],
    /// Where the qform places the first voxel.
    pub(super) offset: [f64; 3],
    pub(super) sform: Affine,
}

impl Header {
    /// The affine in mm: the sform if its code is above 0, else the qform if its code is above 0, else voxels
    /// of pixdim's size around the centre of the image, x to the left. nibabel makes the same choice.
    ///
    /// ```
    /// use niimpi::image_io::{Header, Version};
    /// use niimpi::volume::Datatype;
    ///
    /// let header = Header::new(Version::Nifti1, &[4, 4, 4], Datatype::Int16, [2.0, 2.0, 3.0]);
    /// assert_eq!(header.affine()[2], [0.0, 0.0, 3.0, 0.0]);
    /// ```
    pub fn affine(&self) -> Affine {
        let mm_per_unit = self.length_unit().mm();
        self.affine_in_units(&self.grid_fields())
            .map(|row| row.map(|value| value * mm_per_unit))
    }

    fn affine_in_units(&self, fields: &GridFields) -> Affine {
        if fields.sform_code > 0 {
            fields.sform
        } else {
            let qform = (fields.qform_code > 0).then(|| qform(fields)).flatten();
            qform.unwrap_or_else(|| self.centred(fields))
        }
    }

    /// The fields that give the voxel size.
    pub(crate) fn geometry(&self) -> Geometry {
        let fields = self.grid_fields();
        let [_, x, y, z] = fields.pixdim;
        Geometry {
            pixdim: [x.abs(), y.abs(), z.abs()],
            matrix: self.affine_in_units(&fields).map(|[x, y, z, _]| [x, y, z]),
            has_sform: fields.sform_code > 0,
            mm_per_unit: self.length_unit().mm(),
        }
    }

    pub(super) fn grid_fields(&self) -> GridFields {
        let raw = self.raw();
        GridFields {
            qform_code: raw.code(252, 344),
            sform_code: raw.code(254, 348),
            pixdim: raw.reals(76, 104),
            quaternion: raw.reals(256, 352),
            offset: raw.reals(268, 376),
            sform: raw.sform(),
        }
    }

    fn centred(&self, fields: &GridFields) -> Affine {
        let mut affine = [[0.0; 4]; 3];
        for (axis, row) in affine.iter_mut().enumerate() {
            let len = self.shape().get(axis).copied().unwrap_or(1);
            let size = fields.pixdim[axis + 1].abs();
            let step = if axis == 0 { -size } else { size };
            row[axis] = step;
            row[3] = -step * (len as f64 - 1.0) / 2.0;
        }
        affine
    }
}

/// The affine of the quaternion; `None` if it is not a rotation.
fn qform(fields: &GridFields) -> Option<Affine> {
    /// A quaternion in single precision is a little longer than 1 at most.
    const TOLERANCE: f64 = 3.0 * f32::EPSILON as f64;
    let [b, c, d] = fields.quaternion;
    let square = 1.0 - (b * b + c * c + d * d);
    if square.is_nan() || square < -TOLERANCE {
        return None;
    }
    let a = square.max(0.0).sqrt();
    let rotation = [
        [
            a * a + b * b - c * c - d * d,
            2.0 * (b * c - a * d),
            2.0 * (b * d + a * c),
        ],
        [
            2.0 * (b * c + a * d),
            a * a + c * c - b * b - d * d,
            2.0 * (c * d - a * b),
        ],
        [
            2.0 * (b * d - a * c),
            2.0 * (c * d + a * b),
            a * a + d * d - b * b - c * c,
        ],
    ];
    let [factor, x, y, z] = fields.pixdim;
    let sizes = [x, y, if factor < 0.0 { -z } else { z }];
    Some(std::array::from_fn(|row| {
        std::array::from_fn(|i| match i {
            3 => fields.offset[row],
            axis => rotation[row][axis] * sizes[axis],
        })
    }))
}

/// Maximum distance between corresponding corners of two grids with these affines, in units of the smaller
/// voxel edge. NaN if an affine contains NaN.
pub fn corner_distance_vox(shape: [usize; 3], one: &Affine, other: &Affine) -> f64 {
    let edges = [one, other].into_iter().flat_map(|affine| {
        (0..3).map(move |axis| affine.iter().map(|row| row[axis] * row[axis]).sum::<f64>().sqrt())
    });
    let edge_mm = edges.filter(|&mm| mm > 0.0).fold(f64::INFINITY, f64::min);
    let corner = |affine: &Affine, number: usize| -> [f64; 3] {
        let at: [f64; 3] = std::array::from_fn(|axis| match number >> axis & 1 {
            0 => 0.0,
            _ => shape[axis] as f64 - 1.0,
        });
        affine.map(|row| row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3])
    };
    let distances = (0..8).map(|number| {
        let (one, other) = (corner(one, number), corner(other, number));
        let squares = (0..3).map(|axis| (one[axis] - other[axis]).powi(2));
        squares.sum::<f64>().sqrt() / edge_mm
    });
    // Not `f64::max`, which ignores NaN.
    distances.fold(
        0.0,
        |most, distance| if distance <= most { most } else { distance },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_io::Version;
    use crate::volume::Datatype;

    #[test]
    fn corners_are_compared_in_voxels() {
        let header = Header::new(Version::Nifti2, &[11, 11, 11], Datatype::Uint8, [2.0; 3]);
        let one = header.affine();
        let mut other = one;
        assert_eq!(corner_distance_vox([11; 3], &one, &other), 0.0);
        other[0][3] += 0.001;
        assert!((corner_distance_vox([11; 3], &one, &other) - 0.0005).abs() < 1e-12);
        other[1][1] = 2.001;
        let distance = corner_distance_vox([11; 3], &one, &other);
        assert!((0.005..0.0051).contains(&distance), "{distance}");
        other[2][2] = f64::NAN;
        assert!(corner_distance_vox([11; 3], &one, &other).is_nan());
    }

    #[test]
    fn a_half_turn_is_a_rotation() {
        let fields = GridFields {
            qform_code: 1,
            sform_code: 0,
            pixdim: [-1.0, 1.0, 2.0, 3.0],
            quaternion: [0.0, 0.0, 1.0],
            offset: [5.0, 6.0, 7.0],
            sform: [[0.0; 4]; 3],
        };
        let expected = [
            [-1.0, 0.0, 0.0, 5.0],
            [0.0, -2.0, 0.0, 6.0],
            [0.0, 0.0, -3.0, 7.0],
        ];
        assert_eq!(qform(&fields), Some(expected));
        let wrong = GridFields {
            quaternion: [1.0, 1.0, 0.0],
            ..fields
        };
        assert_eq!(qform(&wrong), None);
    }
}
