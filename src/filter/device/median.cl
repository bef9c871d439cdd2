// Median: of each window, the key with a rank. KEY is the type of the keys as unsigned numbers, and MEDIANS
// is the name of the kernel.

// A work item finds the median of one of `count` windows, those of slices of nx × ny. A window has `voxels`
// places. `keys` has margins: rows of `pitch`, slices of `plane`. At byte `inside` the bytes of a mask begin,
// if `masked`. With `ignore`, only keys from `least` to `most` count; `none` is the result where none does.
//
// The first pass over a window counts its keys and finds the least and the largest. Each further pass counts
// the keys below the middle between both, and moves one of them to a key on the other side of it. So there
// are at most 1 + the bits of a key of them, and a window needs no memory.
__kernel void MEDIANS(const __global KEY *keys, __global KEY *medians, const __global uint *places, ulong voxels,
                      long nx, long ny, long pitch, long plane, ulong first, ulong count, ulong inside,
                      ulong middle, int masked, int is_signed, int descending, int ignore, KEY least, KEY most,
                      KEY none) {
    ulong at = get_global_id(0);
    if (at >= count)
        return;
    at += first;
    const KEY flip = is_signed ? (KEY)((KEY)1 << (8 * sizeof(KEY) - 1)) : (KEY)0;
    least = ignore ? least ^ flip : (KEY)0;
    most = ignore ? most ^ flip : (KEY)~(KEY)0;
    ulong corner = at / (nx * ny) * plane + at % (nx * ny) / nx * pitch + at % nx;
    const __global KEY *window = keys + corner;
    const __global uchar *mask = (const __global uchar *)keys + inside + corner;
    // It gets the value for voxels outside.
    if (masked && !mask[middle])
        return;
    ulong counted = 0;
    KEY low = most, high = least;
    for (ulong i = 0; i < voxels; i++) {
        KEY key = window[places[i]] ^ flip;
        if (key < least || key > most || (masked && !mask[places[i]]))
            continue;
        counted++;
        low = min(low, key);
        high = max(high, key);
    }
    if (counted == 0) {
        medians[at] = none;
        return;
    }
    ulong rank = descending ? counted - 1 - counted / 2 : counted / 2;
    while (low < high) {
        KEY split = low + (high - low) / 2 + 1;
        ulong below = 0;
        KEY before = low, from = high;
        for (ulong i = 0; i < voxels; i++) {
            KEY key = window[places[i]] ^ flip;
            if (key < least || key > most || (masked && !mask[places[i]]))
                continue;
            if (key < split) {
                below++;
                before = max(before, key);
            } else {
                from = min(from, key);
            }
        }
        if (below <= rank)
            low = from;
        else
            high = before;
    }
    medians[at] = low ^ flip;
}
#undef KEY
#undef MEDIANS
