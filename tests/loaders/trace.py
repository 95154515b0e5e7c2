"""Reads what strace wrote and says how a program read one file, and what it tried to write to a mount."""

import collections
import re

CALLS = (
    "open,openat,openat2,creat,read,pread64,readv,preadv,preadv2,mmap,munmap,mremap,madvise,fadvise64,readahead,lseek,"
    "mkdir,mkdirat,unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,truncate,ftruncate,write,"
    "pwrite64,chmod,fchmod,fchmodat,utime,utimes,utimensat,setxattr,fsetxattr,sendfile,copy_file_range,splice,flock,"
    "io_uring_setup,statfs,fstatfs,getxattr,fgetxattr,process_madvise,mlock,mlock2"
)
WRITES = re.compile(
    r"^(creat|mkdir|unlink|rename|link|symlink|truncate|ftruncate|write|pwrite64|chmod|fchmod|utime|setxattr|fsetxattr)"
)
LINE = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)\) += (.*)$")


def tracer(file):
    """The command to put before a program. Unfinished calls are joined: one file for each thread."""
    return ["strace", "-ff", "-y", "-s", "0", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(file)]


def lines(file):
    for path in sorted(file.parent.glob(file.name + ".*")):
        yield from path.read_text(errors="replace").splitlines()


def writes(file, mount):
    """The calls that would have changed something beneath the mount, with what became of them."""
    found = []
    for line in lines(file):
        call = LINE.match(line)
        if not call or str(mount) not in call[2]:
            continue
        name, arguments, result = call.groups()
        opened = name.startswith("open") and re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC)", arguments)
        if opened or (WRITES.match(name) and f"<{mount}" in arguments.split(",")[0] or result.startswith("-1 EROFS")):
            found.append(f"{name}({arguments.replace(str(mount), '')}) = {result}")
    return found


def reads(file, path):
    """How a program read the file at `path`, in a phrase."""
    opens, sizes, maps = collections.Counter(), collections.defaultdict(list), collections.defaultdict(list)
    advice, others, areas = collections.Counter(), collections.Counter(), []
    for line in lines(file):
        call = LINE.match(line)
        if not call:
            continue
        name, arguments, result = call.groups()
        if name.startswith("open") and result.endswith(f"<{path}>"):
            flags = re.search(r"O_[A-Z_|]+", arguments)[0]
            opens[flags.replace("|O_CLOEXEC", "")] += 1
        elif name == "mmap" and f"<{path}>" in arguments:
            _, length, protection, flags, *_ = arguments.split(", ")
            start = int(result.split("<")[0], 16)
            areas.append((start, start + int(length)))
            maps[f"{protection} {flags}"].append(int(length))
        elif name == "madvise" and any(start <= int(arguments.split(",")[0], 16) < end for start, end in areas):
            advice[arguments.split(", ")[2]] += 1
        elif f"<{path}>" in arguments:
            if name in ("read", "pread64", "readv", "preadv", "preadv2"):
                if result.isdigit():
                    sizes[name].append(int(result))
            elif name == "fadvise64":
                advice[arguments.split(", ")[-1]] += 1
            elif name not in ("lseek", "munmap"):
                others[name] += 1
    said = [f"open {times(flags, count)}" for flags, count in opens.items()]
    for name, results in sizes.items():
        full = [size for size in results if size]
        if full:
            said.append(f"{len(full)} {name} of {span(full)}")
    said += [f"mmap {times(kind, len(lengths))} of {span(lengths)}" for kind, lengths in maps.items()]
    said += [times(kind, count) for kind, count in advice.items()]
    said += [times(kind, count) for kind, count in others.items()]
    return "; ".join(said)


def times(what, count):
    return what if count == 1 else f"{what} ({count} times)"


def span(sizes):
    return human(sizes[0]) if min(sizes) == max(sizes) else f"{human(min(sizes))} to {human(max(sizes))}"


def human(size):
    for unit in ("B", "KiB", "MiB"):
        if size < 1024 or unit == "MiB":
            return f"{size:.0f} {unit}" if size % 1 == 0 or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
