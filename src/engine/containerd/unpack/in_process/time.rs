//! Times of entries.

/// Nanoseconds since 1970.
pub(super) type Nanos = i128;

/// Times of so many seconds are not representable in Go either.
pub(super) const SECONDS: i64 = 1 << 55;

/// A time as containerd sets it (`pkg/archive/time.go`, `boundTime`).
pub(super) fn bound(time: Nanos) -> u64 {
    i64::try_from(time).ok().and_then(|time| u64::try_from(time).ok()).unwrap_or(0)
}
