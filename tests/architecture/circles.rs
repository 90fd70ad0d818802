//! Files that import each other in a circle: whoever opens one of them has to understand all of them at once.
//!
//! A name counts for the file that defines it, however many `pub use` lead there. Two things do not count: what only tests
//! have, and what a module takes from those that it is inside of. Such a module is part of theirs, and a parent has what its
//! children share.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::module;
use crate::paths::{self, Found};

/// The imports of one file.
struct File<'a> {
    name: &'a str,
    found: Vec<Found>,
}

type Modules<'a> = BTreeMap<Vec<String>, File<'a>>;
/// For each file those that it takes names from, and the names.
type Arrows<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeSet<String>>>;

/// The circles among `files`, each its name below `src` and its text: a line for each import that is part of one.
fn of(files: &[(String, String)]) -> Vec<String> {
    let mut modules = Modules::new();
    let mut only_tests = BTreeSet::new();
    for (name, text) in files {
        let path = module(name);
        let (tokens, tests) = without_tests(paths::tokens(text));
        only_tests.extend(tests.into_iter().map(|test| [path.as_slice(), &[test]].concat()));
        modules.insert(path.clone(), File { name, found: paths::read(&path, &tokens) });
    }
    modules.retain(|path, _| !(1..=path.len()).any(|end| only_tests.contains(&path[..end])));
    let arrows = arrows(&modules);
    let reached: BTreeMap<&str, BTreeSet<&str>> = arrows.keys().map(|file| (*file, reached(&arrows, file))).collect();
    let back = |from: &str, to: &str| reached.get(to).is_some_and(|reached| reached.contains(from));
    arrows
        .iter()
        .flat_map(|(from, to)| to.iter().map(move |(to, names)| (*from, *to, names)))
        .filter(|(from, to, _)| back(from, to))
        .map(|(from, to, names)| {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            format!("src/{from} takes {} of src/{to}, which stands on it in turn", names.join(", "))
        })
        .collect()
}

fn arrows<'a>(modules: &Modules<'a>) -> Arrows<'a> {
    let mut arrows = Arrows::new();
    for (module, file) in modules {
        let arrows = arrows.entry(file.name).or_default();
        for found in &file.found {
            if let Some((definer, name)) = whole(modules, module, found).and_then(|path| resolve(modules, &path, 0))
                && !module.starts_with(definer)
            {
                arrows.entry(modules[definer].name).or_default().insert(name);
            }
        }
    }
    arrows
}

/// The path of `found` from the root of the library, if it leads to something of the library.
fn whole(modules: &Modules, module: &[String], found: &Found) -> Option<Vec<String>> {
    absolute(modules, module, &found.path).or_else(|| {
        let (first, rest) = found.path.split_first().filter(|_| !found.imported)?;
        let import = modules[module].found.iter().find(|import| import.imported && import.name() == Some(first))?;
        Some([absolute(modules, module, &import.path)?.as_slice(), rest].concat())
    })
}

/// `path` from the root of the library if it is written from there, or from a child of `module`.
fn absolute(modules: &Modules, module: &[String], path: &[String]) -> Option<Vec<String>> {
    let first = path.first()?;
    if first == "crate" {
        return Some(path[1..].to_vec());
    }
    let child = [module, std::slice::from_ref(first)].concat();
    modules.contains_key(&child).then(|| [module, path].concat())
}

/// The module that defines what `path` leads to, and the name of it there. None for a module itself: what is taken from it
/// is named elsewhere.
fn resolve<'a>(modules: &'a Modules, path: &[String], depth: usize) -> Option<(&'a [String], String)> {
    assert!(depth < 16, "{path:?} is imported from one module to the next without an end");
    let (end, definer) =
        (0..=path.len()).rev().find_map(|end| Some((end, modules.get_key_value(&path[..end])?.0.as_slice())))?;
    let (module, rest) = (&path[..end], &path[end..]);
    let passed_on = |module: &[String], name: &String| {
        let imports = modules.get(module)?.found.iter().filter(|found| found.imported);
        imports.filter(|found| found.name() == Some(name)).find_map(|found| absolute(modules, module, &found.path))
    };
    let Some(name) = rest.first() else {
        // A function is often named for its module.
        let (name, parent) = module.split_last()?;
        return passed_on(parent, name)
            .filter(|whole| *whole != path)
            .and_then(|whole| resolve(modules, &whole, depth + 1));
    };
    match passed_on(module, name) {
        Some(whole) => resolve(modules, &[whole.as_slice(), &rest[1..]].concat(), depth + 1),
        None => Some((definer, name.clone())),
    }
}

