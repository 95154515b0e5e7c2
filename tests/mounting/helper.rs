//! mount(8), umount(8) and findmnt(8) over the installed links: `mount -t modelfs`, `mount -t fuse.modelfs`, fstab.
//!
//! The links are put over /sbin in a mount namespace of the test's own, so that the machine stays as it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::small_model;
use crate::support;
use crate::support::MODELFS;
use crate::support::Outcome;
use crate::support::modelfs_command;
use crate::support::mounted::new_mount_point;
use crate::support::notice;
use crate::support::run;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

/// Installs the links, then runs a script that says what it saw, line by line.
const PRELUDE: &str = r#"
set -u
sbin=$(readlink -f /sbin)
mkdir "$DIR/sbin"
cp -a "$sbin"/mount.* "$DIR/sbin/" 2> /dev/null
cp "$MODELFS" "$DIR/sbin/modelfs"
for link in mount.modelfs mount.fuse.modelfs; do ln -s modelfs "$DIR/sbin/$link"; done
PATH="$DIR/sbin:$PATH"
# mount(8) looks nowhere else for its helpers, gives them no PATH, and keeps its notes in /run/mount.
mount --bind "$DIR/sbin" "$sbin"
mount -t tmpfs tmpfs /run
trust="public_key=$DIR/signer.pem"
served() { cmp -s "$DIR/model/weights.bin" "$POINT/weights.bin" && echo "served" || echo "not served"; }
mounts() { grep -c " $POINT " /proc/self/mountinfo; }
leave() { umount "$POINT"; echo "umount $?, mounts $(mounts)"; }
trap 'umount -l "$POINT" 2> /dev/null' EXIT
"#;

/// The lines that a script printed, in the order they came.
fn script(model: &Signed, point: &Path, script: &str) -> Option<Outcome> {
    if !support::can_mount() {
        return None;
    }
    if !support::is_root() {
        notice("mount(8) with our helper was left out: only root can put the links in a place of its own");
        return None;
    }
    Some(run(Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("{PRELUDE}{script}"))
        .env("DIR", model.dir())
        .env("POINT", point)
        .env("MODELFS", MODELFS)
        .env("HOME", "/nonexistent")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("MODELFS_POLICY")))
}

fn says(text: &str, want: &[&str]) {
    let model = small_model(Layout::FILES);
    let point = new_mount_point(model.dir());
    let Some(outcome) = script(&model, &point, text) else {
        return;
    };
    let dir = model.dir().to_str().unwrap();
    let said = outcome
        .stdout
        .replace(point.to_str().unwrap(), "POINT")
        .replace(dir, "DIR");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, want, "{outcome:?}");
}

#[test]
fn mount_by_either_type_serves_and_umount_ends_it() {
    says(
        r#"
for kind in modelfs fuse.modelfs; do
    mount -t $kind -o "$trust" "$DIR/model" "$POINT"; echo "$kind: $?, $(served)"
    findmnt -n -o FSTYPE,SOURCE,VFS-OPTIONS "$POINT" | tr -s ' '
    findmnt -n -o FS-OPTIONS "$POINT" | grep -o allow_other
    leave
done
"#,
        &[
            "modelfs: 0, served",
            "fuse.modelfs DIR/model ro,nosuid,nodev,noexec,relatime",
            "allow_other",
            "umount 0, mounts 0",
            "fuse.modelfs: 0, served",
            "fuse.modelfs DIR/model ro,nosuid,nodev,noexec,relatime",
            "allow_other",
            "umount 0, mounts 0",
        ],
    );
}

#[test]
fn a_line_in_fstab_mounts_once_and_is_what_findmnt_expects() {
    says(
        r#"
echo "$DIR/model $POINT modelfs ro,nofail,_netdev,x-systemd.device-timeout=0,comment=weights,$trust,verify=eager 0 0" > "$DIR/fstab"
findmnt --verify --tab-file "$DIR/fstab" > "$DIR/said" 2>&1; echo "findmnt: $?, $(grep -o '0 parse.*' "$DIR/said")"
grep -o '\[[WE]\].*' "$DIR/said"
echo "modelfs#$DIR/model $POINT fuse ro,nofail,$trust 0 0" > "$DIR/fstab.fuse"
findmnt --verify --tab-file "$DIR/fstab.fuse"
mount -T "$DIR/fstab.fuse" -a; echo "mount -a by mount.fuse3: $?, $(served)"
leave
mount -T "$DIR/fstab" -a; echo "mount -a: $?, $(served)"
mount -T "$DIR/fstab" -a; echo "mount -a again: $?, mounts $(mounts)"
leave
mount -T "$DIR/fstab" "$POINT"; echo "mount: $?, $(served)"
leave
mount -T "$DIR/fstab" -o verify=lazy,allow_exec,noallow_other "$POINT"; echo "mount -o: $?, $(served)"
findmnt -n -o VFS-OPTIONS "$POINT"
findmnt -n -o FS-OPTIONS "$POINT" | grep -c allow_other
leave
"#,
        &[
            // What it says of every type that it does not know itself; nothing of the options.
            "findmnt: 0, 0 parse errors, 0 errors, 3 warnings",
            "[W] non-bind mount source DIR/model is a directory or regular file",
            "[W] modelfs seems unsupported by the current kernel",
            "[W] cannot detect on-disk filesystem type (Invalid argument)",
            "Success, no errors or warnings detected",
            "mount -a by mount.fuse3: 0, served",
            "umount 0, mounts 0",
            "mount -a: 0, served",
            "mount -a again: 0, mounts 1",
            "umount 0, mounts 0",
            "mount: 0, served",
            "umount 0, mounts 0",
            "mount -o: 0, served",
            "ro,nosuid,nodev,relatime",
            "0",
            "umount 0, mounts 0",
        ],
    );
}

