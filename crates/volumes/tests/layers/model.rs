//! Trees read, compared and grafted without mounting agree with what mounted overlays show, over
//! random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use forkpoint_domain::diff::{AttributeChange, Attributes};
use forkpoint_volumes::{
    Basis, ChangeKind, Everything, FileKind, MeasureLimits, Outside, Region, Tree, TreeDiff, Under, changes, compare,
    graft, measure, measure_snapshot,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

use crate::play::{self, Op};
use crate::support::{Facade, Facts, Rig, assert_same, privately, read_mounted, read_unmounted};

/// Histories end when this time is over, so that a slow machine tests less and not longer.
const TIME: Duration = Duration::from_secs(12);

struct World {
    rig: Rig,
    template: PathBuf,
    /// An old layer from which all others descend.
    ancestor: Uuid,
}

impl World {
    fn new() -> Self {
        let rig = Rig::in_memory();
        let template = rig.path("template");
        play::make_template(&template);
        let ancestor = rig.new_layer();
        let world = Self { rig, template, ancestor };
        let p = |names: &[usize]| names.to_vec();
        world.live(
            ancestor,
            &[
                Op::Write(p(&[0, 0]), 1, 4000),
                Op::Link(p(&[0, 0]), p(&[0, 2, 1])),
                Op::Link(p(&[0, 0]), p(&[3, 2, 1])),
                Op::Rename(p(&[2]), p(&[0, 2, 4])),
                Op::Recreate(p(&[3, 2])),
                Op::Write(p(&[3, 2, 0]), 2, 10_000),
                Op::Remove(p(&[4, 0])),
                Op::Xattr(p(&[3, 2, 0]), 7),
            ],
        );
        // What the ancestor wrote must be older than its descendants by more than a tick of the clock.
        let written = SystemTime::now();
        while written.elapsed().unwrap_or_default() < Duration::from_millis(150) {
            std::thread::yield_now();
        }
        world
    }

    /// Lets a sandbox run on the layer; returns what it saw at its end.
    fn live(&self, layer: Uuid, ops: &[Op]) -> Facade {
        let mut overlay = Some(self.rig.mount(&self.template, layer));
        for op in ops {
            if matches!(op, Op::Remount) {
                drop(overlay.take());
                overlay = Some(self.rig.mount(&self.template, layer));
            }
            play::play(&overlay.as_ref().unwrap().at, op);
        }
        read_mounted(&overlay.unwrap().at)
    }

    fn see(&self, layer: Uuid) -> Facade {
        self.live(layer, &[])
    }

    fn tree(&self, layer: Uuid) -> Tree {
        self.rig.tree(&self.template, layer)
    }

    fn child(&self, of: Uuid, ops: &[Op]) -> (Uuid, Facade) {
        let layer = self.rig.snapshot(of);
        let seen = self.live(layer, ops);
        (layer, seen)
    }
}

fn run<S: Strategy>(strategy: impl Fn() -> S + Sync, test: impl Fn(&World, S::Value) + Sync) {
    privately(|| {
        let world = World::new();
        let until = Instant::now() + TIME;
        let config = Config { cases: 4, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
        let cases = std::cell::Cell::new(0);
        while Instant::now() < until {
            let one = |value| {
                cases.set(cases.get() + 1);
                test(&world, value);
                Ok(())
            };
            // One runner counts its cases over all its runs.
            TestRunner::new(config.clone()).run(&strategy(), one).unwrap();
        }
        assert!(cases.get() > 5, "only {} histories in time", cases.get());
    });
}

#[test]
fn reading_and_measuring_agree_with_mounted_overlays() {
    run(
        || (play::ops(25), play::ops(12)),
        |world, (first, second)| {
            let template = read_mounted(&world.template);
            let fresh = world.rig.new_layer();
            let seen = world.live(fresh, &first);
            let (child, seen_child) = world.child(world.ancestor, &second);
            for (layer, seen) in [(fresh, &seen), (child, &seen_child)] {
                let tree = world.tree(layer);
                assert_same(&read_unmounted(&tree, &Everything), seen, "unmounted against mounted");
                check_changes(&tree, &template, seen);
                let whole = measure(&tree, &Everything, Basis::Merged, MeasureLimits::NONE).unwrap();
                let mut once = BTreeSet::new();
                let sized = seen.iter().filter(|(_, f)| f.kind == "file");
                let bytes: usize = sized
                    .filter(|(_, f)| f.first_link.as_ref().is_none_or(|first| once.insert(first.clone())))
                    .map(|(_, f)| f.content.len())
                    .sum();
                assert_eq!(whole.size_bytes, bytes as u64);
                assert_eq!(whole.file_count as usize, seen.values().filter(|f| is_content(f)).count());
                let snapshot = uuid::Uuid::new_v4();
                world.rig.store.snapshot(layer, snapshot).unwrap();
                for basis in [Basis::Changes, Basis::Merged] {
                    let by_files = measure(&tree, &Everything, basis, MeasureLimits::NONE).unwrap();
                    let at_once =
                        measure_snapshot(&world.tree(snapshot), &Everything, basis, MeasureLimits::NONE).unwrap();
                    assert_eq!(at_once, by_files, "{basis:?}");
                }
                world.rig.store.delete(snapshot).unwrap();
            }
            let expected = difference(&seen, &seen_child, &Everything);
            for basis in [Basis::Changes, Basis::Merged] {
                let (a, b) = (world.tree(fresh), world.tree(child));
                let mut found = compare(&a, &Everything, basis, &b, &Everything, basis).unwrap();
                check_renames(&mut found, &seen, &seen_child);
                assert_eq!(found, expected, "{basis:?}");
            }
            world.rig.store.delete(fresh).unwrap();
            world.rig.store.delete(child).unwrap();
        },
    );
}

#[test]
fn comparing_relatives_within_regions_agrees_with_mounted_overlays() {
    run(
        || (play::ops(15), play::ops(15), region()),
        |world, (first, second, region)| {
            let (one, seen_one) = world.child(world.ancestor, &first);
            let (two, seen_two) = world.child(world.ancestor, &second);
            let (a, b) = (world.tree(one), world.tree(two));
            let expected = difference(&seen_one, &seen_two, &region);
            for basis in [Basis::Changes, Basis::Merged] {
                let mut found = compare(&a, &region, basis, &b, &region, basis).unwrap();
                check_renames(&mut found, &seen_one, &seen_two);
                assert_eq!(found, expected, "{basis:?}");
            }
            world.rig.store.delete(one).unwrap();
            world.rig.store.delete(two).unwrap();
        },
    );
}

#[test]
fn grafting_gives_the_region_of_one_tree_and_the_rest_of_the_other() {
    let kinds = || (play::ops(15), play::ops(15), region(), any::<bool>(), 0u8..4);
    run(kinds, |world, (first, second, region, overwrite, source)| {
        let (from_layer, mut from_seen) = world.child(world.ancestor, &first);
        let start = if source == 1 { world.rig.new_layer() } else { world.rig.snapshot(world.ancestor) };
        let onto_seen = world.live(start, &second);
        let mut from = world.tree(from_layer);
        if source == 2 {
            from.layer = None;
            from_seen = read_mounted(&world.template);
        }
        let onto = world.rig.store.path(start);
        let report = graft(&onto, &world.template, &from, &region, overwrite).unwrap();
        let result = world.see(start);
        let context = format!("region {region:?} overwrite {overwrite} {report:?}");
        assert_same(&read_unmounted(&world.tree(start), &Everything), &result, "unmounted against mounted");
        assert!(!onto.join(".trash").exists());
        for (path, facts) in onto_seen.iter().filter(|(path, _)| !region.contains(path)) {
            assert_eq!(bare(result.get(path)), bare(Some(facts)), "outside: {path:?} {context}");
        }
        assert_eq!(
            groups(&result, |p| !region.contains(p) && onto_seen.contains_key(p)),
            groups(&onto_seen, |p| !region.contains(p)),
            "links outside, {context}"
        );
        if report.conflicts == 0 {
            let expected = if overwrite {
                overwritten(&onto_seen, &from_seen, &region)
            } else {
                supplemented(&onto_seen, &from_seen, &region)
            };
            assert_same(&strip(&result), &strip(&expected), &context);
            let made = |p: &[u8]| expected.contains_key(p) && (overwrite || !onto_seen.contains_key(p));
            let new = |p: &[u8]| region.contains(p) && made(p);
            assert_eq!(groups(&result, new), groups(&from_seen, new), "links inside, {context}");
        }
        world.rig.store.delete(start).unwrap();
        world.rig.store.delete(from_layer).unwrap();
    });
}

/// Included paths minus excluded ones, and inside out.
#[derive(Debug, Clone)]
struct Scope {
    include: Under,
    exclude: Under,
    inverted: bool,
}

impl Scope {
    fn minus(&self) -> impl Region + '_ {
        Minus(&self.include, &self.exclude)
    }
}

struct Minus<'a>(&'a Under, &'a Under);

impl Region for Minus<'_> {
    fn contains(&self, path: &[u8]) -> bool {
        self.0.contains(path) && !self.1.contains(path)
    }

    fn may_contain_below(&self, dir: &[u8]) -> bool {
        self.0.may_contain_below(dir) && !self.1.contains_all_below(dir)
    }

    fn contains_all_below(&self, dir: &[u8]) -> bool {
        self.0.contains_all_below(dir) && !self.1.may_contain_below(dir)
    }
}

