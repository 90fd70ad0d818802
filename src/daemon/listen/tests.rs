//! Binding a unix socket, for every state of its path.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::net::Principal;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door.sock");
    (folder, path)
}

async fn bind(path: &Path) -> Result<Listener, ListenError> {
    Listener::bind(&Address::Unix(path.to_owned()), own_group(), None).await
}

fn own_group() -> u32 {
    rustix::process::getegid().as_raw()
}

/// This process, as a client.
fn this_process() -> Principal {
    let (uid, pid) = (rustix::process::geteuid().as_raw(), i32::try_from(std::process::id()).unwrap());
    Principal::Unix { uid, gid: own_group(), pid: Some(pid) }
}

/// Creates a socket that no process listens on.
fn stale(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    assert!(fs::symlink_metadata(path).unwrap().file_type().is_socket());
}

#[tokio::test]
async fn a_new_socket_is_for_owner_and_group_and_goes_at_the_end() {
    let (folder, _) = folder();
    let path = folder.path().join("not/there/yet/door.sock");
    let listener = bind(&path).await.unwrap();
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.gid()), (0o660, own_group()));
    let parent = fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(parent.permissions().mode() & 0o7777, 0o755);

    let client = UnixStream::connect(&path).await.unwrap();
    let accepted = listener.accept().await.unwrap();
    assert!(matches!(accepted.io, Stream::Unix(_)));
    assert_eq!(accepted.peer, this_process());
    drop((listener, client));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "neither socket nor lock is left");
}

