//! Finding paths in Rust sources: enough of a parser for import rules, and no more.
//!
//! Attributes and macros are read like any other code. What a macro makes out of pieces is not seen.

use std::collections::HashMap;

/// A path as a source has it, with `crate`, `self` and `super` at its start already replaced.
pub(crate) struct Found {
    /// Its last part is `*` where everything below it is imported.
    pub(crate) path: Vec<String>,
    /// The name that `as` gives it.
    renamed: Option<String>,
    /// Whether a `use` has it.
    pub(crate) imported: bool,
}

impl Found {
    /// What the source calls the path's end from then on.
    pub(crate) fn name(&self) -> Option<&String> {
        self.renamed.as_ref().or_else(|| self.path.last())
    }
}

/// Every path in the source `text` of `module`, complete from its root: `crate::a::b`, or a crate's name first.
pub(crate) fn of(module: &[String], text: &str) -> Vec<String> {
    let found = read(module, &tokens(text));
    // `use crate::engine; engine::docker::X` names the engine as much as the whole path does.
    let imported: HashMap<&String, &Vec<String>> = found
        .iter()
        .filter(|found| found.path.len() > 1)
        .filter_map(|found| Some((found.name()?, &found.path)))
        .collect();
    let expand = |path: &Vec<String>| match imported.get(&path[0]) {
        Some(whole) if path.len() > 1 && path[0] != "crate" => [whole.as_slice(), &path[1..]].concat(),
        _ => path.clone(),
    };
    found.iter().map(|found| expand(&found.path)).filter(|path| path.len() > 1).map(|path| path.join("::")).collect()
}

/// The paths among `tokens`, which are those of `module`.
pub(crate) fn read(module: &[String], tokens: &[String]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut module = module.to_vec();
    // For each open brace whether it is that of an inline module.
    let mut braces = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "mod" if tokens.get(at + 2).is_some_and(|brace| brace == "{") => {
                module.push(tokens[at + 1].clone());
                braces.push(true);
                at += 3;
                continue;
            }
            "{" => braces.push(false),
            "}" if braces.pop() == Some(true) => {
                module.pop();
            }
            word if is_word(word) => {
                let imported =
                    at.checked_sub(1).and_then(|before| tokens.get(before)).is_some_and(|word| word == "use");
                let from = found.len();
                at = tree(&module, tokens, at, &[], &mut found);
                found[from..].iter_mut().for_each(|found| found.imported = imported);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads the path or tree of paths at `at`, which begins below `prefix`, and returns where it ends.
fn tree(module: &[String], tokens: &[String], mut at: usize, prefix: &[String], found: &mut Vec<Found>) -> usize {
    let mut path = prefix.to_vec();
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token == text);
    while let Some(word) = tokens.get(at).filter(|token| is_word(token)) {
        match word.as_str() {
            "crate" | "linkspan" if path.is_empty() => path.push("crate".to_owned()),
            "self" if path.is_empty() => path = [&["crate".to_owned()], module].concat(),
            "self" => {}
            "super" if path.is_empty() => {
                path = [&["crate".to_owned()], &module[..module.len().saturating_sub(1)]].concat()
            }
            "super" => drop(path.pop()),
            name => path.push(name.to_owned()),
        }
        at += 1;
        if !is(at, "::") {
            break;
        }
        at += 1;
        if is(at, "{") {
            at += 1;
            while at < tokens.len() && !is(at, "}") {
                at = if tokens.get(at).is_some_and(|token| is_word(token) || token == "*") {
                    tree(module, tokens, at, &path, found)
                } else {
                    at + 1
                };
            }
            return at + 1;
        }
    }
    if is(at, "*") && ["::", "{", ","].contains(&tokens[at - 1].as_str()) {
        path.push("*".to_owned());
        at += 1;
    }
    let renamed = (is(at, "as")).then(|| tokens.get(at + 1).cloned()).flatten();
    found.push(Found { path, renamed, imported: false });
    at
}

fn is_word(token: &str) -> bool {
    token != "as" && token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The source as words, `::` and single signs, without comments, strings and characters.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest),
            '"' => string(rest),
            'r' if rest.trim_start_matches('r').trim_start_matches('#').starts_with('"') => raw_string(rest),
            // A character, as against a lifetime.
            '\'' if rest.starts_with("'\\") => 2 + rest[3..].find('\'').map_or(rest.len() - 3, |end| end + 2),
            '\'' if rest.chars().nth(2) == Some('\'') => rest.char_indices().nth(3).map_or(rest.len(), |(end, _)| end),
            first if first.is_alphanumeric() || first == '_' => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                tokens.push(rest[..length].to_owned());
                length
            }
            ':' if rest.starts_with("::") => {
                tokens.push("::".to_owned());
                2
            }
            other => {
                if !other.is_whitespace() {
                    tokens.push(other.to_string());
                }
                other.len_utf8()
            }
        };
        rest = &rest[length.min(rest.len())..];
    }
    tokens
}

/// The length of a comment, which may hold others.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

fn raw_string(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let end = format!("\"{}", "#".repeat(hashes));
    let start = 2 + hashes;
    text.get(start..).and_then(|rest| rest.find(&end)).map_or(text.len(), |at| start + at + end.len())
}
