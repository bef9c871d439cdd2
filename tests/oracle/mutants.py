"""Makes damaged files that look valid: images, gzip members, journals, reports, lists."""

import gzip
import json
import struct
import zlib

import numpy as np

import images

# Limits of the bytes of voxels and of the longest axis, so that no image needs more memory than the others.
MOST_BYTES = 1 << 18
LONGEST = 40_000
SIZES = {2: 1, 256: 1, 4: 2, 512: 2, 8: 4, 16: 4, 768: 4, 64: 8, 1024: 8}


# ---- images


def header(version, order, datatype, shape, offset, bitpix=None):
    """A header of a single file with the given dimensions, valid or not."""
    bitpix = 8 * SIZES.get(datatype, 4) if bitpix is None else bitpix
    shape = [*shape, *[1] * (8 - len(shape))][:8]
    if version == 1:
        content = bytearray(348)
        struct.pack_into(f"{order}i", content, 0, 348)
        struct.pack_into(f"{order}8h", content, 40, *[wrapped(length, 16) for length in shape])
        struct.pack_into(f"{order}2h", content, 70, datatype, bitpix)
        struct.pack_into(f"{order}8f", content, 76, *[1] * 8)
        struct.pack_into(f"{order}f", content, 108, offset)
        content[344:348] = b"n+1\0"
    else:
        content = bytearray(540)
        struct.pack_into(f"{order}i8s2h", content, 0, 540, b"n+2\0\r\n\x1a\n", datatype, bitpix)
        struct.pack_into(f"{order}8q", content, 16, *[wrapped(length, 64) for length in shape])
        struct.pack_into(f"{order}8d", content, 104, *[1] * 8)
        struct.pack_into(f"{order}q", content, 168, offset)
    return bytes(content)


