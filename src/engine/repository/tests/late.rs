//! Writers that are dropped while their lease is released.

use std::io;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::engine::local::testing::DiskFile;

/// A disk on which a file appears in a folder of ingests just before the folder is removed, once: the note of a writer that was
/// dropped a moment before.
#[derive(Debug, Default)]
struct LateDisk {
    has_come: AtomicBool,
}

impl Disk for LateDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        System.create_folder(path)
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        System.append(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        System.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        System.remove(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        if path.exists() && !self.has_come.swap(true, Ordering::Relaxed) {
            fs::write(path.join("late.json"), "{}")?;
        }
        System.remove_folder(path)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        System.sync_file(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        System.sync_folder(path)
    }

    fn sync_all(&self, folder: &Path) -> io::Result<()> {
        System.sync_all(folder)
    }
}

#[tokio::test]
async fn the_last_bytes_of_a_dropped_writer_do_not_keep_its_lease() {
    let folder = folder();
    let disk = Arc::new(LateDisk::default());
    let engine = RepositoryEngine::on(folder.path(), disk.clone(), "this-boot".to_owned()).await.unwrap();
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let ingests = lease.ingests().unwrap();
    let OpenedIngest::Writer(mut writer) = ingests.open("begun", &Expected::default()).await.unwrap() else { panic!() };
    writer.write(vec![1; 100_000].into()).await.unwrap();
    writer.suspend().await.unwrap();
    lease.release().await.unwrap();
    assert!(disk.has_come.load(Ordering::Relaxed));
    assert_eq!(files(&folder.path().join(".linkspan/leases")), Vec::<String>::new());
}