impl Region for Scope {
    fn contains(&self, path: &[u8]) -> bool {
        if self.inverted { Outside(self.minus()).contains(path) } else { self.minus().contains(path) }
    }

    fn may_contain_below(&self, dir: &[u8]) -> bool {
        if self.inverted { Outside(self.minus()).may_contain_below(dir) } else { self.minus().may_contain_below(dir) }
    }

    fn contains_all_below(&self, dir: &[u8]) -> bool {
        if self.inverted { Outside(self.minus()).contains_all_below(dir) } else { self.minus().contains_all_below(dir) }
    }
}

fn region() -> impl Strategy<Value = Scope> {
    let some = || prop::collection::vec(play::path().prop_map(|p| play::inside(&p)), 0..3);
    (some(), some(), any::<bool>()).prop_map(|(mut include, exclude, inverted)| {
        if include.is_empty() {
            include.push(b"/".to_vec());
        }
        Scope { include: Under(include), exclude: Under(exclude), inverted }
    })
}

fn is_content(facts: &Facts) -> bool {
    matches!(facts.kind, "file" | "symlink")
}

fn difference(a: &Facade, b: &Facade, region: &dyn Region) -> TreeDiff {
    let shown = |facade: &Facade, path: &[u8]| {
        let facts = facade.get(path).filter(|f| is_content(f) && region.contains(path));
        facts.map(|f| (f.kind, f.content.clone()))
    };
    let mut diff = TreeDiff::default();
    for path in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        match (shown(a, path), shown(b, path)) {
            (None, Some(_)) => diff.added.push(path.clone()),
            (Some(_), None) => diff.removed.push(path.clone()),
            (Some(x), Some(y)) if x != y => diff.modified.push(path.clone()),
            _ => {}
        }
        let attributes = |facade: &Facade| {
            let facts = facade.get(path).filter(|f| is_content(f) || f.kind == "directory");
            let mode = |f: &Facts| if f.kind == "symlink" { 0 } else { f.mode };
            facts.map(|f| (f.kind, Attributes { mode: mode(f), uid: f.owner.0, gid: f.owner.1 }))
        };
        if let (Some((kind, old)), Some((other, new))) = (attributes(a), attributes(b))
            && (kind, path.as_slice() != b"/", region.contains(path)) == (other, true, true)
            && old != new
        {
            diff.attributes.push(AttributeChange { path: path.clone(), old, new });
        }
    }
    diff
}

