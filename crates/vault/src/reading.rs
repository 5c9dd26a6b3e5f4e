//! Reads the contents of many files: large ones as streams, small ones bundle by bundle; every chunk is opened,
//! hashed and handed on, and every file's digest is computed again from what came.

use crate::{
    VaultError,
    error::Result,
    fetch::{Fetcher, RUN},
    index::Place,
    object_keys::PackId,
    session::Progress,
    store::StoreError,
    tree::{Content, Piece, content::Digest},
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The most bytes in clear that one run may open to.
const RUN_CLEAR: u32 = 8 << 20;
/// Bytes between two wanted stretches that are cheaper read than skipped.
const GAP: u32 = 64 << 10;

/// A file whose content is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileJob<'a> {
    /// The caller's number for it.
    pub(crate) number: usize,
    pub(crate) content: &'a Content,
}

/// Takes contents, from several threads.
pub(crate) trait Take: Sync {
    /// Bytes of a file at an offset.
    fn write(&self, number: usize, offset: u64, bytes: &[u8]) -> Result<()>;
    /// All of the file was written, and its digest is right.
    fn done(&self, number: usize) -> Result<()>;
}

enum Task<'a> {
    Large(FileJob<'a>),
    /// Stretches close together in one pack, each with the files that are parts of it.
    Small(Vec<(Place, Vec<SmallFile<'a>>)>),
}

#[derive(Clone, Copy)]
struct SmallFile<'a> {
    job: FileJob<'a>,
    piece: Piece,
    place: Place,
    offset: u64,
}

/// Reads all `jobs`; the first failure ends it.
pub(crate) fn read_files(fetcher: &Fetcher<'_>, jobs: &[FileJob<'_>], take: &dyn Take) -> Result<()> {
    let tasks = plan(fetcher, jobs)?;
    let next = AtomicUsize::new(0);
    let threads = fetcher.vault.threads.max(fetcher.vault.store.parallelism()).min(tasks.len().max(1));
    std::thread::scope(|scope| {
        let reading: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let outcome = (|| {
                        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                            fetcher.progress.map_or(Ok(()), Progress::go_on)?;
                            match task {
                                Task::Large(job) => large(fetcher, job, take)?,
                                Task::Small(stretches) => small(fetcher, stretches, take)?,
                            }
                        }
                        Ok(())
                    })();
                    if outcome.is_err() {
                        next.store(tasks.len(), Ordering::Relaxed);
                    }
                    outcome
                })
            })
            .collect();
        let mut outcome = Ok(());
        for thread in reading {
            let ended = thread.join().unwrap_or(Err(VaultError::Broken("a thread that reads chunks panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    })
}

fn plan<'a>(fetcher: &Fetcher<'_>, jobs: &[FileJob<'a>]) -> Result<Vec<Task<'a>>> {
    let mut tasks = Vec::new();
    let mut stretches: BTreeMap<(PackId, u32), (Place, Vec<SmallFile<'a>>)> = BTreeMap::new();
    for job in jobs {
        let only = match &job.content.segments[..] {
            [segment] if segment.pieces.len() == 1 => Some((segment.offset, segment.pieces[0])),
            _ => None,
        };
        let Some((offset, piece)) = only else {
            tasks.push(Task::Large(*job));
            continue;
        };
        let place = fetcher.place(&piece.id)?;
        let file = SmallFile { job: *job, piece, place, offset };
        stretches.entry((place.pack, place.offset)).or_insert_with(|| (place, Vec::new())).1.push(file);
    }
    let mut group: Vec<(Place, Vec<SmallFile<'a>>)> = Vec::new();
    for (place, files) in stretches.into_values() {
        let fits = match (group.first(), group.last()) {
            (Some((first, _)), Some((last, _))) => {
                let clear: u32 = group.iter().map(|(place, _)| place.len).sum();
                first.pack == place.pack
                    && place.offset - (last.offset + last.stored) <= GAP
                    && place.offset + place.stored - first.offset <= RUN
                    && clear + place.len <= RUN_CLEAR
            }
            _ => true,
        };
        if !fits {
            tasks.push(Task::Small(std::mem::take(&mut group)));
        }
        group.push((place, files));
    }
    tasks.push(Task::Small(group));
    Ok(tasks)
}

fn small(fetcher: &Fetcher<'_>, stretches: &[(Place, Vec<SmallFile<'_>>)], take: &dyn Take) -> Result<()> {
    let places: Vec<Place> = stretches.iter().map(|(place, _)| *place).collect();
    match fetcher.run(&places) {
        Ok(opened) => {
            for ((_, files), stretch) in stretches.iter().zip(opened) {
                for file in files {
                    let bytes = fetcher.part(&file.place, &file.piece, &stretch)?;
                    hand_on(fetcher, file, &bytes, take)?;
                }
            }
            Ok(())
        }
        // The pack went in favour of another, or is damaged in a part; one by one they may be found.
        Err(VaultError::Store(StoreError::Missing { .. }) | VaultError::Corrupt { .. }) => {
            stretches.iter().flat_map(|(_, files)| files).try_for_each(|file| {
                let bytes = fetcher.piece(&file.piece)?;
                hand_on(fetcher, file, &bytes, take)
            })
        }
        Err(error) => Err(error),
    }
}

fn hand_on(fetcher: &Fetcher<'_>, file: &SmallFile<'_>, bytes: &[u8], take: &dyn Take) -> Result<()> {
    let content = file.job.content;
    let mut digest = Digest::new(content.size);
    digest.begin(file.offset);
    digest.update(bytes);
    check_digest(fetcher, digest, content)?;
    take.write(file.job.number, file.offset, bytes)?;
    finish(fetcher, file.job, bytes.len(), take)
}

fn finish(fetcher: &Fetcher<'_>, job: FileJob<'_>, last: usize, take: &dyn Take) -> Result<()> {
    take.done(job.number)?;
    if let Some(progress) = fetcher.progress {
        Progress::add(&progress.files_done, 1);
        Progress::add(&progress.bytes_done, last as u64);
    }
    Ok(())
}

fn check_digest(fetcher: &Fetcher<'_>, digest: Digest, content: &Content) -> Result<()> {
    if digest.finish() == content.digest {
        return Ok(());
    }
    let object = content.pieces().next().map_or_else(String::new, |piece| fetcher.object_of(&piece.id));
    Err(VaultError::corrupt(object, "a file put together from it does not have its digest"))
}

fn large(fetcher: &Fetcher<'_>, job: &FileJob<'_>, take: &dyn Take) -> Result<()> {
    let mut digest = Digest::new(job.content.size);
    for segment in &job.content.segments {
        digest.begin(segment.offset);
        let mut at = segment.offset;
        let mut rest = &segment.pieces[..];
        while !rest.is_empty() {
            fetcher.progress.map_or(Ok(()), Progress::go_on)?;
            let (run, after) = rest.split_at(run_length(fetcher, rest)?.max(1));
            for bytes in read_run(fetcher, run)? {
                digest.update(&bytes);
                take.write(job.number, at, &bytes)?;
                at += bytes.len() as u64;
                if let Some(progress) = fetcher.progress {
                    Progress::add(&progress.bytes_done, bytes.len() as u64);
                }
            }
            rest = after;
        }
    }
    check_digest(fetcher, digest, job.content)?;
    finish(fetcher, *job, 0, take)
}

/// How many of the first pieces lie one behind the other in one pack.
fn run_length(fetcher: &Fetcher<'_>, pieces: &[Piece]) -> Result<usize> {
    let first = fetcher.place(&pieces[0].id)?;
    let index = fetcher.org.index();
    let (mut end, mut clear, mut length) = (first.offset, 0, 0);
    for piece in pieces {
        let Some(place) = index.find(&piece.id) else { break };
        let next = place.part.is_none() && place.pack == first.pack && place.offset == end;
        if !next || end + place.stored - first.offset > RUN || clear + place.len > RUN_CLEAR {
            break;
        }
        (end, clear, length) = (end + place.stored, clear + place.len, length + 1);
    }
    Ok(length)
}

fn read_run(fetcher: &Fetcher<'_>, pieces: &[Piece]) -> Result<Vec<Vec<u8>>> {
    let one_by_one = || pieces.iter().map(|piece| fetcher.piece(piece)).collect();
    let places: Vec<Place> = {
        let index = fetcher.org.index();
        pieces.iter().filter_map(|piece| index.find(&piece.id)).collect()
    };
    // Places may have moved since the run was measured.
    let in_a_row =
        places.windows(2).all(|pair| pair[0].pack == pair[1].pack && pair[0].offset + pair[0].stored == pair[1].offset);
    if places.len() != pieces.len() || !in_a_row || places.iter().any(|place| place.part.is_some()) {
        return one_by_one();
    }
    match fetcher.run(&places) {
        Ok(all) if all.iter().zip(pieces).all(|(bytes, piece)| bytes.len() == piece.len as usize) => Ok(all),
        Ok(_) | Err(VaultError::Store(StoreError::Missing { .. }) | VaultError::Corrupt { .. }) => one_by_one(),
        Err(error) => Err(error),
    }
}
