// Gaussian: one axis correlated with a symmetric kernel, with the bits of the CPU's code (boundary.rs and
// kernels/correlate.rs, convert.rs and scalar.rs). Radius, shape and types are arguments, so that a driver
// compiles it once.
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#pragma OPENCL FP_CONTRACT OFF

enum { UINT8, INT8, UINT16, INT16, UINT32, INT32, UINT64, INT64, FLOAT32, FLOAT64 };
enum { REFLECT, NEAREST, MIRROR, WRAP, CONSTANT };
enum { CAST, ROUND };

double read_voxel(const __global uchar *voxels, int type, ulong at) {
    switch (type) {
    case UINT8: return ((const __global uchar *)voxels)[at];
    case INT8: return ((const __global char *)voxels)[at];
    case UINT16: return ((const __global ushort *)voxels)[at];
    case INT16: return ((const __global short *)voxels)[at];
    case UINT32: return ((const __global uint *)voxels)[at];
    case INT32: return ((const __global int *)voxels)[at];
    case UINT64: return ((const __global ulong *)voxels)[at];
    case INT64: return ((const __global long *)voxels)[at];
    case FLOAT32: return ((const __global float *)voxels)[at];
    default: return ((const __global double *)voxels)[at];
    }
}

// Conversions as on x86-64: out of range and NaN give the most negative number.
int cast_i32(double value) {
    return value >= -2147483648.0 && value < 2147483648.0 ? (int)value : (-2147483647 - 1);
}

long cast_i64(double value) {
    return value >= -9223372036854775808.0 && value < 9223372036854775808.0 ? (long)value
                                                                            : (-9223372036854775807L - 1);
}

ulong cast_u64(double value) {
    return value >= 9223372036854775808.0
        ? (ulong)(cast_i64(value - 9223372036854775808.0) ^ (-9223372036854775807L - 1))
        : (ulong)cast_i64(value);
}

void write_voxel(__global uchar *voxels, int type, int conversion, ulong at, double value) {
    if (conversion == ROUND) {
        switch (type) {
        case UINT8: ((__global uchar *)voxels)[at] = isnan(value) ? 0 : convert_uchar_sat_rte(value); return;
        case INT8: ((__global char *)voxels)[at] = isnan(value) ? 0 : convert_char_sat_rte(value); return;
        case UINT16: ((__global ushort *)voxels)[at] = isnan(value) ? 0 : convert_ushort_sat_rte(value); return;
        case INT16: ((__global short *)voxels)[at] = isnan(value) ? 0 : convert_short_sat_rte(value); return;
        case UINT32: ((__global uint *)voxels)[at] = isnan(value) ? 0 : convert_uint_sat_rte(value); return;
        case INT32: ((__global int *)voxels)[at] = isnan(value) ? 0 : convert_int_sat_rte(value); return;
        case UINT64: ((__global ulong *)voxels)[at] = isnan(value) ? 0 : convert_ulong_sat_rte(value); return;
        case INT64: ((__global long *)voxels)[at] = isnan(value) ? 0 : convert_long_sat_rte(value); return;
        }
    }
    switch (type) {
    case UINT8: ((__global uchar *)voxels)[at] = (uchar)cast_i32(value); return;
    case INT8: ((__global char *)voxels)[at] = (char)cast_i32(value); return;
    case UINT16: ((__global ushort *)voxels)[at] = (ushort)cast_i32(value); return;
    case INT16: ((__global short *)voxels)[at] = (short)cast_i32(value); return;
    case UINT32: ((__global uint *)voxels)[at] = (uint)cast_i64(value); return;
    case INT32: ((__global int *)voxels)[at] = cast_i32(value); return;
    case UINT64: ((__global ulong *)voxels)[at] = cast_u64(value); return;
    case INT64: ((__global long *)voxels)[at] = cast_i64(value); return;
    case FLOAT32: ((__global float *)voxels)[at] = (float)value; return;
    default: ((__global double *)voxels)[at] = value;
    }
}

// The position in a line of `len` voxels that stands at `position`, or -1 for the constant.
long source_of(int boundary, long position, long len) {
    long last = len - 1, period, phase;
    if (position >= 0 && position <= last)
        return position;
    switch (boundary) {
    case REFLECT:
        period = 2 * len;
        phase = (position % period + period) % period;
        return min(phase, period - 1 - phase);
    case NEAREST: return position < 0 ? 0 : last;
    case MIRROR:
        if (last == 0)
            return 0;
        period = 2 * last;
        phase = (position % period + period) % period;
        return min(phase, period - phase);
    case WRAP: return (position % len + len) % len;
    default: return -1;
    }
}

// Lines of `len` voxels whose positions are `step` apart. `voxels` has the positions from `first` on.
typedef struct {
    const __global uchar *voxels;
    int type, boundary;
    double cval, slope, intercept;
    long len, first;
    ulong step;
} Lines;

// The intensity at a position of the line that begins at `line`.
double intensity(const Lines *lines, ulong line, long position) {
    long from = source_of(lines->boundary, position, lines->len);
    if (from < 0)
        return lines->cval;
    double value = read_voxel(lines->voxels, lines->type, line + (from - lines->first) * lines->step);
    if (lines->slope != 1.0)
        value = value * lines->slope;
    if (lines->intercept != 0.0)
        value = value + lines->intercept;
    return value;
}

// Of each line, `source` has `reads` positions from `first_read` on, and `target` gets `writes` positions from
// `first_write` on. A work item computes one of `count` sums: the centre, then pairs from the outermost
// inwards.
__kernel void correlate(const __global uchar *source, int source_type, __global uchar *target, int target_type,
                        int conversion, const __global double *half_kernel, long radius, int boundary,
                        double cval, double slope, double intercept, long len, ulong step, long first_read,
                        ulong reads, long first_write, ulong writes, ulong count) {
    ulong at = get_global_id(0);
    if (at >= count)
        return;
    Lines lines = {source, source_type, boundary, cval, slope, intercept, len, first_read, step};
    long position = first_write + (long)(at / step % writes);
    ulong line = at / (step * writes) * (step * reads) + at % step;
    double sum = intensity(&lines, line, position) * half_kernel[0];
    for (long j = radius; j > 0; j--) {
        double pair = intensity(&lines, line, position - j) + intensity(&lines, line, position + j);
        sum = sum + pair * half_kernel[j];
    }
    write_voxel(target, target_type, conversion, at, sum);
}