def wrapped(number, bits):
    """The number as a signed integer of this many bits."""
    return (number + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def factors(rng, count):
    """A shape of `count` voxels with one to seven axes, some of length 1."""
    shape = [1] * rng.randint(1, 7)
    divisor = 2
    while count > 1:
        while count % divisor:
            divisor += 1
        shape[rng.randrange(len(shape))] *= divisor
        count //= divisor
    return shape


def wrong_sizes(rng):
    """Dimensions, type and offset that agree with the file's length but not with its voxels, or differ by one
    voxel, or agree only after an overflow."""
    version, order, datatype = rng.choice([1, 2]), rng.choice("<>"), rng.choice(list(SIZES))
    size = SIZES[datatype]
    count = rng.choice([1, 2, 210, 1024, 6**4, 30_030, LONGEST, MOST_BYTES // size])
    shape = factors(rng, min(count, MOST_BYTES // size))
    if max(shape) > LONGEST or version == 1 and max(shape) > 32_767:
        shape = [8, *[5] * rng.randint(0, 4)]
    voxels = int(np.prod(shape))
    dimensions, bitpix = [len(shape), *shape], None
    first = {1: 352, 2: 544}[version]
    offset = first + 16 * rng.choice([0, 0, 0, 1, 100])
    surplus = 0
    kind = rng.randrange(9)
    if kind == 0:
        dimensions = [len(shape) - 1, *shape]
    elif kind == 1:
        dimensions = [*dimensions, *[rng.choice([0, -1, 3])] * (8 - len(dimensions))]
    elif kind == 2:
        # An odd length, and the length that gives the right product with it modulo 2⁶⁴ (2¹⁶).
        bits = 64 if version == 2 else 16
        odd = rng.randrange(3, 1 << (bits - 2), 2)
        dimensions = [2, odd, voxels * pow(odd, -1, 1 << bits) % (1 << bits)]
    elif kind == 3:
        surplus = rng.choice([-1, 1]) * size * rng.choice([1, shape[0], voxels])
    elif kind == 4:
        bitpix = rng.choice([1, 8, 16, 32, 64, 128])
    elif kind == 5:
        offset = rng.choice([0, 1, first - 1, first - 4, first + 1, first + 7])
    padding = bytes(max(0, offset - len(header(version, order, datatype, [1], 0))))
    content = header(version, order, datatype, dimensions, offset, bitpix) + padding
    filling = rng.randbytes(64) * (voxels * size // 64 + 1)
    return content + filling[: max(0, voxels * size + surplus)]


def extended(rng):
    """Chains of header extensions: some valid, some with wrong lengths."""
    order = rng.choice("<>")
    array = images.random_array(np.random.default_rng(rng.randrange(99)), (5, 4, 3), "int16")
    chain = b""
    for _ in range(rng.choice([1, 1, 2, 3, 400])):
        chain += images.extension(rng.choice([0, 2, 4, 6, 44, -1]), rng.randbytes(rng.randrange(60)), order)
    lying = bytearray(chain)
    kind = rng.randrange(7)
    if kind < 3:
        length = rng.choice([0, 4, 8, 12, 15, 17, 24, -16, len(chain) + 16, 2**31 - 16, -(2**31)])
        struct.pack_into(f"{order}i", lying, 0, length)
    elif kind == 3:
        del lying[len(lying) - rng.randrange(1, 16) :]
    elif kind == 4:
        lying += rng.randbytes(rng.randrange(1, 16))
    start = 352 + len(lying)
    offset = rng.choice([start, start, start, start - 8, start + 8, start + 16, 352])
    content = bytearray(images.image_bytes(array, images.header_for(array, order), bytes(lying), offset))
    if kind == 5:
        content[348:352] = rng.randbytes(4)
    return bytes(content)


def member(rng, content, fault=None):
    """A gzip member with rarely used fields. `fault` damages it in one place."""
    flags = rng.choice([0, 0, 4, 8, 16, 2, 4 | 8 | 16 | 2])
    head = b"\x1f\x8b\x08" + bytes([flags | (0xE0 if fault == "flags" else 0)]) + rng.randbytes(4) + b"\0\xff"
    if flags & 4:
        extra = rng.randbytes(rng.choice([0, 6, 300]))
        head += struct.pack("<H", len(extra) if fault != "extra" else 65535) + extra
    if flags & 8:
        head += b"name \xe9\x1b[0m.nii" + (b"\0" if fault != "name" else b"")
    if flags & 16:
        head += b"a comment" * 20 + b"\0"
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF ^ (fault == "head"))
    level = rng.choice([0, 1, 6, 9])
    strategy = rng.choice([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY])
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    body = b""
    for start in range(0, len(content), 1000):
        body += packer.compress(content[start : start + 1000])
        body += packer.flush(rng.choice([zlib.Z_NO_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]))
    body += packer.flush()
    crc = zlib.crc32(content) ^ (1 if fault == "crc" else 0)
    length = len(content) + (rng.choice([1, -1, 2**31]) if fault == "length" else 0)
    whole = head + body + struct.pack("<2I", crc, length % 2**32)
    return whole[: rng.randrange(len(whole))] if fault == "cut" else whole


FAULTS = ["flags", "extra", "name", "head", "crc", "length", "cut"]


def members(rng, content):
    """An image in several gzip members, sometimes with data behind them. In half of the files one member is
    damaged."""
    cuts = sorted(rng.randrange(len(content) + 1) for _ in range(rng.choice([0, 1, 3, 20])))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)])]
    broken = rng.randrange(2 * len(pieces))
    fault = rng.choice(FAULTS)
    packed = b"".join(member(rng, piece, fault if n == broken else None) for n, piece in enumerate(pieces))
    behind = [b"", b"", b"", bytes(512), rng.randbytes(20), b"\x1f", b"\x1f\x8b\x08\0", member(rng, b"")]
    return packed + rng.choice(behind)


def image(rng, kinds):
    """An image that looks valid: (kind, suffix, bytes)."""
    kind = rng.choice(["sizes", "extensions", "members"])
    if kind == "members":
        return kind, ".nii.gz", members(rng, rng.choice(kinds))
    content = wrong_sizes(rng) if kind == "sizes" else extended(rng)
    if rng.randrange(2):
        return kind, ".nii", content
    return kind, ".nii.gz", gzip.compress(content, 1)


# ---- texts


def hostile(rng, value):
    """Another value for a place in JSON, usually of the same type."""
    numbers = [0, -1, 1, 0.5, 2**31, 2**32 + 1, 2**63, 2**64, 10**30, -(2**63), 1e308, -1e308, 1e-320]
    texts = ["", "x" * 5000, "../../victim.nii.gz", "/", "..", "\0", "\u202e\x1b[31m", "1/0", "3/2", "0/0"]
    texts += ["1/4294967296", "niimpi-journal/1", "niimpi-journal/9", "NaN", "done", "failed", "\n"]
    others = [None, True, [], {}, [255, 47, 0], json.loads("[" * 100 + "]" * 100), {"a": {"b": [1]}}]
    if rng.randrange(4) == 0:
        return rng.choice([*numbers, *texts, *others])
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return rng.choice([*numbers, value + 1, value * 1000, -value])
    if isinstance(value, str):
        return rng.choice([*texts, value + "x", value[:-1], value.upper(), value * 40])
    return rng.choice(others)


def places(tree, found=None):
    """Every (container, key) of a JSON tree."""
    found = [] if found is None else found
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        found.append((tree, key))
        if isinstance(tree[key], (dict, list)):
            places(tree[key], found)
    return found


def mutate_json(text, rng):
    """The JSON text with some values replaced, keys removed, repeated or misspelt, or its end cut off."""
    tree = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 5])):
        spots = places(tree)
        if not spots:
            break
        container, key = rng.choice(spots)
        kind = rng.randrange(6)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container.extend([container[key]] * rng.choice([1, 100]))
        elif kind == 2 and isinstance(container, dict):
            container[key + "_"] = container.pop(key)
        else:
            container[key] = hostile(rng, container[key])
    text = json.dumps(tree, ensure_ascii=rng.randrange(2) == 0)
    kind = rng.randrange(12)
    if kind == 0:
        return text[: rng.randrange(len(text))]
    if kind == 1:
        # A key appears twice.
        return text.replace("{", '{"event":"end","schema":7,"unix_s":-1,', 1)
    return text