#[tokio::test]
async fn the_group_is_given() {
    let (_folder, path) = folder();
    if rustix::process::geteuid().is_root() {
        let _listener = Listener::bind(&Address::Unix(path.clone()), 12_345, None).await.unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().gid(), 12_345);
    } else {
        let error = Listener::bind(&Address::Unix(path.clone()), 0, None).await.unwrap_err().to_string();
        assert!(error.contains("give it to group 0"), "{error}");
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let (_folder, path) = folder();
    stale(&path);
    let _listener = bind(&path).await.unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_live_socket_is_left_alone() {
    let (_folder, path) = folder();
    let other = UnixListener::bind(&path).unwrap();
    let error = bind(&path).await.unwrap_err();
    assert!(matches!(&error, ListenError::Live { path: named } if *named == path), "{error}");
    UnixStream::connect(&path).await.unwrap();
    drop(other);
}

#[tokio::test]
async fn a_live_socket_with_a_full_queue_is_left_alone() {
    let (_folder, path) = folder();
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let _other = socket.listen(1).unwrap();
    // The connections are not accepted, so that the queue fills.
    let mut clients = Vec::new();
    while let Ok(client) = UnixStream::connect(&path).await {
        clients.push(client);
        assert!(clients.len() < 16, "the queue never fills");
    }
    let error = bind(&path).await.unwrap_err();
    assert!(matches!(error, ListenError::Live { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let (folder, path) = folder();
    let check = async |what: &str| {
        let error = bind(&path).await.unwrap_err().to_string();
        assert!(error.contains(&format!("there is {what}, not a socket; remove it")), "{error}");
    };
    fs::write(&path, "precious").unwrap();
    check("a file").await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    check("a folder").await;
    let hint = bind(&path).await.unwrap_err().hint(None).unwrap();
    assert!(hint.contains(&format!("`rmdir {}`", path.display())) && hint.contains("linkspan.socket"), "{hint}");
    fs::write(path.join("precious"), "").unwrap();
    assert_eq!(bind(&path).await.unwrap_err().hint(None), None);
    fs::remove_file(path.join("precious")).unwrap();
    fs::remove_dir(&path).unwrap();
    let target = folder.path().join("target");
    stale(&target);
    std::os::unix::fs::symlink(&target, &path).unwrap();
    check("a symbolic link").await;
    assert!(target.exists());
    assert!(!folder.path().join("door.sock.lock").exists(), "a failed start leaves no lock");
}

#[tokio::test]
async fn of_two_only_one_gets_a_path_and_the_other_learns_who_has_it() {
    let (_folder, path) = folder();
    stale(&path);
    let first = bind(&path).await.unwrap();
    let error = bind(&path).await.unwrap_err().to_string();
    assert!(error.contains(&format!("another linkspan has it (process {})", std::process::id())), "{error}");
    drop(first);
    bind(&path).await.unwrap();
}

#[tokio::test]
async fn a_lock_that_was_left_behind_does_not_matter() {
    let (folder, path) = folder();
    fs::write(folder.path().join("door.sock.lock"), "4194304\n").unwrap();
    bind(&path).await.unwrap();
}

#[tokio::test]
async fn a_lock_is_not_followed_elsewhere() {
    let (folder, path) = folder();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink(&precious, folder.path().join("door.sock.lock")).unwrap();
    let error = bind(&path).await.unwrap_err().to_string();
    assert!(error.contains("lock it"), "{error}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[tokio::test]
async fn a_lock_that_is_another_name_of_a_file_leaves_it_alone() {
    let (folder, path) = folder();
    let (precious, lock) = (folder.path().join("precious"), folder.path().join("door.sock.lock"));
    fs::write(&precious, "1\n").unwrap();
    fs::hard_link(&precious, &lock).unwrap();
    let error = bind(&path).await.unwrap_err().to_string();
    assert!(error.contains("is no lock of ours; remove it"), "{error}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "1\n");
    fs::remove_file(&lock).unwrap();
    fs::write(&lock, "not the number of a process").unwrap();
    assert!(bind(&path).await.is_err());
    assert_eq!(fs::read_to_string(&lock).unwrap(), "not the number of a process");
}

#[tokio::test]
async fn every_folder_that_is_made_can_be_entered() {
    let (folder, _) = folder();
    let path = folder.path().join("a/b/c/door.sock");
    let _listener = bind(&path).await.unwrap();
    for made in path.ancestors().skip(1).take(3) {
        assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o7777, 0o755, "{made:?}");
    }
}

#[tokio::test]
async fn a_socket_that_is_no_longer_ours_stays() {
    let (_folder, path) = folder();
    let listener = bind(&path).await.unwrap();
    // The inode number of a removed file can be reused; a second link to ours prevents that.
    let kept = path.with_extension("kept");
    fs::hard_link(&path, &kept).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(listener);
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn who_waits_when_a_socket_is_closed_is_handed_over() {
    let (_folder, path) = folder();
    let listener = bind(&path).await.unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
    let waiting: Vec<_> = listener.close().map(Result::unwrap).collect();
    assert_eq!(waiting.len(), clients.len());
    assert!(!path.exists());
    for (client, stream) in clients.iter_mut().zip(waiting) {
        client.write_all(b"x").unwrap();
        assert_eq!(stream.peer, this_process());
        let (mut reader, mut byte) = (stream.io, [0]);
        reader.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
    }
    let tcp = Listener::bind(&"tcp://127.0.0.1:0".parse().unwrap(), own_group(), None).await.unwrap();
    let Address::Tcp { host, port } = tcp.address().clone() else { unreachable!() };
    let _client = std::net::TcpStream::connect((host.as_str(), port)).unwrap();
    assert_eq!(tcp.close().map(Result::unwrap).count(), 1);
}

#[tokio::test]
async fn a_loopback_port_is_chosen_and_shown() {
    for host in ["127.0.0.1", "localhost"] {
        let listener = Listener::bind(&Address::Tcp { host: host.to_owned(), port: 0 }, 0, None).await.unwrap();
        let Address::Tcp { host: shown, port } = listener.address().clone() else { panic!("not TCP") };
        assert_eq!(shown, host);
        let (client, accepted) = tokio::join!(TcpStream::connect((host, port)), listener.accept());
        let (client, accepted) = (client.unwrap(), accepted.unwrap());
        assert!(matches!(accepted.io, Stream::Tcp(_)));
        assert_eq!(accepted.peer, Principal::Anonymous { address: client.local_addr().unwrap() });
    }
}

#[tokio::test]
async fn a_name_for_another_address_is_refused() {
    let error = Listener::bind(&Address::Tcp { host: "0.0.0.0".to_owned(), port: 0 }, 0, None).await.unwrap_err();
    assert!(matches!(error, ListenError::NotLoopback { .. }), "{error}");
}
