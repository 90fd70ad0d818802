//! The report as text.

use std::fmt::{self, Write as _};

use super::report::{Check, Mark, Remedy, Report};
use super::wrap;

/// Width and colours of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextStyle {
    /// Columns per line.
    pub width: usize,
    /// Whether to use colours.
    pub colour: bool,
}

impl Default for TextStyle {
    fn default() -> Self {
        Self { width: 80, colour: false }
    }
}

/// The smallest width of a line, on however narrow a terminal.
const LEAST: usize = 24;

impl TextStyle {
    /// The text of a report.
    pub fn write(&self, report: &Report) -> String {
        let mut text = String::new();
        let about = report.checks.iter().map(|check| check.about.len()).max().unwrap_or(0);
        for check in &report.checks {
            self.check(check, about, &mut text);
        }
        if !report.checks.is_empty() {
            text.push('\n');
        }
        for line in wrap::words(&report.conclusion, self.width) {
            text.push_str(&line);
            text.push('\n');
        }
        for command in &report.commands {
            for line in wrap::command(command, self.room(2)) {
                self.line(&mut text, 2, &line);
            }
        }
        text.truncate(text.trim_end().len());
        text
    }

    fn check(&self, check: &Check, about: usize, text: &mut String) {
        let indent = 4 + 2 + about + 2;
        let mut lines = wrap::words(&check.found, self.room(indent)).into_iter();
        let mark = self.mark(check.mark);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{mark}  {:about$}  {}", check.about, lines.next().unwrap_or_default());
        lines.for_each(|line| self.line(text, indent, &line));
        let lead = if check.mark == Mark::Note { "" } else { "hint: " };
        match &check.remedy {
            Some(Remedy::Words(words)) => {
                let lines = wrap::words(&format!("{lead}{words}"), self.room(indent));
                lines.iter().for_each(|line| self.line(text, indent, line));
            }
            Some(Remedy::Commands(commands)) => {
                for (number, command) in commands.iter().enumerate() {
                    let lead = if number == 0 { lead } else { "and then: " };
                    // A command that does not fit gets a line of its own, so that it can be copied.
                    if lead.len() + command.len() <= self.room(indent) {
                        self.line(text, indent, &format!("{lead}{command}"));
                        continue;
                    }
                    if !lead.is_empty() {
                        self.line(text, indent, lead.trim_end());
                    }
                    let inset = indent + if lead.is_empty() { 0 } else { 2 };
                    wrap::command(command, self.room(inset)).iter().for_each(|line| self.line(text, inset, line));
                }
            }
            None => {}
        }
    }

    fn line(&self, text: &mut String, indent: usize, line: &str) {
        let _ = writeln!(text, "{:indent$}{line}", "");
    }

    fn room(&self, indent: usize) -> usize {
        self.width.saturating_sub(indent).max(LEAST)
    }

    /// The mark, four columns wide.
    fn mark(&self, mark: Mark) -> String {
        let (word, colour) = match mark {
            Mark::Ok => ("ok  ", "32"),
            Mark::Slow => ("slow", "33"),
            Mark::Fail => ("fail", "1;31"),
            Mark::Note => ("note", "36"),
        };
        if self.colour { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.to_owned() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&TextStyle::default().write(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let check = |mark, found: &str, remedy| Check { about: "door", mark, found: found.to_owned(), remedy };
        let words = "choose another address for it with a flag that is made for that, or stop what is there now";
        let commands = [
            "linkspan setup buildx b",
            "docker buildx create --name direct --driver remote unix:///run/linkspan/buildkit.sock",
        ];
        Report {
            checks: vec![
                check(Mark::Ok, "short", None),
                check(Mark::Fail, &"many words ".repeat(12), Some(Remedy::Words(words.to_owned()))),
                check(Mark::Slow, "x", Some(Remedy::Commands(commands.map(str::to_owned).to_vec()))),
            ],
            conclusion: "A direct export cannot work.".to_owned(),
            commands: vec![commands[1].to_owned()],
            ..Report::default()
        }
    }

    #[test]
    fn no_line_is_longer_than_the_width() {
        for width in [60, 80, 100] {
            let text = TextStyle { width, colour: false }.write(&report());
            for line in text.lines() {
                assert!(line.len() <= width, "{width}: {line}");
            }
        }
        let text = TextStyle::default().write(&report());
        assert_eq!(
            text,
            "\
ok    door  short
fail  door  many words many words many words many words many words many words
            many words many words many words many words many words many words
            hint: choose another address for it with a flag that is made for
            that, or stop what is there now
slow  door  x
            hint: linkspan setup buildx b
            and then:
              docker buildx create --name direct --driver remote \\
                unix:///run/linkspan/buildkit.sock

A direct export cannot work.
  docker buildx create --name direct --driver remote \\
    unix:///run/linkspan/buildkit.sock"
        );
    }

    #[test]
    fn colour_is_for_the_mark_alone_and_takes_no_room() {
        let plain = TextStyle::default().write(&report());
        let coloured = TextStyle { colour: true, ..TextStyle::default() }.write(&report());
        assert!(coloured.starts_with("\u{1b}[32mok  \u{1b}[0m  door  short"), "{coloured}");
        let mut stripped = coloured;
        for code in ["\u{1b}[32m", "\u{1b}[33m", "\u{1b}[1;31m", "\u{1b}[0m"] {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, plain);
    }
}