fn reached<'a>(arrows: &Arrows<'a>, from: &'a str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(file) = next.pop() {
        next.extend(arrows.get(file).into_iter().flat_map(|to| to.keys()).filter(|to| reached.insert(**to)));
    }
    reached
}

/// The tokens without items that only tests (or fuzz targets) have, and the child modules that are such items.
fn without_tests(tokens: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token == text);
    let mut at = 0;
    while at < tokens.len() {
        if is(at, "#") && is(at + 1, "[") && is(at + 2, "cfg") {
            let end = (at..tokens.len()).find(|at| is(*at, "]")).unwrap_or(tokens.len());
            if tokens[at..end].iter().any(|token| token == "test" || token == "fuzzing") {
                let item = end + 1;
                at = item_end(&tokens, item);
                if let Some(module) = (item..at).find(|at| is(*at, "mod")).filter(|_| is(at - 1, ";")) {
                    modules.push(tokens[module + 1].clone());
                }
                continue;
            }
        }
        kept.push(tokens[at].clone());
        at += 1;
    }
    (kept, modules)
}

/// Where the item that begins at `at` ends: behind its `;`, or behind its braces.
fn item_end(tokens: &[String], mut at: usize) -> usize {
    let mut depth = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth -= 1;
                if depth == 0 && token == "}" {
                    return at;
                }
            }
            ";" if depth == 0 => return at,
            _ => {}
        }
    }
    at
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<_> = crate::sources(&src)
        .iter()
        .map(|file| (file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), fs::read_to_string(file).unwrap()))
        .collect();
    let circles = of(&files);
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found_through_reexports_and_inside_paths() {
    let root = ("lib.rs", "mod a; mod b; mod c;");
    let cases: [(&[(&str, &str)], usize); 7] = [
        // From one to the next and back; the third only looks on.
        (
            &[
                ("a.rs", "use crate::b::B; struct A;"),
                ("b.rs", "use crate::a::A; struct B;"),
                ("c.rs", "use crate::a::A;"),
            ],
            2,
        ),
        (
            &[
                ("a.rs", "use crate::b; struct A(b::B);"),
                ("b.rs", "use crate::c::C;"),
                ("c.rs", "fn f(_: crate::a::A) {}"),
            ],
            3,
        ),
        // Through the parent that passes names on, renamed.
        (
            &[
                ("a/mod.rs", "mod x; mod y; pub use x::{X as Named, other}; pub use self::y::Y;"),
                ("a/x.rs", "use super::Y; pub struct X;"),
                ("a/y.rs", "use super::Named; pub struct Y;"),
            ],
            2,
        ),
        // A function that has its module's name.
        (
            &[
                ("a/mod.rs", "mod x; mod y; use x::x;"),
                ("a/x.rs", "pub fn x() { super::y::y() }"),
                ("a/y.rs", "pub fn y() { super::x() }"),
            ],
            2,
        ),
        // A parent has what its children share.
        (&[("a/mod.rs", "mod x; use x::X; struct Shared;"), ("a/x.rs", "use super::Shared; pub struct X;")], 0),
        // Only tests look back.
        (
            &[
                ("a.rs", "use crate::b::B; pub struct A;"),
                ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }"),
            ],
            0,
        ),
        (
            &[
                ("a.rs", "use crate::b::B; pub struct A;"),
                ("b/mod.rs", "pub struct B; #[cfg(any(test, fuzzing))] pub(crate) mod fuzz;"),
                ("b/fuzz.rs", "use crate::a::A; pub struct F;"),
                ("c.rs", "use crate::b::B; // crate::a"),
            ],
            0,
        ),
    ];
    for (files, expected) in cases {
        let files = files.iter().chain([&root]).map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let found = of(&files.collect::<Vec<_>>());
        assert_eq!(found.len(), expected, "{found:#?}");
    }
}
