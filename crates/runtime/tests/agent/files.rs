//! File calls.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use forkpoint_runtime::agent_client::*;

use crate::harness::*;

const NOBODY: u32 = 65534;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn files_are_written_with_parents_owner_and_mode() {
    let agent = Agent::start();
    block_on(async {
        let entry = agent.client.write_bytes(WriteSpec::new(agent.path("a/b/c.txt")), "hello").await.unwrap();
        assert_eq!((entry.kind, entry.size, entry.mode, entry.uid), (EntryKind::File, 5, 0o644, NOBODY));
        assert_eq!((entry.user.as_str(), entry.path), ("nobody", agent.path("a/b/c.txt")));
        assert_eq!(fs::read(agent.file("a/b/c.txt")).unwrap(), b"hello");
        for dir in ["a", "a/b"] {
            let meta = fs::metadata(agent.file(dir)).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (NOBODY, 0o755), "{dir}");
        }
        let spec = WriteSpec { owner: Some("12:34".into()), mode: Some(0o4750), ..WriteSpec::new(agent.path("set")) };
        let entry = agent.client.write_bytes(spec, "x").await.unwrap();
        assert_eq!((entry.uid, entry.gid, entry.mode), (12, 34, 0o4750));
        let spec = WriteSpec { make_parents: false, ..WriteSpec::new(agent.path("no/file")) };
        assert_eq!(kind(agent.client.write_bytes(spec, "x").await), ErrorKind::NotFound);
        let spec = WriteSpec { owner: Some("no-such".into()), ..WriteSpec::new(agent.path("y")) };
        assert_eq!(kind(agent.client.write_bytes(spec, "x").await), ErrorKind::NoSuchUser);
    });
}

#[test]
fn an_existing_file_keeps_mode_and_owner_and_is_replaced_in_one_step() {
    let agent = Agent::start();
    block_on(async {
        let file = agent.file("f");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o751)).unwrap();
        std::os::unix::fs::chown(&file, Some(7), Some(8)).unwrap();
        let old = fs::File::open(&file).unwrap();
        let entry = agent.client.write_bytes(WriteSpec::new(agent.path("f")), "new content").await.unwrap();
        assert_eq!((entry.mode, entry.uid, entry.gid), (0o751, 7, 8));
        assert_eq!(fs::read(&file).unwrap(), b"new content");
        // Who has the old one open still reads the old one.
        assert_eq!(std::io::read_to_string(old).unwrap(), "old");

        let append = WriteSpec { disposition: WriteDisposition::Append, ..WriteSpec::new(agent.path("f")) };
        agent.client.write_bytes(append.clone(), " and more").await.unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new content and more");
        agent.client.write_bytes(WriteSpec { path: agent.path("g"), ..append }, "made").await.unwrap();
        assert_eq!((fs::read(agent.file("g")).unwrap(), mode(&agent.file("g"))), (b"made".to_vec(), 0o644));
        let new = WriteSpec { disposition: WriteDisposition::CreateNew, ..WriteSpec::new(agent.path("f")) };
        assert_eq!(kind(agent.client.write_bytes(new, "x").await), ErrorKind::Exists);
    });
}

