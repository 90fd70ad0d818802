//! Files that users name: certificates, keys, passwords, configurations.
//!
//! A name may be that of anything: a pipe would be waited for, perhaps for ever, and a device has no end. So only regular files
//! are read, up to a limit.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, stat};

/// Opens without waiting for anybody, and without becoming a terminal's process.
const OPENING: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Reads the regular file at `path`, up to `limit` bytes. `/dev/null` counts as an empty one.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Before it is opened: opening can already do something to a device, and sockets cannot be opened.
    let found = stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == null_device()? {
        return Ok(Vec::new());
    }
    check(&found)?;
    read_opened(openat(CWD, path, OPENING, Mode::empty())?, limit)
}

/// Refuses what another library would wait for, or read without an end, if it is there.
pub(crate) fn check_if_there(path: &Path) -> io::Result<()> {
    match stat(path) {
        Ok(found) => check(&found),
        // Who reads it says so.
        Err(_) => Ok(()),
    }
}

/// The same as [`read`], as text.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let no_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8");
    String::from_utf8(read(path, limit)?).map_err(no_text)
}

/// Reads an open file, which was opened without waiting, if it is a regular one.
pub(crate) fn read_opened(file: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    check(&fstat(&file)?)?;
    let mut bytes = Vec::new();
    File::from(file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Refuses what is no regular file.
pub(crate) fn check(found: &Stat) -> io::Result<()> {
    let what = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a folder",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}; expected a regular file")))
}

fn null_device() -> io::Result<u64> {
    Ok(stat("/dev/null")?.st_rdev)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_small_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert_eq!(read(&file, 4).unwrap_err().to_string(), "it has more than 4 bytes");
        std::fs::write(&file, b"\xff").unwrap();
        assert!(read_text(&file, 5).unwrap_err().to_string().contains("UTF-8"));
        assert_eq!(read(&folder.path().join("absent"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn nothing_but_a_regular_file_is_read_or_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        rustix::fs::mknodat(CWD, place("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _listener = UnixListener::bind(place("socket")).unwrap();
        std::os::unix::fs::symlink("pipe", place("link")).unwrap();
        for (path, what) in [
            (place("pipe"), "a pipe"),
            (place("link"), "a pipe"),
            (place("socket"), "a socket"),
            (folder.path().to_owned(), "a folder"),
            ("/dev/zero".into(), "a device"),
        ] {
            let error = read(&path, 5).unwrap_err();
            assert_eq!(error.to_string(), format!("it is {what}; expected a regular file"), "{}", path.display());
        }
        assert_eq!(read(Path::new("/dev/null"), 5).unwrap(), b"");
        check_if_there(&place("absent")).unwrap();
        assert!(check_if_there(&place("link")).unwrap_err().to_string().starts_with("it is a pipe"));
    }
}