/// Takes what was moved out of a difference, after making sure that it is that, and all of it.
fn check_renames(found: &mut TreeDiff, a: &Facade, b: &Facade) {
    let content = |facade: &Facade, path: &Vec<u8>| {
        facade.get(path).filter(|f| f.kind == "file" && !f.content.is_empty()).map(|f| f.content.clone())
    };
    let count = |facade: &Facade, paths: &[Vec<u8>]| {
        let mut counted: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        paths
            .iter()
            .filter_map(|path| content(facade, path))
            .for_each(|content| *counted.entry(content).or_default() += 1);
        counted
    };
    let (went, came) = (count(a, &found.removed), count(b, &found.added));
    let expected: usize = went.iter().map(|(content, went)| came.get(content).copied().unwrap_or(0).min(*went)).sum();
    let renamed = std::mem::take(&mut found.renamed);
    assert_eq!(renamed.len(), expected, "{renamed:?}");
    let (mut from, mut to) = (BTreeSet::new(), BTreeSet::new());
    for one in renamed {
        assert!(found.removed.contains(&one.from) && found.added.contains(&one.to), "{one:?}");
        let moved = content(a, &one.from);
        assert_eq!((&moved, moved.as_ref().map(Vec::len)), (&content(b, &one.to), Some(one.size as usize)), "{one:?}");
        assert!(from.insert(one.from) && to.insert(one.to), "each file once");
    }
}

