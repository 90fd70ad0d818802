//! What goes to dockerd, counted, and stopped where a test wants it.

use std::{
    fmt,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::common::{Stack, pass};

const LOAD: &[u8] = b"POST /images/load";
/// How a request begins that gives a name to an image; as long as the other.
const TAG: &[u8] = b"POST /images/sha2";

/// A relay on a unix socket in front of a dockerd's.
pub(crate) struct Relay {
    path: PathBuf,
    state: Arc<State>,
}

type Hook = Box<dyn FnMut() + Send>;

struct State {
    docker: Mutex<String>,
    /// Bytes of loads that went to dockerd.
    sent: AtomicU64,
    loads: AtomicUsize,
    /// Whether responses to loads wait, and those to requests that set a name.
    is_holding: AtomicBool,
    is_holding_tags: AtomicBool,
    /// Called before the first byte of a load is passed on.
    on_load: Mutex<Hook>,
    /// Called before dockerd is asked to set a name.
    on_tag: Mutex<Arc<dyn Fn() + Send + Sync>>,
    /// The response to a load in dockerd's place, without reading any of it.
    refusal: Mutex<Option<String>>,
    /// What replaces something else in dockerd's responses, of the same length.
    other: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Relay {
    /// In front of the classic dockerd of `stack`, with its socket in the folder of `place`: it listens for as long as the
    /// test's process lives, and a disk that it listened on could not be unmounted.
    pub(crate) fn new(place: &Stack, stack: &Stack) -> Self {
        Self::at(place.fresh_path("-relay.sock"), stack.docker_classic_host())
    }

    /// In front of the dockerd at `docker`, listening at `path`.
    pub(crate) fn at(path: PathBuf, docker: &str) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let state = Arc::new(State {
            docker: Mutex::new(socket(docker)),
            sent: AtomicU64::new(0),
            loads: AtomicUsize::new(0),
            is_holding: AtomicBool::new(false),
            is_holding_tags: AtomicBool::new(false),
            on_load: Mutex::new(Box::new(|| ())),
            on_tag: Mutex::new(Arc::new(|| ())),
            refusal: Mutex::new(None),
            other: Mutex::new(None),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                // A connection that breaks is the client's and dockerd's matter.
                thread::spawn(move || drop(connection(&state, client)));
            }
        });
        Self { path, state }
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// How many loads there were since the last call, and what went to dockerd for them.
    pub(crate) fn take(&self) -> (usize, u64) {
        (self.state.loads.swap(0, Ordering::SeqCst), self.state.sent.swap(0, Ordering::SeqCst))
    }

    /// Calls `hook` whenever a load begins, before dockerd learns of it.
    pub(crate) fn on_load(&self, hook: impl FnMut() + Send + 'static) {
        *self.state.on_load.lock().unwrap() = Box::new(hook);
    }

    /// Calls `hook` whenever dockerd is to give a name to an image of a digest, before it learns of it; several at a time.
    pub(crate) fn on_tag(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.state.on_tag.lock().unwrap() = Arc::new(hook);
    }

    /// Responds to loads like dockerd when it refuses them before it looks at them: with a status and a message.
    pub(crate) fn respond(&self, status: &str, message: &str) {
        let body = serde_json::json!({"message": message}).to_string();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n");
        let response = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        *self.state.refusal.lock().unwrap() = Some(response);
    }

    /// Passes loads on again.
    pub(crate) fn accept(&self) {
        *self.state.refusal.lock().unwrap() = None;
    }

    /// Holds back what dockerd responds to loads, or no longer.
    pub(crate) fn hold_responses(&self, is_holding: bool) {
        self.state.is_holding.store(is_holding, Ordering::SeqCst);
    }

    /// Holds back what dockerd responds when it has set a name, or no longer.
    pub(crate) fn hold_tags(&self, is_holding: bool) {
        self.state.is_holding_tags.store(is_holding, Ordering::SeqCst);
    }

    /// Leads to another dockerd from now on.
    pub(crate) fn point_at(&self, docker: &str) {
        *self.state.docker.lock().unwrap() = socket(docker);
    }

    /// Replaces `text` by `other` in dockerd's responses.
    pub(crate) fn substitute(&self, text: &str, other: &str) {
        assert_eq!(text.len(), other.len(), "the length of a response precedes it");
        *self.state.other.lock().unwrap() = Some((text.into(), other.into()));
    }
}

fn socket(address: &str) -> String {
    address.strip_prefix("unix://").unwrap().to_owned()
}

fn connection(state: &Arc<State>, mut client: UnixStream) -> std::io::Result<()> {
    let mut docker = UnixStream::connect(&*state.docker.lock().unwrap())?;
    let mut first = vec![0; LOAD.len()];
    client.read_exact(&mut first)?;
    let (is_load, is_tag) = (first == LOAD, first == TAG);
    if is_tag {
        let hook = state.on_tag.lock().unwrap().clone();
        hook();
    }
    if is_load {
        state.loads.fetch_add(1, Ordering::SeqCst);
        (state.on_load.lock().unwrap())();
        if let Some(response) = &*state.refusal.lock().unwrap() {
            return client.write_all(response.as_bytes());
        }
    }
    docker.write_all(&first)?;
    let (mut from_docker, mut to_client) = (docker.try_clone()?, client.try_clone()?);
    let responding = state.clone();
    let responses = thread::spawn(move || {
        pass(&mut from_docker, &mut to_client, |bytes| {
            while is_load && responding.is_holding.load(Ordering::SeqCst)
                || is_tag && responding.is_holding_tags.load(Ordering::SeqCst)
            {
                thread::sleep(Duration::from_millis(10));
            }
            responding.replace_bytes(bytes);
        });
        // Already closed is as good. A client whose dockerd has gone sends no more.
        let _ = to_client.shutdown(Shutdown::Both);
    });
    pass(&mut client, &mut docker, |bytes| {
        if is_load {
            state.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
    });
    let _ = docker.shutdown(Shutdown::Both);
    responses.join().unwrap();
    Ok(())
}

impl State {
    fn replace_bytes(&self, bytes: &mut [u8]) {
        let Some((text, other)) = &*self.other.lock().unwrap() else { return };
        while let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
            bytes[at..at + other.len()].copy_from_slice(other);
        }
    }
}
