//! Wraps text. Words are never split, and neither are commands in backticks: half of one that is pasted would run.

/// `text` in lines of at most `width` columns. A command that is longer than that has lines of its own, as [`command`] makes
/// them.
pub(crate) fn words(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for unit in units(text) {
        let length = unit.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + length <= width => {
                line.push(' ');
                line.push_str(&unit);
            }
            _ => lines.extend(command(&unit, width)),
        }
    }
    lines
}

/// The words of a text, what is between two backticks as one.
fn units(text: &str) -> Vec<String> {
    let mut units: Vec<String> = Vec::new();
    let mut open: Option<String> = None;
    for word in text.split_whitespace() {
        let unit = match open.take() {
            Some(begun) => format!("{begun} {word}"),
            None => word.to_owned(),
        };
        if unit.matches('`').count() % 2 == 0 { units.push(unit) } else { open = Some(unit) }
    }
    // One that is never closed is no command.
    units.extend(open.iter().flat_map(|rest| rest.split_whitespace()).map(str::to_owned));
    units
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
    fn a_command_in_a_text_is_on_one_line_or_continued_as_a_shell_takes_it() {
        assert_eq!(words("start it: `linkspan serve` again", 25), ["start it:", "`linkspan serve` again"]);
        let lines = words("start (`linkspan serve --group docker`), or `x y` it", 22);
        assert_eq!(lines, ["start", "(`linkspan serve \\", "  --group docker`), or", "`x y` it"]);
        assert_eq!(words("one ` two three", 7), ["one `", "two", "three"], "it is no command");
    }

    #[test]
    fn a_command_stays_one() {
        assert_eq!(command("a b", 3), ["a b"]);
        let lines = command("docker buildx build --builder direct -o type=x .", 26);
        assert_eq!(lines, ["docker buildx build \\", "  --builder direct \\", "  -o type=x ."]);
    }
}