#[test]
fn an_unfinished_write_leaves_the_old_file_and_nothing_else() {
    let agent = Agent::start();
    block_on(async {
        fs::create_dir(agent.file("d")).unwrap();
        fs::write(agent.file("d/f"), "old").unwrap();
        let failing = futures::stream::iter([
            Ok(Bytes::from(vec![b'x'; 3 << 20])),
            Err(std::io::Error::other("the source broke")),
        ]);
        let result = agent.client.write_file(WriteSpec::new(agent.path("d/f")), failing).await;
        assert!(matches!(result, Err(AgentError::Source(_))), "{result:?}");
        let only_old = || {
            let names: Vec<_> =
                fs::read_dir(agent.file("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names == ["f"]
        };
        eventually("the removal of the unfinished file", only_old).await;
        assert_eq!(fs::read(agent.file("d/f")).unwrap(), b"old");
    });
}

#[test]
fn links_are_followed_and_what_is_no_file_is_refused() {
    let agent = Agent::start();
    block_on(async {
        fs::write(agent.file("target"), "t").unwrap();
        symlink("target", agent.file("link")).unwrap();
        symlink("nowhere", agent.file("dangling")).unwrap();
        symlink("loop", agent.file("loop")).unwrap();
        agent.client.write_bytes(WriteSpec::new(agent.path("link")), "through").await.unwrap();
        assert!(fs::symlink_metadata(agent.file("link")).unwrap().is_symlink());
        assert_eq!(fs::read(agent.file("target")).unwrap(), b"through");
        agent.client.write_bytes(WriteSpec::new(agent.path("dangling")), "made").await.unwrap();
        assert_eq!(fs::read(agent.file("nowhere")).unwrap(), b"made");
        assert_eq!(kind(agent.client.write_bytes(WriteSpec::new(agent.path("loop")), "x").await), ErrorKind::Invalid);

        fs::create_dir(agent.file("dir")).unwrap();
        agent.sh(&format!("mkfifo -m 666 {}", agent.file("fifo").display())).await;
        for (name, expected) in [("dir", ErrorKind::IsADirectory), ("fifo", ErrorKind::Invalid)] {
            let write = agent.client.write_bytes(WriteSpec::new(agent.path(name)), "x").await;
            assert_eq!(kind(write), expected, "{name}");
            assert_eq!(kind(agent.client.read_file(&agent.path(name), 0, None).await), expected, "{name}");
        }
        assert_eq!(kind(agent.client.read_file(b"/dev/zero", 0, None).await), ErrorKind::Invalid);
        assert_eq!(kind(agent.client.write_bytes(WriteSpec::new("/dev/null"), "x").await), ErrorKind::Invalid);
        assert_eq!(kind(agent.client.write_bytes(WriteSpec::new("/"), "x").await), ErrorKind::Invalid);
        assert_eq!(kind(agent.client.read_file(&agent.path("no"), 0, None).await), ErrorKind::NotFound);
        assert_eq!(kind(agent.client.read_file(b"relative", 0, None).await), ErrorKind::Invalid);
        assert_eq!(kind(agent.client.stat(b"/a\0b", true).await), ErrorKind::Invalid);
    });
}

#[test]
fn parts_of_files_are_read() {
    let agent = Agent::start();
    block_on(async {
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i / 3) as u8).collect();
        fs::write(agent.file("f"), &data).unwrap();
        for (offset, len) in [
            (0, None),
            (10, Some(20)),
            (999_990, Some(100)),
            (2_000_000, None),
            (5, Some(0)),
            (1, Some(262_144)),
            (0, Some(262_145)),
        ] {
            let file = agent.client.read_file(&agent.path("f"), offset, len).await.unwrap();
            assert_eq!(file.meta().size, 1_000_000);
            let start = (offset as usize).min(data.len());
            let end = len.map_or(data.len(), |len| (start + len as usize).min(data.len()));
            assert!(content(file).await == data[start..end], "{offset} {len:?}");
        }
        let file = agent.client.read_file(b"/proc/self/status", 0, None).await.unwrap();
        assert!(content(file).await.starts_with(b"Name:"));
    });
}

