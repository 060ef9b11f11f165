//! Notices files and links that are replaced while the proxy runs.
//!
//! As in Envoy, the directory of a path is watched for files that are moved into it: a deployment replaces a file or
//! link by a rename, so that nobody reads a half-written file. Kubernetes replaces the link `..data` beside the file.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::thread;

use rustix::fs::inotify;
use rustix::fs::inotify::CreateFlags;
use rustix::fs::inotify::ReadFlags;
use rustix::fs::inotify::Reader;
use rustix::fs::inotify::WatchFlags;
use tokio::sync::mpsc;

/// The link that Kubernetes replaces when a mounted ConfigMap or Secret changes.
const KUBERNETES_LINK: &str = "..data";

/// All watched paths. Clones share one thread, which starts with the first watch and blocks on `inotify`: waiting for
/// the descriptor in a runtime would need unsafe code.
#[derive(Clone, Debug, Default)]
pub struct FileWatches(Arc<SharedWatches>);

#[derive(Debug, Default)]
struct SharedWatches {
    inotify: OnceLock<OwnedFd>,
    watches: Mutex<Vec<Watch>>,
}

#[derive(Debug)]
struct Watch {
    /// The kernel's watch descriptor of the directory.
    directory: i32,
    /// The name in the directory; empty for any name.
    name: OsString,
    /// Whether writing the file in place also counts.
    in_place: bool,
    replaced: mpsc::Sender<()>,
}

/// One watched path. Dropping it ends the watch.
#[derive(Debug)]
pub struct FileWatch(mpsc::Receiver<()>);

impl FileWatch {
    /// Waits until the path is replaced. Several replacements since the last wait count as one.
    pub async fn replaced(&mut self) {
        if self.0.recv().await.is_none() {
            // The thread that reads events has ended and logged the reason. Nothing will be noticed any more.
            std::future::pending().await
        }
    }
}

impl FileWatch {
    /// Whether the path was replaced since the last call, or since the watch began.
    pub fn take_replaced(&mut self) -> bool {
        self.0.try_recv().is_ok()
    }
}

