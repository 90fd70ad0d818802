//! A registry door in front of an engine.

use std::path::Path;
use std::sync::Arc;

use linkspan::engine::select::{Selection, select};
use linkspan::engine::{Engine, EngineKind};

use crate::common::{Linkspan, Minio, Run, Stack, linkspan, text};
use crate::fixture::{containerd, docker};
use crate::http::{Response, request};

/// A registry door, and its engine.
pub(crate) struct Served {
    pub(crate) linkspan: Linkspan,
    /// Where it listens: `127.0.0.1:PORT`.
    pub(crate) address: String,
    pub(crate) engine: Arc<dyn Engine>,
    /// What names its engine to commands: flags and variables.
    flags: Vec<String>,
    variables: Vec<(String, String)>,
    _folder: Option<tempfile::TempDir>,
}

impl Served {
    /// In front of a layout of its own.
    pub(crate) async fn layout(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = layout(folder.path()).await;
        let flags = ["--engine", "layout", "--layout", text(folder.path())];
        let (linkspan, address) = Linkspan::registry(Stack::shared(), &[&flags, args].concat());
        let flags = owned(&flags);
        Self { linkspan, address, engine, flags, variables: Vec::new(), _folder: Some(folder) }
    }

    /// In front of a namespace of the shared containerd.
    pub(crate) async fn containerd(namespace: &str, args: &[&str]) -> Self {
        let stack = Stack::shared();
        let engine = containerd(stack, namespace).await;
        let flags = stack.containerd_flags(namespace);
        let (linkspan, address) = Linkspan::registry(stack, &[&flags, args].concat());
        Self { linkspan, address, engine, flags: owned(&flags), variables: Vec::new(), _folder: None }
    }

    /// In front of the shared dockerd.
    pub(crate) async fn docker(args: &[&str]) -> Self {
        let stack = Stack::shared();
        let engine = docker(stack).await;
        let flags = stack.docker_flags();
        let (linkspan, address) = Linkspan::registry(stack, &[&flags, args].concat());
        Self { linkspan, address, engine, flags: owned(&flags), variables: Vec::new(), _folder: None }
    }

    /// In front of a bucket of its own.
    pub(crate) async fn object(args: &[&str]) -> Self {
        let bucket = Minio::shared().bucket();
        let engine = bucket.engine().await.unwrap().engine;
        let flags = bucket.flags();
        let args = [&flags.each_ref().map(String::as_str)[..], args].concat();
        let variables = bucket.variables();
        let (linkspan, address) = Linkspan::registry_with(Stack::shared(), &args, &variables);
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Self { linkspan, address, engine, flags: flags.to_vec(), variables, _folder: None }
    }

    /// One in front of each engine, the containerd in `namespace`.
    pub(crate) async fn everywhere(namespace: &str, args: &[&str]) -> [Self; 4] {
        let [layout, object] = [Self::layout(args).await, Self::object(args).await];
        [layout, Self::containerd(namespace, args).await, Self::docker(args).await, object]
    }

    /// A command on its engine.
    pub(crate) fn command(&self, args: &[&str]) -> Run {
        let run = linkspan(args.iter().copied()).args(self.flags.iter().map(String::as_str));
        self.variables.iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Response {
        request(&self.address, "GET", target, &[])
    }

    #[track_caller]
    pub(crate) fn head(&self, target: &str) -> Response {
        request(&self.address, "HEAD", target, &[])
    }

    /// The status and the code of a refused GET.
    #[track_caller]
    pub(crate) fn refused(&self, target: &str) -> (u16, String) {
        let response = self.get(target);
        (response.status, response.code())
    }

    pub(crate) fn kind(&self) -> EngineKind {
        self.engine.identity().kind
    }
}

pub(crate) async fn layout(root: &Path) -> Arc<dyn Engine> {
    let selection = Selection { kind: Some(EngineKind::Layout), layout: Some(root.to_owned()), ..Selection::default() };
    select(&selection).await.unwrap().engine
}

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}
