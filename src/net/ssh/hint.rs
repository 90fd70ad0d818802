//! What to do when a connection over ssh failed, by what ssh or the program there said.

use super::SshAddress;

/// What is said of a side that does not respond, by whoever waited, and what precedes it if that is `linkspan dial-stdio`.
const NO_RESPONSE: &str = "no response within";
const RELAY: &str = "cannot relay to";
/// What is said of a command that ended without a word.
const WORDLESS: &str = "and without a word of";

impl SshAddress {
    /// What to do when ssh, or `program` there, ended with `reason`.
    pub fn hint(&self, program: &str, reason: &str) -> String {
        let to = self.destination();
        let port = self.port.map_or_else(String::new, |port| format!("-p {port} "));
        let said = |words: &[&str]| words.iter().any(|words| reason.contains(words));
        if said(&["Host key verification failed", "HOST IDENTIFICATION HAS CHANGED"]) {
            return format!(
                "the host's key is not known, or not the known one: connect once with `ssh {port}{to}`, and if the key was changed \
                 on purpose remove the old one with `ssh-keygen -R`"
            );
        }
        if said(&["text comes before the stream"]) {
            return format!(
                "`ssh {port}{to} true` must print nothing: see to it that the start-up files of the shell there (~/.bashrc, \
                 /etc/profile, ...) print only in interactive shells"
            );
        }
        if said(&[NO_RESPONSE]) && said(&[RELAY]) {
            return format!(
                "{program} there takes connections and says nothing: look at its log on {}, or restart it",
                self.host
            );
        }
        if said(&[NO_RESPONSE]) {
            return format!(
                "`ssh {port}{to} {program} --version` must respond: something in the start-up files of the login shell there (~/.bashrc, \
                 /etc/profile, ...) may wait; if it responds, see what {program} does there"
            );
        }
        if said(&[WORDLESS]) {
            return format!(
                "see that `ssh {port}{to} {program} --version` works: the login shell of that user may run no commands"
            );
        }
        // What the system says of a socket, in the words of Rust and of Go.
        if said(&["Permission denied (os error", "connect: permission denied"]) {
            let socket = self.socket().unwrap_or("its socket");
            return format!(
                "let that user use {socket} there: `ssh {port}{to} id` shows its groups, `ls -l` that of the socket"
            );
        }
        // With the methods in parentheses it is ssh's.
        if said(&["Permission denied (", "Permission denied, please try again"]) {
            return format!("see that `ssh {port}{to} true` works; without a terminal ssh cannot ask for a password");
        }
        if said(&["unrecognized subcommand", "is not a docker command"]) {
            return format!(
                "the {program} there is too old for this: `ssh {port}{to} {program} --version`; install a newer one"
            );
        }
        if said(&["command not found", "not found", "status 127"]) {
            return format!("install {program} there, so that `ssh {port}{to} {program} --version` works");
        }
        if said(&["status 255"]) {
            return format!("see that `ssh {port}{to} true` works");
        }
        let socket = self.socket().unwrap_or("its socket");
        if program == "linkspan" {
            return format!(
                "see that `linkspan serve` runs on {}, and that you may use {socket} there; docker itself is reached without it, by \
                 --docker-host ssh://{}",
                self.host,
                self.authority()
            );
        }
        format!("see that {program} runs on {}, and that you may use {socket} there", self.host)
    }

    /// What to do when a connection was lost, for `reason`, that `program` there served.
    pub fn hint_when_lost(&self, program: &str, reason: &str) -> String {
        let to = self.destination();
        let port = self.port.map_or_else(String::new, |port| format!("-p {port} "));
        if reason.contains(RELAY) && reason.contains(NO_RESPONSE) {
            return format!("{program} there stands still: look at its log on {}, or restart it", self.host);
        }
        if reason.contains(NO_RESPONSE) {
            return format!(
                "the network, {} or {program} there stands still: see that `ssh {port}{to} {program} --version` responds",
                self.host
            );
        }
        if reason.contains("status 255") {
            return format!("see that `ssh {port}{to} true` works");
        }
        format!("see that {program} runs on {}", self.host)
    }

    /// Why ssh, which was to run `program` there, ended with `reason`, in words that tell a banner from a message.
    pub fn explained(&self, program: &str, reason: &str) -> String {
        let words = reason.strip_prefix("ssh ended with status ").and_then(|rest| rest.split_once(": "));
        match words {
            // Its own end; or the words of the program, or of a shell about it.
            Some(("255", _)) | None => reason.to_owned(),
            Some((_, words)) if words.contains(program) || words.contains("not found") => reason.to_owned(),
            Some((_, words)) if words.contains("unrecognized subcommand") => reason.to_owned(),
            Some((status, words)) => {
                format!("ssh ended with status {status}, {WORDLESS} {program}; it showed: {words}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_still_is_told_from_what_never_began() {
        let address: SshAddress = "ssh://me@far:2222/run/x.sock".parse().unwrap();
        let hint = |reason: &str| address.hint("linkspan", reason);
        assert!(hint("no response within 40 s").starts_with("`ssh -p 2222 me@far linkspan --version` must respond"));
        let there = "ssh ended with status 1: linkspan: error: cannot relay to unix:///x: no response within 30 s";
        assert_eq!(
            hint(there),
            "linkspan there takes connections and says nothing: look at its log on far, or restart it"
        );
        assert_eq!(address.explained("linkspan", there), there);
        let lost = |reason: &str| address.hint_when_lost("linkspan", reason);
        assert!(lost(there).starts_with("linkspan there stands still"));
        assert!(lost("no response within 50 s").starts_with("the network, far or linkspan there stands still"));
        assert_eq!(lost("ssh ended with status 255: Timeout"), "see that `ssh -p 2222 me@far true` works");

        let banner = address.explained("linkspan", "ssh ended with status 1: BANNER: authorised use only");
        assert!(banner.ends_with("without a word of linkspan; it showed: BANNER: authorised use only"), "{banner}");
        assert!(hint(&banner).contains("may run no commands"), "{}", hint(&banner));
        for reason in ["ssh ended with status 255: BANNER; Connection closed", "ssh was ended by signal 9"] {
            assert_eq!(address.explained("linkspan", reason), reason);
        }
    }
}
