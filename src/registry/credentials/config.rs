//! docker's configuration file, as far as credentials are in it (docker/cli `cli/config/configfile/file.go`).

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

/// The part of the file that matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    #[serde(default)]
    auths: Option<HashMap<String, Entry>>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: Option<HashMap<String, String>>,
}

/// What the file has of one server.
#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

/// Where the credentials of a server are.
#[derive(PartialEq, Eq)]
pub(super) enum Found {
    /// Here they are.
    Password { user: String, password: String },
    /// It is a token that stands for a login.
    IdentityToken,
    /// A program has them, which the file names by `key`.
    Helper { name: String, key: &'static str },
    /// There are none.
    Nothing,
}

impl fmt::Debug for Found {
    // Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::IdentityToken => "IdentityToken",
            Self::Helper { .. } => "Helper",
            Self::Nothing => "Nothing",
        })
    }
}

impl Config {
    /// Reads the file. An error is the reason, and quotes nothing of the file.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text)
            .map_err(|error| format!("it is not as docker writes it: line {}, column {}", error.line(), error.column()))
    }

    /// Where the credentials for `server` are: where a program has them, the file's own are not looked at, not even where the
    /// program has none (docker/cli `getConfiguredCredentialStore`, and `Get` of `cli/config/credentials/native_store.go`).
    pub(super) fn find(&self, server: &str) -> Result<Found, String> {
        let is_given = |text: &&String| !text.is_empty();
        let own = self.cred_helpers.as_ref().and_then(|helpers| helpers.get(server));
        let (program, key) = match own {
            // One that is named by nothing says that this server's are in the file.
            Some(name) => (Some(name), "credHelpers"),
            None => (self.creds_store.as_ref(), "credsStore"),
        };
        if let Some(name) = program.filter(is_given) {
            return Ok(Found::Helper { name: name.clone(), key });
        }
        let Some(entry) = self.entry(server) else { return Ok(Found::Nothing) };
        if entry.identitytoken.as_ref().is_some_and(|token| !token.is_empty()) {
            return Ok(Found::IdentityToken);
        }
        if let Some(auth) = entry.auth.as_ref().filter(is_given) {
            let broken = || format!("`auth` for {server} is not USER:PASSWORD in base64");
            let (user, password) = decoded(auth).ok_or_else(broken)?;
            return Ok(Found::Password { user, password });
        }
        Ok(match (&entry.username, &entry.password) {
            (Some(user), Some(password)) => Found::Password { user: user.clone(), password: password.clone() },
            _ => Found::Nothing,
        })
    }

    /// The entry of `server`, or of another way to write it.
    fn entry(&self, server: &str) -> Option<&Entry> {
        let auths = self.auths.as_ref()?;
        let host = host(server);
        auths.get(server).or_else(|| auths.iter().find(|(key, _)| self::host(key) == host).map(|(_, entry)| entry))
    }
}

/// The host of a key, which may be a URL. Docker Hub has several.
fn host(key: &str) -> &str {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let host = bare.map_or(key, |bare| bare.split('/').next().unwrap_or(bare));
    match host {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        host => host,
    }
}

/// The user and the password in `auth`.
fn decoded(auth: &str) -> Option<(String, String)> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, config).decode(auth).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // As docker's client does: its older releases padded them.
    Some((user.to_owned(), password.trim_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, server: &str) -> Found {
        Config::parse(text.as_bytes()).unwrap().find(server).unwrap()
    }

    fn password(user: &str, password: &str) -> Found {
        Found::Password { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn a_helper_of_the_server_comes_first_and_the_file_last() {
        let text = r#"{
            "auths": {"a.test": {"auth": "dTpw"}, "https://b.test/v2/": {"username": "u", "password": "q"},
                "c.test": {}, "d.test": {"auth": "dTpw"}},
            "credHelpers": {"a.test": "own", "b.test": ""},
            "credsStore": "all"
        }"#;
        let helper = |name: &str, key| Found::Helper { name: name.to_owned(), key };
        assert!(find(text, "a.test") == helper("own", "credHelpers"));
        assert!(find(text, "b.test") == password("u", "q"), "no program is named for it");
        for server in ["c.test", "d.test", "e.test"] {
            assert!(find(text, server) == helper("all", "credsStore"), "{server}");
        }
        let alone = r#"{"auths": {"d.test": {"auth": "dTpw"}}, "credsStore": ""}"#;
        assert!(find(alone, "d.test") == password("u", "p"));
        assert!(find("{\"auths\": null, \"credHelpers\": null, \"other\": 7}", "c.test") == Found::Nothing);
    }

    #[test]
    fn passwords_are_those_that_docker_wrote() {
        let of = |auth: &str| find(&format!(r#"{{"auths": {{"a.test:1": {{"auth": "{auth}"}}}}}}"#), "a.test:1");
        for (auth, user, secret) in [
            ("dTpw", "u", "p"),
            ("dTpwcDo=", "u", "pp:"),
            ("dTpwcDo", "u", "pp:"),
            ("dTpwAAA=", "u", "p"),
            ("dTo=", "u", ""),
        ] {
            assert!(of(auth) == password(user, secret), "{auth}");
        }
        assert!(of("") == Found::Nothing);
        let hub = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}}"#;
        assert!(find(hub, "https://index.docker.io/v1/") == password("u", "p"));
        assert!(
            find(r#"{"auths": {"docker.io": {"auth": "dTpw"}}}"#, "https://index.docker.io/v1/") == password("u", "p")
        );
    }
}
