//! What to do when a connection over ssh failed, by what ssh or the program there said.

use super::SshAddress;

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
}
