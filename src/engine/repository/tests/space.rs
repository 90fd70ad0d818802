//! A disk that is full, and one that is slow.

use std::fmt;
use std::io;
use std::sync::{Condvar, Mutex};

use super::*;
use crate::engine::ingest::{Expected, OpenedIngest};
use crate::engine::local::testing::{DiskFile, LeaseFile, Owner};

/// The disk of this machine, with a byte limit for `.linkspan/ingest` and `.linkspan/uploads`.
#[derive(Debug)]
struct Small {
    root: std::path::PathBuf,
    room: u64,
}

impl Small {
    fn used(&self) -> u64 {
        let own = self.root.join(".linkspan");
        let mut folders = vec![own.join("ingest"), own.join("uploads"), self.root.join("blobs/sha256")];
        let mut used = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(found) if found.is_dir() => folders.push(entry.path()),
                    Ok(found) => used += found.len(),
                    Err(_) => {}
                }
            }
        }
        used
    }
}

/// A file on that disk.
struct SmallFile(Box<dyn DiskFile>, Arc<Small>);

impl fmt::Debug for SmallFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl DiskFile for SmallFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = self.1.room.saturating_sub(self.1.used());
        let fits = (bytes.len() as u64).min(room) as usize;
        self.0.write(&bytes[..fits])?;
        // ENOSPC, errno(3).
        if fits < bytes.len() { Err(io::Error::from_raw_os_error(28)) } else { Ok(()) }
    }

    fn extend(&mut self, _: u64, chunks: &mut dyn Iterator<Item = Bytes>) -> io::Result<u64> {
        let mut length = 0;
        for chunk in chunks {
            self.write(&chunk)?;
            length += chunk.len() as u64;
        }
        Ok(length)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.0.clear()
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn file(&self) -> &fs::File {
        self.0.file()
    }
}

/// Forwards all operations except `append` and `sync_file`.
macro_rules! passed_on {
    () => {
        fn create_folder(&self, path: &Path) -> io::Result<()> {
            System.create_folder(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            System.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            System.remove(path)
        }
        fn remove_folder(&self, path: &Path) -> io::Result<()> {
            System.remove_folder(path)
        }
        fn sync_folder(&self, path: &Path) -> io::Result<()> {
            System.sync_folder(path)
        }
        fn sync_all(&self, folder: &Path) -> io::Result<()> {
            System.sync_all(folder)
        }
    };
}

#[derive(Debug)]
struct SmallDisk(Arc<Small>);

impl Disk for SmallDisk {
    passed_on!();

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SmallFile(System.append(path)?, self.0.clone())))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        System.sync_file(path)
    }
}

async fn small(root: &Path, room: u64) -> (RepositoryEngine, Arc<Small>) {
    let small = Arc::new(Small { root: root.to_owned(), room });
    let disk = Arc::new(SmallDisk(small.clone()));
    (RepositoryEngine::on(root, disk, "this-boot".to_owned()).await.unwrap(), small)
}

