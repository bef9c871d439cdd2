//! Grid: where voxels lie in space, and how far apart they are.

/// Where the voxels of an image lie in space, in ITK's terms: x to the left, y to the back, z up.
///
/// ```
/// use niimpi::volume::Grid;
///
/// let grid = Grid::of_spacing([1.0, 1.0, 2.5]);
/// assert_eq!(grid.direction[2], [0.0, 0.0, 1.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Distance between voxel centres along x, y and z of the image.
    pub spacing_mm: [f64; 3],
    /// The place of the first voxel.
    pub origin_mm: [f64; 3],
    /// Rows of a matrix whose columns are the directions of the image's axes, each of length 1.
    pub direction: [[f64; 3]; 3],
}

impl Grid {
    /// The first voxel at 0, the axes of the image along those of space.
    pub fn of_spacing(spacing_mm: [f64; 3]) -> Self {
        Grid {
            spacing_mm,
            origin_mm: [0.0; 3],
            direction: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        }
    }

    /// Whether all its numbers are finite.
    pub(crate) fn is_finite(&self) -> bool {
        let numbers = self.spacing_mm.iter().chain(&self.origin_mm);
        numbers
            .chain(self.direction.as_flattened())
            .all(|number| number.is_finite())
    }
}

/// The fields of a header that give the voxel size, in the header's unit. Programs choose differently between
/// them.
///
/// ```
/// use niimpi::volume::Geometry;
///
/// assert_eq!(Geometry::of_size([2.0, 2.0, 3.0]).matrix[2], [0.0, 0.0, 3.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// `pixdim` of x, y and z, without signs.
    pub pixdim: [f64; 3],
    /// The affine without its offsets: by the sform, else the qform, else pixdim.
    pub matrix: [[f64; 3]; 3],
    /// Whether it is the sform's.
    pub has_sform: bool,
    /// Millimetres of the header's unit of length.
    pub mm_per_unit: f64,
}

impl Geometry {
    /// An upright grid of this voxel size in mm.
    pub fn of_size(size_mm: [f64; 3]) -> Self {
        let [x, y, z] = size_mm;
        Geometry {
            pixdim: size_mm,
            matrix: [[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, z]],
            has_sform: false,
            mm_per_unit: 1.0,
        }
    }
}