impl FileWatches {
    /// Watches `path`. It need not exist yet, but its directory must. A path that ends in `/` is a directory in which
    /// any replaced file counts.
    ///
    /// # Errors
    /// The directory does not exist (with Envoy's message), or the system gives no more watches.
    pub fn watch(&self, path: &Path) -> io::Result<FileWatch> {
        let is_plain = !path.as_os_str().as_bytes().contains(&b'/');
        if is_plain {
            let text = "invalid file path";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.add_one(path, false)
    }

    /// Like [`watch`](Self::watch), but also notices when the file is written in place.
    ///
    /// # Errors
    /// As for [`watch`](Self::watch).
    pub fn watch_content(&self, path: &Path) -> io::Result<FileWatch> {
        self.add_one(path, true)
    }

    /// Watches the content of all of `paths` as one.
    ///
    /// # Errors
    /// The same.
    pub fn watch_contents(&self, paths: &[PathBuf]) -> io::Result<FileWatch> {
        let (replaced, receiver) = mpsc::channel(1);
        for path in paths {
            self.add(path, true, replaced.clone())?;
        }
        Ok(FileWatch(receiver))
    }

    /// Watches anything that is moved into any of `directories`, as one.
    ///
    /// # Errors
    /// The same.
    pub fn watch_directories(&self, directories: &[PathBuf]) -> io::Result<FileWatch> {
        let (replaced, receiver) = mpsc::channel(1);
        for directory in directories {
            // With a slash at its end, it is a directory in which anything counts.
            let path = directory.join("");
            self.add(&path, false, replaced.clone())?;
        }
        Ok(FileWatch(receiver))
    }

    fn add_one(&self, path: &Path, in_place: bool) -> io::Result<FileWatch> {
        let (replaced, receiver) = mpsc::channel(1);
        self.add(path, in_place, replaced)?;
        Ok(FileWatch(receiver))
    }

    fn add(&self, path: &Path, in_place: bool, replaced: mpsc::Sender<()>) -> io::Result<()> {
        let bytes = path.as_os_str().as_bytes();
        let slash = bytes.iter().rposition(|byte| *byte == b'/');
        let (directory, name) = match slash {
            Some(slash) => bytes.split_at_checked(slash + 1).unwrap_or((bytes, b"")),
            None => (b"./".as_slice(), bytes),
        };
        // The kernel keeps one mask per directory, so every watch sets the events that any watch needs.
        let mask = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::CREATE;
        let number = inotify::add_watch(self.inotify()?, OsStr::from_bytes(directory), mask)?;
        let mut watches = self.0.lock();
        watches.retain(|watch| !watch.replaced.is_closed());
        watches.push(Watch {
            directory: number,
            name: OsStr::from_bytes(name).to_owned(),
            in_place,
            replaced,
        });
        Ok(())
    }

    /// The `inotify` descriptor. The first call starts the thread that reads from it.
    fn inotify(&self) -> io::Result<&OwnedFd> {
        if let Some(inotify) = self.0.inotify.get() {
            return Ok(inotify);
        }
        let made = inotify::init(CreateFlags::CLOEXEC)?;
        let mut is_first = false;
        let inotify = self.0.inotify.get_or_init(|| {
            is_first = true;
            made
        });
        if is_first {
            let shared = self.0.clone();
            let reading = thread::Builder::new().name("watch".to_owned());
            reading.spawn(move || {
                if let Err(error) = shared.read() {
                    log::error!(target: "file", "replaced files are no longer noticed: {error}");
                    shared.lock().clear();
                }
            })?;
        }
        Ok(inotify)
    }
}

impl SharedWatches {
    fn lock(&self) -> MutexGuard<'_, Vec<Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads events until the process ends.
    fn read(&self) -> io::Result<()> {
        let Some(inotify) = self.inotify.get() else {
            return Ok(());
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(inotify, &mut buffer);
        loop {
            let event = reader.next()?;
            let name = event.file_name();
            let name = name.map(|name| OsStr::from_bytes(name.to_bytes()));
            for watch in self.lock().iter() {
                if watch.is_for(event.events(), event.wd(), name) {
                    // A full channel already has a notification.
                    let _ = watch.replaced.try_send(());
                }
            }
        }
    }
}

impl Watch {
    fn is_for(&self, events: ReadFlags, directory: i32, name: Option<&OsStr>) -> bool {
        // When the kernel's queue has overflowed, any path may have been replaced.
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            return true;
        }
        let is_named =
            |name: &OsStr| self.name.is_empty() || *self.name == *name || name == KUBERNETES_LINK;
        let counts = self.in_place || events.contains(ReadFlags::MOVED_TO);
        self.directory == directory && counts && name.is_some_and(is_named)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("outrider-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn replace_link(folder: &Path, name: &str) {
        symlink("/nowhere", folder.join("new")).unwrap();
        fs::rename(folder.join("new"), folder.join(name)).unwrap();
    }

    #[tokio::test]
    async fn moves_to_a_watched_name_are_seen_and_those_to_others_are_not() {
        let folder = folder("watch-moves");
        let watches = FileWatches::default();
        let mut other = watches.watch(&folder.join("other")).unwrap();
        let mut watched = watches.watch(&folder.join("file")).unwrap();
        for name in ["file", KUBERNETES_LINK] {
            replace_link(&folder, name);
            watched.replaced().await;
        }
        assert!(
            other.0.try_recv().is_ok(),
            "the link of Kubernetes stands for all files"
        );
        replace_link(&folder, "file");
        watched.replaced().await;
        assert!(other.0.try_recv().is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn what_is_written_in_place_is_told_to_those_who_asked() {
        let folder = folder("watch-in-place");
        let watches = FileWatches::default();
        let mut moves = watches.watch(&folder.join("file")).unwrap();
        let mut content = watches.watch_content(&folder.join("file")).unwrap();
        fs::write(folder.join("file"), "text").unwrap();
        content.replaced().await;
        assert!(moves.0.try_recv().is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let watches = FileWatches::default();
        assert!(watches.watch(Path::new("/no/such/folder/file")).is_err());
    }
}
