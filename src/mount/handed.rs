//! A mount that somebody else made: a privileged program opened the device, mounted with it, and started us with
//! the descriptor. The mount point is then written `/dev/fd/N`, as libfuse has it.
//!
//! The mount and its options are that program's; that files cannot be written does not depend on them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use super::MountError;
use super::Problem;
use crate::sys;

/// The device of a mount that is there already.
#[derive(Debug)]
pub struct HandedOver {
    device: OwnedFd,
    name: PathBuf,
    seen_at: Option<PathBuf>,
}

impl HandedOver {
    /// The device that a mount point of the form `/dev/fd/N` names; `None` for any other. Asked for once, before
    /// this process opens anything of its own.
    ///
    /// # Errors
    /// When the descriptor is not open, or is no FUSE device.
    pub fn find(mountpoint: &Path) -> Result<Option<Self>, MountError> {
        let Some(number) = number(mountpoint) else {
            return Ok(None);
        };
        let failed = |problem| MountError::MountPoint {
            path: mountpoint.to_owned(),
            problem,
        };
        let about = fs::metadata(format!("/proc/self/fd/{number}")).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => failed(Problem::NoDescriptor),
            _ => failed(Problem::Io(e)),
        })?;
        if !about.file_type().is_char_device() || about.rdev() != FUSE_DEVICE {
            return Err(failed(Problem::NoFuseDevice));
        }
        let device = sys::inherited(number).map_err(|e| failed(Problem::Io(e)))?;
        Ok(Some(Self {
            device,
            name: mountpoint.to_owned(),
            seen_at: None,
        }))
    }

    /// Says where the mount is, which the device does not tell.
    pub fn seen_at(self, place: Option<PathBuf>) -> Self {
        Self {
            seen_at: place,
            ..self
        }
    }

    /// Lets a program that is started next have the device too, under the same number.
    ///
    /// # Errors
    /// What the system says.
    pub fn share(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(
            &self.device,
            rustix::io::FdFlags::empty(),
        )?)
    }

    /// The device, what it was called, and where the mount is.
    pub(super) fn into_parts(self) -> (OwnedFd, PathBuf, Option<PathBuf>) {
        (self.device, self.name, self.seen_at)
    }
}

/// The number in `/dev/fd/N`. The standard streams are nobody's mount.
fn number(mountpoint: &Path) -> Option<i32> {
    let digits = mountpoint.to_str()?.strip_prefix("/dev/fd/")?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| plain && *number > 2)
}

/// Device number of `/dev/fuse` on Linux: character device 10:229 (admin-guide/devices.txt).
const FUSE_DEVICE: u64 = 10 << 8 | 229;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_past_the_standard_streams_is_a_handed_over_device() {
        let cases = [
            ("/dev/fd/3", Some(3)),
            ("/dev/fd/17", Some(17)),
            ("/dev/fd/2", None),
            ("/dev/fd/+3", None),
            ("/dev/fd/-1", None),
            ("/dev/fd/", None),
            ("/dev/fd/3/x", None),
            ("/dev/fd/99999999999", None),
            ("dev/fd/3", None),
            ("/mnt", None),
        ];
        for (path, want) in cases {
            assert_eq!(number(Path::new(path)), want, "{path}");
        }
    }

    #[test]
    fn what_is_not_open_or_no_device_is_refused() {
        let problem = |path: &str| match HandedOver::find(Path::new(path)) {
            Err(MountError::MountPoint { problem, .. }) => Some(format!("{problem:?}")),
            _ => None,
        };
        assert_eq!(problem("/dev/fd/1000000"), Some("NoDescriptor".to_owned()));
        let file = tempfile::tempfile().unwrap();
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        assert_eq!(problem(&path), Some("NoFuseDevice".to_owned()));
        assert!(HandedOver::find(Path::new("/mnt")).unwrap().is_none());
    }
}
