//! Manual pages.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap::builder::{Resettable, StyledStr};

/// What a page is of, for its last line.
const SOURCE: &str = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
/// The section of what belongs to no other.
const NOTES: &str = "NOTES";

/// Writes the page of every command into `folder`.
pub(super) fn write(program: Command, folder: &Path) -> io::Result<()> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    write_with_subcommands(&program, folder)
}

fn write_with_subcommands(command: &Command, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_with_subcommands(below, folder)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    fs::write(folder.join(format!("{name}.1")), page(command)?)
}

/// The page of a command.
pub(super) fn page(command: &Command) -> io::Result<Vec<u8>> {
    let bare = command.clone().after_long_help(Resettable::Reset);
    let mut page = Vec::new();
    clap_mangen::Man::new(bare).source(SOURCE).render(&mut page)?;
    let text = command.get_after_long_help().map(StyledStr::to_string).unwrap_or_default();
    for (heading, body) in sections(&text) {
        page.extend(format!(".SH {}\n.nf\n{}.fi\n", quoted(&heading), roff(&body)).into_bytes());
    }
    Ok(page)
}

/// The sections of the text behind the options: a line that ends with a colon begins one, as does `Exit code:`.
fn sections(text: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        let (first, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        let headed = first.strip_suffix(':').filter(|heading| !heading.starts_with(' ') && !rest.is_empty());
        let (heading, body) = match (headed, paragraph.strip_prefix("Exit code: ")) {
            (Some(heading), _) => (heading.to_uppercase(), rest),
            (None, Some(body)) => ("EXIT STATUS".to_owned(), body),
            // Indented lines go on.
            (None, None) => match sections.last() {
                Some((heading, _)) if paragraph.starts_with(' ') => (heading.clone(), paragraph),
                _ => (NOTES.to_owned(), paragraph),
            },
        };
        match sections.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, known)) => *known = format!("{known}\n\n{body}"),
            None => sections.push((heading, body.to_owned())),
        }
    }
    sections
}

fn quoted(heading: &str) -> String {
    if heading.contains(' ') { format!("\"{heading}\"") } else { heading.to_owned() }
}

/// Lines of roff that print `text` as it is (groff_char(7)).
fn roff(text: &str) -> String {
    let mut page = String::new();
    for line in text.lines() {
        if line.starts_with(['.', '\'']) {
            page.push_str("\\&");
        }
        for letter in line.chars() {
            match letter {
                '\\' => page.push_str("\\e"),
                '-' => page.push_str("\\-"),
                '\'' => page.push_str("\\(aq"),
                '`' => page.push_str("\\(ga"),
                '^' => page.push_str("\\(ha"),
                '~' => page.push_str("\\(ti"),
                letter => page.push(letter),
            }
        }
        page.push('\n');
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_options_has_headings_of_its_own() {
        let text = "A note.\n\nExamples:\n  linkspan x 'a' \\\n    -q\n\n  linkspan y\n\nExit code: 0 or\n1.\n\nMore.";
        let section = |heading: &str, body: &str| (heading.to_owned(), body.to_owned());
        assert_eq!(
            sections(text),
            [
                section(NOTES, "A note.\n\nMore."),
                section("EXAMPLES", "  linkspan x 'a' \\\n    -q\n\n  linkspan y"),
                section("EXIT STATUS", "0 or\n1."),
            ]
        );
        assert_eq!(roff("  x 'a' \\\n.b -q"), "  x \\(aqa\\(aq \\e\n\\&.b \\-q\n");
    }
}
