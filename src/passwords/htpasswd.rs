//! Password files, as `htpasswd -B` writes them: one `NAME:HASH` a line.

use std::collections::BTreeMap;
use std::path::Path;

use bcrypt::HashParts;

use crate::plain_file;

/// The largest file, and the most users.
const MAX_BYTES: u64 = 1 << 20;
const MAX_USERS: usize = 10_000;
/// The longest name, in bytes: names become parts of labels and records.
const MAX_NAME: usize = 255;
/// The costs that are accepted: the last one takes about a second for a check.
const COSTS: std::ops::RangeInclusive<u32> = 4..=14;
/// What is checked where there are no users: a hash of random bytes that were not kept.
const NOBODYS: &str = "$2y$10$1mt60jmoiram4zkl9zahpOewZZwge0GWUhQiQaUpQBgVsRHRq1y2C";

/// The users of a file, with their hashes.
#[derive(Debug, Default)]
pub(super) struct Users(BTreeMap<String, String>);

/// Reads a password file. An error is the reason, and has no hash.
pub(super) fn read(path: &Path) -> Result<Users, String> {
    let bytes = plain_file::read(path, MAX_BYTES).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "it is no UTF-8".to_owned())?;
    // Editors of other systems begin files so.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.trim().is_empty() {
        // As it is while it is written anew, or when that failed.
        return Err("it is empty; expected users, or a line such as `# nobody` if there are to be none".to_owned());
    }
    let mut users = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).map(|(number, line)| (number, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, hash) = user(line).map_err(|reason| format!("line {number} {reason}"))?;
        if users.insert(name.to_owned(), hash.to_owned()).is_some() {
            return Err(format!("line {number} has a user for the second time: `{name}`"));
        }
        if users.len() > MAX_USERS {
            return Err(format!("it has more than {MAX_USERS} users"));
        }
    }
    Ok(Users(users))
}

fn user(line: &str) -> Result<(&str, &str), String> {
    const EXPECTED: &str = "expected NAME:HASH, as `htpasswd -B` writes it";
    let (name, hash) = line.split_once(':').ok_or_else(|| format!("has no colon; {EXPECTED}"))?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(format!("has no usable name; expected at most {MAX_NAME} bytes of text"));
    }
    let is_bcrypt = ["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind)) && hash.len() == 60;
    let parts = hash.parse::<HashParts>().ok().filter(|_| is_bcrypt);
    let parts = parts.ok_or_else(|| format!("has no bcrypt hash for `{name}`; {EXPECTED}"))?;
    match parts.get_cost() {
        cost if COSTS.contains(&cost) => Ok((name, hash)),
        cost => Err(format!(
            "has a hash of the cost {cost} for `{name}`; expected {} to {}, as with `htpasswd -B -C 10`",
            COSTS.start(),
            COSTS.end()
        )),
    }
}

impl Users {
    /// The hash to check a password of `name` against, and whether that is the user's: for others it is that of a user whom
    /// `hashed` chooses, always the same, so that it takes as long.
    pub(super) fn hash_of(&self, name: &str, hashed: impl Fn(&[u8]) -> [u8; 32]) -> (&str, bool) {
        if let Some(hash) = self.0.get(name) {
            return (hash, true);
        }
        let [one, two, three, four, ..] = hashed(name.as_bytes());
        let number = u32::from_le_bytes([one, two, three, four]) as usize;
        let chosen = number.checked_rem(self.0.len()).and_then(|number| self.0.values().nth(number));
        (chosen.map_or(NOBODYS, String::as_str), false)
    }
}
