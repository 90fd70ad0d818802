//! The properties that the fuzz target `stdcopy` checks for any bytes.

use tokio::io::AsyncReadExt as _;

use super::Output;
use super::stdcopy::{HEADER, Header, Stream};

/// Standard output equals that of a simple reader, and headers are written as they were read.
pub fn frames(bytes: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let mut read = Vec::new();
    let outcome = runtime.block_on(Output::new(bytes, None).read_to_end(&mut read));
    let (mut expected, mut rest, mut is_broken) = (Vec::new(), bytes, false);
    while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
        let Ok(parsed) = Header::read(*header) else {
            is_broken = true;
            break;
        };
        assert_eq!(
            Header::read(parsed.write()).ok().map(|it| (it.stream, it.length)),
            Some((parsed.stream, parsed.length))
        );
        let (payload, after) = after.split_at(after.len().min(parsed.length as usize));
        match parsed.stream {
            Stream::Output => expected.extend_from_slice(payload),
            Stream::Error => {}
            Stream::System => {
                is_broken = payload.len() == parsed.length as usize;
                break;
            }
        }
        rest = after;
    }
    assert_eq!(read, expected);
    assert_eq!(outcome.is_err(), is_broken);
}