fn check_changes(tree: &Tree, template: &Facade, seen: &Facade) {
    let mut found = BTreeMap::new();
    let mut files = 0;
    changes(tree, &mut |change| {
        assert!(found.insert(change.path.to_vec(), change.kind).is_none(), "each path once");
        files += u64::from(change.now.is_some_and(|m| matches!(m.kind, FileKind::File | FileKind::Symlink)));
        Ok(())
    })
    .unwrap();
    for path in template.keys().chain(seen.keys()) {
        let kind = found.get(path).copied();
        match (template.get(path), seen.get(path)) {
            (None, Some(_)) => assert_eq!(kind, Some(ChangeKind::Added), "{path:?}"),
            (Some(_), None) => assert_eq!(kind, Some(ChangeKind::Removed), "{path:?}"),
            (Some(was), Some(now)) => {
                let dirs = was.kind == "directory" && now.kind == "directory";
                if path != b"/" && (was.mode, was.owner) != (now.mode, now.owner)
                    || !dirs && bare(Some(was)) != bare(Some(now))
                {
                    assert_eq!(kind, Some(ChangeKind::Modified), "{path:?}");
                } else {
                    assert!(matches!(kind, None | Some(ChangeKind::Modified)), "{path:?} {kind:?}");
                    assert!(!dirs || kind.is_none(), "{path:?}");
                }
            }
            (None, None) => unreachable!(),
        }
    }
    assert!(found.keys().all(|p| template.contains_key(p) || seen.contains_key(p)));
    let measured = measure(tree, &Everything, Basis::Changes, MeasureLimits::NONE).unwrap();
    assert_eq!(measured.file_count, files);
}

/// Without what depends on other paths.
fn bare(facts: Option<&Facts>) -> Option<Facts> {
    facts.map(|f| Facts { first_link: None, ..f.clone() })
}

fn strip(facade: &Facade) -> Facade {
    facade.iter().filter_map(|(path, facts)| Some((path.clone(), bare(Some(facts))?))).collect()
}

