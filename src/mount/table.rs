//! The mount table: which models are mounted where.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::TYPE;

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) mountpoint: PathBuf,
    /// Whether it is of our type.
    pub(super) ours: bool,
    /// The device number that the kernel gave to this very mount, as `major:minor`.
    pub(super) device: String,
}

/// All models that are mounted in this namespace, in the order of the mount table.
///
/// # Errors
/// When the mount table cannot be read.
pub fn mounted() -> io::Result<Vec<PathBuf>> {
    let ours = entries()?.into_iter().filter(|entry| entry.ours);
    Ok(ours.map(|entry| entry.mountpoint).collect())
}

/// What a name at this place leads to: the last of the mounts there covers the others.
pub(super) fn topmost(mountpoint: &Path) -> Option<Entry> {
    entries()
        .ok()?
        .into_iter()
        .rev()
        .find(|entry| entry.mountpoint == mountpoint)
}

/// The model that is mounted here, unless something else covers it.
pub(super) fn find(mountpoint: &Path) -> Option<Entry> {
    topmost(mountpoint).filter(|entry| entry.ours)
}

fn entries() -> io::Result<Vec<Entry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// proc_pid_mountinfo(5): the third field is the device, the fifth the mount point, the one after the
/// separator the type.
fn parse(table: &[u8]) -> Vec<Entry> {
    let of_line = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-")?;
        Some(Entry {
            mountpoint: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
            ours: fields
                .get(separator + 1)
                .is_some_and(|kind| *kind == TYPE.as_bytes()),
            device: String::from_utf8_lossy(fields.get(2)?).into_owned(),
        })
    };
    table.split(|&byte| byte == b'\n').filter_map(of_line).collect()
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
        let ours = parse(table).into_iter().filter(|entry| entry.ours);
        let got: Vec<_> = ours.map(|entry| (entry.mountpoint, entry.device)).collect();
        let want = [("/mnt/my model", "0:50"), ("/mnt/a\\b", "0:51")];
        assert_eq!(
            got,
            want.map(|(path, device)| (PathBuf::from(path), device.to_owned()))
        );
    }
}
