//! Files and links that are replaced while the proxy runs.
//!
//! As in Envoy, it is the directory of a path that is watched, for what is moved there: whoever deploys replaces a file or
//! a link by a rename, so that nobody reads half of it. Kubernetes replaces the link `..data` beside the file.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use rustix::fs::inotify;
use rustix::fs::inotify::CreateFlags;
use rustix::fs::inotify::ReadFlags;
use rustix::fs::inotify::Reader;
use rustix::fs::inotify::WatchFlags;
use tokio::sync::mpsc;

/// The link that Kubernetes replaces when a mounted ConfigMap or Secret changes.
const KUBERNETES_LINK: &str = "..data";

/// Watches paths for being replaced.
#[derive(Debug)]
pub(crate) struct Watcher {
    inotify: OwnedFd,
    watches: Vec<Watch>,
}

#[derive(Debug)]
struct Watch {
    /// The kernel's number of the directory.
    directory: i32,
    /// What is replaced there; empty for anything.
    name: OsString,
}

impl Watcher {
    /// A watcher of nothing yet.
    ///
    /// # Errors
    /// When the system gives no more of them.
    pub(crate) fn new() -> io::Result<Watcher> {
        Ok(Watcher {
            inotify: inotify::init(CreateFlags::CLOEXEC)?,
            watches: Vec::new(),
        })
    }

    /// Watches `path` too, which need not exist yet, but its directory must. A path that ends in `/` is a directory
    /// in which anything may be replaced.
    ///
    /// # Errors
    /// Without a directory.
    pub(crate) fn watch(&mut self, path: &Path) -> io::Result<()> {
        let bytes = path.as_os_str().as_bytes();
        let slash = bytes.iter().rposition(|byte| *byte == b'/');
        let Some((directory, name)) = slash.and_then(|slash| bytes.split_at_checked(slash + 1))
        else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "invalid file path",
            ));
        };
        let directory = inotify::add_watch(
            &self.inotify,
            OsStr::from_bytes(directory),
            WatchFlags::MOVED_TO,
        )?;
        self.watches.push(Watch {
            directory,
            name: OsStr::from_bytes(name).to_owned(),
        });
        Ok(())
    }

    /// Says each time that a path was replaced, once for each [`watch`](Self::watch) of it. The reading is done by a thread
    /// of its own, which waits in the kernel: a runtime could wait for this descriptor by unsafe code only.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(self) -> io::Result<mpsc::UnboundedReceiver<()>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let reading = thread::Builder::new().name("watch".to_owned());
        reading.spawn(move || {
            if let Err(error) = self.read(&sender) {
                log::error!(target: "file", "replaced files are no longer noticed: {error}");
            }
        })?;
        Ok(receiver)
    }

    /// Reads for as long as somebody listens.
    fn read(&self, replaced: &mpsc::UnboundedSender<()>) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while !replaced.is_closed() {
            for _ in 0..self.next_event(&mut reader)? {
                // Nobody who listens any more is who is_closed() tells of.
                let _ = replaced.send(());
            }
        }
        Ok(())
    }

    /// Waits for the next event, and says how many watches it is for.
    fn next_event(&self, reader: &mut Reader<'_, &OwnedFd>) -> io::Result<usize> {
        let event = reader.next()?;
        // Of what did not fit into the kernel's queue nothing is known.
        let all = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        let name = event.file_name();
        let name = name.map(|name| OsStr::from_bytes(name.to_bytes()));
        let concerned = self.watches.iter().filter(|watch| {
            all || watch.directory == event.wd() && name.is_some_and(|name| watch.is_for(name))
        });
        Ok(concerned.count())
    }
}

impl Watch {
    fn is_for(&self, name: &OsStr) -> bool {
        self.name.is_empty() || self.name == name || name == KUBERNETES_LINK
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

    #[test]
    fn moves_to_a_watched_name_are_seen() {
        let folder = folder("watch");
        let mut watcher = Watcher::new().unwrap();
        watcher.watch(&folder.join("current")).unwrap();
        watcher.watch(&folder.join("current")).unwrap();
        watcher.watch(&folder.join("")).unwrap();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&watcher.inotify, &mut buffer);
        // Only a move counts: what is written in place may be half done.
        fs::write(folder.join("current"), "").unwrap();
        for (name, expected) in [("current", 3), ("other", 1), ("..data", 3)] {
            replace_link(&folder, name);
            assert_eq!(watcher.next_event(&mut reader).unwrap(), expected, "{name}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_path_needs_a_directory() {
        let mut watcher = Watcher::new().unwrap();
        let missing = watcher.watch(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let relative = watcher.watch(Path::new("file")).unwrap_err();
        assert_eq!(relative.to_string(), "invalid file path");
    }
}
