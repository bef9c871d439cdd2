//! Image files: reading, writing and probing NIfTI images.