def mutate_journal(text, rng):
    """A journal with some lines changed, removed, repeated, reordered, cut off or mixed with noise."""
    lines = text.splitlines()
    for _ in range(rng.choice([1, 1, 2, 4])):
        if not lines:
            break
        at = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind < 4:
            try:
                lines[at] = mutate_json(lines[at], rng)
            except (ValueError, AttributeError, TypeError):
                pass
        elif kind == 4:
            del lines[at]
        elif kind == 5:
            lines[at:at] = [lines[at]] * rng.choice([1, 50])
        elif kind == 6:
            rng.shuffle(lines)
        else:
            noise = ["", "null", "[]", "{}", "\0" * 100, "x" * 100_000, '{"event":"close"}']
            lines[at:at] = [rng.choice(noise)]
    mutant = "\n".join(lines) + rng.choice(["\n", "\n", ""])
    content = mutant.encode(errors="surrogatepass")
    return content if rng.randrange(5) else content[: rng.randrange(len(content) + 1)]


def mutate_list(paths, rng):
    """A list of the paths in which some lines are wrong."""
    lines = [str(path).encode() for path in paths]
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(lines))
        line = lines[at]
        folder, _, name = line.rpartition(b"/")
        new = [
            b"", b" ", b"\r", line + b" ", b"\t" + line, line + b"\r", line[:-1], line.upper(), line * 30,
            b"\xef\xbb\xbf" + line, b"\xff\xfe" + line, b"#" + line, b'"' + line + b'"', line + b"\0",
            folder, folder + b"/./" + name, folder + b"/../in/" + name, folder + b"//" + name, b"~/" + name,
            folder + b"/.././" + name, folder + b"/\x1b[31m.nii", folder + b"/{index}.nii.gz", b"x" * 70_000,
            b"in/./" + name, b"./././" + name, line + b"/" + name, b"../victim.nii.gz", b".nii.gz", b"/",
            b"-", b"--sigma=9", b"/dev/zero", b"/proc/self/mem.nii",
        ]  # fmt: skip
        lines[at:at] = [rng.choice(new)] * rng.choice([1, 1, 1, 3])
        if rng.randrange(2):
            del lines[at + 1]
    return rng.choice([b"\n", b"\n", b"\r\n", b"\r"]).join(lines) + rng.choice([b"\n", b""])
