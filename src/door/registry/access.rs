//! What a client whose rights are limited may read.
//!
//! The engine keeps blobs and not repositories. So such a client gets a digest only through a repository in which it may pull an
//! image that has it, or to which it has itself sent it: what is there by another name is not there for it. That is looked up in
//! the engine's names as they are, and only which blobs a root has, which never changes, is remembered. For the same reason a
//! manifest that it pushes may name nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;

use super::Door;
use super::graph::held_part;
use super::push::Push;
use super::refusal::{Code, Refusal};
use super::repository::Repository;
use super::subjects::{Subject, Within};
use crate::engine::EngineError;
use crate::engine::images::{Images, Query};
use crate::export::Right;
use crate::image::{Descriptor, Digest, Graph, Kind};
use crate::net::Principal;

/// How many digests are remembered, over all roots: some megabytes.
const MAX_KNOWN: usize = 50_000;
/// How many images of a repository are looked into for one request.
const MAX_ROOTS: usize = 10_000;
/// How long a chain of referrers is followed: an image, its attestation, the signature of that, and what is made of that.
const MAX_CHAIN: usize = 4;
/// How many subjects are looked up for one request.
const MAX_SUBJECTS: usize = 1000;

/// Which digests roots have.
#[derive(Debug, Default)]
pub(super) struct Contents {
    known: Mutex<HashMap<Digest, Arc<HashSet<Digest>>>>,
}

/// What a client may read in a repository.
#[derive(Debug)]
pub(super) enum Readable {
    /// Whatever the engine has.
    All,
    /// What is in these.
    Some(Vec<Arc<HashSet<Digest>>>, Option<Arc<Push>>),
}

impl Readable {
    pub(super) fn has(&self, digest: &Digest) -> bool {
        match self {
            Self::All => true,
            Self::Some(contents, push) => {
                contents.iter().any(|content| content.contains(digest))
                    || push.as_ref().is_some_and(|push| push.has_sent(digest))
            }
        }
    }

    /// Whether the client must show that it has what it says it has.
    pub(super) fn is_limited(&self) -> bool {
        matches!(self, Self::Some(..))
    }
}

impl Contents {
    /// The digests of all that the engine holds of `root`. Foreign layers are not the image's own.
    async fn of(&self, images: &Arc<dyn Images>, root: &Descriptor) -> Arc<HashSet<Digest>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = known().get(&root.digest).cloned() {
            return content;
        }
        let Some((graph, is_complete)) = held_part(images, root).await else {
            return Arc::new(HashSet::from([root.digest.clone()]));
        };
        let content: Arc<HashSet<Digest>> = Arc::new(own(&graph).map(|blob| blob.digest.clone()).collect());
        // What is missing may come, and has then more below it.
        if is_complete && content.len() <= MAX_KNOWN / 8 {
            let mut known = known();
            if known.values().map(|content| content.len()).sum::<usize>() + content.len() > MAX_KNOWN {
                known.clear();
            }
            known.insert(root.digest.clone(), content.clone());
        }
        content
    }
}

fn own(graph: &Graph) -> impl Iterator<Item = &Descriptor> {
    graph.descriptors().filter(|blob| blob.kind() != Kind::ForeignLayer)
}

impl Door {
    /// Refuses a client that may pull nothing of a repository. One that may push to it finds nothing there.
    pub(super) fn check_pull(&self, repository: &Repository, client: &Principal) -> Result<(), Refusal> {
        let rights = self.exports.policy(client);
        if rights.may_somewhere(Right::Pull, &repository.full) {
            return Ok(());
        }
        if rights.may_somewhere(Right::Push, &repository.full) {
            return Err(Refusal::absent(Code::ManifestUnknown, "this client may push here, and not pull"));
        }
        Err(denied("pull from", repository))
    }

    /// Refuses a client that may push nothing to a repository.
    pub(super) fn check_push(&self, repository: &Repository, client: &Principal) -> Result<(), Refusal> {
        match self.exports.policy(client).may_somewhere(Right::Push, &repository.full) {
            true => Ok(()),
            false => Err(denied("push to", repository)),
        }
    }

    /// What `client` may read in `repository` now.
    pub(super) async fn readable(&self, repository: &Repository, client: &Principal) -> Result<Readable, EngineError> {
        let rights = self.exports.policy(client);
        if rights.may_pull_all() {
            return Ok(Readable::All);
        }
        let mut contents = Vec::new();
        for end in [':', '@'] {
            let mut query = Query { prefix: format!("{}{end}", repository.full), ..Query::default() };
            loop {
                let page = self.images.list(&query).await?;
                for record in page.records {
                    if record.name.as_deref().is_some_and(|name| rights.may_pull(name)) && contents.len() < MAX_ROOTS {
                        contents.push(self.contents.of(&self.images, &record.target).await);
                    }
                }
                match page.next {
                    Some(next) if contents.len() < MAX_ROOTS => query.after = Some(next),
                    _ => break,
                }
            }
        }
        let push = self.pushes.as_ref().and_then(|pushes| pushes.find(repository, client));
        Ok(Readable::Some(contents, push))
    }

