// Non-local means, classic: a voxel becomes the weighted mean of the squares of the voxels around it, with the
// bits of the CPU's code (nlm/classic.rs, nlm/weights.rs and kernels/exp64.rs).
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#pragma OPENCL FP_CONTRACT OFF

// exp(x) for x <= 0. `table`: the bits of 128 powers, then of their errors.
double exp_of_nonpositive(double x, const __global ulong *table) {
    if (x < -745.1332191019412)
        return 0;
    double shifted = fma(x, 0x1.71547652b82fep+7, 6755399441055744.0);
    double step = shifted - 6755399441055744.0;
    ulong whole = as_ulong(shifted);
    ulong place = whole % 128;
    double r = fma(step, as_double(0xBD0CF79ABC9E3B39UL), fma(step, as_double(0xBF762E42FEFA0000UL), x));
    double r2 = r * r;
    double low = fma(r2, fma(r, as_double(0x3FC555555555543CUL), as_double(0x3FDFFFFFFFFFFDBDUL)),
                     as_double(table[128 + place]) + r);
    double expm1 = fma(r2 * r2, fma(r, as_double(0x3F81111167A4D017UL), as_double(0x3FA55555CF172B91UL)), low);
    ulong bits = table[place] + (whole << 45);
    if (x >= -708.0)
        return fma(as_double(bits), expm1, as_double(bits));
    // Computed 2^1022 times too large, and rounded to the bits that are left of it before it is scaled back.
    double power = as_double(bits + (1022UL << 52));
    double exp = fma(power, expm1, power), least = as_double(0x0010000000000000UL);
    if (exp >= 1.0)
        return exp * least;
    double rest = fma(power, expm1, power - exp), above = 1.0 + exp;
    return ((above + (1.0 - above + exp + rest)) - 1.0) * least;
}

// A volume with margins: voxels between rows, and between slices.
typedef struct {
    long pitch, plane;
    int patch;
    double voxels, spread, furthest;
} Patches;

// The weight of the patch around `other` for the one around `own`. Sums are added in the order x, y, z.
double weight(const Patches *p, const __global double *own, const __global double *other,
              const __global ulong *table) {
    double sum = 0;
    for (int x = -p->patch; x <= p->patch; x++)
        for (int y = -p->patch; y <= p->patch; y++)
            for (int z = -p->patch; z <= p->patch; z++) {
                long at = x + y * p->pitch + z * p->plane;
                double difference = own[at] - other[at];
                sum = sum + difference * difference;
            }
    sum = fmin(sum, p->furthest);
    return exp_of_nonpositive(-(sum / p->voxels / p->spread), table);
}

// A work item computes one of `count` voxels, from voxel `begin` on, of a slice whose first one is at `first`.
// The candidates are `radius` around it. Their weights are kept until the total is known: first those of all
// voxels for a candidate, which neighbouring work items write together.
__kernel void nonlocal_means(const __global double *planes, __global double *squares,
                             const __global ulong *table, __global double *kept, int patch, int radius, long nx,
                             long pitch, long plane, long first, long to, long begin, long count, double voxels,
                             double spread, double furthest) {
    long item = get_global_id(0), at = begin + item;
    if (item >= count)
        return;
    Patches p = {pitch, plane, patch, voxels, spread, furthest};
    const __global double *own = planes + first + at / nx * pitch + at % nx;
    double total = 0, mean = 0;
    long candidate = item;
    for (int x = -radius; x <= radius; x++)
        for (int y = -radius; y <= radius; y++)
            for (int z = -radius; z <= radius; z++) {
                double own_weight = weight(&p, own, own + x + y * pitch + z * plane, table);
                kept[candidate] = own_weight;
                candidate += count;
                total = total + own_weight;
            }
    candidate = item;
    for (int x = -radius; x <= radius; x++)
        for (int y = -radius; y <= radius; y++)
            for (int z = -radius; z <= radius; z++) {
                const __global double *other = own + x + y * pitch + z * plane;
                double part = kept[candidate] / total;
                candidate += count;
                mean = mean + part * *other * *other;
            }
    squares[to + at] = mean;
}
