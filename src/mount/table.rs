//! The mount table: which models are mounted where.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use super::TYPE;
use crate::sys;

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) mountpoint: PathBuf,
    /// Whether it is of our type.
    pub(super) ours: bool,
    id: String,
    /// Device number of the file system, as `major:minor`; each FUSE server has one of its own.
    device: String,
}

impl Entry {
    /// Device number of the file system, as `major:minor`.
    pub(super) fn device(&self) -> &str {
        &self.device
    }

    /// Whether this is the same mount, wherever it is seen by now.
    pub(super) fn is(&self, other: &Entry) -> bool {
        (&self.id, &self.device) == (&other.id, &other.device)
    }
}

/// The mounts of this namespace at one moment.
#[derive(Clone, Debug)]
pub(super) struct Table(Vec<Entry>);

impl Table {
    /// Reads the mount table.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    /// proc_pid_mountinfo(5): the fields are the mount's number, its parent's, the device, the root, the mount
    /// point; the one after the separator is the type.
    fn parse(table: &[u8]) -> Self {
        let of_line = |line: &[u8]| {
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
            let separator = fields.iter().position(|field| *field == b"-")?;
            let text = |at: usize| Some(String::from_utf8_lossy(fields.get(at)?).into_owned());
            Some(Entry {
                id: text(0)?,
                device: text(2)?,
                mountpoint: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
                ours: fields
                    .get(separator + 1)
                    .is_some_and(|kind| *kind == TYPE.as_bytes()),
            })
        };
        Self(table.split(|&byte| byte == b'\n').filter_map(of_line).collect())
    }

    /// All of our type, in the order of the table.
    pub(super) fn ours(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(|entry| entry.ours)
    }

    /// The mount that a name leads to, when that is what is mounted at this very place: not one that lies beneath
    /// it, or beneath a mount further up.
    pub(super) fn visible(&self, mountpoint: &Path) -> Option<&Entry> {
        let id = sys::mount_id(mountpoint).ok()?;
        self.0
            .iter()
            .find(|entry| entry.id == id && entry.mountpoint == mountpoint)
    }
}

/// All models that are mounted in this namespace, in the order of the mount table.
///
/// # Errors
/// When the mount table cannot be read.
pub fn mounted() -> io::Result<Vec<PathBuf>> {
    Ok(Table::read()?
        .ours()
        .map(|entry| entry.mountpoint.clone())
        .collect())
}

/// The model that is mounted here, unless something else covers it.
pub(super) fn find(mountpoint: &Path) -> Option<Entry> {
    Table::read()
        .ok()?
        .visible(mountpoint)
        .filter(|entry| entry.ours)
        .cloned()
}

/// Undoes the table's `\ooo` escapes for blanks and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match escaped {
            Some(value) => {
                plain.push(value);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_mounts_are_found_and_their_names_unescaped() {
        let table = b"36 35 98:0 / /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
            40 35 0:50 / /mnt/my\\040model ro,nosuid - fuse.modelfs /srv/my\\040model ro,user_id=0\n\
            41 35 0:51 / /mnt/a\\134b ro shared:7 master:2 - fuse.modelfs x ro\n\
            42 35 0:52 / /mnt/other ro - fuse.sshfs modelfs ro\n\
            broken line\n";
        let table = Table::parse(table);
        let got: Vec<_> = table
            .ours()
            .map(|entry| (entry.mountpoint.as_path(), entry.device.as_str()))
            .collect();
        assert_eq!(
            got,
            [
                (Path::new("/mnt/my model"), "0:50"),
                (Path::new("/mnt/a\\b"), "0:51")
            ]
        );
    }
}
