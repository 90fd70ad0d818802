//! `traceparent` as it is sent to us (W3C Trace Context, sections 3.2 and 4.3).

/// The length of version 00, and of the first four fields of any.
const LENGTH: usize = 55;

/// What is passed on of `text`: its first four fields, in the version that we know. `None` if it is invalid.
pub(super) fn known(text: &str) -> Option<String> {
    let text = text.trim_matches([' ', '\t']);
    let (fields, rest) = (text.get(..LENGTH)?, &text[LENGTH..]);
    let parts = fields.split('-').collect::<Vec<_>>();
    let &[version, trace, parent, flags] = &parts[..] else { return None };
    let is_hex =
        |part: &str, length| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |part: &str, length| is_hex(part, length) && part.bytes().any(|byte| byte != b'0');
    // Later versions may have more fields.
    let is_whole = rest.is_empty() || (version != "00" && rest.starts_with('-'));
    let is_valid = is_hex(version, 2) && version != "ff" && is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2);
    // Of the flags only `sampled` has a meaning.
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1;
    (is_valid && is_whole).then(|| format!("00-{trace}-{parent}-{is_sampled:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_as_the_specification_says() {
        const IDS: &str = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        for (given, flags) in [
            (format!("00-{IDS}-01"), "01"),
            (format!(" 00-{IDS}-00 "), "00"),
            (format!("00-{IDS}-03"), "01"),
            (format!("01-{IDS}-02"), "00"),
            (format!("cc-{IDS}-01-what-the-future-brings"), "01"),
            (format!("fe-{IDS}-01-"), "01"),
        ] {
            assert_eq!(known(&given), Some(format!("00-{IDS}-{flags}")), "{given}");
        }
        for wrong in [
            String::new(),
            "00".to_owned(),
            format!("00-{IDS}"),
            format!("00-{IDS}-1"),
            format!("00-{IDS}-01-"),
            format!("00-{IDS}-01-more"),
            format!("cc-{IDS}-01more"),
            format!("ff-{IDS}-01"),
            format!("ff-{IDS}-01-more"),
            format!("+0-{IDS}-01"),
            format!("0-{IDS}-01"),
            format!("00-{IDS}-+1"),
            format!("00-{}-01", IDS.to_uppercase()),
            format!("0A-{IDS}-01"),
            format!("00-{IDS}-0A"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01".to_owned(),
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01".to_owned(),
            format!("00-{}-01", "é".repeat(25)),
        ] {
            assert_eq!(known(&wrong), None, "{wrong}");
        }
    }
}
