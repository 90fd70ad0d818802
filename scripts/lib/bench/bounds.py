"""What this machine itself allows: one thread of each kind of work that a cold or a big load consists of."""

import hashlib
import os
import time
import zlib

MB = 1_000_000
HASHED = 1000 * MB
WRITTEN = 1000 * MB
FILES = 20_000
# So much of a compressed layer is inflated.
INFLATED = 300 * MB
CHUNK = 1 << 20


def bounds(bench, name):
    """Measured alone, before anything else runs."""
    bench.base()
    return {"case": name, "inflate_mb_s": round(inflate(bench) / MB, 1), "sha256_mb_s": round(sha256() / MB, 1),
            "creations_s": round(creations(bench), 1), "write_mb_s": round(write_through(bench) / MB, 1)}


def inflate(bench):
    """Bytes a second that come out of gzip (the C library's zlib), of a layer with real files."""
    done, started = 0, time.monotonic()
    with open(bench.layer(), "rb") as layer:
        stream = zlib.decompressobj(wbits=31)
        while done < INFLATED:
            chunk = layer.read(CHUNK)
            if not chunk:
                break
            done += len(stream.decompress(chunk))
    return done / (time.monotonic() - started)


def sha256():
    chunk, hashed = os.urandom(CHUNK), hashlib.sha256()
    started = time.monotonic()
    for _ in range(HASHED // CHUNK):
        hashed.update(chunk)
    hashed.digest()
    return HASHED / (time.monotonic() - started)


def creations(bench):
    """Files of one block each, a hundred in a folder. They stay to the end: where inodes were just deleted, the kernel makes
    new ones slowly."""
    folder, block = bench.folder("bounds-files"), b"x" * 4096
    started = time.monotonic()
    for number in range(FILES):
        if number % 100 == 0:
            parent = os.path.join(folder, str(number // 100))
            os.mkdir(parent)
        file = os.open(os.path.join(parent, str(number)), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(file, block)
        os.close(file)
    return FILES / (time.monotonic() - started)


def write_through(bench):
    """Until it is on the disk."""
    chunk, path = os.urandom(CHUNK), os.path.join(bench.work, "bounds-written")
    started = time.monotonic()
    with open(path, "wb", buffering=0) as file:
        for _ in range(WRITTEN // CHUNK):
            file.write(chunk)
        os.fsync(file.fileno())
    seconds = time.monotonic() - started
    os.unlink(path)
    return WRITTEN / seconds
