//! A mount by somebody who is not root, through `fusermount3`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::small_model;
use crate::support;
use crate::support::MODELFS;
use crate::support::notice;
use crate::support::run;
use crate::support::signing::Layout;

/// What the user does: in a mount namespace of its own, so that the device can be opened to everybody
/// there without changing the machine.
const SCRIPT: &str = r#"
set -eu
mknod "$DIR/fuse" c 10 229
chmod 666 "$DIR/fuse"
mount --bind "$DIR/fuse" /dev/fuse
chmod 711 "$DIR"
as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups -- "$@"; }
as_nobody "$MODELFS" mount --public-key "$DIR/signer.pem" "$DIR/model.sig" "$DIR/model" "$POINT"
grep " $POINT " /proc/self/mountinfo
echo "user reads: $(as_nobody sha256sum < /dev/null > /dev/null; as_nobody cmp "$DIR/model/weights.bin" "$POINT/weights.bin" && echo same)"
cat "$POINT/weights.bin" > /dev/null 2>&1 && echo "root reads: yes" || echo "root reads: no"
pid=$(as_nobody "$MODELFS" status --json "$POINT" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
echo "owner of the server's memory: $(stat -c %u "/proc/$pid/mem")"
as_nobody "$MODELFS" unmount "$POINT"
grep " $POINT " /proc/self/mountinfo || echo "unmounted"
"#;

#[test]
fn an_ordinary_user_mounts_reads_and_unmounts() {
    if !support::can_mount() {
        return;
    }
    if !support::is_root() {
        return notice("all other mounts here are an ordinary user's; no second run as one");
    }
    for tool in ["fusermount3", "setpriv", "unshare", "mknod"] {
        if run(Command::new("which").arg(tool)).code != Some(0) {
            return notice(&format!(
                "the mount by an ordinary user was left out: there is no {tool}"
            ));
        }
    }
    let model = small_model(Layout::FILES);
    let point = model.dir().join("point");
    fs::create_dir(&point).unwrap();
    std::os::unix::fs::chown(&point, Some(65534), Some(65534)).unwrap();
    // The user may not be able to reach where cargo put the binary.
    let binary = model.dir().join("modelfs");
    fs::copy(MODELFS, &binary).unwrap();
    readable(model.dir());
    let outcome = run(Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT])
        .env("DIR", model.dir())
        .env("POINT", &point)
        .env("MODELFS", &binary)
        .env("HOME", "/nonexistent")
        .env_remove("XDG_CONFIG_HOME"));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let text = outcome.text();
    let line = text
        .lines()
        .next()
        .unwrap_or_else(|| panic!("no line of the mount table: {text}"));
    for part in ["ro,nosuid,nodev", " fuse.modelfs ", "user_id=65534"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // Not dumpable: /proc shows the process as root's, so its own user can neither debug it nor read its memory.
    let memory = "owner of the server's memory: 0";
    for said in ["user reads: same", "root reads: no", memory, "unmounted"] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

fn readable(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}