#[test]
fn a_gigabyte_passes_both_ways_in_constant_memory() {
    let agent = Agent::start();
    block_on(async {
        const PIECE: usize = 1 << 20;
        const PIECES: usize = 1024;
        let piece = Bytes::from((0..PIECE).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        let source = futures::stream::iter((0..PIECES).map(|_| Ok(piece.clone())));
        let started = Instant::now();
        let entry = agent.client.write_file(WriteSpec::new(agent.path("big")), source).await.unwrap();
        let written = started.elapsed();
        assert_eq!(entry.size, (PIECE * PIECES) as u64);
        let started = Instant::now();
        let mut file = agent.client.read_file(&agent.path("big"), 0, None).await.unwrap();
        let mut at = 0;
        while let Some(part) = file.next().await.unwrap() {
            let start = at % PIECE;
            let end = (start + part.len()).min(PIECE);
            assert!(part[..end - start] == piece[start..end], "differs at {at}");
            at += part.len();
        }
        assert_eq!(at, PIECE * PIECES);
        let most = agent.memory_kib("VmHWM");
        println!("1 GiB: written in {written:?}, read in {:?}, most memory {most} KiB", started.elapsed());
        assert!(most < 20 * 1024, "{most} KiB");
    });
}

#[test]
fn listings_are_ordered_and_bounded() {
    let agent = Agent::start();
    block_on(async {
        fs::create_dir_all(agent.file("d/b/deep")).unwrap();
        for name in ["d/c", "d/a", "d/b/x", "d/b/deep/y"] {
            fs::write(agent.file(name), name).unwrap();
        }
        symlink("/etc", agent.file("d/z")).unwrap();
        fs::write(agent.file("d").join(std::ffi::OsStr::from_bytes(b"\xff\n")), "").unwrap();
        let names = |listing: Listing| -> Vec<String> {
            let base = agent.path("d/").len();
            listing.entries.iter().map(|entry| String::from_utf8_lossy(&entry.path[base..]).into_owned()).collect()
        };
        let flat = agent.client.list(&agent.path("d"), 1, 100).await.unwrap();
        assert!(!flat.truncated);
        assert_eq!(flat.entries[3].target.as_deref(), Some(&b"/etc"[..]));
        assert_eq!(flat.entries[3].kind, EntryKind::Symlink);
        assert_eq!(names(flat), ["a", "b", "c", "z", "\u{fffd}\n"]);
        let all = agent.client.list(&agent.path("d/"), 9, 100).await.unwrap();
        assert_eq!(names(all), ["a", "b", "b/deep", "b/deep/y", "b/x", "c", "z", "\u{fffd}\n"]);
        let two = agent.client.list(&agent.path("d"), 2, 100).await.unwrap();
        assert_eq!(names(two), ["a", "b", "b/deep", "b/x", "c", "z", "\u{fffd}\n"]);
        let cut = agent.client.list(&agent.path("d"), 9, 3).await.unwrap();
        assert!(cut.truncated);
        assert_eq!(names(cut), ["a", "b", "b/deep"]);
        let exact = agent.client.list(&agent.path("d"), 1, 5).await.unwrap();
        assert!(!exact.truncated && exact.entries.len() == 5);
        assert_eq!(kind(agent.client.list(&agent.path("d/a"), 1, 9).await), ErrorKind::NotADirectory);
        assert_eq!(kind(agent.client.list(&agent.path("no"), 1, 9).await), ErrorKind::NotFound);
    });
}

#[test]
fn a_directory_of_ten_thousand_files_is_listed() {
    let agent = Agent::start();
    block_on(async {
        fs::create_dir(agent.file("many")).unwrap();
        for i in 0..10_000 {
            fs::write(agent.file(&format!("many/{i:05}")), "").unwrap();
        }
        let all = agent.client.list(&agent.path("many"), 1, u32::MAX).await.unwrap();
        assert_eq!((all.entries.len(), all.truncated), (10_000, false));
        assert!(all.entries.is_sorted_by(|a, b| a.path < b.path));
        agent.client.remove(&agent.path("many"), true).await.unwrap();
        assert!(!agent.file("many").exists());
    });
}

#[test]
fn patterns_find_what_shells_would() {
    let agent = Agent::start();
    block_on(async {
        fs::create_dir_all(agent.file("g/sub/deep")).unwrap();
        for name in ["g/a.log", "g/b.log", "g/c.txt", "g/sub/d.log", "g/sub/deep/e.log", "g/[x]"] {
            fs::write(agent.file(name), "").unwrap();
        }
        let base = agent.file("g").to_str().unwrap().to_owned();
        let find = async |pattern: &str| -> Vec<String> {
            let listing = agent.client.glob(&format!("{base}/{pattern}"), 100).await.unwrap();
            let short = |entry: &Entry| String::from_utf8_lossy(&entry.path[base.len() + 1..]).into_owned();
            listing.entries.iter().map(short).collect()
        };
        assert_eq!(find("*.log").await, ["a.log", "b.log"]);
        assert_eq!(find("**/*.log").await, ["a.log", "b.log", "sub/d.log", "sub/deep/e.log"]);
        assert_eq!(find("*/*.log").await, ["sub/d.log"]);
        assert_eq!(find("{a,c}.*").await, ["a.log", "c.txt"]);
        assert_eq!(find("[ab].log").await, ["a.log", "b.log"]);
        assert_eq!(find("c.txt").await, ["c.txt"]);
        assert_eq!(find("sub").await, ["sub"]);
        assert_eq!(find("\\[x\\]").await, ["[x]"]);
        assert_eq!(find("no/such/*").await, [""; 0]);
        let cut = agent.client.glob(&format!("{base}/**"), 2).await.unwrap();
        assert!(cut.truncated && cut.entries.len() == 2);
        assert_eq!(kind(agent.client.glob("relative/*", 9).await), ErrorKind::Invalid);
        assert_eq!(kind(agent.client.glob("/a/[", 9).await), ErrorKind::Invalid);
        let started = Instant::now();
        agent.client.glob("/proc/*/stat", 9).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn directories_are_made_and_described() {
    let agent = Agent::start();
    block_on(async {
        let mkdir = async |name: &str, mode, parents| agent.client.mkdir(&agent.path(name), mode, parents, None).await;
        let entry = mkdir("m", Some(0o1770), false).await.unwrap();
        assert_eq!((entry.kind, entry.mode, entry.uid), (EntryKind::Directory, 0o1770, NOBODY));
        assert_eq!(kind(mkdir("m", None, false).await), ErrorKind::Exists);
        assert_eq!(kind(mkdir("x/y", None, false).await), ErrorKind::NotFound);
        mkdir("m", None, true).await.unwrap();
        mkdir("x/y/z", None, true).await.unwrap();
        assert_eq!(mode(&agent.file("x/y/z")), 0o755);
        fs::write(agent.file("file"), "").unwrap();
        assert_eq!(kind(mkdir("file", None, true).await), ErrorKind::Exists);
        assert_eq!(kind(mkdir("file/under", None, true).await), ErrorKind::NotADirectory);
        symlink("m", agent.file("to-m")).unwrap();
        let stat = async |follow| agent.client.stat(&agent.path("to-m"), follow).await.unwrap().kind;
        assert_eq!((stat(true).await, stat(false).await), (EntryKind::Directory, EntryKind::Symlink));
        assert_eq!(agent.client.stat(b"/", false).await.unwrap().kind, EntryKind::Directory);
    });
}

#[test]
fn moves_replace_only_when_told_and_cross_mounts() {
    let agent = Agent::start();
    block_on(async {
        fs::write(agent.file("a"), "a").unwrap();
        fs::write(agent.file("b"), "b").unwrap();
        let mv = async |from: &str, to: &str, overwrite| {
            agent.client.rename(&agent.path(from), &agent.path(to), overwrite).await
        };
        assert_eq!(kind(mv("a", "b", false).await), ErrorKind::Exists);
        assert_eq!(mv("a", "b", true).await.unwrap().path, agent.path("b"));
        assert_eq!(fs::read(agent.file("b")).unwrap(), b"a");
        assert_eq!(kind(mv("a", "c", true).await), ErrorKind::NotFound);
        fs::create_dir_all(agent.file("d/e")).unwrap();
        assert_eq!(kind(mv("d", "d/e/f", true).await), ErrorKind::Invalid);

        let other = tempfile::tempdir_in("/dev/shm").unwrap();
        if fs::metadata(other.path()).unwrap().dev() == fs::metadata(agent.dir.path()).unwrap().dev() {
            panic!("/dev/shm must be another file system than {}", agent.dir.path().display());
        }
        fs::write(agent.file("d/e/f"), "f").unwrap();
        let target = other.path().join("moved");
        let moved = target.as_os_str().as_bytes();
        agent.client.rename(&agent.path("d"), moved, false).await.unwrap();
        assert_eq!(fs::read(target.join("e/f")).unwrap(), b"f");
        assert!(!agent.file("d").exists());
        fs::create_dir(agent.file("d")).unwrap();
        assert_eq!(kind(agent.client.rename(&agent.path("d"), moved, false).await), ErrorKind::Exists);
        assert_eq!(kind(agent.client.rename(&agent.path("d"), moved, true).await), ErrorKind::NotEmpty);
    });
}

#[test]
fn copies_are_true_to_the_source() {
    let agent = Agent::start();
    block_on(async {
        fs::create_dir_all(agent.file("src/sub")).unwrap();
        fs::write(agent.file("src/f"), "content").unwrap();
        fs::set_permissions(agent.file("src/f"), fs::Permissions::from_mode(0o4711)).unwrap();
        std::os::unix::fs::chown(agent.file("src/f"), Some(5), Some(6)).unwrap();
        fs::set_permissions(agent.file("src/f"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("f", agent.file("src/link")).unwrap();
        let sparse = fs::File::create(agent.file("src/sub/sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"middle", 1 << 29).unwrap();
        agent.run(as_root(sh(&format!("mkfifo {}", agent.file("src/fifo").display())))).await;
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789);
        for path in ["src/f", "src/sub"] {
            fs::File::open(agent.file(path)).unwrap().set_modified(long_ago).unwrap();
        }
        fs::set_permissions(agent.file("src/sub"), fs::Permissions::from_mode(0o500)).unwrap();

        agent.client.copy(&agent.path("src"), &agent.path("dst"), false).await.unwrap();
        let meta = fs::metadata(agent.file("dst/f")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (5, 6, 0o4711));
        assert_eq!(meta.modified().unwrap(), long_ago);
        assert_eq!(fs::metadata(agent.file("dst/sub")).unwrap().modified().unwrap(), long_ago);
        assert_eq!(mode(&agent.file("dst/sub")), 0o500);
        assert_eq!(fs::read_link(agent.file("dst/link")).unwrap().to_str(), Some("f"));
        assert!(fs::symlink_metadata(agent.file("dst/fifo")).unwrap().file_type().is_fifo());
        let copy = fs::File::open(agent.file("dst/sub/sparse")).unwrap();
        let mut middle = [0; 6];
        std::os::unix::fs::FileExt::read_exact_at(&copy, &mut middle, 1 << 29).unwrap();
        let meta = copy.metadata().unwrap();
        assert_eq!((&middle, meta.len()), (b"middle", 1 << 30));
        assert!(meta.blocks() * 512 < 16 << 20, "holes were filled: {} blocks", meta.blocks());

        let copy = async |from: &str, to: &str, overwrite| {
            agent.client.copy(&agent.path(from), &agent.path(to), overwrite).await
        };
        assert_eq!(kind(copy("src", "dst", false).await), ErrorKind::Exists);
        copy("src", "dst", true).await.unwrap();
        assert_eq!(kind(copy("src", "src/sub/into", true).await), ErrorKind::Invalid);
        assert_eq!(kind(copy("src/f", "src/f", true).await), ErrorKind::Invalid);
        assert_eq!(kind(copy("src/f", "dst/sub", true).await), ErrorKind::IsADirectory);
        assert_eq!(kind(copy("no", "dst2", true).await), ErrorKind::NotFound);
        assert_eq!(fs::read(agent.file("src/f")).unwrap(), b"content");
    });
}

#[test]
fn removal_takes_links_not_their_targets_and_any_depth() {
    let agent = Agent::start();
    block_on(async {
        fs::create_dir_all(agent.file("keep")).unwrap();
        fs::write(agent.file("keep/f"), "").unwrap();
        fs::create_dir_all(agent.file("r/sub")).unwrap();
        symlink("../keep", agent.file("r/link")).unwrap();
        let remove = async |name: &str, recursive| agent.client.remove(&agent.path(name), recursive).await;
        assert_eq!(kind(remove("r", false).await), ErrorKind::NotEmpty);
        remove("r/link", false).await.unwrap();
        symlink("../keep", agent.file("r/link")).unwrap();
        // Deeper than one path can say, and than recursion would survive.
        let mut deep = fs::File::open(agent.file("r/sub")).unwrap();
        let name = "x".repeat(200);
        for _ in 0..1500 {
            use rustix::fs::{Mode, OFlags};
            rustix::fs::mkdirat(&deep, &name, Mode::from_raw_mode(0o755)).unwrap();
            deep = rustix::fs::openat(&deep, &name, OFlags::DIRECTORY, Mode::empty()).unwrap().into();
        }
        remove("r", true).await.unwrap();
        assert!(!agent.file("r").exists());
        assert!(agent.file("keep/f").exists());
        assert_eq!(kind(remove("r", true).await), ErrorKind::NotFound);
        assert_eq!(kind(agent.client.remove(b"/", true).await), ErrorKind::Invalid);
        assert_eq!(kind(agent.client.remove(b"/proc", true).await), ErrorKind::Busy);
    });
}

#[test]
fn names_of_any_bytes_work_everywhere() {
    let agent = Agent::start();
    block_on(async {
        let name = [&agent.path("")[..], b"\xff \n\t'\"$(x)\\"].concat();
        agent.client.write_bytes(WriteSpec::new(name.clone()), "odd").await.unwrap();
        assert_eq!(agent.client.stat(&name, true).await.unwrap().size, 3);
        let copy = [&name[..], b"2"].concat();
        agent.client.copy(&name, &copy, false).await.unwrap();
        assert_eq!(content(agent.client.read_file(&copy, 0, None).await.unwrap()).await, b"odd");
        agent.client.remove(&name, false).await.unwrap();
        agent.client.rename(&copy, &name, false).await.unwrap();
    });
}

#[test]
fn a_full_disk_is_no_space_and_nothing_is_left() {
    let script = r#"mkdir "$0/small" && mount -t tmpfs -o size=4m none "$0/small" && exec "$@""#;
    let dir = tempfile::tempdir().unwrap();
    let wrapper = ["unshare", "--mount", "/bin/bash", "-c", script, dir.path().to_str().unwrap()];
    let agent = Agent::start_with(&wrapper, |_| {});
    block_on(async {
        let small = dir.path().join("small");
        let file = small.join("f");
        let spec = WriteSpec::new(file.as_os_str().as_bytes());
        let parts = (0..8).map(|_| vec![1; 1 << 20]).collect();
        assert_eq!(kind(agent.client.write_file(spec.clone(), pieces(parts)).await), ErrorKind::NoSpace);
        assert!(agent.client.list(small.as_os_str().as_bytes(), 1, 9).await.unwrap().entries.is_empty());
        agent.client.write_bytes(spec, vec![1; 1 << 20]).await.unwrap();
    });
}

#[test]
fn a_file_that_something_is_mounted_on_is_filled_in_place() {
    let script = r#"touch "$0/m" "$0/other" && mount --bind "$0/other" "$0/m" && exec "$@""#;
    let dir = tempfile::tempdir().unwrap();
    let wrapper = ["unshare", "--mount", "/bin/bash", "-c", script, dir.path().to_str().unwrap()];
    let agent = Agent::start_with(&wrapper, |_| {});
    block_on(async {
        let path = dir.path().join("m").as_os_str().as_bytes().to_vec();
        agent.client.write_bytes(WriteSpec::new(path), "filled").await.unwrap();
        assert_eq!(fs::read(dir.path().join("other")).unwrap(), b"filled");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    });
}

#[test]
fn trees_swapped_for_links_under_a_removal_are_not_followed() {
    let agent = Agent::start();
    block_on(async {
        fs::create_dir(agent.file("precious")).unwrap();
        for i in 0..50 {
            fs::write(agent.file(&format!("precious/{i}")), "").unwrap();
        }
        let swap = format!(
            "cd {}; while :; do mkdir -p t/a; touch t/a/1 t/a/2; mv t/a t/b 2>/dev/null; ln -s ../precious t/a; rm -f t/a; mv t/b t/a; done 2>/dev/null",
            agent.dir.path().display()
        );
        let swapper = agent.client.exec(as_root(sh(&swap))).await.unwrap();
        for _ in 0..300 {
            // Whether it comes to an end in this race is open.
            let _ = agent.client.remove(&agent.path("t"), true).await;
        }
        drop(swapper);
        assert_eq!(fs::read_dir(agent.file("precious")).unwrap().count(), 50);
    });
}