    /// Whether `client` may read a blob or a manifest by its digest through `repository`. What refers to a manifest is read where
    /// it is listed.
    pub(super) async fn may_read(
        &self,
        repository: &Repository,
        digest: &Digest,
        client: &Principal,
    ) -> Result<bool, Refusal> {
        let readable = self.readable(repository, client).await?;
        Ok(self.sees(repository, digest, &readable, MAX_CHAIN).await?)
    }

    /// Whether a client that may read `readable` sees a digest in `repository`: it may read it, or what it refers to, and so on. What
    /// has a tag is readable or is not; so only what was pushed by its digest alone is followed, to its subjects, over `chain` of them.
    async fn sees(
        &self,
        repository: &Repository,
        digest: &Digest,
        readable: &Readable,
        chain: usize,
    ) -> Result<bool, EngineError> {
        if readable.has(digest) {
            return Ok(true);
        }
        let by_digest = |name: &str| name.strip_prefix(&repository.full).is_some_and(|rest| rest.starts_with('@'));
        let within = Within { repository: &repository.full, shows: &by_digest };
        let (mut level, mut known) = (vec![digest.clone()], HashSet::from([digest.clone()]));
        let mut left = MAX_SUBJECTS;
        for _ in 0..chain {
            let mut subjects: HashMap<_, Vec<_>> = HashMap::new();
            for digest in &level {
                for (subject, referrer) in self.subjects.referrers_with(digest).await? {
                    subjects.entry(subject).or_default().push(referrer);
                }
            }
            level.clear();
            for (subject, referrers) in subjects.into_iter().filter(|(subject, _)| !known.contains(subject)) {
                let Some(fewer) = left.checked_sub(1) else { return Ok(false) };
                left = fewer;
                let found = self.subjects.referrers(&subject, Some(within)).await?;
                if !found.iter().any(|found| referrers.contains(&found.digest)) {
                    continue;
                }
                if readable.has(&subject) {
                    return Ok(true);
                }
                level.push(subject);
            }
            known.extend(level.iter().cloned());
        }
        Ok(false)
    }

    /// Refuses a manifest about another one that is not there for its client, where that client may push only some names of the
    /// repository: whoever reads the other one would find it there. It does not matter whether the engine has the other one, so that
    /// the answer does not say it.
    pub(super) async fn check_subjects(
        &self,
        repository: &Repository,
        graph: &Graph,
        readable: &Readable,
        client: &Principal,
    ) -> Result<(), Refusal> {
        let rights = self.exports.policy(client);
        for document in graph.documents() {
            // What is no descriptor was refused when it was pushed, or is nobody's subject.
            let Some(subject) = Subject::of(&document.bytes).ok().and_then(|subject| subject.digest) else { continue };
            // Names with digests are those by which such manifests are kept.
            let is_of_it = graph.document(&subject).is_some();
            let by_digest = format!("{}@{}", repository.full, document.descriptor.digest);
            if !is_of_it
                && !rights.may_set(&by_digest)
                && !self.sees(repository, &subject, readable, MAX_CHAIN - 1).await?
            {
                let message = format!(
                    "its subject {subject} is not there for this client, which may push only some names of this repository; hint: \
                     push the subject first, or allow digests, too (`names = [\"{}*\"]`)",
                    repository.full
                );
                return Err(
                    Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message).about("subject", subject.as_str())
                );
            }
        }
        Ok(())
    }

    /// What refers to `subject` in `repository`, as far as `client` may see it. Where rules part the clients, that is what was pushed
    /// there and nothing else: else whoever may push anywhere could add to what the readers of another repository find.
    pub(super) async fn referrers_in(
        &self,
        repository: &Repository,
        subject: &Digest,
        readable: &Readable,
        client: &Principal,
    ) -> Result<Vec<Descriptor>, EngineError> {
        if !self.exports.has_rules() {
            return self.subjects.referrers(subject, None).await;
        }
        // What is listed can be read: one link less than what is read.
        let is_seen = self.sees(repository, subject, readable, MAX_CHAIN - 1).await?;
        let rights = self.exports.policy(client);
        let shows = |name: &str| match name.strip_prefix(&repository.full) {
            Some(tag) if tag.starts_with(':') => rights.may_pull(name),
            // What was pushed by its digest alone is seen with what it refers to.
            Some(digest) if digest.starts_with('@') => is_seen || rights.may_pull(name),
            _ => false,
        };
        self.subjects.referrers(subject, Some(Within { repository: &repository.full, shows: &shows })).await
    }

    /// Refuses a manifest that names what its client has not shown to have. All of it must be there: what an index lacks could
    /// come by another client.
    pub(super) fn check_shown(&self, graph: &Graph, readable: &Readable) -> Result<(), Vec<Digest>> {
        let root = &graph.root().digest;
        let foreign = graph.descriptors().filter(|blob| blob.digest != *root && !readable.has(&blob.digest));
        let foreign: Vec<_> =
            foreign.filter(|blob| blob.kind() != Kind::ForeignLayer).map(|blob| blob.digest.clone()).collect();
        if foreign.is_empty() { Ok(()) } else { Err(foreign) }
    }
}

fn denied(what: &str, repository: &Repository) -> Refusal {
    let message = format!("this client may not {what} this repository");
    Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message).about("name", repository.name.as_str())
}
