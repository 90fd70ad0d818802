//! The names of members.

/// What the names of whiteouts begin with (image-spec `layer.md`, "Whiteouts").
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The whiteout that hides what the layers below have in its folder.
pub(crate) const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";

/// A header's text: the bytes up to the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Go's `path.Clean`, which containerd's importer applies to names (containerd `core/images/archive/importer.go`).
pub(crate) fn clean(name: &[u8]) -> Vec<u8> {
    let rooted = name.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let mut cleaned = if rooted { b"/".to_vec() } else { Vec::new() };
    cleaned.extend(parts.join(&b'/'));
    if cleaned.is_empty() { b".".to_vec() } else { cleaned }
}
