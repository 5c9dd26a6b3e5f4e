//! Binary hash trees over the entries of a directory (the shape of RFC 6962), and paths in them.

/// The hash over two halves.
fn inner(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut bytes = [0; 65];
    bytes[0] = 1;
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    *blake3::hash(&bytes).as_bytes()
}

/// The largest power of two below `count` (which is at least 2).
fn split(count: usize) -> usize {
    1 << (usize::BITS - 1 - (count - 1).leading_zeros())
}

/// The hash over all leaves; of none, 32 zeros.
pub(crate) fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => [0; 32],
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            inner(&root(left), &root(right))
        }
    }
}

/// The hashes beside the way from leaf `index` up to the root, lowest first.
pub(crate) fn path(leaves: &[[u8; 32]], index: usize) -> Vec<[u8; 32]> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, beside) = match index < left.len() {
        true => (path(left, index), root(right)),
        false => (path(right, index - left.len()), root(left)),
    };
    path.push(beside);
    path
}

/// The root that leaf `index` of `count` has with these hashes beside its way; `None` if their number is wrong.
pub(crate) fn climb(leaf: [u8; 32], index: usize, count: usize, beside: &[[u8; 32]]) -> Option<[u8; 32]> {
    if index >= count {
        return None;
    }
    if count == 1 {
        return beside.is_empty().then_some(leaf);
    }
    let (last, rest) = beside.split_last()?;
    let left = split(count);
    if index < left {
        Some(inner(&climb(leaf, index, left, rest)?, last))
    } else {
        Some(inner(last, &climb(leaf, index - left, count - left, rest)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_leaf_climbs_to_the_root_and_no_other_does(leaves in prop::collection::vec(any::<[u8; 32]>(), 1..40), at: usize) {
            let index = at % leaves.len();
            let beside = path(&leaves, index);
            prop_assert_eq!(climb(leaves[index], index, leaves.len(), &beside), Some(root(&leaves)));
            let mut other = leaves[index];
            other[0] ^= 1;
            prop_assert_ne!(climb(other, index, leaves.len(), &beside), Some(root(&leaves)));
            prop_assert_eq!(climb(leaves[index], index, leaves.len(), &[&beside[..], &[[0; 32]]].concat()), None);
        }
    }
}