/// Which of the chosen paths share an inode.
fn groups(facade: &Facade, chosen: impl Fn(&[u8]) -> bool) -> BTreeSet<Vec<Vec<u8>>> {
    let mut by_first: BTreeMap<&[u8], Vec<Vec<u8>>> = BTreeMap::new();
    for (path, facts) in facade.iter().filter(|(path, _)| chosen(path)) {
        if let Some(first) = &facts.first_link {
            by_first.entry(first).or_default().push(path.clone());
        }
    }
    by_first.into_values().filter(|group| group.len() > 1).collect()
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir == b"/" && path != b"/" || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

fn overwritten(onto: &Facade, from: &Facade, region: &dyn Region) -> Facade {
    let mut expected = Facade::new();
    for path in onto.keys().chain(from.keys()) {
        let (old, new) = (onto.get(path), from.get(path));
        let holds =
            |facade: &Facade, inside: bool| facade.keys().any(|p| is_below(p, path) && region.contains(p) == inside);
        let facts = if region.contains(path) {
            new.or(old.filter(|_| holds(onto, false)))
        } else {
            old.or(new.filter(|f| f.kind == "directory" && holds(from, true)))
        };
        if let Some(facts) = facts {
            expected.insert(path.clone(), facts.clone());
        }
    }
    expected
}

fn supplemented(onto: &Facade, from: &Facade, region: &dyn Region) -> Facade {
    let mut expected = onto.clone();
    for (path, facts) in from {
        let at = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
        let parent: &[u8] = if at == 0 { b"/" } else { &path[..at] };
        let has_room = expected.get(parent).is_some_and(|f| f.kind == "directory");
        let on_the_way = facts.kind == "directory" && from.keys().any(|p| is_below(p, path) && region.contains(p));
        if has_room && !expected.contains_key(path) && (region.contains(path) || on_the_way) {
            expected.insert(path.clone(), facts.clone());
        }
    }
    expected
}

#[test]
fn the_template_stays_untouched() {
    privately(|| {
        let world = World::new();
        let before = read_mounted(&world.template);
        let (layer, _) = world.child(world.ancestor, &[Op::Remove(vec![0]), Op::Write(vec![1], 9, 10)]);
        let from = Tree { template: world.template.clone(), layer: None };
        graft(&world.rig.store.path(layer), &world.template, &from, &Everything, true).unwrap();
        assert_eq!(read_mounted(&world.template), before);
        assert_same(&strip(&world.see(layer)), &strip(&before), "all of it is the template's again");
    });
}

/// Overlayfs takes two sights of one inode of the template for one file: what the layer renamed
/// must not appear a second time where it came from.
#[test]
fn what_was_renamed_away_comes_back_beside_what_it_became() {
    privately(|| {
        let world = World::new();
        let layer = world.rig.new_layer();
        // `/b` is copied up, renamed and changed, `/dir` renamed as a whole.
        world.live(
            layer,
            &[
                Op::Rename(vec![1], vec![0, 1]),
                Op::Append(vec![0, 1]),
                Op::Remove(vec![0, 4]),
                Op::Rename(vec![2], vec![0, 4]),
            ],
        );
        let from = Tree { template: world.template.clone(), layer: None };
        let region = Under(vec![b"/b".to_vec(), b"/dir".to_vec()]);
        graft(&world.rig.store.path(layer), &world.template, &from, &region, true).unwrap();
        let overlay = world.rig.mount(&world.template, layer);
        for order in [["b", "a/b"], ["a/b", "b"]] {
            let [one, two] = order.map(|name| std::fs::read(overlay.at.join(name)).unwrap().len());
            let (old, new) = if order[0] == "b" { (one, two) } else { (two, one) };
            assert_eq!((old, new), (5000, 5008), "{order:?}");
        }
        let seen = read_mounted(&overlay.at);
        assert!(seen.contains_key(&b"/dir/dir/a"[..]));
        assert_eq!(bare(seen.get(&b"/dir/dir/a"[..])), bare(seen.get(&b"/a/\xff\xfe/dir/a"[..])));
    });
}
