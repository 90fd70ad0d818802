//! Wraps text. Words are never split.

/// `text` in lines of at most `width` columns.
pub(crate) fn words(text: &str, width: usize) -> Vec<String> {
    fill(text.split_whitespace().map(str::to_owned), width, "")
}

/// A command in lines of at most `width` columns, continued with backslashes.
pub(super) fn command(text: &str, width: usize) -> Vec<String> {
    if text.chars().count() <= width {
        return vec![text.to_owned()];
    }
    // A flag and its value stay together.
    let mut units: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match units.last_mut() {
            Some(flag) if flag.starts_with('-') && !flag.contains([' ', '=']) && !word.starts_with('-') => {
                flag.push(' ');
                flag.push_str(word);
            }
            _ => units.push(word.to_owned()),
        }
    }
    let mut lines = fill(units.into_iter(), width.saturating_sub(2), "  ");
    if let Some((_, others)) = lines.split_last_mut() {
        others.iter_mut().for_each(|line| line.push_str(" \\"));
    }
    lines
}

/// Fills lines; all but the first begin with `indent`.
fn fill(words: impl Iterator<Item = String>, width: usize, indent: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            Some(_) => lines.push(format!("{indent}{word}")),
            None => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole() {
        assert_eq!(words("one two three", 7), ["one two", "three"]);
        assert_eq!(words("one unix:///long/address two", 7), ["one", "unix:///long/address", "two"]);
        assert_eq!(words("", 7), Vec::<String>::new());
    }

    #[test]
    fn a_command_stays_one() {
        assert_eq!(command("a b", 3), ["a b"]);
        let lines = command("docker buildx build --builder direct -o type=x .", 26);
        assert_eq!(lines, ["docker buildx build \\", "  --builder direct \\", "  -o type=x ."]);
    }
}
