//! Patterns of names that a policy allows.

/// Whether `text` is what `pattern` describes. Linear: `*` never needs more than one way back.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let (first, last) = (parts.next().unwrap_or_default(), pattern.rsplit('*').next().unwrap_or_default());
    if !pattern.contains('*') {
        return pattern == text;
    }
    let Some(mut rest) = text.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
    let middle: Vec<_> = parts.collect();
    middle[..middle.len() - 1].iter().all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// Whether `text` is what one of `patterns` describes.
pub(crate) fn is_any(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, text))
}

/// Whether some text that begins with `start` is what `pattern` describes.
pub(crate) fn may_begin(pattern: &str, start: &str) -> bool {
    let pattern = pattern.as_bytes();
    // Which places in the pattern the text so far can have led to; a `*` may stay where it is, or be left.
    let leave = |places: &mut Vec<bool>| {
        for place in 0..pattern.len() {
            places[place + 1] |= places[place] && pattern[place] == b'*';
        }
    };
    let mut places = vec![false; pattern.len() + 1];
    places[0] = true;
    leave(&mut places);
    for byte in start.bytes() {
        let mut next = vec![false; pattern.len() + 1];
        for place in (0..pattern.len()).filter(|&place| places[place]) {
            match pattern[place] {
                b'*' => next[place] = true,
                expected => next[place + 1] |= expected == byte,
            }
        }
        leave(&mut next);
        places = next;
    }
    places.contains(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_the_rest_can_still_fulfil_may_begin_so() {
        for (pattern, start, expected) in [
            ("*", "docker.io/a:", true),
            ("docker.io/team/*", "docker.io/team/app:", true),
            ("docker.io/team/*", "docker.io/teams/app:", false),
            ("docker.io/team/app:1", "docker.io/team/app:", true),
            ("docker.io/team/app:1", "docker.io/team/app", true),
            ("docker.io/team/app", "docker.io/team/app:", false),
            ("docker.io/team/app/more:1", "docker.io/team/app:", false),
            ("*:ci", "docker.io/library/x:", true),
            ("a*b*c", "a-b-", true),
            ("a*b*c", "b", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(may_begin(pattern, start), expected, "{pattern} {start}");
        }
    }

    #[test]
    fn patterns_cover_the_whole_name() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "anything/at:all", true),
            ("docker.io/team/*", "docker.io/team/app:1", true),
            ("docker.io/team/*", "docker.io/teams/app:1", false),
            ("*:ci", "docker.io/library/x:ci", true),
            ("*:ci", "docker.io/library/x:ci2", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
            ("a**a", "aa", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
