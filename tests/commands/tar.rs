//! Archives that no tool would write.

/// A tar archive, member by member.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let size = content.as_ref().len();
        self.member(name, b'0', "", size, content)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.member(name, b'2', target, 0, "")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.member(name, b'1', target, 0, "")
    }

    /// A member whose header may say what is not so.
    pub(crate) fn member(mut self, name: &str, kind: u8, link: &str, size: usize, content: impl AsRef<[u8]>) -> Self {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(content.as_ref());
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// With the zeros at its end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
