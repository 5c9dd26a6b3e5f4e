//! A checkpoint on its way out: everything is read twice, first for the digests and sizes that stand before the layers,
//! then for the layers themselves. So nothing is kept on disk or in memory, and the length is known beforehand.

use std::io::{self, BufWriter, Write};

use forkpoint_domain::env::Environment;
use forkpoint_engine::ports::portable::Lineage;
use forkpoint_vault::hash_tree;
use forkpoint_volumes::Tree;

use crate::emit::{END, Hashing, write_padding};
use crate::layers::{self, Which};
use crate::layout::{Documents, Layer, layer_header};
use crate::{Error, Result, Stop};

const BUFFER: usize = 256 << 10;

/// An archive that can be written.
#[derive(Debug)]
pub struct Export {
    tree: Tree,
    lineage: Lineage,
    documents: Documents,
    which: Vec<Which>,
    layers: Vec<Layer>,
}

impl Export {
    /// Looks a checkpoint's tree through, a template with a layer that nothing changes until the archive is written.
    /// Without `with_template` the image has only what was changed.
    ///
    /// # Errors
    /// [`Error::WrongHash`] if `lineage` has a hash that the layer does not have; with none, it is computed here.
    pub fn prepare(
        tree: Tree,
        mut lineage: Lineage,
        env: Option<&Environment>,
        with_template: bool,
        stop: Stop<'_>,
    ) -> Result<Self> {
        let upper = tree.layer.as_ref().map(|layer| layer.join("upper"));
        let upper = upper.ok_or_else(|| Error::NotACheckpoint("it has no layer".into()))?;
        let found = hash_tree(&upper, stop)?.to_string();
        if !lineage.checksum.is_empty() && lineage.checksum != found {
            return Err(Error::WrongHash { expected: lineage.checksum, found });
        }
        lineage.checksum = found;
        let mut which = vec![Which::Changes];
        if with_template {
            which.insert(0, Which::Template);
        }
        let mut described = Vec::new();
        for one in &which {
            let mut hashing = Hashing::new(None);
            let mut buffered = BufWriter::with_capacity(BUFFER, &mut hashing);
            layers::write(*one, &tree, &mut buffered, stop)?;
            buffered.flush().map_err(Error::io("hash a layer"))?;
            drop(buffered);
            let (digest, size) = hashing.finish();
            described.push(Layer { digest, size });
        }
        let documents = Documents::new(&lineage, env, &described)?;
        Ok(Self { tree, lineage, documents, which, layers: described })
    }

    /// The hash of the checkpoint's tree.
    #[must_use]
    pub fn checksum(&self) -> &str {
        &self.lineage.checksum
    }

    /// Bytes of the whole archive.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.documents.archive_size(&self.layers)
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// [`Error::Changed`] if a layer is not what it was; what was written then is too short to be taken for whole.
    pub fn write(&self, to: &mut dyn Write, stop: Stop<'_>) -> Result<()> {
        let failed = |error: io::Error| Error::io("write the archive")(error);
        let mut to = BufWriter::with_capacity(BUFFER, to);
        self.documents.write(&mut to).map_err(failed)?;
        for (which, layer) in self.which.iter().zip(&self.layers) {
            to.write_all(&layer_header(layer)).map_err(failed)?;
            let mut hashing = Hashing::new(Some(&mut to));
            let mut buffered = BufWriter::with_capacity(BUFFER, &mut hashing);
            layers::write(*which, &self.tree, &mut buffered, stop)?;
            buffered.flush().map_err(failed)?;
            drop(buffered);
            let (digest, size) = hashing.finish();
            if (Layer { digest, size }) != *layer {
                return Err(Error::Changed(match which {
                    Which::Template => "template",
                    Which::Changes => "layer",
                }));
            }
            write_padding(&mut to, layer.size).map_err(failed)?;
        }
        to.write_all(&END).map_err(failed)?;
        to.flush().map_err(failed)
    }
}