#[tokio::test]
async fn what_does_not_fit_does_not_keep_the_disk_full() {
    let (small_layer, large) = (vec![3; 10_000], (0..900_000u32).map(|n| (n >> 3) as u8).collect::<Vec<_>>());
    let other: Vec<u8> = (0..400_000u32).map(|n| (n >> 5) as u8).collect();
    let folder = folder();
    let (engine, disk) = small(folder.path(), 800_000).await;
    let image = Image::new(&[&other, &large]);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    // One layer is complete, a part of the other is present.
    send(&*transaction, &image.layers[0], &image.blobs[&image.layers[0].digest]).await.unwrap();
    let error = send(&*transaction, &image.layers[1], &image.blobs[&image.layers[1].digest]).await.unwrap_err();
    assert!(matches!(error, EngineError::LayoutFull { .. }), "{error}");
    assert!(disk.used() < 500_000, "the part that did not fit is gone: {}", disk.used());
    lease.release().await.unwrap();
    assert_eq!(disk.used(), 0, "{:?}", files(&folder.path().join(".linkspan/ingest")));
    export(&engine, &Image::new(&[&small_layer]), &names(&["small:1"])).await.unwrap();
    read_as_other_tool(folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_beside_it_does_not_keep_the_disk_full_either() {
    let large = |shift: u32| (0..900_000u32).map(|n| (n >> shift) as u8).collect::<Vec<_>>();
    let folder = folder();
    let (engine, disk) = small(folder.path(), 1_000_000).await;
    let image = Image::new(&[&large(3), &large(5)]);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let [begun, failing] = [&image.layers[0], &image.layers[1]];
    let Opened::Writer(mut writer) = transaction.writer(begun).await.unwrap() else { panic!("not missing") };
    writer.write(image.blobs[&begun.digest].slice(..700_000)).await.unwrap();
    let error = send(&*transaction, failing, &image.blobs[&failing.digest]).await.unwrap_err();
    assert!(matches!(error, EngineError::LayoutFull { .. }), "{error}");
    let releasing = tokio::spawn(async move { lease.release().await });
    drop(writer);
    releasing.await.unwrap().unwrap();
    assert_eq!(disk.used(), 0, "{:?}", files(&folder.path().join(".linkspan/ingest")));
}

#[tokio::test]
async fn an_ingest_that_does_not_fit_begins_anew() {
    let folder = folder();
    let (engine, disk) = small(folder.path(), 500_000).await;
    let lease = engine.lease(&origin(), Lifetime::Durable { record: "record" }).await.unwrap();
    let ingests = lease.ingests().unwrap();
    let OpenedIngest::Writer(mut upload) = ingests.open("large", &Expected::default()).await.unwrap() else { panic!() };
    let mut failed = None;
    for _ in 0..20 {
        failed = failed.or(upload.write(vec![1; 100_000].into()).await.err());
    }
    assert!(matches!(failed, Some(EngineError::LayoutFull { .. })), "{failed:?}");
    upload.suspend().await.unwrap_err();
    assert!(disk.used() < 10_000, "{}", disk.used());
    let OpenedIngest::Writer(mut upload) = ingests.open("large", &Expected::default()).await.unwrap() else { panic!() };
    assert_eq!(upload.offset(), 0);
    upload.write(vec![1; 100_000].into()).await.unwrap();
    upload.commit(Expected::default()).await.unwrap();
    lease.release().await.unwrap();
}

#[tokio::test]
async fn a_lease_on_a_full_disk_loses_nothing_that_it_records_later() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let origin = origin();
    let given = engine.lease(&origin, Lifetime::Process).await.unwrap();
    let path = engine.stores.blobs.paths().lease(&origin.export);
    let disk = Arc::new(SmallDisk(Arc::new(Small { root: folder.path().to_owned(), room: 0 })));
    // The state that an interrupted write leaves.
    let (paths, owner) = (engine.stores.blobs.paths(), Owner::Process("x".to_owned()));
    let lease = LeaseFile::open(paths, &(disk as Arc<dyn Disk>), &origin.export, &owner);
    assert!(lease.is_err(), "nothing fits");
    let lease = LeaseFile::open(paths, &(Arc::new(System) as Arc<dyn Disk>), &origin.export, &owner).unwrap();
    let digests = [b"a", b"b"].map(|content: &[u8; 1]| Digest::sha256(content));
    lease.pin([&digests[0]]).unwrap();
    let taken = fs::read_to_string(&path).unwrap();
    assert_eq!(taken, format!("x\n{}\n", digests[0]));
    given.release().await.unwrap();
}

/// A disk that delays syncs until they are allowed.
#[derive(Debug, Default)]
struct Slow {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Slow {
    fn let_go(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

#[derive(Debug)]
struct SlowDisk(Arc<Slow>);

impl Disk for SlowDisk {
    passed_on!();

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        System.append(path)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.state.lock().unwrap();
        state.0 += 1;
        while !state.1 {
            state = self.0.changed.wait(state).unwrap();
        }
        drop(state);
        System.sync_file(path)
    }
}

#[tokio::test]
async fn an_export_that_is_given_up_does_not_make_another_one_fail() {
    let folder = folder();
    let slow = Arc::new(Slow::default());
    let engine =
        RepositoryEngine::on(folder.path(), Arc::new(SlowDisk(slow.clone())), "boot".to_owned()).await.unwrap();
    let [image, given_up] = [Image::new(&[b"stays"]), Image::new(&[b"goes", &[4; 300_000]])];
    let other = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let begun = begin(&other, given_up.graph()).await.unwrap();
    for layer in &given_up.layers {
        send(&*begun, layer, &given_up.blobs[&layer.digest]).await.unwrap();
    }
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    send(&*transaction, &image.layers[0], &image.blobs[&image.layers[0].digest]).await.unwrap();
    let settling = tokio::spawn(async move {
        transaction.prepare().await?.commit(&names(&["stays:1"]), &[]).await?;
        lease.release().await
    });
    while slow.state.lock().unwrap().0 == 0 {
        tokio::task::yield_now().await;
    }
    // All pending blobs are being synced now.
    other.release().await.unwrap();
    slow.let_go();
    settling.await.unwrap().unwrap();
    assert_eq!(read_as_other_tool(folder.path()).len(), 1);
    assert_eq!(files(&folder.path().join(".linkspan/ingest")), [""; 0]);
}