#[test]
fn mount_fuse_runs_us_and_can_give_our_privileges_away() {
    if run(Command::new("which").arg("mount.fuse3")).code != Some(0) {
        return notice("drop_privileges was left out: there is no mount.fuse3");
    }
    says(
        r#"
mount -t fuse -o "$trust" "modelfs#$DIR/model" "$POINT"; echo "fuse: $?, $(served)"
leave
mount -t modelfs -o "drop_privileges,$trust" "$DIR/model" "$POINT"; echo "drop_privileges: $?, $(served)"
findmnt -n -o FSTYPE,SOURCE,VFS-OPTIONS "$POINT" | tr -s ' '
pid=$(modelfs status --json "$POINT" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
grep -E '^Cap(Eff|Prm|Bnd)' "/proc/$pid/status" | tr '\t' ' '
leave
rm "$DIR/sbin/mount.fuse.modelfs"
mount -t fuse.modelfs -o "$trust" "$DIR/model" "$POINT"; echo "fuse.modelfs: $?, $(served)"
leave
"#,
        &[
            "fuse: 0, served",
            "umount 0, mounts 0",
            "drop_privileges: 0, served",
            "fuse.modelfs DIR/model ro,nosuid,nodev,noexec,relatime",
            "CapPrm: 0000000000000000",
            "CapEff: 0000000000000000",
            "CapBnd: 0000000000000000",
            "umount 0, mounts 0",
            "fuse.modelfs: 0, served",
            "umount 0, mounts 0",
        ],
    );
}

#[test]
fn a_helper_ends_with_the_codes_of_mount() {
    says(
        r#"
try() { what=$1; shift; mount "$@" 2> "$DIR/said"; echo "$what: $?, mounts $(mounts), lines $(grep -c . "$DIR/said")"; }
try "wrong option" -t modelfs -o "$trust,colour=red" "$DIR/model" "$POINT"
try "wrong value" -t modelfs -o "$trust,verify=never" "$DIR/model" "$POINT"
try "no trust" -t modelfs "$DIR/model" "$POINT"
try "fake" -f -t modelfs -o "$trust" "$DIR/model" "$POINT"
try "unreadable key" -t modelfs -o "public_key=$DIR/none" "$DIR/model" "$POINT"
try "no signature" -t modelfs -o "$trust,bundle=$DIR/none" "$DIR/model" "$POINT"
touch "$POINT/something"
try "full mount point" -t modelfs -o "$trust" "$DIR/model" "$POINT"
rm "$POINT/something"
printf x >> "$DIR/model/weights.bin"
try "wrong bytes" -t modelfs -o "$trust,verify=eager" "$DIR/model" "$POINT"
rm "$DIR/model/weights.bin"
try "missing file" -t modelfs -o "$trust" "$DIR/model" "$POINT"
try "missing file, fake" -f -t modelfs -o "$trust" "$DIR/model" "$POINT"
"#,
        &[
            "wrong option: 1, mounts 0, lines 1",
            "wrong value: 1, mounts 0, lines 1",
            "no trust: 1, mounts 0, lines 1",
            "fake: 0, mounts 0, lines 0",
            "unreadable key: 32, mounts 0, lines 1",
            "no signature: 32, mounts 0, lines 1",
            "full mount point: 32, mounts 0, lines 1",
            "wrong bytes: 32, mounts 0, lines 2",
            "missing file: 32, mounts 0, lines 2",
            "missing file, fake: 32, mounts 0, lines 2",
        ],
    );
}

#[test]
fn sloppy_mounts_ignore_what_they_do_not_know() {
    says(
        r#"
mount -s -t modelfs -o "$trust,colour=red" "$DIR/model" "$POINT"; echo "sloppy: $?, $(served)"
leave
mount.modelfs "$DIR/model" "$POINT" -v -o "$trust" 2>&1; echo "verbose: $?, $(served)"
leave
"#,
        &[
            "sloppy: 0, served",
            "umount 0, mounts 0",
            "modelfs: this is: modelfs mount --allow-other --public-key=DIR/signer.pem -- DIR/model.sig DIR/model POINT",
            "verbose: 0, served",
            "umount 0, mounts 0",
        ],
    );
}

#[test]
fn the_program_without_a_command_is_what_mount_fuse_expects() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let point = new_mount_point(model.dir());
    let key = model.dir().join("signer.pem");
    let outcome = run(modelfs_command()
        .args([&model.model, &point])
        .arg("-o")
        .arg(format!("rw,dev,suid,noallow_other,public_key={}", key.display())));
    assert_eq!((outcome.code, outcome.text()), (Some(0), String::new()));
    assert_eq!(
        fs::read(point.join("config.json")).unwrap(),
        model.content("config.json")
    );
    let gone = support::mounted::unmount(&point);
    assert_eq!(gone.code, Some(0), "{gone:?}");
}
