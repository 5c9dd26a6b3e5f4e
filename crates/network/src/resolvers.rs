//! Finds the resolver that the gateway hands questions to.

use std::net::Ipv4Addr;
use std::path::Path;

/// Where to look, in this order: the second holds what a local stub resolver forwards to, when the
/// first names only the stub.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The resolvers of this host that another namespace can reach, best first. Empty if there are none.
pub(crate) fn of_this_host() -> Vec<Ipv4Addr> {
    in_files(FILES.iter().map(Path::new))
}

fn in_files<'a>(files: impl Iterator<Item = &'a Path>) -> Vec<Ipv4Addr> {
    files
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .map(|text| usable(&text))
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// The IPv4 name servers in the text of a `resolv.conf` that do not need the host's own loopback.
fn usable(text: &str) -> Vec<Ipv4Addr> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with(char::is_whitespace))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<Ipv4Addr>().ok())
        .filter(|address| !address.is_loopback() && !address.is_unspecified())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_other_families_are_skipped() {
        let text = "# nameserver 9.9.9.9\nnameserver 127.0.0.53\nnameserver fd00::1\n\
                    \tnameserver\t192.0.2.53 # office\nnameserver 0.0.0.0\nnameservers 1.1.1.1\noptions edns0\n";
        assert_eq!(usable(text), [Ipv4Addr::new(192, 0, 2, 53)]);
    }

    #[test]
    fn the_second_file_counts_when_the_first_names_only_a_stub() {
        let dir = tempfile::tempdir().unwrap();
        let (stub, real, missing) = (dir.path().join("stub"), dir.path().join("real"), dir.path().join("missing"));
        std::fs::write(&stub, "nameserver 127.0.0.53\n").unwrap();
        std::fs::write(&real, "nameserver 10.9.8.7\n").unwrap();
        let found = in_files([missing.as_path(), &stub, &real].into_iter());
        assert_eq!(found, [Ipv4Addr::new(10, 9, 8, 7)]);
        assert!(in_files([missing.as_path(), &stub].into_iter()).is_empty());
    }
}
